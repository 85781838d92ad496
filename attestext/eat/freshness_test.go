package eat_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/tsm"
)

func TestReportDataOfABundlesQuote(t *testing.T) {
	kak, handle := []byte("kak"), bytes.Repeat([]byte{7}, 8)
	hash := sha256.Sum256(kak)
	for f, mark := range map[eat.Freshness][]byte{
		eat.Undated:    make([]byte, 32),
		eat.ForSession: sum("atls quote freshness v1\x00\x01" + string(handle)),
		eat.ForEpoch:   sum("atls quote freshness v1\x00\x02" + string(handle)),
	} {
		rd := eat.ReportData(kak, f, handle)
		if !bytes.Equal(rd[:32], hash[:]) || !bytes.Equal(rd[32:], mark) {
			t.Errorf("%v: %x", f, rd)
		}
	}
}

func sum(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

func TestFreshnessIsToldApart(t *testing.T) {
	kak, challenge, epoch := []byte("kak"), []byte("challenge"), []byte("epoch ID")
	var padded384 [attestext.ReportDataSize]byte
	h := sha512.Sum384(kak)
	copy(padded384[:], h[:])
	for name, c := range map[string]struct {
		rd    [attestext.ReportDataSize]byte
		epoch []byte
		want  eat.Freshness
		ok    bool
	}{
		"undated":                    {eat.ReportData(kak, eat.Undated, nil), nil, eat.Undated, true},
		"undated, SHA-384":           {padded384, nil, eat.Undated, true},
		"undated, SHA-512":           {sha512.Sum512(kak), nil, eat.Undated, true},
		"undated beside an epoch ID": {eat.ReportData(kak, eat.Undated, nil), epoch, 0, false},
		"session":                    {eat.ReportData(kak, eat.ForSession, challenge), nil, eat.ForSession, true},
		"epoch":                      {eat.ReportData(kak, eat.ForEpoch, epoch), epoch, eat.ForEpoch, true},
		"epoch without its ID":       {eat.ReportData(kak, eat.ForEpoch, epoch), nil, 0, false},
		"session beside an epoch ID": {eat.ReportData(kak, eat.ForSession, challenge), epoch, 0, false},
		"challenge as an epoch ID":   {eat.ReportData(kak, eat.ForSession, challenge), challenge, 0, false},
		"another session":            {eat.ReportData(kak, eat.ForSession, []byte("other")), nil, 0, false},
		"another key":                {eat.ReportData([]byte("other"), eat.ForSession, challenge), nil, 0, false},
		"no challenge":               {eat.ReportData(kak, eat.ForSession, nil), nil, 0, false},
	} {
		ch := challenge
		if name == "no challenge" {
			ch = nil
		}
		f, ok := eat.FreshnessOf(kak, func(rd [attestext.ReportDataSize]byte) bool { return rd == c.rd }, ch, c.epoch)
		if ok != c.ok || ok && f != c.want {
			t.Errorf("%s: %v, %v", name, f, ok)
		}
	}
}

func TestBundleWithAnEpochID(t *testing.T) {
	b := &eat.Bundle{KAT: []byte("kat"), PAT: cmw.Record{Format: tsm.FormatCBOR, Value: []byte("pat")}, Epoch: []byte("epoch ID")}
	encoded, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := eat.OpenBundle(encoded)
	if err != nil || !bytes.Equal(got.Epoch, b.Epoch) || !bytes.Equal(got.KAT, b.KAT) || !bytes.Equal(got.PAT.Value, b.PAT.Value) {
		t.Fatalf("%+v, %v", got, err)
	}
	for n := range encoded {
		if _, err := eat.OpenBundle(encoded[:n]); !errors.Is(err, attestext.ErrMalformed) {
			t.Fatalf("prefix of %d bytes: %v", n, err)
		}
	}
	for _, epoch := range [][]byte{{}, make([]byte, eat.MaxEpochSize+1)} {
		if _, err := (&eat.Bundle{KAT: b.KAT, PAT: b.PAT, Epoch: epoch}).Encode(); err == nil {
			t.Errorf("epoch ID of %d bytes encoded", len(epoch))
		}
	}
	record := func(mediaType string, value []byte, ind cmw.Indicator) *cmw.CMW {
		return &cmw.CMW{Form: cmw.CBORRecord, Record: &cmw.Record{Format: attestext.EvidenceFormat{MediaType: mediaType}, Value: value, Ind: ind}}
	}
	for name, e := range map[string]*cmw.CMW{
		"of another type":   record("application/octet-stream", []byte("x"), 0),
		"empty":             record(eat.EpochMediaType, []byte{}, 0),
		"long":              record(eat.EpochMediaType, make([]byte, eat.MaxEpochSize+1), 0),
		"with an indicator": record(eat.EpochMediaType, []byte("x"), cmw.Evidence),
	} {
		encoded, err := (&cmw.Collection{Type: eat.BundleType, Entries: []cmw.Entry{
			{Label: cmw.TextLabel("kat"), CMW: record(eat.TokenMediaType, b.KAT, 0)},
			{Label: cmw.TextLabel("pat"), CMW: &cmw.CMW{Form: cmw.CBORRecord, Record: &b.PAT}},
			{Label: cmw.TextLabel("epoch"), CMW: e},
		}}).CBOR()
		if err != nil {
			t.Logf("%s cannot be encoded at all: %v", name, err)
			continue
		}
		if _, err := eat.OpenBundle(encoded); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
