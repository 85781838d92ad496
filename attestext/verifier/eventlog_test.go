package verifier_test

import (
	"crypto/sha512"
	"errors"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/eventlog"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
)

// ccel returns an event log as firmware writes it, padding included, of events that
// are named by the register they go to: 1 to 4, as in the log.
func ccel(events ...string) []byte {
	var log []eventlog.Event
	for _, e := range events {
		log = append(log, eventlog.Event{Register: int(e[0] - '1'), Type: 13, Data: []byte(e)})
	}
	b := softtee.EventLog(log...)
	for len(b)%4096 != 0 {
		b = append(b, 0xff)
	}
	return b
}

// measured is a TD whose RTMRs are what log comes to.
func measured(t *testing.T, log []byte) *softtee.TDX {
	t.Helper()
	l, err := eventlog.Parse(log)
	if err != nil {
		t.Fatal(err)
	}
	return softtee.NewTDX(&softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.RTMRs = l.Replay() }})
}

// TestEventLogHasToBeWhatTheQuoteMeasured: and then a policy can name what may be in it.
func TestEventLogHasToBeWhatTheQuoteMeasured(t *testing.T) {
	log := ccel("1 firmware", "2 kernel", "3 command line", "2 initrd")
	allow := func(events ...string) (l []policy.Measurement) {
		for _, e := range events {
			l = append(l, sha512.Sum384([]byte(e)))
		}
		return l
	}
	kernel := &policy.EventsPolicy{RTMR1: allow("2 kernel", "2 initrd", "2 other kernel")}
	for _, tt := range []struct {
		name   string
		log    []byte // nil for none
		events *policy.EventsPolicy
		class  error
		say    string
	}{
		{"as measured", log, kernel, nil, ""},
		{"as measured, not compared", log, nil, nil, ""},
		{"no log, not compared", nil, nil, nil, ""},
		{"no log", nil, kernel, attestext.ErrPolicy, "without an event log"},
		{"event that is not allowed", log, &policy.EventsPolicy{RTMR1: allow("2 kernel")}, attestext.ErrPolicy, "events.rtmr1: event 2 of 2"},
		{"event left out", ccel("1 firmware", "2 kernel", "3 command line"), kernel, attestext.ErrSignature, "RTMR1"},
		{"event left out, not compared", ccel("1 firmware", "2 kernel", "3 command line"), nil, attestext.ErrSignature, "RTMR1"},
		{"events in another order", ccel("1 firmware", "2 initrd", "3 command line", "2 kernel"), kernel, attestext.ErrSignature, "RTMR1"},
		{"event of another kernel", ccel("1 firmware", "2 other kernel", "3 command line", "2 initrd"), kernel, attestext.ErrSignature, "RTMR1"},
		{"event added", ccel("1 firmware", "2 kernel", "3 command line", "2 initrd", "4 container"), kernel, attestext.ErrSignature, "RTMR3"},
	} {
		for _, f := range []attestext.EvidenceFormat{tsm.FormatCBOR, tsm.FormatJSON, eat.BundleFormat} {
			t.Run(tt.name+" "+f.String(), func(t *testing.T) {
				var q attester.Quoter = measured(t, log)
				if tt.log != nil {
					q = attester.WithEventLog(q, func() ([]byte, error) { return tt.log, nil })
				}
				v := local(t)
				p := *v.Policy.TDX
				p.RTMR0, p.RTMR1, p.RTMR2, p.RTMR3, p.Events = nil, nil, nil, nil, tt.events
				v.Policy = &policy.Policy{TDX: &p}
				c := challenge(attestext.CertAttestation, attestext.BindingHardened)
				r, err := appraise(v, attest(t, attester.New(q), f, c), c)
				if tt.class != nil {
					wantClass(t, err, tt.class, tt.say)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := r.Claims()["event_log"]; ok != (tt.log != nil) || r.Verdict() != "affirming" {
					t.Errorf("verdict %s, claims %v", r.Verdict(), r.Claims())
				}
			})
		}
	}
	// A log that is none is refused, whether or not anybody compares it.
	report, err := measured(t, log).Report(t.Context(), [64]byte{})
	if err != nil {
		t.Fatal(err)
	}
	report.AuxBlob = log[:100]
	_, err = local(t).Verify(report)
	wantClass(t, err, attestext.ErrMalformed, "event log")
}

func TestEventLogThatCannotBeReadIsNotLeftOut(t *testing.T) {
	tee := softtee.NewTDX(nil)
	for name, read := range map[string]func() ([]byte, error){
		"none":      func() ([]byte, error) { return nil, errors.New("no such file") },
		"malformed": func() ([]byte, error) { return []byte("x"), nil },
	} {
		if _, err := attester.WithEventLog(tee, read).Report(t.Context(), [64]byte{}); err == nil {
			t.Errorf("%s: a report without a log", name)
		}
	}
	twice := attester.WithEventLog(tee, func() ([]byte, error) { return ccel(), nil })
	if _, err := attester.WithEventLog(twice, func() ([]byte, error) { return ccel(), nil }).Report(t.Context(), [64]byte{}); err == nil {
		t.Error("two logs")
	}
	snp := softtee.NewSNP(nil)
	r, err := attester.WithEventLog(snp, func() ([]byte, error) { return nil, errors.New("not asked") }).Report(t.Context(), [64]byte{})
	if err != nil || r.Provider != tsm.ProviderSNP {
		t.Errorf("SNP: %v", err)
	}
}
