package attestext

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"testing"
	"time"
)

func challenge(change func(*Challenge)) *Challenge {
	c := &Challenge{
		Role: RoleServer, Kind: CertAttestation,
		Nonce: bytes.Repeat([]byte{0xaa}, 32), Binder: make([]byte, 32), SPKI: []byte("spki"),
	}
	for i := range c.Binder {
		c.Binder[i] = byte(i)
	}
	if change != nil {
		change(c)
	}
	return c
}

// The values were computed with Python's hashlib.
func TestHardenedReportDataCoversRoleBinderAndKey(t *testing.T) {
	want := map[Role]string{
		RoleServer: "976c6fb53c68961f3224866297a1bf523db5d28f5c48206b049d3157cbb40712605bb54074795bc435f52529ba1351ea5aa12a2929ac54a54954d330a386419c",
		RoleClient: "964fb850ce073120a2b005a1550b08190ef35d18735d20c3dc2b3b094fbd9e07a9edd63436e1ecce1042fb908cc5423f74fbf2ac5dc83d6f86d992ef800190db",
	}
	for role, w := range want {
		got, err := challenge(func(c *Challenge) { c.Role = role }).ReportData()
		if err != nil || hex.EncodeToString(got[:]) != w {
			t.Errorf("%v: %x, %v", role, got, err)
		}
	}
	base, _ := challenge(nil).ReportData()
	for name, change := range map[string]func(*Challenge){
		"role":   func(c *Challenge) { c.Role = RoleClient },
		"binder": func(c *Challenge) { c.Binder[5] ^= 1 },
		"key":    func(c *Challenge) { c.SPKI = []byte("other") },
		"rule":   func(c *Challenge) { c.Binding = BindingDraft08 },
	} {
		got, err := challenge(change).ReportData()
		if err != nil || got == base {
			t.Errorf("report data does not depend on the %s (%v)", name, err)
		}
	}
}

func TestDraft08ReportDataIsTheChallengePaddedAndNeverCut(t *testing.T) {
	for _, n := range []int{8, 32, 64} {
		for _, kind := range []CredentialKind{CertAttestation, AttestationOnly} {
			c := challenge(func(c *Challenge) {
				c.Binding, c.Kind = BindingDraft08, kind
				c.Nonce, c.Binder = bytes.Repeat([]byte{0xaa}, n), bytes.Repeat([]byte{0xbb}, n)
			})
			want := byte(0xbb)
			if kind == AttestationOnly {
				want = 0xaa // the nonce itself
			}
			got, err := c.ReportData()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got[:n], bytes.Repeat([]byte{want}, n)) || !bytes.Equal(got[n:], make([]byte, 64-n)) {
				t.Errorf("%v, %d bytes: %x", kind, n, got)
			}
		}
	}
}

func TestExpatReportDataIsTheBindingPadded(t *testing.T) {
	for _, n := range []int{32, 48} {
		c := challenge(func(c *Challenge) {
			c.Binding, c.Nonce, c.Binder = BindingExpat, make([]byte, 255), bytes.Repeat([]byte{0xbb}, n)
		})
		if !bytes.Equal(c.Value(), c.Binder) {
			t.Errorf("the value is %x, want the binding", c.Value())
		}
		got, err := c.ReportData()
		if err != nil || !bytes.Equal(got[:n], c.Binder) || !bytes.Equal(got[n:], make([]byte, 64-n)) {
			t.Errorf("%d bytes: %x, %v", n, got, err)
		}
		c.Binding = BindingExpatSHA512
		if got, err = c.ReportData(); err != nil || got != sha512.Sum512(c.Binder) {
			t.Errorf("%d bytes, SHA-512: %x, %v", n, got, err)
		}
	}
}

func TestExpatChallengeRefusesWhatIsIncomplete(t *testing.T) {
	for name, change := range map[string]func(*Challenge){
		"no binding":       func(c *Challenge) { c.Binder = nil },
		"cut binding":      func(c *Challenge) { c.Binder = c.Binder[:31] },
		"long binding":     func(c *Challenge) { c.Binder = make([]byte, 65) },
		"long context":     func(c *Challenge) { c.Nonce = make([]byte, 256) },
		"no key":           func(c *Challenge) { c.SPKI = nil },
		"attestation-only": func(c *Challenge) { c.Kind = AttestationOnly },
		"passport, attestation-only": func(c *Challenge) {
			c.Model, c.Kind = Passport, AttestationOnly
		},
	} {
		for _, b := range []Binding{BindingExpat, BindingExpatSHA512} {
			c := challenge(func(c *Challenge) { c.Binding = b; change(c) })
			if c.Validate() == nil {
				t.Errorf("%v, %s: accepted", b, name)
			}
			if _, err := c.ReportData(); err == nil {
				t.Errorf("%v, %s: has report data", b, name)
			}
		}
	}
}

