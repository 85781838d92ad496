// Package scheduler puts a bounded queue before an attester whose hardware makes
// a few quotes a second. Under a flood it serves at the hardware's rate whom it can
// serve in time, and refuses the rest at once, where the attester by itself would
// let every handshake wait for its deadline.
package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext"
)

// Defaults of [Options].
const (
	DefaultConcurrency = 1
	DefaultQueueLimit  = 64
	DefaultServiceTime = 100 * time.Millisecond
)

// Options configure a Scheduler. A nil *Options is that of the zero value. They
// are copied.
type Options struct {
	// Concurrency is how many calls the attester gets at a time. Zero means
	// DefaultConcurrency, which is right for hardware that makes one quote after
	// the other; below zero is an error.
	Concurrency int

	// QueueLimit is how many requests may wait beside those being served. Zero
	// means DefaultQueueLimit. Below zero none may: a request that finds the
	// attester busy is refused.
	QueueLimit int

	// ServiceTime is how long a quote is taken to need until one has been
	// measured. Zero means DefaultServiceTime; below zero is an error.
	ServiceTime time.Duration

	// Priority says how urgent a request is: the higher goes first, and equals go
	// in the order of arrival. Where the queue is full, a request takes the place
	// of the last of the lowest priority below its own. nil means that all are
	// equal. It is called concurrently, once for each request and before
	// anything else, and must not change the request.
	//
	// WARNING: whoever can have requests made at a high priority can keep the
	// rest from being served.
	Priority func(*attestext.AttestRequest) int
}

// A Scheduler is an [attestext.Attester] that hands requests to another one, a few
// at a time. No two requests share a quote, even if they are identical. Make one
// with [New]. Its methods may be called concurrently.
type Scheduler struct {
	attester    attestext.Attester
	concurrency int
	queueLimit  int
	priority    func(*attestext.AttestRequest) int

	mu       sync.Mutex
	queue    []*request // by priority, then by arrival; at most queueLimit
	running  []*request // by start; at most concurrency
	service  time.Duration
	measured bool // service comes out of a measurement
	draining bool // no more requests
	closed   bool
	idle     chan struct{} // closed once draining has come to its end
	metrics  Metrics       // counters and peaks
}

var _ attestext.Attester = (*Scheduler)(nil)

// A request waits in the queue, then runs. Its fields below done belong to the
// Scheduler's mu, and those of the answer to the caller once done is closed.
type request struct {
	ctx      context.Context
	req      *attestext.AttestRequest
	priority int
	arrived  time.Time
	done     chan struct{} // closed at settlement

	settled bool // the answer is there and counted, whatever still runs
	cmw     []byte
	err     error
	started time.Time // zero while it is in the queue
	cancel  context.CancelCauseFunc
}

const op = "schedule quote"

var errClosed = errors.New("the scheduler is closed")

func unavailable(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrUnavailable, op, format, args...)
}

// New returns a Scheduler for a, which must not be nil. It starts no goroutine;
// there is one for each call to a, for as long as it lasts.
func New(a attestext.Attester, opts *Options) (*Scheduler, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	switch {
	case a == nil:
		return nil, errors.New("scheduler: no attester")
	case o.Concurrency < 0:
		return nil, fmt.Errorf("scheduler: concurrency of %d", o.Concurrency)
	case o.ServiceTime < 0:
		return nil, fmt.Errorf("scheduler: service time of %v", o.ServiceTime)
	}
	return &Scheduler{
		attester:    a,
		concurrency: cmp.Or(o.Concurrency, DefaultConcurrency),
		queueLimit:  max(cmp.Or(o.QueueLimit, DefaultQueueLimit), 0),
		priority:    o.Priority,
		service:     cmp.Or(o.ServiceTime, DefaultServiceTime),
		idle:        make(chan struct{}),
	}, nil
}

// Formats returns those of the attester.
func (s *Scheduler) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	return s.attester.Formats(kind)
}

// Attest has the attester make Evidence when it is the request's turn.
//
// It refuses at once, with an error of class [attestext.ErrUnavailable], a request
// whose turn would come too late to be served before the deadline of ctx, one that
// finds the queue full, and any after Drain or Close. A request that finds the
// attester free is not refused for its deadline, however long quotes have been
// taking: its quote is what shows that they have become faster. A ctx without
// deadline can wait forever.
//
// When ctx ends, a request leaves the queue. A quote that is being made keeps its
// place at the attester until the attester returns, although Attest does not wait
// for it. These errors, and that of an attester that panics, are of class
// ErrUnavailable too; other errors are the attester's.
func (s *Scheduler) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	r := &request{ctx: ctx, req: req, done: make(chan struct{}), arrived: time.Now()}
	if s.priority != nil {
		r.priority = s.priority(req)
	}
	if err := s.admit(r); err != nil {
		return nil, err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		s.leave(r) // unless it has been settled meanwhile
	}
	return r.cmw, r.err
}

