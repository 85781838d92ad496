package main

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attesttest"
	"github.com/attestedtls/atls/examples/internal/demo"
)

func TestCustom(t *testing.T) {
	demo.Says(t, run, "\"hello\", says a server that is affirming\n")
}

func TestAnotherKeyIsRefused(t *testing.T) {
	if err := talk(io.Discard, tee{[]byte("another")}, tee{[]byte("key")}); !errors.Is(err, attestext.ErrBinding) {
		t.Error(err)
	}
}

// The suite of bad evidence runs against a verifier of anybody's.
func TestVerifierRefusesBadEvidence(t *testing.T) {
	attesttest.Run(t, &attesttest.Target{Verifier: tee{[]byte("key")}, Honest: tee{[]byte("key")}})
}

// The example is what README.md calls it: 40 lines, blank ones and comments aside.
func TestExampleIsShort(t *testing.T) {
	b, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "// example: begin\n")
	text, _, ok := strings.Cut(text, "// example: end\n")
	n := 0
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			n++
		}
	}
	if !ok || n > 40 {
		t.Errorf("%d lines", n)
	}
}
