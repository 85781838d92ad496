package kbs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

var testTime = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// keyOf returns another key than that of any session.
var keyOf = func() func(string) sessionKey {
	var mu sync.Mutex
	keys := map[string]sessionKey{}
	return func(alg string) sessionKey {
		mu.Lock()
		defer mu.Unlock()
		if keys[alg] == nil {
			k, err := newKey(alg)
			if err != nil {
				panic(err)
			}
			keys[alg] = k
		}
		return keys[alg]
	}
}()

// A service follows the protocol's document, but for what a test has changed.
type service struct {
	resource []byte
	nonce    string // that it wants to see again
	other    bool   // it encrypts to another key
	override map[string]http.HandlerFunc
}

// client starts s and returns a client of it.
func (s *service) client(t *testing.T) *Client {
	t.Helper()
	nonce := cmp.Or(s.nonce, goodNonce)
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
			if s.other {
				key = parseJWK(t, keyOf(key.Algorithm().String()))
			}
			w.Write(encrypt(t, s.resource, jwa.KeyEncryptionAlgorithm(key.Algorithm().String()), key))
		},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := strings.TrimPrefix(r.URL.Path, "/kbs/v0/")
		if h := s.override[p]; h != nil {
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

const (
	goodNonce = "AAECAwQFBgcICQoLDA0ODw=="
	res       = "resource/default/key/1"
)

func TestFetch(t *testing.T) {
	// Nothing is left on disk.
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("HOME", dir)
	t.Setenv("TMPDIR", dir)
	for _, alg := range []string{"", AlgECDH, AlgRSA} {
		c := (&service{resource: []byte("secret")}).client(t)
		c.Alg = alg
		if b, err := c.Fetch(t.Context(), "default", "key", "1"); err != nil || !bytes.Equal(b, []byte("secret")) {
			t.Errorf("%s: %q, %v", alg, b, err)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("%v, %v", files, err)
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
		c := (&service{resource: tt.b}).client(t)
		if _, err := c.Signer(t.Context(), "default", "key", "1"); (err == nil) != tt.ok {
			t.Errorf("got %v", err)
		}
	}
}

// at overrides the answer to one path.
func at(path string, h http.HandlerFunc) *service {
	return &service{override: map[string]http.HandlerFunc{path: h}}
}

func say(status int, s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); io.WriteString(w, s) }
}

func TestFetchRefuses(t *testing.T) {
	type test struct {
		name string
		s    *service
		want error
		text string
	}
	cookie := func(value, answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: cookieName, Value: value})
			io.WriteString(w, answer)
		}
	}
	tests := []test{
		{"another session's nonce", &service{nonce: "BBECAwQFBgcICQoLDA0ODw=="}, ErrRefused, "the nonce is different"},
		{"attest refused", at("attest", say(401, `{"type":"x","detail":"bad TCB"}`)), ErrRefused, "bad TCB"},
		{"forbidden", at(res, say(403, "")), ErrForbidden, "403"},
		{"denied by policy", at(res, say(401, `{"type":"x/PolicyDeny","detail":"policy"}`)), ErrForbidden, "policy"},
		{"absent", at(res, say(404, "")), ErrStatus, "404"},
		{"garbage challenge", at("auth", say(200, "{")), ErrMalformed, "challenge"},
		{"two nonces", at("auth", cookie("s1", `{"nonce":"`+goodNonce+`","Nonce":"`+goodNonce+`"}`)), ErrMalformed, "twice"},
		{"short nonce", at("auth", cookie("s1", `{"nonce":"AAAA"}`)), ErrMalformed, "nonce"},
		{"extra parameters", at("auth", cookie("s1", `{"nonce":"`+goodNonce+`","extra-params":{"selected-hash-algorithm":"sha512"}}`)), ErrMalformed, "extra parameters"},
		{"no cookie", at("auth", say(200, `{"nonce":"`+goodNonce+`"}`)), ErrMalformed, "cookie"},
		{"over-long cookie", at("auth", cookie(strings.Repeat("x", maxCookie+1), `{"nonce":"`+goodNonce+`"}`)), ErrMalformed, "cookie"},
		{"garbage resource", at(res, say(200, "secret")), ErrMalformed, "JWE"},
		{"another key", &service{other: true}, ErrDecrypt, ""},
	}
	for _, path := range []string{"auth", "attest", res} {
		tests = append(tests,
			test{"over-long " + path, at(path, say(200, strings.Repeat("x", MaxAnswer+1))), ErrTooLong, path},
			test{"over-long refusal " + path, at(path, say(401, strings.Repeat("x", MaxAnswer+1))), ErrTooLong, path},
			test{"redirect " + path, at(path, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", 307) }), ErrStatus, "307"},
			test{"failure " + path, at(path, say(500, "")), ErrStatus, "500"})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := tt.s.client(t).Fetch(t.Context(), "default", "key", "1")
			if b != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %q, %v; want %v, %q", b, err, tt.want, tt.text)
			}
		})
	}
}

// A service that hangs, before its answer or within it.
func TestFetchSlow(t *testing.T) {
	for _, path := range []string{"auth", "attest", res} {
		for _, begun := range []string{"", "{"} {
			c := at(path, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				if begun != "" {
					io.WriteString(w, begun)
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
			}).client(t)
			c.Timeout = 200 * time.Millisecond
			if _, err := c.Fetch(t.Context(), "default", "key", "1"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s after %q: got %v", path, begun, err)
			}
		}
	}
}

func TestFetchArguments(t *testing.T) {
	good := func() *Client { return &Client{URL: "https://kbs.example", Quoter: softtee.NewTDX(nil)} }
	for want, change := range map[string]func(c *Client) string{
		"URL must be https":     func(c *Client) string { c.URL = "http://kbs.example"; return "key" },
		"without a user":        func(c *Client) string { c.URL = "https://u:p@kbs.example"; return "key" },
		`".." cannot be part`:   func(*Client) string { return ".." },
		`"a/b" cannot be part`:  func(*Client) string { return "a/b" },
		"needs a Quoter":        func(c *Client) string { c.Quoter = nil; return "key" },
		`Alg is "RSA1_5", want`: func(c *Client) string { c.URL, c.Alg = (&service{}).client(t).URL, "RSA1_5"; return "key" },
		`only "tdx_guest" is suppo`: func(c *Client) string {
			c.URL, c.Quoter = (&service{}).client(t).URL, softtee.NewSNP(nil)
			return "key"
		},
	} {
		c := good()
		kind := change(c)
		_, err := c.Fetch(t.Context(), "default", kind, "1")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "u:p") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"nonce":"` + goodNonce + `"}`))
	keys := []sessionKey{keyOf(AlgECDH), keyOf(AlgRSA)}
	for i, alg := range []jwa.KeyEncryptionAlgorithm{jwa.ECDH_ES_A256KW, jwa.RSA_OAEP_256} {
		f.Add(encrypt(f, []byte("secret"), alg, parseJWK(f, keys[i])))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		if n, err := parseChallenge(b); err == nil && !nonceForm.MatchString(n) {
			t.Error("bad nonce accepted")
		}
		for _, k := range keys {
			if _, err := open(b, k); err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrDecrypt) {
				t.Error(err)
			}
		}
		problem(b)
	})
}
