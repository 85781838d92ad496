package policy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

type claims struct {
	mrtd, mrseam     [48]byte
	config, owner    [48]byte
	ownerConfig      [48]byte
	attributes, xfam [8]byte
	rtmrs            [4][48]byte
	svn              [16]byte
	instance         []byte
	debug            bool
	noCollateral     bool
	status           string
}

func (c *claims) MRTD() [48]byte             { return c.mrtd }
func (c *claims) MRSEAM() [48]byte           { return c.mrseam }
func (c *claims) MRConfigID() [48]byte       { return c.config }
func (c *claims) MROwner() [48]byte          { return c.owner }
func (c *claims) MROwnerConfig() [48]byte    { return c.ownerConfig }
func (c *claims) TDAttributes() [8]byte      { return c.attributes }
func (c *claims) XFAM() [8]byte              { return c.xfam }
func (c *claims) RTMRs() [4][48]byte         { return c.rtmrs }
func (c *claims) TeeTcbSvn() [16]byte        { return c.svn }
func (c *claims) PlatformInstanceID() []byte { return c.instance }
func (c *claims) Debug() bool                { return c.debug }
func (c *claims) CollateralChecked() bool    { return !c.noCollateral }
func (c *claims) TCBStatus() string          { return c.status }

func genuine() *claims {
	return &claims{
		mrtd: [48]byte{1}, mrseam: [48]byte{2}, rtmrs: [4][48]byte{{3}, {4}, {5}, {6}},
		svn: [16]byte{3, 0, 5}, instance: bytes.Repeat([]byte{7}, 16), status: "UpToDate",
		config: [48]byte{11}, owner: [48]byte{12}, ownerConfig: [48]byte{13}, attributes: [8]byte{3: 0x10}, xfam: [8]byte{0xe7, 2, 6},
	}
}

