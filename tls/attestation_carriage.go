package tls

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// Exported authenticators in handshake records under the application's keys, as
// authenticator_carriage negotiates them, and the rounds of re-attestation that they
// carry.

// typeClientCertificateRequest is of RFC 9261, section 4.
const typeClientCertificateRequest uint8 = 17

// attestLive is what a connection keeps after its handshake whose handshake records
// carry authenticators.
type attestLive struct {
	session *exportedauth.Session // constant once the handshake is complete

	// round is held by the round of re-attestation that is under way. free has a
	// value when a Read has ended since somebody looked.
	round, free chan struct{}
	readers     atomic.Int32 // in Read, or on the way
	endRead     func()

	rounds   atomic.Int32
	verdict  atomic.Pointer[attestVerdict]           // of the last round
	attested atomic.Pointer[attestext.AttestRequest] // that the last answer was for
	failure  atomic.Pointer[attestFailure]

	// parts are the messages so far of an authenticator, and lastPart the type of the
	// last, or 0; guarded by Conn.in.
	parts    []byte
	lastPart uint8

	// turn is when a peer that asked once in each MinReattestInterval would ask next; of the
	// goroutine that answers, of which there is one at a time.
	turn time.Time

	queued  atomic.Int32 // len(queue)
	writing atomic.Int32 // who waits to write it, or does

	mu        sync.Mutex
	kept      []byte // application data that Reattest has read and goes on reading
	queue     []attestMessage
	pending   *attestRound // that waits for an answer
	answering bool         // to the peer's request
}

// attestVerdict is what a round of re-attestation came to.
type attestVerdict struct {
	result  *attestext.Result
	request *attestext.AttestRequest
}

// attestFailure is why a connection is closed.
type attestFailure struct {
	err   error
	ended bool // by the peer, in good order: what it had sent before may be read
}

// attestMessage is one that waits to be written.
type attestMessage struct {
	data   []byte
	sent   chan<- error // has room
	answer bool         // to the peer's request
}

// attestRound is a request for which there is no answer yet.
type attestRound struct{ answer chan []byte } // has room for one

func (l *attestLive) init(session *exportedauth.Session) {
	l.session = session
	l.round, l.free = make(chan struct{}, 1), make(chan struct{}, 1)
	l.endRead = l.readEnded
}

// attestReading is called when somebody is to lock Conn.in on a connection that has
// been established, and the function that it returns when it has been unlocked.
func (c *Conn) attestReading() func() {
	if !c.isHandshakeComplete.Load() || c.attest.live.free == nil {
		return func() {}
	}
	c.attest.live.readers.Add(1)
	return c.attest.live.endRead
}

func (l *attestLive) readEnded() {
	l.readers.Add(-1)
	select {
	case l.free <- struct{}{}:
	default:
	}
}

// attestReadError returns what Read returns for err: why this side closed the
// connection, if it did.
func (c *Conn) attestReadError(err error) error {
	if f := c.attest.live.failure.Load(); f != nil && !f.ended {
		return f.err
	}
	return err
}

// attestRequestType is the type of the peer's requests.
func (c *Conn) attestRequestType() uint8 {
	if c.isClient {
		return typeCertificateRequest
	}
	return typeClientCertificateRequest
}

// attestWrite writes messages in handshake records, ahead of any other use of the
// connection.
func (c *Conn) attestWrite(b []byte) error {
	c.out.Lock()
	defer c.out.Unlock()
	return c.attestWriteLocked(b)
}

func (c *Conn) attestWriteLocked(b []byte) error {
	if err := c.out.err; err != nil {
		return err
	}
	if c.closeNotifySent {
		return errShutdown
	}
	_, err := c.writeRecordLocked(recordTypeHandshake, b)
	return c.out.setErrorLocked(err)
}

// attestSend has messages written between two records of a Write that is under way,
// or by themselves. It does not wait; the channel says when they are out.
func (c *Conn) attestSend(b []byte, answer bool) <-chan error {
	l := &c.attest.live
	sent := make(chan error, 1)
	l.mu.Lock()
	l.queue = append(l.queue, attestMessage{b, sent, answer})
	l.queued.Add(1)
	l.mu.Unlock()
	go func() { // until the Write has ended, at most
		l.writing.Add(1)
		defer l.writing.Add(-1)
		if c.attestClosed() { // and else attestClose knows of this
			sent <- net.ErrClosed
			return
		}
		c.out.Lock()
		defer c.out.Unlock()
		c.attestFlushLocked()
	}()
	return sent
}

