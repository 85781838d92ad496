package policy

import (
	"fmt"
	"slices"
)

// An EventsPolicy says which events may have been measured into the RTMRs, by their
// SHA-384 digests. A list that is nil is not compared. Of any other, every event of the
// register has to be on it, and there has to be one.
type EventsPolicy struct {
	RTMR0 []Measurement `json:"rtmr0,omitempty"`
	RTMR1 []Measurement `json:"rtmr1,omitempty"`
	RTMR2 []Measurement `json:"rtmr2,omitempty"`
	RTMR3 []Measurement `json:"rtmr3,omitempty"`
}

func (e *EventsPolicy) lists() [rtmrCount][]Measurement {
	return [rtmrCount][]Measurement{e.RTMR0, e.RTMR1, e.RTMR2, e.RTMR3}
}

// eventClaims are the names of the reasons, by register.
var eventClaims = [rtmrCount]string{"events.rtmr0", "events.rtmr1", "events.rtmr2", "events.rtmr3"}

// check reports what is more likely a mistake than a wish.
func (e *EventsPolicy) check() error {
	if e == nil {
		return nil
	}
	compared := false
	for i, l := range e.lists() {
		if empty(l) {
			return fmt.Errorf("tdx: %s is empty, which accepts nothing; leave it out not to compare", eventClaims[i])
		}
		compared = compared || l != nil
	}
	if !compared {
		return fmt.Errorf("tdx: events compares no register; leave it out")
	}
	return nil
}

// TDXEvents is what a policy reads beside [TDX] where it compares events: evidence that
// does not have it came without an event log.
type TDXEvents interface {
	// Events are the digests that were measured into each RTMR, in their order, by a log
	// whose replay has been compared with the quote.
	Events() [rtmrCount][][measurementSize]byte
}

func (d *Decision) events(e *EventsPolicy, c TDX) {
	if e == nil {
		return
	}
	log, ok := c.(TDXEvents)
	var events [rtmrCount][][measurementSize]byte
	if ok {
		events = log.Events()
	}
	for i, allowed := range e.lists() {
		claim := eventClaims[i]
		bad := slices.IndexFunc(events[i], func(m [measurementSize]byte) bool { return !slices.Contains(allowed, m) })
		switch {
		case allowed == nil:
		case !ok:
			d.add(Contraindicated, claim, "the evidence came without an event log, want one")
		case len(events[i]) == 0:
			d.add(Contraindicated, claim, "nothing was measured, want events out of %d", len(allowed))
		case bad >= 0:
			d.add(Contraindicated, claim, "event %d of %d is %s, want one of %d", bad+1, len(events[i]), short(events[i][bad][:]), len(allowed))
		default:
			d.add(Affirming, claim, "all of %d events are acceptable", len(events[i]))
		}
	}
}
