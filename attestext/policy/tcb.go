package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A TDXTCBPolicy says which TCB statuses of TDX platforms are acceptable, in the words
// of Intel's TCB info, and which advisories. nil accepts UpToDate alone, and
// compares no advisory. Revoked is never accepted.
type TDXTCBPolicy struct {
	// AllowStatuses are the acceptable statuses; nil means UpToDate alone. Of what is
	// listed, UpToDate is "affirming" and everything else "warning". OutOfDate on
	// this list is accepted however long ago that came.
	AllowStatuses []TCBStatus `json:"allow_statuses,omitempty"`

	// OutOfDateGrace is how long a platform that is out of date is still taken for what
	// it was before: OutOfDate for UpToDate, and OutOfDateConfigurationNeeded for
	// ConfigurationNeeded, each with SW hardening where one of platform, TDX module and
	// quoting enclave needs that; the status must then be acceptable. The time runs from
	// the tcbDate of the next TCB level, the earliest that is later than that of the
	// platform's own level among the levels above it, to the time of verification;
	// where there is none, from the tcbDate of the platform's own level. Where
	// several of platform, TDX module and quoting enclave are out of date, the
	// earliest counts. The end is included. Zero is no grace.
	OutOfDateGrace Duration `json:"out_of_date_grace,omitempty"`

	// AllowAdvisories are the advisories that may apply to the platform, whatever its
	// status: any other is refused. nil does not compare them.
	AllowAdvisories []string `json:"allow_advisories,omitempty"`

	// DenyAdvisories are advisories that must not apply to it.
	DenyAdvisories []string `json:"deny_advisories,omitempty"`
}

// A TCBStatus is one of Intel's statuses of a TCB level.
type TCBStatus string

// The statuses that a policy may allow.
const (
	UpToDate                          TCBStatus = "UpToDate"
	SWHardeningNeeded                 TCBStatus = "SWHardeningNeeded"
	ConfigurationNeeded               TCBStatus = "ConfigurationNeeded"
	ConfigurationAndSWHardeningNeeded TCBStatus = "ConfigurationAndSWHardeningNeeded"
	OutOfDate                         TCBStatus = "OutOfDate"
	OutOfDateConfigurationNeeded      TCBStatus = "OutOfDateConfigurationNeeded"
)

var tcbStatuses = []TCBStatus{UpToDate, SWHardeningNeeded, ConfigurationNeeded, ConfigurationAndSWHardeningNeeded, OutOfDate, OutOfDateConfigurationNeeded}

// check reports what is more likely a mistake than a wish.
func (t *TDXTCBPolicy) check() error {
	if t == nil {
		return nil
	}
	switch {
	case empty(t.AllowStatuses):
		return errors.New("tdx: tcb: allow_statuses is empty, which accepts nothing; leave it out for UpToDate alone")
	case empty(t.AllowAdvisories), empty(t.DenyAdvisories):
		return errors.New("tdx: tcb: a list of advisories is empty; leave it out not to compare")
	case t.OutOfDateGrace < 0:
		return errors.New("tdx: tcb: out_of_date_grace is negative")
	}
	for _, s := range t.AllowStatuses {
		switch {
		case s == "Revoked":
			return errors.New("tdx: tcb: allow_statuses has \"Revoked\", which is never accepted")
		case !slices.Contains(tcbStatuses, s):
			return fmt.Errorf("tdx: tcb: allow_statuses has %q, and there is no such status", s)
		}
	}
	for _, a := range t.DenyAdvisories {
		if slices.ContainsFunc(t.AllowAdvisories, func(b string) bool { return strings.EqualFold(a, b) }) {
			return fmt.Errorf("tdx: tcb: advisory %q is both allowed and denied", a)
		}
	}
	return nil
}

// TDXTCB is what a policy reads of a TDX quote beside [TDX] where its TCB status is not
// UpToDate or the policy compares advisories. Evidence that does not have it is
// refused then.
type TDXTCB interface {
	// TCBAdvisories are the identifiers of what affects the platform.
	TCBAdvisories() []string
	// TCBOutOfDateFor is how long the platform has been out of date, as
	// [TDXTCBPolicy.OutOfDateGrace] counts it; zero where it is not.
	TCBOutOfDateFor() time.Duration
	// TCBStatusBefore is what the TCB status would be if nothing were out of date.
	TCBStatusBefore() string
}

// tdxTCB compares the TCB status of c, whose collateral was checked, and advisories.
func (d *Decision) tdxTCB(t *TDXTCBPolicy, c TDX) {
	if t == nil {
		t = &TDXTCBPolicy{}
	}
	allowed := t.AllowStatuses
	if allowed == nil {
		allowed = []TCBStatus{UpToDate}
	}
	more, known := c.(TDXTCB)
	d.tcbStatus(t, allowed, TCBStatus(c.TCBStatus()), more)
	if t.AllowAdvisories == nil && t.DenyAdvisories == nil {
		return
	}
	const claim = "advisory_ids"
	if !known {
		d.add(Contraindicated, claim, "advisories are not known, and the policy compares them")
		return
	}
	for _, a := range more.TCBAdvisories() {
		is := func(b string) bool { return strings.EqualFold(a, b) }
		switch {
		case slices.ContainsFunc(t.DenyAdvisories, is):
			d.add(Contraindicated, claim, "%s applies to the platform, and is denied", a)
			return
		case t.AllowAdvisories != nil && !slices.ContainsFunc(t.AllowAdvisories, is):
			d.add(Contraindicated, claim, "%s applies to the platform, want none but %d that are allowed", a, len(t.AllowAdvisories))
			return
		}
	}
	d.add(Affirming, claim, "%d apply to the platform, all of them acceptable", len(more.TCBAdvisories()))
}

func (d *Decision) tcbStatus(t *TDXTCBPolicy, allowed []TCBStatus, status TCBStatus, more TDXTCB) {
	const claim = "tcb_status"
	// Revoked is on no list, unless somebody has made one by hand.
	known := slices.Contains(tcbStatuses, status)
	switch {
	case known && slices.Contains(allowed, status) && status == UpToDate:
		d.add(Affirming, claim, "UpToDate, no certificate revoked")
		return
	case known && slices.Contains(allowed, status):
		d.add(Warning, claim, "%s, which the policy allows%s", status, applying(more))
		return
	}
	outOfDate := status == OutOfDate || status == OutOfDateConfigurationNeeded
	// The status does not tell what it was: it is OutOfDate for UpToDate and for
	// SWHardeningNeeded alike.
	if grace := time.Duration(t.OutOfDateGrace); outOfDate && grace > 0 && more != nil && slices.Contains(allowed, TCBStatus(more.TCBStatusBefore())) {
		since := more.TCBOutOfDateFor()
		if since <= grace {
			d.add(Warning, claim, "%s for %v, which is within the grace of %v%s", status, since, grace, applying(more))
			return
		}
		d.add(Contraindicated, claim, "%s for %v, want at most %v%s", status, since, grace, applying(more))
		return
	}
	if len(allowed) == 1 {
		d.add(Contraindicated, claim, "got %q, want %q%s", status, allowed[0], applying(more))
		return
	}
	d.add(Contraindicated, claim, "got %q, want one of %q%s", status, allowed, applying(more))
}

// applying names the advisories of a platform that is not UpToDate.
func applying(more TDXTCB) string {
	if more == nil || len(more.TCBAdvisories()) == 0 {
		return ""
	}
	return "; advisories " + strings.Join(more.TCBAdvisories(), ", ")
}
