package exportedauth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/keyschedule"
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// exporter stands for the exporter of the connection of that name.
func exporter(connection string) func(string, []byte, int) ([]byte, error) {
	return func(label string, context []byte, length int) ([]byte, error) {
		h := sha256.Sum256(context)
		return hkdf.Key(sha256.New, []byte(connection), nil, label+string(h[:]), length)
	}
}

// sessions returns the two ends of a connection.
func sessions(t testing.TB, connection string, h crypto.Hash) (client, server *Session) {
	t.Helper()
	client, err := NewSession(attestext.RoleClient, h, exporter(connection))
	if err != nil {
		t.Fatal(err)
	}
	server, err = NewSession(attestext.RoleServer, h, exporter(connection))
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

// pki has a CA and identities with keys of each kind, by name.
var pki = sync.OnceValue(func() (p struct {
	roots *x509.CertPool
	ca    *x509.Certificate
	ids   map[string]Identity
}) {
	issue := func(name string, key crypto.Signer, parent *x509.Certificate, signer crypto.Signer) []byte {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(len(p.ids) + 1)), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name + ".example"},
			NotBefore: testTime.Add(-time.Hour), NotAfter: testTime.Add(time.Hour), BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		if parent == nil {
			template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			panic(err)
		}
		return der
	}
	curve := func(c elliptic.Curve) crypto.Signer {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			panic(err)
		}
		return k
	}
	caKey := curve(elliptic.P256())
	caDER := issue("CA", caKey, nil, nil)
	p.ca, _ = x509.ParseCertificate(caDER)
	p.roots = x509.NewCertPool()
	p.roots.AddCert(p.ca)
	p.ids = make(map[string]Identity)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	for name, key := range map[string]crypto.Signer{
		"client": curve(elliptic.P256()), "server": curve(elliptic.P256()),
		"p384": curve(elliptic.P384()), "p521": curve(elliptic.P521()), "ed25519": edKey, "rsa": rsaKey, "p224": curve(elliptic.P224()),
	} {
		p.ids[name] = Identity{Chain: [][]byte{issue(name, key, p.ca, caKey), caDER}, Key: key}
	}
	return p
})

func accept([]*x509.Certificate) error { return nil }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// fixedTranscript is a transcript whose hash is already known.
type fixedTranscript struct {
	hash.Hash
	sum []byte
}

func (f fixedTranscript) Sum(b []byte) []byte { return append(b, f.sum...) }

