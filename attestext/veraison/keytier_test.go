package veraison_test

import (
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/veraison"
)

// TestClientWantsQuotesOfThisSession: the service knows no rule, and would accept a quote
// that does not show its age.
func TestClientWantsQuotesOfThisSession(t *testing.T) {
	tier := must(attester.NewKeyTier(softtee.NewTDX(nil), &attester.KeyTierOptions{MaxAge: time.Hour}))
	if err := tier.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := client(t, service(t, local(t), veraison.ServiceOptions{}), veraison.ClientOptions{})
	for _, binding := range []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08, attestext.BindingEarly, attestext.BindingExpat} {
		ch := challenge(attestext.CertAttestation, binding)
		if binding == attestext.BindingEarly { // which has no nonce
			ch.Nonce = nil
		}
		ev := &attestext.Evidence{Type: attestext.EvidenceType{Kind: ch.Kind, Format: eat.BundleFormat}}
		ev.CMW = must(tier.Attest(t.Context(), &attestext.AttestRequest{Type: ev.Type, Challenge: ch}))
		_, err := attestext.Appraise(t.Context(), time.Minute, c, ev, ch)
		switch {
		case binding == attestext.BindingDraft08 && err != nil:
			t.Error(err)
		case binding != attestext.BindingDraft08 && (attestext.Class(err) != attestext.ErrPolicy || !strings.Contains(err.Error(), "was not made for this session")):
			t.Errorf("%v: %v", binding, err)
		}
	}
}
