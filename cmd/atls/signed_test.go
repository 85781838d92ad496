package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext/cmw/signed"
	"github.com/attestedtls/atls/internal/testpki"
)

func TestSignedWrappers(t *testing.T) {
	key := testpki.Key("signer")
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := tempFile(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	roots := contents(t, pki("trust-roots.pem"))
	trusted := tempFile(t, "trusted.pem", slices.Concat(roots, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: testpki.SPKI(key)})))
	verify := func(roots string) []string {
		return []string{"--trust-roots", roots, "--collateral", pki("collateral.json"), "--policy", pki("policy.json")}
	}
	serve := args(identity(), []string{"--attest", "softtee:tdx", "--wrapper-key", keyFile})
	for name, dial := range map[string][]string{"": nil, ", type chosen": {"--evidence-type", "275"}} {
		t.Run("accepted"+name, func(t *testing.T) {
			p := connect(t, serve, args([]string{"--verify", "local"}, verify(trusted), dial))
			p.ok(t)
			attested(t, p.c)
		})
	}
	after := []string{"--mode", "post-handshake"}
	later := connect(t, args(serve, after), args([]string{"--verify", "local"}, verify(trusted), after))
	later.ok(t)
	later.same(t, true)
	p := connect(t, serve, args([]string{"--verify", "local"}, verify(pki("trust-roots.pem"))))
	if p.dialer.status != 3 || p.c["alert_sent"] != 42.0 || !strings.Contains(p.dialer.stdout, "nobody's key is trusted") {
		t.Errorf("status %d: %s", p.dialer.status, p.dialer.stdout)
	}

	captured, file := capturing(t, serve, args([]string{"--verify", "local"}, verify(trusted)))
	captured.ok(t)
	if e := atls(t, "", "inspect", file); e.status != 0 || !strings.Contains(e.stdout, kindSigned) || !strings.Contains(e.stdout, "MRTD") {
		t.Errorf("captured: status %d: %s%s", e.status, e.stdout, e.stderr)
	}
	if e := atls(t, "", args([]string{"verify", file}, verify(trusted))...); e.status != 0 || !strings.Contains(e.stdout, "verdict: affirming") {
		t.Errorf("captured: status %d: %s%s", e.status, e.stdout, e.stderr)
	}

	for _, name := range []string{"evidence.cmw", "snp-evidence.cmw"} {
		b, err := signed.Sign(contents(t, pki(name)), key, []byte("key 1"))
		if err != nil {
			t.Fatal(err)
		}
		file := tempFile(t, name, b)
		e := atls(t, "", "inspect", file)
		if e.status != 0 || !strings.HasPrefix(e.stdout, "not verified") || !strings.Contains(e.stdout, "ES256") || !strings.Contains(e.stdout, "key 1") {
			t.Errorf("%s: status %d: %s%s", name, e.status, e.stdout, e.stderr)
		}
		var object struct{ Kind string }
		e = atls(t, "", "inspect", file, "--json")
		if err := json.Unmarshal([]byte(e.stdout), &object); err != nil || object.Kind != kindSigned {
			t.Errorf("%v: %s", err, e.stdout)
		}
		if e := atls(t, "", args([]string{"verify", file}, verify(trusted))...); e.status != 0 || !strings.Contains(e.stdout, "verdict: affirming") {
			t.Errorf("%s: status %d: %s%s", name, e.status, e.stdout, e.stderr)
		}
		if e := atls(t, "", args([]string{"verify", file}, verify(pki("trust-roots.pem")))...); e.status != 3 || !strings.Contains(e.stdout, "nobody's key is trusted") {
			t.Errorf("%s, not trusted: status %d: %s%s", name, e.status, e.stdout, e.stderr)
		}
		b[len(b)-1] ^= 1
		if e := atls(t, string(b), args([]string{"verify", "-"}, verify(trusted))...); e.status != 3 {
			t.Errorf("%s, changed: status %d: %s%s", name, e.status, e.stdout, e.stderr)
		}
	}
	id := identity()
	checkMistakes(t, []mistake{
		{args([]string{"serve", "--wrapper-key", keyFile}, id), 1, "--wrapper-key is for"},
		{args([]string{"serve", "--attest", "results:x", "--wrapper-key", keyFile}, id), 1, "--wrapper-key is for"},
		{args([]string{"serve", "--attest", "softtee:tdx", "--wrapper-key", pki("policy.json")}, id), 2, "no PEM"},
		{[]string{"inspect", tempFile(t, "bad", []byte{0xd2, 0x84, 0x40})}, 2, "signed CMW"},
	})
}
