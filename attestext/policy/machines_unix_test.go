//go:build unix

package policy_test

import (
	"os"
	"testing"

	"github.com/attestedtls/atls/attestext/policy"
)

// In a directory that anybody may write to, anybody decides who was first.
func TestMachineStoreIsNotForEverybodyToWrite(t *testing.T) {
	dir := t.TempDir()
	for mode, ok := range map[os.FileMode]bool{0o700: true, 0o777: false, 0o702: false, 0o777 | os.ModeSticky: false} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := policy.OpenFileMachines(dir); (err == nil) != ok {
			t.Errorf("%v: %v", mode, err)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil { // for the removal
		t.Fatal(err)
	}
}
