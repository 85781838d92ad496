// Package ear reads and writes the EAT Attestation Result of draft-ietf-rats-ear
// as a signed JSON Web Token: what a verifier says of a machine, for others to
// rely on.
//
// Start with [Verify] for a token that came from elsewhere, and with [Sign] to
// make one. The claims are those of the deployed verifiers of the Veraison
// project, with their names (ear.status); the names of the later drafts
// (ear_status) are read as well.
package ear

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/strict"
	"github.com/veraison/ear"
)

// Profiles, the values of the eat_profile claim. Tokens of others are refused, for
// what their claims mean is not known.
const (
	// Profile is that of deployed verifiers, and of [Sign].
	Profile = ear.EatProfile
	// ProfileDraft03 and ProfileDraft04 are those of draft-ietf-rats-ear-03 and
	// -04, which can be read and not written.
	ProfileDraft03 = "tag:ietf.org,2026:rats/ear#03"
	ProfileDraft04 = "tag:ietf.org,2026:rats/ear#04"
)

// mediaType is that of an EAT as a JWT, RFC 9782, section 4.
const mediaType = "application/eat+jwt"

// MediaType is that of a token by Sign: an EAT with its profile (RFC 9782, section
// 3). No EAR-specific type is registered, and Veraison's wrappers use this one.
const MediaType = mediaType + `; eat_profile="` + Profile + `"`

// Format is MediaType as a format to negotiate and to wrap in a CMW.
var Format = attestext.EvidenceFormat{MediaType: MediaType}

// Bounds on a token.
const (
	// MaxSize is that of a token, in bytes.
	MaxSize = 64 << 10
	// maxDepth and maxItems bound the claims as [strict.CheckJSONWithin] does. Verifiers put
	// whole event logs into claims that are not looked at here.
	maxDepth = 32
	maxItems = 4096
	// MaxSubmods is how many appraisals one token may hold.
	MaxSubmods = 16
)

// ProfileOf returns which profile tokens of format f have: that of its eat_profile
// parameter, or "" where it has none and any profile will do. It fails for
// formats that are no EAT in a JWT, and for profiles that are not known.
func ProfileOf(f attestext.EvidenceFormat) (string, error) {
	if f.MediaType == "" {
		if f.ContentFormat == attestext.ContentFormatEATJWT {
			return "", nil
		}
		return "", fmt.Errorf("%v is not %s", f, mediaType)
	}
	t, params, err := mime.ParseMediaType(f.MediaType)
	if err != nil || t != mediaType {
		return "", fmt.Errorf("%q is not %s", f.MediaType, mediaType)
	}
	profile, ok := params["eat_profile"]
	switch {
	case !ok && len(params) == 0:
		return "", nil
	case !ok || len(params) != 1:
		return "", fmt.Errorf("%q has unknown parameters", f.MediaType)
	case !knownProfile(profile):
		return "", fmt.Errorf("%q is no EAR", f.MediaType)
	}
	return profile, nil
}

func knownProfile(p string) bool {
	return p == Profile || p == ProfileDraft03 || p == ProfileDraft04
}

// A Tier is a trustworthiness tier of draft-ietf-rats-ar4si, section 2.3. The zero
// value is None.
type Tier uint8

const (
	// None: the verifier could not say, or did not.
	None Tier = iota
	// Affirming: everything is as it should be.
	Affirming
	// Warning: something wants a closer look.
	Warning
	// Contraindicated: something is not acceptable.
	Contraindicated
)

var tierNames = [...]string{None: "none", Affirming: "affirming", Warning: "warning", Contraindicated: "contraindicated"}

// String returns the name of the tier, as in the token and in [attestext.Appraisal].
func (t Tier) String() string {
	if int(t) < len(tierNames) {
		return tierNames[t]
	}
	return fmt.Sprintf("tier(%d)", uint8(t))
}

// rank orders tiers by how far a relying party may trust, best first. A machine of
// which nothing is known is worth less than one with a warning.
func (t Tier) rank() int { return slices.Index([]Tier{Affirming, Warning, None, Contraindicated}, t) }

