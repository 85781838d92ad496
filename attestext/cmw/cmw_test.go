package cmw

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/internal/fuzzbound"
	veraison "github.com/veraison/cmw"
)

func cf(n uint16) attestext.EvidenceFormat { return attestext.EvidenceFormat{ContentFormat: n} }

func mt(s string) attestext.EvidenceFormat { return attestext.EvidenceFormat{MediaType: s} }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// hexText is the hexadecimal of a JSON vector.
func hexText(s string) string { return hex.EncodeToString([]byte(s)) }

var (
	msg      = []byte{0x23, 0x47, 0xda, 0x55}
	evidence = &Record{Format: cf(64999), Value: msg, Ind: Evidence}
)

// The vectors were written by hand from RFC 9999; the messages inside, and the
// collections, are those of its examples. Each is in the encoding that Encode makes.
var vectors = []struct {
	name string
	hex  string
	want *CMW
}{
	{
		"record with a content format",
		"82" + "19 0107" + "44 2347da55",
		&CMW{Form: CBORRecord, Record: &Record{Format: cf(263), Value: msg}},
	},
	{
		"record with a media type",
		"82" + "73" + hexText("application/eat+cwt") + "44 2347da55",
		&CMW{Form: CBORRecord, Record: &Record{Format: mt("application/eat+cwt"), Value: msg}},
	},
	{
		"record with an indicator",
		"83" + "19 fde7" + "44 2347da55" + "04",
		&CMW{Form: CBORRecord, Record: evidence},
	},
	{
		"record with every indicator bit",
		"83" + "00" + "41 00" + "18 1f",
		&CMW{Form: CBORRecord, Record: &Record{Value: []byte{0}, Ind: allIndicators}},
	},
	{
		// 263 = 1·255 + 8, so TN is 0x63740101 + 0x108.
		"tag for content format 263",
		"da 63740209" + "44 2347da55",
		&CMW{Form: CBORTag, Record: &Record{Format: cf(263), Value: msg}},
	},
	{
		// 10000 = 39·255 + 55, so TN is 0x63740101 + 0x2737.
		"tag for content format 10000",
		"da 63742838" + "44 2347da55",
		&CMW{Form: CBORTag, Record: &Record{Format: cf(10000), Value: msg}},
	},
	{
		"JSON record",
		hexText(`["application/vnd.example.rats-conceptual-msg","I0faVQ"]`),
		&CMW{Form: JSONRecord, Record: &Record{Format: mt("application/vnd.example.rats-conceptual-msg"), Value: msg}},
	},
	{
		"JSON record with an indicator",
		hexText(`["application/eat+jwt","Li4u",8]`),
		&CMW{Form: JSONRecord, Record: &Record{Format: mt("application/eat+jwt"), Value: []byte("..."), Ind: AttestationResults}},
	},
	{
		// 65001 = 254·255 + 231, so TN is 0x63740101 + 0xfee7.
		"collection with a type, integers and text for labels",
		"a5" +
			"00" + "83 19fde7 442347da55 04" +
			"01" + "da6374ffe8 442347da55" +
			"20" + "82 00 4101" +
			"6161" + "82 01 4102" +
			"68" + hexText("__cmwc_t") + "7827" + hexText("tag:example.com,2024:composite-attester"),
		&CMW{Form: CBORCollection, Collection: &Collection{
			Type: "tag:example.com,2024:composite-attester",
			Entries: []Entry{
				{IntLabel(0), &CMW{Form: CBORRecord, Record: evidence}},
				{IntLabel(1), &CMW{Form: CBORTag, Record: &Record{Format: cf(65001), Value: msg}}},
				{IntLabel(-1), &CMW{Form: CBORRecord, Record: &Record{Value: []byte{1}}}},
				{TextLabel("a"), &CMW{Form: CBORRecord, Record: &Record{Format: cf(1), Value: []byte{2}}}},
			},
		}},
	},
	{
		"collection in a collection",
		"a1 61 61 a1 61 62 82 00 4101",
		&CMW{Form: CBORCollection, Collection: &Collection{Entries: []Entry{
			{TextLabel("a"), &CMW{Form: CBORCollection, Collection: &Collection{Entries: []Entry{
				{TextLabel("b"), &CMW{Form: CBORRecord, Record: &Record{Value: []byte{1}}}},
			}}}},
		}}},
	},
	{
		"JSON collection",
		hexText(`{"__cmwc_t":"tag:example.com,2024:another-composite-attester",` +
			`"attester A":["application/eat-ucs+json","e30K",4],` +
			`"attester B":["application/eat-ucs+cbor","oA",4]}`),
		&CMW{Form: JSONCollection, Collection: &Collection{
			Type: "tag:example.com,2024:another-composite-attester",
			Entries: []Entry{
				{TextLabel("attester A"), &CMW{Form: JSONRecord, Record: &Record{Format: mt("application/eat-ucs+json"), Value: []byte("{}\n"), Ind: Evidence}}},
				{TextLabel("attester B"), &CMW{Form: JSONRecord, Record: &Record{Format: mt("application/eat-ucs+cbor"), Value: []byte{0xa0}, Ind: Evidence}}},
			},
		}},
	},
}

