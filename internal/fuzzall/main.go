// Command fuzzall runs every fuzz target of the module for a short while. The go
// command takes one target at a time, and a target that nobody names is never
// run: this one finds them itself.
//
//	go run ./internal/fuzzall -time 5s -budget 2m
//
// With -record it keeps the results in a document, one line for each target.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/attestedtls/atls/internal/fuzzbound"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fuzzall:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("fuzzall", flag.ContinueOnError)
	each := fs.Duration("time", 5*time.Second, "how long to run a target")
	budget := fs.Duration("budget", 2*time.Minute, "how long to run all of them; the targets share it")
	only := fs.String("target", "", "regular expression that PACKAGE.TARGET must match; empty for all")
	record := fs.String("record", "", "document whose lines of results are to be replaced")
	if err := fs.Parse(args); err != nil {
		return err
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	packages := fs.Args()
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	out, err := goTool(ctx, append([]string{"test", "-list", "^Fuzz"}, packages...)...)
	if err != nil {
		return err
	}
	targets, err := parseList(string(out))
	if err != nil {
		return err
	}
	all := len(targets)
	targets = slices.DeleteFunc(targets, func(t target) bool { return !wanted.MatchString(t.String()) })
	if len(targets) == 0 && all > 0 {
		return fmt.Errorf("none of %d targets matches %q", all, *only)
	}
	if len(targets) == 0 {
		fmt.Fprintln(stdout, "no fuzz targets")
		return nil
	}
	fmt.Fprintf(stdout, "allocation bound, checked for each input: %d MiB and %d bytes for each byte of it\n", fuzzbound.Base>>20, fuzzbound.PerByte)
	d := share(*each, *budget, len(targets))
	var failed []string
	for _, t := range targets {
		result, again, err := "", "", error(nil)
		for try := range 3 {
			var out []byte
			out, err = t.fuzz(ctx, d<<try)
			if result, again, err = judge(string(out), err); again == "" {
				break
			}
			fmt.Fprintf(stdout, "again %s: %s\n", t, again)
		}
		line := fmt.Sprintf("ok    %s: %s", t, result)
		if err != nil {
			fmt.Fprintf(stdout, "FAIL  %s\n%s", t, result)
			failed = append(failed, t.String())
			line = fmt.Sprintf("FAIL  %s: within %v", t, d)
		} else {
			fmt.Fprintln(stdout, line)
		}
		if *record != "" {
			now := time.Now().UTC().Format(time.DateOnly)
			if err := recordIn(*record, t, fmt.Sprintf("%s; %s, %s, %d CPUs", line, now, runtime.Version(), runtime.NumCPU())); err != nil {
				return err
			}
		}
	}
	if len(failed) != 0 {
		return fmt.Errorf("%d of %d targets failed: %s", len(failed), len(targets), strings.Join(failed, ", "))
	}
	fmt.Fprintf(stdout, "%d targets, %v each\n", len(targets), d)
	return nil
}

// recordIn puts a line of results into a document, in the place of the one that the
// target has there. The lines are those of the one block that is indented and begins
// with a result, in the order of their targets.
func recordIn(path string, t target, line string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, err := withLine(string(b), t, line)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// resultLine is a line of results in a document: the outcome and the target.
var resultLine = regexp.MustCompile(`(?m)^    (?:ok|FAIL)  +([^:\n]+):.*\n`)

// noResults stands where there are no lines yet.
const noResults = "    (none yet)\n"

func withLine(text string, t target, line string) (string, error) {
	lines := map[string]string{t.String(): "    " + line + "\n"}
	at := strings.Index(text, noResults)
	for _, m := range resultLine.FindAllStringSubmatchIndex(text, -1) {
		if at < 0 {
			at = m[0]
		}
		if name := text[m[2]:m[3]]; name != t.String() {
			lines[name] = text[m[0]:m[1]]
		}
	}
	if at < 0 {
		return "", errors.New("there is no place for results")
	}
	rest := resultLine.ReplaceAllString(strings.Replace(text, noResults, "", 1), "")
	var block strings.Builder
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		block.WriteString(lines[name])
	}
	return rest[:at] + block.String() + rest[at:], nil
}

// goTool runs the go command and returns what it prints, and its errors too.
func goTool(ctx context.Context, args ...string) ([]byte, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, &out)
	}
	return out.Bytes(), nil
}

type target struct{ pkg, name string }

func (t target) String() string { return t.pkg + "." + t.name }

func (t target) fuzz(ctx context.Context, d time.Duration) ([]byte, error) {
	// Minimising an input of a slow target would take all of its time.
	return goTool(ctx, "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", d.String(), "-fuzzminimizetime", "10x", t.pkg)
}

// parseList reads the output of go test -list: the names of a package, then "ok",
// the package and the time.
func parseList(out string) ([]target, error) {
	var all []target
	var names []string
	for line := range strings.Lines(out) {
		w := strings.Fields(line)
		switch {
		case len(w) == 1 && strings.HasPrefix(w[0], "Fuzz"):
			names = append(names, w[0])
		case len(w) >= 2 && w[0] == "ok":
			for _, n := range names {
				all = append(all, target{w[1], n})
			}
			names = nil
		case len(w) >= 2 && w[0] == "?": // a package without tests
		default:
			return nil, fmt.Errorf("go test -list: unexpected line %q", line)
		}
	}
	if names != nil {
		return nil, errors.New("go test -list: names without a package")
	}
	return all, nil
}

// share returns the time of one target.
func share(each, budget time.Duration, targets int) time.Duration {
	return max(min(each, budget/time.Duration(targets)), time.Second).Round(time.Millisecond)
}

// judge reads the output of a run. It returns the last line that counts executions
// or, with an error, the whole output. Where again says why, the run told nothing
// of the target, and a longer one may.
func judge(out string, runErr error) (result, again string, err error) {
	if runErr != nil {
		// go.dev/issue/75804: a target that is interrupted by the end of its time is
		// reported as failed, although no input made it fail.
		if strings.Contains(out, "context deadline exceeded") && !strings.Contains(out, "Failing input written to") {
			again = "the go command took its own deadline for a failure"
		}
		return out, again, runErr
	}
	if result = lastProgress(out); result == "" {
		return out, "the time ended before the fuzzing began", errors.New("no executions")
	}
	return result, "", nil
}

// lastProgress returns the last line of a run that counts executions, if any.
func lastProgress(out string) string {
	last := ""
	for line := range strings.Lines(out) {
		if _, s, ok := strings.Cut(line, "fuzz: elapsed: "); ok && strings.Contains(s, "execs: ") {
			last = strings.TrimSpace(s)
		}
	}
	return last
}
