package main

import (
	"bytes"
	"context"
	stdtls "crypto/tls"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// peerOf has do with the first connection to the address that it returns.
func peerOf(t *testing.T, do func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		do(conn)
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// Whoever is on the way can end TCP. Servers of other stacks end it as well without a word
// that it is over, so that this is no failure, and goes not unsaid.
func TestReplyThatMayBeCutOffComesWithAWarning(t *testing.T) {
	cert, err := stdtls.LoadX509KeyPair(pki("cert.pem"), pki("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, whole := range []bool{true, false} {
		addr := peerOf(t, func(raw net.Conn) {
			conn := stdtls.Server(raw, &stdtls.Config{Certificates: []stdtls.Certificate{cert}})
			io.Copy(io.Discard, conn) // all that the client has to say
			io.WriteString(conn, "half a reply")
			if whole {
				conn.CloseWrite()
			}
		})
		e := atls(t, "hello\n", "dial", addr, "--ca", pki("ca.pem"))
		if e.stdout != "half a reply" || e.status != 0 || strings.Contains(e.stderr, "warning: the peer hung up without a close_notify") == whole {
			t.Errorf("whole %v: status %d, %q: %s", whole, e.status, e.stdout, e.stderr)
		}
	}
}

// An error of the transport alone would be "EOF", or "context deadline exceeded".
func TestErrorsSayWhatThePeerDid(t *testing.T) {
	for say, peer := range map[string]func(net.Conn){
		"hung up during the handshake": func(conn net.Conn) {
			io.ReadFull(conn, make([]byte, 100))
			conn.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, conn)
		},
		"not over within 50ms":   func(conn net.Conn) { io.Copy(io.Discard, conn) },
		"evidence takes TLS 1.3": func(conn net.Conn) { conn.Write([]byte{21, 3, 3, 0, 2, 2, 70}); io.Copy(io.Discard, conn) },
	} {
		timeout := "1m"
		if strings.Contains(say, "50ms") {
			timeout = "50ms"
		}
		e := atls(t, "", "dial", peerOf(t, peer), "--timeout", timeout)
		if e.status == 0 || !strings.Contains(e.stderr, say) {
			t.Errorf("status %d, want %q: %s", e.status, say, e.stderr)
		}
	}
}

// A file that breaks off is no matter of the other end's.
func TestBrokenFilesComeWithoutAdviceAboutThePeer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(path, []byte(`{"tdx": `), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range [][]string{
		{"dial", "localhost:1", "--verify", "local", "--policy", path},
		{"dial", "localhost:1", "--code-points", path},
		{"verify", pki("evidence.cmw"), "--policy", path},
		args([]string{"serve", "--attest", "results:" + path}, identity()),
	} {
		if e := atls(t, "", line...); e.status != 2 || strings.Contains(e.stderr, "hint") {
			t.Errorf("atls %q: status %d: %s", line, e.status, e.stderr)
		}
	}
}

// fullDisk is a standard output on which nothing fits.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) {
	return 0, &fs.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.ENOSPC}
}

// What nobody has got to see has not succeeded, and it is not the network that failed.
func TestOutputThatIsLostIsAFailure(t *testing.T) {
	r := serve(t, identity()...)
	for _, line := range [][]string{
		{"help"},
		{"help", "serve"},
		{"demo"},
		{"inspect", pki("evidence.cmw")},
		{"inspect", pki("evidence.cmw"), "--json"},
		args([]string{"verify", pki("evidence.cmw")}, verifySoftTEE()[2:]),
		{"attack", "--list"},
		{"dial", r.addr, "--ca", pki("ca.pem")},
		{"dial", r.addr, "--ca", pki("ca.pem"), "--json"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
		var stderr bytes.Buffer
		status := run(ctx, line, strings.NewReader("hello\n"), fullDisk{}, &stderr)
		cancel()
		if status != 1 || strings.Count(stderr.String(), "no space left") != 1 || strings.Contains(stderr.String(), "hint") {
			t.Errorf("atls %q: status %d: %s", line, status, &stderr)
		}
	}
}

// Serve and dial share their flags: one of the other end is no mistake, and goes not unsaid.
func TestFlagsOfTheOtherEndComeWithAWarning(t *testing.T) {
	r := serve(t, append(identity(), "--once", "--ca", pki("ca.pem"))...)
	e := atls(t, "hello\n", "dial", r.addr, "--ca", pki("ca.pem"), "--client-ca", pki("ca.pem"))
	if e.status != 0 || !strings.Contains(e.stderr, "warning: --client-ca has no effect on a client") {
		t.Errorf("status %d: %s", e.status, e.stderr)
	}
	if e := r.end(); e.status != 0 || !strings.Contains(e.stderr, "warning: --ca has no effect on a server") {
		t.Errorf("status %d: %s", e.status, e.stderr)
	}
}
