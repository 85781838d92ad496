package tdx_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
)

// anyStatus are options that leave the TCB status to the caller.
func anyStatus(t testing.TB, c softtee.CollateralOptions) *tdx.VerifyOptions {
	t.Helper()
	return &tdx.VerifyOptions{Roots: softtee.Roots(), Collateral: collateral(t, c), AcceptAnyTCBStatus: true, Now: testTime}
}

// versioned is a quote whose TDX module has TCB levels of its own.
func versioned(t testing.TB) *tdx.Quote {
	return parse(t, quote(t, &softtee.TDXOptions{Modify: func(b *tdx.Quote) { b.TeeTcbSvn[1] = 1 }}))
}

// Intel's quote verification library has these tables, and flags are or-ed here.
func TestStatusOfTheWholeIsThatOfItsWorstParts(t *testing.T) {
	const (
		ok      = tdx.TCBUpToDate
		sw      = tdx.TCBSWHardeningNeeded
		conf    = tdx.TCBConfigurationNeeded
		confSW  = tdx.TCBConfigurationAndSWHardeningNeeded
		old     = tdx.TCBOutOfDate
		oldConf = tdx.TCBOutOfDateConfigurationNeeded
		revoked = tdx.TCBRevoked
	)
	for _, c := range []struct{ platform, module, qe, want, before string }{
		{ok, ok, ok, ok, ok},
		{sw, ok, ok, sw, sw},
		{conf, ok, ok, conf, conf},
		{confSW, ok, ok, confSW, confSW},
		{old, ok, ok, old, ok},
		{oldConf, ok, ok, oldConf, conf},
		{revoked, ok, ok, revoked, revoked},
		// The module, as in convergeTcbStatusWithTdxModuleStatus.
		{ok, old, ok, old, ok},
		{sw, old, ok, old, sw},
		{conf, old, ok, oldConf, conf},
		{confSW, old, ok, oldConf, confSW},
		{old, old, ok, old, ok},
		{oldConf, old, ok, oldConf, conf},
		{revoked, old, ok, revoked, revoked},
		{ok, revoked, ok, revoked, revoked},
		{oldConf, revoked, ok, revoked, revoked},
		// The quoting enclave, as in convergeTcbStatusWithQeTcbStatus.
		{ok, ok, old, old, ok},
		{sw, ok, old, old, sw},
		{conf, ok, old, oldConf, conf},
		{confSW, ok, old, oldConf, confSW},
		{oldConf, ok, old, oldConf, conf},
		{revoked, ok, old, revoked, revoked},
		{ok, ok, revoked, revoked, revoked},
		// None makes up for another.
		{ok, conf, sw, confSW, confSW},
		{sw, conf, old, oldConf, confSW},
		{revoked, ok, ok, revoked, revoked},
	} {
		v, err := tdx.Verify(versioned(t), anyStatus(t, softtee.CollateralOptions{TCBStatus: c.platform, ModuleStatus: c.module, QEStatus: c.qe}))
		if c.want == revoked {
			wantClass(t, err, attestext.ErrPolicy)
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", c, err)
			continue
		}
		if got := v.TCB(); got.Status != c.want || v.TCBStatus() != c.want || got.Before != c.before || v.TCBStatusBefore() != c.before ||
			got.Platform.Status != c.platform || got.Module.Status != c.module || got.QE.Status != c.qe {
			t.Errorf("%v: got %+v", c, got)
		}
	}
}

func TestModuleWithoutVersionHasNoLevelOfItsOwn(t *testing.T) {
	v, err := tdx.Verify(another(t, 1), anyStatus(t, softtee.CollateralOptions{ModuleStatus: "Revoked"}))
	if err != nil {
		t.Fatal(err)
	}
	if v.TCB().Module != nil || v.TCBStatus() != tdx.TCBUpToDate {
		t.Errorf("got %+v", v.TCB())
	}
}

func TestOnlyUpToDatePassesUnlessTheCallerDecides(t *testing.T) {
	for _, s := range []string{"SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"} {
		o := anyStatus(t, softtee.CollateralOptions{TCBStatus: s})
		if _, err := tdx.Verify(another(t, 1), o); err != nil {
			t.Errorf("%s: %v", s, err)
		}
		o.AcceptAnyTCBStatus = false
		_, err := tdx.Verify(another(t, 1), o)
		wantClass(t, err, attestext.ErrPolicy)
		if err != nil && !strings.Contains(err.Error(), s) {
			t.Errorf("%s: error %q does not name it", s, err)
		}
		// What is remembered with any status accepted must not pass without.
		o.AcceptAnyTCBStatus = true
		warmed(t, o)
		o.AcceptAnyTCBStatus = false
		if o.Cache.Warm(another(t, 1), o) != nil {
			t.Errorf("%s: accepted by the cache", s)
		}
	}
}

