package atlshttp_test

import (
	"bufio"
	"bytes"
	"context"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/attestedtls/atls/atlshttp"
	"github.com/attestedtls/atls/atlshttp/atlshttptest"
	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/tls"
)

var protocols = map[string]string{"h2": "HTTP/2.0", "http/1.1": "HTTP/1.1"}

// get returns the body of an answer, and the answer.
func get(t *testing.T, c *http.Client, url string) (string, *http.Response) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), resp
}

// quietly keeps what a server logs of failed handshakes out of the test's output.
func quietly(s *atlshttptest.Server) *atlshttptest.Server {
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	return s
}

// start returns a server that speaks proto alone, "" for all.
func start(t *testing.T, proto string, h http.HandlerFunc, changes ...func(*atlshttptest.Server)) *atlshttptest.Server {
	t.Helper()
	s := quietly(atlshttptest.NewUnstartedServer(h))
	if proto != "" {
		s.TLS.NextProtos = []string{proto}
	}
	for _, change := range changes {
		change(s)
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// who says what a handler knows of its client.
func who(w http.ResponseWriter, r *http.Request) {
	verdict := "none"
	if p := atlshttp.FromContext(r.Context()); p.Valid() {
		verdict = p.Verdict()
	}
	fmt.Fprintf(w, "%s %s %s %v", r.Proto, verdict, r.TLS.NegotiatedProtocol, len(r.TLS.PeerCertificates))
}

func TestBothEndsHaveStateAndVerdict(t *testing.T) {
	for alpn, proto := range protocols {
		t.Run(alpn, func(t *testing.T) {
			s := start(t, alpn, who)
			for range 2 { // on a new connection, and on the same again
				body, resp := get(t, s.Client(), s.URL)
				if want := proto + " affirming " + alpn + " 1"; body != want {
					t.Errorf("the handler knows %q, want %q", body, want)
				}
				if resp.TLS == nil || resp.TLS.NegotiatedProtocol != alpn || len(resp.TLS.PeerCertificates) != 1 || !resp.TLS.HandshakeComplete {
					t.Errorf("Response.TLS is %+v", resp.TLS)
				}
				peer := atlshttp.FromContext(resp.Request.Context())
				if !peer.Valid() || peer.Verdict() != "affirming" || peer.Challenge().Role != attestext.RoleServer {
					t.Errorf("the client knows %+v", peer)
				}
				if resp.Request.URL.String() != s.URL || atlshttp.ConnFromContext(resp.Request.Context()) == nil {
					t.Errorf("Response.Request is %+v", resp.Request)
				}
			}
		})
	}
}

func TestContextOfAnotherServerHasNoVerdict(t *testing.T) {
	if atlshttp.FromContext(t.Context()) != nil || atlshttp.ConnFromContext(t.Context()) != nil {
		t.Error("a verdict out of nothing")
	}
	if atlshttp.TLSConn(nil) != nil || atlshttp.TLSConn(&net.TCPConn{}) != nil {
		t.Error("a TLS connection out of nothing")
	}
}

// stock returns a client of net/http alone.
func stock(t *testing.T, s *atlshttptest.Server) *http.Client {
	tr := &http.Transport{TLSClientConfig: &stdtls.Config{RootCAs: s.ClientTLS.RootCAs}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestStockClientIsServedWithoutAVerdict(t *testing.T) {
	for alpn, proto := range protocols {
		s := start(t, alpn, who)
		if body, _ := get(t, stock(t, s), s.URL); body != proto+" none "+alpn+" 0" {
			t.Errorf("%s: %s", alpn, body)
		}
	}
}

func TestStockServerIsRefused(t *testing.T) {
	s := start(t, "", who, func(s *atlshttptest.Server) { s.TLS.Attestation = nil })
	_, err := s.Client().Get(s.URL)
	if !errors.As(err, new(*tls.AttestationError)) {
		t.Error(err)
	}
}

func TestRequireDemandsAVerdict(t *testing.T) {
	for _, tt := range []struct {
		name   string
		accept []func(*attestext.Result) error
		client func(*atlshttptest.Server) *http.Client
		warn   bool // the server's verdict
		status int
	}{
		{"affirming", []func(*attestext.Result) error{atlshttp.Affirming}, (*atlshttptest.Server).Client, false, 200},
		{"any", nil, (*atlshttptest.Server).Client, true, 200},
		{"warning is not affirming", []func(*attestext.Result) error{atlshttp.Affirming}, (*atlshttptest.Server).Client, true, 403},
		{"the second says no", []func(*attestext.Result) error{atlshttp.Affirming, func(*attestext.Result) error { return errors.New("no") }}, (*atlshttptest.Server).Client, false, 403},
		{"stock", nil, func(s *atlshttptest.Server) *http.Client { return stock(t, s) }, false, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			called := false
			h := atlshttp.Require(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }), tt.accept...)
			s := start(t, "", h.ServeHTTP, func(s *atlshttptest.Server) {
				if tt.warn {
					s.TLS.Attestation.Verifier = &warns{s.TLS.Attestation.Verifier}
				}
			})
			body, resp := get(t, tt.client(s), s.URL)
			if resp.StatusCode != tt.status || called != (tt.status == 200) || strings.Contains(body, "verdict") {
				t.Errorf("status %d, called %v, %q", resp.StatusCode, called, body)
			}
		})
	}
}

// warns makes a warning of each verdict.
type warns struct{ attestext.Verifier }

func (v *warns) Appraise(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
	a, err := v.Verifier.Appraise(ctx, ev, ch)
	if err == nil {
		a.Verdict = "warning"
	}
	return a, err
}

func TestVerdictOfARequestOutlastsItsConnection(t *testing.T) {
	for alpn := range protocols {
		t.Run(alpn, func(t *testing.T) {
			answered := make(chan struct{})
			s := start(t, alpn, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "first")
				w.(http.Flusher).Flush()
				<-answered
				atlshttp.ConnFromContext(r.Context()).Close()
				if p := atlshttp.FromContext(r.Context()); !p.Valid() {
					t.Error("the verdict went with the connection")
				}
			})
			resp, err := s.Client().Get(s.URL)
			close(answered)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if _, err := io.ReadAll(resp.Body); err == nil {
				t.Error("the connection was not closed")
			}
			if p := atlshttp.FromContext(resp.Request.Context()); !p.Valid() {
				t.Error("the verdict went with the connection")
			}
		})
	}
}

