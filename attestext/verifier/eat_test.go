package verifier_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/attesttest"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/tls"
)

// softEAT returns the software platform of o, at testTime.
func softEAT(o softtee.EATOptions) *softtee.EAT {
	if o.Now == nil {
		o.Now = func() time.Time { return testTime }
	}
	return softtee.NewEAT(&o)
}

// claiming returns an attester whose tokens have their claims changed.
func claiming(modify func(*eat.Token)) attestext.Attester {
	return softEAT(softtee.EATOptions{Modify: modify}).Attester()
}

func localEAT(t testing.TB) *verifier.Local {
	t.Helper()
	p, err := policy.Parse(softtee.EATPolicy())
	if err != nil {
		t.Fatal(err)
	}
	return &verifier.Local{
		EATKeys: []eat.TokenKey{softEAT(softtee.EATOptions{}).Key()}, Policy: p, Now: func() time.Time { return testTime },
	}
}

func TestEATOfEachFormatKindAndBindingIsAccepted(t *testing.T) {
	rules := append([]attestext.Binding{attestext.BindingExpat, attestext.BindingEarly}, bindings...)
	for _, json := range []bool{false, true} {
		a := softEAT(softtee.EATOptions{JSON: json}).Attester()
		for _, kind := range kinds {
			for _, b := range rules {
				for _, f := range append(a.Formats(kind), formatAny) {
					c := challenge(kind, b)
					if b == attestext.BindingEarly {
						c.Nonce = nil
					}
					if c.Validate() != nil {
						continue // there is no such credential under that rule
					}
					r, err := appraise(localEAT(t), attest(t, a, f, c), expected(c))
					if err != nil {
						t.Fatalf("%v %v %v: %v", kind, b, f, err)
					}
					if r.Verdict() != "affirming" || !bytes.Equal(r.Key(), spki(tik)) {
						t.Errorf("%v %v %v: verdict %q, key %x", kind, b, f, r.Verdict(), r.Key())
					}
				}
			}
		}
	}
}

// A record says in which form its token is. The other one is not looked for.
func TestEATInTheOtherFormIsRefused(t *testing.T) {
	for _, json := range []bool{false, true} {
		s := softEAT(softtee.EATOptions{JSON: json})
		other := attester.NewJWTs(s)
		if json {
			other = attester.NewTokens(s)
		}
		c := challenge(attestext.CertAttestation, attestext.BindingHardened)
		_, err := appraise(localEAT(t), attest(t, other, formatAny, c), c)
		wantClass(t, err, attestext.ErrMalformed, "came as")
	}
}

func TestHandshakeCarriesEATs(t *testing.T) {
	for _, json := range []bool{false, true} {
		for _, role := range roles {
			for _, kind := range kinds {
				d := &direction{role, kind, attestext.BindingHardened, softEAT(softtee.EATOptions{JSON: json}).Attester(), localEAT(t)}
				t.Run(fmt.Sprintf("%v, JSON %v", d, json), func(t *testing.T) {
					c := attested(t, d)
					appraises, err := c.end(peerOf(role))
					if err != nil || c.clientErr != nil || c.serverErr != nil {
						t.Fatalf("client: %v; server: %v", c.clientErr, c.serverErr)
					}
					r := appraises.ConnectionState().PeerAttestation
					if !r.Valid() || r.Verdict() != "affirming" || r.Claims()["tee"] != "eat" || !strings.HasPrefix(r.Machine(), "eat:") {
						t.Errorf("verdict %q, machine %q, claims %v", r.Verdict(), r.Machine(), r.Claims())
					}
				})
			}
		}
		// Debugging is seen through either form.
		d := &direction{attestext.RoleServer, attestext.CertAttestation, attestext.BindingHardened, softEAT(softtee.EATOptions{JSON: json, Debug: true}).Attester(), localEAT(t)}
		if c := attested(t, d); !errors.Is(c.clientErr, attestext.ErrPolicy) {
			t.Errorf("under debug: %v", c.clientErr)
		}
	}
}

