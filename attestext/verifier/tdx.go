package verifier

import (
	"encoding/hex"
	"errors"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/eventlog"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
)

// tdxMachineScheme begins the identity of a TDX platform: the platform instance ID of its
// certificate follows in hexadecimal. A platform without one has none.
const tdxMachineScheme = "tdx-platform:"

var errNoTDXRoots = errors.New("no roots for TDX are trusted, while there are some for another TEE")

func (l *Local) verifyTDX(r *tsm.Report, now time.Time) (*Verified, error) {
	q, err := tdx.Parse(r.OutBlob)
	if err != nil {
		return nil, err
	}
	var log *eventlog.Log
	if len(r.AuxBlob) != 0 {
		if log, err = eventlog.Parse(r.AuxBlob); err != nil {
			return nil, err
		}
	}
	if l.TDXRoots == nil && (l.SNPRoots != nil || l.trustsOthers()) {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opAppraise, Err: errNoTDXRoots}
	}
	v, err := l.verifyQuote(q, now)
	if err != nil {
		return nil, err
	}
	e := &Verified{ReportData: v.ReportData(), claims: tdxClaims(v)}
	var c policy.TDX = v
	e.evaluate = func() (*policy.Decision, error) {
		d, _ := l.Policy.EvaluateTDX(c)
		return d, l.Policy.EvaluateTDXCollateral(d, v.CollateralIssued(), now)
	}
	if log != nil {
		if err := log.Check(v.RTMRs()); err != nil {
			return nil, err
		}
		events := log.Digests()
		e.claims["event_log"] = []int{len(events[0]), len(events[1]), len(events[2]), len(events[3])}
		c = &loggedTDX{v, events}
	}
	if id := v.PlatformInstanceID(); len(id) != 0 {
		e.machine = tdxMachineScheme + hex.EncodeToString(id)
	}
	return e, nil
}

// loggedTDX is a quote and the events that an event log adds to it.
type loggedTDX struct {
	*tdx.Verified
	events [tdx.RTMRCount][][tdx.MeasurementSize]byte
}

// Events implements [policy.TDXEvents].
func (l *loggedTDX) Events() [tdx.RTMRCount][][tdx.MeasurementSize]byte { return l.events }

// tdxClaims names what a quote says. Measurements are in hexadecimal.
func tdxClaims(v *tdx.Verified) map[string]any {
	q := v.Quote()
	rtmrs := make([]string, tdx.RTMRCount)
	for i, m := range q.RTMRs {
		rtmrs[i] = hex.EncodeToString(m[:])
	}
	status := v.TCBStatus()
	if status == "" {
		status = "not checked"
	}
	claims := map[string]any{
		"tee":                "tdx",
		"mrtd":               hex.EncodeToString(q.MRTD[:]),
		"rtmrs":              rtmrs,
		"mrseam":             hex.EncodeToString(q.MRSEAM[:]),
		"mrconfigid":         hex.EncodeToString(q.MRConfigID[:]),
		"mrowner":            hex.EncodeToString(q.MROwner[:]),
		"mrownerconfig":      hex.EncodeToString(q.MROwnerConfig[:]),
		"td_attributes":      hex.EncodeToString(q.TdAttributes[:]),
		"xfam":               hex.EncodeToString(q.XFAM[:]),
		"tee_tcb_svn":        hex.EncodeToString(q.TeeTcbSvn[:]),
		"debug":              q.Debug(),
		"fmspc":              v.FMSPC(),
		"tcb_status":         status,
		"collateral_checked": v.CollateralChecked(),
	}
	addTCBClaims(claims, v.TCB())
	return claims
}

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
