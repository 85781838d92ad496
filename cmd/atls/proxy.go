package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/attestedtls/atls/atlslog"
	"github.com/attestedtls/atls/internal/accept"
	"github.com/attestedtls/atls/proxyproto"
	"github.com/attestedtls/atls/tls"
)

const proxyUsage = `Usage:
    atls proxy --accept tls:ADDR --forward tcp:ADDR|unix:PATH --cert FILE --key FILE [FLAGS]
    atls proxy --accept tcp:ADDR|unix:PATH --forward tls:HOST:PORT [FLAGS]

A sidecar for a program that does not speak attested TLS: in front of a server it
accepts attested TLS and forwards the bytes, beside a client it does the reverse. It
prints something about each connection when it is over, until interrupted; then it
accepts no more and waits for those that are open. Standard error is its log: for each
handshake a line that an auditor can keep, with the time, the peer, the verdict, and
the hash of the evidence, and with --json as an object.

Nothing is forwarded before the peer has been appraised, if --verify requires it, and
a connection that breaks off on one side breaks off on the other.

SIGHUP reads certificates, keys, roots, policy and collateral again. If any of them
is bad the old ones stay in force, and it says so. Connections that are open stay open.

Examples:
    $ atls proxy --accept tls::8443 --forward tcp:127.0.0.1:8080 \
        --cert pki/cert.pem --key pki/key.pem --attest softtee:tdx
    $ atls proxy --accept tcp:127.0.0.1:8081 --forward tls:localhost:8443 --ca pki/ca.pem \
        --verify local --trust-roots pki/trust-roots.pem \
        --collateral pki/collateral.json --policy pki/policy.json
    $ curl http://127.0.0.1:8081/

    --accept WHERE, --forward WHERE
                                tls:HOST:PORT, tcp:HOST:PORT or unix:PATH; one of the
                                two is tls. Port 0 is any that is free
    --plain-over-network        let the plain side be no Unix socket and no loopback
                                address, so that others can read it and write to it
    --send-proxy                begin what is forwarded with a header of the PROXY
                                protocol, version 2: where the client came from, and
                                in TLV 0xE0 the verdict on it (--accept tls)
    --accept-proxy              expect such a header, of a load balancer, before the TLS
                                handshake (--accept tls)
    --accept-proxy-from FROM    whose header is believed: an address, or a network such as
                                192.0.2.0/24; repeatable (default this machine's loopback
                                addresses). Everybody else is hung up on
    --alpn PROTOCOL             application protocol to offer or to choose, such as h2, which
                                is up to the programs on either side; repeatable, in order
                                of preference
    --max-connections N         how many are open at a time (default 256); others wait
    --idle-timeout DURATION     ends a connection on which nothing moves (default 5m)
    --drain DURATION            how long connections may go on after an interrupt or
                                SIGTERM (default 30s)
    --metrics ADDR              serve metrics at http://ADDR/metrics, in the format of
                                Prometheus, and http://ADDR/health: status 200, and 503
                                while it waits for the last connections
    --quote-queue N, --quote-rate N
                                as of "atls serve"
` + sharedUsage

const (
	defaultDrain = 30 * time.Second
	maxProxied   = 1 << 16
	relayBuffer  = 32 << 10
)

// An endpoint is one side of a proxy.
type endpoint struct {
	scheme string // "tls", "tcp" or "unix"
	addr   string // of net.Dial
}

func parseEndpoint(flagName, s string) (endpoint, error) {
	const hint = "it can be tls:HOST:PORT, tcp:HOST:PORT or unix:PATH"
	scheme, addr, _ := strings.Cut(s, ":")
	switch {
	case s == "":
		return endpoint{}, usagef(hint, "--%s is missing", flagName)
	case scheme == "unix" && addr != "":
	case scheme == "tls", scheme == "tcp":
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return endpoint{}, usagef(hint, "--%s: %w", flagName, err)
		}
	default:
		return endpoint{}, usagef(hint, "--%s cannot be %q", flagName, s)
	}
	return endpoint{scheme, addr}, nil
}

func (e endpoint) String() string { return e.scheme + ":" + e.addr }

func (e endpoint) network() string {
	if e.scheme == "unix" {
		return "unix"
	}
	return "tcp"
}

