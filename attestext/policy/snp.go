package policy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// An SNPPolicy says which SEV-SNP guests are acceptable. A list that is nil is not
// compared; of any other, one entry must equal the claim, so that an empty list
// accepts nothing.
type SNPPolicy struct {
	Measurement []Measurement `json:"measurement,omitempty"`
	HostData    []HostData    `json:"host_data,omitempty"`
	// IDKeyDigest and AuthorKeyDigest are those of the keys that signed the guest's
	// ID block. A guest without one matches none.
	IDKeyDigest     []Measurement `json:"id_key_digest,omitempty"`
	AuthorKeyDigest []Measurement `json:"author_key_digest,omitempty"`

	// FamilyID and ImageID are what the guest's owner called it in the ID block. They
	// go with IDKeyDigest or AuthorKeyDigest only, for anybody can write any name into a
	// block that another key signs. Zeros are a value like any other.
	FamilyID []OwnerID `json:"family_id,omitempty"`
	ImageID  []OwnerID `json:"image_id,omitempty"`

	// MinGuestSVN is a floor for the security version of the guest.
	MinGuestSVN uint32 `json:"min_guest_svn,omitempty"`

	// MinTCB is a floor: each component of the TCB that the signing key is bound to,
	// of the one that is running and of the one that the host cannot go back behind
	// must be at least as high. nil, or only zeros, is none, and the verdict is then
	// Warning: AMD does not say which TCB is current, so that nobody has.
	MinTCB *SNPTCB `json:"min_tcb,omitempty"`

	// MaxCollateralAge bounds how long ago the revocation list was issued, on top of when it
	// expires. Zero is no bound of its own.
	MaxCollateralAge Duration `json:"max_collateral_age,omitempty"`

	// GuestPolicy says which bits of POLICY must be set and which must not: what the
	// guest's owner lets the host do, such as run it where SMT is on. nil compares none,
	// beyond what AllowMigrationAgent and InsecureAllowDebug are about.
	GuestPolicy *Bits `json:"guest_policy,omitempty"`

	// PlatformInfo says the same of PLATFORM_INFO, what the firmware says of the machine.
	PlatformInfo *Bits `json:"platform_info,omitempty"`

	// MaxVMPL is the lowest privilege level inside the guest that may ask for
	// reports, 0 to 3. The default is the highest, 0.
	MaxVMPL uint32 `json:"max_vmpl,omitempty"`

	// ChipIDs are the machines that are acceptable, and DenyChipIDs those that are
	// not. Either refuses a machine that hides its identity.
	ChipIDs     []ChipID `json:"chip_ids,omitempty"`
	DenyChipIDs []ChipID `json:"deny_chip_ids,omitempty"`

	// AllowMigrationAgent accepts guests that another guest, the migration agent, can
	// export. Which one that is, is not compared.
	AllowMigrationAgent bool `json:"allow_migration_agent,omitempty"`

	// InsecureAllowDebug accepts guests that can be debugged.
	//
	// WARNING: the host reads and writes their memory.
	InsecureAllowDebug bool `json:"insecure_allow_debug,omitempty"`

	// InsecureSkipCollateral accepts reports whose revocation could not be checked,
	// for want of a revocation list.
	//
	// WARNING: platforms of a revoked authority pass.
	InsecureSkipCollateral bool `json:"insecure_skip_collateral,omitempty"`
}

// Sizes and bounds of what policies compare.
const (
	hostDataSize = 32
	chipIDSize   = 64
	ownerIDSize  = 16
	maxVMPL      = 3
)

// HostData is what the host said of a guest at launch; in JSON, 64 hexadecimal digits.
type HostData [hostDataSize]byte

// A ChipID tells one chip from another; in JSON, 128 hexadecimal digits.
type ChipID [chipIDSize]byte

// An OwnerID is the name of a family of guests or of one image; in JSON, 32
// hexadecimal digits.
type OwnerID [ownerIDSize]byte

// An SNPTCB is a set of security versions. A component that is left out is 0.
type SNPTCB struct {
	Bootloader uint8 `json:"bootloader"`
	TEE        uint8 `json:"tee"`
	SNP        uint8 `json:"snp"`
	Microcode  uint8 `json:"microcode"`
}

func (h *HostData) UnmarshalText(b []byte) error { return unhex(h[:], b) }
func (h HostData) MarshalText() ([]byte, error)  { return hex.AppendEncode(nil, h[:]), nil }
func (o *OwnerID) UnmarshalText(b []byte) error  { return unhex(o[:], b) }
func (o OwnerID) MarshalText() ([]byte, error)   { return hex.AppendEncode(nil, o[:]), nil }
func (c *ChipID) UnmarshalText(b []byte) error   { return unhex(c[:], b) }
func (c ChipID) MarshalText() ([]byte, error)    { return hex.AppendEncode(nil, c[:]), nil }

