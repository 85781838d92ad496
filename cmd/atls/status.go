package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"unicode"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/enroll"
	"github.com/attestedtls/atls/tls"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// Exit statuses.
const (
	statusOK           = 0
	statusUsage        = 1
	statusMalformed    = 2
	statusVerification = 3
	statusPolicy       = 4
	statusNetwork      = 5
	statusUnsupported  = 127 // of atls interop
)

// A usageError is a mistake on the command line, or in a file that it names.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usagef returns a usageError. hint may be empty.
func usagef(hint, format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...), hint: hint}
}

// A helpError ends a command that was only asked for its usage.
type helpError struct{ usage string }

func (e *helpError) Error() string { return "help was asked for" }

// A malformedError is a file that can be read and not understood.
type malformedError struct{ err error }

func (e *malformedError) Error() string { return e.err.Error() }
func (e *malformedError) Unwrap() error { return e.err }

// A reportedError is a failure that a command has printed already.
type reportedError struct{ err error }

func (e *reportedError) Error() string { return e.err.Error() }
func (e *reportedError) Unwrap() error { return e.err }

// A refusedError is a fatal alert of the peer's.
type refusedError struct{ alert uint8 }

func (e *refusedError) Error() string {
	return fmt.Sprintf("the peer refused: alert %d (%v)", e.alert, tls.AlertError(e.alert))
}

// errInterrupted is what a command ends with that a signal has ended.
var errInterrupted = errors.New("interrupted")

// interrupted returns err, or errInterrupted where err is of ctx, which a signal ends, or of a
// connection that was closed for it, unless that was printed already.
func interrupted(ctx context.Context, err error) error {
	if err == nil || !errors.Is(ctx.Err(), context.Canceled) || errors.As(err, new(*interruptedError)) || errors.As(err, new(*reportedError)) {
		return err
	}
	if isNetwork(err) || errors.Is(err, context.Cause(ctx)) {
		return errInterrupted
	}
	return err
}

// alertStatus says what a peer's alert means for our status. Other alerts are
// statusVerification.
var alertStatus = map[uint8]int{
	49: statusPolicy,    // access_denied
	50: statusMalformed, // decode_error
}

// classStatus is the one place where the classes of errors become exit statuses.
// Evidence that nobody could appraise has not been verified.
var classStatus = map[error]int{
	attestext.ErrMalformed:   statusMalformed,
	attestext.ErrBinding:     statusVerification,
	attestext.ErrSignature:   statusVerification,
	attestext.ErrWrongType:   statusVerification,
	attestext.ErrPolicy:      statusPolicy,
	attestext.ErrUnavailable: statusVerification,
}

// exitStatus returns the status for err, which may be nil.
func exitStatus(err error) int {
	if err == nil {
		return statusOK
	}
	if errors.As(err, new(*usageError)) {
		return statusUsage
	}
	if errors.Is(err, errUnsupported) {
		return statusUnsupported
	}
	if errors.As(err, new(*malformedError)) {
		return statusMalformed
	}
	if e, ok := errors.AsType[*refusedError](err); ok {
		if s, ok := alertStatus[e.alert]; ok {
			return s
		}
		return statusVerification
	}
	if e, ok := errors.AsType[*enroll.Error](err); ok {
		return enrolmentStatus(e)
	}
	if errors.As(err, new(*tls.AttestationError)) || errors.As(err, new(*attestext.Error)) {
		return classStatus[attestext.Class(err)]
	}
	if errors.As(err, new(*fs.PathError)) || errors.As(err, new(*net.AddrError)) {
		return statusUsage // a file, or an address that is none
	}
	if isNetwork(err) {
		return statusNetwork
	}
	return statusVerification
}

// isNetwork reports whether err is about the connection and not about what came
// over it.
func isNetwork(err error) bool {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Op != "local error" && e.Op != "remote error" // alerts
	}
	if errors.As(err, new(*fs.PathError)) { // whose number is a net.Error
		return false
	}
	return errors.Is(err, errInterrupted) ||
		errors.As(err, new(net.Error)) ||
		errors.As(err, new(tls.RecordHeaderError)) ||
		errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, context.Canceled)
}

// fail prints err with a hint, unless it is nil, and returns its exit status. Usage that
// was asked for is no failure.
func (env *environment) fail(err error) int {
	if e, ok := errors.AsType[*helpError](err); ok {
		fmt.Fprint(env.stdout, e.usage)
		return statusOK
	}
	status := exitStatus(err)
	if err == nil || errors.As(err, new(*reportedError)) {
		return status
	}
	env.printError(err)
	return status
}

// printError prints err for people, with what to do about it.
func (env *environment) printError(err error) { env.print("error", err) }

// printWarning prints err as printError does, where the command goes on in spite of it.
func (env *environment) printWarning(err error) { env.print("warning", err) }

func (env *environment) print(kind string, err error) {
	fmt.Fprintf(env.stderr, "atls: %s: %s\n", kind, printable(err))
	if h := hint(err); h != "" {
		fmt.Fprintf(env.stderr, "atls: hint: %s\n", h)
	}
}

// printable formats v, which may come from a peer, for a terminal: without control
// characters.
func printable(v any) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, fmt.Sprint(v))
}

