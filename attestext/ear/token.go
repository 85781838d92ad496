package ear

import (
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/jose"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
)

const (
	// DefaultMaxAge is how old a token may be where a VerifyOptions does not say.
	DefaultMaxAge = 24 * time.Hour
	// Leeway is how far ahead of ours the clock of a verifier may be. It extends
	// no lifetime.
	Leeway = time.Minute
)

// VerifyOptions say what [Verify] accepts. They are not changed.
type VerifyOptions struct {
	// Keys are the verifier's, one of which must have signed the token: P-256 for
	// ES256, P-384 for ES384 (*ecdsa.PublicKey), or ed25519.PublicKey for EdDSA.
	// Each is used with its own algorithm only. There must be one at least.
	Keys []crypto.PublicKey

	// Now is the time at which the token must be valid. Zero means the present.
	Now time.Time

	// MaxAge is how long after its iat the token is valid, which an exp may
	// shorten and not lengthen. Zero means DefaultMaxAge; negative is an error.
	MaxAge time.Duration

	// Nonce is what the eat_nonce must stand for. nil accepts any, and none.
	Nonce []byte
}

// A Result is a token that was verified. It can be made by [Verify] only. Its
// methods may be called concurrently.
type Result struct {
	claims *Claims
	maxAge time.Duration
}

// Claims returns a copy of all that the token says.
func (r *Result) Claims() *Claims { return r.claims.clone() }

// Profile returns the EAT profile of the token.
func (r *Result) Profile() string { return r.claims.Profile }

// Issuer returns the iss claim, or "" if the token has none.
func (r *Result) Issuer() string { return r.claims.Issuer }

// Verifier returns who made the software of the verifier, and which build it is.
func (r *Result) Verifier() (developer, build string) { return r.claims.Developer, r.claims.Build }

// IssuedAt returns the iat claim.
func (r *Result) IssuedAt() time.Time { return r.claims.IssuedAt }

// Expires returns when the token ceases to be valid, be it by its exp claim or by
// the MaxAge that it was verified with.
func (r *Result) Expires() time.Time { return r.claims.ValidUntil(r.maxAge) }

// Tier returns the worst tier in the token, of what the verifier gave and of what
// its trustworthiness vectors warrant; see [Appraisal.Tier].
func (r *Result) Tier() Tier { return r.claims.Tier() }

// Nonce returns the text of the eat_nonce claim, or "" if the token has none.
func (r *Result) Nonce() string { return r.claims.Nonce }

// AKPub returns a copy of the DER SubjectPublicKeyInfo of the attested key, or nil
// if the token names none.
func (r *Result) AKPub() []byte { return slices.Clone(r.claims.AKPub()) }

// Vector returns a copy of the trustworthiness vector of the one submodule; nil where there are
// several.
func (r *Result) Vector() Vector {
	if len(r.claims.Submods) != 1 {
		return nil
	}
	var v Vector
	for _, one := range r.claims.Submods {
		v = maps.Clone(one.Vector)
	}
	return v
}

// Describe says what r says, for people and logs. Times are in RFC 3339.
func (r *Result) Describe() map[string]any {
	m := map[string]any{
		"developer": r.claims.Developer,
		"build":     r.claims.Build,
		"issued_at": r.IssuedAt().Format(time.RFC3339),
		"expires":   r.Expires().Format(time.RFC3339),
		"profile":   r.Profile(),
	}
	if r.Issuer() != "" {
		m["issuer"] = r.Issuer()
	}
	if key := r.AKPub(); key != nil {
		h := sha256.Sum256(key)
		m["attested_key_sha256"] = hex.EncodeToString(h[:])
	}
	submods := make(map[string]any)
	for name, a := range r.Claims().Submods {
		s := map[string]any{"status": a.Status.String(), "tier": a.Tier().String()}
		if len(a.Vector) != 0 {
			vector := make(map[string]any)
			for claim, n := range a.Vector {
				vector[claim] = int(n)
			}
			s["trustworthiness_vector"] = vector
		}
		if len(a.PolicyIDs) != 0 {
			s["policies"] = a.PolicyIDs
		}
		submods[name] = s
	}
	m["submods"] = submods
	return m
}

const (
	opVerify = "verify EAR"
	opParse  = "parse EAR"
)

// Verify checks a token, a JWS in the compact serialization, and returns what it
// says: that one of the keys of opts signed it, that it is of a known profile,
// that it is valid at the time of opts, and that it has the nonce of opts. Whether
// what it says is acceptable is up to the caller, and so is whom AKPub must name.
//
// Keys and references to keys in the header of the token (jwk, jku, x5c, x5u, kid)
// are not looked at.
//
// Errors are of class [attestext.ErrMalformed]; [attestext.ErrSignature] if no key
// fits or the token is not valid at the time; [attestext.ErrWrongType] for another
// profile; [attestext.ErrBinding] for another nonce; [attestext.ErrPolicy] for a
// token that is addressed to an audience; and [attestext.ErrUnavailable] for options
// that make no sense.
func Verify(token []byte, opts *VerifyOptions) (*Result, error) {
	if opts == nil || len(opts.Keys) == 0 {
		return nil, attestext.Errorf(attestext.ErrUnavailable, opVerify, "no key to verify with")
	}
	if opts.MaxAge < 0 {
		return nil, attestext.Errorf(attestext.ErrUnavailable, opVerify, "negative MaxAge")
	}
	now, maxAge := opts.Now, opts.MaxAge
	if now.IsZero() {
		now = time.Now()
	}
	if maxAge == 0 {
		maxAge = DefaultMaxAge
	}

	p, err := jose.Split(token, MaxSize)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: opVerify, Err: err}
	}
	if err := verifySignature(p, opts.Keys); err != nil {
		return nil, err
	}
	c, err := parseClaims(p.Payload)
	if err != nil {
		return nil, &attestext.Error{Class: classOf(err), Op: opVerify, Err: err}
	}
	if err := c.CheckTime(now, maxAge); err != nil {
		return nil, &attestext.Error{Class: attestext.ErrSignature, Op: opVerify, Err: err}
	}
	if opts.Nonce != nil && !nonceIs(c.Nonce, opts.Nonce) {
		return nil, attestext.Errorf(attestext.ErrBinding, opVerify, "another nonce, or none")
	}
	return &Result{claims: c, maxAge: maxAge}, nil
}

