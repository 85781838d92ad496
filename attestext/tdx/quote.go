// Package tdx reads and verifies Intel TDX quotes, version 4: [Parse] checks that
// the bytes are a quote, [Verify] that Intel's PKI vouches for them and that the
// platform's TCB is current. Whether what a genuine quote says is acceptable is
// decided in package policy, and whether it is bound to a session in package
// verifier.
//
// The layout is that of the "Intel TDX DCAP Quoting Library API", section "TD
// Quote Format", version 4. The signature, the certificate chain, the revocation
// lists and the TCB levels are checked by github.com/google/go-tdx-guest.
// Version 5 and the TDX 1.5 report body that it carries are not supported.
package tdx

import (
	"bytes"
	"encoding/binary"

	"github.com/attestedtls/atls/attestext"
	"github.com/google/go-tdx-guest/abi"
	pb "github.com/google/go-tdx-guest/proto/tdx"
)

// The layout of a version 4 quote; all integers are little-endian.
//
//	quote                 header ‖ TD report body ‖ u32 size ‖ signature data
//	signature data        signature ‖ attestation key ‖ certification data
//	certification data    u16 type (6) ‖ u32 size ‖ QE certification
//	QE certification      QE report ‖ signature ‖ u16 size ‖ QE auth data ‖ PCK chain data
//	PCK chain data        u16 type (5) ‖ u32 size ‖ PEM: leaf, Platform CA, root
//
// Offsets of the first block are from the start of the quote.
const (
	headerVersionOffset = 0x00 // u16
	headerKeyTypeOffset = 0x02 // u16
	headerTEETypeOffset = 0x04 // u32
	headerSize          = 0x30

	bodyOffset           = headerSize
	bodySize             = 0x248
	signatureSizeOffset  = bodyOffset + bodySize // u32
	signatureSizeSize    = 4
	signatureDataOffset  = signatureSizeOffset + signatureSizeSize
	reportDataBodyOffset = 0x208

	// ReportDataOffset is where REPORTDATA begins, in bytes from the start of a quote.
	ReportDataOffset = bodyOffset + reportDataBodyOffset
)

// Offsets of the fields of the TD report body, from its start.
const (
	bodyTeeTcbSvnOffset      = 0x00
	bodyMRSEAMOffset         = 0x10
	bodyMRSIGNERSEAMOffset   = 0x40
	bodySEAMAttributesOffset = 0x70
	bodyTdAttributesOffset   = 0x78
	bodyXFAMOffset           = 0x80
	bodyMRTDOffset           = 0x88
	bodyMRConfigIDOffset     = 0xB8
	bodyMROwnerOffset        = 0xE8
	bodyMROwnerConfigOffset  = 0x118
	bodyRTMROffset           = 0x148
)

// Sizes in the signature data.
const (
	signatureSize             = 64 // ECDSA P-256, r ‖ s
	attestationKeySize        = 64 // ECDSA P-256, x ‖ y
	certDataHeaderSize        = 6  // u16 type ‖ u32 size
	certDataSizeOffset        = 2
	qeReportSize              = 0x180
	qeAuthDataSizeSize        = 2
	certDataTypeQEReport      = 6
	certDataTypePCKChain      = 5
	quoteVersion              = 4
	quoteVersionTD15          = 5
	keyTypeECDSAP256          = 2
	teeTypeTDX                = 0x81
	pckChainPadding      byte = 0 // some quoting enclaves end the PEM with one
)

// Sizes of the fields of a quote, in bytes.
const (
	MeasurementSize   = 48 // SHA-384: MRTD, RTMRs, MRSEAM and the configuration fields
	TeeTcbSvnSize     = 16
	AttributesSize    = 8
	RTMRCount         = 4
	MaxQuoteSize      = 32 << 10 // refused above; a quote has about 5,000
	minQuoteSize      = signatureDataOffset
	tudAttributesMask = 0xff // byte 0 of TD_ATTRIBUTES, "TD Under Debug"
)

// A Measurement is a SHA-384 measurement register or one of the configuration
// fields of that size.
type Measurement = [MeasurementSize]byte

