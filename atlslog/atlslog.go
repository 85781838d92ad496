// Package atlslog says what became of attested connections, in log/slog: one line for
// each, which an auditor can keep. The keys are the Key constants; they stay.
//
// Start with [Handshakes], for the OnHandshake options of atlshttp and atlsgrpc, or call
// [Handshake] after a handshake of one's own.
package atlslog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls"
)

// The keys of a line. Those that say nothing are left out.
const (
	KeyRemote         = "remote"          // address of the peer
	KeyOutcome        = "outcome"         // "ok" or "failed"
	KeyDuration       = "duration"        // of the handshake
	KeyVersion        = "version"         // of TLS
	KeySuite          = "suite"           // cipher suite
	KeyServerName     = "server_name"     // that was asked for
	KeyALPN           = "alpn"            // that was negotiated
	KeyCertificate    = "peer_sha256"     // hash of the peer's leaf certificate, hex
	KeySelfAttested   = "self_attested"   // whether this end attested
	KeyVerdict        = "verdict"         // of the peer: "affirming", "warning", or "none" if there is none
	KeyMachine        = "machine"         // of the peer
	KeyModel          = "model"           // "background-check" or "passport"
	KeyCredential     = "credential"      // what the evidence came with
	KeyBinding        = "binding"         // rule by which it is bound
	KeyEvidenceType   = "evidence_type"   // in the background-check model
	KeyVerifier       = "verifier"        // in the passport model
	KeyEvidence       = "evidence_sha256" // hash of the evidence, hex
	KeyReattestations = "reattestations"  // rounds since the handshake
	KeyStage          = "stage"           // at which attestation failed
	KeyClass          = "class"           // of its failure
	KeyAlertSent      = "alert_sent"      // number
	KeyAlertReceived  = "alert_received"  // number
	KeyError          = "error"
)

// The messages.
const (
	MsgAccepted = "attested TLS connection accepted"
	MsgRefused  = "attested TLS connection refused"
)

// Handshakes returns a function to call after each handshake. It logs those that
// succeeded as Info, and those that failed as Warn.
func Handshakes(l *slog.Logger) func(conn *tls.Conn, took time.Duration, err error) {
	return func(conn *tls.Conn, took time.Duration, err error) {
		Handshake(context.Background(), l, conn, took, err)
	}
}

// Handshake logs one handshake, which took that long and ended in err.
func Handshake(ctx context.Context, l *slog.Logger, conn *tls.Conn, took time.Duration, err error) {
	level, msg := slog.LevelInfo, MsgAccepted
	if err != nil {
		level, msg = slog.LevelWarn, MsgRefused
	}
	if l.Enabled(ctx, level) {
		l.LogAttrs(ctx, level, msg, Attrs(conn, took, err)...)
	}
}

// Attrs returns what is known of a connection after its handshake. It holds neither
// evidence nor secrets.
func Attrs(conn *tls.Conn, took time.Duration, err error) []slog.Attr {
	var attrs []slog.Attr
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	if a := conn.RemoteAddr(); a != nil {
		add(KeyRemote, a.String())
	}
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	add(KeyOutcome, outcome)
	attrs = append(attrs, slog.Duration(KeyDuration, took))
	cs := conn.ConnectionState()
	if cs.Version != 0 {
		add(KeyVersion, tls.VersionName(cs.Version))
	}
	if cs.CipherSuite != 0 {
		add(KeySuite, tls.CipherSuiteName(cs.CipherSuite))
	}
	add(KeyServerName, cs.ServerName)
	add(KeyALPN, cs.NegotiatedProtocol)
	if len(cs.PeerCertificates) > 0 {
		add(KeyCertificate, hash(cs.PeerCertificates[0].Raw))
	}
	attrs = append(attrs, slog.Bool(KeySelfAttested, cs.LocalAttestation != nil))
	attrs = append(attrs, peer(cs.PeerAttestation)...)
	if cs.Reattestations > 0 {
		attrs = append(attrs, slog.Int(KeyReattestations, cs.Reattestations))
	}
	if err == nil {
		return attrs
	}
	if e, ok := errors.AsType[*tls.AttestationError](err); ok {
		add(KeyStage, e.Stage)
	}
	if errors.As(err, new(*attestext.Error)) {
		add(KeyClass, attestext.Class(err).Error())
	}
	if a, ok := conn.AlertSent(); ok {
		attrs = append(attrs, slog.Int(KeyAlertSent, int(a)))
	}
	if a, ok := conn.AlertReceived(); ok {
		attrs = append(attrs, slog.Int(KeyAlertReceived, int(a)))
	}
	add(KeyError, err.Error())
	return attrs
}

// peer returns what a verdict says.
func peer(r *attestext.Result) []slog.Attr {
	if !r.Valid() {
		return []slog.Attr{slog.String(KeyVerdict, "none")}
	}
	attrs := []slog.Attr{slog.String(KeyVerdict, r.Verdict())}
	if m := r.Machine(); m != "" {
		attrs = append(attrs, slog.String(KeyMachine, m))
	}
	attrs = append(attrs,
		slog.String(KeyModel, r.Model().String()),
		slog.String(KeyCredential, r.Kind().String()),
		slog.String(KeyBinding, r.Binding().String()))
	ev := r.Evidence()
	if r.Model() == attestext.Passport {
		attrs = append(attrs, slog.String(KeyVerifier, string(ev.Verifier)))
	} else if f := ev.Type.Format; f.MediaType != "" {
		attrs = append(attrs, slog.String(KeyEvidenceType, f.MediaType))
	} else {
		attrs = append(attrs, slog.String(KeyEvidenceType, strconv.Itoa(int(f.ContentFormat))))
	}
	return append(attrs, slog.String(KeyEvidence, hash(ev.CMW)))
}

func hash(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
