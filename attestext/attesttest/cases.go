package attesttest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
)

// The classes that a refusal may have.
var (
	anyClass = []error{
		attestext.ErrMalformed, attestext.ErrBinding, attestext.ErrSignature,
		attestext.ErrPolicy, attestext.ErrUnavailable, attestext.ErrWrongType,
	}
	// The peer's fault, by whichever check comes first.
	damaged = []error{attestext.ErrMalformed, attestext.ErrSignature, attestext.ErrWrongType, attestext.ErrBinding, attestext.ErrPolicy}
	// What has lost its name, such as a certificate beside a quote, is missing.
	orIncomplete = append(slices.Clone(damaged), attestext.ErrUnavailable)
	badSyntax    = []error{attestext.ErrMalformed, attestext.ErrWrongType, attestext.ErrSignature}
	unbound      = []error{attestext.ErrBinding}
	otherType    = []error{attestext.ErrWrongType, attestext.ErrMalformed}
	untrusted    = []error{attestext.ErrSignature}
	revoked      = []error{attestext.ErrSignature, attestext.ErrPolicy}
	expired      = []error{attestext.ErrUnavailable, attestext.ErrSignature, attestext.ErrPolicy}
	policy       = []error{attestext.ErrPolicy}
)

const (
	// samples is in how many places long inputs are cut or damaged.
	samples = 48
	// Lengths of what is appended: beyond any quote, and beyond any Certificate message.
	longQuote    = 128 << 10
	longEvidence = 2 << 20
)

// A suite tries one type of evidence under one rule.
type suite struct {
	*Target
	typ     attestext.EvidenceType
	binding attestext.Binding
	timeout time.Duration
}

// report reports whether the evidence may be a raw report, which covers the role
// under BindingHardened, and otherwise neither role nor key. A token is the other way round.
func (s *suite) report() bool {
	return s.typ.Kind == attestext.CertAttestation && s.typ.Format.MayBeReport()
}

func (s *suite) cases() []testCase {
	const noOpen = "Target.Open is not set"
	withQuote := func(name string, run func(ctx context.Context, q *opened) []error) testCase {
		c := testCase{name: name, run: func(ctx context.Context) []error {
			q, err := s.open(ctx)
			if err != nil {
				return []error{err}
			}
			return run(ctx, q)
		}}
		if s.Open == nil {
			c.notRun = noOpen
		}
		return c
	}
	special := func(name, field string, sp *Special, classes []error) testCase {
		c := testCase{name: name, run: func(ctx context.Context) []error { return s.special(ctx, field, sp, classes) }}
		if sp == nil {
			c.notRun = "Target." + field + " is not set"
		}
		return c
	}

	out := []testCase{
		{name: "honest evidence, first", run: s.honest},
		withQuote("zero quote", s.zeroQuote),
		{name: "zero evidence", run: s.zeroEvidence},
	}
	if s.Unsigned != nil {
		out = append(out, special("unsigned", "Unsigned", s.Unsigned, damaged))
	} else {
		c := withQuote("unsigned", s.unsigned)
		if s.Open == nil {
			c.notRun = "neither Target.Unsigned nor Target.Open is set"
		}
		out = append(out, c)
	}
	out = append(out,
		withQuote("flipped bit in a field", s.flippedFields),
		testCase{name: "flipped bit in the evidence", run: s.flippedEvidence},
		withQuote("truncated quote", s.truncatedQuote),
		testCase{name: "truncated evidence", run: s.truncatedEvidence},
		withQuote("over-long quote", s.longQuote),
		testCase{name: "over-long evidence", run: s.longEvidence},
		withQuote("trailing bytes after the quote", s.trailingQuote),
		testCase{name: "trailing bytes after the evidence", run: s.trailingEvidence},
		testCase{name: "stale", run: s.stale},
		testCase{name: "wrong binder", run: s.wrongBinder},
		testCase{name: "reflected", run: s.reflected},
	)
	if s.challenge("").UsesBinder() {
		out = append(out, testCase{name: "nonce in place of the binder", run: s.nonceForBinder})
	}
	if s.report() && s.binding == attestext.BindingHardened {
		out = append(out, testCase{name: "wrong role", run: s.wrongRole})
	}
	if s.typ.Kind == attestext.CertAttestation && (s.binding == attestext.BindingHardened || !s.report()) {
		out = append(out, testCase{name: "wrong key", run: s.wrongKey})
	}
	out = append(out, testCase{name: "empty expected values", run: s.incomplete})
	if !s.typ.Format.IsAny() {
		out = append(out, testCase{name: "type that was not selected", run: s.otherFormat})
	}
	return append(out,
		special("other TEE", "OtherTEE", s.OtherTEE, otherType),
		special("other root", "OtherRoot", s.OtherRoot, untrusted),
		special("revoked", "Revoked", s.Revoked, revoked),
		special("expired collateral", "Expired", s.Expired, expired),
		special("debug", "Debug", s.Debug, policy),
		special("zero machine", "ZeroMachine", s.ZeroMachine, damaged),
		testCase{name: "honest evidence, last", run: s.honest},
	)
}

