package readme

import (
	"encoding/json"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
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

// Stand-ins for the standard library, programs to copy from and peers are listed elsewhere.
var unlisted = regexp.MustCompile(`^(tls/internal|examples|interop|docs|internal/bench)/`)

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

// TestDesignListsEveryCodePoint: with its default, and no other.
func TestDesignListsEveryCodePoint(t *testing.T) {
	b, err := json.Marshal(new(attestext.CodePoints).WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]uint64
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(readFile(t, "docs/DESIGN.md"), "\n## Code points\n")
	got := map[string]uint64{}
	for _, m := range regexp.MustCompile(`(?m)^\| (\w+) \| (0x\w+|\d+) \|`).FindAllStringSubmatch(text, -1) {
		if got[m[1]], err = strconv.ParseUint(m[2], 0, 16); err != nil {
			t.Fatal(err)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("docs/DESIGN.md has %v, want %v", got, want)
	}
}
