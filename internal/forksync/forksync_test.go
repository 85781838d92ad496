package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// stubUpstream returns a small crypto/tls of which all substitutions can be made.
func stubUpstream() tree {
	t := tree{
		"conn.go": []byte(`package tls

import (
	"internal/godebug"
	"io"
)

var debug = godebug.New("x")

func read(r io.Reader) error {
	one(r)
	two(r)
	three(r)
	four(r)
	five(r)
	return nil
}
`),
		"alert.go":               []byte("package tls\n\ntype alert uint8\n"),
		"example_test.go":        []byte("package tls_test\n"),
		"fipsonly/fipsonly.go":   []byte("package fipsonly\n"),
		"testdata/Client-TLSv12": []byte(">>> Flow 1\n"),
	}
	for _, s := range substitutions {
		if t[s.file] == nil {
			t[s.file] = []byte("package tls\n")
		}
		t[s.file] = fmt.Appendf(t[s.file], "\n/*\n%s\n*/\n", strings.Repeat(s.old+"\n", s.count))
	}
	return t
}

// newFork returns a fork of stubUpstream with one hook, of which check approves.
// next is go1.26.9, which a test may change.
func newFork(t *testing.T) (f *fork, next tree) {
	t.Helper()
	old, next := stubUpstream(), stubUpstream()
	f = &fork{root: t.TempDir(), stdout: new(bytes.Buffer)}
	f.fetch = func(_ context.Context, u *upstream) (tree, error) {
		switch u.goVersion {
		case "go1.26.8":
			return old, u.pin("h1:old")
		case "go1.26.9":
			return next, u.pin("h1:next")
		}
		return nil, errors.New("no such release")
	}
	if err := writeTree(f.root, tree{
		"tls/UPSTREAM":      []byte("go1.26.8 " + toolchainModule("go1.26.8") + " h1:old\n"),
		"tls/UPSTREAM.diff": nil,
		"docs/FORK.md":      []byte("# Fork\n\n" + tableBegin + tableEnd + "\nMore.\n"),
		"tls/attestation_conn_test.go": []byte("package tls\n\n// TestPeek is one.\n//\n// Hooks: peek, other\n" +
			"func TestPeek(t *testing.T) {}\n"),
	}); err != nil {
		t.Fatal(err)
	}
	if err := f.rewrite(t.Context()); err != nil {
		t.Fatal(err)
	}
	edit(t, f, "tls/conn.go", "\ttwo(r)\n", "\ttwo(r)\n\tpeek(r) // atls:hook peek: look first\n")
	if err := f.diff(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.check(t.Context()); err != nil {
		t.Fatalf("the sane fork does not pass: %v", err)
	}
	return f, next
}

// edit replaces text that occurs once in a file.
func edit(t *testing.T, f *fork, name, old, new string) {
	t.Helper()
	data, err := os.ReadFile(f.path(name))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(data, []byte(old)); n != 1 {
		t.Fatalf("%s: %q occurs %d times", name, old, n)
	}
	write(t, f, name, strings.Replace(string(data), old, new, 1))
}

func write(t *testing.T, f *fork, name, text string) {
	t.Helper()
	if err := writeTree(f.root, tree{name: []byte(text)}); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, f *fork, name string) string {
	t.Helper()
	data, err := os.ReadFile(f.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// wantError fails the test unless err says want.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want one that says %q", err, want)
	}
}

func TestRewriteLeavesNoInternalImport(t *testing.T) {
	got, err := rewrite(stubUpstream())
	if err != nil {
		t.Fatal(err)
	}
	conn := string(got["conn.go"])
	if strings.Contains(conn, `"internal/godebug"`) || !strings.Contains(conn, `"github.com/attestedtls/atls/tls/internal/godebug"`) {
		t.Errorf("the import stands as it was:\n%s", conn)
	}
	for _, name := range []string{"example_test.go", "fipsonly/fipsonly.go"} {
		if _, ok := got[name]; ok {
			t.Errorf("%s was kept", name)
		}
	}
	for _, name := range []string{"alert.go", "testdata/Client-TLSv12"} {
		if !bytes.Equal(got[name], stubUpstream()[name]) {
			t.Errorf("%s was changed", name)
		}
	}
}

func TestRewriteKeepsPackageNames(t *testing.T) {
	for src, want := range map[string]string{
		`import "crypto/internal/fips140/tls13"`:   `import tls13 "github.com/attestedtls/atls/keyschedule"`,
		`import "internal/cpu"`:                    `import "golang.org/x/sys/cpu"`,
		`import bo "internal/byteorder"`:           `import bo "github.com/attestedtls/atls/tls/internal/byteorder"`,
		`import _ "unsafe" // for linkname`:        "",
		`import "crypto/internal/fips140/aes/gcm"`: "",
	} {
		src = "package tls\n\nimport (\n\t\"io\"\n\t" + strings.TrimPrefix(src, "import ") + "\n)\n"
		got, err := rewriteGo("x.go", []byte(src))
		if err != nil {
			t.Errorf("%s: %v", src, err)
		}
		if want = strings.TrimPrefix(want, "import "); !strings.Contains(string(got), "\t"+want) || strings.Count(string(got), "\n") > strings.Count(src, "\n") {
			t.Errorf("%s: got\n%s, want %s", src, got, want)
		}
		if want == "" && strings.Count(string(got), `"`) != 2 {
			t.Errorf("%s: the import stays:\n%s", src, got)
		}
	}
}

func TestRewriteDropsLinknames(t *testing.T) {
	got, err := rewriteGo("x.go", []byte("package tls\n\n//go:linkname f g\nfunc f()\n"))
	if want := "package tls\n\nfunc f()\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestRewriteRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(tree)
		want   []string
	}{
		{"unknown internals", func(up tree) {
			up["alert.go"] = []byte("package tls\n\nimport (\n\t\"internal/race\"\n\t\"crypto/internal/sysrand\"\n)\n")
			up["conn.go"] = []byte("package tls\n\nimport \"golang.org/x/net/idna\"\n")
		}, []string{
			"alert.go imports internal/race, for which there is no stand-in",
			"alert.go imports crypto/internal/sysrand, for which there is no stand-in",
			"conn.go imports golang.org/x/net/idna, for which there is no stand-in",
		}},
		{"text to substitute is gone", func(up tree) {
			up["cipher_suites.go"] = bytes.Replace(up["cipher_suites.go"], []byte("NewGCMForTLS12"), []byte("NewGCM12"), 1)
		}, []string{`cipher_suites.go: "gcm.NewGCMForTLS12(aes.(*fipsaes.Block))" occurs 0 times, want 1`}},
		{"text to substitute is there again", func(up tree) {
			up["cipher_suites.go"] = bytes.Repeat(up["cipher_suites.go"], 2)
		}, []string{"occurs 2 times, want 1"}},
		{"file to substitute in is gone", func(up tree) { delete(up, "link_test.go") },
			[]string{"upstream has no link_test.go any more"}},
		{"not Go", func(up tree) { up["alert.go"] = []byte("{}") }, []string{"alert.go:1:1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			up := stubUpstream()
			tt.change(up)
			_, err := rewrite(up)
			for _, want := range tt.want {
				wantError(t, err, want)
			}
		})
	}
}

