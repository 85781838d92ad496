package collateral_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/collateral"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fmspc is that of the TD in software.
var fmspc = func() string {
	c, err := softtee.Collateral(testTime)
	if err != nil {
		panic(err)
	}
	return c.FMSPC()
}()

// A clock stands still unless it is told otherwise.
type clock struct{ atomic.Int64 }

func newClock() *clock              { c := &clock{}; c.Store(testTime.UnixNano()); return c }
func (c *clock) now() time.Time     { return time.Unix(0, c.Load()).UTC() }
func (c *clock) on(d time.Duration) { c.Add(int64(d)) }

// A service has the interfaces of the PCS and the KDS, and whatever is wrong with it.
type service struct {
	*httptest.Server
	requests atomic.Int64
	mu       sync.Mutex
	tdx      softtee.CollateralOptions
	seed     string
	snp      softtee.SNPCollateralOptions
	// first is asked before anything is answered, and may do so itself.
	first func(w http.ResponseWriter, r *http.Request) bool
}

func newService(t testing.TB) *service {
	t.Helper()
	s := &service{}
	s.tdx.Now, s.snp.Now = testTime, testTime
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *service) set(f func(*service)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	s.mu.Lock()
	first, intel, amd, seed := s.first, s.tdx, s.snp, s.seed
	s.mu.Unlock()
	if first != nil && first(w, r) {
		return
	}
	fail := func(err error) { http.Error(w, err.Error(), http.StatusInternalServerError) }
	if strings.HasPrefix(r.URL.Path, "/vcek/") || strings.HasPrefix(r.URL.Path, "/vlek/") {
		s.kds(w, r, &amd, seed, fail)
		return
	}
	c, err := softtee.NewTDX(&softtee.TDXOptions{Seed: seed}).Collateral(&intel)
	if err != nil {
		fail(err)
		return
	}
	b, err := c.Marshal()
	var m map[string]string
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		fail(err)
		return
	}
	chain := func(header, name string) { w.Header().Set(header, escape(m[name])) }
	switch r.URL.RequestURI() {
	case "/tdx/certification/v4/tcb?fmspc=" + fmspc, "/tdx/certification/v4/tcb?fmspc=" + c.FMSPC():
		chain("TCB-Info-Issuer-Chain", "tcb_info_issuer_chain")
		fmt.Fprintf(w, `{"tcbInfo":%s,"signature":"%s"}`, m["tcb_info"], m["tcb_info_signature"])
	case "/tdx/certification/v4/qe/identity":
		chain("SGX-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain")
		fmt.Fprintf(w, `{"enclaveIdentity":%s,"signature":"%s"}`, m["qe_identity"], m["qe_identity_signature"])
	case "/sgx/certification/v4/pckcrl?ca=platform&encoding=der":
		chain("SGX-PCK-CRL-Issuer-Chain", "pck_crl_issuer_chain")
		der, _ := hex.DecodeString(m["pck_crl"])
		w.Write(der)
	case "/sgx/certification/v4/rootcacrl":
		fmt.Fprint(w, m["root_ca_crl"]) // as a PCCS
	default:
		http.NotFound(w, r)
	}
}

// escape writes a chain into a header as Intel does.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

func (s *service) kds(w http.ResponseWriter, r *http.Request, o *softtee.SNPCollateralOptions, seed string, fail func(error)) {
	guest := softtee.NewSNP(&softtee.SNPOptions{Seed: seed, VLEK: strings.HasPrefix(r.URL.Path, "/vlek/")})
	certs := guest.Certificates()
	chip := guestReport(guest).ChipID
	switch r.URL.RequestURI() {
	case "/vcek/v1/Milan/crl", "/vlek/v1/Milan/crl":
		l, err := guest.CRL(o)
		if err != nil {
			fail(err)
			return
		}
		w.Write(l.Raw)
	case "/vcek/v1/Milan/cert_chain", "/vlek/v1/Milan/cert_chain":
		pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: certs.ASK.Raw})
		pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: certs.ARK.Raw})
	default:
		tcb := guestReport(guest).ReportedTCB
		if r.URL.RequestURI() != fmt.Sprintf("/vcek/v1/Milan/%x?blSPL=%d&teeSPL=%d&snpSPL=%d&ucodeSPL=%d", chip, tcb.Bootloader, tcb.TEE, tcb.SNP, tcb.Microcode) {
			http.NotFound(w, r)
			return
		}
		w.Write(certs.VCEK.Raw)
	}
}

func guestReport(s *softtee.SNP) *sevsnp.Report {
	raw, err := s.Quote([64]byte{1})
	if err != nil {
		panic(err)
	}
	r, err := sevsnp.Parse(raw)
	if err != nil {
		panic(err)
	}
	return r
}

// events collects what a Source says.
type events struct {
	mu  sync.Mutex
	all []collateral.Event
	ch  chan collateral.Event // of fetches
}

func newEvents() *events { return &events{ch: make(chan collateral.Event, 100)} }

