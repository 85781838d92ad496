package veraison

import (
	"bytes"
	"strings"
	"testing"

	"github.com/attestedtls/atls/internal/fuzzbound"
)

const nonce32 = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI"

func TestSessionsParse(t *testing.T) {
	for _, b := range []string{
		`{"status": "waiting", "nonce": "` + nonce32 + `=", "expiry": "2030-10-12T07:20:50.52Z", "accept": ["a/b"]}`,
		`{"state": "waiting", "nonce": "` + nonce32 + `", "accept": null}`,
		`{"status": "waiting", "nonce": "` + nonce32 + `", "evidence": {"type": "a/b", "value": "AA=="}, "other": [{}]}` + "\n",
	} {
		s, err := parseSession([]byte(b))
		if err != nil || s.state != "waiting" || string(s.nonce) != "12345678901234567890123456789012" {
			t.Errorf("%s: %+v, %v", b, s, err)
		}
		b = strings.TrimSpace(b)
		for n := range len(b) {
			if _, err := parseSession([]byte(b[:n])); err == nil {
				t.Errorf("prefix of %d bytes parses", n)
			}
		}
		if _, err := parseSession([]byte(b + "}")); err == nil {
			t.Error("trailing byte parses")
		}
	}
	for _, b := range []string{
		`{}`, `[]`, `null`,
		`{"status": "waiting"}`,
		`{"nonce": "` + nonce32 + `"}`,
		`{"status": 1, "nonce": "` + nonce32 + `"}`,
		`{"status": null, "nonce": "` + nonce32 + `"}`,
		`{"status": "waiting", "state": "waiting", "nonce": "` + nonce32 + `"}`,
		`{"status": "waiting", "status": "complete", "nonce": "` + nonce32 + `"}`,
		`{"status": "waiting", "nonce": "AAAA"}`,
		`{"status": "waiting", "nonce": "!"}`,
		`{"status": "waiting", "nonce": "` + nonce32 + `", "accept": "a/b"}`,
		`{"status": "complete", "nonce": "` + nonce32 + `", "result": {}}`,
		`{"status": "complete", "nonce": "` + nonce32 + `", "result": null}`,
		`{"status": "waiting", "nonce": "` + nonce32 + `", "x": ` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}`,
	} {
		if s, err := parseSession([]byte(b)); err == nil {
			t.Errorf("%s parses: %+v", b, s)
		}
	}
}

// Nothing that a service sends makes the parsers of its answers panic, and what they
// return is within bounds.
func FuzzResponse(f *testing.F) {
	for _, b := range []string{
		`{"status": "complete", "nonce": "` + nonce32 + `=", "accept": ["a/b"], "result": "x.y.z"}`,
		`{"state": "processing", "nonce": "+/` + nonce32[2:] + `"}`,
		`{"ear-verification-key": {"kty": "EC"}, "version": "1"}`,
		`{"title": "no", "detail": "really"}`,
		`[`,
	} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		if s, err := parseSession(b); err == nil {
			if len(s.nonce) < minNonce || len(s.nonce) > maxNonce {
				t.Errorf("nonce of %d bytes", len(s.nonce))
			}
			if n, err := parseNonce(nonceText(s.nonce)); err != nil || !bytes.Equal(n, s.nonce) {
				t.Errorf("nonce does not come back: %v", err)
			}
		}
		if jwk, err := parseDiscovery(b); err == nil && len(jwk) == 0 {
			t.Error("empty key")
		}
		if text := parseProblem(b); len(text) > 200 {
			t.Errorf("%d bytes of text", len(text))
		}
	})
}
