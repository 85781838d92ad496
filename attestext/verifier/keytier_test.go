package verifier_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/epoch"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
)

func issuer(t testing.TB, seed byte, at time.Time) *epoch.Issuer {
	t.Helper()
	i, err := epoch.NewIssuer(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)), func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// keyTier returns an attester whose quote is of the epoch that i begins; nil has it
// undated.
func keyTier(t testing.TB, i *epoch.Issuer) *attester.KeyTier {
	t.Helper()
	o := &attester.KeyTierOptions{MaxAge: time.Hour}
	if i != nil {
		o.Epoch = func(context.Context) ([]byte, error) { return i.ID(), nil }
	}
	k, err := attester.NewKeyTier(softtee.NewTDX(nil), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	return k
}

// withPolicy is [local] with the root members of the policy changed.
func withPolicy(t testing.TB, epochs verifier.EpochVerifier, change func(*policy.Policy)) *verifier.Local {
	v := local(t)
	v.Epochs = epochs
	if change != nil {
		change(v.Policy)
	}
	return v
}

// TestAgeOfAQuoteIsWhatTheIssuerShows: a verifier that wants fresh quotes refuses the
// key tier, and one that allows an age takes the word of nobody but the issuer for it.
func TestAgeOfAQuoteIsWhatTheIssuerShows(t *testing.T) {
	const age = 10 * time.Minute
	old := issuer(t, 1, testTime.Add(-age))
	keys := epoch.Keys{old.Public()}
	upTo := func(d time.Duration) func(*policy.Policy) {
		return func(p *policy.Policy) { p.MaxQuoteAge = policy.Duration(d) }
	}
	unknown := func(p *policy.Policy) { p.InsecureAllowUnknownQuoteAge = true }
	dated, undated := keyTier(t, old), keyTier(t, nil)
	for _, tt := range []struct {
		name    string
		a       attestext.Attester
		v       *verifier.Local
		rule    attestext.Binding
		verdict string
		tier    string
		age     string // or what a refusal says
	}{
		{"fresh quotes are wanted", dated, withPolicy(t, keys, nil), attestext.BindingHardened, "", "", "want one made for this session"},
		{"without a policy as well", dated, func() *verifier.Local { v := withPolicy(t, keys, nil); v.Policy = nil; return v }(), attestext.BindingHardened, "", "", "want one made for this session"},
		{"under the draft's rule as well", dated, withPolicy(t, keys, nil), attestext.BindingDraft08, "", "", "want one made for this session"},
		{"young enough", dated, withPolicy(t, keys, upTo(age)), attestext.BindingHardened, "affirming", "key tier", "at most 10m0s"},
		{"young enough under the draft's rule", dated, withPolicy(t, keys, upTo(age)), attestext.BindingDraft08, "affirming", "key tier", "at most 10m0s"},
		{"too old", dated, withPolicy(t, keys, upTo(age-time.Second)), attestext.BindingHardened, "", "", "want 9m59s at most"},
		{"too old, unknown ones allowed", dated, withPolicy(t, keys, func(p *policy.Policy) { upTo(age - time.Second)(p); unknown(p) }), attestext.BindingHardened, "", "", "want 9m59s at most"},
		{"no issuer trusted", dated, withPolicy(t, nil, upTo(time.Hour)), attestext.BindingHardened, "", "", "trusts nobody to date it"},
		{"other issuer trusted", dated, withPolicy(t, epoch.Keys{issuer(t, 2, testTime).Public()}, upTo(time.Hour)), attestext.BindingHardened, "", "", "no trusted issuer signed it"},
		{"issuer of the future", keyTier(t, issuer(t, 1, testTime.Add(time.Hour))), withPolicy(t, keys, upTo(time.Hour)), attestext.BindingHardened, "", "", "of the future"},
		{"clock a little behind", keyTier(t, issuer(t, 1, testTime.Add(time.Second))), withPolicy(t, keys, upTo(time.Hour)), attestext.BindingHardened, "affirming", "key tier", "at most 0s"},
		{"no issuer trusted, allowed", dated, withPolicy(t, nil, unknown), attestext.BindingHardened, "warning", "key tier", "unknown"},
		{"undated", undated, withPolicy(t, keys, nil), attestext.BindingHardened, "", "", "does not show when it was made"},
		{"undated, an age allowed", undated, withPolicy(t, keys, upTo(time.Hour)), attestext.BindingHardened, "", "", "does not show when it was made"},
		{"undated, allowed", undated, withPolicy(t, keys, unknown), attestext.BindingHardened, "warning", "unknown", "unknown"},
		{"undated, the draft's rule", undated, withPolicy(t, keys, nil), attestext.BindingDraft08, "affirming", "unknown", "unknown"},
		{"undated, the draft's rule, an age wanted", undated, withPolicy(t, keys, upTo(time.Hour)), attestext.BindingDraft08, "", "", "does not show when it was made"},
		{"fresh", softtee.NewTDX(nil).Attester(), withPolicy(t, keys, nil), attestext.BindingHardened, "affirming", "fresh quote", "this session"},
		{"fresh, an age allowed", softtee.NewTDX(nil).Attester(), withPolicy(t, keys, upTo(time.Hour)), attestext.BindingHardened, "affirming", "fresh quote", "this session"},
	} {
		for _, kind := range []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly} {
			t.Run(tt.name+" "+kind.String(), func(t *testing.T) {
				c := challenge(kind, tt.rule)
				r, err := appraise(tt.v, attest(t, tt.a, eat.BundleFormat, c), expected(c))
				if tt.verdict == "" {
					wantClass(t, err, attestext.ErrPolicy, tt.age)
					if !errors.Is(err, attestext.ErrStale) {
						t.Errorf("%v is not said to be stale", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if r.Verdict() != tt.verdict || r.Claims()["platform_evidence_tier"] != tt.tier || r.Claims()["platform_evidence_age"] != tt.age {
					t.Errorf("verdict %s, claims %v", r.Verdict(), r.Claims())
				}
			})
		}
	}
}

// TestRootsNameIssuersOfEpochs: whom to trust with the time is in the file of whom to trust
// with evidence, and does not take the place of it.
func TestRootsNameIssuersOfEpochs(t *testing.T) {
	i := issuer(t, 1, testTime.Add(-time.Minute))
	v := withPolicy(t, nil, func(p *policy.Policy) { p.MaxQuoteAge = policy.Duration(time.Hour) })
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := attest(t, keyTier(t, i), eat.BundleFormat, c)
	for _, tt := range []struct {
		roots []byte
		say   string // of a refusal
	}{
		{append(softtee.RootsPEM(), i.MarshalPEM()...), ""},
		{append(softtee.RootsPEM(), issuer(t, 2, testTime).MarshalPEM()...), "no trusted issuer signed it"},
		{softtee.RootsPEM(), "trusts nobody to date it"}, // also where one was trusted before
	} {
		if err := v.SetRoots(tt.roots); err != nil {
			t.Fatal(err)
		}
		_, err := appraise(v, ev, expected(c))
		if tt.say != "" {
			wantClass(t, err, attestext.ErrPolicy, tt.say)
		} else if err != nil {
			t.Error(err)
		}
	}
	for _, bad := range [][]byte{i.MarshalPEM(), append(softtee.RootsPEM(), pem.EncodeToMemory(&pem.Block{Type: epoch.PEMType})...)} {
		if err := v.SetRoots(bad); err == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
}

// TestUndatedQuotesAreForDraft08Alone: that rule has no other ones. Where an end of this
// module attests under any other, its quote is of the session.
func TestUndatedQuotesAreForDraft08Alone(t *testing.T) {
	for _, rule := range []attestext.Binding{attestext.BindingEarly, attestext.BindingExpat, attestext.BindingExpatSHA512} {
		c := challenge(attestext.CertAttestation, rule)
		c.Nonce = nil
		v := withPolicy(t, nil, nil)
		_, err := appraise(v, attest(t, keyTier(t, nil), eat.BundleFormat, c), expected(c))
		wantClass(t, err, attestext.ErrPolicy, "does not show when it was made")
		r, err := appraise(v, attest(t, softtee.NewTDX(nil).Attester(), eat.BundleFormat, c), expected(c))
		if err != nil || r.Claims()["platform_evidence_tier"] != "fresh quote" {
			t.Errorf("%v: a quote of this session: %v, %v", rule, err, r.Claims())
		}
	}
}

// TestQuoteOfOneSessionDoesNotServeAnother: what a fresh quote in a bundle covers is
// this session, and an epoch ID has to be the one that the quote covers.
func TestQuoteOfOneSessionDoesNotServeAnother(t *testing.T) {
	c := challenge(attestext.AttestationOnly, attestext.BindingHardened)
	kak := key("KAK")
	kakPub, err := eat.MarshalKey(kak.Public())
	if err != nil {
		t.Fatal(err)
	}
	kat, err := eat.SignKAT(nil, kak, c.Value(), tik.Public())
	if err != nil {
		t.Fatal(err)
	}
	i := issuer(t, 1, testTime)
	id := i.ID()
	short := eat.ReportData(kakPub, eat.Undated, nil)
	short[63] = 1
	for name, tt := range map[string]struct {
		rd    [attestext.ReportDataSize]byte
		epoch []byte
		say   string // empty where it is accepted
	}{
		"this session":                       {eat.ReportData(kakPub, eat.ForSession, c.Value()), nil, ""},
		"this epoch":                         {eat.ReportData(kakPub, eat.ForEpoch, id), id, ""},
		"another session":                    {eat.ReportData(kakPub, eat.ForSession, bytes.Repeat([]byte{1}, 64)), nil, "another session"},
		"the nonce":                          {eat.ReportData(kakPub, eat.ForSession, c.Nonce), nil, "another session"},
		"session for epoch":                  {eat.ReportData(kakPub, eat.ForSession, id), id, "or not the epoch ID that came with it"},
		"epoch for session":                  {eat.ReportData(kakPub, eat.ForEpoch, c.Value()), nil, "another session"},
		"another epoch":                      {eat.ReportData(kakPub, eat.ForEpoch, i.ID()), id, "or not the epoch ID that came with it"},
		"epoch left out":                     {eat.ReportData(kakPub, eat.ForEpoch, id), nil, "another session"},
		"epoch put beside an undated quote":  {eat.ReportData(kakPub, eat.Undated, nil), id, "or not the epoch ID that came with it"},
		"epoch put beside a session's quote": {eat.ReportData(kakPub, eat.ForSession, c.Value()), id, "or not the epoch ID that came with it"},
		"something else":                     {short, nil, "another session"},
		"another key":                        {eat.ReportData([]byte("key"), eat.ForSession, c.Value()), nil, "does not cover the key"},
	} {
		t.Run(name, func(t *testing.T) {
			report, err := softtee.NewTDX(nil).Report(t.Context(), tt.rd)
			if err != nil {
				t.Fatal(err)
			}
			value, err := report.CBOR()
			if err != nil {
				t.Fatal(err)
			}
			b, err := (&eat.Bundle{KAT: kat, PAT: cmw.Record{Format: tsm.FormatCBOR, Value: value}, Epoch: tt.epoch}).Encode()
			if err != nil {
				t.Fatal(err)
			}
			v := withPolicy(t, epoch.Keys{i.Public()}, func(p *policy.Policy) { p.MaxQuoteAge = policy.Duration(time.Hour) })
			_, err = appraise(v, &attestext.Evidence{Type: attestext.EvidenceType{Kind: c.Kind, Format: eat.BundleFormat}, CMW: b}, expected(c))
			if tt.say != "" {
				wantClass(t, err, attestext.ErrBinding, tt.say)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestConnectionSaysWhichTierItsPeerIsOf: and a client that asks for fresh quotes sends
// the alert of the policy.
func TestConnectionSaysWhichTierItsPeerIsOf(t *testing.T) {
	i := issuer(t, 1, testTime.Add(-time.Minute))
	d := &direction{attestext.RoleServer, attestext.CertAttestation, attestext.BindingHardened, keyTier(t, i),
		withPolicy(t, epoch.Keys{i.Public()}, func(p *policy.Policy) { p.MaxQuoteAge = policy.Duration(time.Hour) })}
	for range 2 { // two sessions of one quote
		claims := attested(t, d).client.ConnectionState().PeerAttestation.Claims()
		if claims["platform_evidence_tier"] != "key tier" || claims["platform_evidence_max_age_seconds"] != 60.0 {
			t.Errorf("claims %v", claims)
		}
	}
	d.verifier = withPolicy(t, epoch.Keys{i.Public()}, nil)
	client, server := configs(d)
	connect(t, client, server).checkRefused(t, d, 49, attestext.ErrPolicy, "want one made for this session")
	d.attester = softtee.NewTDX(nil).Attester()
	claims := attested(t, d).client.ConnectionState().PeerAttestation.Claims()
	if claims["platform_evidence_tier"] != "fresh quote" || claims["platform_evidence_age"] != "this session" {
		t.Errorf("claims %v", claims)
	}
}

// A flaky quoter fails while it is told to.
type flaky struct {
	mu     sync.Mutex
	fails  bool
	quotes int
}

func (f *flaky) Report(_ context.Context, rd [attestext.ReportDataSize]byte) (*tsm.Report, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fails {
		return nil, errors.New("no quote today")
	}
	f.quotes++
	return &tsm.Report{Provider: "flaky", OutBlob: rd[:]}, nil
}

func (f *flaky) set(fails bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails = fails
}

func (f *flaky) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.quotes
}

// TestKeyTierRenewsInTimeAndFailsClosed: a quote is replaced at half of its age; where
// none is to be had it serves until it is too old, and nothing does after that.
func TestKeyTierRenewsInTimeAndFailsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		q := &flaky{}
		var failed atomic.Int32
		k, err := attester.NewKeyTier(q, &attester.KeyTierOptions{MaxAge: 16 * time.Minute, Failed: func(error) { failed.Add(1) }})
		if err != nil {
			t.Fatal(err)
		}
		req := &attestext.AttestRequest{
			Type:      attestext.EvidenceType{Kind: attestext.AttestationOnly, Format: eat.BundleFormat},
			Challenge: challenge(attestext.AttestationOnly, attestext.BindingHardened),
		}
		attest := func(want string) []byte {
			t.Helper()
			b, err := k.Attest(ctx, req)
			if want == "" && err != nil || want != "" && (!errors.Is(err, attestext.ErrUnavailable) || !strings.Contains(err.Error(), want)) {
				t.Fatalf("got %v, want %q", err, want)
			}
			return b
		}
		attest("there is no quote yet")
		if _, ok := k.Age(); ok {
			t.Error("no quote has an age")
		}
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		synctest.Wait()
		first := attest("")
		time.Sleep(8*time.Minute - 1)
		synctest.Wait()
		if age, ok := k.Age(); q.count() != 1 || !ok || age != 8*time.Minute-1 {
			t.Fatalf("%d quotes, age %v", q.count(), age)
		}
		time.Sleep(1)
		synctest.Wait()
		if q.count() != 2 {
			t.Fatalf("%d quotes at half of the age", q.count())
		}
		kakOf := func(b []byte) string {
			opened, err := eat.OpenBundle(b)
			if err != nil {
				t.Fatal(err)
			}
			kat, err := eat.VerifyKAT(opened.KAT)
			if err != nil {
				t.Fatal(err)
			}
			return string(kat.KAKPub)
		}
		if second := attest(""); kakOf(first) == kakOf(second) || kakOf(second) != kakOf(attest("")) {
			t.Error("each quote should have a key of its own, and each key serve several sessions")
		}
		q.set(true)
		time.Sleep(16*time.Minute - 1)
		synctest.Wait()
		attest("") // the second quote is not too old yet
		if failed.Load() == 0 {
			t.Error("nobody was told of failures")
		}
		time.Sleep(1)
		attest("old, at most 16m0s are allowed")
		q.set(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		attest("")
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returns %v", err)
		}
	})
}

// TestRunGoesOnWithAQuoteThatRenewHasMade: where quotes are slow, one is not made twice.
func TestRunGoesOnWithAQuoteThatRenewHasMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &flaky{}
		k, err := attester.NewKeyTier(q, &attester.KeyTierOptions{MaxAge: 16 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		go k.Run(t.Context())
		time.Sleep(7*time.Minute - 1)
		synctest.Wait()
		if n := q.count(); n != 1 {
			t.Errorf("%d quotes before half of the age", n)
		}
		time.Sleep(1)
		synctest.Wait()
		if n := q.count(); n != 2 {
			t.Errorf("%d quotes at half of the age", n)
		}
	})
}

func TestKeyTierRefusesWhatItCannotDo(t *testing.T) {
	for name, o := range map[string]*attester.KeyTierOptions{
		"no age":           {},
		"negative age":     {MaxAge: -1},
		"negative timeout": {MaxAge: 1, Timeout: -1},
	} {
		if _, err := attester.NewKeyTier(&flaky{}, o); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
	for name, e := range map[string]func(context.Context) ([]byte, error){
		"fails": func(context.Context) ([]byte, error) { return nil, errors.New("no epoch") },
		"none":  func(context.Context) ([]byte, error) { return nil, nil },
		"long":  func(context.Context) ([]byte, error) { return make([]byte, eat.MaxEpochSize+1), nil },
	} {
		k, err := attester.NewKeyTier(&flaky{}, &attester.KeyTierOptions{MaxAge: time.Hour, Epoch: e})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Renew(t.Context()); !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("epoch %s: %v", name, err)
		}
	}
	k := keyTier(t, nil)
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	_, err := k.Attest(t.Context(), &attestext.AttestRequest{Type: attestext.EvidenceType{Format: tsm.FormatCBOR}, Challenge: c})
	wantClass(t, err, attestext.ErrWrongType, "cannot make")
	passport := *c
	passport.Model = attestext.Passport
	_, err = k.Attest(t.Context(), &attestext.AttestRequest{Type: attestext.EvidenceType{Format: eat.BundleFormat}, Challenge: &passport})
	wantClass(t, err, attestext.ErrUnavailable, "passport")
}

// A machine makes 25 quotes a second, one after the other.
type slowMachine struct {
	mu  sync.Mutex
	tee *softtee.TDX
}

const quoteTime = time.Second / 25

func (m *slowMachine) Report(ctx context.Context, rd [attestext.ReportDataSize]byte) (*tsm.Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	time.Sleep(quoteTime)
	return m.tee.Report(ctx, rd)
}

// tiers returns an attester on a machine of 25 quotes a second for each tier.
func tiers(b *testing.B) map[string]attestext.Attester {
	m := &slowMachine{tee: softtee.NewTDX(nil)}
	tier, err := attester.NewKeyTier(m, &attester.KeyTierOptions{
		MaxAge: time.Hour,
		Epoch:  func(context.Context) ([]byte, error) { return issuer(b, 1, testTime).ID(), nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := tier.Renew(b.Context()); err != nil {
		b.Fatal(err)
	}
	return map[string]attestext.Attester{"fresh": attester.New(m), "key-tier": tier}
}

// BenchmarkTier compares for how many sessions a machine of 25 quotes a second makes
// evidence.
func BenchmarkTier(b *testing.B) {
	for name, a := range tiers(b) {
		b.Run(name, func(b *testing.B) {
			req := &attestext.AttestRequest{
				Type:      attestext.EvidenceType{Kind: attestext.AttestationOnly, Format: eat.BundleFormat},
				Challenge: challenge(attestext.AttestationOnly, attestext.BindingHardened),
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := a.Attest(b.Context(), req); err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sessions/s")
		})
	}
}

// BenchmarkTierHandshake compares how many handshakes it goes through, both ends on
// this machine, the relying party's verification of each quote included.
func BenchmarkTierHandshake(b *testing.B) {
	v := withPolicy(b, epoch.Keys{issuer(b, 1, testTime).Public()}, func(p *policy.Policy) { p.MaxQuoteAge = policy.Duration(time.Hour) })
	v.TDXCache = tdx.NewCache(0)
	for name, a := range tiers(b) {
		b.Run(name, func(b *testing.B) {
			client, server := configs(&direction{attestext.RoleServer, attestext.CertAttestation, attestext.BindingHardened, a, v})
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if c := connect(b, client, server); c.clientErr != nil {
						b.Error(c.clientErr)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "handshakes/s")
		})
	}
}
