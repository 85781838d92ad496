package tls

import (
	"fmt"
	"slices"

	"github.com/attestedtls/atls/attestext"
)

// attestHelloChanged reports whether the ClientHello after a HelloRetryRequest
// differs from the first in the negotiation extensions: they must come again,
// byte for byte and in the same order.
func (hs *serverHandshakeStateTLS13) attestHelloChanged(second *clientHelloMsg) bool {
	if hs.c.config.Attestation == nil {
		return false
	}
	cp := hs.c.attestCodePoints()
	types := append(negotiationExtensions(cp), cp.AttestedKeyProof, cp.AuthenticatorCarriage)
	if hs.c.config.Attestation.Form == FormEarly {
		types = append(types, cp.RemoteAttestation)
	}
	return !sameExtensions(helloExtensions(hs.clientHello.original, types), helloExtensions(second.original, types))
}

// attestNegotiate reads the client's offers and chooses among them.
func (hs *serverHandshakeStateTLS13) attestNegotiate() error {
	c := hs.c
	a := c.config.Attestation
	if a == nil {
		return nil
	}
	if err := c.attestValidate(); err != nil {
		return c.attestNegotiateFail(alertInternalError, "Config.Attestation: %w", err)
	}
	if err := hs.attestNegotiateCarriage(); err != nil || !a.inHandshake() {
		return err
	}
	if a.Form == FormEarly {
		return hs.earlyNegotiate()
	}
	cp := c.attestCodePoints()
	offers := helloExtensions(hs.clientHello.original, attestationExtensions(cp))
	var request, proposal attestOffer // of what the server and the client attest
	for _, e := range offers {
		var err error
		switch e.typ {
		case cp.EvidenceRequest:
			request.evidence, err = a.parseEvidenceHello(e.data, true)
		case cp.EvidenceProposal:
			proposal.evidence, err = a.parseEvidenceHello(e.data, false)
		case cp.ResultsRequest:
			request.results, err = attestext.ParseResultsHello(e.data)
		case cp.ResultsProposal:
			proposal.results, err = attestext.ParseResultsHello(e.data)
		case cp.AttestedKeyProof:
			if len(e.data) != 0 {
				return c.attestNegotiateFail(alertDecodeError, "client's attested_key_proof in ClientHello is not empty")
			}
			c.attest.keyProofOffered = true
		case cp.AuthenticatorCarriage: // read before
		default:
			return c.attestNegotiateFail(alertIllegalParameter, "client sent attestation_evidence in ClientHello")
		}
		if err != nil {
			return c.attestNegotiateFail(alertDecodeError, "client's extension %#04x: %w", e.typ, err)
		}
	}

	if self := &c.attest.self; request.any() && a.attests() {
		own := a.selfMenu()
		if self.choose(own, request); !self.negotiated {
			return c.attestNegotiateFail(alert(request.alert(cp, a.attester() != nil)), "client asks for %v, this server has %v", request, own)
		}
	}

	if !a.asks() {
		return nil
	}
	if !proposal.any() {
		if a.requires() {
			return c.attestNegotiateFail(alertMissingExtension, "client does not offer to attest, and this server requires it")
		}
		return nil
	}
	own := a.peerMenu(c.config.ClientAuth)
	d := &c.attest.peer
	if d.choose(own, proposal); !d.negotiated {
		if a.requires() {
			return c.attestNegotiateFail(alert(proposal.alert(cp, a.Verifier != nil)), "client offers %v, this server appraises %v", proposal, own)
		}
		return nil
	}
	if d.model == attestext.BackgroundCheck && a.Form == FormTLSAttest {
		nonce, err := c.attestNonce([]attestext.EvidenceType{{Kind: d.selected.Kind, Format: d.format}})
		if err != nil {
			return c.attestNegotiateFail(alertInternalError, "nonce: %w", err)
		}
		d.nonce = nonce
	}
	c.attestVerifiesClient()
	return nil
}

// attestVerifiesClient has the certificate of a client that attests beside one
// verified.
func (c *Conn) attestVerifiesClient() {
	d := &c.attest.peer
	if d.negotiated && !d.attestationOnly() && c.config.ClientAuth < VerifyClientCertIfGiven &&
		(c.config.ClientAuth == NoClientCert || !c.config.Attestation.AllowAttestationOnly) {
		// The Evidence covers the key of a certificate, and the certificate
		// says who the client is. One that nobody verifies says nothing, and
		// what is left is attestation-only.
		c.config = c.config.Clone()
		c.config.ClientAuth = RequireAndVerifyClientCert
	}
}

// selfMenu and peerMenu return what a server can attest and appraise.
func (a *AttestationConfig) selfMenu() attestMenu {
	own := attestMenu{preferResults: a.PreferResults, resultsKind: resultsKind(a.Credentials)}
	if attester := a.attester(); attester != nil {
		own.evidence = evidenceTypes(a.Credentials, attester.Formats)
	}
	if a.Results != nil {
		own.verifiers = a.Results.Verifiers()
	}
	return own
}

func (a *AttestationConfig) peerMenu(auth ClientAuthType) attestMenu {
	own := attestMenu{preferResults: a.PreferResults, resultsKind: resultsKind(a.PeerCredentials)}
	if a.Verifier != nil {
		own.evidence = evidenceTypes(a.PeerCredentials, a.Verifier.Formats)
	}
	if a.ResultsVerifier != nil {
		own.verifiers = a.ResultsVerifier.Verifiers()
	}
	if requiresClientCert(auth) {
		// Evidence must not take the place of a certificate that is required.
		own.evidence = slices.DeleteFunc(own.evidence, func(t attestext.EvidenceType) bool { return t.Kind == attestext.AttestationOnly })
		if own.resultsKind == attestext.AttestationOnly {
			own.verifiers = nil
		}
	}
	return own
}

