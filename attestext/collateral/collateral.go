// Package collateral fetches what the manufacturers of TEEs say of their platforms, from
// where its configuration allows and from nowhere else, and keeps it: for TDX from a
// service with the interface of Intel's Provisioning Certification Service (PCS,
// version 4), for SEV-SNP from one with that of AMD's Key Distribution Service (KDS,
// version 1). Start with [New]; a [Source] is for the field Source of
// verifier.Local.
//
// Nothing is fetched by default: a Source has no endpoints of its own, and each host
// has to be named twice, in an endpoint and among the hosts that are allowed.
// Redirects are not followed, no proxy is used, everything has a deadline and a
// bound, and what is fetched replaces what is kept only after its signatures have been
// verified, and if no part of it is older.
package collateral

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/internal/strictjson"
)

// Defaults of a [Config].
const (
	DefaultTimeout      = 5 * time.Second
	DefaultRefreshAfter = 12 * time.Hour
	DefaultMaxStale     = 72 * time.Hour
	DefaultRetryAfter   = 10 * time.Second
	DefaultMaxEntries   = 256

	// MaxResponseSize bounds the body of each response, in bytes.
	MaxResponseSize = 512 << 10
	// maxHeaderSize bounds its header, which holds certificates.
	maxHeaderSize = 32 << 10
	// maxFetches bounds how many fetches are under way.
	maxFetches = 8
)

// A Config says what may be fetched, and when. It is copied by [New].
type Config struct {
	// TDX and SNP are where to fetch. nil fetches nothing for that TEE.
	TDX *TDXEndpoint
	SNP *SNPEndpoint

	// AllowHosts are the hosts that may be asked, as in the endpoints' URLs, with the
	// port where they have one. An endpoint on any other host is an error.
	AllowHosts []string

	// TDXRoots and SNPRoots are what collateral must be signed by. nil means Intel's
	// root, and AMD's.
	TDXRoots *x509.CertPool
	SNPRoots *sevsnp.Roots

	// Timeout bounds a fetch, which may be several requests, and with it how long a
	// caller waits. Zero means DefaultTimeout.
	Timeout time.Duration
	// RefreshAfter is the age from which on collateral is fetched again, in the
	// background, while callers get what there is. Zero means DefaultRefreshAfter.
	RefreshAfter time.Duration
	// MaxStale is the age from which on what there is does not serve any more, so that
	// callers wait for a fetch, and fail with it. Collateral that has expired never
	// serves. Zero means DefaultMaxStale, or RefreshAfter if that is longer.
	MaxStale time.Duration
	// RetryAfter is how long after a fetch that failed the next of the same kind is made;
	// until then its error is returned again. Zero means DefaultRetryAfter.
	RetryAfter time.Duration
	// MaxEntries bounds how many sets of collateral are kept. Zero means
	// DefaultMaxEntries.
	MaxEntries int

	// Transport makes the requests. nil means one of its own over TCP without a proxy.
	// It must not follow redirects.
	Transport http.RoundTripper
	// Now returns the time. nil means time.Now.
	Now func() time.Time
	// Observe is called for each lookup and each fetch, before it returns. It must not
	// block, and may be called concurrently. nil is not called.
	Observe func(Event)
}

// A TDXEndpoint is where collateral of TDX is.
type TDXEndpoint struct {
	// URL is what the paths of the PCS begin with, such as
	// https://api.trustedservices.intel.com or that of a cache of it (PCCS).
	URL string `json:"url"`
	// RootCRL is the address of the root's revocation list, in DER or as hexadecimal
	// digits. Empty means /sgx/certification/v4/rootcacrl below URL, which a PCCS has
	// and Intel has not: there it is
	// https://certificates.trustedservices.intel.com/IntelSGXRootCA.der.
	RootCRL string `json:"root_crl,omitempty"`
}

// An SNPEndpoint is where collateral of SEV-SNP is.
type SNPEndpoint struct {
	// URL is what the paths of the KDS begin with, such as https://kdsintf.amd.com.
	URL string `json:"url"`
	// FetchVCEK also fetches the certificates of chips that send none. Which chip that
	// is cannot be verified before, so that whoever sends reports decides how often.
	FetchVCEK bool `json:"fetch_vcek,omitempty"`
}

