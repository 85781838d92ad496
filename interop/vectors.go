package interop

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// A vector is a known-answer file: one handshake with all that an implementer needs to
// come to the same verdict. testdata/handshakes/README.md says what the members are.
type vector struct {
	Case     string        `json:"case"`
	About    string        `json:"about"`
	Must     string        `json:"must"`
	Source   string        `json:"source"`
	Recorded vectorEnds    `json:"recorded"`
	Expected vectorVerdict `json:"expected"`

	Suite        string            `json:"suite"`
	Secrets      map[string]string `json:"secrets"`
	Attestations []attestation     `json:"attestations"`
	Messages     []vectorMessage   `json:"messages"`
	Trust        map[string]string `json:"trust"`
}

// vectorEnds says who the two ends were.
type vectorEnds struct {
	Client string `json:"client"`
	Server string `json:"server"`
}

// vectorVerdict is what the relying party has to come to.
type vectorVerdict struct {
	Accepted bool   `json:"accepted"`
	Alert    uint8  `json:"alert,omitempty"`
	By       string `json:"by,omitempty"`
}

// An attestation is what one end presents, and what it has to be bound to.
type attestation struct {
	Attester string `json:"attester"`
	// Stage is "handshake", or "exchange" for exported authenticators.
	Stage string `json:"stage"`
	// Nonce is on the wire, or the certificate_request_context of an exchange.
	Nonce string `json:"nonce,omitempty"`
	// Binder is the channel binder, or what was exported for the binding.
	Binder   string `json:"channel_binder,omitempty"`
	Exported string `json:"exported,omitempty"`
	SPKI     string `json:"spki,omitempty"`
	// Value is what the evidence must contain.
	Value    string `json:"value,omitempty"`
	Evidence string `json:"evidence"`
}

type vectorMessage struct {
	From       string `json:"from"`
	Protection string `json:"protection"` // "none", "handshake" or "application"
	Content    string `json:"content"`    // "handshake", "alert" or "application_data"
	Type       string `json:"type,omitempty"`
	Hex        string `json:"hex"`
}

var contents = map[uint8]string{recordAlert: "alert", recordHandshake: "handshake", recordApplication: "application_data"}

var messageNames = map[uint8]string{
	typeClientHello: "client_hello", typeServerHello: "server_hello", typeNewSessionTicket: "new_session_ticket", typeEncryptedExtensions: "encrypted_extensions",
	typeCertificate: "certificate", typeCertificateRequest: "certificate_request", typeCertificateVerify: "certificate_verify", typeFinished: "finished", typeKeyUpdate: "key_update",
}

// trustFiles are what the evidence and the certificates of a vector are verified with.
var trustFiles = []string{"ca.pem", "tdx-root.pem", "verifier.pem"}

// writeVector writes the known-answer file of a cell that passed into dir.
func (x *cell) writeVector(dir, certs string) error {
	chunks, keys, err := readCapture(filepath.Join(x.dir, captureName))
	if err != nil {
		return err
	}
	v, err := x.c.vector(converse(chunks, 0, parseKeyLog(keys)), x.role, x.p.version)
	if err != nil {
		return err
	}
	v.Trust = map[string]string{}
	for _, name := range trustFiles {
		b, err := os.ReadFile(filepath.Join(certs, name))
		if err != nil {
			return err
		}
		v.Trust[name] = string(b)
	}
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, x.c.ID+".json"), append(b, '\n'), 0o666)
}

// vector describes a conversation. peer is the role of the peer.
func (c *Case) vector(conv *conversation, peer side, version string) (*vector, error) {
	v := &vector{
		Case: c.ID, About: c.About, Must: c.Must.Quote, Source: c.Must.Source,
		Expected: vectorVerdict{Accepted: c.expect.alert == 0, Alert: c.expect.alert},
		Suite:    fmt.Sprintf("%04x", conv.suite), Secrets: map[string]string{},
	}
	names := [2]string{"this project", "this project"}
	names[peer] = version
	v.Recorded = vectorEnds{Client: names[client], Server: names[server]}
	if c.expect.alert != 0 {
		v.Expected.By = peer.other().String()
		if c.expect.byPeer {
			v.Expected.By = peer.String()
		}
	}
	for label, secret := range conv.secrets {
		if !strings.HasPrefix(label, logExport) {
			v.Secrets[strings.ToLower(label)] = hex.EncodeToString(secret)
		}
	}
	for _, m := range conv.messages {
		protection := m.keys
		if protection == "" {
			protection = "none"
		}
		v.Messages = append(v.Messages, vectorMessage{
			m.from.String(), protection, contents[m.record], messageNames[m.handshakeType()], hex.EncodeToString(m.data),
		})
	}
	for _, who := range both {
		a, err := c.attestations(conv, who)
		if err != nil {
			return nil, err
		}
		v.Attestations = append(v.Attestations, a...)
	}
	return v, nil
}

