package tdx_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

// another returns a quote of the default platform over other report data.
func another(t testing.TB, n byte) *tdx.Quote {
	t.Helper()
	raw, err := softtee.NewTDX(nil).Quote([64]byte{n})
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, raw)
}

// warmed returns options with a cache that remembers the default platform.
func warmed(t testing.TB, o *tdx.VerifyOptions) *tdx.VerifyOptions {
	t.Helper()
	o.Cache = tdx.NewCache(0)
	if _, err := tdx.Verify(another(t, 100), o); err != nil {
		t.Fatal(err)
	}
	return o
}

func wantStats(t testing.TB, c *tdx.Cache, hits, misses uint64) {
	t.Helper()
	if h, m := c.Stats(); h != hits || m != misses {
		t.Errorf("%d hits and %d misses, want %d and %d", h, m, hits, misses)
	}
}

func TestSecondQuoteOfAPlatformIsVerifiedByTheCache(t *testing.T) {
	for name, o := range map[string]*tdx.VerifyOptions{
		"collateral":    options(t),
		"no collateral": {Roots: softtee.Roots(), InsecureSkipCollateral: true, Now: testTime},
	} {
		cold := *o
		warm := warmed(t, o)
		want, err := tdx.Verify(another(t, 1), &cold)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tdx.Verify(another(t, 1), warm)
		if err != nil {
			t.Fatal(err)
		}
		wantStats(t, warm.Cache, 1, 1)
		if fmt.Sprintf("%+v %+v", got.Quote(), got.TCB()) != fmt.Sprintf("%+v %+v", want.Quote(), want.TCB()) ||
			got.FMSPC() != want.FMSPC() || !bytes.Equal(got.PlatformInstanceID(), want.PlatformInstanceID()) ||
			got.CollateralChecked() != want.CollateralChecked() {
			t.Errorf("%s: warm and cold differ", name)
		}
	}
}

// Each byte of a quote is changed in turn. The cache by itself must accept none, and
// what Verify says must be the same with and without it, word for word.
func TestWarmAndColdAgreeOnEveryRegionOfAQuote(t *testing.T) {
	cold := options(t)
	o := *cold
	warm := warmed(t, &o)
	raw := another(t, 1).Raw()
	step := 5
	if testing.Short() {
		step = 50
	}
	for i := 0; i < len(raw); i += step {
		b := bytes.Clone(raw)
		b[i] ^= 1 << (i % 8)
		q, err := tdx.Parse(b)
		if err != nil {
			continue
		}
		if warm.Cache.Warm(q, warm) != nil {
			t.Errorf("byte %d can be changed", i)
		}
		_, coldErr := tdx.Verify(q, cold)
		_, warmErr := tdx.Verify(q, warm)
		if fmt.Sprint(coldErr) != fmt.Sprint(warmErr) || coldErr == nil {
			t.Errorf("byte %d: cold: %v; warm: %v", i, coldErr, warmErr)
		}
	}
	if warm.Cache.Len() != 1 {
		t.Errorf("%d platforms are remembered, want the genuine one", warm.Cache.Len())
	}
}

