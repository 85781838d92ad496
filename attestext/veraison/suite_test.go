package veraison_test

import (
	"context"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/attesttest"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/veraison"
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

// A client and a service refuse together whatever a verifier has to refuse.
func TestClientAndServiceRefuseAllBadEvidence(t *testing.T) {
	from := func(o *softtee.TDXOptions) *attesttest.Special {
		return &attesttest.Special{Attester: softtee.NewTDX(o).Attester()}
	}
	with := func(o *softtee.CollateralOptions) *attesttest.Special {
		v := local(t)
		v.TDXCollateral = must(softtee.NewTDX(nil).Collateral(o))
		return &attesttest.Special{Verifier: client(t, service(t, v, veraison.ServiceOptions{}), veraison.ClientOptions{})}
	}
	attesttest.Run(t, &attesttest.Target{
		Verifier:    client(t, service(t, local(t), veraison.ServiceOptions{}), veraison.ClientOptions{}),
		Honest:      softtee.NewTDX(nil).Attester(),
		Bindings:    []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08},
		Open:        attesttest.OpenTDX,
		OtherTEE:    &attesttest.Special{Attester: attester.New(foreign{softtee.NewTDX(nil)})},
		Revoked:     with(&softtee.CollateralOptions{Now: testTime, RevokePCK: true}),
		Expired:     with(&softtee.CollateralOptions{Now: testTime.AddDate(0, 0, -31), NextUpdate: testTime.AddDate(0, 0, -1)}),
		ZeroMachine: from(&softtee.TDXOptions{ZeroPlatformID: true}),
		OtherRoot:   from(&softtee.TDXOptions{Seed: "other"}),
		Debug:       from(&softtee.TDXOptions{Debug: true}),
	})
}
