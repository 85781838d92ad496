package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// requirementsFile quotes the draft and says what the ids mean.
const requirementsFile = "tls/attestation_testdata/requirements.txt"

// A requirement is a sentence of the draft.
type requirement struct {
	id, quote     string
	notApplicable string // why nothing tests it
}

// parseRequirements reads a file of requirements: an id on a line of its own, then
// indented the quote, and perhaps a note or why it does not apply.
func parseRequirements(text string) ([]requirement, error) {
	var all []requirement
	ids := map[string]bool{}
	for line := range strings.Lines(text) {
		indented := strings.HasPrefix(line, "\t")
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if !indented {
			if ids[line] || strings.ContainsAny(line, " ,") {
				return nil, fmt.Errorf("%q is no id of its own", line)
			}
			ids[line] = true
			all = append(all, requirement{id: line})
			continue
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("%q belongs to no requirement", line)
		}
		r := &all[len(all)-1]
		if reason, ok := strings.CutPrefix(line, "not applicable:"); ok {
			if r.notApplicable = strings.TrimSpace(reason); r.notApplicable == "" {
				return nil, fmt.Errorf("%s: not applicable without a reason", r.id)
			}
		} else if !strings.HasPrefix(line, "note:") {
			if r.quote != "" {
				return nil, fmt.Errorf("%s has two quotes", r.id)
			}
			r.quote = line
		}
	}
	for _, r := range all {
		if r.quote == "" {
			return nil, fmt.Errorf("%s has no quote", r.id)
		}
	}
	return all, nil
}

// requirementTests maps ids to the tests below root whose doc comments name them.
func requirementTests(root string) (map[string][]string, error) {
	tests := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			if err == nil && d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir
			}
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Doc == nil || !strings.HasPrefix(fn.Name.Name, "Test") && !strings.HasPrefix(fn.Name.Name, "Fuzz") {
				continue
			}
			for line := range strings.Lines(fn.Doc.Text()) {
				list, ok := strings.CutPrefix(strings.TrimSpace(line), "Requirements: ")
				if !ok {
					continue
				}
				for id := range strings.SplitSeq(strings.TrimSuffix(list, "."), ",") {
					id = strings.TrimSpace(id)
					tests[id] = append(tests[id], fn.Name.Name)
				}
			}
		}
		return nil
	})
	return tests, err
}

// uncovered says what is wrong between requirements and the tests that name them.
func uncovered(all []requirement, tests map[string][]string) (problems []string) {
	known := map[string]bool{}
	for _, r := range all {
		known[r.id] = true
		switch named := len(tests[r.id]) > 0; {
		case !named && r.notApplicable == "":
			problems = append(problems, fmt.Sprintf("no test names requirement %s: %q", r.id, r.quote))
		case named && r.notApplicable != "":
			problems = append(problems, fmt.Sprintf("requirement %s is said not to apply, and %s tests it", r.id, tests[r.id][0]))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(tests)) {
		if !known[id] {
			problems = append(problems, fmt.Sprintf("%s names requirement %q, which is not in %s", tests[id][0], id, requirementsFile))
		}
	}
	return problems
}

func TestEachRequirementOfTheDraftHasATest(t *testing.T) {
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(requirementsFile)))
	if err != nil {
		t.Fatal(err)
	}
	all, err := parseRequirements(string(text))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := requirementTests(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range uncovered(all, tests) {
		t.Error(p)
	}
	var not []string
	for _, r := range all {
		if r.notApplicable != "" {
			not = append(not, r.id+" ("+r.notApplicable+")")
		}
	}
	t.Attr("requirements", fmt.Sprintf("%d, of which %d have a test and %d do not apply: %s", len(all), len(all)-len(not), len(not), strings.Join(not, "; ")))
}

func TestRequirementsAreCheckedBothWays(t *testing.T) {
	all, err := parseRequirements("# why\n\na-1\n\tone\n\na-2\n\ttwo\n\tnot applicable: moon\n\na-3\n\tthree\n\tnote: x\n")
	if err != nil || len(all) != 3 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, tt := range []struct {
		named []string
		says  string
	}{
		{[]string{"a-1", "a-3"}, ""},
		{[]string{"a-1"}, `no test names requirement a-3: "three"`},
		{[]string{"a-1", "a-2", "a-3"}, "a-2 is said not to apply"},
		{[]string{"a-1", "a-3", "a-4"}, `TestX names requirement "a-4"`},
	} {
		tests := map[string][]string{}
		for _, id := range tt.named {
			tests[id] = []string{"TestX"}
		}
		got := strings.Join(uncovered(all, tests), "\n")
		if (got == "") != (tt.says == "") || !strings.Contains(got, tt.says) {
			t.Errorf("%q: %q, want %q", tt.named, got, tt.says)
		}
	}
	for _, bad := range []string{"\tquote\n", "a\n", "a\n\tq\na\n\tq\n", "a\n\tq\n\tnot applicable:\n", "a\n\tq\n\tq\n", "a, b\n\tq\n"} {
		if _, err := parseRequirements(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
