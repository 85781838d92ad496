package attack

import (
	"bytes"
	"testing"

	"github.com/attestedtls/atls/internal/fuzzbound"
)

// What the attacker writes, it reads again, and nothing shorter.
func TestHellosSurvive(t *testing.T) {
	key := newKey()
	client := clientHello(nameServer, key, extension{codePoints.EvidenceRequest, []byte{1, 2, 3}})
	server := serverHello(client, key.PublicKey().Bytes())
	for _, tt := range []struct {
		name  string
		msg   []byte
		write func(*hello) []byte
	}{
		{"ClientHello", client.client(), (*hello).client},
		{"ServerHello", server.server(), (*hello).server},
	} {
		h, err := parseHello(tt.msg)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got := tt.write(h); !bytes.Equal(got, tt.msg) {
			t.Errorf("%s: %x, want %x", tt.name, got, tt.msg)
		}
		if share, err := h.keyShare(tt.name == "ServerHello"); err != nil || !bytes.Equal(share, key.PublicKey().Bytes()) {
			t.Errorf("%s: key share %x, %v", tt.name, share, err)
		}
		for n := range tt.msg {
			if _, err := parseHello(tt.msg[:n]); err == nil {
				t.Fatalf("%s: a prefix of %d bytes parses", tt.name, n)
			}
		}
		if _, err := parseHello(append(bytes.Clone(tt.msg), 0)); err == nil {
			t.Errorf("%s: a trailing byte parses", tt.name)
		}
	}
}

func TestCertificateSurvives(t *testing.T) {
	entries := []entry{{[]byte("leaf"), []extension{{1, []byte("a")}, {2, nil}}}, {[]byte("issuer"), nil}}
	got, err := parseCertificate(certificate(entries...))
	if err != nil || len(got) != 2 || string(got[0].data) != "leaf" || len(got[0].exts) != 2 || string(got[1].data) != "issuer" {
		t.Errorf("%v, %v", got, err)
	}
}

// FuzzMessages: what comes over the wire must not make the attacker panic.
func FuzzMessages(f *testing.F) {
	key := newKey()
	client := clientHello(nameServer, key)
	for _, msg := range [][]byte{
		client.client(), serverHello(client, key.PublicKey().Bytes()).server(),
		certificate(entry{[]byte("leaf"), []extension{{1, []byte("a")}}}), encryptedExtensions([]extension{{1, nil}}),
	} {
		f.Add(msg)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		if h, err := parseHello(b); err == nil {
			h.keyShare(false)
			h.keyShare(true)
			challenge(h)
		}
		parseCertificate(b)
		parseEncryptedExtensions(b)
		for _, m := range plainHandshake(b) {
			if len(m) < handshakeHeader || len(m) > len(b) {
				t.Errorf("a message of %d bytes out of %d", len(m), len(b))
			}
		}
	})
}
