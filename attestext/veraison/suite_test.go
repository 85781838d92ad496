package veraison_test

import (
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attesttest"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/softtarget"
)

// A client and a service refuse together whatever a verifier has to refuse. Under the
// draft's rule, whose bundles do not show their age, the service has to be told so.
func TestClientAndServiceRefuseAllBadEvidence(t *testing.T) {
	for _, rule := range []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08} {
		t.Run(rule.String(), func(t *testing.T) {
			g := softtarget.TDX(t, func(l *verifier.Local) attestext.Verifier { return agedClient(t, l, rule == attestext.BindingDraft08) })
			g.Bindings = []attestext.Binding{rule}
			attesttest.Run(t, g)
		})
	}
}

func TestClientAndServiceRefuseAllBadSNPEvidence(t *testing.T) {
	g := softtarget.SNP(t, func(l *verifier.Local) attestext.Verifier { return agedClient(t, l, false) })
	g.Types = []attestext.EvidenceType{{Kind: attestext.CertAttestation, Format: tsm.FormatCBOR}}
	g.Bindings = nil // hardened
	attesttest.Run(t, g)
}
