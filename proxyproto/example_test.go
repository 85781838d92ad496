package proxyproto_test

import (
	"fmt"
	"log"
	"net"
	"net/netip"

	"github.com/attestedtls/atls/proxyproto"
)

// A program behind "atls proxy --send-proxy" reads the header before anything else.
func ExampleRead() {
	sidecar, conn := net.Pipe()
	go func() {
		b, err := (&proxyproto.Header{
			Source:      netip.MustParseAddrPort("192.0.2.1:50000"),
			Destination: netip.MustParseAddrPort("192.0.2.2:8443"),
			Verdict:     "affirming",
		}).Bytes()
		if err != nil {
			log.Fatal(err)
		}
		sidecar.Write(b)
	}()

	h, err := proxyproto.Read(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("from %v, which is %s\n", h.Source, h.Verdict)
	// Output: from 192.0.2.1:50000, which is affirming
}
