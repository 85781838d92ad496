package atlshttp

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/attestedtls/atls/internal/accept"
	"github.com/attestedtls/atls/tls"
)

const (
	// defaultHandshakeTimeout bounds a handshake where http.Server has no timeout.
	// Attester and verifier have 10 seconds each by default.
	defaultHandshakeTimeout = 30 * time.Second

	// maxHandshakes bounds how many handshakes are under way at a time on one
	// listener; other connections wait to be accepted.
	maxHandshakes = 4096
)

// An Option changes what a server does beside serving.
type Option func(*listener)

// OnHandshake has f called after each handshake, by the connection's goroutine, which
// waits for it: for logs, see package atlslog. With an error conn will be closed.
func OnHandshake(f func(conn *tls.Conn, took time.Duration, err error)) Option {
	return func(l *listener) { l.onHandshake = f }
}

// ListenAndServe listens on srv.Addr, ":https" if empty, and calls [Serve].
func ListenAndServe(srv *http.Server, config *tls.Config, opts ...Option) error {
	addr := srv.Addr
	if addr == "" {
		addr = ":https"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return Serve(srv, l, config, opts...)
}

// Serve accepts connections on l, runs the handshake on each, and serves them as
// http.Server.ServeTLS does: until srv is shut down or closed, after which it
// returns http.ErrServerClosed, or l fails.
//
// It changes srv as [NewListener] says.
func Serve(srv *http.Server, l net.Listener, config *tls.Config, opts ...Option) error {
	tl, err := NewListener(srv, l, config, opts...)
	if err != nil {
		l.Close()
		return err
	}
	return srv.Serve(tl)
}

// NewListener returns a listener for srv.Serve, and for httptest.Server.Listener:
// its Accept returns connections of l after the handshake. Handshakes run at the
// same time, 4096 at most, each bounded by the timeouts of srv as in net/http, or by 30
// seconds. Those that fail are closed and logged to srv.ErrorLog.
//
// It changes srv, which must not serve yet and should serve nothing but attested
// connections: it wraps Handler and ConnContext, and adds unencrypted HTTP/2 to
// Protocols, which is how net/http serves HTTP/2 over a connection that is not of
// crypto/tls. HTTP/2 is served only where ALPN chose it. Several listeners of one
// srv are fine. srv.TLSConfig and srv.TLSNextProto have no part in it, but that a
// TLSNextProto without HTTP/2 turns HTTP/2 off, as in net/http.
//
// If config has no NextProtos, they are "h2" and "http/1.1", as srv.Protocols says.
// config is cloned.
//
// Where a config has GetConfigForClient, which may demand something else under each
// server name, a request for another name than that of its connection is answered 421
// Misdirected Request (RFC 9110, section 15.5.20): its client may not have met what the
// other name demands. Without a server name, requests are for IP addresses.
func NewListener(srv *http.Server, l net.Listener, config *tls.Config, opts ...Option) (net.Listener, error) {
	if config == nil {
		return nil, errors.New("atlshttp: a server needs a tls.Config")
	}
	protocols := configure(srv, config.GetConfigForClient != nil)
	config = config.Clone()
	config.NextProtos = nextProtos(config.NextProtos, protocols)
	ctx, cancel := context.WithCancel(context.Background())
	tl := &listener{
		Listener: l, config: config, srv: srv, ctx: ctx, cancel: cancel,
		accepted: make(chan accepted), slots: make(chan struct{}, maxHandshakes),
	}
	for _, o := range opts {
		o(tl)
	}
	go tl.run()
	return tl, nil
}

// configuring protects what configure changes.
var configuring sync.Mutex

// configure changes srv, once, and returns the protocols that it serves. byName says
// that a listener's Config depends on the server name.
func configure(srv *http.Server, byName bool) http.Protocols {
	configuring.Lock()
	defer configuring.Unlock()
	if h, ok := srv.Handler.(*handler); ok {
		if byName {
			h.byName.Store(true)
		}
		return h.protocols
	}
	var p http.Protocols
	if srv.Protocols != nil {
		p = *srv.Protocols
	} else {
		p.SetHTTP1(true)
		p.SetHTTP2(srv.TLSNextProto == nil || srv.TLSNextProto["h2"] != nil)
	}
	p.SetUnencryptedHTTP2(false)
	if strings.Contains(os.Getenv("GODEBUG"), "http2server=0") {
		p.SetHTTP2(false)
	}
	h := &handler{next: srv.Handler, protocols: p}
	h.byName.Store(byName)
	if h.next == nil {
		h.next = http.DefaultServeMux
	}
	srv.Handler = h
	if p.HTTP2() {
		unencrypted := p
		unencrypted.SetUnencryptedHTTP2(true)
		srv.Protocols = &unencrypted
	}
	next := srv.ConnContext
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if conn := TLSConn(c); conn != nil {
			ctx = context.WithValue(ctx, connKey{}, newConn(conn).now())
		}
		if next != nil {
			ctx = next(ctx, c)
		}
		return ctx
	}
	return p
}

