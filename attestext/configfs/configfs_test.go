package configfs_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/configfs"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/testpki"
	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/faketsm"
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A kernel is what a fake one does.
type kernel struct {
	tee      attester.Quoter
	noAux    bool                // it has no attribute auxblob
	change   func([]byte) []byte // of outblob
	fail     string              // attribute that cannot be read
	before   func()              // called before outblob is made
	subsys   *faketsm.ReportSubsystem
	provider string // in place of the TEE's
}

func (k *kernel) client() configfsi.Client {
	sub := faketsm.ReportV7(0)
	k.subsys = sub
	sub.Random = rand.Reader
	sub.ReadAttr = func(e *faketsm.ReportEntry, attr string) ([]byte, error) {
		if attr == k.fail {
			return nil, syscall.EIO
		}
		if attr == "auxblob" && k.noAux {
			return nil, os.ErrNotExist
		}
		in := e.InAttrs["inblob"].Value
		if len(in) != attestext.ReportDataSize {
			return nil, syscall.EINVAL
		}
		r, err := k.tee.Report(context.Background(), [attestext.ReportDataSize]byte(in))
		if err != nil {
			return nil, err
		}
		switch attr {
		case "provider":
			if k.provider != "" {
				return []byte(k.provider + "\n"), nil
			}
			return []byte(r.Provider + "\n"), nil
		case "auxblob":
			return r.AuxBlob, nil
		case "outblob":
			if k.before != nil {
				k.before()
			}
			if k.change != nil {
				return k.change(r.OutBlob), nil
			}
			return r.OutBlob, nil
		}
		return nil, os.ErrNotExist
	}
	return &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": sub}}
}

func local(t *testing.T) *verifier.Local {
	t.Helper()
	l := &verifier.Local{TDXRoots: softtee.Roots(), SNPRoots: softtee.SNPRoots(), Policy: &policy.Policy{}, Now: func() time.Time { return testTime }}
	var err error
	if l.TDXCollateral, err = softtee.Collateral(testTime); err != nil {
		t.Fatal(err)
	}
	if l.SNPCollateral, err = softtee.SNPCollateral(testTime); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{softtee.Policy(), softtee.SNPPolicy()} {
		p, err := policy.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if p.TDX != nil {
			l.Policy.TDX = p.TDX
		} else {
			l.Policy.SNP = p.SNP
		}
	}
	return l
}

var machines = map[string]func() *kernel{
	"TDX": func() *kernel { return &kernel{tee: softtee.NewTDX(nil), noAux: true} },
	"TDX, padded": func() *kernel {
		return &kernel{tee: softtee.NewTDX(nil), noAux: true, change: func(b []byte) []byte { return append(b, make([]byte, 3000)...) }}
	},
	"SNP": func() *kernel { return &kernel{tee: softtee.NewSNP(nil)} },
	"SNP, padded": func() *kernel {
		return &kernel{tee: softtee.NewSNP(nil), change: func(b []byte) []byte { return append(b, make([]byte, 3000)...) }}
	},
	"SNP, VLEK": func() *kernel { return &kernel{tee: softtee.NewSNP(&softtee.SNPOptions{VLEK: true})} },
}

func TestReportOfTheKernelPassesAppraisal(t *testing.T) {
	spki := testpki.SPKI(testpki.Key("TLS identity key"))
	for name, machine := range machines {
		a := attester.New(configfs.NewClient(machine().client()))
		for _, kind := range []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly} {
			c := &attestext.Challenge{Role: attestext.RoleServer, Kind: kind, Nonce: bytes.Repeat([]byte{1}, 64), Binder: bytes.Repeat([]byte{2}, 64), SPKI: spki}
			typ := attestext.EvidenceType{Kind: kind, Format: a.Formats(kind)[0]}
			b, err := a.Attest(t.Context(), &attestext.AttestRequest{Type: typ, Challenge: c})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if kind == attestext.AttestationOnly {
				c.SPKI = nil
			}
			got, err := local(t).Appraise(t.Context(), &attestext.Evidence{Type: typ, CMW: b}, c)
			if err != nil || got.Verdict != "affirming" {
				t.Errorf("%s, %v: %v", name, kind, err)
			}
		}
	}
}

