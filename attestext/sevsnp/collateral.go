package sevsnp

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/revocation"
	"github.com/attestedtls/atls/attestext/internal/strictpem"
	"github.com/attestedtls/atls/internal/strictjson"
)

// MaxCollateralSize bounds an encoded [Collateral], in bytes.
const MaxCollateralSize = 1 << 20

// Collateral is what AMD publishes about its platforms, as far as a relying party
// has fetched it: which authorities are revoked, and the certificates of chips. AMD
// says nothing about which TCB is current; that is for the policy to say.
//
// It may be for several product lines. A Collateral has been parsed and not
// verified; that is done by [Verify] each time. It is immutable and safe for
// concurrent use.
type Collateral struct {
	vcekCRLs, vlekCRLs []*x509.RevocationList
	certs              []*x509.Certificate
}

// CollateralParts are what a [Collateral] is made of.
type CollateralParts struct {
	// VCEKCRLs and VLEKCRLs are revocation lists in DER, one a product line, from
	// https://kdsintf.amd.com/vcek/v1/Milan/crl, https://kdsintf.amd.com/vlek/v1/Milan/crl
	// and so on. The first are for reports that a VCEK signs, the second for a VLEK.
	VCEKCRLs, VLEKCRLs [][]byte
	// Certificates, in DER, are those of chips and of authorities, for peers that do
	// not send them. They are chosen by chip ID and TCB, or tried in turn.
	Certificates [][]byte
}

func badCollateral(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrMalformed, "parse SNP collateral", format, args...)
}

// NewCollateral makes a Collateral, which must have at least one revocation list.
// Errors are of class [attestext.ErrMalformed].
func NewCollateral(p *CollateralParts) (*Collateral, error) {
	c := &Collateral{}
	for _, l := range []struct {
		name string
		dst  *[]*x509.RevocationList
		src  [][]byte
	}{{"vcek_crls", &c.vcekCRLs, p.VCEKCRLs}, {"vlek_crls", &c.vlekCRLs, p.VLEKCRLs}} {
		for _, der := range l.src {
			crl, err := revocation.Parse(der)
			if err != nil {
				return nil, badCollateral("%s: %w", l.name, err)
			}
			*l.dst = append(*l.dst, crl)
		}
	}
	for _, der := range p.Certificates {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, badCollateral("certificates: %w", err)
		}
		c.certs = append(c.certs, cert)
	}
	if len(c.vcekCRLs)+len(c.vlekCRLs) == 0 {
		return nil, badCollateral("no revocation list")
	}
	return c, nil
}

// collateralFile is the encoding of Collateral.
type collateralFile struct {
	VCEKCRLs     string `json:"vcek_crls,omitempty"`
	VLEKCRLs     string `json:"vlek_crls,omitempty"`
	Certificates string `json:"certificates,omitempty"`
}

const pemCertificate = "CERTIFICATE"

// ParseCollateral reads what [Collateral.Marshal] writes: a JSON object with the
// members vcek_crls, vlek_crls and certificates, each a string of PEM and each of
// which may be left out, but not both lists. Errors are of class
// [attestext.ErrMalformed].
func ParseCollateral(data []byte) (*Collateral, error) {
	if len(data) > MaxCollateralSize {
		return nil, badCollateral("%d bytes, at most %d are read", len(data), MaxCollateralSize)
	}
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return nil, badCollateral("not a JSON object")
	}
	var f collateralFile
	if err := strictjson.Unmarshal(data, &f); err != nil {
		return nil, badCollateral("%w", err)
	}
	var p CollateralParts
	for _, m := range []struct {
		name, src, blockType string
		dst                  *[][]byte
	}{
		{"vcek_crls", f.VCEKCRLs, revocation.PEMType, &p.VCEKCRLs},
		{"vlek_crls", f.VLEKCRLs, revocation.PEMType, &p.VLEKCRLs},
		{"certificates", f.Certificates, pemCertificate, &p.Certificates},
	} {
		var err error
		same := func(der []byte) ([]byte, error) { return der, nil }
		if *m.dst, err = strictpem.Parse([]byte(m.src), m.blockType, same); err != nil {
			return nil, badCollateral("%s: %w", m.name, err)
		}
	}
	return NewCollateral(&p)
}

// Marshal returns c in the encoding that [ParseCollateral] reads.
func (c *Collateral) Marshal() ([]byte, error) {
	var f collateralFile
	for _, l := range []struct {
		dst *string
		src []*x509.RevocationList
	}{{&f.VCEKCRLs, c.vcekCRLs}, {&f.VLEKCRLs, c.vlekCRLs}} {
		for _, crl := range l.src {
			*l.dst += string(pem.EncodeToMemory(&pem.Block{Type: revocation.PEMType, Bytes: crl.Raw}))
		}
	}
	for _, cert := range c.certs {
		f.Certificates += string(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: cert.Raw}))
	}
	b, err := json.MarshalIndent(&f, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// NextUpdate returns when the first of the revocation lists expires.
func (c *Collateral) NextUpdate() time.Time {
	return revocation.NextUpdate(slices.Concat(c.vcekCRLs, c.vlekCRLs)...)
}

// Editions returns, for each revocation list by name, when it was issued in seconds since
// 1970, which does not go down from one list of that name to the next.
func (c *Collateral) Editions() map[string]int64 {
	editions := make(map[string]int64)
	add := func(key SigningKey, lists []*x509.RevocationList) {
		for _, l := range lists {
			name := fmt.Sprintf("revocation list for %vs by %s", key, l.Issuer.CommonName)
			editions[name] = max(editions[name], l.ThisUpdate.Unix())
		}
	}
	add(VCEK, c.vcekCRLs)
	add(VLEK, c.vlekCRLs)
	return editions
}

// Lists reports whether c has a revocation list, for reports that key signs, in the name of
// the root of that product line.
func (c *Collateral) Lists(line string, key SigningKey) bool {
	return slices.ContainsFunc(c.crls(key), func(l *x509.RevocationList) bool { return l.Issuer.CommonName == arkPrefix+line })
}

// crls returns the lists for reports that key signs.
func (c *Collateral) crls(key SigningKey) []*x509.RevocationList {
	switch {
	case c == nil:
		return nil
	case key == VLEK:
		return c.vlekCRLs
	}
	return c.vcekCRLs
}

func (c *Collateral) certificates() []*x509.Certificate {
	if c == nil {
		return nil
	}
	return c.certs
}
