package signed_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/cmw/signed"
	"github.com/attestedtls/atls/attestext/internal/strict"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/internal/testpki"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/veraison/go-cose"
)

var key = testpki.Key

var (
	signer = key("signer")
	record = &cmw.Record{Format: attestext.EvidenceFormat{MediaType: "text/plain"}, Value: []byte("message"), Ind: cmw.Evidence}
)

func wrappers(t testing.TB) (cborCMW, jsonCMW []byte) {
	t.Helper()
	c, err := record.CBOR()
	if err != nil {
		t.Fatal(err)
	}
	j, err := record.JSON()
	if err != nil {
		t.Fatal(err)
	}
	return c, j
}

func TestSignedWrapperIsVerified(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, j := wrappers(t)
	collection, err := (&cmw.Collection{Entries: []cmw.Entry{{Label: cmw.IntLabel(1), CMW: &cmw.CMW{Form: cmw.CBORRecord, Record: record}}}}).CBOR()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []crypto.Signer{signer, p384, ed} {
		for _, w := range [][]byte{c, j, collection} {
			for _, kid := range [][]byte{nil, []byte("key 1")} {
				b, err := signed.Sign(w, k, kid)
				if err != nil {
					t.Fatal(err)
				}
				if !signed.Is(b) || signed.Is(w) {
					t.Error("what is signed was not told apart")
				}
				m, err := signed.Parse(b)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(m.KeyID, kid) || !bytes.Equal(m.Payload, w) {
					t.Errorf("key ID %q, payload %x", m.KeyID, m.Payload)
				}
				v, err := signed.Verify(b, []crypto.PublicKey{key("other").Public(), k.Public()})
				if err != nil {
					t.Fatalf("%T: %v", k, err)
				}
				if !bytes.Equal(v.Payload(), w) || v.Key().(interface{ Equal(crypto.PublicKey) bool }).Equal(k.Public()) == false {
					t.Error("another payload or key")
				}
				for name, keys := range map[string][]crypto.PublicKey{"nobody": nil, "another": {key("other").Public()}} {
					if _, err := signed.Verify(b, keys); !errors.Is(err, attestext.ErrSignature) {
						t.Errorf("%s's key: %v", name, err)
					}
				}
				if kid == nil || k != signer {
					continue
				}
				for i := range b {
					changed := bytes.Clone(b)
					changed[i] ^= 1
					if v, err := signed.Verify(changed, []crypto.PublicKey{k.Public()}); err == nil && !bytes.Equal(v.Payload(), w) {
						t.Fatalf("byte %d was changed, and the payload is %x", i, v.Payload())
					}
				}
				for n := range b {
					if _, err := signed.Parse(b[:n]); !errors.Is(err, attestext.ErrMalformed) {
						t.Fatalf("first %d of %d bytes: %v", n, len(b), err)
					}
				}
				if _, err := signed.Parse(append(bytes.Clone(b), 0)); !errors.Is(err, attestext.ErrMalformed) {
					t.Errorf("trailing byte: %v", err)
				}
			}
		}
	}
	b, err := signed.Sign(c, signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signed.Verify(append([]byte{0xd2}, b...), []crypto.PublicKey{signer.Public()}); err != nil {
		t.Errorf("in its tag: %v", err)
	}
	if _, err := signed.Verify(append([]byte{0xd2, 0xd2}, b...), []crypto.PublicKey{signer.Public()}); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("in two tags: %v", err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signed.Verify(b, []crypto.PublicKey{weak.Public()}); !errors.Is(err, attestext.ErrUnavailable) {
		t.Errorf("an RSA key: %v", err)
	}
	for name, w := range map[string][]byte{"no wrapper": []byte("x"), "a signed one": b} {
		if _, err := signed.Sign(w, signer, nil); err == nil {
			t.Errorf("%s was signed", name)
		}
	}
	if _, err := signed.Sign(c, weak, nil); err == nil {
		t.Error("an RSA key signed")
	}
	if _, err := cmw.Parse(b); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("as an unsigned one: %v", err)
	}
}

// sign1 returns a COSE_Sign1 with these headers, of which the signature verifies.
func sign1(t testing.TB, protected, unprotected map[any]any, payload []byte) []byte {
	t.Helper()
	encoded, err := strict.Marshal(protected)
	if err != nil {
		t.Fatal(err)
	}
	tbs, err := strict.Marshal([]any{"Signature1", encoded, []byte{}, payload})
	if err != nil {
		t.Fatal(err)
	}
	s, err := cose.NewSigner(cose.AlgorithmES256, signer)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.Sign(rand.Reader, tbs)
	if err != nil {
		t.Fatal(err)
	}
	b, err := strict.Marshal([]any{encoded, unprotected, payload, sig})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCOSEHeadersAreCheckedThatTheLibraryDoesNot(t *testing.T) {
	c, j := wrappers(t)
	nested, err := signed.Sign(c, signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	type m = map[any]any
	for name, tt := range map[string]struct {
		protected, unprotected m
		payload                []byte
		ok                     bool
	}{
		"media type":                    {m{1: -7, 3: "application/cmw+cbor"}, m{}, c, true},
		"content format":                {m{1: -7, 3: 273}, m{}, c, true},
		"unprotected key ID":            {m{1: -7, 3: 273}, m{4: []byte("k")}, c, true},
		"unknown parameters":            {m{1: -7, 3: 273, 1000: 1, "x": []byte{1}}, m{1001: 2, "y": "z"}, c, true},
		"content type of JSON":          {m{1: -7, 3: "application/cmw+json"}, m{}, c, false},
		"content format of JSON":        {m{1: -7, 3: 274}, m{}, c, false},
		"parameters of the type":        {m{1: -7, 3: `application/cmw+cbor; x=y`}, m{}, c, false},
		"no content type":               {m{1: -7}, m{}, c, false},
		"content type unprotected":      {m{1: -7}, m{3: 273}, c, false},
		"content type in both":          {m{1: -7, 3: 273}, m{3: 273}, c, false},
		"no algorithm":                  {m{3: 273}, m{}, c, false},
		"algorithm unprotected":         {m{3: 273}, m{1: -7}, c, false},
		"algorithm in both":             {m{1: -7, 3: 273}, m{1: -7}, c, false},
		"MAC":                           {m{1: 5, 3: 273}, m{}, c, false},
		"critical":                      {m{1: -7, 3: 273, 2: []any{1000}, 1000: 1}, m{}, c, false},
		"critical, of what is known":    {m{1: -7, 3: 273, 2: []any{1}}, m{}, c, false},
		"critical unprotected":          {m{1: -7, 3: 273}, m{2: []any{1}}, c, false},
		"key ID in both":                {m{1: -7, 3: 273, 4: []byte("a")}, m{4: []byte("b")}, c, false},
		"key ID as text":                {m{1: -7, 3: 273, 4: "a"}, m{}, c, false},
		"wrapper in JSON":               {m{1: -7, 3: 273}, m{}, j, false},
		"wrapper that is signed itself": {m{1: -7, 3: 273}, m{}, nested, false},
		"no wrapper":                    {m{1: -7, 3: 273}, m{}, []byte{1}, false},
		"empty payload":                 {m{1: -7, 3: 273}, m{}, []byte{}, false},
	} {
		_, err := signed.Verify(sign1(t, tt.protected, tt.unprotected, tt.payload), []crypto.PublicKey{signer.Public()})
		if tt.ok && err != nil || !tt.ok && !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	detached, err := strict.Marshal([]any{[]byte{0xa2, 1, 0x26, 3, 0x19, 1, 0x11}, map[int]int{}, nil, []byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signed.Parse(detached); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("detached payload: %v", err)
	}
}

var enc = base64.RawURLEncoding.EncodeToString

// flattened returns a JWS with these headers, of which the signature verifies.
func flattened(t testing.TB, protected string, payload []byte, more map[string]any) []byte {
	t.Helper()
	p, w, sig := jwsParts(t, protected, payload)
	m := map[string]any{"protected": p, "payload": w, "signature": sig}
	maps.Copy(m, more)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func jwsParts(t testing.TB, protected string, payload []byte) (p, w, sig string) {
	t.Helper()
	p, w = enc([]byte(protected)), enc(payload)
	s, err := jws.NewSigner(jwa.ES256)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Sign([]byte(p+"."+w), signer)
	if err != nil {
		t.Fatal(err)
	}
	return p, w, enc(b)
}

func TestJWSHeadersAreChecked(t *testing.T) {
	c, j := wrappers(t)
	const good = `{"alg":"ES256","cty":"application/cmw+json"}`
	keys := []crypto.PublicKey{signer.Public()}
	for name, tt := range map[string]struct {
		protected string
		payload   []byte
		more      map[string]any
		ok        bool
	}{
		"protected alone":          {good, j, nil, true},
		"unprotected key ID":       {good, j, map[string]any{"header": map[string]any{"kid": "k"}}, true},
		"unknown parameters":       {`{"alg":"ES256","cty":"application/cmw+json","x":[1]}`, j, map[string]any{"header": map[string]any{"y": 1}}, true},
		"a key of its own":         {`{"alg":"ES256","cty":"application/cmw+json","jwk":{"kty":"EC"},"x5u":"http://x"}`, j, nil, true},
		"no cty":                   {`{"alg":"ES256"}`, j, nil, false},
		"short cty":                {`{"alg":"ES256","cty":"cmw+json"}`, j, nil, false},
		"cty of CBOR":              {`{"alg":"ES256","cty":"application/cmw+cbor"}`, j, nil, false},
		"cty unprotected":          {`{"alg":"ES256"}`, j, map[string]any{"header": map[string]any{"cty": "application/cmw+json"}}, false},
		"cty null":                 {`{"alg":"ES256","cty":null}`, j, nil, false},
		"alg none":                 {`{"alg":"none","cty":"application/cmw+json"}`, j, nil, false},
		"alg HS256":                {`{"alg":"HS256","cty":"application/cmw+json"}`, j, nil, false},
		"alg unprotected":          {`{"cty":"application/cmw+json"}`, j, map[string]any{"header": map[string]any{"alg": "ES256"}}, false},
		"alg in both":              {good, j, map[string]any{"header": map[string]any{"alg": "ES256"}}, false},
		"crit":                     {`{"alg":"ES256","cty":"application/cmw+json","crit":["x"],"x":1}`, j, nil, false},
		"crit null":                {`{"alg":"ES256","cty":"application/cmw+json","crit":null}`, j, nil, false},
		"b64":                      {`{"alg":"ES256","cty":"application/cmw+json","b64":false}`, j, nil, false},
		"crit unprotected":         {good, j, map[string]any{"header": map[string]any{"crit": []string{"x"}}}, false},
		"in both":                  {`{"alg":"ES256","cty":"application/cmw+json","kid":"a"}`, j, map[string]any{"header": map[string]any{"kid": "b"}}, false},
		"kid as a number":          {`{"alg":"ES256","cty":"application/cmw+json","kid":1}`, j, nil, false},
		"twice":                    {`{"alg":"ES256","alg":"ES256","cty":"application/cmw+json"}`, j, nil, false},
		"an array":                 {`["alg"]`, j, nil, false},
		"header as text":           {good, j, map[string]any{"header": "x"}, false},
		"unknown member":           {good, j, map[string]any{"x": 1}, false},
		"signatures":               {good, j, map[string]any{"signatures": []any{}}, false},
		"wrapper in CBOR":          {good, c, nil, false},
		"no wrapper":               {good, []byte("{}"), nil, false},
		"signature is no base64":   {good, j, map[string]any{"signature": "?"}, false},
		"signature null":           {good, j, map[string]any{"signature": nil}, false},
		"payload with line breaks": {good, j, map[string]any{"payload": enc(j) + "\n"}, false},
	} {
		_, err := signed.Verify(flattened(t, tt.protected, tt.payload, tt.more), keys)
		if tt.ok && err != nil || !tt.ok && !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p, w, sig := jwsParts(t, good, j)
	compact := strings.Join([]string{p, w, sig}, ".")
	v, err := signed.Verify([]byte(compact), keys)
	if err != nil || v.Form() != signed.JWSCompact {
		t.Errorf("compact: %v", err)
	}
	for _, bad := range []string{compact + ".", compact + "\n", compact + "=", p + "." + w, p + ".." + sig, "." + w + "." + sig} {
		if _, err := signed.Parse([]byte(bad)); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	c, j := wrappers(f)
	for _, w := range [][]byte{c, j} {
		b, err := signed.Sign(w, signer, []byte("k"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append([]byte{0xd2}, b...))
	}
	p, w, sig := jwsParts(f, `{"alg":"ES256","cty":"application/cmw+json"}`, j)
	f.Add([]byte(p + "." + w + "." + sig))
	f.Add([]byte{0x84, 0x43, 0xa1, 1, 0x26, 0xa2, 1, 2, 0x20, 0x40, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		m, err := signed.Parse(b)
		if err != nil {
			if !errors.Is(err, attestext.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if !signed.Is(b) {
			t.Fatal("not recognized")
		}
		inner, err := cmw.Parse(m.Payload)
		if err != nil || inner.Form != m.CMW.Form {
			t.Fatal(err)
		}
		if _, err := signed.Verify(b, []crypto.PublicKey{signer.Public()}); err != nil && !errors.Is(err, attestext.ErrSignature) {
			t.Fatal(err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	c, j := wrappers(b)
	for name, w := range map[string][]byte{"COSE": c, "JWS": j} {
		b.Run(name, func(b *testing.B) {
			s, err := signed.Sign(w, signer, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := signed.Verify(s, []crypto.PublicKey{signer.Public()}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
