package main

import (
	"bufio"
	"bytes"
	stdtls "crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/testpki"
	"github.com/attestedtls/atls/tls"
)

type pair struct {
	server, dialer exited
	s, c           map[string]any
}

func connect(t *testing.T, serveArgs, dialArgs []string) pair {
	t.Helper()
	r := serve(t, append([]string{"--once"}, serveArgs...)...)
	d := atls(t, "hello\n", append([]string{"dial", r.addr, "--json", "--ca", pki("ca.pem")}, dialArgs...)...)
	p := pair{server: r.end(), dialer: d}
	p.s, p.c = p.server.object(t), d.object(t)
	return p
}

func (p pair) ok(t *testing.T) {
	t.Helper()
	if p.server.status != 0 || p.dialer.status != 0 || p.s["ok"] != true || p.c["ok"] != true {
		t.Fatalf("server %d %s\ndialer %d %s", p.server.status, p.server.stdout, p.dialer.status, p.dialer.stdout)
	}
	if !strings.Contains(p.dialer.stderr, "hello\n") {
		t.Errorf("the reply is %q", p.dialer.stderr)
	}
}

func (p pair) same(t *testing.T, binder bool) {
	t.Helper()
	for _, name := range []string{"nonce", "binder", "evidence_type", "model", "credential", "binding", "version", "suite", "group", "mode"} {
		if p.s[name] != p.c[name] {
			t.Errorf("%s: server %v, client %v", name, p.s[name], p.c[name])
		}
	}
	passport := p.c["model"] == "passport" // which has no nonce, no binder and no type
	if (p.c["nonce"] == nil) != (passport || p.c["binding"] == "early") || (p.c["evidence_type"] == nil) != passport || !passport && p.c["model"] != "background-check" || (p.c["binder"] != nil) != binder {
		t.Errorf("nonce %v, binder %v, model %v", p.c["nonce"], p.c["binder"], p.c["model"])
	}
	if p.s["bytes_in"] != p.c["bytes_out"] || p.s["bytes_out"] != p.c["bytes_in"] {
		t.Errorf("bytes: server %v/%v, client %v/%v", p.s["bytes_in"], p.s["bytes_out"], p.c["bytes_in"], p.c["bytes_out"])
	}
}

// checkEnds checks that server and client attested or not, and that the other end says so,
// with claims where there are some.
func (p pair) checkEnds(t *testing.T, server, client, claims bool) {
	t.Helper()
	for _, end := range []struct {
		attested, sent bool
		object         map[string]any
	}{{server, client, p.c}, {client, server, p.s}} {
		if end.attested && claims {
			attested(t, end.object)
		}
		if end.object["self_attested"] != end.sent || (end.object["peer"] != nil) != end.attested {
			t.Errorf("%v", end.object)
		}
	}
}

func attested(t *testing.T, m map[string]any) {
	t.Helper()
	peer, _ := m["peer"].(map[string]any)
	if peer == nil || peer["attested"] != true || peer["verdict"] != "affirming" || peer["claims"] == nil {
		t.Errorf("peer is %v", m["peer"])
	}
}

