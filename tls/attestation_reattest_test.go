package tls

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// established runs a handshake and returns both ends, which are closed in the end.
func established(t testing.TB, client, server *Config) (c, s *Conn) {
	t.Helper()
	cc, sc := localPipe(t)
	c, s = Client(cc, client), Server(sc, server)
	t.Cleanup(func() { cc.Close(); sc.Close() })
	// Nothing in these tests takes as long.
	watch := time.AfterFunc(time.Minute, func() { cc.Close(); sc.Close() })
	t.Cleanup(func() { watch.Stop() })
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	err := c.Handshake()
	if serr := <-done; err != nil || serr != nil {
		t.Fatalf("client: %v, server: %v", err, serr)
	}
	return c, s
}

// reattesting returns a client and a server that attest to each other in the
// handshake and negotiate the carriage of re-attestation.
func reattesting() (client, server *Config) {
	client, server = attesting()
	client.Attestation.Attester, server.Attestation.Verifier = &stubTEE{}, &stubTEE{}
	client.Attestation.Carriage = CarriagePostHandshake
	return client, server
}

// echo sends back what conn reads, until it ends.
func echo(conn *Conn) (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(conn, readerOf{conn})
	}()
	return done
}

// readerOf hides what a Conn can do beside reading.
type readerOf struct{ io.Reader }

// roundTrip sends a line that is sent back.
func roundTrip(t testing.TB, conn *Conn, i int) {
	t.Helper()
	line := fmt.Sprintf("line %d\n", i)
	if _, err := io.WriteString(conn, line); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != line {
		t.Fatalf("%q, %v, want %q", got, err, line)
	}
}

// TestReattestIsAFreshExchange: either end has the other attest again, in each mode,
// across KeyUpdate, whether or not somebody reads; each round is another exchange, and
// the last verdict is the one there is.
//
// Hooks: post-handshake, reader.
func TestReattestIsAFreshExchange(t *testing.T) {
	for _, mode := range []AttestationMode{InHandshake, PostHandshake, Combined} {
		client, server := reattesting()
		client.Attestation.Mode, server.Attestation.Mode = mode, mode
		c, s := established(t, client, server)
		echo(s)
		contexts := map[string]bool{}
		for i := range 6 {
			if i%3 == 1 {
				keyUpdate(t, c, i == 4)
			}
			if err := c.Reattest(t.Context()); err != nil { // nobody reads at this end
				t.Fatal(err)
			}
			cs := c.ConnectionState()
			ch := cs.PeerAttestation.Challenge()
			if !cs.PeerAttestation.Valid() || ch.Binding != attestext.BindingExpat || ch.Role != attestext.RoleServer || cs.Reattestations != i+1 || contexts[string(ch.Nonce)] {
				t.Errorf("%v, round %d: %+v", mode, i, cs.AttestationState)
			}
			contexts[string(ch.Nonce)] = true
			if local := s.ConnectionState().LocalAttestation; local == nil || !bytes.Equal(local.Challenge.Nonce, ch.Nonce) || !bytes.Equal(local.Challenge.Binder, ch.Binder) {
				t.Errorf("%v, round %d: the ends disagree", mode, i)
			}
			roundTrip(t, c, i)
		}
		// The other direction; there somebody has to read at the client.
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		for i := range 3 {
			if err := s.Reattest(t.Context()); err != nil {
				t.Fatal(err)
			}
			if cs := s.ConnectionState(); !cs.PeerAttestation.Valid() || cs.PeerAttestation.Challenge().Role != attestext.RoleClient || cs.Reattestations != i+1 {
				t.Errorf("%v: %+v", mode, cs.AttestationState)
			}
		}
		c.Close()
		<-read
	}
}

