// Package readme holds the program text that README.md shows, so that it compiles,
// and tests that README.md and the documents beside it say what is so.
package readme

import (
	"crypto/x509"
	"fmt"
	"io"

	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/tls"
)

// client connects to addr and writes to out what runs there, and what it says. The
// lines between the marks are in README.md.
func client(addr string, roots *x509.CertPool, teeRootsPEM, collateralJSON, policyJSON []byte, out io.Writer) error {
	// README.md: client
	v := new(verifier.Local)
	if err := v.SetRoots(teeRootsPEM); err != nil { // whose TEEs are genuine: left out, Intel's and AMD's
		return err
	}
	if err := v.SetCollateral(collateralJSON); err != nil { // what the manufacturers say of their platforms
		return err
	}
	acceptable, err := policy.Parse(policyJSON) // which measurements to accept
	if err != nil {
		return err
	}
	v.Policy = acceptable
	conn, err := tls.Dial("tcp", addr, &tls.Config{
		RootCAs:     roots,
		ServerName:  "model.example",
		Attestation: &tls.AttestationConfig{Verifier: v},
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
