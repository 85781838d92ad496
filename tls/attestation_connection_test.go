package tls

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"golang.org/x/crypto/cryptobyte"
)

// attesting returns a client and a server of which the server attests.
func attesting() (client, server *Config) {
	client, server = attestConfigs()
	client.Attestation = &AttestationConfig{Verifier: &stubTEE{}}
	server.Attestation = &AttestationConfig{Attester: &stubTEE{}}
	return client, server
}

func (ends *attestEnds) mustSucceed(t *testing.T) {
	t.Helper()
	if ends.clientErr != nil || ends.serverErr != nil {
		t.Fatalf("client: %v; server: %v", ends.clientErr, ends.serverErr)
	}
}

// TestClientAttests, in both kinds of credential and under both rules.
//
// Hooks: client-evidence, client-key, server-request, server-certificate, server-appraise, server-verify-algorithm, server-verify-key.
func TestClientAttests(t *testing.T) {
	for _, kinds := range [][]attestext.CredentialKind{nil, onlyKind} {
		for _, binding := range []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08} {
			client, server := attestConfigs()
			if kinds != nil {
				client.Certificates = nil
			}
			client.Attestation = &AttestationConfig{Attester: &stubTEE{}, Credentials: kinds, Binding: binding, AllowAttestationOnly: kinds != nil}
			server.Attestation = &AttestationConfig{Verifier: &stubTEE{}, PeerCredentials: kinds, PeerBinding: binding, AllowAttestationOnly: kinds != nil}
			ends := attestHandshake(t, client, server)
			ends.mustSucceed(t)
			r, l := ends.server.ConnectionState().PeerAttestation, ends.client.ConnectionState().LocalAttestation
			if !r.Valid() || l == nil || r.Challenge().Role != attestext.RoleClient || !bytes.Equal(r.Challenge().Nonce, l.Challenge.Nonce) {
				t.Errorf("%v, %v: %+v, %+v", kinds, binding, r, l)
			}
			if !bytes.Equal(r.Key(), l.Challenge.SPKI) {
				t.Errorf("%v, %v: another key", kinds, binding)
			}
			if n := len(ends.server.ConnectionState().VerifiedChains); (n == 0) != (kinds != nil) {
				t.Errorf("%v: %d verified chains of the client", kinds, n)
			}
		}
	}
}

func TestBothEndsAttest(t *testing.T) {
	client, server := attesting()
	client.Attestation.Attester, server.Attestation.Verifier = &stubTEE{}, &stubTEE{}
	// The directions are independent.
	client.Attestation.Binding, server.Attestation.PeerBinding = attestext.BindingDraft08, attestext.BindingDraft08
	ends := attestHandshake(t, client, server)
	ends.mustSucceed(t)
	c, s := ends.client.ConnectionState(), ends.server.ConnectionState()
	if !c.PeerAttestation.Valid() || !s.PeerAttestation.Valid() || c.LocalAttestation == nil || s.LocalAttestation == nil {
		t.Fatalf("client %+v, server %+v", c.AttestationState, s.AttestationState)
	}
	if c.PeerAttestation.Binding() != attestext.BindingHardened || s.PeerAttestation.Binding() != attestext.BindingDraft08 {
		t.Error("the directions share a binding rule")
	}
	if bytes.Equal(c.PeerAttestation.Challenge().Binder, s.PeerAttestation.Challenge().Binder) {
		t.Error("the directions share a binder")
	}
}

// TestPassport: a side presents a result instead of Evidence; there is no nonce and
// no binder, and either side may do so while the other sends Evidence.
func TestPassport(t *testing.T) {
	const server, client = 1, 2 // who presents results
	for _, who := range []int{server, client, server | client} {
		for _, kinds := range [][]attestext.CredentialKind{nil, onlyKind} {
			c, s := attesting()
			c.Attestation.Attester, s.Attestation.Verifier = &stubTEE{}, &stubTEE{}
			for _, a := range []*AttestationConfig{c.Attestation, s.Attestation} {
				a.Credentials, a.PeerCredentials, a.AllowAttestationOnly = kinds, kinds, kinds != nil
			}
			if who&server != 0 {
				passports(c, s)
			}
			if who&client != 0 {
				passports(s, c)
			}
			ends := attestHandshake(t, c, s)
			ends.mustSucceed(t)
			for _, x := range []struct {
				side   int
				relies *Conn
			}{{server, ends.client}, {client, ends.server}} {
				r := x.relies.ConnectionState().PeerAttestation
				want := attestext.BackgroundCheck
				if who&x.side != 0 {
					want = attestext.Passport
				}
				if !r.Valid() || r.Model() != want {
					t.Errorf("results of %d, %v: %+v", who, kinds, r)
				}
				if ch := r.Challenge(); (want == attestext.Passport) != (ch.Nonce == nil && ch.Binder == nil) {
					t.Errorf("%v with the challenge %+v", want, ch)
				}
				if v := r.Evidence().Verifier; (want == attestext.Passport) != (v == "verifier.example") {
					t.Errorf("%v by verifier %q", want, v)
				}
			}
		}
	}
}

