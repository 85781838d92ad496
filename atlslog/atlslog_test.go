package atlslog_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/attestedtls/atls/atlshttp"
	"github.com/attestedtls/atls/atlshttp/atlshttptest"
	"github.com/attestedtls/atls/atlslog"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/tls"
)

// safeBuffer is written to by connections.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// lines returns what a server logs of one connection by each of some clients.
func lines(t *testing.T, change func(*atlshttptest.Server), clients ...func(*atlshttptest.Server) *tls.Config) []map[string]any {
	t.Helper()
	var out safeBuffer
	s := atlshttptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	write, shaken := atlslog.Handshakes(slog.New(slog.NewJSONHandler(&out, nil))), make(chan struct{}, 1)
	s.Options = append(s.Options, atlshttp.OnHandshake(func(conn *tls.Conn, took time.Duration, err error) {
		write(conn, took, err)
		shaken <- struct{}{}
	}))
	if change != nil {
		change(s)
	}
	s.Start()
	for _, client := range clients {
		resp, err := (&http.Client{Transport: s.Transport(client(s), nil)}).Get(s.URL)
		if err == nil {
			resp.Body.Close()
		}
		<-shaken
	}
	s.Close()
	var all []map[string]any
	for line := range bytes.Lines(out.b.Bytes()) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

func attesting(s *atlshttptest.Server) *tls.Config { return s.ClientTLS }

func silent(s *atlshttptest.Server) *tls.Config {
	c := s.ClientTLS.Clone()
	c.Attestation = nil
	return c
}

// The keys are a promise: programs look for them.
func TestOneLineForEachConnection(t *testing.T) {
	all := lines(t, nil, attesting, silent)
	if len(all) != 2 {
		t.Fatalf("%d lines: %v", len(all), all)
	}
	want := []string{"alpn", "binding", "credential", "duration", "evidence_sha256", "evidence_type", "level", "machine", "model", "msg",
		"outcome", "peer_sha256", "remote", "self_attested", "suite", "time", "verdict", "version"}
	if got := slices.Sorted(maps.Keys(all[0])); !slices.Equal(got, want) {
		t.Errorf("keys are %q, want %q", got, want)
	}
	for key, want := range map[string]any{"msg": atlslog.MsgAccepted, "level": "INFO", "outcome": "ok", "verdict": "affirming",
		"self_attested": true, "model": "background-check", "binding": "hardened", "credential": "x509"} {
		if all[0][key] != want {
			t.Errorf("%s is %v, want %v", key, all[0][key], want)
		}
	}
	if all[1]["verdict"] != "none" || all[1]["self_attested"] != false || all[1]["evidence_sha256"] != nil {
		t.Errorf("of a client that does not attest: %v", all[1])
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	forged := func(s *atlshttptest.Server) *tls.Config {
		c := s.ClientTLS.Clone()
		a := *c.Attestation
		a.Attester = softtee.NewTDX(&softtee.TDXOptions{Seed: "another"}).Attester()
		c.Attestation = &a
		return c
	}
	all := lines(t, func(s *atlshttptest.Server) { s.TLS.Attestation.Peer = tls.RequireAttestation }, forged, silent)
	if len(all) != 2 {
		t.Fatalf("%d lines: %v", len(all), all)
	}
	for i, want := range []map[string]any{
		{"msg": atlslog.MsgRefused, "level": "WARN", "outcome": "failed", "verdict": "none", "stage": "appraise", "alert_sent": 42.0, "class": "evidence signature does not verify"},
		{"msg": atlslog.MsgRefused, "level": "WARN", "outcome": "failed", "verdict": "none", "stage": "negotiate", "alert_sent": 109.0},
	} {
		for key, value := range want {
			if all[i][key] != value {
				t.Errorf("line %d: %s is %v, want %v", i, key, all[i][key], value)
			}
		}
		if all[i]["error"] == nil || all[i]["remote"] == nil {
			t.Errorf("line %d: %v", i, all[i])
		}
	}
}

func TestNothingIsLoggedBelowTheLevel(t *testing.T) {
	var out bytes.Buffer
	l := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError}))
	atlslog.Handshake(t.Context(), l, nil, 0, errors.New("no"))
	if out.Len() != 0 {
		t.Error(out.String())
	}
}
