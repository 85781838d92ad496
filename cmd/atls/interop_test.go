package main

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// TestInteropWithOpenSSL runs a few cells for real.
func TestInteropWithOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip("there is no C compiler to build the peer with")
	}
	if exec.CommandContext(t.Context(), "sh", "-c", `echo '#include <openssl/ssl.h>' | cc -E -`).Run() != nil {
		t.Skip("there is no libssl-dev to build the peer with")
	}
	e := atls(t, "", "interop", "--json", "--peer", "openssl", "--case", "base.hrr", "--case", "attest.server.x509.hardened")
	if e.status != 0 {
		t.Fatalf("status %d: %s%s", e.status, e.stdout, e.stderr)
	}
	passed := map[string]bool{}
	for line := range strings.Lines(e.stdout) {
		var row struct {
			Peer, Case, Outcome string
			PeerRole            string `json:"peer_role"`
			Attested            bool
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		if row.Outcome == "passed" {
			passed[row.PeerRole+" "+row.Case] = row.Attested
		}
	}
	for cell, attested := range map[string]bool{
		"client base.hrr": false, "server base.hrr": false,
		"client attest.server.x509.hardened": true, "client attest.server.x509.hardened.hrr": true, "client attest.server.x509.hardened.mismatch": false,
	} {
		if got, ok := passed[cell]; !ok || got != attested {
			t.Errorf("%s: passed %v, attested %v", cell, ok, got)
		}
	}
}

func TestInteropUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"--peer", "nobody"}, "there is no such peer"},
		{[]string{"--case", "nothing"}, "no case is selected"},
		{[]string{"--update", ".", "--quick"}, "--update is for a run of all cases"},
	} {
		if e := atls(t, "", append([]string{"interop"}, tt.args...)...); e.status != 1 || !strings.Contains(e.stderr, tt.says) {
			t.Errorf("%q: status %d, %s", tt.args, e.status, e.stderr)
		}
	}
	if e := atls(t, "", "interop", "--peer", "crypto-tls", "--case", "attest.server"); e.status != 127 {
		t.Errorf("a case that no peer supports: status %d, %s", e.status, e.stderr)
	}
	if e := atls(t, "", "interop", "--list"); e.status != 0 || !strings.Contains(e.stdout, "attest.server.x509.hardened") {
		t.Errorf("--list: status %d", e.status)
	}
}
