package main

import (
	"crypto"
	stdtls "crypto/tls"
	"errors"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/examples/internal/demo"
	"github.com/attestedtls/atls/tls"
)

func TestRATLS(t *testing.T) {
	demo.Says(t, run, "old client: \"hello\"\nnew client: \"hello\", verdict affirming\n")
}

// A server that has such a certificate and its key, and no TEE any more: old clients do
// not notice.
func TestOnlyNewClientsNoticeThatTheTEEIsGone(t *testing.T) {
	cert, err := oldCertificate()
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go hello(l)
	conn, err := stdtls.Dial("tcp", l.Addr().String(), &stdtls.Config{InsecureSkipVerify: true, VerifyPeerCertificate: oldVerify})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := tls.Dial("tcp", l.Addr().String(), newConfig(demo.Verifier())); !errors.As(err, new(*tls.AttestationError)) {
		t.Error(err)
	}
}

func TestOldClientsRefuseAnotherKey(t *testing.T) {
	one, err1 := oldCertificate()
	two, err2 := oldCertificate()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for _, e := range one.Leaf.Extensions {
		if e.Id.Equal(oidQuote) {
			cert, _ := demo.CertificateOf(two.PrivateKey.(crypto.Signer), &e)
			if err := oldVerify(cert.Certificate, nil); err == nil {
				t.Error("a quote over another key was taken")
			}
		}
	}
	plain, _ := demo.Certificate()
	if err := oldVerify(plain.Certificate, nil); err == nil || errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("a certificate without a quote: %v", err)
	}
}
