package tls

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"hash"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
)

// draft-fossati-seat-early-attestation: the handshake in its two forms.

var earlyForms = []AttestationForm{FormEarly, FormEarly03}

// earlyConfigs returns a client and a server of which those attest that are named.
func earlyConfigs(form AttestationForm, server, client bool, model attestext.Model) (cc, sc *Config) {
	cc, sc = attestConfigs()
	cc.Attestation, sc.Attestation = &AttestationConfig{Form: form}, &AttestationConfig{Form: form}
	direction := func(attester, relies *AttestationConfig) {
		if model == attestext.Passport {
			attester.Results, relies.ResultsVerifier = &stubResults{}, &stubResults{}
			return
		}
		attester.Attester, relies.Verifier = &stubTEE{}, &stubTEE{}
	}
	if server {
		direction(sc.Attestation, cc.Attestation)
	}
	if client {
		direction(cc.Attestation, sc.Attestation)
	}
	return cc, sc
}

// productEarly runs a handshake for each form, each way in which the ends attest and
// each model, over TCP and QUIC, with and without a HelloRetryRequest, and returns how
// many there were.
func productEarly(t *testing.T) (cells int) {
	for _, form := range earlyForms {
		for _, who := range []struct{ server, client bool }{{true, false}, {false, true}, {true, true}} {
			for _, model := range productModels {
				for _, carrier := range productCarriers {
					for _, retry := range productRetries {
						for _, combined := range []bool{false, true} {
							if combined && (carrier == "QUIC" || model == attestext.Passport) {
								continue
							}
							cells++
							productEarlyCell(t, form, who.server, who.client, model, carrier, retry, combined)
						}
					}
				}
			}
		}
	}
	return cells
}

func productEarlyCell(t *testing.T, form AttestationForm, server, client bool, model attestext.Model, carrier string, retry, combined bool) {
	name := fmt.Sprintf("%v, server %v, client %v, %v, %s, retry %v, combined %v", form, server, client, model, carrier, retry, combined)
	cc, sc := earlyConfigs(form, server, client, model)
	if retry {
		sc.CurvePreferences = []CurveID{CurveP256}
	}
	if combined {
		cc.Attestation.Mode, sc.Attestation.Mode = Combined, Combined
	}
	ends := &attestEnds{}
	if carrier == "QUIC" {
		cli, srv, err := attestQUIC(t, cc, sc)
		ends.client, ends.server, ends.clientErr = cli.conn.conn, srv.conn.conn, err
		defer cli.conn.Close()
		defer srv.conn.Close()
	} else {
		ends = attestHandshake(t, cc, sc)
	}
	if ends.clientErr != nil || ends.serverErr != nil {
		t.Errorf("%s: client %v, server %v", name, ends.clientErr, ends.serverErr)
		return
	}
	cs, ss := ends.client.ConnectionState(), ends.server.ConnectionState()
	if cs.HelloRetryRequest != retry || cs.DidResume {
		t.Errorf("%s: HelloRetryRequest %v, resumed %v", name, cs.HelloRetryRequest, cs.DidResume)
	}
	check := func(attests bool, role attestext.Role, relies, attester ConnectionState) {
		result := relies.PeerAttestation
		if combined {
			if attests && (!result.Valid() || !result.Binding().IsExpat()) {
				t.Errorf("%s: %v has no verdict after the handshake", name, role)
			}
			result = relies.PeerHandshakeAttestation
		}
		if !attests {
			if result != nil || attester.LocalAttestation != nil {
				t.Errorf("%s: the %v attested, and was not to", name, role)
			}
			return
		}
		if !result.Valid() || attester.LocalAttestation == nil {
			t.Errorf("%s: the %v has not attested", name, role)
			return
		}
		ch := result.Challenge()
		if ch.Binding != attestext.BindingEarly || ch.Role != role || ch.Model != model || ch.Kind != attestext.CertAttestation || ch.Nonce != nil {
			t.Errorf("%s: the %v attested as %+v", name, role, ch)
		}
		if model == attestext.BackgroundCheck && len(ch.Binder) != cipherSuiteTLS13ByID(relies.CipherSuite).hash.Size() || model == attestext.Passport && ch.Binder != nil {
			t.Errorf("%s: binder of %d bytes", name, len(ch.Binder))
		}
		if !combined && !bytes.Equal(ch.Binder, attester.LocalAttestation.Challenge.Binder) {
			t.Errorf("%s: the ends disagree on the binder", name)
		}
		if !bytes.Equal(result.Key(), relies.PeerCertificates[0].RawSubjectPublicKeyInfo) {
			t.Errorf("%s: another key than the certificate's", name)
		}
	}
	check(server, attestext.RoleServer, cs, ss)
	check(client, attestext.RoleClient, ss, cs)
}