// Worse returns the one of t and u that warrants less trust: affirming is better
// than warning, warning than none, none than contraindicated.
func (t Tier) Worse(u Tier) Tier {
	if u.rank() > t.rank() {
		return u
	}
	return t
}

func parseTier(s string) (Tier, error) {
	i := slices.Index(tierNames[:], s)
	if i < 0 {
		return None, fmt.Errorf("unknown trustworthiness tier %q", s)
	}
	return Tier(i), nil
}

// A Vector is the trustworthiness vector of draft-ietf-rats-ar4si, section 2.3: a
// value for each claim that the verifier makes, by the name of the claim:
// instance-identity, configuration, executables, file-system, hardware,
// runtime-opaque, storage-opaque, sourced-data. A claim of value 0 is one that is
// not made, and Verify leaves it out. nil is the empty vector.
type Vector map[string]int8

// Tier returns the worst of the tiers of the claims in v, Affirming if there is
// none. The claims 1 and -1, by which a verifier says that it failed to look, are
// of tier None.
func (v Vector) Tier() Tier {
	tier := Affirming
	for _, n := range v {
		if n != 0 {
			tier = tier.Worse(claimTier(n))
		}
	}
	return tier
}

func isVectorClaim(name string) bool {
	_, ok := ear.TrustVector{}.AsMap()[name]
	return ok
}

func claimTier(n int8) Tier {
	switch c := ear.TrustClaim(n); {
	case c.IsAffirming():
		return Affirming
	case c.IsWarning():
		return Warning
	case c.IsContraindicated():
		return Contraindicated
	}
	return None
}

// An Appraisal is what a token says of one part of the machine, its EAR appraisal.
type Appraisal struct {
	// Status is the tier that the verifier gave. It is not to be relied on by
	// itself; see [Appraisal.Tier].
	Status Tier
	// Vector has the claims behind it, nil if the token does not give them.
	Vector Vector
	// PolicyIDs name the appraisal policies. Sign takes one at most.
	PolicyIDs []string
	// AKPub is the attested key: the DER SubjectPublicKeyInfo of the akpub in
	// Veraison's key attestation claim. nil if there is none.
	AKPub []byte
}

// Tier returns the worse of the status and the vector: a verifier that affirms
// beside a claim that it warns of is taken at its worst word.
func (a *Appraisal) Tier() Tier { return a.Status.Worse(a.Vector.Tier()) }

// Claims are what a token says.
type Claims struct {
	// Profile is one of the profiles of this package. For Sign, empty is Profile.
	Profile string
	// Issuer is the iss claim of RFC 7519, empty if there is none. Veraison sets none.
	Issuer string
	// Developer and Build identify the verifier as software
	// (draft-ietf-rats-ar4si, section 2.2.2): who made it, and which build it is.
	Developer, Build string
	// IssuedAt is the iat claim, in whole seconds. It is mandatory.
	IssuedAt time.Time
	// NotBefore and Expires are the nbf and exp claims, in whole seconds, zero if
	// there is none. A token is valid at NotBefore and not at Expires any more.
	NotBefore, Expires time.Time
	// Nonce is the text of the eat_nonce claim, 8 to 88 bytes, or empty. See [NonceText].
	Nonce string
	// Submods has 1 to MaxSubmods appraisals, each under the name of what was appraised.
	Submods map[string]*Appraisal

	// overall is the status of the token as a whole, which draft -03 adds.
	overall *Tier
}

// NonceText returns the text that stands for a nonce in a token: base64url without
// padding. A nonce of 6 to 66 bytes can be in a token.
func NonceText(nonce []byte) string { return base64.RawURLEncoding.EncodeToString(nonce) }

// Tier returns the worst tier of the appraisals in c; see [Appraisal.Tier].
func (c *Claims) Tier() Tier {
	if len(c.Submods) == 0 {
		return None
	}
	tier := Affirming
	if c.overall != nil {
		tier = *c.overall
	}
	for _, a := range c.Submods {
		tier = tier.Worse(a.Tier())
	}
	return tier
}