func TestAttestedConnections(t *testing.T) {
	only := []string{"--credential", "attestation-only", "--allow-attestation-only"}
	draft := []string{"--binding", "draft-08"}
	softTEE, softSNP := []string{"--attest", "softtee:tdx"}, []string{"--attest", "softtee:snp"}
	attestExec, verifyExec := []string{"--attest", execCommand("attest")}, []string{"--verify", execCommand("verify")}
	clientCA := []string{"--client-ca", pki("ca.pem")}
	passport := []string{"--verify", "results", "--trust-roots", pki("verifiers.json")}
	for _, c := range []struct {
		name           string
		serve, dial    []string
		server, client bool // who attests
		binder         bool
	}{
		{"server", args(identity(), softTEE), verifySoftTEE(), true, false, true},
		{"server, draft-08", args(identity(), softTEE, draft), args(verifySoftTEE(), draft), true, false, true},
		{"server, attestation-only", args(softTEE, only), args(verifySoftTEE(), only), true, false, true},
		{"server, attestation-only, draft-08", args(softTEE, only, draft), args(verifySoftTEE(), only, draft), true, false, false},
		{"client", args(identity(), clientCA, verifySoftTEE()), args(clientIdentity(), softTEE), false, true, true},
		{"server, SNP", args(identity(), softSNP), verifySoftTEE(), true, false, true},
		{"server, SNP, draft-08", args(identity(), softSNP, draft), args(verifySoftTEE(), draft), true, false, true},
		{"server, SNP, attestation-only", args(softSNP, only), args(verifySoftTEE(), only), true, false, true},
		{"server, SNP, attestation-only, draft-08", args(softSNP, only, draft), args(verifySoftTEE(), only, draft), true, false, false},
		{"server, SNP, type chosen", args(identity(), softSNP), args(verifySoftTEE(), []string{"--evidence-type", tsm.MediaTypeJSON}), true, false, true},
		{"both, SNP and TDX", args(identity(), clientCA, verifySoftTEE(), softSNP), args(clientIdentity(), softTEE, verifySoftTEE()), true, true, true},
		{"both", args(identity(), clientCA, verifySoftTEE(), softTEE), args(clientIdentity(), softTEE, verifySoftTEE()), true, true, true},
		{"server, two keys", args(identity(), softTEE, []string{"--attested-key", "new"}), args(verifySoftTEE(), []string{"--peer-attested-key"}), true, false, true},
		{"both, two keys", args(identity(), clientCA, softTEE, verifySoftTEE(), []string{"--attested-key", pki("client-key.pem"), "--peer-attested-key"}),
			args(clientIdentity(), softTEE, verifySoftTEE(), []string{"--attested-key", "new", "--peer-attested-key"}), true, true, true},
		{"server, passport", args(identity(), []string{"--attest", "results:" + pki("results.json")}), passport, true, false, false},
		{"client, passport", args(identity(), clientCA, passport), args(clientIdentity(), []string{"--attest", "results:" + pki("client-results.json")}), false, true, false},
		{"both, one by passport", args(identity(), clientCA, verifySoftTEE(), []string{"--attest", "results:" + pki("results.json"), "--verifier-id", string(softtee.ResultsIdentity)}), args(clientIdentity(), softTEE, passport), true, true, false},
		{"server, by command", args(identity(), attestExec), verifyExec, true, false, true},
		{"server, attestation-only, by command", args(attestExec, only), args(verifyExec, only), true, false, true},
		{"client, by command", args(identity(), clientCA, verifyExec), args(clientIdentity(), attestExec), false, true, true},
		{"server, command attests and this program verifies", args(identity(), []string{"--attest", execCommand("quote")}), verifySoftTEE(), true, false, true},
		{"server, type chosen", args(identity(), softTEE), args(verifySoftTEE(), []string{"--evidence-type", tsm.MediaTypeJSON}), true, false, true},
		{"server, any type", args(identity(), softTEE), args(verifySoftTEE(), []string{"--evidence-type", "273"}), true, false, true},
		{"server, content format by command", args(identity(), attestExec, []string{"--evidence-type", "application/x-test"}), args(verifyExec, []string{"--evidence-type", "65000", "--evidence-type", "application/x-test"}), true, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := connect(t, c.serve, c.dial)
			p.ok(t)
			if wants := strings.Contains(c.name, "passport"); wants != (p.c["model"] == "passport") {
				t.Errorf("model is %v", p.c["model"])
			}
			if c.name != "server, any type" { // one end knows what came of it
				p.same(t, c.binder)
			}
			if c.server {
				attested(t, p.c)
			}
			if c.client {
				attested(t, p.s)
			}
			if p.s["self_attested"] != c.server || p.c["self_attested"] != c.client {
				t.Errorf("self_attested: server %v, client %v", p.s["self_attested"], p.c["self_attested"])
			}
			if !c.client && p.s["peer"] != nil {
				t.Errorf("server says of a client that it did not ask: %v", p.s["peer"])
			}
			if p.c["tickets_received"] != 0.0 {
				t.Errorf("%v tickets", p.c["tickets_received"])
			}
		})
	}
}

