package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/cmw/signed"
	"github.com/attestedtls/atls/attestext/configfs"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/execplugin"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/results"
	"github.com/attestedtls/atls/attestext/scheduler"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/tls"
)

// A setup is the flags turned into what a connection needs.
type setup struct {
	ctx     context.Context // while it is made
	config  *tls.Config
	closers []io.Closer
	plugins []*execplugin.Command

	queue *scheduler.Scheduler // before the attester, if there is one
	tier  *attester.KeyTier    // of --key-tier
	fresh *refresher           // of --refresh-from
	local *verifier.Local      // of --verify local

	fetches *family // of --collateral-endpoint
}

// close waits for commands that still run, and closes what was opened, the last first: what
// runs until it is closed may use what was opened before.
func (s *setup) close() {
	if s.queue != nil {
		s.queue.Close()
	}
	for _, p := range s.plugins {
		p.Wait()
	}
	for _, c := range slices.Backward(s.closers) {
		c.Close()
	}
}

// unused reports a flag of the other end. Serve and dial share theirs and warn of it; for
// other commands it is a mistake.
func (f *connFlags) unused(server bool) error {
	switch {
	case server && f.ca != "":
		return usagef("--client-ca has clients show a certificate, and says from whom", "--ca has no effect on a server")
	case server && f.serverName != "":
		return usagef("it is what a client asks for", "--servername has no effect on a server")
	case !server && f.clientCA != "":
		return usagef("--ca says from whom the server's certificate has to be", "--client-ca has no effect on a client")
	}
	return nil
}

// setup makes the configuration of a server or a client. It waits for a first quote, or
// a first result, until ctx is done.
func (f *connFlags) setup(ctx context.Context, server bool) (_ *setup, err error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	s := &setup{ctx: ctx, config: &tls.Config{ServerName: f.serverName}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := f.identity(s, server); err != nil {
		return nil, err
	}
	if f.ca != "" {
		if s.config.RootCAs, err = readCertPool("ca", f.ca); err != nil {
			return nil, err
		}
	}
	if f.clientCA != "" {
		if s.config.ClientCAs, err = readCertPool("client-ca", f.clientCA); err != nil {
			return nil, err
		}
	}
	if server {
		switch {
		case f.clientCA != "" && (f.verify == "" || f.kind() == attestext.CertAttestation):
			s.config.ClientAuth = tls.RequireAndVerifyClientCert
			if f.clientCert == "request" {
				s.config.ClientAuth = tls.VerifyClientCertIfGiven
			}
		case f.verify != "" && f.clientCA == "" && f.kind() == attestext.CertAttestation:
			return nil, usagef("a client attests beside its certificate, which must come from somebody: --client-ca", "--verify on a server needs --client-ca")
		}
	}
	if server && f.clientFirst && (f.verify == "" || f.peer == "request") && s.config.ClientAuth != tls.RequireAndVerifyClientCert {
		return nil, usagef("add --verify, or --client-ca", "--client-first would show evidence to any client")
	}
	if err := f.attestation(s); err != nil {
		return nil, err
	}
	if f.keylog != "" {
		file, err := os.OpenFile(f.keylog, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, usagef("", "--keylog: %w", err)
		}
		s.closers = append(s.closers, file)
		s.config.KeyLogWriter = file
	}
	return s, nil
}

// identity loads the certificate and the key of this side.
func (f *connFlags) identity(s *setup, server bool) error {
	only := f.kind() == attestext.AttestationOnly && f.attest != ""
	switch {
	case f.cert != "" && f.key != "":
		certPEM, err := readFile("cert", f.cert)
		if err != nil {
			return err
		}
		keyPEM, err := readFile("key", f.key)
		if err != nil {
			return err
		}
		cert, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			return &malformedError{fmt.Errorf("--cert and --key: %w", err)}
		}
		s.config.Certificates = []tls.Certificate{cert}
	case f.cert != "":
		return usagef("give both, or neither", "--cert without --key")
	case f.key != "" && !only:
		return usagef("give both, or neither", "--key without --cert")
	case server && !only:
		return usagef(`"atls demo --write DIR" makes a pair to try with`, "a server needs --cert and --key")
	case !server && f.attest != "" && !only:
		return usagef("a client attests beside its certificate", "--attest on a client needs --cert and --key")
	}
	return nil
}

