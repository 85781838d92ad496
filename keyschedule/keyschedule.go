// Package keyschedule is the key schedule of TLS 1.3 (RFC 8446, section 7.1) as
// a chain of types, EarlySecret, HandshakeSecret and MasterSecret, so that a
// derivation at the wrong stage does not compile. It has the shape of the
// standard library's internal package and adds one branch, the Handshake Exporter
// of draft-fossati-tls-attestation-08, which yields the channel binder. AttestationBase,
// of draft-fossati-seat-early-attestation, stands beside it and takes no secret.
//
// A transcript is a running hash of the handshake messages; it is read and never
// written. Hashes must be those of TLS 1.3 cipher suites.
package keyschedule

import (
	"crypto/hkdf"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
)

// The labels of Derive-Secret.
const (
	resumptionBinderLabel         = "res binder"
	clientEarlyTrafficLabel       = "c e traffic"
	clientHandshakeTrafficLabel   = "c hs traffic"
	serverHandshakeTrafficLabel   = "s hs traffic"
	clientApplicationTrafficLabel = "c ap traffic"
	serverApplicationTrafficLabel = "s ap traffic"
	earlyExporterLabel            = "e exp master"
	exporterLabel                 = "exp master"
	resumptionLabel               = "res master"
	derivedLabel                  = "derived"

	handshakeExporterLabel = "h exp master"       // draft-fossati-tls-attestation-08
	channelBinderLabel     = "attestation-binder" // draft-fossati-tls-attestation-08

	// draft-fossati-seat-early-attestation: the base of -06, those of -03, the binder.
	attestBaseLabel         = "attestation base"
	clientAttestBase03Label = "c attestation base"
	serverAttestBase03Label = "s attestation base"
	attestBinderLabel       = "attestation"
)

// ExpandLabel is HKDF-Expand-Label (RFC 8446, section 7.1). It panics if label is
// longer than 249 bytes, context longer than 255, or length more than 255 times
// the size of the hash: labels are fixed strings, and contexts and lengths are
// bounded before they get here.
func ExpandLabel[H hash.Hash](hash func() H, secret []byte, label string, context []byte, length int) []byte {
	const prefix = "tls13 "
	if len(prefix)+len(label) > 255 || len(context) > 255 {
		panic("keyschedule: label or context too long")
	}
	info := make([]byte, 0, 2+1+len(prefix)+len(label)+1+len(context))
	info = binary.BigEndian.AppendUint16(info, uint16(length))
	info = append(info, byte(len(prefix)+len(label)))
	info = append(info, prefix...)
	info = append(info, label...)
	info = append(info, byte(len(context)))
	info = append(info, context...)
	out, err := hkdf.Expand(hash, secret, string(info), length)
	if err != nil {
		panic("keyschedule: " + err.Error())
	}
	return out
}

func extract[H hash.Hash](hash func() H, newSecret, currentSecret []byte) []byte {
	if newSecret == nil {
		newSecret = make([]byte, hash().Size())
	}
	out, err := hkdf.Extract(hash, newSecret, currentSecret)
	if err != nil {
		panic("keyschedule: " + err.Error())
	}
	return out
}

// deriveSecret is Derive-Secret; a nil transcript stands for the empty one.
func deriveSecret[H hash.Hash](hash func() H, secret []byte, label string, transcript hash.Hash) []byte {
	if transcript == nil {
		transcript = hash()
	}
	return ExpandLabel(hash, secret, label, transcript.Sum(nil), transcript.Size())
}

// An EarlySecret is the first stage, from a pre-shared key or none.
type EarlySecret struct {
	secret []byte
	hash   func() hash.Hash
}

// NewEarlySecret starts a key schedule with the suite's hash; psk is nil where
// there is none.
func NewEarlySecret[H hash.Hash](h func() H, psk []byte) *EarlySecret {
	return &EarlySecret{
		secret: extract(h, psk, nil),
		hash:   func() hash.Hash { return h() },
	}
}

// ResumptionBinderKey returns binder_key for a resumption PSK.
func (s *EarlySecret) ResumptionBinderKey() []byte {
	return deriveSecret(s.hash, s.secret, resumptionBinderLabel, nil)
}

