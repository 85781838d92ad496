package policy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// A TPMPolicy says which machines with a TPM are acceptable. What is nil is not
// compared; an empty list accepts nothing.
type TPMPolicy struct {
	// PCRs are the values that each register may have, by bank ("sha256", "sha384" or
	// "sha512") and index in decimal. A register that the quote is not about is
	// refused, so that a peer cannot choose what it is judged by.
	PCRs map[string]map[string][]PCRValue `json:"pcrs,omitempty"`

	// FirmwareVersions are what the TPM's own firmware may be, as its manufacturer
	// numbers it.
	FirmwareVersions []FirmwareVersion `json:"firmware_versions,omitempty"`

	// ResetCount is how often the TPM has been booted: with it, evidence is refused
	// once the machine has booted anew.
	ResetCount *uint32 `json:"reset_count,omitempty"`

	// EKIDs are the machines that are acceptable, by endorsement key, and DenyEKIDs those
	// that are not. A key that is certified and not enrolled says nothing of its machine,
	// and either refuses it.
	EKIDs     []EKID `json:"ek_ids,omitempty"`
	DenyEKIDs []EKID `json:"deny_ek_ids,omitempty"`

	// InsecureSkipCollateral accepts keys that are certified and whose revocation could
	// not be checked, for want of a revocation list. Keys that are enrolled need none.
	//
	// WARNING: keys and TPMs whose certificates were revoked pass.
	InsecureSkipCollateral bool `json:"insecure_skip_collateral,omitempty"`
}

// SkipTPMCollateral reports whether p accepts certified keys of TPMs without a revocation list.
func (p *Policy) SkipTPMCollateral() bool {
	return p != nil && p.TPM != nil && p.TPM.InsecureSkipCollateral
}

// pcrCount is how many PCRs a bank has.
const pcrCount = 24

// pcrSizes are the sizes of the banks' digests, in bytes.
var pcrSizes = map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}

// A PCRValue is a digest; in JSON, hexadecimal digits, twice as many as the bank's
// digests have bytes.
type PCRValue []byte

// A FirmwareVersion is the manufacturer's number; in JSON, 16 hexadecimal digits.
type FirmwareVersion uint64

// An EKID tells one TPM from another: the SHA-256 of its endorsement key; in JSON, 64
// hexadecimal digits.
type EKID [32]byte

func (v *PCRValue) UnmarshalText(b []byte) error {
	*v = make(PCRValue, hex.DecodedLen(len(b)))
	return unhex(*v, b)
}
func (v PCRValue) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, v), nil }

// String returns the 16 digits.
func (f FirmwareVersion) String() string { return fmt.Sprintf("%016x", uint64(f)) }

func (f *FirmwareVersion) UnmarshalText(b []byte) error {
	var raw [8]byte
	if err := unhex(raw[:], b); err != nil {
		return err
	}
	n, err := strconv.ParseUint(string(b), 16, 64)
	*f = FirmwareVersion(n)
	return err
}
func (f FirmwareVersion) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

func (id *EKID) UnmarshalText(b []byte) error { return unhex(id[:], b) }
func (id EKID) MarshalText() ([]byte, error)  { return hex.AppendEncode(nil, id[:]), nil }

// check reports what is more likely a mistake than a wish.
func (t *TPMPolicy) check() error {
	switch {
	case t.PCRs != nil && len(t.PCRs) == 0, empty(t.FirmwareVersions), empty(t.EKIDs), empty(t.DenyEKIDs):
		return errors.New("tpm: pcrs, firmware_versions, ek_ids or deny_ek_ids is empty; leave it out not to compare")
	case slices.Contains(t.EKIDs, EKID{}), slices.Contains(t.DenyEKIDs, EKID{}):
		return errors.New("tpm: an EK of zeros stands for no identity, which no list accepts")
	}
	for bank, registers := range t.PCRs {
		size := pcrSizes[bank]
		if size == 0 {
			return fmt.Errorf("tpm: bank %q is none of sha256, sha384 and sha512", bank)
		}
		if len(registers) == 0 {
			return fmt.Errorf("tpm: bank %s has no PCR; leave it out not to compare", bank)
		}
		for name, allowed := range registers {
			if !isPCR(name) {
				return fmt.Errorf("tpm: %q is no PCR, want a number from 0 to %d", name, pcrCount-1)
			}
			if len(allowed) == 0 {
				return fmt.Errorf("tpm: PCR %s of %s is empty, which accepts nothing; leave it out not to compare", name, bank)
			}
			for _, v := range allowed {
				if len(v) != size {
					return fmt.Errorf("tpm: PCR %s of %s has a value of %d bytes, want %d", name, bank, len(v), size)
				}
			}
		}
	}
	return nil
}