// remote is a handler that names the client's end of the connection.
func remote(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) }

func TestPoliciesShareNoConnection(t *testing.T) {
	for alpn := range protocols {
		t.Run(alpn, func(t *testing.T) {
			s := start(t, alpn, remote)
			tr := s.Transport(s.ClientTLS, nil)
			one, two := &http.Client{Transport: tr}, s.Client()
			a, _ := get(t, one, s.URL)
			again, _ := get(t, one, s.URL)
			if a != again {
				t.Errorf("%s and %s: one policy, and two connections", a, again)
			}
			if b, _ := get(t, two, s.URL); a == b {
				t.Error("two transports share a connection")
			}
			stricter := s.ClientTLS.Clone()
			if err := tr.SetConfig(stricter); err != nil {
				t.Fatal(err)
			}
			c, _ := get(t, one, s.URL)
			if a == c {
				t.Error("a connection outlives its policy")
			}
			// A policy that nothing satisfies: what was accepted before does not help.
			none := s.ClientTLS.Clone()
			none.Attestation = &tls.AttestationConfig{Verifier: refuses{s.ClientTLS.Attestation.Verifier}}
			if err := tr.SetConfig(none); err != nil {
				t.Fatal(err)
			}
			if _, err := one.Get(s.URL); !errors.Is(err, attestext.ErrPolicy) {
				t.Errorf("under a policy that refuses all: %v", err)
			}
			if err := tr.SetConfig(nil); err == nil {
				t.Error("no Config was taken")
			}
			if _, err := one.Get(s.URL); !errors.Is(err, attestext.ErrPolicy) {
				t.Errorf("SetConfig failed, and changed something: %v", err)
			}
		})
	}
}

