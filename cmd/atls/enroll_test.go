package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/tls"
)

// authority are the files and flags of an atls ca that gives model.example to the TD of
// the demonstration.
type authority struct {
	dir  string
	args []string
}

// mrtd is that of the demonstration's TD.
func mrtd() string {
	m, _ := softtee.TDXMeasurements()
	return hex.EncodeToString(m[:])
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{dir: t.TempDir()}
	a.write(t, "rules.json", fmt.Sprintf(`{"rules": [{"names": ["model.example"], "claims": {"mrtd": [%q]}}]}`, mrtd()))
	a.write(t, "revoked.json", `{}`)
	a.args = args(identity(), verifySoftTEE(), []string{"--rules", a.path("rules.json"), "--revoked", a.path("revoked.json"), "--log", a.path("log"),
		"--issuer-cert", a.path("issuer.pem"), "--issuer-key", a.path("issuer-key.pem")})
	return a
}

func (a authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a authority) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(a.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// enroll is atls enroll with the demonstration's TEE, as a process of its own: the test
// binary runs it.
func (a authority) enroll(t *testing.T, addr string, more ...string) exited {
	t.Helper()
	line := args([]string{"as-atls", "enroll", addr, "--json", "--ca", pki("ca.pem"), "--cert", a.path("cert.pem"), "--key", a.path("key.pem")}, more)
	cmd := exec.CommandContext(t.Context(), os.Args[0], line...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return exited{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func TestEnrollment(t *testing.T) {
	a := newAuthority(t)
	ca := start(t, "ca", a.args...)
	honest := []string{"--attest", "softtee:tdx", "--name", "model.example", "--issuer-ca", a.path("issuer.pem")}
	for range 2 { // the second time with the key that there is
		if e := a.enroll(t, ca.addr, honest...); e.status != 0 || !strings.Contains(e.stdout, `"ok":true`) {
			t.Fatalf("status %d: %s%s", e.status, e.stdout, e.stderr)
		}
	}
	// It serves with what was issued, and a client takes it by the name.
	r := serve(t, "--once", "--cert", a.path("cert.pem"), "--key", a.path("key.pem"), "--attest", "softtee:tdx")
	d := atls(t, "hello\n", args([]string{"dial", r.addr, "--ca", a.path("issuer.pem"), "--servername", "model.example"}, verifySoftTEE())...)
	if d.status != 0 || !strings.Contains(d.stdout, "hello") {
		t.Errorf("status %d: %s", d.status, d.stderr)
	}
	ca.stop()
	e := ca.end()
	if e.status != 0 || strings.Count(e.stdout, `"ok":true`) != 2 {
		t.Errorf("status %d: %s%s", e.status, e.stdout, e.stderr)
	}
	log, err := os.ReadFile(a.path("log"))
	if err != nil || strings.Count(string(log), "\n") != 2 || strings.Count(string(log), `"verdict":"affirming"`) != 2 {
		t.Errorf("%v: the log has %s", err, log)
	}
	if info, err := os.Stat(a.path("key.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info, err)
	}
}

// replayedEvidence returns evidence that another connection was given, as hexadecimal.
func replayedEvidence(t *testing.T) string {
	t.Helper()
	b, err := softtee.NewTDX(nil).Attester().Attest(t.Context(), bundleRequest(make([]byte, 32), spkiOf(t, newKey(t))))
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func spkiOf(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

// TestEnrollmentRefused: each with its own words on both sides, in two processes.
func TestEnrollmentRefused(t *testing.T) {
	a := newAuthority(t)
	ca := start(t, "ca", a.args...)
	honest := []string{"--attest", "softtee:tdx", "--name", "model.example"}
	first := a.enroll(t, ca.addr, honest...)
	if first.status != 0 {
		t.Fatal(first.stderr)
	}
	before, err := os.ReadFile(a.path("cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var issued struct{ Entry struct{ Machine string } }
	log, err := os.ReadFile(a.path("log"))
	if err != nil || json.Unmarshal(log, &issued.Entry) != nil {
		t.Fatalf("%v: the log has %s", err, log)
	}
	by := func(command ...string) []string {
		return []string{"--attest", execCommand(command...), "--evidence-type", eat.BundleMediaType, "--name", "model.example"}
	}
	cases := []struct {
		name, revoked string
		args          []string
		status        int
		code, say     string
		ca            string // what the authority says
	}{
		{"name", `{}`, []string{"--attest", "softtee:tdx", "--name", "bank.example"}, 4, "name-not-allowed", "no rule allows the name", `no rule allows the name "bank.example"`},
		{"other measurement", `{}`, []string{"--attest", "softtee:snp", "--name", "model.example"}, 4, "name-not-allowed", "is not for this machine", "its claim mrtd is not one that the rule allows"},
		{"replayed", `{}`, by("send", replayedEvidence(t)), 3, "evidence-replayed", "not made for this connection and its key", "not bound to this handshake"},
		{"stale", `{}`, by("bundle", "undated"), 3, "evidence-stale", "the evidence is stale", "the quote does not show when it was made"},
		{"not genuine", `{}`, by("bundle", "other"), 3, "evidence-not-genuine", "not signed by a TEE that the authority trusts", "evidence signature does not verify"},
		{"malformed", `{}`, by("send", "ff"), 2, "evidence-malformed", "cannot read the evidence", "malformed evidence"},
		{"policy", `{}`, by("bundle", "debug"), 4, "refused-by-policy", "appraisal policy does not accept", "debug"},
		{"revoked machine", fmt.Sprintf(`{"machines": [%q]}`, issued.Entry.Machine), honest, 4, "revoked", "revoked is the machine " + issued.Entry.Machine, "revoked is the machine " + issued.Entry.Machine},
		{"revoked measurement", fmt.Sprintf(`{"claims": {"mrtd": [%q]}}`, mrtd()), honest, 4, "revoked", "revoked is what it runs: mrtd is " + mrtd(), "revoked is what it runs: mrtd is " + mrtd()},
		{"broken revocations", `{`, honest, 3, "unavailable", "cannot issue certificates", "cannot issue certificates"},
	}
	for _, tt := range cases {
		a.write(t, "revoked.json", tt.revoked)
		e := a.enroll(t, ca.addr, tt.args...)
		if e.status != tt.status || !strings.Contains(e.stdout, fmt.Sprintf(`"code":%q`, tt.code)) || !strings.Contains(e.stderr, tt.say) {
			t.Errorf("%s: status %d: %s%s", tt.name, e.status, e.stdout, e.stderr)
		}
	}
	if after, err := os.ReadFile(a.path("cert.pem")); err != nil || string(after) != string(before) {
		t.Errorf("%v: a refusal has changed the certificate", err)
	}
	ca.stop()
	lines := strings.Split(strings.TrimSpace(ca.end().stdout), "\n")
	if len(lines) != 1+len(cases) {
		t.Errorf("the authority says %q", lines)
	}
	for _, tt := range cases {
		said := 0
		for _, line := range lines {
			var m struct{ Error string }
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(m.Error, tt.ca) {
				said++
			}
		}
		if said != 1 {
			t.Errorf("%s: the authority says %q %d times: %q", tt.name, tt.ca, said, lines)
		}
	}
}

// TestEnrollmentOfAKeyThatIsNotInTheEvidence sends atls ca what atls enroll never does.
func TestEnrollmentOfAKeyThatIsNotInTheEvidence(t *testing.T) {
	a := newAuthority(t)
	ca := start(t, "ca", a.args...)
	roots, err := readCertPool("ca", pki("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", ca.addr, &tls.Config{RootCAs: roots, ServerName: "localhost", Attestation: &tls.AttestationConfig{
		Attester: softtee.NewTDX(nil).Attester(), AttestedKey: newKey(t),
		AllowAttestationOnly: true, Credentials: []attestext.CredentialKind{attestext.AttestationOnly},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"model.example"}}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(csr))), csr...)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn) // the greeting is before the reply
	const say = "the key of the request is not the one that the evidence covers"
	if err != nil || !strings.Contains(string(answer), `"code":"key-not-attested","reason":"`+say) || strings.Contains(string(answer), "chain") {
		t.Errorf("%v: %q", err, answer)
	}
	ca.stop()
	if e := ca.end(); !strings.Contains(e.stdout, "enrolment refused: key-not-attested: "+say) || strings.Contains(e.stdout, `"ok":true`) {
		t.Errorf("the authority says %s", e.stdout)
	}
}

// TestRevocationListOverHTTP serves the list as atls ca does.
func TestRevocationListOverHTTP(t *testing.T) {
	a := newAuthority(t)
	addr := freeAddr(t)
	ca := start(t, "ca", args(a.args, []string{"--crl", addr, "--crl-url", "http://" + addr + "/crl"})...)
	if e := a.enroll(t, ca.addr, "--attest", "softtee:tdx", "--name", "model.example"); e.status != 0 {
		t.Fatal(e.stderr)
	}
	a.write(t, "revoked.json", fmt.Sprintf(`{"claims": {"mrtd": [%q]}}`, mrtd()))
	b, err := os.ReadFile(a.path("cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(leaf.CRLDistributionPoints[0])
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	der, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil || len(crl.RevokedCertificateEntries) != 1 || crl.RevokedCertificateEntries[0].SerialNumber.Cmp(leaf.SerialNumber) != 0 {
		t.Errorf("%v: %+v", err, crl)
	}
}

func TestEnrollmentMistakes(t *testing.T) {
	a := newAuthority(t)
	with := func(name, value string) []string {
		line := append([]string{"ca"}, a.args...)
		for i := range line {
			if line[i] == name {
				line[i+1] = value
			}
		}
		return line
	}
	checkMistakes(t, []mistake{
		{[]string{"ca"}, 1, "needs --rules"},
		{args([]string{"ca"}, a.args, []string{"--lifetime", "1ms"}), 1, "--lifetime"},
		{with("--verify", "results"), 1, "does not do"},
		{with("--rules", pki("policy.json")), 2, "--rules"},
		{with("--revoked", pki("policy.json")), 2, "--revoked"},
		{with("--issuer-cert", pki("policy.json")), 2, "--issuer-cert"},
		{[]string{"enroll", "localhost:1"}, 1, "--name"},
		{[]string{"enroll", "x", "--attest", "softtee:tdx", "--cert", a.path("c"), "--key", a.path("k"), "--name", "a"}, 1, "whom to ask"},
		{[]string{"enroll", "localhost:1", "--attest", "results:" + pki("results.json"), "--cert", a.path("c"), "--key", a.path("k"), "--name", "a"}, 1, "does not do"},
		{[]string{"enroll", freeAddr(t), "--attest", "softtee:tdx", "--cert", a.path("c"), "--key", a.path("k"), "--name", "a"}, 5, "refused"},
	})
}

// freeAddr returns an address on which nobody listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
