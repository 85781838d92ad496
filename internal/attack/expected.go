package attack

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

//go:embed testdata/expected.txt
var expectedText string

// An Expectation is a line of the expected table.
type Expectation struct {
	// Outcome is "accepted", "client ALERT", "server ALERT" or "not run".
	Outcome string
	// Goals are "yes" or "no" three times, or "-" where no evidence is accepted.
	Goals string
	// Source says where the expectation comes from; the head of the table has the words.
	Source string
}

type cellKey struct{ scenario, mode, mitigation string }

// expected is the expected table.
var expected = mustParseExpected(expectedText)

func mustParseExpected(text string) map[cellKey]Expectation {
	table, err := parseExpected(text)
	if err != nil {
		panic("attack: testdata/expected.txt: " + err.Error())
	}
	return table
}

// parseExpected reads lines of scenario, mode, mitigation, outcome, goals and source,
// with bars between them; # begins a comment.
func parseExpected(text string) (map[cellKey]Expectation, error) {
	table := make(map[cellKey]Expectation)
	for i, line := range slices.Collect(strings.Lines(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "|")
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		if len(f) != 6 {
			return nil, fmt.Errorf("line %d has %d fields, want 6", i+1, len(f))
		}
		key := cellKey{f[0], f[1], strings.TrimPrefix(f[2], "-")}
		if _, ok := table[key]; ok {
			return nil, fmt.Errorf("line %d has %v again", i+1, key)
		}
		table[key] = Expectation{f[3], f[4], f[5]}
	}
	return table, nil
}

// Outcome says in a word or two how a row came out.
func (r *Row) Outcome() string {
	switch {
	case !r.Applies:
		return outcomeNotRun
	case r.Accepted:
		return outcomeAccepted
	case r.RefusedBy == nil:
		return "refused without an alert"
	}
	return fmt.Sprintf("%s %d", *r.RefusedBy, *r.Alert)
}

const (
	outcomeAccepted = "accepted"
	outcomeNotRun   = "not run"
)

// Goals returns "yes" or "no" for each goal, or "-".
func (r *Row) Goals() string {
	if r.G1 == nil {
		return "-"
	}
	return Goals{*r.G1, *r.G2, *r.G3}.String()
}

// compare fills in whether the row is as the table has it. What is refused without a
// mitigation is refused with one.
func (r *Row) compare() {
	key := cellKey{r.Scenario, r.Mode, ""}
	if r.Mitigation != nil {
		key.mitigation = *r.Mitigation
	}
	e, ok := expected[key]
	if !ok && key.mitigation != "" && r.Applies {
		key.mitigation = ""
		if e, ok = expected[key]; e.Outcome == outcomeAccepted {
			ok = false
		}
	}
	if !ok && !r.Applies && r.Mitigation != nil { // a mitigation that a mode cannot have
		e, ok = Expectation{outcomeNotRun, "-", "mode"}, true
	}
	r.Expected = e
	r.AsExpected = ok && r.Outcome() == e.Outcome && r.Goals() == e.Goals
}
