package scheduler

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Metrics are what a Scheduler has counted, at one moment. Each request is counted
// in Requests when it comes, and in one of the eight outcomes below it when it has
// its answer, so that
//
//	Requests = the outcomes + Queued + those running whose callers still wait
type Metrics struct {
	Requests uint64

	Served          uint64 // got Evidence
	Failed          uint64 // got the attester's error
	RefusedDeadline uint64 // at once: the wait would have outlasted the deadline
	RefusedFull     uint64 // at once: the queue was full
	RefusedClosed   uint64 // after Drain or Close, or in the queue at Close
	Displaced       uint64 // left the queue for a request of higher priority
	Cancelled       uint64 // left the queue, or never got there, because the context had ended
	Abandoned       uint64 // the context ended, or Close came, while the attester was at it

	Queued      int // requests in the queue
	QueuePeak   int // the most that there have been
	QueueLimit  int // the most that there can be
	Running     int // calls to the attester, those for abandoned requests included
	Concurrency int // the most that there can be

	// Waited is the time that requests have spent in the queue until their turn, in total.
	Waited time.Duration
	// ServiceTime is how long a quote is taken to need: a moving average.
	ServiceTime time.Duration
	// ExpectedWait is how long a request of the lowest priority would now wait.
	ExpectedWait time.Duration
}

// Metrics returns what has been counted until now.
func (s *Scheduler) Metrics() Metrics {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.metrics
	m.Queued, m.QueueLimit = len(s.queue), s.queueLimit
	m.Running, m.Concurrency = len(s.running), s.concurrency
	m.ServiceTime = s.service
	m.ExpectedWait, _ = s.expect(len(s.queue))
	return m
}

// WriteTo writes the Metrics of this moment to w in the text format of Prometheus,
// version 0.0.4, whose media type is "text/plain; version=0.0.4". Times are in
// seconds. It implements [io.WriterTo]; the errors are those of w.
func (s *Scheduler) WriteTo(w io.Writer) (int64, error) {
	return s.Metrics().WriteTo(w)
}

var _ io.WriterTo = (*Scheduler)(nil)

// WriteTo writes m to w as [Scheduler.WriteTo] does.
func (m Metrics) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	head := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %[1]s %[3]s\n", name, help, kind)
	}
	head("atls_quote_requests_total", "counter", "Requests for evidence.")
	fmt.Fprintf(&b, "atls_quote_requests_total %d\n", m.Requests)
	head("atls_quote_outcomes_total", "counter", "Requests for evidence that have their answer, by outcome.")
	for _, o := range []struct {
		name string
		n    uint64
	}{
		{"served", m.Served},
		{"failed", m.Failed},
		{"refused_deadline", m.RefusedDeadline},
		{"refused_full", m.RefusedFull},
		{"refused_closed", m.RefusedClosed},
		{"displaced", m.Displaced},
		{"cancelled", m.Cancelled},
		{"abandoned", m.Abandoned},
	} {
		fmt.Fprintf(&b, "atls_quote_outcomes_total{outcome=%q} %d\n", o.name, o.n)
	}
	for _, g := range []struct {
		name, help string
		n          int
	}{
		{"atls_quote_queue", "Requests in the queue.", m.Queued},
		{"atls_quote_queue_peak", "The most requests that have been in the queue.", m.QueuePeak},
		{"atls_quote_queue_limit", "The most requests that can be in the queue.", m.QueueLimit},
		{"atls_quote_running", "Calls to the attester that have not returned.", m.Running},
		{"atls_quote_concurrency", "The most calls to the attester at a time.", m.Concurrency},
	} {
		head(g.name, "gauge", g.help)
		fmt.Fprintf(&b, "%s %d\n", g.name, g.n)
	}
	seconds := func(name, kind, help string, d time.Duration) {
		head(name, kind, help)
		fmt.Fprintf(&b, "%s %s\n", name, strconv.FormatFloat(d.Seconds(), 'g', -1, 64))
	}
	seconds("atls_quote_queue_wait_seconds_total", "counter", "Time that requests have spent in the queue until their turn.", m.Waited)
	seconds("atls_quote_service_seconds", "gauge", "How long a quote is taken to need.", m.ServiceTime)
	seconds("atls_quote_expected_wait_seconds", "gauge", "How long a request of the lowest priority would now wait.", m.ExpectedWait)
	return b.WriteTo(w)
}
