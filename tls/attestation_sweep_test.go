package tls

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"golang.org/x/crypto/cryptobyte"
)

// turned returns configurations of which the client attests to the server, after a
// setup that takes the relying end first.
func turned(setup func(relies, attester *Config)) func(client, server *Config) {
	return func(c, s *Config) {
		c.Attestation, s.Attestation = &AttestationConfig{Attester: &stubTEE{}}, &AttestationConfig{Verifier: &stubTEE{}}
		if setup != nil {
			setup(s, c)
		}
	}
}

// TestEitherEndRefuses: what an end that attests may do wrong is refused in either
// role with the same alert. Each move is made by a server and by a client.
//
// Requirements: 4-3, 6.1-1, 6.1-2, 6.2.1-3.
func TestEitherEndRefuses(t *testing.T) {
	cp := testCodePoints
	extend := func(x ...attestExtension) *misbehavingPeer {
		return &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = append(e[0].extensions, x...)
			return e
		}}
	}
	otherFormatCame := func(relies, _ *Config) {
		relies.Attestation.Verifier = &stubTEE{appraise: func(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
			return &attestext.Appraisal{Verdict: "affirming", Format: otherFormat}, nil
		}}
	}
	onlyAndHeldBy := func(r *stubResults) func(relies, attester *Config) {
		return func(relies, attester *Config) {
			bothOnly(relies, attester)
			passports(relies, attester)
			attester.Attestation.Results = r
		}
	}
	for _, r := range []refusal{
		// The Certificate message.
		{name: "evidence twice", peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = append(e[0].extensions, e[0].extensions...)
			return e
		}}, alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "evidence twice"},
		{name: "empty evidence", peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { e[0].extensions[0].data = nil; return e }},
			alert: alertDecodeError, stage: AttestationStageCertificate, says: "empty evidence"},
		{name: "evidence in both entries", peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { return append(e, e...) }},
			alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "in certificate entry 2"},
		{name: "evidence_request in the Certificate", peer: extend(attestExtension{cp.EvidenceRequest, nil}),
			alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "in its Certificate"},
		{name: "evidence_proposal in the Certificate", peer: extend(attestExtension{cp.EvidenceProposal, nil}),
			alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "in its Certificate"},
		{name: "results_request in the Certificate", peer: extend(attestExtension{cp.ResultsRequest, nil}),
			alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "in its Certificate"},
		{name: "results_proposal in the Certificate", peer: extend(attestExtension{cp.ResultsProposal, nil}),
			alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "in its Certificate"},
		{name: "an attested key proof that was not asked for", peer: extend(attestExtension{cp.AttestedKeyProof, []byte{1}}),
			alert: alertUnsupportedExtension, stage: AttestationStageCertificate, says: "not asked for"},
		{name: "attestation-only in two entries", setup: bothOnly, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { return append(e, e...) }},
			alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "2 entries"},
		{name: "attestation-only with an extension", setup: bothOnly, peer: extend(attestExtension{1234, nil}),
			alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "extensions"},
		{name: "attestation-only with an OCSP response", setup: bothOnly, peer: extend(attestExtension{extensionStatusRequest, []byte{statusTypeOCSP, 0, 0, 1, 0}}),
			alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "extensions"},
		{name: "attestation-only with evidence beside it", setup: bothOnly, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = []attestExtension{{cp.AttestationEvidence, e[0].data}}
			return e
		}}, alert: alertUnsupportedExtension, stage: AttestationStageCertificate, says: "not asked for"},
		{name: "attestation-only without evidence", setup: bothOnly, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { e[0].data = nil; return e }},
			alert: alertDecodeError, stage: AttestationStageCertificate, says: "empty evidence"},
		{name: "a certificate where evidence takes its place", setup: bothOnly, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].data = attestPKI().server.Certificate[0]
			return e
		}}, alert: alertDecodeError, stage: AttestationStageAppraise, class: attestext.ErrMalformed},

		// The Evidence.
		{name: "evidence that does not parse", peer: &misbehavingPeer{certificate: evidenceEntry(func(e []rawEntry, ev []byte) []rawEntry {
			e[0].extensions[0].data = ev[:len(ev)-1]
			return e
		})}, alert: alertDecodeError, stage: AttestationStageAppraise, class: attestext.ErrMalformed},
		{name: "another binder", setup: sends(func(tee *stubTEE, _ context.Context, ch attestext.Challenge) ([]byte, error) {
			ch.Binder = append([]byte{ch.Binder[0] ^ 1}, ch.Binder[1:]...)
			return tee.honest(&ch)
		}), alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "the bare nonce in place of the binder", setup: sends(func(tee *stubTEE, _ context.Context, ch attestext.Challenge) ([]byte, error) {
			ch.Binder = ch.Nonce
			return tee.honest(&ch)
		}), alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "another key", setup: sends(func(tee *stubTEE, _ context.Context, ch attestext.Challenge) ([]byte, error) {
			ch.SPKI = []byte("another")
			return tee.honest(&ch)
		}), alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "evidence of another type than was selected", setup: otherFormatCame,
			alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrWrongType},
		{name: "a certificate whose key did not sign", peer: &misbehavingPeer{signKey: newTestKey()}, alert: alertDecryptError},
		{name: "an attested key that did not sign", setup: bothOnly, peer: &misbehavingPeer{signKey: newTestKey()}, alert: alertDecryptError},
		{name: "an attested key that is no key", setup: func(relies, attester *Config) {
			bothOnly(relies, attester)
			relies.Attestation.Verifier = &stubTEE{appraise: func(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
				return &attestext.Appraisal{Verdict: "affirming", Key: []byte("no key")}, nil
			}}
		}, alert: alertBadCertificate, stage: AttestationStageAppraise, says: "attested key"},
		{name: "evidence of a policy that says no", setup: verifies(func(context.Context) (*attestext.Appraisal, error) {
			return nil, attestext.Errorf(attestext.ErrPolicy, "appraise", "debug TD")
		}), alert: alertAccessDenied, stage: AttestationStageAppraise, class: attestext.ErrPolicy},
		{name: "a signature that does not verify", setup: verifies(func(context.Context) (*attestext.Appraisal, error) {
			return nil, attestext.Errorf(attestext.ErrSignature, "appraise", "chain")
		}), alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrSignature},
		{name: "a verifier that errs", setup: verifies(func(context.Context) (*attestext.Appraisal, error) { return nil, errors.New("down") }),
			alert: alertInternalError, stage: AttestationStageAppraise, class: attestext.ErrUnavailable},
		{name: "a verifier that panics", setup: verifies(func(context.Context) (*attestext.Appraisal, error) { panic("ouch") }),
			alert: alertInternalError, stage: AttestationStageAppraise, class: attestext.ErrUnavailable},
		{name: "a verifier that sleeps", setup: verifies(func(ctx context.Context) (*attestext.Appraisal, error) { <-ctx.Done(); return nil, ctx.Err() }),
			alert: alertInternalError, stage: AttestationStageAppraise, class: attestext.ErrUnavailable},

		// Results.
		{name: "a result over another key", setup: func(relies, attester *Config) {
			passports(relies, attester)
			attester.Attestation.Results = &stubResults{key: []byte("other")}
		}, alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "a result over no key", setup: func(relies, attester *Config) {
			passports(relies, attester)
			attester.Attestation.Results = &stubResults{key: []byte{}}
		}, alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "a result of another verifier", setup: func(relies, attester *Config) {
			passports(relies, attester)
			attester.Attestation.Results = &stubResults{signer: "w"}
		}, alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrSignature},
		{name: "an attestation-only result over no key", setup: onlyAndHeldBy(&stubResults{key: []byte{}}),
			alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "an attestation-only result over what is no key", setup: onlyAndHeldBy(&stubResults{key: []byte("no key")}),
			alert: alertBadCertificate, stage: AttestationStageAppraise, says: "attested key"},

		// Two keys.
		{name: "two attested key proofs", setup: twoKeys, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = append(e[0].extensions, e[0].extensions[1])
			return e
		}}, alert: alertIllegalParameter, stage: AttestationStageCertificate},
		{name: "no proof for evidence over another key", setup: twoKeys, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = e[0].extensions[:1]
			return e
		}}, alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "evidence of the certificate's key beside a proof of another", setup: func(relies, attester *Config) {
			twoKeys(relies, attester)
			attester.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
				ch := *req.Challenge
				ch.SPKI = attester.Certificates[0].Leaf.RawSubjectPublicKeyInfo
				return (&stubTEE{}).honest(&ch)
			}}
		}, alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Run("by a server", func(t *testing.T) { r.run(t, true) })
			byClient := r
			byClient.setup = turned(r.setup)
			t.Run("by a client", func(t *testing.T) { byClient.run(t, false) })
		})
	}
}