// attestNegotiateCarriage settles whether handshake records carry authenticators. A
// server agrees whatever its mode, so that one that is not configured to attest says
// so in place of taking a request for application data.
func (hs *serverHandshakeStateTLS13) attestNegotiateCarriage() error {
	c := hs.c
	a := c.config.Attestation
	for _, e := range helloExtensions(hs.clientHello.original, []uint16{c.attestCodePoints().AuthenticatorCarriage}) {
		if len(e.data) != 0 {
			return c.attestNegotiateFail(alertDecodeError, "client's authenticator_carriage is not empty")
		}
		c.attest.records = a.Carriage != CarriageLeading && c.quic == nil
	}
	if a.needsCarriage() && !c.attest.records {
		return c.attestNegotiateFail(alertMissingExtension, "client takes no exported authenticators in handshake records, and this server requires it: %s", a.whyCarriage())
	}
	return nil
}

// An attestOffer is what a client offers for one direction.
type attestOffer struct {
	evidence *attestext.EvidenceHello
	results  *attestext.ResultsHello
}

func (o attestOffer) any() bool { return o.evidence != nil || o.results != nil }

// alert returns the number of the alert for an offer that has nothing in common
// with a server; withEvidence says whether the server does evidence at all.
func (o attestOffer) alert(cp attestext.CodePoints, withEvidence bool) uint8 {
	if o.evidence != nil && (withEvidence || o.results == nil) {
		return cp.UnsupportedEvidence
	}
	return cp.UnsupportedVerifiers
}

func (o attestOffer) String() string {
	var m attestMenu
	if o.evidence != nil {
		m.evidence = o.evidence.Types
	}
	if o.results != nil {
		m.verifiers = o.results.Verifiers
	}
	return m.String()
}

// An attestMenu is what a server can do in one direction, in its order of preference.
type attestMenu struct {
	evidence      []attestext.EvidenceType
	verifiers     []attestext.VerifierIdentity
	preferResults bool
	resultsKind   attestext.CredentialKind
}

func (m attestMenu) String() string {
	switch {
	case len(m.verifiers) == 0:
		return fmt.Sprintf("evidence %v", m.evidence)
	case len(m.evidence) == 0:
		return fmt.Sprintf("results by %q", m.verifiers)
	}
	return fmt.Sprintf("evidence %v or results by %q", m.evidence, m.verifiers)
}

// choose selects one thing out of an offer, by the server's preference.
func (d *attestDirection) choose(own attestMenu, offer attestOffer) {
	if own.preferResults {
		d.chooseResult(own, offer.results)
	}
	if !d.negotiated {
		d.chooseEvidence(own, offer.evidence)
	}
	if !d.negotiated {
		d.chooseResult(own, offer.results)
	}
}

// chooseEvidence notes the client's spelling of the type, which goes back as it came.
func (d *attestDirection) chooseEvidence(own attestMenu, offer *attestext.EvidenceHello) {
	if offer == nil || len(offer.Nonce) > attestext.MaxChallengeSize { // no evidence carries such a nonce
		return
	}
	for _, o := range own.evidence {
		for _, l := range offer.Types {
			switch {
			case l.Kind != o.Kind:
			case l.Format.Matches(o.Format):
				d.selectEvidence(l, o.Format)
				d.nonce = offer.Nonce
				return
			case o.Format.IsAny():
				d.selectEvidence(l, l.Format)
				d.nonce = offer.Nonce
				return
			}
		}
	}
}

func (d *attestDirection) chooseResult(own attestMenu, offer *attestext.ResultsHello) {
	if offer == nil {
		return
	}
	for _, v := range own.verifiers {
		if slices.Contains(offer.Verifiers, v) {
			d.selectResult(v, own.resultsKind)
			return
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
	if c.attest.records {
		ee.attest.keep(cp.AuthenticatorCarriage, nil)
	}
	answer := func(evidence, results uint16, d *attestDirection, nonce []byte) error {
		if !d.negotiated {
			return nil
		}
		typ, body, err := evidence, []byte(nil), error(nil)
		if d.model == attestext.Passport {
			typ = results
			body, err = (&attestext.ResultsSelection{Verifier: d.verifier}).Marshal()
		} else {
			body, err = c.config.Attestation.evidenceSelection(d.selected, nonce)
		}
		if err != nil {
			return c.attestFail(AttestationStageNegotiate, alertInternalError, err)
		}
		ee.attest.keep(typ, body)
		return nil
	}
	if c.config.Attestation.singleExtension() {
		chosen, err := c.earlyAnswer(&c.attest.self)
		if err != nil {
			return c.attestFail(AttestationStageNegotiate, alertInternalError, err)
		}
		ee.attest.extensions = append(ee.attest.extensions, chosen...)
		c.attestTrace(&c.attest.self, traceNegotiated, 0, 0, nil)
		c.attestTrace(&c.attest.peer, traceNegotiated, 0, 0, nil)
		return nil
	}
	if err := answer(cp.EvidenceRequest, cp.ResultsRequest, &c.attest.self, nil); err != nil {
		return err
	}
	c.attestTrace(&c.attest.self, traceNegotiated, 0, 0, nil)
	c.attestTrace(&c.attest.peer, traceNegotiated, 0, 0, nil)
	return answer(cp.EvidenceProposal, cp.ResultsProposal, &c.attest.peer, c.attest.peer.nonce)
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
