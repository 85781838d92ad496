// Package evidence measures what reading and verifying evidence costs, beside the
// libraries that it is verified with, in one run and by turns. scripts/bench prints a
// table.
package evidence

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	snpabi "github.com/google/go-sev-guest/abi"
	snppb "github.com/google/go-sev-guest/proto/sevsnp"
	snpverify "github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	tdxabi "github.com/google/go-tdx-guest/abi"
	tdxverify "github.com/google/go-tdx-guest/verify"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// work is one thing done by the library, and here without a cache and with a warm one.
// What is nil has no meaning.
type work struct {
	name                string
	library, cold, warm func() error
}

// works returns what is measured. The two verify the same bytes against the same roots
// and the same collateral, revocation included.
func works(t testing.TB) []work {
	t.Helper()
	return append(tdxWorks(t), snpWorks(t)...)
}

func tdxWorks(t testing.TB) []work {
	raw, err := softtee.NewTDX(nil).Quote([64]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	c, err := softtee.Collateral(now)
	if err != nil {
		t.Fatal(err)
	}
	roots, getter := softtee.Roots(), newCollateralGetter(t, c)
	q, err := tdx.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	cold := &tdx.VerifyOptions{Roots: roots, Collateral: c, Now: now}
	warm := *cold
	warm.Cache = tdx.NewCache(0)
	verify := func(o *tdx.VerifyOptions) func() error {
		return func() error { _, err := tdx.Verify(q, o); return err }
	}
	if err := verify(&warm)(); err != nil {
		t.Fatal(err)
	}
	// The library writes to the message, so that each verification needs a fresh one:
	// it is counted as the library's, as its own function for raw quotes would.
	return []work{
		{"TDX/parse", func() error { _, err := tdxabi.QuoteToProto(raw); return err },
			func() error { _, err := tdx.Parse(raw); return err }, nil},
		{"TDX/verify", func() error {
			m, err := tdxabi.QuoteToProto(raw)
			if err != nil {
				return err
			}
			return tdxverify.TdxQuote(m, &tdxverify.Options{
				GetCollateral: true, CheckRevocations: true, Getter: getter, TrustedRoots: roots, Now: now,
			})
		}, verify(cold), verify(&warm)},
	}
}

// A collateralGetter answers go-tdx-guest from memory.
type collateralGetter struct {
	tcb, qe, pckCRL, rootCRL        []byte
	tcbHeader, qeHeader, crlHeaders map[string][]string
}

func newCollateralGetter(t testing.TB, c *tdx.Collateral) *collateralGetter {
	b, err := c.Marshal()
	var m map[string]string
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	der := func(name string) []byte {
		b, err := hex.DecodeString(m[name])
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	header := func(name, member string) map[string][]string {
		return map[string][]string{name: {url.QueryEscape(m[member])}}
	}
	return &collateralGetter{
		tcb:        []byte(`{"tcbInfo":` + m["tcb_info"] + `,"signature":"` + m["tcb_info_signature"] + `"}`),
		qe:         []byte(`{"enclaveIdentity":` + m["qe_identity"] + `,"signature":"` + m["qe_identity_signature"] + `"}`),
		pckCRL:     der("pck_crl"),
		rootCRL:    der("root_ca_crl"),
		tcbHeader:  header("Tcb-Info-Issuer-Chain", "tcb_info_issuer_chain"),
		qeHeader:   header("Sgx-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain"),
		crlHeaders: header("Sgx-Pck-Crl-Issuer-Chain", "pck_crl_issuer_chain"),
	}
}

func (g *collateralGetter) Get(u string) (map[string][]string, []byte, error) {
	switch {
	case strings.Contains(u, "/tcb?"):
		return g.tcbHeader, g.tcb, nil
	case strings.Contains(u, "/qe/identity"):
		return g.qeHeader, g.qe, nil
	case strings.Contains(u, "/pckcrl?"):
		return g.crlHeaders, g.pckCRL, nil
	}
	return nil, g.rootCRL, nil
}

func snpWorks(t testing.TB) []work {
	s := softtee.NewSNP(nil)
	raw, err1 := s.Quote([64]byte{1})
	c, err2 := softtee.SNPCollateral(now)
	crl, err3 := s.CRL(&softtee.SNPCollateralOptions{Now: now})
	r, err4 := sevsnp.Parse(raw)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	certs := s.Certificates()
	cold := &sevsnp.VerifyOptions{Roots: s.Roots(), Collateral: c, Now: now}
	warm := *cold
	warm.Cache = sevsnp.NewCache(0)
	verify := func(o *sevsnp.VerifyOptions) func() error {
		return func() error { _, err := sevsnp.Verify(r, certs, o); return err }
	}
	if err := verify(&warm)(); err != nil {
		t.Fatal(err)
	}
	return []work{
		{"SEV-SNP/parse", func() error { _, err := snpabi.ReportToProto(raw); return err },
			func() error { _, err := sevsnp.Parse(raw); return err }, nil},
		{"SEV-SNP/verify", func() error {
			m, err := snpabi.ReportToProto(raw)
			if err != nil {
				return err
			}
			return snpverify.SnpAttestation(
				&snppb.Attestation{Report: m, CertificateChain: &snppb.CertificateChain{VcekCert: certs.VCEK.Raw}},
				&snpverify.Options{
					DisableCertFetching: true, CheckRevocations: true, Getter: crlGetter{crl}, Now: now,
					TrustedRoots: map[string][]*trust.AMDRootCerts{"Milan": {{
						ProductLine: "Milan", ProductCerts: &trust.ProductCerts{Ark: certs.ARK, Ask: certs.ASK},
					}}},
				})
		}, verify(cold), verify(&warm)},
	}
}

type crlGetter struct{ l *x509.RevocationList }

func (g crlGetter) Get(string) ([]byte, error) { return g.l.Raw, nil }

// figures are medians of one work in microseconds, and of the ratios of each turn.
type figures struct {
	library, cold, warm  float64
	coldRatio, warmRatio float64
}

// measure runs the work by turns as long as more says.
func measure(t testing.TB, w work, more func() bool) figures {
	t.Helper()
	run := func(f func() error) float64 {
		if f == nil {
			return 0
		}
		start := time.Now()
		if err := f(); err != nil {
			t.Fatalf("%s: %v", w.name, err)
		}
		return float64(time.Since(start)) / 1e3
	}
	for range 3 { // warm up
		run(w.library)
		run(w.cold)
		run(w.warm)
	}
	var library, cold, warm, coldRatio, warmRatio []float64
	for more() {
		l, c, m := run(w.library), run(w.cold), run(w.warm)
		library, cold, warm = append(library, l), append(cold, c), append(warm, m)
		coldRatio, warmRatio = append(coldRatio, c/l), append(warmRatio, m/l)
	}
	return figures{median(library), median(cold), median(warm), median(coldRatio), median(warmRatio)}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	n := len(x)
	return (x[(n-1)/2] + x[n/2]) / 2
}

// allocs counts what f allocates, which is an error if it fails.
func allocs(t testing.TB, f func() error) float64 {
	return testing.AllocsPerRun(20, func() {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkEvidence(b *testing.B) {
	for _, w := range works(b) {
		b.Run(w.name, func(b *testing.B) {
			f := measure(b, w, b.Loop)
			b.ReportMetric(0, "ns/op") // would be that of all three
			b.ReportMetric(f.library, "library-µs")
			b.ReportMetric(f.cold, "cold-µs")
			b.ReportMetric(f.coldRatio, "cold-ratio")
			b.ReportMetric(allocs(b, w.library), "library-allocs")
			b.ReportMetric(allocs(b, w.cold), "cold-allocs")
			if w.warm != nil {
				b.ReportMetric(f.warm, "warm-µs")
				b.ReportMetric(f.warmRatio, "warm-ratio")
				b.ReportMetric(allocs(b, w.warm), "warm-allocs")
			}
		})
	}
}

// How long it takes is for the benchmark to say. What a test can hold on any machine
// is that each piece of work succeeds, and that a warm verification leaves most out.
func TestWarmVerificationAllocatesLittle(t *testing.T) {
	for _, w := range works(t) {
		cold := allocs(t, w.cold)
		if w.warm == nil {
			continue
		}
		if library, warm := allocs(t, w.library), allocs(t, w.warm); warm > library/3 {
			t.Errorf("%s: %v allocations, where a cold one has %v and the library's %v", w.name, warm, cold, library)
		}
	}
}
