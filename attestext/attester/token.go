package attester

import (
	"context"
	"errors"
	"slices"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
)

// A TokenSource has a platform make an EAT (RFC 9711). It is called concurrently.
type TokenSource interface {
	// Token returns an EAT whose eat_nonce is nonce, 8 to 64 bytes, and whose cnf is the
	// key with the DER SubjectPublicKeyInfo spki. It should return when ctx is done.
	Token(ctx context.Context, nonce, spki []byte) ([]byte, error)
}

// Tokens implements [attestext.Attester] on a [TokenSource]. Its Evidence is the token,
// beside a certificate and in place of one.
type Tokens struct {
	source  TokenSource
	formats []attestext.EvidenceFormat
}

var _ attestext.Attester = (*Tokens)(nil)

// NewTokens returns an attester on s, whose tokens are CWTs.
func NewTokens(s TokenSource) *Tokens { return &Tokens{s, eat.TokenFormats()} }

// NewJWTs returns an attester on s, whose tokens are JWTs.
func NewJWTs(s TokenSource) *Tokens { return &Tokens{s, eat.JWTFormats()} }

// Formats returns those of an EAT in a CWT, or in a JWT, for every kind of credential.
func (t *Tokens) Formats(attestext.CredentialKind) []attestext.EvidenceFormat {
	return slices.Clone(t.formats)
}

// Attest returns a token for the challenge of req as an encoded CMW. A format that stands
// for any gets the media type. Errors are those of [Attester.Attest].
func (t *Tokens) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	f := req.Type.Format
	switch {
	case f.IsAny():
		f = t.formats[0]
	case !slices.ContainsFunc(t.formats, f.Equal):
		return nil, attestext.Errorf(attestext.ErrWrongType, op, "cannot make %v", f)
	}
	b, err := t.attest(ctx, f, req.Challenge)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: err}
	}
	return b, nil
}

func (t *Tokens) attest(ctx context.Context, f attestext.EvidenceFormat, c *attestext.Challenge) ([]byte, error) {
	if err := errors.Join(checkModel(c), checkKey(c)); err != nil {
		return nil, err
	}
	token, err := t.source.Token(ctx, c.Value(), c.SPKI)
	if err != nil {
		return nil, err
	}
	return (&cmw.Record{Format: f, Value: token, Ind: cmw.Evidence}).CBOR()
}
