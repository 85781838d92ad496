package tls

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// A talk is a peer that speaks the messages of exported authenticators as a script
// has it.
type talk struct {
	*Conn
	conf    *exportedauth.Config
	session *exportedauth.Session
	request []byte // the last that was read
}

func newTalk(t testing.TB, c *Conn) *talk {
	t.Helper()
	session, err := c.attestSession()
	if err != nil {
		t.Fatal(err)
	}
	return &talk{Conn: c, session: session, conf: c.attestAuthenticators(&attestExchange{c: c}, c.attestVerifyChainAgain)}
}

// read reads a request; Conn.in is held.
func (p *talk) read() (*exportedauth.Request, error) {
	b, err := p.attestReadMessage("script", p.attestRequestType())
	if err != nil {
		return nil, err
	}
	p.request = b
	return p.session.ReadRequest(b)
}

// honest reads a request and returns an honest answer.
func (p *talk) honest() ([]byte, error) {
	r, err := p.read()
	if err != nil {
		return nil, err
	}
	return p.session.Attest(context.Background(), r, p.conf)
}

func (p *talk) say(b []byte) error { return p.attestWrite(b) }

// split returns the messages of an authenticator.
func split(b []byte) (messages [][]byte) {
	for len(b) >= 4 {
		n := 4 + (int(b[1])<<16 | int(b[2])<<8 | int(b[3]))
		messages = append(messages, b[:n:n])
		b = b[n:]
	}
	return messages
}

// badAnswers are what a server may answer a request with, the honest answer first
// and last, so that a script that does nothing does not pass. The same holds in the
// exchange of the handshake and in a round of re-attestation.
var badAnswers = []struct {
	name  string
	class error
	alert alert
	say   func(p *talk) error
}{
	{"the honest one", nil, 0, func(p *talk) error {
		b, err := p.honest()
		if err != nil {
			return err
		}
		return p.say(b)
	}},
	{"Finished is altered", exportedauth.ErrDecrypt, alertDecryptError, func(p *talk) error {
		b, err := p.honest()
		if err != nil {
			return err
		}
		b[len(b)-1] ^= 1
		return p.say(b)
	}},
	{"CertificateVerify is altered", exportedauth.ErrDecrypt, alertDecryptError, func(p *talk) error {
		b, err := p.honest()
		if err != nil {
			return err
		}
		m := split(b)
		m[1][len(m[1])-1] ^= 1
		return p.say(bytes.Join(m, nil))
	}},
	{"of another connection", exportedauth.ErrDecrypt, alertDecryptError, func(p *talk) error {
		if _, err := p.read(); err != nil {
			return err
		}
		other, err := exportedauth.NewSession(attestext.RoleServer, cipherSuiteTLS13ByID(p.cipherSuite).hash, func(_ string, _ []byte, n int) ([]byte, error) {
			return make([]byte, n), nil
		})
		if err != nil {
			return err
		}
		r, err := other.ReadRequest(p.request)
		if err != nil {
			return err
		}
		b, err := other.Attest(context.Background(), r, p.conf)
		if err != nil {
			return err
		}
		return p.say(b)
	}},
	{"under the labels of the other role", exportedauth.ErrDecrypt, alertDecryptError, func(p *talk) error {
		if _, err := p.read(); err != nil {
			return err
		}
		swapped, err := exportedauth.NewSession(attestext.RoleServer, cipherSuiteTLS13ByID(p.cipherSuite).hash, func(label string, context []byte, n int) ([]byte, error) {
			return p.ekm(strings.NewReplacer("server", "client", "client", "server").Replace(label), context, n)
		})
		if err != nil {
			return err
		}
		r, err := swapped.ReadRequest(p.request)
		if err != nil {
			return err
		}
		b, err := swapped.Attest(context.Background(), r, p.conf)
		if err != nil {
			return err
		}
		return p.say(b)
	}},
	{"with nothing attested", exportedauth.ErrNoEvidence, alertHandshakeFailure, func(p *talk) error {
		r, err := p.read()
		if err != nil {
			return err
		}
		b, err := p.session.Authenticate(r, p.conf.Identities...)
		if err != nil {
			return err
		}
		return p.say(b)
	}},
	{"empty", exportedauth.ErrRefused, alertHandshakeFailure, func(p *talk) error {
		r, err := p.read()
		if err != nil {
			return err
		}
		b, err := p.session.Refuse(r)
		if err != nil {
			return err
		}
		return p.say(b)
	}},
	{"empty, and altered", exportedauth.ErrDecrypt, alertDecryptError, func(p *talk) error {
		r, err := p.read()
		if err != nil {
			return err
		}
		b, err := p.session.Refuse(r)
		if err != nil {
			return err
		}
		b[len(b)-1] ^= 1
		return p.say(b)
	}},
	{"CertificateVerify first", exportedauth.ErrUnexpectedMessage, alertUnexpectedMessage, func(p *talk) error {
		b, err := p.honest()
		if err != nil {
			return err
		}
		return p.say(split(b)[1])
	}},
	{"Certificate twice", exportedauth.ErrUnexpectedMessage, alertUnexpectedMessage, func(p *talk) error {
		b, err := p.honest()
		if err != nil {
			return err
		}
		return p.say(append(split(b)[0], b...))
	}},
	{"a message over the bound", exportedauth.ErrDecode, alertDecodeError, func(p *talk) error {
		if _, err := p.read(); err != nil {
			return err
		}
		n := exportedauth.MaxMessage(typeCertificate) - 4 + 1
		return p.say([]byte{typeCertificate, byte(n >> 16), byte(n >> 8), byte(n), 0})
	}},
	{"a request of the other role's type", exportedauth.ErrUnexpectedMessage, alertUnexpectedMessage, func(p *talk) error {
		if _, err := p.read(); err != nil {
			return err
		}
		return p.say([]byte{typeClientCertificateRequest, 0, 0, 0})
	}},
	{"a Certificate that is none", exportedauth.ErrDecode, alertDecodeError, func(p *talk) error {
		b, err := p.honest()
		if err != nil {
			return err
		}
		m := split(b)
		m[0] = []byte{typeCertificate, 0, 0, 1, 9}
		return p.say(bytes.Join(m, nil))
	}},
	{"half of it, and the end", exportedauth.ErrInterrupted, 0, func(p *talk) error {
		b, err := p.honest()
		if err != nil {
			return err
		}
		if err := p.say(split(b)[0]); err != nil {
			return err
		}
		return p.conn.Close()
	}},
	{"with tickets and KeyUpdate ahead of it", nil, 0, func(p *talk) error {
		b, err := p.honest()
		if err != nil {
			return err
		}
		if err := p.say([]byte{typeNewSessionTicket, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 7, 0, 0}); err != nil {
			return err
		}
		if err := p.say([]byte{typeKeyUpdate, 0, 0, 1, 0}); err != nil {
			return err
		}
		suite := cipherSuiteTLS13ByID(p.cipherSuite)
		p.out.Lock()
		p.setWriteTrafficSecret(suite, QUICEncryptionLevelInitial, suite.nextTrafficSecret(p.out.trafficSecret))
		p.out.Unlock()
		return p.say(b)
	}},
	{"the honest one again", nil, 0, func(p *talk) error {
		b, err := p.honest()
		if err != nil {
			return err
		}
		return p.say(b)
	}},
}

