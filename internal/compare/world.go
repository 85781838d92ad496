package compare

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/eventlog"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/veraison"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/attack"
	"github.com/attestedtls/atls/tls"
)

// Sizes of evidence, in bytes: 1,200 is a SEV-SNP report whose certificates the
// verifier has, the others are TDX quotes (4 KB) with an event log that makes up the
// rest. The log is one that the quote's registers agree with, and is replayed.
const (
	sizeSNP  = 1200
	sizeBase = 5000
)

// Sizes are all sizes, in the order of tables.
var Sizes = []int{sizeSNP, sizeBase, 8000, 20000}

// TEEs are the latencies of TEEs. Beside zero they were measured in the field by
// others, end to end.
var TEEs = []struct {
	Latency time.Duration
	About   string
}{
	{0, "none: softtee's own signatures"},
	{8 * time.Millisecond, "SEV-SNP"},
	{39 * time.Millisecond, "TDX"},
	{140 * time.Millisecond, "a slow quote"},
	{1020 * time.Millisecond, "a quote by way of a cloud's service"},
}

const serverName, clientName = "server.example", "client.example"

// A world is what all cells share.
type world struct {
	now            time.Time
	ca             tls.Certificate
	roots          *x509.CertPool
	server, client tls.Certificate
	attestedKey    crypto.Signer
	issuer         *softtee.ResultsIssuer

	attesters map[int]attestext.Attester // by size
	verifiers map[Verification]attestext.Verifier
	embedded  map[int]tls.Certificate // by size

	service *http.Server
}

func newWorld(now time.Time) (*world, error) {
	w := &world{
		now: now, roots: x509.NewCertPool(), issuer: softtee.NewResultsIssuer(nil),
		attesters: make(map[int]attestext.Attester), verifiers: make(map[Verification]attestext.Verifier), embedded: make(map[int]tls.Certificate),
	}
	var err error
	if w.attestedKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if w.ca, err = w.issue("comparison CA", nil, nil); err != nil {
		return nil, err
	}
	w.roots.AddCert(w.ca.Leaf)
	if w.server, err = w.issue(serverName, &w.ca, nil); err != nil {
		return nil, err
	}
	if w.client, err = w.issue(clientName, &w.ca, nil); err != nil {
		return nil, err
	}
	if err := w.verification(); err != nil {
		return nil, err
	}
	for _, size := range Sizes {
		if w.attesters[size], err = newAttester(size); err != nil {
			return nil, err
		}
		if w.embedded[size], err = w.embed(w.attesters[size]); err != nil {
			return nil, fmt.Errorf("certificate with evidence: %w", err)
		}
	}
	return w, nil
}

func (w *world) close() {
	if w.service != nil {
		w.service.Close()
	}
}

// issue makes a certificate below ca, or one of a CA where that is nil. evidence makes
// an extension for its key, and may be nil.
func (w *world) issue(name string, ca *tls.Certificate, evidence func(spki []byte) ([]byte, error)) (tls.Certificate, error) {
	if evidence == nil {
		return attack.Issue(name, ca, w.now, nil)
	}
	return attack.Issue(name, ca, w.now, func(spki []byte) (pkix.Extension, error) {
		value, err := evidence(spki)
		return pkix.Extension{Id: embeddedOID, Value: value}, err
	})
}

// newAttester returns one whose evidence beside a certificate has about size bytes.
func newAttester(size int) (attestext.Attester, error) {
	if size == sizeSNP {
		return attester.New(softtee.NewSNP(&softtee.SNPOptions{NoCertificates: true})), nil
	}
	base, err := evidenceOf(attester.New(softtee.NewTDX(nil)), challengeOverKey([]byte("any")))
	if err != nil {
		return nil, err
	}
	log, err := eventLog(size - len(base) - len("auxblob") - 4) // the member's name, and two heads of CBOR
	if err != nil {
		return nil, err
	}
	parsed, err := eventlog.Parse(log)
	if err != nil {
		return nil, err
	}
	tee := softtee.NewTDX(&softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.RTMRs = parsed.Replay() }})
	return attester.New(attester.WithEventLog(tee, func() ([]byte, error) { return log, nil })), nil
}

// eventLog makes a log of size bytes, in the format that package eventlog reads: its
// header, and events with a SHA-384 digest of their data, 200 bytes each but the last.
func eventLog(size int) ([]byte, error) {
	const head, data = 4 + 4 + 4 + 2 + 48 + 4, 200
	left := size - len(softtee.EventLog())
	if left < head+1 {
		return nil, fmt.Errorf("no event log has %d bytes", size)
	}
	var events []eventlog.Event
	for n := 0; left > 0; n++ {
		d := make([]byte, data)
		if rest := left - head; rest < 2*data+head {
			d = make([]byte, rest)
		}
		copy(d, fmt.Sprintf("event %d", n))
		d[len(d)-1] |= 1
		events = append(events, eventlog.Event{Register: n % 3, Type: 13, Data: d})
		left -= head + len(d)
	}
	return softtee.EventLog(events...), nil
}

