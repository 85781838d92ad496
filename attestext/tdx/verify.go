package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/google/go-tdx-guest/pcs"
	"github.com/google/go-tdx-guest/verify"
)

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

	// AcceptAnyTCBStatus leaves to the caller which TCB statuses but Revoked are
	// acceptable; [Verified.TCB] has what was found. Otherwise all but UpToDate are
	// refused. It has no effect without collateral.
	AcceptAnyTCBStatus bool

	// Cache remembers which platforms were verified, and against what, so that the
	// next quote of such a platform costs two signatures. nil remembers nothing. What is
	// accepted is the same with and without.
	Cache *Cache

	// Now is the time at which certificates and collateral must be valid. Zero
	// means the current time.
	Now time.Time
}

// Verified is a quote that has been verified. Only [Verify] makes one that is not
// empty. Its methods may be called concurrently.
type Verified struct {
	quote    Quote
	tcb      *TCB // nil where there was no collateral
	fmspc    string
	instance []byte
	outdated time.Duration
	issued   time.Time
}

const opVerify = "verify TDX quote"

// Verify checks that q was signed by a quoting enclave that the PKI below
// opts.Roots vouches for, and, with collateral, that no certificate is revoked
// and that the platform, its TDX module and its quoting enclave are all at a
// TCB level that is UpToDate, or at any but a revoked one where opts says so. nil options are those of the zero value, which
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
//   - [attestext.ErrPolicy]: the TCB is not UpToDate, is revoked or is none that the
//     collateral knows, or the collateral has expired, so that nobody vouches for
//     the TCB today.
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
	now := opts.Now
	if now.IsZero() {
		now = time.Now()
	}
	// The fields of q are the caller's; those of the bytes that are verified count.
	raw := bytes.Clone(q.raw)
	if err := walk(raw); err != nil {
		return nil, err
	}
	if v := opts.Cache.verify(raw, roots, opts, now); v != nil {
		return v, nil
	}
	p, v, err := verifyAll(raw, roots, opts, now)
	if err != nil {
		return nil, err
	}
	opts.Cache.remember(raw, p, roots, opts, now)
	return v, nil
}

// verifyAll verifies a quote that walk has accepted, with all that belongs to it. The
// signatures, the chain, revocation and TCB levels are checked by go-tdx-guest; the
// TCB levels are evaluated here again, because it knows no other answer than
// UpToDate or an error.
func verifyAll(raw []byte, roots *x509.CertPool, opts *VerifyOptions, now time.Time) (*platform, *Verified, error) {
	err := verifyQuote(raw, roots, opts.Collateral, now)
	status := opts.Collateral != nil && isTCBStatus(err)
	if err != nil && !status {
		return nil, nil, classify(err, opts.Collateral)
	}
	p, perr := newPlatform(raw)
	if perr != nil {
		return nil, nil, perr
	}
	v, verr := conclude(raw, p, opts, now)
	if verr != nil {
		return nil, nil, verr
	}
	if status && v.TCBStatus() == TCBUpToDate {
		// The two evaluations disagree, and one of them refuses.
		return nil, nil, classify(err, opts.Collateral)
	}
	return p, v, nil
}

// conclude compares a quote whose signatures have been verified with what Intel's
// platforms have to be, and makes the result.
func conclude(raw []byte, p *platform, opts *VerifyOptions, now time.Time) (*Verified, error) {
	v := &Verified{quote: *readFields(raw), fmspc: p.ext.FMSPC, instance: p.instance}
	if opts.Collateral == nil {
		return v, errors.Join(checkQE(raw), checkModule(raw))
	}
	tcb, err := opts.Collateral.evaluate(raw, p, now)
	if err != nil {
		return nil, err
	}
	switch {
	case tcb.Status == TCBRevoked:
		return nil, attestext.Errorf(attestext.ErrPolicy, opVerify, "TCB status is %q%s", tcb.Status, tcb.detail())
	case tcb.Status != TCBUpToDate && !opts.AcceptAnyTCBStatus:
		return nil, attestext.Errorf(attestext.ErrPolicy, opVerify, "TCB status is %q, want %q%s", tcb.Status, TCBUpToDate, tcb.detail())
	}
	v.tcb, v.issued = tcb, opts.Collateral.Issued()
	if !tcb.OutOfDateSince.IsZero() {
		v.outdated = now.Sub(tcb.OutOfDateSince)
	}
	return v, nil
}

