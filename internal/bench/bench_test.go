// Package bench compares the fork with the crypto/tls that it came from.
//
// Each benchmark does the same work with both, by turns, and reports the median of
// the ratios of each pair: what slows the machine down for a while slows down both
// halves of a pair. Attestation is off, except
// in BenchmarkRequests. scripts/bench prints a table.
package bench

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/attestedtls/atls/internal/testpki"
	"github.com/attestedtls/atls/tls"
)

// conn is what the two packages' connections have in common.
type conn interface {
	net.Conn
	HandshakeContext(context.Context) error
}

// A stack makes the two ends of a connection.
type stack func(client, server net.Conn) (conn, conn)

// A setting is one way to connect, for both packages.
type setting struct {
	name        string
	version     uint16
	suite       uint16 // of TLS 1.2; those of TLS 1.3 cannot be chosen
	stock, fork stack
}

const (
	rsaKey     = "RSA-2048"
	p256Key    = "P-256"
	ed25519Key = "Ed25519"
)

// settings returns all combinations for the given kinds of keys.
func settings(b testing.TB, keys ...string) []setting {
	b.Helper()
	var all []setting
	for _, key := range keys {
		cert := certificate(b, key)
		all = append(all, newSetting(b, "TLS 1.3/"+key, cert, stdtls.VersionTLS13, 0))
		suites := []uint16{
			stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			stdtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		}
		if key == rsaKey {
			suites = []uint16{
				stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
				stdtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
				stdtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
			}
		}
		for i, name := range []string{"AES-128-GCM", "AES-256-GCM", "ChaCha20"} {
			all = append(all, newSetting(b, "TLS 1.2 "+name+"/"+key, cert, stdtls.VersionTLS12, suites[i]))
		}
	}
	return all
}

func newSetting(b testing.TB, name string, cert stdtls.Certificate, version, suite uint16) setting {
	b.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	serverConf := &stdtls.Config{
		Certificates: []stdtls.Certificate{cert},
		MinVersion:   version,
		MaxVersion:   version,
		// A server that sends a ticket waits for a reader, which a client that has
		// completed its handshake is not.
		SessionTicketsDisabled: true,
	}
	clientConf := &stdtls.Config{RootCAs: roots, ServerName: "bench.example", MinVersion: version, MaxVersion: version}
	if suite != 0 {
		serverConf.CipherSuites = []uint16{suite}
	}
	forkServerConf, err1 := tls.FromStd(serverConf)
	forkClientConf, err2 := tls.FromStd(clientConf)
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	return setting{
		name: name, version: version, suite: suite,
		stock: func(c, s net.Conn) (conn, conn) { return stdtls.Client(c, clientConf), stdtls.Server(s, serverConf) },
		fork:  func(c, s net.Conn) (conn, conn) { return tls.Client(c, forkClientConf), tls.Server(s, forkServerConf) },
	}
}

