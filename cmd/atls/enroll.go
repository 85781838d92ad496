package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/attestedtls/atls/enroll"
	"github.com/attestedtls/atls/tls"
)

const caUsage = `Usage:
    atls ca --cert FILE --key FILE --rules FILE --issuer-cert FILE --issuer-key FILE
            --log FILE [--trust-roots FILE] [--collateral FILE] [--policy FILE] [FLAGS]

Gives machines that attest short-lived certificates, for names that the rules allow to
what they run: see "atls help enroll". It prints the address that it listens on, and a
line about each machine, until interrupted.

Examples:
    $ cat rules.json
    {"rules": [{"names": ["model.example"], "claims": {"mrtd": ["ec32…"]}}]}
    $ atls ca --cert pki/cert.pem --key pki/key.pem --rules rules.json --log ca.log \
        --issuer-cert issuer.pem --issuer-key issuer-key.pem --trust-roots pki/trust-roots.pem \
        --collateral pki/collateral.json --policy pki/policy.json

Flags:
    --listen ADDR               default 127.0.0.1:4434; port 0 is any that is free
    --cert FILE, --key FILE     the server's own certificate, by which machines know it
    --issuer-cert FILE, --issuer-key FILE
                                what certificates are signed with, in PEM. If neither
                                exists, both are made, for ten years
    --rules FILE                which names go to which claims and machines, JSON. What
                                the claims are, "atls verify --json" says
    --revoked FILE              machines, claims and serials that are revoked, JSON:
                                {"machines": […], "claims": {"mrtd": […]}, "serials": […]}.
                                It is read for each machine; if it is broken, nothing is
                                issued
    --log FILE                  one JSON object for each certificate and each refusal of a
                                machine that was appraised; it is only ever added to
    --lifetime DURATION         of certificates (default 24h)
    --crl ADDR                  serve the revocation list at http://ADDR/crl
    --crl-url URL               where certificates say that it is
    --verify HOW                local (default), exec:COMMAND or veraison:URL
    --trust-roots FILE, --collateral FILE, --collateral-endpoint WHERE, --policy FILE,
    --evidence-type TYPE        as of "atls serve"
    --timeout DURATION          bound on a machine (default 20s)
    --max-per-address N         how many machines are served at a time from one IPv4
                                address or one /64 of IPv6 (default 16), of 64 in all;
                                one more is hung up on
    --json                      one JSON object per machine on standard output
`

const enrollUsage = `Usage:
    atls enroll HOST:PORT --name NAME --attest TEE --cert FILE --key FILE [--ca FILE] [FLAGS]

Attests to the authority of "atls ca", which it knows by its certificate, and writes the
certificate that it issues. The evidence covers the session and the key.

Examples:
    $ atls enroll localhost:4434 --ca pki/ca.pem --name model.example --attest softtee:tdx \
        --cert cert.pem --key key.pem
    $ atls enroll ca.example:4434 --name model.example --attest configfs \
        --cert cert.pem --key key.pem --renew

Flags:
    --name NAME                 DNS name to ask for; repeatable
    --cert FILE                 where the certificate goes
    --key FILE                  its key, in PEM. If there is no such file, it is made
    --ca FILE                   authorities that the server's certificate may come from,
                                in PEM (default the system's)
    --servername NAME           name to ask the server for (default the host)
    --issuer-ca FILE            roots that what it issues must come from, in PEM
    --renew                     stay, and renew it when two thirds of its time are over
    --attest TEE, --ak-chain FILE, --wrapper-key FILE, --evidence-type TYPE
                                as of "atls dial"; results: does not do
    --timeout DURATION          bound on an enrolment (default 20s)
    --json                      one JSON object per certificate on standard output
`

const defaultCAListen = "127.0.0.1:4434"

