package tls

import (
	"errors"
	"fmt"
	"hash"
	"slices"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/keyschedule"
)

// draft-fossati-seat-early-attestation, where it is not like
// draft-fossati-tls-attestation-08: what travels, where the binder comes from, and which
// alerts there are.

// An AttestationForm says how a connection attests in the handshake, where its mode
// has it do so. Nothing negotiates it: an end takes the other form's extensions for
// ones that it does not know.
type AttestationForm int

const (
	// FormTLSAttest is draft-fossati-tls-attestation-08.
	FormTLSAttest AttestationForm = iota

	// FormEarly is draft-fossati-seat-early-attestation-06: one extension,
	// remoteAttestation, Evidence beside a certificate only, and a binder over
	// ClientHello...ServerHello and the certificate's key, without a nonce.
	//
	// WARNING: all that goes into its binder is public; see attestext.BindingEarly.
	FormEarly

	// FormEarly03 is revision -03 of that, which one deployed implementation speaks:
	// the extensions of FormTLSAttest without a kind of credential and without nonces,
	// and binders over more of the handshake. The certificate's key must have no more
	// than 255 bytes, which rules RSA out.
	FormEarly03
)

// String returns "tls-attest", "early" or "early-03".
func (f AttestationForm) String() string {
	switch f {
	case FormTLSAttest:
		return "tls-attest"
	case FormEarly:
		return "early"
	case FormEarly03:
		return "early-03"
	}
	return fmt.Sprintf("AttestationForm(%d)", int(f))
}

// early reports whether a attests in the handshake in a form of the early draft; a may
// be nil.
func (a *AttestationConfig) early() bool { return a.inHandshake() && a.Form != FormTLSAttest }

// singleExtension reports whether the extension is remoteAttestation, with the alerts
// that go with it; a may be nil.
func (a *AttestationConfig) singleExtension() bool { return a.inHandshake() && a.Form == FormEarly }

// binding returns the rule in force in the handshake for an end that is configured for b.
func (a *AttestationConfig) binding(b attestext.Binding) attestext.Binding {
	if a.early() {
		return attestext.BindingEarly
	}
	return b
}

// validateForm reports settings that do not go with the form.
func (a *AttestationConfig) validateForm() error {
	switch a.Form {
	case FormTLSAttest:
		return nil
	case FormEarly, FormEarly03:
	default:
		return fmt.Errorf("unknown %v", a.Form)
	}
	switch {
	case !a.inHandshake():
		return fmt.Errorf("Form %v in Mode %v, which does not attest in the handshake", a.Form, a.Mode)
	case slices.Contains(a.Credentials, attestext.AttestationOnly) || slices.Contains(a.PeerCredentials, attestext.AttestationOnly):
		return fmt.Errorf("attestation-only in Form %v, whose evidence comes beside a certificate", a.Form)
	case a.AttestedKey != nil || a.PeerAttestedKey:
		return fmt.Errorf("AttestedKey or PeerAttestedKey in Form %v, whose binder covers the certificate's key", a.Form)
	case a.Binding != attestext.BindingHardened || a.PeerBinding != attestext.BindingHardened:
		return fmt.Errorf("Binding or PeerBinding in Form %v, which has its own: leave them zero", a.Form)
	case a.NonceSize != 0:
		return fmt.Errorf("NonceSize in Form %v, which has no nonces", a.Form)
	}
	return nil
}

// attestFormFail is attestNegotiateFail for what the form has in common with no other: an
// alert may have the number that another form gives another meaning.
func (c *Conn) attestFormFail(a alert, format string, args ...any) error {
	return c.attestNegotiateFail(a, "%v: "+format, append([]any{c.config.Attestation.Form}, args...)...)
}

// earlyNamed has an error about Evidence name the form, where it is remoteAttestation.
func (c *Conn) earlyNamed(err error) error {
	if c.config.Attestation.singleExtension() {
		return fmt.Errorf("%v: %w", FormEarly, err)
	}
	return err
}

// earlySchemes returns what a direction offers or can do, of which either may be empty.
func earlySchemes(types []attestext.EvidenceType, verifiers []attestext.VerifierIdentity) []attestext.AttestationScheme {
	var schemes []attestext.AttestationScheme
	for _, t := range types {
		schemes = append(schemes, attestext.AttestationScheme{Format: t.Format})
	}
	for _, v := range verifiers {
		schemes = append(schemes, attestext.AttestationScheme{Verifier: v})
	}
	return schemes
}

// earlyOffer is the inverse of earlySchemes.
func earlyOffer(schemes []attestext.AttestationScheme) (o attestOffer) {
	for _, s := range schemes {
		if s.Verifier != "" {
			if o.results == nil {
				o.results = new(attestext.ResultsHello)
			}
			o.results.Verifiers = append(o.results.Verifiers, s.Verifier)
			continue
		}
		if o.evidence == nil {
			o.evidence = new(attestext.EvidenceHello)
		}
		o.evidence.Types = append(o.evidence.Types, attestext.EvidenceType{Kind: attestext.CertAttestation, Format: s.Format})
	}
	return o
}

