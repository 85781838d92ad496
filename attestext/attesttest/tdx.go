package attesttest

import (
	"encoding/binary"
	"errors"

	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
)

// OpenTDX is for the field Open of a [Target]: it takes evidence with a TDX quote apart, a TSM
// report by itself or as the platform's part of a bundle.
func OpenTDX(b []byte) (*Opened, error) {
	return openReport(b, tsm.ProviderTDX, func(quote []byte) ([]Field, error) {
		if _, err := tdx.Parse(quote); err != nil {
			return nil, err
		}
		return tdxFields(quote)
	})
}

// tdxFixedFields are the fields of a TDX quote of version 4 that have one place:
// Intel's "TDX DCAP Quoting Library API", appendix 3.
var tdxFixedFields = []Field{
	{Name: "version", Offset: 0, Size: 2},
	{Name: "attestation key type", Offset: 2, Size: 2},
	{Name: "TEE type", Offset: 4, Size: 4},
	{Name: "reserved", Offset: 8, Size: 4},
	{Name: "QE vendor ID", Offset: 12, Size: 16},
	{Name: "user data", Offset: 28, Size: 20},
	{Name: "TEE_TCB_SVN", Offset: 48, Size: 16},
	{Name: "MRSEAM", Offset: 64, Size: 48},
	{Name: "MRSIGNERSEAM", Offset: 112, Size: 48},
	{Name: "SEAMATTRIBUTES", Offset: 160, Size: 8},
	{Name: "TDATTRIBUTES", Offset: 168, Size: 8},
	{Name: "XFAM", Offset: 176, Size: 8},
	{Name: "MRTD", Offset: 184, Size: 48},
	{Name: "MRCONFIGID", Offset: 232, Size: 48},
	{Name: "MROWNER", Offset: 280, Size: 48},
	{Name: "MROWNERCONFIG", Offset: 328, Size: 48},
	{Name: "RTMR0", Offset: 376, Size: 48},
	{Name: "RTMR1", Offset: 424, Size: 48},
	{Name: "RTMR2", Offset: 472, Size: 48},
	{Name: "RTMR3", Offset: 520, Size: 48},
	{Name: "REPORTDATA", Offset: 568, Size: 64},
	{Name: "signature data length", Offset: 632, Size: 4},
	{Name: "quote signature", Offset: 636, Size: 64, Signature: true},
	{Name: "attestation key", Offset: 700, Size: 64},
	{Name: "certification data type", Offset: 764, Size: 2},
	{Name: "certification data size", Offset: 766, Size: 4},
	{Name: "QE report", Offset: 770, Size: 384},
	{Name: "QE report signature", Offset: 1154, Size: 64, Signature: true},
	{Name: "QE authentication data size", Offset: 1218, Size: 2},
}

const (
	tdxAuthSizeOffset = 1218 // u16
	tdxAuthOffset     = tdxAuthSizeOffset + 2
	tdxChainHeader    = 6 // u16 type ‖ u32 size
	// The base64 of the first certificate of the chain begins behind this line.
	pemHeader = "-----BEGIN CERTIFICATE-----\n"
	// leafSize is how much of it is taken: less than any certificate has, and
	// whole groups of four digits.
	leafSize = 768
)

// tdxFields returns the fields of a quote that has been parsed.
func tdxFields(quote []byte) ([]Field, error) {
	if len(quote) < tdxAuthOffset {
		return nil, errors.New("quote is too short")
	}
	auth := int(binary.LittleEndian.Uint16(quote[tdxAuthSizeOffset:]))
	chain := tdxAuthOffset + auth
	leaf := chain + tdxChainHeader + len(pemHeader)
	if len(quote) < leaf+leafSize {
		return nil, errors.New("PCK certificate chain is too short")
	}
	fields := append([]Field(nil), tdxFixedFields...)
	if auth > 0 {
		fields = append(fields, Field{Name: "QE authentication data", Offset: tdxAuthOffset, Size: auth})
	}
	return append(fields,
		Field{Name: "PCK chain type", Offset: chain, Size: 2},
		Field{Name: "PCK chain size", Offset: chain + 2, Size: 4},
		Field{Name: "PCK certificate", Offset: leaf, Size: leafSize},
	), nil
}
