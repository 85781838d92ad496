package compare

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/attestedtls/atls/internal/attack"
)

// RunFile is the name of a run in its directory. It has one JSON object a line: a
// [Header], then a [Round] for each round of a group, the [Attacks], and an [End].
const RunFile = "run.jsonl"

// A Header says what was measured, and where.
type Header struct {
	Object  string    `json:"object"` // "run"
	Design  *Design   `json:"design"`
	Hash    string    `json:"hash"`
	Started time.Time `json:"started"`
	Network string    `json:"network"`
	Machine Machine   `json:"machine"`
}

// A Machine is what a run ran on.
type Machine struct {
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	OS     string `json:"os"`
	Kernel string `json:"kernel"`
	Arch   string `json:"arch"`
	Go     string `json:"go"`
	// Load is the load average of the last minute at the start, and empty where the
	// system has none.
	Load string `json:"load"`
}

// A Round has one sample of each cell of a group, in the order of its cells.
type Round struct {
	Object  string    `json:"object"` // "round"
	Group   string    `json:"group"`
	Round   int       `json:"round"`
	Samples []*Sample `json:"samples"`
}

// Attacks are the rows of "atls attack --json".
type Attacks struct {
	Object string        `json:"object"` // "attacks"
	Rows   []*attack.Row `json:"rows"`
}

// An End says that a run is complete.
type End struct {
	Object  string    `json:"object"` // "end"
	Ended   time.Time `json:"ended"`
	Resumed int       `json:"resumed"` // how often
	Load    string    `json:"load"`
}

// A Run is what a file has.
type Run struct {
	Header
	Rounds  map[string][]*Round // by group, in order
	Attacks []*attack.Row       // nil where they were not run yet
	End     *End                // nil where it is not complete

	size int64 // of the lines that are whole
}

// ErrRunFile: a file of a run is malformed.
var ErrRunFile = errors.New("not a run of atls compare")

// maxRunFile bounds a file that is read, in bytes, unpacked.
const maxRunFile = 256 << 20

// ReadRun reads the file of a run, which may be compressed by gzip. A last line that
// was not written to its end is left out.
func ReadRun(path string) (*Run, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", path, ErrRunFile, err)
		}
	}
	data, err := io.ReadAll(io.LimitReader(r, maxRunFile+1))
	if err == nil && len(data) > maxRunFile {
		err = fmt.Errorf("%w: more than %d bytes", ErrRunFile, maxRunFile)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	run, err := ParseRun(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return run, nil
}

// ParseRun reads a run.
func ParseRun(data []byte) (*Run, error) {
	run := &Run{Rounds: make(map[string][]*Round)}
	groups := make(map[string]*Group)
	for n := 1; ; n++ {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole {
			break
		}
		data = rest
		if err := run.line(n, line, groups); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrRunFile, n, err)
		}
		run.size += int64(len(line)) + 1
	}
	if run.Design == nil {
		return nil, fmt.Errorf("%w: it has no header", ErrRunFile)
	}
	return run, nil
}

func (run *Run) line(n int, line []byte, groups map[string]*Group) error {
	var kind struct {
		Object string `json:"object"`
	}
	if err := json.Unmarshal(line, &kind); err != nil {
		return err
	}
	if (n == 1) != (kind.Object == "run") {
		return fmt.Errorf("unexpected object %q", kind.Object)
	}
	switch kind.Object {
	case "run":
		if err := json.Unmarshal(line, &run.Header); err != nil {
			return err
		}
		if run.Design == nil || run.Design.hash() != run.Hash {
			return errors.New("the design is not that of its hash")
		}
		for i, g := range run.Design.Groups {
			if groups[g.Name] != nil {
				return fmt.Errorf("two groups are %q", g.Name)
			}
			for _, c := range g.Cells {
				if ModeNamed(c.Mode) == nil {
					return fmt.Errorf("mode %q is not of this version", c.Mode)
				}
			}
			groups[g.Name] = &run.Design.Groups[i]
		}
	case "round":
		r := &Round{}
		if err := json.Unmarshal(line, r); err != nil {
			return err
		}
		g := groups[r.Group]
		if g == nil || r.Round != len(run.Rounds[r.Group]) || r.Round >= g.Rounds || len(r.Samples) != len(g.Cells) {
			return fmt.Errorf("round %d of group %q does not fit the design", r.Round, r.Group)
		}
		for _, s := range r.Samples {
			if s == nil {
				return errors.New("a sample is null")
			}
		}
		run.Rounds[r.Group] = append(run.Rounds[r.Group], r)
	case "attacks":
		a := &Attacks{}
		if err := json.Unmarshal(line, a); err != nil {
			return err
		}
		for _, row := range a.Rows {
			if row == nil {
				return errors.New("a row is null")
			}
		}
		run.Attacks = a.Rows
	case "end":
		run.End = &End{}
		return json.Unmarshal(line, run.End)
	default:
		return fmt.Errorf("unknown object %q", kind.Object)
	}
	return nil
}

// Errors of a Runner, of a caller's mistakes.
var (
	ErrExists = errors.New("there is a run already")
	ErrDesign = errors.New("the run there measures something else")
)

// A Runner measures.
type Runner struct {
	Design  *Design
	Network Network
	// Dir is where the run is written.
	Dir string
	// Resume goes on with the run in Dir, if there is one.
	Resume bool
	// Lines gets each line of the run as well. nil is nobody.
	Lines io.Writer
	// Progress is told how far it is. nil is nobody.
	Progress func(text string)
	// Attack runs the attacks. nil runs them all.
	Attack func(context.Context) ([]*attack.Row, error)
}

