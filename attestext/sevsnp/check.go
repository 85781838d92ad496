package sevsnp

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/revocation"
	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
)

// Check verifies c by itself, without a report: that each revocation list is signed by
// one of roots and current at now, and that each certificate was issued by a root or by
// an authority in c or roots that was. nil roots are AMD's. It is for whoever receives
// collateral and must not let bad replace good; [Verify] trusts nothing that Check
// has said.
//
// Errors are of class [attestext.ErrSignature]; [attestext.ErrPolicy] where a list is
// not current; [attestext.ErrUnavailable] where there are no roots.
func (c *Collateral) Check(roots *Roots, now time.Time) error {
	const op = "check SNP collateral"
	if roots == nil {
		roots = AMDRoots()
	}
	if len(roots.arks) == 0 {
		return &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: errEmptyRoots}
	}
	for _, l := range slices.Concat(c.vcekCRLs, c.vlekCRLs) {
		if !slices.ContainsFunc(roots.arks, func(ark *x509.Certificate) bool {
			return len(revocation.By(ark, []*x509.RevocationList{l})) == 1
		}) {
			return attestext.Errorf(attestext.ErrSignature, op, "revocation list by %q is signed by no trusted root", l.Issuer.CommonName)
		}
		if !revocation.Current(l, now) {
			return &attestext.Error{Class: attestext.ErrPolicy, Op: op, Err: revocation.Expired(l)}
		}
	}
	trusted := slices.Clone(roots.arks)
	trusted = append(trusted, roots.authorities...)
	var leaves []*x509.Certificate
	for _, cert := range c.certs {
		if slices.ContainsFunc(roots.arks, func(ark *x509.Certificate) bool { return signed(cert, ark) }) {
			trusted = append(trusted, cert)
		} else {
			leaves = append(leaves, cert)
		}
	}
	for _, cert := range leaves {
		if !slices.ContainsFunc(trusted, func(a *x509.Certificate) bool { return signed(cert, a) }) {
			return attestext.Errorf(attestext.ErrSignature, op, "certificate of %q is below no trusted root", cert.Subject.CommonName)
		}
	}
	return nil
}

// ProductLine returns Milan or Genoa as r and c claim it, or the empty string where
// they do not say: before version 3 of the report only the certificate of its key does.
// It is what collateral is asked for with.
func (r *Report) ProductLine(c *Certificates) (line string) {
	defer func() {
		if recover() != nil {
			line = ""
		}
	}()
	if r.Version >= versionWithCPUID {
		line = kds.ProductLineFromFms(abi.FmsToCpuid1Eax(r.Family, r.Model, r.Stepping))
	} else if c != nil {
		cert := c.VCEK
		if r.SigningKey == VLEK {
			cert = c.VLEK
		}
		if cert != nil {
			if l, err := newLeaf(cert, r); err == nil {
				line = l.line
			}
		}
	}
	if !slices.Contains(productLines, line) {
		return ""
	}
	return line
}
