package tdx

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"time"

	"github.com/attestedtls/atls/attestext"
)

const (
	opCheck = "check TDX collateral"

	// tcbSignerName is the common name of the certificate that signs collateral.
	tcbSignerName = "Intel SGX TCB Signing"
)

// Check verifies c by itself, without a quote: that its signers are below roots, valid
// at now and not revoked, that everything in it is signed by them, and that none of it
// has expired. nil roots are Intel's. It is for whoever receives collateral and must
// not let bad replace good; [Verify] trusts nothing that Check has said.
//
// Errors are of class [attestext.ErrSignature]; [attestext.ErrPolicy] where c has
// expired; [attestext.ErrUnavailable] where the pool of roots is empty.
func (c *Collateral) Check(roots *x509.CertPool, now time.Time) error {
	bad := func(format string, args ...any) error {
		return attestext.Errorf(attestext.ErrSignature, opCheck, format, args...)
	}
	roots, err := trustedRoots(roots)
	if err != nil {
		return &attestext.Error{Class: attestext.ErrUnavailable, Op: opCheck, Err: err}
	}
	for _, p := range []struct {
		name  string
		certs []*x509.Certificate
		part  *signedJSON // nil for the revocation list
	}{
		{"TCB info", c.tcbCerts, &c.tcbInfo},
		{"QE identity", c.qeCerts, &c.qeIdentity},
		{"PCK CRL", c.crlCerts, nil},
	} {
		signer := p.certs[0]
		chains, err := signer.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now})
		if err != nil {
			return bad("%s: signer: %w", p.name, err)
		}
		chain := chains[0]
		switch err := c.rootList.CheckSignatureFrom(chain[len(chain)-1]); {
		case err != nil:
			return bad("root CRL: %w", err)
		case onList(c.rootList, signer):
			return bad("%s: its signer is revoked", p.name)
		}
		if p.part == nil {
			if err := c.pckList.CheckSignatureFrom(signer); err != nil {
				return bad("%s: %w", p.name, err)
			}
			continue
		}
		key, ok := signer.PublicKey.(*ecdsa.PublicKey)
		if !ok || key.Curve != elliptic.P256() || signer.Subject.CommonName != tcbSignerName {
			return bad("%s: %q with a key of type %T does not sign it", p.name, signer.Subject.CommonName, signer.PublicKey)
		}
		if !verifyP256(key, []byte(p.part.body), p.part.signature) {
			return bad("%s: signature does not verify", p.name)
		}
	}
	if !now.Before(c.nextUpdate) {
		return attestext.Errorf(attestext.ErrPolicy, opCheck, "it has expired at %v", c.nextUpdate.UTC())
	}
	return nil
}

// FMSPC returns the family of platforms that the PCK certificate of q names, 12
// hexadecimal digits: a claim like the rest of q, and what collateral is asked for
// with. Errors are of class [attestext.ErrMalformed].
func (q *Quote) FMSPC() (string, error) {
	if err := walk(q.raw); err != nil {
		return "", err
	}
	p, err := newPlatform(q.raw)
	if err != nil {
		return "", &attestext.Error{Class: attestext.ErrMalformed, Op: "read PCK certificate", Err: err}
	}
	return p.ext.FMSPC, nil
}
