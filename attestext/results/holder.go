package results

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/ear"
)

// A Held is one result that a verifier gave this machine.
type Held struct {
	// Verifier is the identity under which it is presented, 1 to 65,535 bytes. The
	// result is not verified against it; that is up to the peers.
	Verifier attestext.VerifierIdentity
	// Result is an EAR, as a JWT or in a CMW.
	Result []byte
}

// HolderOptions change what a [Holder] does. The zero value is the default.
type HolderOptions struct {
	// Refresh gets a new result from a verifier, as a JWT or in a CMW, over the key
	// whose DER SubjectPublicKeyInfo is spki. It is called with a deadline and never
	// twice at a time for the same arguments, and concurrently for others. nil
	// leaves results to expire.
	Refresh func(ctx context.Context, verifier attestext.VerifierIdentity, spki []byte) ([]byte, error)

	// RefreshBefore is how long before a result expires a new one is got. Zero means
	// a fifth of the lifetime of the result.
	RefreshBefore time.Duration

	// RefreshTimeout is how long Refresh may take; then it is left behind. Zero
	// means 10 seconds.
	RefreshTimeout time.Duration

	// MaxAge is how long after it was issued a result is presented, if it does not
	// expire before. Peers have a limit of their own. Zero means
	// [ear.DefaultMaxAge], 24 hours.
	MaxAge time.Duration

	// Now returns the present. nil means time.Now.
	Now func() time.Time
}

const (
	defaultRefreshTimeout = 10 * time.Second
	// refreshFraction of a lifetime before its end, it is time for a new result.
	refreshFraction = 5
	// refreshPause is how long a failed refresh is not tried again, while there is
	// still a valid result or nobody waits for one.
	refreshPause = 15 * time.Second
)

// A Holder is an [attestext.ResultsHolder] for EARs. It never presents a result
// that has expired. Its methods may be called concurrently.
//
// With [HolderOptions.Refresh], it gets new results on demand: while a result is
// valid, it is presented, and nobody waits for the next one; once it is not, Attest
// waits. Nothing runs between refreshes.
type Holder struct {
	opts HolderOptions
	path string

	mu        sync.Mutex
	file      os.FileInfo // of path, when it was last read with success
	fileErr   error       // why path could not be read since
	held      []*entry    // given or out of the file, in order of preference
	refreshed []*entry    // one for each verifier and key
	flights   map[flightKey]*flight
	failed    map[flightKey]time.Time
}

var _ attestext.ResultsHolder = (*Holder)(nil)

// An entry is a result as it is presented. It is not changed.
type entry struct {
	verifier attestext.VerifierIdentity
	cmw      []byte
	claims   *ear.Claims // unverified
}

type flightKey struct {
	verifier attestext.VerifierIdentity
	spki     string
}

// A flight is a refresh in progress. err is set when done is closed.
type flight struct {
	done chan struct{}
	err  error
}

// NewHolder returns a Holder of results, in order of preference. nil options are
// those of the zero value. It fails for results that do not parse; those that have
// expired may be among them, for they may be refreshed. With Refresh, there need
// not be any; see [Holder.Renew].
func NewHolder(held []Held, opts *HolderOptions) (*Holder, error) {
	h, err := newHolder(opts)
	if err != nil {
		return nil, err
	}
	if len(held) == 0 && h.opts.Refresh == nil {
		return nil, errors.New("results: nothing to hold")
	}
	if h.held, err = entries(held); err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	return h, nil
}

// OpenHolder returns a Holder of the results in a file, as [ParseHeld] reads it. The
// file is read again when it has changed, which is looked for at each use; a file
// that is then missing or malformed leaves the results as they were. It is best
// replaced by renaming another one to its name.
func OpenHolder(path string, opts *HolderOptions) (*Holder, error) {
	h, err := newHolder(opts)
	if err != nil {
		return nil, err
	}
	h.path = path
	if err := h.reload(); err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	return h, nil
}

func newHolder(opts *HolderOptions) (*Holder, error) {
	h := &Holder{flights: make(map[flightKey]*flight), failed: make(map[flightKey]time.Time)}
	if opts != nil {
		h.opts = *opts
	}
	if h.opts.MaxAge < 0 || h.opts.RefreshBefore < 0 || h.opts.RefreshTimeout < 0 {
		return nil, errors.New("results: negative duration in the options")
	}
	if h.opts.MaxAge == 0 {
		h.opts.MaxAge = ear.DefaultMaxAge
	}
	if h.opts.RefreshTimeout == 0 {
		h.opts.RefreshTimeout = defaultRefreshTimeout
	}
	if h.opts.Now == nil {
		h.opts.Now = time.Now
	}
	return h, nil
}

func entries(held []Held) ([]*entry, error) {
	var list []*entry
	for i, r := range held {
		e, err := newEntry(r)
		if err != nil {
			return nil, fmt.Errorf("result %d: %w", i, err)
		}
		list = append(list, e)
	}
	return list, nil
}

