// Package sevsnp reads and verifies AMD SEV-SNP attestation reports: [Parse] checks
// that the bytes are a report, [ParseCertificates] reads the table of certificates
// that travels beside it, and [Verify] checks that AMD's PKI vouches for the
// report and that no certificate is revoked. Whether what a genuine report says is
// acceptable is decided in package policy, and whether it is bound to a session in
// package verifier.
//
// The layout is that of ATTESTATION_REPORT in AMD's "SEV Secure Nested Paging
// Firmware ABI Specification" (publication 56860), versions 2 to 5, on processors
// of the lines Milan and Genoa. The chain and the signature are checked by
// github.com/google/go-sev-guest. Turin, whose TCB is laid out in another way, is
// not supported.
package sevsnp

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/attestedtls/atls/attestext"
	"github.com/google/go-sev-guest/abi"
	pb "github.com/google/go-sev-guest/proto/sevsnp"
)

// The layout of a report; all integers are little-endian.
const (
	versionOffset         = 0x000 // u32
	guestSVNOffset        = 0x004 // u32
	policyOffset          = 0x008 // u64
	familyIDOffset        = 0x010
	imageIDOffset         = 0x020
	vmplOffset            = 0x030 // u32
	signatureAlgoOffset   = 0x034 // u32
	currentTCBOffset      = 0x038
	platformInfoOffset    = 0x040 // u64
	keyInfoOffset         = 0x048 // u32
	measurementOffset     = 0x090
	hostDataOffset        = 0x0C0
	idKeyDigestOffset     = 0x0E0
	authorKeyDigestOffset = 0x110
	reportIDOffset        = 0x140
	reportIDMAOffset      = 0x160
	reportedTCBOffset     = 0x180
	cpuidOffset           = 0x188 // family, model, stepping; from version 3
	chipIDOffset          = 0x1A0
	committedTCBOffset    = 0x1E0
	currentBuildOffset    = 0x1E8 // build, minor, major
	committedBuildOffset  = 0x1EC // build, minor, major
	launchTCBOffset       = 0x1F0
	launchMitOffset       = 0x1F8 // u64, from version 5
	currentMitOffset      = 0x200 // u64, from version 5
	signatureOffset       = 0x2A0 // R ‖ S, 72 bytes each, then zeros
	signatureNumberSize   = 72

	// ReportDataOffset is where REPORT_DATA begins, in bytes from the start of a report.
	ReportDataOffset = 0x050
)

// Sizes of a report and of its fields, in bytes.
const (
	ReportSize      = 0x4A0
	MeasurementSize = 48
	DigestSize      = 48 // SHA-384: of the ID key and the author key
	HostDataSize    = 32
	ChipIDSize      = 64
	IDSize          = 16 // FAMILY_ID, IMAGE_ID
	ReportIDSize    = 32
)

const (
	minVersion          = 2
	versionWithCPUID    = 3
	versionWithMitigate = 5
	maxVersion          = 5

	signatureAlgoECDSAP384 = 1
	maxVMPL                = 3
	familyTurin            = 0x1A
	tcbSize                = 8
)

// A SigningKey says which key signed a report, in the field SIGNING_KEY.
type SigningKey uint8

const (
	VCEK SigningKey = 0 // Versioned Chip Endorsement Key, of one chip
	VLEK SigningKey = 1 // Versioned Loaded Endorsement Key, of a cloud provider
	None SigningKey = 7 // the report is not signed
)

// String returns "VCEK", "VLEK" or "none".
func (k SigningKey) String() string {
	switch k {
	case VCEK:
		return "VCEK"
	case VLEK:
		return "VLEK"
	case None:
		return "none"
	}
	return fmt.Sprintf("signing_key(%d)", uint8(k))
}

// Bits of the guest policy.
const (
	policySMT          GuestPolicy = 1 << 16
	policyReserved1    GuestPolicy = 1 << 17 // must be one
	policyMigrateMA    GuestPolicy = 1 << 18
	policyDebug        GuestPolicy = 1 << 19
	policySingleSocket GuestPolicy = 1 << 20
)

// A GuestPolicy is what the guest's owner allowed the host to do to it, POLICY.
type GuestPolicy uint64

