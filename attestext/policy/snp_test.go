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
)

type snpClaims struct {
	measurement, idKey, authorKey [48]byte
	hostData                      [32]byte
	family, image                 [16]byte
	guest, platform               [8]byte
	reported, current, committed  [4]uint8
	svn, vmpl                     uint32
	chip                          []byte
	debug, migration, unchecked   bool
}

func (c *snpClaims) Measurement() [48]byte     { return c.measurement }
func (c *snpClaims) HostData() [32]byte        { return c.hostData }
func (c *snpClaims) IDKeyDigest() [48]byte     { return c.idKey }
func (c *snpClaims) AuthorKeyDigest() [48]byte { return c.authorKey }
func (c *snpClaims) FamilyID() [16]byte        { return c.family }
func (c *snpClaims) ImageID() [16]byte         { return c.image }
func (c *snpClaims) GuestPolicy() [8]byte      { return c.guest }
func (c *snpClaims) PlatformInfo() [8]byte     { return c.platform }
func (c *snpClaims) GuestSVN() uint32          { return c.svn }
func (c *snpClaims) VMPL() uint32              { return c.vmpl }
func (c *snpClaims) ChipID() []byte            { return c.chip }
func (c *snpClaims) Debug() bool               { return c.debug }
func (c *snpClaims) MigrationAgent() bool      { return c.migration }
func (c *snpClaims) CollateralChecked() bool   { return !c.unchecked }
func (c *snpClaims) TCBs() (reported, current, committed [4]uint8) {
	return c.reported, c.current, c.committed
}

func genuineSNP() *snpClaims {
	tcb := [4]uint8{4, 0, 22, 213}
	return &snpClaims{
		measurement: [48]byte{1}, idKey: [48]byte{2}, authorKey: [48]byte{3}, hostData: [32]byte{4},
		family: [16]byte{21}, image: [16]byte{22},
		reported: tcb, current: tcb, committed: tcb, svn: 5, chip: bytes.Repeat([]byte{6}, 64),
	}
}

