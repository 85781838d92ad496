package attack

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"errors"
	"io"
	"net"

	"golang.org/x/crypto/cryptobyte"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// Downgrades: the attacker would rather that there were no evidence, or other evidence.

func handshakeOffers(m *Mode) string {
	if !m.handshake {
		return "the request for evidence is application data, which nobody on the path can change"
	}
	return ""
}

func noNegotiation(m *Mode) string {
	if !m.handshake {
		return "no type of evidence is negotiated"
	}
	return ""
}

// onPath stands between the client and the genuine server, and changes ClientHellos.
func (c *cell) onPath(server func(*tls.Config), change func(n int, client *hello) *hello) error {
	raw, err := c.client()
	if err != nil {
		return err
	}
	to, e, err := c.serverWith(c.world.genuineMachine(), server)
	if err != nil {
		return err
	}
	c.made, c.attester = e.session, e
	return c.between(raw, to, e.name, change)
}

// between passes on what a client and a server say to each other, with changes to the
// ClientHellos.
func (c *cell) between(raw, to net.Conn, server string, change func(n int, client *hello) *hello) error {
	client := &speaker{raw: raw, role: attestext.RoleServer}
	out := &speaker{raw: to, role: attestext.RoleClient}
	for n := 0; ; n++ {
		m, err := client.readMessage()
		if err != nil {
			return c.refusal(err)
		}
		h, err := parseHello(m)
		if err != nil {
			return err
		}
		if h = change(n, h); h == nil {
			h = &hello{raw: m}
		}
		if h.raw == nil {
			h.raw = h.client()
		}
		if err := out.writeRecord(recordHandshake, h.raw); err != nil {
			return err
		}
		if m, err = out.readMessage(); err != nil {
			// A server that refuses tells its client, in the clear.
			var a *alertError
			if errors.As(err, &a) {
				c.say("attacker", "reads alert %d (%v), and passes it on", a.alert, tls.AlertError(a.alert))
				return client.writeRecord(recordAlert, []byte{a.level, a.alert})
			}
			return err
		}
		if err := client.writeRecord(recordHandshake, m); err != nil {
			return err
		}
		if h, err = parseHello(m); err != nil {
			return err
		}
		if !bytes.Equal(h.random, helloRetryRandom) {
			break
		}
		c.say(server, "asks for another ClientHello (HelloRetryRequest)")
	}
	c.forward(raw, to)
	return nil
}

// changed returns h with other extensions.
func (h *hello) changed(exts []extension) *hello {
	return &hello{random: h.random, session: h.session, suites: h.suites, exts: exts}
}

func runStrip(c *cell) error {
	return c.onPath(nil, func(_ int, client *hello) *hello {
		c.say("attacker", "takes the request for evidence out of the client's ClientHello")
		return client.changed(without(client.exts, attestationExtensions()...))
	})
}

// runClientStrip: the client attests, and the server wants it to; the attacker would
// have the server believe that the client cannot.
func runClientStrip(c *cell) error {
	to, err := c.relyingServer()
	if err != nil {
		return err
	}
	raw, e, err := c.attestingClient(c.world.clientMachine(), nameOther)
	if err != nil {
		return err
	}
	c.made, c.attester = e.session, e
	return c.between(raw, to, c.victim.name, func(_ int, client *hello) *hello {
		c.say("attacker", "takes the offer to attest out of the client's ClientHello")
		return client.changed(without(client.exts, attestationExtensions()...))
	})
}

// runClientOmit: the attacker offers to attest, as it has to, and then shows the stolen
// certificate alone.
func runClientOmit(c *cell) error {
	to, err := c.relyingServer()
	if err != nil {
		return err
	}
	key := newKey()
	s, err := dial(to, clientHello(nameOther, key, c.offer()...), key)
	if err != nil {
		return err
	}
	if _, err := s.readFlight(); err != nil {
		return c.refusal(err)
	}
	cert := c.world.client
	if !c.mode.handshake {
		if err := s.finish(); err != nil {
			return err
		}
	} else {
		c.say("attacker", "offers to attest, and shows the stolen certificate without evidence")
		m := certificate(entry{data: cert.Certificate[0]})
		transcript, err := cloneHash(s.transcript)
		if err != nil {
			return err
		}
		transcript.Write(m)
		verify, err := signTranscript(cert.PrivateKey.(crypto.Signer), attestext.RoleClient, transcript)
		if err != nil {
			return err
		}
		if err := s.finish(m, verify); err != nil {
			return c.refusal(err)
		}
	}
	return c.exported(s, cert, cert.PrivateKey.(crypto.Signer), func(*speaker, []byte) (*presentation, error) {
		c.say("attacker", "answers with an authenticator that says no")
		return nil, nil
	})
}

