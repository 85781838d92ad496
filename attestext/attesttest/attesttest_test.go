package attesttest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attesttest"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/internal/softtarget"
)

// one cuts a target down to one type and one rule, for tests that take it many times.
func one(g *attesttest.Target) *attesttest.Target {
	g.Types = []attestext.EvidenceType{{Kind: attestext.CertAttestation, Format: tsm.FormatCBOR}}
	g.Bindings = nil
	return g
}

func TestLocalVerifierRefusesAllBadEvidence(t *testing.T) {
	attesttest.Run(t, softtarget.TDX(t, softtarget.Local))
}

// lax is a verifier with a hole: what fix returns for the answer of another one.
type lax struct {
	attestext.Verifier
	fix func(ev *attestext.Evidence, c *attestext.Challenge, a *attestext.Appraisal, err error) (*attestext.Appraisal, error)
}

func (l lax) Appraise(ctx context.Context, ev *attestext.Evidence, c *attestext.Challenge) (*attestext.Appraisal, error) {
	a, err := l.Verifier.Appraise(ctx, ev, c)
	return l.fix(ev, c, a, err)
}

// failed returns the cases that v fails.
func failed(t *testing.T, g *attesttest.Target) []string {
	t.Helper()
	var out []string
	for _, o := range attesttest.Check(t.Context(), g) {
		if o.Status == attesttest.Failed {
			if o.Detail == "" {
				t.Errorf("%v does not say why", o)
			}
			out = append(out, o.Case)
		}
	}
	return out
}

// badEvidence are the cases that a verifier fails which accepts everything, in order.
var badEvidence = []string{
	"zero quote", "zero evidence", "unsigned", "flipped bit in a field", "flipped bit in the evidence",
	"truncated quote", "truncated evidence", "over-long quote", "over-long evidence", "trailing bytes after the quote",
	"trailing bytes after the evidence", "stale", "wrong binder", "reflected", "nonce in place of the binder", "wrong role",
	"wrong key", "empty expected values", "type that was not selected", "other TEE", "other root", "revoked", "expired collateral", "debug",
}

