// Command testreport reads the output of go test -json, prints a line for each
// package, each failure with its output, each skip with its reason and each
// attribute that a test sets, such as how many cases it has walked, and
// holds the skips against lists in the tree. It fails when a test fails, when a
// test skips that no list names, and when a listed test does not skip: nothing
// passes by silence, and a reason that no longer holds has to go.
//
//	go test -json ./... | go run ./internal/testreport
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout io.Writer) error {
	fs := flag.NewFlagSet("testreport", flag.ContinueOnError)
	module := fs.String("module", "github.com/attestedtls/atls", "the module whose folder is the current one")
	partial := fs.Bool("partial", false, "the run selects tests, so that listed tests may be missing from it")
	counts := fs.String("counts", "", "`file` that the numbers of passed, failed and skipped tests are written to")
	if err := fs.Parse(args); err != nil {
		return err
	}
	r := newReport(stdout, *partial, func(pkg string) (skipList, error) {
		rel, ok := strings.CutPrefix(pkg+"/", *module+"/")
		if !ok {
			return nil, nil
		}
		return readSkipList(rel)
	})
	err := r.read(stdin)
	fmt.Fprintf(stdout, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	if *counts != "" {
		line := fmt.Sprintf("%d %d %d\n", r.passed, r.failed, r.skipped)
		err = errors.Join(err, os.WriteFile(*counts, []byte(line), 0o666))
	}
	return err
}

// A skipList maps the name of a test, or of a subtest, to why it skips.
type skipList map[string]skip

type skip struct {
	reason string
	may    bool // the test skips on some machines only
}

// readSkipList reads the list of the package in dir. It is attestation_skips.txt
// for the fork, where a prefix tells the project's files from upstream's, and
// testdata/skips.txt elsewhere. A package without a list has no skips.
func readSkipList(dir string) (skipList, error) {
	list := skipList{}
	for _, name := range []string{"attestation_skips.txt", "testdata/skips.txt"} {
		name = filepath.Join(dir, name)
		data, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := list.parse(string(data)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return list, nil
}

// parse adds the lines of a list, "TestName: reason". A question mark before the
// name says that the test may skip, because of something the machine lacks.
// Empty lines and lines that begin with # do not count.
func (l skipList) parse(text string) error {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		line, may := strings.CutPrefix(line, "?")
		name, reason, _ := strings.Cut(line, ": ")
		name, reason = strings.TrimSpace(name), strings.TrimSpace(reason)
		if name == "" || reason == "" {
			return fmt.Errorf("%q: want \"TestName: reason\"", line)
		}
		if _, ok := l[name]; ok {
			return fmt.Errorf("%s is listed twice", name)
		}
		l[name] = skip{reason, may}
	}
	return nil
}

// event is what cmd/test2json documents, as far as it is used.
type event struct {
	Action, Package, Test, Output string
	Key, Value                    string // of an attribute
	ImportPath                    string // of a build
	Elapsed                       float64
}

// report follows a run.
type report struct {
	w       io.Writer
	partial bool
	list    func(pkg string) (skipList, error)

	passed, failed, skipped int
	pkgs                    map[string]*pkgState
}

// pkgState is a package that has begun and not ended.
type pkgState struct {
	output                  map[string][]string // by test, "" for the package
	verdict                 map[string]string
	passed, failed, skipped int
	problems                []string
}

func newReport(w io.Writer, partial bool, list func(string) (skipList, error)) *report {
	return &report{w: w, partial: partial, list: list, pkgs: map[string]*pkgState{}}
}

// read follows the events to their end and reports whether all is well.
func (r *report) read(stdin io.Reader) error {
	br := bufio.NewReader(stdin)
	packages := 0
	for {
		line, err := br.ReadString('\n')
		if strings.TrimSpace(line) != "" {
			var ev event
			if jerr := json.Unmarshal([]byte(line), &ev); jerr != nil {
				return fmt.Errorf("not the output of go test -json: %q", line)
			}
			if ev.Test == "" && (ev.Action == "pass" || ev.Action == "fail") {
				packages++
			}
			if err := r.event(&ev); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	switch {
	case len(r.pkgs) != 0:
		return fmt.Errorf("the output ends within %s", slices.Min(slices.Collect(maps.Keys(r.pkgs))))
	case r.failed != 0:
		return fmt.Errorf("%d failed", r.failed)
	case packages == 0 || r.passed == 0:
		return errors.New("no test has passed")
	}
	return nil
}

func (r *report) event(ev *event) error {
	if ev.Action == "build-output" {
		fmt.Fprint(r.w, ev.Output)
	}
	if ev.Package == "" {
		return nil
	}
	p := r.pkgs[ev.Package]
	if p == nil {
		p = &pkgState{output: map[string][]string{}, verdict: map[string]string{}}
		r.pkgs[ev.Package] = p
	}
	switch ev.Action {
	case "attr": // what a test says of itself with T.Attr
		fmt.Fprintf(r.w, "note %s: %s %s\n", ev.Test, ev.Key, ev.Value)
	case "output":
		p.output[ev.Test] = append(p.output[ev.Test], ev.Output)
	case "pass", "fail", "skip":
		if ev.Test == "" {
			delete(r.pkgs, ev.Package)
			return r.finish(p, ev)
		}
		p.verdict[ev.Test] = ev.Action
		switch ev.Action {
		case "pass":
			p.passed++
		case "skip":
			p.skipped++
		case "fail":
			p.failed++
			fmt.Fprint(r.w, strings.Join(p.output[ev.Test], ""))
		}
		if ev.Action != "skip" {
			delete(p.output, ev.Test)
		}
	}
	return nil
}

// finish reports a package that has ended.
func (r *report) finish(p *pkgState, ev *event) error {
	if ev.Action == "skip" { // it has no test files
		return nil
	}
	if ev.Action == "fail" && p.failed == 0 {
		p.failed++ // it did not build, or died between tests
		p.problems = append(p.problems, "the package failed, none of its tests did")
		fmt.Fprint(r.w, strings.Join(p.output[""], ""))
	}
	list, err := r.list(ev.Package)
	if err != nil {
		return err
	}
	for _, test := range slices.Sorted(maps.Keys(p.verdict)) {
		if p.verdict[test] != "skip" {
			continue
		}
		if s, ok := list[test]; ok {
			fmt.Fprintf(r.w, "skip %s: %s\n", test, s.reason)
			continue
		}
		p.skipped--
		p.failed++
		p.problems = append(p.problems, fmt.Sprintf("%s skips and is not listed; it says: %s", test, said(p.output[test])))
	}
	for _, test := range slices.Sorted(maps.Keys(list)) {
		verdict, ran := p.verdict[test]
		switch {
		case list[test].may, verdict == "skip", !ran && (r.partial || ev.Action == "fail"):
			continue
		case !ran:
			p.problems = append(p.problems, fmt.Sprintf("%s is listed as skipping, there is no such test", test))
		case verdict == "pass":
			p.passed--
			p.problems = append(p.problems, fmt.Sprintf("%s is listed as skipping, it passes", test))
		case verdict == "fail":
			continue // already counted
		}
		p.failed++
	}
	r.passed += p.passed
	r.failed += p.failed
	r.skipped += p.skipped
	word := "ok  "
	if p.failed != 0 {
		word = "FAIL"
	}
	fmt.Fprintf(r.w, "%s %s %.1fs: %d passed, %d failed, %d skipped\n", word, ev.Package, ev.Elapsed, p.passed, p.failed, p.skipped)
	for _, s := range p.problems {
		fmt.Fprintf(r.w, "     %s\n", s)
	}
	return nil
}

// said returns what a test itself printed, without the lines of the framework.
func said(output []string) string {
	var lines []string
	for _, l := range output {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "=== ") && !strings.HasPrefix(l, "--- ") {
			lines = append(lines, l)
		}
	}
	if len(lines) == 0 {
		return "nothing"
	}
	return strings.Join(lines, " / ")
}
