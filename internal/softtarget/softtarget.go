// Package softtarget has the verifier of this module trust the TEEs in software, and hands
// the two to package attesttest, for tests.
package softtarget

import (
	"context"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/attesttest"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
)

// Time is that of the verifiers, and when their collateral was issued.
var Time = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func now() time.Time { return Time }

// LocalTDX returns a verifier of the TDX platform in software; nil options are those of
// collateral that is issued at Time.
func LocalTDX(t testing.TB, o *softtee.CollateralOptions) *verifier.Local {
	t.Helper()
	if o == nil {
		o = &softtee.CollateralOptions{Now: Time}
	}
	c, err := softtee.NewTDX(nil).Collateral(o)
	if err != nil {
		t.Fatal(err)
	}
	return &verifier.Local{TDXRoots: softtee.Roots(), TDXCollateral: c, Policy: parse(t, softtee.Policy()), Now: now}
}

// LocalSNP is LocalTDX for SEV-SNP.
func LocalSNP(t testing.TB, o *softtee.SNPCollateralOptions) *verifier.Local {
	t.Helper()
	if o == nil {
		o = &softtee.SNPCollateralOptions{Now: Time}
	}
	c, err := softtee.NewSNP(nil).Collateral(o)
	if err != nil {
		t.Fatal(err)
	}
	return &verifier.Local{SNPRoots: softtee.SNPRoots(), SNPCollateral: c, Policy: parse(t, softtee.SNPPolicy()), Now: now}
}

func parse(t testing.TB, b []byte) *policy.Policy {
	t.Helper()
	p, err := policy.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// foreign reports by a provider that this module does not read.
type foreign struct{ attester.Quoter }

func (q foreign) Report(ctx context.Context, reportData [attestext.ReportDataSize]byte) (*tsm.Report, error) {
	r, err := q.Quoter.Report(ctx, reportData)
	if err == nil {
		r.Provider = "arm_cca_guest"
	}
	return r, err
}

// rootless sends all certificates but the root, which a verifier has and passes over.
type rootless struct{ *softtee.SNP }

func (q rootless) Report(ctx context.Context, reportData [attestext.ReportDataSize]byte) (*tsm.Report, error) {
	r, err := q.SNP.Report(ctx, reportData)
	if err == nil {
		c := *q.Certificates()
		c.ARK = nil
		r.AuxBlob = c.Marshal()
	}
	return r, err
}

// expired returns when collateral was issued, and until when it was valid, that has expired
// at Time.
func expired() (issued, next time.Time) { return Time.AddDate(0, 0, -31), Time.AddDate(0, 0, -1) }

// Local has the verifier itself tried; see [TDX].
func Local(l *verifier.Local) attestext.Verifier { return l }

// TDX returns the TDX platform in software, all that can be wrong with it, and the verifier
// that behind makes of one that trusts it.
func TDX(t testing.TB, behind func(*verifier.Local) attestext.Verifier) *attesttest.Target {
	t.Helper()
	from := func(o *softtee.TDXOptions) *attesttest.Special {
		return &attesttest.Special{Attester: softtee.NewTDX(o).Attester()}
	}
	with := func(o *softtee.CollateralOptions) *attesttest.Special {
		return &attesttest.Special{Verifier: behind(LocalTDX(t, o))}
	}
	issued, next := expired()
	return &attesttest.Target{
		Verifier:    behind(LocalTDX(t, nil)),
		Honest:      softtee.NewTDX(nil).Attester(),
		Bindings:    []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08},
		Open:        attesttest.OpenTDX,
		OtherTEE:    &attesttest.Special{Attester: attester.New(foreign{softtee.NewTDX(nil)})},
		ZeroMachine: from(&softtee.TDXOptions{ZeroPlatformID: true}),
		OtherRoot:   from(&softtee.TDXOptions{Seed: "other"}),
		Debug:       from(&softtee.TDXOptions{Debug: true}),
		Revoked:     with(&softtee.CollateralOptions{Now: Time, RevokePCK: true}),
		Expired:     with(&softtee.CollateralOptions{Now: issued, NextUpdate: next}),
	}
}

// SNP is TDX for SEV-SNP.
func SNP(t testing.TB, behind func(*verifier.Local) attestext.Verifier) *attesttest.Target {
	t.Helper()
	from := func(o *softtee.SNPOptions) *attesttest.Special {
		return &attesttest.Special{Attester: softtee.NewSNP(o).Attester()}
	}
	with := func(o *softtee.SNPCollateralOptions) *attesttest.Special {
		return &attesttest.Special{Verifier: behind(LocalSNP(t, o))}
	}
	issued, next := expired()
	return &attesttest.Target{
		Verifier:    behind(LocalSNP(t, nil)),
		Honest:      attester.New(rootless{softtee.NewSNP(nil)}),
		Bindings:    []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08},
		Open:        attesttest.OpenSNP,
		OtherTEE:    &attesttest.Special{Attester: attester.New(foreign{softtee.NewSNP(nil)})},
		ZeroMachine: from(&softtee.SNPOptions{MaskChipID: true}),
		OtherRoot:   from(&softtee.SNPOptions{Seed: "other"}),
		Debug:       from(&softtee.SNPOptions{Debug: true}),
		Revoked:     with(&softtee.SNPCollateralOptions{Now: Time, RevokeASK: true}),
		Expired:     with(&softtee.SNPCollateralOptions{Now: issued, NextUpdate: next}),
	}
}
