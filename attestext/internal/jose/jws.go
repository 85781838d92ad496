// Package jose reads JSON Web Signatures (RFC 7515) in the compact serialization, and reads
// and writes JSON Web Keys (RFC 7517). It decides nothing about claims and makes no signature.
package jose

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/attestedtls/atls/attestext/internal/strict"
)

// A Compact is a JWS in the compact serialization, RFC 7515, section 7.1, decoded.
// Nothing in it has been verified.
type Compact struct {
	// Algorithm is the alg of the header, whatever it says.
	Algorithm string
	// Header has all of the header, alg included.
	Header map[string]json.RawMessage
	// Signed is the signing input.
	Signed             []byte
	Payload, Signature []byte
}

// Split decodes a token of maxSize bytes at most. A header with extensions, crit or b64,
// is refused. The result shares memory with token.
func Split(token []byte, maxSize int) (*Compact, error) {
	if len(token) > maxSize {
		return nil, fmt.Errorf("token of %d bytes, want at most %d", len(token), maxSize)
	}
	if bytes.Count(token, []byte(".")) != 2 {
		return nil, errors.New("token does not have three parts")
	}
	f := bytes.Split(token, []byte("."))
	var dec [3][]byte
	for i := range f {
		var err error
		if dec[i], err = strict.Base64URL(string(f[i])); err != nil {
			return nil, errors.New("part of the token is not base64url")
		}
	}
	if err := strict.CheckJSON(dec[0]); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	header, err := strict.JSONObject(dec[0])
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	// Extensions that change what the rest means must be announced in crit, and
	// none is known here.
	if _, ok := header["crit"]; ok {
		return nil, errors.New("header has critical extensions")
	}
	if _, ok := header["b64"]; ok {
		return nil, errors.New("header has the extension b64")
	}
	alg, err := strict.JSONText(header["alg"])
	if err != nil {
		return nil, fmt.Errorf("header: alg: %w", err)
	}
	return &Compact{
		Algorithm: alg,
		Header:    header,
		Signed:    token[:len(f[0])+1+len(f[1])],
		Payload:   dec[1],
		Signature: dec[2],
	}, nil
}