// refuses is a policy that nothing satisfies.
type refuses struct{ attestext.Verifier }

func (refuses) Appraise(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
	return nil, attestext.Errorf(attestext.ErrPolicy, "test", "nothing is good enough")
}

// TestRetiredConnectionsCloseAfterTheirRequests: a request that is under way is not
// disturbed, and its connection is closed after it.
func TestRetiredConnectionsCloseAfterTheirRequests(t *testing.T) {
	for alpn := range protocols {
		t.Run(alpn, func(t *testing.T) {
			closed := make(chan struct{})
			var once sync.Once
			release := make(chan struct{})
			s := start(t, alpn, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "first ")
				w.(http.Flusher).Flush()
				<-release
				io.WriteString(w, "second")
			}, func(s *atlshttptest.Server) {
				s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
					if state == http.StateClosed {
						once.Do(func() { close(closed) })
					}
				}
			})
			tr := s.Transport(s.ClientTLS, nil)
			resp, err := (&http.Client{Transport: tr}).Get(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			if err := tr.SetConfig(s.ClientTLS.Clone()); err != nil {
				t.Fatal(err)
			}
			close(release)
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(b) != "first second" {
				t.Errorf("%q, %v", b, err)
			}
			select {
			case <-closed:
			case <-time.After(time.Minute):
				t.Error("the connection stays")
			}
		})
	}
}

func TestFirstRequestsShareOneHandshake(t *testing.T) {
	var made atomic.Int32
	s := start(t, "", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }, func(s *atlshttptest.Server) {
		s.TLS.Attestation.Attester = &counting{s.TLS.Attestation.Attester, &made}
	})
	c := s.Client()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			body := &countedBody{Reader: strings.NewReader(strings.Repeat("x", i)), done: make(chan struct{})}
			req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL, body)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil || len(got) != i || resp.ProtoMajor != 2 {
				t.Errorf("%s: %d bytes came back of %d, %v", resp.Proto, len(got), i, err)
			}
			select {
			case <-body.done:
			case <-time.After(time.Minute):
				t.Error("a body was not closed")
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("the server made evidence %d times", made.Load())
	}
}

