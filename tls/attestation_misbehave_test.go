package tls

import (
	"bytes"
	"context"
	"crypto"
	"encoding/binary"
	"hash"

	"github.com/attestedtls/atls/keyschedule"
	"golang.org/x/crypto/cryptobyte"
)

// A misbehavingPeer is the handshake of the other end with switches to misbehave,
// as BoringSSL's runner has them. Its functions follow upstream's step by step;
// where a switch is set, what it returns goes out in place of what should.
type misbehavingPeer struct {
	// record is called by a server once it knows the suite and the shared secret,
	// and before it hashes a message.
	record func(*serverHandshakeStateTLS13)
	// pskModes are what the client offers, where they are set.
	pskModes []uint8
	// suites are what the client offers.
	suites []uint16
	// clientHello changes the client's offers before they are sent, and
	// secondClientHello those after a HelloRetryRequest.
	clientHello       func([]attestExtension) []attestExtension
	secondClientHello func([]attestExtension) []attestExtension
	// serverHello appends extensions to ServerHello.
	serverHello []attestExtension
	// encryptedExtensions changes the server's choices.
	encryptedExtensions func(*Conn, []attestExtension) []attestExtension
	// negotiated is called by a server after the negotiation.
	negotiated func(*Conn)
	// certificateRequest changes what the server asks of a client that attests.
	certificateRequest func([]attestExtension) []attestExtension
	// noCertificateRequest suppresses it though the client is to attest.
	noCertificateRequest bool
	// certificate makes the entries of the Certificate message out of the honest ones.
	certificate func([]rawEntry) []rawEntry
	// signKey signs CertificateVerify, where it is set.
	signKey crypto.Signer
	// after is called once the handshake is done.
	after func(*Conn) error
}

// rawEntry is a CertificateEntry.
type rawEntry struct {
	data       []byte
	extensions []attestExtension
}

// rawMessage is a handshake message that is sent as it stands.
type rawMessage []byte

func (m rawMessage) marshal() ([]byte, error) { return m, nil }
func (m rawMessage) unmarshal([]byte) bool    { panic("rawMessage is only sent") }

// server makes a server connection misbehave.
func (p *misbehavingPeer) server(c *Conn) {
	c.handshakeFn = func(ctx context.Context) error { return p.serverHandshake(ctx, c) }
}

// client makes a client connection misbehave.
func (p *misbehavingPeer) client(c *Conn) {
	c.handshakeFn = func(ctx context.Context) error { return p.clientHandshake(ctx, c) }
}

