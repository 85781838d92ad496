package attestext

import "testing"

func TestOnlyBareWrapperMeansAnyFormat(t *testing.T) {
	const bundle = `application/cmw+cbor; cmwc_t="tag:ietf.org,2024-02-29:rats/kat"`
	tests := []struct {
		f    EvidenceFormat
		want bool
	}{
		{EvidenceFormat{ContentFormat: ContentFormatCMWCBOR}, true},
		{EvidenceFormat{ContentFormat: ContentFormatCMWJSON}, true},
		{EvidenceFormat{ContentFormat: ContentFormatEATCWT}, false},
		{EvidenceFormat{}, false},
		{EvidenceFormat{MediaType: "application/cmw+cbor"}, true},
		{EvidenceFormat{MediaType: "Application/CMW+JSON"}, true},
		{EvidenceFormat{MediaType: "application/cmw+cose"}, false},
		{EvidenceFormat{MediaType: bundle}, false},
		{EvidenceFormat{MediaType: `application/cmw+json; cmwc_t="1.2.3"`}, false},
		{EvidenceFormat{MediaType: "application/cmw+cbor; broken"}, false},
	}
	for _, tt := range tests {
		if got := tt.f.IsAny(); got != tt.want {
			t.Errorf("IsAny of %v = %v, want %v", tt.f, got, tt.want)
		}
	}
}

func TestTypedCollectionMatchesOnlyItself(t *testing.T) {
	bundle := EvidenceFormat{MediaType: `application/cmw+cbor; cmwc_t="tag:ietf.org,2024-02-29:rats/kat"`}
	spelled := EvidenceFormat{MediaType: `APPLICATION/cmw+cbor;CMWC_T="tag:ietf.org,2024-02-29:rats/kat"`}
	other := EvidenceFormat{MediaType: `application/cmw+cbor; cmwc_t="tag:example.com,2024:x"`}
	any := EvidenceFormat{MediaType: "application/cmw+cbor"}
	if !bundle.Matches(bundle) || !bundle.Matches(spelled) {
		t.Error("a typed collection does not match itself")
	}
	if bundle.Matches(other) || bundle.Matches(any) || bundle.Matches(EvidenceFormat{ContentFormat: ContentFormatEATCWT}) {
		t.Error("a typed collection matches another format")
	}
	if !any.Matches(bundle) {
		t.Error("the bare wrapper does not match a typed collection")
	}
}

// A peer's media type may be printed where a terminal or a log reads it.
func TestFormatsPrintNoControlCharacters(t *testing.T) {
	for in, want := range map[string]string{
		"application/eat+cwt; eat_profile=\"x\"": "application/eat+cwt; eat_profile=\"x\"",
		"a\nlevel=info\x1b[2J":                   `"a\nlevel=info\x1b[2J"`,
		"caf\u00e9/x":                            `"caf\u00e9/x"`,
	} {
		if got := (EvidenceFormat{MediaType: in}).String(); got != want {
			t.Errorf("%q prints as %s", in, got)
		}
	}
}

func TestTPMQuoteMayBeAReport(t *testing.T) {
	if f := (EvidenceFormat{MediaType: "application/x.attestedtls.tpm-quote+cbor"}); !f.MayBeReport() {
		t.Errorf("%v carries a hash of report data", f)
	}
}

func TestSignedWrapperMeansAnyFormatInside(t *testing.T) {
	for f, want := range map[EvidenceFormat][2]bool{
		{ContentFormat: 275}:                   {true, false},
		{ContentFormat: 276}:                   {false, true},
		{ContentFormat: 273}:                   {},
		{MediaType: "application/CMW+cose"}:    {true, false},
		{MediaType: "application/cmw+jws ;"}:   {false, true},
		{MediaType: "application/cmw+jws;x=y"}: {},
		{MediaType: "application/cmw+cbor"}:    {},
	} {
		if cose, jws := f.IsSignedAny(); [2]bool{cose, jws} != want || f.IsAny() && (cose || jws) {
			t.Errorf("%v: %v, %v", f, cose, jws)
		}
	}
}
