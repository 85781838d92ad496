package tls

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
)

var soakHandshakes = flag.Int("attest-soak", 200, "how many handshakes TestSoakLeavesNothingBehind runs")

// soakSeed has every run fail in the same places.
const soakSeed = 20261123

// soakBytes is about what either end reads of a handshake: a connection that ends
// at a random point ends before that, and now and then too late to matter.
const soakBytes = 2200

// errSoak is the failure of an attester or verifier.
var errSoak = errors.New("out of order")

// soakFailures are the ways in which a handshake of the soak fails. Each changes
// configurations in which both ends attest, or the connections; at is random.
var soakFailures = []struct {
	name string
	fail func(s *soakPair, at int)
}{
	{"the client's attester errs", func(s *soakPair, _ int) { s.mode.setAttester(s.clientConf, soakAttestErr) }},
	{"the server's attester errs", func(s *soakPair, _ int) { s.mode.setAttester(s.serverConf, soakAttestErr) }},
	{"the client's verifier errs", func(s *soakPair, _ int) { soakVerifier(s.clientConf, soakAppraiseErr) }},
	{"the server's verifier errs", func(s *soakPair, _ int) { soakVerifier(s.serverConf, soakAppraiseErr) }},
	{"the client's verifier is cancelled", func(s *soakPair, _ int) { soakVerifier(s.clientConf, s.cancelled) }},
	{"the server's verifier is cancelled", func(s *soakPair, _ int) { soakVerifier(s.serverConf, s.cancelled) }},
	{"the client's connection closes", func(s *soakPair, at int) { s.c.left, s.c.end = at, func(c net.Conn) { c.Close() } }},
	{"the server's connection closes", func(s *soakPair, at int) { s.s.left, s.s.end = at, func(c net.Conn) { c.Close() } }},
	{"the client's deadline passes", func(s *soakPair, at int) { s.c.left, s.c.end = at, expire }},
	{"the server's deadline passes", func(s *soakPair, at int) { s.s.left, s.s.end = at, expire }},
}

func expire(c net.Conn) { c.SetDeadline(time.Unix(1, 0)) }

func soakAttestErr(*attestext.AttestRequest) ([]byte, error) { return nil, errSoak }

func soakAppraiseErr(context.Context) error {
	return attestext.Errorf(attestext.ErrPolicy, "soak", "%w", errSoak)
}

// soakFailing is a verifier in either model that fails.
type soakFailing struct {
	stubTEE
	fail func(context.Context) error
}

func (v *soakFailing) Verifiers() []attestext.VerifierIdentity { return (&stubResults{}).Verifiers() }

func (v *soakFailing) Appraise(ctx context.Context, _ *attestext.Evidence, _ *attestext.Challenge) (*attestext.Appraisal, error) {
	return nil, v.fail(ctx)
}

func soakVerifier(c *Config, fail func(context.Context) error) {
	if c.Attestation.Verifier != nil {
		c.Attestation.Verifier = &soakFailing{fail: fail}
	}
	if c.Attestation.ResultsVerifier != nil {
		c.Attestation.ResultsVerifier = &soakFailing{fail: fail}
	}
}

// A soakPair is one handshake of the soak.
type soakPair struct {
	mode                   sweepMode
	clientConf, serverConf *Config
	c, s                   *cutConn
	ctx                    context.Context
	cancel                 context.CancelFunc
}

// cancelled has the handshakes' context end while a verifier is at work.
func (s *soakPair) cancelled(ctx context.Context) error {
	s.cancel()
	<-ctx.Done()
	return ctx.Err()
}

// cutConn ends, in one way or another, once it has read left bytes.
type cutConn struct {
	*net.TCPConn
	left  int
	end   func(net.Conn) // never, if nil
	ended bool
}

func (c *cutConn) Read(b []byte) (int, error) {
	if c.end != nil && !c.ended {
		if c.left == 0 {
			c.ended = true
			c.end(c.TCPConn)
		} else if len(b) > c.left {
			b = b[:c.left]
		}
	}
	n, err := c.TCPConn.Read(b)
	c.left -= n
	return n, err
}

