package attester_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/attestedtls/atls/atlshttp"
	"github.com/attestedtls/atls/atlshttp/atlshttptest"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/epoch"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/verifier"
)

// One quote serves all sessions for ten minutes, to relying parties that accept quotes of
// twenty. The issuer of epoch IDs is in this process; elsewhere Epoch is the method ID of
// an epoch.Client, and the relying party has the issuer's key alone.
func ExampleKeyTier() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		log.Fatal(err)
	}
	issuer, err := epoch.NewIssuer(key, nil)
	if err != nil {
		log.Fatal(err)
	}

	tier, err := attester.NewKeyTier(softtee.NewTDX(nil), &attester.KeyTierOptions{
		MaxAge: 10 * time.Minute,
		Epoch:  func(context.Context) ([]byte, error) { return issuer.ID(), nil },
		Failed: func(err error) { log.Print(err) },
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := tier.Renew(ctx); err != nil { // there is nothing to show before
		log.Fatal(err)
	}
	go tier.Run(ctx)

	accept, err := policy.Parse(softtee.Policy())
	if err != nil {
		log.Fatal(err)
	}
	accept.MaxQuoteAge = policy.Duration(20 * time.Minute)
	collateral, err := softtee.Collateral(time.Now())
	if err != nil {
		log.Fatal(err)
	}
	local := &verifier.Local{
		TDXRoots: softtee.Roots(), TDXCollateral: collateral, Policy: accept,
		Epochs: epoch.Keys{issuer.Public()},
	}

	srv := atlshttptest.NewUnstartedServer(http.NotFoundHandler())
	srv.TLS.Attestation.Attester = tier
	srv.ClientTLS.Attestation.Verifier = local
	srv.Start()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	peer := atlshttp.FromContext(resp.Request.Context())
	fmt.Println(peer.Verdict(), "by a quote of the", peer.Claims()["platform_evidence_tier"])
	// Output: affirming by a quote of the key tier
}
