package atlsgrpc_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/attestedtls/atls/atlsgrpc"
	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls"
	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/peer"
)

// A stream goes on, in order and whole, while both ends have each other attest again.
func TestStreamGoesOnUnderReattestation(t *testing.T) {
	client, server := configs()
	for _, c := range []*tls.Config{client, server} {
		c.Attestation.Carriage, c.Attestation.Peer = tls.CarriagePostHandshake, tls.RequireAttestation
		c.Attestation.ReattestInterval = 20 * time.Millisecond
	}
	ctx := deadline(t)
	var p peer.Peer
	s, err := dial(t, serve(t, server), attested(t, client)).FullDuplexCall(ctx, grpc.Peer(&p))
	if err != nil {
		t.Fatal(err)
	}
	body := make([]byte, 1<<12)
	var info atlsgrpc.AuthInfo
	n := 0
	for ; info.Conn == nil || info.Conn.ConnectionState().Reattestations < 5; n++ {
		body[n%len(body)]++
		if err := s.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: body}}); err != nil {
			t.Fatal(err)
		}
		got, err := s.Recv()
		if err != nil || !bytes.Equal(got.Payload.Body, body) {
			t.Fatalf("message %d: %d bytes, %v", n, len(got.GetPayload().GetBody()), err)
		}
		if info.Conn == nil {
			in, ok := peer.FromContext(s.Context())
			if !ok {
				t.Fatal("gRPC does not say who answers")
			}
			info = in.AuthInfo.(atlsgrpc.AuthInfo)
		}
		if !info.Attestation().Valid() {
			t.Fatal("there is no verdict")
		}
	}
	t.Logf("%d messages, %d rounds", n, info.Conn.ConnectionState().Reattestations)
	if got := info.Attestation(); got.Challenge().Binding == attestext.BindingHardened {
		t.Error("the verdict is still that of the handshake")
	}
}
