// QUIC with quic-go, which takes the standard library's Config and so cannot attest in
// its handshake. It attests after it: exported authenticators, bound to the exporter of
// the QUIC connection, on its first stream and before any other byte.
package main

import (
	"context"
	"crypto"
	stdtls "crypto/tls"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/examples/internal/demo"
	"github.com/attestedtls/atls/tls"
	"github.com/attestedtls/atls/tls/exportedauth"
	"github.com/quic-go/quic-go"
)

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// attest runs the exchange on a stream of conn. Until it has returned, nothing else may
// be read or written.
func attest(ctx context.Context, conn *quic.Conn, stream *quic.Stream, role attestext.Role, config *exportedauth.Config) (*exportedauth.Peer, error) {
	cs := conn.ConnectionState().TLS
	hash, err := exportedauth.SuiteHash(cs.CipherSuite)
	if err != nil {
		return nil, err
	}
	session, err := exportedauth.NewSession(role, hash, cs.ExportKeyingMaterial)
	if err != nil {
		return nil, err
	}
	return exportedauth.Exchange(ctx, stream, session, config)
}

func serve(ctx context.Context, l *quic.Listener, cert tls.Certificate) error {
	conn, err := l.Accept(ctx)
	if err != nil {
		return err
	}
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return err
	}
	_, err = attest(ctx, conn, stream, attestext.RoleServer, &exportedauth.Config{
		Identities: []exportedauth.Identity{{Chain: cert.Certificate, Key: cert.PrivateKey.(crypto.Signer)}},
		Attester:   demo.Attester(),
	})
	if err != nil {
		return err
	}
	if _, err := io.WriteString(stream, "hello"); err != nil {
		return err
	}
	stream.Close()
	<-conn.Context().Done()
	return nil
}

func run(out io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cert, roots := demo.Certificate()
	protos := []string{"atls-example"}
	l, err := quic.ListenAddr("127.0.0.1:0", &stdtls.Config{
		Certificates: []stdtls.Certificate{{Certificate: cert.Certificate, PrivateKey: cert.PrivateKey}}, NextProtos: protos,
	}, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() { served <- serve(ctx, l, cert) }()

	conn, err := quic.DialAddr(ctx, l.Addr().String(), &stdtls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: protos}, nil)
	if err != nil {
		return err
	}
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	peer, err := attest(ctx, conn, stream, attestext.RoleClient, &exportedauth.Config{
		Verifier:    demo.Verifier(),
		VerifyChain: exportedauth.ServerChain(roots, "localhost", nil),
	})
	if err != nil {
		conn.CloseWithError(quic.ApplicationErrorCode(exportedauth.Alert(err, attestext.RoleClient)), "not attested")
		return err
	}
	said, err := io.ReadAll(stream)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%q, says a server that is %s\n", said, peer.Result.Verdict())
	conn.CloseWithError(0, "")
	return <-served
}
