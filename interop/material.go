package interop

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/verifier"
)

// lifetime is that of everything made for a run.
const lifetime = 12 * time.Hour

// largeSize is the size of the extension that makes a certificate large, in bytes:
// more than fits into a record, less than a handshake message of crypto/tls may have.
const largeSize = 40 << 10

// writeMaterial writes into dir all certificates and files that the two ends need;
// CONTRACT.md lists them.
func writeMaterial(dir string, now time.Time) error {
	m := &maker{dir: dir, now: now}
	ca := m.authority("ca", "atls interop CA")
	other := m.authority("other-ca", "another CA")
	p256 := func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
	for _, k := range []struct {
		name string
		key  func() (crypto.Signer, error)
		ca   *authority
		pad  int
	}{
		{"", p256, ca, 0},
		{"-p384", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) }, ca, 0},
		{"-rsa", func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }, ca, 0},
		{"-ed25519", func() (crypto.Signer, error) { _, k, err := ed25519.GenerateKey(rand.Reader); return k, err }, ca, 0},
		{"-large", p256, ca, largeSize},
		{"-other", p256, other, 0},
	} {
		for _, who := range []side{server, client} {
			leaf := m.leaf(who.String()+k.name, who, k.key, k.ca, k.pad)
			if k.name == "" && leaf != nil {
				m.result(who.String()+"-results.json", leaf)
			}
		}
	}
	m.tee()
	tee, err := p256()
	m.note(err)
	m.key("peer-tee.key", tee)
	return m.err
}

// A maker makes files until the first error.
type maker struct {
	dir string
	now time.Time
	err error
}

type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (m *maker) note(err error) {
	if m.err == nil {
		m.err = err
	}
}

func (m *maker) file(name string, data []byte) {
	if m.err == nil {
		m.err = os.WriteFile(filepath.Join(m.dir, name), data, 0o600)
	}
}

