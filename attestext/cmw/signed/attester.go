package signed

import (
	"context"
	"crypto"

	"github.com/attestedtls/atls/attestext"
)

// An Attester signs the Evidence of another one. Relying parties have to trust its key.
type Attester struct {
	inner attestext.Attester
	key   crypto.Signer
	keyID []byte
}

var _ attestext.Attester = (*Attester)(nil)

// NewAttester returns an Attester that signs what inner makes with key, as [Sign] does.
func NewAttester(inner attestext.Attester, key crypto.Signer, keyID []byte) *Attester {
	return &Attester{inner, key, keyID}
}

// Formats returns the formats of the inner attester, and those of a signed wrapper with
// any of them inside.
func (a *Attester) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	formats := a.inner.Formats(kind)
	if len(formats) == 0 {
		return nil
	}
	return append(append([]attestext.EvidenceFormat(nil), formats...),
		attestext.EvidenceFormat{MediaType: MediaTypeCOSE}, attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatCMWCOSE})
}

// Attest has the inner attester make Evidence and signs it. Where the format is one of
// a signed wrapper, any Evidence will do.
func (a *Attester) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	inner := *req
	if FormOf(req.Type.Format) == COSE {
		inner.Type.Format = attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatCMWCBOR}
	}
	b, err := a.inner.Attest(ctx, &inner)
	if err != nil {
		return nil, err
	}
	if b, err = Sign(b, a.key, a.keyID); err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: "attest", Err: err}
	}
	return b, nil
}