// Debug reports whether the host may read and write the guest's memory through the
// firmware, in which case nothing that it says is worth anything.
func (p GuestPolicy) Debug() bool { return p&policyDebug != 0 }

// MigrationAgent reports whether the guest may be associated with a migration
// agent, another guest that can export it.
func (p GuestPolicy) MigrationAgent() bool { return p&policyMigrateMA != 0 }

// SMT reports whether the guest may run where simultaneous multithreading is on.
func (p GuestPolicy) SMT() bool { return p&policySMT != 0 }

// SingleSocket reports whether the guest is confined to one socket.
func (p GuestPolicy) SingleSocket() bool { return p&policySingleSocket != 0 }

// MinABI returns the lowest version of the firmware's interface that the guest
// accepts.
func (p GuestPolicy) MinABI() (major, minor uint8) { return uint8(p >> 8), uint8(p) }

// A TCB is a set of security versions of a platform, TCB_VERSION as Milan and
// Genoa have it.
type TCB struct {
	Bootloader, TEE, SNP, Microcode uint8
}

// String returns, for example, "bootloader 4, tee 0, snp 22, microcode 213".
func (t TCB) String() string {
	return fmt.Sprintf("bootloader %d, tee %d, snp %d, microcode %d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
}

// Components returns the components in the order of the fields.
func (t TCB) Components() [4]uint8 { return [4]uint8{t.Bootloader, t.TEE, t.SNP, t.Microcode} }

// A Report is a parsed SEV-SNP attestation report. Nothing in it has been verified:
// the fields say what a peer claims. Hand it to [Verify].
type Report struct {
	Version  uint32
	GuestSVN uint32      // security version of the guest, as its owner numbers them
	Policy   GuestPolicy //
	FamilyID [IDSize]byte
	ImageID  [IDSize]byte
	VMPL     uint32 // privilege level inside the guest that asked, 0 (highest) to 3

	CurrentTCB, ReportedTCB, CommittedTCB, LaunchTCB TCB

	PlatformInfo uint64
	SigningKey   SigningKey
	// AuthorKeyEnabled says that AuthorKeyDigest counts.
	AuthorKeyEnabled bool

	ReportData      [attestext.ReportDataSize]byte
	Measurement     [MeasurementSize]byte // launch measurement
	HostData        [HostDataSize]byte    // what the host said at launch
	IDKeyDigest     [DigestSize]byte      // key that signed the ID block; zero without one
	AuthorKeyDigest [DigestSize]byte      // key that signed the ID key; zero without one
	ReportID        [ReportIDSize]byte
	ReportIDMA      [ReportIDSize]byte // report ID of the migration agent
	// ChipID identifies the chip. It is zero where the host masks it.
	ChipID [ChipIDSize]byte

	// Family, Model and Stepping are those of the processor, zero before version 3.
	Family, Model, Stepping uint8

	// LaunchMitigations and CurrentMitigations are vectors of mitigated
	// vulnerabilities, zero before version 5.
	LaunchMitigations, CurrentMitigations uint64

	// raw is the report that the fields were read from. Verify goes back to it, so
	// that what is verified is not what a caller may have written into the fields.
	raw []byte
}

// Debug reports whether the guest's policy allows debugging.
func (r *Report) Debug() bool { return r.Policy.Debug() }

// Raw returns the report as it was parsed. The caller must not change it.
func (r *Report) Raw() []byte { return r.raw }

const opParse = "parse SNP report"

func malformed(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrMalformed, opParse, format, args...)
}

