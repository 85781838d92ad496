package cmw

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/strict"
)

// The decoder stands on the CBOR library and not on veraison/cmw, which accepts
// what must be refused from a peer (duplicate labels, an indicator of zero, a
// bare number as a JSON type, tags that stand for no content format) and keeps
// neither the indicator's absence nor the content format apart from its name.
// The tests hold the two against each other on what both accept.

// errSigned refuses the forms of RFC 9999, section 4, which package signed reads.
var errSigned = errors.New("signed CMW (COSE_Sign1 or JWS) where an unsigned one is wanted")

// Parse decodes a wrapper of any unsigned form; its first byte tells which. The
// result shares no memory with b.
//
// It is strict: at most MaxSize bytes, nothing before or behind the wrapper (not
// even whitespace around JSON), definite lengths only, collections nested to
// MaxDepth, no duplicate labels, no empty type or value, and an indicator, if
// there is one, of registered bits and not zero. RFC 9999 does not ask for
// deterministic encoding and neither does Parse, and it allows for indefinite
// lengths, which Parse refuses: they give one wrapper many encodings.
//
// Values are not looked into. Every error wraps [attestext.ErrMalformed]. The
// signed forms, COSE_Sign1 and JWS, are recognised and refused: see package signed.
func Parse(b []byte) (*CMW, error) {
	c, err := parse(b)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: "parse CMW", Err: err}
	}
	return c, nil
}

func parse(b []byte) (*CMW, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("wrapper of %d bytes, want at most %d", len(b), MaxSize)
	}
	form, err := formOf(b)
	if err != nil {
		return nil, err
	}
	if form.json() {
		if err := strict.CheckJSON(b); err != nil {
			return nil, err
		}
		return parseJSON(b, 1)
	}
	return parseCBOR(b, 1)
}

// formOf tells the form of a wrapper by its first byte, RFC 9999, section 3.4.
func formOf(b []byte) (Form, error) {
	if len(b) == 0 {
		return 0, errors.New("empty wrapper")
	}
	switch first := b[0]; {
	case first == 0x82 || first == 0x83:
		return CBORRecord, nil
	case first == 0xda:
		return CBORTag, nil
	case first >= 0xa0 && first <= 0xbb:
		return CBORCollection, nil
	case first == '[':
		return JSONRecord, nil
	case first == '{':
		return JSONCollection, nil
	case first == 0x9f || first == 0xbf:
		return 0, errors.New("indefinite-length CBOR")
	case first == 0xd2 || first == 0x84: // COSE_Sign1, tagged or not
		return 0, errSigned
	case first == 'e': // JWS in the compact serialization begins with base64url("{")
		return 0, errSigned
	default:
		return 0, fmt.Errorf("no wrapper begins with %#02x", first)
	}
}

// parseCBOR decodes a wrapper that lies inside depth-1 collections.
func parseCBOR(b []byte, depth int) (*CMW, error) {
	form, err := formOf(b)
	if err != nil {
		return nil, err
	}
	switch form {
	case CBORRecord:
		r, err := parseCBORRecord(b)
		return &CMW{Form: form, Record: r}, err
	case CBORTag:
		r, err := parseCBORTag(b)
		return &CMW{Form: form, Record: r}, err
	case CBORCollection:
		c, err := parseCBORCollection(b, depth)
		return &CMW{Form: form, Collection: c}, err
	}
	return nil, fmt.Errorf("%v in a CBOR collection", form)
}

// parseCBORRecord decodes
//
//	cbor-record = [
//	  type: coap-content-format-type / media-type
//	  value: bytes
//	  ? ind: uint .bits cm-type
//	]
func parseCBORRecord(b []byte) (*Record, error) {
	a, err := strict.Array(b)
	if err != nil {
		return nil, err
	}
	if len(a) != 2 && len(a) != 3 {
		return nil, fmt.Errorf("record of %d elements", len(a))
	}
	r := new(Record)
	if strict.IsUint(a[0]) {
		cf, err := strict.Uint(a[0])
		if err != nil {
			return nil, err
		}
		if cf > 0xffff {
			return nil, fmt.Errorf("record with content format %d", cf)
		}
		r.Format.ContentFormat = uint16(cf)
	} else {
		if r.Format.MediaType, err = strict.Text(a[0]); err != nil {
			return nil, err
		}
		if r.Format.MediaType == "" {
			return nil, errors.New("record with an empty type")
		}
	}
	if r.Value, err = strict.Bytes(a[1]); err != nil {
		return nil, err
	}
	if len(a) == 3 {
		ind, err := strict.Uint(a[2])
		if err != nil {
			return nil, err
		}
		if r.Ind, err = indicator(ind); err != nil {
			return nil, err
		}
	}
	return r, r.check(CBORRecord)
}

// indicator returns an indicator as it was on the wire.
func indicator(n uint64) (Indicator, error) {
	if n == 0 || n&^uint64(allIndicators) != 0 {
		return 0, fmt.Errorf("record with indicator %#x", n)
	}
	return Indicator(n), nil
}

