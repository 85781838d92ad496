package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/cmw/signed"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/epoch"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
)

const inspectUsage = `Usage:
    atls inspect FILE [--json]

Says what is in FILE, or in standard input if it is "-": a TDX quote, an SEV-SNP report,
a TSM report, a TPM quote, a CMW, signed ones included, a bundle of a KAT and a PAT, a
KAT or another EAT, an EAR, a file of results as "atls serve --attest results:FILE" has
it, collateral, or a handshake that "atls dial --capture" has written. It verifies
nothing: see "atls help verify".

Examples:
    $ atls inspect pki/evidence.cmw
    $ atls inspect - --json < quote.bin
`

const notVerified = "not verified: this is what it claims"

func runInspect(ctx context.Context, env *environment, args []string) error {
	fs := newFlagSet("inspect")
	asJSON := fs.Bool("json", false, "")
	rest, err := parseArgs(fs, args, 1, inspectUsage)
	if err != nil {
		return err
	}
	data, err := env.readArgument(ctx, rest[0])
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

// readArgument reads the file of that name, or standard input for "-", until ctx is done:
// a terminal may never end.
func (env *environment) readArgument(ctx context.Context, name string) ([]byte, error) {
	in := env.stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, usagef("check the path", "%w", err)
		}
		defer file.Close()
		in = file
	}
	type content struct {
		data []byte
		err  error
	}
	read := make(chan content, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(in, maxArgument+1))
		read <- content{data, err}
	}()
	var data []byte
	var err error
	select {
	case c := <-read:
		data, err = c.data, c.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, usagef("", "%w", err)
	}
	if len(data) > maxArgument {
		return nil, &malformedError{fmt.Errorf("%s has more than %d bytes", name, maxArgument)}
	}
	return data, nil
}

func (d *document) tree() *node {
	switch d.kind {
	case kindQuote:
		return quoteTree(d.quote)
	case kindSNP:
		return snpTree(d.snp)
	case kindReport:
		return reportTree(d.report)
	case kindTPM:
		return tpmTree(d.tpm)
	case kindSigned:
		return signedTree(kindSigned, d.wrapper)
	case kindCollateral:
		n := branch(kindCollateral, nil)
		if c := d.collateral.TDXCollateral; c != nil {
			b := branch("TDX", nil,
				leaf("FMSPC", c.FMSPC()),
				leaf("next update", c.NextUpdate().UTC().Format(time.RFC3339)))
			for _, l := range c.TCBLevels() {
				b.add(tcbLevelLeaf(&l))
			}
			n.add(b)
		}
		if c := d.collateral.SNPCollateral; c != nil {
			n.add(branch("SEV-SNP", nil, leaf("next update", c.NextUpdate().UTC().Format(time.RFC3339))))
		}
		if c := d.collateral.TPMCollateral; c != nil {
			n.add(branch("TPM", nil, leaf("next update", c.NextUpdate().UTC().Format(time.RFC3339))))
		}
		return n
	case kindEAR:
		return earTree(d.ear)
	case kindResults:
		return heldTree(d.held)
	case kindEAT:
		return eatTree(d.eat)
	case kindCOSE, kindJWS:
		return d.signed
	case kindCapture:
		return d.handshake.tree()
	}
	return cmwTree(kindCMW, d.cmw, d.data)
}

func signedTree(name string, m *signed.Message) *node {
	n := branch(name, m.Form.String(), leaf("algorithm", m.Algorithm))
	if m.KeyID != nil {
		n.add(leaf("key ID", fmt.Sprintf("%q", m.KeyID)))
	}
	n.add(cmwTree(kindCMW, m.CMW, m.Payload))
	return n
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
			chain.add(certificateTree("certificate", c))
		}
	}
	n.add(chain)
	return n
}

func certificateTree(name string, c *x509.Certificate) *node {
	return branch(name, c.Subject.String(),
		leaf("issuer", c.Issuer.String()),
		leaf("valid", c.NotBefore.UTC().Format(time.RFC3339)+" to "+c.NotAfter.UTC().Format(time.RFC3339)))
}

func snpTree(r *sevsnp.Report) *node {
	n := branch(kindSNP, fmt.Sprintf("version %d, %d bytes", r.Version, len(r.Raw())))
	field := func(name string, b []byte) { n.add(leaf(name, hex.EncodeToString(b))) }
	n.add(leaf("GUEST_SVN", r.GuestSVN))
	n.add(branch("POLICY", fmt.Sprintf("%#x", uint64(r.Policy)),
		leaf("debug", r.Policy.Debug()), leaf("migration agent", r.Policy.MigrationAgent()), leaf("SMT", r.Policy.SMT())))
	field("FAMILY_ID", r.FamilyID[:])
	field("IMAGE_ID", r.ImageID[:])
	n.add(leaf("VMPL", r.VMPL), leaf("PLATFORM_INFO", fmt.Sprintf("%#x", r.PlatformInfo)), leaf("SIGNING_KEY", r.SigningKey.String()))
	field("REPORT_DATA", r.ReportData[:])
	field("MEASUREMENT", r.Measurement[:])
	field("HOST_DATA", r.HostData[:])
	field("ID_KEY_DIGEST", r.IDKeyDigest[:])
	if r.AuthorKeyEnabled {
		field("AUTHOR_KEY_DIGEST", r.AuthorKeyDigest[:])
	}
	field("REPORT_ID", r.ReportID[:])
	field("REPORT_ID_MA", r.ReportIDMA[:])
	field("CHIP_ID", r.ChipID[:])
	if r.Family != 0 {
		n.add(leaf("processor", fmt.Sprintf("family %Xh, model %Xh, stepping %d", r.Family, r.Model, r.Stepping)))
	}
	n.add(leaf("REPORTED_TCB", r.ReportedTCB.String()), leaf("CURRENT_TCB", r.CurrentTCB.String()),
		leaf("COMMITTED_TCB", r.CommittedTCB.String()), leaf("LAUNCH_TCB", r.LaunchTCB.String()))
	return n
}

