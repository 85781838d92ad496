package tls

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// clientFirst returns a client and a server that attest to each other after the
// handshake, the client first.
func clientFirst(carriage AttestationCarriage) (client, server *Config) {
	client, server = exchanging(PostHandshake)
	for _, a := range []*AttestationConfig{client.Attestation, server.Attestation} {
		a.ClientFirst, a.Carriage = true, carriage
	}
	return client, server
}

// steps is in which order things were done.
type steps struct {
	mu   sync.Mutex
	done []string
}

func (s *steps) did(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = append(s.done, what)
}

// attesting and appraising return an honest stub that says when it is called.
func (s *steps) attesting(who string) *stubTEE {
	return &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
		s.did(who + " attests")
		return (&stubTEE{}).honest(req.Challenge)
	}}
}

func (s *steps) appraising(who string) *stubTEE {
	return &stubTEE{appraise: func(ctx context.Context, ev *attestext.Evidence, ch *attestext.Challenge) (*attestext.Appraisal, error) {
		s.did(who + " appraises")
		return (&stubTEE{}).Appraise(ctx, ev, ch)
	}}
}

func (s *steps) verifying(who string) func(ConnectionState) error {
	return func(cs ConnectionState) error {
		if !cs.PeerAttestation.Valid() {
			return errors.New("no verdict")
		}
		s.did(who + " verifies")
		return nil
	}
}

var bothCarriages = []AttestationCarriage{CarriageLeading, CarriagePostHandshake}

// TestEndThatAttestsSecondHasAcceptedItsPeerBefore: VerifyConnection included, in
// either order; and then both ends attest again as they are asked.
func TestEndThatAttestsSecondHasAcceptedItsPeerBefore(t *testing.T) {
	inOrder := func(first, second string) []string {
		return []string{first + " attests", second + " appraises", second + " verifies", second + " attests", first + " appraises", first + " verifies"}
	}
	for _, tt := range product3(bothCarriages, []bool{false, true}, []bool{false, true}) {
		carriage, clientAgrees, serverInsists := tt.a, tt.b, tt.c
		if serverInsists && !clientAgrees {
			continue // see TestServerShowsNothingToAClientThatItRefuses
		}
		client, server := clientFirst(carriage)
		client.Attestation.ClientFirst, server.Attestation.ClientFirst = clientAgrees, serverInsists
		var s steps
		client.Attestation.Attester, server.Attestation.Attester = s.attesting("client"), s.attesting("server")
		client.Attestation.Verifier, server.Attestation.Verifier = s.appraising("client"), s.appraising("server")
		client.VerifyConnection, server.VerifyConnection = s.verifying("client"), s.verifying("server")
		want := inOrder("server", "client")
		if serverInsists {
			want = inOrder("client", "server")
		}
		cli, srv := established(t, client, server)
		if !slices.Equal(s.done, want) {
			t.Errorf("%v, %v, %v: %q, want %q", carriage, clientAgrees, serverInsists, s.done, want)
		}
		checkExchange(t, srv, cli, true, PostHandshake, attestext.BackgroundCheck)
		checkExchange(t, cli, srv, true, PostHandshake, attestext.BackgroundCheck)
		if carriage == CarriageLeading {
			continue
		}
		echo(srv)
		if err := cli.Reattest(t.Context()); err != nil {
			t.Errorf("the client asks again: %v", err)
		}
		go cli.Read(make([]byte, 1))
		if err := srv.Reattest(t.Context()); err != nil {
			t.Errorf("the server asks again: %v", err)
		}
	}
}

