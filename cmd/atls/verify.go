package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/cmw/signed"
	"github.com/attestedtls/atls/attestext/collateral"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
)

const verifyUsage = `Usage:
    atls verify FILE [FLAGS]
    atls verify --print-policy-schema

Appraises the evidence in FILE, or in standard input if it is "-": a TDX quote, an
SEV-SNP report, a TSM report with the one or the other, a TPM quote, an EAT, a CMW,
signed or not, that holds one or a bundle of a KAT and a PAT, an EAR, a file of them as
--attest results:FILE has it, or a handshake that "atls dial --capture" has written. It
goes to no network but that of --collateral-endpoint.

Examples:
    $ atls verify quote.bin --collateral collateral.json --policy policy.json
    $ atls verify pki/evidence.cmw --trust-roots pki/trust-roots.pem \
        --collateral pki/collateral.json --policy pki/policy.json
    $ atls verify quote.bin --insecure-skip-collateral --at 2023-07-01T01:00:00Z

Flags:
    --trust-roots FILE             roots of the TEE in PEM (default Intel's and AMD's);
                                   one file may hold those of both, and blocks PUBLIC
                                   KEY of who signs wrappers and EAT PUBLIC KEY of who
                                   signs EATs. For an EAR, the key of its verifier,
                                   in PEM or as a JWK, or trusted verifiers in JSON
    --collateral FILE              what the manufacturer says of its platforms, JSON;
                                   what is AMD's, revocation lists and certificates
                                   of chips, is in the member "snp", and revocation
                                   lists of TPMs in "tpm"
    --collateral-endpoint WHERE    fetch what is not in it: the URL of a service like
                                   Intel's PCS and AMD's KDS, or a JSON file
    --insecure-skip-collateral     do without: revoked and vulnerable platforms pass
    --policy FILE                  what is acceptable; without one, any genuine and
                                   current TEE, with the verdict "warning"
    --at TIME                      when it must be valid, RFC 3339 (default now)
    --json                         one JSON object on standard output
    --print-policy-schema          print the JSON Schema of policies, for editors and other
                                   programs, and do nothing else

What the evidence must be bound to; without it, evidence that somebody has recorded
passes, and the output says so:
    --report-data HEX              the 64 bytes of the quote's REPORTDATA
    --nonce HEX, --binder HEX      the challenge of a handshake, with
    --spki FILE                    the peer's certificate or public key in PEM,
    --role client|server           who attested (default server), and
    --binding hardened|draft-08    the rule (default hardened)
    --credential KIND              x509 (default) or attestation-only
`

type verifyFlags struct {
	trustRoots, collateral, policy, at    string
	collateralEndpoint                    string
	skipCollateral, json                  bool
	reportData, nonce, binder, spki, role string
	binding, credential                   string
}

func (f *verifyFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&f.trustRoots, "trust-roots", "", "")
	fs.StringVar(&f.collateral, "collateral", "", "")
	fs.StringVar(&f.collateralEndpoint, "collateral-endpoint", "", "")
	fs.BoolVar(&f.skipCollateral, "insecure-skip-collateral", false, "")
	fs.StringVar(&f.policy, "policy", "", "")
	fs.StringVar(&f.at, "at", "", "")
	fs.BoolVar(&f.json, "json", false, "")
	fs.StringVar(&f.reportData, "report-data", "", "")
	fs.StringVar(&f.nonce, "nonce", "", "")
	fs.StringVar(&f.binder, "binder", "", "")
	fs.StringVar(&f.spki, "spki", "", "")
	fs.StringVar(&f.role, "role", "server", "")
	fs.StringVar(&f.binding, "binding", "hardened", "")
	fs.StringVar(&f.credential, "credential", "x509", "")
}