// AKPub returns the DER SubjectPublicKeyInfo of the attested key, or nil if the
// token names none. One that names several is not read.
func (c *Claims) AKPub() []byte {
	for _, a := range c.Submods {
		if a.AKPub != nil {
			return a.AKPub
		}
	}
	return nil
}

// ValidUntil returns when a token with these claims ceases to be valid: when it
// expires, or when it is older than maxAge, whichever comes first.
func (c *Claims) ValidUntil(maxAge time.Duration) time.Time {
	t := c.IssuedAt.Add(maxAge)
	if !c.Expires.IsZero() && c.Expires.Before(t) {
		return c.Expires
	}
	return t
}

// CheckTime reports why a token with these claims is not valid at now, or nil if
// it is. It must have been issued by then, give or take [Leeway], be less than
// maxAge old, and not have expired.
func (c *Claims) CheckTime(now time.Time, maxAge time.Duration) error {
	switch {
	case c.IssuedAt.After(now.Add(Leeway)):
		return fmt.Errorf("issued in the future, at %v", c.IssuedAt)
	case c.NotBefore.After(now.Add(Leeway)):
		return fmt.Errorf("not valid before %v", c.NotBefore)
	case !c.Expires.IsZero() && !now.Before(c.Expires):
		return fmt.Errorf("expired at %v", c.Expires)
	case !now.Before(c.IssuedAt.Add(maxAge)):
		return fmt.Errorf("issued at %v, which is more than %v ago", c.IssuedAt, maxAge)
	}
	return nil
}

// spellings maps the claim names of the later drafts to those that are deployed.
var spellings = map[string]string{
	"ear_status":                   "ear.status",
	"ear_trustworthiness_vector":   "ear.trustworthiness-vector",
	"ear_appraisal_policy_id":      "ear.appraisal-policy-id",
	"ear_appraisal_policy_ids":     "ear.appraisal-policy-id",
	"ear_verifier_id":              "ear.verifier-id",
	"ear_veraison_key_attestation": "ear.veraison.key-attestation",
}

var errSpelledTwice = errors.New("a claim appears in both of its spellings")

// claimSet decodes an object of claims, each under its deployed name.
func claimSet(raw json.RawMessage) (map[string]json.RawMessage, error) {
	m, err := strict.JSONObject(raw)
	if err != nil {
		return nil, err
	}
	set := make(map[string]json.RawMessage, len(m))
	for name, v := range m {
		if s, ok := spellings[name]; ok {
			name = s
		}
		if _, ok := set[name]; ok {
			return nil, errSpelledTwice
		}
		set[name] = v
	}
	return set, nil
}

// integer takes what is spelled as an integer only: veraison/ear cuts fractions off.
func integer(raw json.RawMessage, bits int) (int64, error) {
	n, err := strconv.ParseInt(string(raw), 10, bits)
	if err != nil {
		return 0, fmt.Errorf("not an integer of %d bits", bits)
	}
	return n, nil
}

// maxTime bounds NumericDates, far in the future and far from overflow.
const maxTime = 1 << 40

func numericDate(raw json.RawMessage) (time.Time, error) {
	n, err := integer(raw, 64)
	if err == nil && (n <= 0 || n > maxTime) {
		err = errors.New("date out of range")
	}
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(n, 0).UTC(), nil
}

// errProfile is that a token is of an unknown profile, and errAudience that it is
// addressed to somebody else.
var (
	errProfile  = errors.New("unknown EAT profile")
	errAudience = errors.New("token is for a particular audience")
)

