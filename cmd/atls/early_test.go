package main

import (
	"strings"
	"testing"
)

// TestEarly: "serve" and "dial" attest in the forms of the early draft, in each
// direction and model, and say so in the same words.
func TestEarly(t *testing.T) {
	softTEE := []string{"--attest", "softtee:tdx"}
	clientCA := []string{"--client-ca", pki("ca.pem")}
	for _, c := range []struct {
		name           string
		serve, dial    []string
		server, client bool // attests
		model          string
	}{
		{"server", args(identity(), softTEE), verifySoftTEE(), true, false, "background-check"},
		{"server, SNP", args(identity(), []string{"--attest", "softtee:snp"}), verifySoftTEE(), true, false, "background-check"},
		{"client", args(identity(), clientCA, verifySoftTEE()), args(clientIdentity(), softTEE), false, true, "background-check"},
		{"both", args(identity(), clientCA, verifySoftTEE(), softTEE), args(clientIdentity(), softTEE, verifySoftTEE()), true, true, "background-check"},
		{"both, by command", args(identity(), clientCA, []string{"--verify", execCommand("verify"), "--attest", execCommand("attest")}),
			args(clientIdentity(), []string{"--verify", execCommand("verify"), "--attest", execCommand("attest")}), true, true, "background-check"},
		{"server, passport", args(identity(), []string{"--attest", "results:" + pki("results.json")}),
			[]string{"--verify", "results", "--trust-roots", pki("verifiers.json")}, true, false, "passport"},
	} {
		for _, flags := range []string{"--mode early", "--mode early --early-form 03", "--mode combined --early-form 06"} {
			t.Run(strings.Join([]string{flags, c.name}, ", "), func(t *testing.T) {
				more := strings.Fields(flags)
				p := connect(t, args(c.serve, more), args(c.dial, more))
				p.ok(t)
				p.same(t, c.model == "background-check")
				binding := "early"
				if more[1] == "combined" {
					binding = "expat"
				}
				if p.c["binding"] != binding || p.c["mode"] != more[1] || p.c["credential"] != "x509" || p.c["model"] != c.model {
					t.Errorf("%v", p.c)
				}
				if binding == "early" && (p.c["nonce"] != nil || (p.c["binder"] != nil) != (c.model == "background-check")) {
					t.Errorf("%v", p.c)
				}
				p.checkEnds(t, c.server, c.client, !strings.Contains(c.name, "command"))
			})
		}
	}
}

// Ends of different forms do not meet: whoever requires attestation refuses.
func TestEarlyEndsOfDifferentForms(t *testing.T) {
	attests := args(identity(), []string{"--attest", "softtee:tdx"})
	for _, c := range []struct {
		serve, dial []string
		alert       float64
	}{
		{nil, []string{"--mode", "early"}, 225}, // attestation_required
		{[]string{"--mode", "early"}, nil, 109}, // missing_extension
		{[]string{"--mode", "early"}, []string{"--mode", "early", "--early-form", "03"}, 109},
		{[]string{"--mode", "early", "--early-form", "03"}, []string{"--mode", "early"}, 225},
	} {
		p := connect(t, args(attests, c.serve), args(verifySoftTEE(), c.dial))
		if p.c["ok"] != false || p.c["alert_sent"] != c.alert || p.dialer.status == 0 {
			t.Errorf("serve %v, dial %v: %s", c.serve, c.dial, p.dialer.stdout)
		}
	}
}
