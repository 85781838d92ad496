//go:build race

package interop

func init() { underRace = true }
