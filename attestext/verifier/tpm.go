package verifier

import (
	"encoding/hex"
	"strconv"

	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/tpm"
)

// tpmMachineScheme begins the identity of a machine by its TPM: the SHA-256 of the
// endorsement key follows in hexadecimal. tpmKeyScheme is that of one whose attestation
// key is certified and not enrolled, so that nobody has said which TPM it is in; the
// SHA-256 of that key follows.
const (
	tpmMachineScheme = "tpm-ek:"
	tpmKeyScheme     = "tpm-ak:"
)

// VerifyTPM is [Local.Verify] for a TPM quote.
func (l *Local) VerifyTPM(q *tpm.Quote) (*Verified, error) {
	v, err := tpm.Verify(q, &tpm.VerifyOptions{
		Trust: l.TPM, Collateral: l.TPMCollateral, InsecureSkipCollateral: l.Policy.SkipTPMCollateral(), Now: l.now(),
	})
	if err != nil {
		return nil, err
	}
	e := &Verified{hashed: true, isAbout: v.IsAbout, claims: tpmClaims(v)}
	e.evaluate = func() (*policy.Decision, error) { return l.Policy.EvaluateTPM(v) }
	if id := v.EK(); len(id) != 0 {
		e.machine = tpmMachineScheme + hex.EncodeToString(id)
	} else {
		id := v.AK()
		e.machine = tpmKeyScheme + hex.EncodeToString(id[:])
	}
	return e, nil
}

// tpmClaims names what a quote says. Digests and identities are in hexadecimal.
func tpmClaims(v *tpm.Verified) map[string]any {
	q := v.Quote()
	banks := map[string]any{}
	for _, r := range q.PCRs {
		bank, _ := banks[r.Bank.String()].(map[string]any)
		if bank == nil {
			bank = map[string]any{}
			banks[r.Bank.String()] = bank
		}
		bank[strconv.Itoa(r.Index)] = hex.EncodeToString(r.Value)
	}
	claims := map[string]any{
		"tee":          "tpm",
		"pcrs":         banks,
		"ak_name":      hex.EncodeToString(v.AKName()),
		"ak_certified": v.Certified(),
		"ek_id":        hex.EncodeToString(v.EK()),
		"clock_safe":   q.Safe,
	}
	if v.Certified() {
		claims["collateral_checked"] = v.CollateralChecked()
	}
	if firmware, ok := v.FirmwareVersion(); ok {
		resets, _ := v.ResetCount()
		claims["firmware_version"] = policy.FirmwareVersion(firmware).String()
		claims["reset_count"] = resets
		claims["restart_count"] = q.RestartCount
	}
	return claims
}
