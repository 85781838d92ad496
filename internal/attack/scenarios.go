package attack

import (
	"crypto"
	"crypto/ecdh"
	"io"
	"net"
	"os"
	"slices"
	"sync"

	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/tls"
)

// A Scenario is one attack.
type Scenario struct {
	Name  string
	About string
	// Holds is what the attacker has, beyond a place on the path and a certificate
	// for a name of its own.
	Holds string

	// inapplicable returns why there is nothing to run against a mode, or "".
	inapplicable func(*Mode) string
	run          func(*cell) error
}

// Scenarios are all scenarios, in the order of tables.
var Scenarios = []*Scenario{
	{Name: "replay", About: "evidence recorded earlier is shown on a new connection", Holds: holdsTIK, run: runReplay},
	{Name: "r1", About: "relay: the client's random and nonce are forwarded to the genuine machine, on a connection of the attacker's", Holds: holdsTIK, run: runRelay},
	{Name: "r2", About: "relay of evidence that the genuine machine made for a challenge of the attacker's", Holds: holdsTIK, run: runCaptured},
	{Name: "r3", About: "relay: the client's nonce is forwarded to the genuine machine, on a connection of the attacker's; r1 by the name that it has under binder 6", Holds: holdsTIK, run: runRelay},
	{Name: "r4", About: "relay: the client's whole ClientHello is forwarded, and the client is answered with another key share", Holds: holdsTIK + "; the handshake traffic secret of the genuine server on that connection, without which its evidence cannot be read", inapplicable: handshakeOnly, run: runR4},
	{Name: "r5", About: "relay inside one Diffie-Hellman exchange: all that the binding lets differ, differs", Holds: holdsTIK + "; the Diffie-Hellman secret of the client and the genuine server, whose random number generator is broken", run: runR5},
	{Name: "r5'", About: "another genuine machine, whose software signs a challenge that it is handed, for its own key alone", Holds: holdsTIK + "; another genuine machine", inapplicable: noTIK, run: runR5Prime},
	{Name: "r6", About: "another genuine machine, whose software signs any challenge that it can compute from what it is shown: hellos and certificates", Holds: holdsTIK + "; another genuine machine, which was given that key", inapplicable: noTIK, run: runR6},
	{Name: "r7", About: "two connections, one request context: the exported authenticator of one is the model of the other's", Holds: holdsTIK, inapplicable: exchangeOnly, run: runRelay},
	{Name: "d1", About: "diversion: the traffic is led to another genuine machine with the same software", Holds: "no key", run: runD1},
	{Name: "d2", About: "diversion: evidence forged with the attestation key of one compromised machine", Holds: "the attestation key of some machine of the same make", run: runD2},
	{Name: "stale", About: "the machine is taken over after the handshake", Holds: "the machine, from then on", run: runStale},
	{Name: "reflection", About: "evidence that the client's own machine made as a client is shown to it as the server's", Holds: holdsTIK, run: runReflection},
	{Name: "reflection-nonce", About: "a server's own evidence is returned to it as its client's, on the same connection", Holds: holdsTIK + "; the server's nonce in advance, for its random number generator is broken", run: runOwnEvidence},
	{Name: "splice", About: "evidence of a server is shown to another server as the client's", Holds: "no key but its own", run: runSplice},
	{Name: "downgrade-strip", About: "the request for evidence is taken out of the ClientHello", Holds: "no key", inapplicable: handshakeOffers, run: runStrip},
	{Name: "downgrade-ignore", About: "a server that does not answer the request for evidence", Holds: holdsTIK, run: runIgnore},
	{Name: "downgrade-version", About: "a server that speaks TLS 1.2", Holds: holdsTIK, run: runVersion},
	{Name: "downgrade-resumption", About: "a session without evidence is resumed, though the client does not offer to", Holds: holdsTIK + "; the secrets of an earlier session of the client", run: runResumption},
	{Name: "downgrade-early-data", About: "early data is accepted, though the client does not offer it", Holds: holdsTIK, run: runEarlyData},
	{Name: "downgrade-type", About: "a type of evidence, or a verifier, is selected that the client did not offer", Holds: holdsTIK, inapplicable: noNegotiation, run: runType},
	{Name: "downgrade-entry", About: "evidence comes in a later CertificateEntry than the first", Holds: holdsTIK, run: runEntry},
	{Name: "client-strip", About: "the client's offer to attest is taken out of its ClientHello; the server wants it", Holds: "no key", inapplicable: handshakeOffers, run: runClientStrip},
	{Name: "client-omit", About: "a client that does not attest, to a server that wants it", Holds: "the key of an attesting client's certificate, stolen", run: runClientOmit},
	{Name: "downgrade-retry", About: "the client's challenge is changed after a HelloRetryRequest", Holds: "no key", inapplicable: handshakeOffers, run: runRetry},
}

