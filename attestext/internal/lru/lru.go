// Package lru is a map of bounded size that forgets what was not asked for longest.
package lru

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// A Key is a digest of everything that a value depends on; see [Digest].
type Key = [sha256.Size]byte

// Digest returns the SHA-256 of parts, each behind its length, so that no two lists of
// parts have one digest.
func Digest(parts ...[]byte) Key {
	h := sha256.New()
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return Key(h.Sum(nil))
}

// A Cache holds up to a number of values, and counts of how much use they are. Its methods
// may be called concurrently.
type Cache[V any] struct {
	hits, misses atomic.Uint64

	mu    sync.Mutex
	max   int
	order *list.List // of entry[V]; the front was used last
	index map[Key]*list.Element
}

type entry[V any] struct {
	key   Key
	value V
}

// New returns a Cache of at most max values, at least 1.
func New[V any](max int) *Cache[V] {
	if max < 1 {
		panic("lru: a cache of no size")
	}
	return &Cache[V]{max: max, order: list.New(), index: make(map[Key]*list.Element)}
}

// Get returns the value of k, and whether there is one.
func (c *Cache[V]) Get(k Key) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.index[k]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(entry[V]).value, true
}

// Use returns what f makes of the value of k, or nil if there is none or f returns nil.
func Use[V, R any](c *Cache[V], k Key, f func(V) *R) *R {
	if v, ok := c.Get(k); ok {
		if r := f(v); r != nil {
			c.hits.Add(1)
			return r
		}
	}
	c.misses.Add(1)
	return nil
}

// Stats returns how often [Use] has returned something, and how often nil.
func (c *Cache[V]) Stats() (hits, misses uint64) { return c.hits.Load(), c.misses.Load() }

// Put sets the value of k.
func (c *Cache[V]) Put(k Key, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.index[k]; ok {
		e.Value = entry[V]{k, v}
		c.order.MoveToFront(e)
		return
	}
	c.index[k] = c.order.PushFront(entry[V]{k, v})
	for len(c.index) > c.max {
		oldest := c.order.Back()
		c.order.Remove(oldest)
		delete(c.index, oldest.Value.(entry[V]).key)
	}
}

// Len returns the number of values.
func (c *Cache[V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.index)
}
