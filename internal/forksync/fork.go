package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/build"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// maxHookLines bounds the lines that hooks may add to or remove from upstream's files.
const maxHookLines = 250

// fork is the working tree of the project.
type fork struct {
	root   string
	stdout io.Writer
	fetch  func(context.Context, *upstream) (tree, error) // fetch, but in tests
}

func (f *fork) path(elem ...string) string {
	return filepath.Join(append([]string{f.root}, elem...)...)
}

// load reads the rewritten upstream and what stands in tls/ of it.
func (f *fork) load(ctx context.Context) (up upstream, rewritten, current tree, err error) {
	if up, err = readUpstream(f.root); err != nil {
		return
	}
	src, err := f.fetch(ctx, &up)
	if err != nil {
		return
	}
	if rewritten, err = rewrite(src); err != nil {
		return
	}
	current, err = readTree(f.path("tls"), func(name string) bool { return !owned(name) })
	return
}

// rewrite writes the rewritten upstream over tls/ and removes what upstream no
// longer has. It is how the fork began, and where a lost tree starts from.
func (f *fork) rewrite(ctx context.Context) error {
	_, rewritten, current, err := f.load(ctx)
	if err != nil {
		return err
	}
	for name := range current {
		if _, ok := rewritten[name]; !ok {
			if err := os.Remove(f.path("tls", name)); err != nil {
				return err
			}
		}
	}
	return writeTree(f.path("tls"), rewritten)
}

// diff writes tls/UPSTREAM.diff and the table of hooks.
func (f *fork) diff(ctx context.Context) error {
	_, rewritten, current, err := f.load(ctx)
	if err != nil {
		return err
	}
	d, err := gitDiff(ctx, rewritten, current, 3)
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.path("tls", "UPSTREAM.diff"), d, 0o666); err != nil {
		return err
	}
	hooks, err := f.hooks(ctx, rewritten, current)
	if err != nil {
		return err
	}
	doc, err := os.ReadFile(f.path(forkDoc))
	if err != nil {
		return err
	}
	doc, err = replaceTable(doc, hookTable(hooks))
	if err != nil {
		return err
	}
	return os.WriteFile(f.path(forkDoc), doc, 0o666)
}

// check proves that tls/ = rewrite(upstream) + UPSTREAM.diff, that each hunk of
// the difference is a marked and tested hook, that the hooks stay small, and that
// docs/FORK.md lists them.
func (f *fork) check(ctx context.Context) error {
	up, rewritten, current, err := f.load(ctx)
	if err != nil {
		return err
	}
	d, err := os.ReadFile(f.path("tls", "UPSTREAM.diff"))
	if err != nil {
		return err
	}
	applied, err := gitApply(ctx, rewritten, d)
	if err != nil {
		return fmt.Errorf("tls/UPSTREAM.diff does not apply to the rewritten upstream: %w", err)
	}
	if err := sameTree(applied, current); err != nil {
		return fmt.Errorf("tls/ is not rewrite(%s) + tls/UPSTREAM.diff: %w; if the change is meant, run scripts/sync diff", up.goVersion, err)
	}
	if err := f.checkOwnedNames(); err != nil {
		return err
	}
	hooks, err := f.hooks(ctx, rewritten, current)
	if err != nil {
		return err
	}
	lines := 0
	for _, h := range hooks {
		lines += h.lines
	}
	if lines > maxHookLines {
		return fmt.Errorf("hooks change %d lines of upstream's files, at most %d are allowed", lines, maxHookLines)
	}
	doc, err := os.ReadFile(f.path(forkDoc))
	if err != nil {
		return err
	}
	want, err := replaceTable(doc, hookTable(hooks))
	if err != nil {
		return err
	}
	if !bytes.Equal(doc, want) {
		return fmt.Errorf("%s does not list the hooks as they are; run scripts/sync diff", forkDoc)
	}
	fmt.Fprintf(f.stdout, "tls/ = rewrite(crypto/tls of %s) + tls/UPSTREAM.diff: %d files, %d hooks, %d of at most %d changed lines\n",
		up.goVersion, len(current), len(hooks), lines, maxHookLines)
	return nil
}

// checkOwnedNames refuses a file of the project whose name makes the go command
// build it for some systems only, as attestation_plan9.go would.
func (f *fork) checkOwnedNames() error {
	files, err := filepath.Glob(f.path("tls", "attestation_*.go"))
	if err != nil {
		return err
	}
	nowhere := build.Context{GOOS: "none", GOARCH: "none", Compiler: "gc", OpenFile: func(string) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("package tls\n")), nil // only the name counts
	}}
	for _, name := range files {
		name = filepath.Base(name)
		if ok, err := nowhere.MatchFile("", name); err != nil || !ok {
			return fmt.Errorf("tls/%s: the go command takes the end of the name for a system or an architecture (%v)", name, err)
		}
	}
	return nil
}