// local reports whether the bytes at e stay on this machine.
func (e endpoint) local() bool {
	if e.scheme == "unix" {
		return true
	}
	host, _, _ := net.SplitHostPort(e.addr)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// listen listens on e. A Unix socket that nobody listens on any more is replaced.
func (e endpoint) listen(ctx context.Context) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, e.network(), e.addr)
	if e.scheme != "unix" || !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	info, statErr := os.Lstat(e.addr)
	if statErr != nil || info.Mode().Type() != os.ModeSocket {
		return nil, err
	}
	if c, dialErr := net.Dial("unix", e.addr); !errors.Is(dialErr, syscall.ECONNREFUSED) {
		if c != nil {
			c.Close()
		}
		return nil, err
	}
	if os.Remove(e.addr) != nil {
		return nil, err
	}
	return lc.Listen(ctx, "unix", e.addr)
}

// loopback are the addresses that nobody but this machine has.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// parseNetwork reads an address or a network.
func parseNetwork(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil {
		ip = ip.Unmap()
		return ip.Prefix(ip.BitLen())
	}
	n, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return n, errors.New("it can be an address, or a network such as 192.0.2.0/24")
	case n != n.Masked() || n.Addr().Is4In6():
		return n, errors.New("it has bits behind its length, or is IPv4 in IPv6")
	}
	return n, nil
}

// A proxy is atls proxy while it runs.
type proxy struct {
	flags           connFlags
	accept, forward endpoint
	sendProxy       bool
	acceptProxy     bool
	proxyFrom       []netip.Prefix // whose headers are believed
	alpn            []string
	idle, drain     time.Duration
	slots           chan struct{}

	stdout, stderr *lineWriter
	log            *slog.Logger // events, to standard error
	metrics        *serverMetrics
	reloads        *family
	backends       *family
	draining       atomic.Bool
	reloadError    atomic.Pointer[string] // of the last reload, nil if it was well

	mu      sync.Mutex
	current *generation
}

// A generation is what the files said at one time.
type generation struct {
	*setup
	read  time.Time
	users sync.WaitGroup // connections made under it; added to with proxy.mu
}

func runProxy(ctx context.Context, env *environment, args []string) error {
	p, metricsAddr, err := newProxy(ctx, env, args)
	if err != nil {
		return err
	}
	return p.run(ctx, metricsAddr)
}

// newProxy reads the command line and the files that it names.
func newProxy(ctx context.Context, env *environment, args []string) (p *proxy, metricsAddr string, err error) {
	p = &proxy{
		stdout: &lineWriter{w: env.stdout}, stderr: &lineWriter{w: env.stderr}, metrics: newServerMetrics(),
		reloads:  newCounter("atls_reloads_total", "How often certificates and policy were read again, by outcome.", "outcome"),
		backends: newCounter("atls_forward_failures_total", "Connections for which there was none to forward to."),
	}
	fs := newFlagSet("proxy")
	p.flags.register(fs)
	p.flags.quotes.register(fs)
	accept, forward := fs.String("accept", "", ""), fs.String("forward", "", "")
	overNetwork := fs.Bool("plain-over-network", false, "")
	fs.BoolVar(&p.sendProxy, "send-proxy", false, "")
	fs.BoolVar(&p.acceptProxy, "accept-proxy", false, "")
	fs.Func("accept-proxy-from", "", func(s string) error {
		from, err := parseNetwork(s)
		p.proxyFrom = append(p.proxyFrom, from)
		return err
	})
	fs.Func("alpn", "", func(s string) error {
		if p.alpn = append(p.alpn, s); s == "" || len(s) > 255 {
			return errors.New("a protocol has 1 to 255 bytes")
		}
		return nil
	})
	most := fs.Int("max-connections", maxConnections, "")
	fs.DurationVar(&p.idle, "idle-timeout", idleTimeout, "")
	fs.DurationVar(&p.drain, "drain", defaultDrain, "")
	fs.StringVar(&metricsAddr, "metrics", "", "")
	if _, err := parseArgs(fs, args, 0, proxyUsage); err != nil {
		return nil, "", err
	}
	if p.accept, err = parseEndpoint("accept", *accept); err != nil {
		return nil, "", err
	}
	if p.forward, err = parseEndpoint("forward", *forward); err != nil {
		return nil, "", err
	}
	plain := p.forward
	if p.forward.scheme == "tls" {
		plain = p.accept
	}
	switch {
	case (p.accept.scheme == "tls") == (p.forward.scheme == "tls"):
		return nil, "", usagef("", "of --accept and --forward one is tls:, and the other one tcp: or unix:")
	case !plain.local() && !*overNetwork:
		return nil, "", usagef("use a Unix socket or a loopback address, or --plain-over-network if others may read and write there",
			"%v is neither encrypted nor on this machine alone", plain)
	case (p.sendProxy || p.acceptProxy) && p.accept.scheme != "tls":
		return nil, "", usagef("", "--send-proxy and --accept-proxy are for --accept tls:")
	case len(p.proxyFrom) > 0 && !p.acceptProxy:
		return nil, "", usagef("", "--accept-proxy-from is for --accept-proxy")
	case *most < 1 || *most > maxProxied:
		return nil, "", usagef("", "--max-connections is from 1 to %d", maxProxied)
	case p.idle <= 0 || p.drain < 0:
		return nil, "", usagef("", "--idle-timeout must be positive, and --drain not negative")
	case p.flags.once:
		return nil, "", usagef("", "--once is for serve")
	}
	if err := p.flags.unused(p.accept.scheme == "tls"); err != nil {
		return nil, "", err
	}
	if len(p.proxyFrom) == 0 {
		p.proxyFrom = loopback
	}
	p.slots = make(chan struct{}, *most)
	opts := &slog.HandlerOptions{ReplaceAttr: printableAttr}
	p.log = slog.New(slog.NewTextHandler(p.stderr, opts))
	if p.flags.json {
		p.log = slog.New(slog.NewJSONHandler(p.stderr, opts))
	}
	p.flags.warn = func(err error) { p.log.Warn("attestation", "error", err) }
	if p.current, err = p.read(ctx); err != nil {
		return nil, "", err
	}
	return p, metricsAddr, nil
}

