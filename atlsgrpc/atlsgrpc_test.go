package atlsgrpc_test

import (
	"context"
	stdtls "crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/atlsgrpc"
	"github.com/attestedtls/atls/atlshttp"
	"github.com/attestedtls/atls/atlshttp/atlshttptest"
	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/tls"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// service is gRPC's own test service: a unary call, and a stream both ways.
type service struct {
	pb.UnimplementedTestServiceServer
}

func verdict(ctx context.Context) string {
	if p := atlsgrpc.FromContext(ctx); p.Valid() {
		return p.Verdict()
	}
	return "none"
}

func (service) UnaryCall(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	return &pb.SimpleResponse{Username: verdict(ctx)}, nil
}

func (service) FullDuplexCall(s pb.TestService_FullDuplexCallServer) error {
	for {
		in, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&pb.StreamingOutputCallResponse{Payload: in.Payload}); err != nil {
			return err
		}
	}
}

// configs returns both ends' Config: both attest, the server merely asks.
func configs() (client, server *tls.Config) {
	s := atlshttptest.NewUnstartedServer(nil)
	s.Listener.Close()
	return s.ClientTLS, s.TLS
}

// serve returns the address of the service under config.
func serve(t *testing.T, config *tls.Config, opts ...grpc.ServerOption) string {
	t.Helper()
	creds, err := atlsgrpc.NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(append(opts, grpc.Creds(creds))...)
	pb.RegisterTestServiceServer(srv, service{})
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	return l.Addr().String()
}

func dial(t *testing.T, addr string, creds credentials.TransportCredentials) pb.TestServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return pb.NewTestServiceClient(conn)
}

func attested(t *testing.T, config *tls.Config) credentials.TransportCredentials {
	t.Helper()
	creds, err := atlsgrpc.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestBothEndsHaveTheVerdict(t *testing.T) {
	client, server := configs()
	c := dial(t, serve(t, server), attested(t, client))
	var p peer.Peer
	resp, err := c.UnaryCall(deadline(t), &pb.SimpleRequest{}, grpc.Peer(&p))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Username != "affirming" {
		t.Errorf("the server's verdict is %q", resp.Username)
	}
	got := atlsgrpc.FromPeer(&p)
	if !got.Valid() || got.Verdict() != "affirming" || got.Challenge().Role != attestext.RoleServer {
		t.Errorf("the client's verdict is %+v", got)
	}
	info := p.AuthInfo.(atlsgrpc.AuthInfo)
	if info.AuthType() != "atls" || info.State.NegotiatedProtocol != "h2" || len(info.State.PeerCertificates) == 0 {
		t.Errorf("%+v", info)
	}
	if err := credentials.CheckSecurityLevel(info, credentials.PrivacyAndIntegrity); err != nil {
		t.Error(err)
	}
}

func TestStreamGoesBothWays(t *testing.T) {
	client, server := configs()
	s, err := dial(t, serve(t, server), attested(t, client)).FullDuplexCall(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		want := strings.Repeat("x", i*100)
		if err := s.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte(want)}}); err != nil {
			t.Fatal(err)
		}
		got, err := s.Recv()
		if err != nil || string(got.Payload.Body) != want {
			t.Fatalf("message %d: %d bytes, %v", i, len(got.GetPayload().GetBody()), err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestEvidenceOfAnotherMakerIsRefused(t *testing.T) {
	client, server := configs()
	server.Attestation.Attester = softtee.NewTDX(&softtee.TDXOptions{Seed: "another"}).Attester()
	called := make(chan error, 16)
	creds, err := atlsgrpc.NewClient(client, atlsgrpc.OnHandshake(func(conn *tls.Conn, took time.Duration, err error) { called <- err }))
	if err != nil {
		t.Fatal(err)
	}
	_, err = dial(t, serve(t, server), creds).UnaryCall(deadline(t), &pb.SimpleRequest{})
	if seen := <-called; !errors.Is(seen, attestext.ErrSignature) {
		t.Errorf("OnHandshake was called with %v", seen)
	}
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "signature") {
		t.Error(err)
	}
}

// A slow verifier waits until what the client sends beside has arrived.
type slow struct {
	attestext.Verifier
	arrived chan struct{}
}

func (v slow) Appraise(ctx context.Context, ev *attestext.Evidence, c *attestext.Challenge) (*attestext.Appraisal, error) {
	<-v.arrived
	return v.Verifier.Appraise(ctx, ev, c)
}

// A client whose evidence is refused has begun to speak HTTP/2 by then, and its
// connection is not reset before it has read the alert, which is what its RPCs end with.
func TestRefusedClientReadsWhy(t *testing.T) {
	client, server := configs()
	client.Attestation.Attester = softtee.NewTDX(&softtee.TDXOptions{Seed: "another"}).Attester()
	client.NextProtos, client.ServerName = []string{"h2"}, "localhost"
	arrived := make(chan struct{})
	server.Attestation.Verifier = slow{server.Attestation.Verifier, arrived}
	conn, err := tls.Dial("tcp", serve(t, server), client)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Write(make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	close(arrived)
	if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "remote error: tls: bad certificate") {
		t.Errorf("it reads %v", err)
	}
	if _, err := conn.NetConn().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("and then %v", err)
	}
}

