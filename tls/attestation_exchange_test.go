package tls

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// exchanging returns a client and a server that attest to each other after the
// handshake, in the given mode.
func exchanging(mode AttestationMode) (client, server *Config) {
	client, server = attestConfigs()
	client.Attestation = &AttestationConfig{Mode: mode, Attester: &stubTEE{}, Verifier: &stubTEE{}}
	server.Attestation = &AttestationConfig{Mode: mode, Attester: &stubTEE{}, Verifier: &stubTEE{}}
	return client, server
}

// onlyServerAttests leaves the server's direction.
func onlyServerAttests(client, server *Config) {
	client.Attestation.Attester, server.Attestation.Verifier = nil, nil
	client.Certificates = nil
}

// onlyClientAttests leaves the client's direction.
func onlyClientAttests(client, server *Config) {
	client.Attestation.Verifier, server.Attestation.Attester = nil, nil
}

func bothAttest(client, server *Config) {}

var exchangeDirections = []struct {
	name           string
	configure      func(client, server *Config)
	client, server bool // which attest
}{
	{"the server attests", onlyServerAttests, false, true},
	{"the client attests", onlyClientAttests, true, false},
	{"both attest", bothAttest, true, true},
}

// exchangeCarriages are the settings of both ends that go together.
var exchangeCarriages = []exchangeCarriage{
	{CarriageAuto, CarriageAuto, true},
	{CarriagePostHandshake, CarriageAuto, true},
	{CarriageAuto, CarriagePostHandshake, true},
	{CarriageLeading, CarriageAuto, false},
	{CarriageAuto, CarriageLeading, false},
	{CarriageLeading, CarriageLeading, false},
}

type exchangeCarriage struct {
	client, server AttestationCarriage
	records        bool
}

// A triple is one of a product.
type triple[A, B, C any] struct {
	a A
	b B
	c C
}

func product3[A, B, C any](as []A, bs []B, cs []C) (all []triple[A, B, C]) {
	for _, a := range as {
		for _, b := range bs {
			for _, c := range cs {
				all = append(all, triple[A, B, C]{a, b, c})
			}
		}
	}
	return all
}

// TestExchangeIsPartOfTheHandshake: either end or both attest after the handshake, in
// either model; both ends agree on what was attested, and all of it is bound to the
// exporter.
//
// Hooks: client-exchange, server-exchange, exchange-records.
func TestExchangeIsPartOfTheHandshake(t *testing.T) {
	for _, tt := range product3([]AttestationMode{PostHandshake, Combined}, exchangeCarriages, []attestext.Model{attestext.BackgroundCheck, attestext.Passport}) {
		mode, carriages, model := tt.a, tt.b, tt.c
		for _, d := range exchangeDirections {
			{
				t.Run(fmt.Sprintf("%v, %v, %s, %v", mode, carriages, d.name, model), func(t *testing.T) {
					client, server := exchanging(mode)
					d.configure(client, server)
					client.Attestation.Carriage, server.Attestation.Carriage = carriages.client, carriages.server
					if model == attestext.Passport {
						for _, a := range []*AttestationConfig{client.Attestation, server.Attestation} {
							if a.Attester != nil {
								a.Attester, a.Results = nil, &stubResults{}
							}
							if a.Verifier != nil {
								a.Verifier, a.ResultsVerifier = nil, &stubResults{}
							}
						}
					}
					ends := attestHandshake(t, client, server)
					if ends.clientErr != nil || ends.serverErr != nil {
						t.Fatalf("client: %v, server: %v", ends.clientErr, ends.serverErr)
					}
					if ends.client.attest.records != carriages.records || ends.server.attest.records != carriages.records {
						t.Errorf("in handshake records: client %v, server %v", ends.client.attest.records, ends.server.attest.records)
					}
					checkExchange(t, ends.server, ends.client, d.server, mode, model)
					checkExchange(t, ends.client, ends.server, d.client, mode, model)
				})
			}
		}
	}
}