// TestKnownAnswers holds the exporters and the binding to values derived elsewhere
// from the trace of RFC 8448, section 3.
func TestKnownAnswers(t *testing.T) {
	b, err := os.ReadFile("../../keyschedule/testdata/keyschedule.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Rows []struct{ Name, Context, SPKI, Value string }
	}
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	unhex := func(s string) []byte { return must(hex.DecodeString(s)) }
	ems := keyschedule.NewEarlySecret(sha256.New, nil).
		HandshakeSecret(unhex("8bd4054fb55b9d63fdfbacf9f04b9f0d35e6d63f537563efd46272900f89492d")).
		MasterSecret().
		ExporterMasterSecret(fixedTranscript{sha256.New(), unhex("9608102a0f1ccc6db6250b7b7e417b1a000eaada3daae4777a7686c9ff83df13")})
	s, err := NewSession(attestext.RoleClient, crypto.SHA256, func(label string, context []byte, length int) ([]byte, error) {
		return ems.Exporter(label, context, length), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	context := unhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	seen := 0
	for _, row := range vectors.Rows {
		var got []byte
		switch row.Name {
		case "RFC 9261 client handshake context":
			got = s.handshakeContext[attestext.RoleClient]
		case "RFC 9261 client finished key":
			got = s.finishedKey[attestext.RoleClient]
		case "RFC 9261 server handshake context":
			got = s.handshakeContext[attestext.RoleServer]
		case "RFC 9261 server finished key":
			got = s.finishedKey[attestext.RoleServer]
		case "TLS-Exporter Attestation":
			got = must(s.export(LabelAttestation, context, exportedSize))
		case "TLS-Exporter Attestation Binding":
			got = must(s.export(LabelAttestationBinding, context, exportedSize))
		case "expat binding SHA-256(SPKI || exported)":
			got = must(s.challenge(&Config{}, attestext.BackgroundCheck, attestext.RoleServer, context, unhex(row.SPKI))).Value()
		default:
			continue
		}
		seen++
		if hex.EncodeToString(got) != row.Value {
			t.Errorf("%s = %x, want %s", row.Name, got, row.Value)
		}
	}
	if seen != 7 {
		t.Errorf("%d rows, want 7", seen)
	}
}

// TestMessagesAreComputedAsRFC9261Says computes CertificateVerify and Finished by
// hand, out of the formulas of sections 5.2.2, 5.2.3 and 6.
func TestMessagesAreComputedAsRFC9261Says(t *testing.T) {
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384} {
		client, server := sessions(t, "c", h)
		export := func(label string) []byte { return must(exporter("c")(label, nil, h.Size())) }
		hashOf := func(parts ...[]byte) []byte {
			d := h.New()
			d.Write(slices.Concat(parts...))
			return d.Sum(nil)
		}
		mac := func(key, data []byte) []byte {
			m := hmac.New(h.New, key)
			m.Write(data)
			return m.Sum(nil)
		}
		r, err := client.Request(nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Bytes()[0] != 17 {
			t.Errorf("a client's request is of type %d", r.Bytes()[0])
		}
		id := pki().ids["server"]
		a, err := server.Authenticate(must(server.ReadRequest(r.Bytes())), id)
		if err != nil {
			t.Fatal(err)
		}
		m := must(parseAuthenticator(a, attestext.RoleServer))
		hc := export("EXPORTER-server authenticator handshake context")
		signed := slices.Concat(bytes.Repeat([]byte(" "), 64), []byte("Exported Authenticator\x00"), hashOf(hc, r.Bytes(), m.certificate.raw))
		digest := sha256.Sum256(signed)
		if !ecdsa.VerifyASN1(id.Key.Public().(*ecdsa.PublicKey), digest[:], m.verify.signature) {
			t.Errorf("%v: CertificateVerify signs something else", h)
		}
		fk := export("EXPORTER-server authenticator finished key")
		if want := mac(fk, hashOf(hc, r.Bytes(), m.certificate.raw, m.verify.raw)); !bytes.Equal(m.finished, want) {
			t.Errorf("%v: Finished = %x, want %x", h, m.finished, want)
		}
		if !bytes.HasSuffix(a, m.finished) || len(a) != len(m.certificate.raw)+len(m.verify.raw)+4+h.Size() {
			t.Errorf("%v: not Certificate, CertificateVerify, Finished", h)
		}

		// The refusal's Certificate has the context and no entries.
		r = must(client.Request(nil))
		a = must(server.Refuse(must(server.ReadRequest(r.Bytes()))))
		certificate := slices.Concat([]byte{11, 0, 0, byte(1 + 32 + 3), 32}, r.Context(), []byte{0, 0, 0})
		want := append([]byte{20, 0, 0, byte(h.Size())}, mac(fk, hashOf(hc, r.Bytes(), certificate))...)
		if !bytes.Equal(a, want) {
			t.Errorf("%v: the empty authenticator is %x, want %x", h, a, want)
		}
		if _, err := client.Validate(r, a, accept); !errors.Is(err, ErrRefused) {
			t.Errorf("%v: refusal: %v", h, err)
		}
	}
}

func TestEitherEndAuthenticatesWithEachKindOfKey(t *testing.T) {
	for name, scheme := range map[string]SignatureScheme{
		"server": ECDSAWithP256AndSHA256, "p384": ECDSAWithP384AndSHA384, "p521": ECDSAWithP521AndSHA512,
		"ed25519": Ed25519, "rsa": PSSWithSHA256,
	} {
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384} {
			for _, asking := range []attestext.Role{attestext.RoleClient, attestext.RoleServer} {
				client, server := sessions(t, name, h)
				asks, answers := client, server
				if asking == attestext.RoleServer {
					asks, answers = server, client
				}
				r := must(asks.Request(nil))
				a, err := answers.Authenticate(must(answers.ReadRequest(r.Bytes())), pki().ids[name])
				if err != nil {
					t.Fatal(name, err)
				}
				if m := must(parseAuthenticator(a, answers.role)); m.verify.algorithm != scheme {
					t.Errorf("%s signed by %#04x", name, m.verify.algorithm)
				}
				verify := ClientChain(pki().roots, func() time.Time { return testTime })
				if asks == client {
					verify = ServerChain(pki().roots, name+".example", func() time.Time { return testTime })
				}
				got, err := asks.Validate(r, a, verify)
				if err != nil || !bytes.Equal(got.Certificates[0].Raw, pki().ids[name].Chain[0]) || !bytes.Equal(got.Context, r.Context()) {
					t.Errorf("%s: %v", name, err)
				}
				if c := must(Context(a)); !bytes.Equal(c, must(Context(r.Bytes()))) {
					t.Errorf("%s: context %x", name, c)
				}
			}
		}
	}
}

func TestServerAuthenticatesSpontaneously(t *testing.T) {
	client, server := sessions(t, "c", crypto.SHA256)
	id := pki().ids["server"]
	id.Extensions = []Extension{{extensionStatusRequest, []byte("ocsp")}, {extensionSCT, []byte("not offered")}}
	o := &Spontaneous{Extensions: []uint16{extensionStatusRequest}}
	a, err := server.AuthenticateSpontaneously(o, id)
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.ValidateSpontaneous(o, a, accept)
	if err != nil || len(got.Extensions) != 1 || len(got.Context) != 32 {
		t.Fatal(got, err)
	}
	if _, err := client.ValidateSpontaneous(o, a, accept); !errors.Is(err, ErrIllegalParameter) {
		t.Errorf("the same again: %v", err)
	}
	if _, err := client.ValidateSpontaneous(nil, must(server.AuthenticateSpontaneously(o, id)), accept); !errors.Is(err, ErrUnsupportedExtension) {
		t.Errorf("an extension that was not in ClientHello: %v", err)
	}
	if _, err := client.ValidateSpontaneous(&Spontaneous{SignatureAlgorithms: []SignatureScheme{Ed25519}}, must(server.AuthenticateSpontaneously(nil, id)), accept); !errors.Is(err, ErrIllegalParameter) {
		t.Errorf("a scheme that was not in ClientHello: %v", err)
	}
	if _, err := client.AuthenticateSpontaneously(nil, pki().ids["client"]); !errors.Is(err, ErrUsage) {
		t.Errorf("by a client: %v", err)
	}
	if _, err := server.ValidateSpontaneous(nil, a, accept); !errors.Is(err, ErrUnexpectedMessage) {
		t.Errorf("from a client: %v", err)
	}
	r := must(client.Request(nil))
	refusal := must(server.Refuse(must(server.ReadRequest(r.Bytes()))))
	if _, err := client.ValidateSpontaneous(nil, refusal, accept); !errors.Is(err, ErrUnexpectedMessage) {
		t.Errorf("a spontaneous refusal: %v", err)
	}
}

func TestCertificateIsChosenByTheRequest(t *testing.T) {
	ids := []Identity{pki().ids["p224"], pki().ids["p384"], pki().ids["ed25519"], pki().ids["server"]}
	ids[1].Leaf = must(x509.ParseCertificate(ids[1].Chain[0]))
	for name, tt := range map[string]struct {
		o    RequestOptions
		want int // of ids, or -1
	}{
		"anything":               {RequestOptions{}, 1},
		"by algorithm":           {RequestOptions{SignatureAlgorithms: []SignatureScheme{0x9999, Ed25519}}, 2},
		"by name":                {RequestOptions{ServerName: "server.example"}, 3},
		"by authority":           {RequestOptions{CertificateAuthorities: [][]byte{[]byte("x"), pki().ca.RawSubject}}, 1},
		"no such authority":      {RequestOptions{CertificateAuthorities: [][]byte{[]byte("x")}}, -1},
		"no such name":           {RequestOptions{ServerName: "other.example"}, -1},
		"PKCS #1 v1.5":           {RequestOptions{SignatureAlgorithms: []SignatureScheme{PKCS1WithSHA256}}, -1},
		"signed by none of them": {RequestOptions{SignatureAlgorithmsCert: []SignatureScheme{Ed25519}}, -1},
	} {
		client, server := sessions(t, "c", crypto.SHA256)
		r := must(server.ReadRequest(must(client.Request(&tt.o)).Bytes()))
		a, err := server.Authenticate(r, ids...)
		if tt.want < 0 {
			if !errors.Is(err, ErrNoIdentity) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := server.Refuse(r); err != nil {
				t.Errorf("%s: cannot refuse: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m := must(parseAuthenticator(a, attestext.RoleServer)); !bytes.Equal(m.certificate.entries[0].certificate, ids[tt.want].Chain[0]) {
			t.Errorf("%s: another certificate", name)
		}
	}
}

func TestRequestsAndAuthenticatorsServeOnce(t *testing.T) {
	client, server := sessions(t, "c", crypto.SHA256)
	id := pki().ids["server"]
	r := must(client.Request(nil))
	in := must(server.ReadRequest(r.Bytes()))
	a := must(server.Authenticate(in, id))
	if _, err := server.Authenticate(in, id); !errors.Is(err, ErrIllegalParameter) {
		t.Errorf("answered twice: %v", err)
	}
	if _, err := server.Refuse(in); !errors.Is(err, ErrIllegalParameter) {
		t.Errorf("answered and refused: %v", err)
	}
	if _, err := server.ReadRequest(r.Bytes()); !errors.Is(err, ErrIllegalParameter) {
		t.Errorf("the same request again: %v", err)
	}
	if _, err := client.Request(&RequestOptions{Context: r.Context()}); !errors.Is(err, ErrIllegalParameter) {
		t.Errorf("a context of this end again: %v", err)
	}
	if _, err := server.Request(&RequestOptions{Context: r.Context()}); !errors.Is(err, ErrIllegalParameter) {
		t.Errorf("a context of the peer again: %v", err)
	}
	if _, err := client.Validate(r, a, accept); err != nil {
		t.Errorf("the answer: %v", err)
	}
	if _, err := client.Validate(r, a, accept); !errors.Is(err, ErrIllegalParameter) {
		t.Errorf("the answer again: %v", err)
	}
	bad := must(client.Request(nil))
	if _, err := client.Validate(bad, []byte{11}, accept); !errors.Is(err, ErrDecode) {
		t.Errorf("garbage: %v", err)
	}
	if _, err := client.Validate(bad, must(server.Authenticate(must(server.ReadRequest(bad.Bytes())), id)), accept); !errors.Is(err, ErrIllegalParameter) {
		t.Errorf("a second try at a request: %v", err)
	}
	other, _ := sessions(t, "c", crypto.SHA256)
	if _, err := other.Validate(must(client.Request(nil)), a, accept); !errors.Is(err, ErrUsage) {
		t.Errorf("a request of another session: %v", err)
	}
	long := RequestOptions{Context: make([]byte, 256)}
	if _, err := client.Request(&long); !errors.Is(err, ErrUsage) {
		t.Errorf("a context of 256 bytes: %v", err)
	}
	if a, b := must(client.Request(nil)), must(client.Request(nil)); bytes.Equal(a.Context(), b.Context()) || len(a.Context()) != 32 {
		t.Error("contexts are not random")
	}
}

// What is made anew after a change.
const (
	nothing = iota
	onlyFinished
	all // CertificateVerify and Finished
)

// resigned returns the answer of the server to r after change has been at its
// parts, with what redo says made anew.
func resigned(t *testing.T, server *Session, r *Request, id Identity, redo int, change func(m *authenticatorMsg)) []byte {
	t.Helper()
	m := must(parseAuthenticator(must(server.Authenticate(must(server.ReadRequest(r.Bytes())), id)), server.role))
	change(m)
	m.certificate.raw = must(m.certificate.marshal())
	tr := server.transcript(server.role, r.Bytes(), m.certificate.raw)
	if redo == all {
		m.verify.signature = must(sign(id.Key, m.verify.algorithm, signedContent(tr)))
	}
	m.verify.raw = must(m.verify.marshal())
	tr.Write(m.verify.raw)
	finished := server.finished(server.role, tr)
	if redo == nothing {
		finished = append([]byte{20, 0, 0, byte(len(m.finished))}, m.finished...)
	}
	return slices.Concat(m.certificate.raw, m.verify.raw, finished)
}

// largeRSA returns a certificate for an RSA key of so many bits, to which nobody has the
// private part.
func largeRSA(t *testing.T, bits uint) []byte {
	t.Helper()
	pub := &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int).Lsh(big.NewInt(1), bits-1), 0, 1), E: 65537}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "large"}, IsCA: true, BasicConstraintsValid: true}
	return must(x509.CreateCertificate(rand.Reader, template, template, pub, pki().ids["server"].Key))
}