func TestClaimsAreComparedWithThePolicy(t *testing.T) {
	m := func(first ...byte) (l []policy.Measurement) {
		for _, b := range first {
			l = append(l, policy.Measurement{b})
		}
		return l
	}
	ok := policy.TDXPolicy{MRTD: m(1)}
	with := func(f func(*policy.TDXPolicy)) *policy.Policy {
		p := ok
		f(&p)
		return &policy.Policy{TDX: &p}
	}
	for _, c := range []struct {
		name   string
		policy *policy.Policy
		claims func(*claims)
		want   policy.Verdict
		claim  string // that is the reason for a verdict below affirming
	}{
		{"reference value", with(func(*policy.TDXPolicy) {}), nil, policy.Affirming, ""},
		{"one of several", with(func(p *policy.TDXPolicy) { p.MRTD = m(9, 1) }), nil, policy.Affirming, ""},
		{"all claims", with(func(p *policy.TDXPolicy) {
			p.RTMR0, p.RTMR1, p.RTMR2, p.RTMR3, p.MRSEAM = m(3), m(4), m(5), m(6), m(2)
			p.MRConfigID, p.MROwner, p.MROwnerConfig = m(9, 11), m(12), m(13)
			p.TDAttributes = &policy.Bits{Set: policy.BitField{3: 0x10}, Clear: policy.BitField{3: 0x20, 7: 0x80}}
			p.XFAM = &policy.Bits{Set: policy.BitField{0xe7, 2}, Clear: policy.BitField{0, 1}}
			p.MinTeeTcbSvn = &policy.TeeTcbSvn{3, 0, 5}
			p.PlatformInstanceIDs = []policy.InstanceID{policy.InstanceID(genuine().instance)}
			p.DenyPlatformInstanceIDs = []policy.InstanceID{{1}}
		}), nil, policy.Affirming, ""},
		{"other MRTD", with(func(p *policy.TDXPolicy) { p.MRTD = m(9) }), nil, policy.Contraindicated, "mrtd"},
		{"other MRTDs", with(func(p *policy.TDXPolicy) { p.MRTD = m(8, 9) }), nil, policy.Contraindicated, "mrtd"},
		{"empty list accepts nothing", with(func(p *policy.TDXPolicy) { p.MRTD = []policy.Measurement{} }), nil, policy.Contraindicated, "mrtd"},
		{"no MRTD", with(func(p *policy.TDXPolicy) { p.MRTD = nil }), nil, policy.Warning, "mrtd"},
		{"other RTMR0", with(func(p *policy.TDXPolicy) { p.RTMR0 = m(9) }), nil, policy.Contraindicated, "rtmr0"},
		{"other RTMR1", with(func(p *policy.TDXPolicy) { p.RTMR1 = m(3) }), nil, policy.Contraindicated, "rtmr1"},
		{"other RTMR2", with(func(p *policy.TDXPolicy) { p.RTMR2 = m(3) }), nil, policy.Contraindicated, "rtmr2"},
		{"other RTMR3", with(func(p *policy.TDXPolicy) { p.RTMR3 = m(3) }), nil, policy.Contraindicated, "rtmr3"},
		{"other MRSEAM", with(func(p *policy.TDXPolicy) { p.MRSEAM = m(3) }), nil, policy.Contraindicated, "mrseam"},
		{"other MRCONFIGID", with(func(p *policy.TDXPolicy) { p.MRConfigID = m(12) }), nil, policy.Contraindicated, "mrconfigid"},
		{"other MROWNER", with(func(p *policy.TDXPolicy) { p.MROwner = m(11, 13) }), nil, policy.Contraindicated, "mrowner"},
		{"other MROWNERCONFIG", with(func(p *policy.TDXPolicy) { p.MROwnerConfig = m(12) }), nil, policy.Contraindicated, "mrownerconfig"},
		{"owner of zeros is a value", with(func(p *policy.TDXPolicy) { p.MROwner = m(0) }), func(c *claims) { c.owner = [48]byte{} }, policy.Affirming, ""},
		{"attribute missing", with(func(p *policy.TDXPolicy) { p.TDAttributes = &policy.Bits{Set: policy.BitField{3: 0x10}} }), func(c *claims) { c.attributes = [8]byte{} }, policy.Contraindicated, "td_attributes"},
		{"attribute too many", with(func(p *policy.TDXPolicy) { p.TDAttributes = &policy.Bits{Clear: policy.BitField{7: 0x80}} }), func(c *claims) { c.attributes[7] = 0x80 }, policy.Contraindicated, "td_attributes"},
		{"feature missing", with(func(p *policy.TDXPolicy) { p.XFAM = &policy.Bits{Set: policy.BitField{0, 1}} }), nil, policy.Contraindicated, "xfam"},
		{"feature too many", with(func(p *policy.TDXPolicy) { p.XFAM = &policy.Bits{Clear: policy.BitField{4}} }), nil, policy.Contraindicated, "xfam"},
		{"migratable", with(func(*policy.TDXPolicy) {}), func(c *claims) { c.attributes[3] |= 0x20 }, policy.Contraindicated, "migration"},
		{"migratable allowed", with(func(p *policy.TDXPolicy) { p.AllowMigration = true }), func(c *claims) { c.attributes[3] |= 0x20 }, policy.Warning, "migration"},
		{"SVN above the floor", with(func(p *policy.TDXPolicy) { p.MinTeeTcbSvn = &policy.TeeTcbSvn{2, 0, 5} }), nil, policy.Affirming, ""},
		{"SVN below the floor", with(func(p *policy.TDXPolicy) { p.MinTeeTcbSvn = &policy.TeeTcbSvn{3, 0, 6} }), nil, policy.Contraindicated, "min_tee_tcb_svn"},
		{"SVN below in the last component", with(func(p *policy.TDXPolicy) { p.MinTeeTcbSvn = &policy.TeeTcbSvn{15: 1} }), nil, policy.Contraindicated, "min_tee_tcb_svn"},
		{"other machine", with(func(p *policy.TDXPolicy) { p.PlatformInstanceIDs = []policy.InstanceID{{1}} }), nil, policy.Contraindicated, "platform_instance_ids"},
		{"machine without identity", with(func(p *policy.TDXPolicy) { p.PlatformInstanceIDs = []policy.InstanceID{{}} }), func(c *claims) { c.instance = nil }, policy.Contraindicated, "platform_instance_ids"},
		{"machine of zeros matches none", with(func(p *policy.TDXPolicy) { p.PlatformInstanceIDs = []policy.InstanceID{{}} }), func(c *claims) { c.instance = make([]byte, 16) }, policy.Contraindicated, "platform_instance_ids"},
		{"denied machine", with(func(p *policy.TDXPolicy) {
			p.DenyPlatformInstanceIDs = []policy.InstanceID{{1}, policy.InstanceID(genuine().instance)}
		}), nil, policy.Contraindicated, "deny_platform_instance_ids"},
		{"machine without identity may be a denied one", with(func(p *policy.TDXPolicy) { p.DenyPlatformInstanceIDs = []policy.InstanceID{{1}} }), func(c *claims) { c.instance = nil }, policy.Contraindicated, "deny_platform_instance_ids"},
		{"machine of zeros may be a denied one", with(func(p *policy.TDXPolicy) { p.DenyPlatformInstanceIDs = []policy.InstanceID{{1}} }), func(c *claims) { c.instance = make([]byte, 16) }, policy.Contraindicated, "deny_platform_instance_ids"},
		{"DEBUG", with(func(*policy.TDXPolicy) {}), func(c *claims) { c.debug = true }, policy.Contraindicated, "debug"},
		{"DEBUG allowed", with(func(p *policy.TDXPolicy) { p.InsecureAllowDebug = true }), func(c *claims) { c.debug = true }, policy.Warning, "debug"},
		{"no collateral", with(func(*policy.TDXPolicy) {}), func(c *claims) { c.noCollateral, c.status = true, "" }, policy.Contraindicated, "collateral"},
		{"no collateral allowed", with(func(p *policy.TDXPolicy) { p.InsecureSkipCollateral = true }), func(c *claims) { c.noCollateral, c.status = true, "" }, policy.Warning, "collateral"},
		{"TCB OutOfDate", with(func(p *policy.TDXPolicy) { p.InsecureSkipCollateral = true }), func(c *claims) { c.status = "OutOfDate" }, policy.Contraindicated, "tcb_status"},
		{"policy for another TEE", &policy.Policy{}, nil, policy.Contraindicated, "tdx"},
		{"nil policy", nil, nil, policy.Warning, "mrtd"},
		{"nil policy, migratable", nil, func(c *claims) { c.attributes[3] = 0x20 }, policy.Contraindicated, "migration"},
		{"nil policy, DEBUG", nil, func(c *claims) { c.debug = true }, policy.Contraindicated, "debug"},
		{"nil policy, no collateral", nil, func(c *claims) { c.noCollateral, c.status = true, "" }, policy.Contraindicated, "collateral"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := genuine()
			if c.claims != nil {
				c.claims(cl)
			}
			d, err := c.policy.EvaluateTDX(cl)
			if d.Verdict != c.want {
				t.Fatalf("verdict %v, want %v: %v", d.Verdict, c.want, d.Reasons)
			}
			if (c.want == policy.Contraindicated) != (err != nil) || err != nil && !errors.Is(err, attestext.ErrPolicy) {
				t.Errorf("error is %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), c.claim+": ") {
				t.Errorf("error %q does not name %s", err, c.claim)
			}
			checkVector(t, d)
			if c.claim != "" && !slices.ContainsFunc(d.Reasons, func(r policy.Reason) bool { return r.Claim == c.claim && r.Verdict == c.want }) {
				t.Errorf("%s is not among the reasons: %v", c.claim, d.Reasons)
			}
		})
	}
}

