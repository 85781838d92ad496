package compare

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// A Group is cells that are measured by turns.
type Group struct {
	Name   string        `json:"name"`
	Factor Factor        `json:"factor"`
	Rounds int           `json:"rounds"`
	Window time.Duration `json:"window,omitempty"` // of Load and Periodic
	Cells  []Cell        `json:"cells"`
}

// A Factor is what a group is about.
type Factor string

// Factors.
const (
	ByRTT      Factor = "rtt"
	BySize     Factor = "size"
	ByTEE      Factor = "tee"
	ByVerifier Factor = "verifier"
	ByRound    Factor = "reattest"
	ByInterval Factor = "periodic"
	ByLoad     Factor = "load"
)

// Options say what to measure. The zero value is the full run.
type Options struct {
	Quick bool
	// RTTs are the round-trip times; nil means DefaultRTTs.
	RTTs []time.Duration
	// Modes are names; nil means all. Plain TLS, with certificates as the mode has
	// them, is always there to compare with.
	Modes []string
}

// DefaultRTTs are those of the full run, and of the quick one.
var DefaultRTTs = []time.Duration{0, 20 * time.Millisecond, 80 * time.Millisecond, 200 * time.Millisecond}

// baseRTT is where the other factors are varied.
const baseRTT = 20 * time.Millisecond

// A Design is all that a run measures.
type Design struct {
	Quick  bool    `json:"quick"`
	Groups []Group `json:"groups"`
}

// NewDesign returns what to measure. Every mode is measured at every round-trip time.
// The other factors are varied one at a time, for the modes that differ in it, from a
// base point: round trips of 20 ms, evidence of 5 KB, a TEE without latency, a warm
// verifier.
func NewDesign(o *Options) (*Design, error) {
	rtts := o.RTTs
	if rtts == nil {
		rtts = DefaultRTTs
	}
	for _, rtt := range rtts {
		if rtt < 0 || rtt > time.Second {
			return nil, fmt.Errorf("a round-trip time of %v: 0 to 1s can be measured", rtt)
		}
	}
	for _, name := range o.Modes {
		if ModeNamed(name) == nil {
			return nil, fmt.Errorf("there is no mode %q", name)
		}
	}
	d := &Design{Quick: o.Quick}
	base := Cell{Kind: Connect, RTT: baseRTT, Size: sizeBase, Verifier: Warm}
	// rounds says how often, in the full run and in a quick one.
	rounds := func(full, quick int) int {
		if o.Quick {
			return quick
		}
		return full
	}
	add := func(name string, f Factor, n int, window time.Duration, list []Cell) {
		if len(list) > 0 {
			d.Groups = append(d.Groups, Group{name, f, n, window, list})
		}
	}
	for _, rtt := range rtts {
		c := base
		c.RTT = rtt
		n := rounds(30, 5)
		switch {
		case rtt == 0:
			n = rounds(120, 20)
		case rtt < 50*time.Millisecond:
			n = rounds(50, 8)
		case rtt > 100*time.Millisecond:
			n = rounds(16, 2)
		}
		add(fmt.Sprintf("round trip %v", rtt), ByRTT, n, 0, cells(withReferences(o.wanted()), c))
	}
	main := o.wanted(modeEmbedded, modeHardened, modeExpat, modeCombined)
	for _, size := range Sizes {
		c := base
		c.Size = size
		if len(main) > 0 {
			add(fmt.Sprintf("evidence of %d bytes", size), BySize, rounds(24, 5), 0, cells(withReferences(main), c))
		}
	}
	slow := append(slices.Clone(main), o.wanted(modePassport, "mutual", "early")...)
	for _, tee := range TEEs {
		c := base
		c.TEE = tee.Latency
		n := rounds(20, 4)
		if tee.Latency > 500*time.Millisecond {
			n = rounds(8, 1)
		}
		if len(slow) > 0 {
			add(fmt.Sprintf("TEE latency %v", tee.Latency), ByTEE, n, 0, cells(withReferences(slow), c))
		}
	}
	var list []Cell
	for _, v := range Verifications {
		c := base
		c.Verifier = v
		list = append(list, cells(main, c)...)
	}
	if len(main) > 0 {
		add("verifier", ByVerifier, rounds(24, 5), 0, append(cells([]string{modePlain}, base), list...))
	}
	again := o.wanted(modeHardened, modeExpat, modeCombined)
	for _, rtt := range rtts {
		c := base
		c.Kind, c.RTT = Reattest, rtt
		add(fmt.Sprintf("re-attestation, round trip %v", rtt), ByRound, rounds(10, 3), 0, cells(again, c))
	}
	list = nil
	for _, interval := range []time.Duration{0, 200 * time.Millisecond, 50 * time.Millisecond} {
		c := base
		c.Kind, c.RTT, c.Interval = Periodic, 0, interval
		list = append(list, cells(o.wanted(modeExpat, modeCombined), c)...)
	}
	add("periodic re-attestation", ByInterval, rounds(8, 2), time.Duration(rounds(600, 300))*time.Millisecond, list)
	c := base
	c.Kind, c.RTT = Load, 0
	add("saturation", ByLoad, rounds(5, 2), time.Duration(rounds(700, 300))*time.Millisecond, cells(withReferences(o.wanted()), c))
	return d, nil
}

// wanted returns the modes among names, of which none means all, that are to be measured.
func (o *Options) wanted(names ...string) []string {
	var list []string
	for _, m := range Modes {
		if len(names) > 0 && !slices.Contains(names, m.Name) {
			continue
		}
		if o.Modes == nil || slices.Contains(o.Modes, m.Name) {
			list = append(list, m.Name)
		}
	}
	return list
}

// withReferences puts what modes are compared with before them.
func withReferences(names []string) []string {
	var list []string
	for _, m := range Modes {
		if slices.ContainsFunc(names, func(n string) bool { return n == m.Name || ModeNamed(n).Reference == m.Name }) {
			list = append(list, m.Name)
		}
	}
	return list
}

// cells returns base in each of the modes.
func cells(names []string, base Cell) []Cell {
	var list []Cell
	for _, n := range names {
		c := base
		c.Mode = n
		list = append(list, c)
	}
	return list
}

// hash identifies a design: a run can be resumed with the same one only.
func (d *Design) hash() string {
	b, err := json.Marshal(d)
	if err != nil {
		panic(err) // there is nothing in it that does not marshal
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:8])
}

// Estimate is about how long the waiting in a run takes; what is computed comes on
// top of it.
func (d *Design) Estimate() time.Duration {
	var sum time.Duration
	for _, g := range d.Groups {
		for _, c := range g.Cells {
			sum += time.Duration(g.Rounds) * (g.Window + c.estimate())
		}
	}
	return sum
}

// estimate is about how long a sample takes: for progress only.
func (c Cell) estimate() time.Duration {
	if c.Kind == Load || c.Kind == Periodic {
		return 0
	}
	trips, quotes := 2, 0
	m := ModeNamed(c.Mode)
	if m.attests && !m.embedded && !m.passport {
		quotes = 1
	}
	switch {
	case m.Name == modeCombined:
		trips, quotes = 3, 2
	case m.Attack == "expat":
		trips = 3
	case m.both:
		quotes = 2
	}
	if c.Kind == Reattest {
		trips++
	}
	return time.Duration(trips)*c.RTT + time.Duration(quotes)*c.TEE + 5*time.Millisecond
}