// attestFlush writes what waits, before a record of that type.
func (c *Conn) attestFlush(typ recordType) error {
	if typ != recordTypeApplicationData || c.attest.live.queued.Load() == 0 {
		return nil
	}
	return c.attestFlushLocked()
}

func (c *Conn) attestFlushLocked() error {
	l := &c.attest.live
	l.mu.Lock()
	queue := l.queue
	l.queue = nil
	l.queued.Add(int32(-len(queue)))
	for _, m := range queue {
		if m.answer { // the peer may ask again as soon as it has it, and not before it is written
			l.answering = false
		}
	}
	l.mu.Unlock()
	var failed error
	for _, m := range queue {
		err := c.attestWriteLocked(m.data)
		select {
		case m.sent <- err:
		default: // Close has said so before
		}
		if failed == nil {
			failed = err
		}
	}
	return failed
}

// attestReadMessage reads one message of one of the types, with its header; Conn.in is
// held. It lets tickets and KeyUpdate through ahead of it, unless it continues an
// authenticator, and refuses application data there. What it has read of a message stays for the next call, if a deadline
// ends this one.
func (c *Conn) attestReadMessage(op string, types ...uint8) ([]byte, error) {
	fail := func(class error, format string, args ...any) ([]byte, error) {
		return nil, &exportedauth.Error{Class: class, Op: op, Err: fmt.Errorf(format, args...)}
	}
	for {
		for c.hand.Len() == 0 {
			if err := c.readRecord(); err != nil {
				return nil, err
			}
			if c.input.Len() > 0 {
				return fail(exportedauth.ErrUnexpectedMessage, "application data came before it")
			}
		}
		typ := c.hand.Bytes()[0]
		within := types[0] == typeCertificateVerify || types[0] == typeFinished // an authenticator
		if !within && (typ == typeNewSessionTicket || typ == typeKeyUpdate) {
			if err := c.handlePostHandshakeMessage(); err != nil {
				return nil, err
			}
			continue
		}
		if !slices.Contains(types, typ) {
			return fail(exportedauth.ErrUnexpectedMessage, "got a handshake message of type %d, want %d", typ, types[0])
		}
		if err := c.readHandshakeBytes(4); err != nil {
			return nil, err
		}
		h := c.hand.Bytes()
		n := 4 + (int(h[1])<<16 | int(h[2])<<8 | int(h[3]))
		if n > exportedauth.MaxMessage(typ) {
			return fail(exportedauth.ErrDecode, "a message of type %d with %d bytes, want at most %d", typ, n, exportedauth.MaxMessage(typ))
		}
		if err := c.readHandshakeBytes(n); err != nil {
			return nil, err
		}
		return bytes.Clone(c.hand.Next(n)), nil
	}
}

// attestPostHandshake reads the message of an authenticator or the request that comes
// next in the handshake records of an established connection, and reports whether
// there was one. It does nothing that takes long, so that application data goes on: an
// answer is appraised by the goroutine that asked for it, and a request is answered by
// one of its own. Conn.in is held.
func (c *Conn) attestPostHandshake() (done bool, err error) {
	if c.attest.live.free == nil {
		return false, nil
	}
	typ := c.hand.Bytes()[0]
	switch typ {
	case typeCertificate, typeCertificateVerify, typeFinished:
		err = c.attestAnswered(typ)
	case typeCertificateRequest, typeClientCertificateRequest:
		err = c.attestAsked()
	default:
		if c.attest.live.lastPart == 0 {
			return false, nil
		}
		err = c.attestAnswered(typ) // which it is not: nothing comes between the messages of an answer
	}
	if errors.As(err, new(*exportedauth.Error)) {
		err = c.in.setErrorLocked(c.attestEnd(exchangeStage(err), err))
	}
	return true, c.attestReadError(err)
}

