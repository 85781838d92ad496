package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/attestext/tpmdevice"
	"github.com/attestedtls/atls/attestext/verifier"
)

// isTPM reports whether --attest names a TPM.
func isTPM(attest string) bool {
	return attest == "tpm" || strings.HasPrefix(attest, "tpm:")
}

func (f *connFlags) attestsByTPM() bool {
	return isTPM(f.attest) || isTPM(f.refreshWith)
}

// openTPM opens the TPM at path.
func (f *connFlags) openTPM(s *setup, path string, formats []attestext.EvidenceFormat) (attestext.Attester, error) {
	opts := &tpmdevice.Options{}
	if f.akChain != "" {
		b, err := readFile("ak-chain", f.akChain)
		if err != nil {
			return nil, err
		}
		certs, err := certificates(b)
		if err != nil {
			return nil, &malformedError{fmt.Errorf("--ak-chain: %s: %w", f.akChain, err)}
		}
		for _, c := range certs {
			opts.Chain = append(opts.Chain, c.Raw)
		}
	}
	d, err := tpmdevice.Open(path, opts)
	if err != nil {
		return nil, usagef("softtee:tdx and softtee:snp need no TPM, and prove nothing; swtpm is a TPM in software", "--attest %s: %w", f.attest, err)
	}
	s.closers = append(s.closers, d)
	if f.keyTier == 0 {
		return f.narrowed(attester.NewSource(d), formats)
	}
	return f.tiered(s, formats, func(o *attester.KeyTierOptions) (*attester.KeyTier, error) { return attester.NewKeyTierSource(d, o) })
}

// certificates returns the certificates in PEM, of which there must be one.
func certificates(b []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("no certificate")
	}
	return certs, nil
}

func tpmTree(q *tpm.Quote) *node {
	n := branch(kindTPM, sizeOf(q.Raw()))
	field := func(to *node, name string, b []byte) { to.add(leaf(name, hex.EncodeToString(b))) }
	field(n, "extraData", q.ExtraData)
	for bank, registers := range pcrsByBank(q) {
		b := branch("PCRs", bank.String())
		for _, r := range registers {
			field(b, fmt.Sprint(r.Index), r.Value)
		}
		n.add(b)
	}
	n.add(leaf("PCR values are those quoted", q.DigestMatches()),
		leaf("clock", fmt.Sprintf("%d ms, safe: %v", q.Clock, q.Safe)),
		leaf("resetCount", q.ResetCount), leaf("restartCount", q.RestartCount),
		leaf("firmwareVersion", fmt.Sprintf("%016x", q.FirmwareVersion)))
	field(n, "qualifiedSigner", q.QualifiedSigner)
	key := branch("attestation key", nil)
	field(key, "name", q.AK.Name)
	key.add(leaf("attributes", fmt.Sprintf("%#x", uint32(q.AK.Attributes))))
	for _, c := range q.Chain {
		key.add(certificateTree("certificate", c))
	}
	n.add(key)
	return n
}

// pcrsByBank yields the registers of each bank, in the order of the quote.
func pcrsByBank(q *tpm.Quote) func(func(tpm.Bank, []tpm.PCR) bool) {
	return func(yield func(tpm.Bank, []tpm.PCR) bool) {
		for i := 0; i < len(q.PCRs); {
			j := i
			for j < len(q.PCRs) && q.PCRs[j].Bank == q.PCRs[i].Bank {
				j++
			}
			if !yield(q.PCRs[i].Bank, q.PCRs[i:j]) {
				return
			}
			i = j
		}
	}
}

