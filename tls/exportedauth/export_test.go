package exportedauth

import "crypto/x509"

// TestingPKI returns the CA's pool and the identities "client" and "server".
func TestingPKI() (roots *x509.CertPool, client, server Identity) {
	return pki().roots, pki().ids["client"], pki().ids["server"]
}

// TestingTime is when their certificates are valid.
var TestingTime = testTime
