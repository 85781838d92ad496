package compare

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A value takes a number out of a sample.
type value func(*Sample) float64

func first(s *Sample) float64  { return s.First }
func rate(s *Sample) float64   { return s.Rate }
func tee(s *Sample) float64    { return s.TEE }
func verify(s *Sample) float64 { return s.Verify }
func bytesOf(s *Sample) float64 {
	return float64(s.In + s.Out)
}
func trips(s *Sample) float64  { return float64(s.Trips) }
func allocs(s *Sample) float64 { return float64(s.Allocs) }
func cpu(s *Sample) float64 {
	if s.CPU == nil {
		return 0
	}
	return *s.CPU
}

// local is what neither the TEE nor the verifier took.
func local(s *Sample) float64 { return s.First - s.TEE - s.Verify }

// groups returns the groups about a factor.
func (run *Run) groups(f Factor) (list []*Group) {
	for i := range run.Design.Groups {
		if g := &run.Design.Groups[i]; g.Factor == f {
			list = append(list, g)
		}
	}
	return list
}

// stat describes a value of the i-th cell of a group.
func (run *Run) stat(g *Group, i int, v value) Stat {
	var list []float64
	for _, r := range run.Rounds[g.Name] {
		list = append(list, v(r.Samples[i]))
	}
	return NewStat(list)
}

// extra describes by how much a value is more than that of the cell of the mode's
// reference in the same round. ok is false where the group has none.
func (run *Run) extra(g *Group, i int, v value) (s Stat, ok bool) {
	m := ModeNamed(g.Cells[i].Mode)
	ref := slices.IndexFunc(g.Cells, func(c Cell) bool { return c.Mode == m.Reference })
	if ref < 0 {
		return Stat{}, false
	}
	var list []float64
	for _, r := range run.Rounds[g.Name] {
		list = append(list, v(r.Samples[i])-v(r.Samples[ref]))
	}
	return NewStat(list), true
}

// over describes by how much a value of mode a is more than that of mode b in the same
// round.
func (run *Run) over(g *Group, a, b string, v value) (s Stat, ok bool) {
	i, j := g.index(a), g.index(b)
	if i < 0 || j < 0 {
		return Stat{}, false
	}
	var list []float64
	for _, r := range run.Rounds[g.Name] {
		list = append(list, v(r.Samples[i])-v(r.Samples[j]))
	}
	return NewStat(list), len(list) > 0
}

// index returns the first cell of a mode, or -1.
func (g *Group) index(mode string) int {
	return slices.IndexFunc(g.Cells, func(c Cell) bool { return c.Mode == mode })
}

// at returns the group of a round-trip time, or nil.
func (run *Run) at(f Factor, rtt time.Duration) *Group {
	for _, g := range run.groups(f) {
		if g.Cells[0].RTT == rtt {
			return g
		}
	}
	return nil
}

// A Summary is a cell's samples in short.
type Summary struct {
	Object string `json:"object"` // "cell"
	Group  string `json:"group"`
	Cell
	Samples int `json:"samples"`
	// First is the time to the first application byte, in µs: median, the interval
	// of it, its coverage, and the 95th percentile.
	First    float64    `json:"first_us"`
	Interval [2]float64 `json:"first_interval_us"`
	Coverage float64    `json:"coverage"`
	P95      float64    `json:"first_p95_us"`
	// Extra is the median of what it is more than the reference in the same round,
	// nil where there is no reference in the group.
	Extra         *float64    `json:"extra_us"`
	ExtraInterval *[2]float64 `json:"extra_interval_us"`
	// Medians.
	CPU    float64 `json:"cpu_us"`
	Allocs float64 `json:"allocs"`
	Bytes  float64 `json:"bytes"`
	Trips  float64 `json:"trips"`
	Rate   float64 `json:"rate,omitempty"`
}

// Summaries returns that of each cell that has samples, in the order of the design.
func (run *Run) Summaries() (list []Summary) {
	for i := range run.Design.Groups {
		g := &run.Design.Groups[i]
		if len(run.Rounds[g.Name]) == 0 {
			continue
		}
		for k, c := range g.Cells {
			t := run.stat(g, k, first)
			s := Summary{
				Object: "cell", Group: g.Name, Cell: c, Samples: t.N, First: t.Median, Interval: [2]float64{t.Low, t.High}, Coverage: t.Coverage, P95: t.P95,
				CPU: run.stat(g, k, cpu).Median, Allocs: run.stat(g, k, allocs).Median, Bytes: run.stat(g, k, bytesOf).Median,
				Trips: run.stat(g, k, trips).Median, Rate: run.stat(g, k, rate).Median,
			}
			if e, ok := run.extra(g, k, first); ok {
				s.Extra, s.ExtraInterval = &e.Median, &[2]float64{e.Low, e.High}
			}
			list = append(list, s)
		}
	}
	return list
}

// Text returns a table of the modes and round-trip times, for a terminal.
func (run *Run) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Time to the first application byte in ms, median; and what it is more than without attestation.\nNetwork: %s\n\n", run.Network)
	groups := run.groups(ByRTT)
	fmt.Fprintf(&b, "%-18s%6s%8s", "mode", "trips", "bytes")
	for _, g := range groups {
		fmt.Fprintf(&b, "  %16s", fmt.Sprintf("RTT %v", g.Cells[0].RTT))
	}
	b.WriteString("\n")
	if len(groups) == 0 || len(groups[0].Cells) == 0 {
		return b.String()
	}
	for i, c := range groups[0].Cells {
		fmt.Fprintf(&b, "%-18s%6.0f%8.0f", c.Mode, run.stat(groups[0], i, trips).Median, run.stat(groups[0], i, bytesOf).Median)
		for _, g := range groups {
			extra := ""
			if e, ok := run.extra(g, i, first); ok && c.Mode != ModeNamed(c.Mode).Reference {
				extra = fmt.Sprintf(" %+.1f", e.Median/1e3)
			}
			fmt.Fprintf(&b, "  %16s", fmt.Sprintf("%.1f%s", run.stat(g, i, first).Median/1e3, extra))
		}
		b.WriteString("\n")
	}
	return b.String()
}
