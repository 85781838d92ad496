package kbs

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwe"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

var testTime = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

var otherKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// kbsServer follows the protocol's document. override answers a path in its place.
func kbsServer(t *testing.T, resource []byte, other bool, alg jwa.KeyEncryptionAlgorithm, nonce string, override map[string]http.HandlerFunc) *Client {
	var key jwk.Key
	answer := map[string]http.HandlerFunc{
		"auth": func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if string(b) != `{"extra-params":"","tee":"tdx","version":"0.4.0"}` {
				t.Errorf("request: %s", b)
			}
			http.SetCookie(w, &http.Cookie{Name: "kbs-session-id", Value: "s1"})
			io.WriteString(w, `{"nonce":"AAECAwQFBgcICQoLDA0ODw==","extra-params":""}`)
		},
		"attest": func(w http.ResponseWriter, r *http.Request) {
			refuse := func(why string) {
				w.WriteHeader(http.StatusUnauthorized)
				json.NewEncoder(w).Encode(map[string]string{"type": "x", "detail": why})
			}
			var a struct {
				RuntimeData struct {
					Nonce string          `json:"nonce"`
					Key   json.RawMessage `json:"tee-pubkey"`
				} `json:"runtime-data"`
				Evidence struct {
					Primary struct{ Quote []byte } `json:"primary_evidence"`
				} `json:"tee-evidence"`
			}
			c, err := r.Cookie("kbs-session-id")
			if err != nil || c.Value != "s1" || json.NewDecoder(r.Body).Decode(&a) != nil {
				refuse("no session")
				return
			}
			if a.RuntimeData.Nonce != nonce {
				refuse("the nonce is different")
				return
			}
			q, err := tdx.Parse(a.Evidence.Primary.Quote)
			if err != nil {
				refuse(err.Error())
				return
			}
			col, err := softtee.Collateral(testTime)
			if err != nil {
				t.Error(err)
			}
			v, err := tdx.Verify(q, &tdx.VerifyOptions{Roots: softtee.Roots(), Collateral: col, Now: testTime})
			if err != nil {
				refuse(err.Error())
				return
			}
			var want [64]byte
			h := sha512.Sum384([]byte(`{"additional-evidence":"","nonce":"` + nonce + `","tee-pubkey":` + string(a.RuntimeData.Key) + `}`))
			copy(want[:], h[:])
			if v.ReportData() != want {
				refuse("REPORT_DATA is different")
				return
			}
			if key, err = jwk.ParseKey(a.RuntimeData.Key); err != nil {
				t.Error(err)
			}
			io.WriteString(w, `{"token":"x"}`)
		},
		"resource/default/key/1": func(w http.ResponseWriter, r *http.Request) {
			var to any = otherKey().Public()
			if !other {
				var pub rsa.PublicKey
				if err := key.Raw(&pub); err != nil {
					t.Error(err)
				}
				to = &pub
			}
			w.Write(encrypt(t, resource, alg, to))
		},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := strings.TrimPrefix(r.URL.Path, "/kbs/v0/")
		if h := override[p]; h != nil {
			h(w, r)
		} else if h := answer[p]; h != nil {
			h(w, r)
		} else {
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return &Client{URL: srv.URL, Quoter: softtee.NewTDX(nil)}
}

// encrypt is by another implementation of JWE than the one under test.
func encrypt(t testing.TB, b []byte, alg jwa.KeyEncryptionAlgorithm, to any) []byte {
	t.Helper()
	out, err := jwe.Encrypt(b, jwe.WithJSON(), jwe.WithKey(alg, to), jwe.WithContentEncryption(jwa.A256GCM))
	if err != nil {
		t.Error(err)
	}
	return out
}

const goodNonce = "AAECAwQFBgcICQoLDA0ODw=="

func TestFetch(t *testing.T) {
	c := kbsServer(t, []byte("secret"), false, jwa.RSA_OAEP_256, goodNonce, nil)
	b, err := c.Fetch(t.Context(), "default", "key", "1")
	if err != nil || !bytes.Equal(b, []byte("secret")) {
		t.Fatalf("%q, %v", b, err)
	}
}

func TestSigner(t *testing.T) {
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		b  []byte
		ok bool
	}{{der, true}, {[]byte("x"), false}} {
		c := kbsServer(t, tt.b, false, jwa.RSA_OAEP_256, goodNonce, nil)
		if _, err := c.Signer(t.Context(), "default", "key", "1"); (err == nil) != tt.ok {
			t.Errorf("got %v", err)
		}
	}
}