// printableAttr has text of peers written without control characters.
func printableAttr(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindString || a.Value.Kind() == slog.KindAny {
		a.Value = slog.StringValue(printable(a.Value))
	}
	return a
}

// read reads all files.
func (p *proxy) read(ctx context.Context) (*generation, error) {
	setup, err := p.flags.setup(ctx, p.accept.scheme == "tls")
	if err != nil {
		return nil, err
	}
	if a := setup.config.Attestation; a != nil {
		a.Trace = p.metrics.trace()
	}
	setup.config.NextProtos = p.alpn
	if setup.config.ServerName == "" && p.forward.scheme == "tls" {
		setup.config.ServerName, _, _ = net.SplitHostPort(p.forward.addr)
	}
	return &generation{setup: setup, read: time.Now()}, nil
}

// reload reads all files again, and leaves things as they are if it cannot.
func (p *proxy) reload(ctx context.Context) {
	g, err := p.read(ctx)
	if err != nil {
		p.reloads.add("failed")
		p.reloadError.Store(new(printable(err)))
		p.log.Error("reload failed, the old certificates and policy stay in force", "error", err)
		return
	}
	p.mu.Lock()
	old := p.current
	p.current = g
	p.mu.Unlock()
	p.reloads.add("ok")
	p.reloadError.Store(nil)
	p.log.Info("reloaded")
	go func() {
		old.users.Wait()
		old.close()
	}()
}

// enter returns the current generation, for a connection that calls users.Done.
func (p *proxy) enter() *generation {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current.users.Add(1)
	return p.current
}

func (p *proxy) run(ctx context.Context, metricsAddr string) error {
	defer func() { p.current.close() }()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	l, err := p.accept.listen(ctx)
	if err != nil {
		return err
	}
	defer l.Close()
	where, stopMetrics, err := serveMetrics(context.WithoutCancel(ctx), metricsAddr, p.exposition, route{"GET /health", p.health})
	if err != nil {
		return err
	}
	defer stopMetrics()
	announce := p.stdout
	if p.flags.json {
		announce = p.stderr
	}
	fmt.Fprintf(announce, "listening on %s\n%s", l.Addr(), where)

	// Connections outlast ctx by the time to drain.
	connCtx, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	failed := make(chan error, 1)
	var open sync.WaitGroup
	loop := accept.Loop{Slots: p.slots, Open: &open, Serve: func(raw net.Conn) { p.one(connCtx, raw) },
		Retry: func(err error, wait time.Duration) { p.log.Warn("accept failed", "error", err, "retry_in", wait) }}
	go func() { failed <- loop.Run(ctx, l) }()
	for {
		select {
		case <-hangups:
			p.reload(ctx)
			continue
		case err = <-failed:
		case <-ctx.Done():
			l.Close()
			<-failed
		}
		break
	}
	l.Close()
	p.draining.Store(true) // only now that nobody can come any more
	p.log.Info("draining", "connections", p.metrics.open.Load(), "for", p.drain.String())
	timer := time.AfterFunc(p.drain, cut)
	defer timer.Stop()
	open.Wait()
	return err
}

