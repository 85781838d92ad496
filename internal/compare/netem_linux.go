package compare

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// netem is a network namespace of its own whose loopback interface has the delay of
// netem(8). It belongs to one thread, which makes all its sockets; the namespace ends
// with them.
type netem struct {
	calls chan func()
	ended sync.Once

	mu  sync.Mutex
	ln  net.Listener
	rtt time.Duration
}

// newNetem tries to make one, and a delay in it.
func newNetem() (Network, error) {
	n := &netem{calls: make(chan func())}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends with this function
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			err = fmt.Errorf("new network namespace: %w", err)
		}
		started <- err
		if err != nil {
			return
		}
		for f := range n.calls {
			f()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	err := n.do(func() (err error) {
		// An MTU as of Ethernet, lest a segment hold all there is to send.
		if err := command("ip", "link", "set", "dev", "lo", "mtu", "1500", "up"); err != nil {
			return err
		}
		if err := n.delay(20 * time.Millisecond); err != nil {
			return err
		}
		n.ln, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// do calls f in the namespace.
func (n *netem) do(f func() error) error {
	done := make(chan error)
	n.calls <- func() { done <- f() }
	return <-done
}

// delay sets the round-trip time. It is called in the namespace.
func (n *netem) delay(rtt time.Duration) error {
	if err := command("tc", "qdisc", "replace", "dev", "lo", "root", "netem", "delay", fmt.Sprintf("%dus", (rtt/2).Microseconds()), "limit", "10000"); err != nil {
		return err
	}
	n.rtt = rtt
	return nil
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

func (n *netem) Name() string { return "netem on the loopback interface of a network namespace" }

// Dial changes the delay of the whole namespace: connections with another one must
// have ended.
func (n *netem) Dial(rtt time.Duration) (client, server net.Conn, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	err = n.do(func() error {
		if rtt != n.rtt {
			if err := n.delay(rtt); err != nil {
				return err
			}
		}
		client, server, err = dialPair(n.ln)
		return err
	})
	return client, server, err
}

func (n *netem) Close() error {
	n.ended.Do(func() { close(n.calls) })
	if n.ln != nil {
		return n.ln.Close()
	}
	return nil
}
