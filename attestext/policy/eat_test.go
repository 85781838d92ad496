package policy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
)

// A fakeEAT is what a verified token says.
type fakeEAT struct {
	profile, debug, oemid string
	ueid, model           []byte
	measurements          []byte
	issued                time.Time
	submods               []string
	claims                map[int64][]byte
}

func (f *fakeEAT) Profile() string       { return f.profile }
func (f *fakeEAT) DebugStatus() string   { return f.debug }
func (f *fakeEAT) OEMID() string         { return f.oemid }
func (f *fakeEAT) UEID() []byte          { return f.ueid }
func (f *fakeEAT) HardwareModel() []byte { return f.model }
func (f *fakeEAT) Measurements() []byte  { return f.measurements }
func (f *fakeEAT) IssuedAt() time.Time   { return f.issued }
func (f *fakeEAT) Submods() []string     { return f.submods }
func (f *fakeEAT) Claim(n int64) []byte  { return f.claims[n] }

var eatNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func goodEAT() *fakeEAT {
	return &fakeEAT{
		profile: "https://example.com/", debug: "disabled-since-boot", oemid: "aabbcc",
		ueid: append([]byte{1}, bytes.Repeat([]byte{3}, 16)...), model: []byte{4},
		measurements: []byte{0x81, 0x82, 0, 0x40}, issued: eatNow.Add(-time.Minute),
		claims: map[int64][]byte{2395: {0x19, 0x30, 0}},
	}
}

var eatPolicy = fmt.Sprintf(`{"eat": {
	"measurements": ["%x", "%x"], "profile": ["https://example.com/", "1.2.3"], "oemid": ["AABBCC", "pen:32473"], "hwmodel": ["04"],
	"debug_status": ["disabled-since-boot", "disabled-permanently"], "claims": {"2395": ["193000"]}, "max_age": "5m",
	"ueids": ["01%s"], "deny_ueids": ["01%s"]
}}`, sha256.Sum256([]byte{0x81, 0x82, 0, 0x40}), sha256.Sum256(nil), hexOf("03", 16), hexOf("04", 16))

