package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime/metrics"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/veraison"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/tls"
)

// metricsPath is where --metrics ADDR has them.
const metricsPath = "/metrics"

// A route is something to serve beside metrics.
type route struct {
	pattern string
	handler http.HandlerFunc
}

// serveMetrics serves what e returns, and more, at addr until stop is called, and says
// where. With an empty addr it does nothing.
func serveMetrics(ctx context.Context, addr string, e func() *exposition, more ...route) (where string, stop func(), err error) {
	if addr == "" {
		return "", func() {}, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return "", nil, fmt.Errorf("--metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+metricsPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", expositionType)
		e().WriteTo(w)
	})
	for _, r := range more {
		mux.HandleFunc(r.pattern, r.handler)
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveHTTP(ctx, l, mux)
	}()
	return fmt.Sprintf("metrics on http://%s%s\n", l.Addr(), metricsPath), func() { cancel(); <-done }, nil
}

// processGauges are about this process. runtime/metrics has them without stopping it.
func processGauges(started time.Time) []gauge {
	read := func(name string) func() float64 {
		return func() float64 {
			s := []metrics.Sample{{Name: name}}
			metrics.Read(s)
			if s[0].Value.Kind() != metrics.KindUint64 {
				return 0
			}
			return float64(s[0].Value.Uint64())
		}
	}
	return []gauge{
		{"process_start_time_seconds", "When the process started, in seconds since 1970.", "", func() float64 { return seconds(started) }},
		{"go_goroutines", "Goroutines that there are.", "", read("/sched/goroutines:goroutines")},
		{"go_memory_objects_bytes", "Memory that is in use, or was and has not been collected.", "", read("/memory/classes/heap/objects:bytes")},
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// collateralGauges are about the collateral of v, which was read at that time.
func collateralGauges(v *verifier.Local, read time.Time) []gauge {
	if v == nil {
		return nil
	}
	type expiring interface{ NextUpdate() time.Time }
	var next, since []gauge
	add := func(tee string, c expiring) {
		labels := labelText([]string{"tee"}, []string{tee})
		next = append(next, gauge{"atls_collateral_next_update_seconds",
			"When the first part of the collateral expires, in seconds since 1970.", labels, func() float64 { return seconds(c.NextUpdate()) }})
		since = append(since, gauge{"atls_collateral_age_seconds",
			"Time since the collateral was read.", labels, func() float64 { return time.Since(read).Seconds() }})
	}
	if c := v.TDXCollateral; c != nil {
		add("tdx", c)
	}
	if c := v.SNPCollateral; c != nil {
		add("snp", c)
	}
	if c := v.TPMCollateral; c != nil {
		add("tpm", c)
	}
	return append(next, since...)
}

// outcomeOf is the label of what has succeeded, or of how it failed.
func outcomeOf(err error) string {
	if err == nil {
		return "ok"
	}
	for _, c := range []struct {
		class error
		name  string
	}{
		{attestext.ErrMalformed, "malformed"},
		{attestext.ErrBinding, "binding"},
		{attestext.ErrSignature, "signature"},
		{attestext.ErrWrongType, "wrong_type"},
		{attestext.ErrPolicy, "policy"},
	} {
		if attestext.Class(err) == c.class {
			return c.name
		}
	}
	return "unavailable"
}

// serverMetrics are those of atls serve.
type serverMetrics struct {
	open                            atomic.Int64
	handshakes, verdicts            *family
	handshakeTime, attest, appraise *family
}

func newServerMetrics() *serverMetrics {
	return &serverMetrics{
		handshakes: newCounter("atls_handshakes_total",
			"Handshakes that are over, by outcome, the stage at which they failed, and the alerts that ended them.",
			"outcome", "stage", "alert_sent", "alert_received"),
		verdicts:      newCounter("atls_verdicts_total", "Verdicts on peers that were asked to attest.", "verdict"),
		handshakeTime: newHistogram("atls_handshake_seconds", "How long handshakes took.", "outcome"),
		attest:        newHistogram("atls_attest_seconds", "How long this side's evidence took, the wait for its turn included.", "outcome"),
		appraise:      newHistogram("atls_appraise_seconds", "How long the peer's evidence took to appraise.", "outcome"),
	}
}

// exposition returns all that atls serve shows.
func (m *serverMetrics) exposition(s *setup, started time.Time) *exposition {
	e := &exposition{families: []*family{m.handshakes, m.verdicts, m.handshakeTime, m.attest, m.appraise}}
	e.gauges = append([]gauge{{"atls_connections", "Connections that are open.", "", func() float64 { return float64(m.open.Load()) }}},
		append(collateralGauges(s.local, started), processGauges(started)...)...)
	if s.fetches != nil {
		e.families = append(e.families, s.fetches)
	}
	if s.fresh != nil {
		e.families = append(e.families, s.fresh.refreshes)
		e.gauges = append(e.gauges, gauge{"atls_results_valid", "Verifiers whose results are held and valid.", "",
			func() float64 { return float64(len(s.fresh.holder.Verifiers())) }})
	}
	if s.tier != nil {
		e.gauges = append(e.gauges, gauge{"atls_key_tier_quote_age_seconds", "Age of the quote that attests the key of --key-tier.", "", func() float64 {
			age, _ := s.tier.Age() // there is one since before anybody was served
			return age.Seconds()
		}})
	}
	if s.queue != nil {
		e.others = append(e.others, s.queue)
	}
	return e
}

// trace returns what has m told of evidence.
func (m *serverMetrics) trace() *tls.AttestationTrace {
	return &tls.AttestationTrace{
		EvidenceMade: func(e tls.AttestationEvent) { m.attest.observe(e.Duration, outcomeOf(e.Err)) },
		Appraised:    func(e tls.AttestationEvent) { m.appraise.observe(e.Duration, outcomeOf(e.Err)) },
	}
}

// count counts a connection once it is over.
func (m *serverMetrics) count(s *session, r *report) {
	alert := func(a *uint8) string {
		if a == nil {
			return "none"
		}
		return strconv.Itoa(int(*a))
	}
	outcome, stage := "ok", "none"
	if !s.shaken {
		outcome = "failed"
		if r.Stage != nil {
			stage = *r.Stage
		}
	}
	m.handshakes.add(outcome, stage, alert(r.AlertSent), alert(r.AlertReceived))
	m.handshakeTime.observe(s.handshake, outcome)
	if r.Peer != nil {
		m.verdicts.add(r.Peer.Verdict)
	}
}

// serviceMetrics are those of atls verifier.
type serviceMetrics struct {
	results, requests *family
	appraise          *family
}

func newServiceMetrics() *serviceMetrics {
	return &serviceMetrics{
		results:  newCounter("atls_appraisals_total", "Pieces of evidence, by the verdict of the result and what was wrong with them.", "verdict", "outcome"),
		requests: newCounter("atls_http_requests_total", "Requests that have been answered, by status.", "code"),
		appraise: newHistogram("atls_appraise_seconds", "How long evidence took to appraise.", "outcome"),
	}
}

func (m *serviceMetrics) exposition(v *verifier.Local, started time.Time) *exposition {
	return &exposition{
		families: []*family{m.results, m.requests, m.appraise},
		gauges:   append(collateralGauges(v, started), processGauges(started)...),
	}
}

func (m *serviceMetrics) count(a veraison.Appraised) {
	m.results.add(verdictOf(a), outcomeOf(a.Err))
}

// measured is a Verifier that says how long it took.
type measured struct {
	attestext.Verifier
	took *family
}

func (v measured) Appraise(ctx context.Context, ev *attestext.Evidence, c *attestext.Challenge) (*attestext.Appraisal, error) {
	begun := time.Now()
	a, err := v.Verifier.Appraise(ctx, ev, c)
	v.took.observe(time.Since(begun), outcomeOf(err))
	return a, err
}

// counting has m count the answers of h.
func (m *serviceMetrics) counting(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() { m.requests.add(strconv.Itoa(sw.status)) }()
		h.ServeHTTP(sw, r)
	})
}

// statusWriter notes the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
