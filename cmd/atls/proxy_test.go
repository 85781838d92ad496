package main

import (
	"bufio"
	"bytes"
	"context"
	stdtls "crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/attestedtls/atls/atlslog"
	"github.com/attestedtls/atls/proxyproto"
	"github.com/attestedtls/atls/tls"
)

// backend is a plain server that does handle with each connection. It returns its
// address.
func backend(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go acceptEach(l, handle)
	return l.Addr().String()
}

func acceptEach(l net.Listener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(testTimeout))
			handle(c)
		}()
	}
}

// shout answers what it reads, in capitals, once it has read it all.
func shout(c net.Conn) {
	b, _ := io.ReadAll(c)
	c.Write(bytes.ToUpper(b))
}

// handshakeLine returns what a proxy that saw one handshake logged of it.
func handshakeLine(t *testing.T, e exited) map[string]any {
	t.Helper()
	var found []map[string]any
	for line := range strings.Lines(e.stderr) {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) == nil && m[atlslog.KeyOutcome] != nil {
			found = append(found, m)
		}
	}
	if len(found) != 1 || found[0]["time"] == nil || found[0][atlslog.KeyRemote] == nil {
		t.Fatalf("%v in %s", found, e.stderr)
	}
	return found[0]
}

// TestProxyLogsEachHandshake: one line, which an auditor can keep, on either end.
func TestProxyLogsEachHandshake(t *testing.T) {
	in, out := sidecars(t, "tcp:"+backend(t, shout), nil, nil)
	if got, err := ask(t, "tcp", out.addr, "hello"); err != nil || got != "HELLO" {
		t.Errorf("%q, %v", got, err)
	}
	out.stop()
	if line := handshakeLine(t, out.end()); line["msg"] != atlslog.MsgAccepted || line["verdict"] != "affirming" || line["machine"] == nil || line["evidence_sha256"] == nil {
		t.Error(line)
	}
	in.stop()
	if line := handshakeLine(t, in.end()); line["msg"] != atlslog.MsgAccepted || line["self_attested"] != true {
		t.Error(line)
	}
}

// reports returns the objects that a proxy printed, which must not run any more.
func reports(t *testing.T, e exited) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(e.stdout) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, m)
	}
	return all
}

// sidecars starts a proxy before the server at addr, and one beside its clients, whose
// address it returns.
func sidecars(t *testing.T, addr string, inArgs, outArgs []string) (in, out *running) {
	t.Helper()
	in = start(t, "proxy", args([]string{"--accept", "tls:127.0.0.1:0", "--forward", addr, "--attest", "softtee:tdx"}, identity(), inArgs)...)
	out = start(t, "proxy", args([]string{"--accept", "tcp:127.0.0.1:0", "--forward", "tls:" + in.addr, "--ca", pki("ca.pem")}, verifySoftTEE(), outArgs)...)
	return in, out
}

