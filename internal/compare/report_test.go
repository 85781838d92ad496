package compare

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/docs"
	"github.com/attestedtls/atls/internal/attack"
)

var update = flag.Bool("update", false, "write what the committed run says into the documents")

// committed is the run that docs/COMPARISON.md and README.md speak of.
const committed = "../../docs/comparison/run.jsonl.gz"

func committedRun(t testing.TB) *Run {
	t.Helper()
	run, err := ReadRun(filepath.FromSlash(committed))
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// made returns a run without connections: each mode takes as many ms as it says, a
// little more each round, and lets pass the attacks that it says.
func made(times map[string]float64, passes map[string][]string) *Run {
	g := Group{Name: "made", Factor: ByRTT, Rounds: 8}
	run := &Run{Rounds: make(map[string][]*Round)}
	for _, m := range Modes {
		if _, ok := times[m.Name]; ok {
			g.Cells = append(g.Cells, Cell{Kind: Connect, Mode: m.Name, Size: sizeBase, Verifier: Warm})
		}
	}
	for n := range g.Rounds {
		r := &Round{Group: g.Name, Round: n}
		for i, c := range g.Cells {
			r.Samples = append(r.Samples, &Sample{First: 1e3*times[c.Mode] + float64(n), In: int64(1000 + i)})
		}
		run.Rounds[g.Name] = append(run.Rounds[g.Name], r)
	}
	run.Design = &Design{Groups: []Group{g}}
	for _, s := range attack.Scenarios {
		for _, m := range attack.Modes {
			run.Attacks = append(run.Attacks, &attack.Row{Scenario: s.Name, Mode: m.Name, Applies: true, Accepted: slices.Contains(passes[m.Name], s.Name)})
		}
	}
	mitigation := "re-attestation"
	for _, m := range attack.Modes {
		run.Attacks = append(run.Attacks, &attack.Row{Scenario: "stale", Mode: m.Name, Mitigation: &mitigation, Applies: true, Accepted: m.Name != modeCombined})
	}
	return run
}

// TestAdviceFollowsFromTheData: other data, other advice.
func TestAdviceFollowsFromTheData(t *testing.T) {
	times := map[string]float64{modePlain: 10, modeHardened: 11, modeExpat: 30, modeCombined: 31}
	passes := map[string][]string{"hardened": {"r5", "stale"}, "expat": {"stale"}, "combined": {"stale"}}
	all := Needs[len(Needs)-2]
	later := Needs[len(Needs)-1]
	for _, tt := range []struct {
		name   string
		change func()
		need   Need
		best   string
		tied   []string
	}{
		{"all is refused by two, of which one is cheaper", func() {}, all, modeExpat, nil},
		{"theft is refused by all", func() {}, Needs[1], modeHardened, nil},
		{"only one finds out later attacks", func() {}, later, modeCombined, nil},
		{"the cheaper one has no later rounds", func() { times["expat-leading"] = 12 }, later, modeCombined, nil},
		{"and is fine where none are wanted", func() {}, all, "expat-leading", nil},
		{"the difference is nothing", func() { delete(times, "expat-leading"); times[modeCombined] = 30.01 }, all, modeExpat, []string{modeCombined}},
		{"the one that costs the same lets less pass", func() { passes["expat"] = append(passes["expat"], "downgrade-retry") }, all, modeCombined, []string{modeExpat}},
		{"none is left", func() { passes["expat"], passes["combined"] = []string{"r5"}, []string{"d1"} }, all, "", nil},
	} {
		tt.change()
		run := made(times, passes)
		a := run.advise(tt.need, &run.Design.Groups[0])
		if a.Best != tt.best || !slices.Equal(a.Tied, tt.tied) {
			t.Errorf("%s: %q, no dearer %q; want %q, %q", tt.name, a.Best, a.Tied, tt.best, tt.tied)
		}
	}
}

// TestNeedsNameAttacksThatThereAre: a scenario that is renamed must not go missing.
func TestNeedsNameAttacksThatThereAre(t *testing.T) {
	for _, n := range Needs {
		for _, name := range n.Attacks {
			if attack.ScenarioNamed(name) == nil {
				t.Errorf("there is no attack %q", name)
			}
		}
	}
	for _, m := range Modes {
		if m.Attack != "" && attack.ModeNamed(m.Attack) == nil {
			t.Errorf("there is no mode %q of attacks", m.Attack)
		}
	}
	if attack.ScenarioNamed("stale") == nil {
		t.Error("there is no attack stale")
	}
	if _, ok := attack.MitigationNamed("re-attestation"); !ok {
		t.Error("there is no mitigation re-attestation")
	}
}

var outside = regexp.MustCompile(`(?i)<script|<link|<img|<iframe|\bsrc=|url\(|@import|\bon[a-z]+=|href="[^#]`)

// TestReportNeedsNothingElse: no script, and nothing from elsewhere.
func TestReportNeedsNothingElse(t *testing.T) {
	run := committedRun(t)
	var b bytes.Buffer
	if err := run.HTML(&b); err != nil {
		t.Fatal(err)
	}
	if found := outside.FindString(b.String()); found != "" {
		t.Errorf("the report has %q", found)
	}
	charts := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAll(b.Bytes(), -1)
	if len(charts) < 8 {
		t.Errorf("%d charts", len(charts))
	}
	for _, c := range charts {
		d := xml.NewDecoder(bytes.NewReader(c))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%v in %s", err, c)
			}
		}
		if bytes.Contains(c, []byte("NaN")) || bytes.Contains(c, []byte("Inf")) {
			t.Errorf("a chart has values that are none: %s", c)
		}
	}
	for _, want := range []string{"prefers-color-scheme:dark", "@media print", "viewport", "Which mode should I use?", "PASS", "cryptographic binding to the channel", run.Machine.CPU} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	for _, m := range Modes {
		if run.Design.Groups[0].index(m.Name) >= 0 && !strings.Contains(b.String(), ">"+m.Name+"<") {
			t.Errorf("the report lacks mode %s", m.Name)
		}
	}
}