// TestOffersThatMatchNothing: what a client offers and a server cannot know is no
// error in itself, and does not match.
//
// Requirements: 8.1.2-2, 8.2.2-2.
func TestOffersThatMatchNothing(t *testing.T) {
	cp := testCodePoints
	proposal := func(body ...byte) *misbehavingPeer {
		return &misbehavingPeer{clientHello: func(x []attestExtension) []attestExtension {
			return replaceExtension(x, cp.EvidenceProposal, func([]byte) []byte { return body })
		}}
	}
	results := func(body ...byte) *misbehavingPeer {
		return &misbehavingPeer{clientHello: func(x []attestExtension) []attestExtension {
			return replaceExtension(x, cp.ResultsProposal, func([]byte) []byte { return body })
		}}
	}
	for _, r := range []refusal{
		{name: "a kind that nobody knows", setup: turned(nil), peer: proposal(4, 9, 0, 1, 17),
			alert: alert(224), stage: AttestationStageNegotiate, says: "credential_kind(9)"},
		{name: "an encoding that nobody knows", setup: turned(nil), peer: proposal(4, 1, 9, 1, 17),
			alert: alertDecodeError, stage: AttestationStageNegotiate, class: attestext.ErrMalformed},
		{name: "an empty media type", setup: turned(nil), peer: proposal(4, 1, 1, 0, 0),
			alert: alertDecodeError, stage: AttestationStageNegotiate, class: attestext.ErrMalformed},
		{name: "an empty proposal", setup: turned(nil), peer: proposal(),
			alert: alertDecodeError, stage: AttestationStageNegotiate, class: attestext.ErrMalformed},
		{name: "an empty list of proposals", setup: turned(nil), peer: proposal(0),
			alert: alertDecodeError, stage: AttestationStageNegotiate, class: attestext.ErrMalformed},
		{name: "a proposal with a nonce", setup: turned(nil), peer: proposal(4, 1, 0, 1, 17, 8, 1, 2, 3, 4, 5, 6, 7, 8),
			alert: alertDecodeError, stage: AttestationStageNegotiate, class: attestext.ErrMalformed},
		{name: "an empty verifier identity", setup: turned(passports), peer: results(2, 0, 0),
			alert: alertDecodeError, stage: AttestationStageNegotiate, class: attestext.ErrMalformed},
		{name: "an empty list of verifiers", setup: turned(passports), peer: results(0),
			alert: alertDecodeError, stage: AttestationStageNegotiate, class: attestext.ErrMalformed},
		{name: "a verifier of the same name in other letters", setup: turned(passports), peer: results(append([]byte{18, 0, 16}, "VERIFIER.example"...)...),
			alert: alert(225), stage: AttestationStageNegotiate},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, false) })
	}
	// A type that comes twice is one type.
	client, server := attesting()
	client.Attestation.Verifier = &stubTEE{formats: []attestext.EvidenceFormat{stubFormat, stubFormat}}
	attestHandshake(t, client, server).mustSucceed(t)
}

