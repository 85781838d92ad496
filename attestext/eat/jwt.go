package eat

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/attestedtls/atls/attestext/internal/jose"
	"github.com/attestedtls/atls/attestext/internal/strict"
)

// jwtType is the typ of a token in a JWT: its media type without "application/" (RFC 7515,
// section 4.1.9).
const jwtType = "eat+jwt"

// jwtTypes are what typ may be, in any case of letters. JWT says nothing of what the claims
// are, and is what most write.
var jwtTypes = []string{jwtType, JWTMediaType, "JWT"}

// A claimForm turns the value of a claim in JSON into what a CWT has, for strict.Marshal,
// and back. What values there may be is for parseClaims.
type claimForm struct {
	decode func(json.RawMessage) (any, error)
	encode func(strict.Raw) (any, error)
}

var (
	formBytes = &claimForm{
		func(raw json.RawMessage) (any, error) { return strict.JSONBytes(raw) },
		func(raw strict.Raw) (any, error) {
			b, err := strict.Bytes(raw)
			return base64.RawURLEncoding.EncodeToString(b), err
		},
	}
	formUint = &claimForm{
		func(raw json.RawMessage) (any, error) { return strict.JSONUint(raw) },
		func(raw strict.Raw) (any, error) { return strict.Uint(raw) },
	}
)

type jwtClaim struct {
	name   string
	number int64
	form   *claimForm
}

// jwtClaims are the claims that are read here, RFC 9711, section 10.3, RFC 7519, section
// 4.1, and RFC 7800, section 3. One without a form is kept in Other.
var jwtClaims = []jwtClaim{
	{"aud", claimAud, nil},
	{"exp", claimExp, formUint},
	{"nbf", claimNbf, formUint},
	{"iat", claimIat, formUint},
	{"cnf", claimCnf, &claimForm{decodeJWKCnf, encodeJWKCnf}},
	{"eat_nonce", claimNonce, formBytes},
	{"ueid", claimUEID, formBytes},
	{"oemid", claimOEMID, &claimForm{
		func(raw json.RawMessage) (any, error) { return formOf(raw[0] != '"').decode(raw) },
		func(raw strict.Raw) (any, error) { return formOf(strict.IsUint(raw)).encode(raw) },
	}},
	{"hwmodel", claimHWModel, formBytes},
	{"dbgstat", claimDebugStatus, &claimForm{decodeDebugStatus, encodeDebugStatus}},
	{"eat_profile", claimProfile, &claimForm{decodeProfile, encodeProfile}},
	{nameSubmods, claimSubmods, &claimForm{decode: decodeSubmods}},
	{"measurements", claimMeasurements, &claimForm{decodeMeasurements, encodeMeasurements}},
}

const nameSubmods = "submods"

func formOf(number bool) *claimForm {
	if number {
		return formUint
	}
	return formBytes
}

// isJWT reports whether b begins as the header of a JWS does. No COSE_Sign1 begins so: in
// CBOR, it is the head of a text.
func isJWT(b []byte) bool { return len(b) > 0 && b[0] == 'e' }

func parseJWT(b []byte) (*Token, *message, error) {
	c, err := jose.Split(b, MaxTokenSize)
	if err != nil {
		return nil, nil, err
	}
	m, err := parseJWTHeader(c)
	if err != nil {
		return nil, nil, err
	}
	if err := strict.CheckJSON(c.Payload); err != nil {
		return nil, nil, err
	}
	object, err := strict.JSONObject(c.Payload)
	if err != nil {
		return nil, nil, err
	}
	t := &Token{KeyID: m.kid, Algorithm: m.alg, JSON: true, raw: b}
	claims := make(map[any]strict.Raw)
	for name, raw := range object {
		i := slices.IndexFunc(jwtClaims, func(k jwtClaim) bool { return k.name == name })
		if i < 0 {
			t.Other = append(t.Other, Claim{name, raw})
			continue
		}
		k := jwtClaims[i]
		if k.form == nil {
			t.Other = append(t.Other, Claim{k.number, raw})
			continue
		}
		v, err := k.form.decode(raw)
		if err != nil {
			return nil, nil, fmt.Errorf("claim %s: %w", k.name, err)
		}
		if claims[k.number], err = strict.Marshal(v); err != nil {
			return nil, nil, fmt.Errorf("claim %s: %w", k.name, err)
		}
	}
	if err := t.parseClaims(claims); err != nil {
		return nil, nil, err
	}
	t.Submods = object[nameSubmods]
	return t, m, nil
}