// TestReportOfPartOfARun: whatever is missing.
func TestReportOfPartOfARun(t *testing.T) {
	run := made(map[string]float64{modePlain: 1, "mutual": 2}, nil)
	var b bytes.Buffer
	if err := run.HTML(&b); err != nil || !strings.Contains(b.String(), "not complete") {
		t.Error(err)
	}
	run.Rounds, run.Attacks = nil, nil
	b.Reset()
	if err := run.HTML(&b); err != nil || !strings.Contains(b.String(), "lacks them") {
		t.Error(err)
	}
	// What a file says is text.
	run.Machine.CPU = "<script>"
	b.Reset()
	if err := run.HTML(&b); err != nil || strings.Contains(b.String(), "<script") {
		t.Error("a name is markup")
	}
	full := errors.New("no space left on device")
	if err := run.HTML(writerFunc(func([]byte) (int, error) { return 0, full })); !errors.Is(err, full) {
		t.Error(err)
	}
}

func TestGoalsAreAllThere(t *testing.T) {
	list := goals(docs.Goals)
	if len(list) != 3 {
		t.Fatalf("%d tables", len(list))
	}
	rows := 0
	for _, g := range list {
		rows += len(g.Table.Rows)
		for _, r := range g.Table.Rows {
			if len(r) != len(g.Table.Head) {
				t.Errorf("%s: a row has %d cells: %v", g.Title, len(r), r)
			}
		}
	}
	if want := strings.Count(docs.Goals, "\n|") - 2*len(list); rows != want {
		t.Errorf("%d rows, want %d", rows, want)
	}
}

// TestDocumentsSayWhatTheRunDoes: -update writes it.
func TestDocumentsSayWhatTheRunDoes(t *testing.T) {
	run := committedRun(t)
	if run.End == nil || run.Design.Quick {
		t.Error("the committed run is not a complete, full one")
	}
	if run.Claim() == "" {
		t.Error("the committed run lacks what the README claims")
	}
	for path, want := range map[string]string{"../../README.md": run.Claim() + "\n", "../../docs/COMPARISON.md": run.Markdown()} {
		b, err := os.ReadFile(filepath.FromSlash(path))
		if err != nil {
			t.Fatal(err)
		}
		const begin, end = "<!-- atls compare: begin -->\n", "<!-- atls compare: end -->\n"
		before, rest, ok1 := strings.Cut(string(b), begin)
		got, after, ok2 := strings.Cut(rest, end)
		if !ok1 || !ok2 {
			t.Errorf("%s has no place for the run", path)
			continue
		}
		if got == want {
			continue
		}
		if !*update {
			t.Errorf("%s is not of the committed run: go test ./internal/compare -run %s -update", path, t.Name())
			continue
		}
		if err := os.WriteFile(filepath.FromSlash(path), []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestClaimChangesWithTheData: the README's sentence is no constant.
func TestClaimChangesWithTheData(t *testing.T) {
	of := func(hardened float64, passes ...string) string {
		run := made(map[string]float64{modePlain: 10, modeHardened: hardened, modeExpat: 30, modeCombined: 31}, map[string][]string{"hardened": passes})
		g := run.Design.Groups[0]
		run.Design.Groups = nil
		rounds := run.Rounds[g.Name]
		for _, rtt := range []time.Duration{20 * time.Millisecond, 80 * time.Millisecond} {
			at := g
			at.Name, at.Cells = fmt.Sprint(rtt), slices.Clone(g.Cells)
			for i := range at.Cells {
				at.Cells[i].RTT = rtt
			}
			run.Design.Groups = append(run.Design.Groups, at)
			run.Rounds[at.Name] = rounds
		}
		return run.Claim()
	}
	if got := of(11, "r5"); !strings.Contains(got, "costs 1.0 ms (1.0 to 1.0)") || !strings.Contains(got, "closes `r5`.") {
		t.Error(got)
	}
	if got := of(12.5, "r5", "d1"); !strings.Contains(got, "costs 2.5 ms") || !strings.Contains(got, "closes `r5` and `d1`.") {
		t.Error(got)
	}
}
