package interop

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// Modes, as rows name them. Passport and two keys are ways of tls-attest that are
// counted by themselves.
const (
	modeNone     = "none"
	modeAttest   = "tls-attest"
	modePassport = "passport"
	modeExpat    = "post-handshake"
	modeEarly    = "early"
	modeCombined = "combined"
)

// A Case is one thing that the two ends do with each other, and what must be seen of
// it on the wire.
type Case struct {
	// ID names it: words separated by dots. Peers choose by it what to do.
	ID string
	// About says in a line what happens.
	About string
	// Must is the sentence that it tests.
	Must Must
	// Mode is the kind of attestation, "none" where there is none.
	Mode string
	// Quick puts it into the short run.
	Quick bool

	roles   []side // of the peer
	attests []side // who presents evidence or results
	only    bool   // in place of a certificate
	draft08 bool   // the rule of the draft, else the hardened one
	form    string // revision of the early draft, else that of tls-attest
	twoKeys bool   // the evidence covers a key of its own, and both keys sign
	page    bool   // the peer is a browser, which may connect several times

	// cert is the suffix of the certificate files of the end that is a server, and
	// clientCert of those of the client.
	cert, clientCert string
	// fork adds flags to those of the fork.
	fork func(f *flags)

	expect expectation
}

// An expectation is what the capture has to show.
type expectation struct {
	// alert is the fatal alert that ends the handshake, and byPeer says that it is
	// the peer who refuses; zero means that the handshake completes and data goes
	// both ways.
	alert  uint8
	byPeer bool
	// Zero means any.
	suite, group uint16
	retry        bool
	// more is checked as well.
	more func(c *conversation) error
}

// Attested reports whether the case ends with evidence or results accepted.
func (c *Case) Attested() bool { return len(c.attests) > 0 && c.expect.alert == 0 }

// exchanges reports whether authenticators are exchanged after the handshake.
func (c *Case) exchanges() bool { return c.Mode == modeExpat || c.Mode == modeCombined }

func (c *Case) has(who side) bool { return slices.Contains(c.attests, who) }

// flags are those of the fork in one cell.
type flags struct {
	role  side // of the fork
	dir   string
	peer  string // folder of the peer
	c     *Case
	extra []string
	// attest and verify override what follows from the case.
	attest, verify string
	binding        string
}

func (f *flags) file(name string) string { return filepath.Join(f.dir, name) }

func (f *flags) add(args ...string) { f.extra = append(f.extra, args...) }

// args returns the command line of the fork behind serve or dial ADDR.
func (f *flags) args() []string {
	c := f.c
	if c.draft08 {
		f.binding = "draft-08"
	}
	passport := c.Mode == modePassport
	selfAttests, peerAttests := c.has(f.role), c.has(f.role.other())
	if selfAttests {
		f.attest = "softtee:tdx"
		if passport {
			f.attest = "results:" + f.file(f.role.String()+"-results.json")
		}
	}
	if peerAttests {
		f.verify = "local"
		if passport {
			f.verify = "results"
		}
	}
	if c.fork != nil {
		c.fork(f)
		c = f.c
	}
	var args []string
	name := f.role.String() + c.cert
	if f.role == client {
		args = append(args, "--ca", f.file("ca.pem"), "--servername", "localhost")
		name = f.role.String() + c.clientCert
	}
	needsCert := f.role == server || c.has(client) || c.clientCert != ""
	switch {
	case c.only && f.attest != "":
		args = append(args, "--key", f.file(name+".key"))
	case needsCert && !(c.only && f.role == client):
		args = append(args, "--cert", f.file(name+".pem"), "--key", f.file(name+".key"))
	}
	if f.role == server && !c.only && (c.has(client) || f.verify != "" || c.clientCert != "") {
		args = append(args, "--client-ca", f.file("ca.pem"))
	}
	if f.attest != "" {
		args = append(args, "--attest", f.attest)
	}
	if f.verify != "" {
		args = append(args, "--verify", f.verify)
		switch f.verify {
		case "local":
			args = append(args, "--trust-roots", f.file("trust-roots.pem"), "--collateral", f.file("collateral.json"), "--policy", f.file("policy.json"))
		case "results":
			args = append(args, "--trust-roots", f.file("verifiers.json"))
		}
	}
	if c.twoKeys && f.attest != "" {
		args = append(args, "--attested-key", "new")
	}
	if c.twoKeys && f.verify != "" {
		args = append(args, "--peer-attested-key")
	}
	if c.exchanges() {
		args = append(args, "--mode", c.Mode, "--carriage", "leading")
	}
	if c.form != "" {
		args = append(args, "--mode", modeEarly, "--early-form", c.form)
	}
	if f.attest+f.verify != "" {
		if c.only {
			args = append(args, "--credential", "attestation-only", "--allow-attestation-only")
		}
		if f.binding != "" {
			args = append(args, "--binding", f.binding)
		}
	}
	return append(args, f.extra...)
}

