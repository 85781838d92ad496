// An Attester and a Verifier of one's own, for a TEE that this module does not know. This
// one is an HMAC with a key that both ends have: an example of where things go, and not
// of a TEE.
package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/examples/internal/demo"
	"github.com/attestedtls/atls/tls"
)

// example: begin
type tee struct{ key []byte }

var format = attestext.EvidenceFormat{MediaType: "application/vnd.example.evidence"}

func (t tee) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	if kind != attestext.CertAttestation {
		return nil // such a quote names no key, and cannot stand in place of a certificate
	}
	return []attestext.EvidenceFormat{format}
}

// quote signs what the evidence must be bound to: channel, key and role, in 64 bytes.
func (t tee) quote(ch *attestext.Challenge) ([]byte, error) {
	data, err := ch.ReportData()
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, t.key)
	mac.Write(data[:])
	return mac.Sum(nil), nil
}

func (t tee) Attest(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
	quote, err := t.quote(req.Challenge)
	if err != nil {
		return nil, err
	}
	return (&cmw.Record{Format: format, Value: quote}).CBOR()
}

func (t tee) Appraise(_ context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
	w, err := cmw.Parse(ev.CMW)
	if err != nil {
		return nil, err
	}
	got, quote, err := w.Evidence()
	if err != nil {
		return nil, err
	}
	want, err := t.quote(ch)
	if err != nil || got != format || !bytes.Equal(quote, want) {
		return nil, attestext.Errorf(attestext.ErrBinding, "verify example", "not of this connection and this key")
	}
	return &attestext.Appraisal{Verdict: "affirming", Key: ch.SPKI, Format: format}, nil
}

// example: end

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(out io.Writer) error { return talk(out, tee{[]byte("key")}, tee{[]byte("key")}) }

func talk(out io.Writer, attester attestext.Attester, verifier attestext.Verifier) error {
	cert, roots := demo.Certificate()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{cert}, Attestation: &tls.AttestationConfig{Attester: attester},
	})
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			io.WriteString(conn, "hello")
			conn.Close()
		}
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{
		RootCAs: roots, ServerName: "localhost", Attestation: &tls.AttestationConfig{Verifier: verifier},
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	said, err := io.ReadAll(conn)
	fmt.Fprintf(out, "%q, says a server that is %s\n", said, conn.ConnectionState().PeerAttestation.Verdict())
	return err
}
