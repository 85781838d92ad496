package tls

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"

	"github.com/attestedtls/atls/attestext"
)

// Two keys: the certificate's key says who the peer is and signs
// CertificateVerify; the attested key is another, inside the TEE, which the
// Evidence covers, and signs attested_key_proof. The extension is this project's:
// empty in ClientHello or CertificateRequest, and in the first CertificateEntry an
// attestext.AttestedKeyProof. Each signature covers the other key: the proof
// covers the leaf and the Evidence, and CertificateVerify covers the message that
// the proof is in.

const (
	serverKeyProofContext = "TLS 1.3, attested key proof, server\x00"
	clientKeyProofContext = "TLS 1.3, attested key proof, client\x00"
)

// keyProofMessage returns what an attested key signs: 64 spaces, a context, the
// hash of all handshake messages before the sender's Certificate, the hash of the
// leaf and that of the Evidence.
func keyProofMessage(role attestext.Role, h crypto.Hash, before, leaf, cmw []byte) []byte {
	var b bytes.Buffer
	b.Write(signaturePadding)
	if role == attestext.RoleClient {
		b.WriteString(clientKeyProofContext)
	} else {
		b.WriteString(serverKeyProofContext)
	}
	b.Write(before)
	for _, part := range [][]byte{leaf, cmw} {
		sum := h.New()
		sum.Write(part)
		b.Write(sum.Sum(nil))
	}
	return b.Bytes()
}

// attestTwoKeys reports whether this side's Evidence covers a key of its own,
// beside a certificate.
func (c *Conn) attestTwoKeys() bool {
	a, d := c.config.Attestation, &c.attest.self
	return d.negotiated && !d.attestationOnly() && a.AttestedKey != nil
}

// attestKeyProof returns the extension by which this side's attested key signs the
// session. algs are those that the peer verifies.
func (c *Conn) attestKeyProof(transcript hash.Hash, h crypto.Hash, leaf, cmw []byte, algs []SignatureScheme) (attestExtension, error) {
	key := c.config.Attestation.AttestedKey
	alg, err := selectSignatureScheme(c.vers, &Certificate{PrivateKey: key}, algs)
	if err != nil {
		return attestExtension{}, err
	}
	sigType, sigHash, err := typeAndHashFromSignatureScheme(alg)
	if err != nil {
		return attestExtension{}, err
	}
	opts := crypto.SignerOpts(sigHash)
	if sigType == signatureRSAPSS {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: sigHash}
	}
	sig, err := crypto.SignMessage(key, c.config.rand(), keyProofMessage(c.attestRole(true), h, transcript.Sum(nil), leaf, cmw), opts)
	if err != nil {
		return attestExtension{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return attestExtension{}, err
	}
	body, err := (&attestext.AttestedKeyProof{Algorithm: uint16(alg), Key: spki, Signature: sig}).Marshal()
	return attestExtension{c.attestCodePoints().AttestedKeyProof, body}, err
}

// attestCheckKeyProof verifies the peer's attested_key_proof and returns the key
// that its Evidence must cover.
func (c *Conn) attestCheckKeyProof(data []byte) ([]byte, error) {
	d := &c.attest.peer
	who := c.attestRole(false)
	fail := func(a alert, format string, args ...any) error {
		return c.attestFail(AttestationStageCertificate, a, fmt.Errorf("%v's attested key proof: "+format, append([]any{who}, args...)...))
	}
	proof, err := attestext.ParseAttestedKeyProof(data)
	if err != nil {
		return nil, fail(alertDecodeError, "%w", err)
	}
	key, err := parseAttestedKey(proof.Key)
	if err != nil {
		return nil, fail(alertBadCertificate, "%w", err)
	}
	alg := SignatureScheme(proof.Algorithm)
	if !isSupportedSignatureAlgorithm(alg, supportedSignatureAlgorithms(c.vers)) ||
		!isSupportedSignatureAlgorithm(alg, signatureSchemesForPublicKey(c.vers, key)) {
		return nil, fail(alertIllegalParameter, "signature algorithm %v does not go with its key", alg)
	}
	sigType, sigHash, err := typeAndHashFromSignatureScheme(alg)
	if err != nil {
		return nil, fail(alertInternalError, "%w", err)
	}
	h := cipherSuiteTLS13ByID(c.cipherSuite).hash
	signed := keyProofMessage(who, h, c.attest.beforeCertificate, c.peerCertificates[0].Raw, d.evidence)
	if err := verifyHandshakeSignature(sigType, key, sigHash, signed, proof.Signature); err != nil {
		return nil, fail(alertDecryptError, "%w", err)
	}
	return proof.Key, nil
}

// parseAttestedKey reads a public key of a kind that TLS 1.3 signs with.
func parseAttestedKey(spki []byte) (crypto.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, err
	}
	if len(signatureSchemesForPublicKey(VersionTLS13, key)) == 0 {
		return nil, fmt.Errorf("key of unsupported type %T", key)
	}
	if k, ok := key.(*rsa.PublicKey); ok {
		if max, ok := checkKeySize(k.N.BitLen()); !ok {
			return nil, fmt.Errorf("RSA key larger than %d bits", max)
		}
	}
	return key, nil
}

// attestAcceptsKeyProof reports whether the peer attests beside a certificate and may
// do so with a key of its own.
func (c *Conn) attestAcceptsKeyProof() bool {
	a, d := c.config.Attestation, &c.attest.peer
	return a != nil && a.PeerAttestedKey && d.negotiated && !d.attestationOnly()
}

// attestBeforeCertificate keeps the hash of the messages before the peer's
// Certificate, where its attested key may sign it.
func (c *Conn) attestBeforeCertificate(transcript hash.Hash) {
	if !c.isClient {
		c.earlyAt(afterServerFinished, transcript)
	}
	if c.attestAcceptsKeyProof() {
		c.attest.beforeCertificate = transcript.Sum(nil)
	}
}

// attestCertificateRequest offers attested_key_proof to a client that attests, or in
// the early form names how the client is to attest.
func (c *Conn) attestCertificateRequest(msg *certificateRequestMsgTLS13, transcript hash.Hash) error {
	c.earlyAt(afterEncryptedExtensions, transcript)
	if c.config.Attestation.singleExtension() {
		answer, err := c.earlyAnswer(&c.attest.peer)
		if err != nil {
			return c.attestFail(AttestationStageNegotiate, alertInternalError, err)
		}
		msg.attest.extensions = append(msg.attest.extensions, answer...)
	}
	if c.attestAcceptsKeyProof() {
		msg.attest.keep(c.attestCodePoints().AttestedKeyProof, nil)
	}
	return nil
}

// errNoKeyProof: the peer would take the Evidence for that of the certificate's key.
var errNoKeyProof = errors.New("the attested key is not the certificate's, and the peer does not accept attested_key_proof")
