// Package eat reads and writes Entity Attestation Tokens (RFC 9711) as far as
// Evidence in a handshake needs them: a token by itself, and the Key Attestation Token
// with the bundle that ties it to a platform token, draft-bft-rats-kat-06.
//
// A token by itself names the session's challenge and the TLS identity key, under a key of
// the platform that relying parties know. Start with [SignToken] on the attesting side, and
// with [ParseToken] and [VerifyToken] on the other. What follows is about the bundle.
//
// Three keys take part. The platform signs evidence, such as a TDX quote, over
// the hash of the key attestation key (KAK). The KAK signs the KAT, which names
// the session's challenge and the TLS identity key (TIK), called identity key in
// the draft. The TIK signs the handshake. Start with [SignKAT] and [EncodeBundle]
// on the attesting side, and with [ParseBundle], [VerifyKAT] and [MatchKAKHash]
// on the other.
package eat

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"io"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/jose"
	"github.com/attestedtls/atls/attestext/internal/strict"
	"github.com/veraison/go-cose"
)

// Claims of a KAT, draft-bft-rats-kat-06, section 4.1. The key of kak-pub is
// the draft's and is not registered.
const (
	claimCnf    int64 = 8    // RFC 8747
	claimNonce  int64 = 10   // RFC 9711, eat_nonce
	claimKAKPub int64 = 2500 // COSE_Key

	cnfCOSEKey int64 = 1 // RFC 8747, section 3.2
)

// Header parameters, RFC 9052, section 3.1, and RFC 9596. crit (2) is not among
// those that a KAT may have.
const (
	headerAlg         int64 = 1
	headerContentType int64 = 3
	headerKeyID       int64 = 4
	headerType        int64 = 16
)

// MaxKATSize is that of an encoded KAT, in bytes.
const MaxKATSize = 1 << 16

// A KAT is a Key Attestation Token whose signature has been verified. That says
// that the holder of KAK made it, and nothing about who that is: the platform
// token must cover KAK (see [MatchKAKHash]), Challenge must be the one expected,
// and TIK must be the key that authenticates the peer.
type KAT struct {
	// Challenge is eat_nonce, 8 to 64 bytes.
	Challenge []byte
	// TIK is the DER SubjectPublicKeyInfo of the TLS identity key, from cnf.
	TIK []byte
	// KAK is the key that signed the KAT, from kak-pub: an *ecdsa.PublicKey on
	// P-256 or P-384, or an ed25519.PublicKey.
	KAK crypto.PublicKey
	// KAKPub is the core deterministic encoding of kak-pub, with alg and kid if
	// they were there. It is what the platform token covers; see [MatchKAKHash].
	KAKPub []byte
}

// SignKAT returns a KAT for challenge, 8 to 64 bytes, and the key tik, signed by
// kak. Both keys are on P-256, P-384 or Ed25519. If random is nil, crypto/rand is used.
//
// The KAT is an untagged COSE_Sign1 (RFC 9052, section 4.2), as the draft's CDDL
// has it, over
//
//	kat = {
//	  8: { 1: COSE_Key of tik }
//	  10: bstr .size (8..64)
//	  2500: COSE_Key of kak
//	}
//
// with alg as the only header parameter.
func SignKAT(random io.Reader, kak crypto.Signer, challenge []byte, tik crypto.PublicKey) ([]byte, error) {
	b, err := signKAT(random, kak, challenge, tik)
	if err != nil {
		return nil, fmt.Errorf("sign KAT: %w", err)
	}
	return b, nil
}

func signKAT(random io.Reader, kak crypto.Signer, challenge []byte, tik crypto.PublicKey) ([]byte, error) {
	if err := checkChallenge(challenge); err != nil {
		return nil, err
	}
	kakPub, err := MarshalKey(kak.Public())
	if err != nil {
		return nil, err
	}
	cnf, err := encodeCnf(tik)
	if err != nil {
		return nil, err
	}
	claims, err := strict.Marshal(map[int64]any{
		claimCnf:    cnf,
		claimNonce:  challenge,
		claimKAKPub: strict.Raw(kakPub),
	})
	if err != nil {
		return nil, err
	}
	return signClaims(random, kak, nil, claims)
}

// signClaims returns claims as the payload of an untagged COSE_Sign1 by key, with alg
// and kid, where it is not nil, as the header parameters. If random is nil, crypto/rand
// is used.
func signClaims(random io.Reader, key crypto.Signer, kid, claims []byte) ([]byte, error) {
	signer, _, err := newSigner(key)
	if err != nil {
		return nil, err
	}
	protected := cose.ProtectedHeader{cose.HeaderLabelAlgorithm: signer.Algorithm()}
	if kid != nil {
		protected[cose.HeaderLabelKeyID] = kid
	}
	return cose.Sign1Untagged(orRand(random), signer, cose.Headers{Protected: protected}, claims, nil)
}

func orRand(random io.Reader) io.Reader {
	if random == nil {
		return rand.Reader
	}
	return random
}

