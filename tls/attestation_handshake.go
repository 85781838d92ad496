package tls

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/keyschedule"
)

// What both roles do. RFC 8446 has the handshake, draft-fossati-tls-attestation-08
// what is added to it.

// attestCodePoints returns the configured code points; Attestation must not be nil.
func (c *Conn) attestCodePoints() attestext.CodePoints {
	return c.config.Attestation.CodePoints.WithDefaults()
}

// negotiationExtensions are the extensions of ClientHello and EncryptedExtensions.
func negotiationExtensions(cp attestext.CodePoints) []uint16 {
	return []uint16{cp.EvidenceRequest, cp.EvidenceProposal, cp.ResultsRequest, cp.ResultsProposal}
}

// attestationExtensions are those and the ones of Certificate.
func attestationExtensions(cp attestext.CodePoints) []uint16 {
	return append(negotiationExtensions(cp), cp.AttestationEvidence, cp.AttestedKeyProof, cp.AuthenticatorCarriage)
}

func (c *Conn) attestNonce(types []attestext.EvidenceType) ([]byte, error) {
	nonce := make([]byte, c.config.Attestation.nonceSize(types))
	_, err := io.ReadFull(c.config.rand(), nonce)
	return nonce, err
}

// attestSetExporter derives the secret that channel binders come from. The
// transcript is ClientHello...ServerHello.
func (c *Conn) attestSetExporter(hs *keyschedule.HandshakeSecret, transcript hash.Hash) {
	if c.attest.self.negotiated || c.attest.peer.negotiated || c.isClient && c.config.Attestation != nil {
		c.attest.exporter = hs.HandshakeExporterSecret(transcript)
		c.earlyAt(afterServerHello, transcript)
	}
}

func (c *Conn) attestRole(self bool) attestext.Role {
	if c.isClient == self {
		return attestext.RoleClient
	}
	return attestext.RoleServer
}

// attestChallenge derives what the Evidence of one direction must be bound to, and
// notes it in d. spki is nil where the key comes out of the Evidence.
func (c *Conn) attestChallenge(d *attestDirection, role attestext.Role, binding attestext.Binding, spki []byte) error {
	ch := &attestext.Challenge{
		Model:   d.model,
		Role:    role,
		Binding: c.config.Attestation.binding(binding),
		Kind:    d.selected.Kind,
		Nonce:   d.nonce,
		SPKI:    spki,
	}
	if d.model == attestext.BackgroundCheck { // even where the rule uses the bare nonce, so that a mismatch of rules can be told
		var err error
		if ch.Binding == attestext.BindingEarly {
			ch.Binder, err = d.earlyBinder(spki)
		} else {
			ch.Binder, err = c.attest.exporter.ChannelBinder(d.nonce)
		}
		if err != nil {
			return err
		}
	}
	d.request = &attestext.AttestRequest{
		Type:      attestext.EvidenceType{Kind: d.selected.Kind, Format: d.format},
		Verifier:  d.verifier,
		Challenge: ch,
	}
	if err := ch.Validate(); err != nil {
		return err
	}
	c.attestTrace(d, traceChallengeReady, 0, 0, nil)
	return nil
}

// attestKey returns the credential of a side whose Evidence takes the place of a
// certificate: a key, and room for the Evidence.
func (c *Conn) attestKey() (*Certificate, error) {
	key := c.config.Attestation.AttestedKey
	if key == nil {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		key = k
	}
	return &Certificate{Certificate: [][]byte{nil}, PrivateKey: key}, nil
}

