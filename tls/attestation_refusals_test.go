package tls

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
)

var testCodePoints = (*attestext.CodePoints)(nil).WithDefaults()

// replaceExtension returns extensions with the data of one of them replaced.
func replaceExtension(extensions []attestExtension, typ uint16, f func([]byte) []byte) []attestExtension {
	out := make([]attestExtension, 0, len(extensions))
	for _, e := range extensions {
		if e.typ == typ {
			e.data = f(append([]byte{}, e.data...))
		}
		out = append(out, e)
	}
	return out
}

// A refusal is one wrong move: who makes it, and what its victim must do.
type refusal struct {
	name string
	// setup changes the configurations of honest ends in which the server attests.
	setup func(client, server *Config)
	// peer is how the other end misbehaves; nil if its configuration is enough.
	peer *misbehavingPeer
	// alert is the one that the victim sends, and says a part of its error.
	alert alert
	stage string
	says  string
	class error // of attestext; nil if any
}

// run runs the handshake and checks the victim's side of it, and that the other
// end hears the same alert.
func (r *refusal) run(t *testing.T, victimIsClient bool) {
	client, server := attestConfigs()
	client.Attestation = &AttestationConfig{Verifier: &stubTEE{}}
	server.Attestation = &AttestationConfig{Attester: &stubTEE{}}
	if r.setup != nil {
		r.setup(client, server)
	}
	c, s := localPipe(t)
	ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
	if r.peer != nil {
		if victimIsClient {
			r.peer.server(ends.server)
		} else {
			r.peer.client(ends.client)
		}
	}
	ends.run(t, c, s)
	victim, victimErr, other, otherErr := ends.client, ends.clientErr, ends.server, ends.serverErr
	if !victimIsClient {
		victim, victimErr, other, otherErr = ends.server, ends.serverErr, ends.client, ends.clientErr
	}
	if victimErr == nil {
		t.Fatal("accepted")
	}
	if a, ok := victim.AlertSent(); !ok || alert(a) != r.alert {
		t.Errorf("alert %v (sent: %v), want %v; error: %v", a, ok, r.alert, victimErr)
	}
	// An alert about ServerHello is sent before there are keys, and a server that
	// has them already cannot read it.
	early := r.peer != nil && r.peer.serverHello != nil
	if a, ok := other.AlertReceived(); !early && (!ok || alert(a) != r.alert) {
		t.Errorf("the other end heard alert %v (%v), want %v; error: %v", a, ok, r.alert, otherErr)
	}
	if !strings.Contains(victimErr.Error(), r.says) {
		t.Errorf("error %q does not say %q", victimErr, r.says)
	}
	var ae *AttestationError
	if r.stage != "" && (!errors.As(victimErr, &ae) || ae.Stage != r.stage || alert(ae.Alert) != r.alert) {
		t.Errorf("error %v is not of stage %s", victimErr, r.stage)
	}
	if r.class != nil && attestext.Class(victimErr) != r.class {
		t.Errorf("error %v is of class %v", victimErr, attestext.Class(victimErr))
	}
	if victim.ConnectionState().PeerAttestation.Valid() && r.stage != "" {
		t.Error("there is a result all the same")
	}
	// No application byte moves afterwards.
	if n, err := victim.Write([]byte("x")); err == nil || n != 0 {
		t.Errorf("Write after the refusal: %d, %v", n, err)
	}
	if n, err := victim.Read(make([]byte, 1)); err == nil || n != 0 {
		t.Errorf("Read after the refusal: %d, %v", n, err)
	}
}

// evidenceEntry changes the Evidence of the first entry.
func evidenceEntry(f func([]rawEntry, []byte) []rawEntry) func([]rawEntry) []rawEntry {
	return func(entries []rawEntry) []rawEntry {
		ev, _ := findExtension(entries[0].extensions, testCodePoints.AttestationEvidence)
		return f(entries, ev)
	}
}

// selects has a server answer evidence_request with the given body.
func selects(body ...byte) *misbehavingPeer {
	return &misbehavingPeer{encryptedExtensions: func(_ *Conn, x []attestExtension) []attestExtension {
		return replaceExtension(x, testCodePoints.EvidenceRequest, func([]byte) []byte { return body })
	}}
}

// sends has the server attest in another way.
func sends(attest func(honest *stubTEE, ctx context.Context, ch attestext.Challenge) ([]byte, error)) func(client, server *Config) {
	return func(_, server *Config) {
		honest := &stubTEE{}
		server.Attestation.Attester = &stubTEE{attest: func(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
			return attest(honest, ctx, *req.Challenge)
		}}
	}
}

