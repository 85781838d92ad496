package results_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/internal/testpki"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
)

const (
	idA attestext.VerifierIdentity = "https://a.example"
	idB attestext.VerifierIdentity = "https://b.example"
)

var (
	// now is in the past of every clock but the tests'.
	now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

	issuerA = issuer("a", idA, nil)
	issuerB = issuer("b", idB, nil)

	leaf  = testpki.SPKI(key(1))
	other = testpki.SPKI(key(2))
)

func issuer(seed string, id attestext.VerifierIdentity, modify func(*ear.Claims)) *softtee.ResultsIssuer {
	return softtee.NewResultsIssuer(&softtee.ResultsOptions{Seed: seed, Identity: id, Modify: modify})
}

func key(n byte) *ecdsa.PrivateKey {
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{n}, 32))
	if err != nil {
		panic(err)
	}
	return k
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func issue(i *softtee.ResultsIssuer, spki []byte, at time.Time) []byte {
	return must(i.Issue(spki, at))
}

func wrapped(i *softtee.ResultsIssuer, spki []byte, at time.Time) []byte {
	return must(ear.Wrap(issue(i, spki, at)))
}

func record(mediaType string, ind cmw.Indicator, value []byte) []byte {
	r := cmw.Record{Format: attestext.EvidenceFormat{MediaType: mediaType}, Value: value, Ind: ind}
	return must(r.CBOR())
}

func trust() []results.Trust {
	return []results.Trust{
		{ID: idA, Keys: []crypto.PublicKey{issuerA.PublicKey()}},
		{ID: idB, Keys: []crypto.PublicKey{issuerB.PublicKey()}, AllowWarning: true, MaxAge: 10 * time.Minute},
	}
}