// one serves one connection and reports it.
func (p *proxy) one(ctx context.Context, raw net.Conn) {
	p.metrics.open.Add(1)
	defer p.metrics.open.Add(-1)
	g := p.enter()
	defer g.users.Done()
	var r *report
	if p.accept.scheme == "tls" {
		r = p.inbound(ctx, g, raw)
	} else {
		r = p.outbound(ctx, g, raw)
	}
	if r == nil {
		return
	}
	if p.flags.json {
		p.stdout.object(r)
	} else {
		var b bytes.Buffer
		r.text(&b)
		p.stdout.Write(b.Bytes())
	}
}

// inbound accepts attested TLS and forwards what is inside.
func (p *proxy) inbound(ctx context.Context, g *generation, raw net.Conn) *report {
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	header := new(proxyproto.Header)
	header.Addresses(raw)
	probe := false
	if p.acceptProxy {
		if !p.believes(raw.RemoteAddr()) {
			raw.Close()
			p.log.Warn("no header of the PROXY protocol is believed from this address", "peer", raw.RemoteAddr(), "hint", "--accept-proxy-from")
			return nil
		}
		raw.SetReadDeadline(time.Now().Add(p.flags.timeout))
		h, err := proxyproto.Read(raw)
		if err != nil {
			raw.Close()
			p.log.Warn("no header of the PROXY protocol", "peer", raw.RemoteAddr(), "error", err)
			return nil
		}
		raw.SetReadDeadline(time.Time{})
		// A load balancer that speaks for itself is served as any client, from its own
		// address (section 2.2): it may want to see a handshake.
		if probe = h.Local; !probe {
			header.Source, header.Destination = h.Source, h.Destination
		}
	}
	s := newSession(raw, func(c net.Conn) *tls.Conn { return tls.Server(c, g.config) })
	err := s.shake(ctx, p.flags.timeout)
	if probe && s.raw.in.Load() == 0 {
		s.close(err)
		return nil // it has seen that there is somebody, and no connection was lost
	}
	p.audit(ctx, s, err)
	var plain net.Conn
	if err == nil {
		plain, err = p.dialForward(ctx)
	}
	if err == nil && p.sendProxy {
		if err = p.writeHeader(plain, s, header); err != nil {
			reset(plain)
		}
	}
	if err == nil {
		err = p.relay(ctx, s, plain)
	}
	return p.ended(s, err)
}

// audit logs what became of a handshake.
func (p *proxy) audit(ctx context.Context, s *session, err error) {
	err = s.explained(&p.flags, err)
	l := p.log
	if h := hint(err); err != nil && h != "" {
		l = l.With("hint", h)
	}
	atlslog.Handshake(ctx, l, s.conn, s.handshake, err)
}

// ended closes a session, of which audit has logged the handshake, and reports it.
func (p *proxy) ended(s *session, err error) *report {
	s.close(err)
	r := s.report(&p.flags, err)
	p.metrics.count(s, r)
	if s.shaken {
		p.failed(r)
	}
	return r
}

// failed logs why a connection was not served to its end, if it was not.
func (p *proxy) failed(r *report) {
	if r.err != nil {
		p.log.Warn("connection failed", "peer", r.remote, "error", r.err, "hint", hint(r.err))
	}
}

// believes reports whether a header of the PROXY protocol from a is.
func (p *proxy) believes(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && slices.ContainsFunc(p.proxyFrom, func(n netip.Prefix) bool {
		return n.Contains(tcp.AddrPort().Addr().Unmap().WithZone(""))
	})
}

// outbound forwards what comes on raw over attested TLS.
func (p *proxy) outbound(ctx context.Context, g *generation, raw net.Conn) *report {
	remote, err := p.dialForward(ctx)
	if err != nil {
		reset(raw)
		r := unconnected(&p.flags, p.forward.addr, err)
		p.failed(r)
		return r
	}
	defer context.AfterFunc(ctx, func() { remote.Close() })()
	s := newSession(remote, func(c net.Conn) *tls.Conn { return tls.Client(c, g.config) })
	err = s.shake(ctx, p.flags.timeout)
	p.audit(ctx, s, err)
	if err == nil {
		err = p.relay(ctx, s, raw)
	} else {
		reset(raw) // and not close: nobody shall take it for an answer
	}
	return p.ended(s, err)
}

func (p *proxy) dialForward(ctx context.Context) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: p.flags.timeout}).DialContext(ctx, p.forward.network(), p.forward.addr)
	if err != nil {
		p.backends.add()
		return nil, fmt.Errorf("forward to %v: %w", p.forward, err)
	}
	return c, nil
}