func runVerify(ctx context.Context, env *environment, args []string) error {
	var f verifyFlags
	fs := newFlagSet("verify")
	f.register(fs)
	schema := fs.Bool("print-policy-schema", false, "")
	rest, err := parseOptional(fs, args, 1, verifyUsage)
	switch {
	case err != nil:
		return err
	case *schema && (fs.NFlag() > 1 || len(rest) > 0):
		return usagef("", "--print-policy-schema goes with nothing else")
	case *schema:
		_, err := env.stdout.Write(policy.Schema())
		return err
	case len(rest) == 0:
		return wrongCount(fs, 1, rest)
	}
	if f.nonce+f.binder+f.spki == "" {
		for _, name := range []string{"role", "binding", "credential"} {
			if isSet(fs, name) {
				return usagef("it is about a challenge: --nonce, --binder and --spki", "--%s has no effect here, and the evidence would not be held to it", name)
			}
		}
	}
	data, err := env.readArgument(ctx, rest[0])
	if err != nil {
		return err
	}
	d, err := detect(data)
	if err != nil {
		return err
	}
	if d.isResult() && d.kind != kindCapture && (f.policy+f.collateral+f.collateralEndpoint != "" || f.skipCollateral) {
		return usagef("its verifier has judged: --trust-roots says whose word counts", "--policy, --collateral, --collateral-endpoint and --insecure-skip-collateral have no effect on a result")
	}
	a, err := f.appraiser(d.isResult())
	if err != nil {
		return err
	}
	defer a.close()
	if d.kind == kindCollateral {
		return &malformedError{fmt.Errorf("%s is no evidence: hand it over with --collateral", d.kind)}
	}
	o := &outcome{bound: a.challenge != nil || a.reportData != nil}
	if o.err = a.appraise(ctx, d, o); o.err != nil {
		o.verdict = refusedVerdict(o.err)
	}
	if !f.json {
		d.tree().print(env.stdout, 0)
		o.text(env)
	} else if err := (&lineWriter{w: env.stdout}).object(o.object(d)); err != nil {
		return err
	}
	if o.err != nil {
		env.printError(o.err)
		return &reportedError{o.err}
	}
	return nil
}

// An appraiser is a verifier, and what evidence must be bound to: one of challenge
// and reportData, or neither.
type appraiser struct {
	local      *verifier.Local
	trust      []results.Trust // in verifiers of EARs; without an identity, in the keys of any
	challenge  *attestext.Challenge
	reportData []byte
	source     *collateral.Source // nil where nothing is fetched
}

func (a *appraiser) close() {
	if a.source != nil {
		a.source.Close()
	}
}

func (f *verifyFlags) appraiser(result bool) (*appraiser, error) {
	var trust []results.Trust
	roots := f.trustRoots
	if result && roots != "" {
		var err error
		if trust, err = resultTrust(roots); err != nil {
			return nil, err
		}
		roots = ""
	}
	local, err := localVerifier(roots, f.collateral, f.policy)
	if err != nil {
		return nil, err
	}
	a := &appraiser{local: local, trust: trust}
	if f.skipCollateral {
		switch {
		case f.collateral+f.collateralEndpoint != "":
			return nil, usagef("give one of them", "--collateral or --collateral-endpoint, and --insecure-skip-collateral")
		case local.Policy == nil:
			local.Policy = &policy.Policy{TDX: &policy.TDXPolicy{}, SNP: &policy.SNPPolicy{}, TPM: &policy.TPMPolicy{}, EAT: &policy.EATPolicy{}}
		}
		if local.Policy.TDX != nil {
			local.Policy.TDX.InsecureSkipCollateral = true
		}
		if local.Policy.SNP != nil {
			local.Policy.SNP.InsecureSkipCollateral = true
		}
		if local.Policy.TPM != nil {
			local.Policy.TPM.InsecureSkipCollateral = true
		}
	}
	if f.at != "" {
		at, err := time.Parse(time.RFC3339, f.at)
		if err != nil {
			return nil, usagef("for example 2026-01-31T12:00:00Z", "--at: %w", err)
		}
		local.Now = func() time.Time { return at }
	}
	if f.collateralEndpoint != "" {
		if a.source, _, err = addSource(local, f.collateralEndpoint); err != nil {
			return nil, err
		}
	}
	if f.reportData != "" {
		if f.nonce+f.binder+f.spki != "" {
			return nil, usagef("the challenge says what the report data must be", "--report-data goes with neither --nonce, --binder nor --spki")
		}
		a.reportData, err = hex.DecodeString(f.reportData)
		if err != nil || len(a.reportData) != attestext.ReportDataSize {
			return nil, usagef("128 hexadecimal digits", "--report-data is not %d bytes", attestext.ReportDataSize)
		}
		return a, nil
	}
	if f.nonce+f.binder+f.spki == "" {
		return a, nil
	}
	a.challenge, err = f.challenge()
	return a, err
}