// attestAnswered reads a message of an authenticator, and hands the authenticator to
// who waits for it.
func (c *Conn) attestAnswered(typ uint8) error {
	l := &c.attest.live
	op := fmt.Sprintf("read the %v's authenticator", c.attestRole(false))
	refuse := func(why string) error {
		return &exportedauth.Error{Class: exportedauth.ErrUnexpectedMessage, Op: op, Err: errors.New(why)}
	}
	l.mu.Lock()
	round := l.pending
	l.mu.Unlock()
	if round == nil {
		return refuse("no request waits for it")
	}
	switch last := l.lastPart; {
	case typ == typeCertificate && last == 0, typ == typeCertificateVerify && last == typeCertificate,
		typ == typeFinished && last != typeCertificate:
	default:
		return refuse(fmt.Sprintf("a message of type %d is out of order", typ))
	}
	b, err := c.attestReadMessage(op, typ)
	if err != nil {
		return err
	}
	l.parts = append(l.parts, b...)
	l.lastPart = typ
	if typ != typeFinished {
		return nil
	}
	b, l.parts, l.lastPart = l.parts, nil, 0
	l.mu.Lock()
	if l.pending == round {
		l.pending = nil
	}
	l.mu.Unlock()
	round.answer <- b
	return nil
}

// attestAsked begins to answer a request.
func (c *Conn) attestAsked() error {
	op := fmt.Sprintf("read the %v's request", c.attestRole(false))
	b, err := c.attestReadMessage(op, c.attestRequestType())
	if err != nil {
		return err
	}
	l := &c.attest.live
	r, err := l.session.ReadRequest(b)
	if err != nil {
		return err
	}
	l.mu.Lock()
	busy := l.answering
	l.answering = true
	l.mu.Unlock()
	if busy {
		return &exportedauth.Error{Class: exportedauth.ErrUnexpectedMessage, Op: op, Err: errors.New("the one before has not been answered")}
	}
	go c.attestAnswer(r)
	return nil
}

// attestAnswer answers a request. What keeps this end from attesting is for the peer
// to judge, which is told by a refusal.
func (c *Conn) attestAnswer(r *exportedauth.Request) {
	l := &c.attest.live
	ctx, done := c.attestCall(context.Background())
	defer done()
	if !l.awaitTurn(ctx, c.config.Attestation.minReattestInterval()) { // closed by this side
		return
	}
	x := &attestExchange{c: c}
	x.config = c.attestAuthenticators(x, c.attestVerifyChainAgain)
	b, err := x.attest(ctx, l.session, r)
	if err == nil {
		l.attested.Store(x.self.request)
	}
	if b == nil || ctx.Err() != nil { // closed by this side
		return
	}
	c.attestSend(b, true)
}

// reattestBurst is how many requests a peer may be ahead of MinReattestInterval.
const reattestBurst = 32

