package exportedauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext"
)

// A Conn is what Exchange needs of a TLS connection or of a QUIC stream: a [net.Conn]
// has it.
type Conn interface {
	io.ReadWriter
	SetDeadline(time.Time) error
}

// A MessageConn is a Conn with a carriage of its own: Exchange has it move messages,
// in place of bytes. The errors of its methods are of this package's Error where the
// peer is to blame, and else those of the connection.
type MessageConn interface {
	Conn
	// ReadMessage reads one message, with its header, whose type is one of types and
	// which is no longer than [MaxMessage]. op says what it is read for.
	ReadMessage(op string, types ...uint8) ([]byte, error)
	// WriteMessage writes one message, or those of one authenticator.
	WriteMessage(b []byte) error
}

// Exchange attests on a connection whose handshake is complete, before any other
// application byte, and appraises the peer, as c says. Both ends call it, with
// Configs that match. The messages are application data, each delimited by its own
// handshake header:
//
//	client                                      server
//	ClientCertificateRequest   ──────────────▶              if the client asks
//	                           ◀──────────────  Certificate, CertificateVerify, Finished
//	                           ◀──────────────  CertificateRequest, if the server asks
//	Certificate, CertificateVerify, Finished ▶
//
// With c.ClientFirst the server holds its answer back until it has accepted the
// client's:
//
//	ClientCertificateRequest   ──────────────▶
//	                           ◀──────────────  CertificateRequest
//	Certificate, CertificateVerify, Finished ▶
//	                           ◀──────────────  Certificate, CertificateVerify, Finished
//
// It returns what is known of the peer, which is nil where this end does not ask or
// c.AllowRefusal let the peer pass.
// An end that only attests does not learn from Exchange whether it was accepted.
//
// It returns in time: after c.Timeout, or when ctx is done. It refuses the first
// byte that is not what is due, so that a peer that speaks another protocol is found out at
// once. Nothing is read beyond the last message.
//
// After an error the deadline of conn has passed, so that no byte moves on it by
// mistake; the caller closes it. After success conn has no deadline.
//
// Exchange attests this connection and no other: let a server send no session
// tickets, a client use none, and neither use early data, or call Exchange on
// resumed connections as well.
func Exchange(ctx context.Context, conn Conn, s *Session, c *Config) (*Peer, error) {
	const op = "exchange"
	if err := c.validate(op); err != nil {
		return nil, errors.Join(err, conn.SetDeadline(past))
	}
	ctx, cancel := context.WithTimeout(ctx, orDefault(c.Timeout, defaultTimeout))
	defer cancel()
	x := &exchange{ctx, conn, s, c}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, &Error{ErrInterrupted, op, err}
	}
	// A context that ends early ends a Read or a Write that waits.
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		conn.SetDeadline(past)
		close(ended)
	})
	peer, err := x.run()
	if !stop() {
		<-ended // or its deadline would come after ours
		if err == nil {
			err = &Error{ErrInterrupted, op, context.Cause(ctx)}
		}
	}
	if err != nil {
		conn.SetDeadline(past)
		return nil, err
	}
	conn.SetDeadline(time.Time{}) // a connection that has failed since says so when it is used
	return peer, nil
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

type exchange struct {
	ctx  context.Context
	conn Conn
	s    *Session
	c    *Config
}

// run has the client's request go first.
func (x *exchange) run() (*Peer, error) {
	if x.s.role == attestext.RoleClient {
		return x.client()
	}
	return x.server()
}

func (x *exchange) client() (peer *Peer, err error) {
	answered := false
	if x.c.asks() {
		if peer, answered, err = x.ask(); err != nil {
			return nil, err
		}
	}
	if x.c.attests() && !answered {
		r, err := x.readRequest()
		if err != nil {
			return nil, err
		}
		if err := x.attest(r); err != nil {
			return nil, err
		}
	}
	return peer, nil
}

func (x *exchange) server() (peer *Peer, err error) {
	var r *Request
	if x.c.attests() {
		if r, err = x.readRequest(); err != nil {
			return nil, err
		}
	}
	if r != nil && !x.c.ClientFirst {
		if err := x.attest(r); err != nil {
			return nil, err
		}
	}
	if x.c.asks() {
		if peer, _, err = x.ask(); err != nil {
			return nil, err
		}
	}
	if r != nil && x.c.ClientFirst {
		if err := x.attest(r); err != nil {
			return nil, err
		}
	}
	return peer, nil
}

