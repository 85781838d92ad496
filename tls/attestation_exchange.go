package tls

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// Attestation after the handshake: RFC 9261, draft-fossati-seat-expat-03.

// exchangeMargin is how much longer than its attester and its verifier an exchange
// may take.
const exchangeMargin = 10 * time.Second

// exchangeTimeout bounds an exchange, within which each end attests and appraises.
func (a *AttestationConfig) exchangeTimeout() time.Duration {
	return a.attestTimeout() + a.verifyTimeout() + exchangeMargin
}

// attestHoldsVerifyConnection reports whether VerifyConnection waits for a verdict.
func (c *Conn) attestHoldsVerifyConnection() bool {
	return c.attest.peer.negotiated || c.config.Attestation.asksAfterHandshake()
}

// attestExchange attests after the handshake's last message, where the mode calls
// for it. The handshake does not count as complete before it has succeeded.
func (c *Conn) attestExchange(ctx context.Context) (err error) {
	a := c.config.Attestation
	if !a.afterHandshake() && !c.attest.records {
		return nil
	}
	session, err := c.attestSession()
	if err != nil {
		return c.attestFail(AttestationStageNegotiate, alertInternalError, err)
	}
	if c.attest.records {
		c.attest.live.init(session)
	}
	defer func() {
		if err == nil {
			c.attestNextRound()
		}
	}()
	if !a.afterHandshake() {
		return nil
	}
	c.attest.exchanging = true
	defer func() { c.attest.exchanging = false }()
	ctx, done := c.attestCall(ctx)
	defer done()
	if err := c.attestChoose(ctx); err != nil {
		return c.attestFail(AttestationStageAttest, alertInternalError, err)
	}
	x := &attestExchange{c: c}
	x.config = c.attestAuthenticators(x, c.attestVerifyChain)
	if deadline, ok := ctx.Deadline(); ok {
		// When the handshake's context ends, upstream closes the connection and returns
		// the context's error: there is neither an alert nor a word about who fell silent.
		x.config.Timeout = min(x.config.Timeout, max(1, time.Until(deadline)*9/10))
	}
	if err := x.run(ctx, session); err != nil {
		if x.refusal != nil {
			c.sendAlert(alertBadCertificate)
			return x.refusal
		}
		return x.fail(err)
	}
	x.note(nil)
	return nil
}

// attestSession returns the session of exported authenticators of this connection.
func (c *Conn) attestSession() (*exportedauth.Session, error) {
	suite := cipherSuiteTLS13ByID(c.cipherSuite)
	if suite == nil || c.ekm == nil {
		return nil, errors.New("exported authenticators need TLS 1.3")
	}
	return exportedauth.NewSession(c.attestRole(true), suite.hash, c.ekm)
}

// attestExchange is what is known of one exchange, in which either end or both
// attest.
type attestExchange struct {
	c          *Conn
	config     *exportedauth.Config
	self, peer attestDirection
	stage      string // that of the failure, if it is one of Evidence
	refusal    error  // of VerifyConnection
}

// attestAuthenticators returns what exported authenticators are made and checked by.
func (c *Conn) attestAuthenticators(x *attestExchange, verifyChain func([]*x509.Certificate) error) *exportedauth.Config {
	a := c.config.Attestation
	conf := &exportedauth.Config{
		Identities:     c.attestIdentities(),
		VerifyChain:    verifyChain,
		CMWAttestation: c.attestCodePoints().CMWAttestation,
		Timeout:        a.exchangeTimeout(),
		AttestTimeout:  a.attestTimeout(),
		VerifyTimeout:  a.verifyTimeout(),
		ClientFirst:    a.ClientFirst,
		AllowRefusal:   a.requests(),
		VerifyPeer:     x.verifyPeer,
		Trace:          x.trace,
	}
	// An interface that holds a nil of ours would not be nil.
	if own := a.attester(); own != nil {
		conf.Attester = own
	} else if a.Results != nil {
		conf.Results = a.Results
	}
	if a.Verifier != nil {
		conf.Verifier = a.Verifier
	} else if a.ResultsVerifier != nil {
		conf.ResultsVerifier = a.ResultsVerifier
	}
	return conf
}

// attestChoose has the callback choose what a client authenticates with that attests,
// where it sent no certificate in the handshake: none may have been asked for.
func (c *Conn) attestChoose(ctx context.Context) error {
	choose := c.config.GetClientCertificate
	if !c.isClient || choose == nil || c.attestSentCertificate() || !c.config.Attestation.attests() {
		return nil
	}
	cert, err := choose(&CertificateRequestInfo{SignatureSchemes: supportedSignatureAlgorithms(c.vers), Version: c.vers, ctx: ctx})
	if err != nil {
		return fmt.Errorf("GetClientCertificate: %w", err)
	}
	c.attest.certificate = cert
	return nil
}

