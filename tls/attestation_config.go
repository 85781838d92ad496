// Package tls is crypto/tls of one Go release, with remote attestation in the handshake of
// TLS 1.3 and after it. A program that replaces the import by this one works as before.
// With [Config.Attestation] it shows its peers what it runs, or has them show it before the
// first byte of application data moves: start with [AttestationConfig]. What came of it is
// in the [AttestationState] of a [ConnectionState].
//
// docs/MIGRATION.md is the way from crypto/tls, and docs/FORK.md says in what else this
// package differs from it, whose own comment follows.
package tls

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext"
)

// AttestationPolicy says what becomes of a peer that does not attest.
type AttestationPolicy int

const (
	// RequireAttestation refuses a peer that does not attest. It is the default.
	RequireAttestation AttestationPolicy = iota
	// RequestAttestation accepts a peer that does not attest; its
	// ConnectionState has no PeerAttestation. Evidence that a peer does send
	// must be acceptable all the same.
	RequestAttestation
)

// defaultAttestationTimeout bounds a call of an attester or a verifier.
const defaultAttestationTimeout = 10 * time.Second

// An AttestationConfig adds remote attestation to the handshake, as
// draft-fossati-tls-attestation-08 or draft-fossati-seat-early-attestation describes it,
// or after it; see Mode and Form. Each
// direction stands alone: a side attests if it has an Attester, and asks its peer to attest if it has a
// Verifier; a connection may do both.
//
// A connection that attests, in either direction, is never resumed: it sends no
// session ticket, keeps none, and offers none. See docs/SECURITY.md for what each
// setting does and does not guarantee.
//
// An AttestationConfig may be shared by Configs. It must not be changed after it
// has been used.
type AttestationConfig struct {
	// Mode says when this connection attests, InHandshake by default. The peer's must
	// be the same, except that an end on InHandshake that negotiates handshake records
	// answers there as well.
	//
	// In PostHandshake and Combined, Handshake includes an exchange of exported
	// authenticators: it returns, and Read, Write and CloseWrite move a byte, when
	// that has succeeded. An end that attests waits there for the peer's request, so
	// that each direction must be configured on both ends. AttestTimeout,
	// VerifyTimeout and 10 seconds bound the exchange together, if the handshake's
	// context or a deadline does not end it before.
	//
	// An exchange authenticates with the certificates of the handshake. A server may
	// leave its client's to the exchange: by ClientAuth NoClientCert it is not asked
	// for in the handshake, verified against ClientCAs when it comes, and then among
	// the PeerCertificates. VerifyConnection is called once the peer has been accepted; the
	// end that attests second has not done so by then.
	//
	// A QUICConn has no such mode; see package exportedauth.
	Mode AttestationMode

	// Form says how this connection attests in the handshake, where Mode has it do so,
	// FormTLSAttest by default. The peer's must be the same.
	Form AttestationForm

	// Carriage says what the authenticators travel in, CarriageAuto by default.
	Carriage AttestationCarriage

	// ClientFirst, in PostHandshake, has a server show its Evidence or result only to a
	// client that it has accepted: by its attestation, which the server then appraises
	// before it attests itself, or where it requires none by its certificate. It is an
	// error on a server that attests and neither requires attestation nor has ClientAuth
	// RequireAndVerifyClientCert. VerifyConnection has been called by then as well.
	//
	// A client agrees by ClientFirst to attest first where the server wants it, and so to
	// a server of which it knows the certificate alone. Without it such a server
	// is refused, by both ends and before either has shown anything. If false, which is
	// the default, the server attests first and the client holds back.
	//
	// It is about the exchange of the handshake. In the rounds of Conn.Reattest each end
	// answers as it is asked, since both have been accepted.
	ClientFirst bool

	// ReattestInterval has this side call Conn.Reattest so long after the handshake,
	// and so long after each round, as long as the connection is open. If zero, it
	// does not. The peer must agree to CarriagePostHandshake, or is refused.
	//
	// A connection whose round fails is closed, and Read and Write return why. It
	// cannot be held open by a peer that has stopped writing: such a peer does not
	// answer.
	ReattestInterval time.Duration

	// MinReattestInterval is how often this side attests anew, at most, for a peer that
	// asks for it after the handshake, where handshake records carry authenticators: once
	// in so long, and 32 times ahead of that. A request that comes sooner is not refused
	// but waits for its turn; a second request meanwhile ends the connection. If zero, it
	// is one second. It bounds one connection: see attestext/scheduler for all of them.
	MinReattestInterval time.Duration

	// Attester makes this side's Evidence. If nil, this side does not attest:
	// a server ignores a client's request, and a client offers nothing.
	//
	// It is called once per handshake, when the handshake secret exists and
	// before the Certificate message is written, and once for each exported
	// authenticator, for which it may be called concurrently.
	Attester attestext.Attester

	// Results holds Attestation Results about this side, which it presents to a
	// peer that trusts one of their verifiers: the passport model. If nil, there
	// are none. With an Attester as well, the side that is the server chooses
	// the model; see PreferResults.
	Results attestext.ResultsHolder

	// ResultsOnly has this side show Results and never Evidence: the Attester, if there is
	// one, is not called, and a peer that wants Evidence is told that there is none.
	// Results must then be set.
	ResultsOnly bool

	// Credentials lists what this side's Evidence comes with, in order of
	// preference. If nil, it is attestext.CertAttestation alone: an X.509
	// certificate with Evidence beside it. attestext.AttestationOnly is
	// refused unless AllowAttestationOnly is set. Results come beside a
	// certificate unless the list is attestext.AttestationOnly alone; the peer's
	// PeerCredentials must say the same, for results do not negotiate it.
	Credentials []attestext.CredentialKind

	// Binding is the rule by which this side's Evidence is bound to the
	// handshake, attestext.BindingHardened by default. The peer's PeerBinding
	// must be the same: the draft cannot negotiate it.
	Binding attestext.Binding

	// AttestedKey is this side's attested key, which must be inside the TEE.
	//
	// Where this side's credential is attestext.AttestationOnly it signs the
	// handshake; if nil, an ECDSA P-256 key is generated for each connection.
	//
	// Beside a certificate it must be nil if the certificate's own key is inside
	// the TEE. Otherwise the Evidence covers AttestedKey in place of the
	// certificate's key, and both keys sign the session, by the private
	// extension attested_key_proof. The handshake fails with a peer that does
	// not accept that (see PeerAttestedKey), and Binding must be
	// attestext.BindingHardened.
	AttestedKey crypto.Signer

	// Verifier appraises the peer's Evidence. If nil, the peer is not asked to
	// attest.
	//
	// It is called once per handshake, after the peer's chain and
	// CertificateVerify have been checked, with the challenge that this side
	// derived from its own secrets; with attestext.AttestationOnly it is
	// called before CertificateVerify, whose key it returns. Its verdict is in
	// the ConnectionState when VerifyConnection is called. InsecureSkipVerify
	// does not turn it off. It is called once for each exported authenticator of
	// the peer as well.
	Verifier attestext.Verifier

	// ResultsVerifier checks the Attestation Results that the peer presents: the
	// passport model. If nil, none are accepted. With a Verifier as well, either
	// will do. It is called as Verifier is; freshness is the lifetime of the
	// result.
	ResultsVerifier attestext.ResultsVerifier

	// PreferResults has a server choose the passport model where the client
	// offers both; by default it chooses Evidence. It has no meaning on a client.
	PreferResults bool

	// Peer says whether a peer that does not attest is accepted,
	// RequireAttestation by default. It has no meaning without a Verifier or a
	// ResultsVerifier. With
	// RequireAttestation no version below TLS 1.3 is negotiated.
	Peer AttestationPolicy

	// PeerCredentials lists what the peer's Evidence may come with, in order of
	// preference. If nil, it is attestext.CertAttestation alone. A server
	// whose client attests beside a certificate asks for that certificate and
	// verifies it, even if ClientAuth is NoClientCert; RequestClientCert and
	// RequireAnyClientCert leave it unverified only with AllowAttestationOnly.
	// A server whose ClientAuth requires a certificate takes no Evidence in
	// place of one.
	PeerCredentials []attestext.CredentialKind

	// PeerBinding is the rule that the peer's Evidence is checked by,
	// attestext.BindingHardened by default.
	//
	// WARNING: attestext.BindingDraft08 accepts Evidence that does not cover
	// the key of the peer's certificate.
	PeerBinding attestext.Binding

	// PeerAttestedKey accepts Evidence over a key other than the certificate's, if
	// that key signs the session as well.
	//
	// WARNING: such Evidence does not say where the certificate's key is. Whoever
	// holds that key and any genuine machine passes, unless the Verifier pins the
	// machine's identity.
	PeerAttestedKey bool

	// AllowAttestationOnly permits attestext.AttestationOnly in Credentials and
	// PeerCredentials.
	//
	// WARNING: Evidence in place of a certificate says what a peer runs and not
	// who it is: any genuine machine with the same measurement passes for any
	// other.
	AllowAttestationOnly bool

	// NonceSize is the size in bytes of the nonces that this side sends, 8 to
	// 64. If zero, it is 64 where a raw TEE report may come, which has room for
	// as much, and otherwise 32.
	NonceSize int

	// AttestTimeout and VerifyTimeout bound a call of Attester and Verifier. If
	// zero, each is 10 seconds. The handshake's context and Close end a call as
	// well; deadlines set by SetDeadline do not. A QUICConn waits for the call
	// in whichever method moved the handshake on.
	AttestTimeout time.Duration
	VerifyTimeout time.Duration

	// ExplainRefusals tells a peer by the alert more of why its Evidence is refused:
	// unknown_ca(48) where it is not genuine, in place of bad_certificate(42), and
	// certificate_expired(45) where its quote is too old or shows no age, in place of
	// access_denied(49). The drafts have the others. It has no meaning in a Form of the
	// early draft, which has one alert for all.
	ExplainRefusals bool

	// Trace is called at the stages of the handshake. If nil, nothing is.
	Trace *AttestationTrace

	// CodePoints are the extension types and alerts to use. If nil, they are
	// the defaults of attestext.CodePoints. The peer's must be the same.
	CodePoints *attestext.CodePoints
}

