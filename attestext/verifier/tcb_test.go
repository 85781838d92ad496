package verifier_test

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
)

// tcbVerifier appraises with one TCB section and one state of the platform.
func tcbVerifier(t *testing.T, section string, o softtee.CollateralOptions) *verifier.Local {
	t.Helper()
	o.Now = testTime
	c, err := softtee.NewTDX(nil).Collateral(&o)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse([]byte(`{"tdx":{` + section + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	return &verifier.Local{TDXRoots: softtee.Roots(), TDXCollateral: c, Policy: p, Now: func() time.Time { return testTime }}
}

func TestPolicyDecidesWhichTCBPasses(t *testing.T) {
	month := testTime.AddDate(0, -1, 0)
	for _, tt := range []struct {
		name, section string
		platform      softtee.CollateralOptions
		ok            bool
	}{
		{"hardening, by default", ``, softtee.CollateralOptions{TCBStatus: "SWHardeningNeeded"}, false},
		{"hardening, allowed", `"tcb":{"allow_statuses":["SWHardeningNeeded"]}`, softtee.CollateralOptions{TCBStatus: "SWHardeningNeeded"}, true},
		{"in grace", `"tcb":{"out_of_date_grace":"1000h"}`, softtee.CollateralOptions{TCBStatus: "OutOfDate", NewerTCB: []time.Time{month}}, true},
		{"past grace", `"tcb":{"out_of_date_grace":"100h"}`, softtee.CollateralOptions{TCBStatus: "OutOfDate", NewerTCB: []time.Time{month}}, false},
		{"QE in grace", `"tcb":{"out_of_date_grace":"999999h"}`, softtee.CollateralOptions{QEStatus: "OutOfDate"}, true},
		{"hardening, and a QE in grace", `"tcb":{"out_of_date_grace":"999999h"}`, softtee.CollateralOptions{TCBStatus: "SWHardeningNeeded", QEStatus: "OutOfDate"}, false},
		{"revoked, everything allowed", `"tcb":{"allow_statuses":["UpToDate","OutOfDate","SWHardeningNeeded"],"out_of_date_grace":"999999h"}`, softtee.CollateralOptions{TCBStatus: "Revoked"}, false},
		{"revoked QE, everything allowed", `"tcb":{"allow_statuses":["UpToDate","OutOfDate"]}`, softtee.CollateralOptions{QEStatus: "Revoked"}, false},
		{"denied advisory", `"tcb":{"allow_statuses":["SWHardeningNeeded"],"deny_advisories":["INTEL-SA-00001"]}`,
			softtee.CollateralOptions{TCBStatus: "SWHardeningNeeded", TCBAdvisories: []string{"INTEL-SA-00001"}}, false},
	} {
		raw, err := softtee.NewTDX(nil).Quote([64]byte{1})
		if err != nil {
			t.Fatal(err)
		}
		v, err := tcbVerifier(t, tt.section, tt.platform).Verify(&tsm.Report{Provider: tsm.ProviderTDX, OutBlob: raw})
		var d *policy.Decision
		if err == nil {
			d, err = v.Evaluate()
		}
		if tt.ok && (err != nil || d.Verdict != policy.Warning) || !tt.ok && !errors.Is(err, attestext.ErrPolicy) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestClaimsNameStatusesAndAdvisories(t *testing.T) {
	l := tcbVerifier(t, `"tcb":{"allow_statuses":["OutOfDate"]}`, softtee.CollateralOptions{
		TCBStatus: "SWHardeningNeeded", TCBAdvisories: []string{"INTEL-SA-00001"}, QEStatus: "OutOfDate",
	})
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := attest(t, softtee.NewTDX(nil).Attester(), tsm.FormatCBOR, c)
	a, err := l.Appraise(t.Context(), ev, c)
	if err != nil {
		t.Fatal(err)
	}
	if a.Claims["tcb_status"] != "OutOfDate" || !slices.Equal(a.Claims["advisory_ids"].([]string), []string{"INTEL-SA-00001"}) || a.Claims["tcb_out_of_date_since"] == nil {
		t.Errorf("claims: %v", a.Claims)
	}
	levels := a.Claims["tcb_levels"].(map[string]any)
	if levels["qe"].(map[string]any)["status"] != "OutOfDate" || levels["platform"].(map[string]any)["status"] != "SWHardeningNeeded" || levels["module"] != nil {
		t.Errorf("levels: %v", levels)
	}
	if _, err := json.Marshal(a.Claims); err != nil {
		t.Error(err)
	}
}
