package verifier

import (
	"context"
	"errors"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tdx"
)

// A CollateralSource has collateral from elsewhere. collateral.Source implements it. Its
// methods are called concurrently, and must return when ctx ends. Before it
// fetches something for a platform of which it knows nothing, it must call genuine, and
// return its error if there is one.
type CollateralSource interface {
	// TDX returns the collateral of the platforms of that FMSPC, 12 hexadecimal
	// digits in lower case.
	TDX(ctx context.Context, fmspc string, genuine func() error) (*tdx.Collateral, error)
	// SNP returns the collateral for reports like r, which came with certs.
	SNP(ctx context.Context, r *sevsnp.Report, certs *sevsnp.Certificates, genuine func() error) (*sevsnp.Collateral, error)
}

// within returns l for an appraisal that ends with ctx.
func (l *Local) within(ctx context.Context) *Local {
	if l.Source == nil {
		return l
	}
	bounded := *l
	bounded.ctx = ctx
	return &bounded
}

func (l *Local) context() context.Context {
	if l.ctx == nil {
		return context.Background()
	}
	return l.ctx
}

// verifyQuote verifies q with the collateral that l has, or with that of its source
// where l has none for this platform that is current and as young as the policy wants
// it.
func (l *Local) verifyQuote(q *tdx.Quote, now time.Time) (*tdx.Verified, error) {
	opts := &tdx.VerifyOptions{
		Roots:                  l.TDXRoots,
		Collateral:             l.TDXCollateral,
		InsecureSkipCollateral: l.Policy.SkipTDXCollateral(),
		AcceptAnyTCBStatus:     true, // for the policy to decide
		Cache:                  l.TDXCache,
		Now:                    now,
	}
	if l.Source == nil {
		return tdx.Verify(q, opts)
	}
	fmspc, err := q.FMSPC()
	if err != nil {
		return nil, err
	}
	if c := l.TDXCollateral; c != nil && c.FMSPC() == fmspc && now.Before(c.NextUpdate()) &&
		(l.Policy == nil || l.Policy.TDX == nil || recent(c.Issued(), l.Policy.TDX.MaxCollateralAge, now)) {
		return tdx.Verify(q, opts)
	}
	c, err := l.Source.TDX(l.context(), fmspc, func() error {
		_, err := tdx.Verify(q, &tdx.VerifyOptions{Roots: l.TDXRoots, InsecureSkipCollateral: true, Now: now})
		return err
	})
	switch {
	case err == nil:
		opts.Collateral = c
	case !opts.InsecureSkipCollateral || !errors.Is(err, attestext.ErrUnavailable):
		return nil, err
	}
	return tdx.Verify(q, opts)
}

// verifyReport does for a report what verifyQuote does for a quote. Whether what l and
// the peer have is enough is for verification to say.
func (l *Local) verifyReport(r *sevsnp.Report, certs *sevsnp.Certificates, now time.Time) (*sevsnp.Verified, error) {
	opts := &sevsnp.VerifyOptions{
		Roots:                  l.SNPRoots,
		Collateral:             l.SNPCollateral,
		OwnListsOnly:           l.Source != nil, // a peer must not keep it from being asked
		InsecureSkipCollateral: l.Policy.SkipSNPCollateral(),
		Cache:                  l.SNPCache,
		Now:                    now,
	}
	if l.Source == nil {
		return sevsnp.Verify(r, certs, opts)
	}
	opts.InsecureSkipCollateral = false
	v, err := sevsnp.Verify(r, certs, opts)
	switch {
	case errors.Is(err, attestext.ErrUnavailable), errors.Is(err, attestext.ErrPolicy):
	case err != nil:
		return nil, err
	case l.Policy == nil || l.Policy.SNP == nil || recent(v.CollateralIssued(), l.Policy.SNP.MaxCollateralAge, now):
		return v, nil
	}
	opts.InsecureSkipCollateral = l.Policy.SkipSNPCollateral()
	c, err := l.Source.SNP(l.context(), r, certs, func() error {
		_, err := sevsnp.Verify(r, certs, &sevsnp.VerifyOptions{Roots: l.SNPRoots, Collateral: l.SNPCollateral, OwnListsOnly: true, InsecureSkipCollateral: true, Now: now})
		if errors.Is(err, attestext.ErrPolicy) {
			return nil // the lists that there are have expired, and new ones are what is fetched
		}
		return err
	})
	switch {
	case err == nil:
		opts.Collateral = c
	case !opts.InsecureSkipCollateral || !errors.Is(err, attestext.ErrUnavailable):
		return nil, err
	}
	return sevsnp.Verify(r, certs, opts)
}

// recent reports whether collateral is as young as the policy wants it; zero wants nothing.
func recent(issued time.Time, maxAge policy.Duration, now time.Time) bool {
	return maxAge == 0 || now.Sub(issued) <= time.Duration(maxAge)
}
