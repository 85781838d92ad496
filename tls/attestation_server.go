package tls

import (
	"errors"
	"fmt"

	"github.com/attestedtls/atls/attestext"
)

// attestHelloChanged reports whether the ClientHello after a HelloRetryRequest
// differs from the first in the negotiation extensions: they must come again,
// byte for byte and in the same order.
func (hs *serverHandshakeStateTLS13) attestHelloChanged(second *clientHelloMsg) bool {
	if hs.c.config.Attestation == nil {
		return false
	}
	types := negotiationExtensions(hs.c.attestCodePoints())
	return !sameExtensions(helloExtensions(hs.clientHello.original, types), helloExtensions(second.original, types))
}

// attestNegotiate reads the client's offers and chooses among them.
func (hs *serverHandshakeStateTLS13) attestNegotiate() error {
	c := hs.c
	a := c.config.Attestation
	if a == nil {
		return nil
	}
	if err := a.validate(); err != nil {
		return c.attestFail(AttestationStageNegotiate, alertInternalError, fmt.Errorf("Config.Attestation: %w", err))
	}
	cp := c.attestCodePoints()
	fail := func(al alert, format string, args ...any) error {
		return c.attestFail(AttestationStageNegotiate, al, fmt.Errorf(format, args...))
	}
	offers := helloExtensions(hs.clientHello.original, append(negotiationExtensions(cp), cp.AttestationEvidence))
	var request, proposal *attestext.EvidenceHello
	var results *attestext.ResultsHello
	for _, e := range offers {
		var err error
		switch e.typ {
		case cp.EvidenceRequest:
			request, err = attestext.ParseEvidenceRequestHello(e.data)
		case cp.EvidenceProposal:
			proposal, err = attestext.ParseEvidenceProposalHello(e.data)
		case cp.ResultsRequest:
			results, err = attestext.ParseResultsHello(e.data)
		case cp.ResultsProposal:
			_, err = attestext.ParseResultsHello(e.data)
		default:
			return fail(alertIllegalParameter, "client sent attestation_evidence in ClientHello")
		}
		if err != nil {
			return fail(alertDecodeError, "client's extension %#04x: %w", e.typ, err)
		}
	}

	if a.Attester != nil && request != nil {
		own := evidenceTypes(a.Credentials, a.Attester.Formats)
		d := &c.attest.self
		if len(request.Nonce) <= attestext.MaxChallengeSize { // a longer one fits no evidence
			d.choose(own, request.Types)
		}
		if !d.negotiated {
			return fail(alert(cp.UnsupportedEvidence), "client asks for %v, this server makes %v", request.Types, own)
		}
		d.nonce = request.Nonce
	} else if a.Attester != nil && results != nil {
		return fail(alert(cp.UnsupportedVerifiers), "client asks for results of %q, this server holds none", results.Verifiers)
	}

	if a.Verifier == nil {
		return nil
	}
	if proposal == nil {
		if a.requires() {
			return fail(alertMissingExtension, "client does not offer to attest, and this server requires it")
		}
		return nil
	}
	own := evidenceTypes(a.PeerCredentials, a.Verifier.Formats)
	d := &c.attest.peer
	if d.choose(own, proposal.Types); !d.negotiated {
		if a.requires() {
			return fail(alert(cp.UnsupportedEvidence), "client offers %v, this server appraises %v", proposal.Types, own)
		}
		return nil
	}
	nonce, err := c.attestNonce([]attestext.EvidenceType{{Kind: d.selected.Kind, Format: d.format}})
	if err != nil {
		return fail(alertInternalError, "nonce: %w", err)
	}
	d.nonce = nonce
	if !d.attestationOnly() && c.config.ClientAuth == NoClientCert {
		// The Evidence covers the key of a certificate, and the certificate
		// says who the client is: it is verified unless the Config names a
		// weaker setting.
		c.config = c.config.Clone()
		c.config.ClientAuth = RequireAndVerifyClientCert
	}
	return nil
}

// choose selects the first of own that the client listed, and notes the client's
// spelling of it, which goes back as it came.
func (d *attestDirection) choose(own, listed []attestext.EvidenceType) {
	for _, o := range own {
		for _, l := range listed {
			if l.Kind == o.Kind && (l.Format.Matches(o.Format) || o.Format.IsAny()) {
				d.negotiated, d.selected, d.format = true, l, o.Format
				if o.Format.IsAny() {
					d.format = l.Format
				}
				return
			}
		}
	}
}

// attestServerParameters adds the server's choices to EncryptedExtensions.
func (hs *serverHandshakeStateTLS13) attestServerParameters(ee *encryptedExtensionsMsg) error {
	c := hs.c
	if c.config.Attestation == nil {
		return nil
	}
	cp := c.attestCodePoints()
	answer := func(typ uint16, d *attestDirection, nonce []byte) error {
		if !d.negotiated {
			return nil
		}
		body, err := (&attestext.EvidenceSelection{Type: d.selected, Nonce: nonce}).Marshal()
		if err != nil {
			return c.attestFail(AttestationStageNegotiate, alertInternalError, err)
		}
		ee.attest.keep(typ, body)
		return nil
	}
	return errors.Join(
		answer(cp.EvidenceRequest, &c.attest.self, nil),
		answer(cp.EvidenceProposal, &c.attest.peer, c.attest.peer.nonce))
}

// attestPickKey takes the place of pickCertificate where Evidence takes the place
// of the certificate.
func (hs *serverHandshakeStateTLS13) attestPickKey() error {
	c := hs.c
	cert, err := c.attestKey()
	if err != nil {
		return c.attestFail(AttestationStageAttest, alertInternalError, err)
	}
	hs.sigAlg, err = selectSignatureScheme(c.vers, cert, hs.clientHello.supportedSignatureAlgorithms)
	if err != nil {
		return c.attestFail(AttestationStageAttest, alertHandshakeFailure, err)
	}
	hs.cert = cert
	return nil
}

// attestReadClientCertificate verifies the client's Certificate as
// attestReadServerCertificate does the server's.
func (hs *serverHandshakeStateTLS13) attestReadClientCertificate(msg *certificateMsgTLS13) error {
	c := hs.c
	if err := c.attestReadEvidence(msg); err != nil {
		return err
	}
	if c.attest.peer.attestationOnly() {
		return c.attestAppraise(hs.ctx)
	}
	return c.processCertsFromClient(msg.certificate)
}
