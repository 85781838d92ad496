// Package revocation reads certificate revocation lists (RFC 5280, section 5), which a
// relying party hands over, and looks certificates up in them. It fetches nothing.
package revocation

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
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
	Certificate *x509.Certificate
	At          time.Time
}

func (e *RevokedError) Error() string {
	name := e.Certificate.Subject.CommonName
	if name == "" { // as in the certificates of TPMs
		name = "certificate with the serial number " + e.Certificate.SerialNumber.String()
	}
	return fmt.Sprintf("%s is revoked since %v", name, e.At.UTC())
}

// Parse reads a complete list in DER. One that does not say when it expires is an error,
// and so is one with a critical extension, or with one in an entry: it is not for all that
// its issuer has issued, not by itself, or not about its issuer's certificates alone
// (RFC 5280, sections 5.2.4, 5.2.5 and 5.3.3). The extensions that say so have to be
// critical, and are refused where they are not.
func Parse(der []byte) (*x509.RevocationList, error) {
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	if len(l.Raw) != len(der) { // which crypto/x509 lets pass
		return nil, errors.New("revocation list has bytes after its end")
	}
	if l.NextUpdate.IsZero() {
		return nil, errors.New("revocation list does not say when it expires")
	}
	if err := checkExtensions(l.Extensions); err != nil {
		return nil, err
	}
	for _, e := range l.RevokedCertificateEntries {
		if err := checkExtensions(e.Extensions); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// scopes are the extensions by which a list is about less, or about others' certificates.
var scopes = []asn1.ObjectIdentifier{
	{2, 5, 29, 27}, // deltaCRLIndicator
	{2, 5, 29, 28}, // issuingDistributionPoint
	{2, 5, 29, 29}, // certificateIssuer, of an entry
}

func checkExtensions(extensions []pkix.Extension) error {
	for _, e := range extensions {
		if e.Critical || slices.ContainsFunc(scopes, e.Id.Equal) {
			return fmt.Errorf("revocation list has the extension %v, which cannot be passed over: supply the complete list of the authority", e.Id)
		}
	}
	return nil
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
					return &RevokedError{c, e.RevocationTime}
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
