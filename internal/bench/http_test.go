package bench

import (
	"bytes"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/attestedtls/atls/atlshttp/atlshttptest"
)

// requestsPerRun is how many requests one half of a pair makes, and inParallel how many
// of them are under way at a time.
const (
	requestsPerRun = 100
	inParallel     = 4
)

// BenchmarkRequests makes requests over connections that stand already: stock
// net/http against atlshttp where both ends have attested. The time is that of 100
// requests, 4 at a time, with 1 KiB each way.
func BenchmarkRequests(b *testing.B) {
	for _, alpn := range []string{"http/1.1", "h2"} {
		b.Run(alpn, func(b *testing.B) {
			stock, attested := requesters(b, alpn)
			pairs(b, stock, attested)
		})
	}
}

// requesters returns functions that make requestsPerRun requests each.
func requesters(b testing.TB, alpn string) (stock, attested func() error) {
	answer := bytes.Repeat([]byte("x"), 1<<10)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write(answer)
	})
	as := atlshttptest.NewUnstartedServer(h)
	as.TLS.NextProtos = []string{alpn}
	as.Start()
	b.Cleanup(as.Close)

	ss := httptest.NewUnstartedServer(h)
	cert := as.TLS.Certificates[0]
	ss.TLS = &stdtls.Config{
		Certificates: []stdtls.Certificate{{Certificate: cert.Certificate, PrivateKey: cert.PrivateKey}},
		NextProtos:   []string{alpn}, MinVersion: stdtls.VersionTLS13,
	}
	ss.EnableHTTP2 = alpn == "h2"
	ss.StartTLS()
	b.Cleanup(ss.Close)
	tr := &http.Transport{
		TLSClientConfig:   &stdtls.Config{RootCAs: as.ClientTLS.RootCAs, MinVersion: stdtls.VersionTLS13},
		ForceAttemptHTTP2: alpn == "h2", MaxIdleConnsPerHost: inParallel,
	}
	b.Cleanup(tr.CloseIdleConnections)
	at := as.Transport(as.ClientTLS, &http.Transport{MaxIdleConnsPerHost: inParallel})
	return requests(&http.Client{Transport: tr}, ss.URL, alpn), requests(&http.Client{Transport: at}, as.URL, alpn)
}

func requests(c *http.Client, url, alpn string) func() error {
	question := bytes.Repeat([]byte("y"), 1<<10)
	one := func() error {
		resp, err := c.Post(url, "application/octet-stream", bytes.NewReader(question))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 1<<10 {
			return fmt.Errorf("%d bytes, %v", n, err)
		}
		if (resp.ProtoMajor == 2) != (alpn == "h2") || resp.TLS == nil || resp.TLS.Version != stdtls.VersionTLS13 {
			return fmt.Errorf("%s, %+v", resp.Proto, resp.TLS)
		}
		return nil
	}
	return func() error {
		var wg sync.WaitGroup
		errs := make([]error, inParallel)
		for i := range errs {
			wg.Go(func() {
				for range requestsPerRun / inParallel {
					if err := one(); err != nil {
						errs[i] = err
						return
					}
				}
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	}
}

// TestRequestsAreMadeAsSet checks that the benchmark measures what its name says.
func TestRequestsAreMadeAsSet(t *testing.T) {
	for _, alpn := range []string{"http/1.1", "h2"} {
		stock, attested := requesters(t, alpn)
		if err := errors.Join(stock(), attested()); err != nil {
			t.Errorf("%s: %v", alpn, err)
		}
	}
}
