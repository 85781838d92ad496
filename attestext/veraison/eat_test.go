package veraison_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/veraison"
	"github.com/attestedtls/atls/attestext/verifier"
)

// An EAT that names the TLS key is appraised by a service that does not know the
// handshake: its result names the key.
func TestClientAndServiceAppraiseEATs(t *testing.T) {
	const (
		cert = attestext.CertAttestation
		only = attestext.AttestationOnly
		hard = attestext.BindingHardened
		d08  = attestext.BindingDraft08
	)
	l := &verifier.Local{EATKeys: []eat.TokenKey{softtee.NewEAT(nil).Key()}, Policy: must(policy.Parse(softtee.EATPolicy())), Now: now}
	c := client(t, service(t, l, veraison.ServiceOptions{}), veraison.ClientOptions{Formats: slices.Concat(eat.TokenFormats(), eat.JWTFormats())})
	noKey := func(t *eat.Token) { t.Confirmation = nil }
	for _, tt := range []struct {
		name    string
		kind    attestext.CredentialKind
		binding attestext.Binding
		change  func(*attestext.Challenge)
		options softtee.EATOptions
		class   error // nil where it is accepted
	}{
		{name: "hardened", kind: cert, binding: hard},
		{name: "draft-08", kind: cert, binding: d08},
		{name: "attestation-only", kind: only, binding: hard},
		{name: "attestation-only, draft-08", kind: only, binding: d08},
		{name: "no key", kind: cert, binding: hard, options: softtee.EATOptions{Modify: noKey}, class: attestext.ErrBinding},
		{name: "no key, attestation-only", kind: only, binding: hard, options: softtee.EATOptions{Modify: noKey}, class: attestext.ErrBinding},
		{name: "no key, draft-08", kind: cert, binding: d08, options: softtee.EATOptions{Modify: noKey}},
		{name: "other key", kind: cert, binding: hard, change: func(c *attestext.Challenge) { c.SPKI = spki(otherKey) }, class: attestext.ErrBinding},
		{name: "other session", kind: cert, binding: hard, change: func(c *attestext.Challenge) { c.Binder = bytes.Repeat([]byte{1}, 32) }, class: attestext.ErrSignature},
		{name: "other signer", kind: cert, binding: hard, options: softtee.EATOptions{Seed: "another signer"}, class: attestext.ErrSignature},
		{name: "debug", kind: cert, binding: hard, options: softtee.EATOptions{Debug: true}, class: attestext.ErrPolicy},
	} {
		for _, f := range slices.Concat(eat.TokenFormats(), eat.JWTFormats()) {
			tt.options.Now, tt.options.JSON = now, slices.Contains(eat.JWTFormats(), f)
			made, wanted := challenge(tt.kind, tt.binding), challenge(tt.kind, tt.binding)
			if tt.change != nil {
				tt.change(made)
			}
			if tt.kind == only {
				wanted.SPKI = nil
			}
			ev := &attestext.Evidence{Type: attestext.EvidenceType{Kind: tt.kind, Format: f}}
			ev.CMW = must(softtee.NewEAT(&tt.options).Attester().Attest(t.Context(), &attestext.AttestRequest{Type: ev.Type, Challenge: made}))
			r, err := attestext.Appraise(t.Context(), time.Minute, c, ev, wanted)
			if attestext.Class(err) != tt.class {
				t.Errorf("%s, %v: %v", tt.name, f, err)
			}
			if named := tt.options.Modify == nil; err == nil && (r.Verdict() != "affirming" || bytes.Equal(r.Key(), spki(tlsKey)) != named) {
				t.Errorf("%s, %v: verdict %q, key %x", tt.name, f, r.Verdict(), r.Key())
			}
		}
	}
}
