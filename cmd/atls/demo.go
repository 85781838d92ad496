package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/tls"
)

const demoUsage = `Usage:
    atls demo [--write DIR] [--json]

Runs two attested handshakes on loopback, with a TEE in software, and says what
happens in them: one is accepted and one refused. It needs no file and no network.

    --write DIR    also write certificates, keys, roots, collateral, a policy and a
                   sample of evidence, for serve, dial, inspect and verify. Files that
                   exist are left alone
    --json         one JSON object per step
`

func runDemo(ctx context.Context, env *environment, args []string) error {
	fs := newFlagSet("demo")
	write := fs.String("write", "", "")
	asJSON := fs.Bool("json", false, "")
	if _, err := parseArgs(fs, args, 0, demoUsage); err != nil {
		return err
	}
	d := &demo{now: time.Now(), out: env.stdout}
	if *asJSON {
		d.json = &lineWriter{w: env.stdout}
	}
	if err := d.run(ctx); err != nil {
		return err
	}
	if *write != "" {
		return d.write(*write)
	}
	return nil
}

// A demo tells a story.
type demo struct {
	now  time.Time
	out  io.Writer
	json *lineWriter // nil for people

	step int
	pki  *demoPKI
}

// A demoStep is one step, as an object.
type demoStep struct {
	Step  int               `json:"step"`
	Title string            `json:"title"`
	Text  string            `json:"text"`
	Facts map[string]string `json:"facts,omitempty"`
}

// A fact is a value with its name.
type fact struct{ name, value string }

// tell says one step.
func (d *demo) tell(title, text string, facts ...fact) {
	d.step++
	if d.json != nil {
		s := demoStep{Step: d.step, Title: title, Text: strings.Join(strings.Fields(text), " "), Facts: map[string]string{}}
		for _, f := range facts {
			s.Facts[f.name] = f.value
		}
		d.json.object(s)
		return
	}
	fmt.Fprintf(d.out, "%d. %s\n", d.step, title)
	for line := range strings.Lines(strings.TrimSpace(text)) {
		fmt.Fprintf(d.out, "   %s\n", strings.TrimSpace(line))
	}
	for _, f := range facts {
		fmt.Fprintf(d.out, "     %-12s %s\n", f.name, f.value)
	}
	fmt.Fprintln(d.out)
}

func (d *demo) run(ctx context.Context) error {
	var err error
	if d.pki, err = newDemoPKI(d.now); err != nil {
		return err
	}
	d.tell("The cast",
		`A client wants to talk to a server, and to know first what software the
		 server runs. The server runs in a trusted execution environment (TEE), whose
		 hardware signs what was loaded into it: a quote.
		 WARNING: the TEE here is "softtee", a fake in software. Its keys are public,
		 and its quotes prove nothing. Everything else is the real thing.`)

	a, err := d.connect(ctx, softtee.NewTDX(nil))
	if err != nil {
		return err
	}
	if a.clientErr != nil {
		return a.clientErr
	}
	if a.serverErr != nil {
		return a.serverErr
	}
	d.accepted(a)

	tampered := softtee.NewTDX(&softtee.TDXOptions{Tamper: func(quote []byte) []byte {
		quote[mrtdOffset] ^= 1
		return quote
	}})
	if a, err = d.connect(ctx, tampered); err != nil {
		return err
	}
	return d.refused(a)
}

// mrtdOffset is where MRTD begins in a quote: behind the header (48 bytes), at 0x88
// of the TD report body.
const mrtdOffset = 48 + 0x88

func (d *demo) accepted(a *demoConnection) {
	result := a.client.PeerAttestation
	ch := result.Challenge()
	d.tell("The client challenges the server",
		`In its ClientHello the client lists the kinds of evidence that it can have
		 appraised, and sends a nonce: random bytes that nobody has seen before
		 (extension evidence_request).`,
		fact{"nonce", hex.EncodeToString(ch.Nonce)},
		fact{"agreed on", result.Evidence().Type.String()})
	d.tell("Both derive the channel binder",
		`From the secret of this one handshake and the nonce, both ends compute the
		 same binder. Somebody in the middle has two handshakes and so two binders.`,
		fact{"binder", hex.EncodeToString(ch.Binder)})
	rd, _ := ch.ReportData()
	d.tell("The TEE quotes it",
		`The server has its TEE sign a quote over the binder, the key of its
		 certificate and its role (the "hardened" binding). The quote travels beside
		 the certificate, in a wrapper that names its type (a CMW).`,
		fact{"REPORTDATA", hex.EncodeToString(rd[:])},
		fact{"evidence", fmt.Sprintf("%d bytes", len(result.Evidence().CMW))})
	claims := result.Claims()
	d.tell("The client reads what the quote says",
		`MRTD measures the machine image, the RTMRs what it loaded later.`,
		fact{"MRTD", fmt.Sprint(claims["mrtd"])},
		fact{"debug", fmt.Sprint(claims["debug"])},
		fact{"TCB status", fmt.Sprint(claims["tcb_status"])},
		fact{"machine", result.Machine()})
	d.tell("The client decides",
		`Before any application byte moves, it has checked: the chain and the name of
		 the certificate; the manufacturer's signatures, revocation and TCB level; that
		 the quote is over the binder that it computed itself; and that the policy
		 accepts the measurements.`,
		fact{"verdict", result.Verdict()},
		fact{"TLS", fmt.Sprintf("%s, %s, %v", tls.VersionName(a.client.Version), tls.CipherSuiteName(a.client.CipherSuite), a.client.CurveID)})
	d.tell("The first application bytes",
		`The gate opens.`,
		fact{"sent", demoLine}, fact{"received", strings.TrimSpace(a.reply)})
}

