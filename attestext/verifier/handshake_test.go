package verifier_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/tls"
)

// Here everything but the hardware is real: TDX quotes of a software TEE, verified
// by go-tdx-guest, inside of handshakes over TCP.

// handshakePKI is a CA with a server and a client certificate.
var handshakePKI = sync.OnceValue(func() (p struct {
	roots          *x509.CertPool
	server, client tls.Certificate
}) {
	issue := func(serial int64, name string, usage x509.ExtKeyUsage, parent *x509.Certificate, signer crypto.Signer) (*x509.Certificate, crypto.Signer) {
		k := key(name)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			NotBefore: testTime.Add(-time.Hour), NotAfter: testTime.Add(time.Hour), BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		}
		if parent == nil {
			template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
			parent, signer = template, k
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, k.Public(), signer)
		if err != nil {
			panic(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		return cert, k
	}
	ca, caKey := issue(1, "test CA", 0, nil, nil)
	p.roots = x509.NewCertPool()
	p.roots.AddCert(ca)
	for _, leaf := range []struct {
		dst    *tls.Certificate
		serial int64
		name   string
		usage  x509.ExtKeyUsage
	}{
		{&p.server, 2, "server.example", x509.ExtKeyUsageServerAuth},
		{&p.client, 3, "client.example", x509.ExtKeyUsageClientAuth},
	} {
		cert, k := issue(leaf.serial, leaf.name, leaf.usage, ca, caKey)
		*leaf.dst = tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: k, Leaf: cert}
	}
	return p
})

// direction is one end that attests and the other that appraises.
type direction struct {
	role     attestext.Role // of the end that attests
	kind     attestext.CredentialKind
	binding  attestext.Binding
	attester attestext.Attester
	verifier attestext.Verifier
}

func (d *direction) String() string {
	return d.role.String() + " attests, " + d.kind.String() + ", " + d.binding.String()
}

// configs returns a client and a server that attest and appraise as directions say.
func configs(directions ...*direction) (client, server *tls.Config) {
	p := handshakePKI()
	now := func() time.Time { return testTime }
	client = &tls.Config{RootCAs: p.roots, ServerName: "server.example", Certificates: []tls.Certificate{p.client}, Time: now, Attestation: &tls.AttestationConfig{}}
	server = &tls.Config{ClientCAs: p.roots, Certificates: []tls.Certificate{p.server}, Time: now, Attestation: &tls.AttestationConfig{}}
	for _, d := range directions {
		attests, appraises := server, client
		if d.role == attestext.RoleClient {
			attests, appraises = client, server
		}
		a, v := attests.Attestation, appraises.Attestation
		a.Attester, a.Credentials, a.Binding = d.attester, []attestext.CredentialKind{d.kind}, d.binding
		v.Verifier, v.PeerCredentials, v.PeerBinding = d.verifier, []attestext.CredentialKind{d.kind}, d.binding
		if d.kind == attestext.AttestationOnly {
			a.AllowAttestationOnly, v.AllowAttestationOnly = true, true
			attests.Certificates = nil // there is none to fall back on
		}
	}
	return client, server
}

// connection is what the two ends of a connection saw.
type connection struct {
	client, server       *tls.Conn
	clientErr, serverErr error
}

// end returns the end of that role and its error.
func (c *connection) end(role attestext.Role) (*tls.Conn, error) {
	if role == attestext.RoleClient {
		return c.client, c.clientErr
	}
	return c.server, c.serverErr
}

func peerOf(role attestext.Role) attestext.Role {
	if role == attestext.RoleClient {
		return attestext.RoleServer
	}
	return attestext.RoleClient
}

// connect runs a handshake over loopback and, where both ends succeed, sends a line
// there and back.
func connect(t testing.TB, client, server *tls.Config) *connection {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	deadline := time.Now().Add(time.Minute)
	dialed.SetDeadline(deadline)
	accepted.SetDeadline(deadline)

	const line = "line\n"
	c := &connection{client: tls.Client(dialed, client), server: tls.Server(accepted, server)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer hangUp(accepted)
		if c.serverErr = c.server.Handshake(); c.serverErr != nil {
			return
		}
		buf := make([]byte, len(line))
		if _, c.serverErr = io.ReadFull(c.server, buf); c.serverErr == nil {
			_, c.serverErr = c.server.Write(buf)
		}
	}()
	if c.clientErr = c.client.Handshake(); c.clientErr == nil {
		if _, c.clientErr = io.WriteString(c.client, line); c.clientErr == nil {
			_, c.clientErr = io.ReadFull(c.client, make([]byte, len(line)))
		}
	}
	hangUp(dialed)
	<-done
	for _, err := range []error{c.clientErr, c.serverErr} {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the connection hangs: client %v, server %v", c.clientErr, c.serverErr)
		}
	}
	return c
}

