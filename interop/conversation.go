package interop

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"
)

// This file reads TLS 1.3 out of a capture and a key log, with nothing of the
// implementation under test: numbers, labels and the key schedule are written down
// here once more, from RFC 8446 and draft-fossati-tls-attestation-08.

// Content types of records.
const (
	recordCCS         = 20
	recordAlert       = 21
	recordHandshake   = 22
	recordApplication = 23
)

// Types of handshake messages.
const (
	typeClientHello         = 1
	typeServerHello         = 2
	typeEncryptedExtensions = 8
	typeCertificate         = 11
	typeCertificateRequest  = 13
	typeFinished            = 20
	typeKeyUpdate           = 24
	typeMessageHash         = 254
)

// Labels of secrets in a key log. The last one is not in SSLKEYLOGFILE: a peer that
// knows its Handshake Secret writes it, so that the binder can be computed.
const (
	logClientHandshake = "CLIENT_HANDSHAKE_TRAFFIC_SECRET"
	logServerHandshake = "SERVER_HANDSHAKE_TRAFFIC_SECRET"
	logClientTraffic   = "CLIENT_TRAFFIC_SECRET_0"
	logServerTraffic   = "SERVER_TRAFFIC_SECRET_0"
	logExporter        = "EXPORTER_SECRET"
	logHandshakeSecret = "HANDSHAKE_SECRET"
)

// A message is one that went by, decrypted.
type message struct {
	from   side
	record uint8  // content type
	keys   string // what it was protected with: "", "handshake" or "application"
	data   []byte // of a handshake message with its header
}

func (m *message) handshakeType() uint8 {
	if m.record != recordHandshake || len(m.data) == 0 {
		return 0
	}
	return m.data[0]
}

func (m *message) body() []byte { return m.data[4:] }

// A conversation is one connection, read.
type conversation struct {
	messages []message
	suite    uint16
	random   []byte // of the client
	secrets  map[string][]byte
	// complaint says what could not be read; empty where all could.
	complaint string
}

// A keyLog maps a client random, in hexadecimal, to its secrets.
type keyLog map[string]map[string][]byte

func parseKeyLog(b []byte) keyLog {
	l := keyLog{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		secret, err := hex.DecodeString(f[2])
		if err != nil {
			continue
		}
		random := strings.ToLower(f[1])
		if l[random] == nil {
			l[random] = map[string][]byte{}
		}
		l[random][f[0]] = secret
	}
	return l
}

// A direction is one half of a connection while it is read.
type direction struct {
	buf       []byte // bytes of records
	handshake []byte // bytes of handshake messages
	aead      cipher.AEAD
	iv        []byte
	seq       uint64
	keys      string
	secret    []byte
	finished  bool // Finished was sent
	failed    bool
}

const (
	maxRecord  = 1<<14 + 256
	maxMessage = 1 << 20
)

// converse reads connection n of a capture.
func converse(chunks []chunk, n int, keys keyLog) *conversation {
	c := &conversation{}
	var dirs [2]direction
	for _, ch := range chunks {
		if ch.conn != n {
			continue
		}
		d := &dirs[ch.from]
		if d.failed {
			continue
		}
		d.buf = append(d.buf, ch.data...)
		if err := c.read(ch.from, &dirs, keys); err != nil {
			d.failed = true
			c.complaint = cmp.Or(c.complaint, fmt.Sprintf("what the %v sent: %v", ch.from, err))
		}
	}
	return c
}

// read reads the records that are complete.
func (c *conversation) read(from side, dirs *[2]direction, keys keyLog) error {
	d := &dirs[from]
	for len(d.buf) >= 5 {
		typ := d.buf[0]
		n := int(d.buf[3])<<8 | int(d.buf[4])
		if d.buf[1] != 3 || typ < recordCCS || typ > recordApplication || n > maxRecord {
			return errors.New("not a TLS record")
		}
		if len(d.buf) < 5+n {
			return nil
		}
		header, body := d.buf[:5], d.buf[5:5+n]
		d.buf = d.buf[5+n:]
		protection := ""
		if typ == recordApplication {
			if d.aead == nil {
				if err := c.key(from, d); err != nil {
					return err
				}
			}
			var err error
			if typ, body, err = d.open(header, body); err != nil {
				return err
			}
			protection = d.keys
		}
		switch typ {
		case recordCCS:
		case recordHandshake:
			d.handshake = append(d.handshake, body...)
			if err := c.handshakes(from, d, protection, keys); err != nil {
				return err
			}
		default:
			c.messages = append(c.messages, message{from, typ, protection, bytes.Clone(body)})
		}
	}
	return nil
}

