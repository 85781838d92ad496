package scheduler_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/scheduler"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
)

// What waits does so in a bubble of testing/synctest: its clock moves when every
// goroutine waits, and a goroutine that is left at the end fails the test.

// hardware makes one quote after the other, each in the time that it takes, and
// counts them. It heeds no context.
type hardware struct {
	takes time.Duration
	busy  sync.Mutex

	mu     sync.Mutex
	quotes int
	order  []string // nonces, in the order of service
	fail   func(req *attestext.AttestRequest) error
}

func (h *hardware) Formats(attestext.CredentialKind) []attestext.EvidenceFormat {
	return []attestext.EvidenceFormat{tsm.FormatCBOR}
}

func (h *hardware) Attest(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
	h.busy.Lock()
	defer h.busy.Unlock()
	h.mu.Lock()
	h.quotes++
	n := h.quotes
	h.order = append(h.order, string(req.Challenge.Nonce))
	h.mu.Unlock()
	if h.takes > 0 {
		<-time.After(h.takes)
	}
	if h.fail != nil {
		if err := h.fail(req); err != nil {
			return nil, err
		}
	}
	return fmt.Appendf(nil, "quote %d for %s", n, req.Challenge.Nonce), nil
}

// gate serves when it is told to, and leaves when its context ends.
type gate struct {
	entered chan string
	open    chan struct{}
}

func newGate() *gate { return &gate{make(chan string, 100), make(chan struct{})} }

func (g *gate) Formats(attestext.CredentialKind) []attestext.EvidenceFormat { return nil }

func (g *gate) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	g.entered <- string(req.Challenge.Nonce)
	select {
	case <-g.open:
		return []byte("quote"), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func request(name string) *attestext.AttestRequest {
	return &attestext.AttestRequest{Challenge: &attestext.Challenge{
		Role: attestext.RoleServer, Kind: attestext.CertAttestation,
		Nonce: []byte(name), Binder: make([]byte, len(name)), SPKI: []byte("key"),
	}}
}

func mustNew(t *testing.T, a attestext.Attester, o *scheduler.Options) *scheduler.Scheduler {
	t.Helper()
	s, err := scheduler.New(a, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkSum checks that each request has exactly one outcome.
func checkSum(t *testing.T, m scheduler.Metrics) {
	t.Helper()
	sum := m.Served + m.Failed + m.RefusedDeadline + m.RefusedFull + m.RefusedClosed + m.Displaced + m.Cancelled + m.Abandoned
	if sum != m.Requests || m.Queued != 0 || m.Running != 0 {
		t.Errorf("%d requests have %d outcomes: %+v", m.Requests, sum, m)
	}
}

func wantUnavailable(t *testing.T, err error, say string) {
	t.Helper()
	if !errors.Is(err, attestext.ErrUnavailable) || !strings.Contains(err.Error(), say) {
		t.Errorf("got error %v, want ErrUnavailable that says %q", err, say)
	}
}

// One second of waiting at 20 quotes a second is 20 quotes, and no one else waits.
func TestFloodIsServedAtTheRateOfTheAttesterAndTheRestRefusedAtOnce(t *testing.T) {
	const flood = 5000
	for _, tt := range []struct {
		name    string
		options scheduler.Options
		served  int
		peak    int
		full    bool // the rest finds the queue full, and not the wait too long
	}{
		{"deadline binds", scheduler.Options{QueueLimit: 1000, ServiceTime: 50 * time.Millisecond}, 19, 18, false},
		{"queue binds", scheduler.Options{QueueLimit: 8, ServiceTime: 50 * time.Millisecond}, 9, 8, true},
		{"no queue", scheduler.Options{QueueLimit: -1, ServiceTime: 50 * time.Millisecond}, 1, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &hardware{takes: 50 * time.Millisecond}
				s := mustNew(t, h, &tt.options)
				start := time.Now()
				var mu sync.Mutex
				var served []time.Duration
				refused := 0
				var wg sync.WaitGroup
				for i := range flood {
					wg.Go(func() {
						_, err := attestext.Attest(t.Context(), time.Second, s, request(fmt.Sprintf("handshake %d", i)))
						took := time.Since(start)
						mu.Lock()
						defer mu.Unlock()
						if err == nil {
							served = append(served, took)
							return
						}
						refused++
						if took != 0 {
							t.Errorf("refused after %v", took)
						}
						want := "until the deadline"
						if tt.full {
							want = "" // or the deadline, once the queue is long
						}
						wantUnavailable(t, err, want)
					})
				}
				wg.Wait()
				if len(served) != tt.served || refused != flood-tt.served || h.quotes != tt.served {
					t.Errorf("%d served with %d quotes, %d refused; want %d served", len(served), h.quotes, refused, tt.served)
				}
				slices.Sort(served)
				for i, took := range served {
					if want := time.Duration(i+1) * h.takes; took != want {
						t.Errorf("quote %d came after %v, want %v", i+1, took, want)
					}
				}
				m := s.Metrics()
				checkSum(t, m)
				if m.QueuePeak != tt.peak || m.QueuePeak > max(tt.options.QueueLimit, 0) {
					t.Errorf("%d requests were in the queue, want %d", m.QueuePeak, tt.peak)
				}
				if tt.full != (m.RefusedFull > 0) || int(m.RefusedFull+m.RefusedDeadline) != refused {
					t.Errorf("%+v", m)
				}
			})
		})
	}
}