func TestRefusedConnections(t *testing.T) {
	softTEE := []string{"--attest", "softtee:tdx"}
	otherRoots := tempFile(t, "roots.pem", softtee.NewTDX(&softtee.TDXOptions{Seed: "other"}).RootsPEM())
	softSNP := []string{"--attest", "softtee:snp"}
	otherSNPRoots := tempFile(t, "snp-roots.pem", softtee.NewSNP(&softtee.SNPOptions{Seed: "other"}).RootsPEM())
	tdxRoots, tdxPolicy := tempFile(t, "tdx-roots.pem", softtee.RootsPEM()), tempFile(t, "tdx-policy.json", softtee.Policy())
	snp := func(o softtee.SNPCollateralOptions) string {
		o.Now = time.Now().Add(-time.Hour)
		c, err := softtee.NewSNP(nil).Collateral(&o)
		if err != nil {
			t.Fatal(err)
		}
		b, err := verifier.JoinCollateral(nil, c)
		if err != nil {
			t.Fatal(err)
		}
		return tempFile(t, "snp-collateral.json", b)
	}
	revoked := snp(softtee.SNPCollateralOptions{RevokeASK: true})
	expired := snp(softtee.SNPCollateralOptions{NextUpdate: time.Now().Add(-time.Minute)})
	otherPolicy := tempFile(t, "policy.json", fmt.Appendf(nil, `{"tdx": {"mrtd": ["%096x"]}}`, 1))
	short := []string{"--timeout", "3s"}
	for _, c := range []struct {
		name        string
		serve, dial []string
		alert       float64
		byServer    bool
		stage       string
		status      int // of the end that refuses
		peerStatus  int
		say         []string // in the error of the end that refuses
	}{
		{"bindings differ", args(identity(), softTEE, []string{"--binding", "draft-08"}), verifySoftTEE(),
			42, false, "appraise", 3, 3, []string{"hardened", "draft-08"}},
		{"bindings differ, the other way", args(identity(), softTEE), args(verifySoftTEE(), []string{"--binding", "draft-08"}),
			42, false, "appraise", 3, 3, []string{"hardened", "draft-08"}},
		{"other roots", args(identity(), softTEE), []string{"--verify", "local", "--trust-roots", otherRoots, "--collateral", pki("collateral.json")},
			42, false, "appraise", 3, 3, nil},
		{"Intel's roots", args(identity(), softTEE), []string{"--verify", "local", "--collateral", pki("collateral.json")},
			42, false, "appraise", 3, 3, nil},
		{"two keys that are not accepted", args(identity(), softTEE, []string{"--attested-key", "new"}), verifySoftTEE(),
			109, true, "attest", 3, 3, []string{"attested_key_proof"}},
		{"results of nobody trusted", args(identity(), []string{"--attest", "results:" + pki("results.json")}),
			[]string{"--verify", "results", "--trust-roots", tempFile(t, "key.pem", softtee.NewResultsIssuer(&softtee.ResultsOptions{Seed: "x"}).PublicKeyPEM()), "--verifier-id", "other.example"},
			225, true, "negotiate", 3, 3, []string{"other.example"}},
		{"results signed by another key", args(identity(), []string{"--attest", "results:" + pki("results.json")}),
			[]string{"--verify", "results", "--trust-roots", tempFile(t, "key2.pem", softtee.NewResultsIssuer(&softtee.ResultsOptions{Seed: "x"}).PublicKeyPEM()), "--verifier-id", string(softtee.ResultsIdentity)},
			42, false, "appraise", 3, 3, nil},
		{"results over another key", args(identity(), []string{"--attest", "results:" + pki("client-results.json")}),
			[]string{"--verify", "results", "--trust-roots", pki("verifiers.json")},
			80, true, "attest", 3, 3, nil},
		{"no collateral", args(identity(), softTEE), []string{"--verify", "local", "--trust-roots", pki("trust-roots.pem")},
			80, false, "appraise", 3, 3, []string{"collateral"}},
		{"other measurement", args(identity(), softTEE), []string{"--verify", "local", "--trust-roots", pki("trust-roots.pem"), "--collateral", pki("collateral.json"), "--policy", otherPolicy},
			49, false, "appraise", 4, 4, []string{"mrtd"}},
		{"SNP, other roots", args(identity(), softSNP), []string{"--verify", "local", "--trust-roots", otherSNPRoots, "--collateral", pki("collateral.json")},
			42, false, "appraise", 3, 3, nil},
		{"SNP, AMD's roots", args(identity(), softSNP), []string{"--verify", "local", "--collateral", pki("collateral.json")},
			42, false, "appraise", 3, 3, nil},
		{"SNP, roots for TDX", args(identity(), softSNP), []string{"--verify", "local", "--trust-roots", tdxRoots, "--collateral", pki("collateral.json")},
			80, false, "appraise", 3, 3, []string{"no trusted roots"}},
		{"SNP, policy for TDX", args(identity(), softSNP), []string{"--verify", "local", "--trust-roots", pki("trust-roots.pem"), "--collateral", pki("collateral.json"), "--policy", tdxPolicy},
			49, false, "appraise", 4, 4, []string{"no section for SNP"}},
		{"SNP, no collateral", args(identity(), softSNP), []string{"--verify", "local", "--trust-roots", pki("trust-roots.pem")},
			80, false, "appraise", 3, 3, []string{"revocation list"}},
		{"SNP, revoked", args(identity(), softSNP), []string{"--verify", "local", "--trust-roots", pki("trust-roots.pem"), "--collateral", revoked},
			42, false, "appraise", 3, 3, []string{"SEV-Milan is revoked"}},
		{"SNP, expired revocation list", args(identity(), softSNP), []string{"--verify", "local", "--trust-roots", pki("trust-roots.pem"), "--collateral", expired},
			49, false, "appraise", 4, 4, []string{"not current"}},
		{"SNP, debug", args(identity(), []string{"--attest", execCommand("snp", "debug")}), verifySoftTEE(),
			49, false, "appraise", 4, 4, []string{"debug"}},
		{"SNP, migration agent", args(identity(), []string{"--attest", execCommand("snp", "migration")}), verifySoftTEE(),
			49, false, "appraise", 4, 4, []string{"migration_agent"}},
		{"SNP, tampered", args(identity(), []string{"--attest", execCommand("snp", "tamper")}), verifySoftTEE(),
			42, false, "appraise", 3, 3, nil},
		{"SNP, bindings differ", args(identity(), softSNP, []string{"--binding", "draft-08"}), verifySoftTEE(),
			42, false, "appraise", 3, 3, []string{"hardened", "draft-08"}},
		{"malformed", args(identity(), []string{"--attest", execCommand("send", "ff")}), verifySoftTEE(),
			50, false, "appraise", 2, 2, nil},
		{"server does not attest", identity(), verifySoftTEE(), 109, false, "negotiate", 3, 3, []string{"does not attest"}},
		{"client does not attest", args(identity(), []string{"--client-ca", pki("ca.pem")}, verifySoftTEE()), clientIdentity(),
			109, true, "negotiate", 3, 3, nil},
		{"no type in common", args(identity(), softTEE), []string{"--verify", execCommand("verify"), "--evidence-type", "text/plain"},
			224, true, "negotiate", 3, 3, nil},
		{"client's bindings differ", args(identity(), []string{"--client-ca", pki("ca.pem")}, verifySoftTEE()), args(clientIdentity(), softTEE, []string{"--binding", "draft-08"}),
			42, true, "appraise", 3, 3, []string{"hardened", "draft-08"}},
		{"attester fails", args(identity(), []string{"--attest", execCommand("fail")}), verifySoftTEE(),
			80, true, "attest", 3, 3, []string{"the TEE is gone"}},
		{"attester is late", args(identity(), []string{"--attest", execCommand("hang")}, short), verifySoftTEE(),
			80, true, "attest", 3, 3, nil},
		{"attester is not there", args(identity(), []string{"--attest", "exec:/nonexistent/attester"}), verifySoftTEE(),
			80, true, "attest", 3, 3, nil},
		{"verifier fails", args(identity(), softTEE), []string{"--verify", execCommand("fail")},
			80, false, "appraise", 3, 3, []string{"the TEE is gone"}},
		{"verifier is late", args(identity(), softTEE), args([]string{"--verify", execCommand("hang")}, short),
			80, false, "appraise", 3, 3, nil},
		{"verifier says binding", args(identity(), softTEE), []string{"--verify", execCommand("refuse", "binding")},
			42, false, "appraise", 3, 3, []string{"not today"}},
		{"verifier says signature", args(identity(), softTEE), []string{"--verify", execCommand("refuse", "signature")},
			42, false, "appraise", 3, 3, []string{"not today"}},
		{"verifier says policy", args(identity(), softTEE), []string{"--verify", execCommand("refuse", "policy")},
			49, false, "appraise", 4, 4, []string{"not today"}},
		{"verifier says malformed", args(identity(), softTEE), []string{"--verify", execCommand("refuse", "malformed")},
			50, false, "appraise", 2, 2, []string{"not today"}},
		{"other name", args(identity(), softTEE), args(verifySoftTEE(), []string{"--servername", "other.example"}),
			42, false, "certificate", 3, 3, []string{"other.example"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := connect(t, c.serve, c.dial)
			refusing, refused, m, peer := p.dialer, p.server, p.c, p.s
			if c.byServer {
				refusing, refused, m, peer = p.server, p.dialer, p.s, p.c
			}
			if m["ok"] != false || m["stage"] != c.stage || m["alert_sent"] != c.alert || m["alert_received"] != nil {
				t.Errorf("refusing end: %s", refusing.stdout)
			}
			if peer["ok"] != false || peer["stage"] != "handshake" || peer["alert_received"] != c.alert || peer["alert_sent"] != nil {
				t.Errorf("refused end: %s", refused.stdout)
			}
			if refusing.status != c.status || refused.status != c.peerStatus {
				t.Errorf("status %d, of the other end %d", refusing.status, refused.status)
			}
			text, _ := m["error"].(string)
			for _, say := range c.say {
				if !strings.Contains(text, say) {
					t.Errorf("error %q does not say %q", text, say)
				}
			}
			if !strings.Contains(refusing.stderr, "atls: error: ") {
				t.Errorf("standard error is %q", refusing.stderr)
			}
			if who, ok := m["peer"].(map[string]any); ok && (who["attested"] != false || who["verdict"] == "affirming") {
				t.Errorf("peer is %v", who)
			}
			if strings.Contains(p.dialer.stderr, "hello") {
				t.Error("application data moved")
			}
		})
	}
}

