package interop

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// Extensions, in the private-use range, as both ends have to know them.
const (
	extAttestationEvidence = 0xFFA0
	extEvidenceRequest     = 0xFFA1
	extEvidenceProposal    = 0xFFA2
	extResultsRequest      = 0xFFA3
	extResultsProposal     = 0xFFA4
	extAttestedKeyProof    = 0xFFA6
)

const typeNewSessionTicket = 4

// verdict reads the conversation, in which the fork has a role, and says what is
// missing from it, nil if nothing is.
func (c *Case) verdict(conv *conversation, fork side) error {
	e := c.expect
	if e.alert != 0 {
		return c.refused(conv, fork)
	}
	if err := c.completed(conv); err != nil {
		return err
	}
	h, err := parseServerHello(conv.lastServerHello())
	if err != nil {
		return err
	}
	if e.suite != 0 && h.suite != e.suite {
		return fmt.Errorf("the suite is %#04x, want %#04x", h.suite, e.suite)
	}
	if e.group != 0 && h.group != e.group {
		return fmt.Errorf("the group is %d, want %d", h.group, e.group)
	}
	if retried := conv.first(client, typeClientHello, 1) != nil; e.retry && !retried {
		return errors.New("there was no HelloRetryRequest")
	}
	for _, who := range both {
		if err := c.presented(conv, who); err != nil {
			return fmt.Errorf("the %v: %w", who, err)
		}
	}
	if e.more != nil {
		return e.more(conv)
	}
	return nil
}

func (conv *conversation) lastServerHello() []byte {
	var last []byte
	for i := range conv.messages {
		if m := &conv.messages[i]; m.from == server && m.handshakeType() == typeServerHello {
			last = m.body()
		}
	}
	return last
}

// lastClientHello returns the one that the server answered.
func (conv *conversation) lastClientHello() (*clientHello, error) {
	for i := len(conv.messages) - 1; i >= 0; i-- {
		if m := &conv.messages[i]; m.from == client && m.handshakeType() == typeClientHello {
			return parseClientHello(m.body())
		}
	}
	return nil, errors.New("there is no ClientHello")
}

