package attack

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// Handshake messages (RFC 8446, section 4), extensions and groups that the attacker
// reads or writes itself.
const (
	typeClientHello         = 1
	typeServerHello         = 2
	typeEncryptedExtensions = 8
	typeCertificate         = 11
	typeCertificateRequest  = 13
	typeCertificateVerify   = 15
	typeFinished            = 20
	typeMessageHash         = 254

	extServerName           = 0
	extSupportedGroups      = 10
	extSignatureAlgorithms  = 13
	extPreSharedKey         = 41
	extEarlyData            = 42
	extSupportedVersions    = 43
	extKeyShare             = 51
	groupX25519             = 29
	schemeECDSAP256         = 0x0403
	versionTLS12            = 0x0303
	suiteAES128GCM          = 0x1301
	suiteAES256GCM          = 0x1302
	suiteChaCha20           = 0x1303
	handshakeHeader         = 4
	maxHandshakeMessageSize = 1 << 18
)

// helloRetryRandom is the random of a ServerHello that is a HelloRetryRequest.
var helloRetryRandom = []byte{
	0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
	0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
}

// An extension is one of a hello or of a certificate entry, as on the wire.
type extension struct {
	typ  uint16
	data []byte
}

func find(exts []extension, typ uint16) ([]byte, bool) {
	i := slices.IndexFunc(exts, func(e extension) bool { return e.typ == typ })
	if i < 0 {
		return nil, false
	}
	return exts[i].data, true
}

// without returns exts less those of the given types.
func without(exts []extension, types ...uint16) []extension {
	return slices.DeleteFunc(slices.Clone(exts), func(e extension) bool { return slices.Contains(types, e.typ) })
}

func addExtensions(b *cryptobyte.Builder, exts []extension) {
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, e := range exts {
			b.AddUint16(e.typ)
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.data) })
		}
	})
}

func readExtensions(s *cryptobyte.String) ([]extension, bool) {
	var list cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&list) {
		return nil, false
	}
	var exts []extension
	for !list.Empty() {
		var e extension
		var data cryptobyte.String
		if !list.ReadUint16(&e.typ) || !list.ReadUint16LengthPrefixed(&data) {
			return nil, false
		}
		e.data = data
		exts = append(exts, e)
	}
	return exts, true
}

// A hello is a ClientHello or a ServerHello.
type hello struct {
	raw     []byte // the message with its header
	random  []byte
	session []byte
	suites  []uint16 // a server's has one
	exts    []extension
}

var errHello = errors.New("attack: malformed hello")

// parseHello reads a ClientHello or a ServerHello with its header.
func parseHello(msg []byte) (*hello, error) {
	h := &hello{raw: msg}
	s := cryptobyte.String(msg)
	var typ uint8
	var body, session, list, compression cryptobyte.String
	if !s.ReadUint8(&typ) || !s.ReadUint24LengthPrefixed(&body) || !s.Empty() ||
		!body.Skip(2) || !body.ReadBytes(&h.random, 32) || !body.ReadUint8LengthPrefixed(&session) {
		return nil, errHello
	}
	h.session = session
	switch typ {
	case typeClientHello:
		if !body.ReadUint16LengthPrefixed(&list) || !body.ReadUint8LengthPrefixed(&compression) {
			return nil, errHello
		}
	case typeServerHello:
		var b []byte
		if !body.ReadBytes(&b, 2) || !body.Skip(1) {
			return nil, errHello
		}
		list = b
	default:
		return nil, errHello
	}
	for !list.Empty() {
		var id uint16
		if !list.ReadUint16(&id) {
			return nil, errHello
		}
		h.suites = append(h.suites, id)
	}
	if len(h.suites) == 0 {
		return nil, errHello
	}
	var ok bool
	if h.exts, ok = readExtensions(&body); !ok || !body.Empty() {
		return nil, errHello
	}
	return h, nil
}

