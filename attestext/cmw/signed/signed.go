// Package signed reads and writes the Conceptual Message Wrappers of RFC 9999, section
// 4, that are signed: a wrapper in CBOR inside of COSE_Sign1, and one in JSON inside of
// a JSON Web Signature. Start with [Verify] on the one side and [Sign] on the other.
//
// A signature says that the holder of a key has passed the wrapper on, and nothing of
// what is in it: Evidence is still verified as if it had come without. It has no date
// either, so that it does not keep old Evidence out.
package signed

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/internal/strict"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/veraison/go-cose"
)

// Media types of a signed wrapper. Content formats are [attestext.ContentFormatCMWCOSE]
// and [attestext.ContentFormatCMWJWS].
const (
	MediaTypeCOSE = "application/cmw+cose"
	MediaTypeJWS  = "application/cmw+jws"
)

// A Form is one of the encodings of a signed wrapper.
type Form uint8

const (
	COSE       Form = iota + 1 // COSE_Sign1, RFC 9999, section 4.1
	JWS                        // flattened JSON serialization, section 4.2
	JWSCompact                 // compact serialization, section 4.2
)

// String returns "COSE_Sign1", "JWS" or "compact JWS".
func (f Form) String() string {
	switch f {
	case COSE:
		return "COSE_Sign1"
	case JWS:
		return "JWS"
	case JWSCompact:
		return "compact JWS"
	}
	return fmt.Sprintf("form(%d)", uint8(f))
}

// FormOf returns the form of f, COSE or JWS, if f stands for any message in a signed
// wrapper, and zero otherwise.
func FormOf(f attestext.EvidenceFormat) Form {
	switch cose, jws := f.IsSignedAny(); {
	case cose:
		return COSE
	case jws:
		return JWS
	}
	return 0
}

// A Message is a signed wrapper that has been parsed. Nobody has verified it.
type Message struct {
	Form Form
	// Algorithm is the name that JOSE has for it, such as "ES256".
	Algorithm string
	// KeyID is what the signer calls the key, from either header; nil if it does not
	// say. Keys are not chosen by it.
	KeyID []byte
	// Payload is the encoded wrapper inside, and CMW what it says.
	Payload []byte
	CMW     *cmw.CMW

	input     []byte // what a JWS signs
	signature []byte // of a JWS
	sign1     *cose.UntaggedSign1Message
}

// Labels of COSE header parameters, RFC 9052, section 3.1.
const (
	headerAlg         int64 = 1
	headerCrit        int64 = 2
	headerContentType int64 = 3
	headerKeyID       int64 = 4
)

const (
	tagSign1 = 0xd2 // the head of CBOR tag 18
	sign1Len = 0x84 // the head of an array of four
)

// An algorithm is one that a key may be used with, and each key with one alone.
type algorithm struct {
	name string // RFC 7518 and RFC 8037
	cose cose.Algorithm
	hash crypto.Hash // zero for EdDSA
}

var (
	es256 = algorithm{string(jwa.ES256), cose.AlgorithmES256, crypto.SHA256}
	es384 = algorithm{string(jwa.ES384), cose.AlgorithmES384, crypto.SHA384}
	eddsa = algorithm{string(jwa.EdDSA), cose.AlgorithmEdDSA, 0}
)

// algorithmOf returns the algorithm of a key.
func algorithmOf(pub crypto.PublicKey) (algorithm, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch {
		case k == nil:
		case k.Curve == elliptic.P256():
			return es256, nil
		case k.Curve == elliptic.P384():
			return es384, nil
		}
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return eddsa, nil
		}
	}
	return algorithm{}, fmt.Errorf("key of type %T is not of P-256, P-384 or Ed25519", pub)
}

// Usable reports whether [Verify] takes key.
func Usable(key crypto.PublicKey) bool {
	_, err := algorithmOf(key)
	return err == nil
}

// Is reports whether b begins like a signed wrapper, so that [Parse] is for it and
// [cmw.Parse] is not.
func Is(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	switch b[0] {
	case tagSign1, sign1Len, 'e': // compact JWSs begin with the base64url of {
		return true
	case '{':
		var m map[string]json.RawMessage
		return json.Unmarshal(b, &m) == nil && m["payload"] != nil && (m["signature"] != nil || m["signatures"] != nil)
	}
	return false
}

const opParse = "parse signed CMW"