func (m *maker) key(name string, key crypto.Signer) {
	if m.err != nil {
		return
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	m.note(err)
	m.file(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (m *maker) template(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	m.note(err)
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: []string{"atls interop"}},
		NotBefore:    m.now.Add(-time.Hour), NotAfter: m.now.Add(lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

func (m *maker) sign(t, parent *x509.Certificate, public crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	if m.err != nil {
		return nil
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, public, by)
	m.note(err)
	if m.err != nil {
		return nil
	}
	cert, err := x509.ParseCertificate(der)
	m.note(err)
	return cert
}

func certificatePEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func (m *maker) authority(file, name string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	m.note(err)
	if m.err != nil {
		return nil
	}
	t := m.template(name)
	t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	cert := m.sign(t, t, key.Public(), key)
	if m.err == nil {
		m.file(file+".pem", certificatePEM(cert))
	}
	return &authority{cert, key}
}

// leaf makes NAME.pem and NAME.key, padded to pad bytes.
func (m *maker) leaf(name string, who side, newKey func() (crypto.Signer, error), ca *authority, pad int) *x509.Certificate {
	key, err := newKey()
	m.note(err)
	if m.err != nil {
		return nil
	}
	t := m.template("localhost")
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	t.DNSNames, t.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	if who == client {
		t.Subject.CommonName, t.DNSNames, t.IPAddresses = "a client", nil, nil
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	if pad > 0 {
		// A comment (2.16.840.1.113730.1.13, from Netscape), which nobody acts on.
		value, err := asn1.MarshalWithParams(strings.Repeat("x", pad), "ia5")
		m.note(err)
		t.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 16, 840, 1, 113730, 1, 13}, Value: value}}
	}
	cert := m.sign(t, ca.cert, key.Public(), ca.key)
	if m.err != nil {
		return nil
	}
	m.file(name+".pem", certificatePEM(cert))
	m.key(name+".key", key)
	return cert
}

// result makes a result about the key of a certificate.
func (m *maker) result(name string, leaf *x509.Certificate) {
	issuer := softtee.NewResultsIssuer(&softtee.ResultsOptions{Lifetime: lifetime})
	r, err := issuer.Issue(leaf.RawSubjectPublicKeyInfo, m.now)
	m.note(err)
	held, err := results.MarshalHeld([]results.Held{{Verifier: issuer.Identity(), Result: r}})
	m.note(err)
	m.file(name, held)
	trusted, err := json.Marshal(map[string]any{"verifiers": []any{map[string]any{
		"id": issuer.Identity(), "keys": []string{string(issuer.PublicKeyPEM())},
	}}})
	m.note(err)
	m.file("verifiers.json", trusted)
	m.file("verifier.pem", issuer.PublicKeyPEM())
}

// tee makes what it takes to appraise evidence of the software TEE.
func (m *maker) tee() {
	from, until := m.now.Add(-time.Hour), m.now.Add(lifetime)
	t, err := softtee.NewTDX(nil).Collateral(&softtee.CollateralOptions{Now: from, NextUpdate: until})
	m.note(err)
	s, err := softtee.NewSNP(nil).Collateral(&softtee.SNPCollateralOptions{Now: from, NextUpdate: until})
	m.note(err)
	if m.err != nil {
		return
	}
	collateral, err := verifier.JoinCollateral(t, s)
	m.note(err)
	m.file("collateral.json", collateral)
	var policies [2]map[string]json.RawMessage
	m.note(json.Unmarshal(softtee.Policy(), &policies[0]))
	m.note(json.Unmarshal(softtee.SNPPolicy(), &policies[1]))
	if m.err != nil {
		return
	}
	for k, v := range policies[1] {
		policies[0][k] = v
	}
	policy, err := json.Marshal(policies[0])
	m.note(err)
	m.file("policy.json", policy)
	m.file("tdx-root.pem", softtee.RootsPEM())
	m.file("snp-root.pem", softtee.SNPRootsPEM())
	m.file("trust-roots.pem", append(softtee.RootsPEM(), softtee.SNPRootsPEM()...))
}

// A teeService is the hardware of peers: it signs what they send. A line is "tdx"
// or "snp", and 64 bytes of report data in hexadecimal; the answer is a line with
// the quote, or the report and the certificates, each in base64. "tdx-debug" and
// "tdx-unknown" are TDs that the policy refuses.
type teeService struct{ ln net.Listener }

func newTEEService() (*teeService, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &teeService{ln}
	go s.serve()
	return s, nil
}

func (s *teeService) serve() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			line, err := bufio.NewReaderSize(c, 512).ReadSlice('\n')
			if err != nil {
				return
			}
			answer, err := quote(strings.TrimSpace(string(line)))
			if err != nil {
				answer = "error: " + err.Error()
			}
			fmt.Fprintln(c, answer)
		}()
	}
}

func quote(line string) (string, error) {
	kind, data, _ := strings.Cut(line, " ")
	b, err := hex.DecodeString(data)
	if err != nil || len(b) != attestext.ReportDataSize {
		return "", fmt.Errorf("want 64 bytes in hexadecimal, got %q", data)
	}
	reportData := [attestext.ReportDataSize]byte(b)
	encode := base64.StdEncoding.EncodeToString
	switch kind {
	case "tdx", "tdx-unknown", "tdx-debug":
		var o softtee.TDXOptions
		if kind == "tdx-unknown" {
			o.Modify = func(body *tdx.Quote) { body.MRTD[0] ^= 1 }
		}
		o.Debug = kind == "tdx-debug"
		q, err := softtee.NewTDX(&o).Quote(reportData)
		return encode(q), err
	case "snp":
		r, err := softtee.NewSNP(nil).Report(context.Background(), reportData)
		if err != nil {
			return "", err
		}
		return encode(r.OutBlob) + " " + encode(r.AuxBlob), nil
	}
	return "", fmt.Errorf("there is no TEE %q", kind)
}