// scheme returns what was agreed on in a direction, as it stands on the wire.
func (d *attestDirection) scheme() attestext.AttestationScheme {
	if d.model == attestext.Passport {
		return attestext.AttestationScheme{Verifier: d.verifier}
	}
	return attestext.AttestationScheme{Format: d.selected.Format}
}

// earlyClientHello adds remoteAttestation to a ClientHello, if there is something to
// offer.
func (c *Conn) earlyClientHello(hello *clientHelloMsg) error {
	s := &c.attest
	offer := &attestext.EarlyHello{
		Server: earlySchemes(s.peer.offered, s.peer.offeredVerifiers),
		Client: earlySchemes(s.self.offered, s.self.offeredVerifiers),
	}
	if len(offer.Server) == 0 && len(offer.Client) == 0 {
		return nil
	}
	b, err := offer.Marshal()
	if err != nil {
		return fmt.Errorf("tls: Config.Attestation: %w", err)
	}
	hello.attest.extensions = append(hello.attest.extensions, attestExtension{c.attestCodePoints().RemoteAttestation, b})
	return nil
}

// earlyNegotiate chooses among the schemes of remoteAttestation in ClientHello. A
// client that is answered in neither direction is refused, one that is answered in the
// other is left to decide.
func (hs *serverHandshakeStateTLS13) earlyNegotiate() error {
	c := hs.c
	a, cp := c.config.Attestation, c.attestCodePoints()
	found := helloExtensions(hs.clientHello.original, []uint16{cp.RemoteAttestation})
	if len(found) == 0 {
		if a.requires() {
			return c.attestFormFail(alert(cp.AttestationRequired), "client does not offer to attest, and this server requires it")
		}
		return nil
	}
	offer, err := attestext.ParseEarlyHello(found[0].data)
	if err != nil {
		return c.attestFormFail(alertDecodeError, "client's remoteAttestation: %w", err)
	}
	self, peer := &c.attest.self, &c.attest.peer
	if a.attests() {
		self.choose(a.selfMenu(), earlyOffer(offer.Server))
	}
	if a.asks() {
		peer.choose(a.peerMenu(c.config.ClientAuth), earlyOffer(offer.Client))
	}
	switch {
	case !self.negotiated && !peer.negotiated:
		return c.attestFormFail(alert(cp.UnsupportedAttestationSchemes),
			"nothing in common: of the server client wants %s, this server has %v; of itself client offers %s, this server appraises %v",
			attestext.SchemesString(offer.Server), a.selfMenu(), attestext.SchemesString(offer.Client), a.peerMenu(c.config.ClientAuth))
	case a.requires() && !peer.negotiated:
		return c.attestFormFail(alert(cp.AttestationRequired),
			"client offers %s of itself, and this server requires one of %v", attestext.SchemesString(offer.Client), a.peerMenu(c.config.ClientAuth))
	}
	c.attestVerifiesClient()
	return nil
}

// earlyAnswer returns remoteAttestation of EncryptedExtensions or CertificateRequest,
// which names what was agreed on in a direction; none if nothing was.
func (c *Conn) earlyAnswer(d *attestDirection) ([]attestExtension, error) {
	if !d.negotiated {
		return nil, nil
	}
	b, err := d.scheme().Marshal()
	if err != nil {
		return nil, err
	}
	return []attestExtension{{c.attestCodePoints().RemoteAttestation, b}}, nil
}

// earlyChosen reads remoteAttestation of EncryptedExtensions or CertificateRequest into
// the direction that it is about.
func (c *Conn) earlyChosen(message string, extensions []attestExtension, d *attestDirection) error {
	fail := func(a alert, format string, args ...any) error {
		return c.attestFormFail(a, format, args...)
	}
	cp := c.attestCodePoints()
	seen := false
	for _, e := range extensions {
		switch {
		case slices.Contains(negotiationExtensions(cp), e.typ) || e.typ == cp.AttestationEvidence:
			return fail(alertUnsupportedExtension, "server sent extension %#04x of another form in %s", e.typ, message)
		case e.typ != cp.RemoteAttestation:
			continue
		case seen:
			return fail(alertIllegalParameter, "server sent remoteAttestation twice in %s", message)
		}
		seen = true
		if o := &c.attest; len(o.peer.offered)+len(o.peer.offeredVerifiers)+len(o.self.offered)+len(o.self.offeredVerifiers) == 0 {
			return fail(alertUnsupportedExtension, "server sent remoteAttestation in %s, which was not offered", message)
		}
		scheme, err := attestext.ParseAttestationScheme(e.data)
		if err != nil {
			return fail(alertDecodeError, "server's remoteAttestation in %s: %w", message, err)
		}
		if !slices.Contains(earlySchemes(d.offered, d.offeredVerifiers), scheme) {
			return fail(alertIllegalParameter, "server chose %v in %s, which was not offered there", scheme, message)
		}
		if scheme.Verifier != "" {
			d.selectResult(scheme.Verifier, attestext.CertAttestation)
		} else {
			d.selectEvidence(attestext.EvidenceType{Kind: attestext.CertAttestation, Format: scheme.Format}, scheme.Format)
		}
	}
	return nil
}