// Quotes that the platform really signs, and that are not acceptable all the same.
func TestWarmAndColdAgreeOnGenuineQuotesThatAreRefused(t *testing.T) {
	modify := func(f func(*tdx.Quote)) *softtee.TDXOptions { return &softtee.TDXOptions{Modify: f} }
	for name, c := range map[string]struct {
		opts *softtee.TDXOptions
		ok   bool
	}{
		"honest":                {nil, true},
		"debug TD":              {&softtee.TDXOptions{Debug: true}, true},
		"version of the module": {modify(func(q *tdx.Quote) { q.TeeTcbSvn[1] = 1 }), true},
		"foreign QE":            {&softtee.TDXOptions{ForeignQE: true}, false},
		"debug QE":              {&softtee.TDXOptions{DebugQE: true}, false},
		"old platform":          {modify(func(q *tdx.Quote) { q.TeeTcbSvn[2] = 1 }), false},
		"unknown module":        {modify(func(q *tdx.Quote) { q.TeeTcbSvn[1] = 9 }), false},
		"old module":            {modify(func(q *tdx.Quote) { q.TeeTcbSvn[1], q.TeeTcbSvn[0] = 1, 0 }), false},
		"foreign module":        {modify(func(q *tdx.Quote) { q.MRSIGNERSEAM[47] = 1 }), false},
		"module attributes":     {modify(func(q *tdx.Quote) { q.SEAMAttributes[0] = 1 }), false},
		"other PKI":             {&softtee.TDXOptions{Seed: "other"}, false},
	} {
		for what, cold := range map[string]*tdx.VerifyOptions{
			"collateral":    options(t),
			"no collateral": {Roots: softtee.Roots(), InsecureSkipCollateral: true, Now: testTime},
		} {
			q := parse(t, quote(t, c.opts))
			o := *cold
			warm := warmed(t, &o)
			_, coldErr := tdx.Verify(q, cold)
			v := warm.Cache.Warm(q, warm)
			_, warmErr := tdx.Verify(q, warm)
			if fmt.Sprint(coldErr) != fmt.Sprint(warmErr) || (coldErr == nil) != (v != nil) {
				t.Errorf("%s, %s: cold: %v; warm: %v; by the cache alone: %v", name, what, coldErr, warmErr, v != nil)
			}
			if what == "collateral" && c.ok != (coldErr == nil) {
				t.Errorf("%s: %v", name, coldErr)
			}
		}
	}
}

func TestCacheSaysNothingOnceTheClockHasMovedOn(t *testing.T) {
	o := warmed(t, options(t))
	q := another(t, 1)
	notBefore, notAfter := o.Cache.Validity(q, o.Collateral)
	for _, c := range []struct {
		name  string
		now   time.Time
		class error
	}{
		{"collateral about to expire", o.Collateral.NextUpdate().Add(-time.Second), nil},
		{"collateral has expired", o.Collateral.NextUpdate(), attestext.ErrPolicy},
		{"before the certificates", notBefore.Add(-time.Second), attestext.ErrSignature},
		{"after the certificates", notAfter.Add(time.Second), attestext.ErrSignature},
	} {
		at := *o
		at.Now = c.now
		if v := o.Cache.Warm(q, &at); (v != nil) != (c.class == nil) {
			t.Errorf("%s: accepted by the cache: %v", c.name, v != nil)
		}
		_, err := tdx.Verify(q, &at)
		if c.class == nil && err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if c.class != nil {
			wantClass(t, err, c.class)
		}
	}
	// Certificates alone, where there is no collateral to expire before them.
	o = warmed(t, &tdx.VerifyOptions{Roots: softtee.Roots(), InsecureSkipCollateral: true, Now: testTime})
	_, notAfter = o.Cache.Validity(q, nil)
	o.Now = notAfter.Add(time.Second)
	if o.Cache.Warm(q, o) != nil {
		t.Error("expired certificates accepted by the cache")
	}
	_, err := tdx.Verify(q, o)
	wantClass(t, err, attestext.ErrSignature)
}

func TestNewerRevocationListCountsAgainstWhatIsRemembered(t *testing.T) {
	q := another(t, 1)
	for name, revoke := range map[string]softtee.CollateralOptions{
		"PCK":         {RevokePCK: true},
		"platform CA": {RevokePlatformCA: true},
		"TCB signer":  {RevokeTCBSigning: true},
	} {
		o := warmed(t, options(t))
		old := o.Collateral
		o.Collateral = collateral(t, revoke)
		if o.Cache.Warm(q, o) != nil {
			t.Errorf("%s: other collateral has the same entry", name)
		}
		_, err := tdx.Verify(q, o)
		wantClass(t, err, attestext.ErrSignature)
		// Even if it had: the lists are looked at each time.
		o.Cache.Confuse(q, old, o.Collateral)
		if o.Cache.Warm(q, o) != nil {
			t.Errorf("%s: revoked, and accepted by the cache", name)
		}
		_, err = tdx.Verify(q, o)
		wantClass(t, err, attestext.ErrSignature)
	}
}