// Where a client offers both models in one direction, the server prefers evidence
// unless its Config says otherwise, and falls back on the other.
func TestServerChoosesTheModel(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(server *AttestationConfig)
		want   attestext.Model
	}{
		{"both", func(*AttestationConfig) {}, attestext.BackgroundCheck},
		{"both, results preferred", func(a *AttestationConfig) { a.PreferResults = true }, attestext.Passport},
		{"no type in common", func(a *AttestationConfig) { a.Attester = &stubTEE{formats: []attestext.EvidenceFormat{otherFormat}} }, attestext.Passport},
		{"no verifier in common", func(a *AttestationConfig) {
			a.PreferResults, a.Results = true, &stubResults{verifiers: []attestext.VerifierIdentity{"w"}}
		}, attestext.BackgroundCheck},
	} {
		client, server := attesting()
		client.Attestation.ResultsVerifier, server.Attestation.Results = &stubResults{}, &stubResults{}
		tt.change(server.Attestation)
		ends := attestHandshake(t, client, server)
		ends.mustSucceed(t)
		if got := ends.client.ConnectionState().PeerAttestation.Model(); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Under the draft's rule a result is not tied to the certificate: whoever holds the
// result passes. Under the hardened rule the same is refused.
func TestDraft08PassportDoesNotBindTheKey(t *testing.T) {
	client, server := attesting()
	passports(client, server)
	server.Attestation.Results = &stubResults{key: []byte{}}
	client.Attestation.PeerBinding, server.Attestation.Binding = attestext.BindingDraft08, attestext.BindingDraft08
	attestHandshake(t, client, server).mustSucceed(t)
	client.Attestation.PeerBinding = attestext.BindingHardened
	if ends := attestHandshake(t, client, server); !errors.Is(ends.clientErr, attestext.ErrBinding) {
		t.Errorf("hardened: %v", ends.clientErr)
	}
}

// A server that only requests attestation serves a client that has none to offer,
// or none that it reads.
func TestServerRequestsAndAcceptsNone(t *testing.T) {
	for _, attester := range []attestext.Attester{nil, &stubTEE{formats: []attestext.EvidenceFormat{otherFormat}}} {
		client, server := attestConfigs()
		if attester != nil {
			client.Attestation = &AttestationConfig{Attester: attester}
		}
		server.Attestation = &AttestationConfig{Verifier: &stubTEE{}, Peer: RequestAttestation}
		ends := attestHandshake(t, client, server)
		ends.mustSucceed(t)
		if ends.server.ConnectionState().PeerAttestation.Valid() {
			t.Error("there is a result")
		}
	}
}

func TestClientRequestsAndAcceptsNone(t *testing.T) {
	client, server := attesting()
	client.Attestation.Peer, server.Attestation = RequestAttestation, nil
	ends := attestHandshake(t, client, server)
	ends.mustSucceed(t)
	if ends.client.ConnectionState().PeerAttestation.Valid() {
		t.Error("there is a result")
	}
}

// A server prefers among the types that both ends know by its own order, and
// answers with the client's own spelling.
func TestServerSelectsByItsPreference(t *testing.T) {
	spelled := attestext.EvidenceFormat{MediaType: "Application/X-STUB"}
	client, server := attesting()
	client.Attestation.Verifier = &stubTEE{formats: []attestext.EvidenceFormat{otherFormat, spelled}}
	server.Attestation.Attester = &stubTEE{formats: []attestext.EvidenceFormat{stubFormat, otherFormat}}
	ends := attestHandshake(t, client, server)
	ends.mustSucceed(t)
	if got := ends.client.ConnectionState().PeerAttestation.Evidence().Type.Format; got != spelled {
		t.Errorf("client sees %v", got)
	}
	if got := ends.server.ConnectionState().LocalAttestation.Type.Format; got != stubFormat {
		t.Errorf("server's attester makes %v", got)
	}
}

// A bare wrapper's type asks for anything.
func TestWrapperTypeMatchesAny(t *testing.T) {
	client, server := attesting()
	client.Attestation.Verifier = &stubTEE{formats: []attestext.EvidenceFormat{{ContentFormat: attestext.ContentFormatCMWCBOR}}}
	ends := attestHandshake(t, client, server)
	ends.mustSucceed(t)
	if got := ends.server.ConnectionState().LocalAttestation.Type.Format; got != stubFormat {
		t.Errorf("server's attester makes %v", got)
	}
	if n := len(ends.client.ConnectionState().PeerAttestation.Challenge().Nonce); n != 64 {
		t.Errorf("nonce of %d bytes, where a raw report may come", n)
	}
}

// TestAttestationAcrossHelloRetryRequest: the binder covers it on both ends.
//
// Hooks: client-exporter, server-exporter, server-hello-retry.
func TestAttestationAcrossHelloRetryRequest(t *testing.T) {
	client, server := attesting()
	client.Attestation.Attester, server.Attestation.Verifier = &stubTEE{}, &stubTEE{}
	server.CurvePreferences = []CurveID{CurveP384}
	ends := attestHandshake(t, client, server)
	ends.mustSucceed(t)
	s := ends.client.ConnectionState()
	if !s.HelloRetryRequest || !s.PeerAttestation.Valid() {
		t.Errorf("retry %v, result %v", s.HelloRetryRequest, s.PeerAttestation.Valid())
	}
}

// TestNoVersionBelowTLS13WhereAttestationIsRequired: where attestation is required, on
// either end; where it is requested, TLS 1.2 stays possible.
//
// Hooks: versions.
func TestNoVersionBelowTLS13WhereAttestationIsRequired(t *testing.T) {
	client, server := attesting()
	server.MaxVersion = VersionTLS12
	ends := attestHandshake(t, client, server)
	if a, _ := ends.server.AlertSent(); ends.clientErr == nil || alert(a) != alertProtocolVersion {
		t.Errorf("server of TLS 1.2: %v, alert %v", ends.clientErr, a)
	}

	client, server = attestConfigs()
	client.MaxVersion = VersionTLS12
	server.Attestation = &AttestationConfig{Verifier: &stubTEE{}}
	ends = attestHandshake(t, client, server)
	if a, _ := ends.server.AlertSent(); ends.serverErr == nil || alert(a) != alertProtocolVersion {
		t.Errorf("client of TLS 1.2: %v, alert %v", ends.serverErr, a)
	}

	client, server = attesting()
	client.Attestation.Peer = RequestAttestation
	server.MaxVersion = VersionTLS12
	ends = attestHandshake(t, client, server)
	ends.mustSucceed(t)
	if v := ends.client.ConnectionState().Version; v != VersionTLS12 {
		t.Errorf("version %x where attestation is only requested", v)
	}

	client, _ = attesting()
	client.MaxVersion = VersionTLS12
	if err := Client(nil, client).Handshake(); err == nil {
		t.Error("a client that requires attestation goes on with MaxVersion TLS 1.2")
	}
}

// TestNoResumptionWhereAttestationIsNegotiated: with a session of before in its cache,
// a client that asks for attestation does a full handshake; the ticket of a server that
// sends one anyway is counted and dropped; and a server that attests sends none.
//
// Hooks: client-no-resumption, client-ticket, server-ticket, server-no-resumption.
func TestNoResumptionWhereAttestationIsNegotiated(t *testing.T) {
	cache := NewLRUClientSessionCache(8)
	client, server := attestConfigs()
	client.ClientSessionCache = cache
	plainClient, plainServer := client.Clone(), server.Clone()
	connect := func(client, server *Config) (*attestEnds, ConnectionState) {
		t.Helper()
		ends := attestHandshake(t, client, server)
		ends.mustSucceed(t)
		return ends, ends.client.ConnectionState()
	}
	server.SetSessionTicketKeys([][32]byte{{1}})
	plainServer.SetSessionTicketKeys([][32]byte{{1}})

	if _, s := connect(plainClient, plainServer); s.DidResume || s.TicketsReceived != 1 {
		t.Fatalf("first plain connection: resumed %v, %d tickets", s.DidResume, s.TicketsReceived)
	}
	if _, s := connect(plainClient, plainServer); !s.DidResume {
		t.Fatal("the test's own resumption does not work")
	}
	// The client asks: no resumption, though it holds a ticket.
	client.Attestation = &AttestationConfig{Verifier: &stubTEE{}}
	server.Attestation = &AttestationConfig{Attester: &stubTEE{}}
	ends, s := connect(client, server)
	if s.DidResume || !s.PeerAttestation.Valid() || s.TicketsReceived != 0 {
		t.Errorf("attested: resumed %v, attested %v, %d tickets", s.DidResume, s.PeerAttestation.Valid(), s.TicketsReceived)
	}
	if ends.server.ConnectionState().DidResume {
		t.Error("the server resumed")
	}
	// The client would like to be attested, and the server cannot: full, and kept out of the cache.
	before, _ := cache.Get("server.example")
	client.Attestation.Peer = RequestAttestation
	if _, s := connect(client, plainServer); s.DidResume {
		t.Error("resumed where attestation was requested")
	}
	if after, _ := cache.Get("server.example"); after != before {
		t.Error("a ticket was kept where attestation was requested")
	}
	// A plain client of a server that could attest resumes as ever.
	connect(plainClient, server)
	if _, s := connect(plainClient, server); !s.DidResume {
		t.Error("a plain client cannot resume with a server that could attest")
	}
	// A server that requires attestation ignores the PSK, and so finds nobody attesting.
	server.Attestation = &AttestationConfig{Verifier: &stubTEE{}}
	if ends := attestHandshake(t, plainClient, server); ends.serverErr == nil {
		t.Error("a plain client got in by resumption")
	}
}

// A server that attests ignores the PSK of a client that offers one beside its request.
func TestServerIgnoresAPSKBesideARequest(t *testing.T) {
	client, server := attesting()
	server.SetSessionTicketKeys([][32]byte{{1}})
	cache := NewLRUClientSessionCache(8)
	plainClient, plainServer := client.Clone(), server.Clone()
	plainClient.Attestation, plainServer.Attestation = nil, nil
	plainClient.ClientSessionCache = cache
	attestHandshake(t, plainClient, plainServer).mustSucceed(t)

	c, s := localPipe(t)
	ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
	ends.client.handshakeFn = func(ctx context.Context) error {
		conn := ends.client
		hello, keys, _, err := conn.makeClientHello()
		if err != nil {
			return err
		}
		if err := conn.attestClientHello(hello); err != nil {
			return err
		}
		// Load the session as a Config without attestation does.
		conn.config = conn.config.Clone()
		attestation := conn.config.Attestation
		conn.config.Attestation, conn.config.ClientSessionCache = nil, cache
		session, early, binder, err := conn.loadSession(hello)
		conn.config.Attestation = attestation
		if err != nil || session == nil {
			return errors.Join(errors.New("no session to offer"), err)
		}
		if _, err := conn.writeHandshakeRecord(hello, nil); err != nil {
			return err
		}
		msg, err := conn.readHandshake(nil)
		if err != nil {
			return err
		}
		conn.pickTLSVersion(msg.(*serverHelloMsg))
		hs := &clientHandshakeStateTLS13{c: conn, ctx: ctx, serverHello: msg.(*serverHelloMsg), hello: hello,
			keyShareKeys: keys, session: session, earlySecret: early, binderKey: binder}
		return hs.handshake()
	}
	ends.run(t, c, s)
	ends.mustSucceed(t)
	if st := ends.server.ConnectionState(); st.DidResume || st.LocalAttestation == nil {
		t.Errorf("resumed %v, attested %v", st.DidResume, st.LocalAttestation != nil)
	}
}

// TestGateHoldsWithoutAVerdict: what no handshake leads to, a connection that is
// complete and has no verdict, moves no byte either way.
//
// Hooks: gate-read, gate-write.
func TestGateHoldsWithoutAVerdict(t *testing.T) {
	client, server := attesting()
	c, s := localPipe(t)
	defer c.Close()
	defer s.Close()
	cc, sc := Client(c, client), Server(s, server)
	go sc.Handshake()
	if err := cc.Handshake(); err != nil {
		t.Fatal(err)
	}
	cc.attest.peer.result = nil
	if n, err := cc.Write([]byte("x")); n != 0 || err == nil {
		t.Errorf("Write: %d, %v", n, err)
	}
	if n, err := cc.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("Read: %d, %v", n, err)
	}
	cc.attest.peer.result = new(attestext.Result) // proves nothing
	if n, err := cc.Write([]byte("x")); n != 0 || err == nil {
		t.Errorf("Write with a zero Result: %d, %v", n, err)
	}
}

