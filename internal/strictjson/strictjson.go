// Package strictjson decodes JSON that a mistake or an attacker must not be able
// to make ambiguous: no unknown fields, no field named twice, no null, nothing
// after the value.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// maxDepth bounds the nesting of arrays and objects.
const maxDepth = 32

// Unmarshal decodes the one JSON value that data is into v, as
// [encoding/json.Unmarshal] does, but refuses object members that v has no field
// for, members whose names differ at most by case (encoding/json matches without
// case, and the last one wins), null (which leaves a field as if it were not
// there), nesting deeper than 32, and trailing data.
func Unmarshal(data []byte, v any) error {
	if err := check(data); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// fold returns the first of the characters that encoding/json takes for r, which are more
// than the two cases of a letter: U+017F is an s to it, and U+212A a k.
func fold(r rune) rune {
	first := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		first = min(first, next)
	}
	return first
}

// check walks the tokens of data.
func check(data []byte) error {
	type level struct {
		names map[string]bool // nil in an array
		name  bool            // the next token is a member's name
	}
	var stack []level
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	for {
		tok, err := d.Token()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		var top *level
		if len(stack) > 0 {
			top = &stack[len(stack)-1]
		}
		delim, isDelim := tok.(json.Delim)
		switch {
		case isDelim && (delim == '}' || delim == ']'):
			stack = stack[:len(stack)-1]
			if len(stack) > 0 {
				top = &stack[len(stack)-1]
				top.name = top.names != nil
			}
		case top != nil && top.name:
			name := tok.(string)
			folded := strings.Map(fold, name)
			if top.names[folded] {
				return fmt.Errorf("member %q appears twice", name)
			}
			top.names[folded] = true
			top.name = false
		case tok == nil:
			return errors.New("null is no value here")
		case isDelim:
			if len(stack) == maxDepth {
				return fmt.Errorf("nested deeper than %d", maxDepth)
			}
			l := level{}
			if delim == '{' {
				l = level{names: make(map[string]bool), name: true}
			}
			stack = append(stack, l)
		default:
			if top != nil {
				top.name = top.names != nil
			}
		}
		if len(stack) == 0 {
			break
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the JSON value")
	}
	return nil
}