var both = []side{client, server}

// A Must is a requirement, quoted, and where it stands.
type Must struct{ Quote, Source string }

// The requirements that cases test. Those of docs/DESIGN.md are decisions where the
// draft is silent.
var (
	mustAES128      = Must{"A TLS-compliant application MUST implement the TLS_AES_128_GCM_SHA256 cipher suite", "RFC 8446, 9.1"}
	mustGroups      = Must{"A TLS-compliant application MUST support key exchange with secp256r1", "RFC 8446, 9.1"}
	mustFinished    = Must{"Application Data MUST NOT be sent prior to sending the Finished message", "RFC 8446, 2"}
	mustSameHello   = Must{"the client MUST send the same ClientHello without modification, except as follows", "RFC 8446, 4.1.2"}
	mustVerify      = Must{"Servers MUST send this message when authenticating via a certificate", "RFC 8446, 4.4.3"}
	mustVerifyAlert = Must{"If the verification fails, the receiver MUST terminate the handshake with a \"decrypt_error\" alert", "RFC 8446, 4.4.3"}
	mustClientCert  = Must{"The client MUST send a Certificate message if and only if the server has requested client authentication via a CertificateRequest message", "RFC 8446, 4.4.2"}
	mustFragment    = Must{"Handshake messages MAY be coalesced into a single TLSPlaintext record or fragmented across several records", "RFC 8446, 5.1"}
	mustIgnore      = Must{"Servers MUST ignore unrecognized extensions", "RFC 8446, 4.1.2"}
	mustParse       = Must{"Peers which receive a message which cannot be parsed according to the syntax MUST terminate the connection with a \"decode_error\" alert", "RFC 8446, 6"}
	mustAsked       = Must{"Implementations MUST NOT send extension responses if the remote endpoint did not send the corresponding extension requests", "RFC 8446, 4.2"}
	mustOnce        = Must{"There MUST NOT be more than one extension of the same type in a given extension block", "RFC 8446, 4.2"}

	mustInclusion   = Must{"the relying party must verify its correct inclusion in the evidence it received during the handshake", "draft-fossati-tls-attestation-08, 6.2.1"}
	mustKey         = Must{"The attestation payload must contain assertions relating to the client's TLS Identity Key", "draft-fossati-tls-attestation-08, 4"}
	mustWrapper     = Must{"a payload that is encoded based on the wrapper", "draft-fossati-tls-attestation-08, 4"}
	mustNonce       = Must{"opaque nonce<8..2^8-1>", "draft-fossati-tls-attestation-08, 6"}
	mustTypes       = Must{"EvidenceType supported_evidence_types<1..2^8-1>", "draft-fossati-tls-attestation-08, 6"}
	mustSelected    = Must{"The evidence type in the evidence_request extension MUST contain a single value selected from the evidence_request extension in the ClientHello", "draft-fossati-tls-attestation-08, 8.1.2"}
	mustEncrypted   = Must{"These extensions are used in the ClientHello and the EncryptedExtensions messages", "draft-fossati-tls-attestation-08, 12.1"}
	mustCertRequest = Must{"The server MUST also send a certificate_request message", "draft-fossati-tls-attestation-08, 8.1.2"}
	mustCommon      = Must{"it does not have any evidence type in common with the client. Then, the server terminates the session with a fatal alert of type \"unsupported_evidence\"", "draft-fossati-tls-attestation-08, 8.1.2"}
	mustVerifiers   = Must{"it does not have any trusted verifiers in common with the client. Then, the server terminates the session with a fatal alert of type \"unsupported_verifiers\"", "draft-fossati-tls-attestation-08, 8.2.2"}
	mustVerifier    = Must{"The verifier identity in the results_request extension MUST contain a single value selected from the results_request extension in the ClientHello", "draft-fossati-tls-attestation-08, 8.2.2"}

	mustExported = Must{"exported = TLS-Exporter(\"Attestation\", certificate_request_context, 32), binding = Hash(SPKI || exported)", "draft-fossati-seat-expat-03, Binding"}

	mustExportedFinished = Must{"a Finished message, computed as HMAC over the transcript under the Finished MAC key", "RFC 9261, 5.2.3"}

	mustEarlyBinder   = Must{"Both peers derive a single attestation base from the same transcript checkpoint, ClientHello...ServerHello", "draft-fossati-seat-early-attestation-06, 5.1.1"}
	mustEarlyRejected = Must{"If the peer's Evidence is rejected (binder mismatch, failed Evidence appraisal, or malformed CMW), the receiver MUST send an attestation_failed fatal alert", "draft-fossati-seat-early-attestation-06, 5.1.2"}
	mustEarlyKey      = Must{"the signed Evidence MUST include an Attestation Binder generated using the hash of the TIK public key", "draft-fossati-seat-early-attestation-06, 5.2"}
	mustEarlyScheme   = Must{"Both schemes selected for chosen_server_scheme and chosen_client_scheme MUST be selected from the schemes provided in the remoteAttestation extension sent in the ClientHello", "draft-fossati-seat-early-attestation-06, 7.2"}
	mustEarlyCommon   = Must{"it does not have any remote attestation scheme in common with the client. Then, the server terminates the session with a fatal alert of type \"unsupported_attestation_schemes\"", "draft-fossati-seat-early-attestation-06, 7.2"}
	mustEarlyMissing  = Must{"the end that requires it sends attestation_required. So does one that was promised evidence and got none", "docs/DESIGN.md, Decisions"}

	mustTwoKeys = Must{"both keys signed this session, each naming the other", "docs/SECURITY.md, Two keys"}

	mustRule     = Must{"both ends are configured alike, and a mismatch is bad_certificate", "docs/DESIGN.md, Decisions"}
	mustRequired = Must{"attestation is required, and the peer does not offer or answer it: missing_extension", "docs/SECURITY.md, What the implementation enforces"}
	mustSend     = Must{"a server agreed to attest and sends a certificate without evidence: handshake_failure", "docs/SECURITY.md, What the implementation enforces"}
	mustSendC    = Must{"a client agreed to attest and sends no certificate, or one without evidence: certificate_required", "docs/SECURITY.md, What the implementation enforces"}
	mustPolicy   = Must{"the policy says no: access_denied", "docs/SECURITY.md, What the implementation enforces"}
	mustCarry    = Must{"signature, chain, revocation, another binder, nonce, key or role: bad_certificate", "docs/SECURITY.md, What the implementation enforces"}
	mustFirst    = Must{"evidence in the wrong entry or twice: illegal_parameter", "docs/SECURITY.md, What the implementation enforces"}
)

