package kbs

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/attestedtls/atls/internal/strictjson"
)

// Algorithms of the session's key (RFC 7518, section 4.1).
const (
	AlgECDH = "ECDH-ES+A256KW" // with P-256
	AlgRSA  = "RSA-OAEP-256"   // with 3072 bits
)

const (
	rsaBits    = 3072
	curveName  = "P-256"
	coordinate = 32 // bytes of one
	contentAlg = "A256GCM"
	cekSize    = 32 // bytes
	gcmIV      = 12
	gcmTag     = 16
)

var base64url = base64.RawURLEncoding.Strict()

// A sessionKey is what a resource is encrypted to.
type sessionKey interface {
	// public returns the key as a JWK (RFC 7517).
	public() map[string]string
	// check returns why h is not the header of a JWE to this key, or nil.
	check(h *joseHeader) error
	// unwrap decrypts the content encryption key of a JWE whose header passed check.
	unwrap(h *joseHeader, encrypted []byte) ([]byte, error)
}

func newKey(alg string) (sessionKey, error) {
	switch alg {
	case AlgECDH, "":
		k, err := ecdh.P256().GenerateKey(rand.Reader)
		return &ecKey{k}, err
	case AlgRSA:
		k, err := rsa.GenerateKey(rand.Reader, rsaBits)
		return &rsaKey{k}, err
	}
	return nil, fmt.Errorf("Alg is %q, want %s or %s", alg, AlgECDH, AlgRSA)
}

// A joseHeader has all members that a header may have: kid, zip and crit are refused
// with all others.
type joseHeader struct {
	Alg string        `json:"alg"`
	Enc string        `json:"enc"`
	EPK *ephemeralKey `json:"epk"` // with AlgECDH
}

// An ephemeralKey is the sender's public key (RFC 7518, section 4.6.1.1).
type ephemeralKey struct {
	Kty string `json:"kty"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y"`
}

type rsaKey struct{ *rsa.PrivateKey }

func (k *rsaKey) public() map[string]string {
	return map[string]string{"kty": "RSA", "alg": AlgRSA,
		"n": base64url.EncodeToString(k.N.Bytes()), "e": base64url.EncodeToString(big.NewInt(int64(k.E)).Bytes())}
}

func (k *rsaKey) check(h *joseHeader) error {
	if h.Alg != AlgRSA || h.Enc != contentAlg || h.EPK != nil {
		return fmt.Errorf("want %s with %s alone", AlgRSA, contentAlg)
	}
	return nil
}

func (k *rsaKey) unwrap(_ *joseHeader, encrypted []byte) ([]byte, error) {
	return rsa.DecryptOAEP(sha256.New(), nil, k.PrivateKey, encrypted, nil)
}

type ecKey struct{ *ecdh.PrivateKey }

func (k *ecKey) public() map[string]string {
	point := k.PublicKey().Bytes() // 4, x, y
	return map[string]string{"kty": "EC", "alg": AlgECDH, "crv": curveName,
		"x": base64url.EncodeToString(point[1 : 1+coordinate]), "y": base64url.EncodeToString(point[1+coordinate:])}
}

func (k *ecKey) check(h *joseHeader) error {
	if h.Alg != AlgECDH || h.Enc != contentAlg || h.EPK == nil {
		return fmt.Errorf("want %s with %s and an epk", AlgECDH, contentAlg)
	}
	_, err := h.EPK.point()
	return err
}

func (k *ecKey) unwrap(h *joseHeader, encrypted []byte) ([]byte, error) {
	from, err := h.EPK.point()
	if err != nil {
		return nil, err
	}
	z, err := k.ECDH(from)
	if err != nil {
		return nil, err
	}
	defer clear(z)
	kek := concatKDF(z, AlgECDH, "", "", 32)
	defer clear(kek)
	return unwrapKey(kek, encrypted)
}

