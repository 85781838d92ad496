package policy_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
)

// tcbClaims are those of a TD whose TCB has a history.
type tcbClaims struct {
	*claims
	advisories []string
	outOfDate  time.Duration
	before     string
}

func (c *tcbClaims) TCBStatusBefore() string        { return c.before }
func (c *tcbClaims) TCBAdvisories() []string        { return c.advisories }
func (c *tcbClaims) TCBOutOfDateFor() time.Duration { return c.outOfDate }

func tcbReason(d *policy.Decision, claim string) policy.Reason {
	i := slices.IndexFunc(d.Reasons, func(r policy.Reason) bool { return r.Claim == claim })
	if i < 0 {
		return policy.Reason{}
	}
	return d.Reasons[i]
}

func TestTCBPolicy(t *testing.T) {
	const (
		ok   = policy.Affirming
		warn = policy.Warning
		no   = policy.Contraindicated
		day  = 24 * time.Hour
	)
	sa := func(ids ...string) []string { return ids }
	for _, tt := range []struct {
		name       string
		tcb        string // "" is no section
		status     string // perhaps for what was before
		advisories []string
		outOfDate  time.Duration
		want       policy.Verdict
	}{
		{"default, UpToDate", ``, "UpToDate", nil, 0, ok},
		{"default, SWHardeningNeeded", ``, "SWHardeningNeeded", nil, 0, no},
		{"default, ConfigurationNeeded", ``, "ConfigurationNeeded", nil, 0, no},
		{"default, OutOfDate", ``, "OutOfDate", nil, 0, no},
		{"default, Revoked", ``, "Revoked", nil, 0, no},
		{"default, unknown", ``, "Splendid", nil, 0, no},
		{"empty section", `{}`, "OutOfDate", nil, 0, no},
		{"empty section, UpToDate", `{}`, "UpToDate", nil, 0, ok},
		{"allowed", `{"allow_statuses":["UpToDate","SWHardeningNeeded"]}`, "SWHardeningNeeded", nil, 0, warn},
		{"another is allowed", `{"allow_statuses":["UpToDate","SWHardeningNeeded"]}`, "ConfigurationNeeded", nil, 0, no},
		{"UpToDate is not listed", `{"allow_statuses":["SWHardeningNeeded"]}`, "UpToDate", nil, 0, no},
		{"OutOfDate for ever", `{"allow_statuses":["UpToDate","OutOfDate"]}`, "OutOfDate", nil, 9999 * day, warn},
		{"within grace", `{"out_of_date_grace":"720h"}`, "OutOfDate for UpToDate", nil, 29 * day, warn},
		{"at the end of grace", `{"out_of_date_grace":"720h"}`, "OutOfDate for UpToDate", nil, 30 * day, warn},
		{"past grace", `{"out_of_date_grace":"720h"}`, "OutOfDate for UpToDate", nil, 30*day + 1, no},
		{"grace is not for the configuration", `{"out_of_date_grace":"720h"}`, "OutOfDateConfigurationNeeded for ConfigurationNeeded", nil, day, no},
		{"grace and configuration", `{"allow_statuses":["UpToDate","ConfigurationNeeded"],"out_of_date_grace":"720h"}`, "OutOfDateConfigurationNeeded for ConfigurationNeeded", nil, day, warn},
		{"grace is not for software", `{"out_of_date_grace":"720h"}`, "OutOfDate for SWHardeningNeeded", nil, day, no},
		{"grace and software", `{"allow_statuses":["SWHardeningNeeded"],"out_of_date_grace":"720h"}`, "OutOfDate for SWHardeningNeeded", nil, day, warn},
		{"grace and configuration, not software", `{"allow_statuses":["UpToDate","ConfigurationNeeded"],"out_of_date_grace":"720h"}`, "OutOfDateConfigurationNeeded for ConfigurationAndSWHardeningNeeded", nil, day, no},
		{"grace for what nobody knows", `{"out_of_date_grace":"720h"}`, "OutOfDate", nil, day, no},
		{"grace is not for Revoked", `{"out_of_date_grace":"720h"}`, "Revoked", nil, 0, no},
		{"advisory denied", `{"deny_advisories":["INTEL-SA-00001"]}`, "UpToDate", sa("INTEL-SA-00002", "intel-sa-00001"), 0, no},
		{"advisory not denied", `{"deny_advisories":["INTEL-SA-00001"]}`, "UpToDate", sa("INTEL-SA-00002"), 0, ok},
		{"advisory allowed", `{"allow_statuses":["SWHardeningNeeded"],"allow_advisories":["INTEL-SA-00001"]}`, "SWHardeningNeeded", sa("INTEL-SA-00001"), 0, warn},
		{"advisory not allowed", `{"allow_statuses":["SWHardeningNeeded"],"allow_advisories":["INTEL-SA-00001"]}`, "SWHardeningNeeded", sa("INTEL-SA-00001", "INTEL-SA-00002"), 0, no},
		{"no advisory, some allowed", `{"allow_advisories":["INTEL-SA-00001"]}`, "UpToDate", nil, 0, ok},
		{"an allowed advisory allows no status", `{"allow_advisories":["INTEL-SA-00001"]}`, "SWHardeningNeeded", sa("INTEL-SA-00001"), 0, no},
	} {
		t.Run(tt.name, func(t *testing.T) {
			section := ""
			if tt.tcb != "" {
				section = `,"tcb":` + tt.tcb
			}
			p, err := policy.Parse([]byte(`{"tdx":{"mrtd":["` + strings.Repeat("00", 48) + `"]` + section + `}}`))
			if err != nil {
				t.Fatal(err)
			}
			base := genuine()
			p.TDX.MRTD = []policy.Measurement{base.mrtd}
			status, before, _ := strings.Cut(tt.status, " for ")
			base.status = status
			d, err := p.EvaluateTDX(&tcbClaims{base, tt.advisories, tt.outOfDate, before})
			if d.Verdict != tt.want || errors.Is(err, attestext.ErrPolicy) != (tt.want == no) {
				t.Errorf("%v, %v: %v", d.Verdict, err, d.Reasons)
			}
			if r := tcbReason(d, "tcb_status"); r.Text == "" {
				t.Error("no reason for the status")
			}
		})
	}
}