// parseCBORTag decodes
//
//	tag-cm-data<tn> = #6.<tn>(bytes)
func parseCBORTag(b []byte) (*Record, error) {
	n, content, err := strict.Tag(b)
	if err != nil {
		return nil, err
	}
	r := new(Record)
	if r.Format.ContentFormat, err = contentFormat(n); err != nil {
		return nil, err
	}
	if r.Value, err = strict.Bytes(content); err != nil {
		return nil, err
	}
	return r, r.check(CBORTag)
}

// parseCBORCollection decodes
//
//	cbor-collection = {
//	  ? "__cmwc_t": ~uri / oid
//	  + &(label: (int / text)) => cbor-cmw
//	}
func parseCBORCollection(b []byte, depth int) (*Collection, error) {
	m, err := strict.Map(b)
	if err != nil {
		return nil, err
	}
	c := new(Collection)
	if raw, ok := m[typeLabel]; ok {
		if c.Type, err = strict.Text(raw); err != nil {
			return nil, err
		}
		if c.Type == "" {
			return nil, errors.New("collection with an empty type")
		}
		delete(m, typeLabel)
	}
	for k, raw := range m {
		var e Entry
		switch k := k.(type) {
		case int64:
			e.Label = IntLabel(k)
		case string:
			e.Label = TextLabel(k)
		}
		if depth == MaxDepth && raw[0]>>5 == 5 {
			return nil, fmt.Errorf("collections nest deeper than %d levels", MaxDepth)
		}
		if e.CMW, err = parseCBOR(raw, depth+1); err != nil {
			return nil, fmt.Errorf("entry %v: %w", e.Label, err)
		}
		c.Entries = append(c.Entries, e)
	}
	c.Entries = c.sorted()
	return c, c.check(CBORCollection, depth)
}

// parseJSON decodes a wrapper that lies inside depth-1 collections and has passed CheckJSON.
func parseJSON(b []byte, depth int) (*CMW, error) {
	switch b[0] {
	case '[':
		r, err := parseJSONRecord(b)
		return &CMW{Form: JSONRecord, Record: r}, err
	case '{':
		c, err := parseJSONCollection(b, depth)
		return &CMW{Form: JSONCollection, Collection: c}, err
	}
	return nil, errors.New("entry is neither a record nor a collection")
}

// parseJSONRecord decodes
//
//	json-record = [
//	  type: media-type
//	  value: base64url-string
//	  ? ind: uint .bits cm-type
//	]
func parseJSONRecord(b []byte) (*Record, error) {
	var a []json.RawMessage
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, err
	}
	if len(a) != 2 && len(a) != 3 {
		return nil, fmt.Errorf("record of %d elements", len(a))
	}
	r := new(Record)
	var err error
	if r.Format.MediaType, err = strict.JSONText(a[0]); err != nil {
		return nil, err
	}
	s, err := strict.JSONText(a[1])
	if err != nil {
		return nil, err
	}
	if r.Value, err = strict.Base64URL(s); err != nil {
		return nil, err
	}
	if len(a) == 3 {
		ind, err := strconv.ParseUint(string(a[2]), 10, 32)
		if err != nil {
			return nil, errors.New("indicator is not an unsigned integer")
		}
		if r.Ind, err = indicator(ind); err != nil {
			return nil, err
		}
	}
	return r, r.check(JSONRecord)
}

// parseJSONCollection decodes
//
//	json-collection = {
//	  ? "__cmwc_t": ~uri / oid
//	  + &(label: text) => json-cmw
//	}
func parseJSONCollection(b []byte, depth int) (*Collection, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if isJWS(m) {
		return nil, errSigned
	}
	c := new(Collection)
	var err error
	if raw, ok := m[typeLabel]; ok {
		if c.Type, err = strict.JSONText(raw); err != nil {
			return nil, err
		}
		if c.Type == "" {
			return nil, errors.New("collection with an empty type")
		}
		delete(m, typeLabel)
	}
	for k, raw := range m {
		e := Entry{Label: TextLabel(k)}
		if depth == MaxDepth && raw[0] == '{' {
			return nil, fmt.Errorf("collections nest deeper than %d levels", MaxDepth)
		}
		if e.CMW, err = parseJSON(raw, depth+1); err != nil {
			return nil, fmt.Errorf("entry %v: %w", e.Label, err)
		}
		c.Entries = append(c.Entries, e)
	}
	c.Entries = c.sorted()
	return c, c.check(JSONCollection, depth)
}

// isJWS reports whether m is a JWS in the flattened or the general JSON
// serialization (RFC 7515, section 7.2). No collection is, for it has no strings
// as entries.
func isJWS(m map[string]json.RawMessage) bool {
	payload := m["payload"]
	return len(payload) > 0 && payload[0] == '"' && (m["signature"] != nil || m["signatures"] != nil)
}