// Claims that nobody reads are shown, and a machine is who vouches for it and its name.
func TestEATClaimsAreShown(t *testing.T) {
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	a := claiming(func(t *eat.Token) {
		t.Other = []eat.Claim{{Label: int64(2395), Value: []byte{0x19, 0x30, 0x00}}, {Label: "note", Value: []byte{0x61, 'x'}}}
		t.Expires = testTime.Add(time.Hour)
	})
	r, err := appraise(localEAT(t), attest(t, a, formatAny, c), c)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(softEAT(softtee.EATOptions{}).Key().Key)
	if err != nil {
		t.Fatal(err)
	}
	signer := sha256.Sum256(der)
	got := r.Claims()
	for name, want := range map[string]string{
		"tee": "eat", "oemid": "pen:32473", "debug_status": "disabled-since-boot", "eat_profile": softtee.EATProfile,
		"iat": "2026-03-01T12:00:00Z", "exp": "2026-03-01T13:00:00Z", "signed_by": hex.EncodeToString(signer[:]),
		"other_claims": `map["note":6178 2395:193000]`,
	} {
		if fmt.Sprint(got[name]) != want {
			t.Errorf("%s is %v, want %s", name, got[name], want)
		}
	}
	if want := fmt.Sprintf("eat:%x-%s", signer, got["ueid"]); r.Machine() != want || len(got["ueid"].(string)) != 34 {
		t.Errorf("machine %q, want %q", r.Machine(), want)
	}
	jwt := softEAT(softtee.EATOptions{JSON: true, Modify: func(t *eat.Token) {
		t.Other = []eat.Claim{{Label: "swname", Value: []byte(`{"a":1}`)}}
	}}).Attester()
	if r, err := appraise(localEAT(t), attest(t, jwt, formatAny, c), c); err != nil || fmt.Sprint(r.Claims()["other_claims"]) != `map["swname":{"a":1}]` {
		t.Errorf("of a JWT: %v, %v", r.Claims(), err)
	}
	if _, said := got["nbf"]; said {
		t.Error("the token has no nbf")
	}
}

// A device that hides its identity has none, and two signers can say what they like.
func TestEATMachineIsOfItsSigner(t *testing.T) {
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	other := softEAT(softtee.EATOptions{Seed: "another signer"})
	machines := map[string]bool{}
	for _, tt := range []struct {
		name string
		o    softtee.EATOptions
		none bool
	}{
		{name: "device"},
		{name: "other device", o: softtee.EATOptions{Machine: "other"}},
		{name: "other signer", o: softtee.EATOptions{Seed: "another signer"}},
		{name: "no ueid", o: softtee.EATOptions{Modify: func(t *eat.Token) { t.UEID = nil }}, none: true},
		{name: "ueid of zeros", o: softtee.EATOptions{Modify: func(t *eat.Token) { clear(t.UEID[1:]) }}, none: true},
	} {
		l := localEAT(t)
		l.EATKeys = append(l.EATKeys, other.Key())
		r, err := appraise(l, attest(t, softEAT(tt.o).Attester(), formatAny, c), c)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if (r.Machine() == "") != tt.none || r.Machine() != "" && machines[r.Machine()] {
			t.Errorf("%s: machine %q", tt.name, r.Machine())
		}
		machines[r.Machine()] = true
	}
}

