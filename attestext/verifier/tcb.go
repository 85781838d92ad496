package verifier

import (
	"maps"
	"time"

	"github.com/attestedtls/atls/attestext/tdx"
)

// addTCBClaims names what collateral says of a TDX platform, beside "tcb_status":
// advisories, and the level of each part.
func addTCBClaims(claims map[string]any, t *tdx.TCB) {
	if t == nil {
		return
	}
	advisories := t.Advisories
	if advisories == nil {
		advisories = []string{}
	}
	claims["advisory_ids"] = advisories
	level := func(l *tdx.TCBLevel) map[string]any {
		return map[string]any{"status": l.Status, "date": l.Date.UTC().Format(time.DateOnly)}
	}
	levels := map[string]any{"platform": level(&t.Platform), "qe": level(&t.QE)}
	if t.Module != nil {
		levels["module"] = level(t.Module)
	}
	claims["tcb_levels"] = levels
	if !t.OutOfDateSince.IsZero() {
		claims["tcb_out_of_date_since"] = t.OutOfDateSince.UTC().Format(time.RFC3339)
	}
}

// Claims returns what the evidence says, as in the Claims of an Appraisal.
func (v *Verified) Claims() map[string]any { return maps.Clone(v.claims) }
