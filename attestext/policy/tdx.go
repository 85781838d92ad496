package policy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// A TDXPolicy says which trust domains are acceptable. A list that is nil is not
// compared; of any other, one entry must equal the claim, so that an empty list
// accepts nothing.
type TDXPolicy struct {
	MRTD   []Measurement `json:"mrtd,omitempty"`
	RTMR0  []Measurement `json:"rtmr0,omitempty"`
	RTMR1  []Measurement `json:"rtmr1,omitempty"`
	RTMR2  []Measurement `json:"rtmr2,omitempty"`
	RTMR3  []Measurement `json:"rtmr3,omitempty"`
	MRSEAM []Measurement `json:"mrseam,omitempty"`

	// MRConfigID, MROwner and MROwnerConfig are what whoever created the TD declared
	// of its configuration, of its owner, and of the owner's configuration. Zeros, for
	// nothing declared, are a value like any other.
	MRConfigID    []Measurement `json:"mrconfigid,omitempty"`
	MROwner       []Measurement `json:"mrowner,omitempty"`
	MROwnerConfig []Measurement `json:"mrownerconfig,omitempty"`

	// Events says which events may have been measured, by the event log that came with
	// the quote. nil compares none. It stands for reference values of RTMRs where they
	// differ from boot to boot.
	Events *EventsPolicy `json:"events,omitempty"`

	// TDAttributes and XFAM say which bits of TD_ATTRIBUTES and XFAM must be set and
	// which must not. nil compares none, beyond what AllowMigration and
	// InsecureAllowDebug are about.
	TDAttributes *Bits `json:"td_attributes,omitempty"`
	XFAM         *Bits `json:"xfam,omitempty"`

	// MinTeeTcbSvn is a floor: each component of TEE_TCB_SVN must be at least as
	// high. nil is none. It comes on top of the TCB status that Intel gives.
	MinTeeTcbSvn *TeeTcbSvn `json:"min_tee_tcb_svn,omitempty"`

	// TCB says which TCB statuses and advisories are acceptable. nil means UpToDate
	// alone.
	TCB *TDXTCBPolicy `json:"tcb,omitempty"`

	// MaxCollateralAge bounds how long ago TCB info, QE identity and the revocation
	// list of platforms were issued, on top of when they expire. Zero is no bound of
	// its own.
	MaxCollateralAge Duration `json:"max_collateral_age,omitempty"`

	// PlatformInstanceIDs are the machines that are acceptable, by the identity in
	// Intel's certificate, and DenyPlatformInstanceIDs those that are not. Either
	// refuses a machine that has no identity.
	PlatformInstanceIDs     []InstanceID `json:"platform_instance_ids,omitempty"`
	DenyPlatformInstanceIDs []InstanceID `json:"deny_platform_instance_ids,omitempty"`

	// AllowMigration accepts TDs that can be moved to another machine while they run
	// (bit MIGRATABLE of TD_ATTRIBUTES), by a migration TD that is not compared.
	AllowMigration bool `json:"allow_migration,omitempty"`

	// InsecureAllowDebug accepts TDs under debug.
	//
	// WARNING: the host reads and writes their memory.
	InsecureAllowDebug bool `json:"insecure_allow_debug,omitempty"`

	// InsecureSkipCollateral accepts quotes whose TCB level and revocation could
	// not be checked, for want of collateral.
	//
	// WARNING: platforms with known holes, and revoked ones, pass.
	InsecureSkipCollateral bool `json:"insecure_skip_collateral,omitempty"`
}

// Sizes of what policies compare.
const (
	teeTcbSvnSize  = 16
	instanceIDSize = 16
	rtmrCount      = 4
)

// migratable is the bit of TD_ATTRIBUTES, bit 29, that has a TD be migratable.
var migratable = BitField{3: 1 << 5}

// TeeTcbSvn is TEE_TCB_SVN; in JSON, 32 hexadecimal digits.
type TeeTcbSvn [teeTcbSvnSize]byte

// InstanceID is the identity of a platform; in JSON, 32 hexadecimal digits.
type InstanceID [instanceIDSize]byte

func (s *TeeTcbSvn) UnmarshalText(b []byte) error  { return unhex(s[:], b) }
func (s TeeTcbSvn) MarshalText() ([]byte, error)   { return hex.AppendEncode(nil, s[:]), nil }
func (i *InstanceID) UnmarshalText(b []byte) error { return unhex(i[:], b) }
func (i InstanceID) MarshalText() ([]byte, error)  { return hex.AppendEncode(nil, i[:]), nil }

// check reports what is more likely a mistake than a wish.
func (t *TDXPolicy) check() error {
	for _, l := range t.lists() {
		if empty(l.allowed) {
			return fmt.Errorf("tdx: %s is empty, which accepts nothing; leave it out not to compare", l.claim)
		}
	}
	for _, l := range []struct {
		claim string
		ids   []InstanceID
	}{{"platform_instance_ids", t.PlatformInstanceIDs}, {"deny_platform_instance_ids", t.DenyPlatformInstanceIDs}} {
		switch {
		case empty(l.ids):
			return fmt.Errorf("tdx: %s is empty; leave it out not to compare", l.claim)
		case slices.Contains(l.ids, InstanceID{}):
			return fmt.Errorf("tdx: %s has an identity of zeros, which stands for none and which no list accepts", l.claim)
		}
	}
	if err := t.Events.check(); err != nil {
		return err
	}
	if err := errors.Join(t.TDAttributes.check("tdx: td_attributes"), t.XFAM.check("tdx: xfam")); err != nil {
		return err
	}
	return t.TCB.check()
}

