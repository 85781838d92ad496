package interop

import (
	"bytes"
	"crypto/hmac"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// Exported authenticators (RFC 9261) with evidence (draft-fossati-seat-expat-03), ahead
// of any other application data.

const (
	typeClientCertificateRequest = 17
	typeCertificateVerify        = 15

	extCMWAttestation = 0xFF00

	labelAttestation = "Attestation"
)

// logExport begins the label of a line "EXPORT:LABEL:CONTEXT", both in hexadecimal: a
// value of the exporter, logged by a peer that does not get at EXPORTER_SECRET.
const logExport = "EXPORT:"

// exporter is TLS-Exporter (RFC 8446, section 7.5), from what the peer logged.
func (c *conversation) exporter(label string, context []byte, n int) ([]byte, error) {
	if secret := c.secrets[logExporter]; secret != nil {
		return export(c.hash(), secret, label, context, n), nil
	}
	v := c.secrets[logExport+hex.EncodeToString([]byte(label))+":"+hex.EncodeToString(context)]
	if len(v) != n {
		return nil, errors.New("the peer logged neither EXPORTER_SECRET nor what was exported, so the binding cannot be computed")
	}
	return v, nil
}

// application returns what an end sent as application data.
func (c *conversation) application(from side) []byte {
	var b []byte
	for _, m := range c.messages {
		if m.from == from && m.record == recordApplication {
			b = append(b, m.data...)
		}
	}
	return b
}

// take returns the handshake message of a type that b begins with, and the rest.
func take(b []byte, typ uint8) (m, rest []byte, err error) {
	if len(b) < 4 || b[0] != typ {
		return nil, nil, fmt.Errorf("the application data has no message of type %d where one is due", typ)
	}
	n := 4 + (int(b[1])<<16 | int(b[2])<<8 | int(b[3]))
	if n > len(b) {
		return nil, nil, fmt.Errorf("the message of type %d is cut off", typ)
	}
	return b[:n], b[n:], nil
}

// exchanged checks the exchange of authenticators, and returns what each end sent
// behind it.
func (c *Case) exchanged(conv *conversation) (data [2][]byte, err error) {
	data = [2][]byte{conv.application(client), conv.application(server)}
	for _, attester := range []side{server, client} { // the client asks first
		if !c.has(attester) {
			continue
		}
		asks := attester.other()
		typ := uint8(typeClientCertificateRequest)
		if asks == server {
			typ = typeCertificateRequest
		}
		var request []byte
		if request, data[asks], err = take(data[asks], typ); err != nil {
			return data, fmt.Errorf("the request of the %v: %w", asks, err)
		}
		var messages [3][]byte
		for i, typ := range []uint8{typeCertificate, typeCertificateVerify, typeFinished} {
			if messages[i], data[attester], err = take(data[attester], typ); err != nil {
				return data, fmt.Errorf("the authenticator of the %v: %w", attester, err)
			}
		}
		if err := c.authenticator(conv, attester, request, messages); err != nil {
			return data, fmt.Errorf("the authenticator of the %v: %w", attester, err)
		}
	}
	return data, nil
}

// authenticator checks one: its Finished, so that the exported values are those of the
// connection, and that the evidence in it has the binding.
func (c *Case) authenticator(conv *conversation, attester side, request []byte, m [3][]byte) error {
	r := cryptobyte.String(request[4:])
	var context cryptobyte.String
	if !r.ReadUint8LengthPrefixed(&context) {
		return errors.New("the request does not parse")
	}
	asked, err := readExtensions(&r)
	if err != nil {
		return err
	}
	if data, ok := find(asked, extCMWAttestation); !ok || len(data) != 0 {
		return errors.New("the request does not ask for attestation")
	}
	s := cryptobyte.String(m[0][4:])
	var echoed cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&echoed) || !bytes.Equal(echoed, context) {
		return errors.New("the context is not that of the request")
	}
	evidence, spki, err := presentedIn(s)
	if err != nil {
		return err
	}
	h := conv.hash()
	size := h().Size()
	handshake, err := conv.exporter(fmt.Sprintf("EXPORTER-%v authenticator handshake context", attester), nil, size)
	if err != nil {
		return err
	}
	key, err := conv.exporter(fmt.Sprintf("EXPORTER-%v authenticator finished key", attester), nil, size)
	if err != nil {
		return err
	}
	mac := hmac.New(h, key)
	mac.Write(sum(h, handshake, request, m[0], m[1]))
	if !hmac.Equal(mac.Sum(nil), m[2][4:]) {
		return errors.New("Finished does not verify under what the peer logged")
	}
	exported, err := conv.exporter(labelAttestation, context, 32)
	if err != nil {
		return err
	}
	if binding := sum(h, slices.Concat(spki, exported)); !bytes.Contains(evidence, binding) {
		return errors.New("the evidence does not carry the binding that both ends should have computed")
	}
	return nil
}

// presentedIn returns the evidence in the entries of an authenticator's Certificate, and
// the key that it comes with.
func presentedIn(entries cryptobyte.String) (evidence, spki []byte, err error) {
	list, err := parseEntries(entries)
	if err != nil {
		return nil, nil, err
	}
	if len(list) == 0 {
		return nil, nil, errors.New("there is no certificate")
	}
	cert, err := x509.ParseCertificate(list[0].data)
	if err != nil {
		return nil, nil, err
	}
	data, ok := find(list[0].extensions, extCMWAttestation)
	s := cryptobyte.String(data)
	var cmw cryptobyte.String
	if !ok || !s.ReadUint16LengthPrefixed(&cmw) || !s.Empty() {
		return nil, nil, errors.New("there is no cmw_attestation in the first entry")
	}
	return cmw, cert.RawSubjectPublicKeyInfo, nil
}
