// Package attack is a laboratory: it executes the published attacks on attested TLS,
// and some more, against each mode, with real handshakes over TCP and a man in the
// middle that is a program.
//
// The honest ends are this module's package tls and package exportedauth, as anybody
// uses them. The attacker speaks TLS 1.3 with code of its own, verifies nothing and
// holds what its [Scenario] says. Who accepted what comes from the honest ends, and
// whether the goals held is computed from the secrets of both.
//
// The bindings that the published models call 1 to 7 and "proposed" exist here only;
// no Config can switch them on. TEE and PKI are in software, package softtee.
//
// It is for the command "atls attack".
package attack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
)

// A Line is one sentence of a story.
type Line struct{ Who, Text string }

// A Mitigation is something that a relying party can turn on. The zero value is none.
type Mitigation struct {
	Name  string
	About string
}

const (
	mitigationPinning    = "pinning"
	mitigationFloor      = "svn-floor"
	mitigationRevocation = "revocation"
	mitigationReattest   = "re-attestation"
)

// Mitigations are all mitigations, in the order of tables.
var Mitigations = []Mitigation{
	{mitigationPinning, "the policy names the machine that is meant"},
	{mitigationFloor, "platforms below the current TCB level are refused, as soon as the manufacturer calls the old one out of date"},
	{mitigationRevocation, "the manufacturer has revoked the compromised machine, and the relying party has the list"},
	{mitigationReattest, "one more exported authenticator with evidence, later on the same connection"},
}

// MitigationNamed returns the mitigation of that name; ok is false where there is none.
func MitigationNamed(name string) (m Mitigation, ok bool) {
	for _, m := range Mitigations {
		if m.Name == name {
			return m, true
		}
	}
	return Mitigation{}, false
}

// inapplicable returns why a mitigation cannot be turned on in a mode, or "".
func (m Mitigation) inapplicable(mode *Mode) string {
	if m.Name == mitigationReattest && mode.only {
		return "an exported authenticator needs a certificate"
	}
	if mode.passport && (m.Name == mitigationPinning || m.Name == mitigationFloor || m.Name == mitigationRevocation) {
		return "the result is by a verifier, whose policy it would be"
	}
	return ""
}

// A Row is the outcome of one scenario against one mode.
type Row struct {
	Scenario   string  `json:"scenario"`
	Mode       string  `json:"mode"`
	Mitigation *string `json:"mitigation"`
	// Applies is false where there is nothing to run; Reason says why.
	Applies bool    `json:"applies"`
	Reason  *string `json:"reason"`
	// Accepted says whether the relying party went on to tell its secret.
	Accepted  bool    `json:"accepted"`
	RefusedBy *string `json:"refused_by"`
	Alert     *uint8  `json:"alert"`
	// G1, G2 and G3 say whether the relying party has the Diffie-Hellman secret, the
	// client handshake traffic secret and the client application traffic secret of
	// the connection that the accepted evidence was made on. They are nil where no
	// evidence was accepted.
	G1 *bool `json:"g1"`
	G2 *bool `json:"g2"`
	G3 *bool `json:"g3"`
	// AttesterFinished says whether the honest end that made the evidence completed
	// its own handshake, which the published models ask for. It is nil where no
	// evidence was accepted, or no honest end made it.
	AttesterFinished *bool `json:"attester_finished"`
	AsExpected       bool  `json:"as_expected"`

	// Modelled says whether a client relied on evidence that an honest server made,
	// which is all that the published models are about.
	Modelled bool `json:"-"`
	// Error is why the relying party refused, in its own words.
	Error error `json:"-"`
	// Story says what happened, in order.
	Story []Line `json:"-"`
	// Expected is what the table has, and where it comes from.
	Expected Expectation `json:"-"`
}

// A Lab runs cells. It is safe for concurrent use.
type Lab struct{ world *world }

// NewLab returns a laboratory with keys and certificates of its own.
func NewLab() (*Lab, error) {
	w, err := newWorld(time.Now())
	if err != nil {
		return nil, err
	}
	return &Lab{w}, nil
}

// Run runs a scenario against a mode. An error says that the laboratory failed, and
// nothing about the mode.
func (l *Lab) Run(ctx context.Context, s *Scenario, m *Mode, mit Mitigation) (*Row, error) {
	row := &Row{Scenario: s.Name, Mode: m.Name, Applies: true}
	if mit.Name != "" {
		row.Mitigation = &mit.Name
	}
	reason := mit.inapplicable(m)
	if reason == "" && s.inapplicable != nil {
		reason = s.inapplicable(m)
	}
	if reason != "" {
		row.Applies, row.Reason = false, &reason
		row.compare()
		return row, nil
	}
	ctx, cancel := context.WithTimeout(ctx, cellTimeout)
	defer cancel()
	c := &cell{ctx: ctx, world: l.world, mode: m, mitigation: mit}
	if m.only && strings.HasPrefix(s.Holds, holdsTIK) {
		c.say("attacker", "holds the attested key that stands in place of a certificate's")
	}
	err := s.run(c)
	c.settle()
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && c.victim == nil {
		err = fmt.Errorf("nobody was attacked")
	}
	if err != nil {
		return nil, fmt.Errorf("%s against %s: %w", s.Name, m.Name, err)
	}
	c.outcome(row)
	row.compare()
	return row, nil
}

// outcome takes the verdict and the secrets from the honest ends, which are done.
func (c *cell) outcome(row *Row) {
	v := c.victim
	row.Accepted, row.Error = v.err == nil, v.err
	if row.Accepted {
		c.say(v.name, "accepts")
		c.hear()
		if c.made != nil {
			accepted, made := v.session(), c.made()
			g := compare(accepted, made, c.known...)
			c.tellKeys(accepted, made)
			row.G1, row.G2, row.G3 = &g.G1, &g.G2, &g.G3
			c.say("goals", "same Diffie-Hellman secret: %s; same handshake traffic key: %s; same application traffic key: %s", yes(g.G1), yes(g.G2), yes(g.G3))
			if c.attester != nil {
				row.AttesterFinished = &c.attester.shaken
				row.Modelled = v.role == attestext.RoleClient && c.attester.role == attestext.RoleServer
			}
		}
	} else {
		// Where the relying party only hears of it, another honest end refused.
		for _, e := range append([]*end{v}, c.ends...) {
			if a, ok := e.alert(); ok {
				by := e.role.String()
				row.RefusedBy, row.Alert = &by, &a
				c.say(e.name, "refuses with alert %d: %v", a, e.err)
				break
			}
		}
		c.hear()
		// What a relay or a replay fails by, and the attacker cannot change.
		if c.made != nil {
			c.tellKeys(v.session(), c.made())
		}
	}
	row.Story = c.story
}

// tellKeys tells which keys the relying party and the connection that the evidence was
// made on have, as far as both got to have any.
func (c *cell) tellKeys(seen, made *session) {
	for _, k := range []struct {
		name       string
		seen, made []byte
	}{
		{"handshake", seen.clientHandshake, made.clientHandshake},
		{"application", seen.clientApplication, made.clientApplication},
	} {
		if len(k.seen) > 0 && len(k.made) > 0 {
			c.say("key logs", "%s traffic key: the %s has %s, where the evidence was made it is %s", k.name, c.victim.name, fingerprint(k.seen), fingerprint(k.made))
		}
	}
}

// fingerprint stands for a secret in a story.
func fingerprint(secret []byte) string {
	sum := sha256.Sum256(secret)
	return "#" + hex.EncodeToString(sum[:4])
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