func TestVerifierWithAHoleFails(t *testing.T) {
	genuine := func() (*attestext.Appraisal, error) { return &attestext.Appraisal{Verdict: "affirming"}, nil }
	// ignoring has errors of a class, if they say something, count for nothing.
	ignoring := func(class error, say string) func(*attestext.Evidence, *attestext.Challenge, *attestext.Appraisal, error) (*attestext.Appraisal, error) {
		return func(_ *attestext.Evidence, _ *attestext.Challenge, a *attestext.Appraisal, err error) (*attestext.Appraisal, error) {
			if err != nil && attestext.Class(err) == class && strings.Contains(err.Error(), say) {
				return genuine()
			}
			return a, err
		}
	}
	every := badEvidence
	for _, tt := range []struct {
		name  string
		fix   func(*attestext.Evidence, *attestext.Challenge, *attestext.Appraisal, error) (*attestext.Appraisal, error)
		fails []string // all of them, in order
		among bool     // or these among others
	}{
		{"accepts everything", func(*attestext.Evidence, *attestext.Challenge, *attestext.Appraisal, error) (*attestext.Appraisal, error) {
			return genuine()
		}, every, false},
		{"refuses everything", func(*attestext.Evidence, *attestext.Challenge, *attestext.Appraisal, error) (*attestext.Appraisal, error) {
			return nil, attestext.Errorf(attestext.ErrUnavailable, "appraise", "out of order")
		}, []string{"honest evidence, first", "stale", "other root", "honest evidence, last"}, true},
		{"does not check the binding", ignoring(attestext.ErrBinding, ""),
			[]string{"stale", "wrong binder", "reflected", "nonce in place of the binder", "wrong role", "wrong key"}, false},
		{"checks no signature", ignoring(attestext.ErrSignature, ""), []string{"unsigned", "flipped bit in a field", "other root"}, true},
		{"takes what does not parse", ignoring(attestext.ErrMalformed, ""), []string{"zero quote", "zero evidence", "truncated quote", "truncated evidence"}, true},
		{"takes bytes after the quote", ignoring(attestext.ErrMalformed, "bytes after the quote"), []string{"trailing bytes after the quote"}, true},
		{"has no policy", ignoring(attestext.ErrPolicy, ""), []string{"debug"}, true},
		{"takes other types", ignoring(attestext.ErrWrongType, ""), []string{"type that was not selected", "other TEE"}, true},
		{"does not look for missing values", ignoring(attestext.ErrUnavailable, "challenge"), []string{"empty expected values"}, false},
		{"takes expired collateral", func(_ *attestext.Evidence, _ *attestext.Challenge, a *attestext.Appraisal, err error) (*attestext.Appraisal, error) {
			return a, err
		}, []string{"expired collateral"}, false},
		{"gives its errors no class", func(_ *attestext.Evidence, _ *attestext.Challenge, a *attestext.Appraisal, err error) (*attestext.Appraisal, error) {
			if err != nil {
				return nil, errors.New("no")
			}
			return a, nil
		}, every, false},
		{"panics over bad evidence", func(_ *attestext.Evidence, _ *attestext.Challenge, a *attestext.Appraisal, err error) (*attestext.Appraisal, error) {
			if err != nil {
				panic(err)
			}
			return a, nil
		}, every, false},
		{"names a machine of zeros", func(_ *attestext.Evidence, _ *attestext.Challenge, a *attestext.Appraisal, err error) (*attestext.Appraisal, error) {
			if a != nil {
				a.Machine = "tdx-platform:00000000000000000000000000000000"
			}
			return a, err
		}, []string{"honest evidence, first", "zero machine", "honest evidence, last"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := one(softtarget.TDX(t, softtarget.Local))
			hole := func(v attestext.Verifier) attestext.Verifier { return lax{v, tt.fix} }
			g.Verifier = hole(g.Verifier)
			for _, sp := range []*attesttest.Special{g.Revoked, g.Expired} {
				sp.Verifier = hole(sp.Verifier)
			}
			if tt.name == "takes expired collateral" {
				g.Expired = &attesttest.Special{Verifier: g.Verifier}
			}
			got := failed(t, g)
			if tt.among {
				for _, name := range tt.fails {
					if !slices.Contains(got, name) {
						t.Errorf("%q does not fail, but %q", name, got)
					}
				}
			} else if !slices.Equal(got, tt.fails) {
				t.Errorf("fails %q, want %q", got, tt.fails)
			}
		})
	}
}

// A verifier that does not answer fails every case, each when its time is up.
func TestVerifierThatDoesNotAnswerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := one(softtarget.TDX(t, softtarget.Local))
		g.Timeout = time.Second
		g.Open = nil
		released := make(chan struct{})
		g.Verifier = lax{g.Verifier, func(*attestext.Evidence, *attestext.Challenge, *attestext.Appraisal, error) (*attestext.Appraisal, error) {
			<-released // whatever the context says
			return &attestext.Appraisal{Verdict: "affirming"}, nil
		}}
		g.Revoked, g.Expired = nil, nil
		for _, o := range attesttest.Check(t.Context(), g) {
			if o.Status == attesttest.Passed || o.Status == attesttest.Failed && !strings.Contains(o.Detail, "no answer within 1s") {
				t.Error(o)
			}
		}
		close(released)
	})
}

