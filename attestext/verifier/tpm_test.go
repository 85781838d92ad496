package verifier_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/swtpm/enrolled"
)

// tpmPolicy wants what a TPM has that has measured nothing.
func tpmPolicy(k tpm.EnrolledKey) *policy.Policy {
	zero := make(policy.PCRValue, 32)
	return &policy.Policy{TPM: &policy.TPMPolicy{
		PCRs:  map[string]map[string][]policy.PCRValue{"sha256": {"0": {zero}, "7": {zero}}},
		EKIDs: []policy.EKID{policy.EKID(k.EK)},
	}}
}

func localTPM(k tpm.EnrolledKey) *verifier.Local {
	return &verifier.Local{TPM: &tpm.Trust{Keys: []tpm.EnrolledKey{k}}, Policy: tpmPolicy(k)}
}

func TestTPMQuotesAreAppraised(t *testing.T) {
	a, k := enrolled.Open(t)
	for _, kind := range kinds {
		for _, b := range bindings {
			for _, f := range append(a.Formats(kind), formatAny) {
				c := challenge(kind, b)
				r, err := appraise(localTPM(k), attest(t, a, f, c), expected(c))
				if err != nil {
					t.Fatalf("%v %v %v: %v", kind, b, f, err)
				}
				if r.Verdict() != "affirming" || r.Machine() != "tpm-ek:"+k.EK.String() || r.Claims()["tee"] != "tpm" || r.Claims()["ek_id"] != k.EK.String() {
					t.Errorf("verdict %q, machine %q, claims %v", r.Verdict(), r.Machine(), r.Claims())
				}
				bundle := kind == attestext.AttestationOnly || f == eat.BundleFormat
				if bundle != bytes.Equal(r.Key(), spki(tik)) {
					t.Errorf("key is %x", r.Key())
				}
			}
		}
	}

	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := attest(t, a, tpm.Format, c)
	for _, tt := range []struct {
		name   string
		change func(*verifier.Local)
		class  error
		says   string
	}{
		{"other PCR", func(l *verifier.Local) {
			l.Policy.TPM.PCRs["sha256"]["7"] = []policy.PCRValue{bytes.Repeat([]byte{1}, 32)}
		}, attestext.ErrPolicy, "pcrs sha256 7"},
		{"PCR that is not quoted", func(l *verifier.Local) {
			l.Policy.TPM.PCRs["sha256"]["10"] = []policy.PCRValue{make([]byte, 32)}
		}, attestext.ErrPolicy, "not about it"},
		{"other machine", func(l *verifier.Local) { l.Policy.TPM.EKIDs[0][0] ^= 1 }, attestext.ErrPolicy, "ek_ids"},
		{"denied machine", func(l *verifier.Local) { l.Policy.TPM.DenyEKIDs = l.Policy.TPM.EKIDs }, attestext.ErrPolicy, "deny_ek_ids"},
		{"policy for TDX", func(l *verifier.Local) { l.Policy = &policy.Policy{TDX: &policy.TDXPolicy{}} }, attestext.ErrPolicy, "no section for TPMs"},
		{"nobody is trusted", func(l *verifier.Local) { l.TPM = nil }, attestext.ErrUnavailable, "no attestation key"},
		{"nobody is trusted", func(l *verifier.Local) { l.TPM = &tpm.Trust{} }, attestext.ErrUnavailable, "no attestation key"},
		{"not enrolled", func(l *verifier.Local) { l.TPM.Keys[0].Name[2] ^= 1 }, attestext.ErrSignature, "not enrolled"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := localTPM(tpm.EnrolledKey{Name: bytes.Clone(k.Name), EK: k.EK})
			tt.change(l)
			_, err := appraise(l, ev, c)
			wantClass(t, err, tt.class, tt.says)
		})
	}
	l := localTPM(k)
	l.Policy = nil
	if r, err := appraise(l, ev, c); err != nil || r.Verdict() != "warning" {
		t.Errorf("no policy: %v", err)
	}
	for _, other := range []struct {
		change func(*attestext.Challenge)
		says   string
	}{
		{func(c *attestext.Challenge) { c.Binding = attestext.BindingDraft08 }, "hardened"},
		{func(c *attestext.Challenge) { c.Role = attestext.RoleClient }, "server role"},
		{func(c *attestext.Challenge) { c.Binder = bytes.Repeat([]byte{1}, 64) }, "another session"},
		{func(c *attestext.Challenge) { c.SPKI = spki(otherTIK) }, "another key"},
	} {
		changed := *c
		other.change(&changed)
		_, err := appraise(localTPM(k), ev, &changed)
		wantClass(t, err, attestext.ErrBinding, other.says)
	}
	// Who names a TPM has not said anything about other TEEs.
	for _, quoter := range []attester.Quoter{softtee.NewTDX(nil), softtee.NewSNP(nil)} {
		_, err := appraise(localTPM(k), attest(t, attester.New(quoter), tsm.FormatCBOR, c), c)
		wantClass(t, err, attestext.ErrUnavailable, "no roots")
	}
	// A file of roots may have keys of TPMs beside the roots of TEEs, or alone.
	for _, roots := range [][]byte{k.MarshalPEM(), slices.Concat(softtee.RootsPEM(), k.MarshalPEM())} {
		l := &verifier.Local{Policy: tpmPolicy(k)}
		if err := l.SetRoots(roots); err != nil {
			t.Fatal(err)
		}
		if _, err := appraise(l, ev, c); err != nil {
			t.Error(err)
		}
	}
	if slices.Contains((&verifier.Local{}).Formats(attestext.CertAttestation), tpm.Format) {
		t.Error("quotes are asked for where no TPM is trusted")
	}
}

