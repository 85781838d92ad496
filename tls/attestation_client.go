package tls

import (
	"errors"
	"fmt"
	"slices"

	"github.com/attestedtls/atls/attestext"
)

// attestClientHello adds the client's offers to its ClientHello.
func (c *Conn) attestClientHello(hello *clientHelloMsg) error {
	c.attest.reset()
	a := c.config.Attestation
	if a == nil {
		return nil
	}
	if err := c.attestValidate(); err != nil {
		return fmt.Errorf("tls: Config.Attestation: %w", err)
	}
	if hello.supportedVersions[0] != VersionTLS13 {
		return nil // and without the offers; where they are required, there is no such version
	}
	if a.offersCarriage() {
		hello.attest.extensions = append(hello.attest.extensions, attestExtension{c.attestCodePoints().AuthenticatorCarriage, nil})
	}
	if !a.inHandshake() {
		return nil
	}
	add := func(typ uint16, b []byte, err error) error {
		if err != nil {
			return fmt.Errorf("tls: Config.Attestation: %w", err)
		}
		hello.attest.extensions = append(hello.attest.extensions, attestExtension{typ, b})
		return nil
	}
	cp := c.attestCodePoints()
	peer, self := &c.attest.peer, &c.attest.self
	if a.Verifier != nil {
		peer.offered = evidenceTypes(a.PeerCredentials, a.Verifier.Formats)
	}
	if own := a.attester(); own != nil {
		self.offered = evidenceTypes(a.Credentials, own.Formats)
	}
	if a.ResultsVerifier != nil {
		peer.offeredVerifiers = a.ResultsVerifier.Verifiers()
	}
	if a.Results != nil {
		self.offeredVerifiers = a.Results.Verifiers()
	}
	if a.requires() && len(peer.offered) == 0 && len(peer.offeredVerifiers) == 0 {
		return errors.New("tls: Config.Attestation: attestation is required, and the verifier reads no evidence of the configured kind")
	}
	if a.Form == FormEarly {
		return c.earlyClientHello(hello)
	}
	// An extension whose list would be empty is left out.
	if len(peer.offered) > 0 {
		if a.Form == FormTLSAttest {
			var err error
			if peer.nonce, err = c.attestNonce(peer.offered); err != nil {
				return err
			}
		}
		b, err := a.evidenceHello(peer.offered, peer.nonce)
		if err := add(cp.EvidenceRequest, b, err); err != nil {
			return err
		}
	}
	if len(self.offered) > 0 {
		b, err := a.evidenceHello(self.offered, nil)
		if err := add(cp.EvidenceProposal, b, err); err != nil {
			return err
		}
	}
	if len(peer.offeredVerifiers) > 0 {
		b, err := (&attestext.ResultsHello{Verifiers: peer.offeredVerifiers}).Marshal()
		if err := add(cp.ResultsRequest, b, err); err != nil {
			return err
		}
	}
	if len(self.offeredVerifiers) > 0 {
		b, err := (&attestext.ResultsHello{Verifiers: self.offeredVerifiers}).Marshal()
		if err := add(cp.ResultsProposal, b, err); err != nil {
			return err
		}
	}
	if a.PeerAttestedKey && (len(peer.offered) > 0 || len(peer.offeredVerifiers) > 0) {
		hello.attest.extensions = append(hello.attest.extensions, attestExtension{cp.AttestedKeyProof, nil})
	}
	return nil
}

// attestCheckServerHello refuses a ServerHello or HelloRetryRequest with one of
// the extensions: their place is EncryptedExtensions. Upstream ignores what it
// does not know there.
func (hs *clientHandshakeStateTLS13) attestCheckServerHello() error {
	c := hs.c
	if c.config.Attestation == nil {
		return nil
	}
	cp := c.attestCodePoints()
	types := attestationExtensions(cp)
	if a := c.config.Attestation; a.Form == FormEarly {
		types = append(types, cp.RemoteAttestation)
	}
	found := helloExtensions(hs.serverHello.original, types)
	if len(found) > 0 {
		return c.attestNegotiateFail(alertIllegalParameter, "server sent extension %#04x in ServerHello, it belongs in EncryptedExtensions", found[0].typ)
	}
	return nil
}

