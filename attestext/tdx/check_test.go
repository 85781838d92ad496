package tdx_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
)

func members(t testing.TB, seed string, o softtee.CollateralOptions) map[string]string {
	t.Helper()
	o.Now = testTime
	c, err := softtee.NewTDX(&softtee.TDXOptions{Seed: seed}).Collateral(&o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Marshal()
	var m map[string]string
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCollateralIsCheckedByItself(t *testing.T) {
	good := members(t, "", softtee.CollateralOptions{})
	parse := func(m map[string]string) *tdx.Collateral {
		t.Helper()
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tdx.ParseCollateral(b)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if err := parse(good).Check(softtee.Roots(), testTime); err != nil {
		t.Fatal(err)
	}
	if err := intelCollateral(t).Check(nil, intelTime); err != nil {
		t.Errorf("Intel's: %v", err)
	}
	// Each part of another PKI's, by itself.
	other := members(t, "other", softtee.CollateralOptions{})
	for name, part := range other {
		m := maps.Clone(good)
		if m[name] = part; part == good[name] {
			continue // what says the same under both
		}
		if err := parse(m).Check(softtee.Roots(), testTime); !errors.Is(err, attestext.ErrSignature) {
			t.Errorf("%s of another PKI: %v", name, err)
		}
	}
	for _, name := range []string{"tcb_info", "qe_identity"} {
		m := maps.Clone(good)
		m[name] = strings.Replace(m[name], `"tcbDate":"2024`, `"tcbDate":"2025`, 1)
		if err := parse(m).Check(softtee.Roots(), testTime); !errors.Is(err, attestext.ErrSignature) {
			t.Errorf("%s changed: %v", name, err)
		}
		// A genuine certificate that is not for collateral does not sign it.
		m = maps.Clone(good)
		m[name+"_issuer_chain"] = good["pck_crl_issuer_chain"]
		if err := parse(m).Check(softtee.Roots(), testTime); !errors.Is(err, attestext.ErrSignature) {
			t.Errorf("%s by another signer: %v", name, err)
		}
	}
	for name, o := range map[string]softtee.CollateralOptions{"TCB signer": {RevokeTCBSigning: true}, "platform CA": {RevokePlatformCA: true}} {
		if err := collateral(t, o).Check(softtee.Roots(), testTime); !errors.Is(err, attestext.ErrSignature) {
			t.Errorf("revoked %s: %v", name, err)
		}
	}
	c := parse(good)
	wantClass(t, c.Check(softtee.Roots(), c.NextUpdate()), attestext.ErrPolicy)
	wantClass(t, c.Check(nil, testTime), attestext.ErrSignature)
	wantClass(t, c.Check(x509.NewCertPool(), testTime), attestext.ErrUnavailable)
}

func TestFMSPCOfAQuote(t *testing.T) {
	got, err := another(t, 1).FMSPC()
	if want := collateral(t, softtee.CollateralOptions{}).FMSPC(); err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	_, err = new(tdx.Quote).FMSPC()
	wantClass(t, err, attestext.ErrMalformed)
}
