// Package results has the two ends of the passport model: a [Holder] of the
// Attestation Results that verifiers gave a machine, which presents them, and a
// [Verifier], which decides whether to rely on one. The results are EARs, package
// ear, in a CMW.
//
// There is no nonce of the relying party in this model: a result is as fresh as
// its lifetime says, and whoever has a copy can present it. What ties it to the
// peer is the key that it names; see [attestext.BindingHardened].
package results

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/ear"
)

// A Trust says whose results a [Verifier] relies on, and how far.
type Trust struct {
	// ID is the identity that is negotiated, compared byte by byte.
	ID attestext.VerifierIdentity

	// Keys are those that its results are signed with; see [ear.Algorithm]. There
	// must be one at least, and none that another verifier has.
	Keys []crypto.PublicKey

	// Issuer is what the iss claim of its results must be, where they have one.
	// Empty means ID.
	Issuer string

	// MaxAge is how long after it was issued a result is relied on, whatever its
	// own expiry says. Zero means [ear.DefaultMaxAge], 24 hours.
	MaxAge time.Duration

	// AllowWarning accepts results of tier "warning". Otherwise they must be
	// "affirming".
	AllowWarning bool
}

// VerifierOptions change what a [Verifier] does. The zero value is the default.
type VerifierOptions struct {
	// Policy decides upon a result that was verified, is over the right key and has
	// an acceptable tier. Its error refuses the peer, with class
	// [attestext.ErrPolicy]. nil accepts. It is called concurrently.
	Policy func(r *ear.Result) error

	// Now returns the time at which results must be valid. nil means time.Now.
	Now func() time.Time
}

// A Verifier is an [attestext.ResultsVerifier] for EARs. Its methods may be called
// concurrently.
type Verifier struct {
	trust []Trust
	opts  VerifierOptions
}

var _ attestext.ResultsVerifier = (*Verifier)(nil)

// NewVerifier returns a Verifier that relies on the verifiers in trust, in order of
// preference. nil options are those of the zero value. It fails for trust that is
// empty, incomplete, or gives two verifiers the same identity or the same key:
// each could then speak for the other.
func NewVerifier(trust []Trust, opts *VerifierOptions) (*Verifier, error) {
	v := new(Verifier)
	if opts != nil {
		v.opts = *opts
	}
	if err := checkTrust(trust); err != nil {
		return nil, fmt.Errorf("trusted verifiers: %w", err)
	}
	for _, t := range trust {
		t.Keys = slices.Clone(t.Keys)
		v.trust = append(v.trust, t)
	}
	return v, nil
}

func checkTrust(trust []Trust) error {
	if len(trust) == 0 {
		return errors.New("none")
	}
	ids := make(map[attestext.VerifierIdentity]bool)
	owner := make(map[string]attestext.VerifierIdentity)
	for _, t := range trust {
		switch {
		case t.ID == "":
			return errors.New("one without an identity")
		case ids[t.ID]:
			return fmt.Errorf("%q appears twice", t.ID)
		case len(t.Keys) == 0:
			return fmt.Errorf("%q has no key", t.ID)
		case t.MaxAge < 0:
			return fmt.Errorf("%q has a negative maximum age", t.ID)
		}
		ids[t.ID] = true
		for _, k := range t.Keys {
			if _, err := ear.Algorithm(k); err != nil {
				return fmt.Errorf("%q: %w", t.ID, err)
			}
			spki, err := x509.MarshalPKIXPublicKey(k)
			if err != nil {
				return fmt.Errorf("%q: %w", t.ID, err)
			}
			if other, ok := owner[string(spki)]; ok {
				return fmt.Errorf("%q has a key of %q", t.ID, other)
			}
			owner[string(spki)] = t.ID
		}
	}
	return nil
}

// Verifiers lists whose results v relies on, in the order of NewVerifier.
func (v *Verifier) Verifiers() []attestext.VerifierIdentity {
	ids := make([]attestext.VerifierIdentity, len(v.trust))
	for i, t := range v.trust {
		ids[i] = t.ID
	}
	return ids
}

const opAppraise = "appraise result"

