// Package attester makes Evidence out of raw quotes: it derives what a quote must
// carry from the challenge of a handshake, has it quoted, and wraps the result.
// The hardware, or the software that stands in for it, is a [Quoter]; a platform that
// signs tokens of its own is a [TokenSource].
package attester

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/tsm"
)

const op = "attest"

// A Quoter has the machine sign 64 bytes. It is called concurrently.
type Quoter interface {
	// Report returns a report, in the shape that configfs-tsm has, whose quote
	// carries reportData. It should return when ctx is done.
	Report(ctx context.Context, reportData [attestext.ReportDataSize]byte) (*tsm.Report, error)
}

// A Source makes evidence that is bound by 64 bytes, in formats of its own. It is
// called concurrently.
type Source interface {
	// Formats lists what Record can make, the preferred one first. There is at least
	// one, and it is the same list each time.
	Formats() []attestext.EvidenceFormat
	// Record returns evidence in one of Formats that is bound to reportData. It should
	// return when ctx is done.
	Record(ctx context.Context, f attestext.EvidenceFormat, reportData [attestext.ReportDataSize]byte) (*cmw.Record, error)
}

// Attester implements [attestext.Attester] on a [Quoter] or a [Source].
//
// Beside a certificate, its Evidence is the report itself, whose quote carries
// [attestext.Challenge.ReportData]. In place of a certificate, where the quote
// cannot say which key it is about, and wherever the peer asks for it by format,
// its Evidence is a bundle of draft-bft-rats-kat-06: a quote over a key that the
// Attester holds, and a token by that key for the challenge and the TLS key. There is
// a fresh quote for each session, which shows that it is (see [eat.ReportData]) except
// under the rule of the draft, whose quotes cover the key alone. A [KeyTier] gets by with
// fewer.
type Attester struct {
	source Source
	kak    crypto.Signer
}

var _ attestext.Attester = (*Attester)(nil)

// New returns an Attester on q. It makes a key attestation key, which lives as
// long as the Attester and never leaves it.
func New(q Quoter) *Attester { return NewSource(reports{q}) }

// NewSource is like New for evidence that is not a report of configfs-tsm. What is said
// of a report above is then true of the evidence that s makes.
func NewSource(s Source) *Attester { return &Attester{s, newKAK()} }

func newKAK() crypto.Signer {
	kak, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic("attester: " + err.Error()) // crypto/rand does not fail
	}
	return kak
}

// Formats returns the formats of a report, in CBOR and in JSON, and that of a
// bundle, which alone can stand in place of a certificate.
func (a *Attester) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	if kind == attestext.AttestationOnly {
		return []attestext.EvidenceFormat{eat.BundleFormat}
	}
	return append(slices.Clone(a.source.Formats()), eat.BundleFormat)
}

// Attest returns Evidence of the type that req names as an encoded CMW: a record
// with a report, or a bundle. With attestation-only, the format of a report is
// that of the report inside the bundle. A format that stands for any gets a report
// in CBOR.
//
// Errors are of class [attestext.ErrWrongType] where the format is none of
// Formats, and otherwise of [attestext.ErrUnavailable].
func (a *Attester) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	f := req.Type.Format
	bundle := req.Type.Kind == attestext.AttestationOnly
	switch {
	case f.Equal(eat.BundleFormat):
		f, bundle = a.source.Formats()[0], true
	case f.IsAny():
		f = a.source.Formats()[0]
	case !slices.ContainsFunc(a.source.Formats(), f.Equal):
		return nil, attestext.Errorf(attestext.ErrWrongType, op, "cannot make %v", f)
	}
	b, err := a.attest(ctx, f, bundle, req.Challenge)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: err}
	}
	return b, nil
}

func (a *Attester) attest(ctx context.Context, f attestext.EvidenceFormat, bundle bool, c *attestext.Challenge) ([]byte, error) {
	if err := checkModel(c); err != nil {
		return nil, err
	}
	if bundle {
		return a.bundle(ctx, f, c)
	}
	reportData, err := c.ReportData()
	if err != nil {
		return nil, err
	}
	r, err := a.source.Record(ctx, f, reportData)
	if err != nil {
		return nil, err
	}
	if f.Equal(tsm.FormatJSON) {
		return r.JSON()
	}
	return r.CBOR()
}

func checkModel(c *attestext.Challenge) error {
	if c.Model != attestext.BackgroundCheck {
		return fmt.Errorf("evidence cannot be made for the %v model", c.Model)
	}
	return nil
}

// bundle has the KAK quoted and signs a token with it.
func (a *Attester) bundle(ctx context.Context, f attestext.EvidenceFormat, c *attestext.Challenge) ([]byte, error) {
	kat, err := signKAT(a.kak, c)
	if err != nil {
		return nil, err
	}
	kakPub, err := eat.MarshalKey(a.kak.Public())
	if err != nil {
		return nil, err
	}
	freshness := eat.ForSession
	if c.Binding == attestext.BindingDraft08 {
		freshness = eat.Undated
	}
	pat, err := a.source.Record(ctx, f, eat.ReportData(kakPub, freshness, c.Value()))
	if err != nil {
		return nil, err
	}
	return eat.EncodeBundle(kat, *pat)
}

// signKAT returns a token by kak for the session of c.
func signKAT(kak crypto.Signer, c *attestext.Challenge) ([]byte, error) {
	if err := checkKey(c); err != nil {
		return nil, err
	}
	tik, err := x509.ParsePKIXPublicKey(c.SPKI)
	if err != nil {
		return nil, fmt.Errorf("TLS key: %w", err)
	}
	return eat.SignKAT(nil, kak, c.Value(), tik)
}

func checkKey(c *attestext.Challenge) error {
	if len(c.SPKI) == 0 {
		return errors.New("challenge does not say which TLS key is in use")
	}
	return nil
}

// reports is the Source that a Quoter is.
type reports struct{ quoter Quoter }

func (r reports) Formats() []attestext.EvidenceFormat {
	return []attestext.EvidenceFormat{tsm.FormatCBOR, tsm.FormatJSON}
}

func (r reports) Record(ctx context.Context, f attestext.EvidenceFormat, reportData [attestext.ReportDataSize]byte) (*cmw.Record, error) {
	report, err := r.quoter.Report(ctx, reportData)
	if err != nil {
		return nil, err
	}
	encode := report.CBOR
	if f.Equal(tsm.FormatJSON) {
		encode = report.JSON
	}
	value, err := encode()
	if err != nil {
		return nil, err
	}
	return &cmw.Record{Format: f, Value: value, Ind: cmw.Evidence}, nil
}
