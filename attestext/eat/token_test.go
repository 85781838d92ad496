package eat

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/strict"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

// Claims of a token by hand.
const (
	tokenNonce   = "0a 5820" + challenge
	tokenCnf     = "08 a1 01" + keyTIK
	tokenUEID    = "19 0100 51 01 000102030405060708090a0b0c0d0e0f"
	tokenSubmods = "19 010a a2 64 77696669 a1 19 010a a1 61 62 a0 63 746565 41 00"
	// tokenClaims has every claim that is read, and two that are not, in deterministic
	// order.
	tokenClaims = "b0" +
		"04 1a 69b43ac0" + // exp
		"05 1a 69a42a40" + // nbf
		"06 1a 69a42a40" + // iat
		tokenCnf + tokenNonce + tokenUEID +
		"19 0102 19 7ed9" + // oemid
		"19 0103 42 beef" + // hwmodel
		"19 0107 02" + // dbgstat
		"19 0109 74 68747470733a2f2f6578616d706c652e636f6d2f" + // eat_profile
		tokenSubmods +
		"19 0111 81 82 19 0102 43 010203" + // measurements
		"19 095b 19 3000" + // security lifecycle of PSA
		"20 00" +
		"61 61 f5" +
		"61 62 80"
)

// tokenTime is that of iat above.
var tokenTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// knownToken is what tokenClaims says.
func knownToken(t testing.TB) *Token {
	return &Token{
		Nonce: unhex(t, challenge), Confirmation: spki(t, point(t, elliptic.P256(), tikX, tikY)),
		UEID: unhex(t, tokenUEID[len("19 0100 51 "):]), HWModel: []byte{0xbe, 0xef}, OEMID: "pen:32473",
		DebugStatus: DebugDisabledSinceBoot, Profile: "https://example.com/",
		Measurements: unhex(t, "81 82 19 0102 43 010203"), Submods: unhex(t, tokenSubmods[len("19 010a "):]),
		IssuedAt: tokenTime, NotBefore: tokenTime, Expires: time.Unix(0x69b43ac0, 0).UTC(),
		Other: []Claim{
			{int64(-1), []byte{0}}, {int64(2395), []byte{0x19, 0x30, 0}}, {"a", []byte{0xf5}}, {"b", []byte{0x80}},
		},
		KeyID: []byte("k1"), Algorithm: curveEd25519.alg,
	}
}

const tokenHeader = "a2 01 27 04 42 6b31"

func testKey() TokenKey { return TokenKey{ID: []byte("k1"), Key: testKAK.Public()} }

func TestKnownTokenIsSignedAndVerified(t *testing.T) {
	want := append(bytes.Clone(cwtTag), sign1(t, tokenHeader, "a0", unhex(t, tokenClaims))...)
	got, err := SignToken(nil, testKAK, knownToken(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("signed %x\nwant   %x", got, want)
	}
	for _, b := range [][]byte{want, want[2:], want[3:]} { // in both tags, in one, in none
		token, err := ParseToken(b)
		if err != nil {
			t.Fatal(err)
		}
		names := token.SubmodNames()
		if wantNames := []string{`"tee"`, `"wifi"`, `"wifi"/"b"`}; !slices.Equal(names, wantNames) {
			t.Errorf("submodules %q, want %q", names, wantNames)
		}
		v, err := VerifyToken(token, &TokenOptions{Keys: []TokenKey{testKey()}, Now: tokenTime})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(v.Token(), token) || v.Claim(2395) == nil || v.Claim(2396) != nil {
			t.Errorf("verified %+v, parsed %+v", v.Token(), token)
		}
		token.raw, token.submodNames = nil, nil
		if !reflect.DeepEqual(token, knownToken(t)) {
			t.Errorf("parsed %+v\nwant   %+v", token, knownToken(t))
		}
	}
}

func TestEveryStrictPrefixOfATokenIsRefused(t *testing.T) {
	b := append(bytes.Clone(cwtTag), sign1(t, tokenHeader, "a0", unhex(t, tokenClaims))...)
	for i := range b {
		if _, err := ParseToken(b[:i]); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("first %d of %d bytes: %v", i, len(b), err)
		}
	}
	if _, err := ParseToken(append(b, 0)); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("with a byte behind: %v", err)
	}
}