// attested connects ends that attest and appraise as directions say.
func attested(t testing.TB, directions ...*direction) *connection {
	t.Helper()
	client, server := configs(directions...)
	return connect(t, client, server)
}

// hangUp closes a connection in such a way that the other end reads all that was
// sent, a last alert included.
func hangUp(c net.Conn) {
	c.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, c)
	c.Close()
}

// checkAccepted checks what the two ends say of a direction that was accepted.
func (c *connection) checkAccepted(t *testing.T, d *direction) {
	t.Helper()
	if c.clientErr != nil || c.serverErr != nil {
		t.Fatalf("client: %v; server: %v", c.clientErr, c.serverErr)
	}
	attests, _ := c.end(d.role)
	appraises, _ := c.end(peerOf(d.role))
	state := appraises.ConnectionState()
	r, made := state.PeerAttestation, attests.ConnectionState().LocalAttestation
	if !r.Valid() || made == nil {
		t.Fatalf("valid result: %v, evidence made: %v", r.Valid(), made != nil)
	}
	got, want := r.Challenge(), made.Challenge
	if got.Role != d.role || r.Kind() != d.kind || r.Binding() != d.binding {
		t.Errorf("the result is of %v, %v, %v", got.Role, r.Kind(), r.Binding())
	}
	if !bytes.Equal(got.Nonce, want.Nonce) || !bytes.Equal(got.Binder, want.Binder) {
		t.Error("the ends have different challenges")
	}
	mrtd, _ := softtee.TDXMeasurements()
	if r.Claims()["mrtd"] != hex.EncodeToString(mrtd[:]) || r.Claims()["tcb_status"] != tdx.TCBUpToDate {
		t.Errorf("claims %v", r.Claims())
	}
	if !strings.HasPrefix(r.Machine(), "tdx-platform:") {
		t.Errorf("machine %q", r.Machine())
	}
	only := d.kind == attestext.AttestationOnly
	if only && !bytes.Equal(r.Key(), want.SPKI) {
		t.Error("the result names another key than the one that signed")
	}
	if only != (len(state.PeerCertificates) == 0) || only != (len(state.VerifiedChains) == 0) {
		t.Errorf("%d certificates, %d verified chains", len(state.PeerCertificates), len(state.VerifiedChains))
	}
}

var (
	roles    = []attestext.Role{attestext.RoleServer, attestext.RoleClient}
	kinds    = []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly}
	bindings = []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08}
)

func TestHandshakeCarriesTDXEvidence(t *testing.T) {
	for _, role := range roles {
		for _, kind := range kinds {
			for _, binding := range bindings {
				d := &direction{role, kind, binding, softtee.NewTDX(nil).Attester(), local(t)}
				t.Run(d.String(), func(t *testing.T) {
					c := attested(t, d)
					c.checkAccepted(t, d)
					appraises, _ := c.end(peerOf(role))
					if v := appraises.ConnectionState().PeerAttestation.Verdict(); v != "affirming" {
						t.Errorf("verdict %q", v)
					}
					attests, _ := c.end(role)
					if attests.ConnectionState().PeerAttestation.Valid() {
						t.Error("the end that attests has a result of its own")
					}
				})
			}
		}
	}
}

// The ends attest with TEEs of different makers, in different credentials, under
// different rules: neither direction has to do with the other.
func TestHandshakeCarriesTDXEvidenceBothWays(t *testing.T) {
	theirs := softtee.NewTDX(&softtee.TDXOptions{Seed: "another maker"})
	collateral, err := theirs.Collateral(&softtee.CollateralOptions{Now: testTime})
	if err != nil {
		t.Fatal(err)
	}
	ofServer := local(t)
	ofClient := local(t)
	ofClient.TDXRoots, ofClient.TDXCollateral = theirs.Roots(), collateral
	for _, clientKind := range kinds {
		s := &direction{attestext.RoleServer, attestext.CertAttestation, attestext.BindingHardened, softtee.NewTDX(nil).Attester(), ofServer}
		c := &direction{attestext.RoleClient, clientKind, attestext.BindingDraft08, theirs.Attester(), ofClient}
		t.Run("client attests with "+clientKind.String(), func(t *testing.T) {
			conn := attested(t, s, c)
			conn.checkAccepted(t, s)
			conn.checkAccepted(t, c)
			one, other := conn.client.ConnectionState().PeerAttestation, conn.server.ConnectionState().PeerAttestation
			if one.Machine() == other.Machine() {
				t.Error("both ends are the same machine")
			}
			if bytes.Equal(one.Challenge().Nonce, other.Challenge().Nonce) {
				t.Error("the directions share a nonce")
			}
		})
	}
}