// errDown is a TEE or a service that is not there.
var errDown = errors.New("down")

// checkExchange checks what the ends say of one direction of an exchange.
func checkExchange(t *testing.T, attester, relies *Conn, attests bool, mode AttestationMode, model attestext.Model) {
	t.Helper()
	local, state := attester.ConnectionState().LocalAttestation, relies.ConnectionState()
	result := state.PeerAttestation
	if !attests {
		if local != nil || result != nil || state.PeerHandshakeAttestation != nil {
			t.Errorf("attested, and was not to: %+v, %+v", local, result)
		}
		return
	}
	if local == nil || !result.Valid() || state.RequestedAttestation == nil {
		t.Fatalf("not attested: %+v, %+v", local, result)
	}
	ch := result.Challenge()
	if !ch.Binding.IsExpat() || !local.Challenge.Binding.IsExpat() || result.Model() != model || ch.Role != attester.attestRole(true) {
		t.Errorf("attested as %+v", ch)
	}
	if !bytes.Equal(ch.Nonce, local.Challenge.Nonce) || !bytes.Equal(ch.Binder, local.Challenge.Binder) {
		t.Errorf("the ends disagree: %+v, %+v", ch, local.Challenge)
	}
	spki := state.PeerCertificates[0].RawSubjectPublicKeyInfo
	if !bytes.Equal(ch.SPKI, spki) {
		t.Error("the challenge is over another key than the certificate's")
	}
	if (state.PeerHandshakeAttestation != nil) != (mode == Combined) {
		t.Errorf("result of the handshake: %+v", state.PeerHandshakeAttestation)
	}
	if mode == Combined && state.PeerHandshakeAttestation.Binding() != attestext.BindingHardened {
		t.Errorf("the handshake was bound by %v", state.PeerHandshakeAttestation.Binding())
	}
}

// TestExchangeRefuses: what is wrong with the peer's authenticator ends the handshake
// at the end that finds it, with the alert of its class and before a byte of
// application data.
func TestExchangeRefuses(t *testing.T) {
	for _, mode := range []AttestationMode{PostHandshake, Combined} {
		for name, tt := range map[string]struct {
			bad   func(client, server *Config)
			class error
			stage string
			alert alert
		}{
			"the binding is another": {func(client, server *Config) {
				server.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
					ch := *req.Challenge
					if ch.Binding.IsExpat() {
						ch.Binder = bytes.Repeat([]byte{1}, len(ch.Binder))
					}
					return (&stubTEE{}).honest(&ch)
				}}
			}, attestext.ErrBinding, AttestationStageAppraise, alertBadCertificate},
			"the policy says no": {func(client, server *Config) {
				client.Attestation.Verifier = &stubTEE{appraise: func(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
					if ch.Binding.IsExpat() {
						return nil, attestext.Errorf(attestext.ErrPolicy, "test", "no")
					}
					return (&stubTEE{}).Appraise(ctx, ev, ch)
				}}
			}, attestext.ErrPolicy, AttestationStageAppraise, alertAccessDenied},
			"the verifier fails": {func(client, server *Config) {
				client.Attestation.Verifier = &stubTEE{appraise: func(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
					if ch.Binding.IsExpat() {
						return nil, errDown
					}
					return (&stubTEE{}).Appraise(ctx, ev, ch)
				}}
			}, errDown, AttestationStageAppraise, alertInternalError},
			"the peer's attester fails": {func(client, server *Config) {
				server.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
					if req.Challenge.Binding.IsExpat() {
						return nil, errDown
					}
					return (&stubTEE{}).honest(req.Challenge)
				}}
			}, exportedauth.ErrRefused, AttestationStageCertificate, alertHandshakeFailure},
		} {
			t.Run(mode.String()+", "+name, func(t *testing.T) {
				client, server := exchanging(mode)
				onlyServerAttests(client, server)
				tt.bad(client, server)
				ends := attestHandshake(t, client, server)
				ae, ok := errors.AsType[*AttestationError](ends.clientErr)
				if !ok || !errors.Is(ends.clientErr, tt.class) || ae.Stage != tt.stage || alert(ae.Alert) != tt.alert {
					t.Errorf("got %v, alert %v, at stage %v", ends.clientErr, ae.Alert, ae.Stage)
				}
				if ends.client.ConnectionState().PeerAttestation != nil {
					t.Error("there is a result")
				}
				if n, err := ends.client.Write([]byte("x")); n != 0 || err == nil {
					t.Errorf("Write: %d, %v", n, err)
				}
				if n, err := ends.client.Read(make([]byte, 1)); n != 0 || err == nil {
					t.Errorf("Read: %d, %v", n, err)
				}
				if err := ends.client.CloseWrite(); err == nil {
					t.Error("CloseWrite")
				}
			})
		}
	}
}

