package interop

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// This file reads draft-fossati-seat-early-attestation out of a conversation. As its
// binders take no secret, nothing in them is taken from a peer.

const extRemoteAttestation = 0xFFA5

// Revisions, as --early-form names them.
const (
	early06 = "06"
	early03 = "03"
)

// Alerts of revision -06, which have the numbers of others in draft-08.
const (
	alertUnsupportedSchemes  = 224
	alertAttestationRequired = 225
	alertAttestationFailed   = 226
)

// earlyBinder computes the binder of an end's key from what went by.
func (c *conversation) earlyBinder(form string, who side, spki []byte) ([]byte, error) {
	h := c.hash()
	label, last, context := "attestation base", uint8(typeServerHello), sum(h, spki)
	if form == early03 {
		label, last, context = "s attestation base", typeEncryptedExtensions, spki
		if who == client {
			label, last = "c attestation base", typeFinished
		}
		if len(spki) > 255 {
			return nil, fmt.Errorf("a key of %d bytes under revision -03", len(spki))
		}
	}
	transcript, err := c.upTo(server, last)
	if err != nil {
		return nil, err
	}
	base := expandLabel(h, make([]byte, h().Size()), label, sum(h, transcript), h().Size())
	return expandLabel(h, base, "attestation", context, h().Size()), nil
}

// earlyAnswer returns what ClientHello offers for an end, and what the server chose.
// They are nil where there is nothing.
func (c *conversation) earlyAnswer(who side) (offer, choice []byte, err error) {
	hello, err := c.lastClientHello()
	if err != nil {
		return nil, nil, err
	}
	if data, ok := find(hello.extensions, extRemoteAttestation); ok {
		s := cryptobyte.String(data)
		var lists [2]cryptobyte.String
		if !s.ReadUint16LengthPrefixed(&lists[server]) || !s.ReadUint16LengthPrefixed(&lists[client]) || !s.Empty() {
			return nil, nil, errors.New("remoteAttestation of ClientHello does not parse")
		}
		offer = lists[who]
	}
	m := c.first(server, typeEncryptedExtensions, 0)
	if who == client {
		m = c.first(server, typeCertificateRequest, 0)
	}
	if m == nil {
		return offer, nil, nil
	}
	s := cryptobyte.String(m.body())
	var context cryptobyte.String
	if who == client && !s.ReadUint8LengthPrefixed(&context) {
		return nil, nil, errors.New("CertificateRequest is cut off")
	}
	all, err := readExtensions(&s)
	if err != nil {
		return nil, nil, err
	}
	choice, _ = find(all, extRemoteAttestation)
	return offer, choice, nil
}

// readScheme returns the bytes of an AttestationScheme.
func readScheme(s *cryptobyte.String) ([]byte, error) {
	before := []byte(*s)
	var mechanism uint8
	var verifier cryptobyte.String
	ok := s.ReadUint8(&mechanism)
	switch {
	case ok && mechanism == 0:
		_, err := readFormat(s)
		ok = err == nil
	case ok && mechanism == 1:
		ok = s.ReadUint16LengthPrefixed(&verifier)
	default:
		ok = false
	}
	if !ok {
		return nil, errors.New("an attestation scheme does not parse")
	}
	return before[:len(before)-len(*s)], nil
}

// presentedEarly is presented for -06: evidence is what the first CertificateEntry has
// beside its certificate.
func (c *Case) presentedEarly(conv *conversation, who side, evidence, spki []byte) error {
	offer, choice, err := conv.earlyAnswer(who)
	if err != nil {
		return err
	}
	if !c.has(who) {
		if choice != nil || evidence != nil {
			return errors.New("presented evidence, and was not to")
		}
		return nil
	}
	if choice == nil {
		return errors.New("the server does not say how this end attests")
	}
	if evidence == nil || spki == nil {
		return errors.New("Certificate has no evidence beside a certificate")
	}
	if conv.hasTicket() {
		return errTicket
	}
	s := cryptobyte.String(choice)
	if _, err := readScheme(&s); err != nil || !s.Empty() {
		return errors.New("the chosen scheme does not parse")
	}
	offered := false
	for o := cryptobyte.String(offer); !o.Empty(); {
		scheme, err := readScheme(&o)
		if err != nil {
			return err
		}
		offered = offered || bytes.Equal(scheme, choice)
	}
	if !offered {
		return errors.New("the chosen scheme was not offered")
	}
	if results := c.Mode == modePassport; results != (choice[0] == 1) {
		return fmt.Errorf("the mechanism is %d", choice[0])
	} else if results {
		return c.namesKey(evidence, spki)
	}
	return c.carriesEarly(conv, who, evidence, spki)
}

// carriesEarly checks that the evidence has the binder in it, as long as the hash and
// then zeros.
func (c *Case) carriesEarly(conv *conversation, who side, evidence, spki []byte) error {
	binder, err := conv.earlyBinder(c.form, who, spki)
	if err != nil {
		return err
	}
	if !bytes.Contains(evidence, earlyValue(binder)) {
		return errors.New("the evidence does not carry the binder that both ends should have computed")
	}
	return nil
}

// earlyValue is what a report carries: the binder, padded with zeros.
func earlyValue(binder []byte) []byte {
	return append(bytes.Clone(binder), make([]byte, 64-len(binder))...)
}

// earlyPayload reads cmw_payload.
func earlyPayload(data []byte) ([]byte, error) {
	s := cryptobyte.String(data)
	var cmw cryptobyte.String
	if !s.ReadUint24LengthPrefixed(&cmw) || !s.Empty() || cmw.Empty() {
		return nil, errors.New("cmw_payload does not parse")
	}
	return cmw, nil
}
