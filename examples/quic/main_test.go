package main

import (
	"errors"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/examples/internal/demo"
	"github.com/attestedtls/atls/tls"
)

func TestQUIC(t *testing.T) {
	demo.Says(t, run, "\"you said hello\", says a server that is affirming\n")
}

func TestQUICRefuses(t *testing.T) {
	server, client := demo.Configs()
	server.Attestation.Attester = softtee.NewTDX(&softtee.TDXOptions{Seed: "another"}).Attester()
	for _, c := range []*tls.Config{server, client} {
		c.MinVersion, c.NextProtos = tls.VersionTLS13, []string{"atls-example"}
	}
	udp, err := listenUDP()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- serve(t.Context(), udp, server) }()
	answer, _, err := dial(t.Context(), udp.LocalAddr(), client)
	if !errors.Is(err, attestext.ErrSignature) || answer != "" {
		t.Errorf("%q, %v", answer, err)
	}
	udp.Close()
	if err := <-served; err == nil {
		t.Error("the server had an answer for somebody")
	}
}
