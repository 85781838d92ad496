package interop

import (
	"strings"
	"testing"
)

// Handshakes with Scapy as the client.
const (
	recordedEarly   = "testdata/early.both.hrr.pcapng"
	recordedEarly03 = "testdata/early-03.both.aes256.pcapng"
)

// TestVerdictOnRecordedEarlyHandshakes judges handshakes of both revisions by many cases,
// and after a change of a message that only the binder covers.
func TestVerdictOnRecordedEarlyHandshakes(t *testing.T) {
	const binder = "does not carry the binder"
	change := func(from side, typ uint8) func(*conversation) {
		return func(c *conversation) {
			m := c.first(from, typ, 0)
			m.data[len(m.data)-1] ^= 1
		}
	}
	random := func(c *conversation) { c.first(client, typeClientHello, 1).data[10] ^= 1 }
	for _, tt := range []struct {
		file, id string
		change   func(*conversation)
		says     string // what is wrong; empty if nothing
	}{
		{recordedEarly, "early.both.hrr", nil, ""},
		{recordedEarly, "early.both", nil, ""},
		{recordedEarly, "early.both.aes256", nil, "the suite is"},
		{recordedEarly, "early.server", nil, "the client: presented evidence, and was not to"},
		{recordedEarly, "early.client", nil, "the server: presented evidence, and was not to"},
		{recordedEarly, "early.both.passport", nil, "the mechanism is 0"},
		{recordedEarly, "early-03.both", nil, "does not select"},
		{recordedEarly, "attest.both.x509.hardened", nil, "does not select"},
		{recordedEarly, "early.both.hrr", random, binder},
		{recordedEarly, "early.both.hrr", func(c *conversation) { c.first(server, typeServerHello, 1).data[10] ^= 1 }, binder},
		{recordedEarly, "early.both.hrr", func(c *conversation) { c.first(client, typeClientHello, 0).data[10] ^= 1 }, binder},
		{recordedEarly, "early.both.hrr", func(c *conversation) { delete(c.secrets, logHandshakeSecret) }, ""},
		{recordedEarly, "early.both.hrr", change(server, typeEncryptedExtensions), "was not offered"},
		{recordedEarly03, "early-03.both.aes256", nil, ""},
		{recordedEarly03, "early.both.aes256", nil, "does not say how"},
		{recordedEarly03, "attest.both.x509.hardened.aes256", nil, "does not"},
		{recordedEarly03, "early-03.both.aes256", change(server, typeFinished), "the client: the evidence does not carry the binder"},
		{recordedEarly03, "early-03.both.aes256", func(c *conversation) { c.first(server, typeServerHello, 0).data[10] ^= 1 }, binder},
	} {
		chunks, keys, err := readCapture(tt.file)
		if err != nil {
			t.Fatal(err)
		}
		conv := converse(chunks, 0, parseKeyLog(keys))
		if tt.change != nil {
			tt.change(conv)
		}
		err = named(t, tt.id).verdict(conv, server)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s by %s: %v, want %q", tt.file, tt.id, err, tt.says)
		}
	}
}

// TestEarlyVectors describes a recorded handshake: the value must be in the evidence.
func TestEarlyVectors(t *testing.T) {
	for file, id := range map[string]string{recordedEarly: "early.both.hrr", recordedEarly03: "early-03.both.aes256"} {
		chunks, keys, err := readCapture(file)
		if err != nil {
			t.Fatal(err)
		}
		v, err := named(t, id).vector(converse(chunks, 0, parseKeyLog(keys)), client, "a peer")
		if err != nil || len(v.Attestations) != 2 {
			t.Fatalf("%s: %v, %v", id, v, err)
		}
		for _, a := range v.Attestations {
			if a.Nonce != "" || len(a.Value) != 128 || !strings.HasPrefix(a.Value, a.Binder) || !strings.Contains(a.Evidence, a.Value) {
				t.Errorf("%s, %s: nonce %q, binder %s, value %s", id, a.Attester, a.Nonce, a.Binder, a.Value)
			}
		}
	}
}