// check reports what is more likely a mistake than a wish.
func (s *SNPPolicy) check() error {
	for _, l := range []struct {
		claim string
		empty bool
	}{
		{"measurement", empty(s.Measurement)}, {"host_data", empty(s.HostData)},
		{"id_key_digest", empty(s.IDKeyDigest)}, {"author_key_digest", empty(s.AuthorKeyDigest)},
		{"family_id", empty(s.FamilyID)}, {"image_id", empty(s.ImageID)},
		{"chip_ids", empty(s.ChipIDs)}, {"deny_chip_ids", empty(s.DenyChipIDs)},
	} {
		if l.empty {
			return fmt.Errorf("snp: %s is empty; leave it out not to compare", l.claim)
		}
	}
	switch {
	case s.MaxVMPL > maxVMPL:
		return fmt.Errorf("snp: max_vmpl is %d, and there is none above %d", s.MaxVMPL, maxVMPL)
	case s.MinTCB != nil && *s.MinTCB == (SNPTCB{}):
		return errors.New("snp: min_tcb is a floor of zeros, which every TCB is above; leave it out")
	case s.ownerUnnamed():
		return fmt.Errorf("snp: %s", errOwnerUnnamed)
	case slices.Contains(s.IDKeyDigest, Measurement{}), slices.Contains(s.AuthorKeyDigest, Measurement{}):
		return fmt.Errorf("snp: a digest of zeros stands for no key, which no list accepts")
	case slices.Contains(s.ChipIDs, ChipID{}), slices.Contains(s.DenyChipIDs, ChipID{}):
		return fmt.Errorf("snp: a chip ID of zeros stands for no identity, which no list accepts")
	}
	return errors.Join(s.GuestPolicy.check("snp: guest_policy"), s.PlatformInfo.check("snp: platform_info"))
}

const errOwnerUnnamed = "family_id and image_id are whatever the signer of the ID block says: name it by id_key_digest or author_key_digest"

// ownerUnnamed reports whether s compares names and not who gave them.
func (s *SNPPolicy) ownerUnnamed() bool {
	return (s.FamilyID != nil || s.ImageID != nil) && s.IDKeyDigest == nil && s.AuthorKeyDigest == nil
}

// SkipSNPCollateral reports whether p accepts SNP reports without a revocation list.
func (p *Policy) SkipSNPCollateral() bool {
	return p != nil && p.SNP != nil && p.SNP.InsecureSkipCollateral
}

// SNP is what a policy reads of an SEV-SNP report that has been verified. The result
// of verification in package sevsnp implements it; a report that was only parsed
// does not.
type SNP interface {
	Measurement() [measurementSize]byte
	HostData() [hostDataSize]byte
	// IDKeyDigest and AuthorKeyDigest are zero where there is no such key.
	IDKeyDigest() [measurementSize]byte
	AuthorKeyDigest() [measurementSize]byte
	// FamilyID and ImageID are zero where there is no ID block.
	FamilyID() [ownerIDSize]byte
	ImageID() [ownerIDSize]byte
	// GuestPolicy and PlatformInfo are in the order of the bytes in the report.
	GuestPolicy() [bitsSize]byte
	PlatformInfo() [bitsSize]byte
	GuestSVN() uint32
	VMPL() uint32
	// TCBs returns bootloader, TEE, SNP firmware and microcode, each as reported, as
	// it is running and as it is committed.
	TCBs() (reported, current, committed [4]uint8)
	// ChipID has 64 bytes, or none where the host masks it.
	ChipID() []byte
	Debug() bool
	MigrationAgent() bool
	// CollateralChecked says whether revocation was checked.
	CollateralChecked() bool
}

