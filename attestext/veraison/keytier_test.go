package veraison_test

import (
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/veraison"
	"github.com/attestedtls/atls/attestext/verifier"
)

// TestClientWantsQuotesOfThisSession: but under the draft's rule. The service, which is told
// of no rule, wants them always, unless its policy says otherwise.
func TestClientWantsQuotesOfThisSession(t *testing.T) {
	tier := must(attester.NewKeyTier(softtee.NewTDX(nil), &attester.KeyTierOptions{MaxAge: time.Hour}))
	if err := tier.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, unknown := range []bool{false, true} {
		for rule, says := range map[attestext.Binding]string{
			attestext.BindingHardened: "was not made for this session",
			attestext.BindingExpat:    "was not made for this session",
			attestext.BindingEarly:    "was not made for this session",
			attestext.BindingDraft08:  "the service's tier is contraindicated",
		} {
			ch := challenge(attestext.CertAttestation, rule)
			if rule == attestext.BindingEarly {
				ch.Nonce = nil
			}
			ev := &attestext.Evidence{Type: attestext.EvidenceType{Kind: ch.Kind, Format: eat.BundleFormat}}
			ev.CMW = must(tier.Attest(t.Context(), &attestext.AttestRequest{Type: ev.Type, Challenge: ch}))
			_, err := attestext.Appraise(t.Context(), time.Minute, agedClient(t, local(t), unknown), ev, ch)
			switch {
			case rule == attestext.BindingDraft08 && unknown && err != nil:
				t.Errorf("%v, allowed: %v", rule, err)
			case rule == attestext.BindingDraft08 && unknown:
			case attestext.Class(err) != attestext.ErrPolicy || !strings.Contains(err.Error(), says):
				t.Errorf("%v, allowed %v: %v", rule, unknown, err)
			}
		}
	}
}

// agedClient returns a client of a service with v, both of which accept quotes of an
// unknown age if they are to.
func agedClient(t *testing.T, v *verifier.Local, unknown bool) *veraison.Client {
	t.Helper()
	v.Policy.InsecureAllowUnknownQuoteAge = unknown
	return client(t, service(t, v, veraison.ServiceOptions{}), veraison.ClientOptions{AllowWarning: unknown, Formats: allFormats})
}

var allFormats = []attestext.EvidenceFormat{tsm.FormatCBOR, tsm.FormatJSON, tpm.Format, eat.BundleFormat}