// TestVerifyConnectionSeesTheVerdict: the callbacks run in their documented order and
// VerifyConnection sees the verdict; its own no ends the handshake.
//
// Hooks: client-verify-connection, server-verify-connection.
func TestVerifyConnectionSeesTheVerdict(t *testing.T) {
	for _, kinds := range [][]attestext.CredentialKind{nil, onlyKind} {
		client, server := attesting()
		client.Attestation.Attester, server.Attestation.Verifier = &stubTEE{}, &stubTEE{}
		for _, a := range []*AttestationConfig{client.Attestation, server.Attestation} {
			a.Credentials, a.PeerCredentials, a.AllowAttestationOnly = kinds, kinds, kinds != nil
		}
		var calls []string
		watch := func(conf *Config, who string) {
			conf.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error {
				calls = append(calls, who+" VerifyPeerCertificate")
				return nil
			}
			conf.VerifyConnection = func(s ConnectionState) error {
				if !s.PeerAttestation.Valid() {
					t.Errorf("%s: VerifyConnection without a verdict", who)
				}
				calls = append(calls, who+" VerifyConnection")
				return nil
			}
		}
		watch(client, "client")
		watch(server, "server")
		attestHandshake(t, client, server).mustSucceed(t)
		want := []string{"client VerifyPeerCertificate", "client VerifyConnection", "server VerifyPeerCertificate", "server VerifyConnection"}
		if kinds != nil {
			want = []string{"client VerifyConnection", "server VerifyConnection"}
		}
		if !slices.Equal(calls, want) {
			t.Errorf("%v: %q", kinds, calls)
		}

		no := errors.New("no")
		client.VerifyConnection = func(ConnectionState) error { return no }
		ends := attestHandshake(t, client, server)
		if a, _ := ends.client.AlertSent(); !errors.Is(ends.clientErr, no) || alert(a) != alertBadCertificate {
			t.Errorf("%v: %v, alert %v", kinds, ends.clientErr, a)
		}
	}
}

