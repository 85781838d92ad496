package atlshttp_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/attestedtls/atls/atlshttp"
	"github.com/attestedtls/atls/atlshttp/atlshttptest"
	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/internal/testpki"
	"github.com/attestedtls/atls/tls"
)

var (
	loadTime     = flag.Duration("load", time.Second, "how long TestLoadUnderReattestation runs, for each protocol")
	loadReattest = flag.Duration("load-reattest", 50*time.Millisecond, "after how long each end has the other one attest again")
	loadClients  = flag.Int("load-clients", 4, "how many clients there are, each with a transport of its own")
	loadWorkers  = flag.Int("load-workers", 4, "how many requests each client has under way")
)

// load counts what happens in a run.
type load struct {
	requests, lost atomic.Int64
	mu             sync.Mutex
	first          error
	slowest        time.Duration
	most           map[*tls.Conn]int // rounds of re-attestation, by the client's connection
}

func (l *load) fail(err error) {
	l.lost.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		l.first = err
	}
}

// clientWithItsOwnKey returns the Config of a client that no other client has the
// certificate of.
func clientWithItsOwnKey(t *testing.T, s *atlshttptest.Server, n int) *tls.Config {
	t.Helper()
	key := testpki.Key(fmt.Sprint("client ", n))
	leaf := testpki.SelfSigned(&x509.Certificate{
		SerialNumber: big.NewInt(int64(n)), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}, key)
	s.TLS.ClientCAs.AddCert(leaf)
	config := s.ClientTLS.Clone()
	config.Certificates = []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}}
	return config
}

// TestLoadUnderReattestation: requests go on while both ends of each connection have
// each other attest again and again: none is lost, each has the verdict of its own
// connection on either end, and afterwards nothing is left. scripts/load runs it for
// longer.
func TestLoadUnderReattestation(t *testing.T) {
	for _, alpn := range []string{"h2", "http/1.1"} {
		t.Run(alpn, func(t *testing.T) {
			goroutines, files := runtime.NumGoroutine(), descriptors(t)
			runLoad(t, alpn)
			// What is closed takes a moment to be gone.
			deadline := time.Now().Add(time.Minute)
			for runtime.NumGoroutine() > goroutines || descriptors(t) > files {
				if time.Now().After(deadline) {
					stacks := make([]byte, 1<<16)
					t.Fatalf("%d goroutines and %d descriptors, %d and %d before\n%s", runtime.NumGoroutine(), descriptors(t), goroutines, files,
						stacks[:runtime.Stack(stacks, true)])
				}
				runtime.Gosched()
			}
		})
	}
}

