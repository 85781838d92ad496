package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/softtee"
)

// badService is in front of an atls verifier that is as it should be, and answers as
// change has it.
func badService(t *testing.T, good string, change func(r *http.Response) error) string {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: good})
	proxy.ModifyResponse = change
	s := httptest.NewServer(proxy)
	t.Cleanup(s.Close)
	return s.URL
}

// handler is a service that gives one answer to everything.
func handler(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// edit changes the JSON of an answer.
func edit(r *http.Response, change func(m map[string]any)) error {
	var m map[string]any
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		return err
	}
	change(m)
	b, err := json.Marshal(m)
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(b))), int64(len(b))
	r.Header.Del("Content-Length")
	return err
}

// Whatever becomes of the service, the connection is refused in time, by the alert
// that does not blame the peer, and in words that say what the service did.
func TestConnectionIsRefusedWhenTheServiceFails(t *testing.T) {
	good := start(t, "verifier", verifySoftTEE()[2:]...)
	stopped := start(t, "verifier", verifySoftTEE()[2:]...)
	stopped.stop()
	stopped.end()
	jwk, err := ear.MarshalJWK(softtee.NewResultsIssuer(nil).PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	// Half of quick is for the service, and a tenth of that for a busy machine: where
	// the client cannot speak within it, the handshake speaks, in other words.
	const quick, patient = "6s", "20s"
	for _, c := range []struct {
		name, url, timeout, say string
	}{
		{"stopped", "http://" + stopped.addr, patient, "cannot be reached"},
		{"slow", handler(t, func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}), quick, "does not answer POST /challenge-response/v1/newSession in time"},
		{"500", handler(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }), patient, "with status 500, want 201"},
		{"garbage", badService(t, good.addr, func(r *http.Response) error {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("{{{\x00")), -1
			r.Header.Del("Content-Length")
			return nil
		}), patient, "cannot be read"},
		{"202 forever", badService(t, good.addr, func(r *http.Response) error {
			if !strings.Contains(r.Request.URL.Path, "/session/") {
				return nil
			}
			r.StatusCode = http.StatusAccepted
			return edit(r, func(m map[string]any) {
				m["status"] = "processing"
				delete(m, "result")
			})
		}), quick, "still processing the evidence"},
		{"redirect", handler(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+good.addr+r.URL.Path, http.StatusTemporaryRedirect)
		}), patient, "with a redirect, which is not followed"},
		{"signs with another key", badService(t, good.addr, func(r *http.Response) error {
			if !strings.Contains(r.Request.URL.Path, "well-known") {
				return nil
			}
			return edit(r, func(m map[string]any) { m["ear-verification-key"] = json.RawMessage(jwk) })
		}), patient, "no trusted key made the signature"},
	} {
		for _, tee := range []string{"softtee:tdx", "softtee:snp"} {
			t.Run(c.name+", "+tee, func(t *testing.T) {
				begun := time.Now()
				p := connect(t, args(identity(), []string{"--attest", tee}), []string{"--timeout", c.timeout, "--verify", "veraison:" + c.url})
				if took := time.Since(begun); took > 20*time.Second {
					t.Errorf("refused after %v", took)
				}
				text, _ := p.c["error"].(string)
				peer, _ := p.c["peer"].(map[string]any)
				if p.c["alert_sent"] != 80.0 || p.s["alert_received"] != 80.0 || p.c["stage"] != "appraise" || p.dialer.status != 3 || !strings.Contains(text, c.say) {
					t.Errorf("status %d: %s", p.dialer.status, p.dialer.stdout)
				}
				if peer["attested"] != false || peer["verdict"] != "none" || strings.Contains(p.dialer.stderr, "hello") {
					t.Errorf("peer %v, standard error %q", peer, p.dialer.stderr)
				}
				if !strings.Contains(p.dialer.stderr, "hint:") {
					t.Errorf("no hint in %q", p.dialer.stderr)
				}
			})
		}
	}
	// It was not the good service that failed.
	connect(t, args(identity(), []string{"--attest", "softtee:snp"}), []string{"--verify", "veraison:http://" + good.addr}).ok(t)
}