// attestEvidence has this side's Evidence made and puts it into its Certificate
// message. The transcript is of all messages before it, and algs are the signature
// algorithms that the peer verifies.
func (c *Conn) attestEvidence(ctx context.Context, msg *certificateMsgTLS13, transcript hash.Hash, algs []SignatureScheme) error {
	d := &c.attest.self
	a := c.config.Attestation
	if a.afterHandshake() || c.attest.records {
		c.attest.certificate = new(msg.certificate)
	}
	if !d.negotiated {
		return nil
	}
	if c.isClient {
		c.earlyAt(afterServerFinished, transcript)
	} else {
		c.earlyAt(afterEncryptedExtensions, transcript) // unless there was a CertificateRequest
	}
	if c.attestTwoKeys() && !c.attest.keyProofOffered {
		return c.attestFail(AttestationStageAttest, alertMissingExtension, errNoKeyProof)
	}
	leaf, spki, err := c.attestedSPKI(&msg.certificate)
	if err != nil {
		return c.attestFail(AttestationStageAttest, alertInternalError, err)
	}
	if err := c.attestChallenge(d, c.attestRole(true), a.Binding, spki); err != nil {
		return c.attestFail(AttestationStageAttest, alertInternalError, err)
	}
	var cmw []byte
	start := time.Now()
	ctx, done := c.attestCall(ctx)
	defer done()
	if d.model == attestext.Passport {
		cmw, err = attestext.Attest(ctx, a.attestTimeout(), a.Results, d.request)
	} else {
		cmw, err = attestext.Attest(ctx, a.attestTimeout(), a.attester(), d.request)
	}
	c.attestTrace(d, traceEvidenceMade, len(cmw), time.Since(start), err)
	if err != nil {
		return c.attestFail(AttestationStageAttest, alertInternalError, err)
	}
	if n := len(cmw); n > maxCertificateMessage-1024 {
		return c.attestFail(AttestationStageAttest, alertInternalError,
			fmt.Errorf("evidence of %d bytes does not fit into a Certificate message, which holds %d", n, maxCertificateMessage))
	}
	if d.attestationOnly() {
		msg.certificate = Certificate{Certificate: [][]byte{cmw}, PrivateKey: msg.certificate.PrivateKey}
		msg.ocspStapling, msg.scts = false, false
		return nil
	}
	body := cmw
	if a.early() {
		if body, err = attestext.MarshalCMWPayload(cmw); err != nil {
			return c.attestFail(AttestationStageAttest, alertInternalError, err)
		}
	}
	msg.attest.send = []attestExtension{{c.attestEvidenceType(), body}}
	if c.attestTwoKeys() {
		proof, err := c.attestKeyProof(transcript, cipherSuiteTLS13ByID(c.cipherSuite).hash, leaf, cmw, algs)
		if err != nil {
			return c.attestFail(AttestationStageAttest, alertInternalError, fmt.Errorf("attested key proof: %w", err))
		}
		msg.attest.send = append(msg.attest.send, proof)
	}
	if over := msg.firstEntryExtensions() - maxExtensions; over > 0 {
		return c.attestFail(AttestationStageAttest, alertInternalError,
			fmt.Errorf("evidence of %d bytes is %d bytes more than fits beside a certificate", len(cmw), over))
	}
	return nil
}

// maxCertificateMessage bounds a Certificate message in which Evidence is expected,
// in bytes, whatever the peer announces. Upstream's bound of 256 KiB is for
// certificates, and the evidence of accelerators is larger.
const maxCertificateMessage = 1 << 20

// attestMaxHandshake returns the bound on a message of the given type.
func (c *Conn) attestMaxHandshake(typ uint8, upstream int) int {
	if typ == typeCertificate && c.attest.peer.negotiated {
		return maxCertificateMessage
	}
	return upstream
}

// attestedSPKI returns this side's leaf, if it has one, and the key that its
// Evidence must cover: the leaf's, or the attested key itself.
func (c *Conn) attestedSPKI(cert *Certificate) (leaf, spki []byte, err error) {
	if c.attest.self.attestationOnly() {
		spki, err = x509.MarshalPKIXPublicKey(cert.PrivateKey.(crypto.Signer).Public())
		return nil, spki, err
	}
	if len(cert.Certificate) == 0 {
		return nil, nil, errors.New("there is no certificate to attest beside")
	}
	if c.attestTwoKeys() {
		spki, err = x509.MarshalPKIXPublicKey(c.config.Attestation.AttestedKey.Public())
		return cert.Certificate[0], spki, err
	}
	x, err := cert.leaf()
	if err != nil {
		return nil, nil, err
	}
	return x.Raw, x.RawSubjectPublicKeyInfo, nil
}

// attestReadEvidence takes the Evidence out of the peer's Certificate message and
// refuses a message that carries it in any other way than was negotiated.
func (c *Conn) attestReadEvidence(msg *certificateMsgTLS13) error {
	a := c.config.Attestation
	if a == nil {
		return nil
	}
	d, cp := &c.attest.peer, c.attestCodePoints()
	fail := func(a alert, format string, args ...any) error {
		return c.attestFail(AttestationStageCertificate, a, fmt.Errorf(format, args...))
	}
	who := c.attestRole(false)
	for _, e := range msg.attest.received {
		switch {
		case e.typ == cp.RemoteAttestation && !a.singleExtension(),
			a.singleExtension() && (e.typ == cp.AttestationEvidence || slices.Contains(negotiationExtensions(cp), e.typ)):
			return fail(alertUnsupportedExtension, "%v sent extension %#04x of another form in its Certificate, this side has form %v", who, e.typ, a.Form)
		case slices.Contains(negotiationExtensions(cp), e.typ):
			return fail(alertIllegalParameter, "%v sent negotiation extension %#04x in its Certificate", who, e.typ)
		case e.typ == cp.AttestedKeyProof:
			switch {
			case !c.attestAcceptsKeyProof():
				return fail(alertUnsupportedExtension, "%v sent an attested key proof that was not asked for", who)
			case e.entry > 0 || d.keyProof != nil || len(e.data) == 0:
				return fail(alertIllegalParameter, "%v sent an attested key proof that is empty, doubled or not in the first certificate entry", who)
			}
			d.keyProof = e.data
			continue
		case e.typ != c.attestEvidenceType():
			continue
		case !d.negotiated || d.attestationOnly():
			return fail(alertUnsupportedExtension, "%v sent evidence that was not asked for", who)
		case e.entry > 0:
			return fail(alertIllegalParameter, "%v sent evidence in certificate entry %d, it belongs in the first", who, e.entry+1)
		case d.evidence != nil:
			return fail(alertIllegalParameter, "%v sent evidence twice", who)
		case len(e.data) == 0:
			return fail(alertDecodeError, "%v sent empty evidence", who)
		}
		d.evidence = e.data
		if a.early() {
			var err error
			if d.evidence, err = attestext.ParseCMWPayload(e.data); err != nil {
				return fail(alertDecodeError, "%v's evidence: %w", who, err)
			}
		}
	}
	if !d.negotiated {
		return nil
	}
	certs := msg.certificate.Certificate
	missing := func(otherwise alert) alert {
		if a.singleExtension() {
			return alert(cp.AttestationRequired)
		}
		return otherwise
	}
	if len(certs) == 0 { // a server's empty message has been refused before
		return fail(missing(alertCertificateRequired), "%v agreed to attest and sent an empty Certificate", who)
	}
	if d.attestationOnly() {
		extensions := len(msg.attest.received) > 0 || msg.ocspStapling || msg.scts
		if len(certs) != 1 || extensions {
			return fail(alertIllegalParameter, "%v sent %d entries as its attestation-only Certificate, or extensions in it; want one entry without any", who, len(certs))
		}
		if len(certs[0]) == 0 {
			return fail(alertDecodeError, "%v sent empty evidence", who)
		}
		d.evidence = certs[0]
		c.attestTrace(d, traceEvidenceReceived, len(d.evidence), 0, nil)
		return nil
	}
	if d.evidence == nil {
		if c.isClient {
			return fail(missing(alertHandshakeFailure), "%v agreed to attest and sent a certificate without evidence", who)
		}
		return fail(missing(alertCertificateRequired), "%v agreed to attest and sent a certificate without evidence", who)
	}
	c.attestTrace(d, traceEvidenceReceived, len(d.evidence), 0, nil)
	return nil
}