const holdsTIK = "the key of the server's certificate, stolen"

func handshakeOnly(m *Mode) string {
	if !m.handshake {
		return "the evidence comes after the handshake, which an attacker without the keys of either end cannot complete with the genuine machine"
	}
	return ""
}

func noTIK(m *Mode) string {
	if m.only {
		return "there is no certificate whose key could be stolen: another genuine machine passes without, see d1"
	}
	return ""
}

func exchangeOnly(m *Mode) string {
	if !m.exchange {
		return "the mode has no exported authenticator: its relay is r3"
	}
	return ""
}

// ScenarioNamed returns the scenario of that name, or nil.
func ScenarioNamed(name string) *Scenario {
	i := slices.IndexFunc(Scenarios, func(s *Scenario) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return Scenarios[i]
}

// runRelay: the attacker ends the client's connection itself, with the stolen key, has
// the genuine machine attest to the client's own challenge on another connection, and
// shows that.
func runRelay(c *cell) error { return c.relayFrom(c.world.genuineMachine()) }

func (c *cell) relayFrom(m *machine) error {
	raw, err := c.client()
	if err != nil {
		return err
	}
	cert, key := c.tik()
	var link *presentation
	obtain := func(s *speaker) (*presentation, error) {
		var err error
		if link, err = c.relay(m, s.client); err == nil {
			if c.mode.handshake {
				c.say("attacker", "ends the connection itself, and forwards the challenge to %s on one of its own", m.name)
			} else {
				c.say("attacker", "connects to %s as any client", m.name)
			}
			c.say(m.name, "attests, as to anybody%s", link.quoted())
		}
		return link, err
	}
	return c.terminate(raw, cert, key, obtain, func(s *speaker, context []byte) (*presentation, error) {
		if link == nil {
			if _, err := obtain(s); err != nil {
				return nil, err
			}
		}
		c.say("attacker", "asks %s for an authenticator with the client's context %s, and puts its evidence into one of its own", m.name, short(context))
		return c.relayExported(link, context)
	})
}

// challengeText says what a ClientHello challenges the server with.
func (c *cell) challengeText(client *hello) string {
	switch {
	case !c.mode.handshake:
		return "no challenge yet, it comes after the handshake"
	case c.mode.passport:
		return "no challenge, a verifier's result will do"
	case c.mode.early():
		return "no nonce, its random " + short(client.random) + " and key share are challenge enough"
	}
	return "nonce " + short(challenge(client)) + ", random " + short(client.random) + ", both fresh"
}

// runReplay and runCaptured show evidence that was made for another challenge: of an
// earlier day, or of this moment.
func runReplay(c *cell) error {
	c.say("attacker", "some time ago, connected to the server's machine as any client, and kept the evidence")
	return c.captured()
}

func runCaptured(c *cell) error {
	c.say("attacker", "connects to the server's machine as any client, with a challenge of its own, and takes the evidence")
	return c.captured()
}

func (c *cell) captured() error {
	p, err := c.capture(c.world.genuineMachine())
	if err != nil {
		return err
	}
	var context []byte
	if c.exchanges() > 0 {
		context = random(32)
		exported, err := c.relayExported(p, context)
		if err != nil {
			return err
		}
		if !c.mode.handshake {
			p = exported
		}
		return c.showCaptured(p, exported)
	}
	return c.showCaptured(p, nil)
}

func (c *cell) showCaptured(p, exported *presentation) error {
	raw, err := c.client()
	if err != nil {
		return err
	}
	c.say("attacker", "ends the client's connection itself, with the stolen key, and shows that evidence")
	cert, key := c.tik()
	return c.terminate(raw, cert, key,
		func(*speaker) (*presentation, error) { return p, nil },
		func(*speaker, []byte) (*presentation, error) { return exported, nil })
}

// runR4 forwards the ClientHello as it is. The early exporter is then the same on both
// connections, and the Diffie-Hellman secret is not.
func runR4(c *cell) error {
	raw, err := c.client()
	if err != nil {
		return err
	}
	cert, key := c.tik()
	return c.terminate(raw, cert, key, func(s *speaker) (*presentation, error) {
		to, e, err := c.server(c.world.genuineMachine())
		if err != nil {
			return nil, err
		}
		link, err := dial(to, &hello{raw: s.client.raw, suites: s.client.suites}, nil)
		if err != nil {
			return nil, err
		}
		c.say("attacker", "forwards the client's ClientHello to the server's machine byte by byte, and answers the client with a key share of its own")
		link.in = link.suite.protect(e.keys.secret("SERVER_HANDSHAKE_TRAFFIC_SECRET"))
		f, err := link.readFlight()
		if err != nil {
			return nil, err
		}
		c.say("attacker", "reads the evidence with the leaked handshake traffic secret; it cannot complete that handshake")
		p := &presentation{made: e.session, attester: e}
		p.take(c.mode, f.entries)
		return p, nil
	}, func(*speaker, []byte) (*presentation, error) {
		c.say("attacker", "has no connection to the genuine machine on which it could ask for an authenticator")
		return nil, nil
	})
}

// A brokenRandom is a random number generator that always returns the same byte.
type brokenRandom struct{}

const brokenByte = 0x42

func (brokenRandom) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = brokenByte
	}
	return len(b), nil
}

