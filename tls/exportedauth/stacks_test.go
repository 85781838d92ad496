package exportedauth_test

import (
	"context"
	"crypto"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/testpki"
	"github.com/attestedtls/atls/tls"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// Here everything but the hardware is real: TDX quotes of a software TEE, verified
// by go-tdx-guest, over crypto/tls and over the fork of it.

func now() time.Time { return exportedauth.TestingTime }

func local(t testing.TB) *verifier.Local {
	t.Helper()
	c, err := softtee.Collateral(now())
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse(softtee.Policy())
	if err != nil {
		t.Fatal(err)
	}
	return &verifier.Local{TDXRoots: softtee.Roots(), TDXCollateral: c, Policy: p, Now: now}
}

// A stack makes the ends of a TLS connection.
type stack struct {
	name           string
	client, server func(net.Conn) end
}

// An end is a connection whose handshake has been done.
type end struct {
	net.Conn
	session *exportedauth.Session
	err     error
}

func newEnd(role attestext.Role, conn net.Conn, err error, suite func() (uint16, func(string, []byte, int) ([]byte, error))) end {
	if err != nil {
		return end{Conn: conn, err: err}
	}
	cipherSuite, exporter := suite()
	hash, err := exportedauth.SuiteHash(cipherSuite)
	if err != nil {
		return end{Conn: conn, err: err}
	}
	s, err := exportedauth.NewSession(role, hash, exporter)
	return end{conn, s, err}
}

var stacks = func() []stack {
	roots, _, server := exportedauth.TestingPKI()
	stdEnd := func(role attestext.Role, c *stdtls.Conn) end {
		return newEnd(role, c, c.Handshake(), func() (uint16, func(string, []byte, int) ([]byte, error)) {
			cs := c.ConnectionState()
			return cs.CipherSuite, cs.ExportKeyingMaterial
		})
	}
	forkEnd := func(role attestext.Role, c *tls.Conn) end {
		return newEnd(role, c, c.Handshake(), func() (uint16, func(string, []byte, int) ([]byte, error)) {
			cs := c.ConnectionState()
			return cs.CipherSuite, cs.ExportKeyingMaterial
		})
	}
	stdClient := func(c net.Conn) end {
		return stdEnd(attestext.RoleClient, stdtls.Client(c, &stdtls.Config{RootCAs: roots, ServerName: "server.example", Time: now}))
	}
	stdServer := func(c net.Conn) end {
		return stdEnd(attestext.RoleServer, stdtls.Server(c, &stdtls.Config{
			Certificates: []stdtls.Certificate{{Certificate: server.Chain, PrivateKey: server.Key}}, Time: now, SessionTicketsDisabled: true,
		}))
	}
	forkClient := func(c net.Conn) end {
		return forkEnd(attestext.RoleClient, tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "server.example", Time: now}))
	}
	forkServer := func(c net.Conn) end {
		return forkEnd(attestext.RoleServer, tls.Server(c, &tls.Config{
			Certificates: []tls.Certificate{{Certificate: server.Chain, PrivateKey: server.Key}}, Time: now, SessionTicketsDisabled: true,
		}))
	}
	return []stack{
		{"crypto/tls", stdClient, stdServer},
		{"the fork", forkClient, forkServer},
		{"the fork and crypto/tls", forkClient, stdServer},
		{"crypto/tls and the fork", stdClient, forkServer},
	}
}()

