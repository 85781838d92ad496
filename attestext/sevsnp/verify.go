package sevsnp

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/revocation"
	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	pb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
)

// VerifyOptions say what a report is verified against. Verify does not change
// them; the same options serve concurrent calls.
type VerifyOptions struct {
	// Roots are the certificates that the platform's chain and the revocation lists
	// must begin with. nil means AMD's, the only ones that real hardware has. Roots
	// that are not nil and empty are an error.
	Roots *Roots

	// Collateral has the revocation lists, and certificates that a peer may not
	// send. Where it has no list for the key that signed the report, as where it is nil,
	// the peer has to send one that is current, unless InsecureSkipCollateral is set.
	// Nothing is ever fetched.
	Collateral *Collateral

	// OwnListsOnly has a list that the peer has sent stand in for none that Collateral
	// lacks. Which of those that are current it sends is up to the peer: it may be from
	// before a revocation, or that of the other kind of key, since a list does not say
	// which it is. In any case a peer's list can revoke.
	OwnListsOnly bool

	// InsecureSkipCollateral does without a revocation list. One that is there is
	// checked all the same.
	//
	// WARNING: platforms of an authority whose key has been extracted and revoked
	// pass.
	InsecureSkipCollateral bool

	// Cache remembers which platforms were verified, and against what, so that the
	// next report of such a platform costs one signature. nil remembers nothing. What
	// is accepted is the same with and without.
	Cache *Cache

	// Now is the time at which certificates and revocation lists must be valid. Zero
	// means the current time.
	Now time.Time
}

// Verified is a report that has been verified. Only [Verify] makes one that is not
// empty. Its methods may be called concurrently.
type Verified struct {
	report     Report
	collateral bool
	line       string
	cspID      string
	issued     time.Time // of the revocation list; zero where there was none
}

const opVerify = "verify SNP report"

func fail(class error, format string, args ...any) error {
	return attestext.Errorf(class, opVerify, format, args...)
}

// Verify checks that r was signed by a key that the PKI below opts.Roots vouches
// for, that the certificate of that key is for the chip ID and the TCB in the
// report, and that no authority on the way is revoked. c are the certificates that
// came with r; nil are none. nil options are those of the zero value, which lack
// collateral.
//
// It decides nothing else: a guest that can be debugged verifies, and so does one
// on a TCB with known holes, for AMD does not say which those are.
//
// The classes of errors are
//
//   - [attestext.ErrSignature]: a signature or a chain does not verify; a
//     certificate has expired, is revoked or is for another chip or TCB; the report
//     is not signed.
//   - [attestext.ErrPolicy]: every revocation list has expired, so that nobody
//     vouches for the platform today.
//   - [attestext.ErrUnavailable]: there is no revocation list by the platform's
//     root; a certificate of the chain is missing; there are no trusted roots.
//   - [attestext.ErrMalformed]: r does not come from [Parse], or a certificate is
//     none of AMD's by its contents.
func Verify(r *Report, c *Certificates, opts *VerifyOptions) (*Verified, error) {
	if opts == nil {
		opts = &VerifyOptions{}
	}
	if r == nil || len(r.raw) == 0 {
		return nil, fail(attestext.ErrMalformed, "report was not parsed")
	}
	// The fields of r are the caller's; those of the bytes that are verified count.
	fresh, err := Parse(r.raw)
	if err != nil {
		return nil, err
	}
	if c == nil {
		c = &Certificates{}
	}
	roots := opts.Roots
	if roots == nil {
		roots = AMDRoots()
	}
	if len(roots.arks) == 0 {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opVerify, Err: errEmptyRoots}
	}
	lists, peers := listsFor(fresh, c, opts)
	if len(lists) == 0 && !opts.InsecureSkipCollateral {
		return nil, fail(attestext.ErrUnavailable,
			"no revocation list for reports that a %v signs: supply AMD's in the collateral, have the peer send it, or skip it explicitly", fresh.SigningKey)
	}
	now := opts.Now
	if now.IsZero() {
		now = time.Now()
	}
	leaf, err := endorsement(fresh, c, opts.Collateral)
	if err != nil {
		return nil, err
	}
	key := cacheKey(fresh, leaf, c, roots, opts.Collateral, lists, peers)
	if v := opts.Cache.verify(key, fresh, leaf, now, opts.InsecureSkipCollateral); v != nil {
		return v, nil
	}
	ark, authority, err := leaf.verify(fresh, c, roots, opts.Collateral, now)
	if err != nil {
		return nil, err
	}
	v := &Verified{report: *fresh, line: leaf.line, cspID: leaf.exts.CspID}
	chain := &known{leaf: leaf.cert, ark: ark, authority: authority, lists: revocation.By(ark, lists), peers: revocation.By(ark, peers)}
	err = chain.checkRevocation(now)
	var revoked *revocation.RevokedError
	switch {
	case err == nil:
		v.collateral, v.issued = true, revocation.Newest(chain.lists, now)
	case errors.As(err, &revoked):
		return nil, &attestext.Error{Class: attestext.ErrSignature, Op: opVerify, Err: err}
	case errors.Is(err, revocation.ErrNoList) && opts.InsecureSkipCollateral:
	case errors.Is(err, revocation.ErrNoList):
		return nil, fail(attestext.ErrUnavailable, "%w, %s: supply AMD's in the collateral, have the peer send it, or skip it explicitly", err, ark.Subject.CommonName)
	default:
		return nil, &attestext.Error{Class: attestext.ErrPolicy, Op: opVerify, Err: err}
	}
	opts.Cache.remember(key, chain)
	return v, nil
}

