package attack

import (
	"os"
	"strings"
	"testing"
)

// The table of modes in docs/SECURITY.md promises what the expected table has, which
// the command compares all runs with: goals, another genuine machine behind a stolen
// key, and diversion.
func TestSecurityDocumentAgreesWithTheExpectedTable(t *testing.T) {
	b, err := os.ReadFile("../../docs/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	promised := promises(t, string(b))
	for row, mode := range map[string]string{
		"X.509 + attestation, hardened": "hardened",
		"X.509 + attestation, draft-08": "draft-08",
		"attestation-only, hardened":    "attestation-only",
		"early (-06, -03)":              "early",
		"expat, after the handshake":    "expat",
		"combined, hardened":            "combined",
	} {
		cells, ok := promised[row]
		if !ok {
			t.Errorf("SECURITY.md has no mode %q", row)
			continue
		}
		// A goal that is promised is lost in no accepted cell, and one that is not
		// promised is lost in one at least.
		var lost [3]bool
		for key, e := range expected {
			if key.mode != mode || key.mitigation != "" || e.Outcome != outcomeAccepted {
				continue
			}
			for i, held := range strings.Fields(e.Goals) {
				lost[i] = lost[i] || held == "no"
			}
		}
		for i, l := range lost {
			if l != (cells[i] == "no") {
				t.Errorf("%s: SECURITY.md says %q of G%d; a run loses it: %v", mode, cells[i], i+1, l)
			}
		}
		accepted := func(scenario string) bool { return expected[cellKey{scenario, mode, ""}].Outcome == outcomeAccepted }
		if got := accepted("r5'") || accepted("r6"); got != strings.Contains(cells[3], "passes") {
			t.Errorf("%s: SECURITY.md says %q of a stolen TIK with another genuine machine; it passes: %v", mode, cells[3], got)
		}
		if got := accepted("d1"); got != strings.Contains(cells[4], "passes") {
			t.Errorf("%s: SECURITY.md says %q of a diversion; it passes: %v", mode, cells[4], got)
		}
	}
}

// promises returns the cells of the table of modes by its first column.
func promises(t *testing.T, doc string) map[string][]string {
	t.Helper()
	_, doc, ok := strings.Cut(doc, "| mode | G1 | G2 | G3 | stolen TIK + another genuine machine | diversion |\n")
	if !ok {
		t.Fatal("SECURITY.md has no table of modes")
	}
	m := make(map[string][]string)
	for line := range strings.Lines(doc) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 6 {
			break
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		m[cells[0]] = cells[1:]
	}
	return m
}