// validate reports a mistake in a. It is called at the start of each handshake.
func (a *AttestationConfig) validate() error {
	for _, list := range [][]attestext.CredentialKind{a.Credentials, a.PeerCredentials} {
		for _, k := range list {
			switch {
			case k != attestext.CertAttestation && k != attestext.AttestationOnly:
				return fmt.Errorf("unknown %v", k)
			case k == attestext.AttestationOnly && !a.AllowAttestationOnly:
				return errors.New("attestation-only is configured without AllowAttestationOnly: it does not say which machine answers")
			}
		}
	}
	for _, b := range []attestext.Binding{a.Binding, a.PeerBinding} {
		if b != attestext.BindingHardened && b != attestext.BindingDraft08 {
			return fmt.Errorf("unknown %v", b)
		}
	}
	if a.Peer != RequireAttestation && a.Peer != RequestAttestation {
		return fmt.Errorf("unknown AttestationPolicy %d", a.Peer)
	}
	if a.PeerAttestedKey && a.PeerBinding != attestext.BindingHardened {
		return errors.New("PeerAttestedKey needs the hardened PeerBinding: under the draft's rule evidence covers no key")
	}
	if a.AttestedKey != nil && a.Binding != attestext.BindingHardened && slices.Contains(credentials(a.Credentials), attestext.CertAttestation) {
		return errors.New("AttestedKey beside a certificate needs the hardened Binding: under the draft's rule evidence covers no key")
	}
	if a.NonceSize != 0 && (a.NonceSize < attestext.MinNonceSize || a.NonceSize > attestext.MaxChallengeSize) {
		return fmt.Errorf("NonceSize is %d, want %d to %d", a.NonceSize, attestext.MinNonceSize, attestext.MaxChallengeSize)
	}
	if a.AttestTimeout < 0 || a.VerifyTimeout < 0 {
		return errors.New("negative timeout")
	}
	if err := a.validateMode(); err != nil {
		return err
	}
	if err := a.validateForm(); err != nil {
		return err
	}
	return a.CodePoints.Validate()
}

