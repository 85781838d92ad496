package results

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/internal/strictjson"
)

// MaxFileSize bounds the files of this package, in bytes.
const MaxFileSize = 1 << 20

// trustFile is the JSON form of a []Trust.
type trustFile struct {
	Verifiers []struct {
		ID           string            `json:"id"`
		Keys         []json.RawMessage `json:"keys"`
		Issuer       string            `json:"issuer"`
		MaxAge       string            `json:"max_age"`
		AllowWarning bool              `json:"allow_warning"`
	} `json:"verifiers"`
}

// ParseTrust reads whom to trust out of a file, in one of two forms. Either it is
// JSON, an object
//
//	{
//	  "verifiers": [{
//	    "id": IDENTITY,
//	    "keys": [PEM or JWK, …],
//	    "issuer": TEXT,
//	    "max_age": DURATION,
//	    "allow_warning": BOOL
//	  }, …]
//	}
//
// where a key is a string that [ear.ParsePEM] reads or an object that [ear.ParseJWK]
// reads, a duration is as in "90m" or "24h", and the last three members may be left
// out; see [Trust]. Or it is what ear.ParsePEM reads, and ids says whose keys these
// are; it must then have one element.
//
// With JSON, ids chooses among the verifiers of the file and orders them, and each
// must be there; nil means all, in the order of the file. Unknown members, members
// that appear twice, null and data after the object are refused, and so is what
// [NewVerifier] would refuse.
func ParseTrust(data []byte, ids []attestext.VerifierIdentity) ([]Trust, error) {
	trust, err := parseTrust(data, ids)
	if err != nil {
		return nil, fmt.Errorf("parse trusted verifiers: %w", err)
	}
	return trust, nil
}

func parseTrust(data []byte, ids []attestext.VerifierIdentity) ([]Trust, error) {
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(data), MaxFileSize)
	}
	if !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
		if len(ids) != 1 {
			return nil, fmt.Errorf("keys in PEM are those of one verifier: want its identity, got %d", len(ids))
		}
		keys, err := ear.ParsePEM(data)
		if err != nil {
			return nil, err
		}
		trust := []Trust{{ID: ids[0], Keys: keys}}
		return trust, checkTrust(trust)
	}
	var f trustFile
	if err := strictjson.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	var all []Trust
	for _, e := range f.Verifiers {
		t := Trust{ID: attestext.VerifierIdentity(e.ID), Issuer: e.Issuer, AllowWarning: e.AllowWarning}
		for i, raw := range e.Keys {
			keys, err := parseKeys(raw)
			if err != nil {
				return nil, fmt.Errorf("%q: key %d: %w", e.ID, i, err)
			}
			t.Keys = append(t.Keys, keys...)
		}
		if e.MaxAge != "" {
			var err error
			if t.MaxAge, err = time.ParseDuration(e.MaxAge); err != nil || t.MaxAge <= 0 {
				return nil, fmt.Errorf("%q: max_age is not a duration above zero", e.ID)
			}
		}
		all = append(all, t)
	}
	if err := checkTrust(all); err != nil {
		return nil, err
	}
	if ids == nil {
		return all, nil
	}
	var chosen []Trust
	for _, id := range ids {
		i := slices.IndexFunc(all, func(t Trust) bool { return t.ID == id })
		if i < 0 {
			return nil, fmt.Errorf("no verifier %q", id)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, checkTrust(chosen)
}

func parseKeys(raw json.RawMessage) ([]crypto.PublicKey, error) {
	if raw[0] == '{' {
		k, err := ear.ParseJWK(raw)
		if err != nil {
			return nil, err
		}
		return []crypto.PublicKey{k}, nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, errors.New("neither a string nor an object")
	}
	return ear.ParsePEM([]byte(s))
}

// resultsFile is the JSON form of a []Held.
type resultsFile struct {
	Results []heldEntry `json:"results"`
}

type heldEntry struct {
	Verifier string `json:"verifier"`
	Result   string `json:"result"`
}

// ParseHeld reads the results to present out of JSON, an object
//
//	{"results": [{"verifier": IDENTITY, "result": RESULT}, …]}
//
// in order of preference, where a result is an EAR as the text of its JWT, or a CMW
// in base64 with padding (RFC 4648, section 4). A verifier may appear more than
// once, for different keys.
//
// An empty list, results that do not parse, unknown members, members that appear
// twice, null and data after the object are refused. Results that have expired are
// not.
func ParseHeld(data []byte) ([]Held, error) {
	held, err := parseHeld(data)
	if err != nil {
		return nil, fmt.Errorf("parse results: %w", err)
	}
	return held, nil
}

func parseHeld(data []byte) ([]Held, error) {
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(data), MaxFileSize)
	}
	var f resultsFile
	if err := strictjson.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if len(f.Results) == 0 {
		return nil, errors.New("no result")
	}
	held := make([]Held, len(f.Results))
	for i, e := range f.Results {
		held[i] = Held{Verifier: attestext.VerifierIdentity(e.Verifier), Result: []byte(e.Result)}
		if !isToken(held[i].Result) {
			b, err := base64.StdEncoding.Strict().DecodeString(e.Result)
			if err != nil {
				return nil, fmt.Errorf("result %d is neither a JWT nor base64", i)
			}
			held[i].Result = b
		}
		if _, err := newEntry(held[i]); err != nil {
			return nil, fmt.Errorf("result %d: %w", i, err)
		}
	}
	return held, nil
}

// MarshalHeld writes what [ParseHeld] reads.
func MarshalHeld(held []Held) ([]byte, error) {
	var f resultsFile
	for i, h := range held {
		if _, err := newEntry(h); err != nil {
			return nil, fmt.Errorf("marshal results: result %d: %w", i, err)
		}
		s := string(h.Result)
		if !isToken(h.Result) {
			s = base64.StdEncoding.EncodeToString(h.Result)
		}
		f.Results = append(f.Results, heldEntry{string(h.Verifier), s})
	}
	return json.MarshalIndent(f, "", "  ")
}

// isToken reports whether b is a JWT rather than a CMW: base64url of a JSON object
// begins with an e, and no encoding of a CMW does.
func isToken(b []byte) bool { return bytes.Count(b, []byte(".")) == 2 && b[0] == 'e' }
