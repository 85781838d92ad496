package exportedauth_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/attestedtls/atls/atlshttp/atlshttptest"
	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// attest is to be called on each connection before the first byte of the application.
func attest(ctx context.Context, conn *tls.Conn, role attestext.Role, config *exportedauth.Config) (*exportedauth.Peer, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	cs := conn.ConnectionState()
	hash, err := exportedauth.SuiteHash(cs.CipherSuite)
	if err != nil {
		return nil, err
	}
	session, err := exportedauth.NewSession(role, hash, cs.ExportKeyingMaterial)
	if err != nil {
		return nil, err
	}
	return exportedauth.Exchange(ctx, conn, session, config)
}

// Both ends are on crypto/tls of the standard library. The server attests, by a TEE in
// software, which proves nothing.
func ExampleExchange() {
	ctx := context.Background()
	pki := httptest.NewTLSServer(nil) // for its certificate alone
	defer pki.Close()
	cert := pki.TLS.Certificates[0]
	roots := pki.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs

	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates:           []tls.Certificate{cert},
		SessionTicketsDisabled: true, // a resumed connection would have to attest as well
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
		if _, err := attest(ctx, conn.(*tls.Conn), attestext.RoleServer, &exportedauth.Config{
			Identities: []exportedauth.Identity{{Chain: cert.Certificate, Key: cert.PrivateKey.(crypto.Signer)}},
			Attester:   atlshttptest.Attester(),
		}); err != nil {
			log.Print(err)
			return
		}
		fmt.Fprint(conn, "hello")
	}()

	conn, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "example.com"})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	peer, err := attest(ctx, conn, attestext.RoleClient, &exportedauth.Config{
		Verifier:    atlshttptest.Verifier(),
		VerifyChain: exportedauth.ServerChain(roots, "example.com", nil),
	})
	if err != nil {
		log.Fatal(err)
	}
	said, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, from a server that is %s\n", said, peer.Result.Verdict())
	// Output: hello, from a server that is affirming
}