// Without a policy the measurement is not compared, and the verdict says so.
func TestHandshakeWithoutPolicyWarns(t *testing.T) {
	v := local(t)
	v.Policy = nil
	unknown := softtee.NewTDX(&softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.MRTD[0] ^= 1 }})
	d := &direction{attestext.RoleServer, attestext.CertAttestation, attestext.BindingHardened, unknown.Attester(), v}
	c := attested(t, d)
	if c.clientErr != nil {
		t.Fatal(c.clientErr)
	}
	r := c.client.ConnectionState().PeerAttestation
	reasons, _ := r.Claims()["reasons"].([]string)
	if r.Verdict() != "warning" || !slices.ContainsFunc(reasons, func(s string) bool { return strings.Contains(s, "measurement not checked") }) {
		t.Errorf("verdict %q, reasons %q", r.Verdict(), reasons)
	}
}

// The evidence covers a key of the TEE's, which signs the session beside the
// certificate's.
func TestHandshakeCarriesTDXEvidenceOverAnAttestedKey(t *testing.T) {
	for _, role := range roles {
		d := &direction{role, attestext.CertAttestation, attestext.BindingHardened, softtee.NewTDX(nil).Attester(), local(t)}
		t.Run(d.String(), func(t *testing.T) {
			client, server := configs(d)
			attests, appraises := server.Attestation, client.Attestation
			if role == attestext.RoleClient {
				attests, appraises = appraises, attests
			}
			attests.AttestedKey, appraises.PeerAttestedKey = otherTIK, true
			c := connect(t, client, server)
			c.checkAccepted(t, d)
			relying, _ := c.end(peerOf(role))
			if ch := relying.ConnectionState().PeerAttestation.Challenge(); !bytes.Equal(ch.SPKI, spki(otherTIK)) {
				t.Error("the evidence was checked against another key")
			}
		})
	}
}

// modified is an attester that another one's evidence or challenge is changed in.
type modified struct {
	attestext.Attester
	challenge func(*attestext.Challenge)
	evidence  func([]byte) []byte
}

func (m *modified) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	ch := *req.Challenge
	if m.challenge != nil {
		m.challenge(&ch)
	}
	b, err := m.Attester.Attest(ctx, &attestext.AttestRequest{Type: req.Type, Challenge: &ch})
	if err == nil && m.evidence != nil {
		b = m.evidence(b)
	}
	return b, err
}

// checkRefused checks that the relying party ended the handshake, with which alert
// and why, that the other end heard the alert, and that no byte moves afterwards.
func (c *connection) checkRefused(t *testing.T, d *direction, alert tls.AlertError, class error, say string) {
	t.Helper()
	appraises, err := c.end(peerOf(d.role))
	wantClass(t, err, class, say)
	if ae, ok := errors.AsType[*tls.AttestationError](err); !ok || ae.Stage != tls.AttestationStageAppraise || ae.Alert != alert {
		t.Errorf("error %v is not of the appraisal, with alert %d", err, uint8(alert))
	}
	if a, ok := appraises.AlertSent(); !ok || a != alert {
		t.Errorf("alert %d was sent (%v), want %d", uint8(a), ok, uint8(alert))
	}
	attests, _ := c.end(d.role)
	if a, ok := attests.AlertReceived(); !ok || a != alert {
		t.Errorf("the other end heard alert %d (%v), want %d", uint8(a), ok, uint8(alert))
	}
	if appraises.ConnectionState().PeerAttestation.Valid() {
		t.Error("there is a result all the same")
	}
	if n, err := appraises.Write([]byte("x")); n != 0 || err == nil {
		t.Errorf("Write after the refusal: %d, %v", n, err)
	}
	if n, err := appraises.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("Read after the refusal: %d, %v", n, err)
	}
}

// Alerts of RFC 8446, section 6.2.
const (
	badCertificate tls.AlertError = 42
	accessDenied   tls.AlertError = 49
	decodeError    tls.AlertError = 50
	decryptError   tls.AlertError = 51
	internalError  tls.AlertError = 80
)

// mrtdOffset is where MRTD begins in a quote.
const mrtdOffset = 0x30 + 0x88

