// Package epoch issues and verifies epoch IDs (RFC 9334, section 10.3): values that
// nobody could know before a time, signed by whoever vouches for the time. Evidence
// that covers an epoch ID was made after that time.
//
// With one, evidence can be dated without trusting the clock of the machine that made
// it, which the host sets at will: an attester fetches an ID with [Issuer.ID], has it
// quoted beside its key (see [attester.KeyTier]), and a relying party that trusts the
// issuer's key knows how old the quote is at most ([Keys.Issued]). The issuer learns
// nothing of either, and all it can do wrong is to date an ID in the future of when
// it hands it out: to let old evidence pass for newer than it is.
package epoch

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// The layout of an epoch ID:
//
//	u64 seconds since 1970, big-endian ‖ 16 random bytes ‖ Ed25519 signature, 64 bytes
//
// The signature covers the label, a zero byte, and what is before it.
const (
	timeSize   = 8
	randomSize = 16
	signedSize = timeSize + randomSize

	// Size is that of an epoch ID, in bytes.
	Size = signedSize + ed25519.SignatureSize

	label = "atls epoch v1"

	// Leeway is how far in the future an ID may be, for clocks that differ.
	Leeway = time.Minute

	// maxTime bounds the time in an ID, far in the future and far from overflow.
	maxTime = 1 << 40
)

// An Issuer issues epoch IDs. Its methods may be called concurrently.
type Issuer struct {
	key ed25519.PrivateKey
	now func() time.Time
}

// NewIssuer returns an Issuer that signs with key. now returns the time; nil means
// time.Now.
func NewIssuer(key ed25519.PrivateKey, now func() time.Time) (*Issuer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("issue epoch IDs: no Ed25519 key")
	}
	if now == nil {
		now = time.Now
	}
	return &Issuer{key, now}, nil
}

// ID returns a new epoch ID, whose epoch begins now, cut to seconds.
func (i *Issuer) ID() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, Size), uint64(i.now().Unix()))
	b = b[:signedSize]
	rand.Read(b[timeSize:])
	return append(b, ed25519.Sign(i.key, toSign(b))...)
}

// Public returns the key that verifies the IDs.
func (i *Issuer) Public() ed25519.PublicKey { return i.key.Public().(ed25519.PublicKey) }

func toSign(b []byte) []byte {
	return append(append([]byte(label), 0), b[:signedSize]...)
}

// Keys are those of the issuers that a relying party trusts.
type Keys []ed25519.PublicKey

// Issued returns when the epoch of id began: id did not exist before. It fails unless
// one of the keys signed id, and where that is more than [Leeway] after now.
func (k Keys) Issued(id []byte, now time.Time) (time.Time, error) {
	if len(id) != Size {
		return time.Time{}, fmt.Errorf("verify epoch ID: %d bytes, want %d", len(id), Size)
	}
	signed := false
	for _, key := range k {
		signed = signed || len(key) == ed25519.PublicKeySize && ed25519.Verify(key, toSign(id), id[signedSize:])
	}
	if !signed {
		return time.Time{}, errors.New("verify epoch ID: no trusted issuer signed it")
	}
	seconds := binary.BigEndian.Uint64(id)
	if seconds > maxTime {
		return time.Time{}, errors.New("verify epoch ID: its time is out of range")
	}
	t := time.Unix(int64(seconds), 0)
	if t.After(now.Add(Leeway)) {
		return time.Time{}, fmt.Errorf("verify epoch ID: it is of the future, %v", t.UTC())
	}
	return t, nil
}
