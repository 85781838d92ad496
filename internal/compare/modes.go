package compare

import (
	"slices"
	"strings"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls"
)

// A Mode is one way to connect.
type Mode struct {
	Name  string
	About string
	// Attack is the column of the attack matrix that says what the mode stops, or ""
	// where there is none; see package attack.
	Attack string
	// Reference is the mode without attestation that it is compared with.
	Reference string

	attests   bool // some end does
	mutual    bool // both ends have certificates
	both      bool // both ends attest
	embedded  bool // evidence is in the certificate
	passport  bool
	reattests bool // can run another round later
	configure func(w *world, client, server *tls.AttestationConfig)
}

// Names of modes that others refer to.
const (
	modePlain       = "plain"
	modePlainMutual = "plain-mutual"
	modeEmbedded    = "certificate"
	modeHardened    = "hardened"
	modeExpat       = "expat"
	modeCombined    = "combined"
	modePassport    = "passport"
)

var onlyKind = []attestext.CredentialKind{attestext.AttestationOnly}

// Modes are all modes, in the order of tables.
var Modes = []*Mode{
	{Name: modePlain, About: "TLS 1.3 without attestation"},
	{Name: modePlainMutual, About: "the same, both ends with certificates", mutual: true},
	{Name: modeEmbedded, About: "evidence in the certificate, over its key (as RA-TLS): made once, when the key is", Attack: "binder4", embedded: true, attests: true},
	{Name: "draft-08", About: "in the handshake, draft-fossati-tls-attestation-08", Attack: "draft-08", attests: true,
		configure: func(w *world, c, s *tls.AttestationConfig) {
			c.PeerBinding, s.Binding = attestext.BindingDraft08, attestext.BindingDraft08
		}},
	{Name: modeHardened, About: "in the handshake, hardened: the default", Attack: "hardened", attests: true, reattests: true},
	{Name: "two-keys", About: "in the handshake, an attested key beside the certificate's", Attack: "two-keys", attests: true,
		configure: func(w *world, c, s *tls.AttestationConfig) { c.PeerAttestedKey, s.AttestedKey = true, w.attestedKey }},
	{Name: "attestation-only", About: "in the handshake, in place of a certificate", Attack: "attestation-only", attests: true,
		configure: func(w *world, c, s *tls.AttestationConfig) {
			c.PeerCredentials, c.AllowAttestationOnly = onlyKind, true
			s.Credentials, s.AllowAttestationOnly, s.AttestedKey = onlyKind, true, w.attestedKey
		}},
	{Name: "mutual", About: "in the handshake, hardened, both ends attest", Reference: modePlainMutual, attests: true, mutual: true, both: true},
	{Name: modePassport, About: "in the handshake, a verifier's result in place of evidence", Attack: "passport", attests: true, passport: true},
	{Name: "early", About: "in the handshake, draft-fossati-seat-early-attestation-06", Attack: "early", attests: true,
		configure: func(w *world, c, s *tls.AttestationConfig) { c.Form, s.Form = tls.FormEarly, tls.FormEarly }},
	{Name: modeExpat, About: "after the handshake (expat), in handshake records", Attack: "expat", attests: true, reattests: true,
		configure: func(w *world, c, s *tls.AttestationConfig) {
			c.Mode, s.Mode = tls.PostHandshake, tls.PostHandshake
			c.Carriage, s.Carriage = tls.CarriagePostHandshake, tls.CarriagePostHandshake
		}},
	{Name: "expat-leading", About: "after the handshake (expat), ahead of the application's data", Attack: "expat", attests: true,
		configure: func(w *world, c, s *tls.AttestationConfig) {
			c.Mode, s.Mode = tls.PostHandshake, tls.PostHandshake
			c.Carriage, s.Carriage = tls.CarriageLeading, tls.CarriageLeading
		}},
	{Name: modeCombined, About: "hardened in the handshake, then expat", Attack: "combined", attests: true, reattests: true,
		configure: func(w *world, c, s *tls.AttestationConfig) { c.Mode, s.Mode = tls.Combined, tls.Combined }},
}

func init() {
	for _, m := range Modes {
		if m.Reference == "" {
			m.Reference = modePlain
		}
	}
}

// ModeNamed returns the mode of that name, or nil.
func ModeNamed(name string) *Mode {
	i := slices.IndexFunc(Modes, func(m *Mode) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return Modes[i]
}

// ModeNames lists the names of all modes.
func ModeNames() string {
	var names []string
	for _, m := range Modes {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}