// attestReadServerParameters reads the server's choices out of
// EncryptedExtensions.
func (hs *clientHandshakeStateTLS13) attestReadServerParameters(ee *encryptedExtensionsMsg) error {
	c := hs.c
	a := c.config.Attestation
	if a == nil || hs.echContext != nil && hs.echContext.echRejected { // such a handshake ends in ech_required
		return nil
	}
	if err := c.attestReadCarriage(ee); err != nil {
		return err
	}
	c.earlyAt(afterEncryptedExtensions, hs.transcript)
	if a.singleExtension() {
		return hs.earlyServerParameters(ee)
	}
	cp := c.attestCodePoints()
	if data, ok := findExtension(ee.attest.extensions, cp.EvidenceRequest); ok {
		sel, err := a.parseEvidenceSelection(data, true)
		if err := c.attestReadEvidenceSelection("evidence_request", &c.attest.peer, sel, err); err != nil {
			return err
		}
	}
	if data, ok := findExtension(ee.attest.extensions, cp.EvidenceProposal); ok {
		sel, err := a.parseEvidenceSelection(data, false)
		if err := c.attestReadEvidenceSelection("evidence_proposal", &c.attest.self, sel, err); err != nil {
			return err
		}
		if n := len(sel.Nonce); n > attestext.MaxChallengeSize {
			return c.attestNegotiateFail(alertIllegalParameter, "server sent a nonce of %d bytes, evidence carries at most %d", n, attestext.MaxChallengeSize)
		}
		c.attest.self.nonce = sel.Nonce
	}
	if data, ok := findExtension(ee.attest.extensions, cp.ResultsRequest); ok {
		if err := c.attestReadResultsSelection("results_request", &c.attest.peer, a.PeerCredentials, data); err != nil {
			return err
		}
	}
	if data, ok := findExtension(ee.attest.extensions, cp.ResultsProposal); ok {
		if err := c.attestReadResultsSelection("results_proposal", &c.attest.self, a.Credentials, data); err != nil {
			return err
		}
	}
	for _, typ := range []uint16{cp.AttestationEvidence, cp.AttestedKeyProof} {
		if _, ok := findExtension(ee.attest.extensions, typ); ok {
			return c.attestNegotiateFail(alertUnsupportedExtension, "server sent extension %#04x in EncryptedExtensions, it belongs in Certificate", typ)
		}
	}
	if a.inHandshake() && a.requires() && !c.attest.peer.negotiated {
		return c.attestNegotiateFail(alertMissingExtension, "server does not attest, and this client requires it")
	}
	c.attestBeforeCertificate(hs.transcript)
	c.attestTrace(&c.attest.peer, traceNegotiated, 0, 0, nil)
	c.attestTrace(&c.attest.self, traceNegotiated, 0, 0, nil)
	return nil
}

// attestReadCarriage reads whether the server takes authenticators in handshake records.
func (c *Conn) attestReadCarriage(ee *encryptedExtensionsMsg) error {
	a := c.config.Attestation
	data, ok := findExtension(ee.attest.extensions, c.attestCodePoints().AuthenticatorCarriage)
	switch {
	case !ok && a.needsCarriage():
		return c.attestNegotiateFail(alertMissingExtension, "server takes no exported authenticators in handshake records, and this client requires it: %s", a.whyCarriage())
	case !ok:
		return nil
	case !a.offersCarriage():
		return c.attestNegotiateFail(alertUnsupportedExtension, "server answered authenticator_carriage, which was not offered")
	case len(data) != 0:
		return c.attestNegotiateFail(alertDecodeError, "server's authenticator_carriage is not empty")
	}
	c.attest.records = true
	return nil
}

// attestReadEvidenceSelection notes in d what the server has selected in an extension, or
// refuses it; err is that of parsing it.
func (c *Conn) attestReadEvidenceSelection(name string, d *attestDirection, sel *attestext.EvidenceSelection, err error) error {
	switch {
	case d.offered == nil:
		return c.attestNegotiateFail(alertUnsupportedExtension, "server answered %s, which was not offered", name)
	case err != nil:
		return c.attestNegotiateFail(alertDecodeError, "server's %s: %w", name, err)
	case !slices.Contains(d.offered, sel.Type):
		return c.attestNegotiateFail(alertIllegalParameter, "server selected %v, which was not offered", sel.Type)
	}
	d.selectEvidence(sel.Type, sel.Type.Format)
	return nil
}

// attestReadResultsSelection is attestReadEvidenceSelection for results; kinds are the
// configured ones of the direction.
func (c *Conn) attestReadResultsSelection(name string, d *attestDirection, kinds []attestext.CredentialKind, data []byte) error {
	if d.offeredVerifiers == nil {
		return c.attestNegotiateFail(alertUnsupportedExtension, "server answered %s, which was not offered", name)
	}
	sel, err := attestext.ParseResultsSelection(data)
	switch {
	case err != nil:
		return c.attestNegotiateFail(alertDecodeError, "server's %s: %w", name, err)
	case !slices.Contains(d.offeredVerifiers, sel.Verifier):
		return c.attestNegotiateFail(alertIllegalParameter, "server selected verifier %q, which was not offered", sel.Verifier)
	case d.negotiated:
		return c.attestNegotiateFail(alertIllegalParameter, "server selected both evidence and results in the direction of %s", name)
	}
	d.selectResult(sel.Verifier, resultsKind(kinds))
	return nil
}

// attestReadServerCertificate verifies the server's Certificate: its Evidence is
// taken out, and its chain verified, unless the Evidence takes its place.
func (hs *clientHandshakeStateTLS13) attestReadServerCertificate(msg *certificateMsgTLS13) error {
	c := hs.c
	if c.config.Attestation.singleExtension() {
		if err := c.earlyCertificateRequest(hs.certReq); err != nil {
			return err
		}
	}
	if c.attest.self.negotiated && hs.certReq == nil {
		return c.attestNegotiateFail(alertIllegalParameter, "server asked this client to attest without a CertificateRequest")
	}
	if hs.certReq != nil && c.attest.self.negotiated {
		if data, ok := findExtension(hs.certReq.attest.extensions, c.attestCodePoints().AttestedKeyProof); ok {
			if len(data) != 0 {
				return c.attestNegotiateFail(alertDecodeError, "server's attested_key_proof in CertificateRequest is not empty")
			}
			c.attest.keyProofOffered = true
		}
	}
	if err := c.attestReadEvidence(msg); err != nil {
		return err
	}
	if c.attest.peer.attestationOnly() {
		return c.attestAppraise(hs.ctx)
	}
	return c.verifyServerCertificate(msg.certificate.Certificate)
}
