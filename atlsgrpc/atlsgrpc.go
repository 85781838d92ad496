// Package atlsgrpc is gRPC over attested connections: transport credentials for
// both ends, with what the peer attested in the AuthInfo.
//
//	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(clientCredentials))
//	server := grpc.NewServer(grpc.Creds(serverCredentials))
//
// Start with [NewClient] and [NewServer]. A handler calls [FromContext] for what its
// client attested, a client [FromPeer] with what grpc.Peer filled in.
package atlsgrpc

import (
	"context"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const (
	// serverTimeout bounds a handshake on a server. On a client gRPC does.
	serverTimeout = 30 * time.Second

	// lingerTime and lingerBytes bound how long a server reads from a client that it has
	// refused.
	lingerTime  = time.Second
	lingerBytes = 1 << 20
)

// An AuthInfo is what gRPC hands out about a connection.
type AuthInfo struct {
	credentials.CommonAuthInfo

	// State is the standard library's, without what was attested.
	State stdtls.ConnectionState

	// Conn is the connection. Its bytes are gRPC's; it is there for its
	// ConnectionState.
	Conn *tls.Conn
}

// AuthType returns "atls".
func (AuthInfo) AuthType() string { return "atls" }

// Attestation returns what the peer attested, as it stands now, or nil if it did not.
func (i AuthInfo) Attestation() *attestext.Result { return i.Conn.ConnectionState().PeerAttestation }

// ValidateAuthority reports whether authority, a name with or without a port, may be
// asked for over the connection: whether the server's certificate is for it. Without a
// certificate it is an error.
func (i AuthInfo) ValidateAuthority(authority string) error {
	if len(i.State.PeerCertificates) == 0 {
		return errors.New("atlsgrpc: the peer has no certificate that names an authority")
	}
	return i.State.PeerCertificates[0].VerifyHostname(hostOf(authority))
}

// FromPeer returns what p attested, or nil if it did not or is not of this package.
// p may be nil.
func FromPeer(p *peer.Peer) *attestext.Result {
	if p == nil {
		return nil
	}
	info, ok := p.AuthInfo.(AuthInfo)
	if !ok {
		return nil
	}
	return info.Attestation()
}

// FromContext returns what the client of an RPC attested; ctx is the handler's.
func FromContext(ctx context.Context) *attestext.Result {
	p, _ := peer.FromContext(ctx)
	return FromPeer(p)
}

// NewClient returns credentials for grpc.WithTransportCredentials. config is cloned;
// without a ServerName each connection has that of the channel's authority. Its
// NextProtos are replaced by "h2", which gRPC is spoken over.
func NewClient(config *tls.Config, opts ...Option) (credentials.TransportCredentials, error) {
	return newCredentials(config, opts)
}

// NewServer returns credentials for grpc.Creds. config is cloned, and its NextProtos
// are replaced as in [NewClient].
func NewServer(config *tls.Config, opts ...Option) (credentials.TransportCredentials, error) {
	return newCredentials(config, opts)
}

// An Option changes what credentials do beside handshakes.
type Option func(*transport)

// OnHandshake has f called after each handshake, which waits for it: for logs, see
// package atlslog. With an error the connection will be closed.
func OnHandshake(f func(conn *tls.Conn, took time.Duration, err error)) Option {
	return func(t *transport) { t.onHandshake = f }
}

func newCredentials(config *tls.Config, opts []Option) (credentials.TransportCredentials, error) {
	if config == nil {
		return nil, errors.New("atlsgrpc: there is no tls.Config")
	}
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	t := &transport{config: config}
	for _, o := range opts {
		o(t)
	}
	return t, nil
}

// transport is the credentials of either end.
type transport struct {
	config      *tls.Config
	onHandshake func(*tls.Conn, time.Duration, error) // nil for nobody
}

func (t *transport) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config := t.config
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName = hostOf(authority)
	}
	conn, info, err := t.handshake(ctx, tls.Client(raw, config))
	if err != nil {
		raw.Close()
	}
	return conn, info, err
}

func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), serverTimeout)
	defer cancel()
	conn, info, err := t.handshake(ctx, tls.Server(raw, t.config))
	if err != nil {
		linger(raw)
		raw.Close()
	}
	return conn, info, err
}

// linger waits until a client that was refused has read the alert. It has begun to speak
// HTTP/2, and to close with bytes unread would have TCP reset the connection.
func linger(raw net.Conn) {
	half, ok := raw.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	raw.SetReadDeadline(time.Now().Add(lingerTime))
	io.Copy(io.Discard, io.LimitReader(raw, lingerBytes))
}

// handshake leaves it to its caller to close the connection where it fails.
func (t *transport) handshake(ctx context.Context, conn *tls.Conn) (net.Conn, credentials.AuthInfo, error) {
	begun := time.Now()
	err := conn.HandshakeContext(ctx)
	if t.onHandshake != nil {
		t.onHandshake(conn, time.Since(begun), err)
	}
	if err != nil {
		return nil, nil, err
	}
	cs := conn.ConnectionState()
	if cs.NegotiatedProtocol != "h2" {
		conn.CloseWrite()
		return nil, nil, errors.New("atlsgrpc: the peer did not negotiate HTTP/2 by ALPN")
	}
	return conn, AuthInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		State:          cs.Std(),
		Conn:           conn,
	}, nil
}

// hostOf returns a name without its port.
func hostOf(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		return host
	}
	return authority
}

func (t *transport) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls", SecurityVersion: "1.3", ServerName: t.config.ServerName}
}

func (t *transport) Clone() credentials.TransportCredentials {
	return &transport{t.config.Clone(), t.onHandshake}
}

// OverrideServerName is deprecated by gRPC: set ServerName in the Config.
func (t *transport) OverrideServerName(name string) error {
	t.config.ServerName = name
	return nil
}

// Require returns interceptors that let an RPC through if its client has attested and
// each of accept returns nil. Otherwise it ends with PermissionDenied, which does not
// say why. methods, full names such as "/grpc.health.v1.Health/Check", are those that
// it is demanded of; without any it is of all. It panics if one is no such name, for it
// would guard nothing.
func Require(methods []string, accept ...func(*attestext.Result) error) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	methods = slices.Clone(methods)
	for _, m := range methods {
		if service, name, ok := strings.Cut(strings.TrimPrefix(m, "/"), "/"); !ok || m[0] != '/' || service == "" || name == "" || strings.Contains(name, "/") {
			panic(fmt.Sprintf("atlsgrpc: Require is given the method %q, and not /package.Service/Method", m))
		}
	}
	check := func(ctx context.Context, method string) error {
		if len(methods) > 0 && !slices.Contains(methods, method) {
			return nil
		}
		if err := demand(FromContext(ctx), accept); err != nil {
			return status.Error(codes.PermissionDenied, "attestation required")
		}
		return nil
	}
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := check(ctx, info.FullMethod); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
	stream := func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if err := check(ss.Context(), info.FullMethod); err != nil {
			return err
		}
		return handler(srv, ss)
	}
	return unary, stream
}

func demand(peer *attestext.Result, accept []func(*attestext.Result) error) error {
	if !peer.Valid() {
		return errors.New("the client has not attested")
	}
	for _, f := range accept {
		if err := f(peer); err != nil {
			return fmt.Errorf("the client's attestation: %w", err)
		}
	}
	return nil
}
