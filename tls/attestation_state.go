package tls

import (
	"context"
	"crypto"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/keyschedule"
)

// AttestationState is the part of a ConnectionState that attestation adds.
type AttestationState struct {
	// PeerAttestation is the proof that the peer's Evidence was appraised and
	// accepted in this handshake, or after it. It is nil if the peer did not attest, which
	// with RequireAttestation never happens on an established connection.
	PeerAttestation *attestext.Result

	// PeerHandshakeAttestation is, under Combined, the proof of what was accepted in
	// the handshake itself, where PeerAttestation is of the exchange after it.
	PeerHandshakeAttestation *attestext.Result

	// LocalAttestation is what the Evidence that this side sent was made for,
	// the challenge included; nil if this side did not attest. The peer's
	// verdict on it shows only in that the handshake went on.
	LocalAttestation *attestext.AttestRequest

	// RequestedAttestation is what the peer was asked for and agreed to, the
	// challenge included. It says nothing about what came; it is there for logs.
	RequestedAttestation *attestext.AttestRequest

	// Reattestations counts the rounds of Conn.Reattest that succeeded. The fields
	// above are those of the last one, except PeerHandshakeAttestation. After a round
	// that failed, PeerAttestation is nil.
	Reattestations int

	// TicketsReceived counts the session tickets that the peer sent since the
	// handshake. Where attestation was negotiated they were dropped.
	TicketsReceived int
}

// attestConnState is what a Conn keeps for attestation. It is protected as the
// other results of the handshake are: constant once the handshake is complete,
// but for tickets.
type attestConnState struct {
	// cancels end the calls of attesters and verifiers that are under way.
	cancels attestCancels

	exchanging bool // authenticators come before the handshake is complete; guarded by Conn.in
	records    bool // handshake records carry authenticators
	live       attestLive

	exporter *keyschedule.HandshakeExporterSecret
	self     attestDirection  // this side attests
	peer     attestDirection  // the peer attests
	peerKey  crypto.PublicKey // with attestation-only

	// For attested_key_proof: whether the peer accepts it, and the hash of the
	// messages before the peer's Certificate.
	keyProofOffered   bool
	beforeCertificate []byte

	certificate *Certificate // that this side sent, if it did

	tickets atomic.Int32 // received; written by whoever reads
}

// reset forgets a handshake before this one.
func (s *attestConnState) reset() {
	s.exporter, s.self, s.peer, s.peerKey = nil, attestDirection{}, attestDirection{}, nil
	s.keyProofOffered, s.beforeCertificate = false, nil
	s.certificate, s.records = nil, false
}

// attestDirection is one direction of attestation on one connection.
type attestDirection struct {
	offered          []attestext.EvidenceType     // by the client, in ClientHello
	offeredVerifiers []attestext.VerifierIdentity // by the client, in ClientHello
	negotiated       bool
	model            attestext.Model
	selected         attestext.EvidenceType       // as it stands on the wire; in the passport model its Kind
	format           attestext.EvidenceFormat     // in background check
	verifier         attestext.VerifierIdentity   // in the passport model
	nonce            []byte                       // in background check
	base             *keyschedule.AttestationBase // in a form of the early draft
	request          *attestext.AttestRequest     // once the challenge is known
	evidence         []byte
	keyProof         []byte            // as received
	appraised        *attestext.Result // before the peer has proven possession of its key
	result           *attestext.Result
}

// selectEvidence notes that Evidence of type t was agreed on, made in format f.
func (d *attestDirection) selectEvidence(t attestext.EvidenceType, f attestext.EvidenceFormat) {
	d.negotiated, d.model, d.selected, d.format = true, attestext.BackgroundCheck, t, f
}

// selectResult notes that a result by v was agreed on.
func (d *attestDirection) selectResult(v attestext.VerifierIdentity, kind attestext.CredentialKind) {
	d.negotiated, d.model, d.selected, d.verifier = true, attestext.Passport, attestext.EvidenceType{Kind: kind}, v
}

// attestationOnly reports whether Evidence takes the place of the certificate.
func (d *attestDirection) attestationOnly() bool {
	return d.negotiated && d.selected.Kind == attestext.AttestationOnly
}

// attestState returns what goes into a ConnectionState; handshakeMutex is held. A
// handshake that failed has no result, whatever it had got to.
func (c *Conn) attestState() AttestationState {
	s := &c.attest
	state := AttestationState{
		PeerAttestation:      s.peer.result,
		LocalAttestation:     s.self.request,
		RequestedAttestation: s.peer.request,
		TicketsReceived:      int(s.tickets.Load()),
	}
	if v := s.live.verdict.Load(); v != nil {
		state.PeerAttestation, state.RequestedAttestation = v.result, v.request
	}
	if req := s.live.attested.Load(); req != nil {
		state.LocalAttestation = req
	}
	state.Reattestations = int(s.live.rounds.Load())
	if c.handshakeErr != nil || s.live.failure.Load() != nil {
		state.PeerAttestation = nil
	} else if c.config.Attestation.afterHandshake() {
		state.PeerHandshakeAttestation = s.peer.appraised
	}
	return state
}

