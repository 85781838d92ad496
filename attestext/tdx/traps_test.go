package tdx_test

import (
	"crypto/x509"
	"errors"
	"net/http"
	"reflect"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/google/go-tdx-guest/abi"
	pb "github.com/google/go-tdx-guest/proto/tdx"
	"github.com/google/go-tdx-guest/validate"
	"github.com/google/go-tdx-guest/verify"
)

// Tests whose names begin with TestTrap hold what go-tdx-guest does that a user would
// not expect, and what is done about it. Where they can, they show the former too, so
// that a new version of the module that behaves otherwise is noticed.

func message(t testing.TB, raw []byte) *pb.QuoteV4 {
	t.Helper()
	m, err := abi.QuoteToProto(raw)
	if err != nil {
		t.Fatal(err)
	}
	return m.(*pb.QuoteV4)
}

// From v0.3.2 on, the status of the TDX module replaces the platform's. Whatever the
// module's is and whatever the caller and the policy allow, a platform that Intel has
// revoked does not pass, cold or warm.
func TestTrapModuleStatusReplacesThePlatforms(t *testing.T) {
	q := versioned(t)
	for _, module := range []string{"UpToDate", "OutOfDate", "SWHardeningNeeded", "Revoked"} {
		for _, c := range []softtee.CollateralOptions{{TCBStatus: "Revoked", ModuleStatus: module}, {QEStatus: "Revoked", ModuleStatus: module}} {
			o := anyStatus(t, c)
			o.Cache = tdx.NewCache(0)
			for range 2 {
				_, err := tdx.Verify(q, o)
				wantClass(t, err, attestext.ErrPolicy)
			}
			if libraryVerdict(t, q, o.Collateral) == nil {
				t.Error("go-tdx-guest accepts it: this is not the version to use")
			}
		}
	}
}

// nil roots fall back on Intel's, which are therefore always named; a pool that is
// empty must not.
func TestTrapNilRootsFallBack(t *testing.T) {
	o := &verify.Options{Now: intelTime}
	if err := verify.TdxQuote(message(t, intelQuote(t)), o); err != nil {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
	_, err := tdx.Verify(parse(t, intelQuote(t)), &tdx.VerifyOptions{Roots: x509.NewCertPool(), InsecureSkipCollateral: true, Now: intelTime})
	wantClass(t, err, attestext.ErrUnavailable)
}

// An empty slice means "not checked" to go-tdx-guest's validation, which is why
// measurements are compared in package policy: a list without entries accepts nothing.
func TestTrapEmptySliceIsUnchecked(t *testing.T) {
	raw := quote(t, nil)
	o := &validate.Options{TdQuoteBodyOptions: validate.TdQuoteBodyOptions{MrTd: []byte{}, ReportData: []byte{}}}
	if err := validate.TdxQuote(message(t, raw), o); err != nil {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
	v, err := tdx.Verify(parse(t, raw), options(t))
	if err != nil {
		t.Fatal(err)
	}
	p := &policy.Policy{TDX: &policy.TDXPolicy{MRTD: []policy.Measurement{}}}
	if _, err := p.EvaluateTDX(v); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("an empty list accepts a measurement: %v", err)
	}
}

// Options are written to: what verify keeps in them would be shared by two calls.
func TestTrapOptionsKeepState(t *testing.T) {
	o := &verify.Options{TrustedRoots: softtee.Roots(), Now: testTime}
	before := *o
	if err := verify.TdxQuote(message(t, quote(t, nil)), o); err != nil {
		t.Fatal(err)
	}
	if reflect.DeepEqual(before, *o) {
		t.Error("the trap is gone, or the test is")
	}
	mine := options(t)
	kept := *mine
	if _, err := tdx.Verify(another(t, 1), mine); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(kept, *mine) {
		t.Error("Verify has written to its options")
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Without a Getter go-tdx-guest fetches collateral from Intel by itself.
func TestTrapNothingIsFetched(t *testing.T) {
	oldClient, oldTransport := http.DefaultClient.Transport, http.DefaultTransport
	defer func() { http.DefaultClient.Transport, http.DefaultTransport = oldClient, oldTransport }()
	refuse := roundTrip(func(r *http.Request) (*http.Response, error) {
		t.Errorf("%s is fetched", r.URL)
		return nil, errors.New("no network here")
	})
	http.DefaultClient.Transport, http.DefaultTransport = refuse, refuse
	for _, o := range []*tdx.VerifyOptions{
		options(t),
		{Roots: softtee.Roots(), InsecureSkipCollateral: true, Now: testTime},
		{Roots: softtee.Roots(), Now: testTime},
		anyStatus(t, softtee.CollateralOptions{FMSPC: &[6]byte{1}}),
		anyStatus(t, softtee.CollateralOptions{TCBStatus: "OutOfDate"}),
	} {
		_, _ = tdx.Verify(another(t, 1), o)
	}
}
