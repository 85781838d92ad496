package results_test

import (
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// The traps of package ear, as a relying party meets them.

// present has a relying party appraise a result whose claims are those, signed by a
// verifier that it trusts.
func present(t *testing.T, vector int, issued time.Time) error {
	t.Helper()
	payload := fmt.Sprintf(`{"eat_profile":%q,"iat":%d,"ear.verifier-id":{"developer":"d","build":"b"},"submods":{"tdx":`+
		`{"ear.status":"affirming","ear.trustworthiness-vector":{"hardware":%d},"ear.veraison.key-attestation":{"akpub":%q}}}}`,
		ear.Profile, issued.Unix(), vector, base64.RawURLEncoding.EncodeToString(leaf))
	v := must(results.NewVerifier([]results.Trust{{ID: idA, Keys: []crypto.PublicKey{key(9).Public()}}},
		&results.VerifierOptions{Now: func() time.Time { return now }}))
	_, err := v.Appraise(t.Context(), &attestext.Evidence{Verifier: idA, CMW: must(ear.Wrap(must(jws.Sign([]byte(payload), jws.WithKey(jwa.ES256, key(9))))))}, hardened())
	return err
}

func TestTrapResultAffirmingBesideContraindicated(t *testing.T) {
	if err := present(t, 2, now); err != nil {
		t.Fatal(err)
	}
	if err := present(t, 96, now); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("%v", err)
	}
}

func TestTrapResultYearOld(t *testing.T) {
	if err := present(t, 2, now.AddDate(-1, 0, 0)); !errors.Is(err, attestext.ErrSignature) {
		t.Errorf("%v", err)
	}
}
