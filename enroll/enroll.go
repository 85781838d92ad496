// Package enroll gives a machine that has just booted a certificate for what it runs.
// The machine dials an authority, which it knows by an ordinary certificate, and
// attests as a client that has none (attestation-only, under the hardened rule): the
// evidence covers the session and the key that signs it. That key is the one of the
// certificate signing request (CSR) that it then sends, and the authority gives it a
// short-lived certificate for names that its rules allow to what the evidence says.
//
// Start with [Client] on the machine and [Server] on the authority. [Renewer] keeps a
// certificate fresh. Nothing here knows a TEE.
package enroll

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/attestedtls/atls/tls"
)

// The protocol is the authority's {"version":1}, which comes once the evidence has been
// accepted, then the DER of a CSR (RFC 2986), and then the reply, each in a frame: its
// length in four bytes, the most significant first, and so many bytes.
const (
	version = 1

	maxGreeting = 256
	maxRequest  = 16 << 10
	maxReply    = 64 << 10

	maxNames = 16 // in one request
	maxChain = 8  // certificates in one reply
)

// DefaultTimeout bounds one enrolment, on either end, if nothing else is said.
const DefaultTimeout = 30 * time.Second

// A Code says why there is no certificate. The authority sends the first five, and where
// it refuses the evidence in the handshake, the client finds out by the alert.
type Code string

const (
	// CodeRequest: the CSR cannot be read, is not signed by its key, or asks for more
	// than DNS names.
	CodeRequest Code = "bad-request"
	// CodeKey: the key of the CSR is not the one that the evidence covers.
	CodeKey Code = "key-not-attested"
	// CodeName: the rules do not allow the name to what the evidence says.
	CodeName Code = "name-not-allowed"
	// CodeRevoked: the machine, or what it runs, is revoked.
	CodeRevoked Code = "revoked"
	// CodeUnavailable: the authority cannot say, or cannot write down what it does.
	CodeUnavailable Code = "unavailable"

	// CodeReplayed: the evidence was made for another connection or another key.
	CodeReplayed Code = "evidence-replayed"
	// CodeStale: the evidence is of this connection, and what it rests on is too old or
	// does not show its age.
	CodeStale Code = "evidence-stale"
	// CodeNotGenuine: nobody whom the authority trusts has signed the evidence, or its
	// signer is revoked.
	CodeNotGenuine Code = "evidence-not-genuine"
	// CodeMalformed: the authority cannot read the evidence.
	CodeMalformed Code = "evidence-malformed"
	// CodeType: the authority appraises no evidence of this type.
	CodeType Code = "evidence-type-not-supported"
	// CodePolicy: the evidence is genuine, and the appraisal policy refuses it.
	CodePolicy Code = "refused-by-policy"
)

// An Error is a refusal: what the authority answered, or what it will answer.
type Error struct {
	Code   Code
	Reason string
	// Err is the cause at the end that has it: at a client the alert, nil for an answer.
	// It is not sent.
	Err error
}

func (e *Error) Error() string {
	return fmt.Sprintf("enrolment refused: %s: %s", e.Code, e.why())
}

// why returns the reason, with the cause if there is one.
func (e *Error) why() string {
	if e.Err == nil {
		return e.Reason
	}
	return fmt.Sprintf("%s: %v", e.Reason, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func refuse(code Code, format string, args ...any) error {
	return &Error{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// alertReasons are what the alerts of an authority mean to a client that enrolls. It
// sets tls.AttestationConfig.ExplainRefusals.
var alertReasons = map[tls.AlertError]Error{
	42:  {Code: CodeReplayed, Reason: "the evidence was not made for this connection and its key: it is replayed, or about another key"},
	45:  {Code: CodeStale, Reason: "the evidence is stale: its quote is too old for the authority, or does not show its age"},
	48:  {Code: CodeNotGenuine, Reason: "the evidence is not genuine: it is not signed by a TEE that the authority trusts"},
	49:  {Code: CodePolicy, Reason: "the authority's appraisal policy does not accept this machine or what it runs"},
	50:  {Code: CodeMalformed, Reason: "the authority cannot read the evidence"},
	51:  {Code: CodeKey, Reason: "the session is not signed by the key that the evidence covers"},
	80:  {Code: CodeUnavailable, Reason: "the authority cannot appraise evidence at the moment"},
	224: {Code: CodeType, Reason: "the authority appraises no evidence of this type"},
}

// explain returns err, or what it means if conn was ended by an alert of the authority's.
func explain(conn *tls.Conn, err error) error {
	if a, ok := conn.AlertReceived(); ok {
		if e, ok := alertReasons[a]; ok {
			return &Error{e.Code, e.Reason, err}
		}
	}
	return err
}

type greeting struct {
	Version int `json:"version"`
}

// A reply has a chain, or a code and a reason.
type reply struct {
	Chain  [][]byte `json:"chain,omitempty"` // DER, the leaf first
	Code   Code     `json:"code,omitempty"`
	Reason string   `json:"reason,omitempty"`
}

func parseGreeting(b []byte) error {
	var g greeting
	if err := json.Unmarshal(b, &g); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	if g.Version != version {
		return fmt.Errorf("the authority speaks version %d, and this client %d", g.Version, version)
	}
	return nil
}

// parseReply returns the chain in b, or the refusal in it.
func parseReply(b []byte) ([][]byte, error) {
	var r reply
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("reply: %w", err)
	}
	switch {
	case r.Code != "":
		return nil, &Error{Code: r.Code, Reason: r.Reason}
	case len(r.Chain) == 0 || len(r.Chain) > maxChain:
		return nil, fmt.Errorf("reply with %d certificates, want 1 to %d", len(r.Chain), maxChain)
	}
	return r.Chain, nil
}

func writeFrame(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func writeJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFrame(w, b)
}

// readFrame reads a frame of 1 to limit bytes.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > uint32(limit) {
		return nil, fmt.Errorf("a frame of %d bytes, want 1 to %d", n, limit)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}
