package attestext

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// The payloads of draft-fossati-seat-early-attestation. Revision -06 has one
// extension, remoteAttestation, whose body differs with the message that it is in;
// revision -03 has four in ClientHello and EncryptedExtensions, without a kind of
// credential and without nonces, and one in Certificate.

// maxSchemes bounds the schemes of one list and direction, whose length in bytes has
// 16 bits on the wire: a peer has no use for as many.
const maxSchemes = 255

// maxCMWPayload is how much fits behind the three bytes of its length into an
// extension.
const maxCMWPayload = 1<<16 - 1 - 3

// An AttestationScheme is what the early extensions negotiate for one direction:
// Evidence in a format, or where Verifier is not empty an Attestation Result by it.
// Schemes may be compared with ==.
type AttestationScheme struct {
	Format   EvidenceFormat
	Verifier VerifierIdentity
}

const (
	mechanismEvidence = 0 // AttestationMechanism
	mechanismResult   = 1
)

// String returns, for example, "evidence application/eat+cwt".
func (s AttestationScheme) String() string {
	if s.Verifier != "" {
		return fmt.Sprintf("result by %q", string(s.Verifier))
	}
	return "evidence " + s.Format.String()
}

// An EarlyHello is the body of remoteAttestation in ClientHello: for the server and
// for the client as the attester, the schemes that the client can do, in order of
// preference. Either may be empty.
//
//	AttestationScheme server_attester_schemes<0..2^16-1>;
//	AttestationScheme client_attester_schemes<0..2^16-1>;
type EarlyHello struct{ Server, Client []AttestationScheme }

// Marshal returns the extension data. It fails where both lists are empty, or one has
// more than 255 schemes or than 65,535 bytes.
func (h *EarlyHello) Marshal() ([]byte, error) {
	if len(h.Server) == 0 && len(h.Client) == 0 {
		return nil, errors.New("no attestation schemes to offer")
	}
	var b cryptobyte.Builder
	for _, list := range [][]AttestationScheme{h.Server, h.Client} {
		if len(list) > maxSchemes {
			return nil, fmt.Errorf("%d attestation schemes, at most %d", len(list), maxSchemes)
		}
		var l cryptobyte.Builder
		for _, s := range list {
			if err := s.add(&l); err != nil {
				return nil, err
			}
		}
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(l.BytesOrPanic()) })
	}
	out, err := b.Bytes()
	if err == nil && len(out) > 1<<16-1 {
		err = fmt.Errorf("the attestation schemes take %d bytes, and the extension holds %d", len(out), 1<<16-1)
	}
	return out, err
}

// ParseEarlyHello reads remoteAttestation of a ClientHello. A list of more than 255
// schemes is malformed; two empty ones are not.
func ParseEarlyHello(data []byte) (*EarlyHello, error) {
	s, h := cryptobyte.String(data), new(EarlyHello)
	for _, list := range []*[]AttestationScheme{&h.Server, &h.Client} {
		var l cryptobyte.String
		if !s.ReadUint16LengthPrefixed(&l) {
			return nil, malformed("attestation schemes")
		}
		for !l.Empty() {
			scheme, err := readScheme(&l)
			if err != nil {
				return nil, err
			}
			if len(*list) == maxSchemes {
				return nil, malformed("more than %d attestation schemes", maxSchemes)
			}
			*list = append(*list, scheme)
		}
	}
	if !s.Empty() {
		return nil, malformed("%d bytes too many", len(s))
	}
	return h, nil
}

// Marshal returns the body of remoteAttestation in EncryptedExtensions, which is
// chosen_server_scheme, or in CertificateRequest, which is chosen_client_scheme.
func (s AttestationScheme) Marshal() ([]byte, error) {
	var b cryptobyte.Builder
	if err := s.add(&b); err != nil {
		return nil, err
	}
	return b.Bytes()
}

// ParseAttestationScheme reads what [AttestationScheme.Marshal] writes.
func ParseAttestationScheme(data []byte) (AttestationScheme, error) {
	s := cryptobyte.String(data)
	scheme, err := readScheme(&s)
	if err == nil && !s.Empty() {
		err = malformed("%d bytes too many", len(s))
	}
	if err != nil {
		return AttestationScheme{}, err
	}
	return scheme, nil
}

func (s AttestationScheme) add(b *cryptobyte.Builder) error {
	if s.Verifier != "" {
		b.AddUint8(mechanismResult)
		return s.Verifier.add(b)
	}
	b.AddUint8(mechanismEvidence)
	return s.Format.add(b)
}

