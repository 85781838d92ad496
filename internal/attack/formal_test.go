package attack

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each query of the models has an expectation. Whether it comes to that is for
// docs/formal/check to say, which needs ProVerif and minutes.
func TestModelsHaveAnExpectationForEachQuery(t *testing.T) {
	models, err := filepath.Glob("../../docs/formal/*.pv")
	if err != nil || len(models) != 3 {
		t.Fatalf("models %q, %v", models, err)
	}
	query := regexp.MustCompile(`(?m)^query `)
	expectation := regexp.MustCompile(`^(true|false|unproved) +\S`)
	for _, model := range models {
		text, err := os.ReadFile(model)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(strings.TrimSuffix(model, ".pv") + ".expected")
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(want)), "\n")
		if n := len(query.FindAll(text, -1)); n != len(lines) {
			t.Errorf("%s has %d queries, and %d are expected", model, n, len(lines))
		}
		for _, line := range lines {
			if !expectation.MatchString(line) {
				t.Errorf("%s: expectation %q", model, line)
			}
		}
	}
}

// Without ProVerif nothing passes.
func TestModelsAreNotCheckedWithoutProVerif(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	// A directory with what the script needs, and nothing else.
	dir := t.TempDir()
	dirname, err := exec.LookPath("dirname")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dirname, filepath.Join(dir, "dirname")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bash, "../../docs/formal/check")
	cmd.Env = []string{"PATH=" + dir}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 77 || !strings.Contains(string(out), "SKIPPED") {
		t.Errorf("%v\n%s", err, out)
	}
}
