package collateral

import (
	"container/list"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext"
)

// A store keeps one kind of collateral by key, and fetches each at most once at a time.
type store[T any] struct {
	s        *Source
	tee      string
	editions func(T) map[string]int64 // numbers that do not go down, by the name of a part

	mu    sync.Mutex
	items map[string]*item[T]
	order *list.List // of keys; the front was used last
	// newest has the highest edition of each part that was fetched, under whatever key.
	// Nothing is forgotten: only what manufacturers have signed is here, and they name few
	// parts.
	newest map[string]int64
}

// An item is what is known for one key.
type item[T any] struct {
	element *list.Element

	value   T
	have    bool
	fetched time.Time
	expires time.Time

	flight *flight // nil where no fetch is under way
	failed time.Time
	err    error // of the last fetch, if it failed at failed
}

// A flight is a fetch that is under way.
type flight struct {
	done chan struct{}
	err  error // once done is closed
}

func newStore[T any](s *Source, tee string, editions func(T) map[string]int64) *store[T] {
	return &store[T]{s: s, tee: tee, editions: editions, items: make(map[string]*item[T]), order: list.New(), newest: make(map[string]int64)}
}

// advance remembers the editions of what was fetched, unless one of its parts is older
// than one of the same name that was fetched before. st.mu is held.
func (st *store[T]) advance(editions map[string]int64) error {
	for _, part := range slices.Sorted(maps.Keys(editions)) {
		if newest, ok := st.newest[part]; ok && editions[part] < newest {
			return unavailable("%s is older than one that was fetched before", part)
		}
	}
	maps.Copy(st.newest, editions)
	return nil
}

// A fetchFunc fetches a value and says when it expires.
type fetchFunc[T any] func(ctx context.Context) (value T, expires time.Time, err error)

// get returns the value of key. Before the first fetch of a key it calls genuine, which
// says whether there is reason to fetch at all.
func (st *store[T]) get(ctx context.Context, key string, genuine func() error, fetch fetchFunc[T]) (T, error) {
	start := time.Now()
	v, outcome, err := st.lookup(ctx, key, genuine, fetch)
	st.s.observe(Event{TEE: st.tee, Key: key, Outcome: outcome, Took: time.Since(start), Err: err})
	return v, err
}

func (st *store[T]) lookup(ctx context.Context, key string, genuine func() error, fetch fetchFunc[T]) (v T, _ Outcome, _ error) {
	st.mu.Lock()
	it := st.items[key]
	if it != nil {
		st.order.MoveToFront(it.element)
		if v, outcome, ok := st.usable(it, key, fetch); ok {
			st.mu.Unlock()
			return v, outcome, nil
		}
	}
	if it == nil || it.flight == nil {
		// Nobody has vouched for the platform yet, or too long ago.
		st.mu.Unlock()
		if genuine != nil {
			if err := genuine(); err != nil {
				return v, Missing, err
			}
		}
		st.mu.Lock()
		it = st.item(key)
		if v, outcome, ok := st.usable(it, key, fetch); ok { // meanwhile
			st.mu.Unlock()
			return v, outcome, nil
		}
	}
	if it.flight == nil {
		if it.err != nil && st.s.conf.Now().Sub(it.failed) < st.s.conf.RetryAfter {
			err := it.err
			st.mu.Unlock()
			return v, Missing, err
		}
		if !st.start(it, key, fetch) {
			st.mu.Unlock()
			return v, Missing, &attestext.Error{Class: attestext.ErrUnavailable, Op: opFetch, Err: errClosed}
		}
	}
	f := it.flight
	st.mu.Unlock()
	select {
	case <-f.done:
	case <-ctx.Done():
		return v, Missing, &attestext.Error{Class: attestext.ErrUnavailable, Op: opFetch, Err: ctx.Err()}
	}
	if f.err != nil {
		return v, Missing, f.err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if it.have {
		return it.value, Waited, nil
	}
	return v, Missing, unavailable("nothing was fetched")
}

// usable returns the value of it if that may still serve, and has it refreshed where it
// is time. st.mu is held.
func (st *store[T]) usable(it *item[T], key string, fetch fetchFunc[T]) (v T, _ Outcome, ok bool) {
	conf, now := &st.s.conf, st.s.conf.Now()
	age := now.Sub(it.fetched)
	switch {
	case !it.have || !now.Before(it.expires) || age >= conf.MaxStale || age < 0:
		return v, "", false
	case age < conf.RefreshAfter:
		return it.value, Fresh, true
	}
	if it.flight == nil && (it.err == nil || now.Sub(it.failed) >= conf.RetryAfter) {
		st.start(it, key, fetch)
	}
	return it.value, Stale, true
}

// item returns the item of key, made if there is none. Where there would be too many,
// the one that was not used longest is forgotten. st.mu is held.
func (st *store[T]) item(key string) *item[T] {
	if it := st.items[key]; it != nil {
		return it
	}
	it := &item[T]{element: st.order.PushFront(key)}
	st.items[key] = it
	for len(st.items) > st.s.conf.MaxEntries {
		oldest := st.order.Back()
		st.order.Remove(oldest)
		delete(st.items, oldest.Value.(string))
	}
	return it
}

// start begins a fetch, which ends with the Source and not with a caller. It returns
// false after Close. st.mu is held.
func (st *store[T]) start(it *item[T], key string, fetch fetchFunc[T]) bool {
	if !st.s.begin() {
		return false
	}
	f := &flight{done: make(chan struct{})}
	it.flight = f
	go func() {
		defer st.s.fetches.Done()
		begun := time.Now()
		v, expires, err := st.run(fetch)
		now := st.s.conf.Now()
		st.mu.Lock()
		it.flight = nil
		if err == nil {
			err = st.advance(st.editions(v))
		}
		outcome := Fetched
		if err != nil {
			outcome = Failed
		}
		if err == nil {
			it.value, it.have, it.fetched, it.expires, it.err = v, true, now, expires, nil
		} else {
			it.failed, it.err = now, err
		}
		f.err = err
		st.mu.Unlock()
		st.s.observe(Event{TEE: st.tee, Key: key, Outcome: outcome, Took: time.Since(begun), Err: err})
		close(f.done)
	}()
	return true
}

// run calls fetch with a deadline, when there is a slot for it.
func (st *store[T]) run(fetch fetchFunc[T]) (v T, expires time.Time, err error) {
	ctx, cancel := context.WithTimeout(st.s.ctx, st.s.conf.Timeout)
	defer cancel()
	select {
	case st.s.slots <- struct{}{}:
		defer func() { <-st.s.slots }()
	case <-ctx.Done():
		return v, expires, unavailable("%d others are under way: %w", maxFetches, ctx.Err())
	}
	defer func() {
		if p := recover(); p != nil {
			err = unavailable("fetching panicked: %v", p)
		}
	}()
	return fetch(ctx)
}
