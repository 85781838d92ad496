package sevsnp

import "github.com/attestedtls/atls/attestext/internal/revocation"

// Warm verifies r with what the cache in o remembers and nothing else, or returns nil.
func Warm(r *Report, c *Certificates, o *VerifyOptions) *Verified {
	l, err := endorsement(r, c, o.Collateral)
	if err != nil {
		return nil
	}
	return o.Cache.verify(cacheKey(r, l, c, o.Roots, o.Collateral), r, l, o.Now, o.InsecureSkipCollateral)
}

// Confuse has the cache take what it remembers of r with from for what it remembers
// with to, as if their digests were one.
func (cache *Cache) Confuse(r *Report, c *Certificates, from, to *VerifyOptions) bool {
	l, err := endorsement(r, c, from.Collateral)
	if err != nil {
		return false
	}
	k, ok := cache.platforms.Get(cacheKey(r, l, c, from.Roots, from.Collateral))
	if !ok {
		return false
	}
	moved := *k
	moved.lists = revocation.By(k.ark, to.Collateral.crls(r.SigningKey))
	cache.platforms.Put(cacheKey(r, l, c, to.Roots, to.Collateral), &moved)
	return true
}

// Len returns the number of platforms that c remembers.
func (c *Cache) Len() int { return c.platforms.Len() }
