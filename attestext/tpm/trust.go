package tpm

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext/internal/revocation"
)

// IDSize is the size of an [EKID], in bytes.
const IDSize = sha256.Size

// An EKID tells one TPM from another: the SHA-256 of the DER SubjectPublicKeyInfo of
// its endorsement key. The zero value stands for no TPM.
type EKID [IDSize]byte

// String returns the identity in hexadecimal.
func (id EKID) String() string { return hex.EncodeToString(id[:]) }

// An EnrolledKey is an attestation key that has been found to be in the TPM of an
// endorsement key; see [NewEnrolment].
type EnrolledKey struct {
	// Name is the AK's: nameAlg ‖ H(public area), 34 to 66 bytes. It covers the
	// attributes.
	Name []byte
	// EK is the TPM that it is in.
	EK EKID
}

// Types of PEM blocks in files of roots.
const (
	// PEMRoot holds the certificate of an authority that AK certificates may begin
	// with, in DER.
	PEMRoot = "TPM AK ROOT CERTIFICATE"
	// PEMKey holds an EnrolledKey: its EK and then its Name.
	PEMKey = "TPM ENROLLED KEY"
)

// MarshalPEM returns a block that [Trust.AddPEM] reads.
func (k EnrolledKey) MarshalPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: PEMKey, Bytes: slices.Concat(k.EK[:], k.Name)})
}

func (k EnrolledKey) check() error {
	if k.EK == (EKID{}) {
		return errors.New("enrolled key of no TPM: the identity is zero")
	}
	if len(k.Name) < 2 {
		return errors.New("enrolled key without a name")
	}
	if alg := Bank(k.Name[0])<<8 | Bank(k.Name[1]); alg.Size() == 0 || len(k.Name) != 2+alg.Size() {
		return fmt.Errorf("enrolled key with a name of %d bytes under %v", len(k.Name), alg)
	}
	return nil
}

// Trust says which attestation keys are those of TPMs. The zero value trusts none.
//
// It must not be changed once it is in use; it may then be used concurrently.
type Trust struct {
	// Roots are what certificates of AKs may begin with. nil is none.
	Roots *x509.CertPool
	// Keys are trusted by name.
	Keys []EnrolledKey
}

// AddPEM adds what a block of one of the types above holds.
func (t *Trust) AddPEM(block *pem.Block) error {
	switch block.Type {
	case PEMRoot:
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		if t.Roots == nil {
			t.Roots = x509.NewCertPool()
		}
		t.Roots.AddCert(c)
	case PEMKey:
		if len(block.Bytes) < IDSize {
			return fmt.Errorf("enrolled key of %d bytes", len(block.Bytes))
		}
		k := EnrolledKey{EK: EKID(block.Bytes[:IDSize]), Name: block.Bytes[IDSize:]}
		if err := k.check(); err != nil {
			return err
		}
		t.Keys = append(t.Keys, k)
	default:
		return fmt.Errorf("PEM block %q has nothing to do with TPMs", block.Type)
	}
	return nil
}

// Empty reports whether t trusts nothing.
func (t *Trust) Empty() bool { return t == nil || t.Roots == nil && len(t.Keys) == 0 }

// Object identifiers of the TCG's "EK Credential Profile for TPM Family 2.0".
var (
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
	oidAIKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 3} // tcg-kp-AIKCertificate
	oidSAN            = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// maxAuthorityRSABits bounds the keys of the authorities that a peer sends, as crypto/tls
// does: to verify with a key of a million bits takes a minute.
const maxAuthorityRSABits = 8192

// chainOptions say what a chain of certificates is verified against.
type chainOptions struct {
	roots          *x509.CertPool
	purpose        asn1.ObjectIdentifier
	collateral     *Collateral
	skipCollateral bool      // where it lacks a list
	now            time.Time // zero is the current time
}

// verifyChain checks that chain, a leaf and the authorities below a root, begins with
// one of the roots, that the leaf is no authority and certifies a key for the purpose
// alone, and that none of them is revoked; checked says whether there was a list of each
// authority.
func verifyChain(chain []*x509.Certificate, o *chainOptions) (checked bool, err error) {
	now := o.now
	if now.IsZero() {
		now = time.Now()
	}
	// The identity of a TPM is a directoryName in the subjectAltName. That extension is
	// then critical, and crypto/x509 does not read such names. Nothing here goes by them.
	leaf := *chain[0]
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(leaf.UnhandledCriticalExtensions), oidSAN.Equal)
	switch {
	case leaf.IsCA:
		return false, errors.New("certificate of the key is that of an authority")
	case !slices.ContainsFunc(leaf.UnknownExtKeyUsage, o.purpose.Equal) || len(leaf.UnknownExtKeyUsage)+len(leaf.ExtKeyUsage) != 1:
		return false, fmt.Errorf("certificate is not for the extended key usage %v alone", o.purpose)
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		// crypto/x509 bounds no key, and verifies by intermediates before it knows that
		// anybody vouches for them.
		if pub, ok := c.PublicKey.(*rsa.PublicKey); ok && pub.N.BitLen() > maxAuthorityRSABits {
			return false, fmt.Errorf("an authority has an RSA key of %d bits, at most %d are verified with", pub.N.BitLen(), maxAuthorityRSABits)
		}
		intermediates.AddCert(c)
	}
	// crypto/x509 does not know the usage, so that it is checked here, and below for
	// authorities that are confined to usages.
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: o.roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return false, err
	}
	mayIssue := func(c *x509.Certificate) bool {
		return len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) ||
			slices.ContainsFunc(c.UnknownExtKeyUsage, o.purpose.Equal)
	}
	chains = slices.DeleteFunc(chains, func(chain []*x509.Certificate) bool {
		return slices.ContainsFunc(chain[1:], func(c *x509.Certificate) bool { return !mayIssue(c) })
	})
	if len(chains) == 0 {
		return false, fmt.Errorf("an authority may not issue certificates for the usage %v", o.purpose)
	}
	// An authority may be certified more than once. Where one of its certificates is
	// revoked, the chains through the others stand.
	skipped := false
	for _, chain := range chains {
		if err = o.collateral.check(chain, now); err == nil {
			return true, nil
		}
		skipped = skipped || o.skipCollateral && errors.Is(err, revocation.ErrNoList)
	}
	if skipped {
		return false, nil
	}
	return false, err
}

// certifies reports whether c is for the key of p.
func certifies(c *x509.Certificate, p *Public) bool {
	der, err := x509.MarshalPKIXPublicKey(p.Key)
	return err == nil && bytes.Equal(der, c.RawSubjectPublicKeyInfo)
}
