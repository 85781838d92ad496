package tdx

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/google/go-tdx-guest/pcs"
)

// Statuses of a TCB level, in the words of Intel's Provisioning Certification Service
// (PCS, version 4 of the API). Revoked never verifies.
const (
	TCBUpToDate                          = string(pcs.TcbComponentStatusUpToDate)
	TCBSWHardeningNeeded                 = string(pcs.TcbComponentStatusSwHardeningNeeded)
	TCBConfigurationNeeded               = string(pcs.TcbComponentStatusConfigurationNeeded)
	TCBConfigurationAndSWHardeningNeeded = string(pcs.TcbComponentStatusConfigurationAndSWHardeningNeeded)
	TCBOutOfDate                         = string(pcs.TcbComponentStatusOutOfDate)
	TCBOutOfDateConfigurationNeeded      = string(pcs.TcbComponentStatusOutOfDateConfigurationNeeded)
	TCBRevoked                           = string(pcs.TcbComponentStatusRevoked)
)

// A TCB is what collateral says of a platform that made a quote.
type TCB struct {
	// Status is that of all parts together: everything that is wrong with one of
	// them is wrong with the whole. Where the platform is SWHardeningNeeded and its
	// quoting enclave OutOfDate, it is OutOfDate; where the platform is
	// ConfigurationNeeded, OutOfDateConfigurationNeeded. No part makes up for another.
	Status string
	// Before is what Status would be if no part were out of date: where the platform is
	// SWHardeningNeeded and its quoting enclave OutOfDate, it is SWHardeningNeeded.
	Before string
	// Platform is the level that processor and firmware are at, QE that of the
	// quoting enclave.
	Platform, QE TCBLevel
	// Module is the level of the TDX module where the quote names its version, in
	// TEE_TCB_SVN[1]; nil where it does not, and the module is part of Platform.
	Module *TCBLevel
	// Advisories are those of all parts, sorted, each once.
	Advisories []string
	// OutOfDateSince is the earliest Superseded of the parts that are out of date;
	// zero where none is.
	OutOfDateSince time.Time
}

// A TCBLevel is one of the levels that collateral lists.
type TCBLevel struct {
	Status string
	// Date is the tcbDate: the level has the mitigations of all advisories up to then.
	Date time.Time
	// Advisories are Intel's identifiers of what affects the level, such as
	// INTEL-SA-00615.
	Advisories []string
	// Superseded is, for a level that is out of date, the earliest tcbDate that is
	// later than Date among the levels above it in the list, so that the level
	// cannot have been out of date any earlier. It is Date where there is no such
	// level, and zero for a level that is not out of date.
	Superseded time.Time
}

// What can be wrong with a TCB level; a status is a set of them.
const (
	swHardening = 1 << iota
	configuration
	outOfDate
	revoked
)

var tcbFlags = map[string]uint8{
	TCBUpToDate:                          0,
	TCBSWHardeningNeeded:                 swHardening,
	TCBConfigurationNeeded:               configuration,
	TCBConfigurationAndSWHardeningNeeded: configuration | swHardening,
	TCBOutOfDate:                         outOfDate,
	TCBOutOfDateConfigurationNeeded:      outOfDate | configuration,
	TCBRevoked:                           revoked,
}

// flagsOf takes a status that it does not know for Revoked.
func flagsOf(status string) uint8 {
	if f, ok := tcbFlags[status]; ok {
		return f
	}
	return revoked
}

// statusOf is the status that has everything in flags. Out of date covers software
// hardening, as in Intel's quote verification library.
func statusOf(flags uint8) string {
	switch {
	case flags&revoked != 0:
		return TCBRevoked
	case flags&(outOfDate|configuration) == outOfDate|configuration:
		return TCBOutOfDateConfigurationNeeded
	case flags&outOfDate != 0:
		return TCBOutOfDate
	case flags&(configuration|swHardening) == configuration|swHardening:
		return TCBConfigurationAndSWHardeningNeeded
	case flags&configuration != 0:
		return TCBConfigurationNeeded
	case flags&swHardening != 0:
		return TCBSWHardeningNeeded
	}
	return TCBUpToDate
}

// parseLevels checks what of levels is not checked in decoding.
func parseLevels(what string, levels []pcs.TcbLevel) error {
	if len(levels) == 0 {
		return badCollateral("%s: no TCB levels", what)
	}
	for _, l := range levels {
		if l.TcbStatus == "" {
			return badCollateral("%s: TCB level without status", what)
		}
		if _, err := time.Parse(time.RFC3339, l.TcbDate); err != nil {
			return badCollateral("%s: TCB level: %w", what, err)
		}
	}
	return nil
}

