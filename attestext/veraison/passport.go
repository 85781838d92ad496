package veraison

import (
	"context"
	"net/url"
	"strconv"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/internal/binding"
)

const opPassport = "get result from service"

// Passport gets an Attestation Result about this machine, for the passport model: a
// has a bundle made over the nonce that the service chooses, as under
// [attestext.BindingHardened], and the TLS key whose DER SubjectPublicKeyInfo is spki, the service appraises it, and the EAR that comes back,
// as a JWT, is checked as [Client.Appraise] does and must name that key. It is what
// results.HolderOptions.Refresh wants. a must make [eat.BundleFormat].
//
// The result lives as long as the service says. Peers check it themselves; that it is
// checked here as well is so that a bad one does not take the place of a good one.
//
// Errors are those of Appraise, and those of a.
func (c *Client) Passport(ctx context.Context, a attestext.Attester, spki []byte) ([]byte, error) {
	if len(spki) == 0 {
		return nil, attestext.Errorf(attestext.ErrUnavailable, opPassport, "no key to get a result over")
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout(ctx))
	defer cancel()
	answered, location, err := c.open(ctx, url.Values{"nonceSize": {strconv.Itoa(defaultNonceSize)}})
	if err != nil {
		return nil, unavailable(err)
	}
	opened, err := answered.anySession()
	if err != nil {
		return nil, unavailable(err)
	}
	// How old the quote may be is for the service to say: the draft's rule leaves it open.
	challenge := &attestext.Challenge{
		Role: attestext.RoleServer, Binding: attestext.BindingDraft08, Kind: attestext.AttestationOnly,
		Nonce: opened.nonce, SPKI: spki,
	}
	// The quote is to show that it was made for this session, which it does under the
	// hardened rule.
	asked := *challenge
	asked.Binding, asked.Binder = attestext.BindingHardened, opened.nonce
	typ := attestext.EvidenceType{Kind: attestext.AttestationOnly, Format: eat.BundleFormat}
	b, err := attestext.Attest(ctx, c.opts.Timeout, a, &attestext.AttestRequest{Type: typ, Challenge: &asked})
	if err != nil {
		return nil, err
	}
	s, err := prepare(&attestext.Evidence{Type: typ, CMW: b}, challenge)
	if err != nil {
		return nil, err
	}
	token, err := c.submit(ctx, s, opened, location)
	if err != nil {
		return nil, unavailable(err)
	}
	r, err := c.verify(ctx, s, token)
	if err != nil {
		return nil, unavailable(err)
	}
	if _, err := c.judge(r, s, challenge); err != nil {
		return nil, err
	}
	if !binding.Equal(r.AKPub(), spki) {
		return nil, unbound("the service's result names no key, and peers could not tell whose it is")
	}
	return token, nil
}
