package softtee

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
)

// What the default TD measures itself to be: each is SHA-384 of [derivation] and
// the string.
const (
	measuredMRTD   = "TD image"
	measuredRTMR0  = "TD firmware configuration"
	measuredRTMR1  = "TD kernel"
	measuredRTMR2  = "TD command line"
	measuredMRSEAM = "TDX module"
)

// Fields of the software platform, chosen to look like a fourth-generation Xeon.
var (
	defaultTeeTcbSvn    = [tdx.TeeTcbSvnSize]byte{3, 0, 5}
	defaultTdAttributes = [tdx.AttributesSize]byte{3: 0x10} // SEPT_VE_DISABLE
	defaultXFAM         = [tdx.AttributesSize]byte{0xe7, 0x02, 0x06}

	platformCPUSVN = [16]byte{5, 5, 2, 2, 3, 1, 0, 3}
	platformFMSPC  = [6]byte{0x50, 0x80, 0x6f}
	platformPCEID  = [2]byte{}

	// qeVendorID and qeMRSIGNER are those of Intel's quoting enclave; verifiers expect them.
	qeVendorID = [16]byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}
	qeMRSIGNER = [32]byte{
		0xdc, 0x9e, 0x2a, 0x7c, 0x6f, 0x94, 0x8f, 0x17, 0x47, 0x4e, 0x34, 0xa7, 0xfc, 0x43, 0xed, 0x03,
		0x0f, 0x7c, 0x15, 0x63, 0xf1, 0xba, 0xbd, 0xdf, 0x63, 0x40, 0xc8, 0x2e, 0x0e, 0x54, 0xa8, 0xc5,
	}
)

const (
	platformPCESVN = 11
	qeISVProdID    = 2
	qeISVSVN       = 4
	qeAuthDataSize = 32

	// Serial numbers, for the revocation lists.
	serialRoot       = 1
	serialPlatformCA = 2
	serialTCBSigning = 3
	serialPCK        = 4

	rootCRLURL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
	pckCRLURL  = "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=platform&encoding=der"
)

// An intelPKI has the names and the shape of Intel's for SGX and TDX: a root, the
// authority that certifies platforms, one platform, and the signer of collateral.
type intelPKI struct {
	root, platformCA, tcbSigning *authority
	platform
}

// A platform is one machine, which quotes with its attestation key; pck certifies it.
type platform struct {
	pck            *authority
	attestationKey *ecdsa.PrivateKey
}

func newIntelPKI(seed string) *intelPKI {
	p := &intelPKI{}
	p.root = issue(seed, "Intel SGX Root CA", serialRoot, true, nil, rootCRLURL)
	p.platformCA = issue(seed, "Intel SGX PCK Platform CA", serialPlatformCA, true, p.root, rootCRLURL)
	p.tcbSigning = issue(seed, "Intel SGX TCB Signing", serialTCBSigning, false, p.root, rootCRLURL)
	p.platform = newPlatform(&TDXOptions{Seed: seed}, p.platformCA)
	return p
}

// newPlatform makes the machine of o, below ca.
func newPlatform(o *TDXOptions, ca *authority) platform {
	seed, serial := o.Seed, int64(serialPCK)
	if o.Machine != "" {
		seed += "\x00" + o.Machine
		d := derive(seed, "serial number")
		serial += 1 + int64(binary.BigEndian.Uint32(d[:]))
	}
	instance := platformInstanceID(seed)
	if o.ZeroPlatformID {
		instance = [tdx.PlatformInstanceIDSize]byte{}
	}
	svn := platformCPUSVN
	if o.OldTCB {
		svn = oldCPUSVN()
	}
	return platform{
		pck:            issue(seed, "Intel SGX PCK Certificate", serial, false, ca, pckCRLURL, sgxExtension(seed, instance, svn)),
		attestationKey: deriveKey(seed, "attestation key"),
	}
}

// oldCPUSVN is that of platforms with OldTCB.
func oldCPUSVN() [16]byte {
	svn := platformCPUSVN
	svn[0]--
	return svn
}

