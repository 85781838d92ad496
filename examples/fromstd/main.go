// Migration from crypto/tls. A program that names the package changes the import and
// nothing else. One that is handed a Config of the standard library, by a flag
// package or a certificate manager, takes it over with FromStd, and adds what it wants
// to know of its peers.
package main

import (
	stdtls "crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"github.com/attestedtls/atls/examples/internal/demo"
	"github.com/attestedtls/atls/tls"
)

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// fromElsewhere stands for what hands out configurations, and does not know this module.
func fromElsewhere() (server, client *stdtls.Config) {
	cert, roots := demo.Certificate()
	std := stdtls.Certificate{Certificate: cert.Certificate, PrivateKey: cert.PrivateKey}
	server = &stdtls.Config{GetCertificate: func(*stdtls.ClientHelloInfo) (*stdtls.Certificate, error) { return &std, nil }}
	return server, &stdtls.Config{RootCAs: roots, ServerName: "localhost"}
}

func run(out io.Writer) error {
	stdServer, stdClient := fromElsewhere()

	server, err := tls.FromStd(stdServer)
	if err != nil {
		return err // it names the field that cannot be taken over
	}
	server.Attestation = &tls.AttestationConfig{Attester: demo.Attester()}
	client, err := tls.FromStd(stdClient)
	if err != nil {
		return err
	}
	// Clients first ask, and require once all servers attest: tls.RequireAttestation.
	client.Attestation = &tls.AttestationConfig{Verifier: demo.Verifier(), Peer: tls.RequestAttestation}

	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		return err
	}
	defer l.Close()
	go hello(l)

	conn, err := tls.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		return err
	}
	defer conn.Close()
	said, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	verdict := "none"
	if peer := conn.ConnectionState().PeerAttestation; peer.Valid() {
		verdict = peer.Verdict()
	}
	fmt.Fprintf(out, "new client: %q, verdict %s\n", said, verdict)

	// Clients that have not moved are served as before.
	old, err := stdtls.Dial("tcp", l.Addr().String(), stdClient)
	if err != nil {
		return err
	}
	defer old.Close()
	said, err = io.ReadAll(old)
	fmt.Fprintf(out, "old client: %q\n", said)
	return err
}

func hello(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			io.WriteString(conn, "hello")
		}()
	}
}
