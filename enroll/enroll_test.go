package enroll_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/enroll"
	"github.com/attestedtls/atls/internal/testpki"
	"github.com/attestedtls/atls/tls"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issuer returns an authority's certificate, which signs itself.
func issuer(t testing.TB) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key := newKey(t)
	now := time.Now()
	return testpki.SelfSigned(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test issuer"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(240 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
	}, key), key
}

func leafOf(t testing.TB, ca *x509.Certificate, key crypto.Signer) tls.Certificate {
	t.Helper()
	own := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{"ca.example"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, own.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own}
}

func pool(cert *x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(cert)
	return p
}

func local(t testing.TB) *verifier.Local {
	t.Helper()
	collateral, err := softtee.Collateral(time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Parse(softtee.Policy())
	if err != nil {
		t.Fatal(err)
	}
	return &verifier.Local{TDXRoots: softtee.Roots(), TDXCollateral: collateral, Policy: p}
}

func mrtd() string {
	m, _ := softtee.TDXMeasurements()
	return hex.EncodeToString(m[:])
}

func parseRules(t testing.TB, s string) *enroll.Rules {
	t.Helper()
	r, err := enroll.ParseRules([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A served is what the authority said of one machine.
type served struct {
	entry *enroll.Entry
	err   error
}

// A bench is an authority that runs, and a client of it.
type bench struct {
	authority *enroll.Authority
	server    *enroll.Server
	client    *enroll.Client
	reports   chan served
}

// newBench starts an authority that change may change before.
func newBench(t *testing.T, change func(*bench)) *bench {
	t.Helper()
	pki, pkiKey := issuer(t)
	ca, key := issuer(t)
	b := &bench{
		authority: &enroll.Authority{Certificate: ca, Key: key, Rules: parseRules(t, fmt.Sprintf(`{"rules": [{"names": ["model.example", "other.example"], "claims": {"mrtd": [%q]}}]}`, mrtd()))},
		reports:   make(chan served, 16),
	}
	b.server = &enroll.Server{
		Authority: b.authority, Certificates: []tls.Certificate{leafOf(t, pki, pkiKey)}, Verifier: local(t),
		Report: func(_ net.Addr, e *enroll.Entry, err error) { b.reports <- served{e, err} },
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.client = &enroll.Client{
		Addr: l.Addr().String(), TLS: &tls.Config{RootCAs: pool(pki), ServerName: "ca.example"},
		Attester: softtee.NewTDX(nil).Attester(), Names: []string{"model.example"}, Issuers: pool(ca),
	}
	if change != nil {
		change(b)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return b
}

func TestMachineGetsCertificateForWhatItRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log, err := enroll.OpenLog(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	b := newBench(t, func(b *bench) { b.authority.Log, b.authority.CRLURL = log, "http://ca.example/crl" })
	for _, key := range []crypto.Signer{nil, newKey(t)} {
		b.client.Key = key
		cert, err := b.client.Enroll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := <-b.reports
		leaf := cert.Leaf
		if key != nil && cert.PrivateKey != key {
			t.Error("it is for another key")
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool(b.authority.Certificate), DNSName: "model.example"}); err != nil {
			t.Error(err)
		}
		if life := time.Until(leaf.NotAfter); life > enroll.DefaultLifetime || life < enroll.DefaultLifetime-time.Minute {
			t.Errorf("valid for %v", life)
		}
		if len(leaf.CRLDistributionPoints) != 1 || leaf.IsCA {
			t.Errorf("it says CRLs %v, CA %v", leaf.CRLDistributionPoints, leaf.IsCA)
		}
		// What was issued is the last line of the log, with the verdict.
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		var e enroll.Entry
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil {
			t.Fatal(err)
		}
		if got.err != nil || !e.Issued || e.Serial != leaf.SerialNumber.Text(16) || e.Verdict != "affirming" || !strings.HasPrefix(e.Machine, "tdx-platform:") || e.Claims["mrtd"] != mrtd() || len(e.Key) != 64 || len(e.Evidence) != 64 || e.Remote == "" {
			t.Errorf("%v; the log says %s", got.err, lines[len(lines)-1])
		}
	}
}

// TestRefusals: each refusal in its own words, on both sides.
func TestRefusals(t *testing.T) {
	replayed := func() attestext.Attester {
		// Evidence that was good on a connection before this one.
		return &replay{Attester: softtee.NewTDX(nil).Attester()}
	}
	machine := ""
	for _, tt := range []struct {
		name   string
		change func(*bench)
		again  bool // the second time is the one that counts
		code   enroll.Code
		client []string // what the client's error says
		server string   // what the authority's says
	}{
		{"name", func(b *bench) { b.client.Names = []string{"model.example", "bank.example"} }, false, enroll.CodeName, []string{`no rule allows the name "bank.example"`}, `no rule allows the name "bank.example"`},
		{"name of another measurement", func(b *bench) {
			b.authority.Rules = parseRules(t, `{"rules": [{"names": ["model.example"], "claims": {"mrtd": ["00"]}}]}`)
		}, false, enroll.CodeName, []string{"its claim mrtd is not one that the rule allows"}, "its claim mrtd"},
		{"name of another machine", func(b *bench) {
			b.authority.Rules = parseRules(t, `{"rules": [{"names": ["model.example"], "machines": ["tdx-platform:00"]}]}`)
		}, false, enroll.CodeName, []string{"the rule names other machines"}, "other machines"},
		{"no measurement was compared", func(b *bench) { b.server.Verifier.(*verifier.Local).Policy = nil }, false, enroll.CodeName, []string{`the verdict is "warning"`}, `the verdict is "warning"`},
		{"replayed", func(b *bench) { b.client.Attester = replayed() }, true, enroll.CodeReplayed, []string{"not made for this connection"}, "not bound to this handshake"},
		{"stale", func(b *bench) { b.client.Attester = undated(t) }, false, enroll.CodeStale, []string{"is stale"}, "does not show when it was made"},
		{"not genuine", func(b *bench) {
			b.client.Attester = softtee.NewTDX(&softtee.TDXOptions{Seed: "other"}).Attester()
		}, false, enroll.CodeNotGenuine, []string{"is not genuine"}, "signature does not verify"},
		{"another key signs the session", func(b *bench) { b.client.Attester = &forKey{b.client.Attester, newKey(t)} }, false, enroll.CodeKey, []string{"not signed by the key that the evidence covers"}, "invalid signature"},
		{"malformed", func(b *bench) { b.client.Attester = &sends{b.client.Attester, []byte{0xff}} }, false, enroll.CodeMalformed, []string{"cannot read the evidence"}, "malformed"},
		{"verifier fails", func(b *bench) { b.server.Verifier.(*verifier.Local).TDXCollateral = nil }, false, enroll.CodeUnavailable, []string{"cannot appraise"}, "collateral"},
		{"type", func(b *bench) { b.client.Attester = &strange{b.client.Attester} }, false, enroll.CodeType, []string{"no evidence of this type"}, "application/x-strange"},
		{"policy", func(b *bench) {
			b.client.Attester = softtee.NewTDX(&softtee.TDXOptions{Debug: true}).Attester()
		}, false, enroll.CodePolicy, []string{"appraisal policy"}, "refused by policy"},
		{"revoked machine", func(b *bench) {
			b.authority.Revocations = func() (*enroll.Revocations, error) { return &enroll.Revocations{Machines: []string{machine}}, nil }
		}, false, enroll.CodeRevoked, []string{"revoked is the machine tdx-platform:"}, "revoked is the machine tdx-platform:"},
		{"revoked measurement", func(b *bench) {
			b.authority.Revocations = func() (*enroll.Revocations, error) {
				return enroll.ParseRevocations(fmt.Appendf(nil, `{"claims": {"mrtd": [%q]}}`, mrtd()))
			}
		}, false, enroll.CodeRevoked, []string{"what it runs: mrtd is " + mrtd()}, "what it runs"},
		{"revocations cannot be read", func(b *bench) {
			b.authority.Revocations = func() (*enroll.Revocations, error) { return enroll.ParseRevocations([]byte("{")) }
		}, false, enroll.CodeUnavailable, []string{"cannot issue certificates at the moment"}, "revocations: unexpected EOF"},
		{"log cannot be written", func(b *bench) {
			log, err := enroll.OpenLog(filepath.Join(t.TempDir(), "log"), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			log.Close()
			b.authority.Log = log
		}, false, enroll.CodeUnavailable, []string{"cannot issue certificates at the moment"}, "the log: write"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			if machine == "" {
				if _, err := b.client.Enroll(t.Context()); err != nil {
					t.Fatal(err)
				}
				machine = (<-b.reports).entry.Machine
			}
			b = newBench(t, tt.change)
			if tt.again {
				if _, err := b.client.Enroll(t.Context()); err != nil {
					t.Fatal(err)
				}
				<-b.reports
			}
			_, err := b.client.Enroll(t.Context())
			checkRefused(t, err, tt.code, tt.client...)
			got := <-b.reports
			if got.err == nil || !strings.Contains(got.err.Error(), tt.server) {
				t.Errorf("the authority says %v", got.err)
			}
			if got.entry != nil && (got.entry.Issued || got.entry.Code != tt.code) {
				t.Errorf("its log says %+v", got.entry)
			}
		})
	}
}

// undated returns an attester whose quote was made once and does not say when.
func undated(t *testing.T) attestext.Attester {
	t.Helper()
	k, err := attester.NewKeyTier(softtee.NewTDX(nil), &attester.KeyTierOptions{MaxAge: time.Hour})
	if err == nil {
		err = k.Renew(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sends attests by the same bytes each time.
type sends struct {
	attestext.Attester
	cmw []byte
}

func (s *sends) Attest(context.Context, *attestext.AttestRequest) ([]byte, error) { return s.cmw, nil }

// forKey attests another key than the session's.
type forKey struct {
	attestext.Attester
	key crypto.Signer
}

func (f *forKey) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	other, c := *req, *req.Challenge
	c.SPKI, other.Challenge = testpki.SPKI(f.key), &c
	return f.Attester.Attest(ctx, &other)
}

// strange offers a type that nobody knows.
type strange struct{ attestext.Attester }

func (*strange) Formats(attestext.CredentialKind) []attestext.EvidenceFormat {
	return []attestext.EvidenceFormat{{MediaType: "application/x-strange"}}
}

func checkRefused(t *testing.T, err error, code enroll.Code, say ...string) {
	t.Helper()
	var refused *enroll.Error
	if !errors.As(err, &refused) || refused.Code != code {
		t.Fatalf("the client says %v, want %s", err, code)
	}
	for _, s := range say {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("the client says %v, want %q", err, s)
		}
	}
}

// replay attests once, and sends the same evidence ever after.
type replay struct {
	attestext.Attester
	once sync.Once
	cmw  []byte
}

func (r *replay) Attest(ctx context.Context, req *attestext.AttestRequest) (_ []byte, err error) {
	r.once.Do(func() { r.cmw, err = r.Attester.Attest(ctx, req) })
	return r.cmw, err
}

// machine is the Config of a machine that attests with a key.
func machine(b *bench, signer crypto.Signer) *tls.Config {
	return &tls.Config{RootCAs: b.client.TLS.RootCAs, ServerName: "ca.example", Attestation: &tls.AttestationConfig{
		Attester: b.client.Attester, AttestedKey: signer, AllowAttestationOnly: true, Credentials: []attestext.CredentialKind{attestext.AttestationOnly},
	}}
}

// ask sends requests of one's own over an attested connection.
func ask(t *testing.T, b *bench, frame []byte, signer crypto.Signer) (*tls.Conn, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", b.client.Addr, machine(b, signer))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := enroll.ReadFrame(conn, 256); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Write(frame)
	return conn, err
}

func frame(b []byte) []byte {
	var w bytes.Buffer
	enroll.WriteFrame(&w, b)
	return w.Bytes()
}

func csr(t *testing.T, template *x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestBadRequestsAreRefused(t *testing.T) {
	b := newBench(t, nil)
	key := newKey(t)
	names := &x509.CertificateRequest{DNSNames: []string{"model.example"}}
	tampered := csr(t, names, key)
	tampered[len(tampered)-1] ^= 1
	for _, tt := range []struct {
		name string
		der  []byte
		code enroll.Code
		say  string
	}{
		{"another key", csr(t, names, newKey(t)), enroll.CodeKey, "not the one that the evidence covers"},
		{"no CSR", []byte("x"), enroll.CodeRequest, "no certificate signing request"},
		{"not signed by its key", tampered, enroll.CodeRequest, "not signed by its own key"},
		{"no name", csr(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "model.example"}}, key), enroll.CodeRequest, "0 DNS names"},
		{"wildcard", csr(t, &x509.CertificateRequest{DNSNames: []string{"*.example"}}, key), enroll.CodeRequest, "no DNS name"},
		{"upper case", csr(t, &x509.CertificateRequest{DNSNames: []string{"Model.example"}}, key), enroll.CodeRequest, "no DNS name"},
		{"too many names", csr(t, &x509.CertificateRequest{DNSNames: make17()}, key), enroll.CodeRequest, "17 DNS names"},
		{"address", csr(t, &x509.CertificateRequest{DNSNames: names.DNSNames, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, key), enroll.CodeRequest, "other names"},
		{"to be an authority", csr(t, &x509.CertificateRequest{DNSNames: names.DNSNames, ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}}}}, key), enroll.CodeRequest, "2.5.29.19"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := ask(t, b, frame(tt.der), key)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := enroll.ReadFrame(conn, 64<<10)
			if err != nil {
				t.Fatal(err)
			}
			_, err = enroll.ParseReply(answer)
			checkRefused(t, err, tt.code, tt.say)
			conn.Close()
			if got := <-b.reports; got.err == nil || !strings.Contains(got.err.Error(), tt.say) || got.entry.Code != tt.code {
				t.Errorf("the authority says %v and logs %+v", got.err, got.entry)
			}
		})
	}
	// Lengths are bounded before anything is read.
	for _, head := range [][]byte{{0, 0, 0, 0}, {0, 0, 0x40, 1}, {0xff, 0xff, 0xff, 0xff}} {
		conn, err := ask(t, b, head, key)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if got := <-b.reports; got.err == nil || !strings.Contains(got.err.Error(), "want 1 to 16384") || got.entry != nil {
			t.Errorf("length %x: %v", head, got.err)
		}
	}
}

func make17() (names []string) {
	for i := range 17 {
		names = append(names, fmt.Sprintf("n%d.example", i))
	}
	return names
}

// A machine that stops in the middle is let go, and its place is another's.
func TestSilentMachinesAreLetGo(t *testing.T) {
	b := newBench(t, func(b *bench) { b.server.MaxConns, b.server.Timeout = 1, 2*time.Second })
	silent, err := net.Dial("tcp", b.client.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := b.client.Enroll(t.Context()); err != nil {
		t.Error(err)
	}
	if got := <-b.reports; got.err == nil || got.entry != nil {
		t.Errorf("the silent one: %v", got.err)
	}
}

// TestHalfOpenAndSlowMachinesAreLetGo: after they have attested.
func TestHalfOpenAndSlowMachinesAreLetGo(t *testing.T) {
	b := newBench(t, func(b *bench) { b.server.Timeout = time.Second })
	for _, tt := range []struct {
		name  string
		frame []byte
		then  func(*tls.Conn)
		say   string
	}{
		{"half-open before the request", nil, func(c *tls.Conn) { c.CloseWrite() }, "EOF"},
		{"half-open in its length", []byte{0, 0}, func(c *tls.Conn) { c.CloseWrite() }, "unexpected EOF"},
		{"half-open in the request", []byte{0, 0, 1, 0, 'x'}, func(c *tls.Conn) { c.CloseWrite() }, "unexpected EOF"},
		{"broken off in the request", []byte{0, 0, 1, 0, 'x'}, func(c *tls.Conn) { c.NetConn().Close() }, "EOF"},
		{"silent in the request", []byte{0, 0, 1, 0, 'x'}, func(*tls.Conn) {}, "closed"},
		{"dripping", []byte{0, 0, 0x40, 0}, func(c *tls.Conn) {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for range tick.C {
				if _, err := c.Write([]byte{0}); err != nil {
					return
				}
			}
		}, "closed"},
	} {
		conn, err := ask(t, b, tt.frame, newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		tt.then(conn)
		if got := <-b.reports; got.err == nil || !strings.Contains(got.err.Error(), tt.say) || got.entry != nil {
			t.Errorf("%s: the authority says %v, and logs %+v", tt.name, got.err, got.entry)
		}
	}
}

// A slow has a machine wait until what it sends beside has arrived.
type slow struct {
	attestext.Verifier
	arrived chan struct{}
}

func (v slow) Appraise(ctx context.Context, ev *attestext.Evidence, c *attestext.Challenge) (*attestext.Appraisal, error) {
	<-v.arrived
	return v.Verifier.Appraise(ctx, ev, c)
}

// TestLastWordsArrive: a machine that has sent more than is read is not reset before it
// has read the answer, or the alert.
func TestLastWordsArrive(t *testing.T) {
	for _, accepted := range []bool{true, false} {
		arrived := make(chan struct{})
		b := newBench(t, func(b *bench) {
			if accepted {
				b.authority.Revocations = func() (*enroll.Revocations, error) { <-arrived; return nil, nil }
				return
			}
			v := local(t)
			v.TDXRoots = softtee.NewTDX(&softtee.TDXOptions{Seed: "another"}).Roots()
			b.server.Verifier = slow{v, arrived}
		})
		key := newKey(t)
		conn, err := tls.Dial("tcp", b.client.Addr, machine(b, key))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		request := frame(csr(t, &x509.CertificateRequest{DNSNames: []string{"model.example"}}, key))
		if _, err := conn.Write(append(request, make([]byte, 64<<10)...)); err != nil {
			t.Fatal(err)
		}
		close(arrived)
		got, err := io.ReadAll(conn)
		if accepted != (err == nil) || accepted != (len(got) > 0) {
			t.Errorf("accepted: %v: it reads %d bytes, %v", accepted, len(got), err)
		}
		if _, err := conn.NetConn().Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("accepted: %v: and then %v", accepted, err)
		}
	}
}

// A hesitant attester says that it was asked, and answers nothing.
type hesitant struct {
	attestext.Attester
	asked chan struct{}
}

func (h hesitant) Attest(ctx context.Context, _ *attestext.AttestRequest) ([]byte, error) {
	close(h.asked)
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestOneAddressDoesNotTakeAllPlaces: who has its share is hung up on, and others are
// served.
func TestOneAddressDoesNotTakeAllPlaces(t *testing.T) {
	b := newBench(t, func(b *bench) { b.server.MaxPerAddr = 1 })
	first := *b.client
	asked := make(chan struct{})
	first.Attester = hesitant{first.Attester, asked}
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	go first.Enroll(ctx)
	<-asked // it is being served
	if _, err := b.client.Enroll(t.Context()); err == nil {
		t.Error("a second connection is served")
	}
	if got := <-b.reports; got.err == nil || !strings.Contains(got.err.Error(), "127.0.0.1/32 has 1 connections open") {
		t.Errorf("the authority says %v", got.err)
	}
	hangUp()
	<-b.reports
	if _, err := b.client.Enroll(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAddressesAreCountedByNetwork(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:1": "192.0.2.1/32", "[::ffff:192.0.2.1]:2": "192.0.2.1/32",
		"[2001:db8:1:2:3::4]:1": "2001:db8:1:2::/64", "[fe80::1%eth0]:1": "fe80::/64",
	} {
		if got := enroll.Network(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))); got.String() != want {
			t.Errorf("%s counts as %v, want %s", addr, got, want)
		}
	}
	if got := enroll.Network(&net.UnixAddr{Name: "x", Net: "unix"}); got.IsValid() {
		t.Errorf("a Unix socket counts as %v", got)
	}
}

// TestAddressesThatHaveLeftAreForgotten, or whoever has many would fill the memory.
func TestAddressesThatHaveLeftAreForgotten(t *testing.T) {
	var addrs []net.Addr
	for _, a := range []string{"192.0.2.1:1", "[2001:db8::1]:1", "192.0.2.1:2"} {
		addrs = append(addrs, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(a)))
	}
	if n, err := enroll.Remembered(addrs...); n != 0 || err != nil {
		t.Errorf("%d are remembered, %v", n, err)
	}
}

func TestClientRefusesAuthorities(t *testing.T) {
	b := newBench(t, nil)
	other, otherKey := issuer(t)
	good := *b.client
	b.client.TLS = &tls.Config{RootCAs: pool(other), ServerName: "ca.example"}
	made := &counting{Attester: b.client.Attester}
	b.client.Attester = made
	var unknown *tls.CertificateVerificationError
	if _, err := b.client.Enroll(t.Context()); !errors.As(err, &unknown) || made.n != 0 {
		t.Errorf("an authority that is not known: %v, and %d pieces of evidence", err, made.n)
	}
	c := good
	c.Issuers = pool(other)
	if _, err := c.Enroll(t.Context()); err == nil || !strings.Contains(err.Error(), "what the authority sent") {
		t.Errorf("an issuer that is not known: %v", err)
	}
	c = good
	c.Now = func() time.Time { return time.Now().Add(25 * time.Hour) }
	if _, err := c.Enroll(t.Context()); err == nil || !strings.Contains(err.Error(), "valid from") {
		t.Errorf("a certificate of the past: %v", err)
	}
	// One that asks for no evidence.
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{leafOf(t, other, otherKey)}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	c = good
	c.Addr, c.TLS = l.Addr().String(), &tls.Config{RootCAs: pool(other), ServerName: "ca.example"}
	if _, err := c.Enroll(t.Context()); err == nil || !strings.Contains(err.Error(), "did not ask for evidence") {
		t.Errorf("an authority that asks for nothing: %v", err)
	}
	for want, change := range map[string]func(*enroll.Client){
		"needs an Attester": func(c *enroll.Client) { c.Attester = nil },
		"0 names":           func(c *enroll.Client) { c.Names = nil },
		"no DNS name":       func(c *enroll.Client) { c.Names = []string{"a b"} },
		"does not verify":   func(c *enroll.Client) { c.TLS = &tls.Config{InsecureSkipVerify: true} },
		"Attestation":       func(c *enroll.Client) { c.TLS = &tls.Config{Attestation: &tls.AttestationConfig{}} },
		"missing port":      func(c *enroll.Client) { c.Addr = "ca.example" },
	} {
		c := good
		change(&c)
		if _, err := c.Enroll(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestClientRefusesWhatAuthoritiesSend: by one whose certificate is good and that
// otherwise errs.
func TestClientRefusesWhatAuthoritiesSend(t *testing.T) {
	pki, pkiKey := issuer(t)
	ca, caKey := issuer(t)
	leaf := func(key crypto.Signer, change func(*x509.Certificate)) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(3), DNSNames: []string{"model.example"}, NotBefore: ca.NotBefore, NotAfter: time.Now().Add(time.Hour)}
		if change != nil {
			change(template)
		}
		der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
		if err != nil {
			t.Error(err)
		}
		return der
	}
	reply := func(chain ...[]byte) []byte {
		b, err := json.Marshal(map[string]any{"chain": chain})
		if err != nil {
			t.Error(err)
		}
		return frame(b)
	}
	greeting := frame([]byte(`{"version":1}`))
	key := newKey(t)
	good := leaf(key, nil)
	for _, tt := range []struct {
		name     string
		greeting []byte
		reply    []byte // nil hangs
		say      string // empty is no refusal
	}{
		{"good", greeting, reply(good), ""},
		{"no greeting", []byte{}, []byte{}, "EOF"},
		{"greeting of 257 bytes", []byte{0, 0, 1, 1}, []byte{}, "a frame of 257 bytes, want 1 to 256"},
		{"other version", frame([]byte(`{"version":2}`)), []byte{}, "the authority speaks version 2"},
		{"greeting that is no JSON", frame([]byte("hello")), []byte{}, "greeting"},
		{"half a greeting", greeting[:6], []byte{}, "unexpected EOF"},
		{"hangs before the greeting", nil, nil, "deadline exceeded"},
		{"hangs before the reply", greeting, nil, "deadline exceeded"},
		{"no reply", greeting, []byte{}, "EOF"},
		{"half a reply", greeting, reply(good)[:100], "unexpected EOF"},
		{"reply over the bound", greeting, []byte{0, 1, 0, 1}, "a frame of 65537 bytes"},
		{"empty reply", greeting, frame([]byte("{}")), "0 certificates"},
		{"nine certificates", greeting, reply(good, good, good, good, good, good, good, good, good), "9 certificates"},
		{"no certificate", greeting, reply([]byte("x")), "what the authority sent"},
		{"no certificate behind the first", greeting, reply(good, []byte("x")), "what the authority sent"},
		{"certificate of another key", greeting, reply(leaf(newKey(t), nil)), "a certificate of another key"},
		{"certificate for more names", greeting, reply(leaf(key, func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "bank.example") })), `a certificate for ["model.example" "bank.example"]`},
		{"certificate that has expired", greeting, reply(leaf(key, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), "valid from"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{leafOf(t, pki, pkiKey)}, Attestation: &tls.AttestationConfig{
				Verifier: local(t), AllowAttestationOnly: true, PeerCredentials: []attestext.CredentialKind{attestext.AttestationOnly},
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				conn.Write(tt.greeting)
				if tt.greeting != nil && tt.reply != nil && len(tt.reply) == 0 {
					return
				}
				enroll.ReadFrame(conn, 1<<14)
				if conn.Write(tt.reply); tt.reply == nil {
					io.Copy(io.Discard, conn)
				}
			}()
			c := &enroll.Client{Addr: l.Addr().String(), TLS: &tls.Config{RootCAs: pool(pki), ServerName: "ca.example"}, Key: key,
				Attester: softtee.NewTDX(nil).Attester(), Names: []string{"model.example"}, Issuers: pool(ca)}
			if tt.reply == nil {
				c.Timeout = time.Second
			}
			cert, err := c.Enroll(t.Context())
			if tt.say == "" {
				if err != nil || cert.Leaf == nil {
					t.Error(cert, err)
				}
			} else if err == nil || cert != nil || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("%v, %v; want %q", cert, err, tt.say)
			}
			<-done
		})
	}
}

