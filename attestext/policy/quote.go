package policy

import (
	"errors"
	"fmt"
	"time"
)

// A Duration is a length of time; in JSON, text as [time.ParseDuration] reads it, for
// example "90s" or "12h".
type Duration time.Duration

// UnmarshalText reads a duration of more than zero.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return errors.New("not a duration, such as \"90s\" or \"12h\"")
	}
	if v <= 0 {
		return fmt.Errorf("a duration of %v, want more than zero", v)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes d as [time.Duration.String] does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// String returns d as [time.Duration.String] does.
func (d Duration) String() string { return time.Duration(d).String() }

// A Tier says how the platform's quote in Evidence relates to the session.
type Tier uint8

const (
	// FreshQuote: the quote was made for this session.
	FreshQuote Tier = iota
	// KeyTier: the quote is about a key, which attests session after session until the
	// next quote.
	KeyTier
	// UnknownTier: the quote is about a key, and does not show whether it was made for
	// this session. The draft's bundles are like that.
	UnknownTier
)

// String returns "fresh quote", "key tier" or "unknown".
func (t Tier) String() string {
	switch t {
	case FreshQuote:
		return "fresh quote"
	case KeyTier:
		return "key tier"
	case UnknownTier:
		return "unknown"
	}
	return fmt.Sprintf("tier(%d)", uint8(t))
}

// A Quote is what is known of when the platform's quote was made.
type Quote struct {
	Tier Tier
	// Age is how old the quote is at most, of KeyTier. It is what somebody shows whom
	// the relying party trusts with the time, and never what the attester says itself.
	Age time.Duration
	// Unproven says why Age is not known, of KeyTier; empty where it is.
	Unproven string
	// DraftRule says that the rule of draft-08 is followed, under which a quote does not
	// show its age and UnknownTier is what there can be.
	DraftRule bool
}

// Claims of the reasons about ages.
const (
	claimQuoteAge   = "quote_age"
	claimCollateral = "max_collateral_age"
)

// EvaluateTDXCollateral adds to d, a decision of p on a TDX quote, what p makes of
// collateral that was issued at issued, at the time now; issued is zero where there was
// none. EvaluateSNPCollateral does the same for an SEV-SNP report. The error is that of
// [Decision.Err], of all of d.
func (p *Policy) EvaluateTDXCollateral(d *Decision, issued, now time.Time) error {
	if p != nil && p.TDX != nil {
		d.collateral(p.TDX.MaxCollateralAge, issued, now)
	}
	return d.Err()
}

// EvaluateSNPCollateral is described at EvaluateTDXCollateral.
func (p *Policy) EvaluateSNPCollateral(d *Decision, issued, now time.Time) error {
	if p != nil && p.SNP != nil {
		d.collateral(p.SNP.MaxCollateralAge, issued, now)
	}
	return d.Err()
}

func (d *Decision) collateral(most Duration, issued, now time.Time) {
	switch age := now.Sub(issued); {
	case most == 0:
	case issued.IsZero():
		d.add(Contraindicated, claimCollateral, "there was no collateral, want some of %v at most", most)
	case age > time.Duration(most):
		d.add(Contraindicated, claimCollateral, "collateral was issued %v ago, want %v at most: renew it", age.Round(time.Second), most)
	default:
		d.add(Affirming, claimCollateral, "issued at %v", issued.UTC().Format(time.RFC3339))
	}
}

// EvaluateQuote adds to d, a decision of p, what p makes of the age of the quote. The
// error is that of [Decision.Err], of all of d. Without MaxQuoteAge only a fresh quote
// is acceptable, or under the rule of the draft one of unknown age.
func (p *Policy) EvaluateQuote(d *Decision, q Quote) error {
	most, allowUnknown := Duration(0), false
	if p != nil {
		most, allowUnknown = p.MaxQuoteAge, p.InsecureAllowUnknownQuoteAge
	}
	unknown := func(why string) {
		if allowUnknown {
			d.add(Warning, claimQuoteAge, "%s, which the policy allows", why)
			return
		}
		d.add(Contraindicated, claimQuoteAge, "%s, want a quote that shows its age", why)
	}
	switch {
	case q.Tier == FreshQuote:
		d.add(Affirming, claimQuoteAge, "the quote was made for this session")
	case q.Tier == KeyTier && q.Unproven != "":
		unknown("key tier, and " + q.Unproven)
	case q.Tier == KeyTier && most == 0:
		d.add(Contraindicated, claimQuoteAge, "got a quote of %v at most, of the key tier, want one made for this session, or max_quote_age in the policy", q.Age)
	case q.Tier == KeyTier && q.Age > time.Duration(most):
		d.add(Contraindicated, claimQuoteAge, "got a quote of %v at most, want %v at most", q.Age, most)
	case q.Tier == KeyTier:
		d.add(Affirming, claimQuoteAge, "%v at most, of the key tier, and %v are allowed", q.Age, most)
	case q.DraftRule && most == 0:
		// Whoever asks for the draft's rule gets what it guarantees. The age is in the
		// claims, as unknown.
	default:
		unknown("the quote does not show when it was made")
	}
	return d.Err()
}