// Whatever the caller leaves to itself, the rest is still checked after go-tdx-guest
// has stopped at the status.
func TestAcceptingAnyStatusAcceptsNothingElse(t *testing.T) {
	old := softtee.CollateralOptions{TCBStatus: "OutOfDate"}
	revoked := old
	revoked.RevokePCK = true
	for _, c := range []struct {
		name  string
		quote *softtee.TDXOptions
		with  softtee.CollateralOptions
		class error
	}{
		{"foreign QE", &softtee.TDXOptions{ForeignQE: true}, old, attestext.ErrSignature},
		{"debug QE", &softtee.TDXOptions{DebugQE: true}, old, attestext.ErrSignature},
		{"other PKI", &softtee.TDXOptions{Seed: "other"}, old, attestext.ErrSignature},
		{"revoked PCK", nil, revoked, attestext.ErrSignature},
		{"foreign module", &softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.MRSIGNERSEAM[0] = 1 }}, old, attestext.ErrSignature},
		{"unknown module", &softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.TeeTcbSvn[1] = 9 }}, old, attestext.ErrPolicy},
		{"below every level", &softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.TeeTcbSvn[2] = 1 }}, old, attestext.ErrPolicy},
		{"QE below every level", nil, softtee.CollateralOptions{QESVN: 5}, attestext.ErrPolicy},
		{"QE below every level, of an old platform", nil, softtee.CollateralOptions{TCBStatus: "OutOfDate", QESVN: 5}, attestext.ErrPolicy},
		{"revoked QE", nil, softtee.CollateralOptions{TCBStatus: "OutOfDate", QEStatus: "Revoked"}, attestext.ErrPolicy},
	} {
		_, err := tdx.Verify(parse(t, quote(t, c.quote)), anyStatus(t, c.with))
		if err == nil {
			t.Errorf("%s: verifies", c.name)
			continue
		}
		wantClass(t, err, c.class)
	}
}

func TestAdvisoriesAreThoseOfAllParts(t *testing.T) {
	v, err := tdx.Verify(versioned(t), anyStatus(t, softtee.CollateralOptions{
		TCBStatus: "SWHardeningNeeded", TCBAdvisories: []string{"INTEL-SA-00002", "INTEL-SA-00001"},
		ModuleAdvisories: []string{"INTEL-SA-00003", "INTEL-SA-00001"}, QEAdvisories: []string{"INTEL-SA-00004"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := v.TCBAdvisories(), []string{"INTEL-SA-00001", "INTEL-SA-00002", "INTEL-SA-00003", "INTEL-SA-00004"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOutOfDateSinceTheNextLevel(t *testing.T) {
	day := func(n int) time.Time { return testTime.AddDate(0, 0, -n) }
	for _, c := range []struct {
		name  string
		opts  softtee.CollateralOptions
		since time.Time
	}{
		{"not out of date", softtee.CollateralOptions{TCBDate: day(100)}, time.Time{}},
		{"no level above", softtee.CollateralOptions{TCBStatus: "OutOfDate", TCBDate: day(100)}, day(100)},
		{"one level above", softtee.CollateralOptions{TCBStatus: "OutOfDate", TCBDate: day(100), NewerTCB: []time.Time{day(30)}}, day(30)},
		{"the first of two", softtee.CollateralOptions{TCBStatus: "OutOfDate", TCBDate: day(100), NewerTCB: []time.Time{day(10), day(60)}}, day(60)},
		{"level above of the same date", softtee.CollateralOptions{TCBStatus: "OutOfDate", TCBDate: day(100), NewerTCB: []time.Time{day(20), day(100)}}, day(20)},
		{"the QE before the platform", softtee.CollateralOptions{TCBStatus: "OutOfDate", QEStatus: "OutOfDate", TCBDate: day(100), NewerTCB: []time.Time{day(30)}}, day(100)},
	} {
		v, err := tdx.Verify(another(t, 1), anyStatus(t, c.opts))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := v.TCB().OutOfDateSince; !got.Equal(c.since) {
			t.Errorf("%s: since %v, want %v", c.name, got, c.since)
		}
		var want time.Duration
		if !c.since.IsZero() {
			want = testTime.Sub(c.since)
		}
		if v.TCBOutOfDateFor() != want {
			t.Errorf("%s: for %v, want %v", c.name, v.TCBOutOfDateFor(), want)
		}
	}
}

// The TCB evaluation here and that of go-tdx-guest are two: what passes the one as
// UpToDate must pass the other, and what one refuses must not pass.
func TestStatusesAgreeWithGoTDXGuest(t *testing.T) {
	statuses := []string{"UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked"}
	q := versioned(t)
	for _, platform := range statuses {
		for _, module := range statuses {
			for _, qe := range []string{"UpToDate", "OutOfDate", "Revoked"} {
				c := collateral(t, softtee.CollateralOptions{TCBStatus: platform, ModuleStatus: module, QEStatus: qe})
				_, err := tdx.Verify(q, &tdx.VerifyOptions{Roots: softtee.Roots(), Collateral: c, Now: testTime})
				if want := libraryVerdict(t, q, c); (err == nil) != (want == nil) {
					t.Errorf("%s, %s, %s: %v here, %v there", platform, module, qe, err, want)
				}
			}
		}
	}
}

func TestLevelWithoutStatusOrDateIsMalformed(t *testing.T) {
	_, err := softtee.NewTDX(nil).Collateral(&softtee.CollateralOptions{Now: testTime, TCBStatus: "Splendid"})
	wantClass(t, err, attestext.ErrMalformed)
}
