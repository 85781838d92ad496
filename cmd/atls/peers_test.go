package main

import (
	"bufio"
	"bytes"
	"context"
	stdtls "crypto/tls"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Peers that know nothing of attestation connect where nobody requires it, and are
// refused where somebody does.

// A serving is a way to serve them.
type serving struct {
	name   string
	args   []string
	refuse bool
}

func servings() []serving {
	return []serving{
		{"plain", nil, false},
		{"attests to whoever asks", []string{"--attest", "softtee:tdx"}, false},
		{"requires", args(verifySoftTEE(), []string{"--client-ca", pki("ca.pem")}), true},
	}
}

func TestStockClients(t *testing.T) {
	for _, c := range servings() {
		t.Run(c.name, func(t *testing.T) {
			r := serve(t, args(identity(), []string{"--once"}, c.args)...)
			conn, err := stdtls.Dial("tcp", r.addr, &stdtls.Config{RootCAs: roots(t), ServerName: "localhost"})
			if err == nil {
				conn.SetDeadline(time.Now().Add(testTimeout))
				io.WriteString(conn, "hello\n")
				conn.CloseWrite()
				var b []byte
				if b, err = io.ReadAll(conn); err == nil && string(b) != "hello\n" {
					t.Errorf("reply is %q", b)
				}
				conn.Close()
			}
			m := r.end().object(t)
			if c.refuse != (err != nil) || c.refuse && m["alert_sent"] != 109.0 {
				t.Errorf("client: %v; server: %v", err, m)
			}
		})
	}
}

func TestStockServers(t *testing.T) {
	cert, err := stdtls.LoadX509KeyPair(pki("cert.pem"), pki("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, refuse := range []bool{false, true} {
		t.Run(fmt.Sprintf("required %v", refuse), func(t *testing.T) {
			l, err := stdtls.Listen("tcp", "127.0.0.1:0", &stdtls.Config{Certificates: []stdtls.Certificate{cert}})
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
				conn.SetDeadline(time.Now().Add(testTimeout))
				io.Copy(conn, conn)
				conn.Close()
			}()
			defer func() { l.Close(); <-done }()
			e := atls(t, "hello\n", dialArgs(l.Addr().String(), refuse)...)
			m := e.object(t)
			if refuse {
				if e.status != 3 || m["alert_sent"] != 109.0 || m["stage"] != "negotiate" {
					t.Errorf("status %d, %v", e.status, m)
				}
			} else if e.status != 0 || m["ok"] != true || !strings.Contains(e.stderr, "hello") {
				t.Errorf("status %d, %v", e.status, m)
			}
		})
	}
}

func dialArgs(addr string, require bool) []string {
	dial := []string{"dial", addr, "--json", "--ca", pki("ca.pem")}
	if require {
		dial = append(dial, verifySoftTEE()...)
	}
	return dial
}

func lookOpenSSL(t *testing.T) string {
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	return path
}

func TestOpenSSLClients(t *testing.T) {
	openssl := lookOpenSSL(t)
	for _, c := range servings() {
		t.Run(c.name, func(t *testing.T) {
			r := serve(t, args(identity(), []string{"--once"}, c.args)...)
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			defer cancel()
			cmd := exec.CommandContext(ctx, openssl, "s_client", "-connect", r.addr, "-servername", "localhost",
				"-CAfile", pki("ca.pem"), "-verify_return_error", "-brief", "-ign_eof")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			io.WriteString(in, "hello\n")
			line, _ := bufio.NewReader(out).ReadString('\n')
			cancel() // it has said what it had to say
			cmd.Wait()
			m := r.end().object(t)
			if c.refuse != (line != "hello\n") || c.refuse && m["alert_sent"] != 109.0 {
				t.Errorf("client read %q; server: %v", line, m)
			}
		})
	}
}

func TestOpenSSLServers(t *testing.T) {
	openssl := lookOpenSSL(t)
	for _, refuse := range []bool{false, true} {
		t.Run(fmt.Sprintf("required %v", refuse), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			defer cancel()
			// With -rev it answers each line with its reverse, and never closes.
			cmd := exec.CommandContext(ctx, openssl, "s_server", "-accept", "127.0.0.1:0",
				"-cert", pki("cert.pem"), "-key", pki("key.pem"), "-rev", "-naccept", "1")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer cancel()
			var addr string
			for scanner := bufio.NewScanner(out); addr == "" && scanner.Scan(); {
				addr, _ = strings.CutPrefix(scanner.Text(), "ACCEPT ")
				if addr == scanner.Text() {
					addr = ""
				}
			}
			if addr == "" {
				t.Fatal("openssl s_server does not say where it listens")
			}
			dialing, stop := context.WithCancel(ctx)
			defer stop()
			var stdout bytes.Buffer
			stderr := &stopper{text: "olleh", stop: stop}
			status := run(dialing, dialArgs(addr, refuse), strings.NewReader("hello\n"), &stdout, stderr)
			m := exited{status, stdout.String(), stderr.b.String()}.object(t)
			if replied := strings.Contains(stderr.b.String(), "olleh"); replied == refuse || refuse && (m["alert_sent"] != 109.0 || status != 3) {
				t.Errorf("status %d, %s%s", status, &stdout, &stderr.b)
			}
		})
	}
}

// stopper keeps what is written and calls stop once text is in it.
type stopper struct {
	b    strings.Builder
	text string
	stop func()
}

func (s *stopper) Write(b []byte) (int, error) {
	s.b.Write(b)
	if strings.Contains(s.b.String(), s.text) {
		s.stop()
	}
	return len(b), nil
}
