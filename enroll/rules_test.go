package enroll_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/attestedtls/atls/enroll"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/tls"
)

func TestBadRulesAndRevocationsAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		``:                              "EOF",
		`{}`:                            "there is none",
		`{"rules": null}`:               "null",
		`{"rules": [{}]}`:               "no name",
		`{"rules": [{"names": ["a"]}]}`: "describes no machine",
		`{"rules": [{"name": ["a"]}]}`:  "unknown field",
		`{"rules": [], "Rules": []}`:    "twice",
		`{"rules": [{"names": ["*.a"], "machines": ["m"]}]}`:                    "no DNS name",
		`{"rules": [{"names": ["A"], "machines": ["m"]}]}`:                      "no DNS name",
		`{"rules": [{"names": ["a"], "machines": [], "claims": {"x": ["1"]}}]}`: "machines is empty",
		`{"rules": [{"names": ["a"], "claims": {"mrtd": []}}]}`:                 "no value",
		`{"rules": [{"names": ["a"], "claims": {"mrtd": [""]}}]}`:               "an empty one",
		`{"rules": [{"names": ["a"], "claims": {"x": ["1"], "X": ["2"]}}]}`:     "twice",
		`{"rules": [{"names": ["a"], "machines": ["m"]}]} {}`:                   "after the JSON value",
		`{"rules": [` + strings.Repeat("[", 40):                                 "deep",
		strings.Repeat(" ", 1<<20) + `{}`:                                       "at most",
	} {
		if _, err := enroll.ParseRules([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{
		`{"machine": []}`:          "unknown field",
		`{"machines": [""]}`:       "empty machine",
		`{"claims": {"mrtd": []}}`: "no value",
		`{"serials": null}`:        "null",
		`{"serials": [""]}`:        "lower case",
		`{"serials": ["4A"]}`:      "lower case", // as openssl writes it
		`{"serials": ["4a:bc"]}`:   "lower case",
		`{"serials": ["0x4a"]}`:    "lower case",
	} {
		if _, err := enroll.ParseRevocations([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestRulesReadClaims: values inside of lists and maps, numbers and booleans.
func TestRulesReadClaims(t *testing.T) {
	claims := map[string]any{
		"mrtd": "aa", "rtmrs": []string{"r0", "r1"}, "debug": false, "pcrs": map[string]any{"sha256": map[string]any{"4": "p4"}},
		"svn": uint32(7), "list": []any{map[string]any{"x": "y"}},
	}
	for path, want := range map[string]string{
		"mrtd": "aa", "rtmrs.1": "r1", "debug": "false", "pcrs.sha256.4": "p4", "svn": "7", "list.0.x": "y",
		"rtmrs": "", "rtmrs.2": "", "rtmrs.-1": "", "rtmrs.x": "", "mrtd.x": "", "none": "", "pcrs.sha1.4": "",
	} {
		if got := enroll.ClaimOf(claims, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

func certificate(notAfter time.Time) *tls.Certificate {
	return &tls.Certificate{Leaf: &x509.Certificate{NotBefore: time.Now().Add(-5 * time.Minute), NotAfter: notAfter}}
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			mu      sync.Mutex
			times   []time.Duration
			reports int
			fails   atomic.Bool
		)
		asked := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(times)
		}
		begin := time.Now()
		get := func(context.Context) (*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			times = append(times, time.Since(begin))
			if fails.Load() {
				return nil, errors.New("the authority is away")
			}
			return certificate(time.Now().Add(24 * time.Hour)), nil
		}
		r, err := enroll.NewRenewer(t.Context(), get, func(*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			reports++
		})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		first, err := r.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(16*time.Hour + time.Second)
		synctest.Wait()
		second, err := r.GetClientCertificate(nil)
		mu.Lock()
		reported := reports
		mu.Unlock()
		if a := asked(); err != nil || second == first || len(a) != 2 || a[1] != 16*time.Hour || reported != 1 {
			t.Fatalf("after 16 hours: %v, same %v, asked %v", err, second == first, a)
		}
		// It fails: the old one serves until it expires, and no longer.
		fails.Store(true)
		time.Sleep(23 * time.Hour)
		synctest.Wait()
		if c, err := r.Certificate(); err != nil || c != second || len(asked()) < 5 {
			t.Errorf("while it fails: %v, asked %v", err, asked())
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if _, err := r.Certificate(); err == nil || !strings.Contains(err.Error(), "the authority is away") {
			t.Errorf("it has expired: %v", err)
		}
		// And a success heals it.
		fails.Store(false)
		time.Sleep(time.Hour)
		synctest.Wait()
		if c, err := r.Certificate(); err != nil || c == second {
			t.Errorf("it is back: %v", err)
		}
		n := len(asked())
		r.Close()
		time.Sleep(48 * time.Hour)
		if synctest.Wait(); len(asked()) != n {
			t.Error("it asks after Close")
		}
	})
	if _, err := enroll.NewRenewer(t.Context(), func(context.Context) (*tls.Certificate, error) { return nil, context.Canceled }, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("the first attempt fails: %v", err)
	}
	now := time.Now()
	for _, tt := range []struct {
		left   time.Duration
		failed bool
		want   time.Duration
	}{
		{3 * time.Hour, false, 2 * time.Hour}, {time.Second, false, time.Second}, {-time.Hour, true, time.Second},
		{8 * time.Minute, true, time.Minute}, {1000 * time.Hour, true, time.Hour},
	} {
		if got := enroll.WaitForNext(certificate(now.Add(tt.left)), now, tt.failed); got != tt.want {
			t.Errorf("%v left, failed %v: %v, want %v", tt.left, tt.failed, got, tt.want)
		}
	}
}

func TestFrames(t *testing.T) {
	good := frame([]byte("hello"))
	if b, err := enroll.ReadFrame(bytes.NewReader(good), 5); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	for n := range good {
		if _, err := enroll.ReadFrame(bytes.NewReader(good[:n]), 5); err == nil {
			t.Errorf("%d bytes pass", n)
		}
	}
	if _, err := enroll.ReadFrame(bytes.NewReader(good), 4); err == nil {
		t.Error("a frame over the limit passes")
	}
	for _, text := range []string{`x`, `{}`, `{"version":2}`} {
		if enroll.ParseGreet([]byte(text)) == nil {
			t.Errorf("greeting %s passes", text)
		}
	}
	for _, text := range []string{`x`, `{}`, `{"chain":["a"]}`, `{"chain":["","","","","","","","",""]}`, `{"chain":["MA=="],"code":"revoked"}`} {
		if _, err := enroll.ParseReply([]byte(text)); err == nil {
			t.Errorf("reply %s passes", text)
		}
	}
}

func FuzzMessages(f *testing.F) {
	reply, _ := json.Marshal(map[string]any{"chain": [][]byte{{0x30}}})
	f.Add(reply)
	f.Add([]byte(`{"code":"revoked","reason":"x"}`))
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"time":"2026-01-01T00:00:00Z","issued":true,"not_after":"2036-01-01T00:00:00Z"}` + "\n"))
	f.Add([]byte(`{"rules":[{"names":["a"],"machines":["m"]}]}`))
	f.Add(frame([]byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		if chain, err := enroll.ParseReply(b); err == nil && len(chain) == 0 {
			t.Error("a reply with neither a chain nor an error")
		}
		enroll.ParseGreet(b)
		enroll.ParseCSR(b)
		enroll.ReadFrame(bytes.NewReader(b), 64<<10)
		enroll.ReadIssued(bytes.NewReader(b), time.Unix(0, 0))
		enroll.ParseRevocations(b)
		if r, err := enroll.ParseRules(b); err == nil && len(r.Rules) == 0 {
			t.Error("rules without a rule")
		}
	})
}