// Each row has the attester work to one challenge and the relying party to another.
func TestEATNotBoundToThisHandshakeIsRefused(t *testing.T) {
	const (
		cert = attestext.CertAttestation
		only = attestext.AttestationOnly
		hard = attestext.BindingHardened
		d08  = attestext.BindingDraft08
	)
	other := bytes.Repeat([]byte{1}, 64)
	noKey := func(t *eat.Token) { t.Confirmation = nil }
	for _, tt := range []struct {
		name         string
		kind         attestext.CredentialKind
		made, wanted attestext.Binding
		change       func(made *attestext.Challenge)
		modify       func(*eat.Token)
		say          string // empty where it is accepted
	}{
		{"other binder", cert, hard, hard, func(c *attestext.Challenge) { c.Binder = other }, nil, "token is of another session"},
		{"one bit of the binder", cert, d08, d08, func(c *attestext.Challenge) { c.Binder = bytes.Clone(c.Binder); c.Binder[63] ^= 1 }, nil, "another session"},
		{"binder cut short", cert, hard, hard, nil, func(t *eat.Token) { t.Nonce = t.Nonce[:32] }, "another session"},
		{"nonce for binder", cert, hard, hard, func(c *attestext.Challenge) { c.Binder = c.Nonce }, nil, "draft-08 rule (the bare nonce)"},
		{"other key", cert, hard, hard, func(c *attestext.Challenge) { c.SPKI = spki(otherTIK) }, nil, "another key than the peer's certificate"},
		{"other key, draft-08", cert, d08, d08, func(c *attestext.Challenge) { c.SPKI = spki(otherTIK) }, nil, "another key than the peer's certificate"},
		{"no key", cert, hard, hard, nil, noKey, "names no key"},
		{"no key, draft-08", cert, d08, d08, nil, noKey, ""},
		{"no key, draft-08, other binder", cert, d08, d08, func(c *attestext.Challenge) { c.Binder = other }, noKey, "another session"},
		{"attestation-only, no key", only, hard, hard, nil, noKey, "names no key"},
		{"attestation-only, no key, draft-08", only, d08, d08, nil, noKey, "names no key"},
		{"attestation-only, other binder", only, hard, hard, func(c *attestext.Challenge) { c.Binder = other }, nil, "another session"},
		{"attestation-only, other nonce", only, d08, d08, func(c *attestext.Challenge) { c.Nonce = other }, nil, "another session"},
		{"attestation-only, hardened to draft-08", only, hard, d08, nil, nil, "follows the hardened rule"},
		{"attestation-only, draft-08 to hardened", only, d08, hard, nil, nil, "follows the draft-08 rule"},
	} {
		made, wanted := challenge(tt.kind, tt.made), challenge(tt.kind, tt.wanted)
		if tt.change != nil {
			tt.change(made)
		}
		_, err := appraise(localEAT(t), attest(t, claiming(tt.modify), formatAny, made), expected(wanted))
		if tt.say == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		t.Run(tt.name, func(t *testing.T) { wantClass(t, err, attestext.ErrBinding, tt.say) })
	}
}

