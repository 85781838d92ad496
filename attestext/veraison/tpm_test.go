package veraison_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/attestext/veraison"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/swtpm/enrolled"
)

var (
	tpmFormats  = []attestext.EvidenceFormat{tpm.Format, eat.BundleFormat}
	tpmBindings = []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08}
)

// localTPM trusts k, in a TPM that has measured nothing.
func localTPM(k tpm.EnrolledKey) *verifier.Local {
	return &verifier.Local{
		TPM: &tpm.Trust{Keys: []tpm.EnrolledKey{k}}, Now: now,
		Policy: &policy.Policy{TPM: &policy.TPMPolicy{
			PCRs:  map[string]map[string][]policy.PCRValue{"sha256": {"7": {make(policy.PCRValue, 32)}}},
			EKIDs: []policy.EKID{policy.EKID(k.EK)},
		}},
	}
}

func TestClientAndServiceAppraiseTPMQuotes(t *testing.T) {
	a, k := enrolled.Open(t)
	var asked int
	behind := func(v attestext.Verifier) *veraison.Client {
		s := service(t, v, veraison.ServiceOptions{})
		return client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			s.ServeHTTP(w, r)
		}), veraison.ClientOptions{Formats: tpmFormats})
	}
	c := behind(localTPM(k))
	made := func(f attestext.EvidenceFormat, ch *attestext.Challenge) *attestext.Evidence {
		typ := attestext.EvidenceType{Kind: ch.Kind, Format: f}
		return &attestext.Evidence{Type: typ, CMW: must(a.Attest(t.Context(), &attestext.AttestRequest{Type: typ, Challenge: ch}))}
	}
	for _, kind := range []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly} {
		formats := c.Formats(kind)
		if slices.ContainsFunc(formats, tpm.Format.Equal) != (kind == attestext.CertAttestation) {
			t.Errorf("%v: formats %v", kind, formats)
		}
		for _, b := range tpmBindings {
			for _, f := range formats {
				ch := challenge(kind, b)
				ev := made(f, ch)
				expected := *ch
				if kind == attestext.AttestationOnly {
					expected.SPKI = nil // known from the evidence
				}
				undated := b == attestext.BindingDraft08 && f.Equal(eat.BundleFormat)
				want := map[bool]string{false: "affirming", true: "warning"}[undated]
				r, err := attestext.Appraise(t.Context(), time.Minute, agedClient(t, localTPM(k), undated), ev, &expected)
				if err != nil {
					t.Errorf("%v %v %v: %v", kind, b, f, err)
					continue
				}
				if r.Verdict() != want || bytes.Equal(r.Key(), spki(tlsKey)) != (f == eat.BundleFormat) {
					t.Errorf("%v %v %v: verdict %s, key %x", kind, b, f, r.Verdict(), r.Key())
				}
			}
		}
	}

	// What this end can tell is not sent.
	ch := challenge(attestext.CertAttestation, attestext.BindingHardened)
	for _, tt := range []struct {
		name   string
		change func(*attestext.Challenge)
		format attestext.EvidenceFormat
	}{
		{"session", func(c *attestext.Challenge) { c.Binder = bytes.Repeat([]byte{1}, 32) }, tpm.Format},
		{"session", func(c *attestext.Challenge) { c.Binder = bytes.Repeat([]byte{1}, 32) }, eat.BundleFormat},
		{"key", func(c *attestext.Challenge) { c.SPKI = spki(otherKey) }, tpm.Format},
		{"key", func(c *attestext.Challenge) { c.SPKI = spki(otherKey) }, eat.BundleFormat},
		{"rule", func(c *attestext.Challenge) { c.Binding = attestext.BindingDraft08 }, tpm.Format},
		{"role", func(c *attestext.Challenge) { c.Role = attestext.RoleClient }, tpm.Format},
	} {
		other := *ch
		tt.change(&other)
		asked = 0
		if _, err := c.Appraise(t.Context(), made(tt.format, ch), &other); attestext.Class(err) != attestext.ErrBinding || asked != 0 {
			t.Errorf("%v of another %s: %v, after %d requests", tt.format, tt.name, err, asked)
		}
	}

	for _, tt := range []struct {
		name   string
		change func(*verifier.Local)
		class  error
		says   string
	}{
		{"other PCR", func(l *verifier.Local) { l.Policy.TPM.PCRs["sha256"]["7"][0][0] = 1 }, attestext.ErrPolicy, "contraindicated"},
		{"denied", func(l *verifier.Local) { l.Policy.TPM.DenyEKIDs = l.Policy.TPM.EKIDs }, attestext.ErrPolicy, "contraindicated"},
		{"not enrolled", func(l *verifier.Local) { l.TPM.Keys[0].Name = append(k.Name[:len(k.Name)-1:len(k.Name)-1], 0) }, attestext.ErrSignature, "not genuine"},
		{"trusts no TPM", func(l *verifier.Local) { l.TPM = nil }, attestext.ErrUnavailable, "does not take"},
	} {
		l := localTPM(k)
		tt.change(l)
		_, err := behind(l).Appraise(t.Context(), made(tpm.Format, ch), ch)
		if attestext.Class(err) != tt.class || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}

	// The service compares the nonce by itself.
	h := service(t, localTPM(k), veraison.ServiceOptions{})
	rd := must(ch.ReportData())
	for nonce, want := range map[string]ear.Tier{
		nonceText(rd[:]): ear.Affirming, nonceText(make([]byte, 64)): ear.Contraindicated, nonceText(ch.Binder): ear.Contraindicated,
	} {
		w := request(h, "POST", open(t, h, "?nonce="+nonce), tpm.MediaType, inner(t, made(tpm.Format, ch)))
		claims, err := ear.ParseUnverified([]byte(field(t, w, `"result":"`)))
		if err != nil || claims.Tier() != want {
			t.Errorf("nonce %s: %v, %v", nonce, claims, err)
		}
	}
}

var nonceText = base64.URLEncoding.EncodeToString

func TestClientAndServiceRefuseAllBadTPMEvidence(t *testing.T) {
	for _, rule := range tpmBindings {
		enrolled.Check(t, []attestext.Binding{rule}, func(k tpm.EnrolledKey) attestext.Verifier {
			return agedClient(t, localTPM(k), rule == attestext.BindingDraft08)
		})
	}
}
