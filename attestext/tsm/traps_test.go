package tsm

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/attestedtls/atls/attestext"
)

// encoding/json takes the last of two members, and a name in any case: what was signed
// or compared may not be what is read.
func TestTrapJSONDuplicateMembers(t *testing.T) {
	for _, s := range []string{
		`{"outblob":"AQ","outblob":"Ag","provider":"p"}`,
		`{"outblob":"AQ","OUTBLOB":"Ag","provider":"p"}`,
	} {
		var m struct{ OutBlob, Provider string }
		if err := json.Unmarshal([]byte(s), &m); err != nil || m.OutBlob != "Ag" {
			t.Errorf("the trap is gone, or the test is: %v, %q", err, m.OutBlob)
		}
		if r, err := ParseJSON([]byte(s)); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %+v, %v", s, r, err)
		}
	}
}

// So does a CBOR decoder with its defaults.
func TestTrapCBORDuplicateMembers(t *testing.T) {
	out, provider := text("outblob"), text("provider")+text("p")
	if r, err := ParseCBOR(unhex(t, "a3"+out+"4101"+provider+out+"4102")); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("%+v, %v", r, err)
	}
}
