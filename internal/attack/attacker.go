package attack

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/tls"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// What the attacker does: the moves that scenarios are made of.

// codePoints are the extension types in use.
var codePoints = (*attestext.CodePoints)(nil).WithDefaults()

// attestationExtensions are those by which a ClientHello is about attestation.
func attestationExtensions() []uint16 {
	return []uint16{codePoints.EvidenceRequest, codePoints.EvidenceProposal, codePoints.ResultsRequest, codePoints.ResultsProposal, codePoints.AttestedKeyProof, codePoints.RemoteAttestation}
}

// tik returns the certificate whose key the attacker holds in scenarios about a stolen
// TLS identity key. Where there is no certificate it is the attested key.
func (c *cell) tik() (cert tls.Certificate, key crypto.Signer) {
	if c.mode.only {
		return tls.Certificate{}, c.world.attestationOnly
	}
	return c.world.server, c.world.server.PrivateKey.(crypto.Signer)
}

// A presentation is the evidence that the attacker shows to the victim.
type presentation struct {
	cmw   []byte
	proof []byte // attested_key_proof
	// made returns the connection that it was made on; attester is the honest end
	// that made it, if it was one.
	made     func() *session
	attester *end
	// link is the attacker's connection to that end, where it is open.
	link *speaker
}

// quoted says for a story what the evidence covers, or nothing where it is no quote.
func (p *presentation) quoted() string {
	report, err := unwrap(p.cmw)
	if err != nil {
		return ""
	}
	q, err := tdx.Parse(report.OutBlob)
	if err != nil {
		return ""
	}
	return ": a quote over REPORTDATA " + short(q.ReportData[:])
}

// shows takes note of whose evidence the victim gets to see.
func (c *cell) shows(p *presentation) { c.made, c.attester = p.made, p.attester }

// scheme is what the early extension negotiates.
func (c *cell) scheme() attestext.AttestationScheme {
	return attestext.AttestationScheme{Format: c.evidenceType().Format}
}

// request returns the extensions of a ClientHello that ask a server for evidence.
func (c *cell) request(nonce []byte) []extension {
	if !c.mode.handshake {
		return nil
	}
	if c.mode.early() {
		b, _ := (&attestext.EarlyHello{Server: []attestext.AttestationScheme{c.scheme()}}).Marshal()
		return []extension{{codePoints.RemoteAttestation, b}}
	}
	if c.mode.passport {
		b, _ := (&attestext.ResultsHello{Verifiers: []attestext.VerifierIdentity{c.world.issuer.Identity()}}).Marshal()
		return []extension{{codePoints.ResultsRequest, b}}
	}
	b, _ := (&attestext.EvidenceHello{Types: []attestext.EvidenceType{c.evidenceType()}, Nonce: nonce}).Marshal()
	exts := []extension{{codePoints.EvidenceRequest, b}}
	if c.mode.twoKeys {
		exts = append(exts, extension{codePoints.AttestedKeyProof, nil})
	}
	return exts
}

// proposeAndRequest returns the extensions of a ClientHello that offer evidence to a
// server and ask it for its own.
func (c *cell) proposeAndRequest(nonce []byte) []extension {
	if !c.mode.handshake {
		return nil
	}
	if c.mode.early() {
		schemes := []attestext.AttestationScheme{c.scheme()}
		b, _ := (&attestext.EarlyHello{Server: schemes, Client: schemes}).Marshal()
		return []extension{{codePoints.RemoteAttestation, b}}
	}
	return append(c.propose(), c.request(nonce)...)
}

// offer returns the extensions of a ClientHello that offer evidence to a server.
func (c *cell) offer() []extension {
	switch {
	case !c.mode.handshake:
		return nil
	case c.mode.early():
		b, _ := (&attestext.EarlyHello{Client: []attestext.AttestationScheme{c.scheme()}}).Marshal()
		return []extension{{codePoints.RemoteAttestation, b}}
	}
	return c.propose()
}

// propose is offer in the form of draft-fossati-tls-attestation-08.
func (c *cell) propose() []extension {
	if c.mode.passport {
		b, _ := (&attestext.ResultsHello{Verifiers: []attestext.VerifierIdentity{c.world.issuer.Identity()}}).Marshal()
		return []extension{{codePoints.ResultsProposal, b}}
	}
	b, _ := (&attestext.EvidenceHello{Types: []attestext.EvidenceType{c.evidenceType()}}).Marshal()
	return []extension{{codePoints.EvidenceProposal, b}}
}

func (c *cell) evidenceType() attestext.EvidenceType {
	if c.mode.only {
		return attestext.EvidenceType{Kind: attestext.AttestationOnly, Format: eat.BundleFormat}
	}
	return attestext.EvidenceType{Kind: attestext.CertAttestation, Format: tsm.FormatCBOR}
}

