package tls

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/attestedtls/atls/attestext"
)

// A productSetting is what one end is configured for in one direction.
type productSetting struct {
	kind    attestext.CredentialKind
	binding attestext.Binding
}

func (s productSetting) String() string { return fmt.Sprintf("%v, %v", s.kind, s.binding) }

// A productDirection is one direction of attestation: who attests and who relies
// on it are configured apart, for nothing in the draft makes them agree.
type productDirection struct {
	attests          bool
	model            attestext.Model
	attester, relies productSetting
}

func (d productDirection) String() string {
	switch {
	case !d.attests:
		return "nothing"
	case d.attester == d.relies:
		return fmt.Sprintf("%v, %v", d.model, d.attester)
	}
	return fmt.Sprintf("%v, %v asked for %v", d.model, d.attester, d.relies)
}

// The axes of the product. An end that does not attest is the one further value
// of each direction.
var (
	productModels   = []attestext.Model{attestext.BackgroundCheck, attestext.Passport}
	productKinds    = []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly}
	productBindings = []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08}
	productCarriers = []string{"TCP", "QUIC"}
	productRetries  = []bool{false, true}
)

// productDirections lists the values of one direction.
func productDirections() []productDirection {
	var settings []productSetting
	for _, k := range productKinds {
		for _, b := range productBindings {
			settings = append(settings, productSetting{k, b})
		}
	}
	all := []productDirection{{}}
	for _, m := range productModels {
		for _, a := range settings {
			for _, r := range settings {
				all = append(all, productDirection{true, m, a, r})
			}
		}
	}
	return all
}

// configure puts a direction into the configurations of the end that attests and
// of the one that relies on it.
func (d productDirection) configure(attester, relies *Config) {
	if !d.attests {
		return
	}
	for _, c := range []*Config{attester, relies} {
		if c.Attestation == nil {
			c.Attestation = &AttestationConfig{AllowAttestationOnly: true}
		}
	}
	a, r := attester.Attestation, relies.Attestation
	a.Credentials, a.Binding = []attestext.CredentialKind{d.attester.kind}, d.attester.binding
	r.PeerCredentials, r.PeerBinding = []attestext.CredentialKind{d.relies.kind}, d.relies.binding
	if d.model == attestext.BackgroundCheck {
		a.Attester, r.Verifier = &stubTEE{}, &stubTEE{}
		return
	}
	results := &stubResults{}
	if d.attester == (productSetting{attestext.CertAttestation, attestext.BindingDraft08}) {
		results.key = []byte{} // the draft does not ask a result for the certificate's key
	}
	a.Results, r.ResultsVerifier = results, &stubResults{}
}

// A productOutcome is what becomes of a handshake: the end that refuses it, zero
// if it is accepted, with which alert and at what stage.
type productOutcome struct {
	by    attestext.Role
	alert alert
	stage string
	class error
}

// productRules are the outcomes of a single direction, first match first. relies
// is the role of the end that relies on the Evidence.
var productRules = []struct {
	name string
	when func(d productDirection) bool
	then func(relies attestext.Role) productOutcome
}{
	{"evidence of one kind of credential is asked of an end that has another: the server finds nothing in common",
		func(d productDirection) bool {
			return d.model == attestext.BackgroundCheck && d.attester.kind != d.relies.kind
		},
		func(attestext.Role) productOutcome {
			return productOutcome{attestext.RoleServer, alert(testCodePoints.UnsupportedEvidence), AttestationStageNegotiate, nil}
		}},
	{"results do not negotiate the credential: one in place of a certificate has nothing beside it",
		func(d productDirection) bool {
			return d.attester.kind != d.relies.kind && d.relies.kind == attestext.CertAttestation
		},
		func(relies attestext.Role) productOutcome {
			if relies == attestext.RoleServer {
				return productOutcome{relies, alertCertificateRequired, AttestationStageCertificate, nil}
			}
			return productOutcome{relies, alertHandshakeFailure, AttestationStageCertificate, nil}
		}},
	{"and one beside a certificate is in an extension that was not asked for",
		func(d productDirection) bool { return d.attester.kind != d.relies.kind },
		func(relies attestext.Role) productOutcome {
			return productOutcome{relies, alertUnsupportedExtension, AttestationStageCertificate, nil}
		}},
	{"evidence is bound by another rule",
		func(d productDirection) bool {
			return d.model == attestext.BackgroundCheck && d.attester.binding != d.relies.binding
		},
		func(relies attestext.Role) productOutcome {
			return productOutcome{relies, alertBadCertificate, AttestationStageAppraise, attestext.ErrBinding}
		}},
	{"a result beside a certificate names no key, and the hardened rule wants the certificate's",
		func(d productDirection) bool {
			return d.model == attestext.Passport && d.relies.kind == attestext.CertAttestation &&
				d.attester.binding == attestext.BindingDraft08 && d.relies.binding == attestext.BindingHardened
		},
		func(relies attestext.Role) productOutcome {
			return productOutcome{relies, alertBadCertificate, AttestationStageAppraise, attestext.ErrBinding}
		}},
	{"all else is accepted; of a result, the rule of the end that relies on it is the only one",
		func(productDirection) bool { return true },
		func(attestext.Role) productOutcome { return productOutcome{} }},
}

