package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/tls"
)

// demoLifetime is that of everything that the demonstration issues.
const demoLifetime = 365 * 24 * time.Hour

// demoResultLifetime is that of its results: relying parties take none that is older.
const demoResultLifetime = 24 * time.Hour

// A demoPKI is an authority with a server and a client, made anew each time.
type demoPKI struct {
	ca             *x509.Certificate
	server, client tls.Certificate
}

func newDemoPKI(now time.Time) (*demoPKI, error) {
	notBefore, notAfter := now.Add(-time.Hour), now.Add(demoLifetime)
	template := func(name string, usage ...x509.ExtKeyUsage) *x509.Certificate {
		serial := make([]byte, 16)
		rand.Read(serial)
		return &x509.Certificate{
			SerialNumber: new(big.Int).SetBytes(serial),
			Subject:      pkix.Name{CommonName: name, Organization: []string{"atls demo"}},
			NotBefore:    notBefore, NotAfter: notAfter,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usage,
			BasicConstraintsValid: true,
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := template("atls demo CA")
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	issue := func(t *x509.Certificate, parent *x509.Certificate, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
		der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), caKey)
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(der)
	}
	p := &demoPKI{}
	if p.ca, err = issue(ca, ca, caKey); err != nil {
		return nil, err
	}
	leaf := func(t *x509.Certificate) (tls.Certificate, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return tls.Certificate{}, err
		}
		cert, err := issue(t, p.ca, key)
		if err != nil {
			return tls.Certificate{}, err
		}
		return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
	}
	server := template("localhost", x509.ExtKeyUsageServerAuth)
	server.DNSNames = []string{"localhost"}
	server.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if p.server, err = leaf(server); err != nil {
		return nil, err
	}
	client := template("atls demo client", x509.ExtKeyUsageClientAuth)
	p.client, err = leaf(client)
	return p, err
}

func (p *demoPKI) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.ca)
	return pool
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// A demoFile is one that demo --write makes.
type demoFile struct {
	name    string
	about   string
	private bool
	data    []byte
}

// demoFiles makes all that it takes to serve and dial with a software TEE.
func demoFiles(now time.Time) ([]demoFile, error) {
	p, err := newDemoPKI(now)
	if err != nil {
		return nil, err
	}
	serverKey, err := keyPEM(p.server.PrivateKey)
	if err != nil {
		return nil, err
	}
	clientKey, err := keyPEM(p.client.PrivateKey)
	if err != nil {
		return nil, err
	}
	tee := softtee.NewTDX(nil)
	c, err := tee.Collateral(&softtee.CollateralOptions{Now: now.Add(-time.Hour), NextUpdate: now.Add(demoLifetime)})
	if err != nil {
		return nil, err
	}
	snp := softtee.NewSNP(nil)
	s, err := snp.Collateral(&softtee.SNPCollateralOptions{Now: now.Add(-time.Hour), NextUpdate: now.Add(demoLifetime)})
	if err != nil {
		return nil, err
	}
	collateral, err := verifier.JoinCollateral(c, s)
	if err != nil {
		return nil, err
	}
	reference, err := demoPolicy()
	if err != nil {
		return nil, err
	}
	quote, evidence, err := sampleEvidence(tee)
	if err != nil {
		return nil, err
	}
	issuer := softtee.NewResultsIssuer(&softtee.ResultsOptions{Lifetime: demoResultLifetime})
	serverResult, err := demoResult(issuer, p.server.Leaf, now)
	if err != nil {
		return nil, err
	}
	clientResult, err := demoResult(issuer, p.client.Leaf, now)
	if err != nil {
		return nil, err
	}
	trusted, err := json.MarshalIndent(map[string]any{"verifiers": []any{map[string]any{
		"id": issuer.Identity(), "keys": []string{string(issuer.PublicKeyPEM())},
	}}}, "", "  ")
	if err != nil {
		return nil, err
	}
	_, snpEvidence, err := sampleEvidence(snp)
	if err != nil {
		return nil, err
	}
	platform := softtee.NewEAT(nil)
	eatEvidence, err := platform.Attester().Attest(context.Background(), &attestext.AttestRequest{
		Type: attestext.EvidenceType{Kind: attestext.CertAttestation, Format: eat.TokenFormats()[0]},
		Challenge: &attestext.Challenge{
			Role: attestext.RoleServer, Kind: attestext.CertAttestation, SPKI: p.server.Leaf.RawSubjectPublicKeyInfo,
			Nonce: sampleData(), Binder: sampleData(),
		},
	})
	if err != nil {
		return nil, err
	}
	roots := slices.Concat(softtee.RootsPEM(), softtee.SNPRootsPEM(), platform.KeyPEM())
	return []demoFile{
		{"cert.pem", "the server's certificate, for localhost", false, certPEM(p.server.Certificate[0])},
		{"key.pem", "its key", true, serverKey},
		{"ca.pem", "the authority of both certificates", false, certPEM(p.ca.Raw)},
		{"client-cert.pem", "a client's certificate", false, certPEM(p.client.Certificate[0])},
		{"client-key.pem", "its key", true, clientKey},
		{"trust-roots.pem", "the roots of the software TEEs (insecure: trusting them is trusting everybody)", false, roots},
		{"collateral.json", "what their pretended manufacturers say of their platforms, for a year", false, collateral},
		{"policy.json", "the measurements that are acceptable", false, reference},
		{"results.json", "a result about the server that a software verifier gave, good for a day (passport)", false, serverResult},
		{"client-results.json", "the same about the client", false, clientResult},
		{"verifiers.json", "whose results to trust: that verifier's (insecure as well)", false, trusted},
		{"quote.bin", "a TDX quote of the software TEE", false, quote},
		{"evidence.cmw", "the same quote as it travels: in a TSM report, in a CMW", false, evidence},
		{"snp-evidence.cmw", "the same for SEV-SNP, with its certificates", false, snpEvidence},
		{"eat-evidence.cmw", "an EAT of a software platform over the server's key, in a CMW", false, eatEvidence},
	}, nil
}

