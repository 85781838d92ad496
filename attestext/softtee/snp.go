package softtee

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha1"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tsm"
)

// What the default guest is measured to be, and the keys that its owner signs with.
const (
	measuredSNP       = "SNP guest image"
	measuredIDKey     = "SNP ID key"
	measuredAuthorKey = "SNP author key"
)

// Fields of the software platform, chosen to look like a third-generation EPYC.
var (
	defaultSNPTCB = sevsnp.TCB{Bootloader: 4, TEE: 0, SNP: 22, Microcode: 213}

	// snpFirmware is build, minor and major version.
	snpFirmware = [3]byte{21, 55, 1}
)

const (
	snpProduct                         = "Milan-B1"
	snpLine                            = sevsnp.Milan
	snpFamily, snpModel, snpStepping   = 0x19, 1, 1
	snpGuestSVN                        = 1
	snpPolicyBase                      = 1<<17 | 1<<16 | 1<<8 // reserved one, SMT, ABI 1.0
	snpPolicyMigrateMA, snpPolicyDebug = 1 << 18, 1 << 19
	snpCSPID                           = "atls softtee"

	// snpMark is in the name of every certificate. It is the serial number of the
	// subject, because the verifiers of the real thing insist on all other names.
	snpMark = "atls softtee (insecure, not AMD)"

	serialARK  = 1
	serialASK  = 2
	serialASVK = 3

	vcekCRLURL = "https://kdsintf.amd.com/vcek/v1/Milan/crl"
	vlekCRLURL = "https://kdsintf.amd.com/vlek/v1/Milan/crl"
)

// rsaBits are the bits of the authorities' keys: as many as AMD's have under the
// default seed, and fewer under others, whose keys have to be searched for.
func rsaBits(seed string) int {
	if seed == "" {
		return 4096
	}
	return 2048
}

// An amdPKI has the names and the shape of AMD's for Milan: a root, the authorities
// of chip keys and of loaded keys, and one of each.
type amdPKI struct {
	ark, ask, asvk *amdAuthority
	vcek, vlek     *authority
}

type amdAuthority struct {
	key  pssSigner
	cert *x509.Certificate
}

func newAMDPKI(seed string) *amdPKI {
	p := &amdPKI{}
	p.ark = amdIssue(seed, "ARK-"+snpLine, serialARK, nil, vcekCRLURL)
	p.ask = amdIssue(seed, "SEV-"+snpLine, serialASK, p.ark, vcekCRLURL)
	p.asvk = amdIssue(seed, "SEV-VLEK-"+snpLine, serialASVK, p.ark, vlekCRLURL)
	chip := chipID(seed)
	p.vcek = amdEndorse(seed, "SEV-VCEK", p.ask, amdExtensions(snpProduct, chip[:], ""))
	p.vlek = amdEndorse(seed, "SEV-VLEK", p.asvk, amdExtensions(snpLine, nil, snpCSPID))
	return p
}

func chipID(seed string) [sevsnp.ChipIDSize]byte {
	d := derive(seed, "chip ID")
	return sha512.Sum512(d[:])
}

func amdName(commonName string) pkix.Name {
	return pkix.Name{
		Country:            []string{"US"},
		Locality:           []string{"Santa Clara"},
		Province:           []string{"CA"},
		Organization:       []string{"Advanced Micro Devices"},
		OrganizationalUnit: []string{"Engineering"},
		CommonName:         commonName,
		SerialNumber:       snpMark,
	}
}

// amdIssue makes an authority, signed by parent, or by itself where parent is nil.
func amdIssue(seed, commonName string, serial int64, parent *amdAuthority, crl string) *amdAuthority {
	k := deriveRSA(seed, commonName, rsaBits(seed))
	id := sha1.Sum(x509.MarshalPKCS1PublicKey(&k.PublicKey))
	t := &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               amdName(commonName),
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		SignatureAlgorithm:    x509.SHA384WithRSAPSS,
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId:          id[:],
		CRLDistributionPoints: []string{crl},
	}
	a := &amdAuthority{pssSigner{k}, t}
	if parent == nil {
		parent = a
	}
	a.cert = amdCertificate(t, parent, &k.PublicKey)
	return a
}

// amdEndorse makes the certificate of a key that signs reports. It has the
// extensions of AMD's and no other; all of AMD's have the serial number 0 too.
func amdEndorse(seed, commonName string, parent *amdAuthority, extensions []pkix.Extension) *authority {
	d := derive(seed, "key "+commonName)
	h := sha512.Sum384(d[:])
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), h[:])
	if err != nil {
		panic("softtee: " + err.Error()) // one seed in 2¹⁹⁰
	}
	return &authority{k, amdCertificate(&x509.Certificate{
		SerialNumber:       big.NewInt(0),
		Subject:            amdName(commonName),
		NotBefore:          notBefore,
		NotAfter:           notAfter,
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
		ExtraExtensions:    extensions,
	}, parent, &k.PublicKey)}
}

