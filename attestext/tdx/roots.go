package tdx

import (
	"crypto/x509"
	_ "embed"
	"errors"
	"sync"
)

// intelRootPEM is the "Intel SGX Root CA", copied from verify/trusted_root.pem of
// go-tdx-guest v0.3.1; Intel's recorded quote in testdata ends in it as well
// (SHA-256 of its DER 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3,
// valid until 2049-12-31). It is handed to go-tdx-guest rather than left to that
// module's own copy, because the module prints a line to standard output each time
// it falls back on its copy.
//
//go:embed intel_sgx_root_ca.pem
var intelRootPEM []byte

var intelRoots = sync.OnceValue(func() *x509.CertPool {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(intelRootPEM) {
		panic("tdx: embedded root certificate does not parse")
	}
	return pool
})

// IntelRoots returns a new pool that holds the one certificate that Intel's PKI
// for SGX and TDX begins with, "Intel SGX Root CA".
func IntelRoots() *x509.CertPool { return intelRoots().Clone() }

var errEmptyRoots = errors.New("pool of trusted roots is empty; leave it nil for Intel's root")

// trustedRoots returns the pool to verify against: roots, or Intel's for nil. A
// pool with nothing in it is an error, for it is what a file that failed to load
// leaves behind. CertPool does not tell its size, but it compares.
func trustedRoots(roots *x509.CertPool) (*x509.CertPool, error) {
	if roots == nil {
		return intelRoots(), nil
	}
	if roots.Equal(x509.NewCertPool()) {
		return nil, errEmptyRoots
	}
	return roots, nil
}
