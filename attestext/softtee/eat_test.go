package softtee_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
)

func TestEATVerifiesAndIsTheSameInEveryProcess(t *testing.T) {
	e := softtee.NewEAT(&softtee.EATOptions{Now: func() time.Time { return testTime }})
	spki, err := x509.MarshalPKIXPublicKey(softtee.NewResultsIssuer(nil).PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	nonce := bytes.Repeat([]byte{1}, 64)
	b, err := e.Token(t.Context(), nonce, spki)
	if err != nil {
		t.Fatal(err)
	}
	const want = "4114ce408737affbc38f2d25da7ef49001d320e642733c8ceabbdbf2d73f1a98"
	if got := sha256.Sum256(b); hex.EncodeToString(got[:]) != want {
		t.Errorf("SHA-256 of the token is %x, want %s", got, want)
	}
	token, err := eat.ParseToken(b)
	if err != nil {
		t.Fatal(err)
	}
	v, err := eat.VerifyToken(token, &eat.TokenOptions{Keys: []eat.TokenKey{e.Key()}, Now: testTime})
	if err != nil || !bytes.Equal(v.Token().Nonce, nonce) || !bytes.Equal(v.Token().Confirmation, spki) {
		t.Fatalf("%+v, %v", v, err)
	}
	p, err := policy.Parse(softtee.EATPolicy())
	if err != nil {
		t.Fatal(err)
	}
	if d, err := p.EvaluateEAT(v, testTime); err != nil || d.Verdict != policy.Affirming {
		t.Errorf("%v, %v", d, err)
	}
	other := softtee.NewEAT(&softtee.EATOptions{Seed: "other"})
	if _, err := eat.VerifyToken(token, &eat.TokenOptions{Keys: []eat.TokenKey{other.Key()}, Now: testTime}); !errors.Is(err, attestext.ErrSignature) {
		t.Errorf("another seed: %v", err)
	}
}