// TPM is what a policy reads of a TPM quote that has been verified. The result of
// verification in package tpm implements it; a quote that was only parsed does not.
type TPM interface {
	// PCR returns the value of a register of a bank ("sha256"…), or nil where the quote
	// is not about it.
	PCR(bank string, index int) []byte
	// FirmwareVersion and ResetCount say in ok whether they are the TPM's own.
	FirmwareVersion() (version uint64, ok bool)
	ResetCount() (count uint32, ok bool)
	// EK has 32 bytes, or none where it is not known in which TPM the key is.
	EK() []byte
	// Certified says whether the key was trusted by certificate, and not by enrolment.
	// CollateralChecked says whether its revocation was then checked.
	Certified() bool
	CollateralChecked() bool
}

// EvaluateTPM compares the claims of c with p. The Decision is never nil; where
// its verdict is Contraindicated, the error is that of [Decision.Err].
//
// The verdict is Affirming only where a PCR was compared. A TPM isolates nothing, so
// that "affirming" is worth what the software is that was measured.
func (p *Policy) EvaluateTPM(c TPM) (*Decision, error) {
	d := &Decision{}
	t := &TPMPolicy{}
	if p != nil {
		if p.TPM == nil {
			d.add(Contraindicated, "tpm", "evidence is a TPM quote, and the policy has no section for TPMs")
			return d, d.Err()
		}
		t = p.TPM
	}
	if c.Certified() {
		d.revocation(c.CollateralChecked(), t.InsecureSkipCollateral)
	}
	if len(t.PCRs) == 0 {
		d.add(Warning, "pcrs", "measurement not checked: no reference values")
	}
	for _, bank := range slices.Sorted(maps.Keys(t.PCRs)) {
		registers := t.PCRs[bank]
		d.misnamed(bank, registers)
		for index := range pcrCount {
			if allowed, ok := registers[strconv.Itoa(index)]; ok {
				d.pcr(fmt.Sprintf("pcrs %s %d", bank, index), allowed, c.PCR(bank, index))
			}
		}
	}
	if t.FirmwareVersions != nil {
		const claim = "firmware_versions"
		switch version, ok := c.FirmwareVersion(); {
		case !ok:
			d.add(Contraindicated, claim, "the TPM may disguise its version for such a key, want one of %d", len(t.FirmwareVersions))
		case slices.Contains(t.FirmwareVersions, FirmwareVersion(version)):
			d.add(Affirming, claim, "%v is acceptable", FirmwareVersion(version))
		default:
			d.add(Contraindicated, claim, "got %v, want one of %d", FirmwareVersion(version), len(t.FirmwareVersions))
		}
	}
	if t.ResetCount != nil {
		const claim = "reset_count"
		switch count, ok := c.ResetCount(); {
		case !ok:
			d.add(Contraindicated, claim, "the TPM may disguise its count for such a key, want %d", *t.ResetCount)
		case count == *t.ResetCount:
			d.add(Affirming, claim, "%d, as it should be", count)
		default:
			d.add(Contraindicated, claim, "got %d, want %d: the machine has booted since, or is another", count, *t.ResetCount)
		}
	}
	ek := c.EK()
	machines(d, ek, func(id EKID) bool { return bytes.Equal(id[:], ek) }, "ek_ids", t.EKIDs, "deny_ek_ids", t.DenyEKIDs)
	return d, d.Err()
}

// isPCR reports whether name is the index of a register as policies have it, in decimal
// and without zeros in front.
func isPCR(name string) bool {
	index, err := strconv.Atoi(name)
	return err == nil && index >= 0 && index < pcrCount && strconv.Itoa(index) == name
}

// misnamed refuses what a policy that was not parsed may have in place of registers, and
// what nothing would otherwise be compared with.
func (d *Decision) misnamed(bank string, registers map[string][]PCRValue) {
	if pcrSizes[bank] == 0 || len(registers) == 0 {
		d.add(Contraindicated, "pcrs "+bank, "the policy names no register of a bank that is known")
	}
	for _, name := range slices.Sorted(maps.Keys(registers)) {
		if !isPCR(name) {
			d.add(Contraindicated, "pcrs "+bank, "the policy has %q, which is no PCR", name)
		}
	}
}

func (d *Decision) pcr(claim string, allowed []PCRValue, got []byte) {
	switch {
	case len(got) == 0:
		d.add(Contraindicated, claim, "the quote is not about it, want one of %d reference values", len(allowed))
	case slices.ContainsFunc(allowed, func(v PCRValue) bool { return bytes.Equal(v, got) }):
		d.add(Affirming, claim, "%s is a reference value", short(got))
	default:
		d.add(Contraindicated, claim, "got %s, want one of %d reference values", short(got), len(allowed))
	}
}
