package tls

import (
	"bytes"
	"context"
	"crypto"
	"net"
	"reflect"
	"slices"
	"testing"

	"github.com/attestedtls/atls/attestext"
)

// The requirements are those of attestation_testdata/requirements.txt, which quotes
// the draft.

// offered is what a ClientHello offers.
type offered struct {
	request, proposal   []attestext.EvidenceType
	results, passports  []attestext.VerifierIdentity // results_request and results_proposal
	nonce               int                          // bytes
	hasRequest, hasProp bool
	hasRes, hasPass     bool
}

// readOffers reads the offers out of the bytes of a ClientHello.
func readOffers(t *testing.T, msg []byte) (o offered) {
	t.Helper()
	cp := testCodePoints
	for _, e := range helloExtensions(msg, negotiationExtensions(cp)) {
		var err error
		var ev *attestext.EvidenceHello
		var res *attestext.ResultsHello
		switch e.typ {
		case cp.EvidenceRequest:
			if ev, err = attestext.ParseEvidenceRequestHello(e.data); err == nil {
				o.hasRequest, o.request, o.nonce = true, ev.Types, len(ev.Nonce)
			}
		case cp.EvidenceProposal:
			if ev, err = attestext.ParseEvidenceProposalHello(e.data); err == nil {
				o.hasProp, o.proposal = true, ev.Types
			}
		case cp.ResultsRequest:
			if res, err = attestext.ParseResultsHello(e.data); err == nil {
				o.hasRes, o.results = true, res.Verifiers
			}
		case cp.ResultsProposal:
			if res, err = attestext.ParseResultsHello(e.data); err == nil {
				o.hasPass, o.passports = true, res.Verifiers
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// kindFormats is an Attester and a Verifier of other formats for each kind of credential.
type kindFormats struct {
	stubTEE
	cert, only []attestext.EvidenceFormat
}

func (k *kindFormats) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	if kind == attestext.AttestationOnly {
		return k.only
	}
	return k.cert
}

// TestClientOffersWhatItIsConfiguredFor, in its order of preference, and leaves out
// an extension whose list would be empty.
//
// Requirements: 8.1.1-1, 8.1.1-2, 8.1.1-3, 8.1.1-4, 8.1.1-5, 8.1.1-6.
// Requirements: 8.2.1-1, 8.2.1-2, 8.2.1-3, 8.2.1-4, 8.2.1-5, 8.2.1-6.
func TestClientOffersWhatItIsConfiguredFor(t *testing.T) {
	third := attestext.EvidenceFormat{ContentFormat: 65002}
	tee := &kindFormats{cert: []attestext.EvidenceFormat{otherFormat, stubFormat}, only: []attestext.EvidenceFormat{third}}
	certOnly := &kindFormats{cert: []attestext.EvidenceFormat{stubFormat}}
	none := &kindFormats{}
	cert := func(f ...attestext.EvidenceFormat) (types []attestext.EvidenceType) {
		for _, f := range f {
			types = append(types, attestext.EvidenceType{Kind: attestext.CertAttestation, Format: f})
		}
		return types
	}
	only := attestext.EvidenceType{Kind: attestext.AttestationOnly, Format: third}
	both := []attestext.CredentialKind{attestext.AttestationOnly, attestext.CertAttestation}
	two := []attestext.VerifierIdentity{"w", "v"}
	nobody := &stubResults{verifiers: []attestext.VerifierIdentity{}}
	for _, tt := range []struct {
		name string
		conf AttestationConfig
		want offered
	}{
		{"nothing", AttestationConfig{}, offered{}},
		{"a client that attests", AttestationConfig{Attester: tee}, offered{hasProp: true, proposal: cert(otherFormat, stubFormat)}},
		{"with one type", AttestationConfig{Attester: certOnly}, offered{hasProp: true, proposal: cert(stubFormat)}},
		{"with either credential, attestation-only first", AttestationConfig{Attester: tee, Credentials: both, AllowAttestationOnly: true},
			offered{hasProp: true, proposal: append([]attestext.EvidenceType{only}, cert(otherFormat, stubFormat)...)}},
		{"with a credential that its attester does not serve", AttestationConfig{Attester: certOnly, Credentials: onlyKind, AllowAttestationOnly: true}, offered{}},
		{"with an attester that makes nothing", AttestationConfig{Attester: none}, offered{}},
		{"a client that relies", AttestationConfig{Verifier: tee}, offered{hasRequest: true, request: cert(otherFormat, stubFormat), nonce: 32}},
		{"on either credential", AttestationConfig{Verifier: tee, PeerCredentials: both, AllowAttestationOnly: true},
			offered{hasRequest: true, request: append([]attestext.EvidenceType{only}, cert(otherFormat, stubFormat)...), nonce: 32}},
		{"on what its verifier does not read", AttestationConfig{Verifier: none, Peer: RequestAttestation}, offered{}},
		{"a client that holds results", AttestationConfig{Results: &stubResults{verifiers: two}}, offered{hasPass: true, passports: two}},
		{"and none that are valid now", AttestationConfig{Results: nobody}, offered{}},
		{"a client that trusts verifiers", AttestationConfig{ResultsVerifier: &stubResults{verifiers: two}}, offered{hasRes: true, results: two}},
		{"and nobody now", AttestationConfig{ResultsVerifier: nobody, Peer: RequestAttestation}, offered{}},
		{"everything", AttestationConfig{Attester: tee, Verifier: certOnly, Results: &stubResults{}, ResultsVerifier: &stubResults{verifiers: two}, NonceSize: 8},
			offered{hasProp: true, proposal: cert(otherFormat, stubFormat), hasRequest: true, request: cert(stubFormat), nonce: 8,
				hasPass: true, passports: []attestext.VerifierIdentity{"verifier.example"}, hasRes: true, results: two}},
	} {
		client, _ := attestConfigs()
		client.Attestation = &tt.conf
		got := readOffers(t, sentClientHello(t, client))
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: offers %+v, want %+v", tt.name, got, tt.want)
		}
	}
	// Below TLS 1.3 there is nobody to offer it to.
	client, _ := attesting()
	client.Attestation.Peer, client.MaxVersion = RequestAttestation, VersionTLS12
	if got := readOffers(t, sentClientHello(t, client)); !reflect.DeepEqual(got, offered{}) {
		t.Errorf("TLS 1.2: offers %+v", got)
	}
}

// sentClientHello returns the ClientHello that a client sends.
func sentClientHello(t *testing.T, conf *Config) []byte {
	t.Helper()
	c, s := net.Pipe()
	defer s.Close()
	var hello []byte
	tap := &editedConn{Conn: c, edit: editRecord(func(msg []byte) []byte {
		hello = bytes.Clone(msg)
		c.Close() // that is all there is to see
		return msg
	})}
	if err := Client(tap, conf).Handshake(); err == nil || hello == nil {
		t.Fatalf("no ClientHello: %v", err)
	}
	return hello
}

// TestServerAnswersWithOneOfWhatWasOffered, and with nothing where it has nothing to
// say; where it asks the client to attest, it asks for a certificate.
//
// Requirements: 8.1.2-1, 8.1.2-3, 8.1.2-4, 8.1.2-5, 8.1.2-6, 8.1.2-7, 8.1.2-8.
// Requirements: 8.2.2-1, 8.2.2-3, 8.2.2-4, 8.2.2-5, 8.2.2-6, 8.2.2-7, 8.2.2-8.
func TestServerAnswersWithOneOfWhatWasOffered(t *testing.T) {
	cp := testCodePoints
	either := func() *stubTEE {
		return &stubTEE{formats: []attestext.EvidenceFormat{stubFormat, otherFormat}}
	}
	other := &stubTEE{formats: []attestext.EvidenceFormat{{ContentFormat: 65002}}}
	vw := &stubResults{verifiers: []attestext.VerifierIdentity{"v", "w"}}
	w, x := &stubResults{verifiers: []attestext.VerifierIdentity{"w"}}, &stubResults{verifiers: []attestext.VerifierIdentity{"x"}}
	stubType := append([]byte{1, 1, 0, 18}, "application/x-stub"...)
	otherType := []byte{1, 0, 0xfd, 0xe9}
	verifierW := []byte{0, 1, 'w'}
	type answers map[uint16][]byte // without a nonce
	all := func() *AttestationConfig {
		return &AttestationConfig{Attester: either(), Verifier: either(), Results: vw, ResultsVerifier: vw, Peer: RequestAttestation}
	}
	for _, tt := range []struct {
		name    string
		server  *AttestationConfig
		want    answers
		request bool // CertificateRequest
	}{
		{"a server without attestation", nil, answers{}, false},
		{"a server that does neither", &AttestationConfig{}, answers{}, false},
		{"a server that attests", &AttestationConfig{Attester: either()}, answers{cp.EvidenceRequest: stubType}, false},
		{"in another order", &AttestationConfig{Attester: &stubTEE{formats: []attestext.EvidenceFormat{otherFormat, stubFormat}}}, answers{cp.EvidenceRequest: otherType}, false},
		{"a server that relies", &AttestationConfig{Verifier: either()}, answers{cp.EvidenceProposal: stubType}, true},
		{"on what it is not offered, if it can be had", &AttestationConfig{Verifier: other, Peer: RequestAttestation}, answers{}, false},
		{"a server that holds results", &AttestationConfig{Results: w}, answers{cp.ResultsRequest: verifierW}, false},
		{"a server that trusts a verifier", &AttestationConfig{ResultsVerifier: w}, answers{cp.ResultsProposal: verifierW}, true},
		{"that the client does not know, if it can be had", &AttestationConfig{ResultsVerifier: x, Peer: RequestAttestation}, answers{}, false},
		{"a server that attests and relies", &AttestationConfig{Attester: either(), Verifier: either()},
			answers{cp.EvidenceRequest: stubType, cp.EvidenceProposal: stubType}, true},
		{"a server that does all", all(), answers{cp.EvidenceRequest: stubType, cp.EvidenceProposal: stubType}, true},
		{"and prefers results", &AttestationConfig{Attester: either(), Verifier: either(), Results: w, ResultsVerifier: w, PreferResults: true},
			answers{cp.ResultsRequest: verifierW, cp.ResultsProposal: verifierW}, true},
	} {
		client, server := attestConfigs()
		client.Attestation, server.Attestation = all(), tt.server
		asked := false
		client.GetClientCertificate = func(*CertificateRequestInfo) (*Certificate, error) {
			asked = true
			return &client.Certificates[0], nil
		}
		got := answers{}
		c, s := localPipe(t)
		ends := &attestEnds{client: Client(c, client), server: Server(s, server)}
		(&misbehavingPeer{encryptedExtensions: func(_ *Conn, sent []attestExtension) []attestExtension {
			for _, e := range sent {
				if slices.Contains(negotiationExtensions(cp), e.typ) {
					got[e.typ] = e.data
				}
			}
			return sent
		}}).server(ends.server)
		ends.run(t, c, s)
		if ends.clientErr != nil || ends.serverErr != nil {
			t.Errorf("%s: client %v, server %v", tt.name, ends.clientErr, ends.serverErr)
		}
		if b, ok := got[cp.EvidenceProposal]; ok { // the nonce is random
			sel, err := attestext.ParseEvidenceProposalSelection(b)
			if err != nil || len(sel.Nonce) != 32 {
				t.Errorf("%s: answer %x: %v", tt.name, b, err)
			}
			got[cp.EvidenceProposal] = b[:len(b)-33]
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: answers %x, want %x", tt.name, got, tt.want)
		}
		if asked != tt.request {
			t.Errorf("%s: CertificateRequest: %v", tt.name, asked)
		}
	}
}

// TestBinderIsAsLongAsTheNonce, in each direction, and never cut.
//
// Requirements: 6-2, 6.2.1-2, 6.2.1-4.
func TestBinderIsAsLongAsTheNonce(t *testing.T) {
	for _, n := range []int{8, 9, 31, 32, 33, 48, 63, 64} {
		for _, binding := range productBindings {
			client, server := attestConfigs()
			client.Attestation = &AttestationConfig{Attester: &stubTEE{}, Verifier: &stubTEE{}, Binding: binding, PeerBinding: binding, NonceSize: n}
			server.Attestation = &AttestationConfig{Attester: &stubTEE{}, Verifier: &stubTEE{}, Binding: binding, PeerBinding: binding, NonceSize: 72 - n}
			ends := attestHandshake(t, client, server)
			ends.mustSucceed(t)
			ofServer, ofClient := ends.client.ConnectionState().PeerAttestation.Challenge(), ends.server.ConnectionState().PeerAttestation.Challenge()
			if len(ofServer.Nonce) != n || len(ofServer.Binder) != n || len(ofClient.Nonce) != 72-n || len(ofClient.Binder) != 72-n {
				t.Errorf("NonceSize %d: server's nonce of %d bytes and binder of %d, client's %d and %d", n,
					len(ofServer.Nonce), len(ofServer.Binder), len(ofClient.Nonce), len(ofClient.Binder))
			}
		}
	}
}

// TestAttesterIsGivenNoPrivateKey: what an attester is called with holds public
// values only, as deep as it goes.
//
// Requirements: 4-4.
func TestAttesterIsGivenNoPrivateKey(t *testing.T) {
	client, server := attesting()
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Pointer, reflect.Interface:
			if _, ok := v.Interface().(crypto.Signer); ok {
				t.Errorf("%s signs", path)
			}
			if !v.IsNil() {
				walk(v.Elem(), path)
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if !v.Type().Field(i).IsExported() {
					t.Errorf("%s.%s is hidden", path, v.Type().Field(i).Name)
					continue
				}
				walk(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		case reflect.Func, reflect.Chan, reflect.Map, reflect.UnsafePointer:
			t.Errorf("%s is a %v", path, v.Kind())
		}
	}
	called := false
	server.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
		called = true
		walk(reflect.ValueOf(req), "request")
		if !bytes.Equal(req.Challenge.SPKI, attestPKI().server.Leaf.RawSubjectPublicKeyInfo) {
			t.Error("the key is not that of the certificate")
		}
		return (&stubTEE{}).honest(req.Challenge)
	}}
	attestHandshake(t, client, server).mustSucceed(t)
	if !called {
		t.Error("the attester was not called")
	}
}
