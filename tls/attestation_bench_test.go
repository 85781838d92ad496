package tls

import (
	"crypto/ecdsa"
	"crypto/x509"
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
		{"post-handshake", &AttestationConfig{Mode: PostHandshake, Verifier: tee}, &AttestationConfig{Mode: PostHandshake, Attester: tee}, false},
		{"post-handshake-leading", &AttestationConfig{Mode: PostHandshake, Carriage: CarriageLeading, Verifier: tee}, &AttestationConfig{Mode: PostHandshake, Attester: tee}, false},
		{"post-handshake-client", &AttestationConfig{Mode: PostHandshake, Attester: tee}, &AttestationConfig{Mode: PostHandshake, Verifier: tee}, true},
		{"post-handshake-mutual", &AttestationConfig{Mode: PostHandshake, Attester: tee, Verifier: tee}, &AttestationConfig{Mode: PostHandshake, Attester: tee, Verifier: tee}, true},
		{"post-handshake-passport", &AttestationConfig{Mode: PostHandshake, ResultsVerifier: results}, &AttestationConfig{Mode: PostHandshake, Results: results}, false},
		{"early", &AttestationConfig{Form: FormEarly, Verifier: tee}, &AttestationConfig{Form: FormEarly, Attester: tee}, false},
		{"early-mutual", &AttestationConfig{Form: FormEarly, Attester: tee, Verifier: tee}, &AttestationConfig{Form: FormEarly, Attester: tee, Verifier: tee}, true},
		{"early-passport", &AttestationConfig{Form: FormEarly, ResultsVerifier: results}, &AttestationConfig{Form: FormEarly, Results: results}, false},
		{"early-03", &AttestationConfig{Form: FormEarly03, Verifier: tee}, &AttestationConfig{Form: FormEarly03, Attester: tee}, false},
		{"combined", &AttestationConfig{Mode: Combined, Verifier: tee}, &AttestationConfig{Mode: Combined, Attester: tee}, false},
		{"combined-mutual", &AttestationConfig{Mode: Combined, Attester: tee, Verifier: tee}, &AttestationConfig{Mode: Combined, Attester: tee, Verifier: tee}, true},
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
				p := measure(func() *countingConn { return benchHandshake(b, ln, client, server) })
				a := measure(func() *countingConn { return benchHandshake(b, ln, attestedClient, attestedServer) })
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
			b.ReportMetric(float64(attested.trips)/n, "trips/attested")
			b.ReportMetric(float64(plain.trips)/n, "trips/plain")
			b.ReportMetric(0, "ns/op") // a pair is nothing that anybody runs
		})
	}
}

// cost is what handshakes took: of both ends together.
type cost struct {
	time   time.Duration
	allocs uint64
	bytes  int64
	trips  int64 // how often the client waits for the server
}

func (c *cost) add(d cost) {
	c.time += d.time
	c.allocs += d.allocs
	c.bytes += d.bytes
	c.trips += d.trips
}

func measure(f func() *countingConn) cost {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	conn := f()
	d := time.Since(start)
	runtime.ReadMemStats(&after)
	return cost{d, after.Mallocs - before.Mallocs, conn.n, conn.trips}
}

// benchHandshake runs one handshake over ln and returns the client's connection.
func benchHandshake(b *testing.B, ln net.Listener, client, server *Config) *countingConn {
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
	return counted
}

// countingConn counts bytes both ways, and how often something is read after
// something was written.
type countingConn struct {
	net.Conn
	n, trips int64
	wrote    bool
}

func (c *countingConn) Read(b []byte) (int, error) {
	if c.wrote {
		c.trips++
		c.wrote = false
	}
	n, err := c.Conn.Read(b)
	c.n += int64(n)
	return n, err
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.wrote = true
	n, err := c.Conn.Write(b)
	c.n += int64(n)
	return n, err
}

// BenchmarkReusedCertificate compares what an exchange does with a chain that the
// handshake has accepted with what it would do without.
func BenchmarkReusedCertificate(b *testing.B) {
	client, server := exchanging(Combined)
	onlyServerAttests(client, server)
	c, _ := established(b, client, server)
	chain := c.peerCertificates
	for name, verify := range map[string]func([]*x509.Certificate) error{"reused": c.attestVerifyChain, "again": c.attestVerifyChainAgain} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := verify(chain); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReattest is a round of re-attestation on a connection in use: its time at
// the end that asks, and its bytes.
func BenchmarkReattest(b *testing.B) {
	client, server := reattesting()
	tee := &stubTEE{padding: evidencePadding}
	client.Attestation.Verifier, server.Attestation.Attester = tee, tee
	server.Attestation.MinReattestInterval = time.Nanosecond
	cc, sc := localPipe(b)
	defer cc.Close()
	defer sc.Close()
	counted := &countingConn{Conn: cc}
	c, s := Client(counted, client), Server(sc, server)
	echo(s)
	if err := c.Handshake(); err != nil {
		b.Fatal(err)
	}
	before := counted.n
	n := 0
	for b.Loop() {
		if err := c.Reattest(b.Context()); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(counted.n-before)/float64(n), "wire-B/op")
}
