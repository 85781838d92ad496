package tls

import (
	"bytes"
	"errors"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// attestExtension is a TLS extension that upstream does not know, as on the wire.
type attestExtension struct {
	typ  uint16
	data []byte
}

// attestClientHelloState is what a ClientHello carries beside what upstream knows.
// A received one is read from its original bytes.
type attestClientHelloState struct{ extensions []attestExtension }

func (s attestClientHelloState) marshal(b *cryptobyte.Builder) { addExtensions(b, s.extensions) }

// attestEncryptedExtensionsState is what EncryptedExtensions carry beside what
// upstream knows, whether sent or received.
type attestEncryptedExtensionsState struct{ extensions []attestExtension }

func (s attestEncryptedExtensionsState) marshal(b *cryptobyte.Builder) {
	addExtensions(b, s.extensions)
}

func (s *attestEncryptedExtensionsState) keep(typ uint16, data []byte) {
	s.extensions = append(s.extensions, attestExtension{typ, data})
}

func addExtensions(b *cryptobyte.Builder, extensions []attestExtension) {
	for _, e := range extensions {
		b.AddUint16(e.typ)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.data) })
	}
}

// attestCertificateRequestState is what a CertificateRequest carries beside what
// upstream knows, whether sent or received.
type attestCertificateRequestState struct{ attestEncryptedExtensionsState }

// attestCertificateState is what a TLS 1.3 Certificate message carries beside what
// upstream knows.
type attestCertificateState struct {
	// send holds extensions to add to the first CertificateEntry.
	send []attestExtension
	// received holds the extensions of each entry that has any that upstream
	// does not know, with the entry's index.
	received []attestCertificateExtension
}

type attestCertificateExtension struct {
	entry int
	attestExtension
}

// marshal adds s.send to the first entry of an encoded Certificate message.
func (s *attestCertificateState) marshal(msg []byte, err error) ([]byte, error) {
	if err != nil || len(s.send) == 0 {
		return msg, err
	}
	body := cryptobyte.String(msg)
	var context, list, cert, first cryptobyte.String
	if !body.Skip(4) || !body.ReadUint8LengthPrefixed(&context) || !body.ReadUint24LengthPrefixed(&list) ||
		!list.ReadUint24LengthPrefixed(&cert) || !list.ReadUint16LengthPrefixed(&first) {
		return nil, errors.New("tls: internal error: extension for a Certificate message without an entry")
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(msg)+4*len(s.send)+len(s.send[0].data)))
	b.AddUint8(typeCertificate)
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(context) })
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(cert) })
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				b.AddBytes(first)
				addExtensions(b, s.send)
			})
			b.AddBytes(list)
		})
	})
	return b.Bytes()
}

// maxExtensions is how many bytes the extensions of one CertificateEntry may have:
// their length has 16 bits.
const maxExtensions = 1<<16 - 1

// firstEntryExtensions returns how many bytes the extensions of the first entry of m
// will have, the headers of 4 bytes included.
func (m *certificateMsgTLS13) firstEntryExtensions() int {
	n := 0
	if m.ocspStapling && m.certificate.OCSPStaple != nil {
		n += 4 + 1 + 3 + len(m.certificate.OCSPStaple)
	}
	if m.scts && m.certificate.SignedCertificateTimestamps != nil {
		n += 4 + 2
		for _, sct := range m.certificate.SignedCertificateTimestamps {
			n += 2 + len(sct)
		}
	}
	for _, e := range m.attest.send {
		n += 4 + len(e.data)
	}
	return n
}

// unmarshal keeps the extensions of a well-formed Certificate message that
// upstream does not know.
func (s *attestCertificateState) unmarshal(msg []byte) bool {
	body := cryptobyte.String(msg)
	var context, list cryptobyte.String
	if !body.Skip(4) || !body.ReadUint8LengthPrefixed(&context) || !body.ReadUint24LengthPrefixed(&list) {
		return false
	}
	for i := 0; !list.Empty(); i++ {
		var cert, extensions cryptobyte.String
		if !list.ReadUint24LengthPrefixed(&cert) || !list.ReadUint16LengthPrefixed(&extensions) {
			return false
		}
		for !extensions.Empty() {
			var typ uint16
			var data cryptobyte.String
			if !extensions.ReadUint16(&typ) || !extensions.ReadUint16LengthPrefixed(&data) {
				return false
			}
			if typ != extensionStatusRequest && typ != extensionSCT {
				s.received = append(s.received, attestCertificateExtension{i, attestExtension{typ, data}})
			}
		}
	}
	return true
}

// helloExtensions returns the extensions among types of an encoded ClientHello or
// ServerHello that has been parsed before, in the order of the message.
func helloExtensions(msg []byte, types []uint16) []attestExtension {
	s := cryptobyte.String(msg)
	var ignored, extensions cryptobyte.String
	if len(msg) == 0 || !s.Skip(4+2+32) || !s.ReadUint8LengthPrefixed(&ignored) {
		return nil
	}
	switch msg[0] {
	case typeClientHello: // cipher_suites, legacy_compression_methods
		if !s.ReadUint16LengthPrefixed(&ignored) || !s.ReadUint8LengthPrefixed(&ignored) {
			return nil
		}
	case typeServerHello: // cipher_suite, legacy_compression_method
		if !s.Skip(3) {
			return nil
		}
	}
	if !s.ReadUint16LengthPrefixed(&extensions) {
		return nil
	}
	var found []attestExtension
	for !extensions.Empty() {
		var typ uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&typ) || !extensions.ReadUint16LengthPrefixed(&data) {
			return nil
		}
		if slices.Contains(types, typ) {
			found = append(found, attestExtension{typ, data})
		}
	}
	return found
}

// findExtension returns the data of the extension of type typ, if it is there.
func findExtension(extensions []attestExtension, typ uint16) ([]byte, bool) {
	for _, e := range extensions {
		if e.typ == typ {
			return e.data, true
		}
	}
	return nil, false
}

// sameExtensions reports whether a and b are alike, byte for byte and in order.
func sameExtensions(a, b []attestExtension) bool {
	return slices.EqualFunc(a, b, func(x, y attestExtension) bool {
		return x.typ == y.typ && bytes.Equal(x.data, y.data)
	})
}
