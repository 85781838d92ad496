package veraison_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/veraison"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/internal/softtarget"
	"github.com/attestedtls/atls/internal/testpki"
	"github.com/attestedtls/atls/tls"
)

func local(t testing.TB) *verifier.Local { return softtarget.LocalTDX(t, nil) }

func service(t testing.TB, v attestext.Verifier, o veraison.ServiceOptions) *veraison.Service {
	t.Helper()
	o.Verifier, o.Key = v, earKey
	if o.Now == nil {
		o.Now = now
	}
	s, err := veraison.NewService(&o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A verifierFunc is a verifier of TSM reports.
type verifierFunc func(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error)

func (f verifierFunc) Formats(attestext.CredentialKind) []attestext.EvidenceFormat {
	return []attestext.EvidenceFormat{tsm.FormatCBOR}
}

func (f verifierFunc) Appraise(ctx context.Context, ev *attestext.Evidence, c *attestext.Challenge) (*attestext.Appraisal, error) {
	return f(ctx, ev, c)
}

func TestClientAndServiceAppraise(t *testing.T) {
	formats := map[attestext.CredentialKind][]attestext.EvidenceFormat{
		attestext.CertAttestation: {tsm.FormatCBOR, tsm.FormatJSON, eat.BundleFormat},
		attestext.AttestationOnly: {eat.BundleFormat},
	}
	var mu sync.Mutex
	var log []veraison.Appraised
	v := local(t)
	s := service(t, v, veraison.ServiceOptions{Build: "b", Log: func(a veraison.Appraised) { mu.Lock(); defer mu.Unlock(); log = append(log, a) }})
	for kind, list := range formats {
		for _, f := range list {
			for _, binding := range []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08} {
				for _, wrapped := range []bool{false, true} {
					// Such a bundle does not show how old its quote is.
					undated, verdict := f.Equal(eat.BundleFormat) && binding == attestext.BindingDraft08, "affirming"
					if undated {
						verdict = "warning"
					}
					v.Policy.InsecureAllowUnknownQuoteAge = undated
					c := client(t, s, veraison.ClientOptions{SendCMW: wrapped, AllowWarning: undated})
					ch := challenge(kind, binding)
					ev := evidence(t, f, ch)
					expected := *ch
					if kind == attestext.AttestationOnly {
						expected.SPKI = nil
					}
					log = nil
					r, err := attestext.Appraise(t.Context(), time.Minute, c, ev, &expected)
					if err != nil {
						t.Errorf("%v, %v, %v, wrapped %v: %v", kind, f, binding, wrapped, err)
						continue
					}
					if r.Verdict() != verdict || len(log) != 1 || log[0].Verdict != verdict || log[0].Err != nil {
						t.Errorf("verdict %s, log %v", r.Verdict(), log)
					}
					if v := r.Vector(); v["hardware"] != 2 || (v["executables"] == 2) == undated || v["runtime-opaque"] != 2 {
						t.Errorf("vector %v", v)
					}
					if f.Equal(eat.BundleFormat) != bytes.Equal(r.Key(), ch.SPKI) {
						t.Errorf("%v, %v: key of %d bytes", kind, f, len(r.Key()))
					}
				}
			}
		}
	}
}

func TestServiceSaysWhatIsWrong(t *testing.T) {
	ch := challenge(attestext.CertAttestation, attestext.BindingHardened)
	otherPolicy := local(t)
	otherPolicy.Policy, _ = policy.Parse([]byte(`{"tdx": {"mrtd": ["` + strings.Repeat("0", 96) + `"]}}`))
	noCollateral := local(t)
	noCollateral.TDXCollateral = nil
	noPolicy := local(t)
	noPolicy.Policy = nil
	fails := func(err error) attestext.Verifier {
		return verifierFunc(func(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
			return nil, err
		})
	}
	for _, tt := range []struct {
		name    string
		v       attestext.Verifier
		tee     *softtee.TDXOptions
		verdict string
		class   error // at the client
		cause   error // at the service
	}{
		{"policy", otherPolicy, nil, "contraindicated", attestext.ErrPolicy, attestext.ErrPolicy},
		{"debug", local(t), &softtee.TDXOptions{Debug: true}, "contraindicated", attestext.ErrPolicy, attestext.ErrPolicy},
		{"other maker", local(t), &softtee.TDXOptions{Seed: "other"}, "contraindicated", attestext.ErrSignature, attestext.ErrSignature},
		{"tampered with", local(t), &softtee.TDXOptions{Tamper: func(q []byte) []byte { q[200] ^= 1; return q }}, "contraindicated", attestext.ErrSignature, attestext.ErrSignature},
		{"no policy", noPolicy, nil, "warning", attestext.ErrPolicy, nil},
		{"no collateral", noCollateral, nil, "", attestext.ErrUnavailable, attestext.ErrUnavailable},
		{"fails", fails(errors.New("disk full")), nil, "", attestext.ErrUnavailable, attestext.ErrUnavailable},
		{"binding", fails(attestext.ErrBinding), nil, "contraindicated", attestext.ErrSignature, attestext.ErrBinding},
		{"panics", verifierFunc(func(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
			panic("no")
		}), nil, "", attestext.ErrUnavailable, attestext.ErrUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ev := &attestext.Evidence{Type: attestext.EvidenceType{Kind: ch.Kind, Format: tsm.FormatCBOR}}
			ev.CMW = must(softtee.NewTDX(tt.tee).Attester().Attest(t.Context(), &attestext.AttestRequest{Type: ev.Type, Challenge: ch}))
			logged := make(chan veraison.Appraised, 1)
			s := service(t, tt.v, veraison.ServiceOptions{Log: func(a veraison.Appraised) { logged <- a }})
			_, err := client(t, s, veraison.ClientOptions{}).Appraise(t.Context(), ev, ch)
			if attestext.Class(err) != tt.class {
				t.Errorf("client: %v", err)
			}
			if a := <-logged; a.Verdict != tt.verdict || attestext.Class(a.Err) != tt.cause || a.MediaType != tsm.MediaTypeCBOR {
				t.Errorf("service: %+v", a)
			}
		})
	}
}