// verifies has the client appraise in another way, within the given time.
func verifies(f func(context.Context) (*attestext.Appraisal, error)) func(client, server *Config) {
	return func(client, _ *Config) {
		client.Attestation.VerifyTimeout = 20 * time.Millisecond
		client.Attestation.Verifier = &stubTEE{appraise: func(ctx context.Context, _ *attestext.Evidence, _ *attestext.Challenge) (*attestext.Appraisal, error) {
			return f(ctx)
		}}
	}
}

// bothOnly turns a pair of configurations to attestation-only.
func bothOnly(client, server *Config) {
	client.Attestation.PeerCredentials, client.Attestation.AllowAttestationOnly = onlyKind, true
	server.Attestation.Credentials, server.Attestation.AllowAttestationOnly = onlyKind, true
}

// TestClientRefuses: the server errs or attacks, and the client ends the handshake.
//
// Hooks: client-server-hello, client-certificate, client-appraise, gate-read, gate-write.
//
// Requirements: 4-3, 8.1.2-5, 8.1.2-6, 8.1.2-8, 8.2.2-5, 8.2.2-6, 8.2.2-8, 12.1-1.
func TestClientRefuses(t *testing.T) {
	cp := testCodePoints
	for _, r := range []refusal{
		// The negotiation.
		{name: "a server that does not attest", setup: func(_, s *Config) { s.Attestation = nil },
			alert: alertMissingExtension, stage: AttestationStageNegotiate, says: "server does not attest"},
		{name: "a type that was not offered", peer: selects(1, 0, 0xfd, 0xe8),
			alert: alertIllegalParameter, stage: AttestationStageNegotiate, says: "server selected x509 content-format 65000, which was not offered"},
		{name: "a kind that was not offered", peer: selects(append([]byte{0, 1, 0, 18}, "application/x-stub"...)...),
			alert: alertIllegalParameter, stage: AttestationStageNegotiate, says: "attestation-only application/x-stub, which was not offered"},
		{name: "a truncated selection", peer: selects(1, 0, 0),
			alert: alertDecodeError, stage: AttestationStageNegotiate, says: "server's evidence_request", class: attestext.ErrMalformed},
		{name: "an empty selection", peer: selects(),
			alert: alertDecodeError, stage: AttestationStageNegotiate, says: "server's evidence_request", class: attestext.ErrMalformed},
		{name: "a selection with a trailing byte", peer: selects(append([]byte{1, 1, 0, 18}, "application/x-stub\x00"...)...),
			alert: alertDecodeError, stage: AttestationStageNegotiate, says: "1 bytes too many", class: attestext.ErrMalformed},
		{name: "a selection twice", peer: &misbehavingPeer{encryptedExtensions: func(_ *Conn, x []attestExtension) []attestExtension { return append(x, x...) }},
			alert: alertDecodeError},
		{name: "an answer to evidence_proposal, which was not offered", peer: &misbehavingPeer{encryptedExtensions: func(_ *Conn, x []attestExtension) []attestExtension {
			return append(x, attestExtension{cp.EvidenceProposal, []byte{1, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8}})
		}}, alert: alertUnsupportedExtension, stage: AttestationStageNegotiate, says: "evidence_proposal, which was not offered"},
		{name: "an answer to results_request, which was not offered", peer: &misbehavingPeer{encryptedExtensions: func(_ *Conn, x []attestExtension) []attestExtension {
			return append(x, attestExtension{cp.ResultsRequest, []byte{0, 1, 'v'}})
		}}, alert: alertUnsupportedExtension, stage: AttestationStageNegotiate, says: "not offered"},
		{name: "evidence_request in ServerHello", peer: &misbehavingPeer{serverHello: []attestExtension{{cp.EvidenceRequest, []byte{1, 0, 0, 1}}}},
			alert: alertIllegalParameter, stage: AttestationStageNegotiate, says: "in ServerHello"},
		{name: "evidence_proposal in ServerHello", peer: &misbehavingPeer{serverHello: []attestExtension{{cp.EvidenceProposal, nil}}},
			alert: alertIllegalParameter, stage: AttestationStageNegotiate, says: "in ServerHello"},
		{name: "results_request in ServerHello", peer: &misbehavingPeer{serverHello: []attestExtension{{cp.ResultsRequest, nil}}},
			alert: alertIllegalParameter, stage: AttestationStageNegotiate, says: "in ServerHello"},
		{name: "results_proposal in ServerHello", peer: &misbehavingPeer{serverHello: []attestExtension{{cp.ResultsProposal, nil}}},
			alert: alertIllegalParameter, stage: AttestationStageNegotiate, says: "in ServerHello"},
		{name: "a proposal taken up without a CertificateRequest",
			setup: func(c, s *Config) { c.Attestation.Attester, s.Attestation.Verifier = &stubTEE{}, &stubTEE{} },
			peer:  &misbehavingPeer{noCertificateRequest: true},
			alert: alertIllegalParameter, stage: AttestationStageNegotiate, says: "without a CertificateRequest"},
		{name: "a nonce of 7 bytes for the client",
			setup: func(c, s *Config) { c.Attestation.Attester, s.Attestation.Verifier = &stubTEE{}, &stubTEE{} },
			peer: &misbehavingPeer{encryptedExtensions: func(_ *Conn, x []attestExtension) []attestExtension {
				return replaceExtension(x, cp.EvidenceProposal, func(b []byte) []byte { return append(b[:len(b)-33], 7, 1, 2, 3, 4, 5, 6, 7) })
			}},
			alert: alertDecodeError, stage: AttestationStageNegotiate, says: "nonce of 7 bytes"},
		{name: "a nonce of 65 bytes for the client",
			setup: func(c, s *Config) { c.Attestation.Attester, s.Attestation.Verifier = &stubTEE{}, &stubTEE{} },
			peer: &misbehavingPeer{encryptedExtensions: func(_ *Conn, x []attestExtension) []attestExtension {
				return replaceExtension(x, cp.EvidenceProposal, func(b []byte) []byte { return append(append(b[:len(b)-33], 65), make([]byte, 65)...) })
			}},
			alert: alertIllegalParameter, stage: AttestationStageNegotiate, says: "nonce of 65 bytes"},

		{name: "a verifier that was not offered", setup: passports, peer: &misbehavingPeer{encryptedExtensions: func(_ *Conn, x []attestExtension) []attestExtension {
			return replaceExtension(x, cp.ResultsRequest, func([]byte) []byte { return []byte{0, 1, 'w'} })
		}}, alert: alertIllegalParameter, stage: AttestationStageNegotiate, says: `verifier "w", which was not offered`},
		{name: "a malformed selection of a verifier", setup: passports, peer: &misbehavingPeer{encryptedExtensions: func(_ *Conn, x []attestExtension) []attestExtension {
			return replaceExtension(x, cp.ResultsRequest, func(b []byte) []byte { return append(b, 0) })
		}}, alert: alertDecodeError, stage: AttestationStageNegotiate, class: attestext.ErrMalformed},
		{name: "evidence and results in one direction", setup: func(c, s *Config) { c.Attestation.ResultsVerifier = &stubResults{} },
			peer: &misbehavingPeer{encryptedExtensions: func(_ *Conn, x []attestExtension) []attestExtension {
				return append(x, attestExtension{cp.ResultsRequest, append([]byte{0, 16}, "verifier.example"...)})
			}}, alert: alertIllegalParameter, stage: AttestationStageNegotiate, says: "both evidence and results"},
		{name: "attestation_evidence in EncryptedExtensions", peer: &misbehavingPeer{encryptedExtensions: func(_ *Conn, x []attestExtension) []attestExtension {
			return append(x, attestExtension{cp.AttestationEvidence, nil})
		}}, alert: alertUnsupportedExtension, stage: AttestationStageNegotiate, says: "in EncryptedExtensions, it belongs in Certificate"},
		{name: "a result over another key", setup: func(c, s *Config) { passports(c, s); s.Attestation.Results = &stubResults{key: []byte("other")} },
			alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "a result over no key", setup: func(c, s *Config) { passports(c, s); s.Attestation.Results = &stubResults{key: []byte{}} },
			alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "a result of another verifier", setup: func(c, s *Config) { passports(c, s); s.Attestation.Results = &stubResults{signer: "w"} },
			alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrSignature},

		// The Certificate message.
		{name: "a certificate without evidence", peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { e[0].extensions = nil; return e }},
			alert: alertHandshakeFailure, stage: AttestationStageCertificate, says: "certificate without evidence"},
		{name: "an empty Certificate", peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { return nil }},
			alert: alertDecodeError, says: "empty certificates message"},
		{name: "empty evidence", peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { e[0].extensions[0].data = nil; return e }},
			alert: alertDecodeError, stage: AttestationStageCertificate, says: "empty evidence"},
		{name: "evidence twice", peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = append(e[0].extensions, e[0].extensions...)
			return e
		}}, alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "evidence twice"},
		{name: "evidence in the second entry", peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			return []rawEntry{{data: e[0].data}, {data: e[0].data, extensions: e[0].extensions}}
		}}, alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "in certificate entry 2"},
		{name: "evidence in both entries", peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { return append(e, e...) }},
			alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "in certificate entry 2"},
		{name: "evidence_request in the Certificate", peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = append(e[0].extensions, attestExtension{cp.EvidenceRequest, nil})
			return e
		}}, alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "in its Certificate"},
		{name: "evidence that was not asked for", setup: func(c, s *Config) { c.Attestation = &AttestationConfig{Attester: &stubTEE{}} },
			peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
				e[0].extensions = []attestExtension{{cp.AttestationEvidence, []byte("{}")}}
				return e
			}}, alert: alertUnsupportedExtension, stage: AttestationStageCertificate, says: "not asked for"},
		{name: "evidence that was requested and not agreed to", setup: func(c, s *Config) {
			c.Attestation.Peer, s.Attestation = RequestAttestation, nil
		}, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = []attestExtension{{cp.AttestationEvidence, []byte("{}")}}
			return e
		}}, alert: alertUnsupportedExtension, stage: AttestationStageCertificate, says: "not asked for"},
		{name: "attestation-only in two entries", setup: bothOnly, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { return append(e, e...) }},
			alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "2 entries"},
		{name: "attestation-only with an extension", setup: bothOnly, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = []attestExtension{{1234, nil}}
			return e
		}}, alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "extensions"},
		{name: "attestation-only with evidence beside it", setup: bothOnly, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = []attestExtension{{cp.AttestationEvidence, e[0].data}}
			return e
		}}, alert: alertUnsupportedExtension, stage: AttestationStageCertificate, says: "not asked for"},
		{name: "attestation-only without evidence", setup: bothOnly, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { e[0].data = nil; return e }},
			alert: alertDecodeError, stage: AttestationStageCertificate, says: "empty evidence"},

		// The Evidence.
		{name: "evidence that does not parse", peer: &misbehavingPeer{certificate: evidenceEntry(func(e []rawEntry, ev []byte) []rawEntry {
			e[0].extensions[0].data = ev[:len(ev)-1]
			return e
		})}, alert: alertDecodeError, stage: AttestationStageAppraise, class: attestext.ErrMalformed},
		{name: "another binder", setup: sends(func(tee *stubTEE, _ context.Context, ch attestext.Challenge) ([]byte, error) {
			ch.Binder = append([]byte{ch.Binder[0] ^ 1}, ch.Binder[1:]...)
			return tee.honest(&ch)
		}), alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "another key", setup: sends(func(tee *stubTEE, _ context.Context, ch attestext.Challenge) ([]byte, error) {
			ch.SPKI = []byte("another")
			return tee.honest(&ch)
		}), alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "evidence of the client role", setup: sends(func(tee *stubTEE, _ context.Context, ch attestext.Challenge) ([]byte, error) {
			ch.Role = attestext.RoleClient
			return tee.honest(&ch)
		}), alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "the bare nonce in place of the binder", setup: sends(func(tee *stubTEE, _ context.Context, ch attestext.Challenge) ([]byte, error) {
			ch.Binder = ch.Nonce
			return tee.honest(&ch)
		}), alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "the other binding rule", setup: func(c, s *Config) { s.Attestation.Binding = attestext.BindingDraft08 },
			alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "an attested key that did not sign", setup: bothOnly, peer: &misbehavingPeer{signKey: newTestKey()},
			alert: alertDecryptError},
		{name: "a certificate whose key did not sign", peer: &misbehavingPeer{signKey: newTestKey()},
			alert: alertDecryptError},
		{name: "an attested key that is no key", setup: func(c, s *Config) {
			bothOnly(c, s)
			c.Attestation.Verifier = &stubTEE{appraise: func(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
				return &attestext.Appraisal{Verdict: "affirming", Key: []byte("no key")}, nil
			}}
		}, alert: alertBadCertificate, stage: AttestationStageAppraise, says: "attested key"},
		{name: "evidence of a policy that says no", setup: verifies(func(context.Context) (*attestext.Appraisal, error) {
			return nil, attestext.Errorf(attestext.ErrPolicy, "appraise", "debug TD")
		}), alert: alertAccessDenied, stage: AttestationStageAppraise, says: "debug TD", class: attestext.ErrPolicy},
		{name: "a signature that does not verify", setup: verifies(func(context.Context) (*attestext.Appraisal, error) {
			return nil, attestext.Errorf(attestext.ErrSignature, "appraise", "chain")
		}), alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrSignature},
		{name: "a signature that does not verify, explained", setup: explained(verifies(func(context.Context) (*attestext.Appraisal, error) {
			return nil, attestext.Errorf(attestext.ErrSignature, "appraise", "chain")
		})), alert: alertUnknownCA, stage: AttestationStageAppraise, class: attestext.ErrSignature},
		{name: "stale evidence, explained", setup: explained(verifies(func(context.Context) (*attestext.Appraisal, error) {
			return nil, attestext.Errorf(attestext.ErrPolicy, "appraise", "age: %w", attestext.ErrStale)
		})), alert: alertCertificateExpired, stage: AttestationStageAppraise, class: attestext.ErrPolicy},
		{name: "stale evidence", setup: verifies(func(context.Context) (*attestext.Appraisal, error) {
			return nil, attestext.Errorf(attestext.ErrPolicy, "appraise", "age: %w", attestext.ErrStale)
		}), alert: alertAccessDenied, stage: AttestationStageAppraise, class: attestext.ErrPolicy},
		{name: "a policy that says no, explained", setup: explained(verifies(func(context.Context) (*attestext.Appraisal, error) {
			return nil, attestext.Errorf(attestext.ErrPolicy, "appraise", "debug TD")
		})), alert: alertAccessDenied, stage: AttestationStageAppraise, class: attestext.ErrPolicy},
		{name: "evidence of another handshake, explained", setup: explained(verifies(func(context.Context) (*attestext.Appraisal, error) {
			return nil, attestext.Errorf(attestext.ErrBinding, "appraise", "nonce")
		})), alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "a verifier that errs", setup: verifies(func(context.Context) (*attestext.Appraisal, error) { return nil, errors.New("down") }),
			alert: alertInternalError, stage: AttestationStageAppraise, says: "down", class: attestext.ErrUnavailable},
		{name: "a verifier that panics", setup: verifies(func(context.Context) (*attestext.Appraisal, error) { panic("ouch") }),
			alert: alertInternalError, stage: AttestationStageAppraise, says: "verifier", class: attestext.ErrUnavailable},
		{name: "a verifier that sleeps", setup: verifies(func(ctx context.Context) (*attestext.Appraisal, error) { <-ctx.Done(); return nil, ctx.Err() }),
			alert: alertInternalError, stage: AttestationStageAppraise, says: "no answer within 20ms", class: attestext.ErrUnavailable},
		{name: "a verifier that says nothing", setup: verifies(func(context.Context) (*attestext.Appraisal, error) { return nil, nil }),
			alert: alertInternalError, stage: AttestationStageAppraise, class: attestext.ErrUnavailable},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, true) })
	}
}