// Parse decodes a signed wrapper of any form. It is as strict as [cmw.Parse], by which
// the wrapper inside is read: a COSE_Sign1, in its tag or not, has a wrapper in CBOR,
// and a JWS one in JSON; neither may be signed once more. The protected header must
// have the algorithm (ES256, ES384 or EdDSA) and the content type, and no other header
// may have them. Critical parameters are refused, since none is known here; others are
// passed over, keys and references to keys among them. A payload that is detached or
// not encoded (RFC 7797), and more than one signature, are refused.
//
// Parse verifies nothing. Errors are of class [attestext.ErrMalformed]. The result
// shares no memory with b.
func Parse(b []byte) (*Message, error) {
	m, err := parse(bytes.Clone(b))
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: opParse, Err: err}
	}
	return m, nil
}

func parse(b []byte) (m *Message, err error) {
	if len(b) > cmw.MaxSize {
		return nil, fmt.Errorf("%d bytes, want at most %d", len(b), cmw.MaxSize)
	}
	switch {
	case len(b) == 0:
		return nil, errors.New("nothing")
	case b[0] == tagSign1:
		m, err = parseCOSE(b[1:])
	case b[0] == sign1Len:
		m, err = parseCOSE(b)
	case b[0] == '{':
		m, err = parseFlattened(b)
	case b[0] == 'e':
		parts := bytes.Split(b, []byte("."))
		if len(parts) != 3 {
			return nil, errors.New("compact JWS does not have three parts")
		}
		m, err = parseJWS(JWSCompact, string(parts[0]), string(parts[1]), string(parts[2]), nil)
	default:
		return nil, fmt.Errorf("no signed wrapper begins with %#02x", b[0])
	}
	if err != nil {
		return nil, err
	}
	if m.CMW, err = cmw.Parse(m.Payload); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if isJSON := m.CMW.Form == cmw.JSONRecord || m.CMW.Form == cmw.JSONCollection; isJSON != (m.Form != COSE) {
		return nil, fmt.Errorf("payload of a %v is a %v", m.Form, m.CMW.Form)
	}
	return m, nil
}

// parseCOSE decodes
//
//	signed-cbor-cmw = [
//	  protected: bytes .cbor { 1 => int, 3 => "application/cmw+cbor" / 273, * label => any }
//	  unprotected: { * label => any }
//	  payload: bytes .cbor cbor-cmw
//	  signature: bytes
//	]
func parseCOSE(b []byte) (*Message, error) {
	a, err := strict.Array(b)
	if err != nil {
		return nil, err
	}
	if len(a) != 4 {
		return nil, fmt.Errorf("COSE_Sign1 of %d elements", len(a))
	}
	encoded, err := strict.Bytes(a[0])
	if err != nil {
		return nil, fmt.Errorf("protected header: %w", err)
	}
	protected, err := strict.Map(encoded)
	if err != nil {
		return nil, fmt.Errorf("protected header: %w", err)
	}
	unprotected, err := strict.Map(a[1])
	if err != nil {
		return nil, fmt.Errorf("unprotected header: %w", err)
	}
	m := &Message{Form: COSE}
	for _, label := range []int64{headerAlg, headerContentType, headerCrit} {
		if unprotected[label] != nil {
			return nil, fmt.Errorf("parameter %d is not protected", label)
		}
	}
	if protected[headerCrit] != nil {
		return nil, errors.New("critical parameters")
	}
	for label := range unprotected {
		if protected[label] != nil {
			return nil, fmt.Errorf("parameter %v in both headers", label)
		}
	}
	alg, err := strict.Int(protected[headerAlg])
	if err != nil {
		return nil, fmt.Errorf("algorithm: %w", err)
	}
	for _, known := range []algorithm{es256, es384, eddsa} {
		if int64(known.cose) == alg {
			m.Algorithm = known.name
		}
	}
	if m.Algorithm == "" {
		return nil, fmt.Errorf("algorithm %d is not supported", alg)
	}
	if err := checkContentType(protected[headerContentType]); err != nil {
		return nil, err
	}
	kid := protected[headerKeyID]
	if kid == nil {
		kid = unprotected[headerKeyID]
	}
	if kid != nil {
		if m.KeyID, err = strict.Bytes(kid); err != nil {
			return nil, fmt.Errorf("key ID: %w", err)
		}
	}
	if m.Payload, err = strict.Bytes(a[2]); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if m.signature, err = strict.Bytes(a[3]); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	m.sign1, err = unmarshalSign1(b)
	// What is verified below is what was read above.
	if err == nil && (!bytes.Equal(m.sign1.Payload, m.Payload) || !bytes.Equal(m.sign1.Signature, m.signature)) {
		err = errors.New("two readings of one COSE_Sign1")
	}
	return m, err
}