// attestAppraise has the peer's Evidence appraised against the challenge that this
// side derived. With attestation-only it sets c.attest.peerKey.
func (c *Conn) attestAppraise(ctx context.Context) error {
	d, a := &c.attest.peer, c.config.Attestation
	var spki []byte
	if !d.attestationOnly() {
		spki = c.peerCertificates[0].RawSubjectPublicKeyInfo
	}
	if d.keyProof != nil {
		var err error
		if spki, err = c.attestCheckKeyProof(d.keyProof); err != nil {
			return err
		}
	}
	if err := c.attestChallenge(d, c.attestRole(false), a.PeerBinding, spki); err != nil {
		return c.attestFail(AttestationStageAppraise, alertInternalError, err)
	}
	ev := &attestext.Evidence{Type: d.selected, Verifier: d.verifier, CMW: d.evidence}
	var result *attestext.Result
	var err error
	start := time.Now()
	ctx, done := c.attestCall(ctx)
	defer done()
	if d.model == attestext.Passport {
		result, err = attestext.Appraise(ctx, a.verifyTimeout(), a.ResultsVerifier, ev, d.request.Challenge)
	} else {
		result, err = attestext.Appraise(ctx, a.verifyTimeout(), a.Verifier, ev, d.request.Challenge)
	}
	c.attestTrace(d, traceAppraised, len(ev.CMW), time.Since(start), err)
	if err != nil {
		return c.attestFail(AttestationStageAppraise, c.attestAlert(err), c.earlyNamed(err))
	}
	if d.attestationOnly() {
		key, err := parseAttestedKey(result.Key())
		if err != nil {
			return c.attestFail(AttestationStageAppraise, alertBadCertificate, fmt.Errorf("attested key: %w", err))
		}
		c.attest.peerKey = key
	}
	d.appraised = result
	d.evidence, d.keyProof = nil, nil // the Result has what is worth keeping
	return nil
}

// attestPeerKey returns the key that the peer's CertificateVerify is checked with:
// the one out of its Evidence, if that takes the place of a certificate, and
// never one that was sent beside it.
func (c *Conn) attestPeerKey() crypto.PublicKey {
	if c.attest.peer.attestationOnly() {
		return c.attest.peerKey
	}
	return c.peerCertificates[0].PublicKey
}

// attestAfterCertificateVerify appraises the Evidence of a peer that has proven
// possession of its key, and calls VerifyConnection, which was held back so that
// it sees the verdict. There is no result before: with attestation-only the
// Evidence has been appraised for its key, and anybody may have sent it.
func (c *Conn) attestAfterCertificateVerify(ctx context.Context) error {
	if !c.attest.peer.negotiated {
		return nil
	}
	if !c.attest.peer.attestationOnly() {
		if err := c.attestAppraise(ctx); err != nil {
			return err
		}
	}
	c.attest.peer.result = c.attest.peer.appraised
	if c.config.VerifyConnection != nil && !c.config.Attestation.asksAfterHandshake() {
		if err := c.config.VerifyConnection(c.connectionStateLocked()); err != nil {
			c.sendAlert(alertBadCertificate)
			return err
		}
	}
	if c.quic != nil && !c.isClient {
		// The gate of a QUIC connection is its 1-RTT write secret, which
		// upstream gives a server before it has heard of the client.
		c.quicSetWriteSecret(QUICEncryptionLevelApplication, c.cipherSuite, c.out.trafficSecret)
	}
	return nil
}
