package tls

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"
	"slices"
	"testing"

	"github.com/attestedtls/atls/attestext"
)

// The tests of this file derive what binds Evidence to a handshake a second time,
// from the messages and the Diffie-Hellman secret alone and with an HKDF of their
// own. Two ends that agree may both be wrong.

// hkdfExpand is HKDF-Expand of RFC 5869.
func hkdfExpand(h func() hash.Hash, prk, info []byte, n int) []byte {
	var out, block []byte
	for i := byte(1); len(out) < n; i++ {
		m := hmac.New(h, prk)
		m.Write(block)
		m.Write(info)
		m.Write([]byte{i})
		block = m.Sum(nil)
		out = append(out, block...)
	}
	return out[:n]
}

// hkdfLabel is HKDF-Expand-Label of RFC 8446, section 7.1.
func hkdfLabel(h func() hash.Hash, secret []byte, label string, context []byte, n int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len("tls13 ")+len(label)))
	info = append(info, "tls13 "+label...)
	info = append(info, byte(len(context)))
	info = append(info, context...)
	return hkdfExpand(h, secret, info, n)
}

func digest(h func() hash.Hash, b []byte) []byte {
	x := h()
	x.Write(b)
	return x.Sum(nil)
}

// binderFromScratch is channel_binder of draft-fossati-tls-attestation-08.
func binderFromScratch(h func() hash.Hash, handshakeSecret, transcript, nonce []byte) []byte {
	n := h().Size()
	exporter := hkdfLabel(h, handshakeSecret, "h exp master", digest(h, transcript), n)
	derived := hkdfLabel(h, exporter, "attestation-binder", digest(h, nil), n)
	return hkdfLabel(h, derived, "exporter", digest(h, nonce), len(nonce))
}

// transcriptRecorder is a transcript hash that keeps what it is given.
type transcriptRecorder struct {
	hash.Hash
	messages *[]byte
}

func (r transcriptRecorder) Write(b []byte) (int, error) {
	*r.messages = append(*r.messages, b...)
	return r.Hash.Write(b)
}

// recordedHandshake is what the server of a handshake saw: the messages, and the
// Handshake Secret, derived here from the shared secret.
type recordedHandshake struct {
	hash            func() hash.Hash
	messages        []byte // all that went into the transcript, in order
	toServerHello   int    // length of the part through ServerHello
	handshakeSecret []byte
}

// recordHandshake runs a handshake with a server that follows upstream's steps and
// keeps what it hashes.
func recordHandshake(t *testing.T, client, server *Config) (*recordedHandshake, *attestEnds) {
	t.Helper()
	rec := &recordedHandshake{}
	c, s := localPipe(t)
	ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
	p := &misbehavingPeer{record: func(hs *serverHandshakeStateTLS13) {
		rec.hash = hs.suite.hash.New
		n := rec.hash().Size()
		zero := make([]byte, n)
		extract := func(salt, ikm []byte) []byte { m := hmac.New(rec.hash, salt); m.Write(ikm); return m.Sum(nil) }
		early := extract(zero, zero)
		rec.handshakeSecret = extract(hkdfLabel(rec.hash, early, "derived", digest(rec.hash, nil), n), hs.sharedKey)
		hs.transcript = transcriptRecorder{hs.transcript, &rec.messages}
	}}
	p.server(ends.server)
	ends.run(t, c, s)
	ends.mustSucceed(t)
	// Find ServerHello: it is the last of its type before EncryptedExtensions.
	for at := 0; at < len(rec.messages); {
		end := at + 4 + int(rec.messages[at+1])<<16 + int(rec.messages[at+2])<<8 + int(rec.messages[at+3])
		if rec.messages[at] == typeServerHello {
			rec.toServerHello = end
		}
		at = end
	}
	return rec, ends
}

// before returns the transcript before the nth Certificate message.
func (r *recordedHandshake) before(t *testing.T, nth int) []byte {
	t.Helper()
	for at := 0; at < len(r.messages); {
		end := at + 4 + int(r.messages[at+1])<<16 + int(r.messages[at+2])<<8 + int(r.messages[at+3])
		if r.messages[at] == typeCertificate {
			if nth--; nth == 0 {
				return r.messages[:at]
			}
		}
		at = end
	}
	t.Fatal("no such Certificate")
	return nil
}