func runLoad(t *testing.T, alpn string) {
	l := &load{most: map[*tls.Conn]int{}}
	s := quietly(atlshttptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer := atlshttp.FromContext(r.Context())
		if !peer.Valid() || peer.Challenge().Role != attestext.RoleClient ||
			!bytes.Equal(peer.Challenge().SPKI, r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo) {
			http.Error(w, "this is not the verdict of this connection", http.StatusForbidden)
			return
		}
		body, err := io.ReadAll(r.Body) // all of it, before net/http begins an answer over HTTP/1.1
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Peer", r.TLS.PeerCertificates[0].SerialNumber.String())
		w.Write(body)
	})))
	s.TLS.NextProtos = []string{alpn}
	s.TLS.ClientCAs = x509.NewCertPool()
	var configs []*tls.Config
	for i := range *loadClients {
		configs = append(configs, clientWithItsOwnKey(t, s, i+1))
	}
	for _, c := range append(configs, s.TLS) {
		a := *c.Attestation
		a.ReattestInterval, a.Carriage, a.Peer = *loadReattest, tls.CarriagePostHandshake, tls.RequireAttestation
		c.Attestation = &a
	}
	s.Start()
	defer s.Close()
	end := time.Now().Add(*loadTime)
	var wg sync.WaitGroup
	for i, config := range configs {
		transport := s.Transport(config, &http.Transport{MaxIdleConnsPerHost: *loadWorkers})
		for worker := range *loadWorkers {
			wg.Go(func() {
				for n := 0; time.Now().Before(end); n++ {
					begun := time.Now()
					if err := l.request(transport, s.URL, i+1, worker*n); err != nil {
						l.fail(err)
					}
					l.mu.Lock()
					l.slowest = max(l.slowest, time.Since(begun))
					l.mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	rounds := 0
	for _, n := range l.most {
		rounds += n
	}
	t.Logf("%s: %d requests, %d lost, the slowest took %v; %d connections, re-attested by their clients %d times",
		alpn, l.requests.Load(), l.lost.Load(), l.slowest.Round(time.Millisecond), len(l.most), rounds)
	if l.lost.Load() != 0 {
		t.Errorf("the first that was lost: %v", l.first)
	}
	if l.requests.Load() == 0 || rounds == 0 {
		t.Error("there was nothing to see")
	}
	if alpn == "h2" && len(l.most) != *loadClients {
		t.Errorf("%d connections of %d clients: one ended", len(l.most), *loadClients)
	}
}

// request makes one request with a body of some size and checks all of the answer.
func (l *load) request(tr *atlshttp.Transport, url string, client, size int) error {
	question := strings.Repeat("x", size*37%(1<<15))
	req, err := http.NewRequest("POST", url, strings.NewReader(question))
	if err != nil {
		return err
	}
	l.requests.Add(1)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || string(answer) != question || resp.Header.Get("Peer") != fmt.Sprint(client) {
		return fmt.Errorf("status %d, client %s in place of %d, %d bytes in place of %d", resp.StatusCode, resp.Header.Get("Peer"), client, len(answer), len(question))
	}
	peer := atlshttp.FromContext(resp.Request.Context())
	if !peer.Valid() || !bytes.Equal(peer.Challenge().SPKI, resp.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo) {
		return errors.New("this is not the verdict of this connection")
	}
	conn := atlshttp.ConnFromContext(resp.Request.Context())
	n := conn.ConnectionState().Reattestations
	l.mu.Lock()
	defer l.mu.Unlock()
	l.most[conn] = max(l.most[conn], n)
	return nil
}

// A round that fails ends the connection, and with it what is under way on it, and no
// more: the next request has a new connection, made by a handshake of its own.
func TestNextRequestHasANewConnectionWhereARoundFails(t *testing.T) {
	for alpn := range protocols {
		t.Run(alpn, func(t *testing.T) {
			s := start(t, alpn, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/wait" {
					w.(http.Flusher).Flush()
					<-r.Context().Done()
					return
				}
				io.WriteString(w, r.RemoteAddr)
			}, func(s *atlshttptest.Server) {
				a := *s.TLS.Attestation
				a.Carriage = tls.CarriagePostHandshake
				s.TLS.Attestation = &a
				a.Verifier = nil // the client asks
			})
			config := s.ClientTLS.Clone()
			a := *config.Attestation
			a.Carriage, a.Verifier = tls.CarriagePostHandshake, &inHandshakeOnly{a.Verifier}
			config.Attestation = &a
			client := &http.Client{Transport: s.Transport(config, nil)}
			first, _ := get(t, client, s.URL)
			resp, err := client.Get(s.URL + "/wait")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if err := atlshttp.ConnFromContext(resp.Request.Context()).Reattest(t.Context()); !errors.Is(err, attestext.ErrPolicy) {
				t.Fatalf("the round ends with %v", err)
			}
			if _, err := io.ReadAll(resp.Body); err == nil {
				t.Error("the response has an end")
			}
			if second, _ := get(t, client, s.URL); second == first {
				t.Error("the connection is still in use")
			}
		})
	}
}

// inHandshakeOnly accepts no evidence made after the handshake.
type inHandshakeOnly struct{ attestext.Verifier }

func (v *inHandshakeOnly) Appraise(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
	if ch.Binding == attestext.BindingExpat {
		return nil, attestext.Errorf(attestext.ErrPolicy, "test", "it is too late")
	}
	return v.Verifier.Appraise(ctx, ev, ch)
}

// descriptors returns how many files are open, where that can be seen.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(list)
}