// enrolment sets f to what both ends of an enrolment are, and registers the flags that
// they share.
func (f *connFlags) enrolment(fs *flag.FlagSet) {
	f.mode, f.carriage, f.binding = "tls-attest", "auto", "hardened"
	f.credential, f.allowAttestationOnly = "attestation-only", true
	fs.StringVar(&f.cert, "cert", "", "")
	fs.StringVar(&f.key, "key", "", "")
	fs.Func("evidence-type", "", func(s string) error { f.evidenceTypes = append(f.evidenceTypes, s); return nil })
	fs.DurationVar(&f.timeout, "timeout", 20*time.Second, "")
	fs.BoolVar(&f.json, "json", false, "")
}

func runCA(ctx context.Context, env *environment, args []string) error {
	var f connFlags
	fs := newFlagSet("ca")
	f.enrolment(fs)
	listen := fs.String("listen", defaultCAListen, "")
	fs.StringVar(&f.verify, "verify", "local", "")
	fs.StringVar(&f.trustRoots, "trust-roots", "", "")
	fs.StringVar(&f.collateral, "collateral", "", "")
	fs.StringVar(&f.collateralEndpoint, "collateral-endpoint", "", "")
	fs.StringVar(&f.policy, "policy", "", "")
	issuerCert := fs.String("issuer-cert", "", "")
	issuerKey := fs.String("issuer-key", "", "")
	rulesFile := fs.String("rules", "", "")
	revokedFile := fs.String("revoked", "", "")
	logFile := fs.String("log", "", "")
	lifetime := fs.Duration("lifetime", enroll.DefaultLifetime, "")
	crlAddr := fs.String("crl", "", "")
	crlURL := fs.String("crl-url", "", "")
	perAddr := fs.Int("max-per-address", enroll.DefaultMaxPerAddr, "")
	if _, err := parseArgs(fs, args, 0, caUsage); err != nil {
		return err
	}
	switch {
	case *rulesFile == "" || *issuerCert == "" || *issuerKey == "" || *logFile == "":
		return usagef(`"atls help ca" has an example`, "an authority needs --rules, --issuer-cert, --issuer-key and --log")
	case f.verify == "results":
		return usagef("", "--verify results does not do: a certificate takes evidence of this connection")
	case *lifetime < time.Second:
		return usagef("for example 24h", "--lifetime must be a second at least")
	case *perAddr < 1 || *perAddr > enroll.DefaultMaxConns:
		return usagef("", "--max-per-address is from 1 to %d", enroll.DefaultMaxConns)
	}
	setup, err := f.setup(ctx, true)
	if err != nil {
		return err
	}
	defer setup.close()
	a := &enroll.Authority{Lifetime: *lifetime, CRLURL: *crlURL}
	b, err := readFile("rules", *rulesFile)
	if err != nil {
		return err
	}
	if a.Rules, err = enroll.ParseRules(b); err != nil {
		return &malformedError{fmt.Errorf("--rules: %w", err)}
	}
	if *revokedFile != "" {
		a.Revocations = func() (*enroll.Revocations, error) {
			b, err := readFile("revoked", *revokedFile)
			if err != nil {
				return nil, err
			}
			r, err := enroll.ParseRevocations(b)
			if err != nil {
				return nil, &malformedError{fmt.Errorf("--revoked: %w", err)}
			}
			return r, nil
		}
		if _, err := a.Revocations(); err != nil {
			return err
		}
	}
	if a.Certificate, a.Key, err = issuer(*issuerCert, *issuerKey); err != nil {
		return err
	}
	if err := a.Validate(); err != nil {
		return &malformedError{fmt.Errorf("--issuer-cert and --issuer-key: %w", err)}
	}
	if a.Log, err = enroll.OpenLog(*logFile, time.Now()); err != nil {
		return usagef("", "--log: %w", err)
	}
	defer a.Log.Close()
	stdout, stderr := &lineWriter{w: env.stdout}, &lineWriter{w: env.stderr}
	announce := stdout
	if f.json {
		announce = stderr
	}
	s := &enroll.Server{
		Authority: a, Certificates: setup.config.Certificates, Verifier: setup.config.Attestation.Verifier, Timeout: f.timeout, MaxPerAddr: *perAddr,
		Report: func(remote net.Addr, e *enroll.Entry, err error) {
			reportEnrolment(stdout, stderr, remote, e, err, f.json)
		},
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", *listen)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	where := ""
	if *crlAddr != "" {
		cl, err := new(net.ListenConfig).Listen(ctx, "tcp", *crlAddr)
		if err != nil {
			l.Close()
			return fmt.Errorf("--crl: %w", err)
		}
		where = fmt.Sprintf("revocation list on http://%s/crl\n", cl.Addr())
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			serveHTTP(ctx, cl, crlHandler(a))
		}()
		defer func() { cancel(); <-stopped }()
	}
	fmt.Fprintf(announce, "listening on %s\n%s", l.Addr(), where)
	return s.Serve(ctx, l)
}

