package tls

import (
	"bytes"
	"testing"

	"github.com/attestedtls/atls/attestext"
)

var onlyKind = []attestext.CredentialKind{attestext.AttestationOnly}

// TestServerAttests is the way that everything goes when nobody errs.
//
// Hooks: config-field, conn-field, connection-state, connection-state-fill, client-hello-field, client-hello-marshal.
// Hooks: encrypted-extensions-field, encrypted-extensions-marshal, encrypted-extensions-unmarshal.
// Hooks: certificate-field, certificate-marshal, certificate-unmarshal.
// Hooks: client-offer, client-exporter, client-parameters, client-certificate, client-appraise.
// Hooks: server-negotiate, server-exporter, server-parameters, server-evidence.
func TestServerAttests(t *testing.T) {
	for _, binding := range []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08} {
		client, server := attestConfigs()
		client.Attestation = &AttestationConfig{Verifier: &stubTEE{}, PeerBinding: binding}
		server.Attestation = &AttestationConfig{Attester: &stubTEE{}, Binding: binding}
		ends := attestHandshake(t, client, server)
		if ends.clientErr != nil || ends.serverErr != nil {
			t.Fatalf("client %v, server %v", ends.clientErr, ends.serverErr)
		}
		checkAttested(t, ends, attestext.CertAttestation, binding)
	}
}

// checkAttested checks what the ends of a connection whose server attested say of it.
func checkAttested(t *testing.T, ends *attestEnds, kind attestext.CredentialKind, binding attestext.Binding) {
	t.Helper()
	cs, ss := ends.client.ConnectionState(), ends.server.ConnectionState()
	r := cs.PeerAttestation
	if !r.Valid() || r.Kind() != kind || r.Binding() != binding || r.Model() != attestext.BackgroundCheck {
		t.Fatalf("client's view of the server: %+v", r)
	}
	if cs.LocalAttestation != nil || ss.PeerAttestation != nil {
		t.Error("the client attested as well")
	}
	if ss.LocalAttestation == nil {
		t.Fatal("the server does not know that it attested")
	}
	rc, lc := r.Challenge(), ss.LocalAttestation.Challenge
	if !bytes.Equal(rc.Nonce, lc.Nonce) || !bytes.Equal(rc.Binder, lc.Binder) || len(rc.Nonce) != 32 {
		t.Errorf("the ends disagree: %+v, %+v", rc, lc)
	}
	want := rc.Binder
	if kind == attestext.AttestationOnly && binding == attestext.BindingDraft08 {
		want = rc.Nonce
	}
	if len(rc.Binder) != 32 || !bytes.Equal(rc.Value(), want) {
		t.Errorf("the challenge is %x, want %x", rc.Value(), want)
	}
	if !bytes.Equal(r.Key(), lc.SPKI) || len(r.Key()) == 0 {
		t.Error("the attested key is not that of the server")
	}
}

// Hooks: server-key, client-verify-algorithm, client-verify-key.
func TestServerAttestsWithoutACertificate(t *testing.T) {
	for _, binding := range []attestext.Binding{attestext.BindingHardened, attestext.BindingDraft08} {
		client, server := attestConfigs()
		server.Certificates = nil
		client.Attestation = &AttestationConfig{Verifier: &stubTEE{}, PeerCredentials: onlyKind, PeerBinding: binding, AllowAttestationOnly: true}
		server.Attestation = &AttestationConfig{Attester: &stubTEE{}, Credentials: onlyKind, Binding: binding, AllowAttestationOnly: true}
		ends := attestHandshake(t, client, server)
		if ends.clientErr != nil || ends.serverErr != nil {
			t.Fatalf("client %v, server %v", ends.clientErr, ends.serverErr)
		}
		checkAttested(t, ends, attestext.AttestationOnly, binding)
		if n := len(ends.client.ConnectionState().PeerCertificates); n != 0 {
			t.Errorf("%d peer certificates", n)
		}
	}
}