// handshakes reads the handshake messages that are complete.
func (c *conversation) handshakes(from side, d *direction, protection string, keys keyLog) error {
	for len(d.handshake) >= 4 {
		n := 4 + (int(d.handshake[1])<<16 | int(d.handshake[2])<<8 | int(d.handshake[3]))
		if n > maxMessage {
			return fmt.Errorf("handshake message of %d bytes", n)
		}
		if len(d.handshake) < n {
			return nil
		}
		m := message{from, recordHandshake, protection, bytes.Clone(d.handshake[:n])}
		d.handshake = d.handshake[n:]
		c.messages = append(c.messages, m)
		switch m.handshakeType() {
		case typeClientHello:
			if len(m.data) < 38 {
				return errors.New("short ClientHello")
			}
			c.random = m.data[6:38]
		case typeServerHello:
			h, err := parseServerHello(m.body())
			if err != nil {
				return err
			}
			if !h.retry {
				c.suite = h.suite
				c.secrets = keys[hex.EncodeToString(c.random)]
			}
		case typeFinished:
			d.aead, d.finished = nil, true
		case typeKeyUpdate:
			if d.secret == nil {
				return errors.New("KeyUpdate in the clear")
			}
			if err := d.protect(c, expandLabel(c.hash(), d.secret, "traffic upd", nil, c.hash()().Size())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *conversation) hash() func() hash.Hash { return suiteHash(c.suite) }

func suiteHash(suite uint16) func() hash.Hash {
	if suite == 0x1302 {
		return sha512.New384
	}
	return sha256.New
}

// key has d go on with the keys of the stage that it has come to.
func (c *conversation) key(from side, d *direction) error {
	stage, labels := "handshake", [2]string{logClientHandshake, logServerHandshake}
	if d.finished {
		stage, labels = "application", [2]string{logClientTraffic, logServerTraffic}
	}
	secret := c.secrets[labels[from]]
	if secret == nil {
		return fmt.Errorf("the key log has no %s", labels[from])
	}
	d.keys = stage
	return d.protect(c, secret)
}

func (d *direction) protect(c *conversation, secret []byte) error {
	size := 16
	if c.suite != 0x1301 {
		size = 32
	}
	key := expandLabel(c.hash(), secret, "key", nil, size)
	d.secret, d.seq = secret, 0
	d.iv = expandLabel(c.hash(), secret, "iv", nil, 12)
	var err error
	if c.suite == 0x1303 {
		d.aead, err = chacha20poly1305.New(key)
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	d.aead, err = cipher.NewGCM(block)
	return err
}

// open decrypts a record and returns its inner type and content.
func (d *direction) open(header, body []byte) (uint8, []byte, error) {
	nonce := bytes.Clone(d.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(d.seq >> (56 - 8*i))
	}
	plain, err := d.aead.Open(nil, nonce, body, header)
	if err != nil {
		return 0, nil, fmt.Errorf("a record does not decrypt under the %s keys", d.keys)
	}
	d.seq++
	plain = bytes.TrimRight(plain, "\x00")
	if len(plain) == 0 {
		return 0, nil, errors.New("a record without a type")
	}
	return plain[len(plain)-1], plain[:len(plain)-1], nil
}

// expandLabel is HKDF-Expand-Label (RFC 8446, section 7.1).
func expandLabel(h func() hash.Hash, secret []byte, label string, context []byte, n int) []byte {
	var b cryptobyte.Builder
	b.AddUint16(uint16(n))
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte("tls13 " + label)) })
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(context) })
	out, err := hkdf.Expand(h, secret, string(b.BytesOrPanic()), n)
	if err != nil {
		panic("interop: " + err.Error()) // n is fixed or a nonce's
	}
	return out
}

func sum(h func() hash.Hash, b ...[]byte) []byte {
	d := h()
	for _, x := range b {
		d.Write(x)
	}
	return d.Sum(nil)
}

// export is the exporter of RFC 8446, section 7.5, from any exporter secret.
func export(h func() hash.Hash, secret []byte, label string, context []byte, n int) []byte {
	derived := expandLabel(h, secret, label, sum(h), h().Size())
	return expandLabel(h, derived, "exporter", sum(h, context), n)
}

// first returns the first handshake message of a type from a side after skip others.
func (c *conversation) first(from side, typ uint8, skip int) *message {
	for i := range c.messages {
		m := &c.messages[i]
		if m.from == from && m.handshakeType() == typ && m.keys != "application" {
			if skip == 0 {
				return m
			}
			skip--
		}
	}
	return nil
}

// toServerHello returns the hash of the messages up to ServerHello, of which a
// HelloRetryRequest's first ClientHello is replaced by its hash (RFC 8446, 4.4.1).
func (c *conversation) toServerHello() ([]byte, error) {
	t, err := c.upTo(server, typeServerHello)
	return sum(c.hash(), t), err
}