func TestHandshakeRefusesTDXEvidence(t *testing.T) {
	collateral := func(o softtee.CollateralOptions) func(*verifier.Local) {
		return func(l *verifier.Local) {
			if o.Now.IsZero() {
				o.Now = testTime
			}
			c, err := softtee.NewTDX(nil).Collateral(&o)
			if err != nil {
				t.Fatal(err)
			}
			l.TDXCollateral = c
		}
	}
	for _, tt := range []struct {
		name     string
		tee      softtee.TDXOptions
		evidence func([]byte) []byte
		verifier func(*verifier.Local)
		alert    tls.AlertError
		class    error
		say      string
	}{
		{name: "a quote of another root", tee: softtee.TDXOptions{Seed: "another maker"},
			alert: badCertificate, class: attestext.ErrSignature, say: "verify TDX quote"},
		{name: "a tampered quote", tee: softtee.TDXOptions{Tamper: func(b []byte) []byte { b[mrtdOffset] ^= 1; return b }},
			alert: badCertificate, class: attestext.ErrSignature, say: "verify TDX quote"},
		{name: "a quote by an enclave that is not Intel's", tee: softtee.TDXOptions{ForeignQE: true},
			alert: badCertificate, class: attestext.ErrSignature, say: "verify TDX quote"},
		{name: "a wrapper that is cut short", evidence: func(b []byte) []byte { return b[:len(b)-1] },
			alert: decodeError, class: attestext.ErrMalformed},
		{name: "a quote that is cut short", tee: softtee.TDXOptions{Tamper: func(b []byte) []byte { return b[:len(b)-1] }},
			alert: decodeError, class: attestext.ErrMalformed},
		{name: "a revoked PCK certificate", verifier: collateral(softtee.CollateralOptions{RevokePCK: true}),
			alert: badCertificate, class: attestext.ErrSignature, say: "revoked"},
		{name: "collateral that has expired", verifier: collateral(softtee.CollateralOptions{Now: testTime.Add(-48 * time.Hour), NextUpdate: testTime.Add(-time.Hour)}),
			alert: accessDenied, class: attestext.ErrPolicy, say: "expired"},
		{name: "a TCB that is out of date", verifier: collateral(softtee.CollateralOptions{TCBStatus: "OutOfDate"}),
			alert: accessDenied, class: attestext.ErrPolicy, say: "tcb_status: got \"OutOfDate\""},
		{name: "no collateral", verifier: func(l *verifier.Local) { l.TDXCollateral = nil },
			alert: internalError, class: attestext.ErrUnavailable, say: "no collateral"},
		{name: "collateral of another family of platforms", verifier: collateral(softtee.CollateralOptions{FMSPC: &[6]byte{1}}),
			alert: internalError, class: attestext.ErrUnavailable, say: "not for this one"},
		{name: "a TD under debug", tee: softtee.TDXOptions{Debug: true},
			alert: accessDenied, class: attestext.ErrPolicy, say: "debug: got a TD under debug"},
		{name: "an MRTD that is not allowed", tee: softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.MRTD[0] ^= 1 }},
			alert: accessDenied, class: attestext.ErrPolicy, say: "mrtd: got "},
		{name: "an RTMR that is not allowed", tee: softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.RTMRs[2][0] ^= 1 }},
			alert: accessDenied, class: attestext.ErrPolicy, say: "rtmr2: got "},
		{name: "a machine that is not allowed", verifier: func(l *verifier.Local) { l.Policy.TDX.PlatformInstanceIDs = []policy.InstanceID{{1}} },
			alert: accessDenied, class: attestext.ErrPolicy, say: "platform_instance_ids: got "},
	} {
		for _, role := range roles {
			for _, kind := range kinds {
				v := local(t)
				if tt.verifier != nil {
					tt.verifier(v)
				}
				a := &modified{Attester: softtee.NewTDX(&tt.tee).Attester(), evidence: tt.evidence}
				d := &direction{role, kind, attestext.BindingHardened, a, v}
				t.Run(tt.name+", "+d.String(), func(t *testing.T) {
					attested(t, d).checkRefused(t, d, tt.alert, tt.class, tt.say)
				})
			}
		}
	}
}

