package exportedauth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

// stubTEE makes Evidence that is its challenge, and compares it.
type stubTEE struct {
	err      error
	evidence []byte
	wait     bool // until ctx is done
}

var stubFormat = attestext.EvidenceFormat{MediaType: "application/x.stub"}

func (s *stubTEE) Formats(attestext.CredentialKind) []attestext.EvidenceFormat {
	return []attestext.EvidenceFormat{stubFormat}
}

func (s *stubTEE) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	if s.wait {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if s.err != nil {
		return nil, s.err
	}
	if req.Type.Format != stubFormat || req.Type.Kind != attestext.CertAttestation {
		return nil, fmt.Errorf("asked for %v", req.Type)
	}
	if s.evidence != nil {
		return s.evidence, nil
	}
	rd, err := req.Challenge.ReportData()
	return rd[:], err
}

func (s *stubTEE) Appraise(_ context.Context, ev *attestext.Evidence, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	rd, err := expected.ReportData()
	switch {
	case err != nil:
		return nil, err
	case s.err != nil:
		return nil, s.err
	case !bytes.Equal(ev.CMW, rd[:]):
		return nil, attestext.Errorf(attestext.ErrBinding, "stub", "another challenge")
	}
	return &attestext.Appraisal{Verdict: "affirming", Format: stubFormat}, nil
}

// configs returns Configs with which both ends attest and ask.
func configs() (client, server *Config) {
	now := func() time.Time { return testTime }
	client = &Config{
		Identities: []Identity{pki().ids["client"]}, Attester: &stubTEE{},
		Verifier: &stubTEE{}, VerifyChain: ServerChain(pki().roots, "server.example", now),
	}
	server = &Config{
		Identities: []Identity{pki().ids["server"]}, Attester: &stubTEE{},
		Verifier: &stubTEE{}, VerifyChain: ClientChain(pki().roots, now),
	}
	return client, server
}

func onlyAsks(c *Config) *Config {
	d := *c
	d.Attester, d.Identities = nil, nil
	return &d
}

func onlyAttests(c *Config) *Config {
	d := *c
	d.Verifier, d.VerifyChain = nil, nil
	return &d
}

// run has both ends call Exchange over a pipe, and close when they are done.
func run(t testing.TB, client, server *Session, cc, sc *Config) (cp, sp *Peer, cerr, serr error) {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		sp, serr = Exchange(context.Background(), b, server, sc)
	}()
	cp, cerr = Exchange(context.Background(), a, client, cc)
	a.Close()
	<-done
	return
}

func TestExchangeAttestsEitherEndOrBoth(t *testing.T) {
	cc, sc := configs()
	for name, tt := range map[string]struct{ c, s *Config }{
		"the client asks": {onlyAsks(cc), onlyAttests(sc)},
		"the server asks": {onlyAttests(cc), onlyAsks(sc)},
		"both ask":        {cc, sc},
	} {
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384} {
			for _, label := range []string{"", LabelAttestationBinding} {
				for _, sha512 := range []bool{false, true} {
					c, s := *tt.c, *tt.s
					c.Label, s.Label, c.ReportDataSHA512, s.ReportDataSHA512 = label, label, sha512, sha512
					client, server := sessions(t, "c", h)
					cp, sp, cerr, serr := run(t, client, server, &c, &s)
					if cerr != nil || serr != nil {
						t.Fatalf("%s: client: %v, server: %v", name, cerr, serr)
					}
					for _, e := range []struct {
						peer   *Peer
						conf   *Config
						id     string
						attest attestext.Role
					}{{cp, &c, "server", attestext.RoleServer}, {sp, &s, "client", attestext.RoleClient}} {
						if (e.peer != nil) != e.conf.asks() {
							t.Errorf("%s: knows of the peer: %v", name, e.peer != nil)
						}
						if e.peer == nil {
							continue
						}
						ch := e.peer.Result.Challenge()
						if !e.peer.Result.Valid() || !e.peer.Result.Binding().IsExpat() || ch.Role != e.attest || len(ch.Binder) != h.Size() {
							t.Errorf("%s: result under %v for the %v, binding of %d bytes", name, ch.Binding, ch.Role, len(ch.Binder))
						}
						if !bytes.Equal(e.peer.Certificates[0].Raw, pki().ids[e.id].Chain[0]) {
							t.Errorf("%s: another certificate", name)
						}
					}
				}
			}
		}
	}
}

