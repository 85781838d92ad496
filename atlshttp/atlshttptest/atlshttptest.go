// Package atlshttptest is net/http/httptest with attestation, for tests of handlers
// and clients:
//
//	srv := atlshttptest.NewServer(handler)
//	defer srv.Close()
//	resp, err := srv.Client().Get(srv.URL)
//
// Both ends attest with a TEE in software, which proves nothing, and appraise
// each other by everything that package verifier checks.
package atlshttptest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/attestedtls/atls/atlshttp"
	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/tls"
)

// A Server is an httptest.Server whose connections are attested: HTTP/1.1 and
// HTTP/2 on a loopback address. Close ends it, and the clients that it made.
type Server struct {
	*httptest.Server

	// TLS is the server's Config, for changes before Start. It attests, and
	// merely asks its clients to: one that does not is let in, without a verdict.
	TLS *tls.Config

	// ClientTLS is the Config that Client uses, for changes before Client is
	// called. It requires attestation, and attests if asked to.
	ClientTLS *tls.Config

	// Options are given to atlshttp.NewListener by Start.
	Options []atlshttp.Option

	mu         sync.Mutex
	client     *http.Client
	transports []*atlshttp.Transport
}

// NewServer returns a server that has been started. It panics where there is no
// loopback address to listen on, as httptest does.
func NewServer(h http.Handler) *Server {
	s := NewUnstartedServer(h)
	s.Start()
	return s
}

// NewUnstartedServer returns a server to change and then to Start.
func NewUnstartedServer(h http.Handler) *Server {
	p := pki()
	return &Server{
		Server: httptest.NewUnstartedServer(h),
		TLS: &tls.Config{
			Certificates: []tls.Certificate{p.server},
			ClientCAs:    p.roots,
			ClientAuth:   tls.VerifyClientCertIfGiven,
			Attestation:  &tls.AttestationConfig{Attester: Attester(), Verifier: Verifier(), Peer: tls.RequestAttestation},
		},
		ClientTLS: &tls.Config{
			RootCAs:      p.roots,
			Certificates: []tls.Certificate{p.client},
			Attestation:  &tls.AttestationConfig{Attester: Attester(), Verifier: Verifier()},
		},
	}
}

// Start starts the server. Its URL is an https one.
func (s *Server) Start() {
	l, err := atlshttp.NewListener(s.Config, s.Listener, s.TLS, s.Options...)
	if err != nil {
		panic("atlshttptest: " + err.Error())
	}
	s.Listener = l
	s.Server.Start()
	s.URL = "https://" + s.Listener.Addr().String()
}

// StartTLS is Start.
func (s *Server) StartTLS() { s.Start() }

// Client returns a client under ClientTLS, the same at each call.
func (s *Server) Client() *http.Client {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	if client != nil {
		return client
	}
	client = &http.Client{Transport: s.Transport(s.ClientTLS, nil)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		s.client = client
	}
	return s.client
}

// Transport returns a new transport under config with the settings of base, which may
// be nil; see atlshttp.NewTransport. It panics if there cannot be one.
func (s *Server) Transport(config *tls.Config, base *http.Transport) *atlshttp.Transport {
	t, err := atlshttp.NewTransport(config, base)
	if err != nil {
		panic("atlshttptest: " + err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.transports = append(s.transports, t)
	return t
}

// Close shuts the server down, when the requests under way are over.
func (s *Server) Close() {
	s.mu.Lock()
	for _, t := range s.transports {
		t.CloseIdleConnections()
	}
	s.mu.Unlock()
	s.Server.Close()
}

// Attester returns an attester on a TDX in software, which proves nothing.
func Attester() attestext.Attester { return softtee.NewTDX(nil).Attester() }

// Verifier returns a verifier of such evidence. Its verdict is "affirming".
func Verifier() attestext.Verifier {
	collateral, err := softtee.Collateral(time.Now().Add(-time.Hour))
	if err != nil {
		panic("atlshttptest: " + err.Error())
	}
	p, err := policy.Parse(softtee.Policy())
	if err != nil {
		panic("atlshttptest: " + err.Error())
	}
	return &verifier.Local{TDXRoots: softtee.Roots(), TDXCollateral: collateral, Policy: p}
}

// certificates is a CA with a certificate for the loopback addresses, "localhost"
// and "example.com", and one for a client.
type certificates struct {
	roots          *x509.CertPool
	server, client tls.Certificate
}

var pki = sync.OnceValue(func() certificates {
	ca := issue("atlshttptest CA", nil)
	p := certificates{roots: x509.NewCertPool(), server: issue("example.com", &ca), client: issue("client", &ca)}
	p.roots.AddCert(ca.Leaf)
	return p
})

// issue makes a certificate, which signs itself if parent is nil.
func issue(name string, parent *tls.Certificate) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(fmt.Sprintf("atlshttptest: %v", err))
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), BasicConstraintsValid: true,
	}
	signer, signerCert := crypto.Signer(key), t
	if parent == nil {
		t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign
	} else {
		signer, signerCert = parent.PrivateKey.(crypto.Signer), parent.Leaf
		t.KeyUsage = x509.KeyUsageDigitalSignature
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		t.DNSNames = []string{name, "localhost"}
		t.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, signerCert, key.Public(), signer)
	if err != nil {
		panic(fmt.Sprintf("atlshttptest: %v", err))
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(fmt.Sprintf("atlshttptest: %v", err))
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}