// A report by itself names no key, and a passport has no nonce.
func TestCompleteChallengeWithoutReportData(t *testing.T) {
	for name, change := range map[string]func(*Challenge){
		"attestation-only, at the relying party": func(c *Challenge) { c.Kind, c.SPKI = AttestationOnly, nil },
		"passport":                               func(c *Challenge) { c.Model = Passport },
	} {
		c := challenge(change)
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if rd, err := c.ReportData(); err == nil || rd != [ReportDataSize]byte{} {
			t.Errorf("%s: has report data: %x, %v", name, rd, err)
		}
	}
}

func TestChallengeRefusesWhatIsIncomplete(t *testing.T) {
	for name, change := range map[string]func(*Challenge){
		"no role":           func(c *Challenge) { c.Role = 0 },
		"no key":            func(c *Challenge) { c.SPKI = nil },
		"no nonce":          func(c *Challenge) { c.Nonce, c.Binder = nil, nil },
		"short nonce":       func(c *Challenge) { c.Nonce, c.Binder = c.Nonce[:7], c.Binder[:7] },
		"long nonce":        func(c *Challenge) { c.Nonce, c.Binder = make([]byte, 65), make([]byte, 65) },
		"no binder":         func(c *Challenge) { c.Binder = nil },
		"cut binder":        func(c *Challenge) { c.Binder = c.Binder[:31] },
		"unknown rule":      func(c *Challenge) { c.Binding = 9 },
		"unknown kind":      func(c *Challenge) { c.Kind = 9 },
		"hardened, no link": func(c *Challenge) { c.Kind, c.Binder = AttestationOnly, nil },
	} {
		c := challenge(change)
		if err := c.Validate(); err == nil {
			t.Errorf("%s: valid", name)
		}
		if _, err := c.ReportData(); err == nil {
			t.Errorf("%s: has report data", name)
		}
		if _, err := Appraise(context.Background(), time.Minute, lax{}, &Evidence{CMW: []byte{1}}, c); err == nil {
			t.Errorf("%s: evidence is appraised against it", name)
		}
	}
	var none *Challenge
	if _, err := Appraise(context.Background(), time.Minute, lax{}, &Evidence{CMW: []byte{1}}, none); !errors.Is(err, ErrUnavailable) {
		t.Errorf("evidence is appraised against no challenge: %v", err)
	}
	if _, err := Attest(context.Background(), time.Minute, attester(nil), &AttestRequest{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("evidence is made for no challenge: %v", err)
	}
}

// In the passport model there is no nonce, and under the hardened rule the key is
// what ties a result to the peer.
func TestPassportResultsNameTheKey(t *testing.T) {
	ev := &Evidence{Verifier: "v.example", CMW: []byte{1}}
	passport := func(change func(*Challenge)) *Challenge {
		return challenge(func(c *Challenge) {
			c.Model, c.Nonce, c.Binder = Passport, nil, nil
			if change != nil {
				change(c)
			}
		})
	}
	draft08 := func(c *Challenge) { c.Binding = BindingDraft08 }
	only := func(c *Challenge) { c.Kind, c.SPKI = AttestationOnly, nil }
	for _, tt := range []struct {
		name   string
		key    string
		change func(*Challenge)
		want   error
	}{
		{"the key", "spki", nil, nil},
		{"no key", "", nil, ErrBinding},
		{"another key", "other", nil, ErrBinding},
		{"no key under draft-08", "", draft08, nil},
		{"no key in attestation-only", "", only, ErrBinding},
		{"a key in attestation-only", "other", only, nil},
	} {
		v := lax{&Appraisal{Verdict: "affirming", Key: []byte(tt.key)}}
		r, err := Appraise(context.Background(), time.Minute, v, ev, passport(tt.change))
		if Class(err) != tt.want || r.Valid() != (tt.want == nil) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := Appraise(context.Background(), time.Minute, lax{}, &Evidence{CMW: []byte{1}}, passport(nil)); err == nil {
		t.Error("a result by nobody is accepted")
	}
	if _, err := Appraise(context.Background(), time.Minute, lax{}, ev, challenge(nil)); err == nil {
		t.Error("a result is accepted as Evidence")
	}
}

// lax accepts anything.
type lax struct{ a *Appraisal }

func (lax) Formats(CredentialKind) []EvidenceFormat { return nil }
func (l lax) Appraise(context.Context, *Evidence, *Challenge) (*Appraisal, error) {
	if l.a != nil {
		return l.a, nil
	}
	return &Appraisal{Verdict: "affirming"}, nil
}

type attester func(context.Context) ([]byte, error)

func (attester) Formats(CredentialKind) []EvidenceFormat { return nil }
func (a attester) Attest(ctx context.Context, _ *AttestRequest) ([]byte, error) {
	return a(ctx)
}

type verifier func(context.Context) (*Appraisal, error)

func (verifier) Formats(CredentialKind) []EvidenceFormat { return nil }
func (v verifier) Appraise(ctx context.Context, _ *Evidence, _ *Challenge) (*Appraisal, error) {
	return v(ctx)
}

func TestResultIsMintedByAppraisalOnly(t *testing.T) {
	var zero Result
	if zero.Valid() || zero.Verdict() != "none" || (*Result)(nil).Valid() {
		t.Error("the zero Result proves something")
	}
	r, err := Appraise(context.Background(), time.Minute, lax{}, &Evidence{CMW: []byte{1}}, challenge(nil))
	if err != nil || !r.Valid() || r.Verdict() != "affirming" || r.Binding() != BindingHardened {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestAppraiseFailsClosed(t *testing.T) {
	ev := &Evidence{Type: EvidenceType{Kind: CertAttestation, Format: EvidenceFormat{MediaType: "a/b"}}, CMW: []byte{1}}
	block := make(chan struct{})
	defer close(block)
	for _, tt := range []struct {
		name   string
		v      Verifier
		change func(*Challenge)
		want   error
	}{
		{"error of no class", verifier(func(context.Context) (*Appraisal, error) { return nil, errors.New("x") }), nil, ErrUnavailable},
		{"neither appraisal nor error", verifier(func(context.Context) (*Appraisal, error) { return nil, nil }), nil, ErrUnavailable},
		{"panic", verifier(func(context.Context) (*Appraisal, error) { panic("x") }), nil, ErrUnavailable},
		{"deaf to its context", verifier(func(context.Context) (*Appraisal, error) { <-block; return &Appraisal{Verdict: "affirming"}, nil }), nil, ErrUnavailable},
		{"waits for its context", verifier(func(ctx context.Context) (*Appraisal, error) { <-ctx.Done(); return nil, ctx.Err() }), nil, ErrUnavailable},
		{"no verdict", lax{&Appraisal{}}, nil, ErrPolicy},
		{"contraindicated", lax{&Appraisal{Verdict: "contraindicated"}}, nil, ErrPolicy},
		{"another key", lax{&Appraisal{Verdict: "affirming", Key: []byte("other")}}, nil, ErrBinding},
		{"another format", lax{&Appraisal{Verdict: "affirming", Format: EvidenceFormat{MediaType: "c/d"}}}, nil, ErrWrongType},
		{"no key in attestation-only", lax{&Appraisal{Verdict: "affirming"}}, func(c *Challenge) { c.Kind, c.SPKI = AttestationOnly, nil }, ErrBinding},
		{"no verifier", nil, nil, ErrUnavailable},
	} {
		r, err := Appraise(context.Background(), 10*time.Millisecond, tt.v, ev, challenge(tt.change))
		if r.Valid() || Class(err) != tt.want || err == nil {
			t.Errorf("%s: %v, class %v, want %v", tt.name, err, Class(err), tt.want)
		}
	}
}

func TestAttestFailsClosed(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	for name, a := range map[string]attester{
		"error":                 func(context.Context) ([]byte, error) { return nil, errors.New("x") },
		"no evidence":           func(context.Context) ([]byte, error) { return nil, nil },
		"panic":                 func(context.Context) ([]byte, error) { panic("x") },
		"deaf to its context":   func(context.Context) ([]byte, error) { <-block; return []byte{1}, nil },
		"waits for its context": func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() },
	} {
		cmw, err := Attest(context.Background(), 10*time.Millisecond, a, &AttestRequest{Challenge: challenge(nil)})
		if cmw != nil || Class(err) != ErrUnavailable {
			t.Errorf("%s: %x, %v", name, cmw, err)
		}
	}
}

func TestAppraiseEndsWithTheHandshake(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	started := make(chan struct{})
	go func() { <-started; cancel() }()
	v := verifier(func(ctx context.Context) (*Appraisal, error) {
		close(started)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	_, err := Appraise(ctx, time.Hour, v, &Evidence{CMW: []byte{1}}, challenge(nil))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestErrorsHaveOneClass(t *testing.T) {
	err := Errorf(ErrBinding, "verify quote", "nonce %d", 1)
	if !errors.Is(err, ErrBinding) || errors.Is(err, ErrPolicy) || Class(err) != ErrBinding {
		t.Errorf("%v", err)
	}
	if got := err.Error(); got != "verify quote: evidence is not bound to this handshake: nonce 1" {
		t.Errorf("%q", got)
	}
	if Class(errors.New("x")) != ErrUnavailable || Class(nil) != nil {
		t.Error("class of an error without one")
	}
}
