// Package fips140 stands in for crypto/internal/fips140, of which the tests need
// one function.
package fips140

import "errors"

// Supported returns an error: with GODEBUG=fips140=only the FIPS module refuses
// AES-GCM with the nonces of TLS to any package but the standard crypto/tls, so
// the fork cannot run in that mode.
func Supported() error {
	return errors.New("the FIPS 140 module gives AES-GCM with TLS nonces to the standard crypto/tls only")
}