// TestModeMistakesAreErrors: settings that contradict the mode are errors, and say
// which.
func TestModeMistakesAreErrors(t *testing.T) {
	for _, tt := range []struct {
		want   string
		change func(a *AttestationConfig)
	}{
		{"unknown AttestationMode(9)", func(a *AttestationConfig) { a.Mode = 9 }},
		{"unknown AttestationCarriage(9)", func(a *AttestationConfig) { a.Carriage = 9 }},
		{"ClientFirst in Mode combined", func(a *AttestationConfig) { a.Mode, a.ClientFirst = Combined, true }},
		{"ClientFirst in Mode tls-attest", func(a *AttestationConfig) { a.Mode, a.ClientFirst = InHandshake, true }},
		{"ResultsOnly without Results", func(a *AttestationConfig) { a.ResultsOnly = true }},
		{"which is over when", func(a *AttestationConfig) { a.ReattestInterval, a.Carriage = 1, CarriageLeading }},
		{"does not ask", func(a *AttestationConfig) { a.ReattestInterval, a.Verifier = 1, nil }},
		{"negative ReattestInterval", func(a *AttestationConfig) { a.ReattestInterval = -1 }},
		{"re-attestation with attestation-only", func(a *AttestationConfig) {
			a.Mode, a.Carriage, a.Credentials, a.AllowAttestationOnly = InHandshake, CarriagePostHandshake, onlyKind, true
		}},
		{"Mode tls-attest has none", func(a *AttestationConfig) { a.Mode, a.Carriage = InHandshake, CarriageLeading }},
		{"neither attests nor asks", func(a *AttestationConfig) { a.Attester, a.Verifier = nil, nil }},
		{"both Attester and Results", func(a *AttestationConfig) { a.Results = &stubResults{} }},
		{"both Verifier and ResultsVerifier", func(a *AttestationConfig) { a.ResultsVerifier = &stubResults{} }},
		{"has a certificate", func(a *AttestationConfig) { a.Credentials, a.AllowAttestationOnly = onlyKind, true }},
		{"has a certificate", func(a *AttestationConfig) { a.PeerCredentials, a.AllowAttestationOnly = onlyKind, true }},
		{"covers the certificate's key", func(a *AttestationConfig) { a.AttestedKey = newTestKey() }},
		{"covers the certificate's key", func(a *AttestationConfig) { a.PeerAttestedKey = true }},
		{"nothing tells a peer", func(a *AttestationConfig) { a.Peer, a.Carriage = RequestAttestation, CarriageLeading }},
		{"leave them zero", func(a *AttestationConfig) { a.Binding = attestext.BindingDraft08 }},
		{"leave them zero", func(a *AttestationConfig) { a.PeerBinding = attestext.BindingDraft08 }},
		{"32 bytes", func(a *AttestationConfig) { a.NonceSize = 64 }},
	} {
		client, server := exchanging(PostHandshake)
		tt.change(client.Attestation)
		c, s := net.Pipe()
		if err := Client(c, client).Handshake(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("client: got %v, want %q", err, tt.want)
		}
		c.Close()
		s.Close()
		client, server = exchanging(PostHandshake)
		tt.change(server.Attestation)
		ends := attestHandshake(t, client, server)
		if err := ends.serverErr; err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("server: got %v, want %q", err, tt.want)
		}
	}
}

