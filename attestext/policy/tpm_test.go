package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
)

// A fakeTPM is what a verified quote says.
type fakeTPM struct {
	pcrs     map[int][]byte // of sha256
	firmware uint64
	resets   uint32
	own      bool
	ek       []byte

	certified, checked bool
}

func (f *fakeTPM) PCR(bank string, index int) []byte {
	if bank != "sha256" {
		return nil
	}
	return f.pcrs[index]
}
func (f *fakeTPM) FirmwareVersion() (uint64, bool) { return f.firmware, f.own }
func (f *fakeTPM) ResetCount() (uint32, bool)      { return f.resets, f.own }
func (f *fakeTPM) EK() []byte                      { return f.ek }
func (f *fakeTPM) Certified() bool                 { return f.certified }
func (f *fakeTPM) CollateralChecked() bool         { return f.checked }

func goodTPM() *fakeTPM {
	return &fakeTPM{
		pcrs:     map[int][]byte{0: bytes.Repeat([]byte{1}, 32), 7: bytes.Repeat([]byte{2}, 32)},
		firmware: 0x0102, resets: 5, own: true, ek: bytes.Repeat([]byte{3}, 32),
	}
}

func hexOf(b string, n int) string { return strings.Repeat(b, n) }

var tpmPolicy = `{"tpm": {
	"pcrs": {"sha256": {"0": ["` + hexOf("ff", 32) + `", "` + hexOf("01", 32) + `"], "7": ["` + hexOf("02", 32) + `"]}},
	"firmware_versions": ["0000000000000102"], "reset_count": 5, "ek_ids": ["` + hexOf("03", 32) + `"]
}}`

func TestTPMClaimsAreCompared(t *testing.T) {
	p, err := Parse([]byte(tpmPolicy))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		change  func(*fakeTPM, *TPMPolicy)
		verdict Verdict
		says    string
	}{
		{"reference values", func(*fakeTPM, *TPMPolicy) {}, Affirming, ""},
		{"PCRs alone", func(_ *fakeTPM, p *TPMPolicy) { *p = TPMPolicy{PCRs: p.PCRs} }, Affirming, ""},
		{"no PCRs", func(_ *fakeTPM, p *TPMPolicy) { p.PCRs = nil }, Warning, "measurement not checked"},
		{"other PCR", func(f *fakeTPM, _ *TPMPolicy) { f.pcrs[7] = bytes.Repeat([]byte{9}, 32) }, Contraindicated, "pcrs sha256 7: got 0909"},
		{"PCR left out of the quote", func(f *fakeTPM, _ *TPMPolicy) { delete(f.pcrs, 7) }, Contraindicated, "not about it"},
		{"bank left out of the quote", func(_ *fakeTPM, p *TPMPolicy) {
			p.PCRs = map[string]map[string][]PCRValue{"sha384": {"0": {make(PCRValue, 48)}}}
		}, Contraindicated, "pcrs sha384 0: the quote is not about it"},
		{"empty list", func(_ *fakeTPM, p *TPMPolicy) {
			p.PCRs = map[string]map[string][]PCRValue{"sha256": {"0": {}}}
		}, Contraindicated, "pcrs sha256 0"},
		{"bank without registers", func(_ *fakeTPM, p *TPMPolicy) {
			p.PCRs = map[string]map[string][]PCRValue{"sha256": {}}
		}, Contraindicated, "no register"},
		{"bank that is none", func(_ *fakeTPM, p *TPMPolicy) {
			p.PCRs = map[string]map[string][]PCRValue{"SHA256": {}}
		}, Contraindicated, "pcrs SHA256"},
		{"register that is none", func(_ *fakeTPM, p *TPMPolicy) {
			p.PCRs = map[string]map[string][]PCRValue{"sha256": {"07": {bytes.Repeat([]byte{9}, 32)}}}
		}, Contraindicated, `"07", which is no PCR`},
		{"other firmware", func(f *fakeTPM, _ *TPMPolicy) { f.firmware++ }, Contraindicated, "firmware_versions: got 0000000000000103"},
		{"disguised firmware", func(f *fakeTPM, _ *TPMPolicy) { f.own = false }, Contraindicated, "disguise its version"},
		{"booted anew", func(f *fakeTPM, _ *TPMPolicy) { f.resets++ }, Contraindicated, "reset_count: got 6"},
		{"disguised count", func(f *fakeTPM, p *TPMPolicy) { f.own, p.FirmwareVersions = false, nil }, Contraindicated, "disguise its count"},
		{"certified", func(f *fakeTPM, _ *TPMPolicy) { f.certified, f.checked = true, true }, Affirming, ""},
		{"revocation not checked", func(f *fakeTPM, _ *TPMPolicy) { f.certified = true }, Contraindicated, "collateral: revocation was not checked"},
		{"revocation not checked, as allowed", func(f *fakeTPM, p *TPMPolicy) { f.certified, p.InsecureSkipCollateral = true, true }, Warning, "which the policy allows"},
		{"other EK", func(f *fakeTPM, _ *TPMPolicy) { f.ek[0] ^= 1 }, Contraindicated, "ek_ids: got 0203"},
		{"no EK", func(f *fakeTPM, _ *TPMPolicy) { f.ek = nil }, Contraindicated, "ek_ids: the platform has no identity"},
		{"zero EK", func(f *fakeTPM, p *TPMPolicy) { f.ek, p.EKIDs = make([]byte, 32), []EKID{{}} }, Contraindicated, "ek_ids: the platform has no identity"},
		{"short EK", func(f *fakeTPM, _ *TPMPolicy) { f.ek = f.ek[:31] }, Contraindicated, "ek_ids: got 0303"},
		{"none of the denied", func(_ *fakeTPM, p *TPMPolicy) { p.DenyEKIDs = []EKID{{4}} }, Affirming, ""},
		{"denied EK", func(f *fakeTPM, p *TPMPolicy) { p.DenyEKIDs = []EKID{{4}, EKID(f.ek)} }, Contraindicated, "deny_ek_ids: 0303030303030303… is refused"},
		{"denied, and no EK", func(f *fakeTPM, p *TPMPolicy) { f.ek, p.EKIDs, p.DenyEKIDs = nil, nil, []EKID{{4}} }, Contraindicated, "deny_ek_ids: the platform has no identity"},
		{"denied, and zero EK", func(f *fakeTPM, p *TPMPolicy) { f.ek, p.EKIDs, p.DenyEKIDs = make([]byte, 32), nil, []EKID{{4}} }, Contraindicated, "deny_ek_ids: the platform has no identity"},
		{"EK list accepts nothing", func(_ *fakeTPM, p *TPMPolicy) { p.EKIDs = []EKID{} }, Contraindicated, "want one of 0"},
		{"firmware list accepts nothing", func(_ *fakeTPM, p *TPMPolicy) { p.FirmwareVersions = []FirmwareVersion{} }, Contraindicated, "want one of 0"},
	} {
		f, section := goodTPM(), *p.TPM
		c.change(f, &section)
		d, err := (&Policy{TPM: &section}).EvaluateTPM(f)
		if d.Verdict != c.verdict || (err != nil) != (c.verdict == Contraindicated) {
			t.Errorf("%s: %v, %v", c.name, d, err)
		}
		if err != nil && (!errors.Is(err, attestext.ErrPolicy) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.verdict == Warning && !strings.Contains(d.Reasons[0].Text, c.says) {
			t.Errorf("%s: %v", c.name, d)
		}
	}
	var none *Policy
	if none.SkipTPMCollateral() || p.SkipTPMCollateral() || !(&Policy{TPM: &TPMPolicy{InsecureSkipCollateral: true}}).SkipTPMCollateral() {
		t.Error("revocation is skipped where it must not be, or the other way around")
	}
	unchecked := goodTPM()
	unchecked.certified = true
	if _, err := none.EvaluateTPM(unchecked); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("no policy, and revocation not checked: %v", err)
	}
	if d, err := none.EvaluateTPM(goodTPM()); err != nil || d.Verdict != Warning {
		t.Errorf("no policy: %v, %v", d, err)
	}
	if _, err := (&Policy{SNP: &SNPPolicy{}}).EvaluateTPM(goodTPM()); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("a policy for SNP: %v", err)
	}
	if _, err := p.EvaluateSNP(nil); !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("a policy for TPMs: %v", err)
	}
}

