package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
)

// sharedUsage is about the flags that serve and dial share.
const sharedUsage = `
Flags:
    --cert FILE, --key FILE     certificate chain and key in PEM; on dial, the client's.
                                With --credential attestation-only, --key alone is the
                                attested key; without it there is a new one each time
    --ca FILE                   authorities that the server's certificate may come
                                from, in PEM (dial; default the system's)
    --client-ca FILE            the same for client certificates (serve)
    --client-cert POLICY        require (default) or request a certificate of --client-ca;
                                request lets browsers in, and with --verify it needs
                                --peer request (serve)
    --servername NAME           name to ask for (dial; default the host)
    --mode MODE                 tls-attest (default): in the handshake; post-handshake:
                                after it, bound to the connection's exporter; combined:
                                both; early: in the handshake, as its successor has it;
                                or none: TLS alone. Alike on both ends
    --early-form REVISION       of draft-fossati-seat-early-attestation: 06 (default) or
                                03, which another implementation speaks. With --mode
                                combined, what is in the handshake is early as well
    --carriage HOW              what carries the authenticators of post-handshake and
                                combined: leading: application data ahead of any
                                other, which a peer on stock crypto/tls understands;
                                post-handshake: handshake records; auto (default): these
                                where both ends negotiate them, else leading
    --client-first              show evidence only to a client that was accepted, by --verify,
                                or where that is left out by --client-ca (serve); attest
                                before such a server does (dial). With --mode
                                post-handshake
    --reattest DURATION         have the peer attest again so often as long as the
                                connection is open, and close it otherwise (with --verify)
    --credential KIND           x509 (default): evidence beside a certificate, or
                                attestation-only: in place of one
    --allow-attestation-only    needed for that, because evidence alone does not say
                                which of all genuine machines answers
    --attested-key FILE         two keys: the certificate's says who this end is, and this
                                one, inside the TEE, is what the evidence covers; both
                                sign the session. "new" makes one up (with --attest)
    --peer-attested-key         accept that of the peer (with --verify)
    --binding RULE              hardened (default) or draft-08; alike on both ends
    --attest TEE                attest to the peer: configfs (the TEE that this machine
                                is, TDX or SEV-SNP), softtee:tdx, softtee:snp or
                                softtee:eat (which prove nothing, and are for trying
                                things out), tpm or tpm:PATH (a TPM 2.0, or the socket of
                                swtpm; see "atls help tpm-enroll"), exec:COMMAND, which
                                reads a JSON object and prints one (the documentation of
                                package attestext/execplugin has their members), or
                                results:FILE, which presents what a verifier said before
                                (passport)
    --key-tier AGE              one quote, AGE old at most, such as 10m, attests a key, and
                                the key session after session; there is another quote at
                                half of that. A peer accepts it if its policy says so:
                                docs/POLICY.md (with --attest of a TEE or a TPM)
    --epoch-from URL            with --key-tier: have each quote cover an epoch ID of the
                                issuer at URL, such as "atls verifier --epochs", so that it
                                shows its age. Otherwise a peer cannot tell how old it is
    --results-only              refuse to start where --attest could show anything else
                                than results
    --ak-chain FILE             with tpm: the certificate of its attestation key, and the
                                authorities below the root, in PEM
    --event-log FILE            with configfs: the event log of a TDX guest, which goes with
                                each quote and tells the peer what has booted. "auto" is
                                that of this guest, if its firmware keeps one, in
                                ` + attester.CCELPath + `.
                                With softtee:tdx, what it is to have measured
    --wrapper-key FILE          sign the wrapper of the evidence with this key, in PEM; the
                                peer has to have its PUBLIC KEY among its --trust-roots
    --verify HOW                have the peer attest, and appraise it: local, exec:COMMAND,
                                veraison:URL, which asks an appraisal service, or
                                results, which asks for such a result (passport)
    --refresh-from URL          with --attest results:FILE, have the appraisal service at URL
                                make the results: the first if there is none in FILE, and
                                another one before it expires. FILE is written. If that
                                fails, the old result serves until it expires, and no longer
    --refresh-with TEE          what makes the evidence for it, as --attest names it. The
                                identity of the service is the one --verifier-id, or URL
    --verifier-id ID            with results: whose to present or to trust; repeatable, in
                                order of preference. The default is all in the file
    --peer POLICY               require (default) or request evidence; with --verify
    --evidence-type TYPE        media type or content format number; repeatable, in
                                order of preference. The default for exec: is
                                application/vnd.veraison.tsm-report+cbor, or
                                with attestation-only the bundle of a KAT and a PAT
    --policy FILE               what --verify local accepts; without one, any genuine
                                and current TEE, with the verdict "warning"
    --trust-roots FILE          roots of the peer's TEE in PEM (default Intel's and
                                AMD's). One file may hold those of both; a TEE that
                                has none in it is not trusted. Blocks TPM ENROLLED KEY and
                                TPM AK ROOT CERTIFICATE are for TPMs, PUBLIC KEY for
                                signers of wrappers, EAT PUBLIC KEY for signers of EATs,
                                with a header Key-ID, in hexadecimal, where their EATs have
                                to name the key (kid), and EPOCH ISSUER KEY for who dates
                                quotes of the key tier. With --verify results the
                                keys of verifiers, in JSON, or in PEM or as a JWK
                                with one --verifier-id; with --verify veraison the service's
                                key, in PEM or as a JWK (default its own word)
    --collateral FILE           what the TEE's manufacturer says of its platforms, JSON.
                                What is AMD's is in the member "snp"; the revocation lists
                                of TPM AK ROOT CERTIFICATEs and the authorities below them
                                are in "tpm", as {"crls": "PEM"}
    --collateral-endpoint WHERE fetch what is not in --collateral, and keep it: the URL
                                of a service like Intel's PCS and AMD's KDS, or a JSON
                                file. Without it, nothing is ever fetched
    --code-points FILE          extension and alert numbers, JSON
    --keylog FILE               append the connection's secrets, as SSLKEYLOGFILE
    --timeout DURATION          bound on a handshake (default 20s); an attester or
                                verifier gets half of it
    --once                      end after one connection, with its status (serve)
    --json                      one JSON object per connection on standard output
`

