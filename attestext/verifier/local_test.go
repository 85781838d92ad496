package verifier_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/internal/softtarget"
	"github.com/attestedtls/atls/internal/testpki"
)

var (
	testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	nonce    = bytes.Repeat([]byte{0xa5}, 64)
	binder   = bytes.Repeat([]byte{0x5a}, 64)
	tik      = key("TLS identity key")
	otherTIK = key("another TLS identity key")

	formatConfigfs = attestext.EvidenceFormat{MediaType: tsm.MediaTypeConfigfsJSON}
	formatAny      = attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatCMWCBOR}
)

var key, spki = testpki.Key, testpki.SPKI

func local(t testing.TB) *verifier.Local { return softtarget.LocalTDX(t, nil) }

// challenge is that of a server that attests, as both ends derive it.
func challenge(kind attestext.CredentialKind, binding attestext.Binding) *attestext.Challenge {
	return &attestext.Challenge{
		Role: attestext.RoleServer, Binding: binding, Kind: kind,
		Nonce: nonce, Binder: binder, SPKI: spki(tik),
	}
}

// expected is what the relying party makes of the attester's challenge: without
// the key, if that comes out of the evidence.
func expected(c *attestext.Challenge) *attestext.Challenge {
	e := *c
	if e.Kind == attestext.AttestationOnly {
		e.SPKI = nil
	}
	return &e
}

func attest(t testing.TB, a attestext.Attester, f attestext.EvidenceFormat, c *attestext.Challenge) *attestext.Evidence {
	t.Helper()
	typ := attestext.EvidenceType{Kind: c.Kind, Format: f}
	b, err := attestext.Attest(context.Background(), time.Minute, a, &attestext.AttestRequest{Type: typ, Challenge: c})
	if err != nil {
		t.Fatal(err)
	}
	return &attestext.Evidence{Type: typ, CMW: b}
}

func appraise(v attestext.Verifier, ev *attestext.Evidence, c *attestext.Challenge) (*attestext.Result, error) {
	return attestext.Appraise(context.Background(), time.Minute, v, ev, c)
}

func wantClass(t testing.TB, err, class error, say string) {
	t.Helper()
	if attestext.Class(err) != class || !errors.Is(err, class) {
		t.Fatalf("got error %v, want class %v", err, class)
	}
	if !strings.Contains(err.Error(), say) {
		t.Fatalf("error %q does not say %q", err, say)
	}
}

// TestEvidenceOfEachFormatKindAndBindingIsAccepted: what is accepted is a conceptual
// message wrapper, in CBOR or JSON.
//
// Requirements: 4-1.
func TestEvidenceOfEachFormatKindAndBindingIsAccepted(t *testing.T) {
	v, a := local(t), softtee.NewTDX(nil).Attester()
	for _, kind := range []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly} {
		for _, binding := range []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08} {
			for _, f := range append(a.Formats(kind), formatAny) {
				t.Run(kind.String()+" "+binding.String()+" "+f.String(), func(t *testing.T) {
					c := challenge(kind, binding)
					r, err := appraise(v, attest(t, a, f, c), expected(c))
					if err != nil {
						t.Fatal(err)
					}
					if r.Verdict() != "affirming" || !strings.HasPrefix(r.Machine(), "tdx-platform:") {
						t.Errorf("verdict %q, machine %q, claims %v", r.Verdict(), r.Machine(), r.Claims())
					}
					if shape, _ := r.Claims()["ear"].(map[string]any); shape["ear.status"] != "affirming" || r.Vector()["hardware"] != 2 || r.Vector()["executables"] != 2 {
						t.Errorf("vector %v, ear %v", r.Vector(), shape)
					}
					bundle := kind == attestext.AttestationOnly || f == eat.BundleFormat
					if bundle != bytes.Equal(r.Key(), spki(tik)) || !bundle && r.Key() != nil {
						t.Errorf("key is %x", r.Key())
					}
				})
			}
		}
	}
}

func TestReportUnderItsOlderNameIsAccepted(t *testing.T) {
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	rd, err := c.ReportData()
	if err != nil {
		t.Fatal(err)
	}
	report, err := softtee.NewTDX(nil).Report(context.Background(), rd)
	if err != nil {
		t.Fatal(err)
	}
	value, err := report.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, encode := range []func(*cmw.Record) ([]byte, error){(*cmw.Record).CBOR, (*cmw.Record).JSON} {
		b, err := encode(&cmw.Record{Format: formatConfigfs, Value: value})
		if err != nil {
			t.Fatal(err)
		}
		ev := &attestext.Evidence{Type: attestext.EvidenceType{Kind: c.Kind, Format: formatConfigfs}, CMW: b}
		if _, err := appraise(local(t), ev, c); err != nil {
			t.Error(err)
		}
	}
}