// message returns body behind its header.
func message(typ uint8, body func(*cryptobyte.Builder)) []byte {
	var b cryptobyte.Builder
	b.AddUint8(typ)
	b.AddUint24LengthPrefixed(body)
	return b.BytesOrPanic()
}

// client returns h as the message ClientHello.
func (h *hello) client() []byte {
	return message(typeClientHello, func(b *cryptobyte.Builder) {
		b.AddUint16(versionTLS12)
		b.AddBytes(h.random)
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(h.session) })
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, id := range h.suites {
				b.AddUint16(id)
			}
		})
		b.AddBytes([]byte{1, 0})
		addExtensions(b, h.exts)
	})
}

// server returns h as the message ServerHello.
func (h *hello) server() []byte {
	return message(typeServerHello, func(b *cryptobyte.Builder) {
		b.AddUint16(versionTLS12)
		b.AddBytes(h.random)
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(h.session) })
		b.AddUint16(h.suites[0])
		b.AddUint8(0)
		addExtensions(b, h.exts)
	})
}

// keyShare returns the share of a ServerHello, or of a ClientHello for X25519.
func (h *hello) keyShare(server bool) ([]byte, error) {
	data, ok := find(h.exts, extKeyShare)
	s := cryptobyte.String(data)
	if !server {
		var list cryptobyte.String
		if !s.ReadUint16LengthPrefixed(&list) {
			return nil, errHello
		}
		s = list
	}
	for ok && !s.Empty() {
		var group uint16
		var share cryptobyte.String
		if !s.ReadUint16(&group) || !s.ReadUint16LengthPrefixed(&share) {
			return nil, errHello
		}
		if group == groupX25519 {
			return share, nil
		}
	}
	return nil, fmt.Errorf("attack: no key share for X25519")
}

func clientKeyShare(share []byte) extension {
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint16(groupX25519)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(share) })
	})
	return extension{extKeyShare, b.BytesOrPanic()}
}

func serverKeyShare(share []byte) extension {
	var b cryptobyte.Builder
	b.AddUint16(groupX25519)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(share) })
	return extension{extKeyShare, b.BytesOrPanic()}
}

func serverName(name string) extension {
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(0)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
	})
	return extension{extServerName, b.BytesOrPanic()}
}

// An entry is a CertificateEntry.
type entry struct {
	data []byte
	exts []extension
}

func certificate(entries ...entry) []byte { return certificateFor(nil, entries...) }

// certificateFor returns a Certificate message with a certificate_request_context.
func certificateFor(context []byte, entries ...entry) []byte {
	return message(typeCertificate, func(b *cryptobyte.Builder) {
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(context) })
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, e := range entries {
				b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.data) })
				addExtensions(b, e.exts)
			}
		})
	})
}

func parseCertificate(msg []byte) ([]entry, error) {
	s := cryptobyte.String(msg)
	var context, list cryptobyte.String
	if !s.Skip(handshakeHeader) || !s.ReadUint8LengthPrefixed(&context) || !s.ReadUint24LengthPrefixed(&list) {
		return nil, errors.New("attack: malformed Certificate")
	}
	var entries []entry
	for !list.Empty() {
		var data cryptobyte.String
		if !list.ReadUint24LengthPrefixed(&data) {
			return nil, errors.New("attack: malformed Certificate")
		}
		exts, ok := readExtensions(&list)
		if !ok {
			return nil, errors.New("attack: malformed Certificate")
		}
		entries = append(entries, entry{data, exts})
	}
	return entries, nil
}

func encryptedExtensions(exts []extension) []byte {
	return message(typeEncryptedExtensions, func(b *cryptobyte.Builder) { addExtensions(b, exts) })
}

func parseEncryptedExtensions(msg []byte) ([]extension, error) {
	s := cryptobyte.String(msg)
	if !s.Skip(handshakeHeader) {
		return nil, errors.New("attack: malformed EncryptedExtensions")
	}
	exts, ok := readExtensions(&s)
	if !ok {
		return nil, errors.New("attack: malformed EncryptedExtensions")
	}
	return exts, nil
}
