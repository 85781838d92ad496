package tsm

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func text(s string) string {
	if len(s) > 23 {
		panic("too long")
	}
	return hex.EncodeToString(append([]byte{0x60 + byte(len(s))}, s...))
}

var (
	small = &Report{Provider: ProviderTDX, OutBlob: []byte{0xfb, 0xff}}
	full  = &Report{
		Provider: ProviderSNP, OutBlob: []byte{1, 2, 3}, AuxBlob: []byte{4},
		ServiceProvider: "svsm", ManifestBlob: []byte{5},
	}
)

// Written by hand, in the encoding that Report makes: the shorter key first.
var vectors = []struct {
	name string
	cbor string
	json string
	want *Report
}{
	{
		"quote alone",
		"a2" + text("outblob") + "42fbff" + text("provider") + text("tdx_guest"),
		`{"outblob":"-_8","provider":"tdx_guest"}`,
		small,
	},
	{
		"every member",
		"a5" + text("auxblob") + "4104" + text("outblob") + "43010203" + text("provider") + text("sev_guest") +
			text("manifestblob") + "4105" + text("service_provider") + text("svsm"),
		`{"auxblob":"BA","manifestblob":"BQ","outblob":"AQID","provider":"sev_guest","service_provider":"svsm"}`,
		full,
	},
}

func TestVectorsParseAndEncode(t *testing.T) {
	for _, v := range vectors {
		b := unhex(t, v.cbor)
		got, err := Parse(FormatCBOR, b)
		if err != nil || !reflect.DeepEqual(got, v.want) {
			t.Errorf("%s, CBOR: %+v, %v", v.name, got, err)
		}
		if enc, err := v.want.CBOR(); err != nil || !bytes.Equal(enc, b) {
			t.Errorf("%s, CBOR: %x, %v", v.name, enc, err)
		}
		for _, f := range []attestext.EvidenceFormat{FormatJSON, {MediaType: MediaTypeConfigfsJSON}} {
			got, err := Parse(f, []byte(v.json))
			if err != nil || !reflect.DeepEqual(got, v.want) {
				t.Errorf("%s, %v: %+v, %v", v.name, f, got, err)
			}
		}
		if enc, err := v.want.JSON(); err != nil || string(enc) != v.json {
			t.Errorf("%s, JSON: %s, %v", v.name, enc, err)
		}
	}
}

func TestEveryStrictPrefixAndTrailingByteIsRefused(t *testing.T) {
	for _, v := range vectors {
		for _, enc := range []struct {
			b     []byte
			parse func([]byte) (*Report, error)
		}{{unhex(t, v.cbor), ParseCBOR}, {[]byte(v.json), ParseJSON}} {
			for i := range enc.b {
				if _, err := enc.parse(enc.b[:i]); !errors.Is(err, attestext.ErrMalformed) {
					t.Errorf("%s: first %d of %d bytes: %v", v.name, i, len(enc.b), err)
				}
			}
			for _, tail := range []byte{0x00, '\n', '}'} {
				if _, err := enc.parse(append(bytes.Clone(enc.b), tail)); !errors.Is(err, attestext.ErrMalformed) {
					t.Errorf("%s with %#02x behind: %v", v.name, tail, err)
				}
			}
		}
	}
}

func TestMalformedReportIsRefused(t *testing.T) {
	out, provider := text("outblob")+"4101", text("provider")+text("p")
	for name, s := range map[string]string{
		"empty map":                    "a0",
		"array":                        "82 4101 6170",
		"indefinite length":            "bf" + out + provider + "ff",
		"no provider":                  "a1" + out,
		"no outblob":                   "a1" + provider,
		"empty outblob":                "a2" + text("outblob") + "40" + provider,
		"empty provider":               "a2" + out + text("provider") + "60",
		"provider of a line break":     "a2" + out + text("provider") + "610a",
		"empty auxblob":                "a3" + out + provider + text("auxblob") + "40",
		"null auxblob":                 "a3" + out + provider + text("auxblob") + "f6",
		"text for outblob":             "a2" + text("outblob") + "6161" + provider,
		"integers for outblob":         "a2" + text("outblob") + "8101" + provider,
		"bytes for provider":           "a2" + out + text("provider") + "4161",
		"provider not UTF-8":           "a2" + out + text("provider") + "61ff",
		"duplicate outblob":            "a3" + out + provider + out,
		"unknown member":               "a3" + out + provider + text("service") + "a0",
		"integer for a name":           "a3" + out + provider + "01 00",
		"name in another case":         "a2" + text("OutBlob") + "4101" + provider,
		"manifest without its service": "a3" + out + provider + text("manifestblob") + "4101",
	} {
		if r, err := ParseCBOR(unhex(t, s)); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("CBOR, %s: %+v, %v", name, r, err)
		}
	}
	for _, s := range []string{
		`{}`,
		`["AQ","p"]`,
		`{"outblob":"AQ"}`,
		`{"outblob":"","provider":"p"}`,
		`{"outblob":null,"provider":"p"}`,
		`{"outblob":[1],"provider":"p"}`,
		`{"outblob":"AQ","provider":1}`,
		`{"outblob":"AQ","outblob":"AQ","provider":"p"}`,
		`{"outblob":"AQ","provider":"p","service":{}}`,
		`{"OutBlob":"AQ","provider":"p"}`,
		`{"outblob":"AR","provider":"p"}`,
		`{"outblob":"+_8","provider":"p"}`,
		`{"outblob":"AQ=","provider":"p"}`,
		`{"outblob":"AQ===","provider":"p"}`,
		`{"outblob":"AQID====","provider":"p"}`,
		`{"outblob":"=AQ=","provider":"p"}`,
		`{"outblob":"A\nQ","provider":"p"}`,
		`{"outblob":"AQ","provider":"p","manifestblob":"AQ"}`,
	} {
		if r, err := ParseJSON([]byte(s)); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("JSON, %s: %+v, %v", s, r, err)
		}
	}
}