// verifyQuote runs go-tdx-guest over raw, and returns its error as it is, or one with
// a class. Its options are made anew for each call, because it writes to them, and so
// is the message, because it appends to a slice inside it.
func verifyQuote(raw []byte, roots *x509.CertPool, c *Collateral, now time.Time) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = attestext.Errorf(attestext.ErrMalformed, opVerify, "verification panicked: %v", p)
		}
	}()
	m, err := toProto(raw)
	if err != nil {
		return err
	}
	o := &verify.Options{TrustedRoots: roots, Now: now}
	if c != nil {
		o.GetCollateral, o.CheckRevocations = true, true
		o.Getter = collateralGetter{c}
	}
	return verify.TdxQuote(m, o)
}

// Fields of the QE report, an SGX report body, by offset from its start, and what
// they are for Intel's TD quoting enclave. The values are those of the QE identity
// that Intel publishes.
const (
	qeMiscSelectOffset = 16
	qeMiscSelectSize   = 4
	qeAttributesOffset = 48
	qeAttributesSize   = 16
	qeAttributeDebug   = 0x02 // in the first byte of ATTRIBUTES
	qeMRSIGNEROffset   = 128
	qeProdIDOffset     = 256 // u16
	qeProdID           = 2
	qeISVSVNOffset     = 258 // u16
	qeReportDataOffset = 320
	qeReportDataSize   = 64
)

var qeMRSIGNER = [32]byte{
	0xdc, 0x9e, 0x2a, 0x7c, 0x6f, 0x94, 0x8f, 0x17, 0x47, 0x4e, 0x34, 0xa7, 0xfc, 0x43, 0xed, 0x03,
	0x0f, 0x7c, 0x15, 0x63, 0xf1, 0xba, 0xbd, 0xdf, 0x63, 0x40, 0xc8, 0x2e, 0x0e, 0x54, 0xa8, 0xc5,
}

// checkQE checks that the enclave that signed a verified quote is Intel's. A
// platform certifies any enclave that its owner has given the provisioning key,
// and go-tdx-guest looks at which one it is only where it has collateral.
func checkQE(raw []byte) error {
	report := qeReport(raw)
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
	if _, ok := errors.AsType[*attestext.Error](err); ok {
		return err
	}
	msg := err.Error()
	class := attestext.ErrSignature
	switch {
	case isTCBStatus(err):
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

// isTCBStatus reports whether go-tdx-guest has found nothing wrong but the level of
// the platform, the module or the quoting enclave. It compares levels when everything
// else has been verified, those of the quoting enclave last, so that after an error
// about the platform the quoting enclave is still to be looked at: evaluate does. What
// the module says otherwise begins otherwise, whatever a peer writes.
func isTCBStatus(err error) bool {
	return err != nil &&
		(strings.HasPrefix(err.Error(), "TDX TCB info reported by Intel PCS failed TCB status check: ") ||
			strings.HasPrefix(err.Error(), "QE Identity reported by Intel PCS failed TCB status check: "))
}

// Object identifiers of Intel's extension of PCK certificates.
var (
	oidSGXExtension       = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
	oidPlatformInstanceID = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1, 6}
)

// PlatformInstanceIDSize is the size of a platform instance ID, in bytes.
const PlatformInstanceIDSize = 16

// A platform is what the PCK certificate chain of a quote says.
type platform struct {
	certs    [pckChainLen]*x509.Certificate // leaf, Platform CA, root
	key      *ecdsa.PublicKey               // of the leaf
	ext      *pcs.PckExtensions
	instance []byte
}

// pckChainLen is the number of certificates in a quote.
const pckChainLen = 3

// newPlatform reads the PCK certificate chain of a quote that walk has accepted.
func newPlatform(raw []byte) (p *platform, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, attestext.Errorf(attestext.ErrMalformed, opVerify, "reading the PCK certificate panicked: %v", r)
		}
	}()
	certs, err := parseChain(pckChain(raw), pckChainLen)
	if err != nil {
		return nil, attestext.Errorf(attestext.ErrMalformed, opVerify, "PCK certificate chain: %w", err)
	}
	p = &platform{certs: [pckChainLen]*x509.Certificate(certs)}
	var ok bool
	if p.key, ok = certs[0].PublicKey.(*ecdsa.PublicKey); !ok || p.key.Curve != elliptic.P256() {
		return nil, attestext.Errorf(attestext.ErrSignature, opVerify, "PCK certificate has a key of another kind than P-256")
	}
	if p.ext, err = pcs.PckCertificateExtensions(certs[0]); err != nil {
		return nil, attestext.Errorf(attestext.ErrMalformed, opVerify, "PCK certificate: %w", err)
	}
	p.instance = instanceID(certs[0])
	return p, nil
}

