package attesttest

import (
	"bytes"
	"errors"

	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/tpm"
)

// OpenTPM is for the field Open of a [Target]: it takes evidence with a TPM quote apart,
// by itself or as the platform's part of a bundle. The key must be one of ECDSA P-256, as
// package tpmdevice makes it.
func OpenTPM(b []byte) (*Opened, error) {
	return openWrapper(b, func(record *cmw.Record, wrap func(*cmw.Record) ([]byte, error)) (*Opened, error) {
		if _, err := tpm.Parse(record.Value); err != nil {
			return nil, err
		}
		// The TPMT_SIGNATURE, of 70 bytes or a little more, is behind its name and its
		// length.
		const name, size = "signature", 70
		at := bytes.Index(record.Value, []byte(name))
		if at += len(name) + 2; at+size > len(record.Value) {
			return nil, errors.New("the signature is not where it should be")
		}
		return &Opened{
			Quote: record.Value,
			Fields: []Field{
				{Name: "quote", Size: len(record.Value)},
				{Name: "signature", Offset: at, Size: size, Signature: true},
			},
			Wrap: func(quote []byte) ([]byte, error) {
				r := *record
				r.Value = quote
				return wrap(&r)
			},
		}, nil
	})
}
