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

// A rule lists all that a package may depend on, directly or not, beyond the
// standard library. A path that ends in /... stands for what is below it too.
type rule struct {
	pkg    string   // below the module
	may    []string // packages of the module, besides pkg
	others []string // other packages
}

// A program that takes tls in the place of crypto/tls compiles neither protobuf
// nor a quote parser, and the layers below tls do not know it. exportedauth serves
// any TLS stack, so that it knows none of them.
var rules = []rule{
	{
		pkg:    "tls",
		may:    []string{"tls/exportedauth", "tls/internal/...", "keyschedule", "attestext", "attestext/internal/..."},
		others: []string{"golang.org/x/crypto/...", "golang.org/x/sys/..."},
	},
	{
		pkg:    "tls/exportedauth",
		may:    []string{"keyschedule", "attestext", "attestext/internal/..."},
		others: []string{"golang.org/x/crypto/...", "golang.org/x/sys/..."},
	},
	{
		pkg:    "keyschedule",
		others: []string{"golang.org/x/crypto/...", "golang.org/x/sys/..."},
	},
	{
		pkg:    "attestext",
		may:    []string{"attestext/internal/...", "keyschedule"},
		others: []string{"golang.org/x/crypto/...", "golang.org/x/sys/..."},
	},
	{
		pkg:    "attestext/scheduler",
		may:    []string{"attestext", "attestext/internal/...", "keyschedule"},
		others: []string{"golang.org/x/crypto/...", "golang.org/x/sys/..."},
	},
	{
		pkg: "kbs",
		may: []string{"internal/strictjson", "attestext", "attestext/internal/...", "attestext/attester", "attestext/tsm", "attestext/cmw", "attestext/eat",
			"attestext/eventlog", "attestext/epoch", "keyschedule"},
		others: []string{"golang.org/x/crypto/...", "golang.org/x/sys/...", "github.com/fxamacker/cbor/v2/...", "github.com/x448/float16/...", "github.com/veraison/go-cose/..."},
	},
	{
		pkg: "proxyproto",
	},
	{
		pkg:    "enroll",
		may:    []string{"internal/accept", "internal/strictjson", "tls", "tls/internal/...", "tls/exportedauth", "keyschedule", "attestext", "attestext/internal/..."},
		others: []string{"golang.org/x/crypto/...", "golang.org/x/sys/..."},
	},
	{
		pkg:    "atlslog",
		may:    []string{"tls", "tls/internal/...", "tls/exportedauth", "keyschedule", "attestext", "attestext/internal/..."},
		others: []string{"golang.org/x/crypto/...", "golang.org/x/sys/..."},
	},
	{
		pkg:    "atlshttp",
		may:    []string{"internal/accept", "tls", "tls/exportedauth", "tls/internal/...", "keyschedule", "attestext", "attestext/internal/..."},
		others: []string{"golang.org/x/crypto/...", "golang.org/x/net/...", "golang.org/x/sys/...", "golang.org/x/text/..."},
	},
}

// violations returns the dependencies that break r. deps are the import paths of
// packages outside of the standard library.
func (r rule) violations(deps []string) []string {
	allowed := slices.Clone(r.others)
	for _, p := range append(r.may, r.pkg) {
		allowed = append(allowed, module+"/"+p)
	}
	return slices.DeleteFunc(slices.Clone(deps), func(dep string) bool {
		return slices.ContainsFunc(allowed, func(p string) bool { return matches(dep, p) })
	})
}

// matches reports whether pkg is p, or below p where that ends in /....
func matches(pkg, p string) bool {
	dir, tree := strings.CutSuffix(p, "/...")
	return pkg == dir || tree && strings.HasPrefix(pkg, dir+"/")
}

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
		{"tls", module + "/attestext/internal/strict", false},
		{"tls", module + "/attestext/tdx", true},
		{"tls", module + "/tls/exportedauth", false},
		{"tls", module + "/attestext/verifier/client", true},
		{"tls/exportedauth", module + "/attestext", false},
		{"tls/exportedauth", module + "/tls", true},
		{"tls/exportedauth", module + "/tls/internal/godebug", true},
		{"tls/exportedauth", module + "/attestext/verifier", true},
		{"tls/exportedauth", "github.com/fxamacker/cbor/v2", true},
		{"atlshttp", "golang.org/x/net/http2", false},
		{"atlshttp", module + "/tls", false},
		{"atlshttp", module + "/attestext/softtee", true},
		{"atlshttp", "google.golang.org/grpc", true},
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
