// Package readme holds the program text that README.md shows, so that it compiles,
// and tests that README.md and the documents beside it say what is so.
package readme

import (
	"crypto/x509"
	"fmt"
	"io"

	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/tls"
)

// client connects to addr and writes to out what runs there, and what it says. The
// lines between the marks are in README.md.
func client(addr string, roots, teeRoots *x509.CertPool, collateralJSON, policyJSON []byte, out io.Writer) error {
	// README.md: client
	collateral, err := tdx.ParseCollateral(collateralJSON) // what Intel says of its platforms
	if err != nil {
		return err
	}
	acceptable, err := policy.Parse(policyJSON) // which measurements to accept
	if err != nil {
		return err
	}
	conn, err := tls.Dial("tcp", addr, &tls.Config{
		RootCAs:    roots,
		ServerName: "model.example",
		Attestation: &tls.AttestationConfig{
			Verifier: &verifier.Local{TDXRoots: teeRoots, TDXCollateral: collateral, Policy: acceptable},
		},
	})
	if err != nil {
		return err // no application byte has moved
	}
	defer conn.Close()
	peer := conn.ConnectionState().PeerAttestation
	fmt.Fprintln(out, peer.Verdict(), peer.Machine(), peer.Claims()["mrtd"])
	// README.md: end
	_, err = io.Copy(out, conn)
	return err
}