// attestNoResumption reports whether this connection must neither resume nor be
// resumed: a PSK handshake carries no Certificate and so no Evidence. A client
// decides by its Config, for it offers before it knows; a server by what was
// negotiated, so that clients that do not attest resume as ever.
func (c *Conn) attestNoResumption() bool {
	a := c.config.Attestation
	if a == nil {
		return false
	}
	return c.isClient || a.requires() || a.afterHandshake() || c.attest.records || c.attest.self.negotiated || c.attest.peer.negotiated
}

// attestTicket counts a session ticket that a client received, and reports
// whether to drop it.
func (c *Conn) attestTicket() bool {
	c.attest.tickets.Add(1)
	return c.attestNoResumption()
}

// attestCancels is a set of contexts that Close ends.
type attestCancels struct {
	mu     sync.Mutex
	set    []*context.CancelFunc
	room   [2]*context.CancelFunc // for set, which rarely needs more
	closed bool                   // Close was called
	ending bool                   // attestEnd closes the connection
	timer  *time.Timer            // of the next round of re-attestation
}

// attestCall returns a context for a call of an attester or a verifier, which Close
// ends as well.
func (c *Conn) attestCall(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	calls := &c.attest.cancels
	calls.mu.Lock()
	defer calls.mu.Unlock()
	if calls.closed {
		cancel()
	}
	if calls.set == nil {
		calls.set = calls.room[:0]
	}
	calls.set = append(calls.set, &cancel)
	return ctx, func() {
		calls.mu.Lock()
		defer calls.mu.Unlock()
		calls.set = slices.DeleteFunc(calls.set, func(f *context.CancelFunc) bool { return f == &cancel })
		cancel()
	}
}

// attestClose ends what waits for an attester or a verifier when the connection is
// closed. It reports whether the connection is to be left to attestEnd, which says to the
// peer why, and closes it soon.
func (c *Conn) attestClose() (ending bool) {
	calls := &c.attest.cancels
	calls.mu.Lock()
	defer calls.mu.Unlock()
	calls.closed = true
	if calls.timer != nil {
		calls.timer.Stop()
	}
	for _, cancel := range calls.set {
		(*cancel)()
	}
	if c.attest.live.writing.Load() > 0 { // or Close would wait for a peer that does not read
		c.SetWriteDeadline(time.Now().Add(alertTime))
	}
	if calls.ending {
		time.AfterFunc(3*alertTime, func() { c.conn.Close() }) // if a deadline of the application's holds it up
	}
	return calls.ending
}

// attestFailed keeps that a round of re-attestation has failed, unless one had before, and
// reports whether this side is to end the connection: unless Close has.
func (c *Conn) attestFailed(f *attestFailure) (first, end bool) {
	calls := &c.attest.cancels
	calls.mu.Lock()
	defer calls.mu.Unlock()
	if !c.attest.live.failure.CompareAndSwap(nil, f) {
		return false, false
	}
	calls.ending = !calls.closed
	return true, calls.ending
}

// attestClosed reports whether Close was called.
func (c *Conn) attestClosed() bool {
	calls := &c.attest.cancels
	calls.mu.Lock()
	defer calls.mu.Unlock()
	return calls.closed
}

// attestGate is the last line: it returns an error unless the handshake ended
// with the appraisal that Config.Attestation and the negotiation call for.
// Neither Read nor Write moves a byte before it does, nor after a round of
// re-attestation has failed; what had come before a peer that closed fell silent may
// still be read.
func (c *Conn) attestGate(read bool) error {
	a := c.config.Attestation
	if a == nil {
		return nil
	}
	if f := c.attest.live.failure.Load(); f != nil && !(read && f.ended) {
		return f.err
	}
	result := c.attest.peer.result
	accepted := result.Valid() && !(a.afterHandshake() && a.requires() && !result.Binding().IsExpat())
	if !accepted && (a.requires() || c.attest.peer.negotiated) {
		return errors.New("tls: the peer's attestation has not been accepted")
	}
	return nil
}

// AlertSent returns the fatal alert that this side sent, if it did. It waits for a
// Write that is under way.
func (c *Conn) AlertSent() (alert AlertError, ok bool) {
	c.out.Lock()
	defer c.out.Unlock()
	return alertOf(c.out.err, "local error")
}

// AlertReceived returns the fatal alert that the peer sent, if this side has read
// one. It waits for a Read or Handshake that is under way.
func (c *Conn) AlertReceived() (alert AlertError, ok bool) {
	defer c.attestReading()()
	c.in.Lock()
	defer c.in.Unlock()
	return alertOf(c.in.err, "remote error")
}

func alertOf(err error, op string) (AlertError, bool) {
	var e *net.OpError
	if !errors.As(err, &e) || e.Op != op {
		return 0, false
	}
	a, ok := e.Err.(alert)
	return AlertError(a), ok
}