// customRandom has crypto/ecdh use the Config's random source, as it did before Go 1.26,
// until the returned function is called. That is how an honest end gets a random
// number generator that is broken; ends without one are not affected.
var customRandom = struct {
	sync.Mutex
	n   int
	old string
}{}

func useCustomRandom() (restore func()) {
	r := &customRandom
	r.Lock()
	defer r.Unlock()
	if r.n++; r.n == 1 {
		r.old = os.Getenv("GODEBUG")
		setting := "cryptocustomrand=1"
		if r.old != "" {
			setting = r.old + "," + setting
		}
		os.Setenv("GODEBUG", setting)
	}
	return func() {
		r.Lock()
		defer r.Unlock()
		if r.n--; r.n == 0 {
			os.Setenv("GODEBUG", r.old)
		}
	}
}

// runR5: client and server agree on one Diffie-Hellman secret, which the attacker
// computes as well. First it changes ServerHello, and so all that follows; where the
// evidence does not allow that, it signs anew with the stolen key, which changes all
// behind CertificateVerify.
func runR5(c *cell) error {
	defer useCustomRandom()()
	c.say("attacker", "first tries another ServerHello.random")
	if err := c.r5(true); err != nil {
		return err
	}
	c.settle()
	if c.victim.err == nil {
		return nil
	}
	c.say("client", "refuses: %v", c.victim.err)
	c.hear()
	c.say("attacker", "tries again, with the server's own hello and a CertificateVerify of its own")
	c.ends = nil
	return c.r5(false)
}

func (c *cell) r5(otherHello bool) error {
	raw, err := c.client()
	if err != nil {
		return err
	}
	victim, err := accept(raw)
	if err != nil {
		return err
	}
	to, e, err := c.serverWith(c.world.genuineMachine(), func(cfg *tls.Config) {
		cfg.Rand, cfg.CurvePreferences = brokenRandom{}, []tls.CurveID{tls.X25519}
	})
	if err != nil {
		return err
	}
	link, err := dial(to, victim.client, nil)
	if err != nil {
		return err
	}
	private := make([]byte, 32)
	brokenRandom{}.Read(private)
	ephemeral, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		return err
	}
	share, err := victim.client.keyShare(false)
	if err != nil {
		return err
	}
	shared, err := agree(ephemeral, share)
	if err != nil {
		return err
	}
	c.known = append(c.known, shared)
	if err := link.hellos(link.server, shared); err != nil {
		return err
	}
	c.say("attacker", "forwards the ClientHello, guesses the server's ephemeral key and has the Diffie-Hellman secret")
	server := link.server
	if otherHello {
		server = &hello{random: random(32), session: server.session, suites: server.suites, exts: server.exts}
	}
	if err := victim.answer(server, shared); err != nil {
		return err
	}
	f, err := link.readFlight()
	if err != nil {
		return err
	}
	if err := link.finish(); err != nil {
		return err
	}
	p := &presentation{made: e.session, attester: e, link: link}
	p.take(c.mode, f.entries)
	c.shows(p)
	cert, key := c.tik()
	if err := victim.serve(f.ee, f.certificate(), key); err != nil {
		return c.refusal(err)
	}
	return c.exported(victim, cert, key, func(_ *speaker, context []byte) (*presentation, error) {
		c.say("attacker", "asks the server's machine for an authenticator with the client's context %s", short(context))
		return c.relayExported(p, context)
	})
}

// runR5Prime: the software of the other machine signs what its host hands it as the
// challenge, but says for its own key alone.
func runR5Prime(c *cell) error {
	other := c.world.otherMachine()
	own := other.cert.PrivateKey.(crypto.Signer).Public()
	return c.elsewhere(other, own, func(s *speaker, context []byte) (*presentation, error) {
		c.say("attacker", "has %s quote the binding of the client's context %s", other.name, short(context))
		return c.forgeExported(other.tee, s, own, context)
	})
}

