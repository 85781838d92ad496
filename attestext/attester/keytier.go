package attester

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
)

// KeyTierOptions say how a [KeyTier] quotes.
type KeyTierOptions struct {
	// MaxAge is how old a quote may be when it serves a session. It must be more than
	// zero, and should be less than the relying parties' max_quote_age, for their epoch
	// begins before the quote is made.
	MaxAge time.Duration

	// Epoch returns a current epoch ID (RFC 9334, section 10.3; package epoch) by an
	// issuer that the relying parties trust, of at most [eat.MaxEpochSize] bytes. It is
	// called before each quote. nil has quotes that do not show their age, which relying
	// parties refuse unless their policy has insecure_allow_unknown_quote_age.
	Epoch func(context.Context) ([]byte, error)

	// Timeout bounds an epoch ID and a quote together. Zero means DefaultQuoteTimeout.
	Timeout time.Duration

	// Failed is told of each quote that [KeyTier.Run] could not have. nil tells nobody.
	Failed func(error)
}

// DefaultQuoteTimeout is for how long a [KeyTier] waits for a quote where
// KeyTierOptions do not say.
const DefaultQuoteTimeout = 30 * time.Second

const (
	// A quote is made anew when half of MaxAge is over, and where that fails, again
	// after a sixteenth of it.
	renewFraction = 2
	retryFraction = 16
)

// KeyTier implements [attestext.Attester] with few quotes: one attests a key, and the
// key signs a token for each session until the next quote, at half of MaxAge. Every
// quote has a key of its own. It is for hardware that makes fewer quotes than there are
// sessions, and for relying parties that accept a platform's state of some age
// (max_quote_age in their policy); all others refuse it.
//
// Its Evidence is a bundle, whatever the kind of credential. The quote shows its age by
// an epoch ID; see [eat.ReportData].
//
// Its methods may be called concurrently. It has no quote, and attests to nothing,
// before the first Renew or Run, and after MaxAge without one: it fails closed.
type KeyTier struct {
	source  Source
	opts    KeyTierOptions
	current atomic.Pointer[quoted]
}

var _ attestext.Attester = (*KeyTier)(nil)

// quoted is a key and the quote over it.
type quoted struct {
	kak   crypto.Signer
	pat   cmw.Record
	epoch []byte
	made  time.Time
}

// age is measured on the clock on the wall and on the monotonic one, of which the first
// can be set back, and the second stands still while a machine sleeps.
func (q *quoted) age() time.Duration {
	now := time.Now()
	return max(now.Sub(q.made), now.Round(0).Sub(q.made.Round(0)))
}

// NewKeyTier returns a KeyTier on q that has no quote yet.
func NewKeyTier(q Quoter, opts *KeyTierOptions) (*KeyTier, error) {
	return NewKeyTierSource(reports{q}, opts)
}

// NewKeyTierSource is like NewKeyTier for evidence that is not a report of configfs-tsm.
func NewKeyTierSource(s Source, opts *KeyTierOptions) (*KeyTier, error) {
	k := &KeyTier{source: s, opts: *opts}
	if k.opts.MaxAge <= 0 || k.opts.Timeout < 0 {
		return nil, errors.New("key tier: no maximum age or a negative timeout")
	}
	if k.opts.Timeout == 0 {
		k.opts.Timeout = DefaultQuoteTimeout
	}
	if k.opts.Failed == nil {
		k.opts.Failed = func(error) {}
	}
	return k, nil
}

// Renew makes a key and has it quoted. Where that fails, the quote before remains in
// use until it is too old.
func (k *KeyTier) Renew(ctx context.Context) error {
	if err := k.renew(ctx); err != nil {
		return &attestext.Error{Class: attestext.ErrUnavailable, Op: "renew key tier", Err: err}
	}
	return nil
}

func (k *KeyTier) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.opts.Timeout)
	defer cancel()
	q := &quoted{kak: newKAK(), made: time.Now()} // before the quote, so that it is no younger
	freshness := eat.Undated
	if k.opts.Epoch != nil {
		var err error
		if q.epoch, err = k.opts.Epoch(ctx); err != nil {
			return fmt.Errorf("epoch ID: %w", err)
		}
		if len(q.epoch) == 0 || len(q.epoch) > eat.MaxEpochSize {
			return fmt.Errorf("epoch ID of %d bytes, want 1 to %d", len(q.epoch), eat.MaxEpochSize)
		}
		freshness = eat.ForEpoch
	}
	kakPub, err := eat.MarshalKey(q.kak.Public())
	if err != nil {
		return err
	}
	pat, err := k.source.Record(ctx, k.source.Formats()[0], eat.ReportData(kakPub, freshness, q.epoch))
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("the quote came too late: %w", err)
	}
	q.pat = *pat
	k.current.Store(q)
	return nil
}

// Run renews where there is no quote yet or it is old enough, and then again and again,
// until ctx is done, whose error it returns. One Run is enough.
func (k *KeyTier) Run(ctx context.Context) error {
	for {
		wait := k.opts.MaxAge / renewFraction
		if age, ok := k.Age(); ok && age < wait {
			wait -= age // of a quote by Renew
		} else if err := k.Renew(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			k.opts.Failed(err)
			wait = k.opts.MaxAge / retryFraction
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// Age returns how old the quote is, and whether there is one that is in use.
func (k *KeyTier) Age() (age time.Duration, ok bool) {
	q := k.current.Load()
	if q == nil {
		return 0, false
	}
	age = q.age()
	return age, age < k.opts.MaxAge
}

// Formats returns that of a bundle.
func (k *KeyTier) Formats(attestext.CredentialKind) []attestext.EvidenceFormat {
	return []attestext.EvidenceFormat{eat.BundleFormat}
}

// Attest returns a bundle with a token for the challenge of req. Errors are of class
// [attestext.ErrWrongType] where another format is asked for, and otherwise of
// [attestext.ErrUnavailable], in particular where there is no quote or it is too old.
func (k *KeyTier) Attest(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
	if f := req.Type.Format; !f.Equal(eat.BundleFormat) && !f.IsAny() {
		return nil, attestext.Errorf(attestext.ErrWrongType, op, "cannot make %v", f)
	}
	b, err := k.bundle(req.Challenge)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: err}
	}
	return b, nil
}

func (k *KeyTier) bundle(c *attestext.Challenge) ([]byte, error) {
	if c.Model != attestext.BackgroundCheck {
		return nil, fmt.Errorf("evidence cannot be made for the %v model", c.Model)
	}
	q := k.current.Load()
	if q == nil {
		return nil, errors.New("there is no quote yet: call Renew or Run, and see why it fails")
	}
	if age := q.age(); age >= k.opts.MaxAge {
		return nil, fmt.Errorf("the quote is %v old, at most %v are allowed, and there was no other", age.Round(time.Second), k.opts.MaxAge)
	}
	kat, err := signKAT(q.kak, c)
	if err != nil {
		return nil, err
	}
	return (&eat.Bundle{KAT: kat, PAT: q.pat, Epoch: q.epoch}).Encode()
}
