package attack

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/keyschedule"
)

// A suite is a cipher suite of TLS 1.3.
type suite struct {
	hash   crypto.Hash
	keyLen int
	aead   func(key []byte) (cipher.AEAD, error)
}

func aesGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

var suites = map[uint16]*suite{
	suiteAES128GCM: {crypto.SHA256, 16, aesGCM},
	suiteAES256GCM: {crypto.SHA384, 32, aesGCM},
	suiteChaCha20:  {crypto.SHA256, 32, chacha20poly1305.New},
}

// A protection is one direction of protected records.
type protection struct {
	aead cipher.AEAD
	iv   []byte
	seq  uint64
}

func (s *suite) protect(secret []byte) *protection {
	aead, err := s.aead(keyschedule.ExpandLabel(s.hash.New, secret, "key", nil, s.keyLen))
	if err != nil {
		panic("attack: " + err.Error()) // the key has the right length
	}
	return &protection{aead: aead, iv: keyschedule.ExpandLabel(s.hash.New, secret, "iv", nil, 12)}
}

func (p *protection) nonce() []byte {
	n := make([]byte, 12)
	binary.BigEndian.PutUint64(n[4:], p.seq)
	for i := range n {
		n[i] ^= p.iv[i]
	}
	p.seq++
	return n
}

// Record types.
const (
	recordChangeCipherSpec = 20
	recordAlert            = 21
	recordHandshake        = 22
	recordApplication      = 23
	recordHeader           = 5
)

// An alertError is an alert that the attacker received.
type alertError struct{ level, alert uint8 }

func (e *alertError) Error() string { return fmt.Sprintf("alert %d", e.alert) }

// A speaker is the attacker's end of a TLS 1.3 connection: records and key schedule,
// and no opinion on what a handshake should look like. It verifies nothing.
type speaker struct {
	raw     net.Conn
	role    attestext.Role
	suite   *suite
	in, out *protection
	pending []byte // handshake bytes that were read and not consumed

	client     *hello
	server     *hello
	transcript hash.Hash
	handshake  *keyschedule.HandshakeSecret
	application
	session
}

// application are the secrets after the server's Finished.
type application struct {
	clientSecret, serverSecret []byte
	exporter                   *keyschedule.ExporterMasterSecret
}

// newKey returns an ephemeral key of the attacker's.
func newKey() *ecdh.PrivateKey {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic("attack: " + err.Error()) // crypto/rand does not fail
	}
	return k
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func (s *speaker) writeRecord(typ uint8, b []byte) error {
	for first := true; first || len(b) > 0; first = false {
		n := min(len(b), 1<<14)
		fragment := b[:n]
		b = b[n:]
		var record []byte
		if s.out == nil {
			record = append([]byte{typ, 3, 3, byte(n >> 8), byte(n)}, fragment...)
		} else {
			inner := append(append([]byte{}, fragment...), typ)
			size := len(inner) + s.out.aead.Overhead()
			header := []byte{recordApplication, 3, 3, byte(size >> 8), byte(size)}
			record = s.out.aead.Seal(header, s.out.nonce(), inner, header)
		}
		if _, err := s.raw.Write(record); err != nil {
			return err
		}
	}
	return nil
}

// readRecord returns the next record that is not a ChangeCipherSpec; an alert is an
// alertError.
func (s *speaker) readRecord() (typ uint8, body []byte, err error) {
	for {
		header := make([]byte, recordHeader)
		if _, err := io.ReadFull(s.raw, header); err != nil {
			return 0, nil, err
		}
		body := make([]byte, binary.BigEndian.Uint16(header[3:]))
		if _, err := io.ReadFull(s.raw, body); err != nil {
			return 0, nil, err
		}
		typ := header[0]
		if typ == recordChangeCipherSpec {
			continue
		}
		if s.in != nil && typ == recordApplication {
			if body, err = s.in.aead.Open(body[:0], s.in.nonce(), body, header); err != nil {
				return 0, nil, errors.New("attack: a record that does not decrypt")
			}
			for len(body) > 0 && body[len(body)-1] == 0 {
				body = body[:len(body)-1]
			}
			if len(body) == 0 {
				return 0, nil, errors.New("attack: a record without a type")
			}
			typ, body = body[len(body)-1], body[:len(body)-1]
		}
		if typ == recordAlert && len(body) == 2 {
			return 0, nil, &alertError{body[0], body[1]}
		}
		return typ, body, nil
	}
}