// keyUpdate sends a KeyUpdate, which crypto/tls does by itself only in answer to one.
func keyUpdate(t testing.TB, c *Conn, request bool) {
	t.Helper()
	c.out.Lock()
	defer c.out.Unlock()
	msg, err := (&keyUpdateMsg{updateRequested: request}).marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.writeRecordLocked(recordTypeHandshake, msg); err != nil {
		t.Fatal(err)
	}
	suite := cipherSuiteTLS13ByID(c.cipherSuite)
	c.setWriteTrafficSecret(suite, QUICEncryptionLevelInitial, suite.nextTrafficSecret(c.out.trafficSecret))
}

// TestBothEndsReattestUnderLoad: both ends re-attest at once and many times, under data
// in both directions, of which nothing is lost or reordered.
//
// Hooks: flush.
func TestBothEndsReattestUnderLoad(t *testing.T) {
	client, server := reattesting()
	c, s := established(t, client, server)
	const rounds, bytesEach = 10, 4 << 20
	var wg, readers sync.WaitGroup
	for _, conn := range []*Conn{c, s} {
		wg.Go(func() { sendCounted(t, conn, bytesEach) })
		read := make(chan struct{})
		readers.Go(func() {
			readCounted(t, conn, bytesEach)
			close(read)
			conn.Read(make([]byte, 1)) // answers come that way
		})
		wg.Go(func() { <-read })
		for range 2 { // calls at one end wait for each other
			wg.Go(func() {
				for range rounds / 2 {
					if err := conn.Reattest(t.Context()); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	c.Close()
	readers.Wait()
	for _, conn := range []*Conn{c, s} {
		if n := conn.ConnectionState().Reattestations; n != rounds {
			t.Errorf("%d rounds, want %d", n, rounds)
		}
	}
}

// sendCounted sends n bytes of 8-byte counters in one Write after another of many
// records each.
func sendCounted(t testing.TB, conn *Conn, n int) {
	b := make([]byte, 256<<10)
	for at := 0; at < n; at += len(b) {
		for i := 0; i < len(b); i += 8 {
			binary.BigEndian.PutUint64(b[i:], uint64(at+i))
		}
		if _, err := conn.Write(b); err != nil {
			t.Errorf("Write: %v", err)
			return
		}
	}
}

// readCounted reads them.
func readCounted(t testing.TB, conn *Conn, n int) {
	var b [8]byte
	r := io.Reader(conn)
	for at := 0; at < n; at += 8 {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			t.Errorf("Read at %d: %v", at, err)
			return
		}
		if got := binary.BigEndian.Uint64(b[:]); got != uint64(at) {
			t.Errorf("%d at %d", got, at)
			return
		}
	}
}

// TestReattestKeepsApplicationData: what arrives while Reattest reads by itself is
// there for the next Read, in order, up to a bound; beyond it Reattest waits for a
// reader.
func TestReattestKeepsApplicationData(t *testing.T) {
	for _, n := range []int{100, maxKept / 2, 4 * maxKept} {
		client, server := reattesting()
		asked := make(chan struct{})
		server.Attestation.Attester = &stubTEE{attest: func(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
			if req.Challenge.Binding.IsExpat() {
				<-asked // the data goes first
			}
			return (&stubTEE{}).honest(req.Challenge)
		}}
		c, s := established(t, client, server)
		go io.Copy(io.Discard, readerOf{s})
		data := bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
		ended := make(chan error, 1)
		go func() { ended <- c.Reattest(t.Context()) }()
		go func() {
			s.Write(data)
			close(asked)
		}()
		if n <= maxKept {
			if err := <-ended; err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
		got := make([]byte, n)
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if n > maxKept {
			if err := <-ended; err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
	}
}

// TestMachineThatWentBadIsFoundOut: a machine that goes bad after the handshake is
// found out by the next round, which closes the connection at both ends and says why at
// each.
//
// Hooks: read-error.
func TestMachineThatWentBadIsFoundOut(t *testing.T) {
	for name, want := range map[string]struct {
		bad   func(ch attestext.Challenge) ([]byte, error)
		class error
		alert alert
		stage string
	}{
		"other software": {func(ch attestext.Challenge) ([]byte, error) {
			ch.Binder = bytes.Repeat([]byte{1}, len(ch.Binder))
			return (&stubTEE{}).honest(&ch)
		}, attestext.ErrBinding, alertBadCertificate, AttestationStageAppraise},
		"nothing that attests": {func(attestext.Challenge) ([]byte, error) { return nil, errDown },
			exportedauth.ErrRefused, alertHandshakeFailure, AttestationStageCertificate},
	} {
		for _, interval := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, by itself %v", name, interval), func(t *testing.T) {
				client, server := reattesting()
				client.Attestation.Attester, server.Attestation.Verifier = nil, nil
				var bad atomic.Bool
				rounds := make(chan struct{}, 100)
				server.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
					if req.Challenge.Binding.IsExpat() {
						select {
						case rounds <- struct{}{}:
						default:
						}
						if bad.Load() {
							return want.bad(*req.Challenge)
						}
					}
					return (&stubTEE{}).honest(req.Challenge)
				}}
				if interval {
					client.Attestation.ReattestInterval = time.Millisecond
				}
				c, s := established(t, client, server)
				served := make(chan error, 1)
				go func() {
					_, err := io.Copy(s, readerOf{s})
					served <- err
				}()
				roundTrip(t, c, 0)
				if interval {
					<-rounds
					<-rounds
				} else if err := c.Reattest(t.Context()); err != nil {
					t.Fatal(err)
				}
				bad.Store(true)
				read := make(chan error, 1)
				go func() {
					_, err := c.Read(make([]byte, 1)) // which waits
					read <- err
				}()
				if !interval {
					if err := c.Reattest(t.Context()); !errors.Is(err, want.class) {
						t.Errorf("Reattest: %v", err)
					}
				}
				err := <-read
				ae, ok := errors.AsType[*AttestationError](err)
				if !ok || !errors.Is(err, want.class) || alert(ae.Alert) != want.alert || ae.Stage != want.stage {
					t.Errorf("Read: %v, at stage %v", err, ae)
				}
				for what, err := range map[string]error{
					"Write":    second(c.Write([]byte("x"))),
					"Read":     second(c.Read(make([]byte, 1))),
					"Reattest": c.Reattest(t.Context()),
				} {
					if !errors.Is(err, want.class) {
						t.Errorf("%s after it: %v", what, err)
					}
				}
				if cs := c.ConnectionState(); cs.PeerAttestation != nil {
					t.Errorf("%+v", cs.AttestationState)
				}
				if err := <-served; err == nil {
					t.Error("the server noticed nothing")
				}
				if a, ok := s.AlertReceived(); !ok || alert(a) != want.alert {
					t.Errorf("the server received %v, %v", a, ok)
				}
			})
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestSlowReattestationHoldsUpNoData: while an attester and a verifier take their time,
// data goes both ways.
func TestSlowReattestationHoldsUpNoData(t *testing.T) {
	for _, who := range []string{"attester", "verifier"} {
		client, server := reattesting()
		begun, release := make(chan struct{}), make(chan struct{})
		wait := func(b attestext.Binding) {
			if b.IsExpat() {
				close(begun)
				<-release
			}
		}
		if who == "attester" {
			server.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
				wait(req.Challenge.Binding)
				return (&stubTEE{}).honest(req.Challenge)
			}}
		} else {
			client.Attestation.Verifier = &stubTEE{appraise: func(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
				wait(ch.Binding)
				return (&stubTEE{}).Appraise(ctx, ev, ch)
			}}
		}
		c, s := established(t, client, server)
		echo(s)
		ended := make(chan error, 1)
		go func() { ended <- c.Reattest(t.Context()) }()
		<-begun
		for i := range 10 {
			roundTrip(t, c, i)
		}
		select {
		case err := <-ended:
			t.Errorf("%s: over before its time: %v", who, err)
		default:
		}
		close(release)
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", who, err)
		}
		roundTrip(t, c, 10)
	}
}

// TestReattestEnds: with its context, with Close, and with a peer that does not
// answer; and it leaves a connection alone on which it cannot be.
func TestReattestEnds(t *testing.T) {
	hold := func(server *Config) (begun chan struct{}) {
		begun = make(chan struct{}, 1)
		server.Attestation.Attester = &stubTEE{attest: func(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
			if !req.Challenge.Binding.IsExpat() {
				return (&stubTEE{}).honest(req.Challenge)
			}
			begun <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		return begun
	}
	t.Run("its context", func(t *testing.T) {
		for _, reads := range []bool{false, true} {
			client, server := reattesting()
			begun := hold(server)
			c, s := established(t, client, server)
			echo(s)
			if reads {
				go c.Read(make([]byte, 1))
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- c.Reattest(ctx) }()
			<-begun
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, context.Canceled) {
				t.Errorf("Write: %v", err)
			}
			s.Close()
		}
	})
	t.Run("its own time", func(t *testing.T) {
		client, server := reattesting()
		hold(server)
		c, s := established(t, client, server)
		echo(s)
		x := &attestExchange{c: c}
		x.config = c.attestAuthenticators(x, c.attestVerifyChainAgain)
		x.config.Timeout = time.Millisecond
		if _, err := x.again(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		s.Close()
	})
	t.Run("Close", func(t *testing.T) {
		client, server := reattesting()
		begun := hold(server)
		c, s := established(t, client, server)
		echoed := echo(s)
		ended := make(chan error, 1)
		go func() { ended <- c.Reattest(t.Context()) }()
		<-begun
		c.Close()
		if err := <-ended; err == nil {
			t.Error("no error")
		}
		<-echoed
		if a, ok := s.AlertReceived(); ok {
			t.Errorf("Close sent alert %v", a)
		}
	})
	t.Run("the peer closes", func(t *testing.T) {
		client, server := reattesting()
		begun := hold(server)
		c, s := established(t, client, server)
		go func() {
			s.Write([]byte("the last words"))
			s.Read(make([]byte, 1))
		}()
		ended := make(chan error, 1)
		go func() { ended <- c.Reattest(t.Context()) }()
		<-begun
		s.CloseWrite()
		if err := <-ended; !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != "the last words" {
			t.Errorf("%q, %v", b, err)
		}
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("a Write to a peer whose attestation has lapsed")
		}
	})
	t.Run("a deadline of the application's", func(t *testing.T) {
		client, server := reattesting()
		c, s := established(t, client, server)
		echo(s)
		c.SetReadDeadline(time.Unix(1, 0))
		ended := make(chan error, 1)
		go func() { ended <- c.Reattest(t.Context()) }()
		if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
			t.Errorf("%v", err)
		}
		c.SetReadDeadline(time.Time{})
		if err := <-ended; err != nil {
			t.Errorf("%v", err)
		}
		roundTrip(t, c, 0)
	})
	t.Run("where it cannot be", func(t *testing.T) {
		client, server := attesting()
		c, s := established(t, client, server)
		echo(s)
		if err := c.Reattest(t.Context()); err == nil || !strings.Contains(err.Error(), "CarriagePostHandshake") {
			t.Errorf("%v", err)
		}
		if err := s.Reattest(t.Context()); err == nil || !strings.Contains(err.Error(), "does not ask") {
			t.Errorf("%v", err)
		}
		roundTrip(t, c, 0)
	})
}

// TestVerifyConnectionSeesEachRound: it is called with the verdict of each round, and
// may refuse it.
func TestVerifyConnectionSeesEachRound(t *testing.T) {
	client, server := reattesting()
	calls := 0
	client.VerifyConnection = func(cs ConnectionState) error {
		if !cs.PeerAttestation.Valid() || cs.Reattestations != calls {
			t.Errorf("call %d sees %+v", calls, cs.AttestationState)
		}
		if calls++; calls == 3 {
			return errors.New("not this time")
		}
		return nil
	}
	c, s := established(t, client, server)
	echo(s)
	if err := c.Reattest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Reattest(t.Context()); err == nil || !strings.Contains(err.Error(), "not this time") {
		t.Errorf("%v", err)
	}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("Write")
	}
}

