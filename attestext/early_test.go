package attestext

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/attestedtls/atls/internal/fuzzbound"
)

// earlyCodecs are the bodies of draft-fossati-seat-early-attestation.
func earlyCodecs() []codec {
	cf := AttestationScheme{Format: EvidenceFormat{ContentFormat: 273}}
	mt := AttestationScheme{Format: EvidenceFormat{MediaType: "a/b"}}
	res := AttestationScheme{Verifier: "v"}
	hello := &EarlyHello{Server: []AttestationScheme{cf, res}, Client: []AttestationScheme{mt}}
	client := &EarlyHello{Client: []AttestationScheme{res}}
	scheme := func(b []byte) (any, error) { return ParseAttestationScheme(b) }
	parseHello := func(b []byte) (any, error) { return ParseEarlyHello(b) }
	formats := []EvidenceFormat{mt.Format, cf.Format}
	return []codec{
		{"remoteAttestation in ClientHello", hello, "0008" + "00000111" + "01000176" + "0007" + "00010003612f62", hello.Marshal, parseHello},
		{"remoteAttestation of the client alone", client, "0000" + "0004" + "01000176", client.Marshal, parseHello},
		{"evidence chosen", cf, "00000111", cf.Marshal, scheme},
		{"media type chosen", mt, "00010003612f62", mt.Marshal, scheme},
		{"result chosen", res, "01000176", res.Marshal, scheme},
		{"cmw_payload", []byte("cmw"), "000003636d77", func() ([]byte, error) { return MarshalCMWPayload([]byte("cmw")) },
			func(b []byte) (any, error) { return ParseCMWPayload(b) }},
		{"-03 in ClientHello", formats, "09" + "010003612f62" + "000111", func() ([]byte, error) { return MarshalFormats(formats) },
			func(b []byte) (any, error) { return ParseFormats(b) }},
		{"-03 in EncryptedExtensions", cf.Format, "000111", func() ([]byte, error) { return MarshalFormat(cf.Format) },
			func(b []byte) (any, error) { return ParseFormat(b) }},
	}
}