// Alerts.
const (
	alertHandshakeFailure    = 40
	alertBadCertificate      = 42
	alertIllegalParameter    = 47
	alertAccessDenied        = 49
	alertDecodeError         = 50
	alertDecryptError        = 51
	alertMissingExtension    = 109
	alertUnsupportedExt      = 110
	alertCertificateRequired = 116
	alertUnsupportedEvidence = 224
	alertUnsupportedVerifier = 225
)

// Cases returns all cases, in the order of the table.
func Cases() []*Case {
	var all []*Case
	add := func(c Case) { all = append(all, &c) }
	baseCases(add)
	attestCases(add)
	passportCases(add)
	twoKeyCases(add)
	exchangeCases(add)
	earlyCases(add)
	wrongCases(add)
	return all
}

// baseCases are handshakes without attestation.
func baseCases(add func(Case)) {
	add(Case{
		ID: "base", About: "a handshake with what both ends do by default", Mode: modeNone, Quick: true, roles: both,
		Must: mustFinished,
	})
	for _, s := range []struct {
		name  string
		suite uint16
	}{{"aes128", 0x1301}, {"aes256", 0x1302}, {"chacha20", 0x1303}} {
		add(Case{
			ID: "base.suite." + s.name, About: "the peer wants this cipher suite alone", Mode: modeNone, roles: both,
			Must: mustAES128, expect: expectation{suite: s.suite},
		})
	}
	for _, g := range []struct {
		name  string
		group uint16
	}{{"x25519", 29}, {"p256", 23}, {"p384", 24}, {"p521", 25}} {
		add(Case{
			ID: "base.group." + g.name, About: "the peer wants this group alone", Mode: modeNone, roles: both,
			Must: mustGroups, expect: expectation{group: g.group},
		})
	}
	add(Case{
		ID: "base.hrr", About: "the first key share does not suit the server", Mode: modeNone, Quick: true, roles: both,
		Must: mustSameHello, expect: expectation{retry: true},
	})
	for _, k := range []string{"p384", "rsa", "ed25519"} {
		add(Case{
			ID: "base.cert." + k, About: "the server has a key of this kind", Mode: modeNone, roles: both, cert: "-" + k,
			Must: mustVerify,
		})
	}
	add(Case{
		ID: "base.client-cert", About: "the client has a certificate", Mode: modeNone, roles: both, fork: func(f *flags) {
			if f.role == client {
				f.add("--cert", f.file("client.pem"), "--key", f.file("client.key"))
			} else {
				f.add("--client-ca", f.file("ca.pem"))
			}
		},
		Must: mustClientCert,
		expect: expectation{more: func(c *conversation) error {
			if m := c.first(client, typeCertificate, 0); m == nil || len(m.data) < 100 {
				return fmt.Errorf("the client sent no certificate")
			}
			return nil
		}},
	})
	add(Case{
		ID: "base.cert.large", About: "a Certificate message that takes three records", Mode: modeNone, roles: both, cert: "-large",
		Must: mustFragment,
		expect: expectation{more: func(c *conversation) error {
			if m := c.first(server, typeCertificate, 0); len(m.data) < largeSize {
				return fmt.Errorf("Certificate has %d bytes", len(m.data))
			}
			return nil
		}},
	})
	add(Case{
		ID: "base.ask", About: "the fork asks for evidence and does without", Mode: modeNone, Quick: true, roles: both, fork: func(f *flags) {
			f.verify = "local"
			f.add("--peer", "request")
			if f.role == server { // a request for a certificate would be in the way of peers without one
				f.c = &Case{ID: f.c.ID, Mode: f.c.Mode, only: true}
			}
		},
		Must: mustIgnore,
	})
	add(Case{
		ID: "refuse.no-evidence", About: "the fork requires evidence, and the peer does not know what that is", Mode: modeAttest, Quick: true, roles: both,
		fork: func(f *flags) {
			f.verify = "local"
			if f.role == server {
				f.c = &Case{ID: f.c.ID, Mode: f.c.Mode, only: true}
			}
		},
		Must: mustRequired, expect: expectation{alert: alertMissingExtension},
	})
	add(Case{
		ID: "page", About: "a browser shows the page of atls serve --http, with attestation asked for and not required", Mode: modeNone, roles: []side{client}, page: true,
		fork: func(f *flags) {
			f.verify, f.attest = "local", ""
			f.add("--peer", "request", "--http")
			f.c = &Case{ID: f.c.ID, Mode: f.c.Mode, only: true}
		},
		Must: mustIgnore,
		expect: expectation{more: func(c *conversation) error {
			if !bytes.Contains(c.application(server), []byte("TLS 1.3, ")) {
				return errors.New("the page does not say what was negotiated")
			}
			return nil
		}},
	})
}