func TestEATClaimsAreCompared(t *testing.T) {
	p, err := Parse([]byte(eatPolicy))
	if err != nil {
		t.Fatal(err)
	}
	denied := UEID(append([]byte{1}, bytes.Repeat([]byte{3}, 16)...))
	for _, c := range []struct {
		name    string
		change  func(*fakeEAT, *EATPolicy)
		verdict Verdict
		says    string
	}{
		{"reference values", func(*fakeEAT, *EATPolicy) {}, Affirming, ""},
		{"measurements alone", func(f *fakeEAT, p *EATPolicy) {
			*f, *p = fakeEAT{measurements: f.measurements, debug: "disabled"}, EATPolicy{Measurements: p.Measurements}
		}, Affirming, ""},
		{"no measurements", func(_ *fakeEAT, p *EATPolicy) { p.Measurements = nil }, Warning, "measurement not checked"},
		{"other measurements", func(f *fakeEAT, _ *EATPolicy) { f.measurements[2]++ }, Contraindicated, "measurements: got"},
		// The second reference value is the digest of nothing.
		{"measurements are not said", func(f *fakeEAT, _ *EATPolicy) { f.measurements = nil }, Contraindicated, "measurements: the token does not say"},
		{"other profile", func(f *fakeEAT, _ *EATPolicy) { f.profile = "https://example.com" }, Contraindicated, "profile: got"},
		{"profile is not said", func(f *fakeEAT, p *EATPolicy) { f.profile, p.Profile = "", []string{""} }, Contraindicated, "profile: the token does not say"},
		{"other maker", func(f *fakeEAT, _ *EATPolicy) { f.oemid = "pen:1" }, Contraindicated, "oemid: got pen:1"},
		{"maker is not said", func(f *fakeEAT, p *EATPolicy) { f.oemid, p.OEMID = "", []OEMID{""} }, Contraindicated, "oemid: the token does not say"},
		{"other model", func(f *fakeEAT, _ *EATPolicy) { f.model = []byte{5} }, Contraindicated, "hwmodel: got 05"},
		{"model is not said", func(f *fakeEAT, p *EATPolicy) { f.model, p.HWModel = nil, []HWModel{{}} }, Contraindicated, "hwmodel: the token does not say"},
		{"debug", func(f *fakeEAT, _ *EATPolicy) { f.debug = "enabled" }, Contraindicated, "debug: got enabled"},
		{"weaker debug status", func(f *fakeEAT, _ *EATPolicy) { f.debug = "disabled" }, Contraindicated, "debug: got disabled, want disabled-since-boot or"},
		{"debug is not said", func(f *fakeEAT, p *EATPolicy) { f.debug, p.DebugStatus = "", nil }, Contraindicated, "debug: got a token that does not say"},
		{"debug that a list cannot allow", func(f *fakeEAT, p *EATPolicy) { f.debug, p.DebugStatus = "enabled", []string{"enabled", ""} }, Contraindicated, "debug"},
		{"debug that is not said, and a list cannot allow", func(f *fakeEAT, p *EATPolicy) { f.debug, p.DebugStatus = "", []string{"enabled", ""} }, Contraindicated, "debug"},
		{"debug is allowed", func(f *fakeEAT, p *EATPolicy) { f.debug, p.InsecureAllowDebug = "enabled", true }, Warning, "enabled, which the policy allows"},
		{"debug is not said, which is allowed", func(f *fakeEAT, p *EATPolicy) { f.debug, p.InsecureAllowDebug = "", true }, Warning, "does not say, which the policy allows"},
		{"other claim", func(f *fakeEAT, _ *EATPolicy) { f.claims[2395] = []byte{0} }, Contraindicated, "claims 2395: got 00"},
		{"claim is not said", func(f *fakeEAT, p *EATPolicy) { f.claims, p.Claims["2395"] = nil, []EncodedClaim{{}} }, Contraindicated, "claims 2395: the token does not say"},
		{"claim that is read elsewhere", func(_ *fakeEAT, p *EATPolicy) { p.Claims = map[string][]EncodedClaim{"263": {{1}}} }, Contraindicated, `"263", which is not`},
		{"claim by no number", func(_ *fakeEAT, p *EATPolicy) { p.Claims = map[string][]EncodedClaim{"x": {{1}}} }, Contraindicated, `"x", which is not`},
		{"as old as it may be", func(f *fakeEAT, _ *EATPolicy) { f.issued = eatNow.Add(-5 * time.Minute) }, Affirming, ""},
		{"too old", func(f *fakeEAT, _ *EATPolicy) { f.issued = eatNow.Add(-5*time.Minute - time.Second) }, Contraindicated, "max_age: token was issued 5m1s ago"},
		{"age is not said", func(f *fakeEAT, _ *EATPolicy) { f.issued = time.Time{} }, Contraindicated, "max_age: the token does not say"},
		{"no bound on age", func(f *fakeEAT, p *EATPolicy) { f.issued, p.MaxAge = time.Time{}, 0 }, Affirming, ""},
		{"other machine", func(f *fakeEAT, _ *EATPolicy) { f.ueid[1] ^= 1 }, Contraindicated, "ueids: got 0102"},
		{"shorter name of a machine", func(f *fakeEAT, _ *EATPolicy) { f.ueid = f.ueid[:16] }, Contraindicated, "ueids: got"},
		{"denied machine", func(_ *fakeEAT, p *EATPolicy) { p.DenyUEIDs = []UEID{denied} }, Contraindicated, "deny_ueids: 0103"},
		{"no machine", func(f *fakeEAT, p *EATPolicy) { f.ueid, p.UEIDs = nil, []UEID{{}} }, Contraindicated, "ueids: the platform has no identity"},
		{"machine of zeros", func(f *fakeEAT, p *EATPolicy) { clear(f.ueid[1:]); p.UEIDs = []UEID{f.ueid} }, Contraindicated, "ueids: the platform has no identity"},
		{"machine of zeros is denied", func(f *fakeEAT, p *EATPolicy) { clear(f.ueid[1:]); p.UEIDs = nil }, Contraindicated, "deny_ueids: the platform has no identity"},
		{"submodules", func(f *fakeEAT, _ *EATPolicy) { f.submods = []string{`"a"`} }, Contraindicated, `submods: 1 submodules that nobody has appraised ("a")`},
		{"submodules are allowed", func(f *fakeEAT, p *EATPolicy) { f.submods, p.AllowSubmods = []string{`"a"`}, true }, Warning, "which the policy allows"},
		{"list accepts nothing", func(_ *fakeEAT, p *EATPolicy) { p.Measurements = []MeasurementsDigest{} }, Contraindicated, "want one of 0"},
	} {
		parsed, err := Parse([]byte(eatPolicy))
		if err != nil {
			t.Fatal(err)
		}
		f := goodEAT()
		c.change(f, parsed.EAT)
		d, err := parsed.EvaluateEAT(f, eatNow)
		if d.Verdict != c.verdict || (err != nil) != (c.verdict == Contraindicated) {
			t.Errorf("%s: %v, %v", c.name, d, err)
		}
		if err != nil && (!errors.Is(err, attestext.ErrPolicy) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if text := fmt.Sprint(d.Reasons); c.verdict == Warning && !strings.Contains(text, c.says) {
			t.Errorf("%s: %s", c.name, text)
		}
	}
	var none *Policy
	if d, err := none.EvaluateEAT(goodEAT(), eatNow); err != nil || d.Verdict != Warning {
		t.Errorf("no policy: %v, %v", d, err)
	}
	if _, err := (&Policy{SNP: &SNPPolicy{}}).EvaluateEAT(goodEAT(), eatNow); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("a policy for SNP: %v", err)
	}
	if _, err := p.EvaluateSNP(nil); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("a policy for EATs: %v", err)
	}
}