// TestAttestationUnderEncryptedClientHello: the offers are inside the encrypted
// ClientHello, and nowhere else.
//
// Hooks: client-ech.
func TestAttestationUnderEncryptedClientHello(t *testing.T) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	list, conf := echConfigForTest(t, key)
	client, server := attesting()
	client.MinVersion, server.MinVersion = VersionTLS13, VersionTLS13
	client.EncryptedClientHelloConfigList = list
	server.EncryptedClientHelloKeys = []EncryptedClientHelloKey{{Config: conf, PrivateKey: key.Bytes(), SendAsRetry: true}}
	for _, retry := range []bool{false, true} {
		if retry {
			server.CurvePreferences = []CurveID{CurveP384}
		}
		c, s := localPipe(t)
		seen := &tappedConn{Conn: c}
		ends := &attestEnds{client: Client(seen, client), server: Server(s, server)}
		ends.run(t, c, s)
		ends.mustSucceed(t)
		st := ends.client.ConnectionState()
		if !st.ECHAccepted || !st.PeerAttestation.Valid() {
			t.Errorf("ECH %v, attested %v", st.ECHAccepted, st.PeerAttestation.Valid())
		}
		if bytes.Contains(seen.sent.Bytes(), st.PeerAttestation.Challenge().Nonce) {
			t.Error("the nonce is on the wire in the clear")
		}
	}
	// A server that does not accept ECH ends it as ever, whatever else it lacks.
	server.EncryptedClientHelloKeys, server.Attestation = nil, nil
	ends := attestHandshake(t, client, server)
	if _, ok := errors.AsType[*ECHRejectionError](ends.clientErr); !ok {
		t.Errorf("ECH rejected: %v", ends.clientErr)
	}
	if _, ok := errors.AsType[*AttestationError](ends.clientErr); ok {
		t.Errorf("ECH rejected: %v", ends.clientErr)
	}
}