func TestSNPClaimsAreComparedWithThePolicy(t *testing.T) {
	m := func(first ...byte) (l []policy.Measurement) {
		for _, b := range first {
			l = append(l, policy.Measurement{b})
		}
		return l
	}
	chip := policy.ChipID(genuineSNP().chip)
	floor := &policy.SNPTCB{Bootloader: 4, SNP: 22, Microcode: 213}
	type p = *policy.SNPPolicy
	type c = *snpClaims
	nothing := func(p) {}
	for _, tt := range []struct {
		name   string
		policy func(p)
		claims func(c)
		want   policy.Verdict
		claim  string // that is the reason for a verdict below affirming
	}{
		{"reference values", nothing, nil, policy.Affirming, ""},
		{"all claims", func(s p) {
			s.HostData, s.IDKeyDigest, s.AuthorKeyDigest = []policy.HostData{{4}}, m(9, 2), m(3)
			s.FamilyID, s.ImageID = []policy.OwnerID{{1}, {21}}, []policy.OwnerID{{22}}
			s.MinGuestSVN, s.ChipIDs, s.DenyChipIDs = 5, []policy.ChipID{chip}, []policy.ChipID{{1}}
		}, nil, policy.Affirming, ""},
		{"other measurement", func(s p) { s.Measurement = m(9) }, nil, policy.Contraindicated, "measurement"},
		{"no measurement", func(s p) { s.Measurement = nil }, nil, policy.Warning, "measurement"},
		{"other host data", func(s p) { s.HostData = []policy.HostData{{1}} }, nil, policy.Contraindicated, "host_data"},
		{"host data of zeros is a value", func(s p) { s.HostData = []policy.HostData{{}} }, func(s c) { s.hostData = [32]byte{} }, policy.Affirming, ""},
		{"other ID key", func(s p) { s.IDKeyDigest = m(3) }, nil, policy.Contraindicated, "id_key_digest"},
		{"no ID key", func(s p) { s.IDKeyDigest = []policy.Measurement{{}} }, func(s c) { s.idKey = [48]byte{} }, policy.Contraindicated, "id_key_digest"},
		{"other author key", func(s p) { s.AuthorKeyDigest = m(2) }, nil, policy.Contraindicated, "author_key_digest"},
		{"no author key", func(s p) { s.AuthorKeyDigest = []policy.Measurement{{}} }, func(s c) { s.authorKey = [48]byte{} }, policy.Contraindicated, "author_key_digest"},
		{"other family", func(s p) { s.IDKeyDigest, s.FamilyID = m(2), []policy.OwnerID{{22}} }, nil, policy.Contraindicated, "family_id"},
		{"names that anybody may give", func(s p) { s.FamilyID, s.ImageID = []policy.OwnerID{{21}}, []policy.OwnerID{{22}} }, nil, policy.Contraindicated, "id_key_digest"},
		{"other image", func(s p) { s.IDKeyDigest, s.ImageID = m(2), []policy.OwnerID{{21}, {}} }, nil, policy.Contraindicated, "image_id"},
		{"chip of zeros matches none", func(s p) { s.ChipIDs = []policy.ChipID{{}} }, func(s c) { s.chip = make([]byte, 64) }, policy.Contraindicated, "chip_ids"},
		{"chip of zeros may be a denied one", func(s p) { s.DenyChipIDs = []policy.ChipID{{1}} }, func(s c) { s.chip = make([]byte, 64) }, policy.Contraindicated, "deny_chip_ids"},
		{"guest SVN", func(s p) { s.MinGuestSVN = 6 }, nil, policy.Contraindicated, "min_guest_svn"},
		{"no floor", func(s p) { s.MinTCB = nil }, nil, policy.Warning, "min_tcb"},
		{"old bootloader", nothing, func(s c) { s.reported[0]-- }, policy.Contraindicated, "min_tcb"},
		{"floor of zeros", func(s p) { s.MinTCB = &policy.SNPTCB{} }, nil, policy.Warning, "min_tcb"},
		{"old TEE", func(s p) { s.MinTCB = &policy.SNPTCB{TEE: 1} }, nil, policy.Contraindicated, "min_tcb"},
		{"old firmware, new microcode", nothing, func(s c) { s.reported[2]--; s.reported[3]++ }, policy.Contraindicated, "min_tcb"},
		{"old microcode", nothing, func(s c) { s.reported[3]-- }, policy.Contraindicated, "min_tcb"},
		{"new", nothing, func(s c) { s.reported[3]++ }, policy.Affirming, ""},
		{"old microcode is running", nothing, func(s c) { s.current[3]-- }, policy.Contraindicated, "min_tcb"},
		{"host can go back", nothing, func(s c) { s.committed[2]-- }, policy.Contraindicated, "min_tcb"},
		{"bits", func(s p) {
			s.GuestPolicy, s.PlatformInfo = &policy.Bits{Set: policy.BitField{2: 2}, Clear: policy.BitField{2: 1}}, &policy.Bits{Set: policy.BitField{0: 1}}
		}, func(s c) { s.guest[2], s.platform[0] = 2, 3 }, policy.Affirming, ""},
		{"bit of the guest's policy set", func(s p) { s.GuestPolicy = &policy.Bits{Clear: policy.BitField{2: 1}} }, func(s c) { s.guest[2] = 3 }, policy.Contraindicated, "guest_policy"},
		{"bit of the guest's policy clear", func(s p) { s.GuestPolicy = &policy.Bits{Set: policy.BitField{2: 1}} }, nil, policy.Contraindicated, "guest_policy"},
		{"bit of the machine set", func(s p) { s.PlatformInfo = &policy.Bits{Clear: policy.BitField{7: 128}} }, func(s c) { s.platform[7] = 128 }, policy.Contraindicated, "platform_info"},
		{"bit of the machine clear", func(s p) { s.PlatformInfo = &policy.Bits{Set: policy.BitField{0: 32}} }, nil, policy.Contraindicated, "platform_info"},
		{"VMPL", nothing, func(s c) { s.vmpl = 1 }, policy.Contraindicated, "max_vmpl"},
		{"VMPL allowed", func(s p) { s.MaxVMPL = 2 }, func(s c) { s.vmpl = 2 }, policy.Affirming, ""},
		{"VMPL above", func(s p) { s.MaxVMPL = 2 }, func(s c) { s.vmpl = 3 }, policy.Contraindicated, "max_vmpl"},
		{"other chip", func(s p) { s.ChipIDs = []policy.ChipID{{1}} }, nil, policy.Contraindicated, "chip_ids"},
		{"masked chip matches none", func(s p) { s.ChipIDs = []policy.ChipID{{}, chip} }, func(s c) { s.chip = nil }, policy.Contraindicated, "chip_ids"},
		{"denied chip", func(s p) { s.DenyChipIDs = []policy.ChipID{{1}, chip} }, nil, policy.Contraindicated, "deny_chip_ids"},
		{"masked chip may be a denied one", func(s p) { s.DenyChipIDs = []policy.ChipID{{1}} }, func(s c) { s.chip = nil }, policy.Contraindicated, "deny_chip_ids"},
		{"masked chip", nothing, func(s c) { s.chip = nil }, policy.Affirming, ""},
		{"debug", nothing, func(s c) { s.debug = true }, policy.Contraindicated, "debug"},
		{"debug allowed", func(s p) { s.InsecureAllowDebug = true }, func(s c) { s.debug = true }, policy.Warning, "debug"},
		{"migration agent", nothing, func(s c) { s.migration = true }, policy.Contraindicated, "migration_agent"},
		{"migration agent allowed", func(s p) { s.AllowMigrationAgent = true }, func(s c) { s.migration = true }, policy.Warning, "migration_agent"},
		{"no collateral", nothing, func(s c) { s.unchecked = true }, policy.Contraindicated, "collateral"},
		{"no collateral allowed", func(s p) { s.InsecureSkipCollateral = true }, func(s c) { s.unchecked = true }, policy.Warning, "collateral"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &policy.SNPPolicy{Measurement: m(1), MinTCB: floor}
			tt.policy(s)
			claims := genuineSNP()
			if tt.claims != nil {
				tt.claims(claims)
			}
			checkDecision(t, &policy.Policy{SNP: s}, claims, tt.want, tt.claim)
		})
	}
	checkDecision(t, &policy.Policy{SNP: &policy.SNPPolicy{Measurement: []policy.Measurement{}}}, genuineSNP(), policy.Contraindicated, "measurement")
	checkDecision(t, &policy.Policy{TDX: &policy.TDXPolicy{}}, genuineSNP(), policy.Contraindicated, "snp")
	checkDecision(t, nil, genuineSNP(), policy.Warning, "measurement")
	checkDecision(t, nil, genuineSNP(), policy.Warning, "min_tcb")
	for claim, change := range map[string]func(*snpClaims){
		"debug":           func(c *snpClaims) { c.debug = true },
		"migration_agent": func(c *snpClaims) { c.migration = true },
		"collateral":      func(c *snpClaims) { c.unchecked = true },
		"max_vmpl":        func(c *snpClaims) { c.vmpl = 1 },
	} {
		c := genuineSNP()
		change(c)
		checkDecision(t, nil, c, policy.Contraindicated, claim)
	}
}

