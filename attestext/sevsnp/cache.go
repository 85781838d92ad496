package sevsnp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext/internal/lru"
	"github.com/attestedtls/atls/attestext/internal/revocation"
)

// DefaultCacheSize is how many platforms a [Cache] remembers unless told otherwise.
// Each takes about 20,000 bytes.
const DefaultCacheSize = 1024

// A Cache remembers certificate chains and revocation lists that [Verify] has verified
// together. A report of the same chip at the same TCB, with the same certificates, roots
// and lists byte for byte, is then verified by one signature, its own. That the
// certificate is for the chip and the TCB in the report is compared each time.
//
// Only what was verified is remembered. Each time it is used, its certificates and a
// revocation list must be valid at that time, and no certificate on any list. Whatever
// does not verify with the Cache's help is verified as if there were none, so that it
// can speed up acceptance and never bring it about, and refusals cost more.
//
// A Cache is bounded, forgets what was not used longest, and is safe for concurrent
// use.
type Cache struct{ platforms *lru.Cache[*known] }

// NewCache returns a Cache of size platforms; 0 or less means [DefaultCacheSize].
func NewCache(size int) *Cache {
	if size <= 0 {
		size = DefaultCacheSize
	}
	return &Cache{lru.New[*known](size)}
}

// Stats returns how many reports c has verified, and how many it could not.
func (c *Cache) Stats() (hits, misses uint64) { return c.platforms.Stats() }

// known is a chain that was verified, and the revocation lists by its root: those that
// count, and the peer's where it can only revoke.
type known struct {
	leaf, ark, authority *x509.Certificate
	lists, peers         []*x509.RevocationList

	// What remember fills in.
	key                 *ecdsa.PublicKey // of the leaf
	notBefore, notAfter time.Time
}

// cacheKey is the digest of everything that a chain is verified with: the leaf, what
// the report says of the processor, the peer's certificates, roots, collateral, and the
// lists of listsFor.
func cacheKey(r *Report, l *leaf, c *Certificates, roots *Roots, collateral *Collateral, lists, peers []*x509.RevocationList) lru.Key {
	var head []byte
	head = binary.BigEndian.AppendUint32(head, r.Version)
	head = binary.BigEndian.AppendUint32(head, uint32(r.SigningKey))
	head = append(head, r.Family, r.Model, r.Stepping)
	parts := [][]byte{head, []byte(l.line), l.cert.Raw}
	add := func(certs []*x509.Certificate) {
		parts = append(parts, binary.BigEndian.AppendUint32(nil, uint32(len(certs))))
		for _, c := range certs {
			parts = append(parts, c.Raw)
		}
	}
	if c.ASK != nil {
		add([]*x509.Certificate{c.ASK})
	} else {
		add(nil)
	}
	add(roots.arks)
	add(roots.authorities)
	add(collateral.certificates())
	for _, lists := range [][]*x509.RevocationList{lists, peers} {
		parts = append(parts, binary.BigEndian.AppendUint32(nil, uint32(len(lists))))
		for _, l := range lists {
			parts = append(parts, l.Raw)
		}
	}
	return lru.Digest(parts...)
}

// verify verifies a report, or returns nil, which says nothing about it.
func (c *Cache) verify(key lru.Key, r *Report, l *leaf, now time.Time, skip bool) *Verified {
	if c == nil {
		return nil
	}
	return lru.Use(c.platforms, key, func(k *known) *Verified {
		if now.Before(k.notBefore) || now.After(k.notAfter) || !checkSignature(r.raw, k.key) {
			return nil
		}
		v := &Verified{report: *r, line: l.line, cspID: l.exts.CspID}
		switch err := k.checkRevocation(now); {
		case err == nil:
			v.collateral, v.issued = true, revocation.Newest(k.lists, now)
		case err != revocation.ErrNoList || !skip:
			return nil
		}
		return v
	})
}

// remember notes that the chain of k has been verified.
func (c *Cache) remember(key lru.Key, k *known) {
	if c == nil {
		return
	}
	public, ok := k.leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P384() {
		return
	}
	k.key, k.notBefore, k.notAfter = public, k.leaf.NotBefore, k.leaf.NotAfter
	for _, cert := range []*x509.Certificate{k.ark, k.authority} {
		if cert.NotBefore.After(k.notBefore) {
			k.notBefore = cert.NotBefore
		}
		if cert.NotAfter.Before(k.notAfter) {
			k.notAfter = cert.NotAfter
		}
	}
	c.platforms.Put(key, k)
}

// checkSignature checks the signature of a report: R and S are little-endian, of 72
// bytes each, over everything before them and with nothing but zeros behind.
func checkSignature(raw []byte, key *ecdsa.PublicKey) bool {
	if !zero(raw[signatureOffset+2*signatureNumberSize:]) {
		return false
	}
	digest := sha512.Sum384(raw[:signatureOffset])
	number := func(offset int) *big.Int {
		b := bytes.Clone(raw[offset:][:signatureNumberSize])
		slices.Reverse(b)
		return new(big.Int).SetBytes(b)
	}
	return ecdsa.Verify(key, digest[:], number(signatureOffset), number(signatureOffset+signatureNumberSize))
}
