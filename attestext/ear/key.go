package ear

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/attestedtls/atls/attestext/internal/jose"
)

// maxKeySize bounds a file of keys, in bytes.
const maxKeySize = jose.MaxKeySize

// Algorithm returns the one algorithm that pub is used with: "ES256" for P-256 and
// "ES384" for P-384, each an *ecdsa.PublicKey, and "EdDSA" for an
// ed25519.PublicKey. It fails for any other key.
func Algorithm(pub crypto.PublicKey) (string, error) { return jose.Algorithm(pub) }

// ParseJWK decodes a JSON Web Key (RFC 7517) that [Algorithm] knows. A private key
// and one that is for something other than signatures are refused, and so is an alg
// that is not the key's; other members are ignored, as the RFC wants it.
func ParseJWK(b []byte) (crypto.PublicKey, error) { return jose.ParseJWK(b) }

// ParsePEM decodes one or more blocks "PUBLIC KEY", each the SubjectPublicKeyInfo of
// a key that [Algorithm] knows. Text between the blocks is ignored; blocks of other
// types, such as certificates, are not.
func ParsePEM(b []byte) ([]crypto.PublicKey, error) {
	if len(b) > maxKeySize {
		return nil, fmt.Errorf("parse keys: %d bytes, want at most %d", len(b), maxKeySize)
	}
	var keys []crypto.PublicKey
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("parse keys: PEM block %.32q, want PUBLIC KEY", block.Type)
		}
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse keys: %w", err)
		}
		if _, err := Algorithm(pub); err != nil {
			return nil, fmt.Errorf("parse keys: %w", err)
		}
		keys = append(keys, pub)
	}
	if len(keys) == 0 {
		return nil, errors.New("parse keys: no PEM block")
	}
	return keys, nil
}

// MarshalJWK encodes a key that [Algorithm] knows as a JSON Web Key with its alg, for
// [ParseJWK] to read.
func MarshalJWK(pub crypto.PublicKey) ([]byte, error) { return jose.MarshalJWK(pub) }
