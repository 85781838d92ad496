// Package strictpem reads PEM in which there is nothing but blocks of one type.
package strictpem

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
)

// Parse returns what parse makes of each block in b. A block of another type than
// blockType, and anything but white space around blocks, is an error.
func Parse[T any](b []byte, blockType string, parse func([]byte) (T, error)) ([]T, error) {
	var all []T
	for len(bytes.TrimSpace(b)) != 0 {
		block, rest := pem.Decode(b)
		switch {
		case block == nil:
			return nil, errors.New("not PEM, or data after it")
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
