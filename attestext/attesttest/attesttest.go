// Package attesttest is a suite of bad evidence that every verifier has to refuse.
// Start with [Run], from a test of the verifier:
//
//	attesttest.Run(t, &attesttest.Target{Verifier: v, Honest: a, Open: attesttest.OpenTDX})
//
// It belongs in tests: it imports package testing.
package attesttest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
)

// DefaultTimeout is how long a verifier, or an attester, has for each answer.
const DefaultTimeout = 10 * time.Second

// A Target is a verifier together with what the suite needs to try it. Verifier
// and Honest must be set. What else is nil is evidence that the suite cannot make
// by itself: its cases are reported as not run, with the reason.
type Target struct {
	// Verifier is what is tried.
	Verifier attestext.Verifier
	// Honest makes evidence that Verifier must accept, for any challenge, and in which
	// there is nothing that a verifier may pass over, as it may a root certificate.
	Honest attestext.Attester

	// Types are what is tried, each with all cases. nil means each kind of
	// credential with each format that both Honest and Verifier list; none is a
	// failure.
	Types []attestext.EvidenceType
	// Bindings are the rules to try each type under. nil means BindingHardened.
	Bindings []attestext.Binding
	// Timeout bounds each answer of a verifier or attester; a later one is a
	// failure. Zero means DefaultTimeout.
	Timeout time.Duration

	// Open takes evidence of Honest apart, so that the quote inside can be
	// damaged. See OpenTDX.
	Open func(cmw []byte) (*Opened, error)

	// Unsigned has evidence without a signature. Where it is nil and Open names
	// the signatures, they are set to zero.
	Unsigned *Special
	// OtherTEE has evidence of a TEE or provider that the verifier does not read.
	OtherTEE *Special
	// OtherRoot has evidence under a root that the verifier does not trust.
	OtherRoot *Special
	// Revoked has evidence of a machine whose certificate is revoked.
	Revoked *Special
	// Expired has a verifier whose collateral has expired.
	Expired *Special
	// Debug has evidence of a TEE under debug.
	Debug *Special
	// ZeroMachine has genuine evidence in which the machine's identity is zero, as
	// where the platform hides it. It may be accepted if the Appraisal then names
	// no machine: one that all such machines share is none.
	ZeroMachine *Special
}

// A Special is a situation that must lead to refusal. One of the fields must be set.
type Special struct {
	// Attester makes the evidence; nil means Target.Honest.
	Attester attestext.Attester
	// Verifier appraises it; nil means Target.Verifier.
	Verifier attestext.Verifier
}

// Opened is evidence taken apart.
type Opened struct {
	// Quote is what the TEE signed, with the signature.
	Quote []byte
	// Fields are the parts of Quote in which no bit can change unnoticed.
	Fields []Field
	// Wrap returns evidence like that which was opened, with another quote. It
	// must not look at the quote. An error means that none can be wrapped, for
	// example because it is too long, and counts as a refusal.
	Wrap func(quote []byte) ([]byte, error)
}

// A Field is a part of a quote.
type Field struct {
	Name         string
	Offset, Size int // in bytes
	// Signature says that it is a signature, without which the quote is unsigned.
	Signature bool
}

// A Status is how a case came out.
type Status uint8

const (
	// Failed: the verifier accepted what it must refuse, or the reverse, or
	// refused for another reason than it should, panicked, or gave no answer.
	// The zero Status is Failed.
	Failed Status = iota
	// Passed: the verifier did as it must.
	Passed
	// NotRun: the Target lacks what the case needs.
	NotRun
)

// String returns "failed", "passed" or "not run".
func (s Status) String() string {
	switch s {
	case Failed:
		return "failed"
	case Passed:
		return "passed"
	case NotRun:
		return "not run"
	}
	return fmt.Sprintf("status(%d)", uint8(s))
}

// An Outcome is that of one case.
type Outcome struct {
	Group  string // type of evidence and binding rule
	Case   string // for example "wrong binder"
	Status Status
	// Detail says what is wrong, a line for each fault, or why the case was not
	// run. Empty where Status is Passed.
	Detail string
}

