package cmw

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/attestedtls/atls/attestext/internal/strict"
)

// CBOR encodes r as a CBOR record, [type, value, ?ind], RFC 9999, section 3.1.
// It fails if Parse would refuse the result, as the other encoders do.
func (r *Record) CBOR() ([]byte, error) { return (&CMW{Form: CBORRecord, Record: r}).Encode() }

// Tag encodes r as a CBOR tag, #6.TN(cf)(bstr), RFC 9999, section 3.2. It fails
// unless r has a content format and no indicator.
func (r *Record) Tag() ([]byte, error) { return (&CMW{Form: CBORTag, Record: r}).Encode() }

// JSON encodes r as a JSON record, RFC 9999, section 3.1. It fails unless r has a
// media type.
func (r *Record) JSON() ([]byte, error) { return (&CMW{Form: JSONRecord, Record: r}).Encode() }

// CBOR encodes c as a CBOR collection in the core deterministic encoding. Its
// entries must be in CBOR.
func (c *Collection) CBOR() ([]byte, error) {
	return (&CMW{Form: CBORCollection, Collection: c}).Encode()
}

// JSON encodes c as a JSON collection. Its entries must be in JSON and have text as labels.
func (c *Collection) JSON() ([]byte, error) {
	return (&CMW{Form: JSONCollection, Collection: c}).Encode()
}

// Encode encodes c in its Form. Equal wrappers have equal encodings: CBOR is
// deterministic (RFC 8949, section 4.2.1), and JSON is compact with the members
// of objects in order.
func (c *CMW) Encode() ([]byte, error) {
	b, err := c.encode(1)
	if err == nil && len(b) > MaxSize {
		err = fmt.Errorf("wrapper of %d bytes, want at most %d", len(b), MaxSize)
	}
	if err != nil {
		return nil, fmt.Errorf("encode CMW: %w", err)
	}
	return b, nil
}

func (c *CMW) encode(depth int) ([]byte, error) {
	switch c.Form {
	case CBORRecord, CBORTag, JSONRecord:
		if c.Record == nil || c.Collection != nil {
			return nil, fmt.Errorf("%v without a record or with a collection", c.Form)
		}
		if err := c.Record.check(c.Form); err != nil {
			return nil, err
		}
		return c.Record.encode(c.Form)
	case CBORCollection, JSONCollection:
		if c.Collection == nil || c.Record != nil {
			return nil, fmt.Errorf("%v without a collection or with a record", c.Form)
		}
		if err := c.Collection.check(c.Form, depth); err != nil {
			return nil, err
		}
		return c.Collection.encode(c.Form, depth)
	}
	return nil, errors.New("wrapper of unknown form")
}

func (r *Record) encode(form Form) ([]byte, error) {
	var typ any = r.Format.ContentFormat
	if r.Format.MediaType != "" {
		typ = r.Format.MediaType
	}
	switch form {
	case CBORTag:
		return strict.MarshalTag(tagNumber(r.Format.ContentFormat), r.Value)
	case JSONRecord:
		a := []any{typ, base64.RawURLEncoding.EncodeToString(r.Value)}
		if r.Ind != 0 {
			a = append(a, r.Ind)
		}
		return json.Marshal(a)
	}
	a := []any{typ, r.Value}
	if r.Ind != 0 {
		a = append(a, r.Ind)
	}
	return strict.Marshal(a)
}

func (c *Collection) encode(form Form, depth int) ([]byte, error) {
	if form == JSONCollection {
		m := make(map[string]any)
		if c.Type != "" {
			m[typeLabel] = c.Type
		}
		for _, e := range c.Entries {
			b, err := e.CMW.encode(depth + 1)
			if err != nil {
				return nil, err
			}
			m[e.Label.Text] = json.RawMessage(b)
		}
		return json.Marshal(m)
	}
	m := make(map[any]any)
	if c.Type != "" {
		m[typeLabel] = c.Type
	}
	for _, e := range c.Entries {
		b, err := e.CMW.encode(depth + 1)
		if err != nil {
			return nil, err
		}
		if e.Label.IsInt {
			m[e.Label.Int] = strict.Raw(b)
		} else {
			m[e.Label.Text] = strict.Raw(b)
		}
	}
	return strict.Marshal(m)
}