func TestEarlyBodies(t *testing.T) {
	for _, c := range earlyCodecs() {
		b, err := c.marshal()
		if err != nil || hex.EncodeToString(b) != c.hex {
			t.Errorf("%s: %x, %v; want %s", c.name, b, err, c.hex)
			continue
		}
		if v, err := c.parse(b); err != nil || !reflect.DeepEqual(v, c.value) {
			t.Errorf("%s: %+v, %v", c.name, v, err)
		}
		for n := range b {
			if _, err := c.parse(b[:n]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: the first %d of %d bytes: error %v", c.name, n, len(b), err)
			}
		}
		if _, err := c.parse(append(b, 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: a trailing byte: error %v", c.name, err)
		}
	}
}

func TestEarlyBodiesKeepToTheirBounds(t *testing.T) {
	hello := func(b []byte) error { _, err := ParseEarlyHello(b); return err }
	scheme := func(b []byte) error { _, err := ParseAttestationScheme(b); return err }
	payload := func(b []byte) error { _, err := ParseCMWPayload(b); return err }
	formats := func(b []byte) error { _, err := ParseFormats(b); return err }
	many := func(n int) string {
		return hex.EncodeToString([]byte{byte(4 * n >> 8), byte(4 * n)}) + strings.Repeat("00000111", n) + "0000"
	}
	for _, tt := range []struct {
		name, hex string
		parse     func([]byte) error
		ok        bool
	}{
		{"both lists empty", "00000000", hello, true}, // the server's to refuse, with an alert of its own
		{"255 schemes", many(255), hello, true},
		{"256 schemes", many(256), hello, false},
		{"a list that ends within a scheme", "0003000001" + "0000", hello, false},
		{"unknown mechanism", "02000111", scheme, false},
		{"unknown encoding", "00020111", scheme, false},
		{"empty media type", "00010000", scheme, false},
		{"empty verifier", "010000", scheme, false},
		{"verifier that is not UTF-8", "010001ff", scheme, false},
		{"empty payload", "000000", payload, false},
		{"payload longer than its bytes", "00000361", payload, false},
		{"empty list of -03", "00", formats, false},
	} {
		b, err := hex.DecodeString(tt.hex)
		if err != nil {
			t.Fatal(err)
		}
		if err := tt.parse(b); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for name, err := range map[string]error{
		"no schemes":    second((&EarlyHello{}).Marshal()),
		"256 schemes":   second((&EarlyHello{Server: make([]AttestationScheme, 256)}).Marshal()),
		"too long":      second((&EarlyHello{Server: []AttestationScheme{{Verifier: VerifierIdentity(strings.Repeat("v", 65000))}}, Client: []AttestationScheme{{Verifier: VerifierIdentity(strings.Repeat("v", 65000))}}}).Marshal()),
		"empty payload": second(MarshalCMWPayload(nil)),
		"long payload":  second(MarshalCMWPayload(make([]byte, 65533))),
		"no formats":    second(MarshalFormats(nil)),
		"86 formats":    second(MarshalFormats(make([]EvidenceFormat, 86))),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if b, err := MarshalCMWPayload(make([]byte, 65532)); err != nil || len(b) != 65535 {
		t.Errorf("65532 bytes: %d, %v", len(b), err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestEarlyChallenge(t *testing.T) {
	for _, n := range []int{32, 48, 64} {
		c := &Challenge{Role: RoleServer, Binding: BindingEarly, Kind: CertAttestation, Binder: bytes.Repeat([]byte{7}, n), SPKI: []byte("key")}
		rd, err := c.ReportData()
		if err != nil || !bytes.Equal(rd[:n], c.Binder) || !bytes.Equal(rd[n:], make([]byte, 64-n)) || !bytes.Equal(c.Value(), c.Binder) {
			t.Errorf("%d bytes: %x, %v", n, rd, err)
		}
		for name, change := range map[string]func(*Challenge){
			"a nonce":          func(c *Challenge) { c.Nonce = make([]byte, 32) },
			"a short binder":   func(c *Challenge) { c.Binder = c.Binder[:31] },
			"a long binder":    func(c *Challenge) { c.Binder = make([]byte, 65) },
			"no binder":        func(c *Challenge) { c.Binder = nil },
			"no key":           func(c *Challenge) { c.SPKI = nil },
			"attestation-only": func(c *Challenge) { c.Kind = AttestationOnly },
		} {
			bad := *c
			change(&bad)
			if bad.Validate() == nil {
				t.Errorf("%s: valid", name)
			}
		}
	}
}

func TestEarlyAlertsAreThree(t *testing.T) {
	for _, c := range []CodePoints{{AttestationFailed: 224}, {AttestationRequired: 226}, {UnsupportedAttestationSchemes: 225}, {RemoteAttestation: 0xFFA1}} {
		if c.Validate() == nil {
			t.Errorf("%+v is valid", c)
		}
	}
}

func TestSchemesStringIsShort(t *testing.T) {
	if s := SchemesString(make([]AttestationScheme, 255)); !strings.HasSuffix(s, "247 more") || len(s) > 200 {
		t.Error(s)
	}
	if s := SchemesString(nil); s != "nothing" {
		t.Error(s)
	}
}

// FuzzEarlyBodies: no bytes from a peer make a reader panic, and what it reads comes
// back as it was.
func FuzzEarlyBodies(f *testing.F) {
	for _, c := range earlyCodecs() {
		b, err := c.marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		check := func(name string, err error, marshal func() ([]byte, error)) {
			if err != nil {
				if !errors.Is(err, ErrMalformed) {
					t.Errorf("%s: error of no class: %v", name, err)
				}
				return
			}
			if again, err := marshal(); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%s: %x comes back as %x, %v", name, b, again, err)
			}
		}
		hello, err := ParseEarlyHello(b)
		if err != nil || len(hello.Server)+len(hello.Client) != 0 { // which nobody sends
			check("hello", err, func() ([]byte, error) { return hello.Marshal() })
		}
		scheme, err := ParseAttestationScheme(b)
		check("scheme", err, scheme.Marshal)
		cmw, err := ParseCMWPayload(b)
		if len(b) <= 1<<16-1 {
			check("payload", err, func() ([]byte, error) { return MarshalCMWPayload(cmw) })
		}
		formats, err := ParseFormats(b)
		check("formats", err, func() ([]byte, error) { return MarshalFormats(formats) })
		format, err := ParseFormat(b)
		check("format", err, func() ([]byte, error) { return MarshalFormat(format) })
	})
}