// level returns levels[i] as a TCBLevel.
func level(levels []pcs.TcbLevel, i int) TCBLevel {
	date := func(i int) time.Time {
		t, _ := time.Parse(time.RFC3339, levels[i].TcbDate) // parseLevels has done so before
		return t
	}
	l := TCBLevel{Status: string(levels[i].TcbStatus), Date: date(i), Advisories: slices.Clone(levels[i].AdvisoryIDs)}
	if flagsOf(l.Status)&outOfDate == 0 {
		return l
	}
	for above := range i {
		if d := date(above); d.After(l.Date) && (l.Superseded.IsZero() || d.Before(l.Superseded)) {
			l.Superseded = d
		}
	}
	if l.Superseded.IsZero() {
		l.Superseded = l.Date
	}
	return l
}

// TCBLevels returns the levels of platforms that c knows, the highest first. What they
// say has not been verified.
func (c *Collateral) TCBLevels() []TCBLevel {
	levels := make([]TCBLevel, len(c.tcb.TcbLevels))
	for i := range levels {
		levels[i] = level(c.tcb.TcbLevels, i)
	}
	return levels
}

// moduleVersionIndex is where TEE_TCB_SVN has the version of the TDX module, and
// moduleSVNIndex its security version. Where the version is not zero, the module has
// levels of its own, and the platform's are compared from platformSVNIndex on.
const (
	moduleSVNIndex     = 0
	moduleVersionIndex = 1
	platformSVNIndex   = 2
)

// evaluate compares a platform and the quote that it has signed with collateral whose
// signatures have been verified, along Intel's "Intel TDX: evaluating TCB" of the PCS
// API: which of the TCB levels it is at, from the highest down.
func (c *Collateral) evaluate(raw []byte, p *platform, now time.Time) (*TCB, error) {
	if !now.Before(c.nextUpdate) {
		return nil, attestext.Errorf(attestext.ErrPolicy, opVerify, "collateral has expired at %v", c.nextUpdate.UTC())
	}
	body := raw[bodyOffset:][:bodySize]
	tcb := &TCB{}
	if p.ext.FMSPC != c.tcb.Fmspc || p.ext.PCEID != c.tcb.PceID {
		return nil, attestext.Errorf(attestext.ErrUnavailable, opVerify,
			"collateral is for platforms of FMSPC %s and PCE %s and not for this one, %s and %s", c.tcb.Fmspc, c.tcb.PceID, p.ext.FMSPC, p.ext.PCEID)
	}
	if err := checkModuleIdentity(body, &c.tcb.TdxModule); err != nil {
		return nil, err
	}
	svn := body[bodyTeeTcbSvnOffset:][:TeeTcbSvnSize]
	i := slices.IndexFunc(c.tcb.TcbLevels, func(l pcs.TcbLevel) bool {
		return p.reaches(l.Tcb.SgxTcbcomponents) && p.ext.TCB.PCESvn >= l.Tcb.Pcesvn && moduleReaches(svn, l.Tcb.TdxTcbcomponents)
	})
	if i < 0 {
		return nil, attestext.Errorf(attestext.ErrPolicy, opVerify, "the platform is below every TCB level that the collateral knows")
	}
	tcb.Platform = level(c.tcb.TcbLevels, i)
	parts := []TCBLevel{tcb.Platform}
	if version := svn[moduleVersionIndex]; version > 0 {
		l, err := c.moduleLevel(body, version, svn[moduleSVNIndex])
		if err != nil {
			return nil, err
		}
		tcb.Module = l
		parts = append(parts, *l)
	}
	qe, err := c.qeLevel(qeReport(raw))
	if err != nil {
		return nil, err
	}
	tcb.QE = *qe
	parts = append(parts, *qe)

	var flags uint8
	for _, l := range parts {
		flags |= flagsOf(l.Status)
		tcb.Advisories = append(tcb.Advisories, l.Advisories...)
		if !l.Superseded.IsZero() && (tcb.OutOfDateSince.IsZero() || l.Superseded.Before(tcb.OutOfDateSince)) {
			tcb.OutOfDateSince = l.Superseded
		}
	}
	slices.Sort(tcb.Advisories)
	tcb.Advisories = slices.Compact(tcb.Advisories)
	tcb.Status, tcb.Before = statusOf(flags), statusOf(flags&^outOfDate)
	return tcb, nil
}

// reaches compares the components in the PCK certificate with those of a level.
func (p *platform) reaches(components []pcs.TcbComponent) bool {
	return atLeast(p.ext.TCB.CPUSvnComponents, components, 0)
}

func moduleReaches(svn []byte, components []pcs.TcbComponent) bool {
	from := 0
	if svn[moduleVersionIndex] > 0 {
		from = platformSVNIndex
	}
	return atLeast(svn, components, from)
}

