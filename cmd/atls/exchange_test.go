package main

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
)

// The modes after the handshake, on connections of serve and dial.
func TestConnectionsAttestedAfterTheHandshake(t *testing.T) {
	softTEE, clientCA := []string{"--attest", "softtee:tdx"}, []string{"--client-ca", pki("ca.pem")}
	for _, c := range []struct {
		name           string
		serve, dial    []string
		server, client bool // who attests
		model          string
	}{
		{"server", args(identity(), softTEE), verifySoftTEE(), true, false, "background-check"},
		{"server, SNP", args(identity(), []string{"--attest", "softtee:snp"}), verifySoftTEE(), true, false, "background-check"},
		{"client", args(identity(), clientCA, verifySoftTEE()), args(clientIdentity(), softTEE), false, true, "background-check"},
		{"both", args(identity(), clientCA, verifySoftTEE(), softTEE), args(clientIdentity(), softTEE, verifySoftTEE()), true, true, "background-check"},
		{"both, by command", args(identity(), clientCA, []string{"--verify", execCommand("verify"), "--attest", execCommand("attest")}),
			args(clientIdentity(), []string{"--verify", execCommand("verify"), "--attest", execCommand("attest")}), true, true, "background-check"},
		{"server, passport", args(identity(), []string{"--attest", "results:" + pki("results.json")}),
			[]string{"--verify", "results", "--trust-roots", pki("verifiers.json")}, true, false, "passport"},
	} {
		for _, mode := range []string{"post-handshake", "combined"} {
			for _, carriage := range []string{"auto", "leading", "post-handshake"} {
				t.Run(strings.Join([]string{mode, carriage, c.name}, ", "), func(t *testing.T) {
					more := []string{"--mode", mode, "--carriage", carriage}
					p := connect(t, args(c.serve, more), args(c.dial, more))
					p.ok(t)
					p.same(t, c.model == "background-check")
					if p.c["binding"] != "expat" || p.c["mode"] != mode || p.c["credential"] != "x509" || p.c["model"] != c.model {
						t.Errorf("%v", p.c)
					}
					p.checkEnds(t, c.server, c.client, !strings.Contains(c.name, "command"))
				})
			}
		}
	}
}

// A server with --client-first shows nothing to a client that it has not accepted.
func TestClientFirst(t *testing.T) {
	softTEE, first := []string{"--attest", "softtee:tdx"}, []string{"--mode", "post-handshake", "--client-first"}
	later := []string{"--mode", "post-handshake"}
	server := args(identity(), softTEE, []string{"--client-ca", pki("ca.pem")}, first)
	for _, c := range []struct {
		name        string
		serve, dial []string
		alert       any    // of the server; nil if it accepts the client
		hint        string // at the client
	}{
		{"accepted", args(server, verifySoftTEE()), args(clientIdentity(), softTEE, verifySoftTEE(), first), nil, ""},
		{"the client would be second as well", args(server, verifySoftTEE()), args(clientIdentity(), softTEE, verifySoftTEE(), later), 116.0, "must fit together"},
		{"the client does not attest", args(server, verifySoftTEE()), args(clientIdentity(), verifySoftTEE(), later), 116.0, "--attest and --client-first"},
		{"by its certificate", server, args(clientIdentity(), verifySoftTEE(), later), nil, ""},
		{"without a certificate", server, args(verifySoftTEE(), later), 116.0, "--attest and --client-first"},
	} {
		p := connect(t, c.serve, c.dial)
		if ok := c.alert == nil; p.s["ok"] != ok || p.c["ok"] != ok || p.s["self_attested"] != ok || p.s["alert_sent"] != c.alert {
			t.Errorf("%s: %s%s", c.name, p.dialer.stdout, p.server.stdout)
		}
		if !strings.Contains(p.dialer.stderr, c.hint) {
			t.Errorf("%s: %s", c.name, p.dialer.stderr)
		}
	}
}