// connFlags are the flags that serve and dial share, checked.
type connFlags struct {
	cert, key, ca, clientCA, serverName string

	clientCert string

	mode, earlyForm, carriage, credential, binding, peer string

	allowAttestationOnly           bool
	attestedKey                    string
	peerAttestedKey                bool
	attest, verify                 string
	clientFirst, resultsOnly       bool
	akChain, wrapperKey, eventLog  string
	evidenceTypes, verifierIDs     []string
	policy, trustRoots, collateral string
	collateralEndpoint             string
	codePoints, keylog             string
	timeout, reattest, keyTier     time.Duration
	once, json                     bool

	refreshFrom, refreshWith string
	epochFrom                string

	capture string // of dial alone

	quotes quoteFlags // of serve and proxy

	// warn is told what goes wrong beside connections; nil tells nobody.
	warn func(error)
}

// newFlagSet returns a set that says nothing by itself.
func newFlagSet(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
}

// parseArgs parses flags and arguments, in any order, and returns the arguments, of
// which there must be n. "--" ends the flags.
func parseArgs(fs *flag.FlagSet, args []string, n int, usage string) ([]string, error) {
	rest, err := parseOptional(fs, args, n, usage)
	if err == nil && len(rest) < n {
		err = wrongCount(fs, n, rest)
	}
	if err != nil {
		return nil, err
	}
	return rest, nil
}

// helpHint says where the usage is. It is not shown beside a mistake, which would scroll
// away.
func helpHint(fs *flag.FlagSet) string {
	return fmt.Sprintf("%q lists the flags", "atls help "+fs.Name())
}

