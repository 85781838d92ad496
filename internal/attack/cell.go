package attack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// cellTimeout bounds a cell; one takes milliseconds.
const cellTimeout = 30 * time.Second

// secret is what a client tells the server that it trusts.
const secret = "the client's secret"

// A cell is one run of a scenario against a mode.
type cell struct {
	ctx        context.Context
	world      *world
	mode       *Mode
	mitigation Mitigation
	telling    sync.Mutex
	story      []Line
	heard      []Line // what the attacker hears in the end, which comes of the verdict

	// victim is the relying party, and made the connection that the evidence which
	// it saw was made on. attester is the honest end that made it, if it was one.
	victim   *end
	made     func() *session
	attester *end
	// known are Diffie-Hellman secrets that the attacker has.
	known [][]byte
	// compromise is called when a connection has been accepted.
	compromise func()

	mu       sync.Mutex
	ends     []*end
	conns    []net.Conn
	attacker []net.Conn // those of conns that the attacker holds
}

// say adds to the story.
func (c *cell) say(who, format string, args ...any) {
	c.telling.Lock()
	defer c.telling.Unlock()
	c.story = append(c.story, Line{who, fmt.Sprintf(format, args...)})
}

// later adds what the attacker does behind the verdict that is still to be told.
func (c *cell) later(format string, args ...any) {
	c.telling.Lock()
	defer c.telling.Unlock()
	c.heard = append(c.heard, Line{"attacker", fmt.Sprintf(format, args...)})
}

// hear tells what later put off.
func (c *cell) hear() {
	c.telling.Lock()
	defer c.telling.Unlock()
	c.story, c.heard = append(c.story, c.heard...), nil
}

// reattests is how many exported authenticators a relying party asks for after that of
// the mode, if it has one.
func (c *cell) reattests() int {
	if c.mitigation.Name == mitigationReattest {
		return 1
	}
	return 0
}

// exchanges is how many exported authenticators a relying party asks for.
func (c *cell) exchanges() int {
	if c.mode.exchange {
		return 1 + c.reattests()
	}
	return c.reattests()
}

// An end is an honest end of a connection: this module's tls, as anybody uses it.
type end struct {
	name string
	role attestext.Role
	wire *wire
	keys keyLog
	conn *tls.Conn
	done chan struct{}

	// When done is closed:
	shaken bool // the handshake is complete at this end
	err    error
	read   []byte // application data, of a server
}

// session returns what the end has of its connection; it must be done.
func (e *end) session() *session {
	s := &session{
		clientHandshake:   e.keys.secret("CLIENT_HANDSHAKE_TRAFFIC_SECRET"),
		serverHandshake:   e.keys.secret("SERVER_HANDSHAKE_TRAFFIC_SECRET"),
		clientApplication: e.keys.secret("CLIENT_TRAFFIC_SECRET_0"),
	}
	s.hash, s.hellos = e.wire.transcript()
	return s
}

// alert returns the alert that the end sent, or that stands for its refusal where the
// carriage has none.
func (e *end) alert() (uint8, bool) {
	if a, ok := e.conn.AlertSent(); ok {
		return uint8(a), true
	}
	if e.err != nil && e.shaken {
		if errors.As(e.err, new(*exportedauth.Error)) || errors.As(e.err, new(*attestext.Error)) {
			return exportedauth.Alert(e.err, e.role), true
		}
	}
	return 0, false
}

// loopback returns the two ends of a TCP connection, an honest end's and the
// attacker's.
func (c *cell) loopback() (honest, attacker net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if honest, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if attacker, err = l.Accept(); err != nil {
		honest.Close()
		return nil, nil, err
	}
	deadline, _ := c.ctx.Deadline()
	honest.SetDeadline(deadline)
	attacker.SetDeadline(deadline)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, honest, attacker)
	c.attacker = append(c.attacker, attacker)
	return honest, attacker, nil
}

// run starts an end on raw. make makes its connection, and after is what it does when
// the handshake is complete.
func (c *cell) run(name string, role attestext.Role, raw net.Conn, config func(*end) (*tls.Config, error), after func(*end) error) (*end, error) {
	e := &end{name: name, role: role, wire: &wire{Conn: raw}, done: make(chan struct{})}
	cfg, err := config(e)
	if err != nil {
		return nil, err
	}
	cfg.Time = c.world.clock
	cfg.KeyLogWriter = &e.keys
	if role == attestext.RoleClient {
		e.conn = tls.Client(e.wire, cfg)
	} else {
		e.conn = tls.Server(e.wire, cfg)
	}
	c.mu.Lock()
	c.ends = append(c.ends, e)
	c.mu.Unlock()
	go func() {
		defer close(e.done)
		if e.err = e.conn.HandshakeContext(c.ctx); e.err == nil {
			e.shaken = true
			e.err = after(e)
		}
		// Let the other end read all that was sent, a last alert included.
		if tcp, ok := raw.(*net.TCPConn); ok {
			tcp.CloseWrite()
			io.Copy(io.Discard, tcp)
		}
		raw.Close()
	}()
	return e, nil
}