// earlyBinderFromScratch is {c,s}_attest_binder.
func earlyBinderFromScratch(h func() hash.Hash, label string, transcript, key []byte) []byte {
	n := h().Size()
	base := hkdfLabel(h, make([]byte, n), label, digest(h, transcript), n)
	return hkdfLabel(h, base, "attestation", key, n)
}

// upTo returns the transcript through the first message of a type.
func (r *recordedHandshake) upTo(t *testing.T, typ uint8) []byte {
	t.Helper()
	for at := 0; at < len(r.messages); {
		end := at + certificateLength(r.messages[at:])
		if r.messages[at] == typ {
			return r.messages[:end]
		}
		at = end
	}
	t.Fatalf("no message of type %d", typ)
	return nil
}

func TestEarlyBinderIsThatOfTheDraft(t *testing.T) {
	for _, form := range earlyForms {
		for _, suite := range []uint16{TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384} {
			for _, mutual := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v, %x, mutual %v", form, suite, mutual), func(t *testing.T) {
					client, server := earlyConfigs(form, true, mutual, attestext.BackgroundCheck)
					defer onlySuite(suite)()
					rec, ends := recordHandshake(t, client, server)
					check := func(end *Conn, label string, transcript []byte) {
						t.Helper()
						s := end.ConnectionState()
						key := s.PeerCertificates[0].RawSubjectPublicKeyInfo
						if form == FormEarly {
							key, label, transcript = digest(rec.hash, key), "attestation base", rec.messages[:rec.toServerHello]
						}
						want := earlyBinderFromScratch(rec.hash, label, transcript, key)
						if got := s.PeerAttestation.Challenge().Binder; !bytes.Equal(got, want) {
							t.Errorf("binder is %x, want %x", got, want)
						}
					}
					check(ends.client, "s attestation base", rec.upTo(t, typeEncryptedExtensions))
					if mutual {
						check(ends.server, "c attestation base", rec.upTo(t, typeFinished))
					}
				})
			}
		}
	}
}

// The two forms and draft-08 do not understand each other, and whoever requires
// attestation is not content with that.
func TestEarlyFormsDoNotMix(t *testing.T) {
	for _, form := range []AttestationForm{FormTLSAttest, FormEarly, FormEarly03} {
		for _, other := range []AttestationForm{FormTLSAttest, FormEarly, FormEarly03} {
			if form == other {
				continue
			}
			client, server := earlyConfigs(form, true, false, attestext.BackgroundCheck)
			server.Attestation.Form = other
			ends := attestHandshake(t, client, server)
			if ends.clientErr == nil || ends.client.ConnectionState().PeerAttestation != nil {
				t.Errorf("client of %v, server of %v: accepted", form, other)
			}
		}
	}
}

func TestEarlyConfigIsChecked(t *testing.T) {
	for _, tt := range []struct {
		says   string
		change func(*AttestationConfig)
	}{
		{"unknown AttestationForm(9)", func(a *AttestationConfig) { a.Form = 9 }},
		{"does not attest in the handshake", func(a *AttestationConfig) { a.Mode = PostHandshake }},
		{"attestation-only", func(a *AttestationConfig) { a.PeerCredentials, a.AllowAttestationOnly = onlyKind, true }},
		{"AttestedKey", func(a *AttestationConfig) { a.PeerAttestedKey = true }},
		{"leave them zero", func(a *AttestationConfig) { a.PeerBinding = attestext.BindingDraft08 }},
		{"no nonces", func(a *AttestationConfig) { a.NonceSize = 32 }},
	} {
		a := &AttestationConfig{Form: FormEarly, Verifier: &stubTEE{}}
		tt.change(a)
		if err := a.validate(); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.says, err)
		}
	}
}