// nextProtos returns what ALPN offers where protos are configured.
func nextProtos(protos []string, p http.Protocols) []string {
	if len(protos) == 0 {
		protos = []string{"h2", "http/1.1"}
	}
	return slices.DeleteFunc(slices.Clone(protos), func(s string) bool {
		return s == "h2" && !p.HTTP2() || s == "http/1.1" && !p.HTTP1()
	})
}

// A handler fills in Request.TLS, which net/http does for HTTP/1.1 alone, and sees to it
// that a request has the verdict of its own time.
type handler struct {
	next      http.Handler
	protocols http.Protocols
	byName    atomic.Bool // requests are to be for the name of their connection
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c := fromContext(r.Context()); c != nil {
		if (c.conn.state.NegotiatedProtocol == "h2") != (r.ProtoMajor == 2) {
			w.Header().Set("Connection", "close")
			http.Error(w, "this is not the protocol that was negotiated", http.StatusBadRequest)
			return
		}
		if h.byName.Load() && !sameName(r.Host, c.conn.state.ServerName) {
			http.Error(w, "this connection was not made for that name", http.StatusMisdirectedRequest)
			return
		}
		if live := c.conn.now(); live.peer != c.peer {
			r = r.WithContext(context.WithValue(r.Context(), connKey{}, live))
		}
		r.TLS = c.conn.state
	}
	h.next.ServeHTTP(w, r)
}

// sameName reports whether host, of a request, is the server name of its connection.
func sameName(host, serverName string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(host, ".")
	if serverName == "" {
		_, err := netip.ParseAddr(strings.Trim(host, "[]"))
		return host == "" || err == nil
	}
	return strings.EqualFold(host, serverName)
}

// A listener runs handshakes. Its Accept returns a *Conn for HTTP/1.1 and a
// *tls.Conn for HTTP/2: net/http looks for HTTP/2 without its own TLS on
// connections alone that have no ConnectionState of the standard library.
type listener struct {
	net.Listener
	config *tls.Config
	srv    *http.Server

	ctx      context.Context // ends when the listener is closed
	cancel   context.CancelFunc
	accepted chan accepted
	slots    chan struct{} // handshakes under way

	onHandshake func(*tls.Conn, time.Duration, error) // nil for nobody
}

// accepted is what Accept returns.
type accepted struct {
	conn net.Conn
	err  error
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close ends handshakes that are under way as well.
func (l *listener) Close() error {
	l.cancel()
	return l.Listener.Close()
}

// run accepts connections until the listener is closed or fails for good.
func (l *listener) run() {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.ctx.Done():
			return
		}
		raw, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			if !l.deliver(accepted{err: err}) {
				return
			}
			if ne, ok := err.(net.Error); ok && ne.Temporary() {
				continue // net/http waits before it calls Accept again
			}
			return
		}
		go func() {
			defer func() { <-l.slots }()
			l.handshake(raw)
		}()
	}
}

// deliver hands a to Accept, and reports whether it could.
func (l *listener) deliver(a accepted) bool {
	select {
	case l.accepted <- a:
		return true
	case <-l.ctx.Done():
		return false
	}
}

func (l *listener) handshake(raw net.Conn) {
	ctx, cancel := context.WithTimeout(l.ctx, l.timeout())
	defer cancel()
	conn := tls.Server(raw, l.config)
	begun := time.Now()
	err := conn.HandshakeContext(ctx)
	if l.onHandshake != nil {
		l.onHandshake(conn, time.Since(begun), err)
	}
	if err != nil {
		if l.ctx.Err() == nil {
			l.logf("atlshttp: TLS handshake error from %s: %v", raw.RemoteAddr(), err)
			accept.Linger(l.ctx, raw) // or the client might not read the alert
		}
		raw.Close()
		return
	}
	var c net.Conn = conn
	if conn.ConnectionState().NegotiatedProtocol != "h2" {
		c = newConn(conn)
	}
	if !l.deliver(accepted{conn: c}) {
		raw.Close()
	}
}

// timeout is that of net/http for handshakes, the least of three.
func (l *listener) timeout() time.Duration {
	d := defaultHandshakeTimeout
	set := false
	for _, t := range []time.Duration{l.srv.ReadHeaderTimeout, l.srv.ReadTimeout, l.srv.WriteTimeout} {
		if t > 0 && (!set || t < d) {
			d, set = t, true
		}
	}
	return d
}

func (l *listener) logf(format string, args ...any) {
	if l.srv.ErrorLog != nil {
		l.srv.ErrorLog.Printf(format, args...)
	} else {
		log.Printf(format, args...)
	}
}
