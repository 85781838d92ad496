package verifier_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/internal/softtarget"
)

func localSNP(t testing.TB) *verifier.Local { return softtarget.LocalSNP(t, nil) }

// localBoth appraises both TEEs.
func localBoth(t testing.TB) *verifier.Local {
	l, snp := local(t), localSNP(t)
	l.SNPRoots, l.SNPCollateral, l.Policy.SNP = snp.SNPRoots, snp.SNPCollateral, snp.Policy.SNP
	return l
}

func TestSNPEvidenceOfEachFormatKindAndBindingIsAccepted(t *testing.T) {
	for name, v := range map[string]*verifier.Local{"SNP": localSNP(t), "both": localBoth(t)} {
		for _, vlek := range []bool{false, true} {
			a := softtee.NewSNP(&softtee.SNPOptions{VLEK: vlek}).Attester()
			for _, kind := range []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly} {
				for _, binding := range []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08} {
					for _, f := range append(a.Formats(kind), formatAny) {
						c := challenge(kind, binding)
						r, err := appraise(v, attest(t, a, f, c), expected(c))
						if err != nil {
							t.Fatalf("%s, %v %v %v: %v", name, kind, binding, f, err)
						}
						if r.Verdict() != "affirming" || !strings.HasPrefix(r.Machine(), "snp-chip:") || len(r.Machine()) != len("snp-chip:")+128 || r.Claims()["tee"] != "snp" {
							t.Errorf("verdict %q, machine %q, claims %v", r.Verdict(), r.Machine(), r.Claims())
						}
						bundle := kind == attestext.AttestationOnly || f == eat.BundleFormat
						if bundle != bytes.Equal(r.Key(), spki(tik)) {
							t.Errorf("key is %x", r.Key())
						}
					}
				}
			}
		}
	}
}

// The bits that a policy compares are those that were signed.
func TestPolicyComparesBitsOfTheSNPReport(t *testing.T) {
	a := softtee.NewSNP(&softtee.SNPOptions{Modify: func(r *sevsnp.Report) { r.Policy, r.PlatformInfo = 1<<17|1<<20, 1<<1 }}).Attester()
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := attest(t, a, tsm.FormatCBOR, c)
	for _, tt := range []struct {
		say             string
		guest, platform policy.Bits
	}{
		{"", policy.Bits{Set: policy.BitField{2: 0x12}, Clear: policy.BitField{2: 1}}, policy.Bits{Set: policy.BitField{0: 2}, Clear: policy.BitField{0: 1}}},
		{"guest_policy", policy.Bits{Set: policy.BitField{2: 1}}, policy.Bits{Set: policy.BitField{0: 2}}},
		{"platform_info", policy.Bits{Set: policy.BitField{2: 2}}, policy.Bits{Clear: policy.BitField{0: 2}}},
	} {
		v := localSNP(t)
		v.Policy.SNP.GuestPolicy, v.Policy.SNP.PlatformInfo = &tt.guest, &tt.platform
		switch _, err := appraise(v, ev, expected(c)); {
		case tt.say == "" && err != nil:
			t.Error(err)
		case tt.say != "" && (!errors.Is(err, attestext.ErrPolicy) || !strings.Contains(err.Error(), tt.say)):
			t.Errorf("%s: %v", tt.say, err)
		}
	}
}

func TestSNPEvidenceNotBoundToThisHandshakeIsRefused(t *testing.T) {
	made := challenge(attestext.CertAttestation, attestext.BindingDraft08)
	_, err := appraise(localSNP(t), attest(t, softtee.NewSNP(nil).Attester(), tsm.FormatCBOR, made), challenge(attestext.CertAttestation, attestext.BindingHardened))
	wantClass(t, err, attestext.ErrBinding, "draft-08")
	made = challenge(attestext.AttestationOnly, attestext.BindingHardened)
	made.Binder = bytes.Repeat([]byte{1}, 64)
	_, err = appraise(localSNP(t), attest(t, softtee.NewSNP(nil).Attester(), eat.BundleFormat, made), expected(challenge(attestext.AttestationOnly, attestext.BindingHardened)))
	wantClass(t, err, attestext.ErrBinding, "another session")
}

