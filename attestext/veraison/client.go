package veraison

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/internal/binding"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
)

const (
	// DefaultTimeout bounds one appraisal where ClientOptions do not say.
	DefaultTimeout = 10 * time.Second
	// DefaultMaxAge is how old a result may be where ClientOptions do not say. It was
	// made for this handshake, so that little more than the clocks' difference is needed.
	DefaultMaxAge = 5 * time.Minute

	// maxPolls bounds how often a client asks for a result that is not there yet, and
	// the waits in between begin with minWait and double up to maxWait.
	maxPolls = 30
	minWait  = 50 * time.Millisecond
	maxWait  = time.Second
)

// ClientOptions change what a [Client] does. The zero value is the default.
type ClientOptions struct {
	// Keys are those that results are signed with; see [ear.Algorithm]. nil asks the
	// service for its key, once, and relies on its certificate for the answer. A
	// service that changes its key is then refused until there is a new Client.
	Keys []crypto.PublicKey

	// Formats are what the service is given, in order of preference; with
	// attestation-only, those of them that name a key. nil means TSM reports and
	// bundles, or bundles alone. Those and TPM quotes are understood; other formats carry a nonce that this package cannot
	// read: the service must compare it with that of the session, and the result must
	// name the key wherever one is to be covered.
	Formats []attestext.EvidenceFormat

	// SendCMW sends each record in its wrapper. Otherwise the Evidence inside it is
	// sent under its own media type, which all services take.
	SendCMW bool

	// AllowWarning accepts results of tier "warning". Otherwise they must be
	// "affirming".
	AllowWarning bool

	// AllowHTTP permits a service that is not on this machine to be reached by plain
	// HTTP. Set it only together with Keys, and for a service that compares the nonce
	// with what the Evidence carries.
	//
	// WARNING: a service that does not, as those of the Veraison project do not for
	// TSM reports, gives whoever is on the way a result about any machine it approves
	// of, with the nonce of this session.
	AllowHTTP bool

	// MaxAge is how old a result may be. Zero means DefaultMaxAge.
	MaxAge time.Duration

	// Timeout bounds one appraisal, all requests included. Zero means DefaultTimeout.
	// Nine tenths of what the caller's context leaves are a bound as well.
	Timeout time.Duration

	// Transport makes the requests. nil means [http.DefaultTransport]. It is where
	// the authorities of the service's certificate and credentials are configured.
	Transport http.RoundTripper

	// Now returns the time at which results must be valid. nil means time.Now.
	Now func() time.Time

	// Wait waits for d, or until ctx is done. nil waits by the clock.
	Wait func(ctx context.Context, d time.Duration) error
}

// A Client is an [attestext.Verifier] that has a service appraise. Its methods may be
// called concurrently.
type Client struct {
	base *url.URL
	opts ClientOptions
	http *http.Client

	mu   sync.Mutex
	keys []crypto.PublicKey
}

var _ attestext.Verifier = (*Client)(nil)

// NewClient returns a Client of the service at address, such as
// "https://veraison.example:8443". nil options are those of the zero value. Nothing is
// requested yet.
func NewClient(address string, opts *ClientOptions) (*Client, error) {
	c := new(Client)
	if opts != nil {
		c.opts = *opts
	}
	if err := c.init(address); err != nil {
		return nil, fmt.Errorf("appraisal service: %w", err)
	}
	return c, nil
}

func (c *Client) init(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return fmt.Errorf("%q is not an address of the form https://HOST", address)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil:
		return errors.New("the address must have neither a user, a query nor a fragment")
	case u.Scheme == "http" && !isLoopback(u.Hostname()) && !c.opts.AllowHTTP:
		return fmt.Errorf("%s is not on this machine, and without https nobody vouches for its answers", u.Host)
	}
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), ""
	c.base = u
	for _, k := range c.opts.Keys {
		if _, err := ear.Algorithm(k); err != nil {
			return err
		}
	}
	if c.opts.Keys != nil && len(c.opts.Keys) == 0 {
		return errors.New("empty list of keys")
	}
	if c.opts.MaxAge < 0 || c.opts.Timeout < 0 {
		return errors.New("negative MaxAge or Timeout")
	}
	c.keys = slices.Clone(c.opts.Keys)
	c.opts.Formats = slices.Clone(c.opts.Formats)
	if c.opts.MaxAge == 0 {
		c.opts.MaxAge = DefaultMaxAge
	}
	if c.opts.Timeout == 0 {
		c.opts.Timeout = DefaultTimeout
	}
	if c.opts.Now == nil {
		c.opts.Now = time.Now
	}
	if c.opts.Wait == nil {
		c.opts.Wait = wait
	}
	c.http = &http.Client{
		Transport: c.opts.Transport,
		// Another service is not the one that was configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Formats lists what the service is given; see ClientOptions.
func (c *Client) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	formats := c.opts.Formats
	if formats == nil {
		formats = []attestext.EvidenceFormat{tsm.FormatCBOR, tsm.FormatJSON, {MediaType: tsm.MediaTypeConfigfsJSON}, eat.BundleFormat}
	}
	if kind == attestext.AttestationOnly {
		return slices.DeleteFunc(slices.Clone(formats), verifier.IsPlatformEvidence)
	}
	return slices.Clone(formats)
}

