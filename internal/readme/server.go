package readme

import (
	"net"

	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/tls"
)

// server listens on addr. The lines between the marks are in README.md.
func server(addr string, cert tls.Certificate, quoter attester.Quoter) (net.Listener, error) {
	// README.md: server
	ln, err := tls.Listen("tcp", addr, &tls.Config{
		Certificates: []tls.Certificate{cert},
		Attestation:  &tls.AttestationConfig{Attester: attester.New(quoter)},
	})
	// README.md: end
	return ln, err
}
