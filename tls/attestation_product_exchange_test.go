package tls

import (
	"bytes"
	"context"
	"crypto"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// The product of the modes after the handshake: when, with the rule of the handshake's
// part; who attests in which model; what carries it; over what; and which stack is at
// either end.

// A productWhen is a mode with the binding rule of its part in the handshake.
type productWhen struct {
	mode    AttestationMode
	binding attestext.Binding
}

var productWhens = []productWhen{
	{PostHandshake, attestext.BindingHardened}, // which is the zero value, for it has no such part
	{Combined, attestext.BindingHardened},
	{Combined, attestext.BindingDraft08},
}

// A productAttests is one direction: nobody attests, or in which model.
type productAttests struct {
	attests bool
	model   attestext.Model
}

func (d productAttests) String() string {
	if !d.attests {
		return "nothing"
	}
	return d.model.String()
}

var (
	productAttestations = []productAttests{{}, {true, attestext.BackgroundCheck}, {true, attestext.Passport}}
	productCarriages    = []AttestationCarriage{CarriageAuto, CarriageLeading, CarriagePostHandshake}
	// Stock crypto/tls with package exportedauth has PostHandshake and, over its
	// exporter, nothing else.
	productStacks = []productStack{
		{"two forks over TCP", false, false, "TCP"},
		{"a client on crypto/tls", true, false, "TCP"},
		{"a server on crypto/tls", false, true, "TCP"},
		{"two forks over QUIC", false, false, "QUIC"},
	}
)

type productStack struct {
	name                   string
	stockClient, stockServ bool
	carrier                string
}

// configure puts the direction into the settings of both ends.
func (d productAttests) configure(attests, relies *AttestationConfig) {
	switch {
	case !d.attests:
	case d.model == attestext.Passport:
		attests.Results, relies.ResultsVerifier = &stubResults{}, &stubResults{}
	default:
		attests.Attester, relies.Verifier = &stubTEE{}, &stubTEE{}
	}
}

// productAfterHandshake runs the product, and returns how many handshakes it ran and
// how many both ends accepted.
func productAfterHandshake(t *testing.T) (cells, accepted int) {
	for _, stack := range productStacks {
		for _, tt := range product3(productWhens, productAttestations, productAttestations) {
			when, server, client := tt.a, tt.b, tt.c
			for _, carriage := range product3(productCarriages, productCarriages, productRetries) {
				c := productExchange{stack, when, server, client, carriage.a, carriage.b, carriage.c}
				if !c.exists() {
					continue
				}
				cells++
				if c.run(t) {
					accepted++
				}
			}
		}
	}
	return cells, accepted
}

// A productExchange is one cell.
type productExchange struct {
	stack                 productStack
	when                  productWhen
	server, client        productAttests
	clientCarr, serveCarr AttestationCarriage
	retry                 bool
}

func (c productExchange) String() string {
	return fmt.Sprintf("%s, %v (%v), the server attests %v, the client %v, carriages %v and %v, retry %v",
		c.stack.name, c.when.mode, c.when.binding, c.server, c.client, c.clientCarr, c.serveCarr, c.retry)
}

// exists reports whether there is such a cell: an end on another stack has no Carriage
// and no part in the handshake.
func (c productExchange) exists() bool {
	stock := c.stack.stockClient || c.stack.stockServ
	switch {
	case stock && c.when.mode != PostHandshake:
		return false
	case c.stack.carrier == "QUIC":
		return c.clientCarr == CarriageAuto && c.serveCarr == CarriageAuto
	}
	return (!c.stack.stockClient || c.clientCarr == CarriageLeading) && (!c.stack.stockServ || c.serveCarr == CarriageLeading)
}

// refused returns which end refuses the cell, and at which stage; neither, if it is
// accepted.
func (c productExchange) refused() (by attestext.Role) {
	post := func(a AttestationCarriage) bool { return a == CarriagePostHandshake }
	leads := func(a AttestationCarriage) bool { return a == CarriageLeading }
	switch {
	case !c.server.attests && !c.client.attests:
		return attestext.RoleClient // which neither attests nor asks, and whose Config says so first
	case post(c.serveCarr) && leads(c.clientCarr):
		return attestext.RoleServer
	case post(c.clientCarr) && leads(c.serveCarr):
		return attestext.RoleClient
	}
	return 0
}

// run runs the handshake of a cell and holds it against the rules. It returns whether
// both ends accepted.
func (c productExchange) run(t *testing.T) bool {
	cc, sc := attestConfigs()
	cc.Attestation = &AttestationConfig{Mode: c.when.mode, Carriage: c.clientCarr, Binding: c.when.binding, PeerBinding: c.when.binding}
	sc.Attestation = &AttestationConfig{Mode: c.when.mode, Carriage: c.serveCarr, Binding: c.when.binding, PeerBinding: c.when.binding}
	c.server.configure(sc.Attestation, cc.Attestation)
	c.client.configure(cc.Attestation, sc.Attestation)
	if c.retry {
		sc.CurvePreferences = []CurveID{CurveP256}
	}
	if c.stack.carrier == "QUIC" {
		return c.overQUIC(t, cc, sc)
	}
	conn, peer := localPipe(t)
	client := productEnd(c.stack.stockClient, attestext.RoleClient, conn, cc)
	server := productEnd(c.stack.stockServ, attestext.RoleServer, peer, sc)
	serr := make(chan error, 1)
	go func() {
		err := server.shake()
		serr <- err
		hangUp(peer)
	}()
	clientErr := client.shake()
	hangUp(conn)
	serverErr := <-serr
	by := c.refused()
	if by == 0 {
		if clientErr != nil || serverErr != nil {
			t.Errorf("%v: client %v, server %v", c, clientErr, serverErr)
		}
		c.check(t, client, server)
		return true
	}
	end, err := client, clientErr
	if by == attestext.RoleServer {
		end, err = server, serverErr
	}
	if err == nil {
		t.Errorf("%v: the %v accepted: client %v, server %v", c, by, clientErr, serverErr)
	}
	if ae, ok := errors.AsType[*AttestationError](err); c.server.attests || c.client.attests {
		if !ok || ae.Stage != AttestationStageNegotiate || alert(ae.Alert) != alertMissingExtension {
			t.Errorf("%v: the %v refuses with %v", c, by, err)
		}
	}
	if end.fork != nil && end.fork.ConnectionState().PeerAttestation != nil {
		t.Errorf("%v: there is a result", c)
	}
	return false
}

// check checks what the ends of an accepted handshake say of either direction.
func (c productExchange) check(t *testing.T, client, server *productPeer) {
	for _, d := range []struct {
		productAttests
		attests, relies *productPeer
		role            attestext.Role
	}{{c.server, server, client, attestext.RoleServer}, {c.client, client, server, attestext.RoleClient}} {
		r := d.relies.result
		if d.productAttests.attests != r.Valid() {
			t.Errorf("%v: the result about the %v is %v", c, d.role, r.Valid())
			continue
		}
		if !r.Valid() {
			continue
		}
		if ch := r.Challenge(); ch.Role != d.role || ch.Binding != attestext.BindingExpat || ch.Model != d.model || !bytes.Equal(ch.SPKI, d.attests.spki) {
			t.Errorf("%v: the challenge of the %v is %+v", c, d.role, ch)
		}
		if d.relies.fork == nil {
			continue
		}
		if first := d.relies.fork.ConnectionState().PeerHandshakeAttestation; c.stack.carrier != "QUIC" &&
			((c.when.mode == Combined) != first.Valid() || first.Valid() && first.Binding() != c.when.binding) {
			t.Errorf("%v: in the handshake: %v", c, first.Valid())
		}
	}
	for _, p := range []*productPeer{client, server} {
		if p.fork != nil && p.fork.ConnectionState().HelloRetryRequest != c.retry {
			t.Errorf("%v: HelloRetryRequest is not %v", c, c.retry)
		}
	}
}

// overQUIC does what is done over QUIC in place of the mode: the handshake's part in
// the handshake, and exportedauth.Exchange over the exporter and a stream.
func (c productExchange) overQUIC(t *testing.T, cc, sc *Config) bool {
	cc.Attestation.Mode, sc.Attestation.Mode = InHandshake, InHandshake
	exchanges := [2]*exportedauth.Config{productConfig(attestext.RoleClient, cc), productConfig(attestext.RoleServer, sc)}
	if c.when.mode == PostHandshake {
		cc.Attestation, sc.Attestation = nil, nil
	}
	cli, srv, err := attestQUIC(t, cc, sc)
	if err != nil {
		t.Errorf("%v: %v", c, err)
		return false
	}
	defer cli.conn.Close()
	defer srv.conn.Close()
	a, b := net.Pipe() // the stream
	defer a.Close()
	defer b.Close()
	ends := [2]*productPeer{{fork: cli.conn.conn}, {fork: srv.conn.conn}}
	errs := make(chan error, 2)
	for i, conn := range []net.Conn{a, b} {
		go func() {
			cs := ends[i].fork.ConnectionState()
			errs <- ends[i].exchange(conn, []attestext.Role{attestext.RoleClient, attestext.RoleServer}[i], cs.CipherSuite, cs.ExportKeyingMaterial, exchanges[i])
		}()
	}
	first, second := <-errs, <-errs
	if c.refused() != 0 {
		if first == nil || second == nil {
			t.Errorf("%v: accepted", c)
		}
		return false
	}
	if first != nil || second != nil {
		t.Errorf("%v: %v, %v", c, first, second)
	}
	p := attestPKI()
	ends[0].spki, ends[1].spki = p.client.Leaf.RawSubjectPublicKeyInfo, p.server.Leaf.RawSubjectPublicKeyInfo
	c.check(t, ends[0], ends[1])
	return true
}

// productPeer is an end on either stack.
type productPeer struct {
	fork   *Conn // or nil
	shake  func() error
	result *attestext.Result
	spki   []byte
}

// exchange runs package exportedauth on a connection of any stack.
func (p *productPeer) exchange(conn exportedauth.Conn, role attestext.Role, suite uint16, export func(string, []byte, int) ([]byte, error), conf *exportedauth.Config) error {
	hash, err := exportedauth.SuiteHash(suite)
	if err != nil {
		return err
	}
	session, err := exportedauth.NewSession(role, hash, export)
	if err != nil {
		return err
	}
	peer, err := exportedauth.Exchange(context.Background(), conn, session, conf)
	if peer != nil {
		p.result = peer.Result
	}
	return err
}

// productConfig is that of package exportedauth for an end of role whose settings of
// this package are c.
func productConfig(role attestext.Role, c *Config) *exportedauth.Config {
	p := attestPKI()
	conf := &exportedauth.Config{VerifyChain: exportedauth.ServerChain(p.roots, "server.example", nil)}
	own := p.client
	if role == attestext.RoleServer {
		own, conf.VerifyChain = p.server, exportedauth.ClientChain(p.roots, nil)
	}
	conf.Identities = []exportedauth.Identity{{Chain: own.Certificate, Key: own.PrivateKey.(crypto.Signer)}}
	a := c.Attestation
	if a.Attester != nil {
		conf.Attester = a.Attester
	}
	if a.Results != nil {
		conf.Results = a.Results
	}
	if a.Verifier != nil {
		conf.Verifier = a.Verifier
	}
	if a.ResultsVerifier != nil {
		conf.ResultsVerifier = a.ResultsVerifier
	}
	return conf
}

// productEnd returns an end whose shake runs the handshake and the exchange, and moves
// a line each way.
func productEnd(stock bool, role attestext.Role, conn net.Conn, c *Config) *productPeer {
	pki := attestPKI()
	p := &productPeer{spki: pki.client.Leaf.RawSubjectPublicKeyInfo}
	if role == attestext.RoleServer {
		p.spki = pki.server.Leaf.RawSubjectPublicKeyInfo
	}
	line := func(rw io.ReadWriter) error {
		var b [5]byte
		if role == attestext.RoleClient {
			if _, err := io.WriteString(rw, "line\n"); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(rw, b[:]); err != nil {
			return err
		}
		if role == attestext.RoleServer {
			_, err := rw.Write(b[:])
			return err
		}
		return nil
	}
	if !stock {
		p.fork = Server(conn, c)
		if role == attestext.RoleClient {
			p.fork = Client(conn, c)
		}
		p.shake = func() error {
			if err := p.fork.Handshake(); err != nil {
				return err
			}
			p.result = p.fork.ConnectionState().PeerAttestation
			return line(p.fork)
		}
		return p
	}
	std := &stdtls.Config{RootCAs: pki.roots, ServerName: "server.example"}
	stdConn := stdtls.Client(conn, std)
	if role == attestext.RoleServer {
		// It sends tickets, which the fork drops.
		std = &stdtls.Config{Certificates: []stdtls.Certificate{{Certificate: pki.server.Certificate, PrivateKey: pki.server.PrivateKey}}}
		for _, id := range c.CurvePreferences {
			std.CurvePreferences = append(std.CurvePreferences, stdtls.CurveID(id))
		}
		stdConn = stdtls.Server(conn, std)
	}
	conf := productConfig(role, c)
	p.shake = func() error {
		if err := stdConn.Handshake(); err != nil {
			return err
		}
		cs := stdConn.ConnectionState()
		if err := p.exchange(stdConn, role, cs.CipherSuite, cs.ExportKeyingMaterial, conf); err != nil {
			return err
		}
		return line(stdConn)
	}
	return p
}