// reportEnrolment says what became of one machine.
func reportEnrolment(stdout, stderr *lineWriter, remote net.Addr, e *enroll.Entry, err error, asJSON bool) {
	if asJSON {
		var text any
		if err != nil {
			text = printable(err)
		}
		stdout.object(map[string]any{"ok": err == nil, "remote": remote.String(), "error": text, "entry": e})
		return
	}
	if err == nil {
		fmt.Fprintf(stdout, "issued %s for %q to %s (%s), until %s\n", e.Serial, e.Names, printable(e.Machine), e.Verdict, e.NotAfter.Format(time.RFC3339))
		return
	}
	fmt.Fprintf(stderr, "refused %s: %s\n", remote, printable(err))
}

func crlHandler(a *enroll.Authority) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /crl", func(w http.ResponseWriter, r *http.Request) {
		der, err := a.CRL()
		if err != nil {
			http.Error(w, "the revocation list cannot be made", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/pkix-crl")
		w.Write(der)
	})
	return mux
}

// issuer reads the certificate and the key of an authority, or makes them if neither
// file exists.
func issuer(certFile, keyFile string) (*x509.Certificate, crypto.Signer, error) {
	missing := func(path string) bool { _, err := os.Lstat(path); return errors.Is(err, fs.ErrNotExist) }
	if missing(certFile) && missing(keyFile) {
		key, err := keyOf("issuer-key", keyFile, newP256)
		if err != nil {
			return nil, nil, err
		}
		now := time.Now()
		template := &x509.Certificate{
			SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "atls ca " + now.UTC().Format(time.DateOnly)},
			NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return nil, nil, err
		}
		if err := os.WriteFile(certFile, certPEM(der), 0o644); err != nil {
			return nil, nil, usagef("", "--issuer-cert: %w", err)
		}
	}
	b, err := readFile("issuer-cert", certFile)
	if err != nil {
		return nil, nil, err
	}
	certs, err := certificates(b)
	if err != nil {
		return nil, nil, &malformedError{fmt.Errorf("--issuer-cert: %s: %w", certFile, err)}
	}
	key, err := readKey("issuer-key", keyFile)
	return certs[0], key, err
}