// A request finds out about HTTP/2 when it is under way, and its body is sent all the same.
func TestFirstRequestSendsItsBody(t *testing.T) {
	for name, body := range map[string]func() io.Reader{
		"known":     func() io.Reader { return strings.NewReader("question") },
		"stream":    func() io.Reader { return io.LimitReader(strings.NewReader("question"), 8) },
		"none":      func() io.Reader { return http.NoBody },
		"really no": func() io.Reader { return nil },
	} {
		for alpn := range protocols {
			s := start(t, alpn, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
			req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL, body())
			if err != nil {
				t.Fatal(err)
			}
			resp, err := s.Client().Do(req)
			if err != nil {
				t.Fatalf("%s, %s: %v", name, alpn, err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			var want []byte
			if r := body(); r != nil {
				want, _ = io.ReadAll(r)
			}
			if err != nil || string(got) != string(want) {
				t.Errorf("%s, %s: %q, %v", name, alpn, got, err)
			}
		}
	}
}

type counting struct {
	attestext.Attester
	n *atomic.Int32
}

func (a *counting) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	a.n.Add(1)
	return a.Attester.Attest(ctx, req)
}

type countedBody struct {
	io.Reader
	closed atomic.Int32
	done   chan struct{} // closed with the body, if not nil
}

func (b *countedBody) Read(p []byte) (int, error) {
	if b.closed.Load() != 0 {
		return 0, errors.New("read after close")
	}
	return b.Reader.Read(p)
}

func (b *countedBody) Close() error {
	if b.closed.Add(1) == 1 && b.done != nil {
		close(b.done)
	}
	return nil
}

func TestBodyIsClosedWhereARequestFails(t *testing.T) {
	s := start(t, "", who)
	none := s.ClientTLS.Clone()
	none.Attestation = &tls.AttestationConfig{Verifier: refuses{s.ClientTLS.Attestation.Verifier}}
	for _, url := range []string{s.URL, "http" + strings.TrimPrefix(s.URL, "https")} {
		body := &countedBody{Reader: strings.NewReader("x")}
		req, err := http.NewRequest("POST", url, body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Transport(none, nil).RoundTrip(req); err == nil || body.closed.Load() == 0 {
			t.Errorf("%s: %v, body closed %d times", url, err, body.closed.Load())
		}
	}
}

func TestTraceSeesEachStepOnce(t *testing.T) {
	for alpn := range protocols {
		t.Run(alpn, func(t *testing.T) {
			s := start(t, alpn, who)
			for _, want := range [][]string{
				{"GetConn", "ConnectStart", "ConnectDone", "TLSHandshakeStart", "TLSHandshakeDone " + alpn, "GotConn", "GotFirstResponseByte"},
				{"GetConn", "GotConn reused", "GotFirstResponseByte"},
			} {
				var mu sync.Mutex
				var got []string
				say := func(s string) { mu.Lock(); got = append(got, s); mu.Unlock() }
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
					GetConn:              func(string) { say("GetConn") },
					ConnectStart:         func(_, _ string) { say("ConnectStart") },
					ConnectDone:          func(_, _ string, _ error) { say("ConnectDone") },
					TLSHandshakeStart:    func() { say("TLSHandshakeStart") },
					TLSHandshakeDone:     func(cs stdtls.ConnectionState, _ error) { say("TLSHandshakeDone " + cs.NegotiatedProtocol) },
					GotFirstResponseByte: func() { say("GotFirstResponseByte") },
					GotConn: func(info httptrace.GotConnInfo) {
						if atlshttp.TLSConn(info.Conn).ConnectionState().PeerAttestation == nil {
							say("no verdict")
						}
						if info.Reused {
							say("GotConn reused")
						} else {
							say("GotConn")
						}
					},
				})
				req, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := s.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				mu.Lock()
				if !slices.Equal(got, want) {
					t.Errorf("got  %q\nwant %q", got, want)
				}
				mu.Unlock()
			}
		})
	}
}

func TestTraceSeesAHandshakeFail(t *testing.T) {
	s := start(t, "", who, func(s *atlshttptest.Server) {
		s.TLS.Attestation.Attester = softtee.NewTDX(&softtee.TDXOptions{Seed: "another"}).Attester()
	})
	var seen error
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{TLSHandshakeDone: func(_ stdtls.ConnectionState, err error) { seen = err }})
	req, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client().Do(req); !errors.Is(err, attestext.ErrSignature) || !errors.Is(seen, attestext.ErrSignature) {
		t.Errorf("%v, trace %v", err, seen)
	}
}

