package tls

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// establishedOver runs a handshake over a connection without buffers, on which a Write
// waits until the peer reads.
func establishedOver(t *testing.T, client, server *Config) (c, s *Conn, sc net.Conn) {
	t.Helper()
	cc, sc := net.Pipe()
	c, s = Client(cc, client), Server(sc, server)
	t.Cleanup(func() { cc.Close(); sc.Close() })
	watch := time.AfterFunc(time.Minute, func() { cc.Close(); sc.Close() })
	t.Cleanup(func() { watch.Stop() })
	shaken := make(chan error, 1)
	go func() { shaken <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	return c, s, sc
}

// TestAnswersThatAreNotReadDoNotPileUp: a peer that asks and reads no answer gets no
// further one made, or they would pile up until memory ends.
func TestAnswersThatAreNotReadDoNotPileUp(t *testing.T) {
	client, server := reattesting()
	var made atomic.Int32
	asked := make(chan struct{}, 100)
	server.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
		if req.Challenge.Binding.IsExpat() {
			made.Add(1)
			asked <- struct{}{}
		}
		return (&stubTEE{}).honest(req.Challenge)
	}}
	c, s, _ := establishedOver(t, client, server)
	read := make(chan error, 1)
	go func() { read <- second(s.Read(make([]byte, 1))) }()
	p := newTalk(t, c)
	go func() {
		for range 10 {
			if p.say(request(t, p)) != nil {
				return
			}
			select {
			case <-asked:
			case <-t.Context().Done():
			}
		}
	}()
	if err := <-read; !errors.Is(err, exportedauth.ErrUnexpectedMessage) {
		t.Errorf("%v", err)
	}
	if n := made.Load(); n > 2 { // one that is being written, and one that waits
		t.Errorf("%d answers were made, and none was read", n)
	}
}

// TestReattestEndsThoughAWriteIsStuck: a peer that has stopped reading, so that a Write
// is stuck and no request gets out, does not escape its round.
func TestReattestEndsThoughAWriteIsStuck(t *testing.T) {
	client, server := reattesting()
	c, _, sc := establishedOver(t, client, server)
	wrote := make(chan error, 1)
	go func() { wrote <- second(c.Write(make([]byte, 100<<10))) }()
	if _, err := sc.Read(make([]byte, 1)); err != nil { // and no more
		t.Fatal(err)
	}
	x := &attestExchange{c: c}
	x.config = c.attestAuthenticators(x, c.attestVerifyChainAgain)
	x.config.Timeout = time.Millisecond
	ended := make(chan error, 1)
	go func() { ended <- second(x.again(t.Context())) }()
	select {
	case err := <-ended:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Reattest hangs")
	}
	sc.Close()
	<-wrote
}

// TestReadInTheMiddleOfAnAnswerSaysWhyItEnds: a Read that is in the middle of an answer
// when its round fails says why, and not that its deadline has passed, which it has
// not.
//
// Hooks: read-error.
func TestReadInTheMiddleOfAnAnswerSaysWhyItEnds(t *testing.T) {
	client, server := reattesting()
	c, s, _ := establishedOver(t, client, server)
	p := newTalk(t, s)
	read := make(chan error, 1)
	go func() { read <- second(c.Read(make([]byte, 1))) }()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Reattest(ctx) }()
	p.in.Lock()
	b, err := p.honest()
	p.in.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{b[:10], b[10:20]} { // the second is read within the message
		if err := p.say(part); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Reattest: %v", err)
	}
	if err := <-read; !errors.As(err, new(*AttestationError)) || !errors.Is(err, context.Canceled) {
		t.Errorf("Read: %v", err)
	}
}

