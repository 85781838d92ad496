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
// It returns what is known of the peer, which is nil where this end does not ask.
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
func (x *exchange) run() (peer *Peer, err error) {
	ask := func() error {
		if x.c.asks() {
			peer, err = x.ask()
		}
		return err
	}
	answer := func() error {
		if x.c.attests() {
			err = x.answer()
		}
		return err
	}
	if x.s.role == attestext.RoleClient {
		err = inOrder(ask, answer)
	} else {
		err = inOrder(answer, ask)
	}
	if err != nil {
		return nil, err
	}
	return peer, nil
}

func inOrder(first, second func() error) error {
	if err := first(); err != nil {
		return err
	}
	return second()
}

// ask sends a request and appraises the answer.
func (x *exchange) ask() (*Peer, error) {
	r, err := x.s.RequestAttestation(x.c)
	if err != nil {
		return nil, err
	}
	if err := x.write(r.Bytes()); err != nil {
		return nil, err
	}
	what := fmt.Sprintf("read the %v's authenticator", x.s.peer())
	b, err := x.read(what, typeCertificate, typeFinished)
	if err != nil {
		return nil, err
	}
	if b[0] == typeCertificate {
		for _, typ := range []uint8{typeCertificateVerify, typeFinished} {
			m, err := x.read(what, typ)
			if err != nil {
				return nil, err
			}
			b = slices.Concat(b, m)
		}
	}
	return x.s.Appraise(x.ctx, r, b, x.c)
}

// answer reads a request and attests. A peer whose request cannot be met is told
// so by an empty authenticator.
func (x *exchange) answer() error {
	b, err := x.read(fmt.Sprintf("read the %v's request", x.s.peer()), requestType(x.s.peer()))
	if err != nil {
		return err
	}
	r, err := x.s.ReadRequest(b)
	if err != nil {
		return err
	}
	b, err = x.s.Attest(x.ctx, r, x.c)
	if err != nil {
		if refusal, rerr := x.s.Refuse(r); rerr == nil {
			x.write(refusal) // the error that matters is Attest's
		}
		return err
	}
	return x.write(b)
}

func (x *exchange) write(b []byte) error {
	if _, err := x.conn.Write(b); err != nil {
		return x.interrupted("write to the "+x.s.peer().String(), "the connection failed", err)
	}
	return nil
}

// read reads one message of one of the types, and not a byte beyond it.
func (x *exchange) read(op string, types ...uint8) ([]byte, error) {
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