const tpmEnrollUsage = `Usage:
    atls tpm-enroll [--tpm PATH] [--ek-roots FILE --collateral FILE] [--ek-id HEX]
        [--insecure-any-ek]

Has the attestation key of this machine's TPM enrolled: finds out that it is in the TPM
of an endorsement key that is trusted, and prints it as relying parties take it, with
--trust-roots. One file may hold many, beside roots.

Examples:
    # atls tpm-enroll --ek-roots manufacturers.pem --collateral crls.json > machine.pem
    # atls serve --cert cert.pem --key key.pem --attest tpm
    $ atls dial machine.example:4433 --verify local --trust-roots machine.pem --policy policy.json

Flags:
    --tpm PATH           device, or socket of swtpm (default ` + tpmdevice.DefaultPath + `)
    --ek-roots FILE      roots, and authorities below them, of the certificates of
                         endorsement keys, in PEM; the TPM holds its own certificate
    --collateral FILE    which of those certificates are revoked: JSON, {"tpm": {"crls":
                         "PEM"}} with the revocation list of each of these authorities
    --insecure-skip-collateral
                         do without: TPMs whose certificates were revoked pass
    --ek-id HEX          the endorsement key that it must be: the SHA-256 of its
                         SubjectPublicKeyInfo
    --insecure-any-ek    accept any. A program can pass for a TPM: only where you know
                         what is behind --tpm
    --json               one JSON object on standard output
`

func runTPMEnroll(ctx context.Context, env *environment, args []string) error {
	fs := newFlagSet("tpm-enroll")
	path := fs.String("tpm", "", "")
	rootsFile := fs.String("ek-roots", "", "")
	id := fs.String("ek-id", "", "")
	anyEK := fs.Bool("insecure-any-ek", false, "")
	collateral := fs.String("collateral", "", "")
	skipCollateral := fs.Bool("insecure-skip-collateral", false, "")
	asJSON := fs.Bool("json", false, "")
	if _, err := parseArgs(fs, args, 0, tpmEnrollUsage); err != nil {
		return err
	}
	switch {
	case *collateral != "" && *skipCollateral:
		return usagef("give one of them", "--collateral and --insecure-skip-collateral")
	case (*collateral != "" || *skipCollateral) && *rootsFile == "":
		return usagef("it is about certificates, and no other key is looked up in it", "--collateral and --insecure-skip-collateral have no effect without --ek-roots")
	}
	var local verifier.Local
	if err := readCollateral(&local, *collateral); err != nil {
		return err
	}
	trust := &tpm.EKTrust{InsecureAny: *anyEK, Collateral: local.TPMCollateral, InsecureSkipCollateral: *skipCollateral}
	var authorities [][]byte
	if *rootsFile != "" {
		b, err := readFile("ek-roots", *rootsFile)
		if err != nil {
			return err
		}
		certs, err := certificates(b)
		if err != nil {
			return &malformedError{fmt.Errorf("--ek-roots: %s: %w", *rootsFile, err)}
		}
		trust.Roots = x509.NewCertPool()
		for _, c := range certs {
			if c.CheckSignatureFrom(c) == nil {
				trust.Roots.AddCert(c)
			} else {
				authorities = append(authorities, c.Raw)
			}
		}
	}
	if *id != "" {
		b, err := hex.DecodeString(*id)
		if err != nil || len(b) != tpm.IDSize {
			return usagef("", "--ek-id is not %d hexadecimal digits", 2*tpm.IDSize)
		}
		trust.IDs = append(trust.IDs, tpm.EKID(b))
	}
	if trust.Roots == nil && trust.IDs == nil && !*anyEK {
		return usagef("--ek-roots, --ek-id or --insecure-any-ek says so", "nothing says which endorsement key to trust")
	}
	d, err := tpmdevice.Open(*path, nil)
	if err != nil {
		return usagef("--tpm names another one", "%w", err)
	}
	defer d.Close()
	req, err := d.EnrolRequest(ctx)
	if err != nil {
		return err
	}
	if req.EKChain != nil {
		req.EKChain = append(req.EKChain, authorities[:min(len(authorities), tpm.MaxChain-1)]...)
	}
	e, c, err := tpm.NewEnrolment(req, trust)
	if err != nil {
		return err
	}
	secret, err := d.Activate(ctx, c)
	if err != nil {
		return err
	}
	k, err := e.Finish(secret)
	if err != nil {
		return err
	}
	if *asJSON {
		return (&lineWriter{w: env.stdout}).object(map[string]any{"ok": true, "ek_id": k.EK.String(), "ak_name": hex.EncodeToString(k.Name), "pem": string(k.MarshalPEM())})
	}
	fmt.Fprintf(env.stdout, "Attestation key %x\nin the TPM of the endorsement key %v:\n\n%s", k.Name, k.EK, k.MarshalPEM())
	return nil
}