// bump moves tls/ to another release of Go: each file is merged three ways, with
// the old rewritten upstream as the base. Conflicts are left in the files, marked
// as git marks them, and named in the error.
func (f *fork) bump(ctx context.Context, goVersion string) error {
	if !goVersionRE.MatchString(goVersion) {
		return fmt.Errorf("%q is not a release of Go such as go1.26.9", goVersion)
	}
	old, base, current, err := f.load(ctx)
	if err != nil {
		return err
	}
	next := upstream{goVersion: goVersion, module: toolchainModule(goVersion)}
	src, err := f.fetch(ctx, &next)
	if err != nil {
		return err
	}
	target, err := rewrite(src)
	if err != nil {
		return fmt.Errorf("rewriting %s: %w", goVersion, err)
	}
	var conflicts []string
	merged := tree{}
	moved := 0
	for _, name := range slices.Sorted(maps.Keys(target)) {
		b, cur, to := base[name], current[name], target[name]
		if bytes.Equal(b, to) {
			merged[name] = cur
			continue
		}
		moved++
		if bytes.Equal(b, cur) {
			merged[name] = to
			continue
		}
		m, clean, err := gitMerge(ctx, cur, b, to)
		if err != nil {
			return fmt.Errorf("merge %s: %w", name, err)
		}
		merged[name] = m
		fmt.Fprintf(f.stdout, "%s: hooks merged\n", name)
		if !clean {
			conflicts = append(conflicts, name)
		}
	}
	for name := range current {
		if _, ok := target[name]; ok {
			continue
		}
		if !bytes.Equal(current[name], base[name]) {
			conflicts = append(conflicts, name+" (gone upstream, has hooks)")
			merged[name] = current[name]
			continue
		}
		if err := os.Remove(f.path("tls", name)); err != nil {
			return err
		}
	}
	if err := writeTree(f.path("tls"), merged); err != nil {
		return err
	}
	if err := os.WriteFile(f.path("tls", "UPSTREAM"), []byte(next.String()), 0o666); err != nil {
		return err
	}
	fmt.Fprintf(f.stdout, "%s to %s: %d files changed upstream\n", old.goVersion, goVersion, moved)
	if len(conflicts) != 0 {
		return fmt.Errorf("resolve the conflicts in tls/, then run scripts/sync diff: %s", strings.Join(conflicts, ", "))
	}
	return f.diff(ctx)
}

// sameTree reports the first difference of two trees.
func sameTree(want, got tree) error {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		g, ok := got[name]
		if !ok {
			return fmt.Errorf("%s is missing", name)
		}
		if !bytes.Equal(want[name], g) {
			return fmt.Errorf("%s differs", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			return fmt.Errorf("%s is neither upstream's nor named as ours", name)
		}
	}
	return nil
}

// git runs git in dir, without the user's configuration.
func git(ctx context.Context, dir string, stdin []byte, args ...string) ([]byte, int, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out, exit.ExitCode(), fmt.Errorf("git %s: %v: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, 0, err
}

// gitDiff returns the unified difference between two trees, with as many lines of context.
func gitDiff(ctx context.Context, from, to tree, contextLines int) ([]byte, error) {
	dir, err := os.MkdirTemp("", "forksync")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// Only files that differ matter, and the names a and b give the usual prefixes.
	a, b := tree{}, tree{}
	for name := range from {
		if !bytes.Equal(from[name], to[name]) {
			a[name] = from[name]
		}
	}
	for name, data := range to {
		if old, ok := from[name]; !ok || !bytes.Equal(old, data) {
			b[name] = data
		}
	}
	for _, d := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o777); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(writeTree(filepath.Join(dir, "a"), a), writeTree(filepath.Join(dir, "b"), b)); err != nil {
		return nil, err
	}
	out, code, err := git(ctx, dir, nil, "diff", "--no-index", "--no-color", "--no-renames", "--no-ext-diff", "--no-prefix",
		"--diff-algorithm=histogram", fmt.Sprintf("-U%d", contextLines), "a", "b")
	if code == 1 { // git's way of saying that they differ
		err = nil
	}
	return out, err
}

// gitApply returns t with a unified difference applied.
func gitApply(ctx context.Context, t tree, diff []byte) (tree, error) {
	dir, err := os.MkdirTemp("", "forksync")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := writeTree(dir, t); err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(diff)) != 0 {
		if _, _, err := git(ctx, dir, diff, "apply", "--whitespace=nowarn", "-p1", "-"); err != nil {
			return nil, err
		}
	}
	return readTree(dir, func(string) bool { return true })
}

// gitMerge merges the changes from base to other into ours.
func gitMerge(ctx context.Context, ours, base, other []byte) (merged []byte, clean bool, err error) {
	dir, err := os.MkdirTemp("", "forksync")
	if err != nil {
		return nil, false, err
	}
	defer os.RemoveAll(dir)
	if err := writeTree(dir, tree{"hooks": ours, "old": base, "upstream": other}); err != nil {
		return nil, false, err
	}
	out, code, err := git(ctx, dir, nil, "merge-file", "-p", "hooks", "old", "upstream")
	if err != nil && (code == 0 || code >= 128) {
		return nil, false, err
	}
	return out, code == 0, nil
}