// verification makes the three ways to appraise, with one policy.
func (w *world) verification() error {
	p, err := policy.Parse(softtee.SNPPolicy())
	if err != nil {
		return err
	}
	mrtd, _ := softtee.TDXMeasurements()
	// Not the RTMRs, which an event log changes.
	t, err := policy.Parse(fmt.Appendf(nil, `{"tdx": {"mrtd": ["%x"]}}`, mrtd))
	if err != nil {
		return err
	}
	p.TDX = t.TDX
	tc, err := softtee.Collateral(w.now.Add(-time.Hour))
	if err != nil {
		return err
	}
	sc, err := softtee.NewSNP(nil).Collateral(&softtee.SNPCollateralOptions{Now: w.now.Add(-time.Hour), WithCertificates: true})
	if err != nil {
		return err
	}
	local := verifier.Local{TDXRoots: softtee.Roots(), SNPRoots: softtee.SNPRoots(), TDXCollateral: tc, SNPCollateral: sc, Policy: p}
	cold, warm, behind := local, local, local
	warm.TDXCache, warm.SNPCache = tdx.NewCache(0), sevsnp.NewCache(0)
	behind.TDXCache, behind.SNPCache = tdx.NewCache(0), sevsnp.NewCache(0)

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	service, err := veraison.NewService(&veraison.ServiceOptions{Verifier: &behind, Key: key, Build: "atls compare"})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	w.service = &http.Server{Handler: service, ReadHeaderTimeout: 10 * time.Second}
	go w.service.Serve(ln)
	client, err := veraison.NewClient("http://"+ln.Addr().String(), &veraison.ClientOptions{Keys: []crypto.PublicKey{key.Public()}})
	if err != nil {
		return err
	}
	w.verifiers[Cold], w.verifiers[Warm], w.verifiers[Service] = &cold, &warm, client
	return nil
}

// embeddedOID is tcg-dice-conceptual-message-wrapper, the extension that a CMW travels
// in within a certificate (TCG DICE Attestation Architecture, and RFC 9999).
var embeddedOID = asn1.ObjectIdentifier{2, 23, 133, 5, 4, 9}

// challengeOverKey is the challenge of evidence in a certificate: a hash of the key,
// and nothing of any connection. The rule by which evidence carries a value as it is
// serves for it.
func challengeOverKey(spki []byte) *attestext.Challenge {
	h := sha512.Sum512(spki)
	return &attestext.Challenge{
		Model: attestext.BackgroundCheck, Role: attestext.RoleServer, Binding: attestext.BindingDraft08,
		Kind: attestext.CertAttestation, Nonce: h[:], Binder: h[:], SPKI: spki,
	}
}

func evidenceOf(a attestext.Attester, ch *attestext.Challenge) ([]byte, error) {
	return a.Attest(context.Background(), &attestext.AttestRequest{Type: reportType, Challenge: ch})
}

var reportType = attestext.EvidenceType{Kind: attestext.CertAttestation, Format: tsm.FormatCBOR}

// embed makes a server's certificate that has evidence over its key.
func (w *world) embed(a attestext.Attester) (tls.Certificate, error) {
	return w.issue(serverName, &w.ca, func(spki []byte) ([]byte, error) {
		cmw, err := evidenceOf(a, challengeOverKey(spki))
		if err != nil {
			return nil, err
		}
		return asn1.Marshal(cmw) // a CBOR CMW is in an OCTET STRING
	})
}

var errNoEvidence = errors.New("the certificate has no evidence in it")

// appraiseCertificate appraises the evidence in a certificate whose chain was verified.
func appraiseCertificate(ctx context.Context, v attestext.Verifier, leaf *x509.Certificate) error {
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(embeddedOID) {
			continue
		}
		var cmw []byte
		if rest, err := asn1.Unmarshal(e.Value, &cmw); err != nil || len(rest) != 0 {
			return fmt.Errorf("evidence in the certificate does not parse: %w", attestext.ErrMalformed)
		}
		_, err := v.Appraise(ctx, &attestext.Evidence{Type: reportType, CMW: cmw}, challengeOverKey(leaf.RawSubjectPublicKeyInfo))
		return err
	}
	return errNoEvidence
}