func readScheme(s *cryptobyte.String) (scheme AttestationScheme, err error) {
	var mechanism uint8
	if !s.ReadUint8(&mechanism) {
		return scheme, malformed("attestation scheme")
	}
	switch mechanism {
	case mechanismEvidence:
		scheme.Format, err = readFormat(s)
	case mechanismResult:
		scheme.Verifier, err = readVerifierIdentity(s)
	default: // its length is not known
		err = malformed("attestation scheme of unknown mechanism %d", mechanism)
	}
	return scheme, err
}

// MarshalCMWPayload returns the body of remoteAttestation in a CertificateEntry, and
// of the attestation extension of revision -03: cmw with a length of 24 bits before
// it, 1 to 65,532 bytes.
func MarshalCMWPayload(cmw []byte) ([]byte, error) {
	if n := len(cmw); n == 0 || n > maxCMWPayload {
		return nil, fmt.Errorf("evidence of %d bytes, want 1 to %d beside a certificate", n, maxCMWPayload)
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 3+len(cmw)))
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(cmw) })
	return b.Bytes()
}

// ParseCMWPayload reads what [MarshalCMWPayload] writes. The result is part of data.
func ParseCMWPayload(data []byte) ([]byte, error) {
	s := cryptobyte.String(data)
	var cmw cryptobyte.String
	if !s.ReadUint24LengthPrefixed(&cmw) || !s.Empty() {
		return nil, malformed("CMW payload")
	}
	if cmw.Empty() {
		return nil, malformed("empty CMW payload")
	}
	return cmw, nil
}

// MarshalFormats returns the body of evidence_request or evidence_proposal of revision
// -03 in ClientHello:
//
//	EvidenceType supported_evidence_types<1..2^8-1>;
func MarshalFormats(formats []EvidenceFormat) ([]byte, error) {
	var l cryptobyte.Builder
	for _, f := range formats {
		if err := f.add(&l); err != nil {
			return nil, err
		}
	}
	list, err := l.Bytes()
	if err != nil {
		return nil, err
	}
	if n := len(list); n == 0 || n > maxListSize {
		return nil, fmt.Errorf("the %d evidence types take %d bytes, and the extension holds 1 to %d: offer fewer, or content formats in place of media types", len(formats), n, maxListSize)
	}
	var b cryptobyte.Builder
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(list) })
	return b.Bytes()
}

// ParseFormats reads what [MarshalFormats] writes.
func ParseFormats(data []byte) ([]EvidenceFormat, error) {
	s := cryptobyte.String(data)
	var list cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&list) || !s.Empty() {
		return nil, malformed("evidence types")
	}
	if list.Empty() {
		return nil, malformed("empty list of evidence types")
	}
	var formats []EvidenceFormat
	for !list.Empty() {
		f, err := readFormat(&list)
		if err != nil {
			return nil, err
		}
		formats = append(formats, f)
	}
	return formats, nil
}

// ParseEarly03Hello is ParseFormats for who reads drafts in one shape: evidence of each type
// comes beside a certificate, and there is no nonce.
func ParseEarly03Hello(data []byte) (*EvidenceHello, error) {
	formats, err := ParseFormats(data)
	if err != nil {
		return nil, err
	}
	h := new(EvidenceHello)
	for _, f := range formats {
		h.Types = append(h.Types, EvidenceType{Kind: CertAttestation, Format: f})
	}
	return h, nil
}

// MarshalFormat returns the body of evidence_request or evidence_proposal of revision
// -03 in EncryptedExtensions:
//
//	EvidenceType selected_evidence_type;
func MarshalFormat(f EvidenceFormat) ([]byte, error) {
	var b cryptobyte.Builder
	if err := f.add(&b); err != nil {
		return nil, err
	}
	return b.Bytes()
}

// ParseFormat reads what [MarshalFormat] writes.
func ParseFormat(data []byte) (EvidenceFormat, error) {
	s := cryptobyte.String(data)
	f, err := readFormat(&s)
	if err == nil && !s.Empty() {
		err = malformed("%d bytes too many", len(s))
	}
	if err != nil {
		return EvidenceFormat{}, err
	}
	return f, nil
}

// ParseEarly03Selection is to ParseFormat what ParseEarly03Hello is to ParseFormats.
func ParseEarly03Selection(data []byte) (*EvidenceSelection, error) {
	f, err := ParseFormat(data)
	if err != nil {
		return nil, err
	}
	return &EvidenceSelection{Type: EvidenceType{Kind: CertAttestation, Format: f}}, nil
}

// SchemesString names schemes for an error, no more than eight of them: they may be a
// peer's.
func SchemesString(schemes []AttestationScheme) string {
	if len(schemes) == 0 {
		return "nothing"
	}
	const most = 8
	var names []string
	for _, s := range slices.Compact(slices.Clone(schemes[:min(len(schemes), most)])) {
		names = append(names, s.String())
	}
	if len(schemes) > most {
		names = append(names, fmt.Sprintf("%d more", len(schemes)-most))
	}
	return strings.Join(names, ", ")
}