// Each field is about the claim of the trustworthiness vector that it should be.
func TestEATReasonsMakeAVector(t *testing.T) {
	p, err := Parse([]byte(eatPolicy))
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.EvaluateEAT(goodEAT(), eatNow)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range d.Reasons {
		got[r.Claim] = string(r.Trust())
	}
	for claim, want := range map[string]TrustClaim{
		"debug": RuntimeOpaque, "measurements": Executables, "profile": Configuration, "oemid": Hardware, "hwmodel": Hardware,
		"claims 2395": Configuration, "max_age": Executables, "ueids": InstanceIdentity, "deny_ueids": InstanceIdentity,
	} {
		if got[claim] != string(want) {
			t.Errorf("%s is about %q, want %q", claim, got[claim], want)
		}
		delete(got, claim)
	}
	if len(got) != 0 {
		t.Errorf("%v as well", got)
	}
}

func TestEATPolicyIsReadStrictly(t *testing.T) {
	checkWrittenAgain(t, eatPolicy)
	// What a schema cannot say; what it can is in TestSchemaAcceptsWhatParseDoes.
	for _, bad := range []string{
		`{"eat": {"ueids": ["01` + hexOf("00", 16) + `"]}}`, `{"eat": {"deny_ueids": ["00` + hexOf("00", 16) + `"]}}`,
		`{"eat": {"debug_status": ["disabled"], "insecure_allow_debug": true}}`,
		`{"eat": {"claims": {"263": ["01"]}}}`, `{"eat": {"claims": {"10": ["40"]}}}`, `{"eat": {"claims": {"9223372036854775808": ["00"]}}}`,
		`{"eat": {"claims": {"1": ["00"], "1": ["01"]}}}`, `{"eat": {"claims": {"1": [null]}}}`, `{"eat": {"profile": [null]}}`,
		`{"eat": {"oemid": ["pen:9223372036854775808"]}}`, `{"eat": {"oemid": [null]}}`, `{"eat": {"hwmodel": [null]}}`, `{"eat": null}`,
	} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}
