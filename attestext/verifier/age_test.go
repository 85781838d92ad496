package verifier_test

import (
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
)

// TestCollateralThatIsTooOldForThePolicyIsRefused: long before it expires.
func TestCollateralThatIsTooOldForThePolicyIsRefused(t *testing.T) {
	const age = 48 * time.Hour
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	v := local(t)
	var err error
	if v.TDXCollateral, err = softtee.Collateral(testTime.Add(-age)); err != nil {
		t.Fatal(err)
	}
	if got := v.TDXCollateral.Issued(); !got.Equal(testTime.Add(-age)) {
		t.Fatalf("issued at %v", got)
	}
	ev := attest(t, softtee.NewTDX(nil).Attester(), tsm.FormatCBOR, c)
	v.TDXCache = tdx.NewCache(0)
	for range 2 { // the second time from the cache
		v.Policy.TDX.MaxCollateralAge = policy.Duration(age)
		if _, err := appraise(v, ev, c); err != nil {
			t.Error(err)
		}
		v.Policy.TDX.MaxCollateralAge = policy.Duration(age - time.Second)
		_, err = appraise(v, ev, c)
		wantClass(t, err, attestext.ErrPolicy, "collateral was issued 48h0m0s ago, want 47h59m59s at most")
	}
	// SEV-SNP, by its revocation list.
	snp := localSNP(t)
	ev = attest(t, softtee.NewSNP(nil).Attester(), tsm.FormatCBOR, c)
	snp.SNPCache = sevsnp.NewCache(0)
	for range 2 {
		snp.Policy.SNP.MaxCollateralAge = policy.Duration(time.Hour)
		if _, err := appraise(snp, ev, c); err != nil {
			t.Error(err)
		}
		snp.Now = func() time.Time { return testTime.Add(2 * time.Hour) }
		_, err = appraise(snp, ev, c)
		wantClass(t, err, attestext.ErrPolicy, "max_collateral_age: collateral was issued 2h0m0s ago")
		snp.Now = func() time.Time { return testTime }
	}
}
