package sevsnp_test

import (
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/softtee"
)

func TestCollateralIsCheckedByItself(t *testing.T) {
	roots := softtee.SNPRoots()
	if err := collateral(t, softtee.SNPCollateralOptions{WithCertificates: true}).Check(roots, testTime); err != nil {
		t.Error(err)
	}
	crl, err := softtee.NewSNP(nil).CRL(&softtee.SNPCollateralOptions{Now: testTime})
	if err != nil {
		t.Fatal(err)
	}
	_, other := soft(t, &softtee.SNPOptions{Seed: "other"})
	_, mine := soft(t, nil)
	for name, certs := range map[string][][]byte{
		"authority of another root":         {other.ASK.Raw},
		"chip of another root":              {mine.ASK.Raw, other.VCEK.Raw},
		"chip whose authority is not there": {mine.VCEK.Raw},
	} {
		c, err := sevsnp.NewCollateral(&sevsnp.CollateralParts{VCEKCRLs: [][]byte{crl.Raw}, Certificates: certs})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(roots, testTime); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			wantClass(t, err, attestext.ErrSignature)
		}
	}
	c := collateral(t, softtee.SNPCollateralOptions{})
	wantClass(t, c.Check(softtee.NewSNP(&softtee.SNPOptions{Seed: "other"}).Roots(), testTime), attestext.ErrSignature)
	wantClass(t, c.Check(nil, testTime), attestext.ErrSignature) // AMD's
	wantClass(t, c.Check(&sevsnp.Roots{}, testTime), attestext.ErrUnavailable)
	wantClass(t, c.Check(roots, c.NextUpdate()), attestext.ErrPolicy)
	wantClass(t, c.Check(roots, testTime.Add(-time.Second)), attestext.ErrPolicy)
}

func TestProductLineOfAReport(t *testing.T) {
	for name, c := range map[string]struct {
		opts  *softtee.SNPOptions
		certs bool
		want  string
	}{
		"version 3, no certificates": {nil, false, sevsnp.Milan},
		"version 2":                  {&softtee.SNPOptions{Version: 2}, true, sevsnp.Milan},
		"version 2, VLEK":            {&softtee.SNPOptions{Version: 2, VLEK: true}, true, sevsnp.Milan},
		"version 2, no certificates": {&softtee.SNPOptions{Version: 2}, false, ""},
		"unknown processor":          {&softtee.SNPOptions{Modify: func(r *sevsnp.Report) { r.Model = 0xee }}, true, ""},
	} {
		raw, certs := soft(t, c.opts)
		if !c.certs {
			certs = nil
		}
		if got := parse(t, raw).ProductLine(certs); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
