package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
)

const inspectUsage = `Usage:
    atls inspect FILE [--json]

Says what is in FILE, or in standard input if it is "-": a TDX quote, a TSM report, a
CMW, a bundle of a KAT and a PAT, or TDX collateral. It verifies nothing: see "atls
help verify".

Examples:
    $ atls inspect pki/evidence.cmw
    $ atls inspect - --json < quote.bin
`

const notVerified = "not verified: this is what it claims"

// Kinds of files.
const (
	kindQuote      = "TDX quote"
	kindReport     = "TSM report"
	kindCMW        = "CMW"
	kindCollateral = "TDX collateral"
)

func runInspect(_ context.Context, env *environment, args []string) error {
	fs := newFlagSet("inspect")
	asJSON := fs.Bool("json", false, "")
	rest, err := parseArgs(fs, args, 1, inspectUsage)
	if err != nil {
		return err
	}
	data, err := env.readArgument(rest[0])
	if err != nil {
		return err
	}
	d, err := detect(data)
	if err != nil {
		return err
	}
	tree := d.tree()
	if *asJSON {
		return (&lineWriter{w: env.stdout}).object(map[string]any{"kind": d.kind, "verified": false, "tree": tree})
	}
	fmt.Fprintln(env.stdout, notVerified)
	tree.print(env.stdout, 0)
	return nil
}

// maxArgument bounds a file that is inspected or verified, in bytes.
const maxArgument = 4 << 20

// readArgument reads the file of that name, or standard input for "-".
func (env *environment) readArgument(name string) ([]byte, error) {
	in := env.stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, usagef("check the path", "%w", err)
		}
		defer file.Close()
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, maxArgument+1))
	if err != nil {
		return nil, usagef("", "%w", err)
	}
	if len(data) > maxArgument {
		return nil, &malformedError{fmt.Errorf("%s has more than %d bytes", name, maxArgument)}
	}
	return data, nil
}

// A document is a file whose kind has been found out. One field is set, beside kind
// and, for a quote or report, data.
type document struct {
	kind       string
	quote      *tdx.Quote
	report     *tsm.Report
	cmw        *cmw.CMW
	collateral *tdx.Collateral
	data       []byte
}

// detect finds out what data is. A parser decides; where none accepts, the error is
// that of the one whose format the first bytes look like.
func detect(data []byte) (*document, error) {
	if len(data) == 0 {
		return nil, &malformedError{errors.New("there is nothing in it")}
	}
	d := &document{data: data}
	var err error
	quote := data
	if n, err := tdx.QuoteSize(data); err == nil && len(bytes.Trim(data[n:], "\x00")) == 0 {
		quote = data[:n] // hosts pad quotes with zeros
	}
	if d.quote, err = tdx.Parse(quote); err == nil {
		d.kind = kindQuote
		return d, nil
	}
	likely := err
	isQuote := len(data) > 4 && data[0] >= 3 && data[0] <= 5 && data[1] == 0
	if d.report, err = tsm.ParseCBOR(data); err == nil {
		d.kind = kindReport
		return d, nil
	}
	text := bytes.TrimSpace(data)
	if d.report, err = tsm.ParseJSON(text); err == nil {
		d.kind = kindReport
		return d, nil
	}
	if d.collateral, err = tdx.ParseCollateral(data); err == nil {
		d.kind = kindCollateral
		return d, nil
	}
	if !isQuote {
		likely = err
	}
	if bytes.Contains(data, []byte(`"tcb_info"`)) {
		return nil, &malformedError{err}
	}
	if utf8.Valid(text) && len(text) > 0 && (text[0] == '[' || text[0] == '{') {
		data = text
	}
	if d.cmw, err = cmw.Parse(data); err == nil {
		d.kind = kindCMW
		return d, nil
	}
	if !isQuote {
		likely = err
	}
	return nil, &malformedError{fmt.Errorf("neither a TDX quote, nor a TSM report, a CMW or TDX collateral: %w", likely)}
}

func (d *document) tree() *node {
	switch d.kind {
	case kindQuote:
		return quoteTree(d.quote)
	case kindReport:
		return reportTree(d.report)
	case kindCollateral:
		return branch(kindCollateral, nil,
			leaf("FMSPC", d.collateral.FMSPC()),
			leaf("next update", d.collateral.NextUpdate().UTC().Format(time.RFC3339)))
	}
	return cmwTree(kindCMW, d.cmw, d.data)
}