// listsFor returns the revocation lists that there are for r, whoever signed them: those
// that count, and the peer's where it can only revoke.
func listsFor(r *Report, c *Certificates, opts *VerifyOptions) (lists, peers []*x509.RevocationList) {
	lists = opts.Collateral.crls(r.SigningKey)
	switch {
	case c.CRL == nil:
	case len(lists) == 0 && !opts.OwnListsOnly:
		lists = []*x509.RevocationList{c.CRL}
	default:
		peers = []*x509.RevocationList{c.CRL}
	}
	return lists, peers
}

// checkRevocation checks that neither authority of k is on a list, and that there is one
// that counts and is current.
//
// AMD revokes authorities. It does not revoke the certificates of chips, which a new
// TCB makes anew, and all of which have the same serial number. go-sev-guest has a check
// of revocation, but it looks neither at the authority of VLEKs nor at dates, and would
// fetch.
func (k *known) checkRevocation(now time.Time) error {
	certs := []*x509.Certificate{k.authority, k.ark}
	if err := revocation.Check(certs, k.peers, now); errors.As(err, new(*revocation.RevokedError)) {
		return err
	}
	return revocation.Check(certs, k.lists, now)
}

// A leaf is the certificate of the key that signs reports.
type leaf struct {
	cert *x509.Certificate
	key  SigningKey
	exts *kds.Extensions
	line string
}

// endorsement returns the certificate for the key that r says it is signed by:
// the peer's, or else one of the collateral's for the same chip and TCB.
func endorsement(r *Report, c *Certificates, collateral *Collateral) (*leaf, error) {
	cert, name := c.VCEK, vcekCommonName
	switch r.SigningKey {
	case VCEK:
	case VLEK:
		cert, name = c.VLEK, vlekCommonName
	default:
		return nil, fail(attestext.ErrSignature, "report is not signed (signing key: %v)", r.SigningKey)
	}
	if cert != nil {
		l, err := newLeaf(cert, r)
		if err != nil {
			return nil, err
		}
		if err := l.matches(r); err != nil {
			return nil, &attestext.Error{Class: attestext.ErrSignature, Op: opVerify, Err: err}
		}
		return l, nil
	}
	for _, cert := range collateral.certificates() {
		if cert.Subject.CommonName != name {
			continue
		}
		if l, err := newLeaf(cert, r); err == nil && l.matches(r) == nil {
			return l, nil
		}
	}
	return nil, fail(attestext.ErrUnavailable,
		"no %v certificate for chip %s at %v: the peer sent none, and the collateral has none", r.SigningKey, shortChip(r.ChipID), r.ReportedTCB)
}

func shortChip(id [ChipIDSize]byte) string {
	if zero(id[:]) {
		return "(masked)"
	}
	return hex.EncodeToString(id[:8]) + "…"
}

