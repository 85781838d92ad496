package rules

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// stubGo stands in for the go command: it fails where its arguments contain
// $FAIL, and builds a test report that has always seen two passes and a skip.
const stubGo = `#!/usr/bin/env bash
case "$*" in
"env CC") echo "$STUB_CC" ;;
"build -o "*) printf '#!/usr/bin/env bash\ncat >/dev/null\necho 2 0 1 >"$2"\n' >"$3" && chmod +x "$3" ;;
esac
[[ -z $FAIL || "$*" != *"$FAIL"* ]]
`

// TestCheckFailsWhereAStepFails runs scripts/check among stubs, and makes each of
// its steps fail in turn.
func TestCheckFailsWhereAStepFails(t *testing.T) {
	script, err := os.ReadFile(filepath.Join("..", "..", "scripts", "check"))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for name, text := range map[string]string{
		"scripts/check": string(script),
		"scripts/sync":  "#!/usr/bin/env bash\n[[ $FAIL != sync ]]\n",
		"bin/go":        stubGo,
		"sub/go.mod":    "module sub\n",
		"bin/git":       "#!/usr/bin/env bash\nprintf 'a.go\\0'\n",
		"bin/gofmt":     "#!/usr/bin/env bash\n[[ $FAIL != gofmt ]] || echo a.go\n",
		"bin/openssl":   "#!/usr/bin/env bash\n",
		"bin/swtpm":     "#!/usr/bin/env bash\n",
		"bin/nginx":     "#!/usr/bin/env bash\n",
		"bin/curl":      "#!/usr/bin/env bash\n",
		"bin/cc":        "#!/usr/bin/env bash\n",
	} {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		fail, cc string
		says     string // the last lines
		ok       bool
	}{
		{cc: "cc", says: "\n17 passed, 0 failed, 1 skipped\n", ok: true},
		{cc: "cc -m64", says: "\n17 passed, 0 failed, 1 skipped\n", ok: true},
		{cc: "no-such-cc", says: "there is no no-such-cc\n15 passed, 0 failed, 2 skipped\n", ok: true},
		{fail: "mod verify", cc: "cc", says: "failed: modules are as go.sum has them\n16 passed, 1 failed, 1 skipped\n"},
		{fail: "mod tidy -diff", cc: "cc", says: "failed: go.mod is tidy\n16 passed, 1 failed, 1 skipped\n"},
		{fail: "gofmt", cc: "cc", says: "failed: gofmt\n16 passed, 1 failed, 1 skipped\n"},
		{fail: "vet ./...", cc: "cc", says: "failed: go vet\n16 passed, 1 failed, 1 skipped\n"},
		{fail: "sync", cc: "cc", says: "failed: tls/ is its upstream plus marked hooks\n16 passed, 1 failed, 1 skipped\n"},
		{fail: "test -json -count=1 ./...", cc: "cc", says: "failed: go test ./...\n17 passed, 1 failed, 1 skipped\n"},
		{fail: "mod tidy -C sub", cc: "cc", says: "failed: the module in sub\n16 passed, 1 failed, 1 skipped\n"},
		{fail: "vet -C sub", cc: "cc", says: "failed: the module in sub\n16 passed, 1 failed, 1 skipped\n"},
		{fail: "test -C sub -json -count=1 ./...", cc: "cc", says: "failed: the module in sub\n16 passed, 1 failed, 1 skipped\n"},
		{fail: "test -json -count=1 -race", cc: "cc", says: "failed: go test -race ./...\n16 passed, 1 failed, 1 skipped\n"},
		{fail: "test -C sub -json -count=1 -race", cc: "cc", says: "failed: go test -race ./... in sub\n16 passed, 1 failed, 1 skipped\n"},
		{fail: "fuzzall", cc: "cc", says: "failed: fuzz, 5s for each target\n16 passed, 1 failed, 1 skipped\n"},
		{fail: "build ./...", cc: "cc", says: "failed: build for windows/amd64\n13 passed, 4 failed, 1 skipped\n"},
		{fail: "interop --quick", cc: "cc", says: "failed: handshakes with stacks by others, the short run\n16 passed, 1 failed, 1 skipped\n"},
	} {
		cmd := exec.CommandContext(t.Context(), "bash", filepath.Join(root, "scripts", "check"))
		cmd.Env = append(os.Environ(), "PATH="+filepath.Join(root, "bin")+":"+os.Getenv("PATH"), "FAIL="+tt.fail, "STUB_CC="+tt.cc,
			"FUZZTIME=", "FUZZBUDGET=")
		out, err := cmd.CombinedOutput()
		if (err == nil) != tt.ok {
			t.Errorf("%q fails, CC=%q: scripts/check returns %v", tt.fail, tt.cc, err)
		}
		if !strings.HasSuffix(string(out), tt.says) {
			t.Errorf("%q fails, CC=%q: scripts/check does not end in %q:\n%s", tt.fail, tt.cc, tt.says, out)
		}
	}
}
