// Package testenv stands in for internal/testenv, as far as the tests use it.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Builder names the machine of Go's own build farm, of which this is none.
func Builder() string { return "" }

// CPUIsSlow reports whether long tests should be shortened.
func CPUIsSlow() bool {
	switch runtime.GOARCH {
	case "arm", "mips", "mipsle", "mips64", "mips64le", "wasm":
		return true
	}
	return false
}

// MustHaveExternalNetwork skips the test: it would talk to public servers.
func MustHaveExternalNetwork(t testing.TB) {
	t.Helper()
	t.Skip("talks to public servers, which this project's tests do not")
}

// MustHaveExecPath skips the test where there is no such program.
func MustHaveExecPath(t testing.TB, path string) {
	t.Helper()
	if _, err := exec.LookPath(path); err != nil {
		t.Skipf("no %s: %v", path, err)
	}
}

// Executable returns the path of the running test binary.
func Executable(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// GoToolPath returns the path of the go command.
func GoToolPath(t testing.TB) string {
	t.Helper()
	if p := filepath.Join(runtime.GOROOT(), "bin", "go"); fileExists(p) {
		return p
	}
	p, err := exec.LookPath("go")
	if err != nil {
		t.Skipf("no go command: %v", err)
	}
	return p
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// Command is exec.CommandContext with the test's context.
func Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), name, args...)
}

// CleanCmdEnv fills in a clean environment for a command.
func CleanCmdEnv(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(cmd.Environ(), "GODEBUG=", "GOTRACEBACK=single")
	return cmd
}