// TestCloneKeepsAttestation: a Config keeps its Attestation through Clone.
//
// Hooks: config-clone, config-clone-test.
func TestCloneKeepsAttestation(t *testing.T) {
	client, _ := attesting()
	if client.Clone().Attestation != client.Attestation {
		t.Error("lost")
	}
}

// GetConfigForClient may turn attestation on for some clients.
func TestGetConfigForClientSetsAttestation(t *testing.T) {
	client, server := attesting()
	attested := server.Clone()
	server.Attestation = nil
	server.GetConfigForClient = func(*ClientHelloInfo) (*Config, error) { return attested, nil }
	ends := attestHandshake(t, client, server)
	ends.mustSucceed(t)
}

// The other code points work on both ends, and those that differ do not meet.
func TestCodePointsAreSettable(t *testing.T) {
	client, server := attesting()
	cp := &attestext.CodePoints{EvidenceRequest: 65000, AttestationEvidence: 60, UnsupportedEvidence: 200}
	client.Attestation.CodePoints, server.Attestation.CodePoints = cp, cp
	attestHandshake(t, client, server).mustSucceed(t)

	server.Attestation.Attester = &stubTEE{formats: []attestext.EvidenceFormat{otherFormat}}
	ends := attestHandshake(t, client, server)
	if a, _ := ends.client.AlertReceived(); a != 200 {
		t.Errorf("alert %d, want 200", a)
	}
	client.Attestation.CodePoints = nil
	ends = attestHandshake(t, client, server)
	if a, _ := ends.client.AlertSent(); alert(a) != alertMissingExtension {
		t.Errorf("alert %v", a)
	}
}