// TestVerifyConnectionIsHeldForTheExchange: it is called once, after the exchange, and
// sees the verdict.
//
// Hooks: server-verify-connection-alone.
func TestVerifyConnectionIsHeldForTheExchange(t *testing.T) {
	for _, mode := range []AttestationMode{PostHandshake, Combined} {
		for _, auth := range []ClientAuthType{NoClientCert, RequireAndVerifyClientCert} {
			client, server := exchanging(mode)
			server.ClientAuth = auth
			var calls [2]int
			see := func(who int) func(ConnectionState) error {
				return func(cs ConnectionState) error {
					calls[who]++
					if !cs.PeerAttestation.Valid() || !cs.PeerAttestation.Binding().IsExpat() || len(cs.PeerCertificates) != 1 {
						t.Errorf("%v, %v: end %d sees %+v", mode, auth, who, cs.AttestationState)
					}
					return nil
				}
			}
			client.VerifyConnection, server.VerifyConnection = see(0), see(1)
			ends := attestHandshake(t, client, server)
			if ends.clientErr != nil || ends.serverErr != nil || calls != [2]int{1, 1} {
				t.Errorf("%v, %v: client: %v, server: %v, calls %v", mode, auth, ends.clientErr, ends.serverErr, calls)
			}
			client.VerifyConnection = func(ConnectionState) error { return errors.New("not this one") }
			if ends = attestHandshake(t, client, server); ends.clientErr == nil || !strings.Contains(ends.clientErr.Error(), "not this one") {
				t.Errorf("%v, %v: %v", mode, auth, ends.clientErr)
			}
		}
	}
}

// TestExchangeHoldsThePeerToItsCertificate: an exchange authenticates with the
// certificate of the handshake and no other, and a client whose certificate comes in
// the exchange is held to ClientCAs.
func TestExchangeHoldsThePeerToItsCertificate(t *testing.T) {
	client, server := exchanging(PostHandshake)
	server.ClientCAs = attestPKI().roots.Clone()
	ends := attestHandshake(t, client, server)
	if ends.serverErr != nil || len(ends.server.ConnectionState().VerifiedChains) != 1 {
		t.Fatalf("%v, %d chains", ends.serverErr, len(ends.server.ConnectionState().VerifiedChains))
	}
	client, server = exchanging(PostHandshake)
	server.Certificates, client.Certificates = []Certificate{attestPKI().server}, []Certificate{attestPKI().server}
	onlyClientAttests(client, server)
	ends = attestHandshake(t, client, server)
	if !errors.Is(ends.serverErr, exportedauth.ErrReflected) {
		t.Errorf("a client with the server's key: %v", ends.serverErr)
	}
	client, server = exchanging(PostHandshake)
	client.Certificates = []Certificate{selfSigned(t)}
	ends = attestHandshake(t, client, server)
	if !errors.Is(ends.serverErr, exportedauth.ErrBadCertificate) {
		t.Errorf("a client of another CA: %v", ends.serverErr)
	}
	if _, ok := ends.client.AlertReceived(); !ok && ends.clientErr == nil {
		t.Errorf("the client learned nothing: %v", ends.clientErr)
	}
	// Another certificate in the exchange than in the handshake.
	client, server = exchanging(PostHandshake)
	server.ClientAuth = RequireAndVerifyClientCert
	onlyClientAttests(client, server)
	calls := 0
	client.Certificates = nil
	client.GetClientCertificate = func(*CertificateRequestInfo) (*Certificate, error) {
		calls++
		return new(attestPKI().client), nil
	}
	if ends = attestHandshake(t, client, server); ends.serverErr != nil || calls != 1 {
		t.Errorf("%v; GetClientCertificate was called %d times", ends.serverErr, calls)
	}
	client, server = exchanging(PostHandshake)
	onlyServerAttests(client, server)
	servers := attestHandshake(t, client, server).client.peerCertificates
	for _, tt := range []struct {
		handshake, exchange []*x509.Certificate
		ok                  bool
	}{{servers, servers, true}, {servers, ends.server.peerCertificates, false}} {
		c := &Conn{isClient: true, config: client, peerCertificates: tt.handshake}
		if err := c.attestVerifyChain(tt.exchange); (err == nil) != tt.ok {
			t.Errorf("a certificate that is that of the handshake: %v; got %v", tt.ok, err)
		}
	}
}

