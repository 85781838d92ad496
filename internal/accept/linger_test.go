package accept

import (
	"context"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// A half is a connection whose other end sends so many bytes, and then closes it or is
// silent.
type half struct {
	net.Conn
	sends  int
	closes bool
	past   chan struct{} // the deadline
	read   int
	closed bool // this end's half
}

func (h *half) CloseWrite() error { h.closed = true; return nil }

func (h *half) SetReadDeadline(time.Time) error { close(h.past); return nil }

func (h *half) Read(b []byte) (int, error) {
	if n := min(len(b), h.sends-h.read); n > 0 {
		h.read += n
		return n, nil
	}
	if h.closes {
		return 0, net.ErrClosed
	}
	<-h.past
	return 0, os.ErrDeadlineExceeded
}

func TestLinger(t *testing.T) {
	for _, tt := range []struct {
		name   string
		conn   half
		cancel time.Duration // 0: never
		took   time.Duration
		read   int
	}{
		{"a peer that closes", half{sends: 100, closes: true}, 0, 0, 100},
		{"a silent peer", half{}, 0, lingerTime, 0},
		{"a peer that sends on", half{sends: 1 << 30}, 0, lingerTime, lingerBytes},
		{"no more time", half{}, lingerTime / 2, lingerTime / 2, 0},
		{"no more time, and a peer that sends on", half{sends: 1 << 30}, lingerTime / 2, lingerTime / 2, lingerBytes},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.cancel > 0 {
				time.AfterFunc(tt.cancel, cancel)
			}
			tt.conn.past = make(chan struct{})
			start := time.Now()
			Linger(ctx, &tt.conn)
			if took := time.Since(start); took != tt.took || tt.conn.read != tt.read || !tt.conn.closed {
				t.Errorf("%s: %v, %d bytes read, closed: %v", tt.name, took, tt.conn.read, tt.conn.closed)
			}
		})
	}
	whole, _ := net.Pipe()
	Linger(t.Context(), whole) // and nobody waits for what has no halves
}