// ask sends text to addr, says that this is all, and returns the answer.
func ask(t *testing.T, network, addr, text string) (string, error) {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testTimeout))
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func TestProxiesCarryBytesBothWays(t *testing.T) {
	in, out := sidecars(t, "tcp:"+backend(t, shout), nil, nil)
	long := strings.Repeat("hello ", 100_000)
	for _, text := range []string{"hello", "", long} {
		got, err := ask(t, "tcp", out.addr, text)
		if err != nil || got != strings.ToUpper(text) {
			t.Errorf("%d bytes become %d, %v", len(text), len(got), err)
		}
	}
	for name, r := range map[string]*running{"in": in, "out": out} {
		r.stop()
		e := r.end()
		all := reports(t, e)
		if e.status != 0 || len(all) != 3 {
			t.Fatalf("%s: status %d, %d reports; %s", name, e.status, len(all), e.stderr)
		}
		for _, m := range all {
			if m["ok"] != true {
				t.Errorf("%s: %v", name, m)
			}
			if name == "out" {
				attested(t, m)
			} else if m["self_attested"] != true {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

func TestProxyOnUnixSockets(t *testing.T) {
	dir := t.TempDir()
	app, side := filepath.Join(dir, "app"), filepath.Join(dir, "side")
	l, err := net.Listen("unix", app)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go acceptEach(l, shout)
	// A socket that a process has left behind when it was killed.
	stale, err := net.Listen("unix", side)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	in := start(t, "proxy", args([]string{"--accept", "tls:127.0.0.1:0", "--forward", "unix:" + app, "--attest", "softtee:tdx"}, identity())...)
	start(t, "proxy", args([]string{"--accept", "unix:" + side, "--forward", "tls:" + in.addr, "--ca", pki("ca.pem")}, verifySoftTEE())...)
	if got, err := ask(t, "unix", side, "hello"); err != nil || got != "HELLO" {
		t.Errorf("%q, %v", got, err)
	}
	// One that is in use, and a file, are not replaced.
	for _, path := range []string{side, pki("ca.pem")} {
		e := atls(t, "", args([]string{"proxy", "--accept", "unix:" + path, "--forward", "tls:" + in.addr})...)
		if e.status != statusNetwork {
			t.Errorf("%s: status %d, %s", path, e.status, e.stderr)
		}
	}
}

// A client gets nothing and no end of file, and the server is not reached, where the
// peer's evidence is refused.
func TestProxyForwardsNothingToARefusedPeer(t *testing.T) {
	reached := false
	addr := backend(t, func(net.Conn) { reached = true })
	in := start(t, "proxy", args([]string{"--accept", "tls:127.0.0.1:0", "--forward", "tcp:" + addr, "--attest", "softtee:snp"}, identity())...)
	out := start(t, "proxy", args([]string{"--accept", "tcp:127.0.0.1:0", "--forward", "tls:" + in.addr, "--ca", pki("ca.pem")}, verifySoftTEE(),
		[]string{"--trust-roots", pki("ca.pem")})...)
	if got, err := ask(t, "tcp", out.addr, "hello"); got != "" || err == nil {
		t.Errorf("%q, %v", got, err)
	}
	out.stop()
	e := out.end()
	if all := reports(t, e); len(all) != 1 || all[0]["ok"] != false {
		t.Errorf("%v; %s", all, e.stderr)
	}
	if line := handshakeLine(t, e); line["msg"] != atlslog.MsgRefused || line["verdict"] != "none" || line["class"] == nil || line["hint"] == nil {
		t.Error(line)
	}
	in.stop()
	in.end()
	if reached {
		t.Error("the server was reached")
	}
}

func TestProxyTellsWhoIsThere(t *testing.T) {
	headers := make(chan *proxyproto.Header, 1)
	addr := backend(t, func(c net.Conn) {
		h, err := proxyproto.Read(c)
		if err != nil {
			t.Error(err)
		}
		headers <- h
		shout(c)
	})
	for name, tt := range map[string]struct {
		in, dial []string
		verdict  string
	}{
		"attested":  {args(verifySoftTEE(), []string{"--client-ca", pki("ca.pem")}), args(clientIdentity(), []string{"--attest", "softtee:tdx"}), "affirming"},
		"nobody is": {nil, nil, ""},
		"asked":     {args(verifySoftTEE(), []string{"--client-ca", pki("ca.pem"), "--peer", "request"}), clientIdentity(), "none"},
	} {
		t.Run(name, func(t *testing.T) {
			in := start(t, "proxy", args([]string{"--accept", "tls:127.0.0.1:0", "--forward", "tcp:" + addr, "--send-proxy"}, identity(), tt.in)...)
			e := atls(t, "hello", args([]string{"dial", in.addr, "--servername", "localhost", "--ca", pki("ca.pem")}, tt.dial)...)
			if e.stdout != "HELLO" {
				t.Fatalf("%q; %s", e.stdout, e.stderr)
			}
			h := <-headers
			if h.Verdict != tt.verdict || (h.Machine != "") != (tt.verdict == "affirming") || h.Destination.String() != in.addr ||
				!h.Source.Addr().IsLoopback() || h.Authority != "localhost" {
				t.Errorf("%+v", h)
			}
		})
	}
}

func TestProxyNegotiatesTheProtocol(t *testing.T) {
	in := start(t, "proxy", args([]string{"--accept", "tls:127.0.0.1:0", "--forward", "tcp:" + backend(t, shout), "--alpn", "h2", "--alpn", "x"}, identity())...)
	for offered, want := range map[string]string{"x": "x", "h2": "h2", "": "", "y": "refused"} {
		config := &stdtls.Config{RootCAs: roots(t), ServerName: "localhost"}
		if offered != "" {
			config.NextProtos = []string{offered}
		}
		conn, err := stdtls.Dial("tcp", in.addr, config)
		got := "refused"
		if err == nil {
			got = conn.ConnectionState().NegotiatedProtocol
			conn.Close()
		}
		if got != want {
			t.Errorf("%q is offered: %q, want %q", offered, got, want)
		}
	}
}

// What is relayed is whole while the peers attest again and again.
func TestProxyRelaysUnderReattestation(t *testing.T) {
	again := []string{"--reattest", "20ms", "--carriage", "post-handshake"}
	in, out := sidecars(t, "tcp:"+backend(t, func(c net.Conn) { io.Copy(c, c) }), again[2:], again)
	c, err := net.Dial("tcp", out.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testTimeout))
	question, answer := make([]byte, 1<<16), make([]byte, 1<<16)
	for begun, n := time.Now(), byte(0); time.Since(begun) < 300*time.Millisecond; n++ {
		question[n] = n
		written := make(chan struct{})
		go func() {
			defer close(written)
			c.Write(question)
		}()
		if _, err := io.ReadFull(c, answer); err != nil || !bytes.Equal(question, answer) {
			t.Fatal(err)
		}
		<-written
	}
	c.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(c); err != nil || len(rest) != 0 {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
	for name, r := range map[string]*running{"in": in, "out": out} {
		r.stop()
		if all := reports(t, r.end()); len(all) != 1 || all[0]["ok"] != true {
			t.Errorf("%s: %v", name, all)
		}
	}
}

func TestProxyBelievesALoadBalancersHeader(t *testing.T) {
	headers := make(chan *proxyproto.Header, 1)
	addr := backend(t, func(c net.Conn) {
		h, _ := proxyproto.Read(c)
		headers <- h
		io.Copy(io.Discard, c) // or the connection ends by a reset
	})
	in := start(t, "proxy", args([]string{"--accept", "tls:127.0.0.1:0", "--forward", "tcp:" + addr, "--accept-proxy", "--send-proxy", "--timeout", "2s"}, identity())...)
	const header = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\xd2\x01\xbb"
	lb := backend(t, func(c net.Conn) {
		s, err := net.Dial("tcp", in.addr)
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		io.WriteString(s, header)
		go io.Copy(s, c)
		io.Copy(c, s)
	})
	e := atls(t, "hello", "dial", lb, "--servername", "localhost", "--ca", pki("ca.pem"))
	if e.status != 0 {
		t.Fatal(e.stderr)
	}
	if h := <-headers; h.Source.String() != "192.0.2.1:1234" || h.Destination.String() != "192.0.2.2:443" {
		t.Errorf("%+v", h)
	}
	// A load balancer that speaks for itself gets a handshake, if it wants one, and is
	// served as what it is.
	const local = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
	probe, err := net.Dial("tcp", in.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	probe.SetDeadline(time.Now().Add(testTimeout))
	io.WriteString(probe, local)
	if err := stdtls.Client(probe, &stdtls.Config{InsecureSkipVerify: true}).Handshake(); err != nil {
		t.Errorf("a health check that wants a handshake: %v", err)
	}
	if h := <-headers; h.Source.String() != probe.LocalAddr().String() {
		t.Errorf("a health check comes from %v", h.Source)
	}
	probe.Close()
	// Those without a header, with one too large and with half of one get no handshake,
	// and a health check need not have one.
	for name, says := range map[string]string{
		"TLS":          "\x16\x03\x01\x00\x05hello" + strings.Repeat("x", 100),
		"too large":    "\r\n\r\n\x00\r\nQUIT\n\x21\x00\xff\xff" + strings.Repeat("x", 1<<16),
		"half":         header[:20],
		"health check": local,
	} {
		c, err := net.Dial("tcp", in.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(testTimeout))
		io.WriteString(c, says)
		if says == local {
			c.Close()
			continue
		}
		if b, err := io.ReadAll(c); len(b) != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		c.Close()
	}
	in.stop()
	if e := in.end(); len(reports(t, e)) != 2 || strings.Count(e.stderr, "no header of the PROXY protocol") != 3 {
		t.Errorf("%s%s", e.stdout, e.stderr)
	}
}

// TestProxyBelievesNobodyElsesHeader: by default this machine's alone.
func TestProxyBelievesNobodyElsesHeader(t *testing.T) {
	tcp := []string{"--accept", "tls:127.0.0.1:0", "--forward", "tcp:" + backend(t, shout), "--accept-proxy"}
	for _, tt := range []struct {
		from []string
		addr string
		want bool
	}{
		{nil, "127.0.0.1:1", true},
		{nil, "127.8.0.1:1", true},
		{nil, "[::1]:1", true},
		{nil, "[::ffff:127.0.0.1]:1", true},
		{nil, "192.0.2.1:1", false},
		{nil, "[2001:db8::1]:1", false},
		{[]string{"192.0.2.0/24", "2001:db8::1"}, "192.0.2.9:1", true},
		{[]string{"192.0.2.0/24", "2001:db8::1"}, "[::ffff:192.0.2.9]:1", true},
		{[]string{"192.0.2.0/24", "2001:db8::1"}, "[2001:db8::1]:1", true},
		{[]string{"192.0.2.0/24", "2001:db8::1"}, "[2001:db8::2]:1", false},
		{[]string{"192.0.2.0/24", "2001:db8::1"}, "192.0.3.1:1", false},
		{[]string{"192.0.2.0/24", "2001:db8::1"}, "127.0.0.1:1", false},
		{[]string{"::ffff:192.0.2.1"}, "192.0.2.1:1", true},
		{[]string{"fe80::/10"}, "[fe80::1%eth0]:1", true},
	} {
		line := args(tcp, identity())
		for _, f := range tt.from {
			line = append(line, "--accept-proxy-from", f)
		}
		p, _, err := newProxy(t.Context(), &environment{stdout: io.Discard, stderr: io.Discard}, line)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.believes(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(tt.addr))); got != tt.want {
			t.Errorf("from %q: %s is believed: %v", tt.from, tt.addr, got)
		}
		if p.believes(&net.UnixAddr{Name: "@", Net: "unix"}) {
			t.Errorf("from %q: a Unix socket is believed", tt.from)
		}
		p.current.close()
	}
	// One that is not believed gets no handshake, whatever it sends.
	in := start(t, "proxy", args(tcp, identity(), []string{"--accept-proxy-from", "192.0.2.0/24"})...)
	c, err := net.Dial("tcp", in.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testTimeout))
	io.WriteString(c, "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00")
	if err := stdtls.Client(c, &stdtls.Config{InsecureSkipVerify: true}).Handshake(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a handshake with one who is not believed: %v", err)
	}
	in.stop()
	if e := in.end(); e.stdout != "" || !strings.Contains(e.stderr, "is believed from this address") {
		t.Errorf("%s%s", e.stdout, e.stderr)
	}
}

// TestProxyPassesHalfClosesOn: who has said its last still hears the other, in either
// direction.
func TestProxyPassesHalfClosesOn(t *testing.T) {
	heard := make(chan string, 1)
	addr := backend(t, func(c net.Conn) {
		io.WriteString(c, "hello")
		c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c)
		heard <- string(b)
	})
	_, out := sidecars(t, "tcp:"+addr, nil, nil)
	c, err := net.Dial("tcp", out.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testTimeout))
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Fatalf("%q, %v", b, err)
	}
	io.WriteString(c, "still ")
	io.WriteString(c, "here")
	c.(*net.TCPConn).CloseWrite()
	if got := <-heard; got != "still here" {
		t.Errorf("the server that said its last heard %q", got)
	}
	// The client first: it hears all of a long answer.
	_, out = sidecars(t, "tcp:"+backend(t, func(c net.Conn) {
		io.Copy(io.Discard, c)
		io.WriteString(c, strings.Repeat("x", 1<<20))
	}), nil, nil)
	if got, err := ask(t, "tcp", out.addr, "bye"); err != nil || len(got) != 1<<20 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestProxyLetsSlowPeersGo: one that drips, in the header of the PROXY protocol or in the
// handshake, has as long as one that is silent, and then its place is another's.
func TestProxyLetsSlowPeersGo(t *testing.T) {
	const header = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
	hello := "\x16\x03\x01\x40\x00" + strings.Repeat("\x01", 1<<14)
	in := start(t, "proxy", args([]string{"--accept", "tls:127.0.0.1:0", "--forward", "tcp:" + backend(t, shout), "--accept-proxy",
		"--timeout", "300ms", "--max-connections", "1"}, identity())...)
	for _, tt := range []struct{ name, at, drips string }{
		{"in the header", "", "\r\n\r\n\x00\r\nQUIT\n\x21\x00\x0f\x00" + strings.Repeat("\x04", 1<<12)},
		{"behind the header", header, hello},
		{"in the handshake", header + hello[:100], hello[100:]},
	} {
		c, err := net.Dial("tcp", in.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(testTimeout))
		io.WriteString(c, tt.at)
		go func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for i := range tt.drips {
				if _, err := io.WriteString(c, tt.drips[i:i+1]); err != nil {
					return
				}
				<-tick.C
			}
		}()
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("one that drips %s is not let go", tt.name)
		}
		c.Close()
	}
	c, err := net.Dial("tcp", in.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testTimeout))
	io.WriteString(c, header)
	if err := stdtls.Client(c, &stdtls.Config{InsecureSkipVerify: true}).Handshake(); err != nil {
		t.Errorf("the place is not free: %v", err)
	}
}