// TestExchangeEndsInTime: a peer that says nothing after the handshake is left in time.
func TestExchangeEndsInTime(t *testing.T) {
	client, server := exchanging(PostHandshake)
	onlyServerAttests(client, server)
	client.Attestation.Carriage = CarriageLeading
	client.Attestation.AttestTimeout = time.Nanosecond
	client.Attestation.VerifyTimeout = time.Nanosecond
	server.Attestation = nil
	for name, early := range map[string]func() (context.Context, context.CancelFunc){
		"the context": func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), 50*time.Millisecond)
		},
		"Close": func() (context.Context, context.CancelFunc) {
			return context.WithCancel(context.Background())
		},
	} {
		c, s := localPipe(t)
		sc := Server(s, server)
		shaken := make(chan struct{})
		go func() {
			defer close(shaken)
			sc.Handshake()
		}()
		conn := Client(c, client)
		ctx, cancel := early()
		ended := make(chan error, 1)
		go func() { ended <- conn.HandshakeContext(ctx) }()
		<-shaken
		if name == "Close" {
			conn.Close()
		}
		if err := <-ended; err == nil {
			t.Errorf("%s: no error", name)
		}
		cancel()
		hangUp(c)
		s.Close()
	}
}

// TestExchangeWithASilentPeerEndsBeforeTheContext: within the context of the handshake
// there is an alert for a peer that says nothing, in either carriage, and an error that
// says what was missing.
func TestExchangeWithASilentPeerEndsBeforeTheContext(t *testing.T) {
	for _, carriage := range []AttestationCarriage{CarriageLeading, CarriagePostHandshake} {
		t.Run(carriage.String(), func(t *testing.T) {
			t.Parallel()
			client, server := exchanging(PostHandshake)
			onlyServerAttests(client, server)
			client.Attestation.Carriage = carriage
			cc, sc := localPipe(t)
			c, s := Client(cc, client), Server(sc, server)
			(&misbehavingPeer{}).server(s)
			received := make(chan AlertError, 1)
			go func() {
				s.Handshake()
				for { // and nobody answers
					if err := s.readRecord(); err != nil {
						break
					}
					s.input.Reset(nil)
					s.hand.Reset()
				}
				a, _ := s.AlertReceived()
				received <- a
				sc.Close()
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			err := c.HandshakeContext(ctx)
			hangUp(cc)
			if !errors.As(err, new(*AttestationError)) || !errors.Is(err, exportedauth.ErrInterrupted) || !strings.Contains(err.Error(), "in this carriage?") {
				t.Errorf("%v", err)
			}
			if a := <-received; alert(a) != alertInternalError {
				t.Errorf("the peer received %v", a)
			}
		})
	}
}

// TestExchangeFindsOutAPeerThatDoesNotSpeakIt: the first byte of a peer that speaks
// something else ends the handshake.
func TestExchangeFindsOutAPeerThatDoesNotSpeakIt(t *testing.T) {
	client, server := exchanging(PostHandshake)
	onlyServerAttests(client, server)
	server.Attestation = nil
	c, s := localPipe(t)
	go func() {
		sc := Server(s, server)
		io.WriteString(sc, "220 mail.example ready\r\n")
		hangUp(s)
	}()
	conn := Client(c, client)
	err := conn.Handshake()
	hangUp(c)
	if !errors.Is(err, exportedauth.ErrUnexpectedMessage) {
		t.Errorf("%v", err)
	}
	if a, ok := conn.AlertSent(); !ok || alert(a) != alertUnexpectedMessage {
		t.Errorf("alert %v, %v", a, ok)
	}
}

// TestExchangeUnderHTTP: net/http moves no byte before the exchange, and needs no
// more than the Config.
func TestExchangeUnderHTTP(t *testing.T) {
	client, server := exchanging(PostHandshake)
	ln, err := Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })}
	go srv.Serve(ln)
	defer srv.Close()
	get := func(conf *Config) (string, error) {
		tr := &http.Transport{DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return (&Dialer{Config: conf}).DialContext(ctx, network, addr)
		}}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get("https://" + ln.Addr().String())
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	if got, err := get(client); err != nil || got != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	bad, _ := exchanging(PostHandshake)
	bad.Attestation.Verifier = &stubTEE{appraise: func(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
		return nil, attestext.Errorf(attestext.ErrPolicy, "test", "no")
	}}
	if got, err := get(bad); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestExchangeNeedsTLS13AndSendsNoTicket(t *testing.T) {
	client, server := exchanging(PostHandshake)
	onlyServerAttests(client, server)
	client.ClientSessionCache = NewLRUClientSessionCache(1)
	for range 2 {
		ends := attestHandshake(t, client, server)
		cs := ends.client.ConnectionState()
		if ends.clientErr != nil || cs.DidResume || cs.TicketsReceived != 0 || cs.Version != VersionTLS13 {
			t.Errorf("%v: %+v", ends.clientErr, cs)
		}
	}
	for _, c := range []*Config{client, server} {
		old := c.Clone()
		old.MaxVersion = VersionTLS12
		pair := [2]*Config{client, server}
		if c == client {
			pair[0] = old
		} else {
			pair[1] = old
		}
		if ends := attestHandshake(t, pair[0], pair[1]); ends.clientErr == nil {
			t.Error("a handshake of TLS 1.2")
		}
	}
}

