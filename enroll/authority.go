package enroll

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext"
)

const (
	// DefaultLifetime is how long a certificate is valid if nothing else is said.
	DefaultLifetime = 24 * time.Hour

	// clockSkew is how much slower than the authority's a clock may be.
	clockSkew = 5 * time.Minute

	// crlLifetime is how long a revocation list is valid.
	crlLifetime = time.Hour
	// crlAge is how old the list may be that CRL returns.
	crlAge = 5 * time.Second
)

// An Authority decides and issues. The fields must not be changed once it is in use; its
// methods may then be called concurrently.
type Authority struct {
	// Certificate and Key sign what is issued. The certificate must be that of an
	// authority, and may sign itself.
	Certificate *x509.Certificate
	Key         crypto.Signer

	// Rules say which names are allowed to whom. nil allows none.
	Rules *Rules

	// Revocations returns what is revoked at this moment. It is called for each request
	// and each revocation list; if it fails, nothing is issued. nil revokes nothing.
	Revocations func() (*Revocations, error)

	// Lifetime is how long certificates are valid, but no longer than Certificate. Zero
	// is DefaultLifetime.
	Lifetime time.Duration

	// Log keeps what was done. nil keeps in memory what a revocation list needs.
	Log *Log

	// CRLURL is where certificates say that the revocation list is, if not empty.
	CRLURL string

	// Now returns the time. nil means time.Now.
	Now func() time.Time

	memory Log

	crl struct {
		sync.Mutex
		der  []byte
		made time.Time
	}
}

func (a *Authority) now() time.Time {
	if a.Now == nil {
		return time.Now()
	}
	return a.Now()
}

func (a *Authority) log() *Log {
	if a.Log == nil {
		return &a.memory
	}
	return a.Log
}

func (a *Authority) lifetime() time.Duration {
	if a.Lifetime == 0 {
		return DefaultLifetime
	}
	return a.Lifetime
}

// Validate says what is wrong with the fields, if anything is. A [Server] calls it as well.
func (a *Authority) Validate() error {
	switch {
	case a.Certificate == nil || a.Key == nil:
		return errors.New("an authority needs a Certificate and a Key")
	case !a.Certificate.IsCA:
		return errors.New("the certificate is not that of an authority")
	case a.Certificate.KeyUsage != 0 && a.Certificate.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("the certificate may not sign certificates")
	case a.lifetime() < time.Second:
		return errors.New("a Lifetime below a second")
	}
	spki, err := x509.MarshalPKIXPublicKey(a.Key.Public())
	if err != nil {
		return err
	}
	if !bytes.Equal(spki, a.Certificate.RawSubjectPublicKeyInfo) {
		return errors.New("the key is not that of the certificate")
	}
	return nil
}

// Issue returns a chain for the CSR in der, of a machine at remote that was appraised as
// peer says, and logs it. A refusal is an [Error], and is logged as well.
func (a *Authority) Issue(der []byte, peer *attestext.Result, remote string) ([][]byte, *Entry, error) {
	e := &Entry{
		Time: a.now().UTC(), Remote: remote,
		Verdict: peer.Verdict(), Machine: peer.Machine(), Claims: peer.Claims(),
	}
	if b := peer.Evidence().CMW; b != nil {
		e.Evidence = hash(b)
	}
	leaf, err := a.issue(der, peer, e)
	if err != nil {
		var refused *Error
		if !errors.As(err, &refused) {
			err = &Error{CodeUnavailable, "the authority cannot issue certificates at the moment", err}
			errors.As(err, &refused)
		}
		e.Issued, e.Serial, e.NotAfter = false, "", time.Time{}
		e.Code, e.Reason = refused.Code, refused.why()
		if lerr := a.log().append(e); lerr != nil && refused.Err == nil {
			refused.Err = lerr
		}
		return nil, e, err
	}
	chain := [][]byte{leaf}
	if !bytes.Equal(a.Certificate.RawIssuer, a.Certificate.RawSubject) { // a root is known or not
		chain = append(chain, a.Certificate.Raw)
	}
	return chain, e, nil
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

func (a *Authority) issue(der []byte, peer *attestext.Result, e *Entry) ([]byte, error) {
	csr, err := parseRequest(der)
	if err != nil {
		return nil, err
	}
	e.Names, e.Key = csr.DNSNames, hash(csr.RawSubjectPublicKeyInfo)
	// What was checked is the hardened rule: the evidence covers the key that signed
	// this session.
	if peer.Binding() != attestext.BindingHardened || !peer.Valid() || len(peer.Key()) == 0 || !bytes.Equal(csr.RawSubjectPublicKeyInfo, peer.Key()) {
		return nil, refuse(CodeKey, "the key of the request is not the one that the evidence covers")
	}
	s, err := newSubject(peer.Verdict(), peer.Machine(), peer.Claims())
	if err != nil {
		return nil, err
	}
	if a.Revocations != nil {
		r, err := a.Revocations()
		if err != nil {
			return nil, err
		}
		if what := r.revoked(&s); what != "" {
			return nil, refuse(CodeRevoked, "revoked is %s", what)
		}
	}
	rules := a.Rules
	if rules == nil {
		rules = &Rules{}
	}
	for _, n := range csr.DNSNames {
		if err := rules.allow(n, &s); err != nil {
			return nil, err
		}
	}
	return a.sign(csr, e)
}

// parseRequest reads a CSR that asks for DNS names, and for nothing else.
func parseRequest(der []byte) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, refuse(CodeRequest, "it is no certificate signing request")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, refuse(CodeRequest, "it is not signed by its own key")
	}
	for _, x := range csr.Extensions {
		if !x.Id.Equal(oidSubjectAltName) {
			return nil, refuse(CodeRequest, "it asks for the extension %v, and there are DNS names alone", x.Id)
		}
	}
	if len(csr.IPAddresses)+len(csr.EmailAddresses)+len(csr.URIs) > 0 {
		return nil, refuse(CodeRequest, "it asks for other names than DNS names")
	}
	if len(csr.DNSNames) == 0 || len(csr.DNSNames) > maxNames {
		return nil, refuse(CodeRequest, "it asks for %d DNS names, want 1 to %d", len(csr.DNSNames), maxNames)
	}
	for _, n := range csr.DNSNames {
		if !isName(n) {
			return nil, refuse(CodeRequest, "%q is no DNS name in lower case", n)
		}
	}
	return csr, nil
}

