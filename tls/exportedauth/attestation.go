package exportedauth

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/attestedtls/atls/attestext"
)

// The labels that the draft has for the exporter of the binding.
const (
	// LabelAttestation is that of the section that defines the binding, and of the
	// implementations that are deployed.
	LabelAttestation = "Attestation"
	// LabelAttestationBinding is the other one.
	LabelAttestationBinding = "Attestation Binding"
)

const (
	exportedSize = 32
	maxCMW       = 65535 - 4 - 2 // in the extensions of an entry, alone there

	defaultTimeout       = 30 * time.Second
	defaultAttestTimeout = 10 * time.Second

	opAttest = "attest"
	opAsk    = "ask for attestation"
)

// A Config adds attestation (draft-fossati-seat-expat) to exported authenticators.
// Each direction stands alone: an end attests if it has an Attester or Results,
// and asks its peer to attest if it has a Verifier or a ResultsVerifier. Both ends
// must be configured to match, for nothing is negotiated.
//
// A Config may serve any number of connections. It must not be changed after it
// has been used.
type Config struct {
	// Identities are what this end attests beside, in order of preference. An end
	// that attests needs one, and its key should be inside the TEE.
	Identities []Identity

	// Attester makes this end's Evidence: the background-check model. Results
	// holds Attestation Results about it, of which the first verifier's is
	// presented: the passport model. At most one of them may be set; if both are
	// nil, this end does not attest and does not wait for a request.
	Attester attestext.Attester
	Results  attestext.ResultsHolder

	// Format is what the Attester makes, by default the first of its Formats beside
	// a certificate. The draft has no way to negotiate it.
	Format attestext.EvidenceFormat

	// Verifier appraises the peer's Evidence, ResultsVerifier its Attestation
	// Result. At most one of them may be set; if both are nil, the peer is not
	// asked to attest. A peer that is asked and does not is refused.
	Verifier        attestext.Verifier
	ResultsVerifier attestext.ResultsVerifier

	// VerifyChain says whether the peer's certificate chain is acceptable; see
	// ServerChain and ClientChain. It must be set where the peer is asked to
	// attest: Evidence does not replace the certificate.
	VerifyChain func(chain []*x509.Certificate) error

	// VerifyPeer, if not nil, is called by Exchange once the peer has been accepted,
	// before this end attests, where its turn is second, and may refuse it. The
	// Peer is nil where the peer has refused to attest and AllowRefusal is set.
	VerifyPeer func(*Peer) error

	// AllowRefusal has Exchange go on with a peer that answers by a genuine refusal.
	AllowRefusal bool

	// ClientFirst turns the order of Exchange around. A server answers the client's
	// request only when it has accepted the client's Evidence: whoever is not accepted
	// sees none of the server's. A client agrees to that, and shows its own to a server
	// of which it knows the certificate alone; without ClientFirst it refuses such a
	// server. The order is the server's choice, if the client agrees to both.
	//
	// On a server that does not ask, or with AllowRefusal, it holds nothing back from a
	// client that does not attest: have the handshake require and verify its certificate.
	ClientFirst bool

	// Request says what else a request asks for. It may be nil; its Context must be.
	Request *RequestOptions

	// Label is LabelAttestation, by default, or LabelAttestationBinding.
	Label string

	// ReportDataSHA512 has raw reports carry the SHA-512 of the binding in place of
	// the binding itself, as one deployed implementation does. It holds for both
	// directions.
	ReportDataSHA512 bool

	// CMWAttestation is the extension type, ExtensionCMWAttestation by default.
	CMWAttestation uint16

	// Timeout bounds Exchange, 30 seconds by default. AttestTimeout and
	// VerifyTimeout bound a call of the attester and of the verifier, 10 seconds
	// each by default.
	Timeout, AttestTimeout, VerifyTimeout time.Duration

	// Trace is called at the stages of attestation, by the goroutine that called into
	// this package, which waits for it. If nil, nothing is.
	Trace func(Event)
}

// An EventKind is a stage of attestation in one direction.
type EventKind int

const (
	ChallengeReady   EventKind = iota // the challenge has been derived, on either end
	EvidenceMade                      // this end's attester has returned, or failed
	EvidenceReceived                  // the peer's Evidence is there, and has not been looked at
	Appraised                         // the verifier has returned, or failed
)

// An Event says what happened in one direction of attestation.
type Event struct {
	Kind EventKind
	// Request is what the Evidence is to be, the challenge included, whose Role says
	// which end attests. At the end that asks, its Format is what the request can
	// say: any. It must not be changed.
	Request *attestext.AttestRequest
	// Size is that of the Evidence in bytes, except in ChallengeReady.
	Size int
	// Duration is how long the attester or the verifier took, in EvidenceMade and
	// Appraised, and Err why it has nothing to show.
	Duration time.Duration
	Err      error
}