const opAppraise = "appraise by service"

// Appraise has the service appraise ev, in a session of its own.
//
// Errors are of class [attestext.ErrMalformed], [attestext.ErrWrongType] and
// [attestext.ErrBinding] for Evidence that this end can tell not to be what was asked
// for, which is then not sent, and ErrBinding as well for a result about another key;
// [attestext.ErrPolicy] for Evidence that the service does not approve of;
// [attestext.ErrSignature] where the result says that it does not verify. Whatever the
// service itself is to blame for is [attestext.ErrUnavailable], a bad signature on its
// result or another nonce in it included: they say nothing about the peer.
func (c *Client) Appraise(ctx context.Context, ev *attestext.Evidence, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	if err := expected.Validate(); err != nil {
		return nil, &attestext.Error{Class: attestext.ErrUnavailable, Op: opAppraise, Err: err}
	}
	if expected.Model != attestext.BackgroundCheck {
		return nil, attestext.Errorf(attestext.ErrWrongType, opAppraise, "evidence is wanted, not what the %v model has", expected.Model)
	}
	s, err := prepare(ev, expected)
	if err != nil {
		return nil, err
	}
	if c.opts.SendCMW && s.mediaType != eat.BundleMediaType {
		s.wrap(ev.CMW)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout(ctx))
	defer cancel()
	token, err := c.run(ctx, s)
	if err != nil {
		return nil, unavailable(err)
	}
	r, err := c.verify(ctx, s, token)
	if err != nil {
		return nil, unavailable(err)
	}
	return c.judge(r, s, expected)
}

// callerShare of the time that the caller has left is not used: where both deadlines
// passed at once, it would say that nobody answered, and not what the service did.
const callerShare = 10

// timeout returns how long an appraisal may take.
func (c *Client) timeout(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return c.opts.Timeout
	}
	left := time.Until(deadline)
	return min(c.opts.Timeout, left-left/callerShare)
}

// unavailable says what went wrong with the service. Errors of package ear would
// otherwise be taken for the peer's.
func unavailable(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &attestext.Error{Class: attestext.ErrUnavailable, Op: opAppraise, Err: err}
	}
	return attestext.Errorf(attestext.ErrUnavailable, opAppraise, "%v", err)
}

func (s *submission) wrap(b []byte) {
	s.body, s.mediaType = b, "application/cmw+cbor"
	if w, err := cmw.Parse(b); err == nil && (w.Form == cmw.JSONRecord || w.Form == cmw.JSONCollection) {
		s.mediaType = "application/cmw+json"
	}
}

// run opens a session, hands the Evidence over and returns the result.
func (c *Client) run(ctx context.Context, s *submission) ([]byte, error) {
	a, location, err := c.open(ctx, url.Values{"nonce": {nonceText(s.nonce)}})
	if err != nil {
		return nil, err
	}
	opened, err := a.session(s.nonce)
	if err != nil {
		return nil, err
	}
	return c.submit(ctx, s, opened, location)
}

// open opens a session as the query says, and returns the answer and the address of
// the session.
func (c *Client) open(ctx context.Context, query url.Values) (*answer, *url.URL, error) {
	u := *c.base
	u.Path += newSessionPath
	u.RawQuery = query.Encode()
	a, err := c.do(ctx, http.MethodPost, &u, "", nil, http.StatusCreated)
	if err != nil {
		return nil, nil, err
	}
	location, err := a.location(&u)
	return a, location, err
}