func TestParseHooksReadsMarkers(t *testing.T) {
	got, err := parseHooks(`diff --git a/conn.go b/conn.go
index 1..2 100644
--- a/conn.go
+++ b/conn.go
@@ -10,0 +11 @@ func read
+	peek(r) // atls:hook peek: look first
@@ -20 +21,2 @@ func read
-	old(r)
+	// atls:hook swap-2: another call
+	new(r)
`)
	if err != nil || len(got) != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
	if h := got[0]; h.id != "peek" || h.what != "look first" || h.file != "conn.go" || h.lines != 1 {
		t.Errorf("first hook %+v", h)
	}
	if h := got[1]; h.id != "swap-2" || h.what != "another call" || h.lines != 3 {
		t.Errorf("second hook %+v", h)
	}
}

func TestParseHooksRefuses(t *testing.T) {
	const head = "diff --git a/x.go b/x.go\n--- a/x.go\n+++ b/x.go\n"
	for _, tt := range []struct{ name, diff, want string }{
		{"a hunk without a marker", head + "@@ -1 +1 @@\n+x\n", "a change without a marker"},
		{"one before a marked hunk", head + "@@ -1 +1 @@\n+x\n@@ -5 +5 @@\n+y // atls:hook a: b\n", "a change without a marker"},
		{"one at the end of a file", head + "@@ -1 +1 @@\n+x\n" + strings.ReplaceAll(head, "x.go", "y.go") + "@@ -5 +5 @@\n+y // atls:hook a: b\n",
			"tls/x.go @@ -1 +1 @@: a change without a marker"},
		{"a marker that goes away", head + "@@ -1 +1 @@\n-x // atls:hook a: b\n", "a change without a marker"},
		{"a marker without a purpose", head + "@@ -1 +1 @@\n+x // atls:hook a:\n", "a change without a marker"},
		{"another spelling", head + "@@ -1 +1 @@\n+x // ATLS:hook a: b\n", "a change without a marker"},
		{"two markers in a hunk", head + "@@ -1 +1,2 @@\n+x // atls:hook a: b\n+y // atls:hook c: d\n", "hook c is marked a second time"},
		{"an id in two hunks", head + "@@ -1 +1 @@\n+x // atls:hook a: b\n@@ -5 +5 @@\n+y // atls:hook a: b\n", "hook a is marked a second time"},
		{"a new file", "diff --git a/x.go b/x.go\nnew file mode 100644\n--- /dev/null\n+++ b/x.go\n@@ -0,0 +1 @@\n+x // atls:hook a: b\n", "new file"},
		{"a file that goes away", "diff --git a/x.go b/x.go\ndeleted file mode 100644\n", "deleted file"},
		{"a binary file", "diff --git a/x b/x\nBinary files a/x and b/x differ\n", "Binary files"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseHooks(tt.diff)
			wantError(t, err, tt.want)
		})
	}
}

