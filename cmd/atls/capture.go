package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/cmw/signed"
	"github.com/attestedtls/atls/internal/capture"
	"github.com/attestedtls/atls/tls"
	"golang.org/x/crypto/cryptobyte"
)

// A recorder captures a handshake. It is a key log as well, of which it keeps the
// secrets that decrypt the handshake, and none of those of application data.
type recorder struct {
	mu      sync.Mutex
	capture capture.Capture
	stopped bool
}

// sent and received note what went over the wire.
func (r *recorder) sent(b []byte)     { r.note(&r.capture.Client, b) }
func (r *recorder) received(b []byte) { r.note(&r.capture.Server, b) }

// maxRecorded is how much is noted of a direction, in bytes. Both fit a capture, in
// hexadecimal and with the keys.
const maxRecorded = capture.MaxSize/4 - 4<<10

func (r *recorder) note(dst *[]byte, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if room := maxRecorded - len(*dst); !r.stopped && room > 0 {
		*dst = append(*dst, b[:min(len(b), room)]...)
	}
}

// Write takes a line of the key log.
func (r *recorder) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := strings.Fields(string(line)); len(w) == 3 {
		random, _ := hex.DecodeString(w[1])
		secret, _ := hex.DecodeString(w[2])
		switch w[0] {
		case capture.ClientSecret:
			r.capture.Random, r.capture.ClientSecret = random, secret
		case capture.ServerSecret:
			r.capture.Random, r.capture.ServerSecret = random, secret
		}
	}
	return len(line), nil
}

// stop ends the recording: the handshake is over.
func (r *recorder) stop(as tls.AttestationState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for _, req := range []*attestext.AttestRequest{as.LocalAttestation, as.RequestedAttestation} {
		if req == nil || req.Challenge == nil {
			continue
		}
		if c := req.Challenge; c.Model == attestext.BackgroundCheck && c.UsesBinder() && c.Binder != nil && !c.Binding.IsExpat() {
			r.capture.Binders = append(r.capture.Binders, capture.Binder{Role: c.Role, Binding: c.Binding, Value: c.Binder})
		}
	}
}

func (r *recorder) save(path string) error {
	if err := os.WriteFile(path, r.capture.Marshal(), 0o600); err != nil {
		return usagef("check the path", "--capture: %w", err)
	}
	return nil
}

// A handshake is a capture that has been taken apart.
type handshake struct {
	capture        *capture.Capture
	client, server []capture.Item

	hello, selected, request map[uint16][]byte // extensions of ClientHello, EncryptedExtensions and CertificateRequest
	sent                     []*sentCertificate
	points                   attestext.CodePoints
}

// A sentCertificate is a Certificate message, and what attests in it.
type sentCertificate struct {
	role     attestext.Role
	typ      attestext.EvidenceType
	asked    bool // for evidence or a result
	passport bool
	verifier attestext.VerifierIdentity
	nonce    []byte
	spki     []byte // of the attested key, nil where the evidence names it
	evidence []byte // nil if there is none
	chain    []*x509.Certificate
}