// explained has a client explain its refusals.
func explained(setup func(client, server *Config)) func(client, server *Config) {
	return func(client, server *Config) {
		setup(client, server)
		client.Attestation.ExplainRefusals = true
	}
}

// offers has a client change its evidence_request.
func offers(f func([]byte) []byte) *misbehavingPeer {
	return &misbehavingPeer{clientHello: func(x []attestExtension) []attestExtension {
		return replaceExtension(x, testCodePoints.EvidenceRequest, f)
	}}
}

// TestServerRefuses: the client errs or attacks, or the server's attester fails,
// and the server ends the handshake.
//
// Hooks: server-negotiate, server-hello-retry, server-evidence, server-request, server-certificate, server-appraise.
//
// Requirements: 8.1.2-2, 8.2.2-2.
func TestServerRefuses(t *testing.T) {
	cp := testCodePoints
	nonce32 := func(b []byte) []byte { return b[len(b)-33:] }
	clientAttests := func(c, s *Config) {
		c.Attestation = &AttestationConfig{Attester: &stubTEE{}}
		s.Attestation = &AttestationConfig{Verifier: &stubTEE{}}
	}
	retry := func(c, s *Config) { s.CurvePreferences = []CurveID{CurveP384} }
	for _, r := range []refusal{
		// ClientHello.
		{name: "a truncated request", peer: offers(func(b []byte) []byte { return b[:len(b)-1] }),
			alert: alertDecodeError, stage: AttestationStageNegotiate, says: "client's extension 0xffa1", class: attestext.ErrMalformed},
		{name: "a request with a trailing byte", peer: offers(func(b []byte) []byte { return append(b, 0) }),
			alert: alertDecodeError, stage: AttestationStageNegotiate, says: "1 bytes too many", class: attestext.ErrMalformed},
		{name: "an empty request", peer: offers(func(b []byte) []byte { return nil }),
			alert: alertDecodeError, stage: AttestationStageNegotiate, class: attestext.ErrMalformed},
		{name: "an empty list", peer: offers(func(b []byte) []byte { return append([]byte{0}, nonce32(b)...) }),
			alert: alertDecodeError, stage: AttestationStageNegotiate, says: "empty list", class: attestext.ErrMalformed},
		{name: "an empty media type", peer: offers(func(b []byte) []byte { return append([]byte{4, 1, 1, 0, 0}, nonce32(b)...) }),
			alert: alertDecodeError, stage: AttestationStageNegotiate, says: "empty media type", class: attestext.ErrMalformed},
		{name: "an unknown encoding", peer: offers(func(b []byte) []byte { return append([]byte{4, 1, 2, 0, 0}, nonce32(b)...) }),
			alert: alertDecodeError, stage: AttestationStageNegotiate, says: "unknown encoding 2", class: attestext.ErrMalformed},
		{name: "a nonce of 7 bytes", peer: offers(func(b []byte) []byte { return append(b[:len(b)-33], 7, 1, 2, 3, 4, 5, 6, 7) }),
			alert: alertDecodeError, stage: AttestationStageNegotiate, says: "nonce of 7 bytes", class: attestext.ErrMalformed},
		{name: "a nonce of 65 bytes", peer: offers(func(b []byte) []byte { return append(append(b[:len(b)-33], 65), make([]byte, 65)...) }),
			alert: alert(224), stage: AttestationStageNegotiate, says: "client asks for"},
		{name: "a request twice", peer: &misbehavingPeer{clientHello: func(x []attestExtension) []attestExtension { return append(x, x...) }},
			alert: alertDecodeError},
		{name: "attestation_evidence in ClientHello", peer: &misbehavingPeer{clientHello: func(x []attestExtension) []attestExtension {
			return append(x, attestExtension{cp.AttestationEvidence, nil})
		}}, alert: alertIllegalParameter, stage: AttestationStageNegotiate, says: "in ClientHello"},
		{name: "no type in common", setup: func(c, s *Config) {
			s.Attestation.Attester = &stubTEE{formats: []attestext.EvidenceFormat{otherFormat}}
		},
			alert: alert(224), stage: AttestationStageNegotiate, says: "client asks for evidence [x509 application/x-stub], this server has evidence [x509 content-format 65001]"},
		{name: "no kind in common", setup: func(c, s *Config) { c.Attestation.PeerCredentials, c.Attestation.AllowAttestationOnly = onlyKind, true },
			alert: alert(224), stage: AttestationStageNegotiate, says: "client asks for evidence [attestation-only"},
		{name: "results, of which the server holds none", peer: &misbehavingPeer{clientHello: func([]attestExtension) []attestExtension {
			return []attestExtension{{cp.ResultsRequest, []byte{3, 0, 1, 'v'}}}
		}}, alert: alert(225), stage: AttestationStageNegotiate, says: `client asks for results by ["v"], this server has evidence`},
		{name: "no verifier in common", setup: func(c, s *Config) {
			passports(c, s)
			s.Attestation.Results = &stubResults{verifiers: []attestext.VerifierIdentity{"w"}}
		}, alert: alert(225), stage: AttestationStageNegotiate, says: `client asks for results by ["verifier.example"], this server has results by ["w"]`},
		{name: "neither a type nor a verifier in common", setup: func(c, s *Config) {
			c.Attestation.ResultsVerifier = &stubResults{}
			s.Attestation.Attester = &stubTEE{formats: []attestext.EvidenceFormat{otherFormat}}
			s.Attestation.Results = &stubResults{verifiers: []attestext.VerifierIdentity{"w"}}
		}, alert: alert(224), stage: AttestationStageNegotiate},
		{name: "evidence and results asked of a server that has other results", setup: func(c, s *Config) {
			c.Attestation.ResultsVerifier = &stubResults{}
			s.Attestation.Attester, s.Attestation.Results = nil, &stubResults{verifiers: []attestext.VerifierIdentity{"w"}}
		}, alert: alert(225), stage: AttestationStageNegotiate},
		{name: "evidence asked of a server that has results", setup: func(c, s *Config) {
			s.Attestation.Attester, s.Attestation.Results = nil, &stubResults{}
		}, alert: alert(224), stage: AttestationStageNegotiate},
		{name: "a client's results of no trusted verifier", setup: func(c, s *Config) {
			c.Attestation = &AttestationConfig{Results: &stubResults{}}
			s.Attestation = &AttestationConfig{ResultsVerifier: &stubResults{verifiers: []attestext.VerifierIdentity{"w"}}}
		}, alert: alert(225), stage: AttestationStageNegotiate, says: `client offers results by ["verifier.example"]`},
		{name: "malformed results_proposal", peer: &misbehavingPeer{clientHello: func(x []attestExtension) []attestExtension {
			return append(x, attestExtension{cp.ResultsProposal, []byte{3, 0, 0}})
		}}, alert: alertDecodeError, stage: AttestationStageNegotiate, class: attestext.ErrMalformed},

		// HelloRetryRequest.
		{name: "another nonce after HelloRetryRequest", setup: retry, peer: &misbehavingPeer{secondClientHello: func(x []attestExtension) []attestExtension {
			return replaceExtension(x, cp.EvidenceRequest, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
		}}, alert: alertIllegalParameter, says: "illegally modified second ClientHello"},
		{name: "no request after HelloRetryRequest", setup: retry, peer: &misbehavingPeer{secondClientHello: func([]attestExtension) []attestExtension { return nil }},
			alert: alertIllegalParameter, says: "illegally modified second ClientHello"},
		{name: "a proposal added after HelloRetryRequest", setup: retry, peer: &misbehavingPeer{secondClientHello: func(x []attestExtension) []attestExtension {
			return append(x, attestExtension{cp.EvidenceProposal, []byte{4, 1, 0, 0, 1}})
		}}, alert: alertIllegalParameter, says: "illegally modified second ClientHello"},
		{name: "another order after HelloRetryRequest",
			setup: func(c, s *Config) { retry(c, s); c.Attestation.Attester = &stubTEE{} },
			peer: &misbehavingPeer{secondClientHello: func(x []attestExtension) []attestExtension {
				return []attestExtension{x[1], x[0]}
			}}, alert: alertIllegalParameter, says: "illegally modified second ClientHello"},

		// The server's own attester.
		{name: "an attester that errs", setup: sends(func(*stubTEE, context.Context, attestext.Challenge) ([]byte, error) { return nil, errors.New("no TEE") }),
			alert: alertInternalError, stage: AttestationStageAttest, says: "no TEE"},
		{name: "an attester that panics", setup: sends(func(*stubTEE, context.Context, attestext.Challenge) ([]byte, error) { panic("ouch") }),
			alert: alertInternalError, stage: AttestationStageAttest, says: "attester", class: attestext.ErrUnavailable},
		{name: "an attester that sleeps", setup: func(c, s *Config) {
			sends(func(_ *stubTEE, ctx context.Context, _ attestext.Challenge) ([]byte, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})(c, s)
			s.Attestation.AttestTimeout = 20 * time.Millisecond
		}, alert: alertInternalError, stage: AttestationStageAttest, says: "no answer within 20ms", class: attestext.ErrUnavailable},
		{name: "an attester that says nothing", setup: sends(func(*stubTEE, context.Context, attestext.Challenge) ([]byte, error) { return nil, nil }),
			alert: alertInternalError, stage: AttestationStageAttest, says: "no evidence"},
		{name: "evidence that does not fit", setup: func(c, s *Config) { s.Attestation.Attester = &stubTEE{padding: 65535 - 4} },
			alert: alertInternalError, stage: AttestationStageAttest, says: "more than fits beside a certificate"},
		{name: "a Config with a mistake", setup: func(c, s *Config) { s.Attestation.NonceSize = 7 },
			peer: &misbehavingPeer{}, alert: alertInternalError, stage: AttestationStageNegotiate, says: "NonceSize is 7"},

		// A client that attests.
		{name: "a client that does not attest", setup: func(c, s *Config) { clientAttests(c, s); c.Attestation = nil },
			alert: alertMissingExtension, stage: AttestationStageNegotiate, says: "client does not offer to attest"},
		{name: "a client without a type in common", setup: func(c, s *Config) {
			clientAttests(c, s)
			c.Attestation.Attester = &stubTEE{formats: []attestext.EvidenceFormat{otherFormat}}
		}, alert: alert(224), stage: AttestationStageNegotiate, says: "client offers"},
		{name: "a client's certificate without evidence", setup: clientAttests, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { e[0].extensions = nil; return e }},
			alert: alertCertificateRequired, stage: AttestationStageCertificate, says: "client agreed to attest and sent a certificate without evidence"},
		{name: "a client's empty Certificate", setup: clientAttests, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { return nil }},
			alert: alertCertificateRequired, stage: AttestationStageCertificate, says: "empty Certificate"},
		{name: "a client's evidence in the second entry", setup: clientAttests, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			return []rawEntry{{data: e[0].data}, e[0]}
		}}, alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "client sent evidence in certificate entry 2"},
		{name: "a client's evidence that was not asked for", setup: func(c, s *Config) { s.ClientAuth = RequestClientCert },
			peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
				e[0].extensions = []attestExtension{{cp.AttestationEvidence, []byte("{}")}}
				return e
			}}, alert: alertUnsupportedExtension, stage: AttestationStageCertificate, says: "client sent evidence that was not asked for"},
		{name: "evidence of the server role from a client", setup: func(c, s *Config) {
			clientAttests(c, s)
			c.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
				ch := *req.Challenge
				ch.Role = attestext.RoleServer
				return (&stubTEE{}).honest(&ch)
			}}
		}, alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "a client's key that did not sign", setup: clientAttests, peer: &misbehavingPeer{signKey: newTestKey()}, alert: alertDecryptError},
		{name: "a client's certificate of nobody's, where policy names no weaker check", setup: func(c, s *Config) { clientAttests(c, s); s.ClientCAs = nil },
			alert: alertUnknownCA},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, false) })
	}
}