// parseClaims decodes the payload of a token. The optional claims that it does not
// name, such as the raw evidence, are passed over.
func parseClaims(payload []byte) (*Claims, error) {
	if err := strict.CheckJSONWithin(payload, maxDepth, maxItems); err != nil {
		return nil, err
	}
	set, err := claimSet(payload)
	if err != nil {
		return nil, err
	}
	c := new(Claims)
	if c.Profile, err = strict.JSONText(set["eat_profile"]); err != nil {
		return nil, fmt.Errorf("eat_profile: %w", err)
	}
	if !knownProfile(c.Profile) {
		return nil, errProfile
	}
	// RFC 7519, section 4.1.3: refused by whoever is not the audience.
	if _, ok := set["aud"]; ok {
		return nil, errAudience
	}
	for _, f := range []struct {
		name string
		to   *string
	}{
		{"iss", &c.Issuer},
		{"eat_nonce", &c.Nonce},
	} {
		if raw, ok := set[f.name]; ok {
			if *f.to, err = strict.JSONText(raw); err != nil {
				return nil, fmt.Errorf("%s: %w", f.name, err)
			}
			if *f.to == "" {
				return nil, fmt.Errorf("%s is empty", f.name)
			}
		}
	}
	for _, f := range []struct {
		name string
		to   *time.Time
	}{
		{"iat", &c.IssuedAt},
		{"nbf", &c.NotBefore},
		{"exp", &c.Expires},
	} {
		if raw, ok := set[f.name]; ok {
			if *f.to, err = numericDate(raw); err != nil {
				return nil, fmt.Errorf("%s: %w", f.name, err)
			}
		}
	}
	if c.IssuedAt.IsZero() {
		return nil, errors.New("iat is missing")
	}
	id, err := strict.JSONObject(set["ear.verifier-id"])
	if err != nil {
		return nil, fmt.Errorf("ear.verifier-id: %w", err)
	}
	if c.Developer, err = strict.JSONText(id["developer"]); err != nil {
		return nil, fmt.Errorf("ear.verifier-id: developer: %w", err)
	}
	if c.Build, err = strict.JSONText(id["build"]); err != nil {
		return nil, fmt.Errorf("ear.verifier-id: build: %w", err)
	}
	if raw, ok := set["ear.status"]; ok {
		t, err := tier(raw)
		if err != nil {
			return nil, err
		}
		c.overall = &t
	}
	submods, err := strict.JSONObject(set["submods"])
	if err != nil {
		return nil, fmt.Errorf("submods: %w", err)
	}
	if len(submods) > MaxSubmods {
		return nil, fmt.Errorf("submods: %d appraisals, want at most %d", len(submods), MaxSubmods)
	}
	c.Submods = make(map[string]*Appraisal, len(submods))
	for name, raw := range submods {
		if c.Submods[name], err = parseAppraisal(raw); err != nil {
			return nil, fmt.Errorf("submods: %q: %w", name, err)
		}
	}
	return c, c.check()
}

func tier(raw json.RawMessage) (Tier, error) {
	s, err := strict.JSONText(raw)
	if err != nil {
		return None, fmt.Errorf("ear.status: %w", err)
	}
	return parseTier(s)
}

func parseAppraisal(raw json.RawMessage) (*Appraisal, error) {
	set, err := claimSet(raw)
	if err != nil {
		return nil, err
	}
	a := new(Appraisal)
	if a.Status, err = tier(set["ear.status"]); err != nil {
		return nil, err
	}
	if raw, ok := set["ear.trustworthiness-vector"]; ok {
		m, err := strict.JSONObject(raw)
		if err != nil {
			return nil, fmt.Errorf("ear.trustworthiness-vector: %w", err)
		}
		for name, raw := range m {
			n, err := integer(raw, 8)
			if err != nil {
				return nil, fmt.Errorf("ear.trustworthiness-vector: %q: %w", name, err)
			}
			if !isVectorClaim(name) {
				return nil, fmt.Errorf("ear.trustworthiness-vector: unknown claim %q", name)
			}
			if n == 0 {
				continue
			}
			if a.Vector == nil {
				a.Vector = make(Vector)
			}
			a.Vector[name] = int8(n)
		}
	}
	if raw, ok := set["ear.appraisal-policy-id"]; ok {
		if a.PolicyIDs, err = texts(raw); err != nil {
			return nil, fmt.Errorf("ear.appraisal-policy-id: %w", err)
		}
	}
	if raw, ok := set["ear.veraison.key-attestation"]; ok {
		if a.AKPub, err = parseKeyAttestation(raw); err != nil {
			return nil, fmt.Errorf("ear.veraison.key-attestation: %w", err)
		}
	}
	return a, nil
}

