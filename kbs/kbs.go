// Package kbs is a client of Trustee's Key Broker Service: a TDX guest proves what it
// runs and gets a resource, such as a long-term key, which is held in memory alone.
//
// The protocol is that of kbs/docs/kbs_attestation_protocol.md of
// confidential-containers/trustee, version 0.4.0. The runtime data are those of its
// kbs/src/attestation/backend.rs, which bind additional-evidence too.
package kbs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/tsm"
)

const (
	// Version is that of the protocol. Trustee accepts its own alone.
	Version = "0.4.0"
	// DefaultTimeout bounds one Fetch where the Client does not say.
	DefaultTimeout = 30 * time.Second
	// MaxAnswer is the size of the largest answer that is read, in bytes.
	MaxAnswer = 1 << 20

	keyBits    = 3072
	keyAlg     = "RSA-OAEP-256"
	contentAlg = "A256GCM"
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
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, err
	}
	pub := publicJWK(&key.PublicKey)
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

func publicJWK(k *rsa.PublicKey) map[string]string {
	enc := base64.RawURLEncoding
	return map[string]string{"kty": "RSA", "alg": keyAlg,
		"n": enc.EncodeToString(k.N.Bytes()), "e": enc.EncodeToString(big.NewInt(int64(k.E)).Bytes())}
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

func parseChallenge(b []byte) (nonce string, err error) {
	var c struct{ Nonce string }
	if json.Unmarshal(b, &c) != nil || !nonceForm.MatchString(c.Nonce) {
		return "", fmt.Errorf("%w: the challenge has no nonce of 16 to 256 characters of base64", ErrMalformed)
	}
	return c.Nonce, nil
}

// open decrypts a flattened JWE (RFC 7516, section 7.2.2) of the one pair of algorithms
// that the session's key is for. A header with anything else in it is refused, kid, zip
// and crit included.
func open(b []byte, key *rsa.PrivateKey) ([]byte, error) {
	var m struct {
		Protected    string
		EncryptedKey string `json:"encrypted_key"`
		AAD          string
		IV           string
		Ciphertext   string
		Tag          string
	}
	if json.Unmarshal(b, &m) != nil {
		return nil, fmt.Errorf("%w: the resource is no flattened JWE", ErrMalformed)
	}
	var parts [5][]byte
	for i, s := range []string{m.Protected, m.EncryptedKey, m.IV, m.Ciphertext, m.Tag} {
		var err error
		if parts[i], err = base64.RawURLEncoding.Strict().DecodeString(s); err != nil {
			return nil, fmt.Errorf("%w: the JWE has bad base64url", ErrMalformed)
		}
	}
	var h map[string]string
	if json.Unmarshal(parts[0], &h) != nil || len(h) != 2 || h["alg"] != keyAlg || h["enc"] != contentAlg {
		return nil, fmt.Errorf("%w: the JWE's header is not that of %s with %s alone", ErrMalformed, keyAlg, contentAlg)
	}
	if m.AAD != "" || len(parts[2]) != 12 || len(parts[4]) != 16 {
		return nil, fmt.Errorf("%w: the JWE has an aad, or an iv or tag of the wrong size", ErrMalformed)
	}
	cek, err := rsa.DecryptOAEP(sha256.New(), nil, key, parts[1], nil)
	if err != nil || len(cek) != 32 {
		return nil, ErrDecrypt
	}
	defer clear(cek)
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	out, err := gcm.Open(nil, parts[2], append(parts[3], parts[4]...), []byte(m.Protected))
	if err != nil {
		return nil, ErrDecrypt
	}
	return out, nil
}
