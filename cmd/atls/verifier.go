package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/epoch"
	"github.com/attestedtls/atls/attestext/veraison"
)

const verifierUsage = `Usage:
    atls verifier [--listen ADDR] [FLAGS]

Appraises evidence for others, by the challenge-response API of the Veraison project.
It prints the address that it listens on, the key that its results are verified with,
and what it says of each piece of evidence, until interrupted.

It speaks HTTP and authenticates nobody: to serve other machines, put a server with a
certificate in front of it.

Examples:
    $ atls verifier --trust-roots pki/trust-roots.pem \
        --collateral pki/collateral.json --policy pki/policy.json
    $ echo hello | atls dial localhost:4433 --ca pki/ca.pem \
        --verify veraison:http://127.0.0.1:8080

Flags:
    --listen ADDR                  default 127.0.0.1:8080; port 0 is any that is free
    --trust-roots FILE             roots of the TEE in PEM (default Intel's and AMD's)
    --collateral FILE              what the manufacturer says of its platforms, JSON
    --collateral-endpoint WHERE    fetch what is not in it, and keep it: the URL of a
                                   service like Intel's PCS and AMD's KDS, or a JSON
                                   file. Without it, nothing is ever fetched
    --policy FILE                  what is acceptable; without one, any genuine and
                                   current TEE, with the verdict "warning", which
                                   --verify veraison does not accept
    --key FILE                     signs results: P-256, P-384 or Ed25519 in PEM. If there
                                   is no such file, it is made; without the flag, there is
                                   a new key each time
    --epochs FILE                  issue epoch IDs at http://ADDR/epoch, which date quotes of
                                   "atls serve --key-tier", signed by this key: Ed25519 in
                                   PEM, made if there is no such file. Who relies on them has
                                   the EPOCH ISSUER KEY that is printed among --trust-roots
    --lifetime DURATION            how long results are valid (default 5m)
    --own-nonces                   choose every nonce here, for results that machines show to
                                   others (--refresh-from): with a nonce of its own choice a
                                   machine can have evidence from before appraised. Not for
                                   --verify veraison, which has to choose it
    --metrics ADDR                 serve metrics at http://ADDR/metrics, in the format of
                                   Prometheus. They are for whoever can connect
    --json                         one JSON object per piece of evidence on standard output
`

const (
	defaultVerifierListen = "127.0.0.1:8080"

	// Bounds on the requests to a verifier, and how long those under way may take
	// once it is interrupted.
	verifierHeaderTimeout = 10 * time.Second
	verifierTimeout       = 30 * time.Second
	verifierGrace         = 5 * time.Second
	verifierHeaderBytes   = 16 << 10

	// epochPath is where epoch IDs are.
	epochPath = "/epoch"
)

func runVerifier(ctx context.Context, env *environment, args []string) error {
	fs := newFlagSet("verifier")
	listen := fs.String("listen", defaultVerifierListen, "")
	trustRoots := fs.String("trust-roots", "", "")
	collateral := fs.String("collateral", "", "")
	endpoint := fs.String("collateral-endpoint", "", "")
	policyFile := fs.String("policy", "", "")
	keyFile := fs.String("key", "", "")
	epochs := fs.String("epochs", "", "")
	lifetime := fs.Duration("lifetime", veraison.DefaultResultLifetime, "")
	ownNonces := fs.Bool("own-nonces", false, "")
	metricsAddr := fs.String("metrics", "", "")
	asJSON := fs.Bool("json", false, "")
	if _, err := parseArgs(fs, args, 0, verifierUsage); err != nil {
		return err
	}
	if *lifetime < time.Second {
		return usagef("for example 24h", "--lifetime must be a second at least")
	}
	started := time.Now()
	local, err := localVerifier(*trustRoots, *collateral, *policyFile)
	if err != nil {
		return err
	}
	var fetches *family
	if *endpoint != "" {
		src, count, err := addSource(local, *endpoint)
		if err != nil {
			return err
		}
		defer src.Close()
		fetches = count
	}
	key, err := resultsKey(*keyFile)
	if err != nil {
		return err
	}
	var issuer *epoch.Issuer
	if *epochs != "" {
		if issuer, err = newIssuer(*epochs); err != nil {
			return err
		}
	}
	stdout, stderr := &lineWriter{w: env.stdout}, &lineWriter{w: env.stderr}
	m := newServiceMetrics()
	s, err := veraison.NewService(&veraison.ServiceOptions{
		Verifier: measured{local, m.appraise}, Key: key, Build: "atls verifier", ResultLifetime: *lifetime, OwnNonces: *ownNonces,
		Log: func(a veraison.Appraised) { m.count(a); logAppraised(stdout, stderr, a, *asJSON) },
	})
	if err != nil {
		return usagef("a key of P-256, P-384 or Ed25519", "--key: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", *listen)
	if err != nil {
		return err
	}
	announce := stdout
	if *asJSON {
		announce = stderr
	}
	where, stop, err := serveMetrics(ctx, *metricsAddr, func() *exposition {
		e := m.exposition(local, started)
		if fetches != nil {
			e.families = append(e.families, fetches)
		}
		return e
	})
	if err != nil {
		l.Close()
		return err
	}
	defer stop()
	fmt.Fprintf(announce, "listening on %s\n%s", l.Addr(), where)
	fmt.Fprintf(announce, "results are signed by %s\n", s.JWK())
	var h http.Handler = s
	if issuer != nil {
		fmt.Fprintf(announce, "epoch IDs are at http://%s%s, and relying parties verify them by\n%s", l.Addr(), epochPath, issuer.MarshalPEM())
		mux := http.NewServeMux()
		mux.Handle("/", s)
		mux.Handle(epochPath, issuer)
		h = mux
	}
	return serveHTTP(ctx, l, m.counting(h))
}

// serveHTTP serves h until ctx is done, which is no error, and lets requests that are
// under way finish.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: verifierHeaderTimeout, ReadTimeout: verifierTimeout,
		WriteTimeout: 2 * verifierTimeout, IdleTimeout: verifierTimeout, MaxHeaderBytes: verifierHeaderBytes,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.Background(), verifierGrace)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// verdictOf is the tier of the result, or "none" where there is no result.