// TestServerShowsNothingToAClientThatItRefuses: with ClientFirst a server makes no
// Evidence for such a client, whatever is wrong with it, and both ends learn of it at
// once.
func TestServerShowsNothingToAClientThatItRefuses(t *testing.T) {
	for _, carriage := range bothCarriages {
		for _, tt := range []struct {
			name   string
			change func(client, server *Config)
			class  error  // of the server's error
			says   string // in the client's, if it knows
		}{
			{"it holds back as well", func(client, _ *Config) { client.Attestation.ClientFirst = false }, exportedauth.ErrRefused, "ClientFirst is not set here"},
			{"it does not attest", func(client, _ *Config) { client.Attestation.Attester = nil }, exportedauth.ErrRefused, "certificate required"},
			{"it does not speak", func(client, _ *Config) { client.Attestation = nil }, nil, ""},
			{"its attester fails", func(client, _ *Config) {
				client.Attestation.Attester = &stubTEE{attest: func(context.Context, *attestext.AttestRequest) ([]byte, error) { return nil, errDown }}
			}, exportedauth.ErrRefused, "down"},
			{"its evidence is of another connection", func(client, _ *Config) {
				client.Attestation.Attester = &stubTEE{attest: func(_ context.Context, req *attestext.AttestRequest) ([]byte, error) {
					ch := *req.Challenge
					ch.Binder = make([]byte, len(ch.Binder))
					return (&stubTEE{}).honest(&ch)
				}}
			}, attestext.ErrBinding, "bad certificate"},
			{"the policy says no", func(_, server *Config) {
				server.Attestation.Verifier = &stubTEE{appraise: func(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error) {
					return nil, attestext.Errorf(attestext.ErrPolicy, "test", "no")
				}}
			}, attestext.ErrPolicy, "access denied"},
			{"its certificate is of another CA", func(client, _ *Config) { client.Certificates = []Certificate{selfSigned(t)} }, exportedauth.ErrBadCertificate, "bad certificate"},
			{"it has no certificate", func(client, _ *Config) { client.Certificates = nil }, nil, "needs an identity"},
			{"VerifyConnection says no", func(_, server *Config) {
				server.VerifyConnection = func(ConnectionState) error { return errDown }
			}, errDown, "bad certificate"},
		} {
			t.Run(fmt.Sprintf("%v, %s", carriage, tt.name), func(t *testing.T) {
				t.Parallel()
				client, server := clientFirst(carriage)
				var s steps
				server.Attestation.Attester = s.attesting("server")
				tt.change(client, server)
				ends := attestHandshake(t, client, server)
				if ends.serverErr == nil || !errors.Is(ends.serverErr, tt.class) && tt.class != nil {
					t.Errorf("server: %v", ends.serverErr)
				}
				if ends.clientErr == nil || !strings.Contains(ends.clientErr.Error(), tt.says) {
					t.Errorf("client: %v", ends.clientErr)
				}
				if len(s.done) != 0 {
					t.Error("the server made evidence")
				}
			})
		}
	}
}

// TestServerShowsEvidenceToACertifiedClient: where ClientFirst goes with a certificate in
// place of attestation, a client that need not attest gets the server's Evidence, and
// one without the certificate does not.
func TestServerShowsEvidenceToACertifiedClient(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(client, server *Config)
		passes bool
	}{
		{"nobody asks the client", func(client, server *Config) { server.Attestation.Verifier = nil }, true},
		{"it need not attest", func(client, server *Config) { server.Attestation.Peer = RequestAttestation }, true},
		{"of another CA", func(client, server *Config) {
			server.Attestation.Verifier, client.Certificates = nil, []Certificate{selfSigned(t)}
		}, false},
		{"without a certificate", func(client, server *Config) {
			server.Attestation.Peer, client.Certificates = RequestAttestation, nil
		}, false},
	} {
		client, server := clientFirst(CarriageAuto)
		client.Attestation.Attester = nil
		server.ClientAuth = RequireAndVerifyClientCert
		var s steps
		server.Attestation.Attester = s.attesting("server")
		tt.change(client, server)
		ends := attestHandshake(t, client, server)
		if passed := ends.clientErr == nil && ends.serverErr == nil; passed != tt.passes || passed != (len(s.done) == 1) {
			t.Errorf("%s: client: %v, server: %v, %q", tt.name, ends.clientErr, ends.serverErr, s.done)
		}
	}
}

