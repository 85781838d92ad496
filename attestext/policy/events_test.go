package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
)

type logged struct {
	*claims
	events [4][][48]byte
}

func (l *logged) Events() [4][][48]byte { return l.events }

func TestEventsAreComparedWithThePolicy(t *testing.T) {
	m := func(first ...byte) (l []policy.Measurement) {
		for _, b := range first {
			l = append(l, policy.Measurement{b})
		}
		return l
	}
	log := [4][][48]byte{0: {{1}}, 1: {{2}, {3}, {2}}}
	for _, tt := range []struct {
		name   string
		policy *policy.EventsPolicy
		log    *[4][][48]byte
		want   policy.Verdict
		say    string
	}{
		{"not compared", nil, nil, policy.Affirming, ""},
		{"all are allowed", &policy.EventsPolicy{RTMR0: m(9, 1), RTMR1: m(3, 2)}, &log, policy.Affirming, ""},
		{"other register is not compared", &policy.EventsPolicy{RTMR0: m(1)}, &log, policy.Affirming, ""},
		{"one is not", &policy.EventsPolicy{RTMR1: m(2)}, &log, policy.Contraindicated, "events.rtmr1: event 2 of 3 is 03"},
		{"of the other register", &policy.EventsPolicy{RTMR0: m(2, 3)}, &log, policy.Contraindicated, "events.rtmr0: event 1 of 1"},
		{"nothing measured", &policy.EventsPolicy{RTMR2: m(1)}, &log, policy.Contraindicated, "events.rtmr2: nothing was measured"},
		{"nothing measured there", &policy.EventsPolicy{RTMR3: m(1)}, &log, policy.Contraindicated, "events.rtmr3: nothing was measured"},
		{"empty list", &policy.EventsPolicy{RTMR0: m()}, &log, policy.Affirming, ""},
		{"no log", &policy.EventsPolicy{RTMR0: m(1)}, nil, policy.Contraindicated, "came without an event log"},
	} {
		if tt.name == "empty list" {
			tt.policy.RTMR0, tt.want, tt.say = []policy.Measurement{}, policy.Contraindicated, "event 1 of 1"
		}
		p := &policy.Policy{TDX: &policy.TDXPolicy{MRTD: m(1), Events: tt.policy}}
		var c policy.TDX = genuine()
		if tt.log != nil {
			c = &logged{genuine(), *tt.log}
		}
		d, err := p.EvaluateTDX(c)
		checkVector(t, d)
		if d.Verdict != tt.want || (err != nil) != (tt.say != "") || err != nil && (!errors.Is(err, attestext.ErrPolicy) || !strings.Contains(err.Error(), tt.say)) {
			t.Errorf("%s: %v, %v", tt.name, d.Verdict, err)
		}
	}
	for _, s := range []string{`{"tdx":{"events":{}}}`, `{"tdx":{"events":{"rtmr0":[]}}}`, `{"tdx":{"events":{"rtmr4":["` + hex48 + `"]}}}`, `{"tdx":{"events":["` + hex48 + `"]}}`} {
		if _, err := policy.Parse([]byte(s)); err == nil {
			t.Errorf("%s accepted", s)
		}
	}
}