func parseHandshake(data []byte) (*handshake, error) {
	c, err := capture.Parse(data)
	if err != nil {
		return nil, err
	}
	h := &handshake{capture: c, points: (*attestext.CodePoints)(nil).WithDefaults()}
	if h.client, h.server, err = c.Items(); err != nil {
		return nil, err
	}
	for _, items := range [][]capture.Item{h.client, h.server} {
		for _, it := range items {
			switch it.Message {
			case 1:
				if h.hello, err = clientHelloExtensions(it.Data); err != nil {
					return nil, err
				}
			case 8:
				if h.selected, err = extensionsOf(it.Data); err != nil {
					return nil, err
				}
			case 13:
				if h.request, err = certificateRequestExtensions(it.Data); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, d := range []struct {
		role  attestext.Role
		items []capture.Item
	}{{attestext.RoleServer, h.server}, {attestext.RoleClient, h.client}} {
		for _, it := range d.items {
			if it.Message == 11 {
				s, err := h.certificate(d.role, it.Data)
				if err != nil {
					return nil, err
				}
				h.sent = append(h.sent, s)
			}
		}
	}
	return h, nil
}

func badMessage(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrMalformed, "parse captured handshake", format, args...)
}

// extensionsOf reads a list of extensions with its length, and nothing behind it.
func extensionsOf(b []byte) (map[uint16][]byte, error) {
	s := cryptobyte.String(b)
	var list cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&list) || !s.Empty() {
		return nil, badMessage("a list of extensions")
	}
	m := make(map[uint16][]byte)
	for !list.Empty() {
		var typ uint16
		var data cryptobyte.String
		if !list.ReadUint16(&typ) || !list.ReadUint16LengthPrefixed(&data) {
			return nil, badMessage("an extension")
		}
		if _, twice := m[typ]; twice {
			return nil, badMessage("extension %d comes twice", typ)
		}
		m[typ] = data
	}
	return m, nil
}

func clientHelloExtensions(b []byte) (map[uint16][]byte, error) {
	s := cryptobyte.String(b)
	var session, suites, compression cryptobyte.String
	if !s.Skip(2+32) || !s.ReadUint8LengthPrefixed(&session) || !s.ReadUint16LengthPrefixed(&suites) || !s.ReadUint8LengthPrefixed(&compression) {
		return nil, badMessage("ClientHello")
	}
	return extensionsOf(s)
}

func certificateRequestExtensions(b []byte) (map[uint16][]byte, error) {
	s := cryptobyte.String(b)
	var reqContext cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&reqContext) {
		return nil, badMessage("CertificateRequest")
	}
	return extensionsOf(s)
}

// certificate reads a Certificate message, and what was negotiated for it.
func (h *handshake) certificate(role attestext.Role, b []byte) (*sentCertificate, error) {
	c := &sentCertificate{role: role}
	if err := h.negotiated(c); err != nil {
		return nil, err
	}
	s := cryptobyte.String(b)
	var reqContext, list cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&reqContext) || !s.ReadUint24LengthPrefixed(&list) || !s.Empty() {
		return nil, badMessage("Certificate")
	}
	for first := true; !list.Empty(); first = false {
		var data, ext cryptobyte.String
		if !list.ReadUint24LengthPrefixed(&data) || !list.ReadUint16LengthPrefixed(&ext) {
			return nil, badMessage("CertificateEntry")
		}
		if first && c.typ.Kind == attestext.AttestationOnly && (c.nonce != nil || c.passport) {
			c.evidence = data
			continue
		}
		cert, err := x509.ParseCertificate(data)
		if err != nil {
			return nil, badMessage("certificate: %w", err)
		}
		c.chain = append(c.chain, cert)
		if !first {
			continue
		}
		c.spki = cert.RawSubjectPublicKeyInfo
		with, err := extensionsOf(append([]byte{byte(len(ext) >> 8), byte(len(ext))}, ext...))
		if err != nil {
			return nil, err
		}
		if c.evidence, err = h.evidenceIn(with); err != nil {
			return nil, err
		}
		if proof, ok := with[h.points.AttestedKeyProof]; ok && len(proof) > 0 {
			p, err := attestext.ParseAttestedKeyProof(proof)
			if err != nil {
				return nil, err
			}
			c.spki = p.Key
		}
	}
	return c, nil
}

// evidenceIn returns what attests among the extensions of a certificate, nil for nothing.
func (h *handshake) evidenceIn(extensions map[uint16][]byte) ([]byte, error) {
	point := h.points.AttestationEvidence
	if h.capture.Form == capture.FormEarly {
		point = h.points.RemoteAttestation
	}
	data, ok := extensions[point]
	if !ok || h.capture.Form == "" {
		return data, nil
	}
	return attestext.ParseCMWPayload(data)
}