// TestBindingCoversConnectionRequestAndKey changes each input of the binding alone.
func TestBindingCoversConnectionRequestAndKey(t *testing.T) {
	one, _ := sessions(t, "one", crypto.SHA256)
	two, _ := sessions(t, "two", crypto.SHA256)
	value := func(s *Session, c *Config, context, spki string) string {
		return string(must(s.challenge(c, attestext.BackgroundCheck, attestext.RoleServer, []byte(context), []byte(spki))).Value())
	}
	base := value(one, &Config{}, "context", "key")
	if value(one, &Config{Label: LabelAttestation}, "context", "key") != base {
		t.Error("the default label is another")
	}
	for name, v := range map[string]string{
		"connection": value(two, &Config{}, "context", "key"),
		"request":    value(one, &Config{}, "other", "key"),
		"key":        value(one, &Config{}, "context", "other"),
		"label":      value(one, &Config{Label: LabelAttestationBinding}, "context", "key"),
	} {
		if v == base {
			t.Errorf("the binding does not depend on the %s", name)
		}
	}
}

func TestAttestationIsRefused(t *testing.T) {
	cmw := Extension{ExtensionCMWAttestation, []byte{0, 1, 'x'}}
	id := pki().ids["server"]
	for _, tt := range []struct {
		name   string
		change func(m *authenticatorMsg)
		want   error
		alert  uint8
	}{
		{"unchanged", func(m *authenticatorMsg) {}, attestext.ErrBinding, 42}, // for it is "x"
		{"in the second entry", func(m *authenticatorMsg) {
			m.certificate.entries[1].extensions = m.certificate.entries[0].extensions
			m.certificate.entries[0].extensions = nil
		}, ErrIllegalParameter, 47},
		{"in both entries", func(m *authenticatorMsg) {
			m.certificate.entries[1].extensions = m.certificate.entries[0].extensions
		}, ErrIllegalParameter, 47},
		{"twice", func(m *authenticatorMsg) { m.certificate.entries[0].extensions = []Extension{cmw, cmw} }, ErrIllegalParameter, 47},
		{"missing", func(m *authenticatorMsg) { m.certificate.entries[0].extensions = nil }, ErrNoEvidence, 40},
		{"empty extension", func(m *authenticatorMsg) { m.certificate.entries[0].extensions[0].Data = nil }, ErrDecode, 50},
		{"empty", func(m *authenticatorMsg) { m.certificate.entries[0].extensions[0].Data = []byte{0, 0} }, ErrDecode, 50},
		{"with a byte behind", func(m *authenticatorMsg) { m.certificate.entries[0].extensions[0].Data = []byte{0, 1, 2, 3} }, ErrDecode, 50},
		{"under another code point", func(m *authenticatorMsg) { m.certificate.entries[0].extensions[0].Type = 0xFFFF }, ErrUnsupportedExtension, 110},
	} {
		client, server := sessions(t, "c", crypto.SHA256)
		cc, _ := configs()
		r := must(client.RequestAttestation(cc))
		with := id
		with.Extensions = []Extension{cmw}
		_, err := client.Appraise(t.Context(), r, resigned(t, server, r, with, all, tt.change), cc)
		if !errors.Is(err, tt.want) || Alert(err, attestext.RoleClient) != tt.alert {
			t.Errorf("%s: %v, alert %d", tt.name, err, Alert(err, attestext.RoleClient))
		}
	}

	client, server := sessions(t, "c", crypto.SHA256)
	cc, sc := configs()
	r := must(server.RequestAttestation(sc))
	if _, err := server.Appraise(t.Context(), r, must(client.Refuse(must(client.ReadRequest(r.Bytes())))), sc); !errors.Is(err, ErrRefused) || Alert(err, attestext.RoleServer) != 116 {
		t.Errorf("an empty authenticator: %v", err)
	}
	plain := must(client.Request(nil))
	if _, err := server.Attest(t.Context(), must(server.ReadRequest(plain.Bytes())), sc); !errors.Is(err, ErrMissingExtension) {
		t.Errorf("a request without cmw_attestation: %v", err)
	}
	if _, err := client.Appraise(t.Context(), plain, nil, cc); !errors.Is(err, ErrUsage) {
		t.Errorf("appraises the answer to a request without cmw_attestation: %v", err)
	}
	full := must(client.Request(&RequestOptions{Extensions: []Extension{cmw}}))
	if _, err := server.Attest(t.Context(), must(server.ReadRequest(full.Bytes())), sc); !errors.Is(err, ErrDecode) {
		t.Errorf("a request with a full cmw_attestation: %v", err)
	}
}

