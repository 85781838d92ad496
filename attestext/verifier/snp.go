package verifier

import (
	"encoding/hex"
	"errors"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tsm"
)

// snpMachineScheme begins the identity of an SEV-SNP platform: its chip ID follows in
// hexadecimal. A platform that masks it has none.
const snpMachineScheme = "snp-chip:"

var errNoSNPRoots = errors.New("no roots for SEV-SNP are trusted, while there are some for another TEE")

func (l *Local) verifySNP(r *tsm.Report, now time.Time) (*Verified, error) {
	report, err := sevsnp.Parse(r.OutBlob)
	if err != nil {
		return nil, err
	}
	certs, err := sevsnp.ParseCertificates(r.AuxBlob)
	if err != nil {
		return nil, err
	}
	if l.SNPRoots == nil && (l.TDXRoots != nil || l.trustsOthers()) {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opAppraise, Err: errNoSNPRoots}
	}
	v, err := l.verifyReport(report, certs, now)
	if err != nil {
		return nil, err
	}
	e := &Verified{ReportData: v.ReportData(), claims: snpClaims(v)}
	e.evaluate = func() (*policy.Decision, error) {
		d, _ := l.Policy.EvaluateSNP(v)
		return d, l.Policy.EvaluateSNPCollateral(d, v.CollateralIssued(), now)
	}
	if id := v.ChipID(); len(id) != 0 {
		e.machine = snpMachineScheme + hex.EncodeToString(id)
	}
	return e, nil
}

// snpClaims names what a report says. Digests and identities are in hexadecimal.
func snpClaims(v *sevsnp.Verified) map[string]any {
	r := v.Report()
	tcb := func(t sevsnp.TCB) map[string]any {
		return map[string]any{"bootloader": t.Bootloader, "tee": t.TEE, "snp": t.SNP, "microcode": t.Microcode}
	}
	authorKey := v.AuthorKeyDigest()
	return map[string]any{
		"tee":                "snp",
		"measurement":        hex.EncodeToString(r.Measurement[:]),
		"host_data":          hex.EncodeToString(r.HostData[:]),
		"id_key_digest":      hex.EncodeToString(r.IDKeyDigest[:]),
		"author_key_digest":  hex.EncodeToString(authorKey[:]),
		"family_id":          hex.EncodeToString(r.FamilyID[:]),
		"image_id":           hex.EncodeToString(r.ImageID[:]),
		"guest_svn":          r.GuestSVN,
		"vmpl":               r.VMPL,
		"debug":              r.Policy.Debug(),
		"migration_agent":    r.Policy.MigrationAgent(),
		"smt":                r.Policy.SMT(),
		"signing_key":        r.SigningKey.String(),
		"csp_id":             v.CSPID(),
		"product_line":       v.ProductLine(),
		"chip_id":            hex.EncodeToString(v.ChipID()),
		"reported_tcb":       tcb(r.ReportedTCB),
		"current_tcb":        tcb(r.CurrentTCB),
		"committed_tcb":      tcb(r.CommittedTCB),
		"launch_tcb":         tcb(r.LaunchTCB),
		"collateral_checked": v.CollateralChecked(),
	}
}