func TestBinderIsThatOfTheDraft(t *testing.T) {
	for _, suite := range []uint16{TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384} {
		client, server := attesting()
		client.Attestation.Attester, server.Attestation.Verifier = &stubTEE{}, &stubTEE{}
		client.CurvePreferences = []CurveID{X25519}
		defer onlySuite(suite)()
		rec, ends := recordHandshake(t, client, server)
		if got := ends.server.ConnectionState().CipherSuite; got != suite {
			t.Fatalf("suite %x", got)
		}
		for who, end := range map[string]*Conn{"server's": ends.client, "client's": ends.server} {
			ch := end.ConnectionState().PeerAttestation.Challenge()
			want := binderFromScratch(rec.hash, rec.handshakeSecret, rec.messages[:rec.toServerHello], ch.Nonce)
			if !bytes.Equal(ch.Binder, want) {
				t.Errorf("%x: the %s binder is %x, want %x", suite, who, ch.Binder, want)
			}
		}
	}
}

// onlySuite has servers prefer one suite, and returns what undoes it.
func onlySuite(suite uint16) func() {
	with, without := defaultCipherSuitesTLS13, defaultCipherSuitesTLS13NoAES
	defaultCipherSuitesTLS13, defaultCipherSuitesTLS13NoAES = []uint16{suite}, []uint16{suite}
	return func() { defaultCipherSuitesTLS13, defaultCipherSuitesTLS13NoAES = with, without }
}

// TestKeyProofCoversTranscriptLeafAndEvidence: each attested key signs the messages
// before its own side's Certificate, the leaf and the Evidence, with and without
// CertificateRequest.
//
// Hooks: client-before-certificate, server-before-certificate.
func TestKeyProofCoversTranscriptLeafAndEvidence(t *testing.T) {
	for _, mutual := range []bool{false, true} {
		client, server := attesting()
		twoKeys(client, server)
		if mutual {
			client.Attestation.Attester, client.Attestation.AttestedKey = &stubTEE{}, newTestKey()
			server.Attestation.Verifier, server.Attestation.PeerAttestedKey = &stubTEE{}, true
		}
		rec, _ := recordHandshake(t, client, server)
		check := func(nth int, context string, key crypto.Signer, leaf Certificate) {
			t.Helper()
			before := rec.before(t, nth)
			entries := splitCertificate(rec.messages[len(before):][:certificateLength(rec.messages[len(before):])])
			cmw, _ := findExtension(entries[0].extensions, testCodePoints.AttestationEvidence)
			data, _ := findExtension(entries[0].extensions, testCodePoints.AttestedKeyProof)
			proof, err := attestext.ParseAttestedKeyProof(data)
			if err != nil {
				t.Fatal(err)
			}
			signed := slices.Concat(bytes.Repeat([]byte{0x20}, 64), []byte(context), []byte{0},
				digest(rec.hash, before), digest(rec.hash, leaf.Certificate[0]), digest(rec.hash, cmw))
			if err := verifyHandshakeSignature(signatureECDSA, key.Public(), crypto.SHA256, signed, proof.Signature); err != nil {
				t.Errorf("mutual %v, %s: %v", mutual, context, err)
			}
		}
		check(1, "TLS 1.3, attested key proof, server", server.Attestation.AttestedKey, attestPKI().server)
		if mutual {
			check(2, "TLS 1.3, attested key proof, client", client.Attestation.AttestedKey, attestPKI().client)
		}
	}
}

// certificateLength returns that of the message that b begins with.
func certificateLength(b []byte) int { return 4 + int(b[1])<<16 + int(b[2])<<8 + int(b[3]) }