// TestRelayOnTwoConnectionsIsRefused is the attack R7: one request on two
// connections. The attacker ends the client's connection and has another one to
// the genuine server.
func TestRelayOnTwoConnectionsIsRefused(t *testing.T) {
	cc, sc := configs()
	client, attacker := sessions(t, "client to attacker", crypto.SHA256)
	_, server := sessions(t, "attacker to server", crypto.SHA256)

	// It forwards both messages as they are.
	r := must(client.RequestAttestation(cc))
	a := must(server.Attest(t.Context(), must(server.ReadRequest(r.Bytes())), sc))
	if _, err := client.Appraise(t.Context(), r, a, cc); !errors.Is(err, ErrDecrypt) {
		t.Errorf("relayed: %v", err)
	}

	// It holds the server's key as well, and puts the genuine evidence into an
	// authenticator of its own.
	r = must(client.RequestAttestation(cc))
	m := must(parseAuthenticator(must(server.Attest(t.Context(), must(server.ReadRequest(r.Bytes())), sc)), attestext.RoleServer))
	id := pki().ids["server"]
	id.Extensions = m.certificate.entries[0].extensions
	a = must(attacker.Authenticate(must(attacker.ReadRequest(r.Bytes())), id))
	if _, err := client.Appraise(t.Context(), r, a, cc); !errors.Is(err, attestext.ErrBinding) {
		t.Errorf("signed again with the server's key: %v", err)
	}
}

func TestExchangeIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name         string
		setup        func(c, s *Config)
		client       error // class, nil where it fails only because the server left
		server       error
		clientAlerts uint8
	}{
		{"one key on both ends", func(c, s *Config) { c.Identities = s.Identities }, ErrReflected, nil, 42},
		{"the attester fails", func(c, s *Config) { s.Attester = &stubTEE{err: errors.New("no TEE")} }, ErrRefused, nil, 40},
		{"no certificate fits", func(c, s *Config) { s.Identities = []Identity{pki().ids["p224"]} }, ErrRefused, ErrNoIdentity, 40},
		{"another code point", func(c, s *Config) { c.CMWAttestation = 0xFFFF }, ErrRefused, ErrMissingExtension, 40},
		{"another label", func(c, s *Config) { s.Label = LabelAttestationBinding }, attestext.ErrBinding, nil, 42},
		{"another form of report data", func(c, s *Config) { s.ReportDataSHA512 = true }, attestext.ErrBinding, nil, 42},
		{"evidence that does not fit", func(c, s *Config) { s.Attester = &stubTEE{evidence: make([]byte, maxCMW+1)} }, ErrRefused, ErrUsage, 40},
		{"the chain is of another name", func(c, s *Config) { s.Identities = []Identity{pki().ids["p384"]} }, ErrBadCertificate, nil, 42},
		{"the policy says no", func(c, s *Config) {
			c.Verifier = &stubTEE{err: attestext.Errorf(attestext.ErrPolicy, "stub", "no")}
		}, attestext.ErrPolicy, nil, 49},
		{"the verifier is down", func(c, s *Config) { c.Verifier = &stubTEE{err: io.ErrClosedPipe} }, io.ErrClosedPipe, nil, 80},
		{"the attester is late", func(c, s *Config) { s.Attester, s.AttestTimeout = &stubTEE{wait: true}, time.Nanosecond }, ErrRefused, attestext.ErrUnavailable, 40},
		{"the server is not configured to ask", func(c, s *Config) { *s = *onlyAttests(s) }, ErrInterrupted, nil, 80},
		{"the client is not configured to ask", func(c, s *Config) { *c = *onlyAttests(c); c.Timeout = time.Millisecond }, ErrInterrupted, ErrInterrupted, 80},
	} {
		client, server := sessions(t, "c", crypto.SHA256)
		cc, sc := configs()
		tt.setup(cc, sc)
		cp, _, cerr, serr := run(t, client, server, cc, sc)
		if cp != nil || !errors.Is(cerr, tt.client) || Alert(cerr, attestext.RoleClient) != tt.clientAlerts {
			t.Errorf("%s: client: %v, alert %d", tt.name, cerr, Alert(cerr, attestext.RoleClient))
		}
		if tt.server != nil && !errors.Is(serr, tt.server) {
			t.Errorf("%s: server: %v", tt.name, serr)
		}
	}
}

