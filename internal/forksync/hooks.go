package main

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// forkDoc holds the generated table, between two comments.
const (
	forkDoc    = "docs/FORK.md"
	tableBegin = "<!-- hooks: begin, written by scripts/sync diff -->\n"
	tableEnd   = "<!-- hooks: end -->\n"
)

// A hook is one hunk of the difference between the rewritten upstream and tls/.
type hook struct {
	id, what string
	file     string
	lines    int      // added and removed
	tests    []string // that name it
}

// markerRE is the one form of a marker: an id and what the lines are for.
var markerRE = regexp.MustCompile(`// atls:hook ([a-z0-9-]+): (\S.*)$`)

// hooks cuts the difference into hunks and reads their markers.
func (f *fork) hooks(ctx context.Context, rewritten, current tree) ([]hook, error) {
	d, err := gitDiff(ctx, rewritten, current, 0)
	if err != nil {
		return nil, err
	}
	hooks, err := parseHooks(string(d))
	if err != nil {
		return nil, err
	}
	tests, err := hookTests(f.path("tls"))
	if err != nil {
		return nil, err
	}
	var untested []string
	for i := range hooks {
		h := &hooks[i]
		h.tests = tests[h.id]
		if len(h.tests) == 0 {
			untested = append(untested, h.id)
		}
	}
	if untested != nil {
		return nil, fmt.Errorf("no test in tls/attestation_*test.go names these hooks in a line of the form \"Hooks: ID, ID\": %s",
			strings.Join(untested, ", "))
	}
	return hooks, nil
}

// parseHooks reads a difference without context lines. Each hunk must have
// exactly one marker of an id of its own.
func parseHooks(diff string) ([]hook, error) {
	var hooks []hook
	var file, at string
	var cur *hook
	finish := func() error {
		if cur != nil && cur.id == "" {
			return fmt.Errorf("tls/%s %s: a change without a marker of the form \"// atls:hook ID: WHAT\"", cur.file, at)
		}
		return nil
	}
	ids := map[string]bool{}
	for line := range strings.Lines(diff) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "diff --git "):
			if err := finish(); err != nil {
				return nil, err
			}
			cur = nil
			file = strings.TrimPrefix(line[strings.LastIndex(line, " ")+1:], "b/")
		case strings.HasPrefix(line, "@@ "):
			if err := finish(); err != nil {
				return nil, err
			}
			at = line
			hooks = append(hooks, hook{file: file})
			cur = &hooks[len(hooks)-1]
		case cur == nil: // the header of a file
			if strings.HasPrefix(line, "new file") || strings.HasPrefix(line, "deleted file") || strings.HasPrefix(line, "Binary") {
				return nil, fmt.Errorf("tls/%s: %s, which no hook may do", file, line)
			}
		case strings.HasPrefix(line, "+"), strings.HasPrefix(line, "-"):
			cur.lines++
			m := markerRE.FindStringSubmatch(line)
			if m == nil || line[0] == '-' {
				continue
			}
			if cur.id != "" || ids[m[1]] {
				return nil, fmt.Errorf("tls/%s %s: hook %s is marked a second time", file, at, m[1])
			}
			cur.id, cur.what = m[1], m[2]
			ids[m[1]] = true
		}
	}
	return hooks, finish()
}

// hookTests maps the id of a hook to the tests whose doc comments name it.
func hookTests(dir string) (map[string][]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "attestation_*test.go"))
	if err != nil {
		return nil, err
	}
	tests := map[string][]string{}
	for _, name := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		for _, d := range parsed.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Doc == nil || !strings.HasPrefix(fn.Name.Name, "Test") {
				continue
			}
			for line := range strings.Lines(fn.Doc.Text()) {
				list, ok := strings.CutPrefix(strings.TrimSpace(line), "Hooks: ")
				if !ok {
					continue
				}
				for _, id := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '.' }) {
					if !slices.Contains(tests[id], fn.Name.Name) {
						tests[id] = append(tests[id], fn.Name.Name)
					}
				}
			}
		}
	}
	return tests, nil
}

// hookTable renders the table of docs/FORK.md.
func hookTable(hooks []hook) []byte {
	var b bytes.Buffer
	b.WriteString("| hook | file | lines | what it does | test |\n|---|---|---|---|---|\n")
	for _, h := range hooks {
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %s |\n", h.id, h.file, h.lines, strings.ReplaceAll(h.what, "|", `\|`), strings.Join(h.tests, ", "))
	}
	return b.Bytes()
}

// replaceTable puts a table between the two comments of doc.
func replaceTable(doc, table []byte) ([]byte, error) {
	head, rest, ok := bytes.Cut(doc, []byte(tableBegin))
	_, tail, ok2 := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !ok2 {
		return nil, fmt.Errorf("%s has lost the comments around its table", forkDoc)
	}
	return slices.Concat(head, []byte(tableBegin), table, []byte(tableEnd), tail), nil
}
