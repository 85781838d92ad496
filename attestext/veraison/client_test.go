package veraison_test

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/veraison"
	"github.com/attestedtls/atls/internal/testpki"
)

const (
	sessionType   = "application/vnd.veraison.challenge-response-session+json"
	discoveryType = "application/vnd.veraison.discovery+json"
)

var (
	testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	earKey   = key("EAR signing key")
	tlsKey   = key("TLS identity key")
	otherKey = key("another TLS identity key")
)

func now() time.Time { return testTime }

var key, spki = testpki.Key, testpki.SPKI

// challenge is for a certificate with tlsKey, or in place of one.
func challenge(kind attestext.CredentialKind, binding attestext.Binding) *attestext.Challenge {
	c := &attestext.Challenge{
		Role: attestext.RoleServer, Binding: binding, Kind: kind, SPKI: spki(tlsKey),
		Nonce: bytes.Repeat([]byte{0xa5}, 32), Binder: bytes.Repeat([]byte{0x5a}, 32),
	}
	return c
}

// evidence is what a software TEE makes for c.
func evidence(t testing.TB, f attestext.EvidenceFormat, c *attestext.Challenge) *attestext.Evidence {
	t.Helper()
	ev := &attestext.Evidence{Type: attestext.EvidenceType{Kind: c.Kind, Format: f}}
	var err error
	ev.CMW, err = softtee.NewTDX(nil).Attester().Attest(context.Background(), &attestext.AttestRequest{Type: ev.Type, Challenge: c})
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// A fake is a service that approves of anything, unless told otherwise.
type fake struct {
	key    crypto.Signer
	modify func(*ear.Claims)
	// hooks answer in place of the fake, by request: "open", "submit", "poll",
	// "discovery".
	hooks map[string]http.HandlerFunc
	// processing is how often a result is not there yet.
	processing int
	old        bool     // uses the older name of the status
	accept     []string // in place of everything
	final      string   // in place of complete
	empty      bool     // completes without a result

	mu    sync.Mutex
	nonce string
	seen  []string
	body  []byte
}

func (f *fake) session(w http.ResponseWriter, status int, state, result string) {
	name := "status"
	if f.old {
		name = "state"
	}
	m := map[string]any{name: state, "nonce": f.nonce, "expiry": "2030-10-12T07:20:50.52Z", "accept": f.accept}
	if result != "" {
		m["result"] = result
	}
	w.Header().Set("Content-Type", sessionType)
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(m)
}

func (f *fake) token() string {
	c := &ear.Claims{
		Developer: "https://example.org", Build: "test", IssuedAt: testTime, Nonce: strings.TrimRight(f.nonce, "="),
		Submods: map[string]*ear.Appraisal{"test": {Status: ear.Affirming}},
	}
	if f.modify != nil {
		f.modify(c)
	}
	k := f.key
	if k == nil {
		k = earKey
	}
	b, err := ear.Sign(c, k)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what := map[string]string{
		"POST /challenge-response/v1/newSession":  "open",
		"POST /challenge-response/v1/session/7":   "submit",
		"GET /challenge-response/v1/session/7":    "poll",
		"GET /.well-known/veraison/verification":  "discovery",
		"POST /challenge-response/v1/session/7/x": "",
	}[r.Method+" "+r.URL.Path]
	f.seen = append(f.seen, what)
	if what == "open" {
		f.nonce = r.URL.Query().Get("nonce")
		if r.URL.Query().Get("nonceSize") == "32" {
			f.nonce = base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
		}
	}
	if h := f.hooks[what]; h != nil {
		h(w, r)
		return
	}
	if want := map[bool]string{true: discoveryType, false: sessionType}[what == "discovery"]; r.Header.Get("Accept") != want {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	switch what {
	case "open":
		// As deployed services: padding is mandatory.
		if _, err := base64.URLEncoding.DecodeString(f.nonce); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Location", "session/7")
		f.session(w, http.StatusCreated, "waiting", "")
	case "submit", "poll":
		if what == "submit" {
			f.body, _ = io.ReadAll(r.Body)
			f.seen[len(f.seen)-1] += " " + r.Header.Get("Content-Type")
		}
		if f.processing > 0 {
			f.processing--
			f.session(w, http.StatusAccepted, "processing", "")
			return
		}
		state, token := "complete", f.token()
		if f.final != "" {
			state = f.final
		}
		if f.empty {
			token = ""
		}
		f.session(w, http.StatusOK, state, token)
	case "discovery":
		jwk, err := ear.MarshalJWK(earKey.Public())
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Type", discoveryType)
		fmt.Fprintf(w, "{\"ear-verification-key\": %s, \"version\": \"1\", \"service-state\": \"READY\"}\n", jwk)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// client returns a client of h.
func client(t testing.TB, h http.Handler, opts veraison.ClientOptions) *veraison.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return clientAt(t, s.URL, opts)
}

func clientAt(t testing.TB, address string, opts veraison.ClientOptions) *veraison.Client {
	t.Helper()
	opts.Now = now
	if opts.Wait == nil {
		opts.Wait = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	}
	c, err := veraison.NewClient(address, &opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestServiceAppraisesReport(t *testing.T) {
	for _, tt := range []struct {
		name    string
		format  attestext.EvidenceFormat
		binding attestext.Binding
		fake    *fake
		opts    veraison.ClientOptions
		sent    string // media type
	}{
		{name: "CBOR", format: tsm.FormatCBOR, sent: tsm.MediaTypeCBOR},
		{name: "draft-08", format: tsm.FormatCBOR, binding: attestext.BindingDraft08, sent: tsm.MediaTypeCBOR},
		{name: "JSON", format: tsm.FormatJSON, fake: &fake{accept: []string{tsm.MediaTypeJSON}}, sent: tsm.MediaTypeJSON},
		{name: "JSON under its older name", format: tsm.FormatJSON, fake: &fake{accept: []string{tsm.MediaTypeConfigfsJSON}}, sent: tsm.MediaTypeConfigfsJSON},
		{name: "older status", format: tsm.FormatCBOR, fake: &fake{old: true, processing: 2}, sent: tsm.MediaTypeCBOR},
		{name: "processing", format: tsm.FormatCBOR, fake: &fake{processing: 3}, sent: tsm.MediaTypeCBOR},
		{name: "in a CMW", format: tsm.FormatCBOR, opts: veraison.ClientOptions{SendCMW: true}, sent: "application/cmw+cbor"},
		{name: "in a CMW in JSON", format: tsm.FormatJSON, opts: veraison.ClientOptions{SendCMW: true}, sent: "application/cmw+json"},
		{name: "warning", format: tsm.FormatCBOR, sent: tsm.MediaTypeCBOR, opts: veraison.ClientOptions{AllowWarning: true},
			fake: &fake{modify: func(c *ear.Claims) { c.Submods["test"].Status = ear.Warning }}},
		{name: "pinned key", format: tsm.FormatCBOR, sent: tsm.MediaTypeCBOR,
			opts: veraison.ClientOptions{Keys: []crypto.PublicKey{otherKey.Public()}}, fake: &fake{key: otherKey}},
		{name: "key named", format: tsm.FormatCBOR, sent: tsm.MediaTypeCBOR,
			fake: &fake{modify: func(c *ear.Claims) { c.Submods["test"].AKPub = spki(tlsKey) }}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.fake == nil {
				tt.fake = &fake{}
			}
			c := client(t, tt.fake, tt.opts)
			ch := challenge(attestext.CertAttestation, tt.binding)
			ev := evidence(t, tt.format, ch)
			polls := tt.fake.processing
			r, err := attestext.Appraise(t.Context(), time.Minute, c, ev, ch)
			if err != nil {
				t.Fatal(err)
			}
			rd, _ := ch.ReportData()
			if want := base64.URLEncoding.EncodeToString(rd[:]); tt.fake.nonce != want {
				t.Errorf("the session has the nonce %s, want the report data", tt.fake.nonce)
			}
			want := "open,submit " + tt.sent + strings.Repeat(",poll", polls)
			if tt.opts.Keys == nil {
				want += ",discovery"
			}
			if got := strings.Join(tt.fake.seen, ","); got != want {
				t.Errorf("requests %s, want %s", got, want)
			}
			_, inner, _ := must(cmw.Parse(ev.CMW)).Evidence()
			if tt.opts.SendCMW {
				inner = ev.CMW
			}
			if !bytes.Equal(tt.fake.body, inner) {
				t.Error("the service got something else")
			}
			if r.Claims()["build"] != "test" || r.Verdict() != map[bool]string{true: "warning", false: "affirming"}[tt.opts.AllowWarning] {
				t.Errorf("verdict %s, claims %v", r.Verdict(), r.Claims())
			}
			// The key is asked for once.
			tt.fake.seen = nil
			if _, err := c.Appraise(t.Context(), ev, ch); err != nil || strings.Contains(strings.Join(tt.fake.seen, ","), "discovery") {
				t.Errorf("second time: %v, %v", err, tt.fake.seen)
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func answer(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Location", "session/7")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// Whatever a service does wrong is its own fault, and is refused in words of its own.
func TestServiceThatMisbehavesIsRefused(t *testing.T) {
	on := func(what string, h http.HandlerFunc) *fake { return &fake{hooks: map[string]http.HandlerFunc{what: h}} }
	big := strings.Repeat(" ", 1<<20+1)
	claims := func(f func(*ear.Claims)) *fake { return &fake{modify: f} }
	for _, tt := range []struct {
		name  string
		fake  *fake
		class error
		say   string
	}{
		{"500", on("open", answer(500, "text/plain", "no")), attestext.ErrUnavailable, "status 500"},
		{"503 with a reason", on("submit", answer(503, "application/problem+json", `{"title": "x", "detail": "on holiday"}`)), attestext.ErrUnavailable, "on holiday"},
		{"415", on("submit", answer(415, "text/plain", "")), attestext.ErrUnavailable, "status 415"},
		{"200 for 201", on("open", answer(200, sessionType, "{}")), attestext.ErrUnavailable, "status 200, want 201"},
		{"garbage", on("open", answer(201, sessionType, "{")), attestext.ErrUnavailable, "cannot be read"},
		{"empty", on("submit", answer(200, sessionType, "")), attestext.ErrUnavailable, "cannot be read"},
		{"content type", on("open", answer(201, "text/html", "<html>")), attestext.ErrUnavailable, "content type"},
		{"content type of the result", on("submit", answer(200, "application/json", "{}")), attestext.ErrUnavailable, "content type"},
		{"oversized", on("open", answer(201, sessionType, big)), attestext.ErrUnavailable, "more than 1048576 bytes"},
		{"oversized result", on("submit", answer(200, sessionType, big)), attestext.ErrUnavailable, "more than 1048576 bytes"},
		{"redirect", on("open", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/challenge-response/v1/session/7", http.StatusTemporaryRedirect)
		}), attestext.ErrUnavailable, "redirect"},
		{"redirect of the evidence", on("submit", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.org/", http.StatusPermanentRedirect)
		}), attestext.ErrUnavailable, "redirect"},
		{"other nonce in the session", on("open", answer(201, sessionType, `{"status": "waiting", "nonce": "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=", "accept": null}`)), attestext.ErrUnavailable, "another nonce"},
		{"failed", &fake{final: "failed"}, attestext.ErrUnavailable, "could not process"},
		{"still waiting", &fake{final: "waiting"}, attestext.ErrUnavailable, `state "waiting"`},
		{"complete without a result", &fake{empty: true}, attestext.ErrUnavailable, "without a result"},
		{"always processing", &fake{processing: 1000}, attestext.ErrUnavailable, "still processing"},
		{"takes something else", &fake{accept: []string{"application/psa-attestation-token"}}, attestext.ErrUnavailable, "does not take"},
		{"no key", on("discovery", answer(200, discoveryType, `{"version": "1"}`)), attestext.ErrUnavailable, "no ear-verification-key"},
		{"private key", on("discovery", answer(200, discoveryType, `{"ear-verification-key": {"kty": "oct", "k": "AA"}}`)), attestext.ErrUnavailable, "key cannot be read"},
		{"discovery is garbage", on("discovery", answer(200, discoveryType, "no")), attestext.ErrUnavailable, "cannot be read"},
		{"discovery is a page", on("discovery", answer(200, "text/html", "{}")), attestext.ErrUnavailable, "content type"},
		{"no discovery", on("discovery", answer(404, "text/plain", "")), attestext.ErrUnavailable, "status 404"},
		{"signed by another key", &fake{key: otherKey}, attestext.ErrUnavailable, "no trusted key"},
		{"other nonce", claims(func(c *ear.Claims) { c.Nonce = "QUFBQUFBQUFBQQ" }), attestext.ErrUnavailable, "nonce"},
		{"no nonce", claims(func(c *ear.Claims) { c.Nonce = "" }), attestext.ErrUnavailable, "nonce"},
		{"old", claims(func(c *ear.Claims) { c.IssuedAt = testTime.Add(-time.Hour) }), attestext.ErrUnavailable, "ago"},
		{"expired", claims(func(c *ear.Claims) {
			c.IssuedAt, c.Expires = testTime.Add(-time.Minute), testTime.Add(-time.Second)
		}), attestext.ErrUnavailable, "expired"},
		{"from the future", claims(func(c *ear.Claims) { c.IssuedAt = testTime.Add(time.Hour) }), attestext.ErrUnavailable, "future"},
		{"about another key", claims(func(c *ear.Claims) { c.Submods["test"].AKPub = spki(otherKey) }), attestext.ErrBinding, "another key"},
		{"contraindicated", claims(func(c *ear.Claims) { c.Submods["test"].Status = ear.Contraindicated }), attestext.ErrPolicy, "contraindicated"},
		{"none", claims(func(c *ear.Claims) { c.Submods["test"].Status = ear.None }), attestext.ErrPolicy, "none"},
		{"warning", claims(func(c *ear.Claims) { c.Submods["test"].Status = ear.Warning }), attestext.ErrPolicy, "warning"},
		{"one of two is not approved of", claims(func(c *ear.Claims) { c.Submods["other"] = &ear.Appraisal{Status: ear.Contraindicated} }), attestext.ErrPolicy, "contraindicated"},
		{"not genuine", claims(func(c *ear.Claims) {
			c.Submods["test"] = &ear.Appraisal{Status: ear.Contraindicated, Vector: ear.Vector{"hardware": 99}}
		}), attestext.ErrSignature, "not genuine"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ch := challenge(attestext.CertAttestation, attestext.BindingHardened)
			_, err := client(t, tt.fake, veraison.ClientOptions{}).Appraise(t.Context(), evidence(t, tsm.FormatCBOR, ch), ch)
			if err == nil || attestext.Class(err) != tt.class || !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("error %v, want class %v and %q", err, tt.class, tt.say)
			}
		})
	}
}

func TestSessionElsewhereIsRefused(t *testing.T) {
	for _, location := range []string{"", "https://example.org/challenge-response/v1/session/7", "//example.org/session/7", "ftp:7", "%zz"} {
		f := &fake{}
		f.hooks = map[string]http.HandlerFunc{"open": func(w http.ResponseWriter, _ *http.Request) {
			if location != "" {
				w.Header().Set("Location", location)
			}
			f.session(w, http.StatusCreated, "waiting", "")
		}}
		ch := challenge(attestext.CertAttestation, attestext.BindingHardened)
		_, err := client(t, f, veraison.ClientOptions{}).Appraise(t.Context(), evidence(t, tsm.FormatCBOR, ch), ch)
		if !errors.Is(err, attestext.ErrUnavailable) || len(f.seen) != 1 {
			t.Errorf("%q: %v, requests %v", location, err, f.seen)
		}
	}
}

func TestServiceThatIsAwayOrSlow(t *testing.T) {
	ch := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := evidence(t, tsm.FormatCBOR, ch)
	s := httptest.NewServer(&fake{})
	s.Close()
	_, err := clientAt(t, s.URL, veraison.ClientOptions{}).Appraise(t.Context(), ev, ch)
	if !errors.Is(err, attestext.ErrUnavailable) || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("stopped: %v", err)
	}
	noHTTP := &fake{hooks: map[string]http.HandlerFunc{"open": func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, strings.Repeat("x", 1<<12)+"\r\n")
	}}}
	_, err = client(t, noHTTP, veraison.ClientOptions{}).Appraise(t.Context(), ev, ch)
	if !errors.Is(err, attestext.ErrUnavailable) || !strings.Contains(err.Error(), "gives no HTTP response") || len(err.Error()) > 1<<10 {
		t.Errorf("no HTTP: %v", err)
	}
	for _, what := range []string{"open", "submit", "discovery"} {
		t.Run(what, func(t *testing.T) {
			hang := func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body) // only then does a server notice that the client is gone
				<-r.Context().Done()
			}
			c := client(t, &fake{hooks: map[string]http.HandlerFunc{what: hang}}, veraison.ClientOptions{Timeout: 50 * time.Millisecond})
			_, err := c.Appraise(t.Context(), ev, ch)
			if !errors.Is(err, attestext.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "in time") {
				t.Errorf("slow: %v", err)
			}
		})
	}
	t.Run("processing", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := client(t, &fake{processing: 1000}, veraison.ClientOptions{Wait: func(ctx context.Context, _ time.Duration) error { cancel(); <-ctx.Done(); return ctx.Err() }})
		if _, err := c.Appraise(ctx, ev, ch); !errors.Is(err, attestext.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
	})
}

// What this end can tell not to be bound is not even sent: the service would not look.
func TestUnboundEvidenceIsNotSent(t *testing.T) {
	hardened, draft := challenge(attestext.CertAttestation, attestext.BindingHardened), challenge(attestext.CertAttestation, attestext.BindingDraft08)
	only := challenge(attestext.AttestationOnly, attestext.BindingHardened)
	with := func(c *attestext.Challenge, f func(*attestext.Challenge)) *attestext.Challenge {
		d := *c
		f(&d)
		return &d
	}
	binder := func(c *attestext.Challenge) { c.Binder = bytes.Repeat([]byte{1}, 32) }
	garbage := &attestext.Evidence{Type: attestext.EvidenceType{Format: tsm.FormatCBOR}, CMW: []byte{0xff}}
	sevReport := must((&tsm.Report{Provider: tsm.ProviderSNP, OutBlob: make([]byte, 99)}).CBOR())
	sev := must((&cmw.Record{Format: tsm.FormatCBOR, Value: sevReport, Ind: cmw.Evidence}).CBOR())
	for _, tt := range []struct {
		name     string
		ev       *attestext.Evidence
		expected *attestext.Challenge
		class    error
		say      string
	}{
		{"other session", evidence(t, tsm.FormatCBOR, hardened), with(hardened, binder), attestext.ErrBinding, "another session"},
		{"other key", evidence(t, tsm.FormatCBOR, hardened), with(hardened, func(c *attestext.Challenge) { c.SPKI = spki(otherKey) }), attestext.ErrBinding, "another key"},
		{"other role", evidence(t, tsm.FormatCBOR, hardened), with(hardened, func(c *attestext.Challenge) { c.Role = attestext.RoleClient }), attestext.ErrBinding, "evidence was made for the server role, the peer is the client"},
		{"other rule", evidence(t, tsm.FormatCBOR, draft), hardened, attestext.ErrBinding, "draft-08"},
		{"hardened under draft-08", evidence(t, tsm.FormatCBOR, hardened), draft, attestext.ErrBinding, "hardened"},
		{"bundle of another session", evidence(t, eat.BundleFormat, only), with(only, binder), attestext.ErrBinding, "another session"},
		{"bundle for another key", evidence(t, eat.BundleFormat, hardened), with(hardened, func(c *attestext.Challenge) { c.SPKI = spki(otherKey) }), attestext.ErrBinding, "another key"},
		{"report in place of a certificate", &attestext.Evidence{Type: attestext.EvidenceType{Format: tsm.FormatCBOR}, CMW: evidence(t, tsm.FormatCBOR, hardened).CMW}, only, attestext.ErrWrongType, "names no TLS key"},
		{"other type", &attestext.Evidence{Type: attestext.EvidenceType{Format: tsm.FormatJSON}, CMW: evidence(t, tsm.FormatCBOR, hardened).CMW}, hardened, attestext.ErrWrongType, "selected"},
		{"garbage", garbage, hardened, attestext.ErrMalformed, ""},
		{"short SEV-SNP report", &attestext.Evidence{Type: attestext.EvidenceType{Format: tsm.FormatCBOR}, CMW: sev}, hardened, attestext.ErrMalformed, "SNP report"},
		{"passport", garbage, &attestext.Challenge{Model: attestext.Passport, Role: attestext.RoleServer, Kind: attestext.CertAttestation, SPKI: spki(tlsKey)}, attestext.ErrWrongType, "passport"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{}
			_, err := client(t, f, veraison.ClientOptions{}).Appraise(t.Context(), tt.ev, tt.expected)
			if attestext.Class(err) != tt.class || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("error %v", err)
			}
			if len(f.seen) != 0 {
				t.Errorf("requests %v", f.seen)
			}
		})
	}
}

