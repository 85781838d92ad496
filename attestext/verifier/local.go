// Package verifier appraises Evidence: it takes the wrapper apart, has the quote
// inside verified, checks that it is bound to the handshake, and applies a policy,
// in this order.
package verifier

import (
	"context"
	"crypto"
	"crypto/x509"
	"maps"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/cmw/signed"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/internal/binding"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/attestext/tsm"
)

// Local is an [attestext.Verifier] that appraises in this process and never goes
// to the network, unless it is given a Source that does. It reads TSM reports with TDX
// quotes or SEV-SNP reports, by themselves or as the platform's part of a bundle of
// draft-bft-rats-kat-06, and TPM quotes in the same places; and EATs (RFC 9711) by
// themselves.
//
// The zero value trusts Intel's root and AMD's and refuses what has no collateral,
// which only SEV-SNP reports bring along, as a revocation list. The fields must
// not be changed once it is in use; Appraise may then be called concurrently.
type Local struct {
	// TDXRoots are the certificates that TDX quotes and their collateral must
	// begin with, and SNPRoots those that SEV-SNP reports and their revocation lists
	// must begin with. Where both are nil, they mean Intel's root and AMD's. Where
	// one is set, the other one trusts nothing if it is nil: who names whom to trust
	// does not mean somebody else as well. Empty ones are an error.
	TDXRoots *x509.CertPool
	SNPRoots *sevsnp.Roots

	// TPM says which attestation keys of TPMs are trusted. nil is none: no root vouches
	// for all TPMs. Where it is set, the roots above that are nil trust nothing.
	TPM *tpm.Trust

	// EATKeys are whose tokens (RFC 9711) are trusted. nil is nobody's. Where there are
	// some, the roots above that are nil trust nothing.
	EATKeys []eat.TokenKey

	// TDXCollateral says which TDX platforms are current. nil refuses TDX quotes,
	// unless Policy has InsecureSkipCollateral.
	TDXCollateral *tdx.Collateral

	// SNPCollateral says which SEV-SNP authorities are revoked. Where it has no list for
	// the key of a report, the one that came along counts, if Source is nil; where there is
	// none either, the report is refused, unless Policy has InsecureSkipCollateral.
	SNPCollateral *sevsnp.Collateral

	// TPMCollateral says which certificates of attestation keys are revoked. nil refuses
	// keys that are certified, unless Policy has InsecureSkipCollateral, and makes no
	// difference to those that are enrolled. Source has none.
	TPMCollateral *tpm.Collateral

	// Source has collateral of platforms for which TDXCollateral and SNPCollateral have
	// none that is current. nil is none, so that nothing is ever fetched.
	Source CollateralSource

	// TDXCache and SNPCache remember platforms that were verified, which makes the
	// next quote or report of one cheap. nil remembers nothing.
	TDXCache *tdx.Cache
	SNPCache *sevsnp.Cache

	// WrapperKeys are whose signatures of wrappers (RFC 9999, section 4) are trusted:
	// P-256, P-384 or Ed25519. A wrapper that is signed by none of them is refused; one
	// that is not signed at all is accepted as ever, since the signature adds nothing to
	// the evidence inside.
	WrapperKeys []crypto.PublicKey

	// Policy says which evidence is acceptable. nil asks for genuine hardware,
	// current and not under debug, and compares no measurement: the verdict is
	// then "warning".
	Policy *policy.Policy

	// Epochs says when the epoch IDs began that quotes of the key tier cover; see
	// attester.KeyTier. nil knows none, so that the age of such a quote is not known.
	// epoch.Keys implements it.
	Epochs EpochVerifier

	// Now returns the time at which certificates and collateral must be valid.
	// nil means time.Now.
	Now func() time.Time

	ctx context.Context // of one appraisal; nil outside of any
}

var _ attestext.Verifier = (*Local)(nil)

// An EpochVerifier says when an epoch ID came into being, or fails if nobody whom it
// trusts vouches for that at the time now. It is called concurrently.
type EpochVerifier interface {
	Issued(id []byte, now time.Time) (time.Time, error)
}

const opAppraise = "appraise evidence"

// Formats lists what Appraise reads: a TSM report in CBOR, in JSON and under its
// older name, a TPM quote where keys of TPMs are trusted, a bundle, and an EAT where
// EATKeys are set. The last two alone can stand in place of a certificate. Where WrapperKeys
// are set, signed wrappers with any of these come last. A list that is offered has room for
// 255 bytes, so that the older name is left out beside both TPM quotes and EATs, and the
// media type of an EAT in a JWT, which has a number too, beside signed wrappers.
func (l *Local) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	named := []attestext.EvidenceFormat{eat.BundleFormat} // which name the TLS key
	if len(l.EATKeys) != 0 {
		jwt := eat.JWTFormats()
		if len(l.WrapperKeys) != 0 {
			jwt = jwt[1:]
		}
		named = append(append(named, eat.TokenFormats()...), jwt...)
	}
	if kind == attestext.AttestationOnly {
		return l.signedFormats(named)
	}
	formats := []attestext.EvidenceFormat{tsm.FormatCBOR, tsm.FormatJSON}
	if l.TPM.Empty() || len(l.EATKeys) == 0 {
		formats = append(formats, attestext.EvidenceFormat{MediaType: tsm.MediaTypeConfigfsJSON})
	}
	if !l.TPM.Empty() {
		formats = append(formats, tpm.Format)
	}
	return l.signedFormats(append(formats, named...))
}