// requires reports whether the peer must attest; a may be nil.
func (a *AttestationConfig) requires() bool {
	return a != nil && (a.Verifier != nil || a.ResultsVerifier != nil) && a.Peer == RequireAttestation
}

func (a *AttestationConfig) attestTimeout() time.Duration {
	if a.AttestTimeout == 0 {
		return defaultAttestationTimeout
	}
	return a.AttestTimeout
}

// defaultMinReattestInterval is about what a TEE makes quotes in.
const defaultMinReattestInterval = time.Second

func (a *AttestationConfig) minReattestInterval() time.Duration {
	if a.MinReattestInterval == 0 {
		return defaultMinReattestInterval
	}
	return a.MinReattestInterval
}

func (a *AttestationConfig) verifyTimeout() time.Duration {
	if a.VerifyTimeout == 0 {
		return defaultAttestationTimeout
	}
	return a.VerifyTimeout
}

// nonceSize returns the size of a nonce for Evidence of one of types.
func (a *AttestationConfig) nonceSize(types []attestext.EvidenceType) int {
	if a.NonceSize != 0 {
		return a.NonceSize
	}
	if slices.ContainsFunc(types, func(t attestext.EvidenceType) bool { return t.Format.MayBeReport() }) {
		return attestext.ReportDataSize
	}
	return 32
}

// credentials returns kinds or their default.
func credentials(kinds []attestext.CredentialKind) []attestext.CredentialKind {
	if kinds == nil {
		return []attestext.CredentialKind{attestext.CertAttestation}
	}
	return kinds
}

// resultsKind returns what results come with: they do not negotiate it.
func resultsKind(kinds []attestext.CredentialKind) attestext.CredentialKind {
	if len(kinds) == 1 {
		return kinds[0]
	}
	return attestext.CertAttestation
}

// evidenceTypes lists what is offered or can be served, in order of preference:
// by kind of credential first.
func evidenceTypes(kinds []attestext.CredentialKind, formats func(attestext.CredentialKind) []attestext.EvidenceFormat) []attestext.EvidenceType {
	var types []attestext.EvidenceType
	for _, k := range credentials(kinds) {
		for _, f := range formats(k) {
			types = append(types, attestext.EvidenceType{Kind: k, Format: f})
		}
	}
	return types
}