// TestResumptionIsRefusedByAClientThatOfferedNone: a client that asked for attestation
// has offered neither a session nor early data, and takes up none.
func TestResumptionIsRefusedByAClientThatOfferedNone(t *testing.T) {
	for _, r := range []refusal{
		{name: "a selected PSK", peer: &misbehavingPeer{serverHello: []attestExtension{{extensionPreSharedKey, []byte{0, 0}}}},
			alert: alertIllegalParameter, says: "invalid PSK"},
		{name: "accepted early data", peer: &misbehavingPeer{encryptedExtensions: func(_ *Conn, x []attestExtension) []attestExtension {
			return append(x, attestExtension{extensionEarlyData, nil})
		}}, alert: alertUnsupportedExtension, says: "early_data"},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, true) })
	}
	early := refusal{name: "offered early data", peer: &misbehavingPeer{clientHello: func(x []attestExtension) []attestExtension {
		return append(x, attestExtension{extensionEarlyData, nil})
	}}, alert: alertUnsupportedExtension, says: "early data"}
	t.Run(early.name, func(t *testing.T) { early.run(t, false) })
	early.setup = turned(nil)
	t.Run(early.name+" by a client that attests", func(t *testing.T) { early.run(t, false) })
}

// A session ticket from a server that attests, and should send none, is counted
// and dropped.
func TestUnexpectedTicketIsCountedAndDropped(t *testing.T) {
	for _, setup := range []func(c, s *Config){nil, bothOnly, passports, turned(nil)} {
		client, server := attesting()
		if setup != nil {
			setup(client, server)
		}
		cache := NewLRUClientSessionCache(8)
		client.ClientSessionCache = cache
		c, s := localPipe(t)
		ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
		(&misbehavingPeer{after: func(c *Conn) error {
			ticket := &newSessionTicketMsgTLS13{lifetime: 3600, nonce: []byte{1}, label: []byte("ticket")}
			for range 2 {
				if _, err := c.writeHandshakeRecord(ticket, nil); err != nil {
					return err
				}
			}
			return nil
		}}).server(ends.server)
		ends.run(t, c, s)
		ends.mustSucceed(t)
		if n := ends.client.ConnectionState().TicketsReceived; n != 2 {
			t.Errorf("%d tickets counted, want 2", n)
		}
		if _, ok := cache.Get("server.example"); ok {
			t.Error("the ticket was kept")
		}
	}
}

