package attack

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// weakenedMain is a program that prints all cells.
const weakenedMain = `package main

import (
	"context"
	"encoding/json"
	"os"

	"github.com/attestedtls/atls/internal/attack"
)

func main() {
	lab, err := attack.NewLab()
	if err != nil {
		panic(err)
	}
	out := json.NewEncoder(os.Stdout)
	err = lab.RunAll(context.Background(), attack.Selection{Mitigation: &attack.Mitigation{}}, func(r *attack.Row) error { return out.Encode(r) })
	if err != nil {
		panic(err)
	}
}
`

// The hardened rule covers a binder, a key and a role, and each stands alone against
// some attack: with a build of this module from which it is missing, the cells that are
// named here differ from the table, and no others.
func TestWeakenedChallengeFlipsTheRightCells(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	program := buildWeakened(t, map[string]string{
		"key":    "\th.Write(key[:])\n",
		"binder": "\th.Write(c.Binder)\n",
		"role":   "\th.Write([]byte{0x00, byte(c.Role)})\n",
	})
	for _, tt := range []struct {
		drop  string
		flips map[cellKey]string
	}{
		{"nothing", nil},
		{"key", map[cellKey]string{
			{"r5'", "hardened", ""}: "accepted, yes yes yes",
		}},
		{"binder", map[cellKey]string{
			{"replay", "hardened", ""}: "accepted, no no no",
			{"r1", "hardened", ""}:     "accepted, no no no",
			{"r2", "hardened", ""}:     "accepted, no no no",
			{"r3", "hardened", ""}:     "accepted, no no no",
			{"r4", "hardened", ""}:     "accepted, no no no",
			{"r6", "hardened", ""}:     "accepted, no no no",
			// It passes as it did before, and needs to keep less.
			{"r5", "hardened", ""}: "accepted, yes no no",
		}},
		{"role", map[cellKey]string{
			{"reflection-nonce", "hardened", ""}: "accepted, yes yes yes",
		}},
	} {
		t.Run("without "+tt.drop, func(t *testing.T) {
			flipped := make(map[cellKey]string)
			for _, r := range runWeakened(t, program, tt.drop) {
				key := keyOf(r)
				want := expected[key]
				if r.Applies && (r.Accepted != (want.Outcome == outcomeAccepted) || r.Goals() != want.Goals) {
					flipped[key] = r.Outcome() + ", " + r.Goals()
				}
			}
			for key, want := range tt.flips {
				if flipped[key] != want {
					t.Errorf("%v comes to %q, want %q", key, flipped[key], want)
				}
			}
			for key, got := range flipped {
				if tt.flips[key] == "" {
					t.Errorf("%v comes to %q as well", key, got)
				}
			}
		})
	}
}

// buildWeakened builds a program out of a scratch copy of attestext/challenge.go and
// everything else as it is. Of lines, each is left out where $WEAKEN names it.
func buildWeakened(t *testing.T, lines map[string]string) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(root, "attestext", "challenge.go")
	b, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), "import (\n", "import (\n\t\"os\"\n", 1)
	for name, line := range lines {
		if n := strings.Count(text, line); n != 1 {
			t.Fatalf("%s has %q %d times", source, line, n)
		}
		text = strings.Replace(text, line, "\tif os.Getenv(\"WEAKEN\") != \""+name+"\" {\n\t"+line+"\t}\n", 1)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		source: write("challenge.go", text),
		filepath.Join(root, "internal", "attack", "weakened", "main.go"): write("main.go", weakenedMain),
	}})
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "weakened")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-ldflags=-s -w",
		"-overlay", write("overlay.json", string(overlay)), "-o", program, "./internal/attack/weakened")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return program
}

// runWeakened runs all cells.
func runWeakened(t *testing.T, program, drop string) []*Row {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(os.Environ(), "WEAKEN="+drop)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var rows []*Row
	for line := range strings.Lines(stdout.String()) {
		r := new(Row)
		if err := json.Unmarshal([]byte(line), r); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, r)
	}
	if want := len(Scenarios) * len(Modes); len(rows) != want {
		t.Fatalf("%d rows, want %d", len(rows), want)
	}
	return rows
}
