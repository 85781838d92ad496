package atlshttp

import (
	"context"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
	"time"

	"github.com/attestedtls/atls/tls"
	"golang.org/x/net/http2"
)

// A Transport is an http.RoundTripper over attested connections, HTTP/1.1 or HTTP/2
// as ALPN says. It is made by [NewTransport], and safe for concurrent use.
//
// It keeps connections as http.Transport does. A request is served only by a
// connection that was made under the Config that the Transport has when the
// request starts: two Transports share no connection, and [Transport.SetConfig]
// leaves the old ones behind. In the response, Response.Request has a context of
// which [FromContext] gives what the server attested.
//
// Of several first requests to an address one makes a connection, and the others
// wait what becomes of it: where HTTP/2 was negotiated they share it, and the server
// has made evidence once.
//
// There are https URLs only, and no proxies.
type Transport struct {
	base *http.Transport

	mu   sync.Mutex
	pool *pool // of the current Config
}

// NewTransport returns a Transport whose connections are made under config, which
// is cloned. Timeouts, limits, Protocols and DialContext come from base, which is cloned
// as well, HTTP2 with its pings included; nil is for the values of http.DefaultTransport. A handshake has 30 seconds
// unless base says otherwise. base must not say how to do TLS, or name a proxy.
//
// If config has no ServerName, each connection has that of its URL; if it has no
// NextProtos, they are "h2" and "http/1.1".
func NewTransport(config *tls.Config, base *http.Transport) (*Transport, error) {
	if base == nil {
		base = &http.Transport{
			MaxIdleConns:          100,
			IdleConnTimeout:       90 * time.Second,
			ExpectContinueTimeout: time.Second,
		}
	}
	for what, set := range map[string]bool{
		"Proxy":           base.Proxy != nil,
		"Dial":            base.Dial != nil, // DialContext is fine
		"DialTLS":         base.DialTLS != nil,
		"DialTLSContext":  base.DialTLSContext != nil,
		"TLSClientConfig": base.TLSClientConfig != nil,
		"TLSNextProto":    base.TLSNextProto != nil,
	} {
		if set {
			return nil, fmt.Errorf("atlshttp: %s of the http.Transport is set, which connections of this package would not heed", what)
		}
	}
	t := &Transport{base: base.Clone()}
	if err := t.SetConfig(config); err != nil {
		return nil, err
	}
	return t, nil
}

// SetConfig has requests from now on use connections made under config alone.
// Connections under the Config before it are closed when they are idle. On an
// error nothing changes.
func (t *Transport) SetConfig(config *tls.Config) error {
	p, err := newPool(t.base.Clone(), config)
	if err != nil {
		return err
	}
	t.mu.Lock()
	old := t.pool
	t.pool = p
	t.mu.Unlock()
	if old != nil {
		old.retire()
	}
	return nil
}

// CloseIdleConnections closes connections that no request uses.
func (t *Transport) CloseIdleConnections() {
	p := t.enter()
	defer p.leave()
	p.closeIdle()
}

// enter returns the current pool, which its caller has to leave.
func (t *Transport) enter() *pool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pool.mu.Lock()
	defer t.pool.mu.Unlock()
	t.pool.users++
	return t.pool
}

// RoundTrip implements http.RoundTripper. A URL that is not https is an error. Where the
// server ended the connection by an alert, such as one that refuses this end's evidence, the
// error says so.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil || req.URL.Scheme != "https" {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, errors.New("atlshttp: the URL's scheme is not https, so that nothing would be attested")
	}
	used := new(slot)
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if c, ok := info.Conn.(*Conn); ok {
				used.Store(c.now())
			}
		},
	})
	p := t.enter()
	defer p.leave()
	resp, err := p.roundTrip(req.WithContext(context.WithValue(ctx, connKey{}, used)))
	c := used.Load()
	if err != nil {
		return nil, c.explain(err)
	}
	if c == nil {
		resp.Body.Close()
		return nil, errors.New("atlshttp: net/http did not say which connection it used")
	}
	if resp.TLS == nil { // HTTP/1.1 over a connection that is not of crypto/tls
		resp.TLS = c.conn.state
	}
	return resp, nil
}