// TestConfigMistakesAreLocal: nothing is sent of a handshake whose Config cannot work.
func TestConfigMistakesAreLocal(t *testing.T) {
	many := &stubTEE{}
	for i := range 64 {
		many.formats = append(many.formats, attestext.EvidenceFormat{ContentFormat: uint16(i)})
	}
	for _, tt := range []struct {
		name, says string
		conf       AttestationConfig
	}{
		{"more types than the extension holds", "the extension holds 255", AttestationConfig{Verifier: many}},
		{"more types to propose than the extension holds", "the extension holds 255", AttestationConfig{Attester: many}},
		{"no types", "reads no evidence", AttestationConfig{Verifier: &stubTEE{formats: []attestext.EvidenceFormat{}}}},
		{"nonce of 7", "NonceSize is 7", AttestationConfig{Verifier: &stubTEE{}, NonceSize: 7}},
		{"rule for exported authenticators", "unknown expat", AttestationConfig{Attester: &stubTEE{}, Binding: attestext.BindingExpat}},
		{"peer's rule for exported authenticators", "unknown expat", AttestationConfig{Verifier: &stubTEE{}, PeerBinding: attestext.BindingExpat}},
		{"nonce of 256", "NonceSize is 256", AttestationConfig{Verifier: &stubTEE{}, NonceSize: 256}},
		{"attestation-only without leave", "without AllowAttestationOnly", AttestationConfig{Verifier: &stubTEE{}, PeerCredentials: onlyKind}},
		{"attestation-only of our own without leave", "without AllowAttestationOnly", AttestationConfig{Attester: &stubTEE{}, Credentials: onlyKind}},
		{"unknown kind", "credential_kind(9)", AttestationConfig{Verifier: &stubTEE{}, PeerCredentials: []attestext.CredentialKind{9}}},
		{"unknown binding", "binding(9)", AttestationConfig{Verifier: &stubTEE{}, PeerBinding: 9}},
		{"unknown policy", "AttestationPolicy", AttestationConfig{Verifier: &stubTEE{}, Peer: 9}},
		{"negative timeout", "timeout", AttestationConfig{Verifier: &stubTEE{}, VerifyTimeout: -1}},
		{"colliding code points", "used twice", AttestationConfig{Verifier: &stubTEE{}, CodePoints: &attestext.CodePoints{EvidenceRequest: 0xffa2}}},
	} {
		client, _ := attestConfigs()
		client.Attestation = &tt.conf
		c, s := net.Pipe()
		s.Close() // a byte sent would be another error
		err := Client(c, client).Handshake()
		if err == nil || !strings.Contains(err.Error(), "Config.Attestation") || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