// maxIdentity is the size of a verifier_identity, draft-fossati-tls-attestation-08.
const maxIdentity = 1<<16 - 1

func newEntry(r Held) (*entry, error) {
	if len(r.Verifier) == 0 || len(r.Verifier) > maxIdentity {
		return nil, errors.New("verifier without an identity, or with one too long")
	}
	token := r.Result
	if !isToken(token) {
		var err error
		if token, _, err = ear.Unwrap(r.Result); err != nil {
			return nil, err
		}
	}
	claims, err := ear.ParseUnverified(token)
	if err != nil {
		return nil, err
	}
	// A wrapper that came along need not have the indicator that peers look for.
	cmw, err := ear.Wrap(token)
	if err != nil {
		return nil, err
	}
	return &entry{r.Verifier, cmw, claims}, nil
}

// reload reads the file if it has changed. The caller has h.mu, or h to itself.
func (h *Holder) reload() error {
	if h.path == "" {
		return nil
	}
	info, err := os.Stat(h.path)
	if err != nil {
		return err
	}
	if h.file != nil && os.SameFile(info, h.file) && info.ModTime().Equal(h.file.ModTime()) && info.Size() == h.file.Size() {
		return nil
	}
	f, err := os.Open(h.path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return err
	}
	held, err := ParseHeld(data)
	if err != nil {
		return err
	}
	list, err := entries(held)
	if err != nil {
		return err
	}
	h.held, h.file = list, info
	return nil
}

// until returns when e must not be presented any more.
func (h *Holder) until(e *entry) time.Time { return e.claims.ValidUntil(h.opts.MaxAge) }

func (h *Holder) valid(e *entry, now time.Time) bool {
	return e.claims.CheckTime(now, h.opts.MaxAge) == nil
}

// due reports whether it is time for the result that comes after e.
func (h *Holder) due(e *entry, now time.Time) bool {
	before := h.opts.RefreshBefore
	if before == 0 {
		before = h.until(e).Sub(e.claims.IssuedAt) / refreshFraction
	}
	return !now.Before(h.until(e).Add(-before))
}

// best returns the result of a verifier that is valid at now and has the longest to
// live, over the key spki if there is one. If there is none, it returns nil if the
// key is needed, and otherwise the best over any key. The caller has h.mu.
func (h *Holder) best(verifier attestext.VerifierIdentity, spki []byte, needKey bool, now time.Time) *entry {
	var best *entry
	better := func(e *entry) bool {
		if best == nil {
			return true
		}
		over, bestOver := string(e.claims.AKPub()) == string(spki), string(best.claims.AKPub()) == string(spki)
		if over != bestOver {
			return over
		}
		return h.until(e).After(h.until(best))
	}
	for e := range h.all {
		if e.verifier != verifier || !h.valid(e, now) || needKey && string(e.claims.AKPub()) != string(spki) {
			continue
		}
		if better(e) {
			best = e
		}
	}
	return best
}

// all yields every result. The caller has h.mu.
func (h *Holder) all(yield func(*entry) bool) {
	for _, list := range [][]*entry{h.held, h.refreshed} {
		for _, e := range list {
			if !yield(e) {
				return
			}
		}
	}
}

// Verifiers lists whose results h has and which of them are valid now, in the order
// that they were given. Where all those of a verifier are about to expire, or have,
// it begins to refresh them and does not wait.
func (h *Holder) Verifiers() []attestext.VerifierIdentity {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fileErr = h.reload()
	now := h.opts.Now()
	var ids []attestext.VerifierIdentity
	for e := range h.all {
		if h.valid(e, now) && !slices.Contains(ids, e.verifier) {
			ids = append(ids, e.verifier)
		}
		if key := e.claims.AKPub(); key != nil {
			if b := h.best(e.verifier, key, true, now); b == nil || h.due(b, now) {
				h.refreshUnlessFailed(e.verifier, key, now)
			}
		}
	}
	return ids
}

const opPresent = "present result"

