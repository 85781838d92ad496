package ear_test

import (
	"errors"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/lestrrat-go/jwx/v2/jwa"
	veraison "github.com/veraison/ear"
)

// What veraison/ear v1.1.2 lets through, as the tests of package eat have it of go-cose.

// theirs has the library verify a token.
func theirs(t *testing.T, token []byte) *veraison.AttestationResult {
	t.Helper()
	var r veraison.AttestationResult
	if err := r.Verify(token, jwa.ES256, keyA.Public()); err != nil {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
	return &r
}

// A verifier says "affirming" beside a claim of its own that is contraindicated.
func TestTrapEARAffirmingBesideContraindicated(t *testing.T) {
	token := forge(t, payload(map[string]any{"/ear.trustworthiness-vector": map[string]any{"hardware": 96}}))
	if a := theirs(t, token).Submods["tdx"]; a == nil || *a.Status != veraison.TrustTierAffirming {
		t.Errorf("the trap is gone, or the test is: %+v", a)
	}
	r, err := ear.Verify(token, options())
	if err != nil || r.Tier() != ear.Contraindicated {
		t.Errorf("%v, %v", r, err)
	}
}

// A result has no age.
func TestTrapEARYearOldResult(t *testing.T) {
	token := forge(t, payload(map[string]any{"iat": now.Add(-365 * 24 * time.Hour).Unix()}))
	theirs(t, token)
	if _, err := ear.Verify(token, options()); !errors.Is(err, attestext.ErrSignature) {
		t.Errorf("%v", err)
	}
}

// The nonce of another session is as good as any.
func TestTrapEARNonceIsNotCompared(t *testing.T) {
	token := forge(t, payload(map[string]any{"eat_nonce": ear.NonceText(make([]byte, 32))}))
	theirs(t, token)
	if _, err := ear.Verify(token, options()); !errors.Is(err, attestext.ErrBinding) {
		t.Errorf("%v", err)
	}
}

// Of two members of one name, one counts.
func TestTrapEARDuplicateMembers(t *testing.T) {
	text := payload(nil)
	token := forge(t, text[:len(text)-1]+`,"iat":1}`)
	if _, err := ear.Verify(token, options()); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("%v", err)
	}
}