func TestAuthenticatorIsRefused(t *testing.T) {
	id := pki().ids["server"]
	cmw := Extension{ExtensionCMWAttestation, []byte{0, 1, 'x'}}
	asksCMW := &RequestOptions{Extensions: []Extension{{Type: ExtensionCMWAttestation}}}
	for _, tt := range []struct {
		name   string
		o      *RequestOptions
		redo   int
		change func(m *authenticatorMsg)
		want   error
		alert  uint8
	}{
		{"unchanged", nil, all, func(m *authenticatorMsg) {}, nil, 0},
		{"CertificateVerify altered", nil, nothing, func(m *authenticatorMsg) { m.verify.signature[10] ^= 1 }, ErrDecrypt, 51},
		{"CertificateVerify altered under a good Finished", nil, onlyFinished, func(m *authenticatorMsg) { m.verify.signature[10] ^= 1 }, ErrDecrypt, 51},
		{"another's certificate under a good Finished", nil, onlyFinished, func(m *authenticatorMsg) { m.certificate.entries[0].certificate = pki().ids["client"].Chain[0] }, ErrDecrypt, 51},
		{"Finished altered", nil, nothing, func(m *authenticatorMsg) { m.finished[0] ^= 1 }, ErrDecrypt, 51},
		{"Finished cut", nil, nothing, func(m *authenticatorMsg) { m.finished = m.finished[:31] }, ErrDecrypt, 51},
		{"chain altered", nil, nothing, func(m *authenticatorMsg) { m.certificate.entries = m.certificate.entries[:1] }, ErrDecrypt, 51},
		{"another's certificate", nil, nothing, func(m *authenticatorMsg) { m.certificate.entries[0].certificate = pki().ids["client"].Chain[0] }, ErrDecrypt, 51},
		{"context of another request", nil, all, func(m *authenticatorMsg) { m.certificate.context = make([]byte, 32) }, ErrIllegalParameter, 47},
		{"no entries", nil, all, func(m *authenticatorMsg) { m.certificate.entries = nil }, ErrDecode, 50},
		{"too many entries", nil, all, func(m *authenticatorMsg) {
			m.certificate.entries = slices.Repeat(m.certificate.entries[:1], maxEntries+1)
		}, ErrDecode, 50},
		{"garbage for a certificate", nil, all, func(m *authenticatorMsg) { m.certificate.entries[0].certificate = []byte("x") }, ErrBadCertificate, 42},
		{"RSA key of an intermediate that is too large", nil, all, func(m *authenticatorMsg) { m.certificate.entries[1].certificate = largeRSA(t, 8193) }, ErrBadCertificate, 42},
		{"RSA key of an intermediate that is as large as can be", nil, all, func(m *authenticatorMsg) { m.certificate.entries[1].certificate = largeRSA(t, 8192) }, nil, 0},
		{"scheme that was not asked for", &RequestOptions{SignatureAlgorithms: []SignatureScheme{ECDSAWithP256AndSHA256}}, nothing,
			func(m *authenticatorMsg) { m.verify.algorithm = Ed25519 }, ErrIllegalParameter, 47},
		{"scheme of another kind of key", nil, nothing, func(m *authenticatorMsg) { m.verify.algorithm = Ed25519 }, ErrIllegalParameter, 47},
		{"cmw_attestation unsolicited", nil, all, func(m *authenticatorMsg) { m.certificate.entries[0].extensions = []Extension{cmw} }, ErrUnsupportedExtension, 110},
		{"extension twice", asksCMW, all, func(m *authenticatorMsg) { m.certificate.entries[0].extensions = []Extension{cmw, cmw} }, ErrIllegalParameter, 47},
		{"signature_algorithms in an entry", nil, all, func(m *authenticatorMsg) {
			m.certificate.entries[0].extensions = []Extension{{Type: extensionSignatureAlgorithms}}
		}, ErrIllegalParameter, 47},
	} {
		client, server := sessions(t, "c", crypto.SHA256)
		r := must(client.Request(tt.o))
		_, err := client.Validate(r, resigned(t, server, r, id, tt.redo, tt.change), accept)
		if !errors.Is(err, tt.want) || Alert(err, attestext.RoleClient) != tt.alert {
			t.Errorf("%s: %v, alert %d", tt.name, err, Alert(err, attestext.RoleClient))
		}
	}
}