// attestation fills in Config.Attestation, if either end is to attest.
func (f *connFlags) attestation(s *setup) error {
	if f.attest == "" && f.verify == "" {
		_, err := f.points() // lest a mistake in the file wait until it counts
		return err
	}
	formats, err := f.formats()
	if err != nil {
		return err
	}
	kinds := []attestext.CredentialKind{f.kind()}
	a := &tls.AttestationConfig{
		Credentials:          kinds,
		PeerCredentials:      kinds,
		Binding:              f.bindingRule(),
		PeerBinding:          f.bindingRule(),
		AllowAttestationOnly: f.allowAttestationOnly,
		AttestTimeout:        f.timeout / 2,
		VerifyTimeout:        f.timeout / 2,
	}
	switch f.mode {
	case "post-handshake":
		a.Mode = tls.PostHandshake
	case "combined":
		a.Mode = tls.Combined
	}
	switch {
	case f.earlyForm == "03":
		a.Form = tls.FormEarly03
	case f.early():
		a.Form = tls.FormEarly
	}
	switch f.carriage {
	case "leading":
		a.Carriage = tls.CarriageLeading
	case "post-handshake":
		a.Carriage = tls.CarriagePostHandshake
	}
	a.ClientFirst, a.ResultsOnly = f.clientFirst, f.resultsOnly
	a.ReattestInterval = f.reattest
	if f.peer == "request" {
		a.Peer = tls.RequestAttestation
	}
	a.PeerAttestedKey = f.peerAttestedKey
	switch {
	case f.attest == "":
	case f.kind() == attestext.AttestationOnly && f.key != "":
		a.AttestedKey, err = readKey("key", f.key)
	case f.attestedKey == "new":
		a.AttestedKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case f.attestedKey != "":
		a.AttestedKey, err = readKey("attested-key", f.attestedKey)
	}
	if err != nil {
		return err
	}
	if path, ok := strings.CutPrefix(f.attest, "results:"); ok {
		a.Results, err = f.resultsHolder(s, a, path)
	} else {
		a.Attester, err = f.attester(s, formats)
		if err == nil && f.keyTier == 0 && f.quotes.wanted(f.attest) {
			s.queue, err = f.quotes.queue(a.Attester)
			a.Attester = s.queue
		}
	}
	if err != nil {
		return err
	}
	if f.verify == "results" {
		a.ResultsVerifier, err = f.resultsVerifier()
	} else {
		a.Verifier, err = f.verifier(s, formats)
	}
	if err != nil {
		return err
	}
	if a.CodePoints, err = f.points(); err != nil {
		return err
	}
	s.config.Attestation = a
	return nil
}

// points returns what --code-points says, or nil.
func (f *connFlags) points() (*attestext.CodePoints, error) {
	if f.codePoints == "" {
		return nil, nil
	}
	b, err := readFile("code-points", f.codePoints)
	if err != nil {
		return nil, err
	}
	points, err := attestext.ParseCodePoints(b)
	if err != nil {
		return nil, &malformedError{fmt.Errorf("--code-points: %w", err)}
	}
	return points, nil
}