// newSigner returns a signer by key and the curve that key is on.
func newSigner(key crypto.Signer) (cose.Signer, *curve, error) {
	c, _, _, err := curveOf(key.Public())
	if err != nil {
		return nil, nil, err
	}
	signer, err := cose.NewSigner(cose.Algorithm(c.alg), &hashSigner{key, c.hash})
	return signer, c, err
}

// A hashSigner tells its signer which hash made the digest. go-cose passes nil
// options, which signers in hardware or elsewhere need not survive.
type hashSigner struct {
	crypto.Signer
	hash crypto.Hash
}

func (s *hashSigner) Sign(random io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return s.Signer.Sign(random, digest, s.hash)
}

func checkChallenge(b []byte) error {
	if len(b) < attestext.MinNonceSize || len(b) > attestext.MaxChallengeSize {
		return fmt.Errorf("challenge of %d bytes, want %d to %d", len(b), attestext.MinNonceSize, attestext.MaxChallengeSize)
	}
	return nil
}

// VerifyKAT decodes a KAT, a COSE_Sign1 with or without its tag, and verifies its
// signature with the key that is inside it. See [KAT] for what remains to be checked.
//
// It is strict: exactly the claims that SignKAT makes, no other header
// parameters than alg, content type, kid and typ (protected) and kid
// (unprotected), so in particular no crit, an alg that goes with the curve of the
// key, no duplicate keys, definite lengths, and nothing behind. It fails with
// [attestext.ErrMalformed], or with [attestext.ErrSignature] if only the
// signature is wrong.
func VerifyKAT(b []byte) (*KAT, error) {
	const op = "verify KAT"
	k, msg, alg, err := parseKAT(b)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: op, Err: err}
	}
	verifier, err := cose.NewVerifier(alg, k.KAK)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: op, Err: err}
	}
	if err := msg.Verify(nil, verifier); err != nil {
		return nil, &attestext.Error{Class: attestext.ErrSignature, Op: op, Err: err}
	}
	return k, nil
}

// sign1Tag is the head of CBOR tag 18, COSE_Sign1.
const sign1Tag = 0xd2

func parseKAT(b []byte) (*KAT, *cose.UntaggedSign1Message, cose.Algorithm, error) {
	fail := func(err error) (*KAT, *cose.UntaggedSign1Message, cose.Algorithm, error) {
		return nil, nil, 0, err
	}
	if len(b) > MaxKATSize {
		return fail(fmt.Errorf("KAT of %d bytes, want at most %d", len(b), MaxKATSize))
	}
	// The draft's CDDL has no tag, but RFC 8392 has CWTs in tags.
	if len(b) > 0 && b[0] == sign1Tag {
		b = b[1:]
	}
	s, err := parseSign1(b)
	if err != nil {
		return fail(err)
	}
	k, err := parseClaims(s.msg.Payload)
	if err != nil {
		return fail(err)
	}
	if c, _, _, err := curveOf(k.KAK); err != nil || s.alg != c.alg {
		return fail(fmt.Errorf("algorithm %d does not go with kak-pub", s.alg))
	}
	return k, s.msg, cose.Algorithm(s.alg), nil
}

// A message is a COSE_Sign1 or a JWS whose frame and headers have been checked.
type message struct {
	alg int64  // of COSE, for either
	kid []byte // from either header; nil if there was none
	msg *cose.UntaggedSign1Message
	jws *jose.Compact // in place of msg
}

// verify checks the signature. Those of a JWS (RFC 7518, section 3.4, and RFC 8037,
// section 3.1) are those of COSE, over other bytes.
func (m *message) verify(v cose.Verifier) error {
	if m.jws != nil {
		return v.Verify(m.jws.Signed, m.jws.Signature)
	}
	return m.msg.Verify(nil, v)
}