// An Outcome says what an [Event] is about.
type Outcome string

const (
	Fresh   Outcome = "fresh"   // a lookup had what was kept
	Stale   Outcome = "stale"   // it had what was kept, which is being refreshed
	Waited  Outcome = "waited"  // it had to wait for a fetch, and got it
	Missing Outcome = "missing" // it has failed
	Fetched Outcome = "fetched" // a fetch has succeeded
	Failed  Outcome = "failed"  // a fetch has failed
)

// An Event is a lookup or a fetch.
type Event struct {
	TEE     string // "tdx" or "snp"
	Key     string // FMSPC; product line, key and chip
	Outcome Outcome
	Took    time.Duration
	Err     error // of Missing and Failed
}

// A Source fetches collateral and keeps it. Its methods may be called concurrently.
// Close it to end what it does in the background.
type Source struct {
	conf   Config
	client *http.Client
	tdx    *store[*tdx.Collateral]
	snp    *store[*sevsnp.Collateral]

	ctx    context.Context // of fetches; ends with Close
	cancel context.CancelFunc
	slots  chan struct{} // one for each fetch that is under way

	mu      sync.Mutex
	closed  bool
	fetches sync.WaitGroup
}

const opFetch = "fetch collateral"

func unavailable(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrUnavailable, opFetch, format, args...)
}

// errClosed is that of lookups after Close.
var errClosed = errors.New("collateral source is closed")

// New returns a Source, or an error that says what of conf is wrong. It asks nobody.
func New(conf *Config) (*Source, error) {
	c := *conf
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("configure collateral: %w", err)
	}
	transport := c.Transport
	if transport == nil {
		transport = &http.Transport{
			DialContext:            (&net.Dialer{Timeout: c.Timeout}).DialContext,
			TLSHandshakeTimeout:    c.Timeout,
			ResponseHeaderTimeout:  c.Timeout,
			MaxResponseHeaderBytes: maxHeaderSize,
			MaxConnsPerHost:        maxFetches,
			IdleConnTimeout:        c.Timeout,
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
		}
	}
	s := &Source{conf: c, slots: make(chan struct{}, maxFetches)}
	s.client = &http.Client{
		Transport: guard{transport, c.AllowHosts},
		CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			return http.ErrUseLastResponse // and 3xx is an error
		},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.tdx = newStore(s, "tdx", (*tdx.Collateral).Editions)
	s.snp = newStore(s, "snp", (*sevsnp.Collateral).Editions)
	return s, nil
}

// Close ends all fetches and waits until they have ended. Lookups fail from then on.
func (s *Source) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.fetches.Wait()
	s.client.CloseIdleConnections()
	return nil
}

// begin notes that a fetch begins. It fails after Close.
func (s *Source) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.fetches.Add(1)
	return true
}

func (s *Source) observe(e Event) {
	if s.conf.Observe != nil {
		s.conf.Observe(e)
	}
}

