package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/softtee"
)

// withoutBlock returns a file like the PEM file at path without its blocks of a type.
func withoutBlock(t *testing.T, path, blockType string) string {
	t.Helper()
	rest := contents(t, path)
	var out bytes.Buffer
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != blockType {
			pem.Encode(&out, block)
		}
	}
	return tempFile(t, "roots.pem", out.Bytes())
}

func TestEATs(t *testing.T) {
	attest, verify := []string{"--attest", "softtee:eat"}, verifySoftTEE()
	only := []string{"--credential", "attestation-only", "--allow-attestation-only"}
	for name, c := range map[string]struct {
		serve, dial []string
		byClient    bool
	}{
		"server":                   {serve: args(identity(), attest), dial: verify},
		"server, type chosen":      {serve: args(identity(), attest), dial: args(verify, []string{"--evidence-type", "263"})},
		"server, draft-08":         {serve: args(identity(), attest, []string{"--binding", "draft-08"}), dial: args(verify, []string{"--binding", "draft-08"})},
		"server, attestation-only": {serve: args(attest, only), dial: args(verify, only)},
		"server, after":            {serve: args(identity(), attest, []string{"--mode", "post-handshake"}), dial: args(verify, []string{"--mode", "post-handshake"})},
		"server, early":            {serve: args(identity(), attest, []string{"--mode", "early"}), dial: args(verify, []string{"--mode", "early"})},
		"client":                   {serve: args(identity(), verify, []string{"--client-ca", pki("ca.pem")}), dial: args(clientIdentity(), attest), byClient: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := connect(t, c.serve, c.dial)
			p.ok(t)
			relying := p.c
			if c.byClient {
				relying = p.s
			}
			attested(t, relying)
			if m, _ := relying["peer"].(map[string]any)["machine"].(string); !strings.HasPrefix(m, "eat:") {
				t.Errorf("machine %q", m)
			}
		})
	}
	// By a service that trusts the signer.
	v := start(t, "verifier", args(verify[2:4], []string{"--policy", pki("policy.json")})...)
	byService := connect(t, args(identity(), attest), []string{"--verify", "veraison:http://" + v.addr, "--evidence-type", "application/eat+cwt"})
	byService.ok(t)
	attested(t, byService.c)
	// Nobody's EATs are trusted where a file of roots names no signer, and so none is asked for.
	p := connect(t, args(identity(), attest), []string{"--verify", "local", "--trust-roots", withoutBlock(t, pki("trust-roots.pem"), eat.PEMTokenKey)})
	if p.dialer.status != 3 || p.c["alert_received"] != 224.0 {
		t.Errorf("status %d: %s", p.dialer.status, p.dialer.stdout)
	}
	checkMistakes(t, []mistake{
		{args([]string{"serve", "--key-tier", "10m"}, identity(), attest), 1, "--key-tier is for"},
		{args([]string{"serve", "--evidence-type", "text/plain"}, identity(), attest), 1, "text/plain"},
	})
}

func TestEATsInJWTsOffline(t *testing.T) {
	nonce := bytes.Repeat([]byte{1}, 32)
	token, err := softtee.NewEAT(&softtee.EATOptions{JSON: true, Modify: func(t *eat.Token) {
		t.Other = []eat.Claim{{Label: "swname", Value: []byte(`"\u001b[2J"`)}}
	}}).Token(t.Context(), nonce, publicKey(t))
	if err != nil {
		t.Fatal(err)
	}
	record, err := (&cmw.Record{Format: attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatEATJWT}, Value: token, Ind: cmw.Evidence}).CBOR()
	if err != nil {
		t.Fatal(err)
	}
	soft := []string{"--trust-roots", pki("trust-roots.pem"), "--policy", pki("policy.json")}
	for kind, b := range map[string][]byte{kindEAT: append(bytes.Clone(token), '\n'), kindCMW: record} {
		file := tempFile(t, "token.jwt", b)
		e := atls(t, "", "inspect", file)
		for _, say := range []string{"not verified", "eat_nonce: 0101", "dbgstat: disabled-since-boot", "measurements: [[65535", "swname"} {
			if e.status != 0 || !strings.Contains(e.stdout, say) || strings.Contains(e.stdout, "\x1b") {
				t.Errorf("%s: status %d, want %q: %s%s", kind, e.status, say, e.stdout, e.stderr)
			}
		}
		bound := []string{"--nonce", hex.EncodeToString(nonce), "--binder", hex.EncodeToString(nonce), "--spki", pki("cert.pem")}
		for _, c := range []struct {
			flags  []string
			status int
			say    string
		}{
			{args(soft, bound), 0, "binding: as expected"},
			{args(soft, bound[:4], []string{"--spki", pki("client-cert.pem")}), 3, "token is for another key"},
			{[]string{"--policy", pki("policy.json")}, 3, "nobody's tokens are trusted"},
			{args(soft, []string{"--at", "2026-01-01T00:00:00Z"}), 3, "in the future"},
		} {
			if e := atls(t, "", args([]string{"verify", file}, c.flags)...); e.status != c.status || !strings.Contains(e.stdout, c.say) {
				t.Errorf("%s, %q: status %d: %s%s", kind, c.flags, e.status, e.stdout, e.stderr)
			}
		}
	}
}