// readMessage returns the next handshake message, and does not hash it.
func (s *speaker) readMessage() ([]byte, error) {
	for {
		if len(s.pending) >= handshakeHeader {
			n := handshakeHeader + int(s.pending[1])<<16 + int(s.pending[2])<<8 + int(s.pending[3])
			if n > maxHandshakeMessageSize {
				return nil, fmt.Errorf("attack: a handshake message of %d bytes", n)
			}
			if len(s.pending) >= n {
				m := s.pending[:n:n]
				s.pending = s.pending[n:]
				return m, nil
			}
		}
		typ, body, err := s.readRecord()
		if err != nil {
			return nil, err
		}
		if typ != recordHandshake {
			return nil, fmt.Errorf("attack: a record of type %d in a handshake", typ)
		}
		s.pending = append(s.pending, body...)
	}
}

// read returns the next handshake message, which must be of that type, and hashes it.
func (s *speaker) read(typ uint8) ([]byte, error) {
	m, err := s.readMessage()
	if err != nil {
		return nil, err
	}
	if m[0] != typ {
		return nil, fmt.Errorf("attack: got message %d, want %d", m[0], typ)
	}
	s.transcript.Write(m)
	return m, nil
}

// write sends and hashes handshake messages.
func (s *speaker) write(messages ...[]byte) error {
	var b []byte
	for _, m := range messages {
		s.transcript.Write(m)
		b = append(b, m...)
	}
	return s.writeRecord(recordHandshake, b)
}

// accept reads a ClientHello and does not answer it yet.
func accept(raw net.Conn) (*speaker, error) {
	s := &speaker{raw: raw, role: attestext.RoleServer}
	m, err := s.readMessage()
	if err != nil {
		return nil, err
	}
	s.client, err = parseHello(m)
	return s, err
}

// serverHello returns an ordinary answer to a ClientHello with that key share.
func serverHello(client *hello, share []byte) *hello {
	return &hello{
		random: random(32), session: client.session, suites: []uint16{suiteAES128GCM},
		exts: []extension{{extSupportedVersions, []byte{3, 4}}, serverKeyShare(share)},
	}
}

// answer sends a ServerHello, and goes on with the handshake keys that follow from
// the shared secret.
func (s *speaker) answer(server *hello, shared []byte) error {
	if server.raw == nil {
		server.raw = server.server()
	}
	if err := s.writeRecord(recordHandshake, server.raw); err != nil {
		return err
	}
	return s.hellos(server, shared)
}

// hellos takes note of both hellos, and of the secret behind them if it is known.
func (s *speaker) hellos(server *hello, shared []byte) error {
	s.server = server
	if s.suite = suites[server.suites[0]]; s.suite == nil {
		return fmt.Errorf("attack: suite %#04x", server.suites[0])
	}
	s.session.hash = s.suite.hash
	s.session.hellos = append(append([]byte{}, s.client.raw...), server.raw...)
	s.transcript = s.suite.hash.New()
	s.transcript.Write(s.session.hellos)
	if shared == nil {
		return nil
	}
	s.session.dh = shared
	s.handshake = keyschedule.NewEarlySecret(s.suite.hash.New, nil).HandshakeSecret(shared)
	s.session.clientHandshake = s.handshake.ClientHandshakeTrafficSecret(s.transcript)
	s.session.serverHandshake = s.handshake.ServerHandshakeTrafficSecret(s.transcript)
	if s.role == attestext.RoleServer {
		s.in, s.out = s.suite.protect(s.session.clientHandshake), s.suite.protect(s.session.serverHandshake)
	} else {
		s.in, s.out = s.suite.protect(s.session.serverHandshake), s.suite.protect(s.session.clientHandshake)
	}
	return nil
}

