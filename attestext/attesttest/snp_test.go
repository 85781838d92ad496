package attesttest_test

import (
	"slices"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attesttest"
	"github.com/attestedtls/atls/internal/softtarget"
)

func TestLocalVerifierRefusesAllBadSNPEvidence(t *testing.T) {
	attesttest.Run(t, softtarget.SNP(t, softtarget.Local))
}

// TestSuiteHasEachCategoryForBothTEEs keeps a category from getting lost: each is
// run, and not left out for want of a hook.
func TestSuiteHasEachCategoryForBothTEEs(t *testing.T) {
	for name, g := range map[string]*attesttest.Target{"TDX": one(softtarget.TDX(t, softtarget.Local)), "SNP": one(softtarget.SNP(t, softtarget.Local))} {
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
	g := one(softtarget.SNP(t, softtarget.Local))
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
