package main

import (
	"bytes"
	"crypto/sha256"
	stdtls "crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
)

const (
	intelQuote      = "../../attestext/tdx/testdata/intel_spr_e4.quote"
	intelCollateral = "../../attestext/tdx/testdata/intel_spr_e4.collateral.json"
	intelTime       = "2023-07-01T01:00:00Z"

	amdReport = "../../attestext/sevsnp/testdata/amd_milan.report"
	amdVCEK   = "../../attestext/sevsnp/testdata/amd_milan.vcek.der"
)

func TestInspect(t *testing.T) {
	quote := contents(t, pki("quote.bin"))
	snp := contents(t, amdReport)
	for _, c := range []struct {
		file, stdin, kind, say string
	}{
		{pki("quote.bin"), "", "TDX quote", "MRTD"},
		{intelQuote, "", "TDX quote", "6363b8043668a3ad"},
		{"-", string(quote), "TDX quote", "Intel SGX PCK Certificate"},
		{"-", string(quote) + "\x00\x00", "TDX quote", "MRTD"},
		{pki("evidence.cmw"), "", "CMW", "REPORTDATA"},
		{pki("collateral.json"), "", "collateral", "FMSPC"},
		{pki("collateral.json"), "", "collateral", "TCB level of 2024-01-01: UpToDate"},
		{pki("collateral.json"), "", "collateral", "SEV-SNP"},
		{"-", `{"provider":"sev_guest","outblob":"AAAA"}` + "\n", "TSM report", "does not parse"},
		{pki("results.json"), "", "results", "attested key (SPKI)"},
		{pki("client-results.json"), "", "results", "by verifier: " + string(softtee.ResultsIdentity)},
		{pki("snp-evidence.cmw"), "", "CMW", "MEASUREMENT"},
		{pki("snp-evidence.cmw"), "", "CMW", "SEV-VCEK"},
		{amdReport, "", "SEV-SNP report", "b07af9620f3b839b"},
		{"-", string(snp) + "\x00\x00", "SEV-SNP report", "REPORTED_TCB"},
		{"-", `["text/plain","AAAA"]` + "\n", "CMW", "text/plain"},
		{"-", `{"provider":"\u001b[2J","outblob":"AAAA"}`, "TSM report", "\ufffd[2J"},
	} {
		e := atls(t, c.stdin, "inspect", c.file)
		if e.status != 0 || !strings.HasPrefix(e.stdout, "not verified") || !strings.Contains(e.stdout, c.say) {
			t.Errorf("%s: status %d: %s%s", c.file, e.status, e.stdout, e.stderr)
		}
		var object struct {
			Kind     string
			Verified *bool
		}
		e = atls(t, c.stdin, "inspect", c.file, "--json")
		if err := json.Unmarshal([]byte(e.stdout), &object); err != nil || object.Kind != c.kind || object.Verified == nil || *object.Verified {
			t.Errorf("%s: %v: %s", c.file, err, e.stdout)
		}
	}
}

