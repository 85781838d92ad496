// Package fuzzbound has every fuzz target check that its input makes it allocate
// within a bound: what a peer sends must not cost more than in proportion to its
// size. It belongs in tests.
package fuzzbound

import (
	"runtime/metrics"
	"testing"
)

// A target may allocate Base bytes, and PerByte for each byte of its input, garbage
// included. Base is for what does not depend on the input: keys and certificates that
// are made once, signatures that are verified. PerByte is for what the target does
// beside parsing as well, such as writing its input again and comparing.
const (
	Base    = 8 << 20
	PerByte = 64
)

// Check begins to count, and returns a function that fails t if the target has
// allocated more than the bound for an input of size bytes:
//
//	defer fuzzbound.Check(t, len(b))()
func Check(t testing.TB, size int) func() {
	before := allocated()
	return func() {
		if n, bound := allocated()-before, uint64(Base+PerByte*size); n > bound {
			t.Errorf("%d bytes are allocated for an input of %d, want at most %d", n, size, bound)
		}
	}
}

// allocated returns how many bytes the process has allocated since it began. Unlike
// runtime.ReadMemStats it stops nobody, for which it may miss the last few KiB.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
