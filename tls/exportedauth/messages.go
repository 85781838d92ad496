package exportedauth

import (
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/attestedtls/atls/attestext"
)

// The messages are those of TLS 1.3 (RFC 8446, section 4), each with its
// four-byte handshake header and without records.

// Message types. ClientCertificateRequest is of RFC 9261, section 4.
const (
	typeCertificate              = 11
	typeCertificateRequest       = 13
	typeCertificateVerify        = 15
	typeClientCertificateRequest = 17
	typeFinished                 = 20
)

// Extension types that have a meaning here. The comment says in which messages.
const (
	extensionServerName              = 0  // ClientCertificateRequest
	extensionStatusRequest           = 5  // requests, CertificateEntry
	extensionSignatureAlgorithms     = 13 // requests
	extensionSCT                     = 18 // requests, CertificateEntry
	extensionCertificateAuthorities  = 47 // requests
	extensionOIDFilters              = 48 // requests
	extensionSignatureAlgorithmsCert = 50 // requests

	// ExtensionCMWAttestation is the default code point of cmw_attestation, in the
	// private-use range: draft-fossati-seat-expat leaves it to be assigned.
	ExtensionCMWAttestation = 0xFF00
)

// Bounds, in bytes and including the header where a message is meant. What is
// longer is refused before it is read.
const (
	headerSize           = 4
	maxRequest           = headerSize + 1 + 255 + 2 + 65535
	maxCertificate       = 256 << 10
	maxCertificateVerify = headerSize + 2 + 2 + 2048 // an RSA signature has up to 1,024
	maxFinished          = headerSize + 64
	maxContext           = 255

	maxEntries    = 16
	maxExtensions = 64
)

// MaxMessage returns the bound on a message of each type, in bytes with its header of
// four, or 0 if the type is none of an exported authenticator's. A carriage refuses what
// is longer before it has read it.
func MaxMessage(typ uint8) int { return maxMessage(typ) }

// maxMessage is the bound on a message of each type; other types have none.
func maxMessage(typ uint8) int {
	switch typ {
	case typeCertificateRequest, typeClientCertificateRequest:
		return maxRequest
	case typeCertificate:
		return maxCertificate
	case typeCertificateVerify:
		return maxCertificateVerify
	case typeFinished:
		return maxFinished
	}
	return 0
}

func typeName(typ uint8) string {
	switch typ {
	case typeCertificate:
		return "Certificate"
	case typeCertificateRequest:
		return "CertificateRequest"
	case typeCertificateVerify:
		return "CertificateVerify"
	case typeClientCertificateRequest:
		return "ClientCertificateRequest"
	case typeFinished:
		return "Finished"
	}
	return fmt.Sprintf("a message of type %d", typ)
}

// An Extension is one of a request or of a certificate entry.
type Extension struct {
	Type uint16
	Data []byte
}

// message returns body behind its header.
func message(typ uint8, body func(*cryptobyte.Builder)) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint8(typ)
	b.AddUint24LengthPrefixed(body)
	return b.Bytes()
}

// next cuts the first message, which must be of type typ and within its bound, off
// b. whole includes the header.
func next(b []byte, typ uint8, op string) (whole, body, rest []byte, err error) {
	s := cryptobyte.String(b)
	var got uint8
	if !s.ReadUint8(&got) {
		return nil, nil, nil, errorf(ErrDecode, op, "there is no %s", typeName(typ))
	}
	if got != typ {
		return nil, nil, nil, errorf(ErrUnexpectedMessage, op, "got %s, want %s", typeName(got), typeName(typ))
	}
	var m cryptobyte.String
	if !s.ReadUint24LengthPrefixed(&m) {
		return nil, nil, nil, errorf(ErrDecode, op, "%s is cut off", typeName(typ))
	}
	if n := headerSize + len(m); n > maxMessage(typ) {
		return nil, nil, nil, errorf(ErrDecode, op, "%s of %d bytes, want at most %d", typeName(typ), n, maxMessage(typ))
	}
	return b[:headerSize+len(m)], m, s, nil
}

// readExtensions reads extensions to the end of s; the same type twice is an
// ErrIllegalParameter.
func readExtensions(s cryptobyte.String, op string) ([]Extension, error) {
	var list []Extension
	seen := make(map[uint16]bool)
	for !s.Empty() {
		var typ uint16
		var data cryptobyte.String
		if !s.ReadUint16(&typ) || !s.ReadUint16LengthPrefixed(&data) {
			return nil, errorf(ErrDecode, op, "an extension is cut off")
		}
		if seen[typ] {
			return nil, errorf(ErrIllegalParameter, op, "extension %#04x comes twice", typ)
		}
		if seen[typ] = true; len(seen) > maxExtensions {
			return nil, errorf(ErrDecode, op, "more than %d extensions", maxExtensions)
		}
		list = append(list, Extension{typ, data})
	}
	return list, nil
}

func addExtensions(b *cryptobyte.Builder, list []Extension) {
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, e := range list {
			b.AddUint16(e.Type)
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.Data) })
		}
	})
}