// Who attests, in the id of a case.
var whos = []struct {
	name string
	who  []side
}{{"server", []side{server}}, {"client", []side{client}}, {"both", both}}

// Ways to attest, in the id of a case.
type way struct {
	name    string
	only    bool
	draft08 bool
}

var ways = []way{
	{"x509.hardened", false, false},
	{"x509.draft08", false, true},
	{"only.hardened", true, false},
	{"only.draft08", true, true},
}

// attestCases are handshakes with evidence, of one end or of both.
func attestCases(add func(Case)) {
	for _, who := range whos {
		for _, w := range ways {
			base := Case{
				ID: "attest." + who.name + "." + w.name, Mode: modeAttest, roles: both, attests: who.who, only: w.only, draft08: w.draft08,
				About: fmt.Sprintf("who attests: %s; %s", who.name, w.name), Must: mustInclusion,
				Quick: w.name == "x509.hardened",
			}
			add(base)
			if w.only {
				continue
			}
			for _, v := range []struct {
				name   string
				about  string
				expect expectation
			}{
				{"hrr", "after a HelloRetryRequest", expectation{retry: true}},
				{"aes256", "under SHA-384", expectation{suite: 0x1302}},
			} {
				c := base
				c.ID += "." + v.name
				c.About += ", " + v.about
				c.expect = v.expect
				c.Quick = false
				add(c)
			}
			if who.name == "both" {
				continue
			}
			if !w.draft08 {
				snp := base
				snp.ID += ".snp"
				snp.About += ", with a report of SEV-SNP"
				snp.Quick = false
				snp.fork = func(f *flags) {
					if f.attest != "" {
						f.attest = "softtee:snp"
					}
				}
				add(snp)
			}
			own := base
			own.ID += ".own"
			own.About += ", with evidence of the peer's own making, appraised through exec:"
			own.Quick = false
			own.roles = []side{who.who[0]}
			own.fork = appraiseOwn
			add(own)
			mismatch := base
			mismatch.ID += ".mismatch"
			mismatch.About = "the fork attests under the other rule, and the peer notices"
			mismatch.Must = mustRule
			mismatch.roles = []side{who.who[0].other()}
			mismatch.attests = nil
			mismatch.Quick = false
			mismatch.fork = func(f *flags) {
				f.attest, f.binding = "softtee:tdx", "draft-08"
				if w.draft08 {
					f.binding = "hardened"
				}
				if f.role == client {
					f.add("--cert", f.file("client.pem"), "--key", f.file("client.key"))
				}
			}
			mismatch.draft08 = false
			mismatch.expect = expectation{alert: alertBadCertificate, byPeer: true}
			add(mismatch)
		}
	}
}