// SkipTDXCollateral reports whether p accepts TDX quotes without collateral.
func (p *Policy) SkipTDXCollateral() bool {
	return p != nil && p.TDX != nil && p.TDX.InsecureSkipCollateral
}

// TDX is what a policy reads of a TDX quote that has been verified. The result of
// verification in package tdx implements it; a quote that was only parsed does not.
type TDX interface {
	MRTD() [measurementSize]byte
	RTMRs() [rtmrCount][measurementSize]byte
	MRSEAM() [measurementSize]byte
	MRConfigID() [measurementSize]byte
	MROwner() [measurementSize]byte
	MROwnerConfig() [measurementSize]byte
	TDAttributes() [bitsSize]byte
	XFAM() [bitsSize]byte
	TeeTcbSvn() [teeTcbSvnSize]byte
	// PlatformInstanceID has 16 bytes, or none where the platform has no such identity.
	PlatformInstanceID() []byte
	Debug() bool
	// CollateralChecked says whether revocation and the TCB level were checked.
	CollateralChecked() bool
	// TCBStatus is Intel's word for the TCB level, "UpToDate"; empty where it is not known.
	TCBStatus() string
}

// lists returns the lists of t in the order of reasons.
func (t *TDXPolicy) lists() []measurementList {
	return []measurementList{
		{claim: "mrtd", allowed: t.MRTD, always: true},
		{claim: "rtmr0", allowed: t.RTMR0},
		{claim: "rtmr1", allowed: t.RTMR1},
		{claim: "rtmr2", allowed: t.RTMR2},
		{claim: "rtmr3", allowed: t.RTMR3},
		{claim: "mrseam", allowed: t.MRSEAM},
		{claim: "mrconfigid", allowed: t.MRConfigID},
		{claim: "mrowner", allowed: t.MROwner},
		{claim: "mrownerconfig", allowed: t.MROwnerConfig},
	}
}

// EvaluateTDX compares the claims of c with p. The Decision is never nil; where
// its verdict is Contraindicated, the error is that of [Decision.Err].
//
// The verdict is Affirming only where MRTD was compared, collateral was checked
// and the TD is neither under debug nor migratable.
func (p *Policy) EvaluateTDX(c TDX) (*Decision, error) {
	d := &Decision{}
	t := &TDXPolicy{}
	if p != nil {
		if p.TDX == nil {
			d.add(Contraindicated, "tdx", "evidence is a TDX quote, and the policy has no section for TDX")
			return d, d.Err()
		}
		t = p.TDX
	}

	switch {
	case !c.CollateralChecked() && !t.InsecureSkipCollateral:
		d.add(Contraindicated, "collateral", "TCB level and revocation were not checked, want them checked")
	case !c.CollateralChecked():
		d.add(Warning, "collateral", "TCB level and revocation were not checked, which the policy allows")
	default:
		d.tdxTCB(t.TCB, c)
	}

	switch {
	case !c.Debug():
		d.add(Affirming, "debug", "off")
	case t.InsecureAllowDebug:
		d.add(Warning, "debug", "the TD runs under debug, which the policy allows")
	default:
		d.add(Contraindicated, "debug", "got a TD under debug, want none")
	}

	attributes := BitField(c.TDAttributes())
	switch {
	case !attributes.has(migratable):
		d.add(Affirming, "migration", "the TD stays on its machine")
	case t.AllowMigration:
		d.add(Warning, "migration", "the TD can be moved to another machine, which the policy allows")
	default:
		d.add(Contraindicated, "migration", "got a TD that can be moved to another machine, want none")
	}

	if p == nil {
		d.add(Warning, "mrtd", "measurement not checked: no reference values")
		return d, d.Err()
	}
	rtmrs := c.RTMRs()
	got := []Measurement{c.MRTD(), rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3], c.MRSEAM(), c.MRConfigID(), c.MROwner(), c.MROwnerConfig()}
	for i, l := range t.lists() {
		l.got = got[i]
		d.measurement(l)
	}
	d.events(t.Events, c)
	d.bits("td_attributes", t.TDAttributes, attributes)
	d.bits("xfam", t.XFAM, c.XFAM())
	d.floor(t.MinTeeTcbSvn, c.TeeTcbSvn())
	id := c.PlatformInstanceID()
	machines(d, id, func(i InstanceID) bool { return bytes.Equal(i[:], id) },
		"platform_instance_ids", t.PlatformInstanceIDs, "deny_platform_instance_ids", t.DenyPlatformInstanceIDs)
	return d, d.Err()
}

// floor compares component by component: a higher one does not make up for a lower one.
func (d *Decision) floor(floor *TeeTcbSvn, got TeeTcbSvn) {
	const claim = "min_tee_tcb_svn"
	if floor == nil {
		return
	}
	for i := range floor {
		if got[i] < floor[i] {
			d.add(Contraindicated, claim, "got %x, want at least %x: component %d is %d, want %d", got, *floor, i, got[i], floor[i])
			return
		}
	}
	d.add(Affirming, claim, "%x is at least %x", got, *floor)
}
