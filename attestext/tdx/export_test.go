package tdx

import "time"

// Warm verifies q with what c remembers and nothing else, or returns nil.
func (c *Cache) Warm(q *Quote, o *VerifyOptions) *Verified {
	roots, err := trustedRoots(o.Roots)
	if err != nil || walk(q.raw) != nil {
		return nil
	}
	return c.verify(q.raw, roots, o, o.Now)
}

// Confuse has c take what it remembers of q with one collateral for what it remembers
// with another, as if their digests were one.
func (c *Cache) Confuse(q *Quote, from, to *Collateral) {
	if k, ok := c.platforms.Get(cacheKey(q.raw, from)); ok {
		c.platforms.Put(cacheKey(q.raw, to), k)
	}
}

// Len returns the number of platforms that c remembers.
func (c *Cache) Len() int { return c.platforms.Len() }

// Validity returns when what c remembers of q is valid.
func (c *Cache) Validity(q *Quote, col *Collateral) (notBefore, notAfter time.Time) {
	k, _ := c.platforms.Get(cacheKey(q.raw, col))
	return k.notBefore, k.notAfter
}
