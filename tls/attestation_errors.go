package tls

import (
	"errors"
	"fmt"

	"github.com/attestedtls/atls/attestext"
)

// The stages of an attested handshake, for AttestationError.
const (
	AttestationStageNegotiate   = "negotiate"   // agreeing on what is attested and how
	AttestationStageAttest      = "attest"      // this side's Evidence
	AttestationStageCertificate = "certificate" // the Certificate message that carries Evidence
	AttestationStageAppraise    = "appraise"    // the peer's Evidence
)

// An AttestationError is a handshake that failed because of attestation.
type AttestationError struct {
	// Stage is one of the AttestationStage constants.
	Stage string
	// Alert is the alert that the peer was sent.
	Alert AlertError
	// Err is the cause. Where it comes from an attester or verifier it wraps
	// one of the classes of package attestext.
	Err error
}

func (e *AttestationError) Error() string {
	return fmt.Sprintf("tls: attestation: %s: %v", e.Stage, e.Err)
}

// Unwrap returns the cause.
func (e *AttestationError) Unwrap() error { return e.Err }

func init() {
	// The default numbers; see attestext.CodePoints.
	alertText[224] = "unsupported evidence (early: unsupported attestation schemes)"
	alertText[225] = "unsupported verifiers (early: attestation required)"
	alertText[226] = "attestation failed (early)"
}

// attestFail sends an alert and returns the error to end the handshake with.
func (c *Conn) attestFail(stage string, a alert, err error) error {
	c.sendAlert(a)
	return &AttestationError{Stage: stage, Alert: AlertError(a), Err: err}
}

// attestNegotiateFail is attestFail for what the negotiation has come to.
func (c *Conn) attestNegotiateFail(a alert, format string, args ...any) error {
	return c.attestFail(AttestationStageNegotiate, a, fmt.Errorf(format, args...))
}

// attestAlert is the one place where the classes of attestext's errors become
// alerts.
func (c *Conn) attestAlert(err error) alert {
	if c.config.Attestation.singleExtension() && attestext.Class(err) != attestext.ErrUnavailable {
		return alert(c.attestCodePoints().AttestationFailed)
	}
	class := attestext.Class(err)
	if c.config.Attestation.ExplainRefusals {
		switch {
		case class == attestext.ErrSignature:
			return alertUnknownCA
		case errors.Is(err, attestext.ErrStale):
			return alertCertificateExpired
		}
	}
	switch class {
	case attestext.ErrMalformed:
		return alertDecodeError
	case attestext.ErrBinding, attestext.ErrSignature, attestext.ErrWrongType:
		return alertBadCertificate
	case attestext.ErrPolicy:
		return alertAccessDenied
	default: // nobody could say: it fails closed
		return alertInternalError
	}
}
