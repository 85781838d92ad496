package attestext

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
)

// The payloads of the extensions of draft-fossati-tls-attestation-08. A Marshal
// method refuses what no peer could parse; a Parse function refuses trailing
// bytes and every value outside of its bounds.

const (
	encodingContentFormat = 0 // typeEncoding
	encodingMediaType     = 1

	// maxListSize bounds supported_evidence_types and trusted_verifiers, in
	// bytes: their length has one byte on the wire.
	maxListSize = 255
)

// An EvidenceHello is the body of evidence_request, or with a nil Nonce that of
// evidence_proposal, in ClientHello.
//
//	EvidenceType supported_evidence_types<1..2^8-1>;
//	opaque nonce<8..2^8-1>;                          /* evidence_request only */
type EvidenceHello struct {
	Types []EvidenceType // in the client's order of preference
	Nonce []byte
}

// An EvidenceSelection is the body of evidence_request, or with a Nonce that of
// evidence_proposal, in EncryptedExtensions.
//
//	EvidenceType selected_evidence_type;
//	opaque nonce<8..2^8-1>;                          /* evidence_proposal only */
type EvidenceSelection struct {
	Type  EvidenceType
	Nonce []byte
}

// A ResultsHello is the body of results_request and results_proposal in ClientHello.
//
//	VerifierIdentityType trusted_verifiers<1..2^8-1>;
type ResultsHello struct{ Verifiers []VerifierIdentity }

// A ResultsSelection is the body of results_request and results_proposal in
// EncryptedExtensions.
//
//	VerifierIdentityType selected_verifier;
type ResultsSelection struct{ Verifier VerifierIdentity }

// Marshal returns the extension data. It fails for an empty list, one over 255
// bytes, and a nonce outside of 8 to 255 bytes.
func (h *EvidenceHello) Marshal() ([]byte, error) {
	if len(h.Types) == 0 {
		return nil, errors.New("no evidence types to offer")
	}
	var list cryptobyte.Builder
	for _, t := range h.Types {
		if err := t.add(&list); err != nil {
			return nil, err
		}
	}
	l, err := list.Bytes()
	if err != nil {
		return nil, err
	}
	if len(l) > maxListSize {
		return nil, fmt.Errorf("the %d evidence types take %d bytes, and the extension holds %d: offer fewer, or content formats in place of media types", len(h.Types), len(l), maxListSize)
	}
	var b cryptobyte.Builder
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(l) })
	if err := addNonce(&b, h.Nonce); err != nil {
		return nil, err
	}
	return b.Bytes()
}

// Marshal returns the extension data.
func (s *EvidenceSelection) Marshal() ([]byte, error) {
	var b cryptobyte.Builder
	if err := s.Type.add(&b); err != nil {
		return nil, err
	}
	if err := addNonce(&b, s.Nonce); err != nil {
		return nil, err
	}
	return b.Bytes()
}

// Marshal returns the extension data. It fails for an empty list, one over 255
// bytes, and an identity that is empty or not UTF-8.
func (h *ResultsHello) Marshal() ([]byte, error) {
	if len(h.Verifiers) == 0 {
		return nil, errors.New("no verifiers to name")
	}
	var list cryptobyte.Builder
	for _, v := range h.Verifiers {
		if err := v.add(&list); err != nil {
			return nil, err
		}
	}
	l, err := list.Bytes()
	if err != nil {
		return nil, err
	}
	if len(l) > maxListSize {
		return nil, fmt.Errorf("the %d verifier identities take %d bytes, and the extension holds %d", len(h.Verifiers), len(l), maxListSize)
	}
	var b cryptobyte.Builder
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(l) })
	return b.Bytes()
}

// Marshal returns the extension data.
func (s *ResultsSelection) Marshal() ([]byte, error) {
	var b cryptobyte.Builder
	if err := s.Verifier.add(&b); err != nil {
		return nil, err
	}
	return b.Bytes()
}

