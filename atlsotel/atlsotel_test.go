package atlsotel_test

import (
	"io"
	"log"
	"net/http"
	"testing"
	"time"

	"github.com/attestedtls/atls/atlshttp"
	"github.com/attestedtls/atls/atlshttp/atlshttptest"
	"github.com/attestedtls/atls/atlsotel"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/tls"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// get makes one request to a server that is traced, and returns its spans by name.
func get(t *testing.T, change func(*atlshttptest.Server)) map[string]sdktrace.ReadOnlySpan {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("test")
	ctx, parent := tracer.Start(t.Context(), "parent")
	s := atlshttptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	record, shaken := atlsotel.Handshakes(ctx, tracer), make(chan struct{}, 1)
	s.Options = append(s.Options, atlshttp.OnHandshake(func(conn *tls.Conn, took time.Duration, err error) {
		record(conn, took, err)
		shaken <- struct{}{}
	}))
	called := false
	s.TLS.Attestation.Trace = atlsotel.Trace(ctx, tracer, &tls.AttestationTrace{Appraised: func(tls.AttestationEvent) { called = true }})
	if change != nil {
		change(s)
	}
	s.Start()
	resp, err := s.Client().Get(s.URL)
	if err == nil {
		resp.Body.Close()
	}
	<-shaken
	s.Close()
	if !called {
		t.Error("the trace that was there before is not called")
	}
	spans := map[string]sdktrace.ReadOnlySpan{}
	for _, span := range recorder.Ended() {
		if spans[span.Name()] != nil {
			t.Errorf("two spans %s", span.Name())
		}
		if span.Parent().SpanID() != parent.SpanContext().SpanID() {
			t.Errorf("%s is of nobody", span.Name())
		}
		spans[span.Name()] = span
	}
	return spans
}

func attributes(span sdktrace.ReadOnlySpan) map[string]any {
	m := map[string]any{}
	for _, a := range span.Attributes() {
		m[string(a.Key)] = a.Value.AsInterface()
	}
	return m
}

func TestSpansOfAHandshake(t *testing.T) {
	spans := get(t, nil)
	for name, want := range map[string]map[string]any{
		atlsotel.SpanHandshake: {"atls.verdict": "affirming", "atls.outcome": "ok", "atls.self_attested": true},
		atlsotel.SpanAttest:    {"atls.role": "server", "atls.model": "background-check"},
		atlsotel.SpanAppraise:  {"atls.role": "client", "atls.credential": "x509"},
	} {
		span := spans[name]
		if span == nil {
			t.Errorf("there is no span %s", name)
			continue
		}
		if span.Status().Code != codes.Unset || !span.StartTime().Before(span.EndTime()) {
			t.Errorf("%s: %v, %v to %v", name, span.Status(), span.StartTime(), span.EndTime())
		}
		got := attributes(span)
		for key, value := range want {
			if got[key] != value {
				t.Errorf("%s: %s is %v, want %v", name, key, got[key], value)
			}
		}
	}
	if len(spans) != 3 {
		t.Errorf("%d spans", len(spans))
	}
}

func TestSpansOfARefusal(t *testing.T) {
	spans := get(t, func(s *atlshttptest.Server) {
		a := *s.ClientTLS.Attestation
		a.Attester = softtee.NewTDX(&softtee.TDXOptions{Seed: "another"}).Attester()
		s.ClientTLS.Attestation = &a
	})
	for _, name := range []string{atlsotel.SpanHandshake, atlsotel.SpanAppraise} {
		if span := spans[name]; span == nil || span.Status().Code != codes.Error {
			t.Errorf("%s: %v", name, span)
		}
	}
	if got := attributes(spans[atlsotel.SpanHandshake]); got["atls.alert_sent"] != int64(42) || got["atls.stage"] != "appraise" {
		t.Errorf("%v", got)
	}
}
