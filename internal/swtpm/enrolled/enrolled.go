// Package enrolled has the keys of TPMs in software enrolled, for tests.
package enrolled

import (
	"slices"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/attesttest"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/attestext/tpmdevice"
	"github.com/attestedtls/atls/internal/swtpm"
)

// Open starts a TPM in software, as [swtpm.Start] does, and has its key enrolled.
func Open(t testing.TB) (attestext.Attester, tpm.EnrolledKey) {
	t.Helper()
	d, err := tpmdevice.Open(swtpm.Start(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return attester.NewSource(d), swtpm.Enrol(t, d)
}

// Check runs the cases of package attesttest that go with TPMs against the verifier that
// trusts a key.
func Check(t *testing.T, bindings []attestext.Binding, trusting func(tpm.EnrolledKey) attestext.Verifier) {
	t.Helper()
	a, k := Open(t)
	other, _ := Open(t)
	passed := 0
	for _, o := range attesttest.Check(t.Context(), &attesttest.Target{
		Verifier: trusting(k), Honest: a, Bindings: bindings, Open: attesttest.OpenTPM, OtherRoot: &attesttest.Special{Attester: other},
	}) {
		switch {
		case o.Status == attesttest.Passed:
			passed++
		case o.Status == attesttest.Failed:
			t.Error(o)
		case !slices.Contains([]string{"other TEE", "revoked", "expired collateral", "debug", "zero machine"}, o.Case):
			t.Errorf("%v", o)
		}
	}
	if passed == 0 {
		t.Error("nothing was tried")
	}
	t.Logf("%d cases", passed)
}
