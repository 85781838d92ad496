package kbs

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwe"
	"github.com/lestrrat-go/jwx/v2/jwk"
)

// encrypt is by another implementation of JWE than the one under test.
func encrypt(t testing.TB, b []byte, alg jwa.KeyEncryptionAlgorithm, key jwk.Key, more ...string) []byte {
	t.Helper()
	var to any
	if err := key.Raw(&to); err != nil {
		t.Error(err)
	}
	h := jwe.NewHeaders()
	for i := 0; i < len(more); i += 2 {
		if err := h.Set(more[i], more[i+1]); err != nil {
			t.Error(err)
		}
	}
	out, err := jwe.Encrypt(b, jwe.WithJSON(), jwe.WithKey(alg, to), jwe.WithContentEncryption(jwa.A256GCM), jwe.WithProtectedHeaders(h))
	if err != nil {
		t.Error(err)
	}
	// That says alg and epk again in a header that is not protected, as RFC 7516, section
	// 7.2.1, forbids and Trustee does not.
	var m map[string]any
	if err := json.Unmarshal(out, &m); err != nil {
		t.Error(err)
	}
	delete(m, "header")
	if out, err = json.Marshal(m); err != nil {
		t.Error(err)
	}
	return out
}

func parseJWK(t testing.TB, k sessionKey) jwk.Key {
	t.Helper()
	b, err := json.Marshal(k.public())
	if err != nil {
		t.Fatal(err)
	}
	key, err := jwk.ParseKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// member returns b with a member of the JSON object set to what f makes of it.
func member(t testing.TB, b []byte, name string, f func(string) string) []byte {
	t.Helper()
	var m map[string]string
	if err := json.Unmarshal(b, &m); err != nil {
		t.Error(err)
	}
	m[name] = f(m[name])
	b, err := json.Marshal(m)
	if err != nil {
		t.Error(err)
	}
	return b
}

// resize makes what base64url says longer by n bytes, or shorter.
func resize(n int) func(string) string {
	return func(s string) string {
		b, _ := base64url.DecodeString(s)
		if n < 0 {
			b = b[:len(b)+n]
		}
		return base64url.EncodeToString(append(b, make([]byte, max(0, n))...))
	}
}

func flip(s string) string {
	b, _ := base64url.DecodeString(s)
	b[len(b)-1] ^= 1
	return base64url.EncodeToString(b)
}

func TestBadJWEIsRefused(t *testing.T) {
	for _, alg := range []string{AlgECDH, AlgRSA} {
		key := keyOf(alg)
		to := parseJWK(t, key)
		seal := func(more ...string) []byte {
			return encrypt(t, []byte("secret"), jwa.KeyEncryptionAlgorithm(alg), to, more...)
		}
		good := seal()
		if b, err := open(good, key); err != nil || string(b) != "secret" {
			t.Fatalf("%s: %q, %v", alg, b, err)
		}
		header := func(change func(string) string) []byte {
			return member(t, good, "protected", func(s string) string {
				b, _ := base64url.DecodeString(s)
				return base64url.EncodeToString([]byte(change(string(b))))
			})
		}
		replace := func(old, with string) []byte {
			return header(func(s string) string {
				if !strings.Contains(s, old) {
					t.Errorf("no %q in %s", old, s)
				}
				return strings.Replace(s, old, with, 1)
			})
		}
		other, other256 := AlgRSA, jwa.RSA_OAEP
		if alg == AlgRSA {
			other, other256 = AlgECDH, jwa.RSA_OAEP_512
		}
		for _, tt := range []struct {
			name string
			jwe  []byte
			want error
			text string
		}{
			{"kid", seal("kid", "1"), ErrMalformed, "kid"},
			{"zip", replace("{", `{"zip":"DEF",`), ErrMalformed, "zip"},
			{"crit", replace("{", `{"crit":["alg"],`), ErrMalformed, "crit"},
			{"apu", replace("{", `{"apu":"QQ",`), ErrMalformed, "apu"},
			{"alg twice", replace("{", `{"alg":"`+alg+`",`), ErrMalformed, "twice"},
			{"alg in another case too", replace("{", `{"ALG":"`+alg+`",`), ErrMalformed, "twice"},
			{"no alg", replace(`"alg"`, `"typ"`), ErrMalformed, "typ"},
			{"another alg", replace(alg, other), ErrMalformed, "want " + alg},
			{"alg that the key is not for", replace(alg, other256.String()), ErrMalformed, "want " + alg},
			{"another enc", replace("A256GCM", "A128GCM"), ErrMalformed, "want " + alg},
			{"header in other bytes", replace("{", "{ "), ErrDecrypt, ""},
			{"data after the header", header(func(s string) string { return s + "{}" }), ErrMalformed, "after"},
			{"null header", header(func(string) string { return "null" }), ErrMalformed, "null"},
			{"member twice", bytes.Replace(good, []byte("{"), []byte(`{"iv":"",`), 1), ErrMalformed, "twice"},
			{"unprotected header", bytes.Replace(good, []byte("{"), []byte(`{"header":{"kid":"1"},`), 1), ErrMalformed, "header"},
			{"data behind", append(bytes.Clone(good), "{}"...), ErrMalformed, "after"},
			{"compact", []byte(`"a.b.c.d.e"`), ErrMalformed, "flattened"},
			{"aad", member(t, good, "aad", func(string) string { return "QQ" }), ErrMalformed, "aad"},
			{"short iv", member(t, good, "iv", resize(-1)), ErrMalformed, "iv"},
			{"long iv", member(t, good, "iv", resize(1)), ErrMalformed, "iv"},
			{"short tag", member(t, good, "tag", resize(-1)), ErrMalformed, "tag"},
			{"long tag", member(t, good, "tag", resize(1)), ErrMalformed, "tag"},
			{"no tag", member(t, good, "tag", func(string) string { return "" }), ErrMalformed, "tag"},
			{"padding", member(t, good, "iv", func(s string) string { return s + "=" }), ErrMalformed, "base64url"},
			{"bits behind the tag", member(t, good, "tag", func(s string) string {
				const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
				return s[:len(s)-1] + string(alphabet[strings.Index(alphabet, s[len(s)-1:])+1])
			}), ErrMalformed, "base64url"},
			{"another iv", member(t, good, "iv", flip), ErrDecrypt, ""},
			{"another tag", member(t, good, "tag", flip), ErrDecrypt, ""},
			{"another ciphertext", member(t, good, "ciphertext", flip), ErrDecrypt, ""},
			{"another encrypted key", member(t, good, "encrypted_key", flip), ErrDecrypt, ""},
			{"short encrypted key", member(t, good, "encrypted_key", resize(-8)), ErrDecrypt, ""},
			{"long encrypted key", member(t, good, "encrypted_key", resize(8)), ErrDecrypt, ""},
			{"odd encrypted key", member(t, good, "encrypted_key", resize(1)), ErrDecrypt, ""},
			{"no encrypted key", member(t, good, "encrypted_key", func(string) string { return "" }), ErrDecrypt, ""},
			{"to another key", func() []byte {
				k, err := newKey(alg)
				if err != nil {
					t.Fatal(err)
				}
				return encrypt(t, []byte("secret"), jwa.KeyEncryptionAlgorithm(alg), parseJWK(t, k))
			}(), ErrDecrypt, ""},
		} {
			if b, err := open(tt.jwe, key); b != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%s, %s: got %q, %v; want %v, %q", alg, tt.name, b, err, tt.want, tt.text)
			}
		}
		if alg == AlgRSA {
			if _, err := open(replace("{", `{"epk":{"kty":"EC"},`), key); !errors.Is(err, ErrMalformed) {
				t.Errorf("an epk for RSA: %v", err)
			}
			continue
		}
		for name, b := range map[string][]byte{
			"no epk":            replace(`"epk"`, `"typ"`),
			"epk is a string":   header(func(string) string { return `{"alg":"` + alg + `","enc":"A256GCM","epk":"x"}` }),
			"another curve":     replace("P-256", "P-521"),
			"another kty":       replace(`"EC"`, `"OKP"`),
			"a private key":     replace(`"kty"`, `"d":"QQ","kty"`),
			"x twice":           replace(`"kty"`, `"x":"QQ","kty"`),
			"short x":           replace(`"x":"`, `"x":"QQ","z":"`),
			"not on the curve":  header(func(s string) string { i := strings.Index(s, `"x":"`) + 5; return s[:i] + swap(s[i:i+1]) + s[i+1:] }),
			"point at infinity": header(func(string) string { return epk(make([]byte, 32), make([]byte, 32)) }),
			"coordinate of 33": header(func(string) string {
				point := key.(*ecKey).PublicKey().Bytes()[1:]
				return epk(point[:33], point[33:])
			}),
		} {
			if _, err := open(b, key); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestShortContentKeyIsRefused: A256GCM has one of 32 bytes, whatever else AES takes.
func TestShortContentKeyIsRefused(t *testing.T) {
	key := keyOf(AlgRSA).(*rsaKey)
	for _, size := range []int{32, 16} {
		cek := make([]byte, size)
		block, err := aes.NewCipher(cek)
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.PublicKey, cek, nil)
		if err != nil {
			t.Fatal(err)
		}
		protected := base64url.EncodeToString([]byte(`{"alg":"` + AlgRSA + `","enc":"A256GCM"}`))
		iv := make([]byte, gcmIV)
		sealed := gcm.Seal(nil, iv, []byte("secret"), []byte(protected))
		b, err := json.Marshal(map[string]string{"protected": protected, "encrypted_key": base64url.EncodeToString(wrapped), "iv": base64url.EncodeToString(iv),
			"ciphertext": base64url.EncodeToString(sealed[:6]), "tag": base64url.EncodeToString(sealed[6:])})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := open(b, key); (err == nil) != (size == 32) || err != nil && !errors.Is(err, ErrDecrypt) {
			t.Errorf("%d bytes: %q, %v", size, got, err)
		}
	}
}

func swap(s string) string {
	if s == "A" {
		return "B"
	}
	return "A"
}

func epk(x, y []byte) string {
	return `{"alg":"` + AlgECDH + `","enc":"A256GCM","epk":{"kty":"EC","crv":"P-256","x":"` + base64url.EncodeToString(x) + `","y":"` + base64url.EncodeToString(y) + `"}}`
}

// TestKnownAnswers: RFC 7518, appendix C, and RFC 3394, section 4.6.
func TestKnownAnswers(t *testing.T) {
	decode := func(s string) []byte {
		b, err := base64url.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// Bob's private key, and Alice's ephemeral one.
	bob, err := ecdh.P256().NewPrivateKey(decode("VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw"))
	if err != nil {
		t.Fatal(err)
	}
	alice := &ephemeralKey{"EC", "P-256", "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0", "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps"}
	from, err := alice.point()
	if err != nil {
		t.Fatal(err)
	}
	z, err := bob.ECDH(from)
	if err != nil {
		t.Fatal(err)
	}
	if got := base64url.EncodeToString(concatKDF(z, "A128GCM", "Alice", "Bob", 16)); got != "VqqN6vgjbSBcIijNcacQGg" {
		t.Errorf("derived key %s", got)
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	kek := unhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	wrapped := unhex("28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21")
	got, err := unwrapKey(kek, wrapped)
	if want := unhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%x, %v", got, err)
	}
	for i := range wrapped {
		bad := bytes.Clone(wrapped)
		bad[i] ^= 1
		if got, err := unwrapKey(kek, bad); err == nil || got != nil {
			t.Errorf("byte %d is altered: %x, %v", i, got, err)
		}
		if got, err := unwrapKey(kek, wrapped[:i]); err == nil || got != nil {
			t.Errorf("%d bytes: %x, %v", i, got, err)
		}
	}
}