func (d productDirection) outcome(relies attestext.Role) productOutcome {
	if !d.attests {
		return productOutcome{}
	}
	for _, r := range productRules {
		if r.when(d) {
			return r.then(relies)
		}
	}
	panic("no rule")
}

// productExpected is the outcome of a handshake: what the negotiation refuses comes
// first, then the server's Certificate, then the client's.
func productExpected(server, client productDirection) productOutcome {
	s, c := server.outcome(attestext.RoleClient), client.outcome(attestext.RoleServer)
	for _, o := range []productOutcome{s, c} {
		if o.stage == AttestationStageNegotiate {
			return o
		}
	}
	if s.by != 0 {
		return s
	}
	return c
}

// TestEveryMode runs a handshake for each way in which the server, the client,
// both or neither attest, in each model, with each credential and under each
// binding rule, either end's settings chosen apart from the other's and one
// direction's apart from the other's, over TCP and QUIC, with and without a
// HelloRetryRequest; and then each of the modes after the handshake, over the fork and
// over crypto/tls, and by package exportedauth over QUIC; and both forms of the early
// draft, alone and in Combined.
//
// Requirements: 4-2, 5-1, 6.2-1, 6.2-2, 6.2.1-2, 6.2.1-3.
// Requirements: 8.1.1-1, 8.1.2-1, 8.1.2-3, 8.2.1-1, 8.2.2-1, 8.2.2-3.
func TestEveryMode(t *testing.T) {
	directions := productDirections()
	var mu sync.Mutex
	cells, accepted := 0, 0
	t.Run("server", func(t *testing.T) {
		for _, server := range directions {
			t.Run(server.String(), func(t *testing.T) {
				t.Parallel()
				n, ok := 0, 0
				for _, client := range directions {
					for _, carrier := range productCarriers {
						for _, retry := range productRetries {
							n++
							if productCell(t, server, client, carrier, retry) {
								ok++
							}
						}
					}
				}
				mu.Lock()
				defer mu.Unlock()
				cells, accepted = cells+n, accepted+ok
			})
		}
	})
	t.Run("after the handshake", func(t *testing.T) {
		n, ok := productAfterHandshake(t)
		if want := 3*9*9*2 + 2*9*3*2 + 3*9*2; n != want {
			t.Errorf("%d cells, want %d", n, want)
		}
		t.Logf("%d cells, %d accepted and %d refused as the rules say", n, ok, n-ok)
		t.Attr("cells", strconv.Itoa(n))
	})
	t.Run("early", func(t *testing.T) {
		n := productEarly(t)
		if want := len(earlyForms) * 3 * (len(productModels)*len(productCarriers)*len(productRetries) + len(productRetries)); n != want {
			t.Errorf("%d cells, want %d", n, want)
		}
		t.Attr("cells", strconv.Itoa(n))
	})
	settings := len(productKinds) * len(productBindings)
	direction := 1 + len(productModels)*settings*settings
	if want := direction * direction * len(productCarriers) * len(productRetries); cells != want {
		t.Errorf("%d cells, want %d", cells, want)
	}
	t.Logf("%d cells, %d accepted and %d refused as the rules say", cells, accepted, cells-accepted)
	t.Attr("cells", strconv.Itoa(cells))
}

