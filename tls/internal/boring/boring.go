// Package boring stands in for crypto/internal/boring in a toolchain without
// BoringCrypto, which is what this fork is built with.
package boring

import (
	"crypto/cipher"
	"errors"
)

// Enabled reports whether BoringCrypto handles cryptography. It does not.
const Enabled = false

var errDisabled = errors.New("boring: not available outside of the standard library")

// NewGCMTLS is not available.
func NewGCMTLS(cipher.Block) (cipher.AEAD, error) { return nil, errDisabled }

// NewGCMTLS13 is not available.
func NewGCMTLS13(cipher.Block) (cipher.AEAD, error) { return nil, errDisabled }

// Unreachable marks code that must not run with BoringCrypto.
func Unreachable() {}
