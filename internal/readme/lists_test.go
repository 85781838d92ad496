package readme

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// headings are those of tables and of diagrams, which may be alike.
var headings = regexp.MustCompile(`(?m)^\|.*\n\|---.*$|^client +server$`)

// Several people add to these, and merges keep both sides.
func TestDocumentsSayNothingTwice(t *testing.T) {
	for _, name := range []string{"README.md", "CHANGELOG.md", "docs/DESIGN.md", "docs/SECURITY.md"} {
		text := readFile(t, name)
		for _, language := range []string{"sh", "go"} {
			for _, b := range blocks(text, language) {
				text = strings.Replace(text, b, "", 1)
			}
		}
		text = headings.ReplaceAllString(text, "")
		seen := map[string]bool{}
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			line = line[:min(len(line), 60)] // the rest may have been amended on one side
			if len(line) > 30 && seen[line] {
				t.Errorf("%s has twice: %s", name, line)
			}
			seen[line] = true
		}
	}
}

// Internal packages below others, programs to copy from and peers are listed elsewhere.
var unlisted = regexp.MustCompile(`^(tls/internal|attestext/internal|examples|interop|docs|internal/bench)/`)

func TestDesignListsEveryPackage(t *testing.T) {
	list := blocks(readFile(t, "docs/DESIGN.md"), "")[0]
	seen := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && (name == "testdata" || len(name) > 2 && name[0] == '.') {
			return fs.SkipDir
		}
		dir := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../../")
		if filepath.Ext(path) != ".go" || dir == "../.." || dir == "docs" || seen[dir] || unlisted.MatchString(dir+"/") {
			return nil
		}
		seen[dir] = true
		want := strings.TrimPrefix(strings.TrimPrefix(dir, "attestext/"), "internal/")
		for _, prefix := range []string{"tls/", "atlshttp/"} {
			want = strings.TrimPrefix(want, prefix)
		}
		in := list
		if strings.HasPrefix(dir, "internal/") {
			in = list[strings.Index(list, "\ninternal/")+1:]
		}
		if !regexp.MustCompile(`(^|\W)` + regexp.QuoteMeta(want) + `\W`).MatchString(in) {
			t.Errorf("docs/DESIGN.md does not list %s", dir)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) < 20 {
		t.Errorf("%d packages", len(seen))
	}
}