// sent is a connection that keeps what was written to it.
type sent struct {
	Conn
	b bytes.Buffer
}

func (s *sent) Write(b []byte) (int, error) {
	s.b.Write(b)
	return s.Conn.Write(b)
}

// types returns the types of the messages that were written.
func (s *sent) types() (types []uint8) {
	for b := s.b.Bytes(); len(b) >= headerSize; {
		types = append(types, b[0])
		b = b[headerSize+(int(b[1])<<16|int(b[2])<<8|int(b[3])):]
	}
	return types
}

// TestServerShowsNothingBeforeItHasAcceptedTheClient: with ClientFirst all that a client
// sees that is not accepted is the request to it.
func TestServerShowsNothingBeforeItHasAcceptedTheClient(t *testing.T) {
	asked := []uint8{typeCertificateRequest}
	shown := []uint8{typeCertificateRequest, typeCertificate, typeCertificateVerify, typeFinished}
	for _, tt := range []struct {
		name   string
		change func(c, s *Config)
		client error // ErrInterrupted where it fails only because the server left
		server error
		says   string
		sent   []uint8
	}{
		{"accepted", func(c, s *Config) {}, nil, nil, "", shown},
		{"the server leaves the order to the client", func(c, s *Config) { s.ClientFirst = false }, nil, nil, "",
			[]uint8{typeCertificate, typeCertificateVerify, typeFinished, typeCertificateRequest}},
		{"the client holds back as well", func(c, s *Config) { c.ClientFirst = false }, ErrUnexpectedMessage, ErrRefused, "ClientFirst set as well", asked},
		{"the client does not attest", func(c, s *Config) { *c = *onlyAsks(c) }, ErrInterrupted, ErrRefused, "it needs an attester", asked},
		{"the client does not ask", func(c, s *Config) { *c = *onlyAttests(c) }, ErrInterrupted, ErrInterrupted, "there is no ClientCertificateRequest", nil},
		{"its attester fails", func(c, s *Config) { c.Attester = &stubTEE{err: io.ErrClosedPipe} }, io.ErrClosedPipe, ErrRefused, "", asked},
		{"its evidence is of another connection", func(c, s *Config) { c.Attester = &stubTEE{evidence: []byte("x")} }, ErrInterrupted, attestext.ErrBinding, "", asked},
		{"the policy says no", func(c, s *Config) { s.Verifier = &stubTEE{err: attestext.Errorf(attestext.ErrPolicy, "stub", "no")} }, ErrInterrupted, attestext.ErrPolicy, "", asked},
		{"its certificate is of nobody", func(c, s *Config) { s.VerifyChain = ClientChain(x509.NewCertPool(), nil) }, ErrInterrupted, ErrBadCertificate, "", asked},
		{"VerifyPeer says no", func(c, s *Config) {
			s.VerifyPeer = func(p *Peer) error {
				if !p.Result.Valid() {
					return nil
				}
				return errors.ErrUnsupported
			}
		}, ErrInterrupted, errors.ErrUnsupported, "", asked},
		{"a refusal that is allowed", func(c, s *Config) { *c, s.AllowRefusal = *onlyAsks(c), true }, nil, nil, "", shown},
		{"a refusal that is allowed, and VerifyPeer says no", func(c, s *Config) {
			*c, s.AllowRefusal = *onlyAsks(c), true
			s.VerifyPeer = func(p *Peer) error {
				if p != nil {
					return nil
				}
				return errors.ErrUnsupported
			}
		}, ErrInterrupted, errors.ErrUnsupported, "", asked},
		{"a refusal is not evidence that is bad", func(c, s *Config) {
			c.Attester, s.AllowRefusal = &stubTEE{evidence: []byte("x")}, true
		}, ErrInterrupted, attestext.ErrBinding, "", asked},
	} {
		client, server := sessions(t, "c", crypto.SHA256)
		cc, sc := configs()
		cc.ClientFirst, sc.ClientFirst = true, true
		cc.Timeout, sc.Timeout = time.Minute, time.Minute
		tt.change(cc, sc)
		if !cc.asks() {
			sc.Timeout = time.Millisecond
		}
		a, b := net.Pipe()
		out := &sent{Conn: b}
		done := make(chan error, 1)
		go func() {
			_, err := Exchange(t.Context(), out, server, sc)
			b.Close()
			done <- err
		}()
		_, cerr := Exchange(t.Context(), a, client, cc)
		a.Close()
		serr := <-done
		if !errors.Is(cerr, tt.client) {
			t.Errorf("%s: client: %v", tt.name, cerr)
		}
		if tt.client == ErrUnexpectedMessage && !strings.Contains(cerr.Error(), "ClientFirst is not set here") {
			t.Errorf("%s: client: %v", tt.name, cerr)
		}
		if !errors.Is(serr, tt.server) || serr != nil && !strings.Contains(serr.Error(), tt.says) {
			t.Errorf("%s: server: %v", tt.name, serr)
		}
		if !bytes.Equal(out.types(), tt.sent) {
			t.Errorf("%s: the server sent messages of types %v, want %v", tt.name, out.types(), tt.sent)
		}
	}
}