func amdCertificate(t *x509.Certificate, parent *amdAuthority, public crypto.PublicKey) *x509.Certificate {
	der, err := x509.CreateCertificate(nil, t, parent.cert, public, parent.key)
	if err != nil {
		panic("softtee: " + err.Error())
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic("softtee: " + err.Error())
	}
	return cert
}

// amdExtensions are those of AMD's "Versioned Chip Endorsement Key (VCEK)
// Certificate and KDS Interface Specification" (publication 57230), section 3.
func amdExtensions(product string, hwID []byte, cspID string) []pkix.Extension {
	base := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}
	var all []pkix.Extension
	add := func(value []byte, arcs ...int) {
		all = append(all, pkix.Extension{Id: append(base[:len(base):len(base)], arcs...), Value: value})
	}
	marshal := func(v any, params string) []byte {
		b, err := asn1.MarshalWithParams(v, params)
		if err != nil {
			panic("softtee: " + err.Error())
		}
		return b
	}
	add(marshal(0, ""), 1) // structure version
	add(marshal(product, "ia5"), 2)
	tcb := [8]uint8{defaultSNPTCB.Bootloader, defaultSNPTCB.TEE, defaultSNPTCB.SNP, 0, 0, 0, 0, defaultSNPTCB.Microcode}
	for i, svn := range tcb {
		add(marshal(int(svn), ""), 3, i+1)
	}
	if hwID != nil {
		add(hwID, 4) // without a tag, as AMD's
	}
	if cspID != "" {
		add(marshal(cspID, "ia5"), 5)
	}
	return all
}

var amdPKIs struct {
	sync.Mutex
	m map[string]*amdPKI
}

func amdPKIOf(seed string) *amdPKI {
	amdPKIs.Lock()
	defer amdPKIs.Unlock()
	if p := amdPKIs.m[seed]; p != nil {
		return p
	}
	if amdPKIs.m == nil {
		amdPKIs.m = make(map[string]*amdPKI)
	}
	p := newAMDPKI(seed)
	amdPKIs.m[seed] = p
	return p
}

// SNPOptions change what [NewSNP] makes. The zero value is the ordinary guest on
// the ordinary platform.
type SNPOptions struct {
	// Seed chooses the PKI. The empty one is that of [SNPRoots]; any other is a PKI
	// that the first one knows nothing of.
	Seed string
	// Version is that of the report, 2 to 5; zero means 3.
	Version uint32
	// VLEK has reports signed by the key of a cloud provider in place of the chip's.
	VLEK bool
	// Debug has the guest's policy allow debugging, and MigrationAgent export.
	Debug, MigrationAgent bool
	// VMPL is the privilege level that asks, 0 to 3.
	VMPL uint32
	// MaskChipID has the host hide which chip it is.
	MaskChipID bool
	// NoCertificates has the host send no certificate along.
	NoCertificates bool
	// StapledCRL is sent along with the certificates. nil is none.
	StapledCRL *x509.RevocationList
	// Modify changes the report before it is signed, ReportData included. nil
	// changes nothing.
	Modify func(*sevsnp.Report)
	// Tamper changes the bytes of a finished report, after it was signed, and
	// returns them. nil changes nothing.
	Tamper func(report []byte) []byte
}

// SNP is an SEV-SNP guest in software. Its methods may be called concurrently,
// unless the functions in its options may not.
//
// WARNING: what it signs proves nothing; see the package comment.
type SNP struct {
	opts SNPOptions
	pki  *amdPKI
}

// NewSNP returns a guest; nil options are those of the zero value.
func NewSNP(opts *SNPOptions) *SNP {
	s := &SNP{}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.Version == 0 {
		s.opts.Version = 3
	}
	s.pki = amdPKIOf(s.opts.Seed)
	return s
}

