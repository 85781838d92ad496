package proxyproto

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/attestedtls/atls/internal/fuzzbound"
)

var headers = map[string]*Header{
	"IPv4": {
		Source: netip.MustParseAddrPort("192.0.2.1:1234"), Destination: netip.MustParseAddrPort("192.0.2.2:443"),
		Authority: "model.example", ALPN: "h2", Verdict: "affirming", Machine: "tdx-platform:00",
	},
	"IPv6": {
		Source: netip.MustParseAddrPort("[2001:db8::1]:1234"), Destination: netip.MustParseAddrPort("[2001:db8::2]:443"),
		Verdict: "none",
	},
	"mapped": {
		Source: netip.MustParseAddrPort("[::ffff:192.0.2.1]:1234"), Destination: netip.MustParseAddrPort("[2001:db8::2]:443"),
	},
	"no address": {Verdict: "warning"},
	"nothing":    {},
	"local":      {Local: true},
}

func TestHeaderComesBack(t *testing.T) {
	for name, h := range headers {
		b, err := h.Bytes()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r := bytes.NewReader(append(b, "GET /"...))
		got, err := Read(r)
		if err != nil || *got != *h {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "GET /" {
			t.Errorf("%s: %q is left", name, rest)
		}
		for n := range b {
			if _, err := Read(bytes.NewReader(b[:n])); err == nil {
				t.Errorf("%s: %d of %d bytes were enough", name, n, len(b))
			}
		}
	}
}

// The bytes are those of sections 2.2 and 2.2.7 of the specification.
func TestHeaderHasTheShapeOfTheSpecification(t *testing.T) {
	b, err := headers["IPv4"].Bytes()
	if err != nil {
		t.Fatal(err)
	}
	want := "0d0a0d0a000d0a515549540a" + "21" + "11" + "003f" +
		"c0000201" + "c0000202" + "04d2" + "01bb" +
		"010002" + hex.EncodeToString([]byte("h2")) +
		"02000d" + hex.EncodeToString([]byte("model.example")) +
		"e00009" + hex.EncodeToString([]byte("affirming")) +
		"e1000f" + hex.EncodeToString([]byte("tdx-platform:00"))
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestBadHeadersAreRefused(t *testing.T) {
	good, err := headers["IPv4"].Bytes()
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func([]byte) []byte) []byte {
		b := f(bytes.Clone(good))
		if len(b) >= prefixSize {
			binary.BigEndian.PutUint16(b[prefixSize-2:], uint16(len(b)-prefixSize))
		}
		return b
	}
	set := func(i int, v byte) []byte { return change(func(b []byte) []byte { b[i] = v; return b }) }
	for name, b := range map[string][]byte{
		"nothing":           nil,
		"HTTP":              []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"),
		"version 1":         []byte("PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n"),
		"version 3":         set(12, 0x31),
		"unknown command":   set(12, 0x22),
		"UDP":               set(13, 0x12),
		"Unix":              set(13, 0x31),
		"unknown family":    set(13, 0x41),
		"addresses cut":     change(func(b []byte) []byte { return b[:prefixSize+5] }),
		"TLV cut":           change(func(b []byte) []byte { return b[:len(b)-1] }),
		"TLV header cut":    change(func(b []byte) []byte { return append(b, 0xEE, 0) }),
		"verdict twice":     change(func(b []byte) []byte { return append(b, typeVerdict, 0, 1, 'x') }),
		"empty verdict":     change(func(b []byte) []byte { return append(b[:prefixSize+sizeIPv4], typeVerdict, 0, 0) }),
		"more than is read": append(append([]byte(signature), versionCommandProxy, familyUnspec, 0xff, 0xff), make([]byte, 0xffff)...),
	} {
		if h, err := Read(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: %+v", name, h)
		}
	}
}

// A header that is too large is refused when its length is known.
func TestLargeHeaderIsNotRead(t *testing.T) {
	r := strings.NewReader(signature + "\x21\x00\xff\xff" + strings.Repeat("x", 1<<16))
	before := r.Len()
	if _, err := Read(r); err == nil || before-r.Len() != prefixSize {
		t.Errorf("%v, and %d bytes were read", err, before-r.Len())
	}
}

func TestHeaderThatIsTooLargeIsNotWritten(t *testing.T) {
	for name, h := range map[string]*Header{
		"one value":   {Authority: strings.Repeat("x", 1<<16)},
		"together":    {Authority: strings.Repeat("x", MaxSize/2), Machine: strings.Repeat("y", MaxSize/2)},
		"one address": {Source: netip.MustParseAddrPort("192.0.2.1:1")},
	} {
		if _, err := h.Bytes(); err == nil {
			t.Errorf("%s was written", name)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, h := range headers {
		b, err := h.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		h, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := h.Bytes()
		if err != nil {
			t.Fatalf("%+v was read and cannot be written: %v", h, err)
		}
		got, err := Read(bytes.NewReader(again))
		if err != nil {
			t.Fatalf("%+v was written and cannot be read: %v", h, err)
		}
		if third, err := got.Bytes(); err != nil || !bytes.Equal(third, again) {
			t.Fatalf("%+v becomes %+v, %v", h, got, err)
		}
	})
}
