package compare

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/attestedtls/atls/internal/attack"
)

// A Need is what somebody wants of a mode, as attacks that it has to refuse.
type Need struct {
	About   string
	Attacks []string // names of scenarios
	// Later asks that an attack after the handshake is found out by re-attestation,
	// which the mode must have.
	Later bool
}

// names lists what has to be refused.
func (n Need) names() string {
	s := strings.Join(n.Attacks, ", ")
	if n.Later {
		s += ", and stale with re-attestation"
	}
	return s
}

var (
	againstTheft   = []string{"replay", "r1", "r2", "r3", "r4", "r7", "splice", "reflection"}
	againstMachine = append(slices.Clone(againstTheft), "r5'", "r6")
	againstSecrets = append(slices.Clone(againstMachine), "r5", "reflection-nonce")
	againstDivert  = []string{"d1", "d2"}
)

// Needs are the questions of "which mode should I use?".
var Needs = []Need{
	{About: "I trust my certificate keys, and want to know what the peer runs; nobody shall divert me to another machine", Attacks: againstDivert},
	{About: "The key of a certificate may be stolen", Attacks: againstTheft},
	{About: "… by somebody who has a genuine machine too", Attacks: againstMachine},
	{About: "… and random numbers may be known to others", Attacks: againstSecrets},
	{About: "All of the above", Attacks: append(slices.Clone(againstSecrets), againstDivert...)},
	{About: "All of the above, and the machine may be taken over later", Attacks: append(slices.Clone(againstSecrets), againstDivert...), Later: true},
}

// outcomes has the rows of the attacks by scenario, mode and mitigation.
func (run *Run) outcomes() map[[3]string]*attack.Row {
	m := make(map[[3]string]*attack.Row)
	for _, r := range run.Attacks {
		mitigation := ""
		if r.Mitigation != nil {
			mitigation = *r.Mitigation
		}
		m[[3]string{r.Scenario, r.Mode, mitigation}] = r
	}
	return m
}

// passing lists the attacks that pass in a mode, in order. ok is false where they were
// not run against it.
func (run *Run) passing(m *Mode) (list []string, ok bool) {
	for _, r := range run.Attacks {
		if m.Attack != "" && r.Mode == m.Attack && r.Mitigation == nil {
			ok = true
			if r.Accepted {
				list = append(list, r.Scenario)
			}
		}
	}
	return list, ok
}

// fulfils reports whether the attacks say that a mode does what is needed: each that
// there is something to run of was refused. It is false where one was not run.
func (run *Run) fulfils(m *Mode, n Need) bool {
	if m.Attack == "" {
		return false
	}
	rows := run.outcomes()
	for _, name := range n.Attacks {
		if r := rows[[3]string{name, m.Attack, ""}]; r == nil || r.Accepted {
			return false
		}
	}
	if n.Later {
		r := rows[[3]string{"stale", m.Attack, "re-attestation"}]
		return m.reattests && r != nil && r.Applies && !r.Accepted
	}
	return true
}

// Advice is an answer: the modes that fulfil a need, in order.
type Advice struct {
	Need Need
	// Best costs the least, or no more than the one that does as far as can be told: it
	// is then the one in which fewest attacks pass, and of these the one with the
	// fewest bytes. It is "" where no mode is left.
	Best string
	// Extra is what it costs more than without attestation, in µs.
	Extra Stat
	// Tied are the others that cost no more as far as can be told.
	Tied []string
}

// advise answers by the costs in a group, which has connections by each mode.
func (run *Run) advise(n Need, g *Group) Advice {
	a := Advice{Need: n}
	var left []string
	cheapest, cost := "", 0.0
	for i, c := range g.Cells {
		m := ModeNamed(c.Mode)
		if !m.attests || !run.fulfils(m, n) {
			continue
		}
		e, ok := run.extra(g, i, first)
		if !ok || e.N == 0 {
			continue
		}
		left = append(left, c.Mode)
		if cheapest == "" || e.Median < cost {
			cheapest, cost = c.Mode, e.Median
		}
	}
	if cheapest == "" {
		return a
	}
	var tied []string
	for _, name := range left {
		d, ok := run.over(g, name, cheapest, first)
		// The interval has a difference of nothing in it, or the median is below 1 % of
		// the time that the cheapest takes.
		if name == cheapest || ok && (d.Low <= 0 || d.Median < run.stat(g, g.index(cheapest), first).Median/100) {
			tied = append(tied, name)
		}
	}
	rank := func(name string) (int, float64) {
		list, _ := run.passing(ModeNamed(name))
		return len(list), run.stat(g, g.index(name), bytesOf).Median
	}
	slices.SortStableFunc(tied, func(a, b string) int {
		na, ba := rank(a)
		nb, bb := rank(b)
		if na != nb {
			return na - nb
		}
		return int(ba - bb)
	})
	a.Best, a.Tied = tied[0], tied[1:]
	a.Extra, _ = run.extra(g, g.index(a.Best), first)
	return a
}

// Claim is what a run says in few sentences, in Markdown: what attestation in the
// handshake, after it, and both cost, and what each lets pass. The README has it. It
// is "" where the run lacks what it speaks of.
func (run *Run) Claim() string {
	var costs []string
	for _, rtt := range []time.Duration{20 * time.Millisecond, 80 * time.Millisecond} {
		g := run.at(ByRTT, rtt)
		if g == nil {
			return ""
		}
		of := func(mode string) string {
			i := g.index(mode)
			if i < 0 {
				return ""
			}
			e, ok := run.extra(g, i, first)
			if !ok || e.N == 0 {
				return ""
			}
			return fmt.Sprintf("%s ms (%s to %s)", ms(e.Median), ms(e.Low), ms(e.High))
		}
		in, after, both := of(modeHardened), of(modeExpat), of(modeCombined)
		if in == "" || after == "" || both == "" {
			return ""
		}
		costs = append(costs, fmt.Sprintf("At a round-trip time of %d ms, attestation in the handshake costs %s more than plain TLS until the first application byte, after the handshake %s, and both %s.", rtt.Milliseconds(), in, after, both))
	}
	var passes [3][]string
	for i, name := range []string{modeHardened, modeExpat, modeCombined} {
		list, ok := run.passing(ModeNamed(name))
		if !ok {
			return ""
		}
		passes[i] = list
	}
	closes := slices.DeleteFunc(slices.Clone(passes[0]), func(s string) bool { return slices.Contains(passes[2], s) })
	return strings.Join(costs, "\n") + fmt.Sprintf("\nOf the attacks that `atls attack` runs, %s in the handshake alone, %s after it alone, and %s with both, which closes %s.",
		pass(passes[0]), pass(passes[1]), pass(passes[2]), code(closes))
}

func pass(list []string) string {
	switch len(list) {
	case 0:
		return "none passes"
	case 1:
		return code(list) + " passes"
	}
	return code(list) + " pass"
}

// code lists names in Markdown.
func code(list []string) string {
	if len(list) == 0 {
		return "nothing more"
	}
	all := make([]string, len(list))
	for i, s := range list {
		all[i] = "`" + s + "`"
	}
	if k := len(all) - 1; k > 0 {
		return strings.Join(all[:k], ", ") + " and " + all[k]
	}
	return all[0]
}

// ms writes microseconds as milliseconds, to a tenth.
func ms(micros float64) string {
	s := fmt.Sprintf("%.1f", micros/1e3)
	if s == "-0.0" {
		return "0.0"
	}
	return s
}