// Quote returns an attestation report over reportData, 1,184 bytes. The same
// arguments give the same bytes, in every process.
func (s *SNP) Quote(reportData [attestext.ReportDataSize]byte) ([]byte, error) {
	r := &sevsnp.Report{
		Version:          s.opts.Version,
		GuestSVN:         snpGuestSVN,
		Policy:           snpPolicyBase,
		VMPL:             s.opts.VMPL,
		CurrentTCB:       defaultSNPTCB,
		ReportedTCB:      defaultSNPTCB,
		CommittedTCB:     defaultSNPTCB,
		LaunchTCB:        defaultSNPTCB,
		PlatformInfo:     1, // SMT
		AuthorKeyEnabled: true,
		ReportData:       reportData,
		Measurement:      measure(measuredSNP),
		IDKeyDigest:      measure(measuredIDKey),
		AuthorKeyDigest:  measure(measuredAuthorKey),
		ReportID:         derive(s.opts.Seed, "report ID"),
		Family:           snpFamily,
		Model:            snpModel,
		Stepping:         snpStepping,
	}
	for i := range r.ReportIDMA {
		r.ReportIDMA[i] = 0xff // none
	}
	if s.opts.Debug {
		r.Policy |= snpPolicyDebug
	}
	if s.opts.MigrationAgent {
		r.Policy |= snpPolicyMigrateMA
	}
	if s.opts.VLEK {
		r.SigningKey = sevsnp.VLEK
	}
	if !s.opts.MaskChipID {
		r.ChipID = chipID(s.opts.Seed)
	}
	if s.opts.Modify != nil {
		s.opts.Modify(r)
	}
	raw := s.sign(r)
	if s.opts.Tamper != nil {
		raw = s.opts.Tamper(raw)
	}
	return raw, nil
}

// sign encodes and signs r. It is written from AMD's description of the format and
// not with the encoder of the library that will read it.
func (s *SNP) sign(r *sevsnp.Report) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, sevsnp.ReportSize)
	tcb := func(t sevsnp.TCB) {
		b = append(b, t.Bootloader, t.TEE, 0, 0, 0, 0, t.SNP, t.Microcode)
	}
	b = le.AppendUint32(b, r.Version)
	b = le.AppendUint32(b, r.GuestSVN)
	b = le.AppendUint64(b, uint64(r.Policy))
	b = append(b, r.FamilyID[:]...)
	b = append(b, r.ImageID[:]...)
	b = le.AppendUint32(b, r.VMPL)
	b = le.AppendUint32(b, 1) // ECDSA P-384 with SHA-384
	tcb(r.CurrentTCB)
	b = le.AppendUint64(b, r.PlatformInfo)
	info := uint32(r.SigningKey) << 2
	if r.AuthorKeyEnabled {
		info |= 1
	}
	b = le.AppendUint32(b, info)
	b = append(b, make([]byte, 4)...)
	for _, f := range [][]byte{
		r.ReportData[:], r.Measurement[:], r.HostData[:], r.IDKeyDigest[:], r.AuthorKeyDigest[:], r.ReportID[:], r.ReportIDMA[:],
	} {
		b = append(b, f...)
	}
	tcb(r.ReportedTCB)
	if r.Version >= 3 {
		b = append(b, r.Family, r.Model, r.Stepping)
	}
	b = append(b, make([]byte, 0x1A0-len(b))...)
	b = append(b, r.ChipID[:]...)
	tcb(r.CommittedTCB)
	for range 2 { // current, committed
		b = append(b, snpFirmware[:]...)
		b = append(b, 0)
	}
	tcb(r.LaunchTCB)
	if r.Version >= 5 {
		b = le.AppendUint64(b, r.LaunchMitigations)
		b = le.AppendUint64(b, r.CurrentMitigations)
	}
	b = append(b, make([]byte, 0x2A0-len(b))...)

	key := s.pki.vcek.key
	if r.SigningKey == sevsnp.VLEK {
		key = s.pki.vlek.key
	}
	h := sha512.Sum384(b)
	der, err := key.Sign(nil, h[:], crypto.SHA384) // RFC 6979
	if err != nil {
		panic("softtee: " + err.Error())
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		panic("softtee: " + err.Error())
	}
	for _, n := range []*big.Int{sig.R, sig.S} {
		field := n.FillBytes(make([]byte, 72))
		slices.Reverse(field)
		b = append(b, field...)
	}
	return append(b, make([]byte, sevsnp.ReportSize-len(b))...)
}

// Certificates returns what the host sends along with a report.
func (s *SNP) Certificates() *sevsnp.Certificates {
	c := &sevsnp.Certificates{CRL: s.opts.StapledCRL}
	if s.opts.NoCertificates {
		return c
	}
	c.ARK = s.pki.ark.cert
	if s.opts.VLEK {
		c.VLEK, c.ASK = s.pki.vlek.cert, s.pki.asvk.cert
	} else {
		c.VCEK, c.ASK = s.pki.vcek.cert, s.pki.ask.cert
	}
	return c
}

