package scheduler_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	quoting "github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/scheduler"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/testpki"
	"github.com/attestedtls/atls/tls"
)

// slowTEE is a software TEE that makes one quote after the other, each in the time
// that it takes.
type slowTEE struct {
	*softtee.TDX
	takes time.Duration
	busy  chan struct{}
}

func (s *slowTEE) Report(ctx context.Context, reportData [64]byte) (*tsm.Report, error) {
	s.busy <- struct{}{}
	defer func() { <-s.busy }()
	<-time.After(s.takes)
	return s.TDX.Report(ctx, reportData)
}

func serverCertificate(now time.Time) (tls.Certificate, *x509.CertPool) {
	key := testpki.Key("server")
	leaf := testpki.SelfSigned(&x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"server.example"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 0, 1), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, key)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, roots
}

// machineTime is when the software TEE's certificates are valid. That of a bubble is not.
var machineTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// TestFloodOfHandshakes has 5,000 clients shake hands at once with a server whose TEE
// makes 20 quotes a second. The clock is that of the bubble, so that "at once" means
// in no time at all.
func TestFloodOfHandshakes(t *testing.T) {
	const (
		flood   = 5000
		takes   = 50 * time.Millisecond
		timeout = time.Second // of an attester, which leaves 19 quotes
		served  = 19
		// What may stay alive once the rest has been refused: certificates, caches and the
		// handshakes that wait. With every connection it would be hundreds of MiB.
		maxHeap = 16 << 20
	)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		cert, roots := serverCertificate(start)
		c, err := softtee.Collateral(machineTime)
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.Parse(softtee.Policy())
		if err != nil {
			t.Fatal(err)
		}
		s := mustNew(t, quoting.New(&slowTEE{softtee.NewTDX(nil), takes, make(chan struct{}, 1)}),
			&scheduler.Options{QueueLimit: 64, ServiceTime: takes})
		server := &tls.Config{
			Certificates:     []tls.Certificate{cert},
			CurvePreferences: []tls.CurveID{tls.X25519}, // what costs little
			Attestation:      &tls.AttestationConfig{Attester: s, AttestTimeout: timeout},
		}
		client := &tls.Config{
			RootCAs: roots, ServerName: "server.example", CurvePreferences: []tls.CurveID{tls.X25519},
			Attestation: &tls.AttestationConfig{Verifier: &verifier.Local{TDXRoots: softtee.Roots(), TDXCollateral: c, Policy: p, Now: func() time.Time { return machineTime }}},
		}
		before := heap()
		var mu sync.Mutex
		var accepted []time.Duration
		refused := 0
		var wg sync.WaitGroup
		shake := func() {
			near, far := net.Pipe()
			wg.Go(func() {
				defer far.Close()
				conn := tls.Server(far, server)
				if conn.HandshakeContext(t.Context()) == nil {
					conn.Close()
				}
			})
			defer near.Close()
			conn := tls.Client(near, client)
			err := conn.HandshakeContext(t.Context())
			took := time.Since(start)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				if !conn.ConnectionState().PeerAttestation.Valid() {
					t.Error("accepted without attestation")
				}
				accepted = append(accepted, took)
				return
			}
			refused++
			if got, ok := conn.AlertReceived(); !ok || got != 80 || took != 0 {
				t.Errorf("after %v: %v (alert %v)", took, err, got)
			}
		}
		for range flood {
			wg.Go(shake)
		}
		synctest.Wait() // all that can be done now has been
		m := s.Metrics()
		if m.Queued+m.Running != served || m.Requests != flood {
			t.Errorf("%d of %d requests wait, want %d", m.Queued+m.Running, m.Requests, served)
		}
		if grown := heap() - before; grown > maxHeap {
			t.Errorf("%d bytes are alive while %d handshakes wait, want at most %d", grown, served, maxHeap)
		} else {
			t.Logf("%d KiB are alive while %d handshakes wait", grown>>10, served)
		}
		wg.Wait()
		if len(accepted) != served || refused != flood-served {
			t.Errorf("%d accepted and %d refused, want %d accepted", len(accepted), refused, served)
		}
		slices.Sort(accepted)
		for i, took := range accepted {
			if want := time.Duration(i+1) * takes; took != want {
				t.Errorf("handshake %d was over after %v, want %v", i+1, took, want)
			}
		}
		checkSum(t, s.Metrics())
	})
}

// heap returns how many bytes are alive.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what finalizers have let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