// earlyServerParameters reads the server's choice of how it attests.
func (hs *clientHandshakeStateTLS13) earlyServerParameters(ee *encryptedExtensionsMsg) error {
	c := hs.c
	if err := c.earlyChosen("EncryptedExtensions", ee.attest.extensions, &c.attest.peer); err != nil {
		return err
	}
	if c.config.Attestation.requires() && !c.attest.peer.negotiated {
		return c.attestFormFail(alert(c.attestCodePoints().AttestationRequired), "server does not attest, and this client requires it")
	}
	c.attestTrace(&c.attest.peer, traceNegotiated, 0, 0, nil)
	return nil
}

// earlyCertificateRequest reads the server's choice of how this client attests; req may
// be nil.
func (c *Conn) earlyCertificateRequest(req *certificateRequestMsgTLS13) error {
	if req == nil {
		return nil
	}
	if err := c.earlyChosen("CertificateRequest", req.attest.extensions, &c.attest.self); err != nil {
		return err
	}
	c.attestTrace(&c.attest.self, traceNegotiated, 0, 0, nil)
	return nil
}

// attestEvidenceType is the type of the extension that carries Evidence in a
// CertificateEntry.
func (c *Conn) attestEvidenceType() uint16 {
	cp := c.attestCodePoints()
	if c.config.Attestation.Form == FormEarly {
		return cp.RemoteAttestation
	}
	return cp.AttestationEvidence
}

// earlyBase returns what the binder of the end of role attests comes from.
func (c *Conn) earlyBase(attests attestext.Role, transcript hash.Hash) *keyschedule.AttestationBase {
	h := cipherSuiteTLS13ByID(c.cipherSuite).hash.New
	switch {
	case c.config.Attestation.Form == FormEarly:
		return keyschedule.NewAttestationBase(h, transcript)
	case attests == attestext.RoleClient:
		return keyschedule.NewClientAttestationBase03(h, transcript)
	}
	return keyschedule.NewServerAttestationBase03(h, transcript)
}

// An earlyPoint is a point of the handshake whose transcript a binder may be made from.
type earlyPoint int

const (
	afterServerHello earlyPoint = iota
	afterEncryptedExtensions
	afterServerFinished
)

// earlyAt notes the base of each direction whose binder is made from the transcript at
// this point of the handshake, once.
func (c *Conn) earlyAt(point earlyPoint, transcript hash.Hash) {
	a := c.config.Attestation
	if a == nil || !a.early() {
		return
	}
	for _, d := range []*attestDirection{&c.attest.self, &c.attest.peer} {
		role := c.attestRole(d == &c.attest.self)
		at := afterServerHello
		if a.Form == FormEarly03 {
			if at = afterEncryptedExtensions; role == attestext.RoleClient {
				at = afterServerFinished
			}
		}
		if at == point && d.base == nil {
			d.base = c.earlyBase(role, transcript)
		}
	}
}

var errNoBase = errors.New("internal error: the binder's transcript was not noted")

// earlyBinder returns the binder of a direction for the key of a certificate.
func (d *attestDirection) earlyBinder(spki []byte) ([]byte, error) {
	if d.base == nil {
		return nil, errNoBase
	}
	return d.base.Binder(spki)
}

// What evidence_request and evidence_proposal carry, which revision -03 has without a
// kind of credential and without a nonce.

func (a *AttestationConfig) evidenceHello(types []attestext.EvidenceType, nonce []byte) ([]byte, error) {
	if a.Form == FormTLSAttest {
		return (&attestext.EvidenceHello{Types: types, Nonce: nonce}).Marshal()
	}
	var formats []attestext.EvidenceFormat
	for _, t := range types {
		formats = append(formats, t.Format)
	}
	return attestext.MarshalFormats(formats)
}

func (a *AttestationConfig) parseEvidenceHello(data []byte, request bool) (*attestext.EvidenceHello, error) {
	switch {
	case a.Form == FormTLSAttest && request:
		return attestext.ParseEvidenceRequestHello(data)
	case a.Form == FormTLSAttest:
		return attestext.ParseEvidenceProposalHello(data)
	}
	return attestext.ParseEarly03Hello(data)
}

func (a *AttestationConfig) evidenceSelection(t attestext.EvidenceType, nonce []byte) ([]byte, error) {
	if a.Form == FormTLSAttest {
		return (&attestext.EvidenceSelection{Type: t, Nonce: nonce}).Marshal()
	}
	return attestext.MarshalFormat(t.Format)
}

func (a *AttestationConfig) parseEvidenceSelection(data []byte, request bool) (*attestext.EvidenceSelection, error) {
	switch {
	case a.Form == FormTLSAttest && request:
		return attestext.ParseEvidenceRequestSelection(data)
	case a.Form == FormTLSAttest:
		return attestext.ParseEvidenceProposalSelection(data)
	}
	return attestext.ParseEarly03Selection(data)
}
