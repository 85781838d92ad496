package attesttest_test

import (
	"context"
	"slices"
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

func localSNP(t testing.TB, o *softtee.SNPCollateralOptions) *verifier.Local {
	t.Helper()
	c, err := softtee.NewSNP(nil).Collateral(o)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse(softtee.SNPPolicy())
	if err != nil {
		t.Fatal(err)
	}
	return &verifier.Local{SNPRoots: softtee.SNPRoots(), SNPCollateral: c, Policy: p, Now: func() time.Time { return testTime }}
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

// elsewhere reports SEV-SNP's reports by a provider that this module does not read.
type elsewhere struct{ *softtee.SNP }

func (q elsewhere) Report(ctx context.Context, reportData [attestext.ReportDataSize]byte) (*tsm.Report, error) {
	r, err := q.SNP.Report(ctx, reportData)
	if err == nil {
		r.Provider = "arm_cca_guest"
	}
	return r, err
}

// targetSNP is target for SEV-SNP.
func targetSNP(t testing.TB) *attesttest.Target {
	from := func(o *softtee.SNPOptions) *attesttest.Special {
		return &attesttest.Special{Attester: softtee.NewSNP(o).Attester()}
	}
	return &attesttest.Target{
		Verifier:    localSNP(t, &softtee.SNPCollateralOptions{Now: testTime}),
		Honest:      attester.New(rootless{softtee.NewSNP(nil)}),
		Bindings:    []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08},
		Open:        attesttest.OpenSNP,
		OtherTEE:    &attesttest.Special{Attester: attester.New(elsewhere{softtee.NewSNP(nil)})},
		ZeroMachine: from(&softtee.SNPOptions{MaskChipID: true}),
		OtherRoot:   from(&softtee.SNPOptions{Seed: "other"}),
		Debug:       from(&softtee.SNPOptions{Debug: true}),
		Revoked:     &attesttest.Special{Verifier: localSNP(t, &softtee.SNPCollateralOptions{Now: testTime, RevokeASK: true})},
		Expired: &attesttest.Special{Verifier: localSNP(t, &softtee.SNPCollateralOptions{
			Now: testTime.AddDate(0, 0, -31), NextUpdate: testTime.AddDate(0, 0, -1),
		})},
	}
}

// oneSNP is targetSNP cut down to one type and one rule.
func oneSNP(t testing.TB) *attesttest.Target {
	g := targetSNP(t)
	g.Types = []attestext.EvidenceType{{Kind: attestext.CertAttestation, Format: tsm.FormatCBOR}}
	g.Bindings = nil
	return g
}

func TestLocalVerifierRefusesAllBadSNPEvidence(t *testing.T) {
	attesttest.Run(t, targetSNP(t))
}

// TestSuiteHasEachCategoryForBothTEEs keeps a category from getting lost: each is
// run, and not left out for want of a hook.
func TestSuiteHasEachCategoryForBothTEEs(t *testing.T) {
	for name, g := range map[string]*attesttest.Target{"TDX": one(t), "SNP": oneSNP(t)} {
		ran := map[string]bool{}
		for _, o := range attesttest.Check(t.Context(), g) {
			if o.Status == attesttest.NotRun {
				t.Errorf("%s: %v", name, o)
			}
			ran[o.Case] = o.Status == attesttest.Passed
		}
		for _, c := range slices.Concat(badEvidence, []string{"zero machine"}) {
			if !ran[c] {
				t.Errorf("%s: %q has not been run and passed", name, c)
			}
		}
	}
}

func TestLaxVerifierOfSNPFailsEveryCategory(t *testing.T) {
	g := oneSNP(t)
	hole := func(v attestext.Verifier) attestext.Verifier {
		return lax{v, func(*attestext.Evidence, *attestext.Challenge, *attestext.Appraisal, error) (*attestext.Appraisal, error) {
			return &attestext.Appraisal{Verdict: "affirming", Machine: "snp-chip:00"}, nil
		}}
	}
	g.Verifier = hole(g.Verifier)
	g.Revoked.Verifier, g.Expired.Verifier = hole(g.Revoked.Verifier), hole(g.Expired.Verifier)
	want := slices.Concat([]string{"honest evidence, first"}, badEvidence, []string{"zero machine", "honest evidence, last"})
	if got := failed(t, g); !slices.Equal(got, want) {
		t.Errorf("fails %q, want %q", got, want)
	}
}