// Each row has the attester work to one challenge and the relying party to another.
func TestEvidenceNotBoundToThisHandshakeIsRefused(t *testing.T) {
	const (
		cert = attestext.CertAttestation
		only = attestext.AttestationOnly
		hard = attestext.BindingHardened
		d08  = attestext.BindingDraft08
	)
	for _, c := range []struct {
		name         string
		kind         attestext.CredentialKind
		format       attestext.EvidenceFormat
		made, wanted attestext.Binding
		change       func(made *attestext.Challenge)
		say          string
	}{
		{"draft-08 to hardened", cert, tsm.FormatCBOR, d08, hard, nil, "evidence follows the draft-08 rule, this side is configured for hardened"},
		{"hardened to draft-08", cert, tsm.FormatCBOR, hard, d08, nil, "evidence follows the hardened rule, this side is configured for draft-08"},
		{"other role", cert, tsm.FormatCBOR, hard, hard, func(c *attestext.Challenge) { c.Role = attestext.RoleClient }, "evidence was made for the client role"},
		{"other role and rule", cert, tsm.FormatCBOR, hard, d08, func(c *attestext.Challenge) { c.Role = attestext.RoleClient }, "made for the client role under the hardened rule"},
		{"nonce for binder", cert, tsm.FormatCBOR, d08, hard, func(c *attestext.Challenge) { c.Binder = c.Nonce }, "covers the nonce"},
		{"other binder", cert, tsm.FormatCBOR, hard, hard, func(c *attestext.Challenge) { c.Binder = bytes.Repeat([]byte{1}, 64) }, "another session or another key"},
		{"other binder, draft-08", cert, tsm.FormatCBOR, d08, d08, func(c *attestext.Challenge) { c.Binder = bytes.Repeat([]byte{1}, 64) }, "another session or another key"},
		{"one bit of the binder", cert, tsm.FormatCBOR, d08, d08, func(c *attestext.Challenge) { c.Binder = bytes.Clone(c.Binder); c.Binder[63] ^= 1 }, "another session or another key"},
		{"other key", cert, tsm.FormatCBOR, hard, hard, func(c *attestext.Challenge) { c.SPKI = spki(otherTIK) }, "another session or another key"},
		{"zero binder", cert, tsm.FormatCBOR, d08, hard, func(c *attestext.Challenge) { c.Binder = make([]byte, 64) }, "report data is zero"},

		{"bundle, other binder", cert, eat.BundleFormat, hard, hard, func(c *attestext.Challenge) { c.Binder = bytes.Repeat([]byte{1}, 64) }, "another session"},
		{"bundle, other key", cert, eat.BundleFormat, hard, hard, func(c *attestext.Challenge) { c.SPKI = spki(otherTIK) }, "another key than the peer's certificate"},
		{"bundle, other key, draft-08", cert, eat.BundleFormat, d08, d08, func(c *attestext.Challenge) { c.SPKI = spki(otherTIK) }, "another key than the peer's certificate"},
		{"attestation-only, other binder", only, eat.BundleFormat, hard, hard, func(c *attestext.Challenge) { c.Binder = bytes.Repeat([]byte{1}, 64) }, "another session"},
		{"attestation-only, other nonce", only, eat.BundleFormat, d08, d08, func(c *attestext.Challenge) { c.Nonce = bytes.Repeat([]byte{1}, 64) }, "another session"},
		{"attestation-only, draft-08 to hardened", only, eat.BundleFormat, d08, hard, nil, "key attestation follows the draft-08 rule"},
		{"attestation-only, hardened to draft-08", only, eat.BundleFormat, hard, d08, nil, "key attestation follows the hardened rule"},
	} {
		t.Run(c.name, func(t *testing.T) {
			made := challenge(c.kind, c.made)
			if c.change != nil {
				c.change(made)
			}
			ev := attest(t, softtee.NewTDX(nil).Attester(), c.format, made)
			_, err := appraise(local(t), ev, expected(challenge(c.kind, c.wanted)))
			wantClass(t, err, attestext.ErrBinding, c.say)
		})
	}
}

