package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// tree is a set of files below one folder, by slash-separated path.
type tree map[string][]byte

// modulePath is where the fork lives.
const modulePath = "github.com/attestedtls/atls/"

// imports maps an import path that only the standard library may use to its
// stand-in. A stand-in has the same identifiers, so import lines are all that
// changes; "name path" imports under another package name.
var imports = map[string]string{
	"crypto/internal/boring":         modulePath + "tls/internal/boring",
	"crypto/internal/cryptotest":     modulePath + "tls/internal/cryptotest",
	"crypto/internal/fips140":        modulePath + "tls/internal/fips140",
	"crypto/internal/fips140/tls12":  modulePath + "tls/internal/tls12",
	"crypto/internal/fips140/tls13":  "tls13 " + modulePath + "keyschedule",
	"crypto/tls/internal/fips140tls": modulePath + "tls/internal/fips140tls",
	"internal/byteorder":             modulePath + "tls/internal/byteorder",
	"internal/cpu":                   "golang.org/x/sys/cpu",
	"internal/godebug":               modulePath + "tls/internal/godebug",
	"internal/obscuretestdata":       modulePath + "tls/internal/obscuretestdata",
	"internal/testenv":               modulePath + "tls/internal/testenv",

	// No longer used once the directives and substitutions are done.
	"crypto/internal/fips140/aes":     "",
	"crypto/internal/fips140/aes/gcm": "",
	"unsafe":                          "",
}

// dropped says which upstream files the fork does without, and why.
func dropped(name string) bool {
	switch {
	case name == "example_test.go": // net/http wants the standard Config
		return true
	case strings.HasPrefix(name, "fipsonly/"): // forces a mode of the standard package
		return true
	}
	return false
}

// A substitution replaces text that must occur exactly count times in a file. If
// upstream changes the text, the rewrite fails instead of passing it by.
type substitution struct {
	file, old, new string
	count          int
}

var substitutions = []substitution{
	// The constructors that record FIPS 140 service use are out of reach.
	{"cipher_suites.go", "gcm.NewGCMForTLS12(aes.(*fipsaes.Block))", "cipher.NewGCM(aes)", 1},
	{"cipher_suites.go", "gcm.NewGCMForTLS13(aes.(*fipsaes.Block))", "cipher.NewGCM(aes)", 1},
	// Without these the linker test looks for symbols of another package and passes.
	{"link_test.go", `"crypto/tls"` + "\nfunc", `"` + modulePath + `tls"` + "\nfunc", 3},
	{"link_test.go", `"crypto/tls.`, `"` + modulePath + `tls.`, 4},
	{"link_test.go", `"type:crypto/tls.`, `"type:` + modulePath + `tls.`, 2},
	// The program is built from within the module, or the import does not resolve.
	{"link_test.go", `"build", "-o", "x.exe", "x.go")` + "\n\t\t\tcmd.Dir = tmpDir\n", `"build", "-o", exeFile, goFile)` + "\n", 1},
}

// rewrite turns crypto/tls into a package of this module by mechanical edits of
// import lines, linkname directives and the substitutions. It knows nothing of
// attestation.
func rewrite(up tree) (tree, error) {
	out := tree{}
	var errs []error // all of them: a bump wants to know what lies ahead
	for _, name := range slices.Sorted(maps.Keys(up)) {
		data := up[name]
		if dropped(name) {
			continue
		}
		for _, s := range substitutions {
			if s.file != name {
				continue
			}
			if n := bytes.Count(data, []byte(s.old)); n != s.count {
				errs = append(errs, fmt.Errorf("%s: %q occurs %d times, want %d", name, s.old, n, s.count))
			}
			data = bytes.ReplaceAll(data, []byte(s.old), []byte(s.new))
		}
		if strings.HasSuffix(name, ".go") {
			var err error
			if data, err = rewriteGo(name, data); err != nil {
				errs = append(errs, err)
			}
		}
		out[name] = data
	}
	for _, s := range substitutions {
		if _, ok := up[s.file]; !ok {
			errs = append(errs, fmt.Errorf("upstream has no %s any more", s.file))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// rewriteGo edits the import lines of one file and drops its linkname directives.
func rewriteGo(name string, src []byte) ([]byte, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	lines := strings.SplitAfter(string(src), "\n")
	changed := false
	var missing []error
	for _, imp := range f.Imports {
		p, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			return nil, err
		}
		to, ok := imports[p]
		if !ok {
			if !importable(p) {
				missing = append(missing, fmt.Errorf("%s imports %s, for which there is no stand-in", name, p))
			}
			continue
		}
		changed = true
		from, end := fset.Position(imp.Pos()), fset.Position(imp.End())
		at := from.Line - 1
		if to == "" {
			lines[at] = ""
			continue
		}
		spec := strconv.Quote(to)
		if n, q, ok := strings.Cut(to, " "); ok {
			spec = n + " " + strconv.Quote(q)
		} else if imp.Name != nil {
			spec = imp.Name.Name + " " + spec
		}
		lines[at] = lines[at][:from.Column-1] + spec + lines[at][end.Column-1:]
	}
	if missing != nil {
		return nil, errors.Join(missing...)
	}
	for i, l := range lines {
		if strings.HasPrefix(l, "//go:linkname ") {
			lines[i], changed = "", true
		}
	}
	if !changed {
		return src, nil
	}
	out, err := format.Source([]byte(strings.Join(lines, "")))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

// importable reports whether a package outside of the standard library may
// import p: it is no internal package, and not vendored by the standard library
// under a path that this module does not require.
func importable(p string) bool {
	first, _, _ := strings.Cut(p, "/")
	if strings.Contains(first, ".") {
		return strings.HasPrefix(p, "golang.org/x/crypto/")
	}
	return first != "internal" && !strings.Contains(p, "/internal/")
}

// owned reports whether a file below tls/ is this project's and not upstream's.
func owned(name string) bool {
	switch {
	case name == "UPSTREAM", name == "UPSTREAM.diff", name == "LICENSE":
		return true
	case strings.HasPrefix(path.Base(name), "attestation_"), strings.HasPrefix(name, "attestation_testdata/"):
		return true
	case strings.HasPrefix(name, "exportedauth/"):
		return true
	}
	return strings.HasPrefix(name, "internal/") && !strings.HasPrefix(name, "internal/fips140tls/")
}

// readTree reads the files below dir that keep accepts.
func readTree(dir string, keep func(name string) bool) (tree, error) {
	t := tree{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if name := filepath.ToSlash(rel); keep(name) {
			t[name], err = os.ReadFile(p)
		}
		return err
	})
	return t, err
}

// writeTree writes t below dir.
func writeTree(dir string, t tree) error {
	for name, data := range t {
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o777); err != nil {
			return err
		}
		if err := os.WriteFile(p, data, 0o666); err != nil {
			return err
		}
	}
	return nil
}