// An AttestedKeyProof is the body of attested_key_proof in the first
// CertificateEntry: a signature by an attested key that is not the certificate's.
// The extension is not the draft's; docs/SECURITY.md says what it is for.
//
//	SignatureScheme algorithm;
//	opaque attested_key<1..2^16-1>;   /* DER SubjectPublicKeyInfo */
//	opaque signature<1..2^16-1>;
type AttestedKeyProof struct {
	Algorithm uint16 // SignatureScheme of RFC 8446
	Key       []byte
	Signature []byte
}

// Marshal returns the extension data.
func (p *AttestedKeyProof) Marshal() ([]byte, error) {
	if len(p.Key) == 0 || len(p.Signature) == 0 {
		return nil, errors.New("attested key proof without a key or a signature")
	}
	var b cryptobyte.Builder
	b.AddUint16(p.Algorithm)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(p.Key) })
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(p.Signature) })
	return b.Bytes()
}

// ParseAttestedKeyProof reads attested_key_proof of a CertificateEntry.
func ParseAttestedKeyProof(data []byte) (*AttestedKeyProof, error) {
	s, p := cryptobyte.String(data), new(AttestedKeyProof)
	var key, sig cryptobyte.String
	if !s.ReadUint16(&p.Algorithm) || !s.ReadUint16LengthPrefixed(&key) || !s.ReadUint16LengthPrefixed(&sig) || !s.Empty() {
		return nil, malformed("attested key proof")
	}
	if key.Empty() || sig.Empty() {
		return nil, malformed("attested key proof without a key or a signature")
	}
	p.Key, p.Signature = key, sig
	return p, nil
}

func (t EvidenceType) add(b *cryptobyte.Builder) error {
	b.AddUint8(uint8(t.Kind))
	return t.Format.add(b)
}

func (f EvidenceFormat) add(b *cryptobyte.Builder) error {
	if f.MediaType == "" {
		b.AddUint8(encodingContentFormat)
		b.AddUint16(f.ContentFormat)
		return nil
	}
	if len(f.MediaType) > 0xffff {
		return fmt.Errorf("media type of %d bytes", len(f.MediaType))
	}
	b.AddUint8(encodingMediaType)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(f.MediaType)) })
	return nil
}

func (v VerifierIdentity) add(b *cryptobyte.Builder) error {
	if v == "" || len(v) > 0xffff || !utf8.ValidString(string(v)) {
		return fmt.Errorf("verifier identity of %d bytes is empty, too long or not UTF-8", len(v))
	}
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(v)) })
	return nil
}

func addNonce(b *cryptobyte.Builder, nonce []byte) error {
	if nonce == nil {
		return nil
	}
	if n := len(nonce); n < MinNonceSize || n > MaxNonceSize {
		return fmt.Errorf("nonce of %d bytes, want %d to %d", n, MinNonceSize, MaxNonceSize)
	}
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(nonce) })
	return nil
}

// ParseEvidenceRequestHello reads evidence_request of a ClientHello. A type that
// is listed twice counts where it stands first.
func ParseEvidenceRequestHello(data []byte) (*EvidenceHello, error) {
	return parseEvidenceHello(data, true)
}

// ParseEvidenceProposalHello reads evidence_proposal of a ClientHello.
func ParseEvidenceProposalHello(data []byte) (*EvidenceHello, error) {
	return parseEvidenceHello(data, false)
}

func parseEvidenceHello(data []byte, withNonce bool) (*EvidenceHello, error) {
	s, h := cryptobyte.String(data), new(EvidenceHello)
	var list cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&list) {
		return nil, malformed("evidence types")
	}
	if list.Empty() {
		return nil, malformed("empty list of evidence types")
	}
	for !list.Empty() {
		t, err := readEvidenceType(&list)
		if err != nil {
			return nil, err
		}
		h.Types = append(h.Types, t)
	}
	var err error
	if h.Nonce, err = readNonce(&s, withNonce); err != nil {
		return nil, err
	}
	return h, nil
}

// ParseEvidenceRequestSelection reads evidence_request of EncryptedExtensions.
func ParseEvidenceRequestSelection(data []byte) (*EvidenceSelection, error) {
	return parseEvidenceSelection(data, false)
}

