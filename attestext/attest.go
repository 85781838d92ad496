package attestext

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Evidence is what travels: a Conceptual Message Wrapper (RFC 9999) as received,
// and the type that was negotiated for it.
type Evidence struct {
	Type EvidenceType
	// Verifier is the one that was negotiated for an Attestation Result, in the
	// passport model.
	Verifier VerifierIdentity
	// CMW is the encoded wrapper. The bytes come from a peer.
	CMW []byte
}

// An AttestRequest asks for Evidence, or in the passport model for an Attestation
// Result. Evidence for two requests is never shared,
// even if they look alike: each handshake has a binder of its own.
type AttestRequest struct {
	// Type is what the peers agreed on, one of the attester's Formats.
	Type EvidenceType
	// Verifier is whose result is asked for, in the passport model.
	Verifier VerifierIdentity
	// Challenge is what the Evidence must be bound to, the TLS identity key
	// included. It is never nil.
	Challenge *Challenge
}

// An Attester makes Evidence about the machine it runs on. Its methods are called
// concurrently.
type Attester interface {
	// Formats lists what Attest can make to go with a kind of credential, in
	// order of preference; none where it cannot.
	Formats(kind CredentialKind) []EvidenceFormat

	// Attest returns Evidence as an encoded CMW, bound to the challenge. It is
	// called after the handshake secret exists and before the Certificate
	// message is written, so the handshake waits for it; it should return when
	// ctx is done, and the handshake does not wait longer than that.
	Attest(ctx context.Context, req *AttestRequest) ([]byte, error)
}

// A Verifier appraises Evidence. Its methods are called concurrently.
type Verifier interface {
	// Formats lists what Appraise can read of what comes with a kind of
	// credential, in order of preference; none where it cannot.
	Formats(kind CredentialKind) []EvidenceFormat

	// Appraise returns an Appraisal only for Evidence that is genuine, bound to
	// expected, and acceptable under the verifier's policy, and otherwise an
	// error that wraps one of the classes of this package. expected is never
	// nil and has been validated. The handshake waits until ctx is done and no
	// longer.
	//
	// With AttestationOnly, expected has no SPKI and the Appraisal must name
	// the attested key.
	Appraise(ctx context.Context, ev *Evidence, expected *Challenge) (*Appraisal, error)
}

// A ResultsHolder holds Attestation Results that verifiers gave this machine, for
// the passport model. Its methods are called concurrently.
type ResultsHolder interface {
	// Verifiers lists whose results it holds now, in order of preference. One
	// whose results have all expired is left out.
	Verifiers() []VerifierIdentity

	// Attest returns a result by req.Verifier that has not expired, as an
	// encoded CMW with the indicator attestation-results. Except under
	// BindingDraft08 beside a certificate, it must name the key of
	// req.Challenge.SPKI.
	Attest(ctx context.Context, req *AttestRequest) ([]byte, error)
}

// A ResultsVerifier checks Attestation Results, for the passport model. Its
// methods are called concurrently.
type ResultsVerifier interface {
	// Verifiers lists whose results it trusts, in order of preference.
	Verifiers() []VerifierIdentity

	// Appraise returns an Appraisal only for a result that ev.Verifier signed,
	// that is valid now, and that is acceptable under its policy. Except under
	// BindingDraft08 the result must name the key expected.SPKI; with
	// AttestationOnly the Appraisal must name the attested key. A result that
	// has expired, or that another verifier signed, is of class ErrSignature,
	// and one over another key of class ErrBinding.
	Appraise(ctx context.Context, ev *Evidence, expected *Challenge) (*Appraisal, error)
}

// An Appraisal is what a Verifier says of Evidence that it accepts.
type Appraisal struct {
	// Verdict is the overall trustworthiness tier of draft-ietf-rats-ar4si:
	// "affirming", "warning", "contraindicated" or "none". Only the first two
	// can be accepted.
	Verdict string
	// Vector is the trustworthiness vector of draft-ietf-rats-ar4si behind Verdict, by
	// the names of its claims. A claim that is not made is left out; nil where the
	// verifier gives none.
	Vector map[string]int8
	// Key is the DER SubjectPublicKeyInfo of the attested TLS identity key.
	// Mandatory with AttestationOnly; otherwise, where it is set, it must equal
	// the expected one.
	Key []byte
	// Machine identifies the machine, for example a chip ID in hexadecimal
	// behind a scheme ("snp-chip:…"); empty where the Evidence names none.
	Machine string
	// Format is that of the inner Evidence.
	Format EvidenceFormat
	// Claims is what the Evidence says, by name, for people and logs. Values
	// are strings, numbers, booleans, or slices and maps of them.
	Claims map[string]any
}

// A Result is the proof that a peer's Evidence was appraised and accepted. It can
// be made by [Appraise] only; the zero Result proves nothing and says so.
type Result struct {
	appraisal Appraisal
	evidence  Evidence
	challenge Challenge
	valid     bool
}

// Valid reports whether r comes out of an appraisal that accepted.
func (r *Result) Valid() bool { return r != nil && r.valid }

// Verdict returns the trustworthiness tier, "affirming" or "warning".
func (r *Result) Verdict() string {
	if !r.Valid() {
		return "none"
	}
	return r.appraisal.Verdict
}

// Vector returns the trustworthiness vector behind the verdict, nil where there is
// none. The caller must not change it.
func (r *Result) Vector() map[string]int8 { return r.appraisal.Vector }

// Machine identifies the attested machine, or is empty.
func (r *Result) Machine() string { return r.appraisal.Machine }

