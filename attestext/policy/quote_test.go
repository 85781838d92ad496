package policy_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
)

func TestAgeOfCollateralIsBounded(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	week := policy.Duration(7 * 24 * time.Hour)
	for _, tt := range []struct {
		name   string
		most   policy.Duration
		issued time.Time
		say    string // of a refusal
	}{
		{"no bound", 0, time.Time{}, ""},
		{"young", week, now.Add(-time.Hour), ""},
		{"at the bound", week, now.Add(-time.Duration(week)), ""},
		{"old", week, now.Add(-time.Duration(week) - time.Second), "want 168h0m0s at most: renew it"},
		{"none", week, time.Time{}, "there was no collateral"},
	} {
		p := &policy.Policy{TDX: &policy.TDXPolicy{MRTD: []policy.Measurement{{1}}, MaxCollateralAge: tt.most}, SNP: &policy.SNPPolicy{MaxCollateralAge: tt.most}}
		for tee, evaluate := range map[string]func() (*policy.Decision, error){
			"TDX": func() (*policy.Decision, error) {
				d, _ := p.EvaluateTDX(genuine())
				return d, p.EvaluateTDXCollateral(d, tt.issued, now)
			},
			"SNP": func() (*policy.Decision, error) {
				d, _ := p.EvaluateSNP(genuineSNP())
				return d, p.EvaluateSNPCollateral(d, tt.issued, now)
			},
		} {
			d, err := evaluate()
			checkVector(t, d)
			if (err != nil) != (tt.say != "") || err != nil && (!errors.Is(err, attestext.ErrPolicy) || !strings.Contains(err.Error(), "max_collateral_age: ") || !strings.Contains(err.Error(), tt.say)) {
				t.Errorf("%s, %s: %v", tt.name, tee, err)
			}
		}
	}
	d, _ := (*policy.Policy)(nil).EvaluateTDX(genuine())
	if err := (*policy.Policy)(nil).EvaluateTDXCollateral(d, time.Time{}, now); err != nil {
		t.Error(err)
	}
	if err := (*policy.Policy)(nil).EvaluateSNPCollateral(d, time.Time{}, now); err != nil {
		t.Error(err)
	}
}

func TestAgeOfAQuoteIsBounded(t *testing.T) {
	const hour = policy.Duration(time.Hour)
	for _, tt := range []struct {
		name  string
		most  policy.Duration
		quote policy.Quote
		ok    bool
	}{
		{"fresh", 0, policy.Quote{}, true},
		{"key tier, as young as can be, no bound", 0, policy.Quote{Tier: policy.KeyTier}, false},
		{"key tier, no bound", 0, policy.Quote{Tier: policy.KeyTier, Age: time.Second}, false},
		{"key tier, at the bound", hour, policy.Quote{Tier: policy.KeyTier, Age: time.Hour}, true},
		{"key tier, past the bound", hour, policy.Quote{Tier: policy.KeyTier, Age: time.Hour + 1}, false},
		{"key tier, unproven", hour, policy.Quote{Tier: policy.KeyTier, Unproven: "nobody says so"}, false},
		{"key tier, unproven, under the draft's rule", 0, policy.Quote{Tier: policy.KeyTier, Unproven: "nobody says so", DraftRule: true}, false},
		{"unknown", hour, policy.Quote{Tier: policy.UnknownTier}, false},
		{"unknown, under the draft's rule", 0, policy.Quote{Tier: policy.UnknownTier, DraftRule: true}, true},
		{"unknown, under the draft's rule, and a bound", hour, policy.Quote{Tier: policy.UnknownTier, DraftRule: true}, false},
		{"of no tier that there is", hour, policy.Quote{Tier: policy.UnknownTier + 1}, false},
	} {
		p := &policy.Policy{TDX: &policy.TDXPolicy{MRTD: []policy.Measurement{genuine().MRTD()}}, MaxQuoteAge: tt.most}
		d, _ := p.EvaluateTDX(genuine())
		if err := p.EvaluateQuote(d, tt.quote); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestStaleIsTheAgeOfTheQuoteAlone: what is refused for more would not pass if it were
// fresh.
func TestStaleIsTheAgeOfTheQuoteAlone(t *testing.T) {
	p := &policy.Policy{TDX: &policy.TDXPolicy{MRTD: []policy.Measurement{genuine().MRTD()}}}
	other := &policy.Policy{TDX: &policy.TDXPolicy{MRTD: []policy.Measurement{{2}}}}
	for _, tt := range []struct {
		name  string
		p     *policy.Policy
		quote policy.Quote
		stale bool
	}{
		{"old", p, policy.Quote{Tier: policy.KeyTier, Age: time.Hour}, true},
		{"of unknown age", p, policy.Quote{Tier: policy.UnknownTier}, true},
		{"old, of another measurement", other, policy.Quote{Tier: policy.KeyTier, Age: time.Hour}, false},
		{"fresh, of another measurement", other, policy.Quote{Tier: policy.FreshQuote}, false},
	} {
		d, _ := tt.p.EvaluateTDX(genuine())
		err := tt.p.EvaluateQuote(d, tt.quote)
		if !errors.Is(err, attestext.ErrPolicy) || errors.Is(err, attestext.ErrStale) != tt.stale {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestDurations(t *testing.T) {
	for _, s := range []string{`""`, `"0s"`, `"-1h"`, `"1"`, `"1 day"`, `60`, `null`} {
		if _, err := policy.Parse([]byte(`{"tdx":{},"max_quote_age":` + s + `}`)); err == nil {
			t.Errorf("%s accepted", s)
		}
	}
	p, err := policy.Parse([]byte(`{"tdx":{},"max_quote_age":"90m"}`))
	if err != nil || p.MaxQuoteAge != policy.Duration(90*time.Minute) || p.MaxQuoteAge.String() != "1h30m0s" {
		t.Errorf("%+v, %v", p, err)
	}
}
