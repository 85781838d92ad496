package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/softtee"
)

// jwk returns the key that atls verifier says its results are signed with.
func jwk(t *testing.T, e exited) string {
	t.Helper()
	_, rest, _ := strings.Cut(e.stderr, "results are signed by ")
	key, _, _ := strings.Cut(rest, "\n")
	if _, err := ear.ParseJWK([]byte(key)); err != nil {
		t.Fatalf("%v in %q", err, e.stderr)
	}
	return key
}

func TestConnectionsAppraisedByService(t *testing.T) {
	softTEE := []string{"--attest", "softtee:tdx"}
	only := []string{"--credential", "attestation-only", "--allow-attestation-only"}
	clientCA := []string{"--client-ca", pki("ca.pem")}
	v := start(t, "verifier", verifySoftTEE()[2:]...)
	veraison := []string{"--verify", "veraison:http://" + v.addr}
	for _, c := range []struct {
		name           string
		serve, dial    []string
		server, client bool // who attests
	}{
		{"server", args(identity(), softTEE), veraison, true, false},
		{"server, SEV-SNP", args(identity(), []string{"--attest", "softtee:snp"}), veraison, true, false},
		{"server, draft-08", args(identity(), softTEE, []string{"--binding", "draft-08"}), args(veraison, []string{"--binding", "draft-08"}), true, false},
		{"server, type chosen", args(identity(), softTEE), args(veraison, []string{"--evidence-type", "application/vnd.veraison.tsm-report+json"}), true, false},
		{"server, attestation-only", args(softTEE, only), args(veraison, only), true, false},
		{"both", args(identity(), clientCA, veraison, softTEE), args(clientIdentity(), softTEE, veraison), true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := connect(t, c.serve, c.dial)
			p.ok(t)
			if c.server {
				attested(t, p.c)
			}
			if c.client {
				attested(t, p.s)
			}
		})
	}
	v.stop()
	e := v.end()
	if e.status != 0 {
		t.Errorf("status %d: %s", e.status, e.stderr)
	}
	jwk(t, e)
	lines := strings.Split(strings.TrimSpace(e.stdout), "\n")
	if len(lines) != 7 {
		t.Errorf("it says %q of 7 pieces of evidence", lines)
	}
	for _, line := range lines {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) != nil || m["ok"] != true || m["verdict"] != "affirming" || m["error"] != nil {
			t.Errorf("it says %s", line)
		}
	}
}

func TestConnectionsRefusedByService(t *testing.T) {
	serveArgs := args(identity(), []string{"--attest", "softtee:tdx"})
	key := filepath.Join(t.TempDir(), "key.pem")
	accepts := args(verifySoftTEE()[2:], []string{"--key", key})
	good := start(t, "verifier", accepts...)
	otherRoots := tempFile(t, "roots.pem", softtee.NewTDX(&softtee.TDXOptions{Seed: "other"}).RootsPEM())
	otherPolicy := tempFile(t, "policy.json", []byte(`{"tdx": {"mrtd": ["`+strings.Repeat("0", 96)+`"]}}`))
	collateral := []string{"--collateral", pki("collateral.json")}
	roots := []string{"--trust-roots", pki("trust-roots.pem")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for _, c := range []struct {
		name   string
		addr   string
		dial   []string
		alert  float64
		status int
		say    string
	}{
		{"other roots", start(t, "verifier", args(collateral, []string{"--trust-roots", otherRoots})...).addr, nil, 42, 3, "not genuine"},
		{"policy", start(t, "verifier", args(collateral, roots, []string{"--policy", otherPolicy})...).addr, nil, 49, 4, "contraindicated"},
		{"no policy", start(t, "verifier", args(collateral, roots)...).addr, nil, 49, 4, "warning"},
		{"no collateral", start(t, "verifier", roots...).addr, nil, 80, 3, "status 500"},
		{"not there", l.Addr().String(), nil, 80, 3, "cannot be reached"},
		{"another key is pinned", good.addr, []string{"--trust-roots", writeKey(t, softtee.NewResultsIssuer(nil).PublicKeyPEM())}, 80, 3, "no trusted key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := connect(t, serveArgs, args([]string{"--verify", "veraison:http://" + c.addr}, c.dial))
			text, _ := p.c["error"].(string)
			if p.c["alert_sent"] != c.alert || p.s["alert_received"] != c.alert || p.c["stage"] != "appraise" || p.dialer.status != c.status || !strings.Contains(text, c.say) {
				t.Errorf("status %d: %s", p.dialer.status, p.dialer.stdout)
			}
		})
	}
	// The key was made, and is the same the next time.
	good.stop()
	first := jwk(t, good.end())
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	again := start(t, "verifier", accepts...)
	connect(t, serveArgs, []string{"--verify", "veraison:http://" + again.addr, "--trust-roots", writeKey(t, []byte(first+"\n"))}).ok(t)
	again.stop()
	if second := jwk(t, again.end()); second != first {
		t.Errorf("key %s, then %s", first, second)
	}
}

func writeKey(t *testing.T, b []byte) string {
	t.Helper()
	return tempFile(t, "key", b)
}

func TestVerifierCannotListen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if e := atls(t, "", "verifier", "--listen", l.Addr().String()); e.status != 5 {
		t.Errorf("status %d: %s", e.status, e.stderr)
	}
}
