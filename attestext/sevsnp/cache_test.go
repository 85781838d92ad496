package sevsnp_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/softtee"
)

// warmed returns o with a cache that remembers the platform of opts.
func warmed(t testing.TB, o *sevsnp.VerifyOptions, opts *softtee.SNPOptions) *sevsnp.VerifyOptions {
	t.Helper()
	c := *o
	c.Cache = sevsnp.NewCache(0)
	raw, certs := soft(t, opts)
	if _, err := sevsnp.Verify(parse(t, raw), certs, &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

func TestSecondReportOfAPlatformIsVerifiedByTheCache(t *testing.T) {
	for name, opts := range map[string]*softtee.SNPOptions{"VCEK": nil, "VLEK": {VLEK: true}, "version 2": {Version: 2}} {
		warm := warmed(t, options(t), opts)
		s := softtee.NewSNP(opts)
		raw, err := s.Quote([64]byte{7})
		if err != nil {
			t.Fatal(err)
		}
		want, err := sevsnp.Verify(parse(t, raw), s.Certificates(), options(t))
		if err != nil {
			t.Fatal(err)
		}
		got, err := sevsnp.Verify(parse(t, raw), s.Certificates(), warm)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s: warm and cold differ", name)
		}
		if hits, misses := warm.Cache.Stats(); hits != 1 || misses != 1 {
			t.Errorf("%s: %d hits, %d misses", name, hits, misses)
		}
	}
}

func TestWarmAndColdAgreeOnEveryRegionOfAReport(t *testing.T) {
	cold := options(t)
	warm := warmed(t, cold, nil)
	raw, certs := soft(t, nil)
	for i := range raw {
		b := bytes.Clone(raw)
		b[i] ^= 1 << (i % 8)
		r, err := sevsnp.Parse(b)
		if err != nil {
			continue
		}
		if sevsnp.Warm(r, certs, warm) != nil {
			t.Errorf("byte %#x can be changed", i)
		}
		if i%37 != 0 {
			continue
		}
		_, coldErr := sevsnp.Verify(r, certs, cold)
		_, warmErr := sevsnp.Verify(r, certs, warm)
		if fmt.Sprint(coldErr) != fmt.Sprint(warmErr) || coldErr == nil {
			t.Errorf("byte %#x: cold: %v; warm: %v", i, coldErr, warmErr)
		}
	}
}

func TestCacheSaysNothingOnceTheClockHasMovedOn(t *testing.T) {
	warm := warmed(t, options(t), nil)
	raw, certs := soft(t, nil)
	r := parse(t, raw)
	for _, c := range []struct {
		name  string
		now   time.Time
		class error
	}{
		{"about to expire", testTime.AddDate(0, 0, 30).Add(-time.Second), nil},
		{"list has expired", testTime.AddDate(0, 0, 30), attestext.ErrPolicy},
		{"list is not valid yet", testTime.Add(-time.Second), attestext.ErrPolicy},
		{"certificates have expired", certs.VCEK.NotAfter.Add(time.Second), attestext.ErrSignature},
	} {
		o := *warm
		o.Now = c.now
		if v := sevsnp.Warm(r, certs, &o); (v != nil) != (c.class == nil) {
			t.Errorf("%s: accepted by the cache: %v", c.name, v != nil)
		}
		if _, err := sevsnp.Verify(r, certs, &o); c.class != nil {
			wantClass(t, err, c.class)
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestNewerRevocationListCountsAgainstWhatIsRemembered(t *testing.T) {
	raw, certs := soft(t, nil)
	r := parse(t, raw)
	warm := warmed(t, options(t), nil)
	revoked := *warm
	revoked.Collateral = collateral(t, softtee.SNPCollateralOptions{RevokeASK: true})
	if sevsnp.Warm(r, certs, &revoked) != nil {
		t.Error("other collateral has the same entry")
	}
	if !warm.Cache.Confuse(r, certs, warm, &revoked) {
		t.Fatal("nothing is remembered")
	}
	if sevsnp.Warm(r, certs, &revoked) != nil {
		t.Error("revoked, and accepted by the cache")
	}
	_, err := sevsnp.Verify(r, certs, &revoked)
	wantClass(t, err, attestext.ErrSignature)
	// A list that the peer sends along counts as well.
	stapled := *certs
	stapled.CRL, err = softtee.NewSNP(nil).CRL(&softtee.SNPCollateralOptions{Now: testTime, RevokeASK: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = sevsnp.Verify(r, &stapled, warm)
	wantClass(t, err, attestext.ErrSignature)
}

func TestCacheServesOnlyTheRootsThatItKnows(t *testing.T) {
	raw, certs := soft(t, nil)
	r := parse(t, raw)
	warm := warmed(t, options(t), nil)
	for name, roots := range map[string]*sevsnp.Roots{"AMD's": sevsnp.AMDRoots(), "another": softtee.NewSNP(&softtee.SNPOptions{Seed: "other"}).Roots()} {
		o := *warm
		o.Roots = roots
		if sevsnp.Warm(r, certs, &o) != nil {
			t.Errorf("%s: accepted by the cache", name)
		}
		if _, err := sevsnp.Verify(r, certs, &o); err == nil {
			t.Errorf("%s: verifies", name)
		}
	}
}

func TestRefusalsAreNotRememberedAndTheCacheIsBounded(t *testing.T) {
	raw, certs := soft(t, nil)
	r := parse(t, raw)
	o := options(t)
	o.Cache = sevsnp.NewCache(2)
	o.Collateral = collateral(t, softtee.SNPCollateralOptions{RevokeASK: true})
	if _, err := sevsnp.Verify(r, certs, o); err == nil || o.Cache.Len() != 0 {
		t.Errorf("%v, %d remembered", err, o.Cache.Len())
	}
	for i := range 4 {
		o.Collateral = collateral(t, softtee.SNPCollateralOptions{NextUpdate: testTime.Add(time.Duration(i+1) * time.Hour)})
		if _, err := sevsnp.Verify(r, certs, o); err != nil {
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
	o.Cache = sevsnp.NewCache(1)
	raw, certs := soft(t, nil)
	r := parse(t, raw)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 3 {
				if _, err := sevsnp.Verify(r, certs, o); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
