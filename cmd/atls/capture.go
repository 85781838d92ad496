package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/attestedtls/atls/attestext"
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

// Handshake messages that are looked into (RFC 8446, section 4).
const (
	typeClientHello         = 1
	typeServerHello         = 2
	typeEncryptedExtensions = 8
	typeCertificate         = 11
	typeCertificateRequest  = 13
)

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
			case typeClientHello:
				if h.hello, err = clientHelloExtensions(it.Data); err != nil {
					return nil, err
				}
			case typeEncryptedExtensions:
				if h.selected, err = extensionsOf(it.Data); err != nil {
					return nil, err
				}
			case typeCertificateRequest:
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
			if it.Message == typeCertificate {
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