// instanceID returns the platform instance ID that a PCK certificate names, where it
// does.
func instanceID(leaf *x509.Certificate) (instance []byte) {
	for _, ext := range leaf.Extensions {
		if !ext.Id.Equal(oidSGXExtension) {
			continue
		}
		var items []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &items); err != nil || len(rest) != 0 {
			return nil
		}
		for _, item := range items {
			var pair struct {
				ID    asn1.ObjectIdentifier
				Value asn1.RawValue
			}
			if _, err := asn1.Unmarshal(item.FullBytes, &pair); err != nil {
				continue
			}
			if pair.Value.Tag == asn1.TagOctetString && pair.ID.Equal(oidPlatformInstanceID) && len(pair.Value.Bytes) == PlatformInstanceIDSize {
				instance = pair.Value.Bytes
			}
		}
	}
	if len(bytes.Trim(instance, "\x00")) == 0 {
		return nil // zeros tell no platform from another
	}
	return instance
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
func (v *Verified) CollateralChecked() bool { return v.tcb != nil }

// TCBStatus returns the status of the TCB, that of [TCB], or the empty string where
// there was no collateral and the status is not known.
func (v *Verified) TCBStatus() string {
	if v.tcb == nil {
		return ""
	}
	return v.tcb.Status
}

// TCB returns what collateral says of the platform, nil where there was none. The
// caller must not change it.
func (v *Verified) TCB() *TCB { return v.tcb }

// CollateralIssued returns [Collateral.Issued] of the collateral that was verified with,
// zero where there was none.
func (v *Verified) CollateralIssued() time.Time { return v.issued }

// TCBAdvisories returns [TCB.Advisories]. The caller must not change it.
func (v *Verified) TCBAdvisories() []string {
	if v.tcb == nil {
		return nil
	}
	return v.tcb.Advisories
}

// TCBOutOfDateFor returns the time from [TCB.OutOfDateSince] to that of verification,
// zero where the TCB is not out of date.
func (v *Verified) TCBOutOfDateFor() time.Duration { return v.outdated }

// TCBStatusBefore returns [TCB.Before], the empty string where there was no collateral.
func (v *Verified) TCBStatusBefore() string {
	if v.tcb == nil {
		return ""
	}
	return v.tcb.Before
}

// FMSPC returns the family of platforms, 12 hexadecimal digits.
func (v *Verified) FMSPC() string { return v.fmspc }

// PlatformInstanceID returns the 16 bytes by which Intel's PKI tells one platform
// from another, or nil where the certificate has none, or only zeros. The caller
// must not change it.
func (v *Verified) PlatformInstanceID() []byte { return v.instance }
