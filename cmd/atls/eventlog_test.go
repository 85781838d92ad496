package main

import (
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/eventlog"
	"github.com/attestedtls/atls/attestext/softtee"
)

// ccel is an event log of one event in RTMR1 as firmware writes it, padding included.
func ccel(event string) []byte {
	return append(softtee.EventLog(eventlog.Event{Register: 1, Type: 13, Data: []byte(event)}), make([]byte, 4096)...)
}

// The log goes with the quote, and a policy decides on what was measured.
func TestEventLogs(t *testing.T) {
	dir := t.TempDir()
	log := tempFile(t, "CCEL", ccel("kernel"))
	policyFor := func(event string) []string {
		digest := sha512.Sum384([]byte(event))
		file := tempFile(t, event+".json", fmt.Appendf(nil, `{"tdx": {"events": {"rtmr1": ["%s"]}}}`, hex.EncodeToString(digest[:])))
		return []string{"--trust-roots", pki("trust-roots.pem"), "--collateral", pki("collateral.json"), "--policy", file}
	}
	server := args(identity(), []string{"--attest", "softtee:tdx"})
	logged := args(server, []string{"--event-log", log})
	verify := []string{"--verify", "local"}

	p, file := capturing(t, logged, args(verify, policyFor("kernel")))
	p.ok(t)
	if p = connect(t, logged, args(verify, policyFor("other"))); p.dialer.status != 4 || !strings.Contains(p.dialer.stdout, "events.rtmr1: event 1 of 1") {
		t.Errorf("another event: status %d: %s", p.dialer.status, p.dialer.stdout)
	}
	if p = connect(t, server, args(verify, policyFor("kernel"))); p.dialer.status != 4 || !strings.Contains(p.dialer.stdout, "without an event log") {
		t.Errorf("no log: status %d: %s", p.dialer.status, p.dialer.stdout)
	}
	e := atls(t, "", "inspect", file)
	for _, say := range []string{"1 events", "its replay comes to the RTMRs", `"kernel"`} {
		if e.status != 0 || !strings.Contains(e.stdout, say) {
			t.Errorf("inspect does not say %s: status %d: %s%s", say, e.status, e.stdout, e.stderr)
		}
	}
	if e := atls(t, "", args([]string{"verify", file}, policyFor("kernel"))...); e.status != 0 || !strings.Contains(e.stdout, "events.rtmr1: all of 1 events are acceptable") {
		t.Errorf("verify: status %d: %s%s", e.status, e.stdout, e.stderr)
	}

	// The log of this guest, where there is one.
	path := ccelPath
	t.Cleanup(func() { ccelPath = path })
	auto, tee := &connFlags{eventLog: autoLog}, softtee.NewTDX(nil)
	ccelPath = filepath.Join(dir, "none")
	if q, err := auto.logged(tee); err != nil || q != attester.Quoter(tee) {
		t.Errorf("no log of this guest: %v", err)
	}
	ccelPath = log
	q, err := auto.logged(tee)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := q.Report(t.Context(), [64]byte{}); err != nil || len(r.AuxBlob) == 0 {
		t.Errorf("the log of this guest: %v, %v", r, err)
	}
	ccelPath = dir // which nobody can read
	if _, err := auto.logged(tee); exitStatus(err) != 1 {
		t.Errorf("no file: %v", err)
	}
	ccelPath = pki("policy.json")
	if _, err := auto.logged(tee); exitStatus(err) != 2 || !strings.Contains(err.Error(), "--event-log auto: event log of this guest") {
		t.Errorf("a bad log of this guest: %v", err)
	}
	checkMistakes(t, []mistake{
		{args([]string{"serve", "--event-log", "auto", "--attest", "softtee:tdx"}, identity()), 1, "--event-log auto is for --attest configfs"},
		{args([]string{"serve", "--event-log", log, "--attest", "softtee:snp"}, identity()), 1, "other TEEs have no such log"},
		{args([]string{"serve", "--event-log", filepath.Join(dir, "none"), "--attest", "softtee:tdx"}, identity()), 1, "--event-log"},
		{args([]string{"serve", "--event-log", pki("policy.json"), "--attest", "softtee:tdx"}, identity()), 2, "--event-log"},
	})
}
