package tls

import (
	"time"

	"github.com/attestedtls/atls/attestext"
)

// An AttestationTrace is a set of functions that are called at the stages of an
// attested handshake, in the spirit of net/http/httptrace. Any may be nil. They
// are called by the goroutine of the handshake, which waits for them, once for
// each direction in which a side attests; and so, except Negotiated, in each exchange
// of exported authenticators, which goes on beside the connection's use. A trace that
// is shared by Configs, or on a connection that is attested again, must be safe for
// concurrent use.
type AttestationTrace struct {
	// Negotiated is called when both ends know what is attested and how.
	Negotiated func(AttestationEvent)
	// ChallengeReady is called when the challenge has been derived, on either end.
	ChallengeReady func(AttestationEvent)
	// EvidenceMade is called when this side's attester has returned, or failed.
	EvidenceMade func(AttestationEvent)
	// EvidenceReceived is called when the peer's Evidence has been taken out of
	// its Certificate message. It has not been looked at yet.
	EvidenceReceived func(AttestationEvent)
	// Appraised is called when the verifier has returned, or failed.
	Appraised func(AttestationEvent)
}

// An AttestationEvent says what happened in one direction of attestation.
type AttestationEvent struct {
	// Role is that of the end that attests.
	Role attestext.Role
	// Model is where the Evidence is appraised.
	Model attestext.Model
	// Type is what was agreed on; in the passport model its Kind alone.
	Type attestext.EvidenceType
	// Verifier is whose result was agreed on, in the passport model.
	Verifier attestext.VerifierIdentity
	// Challenge is what the Evidence must be bound to, from ChallengeReady on.
	// It must not be changed.
	Challenge *attestext.Challenge
	// Size is that of the Evidence in bytes, from EvidenceMade or
	// EvidenceReceived on.
	Size int
	// Duration is how long the attester or the verifier took, in EvidenceMade
	// and Appraised.
	Duration time.Duration
	// Err is why EvidenceMade or Appraised has nothing to show.
	Err error
}

// attestTrace calls the function of the trace that choose picks, if there is one.
func (c *Conn) attestTrace(d *attestDirection, choose func(*AttestationTrace) func(AttestationEvent), size int, took time.Duration, err error) {
	c.attestTraceAs(c.attestRole(d == &c.attest.self), d, choose, size, took, err)
}

// attestTraceAs does so for the direction in which the end of that role attests.
func (c *Conn) attestTraceAs(attests attestext.Role, d *attestDirection, choose func(*AttestationTrace) func(AttestationEvent), size int, took time.Duration, err error) {
	a := c.config.Attestation
	if a == nil || a.Trace == nil || !d.negotiated {
		return
	}
	f := choose(a.Trace)
	if f == nil {
		return
	}
	e := AttestationEvent{
		Role:     attests,
		Model:    d.model,
		Type:     d.selected,
		Verifier: d.verifier,
		Size:     size,
		Duration: took,
		Err:      err,
	}
	if d.request != nil {
		e.Challenge = d.request.Challenge
	}
	f(e)
}

func traceNegotiated(t *AttestationTrace) func(AttestationEvent)       { return t.Negotiated }
func traceChallengeReady(t *AttestationTrace) func(AttestationEvent)   { return t.ChallengeReady }
func traceEvidenceMade(t *AttestationTrace) func(AttestationEvent)     { return t.EvidenceMade }
func traceEvidenceReceived(t *AttestationTrace) func(AttestationEvent) { return t.EvidenceReceived }
func traceAppraised(t *AttestationTrace) func(AttestationEvent)        { return t.Appraised }
