package ear_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	veraison "github.com/veraison/ear"
)

var (
	now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

	keyA  = ecKey(elliptic.P256(), 1)
	keyB  = ecKey(elliptic.P256(), 2)
	key38 = ecKey(elliptic.P384(), 3)
	keyEd = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{4}, ed25519.SeedSize))
	akpub = spkiOf(keyB.Public())
	nonce = bytes.Repeat([]byte{0x5a}, 32)
)

func ecKey(c elliptic.Curve, n byte) *ecdsa.PrivateKey {
	k, err := ecdsa.ParseRawPrivateKey(c, bytes.Repeat([]byte{n}, (c.Params().BitSize+7)/8))
	if err != nil {
		panic(err)
	}
	return k
}

func spkiOf(pub crypto.PublicKey) []byte {
	b, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		panic(err)
	}
	return b
}

func claims() *ear.Claims {
	return &ear.Claims{
		Profile:   ear.Profile,
		Issuer:    "https://verifier.example",
		Developer: "https://developer.example",
		Build:     "1.2.3",
		IssuedAt:  now,
		NotBefore: now,
		Expires:   now.Add(time.Hour),
		Nonce:     ear.NonceText(nonce),
		Submods: map[string]*ear.Appraisal{
			"tdx": {
				Status:    ear.Affirming,
				Vector:    ear.Vector{"hardware": 2, "executables": 3, "instance-identity": -2},
				PolicyIDs: []string{"policy://example/1"},
				AKPub:     akpub,
			},
			"platform": {Status: ear.Affirming},
		},
	}
}

func options() *ear.VerifyOptions {
	return &ear.VerifyOptions{Keys: []crypto.PublicKey{keyA.Public()}, Now: now, Nonce: nonce}
}