// explain adds to the error of a request why its connection ended, such as that the
// server has refused the client's evidence: where a body was under way, net/http says no
// more than that it could not be written.
func (c *connection) explain(err error) error {
	if c == nil {
		return err
	}
	why := c.conn.ended.Load()
	if why == nil || errors.Is(err, *why) {
		return err
	}
	return fmt.Errorf("%w (%w)", *why, err)
}

// errUseHTTP2 is what http.Transport gets instead of a connection where the pool has
// one for HTTP/2.
var errUseHTTP2 = errors.New("atlshttp: there is a connection for HTTP/2")

// A pool has the connections made under one Config. HTTP/1.1 and the dialing is
// http.Transport's, which hands connections on to HTTP/2 only if they are of
// crypto/tls; so it is told of an error instead, and asked again.
type pool struct {
	config    *tls.Config
	base      *http.Transport // with HTTP/2 in front
	h2        *http2.Transport
	http1     bool          // may be spoken
	timeout   time.Duration // of handshakes
	dialPlain func(ctx context.Context, network, addr string) (net.Conn, error)

	mu      sync.Mutex
	users   int                            // calls that are under way
	retired bool                           // there will be no more
	conns   map[string][]*http2.ClientConn // by address
	dialing map[string]chan struct{}       // closed when the dial is over
}

func newPool(base *http.Transport, config *tls.Config) (*pool, error) {
	if config == nil {
		return nil, errors.New("atlshttp: a client needs a tls.Config")
	}
	var protocols http.Protocols
	if base.Protocols != nil {
		protocols = *base.Protocols
	} else {
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true)
	}
	config = config.Clone()
	config.NextProtos = nextProtos(config.NextProtos, protocols)
	p := &pool{
		config: config, base: base, http1: protocols.HTTP1(), timeout: base.TLSHandshakeTimeout, dialPlain: base.DialContext,
		conns: map[string][]*http2.ClientConn{}, dialing: map[string]chan struct{}{},
	}
	if p.dialPlain == nil {
		p.dialPlain = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	if p.timeout <= 0 {
		p.timeout = defaultHandshakeTimeout
	}
	base.DialTLSContext = p.dial
	base.Protocols = new(http.Protocols)
	base.Protocols.SetHTTP1(true)
	if slices.Contains(config.NextProtos, "h2") {
		var err error
		if p.h2, err = http2.ConfigureTransports(base); err != nil {
			return nil, err
		}
		p.h2.ConnPool = p
	}
	return p, nil
}

