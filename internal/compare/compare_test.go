package compare

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/internal/attack"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

// small is a design with a cell of each kind, each mode and each verifier.
func small() *Design {
	d := &Design{}
	g := Group{Name: "all", Factor: ByRTT, Rounds: 2}
	for _, m := range Modes {
		g.Cells = append(g.Cells, Cell{Kind: Connect, Mode: m.Name, Size: sizeBase, Verifier: Warm})
	}
	for _, size := range Sizes {
		g.Cells = append(g.Cells, Cell{Kind: Connect, Mode: modeEmbedded, Size: size, Verifier: Cold}, Cell{Kind: Connect, Mode: modeCombined, Size: size, Verifier: Service})
	}
	c := Cell{Mode: modeExpat, Size: sizeBase, Verifier: Warm, TEE: time.Millisecond}
	g.Window = 20 * time.Millisecond
	c.Kind = Reattest
	g.Cells = append(g.Cells, c)
	c.Kind, c.Interval = Periodic, 2*time.Millisecond
	g.Cells = append(g.Cells, c)
	c.Kind, c.Interval = Load, 0
	g.Cells = append(g.Cells, c)
	d.Groups = []Group{g, {Name: "later", Factor: BySize, Rounds: 1, Cells: g.Cells[:1]}}
	return d
}