// unmarshalSign1 has go-cose read a message.
func unmarshalSign1(b []byte) (m *cose.UntaggedSign1Message, err error) {
	defer func() {
		if p := recover(); p != nil {
			m, err = nil, fmt.Errorf("parser panicked: %v", p)
		}
	}()
	m = new(cose.UntaggedSign1Message)
	return m, m.UnmarshalCBOR(b)
}

func checkContentType(raw strict.Raw) error {
	const want = "application/cmw+cbor"
	if strict.IsText(raw) {
		if s, err := strict.Text(raw); err != nil || s != want {
			return fmt.Errorf("content type is not %s", want)
		}
		return nil
	}
	n, err := strict.Uint(raw)
	if err != nil {
		return fmt.Errorf("content type: %w", err)
	}
	if n != attestext.ContentFormatCMWCBOR {
		return fmt.Errorf("content format is %d, want %d", n, attestext.ContentFormatCMWCBOR)
	}
	return nil
}

// Names in a JWS, RFC 7515, section 7.2.2.
const (
	memberProtected = "protected"
	memberHeader    = "header"
	memberPayload   = "payload"
	memberSignature = "signature"
)

// contentTypeJSON is the cty of a JWS.
const contentTypeJSON = "application/cmw+json"

// parseFlattened decodes
//
//	signed-json-cmw = {
//	  "protected": base64url of { "alg": text, "cty": "application/cmw+json", * text => any }
//	  ? "header": { * text => any }
//	  "payload": base64url of a json-cmw
//	  "signature": base64url
//	}
func parseFlattened(b []byte) (*Message, error) {
	m, err := object(b)
	if err != nil {
		return nil, err
	}
	text := map[string]string{}
	for name, raw := range m {
		switch name {
		case memberProtected, memberPayload, memberSignature:
			if text[name], err = strict.JSONText(raw); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		case memberHeader:
		default:
			return nil, fmt.Errorf("unknown member %.32q", name)
		}
	}
	if len(text) != 3 {
		return nil, errors.New("protected, payload or signature is missing")
	}
	return parseJWS(JWS, text[memberProtected], text[memberPayload], text[memberSignature], m[memberHeader])
}

func object(b []byte) (map[string]json.RawMessage, error) {
	if err := strict.CheckJSON(b); err != nil {
		return nil, err
	}
	var m map[string]json.RawMessage
	return m, json.Unmarshal(b, &m)
}

// parseJWS decodes the parts of a JWS; header is nil if there is no unprotected one.
func parseJWS(form Form, protectedText, payload, signature string, header json.RawMessage) (*Message, error) {
	m := &Message{Form: form, input: []byte(protectedText + "." + payload)}
	encoded, err := strict.Base64URL(protectedText)
	if err != nil {
		return nil, fmt.Errorf("protected header: %w", err)
	}
	protected, err := object(encoded)
	if err != nil {
		return nil, fmt.Errorf("protected header: %w", err)
	}
	unprotected := map[string]json.RawMessage{}
	if header != nil {
		if unprotected, err = object(header); err != nil {
			return nil, fmt.Errorf("unprotected header: %w", err)
		}
	}
	for _, name := range []string{"crit", "b64"} {
		if protected[name] != nil {
			return nil, fmt.Errorf("parameter %s", name)
		}
	}
	for _, name := range []string{"alg", "cty", "crit", "b64"} {
		if unprotected[name] != nil {
			return nil, fmt.Errorf("parameter %s is not protected", name)
		}
	}
	for name := range unprotected {
		if protected[name] != nil {
			return nil, fmt.Errorf("parameter %.32q in both headers", name)
		}
	}
	if m.Algorithm, err = strict.JSONText(protected["alg"]); err != nil {
		return nil, fmt.Errorf("alg: %w", err)
	}
	if m.Algorithm != es256.name && m.Algorithm != es384.name && m.Algorithm != eddsa.name {
		return nil, fmt.Errorf("algorithm %.16q is not supported", m.Algorithm)
	}
	if cty, err := strict.JSONText(protected["cty"]); err != nil || cty != contentTypeJSON {
		return nil, fmt.Errorf("cty is not %s", contentTypeJSON)
	}
	kid := protected["kid"]
	if kid == nil {
		kid = unprotected["kid"]
	}
	if kid != nil {
		s, err := strict.JSONText(kid)
		if err != nil {
			return nil, fmt.Errorf("kid: %w", err)
		}
		m.KeyID = []byte(s)
	}
	if m.Payload, err = strict.Base64URL(payload); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if m.signature, err = strict.Base64URL(signature); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	return m, nil
}

// Verified is a wrapper whose signature has been verified. Only [Verify] makes one that
// is not empty.
type Verified struct {
	message Message
	key     crypto.PublicKey
}