// The independent HKDF is itself held to the known answers of the vector file.
func TestIndependentHKDFMatchesRFC8448(t *testing.T) {
	h := sha256.New
	secret := []byte{0x1d, 0xc8, 0x26, 0xe9, 0x36, 0x06, 0xaa, 0x6f, 0xdc, 0x0a, 0xad, 0xc1, 0x2f, 0x74, 0x1b, 0x01, 0x04, 0x6a, 0xa6, 0xb9, 0x9f, 0x69, 0x1e, 0xd2, 0x21, 0xa9, 0xf0, 0xca, 0x04, 0x3f, 0xbe, 0xac}
	transcriptHash := []byte{0x86, 0x0c, 0x06, 0xed, 0xc0, 0x78, 0x58, 0xee, 0x8e, 0x78, 0xf0, 0xe7, 0x42, 0x8c, 0x58, 0xed, 0xd6, 0xb4, 0x3f, 0x2c, 0xa3, 0xe6, 0xe9, 0x5f, 0x02, 0xed, 0x06, 0x3c, 0xf0, 0xe1, 0xca, 0xd8}
	want := []byte{0xb3, 0xed, 0xdb, 0x12, 0x6e, 0x06, 0x7f, 0x35, 0xa7, 0x80, 0xb3, 0xab, 0xf4, 0x5e, 0x2d, 0x8f, 0x3b, 0x1a, 0x95, 0x07, 0x38, 0xf5, 0x2e, 0x96, 0x00, 0x74, 0x6a, 0x0e, 0x27, 0xa5, 0x5a, 0x21}
	if got := hkdfLabel(h, secret, "c hs traffic", transcriptHash, 32); !bytes.Equal(got, want) {
		t.Errorf("client_handshake_traffic_secret is %x", got)
	}
}

// A client that attests, or asks for it, offers no session; one that offers
// psk_key_exchange_modes all the same gets no ticket where attestation was
// negotiated.
//
// Hooks: server-ticket.
func TestServerThatAttestsSendsNoTicketThoughThePeerWouldTakeOne(t *testing.T) {
	for _, attests := range []bool{false, true} {
		client, server := attesting()
		if !attests {
			server.Attestation = nil
			client.Attestation.Peer = RequestAttestation
		}
		c, s := localPipe(t)
		ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
		(&misbehavingPeer{pskModes: []uint8{pskModeDHE}}).client(ends.client)
		ends.run(t, c, s)
		ends.mustSucceed(t)
		if n := ends.client.ConnectionState().TicketsReceived; (n == 0) != attests {
			t.Errorf("attests %v: %d tickets", attests, n)
		}
	}
}