func TestClaimsHaveTheValuesOfTheirTypes(t *testing.T) {
	for _, tt := range []struct {
		claim string
		got   func(*Token) string
		want  string
	}{
		{"19 0102 43 aabbcc", func(t *Token) string { return t.OEMID }, "aabbcc"},
		{"19 0102 50" + strings.Repeat("ab", 16), func(t *Token) string { return t.OEMID }, strings.Repeat("ab", 16)},
		{"19 0107 00", func(t *Token) string { return t.DebugStatus.String() }, "enabled"},
		{"19 0107 04", func(t *Token) string { return t.DebugStatus.String() }, "disabled-fully-and-permanently"},
		{"19 0109 44 2a030405", func(t *Token) string { return t.Profile }, "1.2.3.4.5"},
		{"19 0109 78 20" + hex.EncodeToString([]byte("tag:psacertified.org,2023:psa#tfm")[:32]), func(t *Token) string { return t.Profile }, "tag:psacertified.org,2023:psa#tf"},
		{"19 0100 58 21" + strings.Repeat("01", 33), func(t *Token) string { return hex.EncodeToString(t.UEID) }, strings.Repeat("01", 33)},
		{"06 00", func(t *Token) string { return t.IssuedAt.Format(time.RFC3339) }, "1970-01-01T00:00:00Z"},
	} {
		b := sign1(t, eddsa, "a0", unhex(t, "a2"+tokenNonce+tt.claim))
		token, err := ParseToken(b)
		if err != nil || tt.got(token) != tt.want {
			t.Errorf("%s: %v, want %q", tt.claim, err, tt.want)
			continue
		}
		b, err = SignToken(nil, testKAK, token)
		if err != nil {
			t.Fatal(err)
		}
		if token, err := ParseToken(b); err != nil || tt.got(token) != tt.want {
			t.Errorf("%s, signed again: %v, want %q", tt.claim, err, tt.want)
		}
	}
}

// manySubmods returns a claim with a submodule of the given encoded name and n within it.
func manySubmods(name string, n int) string {
	var inner strings.Builder
	for i := range n {
		fmt.Fprintf(&inner, "61 %02x a0", i+0x20)
	}
	return fmt.Sprintf("19 010a a1 %s a1 19 010a b8 %02x %s", name, n, inner.String())
}