// TestRequestsWaitForTheirTurn: a peer that asks too often waits, and Close ends the
// wait.
func TestRequestsWaitForTheirTurn(t *testing.T) {
	const interval = time.Hour
	l := &attestLive{}
	for range reattestBurst {
		if !l.awaitTurn(t.Context(), interval) {
			t.Fatal("refused")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if l.awaitTurn(ctx, interval) {
		t.Error("a request ahead of its turn is answered at once")
	}
	l.turn = l.turn.Add(-3 * interval) // as if they had passed
	if !l.awaitTurn(t.Context(), interval) {
		t.Error("a request after its turn waits")
	}

	client, server := reattesting()
	var made atomic.Int32
	server.Attestation.MinReattestInterval = interval
	server.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
		made.Add(1)
		return (&stubTEE{}).honest(req.Challenge)
	}}
	c, s := established(t, client, server)
	echoed := echo(s)
	for range reattestBurst {
		if err := c.Reattest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Reattest(t.Context()) }()
	roundTrip(t, c, 0) // behind the request, or before
	roundTrip(t, c, 1)
	s.Close()
	if err := <-ended; err == nil {
		t.Error("a round ahead of its turn succeeded")
	}
	<-echoed
	if n := made.Load(); n != 1+reattestBurst { // with the handshake
		t.Errorf("%d quotes were made", n)
	}
}

// TestReattestAfterCloseWriteLeavesTheConnection: an end that has said that it sends no
// more asks no more, and goes on reading, by itself and where it has an interval.
func TestReattestAfterCloseWriteLeavesTheConnection(t *testing.T) {
	for _, interval := range []time.Duration{0, time.Millisecond} {
		client, server := reattesting()
		client.Attestation.ReattestInterval = interval
		c, s := established(t, client, server)
		go io.WriteString(c, "a question")
		if _, err := io.ReadFull(s, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		read := make(chan error, 1)
		go func() { read <- second(io.Copy(io.Discard, readerOf{s})) }() // and answers requests
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := <-read; err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := c.Reattest(t.Context()); !errors.Is(err, errShutdown) {
				t.Errorf("%v", err)
			}
		}
		go func() {
			io.WriteString(s, "an answer that took its time")
			s.Close()
		}()
		if b, err := io.ReadAll(c); err != nil || string(b) != "an answer that took its time" {
			t.Errorf("interval %v: %q, %v", interval, b, err)
		}
		if cs := c.ConnectionState(); !cs.PeerAttestation.Valid() {
			t.Error("the verdict is gone")
		}
	}
}

// TestNothingComesBetweenTheMessagesOfAnAuthenticator: nothing comes between the
// messages of an authenticator, in the handshake and in a later round.
func TestNothingComesBetweenTheMessagesOfAnAuthenticator(t *testing.T) {
	between := []byte{typeKeyUpdate, 0, 0, 1, 0}
	say := func(p *talk) error {
		b, err := p.honest()
		if err != nil {
			return err
		}
		if err := p.say(split(b)[0]); err != nil {
			return err
		}
		return p.say(between)
	}
	client, server := exchanging(PostHandshake)
	onlyServerAttests(client, server)
	cc, sc := localPipe(t)
	ends := &attestEnds{client: Client(cc, client), server: Server(sc, server)}
	(&misbehavingPeer{after: func(conn *Conn) error { return say(newTalk(t, conn)) }}).server(ends.server)
	ends.run(t, cc, sc)
	if a, ok := ends.client.AlertSent(); !ok || alert(a) != alertUnexpectedMessage || !errors.Is(ends.clientErr, exportedauth.ErrUnexpectedMessage) {
		t.Errorf("in the handshake: %v, alert %v", ends.clientErr, a)
	}
	client, server = reattesting()
	c, s := established(t, client, server)
	p := newTalk(t, s)
	said := make(chan error, 1)
	go func() {
		p.in.Lock()
		defer p.in.Unlock()
		said <- say(p)
	}()
	if err := c.Reattest(t.Context()); !errors.Is(err, exportedauth.ErrUnexpectedMessage) {
		t.Errorf("in a later round: %v", err)
	}
	if err := <-said; err != nil {
		t.Error(err)
	}
}