// twoKeyCases are handshakes in which a certified key and an attested one sign.
func twoKeyCases(add func(Case)) {
	for _, who := range whos {
		add(Case{
			ID: "two-keys." + who.name, About: "a certified key and an attested key sign the session; who attests: " + who.name, Mode: modeAttest,
			Quick: who.name == "both", roles: both, attests: who.who, twoKeys: true, Must: mustTwoKeys,
		})
	}
}

// appraiseOwn has the fork appraise by the command in the peer's folder.
func appraiseOwn(f *flags) {
	f.verify = "exec:" + filepath.Join(f.peer, "verify") + " " + f.dir
	f.add("--evidence-type", ownType)
}

// ownType is the media type of the evidence that peers make by themselves: 64 bytes
// of report data, and over them a signature in DER by the key in peer-tee.key.
const ownType = "application/vnd.atls.interop-own"

// passportCases are handshakes with results in place of evidence.
func passportCases(add func(Case)) {
	for _, who := range whos {
		for _, w := range ways {
			if w.name == "only.draft08" {
				continue // nothing tells it from only.hardened
			}
			add(Case{
				ID: "passport." + who.name + "." + w.name, Mode: modePassport, roles: both, attests: who.who,
				only: w.only, draft08: w.draft08, Quick: w.name == "x509.hardened",
				About: fmt.Sprintf("who presents a result: %s; %s", who.name, w.name),
				Must:  mustVerifier,
			})
		}
	}
}