// challenge returns the nonce that a client sent.
func challenge(client *hello) []byte {
	data, _ := find(client.exts, codePoints.EvidenceRequest)
	h, err := attestext.ParseEvidenceRequestHello(data)
	if err != nil {
		return nil
	}
	return h.Nonce
}

// clientHello returns a ClientHello of the attacker's.
func clientHello(name string, key *ecdh.PrivateKey, exts ...extension) *hello {
	return &hello{
		random: random(32), session: random(32), suites: []uint16{suiteAES128GCM},
		exts: append([]extension{
			serverName(name),
			{extSupportedVersions, []byte{2, 3, 4}},
			{extSupportedGroups, []byte{0, 2, 0, groupX25519}},
			{extSignatureAlgorithms, []byte{0, 2, schemeECDSAP256 >> 8, schemeECDSAP256 & 0xff}},
			clientKeyShare(key.PublicKey().Bytes()),
		}, exts...),
	}
}

// obtain has a machine attest, as any client may: it connects with a ClientHello of the
// attacker's, reads the evidence and completes the handshake.
func (c *cell) obtain(m *machine, client *hello, key *ecdh.PrivateKey) (*presentation, error) {
	raw, e, err := c.server(m)
	if err != nil {
		return nil, err
	}
	s, err := dial(raw, client, key)
	if err != nil {
		return nil, err
	}
	f, err := s.readFlight()
	if err != nil {
		return nil, err
	}
	if err := s.finish(); err != nil {
		return nil, err
	}
	c.known = append(c.known, s.session.dh)
	p := &presentation{made: e.session, attester: e, link: s}
	p.take(c.mode, f.entries)
	return p, nil
}

// take takes the evidence out of a Certificate message.
func (p *presentation) take(m *Mode, entries []entry) {
	if len(entries) == 0 {
		return
	}
	if m.only {
		p.cmw = entries[0].data
		return
	}
	if m.early() {
		data, _ := find(entries[0].exts, codePoints.RemoteAttestation)
		p.cmw, _ = attestext.ParseCMWPayload(data)
		return
	}
	p.cmw, _ = find(entries[0].exts, codePoints.AttestationEvidence)
	p.proof, _ = find(entries[0].exts, codePoints.AttestedKeyProof)
}

// relay has a machine attest to the victim's own challenge: random and nonce are the
// victim's.
func (c *cell) relay(m *machine, victim *hello) (*presentation, error) {
	key := newKey()
	mine := clientHello(nameServer, key, c.request(challenge(victim))...)
	mine.random = victim.random
	return c.obtain(m, mine, key)
}

// capture has a machine attest to a challenge of the attacker's own.
func (c *cell) capture(m *machine) (*presentation, error) {
	key := newKey()
	return c.obtain(m, clientHello(nameServer, key, c.request(random(64))...), key)
}

// selections returns the EncryptedExtensions that answer a ClientHello.
func (c *cell) selections(client *hello) []extension {
	if data, ok := find(client.exts, codePoints.RemoteAttestation); ok {
		if h, err := attestext.ParseEarlyHello(data); err == nil && len(h.Server) > 0 {
			b, _ := h.Server[0].Marshal()
			return []extension{{codePoints.RemoteAttestation, b}}
		}
	}
	if data, ok := find(client.exts, codePoints.EvidenceRequest); ok {
		if h, err := attestext.ParseEvidenceRequestHello(data); err == nil {
			b, _ := (&attestext.EvidenceSelection{Type: h.Types[0]}).Marshal()
			return []extension{{codePoints.EvidenceRequest, b}}
		}
	}
	if data, ok := find(client.exts, codePoints.ResultsRequest); ok {
		if h, err := attestext.ParseResultsHello(data); err == nil {
			b, _ := (&attestext.ResultsSelection{Verifier: h.Verifiers[0]}).Marshal()
			return []extension{{codePoints.ResultsRequest, b}}
		}
	}
	return nil
}

// entry returns the CertificateEntry that carries a presentation.
func (c *cell) entry(cert tls.Certificate, p *presentation) entry {
	if p == nil || !c.mode.handshake {
		return entry{data: cert.Certificate[0]}
	}
	if c.mode.only {
		return entry{data: p.cmw}
	}
	if c.mode.early() {
		b, _ := attestext.MarshalCMWPayload(p.cmw)
		return entry{cert.Certificate[0], []extension{{codePoints.RemoteAttestation, b}}}
	}
	e := entry{cert.Certificate[0], []extension{{codePoints.AttestationEvidence, p.cmw}}}
	if p.proof != nil {
		e.exts = append(e.exts, extension{codePoints.AttestedKeyProof, p.proof})
	}
	return e
}

