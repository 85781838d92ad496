// Package strict decodes CBOR (RFC 8949) and JSON (RFC 8259) that a peer wrote.
// It accepts one item and nothing after it, without duplicate keys and
// without nesting beyond a bound; and a value is taken only for the type that it
// has on the wire, where general decoders convert.
package strict

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/fxamacker/cbor/v2"
)

const (
	// MaxDepth bounds how deep arrays, maps, objects and tags nest.
	MaxDepth = 8
	// MaxItems bounds the elements of one array and the pairs of one map or object.
	MaxItems = 64
)

// Major types of CBOR, RFC 8949, section 3.1.
const (
	majorUint  = 0
	majorNint  = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorTag   = 6
)

var dec = must(cbor.DecOptions{
	DupMapKey:        cbor.DupMapKeyEnforcedAPF,
	IndefLength:      cbor.IndefLengthForbidden,
	MaxNestedLevels:  MaxDepth,
	MaxArrayElements: MaxItems,
	MaxMapPairs:      MaxItems,
	IntDec:           cbor.IntDecConvertSignedOrFail,
	BignumTag:        cbor.BignumTagForbidden,
}.DecMode())

var enc = must(cbor.CoreDetEncOptions().EncMode())

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Raw is one encoded CBOR item.
type Raw = cbor.RawMessage

// Marshal encodes v in the core deterministic encoding, RFC 8949, section 4.2.1.
func Marshal(v any) ([]byte, error) { return enc.Marshal(v) }

// MarshalTag encodes a byte string under a tag.
func MarshalTag(number uint64, value []byte) ([]byte, error) {
	return enc.Marshal(cbor.Tag{Number: number, Content: value})
}

// item decodes b, which must begin with the given major type, into v. The major
// type is checked because the decoder skips tags, takes null for the zero value
// of anything, and an array of integers for a byte string.
func item(b []byte, major byte, what string, v any) error {
	if len(b) == 0 {
		return fmt.Errorf("no bytes where a CBOR %s was expected", what)
	}
	if b[0]>>5 != major {
		return fmt.Errorf("CBOR item that begins with %#02x is no %s", b[0], what)
	}
	err := dec.Unmarshal(b, v)
	if twice, ok := errors.AsType[*cbor.DupMapKeyError](err); ok {
		return fmt.Errorf("CBOR map has the key %s twice", Name(twice.Key))
	}
	return err
}

// Name returns what an error calls a key of a Map: the number, or the beginning of the
// text in quotes. A peer makes the text as long as it likes.
func Name(key any) string {
	switch key := key.(type) {
	case int64:
		return strconv.FormatInt(key, 10)
	case string:
		return fmt.Sprintf("%.32q", key)
	}
	return fmt.Sprintf("of type %T", key)
}

// Array returns the elements of a CBOR array.
func Array(b []byte) ([]Raw, error) {
	var a []Raw
	err := item(b, majorArray, "array", &a)
	return a, err
}

// Map returns the pairs of a CBOR map. Its keys are int64 or string; any other
// key, or an integer that int64 does not hold, is an error.
func Map(b []byte) (map[any]Raw, error) {
	var m map[any]Raw
	if err := item(b, majorMap, "map", &m); err != nil {
		return nil, err
	}
	for k := range m {
		switch k.(type) {
		case int64, string:
		default:
			return nil, errors.New("CBOR map key is neither an integer nor text")
		}
	}
	return m, nil
}

// Tag returns the number and the content of a CBOR tag.
func Tag(b []byte) (uint64, Raw, error) {
	var t cbor.RawTag
	err := item(b, majorTag, "tag", &t)
	return t.Number, t.Content, err
}

// Bytes returns a copy of a CBOR byte string.
func Bytes(b []byte) ([]byte, error) {
	var s []byte
	err := item(b, majorBytes, "byte string", &s)
	return s, err
}

// Text returns a CBOR text string, which is valid UTF-8.
func Text(b []byte) (string, error) {
	var s string
	err := item(b, majorText, "text string", &s)
	return s, err
}

// Uint returns a CBOR unsigned integer.
func Uint(b []byte) (uint64, error) {
	var n uint64
	err := item(b, majorUint, "unsigned integer", &n)
	return n, err
}

// Int returns a CBOR integer of either sign.
func Int(b []byte) (int64, error) {
	var n int64
	if len(b) > 0 && b[0]>>5 == majorNint {
		err := item(b, majorNint, "integer", &n)
		return n, err
	}
	err := item(b, majorUint, "integer", &n)
	return n, err
}

// IsText and IsUint report what type the item b begins with.
func IsText(b []byte) bool { return len(b) > 0 && b[0]>>5 == majorText }
func IsUint(b []byte) bool { return len(b) > 0 && b[0]>>5 == majorUint }