// exchangeCases attest after the handshake, or in it and after it.
func exchangeCases(add func(Case)) {
	for _, who := range whos {
		c := Case{
			ID: "expat." + who.name, About: "who attests after the handshake: " + who.name, Mode: modeExpat, roles: both, attests: who.who, Quick: true,
			Must: mustExported,
		}
		add(c)
		strong := c
		strong.ID += ".aes256"
		strong.About += ", under SHA-384"
		strong.Quick = false
		strong.expect.suite = 0x1302
		add(strong)
		if len(who.who) == 1 {
			own := c
			own.ID += ".own"
			own.About += ", with evidence of the peer's own making, appraised through exec:"
			own.roles, own.Quick, own.fork = who.who, false, appraiseOwn
			add(own)
		}
		c.ID = "combined." + who.name
		c.About = "who attests in the handshake and after it: " + who.name
		c.Mode = modeCombined
		add(c)
	}
}

// earlyCases are handshakes with evidence or results as the early draft has them, in
// revision -06 and where it stands in the id in -03.
func earlyCases(add func(Case)) {
	for _, who := range whos {
		base := Case{
			ID: "early." + who.name, About: "who attests by draft-fossati-seat-early-attestation-06: " + who.name, Mode: modeEarly, roles: both, attests: who.who,
			form: early06, Must: mustEarlyBinder, Quick: true,
		}
		add(base)
		for _, v := range []struct {
			name, about string
			expect      expectation
		}{
			{"hrr", "after a HelloRetryRequest", expectation{retry: true}},
			{"aes256", "under SHA-384", expectation{suite: 0x1302}},
		} {
			c := base
			c.ID, c.About, c.expect, c.Quick = c.ID+"."+v.name, c.About+", "+v.about, v.expect, false
			add(c)
		}
		passport := base
		passport.ID, passport.Mode, passport.Quick, passport.Must = base.ID+".passport", modePassport, false, mustEarlyScheme
		passport.About += ", with a result"
		add(passport)
		old := base
		old.ID, old.form, old.Quick = "early-03."+who.name, early03, false
		old.About = "who attests by revision -03: " + who.name
		add(old)
		strong := old
		strong.ID, strong.About, strong.expect.suite = old.ID+".aes256", old.About+", under SHA-384", 0x1302
		add(strong)
		if len(who.who) > 1 {
			continue
		}
		own := base
		own.ID, own.About = base.ID+".own", base.About+", with evidence of the peer's own making, appraised through exec:"
		own.roles, own.fork, own.Quick = who.who, appraiseOwn, false
		add(own)
		misread := base
		misread.ID, misread.About = base.ID+".misread", "the peer expects the binder of revision -03, and notices that it is another"
		misread.roles, misread.Must, misread.Quick = []side{who.who[0].other()}, mustEarlyRejected, false
		misread.expect = expectation{alert: alertAttestationFailed, byPeer: true}
		add(misread)
	}
}