// After the handshake neither end is asked for a certificate, nor takes one: the
// binder is for the handshake only.
func TestPostHandshakeAuthenticationIsRefused(t *testing.T) {
	request := &certificateRequestMsgTLS13{supportedSignatureAlgorithms: []SignatureScheme{ECDSAWithP256AndSHA256}}
	certificate := &certificateMsgTLS13{certificate: attestPKI().client}
	certificate.attest.send = []attestExtension{{testCodePoints.AttestationEvidence, []byte("evidence")}}
	for _, victimIsClient := range []bool{true, false} {
		for _, setup := range []func(c, s *Config){nil, turned(nil), passports, bothOnly} {
			client, server := attesting()
			if setup != nil {
				setup(client, server)
			}
			c, s := localPipe(t)
			ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
			victim, victimErr, msg := ends.client, &ends.clientErr, handshakeMessage(request)
			peer := &misbehavingPeer{after: func(c *Conn) error {
				_, err := c.writeHandshakeRecord(msg, nil)
				return err
			}}
			if victimIsClient {
				peer.server(ends.server)
			} else {
				victim, victimErr, msg = ends.server, &ends.serverErr, certificate
				peer.client(ends.client)
			}
			ends.run(t, c, s)
			if a, ok := victim.AlertSent(); *victimErr == nil || !ok || alert(a) != alertUnexpectedMessage {
				t.Errorf("client is asked: %v: %v, alert %v (%v)", victimIsClient, *victimErr, a, ok)
			}
			if n, err := victim.Write([]byte("x")); n != 0 || err == nil {
				t.Errorf("Write after the refusal: %d, %v", n, err)
			}
		}
	}
}

// TestQUICEarlyDataIsNotOfferedWithAttestation: a session with early data, of a
// connection that did not attest, is of no use to one that does.
func TestQUICEarlyDataIsNotOfferedWithAttestation(t *testing.T) {
	client, server := attestConfigs()
	client.ClientSessionCache = NewLRUClientSessionCache(8)
	client.NextProtos, server.NextProtos = []string{"h3"}, []string{"h3"}
	server.SetSessionTicketKeys([][32]byte{{1}})
	connect := func(client, server *Config) (cli, srv *testQUICConn, err error) {
		client.MinVersion, server.MinVersion = VersionTLS13, VersionTLS13
		cli, srv = newTestQUICClient(t, &QUICConfig{TLSConfig: client}), newTestQUICServer(t, &QUICConfig{TLSConfig: server})
		cli.conn.SetTransportParameters(nil)
		srv.conn.SetTransportParameters(nil)
		srv.ticketOpts.EarlyData = true
		return cli, srv, runTestQUICConnection(context.Background(), cli, srv, nil)
	}
	early := func(q *testQUICConn) bool {
		_, w := q.writeSecret[QUICEncryptionLevelEarly]
		_, r := q.readSecret[QUICEncryptionLevelEarly]
		return w || r
	}
	for i := range 2 {
		cli, srv, err := connect(client, server)
		if err != nil || early(cli) != (i == 1) || early(srv) != (i == 1) {
			t.Fatalf("connection %d without attestation: %v, early data %v, %v", i, err, early(cli), early(srv))
		}
	}
	attestedClient, attestedServer := client.Clone(), server.Clone()
	attestedClient.Attestation, attestedServer.Attestation = &AttestationConfig{Verifier: &stubTEE{}}, &AttestationConfig{Attester: &stubTEE{}}
	cli, srv, err := connect(attestedClient, attestedServer)
	if s := cli.conn.ConnectionState(); err != nil || early(cli) || early(srv) || s.DidResume || !s.PeerAttestation.Valid() {
		t.Errorf("with attestation: %v, early data %v, %v, %+v", err, early(cli), early(srv), s.AttestationState)
	}
	// And a server that requires attestation reads no early data of one that offers it.
	attestedServer.Attestation = &AttestationConfig{Verifier: &stubTEE{}}
	cli, srv, err = connect(client, attestedServer)
	if a, _ := srv.conn.conn.AlertSent(); err == nil || alert(a) != alertMissingExtension || early(srv) {
		t.Errorf("a server that requires attestation: %v, alert %v, early data %v", err, a, early(srv))
	}
	offered := false
	for e := cli.conn.NextEvent(); e.Kind != QUICNoEvent; e = cli.conn.NextEvent() {
		offered = offered || e.Kind == QUICSetWriteSecret && e.Level == QUICEncryptionLevelEarly
	}
	if !offered {
		t.Error("the client of that server offered no early data")
	}
}