func TestEATIsRefused(t *testing.T) {
	alien := softEAT(softtee.EATOptions{Seed: "another signer"})
	section := func(change func(*policy.EATPolicy)) func(*verifier.Local) {
		return func(l *verifier.Local) { change(l.Policy.EAT) }
	}
	for _, tt := range []struct {
		name   string
		o      softtee.EATOptions
		change func(*verifier.Local)
		class  error
		say    string
	}{
		{"nobody is trusted", softtee.EATOptions{}, func(l *verifier.Local) { l.EATKeys = nil }, attestext.ErrUnavailable, "nobody's tokens are trusted"},
		{"an empty list is trusted", softtee.EATOptions{}, func(l *verifier.Local) { l.EATKeys = []eat.TokenKey{} }, attestext.ErrUnavailable, "nobody's tokens are trusted"},
		{"trust in the signer of wrappers", softtee.EATOptions{}, func(l *verifier.Local) { l.EATKeys, l.WrapperKeys = nil, append(l.WrapperKeys, l.EATKeys[0].Key) },
			attestext.ErrUnavailable, "nobody's tokens are trusted"},
		{"another signer", softtee.EATOptions{Seed: "another signer"}, nil, attestext.ErrSignature, "no trusted key made the signature"},
		{"unknown key ID", softtee.EATOptions{Modify: func(t *eat.Token) { t.KeyID = []byte("k9") }}, nil, attestext.ErrSignature, `no trusted key has the ID "k9"`},
		{"no key ID", softtee.EATOptions{Modify: func(t *eat.Token) { t.KeyID = nil }}, nil, attestext.ErrSignature, "no trusted key has the ID"},
		{"key ID of another key", softtee.EATOptions{}, func(l *verifier.Local) { l.EATKeys[0].Key = alien.Key().Key }, attestext.ErrSignature, "no trusted key made the signature"},
		{"a key on another curve", softtee.EATOptions{}, func(l *verifier.Local) { l.EATKeys[0].Key = ed25519.PublicKey(make([]byte, 32)) }, attestext.ErrSignature, "algorithm -7 is not that of a trusted key"},
		{"expired", softtee.EATOptions{Modify: func(t *eat.Token) { t.Expires = testTime }}, nil, attestext.ErrSignature, "token expired"},
		{"not yet valid", softtee.EATOptions{Modify: func(t *eat.Token) { t.NotBefore = testTime.Add(time.Hour) }}, nil, attestext.ErrSignature, "not valid before"},
		{"of the future", softtee.EATOptions{Now: func() time.Time { return testTime.Add(time.Hour) }}, nil, attestext.ErrSignature, "in the future"},
		{"for an audience", softtee.EATOptions{Modify: func(t *eat.Token) { t.Other = []eat.Claim{{Label: int64(3), Value: []byte{0x61, 'a'}}} }}, nil, attestext.ErrPolicy, "audience"},
		{"debug", softtee.EATOptions{Debug: true}, nil, attestext.ErrPolicy, "debug: got enabled"},
		{"debug is not said", softtee.EATOptions{Modify: func(t *eat.Token) { t.DebugStatus = eat.DebugUnsaid }}, nil, attestext.ErrPolicy, "does not say"},
		{"debug, and no policy", softtee.EATOptions{Debug: true}, func(l *verifier.Local) { l.Policy = nil }, attestext.ErrPolicy, "debug: got enabled"},
		{"no section", softtee.EATOptions{}, func(l *verifier.Local) { l.Policy = &policy.Policy{TDX: &policy.TDXPolicy{}} }, attestext.ErrPolicy, "no section for EATs"},
		{"stale", softtee.EATOptions{Now: func() time.Time { return testTime.Add(-time.Hour) }}, section(func(e *policy.EATPolicy) { e.MaxAge = policy.Duration(time.Minute) }),
			attestext.ErrPolicy, "max_age: token was issued 1h0m0s ago, want 1m0s"},
		{"other measurements", softtee.EATOptions{Modify: func(t *eat.Token) { t.Measurements[len(t.Measurements)-1] ^= 1 }}, nil, attestext.ErrPolicy, "measurements: got"},
		{"submodules", softtee.EATOptions{Modify: func(t *eat.Token) { t.Submods = unhex("a1 6161 a0") }}, nil, attestext.ErrPolicy, `("a")`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := localEAT(t)
			if tt.change != nil {
				tt.change(l)
			}
			c := challenge(attestext.CertAttestation, attestext.BindingHardened)
			_, err := appraise(l, attest(t, softEAT(tt.o).Attester(), formatAny, c), c)
			wantClass(t, err, tt.class, tt.say)
		})
	}
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// Who names a signer of EATs has not said anything about TEEs, and the reverse.
func TestEATKeysAreTrustedForEATsAlone(t *testing.T) {
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	for _, quoter := range []attester.Quoter{softtee.NewTDX(nil), softtee.NewSNP(nil)} {
		_, err := appraise(localEAT(t), attest(t, attester.New(quoter), tsm.FormatCBOR, c), c)
		wantClass(t, err, attestext.ErrUnavailable, "no roots")
	}
	if slices.ContainsFunc(local(t).Formats(attestext.CertAttestation), eat.IsToken) {
		t.Error("EATs are asked for where nobody's are trusted")
	}
	key := softEAT(softtee.EATOptions{}).KeyPEM()
	for _, roots := range [][]byte{key, slices.Concat(softtee.RootsPEM(), key)} {
		l := localEAT(t)
		l.EATKeys = nil
		if err := l.SetRoots(roots); err != nil {
			t.Fatal(err)
		}
		if _, err := appraise(l, attest(t, softEAT(softtee.EATOptions{}).Attester(), formatAny, c), c); err != nil {
			t.Error(err)
		}
		if err := l.SetRoots(softtee.RootsPEM()); err != nil || l.EATKeys != nil {
			t.Errorf("%d keys are left over, %v", len(l.EATKeys), err)
		}
	}
	bad := bytes.ReplaceAll(key, []byte("Key-ID: "), []byte("Key-ID: x"))
	if err := new(verifier.Local).SetRoots(bad); err == nil {
		t.Errorf("%s was accepted", bad)
	}
}