// upTo returns the messages of the handshake up to one of a type from a side, with the
// same replacement.
func (c *conversation) upTo(from side, typ uint8) ([]byte, error) {
	var t []byte
	for i := range c.messages {
		m := &c.messages[i]
		if m.record != recordHandshake {
			continue
		}
		retry := false
		if m.handshakeType() == typeServerHello {
			h, err := parseServerHello(m.body())
			if err != nil {
				return nil, err
			}
			if retry = h.retry; retry {
				first := sum(suiteHash(h.suite), t)
				t = append([]byte{typeMessageHash, 0, 0, byte(len(first))}, first...)
			}
		}
		t = append(t, m.data...)
		if m.from == from && m.handshakeType() == typ && !retry {
			return t, nil
		}
	}
	return nil, fmt.Errorf("the %v sent no message of type %d", from, typ)
}

// binder computes the channel binder of draft-fossati-tls-attestation-08 from the
// Handshake Secret that a peer wrote into its key log. That this is the secret of the
// connection is not taken on trust: the traffic secret that follows from it must be
// the one that decrypts. It is nil where no peer wrote one.
func (c *conversation) binder(nonce []byte) ([]byte, error) {
	hs := c.secrets[logHandshakeSecret]
	if hs == nil {
		return nil, nil
	}
	transcript, err := c.toServerHello()
	if err != nil {
		return nil, err
	}
	h := c.hash()
	traffic := expandLabel(h, hs, "s hs traffic", transcript, h().Size())
	if !hmac.Equal(traffic, c.secrets[logServerHandshake]) {
		return nil, errors.New("the Handshake Secret that the peer logged is not that of the connection")
	}
	secret := expandLabel(h, hs, "h exp master", transcript, h().Size())
	return export(h, secret, "attestation-binder", nonce, len(nonce)), nil
}

// An extension is one of any message.
type extension struct {
	typ  uint16
	data []byte
}

func find(list []extension, typ uint16) ([]byte, bool) {
	i := slices.IndexFunc(list, func(e extension) bool { return e.typ == typ })
	if i < 0 {
		return nil, false
	}
	return list[i].data, true
}

func readExtensions(s *cryptobyte.String) ([]extension, error) {
	var list cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&list) {
		return nil, errors.New("extensions are cut off")
	}
	var all []extension
	for !list.Empty() {
		var e extension
		var data cryptobyte.String
		if !list.ReadUint16(&e.typ) || !list.ReadUint16LengthPrefixed(&data) {
			return nil, errors.New("an extension is cut off")
		}
		e.data = data
		all = append(all, e)
	}
	return all, nil
}

type clientHello struct {
	suites     []uint16
	extensions []extension
}

func parseClientHello(b []byte) (*clientHello, error) {
	s, h := cryptobyte.String(b), &clientHello{}
	var suites, skip cryptobyte.String
	if !s.Skip(2+32) || !s.ReadUint8LengthPrefixed(&skip) || !s.ReadUint16LengthPrefixed(&suites) || !s.ReadUint8LengthPrefixed(&skip) {
		return nil, errors.New("ClientHello is cut off")
	}
	for !suites.Empty() {
		var x uint16
		if !suites.ReadUint16(&x) {
			return nil, errors.New("ClientHello has half a suite")
		}
		h.suites = append(h.suites, x)
	}
	var err error
	h.extensions, err = readExtensions(&s)
	return h, err
}

type serverHello struct {
	retry      bool
	suite      uint16
	group      uint16
	extensions []extension
}

// retryRandom is the random of a ServerHello that is a HelloRetryRequest.
var retryRandom = sha256.Sum256([]byte("HelloRetryRequest"))

func parseServerHello(b []byte) (*serverHello, error) {
	s, h := cryptobyte.String(b), &serverHello{}
	var random []byte
	var session cryptobyte.String
	if !s.Skip(2) || !s.ReadBytes(&random, 32) || !s.ReadUint8LengthPrefixed(&session) || !s.ReadUint16(&h.suite) || !s.Skip(1) {
		return nil, errors.New("ServerHello is cut off")
	}
	h.retry = bytes.Equal(random, retryRandom[:])
	var err error
	if h.extensions, err = readExtensions(&s); err != nil {
		return nil, err
	}
	if share, ok := find(h.extensions, 51); ok && len(share) >= 2 {
		h.group = uint16(share[0])<<8 | uint16(share[1])
	}
	return h, nil
}

// An entry is one of a Certificate message.
type entry struct {
	data       []byte
	extensions []extension
}

func parseCertificate(b []byte) ([]entry, error) {
	s := cryptobyte.String(b)
	var context cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&context) {
		return nil, errors.New("Certificate is cut off")
	}
	return parseEntries(s)
}

// parseEntries reads certificate_list, with which a Certificate ends.
func parseEntries(s cryptobyte.String) ([]entry, error) {
	var list cryptobyte.String
	if !s.ReadUint24LengthPrefixed(&list) || !s.Empty() {
		return nil, errors.New("Certificate is cut off")
	}
	var all []entry
	for !list.Empty() {
		var e entry
		var data cryptobyte.String
		if !list.ReadUint24LengthPrefixed(&data) {
			return nil, errors.New("an entry of Certificate is cut off")
		}
		e.data = data
		var err error
		if e.extensions, err = readExtensions(&list); err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}