// TestAuthorityStaysWithinItsOwnCertificate: it issues nothing that outlives it, nothing
// once it has expired, and nothing without rules.
func TestAuthorityStaysWithinItsOwnCertificate(t *testing.T) {
	b := newBench(t, func(b *bench) { b.authority.Lifetime = 1000 * time.Hour })
	cert, err := b.client.Enroll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !cert.Leaf.NotAfter.Equal(b.authority.Certificate.NotAfter) {
		t.Errorf("it is valid until %v, its issuer until %v", cert.Leaf.NotAfter, b.authority.Certificate.NotAfter)
	}
	b = newBench(t, func(b *bench) {
		b.authority.Now = func() time.Time { return b.authority.Certificate.NotAfter.Add(time.Second) }
	})
	_, err = b.client.Enroll(t.Context())
	checkRefused(t, err, enroll.CodeUnavailable, "cannot issue")
	if got := <-b.reports; got.entry.Issued || !strings.Contains(got.entry.Reason, "own certificate has expired") {
		t.Errorf("the authority says %v, and logs %+v", got.err, got.entry)
	}
	if strings.Contains(err.Error(), "expired") {
		t.Errorf("it tells the client: %v", err)
	}
	b = newBench(t, func(b *bench) { b.authority.Rules = nil })
	_, err = b.client.Enroll(t.Context())
	checkRefused(t, err, enroll.CodeName, `no rule allows the name "model.example"`)
}

