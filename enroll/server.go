package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/internal/accept"
	"github.com/attestedtls/atls/tls"
)

// DefaultMaxConns is how many machines are served at a time if nothing else is said, and
// DefaultMaxPerAddr how many of them from one address.
const (
	DefaultMaxConns   = 64
	DefaultMaxPerAddr = 16
)

// A Server is an authority on the network. The fields must not be changed once it is in
// use.
type Server struct {
	Authority *Authority

	// Certificates are the server's own, by which machines know it.
	Certificates []tls.Certificate

	// Verifier appraises the machines' evidence, which comes in place of a certificate:
	// a raw quote names no key, and does not do.
	Verifier attestext.Verifier

	// Timeout bounds a connection from its first byte to its last. Zero is
	// DefaultTimeout.
	Timeout time.Duration

	// MaxConns is how many machines are served at a time; others wait in the listener's
	// queue. Zero is DefaultMaxConns.
	MaxConns int

	// MaxPerAddr is how many machines are served at a time from one IPv4 address, or
	// from one /64 of IPv6; one more is hung up on. Zero is DefaultMaxPerAddr.
	MaxPerAddr int

	// Report is called when a machine has been served, or refused: entry is what was
	// logged, nil if the handshake or the request failed before that, and err why there
	// is no certificate. It is called concurrently. nil is nobody. It is also called where
	// no machine can be accepted for a while, with the listener's address.
	Report func(remote net.Addr, entry *Entry, err error)
}

// Serve accepts machines from l until ctx is done, which is no error, and closes l. It
// returns when the last machine has been served.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if s.Authority == nil || s.Verifier == nil || len(s.Certificates) == 0 {
		return errors.New("enroll: a Server needs an Authority, a Verifier and Certificates")
	}
	if err := s.Authority.Validate(); err != nil {
		return fmt.Errorf("enroll: Authority: %w", err)
	}
	conns, timeout := cmp.Or(s.MaxConns, DefaultMaxConns), cmp.Or(s.Timeout, DefaultTimeout)
	places := places{most: cmp.Or(s.MaxPerAddr, DefaultMaxPerAddr), taken: map[netip.Prefix]int{}}
	config := &tls.Config{
		Certificates: s.Certificates,
		MinVersion:   tls.VersionTLS13,
		Attestation: &tls.AttestationConfig{
			Verifier:             s.Verifier,
			PeerCredentials:      []attestext.CredentialKind{attestext.AttestationOnly},
			AllowAttestationOnly: true, // which of all machines it is, the rules ask
			ExplainRefusals:      true,
			VerifyTimeout:        timeout / 2,
		},
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	report := s.Report
	if report == nil {
		report = func(net.Addr, *Entry, error) {}
	}
	loop := accept.Loop{
		Slots: make(chan struct{}, conns),
		Open:  &wg,
		Serve: func(raw net.Conn) {
			entry, err := (*Entry)(nil), places.enter(raw.RemoteAddr())
			if err == nil {
				entry, err = s.one(ctx, raw, config, timeout)
				places.leave(raw.RemoteAddr())
			}
			raw.Close()
			report(raw.RemoteAddr(), entry, err)
		},
		Retry: func(err error, _ time.Duration) { report(l.Addr(), nil, fmt.Errorf("enroll: %w", err)) },
	}
	return loop.Run(ctx, l)
}

// places are the connections that each address has.
type places struct {
	most  int
	mu    sync.Mutex
	taken map[netip.Prefix]int // of those that have one at least
}

// network returns what counts as one address. What has none, such as a Unix socket,
// counts as one as well.
func network(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits)
	return p
}

// enter takes a place, or says that a has too many.
func (p *places) enter(a net.Addr) error {
	n := network(a)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[n] >= p.most {
		return fmt.Errorf("enroll: %v has %d connections open, and no more are served", n, p.most)
	}
	p.taken[n]++
	return nil
}

// leave gives it back.
func (p *places) leave(a net.Addr) {
	n := network(a)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[n]--; p.taken[n] == 0 {
		delete(p.taken, n)
	}
}

// one serves one machine.
func (s *Server) one(ctx context.Context, raw net.Conn, config *tls.Config, timeout time.Duration) (*Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	conn := tls.Server(raw, config)
	defer conn.Close()
	defer func() { // whatever else the machine has sent, it is to read the answer, or the alert
		conn.CloseWrite()
		accept.Linger(ctx, raw)
	}()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	peer := conn.ConnectionState().PeerAttestation
	if peer == nil { // which required attestation rules out
		return nil, errors.New("enroll: no verdict")
	}
	if err := writeJSON(conn, greeting{version}); err != nil {
		return nil, err
	}
	der, err := readFrame(conn, maxRequest)
	if err != nil {
		return nil, err
	}
	chain, entry, err := s.Authority.Issue(der, peer, raw.RemoteAddr().String())
	answer := reply{Chain: chain}
	var refused *Error
	if errors.As(err, &refused) {
		answer = reply{Code: refused.Code, Reason: refused.Reason}
	}
	if werr := writeJSON(conn, answer); err == nil {
		err = werr
	}
	return entry, err
}