// Attest returns a valid result by req.Verifier as a CMW: a CBOR record with the
// indicator attestation-results. With AttestationOnly and under every rule but BindingDraft08 it
// names the key of req.Challenge.SPKI; otherwise one that does is preferred.
//
// If there is none and h can refresh, it does, and waits for that until ctx is done.
// Errors are of class [attestext.ErrUnavailable].
func (h *Holder) Attest(ctx context.Context, req *attestext.AttestRequest) ([]byte, error) {
	if err := req.Challenge.Validate(); err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opPresent, Err: err}
	}
	spki, needKey := req.Challenge.SPKI, needsKey(req.Challenge)
	if needKey && len(spki) == 0 {
		return nil, attestext.Errorf(attestext.ErrUnavailable, opPresent, "no key to present a result over")
	}

	h.mu.Lock()
	h.fileErr = h.reload()
	now := h.opts.Now()
	e := h.best(req.Verifier, spki, needKey, now)
	var f *flight
	switch {
	case len(spki) == 0 || !h.knows(req.Verifier):
	case e == nil:
		f = h.refresh(req.Verifier, spki)
	case h.due(e, now):
		h.refreshUnlessFailed(req.Verifier, spki, now)
	}
	fileErr := h.fileErr
	h.mu.Unlock()

	if e == nil && f != nil {
		if err := f.wait(ctx); err != nil {
			return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opPresent, Err: err}
		}
		h.mu.Lock()
		e = h.best(req.Verifier, spki, needKey, h.opts.Now())
		h.mu.Unlock()
	}
	if e == nil {
		err := fmt.Errorf("no valid result by %q over this key", req.Verifier)
		if fileErr != nil {
			err = fmt.Errorf("%w; %w", err, fileErr)
		}
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opPresent, Err: err}
	}
	return slices.Clone(e.cmw), nil
}

// Renew gets a new result by a verifier over the key spki now, whatever is held, and
// waits for it until ctx is done. It fails if h cannot refresh. A refresh of the
// same result that is under way is waited for in its place.
func (h *Holder) Renew(ctx context.Context, verifier attestext.VerifierIdentity, spki []byte) error {
	h.mu.Lock()
	f := h.refresh(verifier, spki)
	h.mu.Unlock()
	if f == nil {
		return attestext.Errorf(attestext.ErrUnavailable, "renew result", "no way to refresh")
	}
	if err := f.wait(ctx); err != nil {
		return &attestext.Error{Class: attestext.ErrUnavailable, Op: "renew result", Err: err}
	}
	return nil
}

// knows reports whether h has, or had, a result by a verifier. The caller has h.mu.
func (h *Holder) knows(verifier attestext.VerifierIdentity) bool {
	for e := range h.all {
		if e.verifier == verifier {
			return true
		}
	}
	return false
}

func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// refreshUnlessFailed begins a refresh unless the last one failed a moment ago. The
// caller has h.mu.
func (h *Holder) refreshUnlessFailed(verifier attestext.VerifierIdentity, spki []byte, now time.Time) {
	if at, ok := h.failed[flightKey{verifier, string(spki)}]; ok && now.Before(at.Add(refreshPause)) {
		return
	}
	h.refresh(verifier, spki)
}

// refresh begins a refresh, or joins the one under way. It returns nil if h cannot.
// The caller has h.mu.
func (h *Holder) refresh(verifier attestext.VerifierIdentity, spki []byte) *flight {
	if h.opts.Refresh == nil {
		return nil
	}
	key := flightKey{verifier, string(spki)}
	if f := h.flights[key]; f != nil {
		return f
	}
	f := &flight{done: make(chan struct{})}
	h.flights[key] = f
	go func() {
		e, err := h.fetch(verifier, []byte(key.spki))
		h.mu.Lock()
		defer h.mu.Unlock()
		now := h.opts.Now()
		if err == nil {
			if err = e.claims.CheckTime(now, h.opts.MaxAge); err != nil {
				err = fmt.Errorf("verifier %q gave a result that is not valid: %w", verifier, err)
			}
		}
		if err == nil {
			h.store(e)
			delete(h.failed, key)
		} else {
			h.failed[key] = now
		}
		delete(h.flights, key)
		f.err = err
		close(f.done)
	}()
	return f
}

// store puts e in the place of the refreshed result that it replaces. The caller has h.mu.
func (h *Holder) store(e *entry) {
	h.refreshed = slices.DeleteFunc(h.refreshed, func(old *entry) bool {
		return old.verifier == e.verifier && string(old.claims.AKPub()) == string(e.claims.AKPub())
	})
	h.refreshed = append(h.refreshed, e)
}

// fetch calls Refresh, and leaves it behind if it outlasts its deadline.
func (h *Holder) fetch(verifier attestext.VerifierIdentity, spki []byte) (*entry, error) {
	ctx, cancel := context.WithTimeout(context.Background(), h.opts.RefreshTimeout)
	defer cancel()
	type answer struct {
		b   []byte
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				ch <- answer{err: fmt.Errorf("refresh panicked: %v", p)}
			}
		}()
		b, err := h.opts.Refresh(ctx, verifier, spki)
		ch <- answer{b, err}
	}()
	var a answer
	select {
	case a = <-ch:
	case <-ctx.Done():
		return nil, fmt.Errorf("verifier %q gave no result within %v", verifier, h.opts.RefreshTimeout)
	}
	if a.err != nil {
		return nil, a.err
	}
	e, err := newEntry(Held{verifier, a.b})
	if err != nil {
		return nil, err
	}
	if string(e.claims.AKPub()) != string(spki) {
		return nil, fmt.Errorf("verifier %q gave a result over another key", verifier)
	}
	return e, nil
}