func TestVectorsParseAndEncode(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			b := unhex(t, v.hex)
			got, err := Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, v.want) {
				t.Errorf("parsed %+v, want %+v", got, v.want)
			}
			enc, err := v.want.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(enc, b) {
				t.Errorf("encoded %x, want %x", enc, b)
			}
		})
	}
}

func TestEveryStrictPrefixIsRefused(t *testing.T) {
	for _, v := range vectors {
		b := unhex(t, v.hex)
		for i := range b {
			if _, err := Parse(b[:i]); !errors.Is(err, attestext.ErrMalformed) {
				t.Errorf("%s: first %d of %d bytes: %v", v.name, i, len(b), err)
			}
		}
	}
}

func TestTrailingByteIsRefused(t *testing.T) {
	for _, v := range vectors {
		for _, tail := range []byte{0x00, ' ', '\n', ']', '}', 0x82} {
			b := append(unhex(t, v.hex), tail)
			if _, err := Parse(b); !errors.Is(err, attestext.ErrMalformed) {
				t.Errorf("%s with %#02x behind: %v", v.name, tail, err)
			}
		}
	}
}

func TestMalformedWrapperIsRefused(t *testing.T) {
	record := "82 00 41 01"
	nest := func(n int) string { return strings.Repeat("a16161", n) + record }
	nestJSON := func(n int) string {
		return hexText(strings.Repeat(`{"a":`, n) + `["a/b","AA"]` + strings.Repeat("}", n))
	}
	tests := []struct{ name, hex string }{
		{"empty", ""},
		{"unknown first byte", "00"},
		{"null", "f6"},
		{"record of one element", "81 00"},
		{"record of four elements", "84 00 4101 04 04"},
		{"record with a long array header", "98 02 00 4101"},
		{"record of indefinite length", "9f 00 4101 ff"},
		{"record with a value of indefinite length", "82 00 5f 4101 ff"},
		{"record with an empty type", "82 60 4101"},
		{"record with a type that is no media type", "82 61 61 4101"},
		{"record with a type that is not UTF-8", "82 63 612fff 4101"},
		{"record with content format 65536", "82 1a00010000 4101"},
		{"record with a negative content format", "82 20 4101"},
		{"record with a byte string for a type", "82 43 612f62 4101"},
		{"record with null for a type", "82 f6 4101"},
		{"record with a tagged type", "82 c1 00 4101"},
		{"record with an empty value", "82 00 40"},
		{"record with null for a value", "82 00 f6"},
		{"record with an array of integers for a value", "82 00 81 01"},
		{"record with a text string for a value", "82 00 61 61"},
		{"record with a tagged value", "82 00 d7 4101"},
		{"record with indicator zero", "83 00 4101 00"},
		{"record with an unknown indicator bit", "83 00 4101 18 20"},
		{"record with an indicator of 33 bits", "83 00 4101 1b0000000100000004"},
		{"record with null for an indicator", "83 00 4101 f6"},
		{"record with a negative indicator", "83 00 4101 20"},
		{"tag below the range", "da 63740100 4101"},
		{"tag above the range", "da 63750000 4101"},
		{"tag in a gap of the range", "da 63740200 4101"},
		{"tag around an integer", "da 63740209 01"},
		{"tag around an array of integers", "da 63740209 81 01"},
		{"tag around nothing", "da 63740209 40"},
		{"tag in eight bytes", "db 0000000063740209 4101"},
		{"empty collection", "a0"},
		{"collection with a type and no entry", "a1 68" + hexText("__cmwc_t") + "63" + hexText("a:b")},
		{"collection of indefinite length", "bf 6161" + record + "ff"},
		{"collection with a duplicate text label", "a2 6161" + record + "6161" + record},
		{"collection with a duplicate integer label", "a2 01" + record + "01" + record},
		{"collection with an integer label twice in two encodings", "a2 01" + record + "1801" + record},
		{"collection with its type twice", "a3 6161" + record + "68" + hexText("__cmwc_t") + "63" + hexText("a:b") + "68" + hexText("__cmwc_t") + "63" + hexText("a:b")},
		{"collection with a byte string for a label", "a1 4161" + record},
		{"collection with null for a label", "a1 f6" + record},
		{"collection with a tagged label", "a1 d7 6161" + record},
		{"collection with an array for a label", "a1 80" + record},
		{"collection with a label beyond int64", "a1 1bffffffffffffffff" + record},
		{"collection with an entry that is no wrapper", "a1 6161 01"},
		{"collection with JSON for an entry", "a1 6161 5b0000000000000001 00"},
		{"collection with a relative type", "a2 6161" + record + "68" + hexText("__cmwc_t") + "62" + hexText("/a")},
		{"collection with a type that has a fragment", "a2 6161" + record + "68" + hexText("__cmwc_t") + "65" + hexText("a:b#c")},
		{"collection with an empty type", "a2 6161" + record + "68" + hexText("__cmwc_t") + "60"},
		{"collection with null for a type", "a2 6161" + record + "68" + hexText("__cmwc_t") + "f6"},
		{"collections too deep", nest(MaxDepth + 1)},
		{"collections far too deep", nest(1000)},
		{"collection that promises more than there is", "bb 7fffffffffffffff 6161" + record},
		{"JSON with whitespace in front", hexText(` ["a/b","AA"]`)},
		{"JSON record of one element", hexText(`["a/b"]`)},
		{"JSON record of four elements", hexText(`["a/b","AA",4,4]`)},
		{"JSON record with a number for a type", hexText(`[263,"AA"]`)},
		{"JSON record with null for a type", hexText(`[null,"AA"]`)},
		{"JSON record with an empty type", hexText(`["","AA"]`)},
		{"JSON record with null for a value", hexText(`["a/b",null]`)},
		{"JSON record with an empty value", hexText(`["a/b",""]`)},
		{"JSON record with padded base64", hexText(`["a/b","AA=="]`)},
		{"JSON record with standard base64", hexText(`["a/b","+/+/"]`)},
		{"JSON record with stray bits in base64", hexText(`["a/b","AB"]`)},
		{"JSON record with a line break in base64", hexText(`["a/b","AA\nAA"]`)},
		{"JSON record with indicator zero", hexText(`["a/b","AA",0]`)},
		{"JSON record with an unknown indicator bit", hexText(`["a/b","AA",32]`)},
		{"JSON record with a fraction for an indicator", hexText(`["a/b","AA",4.0]`)},
		{"JSON record with an exponent in the indicator", hexText(`["a/b","AA",4e0]`)},
		{"JSON record with text for an indicator", hexText(`["a/b","AA","4"]`)},
		{"JSON record with null for an indicator", hexText(`["a/b","AA",null]`)},
		{"JSON record that is not UTF-8", hexText(`["a/b","AA"]`[:3]) + "ff" + hexText(`","AA"]`)},
		{"JSON collection with a duplicate label", hexText(`{"a":["a/b","AA"],"a":["a/b","AA"]}`)},
		{"JSON collection with a duplicate label in an escape", hexText(`{"a":["a/b","AA"],"\u0061":["a/b","AA"]}`)},
		{"JSON collection with a duplicate label inside", hexText(`{"x":{"a":["a/b","AA"],"a":["a/b","AA"]}}`)},
		{"JSON collection with an entry that is no wrapper", hexText(`{"a":"b"}`)},
		{"JSON collection with null for a type", hexText(`{"a":["a/b","AA"],"__cmwc_t":null}`)},
		{"empty JSON collection", hexText(`{}`)},
		{"JSON collections too deep", nestJSON(MaxDepth + 1)},
		{"JSON collections far too deep", nestJSON(1000)},
	}
	for _, tt := range tests {
		if c, err := Parse(unhex(t, tt.hex)); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %+v, %v", tt.name, c, err)
		}
	}
	for _, good := range []string{record, nest(MaxDepth), nestJSON(MaxDepth)} {
		if _, err := Parse(unhex(t, good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

func TestSignedWrapperIsRecognised(t *testing.T) {
	for _, s := range []string{
		"d2 84 43 a10126 a0 41 00 41 00",
		"84 43 a10126 a0 41 00 41 00",
		hexText("eyJhbGciOiJFUzI1NiJ9.e30.AA"),
		hexText(`{"protected":"e30","payload":"e30","signature":"AA"}`),
		hexText(`{"payload":"e30","signatures":[]}`),
	} {
		if _, err := Parse(unhex(t, s)); !errors.Is(err, attestext.ErrMalformed) || !errors.Is(err, errSigned) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestWrapperBeyondMaxSizeIsRefused(t *testing.T) {
	r := &Record{Format: cf(263), Value: make([]byte, MaxSize-1-3-5)}
	b, err := r.CBOR()
	if err != nil || len(b) != MaxSize {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if _, err := Parse(b); err != nil {
		t.Fatal(err)
	}
	r.Value = append(r.Value, 0)
	if _, err := r.CBOR(); err == nil {
		t.Error("encoded a wrapper beyond MaxSize")
	}
	b = append([]byte{0x82, 0x19, 0x01, 0x07, 0x5a, 0x00, 0x0f, 0xff, 0xf8}, r.Value...)
	if _, err := Parse(b); len(b) != MaxSize+1 || !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("wrapper of %d bytes: %v", len(b), err)
	}
}

// A peer can make Parse allocate in proportion to what it sent, and no more.
func TestParseAllocatesWithinBounds(t *testing.T) {
	allocated := func(b []byte) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		Parse(b)
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	const small = 64 << 10
	for _, s := range []string{
		"82 00 5a 7fffffff 00",
		"82 00 5b 7fffffffffffffff 00",
		"82 7a 7fffffff 00",
		"ba 7fffffff",
		"a1 6161 9a 7fffffff",
		"a1 6161 83 00 4101 ba 00ffffff",
		"da 63740209 5a 7fffffff",
	} {
		if n := allocated(unhex(t, s)); n > small {
			t.Errorf("%s: %d bytes", s, n)
		}
	}
	// The worst that parses: each level copies what it holds.
	big := &CMW{Form: CBORRecord, Record: &Record{Format: cf(263), Value: make([]byte, MaxSize-64)}}
	for range MaxDepth {
		big = &CMW{Form: CBORCollection, Collection: &Collection{Entries: []Entry{{TextLabel("a"), big}}}}
	}
	b, err := big.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if n := allocated(b); n > 2*MaxDepth*MaxSize {
		t.Errorf("wrapper of %d bytes: %d bytes", len(b), n)
	}
}

func TestCollectionBeyondMaxEntriesIsRefused(t *testing.T) {
	c := &Collection{Type: "a:b"}
	for i := range MaxEntries {
		c.Entries = append(c.Entries, Entry{IntLabel(int64(i)), &CMW{Form: CBORRecord, Record: evidence}})
	}
	b, err := c.CBOR()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(b); err != nil {
		t.Fatal(err)
	}
	c.Entries = append(c.Entries, Entry{IntLabel(-1), &CMW{Form: CBORRecord, Record: evidence}})
	if _, err := c.CBOR(); err == nil {
		t.Error("encoded a collection beyond MaxEntries")
	}
}

func TestEncoderRefusesWhatParseWould(t *testing.T) {
	rec := func(r Record) *CMW { return &CMW{Form: CBORRecord, Record: &r} }
	ok := rec(*evidence)
	col := func(form Form, entries ...Entry) *CMW {
		return &CMW{Form: form, Collection: &Collection{Entries: entries}}
	}
	deep := ok
	for range MaxDepth + 1 {
		deep = col(CBORCollection, Entry{TextLabel("a"), deep})
	}
	for name, c := range map[string]*CMW{
		"nothing":                  {},
		"record without a record":  {Form: CBORRecord},
		"record with a collection": {Form: CBORRecord, Record: evidence, Collection: &Collection{}},
		"empty value":              rec(Record{Format: cf(263)}),
		"no media type":            rec(Record{Format: mt("eat+cwt"), Value: msg}),
		"unknown indicator":        rec(Record{Format: cf(263), Value: msg, Ind: 32}),
		"tag with a media type":    {Form: CBORTag, Record: &Record{Format: mt("a/b"), Value: msg}},
		"tag beyond the range":     {Form: CBORTag, Record: &Record{Format: cf(65025), Value: msg}},
		"tag with an indicator":    {Form: CBORTag, Record: &Record{Format: cf(263), Value: msg, Ind: Evidence}},
		"JSON, content format":     {Form: JSONRecord, Record: &Record{Format: cf(263), Value: msg}},
		"no entries":               col(CBORCollection),
		"nil entry":                col(CBORCollection, Entry{TextLabel("a"), nil}),
		"duplicate label":          col(CBORCollection, Entry{TextLabel("a"), ok}, Entry{TextLabel("a"), ok}),
		"reserved label":           col(CBORCollection, Entry{TextLabel("__cmwc_t"), ok}),
		"label not UTF-8":          col(CBORCollection, Entry{TextLabel("\xff"), ok}),
		"label both ways":          col(CBORCollection, Entry{Label{Text: "a", Int: 1}, ok}),
		"CBOR in JSON":             col(JSONCollection, Entry{TextLabel("a"), ok}),
		"integer label in JSON":    col(JSONCollection, Entry{IntLabel(1), &CMW{Form: JSONRecord, Record: &Record{Format: mt("a/b"), Value: msg}}}),
		"bad collection type":      {Form: CBORCollection, Collection: &Collection{Type: "x", Entries: []Entry{{TextLabel("a"), ok}}}},
		"too deep":                 deep,
	} {
		if b, err := c.Encode(); err == nil {
			t.Errorf("%s: encoded as %x", name, b)
		}
	}
}

func TestTagNumbersInBothDirections(t *testing.T) {
	for _, tt := range []struct {
		cf  uint16
		tag uint64
	}{
		// From RFC 9277, appendix B, RFC 9999, section 3.2, and by hand.
		{0, 1668546817}, {254, 0x637401ff}, {255, 0x63740201}, {263, 0x63740209}, {10000, 0x63742838},
		{273, 1668547091}, {276, 1668547094}, {30001, 1668576935}, {MaxTagContentFormat, 1668612095},
	} {
		if got := tagNumber(tt.cf); got != tt.tag {
			t.Errorf("TN(%d) = %d, want %d", tt.cf, got, tt.tag)
		}
	}
	next := 0
	for tag := uint64(tagBase) - 300; tag < 1668612095+300; tag++ {
		cf, err := contentFormat(tag)
		if err != nil {
			continue
		}
		if int(cf) != next || tagNumber(cf) != tag {
			t.Fatalf("tag %d is content format %d, want %d", tag, cf, next)
		}
		next++
	}
	if next != MaxTagContentFormat+1 {
		t.Errorf("%d content formats have a tag", next)
	}
	if _, err := contentFormat(0); err == nil {
		t.Error("tag 0 stands for a content format")
	}
}

func TestSingleEvidenceIsUnwrapped(t *testing.T) {
	rec := func(ind Indicator) *CMW {
		return &CMW{Form: CBORRecord, Record: &Record{Format: cf(263), Value: msg, Ind: ind}}
	}
	col := func(typ string, cs ...*CMW) *CMW {
		c := &Collection{Type: typ}
		for i, e := range cs {
			c.Entries = append(c.Entries, Entry{IntLabel(int64(i)), e})
		}
		return &CMW{Form: CBORCollection, Collection: c}
	}
	for name, tt := range map[string]struct {
		c  *CMW
		ok bool
	}{
		"no indicator":                     {rec(0), true},
		"evidence":                         {rec(Evidence), true},
		"evidence among others":            {rec(Evidence | Endorsements), true},
		"tag":                              {&CMW{Form: CBORTag, Record: &Record{Format: cf(263), Value: msg}}, true},
		"endorsements":                     {rec(Endorsements), false},
		"attestation results":              {rec(AttestationResults), false},
		"collection of one":                {col("", rec(Evidence)), true},
		"beside endorsements":              {col("", rec(Evidence), rec(Endorsements)), true},
		"collection in a collection":       {col("", col("", rec(Evidence))), true},
		"two in a collection":              {col("", rec(Evidence), rec(0)), false},
		"none in a collection":             {col("", rec(Endorsements)), false},
		"typed collection":                 {col("a:b", rec(Evidence)), false},
		"typed collection in a collection": {col("", rec(Endorsements), col("a:b", rec(Endorsements))), false},
		"another wrapper in a record":      {&CMW{Form: CBORTag, Record: &Record{Format: cf(273), Value: []byte{0xa0}}}, false},
		"nothing":                          {&CMW{}, false},
	} {
		f, b, err := tt.c.Evidence()
		if tt.ok {
			if err != nil || f != cf(263) || !bytes.Equal(b, msg) {
				t.Errorf("%s: %v, %x, %v", name, f, b, err)
			}
		} else if !errors.Is(err, attestext.ErrWrongType) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r, err := rec(AttestationResults).Single(AttestationResults); err != nil || !bytes.Equal(r.Value, msg) {
		t.Errorf("attestation results: %+v, %v", r, err)
	}
}

// The other implementation of RFC 9999 in Go must read what we write.
func TestVeraisonReadsOurEncodings(t *testing.T) {
	for _, v := range vectors {
		var other veraison.CMW
		b, err := v.want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Deserialize(b); err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		if want := fmt.Sprint(v.want.Form); other.GetFormat().String() != want {
			t.Errorf("%s: read as %v, want %v", v.name, other.GetFormat(), want)
		}
		if r := v.want.Record; r != nil {
			value, err := other.GetMonadValue()
			if err != nil || !bytes.Equal(value, r.Value) {
				t.Errorf("%s: value %x, %v", v.name, value, err)
			}
			if ind, err := other.GetMonadIndicator(); err != nil || uint32(ind) != uint32(r.Ind) {
				t.Errorf("%s: indicator %v, %v", v.name, ind, err)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors {
		f.Add(unhex(f, v.hex))
	}
	f.Add(unhex(f, "d284 43a10126a041004100"))
	f.Add([]byte(`{"a":{"b":["a/b","AA",4]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		c, err := Parse(b)
		if err != nil {
			if c != nil || !errors.Is(err, attestext.ErrMalformed) {
				t.Fatalf("%+v, %v", c, err)
			}
			return
		}
		enc, err := c.Encode()
		if err != nil {
			// JSON escapes some characters that need none.
			if len(b) > MaxSize/6 {
				return
			}
			t.Fatalf("parsed and does not encode: %v", err)
		}
		again, err := Parse(enc)
		if err != nil {
			t.Fatalf("encoded and does not parse: %v", err)
		}
		if !reflect.DeepEqual(c, again) {
			t.Fatalf("%+v came back as %+v", c, again)
		}
		c.Evidence()
	})
}
