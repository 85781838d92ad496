package verifier_test

import (
	"context"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
)

type otherMachine struct{ attestext.Verifier }

func (o otherMachine) Appraise(ctx context.Context, ev *attestext.Evidence, c *attestext.Challenge) (*attestext.Appraisal, error) {
	a, err := o.Verifier.Appraise(ctx, ev, c)
	if a != nil {
		a.Machine = "tdx-platform:01"
	}
	return a, err
}

// TestPeerHasToAttestFromTheMachineOfItsFirstUse: diversion to another genuine machine
// is refused once the first one is known.
func TestPeerHasToAttestFromTheMachineOfItsFirstUse(t *testing.T) {
	store := &policy.MemoryMachines{}
	warns := local(t)
	warns.Policy = nil
	refuses := local(t)
	refuses.Policy = &policy.Policy{SNP: &policy.SNPPolicy{}}
	zero := softtee.NewTDX(&softtee.TDXOptions{ZeroPlatformID: true})
	for _, tt := range []struct {
		name  string
		inner attestext.Verifier
		tee   *softtee.TDX
		class error // nil where it is accepted
		say   string
		first bool
	}{
		{"refused by the policy", refuses, softtee.NewTDX(nil), attestext.ErrPolicy, "no section", false},
		{"warning at first", warns, softtee.NewTDX(nil), attestext.ErrPolicy, "where the verdict is affirming only", false},
		{"no identity at first", local(t), zero, attestext.ErrPolicy, "names none", false},
		{"first", local(t), softtee.NewTDX(nil), nil, "", true},
		{"second", local(t), softtee.NewTDX(nil), nil, "", false},
		{"warning later", warns, softtee.NewTDX(nil), nil, "", false},
		{"another machine", otherMachine{local(t)}, softtee.NewTDX(nil), attestext.ErrPolicy, "before, and now from tdx-platform:01", false},
		{"no identity later", local(t), zero, attestext.ErrPolicy, "names none", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := challenge(attestext.CertAttestation, attestext.BindingHardened)
			v := &verifier.FirstUse{Verifier: tt.inner, Store: store, Peer: "server.example"}
			r, err := appraise(v, attest(t, tt.tee.Attester(), tsm.FormatCBOR, c), c)
			if tt.class != nil {
				wantClass(t, err, tt.class, tt.say)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Claims()["machine_first_use"] != tt.first {
				t.Errorf("claims %v", r.Claims())
			}
		})
	}
	// What is bound to another session is not recorded.
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := attest(t, softtee.NewTDX(nil).Attester(), tsm.FormatCBOR, c)
	c.Role = attestext.RoleClient
	_, err := appraise(&verifier.FirstUse{Verifier: local(t), Store: store, Peer: "other"}, ev, c)
	wantClass(t, err, attestext.ErrBinding, "")
	if known, _ := store.Known("other"); known != "" {
		t.Errorf("recorded %q", known)
	}
}