// nonceIs reports whether text stands for nonce: in base64url, which some write
// with padding.
func nonceIs(text string, nonce []byte) bool {
	if len(nonce) == 0 {
		return false
	}
	raw := subtle.ConstantTimeCompare([]byte(text), []byte(NonceText(nonce)))
	padded := subtle.ConstantTimeCompare([]byte(text), []byte(base64.URLEncoding.EncodeToString(nonce)))
	return raw|padded == 1
}

func classOf(err error) error {
	switch {
	case errors.Is(err, errProfile):
		return attestext.ErrWrongType
	case errors.Is(err, errAudience):
		return attestext.ErrPolicy
	}
	return attestext.ErrMalformed
}

// ParseUnverified returns what a token says without anybody vouching for it: for
// display, and for whoever holds results that others will verify. Nothing may be
// decided upon it. Errors are those of Verify, as far as they do not depend on
// options.
func ParseUnverified(token []byte) (*Claims, error) {
	p, err := jose.Split(token, MaxSize)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: opParse, Err: err}
	}
	c, err := parseClaims(p.Payload)
	if err != nil {
		return nil, &attestext.Error{Class: classOf(err), Op: opParse, Err: err}
	}
	return c, nil
}

// verifySignature has p verified by the keys whose algorithm it names.
func verifySignature(p *jose.Compact, keys []crypto.PublicKey) error {
	fits := false
	for _, k := range keys {
		alg, err := Algorithm(k)
		if err != nil {
			return &attestext.Error{Class: attestext.ErrUnavailable, Op: opVerify, Err: err}
		}
		if alg != p.Algorithm {
			continue
		}
		fits = true
		// The algorithm is the key's; what the header says was only compared.
		v, err := jws.NewVerifier(jwa.SignatureAlgorithm(alg))
		if err != nil {
			return &attestext.Error{Class: attestext.ErrUnavailable, Op: opVerify, Err: err}
		}
		if v.Verify(p.Signed, p.Signature, k) == nil {
			return nil
		}
	}
	if !fits {
		return attestext.Errorf(attestext.ErrSignature, opVerify, "algorithm %.16q is not that of a trusted key", p.Algorithm)
	}
	return attestext.Errorf(attestext.ErrSignature, opVerify, "no trusted key made the signature")
}

// Sign returns a token of [Profile] with the claims c, signed by key, of a kind
// that [Algorithm] knows. IssuedAt is mandatory, and no clock is read. It fails for
// what Verify would refuse at any time, and for a status better than its vector
// warrants.
func Sign(c *Claims, key crypto.Signer) ([]byte, error) {
	token, err := signClaims(c, key)
	if err != nil {
		return nil, fmt.Errorf("sign EAR: %w", err)
	}
	return token, nil
}

func signClaims(c *Claims, key crypto.Signer) ([]byte, error) {
	if c.Profile != "" && c.Profile != Profile {
		return nil, errors.New("profile cannot be written")
	}
	alg, err := Algorithm(key.Public())
	if err != nil {
		return nil, err
	}
	for name, a := range c.Submods {
		if a == nil {
			return nil, fmt.Errorf("%q has no appraisal", name)
		}
		if len(a.PolicyIDs) > 1 {
			return nil, fmt.Errorf("%q has more than one policy", name)
		}
		if int(a.Status) >= len(tierNames) || a.Tier() != a.Status {
			return nil, fmt.Errorf("%q has the status %v where its vector warrants %v", name, a.Status, a.Vector.Tier())
		}
		for claim := range a.Vector {
			if !isVectorClaim(claim) {
				return nil, fmt.Errorf("%q has the unknown claim %q in its vector", name, claim)
			}
		}
	}
	m := c.veraison().AsMap()
	if c.Issuer != "" {
		m["iss"] = c.Issuer
	}
	if !c.NotBefore.IsZero() {
		m["nbf"] = c.NotBefore.Unix()
	}
	if !c.Expires.IsZero() {
		m["exp"] = c.Expires.Unix()
	}
	payload, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if _, err := parseClaims(payload); err != nil {
		return nil, err
	}
	header := jws.NewHeaders()
	if err := header.Set(jws.TypeKey, "JWT"); err != nil {
		return nil, err
	}
	token, err := jws.Sign(payload, jws.WithKey(jwa.SignatureAlgorithm(alg), key, jws.WithProtectedHeaders(header)))
	if err == nil && len(token) > MaxSize {
		err = fmt.Errorf("token of %d bytes, want at most %d", len(token), MaxSize)
	}
	return token, err
}