func checkDecision(t *testing.T, p *policy.Policy, c policy.SNP, want policy.Verdict, claim string) {
	t.Helper()
	d, err := p.EvaluateSNP(c)
	if d.Verdict != want {
		t.Fatalf("verdict %v, want %v: %v", d.Verdict, want, d.Reasons)
	}
	if (want == policy.Contraindicated) != (err != nil) || err != nil && !errors.Is(err, attestext.ErrPolicy) {
		t.Errorf("error is %v", err)
	}
	if err != nil && !strings.Contains(err.Error(), claim+": ") {
		t.Errorf("error %q does not name %s", err, claim)
	}
	checkVector(t, d)
	if claim != "" && !slices.ContainsFunc(d.Reasons, func(r policy.Reason) bool { return r.Claim == claim && r.Verdict == want }) {
		t.Errorf("%s is not among the reasons: %v", claim, d.Reasons)
	}
}

func TestPolicyForTDXRefusesSNPAndTheOtherWayRound(t *testing.T) {
	p, err := policy.Parse([]byte(fullSNP))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.EvaluateTDX(genuine()); !errors.Is(err, attestext.ErrPolicy) {
		t.Error(err)
	}
}

var (
	hex32   = strings.Repeat("cd", 32)
	hex64   = strings.Repeat("ef", 64)
	fullSNP = `{"snp":{"measurement":["` + hex48 + `"],"host_data":["` + hex32 + `"],"id_key_digest":["` + hex48 + `"],"author_key_digest":["` + hex48 +
		`"],"family_id":["` + hex16 + `"],"image_id":["` + hex16 + `"],"min_guest_svn":2,"min_tcb":{"bootloader":4,"tee":0,"snp":22,"microcode":213},"max_collateral_age":"24h0m0s","guest_policy":{"set":"0000020000000000","clear":"0000010000000000"},"platform_info":{"set":"0000000000000000","clear":"0100000000000000"},"max_vmpl":1,"chip_ids":["` + hex64 + `"],"deny_chip_ids":["` + hex64 +
		`"],"allow_migration_agent":true,"insecure_allow_debug":true,"insecure_skip_collateral":true}}`
)