// checkWrittenAgain checks that a policy is written as it was read.
func checkWrittenAgain(t *testing.T, text string) {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := json.Marshal(again); !bytes.Equal(b, c) {
		t.Errorf("%s and then %s", b, c)
	}
}

func TestTPMPolicyIsReadStrictly(t *testing.T) {
	checkWrittenAgain(t, tpmPolicy)
	value := `"` + hexOf("01", 32) + `"`
	for _, bad := range []string{
		`{"tpm": null}`, `{"tpm": {"pcrs": {}}}`, `{"tpm": {"pcrs": {"sha256": {}}}}`, `{"tpm": {"pcrs": {"sha256": {"0": []}}}}`,
		`{"tpm": {"pcrs": {"sha1": {"0": ["` + hexOf("01", 20) + `"]}}}}`, `{"tpm": {"pcrs": {"SHA256": {"0": [` + value + `]}}}}`,
		`{"tpm": {"pcrs": {"sha256": {"24": [` + value + `]}}}}`, `{"tpm": {"pcrs": {"sha256": {"-1": [` + value + `]}}}}`,
		`{"tpm": {"pcrs": {"sha256": {"00": [` + value + `]}}}}`, `{"tpm": {"pcrs": {"sha256": {"+1": [` + value + `]}}}}`,
		`{"tpm": {"pcrs": {"sha256": {"x": [` + value + `]}}}}`, `{"tpm": {"pcrs": {"sha256": {"0": [` + value + `], "0": [` + value + `]}}}}`,
		`{"tpm": {"pcrs": {"sha384": {"0": [` + value + `]}}}}`, `{"tpm": {"pcrs": {"sha256": {"0": ["0"]}}}}`,
		`{"tpm": {"pcrs": {"sha256": {"0": [""]}}}}`, `{"tpm": {"pcrs": {"sha256": {"0": [null]}}}}`,
		`{"tpm": {"firmware_versions": []}}`, `{"tpm": {"firmware_versions": ["1"]}}`, `{"tpm": {"firmware_versions": ["+000000000000001"]}}`,
		`{"tpm": {"ek_ids": []}}`, `{"tpm": {"ek_ids": ["` + hexOf("00", 32) + `"]}}`, `{"tpm": {"deny_ek_ids": []}}`, `{"tpm": {"deny_ek_ids": ["` + hexOf("00", 32) + `"]}}`, `{"tpm": {"deny_ek_ids": ["00"]}}`, `{"tpm": {"reset_count": -1}}`, `{"tpm": {"x": 1}}`,
	} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}
