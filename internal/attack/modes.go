package attack

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/keyschedule"
	"github.com/attestedtls/atls/tls"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// A part is something that the evidence of an experimental binding covers.
type part uint8

const (
	clientRandom  part = iota // ClientHello.random
	nonce                     // the relying party's
	earlyExporter             // of RFC 8446, section 7.5, without a PSK
	publicKey                 // SubjectPublicKeyInfo of the certificate
	channelBinder             // TLS-Handshake-Exporter over the nonce
)

// A Mode is a way to bind evidence to a connection.
type Mode struct {
	Name  string
	About string

	// parts are what an experimental binding covers. The modes that the library
	// has have none.
	parts []part

	// handshake: evidence in the handshake. exchange: an exported authenticator
	// with evidence behind it.
	handshake, exchange bool
	binding             attestext.Binding
	form                tls.AttestationForm
	only                bool // attestation-only
	passport            bool
	twoKeys             bool
}

// Modes are all modes, in the order of tables.
var Modes = []*Mode{
	{Name: "binder1", About: "ClientHello.random", parts: []part{clientRandom}, handshake: true},
	{Name: "binder2", About: "the client's nonce", parts: []part{nonce}, handshake: true},
	{Name: "binder3", About: "early exporter", parts: []part{earlyExporter}, handshake: true},
	{Name: "binder4", About: "the certificate's key", parts: []part{publicKey}, handshake: true},
	{Name: "binder5", About: "nonce and early exporter", parts: []part{nonce, earlyExporter}, handshake: true},
	{Name: "binder6", About: "nonce and key", parts: []part{nonce, publicKey}, handshake: true},
	{Name: "binder7", About: "nonce, early exporter and key", parts: []part{nonce, earlyExporter, publicKey}, handshake: true},
	{Name: "proposed", About: "nonce, handshake exporter and key", parts: []part{nonce, channelBinder, publicKey}, handshake: true},
	{Name: "draft-08", About: "draft-fossati-tls-attestation-08: handshake exporter over the nonce", handshake: true, binding: attestext.BindingDraft08},
	{Name: "hardened", About: "the default: handshake exporter over the nonce, key and role", handshake: true},
	{Name: "two-keys", About: "hardened over an attested key, which signs the session beside the certificate's", handshake: true, twoKeys: true},
	{Name: "attestation-only", About: "hardened, in place of a certificate", handshake: true, only: true},
	{Name: "passport", About: "a verifier's result over the key", handshake: true, passport: true},
	{Name: "early", About: "draft-fossati-seat-early-attestation: transcript of the hellos, and key", handshake: true, form: tls.FormEarly},
	{Name: "expat", About: "after the handshake: exporter over the request's context, and key", exchange: true},
	{Name: "combined", About: "hardened in the handshake, then expat", handshake: true, exchange: true},
}

// ModeNamed returns the mode of that name, or nil.
func ModeNamed(name string) *Mode {
	i := slices.IndexFunc(Modes, func(m *Mode) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return Modes[i]
}

func (m *Mode) experimental() bool { return m.parts != nil }

// publicInputs reports whether whoever sees the hellos and the certificate can
// compute the challenge.
func (m *Mode) publicInputs() bool {
	return m.early() || m.experimental() && !slices.Contains(m.parts, channelBinder)
}

// early reports whether draft-fossati-seat-early-attestation is spoken in the handshake.
func (m *Mode) early() bool { return m.form == tls.FormEarly }

// tlsMode is what an AttestationConfig calls the mode.
func (m *Mode) tlsMode() tls.AttestationMode {
	switch {
	case m.handshake && m.exchange:
		return tls.Combined
	case m.exchange:
		return tls.PostHandshake
	}
	return tls.InHandshake
}

// carriage has exported authenticators travel as the first application data, which the
// attacker can speak without private extensions.
func (m *Mode) carriage() tls.AttestationCarriage {
	if m.exchange {
		return tls.CarriageLeading
	}
	return tls.CarriageAuto
}

// A view is what one end knows when evidence is made or appraised.
type view struct {
	client *hello
	nonce  []byte
	binder []byte
	spki   []byte
}

// experimentalLabel begins the input of the report data of experimental bindings.
const experimentalLabel = "atls experimental "

// reportData returns what a quote carries under an experimental binding: the SHA-512
// of a label and all parts, each behind its length.
func (m *Mode) reportData(v *view) (out [attestext.ReportDataSize]byte) {
	h := sha512.New()
	fmt.Fprintf(h, "%s%s\x00", experimentalLabel, m.Name)
	for _, p := range m.parts {
		var b []byte
		switch p {
		case clientRandom:
			b = v.client.random
		case nonce:
			b = v.nonce
		case earlyExporter:
			b = earlyExport(v.client)
		case publicKey:
			b = v.spki
		case channelBinder:
			b = v.binder
		}
		h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(b))))
		h.Write(b)
	}
	h.Sum(out[:0])
	return out
}

