// Package capture reads and writes captured TLS 1.3 handshakes: what both ends sent
// until the handshake was over, and the secrets that decrypt it and no application
// data. The command atls writes them with dial --capture.
package capture

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/keyschedule"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"
)

// Magic is the first line of a capture.
const Magic = "atls capture 1"

// Bounds on a capture and what is in it, in bytes and in pieces.
const (
	MaxSize  = 4 << 20
	maxLines = 1 << 14
	maxItems = 1 << 12
	// What Certificate may have, where Evidence is in it.
	maxMessage = 1 << 20
	maxRecord  = 16<<10 + 256
)

// Labels of the secrets that a capture holds, of those in an SSLKEYLOGFILE.
const (
	ClientSecret = "CLIENT_HANDSHAKE_TRAFFIC_SECRET"
	ServerSecret = "SERVER_HANDSHAKE_TRAFFIC_SECRET"
)

// Forms in which the ends of a handshake attest, as tls.AttestationForm has them.
const (
	FormEarly   = "early"
	FormEarly03 = "early-03"
)

// A Capture is a handshake as it was on the wire. It is a text of lines:
//
//	atls capture 1
//	> HEX                         bytes that the client sent
//	< HEX                         bytes that the server sent
//	key LABEL RANDOM SECRET       a line of the key log, in hexadecimal
//	binder ROLE BINDING HEX       what the end that wrote it held the attestation of ROLE
//	                              ("client", "server") to, which keys do not tell
//	form FORM                     how they attest, if not as draft-fossati-tls-attestation has
//	                              it: "early" or "early-03"
//
// Bytes of one direction are in the order in which they were sent. Hexadecimal digits
// are lower case.
type Capture struct {
	Client, Server             []byte
	ClientSecret, ServerSecret []byte // nil if not known
	Random                     []byte // of ClientHello, as the key log has it
	Binders                    []Binder
	Form                       string // empty, FormEarly or FormEarly03
}

// A Binder is the challenge of one direction of attestation.
type Binder struct {
	Role    attestext.Role // of the end that attests
	Binding attestext.Binding
	Value   []byte
}

func malformed(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrMalformed, "parse capture", format, args...)
}

// IsCapture reports whether b begins as a capture does.
func IsCapture(b []byte) bool { return bytes.HasPrefix(b, []byte(Magic+"\n")) }

// Parse reads a capture. It refuses lines that it does not know, and what comes
// twice. Errors are of class [attestext.ErrMalformed].
func Parse(b []byte) (*Capture, error) {
	if len(b) > MaxSize {
		return nil, malformed("%d bytes, at most %d are read", len(b), MaxSize)
	}
	if !IsCapture(b) {
		return nil, malformed("the first line is not %q", Magic)
	}
	if n := bytes.Count(b, []byte("\n")); n > maxLines || b[len(b)-1] != '\n' {
		return nil, malformed("%d lines, at most %d are read, and the last one has to end", n, maxLines)
	}
	c := new(Capture)
	n := 0
	for line := range strings.Lines(string(b)) {
		if n++; n == 1 {
			continue
		}
		if err := c.line(strings.Split(strings.TrimSuffix(line, "\n"), " ")); err != nil {
			return nil, malformed("line %d: %w", n, err)
		}
	}
	return c, nil
}

func unhex(s string, minimum, maximum int) ([]byte, error) {
	if n := len(s) / 2; n < minimum || n > maximum {
		return nil, fmt.Errorf("%d bytes, want %d to %d", n, minimum, maximum)
	}
	b, err := hex.DecodeString(s)
	if err != nil || hex.EncodeToString(b) != s {
		return nil, errors.New("not hexadecimal in lower case")
	}
	return b, nil
}

func (c *Capture) line(w []string) error {
	switch {
	case len(w) == 2 && (w[0] == ">" || w[0] == "<"):
		b, err := unhex(w[1], 1, MaxSize)
		if err != nil {
			return err
		}
		if w[0] == ">" {
			c.Client = append(c.Client, b...)
		} else {
			c.Server = append(c.Server, b...)
		}
		return nil
	case len(w) == 2 && w[0] == "form":
		if c.Form != "" || w[1] != FormEarly && w[1] != FormEarly03 {
			return errors.New("unknown form, or one twice")
		}
		c.Form = w[1]
		return nil
	case len(w) == 4 && w[0] == "key":
		return c.key(w[1], w[2], w[3])
	case len(w) == 4 && w[0] == "binder":
		return c.binder(w[1], w[2], w[3])
	}
	return errors.New("not a line of a capture")
}