// challenge makes the challenge that the flags describe.
func (f *verifyFlags) challenge() (*attestext.Challenge, error) {
	c := &attestext.Challenge{}
	var err error
	if c.Nonce, err = hex.DecodeString(f.nonce); err != nil {
		return nil, usagef("", "--nonce: %w", err)
	}
	if f.binder != "" {
		if c.Binder, err = hex.DecodeString(f.binder); err != nil {
			return nil, usagef("", "--binder: %w", err)
		}
	}
	switch f.role {
	case "server":
		c.Role = attestext.RoleServer
	case "client":
		c.Role = attestext.RoleClient
	default:
		return nil, usagef("it can be client or server", "--role cannot be %q", f.role)
	}
	shared := &connFlags{binding: f.binding, credential: f.credential, mode: "tls-attest", carriage: "auto", timeout: 1, allowAttestationOnly: true}
	if err := shared.check(); err != nil {
		return nil, err
	}
	c.Binding, c.Kind = shared.bindingRule(), shared.kind()
	if f.spki != "" {
		if c.SPKI, err = readSPKI(f.spki); err != nil {
			return nil, err
		}
	}
	if err := c.Validate(); err != nil {
		return nil, usagef("give --nonce, --binder and --spki of the same handshake", "%w", err)
	}
	return c, nil
}

// readSPKI reads the public key in a PEM file: of a certificate, or by itself.
func readSPKI(path string) ([]byte, error) {
	b, err := readFile("spki", path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, &malformedError{fmt.Errorf("--spki: no PEM in %s", path)}
	}
	if block.Type == "PUBLIC KEY" {
		return block.Bytes, nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, &malformedError{fmt.Errorf("--spki: %w", err)}
	}
	return cert.RawSubjectPublicKeyInfo, nil
}

// An outcome is what was found about evidence.
type outcome struct {
	bound   bool
	err     error
	verdict string
	reasons []string
	claims  map[string]any // what verified evidence says, where there is some
	ear     map[string]any // the verdict in the shape of an EAR's appraisal
}

// appraise appraises d and notes verdict and reasons in o.
func (a *appraiser) appraise(ctx context.Context, d *document, o *outcome) error {
	switch {
	case d.kind == kindCapture:
		return a.appraiseHandshake(ctx, d.handshake, o)
	case d.kind == kindResults:
		return a.appraiseHeld(d.held, o)
	case d.isResult():
		return a.appraiseResult(d.data, "", nil, o)
	case d.signed != nil:
		return attestext.Errorf(attestext.ErrWrongType, "appraise evidence", "a %s by itself does not say on which platform it was made", d.kind)
	case d.kind == kindEAT:
		record := &cmw.Record{Format: d.eat.Format(), Value: d.data}
		b, err := record.CBOR()
		if err != nil {
			return err
		}
		d = &document{kind: kindCMW, cmw: &cmw.CMW{Form: cmw.CBORRecord, Record: record}, data: b}
	}
	if a.challenge != nil && d.kind == kindCMW {
		return a.appraiseBound(ctx, d.data, o)
	}
	if d.kind == kindSigned {
		v, err := signed.Verify(d.data, a.local.WrapperKeys)
		switch {
		case err != nil:
			return err
		case a.challenge != nil:
			return a.appraiseBound(ctx, d.data, o)
		}
		d = &document{kind: kindCMW, cmw: d.wrapper.CMW, data: v.Payload()}
	}
	if d.kind == kindCMW && a.reportData != nil {
		const hint = "give the challenge, with --nonce, --binder and --spki"
		if d.cmw.Collection != nil {
			return usagef(hint, "--report-data is for a report, and this is a bundle, whose report data is the same for every session")
		}
		if eat.IsToken(d.cmw.Record.Format) {
			return usagef(hint, "--report-data is for a report, and this is an EAT, which has a nonce")
		}
	}
	if a.challenge != nil && a.challenge.Kind == attestext.AttestationOnly {
		return attestext.Errorf(attestext.ErrWrongType, "check binding", "a report by itself names no key; attestation-only wants it in a bundle")
	}
	v, err := a.verified(d)
	if err != nil {
		return err
	}
	want := a.reportData
	if a.challenge != nil {
		rd, err := a.challenge.ReportData()
		if err != nil {
			return &attestext.Error{Class: attestext.ErrBinding, Op: "check binding", Err: err}
		}
		want = rd[:]
	}
	if want != nil && !v.IsAbout([attestext.ReportDataSize]byte(want)) {
		return attestext.Errorf(attestext.ErrBinding, "check binding", "report data is %x, want %x", v.ReportData, want)
	}
	o.claims = v.Claims()
	decision, err := v.Evaluate()
	o.verdict = decision.Verdict.String()
	for _, r := range decision.Reasons {
		o.reasons = append(o.reasons, r.String())
	}
	o.ear = decision.EAR()
	return err
}

