package attesttest_test

import (
	"context"
	"fmt"
	"reflect"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attesttest"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/softtarget"
)

// twice appraises with a cache and without, and notes where the two differ.
type twice struct {
	cold, warm *verifier.Local
	differ     func(string)
}

func newTwice(t testing.TB, l *verifier.Local) *twice {
	warm := *l
	warm.TDXCache, warm.SNPCache = tdx.NewCache(0), sevsnp.NewCache(0)
	return &twice{l, &warm, func(s string) { t.Error(s) }}
}

func (v *twice) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	return v.cold.Formats(kind)
}

func (v *twice) Appraise(ctx context.Context, ev *attestext.Evidence, c *attestext.Challenge) (*attestext.Appraisal, error) {
	cold, coldErr := v.cold.Appraise(ctx, ev, c)
	warm, warmErr := v.warm.Appraise(ctx, ev, c)
	if fmt.Sprint(coldErr) != fmt.Sprint(warmErr) || attestext.Class(coldErr) != attestext.Class(warmErr) || !reflect.DeepEqual(cold, warm) {
		v.differ(fmt.Sprintf("without a cache: %v, %v; with one: %v, %v", cold, coldErr, warm, warmErr))
	}
	return warm, warmErr
}

// A verifier that remembers platforms must say of all bad evidence, and of all honest
// evidence in between, what one says that does not.
func TestVerifierWithAWarmCacheAgreesWithAColdOne(t *testing.T) {
	for name, g := range map[string]*attesttest.Target{"TDX": softtarget.TDX(t, softtarget.Local), "SNP": softtarget.SNP(t, softtarget.Local)} {
		t.Run(name, func(t *testing.T) {
			g.Bindings = nil // hardened
			v := newTwice(t, g.Verifier.(*verifier.Local))
			g.Verifier = v
			for _, s := range []*attesttest.Special{g.Revoked, g.Expired} {
				other := newTwice(t, s.Verifier.(*verifier.Local))
				// As after an update of the collateral.
				other.warm.TDXCache, other.warm.SNPCache = v.warm.TDXCache, v.warm.SNPCache
				s.Verifier = other
			}
			attesttest.Run(t, g)
			tdxHits, _ := v.warm.TDXCache.Stats()
			snpHits, _ := v.warm.SNPCache.Stats()
			if tdxHits+snpHits == 0 {
				t.Error("the cache was never of use")
			}
		})
	}
}
