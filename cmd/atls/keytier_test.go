package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
)

// withQuoteAge is verifySoftTEE with a member about the age of quotes in the policy.
func withQuoteAge(t *testing.T, member string) []string {
	t.Helper()
	b := contents(t, pki("policy.json"))
	path := tempFile(t, "policy.json", []byte(strings.Replace(string(b), "{", "{"+member+",", 1)))
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
			p.same(t, true)
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

// A verifier issues epoch IDs, a server has its quotes cover them, and a client is shown
// how old a quote is by the issuer that it trusts.
func TestQuotesAreDatedByAnIssuer(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "epochs.pem")
	// It says by which key its IDs are verified, and has the same one the next time.
	service := args(verifySoftTEE()[2:], []string{"--epochs", key})
	v := start(t, "verifier", service...)
	v.stop()
	_, issuer, ok := strings.Cut(v.end().stderr, "relying parties verify them by\n")
	if !ok {
		t.Fatal(v.end().stderr)
	}
	roots := contents(t, pki("trust-roots.pem"))
	trusting := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(trusting, append(roots, issuer...), 0o600); err != nil {
		t.Fatal(err)
	}
	v = start(t, "verifier", service...)
	tier := []string{"--attest", "softtee:tdx", "--key-tier", "10m", "--epoch-from", "http://" + v.addr + "/epoch"}
	hour := args(withQuoteAge(t, `"max_quote_age": "1h"`), []string{"--trust-roots", trusting})

	p, file := capturing(t, args(identity(), tier), hour)
	p.ok(t)
	attested(t, p.c)
	claims := p.c["peer"].(map[string]any)["claims"].(map[string]any)
	age, _ := claims["platform_evidence_max_age_seconds"].(float64)
	if said, _ := claims["platform_evidence_age"].(string); claims["platform_evidence_tier"] != "key tier" || !strings.HasPrefix(said, "at most ") || age <= 0 || age > testTimeout.Seconds() {
		t.Errorf("claims %v", claims)
	}
	e := atls(t, "", "inspect", file)
	for _, say := range []string{"the epoch of the ID beside it (key tier)", "epoch began, by its own word: 20"} {
		if e.status != 0 || !strings.Contains(e.stdout, say) {
			t.Errorf("inspect does not say %s: status %d: %s%s", say, e.status, e.stdout, e.stderr)
		}
	}
	if e := atls(t, "", args([]string{"verify", file}, hour[2:])...); e.status != 0 || !strings.Contains(e.stdout, "of the key tier, and 1h0m0s are allowed") {
		t.Errorf("verify: status %d: %s%s", e.status, e.stdout, e.stderr)
	}
	for _, c := range []struct {
		name, say string
		dial      []string
	}{
		{"fresh quotes are wanted", "want one made for this session, or max_quote_age in the policy", args(verifySoftTEE(), []string{"--trust-roots", trusting})},
		{"too old", "want 1ns at most", args(withQuoteAge(t, `"max_quote_age": "1ns"`), []string{"--trust-roots", trusting})},
		{"the issuer is not trusted", "this side trusts nobody to date it", withQuoteAge(t, `"max_quote_age": "1h"`)},
	} {
		p := connect(t, args(identity(), tier), c.dial)
		if p.dialer.status != 4 || p.c["alert_sent"] != 49.0 || !strings.Contains(p.dialer.stderr, c.say) {
			t.Errorf("%s: status %d: %s%s", c.name, p.dialer.status, p.dialer.stdout, p.dialer.stderr)
		}
	}

	// The service goes on being a verifier beside that.
	connect(t, args(identity(), []string{"--attest", "softtee:tdx"}), []string{"--verify", "veraison:http://" + v.addr}).ok(t)

	v.stop()
	v.end()
	checkMistakes(t, []mistake{
		{args([]string{"serve"}, identity(), tier), 3, "/epoch"},
		{args([]string{"serve"}, identity(), tier, []string{"--epoch-from", "verifier.example"}), 1, "--epoch-from"},
		{args([]string{"serve", "--attest", "softtee:tdx", "--epoch-from", "http://127.0.0.1:1/epoch"}, identity()), 1, "--epoch-from is for --key-tier"},
		{[]string{"verifier", "--epochs", pki("key.pem")}, 1, "signed with Ed25519"},
		{[]string{"verifier", "--epochs", pki("policy.json")}, 2, "no PEM"},
		{args([]string{"dial", "127.0.0.1:1"}, verifySoftTEE(), []string{"--trust-roots", key}), 2, "no key that vouches for evidence"},
	})
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
			s, err := f.setup(t.Context(), true)
			if (err == nil) != c.ok {
				t.Fatal(err)
			}
			if err == nil {
				s.close()
			}
		})
	}
}

// What has to answer before there is anything to show is named.
func TestSetupNeedsItsServices(t *testing.T) {
	nobody := "http://" + freeAddr(t)
	checkMistakes(t, []mistake{
		{args([]string{"serve"}, identity(), []string{"--attest", "softtee:tdx", "--key-tier", "10m", "--epoch-from", nobody}), 3, "hint: it begins with a quote"},
		{args([]string{"serve"}, identity(), []string{"--attest", "results:" + filepath.Join(t.TempDir(), "results.json"), "--refresh-with", "softtee:tdx", "--refresh-from", nobody}), 3, "hint: there is no result"},
	})
}

// Who interrupts a command that waits for an issuer or a service does not wait for it as
// well.
func TestSetupEndsWhenItIsInterrupted(t *testing.T) {
	for _, flags := range [][]string{
		{"--attest", "softtee:tdx", "--key-tier", "10m", "--epoch-from"},
		{"--attest", "results:" + filepath.Join(t.TempDir(), "results.json"), "--refresh-with", "softtee:tdx", "--refresh-from"},
	} {
		ctx, interrupt := context.WithCancel(t.Context())
		hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			interrupt()
			<-r.Context().Done()
		}))
		var f connFlags
		fs := newFlagSet("serve")
		f.register(fs)
		if err := fs.Parse(args(identity(), flags, []string{hangs.URL})); err != nil {
			t.Fatal(err)
		}
		if s, err := f.setup(ctx, true); !errors.Is(err, context.Canceled) || hint(err) != "" {
			t.Errorf("%v: %v, %v, hint %q", flags, s, err, hint(err))
		}
		hangs.Close()
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