func TestStandardBase64AndPaddingAreAccepted(t *testing.T) {
	for _, s := range []string{"-_8", "-_8=", "+/8", "+/8="} {
		r, err := ParseJSON([]byte(`{"outblob":"` + s + `","provider":"tdx_guest"}`))
		if err != nil || !reflect.DeepEqual(r, small) {
			t.Errorf("%s: %+v, %v", s, r, err)
		}
	}
}

func TestKernelsLineBreakIsNoPartOfProvider(t *testing.T) {
	r, err := ParseJSON([]byte(`{"outblob":"-_8","provider":"tdx_guest\n"}`))
	if err != nil || r.Provider != ProviderTDX {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestUnknownProviderIsAccepted(t *testing.T) {
	b, err := (&Report{Provider: "arm_cca_guest", OutBlob: []byte{1}}).CBOR()
	if err != nil {
		t.Fatal(err)
	}
	if r, err := ParseCBOR(b); err != nil || r.Provider != "arm_cca_guest" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestFormatOfAnotherKindIsWrongType(t *testing.T) {
	f := attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatEATCWT}
	if _, err := Parse(f, unhex(t, vectors[0].cbor)); !errors.Is(err, attestext.ErrWrongType) {
		t.Error(err)
	}
	if IsReport(f) || !IsReport(attestext.EvidenceFormat{MediaType: "Application/vnd.veraison.tsm-report+CBOR"}) {
		t.Error("IsReport is wrong")
	}
}

func TestIncompleteReportIsNotEncoded(t *testing.T) {
	for _, r := range []*Report{
		{OutBlob: []byte{1}},
		{Provider: "p"},
		{Provider: "p\n", OutBlob: []byte{1}},
		{Provider: "\xff", OutBlob: []byte{1}},
		{Provider: "p", OutBlob: []byte{1}, ManifestBlob: []byte{1}},
		{Provider: "p", OutBlob: make([]byte, MaxSize)},
	} {
		if _, err := r.CBOR(); err == nil {
			t.Errorf("%.20q: encoded as CBOR", r.Provider)
		}
		if _, err := r.JSON(); err == nil {
			t.Errorf("%.20q: encoded as JSON", r.Provider)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors {
		f.Add(unhex(f, v.cbor))
		f.Add([]byte(v.json))
	}
	f.Add([]byte(`{"outblob":"+/8=","provider":"tdx_guest\n"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		for _, parse := range []func([]byte) (*Report, error){ParseCBOR, ParseJSON} {
			r, err := parse(b)
			if err != nil {
				if r != nil || !errors.Is(err, attestext.ErrMalformed) {
					t.Fatalf("%+v, %v", r, err)
				}
				continue
			}
			c, err := r.CBOR()
			if err != nil {
				t.Fatal(err)
			}
			j, err := r.JSON()
			if err != nil && len(b) < MaxSize/6 {
				t.Fatal(err)
			}
			if again, err := ParseCBOR(c); err != nil || !reflect.DeepEqual(r, again) {
				t.Fatalf("CBOR: %+v came back as %+v, %v", r, again, err)
			}
			if j == nil {
				continue
			}
			if again, err := ParseJSON(j); err != nil || !reflect.DeepEqual(r, again) {
				t.Fatalf("JSON: %+v came back as %+v, %v", r, again, err)
			}
		}
	})
}
