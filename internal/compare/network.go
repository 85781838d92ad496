package compare

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// A Network makes connections with a round-trip time.
type Network interface {
	// Name says what makes the delay, for people.
	Name() string
	// Dial returns both ends of a new TCP connection over loopback.
	Dial(rtt time.Duration) (client, server net.Conn, err error)
	Close() error
}

// ErrNetem: there is no netem here, or no permission to use it.
var ErrNetem = errors.New("netem cannot be used")

// Names of networks.
const (
	NetAuto  = "auto"
	NetNetem = "netem"
	NetDelay = "delay"
)

// NewNetwork returns the network of that name. NetAuto is netem where that is
// permitted, and else the delay line, whose Name says why.
func NewNetwork(name string) (Network, error) {
	switch name {
	case NetDelay:
		return newDelayLines("")
	case NetNetem:
		n, err := newNetem()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNetem, err)
		}
		return n, nil
	case NetAuto:
		n, err := newNetem()
		if err != nil {
			return newDelayLines(fmt.Sprintf("; netem is not possible here: %v", err))
		}
		return n, nil
	}
	return nil, fmt.Errorf("there is no network %q", name)
}

// delayLines are TCP connections on loopback between lines.
type delayLines struct {
	mu  sync.Mutex
	ln  net.Listener
	why string
}

func newDelayLines(why string) (Network, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &delayLines{ln: ln, why: why}, nil
}

func (d *delayLines) Name() string {
	return "in-process delay lines over loopback TCP, with the window of slow start" + d.why
}

func (d *delayLines) Close() error { return d.ln.Close() }

func (d *delayLines) Dial(rtt time.Duration) (client, server net.Conn, err error) {
	d.mu.Lock()
	client, server, err = dialPair(d.ln)
	d.mu.Unlock()
	if err == nil && rtt > 0 {
		client, server = newLine(client, rtt), newLine(server, rtt)
	}
	return client, server, err
}

// dialPair returns both ends of a connection to ln. It must not be called concurrently.
func dialPair(ln net.Listener) (client, server net.Conn, err error) {
	for {
		client, err = net.DialTimeout("tcp", ln.Addr().String(), sampleTimeout)
		if err != nil {
			return nil, nil, err
		}
		if server, err = ln.Accept(); err != nil {
			client.Close()
			return nil, nil, err
		}
		if server.RemoteAddr().String() == client.LocalAddr().String() {
			return client, server, nil
		}
		client.Close() // somebody else dialled
		server.Close()
	}
}
