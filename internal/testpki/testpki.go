// Package testpki makes the keys and certificates of tests.
package testpki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
)

// Key returns a key on P-256, the same for the same seed.
func Key(seed string) *ecdsa.PrivateKey {
	d := sha256.Sum256([]byte(seed))
	return must(ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:]))
}

// SPKI returns the DER SubjectPublicKeyInfo of a key.
func SPKI(key crypto.Signer) []byte { return must(x509.MarshalPKIXPublicKey(key.Public())) }

// SelfSigned returns the certificate of template for a key, which signs it. It has a
// serial number where template has none.
func SelfSigned(template *x509.Certificate, key crypto.Signer) *x509.Certificate {
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic("testpki: " + err.Error())
	}
	return v
}
