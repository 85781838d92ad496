package attestext

import (
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
)

// Sizes of a challenge, in bytes. A nonce on the wire has 8 to 255; the Evidence
// formats of this module carry up to 64, and that is what is accepted.
const (
	MinNonceSize     = 8
	MaxNonceSize     = 255
	MaxChallengeSize = 64

	// ReportDataSize is the size of REPORTDATA in TDX and SEV-SNP evidence.
	ReportDataSize = 64

	// minBindingSize is the size of the shortest binding under the expat rules, and of
	// the shortest binder under BindingEarly: a SHA-256.
	minBindingSize = 32
)

// hardenedLabel begins the input of REPORTDATA under BindingHardened.
const hardenedLabel = "atls hardened v1"

// A Challenge is everything that Evidence must commit to for one direction of
// one handshake, or for one exported authenticator. The attesting side derives it to have Evidence made, and the
// relying party derives it again, from its own secrets, to have it checked.
//
// A Challenge must not be changed once it has been handed over.
type Challenge struct {
	// Model is BackgroundCheck or Passport. A passport has no nonce and no binder.
	Model Model
	// Role is that of the end that attests.
	Role Role
	// Binding is the rule in force on this side.
	Binding Binding
	// Kind is the credential that was negotiated.
	Kind CredentialKind
	// Nonce is the relying party's, as it was on the wire: 8 to 64 bytes. Under
	// the expat rules it is the certificate_request_context, of up to 255 bytes, and
	// under BindingEarly there is none.
	Nonce []byte
	// Binder is the channel binder, as long as Nonce. Where the rule does not use
	// it (see UsesBinder) it may be nil, and is there to explain a mismatch. Under
	// the expat rules it is the binding, and under BindingEarly the attestation
	// binder, 32 to 64 bytes: a hash that covers SPKI.
	Binder []byte
	// SPKI is the DER SubjectPublicKeyInfo of the TLS identity key that the
	// Evidence must cover. With AttestationOnly it is nil at the relying party,
	// for there the key comes out of the Evidence.
	SPKI []byte
}

// UsesBinder reports whether the rule calls for the channel binder in place of the
// nonce, so that Binder must be set. In the passport model it has no meaning.
func (c *Challenge) UsesBinder() bool {
	return c.Kind == CertAttestation || c.Binding != BindingDraft08
}

// Value returns what the Evidence must carry as its nonce: the channel binder
// for X.509 with attestation and under BindingHardened, the attestation binder under
// BindingEarly, the binding under the expat rules, the nonce itself for
// attestation-only Evidence under BindingDraft08 (draft-fossati-tls-attestation-08),
// nil in the passport model. The caller must not change it.
func (c *Challenge) Value() []byte {
	if c.Model == Passport {
		return nil
	}
	if c.UsesBinder() {
		return c.Binder
	}
	return c.Nonce
}

// Validate reports whether c is complete. Neither [Attest] nor [Appraise] goes on
// without it: there is no Evidence without its challenge.
func (c *Challenge) Validate() error {
	if c == nil {
		return errors.New("no challenge")
	}
	if c.Role != RoleClient && c.Role != RoleServer {
		return fmt.Errorf("challenge of unknown %v", c.Role)
	}
	if c.Binding != BindingHardened && c.Binding != BindingDraft08 && c.Binding != BindingEarly && !c.Binding.IsExpat() {
		return fmt.Errorf("challenge under unknown %v", c.Binding)
	}
	if c.Kind != CertAttestation && c.Kind != AttestationOnly {
		return fmt.Errorf("challenge for unknown %v", c.Kind)
	}
	if c.Kind == CertAttestation && len(c.SPKI) == 0 {
		return errors.New("challenge without the key of the certificate")
	}
	if c.Binding.IsExpat() && c.Kind != CertAttestation {
		return fmt.Errorf("challenge under %v for %v: an exported authenticator has a certificate", c.Binding, c.Kind)
	}
	if c.Binding == BindingEarly && c.Kind != CertAttestation {
		return fmt.Errorf("challenge under %v for %v: its binder covers the key of a certificate", c.Binding, c.Kind)
	}
	if c.Model == Passport {
		return nil
	}
	if c.Binding == BindingEarly {
		if n := len(c.Nonce); n != 0 {
			return fmt.Errorf("challenge under %v with a nonce of %d bytes, want none", c.Binding, n)
		}
		if n := len(c.Binder); n < minBindingSize || n > MaxChallengeSize {
			return fmt.Errorf("challenge with a binder of %d bytes, want %d to %d", n, minBindingSize, MaxChallengeSize)
		}
		return nil
	}
	if c.Binding.IsExpat() {
		if n := len(c.Nonce); n > MaxNonceSize {
			return fmt.Errorf("challenge with a request context of %d bytes, want at most %d", n, MaxNonceSize)
		}
		if n := len(c.Binder); n < minBindingSize || n > MaxChallengeSize {
			return fmt.Errorf("challenge with a binding of %d bytes, want %d to %d", n, minBindingSize, MaxChallengeSize)
		}
		return nil
	}
	if n := len(c.Nonce); n < MinNonceSize || n > MaxChallengeSize {
		return fmt.Errorf("challenge with a nonce of %d bytes, want %d to %d", n, MinNonceSize, MaxChallengeSize)
	}
	if c.UsesBinder() && len(c.Binder) != len(c.Nonce) {
		return fmt.Errorf("challenge with a binder of %d bytes for a nonce of %d", len(c.Binder), len(c.Nonce))
	}
	return nil
}

// ReportData returns the 64 bytes that a raw TDX or SEV-SNP report must carry.
//
// Under BindingHardened it is
//
//	SHA-512("atls hardened v1" ‖ 0x00 ‖ role ‖ channel_binder ‖ SHA-256(SPKI))
//
// so that it covers the session, the key and the direction. Under BindingDraft08,
// BindingEarly and BindingExpat it is [Challenge.Value], padded with zeros on the right and
// never cut; under BindingExpatSHA512 it is the SHA-512 of that.
//
// It fails where the challenge is incomplete, and in particular where the key is
// not known: a raw report cannot serve as attestation-only Evidence by itself.
func (c *Challenge) ReportData() ([ReportDataSize]byte, error) {
	var out [ReportDataSize]byte
	if err := c.Validate(); err != nil {
		return out, err
	}
	if c.Model == Passport {
		return out, errors.New("a passport challenge has no report data")
	}
	switch c.Binding {
	case BindingDraft08, BindingEarly, BindingExpat:
		copy(out[:], c.Value())
		return out, nil
	case BindingExpatSHA512:
		return sha512.Sum512(c.Value()), nil
	}
	if len(c.SPKI) == 0 {
		return out, errors.New("hardened report data needs the attested key")
	}
	key := sha256.Sum256(c.SPKI)
	h := sha512.New()
	h.Write([]byte(hardenedLabel))
	h.Write([]byte{0x00, byte(c.Role)})
	h.Write(c.Binder)
	h.Write(key[:])
	h.Sum(out[:0])
	return out, nil
}