// sgxExtension is the extension of PCK certificates that names the platform and
// its TCB level: Intel's "SGX PCK Certificate and CRL Profile Specification",
// section 1.3.5.
func sgxExtension(seed string, instance [tdx.PlatformInstanceIDSize]byte, cpuSVN [16]byte) pkix.Extension {
	base := asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
	oid := func(arcs ...int) asn1.ObjectIdentifier {
		return append(base[:len(base):len(base)], arcs...)
	}
	type item struct {
		ID    asn1.ObjectIdentifier
		Value any
	}
	var tcb []item
	for i, svn := range cpuSVN {
		tcb = append(tcb, item{oid(2, i+1), int(svn)})
	}
	tcb = append(tcb, item{oid(2, 17), platformPCESVN}, item{oid(2, 18), cpuSVN[:]})
	ppid := derive(seed, "PPID")
	der, err := asn1.Marshal([]item{
		{oid(1), ppid[:16]},
		{oid(2), tcb},
		{oid(3), platformPCEID[:]},
		{oid(4), platformFMSPC[:]},
		{oid(6), instance[:]},
	})
	if err != nil {
		panic("softtee: " + err.Error())
	}
	return pkix.Extension{Id: base, Value: der}
}

func platformInstanceID(seed string) (id [tdx.PlatformInstanceIDSize]byte) {
	d := derive(seed, "platform instance ID")
	copy(id[:], d[:])
	return id
}

// TDXOptions change what [NewTDX] makes. The zero value is the ordinary TD on the
// ordinary platform.
type TDXOptions struct {
	// Seed chooses the PKI. The empty one is that of [Roots]; any other is a PKI
	// that the first one knows nothing of.
	Seed string
	// Machine chooses the platform; any but the empty one is another machine of the
	// same PKI, with an identity and keys of its own.
	Machine string
	// OldTCB has the manufacturer certify the platform at a TCB level below that of
	// the ordinary one. Collateral knows the level only with OldTCBStatus.
	OldTCB bool
	// Debug has the TD run under debug.
	Debug bool
	// ForeignQE has the quote signed by an enclave of the platform's owner, which
	// will sign anything, in place of Intel's quoting enclave. The platform
	// certifies it all the same.
	ForeignQE bool
	// DebugQE has the quoting enclave run under debug, so that its owner can read
	// its key.
	DebugQE bool
	// ZeroPlatformID has the certificate of the platform carry zeros where its
	// identity is.
	ZeroPlatformID bool
	// Modify changes the report body before it is signed, ReportData included.
	// Only fields of the body count. nil changes nothing.
	Modify func(body *tdx.Quote)
	// Tamper changes the bytes of a finished quote, after it was signed, and
	// returns them. nil changes nothing.
	Tamper func(quote []byte) []byte
}

// TDX is a trust domain in software. Its methods may be called concurrently,
// unless the functions in its options may not.
//
// WARNING: what it signs proves nothing; see the package comment.
type TDX struct {
	opts TDXOptions
	pki  *intelPKI
}

// NewTDX returns a trust domain; nil options are those of the zero value.
func NewTDX(opts *TDXOptions) *TDX {
	t := &TDX{}
	if opts != nil {
		t.opts = *opts
	}
	t.pki = pkiOf(t.opts.Seed)
	if t.opts.Machine != "" || t.opts.OldTCB || t.opts.ZeroPlatformID {
		p := *t.pki
		p.platform = newPlatform(&t.opts, p.platformCA)
		t.pki = &p
	}
	return t
}

// Quote returns a TDX quote of version 4 over reportData, about 4,000 bytes. The
// same arguments give the same bytes, in every process.
func (t *TDX) Quote(reportData [attestext.ReportDataSize]byte) ([]byte, error) {
	q := &tdx.Quote{
		TeeTcbSvn:    defaultTeeTcbSvn,
		MRSEAM:       measure(measuredMRSEAM),
		TdAttributes: defaultTdAttributes,
		XFAM:         defaultXFAM,
		MRTD:         measure(measuredMRTD),
		RTMRs:        [tdx.RTMRCount]tdx.Measurement{measure(measuredRTMR0), measure(measuredRTMR1), measure(measuredRTMR2)},
		ReportData:   reportData,
	}
	if t.opts.Debug {
		q.TdAttributes[0] |= 1
	}
	if t.opts.Modify != nil {
		t.opts.Modify(q)
	}
	raw := t.quote(q)
	if t.opts.Tamper != nil {
		raw = t.opts.Tamper(raw)
	}
	return raw, nil
}

