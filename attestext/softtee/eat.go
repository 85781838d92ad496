package softtee

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/eat"
)

// EATProfile is the eat_profile of the tokens. The name is reserved and never resolves
// (RFC 2606).
const EATProfile = "https://softtee.invalid/insecure-eat"

// eatKeyID is what the tokens call the key that signs them.
const eatKeyID = "softtee (insecure)"

// EATOptions change what [NewEAT] makes. The zero value is the ordinary platform.
type EATOptions struct {
	// Seed chooses the key; any but the empty one is another key.
	Seed string
	// Machine chooses the device; any but the empty one is another, with the same key.
	Machine string
	// Debug has the token say that debugging is enabled.
	Debug bool
	// JSON has the tokens be JWTs, and not CWTs.
	JSON bool
	// Now returns the time of issue. nil means time.Now.
	Now func() time.Time
	// Modify changes the claims before they are signed. nil changes nothing.
	Modify func(t *eat.Token)
}

// EAT is a platform in software that attests by tokens (RFC 9711). Its methods may be
// called concurrently, unless the functions in its options may not.
//
// WARNING: what it signs proves nothing; see the package comment.
type EAT struct {
	opts EATOptions
	key  *ecdsa.PrivateKey
}

// NewEAT returns a platform; nil options are those of the zero value.
func NewEAT(opts *EATOptions) *EAT {
	e := &EAT{}
	if opts != nil {
		e.opts = *opts
	}
	if e.opts.Now == nil {
		e.opts.Now = time.Now
	}
	e.key = deriveKey(e.opts.Seed, "EAT")
	return e
}

// Token returns a token over nonce and the key spki, as [attester.TokenSource] has it. But
// for the time, the same arguments give the same bytes, in every process.
func (e *EAT) Token(_ context.Context, nonce, spki []byte) ([]byte, error) {
	ueid := eatUEID(e.opts.Machine)
	model := derive("", "EAT model")
	t := &eat.Token{
		Nonce: nonce, Confirmation: spki,
		UEID: ueid[:], HWModel: model[:4], OEMID: eatOEMID,
		DebugStatus: eat.DebugDisabledSinceBoot, Profile: EATProfile,
		Measurements: eatMeasurements(),
		IssuedAt:     e.opts.Now(),
		KeyID:        []byte(eatKeyID),
		JSON:         e.opts.JSON,
	}
	if e.opts.Debug {
		t.DebugStatus = eat.DebugEnabled
	}
	if e.opts.Modify != nil {
		e.opts.Modify(t)
	}
	return eat.SignToken(nil, deterministic{e.key}, t)
}

// eatOEMID is a number that the registry keeps for examples (RFC 5612).
const eatOEMID = "pen:32473"

// eatUEID returns the identity of a device: a random one (RFC 9711, section 4.2.1.1).
func eatUEID(machine string) (id [17]byte) {
	const random = 1
	d := derive(machine, "ueid")
	id[0] = random
	copy(id[1:], d[:])
	return id
}

// eatMeasurements returns the encoded claim: one measurement, in a content format for
// experiments (RFC 7252, section 12.3).
func eatMeasurements() []byte {
	digest := measure("EAT software")
	const experimental = "\x19\xff\xff" // 65535
	b := append([]byte("\x81\x82"+experimental), 0x58, byte(len(digest)))
	return append(b, digest[:]...)
}

// Attester returns an attester on e.
func (e *EAT) Attester() attestext.Attester {
	if e.opts.JSON {
		return attester.NewJWTs(e)
	}
	return attester.NewTokens(e)
}

// Key returns the key that tokens are verified with.
func (e *EAT) Key() eat.TokenKey {
	return eat.TokenKey{ID: []byte(eatKeyID), Key: crypto.PublicKey(&e.key.PublicKey)}
}

// KeyPEM returns Key in PEM, for a file of roots.
func (e *EAT) KeyPEM() []byte {
	b, err := e.Key().MarshalPEM()
	if err != nil {
		panic("softtee: " + err.Error())
	}
	return b
}

// EATPolicy returns a policy file, for package policy, that accepts the ordinary platform
// and no other measurement.
func EATPolicy() []byte {
	return fmt.Appendf(nil, `{
  "eat": {
    "measurements": ["%x"],
    "profile": ["%s"]
  }
}
`, sha256.Sum256(eatMeasurements()), EATProfile)
}
