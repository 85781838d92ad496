// Package exportedauth has exported authenticators (RFC 9261): either end of an
// established TLS connection proves, after the handshake, that it holds a
// certificate's key. On top of that it has remote attestation after the handshake
// (draft-fossati-seat-expat): the authenticator carries Evidence that is bound to
// the connection's exporter.
//
// Start with [Exchange], which attests on a connection before its first
// application byte. It and everything below need of TLS no more than an exporter, the hash
// of the cipher suite and a role, so that they serve crypto/tls of the standard
// library, this module's fork of it, and QUIC alike:
//
//	cs := conn.ConnectionState() // after the handshake
//	hash, err := exportedauth.SuiteHash(cs.CipherSuite)
//	session, err := exportedauth.NewSession(attestext.RoleClient, hash, cs.ExportKeyingMaterial)
//	peer, err := exportedauth.Exchange(ctx, conn, session, config)
//
// [Session] has the operations of RFC 9261, section 7, by themselves.
package exportedauth

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"

	"github.com/attestedtls/atls/attestext"
)

// contextSize is the size in bytes of the contexts that this package makes.
const contextSize = 32

// maxContexts bounds how many contexts a Session remembers, and so how many
// requests and authenticators a connection may see.
const maxContexts = 1 << 16

// SuiteHash returns the hash of a cipher suite of TLS 1.3. There is none for a suite
// of TLS 1.2: nothing in this package says whether such a connection has the
// extended master secret that RFC 9261 asks for.
func SuiteHash(cipherSuite uint16) (crypto.Hash, error) {
	switch cipherSuite {
	case 0x1301, 0x1303, 0x1304, 0x1305: // AES-128-GCM, ChaCha20-Poly1305, AES-128-CCM, AES-128-CCM-8
		return crypto.SHA256, nil
	case 0x1302: // AES-256-GCM
		return crypto.SHA384, nil
	}
	return 0, errorf(ErrUsage, "choose the hash", "%#04x is not a cipher suite of TLS 1.3", cipherSuite)
}

// A Session makes and validates the authenticators of one connection, at one end of
// it. There must be one Session for each end of a connection, for it remembers the
// contexts that were used. Its methods may be called concurrently.
type Session struct {
	role     attestext.Role
	hash     crypto.Hash
	exporter func(label string, context []byte, length int) ([]byte, error)

	// The keys of RFC 9261, section 5.1, by the role of the sender.
	handshakeContext, finishedKey map[attestext.Role][]byte

	mu       sync.Mutex
	contexts map[[sha256.Size]byte]bool // hashes of all contexts of either end
	own      map[string]bool            // SPKIs that this end authenticated with
	peers    map[string]bool            // and that its peer did
}