// The signatures verify, or would, so that it is the structure that is refused.
func TestMalformedTokenIsRefused(t *testing.T) {
	token := func(claims string) []byte { return sign1(t, eddsa, "a0", unhex(t, claims)) }
	with := func(claim string) []byte { return token("a2" + tokenNonce + claim) }
	nested := func(n int) string { // submods within submods, and a token in the last
		return strings.Repeat("a1 19 010a a1 61 61", n) + "41 00"
	}
	if _, err := ParseToken(with(manySubmods("78 40"+strings.Repeat("00", 64), 63))); err != nil {
		t.Fatalf("submodules and names at the bound: %v", err)
	}
	sized := func(n int) []byte {
		n -= len(with("61 61 59 0400"+strings.Repeat("00", 0x400))) - 0x400
		return with("61 61" + hex.EncodeToString(bstr(make([]byte, n))))
	}
	if _, err := ParseToken(sized(MaxTokenSize)); err != nil {
		t.Fatalf("size at the bound: %v", err)
	}
	good := token("a1" + tokenNonce)
	if _, err := ParseToken(good); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseToken(with("19 010a a1 61 61" + nested(MaxSubmodDepth-1))); err != nil {
		t.Fatalf("submods at the bound: %v", err)
	}
	const long, textTooLong = 0x1000, 500 // bytes
	longText := "79 1000" + strings.Repeat("01", long)
	for name, b := range map[string][]byte{
		"empty":                       {},
		"long header parameter":       sign1(t, "a2 01 27"+longText+"00", "a0", unhex(t, "a1"+tokenNonce)),
		"long unprotected parameter":  sign1(t, eddsa, "a1"+longText+"00", unhex(t, "a1"+tokenNonce)),
		"long member of cnf":          with("08 a1 01 a1" + longText + "00"),
		"long claim twice":            token("a3" + tokenNonce + longText + "00" + longText + "00"),
		"crit":                        sign1(t, "a2 01 27 02 81 01", "a0", unhex(t, "a1"+tokenNonce)),
		"no alg":                      sign1(t, "a0", "a0", unhex(t, "a1"+tokenNonce)),
		"alg as text":                 sign1(t, "a1 01 646e6f6e65", "a0", unhex(t, "a1"+tokenNonce)),
		"alg unprotected":             sign1(t, "a0", "a1 01 27", unhex(t, "a1"+tokenNonce)),
		"x5chain":                     sign1(t, eddsa, "a1 18 21 4101", unhex(t, "a1"+tokenNonce)),
		"unsigned claims-set":         unhex(t, "a1"+tokenNonce),
		"COSE_Mac0":                   append([]byte{0xd1}, good...),
		"CWT tag alone":               append([]byte{0xd8, 61}, good...),
		"two CWT tags":                append(append(bytes.Clone(cwtTag[:2]), cwtTag...), good...),
		"too long":                    sized(MaxTokenSize + 1),
		"claims as an array":          token("81 00"),
		"claims behind claims":        token("a1" + tokenNonce + "00"),
		"claims of indefinite length": token("bf" + tokenNonce + "ff"),
		"no eat_nonce":                token("a1" + tokenUEID),
		"duplicate eat_nonce":         token("a2" + tokenNonce + tokenNonce),
		"duplicate unknown claim":     token("a3" + tokenNonce + "61 61 00 61 61 01"),
		"nonce of 7 bytes":            token("a1 0a 47" + challenge[:14]),
		"nonce of 65 bytes":           token("a1 0a 58 41" + strings.Repeat("00", 65)),
		"nonce as text":               token("a1 0a 68 6161616161616161"),
		"two nonces":                  token("a1 0a 82 58 20" + challenge + "58 20" + challenge),
		"null for a nonce":            token("a1 0a f6"),
		"cnf as a key":                with("08" + keyTIK),
		"cnf with a kid":              with("08 a2 01" + keyTIK + "03 41 61"),
		"cnf by kid alone":            with("08 a1 03 41 61"),
		"private key in cnf":          with("08 a1 01 a5" + keyTIK[2:] + "23 58 20" + challenge),
		"symmetric key in cnf":        with("08 a1 01 a2 01 04 20 41 01"),
		"cnf that panics go-cose":     with("08 a1 01 a2 01 02 20 40"),
		"point off the curve":         with("08 a1 01 a4 01 02 20 01 21 5820" + p256X + "22 5820" + p256X),
		"ueid of 6 bytes":             with("19 0100 46 010203040506"),
		"ueid of 34 bytes":            with("19 0100 58 22" + strings.Repeat("01", 34)),
		"ueid as text":                with("19 0100 67 61616161616161"),
		"oemid of 4 bytes":            with("19 0102 44 01020304"),
		"oemid as text":               with("19 0102 63 616161"),
		"oemid below zero":            with("19 0102 20"),
		"oemid beyond int64":          with("19 0102 1b ffffffffffffffff"),
		"hwmodel of no bytes":         with("19 0103 40"),
		"hwmodel of 33 bytes":         with("19 0103 58 21" + strings.Repeat("01", 33)),
		"dbgstat of 5":                with("19 0107 05"),
		"dbgstat of 256":              with("19 0107 19 0100"),
		"dbgstat below zero":          with("19 0107 20"),
		"dbgstat as a boolean":        with("19 0107 f5"),
		"profile that is no URI":      with("19 0109 65 312e322e33"),
		"profile that is relative":    with("19 0109 62 2f61"),
		"empty profile":               with("19 0109 60"),
		"profile of no OID":           with("19 0109 41 80"),
		"profile as a number":         with("19 0109 00"),
		"over-long profile":           with("19 0109 79 0100 68747470733a" + strings.Repeat("61", 250)),
		"iat as a float":              with("06 f9 3c00"),
		"iat as text":                 with("06 61 31"),
		"iat in a tag":                with("06 c1 00"),
		"exp below zero":              with("04 20"),
		"exp beyond the year 9999":    with("04 1b 0000003afff44180"),
		"no measurement":              with("19 0111 80"),
		"measurements as a map":       with("19 0111 a0"),
		"measurement of one element":  with("19 0111 81 81 00"),
		"measurement of three":        with("19 0111 81 83 00 40 00"),
		"measurement without bytes":   with("19 0111 81 82 00 00"),
		"measurement without format":  with("19 0111 81 82 61 61 40"),
		"no submodule":                with("19 010a a0"),
		"submodule with a number":     with("19 010a a1 01 a0"),
		"submodule twice":             with("19 010a a2 61 61 a0 61 61 a0"),
		"submodule of another type":   with("19 010a a1 61 61 00"),
		"claim twice in a submodule":  with("19 010a a1 61 61 a2 01 00 01 00"),
		"too many submods":            with(manySubmods("61 61", 64)),
		"over-long name of submodule": with("19 010a a1 78 41" + strings.Repeat("61", 65) + "a0"),
		"submods too deep":            with("19 010a a1 61 61" + nested(MaxSubmodDepth)),
		"other claims too deep":       with("61 61" + strings.Repeat("81", 9) + "00"),
		"too many claims":             token("b8 42" + tokenNonce + strings.Repeat("00", 65*2)),
	} {
		token, err := ParseToken(b)
		if !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, token, err)
		} else if n := len(err.Error()); n > textTooLong {
			t.Errorf("%s: an error of %d bytes", name, n)
		}
	}
}