// ClientEarlyTrafficSecret returns client_early_traffic_secret; the transcript is
// ClientHello.
func (s *EarlySecret) ClientEarlyTrafficSecret(transcript hash.Hash) []byte {
	return deriveSecret(s.hash, s.secret, clientEarlyTrafficLabel, transcript)
}

// EarlyExporterMasterSecret returns early_exporter_master_secret; the transcript
// is ClientHello.
func (s *EarlySecret) EarlyExporterMasterSecret(transcript hash.Hash) *ExporterMasterSecret {
	return &ExporterMasterSecret{exporter{deriveSecret(s.hash, s.secret, earlyExporterLabel, transcript), s.hash}}
}

// A HandshakeSecret is the second stage, once the shared secret is known.
type HandshakeSecret struct {
	secret []byte
	hash   func() hash.Hash
}

// HandshakeSecret mixes in the (EC)DHE shared secret.
func (s *EarlySecret) HandshakeSecret(sharedSecret []byte) *HandshakeSecret {
	derived := deriveSecret(s.hash, s.secret, derivedLabel, nil)
	return &HandshakeSecret{
		secret: extract(s.hash, sharedSecret, derived),
		hash:   s.hash,
	}
}

// ClientHandshakeTrafficSecret returns client_handshake_traffic_secret; the
// transcript is ClientHello...ServerHello.
func (s *HandshakeSecret) ClientHandshakeTrafficSecret(transcript hash.Hash) []byte {
	return deriveSecret(s.hash, s.secret, clientHandshakeTrafficLabel, transcript)
}

// ServerHandshakeTrafficSecret returns server_handshake_traffic_secret; the
// transcript is ClientHello...ServerHello.
func (s *HandshakeSecret) ServerHandshakeTrafficSecret(transcript hash.Hash) []byte {
	return deriveSecret(s.hash, s.secret, serverHandshakeTrafficLabel, transcript)
}

// HandshakeExporterSecret returns handshake_exporter_secret of
// draft-fossati-tls-attestation-08; the transcript is ClientHello...ServerHello,
// the one of the handshake traffic secrets, so that it covers the message_hash
// of a HelloRetryRequest as well.
func (s *HandshakeSecret) HandshakeExporterSecret(transcript hash.Hash) *HandshakeExporterSecret {
	return &HandshakeExporterSecret{exporter{deriveSecret(s.hash, s.secret, handshakeExporterLabel, transcript), s.hash}}
}

// A MasterSecret is the third stage.
type MasterSecret struct {
	secret []byte
	hash   func() hash.Hash
}

// MasterSecret goes on to the last stage.
func (s *HandshakeSecret) MasterSecret() *MasterSecret {
	derived := deriveSecret(s.hash, s.secret, derivedLabel, nil)
	return &MasterSecret{
		secret: extract(s.hash, nil, derived),
		hash:   s.hash,
	}
}

// ClientApplicationTrafficSecret returns client_application_traffic_secret_0; the
// transcript is ClientHello...server Finished.
func (s *MasterSecret) ClientApplicationTrafficSecret(transcript hash.Hash) []byte {
	return deriveSecret(s.hash, s.secret, clientApplicationTrafficLabel, transcript)
}

// ServerApplicationTrafficSecret returns server_application_traffic_secret_0; the
// transcript is ClientHello...server Finished.
func (s *MasterSecret) ServerApplicationTrafficSecret(transcript hash.Hash) []byte {
	return deriveSecret(s.hash, s.secret, serverApplicationTrafficLabel, transcript)
}

// ResumptionMasterSecret returns resumption_master_secret; the transcript is
// ClientHello...client Finished.
func (s *MasterSecret) ResumptionMasterSecret(transcript hash.Hash) []byte {
	return deriveSecret(s.hash, s.secret, resumptionLabel, transcript)
}

// ExporterMasterSecret returns exporter_master_secret; the transcript is
// ClientHello...server Finished.
func (s *MasterSecret) ExporterMasterSecret(transcript hash.Hash) *ExporterMasterSecret {
	return &ExporterMasterSecret{exporter{deriveSecret(s.hash, s.secret, exporterLabel, transcript), s.hash}}
}

// exporter is the function that RFC 8446, section 7.5, defines for any exporter secret.
type exporter struct {
	secret []byte
	hash   func() hash.Hash
}

