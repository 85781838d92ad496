package tls

import (
	"errors"
	"fmt"
	"slices"

	"github.com/attestedtls/atls/attestext"
)

// An AttestationMode says when a connection attests.
type AttestationMode int

const (
	// InHandshake attests in the handshake, in the form that AttestationConfig.Form
	// names.
	InHandshake AttestationMode = iota

	// PostHandshake attests after a handshake of crypto/tls, and before the first
	// byte of application data: by exported authenticators (RFC 9261) with Evidence
	// that is bound to the connection's exporter (draft-fossati-seat-expat-03).
	PostHandshake

	// Combined attests in the handshake and again as PostHandshake does: the first
	// decides early, and the second covers the keys of the application data.
	Combined
)

// String returns the name that the command has for m.
func (m AttestationMode) String() string {
	switch m {
	case InHandshake:
		return "tls-attest"
	case PostHandshake:
		return "post-handshake"
	case Combined:
		return "combined"
	}
	return fmt.Sprintf("AttestationMode(%d)", int(m))
}

// An AttestationCarriage says what exported authenticators travel in, which RFC 9261
// leaves to the application.
type AttestationCarriage int

const (
	// CarriageAuto is in handshake records where both ends negotiated it, and else
	// CarriageLeading.
	CarriageAuto AttestationCarriage = iota

	// CarriageLeading is application data, ahead of any other: the one that a peer
	// on crypto/tls of the standard library speaks, with package exportedauth.
	// Nothing negotiates it, so both ends must be configured for it: one that is not
	// takes a request for data of its application.
	CarriageLeading

	// CarriagePostHandshake is handshake records under the application's keys, as of
	// KeyUpdate. The private extension authenticator_carriage negotiates it, and a
	// peer that does not is refused. It leaves the application data alone and serves
	// at any time, so that Reattest needs it; with InHandshake it has no other use.
	CarriagePostHandshake
)

// String returns the name that the command has for c.
func (c AttestationCarriage) String() string {
	switch c {
	case CarriageAuto:
		return "auto"
	case CarriageLeading:
		return "leading"
	case CarriagePostHandshake:
		return "post-handshake"
	}
	return fmt.Sprintf("AttestationCarriage(%d)", int(c))
}

// inHandshake and afterHandshake report when a attests; a may be nil.
func (a *AttestationConfig) inHandshake() bool {
	return a != nil && (a.Mode == InHandshake || a.Mode == Combined)
}

func (a *AttestationConfig) afterHandshake() bool {
	return a != nil && (a.Mode == PostHandshake || a.Mode == Combined)
}

func (a *AttestationConfig) asks() bool    { return a.Verifier != nil || a.ResultsVerifier != nil }
func (a *AttestationConfig) attests() bool { return a.attester() != nil || a.Results != nil }

// attester returns what makes this side's Evidence, or nil where it shows none.
func (a *AttestationConfig) attester() attestext.Attester {
	if a.ResultsOnly {
		return nil
	}
	return a.Attester
}

// asksAfterHandshake reports whether the peer is asked for an exported
// authenticator; a may be nil.
func (a *AttestationConfig) asksAfterHandshake() bool { return a.afterHandshake() && a.asks() }

// needsTLS13 reports whether no version below may be negotiated; a may be nil.
func (a *AttestationConfig) needsTLS13() bool { return a.requires() || a.afterHandshake() }

// attestValidate reports a mistake in Config.Attestation, which must not be nil.
func (c *Conn) attestValidate() error {
	a := c.config.Attestation
	if c.quic != nil && a.afterHandshake() {
		return fmt.Errorf("Mode %v on a QUICConn, which has no application data to go ahead of: call exportedauth.Exchange on the first stream, with the ExportKeyingMaterial of ConnectionState", a.Mode)
	}
	if c.quic != nil && a.needsCarriage() {
		return errors.New("Carriage post-handshake or ReattestInterval on a QUICConn, whose handshake messages must not carry authenticators (RFC 9001, section 4.4): call exportedauth.Exchange on a stream")
	}
	if err := a.validate(); err != nil {
		return err
	}
	if a.ClientFirst && !c.isClient && a.attests() && !a.requires() && c.config.ClientAuth != RequireAndVerifyClientCert {
		return errors.New("ClientFirst, and any client may see this server's evidence: require attestation by a Verifier, or a certificate by ClientAuth RequireAndVerifyClientCert")
	}
	return nil
}

