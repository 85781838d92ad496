package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/attestedtls/atls/internal/accept"
	"github.com/attestedtls/atls/tls"
)

const serveUsage = `Usage:
    atls serve [--listen ADDR] --cert FILE --key FILE [FLAGS]

Echoes what each client sends. It prints the address that it listens on, and
something about each connection, until interrupted.

Examples:
    $ atls serve --cert pki/cert.pem --key pki/key.pem --attest softtee:tdx
    $ atls serve --cert pki/cert.pem --key pki/key.pem --client-ca pki/ca.pem \
        --verify local --trust-roots pki/trust-roots.pem --collateral pki/collateral.json

    --listen ADDR               default 127.0.0.1:4433; port 0 is any that is free
    --http                      answer a request with a page about the connection
    --quote-queue N             how many handshakes may wait for a quote (default 64, at
                                most 128; 0 for none). The TEE is then asked for one quote
                                at a time, and a handshake that would wait longer than it
                                can is refused at once. With --attest configfs there is
                                such a queue in any case, otherwise if one of these two
                                is given
    --quote-rate N              how many quotes a second the TEE makes (default 10), until
                                that has been measured
    --metrics ADDR              serve metrics at http://ADDR/metrics, in the format of
                                Prometheus. They are for whoever can connect
` + sharedUsage

const (
	defaultListen = "127.0.0.1:4433"

	// maxConnections bounds how many are served at a time; others wait.
	maxConnections = 256
	// idleTimeout ends a connection on which nothing moves.
	idleTimeout = 5 * time.Minute
)

// A server is atls serve while it runs.
type server struct {
	flags  *connFlags
	setup  *setup
	http   bool
	stdout *lineWriter
	stderr *lineWriter

	metrics *serverMetrics
}

func runServe(ctx context.Context, env *environment, args []string) error {
	var f connFlags
	fs := newFlagSet("serve")
	f.register(fs)
	listen := fs.String("listen", defaultListen, "")
	asHTTP := fs.Bool("http", false, "")
	metricsAddr := fs.String("metrics", "", "")
	f.quotes.register(fs)
	if _, err := parseArgs(fs, args, 0, serveUsage); err != nil {
		return err
	}
	started := time.Now()
	stdout, stderr := &lineWriter{w: env.stdout}, &lineWriter{w: env.stderr}
	f.warn = stderr.error
	setup, err := f.setup(ctx, true)
	if err != nil {
		return err
	}
	defer setup.close()
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", *listen)
	if err != nil {
		return err
	}
	s := &server{flags: &f, setup: setup, http: *asHTTP, stdout: stdout, stderr: stderr}
	announce := s.stdout
	if f.json {
		announce = s.stderr
	}
	s.metrics = newServerMetrics()
	if a := setup.config.Attestation; a != nil {
		a.Trace = s.metrics.trace()
	}
	where, stop, err := serveMetrics(ctx, *metricsAddr, func() *exposition { return s.metrics.exposition(setup, started) })
	if err != nil {
		l.Close()
		return err
	}
	defer stop()
	fmt.Fprintf(announce, "listening on %s\n%s", l.Addr(), where)
	if err := f.unused(true); err != nil {
		stderr.warning(err)
	}
	return s.serve(ctx, l)
}

// serve accepts connections until ctx is done, which is no error, or, with --once,
// until the first is over.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	if s.flags.once {
		raw, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				raw.Close()
			}
			return nil
		}
		if err != nil {
			return err
		}
		l.Close()
		return s.one(ctx, raw)
	}
	loop := accept.Loop{
		Slots: make(chan struct{}, maxConnections),
		Open:  &wg,
		Serve: func(raw net.Conn) { s.one(ctx, raw) },
		Retry: func(err error, _ time.Duration) { s.stderr.error(err) },
	}
	return loop.Run(ctx, l)
}

// one serves one connection and reports it.
func (s *server) one(ctx context.Context, raw net.Conn) error {
	s.metrics.open.Add(1)
	defer s.metrics.open.Add(-1)
	sess := newSession(raw, func(c net.Conn) *tls.Conn { return tls.Server(c, s.setup.config) })
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	err := sess.shake(ctx, s.flags.timeout)
	if err == nil {
		if s.http {
			err = sess.servePage(s.flags)
		} else {
			err = sess.echo()
		}
	}
	err = interrupted(ctx, err)
	sess.close(err)
	r := sess.report(s.flags, err)
	s.metrics.count(sess, r)
	if s.flags.json {
		err = s.stdout.object(r)
	} else {
		var b bytes.Buffer
		r.text(&b)
		_, err = s.stdout.Write(b.Bytes())
	}
	if err != nil {
		return err // standard output is gone
	}
	if r.err == nil {
		return nil
	}
	s.stderr.error(r.err)
	return &reportedError{r.err}
}

// shake runs the handshake and measures it.
func (s *session) shake(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := s.conn.HandshakeContext(ctx)
	s.handshake = time.Since(s.start)
	s.shaken = err == nil
	return err
}

// echo sends back what it reads, until the peer has nothing more to say.
func (s *session) echo() error {
	buf := make([]byte, 16<<10)
	for {
		s.conn.SetDeadline(time.Now().Add(idleTimeout))
		n, err := s.Read(buf)
		if n > 0 {
			if _, err := s.conn.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
