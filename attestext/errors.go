package attestext

import (
	"errors"
	"fmt"
)

// The classes of failure. Every error of this module's attesters and verifiers
// wraps one of them; test with [errors.Is]. An error that wraps none is treated
// like ErrUnavailable: the peer has not been appraised, and the connection fails.
var (
	// ErrMalformed: the Evidence, or what wraps it, does not parse.
	ErrMalformed = errors.New("malformed evidence")
	// ErrBinding: the Evidence is genuine or not, but it is not bound to this
	// handshake: another binder, nonce, key or role.
	ErrBinding = errors.New("evidence is not bound to this handshake")
	// ErrSignature: a signature or a certificate chain below the Evidence does not verify.
	ErrSignature = errors.New("evidence signature does not verify")
	// ErrPolicy: the Evidence is genuine and fresh, and the appraisal policy refuses it.
	ErrPolicy = errors.New("refused by policy")
	// ErrUnavailable: nobody could say: a verifier or attester that failed, timed
	// out or panicked, or collateral that could not be had.
	ErrUnavailable = errors.New("attestation service unavailable")
	// ErrWrongType: the Evidence is not of the type that was negotiated.
	ErrWrongType = errors.New("evidence is of another type than was selected")
)

// ErrStale is no class of its own: it is wrapped, beside ErrPolicy, by the error about
// Evidence that the policy refuses for the age of its quote and for nothing else.
var ErrStale = errors.New("the evidence is stale")

// An Error says who failed at what. Class is one of the Err variables of this
// package; Op is a short phrase such as "verify TDX quote"; Err is the cause and
// may be nil. It never holds evidence or secrets.
type Error struct {
	Class error
	Op    string
	Err   error
}

// Error returns "op: class: cause".
func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s: %v", e.Op, e.Class)
	}
	return fmt.Sprintf("%s: %v: %v", e.Op, e.Class, e.Err)
}

// Unwrap returns the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Err}
}

// Errorf returns an [Error] of the given class with a formatted cause.
func Errorf(class error, op, format string, args ...any) error {
	return &Error{Class: class, Op: op, Err: fmt.Errorf(format, args...)}
}

// Class returns the class of err: the first of the Err variables that it wraps,
// or ErrUnavailable where it wraps none. It returns nil for a nil error.
func Class(err error) error {
	if err == nil {
		return nil
	}
	for _, class := range []error{ErrMalformed, ErrBinding, ErrSignature, ErrWrongType, ErrPolicy} {
		if errors.Is(err, class) {
			return class
		}
	}
	return ErrUnavailable
}