// A genuine quote for another purpose than this handshake.
func TestHandshakeRefusesTDXEvidenceThatIsNotBoundToIt(t *testing.T) {
	otherRole := func(c *attestext.Challenge) { c.Role = peerOf(c.Role) }
	for _, role := range roles {
		for _, tt := range []struct {
			name      string
			kind      attestext.CredentialKind
			challenge func(*attestext.Challenge)
			say       string
		}{
			{"evidence for another key", attestext.CertAttestation, func(c *attestext.Challenge) { c.SPKI = spki(otherTIK) },
				"of another session or another key"},
			{"evidence of the other role", attestext.CertAttestation, otherRole,
				"evidence was made for the " + peerOf(role).String() + " role"},
			{"evidence over the nonce", attestext.CertAttestation, func(c *attestext.Challenge) { c.Binding, c.Binder = attestext.BindingDraft08, c.Nonce },
				"covers the nonce"},
			{"a token for another session", attestext.AttestationOnly, func(c *attestext.Challenge) { c.Binder = binder },
				"key attestation is of another session"},
		} {
			a := &modified{Attester: softtee.NewTDX(nil).Attester(), challenge: tt.challenge}
			d := &direction{role, tt.kind, attestext.BindingHardened, a, local(t)}
			t.Run(tt.name+", "+d.String(), func(t *testing.T) {
				attested(t, d).checkRefused(t, d, badCertificate, attestext.ErrBinding, tt.say)
			})
		}
	}
}

// Evidence that was good on one connection is good for nothing on the next.
func TestHandshakeRefusesReplayedTDXEvidence(t *testing.T) {
	for _, role := range roles {
		for _, kind := range kinds {
			for _, binding := range bindings {
				honest := softtee.NewTDX(nil).Attester()
				d := &direction{role, kind, binding, honest, local(t)}
				t.Run(d.String(), func(t *testing.T) {
					first := attested(t, d)
					first.checkAccepted(t, d)
					appraised, _ := first.end(peerOf(role))
					recorded := appraised.ConnectionState().PeerAttestation.Evidence().CMW
					d.attester = &modified{Attester: honest, evidence: func([]byte) []byte { return recorded }}
					attested(t, d).checkRefused(t, d, badCertificate, attestext.ErrBinding, "of another session")
				})
			}
		}
	}
}

// The draft cannot negotiate the rule: a mismatch is found out when the evidence is
// appraised, and the local error names both.
func TestHandshakeRefusesTheOtherBindingRule(t *testing.T) {
	for _, role := range roles {
		for _, kind := range kinds {
			for _, binding := range bindings {
				d := &direction{role, kind, binding, softtee.NewTDX(nil).Attester(), local(t)}
				client, server := configs(d)
				appraises, other := client.Attestation, attestext.BindingDraft08
				if role == attestext.RoleClient {
					appraises = server.Attestation
				}
				if binding == attestext.BindingDraft08 {
					other = attestext.BindingHardened
				}
				appraises.PeerBinding = other
				t.Run(d.String(), func(t *testing.T) {
					c := connect(t, client, server)
					c.checkRefused(t, d, badCertificate, attestext.ErrBinding, "follows the "+binding.String()+" rule")
					_, err := c.end(peerOf(role))
					if say := "this side is configured for " + other.String(); !strings.Contains(err.Error(), say) {
						t.Errorf("error %q does not say %q", err, say)
					}
				})
			}
		}
	}
}

// In attestation-only mode the evidence names the key, and the end that sends it has
// to sign with that key: another end's evidence is of no use. No attestation is at
// fault, so the alert is that of any CertificateVerify that does not verify.
func TestHandshakeRefusesAttestedKeyThatDidNotSign(t *testing.T) {
	for _, role := range roles {
		a := &modified{Attester: softtee.NewTDX(nil).Attester(), challenge: func(c *attestext.Challenge) { c.SPKI = spki(otherTIK) }}
		d := &direction{role, attestext.AttestationOnly, attestext.BindingHardened, a, local(t)}
		t.Run(d.String(), func(t *testing.T) {
			c := attested(t, d)
			appraises, err := c.end(peerOf(role))
			if err == nil || !strings.Contains(err.Error(), "invalid signature by the "+role.String()) {
				t.Errorf("error %v", err)
			}
			if alert, ok := appraises.AlertSent(); !ok || alert != decryptError {
				t.Errorf("alert %d was sent (%v)", uint8(alert), ok)
			}
		})
	}
}

// Under draft-08 the evidence covers the binder and no key: this is the hole that
// docs/SECURITY.md tells of, and the hardened rule closes.
func TestDraft08AcceptsEvidenceForAnotherKey(t *testing.T) {
	for _, role := range roles {
		a := &modified{Attester: softtee.NewTDX(nil).Attester(), challenge: func(c *attestext.Challenge) { c.SPKI = spki(otherTIK) }}
		d := &direction{role, attestext.CertAttestation, attestext.BindingDraft08, a, local(t)}
		attested(t, d).checkAccepted(t, d)
	}
}