func TestReportIsCutAndKeepsItsCertificates(t *testing.T) {
	for name, machine := range machines {
		k := machine()
		got, err := configfs.NewClient(k.client()).Report(t.Context(), [64]byte{1})
		if err != nil {
			t.Fatal(err)
		}
		want, err := k.tee.Report(t.Context(), [64]byte{1})
		if err != nil {
			t.Fatal(err)
		}
		if got.Provider != want.Provider || !bytes.Equal(got.OutBlob, want.OutBlob) || !bytes.Equal(got.AuxBlob, want.AuxBlob) {
			t.Errorf("%s: provider %q, outblob of %d bytes, auxblob of %d", name, got.Provider, len(got.OutBlob), len(got.AuxBlob))
		}
		if len(k.subsys.Entries) != 0 {
			t.Errorf("%s: %d entries left behind", name, len(k.subsys.Entries))
		}
	}
}

func TestKernelThatFailsIsUnavailable(t *testing.T) {
	other := func(b []byte) []byte { b[0x50] ^= 1; return b }
	for name, k := range map[string]*kernel{
		"no outblob":          {tee: softtee.NewSNP(nil), fail: "outblob"},
		"no provider":         {tee: softtee.NewSNP(nil), fail: "provider"},
		"no auxblob":          {tee: softtee.NewSNP(nil), fail: "auxblob"},
		"other data":          {tee: softtee.NewSNP(nil), change: other},
		"cut":                 {tee: softtee.NewSNP(nil), change: func(b []byte) []byte { return b[:1000] }},
		"more than a report":  {tee: softtee.NewSNP(nil), change: func(b []byte) []byte { return append(b, 1) }},
		"cut TDX quote":       {tee: softtee.NewTDX(nil), noAux: true, change: func(b []byte) []byte { return b[:1000] }},
		"empty, other vendor": {tee: softtee.NewTDX(nil), provider: "other_guest", noAux: true, change: func([]byte) []byte { return nil }},
	} {
		_, err := configfs.NewClient(k.client()).Report(t.Context(), [64]byte{1})
		if attestext.Class(err) != attestext.ErrUnavailable || !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if len(k.subsys.Entries) != 0 {
			t.Errorf("%s: %d entries left behind", name, len(k.subsys.Entries))
		}
	}
}

func TestOtherProvidersAreHandedOn(t *testing.T) {
	k := &kernel{tee: softtee.NewTDX(nil), provider: "other_guest", noAux: true, change: func([]byte) []byte { return []byte("anything") }}
	r, err := configfs.NewClient(k.client()).Report(t.Context(), [64]byte{1})
	if err != nil || r.Provider != "other_guest" || string(r.OutBlob) != "anything" || r.AuxBlob != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

// A kernel that hangs holds up nobody longer than its context, and is not asked
// again meanwhile.
func TestReportEndsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	entered := make(chan struct{}, 1)
	k := &kernel{tee: softtee.NewSNP(nil), before: func() { entered <- struct{}{}; <-release }}
	q := configfs.NewClient(k.client())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := q.Report(ctx, [64]byte{1})
		done <- err
	}()
	<-entered
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := q.Report(ctx, [64]byte{2}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(release)
	if _, err := q.Report(t.Context(), [64]byte{3}); err != nil {
		t.Error(err)
	}
}

func TestConcurrentReports(t *testing.T) {
	q := configfs.NewClient((&kernel{tee: softtee.NewSNP(nil)}).client())
	var wg sync.WaitGroup
	for i := range byte(8) {
		wg.Go(func() {
			r, err := q.Report(t.Context(), [64]byte{i})
			if err != nil || r.OutBlob[0x50] != i || r.Provider != tsm.ProviderSNP {
				t.Error(i, err)
			}
		})
	}
	wg.Wait()
}

func TestMachineWithoutTEESaysSo(t *testing.T) {
	q, err := configfs.New()
	if err == nil {
		r, err := q.Report(t.Context(), [64]byte{1})
		if err != nil {
			t.Fatal(err)
		}
		t.Skipf("this machine has a TEE: %s, %d bytes", r.Provider, len(r.OutBlob))
	}
	if attestext.Class(err) != attestext.ErrUnavailable || !strings.Contains(err.Error(), "configfs") && !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}
