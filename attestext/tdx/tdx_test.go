package tdx_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/internal/sidecar"
	"github.com/google/go-tdx-guest/abi"
	"github.com/google/go-tdx-guest/testing/testdata"
)

var (
	testTime  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	intelTime = time.Date(2023, 7, 1, 1, 0, 0, 0, time.UTC)
)

func quote(t testing.TB, opts *softtee.TDXOptions) []byte {
	t.Helper()
	raw, err := softtee.NewTDX(opts).Quote([64]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func parse(t testing.TB, raw []byte) *tdx.Quote {
	t.Helper()
	q, err := tdx.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func collateral(t testing.TB, o softtee.CollateralOptions) *tdx.Collateral {
	t.Helper()
	if o.Now.IsZero() {
		o.Now = testTime
	}
	c, err := softtee.NewTDX(nil).Collateral(&o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func options(t testing.TB) *tdx.VerifyOptions {
	return &tdx.VerifyOptions{Roots: softtee.Roots(), Collateral: collateral(t, softtee.CollateralOptions{}), Now: testTime}
}

func wantClass(t testing.TB, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("got error %v, want class %v", err, class)
	}
	if err != nil && attestext.Class(err) != class {
		t.Errorf("class of %v is %v, want %v", err, attestext.Class(err), class)
	}
}

// expected is what the sidecar of a file of testdata says that it must do.
type expected struct {
	VerifiesAt time.Time `json:"verifies_at"`
	Collateral string
	// WithCollateral is the class of error that collateral brings, and Why.
	WithCollateral string `json:"with_collateral"`
	Why            string
	MRTD           string
	TeeTcbSvn      string `json:"tee_tcb_svn"`
	ReportData     string `json:"report_data"`
	FMSPC          string
	NextUpdate     time.Time `json:"next_update"`
	Debug          bool
}

func TestRecordedEvidenceIsAsItsSidecarSays(t *testing.T) {
	sidecar.Check(t, func(t *testing.T, f *sidecar.File[expected]) {
		switch filepath.Ext(f.File) {
		case ".quote":
			c, err := os.ReadFile(filepath.Join("testdata", f.Expected.Collateral))
			if err != nil {
				t.Fatal(err)
			}
			col, err := tdx.ParseCollateral(c)
			if err != nil {
				t.Fatal(err)
			}
			at := f.Expected.VerifiesAt
			_, err = tdx.Verify(parse(t, f.Data), &tdx.VerifyOptions{Collateral: col, Now: at})
			switch f.Expected.WithCollateral {
			case "policy":
				wantClass(t, err, attestext.ErrPolicy)
			case "":
				if err != nil {
					t.Error(err)
				}
			default:
				t.Errorf("sidecar names unknown class %q", f.Expected.WithCollateral)
			}
			v, err := tdx.Verify(parse(t, f.Data), &tdx.VerifyOptions{InsecureSkipCollateral: true, Now: at})
			if err != nil {
				t.Fatal(err)
			}
			q := v.Quote()
			for _, c := range []struct{ name, got, want string }{
				{"MRTD", hex.EncodeToString(q.MRTD[:]), f.Expected.MRTD},
				{"TEE_TCB_SVN", hex.EncodeToString(q.TeeTcbSvn[:]), f.Expected.TeeTcbSvn},
				{"REPORTDATA", hex.EncodeToString(q.ReportData[:]), f.Expected.ReportData},
				{"FMSPC", v.FMSPC(), f.Expected.FMSPC},
			} {
				if c.got != c.want {
					t.Errorf("%s is %s, want %s", c.name, c.got, c.want)
				}
			}
			if v.Debug() != f.Expected.Debug {
				t.Errorf("debug is %v", v.Debug())
			}
		case ".json":
			c, err := tdx.ParseCollateral(f.Data)
			if err != nil {
				t.Fatal(err)
			}
			if c.FMSPC() != f.Expected.FMSPC || !c.NextUpdate().Equal(f.Expected.NextUpdate) {
				t.Errorf("FMSPC %s, next update %v", c.FMSPC(), c.NextUpdate())
			}
			again, err := c.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again, f.Data) {
				t.Error("does not survive a round trip")
			}
		default:
			t.Error("no rule for files of this kind")
		}
	})
}

func intelQuote(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/intel_spr_e4.quote")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func intelCollateral(t testing.TB) *tdx.Collateral {
	t.Helper()
	b, err := os.ReadFile("testdata/intel_spr_e4.collateral.json")
	if err != nil {
		t.Fatal(err)
	}
	c, err := tdx.ParseCollateral(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestIntelQuoteDoesNotVerifyUnderAnotherRoot(t *testing.T) {
	_, err := tdx.Verify(parse(t, intelQuote(t)), &tdx.VerifyOptions{Roots: softtee.Roots(), Collateral: intelCollateral(t), Now: intelTime})
	wantClass(t, err, attestext.ErrSignature)
}

func TestIntelQuoteDoesNotVerifyOnceItsCollateralHasExpired(t *testing.T) {
	_, err := tdx.Verify(parse(t, intelQuote(t)), &tdx.VerifyOptions{Collateral: intelCollateral(t), Now: testTime})
	wantClass(t, err, attestext.ErrPolicy)
}

func TestQuoteSizeFindsTheEndOfAPaddedQuote(t *testing.T) {
	n, err := tdx.QuoteSize(testdata.RawQuote)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(testdata.RawQuote[:n], intelQuote(t)) {
		t.Error("not the quote of testdata")
	}
}

// go-tdx-guest accepts bytes after the quote; they would be under no signature.
func TestTrapTrailingBytes(t *testing.T) {
	_, err := tdx.Parse(testdata.RawQuote)
	wantClass(t, err, attestext.ErrMalformed)
	raw := quote(t, nil)
	for _, tail := range []string{"\x00", "x", strings.Repeat("\x00", 100)} {
		_, err := tdx.Parse(append(bytes.Clone(raw), tail...))
		wantClass(t, err, attestext.ErrMalformed)
	}
}

func TestEveryStrictPrefixOfAQuoteIsMalformed(t *testing.T) {
	raw := quote(t, nil)
	for n := range raw {
		_, err := tdx.Parse(raw[:n])
		if !errors.Is(err, attestext.ErrMalformed) {
			t.Fatalf("%d of %d bytes: %v", n, len(raw), err)
		}
	}
}

func TestQuoteIsBounded(t *testing.T) {
	raw := quote(t, nil)
	// A buffer that ends before the quote does.
	if n, err := tdx.QuoteSize(raw[:len(raw)-1]); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := tdx.QuoteSize(append(bytes.Clone(raw), 0)); err != nil || n != len(raw) {
		t.Errorf("%d, %v", n, err)
	}
	long := append(bytes.Clone(raw), make([]byte, tdx.MaxQuoteSize+1-len(raw))...)
	if _, err := tdx.Parse(long); !errors.Is(err, attestext.ErrMalformed) || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%v", err)
	}
}

// Offsets of length fields in a quote, from its start.
const (
	offSignatureSize = 0x278
	offSignatureData = 0x27c
	offQECertType    = offSignatureData + 128
	offQECertSize    = offQECertType + 2
	offQEReport      = offQECertSize + 4
	offQEReportSig   = offQEReport + 384
	offQEAuthSize    = offQEReportSig + 64
	offQEAuth        = offQEAuthSize + 2
)

// abi.QuoteToProto panics on these. Each is cut at some length and has its outer
// lengths made to agree with the cut.
func TestTrapParserPanics(t *testing.T) {
	raw := quote(t, nil)
	le := binary.LittleEndian
	panics := 0
	try := func(b []byte) {
		t.Helper()
		func() {
			defer func() {
				if recover() != nil {
					panics++
				}
			}()
			_, _ = abi.QuoteToProto(b)
		}()
		if _, err := tdx.Parse(b); !errors.Is(err, attestext.ErrMalformed) {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
	}
	for n := offSignatureData; n < len(raw); n += 7 {
		b := bytes.Clone(raw[:n])
		le.PutUint32(b[offSignatureSize:], uint32(n-offSignatureData))
		try(b)
		if n >= offQEReport {
			le.PutUint32(b[offQECertSize:], uint32(n-offQEReport))
			try(b)
		}
	}
	for _, f := range []struct {
		offset, size int
	}{{offSignatureSize, 4}, {offQECertSize, 4}, {offQEAuthSize, 2}, {offQECertType, 2}, {offQEAuth + 32, 2}, {offQEAuth + 34, 4}} {
		for _, fill := range []byte{0x00, 0x7f, 0xff} {
			b := bytes.Clone(raw)
			for i := range f.size {
				b[f.offset+i] = fill
			}
			if !bytes.Equal(b, raw) {
				try(b)
			}
		}
	}
	if panics == 0 {
		t.Error("the parser underneath did not panic once: the trap is gone, or the test is")
	}
}

func TestOtherQuoteVersionsAndTEEsAreNotSupported(t *testing.T) {
	for _, c := range []struct {
		name   string
		offset int
		value  byte
		want   string
	}{
		{"version 5", 0, 5, "version 5 (TDX 1.5 report body) is not supported"},
		{"version 3", 0, 3, "version 3 is not supported"},
		{"P-384 attestation key", 2, 3, "attestation key type 3 is not supported"},
		{"SGX", 4, 0, "TEE type 0x0 is not TDX"},
		{"encrypted PPID", offQEAuth + 32, 3, "certification data type 3 is not supported"},
	} {
		raw := quote(t, nil)
		raw[c.offset] = c.value
		_, err := tdx.Parse(raw)
		wantClass(t, err, attestext.ErrMalformed)
		if err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %q does not say %q", c.name, err, c.want)
		}
	}
	_, err := tdx.Parse(make([]byte, tdx.MaxQuoteSize+1))
	wantClass(t, err, attestext.ErrMalformed)
}

func TestTamperedQuoteIsRefusedInEveryRegion(t *testing.T) {
	opts := options(t)
	raw := quote(t, nil)
	for _, r := range []struct {
		name   string
		offset int
	}{
		{"QE vendor ID", 12},
		{"user data", 40},
		{"TEE_TCB_SVN", 48},
		{"MRSEAM", 48 + 0x10},
		{"TD_ATTRIBUTES", 48 + 0x78},
		{"XFAM", 48 + 0x80},
		{"MRTD", 48 + 0x88},
		{"MRCONFIGID", 48 + 0xb8},
		{"RTMR0", 48 + 0x148},
		{"RTMR3", 48 + 0x207},
		{"first byte of REPORTDATA", tdx.ReportDataOffset},
		{"last byte of REPORTDATA", tdx.ReportDataOffset + 63},
		{"signature", offSignatureData + 40},
		{"attestation key", offSignatureData + 64 + 5},
		{"QE report", offQEReport + 1},
		{"QE report data", offQEReport + 330},
		{"QE report signature", offQEReportSig + 9},
		{"QE authentication data", offQEAuth + 3},
		{"PCK chain", offQEAuth + 32 + 6 + 400},
	} {
		b := bytes.Clone(raw)
		b[r.offset] ^= 1
		q, err := tdx.Parse(b)
		if err == nil {
			_, err = tdx.Verify(q, opts)
		}
		if err == nil {
			t.Errorf("%s: tampered quote verifies", r.name)
		} else if c := attestext.Class(err); c != attestext.ErrSignature && c != attestext.ErrMalformed {
			t.Errorf("%s: %v", r.name, err)
		}
	}
}

// Offline, every bit of a quote counts: one flipped at a time, none verifies.
func TestNoFlippedBitOfTheSignedPartsVerifies(t *testing.T) {
	opts := &tdx.VerifyOptions{Roots: softtee.Roots(), InsecureSkipCollateral: true, Now: testTime}
	raw := quote(t, nil)
	for i := 0; i < offQEAuth+32; i += 5 {
		b := bytes.Clone(raw)
		b[i] ^= 0x80
		if q, err := tdx.Parse(b); err == nil {
			if _, err := tdx.Verify(q, opts); err == nil {
				t.Fatalf("byte %d can be changed", i)
			}
		}
	}
}

// What is verified is the quote that was parsed, not the fields as the caller left them.
func TestVerifiedFieldsAreThoseOfTheSignedBytes(t *testing.T) {
	q := parse(t, quote(t, nil))
	want := q.MRTD
	q.MRTD = tdx.Measurement{1}
	q.TdAttributes[0] = 1
	v, err := tdx.Verify(q, options(t))
	if err != nil {
		t.Fatal(err)
	}
	if v.MRTD() != want || v.Debug() {
		t.Error("fields written by the caller came out as verified")
	}
	_, err = tdx.Verify(&tdx.Quote{}, options(t))
	wantClass(t, err, attestext.ErrMalformed)
	_, err = tdx.Verify(nil, options(t))
	wantClass(t, err, attestext.ErrMalformed)
}

func TestQuoteUnderAnotherRootIsRefused(t *testing.T) {
	other := softtee.NewTDX(&softtee.TDXOptions{Seed: "other"})
	raw, err := other.Quote([64]byte{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = tdx.Verify(parse(t, raw), options(t))
	wantClass(t, err, attestext.ErrSignature)
	o := options(t)
	o.Roots = nil // Intel's
	_, err = tdx.Verify(parse(t, quote(t, nil)), o)
	wantClass(t, err, attestext.ErrSignature)
}

func TestCollateralUnderAnotherRootIsRefused(t *testing.T) {
	c, err := softtee.NewTDX(&softtee.TDXOptions{Seed: "other"}).Collateral(&softtee.CollateralOptions{Now: testTime})
	if err != nil {
		t.Fatal(err)
	}
	o := options(t)
	o.Collateral = c
	_, err = tdx.Verify(parse(t, quote(t, nil)), o)
	wantClass(t, err, attestext.ErrSignature)
}

func TestTrapEmptyRoots(t *testing.T) {
	o := options(t)
	o.Roots = x509.NewCertPool()
	_, err := tdx.Verify(parse(t, quote(t, nil)), o)
	wantClass(t, err, attestext.ErrUnavailable)
}

func TestEmbeddedRootIsIntels(t *testing.T) {
	// SHA-256 of the DER.
	const fingerprint = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
	b, err := os.ReadFile("intel_sgx_root_ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(b)
	if block == nil || len(bytes.TrimSpace(rest)) != 0 {
		t.Fatal("not one certificate")
	}
	if sum := sha256.Sum256(block.Bytes); hex.EncodeToString(sum[:]) != fingerprint {
		t.Errorf("fingerprint is %x, want %s", sum, fingerprint)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	if !pool.Equal(tdx.IntelRoots()) {
		t.Error("embedded pool is not the file")
	}
}

// go-tdx-guest prints a warning to the standard output that it found at start-up
// when it has to fall back on its own root, which would spoil what a command prints.
func TestTrapFallbackPrints(t *testing.T) {
	const child = "ATLS_TEST_VERIFY_CHILD"
	if os.Getenv(child) != "" {
		if _, err := tdx.Verify(parse(t, intelQuote(t)), &tdx.VerifyOptions{InsecureSkipCollateral: true, Now: intelTime}); err != nil {
			t.Fatal(err)
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if bytes.Contains(out, []byte("WARN")) || bytes.Contains(out, []byte("embedded")) {
		t.Errorf("printed %s", out)
	}
}

func TestMissingCollateralIsRefusedUnlessSkippedByName(t *testing.T) {
	q := parse(t, quote(t, nil))
	for _, o := range []*tdx.VerifyOptions{nil, {}, {Roots: softtee.Roots(), Now: testTime}} {
		_, err := tdx.Verify(q, o)
		wantClass(t, err, attestext.ErrUnavailable)
	}
	v, err := tdx.Verify(q, &tdx.VerifyOptions{Roots: softtee.Roots(), Now: testTime, InsecureSkipCollateral: true})
	if err != nil {
		t.Fatal(err)
	}
	if v.CollateralChecked() || v.TCBStatus() != "" {
		t.Error("skipped collateral reported as checked")
	}
}

// Collateral that is there is used, whatever InsecureSkipCollateral says.
func TestSkippingCollateralDoesNotSkipWhatIsThere(t *testing.T) {
	o := options(t)
	o.InsecureSkipCollateral = true
	o.Collateral = collateral(t, softtee.CollateralOptions{TCBStatus: "Revoked"})
	_, err := tdx.Verify(parse(t, quote(t, nil)), o)
	wantClass(t, err, attestext.ErrPolicy)
}

func TestCollateralDecidesWhatPasses(t *testing.T) {
	q := parse(t, quote(t, nil))
	// TEE_TCB_SVN[1] names a version of the TDX module, which then has TCB levels
	// of its own.
	versioned := parse(t, quote(t, &softtee.TDXOptions{Modify: func(b *tdx.Quote) { b.TeeTcbSvn[1] = 1 }}))
	unknown := parse(t, quote(t, &softtee.TDXOptions{Modify: func(b *tdx.Quote) { b.TeeTcbSvn[1] = 9 }}))
	old := parse(t, quote(t, &softtee.TDXOptions{Modify: func(b *tdx.Quote) { b.TeeTcbSvn[2] = 1 }}))
	later := testTime.Add(31 * 24 * time.Hour)
	for _, c := range []struct {
		name  string
		quote *tdx.Quote
		opts  softtee.CollateralOptions
		now   time.Time
		class error
	}{
		{"UpToDate", q, softtee.CollateralOptions{}, testTime, nil},
		{"UpToDate module", versioned, softtee.CollateralOptions{}, testTime, nil},
		{"OutOfDate", q, softtee.CollateralOptions{TCBStatus: "OutOfDate"}, testTime, attestext.ErrPolicy},
		{"SWHardeningNeeded", q, softtee.CollateralOptions{TCBStatus: "SWHardeningNeeded"}, testTime, attestext.ErrPolicy},
		{"ConfigurationNeeded", q, softtee.CollateralOptions{TCBStatus: "ConfigurationNeeded"}, testTime, attestext.ErrPolicy},
		{"Revoked", q, softtee.CollateralOptions{TCBStatus: "Revoked"}, testTime, attestext.ErrPolicy},
		{"OutOfDate QE", q, softtee.CollateralOptions{QEStatus: "OutOfDate"}, testTime, attestext.ErrPolicy},
		{"OutOfDate module", versioned, softtee.CollateralOptions{ModuleStatus: "OutOfDate"}, testTime, attestext.ErrPolicy},
		// The status of the module must not stand in for that of the platform, as
		// it does in later versions of go-tdx-guest.
		{"Revoked platform with UpToDate module", versioned, softtee.CollateralOptions{TCBStatus: "Revoked"}, testTime, attestext.ErrPolicy},
		{"module that Intel does not know", unknown, softtee.CollateralOptions{}, testTime, attestext.ErrPolicy},
		{"below every TCB level", old, softtee.CollateralOptions{}, testTime, attestext.ErrPolicy},
		{"revoked PCK", q, softtee.CollateralOptions{RevokePCK: true}, testTime, attestext.ErrSignature},
		{"revoked platform CA", q, softtee.CollateralOptions{RevokePlatformCA: true}, testTime, attestext.ErrSignature},
		{"revoked TCB signer", q, softtee.CollateralOptions{RevokeTCBSigning: true}, testTime, attestext.ErrSignature},
		{"expired", q, softtee.CollateralOptions{}, later, attestext.ErrPolicy},
		{"of another platform", q, softtee.CollateralOptions{FMSPC: &[6]byte{1, 2, 3, 4, 5, 6}}, testTime, attestext.ErrUnavailable},
		{"certificates not valid yet", q, softtee.CollateralOptions{}, time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), attestext.ErrSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := tdx.Verify(c.quote, &tdx.VerifyOptions{Roots: softtee.Roots(), Collateral: collateral(t, c.opts), Now: c.now})
			if c.class == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantClass(t, err, c.class)
		})
	}
}

// A TD under debug is genuine: refusing it is for policy. go-tdx-guest does not
// look either.
func TestTrapDebugTD(t *testing.T) {
	for name, o := range map[string]*softtee.TDXOptions{
		"DEBUG":              {Debug: true},
		"reserved TUD bit 7": {Modify: func(b *tdx.Quote) { b.TdAttributes[0] = 0x80 }},
	} {
		v, err := tdx.Verify(parse(t, quote(t, o)), options(t))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !v.Debug() {
			t.Errorf("%s: not reported", name)
		}
	}
}

// Without collateral go-tdx-guest does not ask which enclave signed the quote.
func TestTrapForeignQuotingEnclave(t *testing.T) {
	for name, o := range map[string]*softtee.TDXOptions{
		"other signer": {ForeignQE: true},
		"debug":        {DebugQE: true},
	} {
		q := parse(t, quote(t, o))
		for _, opts := range []*tdx.VerifyOptions{options(t), {Roots: softtee.Roots(), InsecureSkipCollateral: true, Now: testTime}} {
			if _, err := tdx.Verify(q, opts); !errors.Is(err, attestext.ErrSignature) {
				t.Errorf("%s, collateral %v: %v", name, opts.Collateral != nil, err)
			}
		}
	}
}

// Nor does it ask whose the TDX module is.
func TestTrapForeignModule(t *testing.T) {
	for name, modify := range map[string]func(*tdx.Quote){
		"other signer": func(b *tdx.Quote) { b.MRSIGNERSEAM[47] = 1 },
		"attributes":   func(b *tdx.Quote) { b.SEAMAttributes[0] = 1 },
	} {
		q := parse(t, quote(t, &softtee.TDXOptions{Modify: modify}))
		for _, opts := range []*tdx.VerifyOptions{options(t), {Roots: softtee.Roots(), InsecureSkipCollateral: true, Now: testTime}} {
			if _, err := tdx.Verify(q, opts); !errors.Is(err, attestext.ErrSignature) && !errors.Is(err, attestext.ErrPolicy) {
				t.Errorf("%s, collateral %v: %v", name, opts.Collateral != nil, err)
			}
		}
	}
}

// go-tdx-guest writes to its options and appends to a slice of its message. Run
// with -race: one quote and one set of options serve all.
func TestTrapOptionsAreWrittenTo(t *testing.T) {
	q, opts := parse(t, quote(t, nil)), options(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := tdx.Verify(q, opts); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestCollateralRoundTrip(t *testing.T) {
	b, err := collateral(t, softtee.CollateralOptions{}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	c, err := tdx.ParseCollateral(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tdx.Verify(parse(t, quote(t, nil)), &tdx.VerifyOptions{Roots: softtee.Roots(), Collateral: c, Now: testTime}); err != nil {
		t.Error(err)
	}
	if want := testTime.Add(30 * 24 * time.Hour); !c.NextUpdate().Equal(want) {
		t.Errorf("next update %v, want %v", c.NextUpdate(), want)
	}
}

func TestIncompleteOrAmbiguousCollateralIsMalformed(t *testing.T) {
	good, err := collateral(t, softtee.CollateralOptions{}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]string
	if err := json.Unmarshal(good, &m); err != nil {
		t.Fatal(err)
	}
	refuse := func(name string, b []byte) {
		t.Helper()
		if _, err := tdx.ParseCollateral(b); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	change := func(key, value string) []byte {
		c := make(map[string]string)
		for k, v := range m {
			c[k] = v
		}
		c[key] = value
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for k, v := range m {
		refuse(k+" empty", change(k, ""))
		refuse(k+" cut", change(k, v[:len(v)/2]))
	}
	refuse("unknown member", change("surprise", "x"))
	refuse("tcb_info of two objects", change("tcb_info", m["tcb_info"]+`,"TCBINFO":{}`))
	refuse("duplicate member", bytes.Replace(good, []byte("{"), []byte(`{"tcb_info":"{}",`), 1))
	refuse("member twice but for case", bytes.Replace(good, []byte("{"), []byte(`{"TCB_INFO":"{}",`), 1))
	refuse("trailing data", append(bytes.Clone(good), "{}"...))
	refuse("third certificate", change("tcb_info_issuer_chain", m["tcb_info_issuer_chain"]+m["tcb_info_issuer_chain"]))
	for _, list := range []string{"pck_crl", "root_ca_crl"} { // of which package revocation refuses more
		refuse(list+" with a byte behind", change(list, m[list]+"00"))
	}
	refuse("too large", make([]byte, tdx.MaxCollateralSize+1))
	for _, n := range []int{0, 1, len(good) / 2, len(good) - 2} {
		refuse("cut", good[:n])
	}
}

// go-tdx-guest evaluates the member whose name matches "tcbInfo" without case and
// checks the signature of the one that matches exactly: with both in an answer,
// the first would be believed unsigned.
func TestTrapUnsignedTwinOfTheTCBInfo(t *testing.T) {
	good, err := collateral(t, softtee.CollateralOptions{}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]string
	if err := json.Unmarshal(good, &m); err != nil {
		t.Fatal(err)
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	responses := func(tcbInfo string) *tdx.PCSResponses {
		return &tdx.PCSResponses{
			TCBInfo:    tdx.Response{Body: []byte(tcbInfo), IssuerChain: m["tcb_info_issuer_chain"]},
			QEIdentity: tdx.Response{Body: []byte(`{"enclaveIdentity":` + m["qe_identity"] + `,"signature":"` + m["qe_identity_signature"] + `"}`), IssuerChain: m["qe_identity_issuer_chain"]},
			PCKCRL:     tdx.Response{Body: unhex(m["pck_crl"]), IssuerChain: m["pck_crl_issuer_chain"]},
			RootCRL:    tdx.Response{Body: unhex(m["root_ca_crl"])},
		}
	}
	honest := `{"tcbInfo":` + m["tcb_info"] + `,"signature":"` + m["tcb_info_signature"] + `"`
	if _, err := tdx.NewCollateral(responses(honest + "}")); err != nil {
		t.Fatal(err)
	}
	for _, twin := range []string{`,"TCBINFO":{}}`, `,"tcbInfo":{}}`, `,"extra":1}`, `,"Signature":"00"}`} {
		_, err := tdx.NewCollateral(responses(honest + twin))
		wantClass(t, err, attestext.ErrMalformed)
	}
}

func FuzzParse(f *testing.F) {
	raw := quote(f, nil)
	f.Add(raw)
	f.Add(intelQuote(f))
	f.Add(raw[:1100])
	f.Add(raw[:offQEAuth])
	opts := options(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		q, err := tdx.Parse(b)
		if err != nil {
			if attestext.Class(err) != attestext.ErrMalformed {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(q.Raw(), b) {
			t.Fatal("not the bytes that were parsed")
		}
		// The report body and all below it are signed.
		if v, err := tdx.Verify(q, opts); err == nil && v.MRTD() != parse(t, raw).MRTD {
			t.Fatal("forged quote verifies")
		}
	})
}

func FuzzParseCollateral(f *testing.F) {
	b, err := collateral(f, softtee.CollateralOptions{}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	b, err = intelCollateral(f).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	q := parse(f, quote(f, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		c, err := tdx.ParseCollateral(b)
		if err != nil {
			return
		}
		again, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tdx.ParseCollateral(again); err != nil {
			t.Fatalf("own encoding refused: %v", err)
		}
		_, _ = tdx.Verify(q, &tdx.VerifyOptions{Roots: softtee.Roots(), Collateral: c, Now: testTime})
	})
}

func BenchmarkParse(b *testing.B) {
	raw := quote(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		parse(b, raw)
	}
}

func BenchmarkVerify(b *testing.B) {
	q := parse(b, quote(b, nil))
	for name, o := range map[string]*tdx.VerifyOptions{
		"collateral":   options(b),
		"noCollateral": {Roots: softtee.Roots(), InsecureSkipCollateral: true, Now: testTime},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tdx.Verify(q, o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// All platforms whose identity is zero would otherwise be one machine.
func TestPlatformIdentityOfZerosIsNone(t *testing.T) {
	for _, zero := range []bool{false, true} {
		v, err := tdx.Verify(parse(t, quote(t, &softtee.TDXOptions{ZeroPlatformID: zero})), options(t))
		if err != nil {
			t.Fatal(err)
		}
		if id := v.PlatformInstanceID(); zero != (id == nil) {
			t.Errorf("platform instance ID is %x, zeros in the certificate: %v", id, zero)
		}
	}
}