// TestServiceSaysInItsVectorWhatIsWrong: the service's result has the claims of
// draft-ietf-rats-ar4si behind its tier.
func TestServiceSaysInItsVectorWhatIsWrong(t *testing.T) {
	ch := challenge(attestext.CertAttestation, attestext.BindingDraft08)
	ev := &attestext.Evidence{Type: attestext.EvidenceType{Kind: ch.Kind, Format: tsm.FormatCBOR}}
	ev.CMW = must(softtee.NewTDX(&softtee.TDXOptions{Debug: true}).Attester().Attest(t.Context(), &attestext.AttestRequest{Type: ev.Type, Challenge: ch}))
	v := local(t)
	v.Policy.TDX.MRTD = []policy.Measurement{{}}
	h := httptest.NewServer(service(t, v, veraison.ServiceOptions{}))
	defer h.Close()
	resp := must(http.Post(h.URL+"/challenge-response/v1/newSession?nonce="+url.QueryEscape(base64.URLEncoding.EncodeToString(ch.Binder)), "", nil))
	resp.Body.Close()
	resp = must(http.Post(h.URL+"/challenge-response/v1/"+resp.Header.Get("Location"), "application/cmw+cbor", bytes.NewReader(ev.CMW)))
	defer resp.Body.Close()
	var session struct{ Result string }
	if err := json.NewDecoder(resp.Body).Decode(&session); err != nil {
		t.Fatal(err)
	}
	claims := must(ear.ParseUnverified([]byte(session.Result)))
	if got := claims.Submods["atls"].Vector; got["executables"] != 96 || got["runtime-opaque"] != 96 || got["hardware"] != 2 {
		t.Errorf("vector %v", got)
	}
}

// The service compares the nonce with what the Evidence carries by itself: whoever
// opens a session with one nonce gets no approval for Evidence with another.
func TestServiceComparesNonce(t *testing.T) {
	s := service(t, local(t), veraison.ServiceOptions{})
	for _, c := range []struct {
		kind   attestext.CredentialKind
		format attestext.EvidenceFormat
	}{{attestext.CertAttestation, tsm.FormatCBOR}, {attestext.AttestationOnly, eat.BundleFormat}} {
		ev := evidence(t, c.format, challenge(c.kind, attestext.BindingHardened))
		location := open(t, s, "?nonceSize=64")
		r := request(s, "POST", location, c.format.MediaType, inner(t, ev))
		result := field(t, r, `"result":"`)
		claims, err := ear.ParseUnverified([]byte(result))
		if r.Code != http.StatusOK || err != nil || claims.Tier() != ear.Contraindicated {
			t.Errorf("%v: status %d, %v", c.kind, r.Code, err)
		}
	}
}