func TestConnectionsWithoutAttestation(t *testing.T) {
	for _, mode := range [][]string{nil, {"--mode", "none"}} {
		p := connect(t, args(identity(), mode), mode)
		p.ok(t)
		for _, m := range []map[string]any{p.s, p.c} {
			if m["nonce"] != nil || m["binder"] != nil || m["peer"] != nil || m["self_attested"] != false || m["evidence_type"] != nil || m["model"] != nil {
				t.Errorf("%v", m)
			}
		}
	}
	p := connect(t, args(identity(), []string{"--client-ca", pki("ca.pem")}), nil)
	if p.server.status != 3 || p.s["alert_sent"] != 116.0 || p.c["alert_received"] != 116.0 {
		t.Errorf("client without a certificate: %s%s", p.server.stdout, p.dialer.stdout)
	}
	connect(t, args(identity(), []string{"--client-ca", pki("ca.pem")}), clientIdentity()).ok(t)
}

// --client-ca asks for a certificate, whatever is asked of the client besides.
func TestClientCAHoldsBesideARequestForEvidence(t *testing.T) {
	server := args(identity(), []string{"--client-ca", pki("ca.pem"), "--peer", "request"}, verifySoftTEE())
	if p := connect(t, server, nil); p.server.status != 3 || p.s["alert_sent"] != 116.0 {
		t.Errorf("client without a certificate: %s%s", p.server.stdout, p.dialer.stdout)
	}
	connect(t, server, clientIdentity()).ok(t)
}

