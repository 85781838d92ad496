// Package veraison speaks the challenge-response API of the Veraison project, by
// which a relying party has Evidence appraised by a service: as its client, and as
// the service.
//
// Start with [NewClient] to have a service appraise a peer, and with [NewService] to
// be one. A client works with services that are not of this package, and the service
// with other clients.
//
// # Who checks what
//
// The service says whether Evidence is genuine and acceptable. That it is bound to
// the handshake is checked by the client, for services that are deployed do not look
// at REPORTDATA and sign whatever nonce the session was opened with:
//
//	                         client                        service
//	TSM report, TPM quote    REPORTDATA, extraData         signatures, platform, policy; this
//	                                                       package's also REPORTDATA, extraData
//	bundle of a KAT          the KAT's signature,          the same; this package's also the
//	                         challenge, key, and that      KAT, whose key it names in the
//	                         the quote covers its signer   result
//	anything else            that the result names the     everything else, the nonce in
//	                         key, where one is to be       particular
//	                         covered
//	result (EAR)             signature, session's nonce,
//	                         age, tier, key
//
// The nonce of the session is what the Evidence must carry: for a TSM report, and for a
// TPM quote, which has its hash, all 64 bytes of [attestext.Challenge.ReportData], which
// under the hardened rule is a hash over binder, key and role, so that a service that
// knows none of these can compare it; for anything else [attestext.Challenge.Value].
//
// A service that does not look at REPORTDATA will sign a result with anybody's nonce
// about anybody's machine. Therefore the connection to the service must be
// authenticated as well: see [ClientOptions.AllowHTTP].
package veraison

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"

	"github.com/attestedtls/atls/attestext/internal/strict"
)

// Media types of the API.
const (
	sessionType   = "application/vnd.veraison.challenge-response-session+json"
	discoveryType = "application/vnd.veraison.discovery+json"
	problemType   = "application/problem+json"
	jsonType      = "application/json"
)

// Paths of the API, below the address of the service.
const (
	discoveryPath  = "/.well-known/veraison/verification"
	newSessionPath = "/challenge-response/v1/newSession"
	sessionPath    = "/challenge-response/v1/session/"
)

const (
	// maxBody bounds a request and a response, in bytes.
	maxBody = 1 << 20
	// maxDepth and maxItems bound the JSON of a response, as [strict.CheckJSONWithin] does.
	maxDepth = 8
	maxItems = 4096

	// Bounds on the nonce of a session, in bytes.
	minNonce = 8
	maxNonce = 64
)

// The states of a session.
const (
	stateWaiting    = "waiting"
	stateProcessing = "processing"
	stateComplete   = "complete"
	stateFailed     = "failed"
)

// A session is the representation of a session as a service sends it.
type session struct {
	state  string
	nonce  []byte
	accept []string
	// result is empty until the state is complete.
	result string
}

// parseSession decodes
//
//	{"status": TEXT, "nonce": BASE64, "expiry": TIME, "accept": [MEDIA TYPE, …], ? "result": TEXT}
//
// where "state" is an older name of "status". Other members are passed over.
func parseSession(b []byte) (*session, error) {
	m, err := object(b)
	if err != nil {
		return nil, err
	}
	s := new(session)
	state, old := m["status"], m["state"]
	if state != nil && old != nil {
		return nil, errors.New("session has both a status and a state")
	}
	if state == nil {
		state = old
	}
	if s.state, err = strict.JSONText(state); err != nil {
		return nil, fmt.Errorf("session status: %w", err)
	}
	text, err := strict.JSONText(m["nonce"])
	if err != nil {
		return nil, fmt.Errorf("session nonce: %w", err)
	}
	if s.nonce, err = parseNonce(text); err != nil {
		return nil, fmt.Errorf("session nonce: %w", err)
	}
	if raw, ok := m["accept"]; ok {
		if err := json.Unmarshal(raw, &s.accept); err != nil {
			return nil, errors.New("session accept is not a list of strings")
		}
	}
	if raw, ok := m["result"]; ok {
		if s.result, err = strict.JSONText(raw); err != nil {
			return nil, fmt.Errorf("session result: %w", err)
		}
	}
	return s, nil
}

// parseNonce decodes base64 in either alphabet, with and without padding: services
// and their documentation have had both.
func parseNonce(s string) ([]byte, error) {
	s = strings.NewReplacer("+", "-", "/", "_").Replace(s)
	b, err := strict.Base64URL(strings.TrimRight(s, "="))
	if err != nil {
		return nil, errors.New("not base64")
	}
	if len(b) < minNonce || len(b) > maxNonce {
		return nil, fmt.Errorf("%d bytes, want %d to %d", len(b), minNonce, maxNonce)
	}
	return b, nil
}

// nonceText is how a nonce is written in a query and in a session. Deployed services
// insist on the padding.
func nonceText(nonce []byte) string { return base64.URLEncoding.EncodeToString(nonce) }

// parseDiscovery returns the key of a service from its description of itself.
func parseDiscovery(b []byte) (jwk []byte, err error) {
	m, err := object(b)
	if err != nil {
		return nil, err
	}
	raw, ok := m["ear-verification-key"]
	if !ok {
		return nil, errors.New("there is no ear-verification-key")
	}
	return raw, nil
}

// parseProblem returns what an error document says (RFC 9457), or "".
func parseProblem(b []byte) string {
	var p struct{ Title, Detail string }
	if json.Unmarshal(b, &p) != nil {
		return ""
	}
	const most = 200
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	if len(text) > most {
		text = text[:most]
	}
	return text
}

func object(b []byte) (map[string]json.RawMessage, error) {
	b = bytes.TrimSpace(b)
	if err := strict.CheckJSONWithin(b, maxDepth, maxItems); err != nil {
		return nil, err
	}
	if b[0] != '{' {
		return nil, errors.New("not a JSON object")
	}
	var m map[string]json.RawMessage
	err := json.Unmarshal(b, &m)
	return m, err
}

// isType reports whether a Content-Type is one of the media types want, whatever its
// parameters.
func isType(header string, want ...string) bool {
	t, _, err := mime.ParseMediaType(header)
	if err != nil {
		return false
	}
	for _, w := range want {
		if t == w {
			return true
		}
	}
	return false
}