// Parse reads a report out of b, which must hold it and nothing else: 1,184 bytes.
// Reserved bytes that are not zero are refused, in any version, and so is a report
// that the host and not the guest has asked for.
//
// Parse verifies nothing. Errors are of class [attestext.ErrMalformed]. b is
// copied.
func Parse(b []byte) (*Report, error) {
	if len(b) != ReportSize {
		return nil, malformed("%d bytes, a report has %d", len(b), ReportSize)
	}
	le := binary.LittleEndian
	version := le.Uint32(b[versionOffset:])
	switch {
	case version < minVersion || version > maxVersion:
		return nil, malformed("report version %d is not supported, want %d to %d", version, minVersion, maxVersion)
	case le.Uint32(b[signatureAlgoOffset:]) != signatureAlgoECDSAP384:
		return nil, malformed("signature algorithm %d is not supported, want %d (ECDSA P-384)", le.Uint32(b[signatureAlgoOffset:]), signatureAlgoECDSAP384)
	case le.Uint32(b[vmplOffset:]) > maxVMPL:
		return nil, malformed("VMPL %#x is none of a guest's: the host has asked for this report", le.Uint32(b[vmplOffset:]))
	case version >= versionWithCPUID && b[cpuidOffset] == familyTurin:
		return nil, malformed("processor family %Xh (Turin) is not supported", familyTurin)
	case version < versionWithMitigate && le.Uint64(b[launchMitOffset:])|le.Uint64(b[currentMitOffset:]) != 0:
		return nil, malformed("reserved bytes are not zero")
	}
	raw := bytes.Clone(b)
	m, err := toProto(raw)
	if err != nil {
		return nil, err
	}
	// What is verified is m written out again. Bytes that do not survive that are
	// under no signature.
	again, err := abi.ReportToAbiBytes(m)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: opParse, Err: err}
	}
	if !bytes.Equal(again, raw) {
		return nil, malformed("reserved bits are not zero")
	}
	info, err := abi.ParseSignerInfo(m.SignerInfo)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: opParse, Err: err}
	}
	r := &Report{
		Version:            version,
		GuestSVN:           le.Uint32(raw[guestSVNOffset:]),
		Policy:             GuestPolicy(le.Uint64(raw[policyOffset:])),
		VMPL:               le.Uint32(raw[vmplOffset:]),
		PlatformInfo:       le.Uint64(raw[platformInfoOffset:]),
		SigningKey:         SigningKey(info.SigningKey),
		AuthorKeyEnabled:   info.AuthorKeyEn,
		LaunchMitigations:  le.Uint64(raw[launchMitOffset:]),
		CurrentMitigations: le.Uint64(raw[currentMitOffset:]),
		raw:                raw,
	}
	if version >= versionWithCPUID {
		r.Family, r.Model, r.Stepping = raw[cpuidOffset], raw[cpuidOffset+1], raw[cpuidOffset+2]
	}
	for _, f := range []struct {
		dst    []byte
		offset int
	}{
		{r.FamilyID[:], familyIDOffset},
		{r.ImageID[:], imageIDOffset},
		{r.ReportData[:], ReportDataOffset},
		{r.Measurement[:], measurementOffset},
		{r.HostData[:], hostDataOffset},
		{r.IDKeyDigest[:], idKeyDigestOffset},
		{r.AuthorKeyDigest[:], authorKeyDigestOffset},
		{r.ReportID[:], reportIDOffset},
		{r.ReportIDMA[:], reportIDMAOffset},
		{r.ChipID[:], chipIDOffset},
	} {
		copy(f.dst, raw[f.offset:])
	}
	for _, f := range []struct {
		dst    *TCB
		offset int
	}{
		{&r.CurrentTCB, currentTCBOffset},
		{&r.ReportedTCB, reportedTCBOffset},
		{&r.CommittedTCB, committedTCBOffset},
		{&r.LaunchTCB, launchTCBOffset},
	} {
		if *f.dst, err = parseTCB(raw[f.offset:][:tcbSize]); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// parseTCB reads a TCB_VERSION, whose four bytes in the middle are reserved.
func parseTCB(b []byte) (TCB, error) {
	if binary.LittleEndian.Uint32(b[2:]) != 0 {
		return TCB{}, malformed("reserved bytes of a TCB version are not zero: %x", b)
	}
	return TCB{Bootloader: b[0], TEE: b[1], SNP: b[6], Microcode: b[7]}, nil
}

// toProto has go-sev-guest parse a report. The message is fresh each time.
func toProto(raw []byte) (report *pb.Report, err error) {
	defer func() {
		if p := recover(); p != nil {
			report, err = nil, malformed("parser panicked: %v", p)
		}
	}()
	m, err := abi.ReportToProto(raw)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: opParse, Err: err}
	}
	return m, nil
}