func (d *demo) refused(a *demoConnection) error {
	if a.clientErr == nil {
		return fmt.Errorf("a tampered quote was accepted: %w", attestext.ErrSignature)
	}
	d.tell("A second server lies",
		`It runs something else, and changes one bit of MRTD in the quote on the way
		 from the TEE to the client. The signature does not fit any more, and the
		 connection is refused before an application byte has moved.`,
		fact{"refused", a.clientErr.Error()},
		fact{"alert", fmt.Sprintf("%d (%s)", a.alert, strings.TrimPrefix(a.alert.Error(), "tls: "))},
		fact{"server saw", a.serverErr.Error()})
	d.tell("What now",
		`"atls demo --write DIR" writes the files to do this between two terminals.
		 "atls help" lists the other commands. And remember that softtee is a fake
		 TEE: never trust its roots where a verdict matters.`)
	return nil
}

// A demoConnection is what both ends saw of one connection.
type demoConnection struct {
	client               tls.ConnectionState
	clientErr, serverErr error
	alert                tls.AlertError // that the client sent
	reply                string
}

const (
	demoLine    = "hello, attested world"
	demoTimeout = 30 * time.Second
)

// connect runs one connection over loopback, to a server in tee.
func (d *demo) connect(ctx context.Context, tee *softtee.TDX) (*demoConnection, error) {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	collateral, err := softtee.Collateral(d.now.Add(-time.Hour))
	if err != nil {
		return nil, err
	}
	reference, err := policy.Parse(softtee.Policy())
	if err != nil {
		return nil, err
	}
	serverConfig := &tls.Config{
		Certificates: []tls.Certificate{d.pki.server},
		Attestation:  &tls.AttestationConfig{Attester: tee.Attester()},
	}
	clientConfig := &tls.Config{
		RootCAs:    d.pki.pool(),
		ServerName: "localhost",
		Attestation: &tls.AttestationConfig{
			Verifier: &verifier.Local{TDXRoots: softtee.Roots(), TDXCollateral: collateral, Policy: reference},
		},
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	a := &demoConnection{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.serverErr = d.serve(ctx, l, serverConfig)
	}()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	s := newSession(raw, func(c net.Conn) *tls.Conn { return tls.Client(c, clientConfig) })
	if a.clientErr = s.shake(ctx, demoTimeout); a.clientErr == nil {
		var reply bytes.Buffer
		a.clientErr = s.converse(strings.NewReader(demoLine+"\n"), &reply)
		a.reply = reply.String()
	}
	s.close(a.clientErr)
	<-done
	a.client = s.conn.ConnectionState()
	a.alert, _ = s.conn.AlertSent()
	return a, nil
}

// serve is the server's end of connect.
func (d *demo) serve(ctx context.Context, l net.Listener, config *tls.Config) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	raw, err := l.Accept()
	if err != nil {
		return err
	}
	s := newSession(raw, func(c net.Conn) *tls.Conn { return tls.Server(c, config) })
	if err = s.shake(ctx, demoTimeout); err == nil {
		err = s.echo()
	}
	s.close(err)
	return err
}

// write writes the files and says what to do with them.
func (d *demo) write(dir string) error {
	files, err := demoFiles(d.now)
	if err != nil {
		return err
	}
	if err := writeDemoFiles(dir, files); err != nil {
		return err
	}
	serve, dial := demoCommands(dir)
	if d.json != nil {
		names := make([]string, len(files))
		for i, f := range files {
			names[i] = f.name
		}
		return d.json.object(map[string]any{"written": dir, "files": names, "serve": serve, "dial": dial})
	}
	fmt.Fprintf(d.out, "Wrote into %s:\n", dir)
	for _, f := range files {
		fmt.Fprintf(d.out, "     %-16s %s\n", f.name, f.about)
	}
	fmt.Fprintf(d.out, "\nIn one terminal:\n\n%s\n\nIn another:\n\n%s\n", serve, dial)
	return nil
}

// shellQuote quotes s for a POSIX shell, if it needs to be.
func shellQuote(s string) string {
	for _, r := range s {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:", r) {
			return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
		}
	}
	return s
}
