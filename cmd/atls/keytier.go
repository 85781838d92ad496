package main

import (
	"context"
	"fmt"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
)

// keyTierOptions are what --key-tier says.
func (f *connFlags) keyTierOptions() *attester.KeyTierOptions {
	o := &attester.KeyTierOptions{MaxAge: f.keyTier, Timeout: f.timeout / 2}
	if f.warn != nil {
		o.Failed = func(err error) { f.warn(fmt.Errorf("the quote of --key-tier is getting old: %w", err)) }
	}
	return o
}

// tiered returns k, or err, once it has a quote. It is renewed until s is closed.
func (f *connFlags) tiered(s *setup, k *attester.KeyTier, err error, formats []attestext.EvidenceFormat) (attestext.Attester, error) {
	if err == nil {
		err = k.Renew(context.Background()) // which has a timeout
	}
	if err != nil {
		return nil, fmt.Errorf("--key-tier: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	s.closers = append(s.closers, closer(func() error { cancel(); <-done; return nil }))
	return f.narrowed(k, formats)
}
