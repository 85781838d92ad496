package main

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/cmw/signed"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/capture"
)

// Kinds of files.
const (
	kindQuote      = "TDX quote"
	kindSNP        = "SEV-SNP report"
	kindReport     = "TSM report"
	kindTPM        = "TPM quote"
	kindCMW        = "CMW"
	kindSigned     = "signed CMW"
	kindCollateral = "collateral"
	kindEAR        = "EAR"
	kindResults    = "results"
	kindEAT        = "EAT"
	kindCOSE       = "COSE_Sign1"
	kindJWS        = "JWS"
	kindCapture    = "captured handshake"
)

// A document is a file whose kind has been found out. One field is set, beside kind
// and, for a quote or report, data.
type document struct {
	kind       string
	quote      *tdx.Quote
	snp        *sevsnp.Report
	report     *tsm.Report
	tpm        *tpm.Quote
	cmw        *cmw.CMW
	wrapper    *signed.Message
	collateral *verifier.Local // that has collateral and nothing else
	ear        *ear.Claims
	held       []results.Held
	eat        *eat.Token
	signed     *node // what can be shown and not appraised
	handshake  *handshake
	data       []byte
}

// of returns d, which is of that kind.
func (d *document) of(kind string) *document {
	d.kind = kind
	return d
}

// detect finds out what data is. A parser decides; where none accepts, the error is
// that of the one whose format the first bytes look like.
func detect(data []byte) (*document, error) {
	if len(data) == 0 {
		return nil, &malformedError{errors.New("there is nothing in it")}
	}
	d := &document{data: data}
	var err error
	if capture.IsCapture(data) {
		if d.handshake, err = parseHandshake(data); err != nil {
			return nil, &malformedError{err}
		}
		return d.of(kindCapture), nil
	}
	for _, b := range [][]byte{data, bytes.TrimSpace(data)} {
		if !signed.Is(b) {
			continue
		}
		if d.wrapper, err = signed.Parse(b); err == nil {
			d.data = b
			return d.of(kindSigned), nil
		}
	}
	if isToken(data) {
		if d.ear, err = ear.ParseUnverified(bytes.TrimSpace(data)); err == nil {
			return d.of(kindEAR), nil
		}
		if d.eat = parseEAT(bytes.TrimSpace(data)); d.eat != nil {
			d.data = bytes.TrimSpace(data)
			return d.of(kindEAT), nil
		}
		if d.signed = jwsTree(data); d.signed != nil {
			d.signed.add(leaf("no EAR", err.Error()))
			return d.of(kindJWS), nil
		}
	}
	quote := data
	if n, err := tdx.QuoteSize(data); err == nil && len(bytes.Trim(data[n:], "\x00")) == 0 {
		quote = data[:n] // hosts pad quotes with zeros
	}
	if d.quote, err = tdx.Parse(quote); err == nil {
		return d.of(kindQuote), nil
	}
	likely := err
	isQuote := len(data) > 4 && data[0] >= 3 && data[0] <= 5 && data[1] == 0
	if n := sevsnp.ReportSize; len(data) >= n && len(bytes.Trim(data[n:], "\x00")) == 0 {
		if d.snp, err = sevsnp.Parse(data[:n]); err == nil {
			return d.of(kindSNP), nil
		}
		if version := data[:4]; version[0] <= 9 && len(bytes.Trim(version[1:], "\x00")) == 0 {
			likely, isQuote = err, true
		}
	}
	if d.report, err = tsm.ParseCBOR(data); err == nil {
		return d.of(kindReport), nil
	}
	if d.tpm, err = tpm.Parse(data); err == nil {
		return d.of(kindTPM), nil
	}
	text := bytes.TrimSpace(data)
	if d.report, err = tsm.ParseJSON(text); err == nil {
		return d.of(kindReport), nil
	}
	if d.held, err = results.ParseHeld(text); err == nil {
		return d.of(kindResults), nil
	}
	if bytes.HasPrefix(text, []byte("{")) && bytes.Contains(text, []byte(`"results"`)) {
		return nil, &malformedError{err}
	}
	d.collateral = new(verifier.Local)
	if err = d.collateral.SetCollateral(data); err == nil {
		return d.of(kindCollateral), nil
	}
	if bytes.Contains(data, []byte(`"tcb_info"`)) || bytes.Contains(data, []byte(`crls"`)) {
		return nil, &malformedError{err}
	}
	if utf8.Valid(text) && len(text) > 0 && (text[0] == '[' || text[0] == '{') {
		data = text
	}
	if d.cmw, err = cmw.Parse(data); err == nil {
		return d.of(kindCMW), nil
	}
	if d.eat = parseEAT(d.data); d.eat != nil {
		return d.of(kindEAT), nil
	}
	if d.signed = coseTree(d.data); d.signed != nil {
		return d.of(kindCOSE), nil
	}
	if what, where := besideEvidence(text); what != "" {
		return nil, &malformedError{fmt.Errorf("%s is no evidence: it is for %s", what, where)}
	}
	if !isQuote {
		likely = err
	}
	return nil, &malformedError{fmt.Errorf("neither a TDX quote, nor an SEV-SNP report, a TSM report, a TPM quote, a CMW, a token, a capture or collateral: %w", likely)}
}

// besideEvidence says what a file is that is for a flag, and for which one; what is empty
// if it is none that is known.
func besideEvidence(b []byte) (what, where string) {
	if block, _ := pem.Decode(b); block != nil && utf8.Valid(b) { // or it is in a broken quote
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return "a private key", "--key, and for nobody else to see"
		}
		return "PEM that begins with a " + block.Type, "--cert, --ca or --trust-roots"
	}
	if _, err := policy.Parse(b); err == nil {
		return "a policy", "--policy"
	}
	if _, err := results.ParseTrust(b, nil); err == nil {
		return "a file of trusted verifiers", "--trust-roots"
	}
	return "", ""
}
