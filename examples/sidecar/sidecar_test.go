// Package sidecar has nothing but the test of its README.md.
package sidecar

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func need(t *testing.T, commands ...string) {
	t.Helper()
	for _, c := range commands {
		if _, err := exec.LookPath(c); err != nil {
			t.Skipf("there is no %s here", c)
		}
	}
}

// blocks returns the commands of README.md.
func blocks(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(string(b), -1) {
		list = append(list, m[1])
	}
	return list
}

// freePorts returns n ports that nobody listens on.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports
}

func TestREADMEsCommandsWork(t *testing.T) {
	need(t, "nginx", "curl", "bash")
	list := blocks(t)
	if len(list) != 2 || !strings.HasPrefix(list[0], "apt-get install ") {
		t.Fatalf("README.md has other commands than this test knows: %q", list)
	}
	var pairs []string
	wanted := []string{"8080", "8081", "8443", "9090"}
	for i, port := range freePorts(t, len(wanted)) {
		pairs = append(pairs, ":"+wanted[i], ":"+port)
	}
	ports := strings.NewReplacer(pairs...)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	conf, err := os.ReadFile("nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(ports.Replace(string(conf))), 0o644); err != nil {
		t.Fatal(err)
	}
	script := strings.Replace(ports.Replace(list[1]), "examples/sidecar/nginx.conf", filepath.Join(dir, "nginx.conf"), 1)
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s%s", err, &stdout, &stderr)
	}
	for _, want := range []string{"hello from nginx\nhello from nginx\nok\n", "verdict        affirming", "attested ("} {
		if !strings.Contains(lines(stdout.String(), want), want) {
			t.Errorf("%q is missing:\n%s%s", want, &stdout, &stderr)
		}
	}
}

// lines returns the lines of out that are those of want, as several programs write to
// one output.
func lines(out, want string) string {
	if !strings.Contains(want, "\n") {
		return out
	}
	var b strings.Builder
	for line := range strings.Lines(out) {
		if strings.Contains(want, line) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestUnitIsOneThatSystemdTakes(t *testing.T) {
	need(t, "systemd-analyze")
	unit, err := os.ReadFile("atls-proxy.service")
	if err != nil {
		t.Fatal(err)
	}
	// The command has to exist.
	text := strings.Replace(string(unit), "/usr/local/bin/atls", "/bin/true", 1)
	path := filepath.Join(t.TempDir(), "atls-proxy.service")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", path).CombinedOutput()
	if err != nil || strings.Contains(string(out), "atls-proxy.service:") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The command of the unit is one that atls takes: it gets as far as the files.
func TestUnitsCommandIsOneThatAtlsTakes(t *testing.T) {
	unit, err := os.ReadFile("atls-proxy.service")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/atls (.*)$`).FindStringSubmatch(string(unit))
	if m == nil {
		t.Fatal("there is no command")
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", "-C", filepath.Join("..", ".."), "./cmd/atls"}, strings.Fields(m[1])...)...)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "/etc/atls/cert.pem") {
		t.Errorf("%v\n%s", err, fmt.Sprint(string(out)))
	}
}
