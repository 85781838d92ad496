package enroll

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/attestedtls/atls/tls"
)

// A Renewer holds a certificate and has it renewed when two thirds of its time are over.
// If that fails it tries again, at most every second and at least every hour, and
// the old certificate serves until it expires, and no longer. Its methods may be called
// concurrently.
type Renewer struct {
	enroll func(context.Context) (*tls.Certificate, error)
	report func(*tls.Certificate, error)
	stop   context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	cert    *tls.Certificate
	failure error // of the last attempt
}

// NewRenewer has enroll, which is [Client.Enroll] or the like, get the first certificate,
// and then renews it in the background until Close. report is called after each attempt
// in the background, with the new certificate or the error; nil is nobody.
func NewRenewer(ctx context.Context, enroll func(context.Context) (*tls.Certificate, error), report func(*tls.Certificate, error)) (*Renewer, error) {
	cert, err := enroll(ctx)
	if err != nil {
		return nil, err
	}
	if cert == nil || cert.Leaf == nil {
		return nil, errors.New("enroll: a certificate without Leaf")
	}
	if report == nil {
		report = func(*tls.Certificate, error) {}
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	r := &Renewer{enroll: enroll, report: report, stop: stop, done: make(chan struct{}), cert: cert}
	go r.run(ctx)
	return r, nil
}

// Close ends the renewal and waits for an attempt that is under way. The certificate
// serves on until it expires.
func (r *Renewer) Close() error {
	r.stop()
	<-r.done
	return nil
}

// wait returns how long to wait at now before the next attempt, after one that has just
// been well or not. How far the issuer dates a certificate back does not matter.
func wait(cert *tls.Certificate, now time.Time, failed bool) time.Duration {
	left := cert.Leaf.NotAfter.Sub(now)
	d := left * 2 / 3
	if failed {
		d = min(left/8, time.Hour)
	}
	return max(d, time.Second)
}

func (r *Renewer) run(ctx context.Context) {
	defer close(r.done)
	cert, failed := r.cert, false
	for {
		t := time.NewTimer(wait(cert, time.Now(), failed))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		next, err := r.enroll(ctx)
		if err == nil && (next == nil || next.Leaf == nil) {
			err = errors.New("enroll: a certificate without Leaf")
		}
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		if r.failure = err; err == nil {
			cert, r.cert = next, next
		}
		r.mu.Unlock()
		failed = err != nil
		r.report(next, err)
	}
}

// Certificate returns the certificate, or why there is none that has not expired.
func (r *Renewer) Certificate() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().After(r.cert.Leaf.NotAfter) {
		return nil, fmt.Errorf("enroll: the certificate expired at %v and was not renewed: %w", r.cert.Leaf.NotAfter, r.why())
	}
	return r.cert, nil
}

func (r *Renewer) why() error {
	if r.failure == nil {
		return errors.New("no attempt has ended since")
	}
	return r.failure
}

// GetCertificate is for a server's tls.Config.
func (r *Renewer) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return r.Certificate()
}

// GetClientCertificate is for a client's.
func (r *Renewer) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return r.Certificate()
}
