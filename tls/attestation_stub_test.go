package tls

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"golang.org/x/crypto/cryptobyte"
)

// The tests of this package use a stub in place of a TEE: Evidence that names what
// it is bound to and is signed by nobody. What a real quote format and a real
// verifier do is tested in attestext and cmd/atls.

// stubFormat is the format of stub Evidence, and otherFormat one that only some
// stubs make.
var (
	stubFormat  = attestext.EvidenceFormat{MediaType: "application/x-stub"}
	otherFormat = attestext.EvidenceFormat{ContentFormat: 65001}
)

// stubEvidence is what a stub TEE attests: three vectors with 16-bit lengths.
type stubEvidence struct {
	bound   []byte // report data, or in attestation-only the challenge
	key     []byte // SPKI, in attestation-only
	padding []byte
}

func (e *stubEvidence) marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, 6+len(e.bound)+len(e.key)+len(e.padding)))
	for _, v := range [][]byte{e.bound, e.key, e.padding} {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(v) })
	}
	return b.Bytes()
}

func (e *stubEvidence) unmarshal(b []byte) bool {
	s := cryptobyte.String(b)
	return readUint16LengthPrefixed(&s, &e.bound) && readUint16LengthPrefixed(&s, &e.key) &&
		readUint16LengthPrefixed(&s, &e.padding) && s.Empty()
}

// stubTEE is an Attester and a Verifier. The zero stub is honest.
type stubTEE struct {
	formats []attestext.EvidenceFormat // stubFormat if nil
	padding int                        // bytes

	attest   func(ctx context.Context, req *attestext.AttestRequest) ([]byte, error)
	appraise func(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error)
}

func (s *stubTEE) Formats(attestext.CredentialKind) []attestext.EvidenceFormat {
	if s.formats != nil {
		return s.formats
	}
	return []attestext.EvidenceFormat{stubFormat}
}

func (s *stubTEE) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	if s.attest != nil {
		return s.attest(ctx, req)
	}
	return s.honest(req.Challenge)
}

func (s *stubTEE) honest(ch *attestext.Challenge) ([]byte, error) {
	ev := stubEvidence{padding: make([]byte, s.padding)}
	if ch.Kind == attestext.AttestationOnly {
		ev.bound, ev.key = ch.Value(), ch.SPKI
	} else {
		rd, err := ch.ReportData()
		if err != nil {
			return nil, err
		}
		ev.bound = rd[:]
	}
	return ev.marshal()
}

func (s *stubTEE) Appraise(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
	if s.appraise != nil {
		return s.appraise(ctx, ev, ch)
	}
	const op = "verify stub"
	var got stubEvidence
	if !got.unmarshal(ev.CMW) {
		return nil, attestext.Errorf(attestext.ErrMalformed, op, "no stub evidence")
	}
	if ch.Kind == attestext.AttestationOnly {
		if !bytes.Equal(got.bound, ch.Value()) {
			return nil, attestext.Errorf(attestext.ErrBinding, op, "challenge")
		}
		return &attestext.Appraisal{Verdict: "affirming", Key: got.key}, nil
	}
	want, err := ch.ReportData()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(got.bound, want[:]) {
		return nil, attestext.Errorf(attestext.ErrBinding, op, "report data")
	}
	return &attestext.Appraisal{Verdict: "affirming", Key: ch.SPKI}, nil
}

// stubResults holds and checks stub results: the identity of their verifier and the
// key that they are about. The zero stub is honest.
type stubResults struct {
	verifiers []attestext.VerifierIdentity // verifier.example if nil
	key       []byte                       // in place of the challenge's
	signer    attestext.VerifierIdentity   // in place of the one asked for
}

func (s *stubResults) Verifiers() []attestext.VerifierIdentity {
	if s.verifiers != nil {
		return s.verifiers
	}
	return []attestext.VerifierIdentity{"verifier.example"}
}

func (s *stubResults) Attest(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
	ev := stubEvidence{bound: []byte(req.Verifier), key: req.Challenge.SPKI}
	if s.key != nil {
		ev.key = s.key
	}
	if s.signer != "" {
		ev.bound = []byte(s.signer)
	}
	return ev.marshal()
}

