package tls

import (
	"errors"
	"fmt"
	"slices"

	"github.com/attestedtls/atls/attestext"
)

// attestClientHello adds the client's offers to its ClientHello.
func (c *Conn) attestClientHello(hello *clientHelloMsg) error {
	c.attest = attestConnState{}
	a := c.config.Attestation
	if a == nil {
		return nil
	}
	if err := a.validate(); err != nil {
		return fmt.Errorf("tls: Config.Attestation: %w", err)
	}
	if hello.supportedVersions[0] != VersionTLS13 {
		return nil // and without the offers; where they are required, there is no such version
	}
	cp := c.attestCodePoints()
	offer := func(typ uint16, d *attestDirection, types []attestext.EvidenceType, nonce []byte) error {
		body, err := (&attestext.EvidenceHello{Types: types, Nonce: nonce}).Marshal()
		if err != nil {
			return fmt.Errorf("tls: Config.Attestation: %w", err)
		}
		d.offered, d.nonce = types, nonce
		hello.attest.extensions = append(hello.attest.extensions, attestExtension{typ, body})
		return nil
	}
	if a.Verifier != nil {
		types := evidenceTypes(a.PeerCredentials, a.Verifier.Formats)
		if len(types) == 0 && a.requires() {
			return errors.New("tls: Config.Attestation: attestation is required, and the verifier reads no evidence of the configured kind")
		}
		if len(types) > 0 {
			nonce, err := c.attestNonce(types)
			if err != nil {
				return err
			}
			if err := offer(cp.EvidenceRequest, &c.attest.peer, types, nonce); err != nil {
				return err
			}
		}
	}
	if a.Attester != nil {
		if types := evidenceTypes(a.Credentials, a.Attester.Formats); len(types) > 0 {
			return offer(cp.EvidenceProposal, &c.attest.self, types, nil)
		}
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
	found := helloExtensions(hs.serverHello.original, append(negotiationExtensions(cp), cp.AttestationEvidence))
	if len(found) > 0 {
		return c.attestFail(AttestationStageNegotiate, alertIllegalParameter,
			fmt.Errorf("server sent extension %#04x in ServerHello, it belongs in EncryptedExtensions", found[0].typ))
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
	cp := c.attestCodePoints()
	fail := func(al alert, format string, args ...any) error {
		return c.attestFail(AttestationStageNegotiate, al, fmt.Errorf(format, args...))
	}
	choose := func(name string, d *attestDirection, sel *attestext.EvidenceSelection, err error) error {
		if d.offered == nil {
			return fail(alertUnsupportedExtension, "server answered %s, which was not offered", name)
		}
		if err != nil {
			return fail(alertDecodeError, "server's %s: %w", name, err)
		}
		if !slices.Contains(d.offered, sel.Type) {
			return fail(alertIllegalParameter, "server selected %v, which was not offered", sel.Type)
		}
		d.negotiated, d.selected, d.format = true, sel.Type, sel.Type.Format
		return nil
	}
	if data, ok := findExtension(ee.attest.extensions, cp.EvidenceRequest); ok {
		sel, err := attestext.ParseEvidenceRequestSelection(data)
		if err := choose("evidence_request", &c.attest.peer, sel, err); err != nil {
			return err
		}
	} else if a.requires() {
		return fail(alertMissingExtension, "server does not attest, and this client requires it")
	}
	if data, ok := findExtension(ee.attest.extensions, cp.EvidenceProposal); ok {
		sel, err := attestext.ParseEvidenceProposalSelection(data)
		if err := choose("evidence_proposal", &c.attest.self, sel, err); err != nil {
			return err
		}
		if n := len(sel.Nonce); n > attestext.MaxChallengeSize {
			return fail(alertIllegalParameter, "server sent a nonce of %d bytes, evidence carries at most %d", n, attestext.MaxChallengeSize)
		}
		c.attest.self.nonce = sel.Nonce
	}
	for _, typ := range []uint16{cp.ResultsRequest, cp.ResultsProposal, cp.AttestationEvidence} {
		if _, ok := findExtension(ee.attest.extensions, typ); ok {
			return fail(alertUnsupportedExtension, "server sent extension %#04x, which was not offered", typ)
		}
	}
	return nil
}

// attestReadServerCertificate verifies the server's Certificate: its Evidence is
// taken out, and its chain verified, unless the Evidence takes its place.
func (hs *clientHandshakeStateTLS13) attestReadServerCertificate(msg *certificateMsgTLS13) error {
	c := hs.c
	if c.attest.self.negotiated && hs.certReq == nil {
		return c.attestFail(AttestationStageNegotiate, alertIllegalParameter,
			errors.New("server asked this client to attest without a CertificateRequest"))
	}
	if err := c.attestReadEvidence(msg); err != nil {
		return err
	}
	if c.attest.peer.attestationOnly() {
		return c.attestAppraise(hs.ctx)
	}
	return c.verifyServerCertificate(msg.certificate.Certificate)
}