// Appraise appraises ev as the Attester of this module makes it.
//
// Evidence beside a certificate is a report whose quote carries
// expected.ReportData(), a bundle, or an EAT. Evidence in place of a certificate must
// be a bundle or an EAT, since a quote by itself names no key: the token must carry
// expected.Value(), the quote of a bundle the hash of the key that signed the token, and
// the Appraisal names the token's key. With a certificate, that key must be the
// certificate's.
//
// The classes of errors are those of the packages underneath:
// [attestext.ErrMalformed] and [attestext.ErrWrongType] for the wrapper, those of
// [tdx.Verify], [sevsnp.Verify], [tpm.Verify] and [eat.VerifyToken] for the quote, [attestext.ErrBinding] and [attestext.ErrPolicy].
func (l *Local) Appraise(ctx context.Context, ev *attestext.Evidence, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	if err := ctx.Err(); err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opAppraise, Err: err}
	}
	if err := expected.Validate(); err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opAppraise, Err: err}
	}
	if expected.Model != attestext.BackgroundCheck {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "evidence is wanted, not what the %v model has", expected.Model)
	}
	l = l.within(ctx)
	if signed.Is(ev.CMW) || signed.FormOf(ev.Type.Format) != 0 {
		return l.appraiseSigned(ev, expected)
	}
	return l.appraiseWrapper(ev, expected)
}

// appraiseWrapper appraises what is in a wrapper that is not signed.
func (l *Local) appraiseWrapper(ev *attestext.Evidence, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	w, err := cmw.Parse(ev.CMW)
	if err != nil {
		return nil, err
	}
	if w.Collection != nil && w.Collection.Type == eat.BundleType {
		return l.bundle(ev, expected)
	}
	format, report, err := w.Evidence()
	if err != nil {
		return nil, err
	}
	if !IsPlatformEvidence(format) && !eat.IsToken(format) {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "%v is not supported here", format)
	}
	if !ev.Type.Format.Matches(format) {
		return nil, wrongType(format, ev)
	}
	if eat.IsToken(format) {
		return l.appraiseToken(format, report, expected)
	}
	if expected.Kind == attestext.AttestationOnly {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "a report by itself names no TLS key; attestation-only wants it in a bundle with a key attestation token")
	}
	return l.appraise(format, report, func(v *Verified) (policy.Quote, error) {
		return policy.Quote{Tier: policy.FreshQuote}, binding.Check(v.IsAbout, expected)
	})
}

// bundle appraises a KAT and the platform evidence that vouches for its signer.
func (l *Local) bundle(ev *attestext.Evidence, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	b, err := eat.OpenBundle(ev.CMW)
	if err != nil {
		return nil, err
	}
	token, pat := b.KAT, b.PAT
	if !IsPlatformEvidence(pat.Format) {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "platform evidence in %v is not supported here", pat.Format)
	}
	// With attestation-only, a bundle is the one shape that a report can come in,
	// so that the name of the report is enough to ask for it.
	format := eat.BundleFormat
	if expected.Kind == attestext.AttestationOnly && ev.Type.Format.Equal(pat.Format) {
		format = pat.Format
	}
	if !ev.Type.Format.Matches(format) {
		return nil, wrongType(format, ev)
	}
	kat, err := eat.VerifyKAT(token)
	if err != nil {
		return nil, err
	}
	a, err := l.appraise(pat.Format, pat.Value, func(v *Verified) (policy.Quote, error) {
		freshness, err := binding.CheckBundle(kat, v.IsAbout, b.Epoch, expected)
		if err != nil {
			return policy.Quote{}, err
		}
		q := l.quote(freshness, b.Epoch)
		q.DraftRule = expected.Binding == attestext.BindingDraft08
		return q, nil
	})
	if err != nil {
		return nil, err
	}
	a.Key = kat.TIK
	a.Format = format
	return a, nil
}

// quote says how old the quote of a bundle is.
func (l *Local) quote(f eat.Freshness, epoch []byte) policy.Quote {
	switch f {
	case eat.ForSession:
		return policy.Quote{Tier: policy.FreshQuote}
	case eat.Undated:
		return policy.Quote{Tier: policy.UnknownTier}
	}
	q := policy.Quote{Tier: policy.KeyTier}
	if l.Epochs == nil {
		q.Unproven = "this side trusts nobody to date it"
		return q
	}
	now := l.now()
	began, err := l.Epochs.Issued(epoch, now)
	if err != nil {
		q.Unproven = "its age is not proven: " + err.Error()
		return q
	}
	q.Age = max(0, now.Sub(began))
	return q
}

