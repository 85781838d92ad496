package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/attestedtls/atls/interop"
)

const interopUsage = `Usage:
    atls interop [--peer NAME]... [--case ID]... [--quick] [--json]
    atls interop --list

Runs handshakes between atls and TLS stacks by others, reads from the wire what was
said, and prints a matrix. A peer that this machine lacks is skipped.

Examples:
    $ atls interop
    $ atls interop --peer scapy --case attest.server
    $ atls interop --quick --json

    --peer NAME                 only this one; repeatable
    --case ID                   only this one, or all whose id it begins; repeatable
    --quick                     the short run
    --list                      what cases there are, and the requirement each tests
    --keep DIR                  keep captures, key logs and outputs of all cells there;
                                without it those of failures are kept
    --install                   have apt-get install what peers need (Debian, root)
    --update ROOT               write the expected outcomes and docs/INTEROP.md of the
                                source tree at ROOT
    --vectors DIR               write a known-answer file for each cell that passes
    --json                      one object per cell on standard output

The status is 3 if a cell failed, is an error, or is not what expected/ says, and 127
if no peer supports a case that was selected.
`

func runInterop(ctx context.Context, env *environment, args []string) error {
	fs := newFlagSet("interop")
	var r interop.Runner
	appendTo := func(list *[]string) func(string) error {
		return func(s string) error { *list = append(*list, s); return nil }
	}
	fs.Func("peer", "", appendTo(&r.Peers))
	fs.Func("case", "", appendTo(&r.Cases))
	fs.BoolVar(&r.Quick, "quick", false, "")
	fs.BoolVar(&r.Install, "install", false, "")
	fs.StringVar(&r.Keep, "keep", "", "")
	fs.StringVar(&r.Vectors, "vectors", "", "")
	list := fs.Bool("list", false, "")
	asJSON := fs.Bool("json", false, "")
	update := fs.String("update", "", "")
	if _, err := parseArgs(fs, args, 0, interopUsage); err != nil {
		return err
	}
	if *list && *asJSON {
		return usagef("", "--list is for people: it does not go with --json")
	}
	if *list {
		return listCases(env.stdout)
	}
	if *update != "" && (r.Quick || r.Cases != nil) {
		return usagef("", "--update is for a run of all cases")
	}
	if *update != "" {
		if _, err := os.Stat(filepath.Join(*update, "interop", "expected")); err != nil {
			return usagef("name the root of the source tree", "--update: %w", err)
		}
	}
	if r.Keep != "" {
		abs, err := filepath.Abs(r.Keep)
		if err != nil {
			return err
		}
		r.Keep = abs
	}
	r.Atls = run
	r.Log = env.stderr
	stdout := &lineWriter{w: env.stdout}
	r.Report = func(row *interop.Row) {
		if *asJSON {
			stdout.object(row)
		}
		if !*asJSON || row.Outcome == interop.Failed || row.Outcome == interop.Error || row.Drift {
			printRow(env.stderr, row)
		}
	}
	start := time.Now()
	rows, err := r.Run(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return usagef(`"atls interop --list" lists the cases`, "interop: %w", err)
	}
	took := time.Since(start)
	if !*asJSON {
		fmt.Fprint(env.stdout, "\n", interop.Matrix(rows))
	}
	summary := interop.Summarize(rows)
	fmt.Fprintf(env.stderr, "%v, in %v\n", summary, took.Round(time.Second))
	if *update != "" {
		return interop.Update(*update, rows, took)
	}
	switch {
	case !summary.OK():
		return &reportedError{fmt.Errorf("interop: %v", summary)}
	case summary.Outcomes[interop.Unsupported] == len(rows):
		return &reportedError{errUnsupported}
	}
	return nil
}

// errUnsupported is that no peer can do what was selected.
var errUnsupported = errors.New("no peer supports a case that was selected")

// printRow says what became of a cell, in a line or two.
func printRow(w io.Writer, row *interop.Row) {
	if row.Outcome == interop.Unsupported && !row.Drift || row.Outcome == interop.Skipped {
		return
	}
	fmt.Fprintf(w, "%-8s %-8s %-6s %s (%.1fs)", row.Outcome, row.Peer, row.PeerRole, row.Case, row.Took.Seconds())
	if row.Reason != nil {
		fmt.Fprintf(w, ": %s", printable(*row.Reason))
	}
	if row.Drift {
		fmt.Fprintf(w, " [expected %s]", row.Expected)
	}
	if row.Logs != "" && row.Outcome != interop.Passed {
		fmt.Fprintf(w, "\n         see %s", row.Logs)
	}
	fmt.Fprintln(w)
}

// listCases prints the cases and what they test.
func listCases(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, c := range interop.Cases() {
		quick := ""
		if c.Quick {
			quick = "quick"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.ID, strings.Join(c.PeerRoles(), ", "), quick, c.About)
		fmt.Fprintf(t, "\t\t\t  %q (%s)\n", c.Must.Quote, c.Must.Source)
	}
	return t.Flush()
}