func TestAuthenticatorIsOfItsConnectionRequestAndRole(t *testing.T) {
	id := pki().ids["server"]
	client, server := sessions(t, "one", crypto.SHA256)
	_, elsewhere := sessions(t, "another", crypto.SHA256)
	r := must(client.Request(nil))
	// R7: two connections, the same request and so the same context.
	a := must(elsewhere.Authenticate(must(elsewhere.ReadRequest(r.Bytes())), id))
	if _, err := client.Validate(r, a, accept); !errors.Is(err, ErrDecrypt) {
		t.Errorf("authenticator of another connection: %v", err)
	}
	r = must(client.Request(nil))
	refusal := must(elsewhere.Refuse(must(elsewhere.ReadRequest(r.Bytes()))))
	if _, err := client.Validate(r, refusal, accept); !errors.Is(err, ErrDecrypt) {
		t.Errorf("refusal of another connection: %v", err)
	}
	// The same context, other extensions.
	r = must(client.Request(nil))
	changed := must((&requestMsg{context: r.Context(), extensions: r.Extensions()[:1]}).marshal(attestext.RoleClient))
	if _, err := client.Validate(r, must(server.Authenticate(must(server.ReadRequest(changed)), id)), accept); !errors.Is(err, ErrDecrypt) {
		t.Errorf("answer to another request of this context: %v", err)
	}
	// The labels of the other role.
	r = must(client.Request(nil))
	swapped := &Session{role: server.role, hash: server.hash, exporter: server.exporter, contexts: map[[32]byte]bool{}, own: map[string]bool{}, peers: map[string]bool{},
		handshakeContext: map[attestext.Role][]byte{attestext.RoleServer: server.handshakeContext[attestext.RoleClient]},
		finishedKey:      map[attestext.Role][]byte{attestext.RoleServer: server.finishedKey[attestext.RoleClient]}}
	if _, err := client.Validate(r, must(swapped.Authenticate(must(swapped.ReadRequest(r.Bytes())), id)), accept); !errors.Is(err, ErrDecrypt) {
		t.Errorf("authenticator under the labels of the other role: %v", err)
	}
	// Only one of the two keys is of the other role.
	r = must(client.Request(nil))
	swapped.handshakeContext = server.handshakeContext
	if _, err := client.Validate(r, must(swapped.Authenticate(must(swapped.ReadRequest(r.Bytes())), id)), accept); !errors.Is(err, ErrDecrypt) {
		t.Errorf("Finished under the label of the other role: %v", err)
	}
}