// EvaluateSNP compares the claims of c with p. The Decision is never nil; where
// its verdict is Contraindicated, the error is that of [Decision.Err].
//
// The verdict is Affirming only where the measurement and the TCB were compared,
// revocation was checked and the guest can be neither debugged nor exported.
func (p *Policy) EvaluateSNP(c SNP) (*Decision, error) {
	d := &Decision{}
	s := &SNPPolicy{}
	if p != nil {
		if p.SNP == nil {
			d.add(Contraindicated, "snp", "evidence is an SEV-SNP report, and the policy has no section for SNP")
			return d, d.Err()
		}
		s = p.SNP
	}

	d.revocation(c.CollateralChecked(), s.InsecureSkipCollateral)
	switch {
	case !c.Debug():
		d.add(Affirming, "debug", "off")
	case s.InsecureAllowDebug:
		d.add(Warning, "debug", "the guest can be debugged, which the policy allows")
	default:
		d.add(Contraindicated, "debug", "got a guest that can be debugged, want none")
	}
	switch {
	case !c.MigrationAgent():
		d.add(Affirming, "migration_agent", "none allowed")
	case s.AllowMigrationAgent:
		d.add(Warning, "migration_agent", "the guest can be exported, which the policy allows")
	default:
		d.add(Contraindicated, "migration_agent", "got a guest that a migration agent can export, want none")
	}
	if vmpl := c.VMPL(); vmpl > s.MaxVMPL {
		d.add(Contraindicated, "max_vmpl", "got a report asked for at VMPL %d, want at most %d", vmpl, s.MaxVMPL)
	} else {
		d.add(Affirming, "max_vmpl", "%d is at most %d", vmpl, s.MaxVMPL)
	}

	d.measurement(measurementList{claim: "measurement", allowed: s.Measurement, got: c.Measurement(), always: true})
	d.tcb(s.MinTCB, c)
	if p == nil {
		return d, d.Err()
	}
	if s.ownerUnnamed() {
		d.add(Contraindicated, "id_key_digest", "the policy itself is wrong: %s", errOwnerUnnamed)
	}
	d.bits("guest_policy", s.GuestPolicy, c.GuestPolicy())
	d.bits("platform_info", s.PlatformInfo, c.PlatformInfo())
	declared(d, "host_data", s.HostData, HostData(c.HostData()))
	d.key("id_key_digest", "ID key", s.IDKeyDigest, c.IDKeyDigest())
	d.key("author_key_digest", "author key", s.AuthorKeyDigest, c.AuthorKeyDigest())
	declared(d, "family_id", s.FamilyID, OwnerID(c.FamilyID()))
	declared(d, "image_id", s.ImageID, OwnerID(c.ImageID()))
	if svn := c.GuestSVN(); svn < s.MinGuestSVN {
		d.add(Contraindicated, "min_guest_svn", "got %d, want at least %d", svn, s.MinGuestSVN)
	} else if s.MinGuestSVN != 0 {
		d.add(Affirming, "min_guest_svn", "%d is at least %d", svn, s.MinGuestSVN)
	}
	chip := c.ChipID()
	machines(d, chip, func(id ChipID) bool { return bytes.Equal(id[:], chip) }, "chip_ids", s.ChipIDs, "deny_chip_ids", s.DenyChipIDs)
	return d, d.Err()
}

// tcb compares component by component: a higher one does not make up for a lower one.
func (d *Decision) tcb(floor *SNPTCB, c SNP) {
	const claim = "min_tcb"
	if floor == nil || *floor == (SNPTCB{}) {
		d.add(Warning, claim, "TCB not checked: no floor")
		return
	}
	want := [4]uint8{floor.Bootloader, floor.TEE, floor.SNP, floor.Microcode}
	reported, current, committed := c.TCBs()
	for _, t := range []struct {
		name string
		got  [4]uint8
	}{{"reported", reported}, {"current", current}, {"committed", committed}} {
		for i, component := range [4]string{"bootloader", "tee", "snp", "microcode"} {
			if t.got[i] < want[i] {
				d.add(Contraindicated, claim, "%s TCB has %s %d, want at least %d", t.name, component, t.got[i], want[i])
				return
			}
		}
	}
	d.add(Affirming, claim, "bootloader %d, tee %d, snp %d, microcode %d", reported[0], reported[1], reported[2], reported[3])
}

// declared compares what somebody declared with the values that are acceptable.
func declared[T interface {
	comparable
	MarshalText() ([]byte, error)
}](d *Decision, claim string, allowed []T, got T) {
	text, _ := got.MarshalText() // of bytes, it does not fail
	switch {
	case allowed == nil:
	case slices.Contains(allowed, got):
		d.add(Affirming, claim, "%s is a reference value", shorten(string(text)))
	default:
		d.add(Contraindicated, claim, "got %s, want one of %d", shorten(string(text)), len(allowed))
	}
}

func (d *Decision) key(claim, what string, allowed []Measurement, got Measurement) {
	if allowed != nil && got == (Measurement{}) {
		d.add(Contraindicated, claim, "the guest was launched without an %s, want one of %d", what, len(allowed))
		return
	}
	d.measurement(measurementList{claim: claim, allowed: allowed, got: got})
}