// runRetry has the server ask for another key share; the attacker changes the client's
// challenge in the second ClientHello.
func runRetry(c *cell) error {
	return c.onPath(func(cfg *tls.Config) { cfg.CurvePreferences = []tls.CurveID{tls.CurveP384} }, func(n int, client *hello) *hello {
		if n == 0 {
			return nil
		}
		c.say("attacker", "changes the client's request in the second ClientHello")
		var exts []extension
		for _, e := range client.exts {
			if e.typ == codePoints.RemoteAttestation { // it has no nonce: another type of evidence
				schemes := []attestext.AttestationScheme{{Format: attestext.EvidenceFormat{MediaType: "application/x-attacker"}}}
				e.data, _ = (&attestext.EarlyHello{Server: schemes}).Marshal()
			}
			if e.typ == codePoints.EvidenceRequest || e.typ == codePoints.ResultsRequest {
				e.data = bytes.Clone(e.data)
				e.data[len(e.data)-1] ^= 1 // the end of the nonce, or of a verifier's name
			}
			exts = append(exts, e)
		}
		return client.changed(exts)
	})
}

// terminateWith is terminate for a server that does not do as it should: change gets
// its answers.
func (c *cell) terminateWith(hello func(*hello), change func(s *speaker, ee []extension, entries []entry) ([]extension, []entry)) error {
	raw, err := c.client()
	if err != nil {
		return err
	}
	return c.misbehave(raw, hello, change)
}

func (c *cell) misbehave(raw net.Conn, changeHello func(*hello), change func(s *speaker, ee []extension, entries []entry) ([]extension, []entry)) error {
	s, err := c.greet(raw, changeHello)
	if err != nil {
		return err
	}
	cert, key := c.tik()
	if cert.Certificate == nil {
		cert = c.world.evil
	}
	ee, entries := c.selections(s.client), []entry{{data: cert.Certificate[0]}}
	if change != nil {
		ee, entries = change(s, ee, entries)
	}
	if err := s.serve(ee, certificate(entries...), key); err != nil {
		return c.refusal(err)
	}
	return c.exported(s, cert, key, func(*speaker, []byte) (*presentation, error) {
		c.say("attacker", "answers with an authenticator that says no")
		return nil, nil
	})
}

func runIgnore(c *cell) error {
	return c.terminateWith(nil, func(_ *speaker, _ []extension, entries []entry) ([]extension, []entry) {
		c.say("attacker", "ends the connection itself, and answers as if it did not know attestation")
		return nil, entries
	})
}

// runVersion has a server that speaks TLS 1.2.
func runVersion(c *cell) error {
	c.say("attacker", "ends the connection itself, and speaks TLS 1.2")
	return c.terminateWith(func(h *hello) { h.exts = without(h.exts, extSupportedVersions) }, nil)
}

// runResumption: before it was told to ask for evidence, the client had a session with
// the server, whose secrets the attacker has got since.
func runResumption(c *cell) error {
	cache := tls.NewLRUClientSessionCache(1)
	if err := c.remember(cache); err != nil {
		return err
	}
	c.say("client", "has a session of before it asked for evidence, and would like to resume it")
	raw, err := c.clientWith(func(cfg *tls.Config) { cfg.ClientSessionCache = cache })
	if err != nil {
		return err
	}
	return c.misbehave(raw, func(h *hello) {
		c.say("attacker", "resumes that session, in which there is no Certificate and so no evidence")
		h.exts = append(h.exts, extension{extPreSharedKey, []byte{0, 0}})
	}, nil)
}

// remember fills a cache with a session of a client that does not ask for evidence.
func (c *cell) remember(cache tls.ClientSessionCache) error {
	raw, far, err := c.loopback()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		s := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{c.world.server}, Time: c.world.clock})
		_, err := s.Write([]byte(secret))
		done <- err
	}()
	client := tls.Client(raw, &tls.Config{RootCAs: c.world.roots, ServerName: nameServer, ClientSessionCache: cache, Time: c.world.clock})
	_, err = io.ReadFull(client, make([]byte, len(secret)))
	if err = errors.Join(err, <-done); err != nil {
		return err
	}
	if _, ok := cache.Get(nameServer); !ok {
		return errors.New("attack: there is no session to resume")
	}
	return nil
}

