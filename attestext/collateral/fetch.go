package collateral

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tdx"
)

// Paths of Intel's PCS, version 4 of the API, with those of a cache of it, and of AMD's
// KDS: "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
// Specification" (publication 57230), section 4.
const (
	pathTCB        = "/tdx/certification/v4/tcb?fmspc=%s"
	pathQEIdentity = "/tdx/certification/v4/qe/identity"
	pathPCKCRL     = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der"
	pathRootCRL    = "/sgx/certification/v4/rootcacrl"

	pathKDS       = "/%s/v1/%s/%s" // vcek or vlek, product line, what
	pathChip      = "%x?blSPL=%d&teeSPL=%d&snpSPL=%d&ucodeSPL=%d"
	pathCertChain = "cert_chain"
	pathCRL       = "crl"

	headerTCBChain = "Tcb-Info-Issuer-Chain"
	headerQEChain  = "Sgx-Enclave-Identity-Issuer-Chain"
	headerCRLChain = "Sgx-Pck-Crl-Issuer-Chain"
)

// get fetches one address. Errors name it, and are of class
// [attestext.ErrUnavailable].
func (s *Source) get(ctx context.Context, address string) (body []byte, header http.Header, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, unavailable("%w", err)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, nil, unavailable("%w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, unavailable("%s: status %d, want %d", address, resp.StatusCode, http.StatusOK)
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, MaxResponseSize+1))
	switch {
	case err != nil:
		return nil, nil, unavailable("%s: %w", address, err)
	case len(body) > MaxResponseSize:
		return nil, nil, unavailable("%s: more than %d bytes", address, MaxResponseSize)
	}
	size := 0
	for k, values := range resp.Header {
		for _, v := range values {
			size += len(k) + len(v)
		}
	}
	if size > maxHeaderSize {
		return nil, nil, unavailable("%s: more than %d bytes of header", address, maxHeaderSize)
	}
	return body, resp.Header, nil
}

// A request is one of those that are made together.
type request struct {
	url    string
	body   *[]byte
	header string // whose value chain gets
	chain  *string
}

// all makes requests concurrently, and returns the first error. One that fails ends the
// others.
func (s *Source) all(ctx context.Context, requests ...request) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var once sync.Once
	var first error
	for _, r := range requests {
		wg.Go(func() {
			body, header, err := s.get(ctx, r.url)
			if err != nil {
				once.Do(func() { first = err })
				cancel()
				return
			}
			if *r.body = body; r.chain != nil {
				*r.chain = header.Get(r.header)
			}
		})
	}
	wg.Wait()
	return first
}

var fmspcPattern = regexp.MustCompile(`^[0-9a-f]{12}$`)

// TDX returns the collateral of TDX platforms with that FMSPC, 12 hexadecimal digits in
// lower case. It waits only where there is none that may serve. Before anything is fetched
// for the first time, genuine is called; its error is returned, and nothing fetched.
// nil vouches for every platform. Errors are of class [attestext.ErrUnavailable],
// whatever is wrong with what was fetched.
func (s *Source) TDX(ctx context.Context, fmspc string, genuine func() error) (*tdx.Collateral, error) {
	if s.conf.TDX == nil {
		return nil, unavailable("no endpoint for TDX is configured")
	}
	if !fmspcPattern.MatchString(fmspc) {
		return nil, unavailable("%q is no FMSPC", fmspc)
	}
	return s.tdx.get(ctx, fmspc, genuine, func(ctx context.Context) (*tdx.Collateral, time.Time, error) {
		return s.fetchTDX(ctx, fmspc)
	})
}

func (s *Source) fetchTDX(ctx context.Context, fmspc string) (_ *tdx.Collateral, expires time.Time, err error) {
	var r tdx.PCSResponses
	base := s.conf.TDX.URL
	if err := s.all(ctx,
		request{base + fmt.Sprintf(pathTCB, fmspc), &r.TCBInfo.Body, headerTCBChain, &r.TCBInfo.IssuerChain},
		request{base + pathQEIdentity, &r.QEIdentity.Body, headerQEChain, &r.QEIdentity.IssuerChain},
		request{base + pathPCKCRL, &r.PCKCRL.Body, headerCRLChain, &r.PCKCRL.IssuerChain},
		request{url: s.conf.TDX.RootCRL, body: &r.RootCRL.Body},
	); err != nil {
		return nil, expires, err
	}
	r.PCKCRL.Body, r.RootCRL.Body = unhex(r.PCKCRL.Body), unhex(r.RootCRL.Body)
	c, err := tdx.NewCollateral(&r)
	if err != nil {
		return nil, expires, unusable(base, err)
	}
	if c.FMSPC() != fmspc {
		return nil, expires, unavailable("%s: asked for FMSPC %s, got %q", base, fmspc, c.FMSPC())
	}
	if err := c.Check(s.conf.TDXRoots, s.conf.Now()); err != nil {
		return nil, expires, unusable(base, err)
	}
	return c, c.NextUpdate(), nil
}