// Whoever is let in is served: where requests keep coming at many times the rate,
// none times out and the attester never rests.
func TestSustainedFloodKeepsTheAttesterBusyAndBreaksNoPromise(t *testing.T) {
	for _, n := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d at a time", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const takes = 50 * time.Millisecond
				s := mustNew(t, pool(n, takes), &scheduler.Options{Concurrency: n, QueueLimit: 1000, ServiceTime: takes})
				var wg sync.WaitGroup
				start := time.Now()
				for i := range 5000 {
					wg.Go(func() {
						attestext.Attest(t.Context(), time.Second, s, request(fmt.Sprintf("handshake %d", i)))
					})
					<-time.After(2 * time.Millisecond)
				}
				wg.Wait()
				m := s.Metrics()
				checkSum(t, m)
				if m.Cancelled+m.Abandoned+m.Failed != 0 {
					t.Errorf("requests that were let in have not been served: %+v", m)
				}
				if want := n * int(time.Since(start)/takes); int(m.Served) < want-n || int(m.Served) > want {
					t.Errorf("%d served in %v, want %d", m.Served, time.Since(start), want)
				}
				if m.ServiceTime != takes {
					t.Errorf("measured a service time of %v, want %v", m.ServiceTime, takes)
				}
			})
		})
	}
}

// pool is hardware that makes n quotes at a time.
func pool(n int, takes time.Duration) attester {
	free := make(chan *hardware, n)
	for range n {
		free <- &hardware{takes: takes}
	}
	return func(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
		h := <-free
		defer func() { free <- h }()
		return h.Attest(ctx, req)
	}
}

func TestSeveralQuotesAtATimeShortenTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustNew(t, pool(4, 50*time.Millisecond), &scheduler.Options{Concurrency: 4, QueueLimit: 1000, ServiceTime: 50 * time.Millisecond})
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				attestext.Attest(t.Context(), 501*time.Millisecond, s, request(fmt.Sprintf("handshake %d", i)))
			})
		}
		wg.Wait()
		m := s.Metrics()
		checkSum(t, m)
		if m.Served != 40 || m.RefusedDeadline != 960 {
			t.Errorf("%d served, want 40: %+v", m.Served, m)
		}
	})
}

type attester func(ctx context.Context, req *attestext.AttestRequest) ([]byte, error)

func (f attester) Formats(attestext.CredentialKind) []attestext.EvidenceFormat { return nil }
func (f attester) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	return f(ctx, req)
}

func TestIdenticalRequestsGetAQuoteEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{takes: time.Millisecond}
		s := mustNew(t, h, nil)
		req := request("the same")
		quotes := make(chan string, 10)
		for range cap(quotes) {
			go func() {
				b, err := s.Attest(t.Context(), req)
				if err != nil {
					t.Error(err)
				}
				quotes <- string(b)
			}()
		}
		seen := map[string]bool{}
		for range cap(quotes) {
			seen[<-quotes] = true
		}
		if len(seen) != cap(quotes) || h.quotes != cap(quotes) {
			t.Errorf("%d requests got %d different quotes of %d", cap(quotes), len(seen), h.quotes)
		}
	})
}

func TestRefusalSaysHowLongTheWaitWouldBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{takes: 500 * time.Millisecond}
		s := mustNew(t, h, &scheduler.Options{ServiceTime: 500 * time.Millisecond})
		for range 3 {
			go s.Attest(t.Context(), request("no deadline"))
		}
		synctest.Wait()
		<-time.After(100 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 1900*time.Millisecond)
		defer cancel()
		_, err := s.Attest(ctx, request("deadline"))
		wantUnavailable(t, err, "2 requests are ahead and 1 at the attester: the wait would be 1.4s, and 500ms for the quote, with 1.9s left until the deadline")
		if m := s.Metrics(); m.ExpectedWait != 1400*time.Millisecond {
			t.Errorf("expected wait is %v", m.ExpectedWait)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 1901*time.Millisecond)
		defer cancel()
		if _, err := s.Attest(ctx, request("enough time")); err != nil {
			t.Error(err)
		}
	})
}