// writeHeader tells the program behind who is there.
func (p *proxy) writeHeader(plain net.Conn, s *session, h *proxyproto.Header) error {
	cs := s.conn.ConnectionState()
	h.Authority, h.ALPN = cs.ServerName, cs.NegotiatedProtocol
	if p.flags.verify != "" {
		h.Verdict = "none"
	}
	if peer := cs.PeerAttestation; peer.Valid() {
		h.Verdict, h.Machine = peer.Verdict(), peer.Machine()
	}
	b, err := h.Bytes()
	if err != nil {
		return err
	}
	plain.SetWriteDeadline(time.Now().Add(p.flags.timeout))
	defer plain.SetWriteDeadline(time.Time{})
	_, err = plain.Write(b)
	return err
}

// reset closes a connection so that the program at its other end does not take what it
// has read for all there is. On a Unix socket that cannot be told.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

var (
	errIdle    = errors.New("nothing has moved for longer than --idle-timeout")
	errDrained = errors.New("cut off, as the time to drain is over")
)

// A writeError is that of the side that is written to.
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

// relay moves bytes both ways until both ends have said their last, one of them breaks
// off, nothing moves, or ctx ends. It closes plain, and not the session.
func (p *proxy) relay(ctx context.Context, s *session, plain net.Conn) error {
	var once sync.Once
	var cause error
	abort := func(err error) {
		once.Do(func() {
			cause = err
			if s.badRound(err) {
				s.conn.Close()
			} else {
				s.raw.Close()
			}
			reset(plain)
		})
	}
	defer context.AfterFunc(ctx, func() { abort(errDrained) })()
	var last atomic.Int64 // when something moved, since start
	start := time.Now()
	touch := func() { last.Store(int64(time.Since(start))) }
	var timer *time.Timer
	var timerMu sync.Mutex
	timerMu.Lock()
	timer = time.AfterFunc(p.idle, func() {
		timerMu.Lock()
		defer timerMu.Unlock()
		if left := p.idle - (time.Since(start) - time.Duration(last.Load())); left > 0 {
			timer.Reset(left)
			return
		}
		abort(errIdle)
	})
	timerMu.Unlock()
	defer timer.Stop()

	done := make(chan error, 2)
	told := false // plain has been told all that the peer had to say
	go func() {
		err := move(plain, wholeReader{s}, closeWrite(plain), touch)
		told = err == nil
		done <- err
	}()
	go func() { done <- move(s.conn, plain, s.conn.CloseWrite, touch) }()
	var writing error
	for range 2 {
		err := <-done
		if _, ok := errors.AsType[*writeError](err); ok && !s.badRound(err) {
			// The other direction may have something to say still, such as why.
			writing = err
		} else if err != nil {
			abort(err)
		}
	}
	once.Do(func() {}) // from here on cause stays
	switch {
	case cause != nil:
	case writing != nil && told:
		cause = writing
		accept.Linger(ctx, plain) // it may not have read it all
		plain.Close()
	case writing != nil:
		cause = writing
		reset(plain)
	default:
		plain.Close()
	}
	return cause
}

// A wholeReader reads from a session, and tells an end that the peer announced from
// TCP's, which anybody on the way can bring about. crypto/tls takes the one for the
// other at the end of a record; it reads on, and so sees TCP's, only as long as the
// peer has announced none.
type wholeReader struct{ s *session }

func (r wholeReader) Read(b []byte) (int, error) {
	n, err := r.s.Read(b)
	if err == io.EOF && r.s.raw.ended.Load() {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// closeWrite returns what says to c that no more will come.
func closeWrite(c net.Conn) func() error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return func() error {
			half.CloseWrite() // if the other end is gone, it need not be told
			return nil
		}
	}
	return c.Close
}

// move copies from src to dst until src ends, and then calls end.
func move(dst io.Writer, src io.Reader, end func() error, touch func()) error {
	buf := make([]byte, relayBuffer)
	for {
		n, err := src.Read(buf)
		touch()
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return &writeError{err}
			}
			touch()
		}
		if errors.Is(err, io.EOF) {
			return end()
		}
		if err != nil {
			return err
		}
	}
}

// exposition returns all that atls proxy shows.
func (p *proxy) exposition() *exposition {
	g := p.enter()
	defer g.users.Done()
	e := p.metrics.exposition(g.setup, g.read)
	e.families = append(e.families, p.reloads, p.backends)
	return e
}

// health says whether to send connections here, and what went wrong with a reload.
func (p *proxy) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if p.draining.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, "draining\n")
		return
	}
	io.WriteString(w, "ok\n")
	if text := p.reloadError.Load(); text != nil {
		fmt.Fprintf(w, "the last reload failed: %s\n", *text)
	}
}