// exported begins the exported authenticators of an end.
func (e *end) exported() (*exportedauth.Session, error) {
	cs := e.conn.ConnectionState()
	hash, err := exportedauth.SuiteHash(cs.CipherSuite)
	if err != nil {
		return nil, err
	}
	return exportedauth.NewSession(e.role, hash, cs.ExportKeyingMaterial)
}

// client starts the client, whose secret is at stake. It returns the attacker's side
// of the connection.
func (c *cell) client() (net.Conn, error) { return c.clientWith(nil) }

// clientWith starts the client with changes to its Config.
func (c *cell) clientWith(change func(*tls.Config)) (net.Conn, error) {
	return c.relyingEnd("client", attestext.RoleClient, func(e *end) (*tls.Config, error) {
		a, err := c.relying(e)
		cfg := &tls.Config{RootCAs: c.world.roots, ServerName: nameServer, Attestation: a}
		if change != nil {
			change(cfg)
		}
		return cfg, err
	})
}

// relyingEnd starts the relying party and returns the attacker's side of its connection.
func (c *cell) relyingEnd(name string, role attestext.Role, config func(*end) (*tls.Config, error)) (net.Conn, error) {
	raw, attacker, err := c.loopback()
	if err != nil {
		return nil, err
	}
	e, err := c.run(name, role, raw, config, c.trust)
	if err != nil {
		return nil, err
	}
	c.victim = e
	return attacker, nil
}

// trust is what the client does on a connection that it has accepted: exported
// authenticators, if it asks for them, and then it tells its secret.
func (c *cell) trust(e *end) error {
	compromise := func() {
		if c.compromise != nil {
			c.compromise()
		}
	}
	if err := c.reattest(e, func() (*exportedauth.Config, error) { return c.asks(e.role) }, compromise); err != nil {
		return err
	}
	compromise()
	_, err := io.WriteString(e.conn, secret)
	return err
}

// reattest has e go through the exported authenticators after that of the mode, if there
// are any: as config says, and calling before ahead of each.
func (c *cell) reattest(e *end, config func() (*exportedauth.Config, error), before func()) error {
	n := c.reattests()
	if n == 0 {
		return nil
	}
	s, err := e.exported()
	if err != nil {
		return err
	}
	cfg, err := config()
	if err != nil {
		return err
	}
	for range n {
		before()
		if _, err := exportedauth.Exchange(c.ctx, e.conn, s, cfg); err != nil {
			return err
		}
	}
	return nil
}

// server starts an honest server on a machine and returns the other side of its
// connection.
func (c *cell) server(m *machine) (net.Conn, *end, error) { return c.serverWith(m, nil) }

func (c *cell) serverWith(m *machine, change func(*tls.Config)) (net.Conn, *end, error) {
	raw, attacker, err := c.loopback()
	if err != nil {
		return nil, nil, err
	}
	e, err := c.run(m.name, attestext.RoleServer, raw, func(e *end) (*tls.Config, error) {
		a, err := c.attesting(e, m)
		cfg := &tls.Config{Certificates: []tls.Certificate{m.cert}, Attestation: a}
		if c.mode.only {
			cfg.Certificates = nil
		}
		if change != nil {
			change(cfg)
		}
		return cfg, err
	}, c.attestAndRead(m))
	return attacker, e, err
}

// attestAndRead is what an honest end that attests does when its handshake is complete:
// it answers requests for exported authenticators, and reads what it is told.
func (c *cell) attestAndRead(m *machine) func(*end) error {
	return func(e *end) error {
		if err := c.reattest(e, func() (*exportedauth.Config, error) { return c.answers(m), nil }, func() {}); err != nil {
			return err
		}
		b := make([]byte, len(secret))
		if _, err := io.ReadFull(e.conn, b); err != nil {
			return err
		}
		e.read = b
		return nil
	}
}

// settle ends what is open and waits for the honest ends. The attacker says no more on
// its connections, and reads what is still to come.
func (c *cell) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var wg sync.WaitGroup
	for _, conn := range c.attacker {
		conn.(*net.TCPConn).CloseWrite()
		wg.Go(func() { io.Copy(io.Discard, conn) })
	}
	for _, e := range c.ends {
		select {
		case <-e.done:
		case <-c.ctx.Done():
			e.wire.Close()
			<-e.done
		}
	}
	for _, conn := range c.conns {
		conn.Close()
	}
	wg.Wait()
	c.conns, c.attacker = nil, nil
}
