package tpm

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/revocation"
	"github.com/attestedtls/atls/attestext/internal/strictpem"
	"github.com/attestedtls/atls/internal/strictjson"
)

// MaxCollateralSize bounds an encoded [Collateral], in bytes.
const MaxCollateralSize = 1 << 20

// Collateral is what authorities say of the certificates of attestation and endorsement
// keys that they have issued, as far as a relying party has fetched it: which are
// revoked. It has been parsed and not verified; that is done each time it is used. It is
// immutable and safe for concurrent use.
type Collateral struct {
	crls []*x509.RevocationList
}

func badCollateral(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrMalformed, "parse TPM collateral", format, args...)
}

// ParseCollateral reads a JSON object with the member crls, a string of PEM: blocks
// "X509 CRL" (RFC 7468, section 6), at least one. A chain of certificates takes the list of each
// of its authorities, the root included. Each has to be complete, and to say when it
// expires. Errors are of class [attestext.ErrMalformed].
func ParseCollateral(data []byte) (*Collateral, error) {
	if len(data) > MaxCollateralSize {
		return nil, badCollateral("%d bytes, at most %d are read", len(data), MaxCollateralSize)
	}
	var f struct {
		CRLs *string `json:"crls"`
	}
	if err := strictjson.Unmarshal(data, &f); err != nil {
		return nil, badCollateral("%w", err)
	}
	if f.CRLs == nil {
		return nil, badCollateral("no member crls")
	}
	crls, err := strictpem.Parse([]byte(*f.CRLs), revocation.PEMType, revocation.Parse)
	if err != nil {
		return nil, badCollateral("crls: %w", err)
	}
	if len(crls) == 0 {
		return nil, badCollateral("crls: no revocation list")
	}
	return &Collateral{crls}, nil
}

// NextUpdate returns when the first of the revocation lists expires.
func (c *Collateral) NextUpdate() time.Time { return revocation.NextUpdate(c.crls...) }

// check checks that no certificate of chain, which ends in a root, is on a list that the
// next one has signed, and that there is such a list for each that is current. A list
// that is not current revokes as well.
func (c *Collateral) check(chain []*x509.Certificate, now time.Time) error {
	var missing error
	for i, issuer := range chain[1:] {
		var lists []*x509.RevocationList
		if c != nil {
			lists = revocation.By(issuer, c.crls)
		}
		err := revocation.Check(chain[i:i+1], lists, now)
		switch {
		case errors.Is(err, revocation.ErrNoList):
			missing = fmt.Errorf("%w, %s: supply it in the collateral, or skip it explicitly", err, issuer.Subject)
		case err != nil:
			return err
		}
	}
	return missing
}

// classed returns err with its class.
func classed(op string, err error) error {
	class := attestext.ErrSignature
	switch {
	case errors.Is(err, revocation.ErrNoList):
		class = attestext.ErrUnavailable
	case errors.Is(err, revocation.ErrExpired):
		class = attestext.ErrPolicy
	}
	return &attestext.Error{Class: class, Op: op, Err: err}
}