func TestVerify(t *testing.T) {
	soft := []string{"--trust-roots", pki("trust-roots.pem"), "--collateral", pki("collateral.json"), "--policy", pki("policy.json")}
	var rd [attestext.ReportDataSize]byte
	sum := sha256.Sum256([]byte("atls demo"))
	copy(rd[:], sum[:])
	ch := &attestext.Challenge{Role: attestext.RoleClient, Nonce: bytes.Repeat([]byte{1}, 32), Binder: bytes.Repeat([]byte{2}, 32), Kind: attestext.CertAttestation}
	pair, err := stdtls.LoadX509KeyPair(pki("client-cert.pem"), pki("client-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ch.SPKI = pair.Leaf.RawSubjectPublicKeyInfo
	bound, err := softtee.NewTDX(nil).Attester().Attest(t.Context(), &attestext.AttestRequest{Type: attestext.EvidenceType{Kind: ch.Kind, Format: tsm.FormatCBOR}, Challenge: ch})
	if err != nil {
		t.Fatal(err)
	}
	evidence := tempFile(t, "evidence", bound)
	only := *ch
	only.Kind = attestext.AttestationOnly
	bundled, err := softtee.NewTDX(nil).Attester().Attest(t.Context(), &attestext.AttestRequest{Type: attestext.EvidenceType{Kind: only.Kind, Format: eat.BundleFormat}, Challenge: &only})
	if err != nil {
		t.Fatal(err)
	}
	bundle := tempFile(t, "bundle", bundled)
	der := contents(t, amdVCEK)
	vcek, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	raw := contents(t, amdReport)
	amdTSM, err := (&tsm.Report{Provider: tsm.ProviderSNP, OutBlob: raw, AuxBlob: (&sevsnp.Certificates{VCEK: vcek}).Marshal()}).CBOR()
	if err != nil {
		t.Fatal(err)
	}
	amd := tempFile(t, "amd", amdTSM)
	debugPolicy := tempFile(t, "policy", []byte(`{"snp": {"insecure_allow_debug": true}}`))
	challengeArgs := []string{"--nonce", hex.EncodeToString(ch.Nonce), "--binder", hex.EncodeToString(ch.Binder), "--spki", pki("client-cert.pem")}
	for _, c := range []struct {
		name   string
		args   []string
		status int
		say    string
	}{
		{"quote", args([]string{pki("quote.bin")}, soft), 0, "verdict: affirming"},
		{"unbound", args([]string{pki("quote.bin")}, soft), 0, "NOT CHECKED: freshness"},
		{"wrapper", args([]string{pki("evidence.cmw")}, soft), 0, "verdict: affirming"},
		{"report data", args([]string{pki("evidence.cmw"), "--report-data", hex.EncodeToString(rd[:])}, soft), 0, "binding: as expected"},
		{"other report data", args([]string{pki("evidence.cmw"), "--report-data", strings.Repeat("00", 64)}, soft), 3, "refused"},
		{"challenge", args([]string{evidence, "--role", "client"}, challengeArgs, soft), 0, "binding: as expected"},
		{"other role", args([]string{evidence}, challengeArgs, soft), 3, "role"},
		{"report data of a bundle, which is of every session", args([]string{bundle, "--report-data", hex.EncodeToString(rd[:])}, soft), 1, ""},
		{"a report where a bundle is due", args([]string{evidence, "--role", "client", "--credential", "attestation-only"}, challengeArgs, soft), 3, "refused"},
		{"Intel's root", args([]string{pki("quote.bin"), "--collateral", pki("collateral.json")}), 3, "refused"},
		{"no collateral", []string{pki("quote.bin"), "--trust-roots", pki("trust-roots.pem")}, 3, "no collateral"},
		{"later", args([]string{pki("quote.bin"), "--at", "2060-01-01T00:00:00Z"}, soft), 3, "refused"},
		{"SNP", args([]string{pki("snp-evidence.cmw"), "--report-data", hex.EncodeToString(rd[:])}, soft), 0, "verdict: affirming"},
		{"SNP, other report data", args([]string{pki("snp-evidence.cmw"), "--report-data", strings.Repeat("00", 64)}, soft), 3, "refused"},
		{"SNP, AMD's roots", args([]string{pki("snp-evidence.cmw"), "--collateral", pki("collateral.json")}), 3, "refused"},
		{"SNP, roots of TDX", args([]string{intelQuote, "--insecure-skip-collateral", "--at", intelTime, "--trust-roots", pki("trust-roots.pem")}), 3, "refused"},
		{"AMD's report under debug", []string{amd, "--insecure-skip-collateral", "--at", intelTime}, 4, "debug: got a guest that can be debugged"},
		{"AMD's report, debug allowed", []string{amd, "--insecure-skip-collateral", "--policy", debugPolicy, "--at", intelTime}, 0, "verdict: warning"},
		{"AMD's report, no revocation list", []string{amd, "--policy", debugPolicy, "--at", intelTime}, 3, "no revocation list"},
		{"AMD's report by itself", []string{amdReport, "--insecure-skip-collateral", "--at", intelTime}, 3, "no VCEK certificate"},
		{"Intel's quote", []string{intelQuote, "--insecure-skip-collateral", "--at", intelTime}, 0, "verdict: warning"},
		{"Intel's quote, old TCB", []string{intelQuote, "--collateral", intelCollateral, "--at", intelTime}, 4, "verdict: refused (contraindicated)"},
		{"Intel's quote, other measurement", []string{intelQuote, "--insecure-skip-collateral", "--policy", pki("policy.json"), "--at", intelTime}, 4, "mrtd: got 6363b8043668a3ad"},
	} {
		e := atls(t, "", append([]string{"verify"}, c.args...)...)
		if e.status != c.status || !strings.Contains(e.stdout, c.say) {
			t.Errorf("%s: status %d, want %d with %q: %s%s", c.name, e.status, c.status, c.say, e.stdout, e.stderr)
		}
		e = atls(t, "", append([]string{"verify", "--json"}, c.args...)...)
		var object struct{ OK bool }
		if err := json.Unmarshal([]byte(e.stdout), &object); err != nil || object.OK != (c.status == 0) || e.status != c.status {
			t.Errorf("%s: %v: %s", c.name, err, e.stdout)
		}
		var shape struct {
			EAR map[string]any `json:"ear"`
		}
		json.Unmarshal([]byte(e.stdout), &shape)
		if c.status == 0 && shape.EAR == nil || shape.EAR != nil && (c.status == 4) != (shape.EAR["refused-by"] != nil) {
			t.Errorf("%s: ear is %v", c.name, shape.EAR)
		}
	}
}

func TestMistakesAboutFiles(t *testing.T) {
	checkMistakes(t, []mistake{
		{[]string{"inspect"}, 1, "arguments"},
		{[]string{"inspect", "/nonexistent"}, 1, "/nonexistent"},
		{[]string{"inspect", pki("key.pem")}, 2, "a private key is no evidence"},
		{[]string{"inspect", "testdata/skips.txt"}, 2, "neither"},
		{[]string{"inspect", "-"}, 2, "nothing"},
		{[]string{"verify", pki("collateral.json")}, 2, "no evidence"},
		{[]string{"verify", pki("quote.bin"), "--at", "yesterday"}, 1, "--at"},
		{[]string{"verify", pki("quote.bin"), "--report-data", "00"}, 1, "--report-data"},
	})
}

// Each file that the demo writes is evidence, or something that is told from it.
func TestInspectKnowsEachFileOfTheDemo(t *testing.T) {
	others := map[string]string{
		"cert.pem": "PEM that begins with a CERTIFICATE", "ca.pem": "PEM that begins with a CERTIFICATE", "client-cert.pem": "PEM that begins with a CERTIFICATE",
		"trust-roots.pem": "PEM that begins with a CERTIFICATE", "key.pem": "a private key", "client-key.pem": "a private key",
		"policy.json": "a policy", "verifiers.json": "a file of trusted verifiers",
	}
	files, err := os.ReadDir(filepath.Dir(pki("policy.json")))
	if err != nil || len(files) < len(others) {
		t.Fatal(files, err)
	}
	for _, f := range files {
		e := atls(t, "", "inspect", pki(f.Name()))
		switch other := others[f.Name()]; {
		case other == "" && (e.status != 0 || strings.Contains(e.stdout, "not parse")):
			t.Errorf("%s: status %d: %s%s", f.Name(), e.status, e.stdout, e.stderr)
		case other != "" && (e.status != 2 || !strings.Contains(e.stderr, other+" is no evidence: it is for --")):
			t.Errorf("%s: status %d: %s%s", f.Name(), e.status, e.stdout, e.stderr)
		}
	}
}

func TestVerifyPrintsTheSchemaOfPolicies(t *testing.T) {
	if e := atls(t, "", "verify", "--print-policy-schema"); e.status != 0 || e.stdout != string(policy.Schema()) || e.stderr != "" {
		t.Errorf("status %d: %.100s%s", e.status, e.stdout, e.stderr)
	}
	checkMistakes(t, []mistake{
		{[]string{"verify", "--print-policy-schema", pki("quote.bin")}, 1, "goes with nothing else"},
		{[]string{"verify", "--print-policy-schema", "--policy", pki("policy.json")}, 1, "goes with nothing else"},
		{[]string{"verify"}, 1, "takes 1 arguments"},
	})
}

// What an attester holds is appraised by the keys of those whose it is said to be.
func TestHeldResults(t *testing.T) {
	trust := func(id string) string {
		b := contents(t, pki("verifiers.json"))
		return tempFile(t, "verifiers.json", bytes.ReplaceAll(b, []byte(softtee.ResultsIdentity), []byte(id)))
	}
	key := writeKey(t, softtee.NewResultsIssuer(nil).PublicKeyPEM())
	otherKey := writeKey(t, softtee.NewResultsIssuer(&softtee.ResultsOptions{Seed: "other"}).PublicKeyPEM())
	for _, c := range []struct {
		name   string
		args   []string
		status int
		say    string
	}{
		{"trusted", []string{"--trust-roots", pki("verifiers.json")}, 0, "verdict: affirming"},
		{"trusted by a key", []string{"--trust-roots", key}, 0, "verdict: affirming"},
		{"nobody trusted", nil, 3, "no key of its verifier"},
		{"another trusted", []string{"--trust-roots", trust("other.example")}, 3, "no key of its verifier"},
		{"another key trusted", []string{"--trust-roots", otherKey}, 3, "signature"},
		{"expired", []string{"--trust-roots", key, "--at", "2040-01-01T00:00:00Z"}, 3, "expired"},
	} {
		e := atls(t, "", args([]string{"verify", pki("results.json")}, c.args)...)
		if e.status != c.status || !strings.Contains(e.stdout, c.say) || !strings.Contains(e.stdout, "NOT CHECKED") {
			t.Errorf("%s: status %d: %s%s", c.name, e.status, e.stdout, e.stderr)
		}
	}
	e := atls(t, `{"results": [{"verifier": "v", "result": "x"}]}`, "inspect", "-")
	if e.status != 2 || !strings.Contains(e.stderr, "parse results: result 0") {
		t.Errorf("status %d: %s", e.status, e.stderr)
	}
}
