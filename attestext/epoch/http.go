package epoch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"time"

	"github.com/attestedtls/atls/attestext/eat"
)

const (
	// fetchTimeout bounds a request for an epoch ID, its answer included.
	fetchTimeout = 10 * time.Second
	// maxHeaderSize bounds the header of the answer, in bytes.
	maxHeaderSize = 16 << 10
)

// ServeHTTP answers GET with a new epoch ID, of type [eat.EpochMediaType]. It
// authenticates nobody: an ID is of no use but to show a time.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "epoch IDs are got by GET", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", eat.EpochMediaType)
	w.Header().Set("Cache-Control", "no-store") // what is kept has quotes look older than they are
	w.Write(i.ID())
}

// A Client gets epoch IDs from an [Issuer] that is served over HTTP. Its methods may be
// called concurrently.
//
// Without https, whoever is on the way can hold IDs back or hand out older ones, so that
// quotes look older than they are. Nobody but the issuer can have them look newer: the
// relying party verifies its signature, and the Client does not.
type Client struct {
	url  string
	http *http.Client
}

// NewClient returns a Client of the issuer at address, such as
// "https://verifier.example/epoch". Nothing is requested yet.
func NewClient(address string) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("issuer of epoch IDs: %w", err)
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return nil, fmt.Errorf("issuer of epoch IDs: %q is not an address of the form https://HOST/PATH", address)
	case u.User != nil || u.Fragment != "":
		return nil, errors.New("issuer of epoch IDs: the address must have neither a user nor a fragment")
	}
	return &Client{address, &http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			MaxResponseHeaderBytes: maxHeaderSize,
			DisableCompression:     true,
			DisableKeepAlives:      true, // one is fetched now and then
		},
		// Somebody else is not the issuer that was configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// ID fetches an epoch ID, for attester.KeyTierOptions. It takes ten seconds at most, and
// fails unless it gets Size bytes of type [eat.EpochMediaType].
func (c *Client) ID(ctx context.Context) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d, want %d", c.url, resp.StatusCode, http.StatusOK)
	}
	if typ, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || typ != eat.EpochMediaType {
		return nil, fmt.Errorf("%s: an answer of type %.64q, want %s", c.url, resp.Header.Get("Content-Type"), eat.EpochMediaType)
	}
	id, err := io.ReadAll(io.LimitReader(resp.Body, Size+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.url, err)
	}
	if len(id) != Size {
		return nil, fmt.Errorf("%s: an epoch ID has %d bytes, and the answer has not", c.url, Size)
	}
	return id, nil
}
