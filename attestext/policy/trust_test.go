package policy_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/policy"
)

// checkVector compares the trustworthiness vector of d with its verdict, by what
// package ear makes of the same values.
func checkVector(t *testing.T, d *policy.Decision) {
	t.Helper()
	if got := ear.Vector(d.Values()).Tier().String(); got != d.Verdict.String() {
		t.Errorf("vector %v is of tier %s, and the verdict is %v", d.Values(), got, d.Verdict)
	}
	vector := d.Vector()
	if len(vector) != 8 {
		t.Fatalf("%d claims", len(vector))
	}
	for _, c := range vector {
		if c.Reason == "" {
			t.Errorf("%s has no reason", c.Claim)
		}
	}
}

func valueOf(d *policy.Decision, c policy.TrustClaim) (int8, string) {
	for _, t := range d.Vector() {
		if t.Claim == c {
			return t.Value, t.Reason
		}
	}
	return -1, ""
}

// TestVectorSaysWhatIsWrong: draft-ietf-rats-ar4si, section 2.3.4.
func TestVectorSaysWhatIsWrong(t *testing.T) {
	m := func(b byte) []policy.Measurement { return []policy.Measurement{{b}} }
	for _, tt := range []struct {
		name   string
		change func(*policy.TDXPolicy, *claims)
		claim  policy.TrustClaim
		want   int8
		say    string
	}{
		{"nothing", func(*policy.TDXPolicy, *claims) {}, policy.Executables, 2, "mrtd: "},
		{"nothing", func(*policy.TDXPolicy, *claims) {}, policy.Hardware, 2, "tcb_status: UpToDate"},
		{"nothing", func(*policy.TDXPolicy, *claims) {}, policy.RuntimeOpaque, 2, "debug: off"},
		{"nothing", func(*policy.TDXPolicy, *claims) {}, policy.InstanceIdentity, 0, "names no machine"},
		{"nothing", func(*policy.TDXPolicy, *claims) {}, policy.Configuration, 0, "not compared"},
		{"nothing", func(*policy.TDXPolicy, *claims) {}, policy.FileSystem, 0, "nothing of files"},
		{"nothing", func(*policy.TDXPolicy, *claims) {}, policy.StorageOpaque, 0, "nothing of storage"},
		{"nothing", func(*policy.TDXPolicy, *claims) {}, policy.SourcedData, 0, "nothing of data"},
		{"no measurement", func(p *policy.TDXPolicy, _ *claims) { p.MRTD = nil }, policy.Executables, 33, "not checked"},
		{"other measurement", func(p *policy.TDXPolicy, _ *claims) { p.MRTD = m(9) }, policy.Executables, 96, "mrtd: got"},
		{"worst of two", func(p *policy.TDXPolicy, _ *claims) { p.MRTD, p.RTMR1 = nil, m(9) }, policy.Executables, 96, "rtmr1: got"},
		{"other firmware configuration", func(p *policy.TDXPolicy, _ *claims) { p.RTMR0 = m(9) }, policy.Configuration, 96, "rtmr0: got"},
		{"old TCB", func(_ *policy.TDXPolicy, c *claims) { c.status = "OutOfDate" }, policy.Hardware, 96, "OutOfDate"},
		{"no collateral", func(p *policy.TDXPolicy, c *claims) { c.noCollateral, p.InsecureSkipCollateral = true, true }, policy.Hardware, 32, "not checked"},
		{"debug", func(_ *policy.TDXPolicy, c *claims) { c.debug = true }, policy.RuntimeOpaque, 96, "under debug"},
		{"debug allowed", func(p *policy.TDXPolicy, c *claims) { c.debug, p.InsecureAllowDebug = true, true }, policy.RuntimeOpaque, 32, "under debug"},
		{"other machine", func(p *policy.TDXPolicy, _ *claims) { p.PlatformInstanceIDs = []policy.InstanceID{{1}} }, policy.InstanceIdentity, 97, "want one of 1"},
		{"denied machine", func(p *policy.TDXPolicy, c *claims) {
			p.DenyPlatformInstanceIDs = []policy.InstanceID{policy.InstanceID(c.instance)}
		}, policy.InstanceIdentity, 96, "is refused"},
		{"known machine", func(p *policy.TDXPolicy, c *claims) {
			p.PlatformInstanceIDs = []policy.InstanceID{policy.InstanceID(c.instance)}
		}, policy.InstanceIdentity, 2, "is acceptable"},
	} {
		p, c := &policy.TDXPolicy{MRTD: m(1)}, genuine()
		tt.change(p, c)
		d, _ := (&policy.Policy{TDX: p}).EvaluateTDX(c)
		checkVector(t, d)
		if got, reason := valueOf(d, tt.claim); got != tt.want || !strings.Contains(reason, tt.say) {
			t.Errorf("%s: %s is %d (%s), want %d (…%s…)", tt.name, tt.claim, got, reason, tt.want, tt.say)
		}
	}
}

func TestFirstReasonToRefuseIsNamedFirst(t *testing.T) {
	c := genuine()
	c.debug, c.status = true, "Revoked"
	d, err := (&policy.Policy{TDX: &policy.TDXPolicy{MRTD: []policy.Measurement{{9}}}}).EvaluateTDX(c)
	r, refused := d.Refusal()
	if !refused || r.Claim != "tcb_status" {
		t.Fatalf("first reason to refuse is %v", r)
	}
	e, ok := errors.AsType[*policy.RefusedError](err)
	if !ok || e.Decision != d {
		t.Fatalf("error is %#v", err)
	}
	if text := e.Error(); !strings.HasPrefix(text, "tcb_status: ") || !strings.Contains(text, "; debug: ") || !strings.Contains(text, "; mrtd: ") {
		t.Errorf("error is %q", text)
	}
	if got := d.EAR()["refused-by"]; !strings.HasPrefix(got.(string), "tcb_status: ") {
		t.Errorf("refused-by is %v", got)
	}
	d, _ = (*policy.Policy)(nil).EvaluateTDX(genuine())
	if _, refused := d.Refusal(); refused || d.EAR()["refused-by"] != nil {
		t.Error("a warning is said to be a refusal")
	}
}

func TestEARShape(t *testing.T) {
	d, _ := (&policy.Policy{TDX: &policy.TDXPolicy{MRTD: []policy.Measurement{{1}}}}).EvaluateTDX(genuine())
	b, err := json.Marshal(d.EAR())
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Status  string            `json:"ear.status"`
		Vector  map[string]int    `json:"ear.trustworthiness-vector"`
		Reasons map[string]string `json:"reasons"`
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Status != "affirming" || len(got.Vector) != 8 || len(got.Reasons) != 8 || got.Vector["hardware"] != 2 || got.Vector["file-system"] != 0 {
		t.Errorf("%s", b)
	}
}
