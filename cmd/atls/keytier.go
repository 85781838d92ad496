package main

import (
	"context"
	"fmt"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/epoch"
)

// tiered returns the key tier that newTier makes, once it has a quote. It is renewed until s
// is closed.
func (f *connFlags) tiered(s *setup, formats []attestext.EvidenceFormat, newTier func(*attester.KeyTierOptions) (*attester.KeyTier, error)) (attestext.Attester, error) {
	o := &attester.KeyTierOptions{MaxAge: f.keyTier, Timeout: f.timeout / 2}
	if f.warn != nil {
		o.Failed = func(err error) { f.warn(fmt.Errorf("the quote of --key-tier is getting old: %w", err)) }
	}
	if f.epochFrom != "" {
		c, err := epoch.NewClient(f.epochFrom)
		if err != nil {
			return nil, usagef("for example --epoch-from http://127.0.0.1:8080"+epochPath, "--epoch-from: %w", err)
		}
		o.Epoch = c.ID
	}
	k, err := newTier(o)
	if err == nil {
		err = k.Renew(s.ctx) // which has a timeout as well
	}
	if err != nil {
		return nil, &hintedError{fmt.Errorf("--key-tier: %w", err), "it begins with a quote: by what --attest names, and over an epoch ID of --epoch-from, if that is given"}
	}
	s.tier = k
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	s.closers = append(s.closers, closer(func() error { cancel(); <-done; return nil }))
	return f.narrowed(k, formats)
}