// parsers returns what reads the extension that is about evidence of the end of role, in
// ClientHello and in EncryptedExtensions.
func (h *handshake) parsers(role attestext.Role) (hello func([]byte) (*attestext.EvidenceHello, error), selection func([]byte) (*attestext.EvidenceSelection, error)) {
	switch {
	case h.capture.Form == capture.FormEarly03:
		return attestext.ParseEarly03Hello, attestext.ParseEarly03Selection
	case role == attestext.RoleClient:
		return attestext.ParseEvidenceProposalHello, attestext.ParseEvidenceProposalSelection
	}
	return attestext.ParseEvidenceRequestHello, attestext.ParseEvidenceRequestSelection
}

// chosen fills in what remoteAttestation says of the direction of c.
func (h *handshake) chosen(c *sentCertificate) error {
	from := h.selected
	if c.role == attestext.RoleClient {
		from = h.request
	}
	data, ok := from[h.points.RemoteAttestation]
	if !ok {
		return nil
	}
	s, err := attestext.ParseAttestationScheme(data)
	if err != nil {
		return err
	}
	c.asked, c.passport, c.verifier = true, s.Verifier != "", s.Verifier
	c.typ = attestext.EvidenceType{Kind: attestext.CertAttestation, Format: s.Format}
	return nil
}

// negotiated fills in what both ends agreed on for the direction of c.
func (h *handshake) negotiated(c *sentCertificate) error {
	if h.capture.Form == capture.FormEarly {
		return h.chosen(c)
	}
	evidence, result := h.points.EvidenceRequest, h.points.ResultsRequest
	parseHello, parseSelection := h.parsers(c.role)
	if c.role == attestext.RoleClient {
		evidence, result = h.points.EvidenceProposal, h.points.ResultsProposal
	}
	if data, ok := h.selected[evidence]; ok {
		selection, err := parseSelection(data)
		if err != nil {
			return err
		}
		hello, err := parseHello(h.hello[evidence])
		if err != nil {
			return err
		}
		c.asked, c.typ, c.nonce = true, selection.Type, selection.Nonce
		if c.role == attestext.RoleServer {
			c.nonce = hello.Nonce
		}
	}
	if data, ok := h.selected[result]; ok {
		selection, err := attestext.ParseResultsSelection(data)
		if err != nil {
			return err
		}
		c.asked, c.passport, c.verifier, c.typ.Kind = true, true, selection.Verifier, attestext.CertAttestation
	}
	return nil
}

// messageNames are those of RFC 8446, section 4.
var messageNames = map[uint8]string{
	1: "ClientHello", 2: "ServerHello", 4: "NewSessionTicket", 5: "EndOfEarlyData", 8: "EncryptedExtensions",
	11: "Certificate", 13: "CertificateRequest", 15: "CertificateVerify", 20: "Finished", 24: "KeyUpdate",
}

func (h *handshake) tree() *node {
	n := branch(kindCapture, fmt.Sprintf("%d bytes by the client, %d by the server", len(h.capture.Client), len(h.capture.Server)))
	for _, d := range []struct {
		role  attestext.Role
		items []capture.Item
	}{{attestext.RoleClient, h.client}, {attestext.RoleServer, h.server}} {
		side := branch(d.role.String(), nil)
		for _, it := range d.items {
			side.add(h.itemTree(d.role, it))
		}
		n.add(side)
	}
	for _, b := range h.capture.Binders {
		n.add(branch("binder of the "+b.Role.String()+"'s attestation", hex.EncodeToString(b.Value), leaf("rule", b.Binding.String())))
	}
	return n
}

