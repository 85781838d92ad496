//go:build !linux

package compare

import "errors"

func newNetem() (Network, error) { return nil, errors.New("it is of Linux") }
