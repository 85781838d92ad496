package main

import (
	"testing"

	"github.com/attestedtls/atls/examples/internal/demo"
)

func TestGRPC(t *testing.T) {
	demo.Says(t, run, "SERVING, says a server that is affirming\n")
}
