package tls

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

var (
	soakConnections = flag.Int("attest-soak-connections", 12, "how many connections TestSoakReattestsUnderLoad runs")
	soakRounds      = flag.Int("attest-soak-rounds", 6, "how often each of them re-attests, half of it from either end")
)

// soakAtOnce is how many connections are open at a time.
const soakAtOnce = 8

// TestSoakReattestsUnderLoad: connections in each mode whose ends both re-attest the
// other while both send and receive as fast as they can lose no byte and reorder none,
// and leave nothing behind. scripts/soak runs more of them.
func TestSoakReattestsUnderLoad(t *testing.T) {
	modes := []AttestationMode{InHandshake, PostHandshake, Combined}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	soakLive(t, ln, PostHandshake, 0) // what is set up once is there now
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)

	var mu sync.Mutex
	var moved int64
	var wg sync.WaitGroup
	slots := make(chan struct{}, soakAtOnce)
	for i := range *soakConnections {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			n := soakLive(t, ln, modes[i%len(modes)], *soakRounds/2)
			mu.Lock()
			defer mu.Unlock()
			moved += n
		})
	}
	wg.Wait()

	says, ok := "", false
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok && time.Now().Before(end); <-tick.C {
		g, d := runtime.NumGoroutine(), openDescriptors(t)
		says, ok = fmt.Sprintf("%d goroutines and %d descriptors, %d and %d before", g, d, goroutines, descriptors), g <= goroutines && d <= descriptors
	}
	if !ok {
		stacks := make([]byte, 1<<20)
		t.Errorf("left behind: %s\n%s", says, stacks[:runtime.Stack(stacks, true)])
	}
	t.Logf("%d connections, each re-attested %d times, %d MB of application data in order; %s", *soakConnections, *soakRounds, moved>>20, says)
}

// soakLive runs one connection, and returns how many bytes of application data it
// moved.
func soakLive(t *testing.T, ln net.Listener, mode AttestationMode, rounds int) int64 {
	client, server := reattesting()
	client.Attestation.Mode, server.Attestation.Mode = mode, mode
	accepted := make(chan net.Conn, 1)
	var accepting sync.WaitGroup
	cc, err := func() (net.Conn, error) {
		soakAccept.Lock() // who dials is who is accepted
		defer soakAccept.Unlock()
		accepting.Go(func() {
			s, _ := ln.Accept()
			accepted <- s
		})
		c, err := net.Dial("tcp", ln.Addr().String())
		accepting.Wait()
		return c, err
	}()
	if err != nil {
		t.Error(err)
		return 0
	}
	sc := <-accepted
	defer cc.Close()
	defer sc.Close()
	deadline := time.Now().Add(5 * time.Minute)
	cc.SetDeadline(deadline)
	sc.SetDeadline(deadline)
	ends := [2]*Conn{Client(cc, client), Server(sc, server)}

	// Each end writes until both have had their rounds, and then says so by
	// CloseWrite; each reads to the end of the other.
	var attesting, writing, reading sync.WaitGroup
	stop := make(chan struct{})
	var sent, received [2]int64
	// A Write waits while three before it are on the way, so that a round does not
	// stand in line behind megabytes in buffers.
	windows := [2]chan int64{make(chan int64, 3), make(chan int64, 3)}
	for i, conn := range ends {
		writing.Go(func() { sent[i] = soakWrite(t, conn, uint64(i), windows[i], stop) })
		reading.Go(func() { received[i] = soakRead(t, conn, windows[1-i]) })
		attesting.Go(func() {
			for n := range rounds {
				if err := conn.Reattest(context.Background()); err != nil {
					t.Errorf("%v, end %d, round %d: %v", mode, i, n, err)
					return
				}
			}
		})
	}
	attesting.Wait()
	close(stop)
	writing.Wait()
	for _, conn := range ends {
		if err := conn.CloseWrite(); err != nil {
			t.Errorf("%v: CloseWrite: %v", mode, err)
		}
	}
	reading.Wait()
	for i, conn := range ends {
		if received[1-i] != sent[i] {
			t.Errorf("%v: end %d sent %d bytes, and %d arrived", mode, i, sent[i], received[1-i])
		}
		if cs := conn.ConnectionState(); cs.Reattestations != rounds || !cs.PeerAttestation.Valid() {
			t.Errorf("%v: end %d had %d rounds, want %d", mode, i, cs.Reattestations, rounds)
		}
	}
	return sent[0] + sent[1]
}

var soakAccept sync.Mutex

// soakWrite writes counters, in Writes of random sizes, until stop. It sends where each
// ends to window.
func soakWrite(t *testing.T, conn *Conn, seed uint64, window chan<- int64, stop chan struct{}) (n int64) {
	rnd := rand.New(rand.NewPCG(soakSeed, seed))
	buf := make([]byte, 64<<10)
	for {
		b := buf[:8*(1+rnd.IntN(len(buf)/8))]
		for i := 0; i < len(b); i += 8 {
			binary.BigEndian.PutUint64(b[i:], uint64(n)+uint64(i))
		}
		window <- n + int64(len(b))
		m, err := conn.Write(b)
		n += int64(m)
		if err != nil {
			t.Errorf("Write at %d: %v", n, err)
			return n
		}
		select {
		case <-stop:
			return n
		default:
		}
	}
}

// soakRead reads counters to the end, and receives from window where Writes ended.
func soakRead(t *testing.T, conn *Conn, window <-chan int64) (n int64) {
	var rest []byte
	var end int64
	buf := make([]byte, 32<<10)
	for {
		m, err := conn.Read(buf)
		rest = append(rest, buf[:m]...)
		for ; len(rest) >= 8; rest, n = rest[8:], n+8 {
			if got := binary.BigEndian.Uint64(rest); got != uint64(n) {
				t.Errorf("%d at %d", got, n)
				return n
			}
			if n == end {
				end = <-window
			}
		}
		if err == io.EOF {
			return n
		}
		if err != nil {
			t.Errorf("Read at %d: %v", n, err)
			return n
		}
	}
}