type counting struct {
	attestext.Attester
	n int
}

func (c *counting) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	c.n++
	return c.Attester.Attest(ctx, req)
}

func TestRevocationListHasWhatIsRevoked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var revoked enroll.Revocations
	now := time.Now()
	open := func() *enroll.Log {
		log, err := enroll.OpenLog(path, now)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { log.Close() })
		return log
	}
	b := newBench(t, func(b *bench) {
		b.authority.Log = open()
		b.authority.Now = func() time.Time { return now }
		b.authority.Revocations = func() (*enroll.Revocations, error) { return &revoked, nil }
	})
	var serials []string
	for range 2 {
		cert, err := b.client.Enroll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		<-b.reports
		serials = append(serials, cert.Leaf.SerialNumber.Text(16))
	}
	list := func(a *enroll.Authority) []string {
		t.Helper()
		now = now.Add(time.Minute) // it is not made anew for each call
		der, err := a.CRL()
		if err != nil {
			t.Fatal(err)
		}
		crl, err := x509.ParseRevocationList(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := crl.CheckSignatureFrom(a.Certificate); err != nil || !crl.NextUpdate.After(now) {
			t.Errorf("%v, next update %v", err, crl.NextUpdate)
		}
		got := []string{}
		for _, e := range crl.RevokedCertificateEntries {
			got = append(got, e.SerialNumber.Text(16))
		}
		return got
	}
	check := func(a *enroll.Authority, want ...string) {
		t.Helper()
		if got := list(a); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("the list has %q, want %q", got, want)
		}
	}
	check(b.authority)
	revoked = enroll.Revocations{Serials: serials[1:]}
	check(b.authority, serials[1])
	revoked = enroll.Revocations{Claims: map[string][]string{"mrtd": {mrtd()}}}
	check(b.authority, serials...)
	// After a restart the log says what was issued; once it has expired, it is left out.
	again := &enroll.Authority{Certificate: b.authority.Certificate, Key: b.authority.Key, Log: open(), Now: b.authority.Now, Revocations: b.authority.Revocations}
	check(again, serials...)
	now = now.Add(enroll.DefaultLifetime)
	check(again)
	revoked = enroll.Revocations{}
	b.authority.Revocations = func() (*enroll.Revocations, error) { return nil, errors.New("gone") }
	now = now.Add(time.Minute)
	if _, err := b.authority.CRL(); err == nil {
		t.Error("a list without knowing what is revoked")
	}
}

