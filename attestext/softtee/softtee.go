// Package softtee is a trusted execution environment in software, with the
// manufacturer's public-key infrastructure to go with it: for tests, for the
// demonstration, and for trying a deployment without the hardware.
//
// WARNING: it proves nothing. Its "hardware" keys are derived from strings in
// this file, so anybody can make any evidence under them. A verifier that
// trusts [Roots] or [SNPRoots] trusts everybody; never configure them where a
// verdict matters. The certificates say so in their names.
//
// What it makes is otherwise the real thing, byte for byte in the formats of the
// manufacturers, and passes the same unmodified verification code as evidence
// from hardware does. All of it is deterministic: two processes that have nothing
// in common but this package agree on every key, certificate and quote.
package softtee

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"sync"
	"time"
)

// derivation begins the input that every key and identifier is the hash of. A
// change of anything that these are derived from wants a new number.
const derivation = "atls softtee v1, insecure: "

// organization is in the name of every certificate.
const organization = "atls softtee (insecure, not Intel)"

// Validity of every certificate. The end is that of Intel's root.
var (
	notBefore = time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC)
)

// derive returns 32 bytes that depend on the seed and the name.
func derive(seed, name string) [32]byte {
	return sha256.Sum256([]byte(derivation + seed + "\x00" + name))
}

// measure returns the measurement that stands for the thing called name.
func measure(name string) [sha512.Size384]byte {
	return sha512.Sum384([]byte(derivation + name))
}

// deriveKey returns the P-256 key of that seed and name.
func deriveKey(seed, name string) *ecdsa.PrivateKey {
	d := derive(seed, "key "+name)
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	if err != nil {
		panic("softtee: " + err.Error()) // one seed in 2³²
	}
	return k
}

// publicXY returns the coordinates of k, x ‖ y.
func publicXY(k *ecdsa.PrivateKey) []byte {
	point, err := k.PublicKey.Bytes()
	if err != nil {
		panic("softtee: " + err.Error())
	}
	return point[1:]
}

// sign returns the deterministic ECDSA signature of RFC 6979 over SHA-256(msg), as
// r ‖ s.
func sign(k *ecdsa.PrivateKey, msg []byte) []byte {
	h := sha256.Sum256(msg)
	der, err := k.Sign(nil, h[:], crypto.SHA256)
	if err != nil {
		panic("softtee: " + err.Error())
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		panic("softtee: " + err.Error())
	}
	out := make([]byte, 64)
	sig.R.FillBytes(out[:32])
	sig.S.FillBytes(out[32:])
	return out
}

// An authority is a certificate and its key.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// issue makes the certificate of the key of that name, signed by parent, or by
// itself where parent is nil.
func issue(seed, commonName string, serial int64, ca bool, parent *authority, crl string, extra ...pkix.Extension) *authority {
	k := deriveKey(seed, commonName)
	id := sha1.Sum(publicXY(k))
	t := &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               pkix.Name{CommonName: commonName, Organization: []string{organization}},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
		BasicConstraintsValid: true,
		IsCA:                  ca,
		SubjectKeyId:          id[:],
		CRLDistributionPoints: []string{crl},
		ExtraExtensions:       extra,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment,
	}
	if ca {
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	signer := &authority{k, t}
	if parent != nil {
		signer = parent
	}
	der, err := x509.CreateCertificate(nil, t, signer.cert, &k.PublicKey, signer.key)
	if err != nil {
		panic("softtee: " + err.Error())
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic("softtee: " + err.Error())
	}
	return &authority{k, cert}
}

func pemChain(certs ...*x509.Certificate) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

// pkis holds the PKIs made so far, by seed.
var pkis struct {
	sync.Mutex
	m map[string]*intelPKI
}

func pkiOf(seed string) *intelPKI {
	pkis.Lock()
	defer pkis.Unlock()
	if p := pkis.m[seed]; p != nil {
		return p
	}
	if pkis.m == nil {
		pkis.m = make(map[string]*intelPKI)
	}
	p := newIntelPKI(seed)
	pkis.m[seed] = p
	return p
}
