package main

import (
	"testing"

	"github.com/attestedtls/atls/examples/internal/demo"
)

func TestQUICGo(t *testing.T) {
	demo.Says(t, run, "\"hello\", says a server that is affirming\n")
}