func TestEqualKeysOnBothEndsAreRefused(t *testing.T) {
	id := pki().ids["server"]
	for _, validatesFirst := range []bool{true, false} {
		client, server := sessions(t, "c", crypto.SHA256)
		r, q := must(client.Request(nil)), must(server.Request(nil))
		a := must(server.Authenticate(must(server.ReadRequest(r.Bytes())), id))
		in := must(client.ReadRequest(q.Bytes()))
		if validatesFirst {
			must(client.Validate(r, a, accept))
			if _, err := client.Authenticate(in, id); !errors.Is(err, ErrReflected) {
				t.Errorf("authenticates with the key of the server: %v", err)
			}
			continue
		}
		b := must(client.Authenticate(in, id))
		if _, err := client.Validate(r, a, accept); !errors.Is(err, ErrReflected) {
			t.Errorf("accepts its own key: %v", err)
		}
		if _, err := server.Validate(q, b, accept); !errors.Is(err, ErrReflected) || Alert(err, attestext.RoleServer) != 42 {
			t.Errorf("accepts its own key: %v", err)
		}
	}
	// A request sent back to where it came from.
	client, _ := sessions(t, "c", crypto.SHA256)
	q := bytes.Clone(must(client.Request(nil)).Bytes())
	q[0] = typeCertificateRequest
	if _, err := client.ReadRequest(q); !errors.Is(err, ErrIllegalParameter) {
		t.Errorf("a request of its own: %v", err)
	}
}

