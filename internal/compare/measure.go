package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/attestedtls/atls/tls"
)

// sampleTimeout bounds what one connection does.
const sampleTimeout = 30 * time.Second

// A countingConn counts bytes both ways, and how often something is read after
// something was written. One goroutine at a time writes, and one reads.
type countingConn struct {
	net.Conn
	in, out, trips atomic.Int64
	wrote          atomic.Bool
}

func (c *countingConn) Read(b []byte) (int, error) {
	if c.wrote.Swap(false) {
		c.trips.Add(1)
	}
	n, err := c.Conn.Read(b)
	c.in.Add(int64(n))
	return n, err
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.wrote.Store(true)
	n, err := c.Conn.Write(b)
	c.out.Add(int64(n))
	return n, err
}

// A connection is both ends of one.
type connection struct {
	wire    *countingConn // the client's
	peer    net.Conn      // the server's
	client  *tls.Conn
	serving chan error // what the server ended with
}

// dial makes a TCP connection and starts its server, which sends back each byte.
func dial(ctx context.Context, n Network, s *setup) (*connection, error) {
	c, p, err := n.Dial(s.cell.RTT)
	if err != nil {
		return nil, err
	}
	k := &connection{wire: &countingConn{Conn: c}, peer: p, serving: make(chan error, 1)}
	k.client = tls.Client(k.wire, s.client)
	server := tls.Server(p, s.server)
	go func() {
		err := server.HandshakeContext(ctx)
		if err == nil {
			_, err = io.CopyBuffer(server, struct{ io.Reader }{server}, make([]byte, 1024))
		} else {
			p.Close()
		}
		k.serving <- err
	}()
	return k, nil
}

// close ends both ends without close_notify, which nobody waits for.
func (k *connection) close() {
	k.wire.Close()
	k.peer.Close()
	<-k.serving
}

// ping sends a byte and waits for it to come back.
func (k *connection) ping() error {
	b := []byte{'a'}
	if _, err := k.client.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(k.client, b)
	return err
}

// open does the handshake, and explains a failure by what either end has to say.
func (k *connection) open(ctx context.Context) error {
	if err := k.client.HandshakeContext(ctx); err != nil {
		k.wire.Close()
		k.peer.Close()
		server := <-k.serving
		k.serving <- nil
		return fmt.Errorf("client: %w (server: %v)", err, server)
	}
	return nil
}

// measure takes one sample of a cell.
func measure(ctx context.Context, n Network, s *setup, window time.Duration) (*Sample, error) {
	switch s.cell.Kind {
	case Connect:
		return s.connect(ctx, n)
	case Reattest:
		return s.reattest(ctx, n)
	case Periodic:
		return s.periodic(ctx, n, window)
	case Load:
		return s.load(ctx, n, window)
	}
	return nil, fmt.Errorf("unknown kind %q", s.cell.Kind)
}

// A meter takes what a stretch of time used.
type meter struct {
	mem  runtime.MemStats
	cpu  float64
	has  bool
	when time.Time
}

func (s *setup) start() *meter {
	for _, v := range []*atomic.Int64{&s.clock.tee, &s.clock.verify, &s.clock.evidence, &s.clock.appraised} {
		v.Store(0)
	}
	m := &meter{}
	runtime.ReadMemStats(&m.mem)
	m.cpu, m.has = cpuMicros()
	m.when = time.Now()
	return m
}

func (m *meter) elapsed() float64 { return micros(time.Since(m.when)) }

// stop completes a sample.
func (m *meter) stop(s *setup, k *connection, sample *Sample) {
	cpu, _ := cpuMicros()
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	if m.has {
		used := cpu - m.cpu
		sample.CPU = &used
	}
	sample.Allocs = after.Mallocs - m.mem.Mallocs
	sample.TEE, sample.Verify = float64(s.clock.tee.Load())/1e3, float64(s.clock.verify.Load())/1e3
	sample.Evidence = s.clock.evidence.Load()
	if k != nil {
		sample.In, sample.Out, sample.Trips = k.wire.in.Load(), k.wire.out.Load(), int(k.wire.trips.Load())
	}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func (s *setup) connect(ctx context.Context, n Network) (*Sample, error) {
	k, err := dial(ctx, n, s)
	if err != nil {
		return nil, err
	}
	defer k.close()
	m := s.start()
	if err := k.open(ctx); err != nil {
		return nil, err
	}
	sample := &Sample{Handshake: m.elapsed()}
	if err := k.ping(); err != nil {
		return nil, err
	}
	sample.First = m.elapsed()
	m.stop(s, k, sample)
	return sample, nil
}

func (s *setup) reattest(ctx context.Context, n Network) (*Sample, error) {
	k, err := dial(ctx, n, s)
	if err != nil {
		return nil, err
	}
	defer k.close()
	if err := k.open(ctx); err != nil {
		return nil, err
	}
	if err := k.ping(); err != nil {
		return nil, err
	}
	in, out, trips := k.wire.in.Load(), k.wire.out.Load(), k.wire.trips.Load()
	m := s.start()
	if err := k.client.Reattest(ctx); err != nil {
		return nil, err
	}
	sample := &Sample{Handshake: m.elapsed()}
	sample.First = sample.Handshake
	m.stop(s, k, sample)
	sample.In, sample.Out, sample.Trips = sample.In-in, sample.Out-out, sample.Trips-int(trips)
	return sample, nil
}

func (s *setup) periodic(ctx context.Context, n Network, window time.Duration) (*Sample, error) {
	k, err := dial(ctx, n, s)
	if err != nil {
		return nil, err
	}
	defer k.close()
	if err := k.open(ctx); err != nil {
		return nil, err
	}
	m := s.start()
	pings := 0
	for time.Since(m.when) < window {
		if err := k.ping(); err != nil {
			return nil, err
		}
		pings++
	}
	sample := &Sample{Handshake: m.elapsed()}
	sample.First = sample.Handshake / float64(pings)
	sample.Rate = float64(pings) / (sample.Handshake / 1e6)
	sample.Rounds = s.clock.appraised.Load()
	m.stop(s, k, sample)
	return sample, nil
}

func (s *setup) load(ctx context.Context, n Network, window time.Duration) (*Sample, error) {
	m := s.start()
	var done atomic.Int64
	var all sync.WaitGroup
	workers := 2 * runtime.GOMAXPROCS(0)
	errs := make(chan error, workers)
	for range workers {
		all.Go(func() {
			for time.Since(m.when) < window {
				k, err := dial(ctx, n, s)
				if err == nil {
					if err = k.open(ctx); err == nil {
						err = k.ping()
					}
					k.close()
				}
				if err != nil {
					errs <- err
					return
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	close(errs)
	if err := <-errs; err != nil {
		return nil, err
	}
	if done.Load() == 0 {
		return nil, errors.New("no connection was done in time")
	}
	elapsed, each := m.elapsed(), float64(done.Load())
	sample := &Sample{Handshake: elapsed / each, First: elapsed / each, Rate: each / (elapsed / 1e6)}
	m.stop(s, nil, sample)
	// Of one connection.
	sample.TEE, sample.Verify, sample.Allocs = sample.TEE/each, sample.Verify/each, sample.Allocs/uint64(each)
	sample.Evidence /= int64(each)
	if sample.CPU != nil {
		*sample.CPU /= each
	}
	return sample, nil
}
