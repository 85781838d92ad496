package veraison

import (
	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/internal/binding"
	"github.com/attestedtls/atls/attestext/verifier"
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
			s.mediaType = eat.TokenMediaType
		case attestext.ContentFormatEATJWT:
			s.mediaType = eat.JWTMediaType
		default:
			return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "%v has no media type to send it under", s.format)
		}
	}
	if !verifier.IsPlatformEvidence(s.format) {
		s.needsKey = expected.Binding == attestext.BindingHardened || expected.Kind == attestext.AttestationOnly
		return s, nil
	}
	if expected.Kind == attestext.AttestationOnly {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "a report by itself names no TLS key; attestation-only wants it in a bundle with a key attestation token")
	}
	isAbout, err := verifier.ClaimedAbout(s.format, s.body)
	if err != nil {
		return nil, err
	}
	if err := binding.Check(isAbout, expected); err != nil {
		return nil, err
	}
	reportData, err := expected.ReportData()
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrBinding, Op: opBinding, Err: err}
	}
	s.nonce = reportData[:]
	return s, nil
}

func checkType(got attestext.EvidenceFormat, ev *attestext.Evidence) error {
	if !ev.Type.Format.Matches(got) {
		return attestext.Errorf(attestext.ErrWrongType, opAppraise, "evidence is %v, selected was %v", got, ev.Type.Format)
	}
	return nil
}

// checkBundle checks all of a bundle but whether its platform evidence is genuine,
// and returns the TLS key that it names.
func checkBundle(b []byte, expected *attestext.Challenge) ([]byte, error) {
	bundle, err := eat.OpenBundle(b)
	if err != nil {
		return nil, err
	}
	token, pat := bundle.KAT, bundle.PAT
	if !verifier.IsPlatformEvidence(pat.Format) {
		return nil, attestext.Errorf(attestext.ErrWrongType, opBinding, "nobody could check what platform evidence in %v covers", pat.Format)
	}
	kat, err := eat.VerifyKAT(token)
	if err != nil {
		return nil, err
	}
	isAbout, err := verifier.ClaimedAbout(pat.Format, pat.Value)
	if err != nil {
		return nil, err
	}
	freshness, err := binding.CheckBundle(kat, isAbout, bundle.Epoch, expected)
	if err != nil {
		return nil, err
	}
	if freshness != eat.ForSession && expected.Binding != attestext.BindingDraft08 {
		// The service is told of no rule, and would let it pass.
		return nil, attestext.Errorf(attestext.ErrPolicy, opBinding, "the quote in the bundle was not made for this session, or does not show it, and its age is for nobody to say here")
	}
	return kat.TIK, nil
}
