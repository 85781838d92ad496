package tls

import (
	"crypto/ecdsa"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
)

// evidencePadding makes stub Evidence of 5 KB, the size of a TDX quote with its
// chain.
const evidencePadding = 5000

// BenchmarkAttestedHandshake compares a handshake with stub Evidence of 5 KB over
// loopback with the same handshake without: pairs run in turn, and the ratios are
// the median of a pair's times and the mean of all allocations, so that a noisy
// machine bears on both sides alike.
func BenchmarkAttestedHandshake(b *testing.B) {
	tee, results := &stubTEE{padding: evidencePadding}, &stubResults{}
	key := newTestKey()
	only := func(a *AttestationConfig) *AttestationConfig {
		a.Credentials, a.PeerCredentials, a.AllowAttestationOnly = onlyKind, onlyKind, true
		a.AttestedKey = attestPKI().server.PrivateKey.(*ecdsa.PrivateKey)
		return a
	}
	for _, mode := range []struct {
		name           string
		client, server *AttestationConfig
		mutual         bool // both ends have certificates in either case
	}{
		{"hardened", &AttestationConfig{Verifier: tee}, &AttestationConfig{Attester: tee}, false},
		{"draft-08", &AttestationConfig{Verifier: tee, PeerBinding: attestext.BindingDraft08}, &AttestationConfig{Attester: tee, Binding: attestext.BindingDraft08}, false},
		{"attestation-only", only(&AttestationConfig{Verifier: tee}), only(&AttestationConfig{Attester: tee}), false},
		{"passport", &AttestationConfig{ResultsVerifier: results}, &AttestationConfig{Results: results}, false},
		{"two-keys", &AttestationConfig{Verifier: tee, PeerAttestedKey: true}, &AttestationConfig{Attester: tee, AttestedKey: key}, false},
		{"client", &AttestationConfig{Attester: tee}, &AttestationConfig{Verifier: tee}, true},
		{"mutual", &AttestationConfig{Attester: tee, Verifier: tee}, &AttestationConfig{Attester: tee, Verifier: tee}, true},
		{"mutual-passport", &AttestationConfig{Results: results, ResultsVerifier: results}, &AttestationConfig{Results: results, ResultsVerifier: results}, true},
		{"mutual-evidence-passport", &AttestationConfig{ResultsVerifier: results, Attester: tee}, &AttestationConfig{Results: results, Verifier: tee}, true},
	} {
		b.Run(mode.name, func(b *testing.B) {
			client, server := attestConfigs()
			if mode.mutual {
				server.ClientAuth = RequireAndVerifyClientCert
			}
			server.SessionTicketsDisabled = true // as where attestation is negotiated
			attestedClient, attestedServer := client.Clone(), server.Clone()
			attestedClient.Attestation, attestedServer.Attestation = mode.client, mode.server
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			benchHandshake(b, ln, client, server)
			benchHandshake(b, ln, attestedClient, attestedServer)
			var plain, attested cost
			var ratios []float64
			for b.Loop() {
				p := measure(func() int64 { return benchHandshake(b, ln, client, server) })
				a := measure(func() int64 { return benchHandshake(b, ln, attestedClient, attestedServer) })
				plain.add(p)
				attested.add(a)
				ratios = append(ratios, float64(a.time)/float64(p.time))
			}
			slices.Sort(ratios)
			n := float64(len(ratios))
			b.ReportMetric(ratios[len(ratios)/2], "time-ratio")
			b.ReportMetric(float64(attested.allocs)/float64(plain.allocs), "allocs-ratio")
			b.ReportMetric(float64(attested.time.Microseconds())/n, "µs/attested")
			b.ReportMetric(float64(plain.time.Microseconds())/n, "µs/plain")
			b.ReportMetric(float64(attested.bytes)/n, "wire-B/attested")
			b.ReportMetric(float64(plain.bytes)/n, "wire-B/plain")
			b.ReportMetric(0, "ns/op") // a pair is nothing that anybody runs
		})
	}
}

// cost is what handshakes took: of both ends together.
type cost struct {
	time   time.Duration
	allocs uint64
	bytes  int64
}

func (c *cost) add(d cost) {
	c.time += d.time
	c.allocs += d.allocs
	c.bytes += d.bytes
}

func measure(f func() int64) cost {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	n := f()
	d := time.Since(start)
	runtime.ReadMemStats(&after)
	return cost{d, after.Mallocs - before.Mallocs, n}
}

// benchHandshake runs one handshake over ln and returns how many bytes it took.
func benchHandshake(b *testing.B, ln net.Listener, client, server *Config) int64 {
	done := make(chan error, 1)
	go func() {
		s, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer s.Close()
		done <- Server(s, server).Handshake()
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	counted := &countingConn{Conn: conn}
	if err := Client(counted, client).Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return counted.n
}

// countingConn counts bytes both ways.
type countingConn struct {
	net.Conn
	n int64
}

func (c *countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n += int64(n)
	return n, err
}

func (c *countingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.n += int64(n)
	return n, err
}