// newLeaf reads what cert says of itself. The product line is the report's where
// it has one, since the certificates of some chips name another stepping or line.
func newLeaf(cert *x509.Certificate, r *Report) (l *leaf, err error) {
	defer func() {
		if p := recover(); p != nil {
			l, err = nil, fail(attestext.ErrMalformed, "reading a certificate panicked: %v", p)
		}
	}()
	key := abi.ReportSigner(r.SigningKey)
	exts, err := kds.CertificateExtensions(cert, key)
	if err != nil {
		return nil, fail(attestext.ErrMalformed, "%v certificate: %w", r.SigningKey, err)
	}
	l = &leaf{cert: cert, key: r.SigningKey, exts: exts}
	if r.Version >= versionWithCPUID {
		l.line = kds.ProductLineFromFms(abi.FmsToCpuid1Eax(r.Family, r.Model, r.Stepping))
	} else {
		product, err := kds.ParseProductName(exts.ProductName, key)
		if err != nil {
			return nil, fail(attestext.ErrMalformed, "%v certificate: %w", r.SigningKey, err)
		}
		l.line = kds.ProductLine(product)
	}
	if !slices.Contains(productLines, l.line) {
		return nil, fail(attestext.ErrMalformed, "product line %q is not supported, want one of %q", l.line, productLines)
	}
	return l, nil
}

// matches checks that l is for the chip and the TCB that r names. go-sev-guest
// leaves both to its callers. A report whose chip ID is masked names no chip.
func (l *leaf) matches(r *Report) error {
	if l.key == VCEK && !zero(r.ChipID[:]) && !bytes.Equal(l.exts.HWID, r.ChipID[:]) {
		return fmt.Errorf("VCEK certificate is for another chip (%x…) than the report (%s)", l.exts.HWID[:8], shortChip(r.ChipID))
	}
	p := kds.DecomposeTCBVersion(l.exts.TCBVersion)
	certified := TCB{Bootloader: p.BlSpl, TEE: p.TeeSpl, SNP: p.SnpSpl, Microcode: p.UcodeSpl}
	if certified != r.ReportedTCB {
		return fmt.Errorf("%v certificate is for another TCB (%v) than the report (%v)", l.key, certified, r.ReportedTCB)
	}
	return nil
}

// verify finds a root and an authority below it under which l and the signature
// of r verify.
func (l *leaf) verify(r *Report, c *Certificates, roots *Roots, collateral *Collateral, now time.Time) (ark, authority *x509.Certificate, err error) {
	authorities := slices.Clone(roots.authorities)
	if c.ASK != nil {
		authorities = append(authorities, c.ASK)
	}
	authorities = append(authorities, collateral.certificates()...)
	name := askPrefix + l.line
	if l.key == VLEK {
		name = asvkPrefix + l.line
	}
	var named bool
	err = fail(attestext.ErrSignature, "no trusted root for %s: its certificate must be named %s", l.line, arkPrefix+l.line)
	for _, ark := range roots.arks {
		if ark.Subject.CommonName != arkPrefix+l.line {
			continue
		}
		var tried []*x509.Certificate
		for _, a := range authorities {
			if a.Subject.CommonName != name || slices.ContainsFunc(tried, a.Equal) {
				continue
			}
			tried, named = append(tried, a), true
			if !signed(a, ark) {
				err = fail(attestext.ErrSignature, "%s is not signed by the trusted %s", name, ark.Subject.CommonName)
				continue
			}
			if err = l.verifyUnder(r.raw, ark, a, now); err == nil {
				return ark, a, nil
			}
		}
		if !named {
			err = fail(attestext.ErrUnavailable, "no certificate of %s: the peer sent none, and neither roots nor collateral have it", name)
		}
	}
	return nil, nil, err
}

// verifyUnder runs go-sev-guest with one root and one authority. Its options are
// made anew for each call, because it writes to them, and have exactly one root,
// because with none it falls back on its own. It is told not to fetch anything.
func (l *leaf) verifyUnder(raw []byte, ark, authority *x509.Certificate, now time.Time) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fail(attestext.ErrMalformed, "verification panicked: %v", p)
		}
	}()
	m, err := toProto(raw)
	if err != nil {
		return err
	}
	product, err := kds.ParseProductLine(l.line)
	if err != nil {
		return &attestext.Error{Class: attestext.ErrMalformed, Op: opVerify, Err: err}
	}
	certs := &trust.ProductCerts{Ark: ark}
	chain := &pb.CertificateChain{}
	if l.key == VLEK {
		certs.Asvk, chain.VlekCert = authority, l.cert.Raw
	} else {
		certs.Ask, chain.VcekCert = authority, l.cert.Raw
	}
	// A product line and no stepping: that of the certificates of some chips is wrong.
	product.MachineStepping = nil
	err = verify.SnpAttestation(&pb.Attestation{Report: m, CertificateChain: chain}, &verify.Options{
		DisableCertFetching: true,
		Getter:              offline{},
		Now:                 now,
		TrustedRoots:        map[string][]*trust.AMDRootCerts{l.line: {{ProductLine: l.line, ProductCerts: certs}}},
		Product:             product,
	})
	if err != nil {
		return &attestext.Error{Class: attestext.ErrSignature, Op: opVerify, Err: err}
	}
	return nil
}