func TestTransportTakesNothingThatWouldNotBeAttested(t *testing.T) {
	proxy := func(*http.Request) (*url.URL, error) { return nil, nil }
	for name, base := range map[string]*http.Transport{
		"Proxy":           {Proxy: proxy},
		"TLSClientConfig": {TLSClientConfig: &stdtls.Config{}},
		"DialTLSContext":  {DialTLSContext: (&net.Dialer{}).DialContext},
		"DialTLS":         {DialTLS: net.Dial},
		"Dial":            {Dial: net.Dial},
	} {
		if _, err := atlshttp.NewTransport(&tls.Config{}, base); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := atlshttp.NewTransport(nil, nil); err == nil {
		t.Error("no Config was taken")
	}
	s := start(t, "", who)
	for _, u := range []string{"http://example.com", "ftp://example.com", ""} {
		if _, err := s.Client().Get(u); err == nil {
			t.Errorf("%q was fetched", u)
		}
	}
}

// TestALPNDecides: neither end speaks a protocol that is off, or another than was
// negotiated.
func TestALPNDecides(t *testing.T) {
	only := func(f func(*http.Protocols, bool)) *http.Protocols { p := new(http.Protocols); f(p, true); return p }
	h1, h2 := only((*http.Protocols).SetHTTP1), only((*http.Protocols).SetHTTP2)
	for _, tt := range []struct {
		name           string
		server, client *http.Protocols
		change         func(*atlshttptest.Server)
		want           string // or an error
	}{
		{name: "all", want: "HTTP/2.0"},
		{name: "server HTTP/1.1", server: h1, want: "HTTP/1.1"},
		{name: "client HTTP/1.1", client: h1, want: "HTTP/1.1"},
		{name: "server HTTP/2", server: h2, want: "HTTP/2.0"},
		{name: "client HTTP/2", client: h2, want: "HTTP/2.0"},
		{name: "nothing in common", server: h1, client: h2},
		{name: "TLSNextProto", change: func(s *atlshttptest.Server) {
			s.Config.TLSNextProto = map[string]func(*http.Server, *stdtls.Conn, http.Handler){}
		}, want: "HTTP/1.1"},
		{name: "no ALPN, and HTTP/2 alone", client: h2, change: func(s *atlshttptest.Server) {
			s.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
				c := s.TLS.Clone()
				c.GetConfigForClient = nil
				return c, nil
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, "", who, func(s *atlshttptest.Server) {
				s.Config.Protocols = tt.server
				if tt.change != nil {
					tt.change(s)
				}
			})
			tr, err := atlshttp.NewTransport(s.ClientTLS, &http.Transport{Protocols: tt.client})
			if err != nil {
				t.Fatal(err)
			}
			defer tr.CloseIdleConnections()
			resp, err := (&http.Client{Transport: tr}).Get(s.URL)
			if err != nil {
				if tt.want != "" {
					t.Error(err)
				}
				return
			}
			resp.Body.Close()
			if resp.Proto != tt.want {
				t.Errorf("%s, want %q", resp.Proto, tt.want)
			}
		})
	}
}

func TestGODEBUGTurnsHTTP2Off(t *testing.T) {
	t.Setenv("GODEBUG", "http2server=0")
	s := start(t, "", who)
	if _, resp := get(t, s.Client(), s.URL); resp.ProtoMajor != 1 {
		t.Error(resp.Proto)
	}
}

