// Package atlsotel makes OpenTelemetry spans of attested handshakes, where an
// application has a tracer: one for each handshake, by [Handshakes], and one for each
// piece of evidence that is made or appraised, by [Trace]. Attributes are named as the
// keys of package atlslog are, below "atls.".
package atlsotel

import (
	"context"
	"log/slog"
	"time"

	"github.com/attestedtls/atls/atlslog"
	"github.com/attestedtls/atls/tls"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// The names of spans.
const (
	SpanHandshake = "atls.handshake"
	SpanAttest    = "atls.attest"
	SpanAppraise  = "atls.appraise"
)

// prefix is that of the attributes' names.
const prefix = "atls."

// Handshakes returns a function for the OnHandshake options of atlshttp and atlsgrpc, or
// to call after a handshake of one's own. Its spans are children of the one in ctx, if
// there is one.
func Handshakes(ctx context.Context, tracer trace.Tracer) func(conn *tls.Conn, took time.Duration, err error) {
	return func(conn *tls.Conn, took time.Duration, err error) {
		var attrs []attribute.KeyValue
		for _, a := range atlslog.Attrs(conn, took, err) {
			if a.Key != atlslog.KeyDuration && a.Key != atlslog.KeyError { // which the span has
				attrs = append(attrs, keyValue(a))
			}
		}
		span(ctx, tracer, SpanHandshake, took, err, attrs)
	}
}

func keyValue(a slog.Attr) attribute.KeyValue {
	switch a.Value.Kind() {
	case slog.KindBool:
		return attribute.Bool(prefix+a.Key, a.Value.Bool())
	case slog.KindInt64:
		return attribute.Int64(prefix+a.Key, a.Value.Int64())
	}
	return attribute.String(prefix+a.Key, a.Value.String())
}

// Trace returns functions for tls.AttestationConfig.Trace. Its spans are children of the
// one in ctx, if there is one. next, which may be nil, is called as well.
func Trace(ctx context.Context, tracer trace.Tracer, next *tls.AttestationTrace) *tls.AttestationTrace {
	if next == nil {
		next = &tls.AttestationTrace{}
	}
	t := *next
	t.EvidenceMade = chain(next.EvidenceMade, func(e tls.AttestationEvent) { event(ctx, tracer, SpanAttest, e) })
	t.Appraised = chain(next.Appraised, func(e tls.AttestationEvent) { event(ctx, tracer, SpanAppraise, e) })
	return &t
}

func chain(first, second func(tls.AttestationEvent)) func(tls.AttestationEvent) {
	if first == nil {
		return second
	}
	return func(e tls.AttestationEvent) {
		first(e)
		second(e)
	}
}

func event(ctx context.Context, tracer trace.Tracer, name string, e tls.AttestationEvent) {
	attrs := []attribute.KeyValue{
		attribute.String(prefix+"role", e.Role.String()),
		attribute.String(prefix+atlslog.KeyModel, e.Model.String()),
		attribute.String(prefix+atlslog.KeyCredential, e.Type.Kind.String()),
		attribute.Int(prefix+"evidence_size", e.Size),
	}
	span(ctx, tracer, name, e.Duration, e.Err, attrs)
}

// span records what has just ended and took that long.
func span(ctx context.Context, tracer trace.Tracer, name string, took time.Duration, err error, attrs []attribute.KeyValue) {
	end := time.Now()
	_, s := tracer.Start(ctx, name, trace.WithTimestamp(end.Add(-took)), trace.WithAttributes(attrs...))
	if err != nil {
		s.RecordError(err, trace.WithTimestamp(end))
		s.SetStatus(codes.Error, err.Error())
	}
	s.End(trace.WithTimestamp(end))
}
