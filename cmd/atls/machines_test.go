package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDialRemembersTheMachine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machines")
	r := serve(t, args(identity(), []string{"--attest", "softtee:tdx"})...)
	dial := func(more ...string) exited {
		t.Helper()
		return atls(t, "hello\n", args([]string{"dial", r.addr, "--ca", pki("ca.pem"), "--machines", dir}, verifySoftTEE(), more)...)
	}
	for range 2 {
		if e := dial(); e.status != 0 {
			t.Fatalf("status %d: %s", e.status, e.stderr)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v", files, err)
	}
	b := contents(t, files[0])
	_, id, _ := strings.Cut(string(b), "tdx-platform:")
	if err := os.WriteFile(files[0], []byte(strings.Replace(string(b), "tdx-platform:"+id[:2], "tdx-platform:fe", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if e := dial(); e.status != 4 || !strings.Contains(e.stderr, "remove the record") || !strings.Contains(e.stderr, files[0]) {
		t.Errorf("status %d: %s", e.status, e.stderr)
	}
	checkMistakes(t, []mistake{
		{[]string{"dial", r.addr, "--machines", dir}, 1, "evidence that is verified here"},
	})
}
