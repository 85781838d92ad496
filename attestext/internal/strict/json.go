package strict

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// CheckJSON reports whether b is one JSON array or object in valid UTF-8, from
// its first byte to its last, without duplicate names, and within MaxDepth and
// MaxItems. The functions below are for what has passed it.
func CheckJSON(b []byte) error { return CheckJSONWithin(b, MaxDepth, MaxItems) }

// CheckJSONWithin is CheckJSON with bounds of the caller's: how deep arrays and
// objects nest, and how many elements or pairs one of them has.
func CheckJSONWithin(b []byte, maxDepth, maxItems int) error {
	if !utf8.Valid(b) {
		return errors.New("JSON text is not UTF-8")
	}
	// Whitespace around the value would be legal, but then more than one byte
	// sequence before and behind it would pass for the same message.
	if len(b) == 0 || (b[0] != '[' && b[0] != '{') || (b[len(b)-1] != ']' && b[len(b)-1] != '}') {
		return errors.New("JSON text is not exactly one array or object")
	}
	if !json.Valid(b) {
		return errors.New("JSON text does not parse")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return checkJSONValue(d, maxDepth, maxItems)
}

// checkJSONValue reads one value, in which depth arrays and objects may nest.
func checkJSONValue(d *json.Decoder, depth, maxItems int) error {
	tok, err := d.Token()
	if err != nil {
		return err
	}
	open, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	if depth == 0 {
		return errors.New("JSON text nests too deep")
	}
	names := make(map[string]bool)
	for n := 0; d.More(); n++ {
		if n == maxItems {
			return fmt.Errorf("JSON array or object has more than %d items", maxItems)
		}
		if open == '{' {
			tok, err := d.Token()
			if err != nil {
				return err
			}
			name, _ := tok.(string)
			if names[name] {
				return errors.New("JSON object has a duplicate name")
			}
			names[name] = true
		}
		if err := checkJSONValue(d, depth-1, maxItems); err != nil {
			return err
		}
	}
	_, err = d.Token() // the closing delimiter
	return err
}

// JSONText returns a JSON string.
func JSONText(b []byte) (string, error) {
	// null would otherwise pass for the empty string.
	if len(b) == 0 || b[0] != '"' {
		return "", errors.New("JSON value is not a string")
	}
	var s string
	err := json.Unmarshal(b, &s)
	return s, err
}

// JSONObject returns the members of a JSON object.
func JSONObject(b []byte) (map[string]json.RawMessage, error) {
	// null would otherwise pass for the empty object.
	if len(b) == 0 || b[0] != '{' {
		return nil, errors.New("not a JSON object")
	}
	var m map[string]json.RawMessage
	err := json.Unmarshal(b, &m)
	return m, err
}

// JSONArray returns the elements of a JSON array.
func JSONArray(b []byte) ([]json.RawMessage, error) {
	if len(b) == 0 || b[0] != '[' {
		return nil, errors.New("not a JSON array")
	}
	var a []json.RawMessage
	err := json.Unmarshal(b, &a)
	return a, err
}

// JSONUint returns a JSON number that is spelled as an unsigned integer: without a sign,
// a fraction or an exponent.
func JSONUint(b []byte) (uint64, error) {
	n, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil {
		return 0, errors.New("JSON value is not an unsigned integer of 64 bits")
	}
	return n, nil
}

// JSONBytes returns what a JSON string has in base64url.
func JSONBytes(b []byte) ([]byte, error) {
	s, err := JSONText(b)
	if err != nil {
		return nil, err
	}
	return Base64URL(s)
}

// Base64URL decodes base64url without padding (RFC 4648, section 5), in the one
// spelling that each byte string has.
func Base64URL(s string) ([]byte, error) {
	// The decoder skips line breaks.
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line break in base64url")
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}