// TestClientFirstNeedsAClientThatIsKnown: a server that would show its Evidence to
// anybody does not start a handshake.
func TestClientFirstNeedsAClientThatIsKnown(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(server *Config)
		ok     bool
	}{
		{"attestation is required", func(*Config) {}, true},
		{"it is requested", func(c *Config) { c.Attestation.Peer = RequestAttestation }, false},
		{"nobody asks", func(c *Config) { c.Attestation.Verifier = nil }, false},
		{"a certificate if there is one", func(c *Config) { c.Attestation.Verifier, c.ClientAuth = nil, VerifyClientCertIfGiven }, false},
		{"a certificate of anybody", func(c *Config) { c.Attestation.Verifier, c.ClientAuth = nil, RequireAnyClientCert }, false},
		{"a certificate is required", func(c *Config) { c.Attestation.Verifier, c.ClientAuth = nil, RequireAndVerifyClientCert }, true},
		{"there is nothing to show", func(c *Config) { c.Attestation.Attester, c.Attestation.Peer = nil, RequestAttestation }, true},
	} {
		_, server := clientFirst(CarriageAuto)
		tt.change(server)
		c := Server(nil, server)
		if err := c.attestValidate(); (err == nil) != tt.ok || err != nil && !strings.Contains(err.Error(), "any client may see") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestResultsOnlyShowsNoEvidence: an end that could make Evidence shows results and
// nothing else, in either role, mode and form; a peer that wants Evidence is
// told that there is none.
func TestResultsOnlyShowsNoEvidence(t *testing.T) {
	never := &stubTEE{attest: func(context.Context, *attestext.AttestRequest) ([]byte, error) {
		t.Error("evidence was made")
		return nil, errDown
	}}
	for _, form := range []struct {
		mode AttestationMode
		form AttestationForm
		deny alert // of a server, for a client that wants Evidence
	}{
		{InHandshake, FormTLSAttest, alert(testCodePoints.UnsupportedEvidence)},
		{InHandshake, FormEarly, alert(testCodePoints.UnsupportedAttestationSchemes)},
		{InHandshake, FormEarly03, alert(testCodePoints.UnsupportedEvidence)},
		{Combined, FormTLSAttest, alert(testCodePoints.UnsupportedEvidence)},
		{PostHandshake, FormTLSAttest, 0},
	} {
		for _, d := range exchangeDirections[:2] {
			client, server := exchanging(form.mode)
			d.configure(client, server)
			attests, asks := server, client
			if d.client {
				attests, asks = client, server
			}
			client.Attestation.Form, server.Attestation.Form = form.form, form.form
			attests.Attestation.Attester, attests.Attestation.Results, attests.Attestation.ResultsOnly = never, &stubResults{}, true

			name := fmt.Sprintf("%v, %v, %s", form.mode, form.form, d.name)
			ends := attestHandshake(t, client, server)
			refuses := ends.server
			if d.client {
				refuses = ends.client
			}
			if ends.clientErr == nil || ends.serverErr == nil {
				t.Errorf("%s: a peer that wants evidence: client: %v, server: %v", name, ends.clientErr, ends.serverErr)
			}
			if a, _ := refuses.AlertSent(); d.server && alert(a) != form.deny {
				t.Errorf("%s: alert %v: %v", name, a, ends.serverErr)
			}
			if form.deny != 0 && d.server && !strings.Contains(ends.serverErr.Error(), "this server has results by") {
				t.Errorf("%s: %v", name, ends.serverErr)
			}

			if form.mode == InHandshake {
				asks.Attestation.ResultsVerifier = &stubResults{} // beside the Verifier
			} else {
				asks.Attestation.Verifier, asks.Attestation.ResultsVerifier = nil, &stubResults{}
			}
			ends = attestHandshake(t, client, server)
			if ends.clientErr != nil || ends.serverErr != nil {
				t.Fatalf("%s: client: %v, server: %v", name, ends.clientErr, ends.serverErr)
			}
			relies := ends.client
			if d.client {
				relies = ends.server
			}
			if r := relies.ConnectionState().PeerAttestation; !r.Valid() || r.Model() != attestext.Passport {
				t.Errorf("%s: %+v", name, r)
			}

			if d.server && form.form == FormTLSAttest && form.mode == InHandshake {
				server.Attestation.Results = &stubResults{verifiers: []attestext.VerifierIdentity{"other.example"}}
				ends = attestHandshake(t, client, server)
				if a, _ := ends.server.AlertSent(); alert(a) != alert(testCodePoints.UnsupportedVerifiers) {
					t.Errorf("%s: no verifier in common: alert %v", name, a)
				}
			}

			// Results that are gone are no reason to fall back.
			attests.Attestation.Results = &stubResults{verifiers: []attestext.VerifierIdentity{}}
			if ends = attestHandshake(t, client, server); ends.clientErr == nil {
				t.Errorf("%s: accepted without a result", name)
			}
		}
	}
}
