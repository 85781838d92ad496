package tpmdevice

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/internal/swtpm"
	"github.com/google/go-tpm/tpm2"
)

var reportData = [64]byte{1, 2, 3}

func openTPM(t testing.TB, opts *Options) *Device {
	t.Helper()
	d, err := Open(swtpm.Start(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// enrolled has the AK of d enrolled and returns the trust in it.
func enrolled(t testing.TB, d *Device) *tpm.Trust {
	t.Helper()
	return &tpm.Trust{Keys: []tpm.EnrolledKey{swtpm.Enrol(t, d)}}
}

func extend(t testing.TB, d *Device, index int, event string) {
	t.Helper()
	digest := sha256.Sum256([]byte(event))
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(index), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}},
	}.Execute(d.tpm)
	if err != nil {
		t.Fatal(err)
	}
}

func TestQuoteOfATPMIsVerified(t *testing.T) {
	d := openTPM(t, &Options{PCRs: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 23}})
	trust := enrolled(t, d)
	extend(t, d, 16, "boot event")
	r, err := d.Record(t.Context(), tpm.Format, reportData)
	if err != nil {
		t.Fatal(err)
	}
	q, err := tpm.Parse(r.Value)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", len(r.Value))
	v, err := tpm.Verify(q, &tpm.VerifyOptions{Trust: trust})
	if err != nil {
		t.Fatal(err)
	}
	if !v.IsAbout(reportData) || v.IsAbout([64]byte{}) {
		t.Error("the quote is about other data")
	}
	digest := sha256.Sum256([]byte("boot event"))
	want := sha256.Sum256(append(make([]byte, 32), digest[:]...))
	if got := v.PCR("sha256", 16); !bytes.Equal(got, want[:]) {
		t.Errorf("PCR 16 is %x, want %x", got, want)
	}
	if got := v.PCR("sha256", 0); !bytes.Equal(got, make([]byte, 32)) {
		t.Errorf("PCR 0 is %x", got)
	}
	if v.PCR("sha256", 9) != nil || v.PCR("sha384", 0) != nil {
		t.Error("a PCR that was not quoted has a value")
	}
	if !bytes.Equal(v.EK(), trust.Keys[0].EK[:]) || v.Certified() {
		t.Errorf("EK %x, certified %v", v.EK(), v.Certified())
	}
	if _, ok := v.FirmwareVersion(); !ok {
		t.Error("a primary key of the endorsement hierarchy was not recognized")
	}

	// The same quote, and another TPM's enrolled key.
	other := openTPM(t, nil)
	_, err = tpm.Verify(q, &tpm.VerifyOptions{Trust: enrolled(t, other)})
	if !errors.Is(err, attestext.ErrSignature) || !strings.Contains(err.Error(), "not enrolled") {
		t.Errorf("enrolled was another TPM: %v", err)
	}
}

// The key is the same one each time that the TPM is opened, so that it stays enrolled.
func TestEnrolmentOfATPM(t *testing.T) {
	socket := swtpm.Start(t)
	var keys []string
	for range 2 {
		d, err := Open(socket, nil)
		if err != nil {
			t.Fatal(err)
		}
		k := enrolled(t, d).Keys[0]
		keys = append(keys, string(k.MarshalPEM()))
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if keys[0] != keys[1] {
		t.Errorf("%s and then %s", keys[0], keys[1])
	}
}

func TestCredentialForAnotherKeyOrTPMIsRefused(t *testing.T) {
	d, other := openTPM(t, nil), openTPM(t, nil)
	req, err := d.EnrolRequest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := other.EnrolRequest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]*tpm.EnrolRequest{
		"AK of another TPM": {EK: req.EK, AK: theirs.AK},
		"EK of another TPM": {EK: theirs.EK, AK: req.AK},
	} {
		_, c, err := tpm.NewEnrolment(bad, &tpm.EKTrust{InsecureAny: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Activate(t.Context(), c); !errors.Is(err, attestext.ErrUnavailable) || !strings.Contains(err.Error(), "not for this TPM") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A machine whose TPM holds a certificate of its EK is enrolled on the word of the
// manufacturer.
func TestEndorsementCertificateIsReadFromTheTPM(t *testing.T) {
	d := openTPM(t, nil)
	req, err := d.EnrolRequest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if req.EKChain != nil {
		t.Fatal("a TPM without a certificate has one")
	}
	maker := swtpm.NewMaker(t)
	der := maker.Certify(t, req.EK, swtpm.EndorsementKey, 2)
	swtpm.Endorse(t, d.tpm, der)
	if req, err = d.EnrolRequest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(req.EKChain) != 1 || !bytes.Equal(req.EKChain[0], der) {
		t.Fatal("the certificate that was read is another one")
	}
	b, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if req, err = tpm.ParseEnrolRequest(b); err != nil {
		t.Fatal(err)
	}
	trust := &tpm.EKTrust{Roots: x509.NewCertPool()}
	trust.Roots.AddCert(maker.Root)
	if trust.Collateral, err = tpm.ParseCollateral(maker.Collateral(t)); err != nil {
		t.Fatal(err)
	}
	e, c, err := tpm.NewEnrolment(req, trust)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = c.Marshal(); err != nil {
		t.Fatal(err)
	}
	if c, err = tpm.ParseCredential(b); err != nil {
		t.Fatal(err)
	}
	secret, err := d.Activate(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Finish(secret); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Finish(secret); err == nil {
		t.Error("a credential served twice")
	}
}

func TestPCRsThatAreNotThereAreRefused(t *testing.T) {
	socket := swtpm.Start(t)
	for _, pcrs := range [][]int{{}, {-1}, {24}, {1, 0}, {1, 1}} {
		if _, err := Open(socket, &Options{PCRs: pcrs}); !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("PCRs %v: %v", pcrs, err)
		}
	}
	if _, err := Open(socket, &Options{Bank: 4}); !errors.Is(err, attestext.ErrUnavailable) {
		t.Errorf("SHA-1: %v", err)
	}
	d, err := Open(socket, &Options{Bank: tpm.SHA384})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if r, err := d.Record(t.Context(), tpm.Format, reportData); err == nil {
		if _, err := tpm.Parse(r.Value); err != nil {
			t.Error(err)
		}
	} else if !errors.Is(err, attestext.ErrUnavailable) {
		t.Error(err)
	}
}

func TestMachineWithoutATPMSaysSo(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		filepath.Join(dir, "none"): "offers no TPM 2.0",
		file:                       "not a device",
	} {
		_, err := Open(path, nil)
		if !errors.Is(err, attestext.ErrUnavailable) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestCallerDoesNotWaitForABusyTPM(t *testing.T) {
	d := openTPM(t, nil)
	d.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Record(ctx, tpm.Format, reportData); !errors.Is(err, context.Canceled) || !errors.Is(err, attestext.ErrUnavailable) {
		t.Error(err)
	}
	<-d.turn
	if _, err := d.Record(t.Context(), tpm.Format, reportData); err != nil {
		t.Error(err)
	}
}

func BenchmarkQuote(b *testing.B) {
	d := openTPM(b, nil)
	for b.Loop() {
		if _, err := d.Record(b.Context(), tpm.Format, reportData); err != nil {
			b.Fatal(err)
		}
	}
}
