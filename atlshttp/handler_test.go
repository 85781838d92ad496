package atlshttp

import (
	"context"
	stdtls "crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls"
)

// A connection whose re-attestation has failed has no verdict for the requests that begin
// after it, whatever there was when it was made.
func TestRequestHasTheVerdictOfItsOwnTime(t *testing.T) {
	c, p := net.Pipe()
	defer c.Close()
	defer p.Close()
	conn := &connection{&Conn{Conn: tls.Server(c, &tls.Config{}), state: new(stdtls.ConnectionState)}, new(attestext.Result)}
	called := false
	h := &handler{next: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		called = true
		if FromContext(r.Context()) != nil {
			t.Error("the verdict is of another time")
		}
		if ConnFromContext(r.Context()) != conn.conn.Conn {
			t.Error("another connection")
		}
	})}
	r := httptest.NewRequest("GET", "/", nil)
	h.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithValue(r.Context(), connKey{}, conn)))
	if !called {
		t.Error("the handler was not called")
	}
}
