package eat

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"fmt"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/strict"
	"github.com/veraison/go-cose"
)

// Labels of a COSE_Key, RFC 9052, section 7.1, and RFC 9053, sections 7.1.1 and 7.2.
const (
	keyType      int64 = 1
	keyID        int64 = 2
	keyAlgorithm int64 = 3
	keyCurve     int64 = -1
	keyX         int64 = -2
	keyY         int64 = -3
)

// Key types, RFC 9053, table 17.
const (
	typeOKP = 1
	typeEC2 = 2
)

// A curve is a row of RFC 9053, table 18, with what goes with it here.
type curve struct {
	name string
	kty  int64
	crv  int64
	size int            // of a coordinate, in bytes
	ec   elliptic.Curve // nil for Ed25519
	hash crypto.Hash    // that alg hashes the message with; zero for Ed25519
	// alg signs with a key on the curve. A COSE_Key may restrict itself to it,
	// or to its fully specified form (RFC 9864).
	alg, algFull int64
	jwsAlg       string // alg in a JWS, RFC 7518, section 3.1, and RFC 8037
}

var (
	curveP256    = &curve{"P-256", typeEC2, 1, 32, elliptic.P256(), crypto.SHA256, int64(cose.AlgorithmES256), -9, "ES256"}
	curveP384    = &curve{"P-384", typeEC2, 2, 48, elliptic.P384(), crypto.SHA384, int64(cose.AlgorithmES384), -51, "ES384"}
	curveEd25519 = &curve{"Ed25519", typeOKP, 6, 32, nil, 0, int64(cose.AlgorithmEdDSA), -19, "EdDSA"}
)

var curves = []*curve{curveP256, curveP384, curveEd25519}

// curveOf returns the curve of pub and pub's coordinates. y is nil for Ed25519.
func curveOf(pub crypto.PublicKey) (c *curve, x, y []byte, err error) {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		if pub == nil {
			break
		}
		switch pub.Curve {
		case elliptic.P256():
			c = curveP256
		case elliptic.P384():
			c = curveP384
		}
		if c == nil {
			break
		}
		point, err := pub.Bytes() // 4, X, Y
		if err != nil {
			return nil, nil, nil, err
		}
		return c, point[1 : 1+c.size], point[1+c.size:], nil
	case ed25519.PublicKey:
		if len(pub) != ed25519.PublicKeySize {
			break
		}
		return curveEd25519, pub, nil, nil
	}
	return nil, nil, nil, fmt.Errorf("no COSE_Key for a public key of type %T: want P-256, P-384 or Ed25519", pub)
}

// MarshalKey returns the COSE_Key of pub in the core deterministic encoding
// (RFC 9052, section 7, and RFC 8949, section 4.2.1): kty, crv, x and, on a NIST
// curve, y, and nothing else. That is also the input of the thumbprint of
// RFC 9679. pub is an *ecdsa.PublicKey on P-256 or P-384 or an ed25519.PublicKey.
func MarshalKey(pub crypto.PublicKey) ([]byte, error) { return marshalKey(&key{pub: pub}) }

// key is a COSE_Key as decoded: the public key with the members that are optional.
type key struct {
	pub crypto.PublicKey
	alg int64  // 0 if there was none
	kid []byte // nil if there was none
}

func marshalKey(k *key) ([]byte, error) {
	c, x, y, err := curveOf(k.pub)
	if err != nil {
		return nil, err
	}
	m := map[int64]any{keyType: c.kty, keyCurve: c.crv, keyX: x}
	if y != nil {
		m[keyY] = y
	}
	if k.alg != 0 {
		m[keyAlgorithm] = k.alg
	}
	if k.kid != nil {
		m[keyID] = k.kid
	}
	return strict.Marshal(m)
}

// ParseKey decodes a COSE_Key (RFC 9052, section 7) that holds a public key on
// P-256 or P-384, in which case it returns an *ecdsa.PublicKey, or on Ed25519, in
// which case it returns an ed25519.PublicKey.
//
// It is strict: coordinates of exactly the curve's size, a point on the curve
// and not compressed, no private part, no duplicate members, and no others but
// alg and kid, of which alg must be one that goes with the curve. Every error
// wraps [attestext.ErrMalformed].
//
// It stands in for go-cose's Key, which panics on some short inputs and returns
// points that are not on the curve.
func ParseKey(b []byte) (crypto.PublicKey, error) {
	k, err := parseKey(b)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: "parse COSE_Key", Err: err}
	}
	return k.pub, nil
}

func parseKey(b []byte) (*key, error) {
	m, err := strict.Map(b)
	if err != nil {
		return nil, err
	}
	var kty, crv int64
	var x, y []byte
	k := new(key)
	for label, raw := range m {
		switch label {
		case keyType:
			kty, err = strict.Int(raw)
		case keyCurve:
			crv, err = strict.Int(raw)
		case keyX:
			x, err = strict.Bytes(raw)
		case keyY:
			// A boolean, which stands for a compressed point, is refused here.
			y, err = strict.Bytes(raw)
		case keyAlgorithm:
			k.alg, err = strict.Int(raw)
		case keyID:
			k.kid, err = strict.Bytes(raw)
		default:
			// Above all -4, the private part.
			return nil, fmt.Errorf("member %s of a public key", strict.Name(label))
		}
		if err != nil {
			return nil, fmt.Errorf("member %s: %w", strict.Name(label), err)
		}
	}

	var c *curve
	for _, row := range curves {
		if row.kty == kty && row.crv == crv {
			c = row
		}
	}
	if c == nil {
		return nil, fmt.Errorf("key type %d with curve %d, want P-256, P-384 or Ed25519", kty, crv)
	}
	_, hasAlg := m[keyAlgorithm]
	if hasAlg && k.alg != c.alg && k.alg != c.algFull {
		return nil, fmt.Errorf("algorithm %d for a key on %s", k.alg, c.name)
	}
	if len(x) != c.size {
		return nil, fmt.Errorf("x of %d bytes on %s, want %d", len(x), c.name, c.size)
	}
	if c.ec == nil {
		if _, hasY := m[keyY]; hasY {
			return nil, errors.New("y in an OKP key")
		}
		k.pub = ed25519.PublicKey(x)
		return k, nil
	}
	if len(y) != c.size {
		return nil, fmt.Errorf("y of %d bytes on %s, want %d", len(y), c.name, c.size)
	}
	point := append(append([]byte{4}, x...), y...)
	if k.pub, err = ecdsa.ParseUncompressedPublicKey(c.ec, point); err != nil {
		return nil, fmt.Errorf("point is not on %s", c.name)
	}
	return k, nil
}
