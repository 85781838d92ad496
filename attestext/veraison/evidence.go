package veraison

import (
	"crypto/subtle"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
)

// A submission is Evidence as it goes to a service.
type submission struct {
	// format is that of the Evidence, and mediaType the one that body goes under.
	format    attestext.EvidenceFormat
	mediaType string
	body      []byte
	// nonce is what the session is opened with.
	nonce []byte
	// needsKey is set where nobody but the service can say which key is covered.
	needsKey bool
	// key is the TLS key that the Evidence names by itself, or nil.
	key []byte
}

const opBinding = "check binding"

func unbound(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrBinding, opBinding, format, args...)
}

func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }

// prepare takes ev out of its wrapper, checks its binding as far as the service
// cannot be relied upon to, and says what to send. The Evidence is parsed here and
// not verified.
func prepare(ev *attestext.Evidence, expected *attestext.Challenge) (*submission, error) {
	w, err := cmw.Parse(ev.CMW)
	if err != nil {
		return nil, err
	}
	s := &submission{nonce: expected.Value()}
	if w.Collection != nil && w.Collection.Type == eat.BundleType {
		if s.key, err = checkBundle(ev.CMW, expected); err != nil {
			return nil, err
		}
		s.format, s.mediaType, s.body = eat.BundleFormat, eat.BundleMediaType, ev.CMW
		return s, checkType(s.format, ev)
	}
	if s.format, s.body, err = w.Evidence(); err != nil {
		return nil, err
	}
	if err := checkType(s.format, ev); err != nil {
		return nil, err
	}
	if s.mediaType = s.format.MediaType; s.mediaType == "" {
		switch s.format.ContentFormat {
		case attestext.ContentFormatEATCWT:
			s.mediaType = "application/eat+cwt"
		case attestext.ContentFormatEATJWT:
			s.mediaType = "application/eat+jwt"
		default:
			return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "%v has no media type to send it under", s.format)
		}
	}
	if !tsm.IsReport(s.format) {
		s.needsKey = expected.Binding == attestext.BindingHardened || expected.Kind == attestext.AttestationOnly
		return s, nil
	}
	if expected.Kind == attestext.AttestationOnly {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "a report by itself names no TLS key; attestation-only wants it in a bundle with a key attestation token")
	}
	want, err := expected.ReportData()
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrBinding, Op: opBinding, Err: err}
	}
	got, err := reportData(s.format, s.body)
	if err != nil {
		return nil, err
	}
	if !equal(got, want[:]) {
		return nil, explain(got, expected)
	}
	s.nonce = want[:]
	return s, nil
}

func checkType(got attestext.EvidenceFormat, ev *attestext.Evidence) error {
	if !ev.Type.Format.Matches(got) {
		return attestext.Errorf(attestext.ErrWrongType, opAppraise, "evidence is %v, selected was %v", got, ev.Type.Format)
	}
	return nil
}

// explain says by which rule got was made, where that can be told.
func explain(got []byte, c *attestext.Challenge) error {
	other := *c
	other.Binding = attestext.BindingHardened
	if c.Binding == attestext.BindingHardened {
		other.Binding = attestext.BindingDraft08
	}
	if rd, err := other.ReportData(); err == nil && equal(got, rd[:]) {
		return unbound("evidence follows the %v rule, this side is configured for %v", other.Binding, c.Binding)
	}
	return unbound("report data is of another session, another key or another role")
}

// reportData returns the REPORTDATA of a TSM report, which nobody has verified.
func reportData(f attestext.EvidenceFormat, b []byte) ([]byte, error) {
	r, err := tsm.Parse(f, b)
	if err != nil {
		return nil, err
	}
	switch r.Provider {
	case tsm.ProviderTDX:
		q, err := tdx.Parse(r.OutBlob)
		if err != nil {
			return nil, err
		}
		return q.ReportData[:], nil
	case tsm.ProviderSNP:
		q, err := sevsnp.Parse(r.OutBlob)
		if err != nil {
			return nil, err
		}
		return q.ReportData[:], nil
	}
	return nil, attestext.Errorf(attestext.ErrWrongType, opBinding, "nobody could check the binding of a report by provider %.32q", r.Provider)
}

// checkBundle checks all of a bundle but whether its platform evidence is genuine,
// and returns the TLS key that it names.
func checkBundle(b []byte, expected *attestext.Challenge) ([]byte, error) {
	token, pat, err := eat.ParseBundle(b)
	if err != nil {
		return nil, err
	}
	if !tsm.IsReport(pat.Format) {
		return nil, attestext.Errorf(attestext.ErrWrongType, opBinding, "nobody could check what platform evidence in %v covers", pat.Format)
	}
	kat, err := eat.VerifyKAT(token)
	if err != nil {
		return nil, err
	}
	rd, err := reportData(pat.Format, pat.Value)
	if err != nil {
		return nil, err
	}
	switch {
	case !eat.MatchKAKHash(kat.KAKPub, rd):
		return nil, unbound("platform evidence does not cover the key that signed the key attestation")
	case len(expected.Value()) == 0 || !equal(kat.Challenge, expected.Value()):
		return nil, unbound("key attestation is of another session, or of another rule than %v", expected.Binding)
	case len(expected.SPKI) != 0 && !equal(kat.TIK, expected.SPKI):
		return nil, unbound("key attestation is for another key than the peer's certificate has")
	}
	return kat.TIK, nil
}