// fill returns bytes that differ for each name and have no meaning.
func fill(name string) []byte {
	h := sha512.Sum512([]byte("attesttest " + name))
	return h[:]
}

// spki returns the TLS key of that name.
func spki(name string) []byte {
	d := sha256.Sum256([]byte("attesttest key " + name))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	if err != nil {
		panic("attesttest: " + err.Error()) // one name in 2³²
	}
	b, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		panic("attesttest: " + err.Error())
	}
	return b
}

// challenge returns that of the handshake of that name, as the attesting side has it.
func (s *suite) challenge(name string) *attestext.Challenge {
	return &attestext.Challenge{
		Role: attestext.RoleServer, Binding: s.binding, Kind: s.typ.Kind,
		Nonce: fill("nonce " + name), Binder: fill("binder " + name), SPKI: spki(""),
	}
}

// expected returns c as the relying party has it.
func expected(c *attestext.Challenge) *attestext.Challenge {
	e := *c
	if e.Kind == attestext.AttestationOnly {
		e.SPKI = nil
	}
	return &e
}

func (s *suite) attest(ctx context.Context, a attestext.Attester, c *attestext.Challenge) (*attestext.Evidence, error) {
	b, err := attestext.Attest(ctx, s.timeout, a, &attestext.AttestRequest{Type: s.typ, Challenge: c})
	if err != nil {
		return nil, fmt.Errorf("no evidence to try: %w", err)
	}
	return &attestext.Evidence{Type: s.typ, CMW: b}, nil
}

// with returns evidence like ev with other bytes.
func (s *suite) with(cmw []byte) *attestext.Evidence {
	return &attestext.Evidence{Type: s.typ, CMW: cmw}
}

// guard notes how a call of a Verifier ended that was not an answer.
type guard struct {
	attestext.Verifier
	panicked any
}

func (g *guard) Appraise(ctx context.Context, ev *attestext.Evidence, c *attestext.Challenge) (a *attestext.Appraisal, err error) {
	defer func() {
		if p := recover(); p != nil {
			g.panicked = p
			a, err = nil, fmt.Errorf("panicked: %v", p)
		}
	}()
	return g.Verifier.Appraise(ctx, ev, c)
}

// appraise has v appraise ev as a handshake does. The second error is that the
// verifier gave no answer.
func (s *suite) appraise(ctx context.Context, v attestext.Verifier, ev *attestext.Evidence, c *attestext.Challenge) (r *attestext.Result, refused, fault error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	g := &guard{Verifier: v}
	r, err := attestext.Appraise(ctx, 2*s.timeout, g, ev, c)
	switch {
	case ctx.Err() != nil:
		return nil, nil, fmt.Errorf("no answer within %v", s.timeout)
	case g.panicked != nil:
		return nil, nil, fmt.Errorf("panicked: %v", g.panicked)
	}
	return r, err, nil
}

// wants returns what is wrong with a refusal, if it is not of one of the classes.
func wants(err error, classes []error) error {
	if slices.ContainsFunc(classes, func(c error) bool { return errors.Is(err, c) }) {
		return nil
	}
	var names []string
	for _, c := range classes {
		names = append(names, fmt.Sprintf("%q", c))
	}
	return fmt.Errorf("refused with %q, want the class %s", err, strings.Join(names, " or "))
}

