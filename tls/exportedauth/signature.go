package exportedauth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of the schemes and of the suites
	_ "crypto/sha512"
	"crypto/x509"
	"fmt"
	"slices"
)

// A SignatureScheme is one of TLS 1.3 (RFC 8446, section 4.2.3). The values are
// those on the wire, and of the type of the same name in crypto/tls.
type SignatureScheme uint16

const (
	ECDSAWithP256AndSHA256 SignatureScheme = 0x0403
	ECDSAWithP384AndSHA384 SignatureScheme = 0x0503
	ECDSAWithP521AndSHA512 SignatureScheme = 0x0603
	Ed25519                SignatureScheme = 0x0807
	PSSWithSHA256          SignatureScheme = 0x0804
	PSSWithSHA384          SignatureScheme = 0x0805
	PSSWithSHA512          SignatureScheme = 0x0806

	// In certificates only.
	PKCS1WithSHA256 SignatureScheme = 0x0401
	PKCS1WithSHA384 SignatureScheme = 0x0501
	PKCS1WithSHA512 SignatureScheme = 0x0601
)

// DefaultSignatureAlgorithms are what a request has in signature_algorithms unless
// it says otherwise, in order of preference: all that this package knows.
func DefaultSignatureAlgorithms() []SignatureScheme {
	return []SignatureScheme{
		ECDSAWithP256AndSHA256, ECDSAWithP384AndSHA384, ECDSAWithP521AndSHA512, Ed25519,
		PSSWithSHA256, PSSWithSHA384, PSSWithSHA512,
	}
}

func defaultCertAlgorithms() []SignatureScheme {
	return append(DefaultSignatureAlgorithms(), PKCS1WithSHA256, PKCS1WithSHA384, PKCS1WithSHA512)
}

// Bounds on the size of an RSA modulus, in bits: above, a signature takes too long
// to check, and below it is worth nothing.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// schemeHash returns the hash of a scheme that can sign CertificateVerify with pub,
// 0 for one that does not hash first; ok is false if the two do not go together.
func schemeHash(scheme SignatureScheme, pub crypto.PublicKey) (hash crypto.Hash, ok bool) {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		switch {
		case scheme == ECDSAWithP256AndSHA256 && pub.Curve == elliptic.P256():
			return crypto.SHA256, true
		case scheme == ECDSAWithP384AndSHA384 && pub.Curve == elliptic.P384():
			return crypto.SHA384, true
		case scheme == ECDSAWithP521AndSHA512 && pub.Curve == elliptic.P521():
			return crypto.SHA512, true
		}
	case ed25519.PublicKey:
		return 0, scheme == Ed25519
	case *rsa.PublicKey:
		if n := pub.N.BitLen(); n < minRSABits || n > maxRSABits {
			return 0, false
		}
		switch scheme {
		case PSSWithSHA256:
			return crypto.SHA256, true
		case PSSWithSHA384:
			return crypto.SHA384, true
		case PSSWithSHA512:
			return crypto.SHA512, true
		}
	}
	return 0, false
}

// chooseScheme returns the first of the peer's schemes that pub can sign with, or 0.
func chooseScheme(pub crypto.PublicKey, schemes []SignatureScheme) SignatureScheme {
	for _, s := range schemes {
		if _, ok := schemeHash(s, pub); ok {
			return s
		}
	}
	return 0
}

// digest hashes what is signed, unless the scheme does not hash first.
func digest(hash crypto.Hash, content []byte) []byte {
	if hash == 0 {
		return content
	}
	h := hash.New()
	h.Write(content)
	return h.Sum(nil)
}

func signerOpts(hash crypto.Hash, pub crypto.PublicKey) crypto.SignerOpts {
	if _, ok := pub.(*rsa.PublicKey); ok {
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
	}
	return hash
}

func sign(key crypto.Signer, scheme SignatureScheme, content []byte) ([]byte, error) {
	hash, ok := schemeHash(scheme, key.Public())
	if !ok {
		return nil, fmt.Errorf("scheme %#04x does not go with the key", uint16(scheme))
	}
	return key.Sign(rand.Reader, digest(hash, content), signerOpts(hash, key.Public()))
}

func verifySignature(pub crypto.PublicKey, scheme SignatureScheme, content, signature []byte) bool {
	hash, ok := schemeHash(scheme, pub)
	if !ok {
		return false
	}
	d := digest(hash, content)
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(pub, d, signature)
	case ed25519.PublicKey:
		return len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, d, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPSS(pub, hash, d, signature, signerOpts(hash, pub).(*rsa.PSSOptions)) == nil
	}
	return false
}

// certificateScheme returns the scheme that stands for the signature on a
// certificate, or 0 for one that TLS 1.3 has no name for.
func certificateScheme(a x509.SignatureAlgorithm) SignatureScheme {
	switch a {
	case x509.ECDSAWithSHA256:
		return ECDSAWithP256AndSHA256
	case x509.ECDSAWithSHA384:
		return ECDSAWithP384AndSHA384
	case x509.ECDSAWithSHA512:
		return ECDSAWithP521AndSHA512
	case x509.PureEd25519:
		return Ed25519
	case x509.SHA256WithRSAPSS:
		return PSSWithSHA256
	case x509.SHA384WithRSAPSS:
		return PSSWithSHA384
	case x509.SHA512WithRSAPSS:
		return PSSWithSHA512
	case x509.SHA256WithRSA:
		return PKCS1WithSHA256
	case x509.SHA384WithRSA:
		return PKCS1WithSHA384
	case x509.SHA512WithRSA:
		return PKCS1WithSHA512
	}
	return 0
}

// fits returns the scheme by which an identity can answer the request, or says why
// it cannot: RFC 9261, section 5.2.1, with the rules of RFC 8446, section 4.4.2.
func (m *requestMsg) fits(chain []*x509.Certificate) (SignatureScheme, error) {
	leaf := chain[0]
	scheme := chooseScheme(leaf.PublicKey, m.algorithms)
	if scheme == 0 {
		return 0, fmt.Errorf("no signature algorithm in common for a key of type %T", leaf.PublicKey)
	}
	accepted := m.certAlgorithms
	if accepted == nil {
		accepted = m.algorithms
	}
	for _, c := range chain {
		if string(c.RawIssuer) == string(c.RawSubject) {
			continue // nobody checks the signature of a root
		}
		if s := certificateScheme(c.SignatureAlgorithm); !slices.Contains(accepted, s) {
			return 0, fmt.Errorf("a certificate is signed by %v, which was not asked for", c.SignatureAlgorithm)
		}
	}
	if m.serverName != "" {
		if err := leaf.VerifyHostname(m.serverName); err != nil {
			return 0, err
		}
	}
	if m.authorities != nil && !slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		return slices.ContainsFunc(m.authorities, func(name []byte) bool { return string(name) == string(c.RawIssuer) })
	}) {
		return 0, fmt.Errorf("no certificate by an authority that was asked for")
	}
	return scheme, nil
}
