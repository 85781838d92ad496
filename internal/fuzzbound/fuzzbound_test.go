package fuzzbound

import (
	"fmt"
	"testing"
)

// failing notes that a test has failed.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Errorf(format string, args ...any) { f.said = fmt.Sprintf(format, args...) }

var sink []byte

func TestAllocationBeyondTheBoundFails(t *testing.T) {
	for _, tt := range []struct {
		size, allocate int
		ok             bool
	}{
		{0, 0, true},
		{0, Base / 2, true},
		{0, Base + 1<<20, false},
		{1 << 20, Base + 32<<20, true},
		{1 << 20, Base + 65<<20, false},
	} {
		f := &failing{TB: t}
		func() {
			defer Check(f, tt.size)()
			for left := tt.allocate; left > 0; left -= 1 << 20 {
				sink = make([]byte, 1<<20)
			}
		}()
		if (f.said == "") != tt.ok {
			t.Errorf("%d bytes for an input of %d: %q", tt.allocate, tt.size, f.said)
		}
	}
}