func (c *Config) trace(e Event) {
	if c.Trace != nil {
		c.Trace(e)
	}
}

func (c *Config) asks() bool    { return c.Verifier != nil || c.ResultsVerifier != nil }
func (c *Config) attests() bool { return c.Attester != nil || c.Results != nil }

func (c *Config) validate(op string) error {
	bad := func(format string, args ...any) error { return errorf(ErrUsage, op, "Config: "+format, args...) }
	switch {
	case c == nil:
		return errorf(ErrUsage, op, "no Config")
	case c.Attester != nil && c.Results != nil:
		return bad("both Attester and Results: there is no way to say which model is wanted")
	case c.Verifier != nil && c.ResultsVerifier != nil:
		return bad("both Verifier and ResultsVerifier: there is no way to say which model is wanted")
	case !c.asks() && !c.attests():
		return bad("this end neither attests nor asks for attestation")
	case c.attests() && len(c.Identities) == 0:
		return bad("an end that attests needs an identity to attest beside")
	case c.asks() && c.VerifyChain == nil:
		return bad("VerifyChain is not set: evidence does not replace the certificate")
	case c.Label != "" && c.Label != LabelAttestation && c.Label != LabelAttestationBinding:
		return bad("unknown Label %q", c.Label)
	case c.Request != nil && c.Request.Context != nil:
		return bad("Request.Context is set: each request has its own, which nobody can predict")
	case c.Timeout < 0 || c.AttestTimeout < 0 || c.VerifyTimeout < 0:
		return bad("negative timeout")
	}
	switch c.extension() {
	case extensionServerName, extensionStatusRequest, extensionSignatureAlgorithms, extensionSCT,
		extensionCertificateAuthorities, extensionOIDFilters, extensionSignatureAlgorithmsCert:
		return bad("extension type %d of cmw_attestation belongs to another extension", c.CMWAttestation)
	}
	return nil
}

func (c *Config) extension() uint16 {
	if c.CMWAttestation == 0 {
		return ExtensionCMWAttestation
	}
	return c.CMWAttestation
}

func orDefault(d, byDefault time.Duration) time.Duration {
	if d == 0 {
		return byDefault
	}
	return d
}

// challenge derives what the Evidence of an end must be bound to. It covers the
// connection by the exporter, the request by its context, and the key:
//
//	exported = TLS-Exporter("Attestation", certificate_request_context, 32)
//	binding  = Hash(SubjectPublicKeyInfo ‖ exported)
//
// An Attestation Result has none, for it was made before; it is tied to the key.
func (s *Session) challenge(c *Config, model attestext.Model, attests attestext.Role, requestContext, spki []byte) (*attestext.Challenge, error) {
	ch := &attestext.Challenge{
		Model:   model,
		Role:    attests,
		Binding: attestext.BindingExpat,
		Kind:    attestext.CertAttestation,
		SPKI:    spki,
	}
	if c.ReportDataSHA512 {
		ch.Binding = attestext.BindingExpatSHA512
	}
	if model == attestext.Passport {
		return ch, nil
	}
	label := c.Label
	if label == "" {
		label = LabelAttestation
	}
	exported, err := s.export(label, requestContext, exportedSize)
	if err != nil {
		return nil, err
	}
	h := s.hash.New()
	h.Write(spki)
	h.Write(exported)
	ch.Nonce, ch.Binder = requestContext, h.Sum(nil)
	return ch, nil
}

// RequestAttestation makes a request that asks the peer to attest.
func (s *Session) RequestAttestation(c *Config) (*Request, error) {
	if err := c.validate(opAsk); err != nil {
		return nil, err
	}
	if !c.asks() {
		return nil, errorf(ErrUsage, opAsk, "Config: neither Verifier nor ResultsVerifier")
	}
	var o RequestOptions
	if c.Request != nil {
		o = *c.Request
	}
	o.Extensions = append(slices.Clone(o.Extensions), Extension{Type: c.extension()})
	r, err := s.Request(&o)
	if err != nil {
		return nil, err
	}
	r.attestation = c.extension()
	return r, nil
}

