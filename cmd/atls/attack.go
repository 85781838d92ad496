package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/attestedtls/atls/internal/attack"
)

const attackUsage = `Usage:
    atls attack [SCENARIO] [--mode MODE] [--mitigation M] [-v] [--json] [--runs N]
    atls attack --list

Examples:
    $ atls attack r3 --mode hardened -v
    $ atls attack r3 --mode binder6 -v
    $ atls attack d2 --mode attestation-only
    $ atls attack

Runs the published attacks on attested TLS, with real handshakes on loopback and a real
man in the middle, who holds what the scenario says and nothing else; the honest ends are
those of serve and dial. It says who accepted what, with which alert a refusal came, and
whether the end that accepted evidence shares its secrets with the connection that the
evidence was made on: the Diffie-Hellman secret (G1), the client's handshake traffic key
(G2) and its application traffic key (G3). Without a scenario or mode it runs all.

It fails if a cell comes out otherwise than docs/SECURITY.md and the published models say.
The TEEs are "softtee", which prove nothing.

    --mode MODE        one way of binding evidence; binder1 to binder7 and proposed are
                       experiments, which exist in this command only
    --mitigation M     turn something on in every cell, or "none". The default is none,
                       and then each in turn where the attack passed
    -v                 tell the story of each cell
    --list             list scenarios, modes and mitigations
    --runs N           run everything N times, and see that the verdicts stay the same
    --json             one JSON object per cell
`

func runAttack(ctx context.Context, env *environment, args []string) error {
	fs := newFlagSet("attack")
	mode := fs.String("mode", "", "")
	mitigation := fs.String("mitigation", "", "")
	verbose := fs.Bool("v", false, "")
	asJSON := fs.Bool("json", false, "")
	list := fs.Bool("list", false, "")
	runs := fs.Int("runs", 1, "")
	rest, err := parseOptional(fs, args, 1, attackUsage)
	if err != nil {
		return err
	}
	switch {
	case *runs < 1:
		return usagef("", "--runs must be at least 1")
	case *asJSON && *verbose:
		return usagef("", "-v tells stories for people: it does not go with --json")
	case *asJSON && *list:
		return usagef("", "--list is for people: it does not go with --json")
	}
	if *list {
		listAttacks(env.stdout)
		return nil
	}
	var sel attack.Selection
	if len(rest) == 1 {
		s := attack.ScenarioNamed(rest[0])
		if s == nil {
			return usagef("it can be "+names(attack.Scenarios, func(s *attack.Scenario) string { return s.Name }), "there is no scenario %q", rest[0])
		}
		sel.Scenarios = []*attack.Scenario{s}
	}
	if *mode != "" {
		m := attack.ModeNamed(*mode)
		if m == nil {
			return usagef("it can be "+names(attack.Modes, func(m *attack.Mode) string { return m.Name }), "--mode cannot be %q", *mode)
		}
		sel.Modes = []*attack.Mode{m}
	}
	switch *mitigation {
	case "":
	case "none":
		sel.Mitigation = &attack.Mitigation{}
	default:
		m, ok := attack.MitigationNamed(*mitigation)
		if !ok {
			return usagef("it can be none, "+names(attack.Mitigations, func(m attack.Mitigation) string { return m.Name }), "--mitigation cannot be %q", *mitigation)
		}
		sel.Mitigation = &m
	}
	r := &attackReport{out: env.stdout, verbose: *verbose, json: *asJSON}
	for n := range *runs {
		lab, err := attack.NewLab()
		if err != nil {
			return err
		}
		r.begin(n)
		if err := lab.RunAll(ctx, sel, r.row); err != nil {
			return fmt.Errorf("the laboratory itself failed: %w", err)
		}
	}
	return r.end()
}

// names lists the names of all, for a hint.
func names[T any](all []T, name func(T) string) string {
	var list []string
	for _, v := range all {
		list = append(list, name(v))
	}
	return strings.Join(list, ", ")
}

func listAttacks(w io.Writer) {
	fmt.Fprintln(w, "Scenarios, and what the attacker holds:")
	for _, s := range attack.Scenarios {
		fmt.Fprintf(w, "    %-20s %s\n    %-20s holds: %s\n", s.Name, s.About, "", s.Holds)
	}
	fmt.Fprintln(w, "\nModes, and what the evidence covers:")
	for _, m := range attack.Modes {
		fmt.Fprintf(w, "    %-20s %s\n", m.Name, m.About)
	}
	fmt.Fprintln(w, "\nMitigations:")
	for _, m := range attack.Mitigations {
		fmt.Fprintf(w, "    %-20s %s\n", m.Name, m.About)
	}
}

// An attackReport prints rows and keeps count of them.
type attackReport struct {
	out           io.Writer
	verbose, json bool

	run                  int
	cells, wrong, varied int
	notRun               int
	scenario             string
	rows                 []*attack.Row // of the scenario that is under way
	tally                attack.Tally
	matrix               attack.Matrix
	verdicts             map[string]string // of the first run
}

func (r *attackReport) begin(n int) {
	r.run, r.scenario = n, ""
	if r.verdicts == nil {
		r.verdicts, r.matrix = make(map[string]string), make(attack.Matrix)
	}
}

