package attack

import (
	"fmt"
	"strings"
)

// columns are the names of the modes, in the head of a matrix.
var columns = map[string]string{
	"binder1": "b1", "binder2": "b2", "binder3": "b3", "binder4": "b4", "binder5": "b5", "binder6": "b6", "binder7": "b7",
	"proposed": "prop", "draft-08": "d-08", "hardened": "hard", "two-keys": "2key", "attestation-only": "only",
	"passport": "pass", "early": "early", "expat": "expat", "combined": "comb",
}

// Legend explains a matrix.
const Legend = `PASS: the attack is accepted. A number: it is refused with that alert. -: there is nothing to run.
b1 to b7, prop: bindings of the published models. d-08: draft-08. hard: hardened. 2key: two keys.
only: attestation-only. pass: passport. comb: hardened, then expat.
`

// A Matrix is a table of scenarios and modes, without mitigations.
type Matrix map[string]map[string]string

// Add takes note of a row.
func (m Matrix) Add(r *Row) {
	if r.Mitigation == nil {
		m.add(r.Scenario, r.Mode, r.Outcome())
	}
}

func (m Matrix) add(scenario, mode, outcome string) {
	if m[scenario] == nil {
		m[scenario] = make(map[string]string)
	}
	symbol := outcome
	switch {
	case outcome == outcomeAccepted:
		symbol = "PASS"
	case outcome == outcomeNotRun:
		symbol = "-"
	default:
		if _, alert, ok := strings.Cut(outcome, " "); ok {
			symbol = alert
		}
	}
	m[scenario][mode] = symbol
}

// String returns the table, a line for each scenario that was run.
func (m Matrix) String() string {
	var b strings.Builder
	line := func(name string, cell func(*Mode) string) {
		s := fmt.Sprintf("%-21s", name)
		for _, mode := range Modes {
			s += fmt.Sprintf("%-6s", cell(mode))
		}
		b.WriteString(strings.TrimRight(s, " ") + "\n")
	}
	line("", func(mode *Mode) string { return columns[mode.Name] })
	for _, s := range Scenarios {
		if m[s.Name] != nil {
			line(s.Name, func(mode *Mode) string { return m[s.Name][mode.Name] })
		}
	}
	return b.String()
}

// ExpectedMatrix is the matrix of the expected table.
func ExpectedMatrix() Matrix {
	m := make(Matrix)
	for key, e := range expected {
		if key.mitigation == "" {
			m.add(key.scenario, key.mode, e.Outcome)
		}
	}
	return m
}