// Under revision -03 the key itself is the context of the binder, which has room for
// 255 bytes.
func TestEarly03DoesNotCutAKeyThatDoesNotFit(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range earlyForms {
		client, server := earlyConfigs(form, true, false, attestext.BackgroundCheck)
		server.Certificates = []Certificate{selfSignedBy(t, key)}
		client.InsecureSkipVerify = true
		ends := attestHandshake(t, client, server)
		if ok := form == FormEarly; (ends.serverErr == nil) != ok || !ok && !strings.Contains(ends.serverErr.Error(), "elliptic curve") {
			t.Errorf("%v: %v", form, ends.serverErr)
		}
	}
}

// earlyScheme is an encoded scheme of evidence in stubFormat.
var earlyScheme = func() []byte {
	b, err := attestext.AttestationScheme{Format: stubFormat}.Marshal()
	if err != nil {
		panic(err)
	}
	return b
}()

// payload changes the payload of remoteAttestation in the first entry.
func payload(f func(rawEntry) rawEntry) *misbehavingPeer {
	return &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry { e[0] = f(e[0]); return e }}
}

func remote(data ...byte) attestExtension {
	return attestExtension{testCodePoints.RemoteAttestation, data}
}

// earlyEE has a server send something else in EncryptedExtensions.
func earlyEE(x ...attestExtension) *misbehavingPeer {
	return &misbehavingPeer{encryptedExtensions: func(*Conn, []attestExtension) []attestExtension { return x }}
}

// asks has a server ask something else of the client.
func asks(x ...attestExtension) *misbehavingPeer {
	return &misbehavingPeer{certificateRequest: func([]attestExtension) []attestExtension { return x }}
}