// A client that is cut off must not take what it got for all there was.
func TestProxyPassesOnThatAConnectionBrokeOff(t *testing.T) {
	addr := backend(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 5))
		io.WriteString(c, "half an ans")
		reset(c)
	})
	_, out := sidecars(t, "tcp:"+addr, nil, nil)
	c, err := net.Dial("tcp", out.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testTimeout))
	io.WriteString(c, "hello")
	if b, err := io.ReadAll(c); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, and then the end: %v", b, err)
	}
}

func TestProxySaysThatThereIsNobodyToForwardTo(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	in, out := sidecars(t, "tcp:"+gone.Addr().String(), []string{"--metrics", "127.0.0.1:0"}, nil)
	if got, err := ask(t, "tcp", out.addr, "hello"); got != "" || err == nil {
		t.Errorf("%q, %v", got, err)
	}
	if text := fetch(t, in.metrics); !strings.Contains(text, "atls_forward_failures_total 1") {
		t.Error(text)
	}
	in.stop()
	if e := in.end(); !strings.Contains(e.stderr, "forward to tcp:") {
		t.Error(e.stderr)
	}
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestProxyEndsConnectionsOnWhichNothingMoves: neither end that only reads, one that
// only writes nor one that does neither keeps a connection for longer than the idle
// timeout.
func TestProxyEndsConnectionsOnWhichNothingMoves(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	addr := backend(t, func(c net.Conn) { <-release })
	_, out := sidecars(t, "tcp:"+addr, nil, []string{"--idle-timeout", "100ms"})
	for name, says := range map[string]func(net.Conn){
		"silent":    func(net.Conn) {},
		"half-open": func(c net.Conn) { c.(*net.TCPConn).CloseWrite() },
		"writes more than is read": func(c net.Conn) {
			for {
				if _, err := c.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		},
	} {
		c, err := net.Dial("tcp", out.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(testTimeout))
		says(c)
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
	out.stop()
	if e := out.end(); strings.Count(e.stderr, errIdle.Error()) != 3 {
		t.Error(e.stderr)
	}
}

func TestProxyBoundsConnections(t *testing.T) {
	var mu sync.Mutex
	entered, most := 0, 0
	release := make(chan struct{}, 16)
	addr := backend(t, func(c net.Conn) {
		mu.Lock()
		entered++
		most = max(most, entered)
		mu.Unlock()
		<-release
		mu.Lock()
		entered--
		mu.Unlock()
		shout(c)
	})
	_, out := sidecars(t, "tcp:"+addr, nil, []string{"--max-connections", "2"})
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if got, err := ask(t, "tcp", out.addr, "hello"); err != nil || got != "HELLO" {
				t.Errorf("%q, %v", got, err)
			}
		})
		release <- struct{}{}
	}
	wg.Wait()
	if most > 2 {
		t.Errorf("%d connections at a time", most)
	}
}