// sign makes a certificate and writes it down, in this order: one that is not in the
// log must not leave.
func (a *Authority) sign(csr *x509.CertificateRequest, e *Entry) ([]byte, error) {
	var number [16]byte
	rand.Read(number[:])
	number[0] = number[0]&0x7f | 0x40 // positive, and of a fixed length
	now := e.Time
	end := now.Add(a.lifetime())
	if end.After(a.Certificate.NotAfter) {
		end = a.Certificate.NotAfter
	}
	if !now.Before(end) {
		return nil, errors.New("the authority's own certificate has expired")
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(number[:]),
		// A name goes into the subject as well, for whoever shows certificates to people.
		Subject:  pkix.Name{CommonName: csr.DNSNames[0][:min(64, len(csr.DNSNames[0]))]},
		DNSNames: csr.DNSNames, NotBefore: now.Add(-clockSkew), NotAfter: end,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},

		BasicConstraintsValid: true,
	}
	if a.CRLURL != "" {
		template.CRLDistributionPoints = []string{a.CRLURL}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, csr.PublicKey, a.Key)
	if err != nil {
		return nil, err
	}
	e.Issued, e.Serial, e.NotAfter = true, template.SerialNumber.Text(16), end.UTC()
	return der, a.log().append(e)
}

// CRL returns a revocation list (RFC 5280, section 5) in DER: the certificates that have
// not expired, and whose machine, claims or number is revoked now. It is valid for an
// hour, and made anew at most every five seconds.
func (a *Authority) CRL() ([]byte, error) {
	a.crl.Lock()
	defer a.crl.Unlock()
	now := a.now()
	if age := now.Sub(a.crl.made); a.crl.der != nil && age >= 0 && age < crlAge {
		return a.crl.der, nil
	}
	var r *Revocations
	if a.Revocations != nil {
		var err error
		if r, err = a.Revocations(); err != nil {
			return nil, err
		}
	}
	var revoked []x509.RevocationListEntry
	for _, e := range a.log().current(now) {
		yes, err := r.revokes(&e)
		if err != nil {
			return nil, err
		}
		if yes {
			n, ok := new(big.Int).SetString(e.Serial, 16)
			if !ok {
				return nil, fmt.Errorf("the log has the serial number %q", e.Serial)
			}
			// When it was revoked is not known: the time of the list is the latest.
			revoked = append(revoked, x509.RevocationListEntry{SerialNumber: n, RevocationTime: now})
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(now.UnixMilli()), ThisUpdate: now.Add(-clockSkew), NextUpdate: now.Add(crlLifetime),
		RevokedCertificateEntries: revoked,
	}, a.Certificate, a.Key)
	if err != nil {
		return nil, err
	}
	a.crl.der, a.crl.made = der, now
	return der, nil
}

// revokes reports whether the certificate of e is revoked.
func (r *Revocations) revokes(e *Entry) (bool, error) {
	if r == nil {
		return false, nil
	}
	for _, n := range r.Serials {
		if n == e.Serial {
			return true, nil
		}
	}
	s, err := newSubject(e.Verdict, e.Machine, e.Claims)
	return err == nil && r.revoked(&s) != "", err
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