// NewSession returns a Session for the end of the given role of a connection whose
// handshake is complete. hash is that of its cipher suite; see [SuiteHash].
// exporter is the exporter of the connection (RFC 8446, section 7.5), such as the
// ExportKeyingMaterial of a tls.ConnectionState.
func NewSession(role attestext.Role, hash crypto.Hash, exporter func(label string, context []byte, length int) ([]byte, error)) (*Session, error) {
	const op = "begin a session"
	if role != attestext.RoleClient && role != attestext.RoleServer {
		return nil, errorf(ErrUsage, op, "unknown %v", role)
	}
	if hash != crypto.SHA256 && hash != crypto.SHA384 {
		return nil, errorf(ErrUsage, op, "%v is not the hash of a cipher suite", hash)
	}
	if exporter == nil {
		return nil, errorf(ErrUsage, op, "no exporter")
	}
	s := &Session{
		role: role, hash: hash, exporter: exporter,
		handshakeContext: make(map[attestext.Role][]byte), finishedKey: make(map[attestext.Role][]byte),
		contexts: make(map[[sha256.Size]byte]bool), own: make(map[string]bool), peers: make(map[string]bool),
	}
	for _, r := range []attestext.Role{attestext.RoleClient, attestext.RoleServer} {
		var err error
		if s.handshakeContext[r], err = s.export("EXPORTER-"+r.String()+" authenticator handshake context", nil, hash.Size()); err != nil {
			return nil, err
		}
		if s.finishedKey[r], err = s.export("EXPORTER-"+r.String()+" authenticator finished key", nil, hash.Size()); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Role returns the role that s was made for.
func (s *Session) Role() attestext.Role { return s.role }

func (s *Session) peer() attestext.Role {
	if s.role == attestext.RoleClient {
		return attestext.RoleServer
	}
	return attestext.RoleClient
}

func (s *Session) export(label string, context []byte, length int) ([]byte, error) {
	b, err := s.exporter(label, context, length)
	if err != nil {
		return nil, &Error{ErrUsage, "export " + label, err}
	}
	if len(b) != length {
		return nil, errorf(ErrUsage, "export "+label, "got %d bytes, want %d", len(b), length)
	}
	return b, nil
}

// use notes that a context is in use, and reports whether it was not before.
// Contexts of both ends are one set: a peer that returns a request of this side's
// as its own is refused as well.
func (s *Session) use(context []byte, op string) error {
	key := sha256.Sum256(context)
	if s.contexts[key] {
		return errorf(ErrIllegalParameter, op, "context was used before on this connection")
	}
	if len(s.contexts) >= maxContexts {
		return errorf(ErrUsage, op, "%d contexts were used on this connection", maxContexts)
	}
	s.contexts[key] = true
	return nil
}

func newContext() ([]byte, error) {
	b := make([]byte, contextSize)
	_, err := rand.Read(b)
	return b, err
}

// A Request asks for one authenticator. It belongs to the Session that returned it
// and serves once.
type Request struct {
	session *Session
	from    attestext.Role
	msg     *requestMsg
	// attestation is the extension type under which attestation was asked for, or
	// 0. At the end that answers it says nothing: that end looks for its own.
	attestation uint16
	spontaneous bool
	done        bool // guarded by session.mu
}

// Bytes returns the encoded request, with its header. The caller must not change it.
func (r *Request) Bytes() []byte { return r.msg.raw }

// Context returns the certificate_request_context. The caller must not change it.
func (r *Request) Context() []byte { return r.msg.context }

// Extensions returns all extensions of the request. The caller must not change them.
func (r *Request) Extensions() []Extension { return r.msg.extensions }

// SignatureAlgorithms returns the schemes that CertificateVerify may have.
func (r *Request) SignatureAlgorithms() []SignatureScheme { return slices.Clone(r.msg.algorithms) }

// take reports that r is used up, and whether it may be used by s.
func (s *Session) take(r *Request, from attestext.Role, op string) error {
	if r == nil || r.session != s || r.from != from {
		return errorf(ErrUsage, op, "this is not a request by the %v of this connection", from)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.done {
		return errorf(ErrIllegalParameter, op, "the request has been answered before")
	}
	r.done = true
	return nil
}

// RequestOptions say what to ask for. The zero value asks for any certificate.
type RequestOptions struct {
	// Context is the certificate_request_context, of up to 255 bytes. If nil, it is
	// made of 32 random bytes. It must not have been used on the connection, and
	// should be unpredictable to the peer.
	Context []byte
	// SignatureAlgorithms are the schemes that CertificateVerify may have, in order
	// of preference. If nil, DefaultSignatureAlgorithms.
	SignatureAlgorithms []SignatureScheme
	// SignatureAlgorithmsCert are those that the certificates may be signed by. If
	// nil, DefaultSignatureAlgorithms and RSA PKCS #1 v1.5 with SHA-2.
	SignatureAlgorithmsCert []SignatureScheme
	// CertificateAuthorities are DER names of acceptable issuers; if nil, any is.
	CertificateAuthorities [][]byte
	// ServerName is the name that the certificate is to have. A client may ask for
	// it; empty asks for none. It does not replace the validation of the chain.
	ServerName string
	// Extensions are sent besides, such as status_request. Those of a certificate
	// entry that are not among them are refused.
	Extensions []Extension
}

// Request makes a request: the "request" operation of RFC 9261, section 7.1. A
// client's is a ClientCertificateRequest, a server's a CertificateRequest.
func (s *Session) Request(o *RequestOptions) (*Request, error) {
	const op = "make a request"
	if o == nil {
		o = &RequestOptions{}
	}
	m := &requestMsg{context: slices.Clone(o.Context)}
	if o.Context == nil {
		var err error
		if m.context, err = newContext(); err != nil {
			return nil, &Error{ErrUsage, op, err}
		}
	}
	if len(m.context) > maxContext {
		return nil, errorf(ErrUsage, op, "context of %d bytes, want at most %d", len(m.context), maxContext)
	}
	algorithms, certAlgorithms := o.SignatureAlgorithms, o.SignatureAlgorithmsCert
	if algorithms == nil {
		algorithms = DefaultSignatureAlgorithms()
	}
	if certAlgorithms == nil {
		certAlgorithms = defaultCertAlgorithms()
	}
	m.extensions = append(m.extensions,
		schemesExtension(extensionSignatureAlgorithms, algorithms),
		schemesExtension(extensionSignatureAlgorithmsCert, certAlgorithms))
	if o.ServerName != "" {
		m.extensions = append(m.extensions, serverNameExtension(o.ServerName))
	}
	if o.CertificateAuthorities != nil {
		m.extensions = append(m.extensions, authoritiesExtension(o.CertificateAuthorities))
	}
	m.extensions = append(m.extensions, o.Extensions...)
	raw, err := m.marshal(s.role)
	if err != nil {
		return nil, &Error{ErrUsage, op, err}
	}
	// What this side would not accept it does not send.
	parsed, err := parseRequest(raw, s.role)
	if err != nil {
		return nil, &Error{ErrUsage, op, err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.use(m.context, op); err != nil {
		return nil, err
	}
	return &Request{session: s, from: s.role, msg: parsed}, nil
}

// ReadRequest reads a request by the peer. It is an error of class
// [ErrIllegalParameter] if its context was used on this connection before, by
// either end.
func (s *Session) ReadRequest(b []byte) (*Request, error) {
	m, err := parseRequest(bytes.Clone(b), s.peer())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.use(m.context, fmt.Sprintf("read the %v's request", s.peer())); err != nil {
		return nil, err
	}
	return &Request{session: s, from: s.peer(), msg: m}, nil
}

// An Identity is a certificate chain to authenticate with, and its key.
type Identity struct {
	// Chain is in DER, the leaf first.
	Chain [][]byte
	// Leaf is the parsed form of the first of Chain. If nil, it is parsed each time.
	Leaf *x509.Certificate
	// Key is the leaf's: ECDSA on P-256, P-384 or P-521, Ed25519, or RSA.
	Key crypto.Signer
	// Extensions go with the leaf, such as an OCSP response in status_request.
	// Those that a request does not ask for are left out.
	Extensions []Extension
}

// parse returns the certificates of id, which its key must go with.
func (id *Identity) parse() ([]*x509.Certificate, error) {
	if len(id.Chain) == 0 || len(id.Chain) > maxEntries || id.Key == nil {
		return nil, fmt.Errorf("an identity with %d certificates, of 1 to %d, or without a key", len(id.Chain), maxEntries)
	}
	chain := make([]*x509.Certificate, 1, len(id.Chain))
	chain[0] = id.Leaf
	ders := id.Chain[1:]
	if id.Leaf == nil {
		chain, ders = chain[:0], id.Chain
	} else if !bytes.Equal(id.Leaf.Raw, id.Chain[0]) {
		return nil, errors.New("Leaf is not the first certificate of Chain")
	}
	rest, err := parseChain(ders)
	if err != nil {
		return nil, err
	}
	chain = append(chain, rest...)
	pub, ok := id.Key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(chain[0].PublicKey) {
		return nil, errors.New("the key is not that of the certificate")
	}
	return chain, nil
}

func parseChain(ders [][]byte) ([]*x509.Certificate, error) {
	chain := make([]*x509.Certificate, len(ders))
	for i, der := range ders {
		var err error
		if chain[i], err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i+1, err)
		}
	}
	return chain, nil
}

// checkKeySizes refuses a peer's certificates with RSA keys that take too long to verify
// with, as crypto/tls does. crypto/x509 bounds none, and checks signatures by
// intermediates that anybody has made up before it finds that no root vouches for them.
func checkKeySizes(chain []*x509.Certificate) error {
	for i, c := range chain {
		if pub, ok := c.PublicKey.(*rsa.PublicKey); ok && pub.N.BitLen() > maxRSABits {
			return fmt.Errorf("certificate %d has an RSA key of %d bits, at most %d are verified with", i+1, pub.N.BitLen(), maxRSABits)
		}
	}
	return nil
}

// A choice is an identity that answers a request.
type choice struct {
	*Identity
	chain  []*x509.Certificate
	scheme SignatureScheme
}

func (c *choice) spki() []byte { return c.chain[0].RawSubjectPublicKeyInfo }

// choose returns the first of ids that m allows.
func choose(m *requestMsg, ids []Identity, op string) (*choice, error) {
	var reasons []error
	for i := range ids {
		chain, err := ids[i].parse()
		if err != nil {
			return nil, &Error{ErrUsage, op, err}
		}
		scheme, err := m.fits(chain)
		if err == nil {
			return &choice{&ids[i], chain, scheme}, nil
		}
		reasons = append(reasons, err)
	}
	if reasons == nil {
		return nil, errorf(ErrNoIdentity, op, "there is none")
	}
	return nil, &Error{ErrNoIdentity, op, errors.Join(reasons...)}
}

// Authenticate answers a request by the peer with the first of ids that it allows:
// the "authenticate" operation of RFC 9261, section 7.3. Where none is allowed the
// error is of class [ErrNoIdentity] and the request can be answered by
// [Session.Refuse].
func (s *Session) Authenticate(r *Request, ids ...Identity) ([]byte, error) {
	const op = "authenticate"
	if r == nil || r.session != s {
		return nil, errorf(ErrUsage, op, "this is not a request by the %v of this connection", s.peer())
	}
	c, err := choose(r.msg, ids, op)
	if err != nil {
		return nil, err
	}
	return s.authenticate(r, c, c.Extensions)
}

// authenticate answers r with c and the extensions, so far as r asks for them.
func (s *Session) authenticate(r *Request, c *choice, extensions []Extension) ([]byte, error) {
	const op = "authenticate"
	if err := s.take(r, s.peer(), op); err != nil {
		return nil, err
	}
	return s.construct(r, c, extensions)
}

// construct makes the authenticator of RFC 9261, section 5.2.
func (s *Session) construct(r *Request, c *choice, extensions []Extension) ([]byte, error) {
	const op = "authenticate"
	s.mu.Lock()
	reflected := s.peers[string(c.spki())]
	s.own[string(c.spki())] = true
	s.mu.Unlock()
	if reflected {
		return nil, errorf(ErrReflected, op, "the %v has authenticated with the key of this side", s.peer())
	}
	certificate := &certificateMsg{context: r.msg.context}
	for i, der := range c.Identity.Chain {
		e := entry{certificate: der}
		if i == 0 {
			for _, x := range extensions {
				if _, asked := find(r.msg.extensions, x.Type); asked {
					e.extensions = append(e.extensions, x)
				}
			}
		}
		certificate.entries = append(certificate.entries, e)
	}
	var err error
	if certificate.raw, err = certificate.marshal(); err != nil {
		return nil, &Error{ErrUsage, op, err}
	}
	t := s.transcript(s.role, r.msg.raw, certificate.raw)
	verify := &verifyMsg{algorithm: c.scheme}
	if verify.signature, err = sign(c.Key, c.scheme, signedContent(t)); err != nil {
		return nil, &Error{ErrUsage, op, err}
	}
	if verify.raw, err = verify.marshal(); err != nil {
		return nil, &Error{ErrUsage, op, err}
	}
	t.Write(verify.raw)
	out := slices.Concat(certificate.raw, verify.raw, s.finished(s.role, t))
	// What this side would not accept it does not send.
	if _, err := parseAuthenticator(out, s.role); err != nil {
		return nil, &Error{ErrUsage, op, err}
	}
	return out, nil
}

// Refuse answers a request by the peer with an empty authenticator, the
// authenticated refusal of RFC 9261, section 6.
func (s *Session) Refuse(r *Request) ([]byte, error) {
	if err := s.take(r, s.peer(), "refuse"); err != nil {
		return nil, err
	}
	return s.refusal(s.role, r.msg)
}

// refusal covers a Certificate without entries, which is not sent.
func (s *Session) refusal(sender attestext.Role, m *requestMsg) ([]byte, error) {
	raw, err := (&certificateMsg{context: m.context}).marshal()
	if err != nil {
		return nil, &Error{ErrUsage, "refuse", err}
	}
	return s.finished(sender, s.transcript(sender, m.raw, raw)), nil
}

// transcript begins Hash(Handshake Context ‖ request ‖ Certificate) for an
// authenticator by sender.
func (s *Session) transcript(sender attestext.Role, request, certificate []byte) hash.Hash {
	h := s.hash.New()
	h.Write(s.handshakeContext[sender])
	h.Write(request)
	h.Write(certificate)
	return h
}

// signedContent is what CertificateVerify signs (RFC 9261, section 5.2.2).
func signedContent(transcript hash.Hash) []byte {
	b := bytes.Repeat([]byte{0x20}, 64)
	b = append(b, "Exported Authenticator\x00"...)
	return transcript.Sum(b)
}

// finished returns the Finished message over a transcript (RFC 9261, section
// 5.2.3).
func (s *Session) finished(sender attestext.Role, transcript hash.Hash) []byte {
	mac := hmac.New(s.hash.New, s.finishedKey[sender])
	mac.Write(transcript.Sum(nil))
	return mac.Sum([]byte{typeFinished, 0, 0, byte(s.hash.Size())})
}

// An Authenticated is an identity that the peer has proven to hold, with the chain
// accepted by the caller's function.
type Authenticated struct {
	// Context is the certificate_request_context.
	Context []byte
	// Certificates are the chain as it was sent, the leaf first.
	Certificates []*x509.Certificate
	// Extensions are those of the leaf's entry, all of which were asked for.
	Extensions []Extension
}

// Validate checks the peer's answer to a request by this end: the "validate"
// operation of RFC 9261, section 7.4. verifyChain says whether the chain is
// acceptable, which nothing else here does; see [ServerChain] and [ClientChain]. It
// is called after the signature has been checked, and must not be nil.
//
// It is an error of class [ErrRefused] if the answer is a genuine empty
// authenticator. The request is used up, whatever the outcome.
func (s *Session) Validate(r *Request, authenticator []byte, verifyChain func(chain []*x509.Certificate) error) (*Authenticated, error) {
	if err := s.take(r, s.role, "validate"); err != nil {
		return nil, err
	}
	return s.validate(r, authenticator, verifyChain)
}

func (s *Session) validate(r *Request, authenticator []byte, verifyChain func(chain []*x509.Certificate) error) (*Authenticated, error) {
	op := fmt.Sprintf("validate the %v's authenticator", s.peer())
	if verifyChain == nil {
		return nil, errorf(ErrUsage, op, "nothing says which chains are acceptable")
	}
	m, err := parseAuthenticator(bytes.Clone(authenticator), s.peer())
	if err != nil {
		return nil, err
	}
	if m.empty {
		if r.spontaneous {
			return nil, errorf(ErrUnexpectedMessage, op, "a refusal of what nobody asked for")
		}
		want, err := s.refusal(s.peer(), r.msg)
		if err != nil {
			return nil, err
		}
		if !hmac.Equal(m.finished, want[headerSize:]) {
			return nil, errorf(ErrDecrypt, op, "Finished of the refusal is of another connection, request or role")
		}
		return nil, errorf(ErrRefused, op, "the authenticator is empty")
	}
	if !r.spontaneous && !bytes.Equal(m.certificate.context, r.msg.context) {
		return nil, errorf(ErrIllegalParameter, op, "its context is of another request")
	}
	if err := r.checkExtensions(m, op); err != nil {
		return nil, err
	}
	ders := make([][]byte, len(m.certificate.entries))
	for i, e := range m.certificate.entries {
		ders[i] = e.certificate
	}
	chain, err := parseChain(ders)
	if err == nil {
		err = checkKeySizes(chain)
	}
	if err != nil {
		return nil, &Error{ErrBadCertificate, op, err}
	}
	spki := string(chain[0].RawSubjectPublicKeyInfo)
	s.mu.Lock()
	reflected := s.own[spki]
	s.mu.Unlock()
	if reflected {
		return nil, errorf(ErrReflected, op, "its key is the one that this side authenticated with")
	}
	if !slices.Contains(r.msg.algorithms, m.verify.algorithm) {
		return nil, errorf(ErrIllegalParameter, op, "CertificateVerify by scheme %#04x, which was not asked for", uint16(m.verify.algorithm))
	}
	if _, ok := schemeHash(m.verify.algorithm, chain[0].PublicKey); !ok {
		return nil, errorf(ErrIllegalParameter, op, "CertificateVerify by scheme %#04x, which does not go with the certificate's key", uint16(m.verify.algorithm))
	}
	t := s.transcript(s.peer(), r.msg.raw, m.certificate.raw)
	if !verifySignature(chain[0].PublicKey, m.verify.algorithm, signedContent(t), m.verify.signature) {
		return nil, errorf(ErrDecrypt, op, "CertificateVerify is altered, or of another connection, request or role")
	}
	t.Write(m.verify.raw)
	if !hmac.Equal(m.finished, s.finished(s.peer(), t)[headerSize:]) {
		return nil, errorf(ErrDecrypt, op, "Finished is altered, or of another connection, request or role")
	}
	if err := verifyChain(chain); err != nil {
		return nil, &Error{ErrBadCertificate, op, err}
	}
	s.mu.Lock()
	s.peers[spki] = true
	s.mu.Unlock()
	return &Authenticated{m.certificate.context, chain, m.certificate.entries[0].extensions}, nil
}

// checkExtensions holds a Certificate to what the request asked for (RFC 8446,
// section 4.2).
func (r *Request) checkExtensions(m *authenticatorMsg, op string) error {
	for i, e := range m.certificate.entries {
		for _, x := range e.extensions {
			if _, asked := find(r.msg.extensions, x.Type); !asked {
				return errorf(ErrUnsupportedExtension, op, "extension %#04x in certificate entry %d", x.Type, i+1)
			}
			switch x.Type {
			case extensionServerName, extensionSignatureAlgorithms, extensionCertificateAuthorities,
				extensionOIDFilters, extensionSignatureAlgorithmsCert:
				return errorf(ErrIllegalParameter, op, "extension %#04x has no place in a certificate entry", x.Type)
			}
			if r.attestation != 0 && x.Type == r.attestation && i > 0 {
				return errorf(ErrIllegalParameter, op, "cmw_attestation in certificate entry %d, it belongs in the first", i+1)
			}
		}
	}
	return nil
}

// Spontaneous says what a server may authenticate with unasked: what the client
// offered in its ClientHello, which no exporter tells.
type Spontaneous struct {
	// SignatureAlgorithms and SignatureAlgorithmsCert are those of the ClientHello.
	// If nil, they are as for RequestOptions.
	SignatureAlgorithms     []SignatureScheme
	SignatureAlgorithmsCert []SignatureScheme
	// Extensions are the types of those in the ClientHello that may stand in a
	// certificate entry. If nil, none may.
	Extensions []uint16
	// Context is the server's certificate_request_context, as for RequestOptions.
	// A client leaves it nil.
	Context []byte
}

func (o *Spontaneous) request(s *Session, from attestext.Role) *Request {
	if o == nil {
		o = &Spontaneous{}
	}
	m := &requestMsg{context: slices.Clone(o.Context), algorithms: o.SignatureAlgorithms, certAlgorithms: o.SignatureAlgorithmsCert}
	if m.algorithms == nil {
		m.algorithms = DefaultSignatureAlgorithms()
	}
	if m.certAlgorithms == nil {
		m.certAlgorithms = defaultCertAlgorithms()
	}
	for _, typ := range o.Extensions {
		m.extensions = append(m.extensions, Extension{Type: typ})
	}
	return &Request{session: s, from: from, msg: m, spontaneous: true}
}

// AuthenticateSpontaneously makes an authenticator that no request asked for, as
// only a server may (RFC 9261, section 3). It carries no attestation, which is bound
// to a request.
func (s *Session) AuthenticateSpontaneously(o *Spontaneous, ids ...Identity) ([]byte, error) {
	const op = "authenticate spontaneously"
	if s.role != attestext.RoleServer {
		return nil, errorf(ErrUsage, op, "only a server may")
	}
	r := o.request(s, s.peer())
	if r.msg.context == nil {
		var err error
		if r.msg.context, err = newContext(); err != nil {
			return nil, &Error{ErrUsage, op, err}
		}
	}
	c, err := choose(r.msg, ids, op)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	err = s.use(r.msg.context, op)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return s.construct(r, c, c.Extensions)
}

// ValidateSpontaneous checks an authenticator that the server sent unasked, as
// [Session.Validate] does; o says what the ClientHello offered.
func (s *Session) ValidateSpontaneous(o *Spontaneous, authenticator []byte, verifyChain func(chain []*x509.Certificate) error) (*Authenticated, error) {
	op := fmt.Sprintf("validate the %v's authenticator", s.peer())
	if s.role != attestext.RoleClient {
		return nil, errorf(ErrUnexpectedMessage, op, "a client may not authenticate unasked")
	}
	m, err := parseAuthenticator(authenticator, s.peer())
	if err != nil {
		return nil, err
	}
	if !m.empty {
		s.mu.Lock()
		err = s.use(m.certificate.context, op)
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
	return s.validate(o.request(s, s.role), authenticator, verifyChain)
}