func (l *Local) now() time.Time {
	if l.Now != nil {
		return l.Now()
	}
	return time.Now()
}

func wrongType(got attestext.EvidenceFormat, ev *attestext.Evidence) error {
	return attestext.Errorf(attestext.ErrWrongType, opAppraise, "evidence is %v, selected was %v", got, ev.Type.Format)
}

// A boundFunc checks that verified evidence is about what it must be about, and says
// when it was made.
type boundFunc func(*Verified) (policy.Quote, error)

// appraise appraises a TSM report or a TPM quote whose binding bound checks.
func (l *Local) appraise(format attestext.EvidenceFormat, b []byte, bound boundFunc) (*attestext.Appraisal, error) {
	v, err := l.VerifyEvidence(format, b)
	if err != nil {
		return nil, err
	}
	return l.decide(format, v, bound)
}

// decide checks by bound what verified evidence is about, and compares it with the policy.
func (l *Local) decide(format attestext.EvidenceFormat, v *Verified, bound boundFunc) (*attestext.Appraisal, error) {
	quote, err := bound(v)
	if err != nil {
		return nil, err
	}
	d, _ := v.Evaluate()
	if err := l.Policy.EvaluateQuote(d, quote); err != nil {
		return nil, err
	}
	reasons := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		reasons[i] = r.String()
	}
	a := &attestext.Appraisal{Verdict: d.Verdict.String(), Vector: d.Values(), Format: format, Machine: v.machine, Claims: v.claims}
	a.Claims["reasons"] = reasons
	a.Claims["ear"] = d.EAR()
	setAge(a.Claims, quote)
	return a, nil
}

// VerifyEvidence is [Local.Verify] for a TSM report, a TPM quote or an EAT that is to be
// parsed first, in one of the formats that are not bundles.
func (l *Local) VerifyEvidence(format attestext.EvidenceFormat, b []byte) (*Verified, error) {
	if eat.IsToken(format) {
		v, _, err := l.verifyToken(format, b)
		return v, err
	}
	if format.Equal(tpm.Format) {
		q, err := tpm.Parse(b)
		if err != nil {
			return nil, err
		}
		return l.VerifyTPM(q)
	}
	r, err := tsm.Parse(format, b)
	if err != nil {
		return nil, err
	}
	return l.Verify(r)
}

// setAge says in claims when the quote was made.
func setAge(claims map[string]any, q policy.Quote) {
	age := "unknown"
	switch {
	case q.Tier == policy.FreshQuote:
		age = "this session"
	case q.Tier == policy.KeyTier && q.Unproven == "":
		age = "at most " + q.Age.String()
		claims["platform_evidence_max_age_seconds"] = q.Age.Seconds()
	}
	claims["platform_evidence_tier"], claims["platform_evidence_age"] = q.Tier.String(), age
}

// Verified is the evidence of a TSM report, a TPM quote or an EAT once it has been verified and
// before anything is compared. Only [Local.Verify] and its like make one that is not empty.
type Verified struct {
	// ReportData is what the TEE was asked to sign. What it must be is for the caller
	// to check. A TPM carries a hash of it, and this is then zero: see IsAbout. An EAT
	// carries none.
	ReportData [attestext.ReportDataSize]byte

	hashed   bool // isAbout compares a hash
	isAbout  func(reportData [attestext.ReportDataSize]byte) bool
	machine  string
	claims   map[string]any
	evaluate func() (*policy.Decision, error)
}

// IsAbout reports whether the evidence is about reportData, in constant time. An EAT, which
// has a nonce in place of it, never is.
func (v *Verified) IsAbout(reportData [attestext.ReportDataSize]byte) bool {
	if v.hashed {
		return v.isAbout(reportData)
	}
	return binding.Equal(v.ReportData[:], reportData[:])
}

// Evaluate compares v with the policy of its verifier.
func (v *Verified) Evaluate() (*policy.Decision, error) { return v.evaluate() }

// Claims returns what the evidence says, as in the Claims of an Appraisal.
func (v *Verified) Claims() map[string]any { return maps.Clone(v.claims) }

// Verify verifies the quote in r, and decides neither what it is bound to nor
// whether it is acceptable: that is for [Local.Appraise], which does all three.
// It is for looking at evidence outside of a handshake.
func (l *Local) Verify(r *tsm.Report) (*Verified, error) {
	now := l.now()
	switch r.Provider {
	case tsm.ProviderTDX:
		return l.verifyTDX(r, now)
	case tsm.ProviderSNP:
		return l.verifySNP(r, now)
	}
	return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "report by provider %q is not supported here", r.Provider)
}

// trustsOthers reports whether somebody has named whom to trust for evidence that has no
// roots above.
func (l *Local) trustsOthers() bool { return l.TPM != nil || len(l.EATKeys) != 0 }