// TestSoakLeavesNothingBehind: mutual handshakes in all modes, of which a tenth fails
// at a random point, leave no goroutine, no descriptor and no connection that moves
// data without a verdict. scripts/soak runs more of them.
func TestSoakLeavesNothingBehind(t *testing.T) {
	var modes []sweepMode
	for _, m := range productModels {
		for _, k := range productKinds {
			for _, b := range productBindings {
				modes = append(modes, sweepMode{m, k, b})
			}
		}
	}
	rnd := rand.New(rand.NewPCG(soakSeed, soakSeed))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	soakHandshake(t, ln, modes[0], "", nil, 0) // what is set up once is there now
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)

	failed, began := 0, map[string]int{}
	for i := range *soakHandshakes {
		mode := modes[i%len(modes)]
		name, fail := "", (func(*soakPair, int))(nil)
		if rnd.IntN(10) == 0 {
			f := soakFailures[rnd.IntN(len(soakFailures))]
			name, fail = f.name, f.fail
		}
		if soakHandshake(t, ln, mode, name, fail, rnd.IntN(soakBytes)) {
			failed++
			began[name]++
		}
	}

	settled := func() (string, bool) {
		g, d := runtime.NumGoroutine(), openDescriptors(t)
		return fmt.Sprintf("%d goroutines and %d descriptors, %d and %d before", g, d, goroutines, descriptors), g <= goroutines && d <= descriptors
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	says, ok := settled()
	for end := time.Now().Add(10 * time.Second); !ok && time.Now().Before(end); says, ok = settled() {
		<-tick.C
	}
	if !ok {
		stacks := make([]byte, 1<<20)
		t.Errorf("left behind: %s\n%s", says, stacks[:runtime.Stack(stacks, true)])
	}
	t.Logf("%d handshakes, %d of which failed in %d ways; %s", *soakHandshakes, failed, len(began), says)
	if *soakHandshakes >= 200 && (failed < *soakHandshakes/20 || len(began) < len(soakFailures)/2) {
		t.Errorf("the soak failed %d of %d handshakes in %d ways, too few", failed, *soakHandshakes, len(began))
	}
}

// soakHandshake runs one handshake, checks both ends of it, and returns whether it
// failed.
func soakHandshake(t *testing.T, ln net.Listener, mode sweepMode, name string, fail func(*soakPair, int), at int) (failed bool) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		s, _ := ln.Accept()
		accepted <- s
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := <-accepted
	if s == nil {
		t.Fatal("nothing was accepted")
	}
	defer s.Close()
	deadline := time.Now().Add(time.Minute)
	c.SetDeadline(deadline)
	s.SetDeadline(deadline)

	p := &soakPair{mode: mode, c: &cutConn{TCPConn: c.(*net.TCPConn)}, s: &cutConn{TCPConn: s.(*net.TCPConn)}}
	p.clientConf, p.serverConf = mode.configs()
	p.ctx, p.cancel = context.WithCancel(context.Background())
	defer p.cancel()
	if fail != nil {
		fail(p, at)
	}
	ends := &attestEnds{client: Client(p.c, p.clientConf), server: Server(p.s, p.serverConf)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ends.serverErr = soakEnd(p.ctx, ends.server, false)
		hangUp(s)
	}()
	ends.clientErr = soakEnd(p.ctx, ends.client, true)
	hangUp(c)
	<-done

	failed = ends.clientErr != nil || ends.serverErr != nil
	cut := p.c.end != nil || p.s.end != nil
	if want := fail != nil && (!cut || p.c.ended || p.s.ended); failed != want {
		t.Errorf("%v, failure %q at %d: client %v, server %v", mode, name, at, ends.clientErr, ends.serverErr)
	}
	for _, conn := range []*Conn{ends.client, ends.server} {
		if conn.isHandshakeComplete.Load() {
			if !conn.ConnectionState().PeerAttestation.Valid() {
				t.Errorf("%v, failure %q at %d: a handshake is complete and has no verdict", mode, name, at)
			}
		} else if n, err := conn.Write([]byte("x")); n != 0 || err == nil {
			t.Errorf("%v, failure %q at %d: a handshake is not complete, and writes %d bytes: %v", mode, name, at, n, err)
		}
	}
	return failed
}

// soakEnd runs the handshake of one end and moves a line each way.
func soakEnd(ctx context.Context, conn *Conn, client bool) error {
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	line := make([]byte, 5)
	if client {
		if _, err := io.WriteString(conn, "line\n"); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, line)
		return err
	}
	if _, err := io.ReadFull(conn, line); err != nil {
		return err
	}
	_, err := conn.Write(line)
	return err
}

// openDescriptors counts this process' descriptors, where the system says.
func openDescriptors(t *testing.T) int {
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		if strings.HasPrefix(runtime.GOOS, "linux") {
			t.Fatal(err)
		}
		return 0
	}
	return len(dir)
}