// Report returns a quote over reportData as the kernel would report it. It
// implements [attester.Quoter].
func (t *TDX) Report(_ context.Context, reportData [attestext.ReportDataSize]byte) (*tsm.Report, error) {
	q, err := t.Quote(reportData)
	if err != nil {
		return nil, err
	}
	return &tsm.Report{Provider: tsm.ProviderTDX, OutBlob: q}, nil
}

// Attester returns an attester on t, with a key attestation key of its own.
func (t *TDX) Attester() attestext.Attester { return attester.New(t) }

// quote signs the body of q. It is written from Intel's description of the format
// and not with the encoder of the library that will read it.
func (t *TDX) quote(q *tdx.Quote) []byte {
	le, p := binary.LittleEndian, t.pki

	// Header, then TD report body: what the attestation key signs.
	var b []byte
	b = le.AppendUint16(b, 4)         // version
	b = le.AppendUint16(b, 2)         // attestation key type: ECDSA P-256
	b = le.AppendUint32(b, 0x81)      // TEE type: TDX
	b = append(b, make([]byte, 4)...) // reserved
	b = append(b, qeVendorID[:]...)   //
	b = append(b, make([]byte, 20)...)
	for _, f := range [][]byte{
		q.TeeTcbSvn[:], q.MRSEAM[:], q.MRSIGNERSEAM[:], q.SEAMAttributes[:], q.TdAttributes[:], q.XFAM[:],
		q.MRTD[:], q.MRConfigID[:], q.MROwner[:], q.MROwnerConfig[:],
		q.RTMRs[0][:], q.RTMRs[1][:], q.RTMRs[2][:], q.RTMRs[3][:], q.ReportData[:],
	} {
		b = append(b, f...)
	}
	signature := sign(p.attestationKey, b)

	// QE report, an SGX report body, which the platform's key signs: it vouches
	// for the attestation key by its hash.
	key := publicXY(p.attestationKey)
	auth := make([]byte, qeAuthDataSize)
	for i := range auth {
		auth[i] = byte(i)
	}
	report := make([]byte, 384)
	copy(report[0:], platformCPUSVN[:])
	report[48] = 0x11 // ATTRIBUTES: INIT, PROVISION_KEY
	if t.opts.DebugQE {
		report[48] |= 0x02
	}
	signer := qeMRSIGNER
	if t.opts.ForeignQE {
		signer = derive(t.opts.Seed, "foreign QE")
	}
	copy(report[128:], signer[:])
	le.PutUint16(report[256:], qeISVProdID)
	le.PutUint16(report[258:], qeISVSVN)
	keyHash := sha256.Sum256(append(key[:len(key):len(key)], auth...))
	copy(report[320:], keyHash[:])

	chain := pemChain(p.pck.cert, p.platformCA.cert, p.root.cert)
	var qe []byte
	qe = append(qe, report...)
	qe = append(qe, sign(p.pck.key, report)...)
	qe = le.AppendUint16(qe, uint16(len(auth)))
	qe = append(qe, auth...)
	qe = le.AppendUint16(qe, 5) // PCK certificate chain
	qe = le.AppendUint32(qe, uint32(len(chain)))
	qe = append(qe, chain...)

	var data []byte
	data = append(data, signature...)
	data = append(data, key...)
	data = le.AppendUint16(data, 6) // QE report certification data
	data = le.AppendUint32(data, uint32(len(qe)))
	data = append(data, qe...)

	b = le.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// Roots returns a new pool with the root of t's PKI.
func (t *TDX) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(t.pki.root.cert)
	return pool
}

// RootsPEM returns the root of t's PKI in PEM.
func (t *TDX) RootsPEM() []byte { return pemChain(t.pki.root.cert) }

// Roots returns a new pool with the root of the PKI that TDs have whose seed is
// empty.
//
// WARNING: trusting it is trusting everybody; see the package comment.
func Roots() *x509.CertPool { return NewTDX(nil).Roots() }

// RootsPEM returns the certificate of [Roots] in PEM.
func RootsPEM() []byte { return NewTDX(nil).RootsPEM() }

// TDXMeasurements returns MRTD and RTMR 0 to 3 of a TD with default options.
func TDXMeasurements() (mrtd tdx.Measurement, rtmrs [tdx.RTMRCount]tdx.Measurement) {
	return measure(measuredMRTD), [tdx.RTMRCount]tdx.Measurement{measure(measuredRTMR0), measure(measuredRTMR1), measure(measuredRTMR2)}
}

