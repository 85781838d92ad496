package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/attestext/tpmdevice"
	"github.com/attestedtls/atls/internal/swtpm"
	"github.com/google/go-tpm/tpm2/transport"
)

func TestTPM(t *testing.T) {
	socket := swtpm.Start(t)
	e := atls(t, "", "tpm-enroll", "--tpm", socket, "--insecure-any-ek")
	if e.status != 0 || !strings.Contains(e.stdout, tpm.PEMKey) {
		t.Fatalf("status %d: %s%s", e.status, e.stdout, e.stderr)
	}
	roots := tempFile(t, "roots.pem", []byte(e.stdout))
	var enrolled struct {
		EK string `json:"ek_id"`
	}
	e = atls(t, "", "tpm-enroll", "--tpm", socket, "--insecure-any-ek", "--json")
	if err := json.Unmarshal([]byte(e.stdout), &enrolled); err != nil || len(enrolled.EK) != 64 {
		t.Fatalf("%v: %s", err, e.stdout)
	}
	if e := atls(t, "", "tpm-enroll", "--tpm", socket, "--ek-id", enrolled.EK); e.status != 0 {
		t.Errorf("the EK that it is: status %d: %s", e.status, e.stderr)
	}
	if e := atls(t, "", "tpm-enroll", "--tpm", socket, "--ek-id", strings.Repeat("01", 32)); e.status != 3 || !strings.Contains(e.stderr, "not known") {
		t.Errorf("another EK: status %d: %s", e.status, e.stderr)
	}
	if e := atls(t, "", "tpm-enroll", "--tpm", socket, "--ek-roots", pki("ca.pem")); e.status != 3 || !strings.Contains(e.stderr, "no certificate") {
		t.Errorf("roots: status %d: %s", e.status, e.stderr)
	}

	zero := strings.Repeat("00", 32)
	good := tempFile(t, "policy.json", fmt.Appendf(nil, `{"tpm": {"pcrs": {"sha256": {"4": [%q], "11": [%q]}}, "ek_ids": [%q]}}`, zero, zero, enrolled.EK))
	bad := tempFile(t, "bad.json", fmt.Appendf(nil, `{"tpm": {"pcrs": {"sha256": {"4": [%q]}}}}`, strings.Repeat("01", 32)))
	attest, verify := []string{"--attest", "tpm:" + socket}, []string{"--verify", "local", "--trust-roots", roots, "--policy", good}
	only := []string{"--credential", "attestation-only", "--allow-attestation-only"}
	for name, c := range map[string]struct{ serve, dial []string }{
		"server":                   {args(identity(), attest), verify},
		"server, type chosen":      {args(identity(), attest), args(verify, []string{"--evidence-type", tpm.MediaType})},
		"server, attestation-only": {args(attest, only), args(verify, only)},
		"server, after":            {args(identity(), attest, []string{"--mode", "post-handshake"}), args(verify, []string{"--mode", "post-handshake"})},
	} {
		t.Run(name, func(t *testing.T) {
			p := connect(t, c.serve, c.dial)
			p.ok(t)
			attested(t, p.c)
			if m := p.c["peer"].(map[string]any)["machine"]; m != "tpm-ek:"+enrolled.EK {
				t.Errorf("machine %v", m)
			}
		})
	}
	for name, c := range map[string]struct {
		dial   []string
		status int
		say    string
	}{
		"other PCRs":         {[]string{"--verify", "local", "--trust-roots", roots, "--policy", bad}, 4, "pcrs sha256 4"},
		"not enrolled":       {[]string{"--verify", "local", "--trust-roots", pki("trust-roots.pem"), "--policy", good, "--evidence-type", attestext.EvidenceFormat{MediaType: eat.BundleMediaType}.String()}, 3, "no attestation key of a TPM is trusted"},
		"type nobody trusts": {[]string{"--verify", "local", "--trust-roots", pki("trust-roots.pem"), "--evidence-type", tpm.MediaType}, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if c.status == 1 {
				if e := atls(t, "", args([]string{"dial", "127.0.0.1:1"}, c.dial)...); e.status != 1 {
					t.Errorf("status %d: %s", e.status, e.stderr)
				}
				return
			}
			p := connect(t, args(identity(), attest), c.dial)
			if p.dialer.status != c.status || !strings.Contains(fmt.Sprint(p.c["error"]), c.say) {
				t.Errorf("status %d: %s", p.dialer.status, p.dialer.stdout)
			}
		})
	}

	undated := tempFile(t, "undated.json", fmt.Appendf(nil, `{"insecure_allow_unknown_quote_age": true, "tpm": {"pcrs": {"sha256": {"4": [%q]}}}}`, zero))
	p := connect(t, args(identity(), attest, []string{"--key-tier", "10m"}), args(verify, []string{"--policy", undated}))
	p.ok(t)
	if peer := p.c["peer"].(map[string]any); peer["verdict"] != "warning" {
		t.Errorf("key tier: %v", peer)
	}

	// By a service that trusts the key: raw quotes where they are asked for, and otherwise bundles.
	for policy, status := range map[string]int{good: 0, bad: 4} {
		v := start(t, "verifier", "--trust-roots", roots, "--policy", policy)
		service := []string{"--verify", "veraison:http://" + v.addr}
		for _, more := range [][]string{{"--evidence-type", tpm.MediaType}, nil} {
			p := connect(t, args(identity(), attest), args(service, more))
			if p.dialer.status != status {
				t.Errorf("%s, %v: status %d: %s", policy, more, p.dialer.status, p.dialer.stdout)
			}
		}
		p := connect(t, args(attest, only), args(service, only))
		if p.dialer.status != status {
			t.Errorf("%s, attestation-only: status %d: %s", policy, p.dialer.status, p.dialer.stdout)
		}
	}

	// Offline.
	d, err := tpmdevice.Open(socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := d.Record(t.Context(), tpm.Format, [64]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	record, err := r.CBOR()
	if err != nil {
		t.Fatal(err)
	}
	ch := &attestext.Challenge{
		Role: attestext.RoleServer, Binding: attestext.BindingHardened, Kind: attestext.AttestationOnly,
		Nonce: make([]byte, 32), Binder: make([]byte, 32), SPKI: publicKey(t),
	}
	bundle, err := attester.NewSource(d).Attest(t.Context(), &attestext.AttestRequest{
		Type: attestext.EvidenceType{Kind: ch.Kind, Format: eat.BundleFormat}, Challenge: ch,
	})
	if err != nil {
		t.Fatal(err)
	}
	quote := tempFile(t, "quote", r.Value)
	for _, file := range []string{quote, tempFile(t, "record", record), tempFile(t, "bundle", bundle)} {
		e := atls(t, "", "inspect", file)
		if e.status != 0 || !strings.Contains(e.stdout, "PCR values are those quoted: true") {
			t.Errorf("%s: status %d: %s%s", file, e.status, e.stdout, e.stderr)
		}
		if filepath.Base(file) == "bundle" && !strings.Contains(e.stdout, "platform evidence covers that key: true") {
			t.Errorf("%s: %s", file, e.stdout)
		}
		for _, c := range []struct {
			policy string
			status int
			say    string
		}{{good, 0, "verdict: affirming"}, {bad, 4, "pcrs sha256 4"}} {
			if e := atls(t, "", "verify", file, "--trust-roots", roots, "--policy", c.policy); e.status != c.status || !strings.Contains(e.stdout, c.say) {
				t.Errorf("%s: status %d: %s%s", file, e.status, e.stdout, e.stderr)
			}
		}
	}
	for rd, status := range map[string]int{"01" + strings.Repeat("00", 63): 0, strings.Repeat("00", 64): 3} {
		if e := atls(t, "", "verify", quote, "--trust-roots", roots, "--policy", good, "--report-data", rd); e.status != status {
			t.Errorf("report data %s: status %d: %s%s", rd, e.status, e.stdout, e.stderr)
		}
	}
}

// Keys that are certified are refused unless their authority says today that it has not
// revoked them: the endorsement key when the TPM is enrolled, the attestation key of a peer.
func TestTPMsWhoseCertificatesAreRevokedAreRefused(t *testing.T) {
	socket := swtpm.Start(t)
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	device, err := tpmdevice.New(transport.FromReadWriteCloser(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	req, err := device.EnrolRequest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const ekSerial, akSerial = 2, 3
	maker := swtpm.NewMaker(t)
	swtpm.Endorse(t, transport.FromReadWriter(conn), maker.Certify(t, req.EK, swtpm.EndorsementKey, ekSerial))
	if err := device.Close(); err != nil {
		t.Fatal(err)
	}

	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	collateral := func(name string, revoked ...int64) []string {
		return []string{"--collateral", tempFile(t, name, fmt.Appendf(nil, `{"tpm": %s}`, maker.Collateral(t, revoked...)))}
	}
	akChain := tempFile(t, "ak.pem", block("CERTIFICATE", maker.Certify(t, req.AK, swtpm.AttestationKey, akSerial)))
	roots := []string{"--trust-roots", tempFile(t, "roots.pem", block(tpm.PEMRoot, maker.Root.Raw))}
	zero := strings.Repeat("00", 32)
	policy := func(name, more string) []string {
		return []string{"--policy", tempFile(t, name, fmt.Appendf(nil, `{"tpm": {"pcrs": {"sha256": {"4": [%q]}}%s}}`, zero, more))}
	}
	good, skip := policy("policy.json", ""), policy("skip.json", `, "insecure_skip_collateral": true`)

	manufacturers := []string{"--ek-roots", tempFile(t, "ca.pem", block("CERTIFICATE", maker.Root.Raw))}
	for _, c := range []struct {
		name   string
		args   []string
		status int
		say    string
	}{
		{"current", collateral("current.json"), 0, tpm.PEMKey},
		{"revoked", collateral("ek.json", ekSerial), 3, "serial number 2 is revoked"},
		{"missing", nil, 3, "no revocation list by the authority"},
		{"skipped", []string{"--insecure-skip-collateral"}, 0, tpm.PEMKey},
	} {
		e := atls(t, "", args([]string{"tpm-enroll", "--tpm", socket}, manufacturers, c.args)...)
		if e.status != c.status || !strings.Contains(e.stdout+e.stderr, c.say) {
			t.Errorf("tpm-enroll, %s: status %d: %s%s", c.name, e.status, e.stdout, e.stderr)
		}
	}

	for _, c := range []struct {
		name    string
		args    []string
		status  int
		says    string // the verdict, or the error
		checked any
	}{
		{"current", args(good, collateral("current.json")), 0, "affirming", true},
		{"revoked", args(good, collateral("ak.json", akSerial)), 3, "serial number 3 is revoked", nil},
		{"missing", good, 3, "no revocation list by the authority", nil},
		{"skipped", skip, 0, "warning", false},
	} {
		p := connect(t, args(identity(), []string{"--attest", "tpm:" + socket, "--ak-chain", akChain}), args([]string{"--verify", "local"}, roots, c.args))
		peer := p.c["peer"].(map[string]any)
		says := fmt.Sprint(peer["verdict"])
		if c.status != 0 {
			says = fmt.Sprint(p.c["error"])
		}
		if p.dialer.status != c.status || !strings.Contains(says, c.says) || peer["claims"].(map[string]any)["collateral_checked"] != c.checked {
			t.Errorf("dial, %s: status %d: %s", c.name, p.dialer.status, p.dialer.stdout)
		}
	}

	// Offline.
	d, err := tpmdevice.Open(socket, &tpmdevice.Options{Chain: [][]byte{maker.Certify(t, req.AK, swtpm.AttestationKey, akSerial)}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := d.Record(t.Context(), tpm.Format, [64]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	quote := tempFile(t, "quote", r.Value)
	for _, c := range []struct {
		args   []string
		status int
		say    string
	}{
		{nil, 3, "no revocation list"},
		{[]string{"--insecure-skip-collateral"}, 0, "verdict: warning"},
		{args(good, []string{"--insecure-skip-collateral"}), 0, "verdict: warning"},
	} {
		if e := atls(t, "", args([]string{"verify", quote}, roots, c.args)...); e.status != c.status || !strings.Contains(e.stdout, c.say) {
			t.Errorf("verify %v: status %d: %s%s", c.args, e.status, e.stdout, e.stderr)
		}
	}
	current := collateral("current.json")[1]
	if e := atls(t, "", "inspect", current); e.status != 0 || !strings.Contains(e.stdout, maker.Root.NotAfter.UTC().Format(time.RFC3339)) {
		t.Errorf("inspect: status %d: %s%s", e.status, e.stdout, e.stderr)
	}
	if e := atls(t, "", "inspect", tempFile(t, "bad.json", []byte(`{"tpm": {"crls": "x"}}`))); e.status != 2 || !strings.Contains(e.stderr, "parse TPM collateral") {
		t.Errorf("inspect: status %d: %s%s", e.status, e.stdout, e.stderr)
	}
}

func publicKey(t *testing.T) []byte {
	t.Helper()
	b, err := readSPKI(pki("cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMistakesAboutTPMs(t *testing.T) {
	id := identity()
	none := filepath.Join(t.TempDir(), "none")
	checkMistakes(t, []mistake{
		{args([]string{"serve", "--attest", "tpm:" + none}, id), 1, "no TPM 2.0"},
		{args([]string{"serve", "--attest", "softtee:tdx", "--ak-chain", pki("ca.pem")}, id), 1, "--ak-chain is for --attest tpm"},
		{args([]string{"serve", "--attest", "tpm:" + none, "--ak-chain", pki("policy.json")}, id), 2, "no certificate"},
		{args([]string{"serve", "--attest", "tpm:" + none, "--ak-chain", none}, id), 1, "--ak-chain"},
		{[]string{"tpm-enroll", "--tpm", none}, 1, "which endorsement key"},
		{[]string{"tpm-enroll", "--tpm", none, "--insecure-any-ek"}, 1, "no TPM 2.0"},
		{[]string{"tpm-enroll", "--tpm", none, "--ek-id", "00"}, 1, "--ek-id"},
		{[]string{"tpm-enroll", "--tpm", none, "--ek-roots", pki("policy.json")}, 2, "no certificate"},
		{[]string{"tpm-enroll", "--tpm", none, "--ek-roots", pki("ca.pem"), "--collateral", pki("policy.json")}, 2, "--collateral"},
		{[]string{"tpm-enroll", "--tpm", none, "--ek-roots", pki("ca.pem"), "--collateral", none}, 1, "--collateral"},
		{[]string{"tpm-enroll", "--tpm", none, "--collateral", pki("collateral.json"), "--insecure-skip-collateral"}, 1, "--insecure-skip-collateral"},
		{[]string{"tpm-enroll", "--tpm", none, "--ek-id", strings.Repeat("01", 32), "--collateral", pki("collateral.json")}, 1, "no effect without --ek-roots"},
		{[]string{"tpm-enroll", "--tpm", none, "--insecure-any-ek", "--insecure-skip-collateral"}, 1, "no effect without --ek-roots"},
		{[]string{"tpm-enroll", "x"}, 1, "takes 0 arguments"},
	})
}