func newVerifier(t testing.TB, policy func(*ear.Result) error) *results.Verifier {
	t.Helper()
	v, err := results.NewVerifier(trust(), &results.VerifierOptions{Policy: policy, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func challenge(b attestext.Binding, k attestext.CredentialKind, spki []byte) *attestext.Challenge {
	return &attestext.Challenge{Model: attestext.Passport, Role: attestext.RoleServer, Binding: b, Kind: k, SPKI: spki}
}

func hardened() *attestext.Challenge {
	return challenge(attestext.BindingHardened, attestext.CertAttestation, leaf)
}

func appraise(t testing.TB, v *results.Verifier, b []byte, c *attestext.Challenge) (*attestext.Result, error) {
	t.Helper()
	return attestext.Appraise(t.Context(), time.Minute, v, &attestext.Evidence{Verifier: idA, CMW: b}, c)
}

func TestResultOverTheLeafIsAccepted(t *testing.T) {
	v := newVerifier(t, nil)
	if got := v.Verifiers(); !slices.Equal(got, []attestext.VerifierIdentity{idA, idB}) {
		t.Errorf("trusted are %v", got)
	}
	r, err := appraise(t, v, wrapped(issuerA, leaf, now), hardened())
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict() != "affirming" || !bytes.Equal(r.Key(), leaf) || r.Claims()["verifier"] != string(idA) {
		t.Errorf("%s, key %x, %v", r.Verdict(), r.Key(), r.Claims())
	}
	if _, err := json.Marshal(r.Claims()); err != nil {
		t.Error(err)
	}
}

func TestResultIsTiedToTheKeyByTheBinding(t *testing.T) {
	h, d := attestext.BindingHardened, attestext.BindingDraft08
	x509Kind, only := attestext.CertAttestation, attestext.AttestationOnly
	for _, tt := range []struct {
		name    string
		c       *attestext.Challenge
		akpub   []byte
		wantKey []byte
		err     error
	}{
		{"hardened, the leaf", challenge(h, x509Kind, leaf), leaf, leaf, nil},
		{"hardened, another key", challenge(h, x509Kind, leaf), other, nil, attestext.ErrBinding},
		{"hardened, no key", challenge(h, x509Kind, leaf), nil, nil, attestext.ErrBinding},
		{"hardened, attestation-only", challenge(h, only, nil), leaf, leaf, nil},
		{"hardened, attestation-only, no key", challenge(h, only, nil), nil, nil, attestext.ErrBinding},
		{"hardened, attestation-only, another key", challenge(h, only, leaf), other, nil, attestext.ErrBinding},
		{"draft-08, the leaf", challenge(d, x509Kind, leaf), leaf, nil, nil},
		{"draft-08, another key", challenge(d, x509Kind, leaf), other, nil, nil},
		{"draft-08, no key", challenge(d, x509Kind, leaf), nil, nil, nil},
		{"draft-08, attestation-only", challenge(d, only, nil), other, other, nil},
		{"draft-08, attestation-only, no key", challenge(d, only, nil), nil, nil, attestext.ErrBinding},
	} {
		b := wrapped(issuerA, tt.akpub, now)
		r, err := appraise(t, newVerifier(t, nil), b, tt.c)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err == nil && !bytes.Equal(r.Key(), tt.wantKey) {
			t.Errorf("%s: key %x", tt.name, r.Key())
		}
		// The same by ourselves: attestext.Appraise has checks of its own.
		_, err = newVerifier(t, nil).Appraise(t.Context(), &attestext.Evidence{Verifier: idA, CMW: b}, tt.c)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s, without attestext: %v", tt.name, err)
		}
	}
}

func TestResultIsRefused(t *testing.T) {
	token := issue(issuerA, leaf, now)
	good := must(ear.Wrap(token))
	// The issuer says affirming beside a claim of ours; ear.Sign would not.
	contradictory := func(n int) []byte {
		payload := fmt.Sprintf(`{"eat_profile":%q,"iat":%d,"ear.verifier-id":{"developer":"d","build":"b"},"submods":{"tdx":`+
			`{"ear.status":"affirming","ear.trustworthiness-vector":{"hardware":%d},"ear.veraison.key-attestation":{"akpub":%q}}}}`,
			ear.Profile, now.Unix(), n, base64.RawURLEncoding.EncodeToString(leaf))
		signed := must(jws.Sign([]byte(payload), jws.WithKey(jwa.ES256, key(9))))
		return must(ear.Wrap(signed))
	}
	nonce := bytes.Repeat([]byte{7}, 32)
	nonced := func(text string) []byte {
		return wrapped(issuer("a", idA, func(c *ear.Claims) { c.Nonce = text }), leaf, now)
	}
	withNonce := hardened()
	withNonce.Nonce = nonce
	background := &attestext.Challenge{Role: attestext.RoleServer, Kind: attestext.CertAttestation, SPKI: leaf, Nonce: nonce, Binder: nonce}
	status := func(i *softtee.ResultsIssuer, tier ear.Tier) []byte {
		return wrapped(issuer(map[bool]string{true: "a", false: "b"}[i == issuerA], i.Identity(), func(c *ear.Claims) {
			c.Submods["softtee"].Status = tier
			c.Submods["softtee"].Vector = nil
		}), leaf, now)
	}
	nineTrusted := must(results.NewVerifier([]results.Trust{{ID: idA, Keys: []crypto.PublicKey{key(9).Public()}}},
		&results.VerifierOptions{Now: func() time.Time { return now }}))
	lenientNine := must(results.NewVerifier([]results.Trust{{ID: idA, Keys: []crypto.PublicKey{key(9).Public()}, AllowWarning: true}},
		&results.VerifierOptions{Now: func() time.Time { return now }}))
	v := newVerifier(t, nil)

	for _, tt := range []struct {
		name string
		v    *results.Verifier
		id   attestext.VerifierIdentity
		cmw  []byte
		c    *attestext.Challenge
		err  error
	}{
		{"good", v, idA, good, hardened(), nil},
		{"another verifier was negotiated", v, idB, good, hardened(), attestext.ErrSignature},
		{"another verifier signed", v, idA, wrapped(issuerB, leaf, now), hardened(), attestext.ErrSignature},
		{"verifier not trusted", v, "https://c.example", good, hardened(), attestext.ErrSignature},
		{"verifier differs by a slash", v, idA + "/", good, hardened(), attestext.ErrSignature},
		{"issuer is another", v, idA, wrapped(issuer("a", idB, nil), leaf, now), hardened(), attestext.ErrSignature},
		{"no issuer", v, idA, wrapped(issuer("a", idA, func(c *ear.Claims) { c.Issuer = "" }), leaf, now), hardened(), nil},
		{"expired", v, idA, wrapped(issuerA, leaf, now.Add(-time.Hour)), hardened(), attestext.ErrSignature},
		{"about to expire", v, idA, wrapped(issuerA, leaf, now.Add(-time.Hour+time.Second)), hardened(), nil},
		{"older than the maximum", v, idB, wrapped(issuerB, leaf, now.Add(-10*time.Minute)), hardened(), attestext.ErrSignature},
		{"issued in the future", v, idA, wrapped(issuerA, leaf, now.Add(time.Hour)), hardened(), attestext.ErrSignature},
		{"affirming beside contraindicated", nineTrusted, idA, contradictory(99), hardened(), attestext.ErrPolicy},
		{"affirming beside contraindicated, warnings allowed", lenientNine, idA, contradictory(99), hardened(), attestext.ErrPolicy},
		{"affirming beside warning", nineTrusted, idA, contradictory(32), hardened(), attestext.ErrPolicy},
		{"affirming beside warning, allowed", lenientNine, idA, contradictory(32), hardened(), nil},
		{"affirming beside affirming", nineTrusted, idA, contradictory(2), hardened(), nil},
		{"warning", v, idA, status(issuerA, ear.Warning), hardened(), attestext.ErrPolicy},
		{"warning, allowed", v, idB, status(issuerB, ear.Warning), hardened(), nil},
		{"none, where warning is allowed", v, idB, status(issuerB, ear.None), hardened(), attestext.ErrPolicy},
		{"contraindicated, where warning is allowed", v, idB, status(issuerB, ear.Contraindicated), hardened(), attestext.ErrPolicy},
		{"nonce as expected", v, idA, nonced(ear.NonceText(nonce)), withNonce, nil},
		{"nonce of the verifier's session", v, idA, nonced(ear.NonceText(nonce)), hardened(), nil},
		{"another nonce", v, idA, nonced(ear.NonceText(make([]byte, 32))), withNonce, attestext.ErrBinding},
		{"nonce missing", v, idA, good, withNonce, attestext.ErrBinding},
		{"background check", v, idA, good, background, attestext.ErrWrongType},
		{"no challenge", v, idA, good, nil, attestext.ErrUnavailable},
		{"no wrapper", v, idA, token, hardened(), attestext.ErrMalformed},
		{"evidence", v, idA, record(ear.MediaType, cmw.Evidence, token), hardened(), attestext.ErrWrongType},
		{"no indicator", v, idA, record(ear.MediaType, 0, token), hardened(), nil},
		{"type without a profile", v, idA, record("application/eat+jwt", cmw.AttestationResults, token), hardened(), nil},
		{"another type", v, idA, record("application/jwt", cmw.AttestationResults, token), hardened(), attestext.ErrWrongType},
		{"another profile in the type", v, idA, record(`application/eat+jwt; eat_profile="tag:example.com,2026:x"`, cmw.AttestationResults, token), hardened(), attestext.ErrWrongType},
		{"another known profile in the type", v, idA, record(`application/eat+jwt; eat_profile="`+ear.ProfileDraft04+`"`, cmw.AttestationResults, token), hardened(), attestext.ErrWrongType},
		{"no token", v, idA, record(ear.MediaType, cmw.AttestationResults, []byte("x")), hardened(), attestext.ErrMalformed},
		{"empty", v, idA, nil, hardened(), attestext.ErrMalformed},
	} {
		a, err := tt.v.Appraise(t.Context(), &attestext.Evidence{Verifier: tt.id, CMW: tt.cmw}, tt.c)
		if !errors.Is(err, tt.err) || (a == nil) == (err == nil) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for n := range good {
		if _, err := appraise(t, v, good[:n], hardened()); err == nil {
			t.Fatalf("accepted with the first %d of %d bytes", n, len(good))
		}
	}
	if _, err := appraise(t, v, append(bytes.Clone(good), 0), hardened()); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("trailing byte: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Appraise(ctx, &attestext.Evidence{Verifier: idA, CMW: good}, hardened()); !errors.Is(err, attestext.ErrUnavailable) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestPolicySeesVerifiedResultsOnly(t *testing.T) {
	var seen int
	v := newVerifier(t, func(r *ear.Result) error {
		seen++
		if r.Claims().Submods["softtee"].Vector["hardware"] != 2 {
			return errors.New("hardware is unknown")
		}
		return nil
	})
	if _, err := appraise(t, v, wrapped(issuerA, leaf, now), hardened()); err != nil || seen != 1 {
		t.Errorf("%v, policy asked %d times", err, seen)
	}
	plain := issuer("a", idA, func(c *ear.Claims) { c.Submods["softtee"].Vector = nil })
	if _, err := appraise(t, v, wrapped(plain, leaf, now), hardened()); !errors.Is(err, attestext.ErrPolicy) || seen != 2 {
		t.Errorf("%v, policy asked %d times", err, seen)
	}
	for _, b := range [][]byte{wrapped(issuerB, leaf, now), wrapped(issuerA, other, now), wrapped(issuerA, leaf, now.Add(-2*time.Hour))} {
		if _, err := appraise(t, v, b, hardened()); err == nil || seen != 2 {
			t.Errorf("%v, policy asked %d times", err, seen)
		}
	}
}

func TestTrustMustBeUnambiguous(t *testing.T) {
	a, b := crypto.PublicKey(issuerA.PublicKey()), crypto.PublicKey(issuerB.PublicKey())
	for name, trust := range map[string][]results.Trust{
		"nobody":         nil,
		"no identity":    {{Keys: []crypto.PublicKey{a}}},
		"no key":         {{ID: idA}},
		"nil key":        {{ID: idA, Keys: []crypto.PublicKey{nil}}},
		"same identity":  {{ID: idA, Keys: []crypto.PublicKey{a}}, {ID: idA, Keys: []crypto.PublicKey{b}}},
		"same key":       {{ID: idA, Keys: []crypto.PublicKey{a}}, {ID: idB, Keys: []crypto.PublicKey{b, a}}},
		"negative age":   {{ID: idA, Keys: []crypto.PublicKey{a}, MaxAge: -1}},
		"key of unknown": {{ID: idA, Keys: []crypto.PublicKey{"key"}}},
	} {
		if _, err := results.NewVerifier(trust, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

const jwkA = `{"kty":"EC","crv":"P-256","x":"%s","y":"%s"}`

func jwk(i *softtee.ResultsIssuer) string {
	p := must(i.PublicKey().Bytes())
	return fmt.Sprintf(jwkA, base64.RawURLEncoding.EncodeToString(p[1:33]), base64.RawURLEncoding.EncodeToString(p[33:]))
}

func trustJSON() string {
	return fmt.Sprintf(`{"verifiers":[{"id":%q,"keys":[%s],"issuer":"i","max_age":"90m","allow_warning":true},{"id":%q,"keys":[%q]}]}`,
		idA, jwk(issuerA), idB, issuerB.PublicKeyPEM())
}

func TestTrustFileIsRead(t *testing.T) {
	got, err := results.ParseTrust([]byte(trustJSON()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].ID != idA || got[0].Issuer != "i" || got[0].MaxAge != 90*time.Minute || !got[0].AllowWarning ||
		!issuerA.PublicKey().Equal(got[0].Keys[0]) || got[1].ID != idB || got[1].MaxAge != 0 || got[1].AllowWarning ||
		!issuerB.PublicKey().Equal(got[1].Keys[0]) {
		t.Errorf("trust is %+v", got)
	}
	if got, err := results.ParseTrust([]byte(trustJSON()), []attestext.VerifierIdentity{idB}); err != nil || len(got) != 1 || got[0].ID != idB {
		t.Errorf("one chosen: %+v, %v", got, err)
	}
	if got, err := results.ParseTrust(issuerA.PublicKeyPEM(), []attestext.VerifierIdentity{idA}); err != nil || len(got) != 1 || len(got[0].Keys) != 1 {
		t.Errorf("PEM: %+v, %v", got, err)
	}
}

func TestTrustFileIsStrict(t *testing.T) {
	good := trustJSON()
	edit := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %s", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, bad := range map[string]string{
		"empty": "", "no verifiers": `{"verifiers":[]}`, "nothing": `{}`, "null": edit(`"i"`, "null"),
		"unknown member": edit(`"issuer"`, `"issuers"`), "member twice": edit(`"issuer":"i"`, `"issuer":"i","issuer":"j"`),
		"member of a key twice": edit(`"kty":"EC"`, `"kty":"EC","kty":"EC"`), "private key": edit(`"kty":"EC"`, `"kty":"EC","d":"AA"`),
		"age without a unit": edit("90m", "90"), "negative age": edit("90m", "-90m"), "zero age": edit("90m", "0s"),
		"key is a number": edit(jwk(issuerA), "1"), "no key": edit(jwk(issuerA), ""), "trailing": good + "x", "second object": good + good,
		"same identity": edit(string(idB), string(idA)), "no identity": edit(string(idB), ""), "same key": edit(jwk(issuerA), fmt.Sprintf("%q", issuerB.PublicKeyPEM())),
		"large": good + strings.Repeat(" ", results.MaxFileSize),
	} {
		if _, err := results.ParseTrust([]byte(bad), nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for n := range good {
		if _, err := results.ParseTrust([]byte(good[:n]), nil); err == nil {
			t.Fatalf("the first %d bytes are accepted", n)
		}
	}
	for name, ids := range map[string][]attestext.VerifierIdentity{"unknown": {"x"}, "twice": {idA, idA}, "none": {}} {
		if _, err := results.ParseTrust([]byte(good), ids); err == nil {
			t.Errorf("identities, %s: accepted", name)
		}
	}
	for name, ids := range map[string][]attestext.VerifierIdentity{"nil": nil, "two": {idA, idB}, "empty": {""}} {
		if _, err := results.ParseTrust(issuerA.PublicKeyPEM(), ids); err == nil {
			t.Errorf("PEM, identities %s: accepted", name)
		}
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})
	if _, err := results.ParseTrust(cert, []attestext.VerifierIdentity{idA}); err == nil {
		t.Error("certificate: accepted")
	}
}

// A clock is set by the test alone.
type clock struct{ ns atomic.Int64 }

func newClock(t time.Time) *clock        { c := new(clock); c.set(t); return c }
func (c *clock) set(t time.Time)         { c.ns.Store(t.UnixNano()) }
func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

func request(id attestext.VerifierIdentity, c *attestext.Challenge) *attestext.AttestRequest {
	return &attestext.AttestRequest{Verifier: id, Challenge: c}
}

func attest(t testing.TB, h *results.Holder, id attestext.VerifierIdentity, c *attestext.Challenge) ([]byte, error) {
	t.Helper()
	return attestext.Attest(t.Context(), time.Minute, h, request(id, c))
}

func TestHolderPresentsWhatVerifierAccepts(t *testing.T) {
	for name, b := range map[string][]byte{
		"JWT":                      issue(issuerA, leaf, now),
		"CMW":                      wrapped(issuerA, leaf, now),
		"CMW without an indicator": record("application/eat+jwt", 0, issue(issuerA, leaf, now)),
	} {
		h, err := results.NewHolder([]results.Held{{idA, b}}, &results.HolderOptions{Now: func() time.Time { return now }})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := attest(t, h, idA, hardened())
		if err != nil || !bytes.Equal(got, wrapped(issuerA, leaf, now)) {
			t.Errorf("%s: presents %x, %v", name, got, err)
		}
		if _, err := appraise(t, newVerifier(t, nil), got, hardened()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		w, err := cmw.Parse(got)
		if err != nil || w.Record == nil || w.Record.Ind != cmw.AttestationResults {
			t.Errorf("%s: wrapped as %+v, %v", name, w, err)
		}
	}
}

func TestExpiredResultIsNotPresented(t *testing.T) {
	c := newClock(now)
	noExp := issuer("b", idB, func(c *ear.Claims) { c.Expires = time.Time{} })
	h := must(results.NewHolder([]results.Held{
		{idA, issue(issuerA, leaf, now)},
		{idB, issue(noExp, leaf, now)},
	}, &results.HolderOptions{Now: c.now, MaxAge: 2 * time.Hour}))
	for _, tt := range []struct {
		at  time.Duration
		ids []attestext.VerifierIdentity
	}{
		{-time.Hour, nil}, // before they were issued
		{0, []attestext.VerifierIdentity{idA, idB}},
		{time.Hour - 1, []attestext.VerifierIdentity{idA, idB}},
		{time.Hour, []attestext.VerifierIdentity{idB}},
		{2*time.Hour - 1, []attestext.VerifierIdentity{idB}},
		{2 * time.Hour, nil},
	} {
		c.set(now.Add(tt.at))
		if got := h.Verifiers(); !slices.Equal(got, tt.ids) {
			t.Errorf("after %v: %v", tt.at, got)
		}
		for _, id := range []attestext.VerifierIdentity{idA, idB} {
			_, err := attest(t, h, id, hardened())
			if slices.Contains(tt.ids, id) != (err == nil) || err != nil && !errors.Is(err, attestext.ErrUnavailable) {
				t.Errorf("after %v: %s: %v", tt.at, id, err)
			}
		}
	}
}

func TestHolderPresentsTheResultOverTheKey(t *testing.T) {
	h := must(results.NewHolder([]results.Held{
		{idA, issue(issuerA, other, now.Add(time.Second))},
		{idA, issue(issuerA, leaf, now.Add(-time.Minute))},
		{idA, issue(issuerA, leaf, now)}, // the longest to live
		{idB, issue(issuerB, other, now)},
	}, &results.HolderOptions{Now: func() time.Time { return now }}))
	if got, err := attest(t, h, idA, hardened()); err != nil || !bytes.Equal(got, wrapped(issuerA, leaf, now)) {
		t.Errorf("hardened: %v", err)
	}
	draft := challenge(attestext.BindingDraft08, attestext.CertAttestation, leaf)
	if got, err := attest(t, h, idA, draft); err != nil || !bytes.Equal(got, wrapped(issuerA, leaf, now)) {
		t.Errorf("draft-08: %v", err)
	}
	if got, err := attest(t, h, idB, draft); err != nil || !bytes.Equal(got, wrapped(issuerB, other, now)) {
		t.Errorf("draft-08, over another key: %v", err)
	}
	for name, req := range map[string]*attestext.AttestRequest{
		"hardened, over another key":         request(idB, hardened()),
		"attestation-only, over another key": request(idB, challenge(attestext.BindingDraft08, attestext.AttestationOnly, leaf)),
		"attestation-only, no key":           request(idA, challenge(attestext.BindingHardened, attestext.AttestationOnly, nil)),
		"verifier unknown":                   request("https://c.example", hardened()),
		"no challenge":                       request(idA, nil),
	} {
		if _, err := h.Attest(t.Context(), req); !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A source is a Refresh that the test holds in its hands.
type source struct {
	calls  atomic.Int32
	answer func(ctx context.Context, id attestext.VerifierIdentity, spki []byte) ([]byte, error)
}

func (s *source) refresh(ctx context.Context, id attestext.VerifierIdentity, spki []byte) ([]byte, error) {
	s.calls.Add(1)
	return s.answer(ctx, id, spki)
}

func TestResultIsRefreshedBeforeItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock(now)
		release := make(chan struct{})
		s := &source{answer: func(_ context.Context, id attestext.VerifierIdentity, spki []byte) ([]byte, error) {
			<-release
			return issuerA.Issue(spki, c.now())
		}}
		h := must(results.NewHolder([]results.Held{{idA, issue(issuerA, leaf, now)}}, &results.HolderOptions{Now: c.now, Refresh: s.refresh}))
		first := wrapped(issuerA, leaf, now)

		c.set(now.Add(48*time.Minute - 1))
		if got, err := attest(t, h, idA, hardened()); err != nil || !bytes.Equal(got, first) {
			t.Errorf("young: %v", err)
		}
		synctest.Wait()
		if n := s.calls.Load(); n != 0 {
			t.Errorf("young: refreshed %d times", n)
		}

		// In the last fifth of the hour it is refreshed, once, and nobody waits.
		c.set(now.Add(48 * time.Minute))
		for range 3 {
			h.Verifiers()
			if got, err := attest(t, h, idA, hardened()); err != nil || !bytes.Equal(got, first) {
				t.Errorf("due: %v", err)
			}
		}
		synctest.Wait()
		if n := s.calls.Load(); n != 1 {
			t.Errorf("due: refreshed %d times", n)
		}
		close(release)
		synctest.Wait()
		if got, err := attest(t, h, idA, hardened()); err != nil || !bytes.Equal(got, wrapped(issuerA, leaf, c.now())) {
			t.Errorf("refreshed: %v", err)
		}
		c.set(now.Add(70 * time.Minute)) // beyond the life of the first
		if got := h.Verifiers(); len(got) != 1 || s.calls.Load() != 1 {
			t.Errorf("holds results of %v after %d refreshes", got, s.calls.Load())
		}
	})
}

func TestAttestWaitsForTheOnlyRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock(now.Add(2 * time.Hour))
		release := make(chan struct{})
		s := &source{answer: func(_ context.Context, _ attestext.VerifierIdentity, spki []byte) ([]byte, error) {
			<-release
			return issuerA.Issue(spki, c.now())
		}}
		h := must(results.NewHolder([]results.Held{{idA, issue(issuerA, leaf, now)}}, &results.HolderOptions{Now: c.now, Refresh: s.refresh}))
		if got := h.Verifiers(); len(got) != 0 {
			t.Errorf("expired: %v", got)
		}
		errs := make(chan error, 4)
		for range cap(errs) {
			go func() {
				_, err := attest(t, h, idA, hardened())
				errs <- err
			}()
		}
		// Whoever gives up does not take the refresh along.
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := h.Attest(ctx, request(idA, hardened()))
			gone <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-gone; !errors.Is(err, attestext.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		close(release)
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if n := s.calls.Load(); n != 1 {
			t.Errorf("refreshed %d times", n)
		}
		if got := h.Verifiers(); !slices.Equal(got, []attestext.VerifierIdentity{idA}) {
			t.Errorf("refreshed: %v", got)
		}
	})
}

func TestFailedRefreshLeavesWhatIsValid(t *testing.T) {
	for name, answer := range map[string]func(context.Context, attestext.VerifierIdentity, []byte) ([]byte, error){
		"error": func(context.Context, attestext.VerifierIdentity, []byte) ([]byte, error) {
			return nil, errors.New("no")
		},
		"panic":   func(context.Context, attestext.VerifierIdentity, []byte) ([]byte, error) { panic("no") },
		"nothing": func(context.Context, attestext.VerifierIdentity, []byte) ([]byte, error) { return nil, nil },
		"garbage": func(context.Context, attestext.VerifierIdentity, []byte) ([]byte, error) { return []byte("e.."), nil },
		"another key": func(context.Context, attestext.VerifierIdentity, []byte) ([]byte, error) {
			return issuerA.Issue(other, now)
		},
		"expired": func(context.Context, attestext.VerifierIdentity, []byte) ([]byte, error) {
			return issuerA.Issue(leaf, now.Add(-time.Hour))
		},
		"no answer": nil,
		"late": func(ctx context.Context, _ attestext.VerifierIdentity, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "no answer" {
				// It is left behind, which no bubble allows: a bubble ends with its goroutines.
				never := make(chan struct{})
				t.Cleanup(func() { close(never) })
				answer = func(context.Context, attestext.VerifierIdentity, []byte) ([]byte, error) { <-never; return nil, nil }
				failed(t, answer, 200*time.Millisecond) // enough for the call to begin, on a loaded machine as well
				return
			}
			synctest.Test(t, func(t *testing.T) { failed(t, answer, 0) })
		})
	}
}

func failed(t *testing.T, answer func(context.Context, attestext.VerifierIdentity, []byte) ([]byte, error), timeout time.Duration) {
	c := newClock(now.Add(50 * time.Minute))
	s := &source{answer: answer}
	h := must(results.NewHolder([]results.Held{{idA, issue(issuerA, leaf, now)}}, &results.HolderOptions{Now: c.now, Refresh: s.refresh, RefreshTimeout: timeout}))
	if err := h.Renew(t.Context(), idA, leaf); err == nil {
		t.Error("renewed")
	}
	for range 3 { // a moment later nobody tries again
		if _, err := attest(t, h, idA, hardened()); err != nil {
			t.Errorf("still valid: %v", err)
		}
	}
	if n := s.calls.Load(); n != 1 {
		t.Errorf("refreshed %d times", n)
	}
	c.set(now.Add(time.Hour))
	if _, err := attest(t, h, idA, hardened()); !errors.Is(err, attestext.ErrUnavailable) {
		t.Errorf("expired: %v", err)
	}
	if n := s.calls.Load(); n != 2 {
		t.Errorf("refreshed %d times", n)
	}
}

func TestHolderMayBeginWithNothing(t *testing.T) {
	s := &source{answer: func(_ context.Context, _ attestext.VerifierIdentity, spki []byte) ([]byte, error) {
		return issuerA.Issue(spki, now)
	}}
	h := must(results.NewHolder(nil, &results.HolderOptions{Now: func() time.Time { return now }, Refresh: s.refresh}))
	if got := h.Verifiers(); len(got) != 0 {
		t.Errorf("holds results of %v", got)
	}
	if _, err := attest(t, h, idA, hardened()); !errors.Is(err, attestext.ErrUnavailable) || s.calls.Load() != 0 {
		t.Errorf("verifier never heard of: %v, %d refreshes", err, s.calls.Load())
	}
	if err := h.Renew(t.Context(), idA, leaf); err != nil {
		t.Fatal(err)
	}
	if _, err := attest(t, h, idA, hardened()); err != nil || !slices.Equal(h.Verifiers(), []attestext.VerifierIdentity{idA}) {
		t.Errorf("renewed: %v, %v", h.Verifiers(), err)
	}

	for name, f := range map[string]func() (*results.Holder, error){
		"nothing and no way to get it": func() (*results.Holder, error) { return results.NewHolder(nil, nil) },
		"no identity": func() (*results.Holder, error) {
			return results.NewHolder([]results.Held{{"", issue(issuerA, leaf, now)}}, nil)
		},
		"no result": func() (*results.Holder, error) { return results.NewHolder([]results.Held{{idA, nil}}, nil) },
		"evidence": func() (*results.Holder, error) {
			return results.NewHolder([]results.Held{{idA, record(ear.MediaType, cmw.Evidence, issue(issuerA, leaf, now))}}, nil)
		},
		"negative duration": func() (*results.Holder, error) {
			return results.NewHolder([]results.Held{{idA, issue(issuerA, leaf, now)}}, &results.HolderOptions{MaxAge: -1})
		},
		"no file": func() (*results.Holder, error) { return results.OpenHolder(filepath.Join(t.TempDir(), "none"), nil) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	h = must(results.NewHolder([]results.Held{{idA, issue(issuerA, leaf, now)}}, nil))
	if err := h.Renew(t.Context(), idA, leaf); !errors.Is(err, attestext.ErrUnavailable) {
		t.Errorf("no way to refresh: %v", err)
	}
}

func TestHolderReadsItsFileAgainWhenItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	replace := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(path+".new", data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	c := newClock(now)
	replace(must(results.MarshalHeld([]results.Held{{idA, issue(issuerA, leaf, now)}})))
	h, err := results.OpenHolder(path, &results.HolderOptions{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string, ids ...attestext.VerifierIdentity) {
		t.Helper()
		if got := h.Verifiers(); !slices.Equal(got, ids) {
			t.Errorf("%s: holds results of %v", what, got)
		}
		for _, id := range ids {
			if _, err := attest(t, h, id, hardened()); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	want("read", idA)
	replace([]byte("{"))
	want("malformed", idA)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want("missing", idA)
	c.advance(time.Hour)
	if _, err := attest(t, h, idA, hardened()); !errors.Is(err, os.ErrNotExist) || !errors.Is(err, attestext.ErrUnavailable) {
		t.Errorf("expired and missing: %v", err)
	}
	replace(must(results.MarshalHeld([]results.Held{{idB, wrapped(issuerB, leaf, c.now())}, {idA, issue(issuerA, leaf, c.now())}})))
	want("renewed", idB, idA)
}

func TestResultsFileIsStrict(t *testing.T) {
	held := []results.Held{{idA, issue(issuerA, leaf, now)}, {idB, wrapped(issuerB, leaf, now)}}
	good := string(must(results.MarshalHeld(held)))
	got, err := results.ParseHeld([]byte(good))
	if err != nil || len(got) != 2 || got[0].Verifier != idA || !bytes.Equal(got[0].Result, held[0].Result) ||
		got[1].Verifier != idB || !bytes.Equal(got[1].Result, held[1].Result) {
		t.Errorf("came back as %v, %v", got, err)
	}
	for name, bad := range map[string]string{
		"nothing": "{}", "no result": `{"results":[]}`, "null": `{"results":null}`, "trailing": good + "{}",
		"unknown member": strings.Replace(good, `"verifier"`, `"from"`, 1), "member twice": strings.Replace(good, `"verifier"`, `"verifier":"x","verifier"`, 1),
		"no identity": strings.Replace(good, string(idA), "", 1), "line break": strings.Replace(good, `"result": "e`, `"result": "\ne`, 1),
		"no base64": `{"results":[{"verifier":"a","result":"?"}]}`, "no CMW": `{"results":[{"verifier":"a","result":"AAAA"}]}`,
		"large": good + strings.Repeat(" ", results.MaxFileSize),
	} {
		if _, err := results.ParseHeld([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for n := range good {
		if _, err := results.ParseHeld([]byte(good[:n])); err == nil {
			t.Fatalf("the first %d bytes are accepted", n)
		}
	}
	if _, err := results.MarshalHeld([]results.Held{{idA, []byte("x")}}); err == nil {
		t.Error("marshals what does not parse")
	}
}

func FuzzAppraise(f *testing.F) {
	f.Add(wrapped(issuerA, leaf, now))
	f.Add(record("application/eat+jwt", 0, issue(issuerA, leaf, now)))
	f.Add(issue(issuerA, leaf, now))
	v := newVerifier(f, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		a, err := v.Appraise(t.Context(), &attestext.Evidence{Verifier: idA, CMW: b}, hardened())
		if (a == nil) == (err == nil) || errors.Is(err, attestext.ErrUnavailable) {
			t.Fatalf("%+v, %v", a, err)
		}
		if a != nil && !bytes.Equal(a.Key, leaf) {
			t.Fatalf("key %x", a.Key)
		}
	})
}

func FuzzParseTrust(f *testing.F) {
	f.Add([]byte(trustJSON()))
	f.Add(issuerA.PublicKeyPEM())
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		for _, ids := range [][]attestext.VerifierIdentity{nil, {idA}} {
			trust, err := results.ParseTrust(b, ids)
			if err != nil {
				continue
			}
			if _, err := results.NewVerifier(trust, nil); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzParseHeld(f *testing.F) {
	f.Add(must(results.MarshalHeld([]results.Held{{idA, issue(issuerA, leaf, now)}, {idB, wrapped(issuerB, leaf, now)}})))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		held, err := results.ParseHeld(b)
		if err != nil {
			return
		}
		if _, err := results.NewHolder(held, nil); err != nil {
			t.Fatal(err)
		}
		again, err := results.MarshalHeld(held)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := results.ParseHeld(again); err != nil && len(again) <= results.MaxFileSize {
			t.Fatal(err)
		}
	})
}
