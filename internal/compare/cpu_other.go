//go:build !linux && !darwin

package compare

// cpuMicros is not known here.
func cpuMicros() (float64, bool) { return 0, false }
