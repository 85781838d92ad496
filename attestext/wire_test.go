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

// codec is one extension body: how to write it and how to read it back.
type codec struct {
	name    string
	value   any
	hex     string
	marshal func() ([]byte, error)
	parse   func([]byte) (any, error)
}

func codecs() []codec {
	nonce := bytes.Repeat([]byte{0xab}, 32)
	cf := EvidenceType{AttestationOnly, EvidenceFormat{ContentFormat: 273}}
	mt := EvidenceType{CertAttestation, EvidenceFormat{MediaType: "a/b"}}
	request := &EvidenceHello{[]EvidenceType{cf}, nonce}
	proposal := &EvidenceHello{[]EvidenceType{mt, cf}, nil}
	requestSel := &EvidenceSelection{cf, nil}
	proposalSel := &EvidenceSelection{mt, nonce[:8]}
	results := &ResultsHello{[]VerifierIdentity{"v.example", "w"}}
	resultsSel := &ResultsSelection{"w"}
	n32 := strings.Repeat("ab", 32)
	proof := &AttestedKeyProof{0x0403, []byte("key"), []byte("sign")}
	return []codec{
		// The example of protocol notes: 04 | 00 00 01 11 | 20 | nonce.
		{"evidence_request in ClientHello", request, "04" + "00000111" + "20" + n32, request.Marshal,
			func(b []byte) (any, error) { return ParseEvidenceRequestHello(b) }},
		{"evidence_proposal in ClientHello", proposal, "0b" + "01010003612f62" + "00000111", proposal.Marshal,
			func(b []byte) (any, error) { return ParseEvidenceProposalHello(b) }},
		{"evidence_request in EncryptedExtensions", requestSel, "00000111", requestSel.Marshal,
			func(b []byte) (any, error) { return ParseEvidenceRequestSelection(b) }},
		{"evidence_proposal in EncryptedExtensions", proposalSel, "01010003612f62" + "08" + n32[:16], proposalSel.Marshal,
			func(b []byte) (any, error) { return ParseEvidenceProposalSelection(b) }},
		{"results in ClientHello", results, "0e" + "0009" + hex.EncodeToString([]byte("v.example")) + "000177", results.Marshal,
			func(b []byte) (any, error) { return ParseResultsHello(b) }},
		{"attested_key_proof in Certificate", proof, "0403" + "0003" + "6b6579" + "0004" + "7369676e", proof.Marshal,
			func(b []byte) (any, error) { return ParseAttestedKeyProof(b) }},
		{"results in EncryptedExtensions", resultsSel, "000177", resultsSel.Marshal,
			func(b []byte) (any, error) { return ParseResultsSelection(b) }},
	}
}

func TestExtensionBodiesRoundTrip(t *testing.T) {
	for _, c := range codecs() {
		b, err := c.marshal()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := hex.EncodeToString(b); got != c.hex {
			t.Errorf("%s: %s, want %s", c.name, got, c.hex)
		}
		v, err := c.parse(b)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if !reflect.DeepEqual(normal(v), normal(c.value)) {
			t.Errorf("%s: %+v, want %+v", c.name, v, c.value)
		}
	}
}

// normal makes a nil and an empty nonce alike.
func normal(v any) any {
	switch v := v.(type) {
	case *EvidenceHello:
		return EvidenceHello{v.Types, append([]byte{}, v.Nonce...)}
	case *EvidenceSelection:
		return EvidenceSelection{v.Type, append([]byte{}, v.Nonce...)}
	}
	return v
}