func atLeast(svn []byte, components []pcs.TcbComponent, from int) bool {
	if len(svn) != len(components) {
		return false
	}
	for i := from; i < len(svn); i++ {
		if svn[i] < components[i].Svn {
			return false
		}
	}
	return true
}

// checkModuleIdentity compares whose the TDX module is with what Intel's is.
func checkModuleIdentity(body []byte, want *pcs.TdxModule) error {
	signer := body[bodyMRSIGNERSEAMOffset:][:MeasurementSize]
	attributes := body[bodySEAMAttributesOffset:][:AttributesSize]
	if !bytes.Equal(signer, want.Mrsigner.Bytes) || !maskedEqual(attributes, want.AttributesMask.Bytes, want.Attributes.Bytes) {
		return attestext.Errorf(attestext.ErrSignature, opVerify, "TDX module is not the one of the TCB info: signer %x, attributes %x", signer, attributes)
	}
	return nil
}

// maskedEqual reports whether got under mask is want. All must be of one length.
func maskedEqual(got, mask, want []byte) bool {
	if len(got) != len(mask) || len(got) != len(want) {
		return false
	}
	for i := range got {
		if got[i]&mask[i] != want[i] {
			return false
		}
	}
	return true
}

// moduleLevel returns the level of a TDX module that says its version.
func (c *Collateral) moduleLevel(body []byte, version, svn uint8) (*TCBLevel, error) {
	id := fmt.Sprintf("TDX_%02x", version)
	for _, m := range c.tcb.TdxModuleIdentities {
		if m.ID != id {
			continue
		}
		// Intel repeats signer and attributes here; older TCB infos leave them out.
		if len(m.Mrsigner.Bytes) != 0 || len(m.AttributesMask.Bytes) != 0 {
			if err := checkModuleIdentity(body, &pcs.TdxModule{Mrsigner: m.Mrsigner, Attributes: m.Attributes, AttributesMask: m.AttributesMask}); err != nil {
				return nil, err
			}
		}
		i := slices.IndexFunc(m.TcbLevels, func(l pcs.TcbLevel) bool { return uint32(svn) >= l.Tcb.Isvsvn })
		if i < 0 {
			return nil, attestext.Errorf(attestext.ErrPolicy, opVerify, "TDX module %s of SVN %d is below every TCB level that the collateral knows", id, svn)
		}
		return new(level(m.TcbLevels, i)), nil
	}
	return nil, attestext.Errorf(attestext.ErrPolicy, opVerify, "collateral knows no TDX module %s", id)
}

// qeReport returns the QE report of a quote that walk has accepted.
func qeReport(raw []byte) []byte {
	return raw[signatureDataOffset+signatureSize+attestationKeySize+certDataHeaderSize:][:qeReportSize]
}

// qeLevel compares the enclave that signed with the identity of Intel's, and returns
// the level that it is at.
func (c *Collateral) qeLevel(report []byte) (*TCBLevel, error) {
	want := &c.qe
	svn := binary.LittleEndian.Uint16(report[qeISVSVNOffset:])
	switch {
	case !maskedEqual(report[qeMiscSelectOffset:][:qeMiscSelectSize], want.MiscselectMask.Bytes, want.Miscselect.Bytes),
		!maskedEqual(report[qeAttributesOffset:][:qeAttributesSize], want.AttributesMask.Bytes, want.Attributes.Bytes),
		!bytes.Equal(report[qeMRSIGNEROffset:][:len(qeMRSIGNER)], want.Mrsigner.Bytes),
		binary.LittleEndian.Uint16(report[qeProdIDOffset:]) != want.IsvProdID:
		return nil, attestext.Errorf(attestext.ErrSignature, opVerify, "quoting enclave is not the one of Intel's QE identity")
	}
	i := slices.IndexFunc(want.TcbLevels, func(l pcs.TcbLevel) bool { return l.Tcb.Isvsvn <= uint32(svn) })
	if i < 0 {
		return nil, attestext.Errorf(attestext.ErrPolicy, opVerify, "quoting enclave of SVN %d is below every TCB level that the collateral knows", svn)
	}
	return new(level(want.TcbLevels, i)), nil
}

// detail says which part is at fault, for people.
func (t *TCB) detail() string {
	s := fmt.Sprintf(": platform %s of %s", t.Platform.Status, t.Platform.Date.Format(time.DateOnly))
	if t.Module != nil {
		s += fmt.Sprintf(", TDX module %s of %s", t.Module.Status, t.Module.Date.Format(time.DateOnly))
	}
	s += fmt.Sprintf(", quoting enclave %s of %s", t.QE.Status, t.QE.Date.Format(time.DateOnly))
	if len(t.Advisories) > 0 {
		s += fmt.Sprintf(", advisories %v", t.Advisories)
	}
	return s
}
