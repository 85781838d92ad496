package eat

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/veraison/go-cose"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The P-256 keys are those of the example of draft-bft-rats-kat-06, section 6,
// the second of which is that of RFC 8747, section 3.2; P-384 and Ed25519 are
// generators of their groups.
const (
	p256X = "f0fffa7ba35e76e44ca1f5446d327c8382a5a40e5f29745df948346c7c88a5d3"
	p256Y = "7cb4c4873cbb6f097562f61d5280768cd2cfe35fba97e997280dbaaae3af92fe"
	tikX  = "d7cc072de2205bdc1537a543d53c60a6acb62eccd890c7fa27c9e354089bbe13"
	tikY  = "f95e1d4b851a2cc80fff87d8e23f22afb725d535e515d020731e79a3b4e47120"
	p384X = "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7"
	p384Y = "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f"
	edX   = "5866666666666666666666666666666666666666666666666666666666666666"

	keyP256    = "a4 01 02 20 01 21 5820" + p256X + "22 5820" + p256Y
	keyTIK     = "a4 01 02 20 01 21 5820" + tikX + "22 5820" + tikY
	keyP384    = "a4 01 02 20 02 21 5830" + p384X + "22 5830" + p384Y
	keyEd25519 = "a3 01 01 20 06 21 5820" + edX
)

// point returns the key at the given coordinates.
func point(t testing.TB, c elliptic.Curve, x, y string) *ecdsa.PublicKey {
	t.Helper()
	pub, err := ecdsa.ParseUncompressedPublicKey(c, unhex(t, "04"+x+y))
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func TestKnownKeysParseAndEncode(t *testing.T) {
	for _, tt := range []struct {
		name, hex string
		want      crypto.PublicKey
	}{
		{"P-256", keyP256, point(t, elliptic.P256(), p256X, p256Y)},
		{"P-256 of RFC 8747", keyTIK, point(t, elliptic.P256(), tikX, tikY)},
		{"P-384", keyP384, point(t, elliptic.P384(), p384X, p384Y)},
		{"Ed25519", keyEd25519, ed25519.PublicKey(unhex(t, edX))},
	} {
		b := unhex(t, tt.hex)
		got, err := ParseKey(b)
		if err != nil || !tt.want.(interface{ Equal(crypto.PublicKey) bool }).Equal(got) {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
		if enc, err := MarshalKey(tt.want); err != nil || !bytes.Equal(enc, b) {
			t.Errorf("%s: %x, %v", tt.name, enc, err)
		}
		for i := range b {
			if _, err := ParseKey(b[:i]); !errors.Is(err, attestext.ErrMalformed) {
				t.Errorf("%s: first %d of %d bytes: %v", tt.name, i, len(b), err)
			}
		}
		if _, err := ParseKey(append(b, 0)); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s with a byte behind: %v", tt.name, err)
		}
	}
}

func TestKeyMayHaveAlgorithmAndIdentifier(t *testing.T) {
	xy := "20 01 21 5820" + p256X + "22 5820" + p256Y
	for _, s := range []string{
		"a5 01 02 03 26" + xy,          // ES256
		"a5 01 02 03 28" + xy,          // ESP256
		"a5 01 02 02 40" + xy,          // an empty kid
		"a6 01 02 02 41 07 03 26" + xy, // both
		"a4" + xy + "01 02",            // another order
		"a4 1801 02" + xy,              // a longer encoding of a label
		"a5 01 02 02 58 01 07" + xy,    // and of a length
	} {
		if pub, err := ParseKey(unhex(t, s)); err != nil || !point(t, elliptic.P256(), p256X, p256Y).Equal(pub) {
			t.Errorf("%s: %v, %v", s, pub, err)
		}
	}
}

func TestMalformedKeyIsRefused(t *testing.T) {
	x, y := "21 5820"+p256X, "22 5820"+p256Y
	zero32 := strings.Repeat("00", 32)
	for name, s := range map[string]string{
		"empty map":                    "a0",
		"array":                        "80",
		"private part":                 "a5 01 02 20 01" + x + y + "23 5820" + zero32,
		"private part of OKP":          "a4 01 01 20 06 21 5820" + edX + "23 5820" + zero32,
		"key_ops":                      "a5 01 02 04 81 02 20 01" + x + y,
		"unknown label":                "a5 01 02 20 01" + x + y + "6161 00",
		"duplicate x":                  "a5 01 02 20 01" + x + x + y,
		"duplicate x in two encodings": "a5 01 02 20 01" + x + "3801 5820" + p256X + y,
		"indefinite length":            "bf 01 02 20 01" + x + y + "ff",
		"x of indefinite length":       "a4 01 02 20 01 21 5f 5820" + p256X + "ff" + y,
		"no kty":                       "a3 20 01" + x + y,
		"no crv":                       "a3 01 02" + x + y,
		"no x":                         "a3 01 02 20 01" + y,
		"no y":                         "a3 01 02 20 01" + x,
		"kty as text":                  "a4 01 63454332 20 01" + x + y,
		"crv as text":                  "a4 01 02 20 65502d323536" + x + y,
		"symmetric":                    "a2 01 04 20 4101",
		"P-521":                        "a4 01 02 20 03" + x + y,
		"secp256k1":                    "a4 01 02 20 08" + x + y,
		"P-256 as OKP":                 "a3 01 01 20 01" + x,
		"Ed25519 as EC2":               "a4 01 02 20 06" + x + y,
		"X25519":                       "a3 01 01 20 04 21 5820" + edX,
		"OKP with y":                   "a4 01 01 20 06 21 5820" + edX + y,
		"OKP with an empty y":          "a4 01 01 20 06 21 5820" + edX + "22 40",
		"Ed25519 of 31 bytes":          "a3 01 01 20 06 21 581f" + edX[2:],
		"x of 31 bytes":                "a4 01 02 20 01 21 581f" + p256X[2:] + y,
		"x of 33 bytes":                "a4 01 02 20 01 21 5821 00" + p256X + y,
		"P-256 coordinates on P-384":   "a4 01 02 20 02" + x + y,
		"compressed point":             "a4 01 02 20 01" + x + "22 f5",
		"null for y":                   "a4 01 02 20 01" + x + "22 f6",
		"integers for y":               "a4 01 02 20 01" + x + "22 8101",
		"point not on the curve":       "a4 01 02 20 01" + x + "22 5820" + p256X,
		"point at zero":                "a4 01 02 20 01 21 5820" + zero32 + "22 5820" + zero32,
		"coordinate beyond the field":  "a4 01 02 20 01 21 5820" + strings.Repeat("ff", 32) + y,
		"algorithm of another curve":   "a5 01 02 03 3822 20 01" + x + y,
		"algorithm zero":               "a5 01 02 03 00 20 01" + x + y,
		"algorithm as text":            "a5 01 02 03 6545533235362001" + x + y,
		"key identifier as text":       "a5 01 02 02 6161 20 01" + x + y,
		"tagged map":                   "c1" + keyP256,
		"null for kty":                 "a4 01 f6 20 01" + x + y,
		"kty beyond int64":             "a4 01 1bffffffffffffffff 20 01" + x + y,
		"tagged x":                     "a4 01 02 20 01 21 d7 5820" + p256X + y,
	} {
		if pub, err := ParseKey(unhex(t, s)); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %v, %v", name, pub, err)
		}
	}
}