// TestQUICHasNoExchange: a QUICConn has no mode after the handshake, and says what has.
func TestQUICHasNoExchange(t *testing.T) {
	client, server := exchanging(PostHandshake)
	if _, _, err := attestQUIC(t, client, server); err == nil || !strings.Contains(err.Error(), "exportedauth.Exchange") {
		t.Errorf("%v", err)
	}
	for _, a := range []*AttestationConfig{{Verifier: &stubTEE{}, ReattestInterval: time.Hour}, {Carriage: CarriagePostHandshake}} {
		client, server := attesting()
		client.Attestation = a
		if _, _, err := attestQUIC(t, client, server); err == nil || !strings.Contains(err.Error(), "RFC 9001") {
			t.Errorf("%v", err)
		}
	}
	// A client that offers it all the same is not answered.
	client, server = attesting()
	client.MinVersion, server.MinVersion = VersionTLS13, VersionTLS13
	cli, srv := newTestQUICClient(t, &QUICConfig{TLSConfig: client}), newTestQUICServer(t, &QUICConfig{TLSConfig: server})
	(&misbehavingPeer{clientHello: func(l []attestExtension) []attestExtension {
		return append(l, attestExtension{testCodePoints.AuthenticatorCarriage, nil})
	}}).client(cli.conn.conn)
	cli.conn.SetTransportParameters(nil)
	srv.conn.SetTransportParameters(nil)
	if err := runTestQUICConnection(context.Background(), cli, srv, nil); err != nil || srv.conn.conn.attest.records {
		t.Errorf("%v, carriage agreed to: %v", err, srv.conn.conn.attest.records)
	}
	_, server = exchanging(Combined)
	client.Attestation = nil
	if _, _, err := attestQUIC(t, client, server); err == nil || !strings.Contains(err.Error(), "exportedauth.Exchange") {
		t.Errorf("%v", err)
	}
}

// selfSigned returns a certificate that no CA of the tests has made.
func selfSigned(t *testing.T) Certificate {
	t.Helper()
	return selfSignedBy(t, newTestKey())
}

