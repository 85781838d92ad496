package softtee

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"io"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/ear"
)

// ResultsIdentity is the identity of the verifier in software. The name is reserved
// and never resolves (RFC 2606).
const ResultsIdentity attestext.VerifierIdentity = "https://softtee.invalid/insecure-verifier"

// ResultsOptions change what [NewResultsIssuer] makes. The zero value is the
// ordinary verifier.
type ResultsOptions struct {
	// Seed chooses the key; any but the empty one is another key.
	Seed string
	// Identity is whom the results name as their issuer. Empty means ResultsIdentity.
	Identity attestext.VerifierIdentity
	// Lifetime is how long results are valid. Zero means an hour.
	Lifetime time.Duration
	// Modify changes the claims before they are signed. nil changes nothing.
	Modify func(c *ear.Claims)
}

// A ResultsIssuer is a verifier in software that affirms whatever it is asked to.
// Its methods may be called concurrently, unless the functions in its options may
// not.
//
// WARNING: its results prove nothing; see the package comment. Whoever trusts
// its key trusts everybody.
type ResultsIssuer struct {
	opts ResultsOptions
	key  *ecdsa.PrivateKey
}

// NewResultsIssuer returns a verifier; nil options are those of the zero value.
func NewResultsIssuer(opts *ResultsOptions) *ResultsIssuer {
	i := &ResultsIssuer{}
	if opts != nil {
		i.opts = *opts
	}
	if i.opts.Identity == "" {
		i.opts.Identity = ResultsIdentity
	}
	if i.opts.Lifetime == 0 {
		i.opts.Lifetime = time.Hour
	}
	i.key = deriveKey(i.opts.Seed, "results issuer")
	return i
}

// Identity returns whom the results name as their issuer.
func (i *ResultsIssuer) Identity() attestext.VerifierIdentity { return i.opts.Identity }

// PublicKey returns the key that verifies the results, of P-256.
func (i *ResultsIssuer) PublicKey() *ecdsa.PublicKey { return &i.key.PublicKey }

// PublicKeyPEM returns PublicKey as a PEM block "PUBLIC KEY".
func (i *ResultsIssuer) PublicKeyPEM() []byte {
	der, err := x509.MarshalPKIXPublicKey(&i.key.PublicKey)
	if err != nil {
		panic("softtee: " + err.Error())
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// Issue returns an EAR, as a JWT, that affirms a machine with the key whose DER
// SubjectPublicKeyInfo is spki, or with no key where that is nil, valid from now on.
// The same arguments give the same bytes, in every process.
func (i *ResultsIssuer) Issue(spki []byte, now time.Time) ([]byte, error) {
	now = now.Truncate(time.Second)
	c := &ear.Claims{
		Issuer:    string(i.opts.Identity),
		Developer: "https://github.com/attestedtls/atls",
		Build:     "softtee (insecure)",
		IssuedAt:  now,
		Expires:   now.Add(i.opts.Lifetime),
		Submods: map[string]*ear.Appraisal{"softtee": {
			Status: ear.Affirming,
			Vector: ear.Vector{"instance-identity": 2, "configuration": 2, "executables": 2, "hardware": 2},
			AKPub:  spki,
		}},
	}
	if i.opts.Modify != nil {
		i.opts.Modify(c)
	}
	return ear.Sign(c, deterministic{i.key})
}

// deterministic is a key whose signatures are those of RFC 6979, whoever asks.
type deterministic struct{ *ecdsa.PrivateKey }

func (d deterministic) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return d.PrivateKey.Sign(nil, digest, opts)
}
