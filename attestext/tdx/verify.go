package tdx

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/google/go-tdx-guest/pcs"
	"github.com/google/go-tdx-guest/verify"
)

// TCBUpToDate is the only TCB status that [Verify] accepts where it has
// collateral: Intel knows of no advisory that applies to the platform.
const TCBUpToDate = string(pcs.TcbComponentStatusUpToDate)

// VerifyOptions say what a quote is verified against. Verify does not change
// them; the same options serve concurrent calls.
type VerifyOptions struct {
	// Roots are the certificates that the platform's chain and the collateral
	// must begin with. nil means Intel's root, the only one that real hardware
	// has. A pool that is not nil and empty is an error.
	Roots *x509.CertPool

	// Collateral says which TCB levels are current and which certificates are
	// revoked. nil is an error unless InsecureSkipCollateral is set. Nothing is
	// ever fetched.
	Collateral *Collateral

	// InsecureSkipCollateral accepts a nil Collateral, and has no effect
	// otherwise.
	//
	// WARNING: without collateral, a quote from a platform whose keys have been
	// extracted and revoked, or one with known holes in its firmware or its quoting
	// enclave, passes. That the quoting enclave is Intel's is still checked.
	InsecureSkipCollateral bool

	// Now is the time at which certificates and collateral must be valid. Zero
	// means the current time.
	Now time.Time
}

// Verified is a quote that has been verified. Only [Verify] makes one that is not
// empty. Its methods may be called concurrently.
type Verified struct {
	quote      Quote
	collateral bool
	fmspc      string
	instance   []byte
}

const opVerify = "verify TDX quote"

// Verify checks that q was signed by a quoting enclave that the PKI below
// opts.Roots vouches for, and, with collateral, that no certificate is revoked
// and that the platform, its TDX module and its quoting enclave are all at a
// TCB level that is UpToDate. nil options are those of the zero value, which
// lack collateral.
//
// It decides nothing else: a TD under debug verifies, and so does one that runs
// any software and carries any report data.
//
// The classes of errors are
//
//   - [attestext.ErrSignature]: a signature or a chain does not verify, the
//     quote's or the collateral's; a certificate has expired or is revoked; the
//     quoting enclave is not Intel's.
//   - [attestext.ErrPolicy]: the TCB is not UpToDate, or the collateral has
//     expired, so that nobody vouches for the TCB today.
//   - [attestext.ErrUnavailable]: there is no collateral, or it is for another
//     family of platforms; the pool of roots is empty.
//   - [attestext.ErrMalformed]: q does not come from [Parse], or its certificates
//     do not parse.
func Verify(q *Quote, opts *VerifyOptions) (*Verified, error) {
	if opts == nil {
		opts = &VerifyOptions{}
	}
	if q == nil || len(q.raw) == 0 {
		return nil, attestext.Errorf(attestext.ErrMalformed, opVerify, "quote was not parsed")
	}
	roots, err := trustedRoots(opts.Roots)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opVerify, Err: err}
	}
	if opts.Collateral == nil && !opts.InsecureSkipCollateral {
		return nil, attestext.Errorf(attestext.ErrUnavailable, opVerify,
			"no collateral, so that revocation and TCB level cannot be checked: supply Intel's collateral for this platform, or skip it explicitly")
	}
	if err := verifyQuote(q.raw, roots, opts); err != nil {
		return nil, err
	}
	// The fields of q are the caller's; those of the bytes that were verified count.
	fresh, err := Parse(q.raw)
	if err != nil {
		return nil, err
	}
	v := &Verified{quote: *fresh, collateral: opts.Collateral != nil}
	v.fmspc, v.instance = platform(q.raw)
	return v, nil
}

// verifyQuote runs go-tdx-guest over raw. Its options are made anew for each
// call, because it writes to them, and so is the message, because it appends to a
// slice inside it.
func verifyQuote(raw []byte, roots *x509.CertPool, opts *VerifyOptions) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = attestext.Errorf(attestext.ErrMalformed, opVerify, "verification panicked: %v", p)
		}
	}()
	m, err := toProto(raw)
	if err != nil {
		return err
	}
	o := &verify.Options{TrustedRoots: roots, Now: opts.Now}
	if opts.Collateral != nil {
		o.GetCollateral, o.CheckRevocations = true, true
		o.Getter = collateralGetter{opts.Collateral}
	}
	if err := verify.TdxQuote(m, o); err != nil {
		return classify(err, opts.Collateral)
	}
	if opts.Collateral == nil {
		return errors.Join(checkQE(raw), checkModule(raw))
	}
	return nil
}