// attestSentCertificate reports whether this side has a certificate of the handshake, or
// one that was chosen in its place.
func (c *Conn) attestSentCertificate() bool {
	return c.attest.certificate != nil && len(c.attest.certificate.Certificate) > 0
}

// attestIdentities returns what this side authenticates with: the certificate that
// it sent in the handshake, or what its Config has for the peer.
func (c *Conn) attestIdentities() []exportedauth.Identity {
	var certs []*Certificate
	switch {
	case c.attestSentCertificate():
		certs = []*Certificate{c.attest.certificate}
	case !c.isClient || c.config.GetClientCertificate == nil:
		for i := range c.config.Certificates {
			certs = append(certs, &c.config.Certificates[i])
		}
	}
	var ids []exportedauth.Identity
	for _, cert := range certs {
		if key, ok := cert.PrivateKey.(crypto.Signer); ok && len(cert.Certificate) > 0 {
			ids = append(ids, exportedauth.Identity{Chain: cert.Certificate, Leaf: cert.Leaf, Key: key})
		}
	}
	return ids
}

// attestVerifyChain says whether the certificate of the peer's authenticator is
// acceptable. It is the one of the handshake, if there was one there: a second name
// on the connection would leave open which of them is attested. What the
// handshake has accepted is not verified again.
func (c *Conn) attestVerifyChain(chain []*x509.Certificate) error {
	if len(c.peerCertificates) > 0 && len(c.verifiedChains) > 0 && bytes.Equal(chain[0].Raw, c.peerCertificates[0].Raw) {
		return nil
	}
	return c.attestVerifyChainAgain(chain)
}

// attestVerifyChainAgain verifies the chain itself, as the handshake does. It is held
// to where the handshake has been long ago.
func (c *Conn) attestVerifyChainAgain(chain []*x509.Certificate) error {
	known := len(c.peerCertificates) > 0
	if known && !bytes.Equal(chain[0].Raw, c.peerCertificates[0].Raw) {
		return errors.New("it is not the certificate of the handshake")
	}
	chains, err := c.attestChains(chain)
	if err != nil {
		return err
	}
	if !known {
		c.peerCertificates, c.verifiedChains = chain, chains
	}
	return nil
}

// attestChains returns the chains that upstream would find for the peer's certificates.
// It finds none where the Config says not to look.
func (c *Conn) attestChains(certs []*x509.Certificate) ([][]*x509.Certificate, error) {
	opts := x509.VerifyOptions{CurrentTime: c.config.time(), Intermediates: x509.NewCertPool()}
	for _, cert := range certs[1:] {
		opts.Intermediates.AddCert(cert)
	}
	verify := !c.config.InsecureSkipVerify
	if c.isClient {
		opts.Roots, opts.DNSName = c.config.RootCAs, c.config.ServerName
	} else {
		// As in the handshake: the certificate says who the client is.
		auth := c.config.ClientAuth
		verify = auth == NoClientCert || auth >= VerifyClientCertIfGiven || !c.config.Attestation.AllowAttestationOnly
		opts.Roots, opts.KeyUsages = c.config.ClientCAs, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	var chains [][]*x509.Certificate
	if verify {
		var err error
		if chains, err = certs[0].Verify(opts); err == nil {
			chains, err = fipsAllowedChains(chains)
		}
		if err != nil {
			return nil, &CertificateVerificationError{UnverifiedCertificates: certs, Err: err}
		}
	}
	if c.config.VerifyPeerCertificate != nil {
		raw := make([][]byte, len(certs))
		for i, cert := range certs {
			raw[i] = cert.Raw
		}
		if err := c.config.VerifyPeerCertificate(raw, chains); err != nil {
			return nil, err
		}
	}
	return chains, nil
}

// trace keeps what the Evidence of either direction was made for, and passes it on.
func (x *attestExchange) trace(e exportedauth.Event) {
	d, stage := &x.peer, AttestationStageAppraise
	self := e.Request.Challenge.Role == x.c.attestRole(true)
	if self {
		d, stage = &x.self, AttestationStageAttest
	}
	d.negotiated, d.request = true, e.Request
	d.model, d.selected, d.verifier = e.Request.Challenge.Model, e.Request.Type, e.Request.Verifier
	if e.Err != nil {
		x.stage = stage
	}
	choose := map[exportedauth.EventKind]func(*AttestationTrace) func(AttestationEvent){
		exportedauth.ChallengeReady:   traceChallengeReady,
		exportedauth.EvidenceMade:     traceEvidenceMade,
		exportedauth.EvidenceReceived: traceEvidenceReceived,
		exportedauth.Appraised:        traceAppraised,
	}[e.Kind]
	x.c.attestTraceAs(x.c.attestRole(self), d, choose, e.Size, e.Duration, e.Err)
}

// run runs the exchange, in handshake records or else in application data.
func (x *attestExchange) run(ctx context.Context, s *exportedauth.Session) error {
	a := x.c.config.Attestation
	var conn exportedauth.Conn = recordsConn{leadingConn{x.c}}
	if !x.c.attest.records {
		conn = leadingConn{x.c}
		if a.requests() {
			// Nothing says that this peer attests: it is not asked.
			x.config.Verifier, x.config.ResultsVerifier = nil, nil
			if err := x.verifyPeer(nil); err != nil || !a.attests() {
				return err
			}
		}
	}
	_, err := exportedauth.Exchange(ctx, conn, s, x.config)
	return err
}

// note keeps what the exchange has come to so far; peer may be nil.
func (x *attestExchange) note(peer *exportedauth.Peer) {
	s := &x.c.attest
	if x.self.request != nil {
		s.self.request = x.self.request
	}
	if peer != nil {
		s.peer.request, s.peer.result = x.peer.request, peer.Result
	}
}

// verifyPeer calls VerifyConnection, which was held, whatever came of the peer: before
// this end attests, where that is its turn.
func (x *attestExchange) verifyPeer(peer *exportedauth.Peer) error {
	x.note(peer)
	if verify := x.c.config.VerifyConnection; verify != nil {
		x.refusal = verify(x.c.connectionStateLocked())
	}
	return x.refusal
}

// attest answers a request: with this end's Evidence or, beside an error, with an
// authenticated refusal.
func (x *attestExchange) attest(ctx context.Context, s *exportedauth.Session, r *exportedauth.Request) ([]byte, error) {
	b, err := s.Attest(ctx, r, x.config)
	if err != nil {
		refusal, rerr := s.Refuse(r)
		if rerr != nil {
			return nil, err
		}
		return refusal, err
	}
	return b, nil
}

func interrupted(op string, err error) error {
	return &exportedauth.Error{Class: exportedauth.ErrInterrupted, Op: op, Err: err}
}

// fail sends the alert for err, unless one has come or gone already, and returns the
// error to end the handshake with.
func (x *attestExchange) fail(err error) error {
	c := x.c
	if _, ok := alertOf(c.in.err, "remote error"); ok {
		return c.in.err
	}
	stage := x.stage
	if stage == "" {
		stage = exchangeStage(err)
	}
	if stage == AttestationStageNegotiate && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w (is the peer configured to attest after the handshake, and in this carriage?)", err)
	}
	if sent, ok := c.AlertSent(); ok {
		return &AttestationError{Stage: stage, Alert: sent, Err: err}
	}
	return c.attestFail(stage, alert(exportedauth.Alert(err, c.attestRole(true))), err)
}

