package tls

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
)

// twoKeys returns configurations of which the server has an attested key beside
// its certificate.
func twoKeys(client, server *Config) {
	client.Attestation.PeerAttestedKey = true
	server.Attestation.AttestedKey = newTestKey()
}

// TestTwoKeysSignOneSession: in both directions, and with each kind of attested key,
// the Evidence covers the attested key and the certificate stays who the peer is.
//
// Hooks: certificate-request-field, certificate-request-marshal, certificate-request-unmarshal.
// Hooks: client-before-certificate, server-before-certificate, server-certificate-request.
func TestTwoKeysSignOneSession(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	check := func(c *Conn, leaf Certificate, key any) {
		t.Helper()
		spki, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		s := c.ConnectionState()
		if !s.PeerAttestation.Valid() || !bytes.Equal(s.PeerAttestation.Challenge().SPKI, spki) {
			t.Errorf("the evidence does not cover the attested key: %+v", s.PeerAttestation)
		}
		if !bytes.Equal(s.PeerCertificates[0].Raw, leaf.Certificate[0]) || len(s.VerifiedChains) == 0 {
			t.Error("the certificate is not that of the peer")
		}
	}
	for _, retry := range []bool{false, true} {
		client, server := attesting()
		client.Attestation.Attester, server.Attestation.Verifier = &stubTEE{}, &stubTEE{}
		client.Attestation.PeerAttestedKey, server.Attestation.PeerAttestedKey = true, true
		client.Attestation.AttestedKey, server.Attestation.AttestedKey = ed, p384
		if retry {
			server.CurvePreferences = []CurveID{CurveP384}
		}
		ends := attestHandshake(t, client, server)
		ends.mustSucceed(t)
		check(ends.client, attestPKI().server, p384.Public())
		check(ends.server, attestPKI().client, ed.Public())
	}
	client, server := attesting()
	twoKeys(client, server)
	server.Attestation.AttestedKey = rsaKey
	ends := attestHandshake(t, client, server)
	ends.mustSucceed(t)
	check(ends.client, attestPKI().server, rsaKey.Public())

	// With results in place of evidence.
	client, server = attesting()
	twoKeys(client, server)
	passports(client, server)
	ends = attestHandshake(t, client, server)
	ends.mustSucceed(t)
	check(ends.client, attestPKI().server, server.Attestation.AttestedKey.Public())

	// A peer that has one key is as welcome as ever.
	client, server = attesting()
	client.Attestation.PeerAttestedKey = true
	ends = attestHandshake(t, client, server)
	ends.mustSucceed(t)
	check(ends.client, attestPKI().server, attestPKI().server.Leaf.PublicKey)
}

// editProof changes the attested key proof in a Certificate message.
func editProof(f func(*attestext.AttestedKeyProof)) func([]rawEntry) []rawEntry {
	return func(e []rawEntry) []rawEntry {
		e[0].extensions = replaceExtension(e[0].extensions, testCodePoints.AttestedKeyProof, func(b []byte) []byte {
			p, err := attestext.ParseAttestedKeyProof(b)
			if err != nil {
				panic(err)
			}
			f(p)
			if b, err = p.Marshal(); err != nil {
				panic(err)
			}
			return b
		})
		return e
	}
}