// A signedToken is a token, in either form, and what becomes of it where keys are trusted.
type signedToken struct {
	name  string
	token []byte
	keys  []TokenKey
	class error // nil where it is accepted
	say   string
}

func checkSigned(t *testing.T, tokens []signedToken) {
	t.Helper()
	for _, tt := range tokens {
		token, err := ParseToken(tt.token)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		v, err := VerifyToken(token, &TokenOptions{Keys: tt.keys, Now: tokenTime})
		if tt.class == nil {
			if err != nil || v.Signer() == [32]byte{} {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if v != nil || attestext.Class(err) != tt.class || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestTokenOfAnotherSignerIsRefused(t *testing.T) {
	good := sign1(t, tokenHeader, "a0", unhex(t, tokenClaims))
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	nameless := sign1(t, eddsa, "a0", unhex(t, tokenClaims))
	es256 := sign1(t, "a2 01 26 04 42 6b31", "a0", unhex(t, tokenClaims))
	other := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public()
	p256 := point(t, elliptic.P256(), p256X, p256Y)
	key := testKey()
	checkSigned(t, []signedToken{
		{"good", good, []TokenKey{key}, nil, ""},
		{"key by any name", good, []TokenKey{{Key: key.Key}}, nil, ""},
		{"no name, key by any", nameless, []TokenKey{{Key: key.Key}}, nil, ""},
		{"second of two of that name", good, []TokenKey{{key.ID, other}, key}, nil, ""},
		{"key ID unprotected", sign1(t, eddsa, "a1 04 42 6b31", unhex(t, tokenClaims)), []TokenKey{key}, nil, ""},
		{"no key", good, nil, attestext.ErrUnavailable, "supply the keys"},
		{"flipped bit", flipped, []TokenKey{key}, attestext.ErrSignature, "no trusted key made the signature"},
		{"other key", good, []TokenKey{{key.ID, other}}, attestext.ErrSignature, "no trusted key made the signature"},
		{"other name", good, []TokenKey{{[]byte("k2"), key.Key}}, attestext.ErrSignature, `no trusted key has the ID "k1"`},
		{"long name", sign1(t, eddsa, "a1 04 58 40"+strings.Repeat("61", 64), unhex(t, tokenClaims)), []TokenKey{key}, attestext.ErrSignature, `the ID "` + strings.Repeat("a", 32) + `"`},
		{"no name", nameless, []TokenKey{key}, attestext.ErrSignature, "no trusted key has the ID"},
		{"algorithm of another curve", es256, []TokenKey{key}, attestext.ErrSignature, "algorithm -7 is not that of a trusted key"},
		{"algorithm none", sign1(t, "a2 01 00 04 42 6b31", "a0", unhex(t, tokenClaims)), []TokenKey{key}, attestext.ErrSignature, "algorithm 0 is not"},
		{"HMAC with a public key", sign1(t, "a2 01 05 04 42 6b31", "a0", unhex(t, tokenClaims)), []TokenKey{key}, attestext.ErrSignature, "algorithm 5 is not"},
		{"key of that algorithm", es256, []TokenKey{{key.ID, p256}}, attestext.ErrSignature, "no trusted key made the signature"},
		{"unusable key", good, []TokenKey{{Key: ed25519.PublicKey(nil)}, {Key: (*ecdsa.PublicKey)(nil)}, {}}, attestext.ErrSignature, "is not that of a trusted key"},
	})
	if _, err := VerifyToken(&Token{}, &TokenOptions{Keys: []TokenKey{key}}); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("not parsed: %v", err)
	}
	// What counts is what was parsed, and not what the caller has made of it.
	token, err := ParseToken(good)
	if err != nil {
		t.Fatal(err)
	}
	token.DebugStatus, token.Nonce = DebugEnabled, nil
	v, err := VerifyToken(token, &TokenOptions{Keys: []TokenKey{key}, Now: tokenTime})
	if err != nil || v.Token().DebugStatus != DebugDisabledSinceBoot || v.Token().Nonce == nil {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestTokenIsValidForItsTime(t *testing.T) {
	for _, tt := range []struct {
		name  string
		claim string // 0x69a42a40 is tokenTime
		at    time.Duration
		say   string // empty where it is accepted
	}{
		{"at once", "06 1a 69a42a40", 0, ""},
		{"a clock that is slow", "06 1a 69a42a40", -TokenLeeway, ""},
		{"of the future", "06 1a 69a42a40", -TokenLeeway - time.Second, "issued in the future"},
		{"before nbf, within the leeway", "05 1a 69a42a40", -TokenLeeway, ""},
		{"before nbf", "05 1a 69a42a40", -TokenLeeway - time.Second, "not valid before"},
		{"before exp", "04 1a 69a42a40", -time.Second, ""},
		{"at exp", "04 1a 69a42a40", 0, "expired"},
		{"after exp", "04 1a 69a42a40", time.Second, "expired"},
	} {
		token, err := ParseToken(sign1(t, tokenHeader, "a0", unhex(t, "a2"+tokenNonce+tt.claim)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = VerifyToken(token, &TokenOptions{Keys: []TokenKey{testKey()}, Now: tokenTime.Add(tt.at)})
		if tt.say == "" && err != nil || tt.say != "" && (!errors.Is(err, attestext.ErrSignature) || !strings.Contains(err.Error(), tt.say)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	// An audience is somebody else: this side has no name.
	token, err := ParseToken(sign1(t, tokenHeader, "a0", unhex(t, "a2"+tokenNonce+"03 61 61")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyToken(token, &TokenOptions{Keys: []TokenKey{testKey()}}); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("for an audience: %v", err)
	}
}

func TestTokenThatWouldBeRefusedIsNotSigned(t *testing.T) {
	for name, change := range map[string]func(*Token){
		"no nonce":          func(k *Token) { k.Nonce = nil },
		"short ueid":        func(k *Token) { k.UEID = []byte{1} },
		"no cnf key":        func(k *Token) { k.Confirmation = []byte{0x30} },
		"oemid":             func(k *Token) { k.OEMID = "pen:x" },
		"oemid of 4 bytes":  func(k *Token) { k.OEMID = "01020304" },
		"relative profile":  func(k *Token) { k.Profile = "x" },
		"debug status":      func(k *Token) { k.DebugStatus = 9 },
		"claim twice":       func(k *Token) { k.Other = append(k.Other, k.Other[0]) },
		"claim that is set": func(k *Token) { k.Other = append(k.Other, Claim{claimNonce, []byte{0}}) },
		"no CBOR":           func(k *Token) { k.Other = append(k.Other, Claim{"c", []byte{0xff}}) },
		"measurements":      func(k *Token) { k.Measurements = []byte{0x80} },
		"before 1970":       func(k *Token) { k.IssuedAt = time.Unix(-1, 0) },
	} {
		token := knownToken(t)
		change(token)
		if b, err := SignToken(nil, testKAK, token); err == nil {
			t.Errorf("%s: signed as %x", name, b)
		}
	}
}

func TestTokenKeysInPEM(t *testing.T) {
	for _, key := range []TokenKey{testKey(), {Key: testKAK.Public()}, {[]byte{0}, point(t, elliptic.P384(), p384X, p384Y)}} {
		b, err := key.MarshalPEM()
		if err != nil {
			t.Fatal(err)
		}
		block, rest := pem.Decode(b)
		got, err := ParseTokenKey(block)
		if err != nil || len(rest) != 0 || !bytes.Equal(got.ID, key.ID) || !key.Key.(interface{ Equal(crypto.PublicKey) bool }).Equal(got.Key) {
			t.Errorf("%s: %+v, %v", b, got, err)
		}
	}
	good := spki(t, testKAK.Public())
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"no key":         {Bytes: []byte{0}},
		"private key":    {Bytes: append([]byte{0x30, 0x2e, 2, 1, 0}, good[2:]...)},
		"P-521":          {Bytes: spki(t, p521.Public())},
		"unknown header": {Bytes: good, Headers: map[string]string{"KeyID": "01"}},
		"empty ID":       {Bytes: good, Headers: map[string]string{pemKeyID: ""}},
		"ID as text":     {Bytes: good, Headers: map[string]string{pemKeyID: "key"}},
	} {
		if k, err := ParseTokenKey(block); err == nil {
			t.Errorf("%s: %+v", name, k)
		}
	}
	for _, pub := range []crypto.PublicKey{nil, p521.Public()} {
		if b, err := (TokenKey{Key: pub}).MarshalPEM(); err == nil {
			t.Errorf("%T: %s", pub, b)
		}
	}
}

// canBeWritten reports whether the encoder takes what the token has as it came.
func canBeWritten(t *Token) bool {
	raw := [][]byte{t.Measurements, t.Submods}
	for _, c := range t.Other {
		raw = append(raw, c.Value)
	}
	return !slices.ContainsFunc(raw, func(b []byte) bool {
		_, err := strict.Marshal(strict.Raw(b))
		return err != nil
	})
}

func FuzzToken(f *testing.F) {
	f.Add(append(bytes.Clone(cwtTag), sign1(f, tokenHeader, "a0", unhex(f, tokenClaims))...))
	f.Add(sign1(f, eddsa, "a0", unhex(f, "a2"+tokenNonce+"19 0109 44 2a030405")))
	f.Add(sign1(f, eddsa, "a0", unhex(f, "a2"+tokenNonce+"19 010a a1 61 61 a1 19 010a a1 61 61 a0")))
	f.Add(sign1(f, eddsa, "a0", unhex(f, "a2"+tokenNonce+"08 a1 01 a2 01 02 20 40")))
	// A name that would come again with each submodule within.
	f.Add(sign1(f, eddsa, "a0", unhex(f, "a2"+tokenNonce+manySubmods("79 f000"+strings.Repeat("00", 0xf000), 64))))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		// There is room for tags and a signature. What is under a tag, which nobody reads,
		// the encoder looks at and the parser does not.
		fuzzToken(t, b, func(k *Token) bool { return len(b) <= MaxTokenSize-128 && canBeWritten(k) }, func(*Token) {})
	})
}

// fuzzToken has ParseToken read b: what it refuses is malformed, what verifies is what was
// parsed, and what is writable can be signed again and, once it is plain, says the same.
func fuzzToken(t *testing.T, b []byte, writable func(*Token) bool, plain func(*Token)) {
	token, err := ParseToken(b)
	if err != nil {
		if token != nil || !errors.Is(err, attestext.ErrMalformed) {
			t.Fatalf("%+v, %v", token, err)
		}
		return
	}
	opts := &TokenOptions{Keys: []TokenKey{{Key: testKAK.Public()}}, Now: tokenTime}
	if v, err := VerifyToken(token, opts); err == nil && !bytes.Equal(v.Token().Nonce, token.Nonce) {
		t.Fatal("what is verified is not what was parsed")
	}
	if !writable(token) {
		return
	}
	again, err := SignToken(nil, testKAK, token)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ParseToken(again)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*Token{token, other} {
		k.Algorithm, k.raw = 0, nil
		plain(k)
	}
	if !reflect.DeepEqual(token, other) {
		t.Fatalf("%+v came back as %+v", token, other)
	}
}

func BenchmarkToken(b *testing.B) {
	for name, t := range map[string]*Token{"CWT": knownToken(b), "JWT": asJWT(knownToken(b))} {
		raw, err := SignToken(nil, testKAK, t)
		if err != nil {
			b.Fatal(err)
		}
		token, err := ParseToken(raw)
		if err != nil {
			b.Fatal(err)
		}
		opts := &TokenOptions{Keys: []TokenKey{{Key: testKAK.Public()}}, Now: tokenTime}
		for what, f := range map[string]func() error{
			"parse":  func() error { _, err := ParseToken(raw); return err },
			"verify": func() error { _, err := VerifyToken(token, opts); return err },
		} {
			b.Run(name+"/"+what, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := f(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