// editedConn changes the first thing that is written to it.
type editedConn struct {
	net.Conn
	edit func([]byte) []byte
}

func (c *editedConn) Write(b []byte) (int, error) {
	if c.edit == nil {
		return c.Conn.Write(b)
	}
	b2 := c.edit(bytes.Clone(b))
	c.edit = nil
	if _, err := c.Conn.Write(b2); err != nil {
		return 0, err
	}
	return len(b), nil
}

// editRecord changes the handshake message of a record.
func editRecord(edit func([]byte) []byte) func([]byte) []byte {
	return func(record []byte) []byte {
		n := int(binary.BigEndian.Uint16(record[3:]))
		msg := edit(bytes.Clone(record[5 : 5+n]))
		out := append(bytes.Clone(record[:5]), msg...)
		binary.BigEndian.PutUint16(out[3:], uint16(len(msg)))
		return append(out, record[5+n:]...)
	}
}

// TestHelloRetryRequestCarriesNoAttestation: the extensions have no place there.
//
// Requirements: 12.1-1.
func TestHelloRetryRequestCarriesNoAttestation(t *testing.T) {
	cp := testCodePoints
	for _, typ := range append(negotiationExtensions(cp), cp.AttestationEvidence, cp.AttestedKeyProof) {
		client, server := attesting()
		server.CurvePreferences = []CurveID{CurveP256}
		c, s := localPipe(t)
		edited := &editedConn{Conn: s, edit: editRecord(func(msg []byte) []byte {
			return appendToServerHello(msg, []attestExtension{{typ, []byte{1, 0, 0, 1}}})
		})}
		ends := &attestEnds{client: Client(c, client), server: Server(edited, server)}
		ends.run(t, c, s)
		a, _ := ends.client.AlertSent()
		if ae, ok := errors.AsType[*AttestationError](ends.clientErr); !ok || ae.Stage != AttestationStageNegotiate || alert(a) != alertIllegalParameter {
			t.Errorf("%#04x: %v, alert %v", typ, ends.clientErr, a)
		}
	}
}

// stripExtensions removes extensions from an encoded ClientHello.
func stripExtensions(msg []byte, strip func(typ uint16) bool) []byte {
	at := 4 + 2 + 32
	at += 1 + int(msg[at])                           // legacy_session_id
	at += 2 + int(binary.BigEndian.Uint16(msg[at:])) // cipher_suites
	at += 1 + int(msg[at])                           // legacy_compression_methods
	extensions, out := cryptobyte.String(msg[at+2:]), bytes.Clone(msg[:at+2])
	for !extensions.Empty() {
		var typ uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&typ) || !extensions.ReadUint16LengthPrefixed(&data) {
			panic("stripExtensions")
		}
		if strip(typ) {
			continue
		}
		out = binary.BigEndian.AppendUint16(out, typ)
		out = binary.BigEndian.AppendUint16(out, uint16(len(data)))
		out = append(out, data...)
	}
	binary.BigEndian.PutUint16(out[at:], uint16(len(out)-at-2))
	n := len(out) - 4
	out[1], out[2], out[3] = byte(n>>16), byte(n>>8), byte(n)
	return out
}

