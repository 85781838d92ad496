package readme

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext/execplugin"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/internal/testpki"
	"github.com/attestedtls/atls/tls"
)

// root is the module's, from here.
var root = filepath.Join("..", "..")

func readFile(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// blocks returns the code blocks of that language in a file of Markdown.
func blocks(markdown, language string) []string {
	var list []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(markdown, -1) {
		list = append(list, m[1])
	}
	return list
}

// region returns the lines of a Go file between the mark of that name and the end
// mark, less the indentation of a function's body.
func region(t testing.TB, file, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(readFile(t, file), "\t// README.md: "+name+"\n")
	text, _, ok2 := strings.Cut(rest, "\t// README.md: end\n")
	if !ok || !ok2 {
		t.Fatalf("%s has no region %q", file, name)
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimPrefix(line, "\t"))
	}
	return b.String()
}

func TestREADMEShowsProgramsThatCompile(t *testing.T) {
	var want []string
	for _, name := range []string{"client", "server"} {
		want = append(want, region(t, "internal/readme/"+name+".go", name))
	}
	for _, b := range blocks(readFile(t, "README.md"), "go") {
		if strings.HasPrefix(b, "import ") {
			continue
		}
		i := slices.Index(want, b)
		if i < 0 {
			t.Errorf("no region of internal/readme is\n%s", b)
			continue
		}
		want = slices.Delete(want, i, i+1)
	}
	for _, b := range want {
		t.Errorf("README.md lacks\n%s", b)
	}
}

func TestREADMEsProgramsTalk(t *testing.T) {
	key := testpki.Key("server")
	leaf := testpki.SelfSigned(&x509.Certificate{
		DNSNames: []string{"model.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, key)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	c, err := softtee.Collateral(time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	collateral, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		tee  *softtee.TDX
		says string // by the client, in its error or its output
	}{
		{"acceptable", softtee.NewTDX(nil), "affirming tdx-platform:"},
		{"of another maker", softtee.NewTDX(&softtee.TDXOptions{Seed: "another"}), "signature does not verify"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, err := server("127.0.0.1:0", tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}, tt.tee)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(time.Minute))
				io.WriteString(conn, "hello")
			}()
			var out strings.Builder
			err = client(ln.Addr().String(), roots, softtee.RootsPEM(), collateral, softtee.Policy(), &out)
			said := out.String()
			if err != nil {
				said += err.Error()
			}
			if !strings.Contains(said, tt.says) || (err == nil) != strings.HasSuffix(out.String(), "hello") {
				t.Errorf("client says %q", said)
			}
		})
	}
}

// commands returns the commands of README.md in order, one a line, without comments.
func commands(t testing.TB) []string {
	t.Helper()
	var list []string
	for _, b := range blocks(readFile(t, "README.md"), "sh") {
		for line := range strings.Lines(strings.ReplaceAll(b, "\\\n", " ")) {
			line, _, _ = strings.Cut(line, "#")
			if line = strings.Join(strings.Fields(line), " "); line != "" {
				list = append(list, line)
			}
		}
	}
	return list
}

// TestREADMEsCommandsWork has every command of README.md run, in order: each server
// is dialed by the command that follows it.
func TestREADMEsCommandsWork(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	atls := filepath.Join(dir, "atls")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", atls, filepath.Join(root, "cmd", "atls")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	command := func(line string, more ...string) *exec.Cmd {
		words, err := execplugin.Split(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		cmd := exec.CommandContext(ctx, atls, append(words[1:], more...)...)
		cmd.Dir = dir
		return cmd
	}
	const dials = "echo hello | "
	served, dialed := 0, 0
	var running *exec.Cmd
	var log *bytes.Buffer // of the server, standard output behind the first line included
	var drained chan struct{}
	var addr string
	for _, line := range commands(t) {
		name, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "scripts/check":
			if _, err := os.Stat(filepath.Join(root, "scripts", "check")); err != nil {
				t.Error(err)
			}
		case line == "go install ./cmd/atls": // stands in for the build above
		case line == "go run ./cmd/atls demo":
			if out, err := command("atls demo").CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
		case name == "cd":
			dir = filepath.Join(dir, rest)
		case strings.HasPrefix(line, "atls serve "):
			if running != nil {
				t.Fatalf("nobody dials the server before %q", line)
			}
			running = command(line, "--once", "--listen", "127.0.0.1:0")
			stdout, err := running.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			running.Stderr = &stderr
			if err := running.Start(); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(stdout)
			first, err := r.ReadString('\n')
			if _, scanErr := fmt.Sscanf(first, "listening on %s", &addr); err != nil || scanErr != nil {
				running.Wait()
				t.Fatalf("%s: %v, %v\n%s%s", line, err, scanErr, first, &stderr)
			}
			log, drained = new(bytes.Buffer), make(chan struct{})
			go func() {
				defer close(drained)
				io.Copy(log, r)
			}()
			served++
		case strings.HasPrefix(line, dials+"atls dial localhost:4433 "):
			if running == nil {
				t.Fatalf("there is no server for %q", line)
			}
			cmd := command(strings.Replace(strings.TrimPrefix(line, dials), "localhost:4433", addr, 1))
			cmd.Stdin = strings.NewReader("hello\n")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			<-drained
			serveErr := running.Wait()
			if err != nil || serveErr != nil || string(out) != "hello\n" {
				t.Errorf("%s: %v, server %v\n%s%s%s%s", line, err, serveErr, out, &stderr, log, running.Stderr)
			}
			running = nil
			dialed++
		case name == "atls":
			if out, err := command(line).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
		default:
			t.Errorf("README.md has %q, which this test cannot run", line)
		}
	}
	if running != nil || served == 0 || served != dialed {
		t.Errorf("%d servers, %d clients", served, dialed)
	}
}

// Links and file names in the documents lead somewhere.
func TestDocumentsNameFilesThatExist(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	test := regexp.MustCompile(`\bTest[A-Z]\w+`)
	var tests strings.Builder
	err = filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			var b []byte
			b, err = os.ReadFile(path)
			tests.Write(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, filepath.Join(root, "README.md"), filepath.Join(root, "CHANGELOG.md")) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(f), m[1])); err != nil {
				t.Errorf("%s: %v", f, err)
			}
		}
		for _, name := range test.FindAllString(string(b), -1) {
			if !strings.Contains(tests.String(), "func "+name) {
				t.Errorf("%s names %s, which is not there", f, name)
			}
		}
	}
}