// dial sends a ClientHello and reads the ServerHello. key may be nil, where somebody
// else's key share is in the ClientHello.
func dial(raw net.Conn, client *hello, key *ecdh.PrivateKey) (*speaker, error) {
	s := &speaker{raw: raw, role: attestext.RoleClient, client: client}
	if client.raw == nil {
		client.raw = client.client()
	}
	if err := s.writeRecord(recordHandshake, client.raw); err != nil {
		return nil, err
	}
	m, err := s.readMessage()
	if err != nil {
		return nil, err
	}
	server, err := parseHello(m)
	if err != nil {
		return nil, err
	}
	var shared []byte
	if key != nil {
		share, err := server.keyShare(true)
		if err != nil {
			return nil, err
		}
		if shared, err = agree(key, share); err != nil {
			return nil, err
		}
	}
	return s, s.hellos(server, shared)
}

func agree(key *ecdh.PrivateKey, share []byte) ([]byte, error) {
	peer, err := ecdh.X25519().NewPublicKey(share)
	if err != nil {
		return nil, err
	}
	return key.ECDH(peer)
}

// sign returns a CertificateVerify over the transcript so far.
func (s *speaker) sign(key crypto.Signer) ([]byte, error) {
	return signTranscript(key, s.role, s.transcript)
}

func signTranscript(key crypto.Signer, role attestext.Role, transcript hash.Hash) ([]byte, error) {
	sig, err := signECDSA(key, "TLS 1.3, "+role.String()+" CertificateVerify\x00", transcript.Sum(nil))
	if err != nil {
		return nil, err
	}
	return message(typeCertificateVerify, func(b *cryptobyte.Builder) {
		b.AddUint16(schemeECDSAP256)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(sig) })
	}), nil
}

// signECDSA signs 64 spaces, a context and what follows, as TLS 1.3 does; all keys
// of the laboratory are on P-256.
func signECDSA(key crypto.Signer, context string, parts ...[]byte) ([]byte, error) {
	h := sha256.New()
	for range 64 {
		h.Write([]byte{' '})
	}
	io.WriteString(h, context)
	for _, p := range parts {
		h.Write(p)
	}
	return key.Sign(rand.Reader, h.Sum(nil), crypto.SHA256)
}

// finished returns the Finished of an end over the transcript so far.
func (s *speaker) finished(trafficSecret []byte) []byte {
	key := keyschedule.ExpandLabel(s.suite.hash.New, trafficSecret, "finished", nil, s.suite.hash.Size())
	mac := hmac.New(s.suite.hash.New, key)
	mac.Write(s.transcript.Sum(nil))
	return message(typeFinished, func(b *cryptobyte.Builder) { b.AddBytes(mac.Sum(nil)) })
}

// serverDone derives the application secrets; the transcript ends with the server's
// Finished.
func (s *speaker) serverDone() {
	master := s.handshake.MasterSecret()
	s.clientSecret = master.ClientApplicationTrafficSecret(s.transcript)
	s.serverSecret = master.ServerApplicationTrafficSecret(s.transcript)
	s.exporter = master.ExporterMasterSecret(s.transcript)
	s.session.clientApplication = s.clientSecret
}

// serve sends the rest of a server's flight and waits for the client's Finished.
func (s *speaker) serve(ee []extension, cert []byte, key crypto.Signer) error {
	s.transcriptWrite(encryptedExtensions(ee), cert)
	verify, err := s.sign(key)
	if err != nil {
		return err
	}
	s.transcript.Write(verify)
	finished := s.finished(s.session.serverHandshake)
	s.transcript.Write(finished)
	var flight []byte
	for _, m := range [][]byte{encryptedExtensions(ee), cert, verify, finished} {
		flight = append(flight, m...)
	}
	s.serverDone()
	if err := s.writeRecord(recordHandshake, flight); err != nil {
		return err
	}
	s.out = s.suite.protect(s.serverSecret)
	if _, err := s.read(typeFinished); err != nil {
		return err
	}
	s.in = s.suite.protect(s.clientSecret)
	return nil
}

