package verifier

import (
	"context"
	"maps"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
)

// FirstUse is an [attestext.Verifier] that has another one appraise, and then requires
// a peer to attest from the machine from which it first did (trust on first use, see
// [policy.FirstUse]). It is for one peer, whose machine is recorded as soon as its
// evidence is accepted, which is before the end of the handshake. In place of a
// certificate, somebody else's genuine machine may thus be the first, as it may without
// this; beside one, the certificate has been verified by then.
//
// The fields must not be changed once it is in use. It fails closed: where the store
// fails, the peer is refused.
type FirstUse struct {
	Verifier attestext.Verifier
	Store    policy.MachineStore
	// Peer is the name of the peer in the store. It must not be empty.
	Peer string
}

var _ attestext.Verifier = (*FirstUse)(nil)

// Formats lists what the other verifier reads.
func (f *FirstUse) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	return f.Verifier.Formats(kind)
}

// Appraise has the other verifier appraise ev, and compares the machine. Its claims say
// under "machine_first_use" whether the machine was recorded by this call. Errors are the
// other verifier's, or those of [policy.FirstUse].
func (f *FirstUse) Appraise(ctx context.Context, ev *attestext.Evidence, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	inner, err := f.Verifier.Appraise(ctx, ev, expected)
	if err != nil || inner == nil {
		return inner, err
	}
	if err := ctx.Err(); err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opAppraise, Err: err}
	}
	verdict := policy.Contraindicated
	switch inner.Verdict {
	case policy.Affirming.String():
		verdict = policy.Affirming
	case policy.Warning.String():
		verdict = policy.Warning
	}
	// What attestext.Appraise would refuse is not recorded either.
	if len(expected.SPKI) != 0 && len(inner.Key) != 0 && string(inner.Key) != string(expected.SPKI) ||
		expected.Kind == attestext.AttestationOnly && len(inner.Key) == 0 {
		return nil, attestext.Errorf(attestext.ErrBinding, opAppraise, "evidence covers another key, or none")
	}
	first, err := policy.FirstUse(f.Store, f.Peer, inner.Machine, verdict)
	if err != nil {
		return nil, err
	}
	a := *inner
	a.Claims = maps.Clone(inner.Claims)
	if a.Claims == nil {
		a.Claims = make(map[string]any)
	}
	a.Claims["machine_first_use"] = first
	return &a, nil
}