// Policy returns a policy file, for package policy, that accepts a TD with default
// options and no other measurement.
func Policy() []byte {
	mrtd, rtmrs := TDXMeasurements()
	return fmt.Appendf(nil, `{
  "tdx": {
    "mrtd": ["%x"],
    "rtmr0": ["%x"],
    "rtmr1": ["%x"],
    "rtmr2": ["%x"],
    "rtmr3": ["%x"],
    "min_tee_tcb_svn": "%x"
  }
}
`, mrtd, rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3], defaultTeeTcbSvn)
}

// CollateralOptions say what the software Intel says of its platforms.
type CollateralOptions struct {
	// Now is when the collateral was issued, cut to seconds. It must be set.
	Now time.Time
	// NextUpdate is when it expires; zero means 30 days after Now.
	NextUpdate time.Time

	// TCBStatus, ModuleStatus and QEStatus are the TCB status of the platform, of
	// its TDX module (where TEE_TCB_SVN[1] is not zero) and of its quoting
	// enclave, in Intel's words: "UpToDate", which is what empty means,
	// "OutOfDate", "SWHardeningNeeded", "Revoked" and so on.
	TCBStatus, ModuleStatus, QEStatus string

	// TCBAdvisories, ModuleAdvisories and QEAdvisories are identifiers of what
	// affects each of them, such as INTEL-SA-00615.
	TCBAdvisories, ModuleAdvisories, QEAdvisories []string

	// TCBDate is the date of all these levels; zero means 2024-01-01.
	TCBDate time.Time
	// NewerTCB are the dates of levels above that of the platform, UpToDate all of
	// them, which it is not at; the latest comes first.
	NewerTCB []time.Time

	// OldTCBStatus is that of platforms with OldTCB; empty leaves their level out.
	OldTCBStatus string

	// QESVN is the security version that quoting enclaves need for the one level that
	// there is; zero means that of t's.
	QESVN uint16

	// RevokePCK, RevokePlatformCA and RevokeTCBSigning put a certificate on its
	// issuer's revocation list.
	RevokePCK, RevokePlatformCA, RevokeTCBSigning bool

	// FMSPC makes it the collateral of another family of platforms.
	FMSPC *[6]byte

	// TCBEvaluation is the tcbEvaluationDataNumber of TCB info, and QEEvaluation that of
	// the QE identity; zero means 15.
	TCBEvaluation, QEEvaluation int
}

const collateralLifetime = 30 * 24 * time.Hour