// TestEarlyClientRefuses: the server errs or attacks.
func TestEarlyClientRefuses(t *testing.T) {
	early := func(client, server *Config) { client.Attestation.Form, server.Attestation.Form = FormEarly, FormEarly }
	required, failed := alert(testCodePoints.AttestationRequired), alert(testCodePoints.AttestationFailed)
	negotiate, certificate, appraise := AttestationStageNegotiate, AttestationStageCertificate, AttestationStageAppraise
	lies := func(attest func(honest *stubTEE, ctx context.Context, ch attestext.Challenge) ([]byte, error)) func(client, server *Config) {
		f := sends(attest)
		return func(client, server *Config) { early(client, server); f(client, server) }
	}
	says := func(err error) func(client, server *Config) {
		return func(client, server *Config) {
			early(client, server)
			client.Attestation.Verifier = &stubTEE{appraise: func(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
				return nil, err
			}}
		}
	}
	both := func(client, server *Config) {
		early(client, server)
		client.Attestation.Attester, server.Attestation.Verifier = &stubTEE{}, &stubTEE{}
	}
	for _, r := range []refusal{
		{name: "no answer", setup: early, peer: earlyEE(), alert: required, stage: negotiate, says: "early: server does not attest"},
		{name: "a server that knows nothing of it", setup: func(c, s *Config) { early(c, s); s.Attestation = nil }, alert: required, stage: negotiate, says: "early: server does not attest"},
		{name: "a scheme that was not offered", setup: early, peer: earlyEE(remote(0, 0, 1, 1)), alert: alertIllegalParameter, stage: negotiate, says: "was not offered"},
		{name: "a scheme offered for the other direction", setup: func(c, s *Config) {
			both(c, s)
			c.Attestation.Attester = &stubTEE{formats: []attestext.EvidenceFormat{otherFormat}}
			s.Attestation.Verifier = &stubTEE{formats: []attestext.EvidenceFormat{otherFormat}}
		}, peer: earlyEE(remote(0, 0, 65001>>8, 65001&255)), alert: alertIllegalParameter, stage: negotiate, says: "was not offered there"},
		{name: "an unknown mechanism", setup: early, peer: earlyEE(remote(2, 0, 1, 1)), alert: alertDecodeError, stage: negotiate, says: "unknown mechanism 2", class: attestext.ErrMalformed},
		{name: "an empty body", setup: early, peer: earlyEE(remote()), alert: alertDecodeError, stage: negotiate, says: "attestation scheme"},
		{name: "a trailing byte", setup: early, peer: earlyEE(remote(append(bytes.Clone(earlyScheme), 0)...)), alert: alertDecodeError, stage: negotiate, says: "too many"},
		{name: "twice", setup: early, peer: earlyEE(remote(earlyScheme...), remote(earlyScheme...)), alert: alertDecodeError},
		{name: "another form's extension", setup: early, peer: earlyEE(remote(earlyScheme...), attestExtension{testCodePoints.EvidenceRequest, nil}), alert: alertUnsupportedExtension, stage: negotiate, says: "another form"},
		{name: "in ServerHello", setup: early, peer: &misbehavingPeer{serverHello: []attestExtension{remote(earlyScheme...)}}, alert: alertIllegalParameter, stage: negotiate, says: "ServerHello"},
		{name: "a scheme for the client that was not offered", setup: both, peer: asks(remote(0, 0, 1, 1)), alert: alertIllegalParameter, stage: negotiate, says: "in CertificateRequest, which was not offered there"},
		{name: "a result of the client, which offers evidence", setup: both, peer: asks(remote(1, 0, 1, 'v')), alert: alertIllegalParameter, stage: negotiate, says: "not offered there"},
		{name: "a client asked that does not attest", setup: func(c, s *Config) { early(c, s); s.ClientAuth = RequestClientCert }, peer: asks(remote(earlyScheme...)), alert: alertIllegalParameter, stage: negotiate, says: "not offered there"},
		{name: "a malformed scheme for the client", setup: both, peer: asks(remote(0)), alert: alertDecodeError, stage: negotiate, says: "in CertificateRequest", class: attestext.ErrMalformed},
		{name: "two schemes for the client", setup: both, peer: asks(remote(earlyScheme...), remote(earlyScheme...)), alert: alertIllegalParameter, stage: negotiate, says: "twice in CertificateRequest"},
		{name: "no evidence", setup: early, peer: payload(func(e rawEntry) rawEntry { e.extensions = nil; return e }), alert: required, stage: certificate, says: "without evidence"},
		{name: "empty payload", setup: early, peer: payload(func(e rawEntry) rawEntry { e.extensions = []attestExtension{remote(0, 0, 0)}; return e }), alert: alertDecodeError, stage: certificate, says: "empty CMW payload"},
		{name: "a payload without its length", setup: early, peer: payload(func(e rawEntry) rawEntry { e.extensions[0].data = e.extensions[0].data[3:]; return e }), alert: alertDecodeError, stage: certificate, says: "CMW payload"},
		{name: "another form's evidence", setup: early, peer: payload(func(e rawEntry) rawEntry {
			e.extensions = append(e.extensions, attestExtension{testCodePoints.AttestationEvidence, []byte{1}})
			return e
		}), alert: alertUnsupportedExtension, stage: certificate, says: "another form"},
		{name: "this form's evidence in draft-08", peer: payload(func(e rawEntry) rawEntry {
			e.extensions = append(e.extensions, remote(0, 0, 1, 1))
			return e
		}), alert: alertUnsupportedExtension, stage: certificate, says: "form tls-attest"},
		{name: "evidence twice", setup: early, peer: payload(func(e rawEntry) rawEntry { e.extensions = append(e.extensions, e.extensions[0]); return e }), alert: alertIllegalParameter, stage: certificate, says: "twice"},
		{name: "evidence in the second entry", setup: early, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e = append(e, rawEntry{e[0].data, e[0].extensions})
			e[0].extensions = nil
			return e
		}}, alert: alertIllegalParameter, stage: certificate, says: "entry 2"},
		{name: "unsolicited evidence", setup: func(c, s *Config) {
			early(c, s)
			c.Attestation.Peer = RequestAttestation
		}, peer: earlyEE(), alert: alertUnsupportedExtension, stage: certificate, says: "not asked for"},
		{name: "replayed evidence", setup: lies(func(h *stubTEE, _ context.Context, ch attestext.Challenge) ([]byte, error) {
			ch.Binder = make([]byte, len(ch.Binder))
			return h.honest(&ch)
		}), alert: failed, stage: appraise, says: "early", class: attestext.ErrBinding},
		{name: "garbage", setup: lies(func(*stubTEE, context.Context, attestext.Challenge) ([]byte, error) { return []byte{1}, nil }), alert: failed, stage: appraise, class: attestext.ErrMalformed},
		{name: "a bad signature", setup: says(attestext.Errorf(attestext.ErrSignature, "x", "y")), alert: failed, stage: appraise, class: attestext.ErrSignature},
		{name: "another type", setup: says(attestext.Errorf(attestext.ErrWrongType, "x", "y")), alert: failed, stage: appraise, class: attestext.ErrWrongType},
		{name: "policy", setup: says(attestext.Errorf(attestext.ErrPolicy, "x", "y")), alert: failed, stage: appraise, class: attestext.ErrPolicy},
		{name: "nobody could say", setup: says(attestext.Errorf(attestext.ErrUnavailable, "x", "y")), alert: alertInternalError, stage: appraise, class: attestext.ErrUnavailable},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, true) })
	}
}