func TestConfigMistakesAreErrors(t *testing.T) {
	for says, change := range map[string]func(c *Config){
		"neither attests":    func(c *Config) { *c = Config{} },
		"needs an identity":  func(c *Config) { c.Identities = nil },
		"VerifyChain":        func(c *Config) { c.VerifyChain = nil },
		"unknown Label":      func(c *Config) { c.Label = "attestation" },
		"negative timeout":   func(c *Config) { c.Timeout = -1 },
		"belongs to another": func(c *Config) { c.CMWAttestation = 13 },
		"Request.Context":    func(c *Config) { c.Request = &RequestOptions{Context: []byte{}} },
		"both Attester":      func(c *Config) { c.Results = results{} },
		"both Verifier":      func(c *Config) { c.ResultsVerifier = results{} },
		"the key is not that of": func(c *Config) {
			c.Identities = []Identity{{Chain: pki().ids["client"].Chain, Key: pki().ids["server"].Key}}
		},
		"Leaf is not the first": func(c *Config) {
			id := pki().ids["client"]
			id.Leaf = must(x509.ParseCertificate(pki().ids["server"].Chain[0]))
			c.Identities = []Identity{id}
		},
		"without a key":         func(c *Config) { c.Identities = []Identity{{Chain: pki().ids["client"].Chain}} },
		"malformed cert":        func(c *Config) { c.Identities = []Identity{{Chain: [][]byte{{1}}, Key: pki().ids["server"].Key}} },
		"no name of the server": func(c *Config) { c.VerifyChain = ServerChain(pki().roots, "", nil) },
		"no roots for clients":  func(c *Config) { c.VerifyChain = ClientChain(nil, nil) },
		"expired": func(c *Config) {
			c.VerifyChain = ServerChain(pki().roots, "server.example", func() time.Time { return testTime.AddDate(1, 0, 0) })
		},
		"signed by unknown author": func(c *Config) {
			c.VerifyChain = ServerChain(x509.NewCertPool(), "server.example", func() time.Time { return testTime })
		},
	} {
		client, server := sessions(t, "c", crypto.SHA256)
		cc, sc := configs()
		change(cc)
		_, _, err, _ := run(t, client, server, cc, sc)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// script is a peer that reads what comes and answers with the bytes that say gives,
// then closes.
func script(t testing.TB, b net.Conn, read int, say []byte, stay bool) {
	go func() {
		if read > 0 {
			io.ReadFull(b, make([]byte, read))
			go io.Copy(io.Discard, b)
		}
		b.Write(say)
		if !stay {
			b.Close()
		}
	}()
	t.Cleanup(func() { b.Close() })
}

func TestPeerThatDoesNotSpeakIsFoundOut(t *testing.T) {
	header := func(typ uint8, n int) []byte { return []byte{typ, byte(n >> 16), byte(n >> 8), byte(n)} }
	for _, tt := range []struct {
		name string
		role attestext.Role
		say  []byte
		stay bool
		want error
		says string
	}{
		{"HTTP from a server", attestext.RoleClient, []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), true, ErrUnexpectedMessage, "does not speak"},
		{"HTTP from a client", attestext.RoleServer, []byte("GET / HTTP/1.1\r\n\r\n"), true, ErrUnexpectedMessage, "does not speak"},
		{"one byte", attestext.RoleServer, []byte("G"), true, ErrUnexpectedMessage, "does not speak"},
		{"nothing", attestext.RoleClient, nil, false, io.ErrUnexpectedEOF, "peer closed"},
		{"half a header", attestext.RoleClient, []byte{11, 0}, false, io.ErrUnexpectedEOF, "Certificate is cut off in its header"},
		{"half a message", attestext.RoleClient, append(header(11, 100), 1, 2, 3), false, io.ErrUnexpectedEOF, "Certificate is cut off"},
		{"half a request", attestext.RoleServer, append(header(17, 100), 1, 2, 3), false, io.ErrUnexpectedEOF, "ClientCertificateRequest is cut off"},
		{"Certificate over the bound", attestext.RoleClient, header(11, maxCertificate-3), true, ErrDecode, "at most 262144"},
		{"request over the bound", attestext.RoleServer, header(17, 0xffffff), true, ErrDecode, "at most 65797"},
		{"Finished over the bound", attestext.RoleClient, header(20, 65), true, ErrDecode, "at most 68"},
		{"CertificateVerify over the bound", attestext.RoleClient, append(header(11, 0), header(15, 4096)...), true, ErrDecode, "CertificateVerify of 4100 bytes"},
		{"a request of the same role", attestext.RoleServer, header(13, 0), true, ErrUnexpectedMessage, "got CertificateRequest, want ClientCertificateRequest"},
		{"a request in place of an answer", attestext.RoleClient, header(13, 0), true, ErrDecode, "read the server's request: malformed"},
		{"a request in place of a signature", attestext.RoleClient, append(header(11, 0), header(13, 0)...), true, ErrUnexpectedMessage, "got CertificateRequest, want CertificateVerify"},
		{"Certificate twice", attestext.RoleClient, append(header(11, 0), header(11, 0)...), true, ErrUnexpectedMessage, "got Certificate, want CertificateVerify"},
		{"an altered refusal", attestext.RoleClient, append(header(20, 32), make([]byte, 32)...), true, ErrDecrypt, "Finished of the refusal"},
	} {
		client, server := sessions(t, "c", crypto.SHA256)
		cc, sc := configs()
		s, c, read := client, onlyAsks(cc), 4
		if tt.role == attestext.RoleServer {
			s, c, read = server, onlyAttests(sc), 0
		}
		a, b := net.Pipe()
		script(t, b, read, tt.say, tt.stay)
		peer, err := Exchange(t.Context(), a, s, c)
		if peer != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: a byte moves after the failure: %v", tt.name, err)
		}
		a.Close()
	}
}