// snpCertificatesTree describes what a host has sent along with a report.
func snpCertificatesTree(b []byte) *node {
	n := branch("auxblob", sizeOf(b))
	c, err := sevsnp.ParseCertificates(b)
	if err != nil {
		n.add(leaf("does not parse", err.Error()))
		return n
	}
	for _, e := range []struct {
		name string
		cert *x509.Certificate
	}{{"VCEK", c.VCEK}, {"VLEK", c.VLEK}, {"ASK", c.ASK}, {"ARK", c.ARK}} {
		if e.cert != nil {
			n.add(certificateTree(e.name, e.cert))
		}
	}
	if c.CRL != nil {
		n.add(branch("revocation list", c.CRL.Issuer.String(), leaf("next update", c.CRL.NextUpdate.UTC().Format(time.RFC3339))))
	}
	return n
}

func reportTree(r *tsm.Report) *node {
	n := branch(kindReport, nil, leaf("provider", r.Provider))
	var inside *node
	var err error
	var q *tdx.Quote
	switch r.Provider {
	case tsm.ProviderTDX:
		if q, err = tdx.Parse(r.OutBlob); err == nil {
			inside = quoteTree(q)
		}
	case tsm.ProviderSNP:
		var s *sevsnp.Report
		if s, err = sevsnp.Parse(r.OutBlob); err == nil {
			inside = snpTree(s)
		}
	}
	switch {
	case err != nil:
		n.add(branch("outblob", sizeOf(r.OutBlob), leaf("does not parse", err.Error())))
	case inside != nil:
		n.add(branch("outblob", sizeOf(r.OutBlob), inside))
	default:
		n.add(leaf("outblob", sizeOf(r.OutBlob)))
	}
	switch {
	case len(r.AuxBlob) == 0:
	case r.Provider == tsm.ProviderSNP:
		n.add(snpCertificatesTree(r.AuxBlob))
	case inside != nil && q != nil:
		n.add(eventLogTree(r.AuxBlob, q.RTMRs))
	default:
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
		return n
	}
	if isToken(r.Value) {
		if c, err := ear.ParseUnverified(r.Value); err == nil {
			n.add(earTree(c))
		} else if t := parseEAT(r.Value); t != nil {
			n.add(eatTree(t))
		} else if t := jwsTree(r.Value); t != nil {
			n.add(t)
		}
	} else if t := parseEAT(r.Value); t != nil {
		n.add(eatTree(t))
	} else if t := coseTree(r.Value); t != nil {
		n.add(t)
	}
	if r.Format.Equal(tpm.Format) {
		if q, err := tpm.Parse(r.Value); err != nil {
			n.add(leaf("does not parse", err.Error()))
		} else {
			n.add(tpmTree(q))
		}
	}
	return n
}

// bundleTree describes the token in a bundle of draft-bft-rats-kat-06.
func bundleTree(encoded []byte) *node {
	n := branch("key attestation token", nil)
	bundle, err := eat.OpenBundle(encoded)
	if err != nil {
		n.add(leaf("does not parse", err.Error()))
		return n
	}
	token, pat := bundle.KAT, bundle.PAT
	kat, err := eat.VerifyKAT(token)
	if err != nil {
		n.add(leaf("its own signature does not verify", err.Error()))
		return n
	}
	n.add(leaf("challenge", hex.EncodeToString(kat.Challenge)),
		leaf("TLS key (SPKI)", hex.EncodeToString(kat.TIK)),
		leaf("signed by", hex.EncodeToString(kat.KAKPub)))
	if isAbout, err := verifier.ClaimedAbout(pat.Format, pat.Value); err == nil {
		freshness, covers := eat.FreshnessOf(kat.KAKPub, isAbout, kat.Challenge, bundle.Epoch)
		n.add(leaf("platform evidence covers that key", covers))
		if covers {
			n.add(leaf("platform evidence was made for", madeFor[freshness]))
		}
		if covers && freshness == eat.ForEpoch {
			n.add(epochLeaf(bundle.Epoch))
		}
	}
	return n
}

// epochLeaf says how old platform evidence is at most, by the word of an epoch ID whose
// issuer nobody has looked for.
func epochLeaf(id []byte) *node {
	began, err := epoch.Claimed(id)
	if err != nil {
		return leaf("epoch ID of another kind", err.Error())
	}
	return leaf("epoch began, by its own word", fmt.Sprintf("%s, %v ago", began.UTC().Format(time.RFC3339), time.Since(began).Round(time.Second)))
}

var madeFor = map[eat.Freshness]string{
	eat.Undated:    "nothing that dates it (tier unknown)",
	eat.ForSession: "the session of that challenge (fresh quote)",
	eat.ForEpoch:   "the epoch of the ID beside it (key tier)",
}

func sizeOf(b []byte) string { return fmt.Sprintf("%d bytes", len(b)) }