// attester returns what --attest names, or nil.
func (f *connFlags) attester(s *setup, formats []attestext.EvidenceFormat) (attestext.Attester, error) {
	const hint = "it can be softtee:tdx, softtee:snp, softtee:eat, configfs, tpm:PATH, exec:COMMAND or results:FILE"
	scheme, rest, _ := strings.Cut(f.attest, ":")
	switch {
	case f.attest == "":
		return nil, nil
	case f.attest == "softtee:tdx":
		q, err := f.softTDX()
		if err != nil {
			return nil, err
		}
		return f.quoting(s, q, formats)
	case f.attest == "softtee:snp":
		return f.quoting(s, softtee.NewSNP(nil), formats)
	case f.attest == "softtee:eat":
		return f.narrowed(softtee.NewEAT(nil).Attester(), formats)
	case f.attest == "configfs":
		q, err := configfs.New()
		if err != nil {
			return nil, usagef("softtee:tdx and softtee:snp need no TEE, and prove nothing", "--attest configfs: %w", err)
		}
		logged, err := f.logged(q)
		if err != nil {
			return nil, err
		}
		return f.quoting(s, logged, formats)
	case f.attest == "tpm" || scheme == "tpm":
		return f.openTPM(s, rest, formats)
	case scheme == "exec":
		c, err := s.plugin("attest", rest, formats)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	return nil, usagef(hint, "--attest cannot be %q", f.attest)
}

// quoting returns an attester on q, narrowed to formats if there are some.
func (f *connFlags) quoting(s *setup, q attester.Quoter, formats []attestext.EvidenceFormat) (attestext.Attester, error) {
	if f.keyTier == 0 {
		return f.narrowed(attester.New(q), formats)
	}
	return f.tiered(s, formats, func(o *attester.KeyTierOptions) (*attester.KeyTier, error) { return attester.NewKeyTier(q, o) })
}

// narrowed returns a, whose wrappers are signed if --wrapper-key says so, narrowed to
// formats if there are some.
func (f *connFlags) narrowed(a attestext.Attester, formats []attestext.EvidenceFormat) (attestext.Attester, error) {
	if f.wrapperKey != "" {
		key, err := readKey("wrapper-key", f.wrapperKey)
		if err != nil {
			return nil, err
		}
		if !signed.Usable(key.Public()) {
			return nil, usagef("P-256, P-384 and Ed25519 can", "--wrapper-key: a %T cannot sign wrappers", key)
		}
		a = signed.NewAttester(a, key, nil)
	}
	if len(formats) == 0 {
		return a, nil
	}
	some := &someFormats{formats, a.Formats}
	if err := some.check("--attest "+f.attest, f.kind()); err != nil {
		return nil, err
	}
	return struct {
		*someFormats
		attesting
	}{some, a}, nil
}

// verifier returns what --verify names, or nil.
func (f *connFlags) verifier(s *setup, formats []attestext.EvidenceFormat) (attestext.Verifier, error) {
	const hint = "it can be local, veraison:URL, exec:COMMAND or results"
	scheme, rest, _ := strings.Cut(f.verify, ":")
	switch {
	case f.verify == "":
		return nil, nil
	case f.verify == "local":
		v, err := localVerifier(f.trustRoots, f.collateral, f.policy)
		if err != nil {
			return nil, err
		}
		s.local = v
		if f.collateralEndpoint != "" {
			src, count, err := addSource(v, f.collateralEndpoint)
			if err != nil {
				return nil, err
			}
			s.closers, s.fetches = append(s.closers, src), count
		}
		if len(formats) == 0 {
			return v, nil
		}
		some := &someFormats{formats, v.Formats}
		if err := some.check("--verify local", f.kind()); err != nil {
			return nil, err
		}
		return struct {
			*someFormats
			appraising
		}{some, v}, nil
	case scheme == "exec":
		c, err := s.plugin("verify", rest, formats)
		if err != nil {
			return nil, err
		}
		return c, nil
	case scheme == "veraison":
		return f.serviceVerifier(rest, formats)
	}
	return nil, usagef(hint, "--verify cannot be %q", f.verify)
}

// identities returns what --verifier-id names, nil if nothing.
func (f *connFlags) identities() []attestext.VerifierIdentity {
	var ids []attestext.VerifierIdentity
	for _, id := range f.verifierIDs {
		ids = append(ids, attestext.VerifierIdentity(id))
	}
	return ids
}

// resultsHolder returns a holder of the results in a file, which is read again when
// it changes.
func (f *connFlags) resultsHolder(s *setup, a *tls.AttestationConfig, path string) (attestext.ResultsHolder, error) {
	if f.refreshFrom != "" {
		r, err := f.newRefresher(s, a, path)
		if err != nil {
			return nil, err
		}
		return r.start(s)
	}
	if _, err := readFile("attest", path); err != nil {
		return nil, err
	}
	h, err := results.OpenHolder(path, nil)
	if err != nil {
		return nil, &malformedError{fmt.Errorf("--attest results: %w", err)}
	}
	if f.verify == "results" || len(f.verifierIDs) == 0 { // the identities are those to trust
		return h, nil
	}
	return &someResults{h, f.identities()}, nil
}

// parseTrust reads what results.ParseTrust does, or the key of the one verifier as
// atls verifier prints it, a JWK.
func parseTrust(b []byte, ids []attestext.VerifierIdentity) ([]results.Trust, error) {
	if len(ids) == 1 {
		if key, err := ear.ParseJWK(bytes.TrimSpace(b)); err == nil {
			return []results.Trust{{ID: ids[0], Keys: []crypto.PublicKey{key}}}, nil
		}
	}
	return results.ParseTrust(b, ids)
}

// resultsVerifier returns a verifier of results by those whom --trust-roots and
// --verifier-id name.
func (f *connFlags) resultsVerifier() (attestext.ResultsVerifier, error) {
	b, err := readFile("trust-roots", f.trustRoots)
	if err != nil {
		return nil, err
	}
	trust, err := parseTrust(b, f.identities())
	if err != nil {
		err = fmt.Errorf("--trust-roots: %w", err)
		if len(f.verifierIDs) != 1 {
			err = &hintedError{err, "a key by itself, as JWK or in PEM, needs one --verifier-id, whose key it is"}
		}
		return nil, &malformedError{err}
	}
	v, err := results.NewVerifier(trust, nil)
	if err != nil {
		return nil, &malformedError{fmt.Errorf("--trust-roots: %w", err)}
	}
	return v, nil
}

// someResults narrows a holder to the verifiers that --verifier-id names, in that order.
type someResults struct {
	attestext.ResultsHolder
	wanted []attestext.VerifierIdentity
}

// Verifiers returns the verifiers that are both wanted and held.
func (s *someResults) Verifiers() []attestext.VerifierIdentity {
	held := s.ResultsHolder.Verifiers()
	var ids []attestext.VerifierIdentity
	for _, w := range s.wanted {
		if slices.Contains(held, w) {
			ids = append(ids, w)
		}
	}
	return ids
}

func (s *setup) plugin(flagName, line string, formats []attestext.EvidenceFormat) (*execplugin.Command, error) {
	argv, err := execplugin.Split(line)
	if err != nil {
		return nil, usagef("the command is split into words as a shell would, and no shell is run", "--%s exec: %w", flagName, err)
	}
	c, err := execplugin.New(argv, formats...)
	if err != nil {
		return nil, usagef("", "--%s exec: %w", flagName, err)
	}
	s.plugins = append(s.plugins, c)
	return c, nil
}

// attesting and appraising are the interfaces without Formats.
type attesting interface {
	Attest(context.Context, *attestext.AttestRequest) ([]byte, error)
}

type appraising interface {
	Appraise(context.Context, *attestext.Evidence, *attestext.Challenge) (*attestext.Appraisal, error)
}

// someFormats narrows what an attester or verifier can do to what --evidence-type
// names, in that order.
type someFormats struct {
	wanted    []attestext.EvidenceFormat
	supported func(attestext.CredentialKind) []attestext.EvidenceFormat
}

// Formats returns the formats of kind that are both wanted and supported.
func (s *someFormats) Formats(kind attestext.CredentialKind) []attestext.EvidenceFormat {
	var formats []attestext.EvidenceFormat
	for _, w := range s.wanted {
		if slices.ContainsFunc(s.supported(kind), w.Matches) {
			formats = append(formats, w)
		}
	}
	return formats
}

// check reports a wanted format that is not supported.
func (s *someFormats) check(who string, kind attestext.CredentialKind) error {
	supported := s.supported(kind)
	for _, w := range s.wanted {
		if !slices.ContainsFunc(supported, w.Matches) {
			var names []string
			for _, f := range supported {
				names = append(names, f.String())
			}
			return usagef("it has "+strings.Join(names, ", "), "%s does not know the evidence type %v with %v", who, w, kind)
		}
	}
	return nil
}

// localVerifier returns a verifier made from files, each of which may be missing.
func localVerifier(trustRoots, collateral, policyFile string) (*verifier.Local, error) {
	v := &verifier.Local{Now: time.Now, TDXCache: tdx.NewCache(0), SNPCache: sevsnp.NewCache(0)}
	if trustRoots != "" {
		b, err := readFile("trust-roots", trustRoots)
		if err != nil {
			return nil, err
		}
		if err := v.SetRoots(b); err != nil {
			return nil, &malformedError{fmt.Errorf("--trust-roots: %s: %w", trustRoots, err)}
		}
	}
	if err := readCollateral(v, collateral); err != nil {
		return nil, err
	}
	if policyFile != "" {
		b, err := readFile("policy", policyFile)
		if err != nil {
			return nil, err
		}
		if v.Policy, err = policy.Parse(b); err != nil {
			return nil, &malformedError{fmt.Errorf("--policy: %w", err)}
		}
	}
	return v, nil
}

// readCollateral sets the collateral of v from a file; "" is none.
func readCollateral(v *verifier.Local, path string) error {
	if path == "" {
		return nil
	}
	b, err := readFile("collateral", path)
	if err != nil {
		return err
	}
	if err := v.SetCollateral(b); err != nil {
		return &malformedError{fmt.Errorf("--collateral: %w", err)}
	}
	return nil
}

func readCertPool(flagName, path string) (*x509.CertPool, error) {
	b, err := readFile(flagName, path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, &malformedError{fmt.Errorf("--%s: no certificate in %s", flagName, path)}
	}
	return pool, nil
}

// readKey reads a private key in PKCS #8, SEC 1 or PKCS #1.
func readKey(flagName, path string) (crypto.Signer, error) {
	b, err := readFile(flagName, path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, &malformedError{fmt.Errorf("--%s: no PEM in %s", flagName, path)}
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		}
	}
	if err != nil {
		return nil, &malformedError{fmt.Errorf("--%s: %s holds no private key that can be read", flagName, path)}
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, &malformedError{fmt.Errorf("--%s: a %T cannot sign", flagName, key)}
	}
	return signer, nil
}
