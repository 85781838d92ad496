// Package execplugin makes and appraises Evidence with commands: any program that
// reads one JSON object and prints one can stand in for a TEE or a verifier. Start
// with [Split] and [Command].
//
// A command is started once per call, without a shell. It reads
//
//	{"type": MEDIA TYPE, "challenge": B64, "nonce": B64, "binder": B64, "spki": B64,
//	 "role": "client"|"server", "binding": "hardened"|"draft-08"|"expat"|"expat-sha512"|"early",
//	 "report_data": B64}
//
// from its standard input, with "cmw": B64 besides where it appraises. A member
// that does not apply is null. It must print {"cmw": B64} to attest, and to appraise
//
//	{"ok": BOOL, "reason": TEXT, "class": TEXT, "key": B64, "claims": {…}}
//
// of which only ok is mandatory. Base64 is the standard alphabet with padding. A
// type that is a content format is its number in decimal. Unknown members are
// ignored, on both sides.
package execplugin

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/internal/strict"
	"github.com/attestedtls/atls/attestext/tsm"
)

const (
	// MaxOutput bounds what a command may print, in bytes. One that prints more
	// is killed.
	MaxOutput = 1 << 20

	// stderrTail is how much of the end of a command's standard error is kept, and
	// maxLine how much of its last line an error shows, in bytes.
	stderrTail = 4 << 10
	maxLine    = 300

	// pipeDelay is how long to wait for descendants of a command that is gone and
	// left its standard output to them.
	pipeDelay = time.Second
)

// A Command attests and appraises by running a program. It implements both
// [attestext.Attester] and [attestext.Verifier], and is safe for concurrent use:
// each call starts a process of its own.
//
// What the command prints as Evidence is not looked into, so that a peer can be
// tested with any. What a peer sent is looked into before the command sees it: it
// must be a CMW, and the type inside the one that was selected.
type Command struct {
	argv    []string
	formats []attestext.EvidenceFormat
	running sync.WaitGroup
}

var (
	_ attestext.Attester = (*Command)(nil)
	_ attestext.Verifier = (*Command)(nil)
)

// New returns a Command that runs argv, a program and its arguments. formats are
// those that it makes or reads, in order of preference; if there are none, they
// are a TSM report in CBOR beside a certificate, and a bundle of
// draft-bft-rats-kat-06 in place of one.
func New(argv []string, formats ...attestext.EvidenceFormat) (*Command, error) {
	if len(argv) == 0 || argv[0] == "" {
		return nil, errors.New("no command")
	}
	return &Command{argv: argv, formats: formats}, nil
}

// Formats returns the formats that c was made with, for either kind.
func (c *Command) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	switch {
	case len(c.formats) > 0:
		return c.formats
	case kind == attestext.AttestationOnly:
		return []attestext.EvidenceFormat{eat.BundleFormat}
	}
	return []attestext.EvidenceFormat{tsm.FormatCBOR}
}

// Wait waits until no command of c runs. A program calls it before it exits, so
// that none is left behind.
func (c *Command) Wait() { c.running.Wait() }

// A request is what a command reads.
type request struct {
	Type       string  `json:"type"`
	Challenge  []byte  `json:"challenge"`
	Nonce      []byte  `json:"nonce"`
	Binder     []byte  `json:"binder"`
	SPKI       []byte  `json:"spki"`
	Role       string  `json:"role"`
	Binding    string  `json:"binding"`
	ReportData []byte  `json:"report_data"`
	CMW        *[]byte `json:"cmw,omitempty"`
}

func newRequest(f attestext.EvidenceFormat, ch *attestext.Challenge) *request {
	r := &request{
		Type:      typeName(f),
		Challenge: ch.Value(),
		Nonce:     ch.Nonce,
		SPKI:      ch.SPKI,
		Role:      ch.Role.String(),
		Binding:   ch.Binding.String(),
	}
	if ch.UsesBinder() {
		r.Binder = ch.Binder
	}
	if rd, err := ch.ReportData(); err == nil {
		r.ReportData = rd[:]
	}
	return r
}

func typeName(f attestext.EvidenceFormat) string {
	if f.MediaType == "" {
		return strconv.Itoa(int(f.ContentFormat))
	}
	return f.MediaType
}

// Attest runs the command. It is of class [attestext.ErrUnavailable] if the
// command fails, is late, or answers with anything but Evidence.
func (c *Command) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	const op = "attest by command"
	answer, err := c.run(ctx, newRequest(req.Type.Format, req.Challenge))
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: err}
	}
	b, err := member[string](answer, "cmw")
	if err == nil && b == nil {
		err = errors.New("command answered without a cmw")
	}
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: err}
	}
	evidence, err := base64.StdEncoding.Strict().DecodeString(*b)
	if err != nil {
		return nil, attestext.Errorf(attestext.ErrUnavailable, op, "cmw: %w", err)
	}
	return evidence, nil
}

// classes are the values of class in an answer.
var classes = map[string]error{
	"binding":   attestext.ErrBinding,
	"signature": attestext.ErrSignature,
	"policy":    attestext.ErrPolicy,
	"malformed": attestext.ErrMalformed,
}

// Appraise runs the command, whose word on the Evidence is final. Where it answers
// false, the error is of the class that it names, [attestext.ErrPolicy] if none;
// where it fails, is late, or says nothing clear, of [attestext.ErrUnavailable].
func (c *Command) Appraise(ctx context.Context, ev *attestext.Evidence, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	const op = "appraise by command"
	format, err := innerFormat(ev)
	if err != nil {
		return nil, err
	}
	req := newRequest(format, expected)
	req.CMW = &ev.CMW
	answer, err := c.run(ctx, req)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: err}
	}
	a, err := verdict(answer)
	if err != nil {
		if errors.As(err, new(*attestext.Error)) {
			return nil, err
		}
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: err}
	}
	a.Format = format
	return a, nil
}