// parseJWTHeader takes alg, kid and typ. Others would be about keys (jwk, jku, x5c, x5u),
// or change what the rest means (crit, zip, cty).
func parseJWTHeader(c *jose.Compact) (*message, error) {
	i := slices.IndexFunc(curves, func(row *curve) bool { return row.jwsAlg == c.Algorithm })
	if i < 0 {
		return nil, fmt.Errorf("algorithm %.16q is none of ES256, ES384 and EdDSA", c.Algorithm)
	}
	if len(c.Signature) == 0 {
		return nil, errors.New("empty signature")
	}
	m := &message{alg: curves[i].alg, jws: c}
	for name, raw := range c.Header {
		s, err := strict.JSONText(raw)
		if err != nil {
			return nil, fmt.Errorf("header parameter %.32q: %w", name, err)
		}
		switch name {
		case "alg":
		case "kid":
			m.kid = []byte(s)
		case "typ":
			if !slices.ContainsFunc(jwtTypes, func(want string) bool { return strings.EqualFold(s, want) }) {
				return nil, fmt.Errorf("token of type %.32q", s)
			}
		default:
			return nil, fmt.Errorf("header parameter %.32q", name)
		}
	}
	return m, nil
}

// decodeJWKCnf takes a confirmation (RFC 7800, section 3.2) that is exactly a public key.
func decodeJWKCnf(raw json.RawMessage) (any, error) {
	cnf, err := strict.JSONObject(raw)
	if err != nil {
		return nil, err
	}
	if len(cnf) != 1 || cnf["jwk"] == nil {
		return nil, errors.New("not exactly a jwk")
	}
	pub, err := jose.ParseJWK(cnf["jwk"])
	if err != nil {
		return nil, err
	}
	return encodeCnf(pub)
}

func encodeJWKCnf(raw strict.Raw) (any, error) {
	spki, err := parseCnf(raw)
	if err != nil {
		return nil, err
	}
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, err
	}
	jwk, err := jose.MarshalJWK(pub)
	return map[string]json.RawMessage{"jwk": jwk}, err
}

func decodeDebugStatus(raw json.RawMessage) (any, error) {
	s, err := strict.JSONText(raw)
	if err != nil {
		return nil, err
	}
	n := slices.Index(debugNames[1:], s) // 0 is enabled, as in a CWT
	if n < 0 {
		return nil, fmt.Errorf("no debug status has the name %.32q", s)
	}
	return n, nil
}

func encodeDebugStatus(raw strict.Raw) (any, error) {
	n, err := strict.Uint(raw)
	return DebugStatus(n + 1).String(), err
}

// decodeProfile takes a URI, or the dotted form of an OID, of which a CWT has the DER.
func decodeProfile(raw json.RawMessage) (any, error) {
	s, err := strict.JSONText(raw)
	if err != nil {
		return nil, err
	}
	if oid, err := x509.ParseOID(s); err == nil {
		return oid.MarshalBinary()
	}
	return s, nil
}

func encodeProfile(raw strict.Raw) (any, error) { return parseProfile(raw) }