func TestRevokedIsRefusedEvenByAPolicyMadeByHand(t *testing.T) {
	c := genuine()
	c.status = "Revoked"
	p := &policy.Policy{TDX: &policy.TDXPolicy{TCB: &policy.TDXTCBPolicy{AllowStatuses: []policy.TCBStatus{"Revoked", "UpToDate"}}}}
	if _, err := p.EvaluateTDX(c); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("got %v", err)
	}
}

// Evidence that cannot tell its advisories or how long it has been out of date gets
// neither the grace nor past a list.
func TestUnknownHistoryIsRefusedWhereItMatters(t *testing.T) {
	c := genuine()
	p := &policy.Policy{TDX: &policy.TDXPolicy{TCB: &policy.TDXTCBPolicy{DenyAdvisories: []string{"INTEL-SA-00001"}}}}
	if _, err := p.EvaluateTDX(c); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("advisories: %v", err)
	}
	c.status = "OutOfDate"
	p.TDX.TCB = &policy.TDXTCBPolicy{OutOfDateGrace: policy.Duration(time.Hour)}
	if _, err := p.EvaluateTDX(c); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("grace: %v", err)
	}
}

func TestTCBPolicyMistakesAreRefused(t *testing.T) {
	for _, s := range []string{
		`{"allow_statuses":[]}`, `{"allow_statuses":["Revoked"]}`, `{"allow_statuses":["uptodate"]}`, `{"allow_statuses":[""]}`,
		`{"out_of_date_grace":"-1h"}`, `{"out_of_date_grace":"30 days"}`, `{"out_of_date_grace":30}`,
		`{"allow_advisories":[]}`, `{"deny_advisories":[]}`, `{"allow_advisories":["A"],"deny_advisories":["a"]}`, `{"surprise":1}`,
	} {
		if _, err := policy.Parse([]byte(`{"tdx":{"tcb":` + s + `}}`)); err == nil {
			t.Errorf("%s is accepted", s)
		}
	}
}
