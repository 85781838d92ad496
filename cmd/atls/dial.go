package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/tls"
)

const dialUsage = `Usage:
    atls dial HOST:PORT [FLAGS]

Sends standard input to the peer and writes the reply to standard output, and
something about the connection to standard error. With --json, that is an object on
standard output, and the reply goes to standard error.

Nothing is sent before the peer has been appraised, if --verify requires it. Where a reply
ends without the peer's word that it is over, which anybody on the way can bring about, a
warning says so.

Examples:
    $ echo hello | atls dial localhost:4433 --ca pki/ca.pem --verify local \
        --trust-roots pki/trust-roots.pem --collateral pki/collateral.json --policy pki/policy.json
    $ atls dial localhost:4433 --ca pki/ca.pem --verify "exec:./my-verifier --strict"

Flags of dial alone:
    --machines DIR              remember in DIR from which machine each address attested
                                when it was first accepted, and refuse any other later
    --capture FILE              write the handshake, and the secrets that decrypt it, to
                                FILE, for "atls inspect" and "atls verify"
` + sharedUsage

func runDial(ctx context.Context, env *environment, args []string) error {
	var f connFlags
	fs := newFlagSet("dial")
	f.register(fs)
	machines := fs.String("machines", "", "")
	fs.StringVar(&f.capture, "capture", "", "")
	rest, err := parseArgs(fs, args, 1, dialUsage)
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(rest[0])
	if err != nil {
		return usagef("for example localhost:4433", "where to dial: %w", err)
	}
	setup, err := f.setup(ctx, false)
	if err != nil {
		return err
	}
	defer setup.close()
	if err := f.unused(false); err != nil {
		env.printWarning(err)
	}
	if *machines != "" {
		if err := setup.firstUse(*machines, rest[0]); err != nil {
			return err
		}
	}
	if setup.config.ServerName == "" {
		setup.config.ServerName = host
	}
	r := dial(ctx, &f, setup.config, rest[0], env)
	if f.json {
		err = (&lineWriter{w: env.stdout}).object(r)
	} else {
		r.text(env.stderr)
	}
	if r.err != nil {
		env.printError(r.err)
		return &reportedError{r.err}
	}
	return err
}

// firstUse has the peer attest from the machine that is recorded for addr in dir.
func (s *setup) firstUse(dir, addr string) error {
	a := s.config.Attestation
	if a == nil || a.Verifier == nil {
		return usagef("for example --verify local", "--machines is for evidence that is verified here")
	}
	store, err := policy.OpenFileMachines(dir)
	if err != nil {
		return fmt.Errorf("--machines: %w", err)
	}
	a.Verifier = &verifier.FirstUse{Verifier: a.Verifier, Store: store, Peer: addr}
	return nil
}

// dial connects, moves the data, and says how it went.
func dial(ctx context.Context, f *connFlags, config *tls.Config, addr string, env *environment) *report {
	raw, err := (&net.Dialer{Timeout: f.timeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return unconnected(f, addr, interrupted(ctx, err))
	}
	var record *recorder
	if f.capture != "" {
		record = new(recorder)
		if f.early() {
			record.capture.Form = config.Attestation.Form.String()
		}
		config = config.Clone()
		if log := config.KeyLogWriter; log != nil {
			config.KeyLogWriter = io.MultiWriter(log, record)
		} else {
			config.KeyLogWriter = record
		}
	}
	s := newSession(raw, func(c net.Conn) *tls.Conn { return tls.Client(c, config) })
	s.raw.record = record
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	err = s.shake(ctx, f.timeout)
	if record != nil {
		record.stop(s.conn.ConnectionState().AttestationState)
		if e := record.save(f.capture); err == nil {
			err = e
		}
	}
	if err == nil {
		reply := env.stdout
		if f.json {
			reply = env.stderr
		}
		err = s.converse(env.stdin, reply)
		if err == nil && s.raw.ended.Load() {
			env.printWarning(errors.New("the peer hung up without a close_notify: its reply may have been cut off on the way"))
		}
	}
	err = interrupted(ctx, err)
	s.close(err)
	return s.report(f, err)
}

// converse sends stdin to the peer, and copies what the peer says to reply until
// it has nothing more to say. It does not wait for stdin, which may be a terminal.
func (s *session) converse(stdin io.Reader, reply io.Writer) error {
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(s.conn, stdin)
		if err == nil {
			err = s.conn.CloseWrite()
		}
		sent <- err
	}()
	_, err := io.Copy(reply, readerOnly{s})
	if err != nil {
		return err
	}
	select {
	case err := <-sent:
		// The peer closed first: what could not be sent is not an error of its own.
		if op := new(net.OpError); errors.As(err, &op) {
			return nil
		}
		return err
	default:
		return nil
	}
}

// readerOnly hides what a session can do beside reading.
type readerOnly struct{ io.Reader }