func TestFetchRefuses(t *testing.T) {
	say := func(status int, s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); io.WriteString(w, s) }
	}
	const res = "resource/default/key/1"
	for _, tt := range []struct {
		name  string
		nonce string
		other bool
		alg   jwa.KeyEncryptionAlgorithm
		path  string
		h     http.HandlerFunc
		want  error
		text  string
	}{
		{name: "another session's nonce", nonce: "BBECAwQFBgcICQoLDA0ODw==", want: ErrRefused, text: "the nonce is different"},
		{name: "attest refused", path: "attest", h: say(401, `{"type":"x","detail":"bad TCB"}`), want: ErrRefused, text: "bad TCB"},
		{name: "forbidden", path: res, h: say(403, ""), want: ErrForbidden},
		{name: "absent", path: res, h: say(404, ""), want: ErrStatus, text: "404"},
		{name: "garbage challenge", path: "auth", h: say(200, "{"), want: ErrMalformed, text: "nonce"},
		{name: "no cookie", path: "auth", h: say(200, `{"nonce":"`+goodNonce+`"}`), want: ErrMalformed, text: "cookie"},
		{name: "garbage resource", path: res, h: say(200, "secret"), want: ErrMalformed, text: "JWE"},
		{name: "over-long", path: "auth", h: say(200, strings.Repeat("x", MaxAnswer+1)), want: ErrTooLong},
		{name: "another key", other: true, want: ErrDecrypt},
		{name: "another algorithm", alg: jwa.RSA_OAEP, want: ErrMalformed, text: "header"},
		{name: "redirect", path: "auth", h: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", 302) }, want: ErrStatus, text: "302"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.nonce == "" {
				tt.nonce = goodNonce
			}
			if tt.alg == "" {
				tt.alg = jwa.RSA_OAEP_256
			}
			c := kbsServer(t, []byte("secret"), tt.other, tt.alg, tt.nonce, map[string]http.HandlerFunc{tt.path: tt.h})
			b, err := c.Fetch(t.Context(), "default", "key", "1")
			if b != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %q, %v; want %v", b, err, tt.want)
			}
		})
	}
}

func TestFetchSlow(t *testing.T) {
	c := kbsServer(t, nil, false, jwa.RSA_OAEP_256, goodNonce, map[string]http.HandlerFunc{
		"auth": func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); <-r.Context().Done() }})
	c.Timeout = 50 * time.Millisecond
	if _, err := c.Fetch(t.Context(), "default", "key", "1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestFetchArguments(t *testing.T) {
	for _, c := range [][2]string{{"http://kbs.example", "key"}, {"https://u:p@kbs.example", "key"}, {"https://kbs.example", ".."}, {"https://kbs.example", "a/b"}} {
		_, err := (&Client{URL: c[0]}).Fetch(t.Context(), "default", c[1], "1")
		if err == nil || !strings.Contains(err.Error(), "URL must be") && !strings.Contains(err.Error(), "cannot be part") {
			t.Errorf("%v: got %v", c, err)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"nonce":"` + goodNonce + `"}`))
	f.Add(encrypt(f, []byte("secret"), jwa.RSA_OAEP_256, otherKey().Public()))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		if n, err := parseChallenge(b); err == nil && !nonceForm.MatchString(n) {
			t.Error("bad nonce accepted")
		}
		if _, err := open(b, otherKey()); err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrDecrypt) {
			t.Error(err)
		}
		problem(b)
	})
}