// terminate ends the victim's connection at the attacker, who answers with a key share
// of its own: source says what to show in the handshake, and more, which gets the
// context of a request, what to show in an exported authenticator; it may return nil,
// to refuse.
func (c *cell) terminate(raw net.Conn, cert tls.Certificate, key crypto.Signer, source func(*speaker) (*presentation, error), more func(s *speaker, context []byte) (*presentation, error)) error {
	s, err := c.greet(raw, nil)
	if err != nil {
		return err
	}
	c.say(c.victim.name, "asks for %s: %s", nameServer, c.challengeText(s.client))
	p := &presentation{}
	if c.mode.handshake {
		if p, err = source(s); err != nil {
			return err
		}
		c.shows(p)
	}
	if err := s.serve(c.selections(s.client), certificate(c.entry(cert, p)), key); err != nil {
		return c.refusal(err)
	}
	return c.exported(s, cert, key, more)
}

// greet reads a ClientHello and answers it with a key share of the attacker's. change
// may change the answer.
func (c *cell) greet(raw net.Conn, change func(*hello)) (*speaker, error) {
	s, err := accept(raw)
	if err != nil {
		return nil, err
	}
	share, err := s.client.keyShare(false)
	if err != nil {
		return nil, err
	}
	key := newKey()
	shared, err := agree(key, share)
	if err != nil {
		return nil, err
	}
	c.known = append(c.known, shared)
	answer := serverHello(s.client, key.PublicKey().Bytes())
	if change != nil {
		change(answer)
	}
	return s, s.answer(answer, shared)
}

// refusal tells what became of the attacker's handshake. That the victim refused is
// not an error.
func (c *cell) refusal(err error) error {
	var a *alertError
	if errors.As(err, &a) {
		c.later("reads alert %d (%v)", a.alert, tls.AlertError(a.alert))
		return nil
	}
	return err
}

// exported answers the victim's requests for exported authenticators, and listens for
// its secret.
func (c *cell) exported(s *speaker, cert tls.Certificate, key crypto.Signer, more func(*speaker, []byte) (*presentation, error)) error {
	n := c.exchanges()
	if n > 0 {
		c.say("attacker", "has completed the handshake with the %s", c.victim.name)
		auth, err := exportedauth.NewSession(s.role, s.suite.hash, s.export)
		if err != nil {
			return err
		}
		for range n {
			b, err := s.readExported(1)
			if err != nil {
				return c.refusal(err)
			}
			r, err := auth.ReadRequest(b)
			if err != nil {
				return err
			}
			c.say(c.victim.name, "asks for an exported authenticator with evidence, with the context %s", short(r.Context()))
			p, err := more(s, r.Context())
			if err != nil {
				return err
			}
			var answer []byte
			if p == nil {
				answer, err = auth.Refuse(r)
			} else {
				c.shows(p)
				answer, err = auth.Attest(c.ctx, r, &exportedauth.Config{
					Identities: []exportedauth.Identity{{Chain: cert.Certificate, Key: key}},
					Attester:   made(p.cmw),
				})
			}
			if err != nil {
				return err
			}
			if err := s.writeRecord(recordApplication, answer); err != nil {
				return err
			}
		}
	}
	return c.listen(s)
}

// listen waits for the victim's secret.
func (c *cell) listen(s *speaker) error {
	b, err := s.readData()
	if err != nil {
		if errors.As(err, new(*alertError)) {
			return c.refusal(err)
		}
		c.later("hears no more of the %s", c.victim.name)
		return nil
	}
	c.later("reads %q", b)
	return nil
}

// made is an attester that has evidence already.
type made []byte

func (m made) Formats(attestext.CredentialKind) []attestext.EvidenceFormat {
	return []attestext.EvidenceFormat{tsm.FormatCBOR}
}

func (m made) Attest(context.Context, *attestext.AttestRequest) ([]byte, error) { return m, nil }