// A Quote is a parsed TDX quote of version 4. Nothing in it has been verified:
// the fields say what a peer claims. Hand it to [Verify].
type Quote struct {
	TeeTcbSvn      [TeeTcbSvnSize]byte  // security versions of the TDX module and platform, component by component
	MRSEAM         Measurement          // measurement of the TDX module
	MRSIGNERSEAM   Measurement          // its signer; zero for Intel
	SEAMAttributes [AttributesSize]byte // attributes of the TDX module
	TdAttributes   [AttributesSize]byte // attributes of the TD; see Debug
	XFAM           [AttributesSize]byte // extended features available to the TD
	MRTD           Measurement          // initial contents of the TD
	MRConfigID     Measurement          // configuration that the TD's creator declares
	MROwner        Measurement          // the TD's owner
	MROwnerConfig  Measurement          // configuration that the owner declares
	RTMRs          [RTMRCount]Measurement
	ReportData     [attestext.ReportDataSize]byte

	// raw is the quote that the fields were read from, all of it and nothing
	// else. Verify goes back to it, so that what is verified is not what a
	// caller may have written into the fields.
	raw []byte
}

// Debug reports whether the TD runs under debug, in which case its memory is open
// to the host and nothing it says is worth anything. Any bit of the TUD group of
// TD_ATTRIBUTES counts, DEBUG (bit 0) and the reserved ones alike, as Intel's TDX
// module specification has it.
func (q *Quote) Debug() bool { return q.TdAttributes[0]&tudAttributesMask != 0 }

// Raw returns the quote as it was parsed. The caller must not change it.
func (q *Quote) Raw() []byte { return q.raw }

func malformed(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrMalformed, "parse TDX quote", format, args...)
}

// Parse reads a quote of version 4 out of b, which must hold it and nothing else;
// see [QuoteSize] for buffers that are longer. Every length is checked against
// the bytes that are there before anything else reads them.
//
// Parse verifies nothing. Errors are of class [attestext.ErrMalformed]. b is
// copied.
func Parse(b []byte) (*Quote, error) {
	if err := walk(b); err != nil {
		return nil, err
	}
	raw := bytes.Clone(b)
	if _, err := toProto(raw); err != nil {
		return nil, err
	}
	return readFields(raw), nil
}

// readFields reads the fields of a quote that walk has accepted, and keeps raw.
func readFields(raw []byte) *Quote {
	q := &Quote{raw: raw}
	body := raw[bodyOffset:][:bodySize]
	for _, f := range []struct {
		dst    []byte
		offset int
	}{
		{q.TeeTcbSvn[:], bodyTeeTcbSvnOffset},
		{q.MRSEAM[:], bodyMRSEAMOffset},
		{q.MRSIGNERSEAM[:], bodyMRSIGNERSEAMOffset},
		{q.SEAMAttributes[:], bodySEAMAttributesOffset},
		{q.TdAttributes[:], bodyTdAttributesOffset},
		{q.XFAM[:], bodyXFAMOffset},
		{q.MRTD[:], bodyMRTDOffset},
		{q.MRConfigID[:], bodyMRConfigIDOffset},
		{q.MROwner[:], bodyMROwnerOffset},
		{q.MROwnerConfig[:], bodyMROwnerConfigOffset},
		{q.RTMRs[0][:], bodyRTMROffset},
		{q.RTMRs[1][:], bodyRTMROffset + MeasurementSize},
		{q.RTMRs[2][:], bodyRTMROffset + 2*MeasurementSize},
		{q.RTMRs[3][:], bodyRTMROffset + 3*MeasurementSize},
		{q.ReportData[:], reportDataBodyOffset},
	} {
		copy(f.dst, body[f.offset:])
	}
	return q
}

// QuoteSize returns the length in bytes of the quote that b begins with. Some
// hosts return a quote in a buffer that is padded; cut it to this length before
// it is sent, hashed or parsed. It reads the header and one length, no more.
func QuoteSize(b []byte) (int, error) {
	if err := checkHeader(b); err != nil {
		return 0, err
	}
	n := uint64(binary.LittleEndian.Uint32(b[signatureSizeOffset:]))
	if n > uint64(len(b)-signatureDataOffset) {
		return 0, malformed("signature data of %d bytes, %d are there", n, len(b)-signatureDataOffset)
	}
	return signatureDataOffset + int(n), nil
}

