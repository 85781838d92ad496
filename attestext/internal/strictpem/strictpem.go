// Package strictpem reads PEM in which there is nothing but blocks of one type.
package strictpem

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
)

// Parse returns what parse makes of each block in b. A block of another type than
// blockType, one that cannot be read, and anything but white space around blocks, is an
// error: encoding/pem would pass over them.
func Parse[T any](b []byte, blockType string, parse func([]byte) (T, error)) ([]T, error) {
	begin := []byte("-----BEGIN ")
	var all []T
	for b = bytes.TrimSpace(b); len(b) != 0; b = bytes.TrimSpace(b) {
		block, rest := pem.Decode(b)
		switch read := b[:len(b)-len(rest)]; {
		case block == nil, !bytes.HasPrefix(read, begin), bytes.Count(read, begin) != 1:
			return nil, errors.New("not PEM, or something beside its blocks")
		case block.Type != blockType:
			return nil, fmt.Errorf("PEM block %q, want %q", block.Type, blockType)
		}
		v, err := parse(block.Bytes)
		if err != nil {
			return nil, err
		}
		all, b = append(all, v), rest
	}
	return all, nil
}