// decodeMeasurements takes [content-format, base64url] for each.
func decodeMeasurements(raw json.RawMessage) (any, error) {
	list, err := strict.JSONArray(raw)
	if err != nil {
		return nil, err
	}
	out := make([][2]any, len(list))
	for i, one := range list {
		pair, err := strict.JSONArray(one)
		if err != nil {
			return nil, err
		}
		if len(pair) != 2 {
			return nil, fmt.Errorf("measurement of %d elements", len(pair))
		}
		format, formatErr := formUint.decode(pair[0])
		value, valueErr := formBytes.decode(pair[1])
		if err := errors.Join(formatErr, valueErr); err != nil {
			return nil, err
		}
		out[i] = [2]any{format, value}
	}
	return out, nil
}

func encodeMeasurements(raw strict.Raw) (any, error) {
	if err := checkMeasurements(raw); err != nil {
		return nil, err
	}
	list, err := strict.Array(raw)
	if err != nil {
		return nil, err
	}
	out := make([][2]any, len(list))
	for i, one := range list {
		pair, err := strict.Array(one)
		if err != nil {
			return nil, err
		}
		format, formatErr := formUint.encode(pair[0])
		value, valueErr := formBytes.encode(pair[1])
		if err := errors.Join(formatErr, valueErr); err != nil {
			return nil, err
		}
		out[i] = [2]any{format, value}
	}
	return out, nil
}

// decodeSubmods returns what submodNames reads of submodules: their names, and those within.
func decodeSubmods(raw json.RawMessage) (any, error) {
	m, err := strict.JSONObject(raw)
	if err != nil {
		return nil, err
	}
	out := make(map[string]any, len(m))
	for name, value := range m {
		claims, err := strict.JSONObject(value)
		if err != nil {
			// A token or a digest, with its type (RFC 9711, section 4.2.18).
			if selector, err := strict.JSONArray(value); err != nil || len(selector) != 2 {
				return nil, fmt.Errorf("%.64q is neither a claims-set nor a token nor a digest", name)
			}
			out[name] = []any{}
			continue
		}
		inner := make(map[int64]any)
		if nested, ok := claims[nameSubmods]; ok {
			if inner[claimSubmods], err = decodeSubmods(nested); err != nil {
				return nil, err
			}
		}
		out[name] = inner
	}
	return out, nil
}

// signJWT signs claims and those of t that are in its form.
func signJWT(random io.Reader, key crypto.Signer, t *Token, claims map[any]any) ([]byte, error) {
	object := make(map[string]any)
	for _, k := range jwtClaims {
		v, ok := claims[k.number]
		if !ok {
			continue
		}
		raw, err := strict.Marshal(v)
		if err != nil {
			return nil, err
		}
		if object[k.name], err = k.form.encode(raw); err != nil {
			return nil, fmt.Errorf("claim %s: %w", k.name, err)
		}
	}
	if t.Submods != nil {
		object[nameSubmods] = json.RawMessage(t.Submods)
	}
	for _, c := range t.Other {
		name, ok := c.Label.(string)
		if c.Label == claimAud {
			name, ok = "aud", true
		}
		if _, twice := object[name]; !ok || twice {
			return nil, fmt.Errorf("claim %v twice, or without a name", c)
		}
		object[name] = json.RawMessage(c.Value)
	}
	signer, c, err := newSigner(key)
	if err != nil {
		return nil, err
	}
	header := map[string]any{"alg": c.jwsAlg, "typ": jwtType}
	if t.KeyID != nil {
		if !utf8.Valid(t.KeyID) {
			return nil, errors.New("key ID is no text")
		}
		header["kid"] = string(t.KeyID)
	}
	var token []byte
	for _, part := range []map[string]any{header, object} {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false) // values are kept as they are
		if err := e.Encode(part); err != nil {
			return nil, err
		}
		token = append(base64.RawURLEncoding.AppendEncode(token, bytes.TrimSpace(b.Bytes())), '.')
	}
	signature, err := signer.Sign(orRand(random), token[:len(token)-1])
	if err != nil {
		return nil, err
	}
	return base64.RawURLEncoding.AppendEncode(token, signature), nil
}
