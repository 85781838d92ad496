package softtee

import (
	"math/big"
	"testing"
)

func TestPrimeOffsetsAreWhatASearchFinds(t *testing.T) {
	if testing.Short() {
		t.Skip("searching takes seconds")
	}
	names := 0
	for _, key := range []string{"ARK-Milan", "SEV-Milan", "SEV-VLEK-Milan"} {
		for _, name := range []string{key + " p", key + " q"} {
			start := primeStart("", name, rsaBits("")/2)
			want := new(big.Int).Sub(nextPrime(start), start)
			if got, ok := primeOffsets[name]; !ok || want.Cmp(big.NewInt(got)) != 0 {
				t.Errorf("%q: %d,", name, want)
			}
			names++
		}
	}
	if len(primeOffsets) != names {
		t.Errorf("%d offsets, want %d", len(primeOffsets), names)
	}
}
