package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// SIGTERM is how service managers end a server: the commands that it has started end with
// it, as after an interrupt.
func TestSignalEndsServeAndItsCommands(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{"as-atls", "serve", "--listen", "127.0.0.1:0", "--json",
			"--attest", execCommand("hang-on", l.Addr().String())}, identity()...)...)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stdout bytes.Buffer
		cmd.Stdout = &stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		errs := bufio.NewReader(stderr)
		line, err := errs.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		dialed := make(chan int, 1)
		go func() {
			addr := strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
			dialed <- run(t.Context(), append([]string{"dial", addr, "--ca", pki("ca.pem")}, verifySoftTEE()...), strings.NewReader(""), io.Discard, io.Discard)
		}()
		hanging, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer hanging.Close()
		if err := cmd.Process.Signal(sig); err != nil {
			cmd.Process.Kill()
			t.Skip("no such signal here: ", err)
		}
		rest, _ := io.ReadAll(errs)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v: %s", sig, err, rest)
		}
		hanging.SetReadDeadline(time.Now().Add(testTimeout))
		if _, err := io.ReadAll(hanging); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v: the command of --attest goes on", sig)
		}
		if m := (exited{stdout: stdout.String()}).object(t); m["error"] != "interrupted" || m["stage"] != "handshake" {
			t.Errorf("%v: %v at %v", sig, m["error"], m["stage"])
		}
		<-dialed
	}
}

// What waits for a peer, or for somebody at the keyboard, ends when it is interrupted, and
// has no advice about the peer.
func TestInterruptEndsWhatWaits(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	mute := serve(t, identity()...)
	for name, c := range map[string]struct {
		line  []string
		stage any
	}{
		"a silent peer": {[]string{"dial", silent.Addr().String(), "--json"}, "handshake"},
		"a silent user": {[]string{"dial", mute.addr, "--ca", pki("ca.pem"), "--json"}, "application"},
		"inspect":       {[]string{"inspect", "-"}, nil},
		"verify":        {[]string{"verify", "-"}, nil},
	} {
		ctx, interrupt := context.WithCancel(t.Context())
		stdin, keyboard := io.Pipe()
		var stdout, stderr lockedBuffer
		ended := make(chan int, 1)
		go func() { ended <- run(ctx, c.line, stdin, &stdout, &stderr) }()
		switch name {
		case "a silent peer":
			conn, err := silent.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Read(make([]byte, 1)); err != nil { // of its ClientHello
				t.Fatal(err)
			}
		default:
			// A byte that somebody has read shows that the command waits for more.
			if _, err := keyboard.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		interrupt()
		status, said := <-ended, stderr.String()
		if name == "a silent user" { // whose byte comes back, or does not in time
			said = strings.TrimPrefix(said, "x")
		}
		if status != 5 || said != "atls: error: interrupted\n" {
			t.Errorf("%s: status %d: %s", name, status, said)
		}
		if c.stage != nil {
			if m := (exited{stdout: stdout.String()}).object(t); m["error"] != "interrupted" || m["stage"] != c.stage {
				t.Errorf("%s: %v at %v", name, m["error"], m["stage"])
			}
		}
		keyboard.Close()
	}
}
