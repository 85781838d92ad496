package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDemoTellsTheStory(t *testing.T) {
	e := atls(t, "", "demo")
	if e.status != 0 || e.stderr != "" {
		t.Fatalf("status %d: %s", e.status, e.stderr)
	}
	for _, say := range []string{"nonce", "binder", "MRTD", "verdict      affirming", "hello, attested world", "refused", "alert        42", "fake"} {
		if !strings.Contains(e.stdout, say) {
			t.Errorf("it does not say %q", say)
		}
	}
	e = atls(t, "", "demo", "--json")
	for line := range strings.Lines(e.stdout) {
		var step demoStep
		if err := json.Unmarshal([]byte(line), &step); err != nil || step.Title == "" {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestDemoWritesFilesThatWork(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a dir")
	if e := atls(t, "", "demo", "--write", dir); e.status != 0 || !strings.Contains(e.stdout, "atls serve") || !strings.Contains(e.stdout, "atls dial") {
		t.Fatalf("status %d: %s%s", e.status, e.stdout, e.stderr)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for name, mode := range map[string]os.FileMode{"key.pem": 0o600, "client-key.pem": 0o600, "cert.pem": 0o644} {
		if info, err := os.Stat(in(name)); err != nil || info.Mode().Perm()&^mode != 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	r := serve(t, "--once", "--cert", in("cert.pem"), "--key", in("key.pem"), "--attest", "softtee:tdx")
	e := atls(t, "hello\n", "dial", r.addr, "--ca", in("ca.pem"), "--servername", "localhost", "--verify", "local",
		"--trust-roots", in("trust-roots.pem"), "--collateral", in("collateral.json"), "--policy", in("policy.json"))
	if e.status != 0 || e.stdout != "hello\n" {
		t.Errorf("status %d: %s%s", e.status, e.stdout, e.stderr)
	}
	before := contents(t, in("key.pem"))
	if e := atls(t, "", "demo", "--write", dir); e.status != 1 || !strings.Contains(e.stderr, "exists") {
		t.Errorf("files were overwritten: status %d: %s", e.status, e.stderr)
	}
	if after, err := os.ReadFile(in("key.pem")); err != nil || !bytes.Equal(before, after) {
		t.Error("key.pem was changed")
	}
}
