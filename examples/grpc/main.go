// A gRPC service whose server attests, and a client that requires it. The service is
// gRPC's own health checking.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"github.com/attestedtls/atls/atlsgrpc"
	"github.com/attestedtls/atls/examples/internal/demo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	pb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
)

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(out io.Writer) error {
	serverConfig, clientConfig := demo.Configs()

	serverCredentials, err := atlsgrpc.NewServer(serverConfig)
	if err != nil {
		return err
	}
	srv := grpc.NewServer(grpc.Creds(serverCredentials))
	defer srv.Stop()
	pb.RegisterHealthServer(srv, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go srv.Serve(l)

	clientCredentials, err := atlsgrpc.NewClient(clientConfig)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(clientCredentials))
	if err != nil {
		return err
	}
	defer conn.Close()
	var server peer.Peer
	resp, err := pb.NewHealthClient(conn).Check(context.Background(), &pb.HealthCheckRequest{}, grpc.Peer(&server))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%v, says a server that is %s\n", resp.Status, atlsgrpc.FromPeer(&server).Verdict())
	return nil
}