// Appraise accepts the EAR in ev.CMW if ev.Verifier is trusted and signed it, if it
// is valid now, and if its tier and the policy allow. The Appraisal names the
// attested key with AttestationOnly and under every rule but BindingDraft08; it must
// be expected.SPKI if that is set.
//
// WARNING: under BindingDraft08 with a certificate, nothing ties the result to the
// peer. The draft does not, and a result that was seen once will do.
//
// The classes of errors are those of [ear.Unwrap] and [ear.Verify];
// [attestext.ErrSignature] for a verifier that is not trusted or that the result
// does not name as its issuer; [attestext.ErrBinding] for a key that is missing or
// another; [attestext.ErrPolicy]; and [attestext.ErrUnavailable] if expected is
// incomplete or ctx done.
func (v *Verifier) Appraise(ctx context.Context, ev *attestext.Evidence, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	if err := ctx.Err(); err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opAppraise, Err: err}
	}
	if err := expected.Validate(); err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opAppraise, Err: err}
	}
	if expected.Model != attestext.Passport {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "a result is wanted, not what the %v model has", expected.Model)
	}
	i := slices.IndexFunc(v.trust, func(t Trust) bool { return t.ID == ev.Verifier })
	if i < 0 {
		return nil, attestext.Errorf(attestext.ErrSignature, opAppraise, "verifier %q is not trusted", ev.Verifier)
	}
	t := v.trust[i]

	token, profile, err := ear.Unwrap(ev.CMW)
	if err != nil {
		return nil, err
	}
	opts := &ear.VerifyOptions{Keys: t.Keys, MaxAge: t.MaxAge}
	if v.opts.Now != nil {
		opts.Now = v.opts.Now()
	}
	if len(expected.Nonce) != 0 {
		opts.Nonce = expected.Nonce
	}
	r, err := ear.Verify(token, opts)
	if err != nil {
		return nil, err
	}
	if profile != "" && profile != r.Profile() {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "token of another profile than its wrapper says")
	}
	issuer := t.Issuer
	if issuer == "" {
		issuer = string(t.ID)
	}
	if r.Issuer() != "" && r.Issuer() != issuer {
		return nil, attestext.Errorf(attestext.ErrSignature, opAppraise, "result names %q as its issuer, want %q", r.Issuer(), issuer)
	}

	a := &attestext.Appraisal{
		Verdict: r.Tier().String(),
		Format:  r.Claims().Format(),
		Vector:  r.Vector(),
		Claims:  r.Describe(),
	}
	a.Claims["verifier"] = string(t.ID)
	if needsKey(expected) {
		a.Key = r.AKPub()
		switch {
		case len(a.Key) == 0:
			return nil, attestext.Errorf(attestext.ErrBinding, opAppraise, "the result names no key")
		case len(expected.SPKI) != 0 && string(a.Key) != string(expected.SPKI):
			return nil, attestext.Errorf(attestext.ErrBinding, opAppraise, "the result is over another key")
		}
	}
	if tier := r.Tier(); tier != ear.Affirming && !(tier == ear.Warning && t.AllowWarning) {
		return nil, attestext.Errorf(attestext.ErrPolicy, opAppraise, "tier is %v: %s", tier, reasons(r))
	}
	if v.opts.Policy != nil {
		if err := v.opts.Policy(r); err != nil {
			return nil, &attestext.Error{Class: attestext.ErrPolicy, Op: opAppraise, Err: err}
		}
	}
	return a, nil
}

// needsKey reports whether a result must name the attested key.
func needsKey(c *attestext.Challenge) bool {
	return c.Binding != attestext.BindingDraft08 || c.Kind == attestext.AttestationOnly
}

// reasons names the parts of r that are not affirming, with their claims.
func reasons(r *ear.Result) string {
	var s []string
	for name, a := range r.Claims().Submods {
		if a.Tier() == ear.Affirming {
			continue
		}
		text := fmt.Sprintf("%q has status %v", name, a.Status)
		if a.Status != a.Tier() {
			text += fmt.Sprintf(" and a vector of tier %v", a.Vector.Tier())
		}
		s = append(s, text)
	}
	if len(s) == 0 {
		return "the result as a whole"
	}
	slices.Sort(s)
	return strings.Join(s, "; ")
}