// TestBadAnswersAreRefused: what is wrong with an answer is refused with the alert of
// its class, in the handshake and in a round of re-attestation.
func TestBadAnswersAreRefused(t *testing.T) {
	check := func(t *testing.T, conn *Conn, err, class error, want alert) {
		t.Helper()
		if class == nil {
			if err != nil || !conn.ConnectionState().PeerAttestation.Valid() || !conn.ConnectionState().PeerAttestation.Binding().IsExpat() {
				t.Errorf("got %v, want none", err)
			}
			return
		}
		if !errors.Is(err, class) || !errors.As(err, new(*AttestationError)) {
			t.Errorf("got %v, want %v", err, class)
		}
		if a, ok := conn.AlertSent(); want != 0 && (!ok || alert(a) != want) {
			t.Errorf("alert %v, want %v", a, want)
		}
		if n, err := conn.Write([]byte("x")); n != 0 || err == nil {
			t.Errorf("Write: %d, %v", n, err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("Read: %d, %v", n, err)
		}
	}
	for _, tt := range badAnswers {
		t.Run(tt.name+", in the handshake", func(t *testing.T) {
			client, server := exchanging(PostHandshake)
			onlyServerAttests(client, server)
			client.ClientSessionCache = NewLRUClientSessionCache(1)
			cc, sc := localPipe(t)
			c, s := Client(cc, client), Server(sc, server)
			(&misbehavingPeer{after: func(conn *Conn) error { return tt.say(newTalk(t, conn)) }}).server(s)
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.Handshake()
				sc.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, sc)
			}()
			err := c.Handshake()
			check(t, c, err, tt.class, tt.alert)
			if strings.Contains(tt.name, "tickets") && c.ConnectionState().TicketsReceived != 1 {
				t.Errorf("%d tickets", c.ConnectionState().TicketsReceived)
			}
			if _, ok := client.ClientSessionCache.Get("server.example"); ok {
				t.Error("a ticket was kept")
			}
			cc.Close()
			<-done
			sc.Close()
		})
		t.Run(tt.name+", in a later round", func(t *testing.T) {
			client, server := reattesting()
			c, s := established(t, client, server)
			p := newTalk(t, s)
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.in.Lock()
				defer s.in.Unlock()
				if err := tt.say(p); err != nil {
					t.Error(err)
				}
			}()
			err := c.Reattest(t.Context())
			<-done
			check(t, c, err, tt.class, tt.alert)
		})
	}
}

