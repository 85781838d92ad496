package verifier_test

import (
	"os/exec"
	"strings"
	"testing"
)

// Packages of the TEE libraries that must not be linked in: their clients register
// command-line flags when they are imported, and their testing packages belong
// in tests.
func TestNoFlagsNorTestingPackagesComeAlong(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command")
	}
	out, err := exec.Command(goTool, "list", "-deps",
		"github.com/attestedtls/atls/attestext/verifier",
		"github.com/attestedtls/atls/attestext/softtee",
		"github.com/attestedtls/atls/attestext/attester",
		"github.com/attestedtls/atls/attestext/configfs").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		if dep == "testing" ||
			(strings.HasPrefix(dep, "github.com/google/go-tdx-guest/") || strings.HasPrefix(dep, "github.com/google/go-sev-guest/")) &&
				(strings.Contains(dep, "/testing") || strings.Contains(dep, "/client") || strings.Contains(dep, "/tools")) {
			t.Errorf("imports %s", dep)
		}
	}
}

func TestPolicyReadsNoEvidence(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command")
	}
	out, err := exec.Command(goTool, "list", "-deps", "github.com/attestedtls/atls/attestext/policy").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(out)) {
		if strings.Contains(dep, "go-tdx-guest") || strings.Contains(dep, "go-sev-guest") ||
			strings.Contains(dep, "attestext/tdx") || strings.Contains(dep, "attestext/sevsnp") || strings.Contains(dep, "attestext/cmw") ||
			strings.Contains(dep, "go-tpm") || strings.Contains(dep, "attestext/tpm") {
			t.Errorf("imports %s", strings.TrimSpace(dep))
		}
	}
}