func TestCacheServesOnlyTheRootsThatItKnows(t *testing.T) {
	q := another(t, 1)
	o := warmed(t, options(t))
	for name, roots := range map[string]*x509.CertPool{
		"Intel's":   nil,
		"another":   softtee.NewTDX(&softtee.TDXOptions{Seed: "other"}).Roots(),
		"its equal": softtee.Roots(),
		"empty":     x509.NewCertPool(),
	} {
		c := *o
		c.Roots = roots
		if o.Cache.Warm(q, &c) != nil {
			t.Errorf("%s: accepted by the cache", name)
		}
		if _, err := tdx.Verify(q, &c); (err == nil) != (name == "its equal") {
			t.Errorf("%s: %v", name, err)
		}
	}
	o = warmed(t, options(t))
	block, _ := pem.Decode(softtee.NewTDX(&softtee.TDXOptions{Seed: "other"}).RootsPEM())
	more, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	o.Roots.AddCert(more)
	if o.Cache.Warm(q, o) != nil {
		t.Error("the pool has grown, and the cache does not care")
	}
}

// What was verified without collateral must not serve where there is some, nor the
// other way round.
func TestCacheKeepsCollateralAndNoneApart(t *testing.T) {
	with := options(t)
	without := &tdx.VerifyOptions{Roots: with.Roots, InsecureSkipCollateral: true, Now: testTime}
	q := another(t, 1)
	warmed(t, without)
	with.Cache = without.Cache
	if with.Cache.Warm(q, with) != nil {
		t.Error("verified without collateral, and used with it")
	}
	warmed(t, with)
	without.Cache = with.Cache
	if without.Cache.Warm(q, without) != nil {
		t.Error("verified with collateral, and used without")
	}
}

func TestRefusalsAreNotRemembered(t *testing.T) {
	for name, c := range map[string]softtee.CollateralOptions{
		"revoked":  {RevokePCK: true},
		"TCB":      {TCBStatus: "OutOfDate"},
		"TCB gone": {TCBStatus: "Revoked"},
		"FMSPC":    {FMSPC: &[6]byte{1}},
	} {
		o := options(t)
		o.Collateral, o.Cache = collateral(t, c), tdx.NewCache(0)
		if _, err := tdx.Verify(another(t, 1), o); err == nil {
			t.Errorf("%s: verifies", name)
		}
		if o.Cache.Len() != 0 {
			t.Errorf("%s: remembered", name)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	o := options(t)
	o.Cache = tdx.NewCache(2)
	for i := range 4 {
		o.Collateral = collateral(t, softtee.CollateralOptions{NextUpdate: testTime.Add(time.Duration(i+1) * time.Hour)})
		if _, err := tdx.Verify(another(t, 1), o); err != nil {
			t.Fatal(err)
		}
	}
	if o.Cache.Len() != 2 {
		t.Errorf("%d platforms, want 2", o.Cache.Len())
	}
}

// Run with -race.
func TestConcurrentUseOfACache(t *testing.T) {
	o := options(t)
	o.Cache = tdx.NewCache(1)
	other := *o
	other.Collateral = collateral(t, softtee.CollateralOptions{NextUpdate: testTime.Add(time.Hour)})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for _, o := range []*tdx.VerifyOptions{o, &other} {
				if _, err := tdx.Verify(another(t, byte(i)), o); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzWarmVerification(f *testing.F) {
	cold := options(f)
	o := *cold
	warm := warmed(f, &o)
	raw := another(f, 1).Raw()
	f.Add(uint16(0), byte(0))
	f.Add(uint16(600), byte(1))
	f.Add(uint16(1200), byte(0x80))
	f.Fuzz(func(t *testing.T, at uint16, mask byte) {
		defer fuzzbound.Check(t, 0)()
		b := bytes.Clone(raw)
		b[int(at)%len(b)] ^= mask
		q, err := tdx.Parse(b)
		if err != nil {
			return
		}
		v := warm.Cache.Warm(q, warm)
		if _, err := tdx.Verify(q, cold); v != nil && err != nil {
			t.Fatalf("byte %d: accepted by the cache, and refused without: %v", at, err)
		}
	})
}