// Attest answers a request by the peer with an authenticator that carries this end's
// Evidence or Attestation Result. A request that does not ask for attestation is an
// error of class [ErrMissingExtension]; [Session.Authenticate] may answer it. After
// an error the request can be answered by [Session.Refuse].
func (s *Session) Attest(ctx context.Context, r *Request, c *Config) ([]byte, error) {
	if err := c.validate(opAttest); err != nil {
		return nil, err
	}
	if !c.attests() {
		return nil, errorf(ErrUsage, opAttest, "Config: neither Attester nor Results")
	}
	if r == nil || r.session != s || r.from != s.peer() {
		return nil, errorf(ErrUsage, opAttest, "this is not a request by the %v of this connection", s.peer())
	}
	switch data, asked := find(r.msg.extensions, c.extension()); {
	case !asked:
		return nil, errorf(ErrMissingExtension, opAttest, "the %v asked for an authenticator without cmw_attestation", s.peer())
	case len(data) != 0:
		return nil, errorf(ErrDecode, opAttest, "the %v's cmw_attestation is not empty", s.peer())
	}
	id, err := choose(r.msg, c.Identities, opAttest)
	if err != nil {
		return nil, err
	}
	cmw, err := s.evidence(ctx, r, c, id)
	if err != nil {
		return nil, err
	}
	if len(cmw) > maxCMW {
		return nil, errorf(ErrUsage, opAttest, "evidence of %d bytes, cmw_attestation has room for %d", len(cmw), maxCMW)
	}
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(cmw) })
	data, err := b.Bytes()
	if err != nil {
		return nil, &Error{ErrUsage, opAttest, err}
	}
	extensions := slices.DeleteFunc(slices.Clone(id.Extensions), func(e Extension) bool { return e.Type == c.extension() })
	return s.authenticate(r, id, append(extensions, Extension{c.extension(), data}))
}

func (s *Session) evidence(ctx context.Context, r *Request, c *Config, id *choice) ([]byte, error) {
	req := &attestext.AttestRequest{Type: attestext.EvidenceType{Kind: attestext.CertAttestation, Format: c.Format}}
	model := attestext.BackgroundCheck
	if c.Results != nil {
		model = attestext.Passport
		verifiers := c.Results.Verifiers()
		if len(verifiers) == 0 {
			return nil, attestext.Errorf(attestext.ErrUnavailable, opAttest, "there is no result to present")
		}
		req.Verifier = verifiers[0]
	} else if c.Format == (attestext.EvidenceFormat{}) {
		formats := c.Attester.Formats(attestext.CertAttestation)
		if len(formats) == 0 {
			return nil, attestext.Errorf(attestext.ErrUnavailable, opAttest, "the attester makes nothing to go with a certificate")
		}
		req.Type.Format = formats[0]
	}
	var err error
	if req.Challenge, err = s.challenge(c, model, s.role, r.msg.context, id.spki()); err != nil {
		return nil, err
	}
	c.trace(Event{Kind: ChallengeReady, Request: req})
	timeout := orDefault(c.AttestTimeout, defaultAttestTimeout)
	start := time.Now()
	var cmw []byte
	if model == attestext.Passport {
		cmw, err = attestext.Attest(ctx, timeout, c.Results, req)
	} else {
		cmw, err = attestext.Attest(ctx, timeout, c.Attester, req)
	}
	c.trace(Event{Kind: EvidenceMade, Request: req, Size: len(cmw), Duration: time.Since(start), Err: err})
	return cmw, err
}

// A Peer is what an end that asked for attestation knows of the other.
type Peer struct {
	Authenticated
	// Result is the proof that the peer's Evidence was accepted; it is valid.
	Result *attestext.Result
}