func inner(t testing.TB, ev *attestext.Evidence) []byte {
	if ev.Type.Format.Equal(eat.BundleFormat) {
		return ev.CMW
	}
	_, b, err := must(cmw.Parse(ev.CMW)).Evidence()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func request(h http.Handler, method, target, contentType string, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, bytes.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func open(t testing.TB, h http.Handler, query string) string {
	t.Helper()
	w := request(h, "POST", "/challenge-response/v1/newSession"+query, "", nil)
	if w.Code != http.StatusCreated || w.Header().Get("Content-Type") != sessionType {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return "/challenge-response/v1/" + w.Header().Get("Location")
}

func field(t testing.TB, w *httptest.ResponseRecorder, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(w.Body.String(), name)
	if !ok {
		t.Fatalf("status %d, no %s in %s", w.Code, name, w.Body)
	}
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

func TestServiceRefusesRequests(t *testing.T) {
	s := service(t, local(t), veraison.ServiceOptions{})
	const newSession = "/challenge-response/v1/newSession"
	for target, want := range map[string]int{
		"POST " + newSession + "?nonceSize=7":                       400,
		"POST " + newSession + "?nonceSize=65":                      400,
		"POST " + newSession + "?nonceSize=x":                       400,
		"POST " + newSession + "?nonce=AAAA":                        400,
		"POST " + newSession + "?nonce=!":                           400,
		"POST " + newSession + "?nonce=":                            400,
		"POST " + newSession + "?nonce=AAAAAAAAAAAAAA&nonceSize=32": 400,
		"POST " + newSession + "?nonce=" + strings.Repeat("A", 90):  400,
		"POST " + newSession + "?nonce=" + strings.Repeat("A", 86):  201,
		"POST " + newSession:                                        201,
		"GET " + newSession:                                         405,
		"GET /challenge-response/v1/session/x":                      404,
		"DELETE /challenge-response/v1/session/x":                   404,
		"POST /challenge-response/v1/session/x":                     404,
		"PUT /.well-known/veraison/verification":                    405,
		"GET /":                                                     404,
		"GET /.well-known/veraison/verification":                    200,
	} {
		method, target, _ := strings.Cut(target, " ")
		if w := request(s, method, target, "", nil); w.Code != want {
			t.Errorf("%s %s: %d, want %d", method, target, w.Code, want)
		}
	}
	for _, tt := range []struct {
		name, contentType string
		body              []byte
		want              int
	}{
		{"empty", tsm.MediaTypeCBOR, nil, 400},
		{"no type", "", []byte("x"), 400},
		{"other type", "application/psa-attestation-token", []byte("x"), 415},
		{"no CMW", "application/cmw+cbor", []byte("x"), 400},
		{"oversized", tsm.MediaTypeCBOR, make([]byte, 1<<20+1), 413},
		{"garbage", tsm.MediaTypeCBOR, []byte("x"), 200}, // and says so in its result
	} {
		location := open(t, s, "")
		w := request(s, "POST", location, tt.contentType, tt.body)
		if w.Code != tt.want {
			t.Errorf("%s: status %d: %s", tt.name, w.Code, w.Body)
		}
		if accept := w.Header().Get("Accept"); tt.want == 415 && !strings.Contains(accept, tsm.MediaTypeCBOR) {
			t.Errorf("accepts %q", accept)
		}
		if w := request(s, "POST", location, tsm.MediaTypeCBOR, []byte("x")); w.Code != http.StatusConflict {
			t.Errorf("%s: the session takes evidence twice: %d", tt.name, w.Code)
		}
	}
	r := httptest.NewRequest("POST", newSession, nil)
	r.Header.Set("Accept", "text/html, image/*")
	w := httptest.NewRecorder()
	if s.ServeHTTP(w, r); w.Code != http.StatusNotAcceptable {
		t.Errorf("a browser gets %d", w.Code)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	clock := testTime
	s := service(t, local(t), veraison.ServiceOptions{MaxSessions: 2, SessionLifetime: time.Minute, Now: func() time.Time { return clock }})
	first := open(t, s, "")
	open(t, s, "")
	if w := request(s, "POST", "/challenge-response/v1/newSession", "", nil); w.Code != http.StatusServiceUnavailable {
		t.Errorf("third session: %d", w.Code)
	}
	if w := request(s, "GET", first, "", nil); w.Code != 200 || field(t, w, `"status":"`) != "waiting" {
		t.Errorf("first session: %d", w.Code)
	}
	if w := request(s, "DELETE", first, "", nil); w.Code != http.StatusNoContent {
		t.Errorf("delete: %d", w.Code)
	}
	third := open(t, s, "")
	clock = clock.Add(time.Minute)
	if w := request(s, "POST", third, tsm.MediaTypeCBOR, []byte("x")); w.Code != http.StatusNotFound {
		t.Errorf("expired session: %d", w.Code)
	}
	fourth := open(t, s, "")
	open(t, s, "")
	// One that has ended makes room.
	if w := request(s, "POST", fourth, tsm.MediaTypeCBOR, []byte("x")); w.Code != http.StatusOK {
		t.Errorf("fourth session: %d", w.Code)
	}
	open(t, s, "")
	if w := request(s, "GET", fourth, "", nil); w.Code != http.StatusNotFound {
		t.Errorf("fourth session is still there: %d", w.Code)
	}
}

// A session that is being appraised keeps its place, and gets no second evidence.
func TestSessionInProgress(t *testing.T) {
	entered, leave := make(chan bool), make(chan bool)
	clock := testTime
	v := verifierFunc(func(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
		entered <- true
		<-leave
		return &attestext.Appraisal{Verdict: "affirming"}, nil
	})
	s := service(t, v, veraison.ServiceOptions{MaxSessions: 1, Timeout: time.Minute, Now: func() time.Time { return clock }})
	location := open(t, s, "")
	done := make(chan *httptest.ResponseRecorder)
	go func() { done <- request(s, "POST", location, tsm.MediaTypeCBOR, []byte("x")) }()
	<-entered
	if w := request(s, "GET", location, "", nil); field(t, w, `"status":"`) != "processing" {
		t.Errorf("status %s", w.Body)
	}
	for _, method := range []string{"POST", "DELETE"} {
		if w := request(s, method, location, tsm.MediaTypeCBOR, []byte("x")); w.Code != http.StatusConflict {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
	if w := request(s, "POST", "/challenge-response/v1/newSession", "", nil); w.Code != http.StatusServiceUnavailable {
		t.Errorf("second session: %d", w.Code)
	}
	leave <- true
	if w := <-done; w.Code != 200 || field(t, w, `"status":"`) != "complete" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := request(s, "GET", location, "", nil); field(t, w, `"result":"`) == "" {
		t.Error("the result is gone")
	}
}

// A stuck is a client that does not read.
type stuck struct {
	*httptest.ResponseRecorder
	entered, leave chan bool
}

func (s *stuck) Write(b []byte) (int, error) {
	s.entered <- true
	<-s.leave
	return s.ResponseRecorder.Write(b)
}

func TestClientThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	s := service(t, local(t), veraison.ServiceOptions{})
	session := open(t, s, "")
	for _, r := range []*http.Request{
		httptest.NewRequest("POST", "/challenge-response/v1/newSession", nil),
		httptest.NewRequest("GET", session, nil),
		httptest.NewRequest("POST", "/challenge-response/v1/session/x", nil),
		httptest.NewRequest("POST", session, strings.NewReader("x")),
		httptest.NewRequest("GET", session, nil),
	} {
		r.Header.Set("Content-Type", tsm.MediaTypeCBOR)
		w := &stuck{httptest.NewRecorder(), make(chan bool), make(chan bool)}
		done := make(chan bool)
		go func() {
			defer close(done)
			s.ServeHTTP(w, r)
		}()
		<-w.entered
		open(t, s, "")
		w.leave <- true
		<-done
	}
}

func TestServiceOptions(t *testing.T) {
	for name, o := range map[string]veraison.ServiceOptions{
		"none":        {},
		"no verifier": {Key: earKey},
		"no key":      {Verifier: local(t)},
		"negative":    {Verifier: local(t), Key: earKey, MaxSessions: -1},
	} {
		if _, err := veraison.NewService(&o); err == nil {
			t.Errorf("accepts %s", name)
		}
	}
	s := service(t, local(t), veraison.ServiceOptions{})
	if k, err := ear.ParseJWK(s.JWK()); err != nil || !earKey.PublicKey.Equal(k) {
		t.Errorf("key: %v", err)
	}
}

// shake runs a handshake over TCP in which the server attests and the client has v
// appraise, and returns what the two ends say.
func shake(t *testing.T, v attestext.Verifier, tee *softtee.TDX, only bool) (client *tls.Conn, clientErr, serverErr error) {
	t.Helper()
	leaf := testpki.SelfSigned(&x509.Certificate{
		DNSNames: []string{"server.example"}, NotBefore: testTime.Add(-time.Hour), NotAfter: testTime.Add(time.Hour),
	}, tlsKey)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	s := &tls.Config{Time: now, Attestation: &tls.AttestationConfig{Attester: tee.Attester()},
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: tlsKey}}}
	c := &tls.Config{Time: now, RootCAs: roots, ServerName: "server.example", Attestation: &tls.AttestationConfig{Verifier: v}}
	if only {
		kinds := []attestext.CredentialKind{attestext.AttestationOnly}
		s.Certificates = nil
		s.Attestation.Credentials, c.Attestation.PeerCredentials = kinds, kinds
		s.Attestation.AllowAttestationOnly, c.Attestation.AllowAttestationOnly = true, true
	}
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(time.Minute))
		conn := tls.Server(raw, s)
		if err = conn.Handshake(); err == nil {
			_, err = io.ReadAll(conn)
		}
		done <- err
	}()
	raw := must(net.Dial("tcp", l.Addr().String()))
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(time.Minute))
	client = tls.Client(raw, c)
	if clientErr = client.Handshake(); clientErr == nil {
		client.Close()
	}
	raw.(*net.TCPConn).CloseWrite()
	return client, clientErr, <-done
}

func TestHandshakeIsAppraisedByService(t *testing.T) {
	s := service(t, local(t), veraison.ServiceOptions{})
	for _, only := range []bool{false, true} {
		conn, clientErr, serverErr := shake(t, client(t, s, veraison.ClientOptions{}), softtee.NewTDX(nil), only)
		if clientErr != nil || serverErr != nil {
			t.Fatalf("attestation-only %v: client %v, server %v", only, clientErr, serverErr)
		}
		if r := conn.ConnectionState().PeerAttestation; r.Verdict() != "affirming" || only && len(r.Key()) == 0 {
			t.Errorf("verdict %s", r.Verdict())
		}
	}
}

func TestHandshakeIsRefusedByService(t *testing.T) {
	stopped := httptest.NewServer(nil)
	stopped.Close()
	hangs := &fake{hooks: map[string]http.HandlerFunc{"submit": func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}}}
	good := service(t, local(t), veraison.ServiceOptions{})
	unknown := softtee.NewTDX(&softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.MRTD[0] ^= 1 }})
	replayed := softtee.NewTDX(&softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.ReportData[0] ^= 1 }})
	hook := func(h http.HandlerFunc) http.Handler { return &fake{hooks: map[string]http.HandlerFunc{"open": h}} }
	for _, tt := range []struct {
		name  string
		v     attestext.Verifier
		tee   *softtee.TDX
		alert tls.AlertError
		say   string
	}{
		{"policy", client(t, good, veraison.ClientOptions{}), unknown, 49, "contraindicated"},
		{"other maker", client(t, good, veraison.ClientOptions{}), softtee.NewTDX(&softtee.TDXOptions{Seed: "other"}), 42, "not genuine"},
		{"other report data, which the service passes over", client(t, &fake{}, veraison.ClientOptions{}), replayed, 42, "another session"},
		{"stopped", clientAt(t, stopped.URL, veraison.ClientOptions{}), nil, 80, "cannot be reached"},
		{"slow", client(t, hangs, veraison.ClientOptions{Timeout: 50 * time.Millisecond}), nil, 80, "in time"},
		{"500", client(t, hook(answer(500, "text/plain", "")), veraison.ClientOptions{}), nil, 80, "status 500"},
		{"garbage", client(t, hook(answer(201, sessionType, "<>")), veraison.ClientOptions{}), nil, 80, "cannot be read"},
		{"content type", client(t, hook(answer(201, "text/html", "<>")), veraison.ClientOptions{}), nil, 80, "content type"},
		{"oversized", client(t, hook(answer(201, sessionType, strings.Repeat(" ", 1<<20+1))), veraison.ClientOptions{}), nil, 80, "more than"},
		{"redirect", client(t, hook(answer(307, sessionType, "")), veraison.ClientOptions{}), nil, 80, "redirect"},
		{"signed by another key", client(t, good, veraison.ClientOptions{Keys: []crypto.PublicKey{otherKey.Public()}}), nil, 80, "no trusted key"},
		{"other nonce", client(t, &fake{modify: func(c *ear.Claims) { c.Nonce = "QUFBQUFBQUFBQQ" }}, veraison.ClientOptions{}), nil, 80, "nonce"},
		{"another key", client(t, &fake{modify: func(c *ear.Claims) { c.Submods["test"].AKPub = spki(otherKey) }}, veraison.ClientOptions{}), nil, 42, "another key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.tee == nil {
				tt.tee = softtee.NewTDX(nil)
			}
			_, clientErr, serverErr := shake(t, tt.v, tt.tee, false)
			e, ok := errors.AsType[*tls.AttestationError](clientErr)
			if !ok || e.Alert != tt.alert || e.Stage != tls.AttestationStageAppraise || !strings.Contains(clientErr.Error(), tt.say) {
				t.Errorf("client: %v", clientErr)
			}
			if serverErr == nil || serverErr.Error() != "remote error: "+tt.alert.Error() {
				t.Errorf("server: %v", serverErr)
			}
		})
	}
	// A service and a client that both work, to end with.
	if _, err, _ := shake(t, client(t, good, veraison.ClientOptions{}), softtee.NewTDX(nil), false); err != nil {
		t.Error(err)
	}
}

