package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
)

// withQuoteAge is verifySoftTEE with a member about the age of quotes in the policy.
func withQuoteAge(t *testing.T, member string) []string {
	t.Helper()
	b, err := os.ReadFile(pki("policy.json"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), "{", "{"+member+",", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return args(verifySoftTEE(), []string{"--policy", path})
}

// One quote serves in each mode, direction and credential, if the policy of the relying
// party allows it, which is told how old it is.
func TestKeyTier(t *testing.T) {
	anyAge := withQuoteAge(t, `"insecure_allow_unknown_quote_age": true`)
	tier := []string{"--attest", "softtee:tdx", "--key-tier", "10m"}
	only := []string{"--credential", "attestation-only", "--allow-attestation-only"}
	clientCA := []string{"--client-ca", pki("ca.pem")}
	for _, c := range []struct {
		name        string
		serve, dial []string
		client      bool // attests
	}{
		{"server", args(identity(), tier), anyAge, false},
		{"server, SNP", args(identity(), []string{"--attest", "softtee:snp", "--key-tier", "10m"}), anyAge, false},
		{"server, attestation-only", args(tier, only), args(anyAge, only), false},
		{"server, two keys", args(identity(), tier, []string{"--attested-key", "new"}), args(anyAge, []string{"--peer-attested-key"}), false},
		{"client", args(identity(), clientCA, anyAge), args(clientIdentity(), tier), true},
		{"server, after the handshake", args(identity(), tier, []string{"--mode", "post-handshake"}), args(anyAge, []string{"--mode", "post-handshake"}), false},
		{"server, early", args(identity(), tier, []string{"--mode", "early"}), args(anyAge, []string{"--mode", "early"}), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := connect(t, c.serve, c.dial)
			p.ok(t)
			object := p.c
			if c.client {
				object = p.s
			}
			peer := object["peer"].(map[string]any)
			claims := peer["claims"].(map[string]any)
			if peer["verdict"] != "warning" || claims["platform_evidence_tier"] != "unknown" || claims["platform_evidence_age"] != "unknown" {
				t.Errorf("peer is %v", peer)
			}
		})
	}
	p, file := capturing(t, args(identity(), tier), anyAge)
	p.ok(t)
	if e := atls(t, "", "inspect", file); e.status != 0 || !strings.Contains(e.stdout, "nothing that dates it (tier unknown)") {
		t.Errorf("inspect: status %d: %s%s", e.status, e.stdout, e.stderr)
	}
	for _, refuses := range [][]string{verifySoftTEE(), withQuoteAge(t, `"max_quote_age": "1h"`)} {
		p := connect(t, args(identity(), tier), refuses)
		if p.dialer.status != 4 || p.c["alert_sent"] != 49.0 || !strings.Contains(p.dialer.stderr, "the quote does not show when it was made, want a quote that shows its age") {
			t.Errorf("status %d: %s%s", p.dialer.status, p.dialer.stdout, p.dialer.stderr)
		}
	}
}

// A server has one key quoted, and people are told of which tier it is.
func TestOneQuoteServesManyConnections(t *testing.T) {
	anyAge := withQuoteAge(t, `"insecure_allow_unknown_quote_age": true`)
	for _, c := range []struct {
		flags []string
		keys  int
		say   string
	}{
		{[]string{"--key-tier", "10m"}, 1, "quote          unknown, unknown"},
		{nil, 0, "quote          fresh quote, this session"},
	} {
		r := serve(t, args(identity(), []string{"--attest", "softtee:tdx"}, c.flags)...)
		keys := map[string]bool{}
		for range 2 {
			file := filepath.Join(t.TempDir(), "capture")
			if e := atls(t, "hello\n", args([]string{"dial", r.addr, "--ca", pki("ca.pem"), "--capture", file}, anyAge)...); e.status != 0 || !strings.Contains(e.stderr, c.say) {
				t.Errorf("status %d: %s", e.status, e.stderr)
			}
			if _, key, ok := strings.Cut(atls(t, "", "inspect", file).stdout, "signed by:"); ok {
				keys[key[:100]] = true
			}
		}
		if len(keys) != c.keys {
			t.Errorf("%v: %d keys were quoted, want %d", c.flags, len(keys), c.keys)
		}
	}
}

// A proxy sets up again and again. What fails leaves nothing running, which the bubble
// would wait for.
func TestFailedSetupLeavesNothingRunning(t *testing.T) {
	for _, c := range []struct {
		codePoints string
		ok         bool
	}{{"", true}, {pki("policy.json"), false}} {
		synctest.Test(t, func(t *testing.T) {
			var f connFlags
			fs := newFlagSet("serve")
			f.register(fs)
			if err := fs.Parse(args(identity(), []string{"--attest", "softtee:tdx", "--key-tier", "10m", "--code-points", c.codePoints})); err != nil {
				t.Fatal(err)
			}
			s, err := f.setup(true)
			if (err == nil) != c.ok {
				t.Fatal(err)
			}
			if err == nil {
				s.close()
			}
		})
	}
}

func TestKeyTierMistakes(t *testing.T) {
	tier := args([]string{"serve", "--key-tier", "10m"}, identity())
	checkMistakes(t, []mistake{
		{tier, 1, "--key-tier is for --attest of a TEE or a TPM"},
		{args(tier, []string{"--attest", "results:" + pki("results.json")}), 1, "a result is no quote"},
		{args(tier, []string{"--attest", execCommand("attest")}), 1, "a command decides by itself"},
		{args(tier, []string{"--attest", "softtee:tdx", "--quote-queue", "5"}), 1, "--key-tier goes with neither"},
		{args(tier, []string{"--attest", "softtee:tdx", "--key-tier", "1ms"}), 1, "a second at least"},
		{args(tier, []string{"--attest", "softtee:tdx", "--key-tier", "-1m"}), 1, "a second at least"},
		{args(tier, []string{"--attest", "softtee:tdx", "--key-tier", "10"}), 1, "key-tier"},
		{args(tier, []string{"--attest", "softtee:tdx", "--evidence-type", "application/vnd.veraison.tsm-report+cbor"}), 1, "does not know the evidence type"},
	})
}