func runEnroll(ctx context.Context, env *environment, args []string) error {
	var f connFlags
	fs := newFlagSet("enroll")
	f.enrolment(fs)
	fs.StringVar(&f.ca, "ca", "", "")
	fs.StringVar(&f.serverName, "servername", "", "")
	fs.StringVar(&f.attest, "attest", "", "")
	fs.StringVar(&f.akChain, "ak-chain", "", "")
	fs.StringVar(&f.wrapperKey, "wrapper-key", "", "")
	issuerCA := fs.String("issuer-ca", "", "")
	renew := fs.Bool("renew", false, "")
	var names []string
	fs.Func("name", "", func(s string) error { names = append(names, s); return nil })
	rest, err := parseArgs(fs, args, 1, enrollUsage)
	if err != nil {
		return err
	}
	if f.attest == "" || f.cert == "" || f.key == "" || len(names) == 0 {
		return usagef(`"atls help enroll" has an example`, "to enroll takes --name, --attest, --cert and --key")
	}
	if _, _, err := net.SplitHostPort(rest[0]); err != nil {
		return usagef("for example ca.example:4434", "whom to ask: %w", err)
	}
	certFile, keyFile := f.cert, f.key
	key, err := resultsKey(keyFile)
	if err != nil {
		return err
	}
	f.cert, f.key = "", "" // there is no certificate yet
	setup, err := f.setup(ctx, false)
	if err != nil {
		return err
	}
	defer setup.close()
	attestation := setup.config.Attestation
	if attestation.Attester == nil {
		return usagef("", "--attest %s does not do: a certificate takes evidence of this connection", f.attest)
	}
	setup.config.Attestation = nil
	c := &enroll.Client{Addr: rest[0], TLS: setup.config, Attester: attestation.Attester, Key: key, Names: names, Timeout: f.timeout}
	if *issuerCA != "" {
		if c.Issuers, err = readCertPool("issuer-ca", *issuerCA); err != nil {
			return err
		}
	}
	if err := c.Validate(); err != nil {
		return usagef("", "%w", err)
	}
	stdout, stderr := &lineWriter{w: env.stdout}, &lineWriter{w: env.stderr}
	get := func(ctx context.Context) (*tls.Certificate, error) {
		cert, err := c.Enroll(ctx)
		if err == nil {
			err = writeChain(certFile, cert.Certificate)
		}
		if err != nil {
			return nil, err
		}
		serial, until := cert.Leaf.SerialNumber.Text(16), cert.Leaf.NotAfter.UTC().Format(time.RFC3339)
		if f.json {
			return cert, stdout.object(map[string]any{"ok": true, "serial": serial, "names": names, "not_after": until, "error": nil})
		}
		_, err = fmt.Fprintf(stdout, "%s is for %q, until %s\n", certFile, names, until)
		return cert, err
	}
	if !*renew {
		_, err := get(ctx)
		return enrolmentFailed(stdout, interrupted(ctx, err), f.json)
	}
	r, err := enroll.NewRenewer(ctx, get, func(_ *tls.Certificate, err error) {
		if err != nil {
			(&environment{stderr: stderr}).printError(fmt.Errorf("renewal: %w", err))
		}
	})
	if err != nil {
		return enrolmentFailed(stdout, interrupted(ctx, err), f.json)
	}
	<-ctx.Done()
	return r.Close()
}

// enrolmentFailed has --json say what went wrong as well, and returns err.
func enrolmentFailed(stdout *lineWriter, err error, asJSON bool) error {
	if err != nil && asJSON {
		m := map[string]any{"ok": false, "error": printable(err), "code": nil}
		if e, ok := errors.AsType[*enroll.Error](err); ok {
			m["code"] = e.Code
		}
		stdout.object(m)
	}
	return err
}

// writeChain replaces the file at once, so that nobody reads half of it.
func writeChain(path string, chain [][]byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".atls-")
	if err != nil {
		return usagef("", "--cert: %w", err)
	}
	defer os.Remove(file.Name())
	for _, der := range chain {
		err = errors.Join(err, pem.Encode(file, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	err = errors.Join(err, file.Chmod(0o644), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return usagef("", "--cert: %w", err)
	}
	return nil
}

// enrolmentStatus returns the exit status of a refusal.
func enrolmentStatus(e *enroll.Error) int {
	switch e.Code {
	case enroll.CodeName, enroll.CodeRevoked, enroll.CodePolicy:
		return statusPolicy
	case enroll.CodeRequest, enroll.CodeMalformed:
		return statusMalformed
	}
	return statusVerification
}