func TestSNPReportDataIsCompared(t *testing.T) {
	ch := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := &attestext.Evidence{Type: attestext.EvidenceType{Kind: ch.Kind, Format: tsm.FormatCBOR}}
	ev.CMW = must(softtee.NewSNP(nil).Attester().Attest(t.Context(), &attestext.AttestRequest{Type: ev.Type, Challenge: ch}))
	other := *ch
	other.Binder = bytes.Repeat([]byte{1}, 32)
	for expected, class := range map[*attestext.Challenge]error{ch: nil, &other: attestext.ErrBinding} {
		if _, err := client(t, &fake{}, veraison.ClientOptions{}).Appraise(t.Context(), ev, expected); attestext.Class(err) != class {
			t.Errorf("%v, want class %v", err, class)
		}
	}
}

// The binding of Evidence that only the service can read rests on the key in its result.
func TestOtherEvidenceNeedsAKeyInTheResult(t *testing.T) {
	other := attestext.EvidenceFormat{MediaType: "application/eat+cwt"}
	for _, tt := range []struct {
		binding attestext.Binding
		key     crypto.Signer
		class   error
	}{
		{attestext.BindingHardened, tlsKey, nil},
		{attestext.BindingHardened, otherKey, attestext.ErrBinding},
		{attestext.BindingHardened, nil, attestext.ErrBinding},
		{attestext.BindingDraft08, nil, nil},
	} {
		ch := challenge(attestext.CertAttestation, tt.binding)
		ev := &attestext.Evidence{Type: attestext.EvidenceType{Kind: ch.Kind, Format: other},
			CMW: must((&cmw.Record{Format: other, Value: []byte("token"), Ind: cmw.Evidence}).CBOR())}
		f := &fake{modify: func(c *ear.Claims) {
			if tt.key != nil {
				c.Submods["test"].AKPub = spki(tt.key)
			}
		}}
		_, err := client(t, f, veraison.ClientOptions{Formats: []attestext.EvidenceFormat{other}}).Appraise(t.Context(), ev, ch)
		if attestext.Class(err) != tt.class {
			t.Errorf("%v, key %v: %v", tt.binding, tt.key != nil, err)
		}
		if want := base64.URLEncoding.EncodeToString(ch.Binder); f.nonce != want {
			t.Errorf("nonce %s, want the binder", f.nonce)
		}
	}
}

