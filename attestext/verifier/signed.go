package verifier

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw/signed"
)

// signedFormats adds the formats of signed wrappers, if some are trusted: by content
// format alone, for the list that is offered has to fit into 255 bytes.
func (l *Local) signedFormats(formats []attestext.EvidenceFormat) []attestext.EvidenceFormat {
	if len(l.WrapperKeys) == 0 {
		return formats
	}
	return append(formats,
		attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatCMWCOSE}, attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatCMWJWS})
}

// appraiseSigned appraises what is in a signed wrapper.
func (l *Local) appraiseSigned(ev *attestext.Evidence, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	want := signed.FormOf(ev.Type.Format)
	if !signed.Is(ev.CMW) {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "the wrapper is not signed, selected was %v", ev.Type.Format)
	}
	v, err := signed.Verify(ev.CMW, l.WrapperKeys)
	if err != nil {
		return nil, err
	}
	inner := *ev
	inner.CMW = v.Payload()
	if want != 0 {
		if (want == signed.COSE) != (v.Form() == signed.COSE) {
			return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "the wrapper is a %v, selected was %v", v.Form(), ev.Type.Format)
		}
		inner.Type.Format = attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatCMWCBOR} // any
	}
	a, err := l.appraiseWrapper(&inner, expected)
	if err != nil {
		return nil, err
	}
	if want != 0 {
		a.Format = ev.Type.Format
	}
	der, err := x509.MarshalPKIXPublicKey(v.Key())
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opAppraise, Err: err}
	}
	id := sha256.Sum256(der)
	a.Claims["wrapper_signed_by"] = hex.EncodeToString(id[:])
	return a, nil
}