// A ticket that comes all the same is counted and not kept.
//
// Hooks: client-ticket.
func TestClientDropsATicketOfAnAttestedConnection(t *testing.T) {
	cache := NewLRUClientSessionCache(1)
	client, server := attesting()
	client.ClientSessionCache = cache
	c, s := localPipe(t)
	cc, sc := Client(c, client), Server(s, server)
	done := make(chan error, 1)
	go func() {
		defer hangUp(s)
		done <- func() error {
			if err := sc.Handshake(); err != nil {
				return err
			}
			line := make([]byte, 1)
			if _, err := io.ReadFull(sc, line); err != nil { // so that the client's Finished is in
				return err
			}
			sc.resumptionSecret = make([]byte, 32)
			sc.ticketKeys = sc.config.ticketKeys(nil)
			if err := sc.sendSessionTicket(false, nil); err != nil {
				return err
			}
			_, err := sc.Write(line)
			return err
		}()
	}()
	if _, err := cc.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(cc, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	hangUp(c)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := cc.ConnectionState().TicketsReceived; n != 1 {
		t.Errorf("%d tickets", n)
	}
	if _, ok := cache.Get("server.example"); ok {
		t.Error("the ticket was kept")
	}
}

// Close ends a handshake that waits for a verifier or an attester.
//
// Hooks: close.
func TestCloseDoesNotWaitForTheVerifier(t *testing.T) {
	client, server := attesting()
	started := make(chan struct{})
	client.Attestation.VerifyTimeout = 1 << 40
	client.Attestation.Verifier = &stubTEE{appraise: func(ctx context.Context, _ *attestext.Evidence, _ *attestext.Challenge) (*attestext.Appraisal, error) {
		close(started)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	c, s := localPipe(t)
	defer s.Close()
	go Server(s, server).Handshake()
	conn := Client(c, client)
	done := make(chan error, 1)
	go func() { done <- conn.Handshake() }()
	<-started
	conn.Close()
	if err := <-done; err == nil {
		t.Error("the handshake went on")
	}
}

// A handshake that failed has no result, whatever it had got to.
func TestFailedHandshakeHasNoResult(t *testing.T) {
	// A key that did not sign, though the evidence names it.
	client, server := attesting()
	bothOnly(client, server)
	c, s := localPipe(t)
	ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
	(&misbehavingPeer{signKey: newTestKey()}).server(ends.server)
	ends.run(t, c, s)
	if ends.clientErr == nil || ends.client.ConnectionState().PeerAttestation != nil {
		t.Errorf("%v, result %v", ends.clientErr, ends.client.ConnectionState().PeerAttestation)
	}
	// VerifyConnection said no.
	client, server = attesting()
	client.VerifyConnection = func(ConnectionState) error { return io.ErrUnexpectedEOF }
	ends = attestHandshake(t, client, server)
	if ends.clientErr == nil || ends.client.ConnectionState().PeerAttestation != nil {
		t.Errorf("%v, result %v", ends.clientErr, ends.client.ConnectionState().PeerAttestation)
	}
}

// Evidence does not take the place of a certificate that the server requires, and a
// certificate that nobody verifies does not stand beside Evidence by accident.
func TestClientAuthHoldsBesideAttestation(t *testing.T) {
	self := Certificate{Certificate: attestPKI().client.Certificate, PrivateKey: attestPKI().client.PrivateKey, Leaf: attestPKI().client.Leaf}
	for _, tt := range []struct {
		name   string
		change func(client, server *Config)
		alert  alert // 0 if accepted
	}{
		{"attestation-only where a certificate is required", func(c, s *Config) {
			c.Certificates, c.Attestation.Credentials = nil, onlyKind
			s.ClientAuth = RequireAndVerifyClientCert
		}, 224},
		{"results in place of a certificate that is required", func(c, s *Config) {
			c.Attestation.Attester, c.Attestation.Results, c.Attestation.Credentials = nil, &stubResults{}, onlyKind
			s.Attestation.Verifier, s.Attestation.ResultsVerifier, s.Attestation.PeerCredentials = nil, &stubResults{}, onlyKind
			s.ClientAuth = RequireAndVerifyClientCert
		}, 225},
		{"an unknown certificate where any will do", func(c, s *Config) {
			c.Certificates = []Certificate{self}
			s.ClientCAs, s.ClientAuth, s.Attestation.AllowAttestationOnly = nil, RequireAnyClientCert, false
			s.Attestation.PeerCredentials = nil
		}, alertUnknownCA},
		{"an unknown certificate where one is requested", func(c, s *Config) {
			c.Certificates = []Certificate{self}
			s.ClientCAs, s.ClientAuth, s.Attestation.AllowAttestationOnly = nil, RequestClientCert, false
			s.Attestation.PeerCredentials = nil
		}, alertUnknownCA},
		{"an unknown certificate where any will do, and attestation-only is allowed", func(c, s *Config) {
			c.Certificates = []Certificate{self}
			s.ClientCAs, s.ClientAuth = nil, RequireAnyClientCert
		}, 0},
	} {
		client, server := attestConfigs()
		client.Attestation = &AttestationConfig{Attester: &stubTEE{}, AllowAttestationOnly: true}
		server.Attestation = &AttestationConfig{Verifier: &stubTEE{}, AllowAttestationOnly: true}
		server.Attestation.PeerCredentials = []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly}
		tt.change(client, server)
		ends := attestHandshake(t, client, server)
		a, _ := ends.server.AlertSent()
		if (ends.serverErr == nil) != (tt.alert == 0) || tt.alert != 0 && alert(a) != tt.alert {
			t.Errorf("%s: %v, alert %v", tt.name, ends.serverErr, a)
		}
	}
}