func checkHeader(b []byte) error {
	if len(b) >= headerVersionOffset+2 {
		switch v := binary.LittleEndian.Uint16(b[headerVersionOffset:]); v {
		case quoteVersion:
		case quoteVersionTD15:
			return malformed("quote version %d (TDX 1.5 report body) is not supported, want %d", v, quoteVersion)
		default:
			return malformed("quote version %d is not supported, want %d", v, quoteVersion)
		}
	}
	if len(b) < minQuoteSize {
		return malformed("%d bytes, a quote has at least %d", len(b), minQuoteSize)
	}
	if t := binary.LittleEndian.Uint16(b[headerKeyTypeOffset:]); t != keyTypeECDSAP256 {
		return malformed("attestation key type %d is not supported, want %d (ECDSA P-256)", t, keyTypeECDSAP256)
	}
	if t := binary.LittleEndian.Uint32(b[headerTEETypeOffset:]); t != teeTypeTDX {
		return malformed("TEE type %#x is not TDX (%#x)", t, teeTypeTDX)
	}
	return nil
}

// walk checks every length in b and that nothing is left over. The parser of
// go-tdx-guest slices by lengths that it has not checked, and panics.
func walk(b []byte) error {
	if len(b) > MaxQuoteSize {
		return malformed("%d bytes, at most %d are read", len(b), MaxQuoteSize)
	}
	n, err := QuoteSize(b)
	if err != nil {
		return err
	}
	if n != len(b) {
		return malformed("%d bytes after the quote", len(b)-n)
	}
	data := b[signatureDataOffset:]
	if len(data) < signatureSize+attestationKeySize {
		return malformed("signature data of %d bytes, want at least %d", len(data), signatureSize+attestationKeySize)
	}
	qe, err := certData(data[signatureSize+attestationKeySize:], certDataTypeQEReport, "QE report certification data")
	if err != nil {
		return err
	}
	if len(qe) < qeReportSize+signatureSize+qeAuthDataSizeSize {
		return malformed("QE report certification data of %d bytes, want at least %d", len(qe), qeReportSize+signatureSize+qeAuthDataSizeSize)
	}
	qe = qe[qeReportSize+signatureSize:]
	auth := int(binary.LittleEndian.Uint16(qe))
	qe = qe[qeAuthDataSizeSize:]
	if auth > len(qe) {
		return malformed("QE authentication data of %d bytes, %d are there", auth, len(qe))
	}
	chain, err := certData(qe[auth:], certDataTypePCKChain, "PCK certificate chain")
	if err != nil {
		return err
	}
	if len(chain) == 0 {
		return malformed("PCK certificate chain is empty")
	}
	return nil
}

// certData returns the contents of the certification data that b is, header
// included, neither more nor less.
func certData(b []byte, want uint16, what string) ([]byte, error) {
	if len(b) < certDataHeaderSize {
		return nil, malformed("%s: %d bytes, want at least %d", what, len(b), certDataHeaderSize)
	}
	if t := binary.LittleEndian.Uint16(b); t != want {
		return nil, malformed("%s: certification data type %d is not supported, want %d", what, t, want)
	}
	n := uint64(binary.LittleEndian.Uint32(b[certDataSizeOffset:]))
	b = b[certDataHeaderSize:]
	if n != uint64(len(b)) {
		return nil, malformed("%s: %d bytes announced, %d are there", what, n, len(b))
	}
	return b, nil
}

// pckChain returns the PEM of the PCK certificate chain of a quote that walk has
// accepted, without the zero that may end it.
func pckChain(raw []byte) []byte {
	qe := raw[signatureDataOffset+signatureSize+attestationKeySize+certDataHeaderSize:]
	qe = qe[qeReportSize+signatureSize:]
	auth := int(binary.LittleEndian.Uint16(qe))
	chain := qe[qeAuthDataSizeSize+auth+certDataHeaderSize:]
	return bytes.TrimSuffix(chain, []byte{pckChainPadding})
}

// toProto has go-tdx-guest parse a quote that walk has accepted. The message is
// fresh each time, since verification appends to slices inside it.
func toProto(raw []byte) (quote *pb.QuoteV4, err error) {
	defer func() {
		if p := recover(); p != nil {
			quote, err = nil, malformed("parser panicked: %v", p)
		}
	}()
	m, err := abi.QuoteToProto(raw)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: "parse TDX quote", Err: err}
	}
	q, ok := m.(*pb.QuoteV4)
	if !ok {
		return nil, malformed("parser returned %T", m)
	}
	return q, nil
}
