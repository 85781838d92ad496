package ear

import (
	"fmt"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
)

// Format returns the format of a token with the profile of c; see [MediaType].
func (c *Claims) Format() attestext.EvidenceFormat {
	return attestext.EvidenceFormat{MediaType: mediaType + `; eat_profile="` + c.Profile + `"`}
}

// Wrap returns token in a CMW, as it travels in a handshake: a CBOR record with the
// media type of the token's profile and the indicator attestation-results
// (RFC 9999, section 3.1). The token must parse, and is not verified.
func Wrap(token []byte) ([]byte, error) {
	c, err := ParseUnverified(token)
	if err != nil {
		return nil, err
	}
	r := cmw.Record{Format: c.Format(), Value: token, Ind: cmw.AttestationResults}
	return r.CBOR()
}

// Unwrap returns the token in an encoded CMW, and the profile that the type of the
// record gives it, or "" if that names none. The token is neither parsed nor
// verified.
//
// Errors are of class [attestext.ErrMalformed], or [attestext.ErrWrongType] if there
// is not exactly one attestation result in the wrapper or if it is no EAR in a JWT.
func Unwrap(b []byte) (token []byte, profile string, err error) {
	w, err := cmw.Parse(b)
	if err != nil {
		return nil, "", err
	}
	r, err := w.Single(cmw.AttestationResults)
	if err != nil {
		return nil, "", err
	}
	if profile, err = ProfileOf(r.Format); err != nil {
		return nil, "", &attestext.Error{Class: attestext.ErrWrongType, Op: "unwrap EAR", Err: fmt.Errorf("record holds something else: %w", err)}
	}
	return r.Value, profile, nil
}