// Report returns a report over reportData as the kernel would, with the
// certificates. It implements [attester.Quoter].
func (s *SNP) Report(_ context.Context, reportData [attestext.ReportDataSize]byte) (*tsm.Report, error) {
	b, err := s.Quote(reportData)
	if err != nil {
		return nil, err
	}
	return &tsm.Report{Provider: tsm.ProviderSNP, OutBlob: b, AuxBlob: s.Certificates().Marshal()}, nil
}

// Attester returns an attester on s, with a key attestation key of its own.
func (s *SNP) Attester() attestext.Attester { return attester.New(s) }

// Roots returns the root of s's PKI, without the authorities below it.
func (s *SNP) Roots() *sevsnp.Roots {
	r, err := sevsnp.NewRoots(s.pki.ark.cert)
	if err != nil {
		panic("softtee: " + err.Error())
	}
	return r
}

// RootsPEM returns the root of s's PKI in PEM.
func (s *SNP) RootsPEM() []byte { return pemChain(s.pki.ark.cert) }

// SNPCollateralOptions say what the software AMD says of its platforms.
type SNPCollateralOptions struct {
	// Now is when the collateral was issued, cut to seconds. It must be set.
	Now time.Time
	// NextUpdate is when it expires; zero means 30 days after Now.
	NextUpdate time.Time
	// RevokeASK and RevokeASVK put the authority of VCEKs or of VLEKs on the
	// revocation list.
	RevokeASK, RevokeASVK bool
	// WithCertificates puts the certificates of chip and authorities into it.
	WithCertificates bool
}

// CRL returns the root's revocation list.
func (s *SNP) CRL(o *SNPCollateralOptions) (*x509.RevocationList, error) {
	now, next := o.Now.UTC().Truncate(time.Second), o.NextUpdate.UTC().Truncate(time.Second)
	if o.NextUpdate.IsZero() {
		next = now.Add(collateralLifetime)
	}
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: next, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	revoke := func(serial int64) {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: big.NewInt(serial), RevocationTime: now})
	}
	if o.RevokeASK {
		revoke(serialASK)
	}
	if o.RevokeASVK {
		revoke(serialASVK)
	}
	der, err := x509.CreateRevocationList(nil, l, s.pki.ark.cert, s.pki.ark.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseRevocationList(der)
}

// Collateral returns what the manufacturer publishes about s's platform, signed by
// s's PKI.
func (s *SNP) Collateral(o *SNPCollateralOptions) (*sevsnp.Collateral, error) {
	crl, err := s.CRL(o)
	if err != nil {
		return nil, err
	}
	p := &sevsnp.CollateralParts{VCEKCRLs: [][]byte{crl.Raw}, VLEKCRLs: [][]byte{crl.Raw}}
	if o.WithCertificates {
		for _, c := range []*x509.Certificate{s.pki.vcek.cert, s.pki.ask.cert, s.pki.vlek.cert, s.pki.asvk.cert} {
			p.Certificates = append(p.Certificates, c.Raw)
		}
	}
	return sevsnp.NewCollateral(p)
}

// SNPRoots returns the root of the PKI that guests have whose seed is empty.
//
// WARNING: trusting it is trusting everybody; see the package comment.
func SNPRoots() *sevsnp.Roots { return NewSNP(nil).Roots() }

// SNPRootsPEM returns the certificate of [SNPRoots] in PEM.
func SNPRootsPEM() []byte { return NewSNP(nil).RootsPEM() }

// SNPCollateral returns the collateral of a guest with default options, issued at
// now and valid for 30 days.
func SNPCollateral(now time.Time) (*sevsnp.Collateral, error) {
	return NewSNP(nil).Collateral(&SNPCollateralOptions{Now: now})
}

// SNPMeasurement returns the launch measurement of a guest with default options.
func SNPMeasurement() [sevsnp.MeasurementSize]byte { return measure(measuredSNP) }

// SNPPolicy returns a policy file, for package policy, that accepts a guest with
// default options and no other measurement.
func SNPPolicy() []byte {
	return fmt.Appendf(nil, `{
  "snp": {
    "measurement": ["%x"],
    "id_key_digest": ["%x"],
    "author_key_digest": ["%x"],
    "min_guest_svn": %d,
    "min_tcb": {"bootloader": %d, "tee": %d, "snp": %d, "microcode": %d}
  }
}
`, measure(measuredSNP), measure(measuredIDKey), measure(measuredAuthorKey), snpGuestSVN,
		defaultSNPTCB.Bootloader, defaultSNPTCB.TEE, defaultSNPTCB.SNP, defaultSNPTCB.Microcode)
}