func (s *stubResults) Appraise(_ context.Context, ev *attestext.Evidence, _ *attestext.Challenge) (*attestext.Appraisal, error) {
	const op = "verify stub result"
	var got stubEvidence
	if !got.unmarshal(ev.CMW) {
		return nil, attestext.Errorf(attestext.ErrMalformed, op, "no stub result")
	}
	if string(got.bound) != string(ev.Verifier) {
		return nil, attestext.Errorf(attestext.ErrSignature, op, "signed by %q", got.bound)
	}
	return &attestext.Appraisal{Verdict: "affirming", Key: got.key}, nil
}

// passports turns a pair of configurations of which the server attests to the
// passport model.
func passports(client, server *Config) {
	client.Attestation.Verifier, client.Attestation.ResultsVerifier = nil, &stubResults{}
	server.Attestation.Attester, server.Attestation.Results = nil, &stubResults{}
}

// attestPKI is a CA with a server and a client certificate, made once.
var attestPKI = sync.OnceValue(func() (p struct {
	roots          *x509.CertPool
	server, client Certificate
}) {
	caKey := newTestKey()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		panic(err)
	}
	caCert, err := x509.ParseCertificate(caDER)
	if err != nil {
		panic(err)
	}
	p.roots = x509.NewCertPool()
	p.roots.AddCert(caCert)
	leaf := func(serial int64, name string, usage x509.ExtKeyUsage) Certificate {
		key := newTestKey()
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		}, caCert, key.Public(), caKey)
		if err != nil {
			panic(err)
		}
		cert := Certificate{Certificate: [][]byte{der}, PrivateKey: key}
		if cert.Leaf, err = x509.ParseCertificate(der); err != nil {
			panic(err)
		}
		return cert
	}
	p.server = leaf(2, "server.example", x509.ExtKeyUsageServerAuth)
	p.client = leaf(3, "client.example", x509.ExtKeyUsageClientAuth)
	return p
})

func newTestKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

// attestConfigs returns a client and a server that share the PKI, without attestation.
func attestConfigs() (client, server *Config) {
	p := attestPKI()
	client = &Config{RootCAs: p.roots, ServerName: "server.example", Certificates: []Certificate{p.client}}
	server = &Config{Certificates: []Certificate{p.server}, ClientCAs: p.roots}
	return client, server
}

// attestEnds is what the two ends of a connection saw.
type attestEnds struct {
	client, server       *Conn
	clientErr, serverErr error
}

// attestHandshake runs a handshake and, where both ends succeed, sends a line each
// way. It fails the test if that takes longer than a minute.
func attestHandshake(t testing.TB, client, server *Config) *attestEnds {
	t.Helper()
	c, s := localPipe(t)
	ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
	ends.run(t, c, s)
	return ends
}

// run runs the handshake of ends over c and s.
func (ends *attestEnds) run(t testing.TB, c, s net.Conn) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	c.SetDeadline(deadline)
	s.SetDeadline(deadline)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer hangUp(s)
		if ends.serverErr = ends.server.Handshake(); ends.serverErr != nil {
			return
		}
		line := make([]byte, 5)
		if _, ends.serverErr = io.ReadFull(ends.server, line); ends.serverErr != nil {
			return
		}
		_, ends.serverErr = ends.server.Write(line)
	}()
	if ends.clientErr = ends.client.Handshake(); ends.clientErr == nil {
		ends.clientErr = func() error {
			if _, err := io.WriteString(ends.client, "line\n"); err != nil {
				return err
			}
			line := make([]byte, 5)
			_, err := io.ReadFull(ends.client, line)
			return err
		}()
	}
	hangUp(c)
	<-done
	for _, err := range []error{ends.clientErr, ends.serverErr} {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the handshake hangs: client %v, server %v", ends.clientErr, ends.serverErr)
		}
	}
}

// hangUp closes a connection in such a way that the other end reads all that was
// sent, its last alert included.
func hangUp(c net.Conn) {
	c.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, c)
	c.Close()
}

// spkiOf returns the DER SubjectPublicKeyInfo of a key.
func spkiOf(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}
