package sevsnp

import "github.com/attestedtls/atls/attestext/internal/revocation"

// Warm verifies r with what the cache in o remembers and nothing else, or returns nil.
func Warm(r *Report, c *Certificates, o *VerifyOptions) *Verified {
	l, err := endorsement(r, c, o.Collateral)
	if err != nil {
		return nil
	}
	lists, peers := listsFor(r, c, o)
	return o.Cache.verify(cacheKey(r, l, c, o.Roots, o.Collateral, lists, peers), r, l, o.Now, o.InsecureSkipCollateral)
}

// Confuse has the cache take what it remembers of r with from for what it remembers
// with to, as if their digests were one.
func (cache *Cache) Confuse(r *Report, c *Certificates, from, to *VerifyOptions) bool {
	l, err := endorsement(r, c, from.Collateral)
	if err != nil {
		return false
	}
	lists, peers := listsFor(r, c, from)
	k, ok := cache.platforms.Get(cacheKey(r, l, c, from.Roots, from.Collateral, lists, peers))
	if !ok {
		return false
	}
	moved := *k
	lists, peers = listsFor(r, c, to)
	moved.lists, moved.peers = revocation.By(k.ark, lists), revocation.By(k.ark, peers)
	cache.platforms.Put(cacheKey(r, l, c, to.Roots, to.Collateral, lists, peers), &moved)
	return true
}

// Len returns the number of platforms that c remembers.
func (c *Cache) Len() int { return c.platforms.Len() }