// TestAnswersAreTakenInOrderOnly: an answer that was not asked for, or is that of the
// round before, is refused.
func TestAnswersAreTakenInOrderOnly(t *testing.T) {
	start := func() (c *Conn, p *talk) {
		client, server := reattesting()
		c, s := established(t, client, server)
		p = newTalk(t, s)
		p.in.Lock()
		return c, p
	}
	c, p := start()
	r, err := c.attest.live.session.RequestAttestation(c.attestAuthenticators(&attestExchange{c: c}, c.attestVerifyChainAgain))
	if err != nil {
		t.Fatal(err)
	}
	if r, err = p.session.ReadRequest(r.Bytes()); err != nil {
		t.Fatal(err)
	}
	b, err := p.session.Attest(t.Context(), r, p.conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.say(b); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, exportedauth.ErrUnexpectedMessage) {
		t.Errorf("unasked for: %v", err)
	}
	if a, ok := c.AlertSent(); !ok || alert(a) != alertUnexpectedMessage {
		t.Errorf("alert %v", a)
	}
	if c.attest.live.rounds.Load() != 0 {
		t.Error("it counted")
	}

	c, p = start()
	var first []byte
	go func() {
		first, _ = p.honest()
		p.say(first)
		p.read()
		p.say(first)
	}()
	if err := c.Reattest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Reattest(t.Context()); !errors.Is(err, exportedauth.ErrIllegalParameter) {
		t.Errorf("the answer of the round before: %v", err)
	}
	if a, ok := c.AlertSent(); !ok || alert(a) != alertIllegalParameter {
		t.Errorf("alert %v", a)
	}
}

// badRequests are what a client may ask a server that attests.
var badRequests = []struct {
	name      string
	handshake bool // what differs in the exchange of the handshake
	class     error
	alert     alert
	say       func(t testing.TB, p *talk) error
}{
	{"an honest one", true, nil, 0, func(t testing.TB, p *talk) error {
		return p.say(request(t, p))
	}},
	{"without signature_algorithms", true, exportedauth.ErrMissingExtension, alertMissingExtension, func(t testing.TB, p *talk) error {
		return p.say([]byte{typeClientCertificateRequest, 0, 0, 3, 0, 0, 0})
	}},
	{"a server's", true, exportedauth.ErrUnexpectedMessage, alertUnexpectedMessage, func(t testing.TB, p *talk) error {
		b := request(t, p)
		b[0] = typeCertificateRequest
		return p.say(b)
	}},
	{"over the bound", true, exportedauth.ErrDecode, alertDecodeError, func(t testing.TB, p *talk) error {
		n := exportedauth.MaxMessage(typeClientCertificateRequest) - 4 + 1
		return p.say([]byte{typeClientCertificateRequest, byte(n >> 16), byte(n >> 8), byte(n)})
	}},
	{"an authenticator in its place", true, exportedauth.ErrUnexpectedMessage, alertUnexpectedMessage, func(t testing.TB, p *talk) error {
		return p.say([]byte{typeCertificate, 0, 0, 0})
	}},
	{"application data in its place", true, exportedauth.ErrUnexpectedMessage, alertUnexpectedMessage, func(t testing.TB, p *talk) error {
		return second(leadingConn{p.Conn}.Write([]byte("GET /")))
	}},
	{"the same context again", false, exportedauth.ErrIllegalParameter, alertIllegalParameter, func(t testing.TB, p *talk) error {
		b := request(t, p)
		if err := p.say(b); err != nil {
			return err
		}
		if _, err := p.attestReadAuthenticator("script"); err != nil {
			return err
		}
		return p.say(b)
	}},
	{"two at once", false, exportedauth.ErrUnexpectedMessage, alertUnexpectedMessage, func(t testing.TB, p *talk) error {
		return p.say(append(request(t, p), request(t, p)...))
	}},
	{"an honest one again", true, nil, 0, func(t testing.TB, p *talk) error {
		return p.say(request(t, p))
	}},
}