func TestSilentPeerIsLeftInTime(t *testing.T) {
	for name, tt := range map[string]struct {
		timeout time.Duration
		cancel  bool
		read    int
		want    error
	}{
		"timeout while reading":  {time.Millisecond, false, 4, nil},
		"timeout while writing":  {time.Millisecond, false, 0, nil},
		"canceled while reading": {time.Hour, true, 4, context.Canceled},
		"canceled while writing": {time.Hour, true, 0, context.Canceled},
	} {
		client, _ := sessions(t, "c", crypto.SHA256)
		cc, _ := configs()
		cc.Timeout = tt.timeout
		a, b := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		if tt.read > 0 {
			go func() {
				io.ReadFull(b, make([]byte, tt.read))
				if tt.cancel {
					cancel()
				}
				io.Copy(io.Discard, b)
			}()
		} else if tt.cancel {
			cancel()
		}
		_, err := Exchange(ctx, a, client, onlyAsks(cc))
		cancel()
		if !errors.Is(err, ErrInterrupted) || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if tt.want == nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		a.Close()
		b.Close()
	}
}

// TestNothingIsReadBeyondTheExchange has application data follow at once.
func TestNothingIsReadBeyondTheExchange(t *testing.T) {
	client, server := sessions(t, "c", crypto.SHA256)
	cc, sc := configs()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go func() {
		if _, err := Exchange(context.Background(), b, server, sc); err == nil {
			b.Write([]byte("\x0bapplication"))
		}
	}()
	if _, err := Exchange(t.Context(), a, client, cc); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 12)
	if _, err := io.ReadFull(a, got); err != nil || string(got) != "\x0bapplication" {
		t.Errorf("%q, %v", got, err)
	}
}

// results is a verifier's word on a key.
type results struct {
	trusted []attestext.VerifierIdentity
	key     []byte // that the result names, in place of the challenge's
}

func (r results) Verifiers() []attestext.VerifierIdentity { return r.trusted }

