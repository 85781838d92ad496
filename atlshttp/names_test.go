package atlshttp_test

import (
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/attestedtls/atls/atlshttp/atlshttptest"
	"github.com/attestedtls/atls/tls"
)

// One name demands attestation and the others do not: a connection that was made for one
// of these must not be used for the former.
func TestRequestIsForTheNameOfItsConnection(t *testing.T) {
	const guarded, open = "guarded.example", "open.example"
	for alpn := range protocols {
		s := start(t, alpn, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) }, func(s *atlshttptest.Server) {
			lax, strict := s.TLS.Clone(), s.TLS.Clone()
			lax.Attestation, lax.ClientAuth, lax.NextProtos = nil, tls.NoClientCert, []string{alpn}
			a := *strict.Attestation
			a.Peer = tls.RequireAttestation
			strict.Attestation = &a
			s.TLS.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				if hello.ServerName == guarded {
					return strict, nil
				}
				return lax, nil
			}
		})
		ask := func(serverName, host string) string {
			tr := &http.Transport{
				TLSClientConfig:   &stdtls.Config{InsecureSkipVerify: true, ServerName: serverName},
				ForceAttemptHTTP2: true,
			}
			defer tr.CloseIdleConnections()
			req, err := http.NewRequest("GET", s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			if host != "" {
				req.Host = host
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				return "refused"
			}
			defer resp.Body.Close()
			return fmt.Sprint(resp.StatusCode)
		}
		for _, tt := range []struct{ serverName, host, want string }{
			{open, open, "200"},
			{open, "OPEN.example.:443", "200"},
			{"", "", "200"}, // an IP address
			{"", "[::1]:443", "200"},
			{guarded, guarded, "refused"},
			{open, guarded, "421"},
			{open, guarded + ".:443", "421"},
			{"", guarded, "421"},
		} {
			if got := ask(tt.serverName, tt.host); got != tt.want {
				t.Errorf("%s: a connection for %q, a request for %q: %s, want %s", alpn, tt.serverName, tt.host, got, tt.want)
			}
		}
	}
}

// A redirect leads nowhere that the policy does not hold.
func TestRedirectsKeepThePolicy(t *testing.T) {
	reached := func(http.ResponseWriter, *http.Request) { t.Error("a request reached a server that does not attest") }
	stock := start(t, "", reached, func(s *atlshttptest.Server) { s.TLS.Attestation = nil })
	plain := httptest.NewServer(http.HandlerFunc(reached))
	defer plain.Close()
	s := start(t, "", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, map[string]string{"/stock": stock.URL, "/plain": plain.URL}[r.URL.Path], http.StatusFound)
	})
	if _, err := s.Client().Get(s.URL + "/stock"); !errors.As(err, new(*tls.AttestationError)) {
		t.Error(err)
	}
	if _, err := s.Client().Get(s.URL + "/plain"); err == nil || !strings.Contains(err.Error(), "not https") {
		t.Error(err)
	}
}