// attestations returns what an end presents in a conversation that has gone well or was
// refused for what is in it.
func (c *Case) attestations(conv *conversation, who side) ([]attestation, error) {
	if !c.has(who) {
		return nil, nil
	}
	var all []attestation
	if c.Mode != modeExpat {
		evidence, spki, err := conv.evidence(who, c.form)
		if err != nil || evidence == nil {
			return nil, err
		}
		a := attestation{Attester: who.String(), Stage: "handshake", SPKI: hex.EncodeToString(spki), Evidence: hex.EncodeToString(evidence)}
		switch {
		case c.Mode == modePassport:
		case c.form != "":
			binder, err := conv.earlyBinder(c.form, who, spki)
			if err != nil {
				return nil, err
			}
			a.Binder, a.Value = hex.EncodeToString(binder), hex.EncodeToString(earlyValue(binder))
		default:
			nonce, err := conv.nonce(who)
			if err != nil {
				return nil, err
			}
			value, binder, err := c.value(conv, who, nonce, evidence, spki)
			if err != nil {
				return nil, err
			}
			a.Nonce, a.Binder, a.Value = hex.EncodeToString(nonce), hex.EncodeToString(binder), hex.EncodeToString(value)
		}
		all = append(all, a)
	}
	if c.exchanges() {
		a, err := conv.exported(who)
		if err != nil {
			return nil, err
		}
		all = append(all, *a)
	}
	return all, nil
}

// exported describes the authenticator of an end, out of an exchange that is known to be
// well-formed.
func (conv *conversation) exported(who side) (*attestation, error) {
	b := conv.application(who)
	for len(b) >= 4 && b[0] != typeCertificate { // a request of this end's own
		_, rest, err := take(b, b[0])
		if err != nil {
			return nil, err
		}
		b = rest
	}
	m, _, err := take(b, typeCertificate)
	if err != nil {
		return nil, err
	}
	s := cryptobyte.String(m[4:])
	var context cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&context) {
		return nil, errors.New("Certificate is cut off")
	}
	evidence, spki, err := presentedIn(s)
	if err != nil {
		return nil, err
	}
	exported, err := conv.exporter(labelAttestation, context, 32)
	if err != nil {
		return nil, err
	}
	return &attestation{
		Attester: who.String(), Stage: "exchange", Nonce: hex.EncodeToString(context), Exported: hex.EncodeToString(exported),
		SPKI: hex.EncodeToString(spki), Evidence: hex.EncodeToString(evidence),
		Value: hex.EncodeToString(sum(conv.hash(), slices.Concat(spki, exported))),
	}, nil
}

// parseVector returns the conversation in a known-answer file.
func parseVector(b []byte) (*vector, *conversation, error) {
	v := &vector{}
	if err := json.Unmarshal(b, v); err != nil {
		return nil, nil, err
	}
	conv := &conversation{secrets: map[string][]byte{}}
	if _, err := fmt.Sscanf(v.Suite, "%04x", &conv.suite); err != nil {
		return nil, nil, fmt.Errorf("suite: %w", err)
	}
	for label, s := range v.Secrets {
		secret, err := hex.DecodeString(s)
		if err != nil {
			return nil, nil, err
		}
		conv.secrets[strings.ToUpper(label)] = secret
	}
	for _, m := range v.Messages {
		data, err := hex.DecodeString(m.Hex)
		if err != nil {
			return nil, nil, err
		}
		out := message{keys: m.Protection, data: data}
		if m.Protection == "none" {
			out.keys = ""
		}
		if m.From == server.String() {
			out.from = server
		}
		for record, name := range contents {
			if name == m.Content {
				out.record = record
			}
		}
		conv.messages = append(conv.messages, out)
	}
	return v, conv, nil
}
