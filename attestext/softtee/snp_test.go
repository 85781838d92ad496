package softtee_test

import (
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/softtee"
)

// As with TDX, the bytes are a contract between processes.
func TestSNPBytesAreTheSameInEveryProcess(t *testing.T) {
	s := softtee.NewSNP(nil)
	report, err := s.Quote([64]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	c, err := softtee.SNPCollateral(testTime)
	if err != nil {
		t.Fatal(err)
	}
	collateral, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	checkBytes(t, []constant{
		{"root", softtee.SNPRootsPEM(), "bdbb149eb0a78f7322fc9e4e1f6941f8ef19a31828992238dba41527d6a0fa41"},
		{"report", report, "a9b178e70d6c5276ea010684906a48c5d502bc71e9a29c4d687a24d37557f6f5"},
		{"certificates", s.Certificates().Marshal(), "f56748c24015d6a158851622e208fe0ffe6cba4a4123d309b5a9c4ce7d0f54ef"},
		{"certificates of a VLEK", softtee.NewSNP(&softtee.SNPOptions{VLEK: true}).Certificates().Marshal(), "78e0e28c9e4197668de2b654289572ef910898f22be7ab519d4ec407f17fff38"},
		{"collateral", collateral, "b3e5f2405bdca1bddf6cf4f9bcadea5fa9829300920a8562161618020b7f22d6"},
	})
}

func TestSNPRootsHaveAMDsShapeAndSayThatTheyAreNot(t *testing.T) {
	for _, seed := range []string{"", "other"} {
		certs := softtee.NewSNP(&softtee.SNPOptions{Seed: seed}).Certificates()
		for _, c := range []string{certs.ARK.Subject.String(), certs.ASK.Subject.String(), certs.VCEK.Subject.String()} {
			if want := "SERIALNUMBER=atls softtee (insecure\\, not AMD)"; !strings.Contains(c, want) {
				t.Errorf("%q does not say %q", c, want)
			}
		}
		if !sevsnp.IsAMD(certs.ARK) || !sevsnp.IsAMD(certs.ASK) {
			t.Error("not in AMD's shape")
		}
	}
	if string(softtee.SNPRootsPEM()) == string(softtee.NewSNP(&softtee.SNPOptions{Seed: "other"}).RootsPEM()) {
		t.Error("same root")
	}
}