// cloneHash returns a copy of a running hash.
func cloneHash(h hash.Hash) (hash.Hash, error) {
	c, ok := h.(hash.Cloner)
	if !ok {
		return nil, errors.New("attack: a hash that cannot be cloned")
	}
	return c.Clone()
}

func (s *speaker) transcriptWrite(messages ...[]byte) {
	for _, m := range messages {
		s.transcript.Write(m)
	}
}

// A flight is what a server sent behind its ServerHello.
type flight struct {
	raw     [][]byte // all messages
	ee      []extension
	entries []entry
}

// certificate returns the Certificate message as it came.
func (f *flight) certificate() []byte {
	for _, m := range f.raw {
		if m[0] == typeCertificate {
			return m
		}
	}
	return nil
}

// readFlight reads a server's flight to its Finished.
func (s *speaker) readFlight() (*flight, error) {
	f := &flight{}
	next := func(typ uint8) ([]byte, error) {
		m, err := s.read(typ)
		f.raw = append(f.raw, m)
		return m, err
	}
	m, err := next(typeEncryptedExtensions)
	if err != nil {
		return nil, err
	}
	if f.ee, err = parseEncryptedExtensions(m); err != nil {
		return nil, err
	}
	if m, err = s.readMessage(); err != nil {
		return nil, err
	}
	if m[0] == typeCertificateRequest {
		s.transcript.Write(m)
		f.raw = append(f.raw, m)
		if m, err = s.readMessage(); err != nil {
			return nil, err
		}
	}
	if m[0] != typeCertificate {
		return nil, fmt.Errorf("attack: got message %d, want Certificate", m[0])
	}
	s.transcript.Write(m)
	f.raw = append(f.raw, m)
	if f.entries, err = parseCertificate(m); err != nil {
		return nil, err
	}
	for _, typ := range []uint8{typeCertificateVerify, typeFinished} {
		if _, err := next(typ); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// finish sends the client's Finished, behind what else is to go out before it, and
// goes on to application data.
func (s *speaker) finish(before ...[]byte) error {
	s.serverDone()
	if len(before) > 0 {
		if err := s.write(before...); err != nil {
			return err
		}
	}
	if err := s.write(s.finished(s.session.clientHandshake)); err != nil {
		return err
	}
	s.in, s.out = s.suite.protect(s.serverSecret), s.suite.protect(s.clientSecret)
	return nil
}

// export is the exporter of RFC 8446, section 7.5.
func (s *speaker) export(label string, context []byte, length int) ([]byte, error) {
	return s.exporter.Exporter(label, context, length), nil
}

// readData returns the next application data; tickets are passed over.
func (s *speaker) readData() ([]byte, error) {
	for {
		typ, body, err := s.readRecord()
		if err != nil {
			return nil, err
		}
		if typ == recordApplication {
			return body, nil
		}
	}
}

// readExported reads n handshake messages that travel as application data.
func (s *speaker) readExported(n int) ([]byte, error) {
	var b []byte
	for at := 0; n > 0; {
		size := 0
		if len(b)-at >= handshakeHeader {
			size = handshakeHeader + int(b[at+1])<<16 + int(b[at+2])<<8 + int(b[at+3])
		}
		if size > 0 && len(b)-at >= size {
			at += size
			n--
			continue
		}
		d, err := s.readData()
		if err != nil {
			return nil, err
		}
		b = append(b, d...)
		if len(b) > maxHandshakeMessageSize {
			return nil, errors.New("attack: an authenticator that does not end")
		}
	}
	return b, nil
}