// offline is a Getter that gets nothing.
type offline struct{}

func (offline) Get(url string) ([]byte, error) {
	return nil, fmt.Errorf("%s is not fetched", url)
}

// Report returns a copy of the report.
func (v *Verified) Report() *Report { r := v.report; return &r }

// Measurement returns the launch measurement.
func (v *Verified) Measurement() [MeasurementSize]byte { return v.report.Measurement }

// HostData returns what the host said of the guest at launch.
func (v *Verified) HostData() [HostDataSize]byte { return v.report.HostData }

// IDKeyDigest returns the digest of the key that signed the guest's ID block, zero
// where there is none.
func (v *Verified) IDKeyDigest() [DigestSize]byte { return v.report.IDKeyDigest }

// AuthorKeyDigest returns the digest of the key that signed the ID key, zero where
// there is none.
func (v *Verified) AuthorKeyDigest() [DigestSize]byte {
	if !v.report.AuthorKeyEnabled {
		return [DigestSize]byte{}
	}
	return v.report.AuthorKeyDigest
}

// FamilyID returns what the guest's owner called the family of the guest, and ImageID
// the guest itself; zero where there is no ID block.
func (v *Verified) FamilyID() [IDSize]byte { return v.report.FamilyID }

// ImageID is described at FamilyID.
func (v *Verified) ImageID() [IDSize]byte { return v.report.ImageID }

// ReportData returns what the guest asked to be signed.
func (v *Verified) ReportData() [attestext.ReportDataSize]byte { return v.report.ReportData }

// TCBs returns the components of the TCB that the signing key is bound to, of the
// one that is running and of the one that the host cannot go back behind:
// bootloader, TEE, SNP firmware and microcode.
func (v *Verified) TCBs() (reported, current, committed [4]uint8) {
	r := &v.report
	return r.ReportedTCB.Components(), r.CurrentTCB.Components(), r.CommittedTCB.Components()
}

// GuestPolicy returns POLICY, what the guest's owner lets the host do to it, and
// PlatformInfo PLATFORM_INFO, what the firmware says of the machine, each in the order of
// the bytes in the report.
func (v *Verified) GuestPolicy() [8]byte { return [8]byte(v.report.raw[policyOffset:]) }

// PlatformInfo is described at GuestPolicy.
func (v *Verified) PlatformInfo() [8]byte { return [8]byte(v.report.raw[platformInfoOffset:]) }

// GuestSVN returns the security version of the guest.
func (v *Verified) GuestSVN() uint32 { return v.report.GuestSVN }

// VMPL returns the privilege level inside the guest that asked for the report.
func (v *Verified) VMPL() uint32 { return v.report.VMPL }

// Debug reports whether the guest can be debugged; see [GuestPolicy.Debug].
func (v *Verified) Debug() bool { return v.report.Policy.Debug() }

// MigrationAgent reports whether the guest can be exported; see
// [GuestPolicy.MigrationAgent].
func (v *Verified) MigrationAgent() bool { return v.report.Policy.MigrationAgent() }

// ChipID returns the 64 bytes that tell one chip from another, or nil where the
// host masks them. The caller must not change it.
func (v *Verified) ChipID() []byte {
	if zero(v.report.ChipID[:]) {
		return nil
	}
	return v.report.ChipID[:]
}

// CollateralChecked reports whether revocation was checked.
func (v *Verified) CollateralChecked() bool { return v.collateral }

// CollateralIssued returns when the newest revocation list was issued that was current
// and covers the report's authority; zero where revocation was not checked.
func (v *Verified) CollateralIssued() time.Time { return v.issued }

// ProductLine returns Milan or Genoa.
func (v *Verified) ProductLine() string { return v.line }

// CSPID returns the cloud provider that a VLEK certificate names; empty for a VCEK.
func (v *Verified) CSPID() string { return v.cspID }
