package verifier_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/internal/testpki"
	"github.com/attestedtls/atls/tls"
)

// observed keeps what a passive observer sees of a connection, each way.
type observed struct {
	net.Conn
	read, written bytes.Buffer
}

func (o *observed) Read(b []byte) (int, error) {
	n, err := o.Conn.Read(b)
	o.read.Write(b[:n])
	return n, err
}

func (o *observed) Write(b []byte) (int, error) {
	o.written.Write(b)
	return o.Conn.Write(b)
}

// shows keeps what an end attests by, which it shows at once.
type shows struct {
	attestext.Attester
	attestext.ResultsHolder
	shown [][]byte
}

func (s *shows) Attest(ctx context.Context, req *attestext.AttestRequest) (b []byte, err error) {
	if req.Challenge.Model == attestext.Passport {
		b, err = s.ResultsHolder.Attest(ctx, req)
	} else {
		b, err = s.Attester.Attest(ctx, req)
	}
	s.shown = append(s.shown, b)
	return b, err
}

// refuses is a verifier of Evidence and of results that accepts none.
type refuses struct {
	*verifier.Local
	*results.Verifier
}

func (refuses) Appraise(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
	return nil, attestext.Errorf(attestext.ErrPolicy, "test", "no")
}

// selfSigned returns the certificate of a key, and a pool that trusts it.
func selfSigned(key crypto.Signer) (tls.Certificate, *x509.CertPool) {
	leaf := testpki.SelfSigned(&x509.Certificate{
		DNSNames: []string{"private.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}, key)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}, pool
}

// TestWhoSeesClaims is the table of docs/SECURITY.md: in each mode, to whom an end shows
// its evidence, or its result, though it refuses that peer or is refused by it;
// and that whoever looks on sees neither in any.
func TestWhoSeesClaims(t *testing.T) {
	serverCert, roots := selfSigned(key("server"))
	clientCert, clients := selfSigned(key("client"))
	stranger, _ := selfSigned(key("stranger"))
	mrtd, _ := softtee.TDXMeasurements()
	issuer := softtee.NewResultsIssuer(nil)
	token, err := issuer.Issue(spki(key("server")), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	holder, err := results.NewHolder([]results.Held{{Verifier: issuer.Identity(), Result: token}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	passport, err := results.NewVerifier([]results.Trust{{ID: issuer.Identity(), Keys: []crypto.PublicKey{issuer.PublicKey()}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		conf tls.AttestationConfig
		auth tls.ClientAuthType // in place of attestation by the client, where it is set

		// Whether the server shows its claims to a client with neither an accepted
		// certificate nor accepted evidence, and to one with the certificate; and
		// whether the client shows its own to a server with the certificate alone.
		toStranger, toCertified, ofClient bool
	}{
		{"tls-attest", tls.AttestationConfig{}, 0, true, true, false},
		{"early", tls.AttestationConfig{Form: tls.FormEarly}, 0, true, true, false},
		{"combined", tls.AttestationConfig{Mode: tls.Combined}, 0, true, true, false},
		{"post-handshake", tls.AttestationConfig{Mode: tls.PostHandshake}, 0, true, true, false},
		{"post-handshake, client certificate required", tls.AttestationConfig{Mode: tls.PostHandshake}, tls.RequireAndVerifyClientCert, false, true, false},
		{"post-handshake, client first", tls.AttestationConfig{Mode: tls.PostHandshake, ClientFirst: true}, 0, false, false, true},
		{"tls-attest, results only", tls.AttestationConfig{ResultsOnly: true}, 0, true, true, false},
		{"early, results only", tls.AttestationConfig{Form: tls.FormEarly, ResultsOnly: true}, 0, true, true, false},
		{"post-handshake, results only, client first", tls.AttestationConfig{Mode: tls.PostHandshake, ClientFirst: true, ResultsOnly: true}, 0, false, false, true},
	} {
		for _, peer := range []struct {
			name                         string
			clientCert, serverCert       tls.Certificate
			clientRefused, serverRefused bool // for what they attest
			serverShows, clientShows     bool
		}{
			{"accepted", clientCert, serverCert, false, false, true, tt.auth == 0},
			{"client without anything", stranger, serverCert, true, false, tt.toStranger, tt.ofClient || tt.toStranger},
			{"client with a certificate", clientCert, serverCert, true, false, tt.toCertified, tt.auth == 0},
			{"server without anything", clientCert, stranger, false, true, tt.toCertified && tt.conf.Mode != tls.PostHandshake, false},
			{"server with a certificate", clientCert, serverCert, false, true, true, tt.ofClient},
		} {
			t.Run(tt.name+", "+peer.name, func(t *testing.T) {
				ofClient := &shows{Attester: softtee.NewTDX(nil).Attester()}
				ofServer := &shows{Attester: softtee.NewTDX(nil).Attester(), ResultsHolder: holder}
				ca, sa := tt.conf, tt.conf
				ca.ResultsOnly = false
				if sa.ResultsOnly {
					sa.Results, ca.ResultsVerifier = ofServer, passport
				} else {
					sa.Attester, ca.Verifier = ofServer, local(t)
				}
				if peer.serverRefused && sa.ResultsOnly {
					ca.ResultsVerifier = refuses{Verifier: passport}
				} else if peer.serverRefused {
					ca.Verifier = refuses{Local: local(t)}
				}
				if tt.auth == 0 {
					ca.Attester, sa.Verifier = ofClient, local(t)
					if peer.clientRefused {
						sa.Verifier = refuses{Local: local(t)}
					}
				}
				server := &tls.Config{Certificates: []tls.Certificate{peer.serverCert}, ClientAuth: tt.auth, ClientCAs: clients, Attestation: &sa}
				client := &tls.Config{RootCAs: roots, ServerName: "private.example", Certificates: []tls.Certificate{peer.clientCert}, Attestation: &ca}

				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				done := make(chan error, 1)
				go func() {
					raw, err := l.Accept()
					if err == nil {
						conn := tls.Server(raw, server)
						err = conn.Handshake()
						hangUp(raw)
					}
					done <- err
				}()
				raw, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				o := &observed{Conn: raw}
				err = tls.Client(o, client).Handshake()
				hangUp(raw)
				serr := <-done
				if accepted := peer.name == "accepted" || tt.auth != 0 && peer.name == "client with a certificate"; (err == nil && serr == nil) != accepted {
					t.Fatalf("client: %v, server: %v", err, serr)
				}
				if (len(ofServer.shown) > 0) != peer.serverShows || (len(ofClient.shown) > 0) != peer.clientShows {
					t.Errorf("the server shows %d, the client %d; client: %v, server: %v", len(ofServer.shown), len(ofClient.shown), err, serr)
				}

				// The first record is ClientHello, in which there is what is offered.
				sent, received := o.written.Bytes(), o.read.Bytes()
				hello := 5 + int(binary.BigEndian.Uint16(sent[3:]))
				if !bytes.Contains(sent[:hello], []byte("private.example")) {
					t.Fatal("what is looked through is not the connection")
				}
				secrets := map[string][]byte{"MRTD": mrtd[:], "MRTD in text": []byte(hex.EncodeToString(mrtd[:])), "the quote's vendor": []byte("intel"), "the TEE": []byte("softtee (insecure)")}
				for _, cmw := range slices.Concat(ofServer.shown, ofClient.shown) {
					if !bytes.Contains(cmw, mrtd[:]) && !tt.conf.ResultsOnly {
						t.Fatal("the evidence has no MRTD to look for")
					}
					for i := 0; i+64 <= len(cmw); i += 64 {
						secrets[fmt.Sprintf("bytes %d of what was shown", i)] = cmw[i : i+64]
					}
				}
				for what, b := range secrets {
					if bytes.Contains(sent, b) || bytes.Contains(received, b) {
						t.Errorf("an observer sees %s", what)
					}
				}
				for _, b := range [][]byte{[]byte("application/"), []byte(issuer.Identity())} {
					if bytes.Contains(received, b) || bytes.Contains(sent[hello:], b) || tt.conf.Mode == tls.PostHandshake && bytes.Contains(sent, b) {
						t.Errorf("an observer sees %q outside of the offers", b)
					}
				}
			})
		}
	}
}