func TestRequestedEvidenceMayBeMissing(t *testing.T) {
	p := connect(t, identity(), args(verifySoftTEE(), []string{"--peer", "request"}))
	p.ok(t)
	if peer := p.c["peer"].(map[string]any); peer["attested"] != false || peer["verdict"] != "none" {
		t.Errorf("peer is %v", peer)
	}
}

func TestCodePointsAndKeyLog(t *testing.T) {
	dir := t.TempDir()
	points, keylog := filepath.Join(dir, "points.json"), filepath.Join(dir, "keys")
	if err := os.WriteFile(points, []byte(`{"evidence_request": 65450, "attestation_evidence": 65451}`), 0o600); err != nil {
		t.Fatal(err)
	}
	serveArgs := args(identity(), []string{"--attest", "softtee:tdx", "--code-points", points})
	connect(t, serveArgs, args(verifySoftTEE(), []string{"--code-points", points, "--keylog", keylog})).ok(t)
	if b, err := os.ReadFile(keylog); err != nil || !bytes.Contains(b, []byte("CLIENT_TRAFFIC_SECRET_0 ")) {
		t.Errorf("key log: %q, %v", b, err)
	}
	if p := connect(t, serveArgs, verifySoftTEE()); p.c["alert_sent"] != 109.0 {
		t.Errorf("other code points: %s", p.dialer.stdout)
	}
}

func TestNobodyAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	e := atls(t, "hello\n", "dial", l.Addr().String(), "--json")
	if m := e.object(t); e.status != 5 || m["ok"] != false || m["error"] == nil || m["stage"] != nil {
		t.Errorf("status %d: %s", e.status, e.stdout)
	}
}

