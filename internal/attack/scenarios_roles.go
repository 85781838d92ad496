package attack

import (
	"crypto"
	"io"
	"net"

	"golang.org/x/crypto/cryptobyte"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// Scenarios in which evidence changes its role.

// selectProposal returns the EncryptedExtensions by which a server has its client
// attest, with a nonce of its choice.
func (c *cell) selectProposal(client *hello, nonce []byte) []extension {
	if data, ok := find(client.exts, codePoints.EvidenceProposal); ok {
		if h, err := attestext.ParseEvidenceProposalHello(data); err == nil {
			b, _ := (&attestext.EvidenceSelection{Type: h.Types[0], Nonce: nonce}).Marshal()
			return []extension{{codePoints.EvidenceProposal, b}}
		}
	}
	if data, ok := find(client.exts, codePoints.ResultsProposal); ok {
		if h, err := attestext.ParseResultsHello(data); err == nil {
			b, _ := (&attestext.ResultsSelection{Verifier: h.Verifiers[0]}).Marshal()
			return []extension{{codePoints.ResultsProposal, b}}
		}
	}
	return nil
}

// certificateRequest returns the message by which a server asks its client for a
// certificate.
func (c *cell) certificateRequest() []byte {
	exts := []extension{{extSignatureAlgorithms, []byte{0, 2, schemeECDSAP256 >> 8, schemeECDSAP256 & 0xff}}}
	if c.mode.early() { // chosen_client_scheme
		b, _ := c.scheme().Marshal()
		exts = append(exts, extension{codePoints.RemoteAttestation, b})
	}
	if c.mode.twoKeys {
		exts = append(exts, extension{codePoints.AttestedKeyProof, nil})
	}
	return message(typeCertificateRequest, func(b *cryptobyte.Builder) {
		b.AddUint8(0)
		addExtensions(b, exts)
	})
}

// runReflection: an application on the client's machine attests to services, as a
// client; the attacker runs one. It has that application attest to the nonce with which
// the client challenges the server, and shows the client its own machine's evidence.
func runReflection(c *cell) error {
	raw, err := c.client()
	if err != nil {
		return err
	}
	cert, key := c.tik()
	var own *presentation
	reflect := func(s *speaker) (*presentation, error) {
		var err error
		own, err = c.askClient(challenge(s.client))
		return own, err
	}
	return c.terminate(raw, cert, key, reflect, func(s *speaker, context []byte) (*presentation, error) {
		if own == nil {
			if _, err := reflect(s); err != nil {
				return nil, err
			}
		}
		return c.relayExported(own, context)
	})
}

// attestingClient starts an honest client that attests to the server of that name, and
// returns the other side of its connection.
func (c *cell) attestingClient(m *machine, server string) (net.Conn, *end, error) {
	raw, attacker, err := c.loopback()
	if err != nil {
		return nil, nil, err
	}
	e, err := c.run(m.name, attestext.RoleClient, raw, func(e *end) (*tls.Config, error) {
		a, err := c.attesting(e, m)
		cfg := &tls.Config{RootCAs: c.world.roots, ServerName: server, Certificates: []tls.Certificate{m.cert}, Attestation: a}
		if c.mode.only {
			cfg.Certificates = nil
		}
		return cfg, err
	}, c.attestAndRead(m))
	return attacker, e, err
}

// askClient has the client's machine attest, as a client, to a service of the
// attacker's.
func (c *cell) askClient(nonce []byte) (*presentation, error) {
	m := c.world.clientMachine()
	attacker, e, err := c.attestingClient(m, nameEvil)
	if err != nil {
		return nil, err
	}
	s, err := c.greet(attacker, nil)
	if err != nil {
		return nil, err
	}
	c.say("attacker", "has the client's own machine, which is a client of the attacker's service, attest to the same challenge")
	p := &presentation{made: e.session, attester: e, link: s}
	evil := c.world.evil
	if !c.mode.handshake {
		return p, s.serve(nil, certificate(entry{data: evil.Certificate[0]}), evil.PrivateKey.(crypto.Signer))
	}
	entries, err := s.serveAndAsk(c.selectProposal(s.client, nonce), c.certificateRequest(),
		certificate(entry{data: evil.Certificate[0]}), evil.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, err
	}
	p.take(c.mode, entries)
	return p, nil
}

// serveAndAsk is serve with a CertificateRequest; it returns the client's Certificate.
func (s *speaker) serveAndAsk(ee []extension, request, cert []byte, key crypto.Signer) ([]entry, error) {
	flight := [][]byte{encryptedExtensions(ee), request, cert}
	s.transcriptWrite(flight...)
	verify, err := s.sign(key)
	if err != nil {
		return nil, err
	}
	s.transcriptWrite(verify)
	finished := s.finished(s.session.serverHandshake)
	s.transcriptWrite(finished)
	s.serverDone()
	var b []byte
	for _, m := range append(flight, verify, finished) {
		b = append(b, m...)
	}
	if err := s.writeRecord(recordHandshake, b); err != nil {
		return nil, err
	}
	s.out = s.suite.protect(s.serverSecret)
	m, err := s.read(typeCertificate)
	if err != nil {
		return nil, err
	}
	for _, typ := range []uint8{typeCertificateVerify, typeFinished} {
		if _, err := s.read(typ); err != nil {
			return nil, err
		}
	}
	s.in = s.suite.protect(s.clientSecret)
	return parseCertificate(m)
}

// runOwnEvidence: a server attests to its clients and has them attest, with a nonce that
// can be predicted. The attacker challenges it with that nonce, and answers with the
// server's own evidence, under the server's own key.
func runOwnEvidence(c *cell) error {
	m := c.world.genuineMachine()
	raw, attacker, err := c.loopback()
	if err != nil {
		return err
	}
	e, err := c.run("relying server", attestext.RoleServer, raw, func(e *end) (*tls.Config, error) {
		cfg := &tls.Config{Certificates: []tls.Certificate{m.cert}, ClientCAs: c.world.roots, Rand: brokenRandom{}}
		if c.mode.only {
			cfg.Certificates = nil
		} else if c.mode.handshake {
			cfg.ClientAuth = tls.RequireAndVerifyClientCert
		}
		var err error
		cfg.Attestation, err = c.both(e, m)
		return cfg, err
	}, func(e *end) error { return c.attestAndTrust(e, m) })
	if err != nil {
		return err
	}
	c.victim = e
	predicted := make([]byte, attestext.ReportDataSize)
	if c.mode.only {
		predicted = predicted[:32]
	}
	brokenRandom{}.Read(predicted)
	key := newKey()
	s, err := dial(attacker, clientHello(nameServer, key, c.proposeAndRequest(predicted)...), key)
	if err != nil {
		return err
	}
	c.known = append(c.known, s.session.dh)
	f, err := s.readFlight()
	if err != nil {
		return err
	}
	c.say("attacker", "connects as a client, and challenges the server with the nonce that it will be challenged with itself")
	c.say("relying server", "attests, and wants its client to attest as well")
	cert, tik := c.tik()
	p := &presentation{made: e.session, attester: e, link: s}
	p.take(c.mode, f.entries)
	if !c.mode.handshake {
		if err := s.finish(); err != nil {
			return err
		}
	} else {
		c.shows(p)
		c.say("attacker", "answers with the server's own evidence, and the stolen key")
		transcript, err := cloneHash(s.transcript)
		if err != nil {
			return err
		}
		m := certificate(c.entry(cert, p))
		transcript.Write(m)
		verify, err := signTranscript(tik, attestext.RoleClient, transcript)
		if err != nil {
			return err
		}
		if err := s.finish(m, verify); err != nil {
			return c.refusal(err)
		}
	}
	if c.exchanges() == 0 {
		return c.listen(s)
	}
	var own []*presentation
	for range c.exchanges() {
		evidence, err := c.relayExported(p, random(32))
		if err != nil {
			c.later("hears no more of the %s", e.name)
			return nil
		}
		own = append(own, evidence)
		if err := c.answerOnce(s, cert, tik, own[len(own)-1]); err != nil {
			return err
		}
	}
	return c.listen(s)
}

// both returns what makes an honest end attest, and ask its peer to.
func (c *cell) both(e *end, m *machine) (*tls.AttestationConfig, error) {
	a, err := c.attesting(e, m)
	if err != nil || a == nil {
		return nil, err
	}
	r, err := c.relying(e)
	if err != nil {
		return nil, err
	}
	if x, ok := a.Attester.(*experiment); ok { // one that does both
		x.local = r.Verifier.(*experiment).local
		r.Verifier = x
	}
	a.Verifier, a.ResultsVerifier, a.PeerCredentials, a.PeerBinding, a.PeerAttestedKey = r.Verifier, r.ResultsVerifier, r.PeerCredentials, r.PeerBinding, r.PeerAttestedKey
	return a, nil
}

// attestAndTrust is what an honest end does that attests and asks, when its handshake
// is complete.
func (c *cell) attestAndTrust(e *end, m *machine) error {
	err := c.reattest(e, func() (*exportedauth.Config, error) {
		cfg, err := c.asks(e.role)
		if err == nil {
			answers := c.answers(m)
			cfg.Identities, cfg.Attester = answers.Identities, answers.Attester
		}
		return cfg, err
	}, func() {})
	if err != nil {
		return err
	}
	_, err = io.WriteString(e.conn, secret)
	return err
}

// answerOnce answers one request of the victim's with evidence.
func (c *cell) answerOnce(s *speaker, cert tls.Certificate, key crypto.Signer, p *presentation) error {
	auth, err := exportedauth.NewSession(s.role, s.suite.hash, s.export)
	if err != nil {
		return err
	}
	b, err := s.readExported(1)
	if err != nil {
		return err
	}
	r, err := auth.ReadRequest(b)
	if err != nil {
		return err
	}
	c.shows(p)
	answer, err := auth.Attest(c.ctx, r, &exportedauth.Config{
		Identities: []exportedauth.Identity{{Chain: cert.Certificate, Key: key}}, Attester: made(p.cmw),
	})
	if err != nil {
		return err
	}
	return s.writeRecord(recordApplication, answer)
}

// runSplice: the attacker is an ordinary client of two honest servers. It has the one
// attest, and shows that evidence to the other, which wants its clients to attest.
// Where the evidence covers the ClientHello, it sends both the same one; otherwise the
// first server is challenged with the second one's nonce.
func runSplice(c *cell) error {
	c.say("attacker", "first tries one ClientHello for both servers")
	if err := c.splice(true); err != nil {
		return err
	}
	c.settle()
	if c.victim.err == nil {
		return nil
	}
	c.say(c.victim.name, "refuses: %v", c.victim.err)
	c.hear()
	c.say("attacker", "tries again, and challenges the first server with the second one's nonce")
	c.ends = nil
	return c.splice(false)
}

func (c *cell) splice(sameHello bool) error {
	to, err := c.relyingServer()
	if err != nil {
		return err
	}
	key := newKey()
	client := clientHello(nameOther, key, c.proposeAndRequest(random(64))...)
	s, err := dial(to, client, key)
	if err != nil {
		return err
	}
	c.known = append(c.known, s.session.dh)
	f, err := s.readFlight()
	if err != nil {
		return err
	}
	var p *presentation
	if sameHello {
		p, err = c.obtain(c.world.genuineMachine(), &hello{raw: client.raw, suites: client.suites, exts: client.exts, session: client.session, random: client.random}, key)
	} else {
		ephemeral := newKey()
		var nonce []byte
		if data, ok := find(f.ee, codePoints.EvidenceProposal); ok {
			if sel, err := attestext.ParseEvidenceProposalSelection(data); err == nil {
				nonce = sel.Nonce
			}
		}
		mine := clientHello(nameServer, ephemeral, c.request(nonce)...)
		mine.random = client.random
		p, err = c.obtain(c.world.genuineMachine(), mine, ephemeral)
	}
	if err != nil {
		return err
	}
	c.say(p.attester.name, "attests as a server, as to anybody%s", p.quoted())
	evil := c.world.evil
	mine := evil.PrivateKey.(crypto.Signer)
	if !c.mode.handshake {
		if err := s.finish(); err != nil {
			return err
		}
	} else {
		c.shows(p)
		cert := certificate(c.entry(evil, p))
		transcript, err := cloneHash(s.transcript)
		if err != nil {
			return err
		}
		transcript.Write(cert)
		verify, err := signTranscript(mine, attestext.RoleClient, transcript)
		if err != nil {
			return err
		}
		if err := s.finish(cert, verify); err != nil {
			return c.refusal(err)
		}
	}
	return c.exported(s, evil, mine, func(_ *speaker, context []byte) (*presentation, error) {
		c.say("attacker", "asks %s for an authenticator with the second server's context %s", p.attester.name, short(context))
		return c.relayExported(p, context)
	})
}

// relyingServer starts an honest server that wants its clients to attest, and tells
// them its secret.
func (c *cell) relyingServer() (net.Conn, error) {
	return c.relyingEnd("relying server", attestext.RoleServer, func(e *end) (*tls.Config, error) {
		a, err := c.relying(e)
		cfg := &tls.Config{Certificates: []tls.Certificate{c.world.other}, ClientCAs: c.world.roots, Attestation: a}
		if !c.mode.only {
			cfg.ClientAuth = tls.RequireAndVerifyClientCert
		}
		if !c.mode.handshake {
			cfg.ClientAuth = tls.NoClientCert
		}
		return cfg, err
	})
}
