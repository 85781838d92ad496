package veraison_test

import (
	"context"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/attesttest"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/veraison"
	"github.com/attestedtls/atls/attestext/verifier"
)

// A foreign TEE is one that nobody here reads.
type foreign struct{ *softtee.TDX }

func (f foreign) Report(ctx context.Context, rd [attestext.ReportDataSize]byte) (*tsm.Report, error) {
	r, err := f.TDX.Report(ctx, rd)
	if err == nil {
		r.Provider = "arm_cca_guest"
	}
	return r, err
}

// A client and a service refuse together whatever a verifier has to refuse. Under the
// draft's rule, whose bundles do not show their age, the service has to be told so.
func TestClientAndServiceRefuseAllBadEvidence(t *testing.T) {
	for _, rule := range []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08} {
		t.Run(rule.String(), func(t *testing.T) { refuseAllBadEvidence(t, rule) })
	}
}

func refuseAllBadEvidence(t *testing.T, rule attestext.Binding) {
	behind := func(v *verifier.Local) *veraison.Client { return agedClient(t, v, rule == attestext.BindingDraft08) }
	from := func(o *softtee.TDXOptions) *attesttest.Special {
		return &attesttest.Special{Attester: softtee.NewTDX(o).Attester()}
	}
	with := func(o *softtee.CollateralOptions) *attesttest.Special {
		v := local(t)
		v.TDXCollateral = must(softtee.NewTDX(nil).Collateral(o))
		return &attesttest.Special{Verifier: behind(v)}
	}
	attesttest.Run(t, &attesttest.Target{
		Verifier:    behind(local(t)),
		Honest:      softtee.NewTDX(nil).Attester(),
		Bindings:    []attestext.Binding{rule},
		Open:        attesttest.OpenTDX,
		OtherTEE:    &attesttest.Special{Attester: attester.New(foreign{softtee.NewTDX(nil)})},
		Revoked:     with(&softtee.CollateralOptions{Now: testTime, RevokePCK: true}),
		Expired:     with(&softtee.CollateralOptions{Now: testTime.AddDate(0, 0, -31), NextUpdate: testTime.AddDate(0, 0, -1)}),
		ZeroMachine: from(&softtee.TDXOptions{ZeroPlatformID: true}),
		OtherRoot:   from(&softtee.TDXOptions{Seed: "other"}),
		Debug:       from(&softtee.TDXOptions{Debug: true}),
	})
}

// rootless sends all certificates but the root, which a verifier has and passes over.
type rootless struct{ *softtee.SNP }

func (q rootless) Report(ctx context.Context, rd [attestext.ReportDataSize]byte) (*tsm.Report, error) {
	r, err := q.SNP.Report(ctx, rd)
	if err == nil {
		c := *q.Certificates()
		c.ARK = nil
		r.AuxBlob = c.Marshal()
	}
	return r, err
}

func TestClientAndServiceRefuseAllBadSNPEvidence(t *testing.T) {
	from := func(o *softtee.SNPOptions) *attesttest.Special {
		return &attesttest.Special{Attester: softtee.NewSNP(o).Attester()}
	}
	with := func(o *softtee.SNPCollateralOptions) attestext.Verifier {
		v := &verifier.Local{SNPRoots: softtee.SNPRoots(), SNPCollateral: must(softtee.NewSNP(nil).Collateral(o)), Policy: must(policy.Parse(softtee.SNPPolicy())), Now: now}
		return client(t, service(t, v, veraison.ServiceOptions{}), veraison.ClientOptions{})
	}
	attesttest.Run(t, &attesttest.Target{
		Verifier:    with(&softtee.SNPCollateralOptions{Now: testTime}),
		Honest:      attester.New(rootless{softtee.NewSNP(nil)}),
		Types:       []attestext.EvidenceType{{Kind: attestext.CertAttestation, Format: tsm.FormatCBOR}},
		Open:        attesttest.OpenSNP,
		OtherTEE:    &attesttest.Special{Attester: attester.New(foreign{softtee.NewTDX(nil)})},
		Revoked:     &attesttest.Special{Verifier: with(&softtee.SNPCollateralOptions{Now: testTime, RevokeASK: true})},
		Expired:     &attesttest.Special{Verifier: with(&softtee.SNPCollateralOptions{Now: testTime.AddDate(0, 0, -31), NextUpdate: testTime.AddDate(0, 0, -1)})},
		ZeroMachine: from(&softtee.SNPOptions{MaskChipID: true}),
		OtherRoot:   from(&softtee.SNPOptions{Seed: "other"}),
		Debug:       from(&softtee.SNPOptions{Debug: true}),
	})
}