func TestProxyDrains(t *testing.T) {
	for name, tt := range map[string]struct {
		drain string
		cut   bool
	}{"in time": {"1m", false}, "too late": {"50ms", true}} {
		t.Run(name, func(t *testing.T) {
			entered, release := make(chan struct{}), make(chan struct{})
			addr := backend(t, func(c net.Conn) {
				close(entered)
				select {
				case <-release:
				case <-time.After(testTimeout):
				}
				shout(c)
			})
			in, out := sidecars(t, "tcp:"+addr, nil, []string{"--drain", tt.drain, "--metrics", "127.0.0.1:0"})
			defer in.stop()
			health := strings.TrimSuffix(out.metrics, metricsPath) + "/health"
			if got := fetch(t, health); got != "ok\n" {
				t.Error(got)
			}
			answer := make(chan string, 1)
			go func() {
				got, err := ask(t, "tcp", out.addr, "hello")
				answer <- fmt.Sprint(got, err)
			}()
			<-entered
			out.stop()
			if tt.cut {
				if got := <-answer; strings.Contains(got, "HELLO") {
					t.Error(got)
				}
				close(release)
			} else {
				for deadline := time.Now().Add(testTimeout); fetch(t, health) != "draining\n"; {
					if time.Now().After(deadline) {
						t.Fatal("it does not say that it drains")
					}
				}
				if _, err := ask(t, "tcp", out.addr, "hello"); err == nil {
					t.Error("a connection was accepted")
				}
				close(release)
				if got := <-answer; got != "HELLO<nil>" {
					t.Error(got)
				}
			}
			if e := out.end(); e.status != 0 || len(reports(t, e)) != 1 {
				t.Errorf("status %d, %s%s", e.status, e.stdout, e.stderr)
			}
		})
	}
}

