package epoch_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/epoch"
)

func client(t *testing.T, address string) *epoch.Client {
	t.Helper()
	c, err := epoch.NewClient(address)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClientGetsIDsOfTheIssuer(t *testing.T) {
	i := issuer(t, key, start)
	srv := httptest.NewServer(i)
	defer srv.Close()
	id, err := client(t, srv.URL+"/any").ID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if at, err := (epoch.Keys{i.Public()}).Issued(id, start); err != nil || !at.Equal(start) {
		t.Errorf("%v, %v", at, err)
	}
	resp, err := http.Post(srv.URL, "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET" {
		t.Errorf("POST: status %d", resp.StatusCode)
	}
}

func TestClientRefusesWhatIsNoAnswerOfAnIssuer(t *testing.T) {
	i := issuer(t, key, start)
	elsewhere := httptest.NewServer(i)
	defer elsewhere.Close()
	answer := func(typ string, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", typ)
			w.Write(body)
		}
	}
	for name, tt := range map[string]struct {
		h   http.HandlerFunc
		say string
	}{
		"a redirect":      {http.RedirectHandler(elsewhere.URL, http.StatusFound).ServeHTTP, "status 302, want 200"},
		"not there":       {http.NotFound, "status 404, want 200"},
		"of another type": {answer("text/html", i.ID()), `an answer of type "text/html"`},
		"of no type":      {func(w http.ResponseWriter, _ *http.Request) { w.Header()["Content-Type"] = nil; w.Write(i.ID()) }, `an answer of type ""`},
		"short":           {answer(eat.EpochMediaType, i.ID()[1:]), "has 88 bytes, and the answer has not"},
		"without end": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", eat.EpochMediaType)
			for err := error(nil); err == nil; {
				_, err = w.Write(make([]byte, 1<<10))
			}
		}, "has 88 bytes, and the answer has not"},
		"a long header": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<17)) }, "header"},
	} {
		srv := httptest.NewServer(tt.h)
		if _, err := client(t, srv.URL).ID(t.Context()); err == nil || !strings.Contains(err.Error(), tt.say) || !strings.Contains(err.Error(), srv.URL) {
			t.Errorf("%s: %v", name, err)
		}
		srv.Close()
	}
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer hangs.Close()
	c := client(t, hangs.URL)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.ID(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if *c.Timeout() <= 0 {
		t.Fatal("no bound on a request")
	}
	*c.Timeout() = 1 // what the caller's context does not bound
	if _, err := c.ID(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hangs: %v", err)
	}
	for _, address := range []string{"", "verifier.example", "ftp://verifier.example", "https:///epoch", "https://user@verifier.example", "https://verifier.example/#x", "https://%"} {
		if _, err := epoch.NewClient(address); err == nil {
			t.Errorf("address %q accepted", address)
		}
	}
}