func (c *Capture) key(label, random, secret string) error {
	dst := &c.ClientSecret
	switch label {
	case ClientSecret:
	case ServerSecret:
		dst = &c.ServerSecret
	default:
		return fmt.Errorf("a capture holds no key %.40q", label)
	}
	r, err := unhex(random, 32, 32)
	if err != nil {
		return err
	}
	if *dst != nil || c.Random != nil && !bytes.Equal(c.Random, r) {
		return errors.New("a key twice, or of two connections")
	}
	c.Random = r
	*dst, err = unhex(secret, sha256.Size, sha512.Size384)
	return err
}

func (c *Capture) binder(role, binding, value string) error {
	b := Binder{Role: attestext.RoleServer}
	switch role {
	case "server":
	case "client":
		b.Role = attestext.RoleClient
	default:
		return errors.New("unknown role")
	}
	known := false
	for _, rule := range []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08, attestext.BindingEarly} {
		if rule.String() == binding {
			b.Binding, known = rule, true
		}
	}
	if !known || c.Binder(b.Role) != nil {
		return errors.New("unknown binding rule, or a role twice")
	}
	var err error
	if b.Value, err = unhex(value, attestext.MinNonceSize, attestext.MaxChallengeSize); err != nil {
		return err
	}
	c.Binders = append(c.Binders, b)
	return nil
}

// Binder returns that of the end that attests as role, or nil.
func (c *Capture) Binder(role attestext.Role) *Binder {
	for i := range c.Binders {
		if c.Binders[i].Role == role {
			return &c.Binders[i]
		}
	}
	return nil
}

// Marshal returns what [Parse] reads.
func (c *Capture) Marshal() []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, Magic)
	if c.Form != "" {
		fmt.Fprintf(&b, "form %s\n", c.Form)
	}
	for _, k := range []struct {
		label  string
		secret []byte
	}{{ClientSecret, c.ClientSecret}, {ServerSecret, c.ServerSecret}} {
		if k.secret != nil {
			fmt.Fprintf(&b, "key %s %x %x\n", k.label, c.Random, k.secret)
		}
	}
	for _, d := range c.Binders {
		fmt.Fprintf(&b, "binder %v %v %x\n", d.Role, d.Binding, d.Value)
	}
	if len(c.Client) > 0 {
		fmt.Fprintf(&b, "> %x\n", c.Client)
	}
	if len(c.Server) > 0 {
		fmt.Fprintf(&b, "< %x\n", c.Server)
	}
	return b.Bytes()
}

// Record types of TLS.
const (
	recordChangeCipherSpec = 20
	recordAlert            = 21
	recordHandshake        = 22
	recordApplicationData  = 23
)

// An Item is what one end sent: a handshake message, an alert, or bytes that are not
// looked into.
type Item struct {
	// Message is the type of a handshake message, or zero.
	Message uint8
	// Alert is set for an alert, whose description is Data[1].
	Alert bool
	// Encrypted says that it was, on the wire.
	Encrypted bool
	// Data is the body of a message, without its header, or of an alert. It is nil for
	// what is not decrypted, of which Size is known.
	Data []byte
	Size int
}

// Messages of TLS 1.3 that this package looks for (RFC 8446, section 4).
const (
	messageServerHello = 2
	messageFinished    = 20
)

// Items returns what the client and the server sent, each in order. What is encrypted
// is decrypted with the secrets of the capture, up to the Finished message of each end:
// beyond it, and without them, it has a size and no data. Errors are of class
// [attestext.ErrMalformed].
func (c *Capture) Items() (client, server []Item, err error) {
	s := &stream{rest: c.Server, secret: c.ServerSecret}
	if server, err = s.items(); err != nil {
		return nil, nil, fmt.Errorf("the server's: %w", err)
	}
	if client, err = (&stream{rest: c.Client, secret: c.ClientSecret, suite: s.suite}).items(); err != nil {
		return nil, nil, fmt.Errorf("the client's: %w", err)
	}
	return client, server, nil
}

// A suite is what decrypting needs of a cipher suite.
type suite struct {
	size int // of a secret
	key  int
	aead func(key []byte) (cipher.AEAD, error)
}