func TestRequestIsRefused(t *testing.T) {
	sigalgs := schemesExtension(extensionSignatureAlgorithms, []SignatureScheme{Ed25519})
	for _, tt := range []struct {
		name       string
		extensions []Extension
		want       error
		alert      uint8
	}{
		{"unknown extensions are ignored", []Extension{{0x1234, []byte("x")}, sigalgs}, nil, 0},
		{"without extensions", nil, ErrMissingExtension, 109},
		{"without signature_algorithms", []Extension{{0x1234, nil}}, ErrMissingExtension, 109},
		{"extension twice", []Extension{sigalgs, sigalgs}, ErrIllegalParameter, 47},
		{"empty signature_algorithms", []Extension{{13, []byte{0, 0}}}, ErrDecode, 50},
		{"odd signature_algorithms", []Extension{{13, []byte{0, 3, 1, 2, 3}}}, ErrDecode, 50},
		{"signature_algorithms and more", []Extension{{13, []byte{0, 2, 1, 2, 3}}}, ErrDecode, 50},
		{"malformed signature_algorithms_cert", []Extension{sigalgs, {50, nil}}, ErrDecode, 50},
		{"malformed certificate_authorities", []Extension{sigalgs, {47, []byte{0, 2, 0, 0}}}, ErrDecode, 50},
		{"malformed server_name", []Extension{sigalgs, {0, nil}}, ErrDecode, 50},
		{"too many extensions", append(func() (l []Extension) {
			for i := range maxExtensions {
				l = append(l, Extension{Type: uint16(0x2000 + i)})
			}
			return l
		}(), sigalgs), ErrDecode, 50},
	} {
		_, server := sessions(t, "c", crypto.SHA256)
		_, err := server.ReadRequest(must((&requestMsg{extensions: tt.extensions}).marshal(attestext.RoleClient)))
		if !errors.Is(err, tt.want) || Alert(err, attestext.RoleServer) != tt.alert {
			t.Errorf("%s: %v, alert %d", tt.name, err, Alert(err, attestext.RoleServer))
		}
	}
	client, server := sessions(t, "c", crypto.SHA256)
	if _, err := client.ReadRequest(must(client.Request(nil)).Bytes()); !errors.Is(err, ErrUnexpectedMessage) || !strings.Contains(err.Error(), "ClientCertificateRequest") {
		t.Errorf("a client's request at a client: %v", err)
	}
	if _, err := server.ReadRequest(must(server.Request(nil)).Bytes()); !errors.Is(err, ErrUnexpectedMessage) {
		t.Errorf("a server's request at a server: %v", err)
	}
	if _, err := client.ReadRequest(must((&requestMsg{extensions: []Extension{sigalgs, serverNameExtension("x")}}).marshal(attestext.RoleServer))); !errors.Is(err, ErrIllegalParameter) {
		t.Errorf("server_name in CertificateRequest: %v", err)
	}
}