// texts decodes a string, or an array of strings as draft -04 has it.
func texts(raw json.RawMessage) ([]string, error) {
	list := []json.RawMessage{raw}
	if raw[0] == '[' {
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, err
		}
	}
	s := make([]string, len(list))
	for i := range s {
		var err error
		if s[i], err = strict.JSONText(list[i]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// parseKeyAttestation decodes {"akpub": base64url}, and returns the key in it.
func parseKeyAttestation(raw json.RawMessage) ([]byte, error) {
	m, err := strict.JSONObject(raw)
	if err != nil {
		return nil, err
	}
	s, err := strict.JSONText(m["akpub"])
	if err != nil {
		return nil, fmt.Errorf("akpub: %w", err)
	}
	spki, err := strict.Base64URL(s)
	if err != nil {
		return nil, fmt.Errorf("akpub: %w", err)
	}
	if _, err := x509.ParsePKIXPublicKey(spki); err != nil {
		return nil, errors.New("akpub: not a public key")
	}
	return spki, nil
}

// check reports what is wrong between claims that are each well-formed. The rules
// of the format are left to veraison/ear.
func (c *Claims) check() error {
	var key []byte
	for _, a := range c.Submods {
		if a.AKPub != nil && key != nil && string(a.AKPub) != string(key) {
			return errors.New("appraisals name different keys")
		}
		if a.AKPub != nil {
			key = a.AKPub
		}
	}
	if !c.Expires.IsZero() && !c.Expires.After(c.IssuedAt) {
		return errors.New("token expires before it is issued")
	}
	ar := c.veraison()
	b, err := ar.MarshalJSON()
	if err != nil {
		return err
	}
	return new(ear.AttestationResult).UnmarshalJSON(b)
}

// veraison returns c as veraison/ear has it, under its profile and without the
// claims of RFC 7519 that it does not know.
func (c *Claims) veraison() *ear.AttestationResult {
	profile, iat := Profile, c.IssuedAt.Unix()
	ar := &ear.AttestationResult{
		Profile:    &profile,
		VerifierID: &ear.VerifierIdentity{Build: &c.Build, Developer: &c.Developer},
		IssuedAt:   &iat,
		Submods:    make(map[string]*ear.Appraisal, len(c.Submods)),
	}
	if c.Nonce != "" {
		ar.Nonce = &c.Nonce
	}
	for name, a := range c.Submods {
		status, _ := ear.ToTrustTier(a.Status.String())
		va := &ear.Appraisal{Status: status}
		if len(a.Vector) != 0 {
			m := make(map[string]any)
			for name, n := range a.Vector {
				m[name] = n
			}
			// It fails for unknown names alone, which Sign refuses before and
			// parseAppraisal has refused.
			va.TrustVector, _ = ear.ToTrustVector(m)
		}
		if len(a.PolicyIDs) != 0 {
			id := strings.Join(a.PolicyIDs, " ")
			va.AppraisalPolicyID = &id
		}
		if a.AKPub != nil {
			va.VeraisonKeyAttestation = &map[string]any{"akpub": base64.RawURLEncoding.EncodeToString(a.AKPub)}
		}
		ar.Submods[name] = va
	}
	return ar
}

// clone returns a deep copy of c.
func (c *Claims) clone() *Claims {
	d := *c
	d.Submods = make(map[string]*Appraisal, len(c.Submods))
	for name, a := range c.Submods {
		b := *a
		b.Vector = maps.Clone(a.Vector)
		b.PolicyIDs = slices.Clone(a.PolicyIDs)
		b.AKPub = slices.Clone(a.AKPub)
		d.Submods[name] = &b
	}
	return &d
}
