package compare

import (
	"net"
	"sync"
	"time"
)

// The congestion window of a delay line, in bytes: ten segments of Ethernet (RFC 6928).
const (
	segment       = 1460
	initialWindow = 10 * segment
)

// A line is a connection whose Writes arrive later, by half of a round-trip time. As
// TCP in slow start (RFC 5681, section 3.1), it has no more under way than a window,
// which begins with ten segments and grows with what the other end acknowledges: what
// is larger takes another round trip. Nothing is lost, and bandwidth has no limit.
type line struct {
	net.Conn
	rtt time.Duration

	mu     sync.Mutex
	wake   *sync.Cond
	queue  []parcel
	closed bool

	// Of the window; see schedule.
	window, flying int
	flights        []flight
	last           time.Time
}

// A parcel is data that is due at the other end.
type parcel struct {
	data []byte
	due  time.Time
}

// A flight is data whose acknowledgement arrives at a time.
type flight struct {
	size  int
	acked time.Time
}

// newLine starts a line. Close ends it.
func newLine(c net.Conn, rtt time.Duration) *line {
	l := &line{Conn: c, rtt: rtt, window: initialWindow}
	l.wake = sync.NewCond(&l.mu)
	go l.deliver()
	return l
}

// Write returns at once.
func (l *line) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, net.ErrClosed
	}
	l.schedule(b, time.Now())
	l.wake.Signal()
	return len(b), nil
}

// schedule puts b into the queue, in pieces as the window allows.
func (l *line) schedule(b []byte, now time.Time) {
	if now.Before(l.last) {
		now = l.last
	}
	for len(b) > 0 {
		for len(l.flights) > 0 && (!l.flights[0].acked.After(now) || l.flying+min(segment, len(b)) > l.window) {
			f := l.flights[0]
			l.flights = l.flights[1:]
			l.flying -= f.size
			l.window += f.size
			if f.acked.After(now) {
				now = f.acked
			}
		}
		n := min(segment, len(b))
		l.flying += n
		l.flights = append(l.flights, flight{n, now.Add(l.rtt)})
		due := now.Add(l.rtt / 2)
		if k := len(l.queue); k > 0 && l.queue[k-1].due.Equal(due) {
			l.queue[k-1].data = append(l.queue[k-1].data, b[:n]...)
		} else {
			l.queue = append(l.queue, parcel{append([]byte(nil), b[:n]...), due})
		}
		b = b[n:]
	}
	l.last = now
}

func (l *line) deliver() {
	for {
		l.mu.Lock()
		for len(l.queue) == 0 && !l.closed {
			l.wake.Wait()
		}
		if l.closed {
			l.mu.Unlock()
			return
		}
		due := l.queue[0].due
		l.mu.Unlock()
		time.Sleep(time.Until(due))
		l.mu.Lock()
		p := l.queue[0]
		l.queue = l.queue[1:]
		l.mu.Unlock()
		if _, err := l.Conn.Write(p.data); err != nil {
			return
		}
	}
}

// Close drops what is on its way.
func (l *line) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.wake.Signal()
	return l.Conn.Close()
}