func TestGenuineSNPEvidenceIsSubjectToPolicy(t *testing.T) {
	revoked, err := softtee.NewSNP(nil).Collateral(&softtee.SNPCollateralOptions{Now: testTime, RevokeASK: true})
	if err != nil {
		t.Fatal(err)
	}
	crl, err := softtee.NewSNP(nil).CRL(&softtee.SNPCollateralOptions{Now: testTime})
	if err != nil {
		t.Fatal(err)
	}
	chip := policy.ChipID{}
	same := func(*verifier.Local) {}
	without := func(l *verifier.Local) { l.Policy = nil }
	for _, c := range []struct {
		name    string
		tee     *softtee.SNPOptions
		change  func(*verifier.Local)
		class   error
		verdict string
	}{
		{"reference values", nil, same, nil, "affirming"},
		{"no policy", nil, without, nil, "warning"},
		{"debug", &softtee.SNPOptions{Debug: true}, same, attestext.ErrPolicy, ""},
		{"debug, no policy", &softtee.SNPOptions{Debug: true}, without, attestext.ErrPolicy, ""},
		{"debug allowed", &softtee.SNPOptions{Debug: true}, func(l *verifier.Local) { l.Policy.SNP.InsecureAllowDebug = true }, nil, "warning"},
		{"migration agent", &softtee.SNPOptions{MigrationAgent: true}, same, attestext.ErrPolicy, ""},
		{"VMPL", &softtee.SNPOptions{VMPL: 1}, same, attestext.ErrPolicy, ""},
		{"other image", &softtee.SNPOptions{Modify: func(r *sevsnp.Report) { r.Measurement[0] ^= 1 }}, same, attestext.ErrPolicy, ""},
		{"no ID block", &softtee.SNPOptions{Modify: func(r *sevsnp.Report) { r.IDKeyDigest = [48]byte{} }}, same, attestext.ErrPolicy, ""},
		{"author key that is not enabled", &softtee.SNPOptions{Modify: func(r *sevsnp.Report) { r.AuthorKeyEnabled = false }}, same, attestext.ErrPolicy, ""},
		{"old firmware can come back", &softtee.SNPOptions{Modify: func(r *sevsnp.Report) { r.CommittedTCB.SNP-- }}, same, attestext.ErrPolicy, ""},
		{"policy for TDX", nil, func(l *verifier.Local) { l.Policy = &policy.Policy{TDX: &policy.TDXPolicy{}} }, attestext.ErrPolicy, ""},
		{"masked chip", &softtee.SNPOptions{MaskChipID: true}, func(l *verifier.Local) { l.Policy.SNP.ChipIDs = []policy.ChipID{chip} }, attestext.ErrPolicy, ""},
		{"no collateral", nil, func(l *verifier.Local) { l.SNPCollateral = nil }, attestext.ErrUnavailable, ""},
		{"no collateral, no policy", nil, func(l *verifier.Local) { l.SNPCollateral, l.Policy = nil, nil }, attestext.ErrUnavailable, ""},
		{"collateral skipped", nil, func(l *verifier.Local) { l.SNPCollateral = nil; l.Policy.SNP.InsecureSkipCollateral = true }, nil, "warning"},
		{"collateral of the other TEE skipped", nil, func(l *verifier.Local) {
			l.SNPCollateral, l.Policy.TDX = nil, &policy.TDXPolicy{InsecureSkipCollateral: true}
		}, attestext.ErrUnavailable, ""},
		{"stapled list", &softtee.SNPOptions{StapledCRL: crl}, func(l *verifier.Local) { l.SNPCollateral = nil }, nil, "affirming"},
		{"revoked", nil, func(l *verifier.Local) { l.SNPCollateral = revoked }, attestext.ErrSignature, ""},
		{"no certificates", &softtee.SNPOptions{NoCertificates: true}, same, attestext.ErrUnavailable, ""},
		{"other PKI", &softtee.SNPOptions{Seed: "other"}, same, attestext.ErrSignature, ""},
		{"AMD's roots", nil, func(l *verifier.Local) { l.SNPRoots = nil }, attestext.ErrSignature, ""},
		{"empty roots", nil, func(l *verifier.Local) { l.SNPRoots = &sevsnp.Roots{} }, attestext.ErrUnavailable, ""},
		{"tampered", &softtee.SNPOptions{Tamper: func(b []byte) []byte { b[0x90] ^= 1; return b }}, same, attestext.ErrSignature, ""},
		{"cut", &softtee.SNPOptions{Tamper: func(b []byte) []byte { return b[:1000] }}, same, attestext.ErrMalformed, ""},
		{"zero verifier", nil, func(l *verifier.Local) { *l = verifier.Local{} }, attestext.ErrUnavailable, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := localSNP(t)
			c.change(l)
			checkVerdict(t, l, softtee.NewSNP(c.tee).Attester(), c.class, c.verdict)
		})
	}
}

