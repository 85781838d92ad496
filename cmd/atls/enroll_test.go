package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
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
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/internal/testpki"
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
	a.args = args(identity(), verifySoftTEE(), a.issues())
	return a
}

// issues are the flags but for its own certificate and its verifier.
func (a authority) issues() []string {
	return []string{"--rules", a.path("rules.json"), "--revoked", a.path("revoked.json"), "--log", a.path("log"),
		"--issuer-cert", a.path("issuer.pem"), "--issuer-key", a.path("issuer-key.pem")}
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

// TestEnrollmentOfOtherMachines: SEV-SNP, and evidence that a command or a service
// appraises.
func TestEnrollmentOfOtherMachines(t *testing.T) {
	service := start(t, "verifier", verifySoftTEE()[2:]...)
	measurement := softtee.SNPMeasurement()
	snpRule := fmt.Sprintf(`{"measurement": [%q]}`, hex.EncodeToString(measurement[:]))
	tdxRule := fmt.Sprintf(`{"mrtd": [%q]}`, mrtd())
	byCommand := []string{"--attest", execCommand("attest"), "--evidence-type", "application/x-test"}
	softTDX, softSNP := []string{"--attest", "softtee:tdx"}, []string{"--attest", "softtee:snp"}
	veraison := []string{"--verify", "veraison:http://" + service.addr}
	verifyExec := func(command ...string) []string {
		return []string{"--verify", execCommand(command...), "--evidence-type", "application/x-test"}
	}
	for _, tt := range []struct {
		name           string
		verify, attest []string
		rule           string // claims
		status         int
		client, ca     string // what they say
	}{
		{"SEV-SNP", verifySoftTEE(), softSNP, snpRule, 0, `"ok":true`, `"verdict":"affirming"`},
		{"SEV-SNP, other measurement", verifySoftTEE(), softSNP, `{"measurement": ["00"]}`, 4, `"code":"name-not-allowed"`, "its claim measurement is not one that the rule allows"},
		{"command", verifyExec("verify"), byCommand, `{"who": ["test"]}`, 0, `"ok":true`, `"who":"test"`},
		{"command, other claim", verifyExec("verify"), byCommand, `{"who": ["nobody"]}`, 4, `"code":"name-not-allowed"`, "its claim who is not one that the rule allows"},
		{"command refuses", verifyExec("refuse", "policy"), byCommand, `{"who": ["test"]}`, 4, `"code":"refused-by-policy"`, "not today"},
		{"command fails", verifyExec("fail"), byCommand, `{"who": ["test"]}`, 3, `"code":"unavailable"`, "the TEE is gone"},
		{"service", veraison, softTDX, `{"submods.atls.tier": ["affirming"]}`, 0, `"ok":true`, `"verdict":"affirming"`},
		{"service, which says no measurement", veraison, softTDX, tdxRule, 4, `"code":"name-not-allowed"`, "its claim mrtd is not one that the rule allows"},
		{"service refuses", veraison, []string{"--attest", execCommand("bundle", "debug"), "--evidence-type", eat.BundleMediaType}, tdxRule, 4, `"code":"refused-by-policy"`, "the service's tier is contraindicated"},
		{"nobody there", []string{"--verify", "veraison:http://" + freeAddr(t)}, softTDX, tdxRule, 3, `"code":"unavailable"`, "refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAuthority(t)
			a.write(t, "rules.json", `{"rules": [{"names": ["model.example"], "claims": `+tt.rule+`}]}`)
			ca := start(t, "ca", args(identity(), a.issues(), tt.verify)...)
			e := a.enroll(t, ca.addr, args(tt.attest, []string{"--name", "model.example"})...)
			if e.status != tt.status || !strings.Contains(e.stdout, tt.client) {
				t.Errorf("status %d: %s%s", e.status, e.stdout, e.stderr)
			}
			lines := saying(t, ca, 1)
			if !strings.Contains(lines[0], tt.ca) || strings.Contains(lines[0], `"ok":true`) != (tt.status == 0) {
				t.Errorf("the authority says %s", lines[0])
			}
		})
	}
}

