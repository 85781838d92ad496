package atlshttp_test

import (
	"fmt"
	"io"
	"log"
	"net/http"

	"github.com/attestedtls/atls/atlshttp"
	"github.com/attestedtls/atls/atlshttp/atlshttptest"
)

// A server that serves everybody, and has one route for clients that have shown what
// they run. A program of its own calls atlshttp.ListenAndServe in the place of
// atlshttptest.NewServer.
func Example() {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	mux.Handle("/secret", atlshttp.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "for a client that is %s", atlshttp.FromContext(r.Context()).Verdict())
	}), atlshttp.Affirming))
	srv := atlshttptest.NewServer(mux)
	defer srv.Close()

	resp, err := srv.Client().Get(srv.URL + "/secret")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s\n", resp.Proto, body)
	fmt.Println("from a server that is", atlshttp.FromContext(resp.Request.Context()).Verdict())
	// Output:
	// HTTP/2.0: for a client that is affirming
	// from a server that is affirming
}