// TestMessagesAreReadToTheByte cuts each message at each byte, and adds one.
func TestMessagesAreReadToTheByte(t *testing.T) {
	client, server := sessions(t, "c", crypto.SHA256)
	r := must(client.Request(&RequestOptions{ServerName: "server.example", CertificateAuthorities: [][]byte{pki().ca.RawSubject}}))
	a := must(server.Authenticate(must(server.ReadRequest(r.Bytes())), pki().ids["server"]))
	refusal := must(server.Refuse(must(server.ReadRequest(must(client.Request(nil)).Bytes()))))
	for name, m := range map[string]struct {
		b    []byte
		read func([]byte) error
	}{
		"request":       {r.Bytes(), func(b []byte) error { _, err := parseRequest(b, attestext.RoleClient); return err }},
		"authenticator": {a, func(b []byte) error { _, err := parseAuthenticator(b, attestext.RoleServer); return err }},
		"refusal":       {refusal, func(b []byte) error { _, err := parseAuthenticator(b, attestext.RoleServer); return err }},
	} {
		if err := m.read(m.b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := range m.b {
			if m.read(m.b[:n]) == nil {
				t.Errorf("%s: accepted with %d of %d bytes", name, n, len(m.b))
			}
		}
		if err := m.read(append(bytes.Clone(m.b), 0)); !errors.Is(err, ErrDecode) {
			t.Errorf("%s: a trailing byte: %v", name, err)
		}
	}
	long := must(message(typeFinished, zeros(maxFinished)))
	if _, err := parseAuthenticator(long, attestext.RoleServer); !errors.Is(err, ErrDecode) {
		t.Errorf("a long Finished: %v", err)
	}
}

func TestSessionNeedsATLS13Exporter(t *testing.T) {
	for _, suite := range []uint16{0x1301, 0x1303} {
		if h, err := SuiteHash(suite); err != nil || h != crypto.SHA256 {
			t.Errorf("%#x: %v, %v", suite, h, err)
		}
	}
	if h, err := SuiteHash(0x1302); err != nil || h != crypto.SHA384 {
		t.Errorf("0x1302: %v, %v", h, err)
	}
	if _, err := SuiteHash(0xc02f); !errors.Is(err, ErrUsage) {
		t.Errorf("a suite of TLS 1.2: %v", err)
	}
	fails := errors.New("extended master secret was not negotiated")
	for name, e := range map[string]func(string, []byte, int) ([]byte, error){
		"none":  nil,
		"fails": func(string, []byte, int) ([]byte, error) { return nil, fails },
		"short": func(_ string, _ []byte, n int) ([]byte, error) { return make([]byte, n-1), nil },
	} {
		if _, err := NewSession(attestext.RoleClient, crypto.SHA256, e); !errors.Is(err, ErrUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewSession(3, crypto.SHA256, exporter("c")); !errors.Is(err, ErrUsage) {
		t.Error("an unknown role is accepted")
	}
	if _, err := NewSession(attestext.RoleClient, crypto.SHA1, exporter("c")); !errors.Is(err, ErrUsage) {
		t.Error("SHA-1 is accepted")
	}
}

func TestKeysAreBounded(t *testing.T) {
	for bits, want := range map[uint]bool{1024: false, 2047: false, 2048: true, 8192: true, 8193: false} {
		pub := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537}
		if _, ok := schemeHash(PSSWithSHA256, pub); ok != want {
			t.Errorf("RSA with %d bits: %v", bits, ok)
		}
	}
	if _, ok := schemeHash(ECDSAWithP256AndSHA256, pki().ids["p384"].Key.Public()); ok {
		t.Error("a key on P-384 goes with the scheme of P-256")
	}
}

func TestContextsAreBounded(t *testing.T) {
	client, _ := sessions(t, "c", crypto.SHA256)
	for i := range maxContexts {
		client.contexts[[32]byte{byte(i), byte(i >> 8), byte(i >> 16), 1}] = true
	}
	if _, err := client.Request(nil); !errors.Is(err, ErrUsage) {
		t.Errorf("context %d: %v", maxContexts+1, err)
	}
}

func FuzzReadRequest(f *testing.F) {
	client, server := sessions(f, "c", crypto.SHA256)
	f.Add(must(client.Request(&RequestOptions{ServerName: "server.example", CertificateAuthorities: [][]byte{{1}}})).Bytes())
	f.Add(must(server.Request(&RequestOptions{Extensions: []Extension{{Type: ExtensionCMWAttestation}}})).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		for _, from := range []attestext.Role{attestext.RoleClient, attestext.RoleServer} {
			m, err := parseRequest(b, from)
			if err != nil {
				continue
			}
			if again, err := m.marshal(from); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x was read as %x, %v", b, again, err)
			}
			if c, err := Context(b); err != nil || !bytes.Equal(c, m.context) {
				t.Errorf("context %x, %v", c, err)
			}
		}
	})
}

