package sevsnp_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/internal/sidecar"
	"github.com/google/go-sev-guest/abi"
	pb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/validate"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
)

var (
	testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	amdTime  = time.Date(2023, 7, 1, 0, 0, 0, 0, time.UTC)
)

// soft returns the report and the certificates of a guest in software.
func soft(t testing.TB, opts *softtee.SNPOptions) ([]byte, *sevsnp.Certificates) {
	t.Helper()
	s := softtee.NewSNP(opts)
	raw, err := s.Quote([64]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	return raw, s.Certificates()
}

func parse(t testing.TB, raw []byte) *sevsnp.Report {
	t.Helper()
	r, err := sevsnp.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func collateral(t testing.TB, o softtee.SNPCollateralOptions) *sevsnp.Collateral {
	t.Helper()
	if o.Now.IsZero() {
		o.Now = testTime
	}
	c, err := softtee.NewSNP(nil).Collateral(&o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func options(t testing.TB) *sevsnp.VerifyOptions {
	return &sevsnp.VerifyOptions{Roots: softtee.SNPRoots(), Collateral: collateral(t, softtee.SNPCollateralOptions{}), Now: testTime}
}

func wantClass(t testing.TB, err, class error) {
	t.Helper()
	if !errors.Is(err, class) || attestext.Class(err) != class {
		t.Errorf("got error %v, want class %v", err, class)
	}
}

// expected is what the sidecar of a file of testdata says that it must do.
type expected struct {
	VerifiesAt     time.Time `json:"verifies_at"`
	Certificate    string
	ProductLine    string `json:"product_line"`
	Measurement    string
	ReportData     string `json:"report_data"`
	ChipID         string `json:"chip_id"`
	ReportedTCB    string `json:"reported_tcb"`
	GuestSVN       uint32 `json:"guest_svn"`
	VMPL           uint32
	Debug          bool
	MigrationAgent bool `json:"migration_agent"`
}

func TestRecordedEvidenceIsAsItsSidecarSays(t *testing.T) {
	sidecar.Check(t, func(t *testing.T, f *sidecar.File[expected]) {
		switch filepath.Ext(f.File) {
		case ".report":
			der, err := os.ReadFile(filepath.Join("testdata", f.Expected.Certificate))
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			r := parse(t, f.Data)
			v, err := sevsnp.Verify(r, &sevsnp.Certificates{VCEK: cert}, &sevsnp.VerifyOptions{InsecureSkipCollateral: true, Now: f.Expected.VerifiesAt})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct{ name, got, want string }{
				{"measurement", hex.EncodeToString(r.Measurement[:]), f.Expected.Measurement},
				{"report data", hex.EncodeToString(r.ReportData[:]), f.Expected.ReportData},
				{"chip ID", hex.EncodeToString(v.ChipID()), f.Expected.ChipID},
				{"reported TCB", r.ReportedTCB.String(), f.Expected.ReportedTCB},
				{"product line", v.ProductLine(), f.Expected.ProductLine},
			} {
				if c.got != c.want {
					t.Errorf("%s is %s, want %s", c.name, c.got, c.want)
				}
			}
			if v.Debug() != f.Expected.Debug || v.MigrationAgent() != f.Expected.MigrationAgent || v.VMPL() != f.Expected.VMPL || v.GuestSVN() != f.Expected.GuestSVN {
				t.Errorf("verified report says %+v", v.Report())
			}
		case ".der":
			cert, err := x509.ParseCertificate(f.Data)
			if err != nil {
				t.Fatal(err)
			}
			if at := f.Expected.VerifiesAt; at.Before(cert.NotBefore) || at.After(cert.NotAfter) {
				t.Errorf("not valid at %v", at)
			}
		default:
			t.Error("no rule for files of this kind")
		}
	})
}

func amd(t testing.TB) (*sevsnp.Report, *sevsnp.Certificates) {
	t.Helper()
	raw, err := os.ReadFile("testdata/amd_milan.report")
	if err != nil {
		t.Fatal(err)
	}
	der, err := os.ReadFile("testdata/amd_milan.vcek.der")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, raw), &sevsnp.Certificates{VCEK: cert}
}

func TestAMDsReportDoesNotVerifyUnderAnotherRootNorOutsideOfItsTime(t *testing.T) {
	r, c := amd(t)
	for _, o := range []*sevsnp.VerifyOptions{
		{Roots: softtee.SNPRoots(), Collateral: collateral(t, softtee.SNPCollateralOptions{Now: amdTime}), Now: amdTime},
		{InsecureSkipCollateral: true, Now: time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC)},
		{InsecureSkipCollateral: true, Now: time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		_, err := sevsnp.Verify(r, c, o)
		if !errors.Is(err, attestext.ErrSignature) && !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("at %v: %v", o.Now, err)
		}
	}
	// A revocation list by another root is none.
	_, err := sevsnp.Verify(r, c, &sevsnp.VerifyOptions{Collateral: collateral(t, softtee.SNPCollateralOptions{Now: amdTime}), Now: amdTime})
	wantClass(t, err, attestext.ErrUnavailable)
}

func TestEveryKindOfReportVerifies(t *testing.T) {
	for _, version := range []uint32{2, 3, 4, 5} {
		for _, vlek := range []bool{false, true} {
			raw, certs := soft(t, &softtee.SNPOptions{Version: version, VLEK: vlek, Modify: func(r *sevsnp.Report) { r.LaunchMitigations = 5 }})
			v, err := sevsnp.Verify(parse(t, raw), certs, options(t))
			if err != nil {
				t.Fatalf("version %d, VLEK %v: %v", version, vlek, err)
			}
			if v.Measurement() != softtee.SNPMeasurement() || v.ReportData() != [64]byte{1, 2, 3} || v.Debug() || v.MigrationAgent() ||
				!v.CollateralChecked() || v.ProductLine() != sevsnp.Milan || len(v.ChipID()) != sevsnp.ChipIDSize || (v.CSPID() != "") != vlek {
				t.Errorf("verified report says %+v", v.Report())
			}
			if want := uint64(0); version == 5 {
				want = 5
				if v.Report().LaunchMitigations != want {
					t.Errorf("mitigations %d", v.Report().LaunchMitigations)
				}
			}
		}
	}
}

func TestFieldsAreReadFromWhereTheyAre(t *testing.T) {
	raw, _ := soft(t, &softtee.SNPOptions{Debug: true, MigrationAgent: true, VMPL: 2, Modify: func(r *sevsnp.Report) {
		r.FamilyID, r.ImageID = [16]byte{1}, [16]byte{2}
		r.HostData = [32]byte{3}
		r.CurrentTCB = sevsnp.TCB{Bootloader: 11, TEE: 12, SNP: 13, Microcode: 14}
		r.CommittedTCB = sevsnp.TCB{Bootloader: 21, TEE: 22, SNP: 23, Microcode: 24}
		r.LaunchTCB = sevsnp.TCB{Bootloader: 31, TEE: 32, SNP: 33, Microcode: 34}
		r.GuestSVN = 7
	}})
	r := parse(t, raw)
	if !r.Debug() || !r.Policy.MigrationAgent() || !r.Policy.SMT() || r.Policy.SingleSocket() || r.VMPL != 2 || r.GuestSVN != 7 ||
		r.FamilyID[0] != 1 || r.ImageID[0] != 2 || r.HostData[0] != 3 || r.Family != 0x19 || r.Model != 1 || r.Stepping != 1 {
		t.Errorf("%+v", r)
	}
	if r.CurrentTCB.SNP != 13 || r.CommittedTCB.Microcode != 24 || r.LaunchTCB.TEE != 32 || r.ReportedTCB.SNP != 22 {
		t.Errorf("%v, %v, %v, %v", r.CurrentTCB, r.CommittedTCB, r.LaunchTCB, r.ReportedTCB)
	}
	if major, minor := r.Policy.MinABI(); major != 1 || minor != 0 {
		t.Errorf("ABI %d.%d", major, minor)
	}
	if !bytes.Equal(raw[sevsnp.ReportDataOffset:][:3], []byte{1, 2, 3}) {
		t.Error("report data is elsewhere")
	}
}

func TestTrapTrailingBytes(t *testing.T) {
	raw, _ := soft(t, nil)
	for _, tail := range []string{"\x00", "x", strings.Repeat("\x00", 100)} {
		_, err := sevsnp.Parse(append(bytes.Clone(raw), tail...))
		wantClass(t, err, attestext.ErrMalformed)
	}
}

func TestEveryStrictPrefixOfAReportIsMalformed(t *testing.T) {
	raw, _ := soft(t, nil)
	for n := range raw {
		if _, err := sevsnp.Parse(raw[:n]); !errors.Is(err, attestext.ErrMalformed) {
			t.Fatalf("%d of %d bytes: %v", n, len(raw), err)
		}
	}
}

func TestReservedBytesThatAreNotZeroAreMalformed(t *testing.T) {
	regions := [][2]int{
		{0x0C, 0x10}, {0x3A, 0x3E}, {0x49, 0x50}, {0x182, 0x186}, {0x18B, 0x1A0}, {0x1E2, 0x1E6},
		{0x1EB, 0x1EC}, {0x1EF, 0x1F0}, {0x1F2, 0x1F6}, {0x208, 0x2A0}, {0x330, 0x4A0},
	}
	for _, version := range []uint32{2, 3} {
		raw, _ := soft(t, &softtee.SNPOptions{Version: version})
		more := regions
		if version == 2 {
			more = append(more[:len(more):len(more)], [2]int{0x188, 0x18B})
		}
		more = append(more[:len(more):len(more)], [2]int{0x1F8, 0x208}) // mitigation vectors, from version 5
		for _, r := range more {
			for i := r[0]; i < r[1]; i++ {
				b := bytes.Clone(raw)
				b[i] ^= 0x80
				if _, err := sevsnp.Parse(b); !errors.Is(err, attestext.ErrMalformed) {
					t.Errorf("version %d, byte %#x: %v", version, i, err)
				}
			}
		}
	}
}

func TestWhatIsNotSupportedIsMalformed(t *testing.T) {
	for _, c := range []struct {
		name   string
		offset int
		value  byte
		want   string
	}{
		{"version 1", 0, 1, "version 1 is not supported"},
		{"version 6", 0, 6, "version 6 is not supported"},
		{"no version", 3, 1, "is not supported"},
		{"other algorithm", 0x34, 2, "signature algorithm 2"},
		{"host's report", 0x33, 0xff, "the host has asked"},
		{"VMPL 4", 0x30, 4, "VMPL"},
		{"reserved signing key", 0x48, 3 << 2, "signing_key"},
		{"policy without its one", 0x0A, 0, "policy"},
		{"Turin", 0x188, 0x1a, "Turin"},
		// go-sev-guest keeps four bits of it, and would verify a report that says another.
		{"stepping of five bits", 0x18A, 0x11, "reserved bits"},
	} {
		raw, _ := soft(t, nil)
		raw[c.offset] = c.value
		_, err := sevsnp.Parse(raw)
		wantClass(t, err, attestext.ErrMalformed)
		if err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %q does not say %q", c.name, err, c.want)
		}
	}
}

// What is verified is what go-sev-guest writes out again, so that a byte it does
// not read would be under no signature.
func TestNoFlippedBitVerifies(t *testing.T) {
	raw, certs := soft(t, nil)
	opts := options(t)
	for i := range raw {
		b := bytes.Clone(raw)
		b[i] ^= 1 << (i % 8)
		r, err := sevsnp.Parse(b)
		if err != nil {
			continue
		}
		if i%11 != 0 && i < 0x2A0 { // one in eleven of the body, all of the signature
			continue
		}
		if _, err := sevsnp.Verify(r, certs, opts); err == nil {
			t.Fatalf("byte %#x can be changed", i)
		}
	}
}

func TestTamperedReportIsRefusedInEveryField(t *testing.T) {
	opts := options(t)
	for name, offset := range map[string]int{
		"guest SVN": 4, "policy": 8, "family ID": 0x10, "image ID": 0x20, "VMPL": 0x30, "current TCB": 0x38, "platform info": 0x40,
		"author key": 0x48, "first byte of report data": 0x50, "last byte of report data": 0x8f, "measurement": 0x90, "host data": 0xC0,
		"ID key": 0xE0, "author key digest": 0x110, "report ID": 0x140, "report ID of the MA": 0x160, "reported TCB": 0x180, "stepping": 0x18A,
		"chip ID": 0x1A0, "committed TCB": 0x1E0, "build": 0x1E8, "launch TCB": 0x1F0, "R": 0x2A0, "S": 0x2A0 + 72, "zeros of R": 0x2A0 + 71,
	} {
		raw, certs := soft(t, nil)
		raw[offset] ^= 1
		r, err := sevsnp.Parse(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, err = sevsnp.Verify(r, certs, opts)
		if !errors.Is(err, attestext.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is verified is the report that was parsed, not the fields as the caller left them.
func TestVerifiedFieldsAreThoseOfTheSignedBytes(t *testing.T) {
	raw, certs := soft(t, nil)
	r := parse(t, raw)
	r.Measurement, r.ChipID, r.SigningKey = [48]byte{1}, [64]byte{1}, sevsnp.None
	r.Policy |= 1 << 19
	v, err := sevsnp.Verify(r, certs, options(t))
	if err != nil {
		t.Fatal(err)
	}
	if v.Measurement() != softtee.SNPMeasurement() || v.Debug() || v.ChipID()[0] == 1 {
		t.Error("fields written by the caller came out as verified")
	}
	for _, r := range []*sevsnp.Report{nil, {}} {
		_, err = sevsnp.Verify(r, certs, options(t))
		wantClass(t, err, attestext.ErrMalformed)
	}
}

func TestReportUnderAnotherRootIsRefused(t *testing.T) {
	raw, certs := soft(t, &softtee.SNPOptions{Seed: "other"})
	_, err := sevsnp.Verify(parse(t, raw), certs, options(t))
	wantClass(t, err, attestext.ErrSignature)
	raw, certs = soft(t, nil)
	o := options(t)
	o.Roots = nil // AMD's
	_, err = sevsnp.Verify(parse(t, raw), certs, o)
	wantClass(t, err, attestext.ErrSignature)
}

// go-sev-guest falls back on AMD's roots when the map of roots is nil or empty.
func TestTrapEmptyRoots(t *testing.T) {
	r, c := amd(t)
	m, err := abi.ReportToProto(r.Raw())
	if err != nil {
		t.Fatal(err)
	}
	at := &pb.Attestation{Report: m, CertificateChain: &pb.CertificateChain{VcekCert: c.VCEK.Raw}}
	if err := verify.SnpAttestation(at, &verify.Options{DisableCertFetching: true, Now: amdTime, TrustedRoots: map[string][]*trust.AMDRootCerts{}}); err != nil {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
	none, err := sevsnp.NewRoots()
	if err != nil {
		t.Fatal(err)
	}
	for _, roots := range []*sevsnp.Roots{{}, none} {
		_, err := sevsnp.Verify(r, c, &sevsnp.VerifyOptions{Roots: roots, InsecureSkipCollateral: true, Now: amdTime})
		wantClass(t, err, attestext.ErrUnavailable)
	}
}

// Roots of one product line do not vouch for another, and go-sev-guest must not be
// left without a root for it.
func TestRootOfAnotherProductLineIsRefused(t *testing.T) {
	var genoa []*x509.Certificate
	for _, c := range sevsnp.AMDRoots().Certificates() {
		if strings.HasSuffix(c.Subject.CommonName, sevsnp.Genoa) {
			genoa = append(genoa, c)
		}
	}
	roots, err := sevsnp.NewRoots(genoa...)
	if err != nil {
		t.Fatal(err)
	}
	r, c := amd(t)
	_, err = sevsnp.Verify(r, c, &sevsnp.VerifyOptions{Roots: roots, InsecureSkipCollateral: true, Now: amdTime})
	wantClass(t, err, attestext.ErrSignature)
}

// An empty slice means "not checked" to go-sev-guest's validation, which is why
// report data is compared elsewhere, as arrays of fixed size.
func TestTrapEmptySliceIsUnchecked(t *testing.T) {
	raw, _ := soft(t, nil)
	m, err := abi.ReportToProto(raw)
	if err != nil {
		t.Fatal(err)
	}
	opts := &validate.Options{GuestPolicy: abi.SnpPolicy{SMT: true, ABIMajor: 1}, ReportData: []byte{}, PlatformInfo: &abi.SnpPlatformInfo{SMTEnabled: true}}
	_, certs := soft(t, nil)
	at := &pb.Attestation{Report: m, CertificateChain: &pb.CertificateChain{VcekCert: certs.VCEK.Raw, AskCert: certs.ASK.Raw, ArkCert: certs.ARK.Raw}}
	if err := validate.SnpAttestation(at, opts); err != nil {
		t.Errorf("the trap is gone, or the test is: %v", err)
	}
}

func TestEmbeddedRootsAreAMDs(t *testing.T) {
	// SHA-256 of the DER.
	want := map[string]string{
		"ARK-Genoa":      "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
		"ARK-Milan":      "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
		"SEV-Genoa":      "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
		"SEV-Milan":      "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
		"SEV-VLEK-Genoa": "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
		"SEV-VLEK-Milan": "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
	}
	certs := sevsnp.AMDRoots().Certificates()
	if len(certs) != len(want) {
		t.Errorf("%d certificates, want %d", len(certs), len(want))
	}
	for _, c := range certs {
		if sum := sha256.Sum256(c.Raw); hex.EncodeToString(sum[:]) != want[c.Subject.CommonName] {
			t.Errorf("fingerprint of %s is %x", c.Subject.CommonName, sum)
		}
	}
}

func TestRootsThatAreNoneAreRefused(t *testing.T) {
	_, certs := soft(t, nil)
	_, other := soft(t, &softtee.SNPOptions{Seed: "other"})
	for name, list := range map[string][]*x509.Certificate{
		"chip key":                {certs.VCEK},
		"authority without root":  {certs.ASK},
		"authority of other root": {certs.ARK, other.ASK},
	} {
		if _, err := sevsnp.NewRoots(list...); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
	for _, b := range []string{"", "x", string(softtee.SNPRootsPEM()) + "x", string(softtee.RootsPEM())} {
		if _, err := sevsnp.ParseRoots([]byte(b)); err == nil {
			t.Errorf("%.20q accepted", b)
		}
	}
	if r, err := sevsnp.ParseRoots(softtee.SNPRootsPEM()); err != nil || len(r.Certificates()) != 1 {
		t.Error(err)
	}
}

// Left to itself, go-sev-guest fetches what it lacks.
func TestTrapNothingIsFetched(t *testing.T) {
	old := http.DefaultClient.Transport
	defer func() { http.DefaultClient.Transport = old }()
	http.DefaultClient.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		t.Errorf("%s is fetched", r.URL)
		return nil, errors.New("no network here")
	})
	raw, certs := soft(t, nil)
	for name, c := range map[string]*sevsnp.Certificates{
		"none": nil, "empty": {}, "no VCEK": {ASK: certs.ASK, ARK: certs.ARK}, "other key": {VLEK: certs.VCEK}, "no ASK": {VCEK: certs.VCEK},
	} {
		for _, o := range []*sevsnp.VerifyOptions{options(t), {Roots: softtee.SNPRoots(), InsecureSkipCollateral: true, Now: testTime}} {
			if _, err := sevsnp.Verify(parse(t, raw), c, o); !errors.Is(err, attestext.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	_, err := sevsnp.Verify(parse(t, raw), certs, &sevsnp.VerifyOptions{Roots: softtee.SNPRoots(), Now: testTime})
	wantClass(t, err, attestext.ErrUnavailable)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCertificatesThatThePeerLacksComeFromCollateral(t *testing.T) {
	o := options(t)
	o.Collateral = collateral(t, softtee.SNPCollateralOptions{WithCertificates: true})
	for _, vlek := range []bool{false, true} {
		raw, _ := soft(t, &softtee.SNPOptions{VLEK: vlek})
		if _, err := sevsnp.Verify(parse(t, raw), nil, o); err != nil {
			t.Error(err)
		}
	}
	raw, _ := soft(t, &softtee.SNPOptions{Modify: func(r *sevsnp.Report) { r.ReportedTCB.SNP++ }})
	_, err := sevsnp.Verify(parse(t, raw), nil, o)
	wantClass(t, err, attestext.ErrUnavailable)
	// Certificates in collateral are trusted no further than those of a peer.
	other, err := softtee.NewSNP(&softtee.SNPOptions{Seed: "other"}).Collateral(&softtee.SNPCollateralOptions{Now: testTime, WithCertificates: true})
	if err != nil {
		t.Fatal(err)
	}
	o.Collateral = other
	raw, _ = soft(t, &softtee.SNPOptions{Seed: "other"})
	_, err = sevsnp.Verify(parse(t, raw), nil, o)
	wantClass(t, err, attestext.ErrSignature)
}

func TestRevocationIsChecked(t *testing.T) {
	later := testTime.Add(31 * 24 * time.Hour)
	crl := func(seed string, o softtee.SNPCollateralOptions) *x509.RevocationList {
		o.Now = testTime
		l, err := softtee.NewSNP(&softtee.SNPOptions{Seed: seed}).CRL(&o)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	ask, asvk := softtee.SNPCollateralOptions{RevokeASK: true}, softtee.SNPCollateralOptions{RevokeASVK: true}
	for _, c := range []struct {
		name       string
		vlek       bool
		collateral *softtee.SNPCollateralOptions
		stapled    *x509.RevocationList
		skip       bool
		now        time.Time
		class      error
	}{
		{"current", false, &softtee.SNPCollateralOptions{}, nil, false, testTime, nil},
		{"none", false, nil, nil, false, testTime, attestext.ErrUnavailable},
		{"none, skipped by name", false, nil, nil, true, testTime, nil},
		{"revoked ASK", false, &ask, nil, false, testTime, attestext.ErrSignature},
		{"revoked ASK of VCEKs, VLEK", true, &ask, nil, false, testTime, nil},
		// go-sev-guest looks for the ASK only.
		{"revoked ASVK", true, &asvk, nil, false, testTime, attestext.ErrSignature},
		{"revoked ASVK, VCEK", false, &asvk, nil, false, testTime, nil},
		// go-sev-guest does not look at the dates of a list that it has just got.
		{"expired", false, &softtee.SNPCollateralOptions{}, nil, false, later, attestext.ErrPolicy},
		{"expired, skipped by name", false, &softtee.SNPCollateralOptions{}, nil, true, later, attestext.ErrPolicy},
		{"expired and revoked", false, &ask, nil, false, later, attestext.ErrSignature},
		{"not yet valid", false, &softtee.SNPCollateralOptions{}, nil, false, testTime.Add(-time.Hour), attestext.ErrPolicy},
		{"stapled", false, nil, crl("", softtee.SNPCollateralOptions{}), false, testTime, nil},
		{"stapled, VLEK", true, nil, crl("", softtee.SNPCollateralOptions{}), false, testTime, nil},
		{"stapled, expired", false, nil, crl("", softtee.SNPCollateralOptions{}), false, later, attestext.ErrPolicy},
		{"stapled, revoked", false, nil, crl("", ask), false, testTime, attestext.ErrSignature},
		{"stapled, of another root", false, nil, crl("other", softtee.SNPCollateralOptions{}), false, testTime, attestext.ErrUnavailable},
		{"stapled, revoked, skipped by name", false, nil, crl("", ask), true, testTime, attestext.ErrSignature},
		{"current, stapled is expired", false, &softtee.SNPCollateralOptions{NextUpdate: later.Add(time.Hour)}, crl("", softtee.SNPCollateralOptions{}), false, later, nil},
		{"current, stapled is revoked", false, &softtee.SNPCollateralOptions{}, crl("", ask), false, testTime, attestext.ErrSignature},
		{"current, stapled is revoked and of another root", false, &softtee.SNPCollateralOptions{}, crl("other", ask), false, testTime, nil},
		{"revoked, stapled says otherwise", false, &ask, crl("", softtee.SNPCollateralOptions{}), false, testTime, attestext.ErrSignature},
		{"expired, stapled is current", false, &softtee.SNPCollateralOptions{NextUpdate: testTime.Add(time.Second)}, crl("", softtee.SNPCollateralOptions{}), false, testTime.Add(time.Minute), attestext.ErrPolicy},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw, certs := soft(t, &softtee.SNPOptions{VLEK: c.vlek, StapledCRL: c.stapled})
			o := &sevsnp.VerifyOptions{Roots: softtee.SNPRoots(), Now: c.now, InsecureSkipCollateral: c.skip}
			if c.collateral != nil {
				o.Collateral = collateral(t, *c.collateral)
			}
			v, err := sevsnp.Verify(parse(t, raw), certs, o)
			if c.class != nil {
				wantClass(t, err, c.class)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := c.collateral != nil || c.stapled != nil; v.CollateralChecked() != want {
				t.Errorf("checked: %v", v.CollateralChecked())
			}
		})
	}
}

// Which list a peer sends is up to the peer, so that a relying party can want its own.
func TestOwnListsOnly(t *testing.T) {
	list := func(revoke bool) *x509.RevocationList {
		l, err := softtee.NewSNP(nil).CRL(&softtee.SNPCollateralOptions{Now: testTime, RevokeASK: revoke})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	cache := sevsnp.NewCache(0)
	for _, c := range []struct {
		name    string
		own     bool // the relying party has a list
		revoked bool // by the peer's list
		ownOnly bool
		skip    bool
		class   error
		checked bool
	}{
		{name: "peer's", checked: true},
		{name: "peer's, own wanted", ownOnly: true, class: attestext.ErrUnavailable},
		{name: "peer's, own wanted, skipped by name", ownOnly: true, skip: true},
		{name: "peer's revokes, own wanted, skipped by name", ownOnly: true, skip: true, revoked: true, class: attestext.ErrSignature},
		{name: "both", own: true, ownOnly: true, checked: true},
		{name: "both, peer's revokes", own: true, ownOnly: true, revoked: true, class: attestext.ErrSignature},
	} {
		raw, certs := soft(t, &softtee.SNPOptions{StapledCRL: list(c.revoked)})
		o := &sevsnp.VerifyOptions{Roots: softtee.SNPRoots(), Now: testTime, OwnListsOnly: c.ownOnly, InsecureSkipCollateral: c.skip, Cache: cache}
		if c.own {
			o.Collateral = collateral(t, softtee.SNPCollateralOptions{})
		}
		for range 2 { // with one cache for all, cold and warm
			v, err := sevsnp.Verify(parse(t, raw), certs, o)
			switch {
			case c.class != nil:
				if !errors.Is(err, c.class) {
					t.Errorf("%s: %v", c.name, err)
				}
			case err != nil || v.CollateralChecked() != c.checked:
				t.Errorf("%s: %v, checked %v", c.name, err, v.CollateralChecked())
			}
		}
	}
}

// The list for VCEKs says nothing about the authority of VLEKs.
func TestTrapRevocationListOfTheOtherKey(t *testing.T) {
	l, err := softtee.NewSNP(nil).CRL(&softtee.SNPCollateralOptions{Now: testTime})
	if err != nil {
		t.Fatal(err)
	}
	c, err := sevsnp.NewCollateral(&sevsnp.CollateralParts{VCEKCRLs: [][]byte{l.Raw}})
	if err != nil {
		t.Fatal(err)
	}
	raw, certs := soft(t, &softtee.SNPOptions{VLEK: true})
	_, err = sevsnp.Verify(parse(t, raw), certs, &sevsnp.VerifyOptions{Roots: softtee.SNPRoots(), Collateral: c, Now: testTime})
	wantClass(t, err, attestext.ErrUnavailable)
}

// go-sev-guest panics when it is asked about revocation and has no ASK, as with
// the roots of VLEKs alone.
func TestTrapRevocationCheckPanics(t *testing.T) {
	raw, certs := soft(t, &softtee.SNPOptions{VLEK: true})
	m, err := abi.ReportToProto(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("the trap is gone, or the test is")
		}
	}()
	_ = verify.SnpAttestation(&pb.Attestation{Report: m, CertificateChain: &pb.CertificateChain{VlekCert: certs.VLEK.Raw}}, &verify.Options{
		CheckRevocations: true, DisableCertFetching: true, Now: testTime,
		TrustedRoots: map[string][]*trust.AMDRootCerts{sevsnp.Milan: {{ProductLine: sevsnp.Milan, ProductCerts: &trust.ProductCerts{Ark: certs.ARK, Asvk: certs.ASK}}}},
	})
}

// The key depends on the chip and the TCB, and go-sev-guest leaves it to its callers
// to compare what the certificate says with what the report says.
func TestTrapCertificateOfAnotherChip(t *testing.T) {
	for name, modify := range map[string]func(*sevsnp.Report){
		"other chip":       func(r *sevsnp.Report) { r.ChipID[63] ^= 1 },
		"higher TCB":       func(r *sevsnp.Report) { r.ReportedTCB.Microcode++ },
		"lower bootloader": func(r *sevsnp.Report) { r.ReportedTCB.Bootloader-- },
		"not signed":       func(r *sevsnp.Report) { r.SigningKey = sevsnp.None },
	} {
		raw, certs := soft(t, &softtee.SNPOptions{Modify: modify})
		_, err := sevsnp.Verify(parse(t, raw), certs, options(t))
		if !errors.Is(err, attestext.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMaskedChipHasNoIdentity(t *testing.T) {
	raw, certs := soft(t, &softtee.SNPOptions{MaskChipID: true})
	v, err := sevsnp.Verify(parse(t, raw), certs, options(t))
	if err != nil {
		t.Fatal(err)
	}
	if v.ChipID() != nil {
		t.Errorf("chip ID %x", v.ChipID())
	}
}

func TestTrapDebugGuest(t *testing.T) {
	raw, certs := soft(t, &softtee.SNPOptions{Debug: true, MigrationAgent: true})
	v, err := sevsnp.Verify(parse(t, raw), certs, options(t))
	if err != nil {
		t.Fatal(err)
	}
	if !v.Debug() || !v.MigrationAgent() {
		t.Error("not reported")
	}
}

// go-sev-guest writes to its options. Run with -race: one report and one set of
// options serve all, and AMD's roots too.
func TestTrapOptionsAreWrittenTo(t *testing.T) {
	raw, certs := soft(t, nil)
	r, opts := parse(t, raw), options(t)
	real, realCerts := amd(t)
	realOpts := &sevsnp.VerifyOptions{InsecureSkipCollateral: true, Now: amdTime}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := sevsnp.Verify(r, certs, opts); err != nil {
				t.Error(err)
			}
			if _, err := sevsnp.Verify(real, realCerts, realOpts); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestCertificateTableRoundTrip(t *testing.T) {
	crl, err := softtee.NewSNP(nil).CRL(&softtee.SNPCollateralOptions{Now: testTime})
	if err != nil {
		t.Fatal(err)
	}
	_, certs := soft(t, &softtee.SNPOptions{StapledCRL: crl})
	table := certs.Marshal()
	// As the library that reads it in production sees it.
	theirs := new(abi.CertTable)
	if err := theirs.Unmarshal(table); err != nil {
		t.Fatal(err)
	}
	if b, err := theirs.GetByGUIDString(abi.VcekGUID); err != nil || !bytes.Equal(b, certs.VCEK.Raw) {
		t.Error("VCEK", err)
	}
	for _, b := range [][]byte{table, append(bytes.Clone(table), make([]byte, 4096)...), theirs.Marshal()} {
		c, err := sevsnp.ParseCertificates(b)
		if err != nil {
			t.Fatal(err)
		}
		if !c.VCEK.Equal(certs.VCEK) || !c.ASK.Equal(certs.ASK) || !c.ARK.Equal(certs.ARK) || c.VLEK != nil || !bytes.Equal(c.CRL.Raw, crl.Raw) {
			t.Error("other certificates")
		}
	}
	if c, err := sevsnp.ParseCertificates(nil); err != nil || c.VCEK != nil {
		t.Errorf("empty table: %v", err)
	}
	if (&sevsnp.Certificates{}).Marshal() != nil {
		t.Error("no certificates, and a table")
	}
}

// entry returns an entry of a table.
func entry(guid byte, offset, length uint32) []byte {
	b := append([]byte{guid}, make([]byte, 15)...)
	b = binary.LittleEndian.AppendUint32(b, offset)
	return binary.LittleEndian.AppendUint32(b, length)
}

func TestAmbiguousOrBrokenCertificateTableIsMalformed(t *testing.T) {
	_, certs := soft(t, nil)
	table := certs.Marshal()
	refuse := func(name string, b []byte) {
		t.Helper()
		if _, err := sevsnp.ParseCertificates(b); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := 1; n < len(table); n++ {
		if n < 200 || n%13 == 0 || n > len(table)-3 {
			refuse("prefix", table[:n])
		}
	}
	end := make([]byte, 24)
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	data := []byte("12345678")
	if _, err := sevsnp.ParseCertificates(cat(entry(1, 48, 8), end, data)); err != nil {
		t.Fatalf("entry with an unknown GUID: %v", err)
	}
	refuse("GUID twice", cat(entry(1, 72, 4), entry(1, 76, 4), end, data))
	refuse("overlap", cat(entry(1, 72, 5), entry(2, 76, 4), end, data))
	refuse("same bytes twice", cat(entry(1, 72, 8), entry(2, 72, 8), end, data))
	refuse("inside the header", cat(entry(1, 24, 8), end, data))
	refuse("empty entry", cat(entry(1, 48, 0), end, data))
	refuse("beyond the end", cat(entry(1, 48, 9), end, data))
	refuse("bytes of nobody", cat(entry(1, 48, 4), end, data))
	refuse("no end", cat(entry(1, 24, 8), data))
	// Added in 32 bits this is 7, which go-sev-guest takes for a place in the table
	// before it slices.
	refuse("sum that wraps around", cat(entry(1, 48, 0xffffffd7), end, data))
	var many []byte
	for i := range byte(33) {
		many = append(many, entry(i+1, 24*34+uint32(i), 1)...)
	}
	refuse("too many", cat(many, end, make([]byte, 33)))
	refuse("too large", make([]byte, sevsnp.MaxCertificatesSize+1))
	bad := bytes.Clone(table)
	bad[len(bad)-900] ^= 0x40
	bad[24*4] ^= 0xff // tag of the first certificate
	refuse("no certificate", bad)
}

func TestTrapParserPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("the trap is gone, or the test is")
		}
	}()
	b := bytes.Join([][]byte{entry(1, 48, 0xffffffd7), make([]byte, 24), []byte("12345678")}, nil)
	_ = new(abi.CertTable).Unmarshal(b)
}

func TestCertificatesInPEMAreRead(t *testing.T) {
	_, certs := soft(t, nil)
	theirs := new(abi.CertTable)
	if err := theirs.Unmarshal(certs.Marshal()); err != nil {
		t.Fatal(err)
	}
	for i := range theirs.Entries {
		theirs.Entries[i].RawCert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: theirs.Entries[i].RawCert})
	}
	c, err := sevsnp.ParseCertificates(theirs.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := soft(t, nil)
	if _, err := sevsnp.Verify(parse(t, raw), c, options(t)); err != nil {
		t.Error(err)
	}
	theirs.Entries[0].RawCert = append(theirs.Entries[0].RawCert, theirs.Entries[0].RawCert...)
	_, err = sevsnp.ParseCertificates(theirs.Marshal())
	wantClass(t, err, attestext.ErrMalformed)
}

func TestCollateralRoundTrip(t *testing.T) {
	for _, with := range []bool{false, true} {
		c := collateral(t, softtee.SNPCollateralOptions{WithCertificates: with})
		b, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := sevsnp.ParseCollateral(b)
		if err != nil {
			t.Fatal(err)
		}
		b2, err := again.Marshal()
		if err != nil || !bytes.Equal(b, b2) {
			t.Errorf("another encoding: %v", err)
		}
		if want := testTime.Add(30 * 24 * time.Hour); !again.NextUpdate().Equal(want) {
			t.Errorf("next update %v, want %v", again.NextUpdate(), want)
		}
	}
}

func TestIncompleteOrAmbiguousCollateralIsMalformed(t *testing.T) {
	good, err := collateral(t, softtee.SNPCollateralOptions{WithCertificates: true}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]string
	if err := json.Unmarshal(good, &m); err != nil {
		t.Fatal(err)
	}
	refuse := func(name string, b []byte) {
		t.Helper()
		if _, err := sevsnp.ParseCollateral(b); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for k, v := range m {
		b, err := json.Marshal(map[string]string{"vcek_crls": m["vcek_crls"], k: v[:len(v)/2]})
		if err != nil {
			t.Fatal(err)
		}
		refuse(k+" cut", b)
	}
	for _, s := range []string{``, `{}`, `[]`, `null`, `{"certificates":""}`, `{"vcek_crls":"x"}`, `{"vcek_crls":["x"]}`, `{"crls":""}`} {
		refuse(s, []byte(s))
	}
	b, _ := json.Marshal(map[string]string{"vcek_crls": m["certificates"]})
	refuse("certificates as lists", b)
	refuse("duplicate member", bytes.Replace(good, []byte("{"), []byte(`{"VCEK_CRLS":"",`), 1))
	refuse("trailing data", append(bytes.Clone(good), "{}"...))
	refuse("too large", make([]byte, sevsnp.MaxCollateralSize+1))
	for _, n := range []int{1, len(good) / 2, len(good) - 2} {
		refuse("cut", good[:n])
	}
}

func FuzzParse(f *testing.F) {
	raw, certs := soft(f, nil)
	f.Add(raw)
	real, _ := amd(f)
	f.Add(real.Raw())
	for _, v := range []uint32{2, 5} {
		b, _ := soft(f, &softtee.SNPOptions{Version: v, VLEK: v == 5, Debug: true})
		f.Add(b)
	}
	f.Add(raw[:1000])
	opts := options(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		r, err := sevsnp.Parse(b)
		if err != nil {
			if attestext.Class(err) != attestext.ErrMalformed {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(r.Raw(), b) {
			t.Fatal("not the bytes that were parsed")
		}
		if v, err := sevsnp.Verify(r, certs, opts); err == nil && v.Measurement() != softtee.SNPMeasurement() {
			t.Fatal("forged report verifies")
		}
	})
}

func FuzzParseCertificates(f *testing.F) {
	raw, certs := soft(f, nil)
	f.Add(certs.Marshal())
	_, vlek := soft(f, &softtee.SNPOptions{VLEK: true})
	f.Add(vlek.Marshal())
	f.Add(bytes.Join([][]byte{entry(1, 48, 0xffffffd7), make([]byte, 24), []byte("12345678")}, nil))
	_, other := soft(f, &softtee.SNPOptions{Seed: "other"})
	f.Add(other.Marshal())
	r, opts := parse(f, raw), options(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		c, err := sevsnp.ParseCertificates(b)
		if err != nil {
			if attestext.Class(err) != attestext.ErrMalformed {
				t.Fatal(err)
			}
			return
		}
		if _, err := sevsnp.ParseCertificates(c.Marshal()); err != nil {
			t.Fatalf("own encoding refused: %v", err)
		}
		_, _ = sevsnp.Verify(r, c, opts)
	})
}

func FuzzParseCollateral(f *testing.F) {
	for _, with := range []bool{false, true} {
		b, err := collateral(f, softtee.SNPCollateralOptions{WithCertificates: with}).Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"vcek_crls":""}`))
	raw, certs := soft(f, nil)
	r := parse(f, raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		c, err := sevsnp.ParseCollateral(b)
		if err != nil {
			return
		}
		again, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sevsnp.ParseCollateral(again); err != nil {
			t.Fatalf("own encoding refused: %v", err)
		}
		_, _ = sevsnp.Verify(r, certs, &sevsnp.VerifyOptions{Roots: softtee.SNPRoots(), Collateral: c, Now: testTime})
	})
}

func BenchmarkParse(b *testing.B) {
	raw, certs := soft(b, nil)
	table := certs.Marshal()
	b.ReportAllocs()
	for b.Loop() {
		parse(b, raw)
		if _, err := sevsnp.ParseCertificates(table); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	raw, certs := soft(b, nil)
	r := parse(b, raw)
	for name, o := range map[string]*sevsnp.VerifyOptions{
		"collateral":   options(b),
		"noCollateral": {Roots: softtee.SNPRoots(), InsecureSkipCollateral: true, Now: testTime},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := sevsnp.Verify(r, certs, o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