func TestTPMRootsFileIsReadStrictly(t *testing.T) {
	for _, bad := range []string{
		"-----BEGIN TPM ENROLLED KEY-----\nAAAA\n-----END TPM ENROLLED KEY-----\n",
		"-----BEGIN TPM AK ROOT CERTIFICATE-----\nAAAA\n-----END TPM AK ROOT CERTIFICATE-----\n",
	} {
		if err := new(verifier.Local).SetRoots([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestBadTPMEvidenceIsRefused(t *testing.T) {
	enrolled.Check(t, bindings, func(k tpm.EnrolledKey) attestext.Verifier { return localTPM(k) })
}

func TestHandshakeCarriesTPMQuotes(t *testing.T) {
	a, k := enrolled.Open(t)
	zero := hex.EncodeToString(make([]byte, 32))
	for _, role := range roles {
		for _, kind := range kinds {
			for _, b := range bindings {
				d := &direction{role, kind, b, a, localTPM(k)}
				t.Run(d.String(), func(t *testing.T) {
					c := attested(t, d)
					if c.clientErr != nil || c.serverErr != nil {
						t.Fatalf("client: %v; server: %v", c.clientErr, c.serverErr)
					}
					relying, _ := c.end(peerOf(role))
					r := relying.ConnectionState().PeerAttestation
					if r.Verdict() != "affirming" || r.Machine() != "tpm-ek:"+k.EK.String() || r.Challenge().Role != role {
						t.Errorf("verdict %q, machine %q", r.Verdict(), r.Machine())
					}
					if pcrs := fmt.Sprint(r.Claims()["pcrs"]); !strings.Contains(pcrs, "7:"+zero) {
						t.Errorf("PCRs %s", pcrs)
					}
				})
			}
		}
	}
	l := localTPM(k)
	l.Policy.TPM.PCRs["sha256"]["0"] = []policy.PCRValue{bytes.Repeat([]byte{1}, 32)}
	c := attested(t, &direction{attestext.RoleServer, attestext.CertAttestation, attestext.BindingHardened, a, l})
	wantClass(t, c.clientErr, attestext.ErrPolicy, "pcrs sha256 0")
	if c.serverErr == nil || !strings.Contains(c.serverErr.Error(), "access denied") {
		t.Errorf("the server sees %v", c.serverErr)
	}
}