func TestDraft08ChallengeShorterThanReportDataIsPaddedWithZeros(t *testing.T) {
	c := challenge(attestext.CertAttestation, attestext.BindingDraft08)
	c.Nonce, c.Binder = nonce[:32], binder[:32]
	a := softtee.NewTDX(nil).Attester()
	if _, err := appraise(local(t), attest(t, a, tsm.FormatCBOR, c), c); err != nil {
		t.Error(err)
	}
	// The longer challenge begins with the shorter one and is another.
	long := challenge(attestext.CertAttestation, attestext.BindingDraft08)
	_, err := appraise(local(t), attest(t, a, tsm.FormatCBOR, long), c)
	wantClass(t, err, attestext.ErrBinding, "")
}

// A genuine quote by one key attestation key does not vouch for another.
func TestBundlePutTogetherFromTwoAttestersIsRefused(t *testing.T) {
	c := challenge(attestext.AttestationOnly, attestext.BindingHardened)
	tee := softtee.NewTDX(nil)
	kat, _, err := eat.ParseBundle(attest(t, tee.Attester(), eat.BundleFormat, c).CMW)
	if err != nil {
		t.Fatal(err)
	}
	_, pat, err := eat.ParseBundle(attest(t, tee.Attester(), eat.BundleFormat, c).CMW)
	if err != nil {
		t.Fatal(err)
	}
	b, err := eat.EncodeBundle(kat, pat)
	if err != nil {
		t.Fatal(err)
	}
	_, err = appraise(local(t), &attestext.Evidence{Type: attestext.EvidenceType{Format: eat.BundleFormat}, CMW: b}, expected(c))
	wantClass(t, err, attestext.ErrBinding, "does not cover the key")
}

func TestReportWithoutBundleIsRefusedAsAttestationOnly(t *testing.T) {
	c := challenge(attestext.CertAttestation, attestext.BindingDraft08)
	c.Binder = c.Nonce
	ev := attest(t, softtee.NewTDX(nil).Attester(), tsm.FormatCBOR, c)
	ev.Type.Kind = attestext.AttestationOnly
	_, err := appraise(local(t), ev, expected(challenge(attestext.AttestationOnly, attestext.BindingDraft08)))
	wantClass(t, err, attestext.ErrWrongType, "names no TLS key")
}

func TestEvidenceOfATypeThatWasNotSelectedIsRefused(t *testing.T) {
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	for _, f := range []struct{ made, selected attestext.EvidenceFormat }{
		{tsm.FormatCBOR, tsm.FormatJSON},
		{tsm.FormatJSON, tsm.FormatCBOR},
		{eat.BundleFormat, tsm.FormatCBOR},
		{tsm.FormatCBOR, eat.BundleFormat},
	} {
		ev := attest(t, softtee.NewTDX(nil).Attester(), f.made, c)
		ev.Type.Format = f.selected
		_, err := appraise(local(t), ev, c)
		wantClass(t, err, attestext.ErrWrongType, "")
	}
}

func TestQuoteOfAnotherProviderOrKindIsRefused(t *testing.T) {
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	value, err := (&tsm.Report{Provider: "arm_cca_guest", OutBlob: []byte{1}}).CBOR()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*cmw.Record{
		{Format: tsm.FormatCBOR, Value: value},
		{Format: attestext.EvidenceFormat{MediaType: "application/eat-ucs+cbor"}, Value: []byte{1}}, // nobody signed it
		{Format: tsm.FormatCBOR, Value: value, Ind: cmw.AttestationResults},
	} {
		b, err := r.CBOR()
		if err != nil {
			t.Fatal(err)
		}
		_, err = appraise(local(t), &attestext.Evidence{Type: attestext.EvidenceType{Kind: c.Kind, Format: formatAny}, CMW: b}, c)
		wantClass(t, err, attestext.ErrWrongType, "")
	}
	passport := *c
	passport.Model, passport.Nonce, passport.Binder = attestext.Passport, nil, nil
	ev := attest(t, softtee.NewTDX(nil).Attester(), tsm.FormatCBOR, c)
	ev.Verifier = "verifier.example"
	_, err = appraise(local(t), ev, &passport)
	wantClass(t, err, attestext.ErrWrongType, "passport")
}