// point returns the key, if it is one on the curve.
func (e *ephemeralKey) point() (*ecdh.PublicKey, error) {
	if e.Kty != "EC" || e.Crv != curveName {
		return nil, fmt.Errorf("its epk is not a key on %s", curveName)
	}
	point := []byte{4}
	for _, s := range []string{e.X, e.Y} {
		b, err := base64url.DecodeString(s)
		if err != nil || len(b) != coordinate {
			return nil, fmt.Errorf("its epk has a coordinate that is not %d bytes of base64url", coordinate)
		}
		point = append(point, b...)
	}
	return ecdh.P256().NewPublicKey(point)
}

// concatKDF derives up to 32 bytes from a shared secret (RFC 7518, section 4.6.2, with
// one round of SHA-256).
func concatKDF(z []byte, alg, apu, apv string, size int) []byte {
	in := binary.BigEndian.AppendUint32(nil, 1)
	in = append(in, z...)
	for _, s := range []string{alg, apu, apv} {
		in = append(binary.BigEndian.AppendUint32(in, uint32(len(s))), s...)
	}
	in = binary.BigEndian.AppendUint32(in, uint32(size*8))
	sum := sha256.Sum256(in)
	clear(in)
	return sum[:size]
}

// unwrapKey reverses AES key wrap (RFC 3394, section 2.2.2) of two blocks of 64 bits or
// more.
func unwrapKey(kek, wrapped []byte) ([]byte, error) {
	const block = 8
	n := len(wrapped)/block - 1
	if len(wrapped)%block != 0 || n < 2 {
		return nil, fmt.Errorf("a wrapped key of %d bytes", len(wrapped))
	}
	c, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	out := append([]byte(nil), wrapped[block:]...)
	var b [2 * block]byte // A and R[i]
	defer clear(b[:])
	copy(b[:], wrapped)
	for t := 6 * n; t > 0; t-- {
		r := out[(t-1)%n*block:][:block]
		binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(b[:])^uint64(t))
		copy(b[block:], r)
		c.Decrypt(b[:], b[:])
		copy(r, b[block:])
	}
	initial := [block]byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6}
	if subtle.ConstantTimeCompare(b[:block], initial[:]) != 1 {
		clear(out)
		return nil, errors.New("the wrapped key was altered, or is for another")
	}
	return out, nil
}

// open decrypts a flattened JWE (RFC 7516, section 7.2.2) to the session's key. The
// members are those that the protocol has, each once at most.
func open(b []byte, key sessionKey) ([]byte, error) {
	var m struct {
		Protected    string `json:"protected"`
		EncryptedKey string `json:"encrypted_key"`
		AAD          string `json:"aad"`
		IV           string `json:"iv"`
		Ciphertext   string `json:"ciphertext"`
		Tag          string `json:"tag"`
	}
	if err := strictjson.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: the resource is no flattened JWE: %w", ErrMalformed, err)
	}
	var parts [5][]byte
	for i, s := range []string{m.Protected, m.EncryptedKey, m.IV, m.Ciphertext, m.Tag} {
		var err error
		if parts[i], err = base64url.DecodeString(s); err != nil {
			return nil, fmt.Errorf("%w: the JWE has bad base64url", ErrMalformed)
		}
	}
	protected, encryptedKey, iv, ciphertext, tag := parts[0], parts[1], parts[2], parts[3], parts[4]
	if m.AAD != "" || len(iv) != gcmIV || len(tag) != gcmTag {
		return nil, fmt.Errorf("%w: the JWE has an aad, or an iv or tag of the wrong size", ErrMalformed)
	}
	var h joseHeader
	if err := strictjson.Unmarshal(protected, &h); err != nil {
		return nil, fmt.Errorf("%w: the JWE's header: %w", ErrMalformed, err)
	}
	if err := key.check(&h); err != nil {
		return nil, fmt.Errorf("%w: the JWE's header: %w", ErrMalformed, err)
	}
	cek, err := key.unwrap(&h, encryptedKey)
	defer clear(cek)
	if err != nil || len(cek) != cekSize {
		return nil, ErrDecrypt
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	out, err := gcm.Open(nil, iv, append(ciphertext, tag...), []byte(m.Protected))
	if err != nil {
		return nil, ErrDecrypt
	}
	return out, nil
}
