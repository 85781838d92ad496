//go:build linux || darwin

package compare

import "syscall"

// cpuMicros returns the time of all CPUs that the process has used, in µs.
func cpuMicros() (float64, bool) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, false
	}
	micros := func(t syscall.Timeval) float64 { return float64(t.Sec)*1e6 + float64(t.Usec) }
	return micros(u.Utime) + micros(u.Stime), true
}