func TestServerThatDoesNotAttestIsRefused(t *testing.T) {
	client, server := configs()
	server.Attestation = nil
	_, err := dial(t, serve(t, server), attested(t, client)).UnaryCall(deadline(t), &pb.SimpleRequest{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "attestation") {
		t.Error(err)
	}
}

func TestStockClientsGetWhatIsNotGuarded(t *testing.T) {
	client, server := configs()
	const guarded = "/grpc.testing.TestService/FullDuplexCall"
	unary, stream := atlsgrpc.Require([]string{guarded}, atlshttp.Affirming)
	addr := serve(t, server, grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream))
	stock := dial(t, addr, credentials.NewTLS(&stdtls.Config{RootCAs: client.RootCAs}))
	resp, err := stock.UnaryCall(deadline(t), &pb.SimpleRequest{})
	if err != nil || resp.Username != "none" {
		t.Errorf("%v, %v", resp, err)
	}
	for _, tt := range []struct {
		name string
		c    pb.TestServiceClient
		want codes.Code
	}{{"stock", stock, codes.PermissionDenied}, {"attesting", dial(t, addr, attested(t, client)), codes.OK}} {
		s, err := tt.c.FullDuplexCall(deadline(t))
		if err == nil {
			if err = s.Send(&pb.StreamingOutputCallRequest{}); err == nil {
				_, err = s.Recv()
			} else if errors.Is(err, io.EOF) {
				_, err = s.Recv()
			}
		}
		if status.Code(err) != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestRequireWithoutMethodsGuardsAll(t *testing.T) {
	client, server := configs()
	for name, tt := range map[string]struct {
		accept func(*attestext.Result) error
		want   codes.Code
	}{
		"accepted": {atlshttp.Affirming, codes.OK},
		"refused":  {func(*attestext.Result) error { return errors.New("no") }, codes.PermissionDenied},
	} {
		unary, stream := atlsgrpc.Require(nil, tt.accept)
		addr := serve(t, server, grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream))
		_, err := dial(t, addr, attested(t, client)).UnaryCall(deadline(t), &pb.SimpleRequest{})
		if status.Code(err) != tt.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A name that no RPC has would leave the one that was meant open to everybody.
func TestRequireTakesFullNamesOnly(t *testing.T) {
	for _, name := range []string{"", "/", "Check", "/Check", "grpc.health.v1.Health/Check", "/grpc.health.v1.Health/", "//Check", "/a/b/c"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is taken", name)
				}
			}()
			atlsgrpc.Require([]string{name})
		}()
	}
}

func TestContextWithoutAttestationHasNoVerdict(t *testing.T) {
	if atlsgrpc.FromContext(t.Context()) != nil || atlsgrpc.FromPeer(nil) != nil || atlsgrpc.FromPeer(&peer.Peer{AuthInfo: credentials.TLSInfo{}}) != nil {
		t.Error("a verdict out of nothing")
	}
	if _, err := atlsgrpc.NewClient(nil); err == nil {
		t.Error("no Config was taken")
	}
	if insecure.NewCredentials().Info().SecurityProtocol == attested(t, &tls.Config{}).Info().SecurityProtocol {
		t.Error("these credentials say that they are none")
	}
}

func TestAuthorityIsTheCertificates(t *testing.T) {
	client, server := configs()
	addr := serve(t, server)
	c := dial(t, addr, attested(t, client))
	for name, want := range map[string]codes.Code{"example.com": codes.OK, "example.com:443": codes.OK, "elsewhere.example": codes.Unavailable} {
		_, err := c.UnaryCall(deadline(t), &pb.SimpleRequest{}, grpc.CallAuthority(name))
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

func TestHandshakeWithoutHTTP2Fails(t *testing.T) {
	client, server := configs()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server) // without ALPN
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.(*tls.Conn).Handshake()
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = attested(t, client).ClientHandshake(deadline(t), "localhost:1", raw)
	if err == nil || !strings.Contains(err.Error(), "ALPN") {
		t.Error(err)
	}
}