// relayExported has the machine at the other end of link answer a request with the
// victim's context, and takes the evidence out of the answer.
func (c *cell) relayExported(p *presentation, requestContext []byte) (*presentation, error) {
	link := p.link
	auth, err := exportedauth.NewSession(link.role, link.suite.hash, link.export)
	if err != nil {
		return nil, err
	}
	r, err := auth.Request(&exportedauth.RequestOptions{
		Context:    requestContext,
		Extensions: []exportedauth.Extension{{Type: exportedauth.ExtensionCMWAttestation}},
	})
	if err != nil {
		return nil, err
	}
	if err := link.writeRecord(recordApplication, r.Bytes()); err != nil {
		return nil, err
	}
	b, err := link.readExported(3)
	if err != nil {
		return nil, err
	}
	a, err := auth.Validate(r, b, func([]*x509.Certificate) error { return nil })
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(a.Extensions, func(e exportedauth.Extension) bool { return e.Type == exportedauth.ExtensionCMWAttestation })
	if i < 0 {
		return nil, errors.New("attack: an authenticator without evidence")
	}
	var cmw cryptobyte.String
	if s := cryptobyte.String(a.Extensions[i].Data); !s.ReadUint16LengthPrefixed(&cmw) {
		return nil, errors.New("attack: malformed cmw_attestation")
	}
	return &presentation{cmw: cmw, made: p.made, attester: p.attester, link: link}, nil
}

// forge makes evidence for the attacker's own connection s, over a key of its choice,
// with a TEE that quotes what it is told to.
func (c *cell) forge(tee *softtee.TDX, s *speaker, key crypto.PublicKey) (*presentation, error) {
	spki, n := spkiOf(key), challenge(s.client)
	p := &presentation{made: func() *session { return &s.session }}
	if c.mode.passport {
		h, err := c.world.results(key)
		if err != nil {
			return nil, err
		}
		p.cmw, err = h.Attest(c.ctx, &attestext.AttestRequest{
			Verifier:  c.world.issuer.Identity(),
			Challenge: &attestext.Challenge{Model: attestext.Passport, Role: s.role, Kind: attestext.CertAttestation, SPKI: spki},
		})
		return p, err
	}
	if c.mode.early() {
		binder := earlyBinder(s.suite.hash, sum(s.suite.hash, s.session.hellos), spki)
		var err error
		p.cmw, err = attester.New(tee).Attest(c.ctx, &attestext.AttestRequest{Type: c.evidenceType(), Challenge: &attestext.Challenge{
			Role: s.role, Binding: attestext.BindingEarly, Kind: attestext.CertAttestation, Binder: binder, SPKI: spki,
		}})
		return p, err
	}
	binder, err := s.handshake.HandshakeExporterSecret(s.transcript).ChannelBinder(n)
	if err != nil {
		return nil, err
	}
	if c.mode.experimental() {
		p.cmw, err = reportCMW(tee, c.mode.reportData(&view{
			client: s.client, nonce: n, binder: binder, spki: spki,
		}))
		return p, err
	}
	t := c.evidenceType()
	p.cmw, err = attester.New(tee).Attest(c.ctx, &attestext.AttestRequest{Type: t, Challenge: &attestext.Challenge{
		Role: s.role, Binding: c.mode.binding, Kind: t.Kind, Nonce: n, Binder: binder, SPKI: spki,
	}})
	return p, err
}

// forgeExported is forge for an exported authenticator.
func (c *cell) forgeExported(tee *softtee.TDX, s *speaker, key crypto.PublicKey, requestContext []byte) (*presentation, error) {
	spki := spkiOf(key)
	exported, err := s.export(exportedauth.LabelAttestation, requestContext, 32)
	if err != nil {
		return nil, err
	}
	h := s.suite.hash.New()
	h.Write(spki)
	h.Write(exported)
	cmw, err := attester.New(tee).Attest(c.ctx, &attestext.AttestRequest{
		Type: attestext.EvidenceType{Kind: attestext.CertAttestation, Format: tsm.FormatCBOR},
		Challenge: &attestext.Challenge{
			Role: s.role, Binding: attestext.BindingExpat, Kind: attestext.CertAttestation,
			Nonce: requestContext, Binder: h.Sum(nil), SPKI: spki,
		},
	})
	return &presentation{cmw: cmw, made: func() *session { return &s.session }}, err
}

// prove adds the proof of an attested key that the attacker's machine has: the
// transcript is of the messages before Certificate.
func (c *cell) prove(p *presentation, s *speaker, ek crypto.Signer, leaf []byte) error {
	before := s.suite.hash.New()
	before.Write(s.session.hellos)
	before.Write(encryptedExtensions(c.selections(s.client)))
	sig, err := signECDSA(ek, "TLS 1.3, attested key proof, server\x00", before.Sum(nil), sum(s.suite.hash, leaf), sum(s.suite.hash, p.cmw))
	if err != nil {
		return err
	}
	p.proof, err = (&attestext.AttestedKeyProof{Algorithm: schemeECDSAP256, Key: spkiOf(ek.Public()), Signature: sig}).Marshal()
	return err
}

func short(b []byte) string {
	if len(b) > 8 {
		return fmt.Sprintf("%x…", b[:8])
	}
	return fmt.Sprintf("%x", b)
}