// TestStrippedOffersAreNoticed: where attestation is requested and not required,
// taking an offer out of ClientHello on its way still ends the handshake, for the
// transcripts differ; so does taking TLS 1.3 out of it.
func TestStrippedOffersAreNoticed(t *testing.T) {
	cp := testCodePoints
	for _, stripped := range [][]uint16{
		{cp.EvidenceRequest}, {cp.EvidenceProposal}, {cp.ResultsRequest}, {cp.ResultsProposal}, negotiationExtensions(cp), {extensionSupportedVersions},
	} {
		for _, policy := range []AttestationPolicy{RequestAttestation, RequireAttestation} {
			client, server := attesting()
			client.Attestation = &AttestationConfig{Verifier: &stubTEE{}, Attester: &stubTEE{}, ResultsVerifier: &stubResults{}, Results: &stubResults{}, Peer: policy}
			server.Attestation = &AttestationConfig{Verifier: &stubTEE{}, Attester: &stubTEE{}, ResultsVerifier: &stubResults{}, Results: &stubResults{}, Peer: RequestAttestation}
			c, s := localPipe(t)
			edited := &editedConn{Conn: c, edit: editRecord(func(msg []byte) []byte {
				return stripExtensions(msg, func(typ uint16) bool {
					for _, x := range stripped {
						if x == typ {
							return true
						}
					}
					return false
				})
			})}
			ends := &attestEnds{client: Client(edited, client), server: Server(s, server)}
			ends.run(t, c, s)
			want, sent := alertBadRecordMAC, true // the keys differ
			if stripped[0] == extensionSupportedVersions {
				want = alertIllegalParameter // the mark of a downgrade in ServerHello
				if policy == RequireAttestation {
					want, sent = 0, false // there is nothing but TLS 1.3 to offer, and the server refuses first
				}
			}
			if a, ok := ends.client.AlertSent(); ends.clientErr == nil || ok != sent || alert(a) != want {
				t.Errorf("%#04x stripped: client %v, alert %v (%v), want %v; server %v", stripped, ends.clientErr, a, ok, want, ends.serverErr)
			}
			if ends.client.ConnectionState().PeerAttestation.Valid() && ends.clientErr == nil {
				t.Errorf("%#04x stripped: accepted", stripped)
			}
		}
	}
}

// A server that took up the request and does not say so has not taken it up, even
// if it sends evidence all the same.
//
// Requirements: 8.1.2-4.
func TestAnswersStrippedByTheServerAreMissed(t *testing.T) {
	none := &misbehavingPeer{encryptedExtensions: func(*Conn, []attestExtension) []attestExtension { return nil }}
	for _, setup := range []func(c, s *Config){nil, bothOnly, passports} {
		r := refusal{setup: setup, peer: none, alert: alertMissingExtension, stage: AttestationStageNegotiate, says: "server does not attest"}
		r.run(t, true)
	}
	// A client is asked by evidence_proposal only: without it no evidence comes, and
	// the server misses it.
	client, server := attesting()
	turned(nil)(client, server)
	c, s := localPipe(t)
	ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
	none.server(ends.server)
	ends.run(t, c, s)
	if a, _ := ends.server.AlertSent(); alert(a) != alertCertificateRequired {
		t.Errorf("server %v, alert %v", ends.serverErr, a)
	}
	if ends.client.ConnectionState().LocalAttestation != nil {
		t.Error("the client attested unasked")
	}
}

// A sweepMove presents evidence that is not this end's, or not of this session. The
// fields say in what it differs from what should come.
type sweepMove struct {
	name                   string
	session, key, role     bool // of another
	clientOnly, equalNonce bool
	// evidence makes it, in place of the attester of role.
	evidence func(m *sweepState, req *attestext.AttestRequest) ([]byte, error)
}

type sweepMode struct {
	model   attestext.Model
	kind    attestext.CredentialKind
	binding attestext.Binding
}

func (m sweepMode) String() string { return fmt.Sprintf("%v, %v, %v", m.model, m.kind, m.binding) }

// sweepState is what the attacker has at hand.
type sweepState struct {
	mode             sweepMode
	peers            []byte // evidence of the other end of this connection
	same, otherRoles []byte // evidence of earlier connections, of both roles
}

// honest makes evidence for a challenge as an end in this mode does.
func (m sweepMode) honest(ch attestext.Challenge) ([]byte, error) {
	if m.model == attestext.Passport {
		r := &stubResults{}
		if m.kind == attestext.CertAttestation && m.binding == attestext.BindingDraft08 {
			r.key = []byte{}
		}
		return r.Attest(context.Background(), &attestext.AttestRequest{Verifier: "verifier.example", Challenge: &ch})
	}
	return (&stubTEE{}).honest(&ch)
}

// sweepOutcome says what becomes of a move: the rules of a mode in one place.
// X.509 under the draft's rule covers the session and neither the key nor the
// role; a passport under it covers nothing of the connection; in attestation-only
// the key is the one that must sign.
func sweepOutcome(mode sweepMode, move sweepMove) alert {
	background := mode.model == attestext.BackgroundCheck
	beside := mode.kind == attestext.CertAttestation
	hardened := mode.binding == attestext.BindingHardened
	switch {
	case background && move.session:
		return alertBadCertificate
	case beside && hardened && (move.key || background && move.role):
		return alertBadCertificate
	case !beside && move.key:
		return alertDecryptError
	}
	return 0 // accepted
}

