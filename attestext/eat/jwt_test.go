package eat

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func b64hex(t testing.TB, s string) string { return b64(unhex(t, s)) }

// jws returns a JWS by hand, signed with EdDSA by testKAK whatever its header says.
func jws(header, payload string) []byte {
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	return []byte(input + "." + b64(ed25519.Sign(testKAK, []byte(input))))
}

const (
	jwtHeader      = `{"alg":"EdDSA","kid":"k1","typ":"eat+jwt"}`
	jwtPlainHeader = `{"alg":"EdDSA"}`
)

func jwtNonce(t testing.TB) string { return `"eat_nonce":"` + b64hex(t, challenge) + `"` }

func jwkTIK(t testing.TB) string {
	return `"kty":"EC","crv":"P-256","x":"` + b64hex(t, tikX) + `","y":"` + b64hex(t, tikY) + `"`
}

// jwtClaimsByHand says what tokenClaims does, and has two claims that are not read.
func jwtClaimsByHand(t testing.TB) string {
	return "{" + jwtNonce(t) + `,"cnf":{"jwk":{` + jwkTIK(t) + `}}` +
		`,"ueid":"` + b64hex(t, tokenUEID[len("19 0100 51 "):]) + `","oemid":32473,"hwmodel":"vu8"` +
		`,"dbgstat":"disabled-since-boot","eat_profile":"https://example.com/","measurements":[[258,"AQID"]]` +
		`,"submods":{"wifi":{"submods":{"b":{}}},"tee":["JWT","e30.e30.AA"]}` +
		fmt.Sprintf(`,"iat":%d,"nbf":%[1]d,"exp":%d`, tokenTime.Unix(), 0x69b43ac0) +
		`,"swname":"<x>","a":1.5e3}`
}

// asJWT makes of a CWT's token the same one as a JWT has it.
func asJWT(token *Token) *Token {
	token.JSON = true
	token.Submods = []byte(`{"wifi":{"submods":{"b":{}}},"tee":["JWT","e30.e30.AA"]}`)
	token.Other = []Claim{{"a", []byte("1.5e3")}, {"swname", []byte(`"<x>"`)}}
	return token
}