// submit hands the Evidence over to a session that is open and returns the result.
func (c *Client) submit(ctx context.Context, s *submission, opened *session, location *url.URL) ([]byte, error) {
	if err := s.acceptable(opened.accept); err != nil {
		return nil, err
	}
	a, err := c.do(ctx, http.MethodPost, location, s.mediaType, s.body, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return nil, err
	}
	for polls, pause := 0, minWait; ; polls, pause = polls+1, min(2*pause, maxWait) {
		now, err := a.session(s.nonce)
		if err != nil {
			return nil, err
		}
		switch now.state {
		case stateComplete:
			if now.result == "" {
				return nil, errors.New("the service has completed the session without a result")
			}
			return []byte(now.result), nil
		case stateFailed:
			return nil, errors.New("the service could not process the evidence")
		case stateProcessing:
		default:
			return nil, fmt.Errorf("the service leaves the session in the state %.32q", now.state)
		}
		if polls == maxPolls {
			return nil, fmt.Errorf("the service is still processing the evidence after having been asked %d times", polls)
		}
		if err := c.opts.Wait(ctx, pause); err != nil {
			return nil, fmt.Errorf("the service is still processing the evidence: %w", err)
		}
		if a, err = c.do(ctx, http.MethodGet, location, "", nil, http.StatusOK, http.StatusAccepted); err != nil {
			if ctx.Err() != nil { // it has answered before
				err = fmt.Errorf("the service is still processing the evidence: %w", err)
			}
			return nil, err
		}
	}
}

// acceptable reports whether the service takes s, which it says in advance. JSON
// reports go under their older name where that is the one it knows.
func (s *submission) acceptable(accept []string) error {
	if len(accept) == 0 {
		return nil
	}
	takes := func(mediaType string) bool {
		f := attestext.EvidenceFormat{MediaType: mediaType}
		return slices.ContainsFunc(accept, func(a string) bool { return f.Equal(attestext.EvidenceFormat{MediaType: a}) })
	}
	if takes(s.format.MediaType) || takes(s.mediaType) {
		return nil
	}
	if s.format.Equal(tsm.FormatJSON) && takes(tsm.MediaTypeConfigfsJSON) && s.mediaType == tsm.MediaTypeJSON {
		s.mediaType = tsm.MediaTypeConfigfsJSON
		return nil
	}
	const most = 8 // is enough for people
	return fmt.Errorf("the service does not take %v; it takes %.100q", s.format, accept[:min(len(accept), most)])
}

// An answer is a response of the service that was read in full.
type answer struct {
	what        string
	contentType string
	locations   []string
	body        []byte
}

// do makes a request and returns the answer, if it has one of the statuses want.
func (c *Client) do(ctx context.Context, method string, u *url.URL, contentType string, body []byte, want ...int) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	accept := sessionType
	if strings.HasSuffix(u.Path, discoveryPath) {
		accept = discoveryType
	}
	req.Header.Set("Accept", accept)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	a := &answer{what: method + " " + u.Path}
	resp, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the address holds the nonce
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("the service does not answer %s in time: %w", a.what, ctx.Err())
		}
		if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
			return nil, fmt.Errorf("the service at %s cannot be reached: %w", c.base.Host, err)
		}
		const most = 200 // the error may quote as much of the answer as net/http reads
		return nil, fmt.Errorf("the service at %s gives no HTTP response to %s: %.*s", c.base.Host, a.what, most, err)
	}
	defer resp.Body.Close()
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("the service does not finish its answer to %s in time: %w", a.what, ctx.Err())
	case err != nil:
		return nil, fmt.Errorf("the service breaks off its answer to %s: %w", a.what, err)
	case len(a.body) > maxBody:
		return nil, fmt.Errorf("the service answers %s with more than %d bytes", a.what, maxBody)
	case resp.StatusCode >= 300 && resp.StatusCode <= 399:
		return nil, fmt.Errorf("the service answers %s with a redirect, which is not followed: %d", a.what, resp.StatusCode)
	case !slices.Contains(want, resp.StatusCode):
		err := fmt.Errorf("the service answers %s with status %d, want %d", a.what, resp.StatusCode, want[0])
		if isType(resp.Header.Get("Content-Type"), problemType) {
			err = fmt.Errorf("%w: %q", err, parseProblem(a.body))
		}
		return nil, err
	}
	a.contentType, a.locations = resp.Header.Get("Content-Type"), resp.Header.Values("Location")
	return a, nil
}