// Evidence of one connection is refused on the next: replay.
func TestReplayedEvidenceIsRefused(t *testing.T) {
	for _, binding := range []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08} {
		for _, kinds := range [][]attestext.CredentialKind{nil, onlyKind} {
			client, server := attesting()
			key := newTestKey()
			client.Attestation.PeerBinding, server.Attestation.Binding = binding, binding
			client.Attestation.PeerCredentials, client.Attestation.AllowAttestationOnly = kinds, true
			server.Attestation.Credentials, server.Attestation.AllowAttestationOnly = kinds, true
			if kinds != nil {
				server.Attestation.AttestedKey = key
			}
			var old []byte
			server.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
				if old == nil {
					var err error
					old, err = (&stubTEE{}).honest(req.Challenge)
					return old, err
				}
				return old, nil
			}}
			attestHandshake(t, client, server).mustSucceed(t)
			ends := attestHandshake(t, client, server)
			if a, _ := ends.client.AlertSent(); !errors.Is(ends.clientErr, attestext.ErrBinding) || alert(a) != alertBadCertificate {
				t.Errorf("%v, %v: %v, alert %v", binding, kinds, ends.clientErr, a)
			}
		}
	}
}

// Cancelling the handshake's context ends it while a verifier sleeps.
func TestCancelledHandshakeDoesNotWaitForTheVerifier(t *testing.T) {
	client, server := attesting()
	ctx, cancel := context.WithCancel(context.Background())
	release := make(chan struct{})
	defer close(release)
	client.Attestation.VerifyTimeout = time.Hour
	client.Attestation.Verifier = &stubTEE{appraise: func(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
		cancel()
		<-release // deaf to its context
		return nil, nil
	}}
	c, s := localPipe(t)
	defer s.Close()
	go Server(s, server).Handshake()
	if err := Client(c, client).HandshakeContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// InsecureSkipVerify turns off X.509 checks only.
func TestInsecureSkipVerifyDoesNotSkipTheAppraisal(t *testing.T) {
	client, server := attesting()
	client.InsecureSkipVerify = true
	client.RootCAs = nil
	attestHandshake(t, client, server).mustSucceed(t)
	sends(func(tee *stubTEE, _ context.Context, ch attestext.Challenge) ([]byte, error) {
		ch.SPKI = []byte("another")
		return tee.honest(&ch)
	})(client, server)
	if ends := attestHandshake(t, client, server); !errors.Is(ends.clientErr, attestext.ErrBinding) {
		t.Errorf("error %v", ends.clientErr)
	}
}

// Each TLS 1.3 suite, group and key type carries attestation.
func TestAttestationWithEachSuiteAndGroup(t *testing.T) {
	for _, group := range []CurveID{X25519, CurveP256, CurveP384, CurveP521, X25519MLKEM768} {
		client, server := attesting()
		client.CurvePreferences = []CurveID{group}
		attestHandshake(t, client, server).mustSucceed(t)
	}
	for _, suite := range []uint16{TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256} {
		client, server := attesting()
		c, s := localPipe(t)
		ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
		(&misbehavingPeer{suites: []uint16{suite}}).client(ends.client)
		ends.run(t, c, s)
		ends.mustSucceed(t)
		if got := ends.server.ConnectionState().CipherSuite; got != suite {
			t.Errorf("suite %x, want %x", got, suite)
		}
	}
}

// Stock crypto/tls talks to both ends without attestation, and a client that
// requires it tells a stock server so.
func TestStockPeers(t *testing.T) {
	p := attestPKI()
	stdServer := &stdtls.Config{Certificates: []stdtls.Certificate{{Certificate: p.server.Certificate, PrivateKey: p.server.PrivateKey}}}
	stdClient := &stdtls.Config{RootCAs: p.roots, ServerName: "server.example"}

	// The client is ours.
	dial := func(conf *Config) (client, server error, a AlertError) {
		c, s := localPipe(t)
		done := make(chan error, 1)
		go func() { defer hangUp(s); done <- stdtls.Server(s, stdServer).Handshake() }()
		conn := Client(c, conf)
		client = conn.Handshake()
		hangUp(c)
		server = <-done
		a, _ = conn.AlertSent()
		return client, server, a
	}
	client, server := attesting()
	if err, _, a := dial(client); err == nil || alert(a) != alertMissingExtension {
		t.Errorf("client that requires attestation: %v, alert %v", err, a)
	}
	client.Attestation.Peer = RequestAttestation
	if err, serr, _ := dial(client); err != nil || serr != nil {
		t.Errorf("client that requests attestation: %v, %v", err, serr)
	}
	client.Attestation = nil
	if err, serr, _ := dial(client); err != nil || serr != nil {
		t.Errorf("plain client: %v, %v", err, serr)
	}

	// The server is ours.
	for _, conf := range []*Config{{Certificates: server.Certificates}, server} {
		c, s := localPipe(t)
		done := make(chan error, 1)
		go func() { defer hangUp(s); done <- Server(s, conf).Handshake() }()
		err := stdtls.Client(c, stdClient).Handshake()
		hangUp(c)
		if serr := <-done; err != nil || serr != nil {
			t.Errorf("stock client: %v, %v", err, serr)
		}
	}
	server.Attestation = &AttestationConfig{Verifier: &stubTEE{}}
	c, s := localPipe(t)
	done := make(chan error, 1)
	conn := Server(s, server)
	go func() { defer hangUp(s); done <- conn.Handshake() }()
	std := stdtls.Client(c, stdClient)
	err := std.Handshake()
	hangUp(c)
	<-done
	if a, _ := conn.AlertSent(); err == nil || alert(a) != alertMissingExtension {
		t.Errorf("stock client of a server that requires attestation: %v, alert %v", err, a)
	}
}

// An attested connection goes on as any other: key updates included.
func TestKeyUpdateAfterAttestation(t *testing.T) {
	client, server := attesting()
	c, s := localPipe(t)
	defer c.Close()
	cc, sc := Client(c, client), Server(s, server)
	go func() { defer s.Close(); io.Copy(sc, sc) }()
	for range 3 {
		if _, err := cc.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(cc, b); err != nil || string(b) != "hello" {
			t.Fatalf("%q, %v", b, err)
		}
		if err := updateKeysForTest(cc); err != nil {
			t.Fatal(err)
		}
	}
	if !cc.ConnectionState().PeerAttestation.Valid() {
		t.Error("the verdict is lost")
	}
}

// tappedConn keeps what is written to it.
type tappedConn struct {
	net.Conn
	sent bytes.Buffer
}

func (c *tappedConn) Write(b []byte) (int, error) {
	c.sent.Write(b)
	return c.Conn.Write(b)
}

// updateKeysForTest sends a KeyUpdate that asks for one in return.
func updateKeysForTest(c *Conn) error {
	c.out.Lock()
	defer c.out.Unlock()
	msg, err := (&keyUpdateMsg{updateRequested: true}).marshal()
	if err != nil {
		return err
	}
	if _, err := c.writeRecordLocked(recordTypeHandshake, msg); err != nil {
		return err
	}
	suite := cipherSuiteTLS13ByID(c.cipherSuite)
	c.setWriteTrafficSecret(suite, QUICEncryptionLevelInitial, suite.nextTrafficSecret(c.out.trafficSecret))
	return nil
}

// TestCertificateMessageIsBoundedByAMegabyte: evidence up to about a megabyte is taken,
// and a message over it is refused by its announced length, before it is read.
//
// Hooks: certificate-size.
//
// Requirements: 6.1-2.
func TestCertificateMessageIsBoundedByAMegabyte(t *testing.T) {
	big := func(n int) *stubTEE {
		return &stubTEE{
			attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
				ev, err := (&stubTEE{}).honest(req.Challenge)
				return append(ev, make([]byte, n-len(ev))...), err
			},
			appraise: func(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
				if len(ev.CMW) != n {
					t.Errorf("%d bytes of evidence, want %d", len(ev.CMW), n)
				}
				return &attestext.Appraisal{Verdict: "affirming", Key: attestPKI().server.Leaf.RawSubjectPublicKeyInfo}, nil
			},
		}
	}
	client, server := attesting()
	bothOnly(client, server)
	server.Attestation.AttestedKey = attestPKI().server.PrivateKey.(crypto.Signer)
	for _, n := range []int{300_000, maxCertificateMessage - 1024} {
		client.Attestation.Verifier, server.Attestation.Attester = big(n), big(n)
		attestHandshake(t, client, server).mustSucceed(t)
	}
	// A server will not send more.
	server.Attestation.Attester = big(maxCertificateMessage)
	ends := attestHandshake(t, client, server)
	if a, _ := ends.server.AlertSent(); ends.serverErr == nil || alert(a) != alertInternalError {
		t.Errorf("server: %v, alert %v", ends.serverErr, a)
	}
	// And a client will not read it.
	server.Attestation.Attester = &stubTEE{}
	c, s := localPipe(t)
	ends = &attestEnds{client: Client(c, client), server: Server(s, server)}
	(&misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
		e[0].data = make([]byte, maxCertificateMessage)
		return e
	}}).server(ends.server)
	ends.run(t, c, s)
	if a, _ := ends.client.AlertSent(); ends.clientErr == nil || !strings.Contains(ends.clientErr.Error(), "exceeds maximum of 1048576") || alert(a) != alertInternalError {
		t.Errorf("client: %v, alert %v", ends.clientErr, a)
	}
	// Without attestation upstream's bound stands.
	client.Attestation, server.Attestation = nil, nil
	c, s = localPipe(t)
	ends = &attestEnds{client: Client(c, client), server: Server(s, server)}
	(&misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
		e[0].data = make([]byte, maxHandshakeCertificateMsg)
		return e
	}}).server(ends.server)
	ends.run(t, c, s)
	if ends.clientErr == nil || !strings.Contains(ends.clientErr.Error(), "exceeds maximum of 262144") {
		t.Errorf("client: %v", ends.clientErr)
	}
}