func (r results) Attest(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
	return append([]byte(req.Verifier), req.Challenge.SPKI...), nil
}

func (r results) Appraise(_ context.Context, ev *attestext.Evidence, _ *attestext.Challenge) (*attestext.Appraisal, error) {
	spki, ok := bytes.CutPrefix(ev.CMW, []byte(ev.Verifier))
	if !ok {
		return nil, attestext.Errorf(attestext.ErrSignature, "stub", "not by %s", ev.Verifier)
	}
	if r.key != nil {
		spki = r.key
	}
	return &attestext.Appraisal{Verdict: "affirming", Key: spki}, nil
}

func TestPassportNamesTheKey(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    results
		want error
	}{
		{"the second verifier", results{trusted: []attestext.VerifierIdentity{"one", "two"}}, nil},
		{"no verifier in common", results{trusted: []attestext.VerifierIdentity{"one"}}, attestext.ErrSignature},
		{"no verifier at all", results{}, attestext.ErrUnavailable},
		{"another key", results{trusted: []attestext.VerifierIdentity{"two"}, key: []byte("k")}, attestext.ErrBinding},
		{"no key", results{trusted: []attestext.VerifierIdentity{"two"}, key: []byte{}}, attestext.ErrBinding},
	} {
		client, server := sessions(t, "c", crypto.SHA256)
		cc, sc := configs()
		cc, sc = onlyAsks(cc), onlyAttests(sc)
		cc.Verifier, cc.ResultsVerifier = nil, tt.v
		sc.Attester, sc.Results = nil, results{trusted: []attestext.VerifierIdentity{"two"}}
		cp, _, err, _ := run(t, client, server, cc, sc)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err == nil && (cp.Result.Model() != attestext.Passport || cp.Result.Evidence().Verifier != "two") {
			t.Errorf("%s: %v by %q", tt.name, cp.Result.Model(), cp.Result.Evidence().Verifier)
		}
	}
}

func TestErrorsSayWhoDidWhat(t *testing.T) {
	err := error(&Error{Class: ErrDecode, Op: "read the client's request"})
	if err.Error() != "read the client's request: malformed message" || !errors.Is(err, ErrDecode) {
		t.Error(err)
	}
	if Alert(nil, attestext.RoleClient) != 0 || Alert(io.EOF, attestext.RoleClient) != 80 {
		t.Error("alerts of no error and of another's")
	}
	for _, typ := range []uint8{11, 13, 15, 17, 20} {
		if strings.Contains(typeName(typ), "type") || maxMessage(typ) == 0 {
			t.Errorf("message %d has no name or no bound", typ)
		}
	}
}

func FuzzExchange(f *testing.F) {
	client, server := sessions(f, "c", crypto.SHA256)
	cc, sc := configs()
	r := must(client.RequestAttestation(cc))
	f.Add(r.Bytes(), true)
	f.Add(must(server.Attest(f.Context(), must(server.ReadRequest(r.Bytes())), sc)), false)
	f.Add(must(server.RequestAttestation(sc)).Bytes(), false)
	f.Add([]byte("HTTP/1.1 400\r\n"), false)
	f.Fuzz(func(t *testing.T, b []byte, atServer bool) {
		defer fuzzbound.Check(t, len(b))()
		client, server := sessions(t, "fuzz", crypto.SHA256)
		first := *cc
		first.ClientFirst = true
		s, c := client, &first
		if atServer {
			s, c = server, onlyAttests(sc)
		}
		conn := &reader{bytes.NewReader(b)}
		if peer, err := Exchange(t.Context(), conn, s, c); peer != nil || err == nil && !atServer {
			t.Errorf("%x is a peer: %v", b, err)
		}
	})
}

// reader is a connection to which one can write what one likes.
type reader struct{ *bytes.Reader }

func (r *reader) Write(b []byte) (int, error) { return len(b), nil }
func (r *reader) SetDeadline(time.Time) error { return nil }

func BenchmarkExchange(b *testing.B) {
	cc, sc := configs()
	for _, bb := range []struct {
		name string
		c, s *Config
	}{{"client asks", onlyAsks(cc), onlyAttests(sc)}, {"both ask", cc, sc}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				client, server := sessions(b, "c", crypto.SHA256)
				if _, _, cerr, serr := run(b, client, server, bb.c, bb.s); cerr != nil || serr != nil {
					b.Fatal(cerr, serr)
				}
			}
		})
	}
}