// Claims returns what the Evidence says, by name. The caller must not change it.
func (r *Result) Claims() map[string]any { return r.appraisal.Claims }

// Key returns the DER SubjectPublicKeyInfo of the attested key, or nil where the
// binding rule does not cover one.
func (r *Result) Key() []byte { return r.appraisal.Key }

// Evidence returns the Evidence that was appraised. The caller must not change it.
func (r *Result) Evidence() Evidence { return r.evidence }

// Challenge returns the challenge that the Evidence was checked against. The
// caller must not change it.
func (r *Result) Challenge() Challenge { return r.challenge }

// Binding returns the binding rule that was checked.
func (r *Result) Binding() Binding { return r.challenge.Binding }

// Kind returns the kind of credential that the Evidence came with.
func (r *Result) Kind() CredentialKind { return r.challenge.Kind }

// Model returns whether Evidence or an Attestation Result was appraised.
func (r *Result) Model() Model { return r.challenge.Model }

// appraiser is what [Verifier] and [ResultsVerifier] share, and evidenceMaker what
// [Attester] and [ResultsHolder] do.
type appraiser interface {
	Appraise(ctx context.Context, ev *Evidence, expected *Challenge) (*Appraisal, error)
}

type evidenceMaker interface {
	Attest(ctx context.Context, req *AttestRequest) ([]byte, error)
}

// Appraise has v, a Verifier or a ResultsVerifier, appraise ev against expected, within timeout, and mints a Result
// if it accepts. It fails closed: an incomplete challenge, a verifier that
// returns nothing, panics, or outlasts ctx or timeout is an error, of class
// ErrUnavailable. A verifier that outlasts them is left behind in its goroutine.
func Appraise(ctx context.Context, timeout time.Duration, v appraiser, ev *Evidence, expected *Challenge) (*Result, error) {
	const op = "appraise"
	if v == nil || ev == nil {
		return nil, Errorf(ErrUnavailable, op, "no verifier or no evidence")
	}
	if err := expected.Validate(); err != nil {
		return nil, &Error{Class: ErrUnavailable, Op: op, Err: err}
	}
	if (expected.Model == Passport) != (ev.Verifier != "") {
		return nil, Errorf(ErrUnavailable, op, "the %v model, and a result by %q", expected.Model, ev.Verifier)
	}
	a, err := within(ctx, timeout, "verifier", func(ctx context.Context) (*Appraisal, error) {
		return v.Appraise(ctx, ev, expected)
	})
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, Errorf(ErrUnavailable, op, "verifier returned neither an appraisal nor an error")
	}
	if a.Verdict != "affirming" && a.Verdict != "warning" {
		return nil, Errorf(ErrPolicy, op, "verdict is %q", a.Verdict)
	}
	if expected.Kind == AttestationOnly && len(a.Key) == 0 {
		return nil, Errorf(ErrBinding, op, "verifier named no attested key")
	}
	if len(expected.SPKI) != 0 && len(a.Key) != 0 && string(a.Key) != string(expected.SPKI) {
		return nil, Errorf(ErrBinding, op, "evidence covers another key")
	}
	if expected.Model == Passport && expected.Binding != BindingDraft08 && len(a.Key) == 0 {
		return nil, Errorf(ErrBinding, op, "the result names no key")
	}
	if expected.Model == BackgroundCheck && a.Format != (EvidenceFormat{}) && !ev.Type.Format.Matches(a.Format) {
		return nil, Errorf(ErrWrongType, op, "evidence is %v, selected was %v", a.Format, ev.Type.Format)
	}
	return &Result{appraisal: *a, evidence: *ev, challenge: *expected, valid: true}, nil
}

// Attest has a, an Attester or a ResultsHolder, make Evidence, within timeout. An attester that returns nothing,
// panics, or outlasts ctx or timeout is an error of class ErrUnavailable.
func Attest(ctx context.Context, timeout time.Duration, a evidenceMaker, req *AttestRequest) ([]byte, error) {
	const op = "attest"
	if err := req.Challenge.Validate(); err != nil {
		return nil, &Error{Class: ErrUnavailable, Op: op, Err: err}
	}
	cmw, err := within(ctx, timeout, "attester", func(ctx context.Context) ([]byte, error) {
		return a.Attest(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	if len(cmw) == 0 {
		return nil, Errorf(ErrUnavailable, op, "attester returned no evidence")
	}
	return cmw, nil
}

// within calls f with a context that ends after timeout, and returns when f does
// or when the context ends, whichever is first. A panic in f becomes an error.
func within[T any](ctx context.Context, timeout time.Duration, who string, f func(context.Context) (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	var zero T
	handshake := ctx
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	late := func(err error) error {
		if handshake.Err() != nil {
			return fmt.Errorf("no answer before the handshake's own deadline: %w", err)
		}
		return fmt.Errorf("no answer within %v: %w", timeout, err)
	}
	ch := make(chan answer, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				ch <- answer{err: Errorf(ErrUnavailable, who, "panicked: %v", p)}
			}
		}()
		v, err := f(ctx)
		ch <- answer{v, err}
	}()
	select {
	case a := <-ch:
		if a.err != nil {
			if errors.Is(a.err, context.DeadlineExceeded) {
				return zero, &Error{Class: ErrUnavailable, Op: who, Err: late(a.err)}
			}
			return zero, a.err
		}
		return a.v, nil
	case <-ctx.Done():
		err := context.Cause(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = late(err)
		}
		return zero, &Error{Class: ErrUnavailable, Op: who, Err: err}
	}
}