// passport returns both ends of the passport model, for the server's key.
func (w *world) passport() (attestext.ResultsHolder, attestext.ResultsVerifier, error) {
	b, err := w.issuer.Issue(w.server.Leaf.RawSubjectPublicKeyInfo, w.now)
	if err != nil {
		return nil, nil, err
	}
	now := func() time.Time { return w.now }
	h, err := results.NewHolder([]results.Held{{Verifier: w.issuer.Identity(), Result: b}}, &results.HolderOptions{Now: now})
	if err != nil {
		return nil, nil, err
	}
	v, err := results.NewVerifier([]results.Trust{{ID: w.issuer.Identity(), Keys: []crypto.PublicKey{w.issuer.PublicKey()}}}, &results.VerifierOptions{Now: now})
	return h, v, err
}

// A clock adds up what attesters and verifiers take.
type clock struct{ tee, verify, evidence, appraised atomic.Int64 }

// A timedAttester waits as long as its hardware would take, and is timed.
type timedAttester struct {
	attestext.Attester
	latency time.Duration
	clock   *clock
}

func (a *timedAttester) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	defer since(time.Now(), &a.clock.tee)
	if a.latency > 0 {
		t := time.NewTimer(a.latency)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return a.Attester.Attest(ctx, req)
}

func since(start time.Time, sum *atomic.Int64) { sum.Add(int64(time.Since(start))) }

// A timedVerifier is timed.
type timedVerifier struct {
	attestext.Verifier
	clock *clock
}

func (v *timedVerifier) Appraise(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
	defer v.clock.appraises(ev)()
	return v.Verifier.Appraise(ctx, ev, ch)
}

// appraises counts an appraisal, and returns what is to be called when it is over.
func (c *clock) appraises(ev *attestext.Evidence) func() {
	c.evidence.Add(int64(len(ev.CMW)))
	c.appraised.Add(1)
	start := time.Now()
	return func() { since(start, &c.verify) }
}

type timedResults struct {
	attestext.ResultsVerifier
	clock *clock
}

func (v *timedResults) Appraise(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
	defer v.clock.appraises(ev)()
	return v.ResultsVerifier.Appraise(ctx, ev, ch)
}

// A setup is both ends of a cell.
type setup struct {
	cell           Cell
	client, server *tls.Config
	clock          clock
}

// setup configures both ends of a cell.
func (w *world) setup(c Cell) (*setup, error) {
	m := ModeNamed(c.Mode)
	if m == nil {
		return nil, fmt.Errorf("there is no mode %q", c.Mode)
	}
	s := &setup{cell: c}
	s.client = &tls.Config{RootCAs: w.roots, ServerName: serverName, MinVersion: tls.VersionTLS13}
	s.server = &tls.Config{
		Certificates: []tls.Certificate{w.server}, MinVersion: tls.VersionTLS13,
		SessionTicketsDisabled: true, // as where attestation is negotiated
	}
	if m.mutual {
		s.client.Certificates = []tls.Certificate{w.client}
		s.server.ClientCAs, s.server.ClientAuth = w.roots, tls.RequireAndVerifyClientCert
	}
	if !m.attests {
		return s, nil
	}
	v := &timedVerifier{w.verifiers[c.Verifier], &s.clock}
	if m.embedded {
		s.server.Certificates = []tls.Certificate{w.embedded[c.Size]}
		s.client.VerifyConnection = func(cs tls.ConnectionState) error {
			ctx, cancel := context.WithTimeout(context.Background(), sampleTimeout)
			defer cancel()
			return appraiseCertificate(ctx, v, cs.PeerCertificates[0])
		}
		return s, nil
	}
	timeouts := func(a *tls.AttestationConfig) *tls.AttestationConfig {
		a.AttestTimeout, a.VerifyTimeout = sampleTimeout, sampleTimeout
		return a
	}
	client, server := timeouts(&tls.AttestationConfig{}), timeouts(&tls.AttestationConfig{})
	if m.passport {
		h, rv, err := w.passport()
		if err != nil {
			return nil, err
		}
		server.Results, client.ResultsVerifier = h, &timedResults{rv, &s.clock}
	} else {
		a := &timedAttester{w.attesters[c.Size], c.TEE, &s.clock}
		server.Attester, client.Verifier = a, v
		if m.both {
			client.Attester, server.Verifier = a, v
		}
	}
	if m.configure != nil {
		m.configure(w, client, server)
	}
	if c.Kind == Reattest || c.Kind == Periodic {
		client.Carriage, server.Carriage = tls.CarriagePostHandshake, tls.CarriagePostHandshake
		client.ReattestInterval = c.Interval
		server.MinReattestInterval = time.Nanosecond // the TEE sets the pace
	}
	s.client.Attestation, s.server.Attestation = client, server
	return s, nil
}