// Package policy knows neither the names nor the claims of package eat, and has its own.
func TestPoliciesAndTokensHaveTheSameClaims(t *testing.T) {
	for i, name := range policy.DebugStatuses() {
		if got := (eat.DebugDisabled + eat.DebugStatus(i)).String(); got != name {
			t.Errorf("debug status %d is %q and %q", i, got, name)
		}
	}
	signer := key("signer")
	for n := int64(-1); n < 300; n++ {
		b, err := eat.SignToken(nil, signer, &eat.Token{Nonce: nonce, Other: []eat.Claim{{Label: n, Value: []byte{0}}}})
		other := false
		if err == nil {
			token, err := eat.ParseToken(b)
			if err != nil {
				t.Fatal(err)
			}
			other = len(token.Other) == 1 && n != 3 // aud, which is refused
		}
		if _, err := policy.Parse(fmt.Appendf(nil, `{"eat": {"claims": {"%d": ["00"]}}}`, n)); (err == nil) != other {
			t.Errorf("claim %d is for others: %v; the policy says %v", n, other, err)
		}
	}
}

// TestEveryListOfFormatsCanBeOffered: it has up to 255 bytes on the wire.
func TestEveryListOfFormatsCanBeOffered(t *testing.T) {
	for trusted := range 8 {
		l := local(t)
		if trusted&1 != 0 {
			l.TPM = &tpm.Trust{Keys: []tpm.EnrolledKey{{}}}
		}
		if trusted&2 != 0 {
			l.EATKeys = localEAT(t).EATKeys
		}
		if trusted&4 != 0 {
			l.WrapperKeys = []crypto.PublicKey{wrapperKey.Public()}
		}
		for _, kind := range kinds {
			hello := &attestext.EvidenceHello{Nonce: nonce}
			for _, f := range l.Formats(kind) {
				hello.Types = append(hello.Types, attestext.EvidenceType{Kind: kind, Format: f})
			}
			if _, err := hello.Marshal(); err != nil {
				t.Errorf("%03b, %v: %v", trusted, kind, err)
			}
		}
	}
}

func TestTokensAreMadeForTheirChallenge(t *testing.T) {
	a := softEAT(softtee.EATOptions{}).Attester()
	attempt := func(f attestext.EvidenceFormat, change func(*attestext.Challenge)) error {
		c := challenge(attestext.AttestationOnly, attestext.BindingHardened)
		if change != nil {
			change(c)
		}
		_, err := a.Attest(t.Context(), &attestext.AttestRequest{Type: attestext.EvidenceType{Kind: c.Kind, Format: f}, Challenge: c})
		return err
	}
	wantClass(t, attempt(tsm.FormatCBOR, nil), attestext.ErrWrongType, "cannot make")
	wantClass(t, attempt(formatAny, func(c *attestext.Challenge) { c.SPKI = nil }), attestext.ErrUnavailable, "which TLS key")
	wantClass(t, attempt(formatAny, func(c *attestext.Challenge) { c.Model = attestext.Passport }), attestext.ErrUnavailable, "passport model")
	wantClass(t, attempt(formatAny, func(c *attestext.Challenge) { c.SPKI = []byte{0x30, 0} }), attestext.ErrUnavailable, "cnf")
}

func TestBadEATIsRefused(t *testing.T) {
	special := func(o softtee.EATOptions) *attesttest.Special {
		return &attesttest.Special{Attester: softEAT(o).Attester()}
	}
	later := localEAT(t)
	later.Now = func() time.Time { return testTime.Add(2 * time.Hour) }
	honest := claiming(func(t *eat.Token) { t.Expires = testTime.Add(time.Hour) })
	passed := 0
	for _, o := range attesttest.Check(t.Context(), &attesttest.Target{
		Verifier: localEAT(t), Honest: honest, Bindings: bindings, Open: attesttest.OpenEAT,
		OtherRoot:   special(softtee.EATOptions{Seed: "another signer"}),
		Debug:       special(softtee.EATOptions{Debug: true}),
		Expired:     &attesttest.Special{Verifier: later},
		ZeroMachine: special(softtee.EATOptions{Modify: func(t *eat.Token) { clear(t.UEID) }}),
	}) {
		switch {
		case o.Status == attesttest.Passed:
			passed++
		case o.Status == attesttest.Failed:
			t.Error(o)
		case o.Case != "other TEE" && o.Case != "revoked": // neither of which tokens have
			t.Errorf("%v", o)
		}
	}
	if passed == 0 {
		t.Error("nothing was tried")
	}
}