// Fields of the QE report, an SGX report body, by offset from its start, and what
// they are for Intel's TD quoting enclave. The values are those of the QE identity
// that Intel publishes.
const (
	qeAttributesOffset = 48
	qeAttributeDebug   = 0x02 // in the first byte of ATTRIBUTES
	qeMRSIGNEROffset   = 128
	qeProdIDOffset     = 256 // u16
	qeProdID           = 2
)

var qeMRSIGNER = [32]byte{
	0xdc, 0x9e, 0x2a, 0x7c, 0x6f, 0x94, 0x8f, 0x17, 0x47, 0x4e, 0x34, 0xa7, 0xfc, 0x43, 0xed, 0x03,
	0x0f, 0x7c, 0x15, 0x63, 0xf1, 0xba, 0xbd, 0xdf, 0x63, 0x40, 0xc8, 0x2e, 0x0e, 0x54, 0xa8, 0xc5,
}

// checkQE checks that the enclave that signed a verified quote is Intel's. A
// platform certifies any enclave that its owner has given the provisioning key,
// and go-tdx-guest looks at which one it is only where it has collateral.
func checkQE(raw []byte) error {
	report := raw[signatureDataOffset+signatureSize+attestationKeySize+certDataHeaderSize:][:qeReportSize]
	switch {
	case [len(qeMRSIGNER)]byte(report[qeMRSIGNEROffset:][:len(qeMRSIGNER)]) != qeMRSIGNER,
		binary.LittleEndian.Uint16(report[qeProdIDOffset:]) != qeProdID:
		return attestext.Errorf(attestext.ErrSignature, opVerify, "quoting enclave is not Intel's")
	case report[qeAttributesOffset]&qeAttributeDebug != 0:
		return attestext.Errorf(attestext.ErrSignature, opVerify, "quoting enclave runs under debug")
	}
	return nil
}

// checkModule checks that the TDX module is one that Intel signed and that runs as
// it should: MRSIGNERSEAM and SEAMATTRIBUTES are zero for those. Collateral says the
// same, and go-tdx-guest compares them only with that.
func checkModule(raw []byte) error {
	module := raw[bodyOffset+bodyMRSIGNERSEAMOffset : bodyOffset+bodyTdAttributesOffset]
	if !bytes.Equal(module, make([]byte, len(module))) {
		return attestext.Errorf(attestext.ErrSignature, opVerify, "TDX module is not signed by Intel, or has attributes that Intel's has not")
	}
	return nil
}

// classify gives an error of go-tdx-guest its class. The module wraps with %v, so
// that errors.Is sees nothing; the beginnings of its messages are compared, as
// they are in the one version that go.mod pins. What matches none is a matter of
// signatures and chains. A wrong class costs a wrong alert and nothing else.
func classify(err error, c *Collateral) error {
	msg := err.Error()
	class := attestext.ErrSignature
	switch {
	case strings.HasPrefix(msg, "TDX TCB info reported by Intel PCS failed TCB status check"),
		strings.HasPrefix(msg, "QE Identity reported by Intel PCS failed TCB status check"):
		class = attestext.ErrPolicy
	case strings.HasPrefix(msg, "could not verify collaterals obtained") && strings.HasSuffix(msg, "has expired"):
		class = attestext.ErrPolicy
	case strings.HasPrefix(msg, "FMSPC from PCK Certificate"), strings.HasPrefix(msg, "PCEID from PCK Certificate"):
		class = attestext.ErrUnavailable
		err = fmt.Errorf("collateral is for platforms of FMSPC %s and not for this one: %w", c.fmspc, err)
	case strings.HasPrefix(msg, "unable to receive "):
		class = attestext.ErrUnavailable
	case errors.Is(err, verify.ErrPCKCertChainInvalid),
		strings.HasPrefix(msg, "could not interpret "),
		strings.HasPrefix(msg, "could not get PCK certificate extensions"),
		strings.HasPrefix(msg, "unexpected trailing bytes were found in PCK Certificate Chain"):
		class = attestext.ErrMalformed
	}
	return &attestext.Error{Class: class, Op: opVerify, Err: err}
}

