package attack

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/tls"
)

// The cast. They are names of certificates as well.
const (
	nameServer = "model.example"    // whom the client wants
	nameOther  = "other.example"    // another machine's owner
	nameClient = "client.example"   // an end that attests as a client
	nameEvil   = "attacker.example" // the attacker, who has a certificate as everybody can
)

// A world is what all cells share: a public-key infrastructure, machines, and what the
// manufacturer says of them.
type world struct {
	now   time.Time
	roots *x509.CertPool

	server, other, client, evil tls.Certificate
	// ek are the attested keys, with two keys, of the server's machine and of the
	// other one, and attestationOnly those that stand in place of a certificate.
	ek, otherEK, attestationOnly, otherAttestationOnly, clientEK crypto.Signer

	genuine, elsewhere, compromised *softtee.TDX
	identity                        [tdx.PlatformInstanceIDSize]byte // of the genuine machine
	issuer                          *softtee.ResultsIssuer
}

func newWorld(now time.Time) (*world, error) {
	w := &world{
		now:         now,
		roots:       x509.NewCertPool(),
		genuine:     softtee.NewTDX(nil),
		elsewhere:   softtee.NewTDX(&softtee.TDXOptions{Machine: "elsewhere"}),
		compromised: softtee.NewTDX(&softtee.TDXOptions{Machine: "compromised", OldTCB: true}),
		issuer:      softtee.NewResultsIssuer(nil),
	}
	for _, k := range []*crypto.Signer{&w.ek, &w.otherEK, &w.attestationOnly, &w.otherAttestationOnly, &w.clientEK} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		*k = key
	}
	ca, err := Issue("laboratory CA", nil, w.now, nil)
	if err != nil {
		return nil, err
	}
	w.roots.AddCert(ca.Leaf)
	for name, dst := range map[string]*tls.Certificate{nameServer: &w.server, nameOther: &w.other, nameClient: &w.client, nameEvil: &w.evil} {
		if *dst, err = Issue(name, &ca, w.now, nil); err != nil {
			return nil, err
		}
	}
	quote, err := w.genuine.Quote([attestext.ReportDataSize]byte{})
	if err != nil {
		return nil, err
	}
	q, err := tdx.Parse(quote)
	if err != nil {
		return nil, err
	}
	collateral, err := w.collateral(Mitigation{})
	if err != nil {
		return nil, err
	}
	v, err := tdx.Verify(q, &tdx.VerifyOptions{Roots: softtee.Roots(), Collateral: collateral, Now: now})
	if err != nil {
		return nil, err
	}
	copy(w.identity[:], v.PlatformInstanceID())
	return w, nil
}

// Issue makes a certificate below ca that is valid around now, or one of a CA where ca
// is nil. extension makes one for its key, and may be nil.
func Issue(name string, ca *tls.Certificate, now time.Time, extension func(spki []byte) (pkix.Extension, error)) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(random(16)), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if extension != nil {
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return tls.Certificate{}, err
		}
		e, err := extension(spki)
		if err != nil {
			return tls.Certificate{}, err
		}
		t.ExtraExtensions = []pkix.Extension{e}
	}
	parent, signer := t, crypto.Signer(key)
	if ca == nil {
		t.IsCA, t.KeyUsage, t.ExtKeyUsage, t.DNSNames = true, x509.KeyUsageCertSign, nil, nil
	} else {
		parent, signer = ca.Leaf, ca.PrivateKey.(crypto.Signer)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// collateral is what the manufacturer says. It does not know yet that the old TCB
// level is broken, unless a mitigation is that it does.
func (w *world) collateral(m Mitigation) (*tdx.Collateral, error) {
	o := &softtee.CollateralOptions{Now: w.now.Add(-time.Hour), OldTCBStatus: tdx.TCBUpToDate}
	switch m.Name {
	case mitigationFloor:
		o.OldTCBStatus = "OutOfDate"
	case mitigationRevocation:
		o.RevokePCK = true
	}
	return w.compromised.Collateral(o)
}

// policy accepts the software that the server's machine runs, on any machine unless a
// mitigation pins it.
func (w *world) policy(m Mitigation) (*policy.Policy, error) {
	p, err := policy.Parse(softtee.Policy())
	if err != nil {
		return nil, err
	}
	if m.Name == mitigationPinning {
		p.TDX.PlatformInstanceIDs = []policy.InstanceID{w.identity}
	}
	return p, nil
}

// results returns what a verifier said about a machine with those keys.
func (w *world) results(keys ...crypto.PublicKey) (*results.Holder, error) {
	var held []results.Held
	for _, key := range keys {
		spki, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return nil, err
		}
		b, err := w.issuer.Issue(spki, w.now)
		if err != nil {
			return nil, err
		}
		held = append(held, results.Held{Verifier: w.issuer.Identity(), Result: b})
	}
	return results.NewHolder(held, &results.HolderOptions{Now: w.clock})
}

func (w *world) clock() time.Time { return w.now }

// reportCMW returns a quote over reportData, wrapped as evidence.
func reportCMW(tee *softtee.TDX, reportData [attestext.ReportDataSize]byte) ([]byte, error) {
	q, err := tee.Quote(reportData)
	if err != nil {
		return nil, err
	}
	value, err := (&tsm.Report{Provider: tsm.ProviderTDX, OutBlob: q}).CBOR()
	if err != nil {
		return nil, fmt.Errorf("attack: %w", err)
	}
	return wrap(value)
}
