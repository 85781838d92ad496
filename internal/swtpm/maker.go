package swtpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// What a certificate of a key is for: TCG "EK Credential Profile".
var (
	EndorsementKey = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
	AttestationKey = asn1.ObjectIdentifier{2, 23, 133, 8, 3} // tcg-kp-AIKCertificate
)

// A Maker stands in for the manufacturer of a TPM: it certifies its keys, and says
// which certificates are revoked.
type Maker struct {
	Root *x509.Certificate

	key *ecdsa.PrivateKey
}

// NewMaker returns a Maker whose root is valid from an hour ago until in an hour.
func NewMaker(t testing.TB) *Maker {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := &Maker{key: key}
	m.Root = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "TPM maker"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if m.Root, err = x509.ParseCertificate(m.sign(t, m.Root, key.Public())); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *Maker) sign(t testing.TB, template *x509.Certificate, key any) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, m.Root, key, m.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Certify certifies the key of a TPMT_PUBLIC for a purpose as manufacturers do: the
// identity is a directoryName in a critical subjectAltName. The result is in DER.
func (m *Maker) Certify(t testing.TB, public []byte, purpose asn1.ObjectIdentifier, serial int64) []byte {
	t.Helper()
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*pub)
	if err != nil {
		t.Fatal(err)
	}
	name, err := asn1.Marshal(pkix.Name{CommonName: "id:49424D00"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
	if err != nil {
		t.Fatal(err)
	}
	return m.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: m.Root.NotBefore, NotAfter: m.Root.NotAfter,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{purpose},
		ExtraExtensions:    []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}},
	}, key)
}

// Collateral returns what ParseCollateral of package tpm reads: the revocation list of
// m, valid as long as its root, with the serial numbers.
func (m *Maker) Collateral(t testing.TB, revoked ...int64) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: m.Root.NotBefore, NextUpdate: m.Root.NotAfter}
	for _, s := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: m.Root.NotBefore})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, m.Root, m.key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]string{"crls": string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Endorse writes the certificate of the endorsement key, in DER, to where a TPM has it:
// with bytes behind it, and longer than can be read at once.
func Endorse(t testing.TB, tpm transport.TPM, der []byte) {
	t.Helper()
	const index = tpm2.TPMHandle(0x01c0000a)
	padded := append(bytes.Clone(der), make([]byte, 700)...)
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHOwner,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(padded)),
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, AuthWrite: true, NoDA: true},
		}),
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	const most = 512 // in one command
	for offset := 0; offset < len(padded); offset += most {
		public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
		_, err = tpm2.NVWrite{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: padded[offset:min(len(padded), offset+most)]},
			Offset:     uint16(offset),
		}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
	}
}
