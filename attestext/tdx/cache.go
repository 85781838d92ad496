package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"time"

	"github.com/attestedtls/atls/attestext/internal/lru"
)

// DefaultCacheSize is how many platforms a [Cache] remembers unless told otherwise.
// Each takes about 10,000 bytes.
const DefaultCacheSize = 1024

// A Cache remembers PCK certificate chains and collateral that [Verify] has verified
// together. A quote with the same chain, under the same roots and the same collateral
// byte for byte, revocation lists included, is then verified by two signatures: the
// quote's and the QE report's. Everything that is not about the chain and the
// collateral alone is compared for each quote: the quoting enclave, the TDX module and
// the TCB level.
//
// Only what was verified is remembered. Each time it is used, all its certificates and
// the collateral must be valid at that time, and no certificate on a revocation list.
// Whatever does not verify with the Cache's help is verified as if there were none, so
// that it can speed up acceptance and never bring it about, and refusals cost more.
//
// A Cache is bounded, forgets what was not used longest, and is safe for concurrent
// use. One serves any number of options, but does its work for one pool of roots at a
// time.
type Cache struct{ platforms *lru.Cache[*known] }

// NewCache returns a Cache of size platforms; 0 or less means [DefaultCacheSize].
func NewCache(size int) *Cache {
	if size <= 0 {
		size = DefaultCacheSize
	}
	return &Cache{lru.New[*known](size)}
}

// Stats returns how many quotes c has verified, and how many it could not.
func (c *Cache) Stats() (hits, misses uint64) { return c.platforms.Stats() }

// known is a platform that was verified.
type known struct {
	*platform
	// roots is the pool that it was verified under, and snapshot what was in it. A pool
	// can grow, and two pools that are equal may have different constraints.
	roots, snapshot *x509.CertPool
	// notBefore and notAfter bound the validity of all certificates.
	notBefore, notAfter time.Time
}

func cacheKey(raw []byte, collateral *Collateral) lru.Key {
	if collateral == nil {
		return lru.Digest(pckChain(raw))
	}
	return lru.Digest(pckChain(raw), collateral.digest[:])
}

// verify verifies a quote that walk has accepted, or returns nil, which says nothing
// about the quote.
func (c *Cache) verify(raw []byte, roots *x509.CertPool, opts *VerifyOptions, now time.Time) *Verified {
	if c == nil {
		return nil
	}
	return lru.Use(c.platforms, cacheKey(raw, opts.Collateral), func(k *known) *Verified {
		if !k.holds(roots, opts.Collateral, now) || !checkSignatures(raw, k.key) {
			return nil
		}
		v, err := conclude(raw, k.platform, opts, now)
		if err != nil {
			return nil
		}
		return v
	})
}

// remember notes that the chain of raw has been verified with opts at now.
func (c *Cache) remember(raw []byte, p *platform, roots *x509.CertPool, opts *VerifyOptions, now time.Time) {
	if c == nil {
		return
	}
	k := &known{platform: p, roots: roots, snapshot: roots.Clone()}
	certs := p.certs[:]
	anchor := func(leaf *x509.Certificate, intermediates ...*x509.Certificate) bool {
		pool := x509.NewCertPool()
		for _, i := range intermediates {
			pool.AddCert(i)
		}
		chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: pool, CurrentTime: now})
		if err != nil {
			return false
		}
		certs = append(certs, chains[0]...) // which ends in one of the pool's
		return true
	}
	if !anchor(p.certs[0], p.certs[1]) {
		return
	}
	if col := opts.Collateral; col != nil {
		if !anchor(col.tcbCerts[0]) || !anchor(col.qeCerts[0]) {
			return
		}
		for _, chain := range [][]*x509.Certificate{col.tcbCerts, col.qeCerts, col.crlCerts} {
			certs = append(certs, chain...)
		}
	}
	k.notBefore, k.notAfter = certs[0].NotBefore, certs[0].NotAfter
	for _, cert := range certs {
		if cert.NotBefore.After(k.notBefore) {
			k.notBefore = cert.NotBefore
		}
		k.notAfter = earliest(k.notAfter, cert.NotAfter)
	}
	if k.holds(roots, opts.Collateral, now) {
		c.platforms.Put(cacheKey(raw, opts.Collateral), k)
	}
}

// holds reports whether what was verified would be now.
func (k *known) holds(roots *x509.CertPool, c *Collateral, now time.Time) bool {
	if k.roots != roots || !k.snapshot.Equal(roots) || now.Before(k.notBefore) || now.After(k.notAfter) {
		return false
	}
	if c == nil {
		return true
	}
	return !onList(c.pckList, k.certs[0]) && !onList(c.rootList, k.certs[1]) &&
		!onList(c.rootList, c.tcbCerts[0]) && !onList(c.rootList, c.qeCerts[0])
}

// onList reports whether l has the serial number of cert. A date of revocation that
// is yet to come counts.
func onList(l *x509.RevocationList, cert *x509.Certificate) bool {
	for _, e := range l.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(cert.SerialNumber) == 0 {
			return true
		}
	}
	return false
}

// checkSignatures checks the two signatures of a quote that walk has accepted: that of
// the attestation key over header and report body, and that of the PCK certificate's
// key over the report of the quoting enclave; and that the latter vouches for the
// attestation key, by REPORTDATA = SHA-256(key ‖ QE authentication data) ‖ zeros.
func checkSignatures(raw []byte, pck *ecdsa.PublicKey) bool {
	signed, data := raw[:signatureSizeOffset], raw[signatureDataOffset:]
	signature, data := data[:signatureSize], data[signatureSize:]
	key, data := data[:attestationKeySize], data[attestationKeySize+certDataHeaderSize:]
	report, data := data[:qeReportSize], data[qeReportSize:]
	reportSignature, data := data[:signatureSize], data[signatureSize:]
	auth := data[qeAuthDataSizeSize:][:int(data[0])|int(data[1])<<8]

	var reportData [qeReportDataSize]byte
	h := sha256.New()
	h.Write(key)
	h.Write(auth)
	h.Sum(reportData[:0])
	if !bytes.Equal(report[qeReportDataOffset:][:qeReportDataSize], reportData[:]) {
		return false
	}
	attestationKey, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, key...))
	return err == nil && verifyP256(pck, report, reportSignature) && verifyP256(attestationKey, signed, signature)
}

// verifyP256 checks a signature r ‖ s over SHA-256(message).
func verifyP256(key *ecdsa.PublicKey, message, signature []byte) bool {
	digest := sha256.Sum256(message)
	const half = signatureSize / 2
	r, s := new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])
	return ecdsa.Verify(key, digest[:], r, s)
}