// A quote that took long must not lock out those that come after it.
func TestFreeAttesterIsTriedHoweverSlowItHasBeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{takes: time.Minute}
		s := mustNew(t, h, nil)
		if _, err := s.Attest(t.Context(), request("slow one")); err != nil {
			t.Fatal(err)
		}
		if m := s.Metrics(); m.ServiceTime != time.Minute {
			t.Errorf("measured %v", m.ServiceTime)
		}
		h.takes = 10 * time.Millisecond
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := s.Attest(ctx, request("fast one")); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
		if m := s.Metrics(); m.ServiceTime > 11*time.Millisecond {
			t.Errorf("measured %v", m.ServiceTime)
		}
	})
}

// An attester that hangs has no service time to measure: what counts is how long
// it has been hanging.
func TestHangingAttesterIsNotedBeforeItReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{takes: time.Minute}
		s := mustNew(t, h, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.Attest(ctx, request("hangs"))
		wantUnavailable(t, err, "no quote after 1s at the attester")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v does not wrap the end of the context", err)
		}
		<-time.After(time.Second)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = s.Attest(ctx, request("comes later"))
		wantUnavailable(t, err, "until the deadline")
		if m := s.Metrics(); m.Running != 1 || m.Abandoned != 1 {
			t.Errorf("%+v", m)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		checkSum(t, s.Metrics())
	})
}

func TestRequestLeavesTheQueueWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		s := mustNew(t, g, nil)
		errs := make(chan error, 3)
		attest := func(ctx context.Context, name string) {
			go func() { _, err := s.Attest(ctx, request(name)); errs <- err }()
			synctest.Wait()
		}
		attest(t.Context(), "running")
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("the peer has gone")
		attest(ctx, "cancelled")
		attest(t.Context(), "next")
		cancel(gone)
		err := <-errs
		wantUnavailable(t, err, "in the queue")
		if !errors.Is(err, gone) {
			t.Errorf("%v does not wrap the cause", err)
		}
		if m := s.Metrics(); m.Queued != 1 || m.Cancelled != 1 {
			t.Errorf("%+v", m)
		}
		_, err = s.Attest(ctx, request("never comes in"))
		wantUnavailable(t, err, gone.Error())
		close(g.open)
		for range 2 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if a, b := <-g.entered, <-g.entered; a != "running" || b != "next" || len(g.entered) != 0 {
			t.Errorf("served %q, %q and %d more", a, b, len(g.entered))
		}
		synctest.Wait()
		checkSum(t, s.Metrics())
	})
}

func TestHigherPriorityGoesFirstAndEqualsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{takes: 10 * time.Millisecond}
		s := mustNew(t, h, &scheduler.Options{
			QueueLimit: 4,
			Priority:   func(req *attestext.AttestRequest) int { return int(req.Challenge.Nonce[0] - '0') },
		})
		var wg sync.WaitGroup
		errs := map[string]error{}
		var mu sync.Mutex
		for _, name := range []string{"0 running", "1 a", "1 b", "2 a", "1 c", "0 late", "3 a", "2 b"} {
			wg.Go(func() {
				_, err := s.Attest(t.Context(), request(name))
				mu.Lock()
				defer mu.Unlock()
				errs[name] = err
			})
			synctest.Wait()
		}
		wg.Wait()
		if got := strings.Join(h.order, ", "); got != "0 running, 3 a, 2 a, 2 b, 1 a" {
			t.Errorf("served %s", got)
		}
		wantUnavailable(t, errs["0 late"], "the queue is full: 4 requests wait, at most 4 may")
		wantUnavailable(t, errs["1 b"], "higher priority")
		wantUnavailable(t, errs["1 c"], "higher priority")
		m := s.Metrics()
		checkSum(t, m)
		if m.Displaced != 2 || m.RefusedFull != 1 || m.QueuePeak != 4 {
			t.Errorf("%+v", m)
		}
	})
}

func TestErrorOfTheAttesterComesBackAndItsPanicIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := attestext.Errorf(attestext.ErrWrongType, "attest", "no such format")
		h := &hardware{fail: func(req *attestext.AttestRequest) error {
			switch string(req.Challenge.Nonce) {
			case "panics":
				panic("device gone")
			case "exits":
				runtime.Goexit()
			}
			return wrong
		}}
		s := mustNew(t, h, nil)
		before := s.Metrics().ServiceTime
		_, err := s.Attest(t.Context(), request("fails"))
		if err != wrong {
			t.Errorf("got %v", err)
		}
		_, err = s.Attest(t.Context(), request("panics"))
		wantUnavailable(t, err, "panicked: device gone")
		_, err = s.Attest(t.Context(), request("exits"))
		wantUnavailable(t, err, "ended its goroutine")
		m := s.Metrics()
		checkSum(t, m)
		if m.Failed != 3 || m.ServiceTime != before {
			t.Errorf("failures that cost nothing are measured: %+v", m)
		}
	})
}

func TestDrainServesTheQueueAndRefusesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{takes: 100 * time.Millisecond}
		s := mustNew(t, h, nil)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if _, err := s.Attest(t.Context(), request("before")); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		defer cancel()
		if err := s.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("drained after 150ms: %v", err)
		}
		_, err := s.Attest(t.Context(), request("after"))
		wantUnavailable(t, err, "the scheduler is closed")
		for range 2 {
			if err := s.Drain(t.Context()); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
		m := s.Metrics()
		checkSum(t, m)
		if m.Served != 5 || m.RefusedClosed != 1 {
			t.Errorf("%+v", m)
		}
	})
}

// Close answers everybody at once, even where the attester heeds no context.
func TestCloseAnswersAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{takes: time.Minute}
		s := mustNew(t, h, nil)
		start := time.Now()
		errs := make(chan error, 5)
		for range cap(errs) {
			go func() { _, err := s.Attest(t.Context(), request("waits")); errs <- err }()
		}
		synctest.Wait()
		for range 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		for range cap(errs) {
			wantUnavailable(t, <-errs, "the scheduler is closed")
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("drained after %v, while the attester needs a minute", took)
		}
		m := s.Metrics()
		checkSum(t, m)
		if m.Abandoned != 1 || m.RefusedClosed != 4 || h.quotes != 1 {
			t.Errorf("%+v, %d quotes", m, h.quotes)
		}
	})
}

func TestCloseCancelsTheCallsToTheAttester(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustNew(t, newGate(), nil)
		go s.Attest(t.Context(), request("running"))
		synctest.Wait()
		s.Close()
		if err := s.Drain(t.Context()); err != nil { // blocks, unless the gate leaves
			t.Error(err)
		}
	})
}

func TestMetricsInTheTextFormatOfPrometheus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hardware{takes: 250 * time.Millisecond}
		s := mustNew(t, h, nil)
		for range 2 {
			go s.Attest(t.Context(), request("waits"))
		}
		<-time.After(time.Second)
		var b bytes.Buffer
		n, err := s.WriteTo(&b)
		if err != nil || n != int64(b.Len()) {
			t.Fatalf("%d of %d bytes, %v", n, b.Len(), err)
		}
		for _, line := range []string{
			"# TYPE atls_quote_requests_total counter",
			"atls_quote_requests_total 2",
			"# TYPE atls_quote_outcomes_total counter",
			`atls_quote_outcomes_total{outcome="served"} 2`,
			`atls_quote_outcomes_total{outcome="refused_deadline"} 0`,
			"# TYPE atls_quote_queue_peak gauge",
			"atls_quote_queue_peak 1",
			"atls_quote_queue_limit 64",
			"atls_quote_running 0",
			"atls_quote_queue_wait_seconds_total 0.25",
			"atls_quote_service_seconds 0.25",
			"atls_quote_expected_wait_seconds 0",
		} {
			if !strings.Contains(b.String(), line+"\n") {
				t.Errorf("no line %q in\n%s", line, &b)
			}
		}
		if strings.Count(b.String(), "# HELP ") != strings.Count(b.String(), "# TYPE ") || strings.Contains(b.String(), "%!") {
			t.Error(b.String())
		}
		if _, err := s.WriteTo(failing{}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("error of the writer is %v", err)
		}
	})
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, o := range []*scheduler.Options{{Concurrency: -1}, {ServiceTime: -1}} {
		if _, err := scheduler.New(&hardware{}, o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	if _, err := scheduler.New(nil, nil); err == nil {
		t.Error("no attester is accepted")
	}
	s := mustNew(t, &hardware{}, nil)
	if m := s.Metrics(); m.Concurrency != 1 || m.QueueLimit != 64 || m.ServiceTime != 100*time.Millisecond || m.ExpectedWait != 0 {
		t.Errorf("defaults are %+v", m)
	}
	if f := s.Formats(attestext.CertAttestation); !slices.Equal(f, []attestext.EvidenceFormat{tsm.FormatCBOR}) {
		t.Errorf("formats are %v", f)
	}
}

func TestEvidencePassesThroughUnchanged(t *testing.T) {
	a := softtee.NewTDX(nil).Attester()
	s := mustNew(t, a, nil)
	req := request("0123456789abcdef")
	req.Type = attestext.EvidenceType{Kind: attestext.CertAttestation, Format: tsm.FormatCBOR}
	want, err := attestext.Attest(t.Context(), time.Minute, a, req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := attestext.Attest(t.Context(), time.Minute, s, req)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("evidence differs: %v", err)
	}
}
