package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// testFunctions returns the names of the tests and fuzz targets below root, by the
// directory of their package.
func testFunctions(root string) (map[string]map[string]bool, error) {
	all := map[string]map[string]bool{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && file != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		dir = filepath.ToSlash(dir)
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil {
				if all[dir] == nil {
					all[dir] = map[string]bool{}
				}
				all[dir][fn.Name.Name] = true
			}
		}
		return nil
	})
	return all, err
}

// named finds the tests that a document names in backquotes: `TestX` of any package,
// or `attestext/tdx.TestX` of one.
var named = regexp.MustCompile("`(?:([a-z0-9_/]+)\\.)?((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9_]*)`")

// unknownTests returns the tests that text names and that are not there.
func unknownTests(text string, tests map[string]map[string]bool) []string {
	var unknown []string
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		dir, name := m[1], m[2]
		known := tests[dir][name]
		if dir == "" {
			for _, names := range tests {
				known = known || names[name]
			}
		}
		if !known {
			unknown = append(unknown, strings.Trim(m[0], "`"))
		}
	}
	return unknown
}

func TestDocumentsNameTestsThatExist(t *testing.T) {
	const root = "../.."
	tests, err := testFunctions(root)
	if err != nil {
		t.Fatal(err)
	}
	docs, err := filepath.Glob(root + "/docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	traps := ""
	for _, doc := range append(docs, root+"/README.md", root+"/CHANGELOG.md") {
		b, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range unknownTests(string(b), tests) {
			t.Errorf("%s: there is no %s", filepath.Base(doc), name)
		}
		if path.Base(filepath.ToSlash(doc)) == "TRAPS.md" {
			traps = string(b)
		}
	}
	// Each trap is in the table of traps.
	for _, dir := range slices.Sorted(maps.Keys(tests)) {
		for _, name := range slices.Sorted(maps.Keys(tests[dir])) {
			if strings.HasPrefix(name, "TestTrap") && !strings.Contains(traps, "`"+dir+"."+name+"`") {
				t.Errorf("docs/TRAPS.md does not have %s.%s", dir, name)
			}
		}
	}
}

// unbounded returns the fuzz targets in a file that do not have fuzzbound.Check count
// what their input makes them allocate.
func unbounded(f *ast.File) (names []string) {
	for _, decl := range f.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || fn.Body == nil || !strings.HasPrefix(fn.Name.Name, "Fuzz") {
			continue
		}
		checks := false
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Check" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "fuzzbound" {
					checks = true
				}
			}
			return true
		})
		if !checks {
			names = append(names, fn.Name.Name)
		}
	}
	return names
}

func TestFuzzTargetsBoundWhatIsAllocated(t *testing.T) {
	const root = "../.."
	targets := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Fuzz") {
				targets++
			}
		}
		for _, name := range unbounded(f) {
			t.Errorf("%s: %s: begin its function with: defer fuzzbound.Check(t, len(b))()", file, name)
		}
		return nil
	})
	if err != nil || targets == 0 {
		t.Errorf("%d fuzz targets: %v", targets, err)
	}
	f, err := parser.ParseFile(token.NewFileSet(), "x_test.go", `package x
func FuzzA(f *testing.F) { f.Fuzz(func(t *testing.T, b []byte) { defer fuzzbound.Check(t, len(b))() }) }
func FuzzB(f *testing.F) { f.Fuzz(func(t *testing.T, b []byte) {}) }
`, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if got := unbounded(f); !slices.Equal(got, []string{"FuzzB"}) {
		t.Errorf("unbounded: %q", got)
	}
}

func TestNamedTestsAreFound(t *testing.T) {
	tests := map[string]map[string]bool{"a/b": {"TestX": true}}
	got := unknownTests("`TestX`, `TestY`, `a/b.TestX`, `a.TestX`, `a/b.TestZ`, TestQ, `b.go`", tests)
	if want := []string{"TestY", "a.TestX", "a/b.TestZ"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
