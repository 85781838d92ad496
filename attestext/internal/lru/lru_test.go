package lru_test

import (
	"sync"
	"testing"

	"github.com/attestedtls/atls/attestext/internal/lru"
)

func TestTheLongestUnusedValueGoesFirst(t *testing.T) {
	c := lru.New[int](2)
	k := func(s string) lru.Key { return lru.Digest([]byte(s)) }
	c.Put(k("a"), 1)
	c.Put(k("b"), 2)
	c.Get(k("a"))
	c.Put(k("c"), 3)
	if _, ok := c.Get(k("b")); ok || c.Len() != 2 {
		t.Errorf("b is there: %v; %d values", ok, c.Len())
	}
	c.Put(k("a"), 4)
	if v, ok := c.Get(k("a")); !ok || v != 4 {
		t.Errorf("a is %d, %v", v, ok)
	}
}

func TestPartsHaveTheirPlaceInADigest(t *testing.T) {
	seen := map[lru.Key]bool{}
	for _, parts := range [][][]byte{{[]byte("ab")}, {[]byte("a"), []byte("b")}, {[]byte("ab"), nil}, {nil, []byte("ab")}, nil, {nil}} {
		seen[lru.Digest(parts...)] = true
	}
	if len(seen) != 6 {
		t.Errorf("%d digests of 6 lists", len(seen))
	}
}

func TestConcurrentUseStaysWithinBounds(t *testing.T) {
	c := lru.New[int](4)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				k := lru.Digest([]byte{byte(i * j)})
				c.Put(k, j)
				c.Get(k)
			}
		})
	}
	wg.Wait()
	if c.Len() > 4 {
		t.Errorf("%d values", c.Len())
	}
}
