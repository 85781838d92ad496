package revocation_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext/internal/revocation"
	"github.com/attestedtls/atls/internal/testpki"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// An authority has a key and a certificate of that key by itself.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string, usage x509.KeyUsage) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{testpki.SelfSigned(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: usage,
		SubjectKeyId: []byte{1}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}, key), key}
}

// list returns a list that is current at now and has the serial numbers, changed by change.
func (a *authority) list(t testing.TB, change func(*x509.RevocationList), serials ...int64) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Minute)}
	for _, s := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: now.Add(-time.Hour)})
	}
	if change != nil {
		change(l)
	}
	issuer := *a.cert
	issuer.KeyUsage |= x509.KeyUsageCRLSign // for crypto/x509 makes no list without
	der, err := x509.CreateRevocationList(rand.Reader, l, &issuer, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parse(t testing.TB, der []byte) *x509.RevocationList {
	t.Helper()
	l, err := revocation.Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// crypto/x509 reads lists with critical extensions, which may be about other certificates
// than those of their issuer, or about some of them.
func TestTrapCRLWithACriticalExtension(t *testing.T) {
	a := newAuthority(t, "root", x509.KeyUsageCRLSign)
	extension := func(id int, critical bool) []pkix.Extension {
		return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, id}, Critical: critical, Value: []byte{0x30, 0}}}
	}
	list := func(id int, critical bool) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.ExtraExtensions = extension(id, critical) }
	}
	entry := func(id int, critical bool) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(7), RevocationTime: now, ExtraExtensions: extension(id, critical)}}
		}
	}
	const freshestCRL, deltaCRLIndicator, issuingDistributionPoint, certificateIssuer, other = 46, 27, 28, 29, 99
	for _, c := range []struct {
		name   string
		change func(*x509.RevocationList)
		says   string // nothing: accepted
	}{
		{"complete", nil, ""},
		{"freshestCRL", list(freshestCRL, false), ""},
		{"unknown", list(other, false), ""},
		{"unknown and critical", list(other, true), "2.5.29.99"},
		{"of an entry, unknown", entry(other, false), ""},
		{"of an entry, unknown and critical", entry(other, true), "2.5.29.99"},
		{"deltaCRLIndicator", list(deltaCRLIndicator, true), "2.5.29.27"},
		{"deltaCRLIndicator, not critical", list(deltaCRLIndicator, false), "2.5.29.27"},
		{"issuingDistributionPoint", list(issuingDistributionPoint, true), "2.5.29.28"},
		{"issuingDistributionPoint, not critical", list(issuingDistributionPoint, false), "2.5.29.28"},
		{"certificateIssuer", entry(certificateIssuer, true), "2.5.29.29"},
		{"certificateIssuer, not critical", entry(certificateIssuer, false), "2.5.29.29"},
	} {
		der := a.list(t, c.change)
		if _, err := x509.ParseRevocationList(der); err != nil {
			t.Errorf("%s: crypto/x509 refuses it: %v", c.name, err)
		}
		_, err := revocation.Parse(der)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestTrapCRLTrailingBytes(t *testing.T) {
	der := newAuthority(t, "root", x509.KeyUsageCRLSign).list(t, nil)
	for n := range der {
		if _, err := revocation.Parse(der[:n]); err == nil {
			t.Fatalf("the first %d bytes were accepted", n)
		}
	}
	der = append(der, 0)
	if _, err := x509.ParseRevocationList(der); err != nil {
		t.Errorf("crypto/x509 refuses it: %v", err)
	}
	if _, err := revocation.Parse(der); err == nil {
		t.Error("a trailing byte was accepted")
	}
}

func TestListsOfOthersDoNotCount(t *testing.T) {
	a := newAuthority(t, "root", x509.KeyUsageCRLSign)
	own := parse(t, a.list(t, nil))
	forged := parse(t, a.list(t, nil))
	forged.Signature = append([]byte(nil), forged.Signature...)
	forged.Signature[len(forged.Signature)-1] ^= 1
	lists := []*x509.RevocationList{
		parse(t, newAuthority(t, "other", x509.KeyUsageCRLSign).list(t, nil)), own,
		parse(t, newAuthority(t, "root", x509.KeyUsageCRLSign).list(t, nil)), forged,
	}
	if got := revocation.By(a.cert, lists); len(got) != 1 || got[0] != own {
		t.Errorf("%d lists are by the authority", len(got))
	}
	renamed := *a.cert
	renamed.RawSubject = []byte("another name of the same key")
	if got := revocation.By(&renamed, lists); len(got) != 0 {
		t.Error("a list by another name counts")
	}
	b := newAuthority(t, "root", x509.KeyUsageCertSign)
	if got := revocation.By(b.cert, []*x509.RevocationList{parse(t, b.list(t, nil))}); len(got) != 0 {
		t.Error("a list by an authority that may sign none counts")
	}
}

func TestCertificatesAreLookedUp(t *testing.T) {
	a := newAuthority(t, "root", x509.KeyUsageCRLSign)
	certs := []*x509.Certificate{{SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "five"}}, {SerialNumber: big.NewInt(6)}}
	old := func(l *x509.RevocationList) { l.ThisUpdate, l.NextUpdate = now.Add(-time.Hour), now }
	early := func(l *x509.RevocationList) { l.ThisUpdate, l.NextUpdate = now.Add(time.Second), now.Add(time.Hour) }
	type lists []*x509.RevocationList
	current := parse(t, a.list(t, nil, 7))
	for _, c := range []struct {
		name    string
		lists   lists
		want    error // nil: none
		revoked string
		newest  time.Time
	}{
		{"current", lists{current}, nil, "", current.ThisUpdate},
		{"none", nil, revocation.ErrNoList, "", time.Time{}},
		{"expired", lists{parse(t, a.list(t, old))}, revocation.ErrExpired, "", time.Time{}},
		{"not yet", lists{parse(t, a.list(t, early))}, revocation.ErrExpired, "", time.Time{}},
		{"expired and current", lists{parse(t, a.list(t, old)), current}, nil, "", current.ThisUpdate},
		{"revoked", lists{parse(t, a.list(t, nil, 7, 5))}, nil, "five", now.Add(-time.Minute)},
		{"the second is revoked", lists{parse(t, a.list(t, nil, 6))}, nil, "serial number 6", now.Add(-time.Minute)},
		{"revoked by the expired one", lists{current, parse(t, a.list(t, old, 5))}, nil, "five", current.ThisUpdate},
	} {
		err := revocation.Check(certs, c.lists, now)
		revoked, is := errors.AsType[*revocation.RevokedError](err)
		switch {
		case c.revoked != "" && (!is || !strings.Contains(err.Error(), c.revoked)), c.revoked == "" && !errors.Is(err, c.want):
			t.Errorf("%s: %v", c.name, err)
		case is && !revoked.At.Equal(now.Add(-time.Hour)):
			t.Errorf("%s: revoked at %v", c.name, revoked.At)
		}
		if got := revocation.Newest(c.lists, now); !got.Equal(c.newest) {
			t.Errorf("%s: the newest is of %v", c.name, got)
		}
	}
	if got := revocation.NextUpdate(current, parse(t, a.list(t, old))); !got.Equal(now) {
		t.Errorf("the first expires at %v", got)
	}
}