// Payload returns the encoded wrapper inside, for whoever reads unsigned ones. The
// caller must not change it.
func (v *Verified) Payload() []byte { return v.message.Payload }

// Form returns how the wrapper was signed.
func (v *Verified) Form() Form { return v.message.Form }

// Key returns the key that signed, one of those given to Verify.
func (v *Verified) Key() crypto.PublicKey { return v.key }

// Verify parses b and checks that one of keys has signed it. Each key, a P-256 or P-384
// *[ecdsa.PublicKey] or an [ed25519.PublicKey], is used with its own algorithm alone,
// and what the message says of keys is not looked at.
//
// Errors are those of Parse; of class [attestext.ErrSignature] if no key fits, or there
// is none; and [attestext.ErrUnavailable] for a key of another kind.
func Verify(b []byte, keys []crypto.PublicKey) (*Verified, error) {
	const op = "verify signed CMW"
	m, err := Parse(b)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, attestext.Errorf(attestext.ErrSignature, op, "the wrapper is signed, and nobody's key is trusted for that")
	}
	fits := false
	for _, k := range keys {
		alg, err := algorithmOf(k)
		if err != nil {
			return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: err}
		}
		if alg.name != m.Algorithm {
			continue
		}
		fits = true
		if m.verify(alg, k) == nil {
			return &Verified{message: *m, key: k}, nil
		}
	}
	if !fits {
		return nil, attestext.Errorf(attestext.ErrSignature, op, "%s is the algorithm of no key that is trusted", m.Algorithm)
	}
	return nil, attestext.Errorf(attestext.ErrSignature, op, "no key that is trusted made the signature")
}

func (m *Message) verify(alg algorithm, key crypto.PublicKey) error {
	if m.Form == COSE {
		v, err := cose.NewVerifier(alg.cose, key)
		if err != nil {
			return err
		}
		return m.sign1.Verify(nil, v)
	}
	v, err := jws.NewVerifier(jwa.SignatureAlgorithm(alg.name))
	if err != nil {
		return err
	}
	return v.Verify(m.input, m.signature, key)
}

// Sign signs an encoded wrapper with key, of a kind that [Verify] takes: one in CBOR
// with COSE_Sign1, untagged, as RFC 9999 has it; one in JSON as a JWS in the flattened
// serialization. keyID, if it is not empty, tells relying parties which key it was. It
// fails where Parse would refuse the result.
func Sign(wrapper []byte, key crypto.Signer, keyID []byte) ([]byte, error) {
	b, err := sign(wrapper, key, keyID)
	if err == nil {
		_, err = Parse(b)
	}
	if err != nil {
		return nil, fmt.Errorf("sign CMW: %w", err)
	}
	return b, nil
}

func sign(wrapper []byte, key crypto.Signer, keyID []byte) ([]byte, error) {
	w, err := cmw.Parse(wrapper)
	if err != nil {
		return nil, err
	}
	alg, err := algorithmOf(key.Public())
	if err != nil {
		return nil, err
	}
	if w.Form == cmw.JSONRecord || w.Form == cmw.JSONCollection {
		return signJWS(wrapper, key, alg, keyID)
	}
	signer, err := cose.NewSigner(alg.cose, &hashSigner{key, alg.hash})
	if err != nil {
		return nil, err
	}
	headers := cose.Headers{Protected: cose.ProtectedHeader{
		cose.HeaderLabelAlgorithm: alg.cose, cose.HeaderLabelContentType: "application/cmw+cbor",
	}}
	if len(keyID) != 0 {
		headers.Protected[cose.HeaderLabelKeyID] = keyID
	}
	return cose.Sign1Untagged(rand.Reader, signer, headers, wrapper, nil)
}

// A hashSigner tells its signer which hash made the digest; go-cose passes nil.
type hashSigner struct {
	crypto.Signer
	hash crypto.Hash
}

func (s *hashSigner) Sign(random io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return s.Signer.Sign(random, digest, s.hash)
}

func signJWS(wrapper []byte, key crypto.Signer, alg algorithm, keyID []byte) ([]byte, error) {
	header := map[string]string{"alg": alg.name, "cty": contentTypeJSON}
	if len(keyID) != 0 {
		header["kid"] = string(keyID)
	}
	protected, err := json.Marshal(header)
	if err != nil {
		return nil, err
	}
	enc := base64.RawURLEncoding.EncodeToString
	p, w := enc(protected), enc(wrapper)
	signer, err := jws.NewSigner(jwa.SignatureAlgorithm(alg.name))
	if err != nil {
		return nil, err
	}
	signature, err := signer.Sign([]byte(p+"."+w), key)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{memberProtected: p, memberPayload: w, memberSignature: enc(signature)})
}