func TestCasesWithoutTheirEvidenceAreReportedAsNotRun(t *testing.T) {
	g := one(softtarget.TDX(t, softtarget.Local))
	*g = attesttest.Target{Verifier: g.Verifier, Honest: g.Honest, Types: g.Types}
	var notRun []string
	for _, o := range attesttest.Check(t.Context(), g) {
		switch o.Status {
		case attesttest.Failed:
			t.Error(o)
		case attesttest.NotRun:
			notRun = append(notRun, o.Case+": "+o.Detail)
		}
	}
	want := []string{
		"zero quote: Target.Open is not set",
		"unsigned: neither Target.Unsigned nor Target.Open is set",
		"flipped bit in a field: Target.Open is not set",
		"truncated quote: Target.Open is not set",
		"over-long quote: Target.Open is not set",
		"trailing bytes after the quote: Target.Open is not set",
		"other TEE: Target.OtherTEE is not set",
		"other root: Target.OtherRoot is not set",
		"revoked: Target.Revoked is not set",
		"expired collateral: Target.Expired is not set",
		"debug: Target.Debug is not set",
		"zero machine: Target.ZeroMachine is not set",
	}
	if !slices.Equal(notRun, want) {
		t.Errorf("not run: %q, want %q", notRun, want)
	}
}

func TestTargetThatCannotBeTriedFails(t *testing.T) {
	full := one(softtarget.TDX(t, softtarget.Local))
	for name, g := range map[string]*attesttest.Target{
		"nil":               nil,
		"no verifier":       {Honest: full.Honest},
		"no attester":       {Verifier: full.Verifier},
		"no types":          {Verifier: full.Verifier, Honest: full.Honest, Types: []attestext.EvidenceType{}},
		"no rules":          {Verifier: full.Verifier, Honest: full.Honest, Bindings: []attestext.Binding{}},
		"nothing in common": {Honest: full.Honest, Verifier: mute{full.Verifier}},
	} {
		if o := attesttest.Check(t.Context(), g); len(o) != 1 || o[0].Status != attesttest.Failed {
			t.Errorf("%s: %v", name, o)
		}
	}
	g := one(softtarget.TDX(t, softtarget.Local))
	g.Debug = &attesttest.Special{}
	if got := failed(t, g); !slices.Equal(got, []string{"debug"}) {
		t.Errorf("a special without anything fails %q", got)
	}
	g = one(softtarget.TDX(t, softtarget.Local))
	g.Open = func([]byte) (*attesttest.Opened, error) { return nil, errors.New("cannot open") }
	if got := failed(t, g); len(got) != 6 {
		t.Errorf("evidence that cannot be opened fails %q", got)
	}
}

// mute lists no formats.
type mute struct{ attestext.Verifier }

func (mute) Formats(attestext.CredentialKind) []attestext.EvidenceFormat { return nil }

const laxEnv = "ATTESTTEST_LAX"

// TestLaxTarget is run by TestRunFailsTheTest only, in a process of its own.
func TestLaxTarget(t *testing.T) {
	if os.Getenv(laxEnv) == "" {
		return
	}
	g := one(softtarget.TDX(t, softtarget.Local))
	g.ZeroMachine = nil
	g.Verifier = lax{g.Verifier, func(_ *attestext.Evidence, _ *attestext.Challenge, a *attestext.Appraisal, err error) (*attestext.Appraisal, error) {
		if errors.Is(err, attestext.ErrBinding) {
			return &attestext.Appraisal{Verdict: "affirming"}, nil
		}
		return a, err
	}}
	attesttest.Run(t, g)
}

func TestRunFailsTheTest(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestLaxTarget$", "-test.v")
	cmd.Env = append(os.Environ(), laxEnv+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("the test of a lax verifier ends with %v:\n%s", err, out)
	}
	for _, want := range []string{"stale", "wrong_binder", "reflected", "wrong_role", "wrong_key"} {
		if !strings.Contains(string(out), fmt.Sprintf("/%s (", want)) || !failedLine(string(out), want) {
			t.Errorf("%s does not fail in\n%s", want, out)
		}
	}
	if failedLine(string(out), "other_root") || !strings.Contains(string(out), "not run: Target.ZeroMachine is not set") {
		t.Errorf("%s", out)
	}
}

func failedLine(out, name string) bool {
	for line := range strings.Lines(out) {
		if strings.Contains(line, "--- FAIL: ") && strings.Contains(line, "/"+name+" (") {
			return true
		}
	}
	return false
}