// A number of more digits than a float64 has is still the same after a restart.
func TestRevocationByALargeNumber(t *testing.T) {
	const line = `{"issued": true, "serial": "4a", "not_after": "2100-01-01T00:00:00Z", "verdict": "affirming", "claims": {"build": [12345678901234567890]}}`
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := enroll.OpenLog(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ca, key := issuer(t)
	revoked, err := enroll.ParseRevocations([]byte(`{"claims": {"build.0": ["12345678901234567890"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	a := &enroll.Authority{Certificate: ca, Key: key, Log: log, Revocations: func() (*enroll.Revocations, error) { return revoked, nil }}
	der, err := a.CRL()
	if err != nil {
		t.Fatal(err)
	}
	if crl, err := x509.ParseRevocationList(der); err != nil || len(crl.RevokedCertificateEntries) != 1 {
		t.Errorf("%v, %+v", err, crl)
	}
}

func TestBrokenLogIsNotOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, text := range []string{"{}\nx\n", "{}\n{", "{}\n{}{}\n", "{}\n" + strings.Repeat(" ", 2<<20) + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := enroll.OpenLog(path, time.Now()); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

// fullListener has no descriptors left once, and is closed then.
type fullListener struct {
	net.Listener
	full bool
}

func (l *fullListener) Accept() (net.Conn, error) {
	if l.full {
		return nil, net.ErrClosed
	}
	l.full = true
	return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
}

func TestServerGoesOnAfterAnErrorThatPasses(t *testing.T) {
	ca, key := issuer(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var reports []error
	s := &enroll.Server{
		Authority: &enroll.Authority{Certificate: ca, Key: key}, Verifier: local(t), Certificates: []tls.Certificate{leafOf(t, ca, key)},
		Report: func(a net.Addr, e *enroll.Entry, err error) {
			if a != l.Addr() || e != nil {
				t.Errorf("reports %v, %v", a, e)
			}
			reports = append(reports, err)
		},
	}
	if err := s.Serve(t.Context(), &fullListener{Listener: l}); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if len(reports) != 1 || !errors.Is(reports[0], syscall.EMFILE) {
		t.Errorf("reports %v", reports)
	}
}

func TestServerRefusesMistakes(t *testing.T) {
	ca, key := issuer(t)
	leaf := leafOf(t, ca, key)
	for want, s := range map[string]*enroll.Server{
		"needs an Authority":       {},
		"not that of the cert":     {Authority: &enroll.Authority{Certificate: ca, Key: newKey(t)}, Verifier: local(t), Certificates: []tls.Certificate{leaf}},
		"needs a Certificate and ": {Authority: &enroll.Authority{}, Verifier: local(t), Certificates: []tls.Certificate{leaf}},
		"Lifetime":                 {Authority: &enroll.Authority{Certificate: ca, Key: key, Lifetime: time.Millisecond}, Verifier: local(t), Certificates: []tls.Certificate{leaf}},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
