// Package accept has the loop of a server that accepts connections, so many at a time, and how
// it ends one whose peer is to read the last that it said.
package accept

import (
	"context"
	"net"
	"sync"
	"time"
)

// Waits between two tries of a listener that fails for a while: the first, and the
// longest.
const (
	minWait = 5 * time.Millisecond
	maxWait = time.Second
)

// A Loop serves each connection in a goroutine of its own. Its fields may be shared with
// other Loops.
type Loop struct {
	// Slots has room for as many connections as are served at a time. The others wait to
	// be accepted.
	Slots chan struct{}
	// Open counts the connections that are being served.
	Open *sync.WaitGroup
	// Serve serves a connection, and closes it.
	Serve func(net.Conn)
	// Retry is told of an error that may pass, such as that there are no file descriptors
	// left, and of how long the Loop waits before it accepts again. nil: nobody is.
	Retry func(err error, wait time.Duration)
}

// Run accepts connections from l until ctx is done, which is no error, or l fails for
// good. Once ctx is done the caller has to close l. Connections may still be open when
// it returns.
func (p *Loop) Run(ctx context.Context, l net.Listener) error {
	var wait time.Duration
	for {
		select {
		case p.Slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		raw, err := l.Accept()
		if err == nil {
			wait = 0
			p.Open.Go(func() {
				defer func() { <-p.Slots }()
				p.Serve(raw)
			})
			continue
		}
		<-p.Slots
		if ctx.Err() != nil {
			return nil
		}
		// Temporary is deprecated for what it says of timeouts, and net/http goes by it.
		if ne, ok := err.(net.Error); !ok || !ne.Temporary() {
			return err
		}
		wait = min(max(2*wait, minWait), maxWait)
		if p.Retry != nil {
			p.Retry(err, wait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}