// dial connects the two ends over loopback.
func (s stack) dial(t testing.TB) (client, server end) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	dialed.SetDeadline(deadline)
	accepted.SetDeadline(deadline)
	done := make(chan struct{})
	go func() {
		defer close(done)
		server = s.server(accepted)
	}()
	client = s.client(dialed)
	<-done
	if client.err != nil || server.err != nil {
		t.Fatalf("client: %v, server: %v", client.err, server.err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// outcome is what the two ends saw.
type outcome struct {
	client, server       *exportedauth.Peer
	clientErr, serverErr error
}

// exchange has both ends attest, and then sends a line there and back.
func exchange(client, server end, cc, sc *exportedauth.Config) (o outcome) {
	const line = "line\n"
	done := make(chan struct{})
	go func() {
		defer close(done)
		if o.server, o.serverErr = exportedauth.Exchange(context.Background(), server, server.session, sc); o.serverErr != nil {
			server.Close()
			return
		}
		_, o.serverErr = io.CopyN(server, server, int64(len(line)))
	}()
	o.client, o.clientErr = exportedauth.Exchange(context.Background(), client, client.session, cc)
	if o.clientErr == nil {
		if _, o.clientErr = io.WriteString(client, line); o.clientErr == nil {
			b := make([]byte, len(line))
			if _, o.clientErr = io.ReadFull(client, b); o.clientErr == nil && string(b) != line {
				o.clientErr = fmt.Errorf("got %q back", b)
			}
		}
	}
	if o.clientErr != nil {
		client.Close()
	}
	<-done
	return o
}

// config is that of an end that attests and asks, so far as it has the one or the
// other.
func config(role attestext.Role, a attestext.Attester, v attestext.Verifier) *exportedauth.Config {
	roots, client, server := exportedauth.TestingPKI()
	c := &exportedauth.Config{Attester: a, Verifier: v}
	if a != nil {
		c.Identities = []exportedauth.Identity{client}
		if role == attestext.RoleServer {
			c.Identities[0] = server
		}
	}
	if v != nil {
		c.VerifyChain = exportedauth.ServerChain(roots, "server.example", now)
		if role == attestext.RoleServer {
			c.VerifyChain = exportedauth.ClientChain(roots, now)
		}
	}
	return c
}

func TestQuotesOverEitherStack(t *testing.T) {
	tee := softtee.NewTDX(nil).Attester()
	v := local(t)
	for _, s := range stacks {
		for name, d := range map[string]struct{ c, s *exportedauth.Config }{
			"the server attests": {config(attestext.RoleClient, nil, v), config(attestext.RoleServer, tee, nil)},
			"the client attests": {config(attestext.RoleClient, tee, nil), config(attestext.RoleServer, nil, v)},
			"both attest":        {config(attestext.RoleClient, tee, v), config(attestext.RoleServer, tee, v)},
		} {
			client, server := s.dial(t)
			o := exchange(client, server, d.c, d.s)
			if o.clientErr != nil || o.serverErr != nil {
				t.Errorf("%s, %s: client: %v, server: %v", s.name, name, o.clientErr, o.serverErr)
				continue
			}
			for _, p := range []struct {
				peer *exportedauth.Peer
				asks bool
			}{{o.client, d.c.Verifier != nil}, {o.server, d.s.Verifier != nil}} {
				if (p.peer != nil) != p.asks {
					t.Errorf("%s, %s: %v", s.name, name, p.peer)
				}
				if p.peer != nil && (p.peer.Result.Verdict() != "affirming" || p.peer.Result.Binding() != attestext.BindingExpat) {
					t.Errorf("%s, %s: %s under %v", s.name, name, p.peer.Result.Verdict(), p.peer.Result.Binding())
				}
			}
		}
	}
}

func TestBundleOverAnExportedAuthenticator(t *testing.T) {
	tee := softtee.NewTDX(nil).Attester()
	client, server := stacks[0].dial(t)
	sc := config(attestext.RoleServer, tee, nil)
	sc.Format = tee.Formats(attestext.AttestationOnly)[0]
	o := exchange(client, server, config(attestext.RoleClient, nil, local(t)), sc)
	if o.clientErr != nil || o.serverErr != nil {
		t.Fatalf("client: %v, server: %v", o.clientErr, o.serverErr)
	}
	if key := o.client.Certificates[0].RawSubjectPublicKeyInfo; string(o.client.Result.Key()) != string(key) {
		t.Errorf("the token names %x, want %x", o.client.Result.Key(), key)
	}
}

// TestCombinedWithTheHandshake attests in the handshake, by package tls, and again
// bound to its exporter.
func TestCombinedWithTheHandshake(t *testing.T) {
	tee := softtee.NewTDX(nil).Attester()
	v := local(t)
	roots, _, id := exportedauth.TestingPKI()
	s := stack{
		client: func(c net.Conn) end {
			conn := tls.Client(c, &tls.Config{RootCAs: roots, ServerName: "server.example", Time: now, Attestation: &tls.AttestationConfig{Verifier: v}})
			return newEnd(attestext.RoleClient, conn, conn.Handshake(), func() (uint16, func(string, []byte, int) ([]byte, error)) {
				cs := conn.ConnectionState()
				return cs.CipherSuite, cs.ExportKeyingMaterial
			})
		},
		server: func(c net.Conn) end {
			conn := tls.Server(c, &tls.Config{
				Certificates: []tls.Certificate{{Certificate: id.Chain, PrivateKey: id.Key}}, Time: now,
				Attestation: &tls.AttestationConfig{Attester: tee},
			})
			return newEnd(attestext.RoleServer, conn, conn.Handshake(), func() (uint16, func(string, []byte, int) ([]byte, error)) {
				cs := conn.ConnectionState()
				return cs.CipherSuite, cs.ExportKeyingMaterial
			})
		},
	}
	client, server := s.dial(t)
	o := exchange(client, server, config(attestext.RoleClient, nil, v), config(attestext.RoleServer, tee, nil))
	if o.clientErr != nil || o.serverErr != nil {
		t.Fatalf("client: %v, server: %v", o.clientErr, o.serverErr)
	}
	if got := client.Conn.(*tls.Conn).ConnectionState().PeerAttestation; got.Binding() != attestext.BindingHardened || o.client.Result.Binding() != attestext.BindingExpat {
		t.Errorf("bound by %v and then by %v", got.Binding(), o.client.Result.Binding())
	}
}

// TestGenuineQuoteOfAnotherConnectionIsRefused is the attack R7 with quotes: the
// attacker holds the server's TLS key, and forwards the request to the genuine
// server on a connection of its own.
func TestGenuineQuoteOfAnotherConnectionIsRefused(t *testing.T) {
	tee := softtee.NewTDX(nil).Attester()
	cc, sc := config(attestext.RoleClient, nil, local(t)), config(attestext.RoleServer, tee, nil)
	for _, s := range stacks {
		client, attacker := s.dial(t)
		_, server := s.dial(t)
		r, err := client.session.RequestAttestation(cc)
		if err != nil {
			t.Fatal(err)
		}
		in, err := server.session.ReadRequest(r.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		genuine, err := server.session.Attest(t.Context(), in, sc)
		if err != nil {
			t.Fatal(err)
		}
		// It is good where it was made for and nowhere else, even with the
		// attacker's own signature around the evidence.
		if _, err := client.session.Appraise(t.Context(), r, genuine, cc); !errors.Is(err, exportedauth.ErrDecrypt) {
			t.Errorf("%s: relayed: %v", s.name, err)
		}
		if r, err = client.session.RequestAttestation(cc); err != nil {
			t.Fatal(err)
		}
		if in, err = attacker.session.ReadRequest(r.Bytes()); err != nil {
			t.Fatal(err)
		}
		forged := *sc
		forged.Attester = replay{tee, server.session, r.Bytes(), sc}
		b, err := attacker.session.Attest(t.Context(), in, &forged)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.session.Appraise(t.Context(), r, b, cc); !errors.Is(err, attestext.ErrBinding) {
			t.Errorf("%s: signed again: %v", s.name, err)
		}
	}
}

// replay gets its evidence from the genuine server.
type replay struct {
	attestext.Attester
	server  *exportedauth.Session
	request []byte
	conf    *exportedauth.Config
}

func (r replay) Attest(ctx context.Context, _ *attestext.AttestRequest) ([]byte, error) {
	in, err := r.server.ReadRequest(r.request)
	if err != nil {
		return nil, err
	}
	c := *r.conf
	capture := &recorder{Attester: r.Attester}
	c.Attester = capture
	_, err = r.server.Attest(ctx, in, &c)
	return capture.evidence, err
}

// recorder keeps the evidence that passes through it.
type recorder struct {
	attestext.Attester
	evidence []byte
}

func (r *recorder) Attest(ctx context.Context, req *attestext.AttestRequest) (b []byte, err error) {
	r.evidence, err = r.Attester.Attest(ctx, req)
	return r.evidence, err
}

func TestPassportOverAnExportedAuthenticator(t *testing.T) {
	_, other, id := exportedauth.TestingPKI()
	issuer := softtee.NewResultsIssuer(nil)
	client, server := stacks[0].dial(t)
	for _, tt := range []struct {
		name string
		spki []byte
		ok   bool
	}{
		{"over the key", testpki.SPKI(id.Key), true},
		{"over another key", testpki.SPKI(other.Key), false},
	} {
		token, err := issuer.Issue(tt.spki, now())
		if err != nil {
			t.Fatal(err)
		}
		holder, err := results.NewHolder([]results.Held{{Verifier: issuer.Identity(), Result: token}}, &results.HolderOptions{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		v, err := results.NewVerifier([]results.Trust{{ID: issuer.Identity(), Keys: []crypto.PublicKey{issuer.PublicKey()}}}, &results.VerifierOptions{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		cc, sc := config(attestext.RoleClient, nil, local(t)), config(attestext.RoleServer, softtee.NewTDX(nil).Attester(), nil)
		cc.Verifier, cc.ResultsVerifier = nil, v
		sc.Attester, sc.Results = nil, holder
		o := exchange(client, server, cc, sc)
		if (o.clientErr == nil) != tt.ok || (o.serverErr == nil) != tt.ok {
			t.Errorf("%s: client: %v, server: %v", tt.name, o.clientErr, o.serverErr)
		}
		if tt.ok && o.client.Result.Model() != attestext.Passport {
			t.Errorf("%s: %v", tt.name, o.client.Result.Model())
		}
	}
}

// BenchmarkQuotes is what Exchange costs on a connection, quote and appraisal
// included.
func BenchmarkQuotes(b *testing.B) {
	tee := softtee.NewTDX(nil).Attester()
	v := local(b)
	for _, bb := range []struct {
		name string
		c, s *exportedauth.Config
	}{
		{"the server attests", config(attestext.RoleClient, nil, v), config(attestext.RoleServer, tee, nil)},
		{"both attest", config(attestext.RoleClient, tee, v), config(attestext.RoleServer, tee, v)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			client, server := stacks[0].dial(b)
			b.ReportAllocs()
			for b.Loop() { // each round is an exchange with a context of its own
				if o := exchange(client, server, bb.c, bb.s); o.clientErr != nil || o.serverErr != nil {
					b.Fatal(o.clientErr, o.serverErr)
				}
			}
		})
	}
}
