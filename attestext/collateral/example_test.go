package collateral_test

import (
	"log"

	"github.com/attestedtls/atls/attestext/collateral"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/tls"
)

// A client whose verifier fetches collateral from Intel and AMD, and from nobody else.
// It serves all connections: what has been fetched is kept with it.
func Example() {
	source, err := collateral.New(&collateral.Config{
		TDX: &collateral.TDXEndpoint{
			URL:     "https://api.trustedservices.intel.com",
			RootCRL: "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
		},
		SNP:        &collateral.SNPEndpoint{URL: "https://kdsintf.amd.com"},
		AllowHosts: []string{"api.trustedservices.intel.com", "certificates.trustedservices.intel.com", "kdsintf.amd.com"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	conn, err := tls.Dial("tcp", "model.example:443", &tls.Config{
		Attestation: &tls.AttestationConfig{Verifier: &verifier.Local{Source: source}},
	})
	if err != nil {
		log.Fatal(err)
	}
	conn.Close()
}