func TestNilPolicySaysThatNoMeasurementWasChecked(t *testing.T) {
	d, err := (*policy.Policy)(nil).EvaluateTDX(genuine())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(d.Reasons, func(r policy.Reason) bool {
		return r.Text == "measurement not checked: no reference values"
	}) {
		t.Errorf("reasons: %v", d.Reasons)
	}
}

var (
	hex48 = strings.Repeat("ab", 48)
	hex16 = strings.Repeat("0c", 16)
	full  = `{"tdx":{"mrtd":["` + hex48 + `"],"rtmr0":["` + hex48 + `"],"rtmr1":["` + hex48 + `"],"rtmr2":["` + hex48 + `"],"rtmr3":["` + hex48 +
		`"],"mrseam":["` + hex48 + `","` + hex48 + `"],"mrconfigid":["` + hex48 + `"],"mrowner":["` + hex48 + `"],"mrownerconfig":["` + hex48 +
		`"],"events":{"rtmr0":["` + hex48 + `"],"rtmr1":["` + hex48 + `"],"rtmr2":["` + hex48 + `"],"rtmr3":["` + hex48 + `"]},"td_attributes":{"set":"0000001000000000","clear":"0000002000000080"},"xfam":{"set":"e700000000000000","clear":"0000000000000000"},"min_tee_tcb_svn":"` + hex16 +
		`","max_collateral_age":"168h0m0s","platform_instance_ids":["` + hex16 + `"],"deny_platform_instance_ids":["` + hex16 +
		`"],"allow_migration":true,"insecure_allow_debug":true,"insecure_skip_collateral":true}}`
)

