// Package sidecar holds what was recorded elsewhere, in testdata, against what is written
// beside it.
package sidecar

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// suffix is that of sidecars.
const suffix = ".meta.json"

// A File is a file of testdata as its sidecar describes it: where it is from, and in
// Expected what it must do.
type File[E any] struct {
	File, Source, What, Date, Spec, SHA256 string
	Expected                               E

	Data []byte `json:"-"`
}

// Check calls check, in a subtest, with each file in the directory testdata of the test's
// package. Each must have a sidecar, which must say all there is to say, and be as that has it.
func Check[E any](t *testing.T, check func(t *testing.T, f *File[E])) {
	t.Helper()
	const dir = "testdata"
	sidecars, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil || len(sidecars) == 0 {
		t.Fatalf("no sidecars: %v", err)
	}
	described := make(map[string]bool)
	for _, name := range sidecars {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f := new(File[E])
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		if err := d.Decode(f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		described[f.File] = true
		t.Run(f.File, func(t *testing.T) {
			if f.Data, err = os.ReadFile(filepath.Join(dir, f.File)); err != nil {
				t.Fatal(err)
			}
			if sum := sha256.Sum256(f.Data); hex.EncodeToString(sum[:]) != f.SHA256 {
				t.Fatalf("SHA-256 is %x, want %s", sum, f.SHA256)
			}
			if f.Source == "" || f.Date == "" || f.Spec == "" {
				t.Error("sidecar lacks source, date or spec")
			}
			check(t, f)
		})
	}
	all, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if base := filepath.Base(name); base != "fuzz" && !strings.HasSuffix(name, suffix) && !described[base] {
			t.Errorf("%s has no sidecar", name)
		}
	}
}
