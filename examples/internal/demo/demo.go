// Package demo has what every example needs and none is about: certificates, and the
// TEE in software, which proves nothing.
package demo

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/tls"
)

// Configs returns the configurations of a server that attests and of a client that
// requires it to.
func Configs() (server, client *tls.Config) {
	cert, roots := Certificate()
	server = &tls.Config{Certificates: []tls.Certificate{cert}, Attestation: &tls.AttestationConfig{Attester: Attester()}}
	client = &tls.Config{RootCAs: roots, ServerName: "localhost", Attestation: &tls.AttestationConfig{Verifier: Verifier()}}
	return server, client
}

// Attester stands for attester.New(quoter) on a machine with a TEE.
func Attester() attestext.Attester { return softtee.NewTDX(nil).Attester() }

// Verifier accepts what Attester makes and nothing else.
func Verifier() attestext.Verifier {
	collateral, err := softtee.Collateral(time.Now().Add(-time.Hour))
	check(err)
	p, err := policy.Parse(softtee.Policy())
	check(err)
	return &verifier.Local{TDXRoots: softtee.Roots(), TDXCollateral: collateral, Policy: p}
}

// Certificate returns one for "localhost" that signs itself, and a pool with it.
func Certificate() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	return CertificateOf(key, nil)
}

// CertificateOf returns one for that key, with an extension more if there is one.
func CertificateOf(key crypto.Signer, extra *pkix.Extension) (tls.Certificate, *x509.CertPool) {
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if extra != nil {
		template.ExtraExtensions = []pkix.Extension{*extra}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(err)
	leaf, err := x509.ParseCertificate(der)
	check(err)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots
}

func check(err error) {
	if err != nil {
		panic("demo: " + err.Error())
	}
}

// Says is the test of an example: run has to print want.
func Says(t *testing.T, run func(io.Writer) error, want string) {
	t.Helper()
	var out bytes.Buffer
	if err := run(&out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if out.String() != want {
		t.Errorf("it prints %q, want %q", &out, want)
	}
}
