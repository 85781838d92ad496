// Package atlshttp is net/http over attested connections.
//
// A server is [ListenAndServe] or [Serve] with an http.Server and a tls.Config of
// this module, a client an http.Client whose Transport is a [Transport]. Both
// speak HTTP/1.1 and HTTP/2, as ALPN says, and fill in Request.TLS and
// Response.TLS as net/http does. What the peer attested is in the context of the
// request: see [FromContext], and [Require] for routes that demand it.
//
// Nothing here knows a TEE: how evidence is made and appraised is up to
// tls.Config.Attestation.
package atlshttp

import (
	"context"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls"
)

// A Conn is a connection in the shape that net/http wants: its ConnectionState is
// the standard library's. That of the embedded Conn has what was attested.
type Conn struct {
	*tls.Conn
	state *stdtls.ConnectionState // shared by the requests of the connection
	ended atomic.Pointer[error]   // why either end has ended the connection, if by an alert
}

// newConn returns a Conn after the handshake.
func newConn(c *tls.Conn) *Conn { return &Conn{Conn: c, state: new(c.ConnectionState().Std())} }

// Read reads from the embedded Conn.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		op, ok := errors.AsType[*net.OpError](err)
		if ok && op.Op == "remote error" || errors.As(err, new(*tls.AttestationError)) {
			c.ended.CompareAndSwap(nil, &err)
		}
	}
	return n, err
}

// ConnectionState returns what the standard library's type can say of the
// connection.
func (c *Conn) ConnectionState() stdtls.ConnectionState { return *c.state }

// TLSConn returns the TLS connection in a net.Conn that net/http gave to one of its
// hooks, for example http.Server.ConnState or httptrace.GotConnInfo, or nil if
// there is none of package tls.
func TLSConn(c net.Conn) *tls.Conn {
	switch c := c.(type) {
	case *Conn:
		return c.Conn
	case *tls.Conn:
		return c
	}
	return nil
}

// connKey is the key of a *connection, or on a client a *slot, in a request's context.
type connKey struct{}

// A connection is what a request's context knows of its connection.
type connection struct {
	conn *Conn
	peer *attestext.Result // as it stood when the request began
}

// now returns the connection of a request that begins.
func (c *Conn) now() *connection { return &connection{c, c.Conn.ConnectionState().PeerAttestation} }

// A slot is for a client's connection, which it gets when the request is under way.
type slot struct{ atomic.Pointer[connection] }

// fromContext returns nil if there is no connection.
func fromContext(ctx context.Context) *connection {
	switch v := ctx.Value(connKey{}).(type) {
	case *connection:
		return v
	case *slot:
		return v.Load()
	}
	return nil
}

// FromContext returns what the peer of a request had attested when the request began:
// the client in a handler, by Request.Context, and the server in a client, by
// Response.Request.Context. It returns nil if the peer did not attest, or the request
// did not come through this package. A connection that is attested again later, or
// closed, does not change it; ConnFromContext has what stands now.
//
// A handler's context has the handler's client in it wherever it is handed on, in
// requests of clients of other packages as well.
func FromContext(ctx context.Context) *attestext.Result {
	c := fromContext(ctx)
	if c == nil {
		return nil
	}
	return c.peer
}

// ConnFromContext returns the connection of a request, where FromContext would
// look, or nil. Reading from it, writing to it and closing it are up to net/http.
func ConnFromContext(ctx context.Context) *tls.Conn {
	c := fromContext(ctx)
	if c == nil {
		return nil
	}
	return c.conn.Conn
}

// Require returns a handler that calls h if the client has attested and each of
// accept returns nil, and otherwise answers 403 Forbidden without calling h. The
// answer does not say why: what accept returns is for the server's own log.
//
// The server's tls.Config must have a Verifier. It is of use where clients are
// merely asked to attest (tls.RequestAttestation), or where routes differ in what
// they demand.
func Require(h http.Handler, accept ...func(*attestext.Result) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := demand(FromContext(r.Context()), accept); err != nil {
			http.Error(w, "attestation required", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func demand(peer *attestext.Result, accept []func(*attestext.Result) error) error {
	if !peer.Valid() {
		return errors.New("the peer has not attested")
	}
	for _, f := range accept {
		if err := f(peer); err != nil {
			return err
		}
	}
	return nil
}

// Affirming is for [Require]: it accepts the verdict "affirming" alone, where a
// handshake accepts "warning" as well.
func Affirming(peer *attestext.Result) error {
	if v := peer.Verdict(); v != "affirming" {
		return fmt.Errorf("the verdict is %q", v)
	}
	return nil
}