// TestEnrollmentIsRenewed: before the certificate expires there is another one in its
// place, for the same key, and once the machine is revoked there is none any more.
func TestEnrollmentIsRenewed(t *testing.T) {
	a := newAuthority(t)
	ca := start(t, "ca", args(a.args, []string{"--lifetime", "5s"})...)
	stdout, stderr := &lineReader{lines: make(chan string, 16)}, &lineReader{lines: make(chan string, 16)}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"enroll", ca.addr, "--json", "--ca", pki("ca.pem"), "--cert", a.path("cert.pem"), "--key", a.path("key.pem"),
			"--attest", "softtee:tdx", "--name", "model.example", "--renew"}, strings.NewReader(""), stdout, stderr)
	}()
	next := func(r *lineReader) string {
		t.Helper()
		select {
		case line := <-r.lines:
			return line
		case <-ctx.Done():
			t.Fatal("it does not say what it should")
			return ""
		}
	}
	var first, second struct {
		OK       bool
		Serial   string
		NotAfter time.Time `json:"not_after"`
	}
	if err := json.Unmarshal([]byte(next(stdout)), &first); err != nil || !first.OK {
		t.Fatalf("%v: %+v", err, first)
	}
	if err := json.Unmarshal([]byte(next(stdout)), &second); err != nil || !second.OK || second.Serial == first.Serial {
		t.Fatalf("%v: %+v after %+v", err, second, first)
	}
	log := contents(t, a.path("log"))
	var issued struct{ Time time.Time }
	if err := json.Unmarshal([]byte(strings.Split(string(log), "\n")[1]), &issued); err != nil || !issued.Time.Before(first.NotAfter) || !second.NotAfter.After(first.NotAfter) {
		t.Errorf("%v: issued at %v: %+v after %+v", err, issued.Time, second, first)
	}
	cert, err := stdtls.LoadX509KeyPair(a.path("cert.pem"), a.path("key.pem"))
	if err != nil || cert.Leaf.SerialNumber.Text(16) != second.Serial {
		t.Errorf("%v: the file has not the certificate %s", err, second.Serial)
	}
	a.write(t, "revoked.json", fmt.Sprintf(`{"claims": {"mrtd": [%q]}}`, mrtd()))
	for line := ""; !strings.Contains(line, "renewal: enrolment refused: revoked: "); {
		line = next(stderr)
	}
	cancel()
	if status := <-done; status != 0 {
		t.Errorf("status %d", status)
	}
	ca.stop()
	if e := ca.end(); !strings.Contains(e.stdout, "revoked is what it runs") {
		t.Errorf("the authority says %s", e.stdout)
	}
}

// A lineReader sends on what is written to it, in lines.
type lineReader struct {
	lines chan string
	rest  string
}

func (r *lineReader) Write(b []byte) (int, error) {
	r.rest += string(b)
	for {
		line, rest, ok := strings.Cut(r.rest, "\n")
		if !ok {
			return len(b), nil
		}
		r.rest = rest
		r.lines <- line
	}
}

// replayedEvidence returns evidence that another connection was given, as hexadecimal.
func replayedEvidence(t *testing.T) string {
	t.Helper()
	b, err := softtee.NewTDX(nil).Attester().Attest(t.Context(), bundleRequest(make([]byte, 32), testpki.SPKI(newKey(t))))
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

// saying returns the n lines of an authority's standard output, once they are there: a
// machine knows that it is refused before the authority says so.
func saying(t *testing.T, ca *running, n int) []string {
	t.Helper()
	eventually(t, func() string {
		if got := strings.Count(ca.said(), "\n"); got != n {
			return fmt.Sprintf("the authority says %d lines, want %d: %s", got, n, ca.said())
		}
		return ""
	})
	return strings.Split(strings.TrimSpace(ca.said()), "\n")
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
	before := contents(t, a.path("cert.pem"))
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
		{"broken revocations", `{`, honest, 3, "unavailable", "cannot issue certificates", "at the moment: --revoked: revocations: unexpected EOF"},
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
	lines := saying(t, ca, 1+len(cases))
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
	conn, err := tls.Dial("tcp", ca.addr, &tls.Config{RootCAs: roots(t), ServerName: "localhost", Attestation: &tls.AttestationConfig{
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
	b := contents(t, a.path("cert.pem"))
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
		{args([]string{"ca"}, a.args, []string{"--max-per-address", "0"}), 1, "--max-per-address"},
		{with("--verify", "results"), 1, "does not do"},
		{with("--rules", pki("policy.json")), 2, "--rules"},
		{with("--revoked", pki("policy.json")), 2, "--revoked"},
		{with("--issuer-cert", pki("policy.json")), 2, "--issuer-cert"},
		{args([]string{"ca"}, a.args, []string{"--issuer-cert", pki("cert.pem"), "--issuer-key", pki("key.pem")}), 2, "not that of an authority"},
		{args([]string{"ca"}, a.args, []string{"--issuer-cert", pki("ca.pem"), "--issuer-key", pki("key.pem")}), 2, "not that of the certificate"},
		{args([]string{"ca"}, a.args, []string{"--crl", "localhost"}), 1, "--crl: "},
		{args([]string{"ca"}, a.args, []string{"--issuer-cert", a.path("no/c"), "--issuer-key", a.path("no/k")}), 1, "--issuer-key: "},
		{[]string{"enroll", "localhost:1", "--attest", "softtee:tdx", "--cert", a.path("c"), "--key", a.path("k"), "--name", "a b"}, 1, "no DNS name"},
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