// TestEarlyServerRefuses: the client errs or attacks.
func TestEarlyServerRefuses(t *testing.T) {
	early := func(client, server *Config) {
		client.Attestation = &AttestationConfig{Form: FormEarly, Attester: &stubTEE{}}
		server.Attestation = &AttestationConfig{Form: FormEarly, Verifier: &stubTEE{}}
	}
	schemes, required, failed := alert(testCodePoints.UnsupportedAttestationSchemes), alert(testCodePoints.AttestationRequired), alert(testCodePoints.AttestationFailed)
	negotiate, certificate, appraise := AttestationStageNegotiate, AttestationStageCertificate, AttestationStageAppraise
	hello := func(x ...attestExtension) *misbehavingPeer {
		return &misbehavingPeer{clientHello: func([]attestExtension) []attestExtension { return x }}
	}
	for _, r := range []refusal{
		{name: "nothing", setup: early, peer: hello(), alert: required, stage: negotiate, says: "early: client does not offer"},
		{name: "two empty lists", setup: early, peer: hello(remote(0, 0, 0, 0)), alert: schemes, stage: negotiate, says: "nothing in common"},
		{name: "nothing in common", setup: func(c, s *Config) {
			early(c, s)
			c.Attestation.Attester = &stubTEE{formats: []attestext.EvidenceFormat{otherFormat}}
		}, alert: schemes, stage: negotiate, says: "content-format 65001"},
		{name: "in common in the other direction only", setup: func(c, s *Config) {
			early(c, s)
			c.Attestation = &AttestationConfig{Form: FormEarly, Verifier: &stubTEE{}}
			s.Attestation.Attester = &stubTEE{}
		}, alert: required, stage: negotiate, says: "requires one of"},
		{name: "an unknown mechanism", setup: early, peer: hello(remote(0, 0, 0, 1, 9)), alert: alertDecodeError, stage: negotiate, says: "unknown mechanism"},
		{name: "one list", setup: early, peer: hello(remote(0, 0)), alert: alertDecodeError, stage: negotiate, says: "attestation schemes"},
		{name: "another hello after a retry", setup: func(c, s *Config) { early(c, s); s.CurvePreferences = []CurveID{CurveP256} },
			peer: &misbehavingPeer{secondClientHello: func(x []attestExtension) []attestExtension {
				return []attestExtension{remote(0, 0, 0, 0)}
			}}, alert: alertIllegalParameter},
		{name: "no evidence", setup: early, peer: payload(func(e rawEntry) rawEntry { e.extensions = nil; return e }), alert: required, stage: certificate, says: "without evidence"},
		{name: "no certificate", setup: early, peer: &misbehavingPeer{certificate: func([]rawEntry) []rawEntry { return nil }}, alert: required, stage: certificate, says: "empty Certificate"},
		{name: "evidence of the server's role", setup: func(c, s *Config) {
			early(c, s)
			s.Attestation.Attester, c.Attestation.Verifier = &stubTEE{}, &stubTEE{}
			server := make(chan []byte, 1)
			s.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
				b, err := (&stubTEE{}).honest(req.Challenge)
				server <- b
				return b, err
			}}
			c.Attestation.Attester = &stubTEE{attest: func(context.Context, *attestext.AttestRequest) ([]byte, error) { return <-server, nil }}
		}, alert: failed, stage: appraise, class: attestext.ErrBinding},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, false) })
	}
}