func find(list []Extension, typ uint16) ([]byte, bool) {
	for _, e := range list {
		if e.Type == typ {
			return e.Data, true
		}
	}
	return nil, false
}

// requestMsg is CertificateRequest or ClientCertificateRequest:
//
//	struct {
//	    opaque certificate_request_context<0..2^8-1>;
//	    Extension extensions<2..2^16-1>;
//	}
type requestMsg struct {
	raw        []byte // with the header, as it is hashed
	context    []byte
	extensions []Extension

	// What the extensions say.
	algorithms     []SignatureScheme // signature_algorithms
	certAlgorithms []SignatureScheme // signature_algorithms_cert, or nil
	authorities    [][]byte          // certificate_authorities: DER names, or nil
	serverName     string
}

func requestType(from attestext.Role) uint8 {
	if from == attestext.RoleClient {
		return typeClientCertificateRequest
	}
	return typeCertificateRequest
}

func (m *requestMsg) marshal(from attestext.Role) ([]byte, error) {
	return message(requestType(from), func(b *cryptobyte.Builder) {
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(m.context) })
		addExtensions(b, m.extensions)
	})
}

// parseRequest reads a request by an end of role from, and nothing but one.
func parseRequest(b []byte, from attestext.Role) (*requestMsg, error) {
	op := fmt.Sprintf("read the %v's request", from)
	whole, body, rest, err := next(b, requestType(from), op)
	if err != nil {
		return nil, err
	}
	m := &requestMsg{raw: whole}
	s := cryptobyte.String(body)
	var extensions cryptobyte.String
	if !s.ReadUint8LengthPrefixed((*cryptobyte.String)(&m.context)) ||
		!s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return nil, errorf(ErrDecode, op, "not a request")
	}
	if len(rest) != 0 {
		return nil, errorf(ErrDecode, op, "%d bytes after the request", len(rest))
	}
	if m.extensions, err = readExtensions(extensions, op); err != nil {
		return nil, err
	}
	if err := m.interpret(from, op); err != nil {
		return nil, err
	}
	return m, nil
}

// interpret reads the extensions that have a meaning here, and no others: RFC
// 9261, section 4, has unrecognized ones ignored.
func (m *requestMsg) interpret(from attestext.Role, op string) error {
	bad := func(name string) error { return errorf(ErrDecode, op, "malformed %s", name) }
	for _, e := range m.extensions {
		s := cryptobyte.String(e.Data)
		switch e.Type {
		case extensionSignatureAlgorithms:
			if m.algorithms = readSchemes(s); m.algorithms == nil {
				return bad("signature_algorithms")
			}
		case extensionSignatureAlgorithmsCert:
			if m.certAlgorithms = readSchemes(s); m.certAlgorithms == nil {
				return bad("signature_algorithms_cert")
			}
		case extensionCertificateAuthorities:
			var names cryptobyte.String
			if !s.ReadUint16LengthPrefixed(&names) || !s.Empty() || names.Empty() {
				return bad("certificate_authorities")
			}
			for !names.Empty() {
				var name cryptobyte.String
				if !names.ReadUint16LengthPrefixed(&name) || name.Empty() {
					return bad("certificate_authorities")
				}
				m.authorities = append(m.authorities, name)
			}
		case extensionServerName:
			if from != attestext.RoleClient {
				return errorf(ErrIllegalParameter, op, "server_name belongs into a ClientCertificateRequest")
			}
			var names, name cryptobyte.String
			var kind uint8
			if !s.ReadUint16LengthPrefixed(&names) || !s.Empty() ||
				!names.ReadUint8(&kind) || kind != 0 || !names.ReadUint16LengthPrefixed(&name) || name.Empty() || !names.Empty() {
				return bad("server_name")
			}
			m.serverName = string(name)
		}
	}
	if m.algorithms == nil {
		return errorf(ErrMissingExtension, op, "without signature_algorithms")
	}
	return nil
}

// readSchemes returns the list in s, or nil if it is empty or malformed.
func readSchemes(s cryptobyte.String) []SignatureScheme {
	var list cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&list) || !s.Empty() {
		return nil
	}
	var schemes []SignatureScheme
	for !list.Empty() {
		var v uint16
		if !list.ReadUint16(&v) {
			return nil
		}
		schemes = append(schemes, SignatureScheme(v))
	}
	return schemes
}

func schemesExtension(typ uint16, schemes []SignatureScheme) Extension {
	b := cryptobyte.NewBuilder(make([]byte, 0, 2+2*len(schemes)))
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, s := range schemes {
			b.AddUint16(uint16(s))
		}
	})
	data, _ := b.Bytes() // too long is empty, and refused as malformed
	return Extension{typ, data}
}

// An entry is a CertificateEntry:
//
//	struct {
//	    opaque cert_data<1..2^24-1>;
//	    Extension extensions<0..2^16-1>;
//	}
type entry struct {
	certificate []byte
	extensions  []Extension
}

// certificateMsg is Certificate:
//
//	struct {
//	    opaque certificate_request_context<0..2^8-1>;
//	    CertificateEntry certificate_list<0..2^24-1>;
//	}
type certificateMsg struct {
	raw     []byte
	context []byte
	entries []entry
}