// Run measures what is missing, and returns the whole run. After an error, or when ctx
// ends, what was finished is in the file and Run can go on with Resume.
func (r *Runner) Run(ctx context.Context) (*Run, error) {
	path := filepath.Join(r.Dir, RunFile)
	run := &Run{Rounds: make(map[string][]*Round)}
	resumed := 0
	if _, err := os.Stat(path); err == nil {
		if !r.Resume {
			return nil, fmt.Errorf("%s: %w", path, ErrExists)
		}
		if run, err = ReadRun(path); err != nil {
			return nil, err
		}
		if run.Hash != r.Design.hash() {
			return nil, fmt.Errorf("%s: %w", path, ErrDesign)
		}
		if run.Network != r.Network.Name() {
			return nil, fmt.Errorf("%s: %w: its network is %s", path, ErrDesign, run.Network)
		}
		if run.End != nil {
			return run, nil
		}
		resumed++
	}
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if resumed > 0 {
		// A line that was cut off goes.
		if err := f.Truncate(run.size); err != nil {
			return nil, err
		}
		if _, err := f.Seek(run.size, io.SeekStart); err != nil {
			return nil, err
		}
	}
	if run.Design == nil {
		run.Header = Header{"run", r.Design, r.Design.hash(), time.Now().UTC().Truncate(time.Second), r.Network.Name(), thisMachine()}
		if err := r.append(f, run.Header); err != nil {
			return nil, err
		}
	}
	w, err := newWorld(time.Now())
	if err != nil {
		return nil, err
	}
	defer w.close()
	p := &progress{say: r.Progress, start: time.Now(), all: r.Design.Estimate()}
	for i := range r.Design.Groups {
		if err := r.group(ctx, w, &r.Design.Groups[i], run, f, p); err != nil {
			return nil, err
		}
	}
	if run.Attacks == nil {
		p.tell("attacks")
		attacks := r.Attack
		if attacks == nil {
			attacks = allAttacks
		}
		if run.Attacks, err = attacks(ctx); err != nil {
			return nil, err
		}
		if err := r.append(f, Attacks{"attacks", run.Attacks}); err != nil {
			return nil, err
		}
	}
	run.End = &End{"end", time.Now().UTC().Truncate(time.Second), resumed, loadAverage()}
	return run, r.append(f, run.End)
}

// append writes one line, to the file first.
func (r *Runner) append(f *os.File, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if _, err := f.Write(line); err != nil {
		return fmt.Errorf("what was finished before is kept: %w", err)
	}
	if r.Lines != nil {
		_, err = r.Lines.Write(line)
	}
	return err
}

// group measures the rounds of a group that are missing.
func (r *Runner) group(ctx context.Context, w *world, g *Group, run *Run, f *os.File, p *progress) error {
	done := len(run.Rounds[g.Name])
	p.skip(g, done)
	if done == g.Rounds {
		return nil
	}
	setups := make([]*setup, len(g.Cells))
	for i, c := range g.Cells {
		s, err := w.setup(c)
		if err != nil {
			return err
		}
		setups[i] = s
		// Once for nothing: caches, and code that never ran.
		if c.TEE < time.Second && c.RTT < 100*time.Millisecond || done == 0 && i == 0 {
			if _, err := r.sample(ctx, s, g.Window/10); err != nil {
				return err
			}
		}
	}
	for n := done; n < g.Rounds; n++ {
		p.tell(fmt.Sprintf("%s, round %d of %d", g.Name, n+1, g.Rounds))
		round := &Round{"round", g.Name, n, make([]*Sample, len(setups))}
		for i := range setups {
			k := (i + n) % len(setups) // each cell gets each place
			s, err := r.sample(ctx, setups[k], g.Window)
			if err != nil {
				return err
			}
			round.Samples[k] = s
		}
		if err := r.append(f, round); err != nil {
			return err
		}
		run.Rounds[g.Name] = append(run.Rounds[g.Name], round)
		p.skip(g, 1)
	}
	return nil
}

func (r *Runner) sample(ctx context.Context, s *setup, window time.Duration) (*Sample, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, sampleTimeout+window)
	defer cancel()
	sample, err := measure(limited, r.Network, s, window)
	if ctx.Err() != nil {
		return nil, ctx.Err() // whatever came of it
	}
	if err != nil {
		return nil, fmt.Errorf("%v: %w", s.cell, err)
	}
	return sample, nil
}

func allAttacks(ctx context.Context) ([]*attack.Row, error) {
	lab, err := attack.NewLab()
	if err != nil {
		return nil, err
	}
	var rows []*attack.Row
	err = lab.RunAll(ctx, attack.Selection{}, func(row *attack.Row) error {
		rows = append(rows, row)
		return nil
	})
	return rows, err
}

// progress says how far a run is.
type progress struct {
	say   func(string)
	start time.Time
	all   time.Duration
	done  time.Duration
}

// skip takes note of rounds that are done.
func (p *progress) skip(g *Group, rounds int) {
	for _, c := range g.Cells {
		p.done += time.Duration(rounds) * (g.Window + c.estimate())
	}
}

func (p *progress) tell(what string) {
	if p.say != nil {
		p.say(fmt.Sprintf("%3.0f%% %s (%v so far)", 100*float64(p.done)/float64(max(p.all, 1)), what, time.Since(p.start).Round(time.Second)))
	}
}

func thisMachine() Machine {
	m := Machine{CPUs: runtime.GOMAXPROCS(0), OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version(), Load: loadAverage()}
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	return m
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	load, _, _ := strings.Cut(string(b), " ")
	return load
}