// check checks c and fills in its defaults.
func (c *Config) check() error {
	if c.TDX == nil && c.SNP == nil {
		return errors.New("no endpoint")
	}
	if c.TDX != nil {
		c.TDX = new(*c.TDX)
		if err := c.checkURL(&c.TDX.URL, true); err != nil {
			return fmt.Errorf("tdx: url: %w", err)
		}
		if c.TDX.RootCRL == "" {
			c.TDX.RootCRL = c.TDX.URL + pathRootCRL
		} else if err := c.checkURL(&c.TDX.RootCRL, false); err != nil {
			return fmt.Errorf("tdx: root_crl: %w", err)
		}
	}
	if c.SNP != nil {
		c.SNP = new(*c.SNP)
		if err := c.checkURL(&c.SNP.URL, true); err != nil {
			return fmt.Errorf("snp: url: %w", err)
		}
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"timeout", &c.Timeout, DefaultTimeout},
		{"refresh_after", &c.RefreshAfter, DefaultRefreshAfter},
		{"retry_after", &c.RetryAfter, DefaultRetryAfter},
	} {
		if *d.value < 0 {
			return fmt.Errorf("%s is negative", d.name)
		}
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	switch {
	case c.MaxStale == 0:
		c.MaxStale = max(DefaultMaxStale, c.RefreshAfter)
	case c.MaxStale < c.RefreshAfter:
		return fmt.Errorf("max_stale, %v, is less than refresh_after, %v", c.MaxStale, c.RefreshAfter)
	}
	if c.MaxEntries == 0 {
		c.MaxEntries = DefaultMaxEntries
	}
	if c.MaxEntries < 0 {
		return errors.New("the number of entries is negative")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.AllowHosts = slices.Clone(c.AllowHosts)
	return nil
}

// checkURL checks an address: https, or http to this machine; a host that is allowed;
// no user and no fragment; a base has no query, and loses the slash at its end.
func (c *Config) checkURL(s *string, base bool) error {
	u, err := url.Parse(*s)
	if err != nil {
		return err
	}
	switch {
	case u.Host == "" || u.Opaque != "":
		return fmt.Errorf("%q names no host", *s)
	case u.User != nil || u.Fragment != "" || base && u.RawQuery != "":
		return fmt.Errorf("%q has a user, a query or a fragment", *s)
	case u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())):
		return fmt.Errorf("%q is not https", *s)
	case !allowed(c.AllowHosts, u.Host):
		return fmt.Errorf("host %q is not among those that are allowed, %q", u.Host, c.AllowHosts)
	}
	if base {
		*s = strings.TrimRight(*s, "/")
	}
	return nil
}

func allowed(hosts []string, host string) bool {
	return slices.ContainsFunc(hosts, func(h string) bool { return h != "" && strings.EqualFold(h, host) })
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// guard is the last thing that a request passes.
type guard struct {
	http.RoundTripper
	hosts []string
}

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if !allowed(g.hosts, r.URL.Host) {
		return nil, fmt.Errorf("host %q is not among those that are allowed", r.URL.Host)
	}
	return g.RoundTripper.RoundTrip(r)
}

// configFile is the encoding of a Config.
type configFile struct {
	TDX          *TDXEndpoint `json:"tdx,omitempty"`
	SNP          *SNPEndpoint `json:"snp,omitempty"`
	AllowHosts   []string     `json:"allow_hosts"`
	Timeout      duration     `json:"timeout,omitempty"`
	RefreshAfter duration     `json:"refresh_after,omitempty"`
	MaxStale     duration     `json:"max_stale,omitempty"`
	RetryAfter   duration     `json:"retry_after,omitempty"`
}

type duration time.Duration

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = duration(v)
	return err
}

// ParseConfig reads a Config out of JSON:
//
//	{
//	  "tdx": {"url": URL, "root_crl": URL},
//	  "snp": {"url": URL, "fetch_vcek": BOOL},
//	  "allow_hosts": [HOST…],
//	  "timeout": "5s", "refresh_after": "12h", "max_stale": "72h", "retry_after": "10s"
//	}
//
// One of tdx and snp must be there, and allow_hosts; everything else may be left out.
// Unknown members, and members that appear twice, are refused.
func ParseConfig(data []byte) (*Config, error) {
	var f configFile
	if len(data) > 64<<10 {
		return nil, errors.New("parse collateral configuration: too long")
	}
	if err := strictjson.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("parse collateral configuration: %w", err)
	}
	c := &Config{
		TDX: f.TDX, SNP: f.SNP, AllowHosts: f.AllowHosts, Timeout: time.Duration(f.Timeout),
		RefreshAfter: time.Duration(f.RefreshAfter), MaxStale: time.Duration(f.MaxStale), RetryAfter: time.Duration(f.RetryAfter),
	}
	checked := *c
	if err := checked.check(); err != nil {
		return nil, fmt.Errorf("parse collateral configuration: %w", err)
	}
	return c, nil
}

// Everything returns a Config that fetches for both TEEs from one service, which has
// the interfaces of both, and allows its host.
func Everything(base string) (*Config, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	c := &Config{TDX: &TDXEndpoint{URL: base}, SNP: &SNPEndpoint{URL: base}, AllowHosts: []string{u.Host}}
	checked := *c
	return c, checked.check()
}