func quoteTree(q *tdx.Quote) *node {
	n := branch(kindQuote, fmt.Sprintf("version 4, %d bytes", len(q.Raw())))
	field := func(name string, b []byte) { n.add(leaf(name, hex.EncodeToString(b))) }
	field("TEE_TCB_SVN", q.TeeTcbSvn[:])
	field("MRSEAM", q.MRSEAM[:])
	field("MRSIGNERSEAM", q.MRSIGNERSEAM[:])
	field("SEAMATTRIBUTES", q.SEAMAttributes[:])
	n.add(branch("TDATTRIBUTES", hex.EncodeToString(q.TdAttributes[:]), leaf("debug", q.Debug())))
	field("XFAM", q.XFAM[:])
	field("MRTD", q.MRTD[:])
	field("MRCONFIGID", q.MRConfigID[:])
	field("MROWNER", q.MROwner[:])
	field("MROWNERCONFIG", q.MROwnerConfig[:])
	for i := range q.RTMRs {
		field(fmt.Sprintf("RTMR%d", i), q.RTMRs[i][:])
	}
	field("REPORTDATA", q.ReportData[:])
	chain := branch("PCK certificate chain", nil)
	rest := q.Raw()
	rest = rest[max(0, bytes.Index(rest, []byte("-----BEGIN"))):] // PEM amid other bytes
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			chain.add(branch("certificate", c.Subject.String(),
				leaf("issuer", c.Issuer.String()),
				leaf("valid", c.NotBefore.UTC().Format(time.RFC3339)+" to "+c.NotAfter.UTC().Format(time.RFC3339))))
		}
	}
	n.add(chain)
	return n
}

func reportTree(r *tsm.Report) *node {
	n := branch(kindReport, nil, leaf("provider", r.Provider))
	if r.Provider == tsm.ProviderTDX {
		if q, err := tdx.Parse(r.OutBlob); err != nil {
			n.add(branch("outblob", sizeOf(r.OutBlob), leaf("does not parse", err.Error())))
		} else {
			n.add(branch("outblob", sizeOf(r.OutBlob), quoteTree(q)))
		}
	} else {
		n.add(leaf("outblob", sizeOf(r.OutBlob)))
	}
	if len(r.AuxBlob) > 0 {
		n.add(leaf("auxblob", sizeOf(r.AuxBlob)))
	}
	if r.ServiceProvider != "" {
		n.add(leaf("service_provider", r.ServiceProvider))
	}
	if len(r.ManifestBlob) > 0 {
		n.add(leaf("manifestblob", sizeOf(r.ManifestBlob)))
	}
	return n
}

// cmwTree describes w; encoded is the whole of it, or nil inside another.
func cmwTree(name string, w *cmw.CMW, encoded []byte) *node {
	n := branch(name, w.Form.String())
	if r := w.Record; r != nil {
		n.add(leaf("type", r.Format.String()))
		if r.Ind != 0 {
			n.add(leaf("indicator", r.Ind.String()))
		}
		n.add(valueTree(r))
		return n
	}
	if w.Collection.Type != "" {
		n.add(leaf("collection type", w.Collection.Type))
	}
	for _, e := range w.Collection.Entries {
		n.add(cmwTree(e.Label.String(), e.CMW, nil))
	}
	if encoded != nil && w.Collection.Type == eat.BundleType {
		n.add(bundleTree(encoded))
	}
	return n
}

// valueTree describes what a record holds.
func valueTree(r *cmw.Record) *node {
	n := branch("value", sizeOf(r.Value))
	if tsm.IsReport(r.Format) {
		if report, err := tsm.Parse(r.Format, r.Value); err != nil {
			n.add(leaf("does not parse", err.Error()))
		} else {
			n.add(reportTree(report))
		}
	}
	return n
}

// bundleTree describes the token in a bundle of draft-bft-rats-kat-06.
func bundleTree(encoded []byte) *node {
	n := branch("key attestation token", nil)
	token, pat, err := eat.ParseBundle(encoded)
	if err != nil {
		n.add(leaf("does not parse", err.Error()))
		return n
	}
	kat, err := eat.VerifyKAT(token)
	if err != nil {
		n.add(leaf("its own signature does not verify", err.Error()))
		return n
	}
	n.add(leaf("challenge", hex.EncodeToString(kat.Challenge)),
		leaf("TLS key (SPKI)", hex.EncodeToString(kat.TIK)),
		leaf("signed by", hex.EncodeToString(kat.KAKPub)))
	if q, err := quoteOf(pat.Format, pat.Value); err == nil {
		n.add(leaf("platform evidence covers that key", eat.MatchKAKHash(kat.KAKPub, q.ReportData[:])))
	}
	return n
}

// quoteOf returns the TDX quote in a TSM report.
func quoteOf(f attestext.EvidenceFormat, b []byte) (*tdx.Quote, error) {
	r, err := tsm.Parse(f, b)
	if err != nil {
		return nil, err
	}
	return quoteOfReport(r)
}

func quoteOfReport(r *tsm.Report) (*tdx.Quote, error) {
	if r.Provider != tsm.ProviderTDX {
		return nil, attestext.Errorf(attestext.ErrWrongType, "read TSM report", "provider %q is not supported here", r.Provider)
	}
	return tdx.Parse(r.OutBlob)
}

func sizeOf(b []byte) string { return fmt.Sprintf("%d bytes", len(b)) }