func TestExtensionBodiesRefusePrefixesAndTrailingBytes(t *testing.T) {
	for _, c := range codecs() {
		b, err := c.marshal()
		if err != nil {
			t.Fatal(err)
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

// TestExtensionBodiesRefuseValuesOutOfBounds: lists and nonces keep to the bounds of
// the draft's syntax.
//
// Requirements: 6-1, 6-2, 7-1.
func TestExtensionBodiesRefuseValuesOutOfBounds(t *testing.T) {
	n8 := "08" + strings.Repeat("ab", 8)
	for _, tt := range []struct {
		name, hex string
		parse     func([]byte) (any, error)
	}{
		{"empty list", "00" + n8, func(b []byte) (any, error) { return ParseEvidenceRequestHello(b) }},
		{"nonce of 7 bytes", "0400000111" + "07" + strings.Repeat("ab", 7), func(b []byte) (any, error) { return ParseEvidenceRequestHello(b) }},
		{"empty media type", "04" + "00010000" + n8, func(b []byte) (any, error) { return ParseEvidenceRequestHello(b) }},
		{"unknown encoding", "04" + "00020000" + n8, func(b []byte) (any, error) { return ParseEvidenceRequestHello(b) }},
		{"nonce of 7 bytes selected", "00000111" + "07" + strings.Repeat("ab", 7), func(b []byte) (any, error) { return ParseEvidenceProposalSelection(b) }},
		{"empty list of verifiers", "00", func(b []byte) (any, error) { return ParseResultsHello(b) }},
		{"empty verifier", "020000", func(b []byte) (any, error) { return ParseResultsHello(b) }},
		{"proof without a key", "0403" + "0000" + "0001aa", func(b []byte) (any, error) { return ParseAttestedKeyProof(b) }},
		{"proof without a signature", "0403" + "0001aa" + "0000", func(b []byte) (any, error) { return ParseAttestedKeyProof(b) }},
		{"verifier not UTF-8", "0001ff", func(b []byte) (any, error) { return ParseResultsSelection(b) }},
	} {
		b, err := hex.DecodeString(tt.hex)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tt.parse(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error %v", tt.name, err)
		}
	}
}

// TestMarshalRefusesWhatNoPeerCouldParse: lists that no extension of the draft holds
// are not sent.
//
// Requirements: 6-1, 6-2, 7-1.
func TestMarshalRefusesWhatNoPeerCouldParse(t *testing.T) {
	long := make([]EvidenceType, 64)
	for i := range long {
		long[i] = EvidenceType{CertAttestation, EvidenceFormat{ContentFormat: uint16(i)}}
	}
	for _, tt := range []struct {
		name string
		h    interface{ Marshal() ([]byte, error) }
	}{
		{"no types", &EvidenceHello{}},
		{"256 bytes of types", &EvidenceHello{Types: long}},
		{"nonce of 7", &EvidenceHello{long[:1], make([]byte, 7)}},
		{"nonce of 256", &EvidenceHello{long[:1], make([]byte, 256)}},
		{"selection with a nonce of 256", &EvidenceSelection{long[0], make([]byte, 256)}},
		{"media type of 65536", &EvidenceSelection{Type: EvidenceType{Format: EvidenceFormat{MediaType: strings.Repeat("x", 65536)}}}},
		{"no verifiers", &ResultsHello{}},
		{"empty verifier", &ResultsHello{[]VerifierIdentity{""}}},
		{"256 bytes of verifiers", &ResultsHello{[]VerifierIdentity{VerifierIdentity(strings.Repeat("x", 254))}}},
		{"verifier not UTF-8", &ResultsSelection{"\xff"}},
		{"proof without a key", &AttestedKeyProof{Signature: []byte{1}}},
		{"proof without a signature", &AttestedKeyProof{Key: []byte{1}}},
	} {
		if b, err := tt.h.Marshal(); err == nil {
			t.Errorf("%s: %x", tt.name, b)
		}
	}
	if _, err := (&EvidenceHello{Types: long[:63]}).Marshal(); err != nil {
		t.Errorf("252 bytes of types: %v", err)
	}
}

// An unknown credential kind is legal on the wire, and echoed, but matches nothing.
func TestUnknownCredentialKindParses(t *testing.T) {
	b, _ := hex.DecodeString("07000111")
	sel, err := ParseEvidenceRequestSelection([]byte{0x07, 0x00, 0x01, 0x11})
	if err != nil || sel.Type.Kind != 7 {
		t.Fatalf("%+v, %v", sel, err)
	}
	if again, err := sel.Marshal(); err != nil || !bytes.Equal(again, b) {
		t.Errorf("%x, %v", again, err)
	}
}

func TestMediaTypesCompareParsed(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"application/eat+cwt", "Application/EAT+CWT", true},
		{"application/eat+cwt; eat_profile=\"x\"", "application/eat+cwt;eat_profile=x", true},
		{"application/eat+cwt; eat_profile=X", "application/eat+cwt; eat_profile=x", false},
		{"application/eat+cwt", "application/eat+cwt; eat_profile=x", false},
		{"application/eat+cwt", "application/eat+jwt", false},
		{"not a type", "not a type", true},
		{"not a type", "application/eat+cwt", false},
	} {
		if got := (EvidenceFormat{MediaType: tt.a}).Equal(EvidenceFormat{MediaType: tt.b}); got != tt.want {
			t.Errorf("%q and %q: %v", tt.a, tt.b, got)
		}
	}
	if (EvidenceFormat{MediaType: "application/eat+cwt"}).Equal(EvidenceFormat{ContentFormat: ContentFormatEATCWT}) {
		t.Error("a media type equals a content format")
	}
}

func TestCodePointsRefuseCollisions(t *testing.T) {
	var none *CodePoints
	if err := none.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	if p := none.WithDefaults(); p.EvidenceRequest != 0xFFA1 || p.AttestationEvidence != 0xFFA0 || p.UnsupportedEvidence != 224 {
		t.Errorf("defaults: %+v", p)
	}
	if err := (&CodePoints{AttestationEvidence: 60}).Validate(); err != nil {
		t.Errorf("the draft's own number: %v", err)
	}
	for _, c := range []CodePoints{
		{EvidenceRequest: 43},
		{EvidenceRequest: 0xFFA2},
		{UnsupportedEvidence: 225},
	} {
		if err := c.Validate(); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

func TestParseCodePoints(t *testing.T) {
	c, err := ParseCodePoints([]byte(`{"evidence_request": 65000, "unsupported_evidence": 200}`))
	if err != nil || c.WithDefaults().EvidenceRequest != 65000 || c.WithDefaults().EvidenceProposal != 0xFFA2 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, s := range []string{``, `{"evidence_requst": 1}`, `{} {}`, `{"evidence_request": 70000}`, `{"evidence_request": 43}`, `[]`} {
		if _, err := ParseCodePoints([]byte(s)); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

func FuzzExtensionBodies(f *testing.F) {
	for _, c := range codecs() {
		b, err := c.marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		check := func(name string, v interface{ Marshal() ([]byte, error) }, err error) {
			if err != nil {
				if !errors.Is(err, ErrMalformed) {
					t.Errorf("%s: error of no class: %v", name, err)
				}
				return
			}
			again, err := v.Marshal()
			if err != nil || !bytes.Equal(again, b) {
				t.Errorf("%s: %x comes back as %x, %v", name, b, again, err)
			}
		}
		rh, err := ParseEvidenceRequestHello(b)
		check("request hello", rh, err)
		ph, err := ParseEvidenceProposalHello(b)
		check("proposal hello", ph, err)
		rs, err := ParseEvidenceRequestSelection(b)
		check("request selection", rs, err)
		ps, err := ParseEvidenceProposalSelection(b)
		check("proposal selection", ps, err)
		xh, err := ParseResultsHello(b)
		check("results hello", xh, err)
		xs, err := ParseResultsSelection(b)
		check("results selection", xs, err)
		kp, err := ParseAttestedKeyProof(b)
		check("attested key proof", kp, err)
	})
}
