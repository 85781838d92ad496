package compare

import (
	"math"
	"slices"
)

// A Stat is the median of samples with an interval.
type Stat struct {
	Median, P95 float64
	// Low and High are order statistics between which the median of all there could
	// be lies with a probability of Coverage: 0.95 or more, unless there are fewer than
	// 6 samples.
	Low, High, Coverage float64
	N                   int
}

// NewStat describes values, of which there must be one at least; none are all zero.
func NewStat(values []float64) Stat {
	if len(values) == 0 {
		return Stat{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	s := Stat{N: n, Median: (v[(n-1)/2] + v[n/2]) / 2, P95: v[int(math.Ceil(0.95*float64(n)))-1]}
	k, coverage := interval(n)
	s.Low, s.High, s.Coverage = v[k], v[n-1-k], coverage
	return s
}

// interval returns the largest k for which the median lies between the k-th smallest
// and the k-th largest of n values, from 0 on, with a probability of 0.95 or more, or 0
// if there is none: the number of values below the median has a binomial distribution.
func interval(n int) (k int, coverage float64) {
	below := math.Pow(0.5, float64(n)) // P(no more than k values below)
	term := below
	coverage = 1 - 2*below
	for k = 0; k < (n-1)/2; k++ {
		term *= float64(n-k) / float64(k+1)
		if next := 1 - 2*(below+term); next >= 0.95 {
			below += term
			coverage = next
		} else {
			break
		}
	}
	return k, max(coverage, 0)
}
