package attesttest

import (
	"fmt"

	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/tsm"
)

// openWrapper takes evidence apart: open is given the record of the platform, which is
// there by itself or in a bundle, and what puts a record in its place.
func openWrapper(b []byte, open func(record *cmw.Record, wrap func(*cmw.Record) ([]byte, error)) (*Opened, error)) (*Opened, error) {
	w, err := cmw.Parse(b)
	if err != nil {
		return nil, err
	}
	if w.Collection != nil {
		kat, pat, err := eat.ParseBundle(b)
		if err != nil {
			return nil, err
		}
		return open(&pat, func(r *cmw.Record) ([]byte, error) { return eat.EncodeBundle(kat, *r) })
	}
	if _, _, err := w.Evidence(); err != nil {
		return nil, err
	}
	return open(w.Record, func(r *cmw.Record) ([]byte, error) {
		return (&cmw.CMW{Form: w.Form, Record: r}).Encode()
	})
}

// openReport takes evidence with a TSM report of one provider apart. fields parses what
// the TEE signed.
func openReport(b []byte, provider string, fields func(quote []byte) ([]Field, error)) (*Opened, error) {
	return openWrapper(b, func(record *cmw.Record, wrap func(*cmw.Record) ([]byte, error)) (*Opened, error) {
		return openRecord(record, provider, fields, wrap)
	})
}

func openRecord(record *cmw.Record, provider string, fields func([]byte) ([]Field, error), wrap func(*cmw.Record) ([]byte, error)) (*Opened, error) {
	report, err := tsm.Parse(record.Format, record.Value)
	if err != nil {
		return nil, err
	}
	if report.Provider != provider {
		return nil, fmt.Errorf("report is by %q, not by %q", report.Provider, provider)
	}
	list, err := fields(report.OutBlob)
	if err != nil {
		return nil, err
	}
	return &Opened{Quote: report.OutBlob, Fields: list, Wrap: func(quote []byte) ([]byte, error) {
		r := *report
		r.OutBlob = quote
		encode := r.CBOR
		if !record.Format.Equal(tsm.FormatCBOR) {
			encode = r.JSON
		}
		value, err := encode()
		if err != nil {
			return nil, err
		}
		changed := *record
		changed.Value = value
		return wrap(&changed)
	}}, nil
}