// TestReattestVerifiesTheChainAgain: a certificate that has expired since the handshake
// is refused.
func TestReattestVerifiesTheChainAgain(t *testing.T) {
	client, server := reattesting()
	var late atomic.Bool
	client.Time = func() time.Time {
		if late.Load() {
			return time.Unix(1<<34, 0)
		}
		return time.Now()
	}
	c, s := established(t, client, server)
	echo(s)
	if err := c.Reattest(t.Context()); err != nil {
		t.Fatal(err)
	}
	late.Store(true)
	if err := c.Reattest(t.Context()); !errors.As(err, new(*CertificateVerificationError)) {
		t.Errorf("%v", err)
	}
}

// TestReattestAuthenticatesTheClient: a client that was not asked for a certificate in
// the handshake is held to ClientCAs when it attests.
func TestReattestAuthenticatesTheClient(t *testing.T) {
	client, server := attestConfigs()
	client.Attestation = &AttestationConfig{Attester: &stubTEE{}, Carriage: CarriagePostHandshake}
	server.Attestation = &AttestationConfig{Verifier: &stubTEE{}, Peer: RequestAttestation}
	c, s := established(t, client, server)
	go c.Read(make([]byte, 1))
	if err := s.Reattest(t.Context()); err != nil || len(s.ConnectionState().VerifiedChains) == 0 {
		t.Errorf("%v", err)
	}
	client.Certificates = []Certificate{selfSigned(t)}
	client.Attestation = &AttestationConfig{Mode: PostHandshake, Attester: &stubTEE{}}
	server.Attestation = &AttestationConfig{Mode: PostHandshake, Verifier: &stubTEE{}}
	if ends := attestHandshake(t, client, server); !errors.As(ends.serverErr, new(*CertificateVerificationError)) {
		t.Errorf("%v", ends.serverErr)
	}
}

