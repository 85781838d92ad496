package tls

import (
	"bytes"
	"testing"

	"github.com/attestedtls/atls/internal/fuzzbound"
)

// certificateWithEvidence is an encoded Certificate message with an extension.
func certificateWithEvidence(t testing.TB, evidence []byte) []byte {
	t.Helper()
	m := &certificateMsgTLS13{certificate: Certificate{
		Certificate: [][]byte{[]byte("leaf"), []byte("intermediate")},
		OCSPStaple:  []byte("staple"),
	}, ocspStapling: true}
	m.attest.send = []attestExtension{{0xffa0, evidence}}
	b, err := m.marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCertificateMessageRoundTripsEvidence(t *testing.T) {
	b := certificateWithEvidence(t, []byte("evidence"))
	var m certificateMsgTLS13
	if !m.unmarshal(b) {
		t.Fatal("does not parse")
	}
	if len(m.attest.received) != 1 || m.attest.received[0].entry != 0 || m.attest.received[0].typ != 0xffa0 || string(m.attest.received[0].data) != "evidence" {
		t.Errorf("%+v", m.attest.received)
	}
	if len(m.certificate.Certificate) != 2 || string(m.certificate.OCSPStaple) != "staple" {
		t.Errorf("the rest is lost: %+v", m.certificate)
	}
	if !bytes.Equal(joinCertificate(splitCertificate(b)), b) {
		t.Error("the message is not canonical")
	}
	for n := range b {
		if new(certificateMsgTLS13).unmarshal(b[:n]) {
			t.Errorf("the first %d of %d bytes parse", n, len(b))
		}
	}
	if new(certificateMsgTLS13).unmarshal(append(b, 0)) {
		t.Error("a trailing byte is accepted")
	}
}

// Evidence beside a certificate may fill the extensions to the last byte, and what
// else is in them counts.
func TestEvidenceFillsTheExtensionsToTheLastByte(t *testing.T) {
	for _, tt := range []struct {
		staple []byte
		scts   [][]byte
	}{
		{nil, nil},
		{make([]byte, 500), [][]byte{make([]byte, 100), make([]byte, 20)}},
	} {
		m := &certificateMsgTLS13{
			certificate:  Certificate{Certificate: [][]byte{[]byte("leaf")}, OCSPStaple: tt.staple, SignedCertificateTimestamps: tt.scts},
			ocspStapling: tt.staple != nil, scts: tt.scts != nil,
		}
		room := maxExtensions - m.firstEntryExtensions() - 4
		for over := range 2 {
			m.attest.send = []attestExtension{{0xffa0, make([]byte, room+over)}}
			if got := m.firstEntryExtensions() - maxExtensions; got != over {
				t.Errorf("%d bytes over, want %d", got, over)
			}
			if _, err := m.marshal(); (err == nil) != (over == 0) {
				t.Errorf("%d bytes over: %v", over, err)
			}
		}
	}
}

func TestCertificateMessageWithoutAnEntryHasNoRoomForEvidence(t *testing.T) {
	m := &certificateMsgTLS13{}
	m.attest.send = []attestExtension{{0xffa0, []byte("x")}}
	if b, err := m.marshal(); err == nil {
		t.Errorf("%x", b)
	}
}

func TestHelloExtensionsKeepTheirOrder(t *testing.T) {
	client, _ := attesting()
	client.Attestation.Attester = &stubTEE{}
	c := Client(nil, client)
	hello, _, _, err := c.makeClientHello()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.attestClientHello(hello); err != nil {
		t.Fatal(err)
	}
	b, err := hello.marshal()
	if err != nil {
		t.Fatal(err)
	}
	types := negotiationExtensions(testCodePoints)
	if got := helloExtensions(b, types); !sameExtensions(got, hello.attest.extensions) || len(got) != 2 {
		t.Errorf("%+v", got)
	}
	// What has not been parsed before is no reason to panic either.
	for n := range b {
		helloExtensions(b[:n], types)
	}
}

// FuzzAttestationMessages: no bytes from a peer make a reader of this package
// panic, and what the Certificate reader keeps is in the message.
func FuzzAttestationMessages(f *testing.F) {
	f.Add(certificateWithEvidence(f, []byte("evidence")))
	client, _ := attesting()
	c := Client(nil, client)
	hello, _, _, err := c.makeClientHello()
	if err != nil {
		f.Fatal(err)
	}
	if err := c.attestClientHello(hello); err != nil {
		f.Fatal(err)
	}
	b, err := hello.marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	sh, err := (&serverHelloMsg{vers: VersionTLS12, random: make([]byte, 32), supportedVersion: VersionTLS13}).marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(appendToServerHello(sh, []attestExtension{{0xffa1, []byte{1, 0, 1, 17}}}))
	ee := &encryptedExtensionsMsg{}
	ee.attest.keep(0xffa1, []byte{1, 0, 1, 17})
	eb, err := ee.marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(eb)
	types := negotiationExtensions(testCodePoints)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		var cert certificateMsgTLS13
		if cert.unmarshal(b) {
			for _, e := range cert.attest.received {
				if e.entry >= len(cert.certificate.Certificate) || !bytes.Contains(b, e.data) {
					t.Errorf("extension %+v is not in the message", e)
				}
			}
		}
		new(encryptedExtensionsMsg).unmarshal(b)
		for _, e := range helloExtensions(b, types) {
			if !bytes.Contains(b, e.data) {
				t.Errorf("extension %+v is not in the message", e)
			}
		}
	})
}
