package veraison_test

import (
	"context"
	"crypto"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/veraison"
)

const passportID attestext.VerifierIdentity = "https://verifier.example"

// A result that the service gives a machine is one that a relying party of the
// passport model accepts, from the holder of the key and from nobody else.
func TestPassportIsAcceptedByRelyingParty(t *testing.T) {
	c := client(t, service(t, local(t), veraison.ServiceOptions{ResultLifetime: time.Hour}), veraison.ClientOptions{})
	token, err := c.Passport(t.Context(), softtee.NewTDX(nil).Attester(), spki(tlsKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		after time.Duration
		spki  []byte
		class error
	}{
		{"now", 0, spki(tlsKey), nil},
		{"before it expires", 59 * time.Minute, spki(tlsKey), nil},
		{"after it has expired", 62 * time.Minute, spki(tlsKey), attestext.ErrSignature},
		{"by another peer", 0, spki(otherKey), attestext.ErrBinding},
	} {
		then, err := results.NewVerifier([]results.Trust{{ID: passportID, Keys: []crypto.PublicKey{earKey.Public()}}},
			&results.VerifierOptions{Now: func() time.Time { return testTime.Add(tt.after) }})
		if err != nil {
			t.Fatal(err)
		}
		w := must(ear.Wrap(token))
		_, err = attestext.Appraise(t.Context(), time.Minute, then,
			&attestext.Evidence{Type: attestext.EvidenceType{Kind: attestext.CertAttestation}, Verifier: passportID, CMW: w},
			&attestext.Challenge{Model: attestext.Passport, Role: attestext.RoleServer, Kind: attestext.CertAttestation, SPKI: tt.spki})
		if tt.class == nil && err != nil || tt.class != nil && !errors.Is(err, tt.class) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.class)
		}
	}
}

// keptQuote makes bundles like the draft's, with one quote for all sessions: what somebody
// has who was on the machine once and took its key along.
type keptQuote struct{ attestext.Attester }

func (k keptQuote) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	c := *req.Challenge
	c.Binding, c.Nonce = attestext.BindingDraft08, c.Value()
	return k.Attester.Attest(ctx, &attestext.AttestRequest{Type: req.Type, Challenge: &c})
}

// A service gives results for quotes that were made for its session, and for no others
// unless its policy says so.
func TestPassportShowsThatItsQuoteIsFresh(t *testing.T) {
	a := softtee.NewTDX(nil).Attester()
	for name, c := range map[string]struct {
		change func(*policy.Policy)
		allow  bool
	}{
		"no bound":             {func(*policy.Policy) {}, false},
		"bound":                {func(p *policy.Policy) { p.MaxQuoteAge = policy.Duration(time.Minute) }, false},
		"unknown ages allowed": {func(p *policy.Policy) { p.InsecureAllowUnknownQuoteAge = true }, true},
	} {
		v := local(t)
		c.change(v.Policy)
		cl := client(t, service(t, v, veraison.ServiceOptions{}), veraison.ClientOptions{AllowWarning: true})
		if _, err := cl.Passport(t.Context(), a, spki(tlsKey)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		token, err := cl.Passport(t.Context(), keptQuote{a}, spki(tlsKey))
		if !c.allow && (token != nil || !errors.Is(err, attestext.ErrPolicy)) {
			t.Errorf("%s: a quote that does not show its age: %s, %v", name, token, err)
		}
		if c.allow {
			claims, parseErr := ear.ParseUnverified(token)
			if err != nil || parseErr != nil || claims.Tier() != ear.Warning {
				t.Errorf("%s: %v, %v", name, err, parseErr)
			}
		}
	}
}

// Whoever has a bundle of the machine from before, and its TLS key, chooses the nonce of
// that bundle, and has a result of today. A service that chooses nonces itself has none of it.
func TestServiceThatChoosesNoncesTakesNoEvidenceFromBefore(t *testing.T) {
	c := challenge(attestext.AttestationOnly, attestext.BindingHardened)
	ev := evidence(t, eat.BundleFormat, c)
	query := "?nonce=" + nonceText(c.Value())
	s := service(t, local(t), veraison.ServiceOptions{})
	claims := must(ear.ParseUnverified([]byte(field(t, request(s, "POST", open(t, s, query), eat.BundleMediaType, ev.CMW), `"result":"`))))
	if claims.Tier() != ear.Affirming || claims.AKPub() == nil {
		t.Errorf("nonce of the client: %v", claims.Tier())
	}
	s = service(t, local(t), veraison.ServiceOptions{OwnNonces: true})
	if w := request(s, "POST", "/challenge-response/v1/newSession"+query, "", nil); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "chooses nonces itself") {
		t.Errorf("own nonces: status %d: %s", w.Code, w.Body)
	}
	if _, err := client(t, s, veraison.ClientOptions{}).Passport(t.Context(), softtee.NewTDX(nil).Attester(), spki(tlsKey)); err != nil {
		t.Error(err)
	}
}

