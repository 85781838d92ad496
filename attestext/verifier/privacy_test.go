package verifier_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/tls"
)

// observed keeps what a passive observer sees of a connection, both ways.
type observed struct {
	net.Conn
	mu   *sync.Mutex
	seen *bytes.Buffer
}

func (o observed) Read(b []byte) (int, error) {
	n, err := o.Conn.Read(b)
	o.note(b[:n])
	return n, err
}

func (o observed) Write(b []byte) (int, error) {
	o.note(b)
	return o.Conn.Write(b)
}

func (o observed) note(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen.Write(b)
}

type countedAttester struct {
	attestext.Attester
	calls atomic.Int32
}

func (c *countedAttester) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	c.calls.Add(1)
	return c.Attester.Attest(ctx, req)
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"private.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// TestEvidenceIsShownToCertifiedClientsAlone: after the handshake, a server that requires
// a client's certificate in it makes no evidence for anybody else; and whoever looks on
// sees neither evidence nor a claim in any mode.
func TestEvidenceIsShownToCertifiedClientsAlone(t *testing.T) {
	serverCert, roots := selfSigned(t)
	clientCert, clients := selfSigned(t)
	stranger, _ := selfSigned(t)
	mrtd, _ := softtee.TDXMeasurements()
	for _, tt := range []struct {
		name   string
		mode   tls.AttestationMode
		auth   tls.ClientAuthType
		certs  []tls.Certificate
		passes bool
	}{
		{"certified", tls.PostHandshake, tls.RequireAndVerifyClientCert, []tls.Certificate{clientCert}, true},
		{"without a certificate", tls.PostHandshake, tls.RequireAndVerifyClientCert, nil, false},
		{"certified by nobody", tls.PostHandshake, tls.RequireAndVerifyClientCert, []tls.Certificate{stranger}, false},
		{"in the handshake", tls.InHandshake, tls.NoClientCert, nil, true},
		{"combined", tls.Combined, tls.NoClientCert, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			attester := &countedAttester{Attester: softtee.NewTDX(nil).Attester()}
			server := &tls.Config{
				Certificates: []tls.Certificate{serverCert}, ClientAuth: tt.auth, ClientCAs: clients,
				Attestation: &tls.AttestationConfig{Mode: tt.mode, Attester: attester},
			}
			client := &tls.Config{
				RootCAs: roots, ServerName: "private.example", Certificates: tt.certs,
				Attestation: &tls.AttestationConfig{Mode: tt.mode, Verifier: local(t)},
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			done := make(chan error, 1)
			go func() {
				raw, err := l.Accept()
				if err == nil {
					conn := tls.Server(raw, server)
					err = conn.Handshake()
					conn.Close()
				}
				done <- err
			}()
			raw, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			o := observed{raw, new(sync.Mutex), new(bytes.Buffer)}
			conn := tls.Client(o, client)
			err = conn.Handshake()
			if serr := <-done; (err == nil) != tt.passes || (serr == nil) != tt.passes {
				t.Fatalf("client %v, server %v", err, serr)
			}
			if !tt.passes {
				if n := attester.calls.Load(); n != 0 {
					t.Errorf("evidence was made %d times for a client that is refused", n)
				}
			} else if attester.calls.Load() == 0 {
				t.Error("no evidence was made")
			}
			o.mu.Lock()
			defer o.mu.Unlock()
			seen := o.seen.Bytes()
			if !bytes.Contains(seen, []byte("private.example")) {
				t.Fatal("what is looked through is not the connection")
			}
			secrets := map[string][]byte{"MRTD": mrtd[:], "MRTD in text": []byte(hex.EncodeToString(mrtd[:])), "the quote's vendor": []byte("intel"), "the TEE": []byte("softtee")}
			if tt.passes {
				cmw := conn.ConnectionState().PeerAttestation.Evidence().CMW
				if !bytes.Contains(cmw, mrtd[:]) {
					t.Fatal("the evidence has no MRTD to look for")
				}
				secrets["the evidence"] = cmw
				for i := 0; i+64 <= len(cmw); i += 64 {
					if bytes.Contains(seen, cmw[i:i+64]) {
						t.Errorf("an observer sees bytes %d of the evidence", i)
					}
				}
			}
			for what, b := range secrets {
				if bytes.Contains(seen, b) {
					t.Errorf("an observer sees %s", what)
				}
			}
		})
	}
}
