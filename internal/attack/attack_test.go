package attack

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

var lab = sync.OnceValues(NewLab)

// rows runs all cells once.
var rows = sync.OnceValues(func() (map[cellKey]*Row, error) {
	l, err := lab()
	if err != nil {
		return nil, err
	}
	m := make(map[cellKey]*Row)
	err = l.RunAll(context.Background(), Selection{}, func(r *Row) error {
		m[keyOf(r)] = r
		return nil
	})
	return m, err
})

func keyOf(r *Row) cellKey {
	k := cellKey{scenario: r.Scenario, mode: r.Mode}
	if r.Mitigation != nil {
		k.mitigation = *r.Mitigation
	}
	return k
}

// The expected table has each cell, and nothing else, and each cell comes to what it says.
func TestEachCellIsAsExpected(t *testing.T) {
	all, err := rows()
	if err != nil {
		t.Fatal(err)
	}
	for key, r := range all {
		if !r.AsExpected {
			t.Errorf("%v: %s, goals %s; want %s, goals %s (%s): %v", key, r.Outcome(), r.Goals(), r.Expected.Outcome, r.Expected.Goals, r.Expected.Source, r.Error)
		}
		if r.Applies && !r.Accepted && r.Alert == nil {
			t.Errorf("%v: refused without an alert: %v", key, r.Error)
		}
	}
	for key := range expected {
		if all[key] == nil {
			t.Errorf("the table has %v, which is not run", key)
		}
	}
	if want := len(Scenarios) * len(Modes); len(all) < want {
		t.Errorf("%d rows, want one for each of %d scenarios and modes at least", len(all), want)
	}
}

// What the models of intra-handshake.fail say of each binding shows in the runs.
func TestGoalsAgreeWithThePublishedModels(t *testing.T) {
	all, err := rows()
	if err != nil {
		t.Fatal(err)
	}
	var tally Tally
	for _, r := range all {
		tally.Add(r)
	}
	for _, p := range PublishedGoals {
		complete, any, ok := tally.Held(p.Mode)
		if !ok || complete != p.Goals {
			t.Errorf("%s: the runs have %+v, published is %+v", p.Mode, complete, p.Goals)
		}
		if any.G1 && !complete.G1 || any.G2 && !complete.G2 || any.G3 && !complete.G3 {
			t.Errorf("%s: %+v over all rows, and %+v over some of them", p.Mode, any, complete)
		}
	}
	// Where the genuine server need not complete its handshake, an early exporter
	// binds to nothing.
	for _, mode := range []string{"binder3", "binder5", "binder7"} {
		if _, any, _ := tally.Held(mode); any != (Goals{}) {
			t.Errorf("%s: %+v where the genuine server need not finish", mode, any)
		}
	}
	if complete, _, _ := tally.Held("expat"); complete != (Goals{true, true, true}) {
		t.Errorf("expat: %+v", complete)
	}
}

// An experimental binding is nothing that a Config can name.
func TestModesAndScenariosHaveNames(t *testing.T) {
	for _, m := range Modes {
		if ModeNamed(m.Name) != m || m.About == "" {
			t.Errorf("mode %q", m.Name)
		}
	}
	for _, s := range Scenarios {
		if ScenarioNamed(s.Name) != s || s.About == "" || s.Holds == "" || s.run == nil {
			t.Errorf("scenario %q", s.Name)
		}
	}
	for _, m := range Mitigations {
		if got, ok := MitigationNamed(m.Name); !ok || got != m {
			t.Errorf("mitigation %q", m.Name)
		}
	}
	if ModeNamed("") != nil || ScenarioNamed("") != nil {
		t.Error("the empty name is taken")
	}
}

func TestExpectedTableIsStrict(t *testing.T) {
	for _, text := range []string{"a|b|-|accepted|-", "a|b|-|accepted|-|x|y", "a|b|-|x|-|y\na|b|-|x|-|y"} {
		if _, err := parseExpected(text); err == nil {
			t.Errorf("%q parses", text)
		}
	}
}

// A cell that differs from the table says so.
func TestDifferenceFromTheTableShows(t *testing.T) {
	all, err := rows()
	if err != nil {
		t.Fatal(err)
	}
	r := *all[cellKey{"r3", "hardened", ""}]
	if !r.AsExpected || r.Accepted {
		t.Fatalf("r3 against hardened: %s", r.Outcome())
	}
	r.Accepted, r.RefusedBy, r.Alert = true, nil, nil
	r.compare()
	if r.AsExpected {
		t.Error("an attack that should be refused passes, and is as expected")
	}
	r = *all[cellKey{"r5", "hardened", ""}]
	r.G3 = new(true)
	r.compare()
	if r.AsExpected {
		t.Error("a goal that should be lost holds, and is as expected")
	}
}

// The binder of the draft has known answers over RFC 8448, section 3.
func TestEarlyBinderHasItsKnownAnswer(t *testing.T) {
	b, err := os.ReadFile("../../keyschedule/testdata/keyschedule.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Rows []struct{ Name, Value, SPKI string }
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	row := func(name string) (value, spki []byte) {
		t.Helper()
		for _, r := range file.Rows {
			if r.Name == name {
				value, err1 := hex.DecodeString(r.Value)
				spki, err2 := hex.DecodeString(r.SPKI)
				if err := errors.Join(err1, err2); err != nil {
					t.Fatal(err)
				}
				return value, spki
			}
		}
		t.Fatalf("there is no row %q", name)
		return nil, nil
	}
	hellos, _ := row("transcript_hash ClientHello..ServerHello")
	want, spki := row("early attest_binder")
	if got := earlyBinder(crypto.SHA256, hellos, spki); !bytes.Equal(got, want) {
		t.Errorf("binder %x, want %x", got, want)
	}
}

// docs/ATTACKS.md shows the table as it is.
func TestDocumentShowsTheExpectedMatrix(t *testing.T) {
	b, err := os.ReadFile("../../docs/ATTACKS.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := "```\n" + ExpectedMatrix().String() + Legend + "```\n"; !strings.Contains(string(b), want) {
		t.Errorf("docs/ATTACKS.md does not contain\n%s", want)
	}
	var lists strings.Builder
	for _, s := range Scenarios {
		fmt.Fprintf(&lists, "| `%s` | %s | %s |\n", s.Name, s.About, s.Holds)
	}
	lists.WriteString("\n| mode | what the evidence covers |\n|---|---|\n")
	for _, m := range Modes {
		fmt.Fprintf(&lists, "| `%s` | %s |\n", m.Name, m.About)
	}
	if !strings.Contains(string(b), lists.String()) {
		t.Errorf("docs/ATTACKS.md does not contain\n%s", &lists)
	}
	all, err := rows()
	if err != nil {
		t.Fatal(err)
	}
	m := make(Matrix)
	for _, r := range all {
		m.Add(r)
	}
	if m.String() != ExpectedMatrix().String() {
		t.Errorf("the runs have\n%s", m)
	}
}
