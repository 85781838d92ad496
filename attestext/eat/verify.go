package eat

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/veraison/go-cose"
)

// A TokenKey is a key whose tokens are trusted: its holder is believed whatever they say,
// the identity of the device included.
type TokenKey struct {
	// ID is what tokens have to call the key. Empty is whatever they call it, or nothing.
	ID []byte
	// Key is on P-256, P-384 or Ed25519. Each is used with one algorithm alone: ES256,
	// ES384 or EdDSA.
	Key crypto.PublicKey
}

// PEMTokenKey is the type of a PEM block with the SubjectPublicKeyInfo of a TokenKey, in
// files of roots. Its header may have the ID, in hexadecimal:
//
//	-----BEGIN EAT PUBLIC KEY-----
//	Key-ID: 6b6579
//
// The type differs from PUBLIC KEY, for to trust somebody's wrappers is not to believe
// what they say of themselves.
const PEMTokenKey = "EAT PUBLIC KEY"

const pemKeyID = "Key-ID"

// MarshalPEM returns a block that [ParseTokenKey] reads.
func (k TokenKey) MarshalPEM() ([]byte, error) {
	if err := k.check(); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(k.Key)
	if err != nil {
		return nil, err
	}
	block := &pem.Block{Type: PEMTokenKey, Bytes: der}
	if len(k.ID) != 0 {
		block.Headers = map[string]string{pemKeyID: hex.EncodeToString(k.ID)}
	}
	return pem.EncodeToMemory(block), nil
}

// ParseTokenKey reads a block of the type PEMTokenKey.
func ParseTokenKey(block *pem.Block) (TokenKey, error) {
	fail := func(err error) (TokenKey, error) {
		return TokenKey{}, fmt.Errorf("parse key of EATs: %w", err)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return fail(err)
	}
	k := TokenKey{Key: pub}
	for name, value := range block.Headers {
		if name != pemKeyID {
			return fail(fmt.Errorf("unknown header %q", name))
		}
		if k.ID, err = hex.DecodeString(value); err != nil || len(k.ID) == 0 {
			return fail(fmt.Errorf("%s %q is not in hexadecimal", pemKeyID, value))
		}
	}
	if err := k.check(); err != nil {
		return fail(err)
	}
	return k, nil
}

func (k TokenKey) check() error {
	_, _, _, err := curveOf(k.Key)
	return err
}

// TokenOptions say what a token is verified against. VerifyToken does not change them; the
// same options serve concurrent calls.
type TokenOptions struct {
	// Keys are whose tokens are trusted. None is an error.
	Keys []TokenKey
	// Now is the time at which the token must be valid. Zero means the current time.
	Now time.Time
}

// TokenLeeway is how far a token may be of the future, for clocks that differ.
const TokenLeeway = time.Minute

// A VerifiedToken is a token that somebody who is trusted has signed and that is valid.
// Only [VerifyToken] makes one that is not empty. Its methods may be called concurrently,
// and what they return must not be changed.
type VerifiedToken struct {
	token Token
	key   [sha256.Size]byte
}

const opVerifyToken = "verify EAT"

// VerifyToken checks that one of the keys of opts signed t, with the one algorithm of that
// key, and that t is valid at the time: not before nbf, not at or after exp, and not before
// iat. It decides nothing else: t may have any nonce, name any key, and say anything.
//
// The classes of errors are
//
//   - [attestext.ErrSignature]: no key of opts signed t, or t is not valid now.
//   - [attestext.ErrPolicy]: t is addressed to an audience (aud), and nobody here has a
//     name (RFC 8392, section 3.1.3).
//   - [attestext.ErrUnavailable]: nobody is trusted.
//   - [attestext.ErrMalformed]: t does not come from [ParseToken].
func VerifyToken(t *Token, opts *TokenOptions) (*VerifiedToken, error) {
	if t == nil {
		return nil, attestext.Errorf(attestext.ErrMalformed, opVerifyToken, "no token")
	}
	if opts == nil || len(opts.Keys) == 0 {
		return nil, attestext.Errorf(attestext.ErrUnavailable, opVerifyToken, "nobody's tokens are trusted: supply the keys of their signers")
	}
	// The fields of t are the caller's; those of the bytes that were parsed count.
	fresh, m, err := parseToken(t.raw)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: opVerifyToken, Err: err}
	}
	pub, err := m.signedBy(opts.Keys)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrSignature, Op: opVerifyToken, Err: err}
	}
	now := opts.Now
	if now.IsZero() {
		now = time.Now()
	}
	if err := fresh.checkTime(now); err != nil {
		return nil, &attestext.Error{Class: attestext.ErrSignature, Op: opVerifyToken, Err: err}
	}
	for _, c := range fresh.Other {
		if c.Label == claimAud {
			return nil, attestext.Errorf(attestext.ErrPolicy, opVerifyToken, "token is for an audience, and this side has no name")
		}
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opVerifyToken, Err: err}
	}
	return &VerifiedToken{*fresh, sha256.Sum256(der)}, nil
}