func (s exporter) export(label string, context []byte, length int) []byte {
	secret := deriveSecret(s.hash, s.secret, label, nil)
	h := s.hash()
	h.Write(context)
	return ExpandLabel(s.hash, secret, "exporter", h.Sum(nil), length)
}

// An ExporterMasterSecret feeds TLS-Exporter (RFC 8446, section 7.5).
type ExporterMasterSecret struct{ exporter }

// Exporter is TLS-Exporter; it returns length bytes.
func (s *ExporterMasterSecret) Exporter(label string, context []byte, length int) []byte {
	return s.export(label, context, length)
}

// TestingOnlyExporterSecret returns the bare secret, for known-answer tests.
func TestingOnlyExporterSecret(s *ExporterMasterSecret) []byte { return s.secret }

// A HandshakeExporterSecret feeds TLS-Handshake-Exporter
// (draft-fossati-tls-attestation-08). It is another type than
// ExporterMasterSecret because what it exports is known before the handshake is
// authenticated.
type HandshakeExporterSecret struct{ exporter }

// Exporter is TLS-Handshake-Exporter; it returns length bytes.
func (s *HandshakeExporterSecret) Exporter(label string, context []byte, length int) []byte {
	return s.export(label, context, length)
}

// maxBinderSize is the largest nonce that the wire format allows.
const maxBinderSize = 255

// ChannelBinder returns channel_binder = TLS-Handshake-Exporter(
// "attestation-binder", nonce, len(nonce)) for a nonce of 1 to 255 bytes. The
// length is part of the derivation: a binder must not be cut or extended.
func (s *HandshakeExporterSecret) ChannelBinder(nonce []byte) ([]byte, error) {
	if len(nonce) == 0 {
		return nil, errors.New("keyschedule: channel binder without a nonce")
	}
	if len(nonce) > maxBinderSize {
		return nil, fmt.Errorf("keyschedule: channel binder for a nonce of %d bytes, at most %d", len(nonce), maxBinderSize)
	}
	return s.export(channelBinderLabel, nonce, len(nonce)), nil
}

// An AttestationBase yields the attestation binders of
// draft-fossati-seat-early-attestation. It is no part of the key schedule: all that it
// is made of is public, and so is what it yields.
type AttestationBase struct {
	base    []byte
	hash    func() hash.Hash
	bareKey bool // of -03: the key itself is the context, and not its hash
}

func newAttestationBase(h func() hash.Hash, label string, transcript hash.Hash) *AttestationBase {
	zero := make([]byte, h().Size())
	return &AttestationBase{base: deriveSecret(h, zero, label, transcript), hash: h}
}

// NewAttestationBase returns attest_base of revision -06; h is the suite's hash, and
// the transcript is ClientHello...ServerHello.
func NewAttestationBase(h func() hash.Hash, transcript hash.Hash) *AttestationBase {
	return newAttestationBase(h, attestBaseLabel, transcript)
}

// NewServerAttestationBase03 returns s_attest_base of revision -03; the transcript is
// ClientHello...EncryptedExtensions.
func NewServerAttestationBase03(h func() hash.Hash, transcript hash.Hash) *AttestationBase {
	b := newAttestationBase(h, serverAttestBase03Label, transcript)
	b.bareKey = true
	return b
}

// NewClientAttestationBase03 returns c_attest_base of revision -03; the transcript is
// ClientHello...server Finished.
func NewClientAttestationBase03(h func() hash.Hash, transcript hash.Hash) *AttestationBase {
	b := newAttestationBase(h, clientAttestBase03Label, transcript)
	b.bareKey = true
	return b
}

// Binder returns the attestation binder of the end whose certificate has the DER
// SubjectPublicKeyInfo spki, as long as the hash. It fails under revision -03 for a
// key of more than 255 bytes, such as an RSA key: the context of HKDF-Expand-Label
// holds no more.
func (b *AttestationBase) Binder(spki []byte) ([]byte, error) {
	h := b.hash()
	if !b.bareKey {
		h.Write(spki)
		spki = h.Sum(nil)
	}
	if len(spki) > 255 {
		return nil, fmt.Errorf("keyschedule: a key of %d bytes in the binder of draft-fossati-seat-early-attestation-03, which holds 255: use an elliptic curve", len(spki))
	}
	return ExpandLabel(b.hash, b.base, attestBinderLabel, spki, h.Size()), nil
}