func wrongCount(fs *flag.FlagSet, n int, rest []string) error {
	return usagef(helpHint(fs), "%s takes %d arguments beside its flags, got %d", fs.Name(), n, len(rest))
}

// parseOptional is parseArgs for up to n arguments.
func parseOptional(fs *flag.FlagSet, args []string, n int, usage string) ([]string, error) {
	var rest []string
	for len(args) > 0 {
		before := args
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, &helpError{usage}
			}
			return nil, usagef(helpHint(fs), "%w", err)
		}
		args = fs.Args()
		if i := len(before) - len(args) - 1; i >= 0 && before[i] == "--" {
			rest = append(rest, args...)
			break
		}
		if len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	if len(rest) > n {
		return nil, wrongCount(fs, n, rest)
	}
	return rest, emptyFlags(fs)
}

// isSet reports whether a flag was given.
func isSet(fs *flag.FlagSet, name string) (set bool) {
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// emptyFlags reports a flag that was given and is empty, as that of a variable is which a
// script has not set: without a value, --verify would verify nothing.
func emptyFlags(fs *flag.FlagSet) (err error) {
	fs.Visit(func(f *flag.Flag) {
		if g, ok := f.Value.(flag.Getter); ok && g.Get() == "" && err == nil {
			err = usagef("leave it out for its default", "--%s is empty", f.Name)
		}
	})
	return err
}

func (f *connFlags) register(fs *flag.FlagSet) {
	appendTo := func(list *[]string) func(string) error {
		return func(s string) error { *list = append(*list, s); return nil }
	}
	fs.StringVar(&f.cert, "cert", "", "")
	fs.StringVar(&f.key, "key", "", "")
	fs.StringVar(&f.ca, "ca", "", "")
	fs.StringVar(&f.clientCA, "client-ca", "", "")
	fs.StringVar(&f.clientCert, "client-cert", "", "")
	fs.StringVar(&f.serverName, "servername", "", "")
	fs.StringVar(&f.mode, "mode", "tls-attest", "")
	fs.StringVar(&f.earlyForm, "early-form", "", "")
	fs.StringVar(&f.carriage, "carriage", "auto", "")
	fs.StringVar(&f.credential, "credential", "x509", "")
	fs.BoolVar(&f.allowAttestationOnly, "allow-attestation-only", false, "")
	fs.StringVar(&f.attestedKey, "attested-key", "", "")
	fs.BoolVar(&f.peerAttestedKey, "peer-attested-key", false, "")
	fs.StringVar(&f.binding, "binding", "hardened", "")
	fs.StringVar(&f.attest, "attest", "", "")
	fs.BoolVar(&f.clientFirst, "client-first", false, "")
	fs.BoolVar(&f.resultsOnly, "results-only", false, "")
	fs.StringVar(&f.refreshFrom, "refresh-from", "", "")
	fs.StringVar(&f.refreshWith, "refresh-with", "", "")
	fs.StringVar(&f.akChain, "ak-chain", "", "")
	fs.StringVar(&f.wrapperKey, "wrapper-key", "", "")
	fs.StringVar(&f.eventLog, "event-log", "", "")
	fs.StringVar(&f.verify, "verify", "", "")
	fs.StringVar(&f.peer, "peer", "", "")
	fs.Func("evidence-type", "", appendTo(&f.evidenceTypes))
	fs.Func("verifier-id", "", appendTo(&f.verifierIDs))
	fs.StringVar(&f.policy, "policy", "", "")
	fs.StringVar(&f.trustRoots, "trust-roots", "", "")
	fs.StringVar(&f.collateral, "collateral", "", "")
	fs.StringVar(&f.collateralEndpoint, "collateral-endpoint", "", "")
	fs.StringVar(&f.codePoints, "code-points", "", "")
	fs.StringVar(&f.keylog, "keylog", "", "")
	fs.DurationVar(&f.timeout, "timeout", 20*time.Second, "")
	fs.DurationVar(&f.reattest, "reattest", 0, "")
	fs.DurationVar(&f.keyTier, "key-tier", 0, "")
	fs.StringVar(&f.epochFrom, "epoch-from", "", "")
	fs.BoolVar(&f.once, "once", false, "")
	fs.BoolVar(&f.json, "json", false, "")
}

// check reports values that do not exist or do not go together. A flag that would
// have no effect on what is verified is refused, lest somebody rely on it.
func (f *connFlags) check() error {
	for _, v := range []struct {
		flag, value string
		allowed     []string
	}{
		{"mode", f.mode, []string{"tls-attest", "post-handshake", "combined", "early", "none"}},
		{"early-form", f.earlyForm, []string{"", "06", "03"}},
		{"carriage", f.carriage, []string{"auto", "leading", "post-handshake"}},
		{"credential", f.credential, []string{"x509", "attestation-only"}},
		{"binding", f.binding, []string{"hardened", "draft-08"}},
		{"peer", f.peer, []string{"", "require", "request"}},
		{"client-cert", f.clientCert, []string{"", "require", "request"}},
	} {
		if !slices.Contains(v.allowed, v.value) {
			want := slices.DeleteFunc(v.allowed, func(s string) bool { return s == "" })
			return usagef("it can be "+strings.Join(want, " or "), "--%s cannot be %q", v.flag, v.value)
		}
	}
	switch {
	case f.kind() == attestext.AttestationOnly && !f.allowAttestationOnly:
		return usagef("evidence without a certificate does not say which of all genuine machines answers; --allow-attestation-only accepts that",
			"--credential attestation-only without --allow-attestation-only")
	case f.attestedKey != "" && (f.attest == "" || f.kind() == attestext.AttestationOnly):
		return usagef("with --credential attestation-only, --key is the attested key", "--attested-key is for --attest beside a certificate")
	case f.peerAttestedKey && (f.verify == "" || f.kind() == attestext.AttestationOnly):
		return usagef("", "--peer-attested-key is for --verify of a peer with a certificate")
	case (f.attestedKey != "" || f.peerAttestedKey) && f.binding != "hardened":
		return usagef("the draft's rule covers no key", "--attested-key and --peer-attested-key need --binding hardened")
	case f.exchanges() && f.kind() == attestext.AttestationOnly:
		return usagef("there is one in each exported authenticator", "--mode %s is with a certificate", f.mode)
	case f.exchanges() && (f.attestedKey != "" || f.peerAttestedKey):
		return usagef("its evidence covers the certificate's key", "--mode %s goes with neither --attested-key nor --peer-attested-key", f.mode)
	case f.exchanges() && f.attest == "" && f.verify == "":
		return usagef("", "--mode %s needs --attest or --verify", f.mode)
	case f.earlyForm != "" && f.mode != "early" && f.mode != "combined":
		return usagef("it is for --mode early and combined", "--early-form %s has no effect in --mode %s", f.earlyForm, f.mode)
	case f.early() && f.kind() == attestext.AttestationOnly:
		return usagef("its evidence comes beside one", "--mode %s is with a certificate", f.mode)
	case f.early() && (f.attestedKey != "" || f.peerAttestedKey):
		return usagef("its binder covers the certificate's key", "--mode %s goes with neither --attested-key nor --peer-attested-key", f.mode)
	case f.early() && f.binding != "hardened":
		return usagef("the early draft has a binding of its own", "--binding %s has no effect in --mode %s", f.binding, f.mode)
	case f.mode == "early" && f.attest == "" && f.verify == "":
		return usagef("", "--mode early needs --attest or --verify")
	case f.mode == "post-handshake" && f.binding != "hardened":
		return usagef("its binding is that of draft-fossati-seat-expat", "--binding %s has no effect in --mode post-handshake", f.binding)
	case f.exchanges() && f.carriage == "leading" && f.peer == "request":
		return usagef("nothing tells a peer that does not attest from one that does", "--peer request does not go with --carriage leading")
	case f.mode == "none" && f.carriage != "auto", (f.mode == "tls-attest" || f.mode == "early") && f.carriage == "leading":
		return usagef("it is for --mode post-handshake and combined", "--carriage %s has no effect in --mode %s", f.carriage, f.mode)
	case f.clientFirst && f.mode != "post-handshake":
		return usagef("in the handshake a server shows its evidence before the client's", "--client-first does not go with --mode %s", f.mode)
	case f.clientFirst && f.attest == "":
		return usagef("it says when this end attests", "--client-first has no effect without --attest")
	case f.resultsOnly && !strings.HasPrefix(f.attest, "results:"):
		return usagef("", "--results-only is for --attest results:FILE")
	case f.reattest < 0:
		return usagef("for example 1m", "--reattest cannot be negative")
	case f.reattest > 0 && f.verify == "":
		return usagef("--verify says how to appraise the peer", "--reattest has no effect without --verify")
	case f.reattest > 0 && f.carriage == "leading":
		return usagef("leave --carriage out", "--carriage leading is over before --reattest begins")
	case f.mode == "tls-attest" && (f.reattest > 0 || f.carriage == "post-handshake") && (f.kind() == attestext.AttestationOnly || f.attestedKey != "" || f.peerAttestedKey):
		return usagef("its evidence covers the key of a certificate", "re-attestation goes with neither --credential attestation-only nor two keys")
	case f.mode == "none" && (f.attest != "" || f.verify != ""):
		return usagef("leave --mode out", "--mode none goes with neither --attest nor --verify")
	case f.akChain != "" && !f.attestsByTPM():
		return usagef("", "--ak-chain is for --attest tpm")
	case f.eventLog != "" && !slices.ContainsFunc([]string{f.attest, f.refreshWith}, func(tee string) bool { return tee == "configfs" || tee == "softtee:tdx" }):
		return usagef("other TEEs have no such log", "--event-log is for --attest configfs and softtee:tdx")
	case f.keyTier < 0, f.keyTier > 0 && f.keyTier < time.Second:
		return usagef("for example 10m", "--key-tier must be a second at least")
	case f.keyTier > 0 && (!f.attestsByQuote() || f.attest == "softtee:eat"):
		return usagef("a command decides by itself what it quotes, and a result is no quote, nor is an EAT", "--key-tier is for --attest of a TEE or a TPM")
	case f.keyTier > 0 && f.quotes.set():
		return usagef("no connection waits for a quote of the key tier", "--key-tier goes with neither --quote-rate nor --quote-queue")
	case f.epochFrom != "" && f.keyTier == 0:
		return usagef("other quotes are made for one session, and need no date", "--epoch-from is for --key-tier")
	case f.eventLog == autoLog && f.attest != "configfs" && f.refreshWith != "configfs":
		return usagef("softtee:tdx has no log of its own; name a file", "--event-log auto is for --attest configfs")
	case f.wrapperKey != "" && !f.attestsByQuote():
		return usagef("", "--wrapper-key is for --attest of a TEE or a TPM")
	case f.peer != "" && f.verify == "":
		return usagef("--verify says how to appraise the peer", "--peer %s has no effect without --verify", f.peer)
	case f.clientCert != "" && f.clientCA == "":
		return usagef("it names whose certificates to accept", "--client-cert needs --client-ca")
	case f.clientCert == "request" && f.verify != "" && f.peer != "request":
		return usagef("a client attests beside its certificate", "--client-cert request needs --peer request, or no --verify")
	case f.verify != "local" && f.policy+f.collateral+f.collateralEndpoint != "", f.verify != "local" && f.verify != "results" && !strings.HasPrefix(f.verify, "veraison:") && f.trustRoots != "":
		return usagef("they are for --verify local", "--policy, --trust-roots, --collateral and --collateral-endpoint have no effect here, and the peer would not be held to them")
	case f.verify == "results" && f.trustRoots == "":
		return usagef("it names the keys that results are signed with", "--verify results needs --trust-roots")
	case len(f.verifierIDs) > 0 && f.verify != "results" && !strings.HasPrefix(f.attest, "results:"):
		return usagef("", "--verifier-id is for --attest results:FILE and --verify results")
	case len(f.evidenceTypes) > 0 && f.attest == "" && f.verify == "":
		return usagef("", "--evidence-type has no effect without --attest or --verify")
	case (f.refreshFrom == "") != (f.refreshWith == ""):
		return usagef("for example --refresh-from https://veraison.example:8443 --refresh-with configfs", "--refresh-from and --refresh-with go together")
	case f.refreshFrom != "" && !strings.HasPrefix(f.attest, "results:"):
		return usagef("", "--refresh-from is for --attest results:FILE")
	case f.refreshFrom != "" && f.verify != "results" && len(f.verifierIDs) > 1:
		return usagef("", "--refresh-from asks one service, and there are %d --verifier-id", len(f.verifierIDs))
	case f.quotes.set() && (f.attest == "" || strings.HasPrefix(f.attest, "results:")):
		return usagef("", "--quote-rate and --quote-queue are for --attest of a TEE")
	case f.timeout <= 0:
		return usagef("", "--timeout must be positive")
	}
	return nil
}

func (f *connFlags) kind() attestext.CredentialKind {
	if f.credential == "attestation-only" {
		return attestext.AttestationOnly
	}
	return attestext.CertAttestation
}

// attestsByQuote reports whether --attest names a TEE or a TPM, whose quotes this program
// makes into evidence.
func (f *connFlags) attestsByQuote() bool {
	scheme, _, _ := strings.Cut(f.attest, ":")
	return f.attest != "" && scheme != "exec" && scheme != "results"
}

// rule names the rule by which what is shown of a connection is bound.
func (f *connFlags) rule() string {
	if f.exchanges() {
		return attestext.BindingExpat.String()
	}
	if f.early() {
		return attestext.BindingEarly.String()
	}
	return f.binding
}

// early reports whether the ends attest in the handshake in the form of the early draft.
func (f *connFlags) early() bool { return f.mode == "early" || f.earlyForm != "" }

// exchanges reports whether the ends attest after the handshake.
func (f *connFlags) exchanges() bool { return f.mode == "post-handshake" || f.mode == "combined" }

func (f *connFlags) bindingRule() attestext.Binding {
	if f.binding == "draft-08" {
		return attestext.BindingDraft08
	}
	return attestext.BindingHardened
}

// formats returns the formats that --evidence-type names.
func (f *connFlags) formats() ([]attestext.EvidenceFormat, error) {
	var formats []attestext.EvidenceFormat
	for _, s := range f.evidenceTypes {
		if n, err := strconv.ParseUint(s, 10, 16); err == nil {
			formats = append(formats, attestext.EvidenceFormat{ContentFormat: uint16(n)})
			continue
		}
		if !strings.Contains(s, "/") {
			return nil, usagef("give a media type such as application/eat+cwt, or a number up to 65535", "--evidence-type cannot be %q", s)
		}
		formats = append(formats, attestext.EvidenceFormat{MediaType: s})
	}
	return formats, nil
}

// readFile reads a file that a flag names, up to a bound.
func readFile(flagName, path string) ([]byte, error) {
	const maxFile = 4 << 20
	file, err := os.Open(path)
	if err != nil {
		return nil, usagef("check the path", "--%s: %w", flagName, err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, usagef("", "--%s: %w", flagName, err)
	}
	if len(b) > maxFile {
		return nil, &malformedError{fmt.Errorf("--%s: %s has more than %d bytes", flagName, path, maxFile)}
	}
	return b, nil
}