func TestKeyOfAnotherKindIsNotEncoded(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, pub := range []crypto.PublicKey{
		nil, r.Public(), p521.Public(), ed25519.PublicKey(nil), (*ecdsa.PublicKey)(nil), &ecdsa.PublicKey{},
	} {
		if b, err := MarshalKey(pub); err == nil {
			t.Errorf("%T: encoded as %x", pub, b)
		}
	}
}

func TestGoCOSEReadsOurKeys(t *testing.T) {
	for _, s := range []string{keyP256, keyP384, keyEd25519} {
		var k cose.Key
		if err := k.UnmarshalCBOR(unhex(t, s)); err != nil {
			t.Error(err)
			continue
		}
		other, err := k.PublicKey()
		if err != nil {
			t.Error(err)
			continue
		}
		ours, err := ParseKey(unhex(t, s))
		if err != nil || !other.(interface{ Equal(crypto.PublicKey) bool }).Equal(ours) {
			t.Errorf("%v, %v", ours, err)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{keyP256, keyTIK, keyP384, keyEd25519, "a2 01 02 20 40", "a5 03 26" + keyP256[2:]} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		k, err := parseKey(b)
		if err != nil {
			if pub, err := ParseKey(b); pub != nil || !errors.Is(err, attestext.ErrMalformed) {
				t.Fatalf("%v, %v", pub, err)
			}
			return
		}
		enc, err := marshalKey(k)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseKey(enc)
		if err != nil || again.alg != k.alg || !bytes.Equal(again.kid, k.kid) ||
			!again.pub.(interface{ Equal(crypto.PublicKey) bool }).Equal(k.pub) {
			t.Fatalf("%+v came back as %+v, %v", k, again, err)
		}
		if len(enc) > len(b) {
			t.Fatalf("deterministic encoding %x is longer than %x", enc, b)
		}
	})
}