// String returns "group: case: status: detail".
func (o Outcome) String() string {
	s := fmt.Sprintf("%s: %s: %v", o.Group, o.Case, o.Status)
	if o.Detail != "" {
		s += ": " + o.Detail
	}
	return s
}

// Run tries target, with a subtest for each case, which fails or is skipped as its
// [Outcome] says. Cases run one after the other. For each type of evidence and each
// rule the first and the last have honest evidence, which must be accepted, so
// that a verifier that refuses everything does not pass.
//
// A refusal must be of the class that goes with the case. Cases that have no
// meaning are left out: a raw report covers no key under BindingDraft08, a
// key attestation token covers no role, attestation-only knows no other key.
func Run(t *testing.T, target *Target) {
	t.Helper()
	count := map[Status]int{}
	for _, g := range groups(target) {
		t.Run(testName(g.name), func(t *testing.T) {
			for _, c := range g.cases {
				t.Run(testName(c.name), func(t *testing.T) {
					o := c.outcome(t.Context(), g.name)
					count[o.Status]++
					switch o.Status {
					case NotRun:
						t.Skip("not run: " + o.Detail)
					case Failed:
						t.Error(o.Detail)
					}
				})
			}
		})
	}
	t.Logf("%d cases passed, %d failed, %d not run", count[Passed], count[Failed], count[NotRun])
}

// testName returns a name that is one level of a test's.
func testName(s string) string { return strings.ReplaceAll(s, "/", "_") }

// Check tries target as [Run] does, and returns the outcome of each case. When ctx
// ends, the cases that are left fail.
func Check(ctx context.Context, target *Target) []Outcome {
	var out []Outcome
	for _, g := range groups(target) {
		for _, c := range g.cases {
			out = append(out, c.outcome(ctx, g.name))
		}
	}
	return out
}

// A group is the cases of one type of evidence under one rule.
type group struct {
	name  string
	cases []testCase
}

// A testCase finds faults, or says in notRun why it cannot look for them.
type testCase struct {
	name   string
	notRun string
	run    func(ctx context.Context) []error
}

func (c testCase) outcome(ctx context.Context, group string) Outcome {
	o := Outcome{Group: group, Case: c.name, Status: Passed}
	if c.notRun != "" {
		o.Status, o.Detail = NotRun, c.notRun
		return o
	}
	var lines []string
	for _, err := range c.run(ctx) {
		lines = append(lines, err.Error())
	}
	if len(lines) != 0 {
		o.Status, o.Detail = Failed, strings.Join(lines, "\n")
	}
	return o
}

// broken returns a group of one case that fails.
func broken(format string, args ...any) []group {
	err := fmt.Errorf(format, args...)
	return []group{{"target", []testCase{{name: "complete", run: func(context.Context) []error { return []error{err} }}}}}
}

func groups(target *Target) []group {
	if target == nil || target.Verifier == nil || target.Honest == nil {
		return broken("the target has no verifier or no honest attester")
	}
	types := target.Types
	if types == nil {
		types = commonTypes(target)
	}
	bindings := target.Bindings
	if bindings == nil {
		bindings = []attestext.Binding{attestext.BindingHardened}
	}
	if len(types) == 0 || len(bindings) == 0 {
		return broken("there is nothing to try: %d types of evidence, %d binding rules", len(types), len(bindings))
	}
	var out []group
	for _, typ := range types {
		for _, binding := range bindings {
			s := &suite{Target: target, typ: typ, binding: binding, timeout: target.Timeout}
			if s.timeout == 0 {
				s.timeout = DefaultTimeout
			}
			out = append(out, group{fmt.Sprintf("%v, %v", typ, binding), s.cases()})
		}
	}
	return out
}

func commonTypes(target *Target) []attestext.EvidenceType {
	var out []attestext.EvidenceType
	for _, kind := range []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly} {
		read := target.Verifier.Formats(kind)
		for _, f := range target.Honest.Formats(kind) {
			if slices.ContainsFunc(read, f.Equal) {
				out = append(out, attestext.EvidenceType{Kind: kind, Format: f})
			}
		}
	}
	return out
}