// Refresh of a Holder is what Passport is for.
func TestPassportRefreshesHolder(t *testing.T) {
	c := client(t, service(t, local(t), veraison.ServiceOptions{}), veraison.ClientOptions{})
	a := softtee.NewTDX(nil).Attester()
	h, err := results.NewHolder(nil, &results.HolderOptions{Now: now, Refresh: func(ctx context.Context, _ attestext.VerifierIdentity, spki []byte) ([]byte, error) {
		return c.Passport(ctx, a, spki)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Renew(t.Context(), passportID, spki(tlsKey)); err != nil {
		t.Fatal(err)
	}
	if ids := h.Verifiers(); len(ids) != 1 || ids[0] != passportID {
		t.Errorf("it holds results by %q", ids)
	}
}

func TestPassportIsRefused(t *testing.T) {
	claims := func(f func(*ear.Claims)) *fake { return &fake{modify: f} }
	other := softtee.NewTDX(&softtee.TDXOptions{Seed: "other"}).Attester()
	for _, tt := range []struct {
		name  string
		h     http.Handler
		a     attestext.Attester
		spki  []byte
		class error
		say   string
	}{
		{"no key", &fake{}, nil, nil, attestext.ErrUnavailable, "no key"},
		{"another machine", service(t, local(t), veraison.ServiceOptions{}), other, spki(tlsKey), attestext.ErrSignature, "not genuine"},
		{"result without a key", &fake{}, nil, spki(tlsKey), attestext.ErrBinding, "names no key"},
		{"result over another key", claims(func(c *ear.Claims) { c.Submods["test"].AKPub = spki(otherKey) }), nil, spki(tlsKey), attestext.ErrBinding, "another key"},
		{"contraindicated", claims(func(c *ear.Claims) { c.Submods["test"].Status = ear.Contraindicated }), nil, spki(tlsKey), attestext.ErrPolicy, "contraindicated"},
		{"other nonce", claims(func(c *ear.Claims) { c.Nonce = "QUFBQUFBQUFBQQ" }), nil, spki(tlsKey), attestext.ErrUnavailable, "nonce"},
		{"signed by another key", &fake{key: otherKey}, nil, spki(tlsKey), attestext.ErrUnavailable, "no trusted key"},
		{"500", &fake{hooks: map[string]http.HandlerFunc{"open": answer(500, "text/plain", "")}}, nil, spki(tlsKey), attestext.ErrUnavailable, "status 500"},
		{"garbage", &fake{hooks: map[string]http.HandlerFunc{"open": answer(201, sessionType, "{")}}, nil, spki(tlsKey), attestext.ErrUnavailable, "cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.a == nil {
				tt.a = softtee.NewTDX(nil).Attester()
			}
			token, err := client(t, tt.h, veraison.ClientOptions{}).Passport(t.Context(), tt.a, tt.spki)
			if token != nil || !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("%s, %v; want class %v and %q", token, err, tt.class, tt.say)
			}
		})
	}
}
