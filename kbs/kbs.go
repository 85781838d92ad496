// Package kbs is a client of Trustee's Key Broker Service: a TDX guest proves what it
// runs and gets a resource, such as a long-term key, which is held in memory alone.
//
// The protocol is that of kbs/docs/kbs_attestation_protocol.md of
// confidential-containers/trustee, version 0.4.0. The runtime data are those of its
// kbs/src/attestation/backend.rs, which bind additional-evidence too. The document
// leaves the form of the evidence to Trustee's verifiers. That of TDX is a quote; that of
// SEV-SNP is how a library in another language writes its own structures, and not done.
//
// Nothing is written to disk, and what decrypts the resource is cleared, as far as Go
// goes: the session's private key has no way to be cleared and is left to the garbage
// collector, the runtime may have copied what is on a stack, and the kernel may swap. Run
// without swap and core dumps, in memory that the TEE encrypts.
package kbs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/internal/strictjson"
)

const (
	// Version is that of the protocol. Trustee accepts its own alone.
	Version = "0.4.0"
	// DefaultTimeout bounds one Fetch where the Client does not say.
	DefaultTimeout = 30 * time.Second
	// MaxAnswer is the size of the largest answer that is read, in bytes.
	MaxAnswer = 1 << 20

	cookieName = "kbs-session-id"
	maxCookie  = 256
)

// Errors of a Fetch, for errors.Is. One that is none of them is of the transport, the
// Quoter or the context.
var (
	ErrRefused   = errors.New("the evidence was refused")                // by /auth or /attest
	ErrForbidden = errors.New("the resource is not allowed")             // 401 or 403 for a resource
	ErrStatus    = errors.New("unexpected status")                       // any other, redirects included
	ErrMalformed = errors.New("malformed answer")                        // not what the protocol says
	ErrTooLong   = errors.New("answer too long")                         // over MaxAnswer
	ErrDecrypt   = errors.New("not encrypted to the key of the session") // or altered
)

// A Client fetches resources. It may be used concurrently.
type Client struct {
	// URL is the service's, such as https://kbs.example: https, or http at loopback.
	URL string
	// Quoter makes the TDX quotes. The evidence has no event log.
	Quoter attester.Quoter
	// Alg is of the session's key, AlgECDH or AlgRSA; empty is AlgECDH, as in Trustee's
	// own client.
	Alg string
	// Transport makes the connections and decides whom to trust; nil is
	// http.DefaultTransport.
	Transport http.RoundTripper
	// Timeout bounds one Fetch; zero is DefaultTimeout.
	Timeout time.Duration
}

