package tls

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

var updateAPI = flag.Bool("update-api", false, "write attestation_testdata/api.txt anew")

const apiFile = "attestation_testdata/api.txt"

// TestAPIIsThatOfUpstreamPlusAListedRest compares the exported declarations of
// this package with those of the crypto/tls that it is made of. All of upstream's
// are here unchanged, so that a program may change its import line and nothing
// else; what is here beyond them is in api.txt.
func TestAPIIsThatOfUpstreamPlusAListedRest(t *testing.T) {
	added, removed, err := compareAPI(upstreamDir(t), ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range removed {
		t.Errorf("upstream has, this package has not: %s", decl)
	}
	const head = "# What this package exports beyond crypto/tls. Written by: go test ./tls -run TestAPI -update-api\n"
	got := head + strings.Join(append(added, ""), "\n")
	if *updateAPI {
		if err := os.WriteFile(apiFile, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(apiFile)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	listed := strings.Split(strings.TrimSpace(strings.TrimPrefix(string(want), head)), "\n")
	for _, decl := range added {
		if !slices.Contains(listed, decl) {
			t.Errorf("exported, not in %s: %s", apiFile, decl)
		}
	}
	for _, decl := range listed {
		if !slices.Contains(added, decl) && decl != "" {
			t.Errorf("in %s, not exported: %s", apiFile, decl)
		}
	}
	t.Errorf("%s is not as the test writes it; if the change is meant, run it with -update-api", apiFile)
}

func TestCompareAPINamesEachDifference(t *testing.T) {
	const old = `package p

const A, b = 1, 2

var V int

func F(a, b int) error { return nil }

type S struct {
	X, y int
	T
}

type T []byte

func (t T) M() {}

type I interface{ M(); m() }

type c struct{ X int }
`
	dir := func(files ...string) string {
		dir := t.TempDir()
		for i, text := range files {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("p%d.go", i)), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	for _, tt := range []struct {
		old, new       string // replacement
		added, removed []string
	}{
		{old: "b = 1, 2", new: "b = 1, 3"},
		{old: "func F(a, b int) error", new: "func F(x int, y int) (err error)"},
		{old: "X, y int", new: "z int; X int"},
		{old: "c struct{ X int }", new: "c struct{ Y int }"},
		{old: "const A", new: "const C", added: []string{"const C"}, removed: []string{"const A"}},
		{old: "func F(a,", new: "func F(a uint8,", added: []string{"func F(uint8, int) error"}, removed: []string{"func F(int, int) error"}},
		{old: "X, y int", new: "X, Y int", added: []string{"type S struct, Y int"}},
		{old: "\n\tT\n", new: "\n", removed: []string{"type S struct, T"}},
		{old: "func (t T) M", new: "func (t *T) M", added: []string{"method (*T) M()"}, removed: []string{"method (T) M()"}},
		{old: "m() }", new: "m(); N() }", added: []string{"type I interface, N()"}},
		{old: "type T []byte", new: "type T = []byte", added: []string{"type T = []byte"}, removed: []string{"type T []byte"}},
		{old: "var V int", new: "", removed: []string{"var V int"}},
		{old: "type c struct", new: "type C[K any] struct", added: []string{"type C[any] struct", "type C[any] struct, X int"}},
	} {
		if strings.Count(old, tt.old) != 1 {
			t.Fatalf("%q is not there once", tt.old)
		}
		added, removed, err := compareAPI(dir(old), dir(strings.Replace(old, tt.old, tt.new, 1)))
		if err != nil || !slices.Equal(added, tt.added) || !slices.Equal(removed, tt.removed) {
			t.Errorf("%q -> %q: added %q, removed %q, error %v", tt.old, tt.new, added, removed, err)
		}
	}
	// Where a declaration stands does not matter.
	added, removed, err := compareAPI(dir(old), dir(strings.Replace(old, "var V int\n", "", 1), "package p\n\nvar V int\n"))
	if err != nil || len(added) != 0 || len(removed) != 0 {
		t.Errorf("another file: added %q, removed %q, error %v", added, removed, err)
	}
	if _, _, err := compareAPI(dir(old), t.TempDir()); err == nil {
		t.Error("an empty folder has an API")
	}
}

// upstreamDir returns the sources of the crypto/tls that UPSTREAM names: those of
// the running toolchain where it is that release, or else those that scripts/sync
// has left in the module cache.
func upstreamDir(t *testing.T) string {
	t.Helper()
	line, err := os.ReadFile("UPSTREAM")
	if err != nil {
		t.Fatal(err)
	}
	w := strings.Fields(string(line))
	if len(w) != 3 {
		t.Fatalf("UPSTREAM: %q", line)
	}
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT", "GOMODCACHE").Output()
	env := strings.Split(string(out), "\n")
	if err != nil || len(env) < 2 {
		t.Fatalf("go env: %q, %v", out, err)
	}
	version, _, _ := strings.Cut(runtime.Version(), " ")
	if version == w[0] {
		return filepath.Join(env[0], "src", "crypto", "tls")
	}
	dir := filepath.Join(env[1], filepath.FromSlash(w[1]), "src", "crypto", "tls")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("runs with %s, and the sources of %s are not in the module cache: scripts/sync check fetches them", version, w[0])
	}
	return dir
}

// compareAPI returns the exported declarations that only the package in newDir
// has, and those that only the one in oldDir has.
func compareAPI(oldDir, newDir string) (added, removed []string, err error) {
	old, err := exportedAPI(oldDir)
	if err != nil {
		return nil, nil, err
	}
	new, err := exportedAPI(newDir)
	if err != nil {
		return nil, nil, err
	}
	minus := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(s string) bool {
			_, found := slices.BinarySearch(b, s)
			return found
		})
	}
	return minus(new, old), minus(old, new), nil
}

// exportedAPI returns one line for each exported declaration, field and method of
// the package in dir, sorted. Values, bodies and names of parameters are left out.
func exportedAPI(dir string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	linux := build.Default
	linux.GOOS, linux.GOARCH, linux.BuildTags = "linux", "amd64", nil
	var api []string
	for _, name := range names {
		ok, err := linux.MatchFile(dir, filepath.Base(name))
		if err != nil {
			return nil, err
		}
		if !ok || strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			api = appendDecl(api, d)
		}
	}
	if api == nil {
		return nil, fmt.Errorf("%s exports nothing", dir)
	}
	slices.Sort(api)
	return slices.Compact(api), nil
}