func verdictOf(a veraison.Appraised) string { return cmp.Or(a.Verdict, "none") }

// logAppraised says what became of one piece of evidence.
func logAppraised(stdout, stderr *lineWriter, a veraison.Appraised, asJSON bool) {
	verdict := verdictOf(a)
	if asJSON {
		var text any
		if a.Err != nil {
			text = printable(a.Err)
		}
		stdout.object(map[string]any{"ok": a.Err == nil, "verdict": verdict, "evidence_type": a.MediaType, "error": text})
		return
	}
	fmt.Fprintf(stdout, "%s: %s\n", verdict, printable(a.MediaType))
	if a.Err != nil {
		stderr.error(a.Err)
	}
}

// resultsKey returns the key of --key, P-256 where it is made; see keyOf.
func resultsKey(path string) (crypto.Signer, error) {
	return keyOf("key", path, newP256)
}

func newP256() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// newIssuer returns an issuer of epoch IDs that signs with the key in the file, which it
// makes if it does not exist.
func newIssuer(path string) (*epoch.Issuer, error) {
	key, err := keyOf("epochs", path, func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	})
	if err != nil {
		return nil, err
	}
	k, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, usagef("name a file that does not exist, and it is made", "--epochs: epoch IDs are signed with Ed25519, not with a %T", key)
	}
	return epoch.NewIssuer(k, nil)
}

// keyOf returns the key in the file that a flag names. It makes it if the file does not
// exist, and a new one each time if path is empty.
func keyOf(flagName, path string, newKey func() (crypto.Signer, error)) (crypto.Signer, error) {
	if path != "" {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return readKey(flagName, path)
		}
	}
	key, err := newKey()
	if err != nil || path == "" {
		return key, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, usagef("check the path", "--%s: %w", flagName, err)
	}
	err = pem.Encode(file, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, usagef("", "--%s: %w", flagName, err)
	}
	return key, nil
}

// serviceVerifier returns a client of the appraisal service at address.
func (f *connFlags) serviceVerifier(address string, formats []attestext.EvidenceFormat) (attestext.Verifier, error) {
	opts := &veraison.ClientOptions{Formats: formats, Timeout: f.timeout / 2}
	if f.trustRoots != "" {
		b, err := readFile("trust-roots", f.trustRoots)
		if err != nil {
			return nil, err
		}
		if opts.Keys, err = parseKeys(b); err != nil {
			return nil, &malformedError{fmt.Errorf("--trust-roots: %w", err)}
		}
	}
	c, err := veraison.NewClient(address, opts)
	if err != nil {
		return nil, usagef("for example --verify veraison:https://veraison.example:8443", "--verify veraison: %w", err)
	}
	return c, nil
}

// parseKeys reads public keys in PEM, or one as a JSON Web Key.
func parseKeys(b []byte) (keys []crypto.PublicKey, err error) {
	if b := bytes.TrimSpace(b); bytes.HasPrefix(b, []byte("{")) {
		keys = make([]crypto.PublicKey, 1)
		keys[0], err = ear.ParseJWK(b)
	} else {
		keys, err = ear.ParsePEM(b)
	}
	if err != nil {
		return nil, fmt.Errorf("want public keys in PEM, or one as a JWK: %w", err)
	}
	return keys, nil
}
