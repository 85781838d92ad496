package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/internal/capture"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

// capturing connects with --capture and returns the file.
func capturing(t *testing.T, serveArgs, dialArgs []string) (pair, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "capture")
	p := connect(t, serveArgs, args(dialArgs, []string{"--capture", file}))
	return p, file
}

// A captured handshake is shown with the evidence that was encrypted in it, and
// appraised as it was on the connection.
func TestCapturedHandshakes(t *testing.T) {
	only := []string{"--credential", "attestation-only", "--allow-attestation-only"}
	draft := []string{"--binding", "draft-08"}
	tdx, snp := []string{"--attest", "softtee:tdx"}, []string{"--attest", "softtee:snp"}
	soft := verifySoftTEE()[2:]
	clientCA := []string{"--client-ca", pki("ca.pem")}
	early, early03 := []string{"--mode", "early"}, []string{"--mode", "early", "--early-form", "03"}
	both := []string{"--mode", "combined", "--early-form", "06"}
	otherPolicy := []string{"--policy", filepath.Join(t.TempDir(), "policy")}
	if err := os.WriteFile(otherPolicy[1], []byte(`{"tdx": {"mrtd": ["`+strings.Repeat("0", 96)+`"]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		serve, dial []string
		verify      []string
		ok          bool // the connection
		status      int  // of atls verify
		inspect     string
		say         string
	}{
		{"TDX", args(identity(), tdx), verifySoftTEE(), soft, true, 0, "MRTD", "verdict: affirming"},
		{"SNP", args(identity(), snp), verifySoftTEE(), soft, true, 0, "MEASUREMENT", "binding: as expected"},
		{"draft-08", args(identity(), tdx, draft), args(verifySoftTEE(), draft), soft, true, 0, "rule: draft-08", "binding: as expected"},
		{"attestation-only", args(tdx, only), args(verifySoftTEE(), only), soft, true, 0, "key attestation token", "verdict: affirming"},
		{"attestation-only, draft-08", args(tdx, only, draft), args(verifySoftTEE(), only, draft), soft, true, 0, "nonce", "verdict: affirming"},
		{"both", args(identity(), clientCA, verifySoftTEE(), tdx), args(clientIdentity(), snp, verifySoftTEE()), soft, true, 0, "evidence_proposal", "verdict: affirming"},
		{"two keys", args(identity(), tdx, []string{"--attested-key", "new"}), args(verifySoftTEE(), []string{"--peer-attested-key"}), soft, true, 0, "CertificateVerify", "verdict: affirming"},
		{"passport", args(identity(), []string{"--attest", "results:" + pki("results.json")}), []string{"--verify", "results", "--trust-roots", pki("verifiers.json")},
			[]string{"--trust-roots", pki("verifiers.json")}, true, 0, "trustworthiness vector", "verdict: affirming"},
		{"early", args(identity(), tdx, early), args(verifySoftTEE(), early), soft, true, 0, "chosen: evidence application/vnd.veraison.tsm-report+cbor", "binding: as expected"},
		{"early, both", args(identity(), clientCA, verifySoftTEE(), tdx, early), args(clientIdentity(), snp, verifySoftTEE(), early), soft, true, 0, "of the client: evidence", "verdict: affirming"},
		{"early, client", args(identity(), clientCA, verifySoftTEE(), early), args(clientIdentity(), tdx, early), soft, true, 0, "chosen: evidence", "binding: as expected"},
		{"early, passport", args(identity(), []string{"--attest", "results:" + pki("results.json")}, early), args([]string{"--verify", "results", "--trust-roots", pki("verifiers.json")}, early),
			[]string{"--trust-roots", pki("verifiers.json")}, true, 0, "trustworthiness vector", "binding: as expected"},
		{"early, other roots", args(identity(), tdx, early), args(verifySoftTEE(), early), soft[2:], true, 3, "rule: early", "because: the server's: "},
		{"early, does not attest", identity(), args(verifySoftTEE(), early), soft, false, 3, "of the server: evidence", "nobody attests in it"},
		{"early-03", args(identity(), tdx, early03), args(verifySoftTEE(), early03), soft, true, 0, "evidence_request", "binding: as expected"},
		{"early-03, both", args(identity(), clientCA, verifySoftTEE(), tdx, early03), args(clientIdentity(), snp, verifySoftTEE(), early03), soft, true, 0, "evidence_proposal", "verdict: affirming"},
		{"early-03, passport", args(identity(), []string{"--attest", "results:" + pki("results.json")}, early03), args([]string{"--verify", "results", "--trust-roots", pki("verifiers.json")}, early03),
			[]string{"--trust-roots", pki("verifiers.json")}, true, 0, "trustworthiness vector", "binding: as expected"},
		{"early-03, policy", args(identity(), tdx, early03), args(verifySoftTEE()[:6], otherPolicy, early03), args(soft[:4], otherPolicy), false, 4, "alert: 49", "because: the server's: "},
		{"combined, early", args(identity(), tdx, both), args(verifySoftTEE(), both), soft, true, 0, "remoteAttestation", "verdict: affirming"},
		{"other roots", args(identity(), tdx), verifySoftTEE(), soft[2:], true, 3, "MRTD", "because: the server's: "},
		{"policy", args(identity(), tdx), args(verifySoftTEE()[:6], otherPolicy), args(soft[:4], otherPolicy), false, 4, "alert: 49", "because: the server's: "},
		{"other rules", args(identity(), tdx), args(verifySoftTEE(), draft), soft, false, 3, "alert: 42", "configured for draft-08"},
		{"does not attest", identity(), verifySoftTEE(), soft, false, 3, "alert: 109", "nobody attests in it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, file := capturing(t, c.serve, c.dial)
			if p.c["ok"] != c.ok {
				t.Fatalf("%v", p.c)
			}
			e := atls(t, "", "inspect", file)
			if e.status != 0 || !strings.Contains(e.stdout, c.inspect) {
				t.Errorf("inspect: status %d: %s%s; want %q", e.status, e.stdout, e.stderr, c.inspect)
			}
			e = atls(t, "", append([]string{"verify", file}, c.verify...)...)
			if e.status != c.status || !strings.Contains(e.stdout, c.say) {
				t.Errorf("verify: status %d: %s%s; want %d and %q", e.status, e.stdout, e.stderr, c.status, c.say)
			}
			e = atls(t, "", append([]string{"verify", "--json", file}, c.verify...)...)
			var object struct {
				OK    bool
				Kind  string
				Error *string
			}
			if err := json.Unmarshal([]byte(e.stdout), &object); err != nil || object.Kind != kindCapture || object.OK != (c.status == 0) || (object.Error == nil) != object.OK {
				t.Errorf("%v: %s", err, e.stdout)
			}
			// It has the secrets of the handshake and none of application data.
			b, err := os.ReadFile(file)
			info, _ := os.Stat(file)
			if err != nil || info.Mode().Perm() != 0o600 || strings.Contains(string(b), "TRAFFIC_SECRET_0") {
				t.Errorf("%v, %v: %.200s", err, info.Mode(), b)
			}
		})
	}
}

// Evidence is appraised where the handshake asked for it, in whichever form.
func TestCapturedEvidenceThatNobodyHasAskedFor(t *testing.T) {
	for _, rule := range []attestext.Binding{attestext.BindingHardened, attestext.BindingEarly} {
		h := &handshake{capture: &capture.Capture{Binders: []capture.Binder{{Role: attestext.RoleServer, Binding: rule, Value: make([]byte, 32)}}}}
		err := new(appraiser).appraiseSent(t.Context(), h, &sentCertificate{role: attestext.RoleServer, evidence: []byte{1}}, new(outcome))
		if !errors.Is(err, attestext.ErrBinding) || !strings.Contains(err.Error(), "nobody has asked for") {
			t.Errorf("%v: %v", rule, err)
		}
	}
}

func TestCaptureWithoutItsKeys(t *testing.T) {
	_, file := capturing(t, args(identity(), []string{"--attest", "softtee:tdx"}), verifySoftTEE())
	b := contents(t, file)
	var kept []string
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "key ") {
			kept = append(kept, line)
		}
	}
	text := strings.Join(kept, "")
	if e := atls(t, text, "verify", "-"); e.status != 3 || !strings.Contains(e.stdout, "no key that decrypts") || !strings.Contains(e.stdout, "refused (none)") {
		t.Errorf("status %d: %s", e.status, e.stdout)
	}
	if e := atls(t, text, "inspect", "-"); e.status != 0 || !strings.Contains(e.stdout, "encrypted, not looked into") {
		t.Errorf("status %d: %s", e.status, e.stdout)
	}
	damaged := strings.Replace(string(b), "\n< 16", "\n< 17", 1)
	if e := atls(t, damaged, "inspect", "-"); e.status != 2 && e.status != 0 {
		t.Errorf("status %d: %s", e.status, e.stderr)
	}
	if e := atls(t, "atls capture 1\n> xx\n", "inspect", "-"); e.status != 2 || !strings.Contains(e.stderr, "line 2") {
		t.Errorf("status %d: %s", e.status, e.stderr)
	}
}

// What is signed and travels is shown, by itself and in its wrapper.
func TestTokensAreShownAndAppraised(t *testing.T) {
	held := contents(t, pki("results.json"))
	var file struct{ Results []struct{ Result string } }
	if err := json.Unmarshal(held, &file); err != nil {
		t.Fatal(err)
	}
	token := file.Results[0].Result
	wrapped, err := ear.Wrap([]byte(token))
	if err != nil {
		t.Fatal(err)
	}
	verifiers := []string{"--trust-roots", pki("verifiers.json")}
	other := writeKey(t, softtee.NewResultsIssuer(&softtee.ResultsOptions{Seed: "other"}).PublicKeyPEM())
	ch := &attestext.Challenge{Role: attestext.RoleServer, Kind: attestext.AttestationOnly, Binding: attestext.BindingDraft08, Nonce: make([]byte, 32)}
	ch.SPKI = mustSPKI(t)
	bundle, err := softtee.NewTDX(nil).Attester().Attest(t.Context(), &attestext.AttestRequest{Type: attestext.EvidenceType{Kind: ch.Kind, Format: eat.BundleFormat}, Challenge: ch})
	if err != nil {
		t.Fatal(err)
	}
	kat, _, err := eat.ParseBundle(bundle)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := (&cmw.Record{Format: attestext.EvidenceFormat{MediaType: "application/eat+cwt"}, Value: kat}).CBOR()
	if err != nil {
		t.Fatal(err)
	}
	const jws = "eyJhbGciOiJFUzI1NiJ9.eyJhIjoxfQ.AAAA"
	for _, c := range []struct {
		name, stdin string
		kind        string
		inspect     string
		verify      []string
		status      int
		say         string
	}{
		{"EAR", token, kindEAR, "tier, the worst that it says: affirming", verifiers, 0, "verdict: affirming"},
		{"EAR in a CMW", string(wrapped), kindCMW, "trustworthiness vector", verifiers, 0, "verdict: affirming"},
		{"EAR, no key", token, kindEAR, "issuer", nil, 3, "no key of its verifier"},
		{"EAR, other key", token, kindEAR, "expires", []string{"--trust-roots", other}, 3, "no trusted key"},
		{"EAR, expired", token, kindEAR, "attested key (SPKI)", append([]string{"--at", "2060-01-01T00:00:00Z"}, verifiers...), 3, "because"},
		{"KAT", string(kat), kindCOSE, "key attestation token", nil, 3, "on which platform"},
		{"KAT in a CMW", string(signed), kindCMW, "payload", nil, 3, "because"},
		{"COSE_Sign1", "\xd2\x84\x43\xa1\x01\x26\xa0\x43\xa1\x01\x02\x41\x00", kindCOSE, "payload: {1: 2}", nil, 3, "on which platform"},
		{"CWT", "\xd8\x3d\xd2\x84\x43\xa1\x01\x26\xa0\x43\xa1\x0a\x02\x41\x00", kindCOSE, "payload: {10: 2}", nil, 3, "on which platform"},
		{"JWS", jws, kindJWS, `payload: {"a":1}`, nil, 3, "on which platform"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := atls(t, c.stdin, "inspect", "-")
			if e.status != 0 || !strings.Contains(e.stdout, c.inspect) {
				t.Errorf("inspect: status %d: %s%s", e.status, e.stdout, e.stderr)
			}
			e = atls(t, c.stdin, "inspect", "-", "--json")
			if !strings.Contains(e.stdout, `"kind":"`+c.kind+`"`) {
				t.Errorf("inspect: %s", e.stdout)
			}
			e = atls(t, c.stdin, append([]string{"verify", "-"}, c.verify...)...)
			if e.status != c.status || !strings.Contains(e.stdout, c.say) {
				t.Errorf("verify: status %d: %s%s", e.status, e.stdout, e.stderr)
			}
		})
	}
}

func mustSPKI(t *testing.T) []byte {
	t.Helper()
	b, err := readSPKI(pki("cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzInspect feeds every parser behind inspect and verify: nothing may panic, whatever
// a file holds.
func FuzzInspect(f *testing.F) {
	for _, name := range []string{"quote.bin", "evidence.cmw", "snp-evidence.cmw", "collateral.json", "results.json"} {
		b, err := os.ReadFile(pki(name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("eyJhbGciOiJFUzI1NiJ9.eyJhIjoxfQ.AAAA"))
	f.Add([]byte("atls capture 1\n> 16030300080100000400000000\n< 15030300020228\n"))
	f.Add([]byte("\xd2\x84\x43\xa1\x01\x26\xa0\x43\xa1\x01\x02\x41\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		d, err := detect(b)
		if err != nil {
			return
		}
		if _, err := json.Marshal(d.tree()); err != nil {
			t.Error(err)
		}
	})
}