func TestHandshakeCarriesEAT(t *testing.T) {
	for _, role := range roles {
		for _, kind := range kinds {
			for _, b := range bindings {
				d := &direction{role, kind, b, softEAT(softtee.EATOptions{}).Attester(), localEAT(t)}
				t.Run(d.String(), func(t *testing.T) {
					c := attested(t, d)
					if c.clientErr != nil || c.serverErr != nil {
						t.Fatalf("client: %v; server: %v", c.clientErr, c.serverErr)
					}
					relying, _ := c.end(peerOf(role))
					attests, _ := c.end(role)
					r, made := relying.ConnectionState().PeerAttestation, attests.ConnectionState().LocalAttestation
					if r.Verdict() != "affirming" || !strings.HasPrefix(r.Machine(), "eat:") || r.Challenge().Role != role {
						t.Errorf("verdict %q, machine %q, claims %v", r.Verdict(), r.Machine(), r.Claims())
					}
					if !bytes.Equal(r.Key(), made.Challenge.SPKI) {
						t.Error("the result names another key than the one that signed")
					}
				})
			}
		}
	}
}

func TestHandshakeRefusesEAT(t *testing.T) {
	for _, tt := range []struct {
		name      string
		o         softtee.EATOptions
		challenge func(*attestext.Challenge)
		alert     tls.AlertError
		class     error
		say       string
	}{
		{"of another signer", softtee.EATOptions{Seed: "another signer"}, nil, badCertificate, attestext.ErrSignature, "no trusted key"},
		{"of another session", softtee.EATOptions{}, func(c *attestext.Challenge) { c.Binder = binder }, badCertificate, attestext.ErrBinding, "another session"},
		{"under debug", softtee.EATOptions{Debug: true}, nil, accessDenied, attestext.ErrPolicy, "debug: got enabled"},
	} {
		for _, role := range roles {
			for _, kind := range kinds {
				a := &modified{Attester: softEAT(tt.o).Attester(), challenge: tt.challenge}
				d := &direction{role, kind, attestext.BindingHardened, a, localEAT(t)}
				t.Run(tt.name+", "+d.String(), func(t *testing.T) {
					attested(t, d).checkRefused(t, d, tt.alert, tt.class, tt.say)
				})
			}
		}
	}
}

// FuzzAppraiseEAT goes all the way from the wrapper to the policy: whatever is accepted says
// what was signed.
func FuzzAppraiseEAT(f *testing.F) {
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	good := attest(f, claiming(func(t *eat.Token) { t.Other = []eat.Claim{{Label: int64(2395), Value: []byte{0}}} }), formatAny, c)
	w, err := cmw.Parse(good.CMW)
	if err != nil {
		f.Fatal(err)
	}
	want, err := eat.ParseToken(w.Record.Value)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good.CMW)
	for i := range 8 {
		b := bytes.Clone(good.CMW)
		b[i*len(b)/8] ^= 1
		f.Add(b)
	}
	l := localEAT(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		r, err := appraise(l, &attestext.Evidence{Type: good.Type, CMW: b}, c)
		if err != nil {
			if attestext.Class(err) == attestext.ErrUnavailable {
				t.Fatalf("error without a class of the peer's: %v", err)
			}
			return
		}
		if r.Claims()["ueid"] != hex.EncodeToString(want.UEID) || !bytes.Equal(r.Key(), want.Confirmation) {
			t.Fatalf("accepted: %v", r.Claims())
		}
	})
}

func BenchmarkAppraiseEAT(b *testing.B) {
	l, a := localEAT(b), softEAT(softtee.EATOptions{}).Attester()
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := attest(b, a, formatAny, c)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Appraise(b.Context(), ev, c); err != nil {
			b.Fatal(err)
		}
	}
}