func TestKnownJWTIsSignedAndVerified(t *testing.T) {
	signed, err := SignToken(nil, testKAK, asJWT(knownToken(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{jws(jwtHeader, jwtClaimsByHand(t)), signed} {
		token, err := ParseToken(b)
		if err != nil {
			t.Fatal(err)
		}
		if names := fmt.Sprint(token.SubmodNames()); names != `["tee" "wifi" "wifi"/"b"]` {
			t.Errorf("submodules %s", names)
		}
		v, err := VerifyToken(token, &TokenOptions{Keys: []TokenKey{testKey()}, Now: tokenTime})
		if err != nil || !reflect.DeepEqual(v.Token(), token) {
			t.Fatalf("verified %+v, %v", v, err)
		}
		token.raw, token.submodNames = nil, nil
		if want := asJWT(knownToken(t)); !reflect.DeepEqual(token, want) {
			t.Errorf("parsed %+v\nwant   %+v", token, want)
		}
	}
	for i := range signed {
		token, err := ParseToken(signed[:i])
		if err == nil {
			_, err = VerifyToken(token, &TokenOptions{Keys: []TokenKey{testKey()}, Now: tokenTime})
		}
		if err == nil {
			t.Errorf("first %d of %d bytes are accepted", i, len(signed))
		}
	}
}

// RFC 9711 gives each claim two forms. Both say the same here.
func TestClaimsSayTheSameInBothForms(t *testing.T) {
	for _, tt := range []struct{ cwt, jwt string }{
		{"19 0102 43 aabbcc", `"oemid":"qrvM"`},
		{"19 0102 50" + strings.Repeat("ab", 16), `"oemid":"` + b64(bytes.Repeat([]byte{0xab}, 16)) + `"`},
		{"19 0102 00", `"oemid":0`},
		{"19 0107 00", `"dbgstat":"enabled"`},
		{"19 0107 04", `"dbgstat":"disabled-fully-and-permanently"`},
		{"19 0109 44 2a030405", `"eat_profile":"1.2.3.4.5"`},
		{"19 0100 58 21" + strings.Repeat("01", 33), `"ueid":"` + b64(bytes.Repeat([]byte{1}, 33)) + `"`},
		{"06 00", `"iat":0`},
		{"04 1b 0000003afff4417f", `"exp":253402300799`},
		{"19 0111 82 82 00 40 82 19 0102 41 01", `"measurements":[[0,""],[258,"AQ"]]`},
	} {
		cwt, err := ParseToken(sign1(t, eddsa, "a0", unhex(t, "a2"+tokenNonce+tt.cwt)))
		if err != nil {
			t.Fatal(err)
		}
		for _, header := range []string{jwtPlainHeader, `{"alg":"EdDSA","typ":"JWT"}`, `{"alg":"EdDSA","typ":"application/EAT+jwt"}`} {
			jwt, err := ParseToken(jws(header, "{"+jwtNonce(t)+","+tt.jwt+"}"))
			if err != nil {
				t.Errorf("%s: %v", tt.jwt, err)
				continue
			}
			// Each can be signed in the form of the other.
			jwt.JSON, cwt.JSON = false, true
			for _, token := range []*Token{jwt, cwt} {
				b, err := SignToken(nil, testKAK, token)
				if err != nil {
					t.Fatal(err)
				}
				again, err := ParseToken(b)
				if err != nil || again.JSON != token.JSON {
					t.Fatalf("%s: %+v, %v", b, again, err)
				}
			}
			jwt.raw, cwt.raw, cwt.JSON = nil, nil, false
			if !reflect.DeepEqual(jwt, cwt) {
				t.Errorf("%+v\n%+v", jwt, cwt)
			}
		}
	}
}

func TestMalformedJWTIsRefused(t *testing.T) {
	nonce := jwtNonce(t)
	with := func(claim string) []byte { return jws(jwtPlainHeader, "{"+nonce+","+claim+"}") }
	under := func(header string) []byte { return jws(header, "{"+nonce+"}") }
	sized := func(n int) []byte {
		token := with(`"a":"` + strings.Repeat("a", (n-len(with(`"a":""`)))*3/4) + `"`)
		if len(token) != n {
			t.Fatalf("%d bytes, want %d", len(token), n)
		}
		return token
	}
	nested := func(n int) string {
		return strings.Repeat(`{"a":{"submods":`, n) + `{"a":["JWT","x"]}` + strings.Repeat("}}", n)
	}
	for name, b := range map[string][]byte{
		"nonce":              under(jwtPlainHeader),
		"size at the bound":  sized(MaxTokenSize),
		"submods, 3 deep":    with(`"submods":` + nested(MaxSubmodDepth-1)),
		"unknown claim":      with(`"a":1.5e3`),
		"jwk with a use":     with(`"cnf":{"jwk":{` + jwkTIK(t) + `,"use":"sig"}}`),
		"key without a name": under(`{"alg":"EdDSA","kid":""}`),
	} {
		if _, err := ParseToken(b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	good := under(jwtPlainHeader)
	parts := strings.Split(string(good), ".")
	joined := func(p ...string) []byte { return []byte(strings.Join(p, ".")) }
	for name, b := range map[string][]byte{
		"alg none":                    under(`{"alg":"none"}`),
		"alg none, unsigned":          joined(b64([]byte(`{"alg":"none"}`)), parts[1], ""),
		"no signature":                joined(parts[0], parts[1], ""),
		"alg HS256":                   under(`{"alg":"HS256"}`),
		"alg RS256":                   under(`{"alg":"RS256"}`),
		"alg ES512":                   under(`{"alg":"ES512"}`),
		"alg in small letters":        under(`{"alg":"eddsa"}`),
		"alg as a number":             under(`{"alg":-8}`),
		"no alg":                      under(`{"typ":"JWT"}`),
		"alg twice":                   under(`{"alg":"EdDSA","alg":"EdDSA"}`),
		"alg twice, once escaped":     under(`{"alg":"EdDSA","\u0061lg":"EdDSA"}`),
		"crit":                        under(`{"alg":"EdDSA","crit":["exp"],"exp":"1"}`),
		"b64":                         under(`{"alg":"EdDSA","b64":false}`),
		"jku":                         under(`{"alg":"EdDSA","jku":"https://example.com/"}`),
		"zip":                         under(`{"alg":"EdDSA","zip":"DEF"}`),
		"cty":                         under(`{"alg":"EdDSA","cty":"JWT"}`),
		"typ of another token":        under(`{"alg":"EdDSA","typ":"at+jwt"}`),
		"typ as a number":             under(`{"alg":"EdDSA","typ":1}`),
		"kid as a number":             under(`{"alg":"EdDSA","kid":1}`),
		"header with space before":    under(` {"alg":"EdDSA"}`),
		"header with more behind":     under(`{"alg":"EdDSA"}{}`),
		"two parts":                   joined(parts[0], parts[1]),
		"four parts":                  joined(parts[0], parts[1], parts[2], ""),
		"padding":                     append(bytes.Clone(good), '='),
		"line break behind":           append(bytes.Clone(good), '\n'),
		"line break within":           joined(parts[0], parts[1][:4]+"\n"+parts[1][4:], parts[2]),
		"space behind":                append(bytes.Clone(good), ' '),
		"bits that are not zero":      joined(parts[0], parts[1], parts[2][:len(parts[2])-1]+string(parts[2][len(parts[2])-1]+1)),
		"base64 of the other kind":    joined(parts[0], parts[1], strings.Repeat("+", len(parts[2]))),
		"JSON serialization":          []byte(`{"payload":"` + parts[1] + `","signatures":[]}`),
		"too long":                    sized(MaxTokenSize + 4),
		"no eat_nonce":                jws(jwtPlainHeader, `{"iat":0}`),
		"claims as an array":          jws(jwtPlainHeader, `[]`),
		"claims behind claims":        jws(jwtPlainHeader, "{"+nonce+"}{}"),
		"space behind claims":         jws(jwtPlainHeader, "{"+nonce+"} "),
		"not UTF-8":                   with("\"a\":\"\xff\""),
		"NaN":                         with(`"a":NaN`),
		"duplicate eat_nonce":         with(nonce),
		"duplicate unknown claim":     with(`"a":0,"a":1`),
		"duplicate in unknown claim":  with(`"a":{"b":0,"b":1}`),
		"eat_nonce and its number":    jws(jwtPlainHeader, `{"10":"`+b64hex(t, challenge)+`"}`),
		"eat_nonce in capitals":       jws(jwtPlainHeader, `{"EAT_NONCE":"`+b64hex(t, challenge)+`"}`),
		"two nonces":                  jws(jwtPlainHeader, `{"eat_nonce":["AAAAAAAAAAA","AAAAAAAAAAA"]}`),
		"one nonce in an array":       jws(jwtPlainHeader, `{"eat_nonce":["AAAAAAAAAAA"]}`),
		"null for a nonce":            jws(jwtPlainHeader, `{"eat_nonce":null}`),
		"nonce of 7 bytes":            jws(jwtPlainHeader, `{"eat_nonce":"AAAAAAAAAA"}`),
		"nonce of 65 bytes":           jws(jwtPlainHeader, `{"eat_nonce":"`+b64(make([]byte, 65))+`"}`),
		"nonce in hexadecimal, odd":   jws(jwtPlainHeader, `{"eat_nonce":"0001020304050607a"}`),
		"nonce with padding":          jws(jwtPlainHeader, `{"eat_nonce":"AAAAAAAAAAA="}`),
		"nonce, bits that are set":    jws(jwtPlainHeader, `{"eat_nonce":"AAAAAAAAAAB"}`),
		"nonce in base64":             jws(jwtPlainHeader, `{"eat_nonce":"+++++++++++++++="}`),
		"private key in cnf":          with(`"cnf":{"jwk":{` + jwkTIK(t) + `,"d":"AA"}}`),
		"symmetric key in cnf":        with(`"cnf":{"jwk":{"kty":"oct","k":"AA"}}`),
		"key for encryption in cnf":   with(`"cnf":{"jwk":{` + jwkTIK(t) + `,"use":"enc"}}`),
		"cnf as a key":                with(`"cnf":{` + jwkTIK(t) + `}`),
		"cnf with a kid":              with(`"cnf":{"jwk":{` + jwkTIK(t) + `},"kid":"a"}`),
		"cnf by kid alone":            with(`"cnf":{"kid":"a"}`),
		"cnf of nothing":              with(`"cnf":{}`),
		"point off the curve":         with(`"cnf":{"jwk":{"kty":"EC","crv":"P-256","x":"` + b64hex(t, p256X) + `","y":"` + b64hex(t, p256X) + `"}}`),
		"ueid of 6 bytes":             with(`"ueid":"AQIDBAUG"`),
		"ueid of 34 bytes":            with(`"ueid":"` + b64(make([]byte, 34)) + `"`),
		"ueid as a number":            with(`"ueid":1`),
		"oemid of 4 bytes":            with(`"oemid":"AQIDBA"`),
		"oemid below zero":            with(`"oemid":-1`),
		"oemid as a float":            with(`"oemid":1.0`),
		"oemid beyond int64":          with(`"oemid":9223372036854775808`),
		"oemid that is true":          with(`"oemid":true`),
		"hwmodel of no bytes":         with(`"hwmodel":""`),
		"hwmodel of 33 bytes":         with(`"hwmodel":"` + b64(make([]byte, 33)) + `"`),
		"dbgstat by number":           with(`"dbgstat":2`),
		"dbgstat that says nothing":   with(`"dbgstat":""`),
		"unknown dbgstat":             with(`"dbgstat":"off"`),
		"profile that is relative":    with(`"eat_profile":"/a"`),
		"empty profile":               with(`"eat_profile":""`),
		"profile as a number":         with(`"eat_profile":1`),
		"iat as a float":              with(`"iat":1.5`),
		"iat with a zero fraction":    with(`"iat":1.0`),
		"iat with an exponent":        with(`"iat":1e3`),
		"iat as text":                 with(`"iat":"1"`),
		"iat of null":                 with(`"iat":null`),
		"iat below zero":              with(`"iat":-1`),
		"exp of minus zero":           with(`"exp":-0`),
		"exp beyond the year 9999":    with(`"exp":253402300800`),
		"exp beyond 64 bits":          with(`"exp":18446744073709551616`),
		"nbf as a float":              with(`"nbf":0.5`),
		"no measurement":              with(`"measurements":[]`),
		"measurements as an object":   with(`"measurements":{}`),
		"measurement of one element":  with(`"measurements":[[0]]`),
		"measurement of three":        with(`"measurements":[[0,"",0]]`),
		"measurement as an object":    with(`"measurements":[{}]`),
		"measurement with a float":    with(`"measurements":[[1e0,""]]`),
		"measurement without bytes":   with(`"measurements":[[0,0]]`),
		"no submodule":                with(`"submods":{}`),
		"submods as an array":         with(`"submods":[]`),
		"submodule of another type":   with(`"submods":{"a":"b"}`),
		"submodule that is no pair":   with(`"submods":{"a":["JWT"]}`),
		"submodule twice":             with(`"submods":{"a":{},"a":{}}`),
		"over-long name of submodule": with(`"submods":{"` + strings.Repeat("a", 65) + `":{}}`),
		"submods too deep":            with(`"submods":` + nested(MaxSubmodDepth)),
		"empty submods in another":    with(`"submods":{"a":{"submods":{}}}`),
		"other claims too deep":       with(`"a":` + strings.Repeat("[", 9) + strings.Repeat("]", 9)),
	} {
		if token, err := ParseToken(b); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, token, err)
		}
	}
}

func TestJWTOfAnotherSignerIsRefused(t *testing.T) {
	good := jws(jwtHeader, jwtClaimsByHand(t))
	changed := bytes.Clone(good)
	dot := bytes.LastIndexByte(changed, '.')
	if changed[dot+1]++; changed[dot+1] == '{' {
		changed[dot+1] = 'a'
	}
	other := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public()
	p256 := point(t, elliptic.P256(), p256X, p256Y)
	es256 := jws(`{"alg":"ES256","kid":"k1"}`, jwtClaimsByHand(t))
	key := testKey()
	checkSigned(t, []signedToken{
		{"good", good, []TokenKey{key}, nil, ""},
		{"key by any name", good, []TokenKey{{Key: key.Key}}, nil, ""},
		{"second of two of that name", good, []TokenKey{{key.ID, other}, key}, nil, ""},
		{"no key", good, nil, attestext.ErrUnavailable, "supply the keys"},
		{"changed signature", changed, []TokenKey{key}, attestext.ErrSignature, "no trusted key made the signature"},
		{"other key", good, []TokenKey{{key.ID, other}}, attestext.ErrSignature, "no trusted key made the signature"},
		{"other name", good, []TokenKey{{[]byte("k2"), key.Key}}, attestext.ErrSignature, `no trusted key has the ID "k1"`},
		{"no name", jws(jwtPlainHeader, jwtClaimsByHand(t)), []TokenKey{key}, attestext.ErrSignature, "no trusted key has the ID"},
		{"algorithm of another curve", es256, []TokenKey{key}, attestext.ErrSignature, "algorithm -7 is not that of a trusted key"},
		{"key of that algorithm", es256, []TokenKey{{key.ID, p256}}, attestext.ErrSignature, "no trusted key made the signature"},
		{"expired", jws(jwtHeader, "{"+jwtNonce(t)+`,"exp":1}`), []TokenKey{key}, attestext.ErrSignature, "token expired"},
		{"for an audience", jws(jwtHeader, "{"+jwtNonce(t)+`,"aud":"a"}`), []TokenKey{key}, attestext.ErrPolicy, "audience"},
		{"for no audience of several", jws(jwtHeader, "{"+jwtNonce(t)+`,"aud":[]}`), []TokenKey{key}, attestext.ErrPolicy, "audience"},
	})
}

// A claim by number has no value that a policy compares in a JWT.
func TestClaimsOfAJWTHaveNoNumbers(t *testing.T) {
	token, err := ParseToken(jws(jwtHeader, "{"+jwtNonce(t)+`,"2395":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	v, err := VerifyToken(token, &TokenOptions{Keys: []TokenKey{testKey()}})
	if err != nil || v.Claim(2395) != nil || len(v.Token().Other) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestTokenIsOfTheFormatThatItCameAs(t *testing.T) {
	cwt, jwt := sign1(t, eddsa, "a0", unhex(t, "a1"+tokenNonce)), jws(jwtPlainHeader, "{"+jwtNonce(t)+"}")
	formats := append(append(TokenFormats(), JWTFormats()...), attestext.EvidenceFormat{MediaType: "text/plain"})
	for i, f := range formats {
		for j, b := range [][]byte{cwt, jwt} {
			token, err := ParseTokenAs(f, b)
			if want := i/2 == j; want && (err != nil || token.Format() != formats[2*j]) || !want && !errors.Is(err, attestext.ErrMalformed) {
				t.Errorf("%v, form %d: %v", f, j, err)
			}
		}
		if IsToken(f) != (i < 4) {
			t.Errorf("%v is a token: %v", f, IsToken(f))
		}
	}
}

func TestJWTOfEachAlgorithmIsVerified(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		key, err := ecdsa.ParseRawPrivateKey(curve, append(make([]byte, curve.Params().BitSize/8-1), 7))
		if err != nil {
			t.Fatal(err)
		}
		b, err := SignToken(nil, key, asJWT(knownToken(t)))
		if err != nil {
			t.Fatal(err)
		}
		token, err := ParseToken(b)
		if err != nil {
			t.Fatal(err)
		}
		// A JWS has r and s in a fixed size each, RFC 7518, section 3.4.
		if got := len(b) - bytes.LastIndexByte(b, '.') - 1; got != base64.RawURLEncoding.EncodedLen(2*curve.Params().BitSize/8) {
			t.Errorf("signature of %d characters", got)
		}
		if _, err := VerifyToken(token, &TokenOptions{Keys: []TokenKey{{Key: crypto.PublicKey(&key.PublicKey)}}, Now: tokenTime}); err != nil {
			t.Error(err)
		}
	}
}

func TestJWTThatWouldBeRefusedIsNotSigned(t *testing.T) {
	for name, change := range map[string]func(*Token){
		"no nonce":           func(k *Token) { k.Nonce = nil },
		"short ueid":         func(k *Token) { k.UEID = []byte{1} },
		"no cnf key":         func(k *Token) { k.Confirmation = []byte{0x30} },
		"debug status":       func(k *Token) { k.DebugStatus = 9 },
		"claim twice":        func(k *Token) { k.Other = append(k.Other, k.Other[0]) },
		"claim that is set":  func(k *Token) { k.Other = append(k.Other, Claim{"eat_nonce", []byte(`""`)}) },
		"claim by number":    func(k *Token) { k.Other = append(k.Other, Claim{int64(2395), []byte("0")}) },
		"no JSON":            func(k *Token) { k.Other = append(k.Other, Claim{"c", []byte{0xf5}}) },
		"submods in CBOR":    func(k *Token) { k.Submods = []byte{0xa0} },
		"measurements":       func(k *Token) { k.Measurements = []byte{0x80} },
		"before 1970":        func(k *Token) { k.IssuedAt = time.Unix(-1, 0) },
		"key ID of no text":  func(k *Token) { k.KeyID = []byte{0xff} },
		"JSON with more":     func(k *Token) { k.Other = append(k.Other, Claim{"c", []byte(`0,"d":1`)}) },
		"profile not a text": func(k *Token) { k.Profile = hex.EncodeToString([]byte{1}) },
	} {
		token := asJWT(knownToken(t))
		change(token)
		if b, err := SignToken(nil, testKAK, token); err == nil {
			t.Errorf("%s: signed as %s", name, b)
		}
	}
}

// encoding/json with its defaults takes the last of two claims, whatever the case of
// their letters, and null for nothing: two readers would not read the same token.
func TestTrapJSONDuplicateClaims(t *testing.T) {
	payload := "{" + jwtNonce(t) + `,"eat_nonce":"AAAAAAAAAAA"}`
	var m struct {
		Nonce string `json:"eat_nonce"`
	}
	if err := json.Unmarshal([]byte(payload), &m); err != nil || m.Nonce != "AAAAAAAAAAA" {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
	if token, err := ParseToken(jws(jwtPlainHeader, payload)); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("%+v, %v", token, err)
	}
}

func FuzzJWT(f *testing.F) {
	f.Add(jwtHeader, jwtClaimsByHand(f), []byte{1})
	f.Add(jwtPlainHeader, "{"+jwtNonce(f)+`,"eat_profile":"1.2.3","aud":["a"],"x":{"y": 1}}`, []byte{})
	f.Add(`{"alg":"ES256"}`, "{"+jwtNonce(f)+`,"submods":`+strings.Repeat(`{"a":{"submods":`, 9), []byte{0})
	f.Fuzz(func(t *testing.T, header, payload string, signature []byte) {
		b := []byte(b64([]byte(header)) + "." + b64([]byte(payload)) + "." + b64(signature))
		defer fuzzbound.Check(t, len(b))()
		// There is room for what a spelling may grow by. All is the same but for space.
		fuzzToken(t, b, func(*Token) bool { return len(b) <= MaxTokenSize/8 }, func(k *Token) {
			k.Submods = compact(t, k.Submods)
			for i := range k.Other {
				k.Other[i].Value = compact(t, k.Other[i].Value)
			}
		})
	})
}

func compact(t testing.TB, b []byte) []byte {
	var out bytes.Buffer
	if b == nil {
		return nil
	}
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