// configs returns configurations in which both ends attest in one mode.
func (m sweepMode) configs() (client, server *Config) {
	client, server = attestConfigs()
	d := productDirection{true, m.model, productSetting{m.kind, m.binding}, productSetting{m.kind, m.binding}}
	d.configure(client, server)
	d.configure(server, client)
	return client, server
}

// sweepAttester presents the evidence of a move, in either model.
type sweepAttester struct {
	stubTEE
	make func(req *attestext.AttestRequest) ([]byte, error)
}

func (a *sweepAttester) Verifiers() []attestext.VerifierIdentity { return (&stubResults{}).Verifiers() }

func (a *sweepAttester) Attest(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
	return a.make(req)
}

// sweepVerifier notes the evidence that it accepts, in either model.
type sweepVerifier struct {
	stubTEE
	model attestext.Model
	seen  *[]byte
}

func (v *sweepVerifier) Verifiers() []attestext.VerifierIdentity {
	return (&stubResults{}).Verifiers()
}

func (v *sweepVerifier) Appraise(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
	*v.seen = ev.CMW
	if v.model == attestext.Passport {
		return (&stubResults{}).Appraise(ctx, ev, ch)
	}
	return v.stubTEE.Appraise(ctx, ev, ch)
}

func (m sweepMode) setAttester(c *Config, make func(*attestext.AttestRequest) ([]byte, error)) {
	if m.model == attestext.Passport {
		c.Attestation.Results = &sweepAttester{make: make}
	} else {
		c.Attestation.Attester = &sweepAttester{make: make}
	}
}

func (m sweepMode) setVerifier(c *Config, seen *[]byte) {
	if m.model == attestext.Passport {
		c.Attestation.ResultsVerifier = &sweepVerifier{model: m.model, seen: seen}
	} else {
		c.Attestation.Verifier = &sweepVerifier{model: m.model, seen: seen}
	}
}

// TestMisplacedEvidenceIsRefusedWhereTheModeCoversIt: evidence that is reflected,
// spliced from the other direction, replayed from another connection, or over another
// key is refused in each mode whose rule covers what is wrong with it, and accepted
// where none does. The acceptances are what docs warn of: the draft's rule beside a
// certificate covers neither the key nor the role, and a passport under it nothing at
// all.
//
// Requirements: 4-2, 6.2.1-2, 6.2.1-3.
func TestMisplacedEvidenceIsRefusedWhereTheModeCoversIt(t *testing.T) {
	other := newTestKey()
	otherSPKI := spkiOf(t, other)
	moves := []sweepMove{
		{name: "the other end's own, reflected", session: true, key: true, role: true, clientOnly: true,
			evidence: func(s *sweepState, _ *attestext.AttestRequest) ([]byte, error) { return s.peers, nil }},
		{name: "the other end's own, reflected, of a server that picked the client's nonce", key: true, role: true, clientOnly: true, equalNonce: true,
			evidence: func(s *sweepState, _ *attestext.AttestRequest) ([]byte, error) { return s.peers, nil }},
		{name: "of another connection", session: true, // over the same certificate; without one, of another machine
			evidence: func(s *sweepState, _ *attestext.AttestRequest) ([]byte, error) { return s.same, nil }},
		{name: "of the other direction of another connection", session: true, key: true, role: true,
			evidence: func(s *sweepState, _ *attestext.AttestRequest) ([]byte, error) { return s.otherRoles, nil }},
		{name: "over another key", key: true,
			evidence: func(s *sweepState, req *attestext.AttestRequest) ([]byte, error) {
				ch := *req.Challenge
				ch.SPKI = otherSPKI
				return s.mode.honest(ch)
			}},
		{name: "of the other role", role: true,
			evidence: func(s *sweepState, req *attestext.AttestRequest) ([]byte, error) {
				ch := *req.Challenge
				ch.Role = attestext.RoleServer + attestext.RoleClient - ch.Role
				return s.mode.honest(ch)
			}},
	}
	cells, accepted := 0, 0
	for _, model := range productModels {
		for _, kind := range productKinds {
			for _, binding := range productBindings {
				mode := sweepMode{model, kind, binding}
				for _, role := range []attestext.Role{attestext.RoleClient, attestext.RoleServer} {
					for _, move := range moves {
						if move.clientOnly && role == attestext.RoleServer {
							continue // the server speaks first, and has nothing to reflect
						}
						if move.name == "of another connection" && kind == attestext.AttestationOnly {
							move.key = true
						}
						cells++
						want := sweepOutcome(mode, move)
						if want == 0 {
							accepted++
						}
						t.Run(fmt.Sprintf("%v/%v/%s", mode, role, move.name), func(t *testing.T) { sweepCell(t, mode, role, move, want) })
					}
				}
			}
		}
	}
	t.Logf("%d cells, of which %d are accepted, as the rule of the mode does not cover them", cells, accepted)
	t.Attr("cells", fmt.Sprint(cells))
}

