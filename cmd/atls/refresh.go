package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/veraison"
	"github.com/attestedtls/atls/tls"
)

// freshEvery is how often a refresher looks whether a result is about to expire. The
// holder decides when that is. Tests have it shorter.
var freshEvery = time.Second

// refreshBefore is how long before a result expires a new one is got, 0 for the holder's
// default. Tests have it longer.
var refreshBefore time.Duration

// A refresher has a service make the results of --attest results:FILE.
type refresher struct {
	client   *veraison.Client
	attester attestext.Attester
	id       attestext.VerifierIdentity
	spki     []byte
	path     string
	timeout  time.Duration
	warn     func(error) // may be nil

	holder    *results.Holder
	refreshes *family
	file      sync.Mutex
}

// newRefresher returns a refresher for the key that a, and s, authenticate with.
func (f *connFlags) newRefresher(s *setup, a *tls.AttestationConfig, path string) (*refresher, error) {
	r := &refresher{
		path: path, timeout: f.timeout / 2, warn: f.warn, id: attestext.VerifierIdentity(f.refreshFrom),
		refreshes: newCounter("atls_result_refreshes_total", "Results that have been asked of the appraisal service.", "outcome"),
	}
	if f.verify != "results" && len(f.verifierIDs) == 1 { // otherwise they are those to trust
		r.id = f.identities()[0]
	}
	switch {
	case a.AttestedKey != nil:
		spki, err := x509.MarshalPKIXPublicKey(a.AttestedKey.Public())
		if err != nil {
			return nil, &malformedError{fmt.Errorf("--key: %w", err)}
		}
		r.spki = spki
	case len(s.config.Certificates) == 1:
		r.spki = s.config.Certificates[0].Leaf.RawSubjectPublicKeyInfo
	default:
		return nil, usagef("a result is over a key, which has to last", "--refresh-from needs --key")
	}
	var err error
	if r.client, err = veraison.NewClient(f.refreshFrom, &veraison.ClientOptions{Timeout: r.timeout}); err != nil {
		return nil, usagef("for example --refresh-from https://veraison.example:8443", "--refresh-from: %w", err)
	}
	with := *f
	with.attest = f.refreshWith
	if r.attester, err = with.attester(s, []attestext.EvidenceFormat{eat.BundleFormat}); err != nil {
		return nil, fmt.Errorf("--refresh-with: %w", err)
	}
	return r, nil
}

// start sees to it that there is a result, and keeps it fresh until s is closed.
func (r *refresher) start(s *setup) (attestext.ResultsHolder, error) {
	if !r.usable() {
		ctx, cancel := context.WithTimeout(s.ctx, r.timeout)
		defer cancel()
		if _, err := r.refresh(ctx, r.id, r.spki); err != nil {
			return nil, &hintedError{fmt.Errorf("--refresh-from: %w", err), "there is no result that can be shown until the service makes one, out of what --refresh-with names"}
		}
	}
	var err error
	r.holder, err = results.OpenHolder(r.path, &results.HolderOptions{Refresh: r.refresh, RefreshBefore: refreshBefore, RefreshTimeout: r.timeout})
	if err != nil {
		return nil, &malformedError{fmt.Errorf("--attest results: %w", err)}
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(freshEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.holder.Verifiers() // which begins a refresh where one is due
			case <-stop:
				return
			}
		}
	}()
	s.closers = append(s.closers, closer(func() error { close(stop); <-done; return nil }))
	s.fresh = r
	return r.holder, nil
}

type closer func() error

func (c closer) Close() error { return c() }

// usable reports whether there is a result in the file that can be presented now.
func (r *refresher) usable() bool {
	held, err := r.read()
	return err == nil && slices.ContainsFunc(held, func(h results.Held) bool {
		c := r.mine(h)
		return c != nil && c.CheckTime(time.Now(), ear.DefaultMaxAge) == nil
	})
}

// mine returns what h says if it is a result by the service over the key, or nil.
func (r *refresher) mine(h results.Held) *ear.Claims {
	token := h.Result
	if t, _, err := ear.Unwrap(token); err == nil {
		token = t
	}
	c, err := ear.ParseUnverified(token)
	if h.Verifier != r.id || err != nil || !bytes.Equal(c.AKPub(), r.spki) {
		return nil
	}
	return c
}

func (r *refresher) read() ([]results.Held, error) {
	b, err := readFile("attest", r.path)
	if err != nil {
		return nil, err
	}
	return results.ParseHeld(b)
}

// refresh is results.HolderOptions.Refresh. What cannot be had from this service, as
// other results in the file, is left to expire.
func (r *refresher) refresh(ctx context.Context, id attestext.VerifierIdentity, spki []byte) ([]byte, error) {
	if id != r.id || !bytes.Equal(spki, r.spki) {
		return nil, fmt.Errorf("no way to refresh results by %q over this key", id)
	}
	token, err := r.client.Passport(ctx, r.attester, spki)
	r.refreshes.add(outcomeOf(err))
	if err == nil {
		if e := r.write(token); e != nil {
			r.report(fmt.Errorf("the new result is not in the file: %w", e))
		}
		return token, nil
	}
	r.report(fmt.Errorf("no new result from %s: %w", r.id, err))
	return nil, err
}

// report says what went wrong while connections are served.
func (r *refresher) report(err error) {
	if r.warn == nil || r.holder == nil { // at the start it is the command's own error
		return
	}
	r.warn(err)
}

// write puts a result into the file, in the place of the one that it follows. Whoever
// reads the file meanwhile finds either of them.
func (r *refresher) write(token []byte) error {
	r.file.Lock()
	defer r.file.Unlock()
	held, err := r.read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	held = slices.DeleteFunc(held, func(h results.Held) bool { return r.mine(h) != nil })
	b, err := results.MarshalHeld(append([]results.Held{{Verifier: r.id, Result: token}}, held...))
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(r.path), filepath.Base(r.path)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(b, '\n'))
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), r.path)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}