// With --results-only a server has nothing for a client that wants evidence.
func TestResultsOnly(t *testing.T) {
	server := args(identity(), []string{"--attest", "results:" + pki("results.json"), "--results-only"})
	connect(t, server, []string{"--verify", "results", "--trust-roots", pki("verifiers.json")}).ok(t)
	if p := connect(t, server, verifySoftTEE()); p.c["ok"] != false || p.s["alert_sent"] != 224.0 {
		t.Errorf("%s%s", p.dialer.stdout, p.server.stdout)
	}
}

// Ends of different modes meet where the one that asks gets what it asks for: a server
// that attests in the handshake also answers in handshake records.
func TestEndsOfDifferentModes(t *testing.T) {
	attests := args(identity(), []string{"--attest", "softtee:tdx", "--timeout", "2s"})
	for _, c := range []struct {
		serve, dial []string
		ok          bool
	}{
		{[]string{"--mode", "post-handshake"}, nil, false},
		{nil, []string{"--mode", "post-handshake"}, true},
		{nil, []string{"--mode", "combined"}, true},
		{[]string{"--mode", "post-handshake"}, []string{"--mode", "combined"}, false},
		{[]string{"--mode", "post-handshake", "--carriage", "leading"}, []string{"--mode", "post-handshake", "--carriage", "post-handshake"}, false},
	} {
		p := connect(t, args(attests, c.serve), args(verifySoftTEE(), c.dial, []string{"--timeout", "2s"}))
		if p.c["ok"] != c.ok || (p.dialer.status == 0) != c.ok {
			t.Errorf("serve %v, dial %v: %s", c.serve, c.dial, p.dialer.stdout)
		}
	}
}

// Re-attestation goes on while a connection is open, and ends it when the verdict does.
// A request after the handshake names no type of evidence, and evidence that was refused none
// that anybody vouches for.
func TestRefusedEvidenceAfterTheHandshakeHasNoType(t *testing.T) {
	mode := []string{"--mode", "post-handshake"}
	server := serve(t, args(identity(), mode, []string{"--once", "--attest", execCommand("attest")})...)
	stdin, typing := io.Pipe() // somebody who says nothing
	defer typing.Close()
	var out bytes.Buffer
	run(t.Context(), args([]string{"dial", server.addr, "--json", "--ca", pki("ca.pem"), "--reattest", "1ms",
		"--verify", execCommand("verify-once", filepath.Join(t.TempDir(), "once"))}, mode), stdin, &out, io.Discard)
	c := exited{stdout: out.String()}.object(t)
	if v, ok := c["evidence_type"]; c["stage"] != "appraise" || !ok || v != nil {
		t.Errorf("stage %v, evidence type %v", c["stage"], v)
	}
}

func TestReattestation(t *testing.T) {
	server := serve(t, args(identity(), []string{"--once", "--attest", execCommand("attest")})...)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	stdin, typing := io.Pipe() // somebody who says nothing
	defer typing.Close()
	var out, errs bytes.Buffer
	status := run(ctx, []string{"dial", server.addr, "--json", "--ca", pki("ca.pem"), "--reattest", "1ms",
		"--verify", execCommand("verify-once", filepath.Join(t.TempDir(), "once"))}, stdin, &out, &errs)
	c := exited{status, out.String(), errs.String()}.object(t)
	if status != 4 || c["ok"] != false || c["stage"] != "appraise" || c["alert_sent"] != 49.0 || !strings.Contains(c["error"].(string), "once was enough") {
		t.Errorf("%d: %s", status, &out)
	}
	if s := server.end().object(t); s["alert_received"] != 49.0 {
		t.Errorf("%v", s)
	}
	p := connect(t, args(identity(), []string{"--attest", "softtee:tdx", "--mode", "post-handshake", "--carriage", "leading"}),
		args(verifySoftTEE(), []string{"--reattest", "1h", "--mode", "post-handshake"}))
	if p.c["ok"] != false || p.c["alert_sent"] != 109.0 || p.c["stage"] != "negotiate" {
		t.Errorf("%s", p.dialer.stdout)
	}
	connect(t, args(identity(), []string{"--attest", "softtee:tdx"}), args(verifySoftTEE(), []string{"--reattest", "1h"})).ok(t)
}