// TestWhoMerelyRequestsAsksNobodyWithoutACarriage: nothing says that such a client
// attests, which has the server attest all the same.
func TestWhoMerelyRequestsAsksNobodyWithoutACarriage(t *testing.T) {
	client, server := exchanging(PostHandshake)
	client.Attestation.Attester, client.Attestation.Carriage = nil, CarriageLeading
	server.Attestation.Peer = RequestAttestation
	seen := 0
	server.VerifyConnection = func(cs ConnectionState) error {
		if seen++; cs.PeerAttestation != nil {
			t.Error("there is a result about the client")
		}
		return nil
	}
	cli, srv := established(t, client, server)
	if !cli.ConnectionState().PeerAttestation.Valid() || srv.ConnectionState().PeerAttestation != nil || seen != 1 {
		t.Errorf("the server is %v, the client %v, VerifyConnection was called %d times",
			cli.ConnectionState().PeerAttestation, srv.ConnectionState().PeerAttestation, seen)
	}
}

// TestRequestedExchangeMayBeRefused: a peer that need not attest, and does not, is
// accepted in each carriage that can tell, and once it has attested it has to go on.
func TestRequestedExchangeMayBeRefused(t *testing.T) {
	client, server := exchanging(PostHandshake)
	onlyServerAttests(client, server)
	client.Attestation.Peer = RequestAttestation
	server.Attestation = &AttestationConfig{}
	cc, sc := localPipe(t)
	defer cc.Close()
	defer sc.Close()
	seen := 0
	client.VerifyConnection = func(cs ConnectionState) error {
		if seen++; cs.PeerAttestation != nil {
			t.Error("VerifyConnection sees a result")
		}
		return nil
	}
	c, s := Client(cc, client), Server(sc, server)
	echo(s) // the handshake, and the refusal
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if c.ConnectionState().PeerAttestation != nil {
		t.Error("there is a result")
	}
	if err := c.Reattest(t.Context()); err != nil {
		t.Error(err)
	}
	roundTrip(t, c, 0)

	if seen != 1 {
		t.Errorf("VerifyConnection was called %d times", seen)
	}
	server = server.Clone()
	server.Attestation = nil // and no carriage
	if ends := attestHandshake(t, client, server); ends.clientErr != nil || ends.client.ConnectionState().PeerAttestation != nil || seen != 2 {
		t.Errorf("%v, VerifyConnection was called %d times", ends.clientErr, seen)
	}
	client, server = exchanging(PostHandshake)
	onlyServerAttests(client, server)
	client.Attestation.Peer = RequestAttestation
	var gone atomic.Bool
	server.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
		if gone.Load() {
			return nil, errDown
		}
		return (&stubTEE{}).honest(req.Challenge)
	}}
	c, s = established(t, client, server)
	echo(s)
	if !c.ConnectionState().PeerAttestation.Valid() {
		t.Error("there is no result")
	}
	gone.Store(true)
	if err := c.Reattest(t.Context()); !errors.Is(err, exportedauth.ErrRefused) {
		t.Error(err)
	}
}