// ParseEvidenceProposalSelection reads evidence_proposal of EncryptedExtensions.
func ParseEvidenceProposalSelection(data []byte) (*EvidenceSelection, error) {
	return parseEvidenceSelection(data, true)
}

func parseEvidenceSelection(data []byte, withNonce bool) (*EvidenceSelection, error) {
	s, sel := cryptobyte.String(data), new(EvidenceSelection)
	var err error
	if sel.Type, err = readEvidenceType(&s); err != nil {
		return nil, err
	}
	if sel.Nonce, err = readNonce(&s, withNonce); err != nil {
		return nil, err
	}
	return sel, nil
}

// ParseResultsHello reads results_request or results_proposal of a ClientHello.
func ParseResultsHello(data []byte) (*ResultsHello, error) {
	s, h := cryptobyte.String(data), new(ResultsHello)
	var list cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&list) || !s.Empty() {
		return nil, malformed("verifier identities")
	}
	if list.Empty() {
		return nil, malformed("empty list of verifier identities")
	}
	for !list.Empty() {
		v, err := readVerifierIdentity(&list)
		if err != nil {
			return nil, err
		}
		h.Verifiers = append(h.Verifiers, v)
	}
	return h, nil
}

// ParseResultsSelection reads results_request or results_proposal of EncryptedExtensions.
func ParseResultsSelection(data []byte) (*ResultsSelection, error) {
	s := cryptobyte.String(data)
	v, err := readVerifierIdentity(&s)
	if err != nil {
		return nil, err
	}
	if !s.Empty() {
		return nil, malformed("bytes after the verifier identity")
	}
	return &ResultsSelection{v}, nil
}

func readEvidenceType(s *cryptobyte.String) (EvidenceType, error) {
	var kind uint8
	if !s.ReadUint8(&kind) {
		return EvidenceType{}, malformed("evidence type")
	}
	f, err := readFormat(s)
	if err != nil {
		return EvidenceType{}, err
	}
	return EvidenceType{CredentialKind(kind), f}, nil
}

func readFormat(s *cryptobyte.String) (EvidenceFormat, error) {
	var encoding uint8
	if !s.ReadUint8(&encoding) {
		return EvidenceFormat{}, malformed("evidence type")
	}
	var f EvidenceFormat
	switch encoding {
	case encodingContentFormat:
		if !s.ReadUint16(&f.ContentFormat) {
			return EvidenceFormat{}, malformed("content format")
		}
	case encodingMediaType:
		var mt cryptobyte.String
		if !s.ReadUint16LengthPrefixed(&mt) {
			return EvidenceFormat{}, malformed("media type")
		}
		if mt.Empty() {
			return EvidenceFormat{}, malformed("empty media type")
		}
		f.MediaType = string(mt)
	default: // its length is not known
		return EvidenceFormat{}, malformed("evidence type in unknown encoding %d", encoding)
	}
	return f, nil
}

func readVerifierIdentity(s *cryptobyte.String) (VerifierIdentity, error) {
	var id cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&id) {
		return "", malformed("verifier identity")
	}
	if id.Empty() || !utf8.Valid(id) {
		return "", malformed("verifier identity that is empty or not UTF-8")
	}
	return VerifierIdentity(id), nil
}

// readNonce reads the nonce that ends a body, if there is to be one.
func readNonce(s *cryptobyte.String, want bool) ([]byte, error) {
	var nonce cryptobyte.String
	if want {
		if !s.ReadUint8LengthPrefixed(&nonce) {
			return nil, malformed("nonce")
		}
		if len(nonce) < MinNonceSize {
			return nil, malformed("nonce of %d bytes, want at least %d", len(nonce), MinNonceSize)
		}
	}
	if !s.Empty() {
		return nil, malformed("%d bytes too many", len(*s))
	}
	return nonce, nil
}

// malformed is an extension body that does not parse.
func malformed(format string, args ...any) error {
	return Errorf(ErrMalformed, "parse extension", format, args...)
}
