package sevsnp

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/attestedtls/atls/attestext/internal/strictpem"
	"github.com/google/go-sev-guest/verify/trust"
)

// The names in AMD's PKI, by common name. L is the product line.
const (
	arkPrefix      = "ARK-"      // ARK-L: root
	askPrefix      = "SEV-"      // SEV-L: authority of VCEKs
	asvkPrefix     = "SEV-VLEK-" // SEV-VLEK-L: authority of VLEKs
	vcekCommonName = "SEV-VCEK"
	vlekCommonName = "SEV-VLEK"

	amdOrganization = "Advanced Micro Devices"
)

// Product lines that are supported.
const (
	Milan = "Milan"
	Genoa = "Genoa"
)

var productLines = []string{Milan, Genoa}

// Roots are the certificates that the chain of a report must begin with. AMD has a
// root for each product line, ARK-Milan and so on, which vouches for the platforms
// of that line only. Roots may hold the authorities below as well, for peers
// that do not send them.
//
// The zero value holds nothing, and [Verify] refuses it. Roots are immutable and
// safe for concurrent use.
type Roots struct {
	arks, authorities []*x509.Certificate
}

// IsAMD reports whether c has the names of a root or an authority of AMD's PKI.
func IsAMD(c *x509.Certificate) bool {
	return slices.Contains(c.Subject.Organization, amdOrganization) &&
		(strings.HasPrefix(c.Subject.CommonName, arkPrefix) || strings.HasPrefix(c.Subject.CommonName, askPrefix))
}

// NewRoots makes Roots out of certificates: roots, each signed by itself, and
// authorities, each signed by one of them.
func NewRoots(certs ...*x509.Certificate) (*Roots, error) {
	r := &Roots{}
	for _, c := range certs {
		name := c.Subject.CommonName
		switch {
		case !IsAMD(c):
			return nil, fmt.Errorf("%q is no certificate of AMD's PKI for SEV", c.Subject)
		case !strings.HasPrefix(name, arkPrefix):
			r.authorities = append(r.authorities, c)
		case c.CheckSignatureFrom(c) != nil:
			return nil, fmt.Errorf("%q is not signed by itself", name)
		default:
			r.arks = append(r.arks, c)
		}
	}
	for _, c := range r.authorities {
		if !slices.ContainsFunc(r.arks, func(ark *x509.Certificate) bool { return signed(c, ark) }) {
			return nil, fmt.Errorf("%q is signed by none of the roots", c.Subject.CommonName)
		}
	}
	return r, nil
}

// ParseRoots reads Roots out of PEM, as the cert_chain of AMD's Key Distribution
// Service has them. There must be a root.
func ParseRoots(pem []byte) (*Roots, error) {
	certs, err := strictpem.Parse(pem, pemCertificate, x509.ParseCertificate)
	if err != nil {
		return nil, fmt.Errorf("parse SNP roots: %w", err)
	}
	r, err := NewRoots(certs...)
	if err != nil {
		return nil, fmt.Errorf("parse SNP roots: %w", err)
	}
	if len(r.arks) == 0 {
		return nil, errors.New("parse SNP roots: no root among the certificates")
	}
	return r, nil
}

// Certificates returns the roots, and behind them the authorities.
func (r *Roots) Certificates() []*x509.Certificate { return slices.Concat(r.arks, r.authorities) }

// signed reports whether c was issued by parent: by name, and by signature.
func signed(c, parent *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, parent.RawSubject) && c.CheckSignatureFrom(parent) == nil
}

// amdRoots are the certificates that go-sev-guest embeds, from
// https://kdsintf.amd.com/vcek/v1/Milan/cert_chain and so on. They are handed to
// that module by name rather than left to it, because it falls back on them
// whenever it is given no root at all.
var amdRoots = sync.OnceValue(func() *Roots {
	var certs []*x509.Certificate
	for _, chain := range [][]byte{
		trust.AskArkMilanVcekBytes, trust.AskArkMilanVlekBytes,
		trust.AskArkGenoaVcekBytes, trust.AskArkGenoaVlekBytes,
	} {
		parsed, err := strictpem.Parse(chain, pemCertificate, x509.ParseCertificate)
		if err != nil {
			panic("sevsnp: embedded root: " + err.Error())
		}
		for _, c := range parsed {
			if !slices.ContainsFunc(certs, c.Equal) {
				certs = append(certs, c)
			}
		}
	}
	r, err := NewRoots(certs...)
	if err != nil {
		panic("sevsnp: embedded roots: " + err.Error())
	}
	return r
})

// AMDRoots returns AMD's roots for Milan and Genoa, with the authorities below.
func AMDRoots() *Roots { return amdRoots() }

var errEmptyRoots = errors.New("there are no trusted roots; leave them nil for AMD's")