// TestReattestInterval: rounds come by themselves, at both ends, and end with Close.
func TestReattestInterval(t *testing.T) {
	client, server := reattesting()
	client.Attestation.ReattestInterval, server.Attestation.ReattestInterval = time.Millisecond, 2*time.Millisecond
	c, s := established(t, client, server)
	echoed := echo(s)
	for i := 0; c.ConnectionState().Reattestations < 3 || s.ConnectionState().Reattestations < 3; i++ {
		roundTrip(t, c, i)
	}
	c.Close()
	<-echoed
	s.Close()
	for _, conn := range []*Conn{c, s} {
		if conn.attest.cancels.timer.Stop() {
			t.Error("a closed connection waits for a round")
		}
	}
	client, server = reattesting()
	client.Attestation.ReattestInterval = time.Hour
	server.Attestation.Carriage = CarriageLeading // which is not for this mode
	server.Attestation = nil
	client.Attestation.Peer = RequestAttestation
	ends := attestHandshake(t, client, server)
	if _, sent := ends.client.AlertSent(); ends.clientErr == nil || !sent || !strings.Contains(ends.clientErr.Error(), "ReattestInterval") {
		t.Errorf("%v", ends.clientErr)
	}
}

// TestCarriageIsNegotiated: who insists on handshake records refuses a peer that has
// none, in the handshake, and the extension is empty and nowhere else.
func TestCarriageIsNegotiated(t *testing.T) {
	client, server := exchanging(PostHandshake)
	client.Attestation.Carriage, server.Attestation.Carriage = CarriagePostHandshake, CarriageLeading
	ends := attestHandshake(t, client, server)
	if a, ok := ends.client.AlertSent(); !ok || alert(a) != alertMissingExtension {
		t.Errorf("client: %v, alert %v", ends.clientErr, a)
	}
	client.Attestation.Carriage, server.Attestation.Carriage = CarriageLeading, CarriagePostHandshake
	ends = attestHandshake(t, client, server)
	if a, ok := ends.server.AlertSent(); !ok || alert(a) != alertMissingExtension {
		t.Errorf("server: %v, alert %v", ends.serverErr, a)
	}
	cp := testCodePoints
	one := attestExtension{cp.AuthenticatorCarriage, []byte{0}}
	for name, tt := range map[string]struct {
		client, server *misbehavingPeer
		alert          alert
	}{
		"with a body in ClientHello": {client: &misbehavingPeer{
			clientHello: func([]attestExtension) []attestExtension { return []attestExtension{one} }}, alert: alertDecodeError},
		"with a body in EncryptedExtensions": {server: &misbehavingPeer{
			encryptedExtensions: func(*Conn, []attestExtension) []attestExtension { return []attestExtension{one} }}, alert: alertDecodeError},
		"in ServerHello": {server: &misbehavingPeer{
			serverHello: []attestExtension{{cp.AuthenticatorCarriage, nil}}}, alert: alertIllegalParameter},
		"gone in the second ClientHello": {client: &misbehavingPeer{
			secondClientHello: func([]attestExtension) []attestExtension { return nil }}, alert: alertIllegalParameter},
		"unasked for": {server: &misbehavingPeer{
			encryptedExtensions: func(_ *Conn, l []attestExtension) []attestExtension {
				return append(l, attestExtension{cp.AuthenticatorCarriage, nil})
			}}, alert: alertUnsupportedExtension},
	} {
		client, server := exchanging(PostHandshake)
		onlyServerAttests(client, server)
		if name == "unasked for" {
			client.Attestation.Carriage = CarriageLeading
		}
		if strings.HasPrefix(name, "gone") {
			server.CurvePreferences = []CurveID{CurveP256}
		}
		cc, sc := localPipe(t)
		ends := &attestEnds{client: Client(cc, client), server: Server(sc, server)}
		refusing := ends.client
		if tt.client != nil {
			tt.client.client(ends.client)
			refusing = ends.server
		} else {
			tt.server.server(ends.server)
		}
		ends.run(t, cc, sc)
		if a, ok := refusing.AlertSent(); !ok || alert(a) != tt.alert {
			t.Errorf("%s: client %v, server %v, alert %v", name, ends.clientErr, ends.serverErr, a)
		}
	}
}

