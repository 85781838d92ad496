// Package swtpm starts TPMs in software for tests, and has their keys enrolled.
package swtpm

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Start starts a TPM of the test's own and returns the path of its socket, which
// serves one connection at a time. The TPM ends with the test. Without swtpm the test
// is skipped.
func Start(t testing.TB) string {
	t.Helper()
	command, err := exec.LookPath("swtpm")
	if err != nil {
		t.Skip("swtpm is not installed: Debian has it in the package swtpm")
	}
	dir, err := os.MkdirTemp("", "swtpm") // that of the test may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "tpm")
	var log strings.Builder
	cmd := exec.Command(command, "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	for deadline := time.Now().Add(time.Minute); ; {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return socket
		}
		select {
		case <-ended:
			t.Fatalf("swtpm has ended: %s", log.String())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("swtpm does not listen")
		}
	}
}