func selfSignedBy(t *testing.T, key crypto.Signer) Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<33, 0), DNSNames: []string{"other.example"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestExchangeOfLargeEvidence: Evidence of many records travels in either carriage and
// in a later round, and what does not fit is an error at the end that made it.
func TestExchangeOfLargeEvidence(t *testing.T) {
	for _, carriage := range []AttestationCarriage{CarriageLeading, CarriagePostHandshake} {
		client, server := exchanging(PostHandshake)
		onlyServerAttests(client, server)
		client.Attestation.Carriage = carriage
		size := 65000
		server.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
			if size > 1<<16 {
				return make([]byte, size), nil
			}
			return (&stubTEE{padding: size}).honest(req.Challenge)
		}}
		c, s := established(t, client, server)
		if got := len(c.ConnectionState().PeerAttestation.Evidence().CMW); got < size {
			t.Errorf("%v: %d bytes", carriage, got)
		}
		if carriage == CarriagePostHandshake {
			echo(s)
			if err := c.Reattest(t.Context()); err != nil {
				t.Error(err)
			}
		}
		size = 1<<16 + 1
		ends := attestHandshake(t, client, server)
		if !errors.Is(ends.serverErr, exportedauth.ErrUsage) || !strings.Contains(ends.serverErr.Error(), "has room for") || !errors.Is(ends.clientErr, exportedauth.ErrRefused) {
			t.Errorf("%v: client: %v, server: %v", carriage, ends.clientErr, ends.serverErr)
		}
	}
}

// TestExchangeAsksForACertificateThatTheHandshakeDidNot: once, and whatever it says
// comes out.
func TestExchangeAsksForACertificateThatTheHandshakeDidNot(t *testing.T) {
	failed := errors.New("the token is not plugged in")
	for _, tt := range []struct {
		name string
		cert *Certificate
		err  error
		want error // of the client
	}{
		{"one", new(attestPKI().client), nil, nil},
		{"none", new(Certificate), nil, exportedauth.ErrUsage},
		{"an error", nil, failed, failed},
	} {
		client, server := exchanging(PostHandshake)
		onlyClientAttests(client, server)
		server.ClientAuth = NoClientCert
		calls := 0
		client.GetClientCertificate = func(r *CertificateRequestInfo) (*Certificate, error) {
			calls++
			if r.Context() == context.Background() || r.Version != VersionTLS13 {
				t.Errorf("%s: request %+v", tt.name, r)
			}
			return tt.cert, tt.err
		}
		ends := attestHandshake(t, client, server)
		if !errors.Is(ends.clientErr, tt.want) || (ends.serverErr == nil) != (tt.want == nil) || calls != 1 {
			t.Errorf("%s: client: %v, server: %v, %d calls", tt.name, ends.clientErr, ends.serverErr, calls)
		}
		if e, ok := errors.AsType[*AttestationError](ends.clientErr); tt.want != nil && (!ok || e.Stage != AttestationStageAttest) {
			t.Errorf("%s: client: %#v", tt.name, ends.clientErr)
		}
	}
}

// TestExchangeUsesTheCertificateOfTheHandshake: an exchange authenticates with what the handshake chose, by
// whatever callback.
func TestExchangeUsesTheCertificateOfTheHandshake(t *testing.T) {
	client, server := exchanging(PostHandshake)
	server.ClientAuth = RequireAndVerifyClientCert
	calls := [2]int{}
	own := [2]Certificate{client.Certificates[0], server.Certificates[0]}
	client.Certificates, server.Certificates = nil, nil
	client.GetClientCertificate = func(*CertificateRequestInfo) (*Certificate, error) { calls[0]++; return &own[0], nil }
	server.GetCertificate = func(*ClientHelloInfo) (*Certificate, error) { calls[1]++; return &own[1], nil }
	ends := attestHandshake(t, client, server)
	if ends.clientErr != nil || ends.serverErr != nil || calls != [2]int{1, 1} {
		t.Errorf("client: %v, server: %v, calls %v", ends.clientErr, ends.serverErr, calls)
	}
}