func TestServerSpeaksWhatWasNegotiated(t *testing.T) {
	s := start(t, "", who)
	for alpn, says := range map[string]string{
		"h2":       "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
		"http/1.1": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
	} {
		config := s.ClientTLS.Clone()
		config.ServerName, config.NextProtos = "example.com", []string{alpn}
		conn, err := tls.Dial("tcp", s.Server.Listener.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(conn, says)
		b, _ := bufio.NewReader(conn).ReadString('\n')
		if !strings.HasPrefix(b, "HTTP/1.1 4") && !strings.HasPrefix(b, "HTTP/1.1 5") {
			t.Errorf("%s: the server answers %q", alpn, b)
		}
		conn.Close()
	}
}

func TestHijackedConnectionIsATLSConn(t *testing.T) {
	s := start(t, "http/1.1", func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if atlshttp.TLSConn(conn) != atlshttp.ConnFromContext(r.Context()) || atlshttp.TLSConn(conn) == nil {
			t.Errorf("%T", conn)
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhijacked")
	})
	if body, _ := get(t, s.Client(), s.URL); body != "hijacked" {
		t.Error(body)
	}
}

// A client whose evidence is refused while it sends a large body is told so, and not
// that it could not send it.
func TestRefusedUploadSaysWhy(t *testing.T) {
	for alpn := range protocols {
		t.Run(alpn, func(t *testing.T) {
			s := start(t, alpn, who)
			config := s.ClientTLS.Clone()
			config.Attestation.Attester = softtee.NewTDX(&softtee.TDXOptions{Seed: "another"}).Attester()
			for range 10 {
				c := &http.Client{Transport: s.Transport(config, nil)}
				if resp, err := c.Post(s.URL, "text/plain", bytes.NewReader(make([]byte, 16<<20))); err == nil {
					resp.Body.Close()
					t.Error("it is served")
				} else if !strings.Contains(err.Error(), "remote error: tls: bad certificate") {
					t.Error(err)
				}
			}
		})
	}
}

// TestSilentPeersHoldNothingUp: who says nothing is cut off, and holds up neither
// others nor the end of the server.
func TestSilentPeersHoldNothingUp(t *testing.T) {
	s := start(t, "", who)
	for range 3 {
		c, err := net.Dial("tcp", s.Server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	get(t, s.Client(), s.URL)
	done := make(chan struct{})
	go func() { defer close(done); s.Close() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("the server waits for clients that say nothing")
	}
}

func TestHandshakeHasTheServersTimeout(t *testing.T) {
	s := start(t, "", who, func(s *atlshttptest.Server) { s.Config.ReadHeaderTimeout = 50 * time.Millisecond })
	c, err := net.Dial("tcp", s.Server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("a client that says nothing: %v", err)
	}
}

func TestShutdownLetsRequestsFinish(t *testing.T) {
	for alpn := range protocols {
		t.Run(alpn, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			entered, release := make(chan struct{}), make(chan struct{})
			ts := atlshttptest.NewUnstartedServer(nil)
			defer ts.Server.Listener.Close()
			ts.TLS.NextProtos = []string{alpn}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(entered)
				<-release
				io.WriteString(w, "done")
			})}
			served := make(chan error, 1)
			go func() { served <- atlshttp.Serve(srv, l, ts.TLS) }()
			tr, err := atlshttp.NewTransport(ts.ClientTLS, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer tr.CloseIdleConnections()
			answered := make(chan string, 1)
			go func() {
				resp, err := (&http.Client{Transport: tr}).Get("https://" + l.Addr().String())
				if err != nil {
					answered <- err.Error()
					return
				}
				defer resp.Body.Close()
				b, _ := io.ReadAll(resp.Body)
				answered <- string(b)
			}()
			<-entered
			down := make(chan error, 1)
			go func() { down <- srv.Shutdown(t.Context()) }()
			if err := <-served; err != http.ErrServerClosed {
				t.Error(err)
			}
			close(release)
			if got := <-answered; got != "done" {
				t.Error(got)
			}
			if err := <-down; err != nil {
				t.Error(err)
			}
		})
	}
}

// deaf is a connection to a machine that is gone: nothing comes any more.
type deaf struct {
	net.Conn
	gone   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (c *deaf) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	select {
	case <-c.gone:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (c *deaf) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A connection of HTTP/2 whose peer is gone is found out by its pings, and replaced.
func TestPingsFindOutADeadConnection(t *testing.T) {
	s := start(t, "h2", who)
	first := &deaf{gone: make(chan struct{}), closed: make(chan struct{})}
	var dials atomic.Int32
	tr := s.Transport(s.ClientTLS, &http.Transport{
		HTTP2: &http.HTTP2Config{SendPingTimeout: 50 * time.Millisecond, PingTimeout: 50 * time.Millisecond},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			if dials.Add(1) == 1 && err == nil {
				first.Conn = c
				return first, nil
			}
			return c, err
		},
	})
	client := &http.Client{Transport: tr, Timeout: time.Minute}
	get(t, client, s.URL)
	close(first.gone)
	if resp, err := client.Get(s.URL); err == nil {
		resp.Body.Close()
	}
	select {
	case <-first.closed:
	case <-time.After(time.Minute):
		t.Fatal("the connection is kept")
	}
	get(t, client, s.URL)
}

func TestListenAndServeSaysWhatIsWrong(t *testing.T) {
	if err := atlshttp.ListenAndServe(&http.Server{Addr: "127.0.0.1:0"}, nil); err == nil || !strings.Contains(err.Error(), "tls.Config") {
		t.Error(err)
	}
	if err := atlshttp.ListenAndServe(&http.Server{Addr: "nowhere"}, &tls.Config{}); err == nil {
		t.Error("served nowhere")
	}
}
