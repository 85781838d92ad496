package attack

// Published is what the ProVerif models of intra-handshake.fail say of a binding:
// whether, wherever both ends complete their handshakes with the same evidence, they
// have the same secrets.
type Published struct {
	Mode  string
	Goals Goals
}

// PublishedGoals are the published results (github.com/muhammad-usama-sardar/
// intra-handshake.fail, README, "Main results").
var PublishedGoals = []Published{
	{"binder1", Goals{}},
	{"binder2", Goals{}},
	{"binder3", Goals{G1: true}},
	{"binder4", Goals{}},
	{"binder5", Goals{G1: true}},
	{"binder6", Goals{}},
	{"binder7", Goals{G1: true}},
	{"proposed", Goals{G1: true, G2: true}},
}

// A Tally gathers what runs without mitigations say of the goals of each mode.
type Tally struct {
	complete, any map[string]Goals
	seen          map[string]bool
}

// Add takes note of a row. Rows with a mitigation, and those that the published models
// know nothing of, are left out.
func (t *Tally) Add(r *Row) {
	if t.seen == nil {
		t.complete, t.any, t.seen = make(map[string]Goals), make(map[string]Goals), make(map[string]bool)
	}
	if r.Applies && r.Mitigation == nil {
		t.seen[r.Mode] = true
	}
	if r.Mitigation != nil || !r.Modelled {
		return
	}
	lost := func(m map[string]Goals) {
		g := m[r.Mode]
		m[r.Mode] = Goals{g.G1 || !*r.G1, g.G2 || !*r.G2, g.G3 || !*r.G3}
	}
	lost(t.any)
	if *r.AttesterFinished {
		lost(t.complete)
	}
}

// Held returns the goals that no row has refuted: complete counts, as the published
// models do, only rows in which both ends completed their handshakes, and any counts
// all. ok is false where the mode was not run.
func (t *Tally) Held(mode string) (complete, any Goals, ok bool) {
	not := func(g Goals) Goals { return Goals{!g.G1, !g.G2, !g.G3} }
	return not(t.complete[mode]), not(t.any[mode]), t.seen[mode]
}
