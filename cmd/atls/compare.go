package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/attestedtls/atls/internal/compare"
)

const compareUsage = `Usage:
    atls compare [--quick] [--out DIR] [--resume] [--rtt LIST] [--modes LIST] [--net HOW] [--json]
    atls compare --from FILE [--out DIR] [--json]

Examples:
    $ atls compare --quick
    $ atls compare --out comparison
    $ atls compare --out comparison --resume
    $ atls compare --quick --modes hardened,expat,combined --rtt 0,50ms

Measures what each way to attest costs, beside plain TLS: the time to the first byte of
application data, round trips, bytes, CPU, allocations, and connections a second. Both
ends are in this process, on loopback. The TEEs are "softtee", which prove nothing; how
long real ones take is waited for. Every mode is measured at every round-trip time, by
turns; size of evidence, latency of the TEE, kind of verifier and re-attestation are
varied one at a time. It runs the attacks of "atls attack" as well.

A run takes less than 30 minutes, and can be interrupted. It writes to DIR:
run.jsonl, with every sample, as it goes, and report.html when it is complete.

    --quick            less than 2 minutes, with wider intervals
    --out DIR          where to write (default atls-comparison)
    --resume           go on with the run in DIR, with the same flags
    --rtt LIST         round-trip times, default 0,20ms,80ms,200ms
    --modes LIST       modes; plain TLS is always there. They are:
%s
    --net HOW          netem: a network namespace with netem, which needs permission;
                       delay: delays in this process; or auto (default): netem where
                       that is possible. The report says which
    --from FILE        measure nothing: write the report of an earlier run, which may
                       be compressed by gzip
    --json             print the run as it is written, one JSON object per round, and
                       then one per cell, with medians
`

// ReportFile is the name of the report in the directory of a run.
const reportFile = "report.html"

func runCompare(ctx context.Context, env *environment, args []string) error {
	fs := newFlagSet("compare")
	quick := fs.Bool("quick", false, "")
	out := fs.String("out", "atls-comparison", "")
	resume := fs.Bool("resume", false, "")
	rtts := fs.String("rtt", "", "")
	modes := fs.String("modes", "", "")
	network := fs.String("net", compare.NetAuto, "")
	from := fs.String("from", "", "")
	asJSON := fs.Bool("json", false, "")
	if _, err := parseArgs(fs, args, 0, compareUsageText()); err != nil {
		return err
	}
	if *from != "" {
		if *quick || *resume || *rtts != "" || *modes != "" {
			return usagef("", "--from measures nothing: it goes with --out and --json alone")
		}
		run, err := compare.ReadRun(*from)
		if err != nil {
			return compareError(err)
		}
		return finishComparison(env, run, *out, *asJSON)
	}
	options := &compare.Options{Quick: *quick}
	if *rtts != "" {
		for _, s := range strings.Split(*rtts, ",") {
			d, err := time.ParseDuration(strings.TrimSpace(s))
			if err != nil {
				return usagef("such as 0,20ms,80ms", "--rtt cannot have %q", s)
			}
			options.RTTs = append(options.RTTs, d)
		}
	}
	if *modes != "" {
		for _, s := range strings.Split(*modes, ",") {
			s = strings.TrimSpace(s)
			if compare.ModeNamed(s) == nil {
				return usagef("it can have "+compare.ModeNames(), "--modes cannot have %q", s)
			}
			options.Modes = append(options.Modes, s)
		}
	}
	switch *network {
	case compare.NetAuto, compare.NetNetem, compare.NetDelay:
	default:
		return usagef("it can be auto, netem, delay", "--net cannot be %q", *network)
	}
	design, err := compare.NewDesign(options)
	if err != nil {
		return usagef("", "%w", err)
	}
	net, err := compare.NewNetwork(*network)
	if err != nil {
		return compareError(err)
	}
	defer net.Close()
	stderr := &lineWriter{w: env.stderr}
	fmt.Fprintf(stderr, "atls: network: %s\n", net.Name())
	r := &compare.Runner{
		Design: design, Network: net, Dir: *out, Resume: *resume,
		Progress: everySecond(func(text string) { fmt.Fprintf(stderr, "atls: %s\n", text) }),
	}
	if *asJSON {
		r.Lines = env.stdout
	}
	run, err := r.Run(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return &interruptedError{fmt.Errorf("interrupted: %w", ctx.Err()), *out}
		}
		return compareError(err)
	}
	return finishComparison(env, run, *out, *asJSON)
}

// everySecond leaves out what is said within 2 seconds of what was said before.
func everySecond(say func(string)) func(string) {
	var last time.Time
	return func(text string) {
		if now := time.Now(); now.Sub(last) >= 2*time.Second {
			last = now
			say(text)
		}
	}
}

// finishComparison writes the report and prints the tables.
func finishComparison(env *environment, run *compare.Run, dir string, asJSON bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { // --from makes no run there
		return compareError(err)
	}
	path := filepath.Join(dir, reportFile)
	if err := compare.WriteFile(path, func(w io.Writer) error { return run.HTML(w) }); err != nil {
		return compareError(err)
	}
	if asJSON {
		w := &lineWriter{w: env.stdout}
		for _, s := range run.Summaries() {
			if err := w.object(s); err != nil {
				return err
			}
		}
		return nil
	}
	_, err := fmt.Fprintf(env.stdout, "%s\nThe report is %s\n", run.Text(), path)
	return err
}

// An interruptedError is a run that can be resumed.
type interruptedError struct {
	err error
	dir string
}

func (e *interruptedError) Error() string { return e.err.Error() }
func (e *interruptedError) Unwrap() error { return e.err }

// compareError says what to do about an error.
func compareError(err error) error {
	switch {
	case errors.Is(err, compare.ErrNetem):
		return usagef("--net delay needs no permission", "%w", err)
	case errors.Is(err, compare.ErrExists):
		return usagef("--resume goes on with it, and another --out leaves it alone", "%w", err)
	case errors.Is(err, compare.ErrDesign):
		return usagef("--resume needs the same flags and the same version as the run that it goes on with", "%w", err)
	case errors.Is(err, compare.ErrRunFile):
		return &malformedError{err}
	case errors.Is(err, fs.ErrNotExist):
		return usagef("check the path", "%w", err)
	case errors.As(err, new(*fs.PathError)) || errors.As(err, new(*os.LinkError)):
		return usagef("--out has to be a directory that can be written, with some 10 MB left; --resume goes on with a run", "%w", err)
	}
	return err
}

func compareUsageText() string {
	var b strings.Builder
	for _, m := range compare.Modes {
		fmt.Fprintf(&b, "                         %-18s%s\n", m.Name, m.About)
	}
	return fmt.Sprintf(compareUsage, strings.TrimRight(b.String(), "\n"))
}
