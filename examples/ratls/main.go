// Migration from evidence inside of the certificate, as "RA-TLS" has it: a certificate
// that signs itself, with a quote in an extension whose REPORTDATA is the hash of the
// certificate's key. One server serves both kinds of clients: the old ones go on reading
// the extension, the new ones have evidence made for their own handshake.
//
// What the new ones gain: a quote in a certificate is as old as the certificate, and
// shows that a key was once in a TEE, and not that it is so on this connection.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	stdtls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/examples/internal/demo"
	"github.com/attestedtls/atls/tls"
)

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// oidQuote is that of the extension, of an arc for examples.
var oidQuote = asn1.ObjectIdentifier{2, 999, 1}

// oldCertificate has a quote over its own key.
func oldCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return tls.Certificate{}, err
	}
	quote, err := softtee.NewTDX(nil).Quote(sha512.Sum512(spki))
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, _ := demo.CertificateOf(key, &pkix.Extension{Id: oidQuote, Value: quote})
	return cert, nil
}

// oldVerify is what old clients have in VerifyPeerCertificate.
func oldVerify(rawCerts [][]byte, _ [][]*x509.Certificate) error {
	leaf, err := x509.ParseCertificate(rawCerts[0])
	if err != nil {
		return err
	}
	collateral, err := softtee.Collateral(time.Now().Add(-time.Hour))
	if err != nil {
		return err
	}
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(oidQuote) {
			continue
		}
		quote, err := tdx.Parse(e.Value)
		if err != nil {
			return err
		}
		v, err := tdx.Verify(quote, &tdx.VerifyOptions{Roots: softtee.Roots(), Collateral: collateral})
		if err != nil {
			return err
		}
		if mrtd, _ := softtee.TDXMeasurements(); v.MRTD() != mrtd {
			return errors.New("another measurement")
		}
		if v.ReportData() != sha512.Sum512(leaf.RawSubjectPublicKeyInfo) {
			return errors.New("the quote is over another key")
		}
		return nil
	}
	return errors.New("no quote in the certificate")
}

// newConfig is what new clients have in its place. These servers have nothing but
// evidence to say who they are, hence a certificate that nobody vouches for; the evidence
// covers its key. With certificates of a CA, leave InsecureSkipVerify out, and it is
// one server and not any genuine machine that is let in.
func newConfig(v attestext.Verifier) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, // of the chain and the name, and not of the evidence
		Attestation:        &tls.AttestationConfig{Verifier: v},
	}
}

func run(out io.Writer) error {
	cert, err := oldCertificate()
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{cert},
		Attestation:  &tls.AttestationConfig{Attester: demo.Attester()},
	})
	if err != nil {
		return err
	}
	defer l.Close()
	go hello(l)

	old := &stdtls.Config{InsecureSkipVerify: true, VerifyPeerCertificate: oldVerify}
	conn, err := stdtls.Dial("tcp", l.Addr().String(), old)
	if err != nil {
		return err
	}
	defer conn.Close()
	said, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "old client: %q\n", said)

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	attested, err := (&tls.Dialer{Config: newConfig(demo.Verifier())}).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer attested.Close()
	said, err = io.ReadAll(attested)
	fmt.Fprintf(out, "new client: %q, verdict %s\n", said, attested.(*tls.Conn).ConnectionState().PeerAttestation.Verdict())
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