func request(t testing.TB, p *talk) []byte {
	t.Helper()
	conf := *p.conf
	conf.Verifier, conf.Attester = &stubTEE{}, nil
	r, err := p.session.RequestAttestation(&conf)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(r.Bytes())
}

// TestBadRequestsAreRefused: what is wrong with a request is refused with the alert of
// its class, in the handshake and after it.
func TestBadRequestsAreRefused(t *testing.T) {
	for _, tt := range badRequests {
		if tt.handshake {
			t.Run(tt.name+", in the handshake", func(t *testing.T) {
				client, server := exchanging(PostHandshake)
				onlyServerAttests(client, server)
				cc, sc := localPipe(t)
				c, s := Client(cc, client), Server(sc, server)
				(&misbehavingPeer{after: func(conn *Conn) error { return tt.say(t, newTalk(t, conn)) }}).client(c)
				done := make(chan struct{})
				go func() {
					defer close(done)
					c.Handshake()
					cc.(*net.TCPConn).CloseWrite()
					io.Copy(io.Discard, cc)
				}()
				err := s.Handshake()
				if tt.class == nil && err != nil || tt.class != nil && (!errors.Is(err, tt.class) || !errors.As(err, new(*AttestationError))) {
					t.Errorf("got %v, want %v", err, tt.class)
				}
				if a, ok := s.AlertSent(); ok != (tt.alert != 0) || alert(a) != tt.alert {
					t.Errorf("alert %v, want %v", a, tt.alert)
				}
				sc.Close()
				<-done
				cc.Close()
			})
		}
		if strings.HasPrefix(tt.name, "application data") {
			continue // where it belongs
		}
		t.Run(tt.name+", after it", func(t *testing.T) {
			client, server := reattesting()
			begun := make(chan struct{}, 2)
			hold := make(chan struct{})
			server.Attestation.Attester = &stubTEE{attest: func(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
				if req.Challenge.Binding.IsExpat() {
					begun <- struct{}{}
					if tt.name == "two at once" {
						<-hold
					}
				}
				return (&stubTEE{}).honest(req.Challenge)
			}}
			c, s := established(t, client, server)
			p := newTalk(t, c)
			p.in.Lock()
			said := make(chan error, 1)
			go func() { said <- tt.say(t, p) }()
			read := make(chan error, 1)
			go func() { read <- second(s.Read(make([]byte, 1))) }()
			if err := <-said; err != nil {
				t.Fatal(err)
			}
			if tt.class == nil {
				<-begun
				s.Close()
			}
			err := <-read
			close(hold)
			if tt.class != nil && (!errors.Is(err, tt.class) || !errors.As(err, new(*AttestationError))) {
				t.Errorf("got %v, want %v", err, tt.class)
			}
			if a, ok := s.AlertSent(); tt.class != nil && (!ok || alert(a) != tt.alert) {
				t.Errorf("alert %v, want %v", a, tt.alert)
			}
		})
	}
}

// TestApplicationDataBeforeTheAuthenticatorIsRefused: in either carriage.
func TestApplicationDataBeforeTheAuthenticatorIsRefused(t *testing.T) {
	for _, carriage := range []AttestationCarriage{CarriageAuto, CarriageLeading} {
		client, server := exchanging(PostHandshake)
		onlyServerAttests(client, server)
		client.Attestation.Carriage = carriage
		cc, sc := localPipe(t)
		ends := &attestEnds{client: Client(cc, client), server: Server(sc, server)}
		(&misbehavingPeer{after: func(conn *Conn) error {
			return second(leadingConn{conn}.Write([]byte("220 ready")))
		}}).server(ends.server)
		ends.run(t, cc, sc)
		if a, ok := ends.client.AlertSent(); !ok || alert(a) != alertUnexpectedMessage || !errors.Is(ends.clientErr, exportedauth.ErrUnexpectedMessage) {
			t.Errorf("%v: %v, alert %v", carriage, ends.clientErr, a)
		}
	}
}