// ask sends a request and appraises the answer. It reports whether this end, a client,
// has answered a request of the peer before.
func (x *exchange) ask() (peer *Peer, answered bool, err error) {
	r, err := x.s.RequestAttestation(x.c)
	if err != nil {
		return nil, false, err
	}
	if err := x.write(r.Bytes()); err != nil {
		return nil, false, err
	}
	what := fmt.Sprintf("read the %v's authenticator", x.s.peer())
	types := []uint8{typeCertificate, typeFinished}
	if x.s.role == attestext.RoleClient {
		types = append(types, typeCertificateRequest)
	}
	b, err := x.read(what, types...)
	if err != nil {
		return nil, false, err
	}
	if b[0] == typeCertificateRequest {
		if err := x.attestFirst(b); err != nil {
			return nil, false, err
		}
		answered = true
		if b, err = x.read(what, typeCertificate, typeFinished); err != nil {
			return nil, false, err
		}
	}
	if b[0] == typeCertificate {
		for _, typ := range []uint8{typeCertificateVerify, typeFinished} {
			m, err := x.read(what, typ)
			if err != nil {
				return nil, false, err
			}
			b = slices.Concat(b, m)
		}
	}
	peer, err = x.s.Appraise(x.ctx, r, b, x.c)
	refused := errors.Is(err, ErrRefused)
	switch {
	case refused && x.c.AllowRefusal:
		peer, err = nil, nil
	case refused && x.s.role == attestext.RoleServer && x.c.ClientFirst:
		err = fmt.Errorf("%w (this server has the client attest first: it needs an attester, and ClientFirst set as well)", err)
	}
	if err == nil && x.c.VerifyPeer != nil {
		err = x.c.VerifyPeer(peer)
	}
	if err != nil {
		return nil, false, err
	}
	return peer, answered, nil
}

// attestFirst answers a server that asks before it has attested. A client that does not
// attest has nothing to hold back, and leaves it to the server what becomes of it.
func (x *exchange) attestFirst(b []byte) error {
	r, err := x.s.ReadRequest(b)
	if err != nil {
		return err
	}
	if x.c.attests() && x.c.ClientFirst {
		return x.attest(r)
	}
	if err := x.refuse(r); err != nil || !x.c.attests() {
		return err
	}
	return errorf(ErrUnexpectedMessage, opAttest, "the server wants this client to attest before it does so itself, and ClientFirst is not set here")
}

func (x *exchange) readRequest() (*Request, error) {
	b, err := x.read(fmt.Sprintf("read the %v's request", x.s.peer()), requestType(x.s.peer()))
	if err != nil {
		return nil, err
	}
	return x.s.ReadRequest(b)
}

// attest answers a request. A peer whose request cannot be met is told so by an empty
// authenticator.
func (x *exchange) attest(r *Request) error {
	b, err := x.s.Attest(x.ctx, r, x.c)
	if err != nil {
		x.refuse(r) // the error that matters is Attest's
		return err
	}
	return x.write(b)
}

func (x *exchange) refuse(r *Request) error {
	b, err := x.s.Refuse(r)
	if err != nil {
		return err
	}
	return x.write(b)
}

func (x *exchange) write(b []byte) error {
	var err error
	if m, ok := x.conn.(MessageConn); ok {
		err = m.WriteMessage(b)
	} else {
		_, err = x.conn.Write(b)
	}
	if err != nil {
		return x.interrupted("write to the "+x.s.peer().String(), "the connection failed", err)
	}
	return nil
}

// read reads one message of one of the types, and not a byte beyond it.
func (x *exchange) read(op string, types ...uint8) ([]byte, error) {
	if m, ok := x.conn.(MessageConn); ok {
		b, err := m.ReadMessage(op, types...)
		if err != nil && !errors.As(err, new(*Error)) {
			err = x.interrupted(op, fmt.Sprintf("there is no %s", typeName(types[0])), err)
		}
		return b, err
	}
	header := make([]byte, headerSize)
	// One byte says whether the peer speaks this at all.
	if _, err := io.ReadFull(x.conn, header[:1]); err != nil {
		return nil, x.interrupted(op, fmt.Sprintf("there is no %s", typeName(types[0])), err)
	}
	typ := header[0]
	if !slices.Contains(types, typ) {
		if maxMessage(typ) == 0 {
			return nil, errorf(ErrUnexpectedMessage, op, "the first byte is %#02x, %s begins with %#02x: the peer does not speak exported authenticators here, or is not configured to",
				typ, typeName(types[0]), types[0])
		}
		return nil, errorf(ErrUnexpectedMessage, op, "got %s, want %s", typeName(typ), typeName(types[0]))
	}
	if _, err := io.ReadFull(x.conn, header[1:]); err != nil {
		return nil, x.interrupted(op, typeName(typ)+" is cut off in its header", err)
	}
	n := int(header[1])<<16 | int(header[2])<<8 | int(header[3])
	if n > maxMessage(typ)-headerSize {
		return nil, errorf(ErrDecode, op, "%s of %d bytes, want at most %d", typeName(typ), headerSize+n, maxMessage(typ))
	}
	b := slices.Grow(header, n)[:headerSize+n]
	if _, err := io.ReadFull(x.conn, b[headerSize:]); err != nil {
		return nil, x.interrupted(op, typeName(typ)+" is cut off", err)
	}
	return b, nil
}

// interrupted says why the connection is of no use any more.
func (x *exchange) interrupted(op, what string, err error) error {
	if cause := context.Cause(x.ctx); cause != nil {
		return errorf(ErrInterrupted, op, "%s: %w: %w", what, cause, err)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errorf(ErrInterrupted, op, "%s: the peer closed the connection: %w", what, io.ErrUnexpectedEOF)
	}
	return errorf(ErrInterrupted, op, "%s: %w", what, err)
}
