package tls

import (
	"context"
	"errors"
	"testing"

	"github.com/attestedtls/atls/attestext"
)

// attestQUIC runs a QUIC handshake and returns its ends and its error.
func attestQUIC(t *testing.T, client, server *Config) (cli, srv *testQUICConn, err error) {
	t.Helper()
	for _, conf := range []*Config{client, server} {
		conf.MinVersion = VersionTLS13
	}
	cli = newTestQUICClient(t, &QUICConfig{TLSConfig: client})
	srv = newTestQUICServer(t, &QUICConfig{TLSConfig: server})
	cli.conn.SetTransportParameters(nil)
	srv.conn.SetTransportParameters(nil)
	return cli, srv, runTestQUICConnection(context.Background(), cli, srv, nil)
}

// TestQUICCarriesAttestation: QUICConn carries attestation as TCP does, and sends no
// ticket.
//
// Hooks: quic-ticket.
func TestQUICCarriesAttestation(t *testing.T) {
	client, server := attesting()
	client.Attestation.Attester, server.Attestation.Verifier = &stubTEE{}, &stubTEE{}
	cli, srv, err := attestQUIC(t, client, server)
	if err != nil {
		t.Fatal(err)
	}
	c, s := cli.conn.ConnectionState(), srv.conn.ConnectionState()
	if !c.PeerAttestation.Valid() || !s.PeerAttestation.Valid() {
		t.Errorf("client %+v, server %+v", c.AttestationState, s.AttestationState)
	}
	if err := srv.conn.SendSessionTicket(QUICSessionTicketOptions{}); err != nil {
		t.Fatal(err)
	}
	for {
		e := srv.conn.NextEvent()
		if e.Kind == QUICNoEvent {
			break
		}
		if e.Kind == QUICWriteData {
			t.Errorf("a ticket of %d bytes", len(e.Data))
		}
	}
}

// TestQUICServerCannotWriteBeforeTheAppraisal: a server whose client is to attest gets
// the secret that application data is written with when the client has been appraised,
// and not before.
//
// Hooks: quic-gate.
func TestQUICServerCannotWriteBeforeTheAppraisal(t *testing.T) {
	for _, attests := range []bool{false, true} {
		client, server := attestConfigs()
		appraised := false
		if attests {
			client.Attestation = &AttestationConfig{Attester: &stubTEE{}}
			server.Attestation = &AttestationConfig{Verifier: &stubTEE{appraise: func(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
				appraised = true
				return (&stubTEE{}).Appraise(ctx, ev, ch)
			}}}
		}
		client.MinVersion, server.MinVersion = VersionTLS13, VersionTLS13
		cli := newTestQUICClient(t, &QUICConfig{TLSConfig: client})
		srv := newTestQUICServer(t, &QUICConfig{TLSConfig: server})
		cli.conn.SetTransportParameters(nil)
		srv.conn.SetTransportParameters(nil)
		given := false
		err := runTestQUICConnection(context.Background(), cli, srv, func(e QUICEvent, src, dst *testQUICConn) bool {
			if src == srv && e.Kind == QUICSetWriteSecret && e.Level == QUICEncryptionLevelApplication {
				given = true
				if attests && !appraised {
					t.Error("the secret is out before the appraisal")
				}
			}
			return false
		})
		if err != nil || !given {
			t.Errorf("attests %v: %v, secret given %v", attests, err, given)
		}
	}
}

func TestQUICRefusalHasTheAlert(t *testing.T) {
	client, server := attesting()
	sends(func(tee *stubTEE, _ context.Context, ch attestext.Challenge) ([]byte, error) {
		ch.SPKI = []byte("another")
		return tee.honest(&ch)
	})(client, server)
	_, _, err := attestQUIC(t, client, server)
	var a AlertError
	if !errors.Is(err, attestext.ErrBinding) || !errors.As(err, &a) || alert(a) != alertBadCertificate {
		t.Errorf("%v, alert %v", err, a)
	}
}