// runR6: the software of the other machine was given the stolen key. It attests to
// connections that it ends itself, and to others as far as what it is shown lets it
// compute the challenge.
func runR6(c *cell) error {
	other := c.world.otherMachine()
	other.cert = c.world.server
	if !c.mode.publicInputs() && !c.mode.passport {
		c.say("attacker", "cannot have the challenge computed there: it needs a secret of the client's handshake")
		return c.relayFrom(other)
	}
	c.say("attacker", "shows the other machine the hellos and the certificate; the challenge follows from them")
	_, tik := c.tik()
	return c.elsewhere(other, tik.Public(), func(s *speaker, context []byte) (*presentation, error) {
		c.say("attacker", "cannot have the binding computed there: it needs the exporter. It asks on a connection of its own")
		link, err := c.relay(other, s.client)
		if err != nil {
			return nil, err
		}
		return c.relayExported(link, context)
	})
}

// elsewhere shows evidence of another machine, over a key, for the client's connection.
func (c *cell) elsewhere(m *machine, key crypto.PublicKey, more func(*speaker, []byte) (*presentation, error)) error {
	raw, err := c.client()
	if err != nil {
		return err
	}
	cert, tik := c.tik()
	return c.terminate(raw, cert, tik, func(s *speaker) (*presentation, error) {
		if c.mode.twoKeys {
			key = m.ek.Public()
		}
		p, err := c.forge(m.tee, s, key)
		if err != nil {
			return nil, err
		}
		c.say("attacker", "ends the connection itself, and has %s quote its challenge", m.name)
		if c.mode.twoKeys {
			err = c.prove(p, s, m.ek, cert.Certificate[0])
			c.say(m.name, "signs the session with its own attested key")
		}
		return p, err
	}, more)
}

// runD1: the attacker forwards bytes, to the wrong address.
func runD1(c *cell) error {
	raw, err := c.client()
	if err != nil {
		return err
	}
	m := c.world.otherMachine()
	to, e, err := c.server(m)
	if err != nil {
		return err
	}
	c.say("attacker", "leads the client's packets to %s, which runs the same software", m.name)
	c.made, c.attester = e.session, e
	c.forward(raw, to)
	return nil
}

// forward copies bytes in both directions until both ends are done.
func (c *cell) forward(a, b net.Conn) {
	var wg sync.WaitGroup
	for _, p := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			io.Copy(p[0], p[1])
			p[0].(*net.TCPConn).CloseWrite()
		})
	}
	wg.Wait()
}

// runD2: the attacker has no TEE, but the attestation key of one; it signs whatever
// claims are wanted.
func runD2(c *cell) error {
	raw, err := c.client()
	if err != nil {
		return err
	}
	cert := c.world.evil
	key := cert.PrivateKey.(crypto.Signer)
	return c.terminate(raw, cert, key, func(s *speaker) (*presentation, error) {
		c.say("attacker", "signs a quote for its own connection and key, with the measurements that the client wants to see")
		attested := key // with two keys as well: it is the attacker's one
		p, err := c.forge(c.world.compromised, s, attested.Public())
		if err == nil && c.mode.twoKeys {
			err = c.prove(p, s, attested, cert.Certificate[0])
		}
		return p, err
	}, func(s *speaker, context []byte) (*presentation, error) {
		return c.forgeExported(c.world.compromised, s, key.Public(), context)
	})
}

// runStale: nobody is in the middle. When the client has accepted, the machine is taken
// over, which its measurements show from then on.
func runStale(c *cell) error {
	var mu sync.Mutex
	taken := false
	m := c.world.genuineMachine()
	m.tee = softtee.NewTDX(&softtee.TDXOptions{Modify: func(body *tdx.Quote) {
		mu.Lock()
		defer mu.Unlock()
		if taken {
			body.RTMRs[3][0] ^= 1
		}
	}})
	c.compromise = func() {
		mu.Lock()
		defer mu.Unlock()
		if !taken {
			taken = true
			c.say("attacker", "takes over the machine; from now on, RTMR3 says so")
		}
	}
	raw, err := c.client()
	if err != nil {
		return err
	}
	to, e, err := c.server(m)
	if err != nil {
		return err
	}
	c.made, c.attester = e.session, e
	c.forward(raw, to)
	<-e.done
	if e.read != nil {
		c.later("reads %q on the machine", e.read)
	}
	return nil
}