func TestPolicyRoundTrip(t *testing.T) {
	for _, s := range []string{full, `{"tdx":{}}`} {
		p, err := policy.Parse([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if string(b) != s {
			t.Errorf("got  %s\nwant %s", b, s)
		}
	}
}

func TestPolicyThatIsProbablyAMistakeIsRefused(t *testing.T) {
	for _, s := range []string{
		``, `{}`, `[]`, `null`, `{"tdx":null}`, `{"tdx":[]}`, `{"TDX2":{}}`,
		full + `{}`, full + `x`,
		`{"tdx":{"mrtd":[]}}`, `{"tdx":{"rtmr2":[]}}`, `{"tdx":{"platform_instance_ids":[]}}`,
		`{"tdx":{"deny_platform_instance_ids":[]}}`, `{"tdx":{"mrowner":[]}}`,
		`{"tdx":{"platform_instance_ids":["` + strings.Repeat("00", 16) + `"]}}`, `{"tdx":{"deny_platform_instance_ids":["` + strings.Repeat("00", 16) + `"]}}`,
		`{"tdx":{"td_attributes":{}}}`, `{"tdx":{"xfam":{"set":"0000000000000000"}}}`, `{"tdx":{"xfam":{"set":"01","clear":"02"}}}`,
		`{"tdx":{"td_attributes":{"set":"0000001000000000","clear":"0000001000000000"}}}`, `{"tdx":{"td_attributes":"0000001000000000"}}`,
		`{"tdx":{"mrtd":null}}`, `{"tdx":{"mrtd":[null]}}`, `{"tdx":{"min_tee_tcb_svn":null}}`,
		`{"tdx":{"mrtd":"` + hex48 + `"}}`,
		`{"tdx":{"mrtd":["` + hex48[2:] + `"]}}`,
		`{"tdx":{"mrtd":["` + hex48 + `00"]}}`,
		`{"tdx":{"mrtd":["` + hex48[:95] + `x"]}}`,
		`{"tdx":{"mrtd":["` + hex48 + `"],"mrtd":["` + hex48 + `"]}}`,
		`{"tdx":{"mrtd":["` + hex48 + `"],"MRTD":["` + hex48 + `"]}}`,
		`{"tdx":{},"tdx":{}}`,
		`{"tdx":{"min_tee_tcb_svn":"03"}}`,
		`{"tdx":{"allow_debug":true}}`,
		`{"tdx":{"insecure_allow_debug":"true"}}`,
		`{"tdx":{"insecure_allow_debug":1}}`,
	} {
		if _, err := policy.Parse([]byte(s)); err == nil {
			t.Errorf("%.80s accepted", s)
		}
	}
	for n := range full {
		if _, err := policy.Parse([]byte(full[:n])); err == nil {
			t.Errorf("prefix of %d bytes accepted", n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(`{"tdx":{}}`))
	f.Add([]byte(fullSNP))
	f.Add([]byte(`{"tdx":{"mrtd":[]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		p, err := policy.Parse(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		q, err := policy.Parse(again)
		if err != nil {
			t.Fatalf("own encoding refused: %v", err)
		}
		d1, _ := p.EvaluateTDX(genuine())
		d2, _ := q.EvaluateTDX(genuine())
		s1, _ := p.EvaluateSNP(genuineSNP())
		s2, _ := q.EvaluateSNP(genuineSNP())
		if d1.Verdict != d2.Verdict || s1.Verdict != s2.Verdict {
			t.Fatal("another verdict after a round trip")
		}
	})
}
