// Package epoch issues and verifies epoch IDs (RFC 9334, section 10.3): values that
// nobody could know before a time, signed by whoever vouches for the time. Evidence
// that covers an epoch ID was made after that time.
//
// With one, evidence can be dated without trusting the clock of the machine that made
// it, which the host sets at will: an attester gets an ID by a [Client], has it
// quoted beside its key (see attester.KeyTier), and a relying party that trusts the
// issuer's key knows how old the quote is at most ([Keys.Issued]). The issuer learns
// nothing of either, and all it can do wrong is to date an ID in the future of when
// it hands it out: to let old evidence pass for newer than it is.
package epoch

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// The layout of an epoch ID:
//
//	u64 seconds since 1970, big-endian ‖ 16 random bytes ‖ Ed25519 signature, 64 bytes
//
// The signature covers the label "atls epoch v1", a zero byte, and what is before it.
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

// PEMType is the type of PEM blocks that hold an issuer's key, as a DER
// SubjectPublicKeyInfo. It is not PUBLIC KEY, so that a key that is trusted with the time
// is trusted with nothing else.
const PEMType = "EPOCH ISSUER KEY"

// MarshalPEM returns a block with that key, which [Keys.AddPEM] reads.
func (i *Issuer) MarshalPEM() []byte {
	der, err := x509.MarshalPKIXPublicKey(i.Public())
	if err != nil {
		panic("epoch: " + err.Error()) // an Ed25519 key can be marshalled
	}
	return pem.EncodeToMemory(&pem.Block{Type: PEMType, Bytes: der})
}

func toSign(b []byte) []byte {
	return append(append([]byte(label), 0), b[:signedSize]...)
}

// Keys are those of the issuers that a relying party trusts.
type Keys []ed25519.PublicKey

// AddPEM adds what a block of type PEMType holds.
func (k *Keys) AddPEM(block *pem.Block) error {
	if block.Type != PEMType {
		return fmt.Errorf("a PEM block %q is no %s", block.Type, PEMType)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("%s: %w", PEMType, err)
	}
	public, ok := key.(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("%s: epoch IDs are signed with Ed25519, not with a %T", PEMType, key)
	}
	*k = append(*k, public)
	return nil
}

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
	t, err := Claimed(id)
	if err != nil {
		return time.Time{}, fmt.Errorf("verify epoch ID: %w", err)
	}
	if t.After(now.Add(Leeway)) {
		return time.Time{}, fmt.Errorf("verify epoch ID: it is of the future, %v", t.UTC())
	}
	return t, nil
}

// Claimed returns when the epoch of id began by its own word, for which nobody vouches;
// see [Keys.Issued].
func Claimed(id []byte) (time.Time, error) {
	if len(id) != Size {
		return time.Time{}, fmt.Errorf("%d bytes, want %d", len(id), Size)
	}
	seconds := binary.BigEndian.Uint64(id)
	if seconds > maxTime {
		return time.Time{}, errors.New("its time is out of range")
	}
	return time.Unix(int64(seconds), 0), nil
}
