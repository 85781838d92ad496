package accept

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A script is a listener that does as it is told, and is then closed.
type script struct {
	net.Listener
	errs []error // nil is a connection
	then func()
}

func (s *script) Accept() (net.Conn, error) {
	if len(s.errs) == 0 {
		if s.then != nil {
			s.then()
		}
		return nil, net.ErrClosed
	}
	err := s.errs[0]
	s.errs = s.errs[1:]
	if err != nil {
		return nil, err
	}
	c, _ := net.Pipe()
	return c, nil
}

func TestLoop(t *testing.T) {
	passing := &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	for _, tt := range []struct {
		name   string
		errs   []error
		cancel bool // as the script ends
		waits  []time.Duration
		served int
		err    error
	}{
		{"done", []error{nil, nil}, true, nil, 2, nil},
		{"fails for good", []error{nil}, false, nil, 1, net.ErrClosed},
		{"no descriptors for a while", []error{nil, passing, passing, nil, passing}, true,
			[]time.Duration{minWait, 2 * minWait, minWait}, 2, nil},
		{"no descriptors for long", slices.Repeat([]error{passing}, 10), true,
			[]time.Duration{5e6, 10e6, 20e6, 40e6, 80e6, 160e6, 320e6, 640e6, maxWait, maxWait}, 0, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			l := &script{errs: tt.errs}
			if tt.cancel {
				l.then = cancel
			}
			var mu sync.Mutex
			served, waits := 0, []time.Duration(nil)
			p := &Loop{Slots: make(chan struct{}, 1), Open: new(sync.WaitGroup), Serve: func(c net.Conn) {
				mu.Lock()
				defer mu.Unlock()
				served++
				c.Close()
			}, Retry: func(err error, wait time.Duration) {
				if err != passing {
					t.Errorf("%s: %v", tt.name, err)
				}
				waits = append(waits, wait)
			}}
			err := p.Run(ctx, l)
			p.Open.Wait()
			if !errors.Is(err, tt.err) || served != tt.served || !slices.Equal(waits, tt.waits) || len(p.Slots) != 0 {
				t.Errorf("%s: %v, %d served, waits %v, %d slots taken", tt.name, err, served, waits, len(p.Slots))
			}
		})
	}
}

// TestSlots: a connection is accepted when there is room for it, and waiting for room
// ends with the context.
func TestSlots(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := &script{errs: make([]error, 3)}
	release := make(chan struct{})
	began := make(chan struct{}, 3)
	p := &Loop{Slots: make(chan struct{}, 2), Open: new(sync.WaitGroup), Serve: func(net.Conn) {
		began <- struct{}{}
		<-release
	}}
	done := make(chan error)
	go func() { done <- p.Run(ctx, l) }()
	<-began
	<-began
	cancel()
	if err := <-done; err != nil || len(l.errs) != 1 {
		t.Errorf("%v, with %d connections not accepted", err, len(l.errs))
	}
	close(release)
	p.Open.Wait()
}

// TestEndsWhileItWaits: nobody waits for a listener that is not needed any more.
func TestEndsWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		passing := &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
		p := &Loop{Slots: make(chan struct{}, 1), Open: new(sync.WaitGroup), Retry: func(error, time.Duration) { cancel() }}
		if err := p.Run(ctx, &script{errs: []error{passing}}); err != nil || time.Since(start) != 0 {
			t.Errorf("%v, after %v", err, time.Since(start))
		}
	})
}
