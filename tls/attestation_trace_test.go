package tls

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/attestedtls/atls/attestext"
)

// tracer notes the events of one end.
type tracer struct {
	events []string
	last   AttestationEvent
}

func (r *tracer) trace() *AttestationTrace {
	note := func(name string) func(AttestationEvent) {
		return func(e AttestationEvent) {
			r.events = append(r.events, e.Role.String()+" "+name)
			r.last = e
		}
	}
	return &AttestationTrace{
		Negotiated:       note("negotiated"),
		ChallengeReady:   note("challenge ready"),
		EvidenceMade:     note("evidence made"),
		EvidenceReceived: note("evidence received"),
		Appraised:        note("appraised"),
	}
}

func TestTraceFollowsBothDirections(t *testing.T) {
	client, server := attesting()
	client.Attestation.Attester, server.Attestation.Verifier = &stubTEE{}, &stubTEE{}
	var c, s tracer
	client.Attestation.Trace, server.Attestation.Trace = c.trace(), s.trace()
	attestHandshake(t, client, server).mustSucceed(t)
	if want := []string{
		"server negotiated", "client negotiated",
		"server evidence received", "server challenge ready", "server appraised",
		"client challenge ready", "client evidence made",
	}; !slices.Equal(c.events, want) {
		t.Errorf("client: %q", c.events)
	}
	if want := []string{
		"server negotiated", "client negotiated",
		"server challenge ready", "server evidence made",
		"client evidence received", "client challenge ready", "client appraised",
	}; !slices.Equal(s.events, want) {
		t.Errorf("server: %q", s.events)
	}
	if e := s.last; e.Size == 0 || e.Duration == 0 || e.Err != nil || e.Challenge == nil || e.Type.Format != stubFormat || e.Model != attestext.BackgroundCheck {
		t.Errorf("%+v", e)
	}
}

func TestTraceHasTheError(t *testing.T) {
	client, server := attesting()
	no := errors.New("no")
	client.Attestation.Verifier = &stubTEE{appraise: func(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
		return nil, no
	}}
	var c tracer
	client.Attestation.Trace = c.trace()
	attestHandshake(t, client, server)
	if !errors.Is(c.last.Err, no) || c.events[len(c.events)-1] != "server appraised" {
		t.Errorf("%q, %+v", c.events, c.last)
	}
	// A trace with nothing in it is no trouble.
	client, server = attesting()
	client.Attestation.Trace = &AttestationTrace{}
	attestHandshake(t, client, server).mustSucceed(t)
}