func (m *certificateMsg) marshal() ([]byte, error) {
	return message(typeCertificate, func(b *cryptobyte.Builder) {
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(m.context) })
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, e := range m.entries {
				b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.certificate) })
				addExtensions(b, e.extensions)
			}
		})
	})
}

func (m *certificateMsg) unmarshal(body []byte, op string) error {
	s := cryptobyte.String(body)
	var list cryptobyte.String
	if !s.ReadUint8LengthPrefixed((*cryptobyte.String)(&m.context)) || !s.ReadUint24LengthPrefixed(&list) || !s.Empty() {
		return errorf(ErrDecode, op, "not a Certificate")
	}
	for !list.Empty() {
		var e entry
		var extensions cryptobyte.String
		if !list.ReadUint24LengthPrefixed((*cryptobyte.String)(&e.certificate)) || len(e.certificate) == 0 ||
			!list.ReadUint16LengthPrefixed(&extensions) {
			return errorf(ErrDecode, op, "malformed certificate entry %d", len(m.entries)+1)
		}
		var err error
		if e.extensions, err = readExtensions(extensions, op); err != nil {
			return err
		}
		if m.entries = append(m.entries, e); len(m.entries) > maxEntries {
			return errorf(ErrDecode, op, "more than %d certificate entries", maxEntries)
		}
	}
	if len(m.entries) == 0 {
		return errorf(ErrDecode, op, "a Certificate without entries: a refusal is Finished alone")
	}
	return nil
}

// verifyMsg is CertificateVerify:
//
//	struct {
//	    SignatureScheme algorithm;
//	    opaque signature<0..2^16-1>;
//	}
type verifyMsg struct {
	raw       []byte
	algorithm SignatureScheme
	signature []byte
}

func (m *verifyMsg) marshal() ([]byte, error) {
	return message(typeCertificateVerify, func(b *cryptobyte.Builder) {
		b.AddUint16(uint16(m.algorithm))
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(m.signature) })
	})
}

func (m *verifyMsg) unmarshal(body []byte, op string) error {
	s := cryptobyte.String(body)
	if !s.ReadUint16((*uint16)(&m.algorithm)) || !s.ReadUint16LengthPrefixed((*cryptobyte.String)(&m.signature)) || !s.Empty() {
		return errorf(ErrDecode, op, "not a CertificateVerify")
	}
	return nil
}

// authenticatorMsg is the answer to a request: Certificate, CertificateVerify and
// Finished; or Finished alone, which refuses.
type authenticatorMsg struct {
	empty       bool
	certificate certificateMsg
	verify      verifyMsg
	finished    []byte // without the header
}

// parseAuthenticator reads an authenticator by an end of role from, and nothing but
// one.
func parseAuthenticator(b []byte, from attestext.Role) (*authenticatorMsg, error) {
	op := fmt.Sprintf("read the %v's authenticator", from)
	m := &authenticatorMsg{empty: len(b) > 0 && b[0] == typeFinished}
	var body []byte
	var err error
	if !m.empty {
		if m.certificate.raw, body, b, err = next(b, typeCertificate, op); err != nil {
			return nil, err
		}
		if err := m.certificate.unmarshal(body, op); err != nil {
			return nil, err
		}
		if m.verify.raw, body, b, err = next(b, typeCertificateVerify, op); err != nil {
			return nil, err
		}
		if err := m.verify.unmarshal(body, op); err != nil {
			return nil, err
		}
	}
	if _, m.finished, b, err = next(b, typeFinished, op); err != nil {
		return nil, err
	}
	if len(b) != 0 {
		return nil, errorf(ErrDecode, op, "%d bytes after Finished", len(b))
	}
	return m, nil
}

// Context returns the certificate_request_context of a request or of an
// authenticator: the "get context" operation of RFC 9261, section 7.2. It verifies
// nothing. An empty authenticator has none, which is an error.
func Context(b []byte) ([]byte, error) {
	const op = "get the context"
	if len(b) == 0 {
		return nil, errorf(ErrDecode, op, "no message")
	}
	switch b[0] {
	case typeCertificateRequest, typeClientCertificateRequest:
		from := attestext.RoleServer
		if b[0] == typeClientCertificateRequest {
			from = attestext.RoleClient
		}
		m, err := parseRequest(b, from)
		if err != nil {
			return nil, err
		}
		return m.context, nil
	case typeCertificate:
		_, body, _, err := next(b, typeCertificate, op)
		if err != nil {
			return nil, err
		}
		var m certificateMsg
		if err := m.unmarshal(body, op); err != nil {
			return nil, err
		}
		return m.context, nil
	}
	return nil, errorf(ErrUnexpectedMessage, op, "%s has none", typeName(b[0]))
}

func serverNameExtension(name string) Extension {
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(0) // host_name
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
	})
	data, _ := b.Bytes() // too long is empty, and refused as malformed
	return Extension{extensionServerName, data}
}

func authoritiesExtension(names [][]byte) Extension {
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, name := range names {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(name) })
		}
	})
	data, _ := b.Bytes() // too long is empty, and refused as malformed
	return Extension{extensionCertificateAuthorities, data}
}