func (e *events) observe(ev collateral.Event) {
	e.mu.Lock()
	e.all = append(e.all, ev)
	e.mu.Unlock()
	if ev.Outcome == collateral.Fetched || ev.Outcome == collateral.Failed {
		e.ch <- ev
	}
}

func (e *events) count(o collateral.Outcome) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.all {
		if ev.Outcome == o {
			n++
		}
	}
	return n
}

// wait waits for the end of a fetch.
func (e *events) wait(t testing.TB) collateral.Event {
	t.Helper()
	select {
	case ev := <-e.ch:
		return ev
	case <-time.After(time.Minute):
		t.Fatal("no fetch has ended")
		panic("unreachable")
	}
}

// source returns a Source that asks s and trusts the roots of the TEEs in software.
func source(t testing.TB, s *service, clk *clock, ev *events, change func(*collateral.Config)) *collateral.Source {
	t.Helper()
	c := config(s, clk, ev)
	if change != nil {
		change(c)
	}
	src, err := collateral.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}

func config(s *service, clk *clock, ev *events) *collateral.Config {
	c, err := collateral.Everything(s.URL)
	if err != nil {
		panic(err)
	}
	c.TDXRoots, c.SNPRoots, c.Now, c.Timeout = softtee.Roots(), softtee.SNPRoots(), clk.now, time.Minute
	if ev != nil {
		c.Observe = ev.observe
	}
	return c
}