func (p *pool) roundTrip(req *http.Request) (*http.Response, error) {
	for {
		r := req
		var body *heldBody
		// A body that can be had anew is given away as it is: by its type net/http knows
		// whether it has to be waited for.
		if req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
			body = &heldBody{ReadCloser: req.Body}
			r = req.WithContext(req.Context())
			r.Body = body
		}
		resp, err := p.base.RoundTrip(r)
		again := errors.Is(err, errUseHTTP2)
		if body != nil {
			body.release(again)
		}
		if !again {
			return resp, err
		}
		req = req.WithContext(context.WithValue(req.Context(), dialedKey{}, true))
		if req.Body != nil && req.GetBody != nil {
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// dialedKey is in the context of a request whose httptrace knows already that it
// wants a connection.
type dialedKey struct{}

// A heldBody is not closed before it is known whether its request will be tried again.
type heldBody struct {
	io.ReadCloser
	mu       sync.Mutex
	released bool
	closed   bool
}

func (b *heldBody) Close() error {
	b.mu.Lock()
	b.closed = true
	now := b.released
	b.mu.Unlock()
	if now {
		return b.ReadCloser.Close()
	}
	return nil
}

func (b *heldBody) release(again bool) {
	b.mu.Lock()
	b.released = !again
	late := b.closed && !again
	b.mu.Unlock()
	if late {
		b.ReadCloser.Close()
	}
}

// dial returns a new connection for HTTP/1.1, or puts one for HTTP/2 into the pool
// and returns errUseHTTP2.
func (p *pool) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	p.mu.Lock()
	other := p.dialing[addr]
	if other == nil {
		done := make(chan struct{})
		p.dialing[addr] = done
		defer func() {
			p.mu.Lock()
			delete(p.dialing, addr)
			p.mu.Unlock()
			close(done)
		}()
	}
	p.mu.Unlock()
	if other != nil {
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if p.has(addr) {
		return nil, errUseHTTP2
	}
	conn, err := p.connect(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := newConn(conn)
	switch h2 := conn.ConnectionState().NegotiatedProtocol == "h2"; {
	case !h2 && !p.http1:
		conn.Close()
		return nil, fmt.Errorf("atlshttp: %s does not speak HTTP/2, and HTTP/1.1 is off", addr)
	case !h2:
		return c, nil
	}
	if err := p.add(addr, c); err != nil {
		return nil, err
	}
	return nil, errUseHTTP2
}

// connect dials and runs the handshake.
func (p *pool) connect(ctx context.Context, network, addr string) (*tls.Conn, error) {
	raw, err := p.dialPlain(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	config := p.config
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			raw.Close()
			return nil, err
		}
		config = config.Clone()
		config.ServerName = host
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	conn := tls.Client(raw, config)
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil && trace.TLSHandshakeStart != nil {
		trace.TLSHandshakeStart()
	}
	err = conn.HandshakeContext(ctx)
	if trace != nil && trace.TLSHandshakeDone != nil {
		var state stdtls.ConnectionState
		if err == nil {
			state = conn.ConnectionState().Std()
		}
		trace.TLSHandshakeDone(state, err)
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// has reports whether there is a connection for HTTP/2 that takes a request.
func (p *pool) has(addr string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.conns[addr], (*http2.ClientConn).CanTakeNewRequest)
}

func (p *pool) add(addr string, c *Conn) error {
	cc, err := p.h2.NewClientConn(c)
	if err != nil {
		c.Close()
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[addr] = append(p.conns[addr], cc)
	return nil
}

// GetClientConn implements http2.ClientConnPool.
func (p *pool) GetClientConn(req *http.Request, addr string) (*http2.ClientConn, error) {
	cc := p.reserve(addr)
	if cc == nil {
		return nil, http2.ErrNoCachedConn // which net/http takes to mean that it should dial
	}
	trace := httptrace.ContextClientTrace(req.Context())
	if trace != nil && trace.GetConn != nil && req.Context().Value(dialedKey{}) == nil {
		trace.GetConn(addr)
	}
	return cc, nil
}

// reserve returns a connection that takes one more request, or nil.
func (p *pool) reserve(addr string) *http2.ClientConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.conns[addr], (*http2.ClientConn).ReserveNewRequest)
	if i < 0 {
		return nil
	}
	return p.conns[addr][i]
}

// MarkDead implements http2.ClientConnPool.
func (p *pool) MarkDead(cc *http2.ClientConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for addr, list := range p.conns {
		list = slices.DeleteFunc(list, func(c *http2.ClientConn) bool { return c == cc })
		if p.conns[addr] = list; len(list) == 0 {
			delete(p.conns, addr)
		}
	}
}

func (p *pool) closeIdle() {
	p.base.CloseIdleConnections()
	for _, cc := range p.all() {
		if !idle(cc) {
			continue
		}
		// One that gets a request at this very moment closes itself after it.
		if cc.SetDoNotReuse(); idle(cc) {
			cc.Close()
		}
	}
}

// all returns the connections for HTTP/2. Their State is asked without p.mu, since
// it waits for a write that is under way.
func (p *pool) all() []*http2.ClientConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Concat(slices.Collect(maps.Values(p.conns))...)
}

func idle(cc *http2.ClientConn) bool {
	s := cc.State()
	return s.StreamsActive+s.StreamsReserved+s.StreamsPending == 0
}

func (p *pool) leave() {
	p.mu.Lock()
	p.users--
	over := p.retired && p.users == 0
	p.mu.Unlock()
	if over {
		p.windUp()
	}
}

// retire has connections closed as soon as the requests that use them are over.
func (p *pool) retire() {
	p.mu.Lock()
	p.retired = true
	over := p.users == 0
	p.mu.Unlock()
	if over {
		p.windUp()
	}
}

// windUp is called when no request will ask for a connection any more. Some may
// still read their responses.
func (p *pool) windUp() {
	for _, cc := range p.all() {
		cc.SetDoNotReuse()
	}
	p.closeIdle()
}