// awaitTurn waits until a request may be answered, and reports whether it may; ctx ends
// it.
func (l *attestLive) awaitTurn(ctx context.Context, interval time.Duration) bool {
	now := time.Now()
	if l.turn.Before(now) {
		l.turn = now
	}
	l.turn = l.turn.Add(interval)
	early := l.turn.Sub(now) - reattestBurst*interval
	if early <= 0 {
		return true
	}
	t := time.NewTimer(early)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Reattest has the peer attest again, by a fresh exchange of exported authenticators
// that is bound to the connection (draft-fossati-seat-expat-03), and appraises it. Either
// end that has a Verifier or a ResultsVerifier may call it, at any time and any number
// of times; both ends may at once, and calls at one end wait for each other. It runs
// the handshake first, if that has not been done.
//
// Both ends must have negotiated CarriagePostHandshake; where they have not, or this
// end is not configured to ask, Reattest returns an error and leaves the connection as
// it is. After any other error the connection is closed, and Read and Write return
// that error: a verdict that is too old is none. The peer is told why, for which it has a
// second or two, also where Close is called before. VerifyConnection is called with the
// new verdict, and may refuse it.
//
// Application data goes on in both directions, under the verdict there was before.
// The answer is read by whoever is in Read; while nobody is, by Reattest itself, which keeps
// up to 256 KiB of application data for the next Read and then waits for one. At the
// end that answers somebody must be in Read, or call Reattest. Messages go between
// the records of a Write that is under way.
//
// After CloseWrite at this end there is nothing to ask by: Reattest returns an error and
// leaves the connection as it is. After CloseWrite at the other end nobody can answer,
// and the round fails: what had come before may still be read, and nothing is written
// on to a peer that does not attest any more. A connection has room for 65,536 requests of both ends.
//
// It ends with ctx or Close, and in AttestTimeout, VerifyTimeout and 10 seconds, within
// which a Write that is under way has to get a record out.
func (c *Conn) Reattest(ctx context.Context) error {
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	a := c.config.Attestation
	switch {
	case a == nil || !a.asks():
		return errors.New("tls: Reattest: Config.Attestation has neither Verifier nor ResultsVerifier, this end does not ask")
	case !c.attest.records:
		return errors.New("tls: Reattest: authenticator_carriage was not negotiated, set Carriage to CarriagePostHandshake on both ends")
	}
	l := &c.attest.live
	ctx, done := c.attestCall(ctx)
	defer done()
	select {
	case l.round <- struct{}{}:
		defer func() { <-l.round }()
	case <-ctx.Done():
		return fmt.Errorf("tls: Reattest: another call is under way: %w", context.Cause(ctx))
	}
	if err := c.attestGate(false); err != nil {
		return err
	}
	x := &attestExchange{c: c}
	x.config = c.attestAuthenticators(x, func(chain []*x509.Certificate) error {
		c.handshakeMutex.Lock()
		defer c.handshakeMutex.Unlock()
		return c.attestVerifyChainAgain(chain)
	})
	peer, err := x.again(ctx)
	if errors.Is(err, errShutdown) && !c.attestClosed() {
		return fmt.Errorf("tls: Reattest: CloseWrite was called, this end can ask no more: %w", errShutdown)
	}
	if errors.Is(err, exportedauth.ErrRefused) && a.requests() && c.ConnectionState().PeerAttestation == nil {
		return nil // as in the handshake; one that has attested has to go on
	}
	if err == nil {
		l.verdict.Store(&attestVerdict{peer.Result, x.peer.request})
		l.rounds.Add(1)
		if c.config.VerifyConnection != nil {
			if err = c.config.VerifyConnection(c.ConnectionState()); err != nil {
				err = &exportedauth.Error{Class: exportedauth.ErrBadCertificate, Op: "VerifyConnection", Err: err}
			}
		}
	}
	if err != nil {
		stage := x.stage
		if stage == "" {
			stage = exchangeStage(err)
		}
		return c.attestEnd(stage, err)
	}
	return nil
}

// again runs one round.
func (x *attestExchange) again(ctx context.Context) (*exportedauth.Peer, error) {
	c, l := x.c, &x.c.attest.live
	r, err := l.session.RequestAttestation(x.config)
	if err != nil {
		return nil, err
	}
	// A peer that has stopped reading is not to escape its round: the request has to
	// get out, between two records of a Write, within the same time.
	ctx, cancel := context.WithTimeout(ctx, x.config.Timeout)
	defer cancel()
	round := &attestRound{make(chan []byte, 1)}
	l.mu.Lock()
	l.pending = round
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.pending == round {
			l.pending = nil
		}
	}()
	select {
	case err := <-c.attestSend(r.Bytes(), false):
		if err != nil {
			return nil, interrupted("send the request", err)
		}
	case <-ctx.Done():
		return nil, interrupted("send the request", context.Cause(ctx))
	}
	b, err := c.attestAwait(ctx, round)
	if err != nil {
		return nil, err
	}
	peer, err := l.session.Appraise(ctx, r, b, x.config)
	if err == nil && ctx.Err() != nil { // and a deadline with it
		return nil, interrupted("appraise", context.Cause(ctx))
	}
	return peer, err
}

// attestAwait waits for the answer of a round, and reads the connection while nobody
// else does.
func (c *Conn) attestAwait(ctx context.Context, round *attestRound) ([]byte, error) {
	l := &c.attest.live
	op := fmt.Sprintf("read the %v's authenticator", c.attestRole(false))
	// A Read has no deadline of its own, be it ours or the application's, which is to
	// learn why it ends.
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		err := interrupted(op, context.Cause(ctx))
		c.attestEnd(exchangeStage(err), err)
	})
	defer func() {
		if !stop() {
			<-ended
		}
	}()
	for {
		var retry <-chan time.Time
		if l.readers.Load() == 0 && c.in.TryLock() {
			err := c.attestDrive(round)
			c.in.Unlock()
			switch {
			case err == nil:
			case isTimeout(err) && ctx.Err() == nil: // a deadline of the application's, which sets another when it reads
				retry = time.After(100 * time.Millisecond)
			case ctx.Err() == nil:
				return nil, interrupted(op, err)
			}
		}
		select {
		case b := <-round.answer:
			return b, nil
		case <-ctx.Done():
			return nil, interrupted(op, context.Cause(ctx))
		case <-l.free:
		case <-retry:
		}
	}
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