// productCell runs one handshake and holds it against the rules. It returns
// whether both ends accepted.
func productCell(t *testing.T, server, client productDirection, carrier string, retry bool) bool {
	name := fmt.Sprintf("server: %v; client: %v; %s; retry %v", server, client, carrier, retry)
	cc, sc := attestConfigs()
	server.configure(sc, cc)
	client.configure(cc, sc)
	if retry {
		sc.CurvePreferences = []CurveID{CurveP256}
	}
	ends := &attestEnds{}
	var cli, srv *testQUICConn
	if carrier == "QUIC" {
		var err error
		cli, srv, err = attestQUIC(t, cc, sc)
		ends.client, ends.server = cli.conn.conn, srv.conn.conn
		if _, ok := ends.server.AlertSent(); ok {
			ends.serverErr = err
		} else {
			ends.clientErr = err
		}
		defer cli.conn.Close()
		defer srv.conn.Close()
	} else {
		ends = attestHandshake(t, cc, sc)
	}
	want := productExpected(server, client)
	if want.by == 0 {
		if ends.clientErr != nil || ends.serverErr != nil {
			t.Errorf("%s: client %v, server %v; want success", name, ends.clientErr, ends.serverErr)
			return true
		}
		checkProduct(t, name+": the server's", server, ends.server, ends.client, attestext.RoleServer)
		checkProduct(t, name+": the client's", client, ends.client, ends.server, attestext.RoleClient)
		if s := ends.client.ConnectionState(); s.HelloRetryRequest != retry || s.DidResume {
			t.Errorf("%s: HelloRetryRequest %v, resumed %v", name, s.HelloRetryRequest, s.DidResume)
		}
		return true
	}
	victim, err, other := ends.client, ends.clientErr, ends.server
	if want.by == attestext.RoleServer {
		victim, err, other = ends.server, ends.serverErr, ends.client
	}
	if a, ok := victim.AlertSent(); !ok || alert(a) != want.alert {
		t.Errorf("%s: %v sent alert %v (%v), want %v; client %v, server %v", name, want.by, a, ok, want.alert, ends.clientErr, ends.serverErr)
	}
	if a, ok := other.AlertSent(); ok {
		t.Errorf("%s: the other end sent alert %v as well", name, a)
	}
	var ae *AttestationError
	if !errors.As(err, &ae) || ae.Stage != want.stage || want.class != nil && !errors.Is(err, want.class) {
		t.Errorf("%s: error %v is not of stage %s and class %v", name, err, want.stage, want.class)
	}
	if carrier == "QUIC" { // which carries alerts and data by itself
		q := cli
		if want.by == attestext.RoleServer {
			q = srv
		}
		_, reads := q.readSecret[QUICEncryptionLevelApplication]
		if _, writes := q.writeSecret[QUICEncryptionLevelApplication]; reads || writes {
			t.Errorf("%s: %v refused and has secrets for application data: reads %v, writes %v", name, want.by, reads, writes)
		}
		return false
	}
	if a, ok := other.AlertReceived(); !ok || alert(a) != want.alert {
		t.Errorf("%s: the other end heard alert %v (%v), want %v", name, a, ok, want.alert)
	}
	// Whoever relies and has not accepted moves nothing.
	if n, err := victim.Write([]byte("x")); err == nil || n != 0 {
		t.Errorf("%s: %v writes %d bytes after it refused: %v", name, want.by, n, err)
	}
	return false
}

// checkProduct checks what the ends of a successful handshake say of one direction.
func checkProduct(t *testing.T, name string, d productDirection, attester, relies *Conn, role attestext.Role) {
	local, result := attester.ConnectionState().LocalAttestation, relies.ConnectionState().PeerAttestation
	if !d.attests {
		if local != nil || result != nil {
			t.Errorf("%s: attested, and was not to: %+v, %+v", name, local, result)
		}
		return
	}
	if local == nil || !result.Valid() {
		t.Errorf("%s: not attested: %+v, %+v", name, local, result)
		return
	}
	ch := result.Challenge()
	if result.Model() != d.model || result.Kind() != d.relies.kind || result.Binding() != d.relies.binding || ch.Role != role {
		t.Errorf("%s: attested as %+v", name, ch)
	}
	if local.Challenge.Model != d.model || local.Challenge.Kind != d.attester.kind || local.Challenge.Binding != d.attester.binding || local.Challenge.Role != role {
		t.Errorf("%s: attested for %+v", name, local.Challenge)
	}
	if !bytes.Equal(ch.Nonce, local.Challenge.Nonce) || !bytes.Equal(ch.Binder, local.Challenge.Binder) {
		t.Errorf("%s: the ends disagree: %+v, %+v", name, ch, local.Challenge)
	}
	if (d.model == attestext.Passport) != (ch.Nonce == nil && ch.Binder == nil) {
		t.Errorf("%s: %v with the challenge %+v", name, d.model, ch)
	}
	certs := len(relies.ConnectionState().PeerCertificates)
	if (d.relies.kind == attestext.CertAttestation) != (certs == 1) {
		t.Errorf("%s: %d certificates", name, certs)
	}
	key := local.Challenge.SPKI
	switch {
	case d.relies.kind == attestext.AttestationOnly && !bytes.Equal(result.Key(), key):
		t.Errorf("%s: another key", name)
	case d.relies.binding == attestext.BindingHardened && !bytes.Equal(result.Key(), key):
		t.Errorf("%s: the hardened rule covers another key", name)
	}
}