// checkVerdict has l appraise what a makes, beside a certificate and in place of one, and
// wants an error of that class or, if it is nil, that verdict.
func checkVerdict(t *testing.T, l *verifier.Local, a attestext.Attester, class error, verdict string) {
	t.Helper()
	for _, kind := range kinds {
		ch := challenge(kind, attestext.BindingHardened)
		r, err := appraise(l, attest(t, a, tsm.FormatCBOR, ch), expected(ch))
		if class != nil {
			wantClass(t, err, class, "")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if r.Verdict() != verdict {
			t.Errorf("verdict %q, want %q: %v", r.Verdict(), verdict, r.Claims()["reasons"])
		}
	}
}

func TestGenuineEvidenceIsSubjectToPolicy(t *testing.T) {
	without := func(l *verifier.Local) { l.Policy = nil }
	for _, c := range []struct {
		name    string
		tee     *softtee.TDXOptions
		change  func(*verifier.Local)
		class   error
		verdict string
	}{
		{"reference values", nil, func(*verifier.Local) {}, nil, "affirming"},
		{"no policy", nil, without, nil, "warning"},
		{"DEBUG", &softtee.TDXOptions{Debug: true}, func(*verifier.Local) {}, attestext.ErrPolicy, ""},
		{"DEBUG, no policy", &softtee.TDXOptions{Debug: true}, without, attestext.ErrPolicy, ""},
		{"DEBUG allowed", &softtee.TDXOptions{Debug: true}, func(l *verifier.Local) { l.Policy.TDX.InsecureAllowDebug = true }, nil, "warning"},
		{"other image", &softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.MRTD[0] ^= 1 }}, func(*verifier.Local) {}, attestext.ErrPolicy, ""},
		{"other kernel", &softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.RTMRs[1][0] ^= 1 }}, func(*verifier.Local) {}, attestext.ErrPolicy, ""},
		{"other image, no policy", &softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.MRTD[0] ^= 1 }}, without, nil, "warning"},
		{"no collateral", nil, func(l *verifier.Local) { l.TDXCollateral = nil }, attestext.ErrUnavailable, ""},
		{"no collateral, no policy", nil, func(l *verifier.Local) { l.TDXCollateral = nil; l.Policy = nil }, attestext.ErrUnavailable, ""},
		{"collateral skipped", nil, func(l *verifier.Local) { l.TDXCollateral = nil; l.Policy.TDX.InsecureSkipCollateral = true }, nil, "warning"},
		{"other PKI", &softtee.TDXOptions{Seed: "other"}, func(*verifier.Local) {}, attestext.ErrSignature, ""},
		{"Intel's root", nil, func(l *verifier.Local) { l.TDXRoots = nil }, attestext.ErrSignature, ""},
		{"empty roots", nil, func(l *verifier.Local) { l.TDXRoots = x509.NewCertPool() }, attestext.ErrUnavailable, ""},
		{"tampered", &softtee.TDXOptions{Tamper: func(b []byte) []byte { b[200] ^= 1; return b }}, func(*verifier.Local) {}, attestext.ErrSignature, ""},
		{"cut", &softtee.TDXOptions{Tamper: func(b []byte) []byte { return b[:1000] }}, func(*verifier.Local) {}, attestext.ErrMalformed, ""},
		{"zero verifier", nil, func(l *verifier.Local) { *l = verifier.Local{} }, attestext.ErrUnavailable, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := local(t)
			c.change(l)
			checkVerdict(t, l, softtee.NewTDX(c.tee).Attester(), c.class, c.verdict)
		})
	}
}

// Evidence that is not bound must not be reported as a matter of policy, nor
// evidence that is not genuine as one of binding.
func TestSignatureThenBindingThenPolicy(t *testing.T) {
	made := challenge(attestext.CertAttestation, attestext.BindingDraft08)
	wanted := challenge(attestext.CertAttestation, attestext.BindingHardened)
	debug := softtee.TDXOptions{Debug: true}
	_, err := appraise(local(t), attest(t, softtee.NewTDX(&debug).Attester(), tsm.FormatCBOR, made), wanted)
	wantClass(t, err, attestext.ErrBinding, "")
	debug.Seed = "other"
	_, err = appraise(local(t), attest(t, softtee.NewTDX(&debug).Attester(), tsm.FormatCBOR, made), wanted)
	wantClass(t, err, attestext.ErrSignature, "")
}

// TestEveryStrictPrefixOfAWrapperIsRefused: only a whole wrapper is read.
//
// Requirements: 4-1.
func TestEveryStrictPrefixOfAWrapperIsRefused(t *testing.T) {
	l := local(t)
	for _, kind := range []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly} {
		c := challenge(kind, attestext.BindingHardened)
		ev := attest(t, softtee.NewTDX(nil).Attester(), formatAny, c)
		for n := 0; n < len(ev.CMW); n += 3 {
			_, err := l.Appraise(context.Background(), &attestext.Evidence{Type: ev.Type, CMW: ev.CMW[:n]}, expected(c))
			if !errors.Is(err, attestext.ErrMalformed) {
				t.Fatalf("%v: %d of %d bytes: %v", kind, n, len(ev.CMW), err)
			}
		}
	}
}

func TestAppraisalEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := attest(t, softtee.NewTDX(nil).Attester(), tsm.FormatCBOR, c)
	_, err := local(t).Appraise(ctx, ev, c)
	wantClass(t, err, attestext.ErrUnavailable, "")
}

func TestConcurrentAppraisal(t *testing.T) {
	l, a := local(t), softtee.NewTDX(nil).Attester()
	done := make(chan error)
	for _, kind := range []attestext.CredentialKind{0, 1, 0, 1, 0, 1} {
		go func() {
			c := challenge(kind, attestext.BindingHardened)
			b, err := a.Attest(context.Background(), &attestext.AttestRequest{Type: attestext.EvidenceType{Kind: kind, Format: tsm.FormatCBOR}, Challenge: c})
			if err == nil {
				_, err = l.Appraise(context.Background(), &attestext.Evidence{Type: attestext.EvidenceType{Kind: kind, Format: tsm.FormatCBOR}, CMW: b}, expected(c))
			}
			done <- err
		}()
	}
	for range 6 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

type failing struct{ err error }

func (f failing) Report(context.Context, [attestext.ReportDataSize]byte) (*tsm.Report, error) {
	return nil, f.err
}

func TestAttesterFailsWithAClass(t *testing.T) {
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	req := func(f attestext.EvidenceFormat, c *attestext.Challenge) *attestext.AttestRequest {
		return &attestext.AttestRequest{Type: attestext.EvidenceType{Kind: c.Kind, Format: f}, Challenge: c}
	}
	broken := errors.New("no such device")
	_, err := attester.New(failing{broken}).Attest(context.Background(), req(tsm.FormatCBOR, c))
	wantClass(t, err, attestext.ErrUnavailable, "no such device")
	a := softtee.NewTDX(nil).Attester()
	_, err = a.Attest(context.Background(), req(attestext.EvidenceFormat{MediaType: "text/plain"}, c))
	wantClass(t, err, attestext.ErrWrongType, "text/plain")
	only := challenge(attestext.AttestationOnly, attestext.BindingHardened)
	only.SPKI = nil
	_, err = a.Attest(context.Background(), req(tsm.FormatCBOR, only))
	wantClass(t, err, attestext.ErrUnavailable, "which TLS key")
	passport := *c
	passport.Model = attestext.Passport
	_, err = a.Attest(context.Background(), req(tsm.FormatCBOR, &passport))
	wantClass(t, err, attestext.ErrUnavailable, "passport")
}

func FuzzAppraise(f *testing.F) {
	a := softtee.NewTDX(nil).Attester()
	cert, only := challenge(attestext.CertAttestation, attestext.BindingHardened), challenge(attestext.AttestationOnly, attestext.BindingHardened)
	for _, c := range []*attestext.Challenge{cert, only} {
		for _, format := range a.Formats(c.Kind) {
			f.Add(attest(f, a, format, c).CMW)
		}
	}
	stale := challenge(attestext.CertAttestation, attestext.BindingDraft08)
	f.Add(attest(f, a, tsm.FormatCBOR, stale).CMW)
	l := local(f)
	mrtd, _ := softtee.TDXMeasurements()
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		for _, c := range []*attestext.Challenge{cert, expected(only)} {
			ev := &attestext.Evidence{Type: attestext.EvidenceType{Kind: c.Kind, Format: formatAny}, CMW: b}
			got, err := l.Appraise(context.Background(), ev, c)
			if err != nil {
				if attestext.Class(err) == attestext.ErrUnavailable && !errors.Is(err, attestext.ErrUnavailable) {
					t.Fatalf("error without a class: %v", err)
				}
				continue
			}
			if len(got.Key) != 0 && !bytes.Equal(got.Key, spki(tik)) || got.Claims["mrtd"] != hex.EncodeToString(mrtd[:]) {
				t.Fatal("forged evidence accepted")
			}
		}
	})
}

func BenchmarkAppraise(b *testing.B) {
	l, a := local(b), softtee.NewTDX(nil).Attester()
	for _, kind := range []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly} {
		c := challenge(kind, attestext.BindingHardened)
		ev := attest(b, a, tsm.FormatCBOR, c)
		b.Run(kind.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Appraise(context.Background(), ev, expected(c)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAttest(b *testing.B) {
	a := softtee.NewTDX(nil).Attester()
	for _, kind := range []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly} {
		c := challenge(kind, attestext.BindingHardened)
		b.Run(kind.String(), func(b *testing.B) {
			for b.Loop() {
				attest(b, a, tsm.FormatCBOR, c)
			}
		})
	}
}
