// Package tls12 stands in for crypto/internal/fips140/tls12: the TLS 1.2 key
// derivation of RFC 5246, section 5, and RFC 7627, section 4.
package tls12

import (
	"crypto/hmac"
	"hash"
)

const (
	masterSecretLength        = 48
	extendedMasterSecretLabel = "extended master secret"
)

// PRF is the pseudorandom function with the given hash; it returns keyLen bytes.
func PRF(hash func() hash.Hash, secret []byte, label string, seed []byte, keyLen int) []byte {
	seed = append([]byte(label), seed...)
	h := hmac.New(hash, secret)
	h.Write(seed)
	a := h.Sum(nil)
	result := make([]byte, 0, keyLen+h.Size())
	for len(result) < keyLen {
		h.Reset()
		h.Write(a)
		h.Write(seed)
		result = h.Sum(result)

		h.Reset()
		h.Write(a)
		a = h.Sum(nil)
	}
	return result[:keyLen]
}

// MasterSecret is the extended master secret; it returns 48 bytes.
func MasterSecret(hash func() hash.Hash, preMasterSecret, transcript []byte) []byte {
	return PRF(hash, preMasterSecret, extendedMasterSecretLabel, transcript, masterSecretLength)
}