func (p *misbehavingPeer) serverHandshake(ctx context.Context, c *Conn) error {
	clientHello, _, err := c.readClientHello(ctx)
	if err != nil {
		return err
	}
	hs := &serverHandshakeStateTLS13{c: c, ctx: ctx, clientHello: clientHello}
	for _, step := range []func() error{
		hs.processClientHello,
		hs.attestNegotiate,
		func() error {
			if p.negotiated != nil {
				p.negotiated(c)
			}
			return nil
		},
		hs.checkForResumption,
		hs.pickCertificate,
		func() error { c.buffering = true; return nil },
		func() error { return p.sendServerParameters(hs) },
		func() error { return p.sendServerCertificate(hs) },
		hs.sendServerFinished,
		func() error { _, err := c.flush(); return err },
		hs.readClientCertificate,
		hs.readClientFinished,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	c.isHandshakeComplete.Store(true)
	return p.afterHandshake(c)
}

func (p *misbehavingPeer) afterHandshake(c *Conn) error {
	if p.after == nil {
		return nil
	}
	return p.after(c)
}

func (p *misbehavingPeer) sendServerParameters(hs *serverHandshakeStateTLS13) error {
	c := hs.c
	if p.record != nil {
		p.record(hs)
	}
	if err := transcriptMsg(hs.clientHello, hs.transcript); err != nil {
		return err
	}
	hello, err := hs.hello.marshal()
	if err != nil {
		return err
	}
	if _, err := c.writeHandshakeRecord(rawMessage(appendToServerHello(hello, p.serverHello)), hs.transcript); err != nil {
		return err
	}
	if err := hs.sendDummyChangeCipherSpec(); err != nil {
		return err
	}
	hs.handshakeSecret = keyschedule.NewEarlySecret(hs.suite.hash.New, nil).HandshakeSecret(hs.sharedKey)
	c.setWriteTrafficSecret(hs.suite, QUICEncryptionLevelHandshake, hs.handshakeSecret.ServerHandshakeTrafficSecret(hs.transcript))
	if err := c.setReadTrafficSecret(hs.suite, QUICEncryptionLevelHandshake, hs.handshakeSecret.ClientHandshakeTrafficSecret(hs.transcript), false); err != nil {
		return err
	}
	c.attestSetExporter(hs.handshakeSecret, hs.transcript)
	ee := &encryptedExtensionsMsg{serverNameAck: hs.clientHello.serverName != ""}
	if err := hs.attestServerParameters(ee); err != nil {
		return err
	}
	if p.encryptedExtensions != nil {
		ee.attest.extensions = p.encryptedExtensions(c, ee.attest.extensions)
	}
	_, err = c.writeHandshakeRecord(ee, hs.transcript)
	return err
}

func (p *misbehavingPeer) sendServerCertificate(hs *serverHandshakeStateTLS13) error {
	c := hs.c
	if hs.requestClientCert() && !p.noCertificateRequest {
		certReq := &certificateRequestMsgTLS13{
			supportedSignatureAlgorithms:     supportedSignatureAlgorithms(c.vers),
			supportedSignatureAlgorithmsCert: supportedSignatureAlgorithmsCert(),
		}
		if err := c.attestCertificateRequest(certReq, hs.transcript); err != nil {
			return err
		}
		if p.certificateRequest != nil {
			certReq.attest.extensions = p.certificateRequest(certReq.attest.extensions)
		}
		if _, err := c.writeHandshakeRecord(certReq, hs.transcript); err != nil {
			return err
		}
	}
	certMsg := &certificateMsgTLS13{certificate: *hs.cert}
	if err := c.attestEvidence(hs.ctx, certMsg, hs.transcript, hs.clientHello.supportedSignatureAlgorithms); err != nil {
		return err
	}
	key := hs.cert.PrivateKey.(crypto.Signer)
	return p.sendCertificate(c, certMsg, key, hs.sigAlg, serverSignatureContext, hs.transcript)
}

// sendCertificate sends Certificate and CertificateVerify.
func (p *misbehavingPeer) sendCertificate(c *Conn, certMsg *certificateMsgTLS13, key crypto.Signer, alg SignatureScheme, context string, transcript hash.Hash) error {
	msg, err := certMsg.marshal()
	if err != nil {
		return err
	}
	if p.certificate != nil {
		msg = joinCertificate(p.certificate(splitCertificate(msg)))
	}
	if _, err := c.writeHandshakeRecord(rawMessage(msg), transcript); err != nil {
		return err
	}
	if len(splitCertificate(msg)) == 0 {
		return nil
	}
	if p.signKey != nil {
		key = p.signKey
	}
	_, sigHash, err := typeAndHashFromSignatureScheme(alg)
	if err != nil {
		return err
	}
	sig, err := crypto.SignMessage(key, c.config.rand(), signedMessage(context, transcript), sigHash)
	if err != nil {
		return err
	}
	verify := &certificateVerifyMsg{hasSignatureAlgorithm: true, signatureAlgorithm: alg, signature: sig}
	_, err = c.writeHandshakeRecord(verify, transcript)
	return err
}

func (p *misbehavingPeer) clientHandshake(ctx context.Context, c *Conn) error {
	hello, keys, _, err := c.makeClientHello()
	if err != nil {
		return err
	}
	if err := c.attestClientHello(hello); err != nil {
		return err
	}
	if p.pskModes != nil {
		hello.pskModes = p.pskModes
	}
	if p.suites != nil {
		hello.cipherSuites = p.suites
	}
	if p.clientHello != nil {
		hello.attest.extensions = p.clientHello(hello.attest.extensions)
	}
	c.serverName = hello.serverName
	if _, err := c.writeHandshakeRecord(hello, nil); err != nil {
		return err
	}
	msg, err := c.readHandshake(nil)
	if err != nil {
		return err
	}
	serverHello, ok := msg.(*serverHelloMsg)
	if !ok {
		return unexpectedMessageError(serverHello, msg)
	}
	if err := c.pickTLSVersion(serverHello); err != nil {
		return err
	}
	hs := &clientHandshakeStateTLS13{c: c, ctx: ctx, serverHello: serverHello, hello: hello, keyShareKeys: keys}
	if err := hs.checkServerHelloOrHRR(); err != nil {
		return err
	}
	hs.transcript = hs.suite.hash.New()
	if err := transcriptMsg(hs.hello, hs.transcript); err != nil {
		return err
	}
	if bytes.Equal(serverHello.random, helloRetryRequestRandom) {
		if p.secondClientHello != nil {
			hello.attest.extensions = p.secondClientHello(hello.attest.extensions)
		}
		if err := hs.processHelloRetryRequest(); err != nil {
			return err
		}
	}
	if err := transcriptMsg(hs.serverHello, hs.transcript); err != nil {
		return err
	}
	c.buffering = true
	for _, step := range []func() error{
		hs.processServerHello,
		hs.establishHandshakeKeys,
		hs.readServerParameters,
		hs.readServerCertificate,
		hs.readServerFinished,
		func() error { return p.sendClientCertificate(hs) },
		hs.sendClientFinished,
		func() error { _, err := c.flush(); return err },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	c.isHandshakeComplete.Store(true)
	return p.afterHandshake(c)
}

func (p *misbehavingPeer) sendClientCertificate(hs *clientHandshakeStateTLS13) error {
	c := hs.c
	if hs.certReq == nil {
		return nil
	}
	cert, err := c.getClientCertificate(&CertificateRequestInfo{
		SignatureSchemes: hs.certReq.supportedSignatureAlgorithms,
		Version:          c.vers,
		ctx:              hs.ctx,
	})
	if err != nil {
		return err
	}
	certMsg := &certificateMsgTLS13{certificate: *cert}
	if err := c.attestEvidence(hs.ctx, certMsg, hs.transcript, hs.certReq.supportedSignatureAlgorithms); err != nil {
		return err
	}
	alg, err := selectSignatureScheme(c.vers, cert, hs.certReq.supportedSignatureAlgorithms)
	if err != nil {
		return err
	}
	return p.sendCertificate(c, certMsg, cert.PrivateKey.(crypto.Signer), alg, clientSignatureContext, hs.transcript)
}

// appendToServerHello adds extensions to an encoded ServerHello.
func appendToServerHello(msg []byte, extensions []attestExtension) []byte {
	if len(extensions) == 0 {
		return msg
	}
	var b cryptobyte.Builder
	addExtensions(&b, extensions)
	added := b.BytesOrPanic()
	msg = append(bytes.Clone(msg), added...)
	// The block's length follows the header, version, random, session ID,
	// suite and compression method.
	at := 4 + 2 + 32
	at += 1 + int(msg[at]) + 2 + 1
	binary.BigEndian.PutUint16(msg[at:], binary.BigEndian.Uint16(msg[at:])+uint16(len(added)))
	n := len(msg) - 4
	msg[1], msg[2], msg[3] = byte(n>>16), byte(n>>8), byte(n)
	return msg
}

// splitCertificate takes a Certificate message apart.
func splitCertificate(msg []byte) (entries []rawEntry) {
	s := cryptobyte.String(msg)
	var context, list cryptobyte.String
	if !s.Skip(4) || !s.ReadUint8LengthPrefixed(&context) || !s.ReadUint24LengthPrefixed(&list) {
		panic("splitCertificate")
	}
	for !list.Empty() {
		var data, extensions cryptobyte.String
		if !list.ReadUint24LengthPrefixed(&data) || !list.ReadUint16LengthPrefixed(&extensions) {
			panic("splitCertificate")
		}
		e := rawEntry{data: data}
		for !extensions.Empty() {
			var x attestExtension
			var body cryptobyte.String
			if !extensions.ReadUint16(&x.typ) || !extensions.ReadUint16LengthPrefixed(&body) {
				panic("splitCertificate")
			}
			x.data = body
			e.extensions = append(e.extensions, x)
		}
		entries = append(entries, e)
	}
	return entries
}

// joinCertificate is the inverse of splitCertificate.
func joinCertificate(entries []rawEntry) []byte {
	var b cryptobyte.Builder
	b.AddUint8(typeCertificate)
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(0)
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, e := range entries {
				b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.data) })
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { addExtensions(b, e.extensions) })
			}
		})
	})
	return b.BytesOrPanic()
}