// refused checks that the right end ended the handshake with the right alert, and
// that it let no application byte through.
func (c *Case) refused(conv *conversation, fork side) error {
	by := fork
	if c.expect.byPeer {
		by = fork.other()
	}
	var got []string
	found := false
	for _, m := range conv.messages {
		// A client may be done before its server refuses it, so what it sends then
		// says nothing.
		if m.record == recordApplication && (m.from == by || m.from == server) && !c.exchanges() {
			return fmt.Errorf("the %v sent application data, want alert %d by the %v", m.from, c.expect.alert, by)
		}
		if m.record != recordAlert || len(m.data) != 2 || closes(m.data) {
			continue
		}
		got = append(got, fmt.Sprintf("%d by the %v", m.data[1], m.from))
		if !found && len(got) == 1 {
			found = m.from == by && m.data[0] == 2 && m.data[1] == c.expect.alert
		}
	}
	if found {
		return nil
	}
	return fmt.Errorf("want alert %d by the %v, got %s%s", c.expect.alert, by, orNone(strings.Join(got, ", ")), conv.problem())
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (conv *conversation) problem() string {
	if conv.complaint == "" {
		return ""
	}
	return " (" + conv.complaint + ")"
}

// closes reports whether an alert ends a connection in good order: close_notify, or
// user_canceled, which some send before it (RFC 8446, section 6.1).
func closes(alert []byte) bool { return len(alert) == 2 && (alert[1] == 0 || alert[1] == 90) }

// completed checks that both Finished went by, what authenticators the case is about, and
// that data went both ways: the server echoes, unless it serves pages.
func (c *Case) completed(conv *conversation) error {
	var finished [2]bool
	for _, m := range conv.messages {
		switch {
		case m.handshakeType() == typeFinished:
			finished[m.from] = true
		case m.record == recordApplication:
			if !finished[m.from] {
				return fmt.Errorf("the %v sent application data before Finished", m.from)
			}
		case m.record == recordAlert && !closes(m.data):
			return fmt.Errorf("alert %v by the %v%s", m.data, m.from, conv.problem())
		}
	}
	switch {
	case len(conv.messages) == 0:
		return errors.New("nothing was said")
	case !finished[client] || !finished[server]:
		return fmt.Errorf("the handshake was not completed%s", conv.problem())
	case conv.complaint != "":
		return errors.New(conv.complaint)
	}
	data := [2][]byte{conv.application(client), conv.application(server)}
	if c.exchanges() {
		var err error
		if data, err = c.exchanged(conv); err != nil {
			return err
		}
	}
	switch {
	case len(data[client]) == 0:
		return errors.New("the client sent no data")
	case c.page && !bytes.HasPrefix(data[server], []byte("HTTP/1.1 200 OK\r\n")):
		return errors.New("the server did not answer the request with a page")
	case !c.page && !bytes.Equal(data[client], data[server]):
		return fmt.Errorf("the client sent %d bytes, and the server did not echo them", len(data[client]))
	}
	return nil
}

// presented checks what an end presented: what the case says, bound as it says, and
// nothing where it says nothing.
func (c *Case) presented(conv *conversation, who side) error {
	proposal, results := who == client, c.Mode == modePassport
	typ := map[[2]bool]uint16{
		{false, false}: extEvidenceRequest, {true, false}: extEvidenceProposal,
		{false, true}: extResultsRequest, {true, true}: extResultsProposal,
	}[[2]bool{proposal, results}]
	ee := conv.first(server, typeEncryptedExtensions, 0)
	if ee == nil {
		return errors.New("there is no EncryptedExtensions")
	}
	s := cryptobyte.String(ee.body())
	answers, err := readExtensions(&s)
	if err != nil {
		return err
	}
	evidence, spki, err := conv.evidence(who, c.form)
	if err != nil {
		return err
	}
	if c.form == early06 {
		return c.presentedEarly(conv, who, evidence, spki)
	}
	selection, selected := find(answers, typ)
	if !c.has(who) || c.Mode == modeExpat {
		if selected || evidence != nil {
			return errors.New("presented evidence, and was not to")
		}
		return nil
	}
	if !selected {
		return fmt.Errorf("EncryptedExtensions does not select %#04x", typ)
	}
	if evidence == nil {
		return errors.New("Certificate has no evidence")
	}
	if c.twoKeys != conv.proves(who) {
		return fmt.Errorf("attested_key_proof is there: %v", !c.twoKeys)
	}
	if (spki == nil) != c.only {
		return errors.New("evidence beside a certificate, want it in place of one, or the other way round")
	}
	if conv.hasTicket() {
		return errTicket
	}
	hello, err := conv.lastClientHello()
	if err != nil {
		return err
	}
	offer, ok := find(hello.extensions, typ)
	if !ok {
		return errors.New("what was selected was not offered")
	}
	if results {
		return c.checkResult(offer, selection, evidence, spki)
	}
	return c.checkEvidence(conv, who, offer, selection, evidence, spki)
}

var errTicket = errors.New("there is a session ticket on a connection that attests")

// hasTicket reports whether the server sent a session ticket.
func (conv *conversation) hasTicket() bool {
	return slices.ContainsFunc(conv.messages, func(m message) bool { return m.handshakeType() == typeNewSessionTicket })
}

// evidence returns what an end's Certificate carries, and the key that it has to cover:
// that of the certificate, or with two keys the attested one; nil where the evidence is
// in place of a certificate. form is a revision of the early draft, or empty.
func (conv *conversation) evidence(who side, form string) (evidence, spki []byte, err error) {
	typ := uint16(extAttestationEvidence)
	if form == early06 {
		typ = extRemoteAttestation
	}
	m := conv.first(who, typeCertificate, 0)
	if m == nil {
		return nil, nil, nil
	}
	entries, err := parseCertificate(m.body())
	if err != nil || len(entries) == 0 {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(entries[0].data)
	if err != nil { // attestation-only: no certificate begins like a CMW
		if len(entries) != 1 || len(entries[0].extensions) != 0 {
			return nil, nil, errors.New("evidence in place of a certificate is not alone")
		}
		return entries[0].data, nil, nil
	}
	for i, e := range entries {
		if data, ok := find(e.extensions, typ); ok {
			if i > 0 {
				return nil, nil, errors.New("evidence is not in the first entry")
			}
			if evidence = data; form != "" {
				if evidence, err = earlyPayload(data); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	if proof, ok := find(entries[0].extensions, extAttestedKeyProof); ok {
		s := cryptobyte.String(proof)
		var key cryptobyte.String
		if !s.Skip(2) || !s.ReadUint16LengthPrefixed(&key) {
			return nil, nil, errors.New("attested_key_proof does not parse")
		}
		return evidence, key, nil
	}
	return evidence, cert.RawSubjectPublicKeyInfo, nil
}

// proves reports whether an end's Certificate has attested_key_proof.
func (conv *conversation) proves(who side) bool {
	m := conv.first(who, typeCertificate, 0)
	if m == nil {
		return false
	}
	entries, err := parseCertificate(m.body())
	if err != nil || len(entries) == 0 {
		return false
	}
	_, ok := find(entries[0].extensions, extAttestedKeyProof)
	return ok
}

// checkEvidence checks that the evidence has the challenge in it that the rule
// prescribes. Its signature is for the relying party.
func (c *Case) checkEvidence(conv *conversation, who side, offer, selection, evidence, spki []byte) error {
	o := cryptobyte.String(offer)
	var types cryptobyte.String
	if !o.ReadUint8LengthPrefixed(&types) {
		return errors.New("the offer does not parse")
	}
	sel := cryptobyte.String(selection)
	read := readType
	if c.form != "" {
		read = readFormat
	}
	chosen, err := read(&sel)
	if err != nil {
		return err
	}
	offered := false
	for !types.Empty() {
		t, err := read(&types)
		if err != nil {
			return err
		}
		offered = offered || bytes.Equal(t, chosen)
	}
	if !offered {
		return errors.New("the selected type was not offered")
	}
	if c.form != "" {
		return c.carriesEarly(conv, who, evidence, spki)
	}
	if (chosen[0] == 0) != c.only {
		return fmt.Errorf("the selected credential_kind is %d", chosen[0])
	}
	nonce, err := conv.nonce(who)
	if err != nil {
		return err
	}
	value, _, err := c.value(conv, who, nonce, evidence, spki)
	if err != nil {
		return err
	}
	if !bytes.Contains(evidence, value) {
		return errors.New("the evidence does not carry the challenge that both ends should have computed")
	}
	return nil
}

// value returns what the evidence has to carry, and the channel binder.
func (c *Case) value(conv *conversation, who side, nonce, evidence, spki []byte) (value, binder []byte, err error) {
	binder, err = conv.binder(nonce)
	if err != nil {
		return nil, nil, err
	}
	if binder == nil {
		return nil, nil, errors.New("the peer did not log its Handshake Secret, so the binder cannot be computed")
	}
	bundle := bytes.Contains(evidence, []byte("cmwc_t"))
	switch {
	case c.only && c.draft08:
		return nonce, binder, nil
	case c.draft08 || c.only || bundle: // a bundle names the key by itself
		return binder, binder, nil
	}
	return reportData(who, binder, spki), binder, nil
}

// nonce returns the relying party's nonce for what an end presents in the handshake.
func (conv *conversation) nonce(who side) ([]byte, error) {
	hello, err := conv.lastClientHello()
	if err != nil {
		return nil, err
	}
	if who == server {
		data, _ := find(hello.extensions, extEvidenceRequest)
		s := cryptobyte.String(data)
		var types, nonce cryptobyte.String
		if !s.ReadUint8LengthPrefixed(&types) || !s.ReadUint8LengthPrefixed(&nonce) || !s.Empty() {
			return nil, errors.New("evidence_request does not parse")
		}
		return nonce, nil
	}
	ee := conv.first(server, typeEncryptedExtensions, 0)
	if ee == nil {
		return nil, errors.New("there is no EncryptedExtensions")
	}
	s := cryptobyte.String(ee.body())
	answers, err := readExtensions(&s)
	if err != nil {
		return nil, err
	}
	data, _ := find(answers, extEvidenceProposal)
	s = cryptobyte.String(data)
	if _, err := readType(&s); err != nil {
		return nil, err
	}
	var nonce cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&nonce) || !s.Empty() {
		return nil, errors.New("evidence_proposal does not parse")
	}
	return nonce, nil
}

// reportData is what a report carries under the hardened rule.
func reportData(who side, binder, spki []byte) []byte {
	role := byte(1)
	if who == server {
		role = 2
	}
	key := sha256.Sum256(spki)
	rd := sha512.Sum512(slices.Concat([]byte("atls hardened v1"), []byte{0, role}, binder, key[:]))
	return rd[:]
}

// readType returns the bytes of an EvidenceType.
func readType(s *cryptobyte.String) ([]byte, error) {
	before := []byte(*s)
	if !s.Skip(1) {
		return nil, errors.New("an evidence type does not parse")
	}
	_, err := readFormat(s)
	return before[:len(before)-len(*s)], err
}

// readFormat returns the bytes of an EvidenceType without its credential_kind.
func readFormat(s *cryptobyte.String) ([]byte, error) {
	before := []byte(*s)
	var encoding uint8
	var text cryptobyte.String
	ok := s.ReadUint8(&encoding) && (encoding == 0 && s.Skip(2) || encoding == 1 && s.ReadUint16LengthPrefixed(&text))
	if !ok {
		return nil, errors.New("an evidence type does not parse")
	}
	return before[:len(before)-len(*s)], nil
}

// checkResult checks that the verifier was offered, and, where the rule says so, that
// the result names the key.
func (c *Case) checkResult(offer, selection, evidence, spki []byte) error {
	o, sel := cryptobyte.String(offer), cryptobyte.String(selection)
	var list, chosen cryptobyte.String
	if !o.ReadUint8LengthPrefixed(&list) || !o.Empty() {
		return errors.New("the offer does not parse")
	}
	if !sel.ReadUint16LengthPrefixed(&chosen) || !sel.Empty() {
		return errors.New("the selection does not parse")
	}
	offered := false
	for !list.Empty() {
		var v cryptobyte.String
		if !list.ReadUint16LengthPrefixed(&v) {
			return errors.New("a verifier identity does not parse")
		}
		offered = offered || bytes.Equal(v, chosen)
	}
	if !offered {
		return errors.New("the selected verifier was not offered")
	}
	return c.namesKey(evidence, spki)
}

// namesKey checks that there is a result, which names the key where the rule says so.
func (c *Case) namesKey(evidence, spki []byte) error {
	parts := bytes.Split(evidence, []byte("."))
	for _, p := range parts {
		claims, err := base64.RawURLEncoding.DecodeString(string(p))
		if err != nil || !bytes.HasPrefix(claims, []byte("{")) {
			continue
		}
		if c.draft08 || c.only || bytes.Contains(claims, []byte(base64.RawURLEncoding.EncodeToString(spki))) {
			return nil
		}
		return errors.New("the result does not name the key of the certificate")
	}
	return errors.New("there is no result in the wrapper")
}
