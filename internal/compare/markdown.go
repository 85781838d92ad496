package compare

import (
	"fmt"
	"strings"
)

// markdown writes a table.
func (t table) markdown() string {
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(t.Head)
	line(strings.Split(strings.Repeat("---,", len(t.Head)-1)+"---", ","))
	for _, row := range t.Rows {
		var cells []string
		for _, c := range row {
			cells = append(cells, c.Text)
		}
		line(cells)
	}
	return b.String()
}

// columns returns a table without rows, with a column for each group that was measured,
// and these groups.
func (run *Run) columns(first string, f Factor, head func(*Group) string) (table, []*Group) {
	t := table{Head: []string{first}}
	var groups []*Group
	for _, g := range run.groups(f) {
		if len(run.Rounds[g.Name]) > 0 {
			groups = append(groups, g)
			t.Head = append(t.Head, head(g))
		}
	}
	return t, groups
}

// extras has what each mode costs more than its reference, at each round-trip time.
func (run *Run) extras(f Factor, head func(*Group) string) table {
	t, groups := run.columns("mode", f, head)
	for _, m := range Modes {
		if !m.attests || len(groups) == 0 || groups[0].index(m.Name) < 0 {
			continue
		}
		row := []cellText{plainCell(m.Name)}
		for _, g := range groups {
			c := cellText{}
			if i := g.index(m.Name); i >= 0 {
				if e, ok := run.extra(g, i, first); ok {
					c.Text = fmt.Sprintf("%s (%s to %s)", signed(e.Median), signed(e.Low), signed(e.High))
				}
			}
			row = append(row, c)
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// Markdown writes what docs/COMPARISON.md has of a run.
func (run *Run) Markdown() string {
	var b strings.Builder
	section := func(title, about string, t table) {
		if len(t.Rows) > 0 {
			fmt.Fprintf(&b, "## %s\n\n%s\n\n%s\n", title, about, t.markdown())
		}
	}
	if claim := run.Claim(); claim != "" {
		b.WriteString(claim + "\n\n")
	}
	b.WriteString("## What ran\n\n")
	for _, m := range run.machine() {
		fmt.Fprintf(&b, "- %s: %s\n", m[0], strings.TrimSpace(m[1]))
	}
	b.WriteString("\n")
	section("Time to the first application byte", "In ms: median, the interval of it, and the 95th percentile.", run.times())
	section("What attestation adds, by round-trip time", "In ms: the median of the differences within a round, and the interval of it. `mutual` is compared with `plain-mutual`, all others with `plain`.",
		run.extras(ByRTT, func(g *Group) string { return "RTT " + span(g.Cells[0].RTT) }))
	section("What a connection takes beside time", "Medians, both ends together, of the process. \"Per second\" is at saturation.", run.costs())
	section("By size of evidence", "In ms more than plain TLS, at a round-trip time of 20 ms.", run.extras(BySize, func(g *Group) string { return number(float64(g.Cells[0].Size)) + " B" }))
	section("By latency of the TEE", "In ms more than without attestation, at a round-trip time of 20 ms.", run.extras(ByTEE, func(g *Group) string { return span(g.Cells[0].TEE) }))
	section("By verifier", "What the verifier takes, in ms, of all appraisals of a connection.", run.verifiers())
	section("Re-attestation", "A round on a connection that stands.", run.again())
	section("Periodic re-attestation", "Pings over a connection without delay, one after the other.", run.periodic())
	if t := run.adviceTable(ByRTT, func(g *Group) string { return "RTT " + span(g.Cells[0].RTT) }); len(t.Rows) > 0 {
		section("Which mode should I use?", "By the rules that the report states: of the modes in which `atls attack` had the attacks in brackets refused, the cheapest, and what it costs more than plain TLS in ms.", t)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// verifiers has the time of the verifier.
func (run *Run) verifiers() table {
	t := table{Head: []string{"mode"}}
	for _, v := range Verifications {
		t.Head = append(t.Head, string(v))
	}
	for _, g := range run.groups(ByVerifier) {
		for _, m := range Modes {
			row := []cellText{plainCell(m.Name)}
			for i, c := range g.Cells {
				if s := run.stat(g, i, verify); c.Mode == m.Name && m.attests && s.N > 0 {
					row = append(row, numberCell(fmt.Sprintf("%s (%s to %s)", number(s.Median/1e3), number(s.Low/1e3), number(s.High/1e3))))
				}
			}
			if len(row) == len(t.Head) {
				t.Rows = append(t.Rows, row)
			}
		}
	}
	return t
}