func appendDecl(api []string, d ast.Decl) []string {
	switch d := d.(type) {
	case *ast.FuncDecl:
		switch {
		case !d.Name.IsExported():
		case d.Recv == nil:
			api = append(api, "func "+d.Name.Name+signature(d.Type))
		default:
			recv := types.ExprString(d.Recv.List[0].Type)
			if ast.IsExported(strings.TrimPrefix(recv, "*")) {
				api = append(api, "method ("+recv+") "+d.Name.Name+signature(d.Type))
			}
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				for _, n := range spec.Names {
					if n.IsExported() {
						api = append(api, strings.TrimSpace(d.Tok.String()+" "+n.Name+" "+exprString(spec.Type)))
					}
				}
			case *ast.TypeSpec:
				if spec.Name.IsExported() {
					api = appendType(api, spec)
				}
			}
		}
	}
	return api
}

func appendType(api []string, spec *ast.TypeSpec) []string {
	head := "type " + spec.Name.Name
	if spec.TypeParams != nil {
		head += "[" + fieldTypes(spec.TypeParams) + "]"
	}
	if spec.Assign.IsValid() {
		head += " ="
	}
	switch typ := spec.Type.(type) {
	case *ast.StructType:
		head += " struct"
		for _, f := range typ.Fields.List {
			of := types.ExprString(f.Type)
			for _, n := range f.Names {
				if n.IsExported() {
					api = append(api, head+", "+n.Name+" "+of)
				}
			}
			if embedded := of[strings.LastIndexAny(of, ".*")+1:]; f.Names == nil && ast.IsExported(embedded) {
				api = append(api, head+", "+of)
			}
		}
	case *ast.InterfaceType:
		head += " interface"
		for _, f := range typ.Methods.List {
			for _, n := range f.Names {
				if n.IsExported() {
					api = append(api, head+", "+n.Name+signature(f.Type.(*ast.FuncType)))
				}
			}
			if f.Names == nil {
				api = append(api, head+", "+types.ExprString(f.Type))
			}
		}
	default:
		head += " " + types.ExprString(typ)
	}
	return append(api, head)
}

// signature returns the parameters and results of a function by their types.
func signature(f *ast.FuncType) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "(%s)", fieldTypes(f.Params))
	switch f.Results.NumFields() {
	case 0:
	case 1:
		fmt.Fprintf(&b, " %s", fieldTypes(f.Results))
	default:
		fmt.Fprintf(&b, " (%s)", fieldTypes(f.Results))
	}
	return b.String()
}

// fieldTypes lists the types of fields, once for each name.
func fieldTypes(fields *ast.FieldList) string {
	var all []string
	for _, f := range fields.List {
		for range max(len(f.Names), 1) {
			all = append(all, types.ExprString(f.Type))
		}
	}
	return strings.Join(all, ", ")
}

func exprString(x ast.Expr) string {
	if x == nil {
		return ""
	}
	return types.ExprString(x)
}
