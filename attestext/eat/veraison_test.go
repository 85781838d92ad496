package eat

import (
	"bytes"
	"crypto/elliptic"
	"errors"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/fxamacker/cbor/v2"
)

// What github.com/veraison/eat wrote on 2026-11-23, at v0.0.0-20251105185612-2c0e43e22ea9.
// Nothing here depends on it: it links a test framework into programs, and what it lets
// through would have to be refused before it is asked. It decodes into structs with
// fxamacker/cbor, which the tests of traps do here as well.

const (
	// veraisonClaims is knownToken without times and with another OEM ID.
	veraisonClaims = tokenCnf + tokenNonce + tokenUEID +
		"19 0102 43 aabbcc 19 0103 42 beef 19 0107 02 19 0109 74 68747470733a2f2f6578616d706c652e636f6d2f" +
		"19 0111 81 82 19 0102 43 010203"
	// veraisonIat is a time in a tag, which RFC 8392, section 2, has writers leave out.
	veraisonIat = "06 c1 1a 69a42a40"
	// veraisonKey is the key tik with the algorithm ES384.
	veraisonKey = "a5 01 02 20 01 21 5820" + tikX + "22 5820" + tikY + "6a 333a6b65796173696e74 38 22"
)

func TestClaimsByVeraisonAreRead(t *testing.T) {
	token, err := ParseToken(sign1(t, eddsa, "a0", unhex(t, "a8"+veraisonClaims)))
	if err != nil {
		t.Fatal(err)
	}
	want := knownToken(t)
	if !bytes.Equal(token.Nonce, want.Nonce) || !bytes.Equal(token.UEID, want.UEID) || !bytes.Equal(token.HWModel, want.HWModel) ||
		token.OEMID != "aabbcc" || token.DebugStatus != want.DebugStatus || token.Profile != want.Profile ||
		!bytes.Equal(token.Measurements, want.Measurements) || !bytes.Equal(token.Confirmation, spki(t, point(t, elliptic.P256(), tikX, tikY))) {
		t.Errorf("read %+v", token)
	}
}

// looseClaims are claims as a struct of fxamacker/cbor.
type looseClaims struct {
	Nonce []byte `cbor:"10,keyasint,omitempty"`
	Cnf   struct {
		Key struct {
			Type int    `cbor:"1,keyasint"`
			D    []byte `cbor:"-4,keyasint,omitempty"`
		} `cbor:"1,keyasint"`
	} `cbor:"8,keyasint"`
}

// trap has claims decoded into a struct, and here, where they must be refused.
func trap(t *testing.T, claims string) (loose looseClaims) {
	t.Helper()
	b := unhex(t, claims)
	if err := cbor.Unmarshal(b, &loose); err != nil {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
	if token, err := ParseToken(sign1(t, eddsa, "a0", b)); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("%+v, %v", token, err)
	}
	return loose
}

// Of two nonces it takes one.
func TestTrapEATTokenWithAClaimTwice(t *testing.T) {
	if loose := trap(t, "a2"+tokenNonce+"0a 48 0000000000000000"); len(loose.Nonce) == 0 {
		t.Error("the trap is gone, or the test is")
	}
}

// It takes a private key for a confirmation, which a peer would so publish.
func TestTrapEATTokenWithAPrivateKey(t *testing.T) {
	if loose := trap(t, "a2 08 a1 01 a5"+keyTIK[2:]+"23 5820"+challenge+tokenNonce); len(loose.Cnf.Key.D) == 0 {
		t.Error("the trap is gone, or the test is")
	}
}

// It writes alg under the text "3:keyasint", where no reader looks: a key that is not for
// the algorithm of its curve would pass for one that is for any.
func TestTrapEATAlgorithmUnderATextKey(t *testing.T) {
	trap(t, "a2 08 a1 01"+veraisonKey+tokenNonce)
}

// It writes times in a tag.
func TestTrapEATTimeInATag(t *testing.T) {
	trap(t, "a2"+veraisonIat+tokenNonce)
}

// A claim that it does not know is gone.
func TestTrapEATUnknownClaimsVanish(t *testing.T) {
	const claims = "a2" + tokenNonce + "19 095b 19 3000"
	var loose looseClaims
	if err := cbor.Unmarshal(unhex(t, claims), &loose); err != nil {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
	token, err := ParseToken(sign1(t, eddsa, "a0", unhex(t, claims)))
	if err != nil || len(token.Other) != 1 || token.Other[0].String() != "2395" || !bytes.Equal(token.Other[0].Value, []byte{0x19, 0x30, 0}) {
		t.Errorf("%+v, %v", token, err)
	}
}

// It refuses a submodule that is a quote and no token. Here it has a name, by which a policy
// can tell that there is something that nobody has appraised.
func TestTrapEATSubmoduleThatIsAQuote(t *testing.T) {
	token, err := ParseToken(sign1(t, eddsa, "a0", unhex(t, "a2"+tokenNonce+"19 010a a1 63 746565 44 04000200")))
	if err != nil {
		t.Fatal(err)
	}
	if names := token.SubmodNames(); len(names) != 1 || names[0] != `"tee"` {
		t.Errorf("submodules %q", names)
	}
}
