package tls

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// establishedOver runs a handshake over a connection without buffers, on which a Write
// waits until the peer reads.
func establishedOver(t *testing.T, client, server *Config) (c, s *Conn, cc, sc net.Conn) {
	t.Helper()
	cc, sc = net.Pipe()
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
	return c, s, cc, sc
}

// TestUnreadAnswers: a peer that asks and reads no answer gets no further one made, or
// they would pile up until memory ends.
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
	c, s, _, _ := establishedOver(t, client, server)
	read := make(chan error, 1)
	go func() { read <- second(s.Read(make([]byte, 1))) }()
	p := newTalk(t, c)
	go func() {
		for range 10 {
			if p.say(request(t, p, nil)) != nil {
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

// TestStuckWrite: a peer that has stopped reading, so that a Write is stuck and no request
// gets out, does not escape its round.
func TestReattestEndsThoughAWriteIsStuck(t *testing.T) {
	client, server := reattesting()
	c, _, _, sc := establishedOver(t, client, server)
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

// TestReadSaysWhy: a Read that is in the middle of an answer when its round fails says
// why, and not that its deadline has passed, which it has not.
//
// Hooks: read-error.
func TestReadInTheMiddleOfAnAnswerSaysWhyItEnds(t *testing.T) {
	client, server := reattesting()
	c, s, _, _ := establishedOver(t, client, server)
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
