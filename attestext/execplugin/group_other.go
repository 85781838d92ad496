//go:build !unix

package execplugin

import "os/exec"

// ownGroup does nothing: there are no process groups here, and the command alone is
// killed.
func ownGroup(*exec.Cmd) {}