func TestEATsOffline(t *testing.T) {
	ch := &attestext.Challenge{
		Role: attestext.RoleServer, Kind: attestext.CertAttestation, SPKI: publicKey(t),
		Nonce: bytes.Repeat([]byte{1}, 32), Binder: bytes.Repeat([]byte{2}, 32),
	}
	platform := softtee.NewEAT(&softtee.EATOptions{Modify: func(t *eat.Token) {
		t.Other = []eat.Claim{{Label: int64(2395), Value: []byte{0x19, 0x30, 0}}, {Label: "\x1b[2J", Value: []byte{0x61, 0x1b}}}
	}})
	token, err := platform.Token(t.Context(), ch.Binder, ch.SPKI)
	if err != nil {
		t.Fatal(err)
	}
	record, err := (&cmw.Record{Format: attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatEATCWT}, Value: token}).CBOR()
	if err != nil {
		t.Fatal(err)
	}
	debug, err := softtee.NewEAT(&softtee.EATOptions{Debug: true}).Token(t.Context(), ch.Binder, ch.SPKI)
	if err != nil {
		t.Fatal(err)
	}
	soft := []string{"--trust-roots", pki("trust-roots.pem"), "--policy", pki("policy.json")}
	bound := func(binder []byte) []string {
		return []string{"--nonce", hex.EncodeToString(ch.Nonce), "--binder", hex.EncodeToString(binder), "--spki", pki("cert.pem")}
	}
	for _, f := range []struct {
		name, kind string
		data       []byte
	}{{"token", kindEAT, token}, {"untagged", kindEAT, token[3:]}, {"record", kindCMW, record}} {
		file := tempFile(t, f.name, f.data)
		e := atls(t, "", "inspect", file)
		for _, say := range []string{"not verified", "eat_nonce: 0202", "dbgstat: disabled-since-boot", "measurements: [[65535", "2395: 12288", "encoded: 193000", "SHA-256: "} {
			if e.status != 0 || !strings.Contains(e.stdout, say) || strings.Contains(e.stdout, "\x1b") {
				t.Errorf("%s: status %d, want %q: %s%s", f.name, e.status, say, e.stdout, e.stderr)
			}
		}
		var object struct {
			Kind   string
			Claims map[string]any
		}
		e = atls(t, "", "inspect", file, "--json")
		if err := json.Unmarshal([]byte(e.stdout), &object); err != nil || object.Kind != f.kind {
			t.Errorf("%s: %v: %s", f.name, err, e.stdout)
		}
		e = atls(t, "", args([]string{"verify", file, "--json"}, soft)...)
		if err := json.Unmarshal([]byte(e.stdout), &object); err != nil || object.Claims["eat_profile"] != softtee.EATProfile || object.Claims["other_claims"] == nil {
			t.Errorf("%s: %v: %s", f.name, err, e.stdout)
		}
		for _, c := range []struct {
			flags  []string
			status int
			say    string
		}{
			{soft, 0, "NOT CHECKED: freshness and binding"},
			{args(soft, bound(ch.Binder)), 0, "binding: as expected"},
			{args(soft, bound(ch.Nonce)), 3, "token is of another session"},
			{args(soft, bound(ch.Binder), []string{"--credential", "attestation-only"}), 0, "binding: as expected"},
			{args(soft, bound(ch.Binder)[:4], []string{"--spki", pki("client-cert.pem")}), 3, "token is for another key"},
			{[]string{"--policy", pki("policy.json")}, 3, "nobody's tokens are trusted"},
			{args(soft[:2], []string{"--insecure-skip-collateral"}), 0, "verdict: warning"},
			{args(soft[:2], []string{"--policy", tempFile(t, "policy", []byte(`{"tdx": {}}`))}), 4, "no section for EATs"},
			{args(soft[:2], []string{"--policy", tempFile(t, "policy", []byte(`{"eat": {"claims": {"2395": ["193001"]}}}`))}), 4, "claims 2395: got 193000"},
			{args(soft, []string{"--report-data", strings.Repeat("02", 64)}), 1, ""},
			{args(soft, []string{"--at", "2026-01-01T00:00:00Z"}), 3, "in the future"},
		} {
			if e := atls(t, "", args([]string{"verify", file}, c.flags)...); e.status != c.status || !strings.Contains(e.stdout, c.say) {
				t.Errorf("%s, %q: status %d: %s%s", f.name, c.flags, e.status, e.stdout, e.stderr)
			}
		}
	}
	if e := atls(t, string(debug), args([]string{"verify", "-"}, soft)...); e.status != 4 || !strings.Contains(e.stdout, "debug: got enabled") {
		t.Errorf("debug: status %d: %s%s", e.status, e.stdout, e.stderr)
	}
	token[len(token)-1] ^= 1
	if e := atls(t, string(token), args([]string{"verify", "-"}, soft)...); e.status != 3 || !strings.Contains(e.stdout, "no trusted key made the signature") {
		t.Errorf("changed: status %d: %s%s", e.status, e.stdout, e.stderr)
	}
	captured, file := capturing(t, args(identity(), []string{"--attest", "softtee:eat"}), verifySoftTEE())
	captured.ok(t)
	if e := atls(t, "", args([]string{"verify", file}, soft)...); e.status != 0 || !strings.Contains(e.stdout, "verdict: affirming") {
		t.Errorf("captured: status %d: %s%s", e.status, e.stdout, e.stderr)
	}
}
