// Package cryptotest stands in for crypto/internal/cryptotest, as far as the
// tests use it.
package cryptotest

import "testing"

// FetchModule skips the test: upstream's tests download BoringSSL and Wycheproof
// with it, and this project's tests reach no network. BoringSSL's runner is used
// from a local copy with -bogo-local-dir.
func FetchModule(t *testing.T, module, version string) string {
	t.Helper()
	t.Skipf("%s@%s is not downloaded by tests; see docs/FORK.md for -bogo-local-dir", module, version)
	return ""
}
