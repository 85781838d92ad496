// A machine without a certificate attests to an authority and gets one for what it runs,
// which it then serves with, and renews in the background.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"time"

	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/enroll"
	"github.com/attestedtls/atls/examples/internal/demo"
	"github.com/attestedtls/atls/tls"
)

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(out io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	// The authority: names for measurements. "atls ca" is one with files.
	authority, err := newAuthority()
	if err != nil {
		return err
	}
	mrtd, _ := softtee.TDXMeasurements()
	authority.Rules = &enroll.Rules{Rules: []enroll.Rule{{
		Names: []string{"model.example"}, Claims: map[string][]string{"mrtd": {hex.EncodeToString(mrtd[:])}},
	}}}
	cert, roots := demo.Certificate()
	ca := &enroll.Server{Authority: authority, Certificates: []tls.Certificate{cert}, Verifier: demo.Verifier()}
	caListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go ca.Serve(ctx, caListener)

	// The machine: it knows the authority by its certificate, and has none of its own.
	client := &enroll.Client{
		Addr: caListener.Addr().String(), TLS: &tls.Config{RootCAs: roots, ServerName: "localhost"},
		Attester: demo.Attester(), Names: []string{"model.example"},
	}
	renewer, err := enroll.NewRenewer(ctx, client.Enroll, nil)
	if err != nil {
		return err
	}
	defer renewer.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		GetCertificate: renewer.GetCertificate,
		Attestation:    &tls.AttestationConfig{Attester: demo.Attester()},
	})
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			io.WriteString(conn, "hello")
			conn.Close()
		}
	}()

	// Somebody who trusts the authority for names, and asks for evidence as well.
	issuers := x509.NewCertPool()
	issuers.AddCert(authority.Certificate)
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{
		RootCAs: issuers, ServerName: "model.example", Attestation: &tls.AttestationConfig{Verifier: demo.Verifier()},
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	said, err := io.ReadAll(conn)
	state := conn.ConnectionState()
	fmt.Fprintf(out, "%q, says %s, which is %s\n", said, state.PeerCertificates[0].DNSNames[0], state.PeerAttestation.Verdict())

	// A name that the rules do not have.
	client.Names = []string{"bank.example"}
	_, refused := client.Enroll(ctx)
	fmt.Fprintln(out, refused)
	return err
}

// newAuthority returns one with a certificate that signs itself.
func newAuthority() (*enroll.Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "example authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &enroll.Authority{Certificate: cert, Key: key}, err
}