// admit starts r, puts it into the queue, or refuses it.
func (s *Scheduler) admit(r *request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.metrics.Requests++
	if s.draining {
		s.metrics.RefusedClosed++
		return &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: errClosed}
	}
	if err := r.ctx.Err(); err != nil {
		s.metrics.Cancelled++
		return &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: context.Cause(r.ctx)}
	}
	if len(s.running) < s.concurrency {
		s.start(r)
		return nil
	}
	ahead, _ := slices.BinarySearchFunc(s.queue, r, func(q, r *request) int {
		if q.priority >= r.priority {
			return -1
		}
		return 1
	})
	if deadline, ok := r.ctx.Deadline(); ok {
		wait, service := s.expect(ahead)
		if left := time.Until(deadline); wait+service >= left {
			s.metrics.RefusedDeadline++
			return unavailable("%d requests are ahead and %d at the attester: the wait would be %v, and %v for the quote, with %v left until the deadline",
				ahead, len(s.running), round(wait), round(service), round(left))
		}
	}
	if len(s.queue) >= s.queueLimit {
		if ahead == len(s.queue) {
			s.metrics.RefusedFull++
			return unavailable("the queue is full: %d requests wait, at most %d may", len(s.queue), s.queueLimit)
		}
		last := s.queue[len(s.queue)-1]
		s.queue = slices.Delete(s.queue, len(s.queue)-1, len(s.queue))
		s.metrics.Displaced++
		last.settle(nil, unavailable("the queue is full, and a request of higher priority took the place of this one"))
	}
	s.queue = slices.Insert(s.queue, ahead, r)
	s.metrics.QueuePeak = max(s.metrics.QueuePeak, len(s.queue))
	return nil
}

// expect returns how long a request with so many ahead of it in the queue will
// wait, and how long its quote will then take.
func (s *Scheduler) expect(ahead int) (wait, service time.Duration) {
	service = s.service
	if len(s.running) < s.concurrency {
		return 0, service
	}
	now := time.Now()
	// Where every quote is taking longer than has been measured, the measure is old.
	service = max(service, now.Sub(s.running[len(s.running)-1].started))
	// The oldest quote makes way for the next request, and so on around.
	place := s.running[ahead%s.concurrency]
	left := max(service-now.Sub(place.started), 0)
	return left + time.Duration(ahead/s.concurrency)*service, service
}

// round makes d readable.
func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

// settle gives r its one answer.
func (r *request) settle(cmw []byte, err error) {
	r.settled, r.cmw, r.err = true, cmw, err
	close(r.done)
}

// start has the attester serve r, for which there is a place.
func (s *Scheduler) start(r *request) {
	r.started = time.Now()
	s.metrics.Waited += r.started.Sub(r.arrived)
	ctx, cancel := context.WithCancelCause(r.ctx)
	r.cancel = cancel
	s.running = append(s.running, r)
	go s.serve(ctx, r)
}

func (s *Scheduler) serve(ctx context.Context, r *request) {
	var cmw []byte
	err := unavailable("the attester ended its goroutine")
	defer func() {
		if p := recover(); p != nil {
			cmw, err = nil, unavailable("the attester panicked: %v", p)
		}
		s.finish(r, cmw, err)
		r.cancel(nil)
	}()
	cmw, err = s.attester.Attest(ctx, r.req)
}

// finish gives r its answer and its place to the next.
func (s *Scheduler) finish(r *request, cmw []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = slices.DeleteFunc(s.running, func(q *request) bool { return q == r })
	// A failure says little about how long a quote takes, unless it took longer.
	if took := time.Since(r.started); err == nil || took > s.service {
		s.measure(took)
	}
	if !r.settled {
		if err == nil {
			s.metrics.Served++
		} else {
			s.metrics.Failed++
		}
		r.settle(cmw, err)
	}
	for len(s.queue) > 0 && len(s.running) < s.concurrency {
		next := s.queue[0]
		s.queue = slices.Delete(s.queue, 0, 1)
		if next.ctx.Err() != nil {
			s.cancelled(next)
			continue
		}
		s.start(next)
	}
	s.signal()
}

// measureWeight is how much a quote weighs in the moving average of service times.
const measureWeight = 8

func (s *Scheduler) measure(took time.Duration) {
	if !s.measured {
		s.service, s.measured = took, true
		return
	}
	s.service += (took - s.service) / measureWeight
}

// leave settles r, whose context has ended.
func (s *Scheduler) leave(r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.settled:
	case r.started.IsZero():
		s.queue = slices.DeleteFunc(s.queue, func(q *request) bool { return q == r })
		s.cancelled(r)
		s.signal()
	default:
		s.metrics.Abandoned++
		r.settle(nil, unavailable("no quote after %v at the attester: %w", round(time.Since(r.started)), context.Cause(r.ctx)))
	}
}

// cancelled settles r, which has left the queue because its context has ended.
func (s *Scheduler) cancelled(r *request) {
	s.metrics.Cancelled++
	r.settle(nil, unavailable("no turn after %v in the queue: %w", round(time.Since(r.arrived)), context.Cause(r.ctx)))
}

// signal tells Drain, where nothing is left to be done.
func (s *Scheduler) signal() {
	if !s.draining || len(s.queue)+len(s.running) != 0 {
		return
	}
	select {
	case <-s.idle:
	default:
		close(s.idle)
	}
}

// Drain refuses new requests from now on, and returns nil when those in the queue
// have been served and no call to the attester is left, or the cause of ctx when
// ctx ends before that. After Close, it waits for the calls to the attester alone.
// It may be called again.
func (s *Scheduler) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.signal()
	s.mu.Unlock()
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close refuses new requests from now on, gives those in the queue and those being
// served an error of class [attestext.ErrUnavailable], and cancels the contexts of
// the calls to the attester. It does not wait for these calls; Drain does. It may
// be called again, and returns nil.
func (s *Scheduler) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.draining, s.closed = true, true
	err := &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: errClosed}
	for _, r := range s.queue {
		s.metrics.RefusedClosed++
		r.settle(nil, err)
	}
	s.queue = nil
	for _, r := range s.running {
		r.cancel(errClosed)
		if !r.settled {
			s.metrics.Abandoned++
			r.settle(nil, err)
		}
	}
	s.signal()
	return nil
}