// earlyExport is the early exporter of a handshake without a PSK: all that goes into
// it is in the ClientHello. No suite is agreed on yet, so that the hash is that of PSKs
// which name none: SHA-256 (RFC 8446, section 4.2.11).
func earlyExport(client *hello) []byte {
	h := sha256.New()
	h.Write(client.raw)
	return keyschedule.NewEarlySecret(sha256.New, nil).EarlyExporterMasterSecret(h).Exporter("attestation", nil, 32)
}

// earlyBinder is {c,s}_attest_binder of draft-fossati-seat-early-attestation-06, where
// hellos is Hash(ClientHello...ServerHello):
//
//	attest_base = HKDF-Expand-Label(0^Hash.length, "attestation base", hellos, Hash.length)
//	binder      = HKDF-Expand-Label(attest_base, "attestation", Hash(SPKI), Hash.length)
func earlyBinder(h crypto.Hash, hellos, spki []byte) []byte {
	base := keyschedule.ExpandLabel(h.New, make([]byte, h.Size()), "attestation base", hellos, h.Size())
	return keyschedule.ExpandLabel(h.New, base, "attestation", sum(h, spki), h.Size())
}

func sum(h crypto.Hash, b []byte) []byte {
	s := h.New()
	s.Write(b)
	return s.Sum(nil)
}

// An experiment attests and appraises under an experimental binding, at one honest
// end. It takes what it covers from what that end itself sent and received.
type experiment struct {
	mode  *Mode
	end   *end
	tee   *softtee.TDX
	local *verifier.Local
}

func (x *experiment) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	if kind != attestext.CertAttestation {
		return nil
	}
	return []attestext.EvidenceFormat{tsm.FormatCBOR}
}

func (x *experiment) view(c *attestext.Challenge) (*view, error) {
	clients, _ := x.end.wire.hellos()
	if len(clients) == 0 {
		return nil, attestext.Errorf(attestext.ErrUnavailable, "experiment", "there is no ClientHello")
	}
	return &view{client: clients[len(clients)-1], nonce: c.Nonce, binder: c.Binder, spki: c.SPKI}, nil
}

func (x *experiment) Attest(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
	v, err := x.view(req.Challenge)
	if err != nil {
		return nil, err
	}
	return reportCMW(x.tee, x.mode.reportData(v))
}

func (x *experiment) Appraise(_ context.Context, ev *attestext.Evidence, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	const op = "appraise under an experimental binding"
	v, err := x.view(expected)
	if err != nil {
		return nil, err
	}
	report, err := unwrap(ev.CMW)
	if err != nil {
		return nil, err
	}
	verified, err := x.local.Verify(report)
	if err != nil {
		return nil, err
	}
	want := x.mode.reportData(v)
	if subtle.ConstantTimeCompare(verified.ReportData[:], want[:]) != 1 {
		return nil, attestext.Errorf(attestext.ErrBinding, op, "the quote covers another challenge")
	}
	d, err := verified.Evaluate()
	if err != nil {
		return nil, err
	}
	return &attestext.Appraisal{Verdict: d.Verdict.String(), Format: tsm.FormatCBOR}, nil
}

func wrap(report []byte) ([]byte, error) {
	return (&cmw.Record{Format: tsm.FormatCBOR, Value: report, Ind: cmw.Evidence}).CBOR()
}

func unwrap(b []byte) (*tsm.Report, error) {
	w, err := cmw.Parse(b)
	if err != nil {
		return nil, err
	}
	format, value, err := w.Evidence()
	if err != nil {
		return nil, err
	}
	return tsm.Parse(format, value)
}