func TestTextGoesToPeople(t *testing.T) {
	for _, c := range []struct {
		attest string
		verify []string
		says   string
	}{
		{"softtee:tdx", verifySoftTEE(), "attested (application/vnd.veraison.tsm-report+cbor, x509, hardened)"},
		{"results:" + pki("results.json"), []string{"--verify", "results", "--trust-roots", pki("verifiers.json")},
			"attested (result by " + string(softtee.ResultsIdentity) + ", x509, hardened)"},
	} {
		r := serve(t, args(identity(), []string{"--once", "--attest", c.attest})...)
		e := atls(t, "hello\n", append([]string{"dial", "--ca", pki("ca.pem"), r.addr}, c.verify...)...)
		if e.status != 0 || e.stdout != "hello\n" || !strings.Contains(e.stderr, "verdict        affirming") || !strings.Contains(e.stderr, c.says) {
			t.Errorf("status %d, standard output %q, standard error %q", e.status, e.stdout, e.stderr)
		}
		r.end()
	}
}

func TestInterruptEndsServe(t *testing.T) {
	r := serve(t, identity()...)
	if e := atls(t, "hello\n", "dial", r.addr, "--ca", pki("ca.pem")); e.status != 0 {
		t.Fatal(e.stderr)
	}
	idle, err := net.Dial("tcp", r.addr) // one that never speaks does not hold it up
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	start := time.Now()
	r.stop()
	if e := r.end(); e.status != 0 || time.Since(start) > 10*time.Second {
		t.Errorf("status %d after %v: %s", e.status, time.Since(start), e.stderr)
	}
}

// A stock client gets in where evidence is merely asked for, and is told what it has not
// been shown.
func TestPageSaysWhatWasNotProven(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("there is no curl here")
	}
	asking := args(verifySoftTEE(), []string{"--client-ca", pki("ca.pem"), "--peer", "request", "--client-cert", "request"})
	for _, tt := range []struct {
		name  string
		serve []string
		says  []string
	}{
		{"attests and asks", args([]string{"--attest", "softtee:tdx"}, asking), []string{"did not ask for any", "nothing about what it runs", "<b>did not</b>"}},
		{"attests", []string{"--attest", "softtee:tdx"}, []string{"did not ask for any", "was not asked to attest"}},
		{"neither", nil, []string{"does not attest", "was not asked to attest"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := serve(t, args(identity(), []string{"--http", "--once"}, tt.serve)...)
			out, err := exec.CommandContext(t.Context(), curl, "-sS", "--max-time", "50", "--cacert", pki("ca.pem"), "https://"+r.addr+"/").CombinedOutput()
			text := strings.Join(strings.Fields(string(out)), " ")
			for _, says := range tt.says {
				if err != nil || !strings.Contains(text, says) {
					t.Errorf("%v, %q is missing: %s", err, says, out)
				}
			}
			if e := r.end(); e.status != 0 {
				t.Error(e.stderr)
			}
		})
	}
	// One that attests is told so, and one whose evidence is refused is not let in.
	r := serve(t, args(identity(), []string{"--http", "--once"}, asking)...)
	e := atls(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", args([]string{"dial", r.addr, "--ca", pki("ca.pem"), "--attest", "softtee:tdx"}, clientIdentity())...)
	if !strings.Contains(e.stdout, "Verdict: <b>affirming</b>") {
		t.Error(e.stdout, e.stderr)
	}
	r.end()
	connectRefused := connect(t, args(identity(), verifySoftTEE(), []string{"--client-ca", pki("ca.pem"), "--peer", "request", "--client-cert", "request", "--trust-roots", pki("ca.pem")}),
		args(clientIdentity(), []string{"--attest", "softtee:tdx"}))
	if connectRefused.server.status != statusVerification {
		t.Errorf("status %d", connectRefused.server.status)
	}
}