func TestAddressOfService(t *testing.T) {
	for address, ok := range map[string]bool{
		"https://veraison.example:8443":  true,
		"https://veraison.example/path/": true,
		"http://127.0.0.1:8080":          true,
		"http://[::1]:8080":              true,
		"http://localhost":               true,
		"http://veraison.example":        false,
		"http://127.0.0.1.example":       false,
		"https://u:p@veraison.example":   false,
		"https://veraison.example/?a=b":  false,
		"https://":                       false,
		"veraison.example:8443":          false,
		"ftp://veraison.example":         false,
		"":                               false,
	} {
		if _, err := veraison.NewClient(address, nil); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := veraison.NewClient("http://veraison.example", &veraison.ClientOptions{AllowHTTP: true}); err != nil {
		t.Error(err)
	}
	for _, o := range []veraison.ClientOptions{{Keys: []crypto.PublicKey{}}, {Keys: []crypto.PublicKey{1}}, {MaxAge: -1}, {Timeout: -1}} {
		if _, err := veraison.NewClient("https://veraison.example", &o); err == nil {
			t.Errorf("accepts %+v", o)
		}
	}
}

func TestFormatsOfClient(t *testing.T) {
	c := clientAt(t, "https://veraison.example", veraison.ClientOptions{})
	if f := c.Formats(attestext.AttestationOnly); len(f) != 1 || !f[0].Equal(eat.BundleFormat) {
		t.Errorf("in place of a certificate: %v", f)
	}
	if f := c.Formats(attestext.CertAttestation); len(f) == 0 || f[0] != tsm.FormatCBOR {
		t.Errorf("beside a certificate: %v", f)
	}
}
