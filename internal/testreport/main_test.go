package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// script writes events: "pass TestA" ends a test, "pass" the package.
func script(t *testing.T, lines ...string) string {
	t.Helper()
	var b strings.Builder
	enc := json.NewEncoder(&b)
	for _, l := range lines {
		action, test, _ := strings.Cut(l, " ")
		test, output, _ := strings.Cut(test, " ")
		if err := enc.Encode(event{Action: action, Package: "example.org/m/p", Test: test, Output: output}); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func TestReportFailsWhatIsNotAsListed(t *testing.T) {
	for _, tt := range []struct {
		name    string
		list    string
		partial bool
		events  []string
		counts  [3]int // passed, failed, skipped
		says    string
		fails   bool
	}{
		{name: "all pass", events: []string{"start", "pass TestA", "pass TestB", "pass"}, counts: [3]int{2, 0, 0}},
		{name: "a test fails", events: []string{"pass TestA", "output TestB want-3", "fail TestB", "fail"},
			counts: [3]int{1, 1, 0}, says: "want-3", fails: true},
		{name: "the package fails between tests", events: []string{"pass TestA", "output  exit-2", "fail"},
			counts: [3]int{1, 1, 0}, says: "exit-2", fails: true},
		{name: "listed skip", list: "TestB: no moon", events: []string{"pass TestA", "skip TestB", "pass"},
			counts: [3]int{1, 0, 1}, says: "skip TestB: no moon"},
		{name: "unlisted skip", events: []string{"pass TestA", "output TestB no-sun", "skip TestB", "pass"},
			counts: [3]int{1, 1, 0}, says: "TestB skips and is not listed; it says: no-sun", fails: true},
		{name: "unlisted skip of a subtest", list: "TestB: no moon", events: []string{"skip TestA/x", "pass TestA", "skip TestB", "pass"},
			counts: [3]int{1, 1, 1}, says: "TestA/x skips and is not listed; it says: nothing", fails: true},
		{name: "listed test passes", list: "TestB: no moon", events: []string{"pass TestA", "pass TestB", "pass"},
			counts: [3]int{1, 1, 0}, says: "TestB is listed as skipping, it passes", fails: true},
		{name: "listed test fails", list: "TestB: no moon", events: []string{"pass TestA", "fail TestB", "fail"},
			counts: [3]int{1, 1, 0}, fails: true},
		{name: "listed test is gone", list: "TestB: no moon", events: []string{"pass TestA", "pass"},
			counts: [3]int{1, 1, 0}, says: "TestB is listed as skipping, there is no such test", fails: true},
		{name: "listed test is not selected", list: "TestB: no moon", partial: true, events: []string{"pass TestA", "pass"},
			counts: [3]int{1, 0, 0}},
		{name: "listed test passes when selected", list: "TestB: no moon", partial: true, events: []string{"pass TestA", "pass TestB", "pass"},
			counts: [3]int{1, 1, 0}, fails: true},
		{name: "may skip, skips", list: "?TestB: no moon", events: []string{"pass TestA", "skip TestB", "pass"},
			counts: [3]int{1, 0, 1}, says: "skip TestB: no moon"},
		{name: "may skip, passes", list: "? TestB: no moon", events: []string{"pass TestA", "pass TestB", "pass"},
			counts: [3]int{2, 0, 0}},
		{name: "package without tests", events: []string{"skip"}, fails: true},
		{name: "nothing", fails: true},
		{name: "only skips", list: "TestB: no moon", events: []string{"skip TestB", "pass"}, counts: [3]int{0, 0, 1}, fails: true},
		{name: "cut off", events: []string{"start", "pass TestA"}, fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list := skipList{}
			if err := list.parse(tt.list); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			r := newReport(&out, tt.partial, func(string) (skipList, error) { return list, nil })
			err := r.read(strings.NewReader(script(t, tt.events...)))
			if (err != nil) != tt.fails {
				t.Errorf("error %v, want one: %v", err, tt.fails)
			}
			if got := [3]int{r.passed, r.failed, r.skipped}; got != tt.counts {
				t.Errorf("counts %v, want %v", got, tt.counts)
			}
			if !strings.Contains(out.String(), tt.says) {
				t.Errorf("report does not say %q:\n%s", tt.says, &out)
			}
		})
	}
}

func TestReportPrintsAttributes(t *testing.T) {
	var out strings.Builder
	r := newReport(&out, false, func(string) (skipList, error) { return nil, nil })
	attr := `{"Action":"attr","Package":"example.org/m/p","Test":"TestA","Key":"cells","Value":"12"}` + "\n"
	if err := r.read(strings.NewReader(attr + script(t, "pass TestA", "pass"))); err != nil || !strings.Contains(out.String(), "note TestA: cells 12\n") {
		t.Errorf("%v:\n%s", err, &out)
	}
}

func TestReportFailsOnOtherOutput(t *testing.T) {
	r := newReport(new(strings.Builder), false, func(string) (skipList, error) { return nil, nil })
	if err := r.read(strings.NewReader(script(t, "pass TestA", "pass") + "ok  p 1s\n")); err == nil {
		t.Error("plain output of go test was accepted")
	}
}

func TestSkipListIsStrict(t *testing.T) {
	for _, bad := range []string{"TestA", "TestA:", ": reason", "TestA: x\nTestA: y", "TestA: x\n?TestA: y"} {
		if err := (skipList{}).parse(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestRunReadsTheListBesideThePackage(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("p/testdata", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("p/testdata/skips.txt", []byte("# why\n\nTestB: no moon\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	counts := filepath.Join(t.TempDir(), "counts")
	events := script(t, "pass TestA", "skip TestB", "pass")
	args := []string{"-module", "example.org/m", "-counts", counts}
	if err := run(args, strings.NewReader(events), new(strings.Builder)); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(counts); err != nil || string(got) != "1 0 1\n" {
		t.Errorf("counts %q, %v", got, err)
	}
	if err := os.Remove("p/testdata/skips.txt"); err != nil {
		t.Fatal(err)
	}
	if err := run(args, strings.NewReader(events), new(strings.Builder)); err == nil {
		t.Error("the skip passes without its list")
	}
}