func TestCollateralIsFetchedOnceAndKept(t *testing.T) {
	s, ev := newService(t), newEvents()
	src := source(t, s, newClock(), ev, nil)
	for range 3 {
		c, err := src.TDX(t.Context(), fmspc, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.FMSPC() != fmspc {
			t.Errorf("FMSPC %s", c.FMSPC())
		}
	}
	if n := s.requests.Load(); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
	if ev.count(collateral.Fetched) != 1 || ev.count(collateral.Waited) != 1 || ev.count(collateral.Fresh) != 2 {
		t.Errorf("events %+v", ev.all)
	}
}

// Whatever the service answers that is not good is an error of one class, and does not
// replace what is kept.
func TestBadAnswersAreRefusedAndReplaceNothing(t *testing.T) {
	answer := func(f http.HandlerFunc) func(*service) {
		return func(s *service) {
			s.first = func(w http.ResponseWriter, r *http.Request) bool { f(w, r); return true }
		}
	}
	only := func(path string, f http.HandlerFunc) func(*service) {
		return func(s *service) {
			s.first = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, path) {
					return false
				}
				f(w, r)
				return true
			}
		}
	}
	for _, c := range []struct {
		name string
		bad  func(*service)
		say  string
	}{
		{"500", answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }), "status 500"},
		{"404 for one part", only("qe/identity", http.NotFound), "status 404"},
		{"garbage", answer(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("\x00garbage{")) }), ""},
		{"nothing", answer(func(http.ResponseWriter, *http.Request) {}), ""},
		{"JSON of another kind", only("tcb", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"tcbInfo":{},"signature":""}`)) }), ""},
		{"a list that is none", only("rootcacrl", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("00")) }), "root_ca_crl"},
		{"over-long", answer(func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, collateral.MaxResponseSize+1)) }), "more than"},
		{"over-long header", only("tcb", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 30 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 8<<10))
			}
		}), ""},
		{"expired", func(s *service) {
			s.tdx = softtee.CollateralOptions{Now: testTime.AddDate(0, 0, -60), NextUpdate: testTime.AddDate(0, 0, -30)}
		}, "expired"},
		{"older", func(s *service) {
			s.tdx = softtee.CollateralOptions{Now: testTime.Add(-time.Second)}
		}, ""},
		{"signed by another", func(s *service) { s.seed = "other" }, "signer"},
		{"signer is revoked", func(s *service) { s.tdx.RevokeTCBSigning = true }, "revoked"},
		{"authority is revoked", func(s *service) { s.tdx.RevokePlatformCA = true }, "revoked"},
		{"of another platform", func(s *service) { s.tdx.FMSPC = &[6]byte{1, 2, 3, 4, 5, 6} }, "asked for FMSPC"},
		{"redirect", answer(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }), "status 302"},
		{"changed", only("tcb", func(w http.ResponseWriter, r *http.Request) {
			c, _ := softtee.NewTDX(nil).Collateral(&softtee.CollateralOptions{Now: testTime, TCBStatus: "Revoked"})
			b, _ := c.Marshal()
			var m map[string]string
			json.Unmarshal(b, &m)
			w.Header().Set("TCB-Info-Issuer-Chain", escape(m["tcb_info_issuer_chain"]))
			fmt.Fprintf(w, `{"tcbInfo":%s,"signature":"%s"}`, strings.Replace(m["tcb_info"], "Revoked", "UpToDate", 1), m["tcb_info_signature"])
		}), "signature does not verify"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, clk, ev := newService(t), newClock(), newEvents()
			s.set(c.bad)
			src := source(t, s, clk, nil, nil)
			_, err := src.TDX(t.Context(), fmspc, nil)
			switch {
			case c.name == "older": // than nothing
				if err != nil {
					t.Error(err)
				}
			case attestext.Class(err) != attestext.ErrUnavailable || !strings.Contains(err.Error(), c.say):
				t.Errorf("got %v", err)
			}

			good := newService(t)
			kept := source(t, good, clk, ev, nil)
			want, err := kept.TDX(t.Context(), fmspc, nil)
			if err != nil {
				t.Fatal(err)
			}
			ev.wait(t)
			good.set(c.bad)
			clk.on(collateral.DefaultRefreshAfter)
			if got, err := kept.TDX(t.Context(), fmspc, nil); err != nil || got != want {
				t.Errorf("stale: %v", err)
			}
			if e := ev.wait(t); e.Outcome != collateral.Failed {
				t.Errorf("refreshed with what is bad: %+v", e)
			}
			if got, err := kept.TDX(t.Context(), fmspc, nil); err != nil || got != want {
				t.Errorf("replaced by what is bad: %v", err)
			}
		})
	}
}

func TestSlowServiceIsGivenUp(t *testing.T) {
	s := newService(t)
	release := make(chan struct{})
	defer close(release)
	s.set(func(s *service) {
		s.first = func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(200)
			w.(http.Flusher).Flush() // the body never comes
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return true
		}
	})
	src := source(t, s, newClock(), nil, func(c *collateral.Config) { c.Timeout = 50 * time.Millisecond })
	start := time.Now()
	_, err := src.TDX(t.Context(), fmspc, nil)
	if !errors.Is(err, attestext.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("after %v", took)
	}
}

// A caller whose time is up does not end the fetch for the others.
func TestCallersShareOneFetch(t *testing.T) {
	s, ev := newService(t), newEvents()
	release, begun := make(chan struct{}), make(chan struct{}, 100)
	s.set(func(s *service) {
		s.first = func(http.ResponseWriter, *http.Request) bool {
			begun <- struct{}{}
			<-release
			return false
		}
	})
	src := source(t, s, newClock(), ev, nil)
	impatient, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := src.TDX(impatient, fmspc, nil); gone <- err }()
	<-begun
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) || attestext.Class(err) != attestext.ErrUnavailable {
		t.Errorf("cancelled: %v", err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := src.TDX(t.Context(), fmspc, nil); err != nil {
				t.Error(err)
			}
		})
	}
	close(release)
	wg.Wait()
	if n := s.requests.Load(); n != 4 || ev.count(collateral.Fetched) != 1 {
		t.Errorf("%d requests, %d fetches", n, ev.count(collateral.Fetched))
	}
}

// What is fetched may be new but for one part, which is from before a revocation. That
// another part is older still must not hide it.
func TestNoPartOfCollateralGoesBack(t *testing.T) {
	parts := []string{"/tcb", "/qe/identity", "/pckcrl", "/rootcacrl"}
	issued := func(at time.Time) *service {
		s := newService(t)
		s.set(func(s *service) { s.tdx.Now = at })
		return s
	}
	older, oldest := issued(testTime.Add(-time.Minute)), issued(testTime.Add(-time.Hour))
	for i, part := range parts {
		other := parts[(i+1)%2] // TCB info or QE identity
		serve := func(from map[string]*service) func(*service) {
			return func(s *service) {
				s.first = func(w http.ResponseWriter, r *http.Request) bool {
					for suffix, s := range from {
						if strings.HasSuffix(r.URL.Path, suffix) {
							s.ServeHTTP(w, r)
							return true
						}
					}
					return false
				}
			}
		}
		s, clk, ev := newService(t), newClock(), newEvents()
		s.set(serve(map[string]*service{other: oldest}))
		src := source(t, s, clk, ev, nil)
		kept, err := src.TDX(t.Context(), fmspc, nil)
		if err != nil {
			t.Fatal(part, err)
		}
		ev.wait(t)
		s.set(serve(map[string]*service{other: oldest, part: older}))
		clk.on(collateral.DefaultRefreshAfter)
		src.TDX(t.Context(), fmspc, nil)
		if e := ev.wait(t); e.Outcome != collateral.Failed || !strings.Contains(e.Err.Error(), "older") {
			t.Errorf("%s: %+v", part, e)
		}
		if got, err := src.TDX(t.Context(), fmspc, nil); err != nil || got != kept {
			t.Errorf("%s went back: %v", part, err)
		}
	}
}

// What is remembered of each part is remembered whichever platforms it was fetched for, and
// though what it came with has been forgotten: QE identity and revocation lists are the
// same for all families, and TCB info is not.
func TestNoPartGoesBackThroughAnotherFamily(t *testing.T) {
	other := [6]byte{1, 2, 3, 4, 5, 6}
	for path, name := range map[string]string{
		"/qe/identity": "QE identity", "/pckcrl": "Intel SGX PCK Platform CA", "/rootcacrl": "Intel SGX Root CA", "/tcb": "",
	} {
		s, older := newService(t), newService(t)
		older.tdx = softtee.CollateralOptions{Now: testTime.Add(-time.Minute), FMSPC: &other}
		src := source(t, s, newClock(), nil, nil)
		if _, err := src.TDX(t.Context(), fmspc, nil); err != nil {
			t.Fatal(err)
		}
		s.set(func(s *service) {
			s.tdx.FMSPC = &other
			s.first = func(w http.ResponseWriter, r *http.Request) bool {
				is := strings.HasSuffix(r.URL.Path, path)
				if is {
					older.ServeHTTP(w, r)
				}
				return is
			}
		})
		_, err := src.TDX(t.Context(), hex.EncodeToString(other[:]), nil)
		if name == "" && err != nil || name != "" && (err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "is older")) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, tt := range []struct {
		name string
		// before is fetched for one family, and then after for another or the same one.
		before, after softtee.CollateralOptions
		part          string // that is said to be older; nothing: it is accepted
	}{
		{"TCB info of another family", softtee.CollateralOptions{TCBEvaluation: 16}, softtee.CollateralOptions{FMSPC: &other}, ""},
		{"tcbEvaluationDataNumber of TCB info", softtee.CollateralOptions{TCBEvaluation: 16},
			softtee.CollateralOptions{Now: testTime.Add(time.Minute)}, "TCB info of FMSPC " + fmspc + " (tcbEvaluationDataNumber)"},
		{"tcbEvaluationDataNumber of QE identity", softtee.CollateralOptions{QEEvaluation: 16},
			softtee.CollateralOptions{Now: testTime.Add(time.Minute), FMSPC: &other}, "QE identity (tcbEvaluationDataNumber)"},
		{"newer", softtee.CollateralOptions{}, softtee.CollateralOptions{Now: testTime.Add(time.Minute), TCBEvaluation: 16, QEEvaluation: 16}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, clk := newService(t), newClock()
			src := source(t, s, clk, nil, func(c *collateral.Config) { c.MaxEntries = 1 })
			fetch := func(o softtee.CollateralOptions) error {
				family := fmspc
				if o.FMSPC != nil {
					family = hex.EncodeToString(o.FMSPC[:])
				}
				if o.Now.IsZero() {
					o.Now = testTime
				}
				s.set(func(s *service) { s.tdx = o })
				src.TDX(t.Context(), "000000000000", nil) // has the other one forgotten
				_, err := src.TDX(t.Context(), family, nil)
				return err
			}
			if err := fetch(tt.before); err != nil {
				t.Fatal(err)
			}
			clk.on(2 * time.Minute)
			err := fetch(tt.after)
			if tt.part == "" && err != nil || tt.part != "" && (!errors.Is(err, attestext.ErrUnavailable) || !strings.Contains(err.Error(), tt.part+" is older")) {
				t.Errorf("got %v, want it to say %q", err, tt.part)
			}
		})
	}
}

// A revocation list of AMD's is that of all chips of a line.
func TestRevocationListOfAMDDoesNotGoBackThroughAnotherChip(t *testing.T) {
	s, clk, ev := newService(t), newClock(), newEvents()
	src := source(t, s, clk, ev, func(c *collateral.Config) { c.SNP.FetchVCEK = true })
	guest := softtee.NewSNP(nil)
	r := guestReport(guest)
	if _, err := src.SNP(t.Context(), r, guest.Certificates(), nil); err != nil {
		t.Fatal(err)
	}
	s.set(func(s *service) { s.snp.Now, s.snp.NextUpdate = testTime.Add(-time.Minute), testTime.AddDate(0, 0, 20) })
	if _, err := src.SNP(t.Context(), r, nil, nil); !errors.Is(err, attestext.ErrUnavailable) || !strings.Contains(err.Error(), "revocation list for VCEKs by ARK-Milan is older") {
		t.Errorf("for a chip by itself: %v", err)
	}
	// The list for VLEKs is another one.
	vlek := softtee.NewSNP(&softtee.SNPOptions{VLEK: true})
	if _, err := src.SNP(t.Context(), guestReport(vlek), vlek.Certificates(), nil); err != nil {
		t.Errorf("for a VLEK: %v", err)
	}
}

// A revocation list of AMD's from before one that is kept, though it is valid for longer,
// does not replace it.
func TestRevocationListOfAMDDoesNotGoBack(t *testing.T) {
	s, clk, ev := newService(t), newClock(), newEvents()
	s.set(func(s *service) { s.snp.NextUpdate = testTime.AddDate(0, 0, 10) })
	src := source(t, s, clk, ev, nil)
	r := guestReport(softtee.NewSNP(nil))
	kept, err := src.SNP(t.Context(), r, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ev.wait(t)
	s.set(func(s *service) { s.snp.Now, s.snp.NextUpdate = testTime.Add(-time.Minute), testTime.AddDate(0, 0, 20) })
	clk.on(collateral.DefaultRefreshAfter)
	src.SNP(t.Context(), r, nil, nil)
	if e := ev.wait(t); e.Outcome != collateral.Failed {
		t.Errorf("%+v", e)
	}
	if got, err := src.SNP(t.Context(), r, nil, nil); err != nil || got != kept {
		t.Errorf("went back: %v", err)
	}
}

func TestStaleCollateralServesWhileItIsRefreshed(t *testing.T) {
	s, clk, ev := newService(t), newClock(), newEvents()
	src := source(t, s, clk, ev, func(c *collateral.Config) { c.RefreshAfter, c.MaxStale = time.Hour, 24*time.Hour })
	get := func() *tdx.Collateral {
		t.Helper()
		c, err := src.TDX(t.Context(), fmspc, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	old := get()
	ev.wait(t)
	clk.on(time.Hour - 1)
	if get() != old || s.requests.Load() != 4 {
		t.Error("refreshed too early")
	}
	clk.on(1)
	s.set(func(s *service) { s.tdx.Now = clk.now() })
	if get() != old {
		t.Error("a lookup has waited")
	}
	if e := ev.wait(t); e.Outcome != collateral.Fetched || ev.count(collateral.Stale) != 1 {
		t.Errorf("%+v", e)
	}
	if c := get(); c == old || !c.NextUpdate().After(old.NextUpdate()) {
		t.Error("not refreshed")
	}
}

func TestWhatIsTooOldOrExpiredDoesNotServe(t *testing.T) {
	for name, age := range map[string]struct {
		maxStale, lifetime, pass time.Duration
	}{
		"too old": {24 * time.Hour, 30 * 24 * time.Hour, 24 * time.Hour},
		"expired": {90 * 24 * time.Hour, 30 * time.Hour, 30 * time.Hour},
	} {
		s, clk := newService(t), newClock()
		s.tdx.NextUpdate = testTime.Add(age.lifetime)
		src := source(t, s, clk, nil, func(c *collateral.Config) { c.RefreshAfter, c.MaxStale = time.Hour, age.maxStale })
		if _, err := src.TDX(t.Context(), fmspc, nil); err != nil {
			t.Fatal(err)
		}
		s.set(func(s *service) {
			s.first = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true }
		})
		clk.on(age.pass)
		if _, err := src.TDX(t.Context(), fmspc, nil); !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		// And is fetched once that is possible again.
		s.set(func(s *service) { s.first, s.tdx = nil, softtee.CollateralOptions{Now: clk.now()} })
		clk.on(collateral.DefaultRetryAfter)
		if _, err := src.TDX(t.Context(), fmspc, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFailedFetchIsNotRepeatedAtOnce(t *testing.T) {
	s, clk := newService(t), newClock()
	s.set(func(s *service) {
		s.first = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true }
	})
	src := source(t, s, clk, nil, nil)
	_, err := src.TDX(t.Context(), fmspc, nil)
	first := s.requests.Load()
	if _, again := src.TDX(t.Context(), fmspc, nil); again == nil || again.Error() != err.Error() {
		t.Errorf("%v, then %v", err, again)
	}
	if s.requests.Load() != first {
		t.Error("asked again at once")
	}
	clk.on(collateral.DefaultRetryAfter)
	if _, err := src.TDX(t.Context(), fmspc, nil); err == nil || s.requests.Load() == first {
		t.Errorf("not asked again: %v", err)
	}
}

func TestNothingIsFetchedForWhatIsNotGenuine(t *testing.T) {
	s := newService(t)
	src := source(t, s, newClock(), nil, nil)
	fake := attestext.Errorf(attestext.ErrSignature, "test", "forged")
	if _, err := src.TDX(t.Context(), fmspc, func() error { return fake }); err != fake {
		t.Errorf("got %v", err)
	}
	r := guestReport(softtee.NewSNP(nil))
	if _, err := src.SNP(t.Context(), r, nil, func() error { return fake }); err != fake {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"", "00", "50806F000000", "../../../tcb", "50806f00000g", "50806f000000?x=1"} {
		if _, err := src.TDX(t.Context(), bad, nil); !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if n := s.requests.Load(); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestOnlyAllowedHostsAreAsked(t *testing.T) {
	intel := func(u string, hosts ...string) *collateral.Config {
		return &collateral.Config{TDX: &collateral.TDXEndpoint{URL: u}, AllowHosts: hosts}
	}
	for name, c := range map[string]*collateral.Config{
		"no endpoint":     {AllowHosts: []string{"a.example"}},
		"no host":         intel("https://a.example"),
		"other host":      intel("https://a.example", "b.example"),
		"other port":      intel("https://a.example:8443", "a.example"),
		"empty host":      intel("https:///x", ""),
		"plain HTTP":      intel("http://a.example", "a.example"),
		"user":            intel("https://u:p@a.example", "a.example"),
		"query":           intel("https://a.example/?x=", "a.example"),
		"file":            intel("file:///etc/passwd", ""),
		"other root host": {TDX: &collateral.TDXEndpoint{URL: "https://a.example", RootCRL: "https://b.example/r"}, AllowHosts: []string{"a.example"}},
		"SNP elsewhere":   {SNP: &collateral.SNPEndpoint{URL: "https://b.example"}, AllowHosts: []string{"a.example"}},
		"negative":        {TDX: &collateral.TDXEndpoint{URL: "https://a.example"}, AllowHosts: []string{"a.example"}, Timeout: -1},
		"stale too early": {TDX: &collateral.TDXEndpoint{URL: "https://a.example"}, AllowHosts: []string{"a.example"}, RefreshAfter: time.Hour, MaxStale: time.Minute},
	} {
		if _, err := collateral.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := collateral.New(intel("https://A.example/pcs/", "a.example")); err != nil {
		t.Error(err)
	}
	// A redirect to another host leads nowhere.
	other := newService(t)
	s := newService(t)
	s.set(func(s *service) {
		s.first = func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, other.URL+r.URL.RequestURI(), http.StatusTemporaryRedirect)
			return true
		}
	})
	src := source(t, s, newClock(), nil, nil)
	if _, err := src.TDX(t.Context(), fmspc, nil); !errors.Is(err, attestext.ErrUnavailable) || other.requests.Load() != 0 {
		t.Errorf("%v, %d requests elsewhere", err, other.requests.Load())
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	before := runtime.NumGoroutine()
	s, clk, ev := newService(t), newClock(), newEvents()
	src := source(t, s, clk, ev, nil)
	if _, err := src.TDX(t.Context(), fmspc, nil); err != nil {
		t.Fatal(err)
	}
	ev.wait(t)
	begun := make(chan struct{}, 100)
	s.set(func(s *service) {
		s.first = func(_ http.ResponseWriter, r *http.Request) bool {
			begun <- struct{}{}
			<-r.Context().Done()
			return true
		}
	})
	clk.on(collateral.DefaultRefreshAfter)
	if _, err := src.TDX(t.Context(), fmspc, nil); err != nil {
		t.Fatal(err)
	}
	<-begun
	src.Close()
	if e := ev.wait(t); e.Outcome != collateral.Failed {
		t.Errorf("%+v", e)
	}
	src.Close() // twice is as good
	clk.on(collateral.DefaultMaxStale)
	if _, err := src.TDX(t.Context(), fmspc, nil); !errors.Is(err, attestext.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
	s.Close()
	for end := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before+1; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, there were %d", runtime.NumGoroutine(), before)
		}
	}
}

func TestNumberOfEntriesIsBounded(t *testing.T) {
	s := newService(t)
	src := source(t, s, newClock(), nil, func(c *collateral.Config) { c.MaxEntries = 1 })
	if _, err := src.TDX(t.Context(), fmspc, nil); err != nil {
		t.Fatal(err)
	}
	src.TDX(t.Context(), "000000000000", nil) // there is none, and its failure is remembered
	n := s.requests.Load()
	if _, err := src.TDX(t.Context(), fmspc, nil); err != nil || s.requests.Load() == n {
		t.Errorf("%v; was not forgotten", err)
	}
}

func TestSNPCollateralIsFetched(t *testing.T) {
	for _, vlek := range []bool{false, true} {
		s := newService(t)
		src := source(t, s, newClock(), nil, nil)
		guest := softtee.NewSNP(&softtee.SNPOptions{VLEK: vlek})
		r := guestReport(guest)
		certs := *guest.Certificates()
		certs.ASK, certs.ARK = nil, nil
		c, err := src.SNP(t.Context(), r, &certs, nil)
		if err != nil {
			t.Fatal(err)
		}
		v, err := sevsnp.Verify(r, &certs, &sevsnp.VerifyOptions{Roots: softtee.SNPRoots(), Collateral: c, Now: testTime})
		if err != nil || !v.CollateralChecked() {
			t.Errorf("VLEK %v: %v", vlek, err)
		}
		if n := s.requests.Load(); n != 2 {
			t.Errorf("VLEK %v: %d requests, want 2", vlek, n)
		}
	}
}

func TestCertificatesOfChipsAreFetchedOnlyWhereTheConfigurationSaysSo(t *testing.T) {
	r := guestReport(softtee.NewSNP(nil))
	for _, fetch := range []bool{false, true} {
		s := newService(t)
		src := source(t, s, newClock(), nil, func(c *collateral.Config) { c.SNP.FetchVCEK = fetch })
		c, err := src.SNP(t.Context(), r, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = sevsnp.Verify(r, nil, &sevsnp.VerifyOptions{Roots: softtee.SNPRoots(), Collateral: c, Now: testTime})
		if fetch != (err == nil) {
			t.Errorf("fetch %v: %v", fetch, err)
		}
	}
}

func TestBadSNPAnswersAreRefused(t *testing.T) {
	r := guestReport(softtee.NewSNP(nil))
	for name, bad := range map[string]func(*service){
		"expired":           func(s *service) { s.snp.NextUpdate = testTime.Add(-time.Second); s.snp.Now = testTime.Add(-time.Hour) },
		"signed by another": func(s *service) { s.seed = "other" },
		"garbage": func(s *service) {
			s.first = func(w http.ResponseWriter, _ *http.Request) bool { w.Write([]byte("garbage")); return true }
		},
		"endless chain": func(s *service) {
			s.first = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "cert_chain") {
					return false
				}
				var b bytes.Buffer
				pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: softtee.NewSNP(nil).Certificates().ASK.Raw})
				w.Write(bytes.Repeat(b.Bytes(), 20))
				return true
			}
		},
	} {
		s := newService(t)
		s.set(bad)
		src := source(t, s, newClock(), nil, nil)
		if _, err := src.SNP(t.Context(), r, nil, nil); attestext.Class(err) != attestext.ErrUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestListOfAnotherProductLineIsRefused: it says nothing of the platforms for which it was
// fetched, and would replace the list that does.
func TestListOfAnotherProductLineIsRefused(t *testing.T) {
	s := newService(t)
	s.set(func(s *service) {
		s.first = func(_ http.ResponseWriter, r *http.Request) bool {
			r.URL.Path = strings.Replace(r.URL.Path, "/Genoa/", "/Milan/", 1)
			return false
		}
	})
	src := source(t, s, newClock(), nil, nil)
	r := guestReport(softtee.NewSNP(nil))
	if _, err := src.SNP(t.Context(), r, nil, nil); err != nil {
		t.Fatal(err)
	}
	const familyGenoa, modelGenoa = 0x19, 0x11
	r.Family, r.Model = familyGenoa, modelGenoa
	if _, err := src.SNP(t.Context(), r, nil, nil); attestext.Class(err) != attestext.ErrUnavailable || !strings.Contains(err.Error(), "/vcek/v1/Genoa/crl: the revocation list is not one for Genoa") {
		t.Errorf("%v", err)
	}
}

func report(t testing.TB, q interface {
	Report(context.Context, [64]byte) (*tsm.Report, error)
}) *tsm.Report {
	t.Helper()
	r, err := q.Report(t.Context(), [64]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerifierGetsCollateralFromASource(t *testing.T) {
	s, clk := newService(t), newClock()
	local := &verifier.Local{
		TDXRoots: softtee.Roots(), SNPRoots: softtee.SNPRoots(), Now: clk.now,
		TDXCache: tdx.NewCache(0), SNPCache: sevsnp.NewCache(0),
		Policy: &policy.Policy{TDX: &policy.TDXPolicy{}, SNP: &policy.SNPPolicy{}},
	}
	evaluate := func(r *tsm.Report) error {
		v, err := local.Verify(r)
		if err == nil {
			_, err = v.Evaluate()
		}
		return err
	}
	td, guest := report(t, softtee.NewTDX(nil)), report(t, softtee.NewSNP(nil))
	for _, r := range []*tsm.Report{td, guest} {
		if err := evaluate(r); !errors.Is(err, attestext.ErrUnavailable) || s.requests.Load() != 0 {
			t.Errorf("without a source: %v, %d requests", err, s.requests.Load())
		}
	}
	local.Source = source(t, s, clk, nil, nil)
	forged := []*tsm.Report{report(t, softtee.NewTDX(&softtee.TDXOptions{Seed: "other"})), report(t, softtee.NewSNP(&softtee.SNPOptions{Seed: "other"}))}
	for _, r := range forged {
		if err := evaluate(r); !errors.Is(err, attestext.ErrSignature) || s.requests.Load() != 0 {
			t.Errorf("forged: %v, %d requests", err, s.requests.Load())
		}
	}
	for range 2 {
		for _, r := range []*tsm.Report{td, guest} {
			if err := evaluate(r); err != nil {
				t.Error(err)
			}
		}
	}
	if n := s.requests.Load(); n != 6 {
		t.Errorf("%d requests, want 6", n)
	}
	// A revocation reaches the verifier with the next refresh, and a peer that sends a list
	// from before does not keep it from there.
	before, err := softtee.NewSNP(nil).CRL(&softtee.SNPCollateralOptions{Now: clk.now()})
	if err != nil {
		t.Fatal(err)
	}
	s.set(func(s *service) { s.tdx.RevokePCK, s.snp.RevokeASK = true, true })
	clk.on(collateral.DefaultMaxStale)
	for _, r := range []*tsm.Report{td, report(t, softtee.NewSNP(&softtee.SNPOptions{StapledCRL: before})), guest} {
		if err := evaluate(r); !errors.Is(err, attestext.ErrSignature) {
			t.Errorf("revoked: %v", err)
		}
	}
	// Collateral that is at hand and current is preferred.
	if local.TDXCollateral, err = softtee.Collateral(clk.now()); err != nil {
		t.Fatal(err)
	}
	if local.SNPCollateral, err = softtee.SNPCollateral(clk.now()); err != nil {
		t.Fatal(err)
	}
	n := s.requests.Load()
	for _, r := range []*tsm.Report{td, guest} {
		if err := evaluate(r); err != nil || s.requests.Load() != n {
			t.Errorf("at hand: %v, %d requests", err, s.requests.Load()-n)
		}
	}
	// Unless it is older than the policy has it.
	local.Policy = &policy.Policy{TDX: &policy.TDXPolicy{MaxCollateralAge: policy.Duration(time.Hour)}, SNP: &policy.SNPPolicy{MaxCollateralAge: policy.Duration(time.Hour)}}
	clk.on(2 * time.Hour)
	s.set(func(s *service) {
		s.tdx, s.snp = softtee.CollateralOptions{Now: clk.now()}, softtee.SNPCollateralOptions{Now: clk.now()}
	})
	local.Source = source(t, s, clk, nil, nil)
	for _, r := range []*tsm.Report{td, guest} {
		if err := evaluate(r); err != nil {
			t.Errorf("too old: %v", err)
		}
	}
	if s.requests.Load() == n {
		t.Error("collateral that is too old was not fetched again")
	}
	local.Policy = &policy.Policy{TDX: &policy.TDXPolicy{}, SNP: &policy.SNPPolicy{}}
	// Without an answer there is no verdict, unless the policy does without.
	local.TDXCollateral, local.SNPCollateral = nil, nil
	s.Close()
	clk.on(collateral.DefaultMaxStale)
	for _, r := range []*tsm.Report{td, guest} {
		if err := evaluate(r); !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("out of order: %v", err)
		}
	}
	local.Policy = &policy.Policy{TDX: &policy.TDXPolicy{InsecureSkipCollateral: true}, SNP: &policy.SNPPolicy{InsecureSkipCollateral: true}}
	for _, r := range []*tsm.Report{td, guest} {
		if err := evaluate(r); err != nil {
			t.Errorf("skipped by name: %v", err)
		}
	}
}

func TestParseConfig(t *testing.T) {
	good := `{"tdx":{"url":"https://pcs.example"},"snp":{"url":"https://kds.example","fetch_vcek":true},
		"allow_hosts":["pcs.example","kds.example"],"timeout":"2s","refresh_after":"1h","max_stale":"48h","retry_after":"30s"}`
	c, err := collateral.ParseConfig([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.Timeout != 2*time.Second || c.MaxStale != 48*time.Hour || !c.SNP.FetchVCEK || c.TDX.URL != "https://pcs.example" {
		t.Errorf("%+v", c)
	}
	for _, bad := range []string{
		``, `{}`, `null`, `{"allow_hosts":["pcs.example"]}`, strings.Replace(good, `"pcs.example",`, "", 1),
		strings.Replace(good, `"2s"`, `2`, 1), strings.Replace(good, `"2s"`, `"-2s"`, 1), strings.Replace(good, "timeout", "time_out", 1),
		strings.Replace(good, `"48h"`, `"1m"`, 1), good + "{}", strings.Replace(good, `{"tdx"`, `{"tdx":{"url":"https://pcs.example"},"tdx"`, 1),
		strings.Repeat(" ", 1<<20),
	} {
		if _, err := collateral.ParseConfig([]byte(bad)); err == nil {
			t.Errorf("accepted: %.80s", bad)
		}
	}
}

func FuzzResponses(f *testing.F) {
	f.Add([]byte(`{"tcbInfo":{},"signature":""}`), "")
	f.Add([]byte("00"), "-----BEGIN%20CERTIFICATE-----%0A")
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), "%")
	r := guestReport(softtee.NewSNP(nil))
	f.Fuzz(func(t *testing.T, body []byte, chain string) {
		defer fuzzbound.Check(t, 10*(len(body)+len(chain)))() // seven answers, and what is copied of each
		c := &collateral.Config{
			TDX: &collateral.TDXEndpoint{URL: "https://a.example"}, SNP: &collateral.SNPEndpoint{URL: "https://a.example"}, AllowHosts: []string{"a.example"},
			TDXRoots: softtee.Roots(), SNPRoots: softtee.SNPRoots(), Now: func() time.Time { return testTime },
			Transport: roundTrip(func(*http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				w.Header()["Tcb-Info-Issuer-Chain"] = []string{chain}
				w.Header()["Sgx-Enclave-Identity-Issuer-Chain"] = []string{chain}
				w.Header()["Sgx-Pck-Crl-Issuer-Chain"] = []string{chain}
				w.Write(body)
				return w.Result(), nil
			}),
		}
		src, err := collateral.New(c)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if _, err := src.TDX(t.Context(), fmspc, nil); !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("TDX: %v", err)
		}
		if _, err := src.SNP(t.Context(), r, nil, nil); !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("SNP: %v", err)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