func FuzzValidate(f *testing.F) {
	client, server := sessions(f, "c", crypto.SHA256)
	o := &RequestOptions{Extensions: []Extension{{Type: ExtensionCMWAttestation}}}
	r := must(client.Request(o))
	id := pki().ids["server"]
	id.Extensions = []Extension{{ExtensionCMWAttestation, []byte{0, 1, 'x'}}}
	f.Add(must(server.Authenticate(must(server.ReadRequest(r.Bytes())), id)))
	f.Add(must(server.Refuse(must(server.ReadRequest(must(client.Request(o)).Bytes())))))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		m, err := parseAuthenticator(b, attestext.RoleServer)
		if err != nil {
			return
		}
		if !m.empty {
			if again := must(m.certificate.marshal()); !bytes.Equal(again, m.certificate.raw) {
				t.Errorf("Certificate was read as %x", again)
			}
			if again := must(m.verify.marshal()); !bytes.Equal(again, m.verify.raw) {
				t.Errorf("CertificateVerify was read as %x", again)
			}
		}
		// Keys are random, so that nothing made up can be accepted.
		client, _ := sessions(t, rand.Text(), crypto.SHA256)
		r := must(client.Request(o))
		if _, err := client.Validate(r, b, accept); err == nil || errors.Is(err, ErrRefused) {
			t.Errorf("%x was accepted: %v", b, err)
		}
	})
}

// zeros returns a body of n zeros.
func zeros(n int) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) { b.AddBytes(make([]byte, n)) }
}