// signedBy returns which of keys signed m.
func (m *message) signedBy(keys []TokenKey) (crypto.PublicKey, error) {
	named, usable := false, false
	for _, k := range keys {
		if len(k.ID) != 0 && !bytes.Equal(k.ID, m.kid) {
			continue
		}
		named = true
		c, _, _, err := curveOf(k.Key)
		if err != nil || c.alg != m.alg {
			continue
		}
		usable = true
		v, err := cose.NewVerifier(cose.Algorithm(c.alg), k.Key)
		if err == nil && m.verify(v) == nil {
			return k.Key, nil
		}
	}
	switch {
	case !named:
		return nil, fmt.Errorf("no trusted key has the ID %.32q", m.kid)
	case !usable:
		return nil, fmt.Errorf("algorithm %d is not that of a trusted key", m.alg)
	}
	return nil, errors.New("no trusted key made the signature")
}

func (t *Token) checkTime(now time.Time) error {
	switch {
	case !t.Expires.IsZero() && !now.Before(t.Expires):
		return fmt.Errorf("token expired at %v", t.Expires.Format(time.RFC3339))
	case t.NotBefore.After(now.Add(TokenLeeway)):
		return fmt.Errorf("token is not valid before %v", t.NotBefore.Format(time.RFC3339))
	case t.IssuedAt.After(now.Add(TokenLeeway)):
		return fmt.Errorf("token was issued in the future, at %v", t.IssuedAt.Format(time.RFC3339))
	}
	return nil
}

// Token returns all that the token says.
func (v *VerifiedToken) Token() *Token { return &v.token }

// Signer is the SHA-256 of the DER SubjectPublicKeyInfo of the key that signed it.
func (v *VerifiedToken) Signer() [sha256.Size]byte { return v.key }

// Profile returns eat_profile, as in [Token].
func (v *VerifiedToken) Profile() string { return v.token.Profile }

// DebugStatus returns dbgstat by the name that the RFC has for JSON, empty if there is none.
func (v *VerifiedToken) DebugStatus() string { return v.token.DebugStatus.String() }

// UEID returns the device, nil if there is none.
func (v *VerifiedToken) UEID() []byte { return v.token.UEID }

// OEMID returns who made the device, as in [Token].
func (v *VerifiedToken) OEMID() string { return v.token.OEMID }

// HardwareModel returns the model of the device, nil if there is none.
func (v *VerifiedToken) HardwareModel() []byte { return v.token.HWModel }

// Measurements returns the claim of that name in CBOR, nil if there is none.
func (v *VerifiedToken) Measurements() []byte { return v.token.Measurements }

// IssuedAt returns iat, zero if there is none.
func (v *VerifiedToken) IssuedAt() time.Time { return v.token.IssuedAt }

// Submods returns the names of the submodules, as [Token.SubmodNames] does.
func (v *VerifiedToken) Submods() []string { return v.token.submodNames }

// Claim returns the encoded value of a claim that is not read here, by its number; nil if
// there is none.
func (v *VerifiedToken) Claim(label int64) []byte {
	for _, c := range v.token.Other {
		if c.Label == label {
			return c.Value
		}
	}
	return nil
}
