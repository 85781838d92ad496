package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/configfs"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tsm"
)

// The test binary is the command of exec: flags as well.

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "as-command" {
		os.Exit(asCommand(os.Args[2], os.Args[3:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "as-atls" { // the command itself, as a process
		os.Args = os.Args[1:]
		main()
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // under -race a process waits a second before it exits
	status := m.Run()
	if pkiDir != "" {
		os.RemoveAll(pkiDir)
	}
	os.Exit(status)
}

// asCommand is an attester or a verifier of evidence that is a JSON object, signed by

// nobody.

func asCommand(what string, args []string) int {
	var in struct {
		Type       string
		ReportData []byte `json:"report_data"`
		Challenge  []byte
		SPKI       []byte
		CMW        []byte
	}
	if json.NewDecoder(os.Stdin).Decode(&in) != nil {
		return 1
	}
	answer := func(v any) int {
		if json.NewEncoder(os.Stdout).Encode(v) != nil {
			return 1
		}
		return 0
	}
	type evidence struct{ ReportData, Challenge, Key []byte }
	switch what {
	case "attest":
		b, _ := json.Marshal(evidence{in.ReportData, in.Challenge, in.SPKI})
		w, err := (&cmw.Record{Format: attestext.EvidenceFormat{MediaType: in.Type}, Value: b}).CBOR()
		if err != nil {
			return 1
		}
		return answer(map[string]any{"cmw": w})
	case "quote", "snp": // as the software TEE would
		var rd [attestext.ReportDataSize]byte
		copy(rd[:], in.ReportData)
		var tee attester.Quoter = softtee.NewTDX(nil)
		if what == "snp" {
			o := &softtee.SNPOptions{Debug: args[0] == "debug", MigrationAgent: args[0] == "migration"}
			if args[0] == "tamper" {
				o.Tamper = func(b []byte) []byte { b[0x90] ^= 1; return b }
			}
			tee = softtee.NewSNP(o)
		}
		report, err := tee.Report(context.Background(), rd)
		if err != nil {
			return 1
		}
		b, _ := report.CBOR()
		w, err := (&cmw.Record{Format: tsm.FormatCBOR, Value: b}).CBOR()
		if err != nil {
			return 1
		}
		return answer(map[string]any{"cmw": w})
	case "bundle": // as the software TEE would, in place of a certificate of a client's
		tee := softtee.NewTDX(&softtee.TDXOptions{Debug: args[0] == "debug"})
		if args[0] == "other" {
			tee = softtee.NewTDX(&softtee.TDXOptions{Seed: "other"})
		}
		var a attestext.Attester = tee.Attester()
		if args[0] == "undated" {
			k, err := attester.NewKeyTier(tee, &attester.KeyTierOptions{MaxAge: time.Hour})
			if err != nil || k.Renew(context.Background()) != nil {
				return 1
			}
			a = k
		}
		b, err := a.Attest(context.Background(), bundleRequest(in.Challenge, in.SPKI))
		if err != nil {
			return 1
		}
		return answer(map[string]any{"cmw": b})
	case "send": // its argument, whatever that is
		b, _ := hex.DecodeString(args[0])
		return answer(map[string]any{"cmw": b})
	case "verify-once": // and then the policy says no; its argument is a file that is not there yet
		file, err := os.OpenFile(args[0], os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return answer(map[string]any{"ok": false, "class": "policy", "reason": "once was enough"})
		}
		file.Close()
		return asAnswer(in.CMW, in.Challenge, in.ReportData, answer)
	case "verify":
		return asAnswer(in.CMW, in.Challenge, in.ReportData, answer)
	case "refuse":
		return answer(map[string]any{"ok": false, "class": args[0], "reason": "not today"})
	case "fail":
		fmt.Fprintln(os.Stderr, "the TEE is gone")
		return 1
	case "hang":
		time.Sleep(time.Hour)
	case "hang-on": // its argument listens, and sees by the end of the connection that the command is gone
		conn, err := net.Dial("tcp", args[0])
		if err != nil {
			return 1
		}
		io.Copy(io.Discard, conn)
	}
	return 0
}

// bundleRequest asks for a bundle in place of a client's certificate.
func bundleRequest(challenge, spki []byte) *attestext.AttestRequest {
	return &attestext.AttestRequest{
		Type: attestext.EvidenceType{Kind: attestext.AttestationOnly, Format: eat.BundleFormat},
		Challenge: &attestext.Challenge{Role: attestext.RoleClient, Kind: attestext.AttestationOnly, SPKI: spki,
			Nonce: challenge, Binder: challenge},
	}
}

// asAnswer is what a verifier of such evidence answers.
func asAnswer(b, challenge, reportData []byte, answer func(any) int) int {
	type evidence struct{ ReportData, Challenge, Key []byte }
	w, err := cmw.Parse(b)
	if err != nil {
		return 1
	}
	_, b, err = w.Evidence()
	var ev evidence
	if err != nil || json.Unmarshal(b, &ev) != nil {
		return 1
	}
	ok := bytes.Equal(ev.Challenge, challenge) && (reportData == nil || bytes.Equal(ev.ReportData, reportData))
	return answer(map[string]any{"ok": ok, "class": "binding", "reason": "other challenge", "key": ev.Key, "claims": map[string]any{"who": "test"}})
}

// execCommand returns the value of an exec: flag that runs asCommand.
func execCommand(args ...string) string {
	line := "exec:" + quoteWord(os.Args[0]) + " as-command"
	for _, a := range args {
		line += " " + quoteWord(a)
	}
	return line
}

func quoteWord(s string) string { return "'" + s + "'" }

var pkiDir string

// pki returns the path of a file that demo --write makes.
var pki = func() func(string) string {
	write := sync.OnceFunc(func() {
		dir, err := os.MkdirTemp("", "atls-test-")
		if err != nil {
			panic(err)
		}
		pkiDir = dir
		files, err := demoFiles(time.Now())
		if err == nil {
			err = writeDemoFiles(dir, files)
		}
		if err != nil {
			panic(err)
		}
	})
	return func(name string) string {
		write()
		return filepath.Join(pkiDir, name)
	}
}()

func identity() []string { return []string{"--cert", pki("cert.pem"), "--key", pki("key.pem")} }

func clientIdentity() []string {
	return []string{"--cert", pki("client-cert.pem"), "--key", pki("client-key.pem")}
}

func verifySoftTEE() []string {
	return []string{"--verify", "local", "--trust-roots", pki("trust-roots.pem"), "--collateral", pki("collateral.json"), "--policy", pki("policy.json")}
}

// contents returns what is in a file.
func contents(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tempFile makes a file of that name and returns its path.
func tempFile(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func args(lists ...[]string) []string { return slices.Concat(lists...) }

// exited is what run left.
type exited struct {
	status         int
	stdout, stderr string
}

const testTimeout = time.Minute

func atls(t testing.TB, stdin string, args ...string) exited {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	var out, errs bytes.Buffer
	status := run(ctx, args, strings.NewReader(stdin), &out, &errs)
	if ctx.Err() != nil {
		t.Fatalf("atls %v hangs; it said %s%s", args, &out, &errs)
	}
	return exited{status, out.String(), errs.String()}
}

// A running is atls serve in the background.
type running struct {
	addr string
	// metrics is the URL of --metrics, if that is among the arguments.
	metrics string
	said    func() string // standard output until now
	stop    context.CancelFunc
	end     func() exited
}

// roots is the authority of the certificates in pki.
func roots(t testing.TB) *x509.CertPool {
	t.Helper()
	pool, err := readCertPool("ca", pki("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

// serve starts atls serve --json with args on a free port.
func serve(t testing.TB, args ...string) *running {
	t.Helper()
	return start(t, "serve", args...)
}

// start starts a command that listens, with --json and args, on a free port.
func start(t testing.TB, command string, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	var stdout lockedBuffer
	stderr, errPipe := io.Pipe()
	done := make(chan int, 1)
	go func() {
		line := []string{command, "--json"}
		if command != "proxy" { // which says where in its own way
			line = append(line, "--listen", "127.0.0.1:0")
		}
		done <- run(ctx, append(line, args...), strings.NewReader(""), &stdout, errPipe)
		errPipe.Close()
	}()
	errs := bufio.NewReader(stderr)
	line, err := errs.ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if !ok {
		rest, _ := io.ReadAll(errs)
		cancel()
		t.Fatalf("atls %s %v: %v: %s%s", command, args, err, line, rest)
	}
	metrics := ""
	if slices.Contains(args, "--metrics") {
		line, _ := errs.ReadString('\n')
		metrics = strings.TrimPrefix(strings.TrimSpace(line), "metrics on ")
	}
	rest := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(errs)
		rest <- string(b)
	}()
	r := &running{addr: addr, metrics: metrics, said: stdout.String, stop: cancel}
	r.end = sync.OnceValue(func() exited {
		e := exited{status: <-done, stderr: <-rest}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("atls %s %v hangs", command, args)
		}
		cancel()
		e.stdout = stdout.String()
		return e
	})
	t.Cleanup(func() { cancel(); r.end() })
	return r
}

// A lockedBuffer is written while others read it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// object decodes the one JSON object that stdout must be, and checks that it has the

// members of the contract.

func (e exited) object(t testing.TB) map[string]any {
	t.Helper()
	if strings.Count(e.stdout, "\n") != 1 {
		t.Fatalf("standard output is not one line: %q; standard error: %s", e.stdout, e.stderr)
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(e.stdout), &m); err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(`ok error stage alert_sent alert_received version suite group resumed tickets_received hello_retry
		mode credential binding evidence_type model nonce binder peer self_attested handshake_us bytes_in bytes_out`)
	if got := slices.Sorted(maps.Keys(m)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Fatalf("members are %q", got)
	}
	return m
}

// A pair is what both ends of one connection said.

// same checks that both ends say the same of what was attested.

// Stock peers know nothing of attestation: they connect where nobody requires it,

// and are refused where somebody does.

// stopper calls stop once text has been written.

// A mistake is a command line that must fail, with a status and a word about it.
type mistake struct {
	args   []string
	status int
	say    string
}

func checkMistakes(t *testing.T, mistakes []mistake) {
	t.Helper()
	for _, c := range mistakes {
		e := atls(t, "", c.args...)
		if e.status != c.status || e.stdout != "" || !strings.Contains(e.stderr, c.say) {
			t.Errorf("atls %q: status %d, want %d with %q; standard output %q, standard error %q", c.args, e.status, c.status, c.say, e.stdout, e.stderr)
		}
	}
}

// TestEmptyValuesAreMistakes: what a script has not set must not turn a check off.
func TestEmptyValuesAreMistakes(t *testing.T) {
	id, soft := identity(), verifySoftTEE()
	checkMistakes(t, []mistake{
		{[]string{"dial", "localhost:1", "--verify", ""}, 1, "--verify is empty"},
		{[]string{"dial", "localhost:1", "--verify="}, 1, "--verify is empty"},
		{args([]string{"dial", "localhost:1"}, soft, []string{"--policy", ""}), 1, "--policy is empty"},
		{args([]string{"dial", "localhost:1", "--machines", ""}, soft), 1, "--machines is empty"},
		{args([]string{"serve", "--client-ca", ""}, id), 1, "--client-ca is empty"},
		{args([]string{"serve", "--listen", ""}, id), 1, "--listen is empty"},
		{[]string{"verify", pki("evidence.cmw"), "--report-data", ""}, 1, "--report-data is empty"},
		{[]string{"verifier", "--policy", ""}, 1, "--policy is empty"},
		{[]string{"ca", "--revoked", ""}, 1, "--revoked is empty"},
	})
}

// TestFlagsWithoutEffectAreMistakes: who gives one relies on it.
func TestFlagsWithoutEffectAreMistakes(t *testing.T) {
	evidence, result := args([]string{"verify", pki("evidence.cmw")}, verifySoftTEE()[2:]), []string{"verify", pki("results.json"), "--trust-roots", pki("verifiers.json")}
	checkMistakes(t, []mistake{
		{args(evidence, []string{"--role", "client"}), 1, "--role has no effect"},
		{args(evidence, []string{"--binding", "nonsense"}), 1, "--binding has no effect"},
		{args(evidence, []string{"--credential", "attestation-only"}), 1, "--credential has no effect"},
		{args(result, []string{"--policy", pki("policy.json")}), 1, "no effect on a result"},
		{args(result, []string{"--collateral", pki("collateral.json")}), 1, "no effect on a result"},
		{args(result, []string{"--insecure-skip-collateral"}), 1, "no effect on a result"},
		{[]string{"attack", "--list", "--json"}, 1, "for people"},
		{[]string{"interop", "--list", "--json"}, 1, "for people"},
		{[]string{"interop", "--update", t.TempDir()}, 1, "root of the source tree"},
	})
}

// TestBrokenEvidenceIsNotTakenForPEM: a quote has the certificates of its platform in PEM.
func TestBrokenEvidenceIsNotTakenForPEM(t *testing.T) {
	whole, err := os.ReadFile(pki("evidence.cmw"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "evidence")
	for _, b := range [][]byte{whole[:len(whole)-1], append(bytes.Clone(whole), 0)} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if e := atls(t, "", "inspect", path); e.status != 2 || strings.Contains(e.stderr, "--cert") || !strings.Contains(e.stderr, "parse CMW") {
			t.Errorf("%d bytes: status %d: %s", len(b), e.status, e.stderr)
		}
	}
}

// TestHelpIsWhatWasAskedFor: on standard output, for a pager, and no error.
func TestHelpIsWhatWasAskedFor(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"help"}, usage},
		{[]string{"--help"}, usage},
		{[]string{"help", "serve"}, serveUsage},
		{[]string{"serve", "-h"}, serveUsage},
		{[]string{"inspect", "--help"}, inspectUsage},
	} {
		if e := atls(t, "", c.args...); e.status != 0 || e.stdout != c.want || e.stderr != "" {
			t.Errorf("atls %q: status %d; standard output %q, standard error %q", c.args, e.status, e.stdout, e.stderr)
		}
	}
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	id := identity()
	checkMistakes(t, []mistake{
		{nil, 1, "Usage:"},
		{[]string{"help", "nothing"}, 1, "nothing"},
		{[]string{"nothing"}, 1, "unknown command"},
		{[]string{"compare", "--modes", "nonsense"}, 1, "it can have plain, "},
		{[]string{"compare", "--rtt", "nonsense"}, 1, "--rtt"},
		{[]string{"compare", "--rtt", "2s"}, 1, "can be measured"},
		{[]string{"compare", "--net", "nonsense"}, 1, "--net"},
		{[]string{"compare", "--from", "testdata/skips.txt"}, 2, "not a run"},
		{[]string{"compare", "--from", "testdata/nothing"}, 1, "no such file"},
		{[]string{"compare", "--quick", "--net", "delay", "--out", "testdata/skips.txt"}, 1, "can be written"},
		{[]string{"compare", "--from", "testdata/skips.txt", "--quick"}, 1, "measures nothing"},
		{[]string{"verifier", "x"}, 1, "takes 0 arguments"},
		{[]string{"verifier", "--key", "testdata/skips.txt"}, 2, "no PEM"},
		{[]string{"verifier", "--key", "testdata/nothing/key.pem"}, 1, "--key"},
		{[]string{"serve", "--nonsense"}, 1, "-nonsense\natls: hint: \"atls help serve\" lists the flags\n"},
		{[]string{"serve", "argument"}, 1, "arguments"},
		{args([]string{"serve", "--listen", "192.0.2.1:1"}, id), 5, "address of this machine"},
		{[]string{"dial"}, 1, "arguments"},
		{[]string{"dial", "host"}, 1, "port"},
		{[]string{"dial", "localhost:99999"}, 1, "from 1 to 65535"},
		{args([]string{"serve", "--listen", "localhost"}, id), 1, "with a port"},
		{[]string{"serve"}, 1, "--cert"},
		{[]string{"serve", "--cert", pki("cert.pem")}, 1, "--key"},
		{[]string{"serve", "--cert", "/nonexistent", "--key", "/nonexistent"}, 1, "/nonexistent"},
		{[]string{"serve", "--cert", pki("key.pem"), "--key", pki("cert.pem")}, 2, "--cert"},
		{args([]string{"serve", "--listen", "256.0.0.1:1"}, id), 5, "256.0.0.1"},
		{args([]string{"serve", "--mode", "post-handshake"}, id), 1, "needs --attest or --verify"},
		{args([]string{"serve", "--mode", "post-handshake", "--attest", "softtee:tdx", "--binding", "draft-08"}, id), 1, "no effect in --mode post-handshake"},
		{args([]string{"serve", "--mode", "post-handshake", "--attest", "softtee:tdx", "--attested-key", "new"}, id), 1, "--attested-key"},
		{args([]string{"serve", "--mode", "combined", "--attest", "softtee:tdx", "--credential", "attestation-only", "--allow-attestation-only"}, id), 1, "with a certificate"},
		{args([]string{"serve", "--reattest", "1s", "--attest", "softtee:tdx"}, id), 1, "without --verify"},
		{[]string{"dial", "localhost:1", "--verify", "local", "--reattest", "-1s"}, 1, "negative"},
		{[]string{"dial", "localhost:1", "--mode", "combined", "--verify", "local", "--reattest", "1s", "--carriage", "leading"}, 1, "over before"},
		{args([]string{"serve", "--carriage", "post-handshake", "--attest", "softtee:tdx", "--attested-key", "new"}, id), 1, "two keys"},
		{args([]string{"serve", "--carriage", "leading", "--attest", "softtee:tdx"}, id), 1, "no effect in --mode tls-attest"},
		{args([]string{"serve", "--client-cert", "request"}, identity()), 1, "needs --client-ca"},
		{args([]string{"serve", "--client-cert", "request", "--client-ca", pki("ca.pem"), "--verify", "local"}, identity()), 1, "needs --peer request"},
		{args([]string{"dial", "localhost:1", "--mode", "combined", "--carriage", "leading", "--peer", "request", "--verify", "local"}), 1, "nothing tells a peer"},
		{args([]string{"serve", "--mode", "early"}, id), 1, "needs --attest or --verify"},
		{args([]string{"serve", "--mode", "early", "--early-form", "04", "--attest", "softtee:tdx"}, id), 1, "06 or 03"},
		{args([]string{"serve", "--early-form", "03", "--attest", "softtee:tdx"}, id), 1, "no effect in --mode tls-attest"},
		{args([]string{"serve", "--mode", "early", "--attest", "softtee:tdx", "--binding", "draft-08"}, id), 1, "no effect in --mode early"},
		{args([]string{"serve", "--mode", "early", "--attest", "softtee:tdx", "--attested-key", "new"}, id), 1, "--attested-key"},
		{args([]string{"serve", "--mode", "early", "--attest", "softtee:tdx", "--carriage", "leading"}, id), 1, "no effect in --mode early"},
		{args([]string{"serve", "--mode", "early", "--attest", "softtee:tdx", "--credential", "attestation-only", "--allow-attestation-only"}, id), 1, "with a certificate"},
		{args([]string{"serve", "--mode", "sideways"}, id), 1, "sideways"},
		{args([]string{"serve", "--mode", "none", "--attest", "softtee:tdx"}, id), 1, "none"},
		{args([]string{"serve", "--client-first", "--attest", "softtee:tdx"}, id), 1, "--client-first does not go with --mode tls-attest"},
		{args([]string{"serve", "--client-first", "--attest", "softtee:tdx", "--mode", "combined"}, id), 1, "--client-first does not go with --mode combined"},
		{args([]string{"serve", "--client-first", "--verify", "local", "--client-ca", pki("ca.pem"), "--mode", "post-handshake"}, id), 1, "--client-first has no effect"},
		{args([]string{"serve", "--client-first", "--attest", "softtee:tdx", "--mode", "post-handshake"}, id), 1, "would show evidence to any client"},
		{args([]string{"serve", "--client-first", "--attest", "softtee:tdx", "--mode", "post-handshake", "--client-ca", pki("ca.pem"), "--client-cert", "request"}, id), 1, "would show evidence to any client"},
		{args([]string{"serve", "--results-only", "--attest", "softtee:tdx"}, id), 1, "--results-only is for"},
		{args([]string{"serve", "--carriage", "pigeon"}, id), 1, "pigeon"},
		{args([]string{"serve", "--credential", "attestation-only", "--attest", "softtee:tdx"}, id), 1, "--allow-attestation-only"},
		{args([]string{"serve", "--credential", "password"}, id), 1, "password"},
		{args([]string{"serve", "--binding", "loose"}, id), 1, "loose"},
		{args([]string{"serve", "--attest", "results:/nonexistent"}, id), 1, "no such file"},
		{args([]string{"serve", "--attest", "results:" + pki("policy.json")}, id), 2, "results"},
		{args([]string{"serve", "--verifier-id", "v"}, id), 1, "--verifier-id is for"},
		{args([]string{"serve", "--attest", "results:x", "--refresh-from", "http://127.0.0.1:1"}, id), 1, "go together"},
		{args([]string{"serve", "--attest", "softtee:tdx", "--refresh-from", "http://127.0.0.1:1", "--refresh-with", "softtee:tdx"}, id), 1, "is for --attest results:FILE"},
		{args([]string{"serve", "--attest", "results:x", "--refresh-from", "http://veraison.example", "--refresh-with", "softtee:tdx"}, id), 1, "not on this machine"},
		{args([]string{"serve", "--attest", "results:x", "--refresh-from", "http://127.0.0.1:1", "--refresh-with", "magic"}, id), 1, "--refresh-with"},
		{args([]string{"serve", "--attest", "results:x", "--refresh-from", "http://127.0.0.1:1", "--refresh-with", "softtee:eat"}, id), 1, "--refresh-with: --attest softtee:eat does not know"},
		{args([]string{"serve", "--attest", "results:x", "--refresh-from", "http://127.0.0.1:1", "--refresh-with", "softtee:tdx", "--verifier-id", "a", "--verifier-id", "b"}, id), 1, "asks one service"},
		{[]string{"serve", "--attest", "results:x", "--refresh-from", "http://127.0.0.1:1", "--refresh-with", "softtee:tdx", "--credential", "attestation-only", "--allow-attestation-only"}, 1, "needs --key"},
		{args([]string{"serve", "--attest", "results:" + filepath.Join(t.TempDir(), "x"), "--refresh-from", "http://127.0.0.1:1", "--refresh-with", "softtee:tdx"}, id), 3, "cannot be reached"},
		{args([]string{"serve", "--quote-rate", "20"}, id), 1, "--quote-rate and --quote-queue are for"},
		{args([]string{"serve", "--quote-queue", "129"}, id), 1, "it can be 0 to 128"},
		{args([]string{"serve", "--quote-rate", "0"}, id), 1, "quotes a second"},
		{args([]string{"serve", "--quote-rate", "-inf"}, id), 1, "quotes a second"},
		{args([]string{"serve", "--quote-rate", "nan"}, id), 1, "quotes a second"},
		{args([]string{"serve", "--metrics", "256.0.0.1:1", "--listen", "127.0.0.1:0"}, id), 5, "--metrics"},
		{[]string{"verifier", "--metrics", "256.0.0.1:1", "--listen", "127.0.0.1:0"}, 5, "--metrics"},
		{[]string{"verifier", "--lifetime", "1ms"}, 1, "--lifetime"},
		{args([]string{"serve", "--attest", "softtee:snp", "--evidence-type", "text/plain"}, id), 1, "text/plain"},
		{args([]string{"serve", "--attest", "softtee:cca"}, id), 1, "softtee:cca"},
		{args([]string{"serve", "--attest", "magic"}, id), 1, "magic"},
		{args([]string{"serve", "--attest", "exec:'"}, id), 1, "quote"},
		{args([]string{"serve", "--attest", "exec:"}, id), 1, "no command"},
		{args([]string{"serve"}, id, verifySoftTEE()), 1, "--client-ca"},
		{args([]string{"serve", "--attest", "softtee:tdx", "--evidence-type", "text/plain"}, id), 1, "text/plain"},
		{args([]string{"serve", "--attest", "softtee:tdx", "--evidence-type", "70000"}, id), 1, "70000"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "veraison:http://veraison.example"}, 1, "not on this machine"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "veraison:localhost"}, 1, "not an address"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "veraison:https://veraison.example", "--policy", "x"}, 1, "have no effect"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "veraison:https://veraison.example", "--trust-roots", "testdata/skips.txt"}, 2, "no PEM"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "veraison:https://veraison.example", "--trust-roots", pki("verifiers.json")}, 2, "want public keys in PEM, or one as a JWK"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "results"}, 1, "needs --trust-roots"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "results", "--trust-roots", pki("policy.json")}, 2, "--trust-roots"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "magic"}, 1, "magic"},
		{[]string{"dial", "127.0.0.1:1", "--policy", pki("policy.json")}, 1, "--verify local"},
		{[]string{"dial", "127.0.0.1:1", "--peer", "require"}, 1, "--verify"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "local", "--policy", pki("key.pem")}, 2, "policy"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "local", "--policy", "/nonexistent"}, 1, "/nonexistent"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "local", "--trust-roots", pki("key.pem")}, 2, "no certificate"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "local", "--collateral", pki("policy.json")}, 2, "collateral"},
		{[]string{"dial", "127.0.0.1:1", "--verify", "local", "--code-points", pki("policy.json")}, 2, "code-points"},
		{[]string{"dial", "127.0.0.1:1", "--code-points", pki("policy.json")}, 2, "code-points"},
		{args([]string{"proxy", "--accept", "tls:127.0.0.1:0", "--forward", "tcp:localhost:1", "--ca", pki("ca.pem")}, id), 1, "--ca has no effect on a server"},
		{[]string{"proxy", "--accept-proxy-from", "lb.example"}, 1, "it can be an address, or a network such as"},
		{[]string{"dial", "127.0.0.1:1", "--attest", "softtee:tdx"}, 1, "--cert"},
		{[]string{"dial", "127.0.0.1:1", "--timeout", "0s"}, 1, "--timeout"},
		{[]string{"dial", "127.0.0.1:0"}, 5, "not connected"},
	})
}

func TestAttestingByAKernelThatHasNoTEEIsAMistake(t *testing.T) {
	if _, err := configfs.New(); err == nil {
		t.Skip("this machine has a TEE")
	}
	checkMistakes(t, []mistake{
		{args([]string{"serve", "--attest", "configfs"}, identity()), 1, "--attest configfs"},
		{args([]string{"dial", "127.0.0.1:1", "--attest", "configfs"}, clientIdentity()), 1, "hint: softtee:tdx"},
	})
}
