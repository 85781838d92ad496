// Package verifier appraises Evidence: it takes the wrapper apart, has the quote
// inside verified, checks that it is bound to the handshake, and applies a policy,
// in this order.
package verifier

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
)

// Local is an [attestext.Verifier] that appraises in this process and never goes
// to the network. It reads TSM reports with TDX quotes, by themselves or as the
// platform's part of a bundle of draft-bft-rats-kat-06.
//
// The zero value trusts Intel's root and refuses everything, for it has no
// collateral. The fields must not be changed once it is in use; Appraise may then
// be called concurrently.
type Local struct {
	// TDXRoots are the certificates that TDX quotes and their collateral must
	// begin with. nil means Intel's root; an empty pool is an error.
	TDXRoots *x509.CertPool

	// TDXCollateral says which TDX platforms are current. nil refuses TDX quotes,
	// unless Policy has InsecureSkipCollateral.
	TDXCollateral *tdx.Collateral

	// Policy says which evidence is acceptable. nil asks for genuine hardware,
	// current and not under debug, and compares no measurement: the verdict is
	// then "warning".
	Policy *policy.Policy

	// Now returns the time at which certificates and collateral must be valid.
	// nil means time.Now.
	Now func() time.Time
}

var _ attestext.Verifier = (*Local)(nil)

const opAppraise = "appraise evidence"

// Formats lists what Appraise reads: a TSM report in CBOR, in JSON and under its
// older name, and a bundle, which alone can stand in place of a certificate.
func (l *Local) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	if kind == attestext.AttestationOnly {
		return []attestext.EvidenceFormat{eat.BundleFormat}
	}
	return []attestext.EvidenceFormat{
		tsm.FormatCBOR,
		tsm.FormatJSON,
		{MediaType: tsm.MediaTypeConfigfsJSON},
		eat.BundleFormat,
	}
}

// Appraise appraises ev as the Attester of this module makes it.
//
// Evidence beside a certificate is a report whose quote carries
// expected.ReportData(), or a bundle. Evidence in place of a certificate must be
// a bundle, since a quote by itself names no key: its token must carry
// expected.Value(), its quote the hash of the key that signed the token, and the
// Appraisal names the token's key. With a certificate, that key must be the
// certificate's.
//
// The classes of errors are those of the packages underneath:
// [attestext.ErrMalformed] and [attestext.ErrWrongType] for the wrapper, those of
// [tdx.Verify] for the quote, [attestext.ErrBinding] and [attestext.ErrPolicy].
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
	if !tsm.IsReport(format) {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "%v is not supported here", format)
	}
	if !ev.Type.Format.Matches(format) {
		return nil, wrongType(format, ev)
	}
	if expected.Kind == attestext.AttestationOnly {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "a report by itself names no TLS key; attestation-only wants it in a bundle with a key attestation token")
	}
	return l.report(format, report, func(v *tdx.Verified) error {
		return checkReportData(v.ReportData(), expected)
	})
}

// bundle appraises a KAT and the platform evidence that vouches for its signer.
func (l *Local) bundle(ev *attestext.Evidence, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	token, pat, err := eat.ParseBundle(ev.CMW)
	if err != nil {
		return nil, err
	}
	if !tsm.IsReport(pat.Format) {
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
	a, err := l.report(pat.Format, pat.Value, func(v *tdx.Verified) error {
		rd := v.ReportData()
		if !eat.MatchKAKHash(kat.KAKPub, rd[:]) {
			return unbound("platform evidence does not cover the key that signed the key attestation")
		}
		return checkToken(kat.Challenge, kat.TIK, expected)
	})
	if err != nil {
		return nil, err
	}
	a.Key = kat.TIK
	// A quote has no date: the platform evidence of a bundle is as old as its key.
	a.Claims["platform_evidence_age"] = "unknown"
	a.Format = format
	return a, nil
}

func wrongType(got attestext.EvidenceFormat, ev *attestext.Evidence) error {
	return attestext.Errorf(attestext.ErrWrongType, opAppraise, "evidence is %v, selected was %v", got, ev.Type.Format)
}

// report appraises a TSM report whose binding bound checks.
func (l *Local) report(format attestext.EvidenceFormat, b []byte, bound func(*tdx.Verified) error) (*attestext.Appraisal, error) {
	r, err := tsm.Parse(format, b)
	if err != nil {
		return nil, err
	}
	if r.Provider != tsm.ProviderTDX {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "report by provider %q is not supported here", r.Provider)
	}
	q, err := tdx.Parse(r.OutBlob)
	if err != nil {
		return nil, err
	}
	opts := &tdx.VerifyOptions{
		Roots:                  l.TDXRoots,
		Collateral:             l.TDXCollateral,
		InsecureSkipCollateral: l.Policy.SkipTDXCollateral(),
	}
	if l.Now != nil {
		opts.Now = l.Now()
	}
	v, err := tdx.Verify(q, opts)
	if err != nil {
		return nil, err
	}
	if err := bound(v); err != nil {
		return nil, err
	}
	d, err := l.Policy.EvaluateTDX(v)
	if err != nil {
		return nil, err
	}
	a := &attestext.Appraisal{Verdict: d.Verdict.String(), Format: format, Claims: tdxClaims(v, d)}
	if id := v.PlatformInstanceID(); len(id) != 0 {
		a.Machine = tdxMachineScheme + hex.EncodeToString(id)
	}
	return a, nil
}

// tdxMachineScheme begins the identity of a TDX platform: the platform instance ID
// of its certificate follows in hexadecimal.
const tdxMachineScheme = "tdx-platform:"

// tdxClaims names what a quote says. Measurements are in hexadecimal.
func tdxClaims(v *tdx.Verified, d *policy.Decision) map[string]any {
	q := v.Quote()
	rtmrs := make([]string, tdx.RTMRCount)
	for i, m := range q.RTMRs {
		rtmrs[i] = hex.EncodeToString(m[:])
	}
	reasons := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		reasons[i] = r.String()
	}
	status := v.TCBStatus()
	if status == "" {
		status = "not checked"
	}
	return map[string]any{
		"tee":                "tdx",
		"mrtd":               hex.EncodeToString(q.MRTD[:]),
		"rtmrs":              rtmrs,
		"mrseam":             hex.EncodeToString(q.MRSEAM[:]),
		"mrconfigid":         hex.EncodeToString(q.MRConfigID[:]),
		"mrowner":            hex.EncodeToString(q.MROwner[:]),
		"mrownerconfig":      hex.EncodeToString(q.MROwnerConfig[:]),
		"td_attributes":      hex.EncodeToString(q.TdAttributes[:]),
		"xfam":               hex.EncodeToString(q.XFAM[:]),
		"tee_tcb_svn":        hex.EncodeToString(q.TeeTcbSvn[:]),
		"debug":              q.Debug(),
		"fmspc":              v.FMSPC(),
		"tcb_status":         status,
		"collateral_checked": v.CollateralChecked(),
		"reasons":            reasons,
	}
}