// appraiseBound appraises a wrapper as the relying party of a handshake does.
func (a *appraiser) appraiseBound(ctx context.Context, encoded []byte, o *outcome) error {
	ev := &attestext.Evidence{
		Type: attestext.EvidenceType{Kind: a.challenge.Kind, Format: attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatCMWCBOR}},
		CMW:  encoded,
	}
	r, err := attestext.Appraise(ctx, time.Minute, a.local, ev, a.challenge)
	if refused, ok := errors.AsType[*policy.RefusedError](err); ok {
		o.ear = refused.Decision.EAR()
	}
	if err != nil {
		return err
	}
	o.verdict = r.Verdict()
	o.reasons, _ = r.Claims()["reasons"].([]string)
	o.ear, _ = r.Claims()["ear"].(map[string]any)
	o.claims = evidenceClaims(r.Claims())
	return nil
}

// isResult reports whether d is an Attestation Result, or a handshake with one.
func (d *document) isResult() bool {
	switch d.kind {
	case kindEAR, kindResults:
		return true
	case kindCMW:
		_, _, err := ear.Unwrap(d.data)
		return err == nil
	case kindCapture:
		for _, c := range d.handshake.sent {
			if c.passport {
				return true
			}
		}
	}
	return false
}

// verified verifies the report or quote in d. Of a bundle, the token's signature is
// checked, and that the platform's evidence covers its key.
func (a *appraiser) verified(d *document) (*verifier.Verified, error) {
	switch d.kind {
	case kindQuote:
		return a.local.Verify(&tsm.Report{Provider: tsm.ProviderTDX, OutBlob: d.quote.Raw()})
	case kindSNP:
		return a.local.Verify(&tsm.Report{Provider: tsm.ProviderSNP, OutBlob: d.snp.Raw()})
	case kindReport:
		return a.local.Verify(d.report)
	case kindTPM:
		return a.local.VerifyTPM(d.tpm)
	}
	if d.cmw.Form != cmw.CBORCollection || d.cmw.Collection.Type != eat.BundleType {
		format, value, err := d.cmw.Evidence()
		if err != nil {
			return nil, err
		}
		return a.local.VerifyEvidence(format, value)
	}
	bundle, err := eat.OpenBundle(d.data)
	if err != nil {
		return nil, err
	}
	token, pat := bundle.KAT, bundle.PAT
	kat, err := eat.VerifyKAT(token)
	if err != nil {
		return nil, err
	}
	isAbout, err := verifier.ClaimedAbout(pat.Format, pat.Value)
	if err != nil {
		return nil, err
	}
	if _, covers := eat.FreshnessOf(kat.KAKPub, isAbout, kat.Challenge, bundle.Epoch); !covers {
		return nil, attestext.Errorf(attestext.ErrBinding, "check binding", "platform evidence does not cover the key that signed the key attestation")
	}
	return a.local.VerifyEvidence(pat.Format, pat.Value)
}

const notBound = "NOT CHECKED: freshness and binding. Nobody said what the evidence must be bound to, so anybody may have recorded it earlier"

func (o *outcome) text(env *environment) {
	fmt.Fprintln(env.stdout)
	for _, r := range o.reasons {
		fmt.Fprintf(env.stdout, "  %s\n", r)
	}
	for _, line := range tcbLines(o.claims) {
		fmt.Fprintf(env.stdout, "  %s\n", line)
	}
	switch {
	case !o.bound:
		fmt.Fprintf(env.stdout, "%s\n", notBound)
	case o.err == nil:
		fmt.Fprintln(env.stdout, "binding: as expected")
	}
	if o.err != nil {
		fmt.Fprintf(env.stdout, "verdict: refused (%s)\nbecause: %s\n", o.verdict, printable(o.err))
	} else {
		fmt.Fprintf(env.stdout, "verdict: %s\n", o.verdict)
	}
}

func (o *outcome) object(d *document) map[string]any {
	object := map[string]any{
		"ok": o.err == nil, "error": nil, "kind": d.kind, "verdict": o.verdict,
		"binding_checked": o.bound, "reasons": o.reasons, "claims": o.claims, "ear": nil, "tree": d.tree(),
	}
	if o.ear != nil {
		object["ear"] = o.ear
	}
	if o.reasons == nil {
		object["reasons"] = []string{}
	}
	if o.err != nil {
		object["error"] = o.err.Error()
	}
	return object
}