func (h *handshake) itemTree(role attestext.Role, it capture.Item) *node {
	switch {
	case it.Alert:
		return leaf("alert", fmt.Sprintf("%d (%v)", it.Data[1], tls.AlertError(it.Data[1])))
	case it.Message == 0 && it.Encrypted:
		return leaf("encrypted, not looked into", fmt.Sprintf("%d bytes", it.Size))
	case it.Message == 0:
		return leaf("the beginning of a record", fmt.Sprintf("%d bytes", it.Size))
	}
	name := messageNames[it.Message]
	if name == "" {
		name = fmt.Sprintf("message of type %d", it.Message)
	}
	n := branch(name, sizeOf(it.Data))
	switch it.Message {
	case 1:
		if m, err := clientHelloExtensions(it.Data); err == nil {
			h.attestationTree(n, m, true)
		}
	case 2:
		if len(it.Data) > 35 && len(it.Data) >= 37+int(it.Data[34]) {
			at := 35 + int(it.Data[34])
			n.add(leaf("cipher suite", tls.CipherSuiteName(uint16(it.Data[at])<<8|uint16(it.Data[at+1]))))
		}
	case 8:
		h.attestationTree(n, h.selected, false)
	case 13:
		h.remoteTree(n, h.request, false)
	case 11:
		for _, c := range h.sent {
			if c.role == role {
				c.tree(n)
			}
		}
	}
	return n
}

// attestationTree adds the extensions of attestation, in ClientHello if offered.
func (h *handshake) attestationTree(n *node, m map[uint16][]byte, offered bool) {
	h.remoteTree(n, m, offered)
	requestHello, requestSelection := h.parsers(attestext.RoleServer)
	proposalHello, proposalSelection := h.parsers(attestext.RoleClient)
	for _, e := range []struct {
		name      string
		point     uint16
		hello     func([]byte) (*attestext.EvidenceHello, error)
		selection func([]byte) (*attestext.EvidenceSelection, error)
	}{
		{"evidence_request", h.points.EvidenceRequest, requestHello, requestSelection},
		{"evidence_proposal", h.points.EvidenceProposal, proposalHello, proposalSelection},
		{"results_request", h.points.ResultsRequest, nil, nil},
		{"results_proposal", h.points.ResultsProposal, nil, nil},
	} {
		data, ok := m[e.point]
		if !ok {
			continue
		}
		x := branch(e.name, sizeOf(data))
		n.add(x)
		var err error
		types := func(list ...attestext.EvidenceType) {
			for _, t := range list {
				x.add(leaf("type", t.String()))
			}
		}
		nonce := func(b []byte) {
			if b != nil {
				x.add(leaf("nonce", hex.EncodeToString(b)))
			}
		}
		verifiers := func(list ...attestext.VerifierIdentity) {
			for _, v := range list {
				x.add(leaf("verifier", string(v)))
			}
		}
		switch {
		case e.hello == nil && offered:
			var r *attestext.ResultsHello
			if r, err = attestext.ParseResultsHello(data); err == nil {
				verifiers(r.Verifiers...)
			}
		case e.hello == nil:
			var r *attestext.ResultsSelection
			if r, err = attestext.ParseResultsSelection(data); err == nil {
				verifiers(r.Verifier)
			}
		case offered:
			var r *attestext.EvidenceHello
			if r, err = e.hello(data); err == nil {
				types(r.Types...)
				nonce(r.Nonce)
			}
		default:
			var r *attestext.EvidenceSelection
			if r, err = e.selection(data); err == nil {
				types(r.Type)
				nonce(r.Nonce)
			}
		}
		if err != nil {
			x.add(leaf("does not parse", err.Error()))
		}
	}
}

// remoteTree adds remoteAttestation, in ClientHello if offered.
func (h *handshake) remoteTree(n *node, m map[uint16][]byte, offered bool) {
	data, ok := m[h.points.RemoteAttestation]
	if !ok {
		return
	}
	x := branch("remoteAttestation", sizeOf(data))
	n.add(x)
	if !offered {
		s, err := attestext.ParseAttestationScheme(data)
		if err != nil {
			x.add(leaf("does not parse", err.Error()))
			return
		}
		x.add(leaf("chosen", s.String()))
		return
	}
	hello, err := attestext.ParseEarlyHello(data)
	if err != nil {
		x.add(leaf("does not parse", err.Error()))
		return
	}
	for _, s := range hello.Server {
		x.add(leaf("of the server", s.String()))
	}
	for _, s := range hello.Client {
		x.add(leaf("of the client", s.String()))
	}
}

