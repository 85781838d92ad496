package tls_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"time"

	"github.com/attestedtls/atls/atlshttp/atlshttptest"
	"github.com/attestedtls/atls/tls"
)

// This package takes the place of crypto/tls by its import path alone. Here a
// client and a server talk TLS without attestation.
func Example() {
	cert := selfSigned("server.example")

	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "hello")
	}()

	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	conn, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "server.example"})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	said, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, in %s\n", said, tls.VersionName(conn.ConnectionState().Version))
	// Output: hello, in TLS 1.3
}

// A server that attests, and a client that talks to no other. The TEE is one in
// software, which proves nothing: elsewhere the Attester is that of package attester on
// the machine's TEE, and the Verifier a verifier.Local with a policy.
func ExampleAttestationConfig() {
	cert := selfSigned("server.example")
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{cert},
		Attestation:  &tls.AttestationConfig{Attester: atlshttptest.Attester()},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "hello")
	}()

	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	conn, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{
		RootCAs:     roots,
		ServerName:  "server.example",
		Attestation: &tls.AttestationConfig{Verifier: atlshttptest.Verifier()},
	})
	if e, ok := errors.AsType[*tls.AttestationError](err); ok {
		log.Fatalf("not attested, at the stage %s: %v", e.Stage, e)
	}
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	said, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	peer := conn.ConnectionState().PeerAttestation
	fmt.Printf("%s, from a server that is %s\n", said, peer.Verdict())
	// Output: hello, from a server that is affirming
}

func selfSigned(name string) tls.Certificate {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{name},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		log.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private, Leaf: leaf}
}