// demoResult returns a file with one result, over the key of a certificate.
func demoResult(issuer *softtee.ResultsIssuer, cert *x509.Certificate, now time.Time) ([]byte, error) {
	r, err := issuer.Issue(cert.RawSubjectPublicKeyInfo, now)
	if err != nil {
		return nil, err
	}
	return results.MarshalHeld([]results.Held{{Verifier: issuer.Identity(), Result: r}})
}

// demoPolicy returns a policy that accepts what each software TEE is by default.
func demoPolicy() ([]byte, error) {
	t, err := policy.Parse(softtee.Policy())
	if err != nil {
		return nil, err
	}
	s, err := policy.Parse(softtee.SNPPolicy())
	if err != nil {
		return nil, err
	}
	e, err := policy.Parse(softtee.EATPolicy())
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(&policy.Policy{TDX: t.TDX, SNP: s.SNP, EAT: e.EAT}, "", "  ")
	return append(b, '\n'), err
}

// sampleData is what samples are about.
func sampleData() []byte {
	sum := sha256.Sum256([]byte("atls demo"))
	return sum[:]
}

// sampleEvidence returns a quote over sampleData, and the wrapper with it.
func sampleEvidence(tee attester.Quoter) (quote, evidence []byte, err error) {
	var reportData [attestext.ReportDataSize]byte
	copy(reportData[:], sampleData())
	r, err := tee.Report(context.Background(), reportData)
	if err != nil {
		return nil, nil, err
	}
	report, err := r.CBOR()
	if err != nil {
		return nil, nil, err
	}
	evidence, err = (&cmw.Record{Format: tsm.FormatCBOR, Value: report, Ind: cmw.Evidence}).CBOR()
	return r.OutBlob, evidence, err
}

// writeDemoFiles writes files into dir. It writes none if one exists.
func writeDemoFiles(dir string, files []demoFile) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return usagef("", "--write: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return usagef("name a new directory, or remove the file", "--write: %s exists, and nothing was written", path)
		}
	}
	for _, f := range files {
		mode := fs.FileMode(0o644)
		if f.private {
			mode = 0o600
		}
		path := filepath.Join(dir, f.name)
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return usagef("", "--write: %w", err)
		}
		_, err = file.Write(f.data)
		if err := errors.Join(err, file.Close()); err != nil {
			return usagef("", "--write: %w", err)
		}
	}
	return nil
}

// demoCommands are what to type in two terminals to use the files in dir.
func demoCommands(dir string) (serve, dial string) {
	in := func(name string) string { return shellQuote(filepath.Join(dir, name)) }
	serve = fmt.Sprintf("atls serve --listen %s --cert %s --key %s --attest softtee:tdx", defaultListen, in("cert.pem"), in("key.pem"))
	dial = fmt.Sprintf("echo hello | atls dial %s --ca %s --servername localhost --verify local --trust-roots %s --collateral %s --policy %s",
		defaultListen, in("ca.pem"), in("trust-roots.pem"), in("collateral.json"), in("policy.json"))
	return serve, dial
}