// maxKept bounds the application data that Reattest keeps for the next Read, in
// bytes.
const maxKept = 256 << 10

// attestDrive reads records until the answer is there, or somebody else wants to
// read, or there is no room for more application data; Conn.in is held.
func (c *Conn) attestDrive(round *attestRound) error {
	l := &c.attest.live
	defer func() {
		if rest := l.takeKept(); len(rest) > 0 {
			c.input.Reset(rest)
		}
	}()
	for {
		kept := l.keep(&c.input)
		if len(round.answer) > 0 || kept >= maxKept || kept > 0 && l.readers.Load() > 0 {
			return nil
		}
		if err := c.readRecord(); err != nil {
			return err
		}
		for c.hand.Len() > 0 {
			if err := c.handlePostHandshakeMessage(); err != nil {
				return err
			}
		}
	}
}

// keep moves what r has left to the data that is kept, and returns how much there is.
func (l *attestLive) keep(r *bytes.Reader) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.kept)
	l.kept = append(l.kept, make([]byte, r.Len())...)
	r.Read(l.kept[n:])
	r.Reset(nil)
	return len(l.kept)
}

func (l *attestLive) takeKept() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.kept
	l.kept = nil
	return kept
}

// attestReadKept reads application data that Reattest has read while it holds Conn.in.
func (c *Conn) attestReadKept(b []byte) int {
	l := &c.attest.live
	if l.free == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := copy(b, l.kept)
	l.kept = l.kept[n:]
	return n
}

// attestEnd closes a connection whose re-attestation has failed, and returns the
// error to say so. It may be called with Conn.in held, and waits for a second at most.
func (c *Conn) attestEnd(stage string, err error) error {
	_, received := alertOf(err, "remote error")
	f := &attestFailure{ended: errors.Is(err, io.EOF)}
	e := &AttestationError{Stage: stage, Err: err}
	if !received && !f.ended {
		e.Alert = AlertError(exportedauth.Alert(err, c.attestRole(true)))
	}
	f.err = e
	switch first, end := c.attestFailed(f); {
	case !first:
		return c.attest.live.failure.Load().err
	case !end: // what fails once Close was called fails because of it
		return e
	}
	c.SetWriteDeadline(time.Now().Add(alertTime)) // or a Write that is stuck would hold up the alert
	if e.Alert != 0 {
		if _, sent := c.AlertSent(); !sent {
			c.sendAlert(alert(e.Alert))
		}
	}
	if f.ended {
		c.conn.Close()
		return e
	}
	c.SetReadDeadline(time.Unix(1, 0)) // ends a Read
	go c.attestLinger(e)
	return e
}

// maxLinger bounds what attestLinger reads, in bytes.
const maxLinger = 1 << 20

// attestLinger closes the connection. To close it with bytes unread would have TCP reset
// it, and the peer might never read the alert.
func (c *Conn) attestLinger(err error) {
	defer c.attestReading()()
	c.in.Lock()
	defer c.in.Unlock()
	c.in.setErrorLocked(err)
	c.input.Reset(nil)
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		deadline := time.Now().Add(alertTime)
		c.SetReadDeadline(deadline)
		if n, _ := io.Copy(io.Discard, io.LimitReader(c.conn, maxLinger)); n == maxLinger {
			time.Sleep(time.Until(deadline)) // a peer that sends on is made to wait by TCP
		}
	}
	c.conn.Close()
}

// attestNextRound sets the clock for the next round of re-attestation.
func (c *Conn) attestNextRound() {
	interval := c.config.Attestation.ReattestInterval
	if interval == 0 {
		return
	}
	calls := &c.attest.cancels
	calls.mu.Lock()
	defer calls.mu.Unlock()
	if calls.closed {
		return
	}
	calls.timer = time.AfterFunc(interval, func() {
		if c.Reattest(context.Background()) == nil { // which has closed the connection otherwise
			c.attestNextRound()
		}
	})
}