// A client that asks and does not require goes on where the server does not know the
// extension.
func TestEarlyClientThatDoesNotRequireGoesOn(t *testing.T) {
	client, server := earlyConfigs(FormEarly, true, false, attestext.BackgroundCheck)
	client.Attestation.Peer, server.Attestation = RequestAttestation, nil
	ends := attestHandshake(t, client, server)
	ends.mustSucceed(t)
	if ends.client.ConnectionState().PeerAttestation != nil {
		t.Error("there is a result")
	}
}

// A client that was not asked to attest in CertificateRequest does not.
func TestEarlyClientAttestsOnlyWhenAsked(t *testing.T) {
	client, server := earlyConfigs(FormEarly, true, true, attestext.BackgroundCheck)
	server.Attestation.Verifier, server.ClientAuth = nil, RequireAndVerifyClientCert
	ends := attestHandshake(t, client, server)
	ends.mustSucceed(t)
	if s := ends.client.ConnectionState(); s.LocalAttestation != nil || !s.PeerAttestation.Valid() {
		t.Errorf("%+v", s.AttestationState)
	}
}

// TestEarly03ClientRefuses: the server errs or attacks under revision -03. What it shares
// with draft-08 is tested there.
func TestEarly03ClientRefuses(t *testing.T) {
	early := func(client, server *Config) {
		client.Attestation.Form, server.Attestation.Form = FormEarly03, FormEarly03
	}
	payload := func(data ...byte) *misbehavingPeer {
		return &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = []attestExtension{{testCodePoints.AttestationEvidence, data}}
			return e
		}}
	}
	lie := func(change func(*attestext.Challenge)) func(client, server *Config) {
		return func(client, server *Config) {
			early(client, server)
			sends(func(h *stubTEE, _ context.Context, ch attestext.Challenge) ([]byte, error) {
				change(&ch)
				return h.honest(&ch)
			})(client, server)
		}
	}
	kind := append([]byte{1, 1, 0, 18}, "application/x-stub"...) // as draft-08 has it
	for _, r := range []refusal{
		{name: "no answer", setup: early, peer: earlyEE(), alert: alertMissingExtension, stage: AttestationStageNegotiate, says: "does not attest"},
		{name: "a type that was not offered", setup: early, peer: selects(0, 1, 1), alert: alertIllegalParameter, stage: AttestationStageNegotiate, says: "not offered"},
		{name: "a kind of credential", setup: early, peer: selects(kind...), alert: alertDecodeError, stage: AttestationStageNegotiate, class: attestext.ErrMalformed},
		{name: "a nonce", setup: early, peer: selects(append(kind[1:], 8, 1, 2, 3, 4, 5, 6, 7, 8)...), alert: alertDecodeError, stage: AttestationStageNegotiate, says: "too many"},
		{name: "remoteAttestation beside it", setup: early, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = append(e[0].extensions, remote(0, 0, 1, 1))
			return e
		}}, alert: alertUnsupportedExtension, stage: AttestationStageCertificate, says: "form early-03"},
		{name: "a payload without its length", setup: early, peer: payload(1), alert: alertDecodeError, stage: AttestationStageCertificate, says: "CMW payload"},
		{name: "an empty payload", setup: early, peer: payload(0, 0, 0), alert: alertDecodeError, stage: AttestationStageCertificate, says: "empty CMW payload"},
		{name: "another session's binder", setup: lie(func(ch *attestext.Challenge) { ch.Binder = make([]byte, len(ch.Binder)) }), alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, true) })
	}
}

// A resumed handshake has no Certificate, and so no evidence.
func TestEarlyConnectionsAreNotResumed(t *testing.T) {
	for _, form := range earlyForms {
		client, server := earlyConfigs(form, true, false, attestext.BackgroundCheck)
		client.ClientSessionCache = NewLRUClientSessionCache(1)
		for range 2 {
			ends := attestHandshake(t, client, server)
			ends.mustSucceed(t)
			if s := ends.client.ConnectionState(); s.DidResume || s.TicketsReceived != 0 || !s.PeerAttestation.Valid() {
				t.Errorf("%v: resumed %v, %d tickets", form, s.DidResume, s.TicketsReceived)
			}
		}
	}
}