func gcm(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

var suites = map[uint16]*suite{
	0x1301: {sha256.Size, 16, gcm},                  // TLS_AES_128_GCM_SHA256
	0x1302: {sha512.Size384, 32, gcm},               // TLS_AES_256_GCM_SHA384
	0x1303: {sha256.Size, 32, chacha20poly1305.New}, // TLS_CHACHA20_POLY1305_SHA256
}

// suiteOf returns the suite of a ServerHello, nil if it is none of TLS 1.3.
func suiteOf(hello []byte) (*suite, error) {
	s := cryptobyte.String(hello)
	var session cryptobyte.String
	var id uint16
	if !s.Skip(2+32) || !s.ReadUint8LengthPrefixed(&session) || !s.ReadUint16(&id) {
		return nil, malformed("ServerHello")
	}
	return suites[id], nil
}

// expand derives size bytes of key material from a traffic secret.
func (u *suite) expand(secret []byte, label string, size int) []byte {
	if u.size == sha256.Size {
		return keyschedule.ExpandLabel(sha256.New, secret, label, nil, size)
	}
	return keyschedule.ExpandLabel(sha512.New384, secret, label, nil, size)
}

// A stream is one direction.
type stream struct {
	rest     []byte
	secret   []byte
	suite    *suite // once ServerHello has named it
	aead     cipher.AEAD
	iv       []byte
	sequence uint64
	finished bool

	plain, secretly []byte // handshake bytes that no message is complete of
	out             []Item
}

func (s *stream) add(it Item) error {
	if len(s.out) == maxItems {
		return malformed("more than %d messages", maxItems)
	}
	s.out = append(s.out, it)
	return nil
}

// items reads the stream.
func (s *stream) items() ([]Item, error) {
	for len(s.rest) > 0 {
		if len(s.rest) < 5 || len(s.rest)-5 < int(binary.BigEndian.Uint16(s.rest[3:])) {
			// The capture may have ended amid a record.
			return s.out, s.add(Item{Size: len(s.rest)})
		}
		typ, n := s.rest[0], int(binary.BigEndian.Uint16(s.rest[3:]))
		if n > maxRecord || s.rest[1] != 3 {
			return nil, malformed("not a record of TLS: %x", s.rest[:5])
		}
		header, body := s.rest[:5], s.rest[5:5+n]
		s.rest = s.rest[5+n:]
		var err error
		switch typ {
		case recordChangeCipherSpec:
		case recordAlert:
			err = s.alert(body, false)
		case recordHandshake:
			s.plain, err = s.messages(append(s.plain, body...), false)
		case recordApplicationData:
			err = s.encrypted(header, body)
		default:
			err = malformed("record of unknown type %d", typ)
		}
		if err != nil {
			return nil, err
		}
	}
	return s.out, nil
}

func (s *stream) alert(b []byte, encrypted bool) error {
	if len(b) != 2 {
		return malformed("alert of %d bytes", len(b))
	}
	return s.add(Item{Alert: true, Encrypted: encrypted, Data: b, Size: len(b)})
}

// messages takes the handshake messages that are complete off b.
func (s *stream) messages(b []byte, encrypted bool) (rest []byte, err error) {
	for len(b) >= 4 {
		n := int(b[1])<<16 | int(b[2])<<8 | int(b[3])
		if n > maxMessage {
			return nil, malformed("handshake message of %d bytes, at most %d are read", n, maxMessage)
		}
		if len(b)-4 < n {
			break
		}
		if b[0] == 0 {
			return nil, malformed("handshake message of type 0")
		}
		if err := s.add(Item{Message: b[0], Encrypted: encrypted, Data: b[4 : 4+n], Size: n}); err != nil {
			return nil, err
		}
		switch b[0] {
		case messageServerHello:
			if s.suite, err = suiteOf(b[4 : 4+n]); err != nil {
				return nil, err
			}
		case messageFinished:
			s.finished = true
		}
		b = b[4+n:]
	}
	return b, nil
}

// encrypted reads a protected record (RFC 8446, section 5.2).
func (s *stream) encrypted(header, body []byte) error {
	u := s.suite
	if s.finished || u == nil || len(s.secret) != u.size {
		return s.add(Item{Encrypted: true, Size: len(body)})
	}
	if s.aead == nil {
		var err error
		if s.aead, err = u.aead(u.expand(s.secret, "key", u.key)); err != nil {
			return malformed("%w", err)
		}
		s.iv = u.expand(s.secret, "iv", s.aead.NonceSize())
	}
	nonce := bytes.Clone(s.iv)
	for i := range 8 {
		nonce[len(nonce)-8+i] ^= byte(s.sequence >> (8 * (7 - i)))
	}
	s.sequence++
	inner, err := s.aead.Open(nil, nonce, body, header)
	if err != nil {
		return malformed("a record does not decrypt: the keys are of another connection, or the record is damaged")
	}
	inner = bytes.TrimRight(inner, "\x00")
	if len(inner) == 0 {
		return malformed("a record without a type")
	}
	typ, content := inner[len(inner)-1], inner[:len(inner)-1]
	switch typ {
	case recordAlert:
		return s.alert(content, true)
	case recordHandshake:
		s.secretly, err = s.messages(append(s.secretly, content...), true)
		return err
	}
	return s.add(Item{Encrypted: true, Size: len(content)})
}