// Object identifiers of Intel's extension of PCK certificates.
var (
	oidSGXExtension       = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
	oidFMSPC              = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1, 4}
	oidPlatformInstanceID = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1, 6}
)

// PlatformInstanceIDSize is the size of a platform instance ID, in bytes.
const PlatformInstanceIDSize = 16

// platform returns the FMSPC and the platform instance ID that the PCK
// certificate of a verified quote names, where it does.
func platform(raw []byte) (fmspc string, instance []byte) {
	block, _ := pem.Decode(pckChain(raw))
	if block == nil {
		return "", nil
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", nil
	}
	for _, ext := range leaf.Extensions {
		if !ext.Id.Equal(oidSGXExtension) {
			continue
		}
		var items []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &items); err != nil || len(rest) != 0 {
			return "", nil
		}
		for _, item := range items {
			var pair struct {
				ID    asn1.ObjectIdentifier
				Value asn1.RawValue
			}
			if _, err := asn1.Unmarshal(item.FullBytes, &pair); err != nil {
				continue
			}
			switch {
			case pair.Value.Tag != asn1.TagOctetString:
			case pair.ID.Equal(oidFMSPC):
				fmspc = hex.EncodeToString(pair.Value.Bytes)
			case pair.ID.Equal(oidPlatformInstanceID) && len(pair.Value.Bytes) == PlatformInstanceIDSize:
				instance = pair.Value.Bytes
			}
		}
	}
	if len(bytes.Trim(instance, "\x00")) == 0 {
		instance = nil // zeros tell no platform from another
	}
	return fmspc, instance
}

// Quote returns a copy of the quote.
func (v *Verified) Quote() *Quote { q := v.quote; return &q }

// TeeTcbSvn returns TEE_TCB_SVN, component by component.
func (v *Verified) TeeTcbSvn() [TeeTcbSvnSize]byte { return v.quote.TeeTcbSvn }

// MRSEAM returns the measurement of the TDX module.
func (v *Verified) MRSEAM() Measurement { return v.quote.MRSEAM }

// MRTD returns the measurement of the TD's initial contents.
func (v *Verified) MRTD() Measurement { return v.quote.MRTD }

// RTMRs returns the runtime measurement registers.
func (v *Verified) RTMRs() [RTMRCount]Measurement { return v.quote.RTMRs }

// MRConfigID returns what the TD's creator declared of its configuration.
func (v *Verified) MRConfigID() Measurement { return v.quote.MRConfigID }

// MROwner returns what the TD's creator declared of its owner.
func (v *Verified) MROwner() Measurement { return v.quote.MROwner }

// MROwnerConfig returns what the TD's creator declared of its owner's configuration.
func (v *Verified) MROwnerConfig() Measurement { return v.quote.MROwnerConfig }

// TDAttributes returns TD_ATTRIBUTES, in the order of the bytes in the quote.
func (v *Verified) TDAttributes() [AttributesSize]byte { return v.quote.TdAttributes }

// XFAM returns the extended features that the TD may use, in the order of the bytes in
// the quote.
func (v *Verified) XFAM() [AttributesSize]byte { return v.quote.XFAM }

// ReportData returns what the TD asked to be quoted.
func (v *Verified) ReportData() [attestext.ReportDataSize]byte { return v.quote.ReportData }

// Debug reports whether the TD runs under debug; see [Quote.Debug].
func (v *Verified) Debug() bool { return v.quote.Debug() }

// CollateralChecked reports whether revocation and the TCB level were checked.
func (v *Verified) CollateralChecked() bool { return v.collateral }

// TCBStatus returns [TCBUpToDate], or the empty string where there was no
// collateral and the status is not known.
func (v *Verified) TCBStatus() string {
	if !v.collateral {
		return ""
	}
	return TCBUpToDate
}

// FMSPC returns the family of platforms, 12 hexadecimal digits.
func (v *Verified) FMSPC() string { return v.fmspc }

// PlatformInstanceID returns the 16 bytes by which Intel's PKI tells one platform
// from another, or nil where the certificate has none, or only zeros. The caller
// must not change it.
func (v *Verified) PlatformInstanceID() []byte { return v.instance }
