package softtee_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/softtee"
)

func TestResultVerifiesAndIsTheSameInEveryProcess(t *testing.T) {
	i := softtee.NewResultsIssuer(nil)
	spki, err := x509.MarshalPKIXPublicKey(i.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	token, err := i.Issue(spki, testTime)
	if err != nil {
		t.Fatal(err)
	}
	const want = "10fe18ee9b1f86f26e40b6b09330b73ab26c8120d41af0b0ac12d24f632f3006"
	if got := sha256.Sum256(token); hex.EncodeToString(got[:]) != want {
		t.Errorf("SHA-256 of the result is %x, want %s", got, want)
	}
	keys, err := ear.ParsePEM(i.PublicKeyPEM())
	if err != nil {
		t.Fatal(err)
	}
	r, err := ear.Verify(token, &ear.VerifyOptions{Keys: keys, Now: testTime})
	if err != nil {
		t.Fatal(err)
	}
	if r.Tier() != ear.Affirming || r.Issuer() != string(i.Identity()) || !bytes.Equal(r.AKPub(), spki) {
		t.Errorf("result says %+v", r.Claims())
	}
	other := softtee.NewResultsIssuer(&softtee.ResultsOptions{Seed: "other"})
	if _, err := ear.Verify(token, &ear.VerifyOptions{Keys: []crypto.PublicKey{other.PublicKey()}, Now: testTime}); !errors.Is(err, attestext.ErrSignature) {
		t.Errorf("another seed: %v", err)
	}
}