// TestProxyReloads: a policy that is broken changes nothing, and does not go unnoticed;
// one that is sound holds for the next connection.
func TestProxyReloads(t *testing.T) {
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.json")
	write := func(text string) {
		if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := contents(t, pki("policy.json"))
	write(string(good))
	in := start(t, "proxy", args([]string{"--accept", "tls:127.0.0.1:0", "--forward", "tcp:" + backend(t, shout), "--attest", "softtee:tdx"}, identity())...)
	p, addr, stop := proxyOf(t, args([]string{"--accept", "tcp:127.0.0.1:0", "--forward", "tls:" + in.addr, "--ca", pki("ca.pem")}, verifySoftTEE(), []string{"--policy", policy})...)
	// A connection from before, which stays.
	before, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	works := func(want bool) {
		t.Helper()
		if got, err := ask(t, "tcp", addr, "hello"); (err == nil && got == "HELLO") != want {
			t.Errorf("%q, %v, want that it works: %v", got, err, want)
		}
	}
	health := func(want string) {
		t.Helper()
		w := newHealthWriter()
		p.health(w, nil)
		if !strings.Contains(w.String(), want) {
			t.Errorf("health is %q", w)
		}
	}
	works(true)
	for _, broken := range []string{"{", `{"no_such_member": 1}`, ""} {
		write(broken)
		p.reload(t.Context())
		works(true)
		health("the last reload failed: --policy")
	}
	write(strings.Replace(string(good), `"mrtd"`, `"mrtd_"`, 1))
	p.reload(t.Context())
	works(true)
	write(`{"tdx": {"mrtd": ["` + strings.Repeat("00", 48) + `"]}}`)
	p.reload(t.Context())
	if p.reloadError.Load() != nil {
		t.Fatalf("a policy that accepts another machine: %s", *p.reloadError.Load())
	}
	works(false)
	write(string(good))
	p.reload(t.Context())
	works(true)
	health("ok\n")
	io.WriteString(before, "hello")
	before.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(before); err != nil || string(b) != "HELLO" {
		t.Errorf("the connection from before: %q, %v", b, err)
	}
	said := stop()
	if strings.Count(said, "reload failed, the old certificates and policy stay in force") != 4 || strings.Count(said, "msg=reloaded") != 2 {
		t.Error(said)
	}
	if got := fetchFrom(p); !strings.Contains(got, `atls_reloads_total{outcome="failed"} 4`) || !strings.Contains(got, `atls_reloads_total{outcome="ok"} 2`) {
		t.Error(got)
	}
}

// TestProxyReloadKeepsWhatItHas: none of the files that it reads again may be broken or
// gone, whatever the others say.
func TestProxyReloadKeepsWhatItHas(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, from string) {
		b, err := os.ReadFile(pki(from))
		if err == nil {
			err = os.WriteFile(file(name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	flags := map[string]string{"cert": "cert.pem", "key": "key.pem", "client-ca": "ca.pem", "trust-roots": "trust-roots.pem", "collateral": "collateral.json", "policy": "policy.json"}
	line := []string{"--accept", "tls:127.0.0.1:0", "--forward", "tcp:127.0.0.1:1", "--attest", "softtee:tdx", "--verify", "local"}
	for name, good := range flags {
		write(name, good)
		line = append(line, "--"+name, file(name))
	}
	var stderr bytes.Buffer
	p, _, err := newProxy(t.Context(), &environment{stdout: io.Discard, stderr: &stderr}, line)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { p.current.close() }()
	for name, good := range flags {
		for what, spoil := range map[string]func() error{
			"broken": func() error { return os.WriteFile(file(name), []byte("{"), 0o600) },
			"gone":   func() error { return os.Remove(file(name)) },
		} {
			old := p.current
			stderr.Reset()
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			p.reload(t.Context())
			said := stderr.String()
			if p.current != old || !strings.Contains(said, "level=ERROR") || !strings.Contains(said, "the old certificates and policy stay in force") || !strings.Contains(said, "--"+name) {
				t.Errorf("%s is %s: it says %s", name, what, said)
			}
			write(name, good)
			if p.reload(t.Context()); p.current == old || p.reloadError.Load() != nil {
				t.Errorf("%s is good again, and not read", name)
			}
		}
	}
	write("key", "client-key.pem") // of another certificate
	old := p.current
	if p.reload(t.Context()); p.current != old || p.reloadError.Load() == nil {
		t.Error("a key of another certificate is read")
	}
}

func TestProxyHasHangupReload(t *testing.T) {
	p, _, stop := proxyOf(t, "--accept", "tcp:127.0.0.1:0", "--forward", "tls:localhost:1", "--ca", pki("ca.pem"))
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Signal(syscall.SIGHUP); err != nil {
		t.Skip("no such signal here: ", err)
	}
	eventually(t, func() string {
		if strings.Contains(fetchFrom(p), `atls_reloads_total{outcome="ok"} 1`) {
			return ""
		}
		return "nothing was read again"
	})
	stop()
}

func TestProxyRefusesWhatMakesNoSense(t *testing.T) {
	for name, line := range map[string][]string{
		"nothing":       {},
		"no forward":    {"--accept", "tls:localhost:1"},
		"two plain":     {"--accept", "tcp:localhost:1", "--forward", "tcp:localhost:2"},
		"two TLS":       {"--accept", "tls:localhost:1", "--forward", "tls:localhost:2"},
		"no scheme":     {"--accept", "localhost:1", "--forward", "tls:localhost:2"},
		"no port":       {"--accept", "tcp:localhost", "--forward", "tls:localhost:2"},
		"no path":       {"--accept", "unix:", "--forward", "tls:localhost:2"},
		"open plain":    {"--accept", "tcp::1", "--forward", "tls:localhost:2"},
		"remote plain":  args([]string{"--accept", "tls::1", "--forward", "tcp:192.0.2.1:2"}, identity()),
		"header out":    {"--accept", "tcp:localhost:1", "--forward", "tls:localhost:2", "--send-proxy"},
		"header in":     {"--accept", "tcp:localhost:1", "--forward", "tls:localhost:2", "--accept-proxy"},
		"header from":   args([]string{"--accept", "tls:localhost:1", "--forward", "tcp:localhost:2", "--accept-proxy-from", "192.0.2.1"}, identity()),
		"no network":    args([]string{"--accept", "tls:localhost:1", "--forward", "tcp:localhost:2", "--accept-proxy", "--accept-proxy-from", "lb.example"}, identity()),
		"host bits":     args([]string{"--accept", "tls:localhost:1", "--forward", "tcp:localhost:2", "--accept-proxy", "--accept-proxy-from", "192.0.2.1/24"}, identity()),
		"mapped":        args([]string{"--accept", "tls:localhost:1", "--forward", "tcp:localhost:2", "--accept-proxy", "--accept-proxy-from", "::ffff:192.0.2.0/120"}, identity()),
		"no connection": {"--accept", "tcp:localhost:1", "--forward", "tls:localhost:2", "--max-connections", "0"},
		"no time":       {"--accept", "tcp:localhost:1", "--forward", "tls:localhost:2", "--idle-timeout", "0s"},
		"no protocol":   {"--accept", "tcp:localhost:1", "--forward", "tls:localhost:2", "--alpn", ""},
		"once":          {"--accept", "tcp:localhost:1", "--forward", "tls:localhost:2", "--once"},
		"no cert":       {"--accept", "tls:localhost:1", "--forward", "tcp:localhost:2"},
	} {
		if e := atls(t, "", append([]string{"proxy"}, line...)...); e.status != statusUsage {
			t.Errorf("%s: status %d, %s", name, e.status, e.stderr)
		}
	}
}

// proxyOf starts a proxy whose inside the test can reach.
func proxyOf(t *testing.T, line ...string) (p *proxy, addr string, stop func() string) {
	t.Helper()
	stdout, stdoutPipe := io.Pipe()
	var stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	p, metricsAddr, err := newProxy(t.Context(), &environment{stdout: stdoutPipe, stderr: &stderr}, line)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- p.run(ctx, metricsAddr)
		stdoutPipe.Close()
	}()
	r := bufio.NewReader(stdout)
	first, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, r)
	stop = sync.OnceValue(func() string {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		p.stderr.mu.Lock()
		defer p.stderr.mu.Unlock()
		return stderr.String()
	})
	t.Cleanup(func() { stop() })
	return p, strings.TrimPrefix(strings.TrimSpace(first), "listening on "), stop
}

// A healthWriter is a ResponseWriter that keeps the body.
type healthWriter struct {
	strings.Builder
	header http.Header
}

func newHealthWriter() *healthWriter               { return &healthWriter{header: http.Header{}} }
func (r *healthWriter) Header() http.Header        { return r.header }
func (r *healthWriter) WriteHeader(statusCode int) {}

// fetchFrom returns the metrics of p.
func fetchFrom(p *proxy) string {
	var b strings.Builder
	p.exposition().WriteTo(&b)
	return b.String()
}

// A failing connection can be written to until it fails.
type failing struct {
	net.Conn
	fails  atomic.Bool
	failed chan struct{}
}

func (f *failing) Write(b []byte) (int, error) {
	if f.fails.Load() {
		close(f.failed)
		return 0, syscall.EPIPE
	}
	return f.Conn.Write(b)
}

// A program reads all of an answer that came whole, also where what it goes on to send
// has nowhere to go any more.
func TestProxyHandsOverAnAnswerThatCameEarly(t *testing.T) {
	const size = 1 << 20 // fits into what the kernel keeps, and the program has read none of it
	cert, err := stdtls.LoadX509KeyPair(pki("cert.pem"), pki("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	remote := backend(t, func(c net.Conn) {
		conn := stdtls.Server(c, &stdtls.Config{Certificates: []stdtls.Certificate{cert}})
		conn.Write(make([]byte, size))
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
	})
	plain := make(chan net.Conn, 1)
	addr := backend(t, func(c net.Conn) { plain <- c; <-t.Context().Done() })
	for range 10 {
		program, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer program.Close()
		raw, err := net.Dial("tcp", remote)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		f := &failing{Conn: raw, failed: make(chan struct{})}
		s := newSession(f, func(c net.Conn) *tls.Conn {
			return tls.Client(c, &tls.Config{RootCAs: roots(t), ServerName: "localhost"})
		})
		if err := s.shake(t.Context(), testTimeout); err != nil {
			t.Fatal(err)
		}
		f.fails.Store(true)
		over := make(chan error, 1)
		go func() { over <- (&proxy{idle: testTimeout}).relay(t.Context(), s, <-plain) }()
		if _, err := program.Write([]byte("more")); err != nil {
			t.Fatal(err)
		}
		<-f.failed
		if got, err := io.Copy(io.Discard, program); got != size || err != nil {
			t.Errorf("of the answer %d bytes arrive, and then %v", got, err)
		}
		program.Close()
		if _, ok := errors.AsType[*writeError](<-over); !ok {
			t.Error("nothing was said of what could not be sent")
		}
	}
}
