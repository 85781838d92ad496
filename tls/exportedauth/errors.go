package exportedauth

import (
	"errors"
	"fmt"

	"github.com/attestedtls/atls/attestext"
)

// The classes of failure. Every error of this package wraps one of them, or one of
// those of package attestext where Evidence was made or appraised; test with
// [errors.Is]. Each says which TLS alert stands for it, for a carriage that has
// alerts; see [Alert].
var (
	// ErrDecode: a message does not parse, or is longer than it may be.
	// Alert 50, decode_error.
	ErrDecode = errors.New("malformed message")
	// ErrUnexpectedMessage: a message of another type than is due, among them a
	// request of the type that the other role sends.
	// Alert 10, unexpected_message.
	ErrUnexpectedMessage = errors.New("unexpected message")
	// ErrIllegalParameter: a message parses and breaks a rule, such as a context
	// that was used before or an extension that is doubled or in the wrong place.
	// Alert 47, illegal_parameter.
	ErrIllegalParameter = errors.New("illegal parameter")
	// ErrMissingExtension: a request without signature_algorithms, or without
	// cmw_attestation where this side attests. Alert 109, missing_extension.
	ErrMissingExtension = errors.New("missing extension")
	// ErrUnsupportedExtension: an authenticator carries an extension that was not
	// asked for. Alert 110, unsupported_extension.
	ErrUnsupportedExtension = errors.New("extension that was not asked for")
	// ErrBadCertificate: a certificate does not parse, has a key of an unknown
	// kind, or its chain was refused. Alert 42, bad_certificate.
	ErrBadCertificate = errors.New("bad certificate")
	// ErrDecrypt: CertificateVerify or Finished does not verify: they were altered,
	// made for another request, by the other role, or on another connection.
	// Alert 51, decrypt_error.
	ErrDecrypt = errors.New("authenticator does not verify")
	// ErrReflected: both ends authenticate with the same key, which is what an
	// authenticator sent back to its sender looks like. Alert 42, bad_certificate.
	ErrReflected = errors.New("both ends have the same key")
	// ErrRefused: the peer answered with an empty authenticator, which is genuine.
	// Alert 116, certificate_required, from a server; 40, handshake_failure, from
	// a client.
	ErrRefused = errors.New("peer refused to authenticate")
	// ErrNoEvidence: the peer authenticated and sent no cmw_attestation.
	// Alerts as for ErrRefused.
	ErrNoEvidence = errors.New("authenticator without attestation")
	// ErrNoIdentity: this side has no certificate that the request allows.
	// Alert 40, handshake_failure; or answer with [Session.Refuse].
	ErrNoIdentity = errors.New("no certificate fits the request")
	// ErrInterrupted: the connection failed, was closed or fell silent before the
	// exchange was complete. It wraps the connection's error. Alert 80,
	// internal_error, if there is somebody to send it to.
	ErrInterrupted = errors.New("exchange interrupted")
	// ErrUsage: this side's mistake, or one of its parts failed: exporter, key or
	// random source. Alert 80, internal_error.
	ErrUsage = errors.New("cannot go on")
)

// An Error says who did what, as [attestext.Error] does. Class is one of the Err variables
// of this package, Op is a short phrase such as "read the client's request", and Err is the
// cause and may be nil. It never holds evidence or secrets.
type Error attestext.Error

// Error returns "op: class: cause".
func (e *Error) Error() string { return (*attestext.Error)(e).Error() }

// Unwrap returns the class and the cause.
func (e *Error) Unwrap() []error { return (*attestext.Error)(e).Unwrap() }

func errorf(class error, op, format string, args ...any) error {
	return &Error{Class: class, Op: op, Err: fmt.Errorf(format, args...)}
}

// Alert returns the TLS alert that stands for err at an end of that role, or 0 if
// err is nil. Failures to make or appraise Evidence have the alerts of a handshake:
// 50 for what is malformed, 42 for binding, signature and type, 49 for policy, 80
// for anything else.
func Alert(err error, local attestext.Role) uint8 {
	if err == nil {
		return 0
	}
	for _, m := range []struct {
		class error
		alert uint8
	}{
		{ErrInterrupted, 80},
		{ErrUsage, 80},
		{ErrDecode, 50},
		{ErrUnexpectedMessage, 10},
		{ErrIllegalParameter, 47},
		{ErrMissingExtension, 109},
		{ErrUnsupportedExtension, 110},
		{ErrBadCertificate, 42},
		{ErrDecrypt, 51},
		{ErrReflected, 42},
		{ErrNoIdentity, 40},
	} {
		if errors.Is(err, m.class) {
			return m.alert
		}
	}
	if errors.Is(err, ErrRefused) || errors.Is(err, ErrNoEvidence) {
		if local == attestext.RoleServer {
			return 116
		}
		return 40
	}
	switch attestext.Class(err) {
	case attestext.ErrMalformed:
		return 50
	case attestext.ErrBinding, attestext.ErrSignature, attestext.ErrWrongType:
		return 42
	case attestext.ErrPolicy:
		return 49
	}
	return 80
}
