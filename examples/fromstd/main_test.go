package main

import (
	"testing"

	"github.com/attestedtls/atls/examples/internal/demo"
)

func TestFromStd(t *testing.T) {
	demo.Says(t, run, "new client: \"hello\", verdict affirming\nold client: \"hello\"\n")
}