func TestPageSaysWhatWasFound(t *testing.T) {
	r := serve(t, append(identity(), "--http", "--once")...)
	client := &http.Client{Timeout: testTimeout, Transport: &http.Transport{TLSClientConfig: &stdtls.Config{RootCAs: roots(t)}}}
	resp, err := client.Get("https://" + r.addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || !bytes.Contains(body, []byte("was not asked to attest")) {
		t.Errorf("%v %s %s", err, resp.Status, body)
	}
	client.CloseIdleConnections()
	if e := r.end(); e.status != 0 {
		t.Error(e.stderr)
	}
}

// A page arrives whole where the client has sent more than the server reads.
func TestPageArrivesWhole(t *testing.T) {
	r := serve(t, append(identity(), "--http", "--once")...)
	conn, err := stdtls.Dial("tcp", r.addr, &stdtls.Config{RootCAs: roots(t), ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	more := strings.Repeat("x", 2*maxRequest)
	if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(more), more); err != nil {
		t.Fatal(err)
	}
	r.end() // nothing is read before the server has closed
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || !bytes.Contains(body, []byte("was not asked to attest")) {
		t.Errorf("%v: %q", err, body)
	}
}

// A hint is for what the end that reads it was started with.
func TestHintsAreForTheFlagsOfTheEnd(t *testing.T) {
	softTEE := []string{"--attest", "softtee:tdx"}
	service := []string{"--verify", "veraison:http://" + start(t, "verifier", verifySoftTEE()[2:]...).addr}
	refusing := func(class string) []string { return []string{"--verify", execCommand("refuse", class)} }
	key, err := readKey("key", pki("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	otherKey := tempFile(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: testpki.SPKI(key)}))
	b, err := ear.MarshalJWK(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	jwk := tempFile(t, "key.jwk", b)
	points := tempFile(t, "points.json", []byte(`{"attestation_evidence": 60}`))
	results := []string{"--verify", "results", "--verifier-id", string(softtee.ResultsIdentity), "--trust-roots"}
	for _, c := range []struct {
		name         string
		serve, dial  []string
		server, peer string // what the hints of the server and of the client have in them
	}{
		{"command fails to attest", []string{"--attest", execCommand("fail")}, verifySoftTEE(), attestHint, "could not make"},
		{"no result over that key", []string{"--attest", "results:" + pki("client-results.json")}, args(results, []string{pki("verifiers.json")}), attestHint, "could not make"},
		{"command says signature", softTEE, refusing("signature"), "its own error", commandHint},
		{"command says binding", softTEE, refusing("binding"), "its own error", commandHint},
		{"command says policy", softTEE, refusing("policy"), "its policy", commandHint},
		{"command fails to appraise", softTEE, []string{"--verify", execCommand("fail")}, "could not make", commandHint},
		{"quote of the key tier for a service", args(softTEE, []string{"--key-tier", "10m"}), service, "its policy", serviceHint},
		{"nobody serves", softTEE, []string{"--verify", "veraison:http://" + freeAddr(t)}, "could not make", "the service of --verify has to answer"},
		{"result by another key", []string{"--attest", "results:" + pki("results.json")}, args(results, []string{otherKey}), "its own error", "keys of the verifiers"},
		{"undated quote", args(softTEE, []string{"--key-tier", "10m"}), withQuoteAge(t, `"max_quote_age": "1h"`), "its policy", "--epoch-from"},
		{"the other does not attest early", softTEE, args(verifySoftTEE(), []string{"--mode", "early"}), "--early-form", "--early-form"},
		{"the other attests later", args(softTEE, []string{"--mode", "post-handshake"}), verifySoftTEE(), "same --mode", "same --mode"},
		{"two keys", args(softTEE, []string{"--attested-key", "new"}), verifySoftTEE(), "--peer-attested-key", "--peer-attested-key"},
		{"other code points", args(softTEE, []string{"--code-points", points}), verifySoftTEE(), "--code-points", "--code-points"},
		{"no EATs are asked for", []string{"--attest", "softtee:eat"}, args(verifySoftTEE(), []string{"--trust-roots", pki("ca.pem")}), "a key for them", "a key for them"},
	} {
		p := connect(t, args(identity(), c.serve), c.dial)
		for _, e := range []struct{ stderr, hint string }{{p.server.stderr, c.server}, {p.dialer.stderr, c.peer}} {
			if _, hint, _ := strings.Cut(e.stderr, "atls: hint: "); !strings.Contains(hint, e.hint) {
				t.Errorf("%s: no %q in %s", c.name, e.hint, e.stderr)
			}
		}
	}
	// Of a key by itself nobody has said whose it is.
	for _, path := range []string{otherKey, jwk} {
		if e := atls(t, "", "dial", "localhost:0", "--verify", "results", "--trust-roots", path); e.status != statusMalformed || !strings.Contains(e.stderr, "hint: a key by itself") {
			t.Errorf("status %d: %s", e.status, e.stderr)
		}
	}
	if e := atls(t, "", "verify", pki("eat-evidence.cmw"), "--trust-roots", pki("ca.pem")); e.status != 3 || !strings.Contains(e.stderr, "keys among --trust-roots") {
		t.Errorf("status %d: %s", e.status, e.stderr)
	}
}

// A lastWords is a connection that holds back what is to be said of a round that has
// failed until somebody has closed it, or has been about to.
type lastWords struct {
	*net.TCPConn
	armed atomic.Bool
	tried func() bool
	cut   atomic.Bool
}

func (l *lastWords) SetWriteDeadline(t time.Time) error {
	if l.armed.CompareAndSwap(true, false) {
		for !l.cut.Load() && !l.tried() {
			runtime.Gosched()
		}
	}
	return l.TCPConn.SetWriteDeadline(t)
}

func (l *lastWords) CloseWrite() error {
	l.cut.Store(true)
	return l.TCPConn.CloseWrite()
}

func (l *lastWords) Close() error {
	l.cut.Store(true)
	return l.TCPConn.Close()
}

// Who is refused when it is to attest again reads why, whatever it has sent since, and
// whoever learns of it first at the end that refuses.
func TestRefusalOfARoundArrives(t *testing.T) {
	for _, end := range []string{"by itself", "closed", "relayed"} {
		t.Run(end, func(t *testing.T) { refuseARound(t, end) })
	}
}

func refuseARound(t *testing.T, end string) {
	var f connFlags
	fs := newFlagSet("dial")
	f.register(fs)
	if err := fs.Parse(args([]string{"--ca", pki("ca.pem"), "--servername", "localhost", "--carriage", "post-handshake"}, verifySoftTEE())); err != nil {
		t.Fatal(err)
	}
	setup, err := f.setup(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer setup.close()
	cert, err := tls.LoadX509KeyPair(pki("cert.pem"), pki("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	raw, accepted := tcpPair(t)
	peer := tls.Server(accepted, &tls.Config{Certificates: []tls.Certificate{cert}, Attestation: &tls.AttestationConfig{
		Attester: softtee.NewTDX(nil).Attester(), Carriage: tls.CarriagePostHandshake,
	}})
	shaken := make(chan error, 1)
	go func() { shaken <- peer.Handshake() }()
	l := &lastWords{TCPConn: raw.(*net.TCPConn)}
	rounds, appraised, written := 0, make(chan struct{}), make(chan struct{})
	setup.config.VerifyConnection = func(tls.ConnectionState) error {
		if rounds++; rounds == 1 {
			return nil
		}
		close(appraised)
		<-written
		l.armed.Store(end != "by itself")
		return errors.New("no")
	}
	s := newSession(l, func(c net.Conn) *tls.Conn { return tls.Client(c, setup.config) })
	l.tried = func() bool {
		_, err := s.conn.Write([]byte("x"))
		return errors.Is(err, net.ErrClosed)
	}
	if err := errors.Join(s.shake(t.Context(), testTimeout), <-shaken); err != nil {
		t.Fatal(err)
	}
	peer.SetDeadline(time.Now().Add(testTimeout))
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, peer)
		read <- err
	}()
	over := make(chan struct{})
	refused := make(chan error, 1)
	go func() { refused <- s.conn.Reattest(t.Context()) }()
	<-appraised
	if _, err := peer.Write(make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(over)
		switch end {
		case "closed":
			s.close(untilRefused(s))
		case "relayed":
			plain, program := tcpPair(t)
			go io.Copy(io.Discard, program)
			go func() {
				for {
					if _, err := program.Write([]byte("x")); err != nil {
						return
					}
				}
			}()
			err := (&proxy{idle: testTimeout}).relay(t.Context(), s, plain)
			if !s.badRound(err) {
				t.Errorf("the relay ends with %v", err)
			}
			s.close(err)
		}
	}()
	close(written)
	if err := <-refused; err == nil {
		t.Error("nothing was refused")
	}
	if err := <-read; err == nil || !strings.Contains(err.Error(), "remote error: tls: bad certificate") {
		t.Errorf("the peer reads %v", err)
	}
	if _, err := accepted.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("and then %v", err)
	}
	accepted.Close()
	<-over
}

// untilRefused writes until that is refused.
func untilRefused(s *session) error {
	for {
		if _, err := s.conn.Write([]byte("x")); err != nil {
			return err
		}
	}
}

// tcpPair returns both ends of a connection, which are closed in the end.
func tcpPair(t *testing.T) (dialed, accepted net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if dialed, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return dialed, accepted
}
