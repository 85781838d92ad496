// Package revocation reads certificate revocation lists (RFC 5280, section 5), which a
// relying party hands over, and looks certificates up in them. It fetches nothing.
package revocation

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// PEMType is that of a block that holds a list.
const PEMType = "X509 CRL"

// What [Check] fails with beside a [RevokedError].
var (
	ErrNoList  = errors.New("no revocation list by the authority")
	ErrExpired = errors.New("revocation lists are not current")
)

// A RevokedError says that a certificate is on a revocation list.
type RevokedError struct {
	Name string
	At   time.Time
}

func (e *RevokedError) Error() string {
	return fmt.Sprintf("%s is revoked since %v", e.Name, e.At.UTC())
}

// Parse reads a list in DER. One that does not say when it expires is an error.
func Parse(der []byte) (*x509.RevocationList, error) {
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	if l.NextUpdate.IsZero() {
		return nil, errors.New("revocation list does not say when it expires")
	}
	return l, nil
}

// By returns those of lists that issuer has signed.
func By(issuer *x509.Certificate, lists []*x509.RevocationList) []*x509.RevocationList {
	var out []*x509.RevocationList
	for _, l := range lists {
		if bytes.Equal(l.RawIssuer, issuer.RawSubject) && l.CheckSignatureFrom(issuer) == nil {
			out = append(out, l)
		}
	}
	return out
}

// Current reports whether l is current at now.
func Current(l *x509.RevocationList, now time.Time) bool {
	return !now.Before(l.ThisUpdate) && now.Before(l.NextUpdate)
}

// Newest returns when the newest of lists was issued, of those that are current at now;
// zero if none is.
func Newest(lists []*x509.RevocationList, now time.Time) (t time.Time) {
	for _, l := range lists {
		if Current(l, now) && l.ThisUpdate.After(t) {
			t = l.ThisUpdate
		}
	}
	return t
}

// NextUpdate returns when the first of lists expires; zero if there are none.
func NextUpdate(lists ...*x509.RevocationList) (t time.Time) {
	for _, l := range lists {
		if t.IsZero() || l.NextUpdate.Before(t) {
			t = l.NextUpdate
		}
	}
	return t
}

// Check checks that none of certs is on one of lists, which their issuer has signed, and
// that there is a list that is current. One that is not current revokes as well.
func Check(certs []*x509.Certificate, lists []*x509.RevocationList, now time.Time) error {
	err := ErrNoList
	for _, l := range lists {
		for _, e := range l.RevokedCertificateEntries {
			for _, c := range certs {
				if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return &RevokedError{c.Subject.CommonName, e.RevocationTime}
				}
			}
		}
		switch {
		case Current(l, now):
			err = nil
		case err != nil:
			err = Expired(l)
		}
	}
	return err
}

// Expired returns an ErrExpired that says when l is current.
func Expired(l *x509.RevocationList) error {
	return fmt.Errorf("%w: valid from %v to %v", ErrExpired, l.ThisUpdate.UTC(), l.NextUpdate.UTC())
}
