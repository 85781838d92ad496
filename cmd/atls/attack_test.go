package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/attestedtls/atls/internal/attack"
)

func runAtls(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

func TestAttackTellsItsStory(t *testing.T) {
	status, out, errs := runAtls(t, "attack", "r3", "--mode", "hardened", "-v")
	if status != statusOK {
		t.Fatalf("status %d: %s", status, errs)
	}
	for _, want := range []string{"the attacker holds the key", "forwards the challenge", "refuses with alert 42", "source: security", "1 cells", "0 not as expected"} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q in\n%s", want, out)
		}
	}
	// With the binding that the attack was published for, it passes.
	status, out, errs = runAtls(t, "attack", "r3", "--mode", "binder6", "--mitigation", "none")
	if status != statusOK || !strings.Contains(out, "PASSES (G1 G2 G3: no no no): binder6") {
		t.Errorf("status %d, %s\n%s", status, errs, out)
	}
}

func TestAttackPrintsOneObjectPerCell(t *testing.T) {
	status, out, errs := runAtls(t, "attack", "r5", "--json", "--mode", "combined", "--runs", "2")
	if status != statusOK {
		t.Fatalf("status %d: %s", status, errs)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, line := range lines {
		var row map[string]any
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]any{
			"scenario": "r5", "mode": "combined", "mitigation": nil, "accepted": false, "refused_by": "client",
			"alert": 42.0, "g1": nil, "g2": nil, "g3": nil, "as_expected": true,
		} {
			if got, ok := row[name]; !ok || got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
	}
}

func TestAttackRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"attack", "r9"}, "r5', r6"},
		{[]string{"attack", "--mode", "binder8"}, "binder7, proposed"},
		{[]string{"attack", "--mitigation", "hope"}, "none, pinning"},
		{[]string{"attack", "--runs", "0"}, "at least 1"},
		{[]string{"attack", "-v", "--json"}, "does not go with"},
		{[]string{"attack", "r1", "r2"}, "takes 1 arguments"},
	} {
		status, out, errs := runAtls(t, tt.args...)
		if status != statusUsage || out != "" || !strings.Contains(errs, tt.says) {
			t.Errorf("%q: status %d, %q, %q", tt.args, status, out, errs)
		}
	}
}

func TestAttackLists(t *testing.T) {
	_, out, _ := runAtls(t, "attack", "--list")
	for _, s := range attack.Scenarios {
		if !strings.Contains(out, s.About) {
			t.Errorf("%s is not listed", s.Name)
		}
	}
}

// A cell that comes out otherwise than the table has it fails the command.
func TestAttackFailsWhereACellDiffers(t *testing.T) {
	var out bytes.Buffer
	r := &attackReport{out: &out}
	r.begin(0)
	if err := r.row(&attack.Row{Scenario: "r3", Mode: "hardened", Applies: true, Accepted: true}); err != nil {
		t.Fatal(err)
	}
	if err := r.end(); err == nil || exitStatus(err) != statusVerification {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(out.String(), "NOT AS EXPECTED") {
		t.Error(out.String())
	}
}
