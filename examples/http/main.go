// An HTTP server that attests, and a client that requires it: HTTP/2, or HTTP/1.1
// where one end has no more.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/attestedtls/atls/atlshttp"
	"github.com/attestedtls/atls/examples/internal/demo"
)

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(out io.Writer) error {
	serverConfig, clientConfig := demo.Configs()

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello over %s", r.Proto)
	})
	// Nobody has a verdict here, as this server does not ask its clients to attest.
	mux.Handle("/attested", atlshttp.Require(http.NotFoundHandler()))
	srv := &http.Server{Handler: mux}
	defer srv.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go atlshttp.Serve(srv, l, serverConfig) // or ListenAndServe(srv, serverConfig)

	transport, err := atlshttp.NewTransport(clientConfig, nil)
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for _, path := range []string{"/", "/attested"} {
		resp, err := client.Get("https://" + l.Addr().String() + path)
		if err != nil {
			return err // nothing was sent to a server that is not acceptable
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		peer := atlshttp.FromContext(resp.Request.Context())
		fmt.Fprintf(out, "%d from a server that is %s: %q\n", resp.StatusCode, peer.Verdict(), body)
	}
	return nil
}