// TestCloseDoesNotWaitForAnAnswerToBeRead: Close does not wait for a peer that asks and
// does not read the answer.
func TestCloseDoesNotWaitForAnAnswerToBeRead(t *testing.T) {
	t.Parallel()
	client, server := reattesting()
	cc, sc := net.Pipe() // which has no buffer
	c, s := Client(cc, client), Server(sc, server)
	defer cc.Close()
	shaken := make(chan error, 1)
	go func() { shaken <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { read <- second(s.Read(make([]byte, 1))) }()
	p := newTalk(t, c)
	if err := p.say(request(t, p)); err != nil {
		t.Fatal(err)
	}
	if _, err := cc.Read(make([]byte, 1)); err != nil { // and no more: it writes
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Error("Close hangs")
		sc.Close()
	}
	<-read
}

// A lastWords is a connection that is told when a round of re-attestation is to end it.
type lastWords struct {
	*net.TCPConn
	armed   atomic.Bool
	ending  chan struct{} // the failure is known, and nothing is said yet
	release chan struct{}
	flood   bool         // the peer sends without end
	until   atomic.Value // time.Time: the last deadline for reading
	closed  chan time.Time
}

func (l *lastWords) SetWriteDeadline(t time.Time) error {
	if l.armed.CompareAndSwap(true, false) {
		close(l.ending)
		<-l.release
	}
	return l.TCPConn.SetWriteDeadline(t)
}

func (l *lastWords) SetReadDeadline(t time.Time) error {
	l.until.Store(t)
	return l.TCPConn.SetReadDeadline(t)
}

func (l *lastWords) Read(b []byte) (int, error) {
	if until, ok := l.until.Load().(time.Time); l.flood && ok && until.Unix() > 1 {
		return len(b), nil
	}
	return l.TCPConn.Read(b)
}

func (l *lastWords) Close() error {
	select {
	case l.closed <- time.Now():
	default:
	}
	return l.TCPConn.Close()
}

// TestPeerIsToldWhyARoundFailed: the alert arrives also where the application, which
// learns of the failure from a Write, calls Close before it is out, and where the peer
// sends on without end.
//
// Hooks: close.
func TestPeerIsToldWhyARoundFailed(t *testing.T) {
	for _, flood := range []bool{false, true} {
		client, server := reattesting()
		cc, sc := localPipe(t)
		l := &lastWords{TCPConn: sc.(*net.TCPConn), ending: make(chan struct{}), release: make(chan struct{}), flood: flood, closed: make(chan time.Time, 1)}
		server.VerifyConnection = func(cs ConnectionState) error {
			if cs.Reattestations == 0 {
				return nil
			}
			l.armed.Store(true)
			return errors.New("no")
		}
		c, s := Client(cc, client), Server(l, server)
		defer cc.Close()
		defer sc.Close()
		shaken := make(chan error, 1)
		go func() { shaken <- s.Handshake() }()
		if err := errors.Join(c.Handshake(), <-shaken); err != nil {
			t.Fatal(err)
		}
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		failed := make(chan error, 1)
		go func() { failed <- s.Reattest(t.Context()) }()
		<-l.ending
		if _, err := s.Write([]byte("x")); !errors.As(err, new(*AttestationError)) {
			t.Errorf("Write: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		close(l.release)
		if err := <-failed; !errors.As(err, new(*AttestationError)) {
			t.Errorf("Reattest: %v", err)
		}
		if _, ok := alertOf(<-read, "remote error"); !ok {
			t.Error("the peer is not told")
		}
		if !flood {
			c.Close()
		}
		if closed := <-l.closed; flood && closed.Before(l.until.Load().(time.Time)) {
			t.Error("a peer that sends on is cut off before it can have read why")
		}
	}
}

// FuzzPostHandshakeMessages has both ends read what comes in handshake records after the
// handshake, while a request of theirs waits for its answer.
func FuzzPostHandshakeMessages(f *testing.F) {
	client, server := reattesting()
	c, s := established(f, client, server)
	p := newTalk(f, s)
	r, err := c.attest.live.session.RequestAttestation(c.attestAuthenticators(&attestExchange{c: c}, c.attestVerifyChainAgain))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(true, r.Bytes())
	if r, err = p.session.ReadRequest(r.Bytes()); err != nil {
		f.Fatal(err)
	}
	b, err := p.session.Attest(context.Background(), r, p.conf)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(false, b)
	f.Add(false, split(b)[2])
	f.Fuzz(func(t *testing.T, toServer bool, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		from := c
		if toServer {
			from = s
		}
		conn := &Conn{conn: deadConn{}, isClient: from.isClient, config: from.config, vers: VersionTLS13, haveVers: true, cipherSuite: from.cipherSuite, ekm: from.ekm}
		session, err := conn.attestSession()
		if err != nil {
			t.Fatal(err)
		}
		conn.attest.live.init(session)
		conn.isHandshakeComplete.Store(true)
		conn.out.err = errDown // nothing of what it says is wanted
		round := &attestRound{make(chan []byte, 1)}
		conn.attest.live.pending = round
		conn.in.Lock()
		defer conn.in.Unlock()
		conn.hand.Write(b)
		for conn.hand.Len() > 0 {
			if b[len(b)-conn.hand.Len()] == typeKeyUpdate { // which is upstream's, and wants keys
				return
			}
			if err := conn.handlePostHandshakeMessage(); err != nil {
				break
			}
		}
		if n := len(conn.attest.live.parts); n > len(b) {
			t.Errorf("%d bytes are kept of %d", n, len(b))
		}
	})
}

// deadConn is a connection that has ended.
type deadConn struct{ net.Conn }

func (deadConn) Read([]byte) (int, error)         { return 0, io.EOF }
func (deadConn) Write(b []byte) (int, error)      { return len(b), nil }
func (deadConn) SetReadDeadline(time.Time) error  { return nil }
func (deadConn) SetWriteDeadline(time.Time) error { return nil }
func (deadConn) Close() error                     { return nil }

// attestReadAuthenticator reads Certificate, CertificateVerify and Finished, or
// Finished alone, with nothing between them.
func (c *Conn) attestReadAuthenticator(op string) ([]byte, error) {
	b, err := c.attestReadMessage(op, typeCertificate, typeFinished)
	if err != nil || b[0] == typeFinished {
		return b, err
	}
	for _, typ := range []uint8{typeCertificateVerify, typeFinished} {
		m, err := c.attestReadMessage(op, typ)
		if err != nil {
			return nil, err
		}
		b = append(b, m...)
	}
	return b, nil
}
