package eat

import (
	"errors"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

// What go-cose v1.3.0 lets through. Each test shows that it still does, so that a new
// version is looked at, and that it does not get through here.

// It panics on an EC2 key with an empty byte string for its curve.
func TestTrapCOSEKeyPanics(t *testing.T) {
	b := unhex(t, "a2 01 02 20 40")
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the trap is gone, or the test is")
			}
		}()
		new(cose.Key).UnmarshalCBOR(b)
	}()
	if pub, err := ParseKey(b); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("%v, %v", pub, err)
	}
	nonce, kak := "0a 5820"+challenge, "19 09c4 a3 01 01 20 06 21 5820"+edX
	if k, err := VerifyKAT(sign1(t, eddsa, "a0", unhex(t, "a3 08 a1 01 a2 01 02 20 40"+nonce+kak))); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("in cnf: %v, %v", k, err)
	}
}

// A point off its curve comes back without an error.
func TestTrapCOSEPointOffTheCurve(t *testing.T) {
	b := unhex(t, "a4 01 02 20 01 21 5820"+p256X+"22 5820"+p256X)
	if err := new(cose.Key).UnmarshalCBOR(b); err != nil {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
	if pub, err := ParseKey(b); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("%v, %v", pub, err)
	}
}

// A private key is a key: in a confirmation (RFC 8747) a peer would publish it.
func TestTrapCOSEPrivateKeyInConfirmation(t *testing.T) {
	private := "a4 01 01 20 06 21 5820" + edX + "23 5820" + challenge
	if err := new(cose.Key).UnmarshalCBOR(unhex(t, private)); err != nil {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
	public := "a3 01 01 20 06 21 5820" + edX
	nonce := "0a 5820" + challenge
	for name, claims := range map[string]string{
		"cnf":     "a3 08 a1 01" + private + nonce + "19 09c4" + public,
		"kak-pub": "a3 08 a1 01" + public + nonce + "19 09c4" + private,
	} {
		if k, err := VerifyKAT(sign1(t, eddsa, "a0", unhex(t, claims))); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %v, %v", name, k, err)
		}
	}
}

// A critical header parameter that nobody understands is passed over, against RFC
// 9052, section 3.1.
func TestTrapCOSECritIsNotEnforced(t *testing.T) {
	b := sign1(t, "a3 01 27 02 81 3a00011170 3a00011170 00", "a0", claims(t))
	var m cose.UntaggedSign1Message
	if err := m.UnmarshalCBOR(b); err != nil {
		t.Fatal(err)
	}
	v, err := cose.NewVerifier(cose.AlgorithmEdDSA, testKAK.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(nil, v); err != nil {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
	if k, err := VerifyKAT(b); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("%v, %v", k, err)
	}
}

// A CBOR decoder with its defaults takes the last of two claims, and another one the
// first: two readers of one token would not read the same.
func TestTrapEATDuplicateClaims(t *testing.T) {
	kak := "19 09c4 a3 01 01 20 06 21 5820" + edX
	cnf, nonce := "08 a1 01"+keyTIK, "0a 5820"+challenge
	b := unhex(t, "a4"+cnf+nonce+nonce+kak)
	var m map[int]cbor.RawMessage
	if err := cbor.Unmarshal(b, &m); err != nil || len(m) != 3 {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
	if k, err := VerifyKAT(sign1(t, eddsa, "a0", b)); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("%v, %v", k, err)
	}
}