func TestMaskedChipIsNoMachine(t *testing.T) {
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	r, err := appraise(localSNP(t), attest(t, softtee.NewSNP(&softtee.SNPOptions{MaskChipID: true}).Attester(), tsm.FormatCBOR, c), c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Machine() != "" {
		t.Errorf("machine %q", r.Machine())
	}
}

// Who names the roots of one TEE has not said anything about the other.
func TestRootsForOneTEEDoNotTrustTheOther(t *testing.T) {
	raw, err := os.ReadFile("../sevsnp/testdata/amd_milan.report")
	if err != nil {
		t.Fatal(err)
	}
	der, err := os.ReadFile("../sevsnp/testdata/amd_milan.vcek.der")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	genuine := &tsm.Report{Provider: tsm.ProviderSNP, OutBlob: raw, AuxBlob: (&sevsnp.Certificates{VCEK: cert}).Marshal()}
	l := &verifier.Local{
		Policy: &policy.Policy{SNP: &policy.SNPPolicy{InsecureSkipCollateral: true}, TDX: &policy.TDXPolicy{InsecureSkipCollateral: true}},
		Now:    func() time.Time { return time.Date(2023, 7, 1, 0, 0, 0, 0, time.UTC) },
	}
	if _, err := l.Verify(genuine); err != nil {
		t.Fatal(err)
	}
	l.TDXRoots = softtee.Roots()
	_, err = l.Verify(genuine)
	wantClass(t, err, attestext.ErrUnavailable, "no roots for SEV-SNP")
	if err := l.SetRoots(softtee.RootsPEM()); err != nil {
		t.Fatal(err)
	}
	_, err = l.Verify(genuine)
	wantClass(t, err, attestext.ErrUnavailable, "no trusted roots")

	quote, err := os.ReadFile("../tdx/testdata/intel_spr_e4.quote")
	if err != nil {
		t.Fatal(err)
	}
	intel := &tsm.Report{Provider: tsm.ProviderTDX, OutBlob: quote}
	l.TDXRoots, l.SNPRoots = nil, nil
	if _, err := l.Verify(intel); err != nil {
		t.Fatal(err)
	}
	l.SNPRoots = softtee.SNPRoots()
	_, err = l.Verify(intel)
	wantClass(t, err, attestext.ErrUnavailable, "no roots for TDX")
	if err := l.SetRoots(softtee.SNPRootsPEM()); err != nil {
		t.Fatal(err)
	}
	_, err = l.Verify(intel)
	wantClass(t, err, attestext.ErrUnavailable, "pool of trusted roots is empty")
}

func TestOneFileHoldsTheRootsOrTheCollateralOfBothTEEs(t *testing.T) {
	both := localBoth(t)
	file, err := verifier.JoinCollateral(both.TDXCollateral, both.SNPCollateral)
	if err != nil {
		t.Fatal(err)
	}
	l := &verifier.Local{Policy: both.Policy, Now: both.Now}
	if err := l.SetCollateral(file); err != nil {
		t.Fatal(err)
	}
	if err := l.SetRoots(append(softtee.RootsPEM(), softtee.SNPRootsPEM()...)); err != nil {
		t.Fatal(err)
	}
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	for _, a := range []attestext.Attester{softtee.NewTDX(nil).Attester(), softtee.NewSNP(nil).Attester()} {
		if r, err := appraise(l, attest(t, a, tsm.FormatCBOR, c), c); err != nil || r.Verdict() != "affirming" {
			t.Error(err)
		}
	}
	for _, one := range []*verifier.Local{local(t), localSNP(t)} {
		file, err := verifier.JoinCollateral(one.TDXCollateral, one.SNPCollateral)
		if err != nil {
			t.Fatal(err)
		}
		l := new(verifier.Local)
		if err := l.SetCollateral(file); err != nil {
			t.Fatal(err)
		}
		if (l.TDXCollateral != nil) != (one.TDXCollateral != nil) || (l.SNPCollateral != nil) != (one.SNPCollateral != nil) {
			t.Error("other parts than were written")
		}
	}
	for _, bad := range []string{``, `{}`, `null`, `[]`, `{"snp":{}}`, `{"snp":null}`, `{"snp":"x"}`, `{"SNP":{}}`, string(file) + `{}`,
		strings.Replace(string(file), "{", `{"surprise":"",`, 1), strings.Replace(string(file), "{", `{"Snp":{},`, 1)} {
		if err := new(verifier.Local).SetCollateral([]byte(bad)); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%.30q: %v", bad, err)
		}
	}
	for _, bad := range []string{``, `x`, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if err := new(verifier.Local).SetRoots([]byte(bad)); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}

func TestEveryStrictPrefixOfASNPWrapperIsRefused(t *testing.T) {
	l := localSNP(t)
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := attest(t, softtee.NewSNP(nil).Attester(), formatAny, c)
	for n := 0; n < len(ev.CMW); n += 3 {
		_, err := l.Appraise(context.Background(), &attestext.Evidence{Type: ev.Type, CMW: ev.CMW[:n]}, c)
		if !errors.Is(err, attestext.ErrMalformed) {
			t.Fatalf("%d of %d bytes: %v", n, len(ev.CMW), err)
		}
	}
}

func FuzzAppraiseSNP(f *testing.F) {
	a := softtee.NewSNP(nil).Attester()
	cert, only := challenge(attestext.CertAttestation, attestext.BindingHardened), challenge(attestext.AttestationOnly, attestext.BindingHardened)
	for _, c := range []*attestext.Challenge{cert, only} {
		for _, format := range a.Formats(c.Kind) {
			f.Add(attest(f, a, format, c).CMW)
		}
	}
	l := localBoth(f)
	m := softtee.SNPMeasurement()
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		for _, c := range []*attestext.Challenge{cert, expected(only)} {
			ev := &attestext.Evidence{Type: attestext.EvidenceType{Kind: c.Kind, Format: formatAny}, CMW: b}
			got, err := l.Appraise(context.Background(), ev, c)
			if err == nil && (len(got.Key) != 0 && !bytes.Equal(got.Key, spki(tik)) || got.Claims["measurement"] != hex.EncodeToString(m[:])) {
				t.Fatal("forged evidence accepted")
			}
		}
	})
}

func BenchmarkAppraiseSNP(b *testing.B) {
	l, a := localSNP(b), softtee.NewSNP(nil).Attester()
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := attest(b, a, tsm.FormatCBOR, c)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Appraise(context.Background(), ev, c); err != nil {
			b.Fatal(err)
		}
	}
}
