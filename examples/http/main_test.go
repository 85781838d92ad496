package main

import (
	"testing"

	"github.com/attestedtls/atls/examples/internal/demo"
)

func TestHTTP(t *testing.T) {
	demo.Says(t, run, "200 from a server that is affirming: \"hello over HTTP/2.0\"\n"+
		"403 from a server that is affirming: \"attestation required\\n\"\n")
}