func TestCheckRefuses(t *testing.T) {
	long := strings.Repeat("\tpeek(r)\n", maxHookLines) + "\tpeek(r) // atls:hook other: too much\n"
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, f *fork)
		diff   bool // run scripts/sync diff first
		want   string
	}{
		{"an edited file", func(t *testing.T, f *fork) { edit(t, f, "tls/conn.go", "three(r)", "four(r)") }, false, "conn.go differs"},
		{"an edited testdata file", func(t *testing.T, f *fork) { edit(t, f, "tls/testdata/Client-TLSv12", "Flow 1", "Flow 2") }, false, "testdata/Client-TLSv12 differs"},
		{"a hook that went away", func(t *testing.T, f *fork) {
			edit(t, f, "tls/conn.go", "\tpeek(r) // atls:hook peek: look first\n", "")
		}, false, "conn.go differs"},
		{"a missing file", func(t *testing.T, f *fork) {
			if err := os.Remove(f.path("tls", "alert.go")); err != nil {
				t.Fatal(err)
			}
		}, false, "alert.go is missing"},
		{"an extra file", func(t *testing.T, f *fork) { write(t, f, "tls/extra.go", "package tls\n") }, false, "extra.go is neither upstream's nor named as ours"},
		{"an extra file in the difference", func(t *testing.T, f *fork) { write(t, f, "tls/extra.go", "package tls\n") }, true, "new file"},
		{"an extra file below", func(t *testing.T, f *fork) { write(t, f, "tls/sub/extra.go", "package sub\n") }, false, "sub/extra.go is neither"},
		{"an unmarked hunk", func(t *testing.T, f *fork) { edit(t, f, "tls/conn.go", "five(r)", "six(r)") }, true, "a change without a marker"},
		{"an untested hook", func(t *testing.T, f *fork) {
			edit(t, f, "tls/conn.go", "five(r)", "five(r) // atls:hook untested: nothing")
		}, true, "ID, ID\": untested"},
		{"a hook whose test went away", func(t *testing.T, f *fork) {
			edit(t, f, "tls/attestation_conn_test.go", "Hooks: peek, other", "Hooks: other")
		}, false, "ID, ID\": peek"},
		{"a hook named by no test function", func(t *testing.T, f *fork) {
			edit(t, f, "tls/attestation_conn_test.go", "func TestPeek", "func helpPeek")
		}, false, "ID, ID\": peek"},
		{"hooks too long", func(t *testing.T, f *fork) {
			edit(t, f, "tls/conn.go", "\tfive(r)\n", "\tfive(r)\n"+long)
		}, true, "hooks change 252 lines of upstream's files, at most 250 are allowed"},
		{"a stale table", func(t *testing.T, f *fork) { edit(t, f, "docs/FORK.md", "look first", "look twice") }, false, "does not list the hooks as they are"},
		{"a table without its comments", func(t *testing.T, f *fork) { edit(t, f, "docs/FORK.md", tableEnd, "") }, false, "has lost the comments"},
		{"a stale difference", func(t *testing.T, f *fork) { edit(t, f, "tls/UPSTREAM.diff", "look first", "look twice") }, false, "conn.go differs"},
		{"a difference that does not apply", func(t *testing.T, f *fork) { edit(t, f, "tls/UPSTREAM.diff", "three(r)", "thirty(r)") }, false, "does not apply"},
		{"another checksum", func(t *testing.T, f *fork) { edit(t, f, "tls/UPSTREAM", "h1:old", "h1:new") }, false, "has checksum h1:old, tls/UPSTREAM says h1:new"},
		{"no checksum", func(t *testing.T, f *fork) { edit(t, f, "tls/UPSTREAM", " h1:old", "") }, false, "want one line"},
		{"another module", func(t *testing.T, f *fork) { edit(t, f, "tls/UPSTREAM", "golang.org/", "example.org/") }, false, "want one line"},
		{"an owned file for one system", func(t *testing.T, f *fork) { write(t, f, "tls/attestation_windows.go", "package tls\n") }, false, "attestation_windows.go"},
		{"an owned test for one architecture", func(t *testing.T, f *fork) { write(t, f, "tls/attestation_x_arm64_test.go", "package tls\n") }, false, "attestation_x_arm64_test.go"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, _ := newFork(t)
			tt.change(t, f)
			if tt.diff {
				f.diff(t.Context()) // fails too where no table can be written
			}
			wantError(t, f.check(t.Context()), tt.want)
		})
	}
}

