package main

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/fxamacker/cbor/v2"
)

// appraiseTimeout bounds an appraisal offline.
const appraiseTimeout = time.Minute

// isToken reports whether b can be a JWT, with space around it.
func isToken(b []byte) bool {
	b = bytes.TrimSpace(b)
	return len(b) > 2 && b[0] == 'e' && bytes.Count(b, []byte(".")) == 2
}

// earTree describes an Attestation Result, which nobody has verified.
func earTree(c *ear.Claims) *node {
	n := branch(kindEAR, c.Profile)
	optional := func(name, v string) {
		if v != "" {
			n.add(leaf(name, v))
		}
	}
	when := func(name string, t time.Time) {
		if !t.IsZero() {
			n.add(leaf(name, t.UTC().Format(time.RFC3339)))
		}
	}
	optional("issuer", c.Issuer)
	n.add(branch("verifier", c.Developer, leaf("build", c.Build)))
	when("issued", c.IssuedAt)
	when("not before", c.NotBefore)
	when("expires", c.Expires)
	optional("nonce", c.Nonce)
	for _, name := range slices.Sorted(maps.Keys(c.Submods)) {
		a := c.Submods[name]
		m := branch("appraisal of "+name, nil, leaf("status", a.Status.String()))
		if a.Vector != nil {
			v := branch("trustworthiness vector", a.Vector.Tier().String())
			for _, claim := range slices.Sorted(maps.Keys(a.Vector)) {
				v.add(leaf(claim, int(a.Vector[claim])))
			}
			m.add(v)
		}
		for _, id := range a.PolicyIDs {
			m.add(leaf("policy", id))
		}
		if a.AKPub != nil {
			m.add(leaf("attested key (SPKI)", hex.EncodeToString(a.AKPub)))
		}
		n.add(m)
	}
	n.add(leaf("tier, the worst that it says", c.Tier().String()))
	return n
}

// heldTree describes the results that an attester holds.
func heldTree(held []results.Held) *node {
	n := branch(kindResults, nil)
	for _, h := range held {
		token, _, err := ear.Unwrap(h.Result)
		if err != nil { // it is by itself
			token = h.Result
		}
		r := branch("by verifier", string(h.Verifier))
		if c, err := ear.ParseUnverified(token); err == nil { // ParseHeld has seen to that
			r.add(earTree(c))
		}
		n.add(r)
	}
	return n
}

// appraiseHeld appraises all results that an attester holds, by the keys of those whose
// they are said to be.
func (a *appraiser) appraiseHeld(held []results.Held, o *outcome) error {
	for _, h := range held {
		if err := a.appraiseResult(h.Result, h.Verifier, nil, o); err != nil {
			return fmt.Errorf("the result by %q: %w", h.Verifier, err)
		}
	}
	return nil
}

// appraiseResult appraises an EAR, by itself or in a CMW. id is whose it is said to be,
// empty if nobody says, and spki the key that it must be about, nil if nobody says.
func (a *appraiser) appraiseResult(b []byte, id attestext.VerifierIdentity, spki []byte, o *outcome) error {
	if !isToken(b) {
		token, _, err := ear.Unwrap(b)
		if err != nil {
			return err
		}
		b = token
	}
	keys := a.resultKeys(id)
	if keys == nil {
		return attestext.Errorf(attestext.ErrUnavailable, "verify EAR", "no key of its verifier: name one with --trust-roots")
	}
	now := time.Now()
	if a.local.Now != nil {
		now = a.local.Now()
	}
	opts := &ear.VerifyOptions{Keys: keys, Now: now}
	if a.challenge != nil {
		opts.Nonce = a.challenge.Value()
		spki = a.challenge.SPKI
	}
	r, err := ear.Verify(bytes.TrimSpace(b), opts)
	if err != nil {
		return err
	}
	o.verdict = worse(o.verdict, r.Tier().String())
	for _, name := range slices.Sorted(maps.Keys(r.Claims().Submods)) {
		s := r.Claims().Submods[name]
		o.reasons = append(o.reasons, fmt.Sprintf("%s: status %v, tier %v", name, s.Status, s.Tier()))
	}
	switch {
	case len(spki) != 0 && !bytes.Equal(r.AKPub(), spki):
		return attestext.Errorf(attestext.ErrBinding, "check binding", "the result is about another key, or about none")
	case r.Tier() == ear.Affirming || r.Tier() == ear.Warning:
		return nil
	}
	return attestext.Errorf(attestext.ErrPolicy, "appraise result", "its tier is %v", r.Tier())
}

// diagnose returns CBOR in diagnostic notation (RFC 8949, section 8).
func diagnose(b []byte) string {
	s, err := cbor.Diagnose(b)
	if err != nil {
		return "not CBOR: " + hex.EncodeToString(b)
	}
	return s
}

