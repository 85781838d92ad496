package attesttest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
)

// signatureSizes are those of the algorithms that [eat.VerifyToken] knows, in bytes:
// ES256, ES384 and EdDSA (RFC 9053, tables 1 and 2).
var signatureSizes = map[int64]int{-7: 64, -35: 96, -8: 64}

// OpenEAT is for the field Open of a [Target]: it takes evidence with an EAT by itself,
// in a CWT, apart, whose key ID, if it has one, must be in the protected header.
func OpenEAT(b []byte) (*Opened, error) {
	w, err := cmw.Parse(b)
	if err != nil {
		return nil, err
	}
	if w.Record == nil || !slices.ContainsFunc(eat.TokenFormats(), w.Record.Format.Equal) {
		return nil, errors.New("evidence is no record with an EAT in a CWT")
	}
	t, err := eat.ParseTokenAs(w.Record.Format, w.Record.Value)
	if err != nil {
		return nil, err
	}
	size, token := signatureSizes[t.Algorithm], w.Record.Value
	if size == 0 || size >= len(token) {
		return nil, fmt.Errorf("EAT of %d bytes with the algorithm %d", len(token), t.Algorithm)
	}
	at := len(token) - size
	return &Opened{
		Quote: token,
		Fields: []Field{
			{Name: "headers and claims", Size: at},
			{Name: "signature", Offset: at, Size: size, Signature: true},
		},
		Wrap: func(token []byte) ([]byte, error) {
			r := *w.Record
			r.Value = token
			return (&cmw.CMW{Form: w.Form, Record: &r}).Encode()
		},
	}, nil
}