// Appraise checks the peer's answer to a request by [Session.RequestAttestation]: all
// that [Session.Validate] does, and then that the Evidence is acceptable and bound
// to this connection, this request and the certificate's key. The request is used
// up, whatever the outcome.
func (s *Session) Appraise(ctx context.Context, r *Request, authenticator []byte, c *Config) (*Peer, error) {
	op := fmt.Sprintf("appraise the %v", s.peer())
	if err := c.validate(op); err != nil {
		return nil, err
	}
	if !c.asks() || r == nil || r.attestation == 0 || r.attestation != c.extension() {
		return nil, errorf(ErrUsage, op, "this is not a request for attestation under this Config")
	}
	authenticated, err := s.Validate(r, authenticator, func(chain []*x509.Certificate) error {
		// What this side has not sent yet may have been taken from elsewhere.
		for i := range c.Identities {
			own, err := c.Identities[i].parse()
			if err != nil {
				return &Error{ErrUsage, op, err}
			}
			if string(own[0].RawSubjectPublicKeyInfo) == string(chain[0].RawSubjectPublicKeyInfo) {
				return errorf(ErrReflected, op, "its key is this side's own")
			}
		}
		return c.VerifyChain(chain)
	})
	if err != nil {
		return nil, unmask(err)
	}
	data, sent := find(authenticated.Extensions, r.attestation)
	if !sent {
		return nil, errorf(ErrNoEvidence, op, "its certificate entry has no cmw_attestation")
	}
	var cmw cryptobyte.String
	if b := cryptobyte.String(data); !b.ReadUint16LengthPrefixed(&cmw) || !b.Empty() || cmw.Empty() {
		return nil, errorf(ErrDecode, op, "malformed cmw_attestation")
	}
	spki := authenticated.Certificates[0].RawSubjectPublicKeyInfo
	result, err := s.appraise(ctx, c, authenticated.Context, spki, cmw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return &Peer{*authenticated, result}, nil
}

// unmask returns the Error of this package that a function for a chain returned, if
// it did.
func unmask(err error) error {
	var outer, inner *Error
	if errors.As(err, &outer) && outer.Err != nil && errors.As(outer.Err, &inner) {
		return inner
	}
	return err
}

// anyFormat is what is asked for, since a request cannot say more.
var anyFormat = attestext.EvidenceType{
	Kind:   attestext.CertAttestation,
	Format: attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatCMWCBOR},
}

func (s *Session) appraise(ctx context.Context, c *Config, requestContext, spki, cmw []byte) (*attestext.Result, error) {
	model := attestext.BackgroundCheck
	if c.Verifier == nil {
		model = attestext.Passport
	}
	ch, err := s.challenge(c, model, s.peer(), requestContext, spki)
	if err != nil {
		return nil, err
	}
	req := &attestext.AttestRequest{Type: anyFormat, Challenge: ch}
	c.trace(Event{Kind: ChallengeReady, Request: req})
	c.trace(Event{Kind: EvidenceReceived, Request: req, Size: len(cmw)})
	start := time.Now()
	result, err := s.verify(ctx, c, cmw, ch)
	c.trace(Event{Kind: Appraised, Request: req, Size: len(cmw), Duration: time.Since(start), Err: err})
	return result, err
}

func (s *Session) verify(ctx context.Context, c *Config, cmw []byte, ch *attestext.Challenge) (*attestext.Result, error) {
	timeout := orDefault(c.VerifyTimeout, defaultAttestTimeout)
	if c.Verifier != nil {
		return attestext.Appraise(ctx, timeout, c.Verifier, &attestext.Evidence{Type: anyFormat, CMW: cmw}, ch)
	}
	// The result does not come with the name of its verifier: try each.
	err := attestext.Errorf(attestext.ErrUnavailable, "appraise result", "no verifier is trusted")
	for _, v := range c.ResultsVerifier.Verifiers() {
		var result *attestext.Result
		result, err = attestext.Appraise(ctx, timeout, c.ResultsVerifier, &attestext.Evidence{Type: anyFormat, Verifier: v, CMW: cmw}, ch)
		if err == nil {
			return result, nil
		}
		if !errors.Is(err, attestext.ErrSignature) {
			return nil, err
		}
	}
	return nil, err
}

// ServerChain returns a function for Config.VerifyChain and [Session.Validate] that
// accepts chains of servers of that name, which must not be empty. roots nil means
// the system's roots. now is the time to check at; nil means time.Now.
func ServerChain(roots *x509.CertPool, name string, now func() time.Time) func(chain []*x509.Certificate) error {
	return verifyChain(roots, name, x509.ExtKeyUsageServerAuth, now)
}

// ClientChain returns a function for Config.VerifyChain and [Session.Validate] that
// accepts chains of clients, of any name. roots must not be nil: the system's are
// for servers.
func ClientChain(roots *x509.CertPool, now func() time.Time) func(chain []*x509.Certificate) error {
	return verifyChain(roots, "", x509.ExtKeyUsageClientAuth, now)
}

func verifyChain(roots *x509.CertPool, name string, usage x509.ExtKeyUsage, now func() time.Time) func(chain []*x509.Certificate) error {
	return func(chain []*x509.Certificate) error {
		switch {
		case usage == x509.ExtKeyUsageServerAuth && name == "":
			return errors.New("no name of the server to check")
		case usage == x509.ExtKeyUsageClientAuth && roots == nil:
			return errors.New("no roots for clients")
		}
		opts := x509.VerifyOptions{
			Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{usage}, Intermediates: x509.NewCertPool(),
		}
		if now != nil {
			opts.CurrentTime = now()
		}
		for _, c := range chain[1:] {
			opts.Intermediates.AddCert(c)
		}
		_, err := chain[0].Verify(opts)
		return err
	}
}
