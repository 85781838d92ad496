package main

import (
	"testing"

	"github.com/attestedtls/atls/examples/internal/demo"
)

func TestEnroll(t *testing.T) {
	demo.Says(t, run, "\"hello\", says model.example, which is affirming\n"+
		"enrolment refused: name-not-allowed: no rule allows the name \"bank.example\" to anybody\n")
}