// unusable is the error of a response that is not what it must be: the peer whose
// evidence is appraised is not to blame for it, so that its class is lost.
func unusable(base string, err error) error { return unavailable("%s: %v", base, err) }

// unhex decodes hexadecimal digits, in which a PCCS serves revocation lists, and returns
// everything else as it is.
func unhex(b []byte) []byte {
	if der, err := hex.DecodeString(string(bytes.TrimSpace(b))); err == nil {
		return der
	}
	return b
}

// SNP returns the collateral for reports like r: the revocation list of its product line
// and key, and the authority, and where the Config says so and c lacks it, the
// certificate of the chip. c are the certificates that came with r; nil are none. As
// in [Source.TDX], genuine is called before anything is fetched, and errors are of class
// [attestext.ErrUnavailable].
func (s *Source) SNP(ctx context.Context, r *sevsnp.Report, c *sevsnp.Certificates, genuine func() error) (*sevsnp.Collateral, error) {
	if s.conf.SNP == nil {
		return nil, unavailable("no endpoint for SEV-SNP is configured")
	}
	q := snpQuery{line: r.ProductLine(c), key: "vcek"}
	if q.line == "" {
		return nil, unavailable("neither the report nor its certificates name a product line that is known")
	}
	switch r.SigningKey {
	case sevsnp.VCEK:
		if s.conf.SNP.FetchVCEK && (c == nil || c.VCEK == nil) && r.ChipID != [sevsnp.ChipIDSize]byte{} {
			t := r.ReportedTCB
			q.chip = fmt.Sprintf(pathChip, r.ChipID, t.Bootloader, t.TEE, t.SNP, t.Microcode)
			genuine = nil // which nobody can say without the certificate
		}
	case sevsnp.VLEK:
		q.key = "vlek"
	default:
		return nil, unavailable("report is not signed (signing key: %v)", r.SigningKey)
	}
	return s.snp.get(ctx, q.String(), genuine, func(ctx context.Context) (*sevsnp.Collateral, time.Time, error) {
		return s.fetchSNP(ctx, q)
	})
}

type snpQuery struct{ line, key, chip string }

func (q snpQuery) String() string {
	if q.chip == "" {
		return q.line + " " + q.key
	}
	return q.line + " " + q.key + " " + q.chip
}

func (s *Source) fetchSNP(ctx context.Context, q snpQuery) (_ *sevsnp.Collateral, expires time.Time, err error) {
	base := s.conf.SNP.URL
	path := func(what string) string { return base + fmt.Sprintf(pathKDS, q.key, q.line, what) }
	var crl, chain, chip []byte
	requests := []request{{url: path(pathCRL), body: &crl}, {url: path(pathCertChain), body: &chain}}
	if q.chip != "" {
		requests = append(requests, request{url: path(q.chip), body: &chip})
	}
	if err := s.all(ctx, requests...); err != nil {
		return nil, expires, err
	}
	parts, signer := &sevsnp.CollateralParts{VCEKCRLs: [][]byte{crl}}, sevsnp.VCEK
	if q.key == "vlek" {
		parts, signer = &sevsnp.CollateralParts{VLEKCRLs: [][]byte{crl}}, sevsnp.VLEK
	}
	for rest := bytes.TrimSpace(chain); len(rest) != 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" || len(parts.Certificates) == maxChain {
			return nil, expires, unavailable("%s: not a chain of up to %d certificates in PEM", path(pathCertChain), maxChain)
		}
		parts.Certificates = append(parts.Certificates, block.Bytes)
	}
	if chip != nil {
		parts.Certificates = append(parts.Certificates, chip)
	}
	c, err := sevsnp.NewCollateral(parts)
	if err != nil {
		return nil, expires, unusable(base, err)
	}
	if !c.Lists(q.line, signer) {
		return nil, expires, unavailable("%s: the revocation list is not one for %s", path(pathCRL), q.line)
	}
	if err := c.Check(s.conf.SNPRoots, s.conf.Now()); err != nil {
		return nil, expires, unusable(base, err)
	}
	return c, c.NextUpdate(), nil
}

// maxChain bounds how many certificates a cert_chain has: the authority and the root.
const maxChain = 4
