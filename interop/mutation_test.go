package interop

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// underRace is set where the race detector is on, which has nothing to say about the
// programs that TestMutationsAreNoticed builds.
var underRace bool

// A mutation changes one thing about what this project puts on the wire or into
// evidence, so that it no longer agrees with anybody else.
var mutations = []struct {
	name     string
	file     string
	old, new string
	noticed  []string // cases that must not pass
}{
	{"a byte of the binder's label", "keyschedule/keyschedule.go", `= "attestation-binder"`, `= "attestation-bindes"`, []string{"attest.server.x509.hardened", "attest.server.x509.draft08"}},
	{"a code point", "attestext/codepoints.go", "fill(&p.EvidenceRequest, 0xFFA1)", "fill(&p.EvidenceRequest, 0xFFA9)", []string{"attest.server.x509.hardened", "attest.server.x509.draft08"}},
	{"the hash of the key", "attestext/challenge.go", "sha256.Sum256(c.SPKI)", "sha256.Sum224(c.SPKI)", []string{"attest.server.x509.hardened"}},
	{"the label of the exporter", "tls/exportedauth/attestation.go", `LabelAttestation = "Attestation"`, `LabelAttestation = "attestation"`, []string{"expat.server"}},
}

// TestMutationsAreNoticed breaks one thing at a time in a copy of the command, and has
// it shake hands with OpenSSL: cells that it touches must fail, and the others pass.
// Both ends of such a program agree with each other, so that its own tests of handshakes
// would pass.
func TestMutationsAreNoticed(t *testing.T) {
	if underRace {
		t.Skip("the programs that it builds are the same without the race detector")
	}
	if testing.Short() {
		t.Skip("it builds the command four times")
	}
	if exec.CommandContext(t.Context(), "sh", "-c", `echo '#include <openssl/ssl.h>' | cc -E -`).Run() != nil {
		t.Skip("there is no C compiler with libssl-dev to build the peer with")
	}
	cases := []string{"attest.server.x509.hardened", "attest.server.x509.draft08", "expat.server"}
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			outcomes := outcomesOf(t, mutant(t, m.file, m.old, m.new), cases)
			for _, c := range cases {
				want := Passed
				for _, n := range m.noticed {
					if n == c {
						want = Failed
					}
				}
				if outcomes[c] != want {
					t.Errorf("%s: %s, want %s", c, outcomes[c], want)
				}
			}
		})
	}
}

// mutant builds the command with one change in one file, and leaves the tree alone.
func mutant(t *testing.T, file, old, new string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", file))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), old) != 1 {
		t.Fatalf("%s has %q %d times, want once", file, old, strings.Count(string(text), old))
	}
	dir := t.TempDir()
	changed, overlay, program := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "atls")
	b, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{changed: []byte(strings.Replace(string(text), old, new, 1)), overlay: b} {
		if err := os.WriteFile(name, data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-overlay", overlay, "-o", program, "../cmd/atls")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// outcomesOf has a program run cases with OpenSSL as the client.
func outcomesOf(t *testing.T, program string, cases []string) map[string]string {
	t.Helper()
	args := []string{"interop", "--json", "--peer", "openssl", "--keep", t.TempDir()}
	for _, c := range cases {
		args = append(args, "--case", c)
	}
	out, _ := exec.CommandContext(t.Context(), program, args...).Output() // the status is that of the failures
	outcomes := map[string]string{}
	for line := range strings.Lines(string(out)) {
		var r Row
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if r.PeerRole == "client" {
			outcomes[r.Case] = r.Outcome
		}
	}
	return outcomes
}