func certificate(b testing.TB, kind string) stdtls.Certificate {
	b.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case rsaKey:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case p256Key:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ed25519Key:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		b.Fatal(err)
	}
	leaf := testpki.SelfSigned(&x509.Certificate{
		DNSNames: []string{"bench.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}, key)
	return stdtls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// connect returns both ends of a new connection after the handshake, and a
// function that closes them.
func connect(s stack) (client, server conn, done func(), err error) {
	c, p := net.Pipe()
	client, server = s(c, p)
	errc := make(chan error, 1)
	go func() { errc <- server.HandshakeContext(context.Background()) }()
	err = client.HandshakeContext(context.Background())
	done = func() { c.Close(); p.Close() } // without close_notify, for which nobody reads
	if err != nil {
		done()
	}
	return client, server, done, errors.Join(err, <-errc)
}

// pairs runs the work of both stacks by turns, b.N times, and reports their medians
// in microseconds, the median ratio, and the ratio of allocations.
func pairs(b *testing.B, stock, fork func() error) {
	b.Helper()
	run := func(f func() error) time.Duration {
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	for range 3 { // warm up
		run(stock)
		run(fork)
	}
	var ratios, stocks, forks []float64
	for i := 0; b.Loop(); i++ {
		var s, f time.Duration
		if i%2 == 0 {
			s, f = run(stock), run(fork)
		} else {
			f, s = run(fork), run(stock)
		}
		ratios = append(ratios, float64(f)/float64(s))
		stocks = append(stocks, float64(s)/1e3)
		forks = append(forks, float64(f)/1e3)
	}
	stockAllocs := testing.AllocsPerRun(20, func() { run(stock) })
	forkAllocs := testing.AllocsPerRun(20, func() { run(fork) })
	b.ReportMetric(0, "ns/op") // would be that of a pair
	b.ReportMetric(median(stocks), "stock-µs")
	b.ReportMetric(median(forks), "fork-µs")
	b.ReportMetric(median(ratios), "time-ratio")
	b.ReportMetric(stockAllocs, "stock-allocs")
	b.ReportMetric(forkAllocs, "fork-allocs")
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	n := len(x)
	return (x[(n-1)/2] + x[n/2]) / 2
}

func BenchmarkHandshake(b *testing.B) {
	for _, s := range settings(b, p256Key, ed25519Key, rsaKey) {
		b.Run(s.name, func(b *testing.B) {
			handshake := func(s stack) func() error {
				return func() error {
					_, _, done, err := connect(s)
					done()
					return err
				}
			}
			pairs(b, handshake(s.stock), handshake(s.fork))
		})
	}
}

// BenchmarkRecords moves 64 records of 16 KiB from a client to a server.
func BenchmarkRecords(b *testing.B) {
	for _, s := range settings(b, p256Key) {
		b.Run(s.name, func(b *testing.B) {
			transfer := func(s stack) func() error {
				client, server, done, err := connect(s)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(done)
				record, buf := make([]byte, 16<<10), make([]byte, 16<<10)
				return func() error {
					errc := make(chan error, 1)
					go func() {
						for range 64 {
							if _, err := client.Write(record); err != nil {
								errc <- err
								return
							}
						}
						errc <- nil
					}()
					for range 64 {
						if _, err := io.ReadFull(server, buf); err != nil {
							return err
						}
					}
					return <-errc
				}
			}
			pairs(b, transfer(s.stock), transfer(s.fork))
		})
	}
}

// TestBothStacksConnectAsSet checks that a benchmark measures what its name says.
func TestBothStacksConnectAsSet(t *testing.T) {
	for _, s := range settings(t, p256Key, ed25519Key, rsaKey) {
		for name, stack := range map[string]stack{"stock": s.stock, "fork": s.fork} {
			client, server, done, err := connect(stack)
			if err != nil {
				t.Errorf("%s, %s: %v", s.name, name, err)
				continue
			}
			var version, suite uint16
			is := ""
			switch c := client.(type) {
			case *stdtls.Conn:
				is, version, suite = "stock", c.ConnectionState().Version, c.ConnectionState().CipherSuite
			case *tls.Conn:
				is, version, suite = "fork", c.ConnectionState().Version, c.ConnectionState().CipherSuite
			}
			if is != name || version != s.version || s.suite != 0 && suite != s.suite {
				t.Errorf("%s, %s: connected by the %s stack with version %x, suite %x", s.name, name, is, version, suite)
			}
			go client.Write([]byte("ping"))
			buf := make([]byte, 4)
			if _, err := io.ReadFull(server, buf); err != nil || !bytes.Equal(buf, []byte("ping")) {
				t.Errorf("%s, %s: read %q, %v", s.name, name, buf, err)
			}
			done()
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		x    []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(tt.x); got != tt.want {
			t.Errorf("median(%v) = %v, want %v", tt.x, got, tt.want)
		}
	}
}