func TestTwoKeysRefusals(t *testing.T) {
	cp := testCodePoints
	other, err := x509.MarshalPKIXPublicKey(newTestKey().Public())
	if err != nil {
		t.Fatal(err)
	}
	var earlier []byte // a proof of another session
	for _, r := range []refusal{
		{name: "a proof whose signature is not of its key", setup: twoKeys, peer: &misbehavingPeer{certificate: editProof(func(p *attestext.AttestedKeyProof) { p.Key = other })},
			alert: alertDecryptError, stage: AttestationStageCertificate, says: "server's attested key proof"},
		{name: "a proof with a flipped bit", setup: twoKeys, peer: &misbehavingPeer{certificate: editProof(func(p *attestext.AttestedKeyProof) { p.Signature[len(p.Signature)-1] ^= 1 })},
			alert: alertDecryptError, stage: AttestationStageCertificate},
		{name: "a proof that names an algorithm of another kind", setup: twoKeys, peer: &misbehavingPeer{certificate: editProof(func(p *attestext.AttestedKeyProof) { p.Algorithm = uint16(Ed25519) })},
			alert: alertIllegalParameter, stage: AttestationStageCertificate, says: "does not go with its key"},
		{name: "a proof that names SHA-1", setup: twoKeys, peer: &misbehavingPeer{certificate: editProof(func(p *attestext.AttestedKeyProof) { p.Algorithm = uint16(ECDSAWithSHA1) })},
			alert: alertIllegalParameter, stage: AttestationStageCertificate},
		{name: "a proof by what is no key", setup: twoKeys, peer: &misbehavingPeer{certificate: editProof(func(p *attestext.AttestedKeyProof) { p.Key = []byte("key") })},
			alert: alertBadCertificate, stage: AttestationStageCertificate},
		{name: "a proof that does not parse", setup: twoKeys, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = replaceExtension(e[0].extensions, cp.AttestedKeyProof, func(b []byte) []byte { return append(b, 0) })
			return e
		}}, alert: alertDecodeError, stage: AttestationStageCertificate, class: attestext.ErrMalformed},
		{name: "an empty proof", setup: twoKeys, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = replaceExtension(e[0].extensions, cp.AttestedKeyProof, func([]byte) []byte { return nil })
			return e
		}}, alert: alertIllegalParameter, stage: AttestationStageCertificate},
		{name: "two proofs", setup: twoKeys, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = append(e[0].extensions, e[0].extensions[1])
			return e
		}}, alert: alertIllegalParameter, stage: AttestationStageCertificate},
		{name: "no proof for evidence over another key", setup: twoKeys, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = e[0].extensions[:1]
			return e
		}}, alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "evidence of the certificate's key beside a proof of another", setup: func(c, s *Config) {
			twoKeys(c, s)
			tee := s.Attestation.Attester.(*stubTEE)
			s.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
				ch := *req.Challenge
				ch.SPKI = attestPKI().server.Leaf.RawSubjectPublicKeyInfo
				return tee.honest(&ch)
			}}
		}, alert: alertBadCertificate, stage: AttestationStageAppraise, class: attestext.ErrBinding},
		{name: "a proof that was not asked for", setup: func(c, s *Config) { twoKeys(c, s); c.Attestation.PeerAttestedKey = false },
			peer:  &misbehavingPeer{negotiated: func(c *Conn) { c.attest.keyProofOffered = true }},
			alert: alertUnsupportedExtension, stage: AttestationStageCertificate, says: "not asked for"},
		{name: "another certificate of the same name", setup: twoKeys, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].data = attestPKI().client.Certificate[0]
			return e
		}}, alert: alertBadCertificate}, // by its name, before anything else
		{name: "attested_key_proof in EncryptedExtensions", setup: twoKeys, peer: &misbehavingPeer{encryptedExtensions: func(_ *Conn, x []attestExtension) []attestExtension {
			return append(x, attestExtension{cp.AttestedKeyProof, nil})
		}}, alert: alertUnsupportedExtension, stage: AttestationStageNegotiate},
		{name: "a certificate whose key did not sign, beside a good proof", setup: twoKeys, peer: &misbehavingPeer{signKey: newTestKey()},
			alert: alertDecryptError},
		{name: "keeping a proof", setup: twoKeys, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			earlier, _ = findExtension(e[0].extensions, cp.AttestedKeyProof)
			return []rawEntry{}
		}}, alert: alertDecodeError},
		{name: "a proof of another session", setup: twoKeys, peer: &misbehavingPeer{certificate: func(e []rawEntry) []rawEntry {
			e[0].extensions = replaceExtension(e[0].extensions, cp.AttestedKeyProof, func([]byte) []byte { return earlier })
			return e
		}}, alert: alertDecryptError, stage: AttestationStageCertificate},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, true) })
	}
	for _, r := range []refusal{
		{name: "a client that does not accept a proof", setup: func(c, s *Config) { s.Attestation.AttestedKey = newTestKey() },
			alert: alertMissingExtension, stage: AttestationStageAttest, says: "does not accept attested_key_proof"},
		{name: "an offer of a proof that is not empty", setup: twoKeys, peer: &misbehavingPeer{clientHello: func(x []attestExtension) []attestExtension {
			return replaceExtension(x, cp.AttestedKeyProof, func([]byte) []byte { return []byte{1} })
		}}, alert: alertDecodeError, stage: AttestationStageNegotiate},
		{name: "an offer of a proof that is gone after HelloRetryRequest", setup: func(c, s *Config) { twoKeys(c, s); s.CurvePreferences = []CurveID{CurveP384} },
			peer:  &misbehavingPeer{secondClientHello: func(x []attestExtension) []attestExtension { return x[:len(x)-1] }},
			alert: alertIllegalParameter, says: "illegally modified second ClientHello"},
		{name: "a client's proof with a flipped bit", setup: func(c, s *Config) {
			c.Attestation = &AttestationConfig{Attester: &stubTEE{}, AttestedKey: newTestKey()}
			s.Attestation = &AttestationConfig{Verifier: &stubTEE{}, PeerAttestedKey: true}
		}, peer: &misbehavingPeer{certificate: editProof(func(p *attestext.AttestedKeyProof) { p.Signature[len(p.Signature)-1] ^= 1 })},
			alert: alertDecryptError, stage: AttestationStageCertificate, says: "client's attested key proof"},
	} {
		t.Run(r.name, func(t *testing.T) { r.run(t, false) })
	}
}

// The draft's rule covers no key, so two keys would prove nothing under it.
func TestTwoKeysNeedTheHardenedRule(t *testing.T) {
	for _, a := range []*AttestationConfig{
		{Verifier: &stubTEE{}, PeerAttestedKey: true, PeerBinding: attestext.BindingDraft08},
		{Attester: &stubTEE{}, AttestedKey: newTestKey(), Binding: attestext.BindingDraft08},
	} {
		client, _ := attestConfigs()
		client.Attestation = a
		if err := Client(nil, client).Handshake(); err == nil || !strings.Contains(err.Error(), "hardened") {
			t.Errorf("%v", err)
		}
	}
}