func (r *attackReport) row(row *attack.Row) error {
	key := row.Scenario + " against " + row.Mode
	if row.Mitigation != nil {
		key += " with " + *row.Mitigation
	}
	verdict := row.Outcome() + ", goals " + row.Goals()
	if r.run == 0 {
		r.verdicts[key] = verdict
	} else if r.verdicts[key] != verdict {
		r.varied++
		if !r.json {
			fmt.Fprintf(r.out, "NOT DETERMINISTIC: %s: %s, and in run %d %s\n", key, r.verdicts[key], r.run+1, verdict)
		}
	}
	r.cells++
	if !row.Applies {
		r.notRun++
	}
	if !row.AsExpected {
		r.wrong++
	}
	r.tally.Add(row)
	r.matrix.Add(row)
	if r.json {
		return (&lineWriter{w: r.out}).object(row)
	}
	if r.run > 0 {
		return nil
	}
	if row.Scenario != r.scenario {
		r.flush()
		r.scenario = row.Scenario
	}
	r.rows = append(r.rows, row)
	return nil
}

// flush prints the rows of one scenario: the modes that came out alike in one line.
func (r *attackReport) flush() {
	if len(r.rows) == 0 {
		return
	}
	rows := r.rows
	r.rows = nil
	s := attack.ScenarioNamed(rows[0].Scenario)
	fmt.Fprintf(r.out, "%s: %s\n    the attacker holds %s\n", s.Name, s.About, s.Holds)
	if r.verbose {
		for _, row := range rows {
			r.tell(row)
		}
		return
	}
	type group struct{ label, modes string }
	var groups []*group
	for _, row := range rows {
		label := describe(row)
		if row.Mitigation != nil {
			label = "  with " + *row.Mitigation + ": " + label
		}
		var g *group
		for _, other := range groups {
			if other.label == label {
				g = other
			}
		}
		if g == nil {
			g = &group{label: label}
			groups = append(groups, g)
		} else {
			g.modes += ", "
		}
		g.modes += row.Mode
	}
	for _, mitigated := range []bool{false, true} {
		for _, g := range groups {
			if strings.HasPrefix(g.label, "  with") == mitigated {
				fmt.Fprintf(r.out, "    %s: %s\n", g.label, g.modes)
			}
		}
	}
	fmt.Fprintln(r.out)
}

// describe says how a row came out.
func describe(row *attack.Row) string {
	var s string
	switch {
	case !row.Applies:
		s = "not run, " + *row.Reason
	case row.Accepted:
		s = "PASSES"
		if row.G1 != nil {
			s += " (G1 G2 G3: " + row.Goals() + ")"
		}
	case row.Alert != nil:
		s = fmt.Sprintf("refused by the %s, alert %d", *row.RefusedBy, *row.Alert)
	default:
		s = "refused"
	}
	if !row.AsExpected {
		s = "NOT AS EXPECTED, " + s
	}
	return s
}

// tell tells the story of one row.
func (r *attackReport) tell(row *attack.Row) {
	m := attack.ModeNamed(row.Mode)
	fmt.Fprintf(r.out, "\n  %s against %s (the evidence covers: %s)", row.Scenario, m.Name, m.About)
	if row.Mitigation != nil {
		fmt.Fprintf(r.out, ", with %s", *row.Mitigation)
	}
	fmt.Fprintln(r.out)
	for i, l := range row.Story {
		fmt.Fprintf(r.out, "    %2d. %-24s %s\n", i+1, l.Who, l.Text)
	}
	fmt.Fprintf(r.out, "    => %s\n", describe(row))
	if row.Expected.Outcome != "" {
		fmt.Fprintf(r.out, "       expected: %s, goals %s (source: %s)\n", row.Expected.Outcome, row.Expected.Goals, row.Expected.Source)
	}
}

var errAttack = errors.New("cells did not come out as expected")

func (r *attackReport) end() error {
	if !r.json {
		r.flush()
		r.published()
		fmt.Fprintf(r.out, "%d cells, %d of them not run for the reasons given; %d not as expected", r.cells, r.notRun, r.wrong)
		if r.run > 0 {
			fmt.Fprintf(r.out, "; %d runs, %d verdicts differed from the first run's", r.run+1, r.varied)
		}
		fmt.Fprintln(r.out)
	}
	if r.wrong > 0 || r.varied > 0 {
		return fmt.Errorf("%d cells are not as docs/SECURITY.md and the published models have them, and %d varied: %w", r.wrong, r.varied, errAttack)
	}
	return nil
}

// published compares what all scenarios together say with the published models.
func (r *attackReport) published() {
	if len(r.verdicts) < len(attack.Scenarios)*len(attack.Modes) {
		return // a selection says nothing about a goal that held
	}
	fmt.Fprintf(r.out, "%s%s\n", r.matrix, attack.Legend)
	fmt.Fprintln(r.out, "Goals that no run refuted (G1 G2 G3), where both ends complete their handshakes, as the published models ask:")
	published := make(map[string]attack.Goals)
	for _, p := range attack.PublishedGoals {
		published[p.Mode] = p.Goals
	}
	for _, m := range attack.Modes {
		complete, any, _ := r.tally.Held(m.Name)
		note := ""
		if p, ok := published[m.Name]; ok {
			note = "published: the same"
			if p != complete {
				note = "published: " + p.String() + ", DIFFERS"
			}
		}
		if any != complete {
			note += "; " + any.String() + " where the genuine server need not finish"
		}
		fmt.Fprintf(r.out, "    %-20s %s    %s\n", m.Name, complete, note)
	}
	fmt.Fprintln(r.out)
}