func runEarlyData(c *cell) error {
	return c.terminateWith(nil, func(_ *speaker, ee []extension, entries []entry) ([]extension, []entry) {
		c.say("attacker", "accepts early data, which nobody offered")
		return append(ee, extension{extEarlyData, nil}), entries
	})
}

// runType selects what the client did not offer.
func runType(c *cell) error {
	return c.terminateWith(nil, func(_ *speaker, _ []extension, entries []entry) ([]extension, []entry) {
		if c.mode.passport {
			c.say("attacker", "selects a verifier that the client does not trust")
			b, _ := (&attestext.ResultsSelection{Verifier: "https://attacker.example/verifier"}).Marshal()
			return []extension{{codePoints.ResultsRequest, b}}, entries
		}
		c.say("attacker", "selects a type of evidence that the client did not offer")
		t := c.evidenceType()
		t.Format = attestext.EvidenceFormat{MediaType: "application/x-attacker"}
		if c.mode.early() {
			b, _ := attestext.AttestationScheme{Format: t.Format}.Marshal()
			return []extension{{codePoints.RemoteAttestation, b}}, entries
		}
		b, _ := (&attestext.EvidenceSelection{Type: t}).Marshal()
		return []extension{{codePoints.EvidenceRequest, b}}, entries
	})
}

// runEntry: the attacker has genuine evidence of somebody else, and puts it where it
// belongs to a certificate that is not the leaf.
func runEntry(c *cell) error {
	if !c.mode.handshake {
		return c.entryExported()
	}
	p, err := c.capture(c.world.genuineMachine())
	if err != nil {
		return err
	}
	return c.terminateWith(nil, func(_ *speaker, ee []extension, entries []entry) ([]extension, []entry) {
		c.say("attacker", "puts evidence into the second entry of its Certificate")
		cert := c.world.evil
		if c.mode.only {
			return ee, append([]entry{{data: p.cmw}}, entry{data: p.cmw})
		}
		e := c.entry(cert, p)
		return ee, append(entries, e)
	})
}

// entryExported does the same in an exported authenticator, which it makes by hand.
func (c *cell) entryExported() error {
	p, err := c.capture(c.world.genuineMachine())
	if err != nil {
		return err
	}
	evidence, err := c.relayExported(p, random(32))
	if err != nil {
		return err
	}
	raw, err := c.client()
	if err != nil {
		return err
	}
	cert, key := c.tik()
	s, err := c.greet(raw, nil)
	if err != nil {
		return err
	}
	if err := s.serve(nil, certificate(entry{data: cert.Certificate[0]}), key); err != nil {
		return c.refusal(err)
	}
	request, err := s.readExported(1)
	if err != nil {
		return err
	}
	c.say("attacker", "puts evidence into the second entry of its authenticator")
	b, err := s.authenticator(request, key, entry{data: cert.Certificate[0]},
		entry{c.world.evil.Certificate[0], []extension{{exportedauth.ExtensionCMWAttestation, cmwAttestation(evidence.cmw)}}})
	if err != nil {
		return err
	}
	if err := s.writeRecord(recordApplication, b); err != nil {
		return err
	}
	return c.listen(s)
}

// authenticator returns a server's exported authenticator with those entries, RFC 9261,
// section 5.2.
func (s *speaker) authenticator(request []byte, key crypto.Signer, entries ...entry) ([]byte, error) {
	context, err := exportedauth.Context(request)
	if err != nil {
		return nil, err
	}
	n := s.suite.hash.Size()
	signed, _ := s.export("EXPORTER-server authenticator handshake context", nil, n)
	finishedKey, _ := s.export("EXPORTER-server authenticator finished key", nil, n)
	cert := certificateFor(context, entries...)
	transcript := append(append(signed, request...), cert...)
	sig, err := signECDSA(key, "Exported Authenticator\x00", sum(s.suite.hash, transcript))
	if err != nil {
		return nil, err
	}
	verify := message(typeCertificateVerify, func(b *cryptobyte.Builder) {
		b.AddUint16(schemeECDSAP256)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(sig) })
	})
	mac := hmac.New(s.suite.hash.New, finishedKey)
	mac.Write(sum(s.suite.hash, append(transcript, verify...)))
	finished := message(typeFinished, func(b *cryptobyte.Builder) { b.AddBytes(mac.Sum(nil)) })
	return append(append(cert, verify...), finished...), nil
}

func cmwAttestation(cmw []byte) []byte {
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(cmw) })
	return b.BytesOrPanic()
}
