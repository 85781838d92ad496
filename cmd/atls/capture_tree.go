package main

import (
	"encoding/hex"
	"fmt"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/cmw/signed"
	"github.com/attestedtls/atls/internal/capture"
	"github.com/attestedtls/atls/tls"
)

// messageNames are those of RFC 8446, section 4.
var messageNames = map[uint8]string{
	typeClientHello: "ClientHello", typeServerHello: "ServerHello", 4: "NewSessionTicket", 5: "EndOfEarlyData",
	typeEncryptedExtensions: "EncryptedExtensions", typeCertificate: "Certificate", typeCertificateRequest: "CertificateRequest",
	15: "CertificateVerify", 20: "Finished", 24: "KeyUpdate",
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
	case typeClientHello:
		if m, err := clientHelloExtensions(it.Data); err == nil {
			h.attestationTree(n, m, true)
		}
	case typeServerHello:
		if len(it.Data) > 35 && len(it.Data) >= 37+int(it.Data[34]) {
			at := 35 + int(it.Data[34])
			n.add(leaf("cipher suite", tls.CipherSuiteName(uint16(it.Data[at])<<8|uint16(it.Data[at+1]))))
		}
	case typeEncryptedExtensions:
		h.attestationTree(n, h.selected, false)
	case typeCertificateRequest:
		h.remoteTree(n, h.request, false)
	case typeCertificate:
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
