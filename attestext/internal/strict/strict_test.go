package strict

import (
	"strings"
	"testing"

	"github.com/attestedtls/atls/internal/fuzzbound"
)

func TestValueIsTakenOnlyForItsWireType(t *testing.T) {
	decoders := map[string]func([]byte) error{
		"uint":  func(b []byte) error { _, err := Uint(b); return err },
		"int":   func(b []byte) error { _, err := Int(b); return err },
		"bytes": func(b []byte) error { _, err := Bytes(b); return err },
		"text":  func(b []byte) error { _, err := Text(b); return err },
		"array": func(b []byte) error { _, err := Array(b); return err },
		"map":   func(b []byte) error { _, err := Map(b); return err },
		"tag":   func(b []byte) error { _, _, err := Tag(b); return err },
	}
	for in, accepted := range map[string]string{
		"\x01":         "uint int",
		"\x20":         "int",
		"\x41a":        "bytes",
		"\x61a":        "text",
		"\x81\x01":     "array",
		"\xa1\x01\x02": "map",
		"\xd7\x41a":    "tag",
		"\xf6":         "", // null
		"\xf7":         "", // undefined
		"\xf5":         "", // true
		"\xf9\x3c\x00": "", // 1.0
		"\xc2\x41\x01": "", // a bignum
		"":             "",
		"\x61\xff":     "", // not UTF-8
		"\x5f\xff":     "", // indefinite length
		"\x01\x01":     "", // two items
		"\x18":         "", // cut
	} {
		for name, decode := range decoders {
			want := strings.Contains(" "+accepted+" ", " "+name+" ")
			if err := decode([]byte(in)); (err == nil) != want {
				t.Errorf("%x as %s: %v", in, name, err)
			}
		}
	}
}

func TestJSONValueIsTakenOnlyForItsType(t *testing.T) {
	decoders := map[string]func([]byte) error{
		"text":   func(b []byte) error { _, err := JSONText(b); return err },
		"uint":   func(b []byte) error { _, err := JSONUint(b); return err },
		"array":  func(b []byte) error { _, err := JSONArray(b); return err },
		"object": func(b []byte) error { _, err := JSONObject(b); return err },
	}
	for in, accepted := range map[string]string{
		`"a"`: "text", `1`: "uint", `[1]`: "array", `{"a":1}`: "object",
		`null`: "", `true`: "", `-1`: "", `1.0`: "", `1e0`: "", `18446744073709551616`: "", ``: "",
	} {
		for name, decode := range decoders {
			if err := decode([]byte(in)); (err == nil) != (name == accepted) {
				t.Errorf("%s as %s: %v", in, name, err)
			}
		}
	}
}

func TestItemsAndDepthAreBounded(t *testing.T) {
	array := func(n int) []byte { return append([]byte{0x98, byte(n)}, make([]byte, n)...) }
	if _, err := Array(array(MaxItems)); err != nil {
		t.Error(err)
	}
	if _, err := Array(array(MaxItems + 1)); err == nil {
		t.Error("array beyond MaxItems")
	}
	nested := func(n int) []byte { return []byte(strings.Repeat("\x81", n) + "\x00") }
	if _, err := Array(nested(MaxDepth)); err != nil {
		t.Error(err)
	}
	if _, err := Array(nested(MaxDepth + 1)); err == nil {
		t.Error("arrays beyond MaxDepth")
	}
	list := func(n int) []byte { return []byte("[" + strings.Repeat("0,", n-1) + "0]") }
	if err := CheckJSON(list(MaxItems)); err != nil {
		t.Error(err)
	}
	if err := CheckJSON(list(MaxItems + 1)); err == nil {
		t.Error("JSON array beyond MaxItems")
	}
	lists := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if err := CheckJSON(lists(MaxDepth)); err != nil {
		t.Error(err)
	}
	if err := CheckJSON(lists(MaxDepth + 1)); err == nil {
		t.Error("JSON arrays beyond MaxDepth")
	}
}

func FuzzCheckJSON(f *testing.F) {
	f.Add([]byte(`["a/b","AA",4]`))
	f.Add([]byte(`{"a":{"b":["a/b","AA",4]},"c":null}`))
	f.Add([]byte(`{"a":1,"\u0061":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		if CheckJSON(b) == nil && CheckJSON(append(b, ' ')) == nil {
			t.Fatalf("%q is accepted with and without whitespace behind", b)
		}
	})
}
