package main

import (
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ccel is an event log of one event in RTMR1 as firmware writes it, padding included.
func ccel(event string) []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0c, 0, 48, 0, 0)
	b := append([]byte{0, 0, 0, 0, 3, 0, 0, 0}, make([]byte, 20)...)
	b = append(le.AppendUint32(b, uint32(len(spec))), spec...)
	digest := sha512.Sum384([]byte(event))
	b = append(b, 2, 0, 0, 0, 13, 0, 0, 0, 1, 0, 0, 0, 0x0c, 0)
	b = append(le.AppendUint32(append(b, digest[:]...), uint32(len(event))), event...)
	return append(b, make([]byte, 4096)...)
}

// The log goes with the quote, and a policy decides on what was measured.
func TestEventLogs(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	log := write("CCEL", ccel("kernel"))
	policyFor := func(event string) []string {
		digest := sha512.Sum384([]byte(event))
		file := write(event+".json", fmt.Appendf(nil, `{"tdx": {"events": {"rtmr1": ["%s"]}}}`, hex.EncodeToString(digest[:])))
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
	checkMistakes(t, []mistake{
		{args([]string{"serve", "--event-log", log, "--attest", "softtee:snp"}, identity()), 1, "other TEEs have no such log"},
		{args([]string{"serve", "--event-log", filepath.Join(dir, "none"), "--attest", "softtee:tdx"}, identity()), 1, "--event-log"},
		{args([]string{"serve", "--event-log", pki("policy.json"), "--attest", "softtee:tdx"}, identity()), 2, "--event-log"},
	})
}