// refuse has v appraise ev, which it must refuse. what names the variant of the case.
func (s *suite) refuse(ctx context.Context, what string, v attestext.Verifier, ev *attestext.Evidence, c *attestext.Challenge, classes []error) error {
	r, err, fault := s.appraise(ctx, v, ev, c)
	switch {
	case fault != nil:
	case err == nil:
		fault = fmt.Errorf("accepted, with the verdict %q", r.Verdict())
	default:
		fault = wants(err, classes)
	}
	if fault != nil && what != "" {
		fault = fmt.Errorf("%s: %w", what, fault)
	}
	return fault
}

// list returns the errors that are not nil.
func list(errs ...error) []error {
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// mismatch has evidence made for one challenge appraised against another, and both
// changed by change.
func (s *suite) mismatch(ctx context.Context, change func(made, wanted *attestext.Challenge)) []error {
	made, wanted := s.challenge(""), s.challenge("")
	change(made, wanted)
	ev, err := s.attest(ctx, s.Honest, made)
	if err != nil {
		return list(err)
	}
	return list(s.refuse(ctx, "", s.Verifier, ev, expected(wanted), unbound))
}

func (s *suite) honest(ctx context.Context) []error {
	c := s.challenge("honest")
	ev, err := s.attest(ctx, s.Honest, c)
	if err != nil {
		return list(err)
	}
	r, refused, fault := s.appraise(ctx, s.Verifier, ev, expected(c))
	switch {
	case fault != nil:
		return list(fault)
	case refused != nil:
		return list(fmt.Errorf("honest evidence is refused: %w", refused))
	case zeroMachine(r.Machine()):
		return list(fmt.Errorf("the machine is %q, which is none", r.Machine()))
	case c.Kind == attestext.AttestationOnly && !bytes.Equal(r.Key(), c.SPKI):
		return list(fmt.Errorf("the attested key is %x, want %x", r.Key(), c.SPKI))
	}
	return nil
}

// zeroMachine reports whether the identity is made of zeros behind its scheme.
func zeroMachine(id string) bool {
	_, digits, ok := strings.Cut(id, ":")
	if !ok {
		digits = id
	}
	return digits != "" && strings.Trim(digits, "0") == "" || ok && digits == ""
}

func (s *suite) special(ctx context.Context, field string, sp *Special, classes []error) []error {
	if sp.Attester == nil && sp.Verifier == nil {
		return list(fmt.Errorf("Target.%s has neither an attester nor a verifier", field))
	}
	a, v := sp.Attester, sp.Verifier
	if a == nil {
		a = s.Honest
	}
	if v == nil {
		v = s.Verifier
	}
	c := s.challenge("special")
	ev, err := s.attest(ctx, a, c)
	if err != nil {
		return list(err)
	}
	if field == "ZeroMachine" {
		if r, refused, fault := s.appraise(ctx, v, ev, expected(c)); fault == nil && refused == nil {
			if m := r.Machine(); m != "" {
				return list(fmt.Errorf("accepted as the machine %q", m))
			}
			return nil
		}
	}
	return list(s.refuse(ctx, "", v, ev, expected(c), classes))
}

// opened is honest evidence taken apart.
type opened struct {
	*Opened
	c *attestext.Challenge
}

func (s *suite) open(ctx context.Context) (*opened, error) {
	c := s.challenge("opened")
	ev, err := s.attest(ctx, s.Honest, c)
	if err != nil {
		return nil, err
	}
	o, err := s.Open(ev.CMW)
	if err != nil {
		return nil, fmt.Errorf("Target.Open: %w", err)
	}
	if len(o.Quote) == 0 || len(o.Fields) == 0 || o.Wrap == nil {
		return nil, errors.New("Target.Open returned no quote, no fields or no way to wrap")
	}
	for _, f := range o.Fields {
		if f.Offset < 0 || f.Size <= 0 || f.Size > len(o.Quote) || f.Offset > len(o.Quote)-f.Size {
			return nil, fmt.Errorf("Target.Open returned the field %q, which is not in the quote", f.Name)
		}
	}
	// Without a change it must be accepted, or refusals would say nothing.
	b, err := o.Wrap(bytes.Clone(o.Quote))
	if err != nil {
		return nil, fmt.Errorf("Target.Open: Wrap: %w", err)
	}
	_, refused, fault := s.appraise(ctx, s.Verifier, s.with(b), expected(c))
	if err := errors.Join(refused, fault); err != nil {
		return nil, fmt.Errorf("evidence taken apart and put together unchanged is refused: %w", err)
	}
	return &opened{o, c}, nil
}

// damage has evidence with another quote appraised.
func (s *suite) damage(ctx context.Context, what string, q *opened, quote []byte, classes []error) error {
	b, err := q.Wrap(quote)
	if err != nil {
		return nil
	}
	return s.refuse(ctx, what, s.Verifier, s.with(b), expected(q.c), classes)
}

func (s *suite) zeroQuote(ctx context.Context, q *opened) []error {
	return list(
		s.damage(ctx, "zeros in the place of the quote", q, make([]byte, len(q.Quote)), damaged),
		s.damage(ctx, "one zero", q, make([]byte, 1), damaged),
		s.damage(ctx, "no quote", q, []byte{}, damaged),
	)
}

func (s *suite) unsigned(ctx context.Context, q *opened) []error {
	quote := bytes.Clone(q.Quote)
	var errs []error
	signatures := 0
	for _, f := range q.Fields {
		if !f.Signature {
			continue
		}
		signatures++
		one := bytes.Clone(q.Quote)
		clear(one[f.Offset : f.Offset+f.Size])
		clear(quote[f.Offset : f.Offset+f.Size])
		errs = append(errs, s.damage(ctx, f.Name+" is zero", q, one, damaged))
	}
	if signatures == 0 {
		return list(errors.New("Target.Open names no signature, and Target.Unsigned is not set"))
	}
	return list(append(errs, s.damage(ctx, "every signature is zero", q, quote, damaged))...)
}

func (s *suite) flippedFields(ctx context.Context, q *opened) []error {
	var errs []error
	for _, f := range q.Fields {
		for _, at := range slices.Compact([]int{f.Offset, f.Offset + f.Size/2, f.Offset + f.Size - 1}) {
			quote := bytes.Clone(q.Quote)
			quote[at] ^= 0x01
			errs = append(errs, s.damage(ctx, fmt.Sprintf("%s, byte %d", f.Name, at-f.Offset), q, quote, damaged))
		}
	}
	return list(errs...)
}

// places returns up to samples positions below n, the first and the last among them.
func places(n int) []int {
	var out []int
	for i := range min(n, samples) {
		out = append(out, i*(n-1)/max(min(n, samples)-1, 1))
	}
	return out
}

func (s *suite) truncatedQuote(ctx context.Context, q *opened) []error {
	cuts := places(len(q.Quote))
	for _, f := range q.Fields {
		cuts = append(cuts, f.Offset)
	}
	slices.Sort(cuts)
	var errs []error
	for _, n := range slices.Compact(cuts) {
		errs = append(errs, s.damage(ctx, fmt.Sprintf("%d of %d bytes", n, len(q.Quote)), q, bytes.Clone(q.Quote[:n]), damaged))
	}
	return list(errs...)
}

func (s *suite) longQuote(ctx context.Context, q *opened) []error {
	return list(
		s.damage(ctx, "zeros after the quote", q, append(bytes.Clone(q.Quote), make([]byte, longQuote)...), damaged),
		s.damage(ctx, "quote after quote", q, bytes.Repeat(q.Quote, longQuote/len(q.Quote)+1), damaged),
	)
}

func (s *suite) trailingQuote(ctx context.Context, q *opened) []error {
	return list(
		s.damage(ctx, "one zero", q, append(bytes.Clone(q.Quote), 0), damaged),
		s.damage(ctx, "one byte that is not zero", q, append(bytes.Clone(q.Quote), 0xa5), damaged),
		s.damage(ctx, "the quote again", q, bytes.Repeat(q.Quote, 2), damaged),
	)
}

// evidence calls f with honest evidence, and with how to have changes of it refused.
func (s *suite) evidence(ctx context.Context, f func(cmw []byte, refuse func(what string, cmw []byte, classes []error))) []error {
	c := s.challenge("evidence")
	ev, err := s.attest(ctx, s.Honest, c)
	if err != nil {
		return list(err)
	}
	var errs []error
	f(ev.CMW, func(what string, cmw []byte, classes []error) {
		errs = append(errs, s.refuse(ctx, what, s.Verifier, s.with(cmw), expected(c), classes))
	})
	return list(errs...)
}

func (s *suite) zeroEvidence(ctx context.Context) []error {
	return s.evidence(ctx, func(cmw []byte, refuse func(string, []byte, []error)) {
		refuse("nil", nil, badSyntax)
		refuse("empty", []byte{}, badSyntax)
		refuse("zeros", make([]byte, len(cmw)), badSyntax)
	})
}

// The top bit means something in every encoding there is: ASCII text has none.
func (s *suite) flippedEvidence(ctx context.Context) []error {
	return s.evidence(ctx, func(cmw []byte, refuse func(string, []byte, []error)) {
		for _, at := range places(len(cmw)) {
			b := bytes.Clone(cmw)
			b[at] ^= 0x80
			refuse(fmt.Sprintf("byte %d of %d", at, len(cmw)), b, orIncomplete)
		}
	})
}

func (s *suite) truncatedEvidence(ctx context.Context) []error {
	return s.evidence(ctx, func(cmw []byte, refuse func(string, []byte, []error)) {
		for _, n := range places(len(cmw)) {
			refuse(fmt.Sprintf("%d of %d bytes", n, len(cmw)), bytes.Clone(cmw[:n]), badSyntax)
		}
	})
}

func (s *suite) longEvidence(ctx context.Context) []error {
	return s.evidence(ctx, func(cmw []byte, refuse func(string, []byte, []error)) {
		refuse("zeros after the evidence", append(bytes.Clone(cmw), make([]byte, longEvidence)...), badSyntax)
		refuse("evidence after evidence", bytes.Repeat(cmw, longEvidence/len(cmw)+1), badSyntax)
	})
}

func (s *suite) trailingEvidence(ctx context.Context) []error {
	return s.evidence(ctx, func(cmw []byte, refuse func(string, []byte, []error)) {
		refuse("one zero", append(bytes.Clone(cmw), 0), badSyntax)
		refuse("one byte that is not zero", append(bytes.Clone(cmw), 0xa5), badSyntax)
		refuse("the evidence again", bytes.Repeat(cmw, 2), badSyntax)
	})
}

// stale evidence has been accepted before, for the handshake that it was made for.
func (s *suite) stale(ctx context.Context) []error {
	old := s.challenge("old")
	ev, err := s.attest(ctx, s.Honest, old)
	if err != nil {
		return list(err)
	}
	if _, refused, fault := s.appraise(ctx, s.Verifier, ev, expected(old)); refused != nil || fault != nil {
		return list(fmt.Errorf("honest evidence is refused: %w", errors.Join(refused, fault)))
	}
	return list(s.refuse(ctx, "", s.Verifier, ev, expected(s.challenge("new")), unbound))
}

func (s *suite) wrongBinder(ctx context.Context) []error {
	var errs []error
	for _, at := range []int{0, attestext.MaxChallengeSize - 1} {
		errs = append(errs, s.mismatch(ctx, func(made, _ *attestext.Challenge) { made.Value()[at] ^= 1 })...)
	}
	return errs
}

func (s *suite) nonceForBinder(ctx context.Context) []error {
	return s.mismatch(ctx, func(made, _ *attestext.Challenge) { made.Binder = made.Nonce })
}

// Evidence of the relying party itself comes back as if it were the peer's.
func (s *suite) reflected(ctx context.Context) []error {
	return s.mismatch(ctx, func(made, _ *attestext.Challenge) {
		made.Role = attestext.RoleClient
		made.Nonce, made.Binder = fill("nonce of the other direction"), fill("binder of the other direction")
	})
}

func (s *suite) wrongRole(ctx context.Context) []error {
	return list(slices.Concat(
		s.mismatch(ctx, func(made, _ *attestext.Challenge) { made.Role = attestext.RoleClient }),
		s.mismatch(ctx, func(_, wanted *attestext.Challenge) { wanted.Role = attestext.RoleClient }),
	)...)
}

func (s *suite) wrongKey(ctx context.Context) []error {
	return s.mismatch(ctx, func(made, _ *attestext.Challenge) { made.SPKI = spki("another") })
}

func (s *suite) otherFormat(ctx context.Context) []error {
	c := s.challenge("other type")
	ev, err := s.attest(ctx, s.Honest, c)
	if err != nil {
		return list(err)
	}
	ev.Type.Format = attestext.EvidenceFormat{MediaType: "application/vnd.example.another-type"}
	return list(s.refuse(ctx, "", s.Verifier, ev, expected(c), []error{attestext.ErrWrongType}))
}

// incomplete calls the verifier without the checks of [attestext.Appraise]: a
// challenge with a value that is missing must not compare equal to evidence over
// nothing, nor leave out a comparison.
func (s *suite) incomplete(ctx context.Context) []error {
	zero := s.challenge("")
	zero.Nonce, zero.Binder = make([]byte, attestext.MaxChallengeSize), make([]byte, attestext.MaxChallengeSize)
	var errs []error
	for _, of := range []struct {
		name string
		c    *attestext.Challenge
	}{{"evidence over its challenge", s.challenge("")}, {"evidence over zeros", zero}} {
		ev, err := s.attest(ctx, s.Honest, of.c)
		if err != nil {
			return append(errs, err)
		}
		for _, without := range []struct {
			name   string
			change func(c *attestext.Challenge)
		}{
			{"no nonce", func(c *attestext.Challenge) { c.Nonce = nil }},
			{"an empty nonce", func(c *attestext.Challenge) { c.Nonce = []byte{} }},
			{"a short nonce", func(c *attestext.Challenge) { c.Nonce = c.Nonce[:attestext.MinNonceSize-1] }},
			{"neither nonce nor binder", func(c *attestext.Challenge) { c.Nonce, c.Binder = nil, nil }},
			{"no binder", func(c *attestext.Challenge) { c.Binder = nil }},
			{"an empty binder", func(c *attestext.Challenge) { c.Binder = []byte{} }},
			{"a short binder", func(c *attestext.Challenge) { c.Binder = c.Binder[:1] }},
			{"no key", func(c *attestext.Challenge) { c.SPKI = nil }},
			{"an empty key", func(c *attestext.Challenge) { c.SPKI = []byte{} }},
			{"no role", func(c *attestext.Challenge) { c.Role = 0 }},
			{"an unknown rule", func(c *attestext.Challenge) { c.Binding = 0xff }},
			{"an unknown kind of credential", func(c *attestext.Challenge) { c.Kind = 0xff }},
		} {
			c := expected(of.c)
			without.change(c)
			if c.Validate() == nil {
				continue // it is complete for this kind and rule
			}
			if err := s.refuseDirectly(ctx, ev, c); err != nil {
				errs = append(errs, fmt.Errorf("%s, %s expected: %w", of.name, without.name, err))
			}
		}
	}
	return errs
}

func (s *suite) refuseDirectly(ctx context.Context, ev *attestext.Evidence, c *attestext.Challenge) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	g := &guard{Verifier: s.Verifier}
	type answer struct {
		a   *attestext.Appraisal
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		a, err := g.Appraise(ctx, ev, c)
		ch <- answer{a, err}
	}()
	select {
	case got := <-ch:
		switch {
		case g.panicked != nil:
			return got.err
		case got.err == nil && got.a == nil:
			return errors.New("neither an appraisal nor an error")
		case got.err == nil:
			return fmt.Errorf("accepted, with the verdict %q", got.a.Verdict)
		}
		return wants(got.err, anyClass)
	case <-ctx.Done():
		return fmt.Errorf("no answer within %v", s.timeout)
	}
}
