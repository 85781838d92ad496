package softtee_test

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
)

var testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// The bytes are a contract between processes: a client that was given the root of
// this package yesterday must accept what a server makes tomorrow. A change here
// needs a new number in the derivation.
func TestBytesAreTheSameInEveryProcess(t *testing.T) {
	quote, err := softtee.NewTDX(nil).Quote([64]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	c, err := softtee.Collateral(testTime)
	if err != nil {
		t.Fatal(err)
	}
	collateral, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	checkBytes(t, []constant{
		{"root", softtee.RootsPEM(), "74d9857b2bf14a3ae5c7ad0b2e820d4d68bac42c2eebf9d47d111ca3fbd8a5a0"},
		{"quote", quote, "91434454673665b5d47001b8c486c7404de84aff8d218f849d934d518861623a"},
		{"collateral", collateral, "912299d1a18e0d68f51b0bf5128976754ae92ba1457515e30ace081dcc1b3ac5"},
	})
}

// A constant is what must be the same in every process, and its SHA-256.
type constant struct {
	name string
	data []byte
	want string
}

func checkBytes(t *testing.T, constants []constant) {
	t.Helper()
	for _, c := range constants {
		got := sha256.Sum256(c.data)
		if hex.EncodeToString(got[:]) != c.want {
			t.Errorf("SHA-256 of %s is %x, want %s", c.name, got, c.want)
		}
	}
}

func TestAnotherSeedIsAnotherPKI(t *testing.T) {
	if string(softtee.RootsPEM()) == string(softtee.NewTDX(&softtee.TDXOptions{Seed: "other"}).RootsPEM()) {
		t.Error("same root")
	}
}

func TestQuoteVerifiesWithCollateralAndRevocation(t *testing.T) {
	raw, err := softtee.NewTDX(nil).Quote([64]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	q, err := tdx.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	c, err := softtee.Collateral(testTime)
	if err != nil {
		t.Fatal(err)
	}
	v, err := tdx.Verify(q, &tdx.VerifyOptions{Roots: softtee.Roots(), Collateral: c, Now: testTime})
	if err != nil {
		t.Fatal(err)
	}
	mrtd, rtmrs := softtee.TDXMeasurements()
	if v.MRTD() != mrtd || v.RTMRs() != rtmrs || v.ReportData() != [64]byte{1} || v.Debug() {
		t.Errorf("verified quote says %+v", v.Quote())
	}
	if v.TCBStatus() != tdx.TCBUpToDate || !v.CollateralChecked() || len(v.PlatformInstanceID()) != tdx.PlatformInstanceIDSize {
		t.Errorf("status %q, collateral %v, instance %x", v.TCBStatus(), v.CollateralChecked(), v.PlatformInstanceID())
	}
}

// Another machine is genuine under the same root, can be revoked by itself, and may
// be certified at an older level, which collateral can know.
func TestOtherMachinesOfThePKI(t *testing.T) {
	verify := func(tee *softtee.TDX, o *softtee.CollateralOptions, of *softtee.TDX) (*tdx.Verified, error) {
		t.Helper()
		raw, err := tee.Quote([64]byte{1})
		if err != nil {
			t.Fatal(err)
		}
		q, err := tdx.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		o.Now = testTime.Add(-time.Hour)
		c, err := of.Collateral(o)
		if err != nil {
			t.Fatal(err)
		}
		return tdx.Verify(q, &tdx.VerifyOptions{Roots: softtee.Roots(), Collateral: c, Now: testTime})
	}
	one := softtee.NewTDX(nil)
	other := softtee.NewTDX(&softtee.TDXOptions{Machine: "other"})
	old := softtee.NewTDX(&softtee.TDXOptions{Machine: "old", OldTCB: true})
	a, err := verify(one, &softtee.CollateralOptions{}, one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := verify(other, &softtee.CollateralOptions{}, one)
	if err != nil {
		t.Fatal(err)
	}
	if string(a.PlatformInstanceID()) == string(b.PlatformInstanceID()) {
		t.Error("two machines with one identity")
	}
	if _, err := verify(other, &softtee.CollateralOptions{RevokePCK: true}, other); err == nil {
		t.Error("a revoked machine is accepted")
	}
	if _, err := verify(one, &softtee.CollateralOptions{RevokePCK: true}, other); err != nil {
		t.Errorf("revoking one machine revokes another: %v", err)
	}
	if _, err := verify(old, &softtee.CollateralOptions{OldTCBStatus: tdx.TCBUpToDate}, one); err != nil {
		t.Error(err)
	}
	for _, status := range []string{"", "OutOfDate"} {
		if _, err := verify(old, &softtee.CollateralOptions{OldTCBStatus: status}, one); err == nil {
			t.Errorf("an old level is accepted where its status is %q", status)
		}
	}
}