var (
	segment   = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$`)
	nonceForm = regexp.MustCompile(`^[A-Za-z0-9+/_=-]{16,256}$`)
)

// Fetch attests under a fresh key, with a fresh quote, and returns the resource
// repository/kind/tag. Nothing is kept and nothing written to disk. The bytes are the
// caller's to use and to clear.
func (c *Client) Fetch(ctx context.Context, repository, kind, tag string) ([]byte, error) {
	b, err := c.fetch(ctx, repository, kind, tag)
	if err != nil {
		return nil, fmt.Errorf("kbs: fetch %q from %q: %w", repository+"/"+kind+"/"+tag, redact(c.URL), err)
	}
	return b, nil
}

// Signer is Fetch for a resource that is a private key in PKCS#8, as DER.
func (c *Client) Signer(ctx context.Context, repository, kind, tag string) (crypto.Signer, error) {
	b, err := c.Fetch(ctx, repository, kind, tag)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	k, err := x509.ParsePKCS8PrivateKey(b)
	s, ok := k.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("kbs: the resource is no private key in PKCS#8 that signs")
	}
	return s, nil
}

func redact(s string) string {
	if u, err := url.Parse(s); err == nil {
		return u.Redacted()
	}
	return "(bad URL)"
}

func (c *Client) fetch(ctx context.Context, path ...string) ([]byte, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, errors.New("the URL does not parse")
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Host == "" || u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && loopback) {
		return nil, errors.New("the URL must be https, or http at loopback, without a user")
	}
	if c.Quoter == nil {
		return nil, errors.New("a Client needs a Quoter")
	}
	for _, p := range path {
		if !segment.MatchString(p) {
			return nil, fmt.Errorf("%q cannot be part of a resource's name", p)
		}
	}
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	s := &session{base: u.JoinPath("kbs/v0"), http: &http.Client{
		Transport:     c.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	b, err := s.call(ctx, "auth", map[string]any{"version": Version, "tee": "tdx", "extra-params": ""})
	if err != nil {
		return nil, err
	}
	nonce, err := parseChallenge(b)
	if err != nil {
		return nil, err
	}
	if s.cookie == "" {
		return nil, fmt.Errorf("%w: auth set no cookie %s", ErrMalformed, cookieName)
	}
	key, err := newKey(c.Alg)
	if err != nil {
		return nil, err
	}
	pub := key.public()
	reportData, err := runtimeDigest(nonce, pub)
	if err != nil {
		return nil, err
	}
	r, err := c.Quoter.Report(ctx, reportData)
	if err != nil {
		return nil, fmt.Errorf("quote: %w", err)
	}
	if r.Provider != tsm.ProviderTDX {
		return nil, fmt.Errorf("quote: it is of %q, and only %q is supported", r.Provider, tsm.ProviderTDX)
	}
	if _, err := s.call(ctx, "attest", map[string]any{
		"runtime-data": map[string]any{"nonce": nonce, "tee-pubkey": pub},
		"tee-evidence": map[string]any{
			"primary_evidence":    map[string]any{"quote": base64.StdEncoding.EncodeToString(r.OutBlob)},
			"additional_evidence": "",
		},
	}); err != nil {
		return nil, err
	}
	b, err = s.call(ctx, "resource/"+strings.Join(path, "/"), nil)
	if err != nil {
		return nil, err
	}
	return open(b, key)
}

// runtimeDigest returns the SHA-384 of the runtime data in canonical JSON, padded with
// zeros. encoding/json sorts a map's keys, and nothing here has a character it escapes.
func runtimeDigest(nonce string, pub map[string]string) (d [attestext.ReportDataSize]byte, err error) {
	b, err := json.Marshal(map[string]any{"additional-evidence": "", "nonce": nonce, "tee-pubkey": pub})
	h := sha512.Sum384(b)
	copy(d[:], h[:])
	return d, err
}

type session struct {
	base   *url.URL
	http   *http.Client
	cookie string
}

// call posts body, or gets where that is nil, and returns the body of a 200.
func (s *session) call(ctx context.Context, path string, body any) ([]byte, error) {
	method, send := http.MethodGet, []byte(nil)
	if body != nil {
		var err error
		if send, err = json.Marshal(body); err != nil {
			return nil, err
		}
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, s.base.JoinPath(path).String(), bytes.NewReader(send))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if s.cookie != "" {
		req.AddCookie(&http.Cookie{Name: cookieName, Value: s.cookie})
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer to %s: %w", path, err)
	}
	if len(b) > MaxAnswer {
		return nil, fmt.Errorf("%w: that to %s has over %d bytes", ErrTooLong, path, MaxAnswer)
	}
	if resp.StatusCode != http.StatusOK {
		class := ErrStatus
		denied := resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden
		switch {
		case denied && body == nil:
			class = ErrForbidden
		case denied:
			class = ErrRefused
		}
		return nil, fmt.Errorf("%w: the service answered %s with status %d%s", class, path, resp.StatusCode, problem(b))
	}
	for _, k := range resp.Cookies() {
		if k.Name == cookieName && len(k.Value) <= maxCookie {
			s.cookie = k.Value
		}
	}
	return b, nil
}

// problem returns what an ErrorInformation says, quoted and cut, or nothing.
func problem(b []byte) string {
	var p struct{ Detail string }
	if json.Unmarshal(b, &p) != nil || p.Detail == "" {
		return ""
	}
	return fmt.Sprintf(": %.200q", p.Detail)
}

// parseChallenge reads a Challenge. Extra parameters, which there are for other TEEs,
// would change what the quote has to be about.
func parseChallenge(b []byte) (nonce string, err error) {
	var c struct {
		Nonce string          `json:"nonce"`
		Extra json.RawMessage `json:"extra-params"`
	}
	if err := strictjson.Unmarshal(b, &c); err != nil {
		return "", fmt.Errorf("%w: the challenge: %w", ErrMalformed, err)
	}
	if !nonceForm.MatchString(c.Nonce) {
		return "", fmt.Errorf("%w: the challenge has no nonce of 16 to 256 characters of base64", ErrMalformed)
	}
	switch string(c.Extra) {
	case "", `""`, "{}":
		return c.Nonce, nil
	}
	return "", fmt.Errorf("%w: the challenge has extra parameters, and none are known for TDX", ErrMalformed)
}
