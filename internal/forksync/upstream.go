package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// upstream is the one line of tls/UPSTREAM: Go version, module, checksum.
type upstream struct {
	goVersion, module, sum string
}

var goVersionRE = regexp.MustCompile(`^go1\.[0-9]+(\.[0-9]+)?$`)

// toolchainModule names the module that holds a release's sources. Those under
// src/ are the same for every platform; linux/amd64 is the one that is fetched.
func toolchainModule(goVersion string) string {
	return "golang.org/toolchain@v0.0.1-" + goVersion + ".linux-amd64"
}

func readUpstream(root string) (upstream, error) {
	b, err := os.ReadFile(filepath.Join(root, "tls", "UPSTREAM"))
	if err != nil {
		return upstream{}, err
	}
	w := strings.Fields(string(b))
	if len(w) != 3 || !goVersionRE.MatchString(w[0]) || w[1] != toolchainModule(w[0]) || !strings.HasPrefix(w[2], "h1:") {
		return upstream{}, fmt.Errorf("tls/UPSTREAM: want one line: goVERSION %s h1:CHECKSUM", toolchainModule("goVERSION"))
	}
	return upstream{w[0], w[1], w[2]}, nil
}

func (u upstream) String() string { return u.goVersion + " " + u.module + " " + u.sum + "\n" }

// fetch downloads the toolchain module of a release, or finds it in the module
// cache, and returns its sources of crypto/tls. An empty u.sum is filled in;
// otherwise it must match. The go command itself consults the checksum database.
func fetch(ctx context.Context, u *upstream) (tree, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", u.module)
	cmd.Dir = os.TempDir() // the toolchain is no requirement of this module
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	var m struct{ Dir, Sum, Error string }
	if jerr := json.Unmarshal(out, &m); jerr != nil || err != nil || m.Error != "" {
		return nil, fmt.Errorf("download %s: %v %s", u.module, err, m.Error)
	}
	if err := u.pin(m.Sum); err != nil {
		return nil, err
	}
	return readTree(filepath.Join(m.Dir, "src", "crypto", "tls"), func(string) bool { return true })
}

// pin fills in the checksum of the module, or compares it.
func (u *upstream) pin(sum string) error {
	if sum == "" {
		return fmt.Errorf("%s has no checksum", u.module)
	}
	if u.sum == "" {
		u.sum = sum
	}
	if u.sum != sum {
		return fmt.Errorf("%s has checksum %s, tls/UPSTREAM says %s", u.module, sum, u.sum)
	}
	return nil
}