// FuzzSubmission hands a service anything under any content type, the whole way through
// wrapper, verification and result: it answers, and a result is one that its clients read.
func FuzzSubmission(f *testing.F) {
	nonce := bytes.Repeat([]byte{7}, 32)
	c := &attestext.Challenge{Role: attestext.RoleServer, Binding: attestext.BindingDraft08, Kind: attestext.AttestationOnly, Nonce: nonce, SPKI: spki(tlsKey)}
	bundle := evidence(f, eat.BundleFormat, c)
	f.Add("application/cmw+cbor", bundle.CMW)
	c.Kind, c.Binder = attestext.CertAttestation, nonce
	report := evidence(f, tsm.FormatCBOR, c)
	_, body, _ := must(cmw.Parse(report.CMW)).Evidence()
	f.Add(tsm.MediaTypeCBOR, body)
	f.Add("application/cmw+json", []byte(`["a/b","AA"]`))
	f.Add("text/plain; x", []byte("x"))
	s := service(f, local(f), veraison.ServiceOptions{})
	f.Fuzz(func(t *testing.T, contentType string, b []byte) {
		defer fuzzbound.Check(t, len(contentType)+len(b))()
		open := httptest.NewRecorder()
		s.ServeHTTP(open, httptest.NewRequest("POST", "/challenge-response/v1/newSession?nonce="+base64.URLEncoding.EncodeToString(nonce), nil))
		r := httptest.NewRequest("POST", "/challenge-response/v1/"+open.Header().Get("Location"), bytes.NewReader(b))
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			var session struct{ Result string }
			if err := json.Unmarshal(w.Body.Bytes(), &session); err != nil {
				t.Fatal(err)
			}
			if _, err := ear.Verify([]byte(session.Result), &ear.VerifyOptions{Keys: []crypto.PublicKey{earKey.Public()}, Now: testTime, Nonce: nonce}); err != nil {
				t.Errorf("its result: %v", err)
			}
		} else if w.Code < 400 || w.Code > 500 {
			t.Errorf("status %d", w.Code)
		}
	})
}
