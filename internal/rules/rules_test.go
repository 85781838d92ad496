// Package rules holds tests of the module's shape: who may import whom.
package rules

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/attestedtls/atls"

// A rule bounds what a package depends on, directly or not. What is not named in
// modules is outside of the module and of the standard library, and refused.
type rule struct {
	pkg     string   // below the module
	modules []string // that its dependencies may come from
	never   []string // packages of this module, with those below them
}

// A program that takes tls in the place of crypto/tls compiles neither protobuf
// nor a quote parser, and the layers below tls do not know it.
var rules = []rule{
	{
		pkg:     "tls",
		modules: []string{"golang.org/x/crypto", "golang.org/x/sys"},
		never: []string{"attestext/tdx", "attestext/sevsnp", "attestext/policy", "attestext/verifier", "attestext/softtee",
			"cmd", "interop"},
	},
	{
		pkg:     "keyschedule",
		modules: []string{"golang.org/x/crypto", "golang.org/x/sys"},
		never:   []string{"tls", "attestext", "cmd", "interop"},
	},
	{
		pkg:     "attestext",
		modules: []string{"golang.org/x/crypto", "golang.org/x/sys"},
		never: []string{"tls", "attestext/tdx", "attestext/sevsnp", "attestext/policy", "attestext/verifier", "attestext/softtee",
			"cmd", "interop"},
	},
}

// violations returns the dependencies that break r. deps are the import paths of
// packages outside of the standard library.
func (r rule) violations(deps []string) []string {
	var bad []string
	for _, dep := range deps {
		if rel, ok := strings.CutPrefix(dep, module+"/"); ok {
			if slices.ContainsFunc(r.never, func(p string) bool { return within(rel, p) && rel != r.pkg }) {
				bad = append(bad, dep)
			}
			continue
		}
		if !slices.ContainsFunc(r.modules, func(p string) bool { return within(dep, p) }) {
			bad = append(bad, dep)
		}
	}
	return bad
}

// within reports whether pkg is p or below it.
func within(pkg, p string) bool { return pkg == p || strings.HasPrefix(pkg, p+"/") }

func TestDependenciesKeepTheRules(t *testing.T) {
	for _, r := range rules {
		for _, goos := range []string{"linux", "darwin", "windows"} {
			t.Run(fmt.Sprintf("%s on %s", r.pkg, goos), func(t *testing.T) {
				deps := list(t, goos, r.pkg)
				if !slices.Contains(deps, module+"/"+r.pkg) {
					t.Fatalf("go list does not name the package itself: %q", deps)
				}
				for _, dep := range r.violations(deps) {
					t.Errorf("%s depends on %s", r.pkg, dep)
				}
			})
		}
	}
}

func list(t *testing.T, goos, pkg string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", module+"/"+pkg)
	cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH=amd64", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, &stderr)
	}
	return strings.Fields(string(out))
}

func TestViolationsNamesEachDependency(t *testing.T) {
	for _, tt := range []struct {
		pkg, dep string
		bad      bool
	}{
		{"tls", "golang.org/x/crypto/cryptobyte", false},
		{"tls", "golang.org/x/sys/cpu", false},
		{"tls", module + "/tls", false},
		{"tls", module + "/tls/internal/godebug", false},
		{"tls", module + "/attestext", false},
		{"tls", module + "/keyschedule", false},
		{"tls", "google.golang.org/protobuf/proto", true},
		{"tls", "github.com/google/go-tdx-guest/verify", true},
		{"tls", "golang.org/x/cryptography", true}, // not below golang.org/x/crypto
		{"tls", "golang.org/x/net/http2", true},
		{"tls", module + "/attestext/tdx", true},
		{"tls", module + "/attestext/verifier/client", true},
		{"keyschedule", module + "/tls", true},
		{"keyschedule", module + "/attestext", true},
		{"keyschedule", module + "/keyschedule", false},
		{"attestext", module + "/tls", true},
		{"attestext", module + "/tls/internal/byteorder", true},
		{"attestext", module + "/attestext", false},
		{"attestext", module + "/attestext/softtee", true},
		{"attestext", "github.com/fxamacker/cbor/v2", true},
	} {
		i := slices.IndexFunc(rules, func(r rule) bool { return r.pkg == tt.pkg })
		if got := len(rules[i].violations([]string{tt.dep})) != 0; got != tt.bad {
			t.Errorf("%s importing %s is a violation: %v, want %v", tt.pkg, tt.dep, got, tt.bad)
		}
	}
}