// verdict reads what a command answered about Evidence.
func verdict(answer map[string]json.RawMessage) (*attestext.Appraisal, error) {
	ok, err := member[bool](answer, "ok")
	if err != nil {
		return nil, err
	}
	if ok == nil {
		return nil, errors.New("command answered without ok")
	}
	if !*ok {
		reason, err := member[string](answer, "reason")
		if err != nil {
			return nil, err
		}
		text := "no reason given"
		if reason != nil && *reason != "" {
			text = printable(*reason)
		}
		class := attestext.ErrPolicy
		name, err := member[string](answer, "class")
		if err != nil {
			return nil, err
		}
		if name != nil {
			if class = classes[*name]; class == nil {
				return nil, fmt.Errorf("command refused with the unknown class %q: %s", *name, text)
			}
		}
		return nil, attestext.Errorf(class, "appraise by command", "%s", text)
	}
	a := &attestext.Appraisal{Verdict: "affirming"}
	key, err := member[string](answer, "key")
	if err != nil {
		return nil, err
	}
	if key != nil {
		if a.Key, err = base64.StdEncoding.Strict().DecodeString(*key); err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
	}
	claims, err := member[map[string]any](answer, "claims")
	if err != nil {
		return nil, err
	}
	if claims != nil {
		a.Claims = *claims
	}
	return a, nil
}

// innerFormat returns the format of the Evidence inside of ev, which must be what
// was selected.
func innerFormat(ev *attestext.Evidence) (attestext.EvidenceFormat, error) {
	w, err := cmw.Parse(ev.CMW)
	if err != nil {
		return attestext.EvidenceFormat{}, err
	}
	var format attestext.EvidenceFormat
	if w.Collection != nil && w.Collection.Type != "" {
		// RFC 9999: the media type of a typed collection has the type as a parameter.
		format.MediaType = mime.FormatMediaType("application/cmw+cbor", map[string]string{"cmwc_t": w.Collection.Type})
		if w.Form == cmw.JSONCollection {
			format.MediaType = mime.FormatMediaType("application/cmw+json", map[string]string{"cmwc_t": w.Collection.Type})
		}
	} else if format, _, err = w.Evidence(); err != nil {
		return format, err
	}
	if !ev.Type.Format.Matches(format) {
		return format, attestext.Errorf(attestext.ErrWrongType, "unwrap CMW", "evidence is %v, selected was %v", format, ev.Type.Format)
	}
	return format, nil
}

// member returns the member of that exact name, or nil if it is null or absent.
func member[T any](object map[string]json.RawMessage, name string) (*T, error) {
	var v *T
	if raw, ok := object[name]; ok {
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, fmt.Errorf("command's answer: %s: %w", name, err)
		}
	}
	return v, nil
}

// run starts the command, hands it req, and returns the object that it printed.
func (c *Command) run(ctx context.Context, req *request) (map[string]json.RawMessage, error) {
	c.running.Add(1)
	defer c.running.Done()

	stdin, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &head{overflow: func() {
		cancel(fmt.Errorf("command printed more than %d bytes", MaxOutput))
	}}
	errs := &tail{}
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Stdin = bytes.NewReader(append(stdin, '\n'))
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.WaitDelay = pipeDelay
	ownGroup(cmd)
	err = cmd.Run()
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		if errors.Is(cause, context.DeadlineExceeded) {
			cause = fmt.Errorf("command %s was killed at the deadline: %w", c.argv[0], cause)
		}
		return nil, cause
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		cmd.Cancel() // what is left of its group
		err = errors.New("it ended, and a process that it has started kept its output open, and was killed")
	}
	if err != nil {
		if line := errs.lastLine(); line != "" {
			return nil, fmt.Errorf("command %s: %w: %s", c.argv[0], err, line)
		}
		return nil, fmt.Errorf("command %s: %w", c.argv[0], err)
	}
	return object(out.buf.Bytes())
}

// object decodes what a command printed: one JSON object and nothing else but
// space around it.
func object(b []byte) (map[string]json.RawMessage, error) {
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return nil, errors.New("command printed nothing, want one JSON object")
	}
	var m map[string]json.RawMessage
	// MaxOutput bounds it. The command is our own, and claims may be long.
	const maxDepth, maxItems = 64, 1 << 16
	err := strict.CheckJSONWithin(b, maxDepth, maxItems)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		return nil, fmt.Errorf("command did not print one JSON object: %w", err)
	}
	return m, nil
}

// head keeps up to MaxOutput bytes and calls overflow if there are more. It does
// not embed its buffer, whose ReadFrom would go past the bound.
type head struct {
	buf      bytes.Buffer
	overflow func()
}

func (h *head) Write(b []byte) (int, error) {
	if h.buf.Len()+len(b) > MaxOutput {
		h.overflow()
		return 0, io.ErrShortWrite
	}
	return h.buf.Write(b)
}

// tail keeps the last bytes that are written to it.
type tail struct{ b []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	if n := len(t.b) - stderrTail; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(b), nil
}

// lastLine returns the last line that is not empty, fit for an error message.
func (t *tail) lastLine() string {
	s := strings.TrimSpace(string(t.b))
	if i := strings.LastIndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
	}
	return printable(s)
}

// printable makes s one line of bounded length without control characters.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.TrimSpace(s))
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}