// hint says what to do about err, or nothing.
func hint(err error) string {
	if e, ok := errors.AsType[*usageError](err); ok {
		return e.hint
	}
	if e, ok := errors.AsType[*interruptedError](err); ok {
		return fmt.Sprintf("what was finished is kept: the same command with --resume --out %s goes on", e.dir)
	}
	if errors.Is(err, errInterrupted) || errors.Is(err, context.Canceled) {
		return "" // who interrupted it knows why
	}
	if e, ok := errors.AsType[*refusedError](err); ok {
		return alertHints[e.alert]
	}
	if errors.Is(err, exportedauth.ErrRefused) {
		return "the peer has not attested: --attest there, and --client-first if it is set here"
	}
	if e, ok := errors.AsType[*tls.AttestationError](err); ok {
		switch {
		case e.Stage == tls.AttestationStageAttest && e.Alert == 80: // internal_error
			return attestHint
		case e.Stage == tls.AttestationStageNegotiate, e.Stage == tls.AttestationStageAttest,
			e.Stage == tls.AttestationStageCertificate && e.Alert == 40: // handshake_failure: no evidence in it
			return alertHints[uint8(e.Alert)]
		case e.Stage == tls.AttestationStageCertificate:
			return ""
		}
	}
	if e, ok := errors.AsType[*hintedError](err); ok {
		return e.hint
	}
	if errors.Is(err, attestext.ErrStale) {
		return "max_quote_age in the --policy says how old a quote of the peer's --key-tier may be; it shows its age by --epoch-from, and by that issuer's key among --trust-roots"
	}
	if errors.As(err, new(*tls.AttestationError)) || errors.As(err, new(*attestext.Error)) {
		return classHints[attestext.Class(err)]
	}
	if errors.As(err, new(*tls.CertificateVerificationError)) {
		return "--ca names the authority to trust, and --servername the name to ask for"
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "check the path"
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return "--timeout gives the handshake more time"
	}
	if errors.As(err, new(*malformedError)) {
		return "" // what a file lacks is not for a peer to say
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "listen" {
		return "it has to be an address of this machine, with a port or a path that nobody else listens on"
	}
	if errors.As(err, new(*net.AddrError)) {
		return "a port is a number from 1 to 65535"
	}
	if isNetwork(err) {
		return "is the other end there, and does it speak TLS 1.3?"
	}
	return ""
}

var alertHints = map[uint8]string{
	10:  "--mode, --carriage and --client-first must fit together on the two ends",
	40:  "the two ends have nothing in common, or differ in --code-points",
	42:  "its own error says why; --ca, --trust-roots, --binding and --code-points must fit together on the two ends",
	48:  "the peer does not trust this side's certificate authority: see its --ca or --client-ca",
	49:  "its policy refuses what this side runs",
	70:  "evidence takes TLS 1.3, which one end does not speak",
	80:  "the peer could not make or appraise evidence; its own error says why",
	109: "one end requires evidence that the other does not offer: it needs --attest, and the same --mode and --code-points on both ends; --attested-key needs --peer-attested-key on the other end",
	116: "the peer wants a client certificate, --cert and --key, or has the client attest first: --attest and --client-first",
	224: "the two ends have no --evidence-type and --credential in common; EATs are asked for where --trust-roots has a key for them, and results by --verify results",
	225: "with --mode early: one end requires what the other does not offer, --attest there, and the same --mode and --early-form; with --verify results: the other end holds no valid result of a verifier that this one trusts, see --attest results there, and --verifier-id here",
	226: "with --mode early: evidence that was refused; the error of the end that refused it says why",
}

// attestHint is for the end that could not attest.
const attestHint = "what --attest names gave nothing to show to the peer; it has half of --timeout"

// classHints are for --verify local.
var classHints = map[error]string{
	attestext.ErrBinding:     "the two ends must be given the same --binding; if they were, this is evidence of another session or key",
	attestext.ErrSignature:   `--trust-roots names the roots of the peer's TEE; without it they are Intel's and AMD's, which a "softtee" is not below`,
	attestext.ErrPolicy:      `compare the --policy with what "atls inspect" says of the evidence, and renew --collateral that has expired`,
	attestext.ErrUnavailable: "nobody could appraise it: that takes --collateral, or a policy that does without, and for what is neither TDX nor SEV-SNP keys among --trust-roots",
}

// A hintedError is an error for which the flags of its connection know a better hint than
// its class.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

// hinted returns err, of a connection, with a hint for who appraises otherwise than by
// --verify local, which classHints are for.
func (f *connFlags) hinted(err error) error {
	e, ok := errors.AsType[*tls.AttestationError](err)
	if !ok || e.Stage != tls.AttestationStageAppraise {
		return err
	}
	how, _, _ := strings.Cut(f.verify, ":")
	if h := verifyHints[how][attestext.Class(err)]; h != "" {
		return &hintedError{err, h}
	}
	return err
}

const (
	commandHint = "the command of --verify decides, and has half of --timeout"
	serviceHint = "the service of --verify decides by its own roots and policy; quotes of --key-tier are for --verify local"
)

// verifyHints are in the place of classHints, by what --verify begins with.
var verifyHints = map[string]map[error]string{
	"exec": {
		attestext.ErrBinding:     commandHint + "; in place of a certificate, it has to answer with the key",
		attestext.ErrSignature:   commandHint,
		attestext.ErrPolicy:      commandHint,
		attestext.ErrUnavailable: commandHint,
	},
	"veraison": {
		attestext.ErrSignature:   serviceHint,
		attestext.ErrPolicy:      serviceHint,
		attestext.ErrUnavailable: "the service of --verify has to answer within half of --timeout, with a result that the key in --trust-roots has signed, if there is one",
	},
	"results": {
		attestext.ErrSignature: "--trust-roots names the keys of the verifiers whose results are trusted",
		attestext.ErrPolicy:    "the verifier does not approve of the peer; its result says why",
	},
}