// exchangeStage returns at which stage an exchange failed that did not get as far as
// Evidence.
func exchangeStage(err error) string {
	switch {
	case errors.Is(err, exportedauth.ErrNoIdentity), errors.Is(err, exportedauth.ErrUsage):
		return AttestationStageAttest
	case errors.Is(err, exportedauth.ErrInterrupted), errors.Is(err, exportedauth.ErrUnexpectedMessage), errors.Is(err, exportedauth.ErrMissingExtension):
		return AttestationStageNegotiate
	case errors.Is(err, attestext.ErrUnavailable): // an attester that makes nothing of use
		return AttestationStageAttest
	}
	return AttestationStageCertificate
}

// leadingConn is the application data of a connection whose handshake does not count
// as complete yet. It belongs to the goroutine of the handshake, which holds Conn.in.
type leadingConn struct{ c *Conn }

func (l leadingConn) Read(b []byte) (int, error) {
	c := l.c
	for c.input.Len() == 0 {
		if err := c.readRecord(); err != nil {
			return 0, err
		}
		for c.hand.Len() > 0 {
			if err := c.handlePostHandshakeMessage(); err != nil {
				return 0, err
			}
		}
	}
	return c.input.Read(b)
}

func (l leadingConn) Write(b []byte) (int, error) {
	c := l.c
	c.out.Lock()
	defer c.out.Unlock()
	if err := c.out.err; err != nil {
		return 0, err
	}
	n, err := c.writeRecordLocked(recordTypeApplicationData, b)
	return n, c.out.setErrorLocked(err)
}

// recordsConn has messages travel in handshake records.
type recordsConn struct{ leadingConn }

func (r recordsConn) ReadMessage(op string, types ...uint8) ([]byte, error) {
	return r.c.attestReadMessage(op, types...)
}

func (r recordsConn) WriteMessage(b []byte) error { return r.c.attestWrite(b) }

// alertTime is how long an alert may take to be written.
const alertTime = time.Second

// SetDeadline ends what waits, if t has passed, and leaves time for an alert. Other
// deadlines are the owner's of the connection.
func (l leadingConn) SetDeadline(t time.Time) error {
	if t.IsZero() || time.Until(t) > 0 {
		return nil
	}
	if err := l.c.SetWriteDeadline(time.Now().Add(alertTime)); err != nil {
		return fmt.Errorf("set the deadline: %w", err)
	}
	return l.c.SetReadDeadline(t)
}