func TestCheckNamesAllUntestedHooks(t *testing.T) {
	f, _ := newFork(t)
	edit(t, f, "tls/conn.go", "five(r)", "five(r) // atls:hook untested: nothing")
	edit(t, f, "tls/attestation_conn_test.go", "Hooks: peek, other", "Hooks: other")
	f.diff(t.Context())
	wantError(t, f.check(t.Context()), "peek, untested")
}

func TestCheckReadsHooksOfEveryOwnedTestFile(t *testing.T) {
	f, _ := newFork(t)
	test := read(t, f, "tls/attestation_conn_test.go")
	for _, name := range []string{"attestation_test.go", "attestation_a_b_test.go"} {
		if err := os.Remove(f.path("tls/attestation_conn_test.go")); err != nil {
			t.Fatal(err)
		}
		wantError(t, f.check(t.Context()), "peek")
		write(t, f, "tls/"+name, test)
		if err := f.check(t.Context()); err != nil {
			t.Errorf("the test is in %s: %v", name, err)
		}
		if err := os.Rename(f.path("tls", name), f.path("tls/attestation_conn_test.go")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCheckLeavesOwnedFilesAlone(t *testing.T) {
	f, _ := newFork(t)
	for _, name := range []string{"attestation_config.go", "attestation_testdata/api.txt", "attestation_skips.txt", "exportedauth/auth.go",
		"internal/godebug/godebug.go", "testdata/attestation_flow", "LICENSE"} {
		write(t, f, "tls/"+name, "package x\n")
	}
	if err := f.check(t.Context()); err != nil {
		t.Error(err)
	}
	// This folder of internal/ stands in for one below crypto/tls, so upstream has it too.
	write(t, f, "tls/internal/fips140tls/fipstls.go", "package fips140tls\n")
	wantError(t, f.check(t.Context()), "neither upstream's nor named as ours")
}

func TestBumpMergesHooks(t *testing.T) {
	f, next := newFork(t)
	next["conn.go"] = bytes.Replace(next["conn.go"], []byte("five(r)"), []byte("five(r, 5)"), 1)
	next["alert.go"] = append(next["alert.go"], "\nvar moved = 1\n"...)
	next["ech.go"] = []byte("package tls\n\nimport \"internal/godebug\"\n\nvar ech = godebug.New(\"ech\")\n")
	delete(next, "testdata/Client-TLSv12")
	if err := f.bump(t.Context(), "go1.26.9"); err != nil {
		t.Fatal(err)
	}
	if conn := read(t, f, "tls/conn.go"); !strings.Contains(conn, "five(r, 5)") || !strings.Contains(conn, "atls:hook peek") {
		t.Errorf("conn.go lost a change:\n%s", conn)
	}
	if !strings.Contains(read(t, f, "tls/alert.go"), "moved") {
		t.Error("alert.go did not move")
	}
	if !strings.Contains(read(t, f, "tls/ech.go"), modulePath+"tls/internal/godebug") {
		t.Error("the new file was not rewritten")
	}
	if _, err := os.Stat(f.path("tls/testdata/Client-TLSv12")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a file that upstream dropped is still there")
	}
	if got := read(t, f, "tls/UPSTREAM"); !strings.HasPrefix(got, "go1.26.9 ") || !strings.HasSuffix(got, " h1:next\n") {
		t.Errorf("UPSTREAM says %q", got)
	}
	if err := f.check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBumpLeavesConflictsInTheFiles(t *testing.T) {
	f, next := newFork(t)
	next["conn.go"] = bytes.Replace(next["conn.go"], []byte("\ttwo(r)\n"), []byte("\ttwo(r)\n\ttwoAndAHalf(r)\n"), 1)
	wantError(t, f.bump(t.Context(), "go1.26.9"), "resolve the conflicts in tls/, then run scripts/sync diff: conn.go")
	conn := read(t, f, "tls/conn.go")
	for _, want := range []string{"<<<<<<< hooks", ">>>>>>> upstream", "atls:hook peek", "twoAndAHalf(r)"} {
		if !strings.Contains(conn, want) {
			t.Errorf("conn.go has no %q:\n%s", want, conn)
		}
	}
	if err := f.check(t.Context()); err == nil {
		t.Error("check passes over the conflict")
	}
	resolved := conn[:strings.Index(conn, "<<<<<<<")] + "\tpeek(r) // atls:hook peek: look first\n\ttwoAndAHalf(r)\n" + conn[strings.Index(conn, "\tthree(r)"):]
	write(t, f, "tls/conn.go", resolved)
	if err := errors.Join(f.diff(t.Context()), f.check(t.Context())); err != nil {
		t.Errorf("after the conflict is resolved: %v", err)
	}
}

func TestBumpNamesAHookedFileThatIsGone(t *testing.T) {
	f, next := newFork(t)
	delete(next, "conn.go")
	wantError(t, f.bump(t.Context(), "go1.26.9"), "conn.go (gone upstream, has hooks)")
	if !strings.Contains(read(t, f, "tls/conn.go"), "atls:hook peek") {
		t.Error("the hooks are lost")
	}
}

// TestBumpChangesNothingWhereItFails covers a release whose imports have no
// stand-ins, one that does not exist, and a word that is no release.
func TestBumpChangesNothingWhereItFails(t *testing.T) {
	f, next := newFork(t)
	next["alert.go"] = []byte("package tls\n\nimport \"internal/race\"\n")
	for release, want := range map[string]string{
		"go1.26.9":  "alert.go imports internal/race",
		"go1.26.99": "no such release",
		"1.26.9":    "is not a release of Go",
		"go1.26rc1": "is not a release of Go",
	} {
		wantError(t, f.bump(t.Context(), release), want)
		if err := f.check(t.Context()); err != nil {
			t.Errorf("after the failed bump to %s: %v", release, err)
		}
	}
}

func TestRewriteCommandRestoresUpstream(t *testing.T) {
	f, _ := newFork(t)
	write(t, f, "tls/extra.go", "package tls\n")
	if err := errors.Join(f.rewrite(t.Context()), f.diff(t.Context()), f.check(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := read(t, f, "tls/UPSTREAM.diff"); got != "" {
		t.Errorf("a difference is left:\n%s", got)
	}
}

func TestUnknownCommandPrintsUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"chekc"}, {"check", "x"}, {"bump"}} {
		wantError(t, run(t.Context(), args, new(bytes.Buffer)), "usage: scripts/sync")
	}
}
