// Package binding compares what Evidence carries with what a Challenge calls for. It
// is the one place where that is done, in constant time, and where a mismatch is
// explained.
package binding

import (
	"crypto/subtle"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/eat"
)

const op = "check binding"

func unbound(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrBinding, op, format, args...)
}

// Equal compares in constant time.
func Equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }

// Check compares verified evidence with what c calls for: isAbout reports, in constant
// time, whether the evidence carries the report data want, or a hash of it. An error
// says which rule, role or input the evidence was made with, where that can be told.
func Check(isAbout func(want [attestext.ReportDataSize]byte) bool, c *attestext.Challenge) error {
	want, err := c.ReportData()
	if err != nil {
		return &attestext.Error{Class: attestext.ErrBinding, Op: op, Err: err}
	}
	if isAbout(want) {
		return nil
	}
	return explain(isAbout, c)
}

// explain says what the evidence was made for, if it is something that goes with c's
// secrets but not with c. Everything in c is this side's own, so that an error
// gives nothing away that the peer did not know to put into its quote.
func explain(isAbout func([attestext.ReportDataSize]byte) bool, c *attestext.Challenge) error {
	matches := func(binding attestext.Binding, role attestext.Role) bool {
		other := *c
		other.Binding, other.Role = binding, role
		rd, err := other.ReportData()
		return err == nil && isAbout(rd)
	}
	otherRole := attestext.RoleClient
	if c.Role == attestext.RoleClient {
		otherRole = attestext.RoleServer
	}
	otherBinding := map[attestext.Binding]attestext.Binding{
		attestext.BindingHardened:    attestext.BindingDraft08,
		attestext.BindingDraft08:     attestext.BindingHardened,
		attestext.BindingExpat:       attestext.BindingExpatSHA512,
		attestext.BindingExpatSHA512: attestext.BindingExpat,
	}[c.Binding]
	var nonce [attestext.ReportDataSize]byte
	copy(nonce[:], c.Nonce)
	switch {
	case matches(otherBinding, c.Role):
		return unbound("evidence follows the %v rule, this side is configured for %v", otherBinding, c.Binding)
	case matches(attestext.BindingHardened, otherRole):
		if c.Binding != attestext.BindingHardened {
			return unbound("evidence was made for the %v role under the hardened rule, the peer is the %v and this side is configured for %v", otherRole, c.Role, c.Binding)
		}
		return unbound("evidence was made for the %v role, the peer is the %v", otherRole, c.Role)
	case len(c.Nonce) != 0 && isAbout(nonce):
		return unbound("evidence covers the nonce, and not the channel binder that stands for this session")
	case isAbout([attestext.ReportDataSize]byte{}):
		return unbound("evidence covers nothing: its report data is zero")
	}
	return unbound("report data is of another session or another key")
}

// CheckBundle compares a key attestation, the platform evidence that vouches for its
// signer, and the epoch ID that came with them, nil if there is none, with c. isAbout
// reports, in constant time, whether the platform evidence carries that report data.
//
// CheckBundle returns what the platform evidence shows of its age; that an epoch ID is
// genuine, and that an age will do, is for the caller to say.
func CheckBundle(kat *eat.KAT, isAbout func([attestext.ReportDataSize]byte) bool, epoch []byte, c *attestext.Challenge) (eat.Freshness, error) {
	if err := checkKAT(kat, c); err != nil {
		return eat.Undated, err
	}
	freshness, covers := eat.FreshnessOf(kat.KAKPub, isAbout, c.Value(), epoch)
	switch {
	case !covers && epoch != nil:
		return eat.Undated, unbound("platform evidence does not cover the key that signed the key attestation, or not the epoch ID that came with it")
	case !covers:
		return eat.Undated, unbound("platform evidence does not cover the key that signed the key attestation, or was made for another session")
	}
	return freshness, nil
}

func checkKAT(kat *eat.KAT, c *attestext.Challenge) error {
	const what = "key attestation"
	if err := checkNonce(what, kat.Challenge, c); err != nil {
		return err
	}
	return checkKey(what, kat.TIK, c)
}

// CheckToken compares an EAT with c: its nonce, and the key that it names. Under
// BindingHardened, and in place of a certificate, it has to name one. Otherwise the nonce
// alone may be bound, as in a raw report; a key that the token names must be the
// certificate's all the same.
//
// A token says nothing of the role: the binder of each direction stands for it.
func CheckToken(t *eat.Token, c *attestext.Challenge) error {
	const what = "token"
	if err := checkNonce(what, t.Nonce, c); err != nil {
		return err
	}
	if len(t.Confirmation) != 0 {
		return checkKey(what, t.Confirmation, c)
	}
	if c.Binding == attestext.BindingHardened || c.Kind == attestext.AttestationOnly {
		return unbound("token names no key (cnf), and has to name the TLS key: %v, %v", c.Kind, c.Binding)
	}
	return nil
}

func checkNonce(what string, nonce []byte, c *attestext.Challenge) error {
	if want := c.Value(); len(want) != 0 && Equal(nonce, want) {
		return nil
	}
	switch {
	case c.Binding == attestext.BindingHardened && Equal(nonce, c.Nonce):
		return unbound("%s follows the draft-08 rule (the bare nonce), this side is configured for hardened", what)
	case len(c.Binder) != 0 && Equal(nonce, c.Binder):
		return unbound("%s follows the hardened rule (the channel binder), this side is configured for %v", what, c.Binding)
	}
	return unbound("%s is of another session", what)
}

func checkKey(what string, tik []byte, c *attestext.Challenge) error {
	if len(c.SPKI) != 0 && !Equal(tik, c.SPKI) {
		return unbound("%s is for another key than the peer's certificate has", what)
	}
	return nil
}
