package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/results"
)

// expiry returns when the result in a file expires, or zero.
func expiry(t *testing.T, path string) time.Time {
	t.Helper()
	b := contents(t, path)
	held, err := results.ParseHeld(b)
	if err != nil || len(held) != 1 {
		t.Fatalf("%v in %s", err, b)
	}
	c, err := ear.ParseUnverified(held[0].Result)
	if err != nil {
		t.Fatal(err)
	}
	return c.Expires
}

// A server gets its result from atls verifier, and a new one before that expires,
// without being restarted. When the verifier is gone, the old one serves until it
// expires, and then nobody is let in.
func TestResultsAreRefreshed(t *testing.T) {
	every, before := freshEvery, refreshBefore
	t.Cleanup(func() { freshEvery, refreshBefore = every, before })
	// A second after it was made there is another one, and the last has seconds to go.
	freshEvery, refreshBefore = 20*time.Millisecond, 7*time.Second
	key := filepath.Join(t.TempDir(), "key.pem")
	v := start(t, "verifier", args(verifySoftTEE()[2:], []string{"--lifetime", "8s", "--key", key, "--own-nonces"})...)
	file := filepath.Join(t.TempDir(), "results.json")
	url := "http://" + v.addr
	refresh := []string{"--attest", "results:" + file, "--refresh-from", url, "--refresh-with", "softtee:tdx"}
	r := serve(t, args(identity(), refresh, []string{"--metrics", "127.0.0.1:0"})...)
	first := expiry(t, file)
	// Nobody has evidence from before appraised anew, by its nonce.
	if resp, err := http.Post(url+"/challenge-response/v1/newSession?nonce=AAAAAAAAAAAAAAAAAAAAAA==", "", nil); err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("nonce of the client: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}

	// The key is that of the certificate, and the service's has to be known.
	trust := filepath.Join(t.TempDir(), "verifier.jwk")
	pem, err := readKey("key", key)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := ear.MarshalJWK(pem.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(trust, jwk, 0o600); err != nil {
		t.Fatal(err)
	}
	dial := func() exited {
		return atls(t, "hello\n", "dial", r.addr, "--json", "--ca", pki("ca.pem"), "--verify", "results", "--trust-roots", trust, "--verifier-id", url)
	}
	if m := dial().object(t); m["ok"] != true || m["model"] != "passport" {
		t.Fatalf("%v", m)
	}
	eventually(t, func() string {
		until := expiry(t, file)
		if m := dial().object(t); m["ok"] != true && time.Now().Before(until) {
			t.Fatalf("a connection fails although there is a result: %v", m)
		}
		if expiry(t, file).After(first) {
			return ""
		}
		return "the result in the file is not refreshed"
	})
	v.stop()
	v.end()
	eventually(t, func() string {
		last, begun := expiry(t, file), time.Now()
		m := dial().object(t)
		switch {
		case m["ok"] == true && begun.Before(expiry(t, file)): // which is later, if the last answer of v was just under way
			return "the old result still serves" // as it may
		case m["ok"] == true:
			t.Fatalf("at %v: the result that expired at %v still serves", begun, last)
		case begun.Before(last) && m["alert_sent"] == 42.0:
			return "the old result expired on its way"
		case time.Now().Before(last):
			t.Fatalf("the result is not presented any more before it expires: %v", m)
		}
		if m["alert_sent"] != 109.0 && m["alert_received"] != 225.0 {
			t.Errorf("it fails with %v", m)
		}
		return ""
	})
	if got := scrape(t, r.metrics); got[`atls_result_refreshes_total{outcome="ok"}`] < 2 || got[`atls_result_refreshes_total{outcome="unavailable"}`] < 1 || got["atls_results_valid"] != 0 {
		t.Errorf("%v", got)
	}
	r.stop()
	if e := r.end(); !strings.Contains(e.stderr, "no new result from "+url) {
		t.Errorf("it does not say that the refresh fails: %s", e.stderr)
	}
}

// A result that is still good is presented without asking anybody.
func TestResultInTheFileOutlivesARestart(t *testing.T) {
	v := start(t, "verifier", args(verifySoftTEE()[2:], []string{"--lifetime", "1h"})...)
	file := filepath.Join(t.TempDir(), "results.json")
	flags := args(identity(), []string{"--attest", "results:" + file, "--refresh-from", "http://" + v.addr, "--refresh-with", "softtee:snp"})
	r := serve(t, flags...)
	r.stop()
	r.end()
	v.stop()
	v.end()
	trust := writeKey(t, []byte(jwk(t, v.end())))
	connect(t, flags, []string{"--verify", "results", "--trust-roots", trust, "--verifier-id", "http://" + v.addr}).ok(t)
}