// coseTree describes a COSE_Sign1, such as an EAT in a CWT (RFC 9711), or a signed CMW. Tags around it
// are passed over. It returns nil if b is none.
func coseTree(b []byte) *node {
	for range 2 { // of CWT, and of COSE_Sign1
		var tag cbor.RawTag
		if cbor.Unmarshal(b, &tag) != nil || tag.Number != 61 && tag.Number != 18 {
			break
		}
		b = tag.Content
	}
	mode, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, MaxNestedLevels: 16}.DecMode()
	if err != nil {
		return nil
	}
	var m struct {
		_                  struct{} `cbor:",toarray"`
		Protected          []byte
		Unprotected        cbor.RawMessage
		Payload, Signature []byte
	}
	if mode.Unmarshal(b, &m) != nil || len(m.Signature) == 0 {
		return nil
	}
	n := branch(kindCOSE, sizeOf(b), leaf("protected", diagnose(m.Protected)), leaf("unprotected", diagnose(m.Unprotected)),
		leaf("payload", diagnose(m.Payload)), leaf("signature", sizeOf(m.Signature)))
	if kat, err := eat.VerifyKAT(b); err == nil {
		n.add(katTree(kat))
	}
	return n
}

// parseEAT returns the EAT in b, or nil if there is none. A KAT is for coseTree.
func parseEAT(b []byte) *eat.Token {
	if _, err := eat.VerifyKAT(b); err == nil {
		return nil
	}
	t, err := eat.ParseToken(b)
	if err != nil {
		return nil
	}
	return t
}

// eatTree describes an EAT, which nobody has verified. Claims are under the names of the
// RFC, and those that a policy can compare by number alone as they are encoded.
func eatTree(t *eat.Token) *node {
	diagnosed, encoded := diagnose, hex.EncodeToString
	if t.JSON {
		diagnosed = func(b []byte) string { return string(b) }
		encoded = diagnosed
	}
	n := branch(kindEAT, nil, leaf("algorithm", t.Algorithm))
	optional := func(name, value string) {
		if value != "" {
			n.add(leaf(name, value))
		}
	}
	when := func(name string, at time.Time) {
		if !at.IsZero() {
			n.add(leaf(name, at.Format(time.RFC3339)))
		}
	}
	if t.KeyID != nil {
		n.add(leaf("key ID", fmt.Sprintf("%q", t.KeyID)))
	}
	n.add(leaf("eat_nonce", hex.EncodeToString(t.Nonce)))
	optional("cnf (SPKI)", hex.EncodeToString(t.Confirmation))
	optional("eat_profile", t.Profile)
	optional("ueid", hex.EncodeToString(t.UEID))
	optional("oemid", t.OEMID)
	optional("hwmodel", hex.EncodeToString(t.HWModel))
	optional("dbgstat", t.DebugStatus.String())
	when("iat", t.IssuedAt)
	when("nbf", t.NotBefore)
	when("exp", t.Expires)
	if t.Measurements != nil {
		n.add(branch("measurements", diagnose(t.Measurements), leaf("SHA-256", fmt.Sprintf("%x", sha256.Sum256(t.Measurements)))))
	}
	if t.Submods != nil {
		n.add(branch("submods, which nobody appraises", diagnosed(t.Submods)))
	}
	if len(t.Other) != 0 {
		other := branch("other claims", nil)
		for _, c := range t.Other {
			other.add(branch(c.String(), diagnosed(c.Value), leaf("encoded", encoded(c.Value))))
		}
		n.add(other)
	}
	return n
}

func katTree(kat *eat.KAT) *node {
	return branch("key attestation token", nil,
		leaf("challenge", hex.EncodeToString(kat.Challenge)),
		leaf("TLS key (SPKI)", hex.EncodeToString(kat.TIK)),
		leaf("signed by", hex.EncodeToString(kat.KAKPub)))
}

// jwsTree describes a token that is no EAR. It returns nil if b is none.
func jwsTree(b []byte) *node {
	n := branch(kindJWS, sizeOf(b))
	parts := strings.Split(string(bytes.TrimSpace(b)), ".")
	if len(parts) != 3 {
		return nil
	}
	for i, name := range []string{"header", "payload", "signature"} {
		d, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
		if err != nil {
			return nil
		}
		if name == "signature" {
			n.add(leaf(name, sizeOf(d)))
		} else {
			n.add(leaf(name, string(d)))
		}
	}
	return n
}

// resultKeys returns the keys of the verifier id, or of all where that is empty.
func (a *appraiser) resultKeys(id attestext.VerifierIdentity) (keys []crypto.PublicKey) {
	for _, t := range a.trust {
		if t.ID == id || t.ID == "" || id == "" {
			keys = append(keys, t.Keys...)
		}
	}
	return keys
}

// resultTrust reads the keys of verifiers: as results.ParseTrust has them, or in PEM or as
// a JWK, which do not say whose they are.
func resultTrust(path string) ([]results.Trust, error) {
	b, err := readFile("trust-roots", path)
	if err != nil {
		return nil, err
	}
	if trust, err := results.ParseTrust(b, nil); err == nil {
		return trust, nil
	}
	keys, err := parseKeys(b)
	if err != nil {
		return nil, &malformedError{fmt.Errorf("--trust-roots: %w", err)}
	}
	return []results.Trust{{Keys: keys}}, nil
}