// validateMode reports settings that do not go with the mode.
func (a *AttestationConfig) validateMode() error {
	switch a.Mode {
	case InHandshake, PostHandshake, Combined:
	default:
		return fmt.Errorf("unknown %v", a.Mode)
	}
	switch a.Carriage {
	case CarriageAuto, CarriageLeading, CarriagePostHandshake:
	default:
		return fmt.Errorf("unknown %v", a.Carriage)
	}
	only := slices.Contains(a.Credentials, attestext.AttestationOnly) || slices.Contains(a.PeerCredentials, attestext.AttestationOnly)
	twoKeys := a.AttestedKey != nil || a.PeerAttestedKey
	switch {
	case a.ResultsOnly && a.Results == nil:
		return errors.New("ResultsOnly without Results: this end has nothing to show")
	case a.ClientFirst && a.Mode != PostHandshake:
		return fmt.Errorf("ClientFirst in Mode %v, whose handshake shows the server's evidence before the client's: it is for post-handshake", a.Mode)
	case a.ReattestInterval < 0 || a.MinReattestInterval < 0:
		return errors.New("negative ReattestInterval or MinReattestInterval")
	case a.ReattestInterval > 0 && !a.asks():
		return errors.New("ReattestInterval, and this end does not ask for attestation")
	case a.ReattestInterval > 0 && a.Carriage == CarriageLeading:
		return fmt.Errorf("ReattestInterval with Carriage %v, which is over when the application begins", a.Carriage)
	}
	if !a.afterHandshake() {
		switch {
		case a.Carriage == CarriageLeading:
			return fmt.Errorf("Carriage %v is of exported authenticators, and Mode %v has none", a.Carriage, a.Mode)
		case a.needsCarriage() && (only || twoKeys):
			return errors.New("re-attestation with attestation-only or two keys: its evidence covers the key of a certificate")
		}
		return nil
	}
	switch {
	case !a.asks() && !a.attests():
		return fmt.Errorf("Mode %v, and this end neither attests nor asks for attestation: set an Attester, a Verifier or their like", a.Mode)
	case a.attester() != nil && a.Results != nil:
		return fmt.Errorf("both Attester and Results in Mode %v: an exported authenticator cannot say which model is wanted", a.Mode)
	case a.Verifier != nil && a.ResultsVerifier != nil:
		return fmt.Errorf("both Verifier and ResultsVerifier in Mode %v: an exported authenticator cannot say which model is wanted", a.Mode)
	case only:
		return fmt.Errorf("attestation-only in Mode %v: an exported authenticator has a certificate", a.Mode)
	case twoKeys:
		return fmt.Errorf("AttestedKey or PeerAttestedKey in Mode %v: the binding of an exported authenticator covers the certificate's key", a.Mode)
	case a.requests() && a.Carriage == CarriageLeading:
		return fmt.Errorf("RequestAttestation with Carriage %v: nothing tells a peer that does not attest from one that does", a.Carriage)
	}
	if a.Mode == PostHandshake {
		switch {
		case a.Binding != attestext.BindingHardened || a.PeerBinding != attestext.BindingHardened:
			return errors.New("Binding or PeerBinding in Mode post-handshake: its binding is that of draft-fossati-seat-expat, leave them zero")
		case a.NonceSize != 0:
			return errors.New("NonceSize in Mode post-handshake: its requests have a context of 32 bytes")
		}
	}
	return nil
}

// offersCarriage and needsCarriage report whether handshake records are to carry
// authenticators, if the peer agrees and at any rate.
func (a *AttestationConfig) offersCarriage() bool {
	return a.needsCarriage() || a.afterHandshake() && a.Carriage != CarriageLeading
}

func (a *AttestationConfig) needsCarriage() bool {
	return a.Carriage == CarriagePostHandshake || a.ReattestInterval > 0
}

// whyCarriage says what a peer is refused for that does not negotiate it.
func (a *AttestationConfig) whyCarriage() string {
	if a.ReattestInterval > 0 {
		return "ReattestInterval is set"
	}
	return "Carriage is post-handshake"
}

// requests reports whether a peer is asked and need not attest.
func (a *AttestationConfig) requests() bool { return a.asks() && a.Peer == RequestAttestation }