func TestSNPPolicyRoundTrip(t *testing.T) {
	for _, s := range []string{fullSNP, `{"snp":{}}`, `{"tdx":{},"snp":{}}`} {
		p, err := policy.Parse([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(p)
		if err != nil || string(b) != s {
			t.Errorf("got  %s (%v)\nwant %s", b, err, s)
		}
	}
}

func TestSNPPolicyThatIsProbablyAMistakeIsRefused(t *testing.T) {
	zero48, zero64 := strings.Repeat("00", 48), strings.Repeat("00", 64)
	for _, s := range []string{
		`{"snp":null}`, `{"snp":[]}`, `{"snp":{},"SNP":{}}`, `{"tdx":{"mrtd":[]},"snp":{}}`, `{"tdx":{},"snp":{"measurement":[]}}`,
		fullSNP + `{}`,
		`{"snp":{"measurement":[]}}`, `{"snp":{"host_data":[]}}`, `{"snp":{"id_key_digest":[]}}`, `{"snp":{"author_key_digest":[]}}`,
		`{"snp":{"family_id":["` + hex16 + `"]}}`, `{"snp":{"image_id":["` + hex16 + `"]}}`, `{"snp":{"id_key_digest":["` + hex48 + `"],"image_id":[]}}`,
		`{"snp":{"chip_ids":[]}}`, `{"snp":{"deny_chip_ids":[]}}`,
		`{"snp":{"id_key_digest":["` + zero48 + `"]}}`, `{"snp":{"author_key_digest":["` + zero48 + `"]}}`,
		`{"snp":{"chip_ids":["` + zero64 + `"]}}`, `{"snp":{"deny_chip_ids":["` + zero64 + `"]}}`,
		`{"snp":{"measurement":"` + hex48 + `"}}`, `{"snp":{"measurement":["` + hex32 + `"]}}`, `{"snp":{"chip_ids":["` + hex48 + `"]}}`,
		`{"snp":{"max_vmpl":4}}`, `{"snp":{"max_vmpl":-1}}`, `{"snp":{"min_guest_svn":4294967296}}`, `{"snp":{"min_guest_svn":"1"}}`,
		`{"snp":{"min_tcb":{}}}`, `{"snp":{"min_tcb":{"tee":0}}}`, `{"snp":{"min_tcb":{"snp":256}}}`, `{"snp":{"min_tcb":{"ucode":1}}}`, `{"snp":{"min_tcb":null}}`, `{"snp":{"min_tcb":[4,0,22,213]}}`,
		`{"snp":{"mrtd":["` + hex48 + `"]}}`, `{"snp":{"allow_debug":true}}`, `{"snp":{"allow_migration_agent":1}}`,
	} {
		if _, err := policy.Parse([]byte(s)); err == nil {
			t.Errorf("%.80s accepted", s)
		}
	}
	for n := range fullSNP {
		if _, err := policy.Parse([]byte(fullSNP[:n])); err == nil {
			t.Errorf("prefix of %d bytes accepted", n)
		}
	}
}
