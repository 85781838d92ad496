package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/attestedtls/atls/attestext/internal/strict"
)

// MaxKeySize bounds an encoded key, in bytes.
const MaxKeySize = 64 << 10

// curves are the elliptic curves of JSON Web Keys, RFC 7518, section 6.2.1.1.
var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384()}

// Algorithm returns the one algorithm that pub is used with: "ES256" for P-256 and
// "ES384" for P-384, each a *[ecdsa.PublicKey], and "EdDSA" for an
// [ed25519.PublicKey]. It fails for any other key.
func Algorithm(pub crypto.PublicKey) (string, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch {
		case k == nil:
		case k.Curve == elliptic.P256():
			return "ES256", nil
		case k.Curve == elliptic.P384():
			return "ES384", nil
		}
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return "EdDSA", nil
		}
	}
	return "", fmt.Errorf("key of type %T is not of P-256, P-384 or Ed25519", pub)
}

// ParseJWK decodes a JSON Web Key (RFC 7517) that [Algorithm] knows. A private key
// and one that is for something other than signatures are refused, and so is an alg
// that is not the key's; other members are ignored, as the RFC wants it.
func ParseJWK(b []byte) (crypto.PublicKey, error) {
	pub, err := parseJWK(b)
	if err != nil {
		return nil, fmt.Errorf("parse JWK: %w", err)
	}
	return pub, nil
}

func parseJWK(b []byte) (crypto.PublicKey, error) {
	if len(b) > MaxKeySize {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(b), MaxKeySize)
	}
	if err := strict.CheckJSON(b); err != nil {
		return nil, err
	}
	m, err := strict.JSONObject(b)
	if err != nil {
		return nil, err
	}
	// The names of private parameters, RFC 7518, section 6.
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, ok := m[name]; ok {
			return nil, errors.New("a private key")
		}
	}
	if raw, ok := m["use"]; ok {
		if use, err := strict.JSONText(raw); err != nil || use != "sig" {
			return nil, errors.New("not for signatures")
		}
	}
	pub, err := jwkKey(m)
	if err != nil {
		return nil, err
	}
	want, err := Algorithm(pub)
	if err != nil {
		return nil, err
	}
	if raw, ok := m["alg"]; ok {
		if alg, err := strict.JSONText(raw); err != nil || alg != want {
			return nil, fmt.Errorf("alg is not %s", want)
		}
	}
	return pub, nil
}

func jwkKey(m map[string]json.RawMessage) (crypto.PublicKey, error) {
	kty, err := strict.JSONText(m["kty"])
	if err != nil {
		return nil, fmt.Errorf("kty: %w", err)
	}
	crv, err := strict.JSONText(m["crv"])
	if err != nil {
		return nil, fmt.Errorf("crv: %w", err)
	}
	octets := func(name string, size int) ([]byte, error) {
		b, err := strict.JSONBytes(m[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(b) != size {
			return nil, fmt.Errorf("%s has %d bytes, want %d", name, len(b), size)
		}
		return b, nil
	}
	switch kty {
	case "EC":
		curve, ok := curves[crv]
		if !ok {
			return nil, fmt.Errorf("unsupported curve %.16q", crv)
		}
		size := (curve.Params().BitSize + 7) / 8
		x, err := octets("x", size)
		if err != nil {
			return nil, err
		}
		y, err := octets("y", size)
		if err != nil {
			return nil, err
		}
		const uncompressed = 4 // SEC 1, section 2.3.3
		return ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{uncompressed}, x...), y...))
	case "OKP":
		if crv != "Ed25519" {
			return nil, fmt.Errorf("unsupported curve %.16q", crv)
		}
		x, err := octets("x", ed25519.PublicKeySize)
		if err != nil {
			return nil, err
		}
		return ed25519.PublicKey(x), nil
	}
	return nil, fmt.Errorf("unsupported key type %.16q", kty)
}

// MarshalJWK encodes a key that [Algorithm] knows as a JSON Web Key with its alg, for
// [ParseJWK] to read.
func MarshalJWK(pub crypto.PublicKey) ([]byte, error) {
	alg, err := Algorithm(pub)
	if err != nil {
		return nil, fmt.Errorf("marshal JWK: %w", err)
	}
	text := base64.RawURLEncoding.EncodeToString
	m := map[string]string{"alg": alg, "use": "sig"}
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // uncompressed
		if err != nil {
			return nil, fmt.Errorf("marshal JWK: %w", err)
		}
		size := (len(point) - 1) / 2
		m["kty"], m["crv"] = "EC", k.Curve.Params().Name
		m["x"], m["y"] = text(point[1:1+size]), text(point[1+size:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", text(k)
	}
	return json.Marshal(m)
}