func sweepCell(t *testing.T, mode sweepMode, role attestext.Role, move sweepMove, want alert) {
	state := &sweepState{mode: mode}
	// An earlier connection, from which the attacker has the evidence of both ends.
	client, server := mode.configs()
	var ofServer, ofClient []byte
	mode.setVerifier(client, &ofServer)
	mode.setVerifier(server, &ofClient)
	attestHandshake(t, client, server).mustSucceed(t)
	state.same, state.otherRoles = ofClient, ofServer
	if role == attestext.RoleServer {
		state.same, state.otherRoles = ofServer, ofClient
	}

	client, server = mode.configs()
	attacker := client
	if role == attestext.RoleServer {
		attacker = server
	}
	mode.setVerifier(attacker, &state.peers)
	mode.setAttester(attacker, func(req *attestext.AttestRequest) ([]byte, error) { return move.evidence(state, req) })
	c, s := localPipe(t)
	ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
	if move.equalNonce && mode.model == attestext.BackgroundCheck {
		(&misbehavingPeer{negotiated: func(c *Conn) { c.attest.peer.nonce = c.attest.self.nonce }}).server(ends.server)
	}
	ends.run(t, c, s)
	victim, err := ends.server, ends.serverErr
	if role == attestext.RoleServer {
		victim, err = ends.client, ends.clientErr
	}
	if want == 0 {
		ends.mustSucceed(t)
		return
	}
	if a, ok := victim.AlertSent(); err == nil || !ok || alert(a) != want {
		t.Errorf("%v, alert %v (%v), want %v", err, a, ok, want)
	}
	if want == alertBadCertificate && !errors.Is(err, attestext.ErrBinding) {
		t.Errorf("error %v is not one of binding", err)
	}
	if n, err := victim.Write([]byte("x")); n != 0 || err == nil {
		t.Errorf("Write after the refusal: %d, %v", n, err)
	}
}

// A server may pick the nonce that the client picked: under the hardened rule the
// two directions still sign different things, and both are as fresh as ever.
func TestEqualNoncesDoNotMakeEqualEvidence(t *testing.T) {
	for _, binding := range productBindings {
		mode := sweepMode{attestext.BackgroundCheck, attestext.CertAttestation, binding}
		client, server := mode.configs()
		var ofServer, ofClient []byte
		mode.setVerifier(client, &ofServer)
		mode.setVerifier(server, &ofClient)
		c, s := localPipe(t)
		ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
		(&misbehavingPeer{negotiated: func(c *Conn) { c.attest.peer.nonce = c.attest.self.nonce }}).server(ends.server)
		ends.run(t, c, s)
		ends.mustSucceed(t)
		a, b := ends.client.ConnectionState().PeerAttestation.Challenge(), ends.server.ConnectionState().PeerAttestation.Challenge()
		if !bytes.Equal(a.Nonce, b.Nonce) || !bytes.Equal(a.Binder, b.Binder) {
			t.Fatal("the nonces differ")
		}
		if same := bytes.Equal(ofServer, ofClient); same != (binding == attestext.BindingDraft08) {
			t.Errorf("%v: equal evidence in both directions: %v", binding, same)
		}
	}
}

// A verifier and an attester that do not answer hold a handshake no longer than
// its context.
func TestDeadlineEndsAnAttestedHandshake(t *testing.T) {
	client, server := attesting()
	server.Attestation.Attester = &stubTEE{attest: func(ctx context.Context, _ *attestext.AttestRequest) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	server.Attestation.AttestTimeout = time.Hour
	c, s := localPipe(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Server(s, server).HandshakeContext(ctx) }()
	cancelled := make(chan error, 1)
	go func() { cancelled <- Client(c, client).Handshake() }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("server: %v", err)
	}
	s.Close()
	if err := <-cancelled; err == nil {
		t.Error("client: accepted")
	}
}
