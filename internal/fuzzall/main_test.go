package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseListNamesEachTargetWithItsPackage(t *testing.T) {
	got, err := parseList("FuzzA\nFuzzB\nok  \texample.org/m/a\t0.1s\n?   \texample.org/m/b\t[no test files]\nok  \texample.org/m/c\t0.1s\nFuzzA\nok  \texample.org/m/d\t(cached)\n")
	want := []target{{"example.org/m/a", "FuzzA"}, {"example.org/m/a", "FuzzB"}, {"example.org/m/d", "FuzzA"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"FuzzA\n", "FAIL\texample.org/m/a [build failed]\n", "# example.org/m/a\n"} {
		if got, err := parseList(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func TestShareKeepsTheBudget(t *testing.T) {
	for _, tt := range []struct {
		each, budget time.Duration
		targets      int
		want         time.Duration
	}{
		{5 * time.Second, 2 * time.Minute, 1, 5 * time.Second},
		{5 * time.Second, 2 * time.Minute, 60, 2 * time.Second},
		{5 * time.Second, 2 * time.Minute, 1000, time.Second}, // less finds nothing
	} {
		if got := share(tt.each, tt.budget, tt.targets); got != tt.want {
			t.Errorf("share(%v, %v, %d) = %v, want %v", tt.each, tt.budget, tt.targets, got, tt.want)
		}
	}
}

func TestJudgeTellsFailuresFromRunsThatSayNothing(t *testing.T) {
	const execs = "fuzz: elapsed: 3s, execs: 33412 (12860/sec), new interesting: 3 (total: 601)\n"
	exit := errors.New("exit status 1")
	for _, tt := range []struct {
		name, out string
		err       error
		again, ok bool
	}{
		{"a pass", "fuzz: elapsed: 0s, gathering baseline coverage: 0/598 completed\n" + execs + "PASS\n", nil, false, true},
		{"a failing input", execs + "--- FAIL: FuzzA\n    Failing input written to testdata/fuzz/FuzzA/0\n", exit, false, false},
		{"a failing input that says deadline", execs + "context deadline exceeded\n    Failing input written to testdata/fuzz/FuzzA/0\n", exit, false, false},
		{"a failing seed", "--- FAIL: FuzzA (0.00s)\n    --- FAIL: FuzzA/seed#0 (0.00s)\n", exit, false, false},
		{"the go command's own deadline", execs + "--- FAIL: FuzzA (5.03s)\n    context deadline exceeded\nFAIL\n", exit, true, false},
		{"the end within the baseline", "fuzz: elapsed: 0s, gathering baseline coverage: 0/598 completed\nPASS\n", nil, true, false},
		{"nothing", "", nil, true, false},
	} {
		result, again, err := judge(tt.out, tt.err)
		if (again != "") != tt.again || (err == nil) != tt.ok {
			t.Errorf("%s: judged %q, %q, %v", tt.name, result, again, err)
		}
	}
}

// TestRunFailsWhereATargetFails runs the command on a module of two targets, of
// which one is wrong.
func TestRunFailsWhereATargetFails(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and fuzzes a module")
	}
	t.Chdir(t.TempDir())
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("GOWORK", "off")
	for name, text := range map[string]string{
		"go.mod":         "module example.org/m\n\ngo 1.26\n",
		"good/a_test.go": "package a\n\nimport \"testing\"\n\nfunc FuzzGood(f *testing.F) { f.Fuzz(func(t *testing.T, b []byte) {}) }\n",
		"bad/b_test.go":  "package b\n\nimport \"testing\"\n\nfunc FuzzBad(f *testing.F) { f.Add([]byte{1}); f.Fuzz(func(t *testing.T, b []byte) { if len(b) == 1 { t.Error(\"one byte\") } }) }\n",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	err := run(t.Context(), []string{"-time", "1s"}, &out)
	if err == nil || !strings.Contains(err.Error(), "1 of 2 targets failed: example.org/m/bad.FuzzBad") {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"ok    example.org/m/good.FuzzGood: ", "FAIL  example.org/m/bad.FuzzBad", "one byte"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output does not say %q:\n%s", want, &out)
		}
	}
}

func TestResultsAreRecordedInOrder(t *testing.T) {
	text := "# Fuzzing\n\nText.\n\n" + noResults + "\nMore.\n"
	var err error
	for _, l := range []struct{ name, line string }{
		{"FuzzB", "ok    m/a.FuzzB: elapsed: 1s"}, {"FuzzA", "ok    m/a.FuzzA: elapsed: 1s"},
		{"FuzzC", "FAIL  m/a.FuzzC: within 1s"}, {"FuzzB", "ok    m/a.FuzzB: elapsed: 2s"},
	} {
		if text, err = withLine(text, target{"m/a", l.name}, l.line); err != nil {
			t.Fatal(err)
		}
	}
	want := "# Fuzzing\n\nText.\n\n    ok    m/a.FuzzA: elapsed: 1s\n    ok    m/a.FuzzB: elapsed: 2s\n    FAIL  m/a.FuzzC: within 1s\n\nMore.\n"
	if text != want {
		t.Errorf("got\n%s", text)
	}
	if _, err := withLine("# Fuzzing\n", target{"m/a", "FuzzA"}, "ok"); err == nil {
		t.Error("recorded in a document that has no place for it")
	}
}