// session returns the session in a, which must be the one with that nonce.
func (a *answer) session(nonce []byte) (*session, error) {
	s, err := a.anySession()
	if err == nil && !binding.Equal(s.nonce, nonce) {
		return nil, fmt.Errorf("the service answers %s with a session of another nonce", a.what)
	}
	return s, err
}

// anySession returns the session in a.
func (a *answer) anySession() (*session, error) {
	if !isType(a.contentType, sessionType) {
		return nil, fmt.Errorf("the service answers %s with the content type %.64q, want %s", a.what, a.contentType, sessionType)
	}
	s, err := parseSession(a.body)
	if err != nil {
		return nil, fmt.Errorf("the service's answer to %s cannot be read: %w", a.what, err)
	}
	return s, nil
}

// location returns the address of the session that a creates. The service does not
// get to name another one.
func (a *answer) location(from *url.URL) (*url.URL, error) {
	if len(a.locations) != 1 || a.locations[0] == "" {
		return nil, errors.New("the service does not say where the session is: it sends no Location, or several")
	}
	u, err := url.Parse(a.locations[0])
	if err != nil {
		return nil, errors.New("the service's Location cannot be read")
	}
	if u = from.ResolveReference(u); u.Scheme != from.Scheme || u.Host != from.Host || u.User != nil {
		return nil, fmt.Errorf("the service says that the session is elsewhere, at %.128q", u.Redacted())
	}
	return u, nil
}

// verify returns the result that token holds.
func (c *Client) verify(ctx context.Context, s *submission, token []byte) (*ear.Result, error) {
	keys, err := c.verificationKeys(ctx)
	if err != nil {
		return nil, err
	}
	r, err := ear.Verify(token, &ear.VerifyOptions{Keys: keys, Now: c.opts.Now(), MaxAge: c.opts.MaxAge, Nonce: s.nonce})
	if err != nil {
		return nil, fmt.Errorf("the service's result is refused: %v", err)
	}
	return r, nil
}

// verificationKeys returns the keys of the service, which are asked for once.
func (c *Client) verificationKeys(ctx context.Context) ([]crypto.PublicKey, error) {
	c.mu.Lock()
	keys := c.keys
	c.mu.Unlock()
	if keys != nil {
		return keys, nil
	}
	u := *c.base
	u.Path += discoveryPath
	a, err := c.do(ctx, http.MethodGet, &u, "", nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	if !isType(a.contentType, discoveryType, jsonType) {
		return nil, fmt.Errorf("the service answers %s with the content type %.64q, want %s", a.what, a.contentType, discoveryType)
	}
	jwk, err := parseDiscovery(a.body)
	if err != nil {
		return nil, fmt.Errorf("the service's answer to %s cannot be read: %w", a.what, err)
	}
	key, err := ear.ParseJWK(jwk)
	if err != nil {
		return nil, fmt.Errorf("the service's key cannot be read: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys == nil { // otherwise somebody else was first
		c.keys = []crypto.PublicKey{key}
	}
	return c.keys, nil
}

// cryptoFailed is the claim of draft-ietf-rats-ar4si, section 2.3.2, that the
// cryptographic validation of the Evidence has failed.
const cryptoFailed = 99

// judge decides upon a result.
func (c *Client) judge(r *ear.Result, s *submission, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	tier := r.Tier()
	if tier != ear.Affirming && !(tier == ear.Warning && c.opts.AllowWarning) {
		for _, a := range r.Claims().Submods {
			for _, claim := range a.Vector {
				if claim == cryptoFailed {
					return nil, attestext.Errorf(attestext.ErrSignature, opAppraise, "the service says that the evidence is not genuine, or not for this session: its tier is %v", tier)
				}
			}
		}
		return nil, attestext.Errorf(attestext.ErrPolicy, opAppraise, "the service's tier is %v", tier)
	}
	a := &attestext.Appraisal{Verdict: tier.String(), Format: s.format, Key: s.key, Vector: r.Vector(), Claims: r.Describe()}
	a.Claims["service"] = c.base.Host
	named := r.AKPub()
	switch {
	case named == nil && s.needsKey:
		return nil, unbound("the service's result names no key, and nobody else could say which one %v covers", s.format)
	case named != nil && s.key != nil && !binding.Equal(named, s.key):
		return nil, unbound("the service's result is about another key than the evidence")
	case named != nil && len(expected.SPKI) != 0 && !binding.Equal(named, expected.SPKI):
		return nil, unbound("the service's result is about another key than the peer's certificate has")
	case named != nil:
		a.Key = named
	}
	return a, nil
}
