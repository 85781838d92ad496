package cmw

import (
	"errors"
	"testing"

	"github.com/attestedtls/atls/attestext"
	veraison "github.com/veraison/cmw"
)

// What veraison/cmw v0.2.0 lets through, as the tests of package eat have it of go-cose.

// Of two entries under one label it takes one and says nothing.
func TestTrapCMWDuplicateCollectionKeys(t *testing.T) {
	for _, s := range []string{
		"a2 6161 82 00 41 01 6161 82 00 41 02",
		hexText(`{"a":["a/b","AA"],"a":["a/b","AQ"]}`),
	} {
		b := unhex(t, s)
		if err := new(veraison.CMW).Deserialize(b); err != nil {
			t.Errorf("the trap is gone, or the test is: %v", err)
		}
		if c, err := Parse(b); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%+v, %v", c, err)
		}
	}
}

// An indicator of zero says that a message is nothing.
func TestTrapCMWIndicatorZero(t *testing.T) {
	b := unhex(t, "83 00 4101 00")
	if err := new(veraison.CMW).Deserialize(b); err != nil {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
	if c, err := Parse(b); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("%+v, %v", c, err)
	}
}