func delay(t *testing.T) Network {
	t.Helper()
	n, err := NewNetwork(NetDelay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func noAttacks(context.Context) ([]*attack.Row, error) { return []*attack.Row{}, nil }

func TestEachCellIsMeasured(t *testing.T) {
	dir := t.TempDir()
	run, err := (&Runner{Design: small(), Network: delay(t), Dir: dir, Attack: noAttacks}).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := &run.Design.Groups[0]
	for i, c := range g.Cells {
		m := ModeNamed(c.Mode)
		for _, r := range run.Rounds[g.Name] {
			s := r.Samples[i]
			if s.First <= 0 || s.Handshake <= 0 || s.Handshake > s.First && c.Kind == Connect || s.Allocs == 0 {
				t.Errorf("%v: %+v", c, s)
			}
			if m.attests && (c.Kind == Connect || c.Kind == Reattest) && (s.Verify <= 0 || s.Evidence == 0) {
				t.Errorf("%v: nothing was appraised: %+v", c, s)
			}
			if c.Kind == Connect && m.attests && s.In+s.Out < 2000+s.Evidence {
				t.Errorf("%v: %d bytes, and evidence %d", c, s.In+s.Out, s.Evidence)
			}
			if c.TEE > 0 && c.Kind == Reattest && s.TEE < 1000 {
				t.Errorf("%v: the TEE took %v µs", c, s.TEE)
			}
			if (c.Kind == Load || c.Kind == Periodic) && s.Rate <= 0 {
				t.Errorf("%v: no rate", c)
			}
			want := map[string]int{modePlain: 2, modeHardened: 2, modeEmbedded: 2, modeExpat: 3, "expat-leading": 3, modeCombined: 3}[c.Mode]
			if c.Kind == Connect && want != 0 && s.Trips != want {
				t.Errorf("%v: %d round trips, want %d", c, s.Trips, want)
			}
		}
	}
	again, err := ReadRun(filepath.Join(dir, RunFile))
	if err != nil {
		t.Fatal(err)
	}
	if again.End == nil || again.Text() != run.Text() {
		t.Error("the file has another run")
	}
}

// TestPeriodicCellAttestsAgain: at its interval, and not without one.
func TestPeriodicCellAttestsAgain(t *testing.T) {
	w, err := newWorld(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	n := delay(t)
	c := Cell{Kind: Periodic, Mode: modeExpat, Size: sizeBase, Verifier: Warm}
	sample := func(interval, window time.Duration) *Sample {
		c.Interval = interval
		s, err := w.setup(c)
		if err != nil {
			t.Fatal(err)
		}
		got, err := measure(t.Context(), n, s, window)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if s := sample(0, 20*time.Millisecond); s.Rounds != 0 {
		t.Errorf("%d rounds", s.Rounds)
	}
	for window := 20 * time.Millisecond; sample(5*time.Millisecond, window).Rounds == 0; window *= 2 {
		if window > 5*time.Second {
			t.Fatal("it does not attest again")
		}
	}
}

// TestEvidenceHasItsSize: to a tenth, wrapper included.
func TestEvidenceHasItsSize(t *testing.T) {
	for _, size := range Sizes {
		a, err := newAttester(size)
		if err != nil {
			t.Fatal(err)
		}
		b, err := evidenceOf(a, challengeOverKey([]byte("any")))
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(float64(len(b)-size)) > float64(size)/10 {
			t.Errorf("%d bytes, want about %d", len(b), size)
		}
	}
}

// TestEvidenceInACertificateIsAboutItsKey: it is refused in another certificate.
func TestEvidenceInACertificateIsAboutItsKey(t *testing.T) {
	w, err := newWorld(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	for _, v := range Verifications {
		if err := appraiseCertificate(t.Context(), w.verifiers[v], w.embedded[sizeBase].Leaf); err != nil {
			t.Errorf("%s: %v", v, err)
		}
		stolen, err := w.issue(serverName, &w.ca, func([]byte) ([]byte, error) {
			i := slices.IndexFunc(w.embedded[sizeBase].Leaf.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(embeddedOID) })
			return w.embedded[sizeBase].Leaf.Extensions[i].Value, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := appraiseCertificate(t.Context(), w.verifiers[v], stolen.Leaf); err == nil {
			t.Errorf("%s: evidence about another key is accepted", v)
		}
	}
	if err := appraiseCertificate(t.Context(), w.verifiers[Warm], w.server.Leaf); !errors.Is(err, errNoEvidence) {
		t.Error(err)
	}
}

// TestInterruptedRunGoesOn: with what was finished, and without a line that was cut off.
func TestInterruptedRunGoesOn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, RunFile)
	r := &Runner{Design: small(), Network: delay(t), Dir: dir, Attack: noAttacks}
	ctx, cancel := context.WithCancel(t.Context())
	r.Lines = writerFunc(func(b []byte) (int, error) {
		if bytes.Contains(b, []byte(`"object":"round"`)) {
			cancel()
		}
		return len(b), nil
	})
	if _, err := r.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, want an interruption", err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if partial, err := ParseRun(before); err != nil || partial.End != nil || len(partial.Rounds["all"]) != 1 {
		t.Fatalf("%v, want one round", err)
	}
	if err := os.WriteFile(path, append(before, `{"object":"round","gro`...), 0o644); err != nil {
		t.Fatal(err)
	}
	r.Lines = nil
	if _, err := r.Run(t.Context()); !errors.Is(err, ErrExists) {
		t.Errorf("%v, want a refusal to write over a run", err)
	}
	r.Resume = true
	other := *r
	other.Design = &Design{Groups: small().Groups[:1]}
	if _, err := other.Run(t.Context()); !errors.Is(err, ErrDesign) {
		t.Errorf("%v, want a refusal to go on with another run", err)
	}
	run, err := r.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(after, before) || len(run.Rounds["all"]) != 2 || run.End == nil || run.End.Resumed != 1 {
		t.Error("the run was not gone on with")
	}
	if _, err := ParseRun(after); err != nil {
		t.Error(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestFullDiskKeepsWhatWasFinished: the error says so.
func TestFullDiskKeepsWhatWasFinished(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil { // not Linux: any file that cannot be written
		if full, err = os.Open(os.DevNull); err != nil {
			t.Fatal(err)
		}
	}
	defer full.Close()
	err = (&Runner{}).append(full, Header{})
	if err == nil || !strings.Contains(err.Error(), "what was finished before is kept") {
		t.Error(err)
	}
}

// TestFileIsWrittenAsAWholeOrNot: and nothing else stays behind.
func TestFileIsWrittenAsAWholeOrNot(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "report.html")
	write := func(text string, err error) error {
		return WriteFile(path, func(w io.Writer) error {
			io.WriteString(w, text)
			return err
		})
	}
	full := errors.New("no space left on device")
	if err := write("half", full); !errors.Is(err, full) || !strings.Contains(err.Error(), "was not written") {
		t.Error(err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 0 {
		t.Errorf("%v stays behind", list)
	}
	if err := write("whole", nil); err != nil {
		t.Fatal(err)
	}
	if err := write("half", full); err == nil {
		t.Error("no error")
	}
	if b, _ := os.ReadFile(path); string(b) != "whole" {
		t.Errorf("the file has %q", b)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("%v, want the file alone", list)
	}
}

// TestLineHasAWindow: what is larger than ten segments takes another round trip.
func TestLineHasAWindow(t *testing.T) {
	now := time.Unix(0, 0)
	const rtt = 100 * time.Millisecond
	for _, tt := range []struct {
		sizes []int
		last  time.Duration // when the last byte is due
	}{
		{[]int{1}, rtt / 2},
		{[]int{initialWindow}, rtt / 2},
		{[]int{initialWindow + 1}, rtt + rtt/2},
		{[]int{3 * initialWindow}, rtt + rtt/2}, // the window has doubled
		{[]int{3*initialWindow + 1}, 2*rtt + rtt/2},
		{[]int{initialWindow, 1}, rtt + rtt/2},
	} {
		l := &line{rtt: rtt, window: initialWindow}
		total := 0
		for _, n := range tt.sizes {
			l.schedule(make([]byte, n), now)
			total += n
		}
		sum := 0
		for _, p := range l.queue {
			sum += len(p.data)
		}
		if due := l.queue[len(l.queue)-1].due.Sub(now); sum != total || due != tt.last {
			t.Errorf("%v: %d bytes, the last one due after %v, want %d and %v", tt.sizes, sum, due, total, tt.last)
		}
	}
	// After acknowledgements the window is open again.
	l := &line{rtt: rtt, window: initialWindow}
	l.schedule(make([]byte, initialWindow), now)
	l.schedule(make([]byte, 2*initialWindow), now.Add(rtt))
	if due := l.queue[len(l.queue)-1].due.Sub(now); due != rtt+rtt/2 {
		t.Errorf("due after %v", due)
	}
}

func TestLineDelays(t *testing.T) {
	n := delay(t)
	c, s, err := n.Dial(40 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	defer s.Close()
	start := time.Now()
	go func() {
		io.CopyN(s, struct{ net.Conn }{s}, 2000)
	}()
	go c.Write(make([]byte, 2000))
	if _, err := io.ReadFull(c, make([]byte, 2000)); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < 40*time.Millisecond {
		t.Errorf("there and back in %v", d)
	}
}

// TestIntervalCovers: against the binomial distribution, as in tables of it.
func TestIntervalCovers(t *testing.T) {
	for _, tt := range []struct {
		n, k     int
		coverage float64
	}{
		{1, 0, 0}, {2, 0, 0.5}, {5, 0, 0.9375}, {6, 0, 0.96875}, {10, 1, 0.978515625}, {20, 5, 0.958610534}, {100, 39, 0.964799800},
	} {
		k, coverage := interval(tt.n)
		if k != tt.k || math.Abs(coverage-tt.coverage) > 1e-6 {
			t.Errorf("%d samples: %d, %v; want %d, %v", tt.n, k, coverage, tt.k, tt.coverage)
		}
	}
	s := NewStat([]float64{3, 1, 2, 10})
	if s.Median != 2.5 || s.P95 != 10 || s.Low != 1 || s.High != 10 {
		t.Errorf("%+v", s)
	}
}

func TestDesign(t *testing.T) {
	if _, err := NewDesign(&Options{Modes: []string{"nonsense"}}); err == nil {
		t.Error("an unknown mode is accepted")
	}
	if _, err := NewDesign(&Options{RTTs: []time.Duration{-1}}); err == nil {
		t.Error("a negative round-trip time is accepted")
	}
	full, err := NewDesign(&Options{})
	if err != nil {
		t.Fatal(err)
	}
	quick, err := NewDesign(&Options{Quick: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		d     *Design
		bound time.Duration
	}{{full, 15 * time.Minute}, {quick, 90 * time.Second}} {
		if e := tt.d.Estimate(); e > tt.bound {
			t.Errorf("waiting takes %v, want %v at most", e, tt.bound)
		}
	}
	// Every mode at every round-trip time.
	for _, rtt := range DefaultRTTs {
		for _, m := range Modes {
			if !slices.ContainsFunc(full.Groups, func(g Group) bool {
				return g.Factor == ByRTT && slices.ContainsFunc(g.Cells, func(c Cell) bool { return c.Mode == m.Name && c.RTT == rtt })
			}) {
				t.Errorf("%s is not measured at %v", m.Name, rtt)
			}
		}
	}
	one, err := NewDesign(&Options{Modes: []string{"mutual"}, RTTs: []time.Duration{0}})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(one.Groups[0].Cells); got != 2 || one.Groups[0].Cells[0].Mode != modePlainMutual {
		t.Errorf("%v, want mutual and what it is compared with", one.Groups[0].Cells)
	}
}

// TestNetemOrWhyNot: where it is not permitted, auto says why.
func TestNetemOrWhyNot(t *testing.T) {
	n, err := NewNetwork(NetNetem)
	if err == nil {
		defer n.Close()
		c, s, err := n.Dial(20 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		s.Close()
		return
	}
	if !errors.Is(err, ErrNetem) {
		t.Error(err)
	}
	auto, err := NewNetwork(NetAuto)
	if err != nil {
		t.Fatal(err)
	}
	defer auto.Close()
	if !strings.Contains(auto.Name(), "netem is not possible here: ") {
		t.Errorf("%q does not say why it is not netem", auto.Name())
	}
}

// FuzzParseRun: a file is refused or read, and no report of it fails.
func FuzzParseRun(f *testing.F) {
	f.Add([]byte("{}"))
	f.Add([]byte(`{"object":"run","design":{"groups":null},"hash":""}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := fuzzbound.Check(t, len(b))
		run, err := ParseRun(b)
		check()
		if err == nil {
			run.HTML(io.Discard)
		} else if !errors.Is(err, ErrRunFile) {
			t.Error(err)
		}
	})
}