// parseSign1 decodes
//
//	COSE_Sign1 = [ protected: bstr, unprotected: map, payload: bstr, signature: bstr ]
//
// and takes no other header parameters than VerifyKAT says.
func parseSign1(b []byte) (*message, error) {
	a, err := strict.Array(b)
	if err != nil {
		return nil, err
	}
	if len(a) != 4 {
		return nil, fmt.Errorf("COSE_Sign1 of %d elements", len(a))
	}
	encoded, err := strict.Bytes(a[0])
	if err != nil {
		return nil, err
	}
	protected, err := strict.Map(encoded)
	if err != nil {
		return nil, err
	}
	m := new(message)
	for label, raw := range protected {
		switch label {
		case headerAlg:
			m.alg, err = strict.Int(raw)
		case headerKeyID:
			m.kid, err = strict.Bytes(raw)
		case headerContentType, headerType:
			if strict.IsText(raw) {
				_, err = strict.Text(raw)
			} else {
				_, err = strict.Uint(raw)
			}
		default:
			return nil, fmt.Errorf("header parameter %s", strict.Name(label))
		}
		if err != nil {
			return nil, fmt.Errorf("header parameter %s: %w", strict.Name(label), err)
		}
	}
	if protected[headerAlg] == nil {
		return nil, errors.New("no algorithm")
	}
	unprotected, err := strict.Map(a[1])
	if err != nil {
		return nil, err
	}
	for label, raw := range unprotected {
		if label != headerKeyID {
			return nil, fmt.Errorf("unprotected header parameter %s", strict.Name(label))
		}
		if protected[headerKeyID] != nil {
			return nil, errors.New("key ID in both headers")
		}
		if m.kid, err = strict.Bytes(raw); err != nil {
			return nil, fmt.Errorf("unprotected header parameter %s: %w", strict.Name(label), err)
		}
	}
	payload, err := strict.Bytes(a[2])
	if err != nil {
		return nil, err
	}
	sig, err := strict.Bytes(a[3])
	if err != nil {
		return nil, err
	}
	if len(sig) == 0 {
		return nil, errors.New("empty signature")
	}
	m.msg = new(cose.UntaggedSign1Message)
	if err := m.msg.UnmarshalCBOR(b); err != nil {
		return nil, err
	}
	// What will be verified is what was checked above.
	if !bytes.Equal(m.msg.Payload, payload) || !bytes.Equal(m.msg.Signature, sig) {
		return nil, errors.New("two readings of one COSE_Sign1")
	}
	return m, nil
}

// encodeCnf returns the confirmation (RFC 8747, section 3.2) of a key, for
// strict.Marshal.
func encodeCnf(pub crypto.PublicKey) (any, error) {
	k, err := MarshalKey(pub)
	if err != nil {
		return nil, fmt.Errorf("cnf: %w", err)
	}
	return map[int64]any{cnfCOSEKey: strict.Raw(k)}, nil
}

// parseCnf decodes a confirmation (RFC 8747, section 3.1) that is exactly a COSE_Key, and
// returns its DER SubjectPublicKeyInfo.
func parseCnf(b []byte) ([]byte, error) {
	cnf, err := strict.Map(b)
	if err != nil {
		return nil, fmt.Errorf("cnf: %w", err)
	}
	if len(cnf) != 1 || cnf[cnfCOSEKey] == nil {
		return nil, errors.New("cnf is not exactly a COSE_Key")
	}
	k, err := parseKey(cnf[cnfCOSEKey])
	if err != nil {
		return nil, fmt.Errorf("cnf: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(k.pub)
	if err != nil {
		return nil, fmt.Errorf("cnf: %w", err)
	}
	return spki, nil
}

// parseClaims decodes the payload of a KAT. The draft's prose lets a KAT have
// other claims, "such as those indicating its validity", which its CDDL does not;
// they are refused, for to ignore an expiry is worse.
func parseClaims(b []byte) (*KAT, error) {
	m, err := strict.Map(b)
	if err != nil {
		return nil, err
	}
	if len(m) != 3 || m[claimNonce] == nil || m[claimCnf] == nil || m[claimKAKPub] == nil {
		return nil, errors.New("claims are not exactly eat_nonce, cnf and kak-pub")
	}
	k := new(KAT)
	if k.Challenge, err = strict.Bytes(m[claimNonce]); err != nil {
		return nil, fmt.Errorf("eat_nonce: %w", err)
	}
	if err := checkChallenge(k.Challenge); err != nil {
		return nil, err
	}
	if k.TIK, err = parseCnf(m[claimCnf]); err != nil {
		return nil, err
	}
	kak, err := parseKey(m[claimKAKPub])
	if err != nil {
		return nil, fmt.Errorf("kak-pub: %w", err)
	}
	k.KAK = kak.pub
	if k.KAKPub, err = marshalKey(kak); err != nil {
		return nil, fmt.Errorf("kak-pub: %w", err)
	}
	return k, nil
}

// HashKAK returns what the platform token must cover for the key kak, which is
// [KAT.KAKPub] or comes from [MarshalKey]: its SHA-256, 32 bytes. In a raw quote
// it goes at the beginning of REPORTDATA, with zeros behind.
//
// draft-bft-rats-kat-06, section 5.1.1, names no hash.
func HashKAK(kak []byte) [sha256.Size]byte { return sha256.Sum256(kak) }

// MatchKAKHash reports whether got, from a platform token, covers the key kak,
// which is [KAT.KAKPub]. got is the SHA-256, SHA-384 or SHA-512 of kak: alone, as
// the eat_nonce of a token is, or with zeros behind it up to 64 bytes, as
// REPORTDATA is. Anything longer, shorter or padded otherwise does not match.
func MatchKAKHash(kak, got []byte) bool {
	s256, s384, s512 := sha256.Sum256(kak), sha512.Sum384(kak), sha512.Sum512(kak)
	for _, h := range [][]byte{s256[:], s384[:], s512[:]} {
		if bytes.Equal(got, h) {
			return true
		}
		var padded [attestext.ReportDataSize]byte
		copy(padded[:], h)
		if bytes.Equal(got, padded[:]) {
			return true
		}
	}
	return false
}