// echConfigForTest returns an ECHConfigList with one ECHConfig, and that.
func echConfigForTest(t *testing.T, key *ecdh.PrivateKey) (list, conf []byte) {
	t.Helper()
	var b cryptobyte.Builder
	b.AddUint16(extensionEncryptedClientHello)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(123)
		b.AddUint16(0x0020) // DHKEM(X25519, HKDF-SHA256)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(key.PublicKey().Bytes()) })
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16(0x0001) // HKDF-SHA256
			b.AddUint16(0x0001) // AES-128-GCM
		})
		b.AddUint8(32)
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte("server.example")) })
		b.AddUint16(0) // extensions
	})
	conf = b.BytesOrPanic()
	var l cryptobyte.Builder
	l.AddUint16LengthPrefixed(func(l *cryptobyte.Builder) { l.AddBytes(conf) })
	return l.BytesOrPanic(), conf
}

// A ConnectionState may be asked for while a Read counts tickets.
func TestConnectionStateDuringReads(t *testing.T) {
	client, server := attestConfigs()
	client.ClientSessionCache = NewLRUClientSessionCache(1)
	c, s := localPipe(t)
	cc, sc := Client(c, client), Server(s, server)
	defer c.Close()
	go func() { defer s.Close(); sc.Handshake(); sc.Write([]byte("x")) }()
	if err := cc.Handshake(); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { _, err := cc.Read(make([]byte, 1)); read <- err }()
	for cc.ConnectionState().TicketsReceived == 0 {
		runtime.Gosched()
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
}