func sign(t testing.TB, c *ear.Claims, key crypto.Signer) []byte {
	t.Helper()
	token, err := ear.Sign(c, key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// forge signs any payload, whatever it says.
func forge(t testing.TB, payload string) []byte {
	t.Helper()
	token, err := jws.Sign([]byte(payload), jws.WithKey(jwa.ES256, keyA))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// forgeHeader signs any header.
func forgeHeader(t testing.TB, header, payload string) []byte {
	t.Helper()
	in := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	s, err := jws.NewSigner(jwa.ES256)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.Sign([]byte(in), keyA)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(in + "." + base64.RawURLEncoding.EncodeToString(sig))
}

// payload returns a token's claims with the members of edits in the place of
// their own; a nil one is left out. "/" leads into the appraisal "tdx".
func payload(edits map[string]any) string {
	tdx := map[string]any{
		"ear.status":                   "affirming",
		"ear.trustworthiness-vector":   map[string]any{"hardware": 2, "executables": 3},
		"ear.veraison.key-attestation": map[string]any{"akpub": base64.RawURLEncoding.EncodeToString(akpub)},
	}
	top := map[string]any{
		"eat_profile":     ear.Profile,
		"iat":             now.Unix(),
		"eat_nonce":       ear.NonceText(nonce),
		"ear.verifier-id": map[string]any{"developer": "https://developer.example", "build": "1.2.3"},
		"submods":         map[string]any{"tdx": tdx},
	}
	for name, v := range edits {
		m := top
		if rest, ok := strings.CutPrefix(name, "/"); ok {
			m, name = tdx, rest
		}
		m[name] = v
		if v == nil {
			delete(m, name)
		}
	}
	b, err := json.Marshal(top)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestTokenComesBackAsItWasSigned(t *testing.T) {
	for alg, key := range map[string]crypto.Signer{"ES256": keyA, "ES384": key38, "EdDSA": keyEd} {
		if got, err := ear.Algorithm(key.Public()); got != alg || err != nil {
			t.Errorf("%s: algorithm %q, %v", alg, got, err)
		}
		opts := options()
		opts.Keys = []crypto.PublicKey{keyB.Public(), key.Public()}
		r, err := ear.Verify(sign(t, claims(), key), opts)
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		if got := r.Claims(); !reflect.DeepEqual(got, claims()) {
			t.Errorf("%s: claims are %+v", alg, got)
		}
		dev, build := r.Verifier()
		if r.Profile() != ear.Profile || r.Issuer() != "https://verifier.example" || dev != "https://developer.example" || build != "1.2.3" ||
			!r.IssuedAt().Equal(now) || !r.Expires().Equal(now.Add(time.Hour)) || r.Tier() != ear.Affirming ||
			r.Nonce() != ear.NonceText(nonce) || !bytes.Equal(r.AKPub(), akpub) {
			t.Errorf("%s: getters of %+v", alg, r.Claims())
		}
		r.Claims().Submods["tdx"].Status = ear.None
		r.Claims().Submods["tdx"].Vector["hardware"] = 99
		r.AKPub()[0]++
		if r.Tier() != ear.Affirming || !bytes.Equal(r.AKPub(), akpub) {
			t.Errorf("%s: a copy changed the result", alg)
		}
	}
}

func TestVeraisonReadsOurTokensAndWeReadTheirs(t *testing.T) {
	c := claims()
	c.NotBefore, c.Expires = time.Time{}, time.Time{} // they go by the wall clock
	var theirs veraison.AttestationResult
	if err := theirs.Verify(sign(t, c, keyA), jwa.ES256, keyA.Public()); err != nil {
		t.Fatal(err)
	}
	a := theirs.Submods["tdx"]
	if *a.Status != veraison.TrustTierAffirming || a.TrustVector.Hardware != 2 || *theirs.Nonce != c.Nonce {
		t.Errorf("veraison reads %+v", theirs)
	}
	if pub, err := a.GetKeyAttestation(); err != nil || !keyB.PublicKey.Equal(pub) {
		t.Errorf("veraison reads the key %v, %v", pub, err)
	}

	ar := veraison.NewAttestationResult("tdx", "build", "developer")
	iat := now.Unix()
	ar.IssuedAt = &iat
	ar.Submods["tdx"].TrustVector.Hardware = veraison.UnsafeHardwareClaim
	ar.UpdateStatusFromTrustVector()
	if err := ar.Submods["tdx"].SetKeyAttestation(keyB.Public()); err != nil {
		t.Fatal(err)
	}
	token, err := ar.Sign(jwa.ES256, keyA)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ear.Verify(token, &ear.VerifyOptions{Keys: options().Keys, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if r.Tier() != ear.Warning || !bytes.Equal(r.AKPub(), akpub) || !r.Expires().Equal(now.Add(ear.DefaultMaxAge)) {
		t.Errorf("tier %v, key %x, expires %v", r.Tier(), r.AKPub(), r.Expires())
	}
}

func TestBothClaimSpellingsAreRead(t *testing.T) {
	const draft = `{"eat_profile":%q,"iat":%d,"eat_nonce":%q,` +
		`"ear_verifier_id":{"developer":"d","build":"b"},"ear_raw_evidence":["a/b","AA"],` +
		`"submods":{"tdx":{"ear_status":"affirming","ear_trustworthiness_vector":{"hardware":32},` +
		`"ear_appraisal_policy_ids":["a","b"],"ear_veraison_key_attestation":{"akpub":%q}}}}`
	for _, profile := range []string{ear.ProfileDraft03, ear.ProfileDraft04, ear.Profile} {
		token := forge(t, fmt.Sprintf(draft, profile, now.Unix(), ear.NonceText(nonce), base64.RawURLEncoding.EncodeToString(akpub)))
		r, err := ear.Verify(token, options())
		if err != nil {
			t.Errorf("%s: %v", profile, err)
			continue
		}
		want := &ear.Appraisal{Status: ear.Affirming, Vector: ear.Vector{"hardware": 32}, PolicyIDs: []string{"a", "b"}, AKPub: akpub}
		if got := r.Claims().Submods["tdx"]; !reflect.DeepEqual(got, want) || r.Tier() != ear.Warning {
			t.Errorf("%s: %+v, tier %v", profile, got, r.Tier())
		}
	}
	for _, both := range []map[string]any{
		{"/ear_status": "affirming"},
		{"/ear_trustworthiness_vector": map[string]any{"hardware": 2}},
		{"/ear_veraison_key_attestation": map[string]any{"akpub": base64.RawURLEncoding.EncodeToString(akpub)}},
		{"ear_verifier_id": map[string]any{"developer": "d", "build": "b"}},
	} {
		if _, err := ear.Verify(forge(t, payload(both)), options()); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%v beside the other spelling: %v", both, err)
		}
	}
}

// The library beneath takes the status at its word.
func TestStatusIsNoBetterThanItsVector(t *testing.T) {
	vector := func(n int) map[string]any { return map[string]any{"hardware": n, "executables": 2} }
	for _, tt := range []struct {
		name  string
		edits map[string]any
		want  ear.Tier
	}{
		{"affirming, no vector", map[string]any{"/ear.trustworthiness-vector": nil}, ear.Affirming},
		{"affirming, no claim", map[string]any{"/ear.trustworthiness-vector": vector(0)}, ear.Affirming},
		{"affirming beside affirming", map[string]any{"/ear.trustworthiness-vector": vector(31)}, ear.Affirming},
		{"affirming beside affirming, negative", map[string]any{"/ear.trustworthiness-vector": vector(-32)}, ear.Affirming},
		{"affirming beside unexpected evidence", map[string]any{"/ear.trustworthiness-vector": vector(1)}, ear.None},
		{"affirming beside a verifier's malfunction", map[string]any{"/ear.trustworthiness-vector": vector(-1)}, ear.None},
		{"affirming beside warning", map[string]any{"/ear.trustworthiness-vector": vector(32)}, ear.Warning},
		{"affirming beside warning, negative", map[string]any{"/ear.trustworthiness-vector": vector(-33)}, ear.Warning},
		{"affirming beside contraindicated", map[string]any{"/ear.trustworthiness-vector": vector(96)}, ear.Contraindicated},
		{"affirming beside failed cryptography", map[string]any{"/ear.trustworthiness-vector": vector(99)}, ear.Contraindicated},
		{"affirming beside contraindicated, negative", map[string]any{"/ear.trustworthiness-vector": vector(-128)}, ear.Contraindicated},
		{"warning beside affirming", map[string]any{"/ear.status": "warning"}, ear.Warning},
		{"none beside warning", map[string]any{"/ear.status": "none", "/ear.trustworthiness-vector": vector(32)}, ear.None},
		{"none as a whole", map[string]any{"ear_status": "none"}, ear.None},
		{"another submodule is contraindicated", map[string]any{"submods": map[string]any{
			"a": map[string]any{"ear.status": "affirming"}, "b": map[string]any{"ear.status": "contraindicated"},
		}}, ear.Contraindicated},
	} {
		r, err := ear.Verify(forge(t, payload(tt.edits)), options())
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if r.Tier() != tt.want {
			t.Errorf("%s: tier %v, want %v", tt.name, r.Tier(), tt.want)
		}
	}
	if (&ear.Claims{}).Tier() != ear.None {
		t.Error("claims without an appraisal have a tier")
	}
}

func TestAlgorithmIsTheKeysOwn(t *testing.T) {
	body := payload(nil)
	good := forgeHeader(t, `{"alg":"ES256","typ":"JWT"}`, body)
	if _, err := ear.Verify(good, options()); err != nil {
		t.Fatal(err)
	}
	f := strings.Split(string(good), ".")
	b64 := base64.RawURLEncoding.EncodeToString
	mac := func(header string, key []byte) []byte {
		in := b64([]byte(header)) + "." + f[1]
		h := hmac.New(sha256.New, key)
		h.Write([]byte(in))
		return []byte(in + "." + b64(h.Sum(nil)))
	}
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spkiOf(keyA.Public())})
	ed := sign(t, claims(), keyEd)
	for name, token := range map[string][]byte{
		"none, no signature":       []byte(b64([]byte(`{"alg":"none"}`)) + "." + f[1] + "."),
		"none, signature left":     []byte(b64([]byte(`{"alg":"none"}`)) + "." + f[1] + "." + f[2]),
		"none, signed":             forgeHeader(t, `{"alg":"none"}`, body),
		"None, signed":             forgeHeader(t, `{"alg":"None"}`, body),
		"HS256 by the PEM":         mac(`{"alg":"HS256"}`, pemKey),
		"HS256 by the SPKI":        mac(`{"alg":"HS256"}`, spkiOf(keyA.Public())),
		"ES384 by the P-256 key":   forgeHeader(t, `{"alg":"ES384"}`, body),
		"es256":                    forgeHeader(t, `{"alg":"es256"}`, body),
		"ES256K":                   forgeHeader(t, `{"alg":"ES256K"}`, body),
		"RS256":                    forgeHeader(t, `{"alg":"RS256"}`, body),
		"EdDSA by a key unknown":   ed,
		"ES256, signature cleared": []byte(f[0] + "." + f[1] + "." + b64(make([]byte, 64))),
		"ES256, no signature":      []byte(f[0] + "." + f[1] + "."),
	} {
		if _, err := ear.Verify(token, options()); !errors.Is(err, attestext.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, header := range map[string]string{
		"no alg":          `{"typ":"JWT"}`,
		"alg twice":       `{"alg":"none","alg":"ES256"}`,
		"alg as a list":   `{"alg":["ES256"]}`,
		"alg null":        `{"alg":null}`,
		"critical":        `{"alg":"ES256","crit":["x"],"x":1}`,
		"unencoded":       `{"alg":"ES256","b64":false}`,
		"header as array": `["ES256"]`,
		"header empty":    ``,
		"header trailing": `{"alg":"ES256"} `,
	} {
		if _, err := ear.Verify(forgeHeader(t, header, body), options()); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysOfTheTokenAreNotUsed(t *testing.T) {
	jwk := `{"kty":"EC","crv":"P-256","x":"` + coordinate(keyA, 0) + `","y":"` + coordinate(keyA, 1) + `"}`
	for _, header := range []string{
		`{"alg":"ES256","jwk":` + jwk + `}`,
		`{"alg":"ES256","jku":"https://evil.example/keys"}`,
		`{"alg":"ES256","x5u":"https://evil.example/chain","x5c":["AA=="]}`,
		`{"alg":"ES256","kid":"evil"}`,
	} {
		opts := options()
		opts.Keys = []crypto.PublicKey{keyB.Public(), keyEd.Public(), key38.Public()}
		if _, err := ear.Verify(forgeHeader(t, header, payload(nil)), opts); !errors.Is(err, attestext.ErrSignature) {
			t.Errorf("%s: %v", header, err)
		}
		// Nor do they stand in the way of the key that is trusted.
		if _, err := ear.Verify(forgeHeader(t, header, payload(nil)), options()); err != nil {
			t.Errorf("%s: %v", header, err)
		}
	}
}

func coordinate(k *ecdsa.PrivateKey, i int) string {
	b, err := k.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	n := len(b) / 2
	return base64.RawURLEncoding.EncodeToString(b[1+i*n : 1+(i+1)*n])
}

func TestLifetimeIsEnforced(t *testing.T) {
	unix := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for _, tt := range []struct {
		name   string
		edits  map[string]any
		maxAge time.Duration
		ok     bool
	}{
		{"issued now", nil, 0, true},
		{"almost a day old", map[string]any{"iat": unix(-24*time.Hour + time.Second)}, 0, true},
		{"a day old", map[string]any{"iat": unix(-24 * time.Hour)}, 0, false},
		{"a year old", map[string]any{"iat": unix(-365 * 24 * time.Hour)}, 0, false},
		{"older than MaxAge", map[string]any{"iat": unix(-time.Minute)}, time.Minute, false},
		{"younger than MaxAge", map[string]any{"iat": unix(-59 * time.Second)}, time.Minute, true},
		{"exp lengthens nothing", map[string]any{"iat": unix(-25 * time.Hour), "exp": unix(time.Hour)}, 0, false},
		{"expires now", map[string]any{"iat": unix(-time.Hour), "exp": unix(0)}, 0, false},
		{"expires in a second", map[string]any{"iat": unix(-time.Hour), "exp": unix(time.Second)}, 0, true},
		{"issued within the leeway", map[string]any{"iat": unix(ear.Leeway)}, 0, true},
		{"issued beyond the leeway", map[string]any{"iat": unix(ear.Leeway + time.Second)}, 0, false},
		{"issued in a year", map[string]any{"iat": unix(365 * 24 * time.Hour)}, 0, false},
		{"not valid yet", map[string]any{"nbf": unix(time.Hour)}, 0, false},
		{"valid for long", map[string]any{"nbf": unix(-time.Hour)}, 0, true},
	} {
		opts := options()
		opts.MaxAge = tt.maxAge
		_, err := ear.Verify(forge(t, payload(tt.edits)), opts)
		if tt.ok && err != nil || !tt.ok && !errors.Is(err, attestext.ErrSignature) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestNonceIsCompared(t *testing.T) {
	for _, tt := range []struct {
		name  string
		token any
		want  []byte
		ok    bool
	}{
		{"same", ear.NonceText(nonce), nonce, true},
		{"same, padded", base64.URLEncoding.EncodeToString(nonce), nonce, true},
		{"none expected", ear.NonceText(nonce), nil, true},
		{"none expected, none there", nil, nil, true},
		{"another", ear.NonceText(bytes.Repeat([]byte{1}, 32)), nonce, false},
		{"longer", ear.NonceText(append(bytes.Clone(nonce), 0)), nonce, false},
		{"shorter", ear.NonceText(nonce[:31]), nonce, false},
		{"missing", nil, nonce, false},
		{"missing where the empty one is expected", nil, []byte{}, false},
	} {
		opts := options()
		opts.Nonce = tt.want
		_, err := ear.Verify(forge(t, payload(map[string]any{"eat_nonce": tt.token})), opts)
		if tt.ok && err != nil || !tt.ok && !errors.Is(err, attestext.ErrBinding) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestOtherProfilesAreRefused(t *testing.T) {
	for _, p := range []string{"", "tag:example.com,2026:ear", ear.Profile + "/", "TAG:github.com,2023:veraison/ear", "tag:ietf.org,2026:rats/ear#02"} {
		if _, err := ear.Verify(forge(t, payload(map[string]any{"eat_profile": p})), options()); !errors.Is(err, attestext.ErrWrongType) {
			t.Errorf("%q: %v", p, err)
		}
	}
	if _, err := ear.Verify(forge(t, payload(map[string]any{"aud": "somebody"})), options()); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("token for an audience: %v", err)
	}
}

func TestMalformedClaimsAreRefused(t *testing.T) {
	full := payload(nil)
	twice := func(old, dup string) string {
		s := strings.Replace(full, old, dup+","+old, 1)
		if s == full {
			t.Fatalf("no %s", old)
		}
		return s
	}
	many := map[string]any{}
	for i := range ear.MaxSubmods + 1 {
		many[fmt.Sprint(i)] = map[string]any{"ear.status": "affirming"}
	}
	otherKey := map[string]any{"akpub": base64.RawURLEncoding.EncodeToString(spkiOf(keyA.Public()))}
	key := map[string]any{"akpub": base64.RawURLEncoding.EncodeToString(akpub)}
	bodies := map[string]string{
		"iat twice":                 twice(`"iat":`, `"iat":1`),
		"status twice":              twice(`"ear.status":`, `"ear.status":"contraindicated"`),
		"status twice, escaped":     twice(`"ear.status":`, `"ear\u002estatus":"contraindicated"`),
		"claim of the vector twice": twice(`"hardware":`, `"hardware":96`),
		"akpub twice":               twice(`"akpub":`, `"akpub":"AA"`),
		"profile twice":             twice(`"eat_profile":`, `"eat_profile":"x"`),
		"empty":                     "", "null": "null", "array": "[]", "object without claims": "{}",
		"trailing byte": full + " ", "two objects": full + full, "not UTF-8": strings.Replace(full, "1.2.3", "\xff", 1),
		"deep": strings.Replace(full, `"1.2.3"`, `"1.2.3","x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40), 1),
	}
	for name, edits := range map[string]map[string]any{
		"no profile": {"eat_profile": nil}, "profile is a list": {"eat_profile": []string{ear.Profile}},
		"no iat": {"iat": nil}, "iat is text": {"iat": "1"}, "iat is negative": {"iat": -1}, "iat is zero": {"iat": 0},
		"iat has a fraction": {"iat": 1.5}, "iat in exponents": {"iat": json.RawMessage("1e9")}, "iat is huge": {"iat": int64(1) << 62},
		"exp is text": {"exp": "never"}, "exp is null": {"exp": json.RawMessage("null")}, "exp before iat": {"exp": now.Unix() - 1},
		"no submods": {"submods": nil}, "empty submods": {"submods": map[string]any{}}, "many submods": {"submods": many},
		"submods null": {"submods": json.RawMessage("null")}, "submodule null": {"submods": map[string]any{"a": nil}},
		"submodule is a token": {"submods": map[string]any{"a": []string{"JWT", "x"}}},
		"no verifier":          {"ear.verifier-id": nil}, "verifier without a build": {"ear.verifier-id": map[string]any{"developer": "d"}},
		"nonce too short": {"eat_nonce": "AAAA"}, "nonce too long": {"eat_nonce": strings.Repeat("A", 89)}, "nonces": {"eat_nonce": []string{ear.NonceText(nonce)}},
		"nonce empty": {"eat_nonce": ""}, "issuer empty": {"iss": ""}, "issuer is a number": {"iss": 1},
		"no status": {"/ear.status": nil}, "status is a number": {"/ear.status": 2}, "status unknown": {"/ear.status": "fine"},
		"status is digits": {"/ear.status": "2"}, "status null": {"/ear.status": json.RawMessage("null")},
		"vector null": {"/ear.trustworthiness-vector": json.RawMessage("null")}, "vector is a list": {"/ear.trustworthiness-vector": []int{2}},
		"vector claim unknown":     {"/ear.trustworthiness-vector": map[string]any{"hardware ": 96}},
		"vector claim out of int8": {"/ear.trustworthiness-vector": map[string]any{"hardware": 258}},
		"vector claim a fraction":  {"/ear.trustworthiness-vector": map[string]any{"hardware": 2.9}},
		"vector claim true":        {"/ear.trustworthiness-vector": map[string]any{"hardware": true}},
		"vector claim text":        {"/ear.trustworthiness-vector": map[string]any{"hardware": "96"}},
		"key is no key":            {"/ear.veraison.key-attestation": map[string]any{"akpub": "AAAA"}},
		"key padded":               {"/ear.veraison.key-attestation": map[string]any{"akpub": base64.URLEncoding.EncodeToString(akpub) + "="}},
		"key missing":              {"/ear.veraison.key-attestation": map[string]any{}},
		"key null":                 {"/ear.veraison.key-attestation": json.RawMessage("null")},
		"key with trailing bytes":  {"/ear.veraison.key-attestation": map[string]any{"akpub": base64.RawURLEncoding.EncodeToString(append(bytes.Clone(akpub), 0))}},
		"two keys": {"submods": map[string]any{
			"a": map[string]any{"ear.status": "affirming", "ear.veraison.key-attestation": key},
			"b": map[string]any{"ear.status": "affirming", "ear.veraison.key-attestation": otherKey},
		}},
		"policy is a number": {"/ear.appraisal-policy-id": 1},
	} {
		bodies[name] = payload(edits)
	}
	for name, body := range bodies {
		token := forgeHeader(t, `{"alg":"ES256"}`, body)
		if r, err := ear.Verify(token, options()); r != nil || !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if c, err := ear.ParseUnverified(token); c != nil || !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s, unverified: %v", name, err)
		}
	}
}

func TestEveryOtherTokenIsRefused(t *testing.T) {
	token := sign(t, claims(), keyA)
	for n := range token {
		if _, err := ear.Verify(token[:n], options()); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", n, len(token))
		}
	}
	for _, tail := range []string{"A", "=", ".", "\n", " ", "\x00", ".AA"} {
		if _, err := ear.Verify([]byte(string(token)+tail), options()); err == nil {
			t.Errorf("accepted with %q behind", tail)
		}
	}
	for i := range token {
		bad := bytes.Clone(token)
		bad[i] ^= 1
		if _, err := ear.Verify(bad, options()); err == nil {
			t.Fatalf("accepted with byte %d changed", i)
		}
	}
	if _, err := ear.Verify([]byte(strings.Replace(string(token), ".", "\r\n.", 1)), options()); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("line break: %v", err)
	}
	opts := options()
	opts.Keys = []crypto.PublicKey{keyB.Public()}
	if _, err := ear.Verify(token, opts); !errors.Is(err, attestext.ErrSignature) {
		t.Errorf("key of another: %v", err)
	}
	big := forge(t, payload(map[string]any{"ear.raw-evidence": strings.Repeat("A", ear.MaxSize)}))
	if _, err := ear.Verify(big, options()); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("beyond MaxSize: %v", err)
	}
	for name, opts := range map[string]*ear.VerifyOptions{
		"nil": nil, "no key": {Now: now}, "key of a kind unknown": {Now: now, Keys: []crypto.PublicKey{ecKey(elliptic.P521(), 1).Public()}},
		"nil key": {Now: now, Keys: []crypto.PublicKey{nil}}, "negative age": {Now: now, Keys: options().Keys, MaxAge: -1},
		"nil key of a type": {Now: now, Keys: []crypto.PublicKey{(*ecdsa.PublicKey)(nil)}}, "short key": {Now: now, Keys: []crypto.PublicKey{ed25519.PublicKey{1}}},
	} {
		if _, err := ear.Verify(token, opts); !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("options %s: %v", name, err)
		}
	}
}

func TestSignRefusesWhatVerifyWould(t *testing.T) {
	for name, change := range map[string]func(*ear.Claims){
		"no submods":              func(c *ear.Claims) { c.Submods = nil },
		"nil appraisal":           func(c *ear.Claims) { c.Submods["nil"] = nil },
		"no time":                 func(c *ear.Claims) { c.IssuedAt = time.Time{} },
		"expired when issued":     func(c *ear.Claims) { c.Expires = c.IssuedAt },
		"another profile":         func(c *ear.Claims) { c.Profile = ear.ProfileDraft04 },
		"short nonce":             func(c *ear.Claims) { c.Nonce = "A" },
		"status above its vector": func(c *ear.Claims) { c.Submods["tdx"].Vector["hardware"] = 96 },
		"unknown vector claim":    func(c *ear.Claims) { c.Submods["tdx"].Vector["harware"] = 2 },
		"unknown status":          func(c *ear.Claims) { c.Submods["tdx"].Status = 9 },
		"key that is none":        func(c *ear.Claims) { c.Submods["tdx"].AKPub = []byte{1} },
		"two keys":                func(c *ear.Claims) { c.Submods["platform"].AKPub = spkiOf(keyA.Public()) },
		"two policies":            func(c *ear.Claims) { c.Submods["tdx"].PolicyIDs = []string{"a", "b"} },
		"too large":               func(c *ear.Claims) { c.Build = strings.Repeat("x", ear.MaxSize) },
	} {
		c := claims()
		change(c)
		if _, err := ear.Sign(c, keyA); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := ear.Sign(claims(), ecKey(elliptic.P521(), 1)); err == nil {
		t.Error("signed with P-521")
	}
}

func TestFormatSaysWhichProfile(t *testing.T) {
	mt := func(s string) attestext.EvidenceFormat { return attestext.EvidenceFormat{MediaType: s} }
	for _, tt := range []struct {
		f       attestext.EvidenceFormat
		profile string
		ok      bool
	}{
		{ear.Format, ear.Profile, true},
		{mt(`Application/EAT+JWT;eat_profile="` + ear.Profile + `"`), ear.Profile, true},
		{mt(`application/eat+jwt; eat_profile="` + ear.ProfileDraft04 + `"`), ear.ProfileDraft04, true},
		{mt("application/eat+jwt"), "", true},
		{attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatEATJWT}, "", true},
		{attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatEATCWT}, "", false},
		{mt("application/eat+cwt"), "", false},
		{mt("application/jwt"), "", false},
		{mt(`application/eat+jwt; eat_profile="tag:example.com,2026:x"`), "", false},
		{mt(`application/eat+jwt; a=b`), "", false},
		{mt(`application/eat+jwt; a=b; eat_profile="` + ear.Profile + `"`), "", false},
		{mt(";"), "", false},
	} {
		p, err := ear.ProfileOf(tt.f)
		if p != tt.profile || (err == nil) != tt.ok {
			t.Errorf("%v: %q, %v", tt.f, p, err)
		}
	}
}

func TestKeysAreRead(t *testing.T) {
	ec := `{"kty":"EC","crv":"P-256","x":"` + coordinate(keyA, 0) + `","y":"` + coordinate(keyA, 1) + `"`
	ed := `{"kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(keyEd.Public().(ed25519.PublicKey)) + `"`
	for _, good := range []struct {
		jwk string
		pub crypto.PublicKey
	}{
		{ec + `}`, keyA.Public()},
		{ec + `,"alg":"ES256","kid":"1","use":"sig","x5c":[]}`, keyA.Public()},
		{`{"kty":"EC","crv":"P-384","x":"` + coordinate(key38, 0) + `","y":"` + coordinate(key38, 1) + `"}`, key38.Public()},
		{ed + `}`, keyEd.Public()},
	} {
		got, err := ear.ParseJWK([]byte(good.jwk))
		if err != nil || !reflect.DeepEqual(spkiOf(got), spkiOf(good.pub)) {
			t.Errorf("%s: %v", good.jwk, err)
		}
		for n := range good.jwk {
			if _, err := ear.ParseJWK([]byte(good.jwk[:n])); err == nil {
				t.Errorf("%s is accepted", good.jwk[:n])
			}
		}
	}
	for _, bad := range []string{
		`null`, `[]`, `{}`, ec + `} `, ec + `,"d":"AA"}`, ec + `,"alg":"ES384"}`, ec + `,"alg":1}`, ec + `,"use":"enc"}`, ec + `,"kty":"EC"}`,
		strings.Replace(ec, "P-256", "P-384", 1) + "}", strings.Replace(ec, "P-256", "P-521", 1) + "}", strings.Replace(ec, "EC", "RSA", 1) + "}",
		`{"kty":"EC","crv":"P-256","x":"` + coordinate(keyA, 0) + `","y":"` + coordinate(keyA, 0) + `"}`,
		`{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}`, `{"kty":"oct","k":"AAAA"}`, ed + `,"d":"AA"}`, strings.Replace(ed, "Ed25519", "X25519", 1) + "}",
		`{"kty":"OKP","crv":"Ed25519","x":"AA"}`,
	} {
		if _, err := ear.ParseJWK([]byte(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}

	block := func(typ string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}))
	}
	two := "# verifier\n" + block("PUBLIC KEY", spkiOf(keyA.Public())) + "\n" + block("PUBLIC KEY", spkiOf(keyEd.Public()))
	if keys, err := ear.ParsePEM([]byte(two)); err != nil || len(keys) != 2 || !keyA.PublicKey.Equal(keys[0]) {
		t.Errorf("two keys: %v, %v", keys, err)
	}
	for name, bad := range map[string]string{
		"nothing": "", "text": "key", "P-521": block("PUBLIC KEY", spkiOf(ecKey(elliptic.P521(), 1).Public())),
		"other block behind": two + block("CERTIFICATE", nil), "no SPKI": block("PUBLIC KEY", []byte{1}),
	} {
		if _, err := ear.ParsePEM([]byte(bad)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(sign(f, claims(), keyA))
	f.Add(forge(f, payload(nil)))
	f.Add(forgeHeader(f, `{"alg":"none","jwk":{}}`, payload(nil)))
	f.Fuzz(func(t *testing.T, token []byte) {
		defer fuzzbound.Check(t, len(token))()
		r, err := ear.Verify(token, options())
		if (r == nil) == (err == nil) {
			t.Fatalf("%v, %v", r, err)
		}
		if _, perr := ear.ParseUnverified(token); perr != nil && err == nil {
			t.Fatalf("verifies and does not parse: %v", perr)
		}
	})
}

// FuzzClaims fuzzes what a trusted key signs.
func FuzzClaims(f *testing.F) {
	f.Add([]byte(payload(nil)))
	f.Add([]byte(payload(map[string]any{"exp": now.Unix() + 9, "nbf": now.Unix(), "iss": "i", "/ear.appraisal-policy-id": []string{"p"}})))
	f.Add([]byte(`{"eat_profile":"` + ear.ProfileDraft04 + `","iat":1,"ear_verifier_id":{"developer":"d","build":"b"},"ear_status":"none","submods":{"a":{"ear_status":"warning"}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		defer fuzzbound.Check(t, len(body))()
		token := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256"}`)) + "." + base64.RawURLEncoding.EncodeToString(body) + "."
		c, err := ear.ParseUnverified([]byte(token))
		if err != nil {
			if c != nil || errors.Is(err, attestext.ErrUnavailable) {
				t.Fatalf("%v, %v", c, err)
			}
			return
		}
		for _, a := range c.Submods {
			if a.Tier().Worse(c.Tier()) != c.Tier() {
				t.Fatalf("tier %v, of an appraisal %v", c.Tier(), a.Tier())
			}
			a.Status = a.Tier()
			if len(a.PolicyIDs) > 1 {
				return
			}
		}
		if c.Profile != ear.Profile || len(body) > ear.MaxSize/8 {
			return
		}
		back, err := ear.ParseUnverified(sign(t, c, keyA))
		if err != nil || back.Tier().Worse(c.Tier()) != c.Tier() {
			t.Fatalf("%+v came back as %+v, %v", c, back, err)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(`{"kty":"EC","crv":"P-256","x":"` + coordinate(keyA, 0) + `","y":"` + coordinate(keyA, 1) + `"}`))
	f.Add([]byte(`{"kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(keyEd.Public().(ed25519.PublicKey)) + `"}`))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: akpub}))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		if k, err := ear.ParseJWK(b); err == nil {
			if _, err := ear.Algorithm(k); err != nil {
				t.Fatal(err)
			}
		}
		keys, err := ear.ParsePEM(b)
		if (len(keys) == 0) == (err == nil) {
			t.Fatalf("%v, %v", keys, err)
		}
	})
}

func TestWrappedTokenIsAnAttestationResult(t *testing.T) {
	token := sign(t, claims(), keyA)
	b, err := ear.Wrap(token)
	if err != nil {
		t.Fatal(err)
	}
	w, err := cmw.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if w.Form != cmw.CBORRecord || w.Record.Ind != cmw.AttestationResults || w.Record.Format != ear.Format {
		t.Errorf("wrapped as %+v", w.Record)
	}
	got, profile, err := ear.Unwrap(b)
	if err != nil || !bytes.Equal(got, token) || profile != ear.Profile {
		t.Errorf("unwraps to %q, %q, %v", got, profile, err)
	}
	if _, err := ear.Wrap([]byte("e..")); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("wraps what is no token: %v", err)
	}
	for n := range b {
		if _, _, err := ear.Unwrap(b[:n]); !errors.Is(err, attestext.ErrMalformed) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(b), err)
		}
	}
}

func TestJWKsMarshalAndParse(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []interface{ Equal(crypto.PublicKey) bool }{&p256.PublicKey, &p384.PublicKey, ed} {
		b, err := ear.MarshalJWK(k)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ear.ParseJWK(b); err != nil || !k.Equal(got) {
			t.Errorf("%s: %v", b, err)
		}
	}
	if _, err := ear.MarshalJWK("key"); err == nil {
		t.Error("marshals a string")
	}
}