// local returns the verifier of honest relying parties.
func (c *cell) local() (*verifier.Local, error) {
	collateral, err := c.world.collateral(c.mitigation)
	if err != nil {
		return nil, err
	}
	p, err := c.world.policy(c.mitigation)
	if err != nil {
		return nil, err
	}
	return &verifier.Local{TDXRoots: softtee.Roots(), TDXCollateral: collateral, Policy: p, Now: c.world.clock}, nil
}

// relying returns what makes an honest end ask its peer for evidence, of the mode that
// it is to be.
func (c *cell) relying(e *end) (*tls.AttestationConfig, error) {
	a := &tls.AttestationConfig{Mode: c.mode.tlsMode(), Carriage: c.mode.carriage(), Form: c.mode.form, PeerBinding: c.mode.binding, PeerAttestedKey: c.mode.twoKeys}
	if c.mode.passport {
		v, err := c.resultsVerifier()
		a.ResultsVerifier = v
		return a, err
	}
	local, err := c.local()
	if err != nil {
		return nil, err
	}
	a.Verifier = local
	if c.mode.experimental() {
		a.Verifier = &experiment{mode: c.mode, end: e, local: local}
	}
	if c.mode.only {
		a.PeerCredentials, a.AllowAttestationOnly = []attestext.CredentialKind{attestext.AttestationOnly}, true
	}
	return a, nil
}

func (c *cell) resultsVerifier() (*results.Verifier, error) {
	return results.NewVerifier([]results.Trust{{ID: c.world.issuer.Identity(), Keys: []crypto.PublicKey{c.world.issuer.PublicKey()}}},
		&results.VerifierOptions{Now: c.world.clock})
}

// A machine is a TEE with the credentials of an end in it.
type machine struct {
	name string
	tee  *softtee.TDX
	cert tls.Certificate
	ek   crypto.Signer // with two keys
	only crypto.Signer // attestation-only
}

func (w *world) genuineMachine() *machine {
	return &machine{"the server's machine", w.genuine, w.server, w.ek, w.attestationOnly}
}

func (w *world) otherMachine() *machine {
	return &machine{"another genuine machine", w.elsewhere, w.other, w.otherEK, w.otherAttestationOnly}
}

func (w *world) clientMachine() *machine {
	return &machine{"the client's own machine", w.genuine, w.client, w.clientEK, w.clientEK}
}

// attesting returns what makes an honest end attest.
func (c *cell) attesting(e *end, m *machine) (*tls.AttestationConfig, error) {
	a := &tls.AttestationConfig{Mode: c.mode.tlsMode(), Carriage: c.mode.carriage(), Form: c.mode.form, Binding: c.mode.binding}
	switch {
	case c.mode.passport:
		h, err := c.world.results(m.cert.PrivateKey.(crypto.Signer).Public())
		a.Results = h
		return a, err
	case c.mode.experimental():
		a.Attester = &experiment{mode: c.mode, end: e, tee: m.tee}
	default:
		a.Attester = attester.New(m.tee)
	}
	if c.mode.twoKeys {
		a.AttestedKey = m.ek
	}
	if c.mode.only {
		a.Credentials, a.AllowAttestationOnly, a.AttestedKey = []attestext.CredentialKind{attestext.AttestationOnly}, true, m.only
	}
	return a, nil
}

// asks returns what makes an honest end ask for an exported authenticator with
// evidence, and answers what makes a machine answer.
func (c *cell) asks(role attestext.Role) (*exportedauth.Config, error) {
	local, err := c.local()
	if err != nil {
		return nil, err
	}
	chain := exportedauth.ServerChain(c.world.roots, nameServer, c.world.clock)
	if role == attestext.RoleServer {
		chain = exportedauth.ClientChain(c.world.roots, c.world.clock)
	}
	return &exportedauth.Config{Verifier: local, VerifyChain: chain}, nil
}

func (c *cell) answers(m *machine) *exportedauth.Config {
	return &exportedauth.Config{Identities: []exportedauth.Identity{identity(m.cert)}, Attester: attester.New(m.tee)}
}

func identity(cert tls.Certificate) exportedauth.Identity {
	return exportedauth.Identity{Chain: cert.Certificate, Key: cert.PrivateKey.(crypto.Signer)}
}

func spkiOf(key crypto.PublicKey) []byte {
	b, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic("attack: " + err.Error()) // the laboratory's own key
	}
	return b
}
