// Package godebug stands in for internal/godebug: settings of the GODEBUG
// environment variable.
//
// Unlike the original it knows neither //go:debug directives, nor godebug lines
// of go.mod, nor the defaults of older Go versions: only the environment, which
// is read each time, so that a program, or a test, may change it.
package godebug

import (
	"os"
	"strings"
)

// A Setting is one key of GODEBUG.
type Setting struct{ name string }

// New returns the setting of the given name. A leading # marks an undocumented
// setting and is no part of its key.
func New(name string) *Setting { return &Setting{strings.TrimPrefix(name, "#")} }

// Name returns the key.
func (s *Setting) Name() string { return s.name }

// String returns "name=value".
func (s *Setting) String() string { return s.name + "=" + s.Value() }

// Value returns the current value, "" where it is not set. Of several the last counts.
func (s *Setting) Value() string {
	list := os.Getenv("GODEBUG")
	for list != "" {
		i := strings.LastIndexByte(list, ',')
		if k, v, ok := strings.Cut(list[i+1:], "="); ok && k == s.name {
			v, _, _ = strings.Cut(v, "#") // a bisect pattern may follow
			return v
		}
		list = list[:max(i, 0)]
	}
	return ""
}

// IncNonDefault counts an event in the original's metrics, which are closed to
// packages outside of the standard library.
func (s *Setting) IncNonDefault() {}