// Collateral returns what the manufacturer publishes about t's platform: TCB
// info, QE identity and revocation lists, signed by t's PKI.
func (t *TDX) Collateral(o *CollateralOptions) (*tdx.Collateral, error) {
	p := t.pki
	now, next := o.Now.UTC().Truncate(time.Second), o.NextUpdate.UTC().Truncate(time.Second)
	if o.NextUpdate.IsZero() {
		next = now.Add(collateralLifetime)
	}
	fmspc := platformFMSPC
	if o.FMSPC != nil {
		fmspc = *o.FMSPC
	}
	status := func(s string) string {
		if s == "" {
			return tdx.TCBUpToDate
		}
		return s
	}
	components := func(svn [16]byte) string {
		s := "["
		for i, v := range svn {
			if i > 0 {
				s += ","
			}
			s += fmt.Sprintf(`{"svn":%d}`, v)
		}
		return s + "]"
	}
	dates := func(evaluation int) string {
		const standard = 15
		return fmt.Sprintf(`"issueDate":%q,"nextUpdate":%q,"tcbEvaluationDataNumber":%d`,
			now.Format(time.RFC3339), next.Format(time.RFC3339), cmp.Or(evaluation, standard))
	}
	if o.TCBDate.IsZero() {
		o = new(*o)
		o.TCBDate = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	level := func(tcb string, date time.Time, s string, advisories []string) string {
		l := fmt.Sprintf(`{"tcb":{%s},"tcbDate":%q,"tcbStatus":%q`, tcb, date.UTC().Format(time.RFC3339), status(s))
		for i, a := range advisories {
			l += fmt.Sprintf("%s%q", []string{`,"advisoryIDs":[`, ","}[min(i, 1)], a)
		}
		if len(advisories) > 0 {
			l += "]"
		}
		return l + "}"
	}
	platform := func(cpuSVN [16]byte, pceSVN int) string {
		return fmt.Sprintf(`"sgxtcbcomponents":%s,"pcesvn":%d,"tdxtcbcomponents":%s`, components(cpuSVN), pceSVN, components(defaultTeeTcbSvn))
	}
	levels := ""
	for i, date := range o.NewerTCB {
		levels += level(platform(platformCPUSVN, platformPCESVN+len(o.NewerTCB)-i), date, "", nil) + ","
	}
	levels += level(platform(platformCPUSVN, platformPCESVN), o.TCBDate, o.TCBStatus, o.TCBAdvisories)
	if o.OldTCBStatus != "" {
		levels += "," + level(platform(oldCPUSVN(), platformPCESVN), o.TCBDate, o.OldTCBStatus, nil)
	}
	module := fmt.Sprintf(`"mrsigner":"%x","attributes":"%x","attributesMask":"ffffffffffffffff"`, tdx.Measurement{}, [tdx.AttributesSize]byte{})
	tcbInfo := fmt.Sprintf(`{"id":"TDX","version":3,%s,"fmspc":"%x","pceId":"%x","tcbType":0,"tdxModule":{%s},`+
		`"tdxModuleIdentities":[{"id":"TDX_01",%s,"tcbLevels":[%s]}],"tcbLevels":[%s]}`,
		dates(o.TCBEvaluation), fmspc, platformPCEID, module, module,
		level(fmt.Sprintf(`"isvsvn":%d`, defaultTeeTcbSvn[0]), o.TCBDate, o.ModuleStatus, o.ModuleAdvisories), levels)
	qeIdentity := fmt.Sprintf(`{"id":"TD_QE","version":2,%s,"miscselect":"00000000","miscselectMask":"ffffffff",`+
		`"attributes":"11000000000000000000000000000000","attributesMask":"fbffffffffffffff0000000000000000",`+
		`"mrsigner":"%x","isvprodid":%d,"tcbLevels":[%s]}`,
		dates(o.QEEvaluation), qeMRSIGNER, qeISVProdID, level(fmt.Sprintf(`"isvsvn":%d`, cmp.Or(o.QESVN, qeISVSVN)), o.TCBDate, o.QEStatus, o.QEAdvisories))

	signed := func(name, body string) []byte {
		return fmt.Appendf(nil, `{%q:%s,"signature":%q}`, name, body, hex.EncodeToString(sign(p.tcbSigning.key, []byte(body))))
	}
	type revocation struct {
		cert    *authority
		revoked bool
	}
	crl := func(issuer *authority, revocations ...revocation) ([]byte, error) {
		l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: next}
		for _, r := range revocations {
			if r.revoked {
				l.RevokedCertificateEntries = append(l.RevokedCertificateEntries,
					x509.RevocationListEntry{SerialNumber: r.cert.cert.SerialNumber, RevocationTime: now})
			}
		}
		return x509.CreateRevocationList(nil, l, issuer.cert, issuer.key)
	}
	rootCRL, err := crl(p.root, revocation{p.platformCA, o.RevokePlatformCA}, revocation{p.tcbSigning, o.RevokeTCBSigning})
	if err != nil {
		return nil, err
	}
	pckCRL, err := crl(p.platformCA, revocation{p.pck, o.RevokePCK})
	if err != nil {
		return nil, err
	}
	signer := string(pemChain(p.tcbSigning.cert, p.root.cert))
	return tdx.NewCollateral(&tdx.PCSResponses{
		TCBInfo:    tdx.Response{Body: signed("tcbInfo", tcbInfo), IssuerChain: signer},
		QEIdentity: tdx.Response{Body: signed("enclaveIdentity", qeIdentity), IssuerChain: signer},
		PCKCRL:     tdx.Response{Body: pckCRL, IssuerChain: string(pemChain(p.platformCA.cert, p.root.cert))},
		RootCRL:    tdx.Response{Body: rootCRL},
	})
}

// Collateral returns the collateral of a TD with default options, issued at now
// and valid for 30 days.
func Collateral(now time.Time) (*tdx.Collateral, error) {
	return NewTDX(nil).Collateral(&CollateralOptions{Now: now})
}