func (c *sentCertificate) tree(n *node) {
	for _, cert := range c.chain {
		n.add(certificateTree("certificate", cert))
	}
	if c.evidence == nil {
		return
	}
	if m, err := signed.Parse(c.evidence); err == nil {
		n.add(branch("attestation", sizeOf(c.evidence), signedTree(kindSigned, m)))
		return
	}
	w, err := cmw.Parse(c.evidence)
	if err != nil {
		n.add(branch("attestation", sizeOf(c.evidence), leaf("does not parse", err.Error())))
		return
	}
	n.add(cmwTree("attestation", w, c.evidence))
}

// appraiseHandshake appraises what was sent in a captured handshake, the server's first, as the
// relying party would have. Certificates and signatures of TLS are not its business.
func (a *appraiser) appraiseHandshake(ctx context.Context, h *handshake, o *outcome) error {
	if a.challenge != nil || a.reportData != nil {
		return usagef("the capture says what its evidence must be bound to", "--report-data, --nonce, --binder and --spki are not for a captured handshake")
	}
	found := false
	for _, c := range h.sent {
		if c.evidence == nil {
			continue
		}
		found = true
		if err := a.appraiseSent(ctx, h, c, o); err != nil {
			return fmt.Errorf("the %v's: %w", c.role, err)
		}
	}
	if !found {
		return attestext.Errorf(attestext.ErrUnavailable, "appraise captured handshake", "%s", h.without())
	}
	return nil
}

// without says why there is nothing to appraise.
func (h *handshake) without() string {
	for _, it := range append(h.server, h.client...) {
		if it.Alert && len(h.sent) == 0 {
			return fmt.Sprintf("it ended with alert %d (%v) before anything was attested", it.Data[1], tls.AlertError(it.Data[1]))
		}
	}
	if h.capture.ServerSecret == nil {
		return "there is no key that decrypts it"
	}
	return "nobody attests in it"
}

func (a *appraiser) appraiseSent(ctx context.Context, h *handshake, c *sentCertificate, o *outcome) error {
	if c.passport {
		o.bound = true
		return a.appraiseResult(c.evidence, c.verifier, c.spki, o)
	}
	b := h.capture.Binder(c.role)
	challenge := &attestext.Challenge{Role: c.role, Kind: c.typ.Kind, Nonce: c.nonce, SPKI: c.spki}
	switch {
	case b != nil:
		challenge.Binder, challenge.Binding = b.Value, b.Binding
	case c.typ.Kind == attestext.AttestationOnly:
		challenge.Binding = attestext.BindingDraft08 // by which the nonce, which is in the hello, is all
	default: // the evidence by itself
		d, err := detect(c.evidence)
		if err != nil {
			return err
		}
		return a.appraise(ctx, d, o)
	}
	if !c.asked {
		return attestext.Errorf(attestext.ErrBinding, "appraise captured handshake", "evidence that nobody has asked for")
	}
	o.bound = true
	r, err := attestext.Appraise(ctx, appraiseTimeout, a.local, &attestext.Evidence{Type: c.typ, CMW: c.evidence}, challenge)
	if err != nil {
		return err
	}
	o.verdict = worse(o.verdict, r.Verdict())
	reasons, _ := r.Claims()["reasons"].([]string)
	o.reasons = append(o.reasons, reasons...)
	return nil
}

// worse returns the verdict that says less good; an empty one says nothing yet.
func worse(a, b string) string {
	if a == "" || b == "warning" {
		return b
	}
	return a
}

var errNoKeys = errors.New("no key of its verifier: name one with --trust-roots")

// isToken reports whether b can be a JWT, with space around it.
func isToken(b []byte) bool {
	b = bytes.TrimSpace(b)
	return len(b) > 2 && b[0] == 'e' && bytes.Count(b, []byte(".")) == 2
}
