package interop

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/internal/fuzzbound"
)

// recorded is a handshake with OpenSSL as the client: attest.server.x509.hardened.hrr.
const recorded = "testdata/attest.server.x509.hardened.hrr.pcapng"

func named(t *testing.T, id string) *Case {
	t.Helper()
	for _, c := range Cases() {
		if c.ID == id {
			return c
		}
	}
	t.Fatalf("there is no case %s", id)
	return nil
}

func TestCaptureIsReadAsItWasWritten(t *testing.T) {
	at := time.Unix(1_700_000_000, 123_000)
	want := []chunk{
		{0, client, at, []byte("hello")},
		{0, server, at, bytes.Repeat([]byte{1, 2, 3}, 20)},
		{1, client, at, []byte{9}},
		{0, server, at, []byte{}},
		{1, client, at, []byte{}},
	}
	path := filepath.Join(t.TempDir(), "x")
	if err := writeCapture(path, want, []byte("A b c\n")); err != nil {
		t.Fatal(err)
	}
	got, keys, err := readCapture(path)
	if err != nil || string(keys) != "A b c\n" || len(got) != len(want) {
		t.Fatalf("%v, %q, %v", got, keys, err)
	}
	for i := range want {
		if got[i].conn != want[i].conn || got[i].from != want[i].from || !got[i].at.Equal(want[i].at) || !bytes.Equal(got[i].data, want[i].data) {
			t.Errorf("%d: %v, want %v", i, got[i], want[i])
		}
	}
}

func TestLongWritesAreSegmented(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 10_000)
	path := filepath.Join(t.TempDir(), "x")
	if err := writeCapture(path, []chunk{{0, client, time.Unix(0, 0), data}}, nil); err != nil {
		t.Fatal(err)
	}
	got, _, err := readCapture(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, c := range got {
		all = append(all, c.data...)
	}
	if len(got) != 4 || !bytes.Equal(all, data) {
		t.Errorf("%d segments, %d bytes", len(got), len(all))
	}
}

// TestVerdictOnARecordedHandshake judges one handshake by many cases: the verdict has
// to come from what is in it.
func TestVerdictOnARecordedHandshake(t *testing.T) {
	chunks, keys, err := readCapture(recorded)
	if err != nil {
		t.Fatal(err)
	}
	random := regexp.MustCompile(`(?m)^HANDSHAKE_SECRET \S+ (\S+)$`).FindSubmatch(keys)
	if random == nil {
		t.Fatal("the recording has no HANDSHAKE_SECRET")
	}
	flipped := bytes.ReplaceAll(keys, random[1], append([]byte{random[1][0] ^ 1}, random[1][1:]...))
	without := func(label string) []byte {
		return regexp.MustCompile(`(?m)^`+label+` .*$`).ReplaceAll(keys, nil)
	}
	for _, tt := range []struct {
		id   string
		keys []byte
		fork side
		says string // what is wrong; empty if nothing
	}{
		{"attest.server.x509.hardened.hrr", keys, server, ""},
		{"attest.server.x509.hardened", keys, server, ""},
		{"attest.server.x509.draft08.hrr", keys, server, "does not carry the challenge"},
		{"attest.server.x509.hardened.aes256", keys, server, "the suite is"},
		{"attest.server.only.hardened", keys, server, "evidence beside a certificate"},
		{"attest.client.x509.hardened", keys, server, "does not select"},
		{"attest.both.x509.hardened", keys, server, "does not select"},
		{"passport.server.x509.hardened", keys, server, "does not select"},
		{"base", keys, server, "presented evidence, and was not to"},
		{"base.group.p521", keys, server, "the group is"},
		{"wrong.client.no-offer", keys, server, "sent application data, want alert 109"},
		{"attest.server.x509.hardened.hrr", flipped, server, "is not that of the connection"},
		{"attest.server.x509.hardened.hrr", without(logHandshakeSecret), server, "did not log"},
		{"attest.server.x509.hardened.hrr", without(logServerTraffic), server, "the key log has no SERVER_TRAFFIC_SECRET_0"},
		{"attest.server.x509.hardened.hrr", without(logClientHandshake), server, "not completed"},
		{"attest.server.x509.hardened.hrr", nil, server, "not completed"},
	} {
		err := named(t, tt.id).verdict(converse(chunks, 0, parseKeyLog(tt.keys)), tt.fork)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.id, err, tt.says)
		}
	}
	// A stream that is cut off anywhere is no completed handshake.
	for n := range chunks {
		conv := converse(chunks[:n], 0, parseKeyLog(keys))
		if n < len(chunks)-4 && named(t, "attest.server.x509.hardened.hrr").verdict(conv, server) == nil {
			t.Errorf("the first %d chunks pass", n)
		}
	}
	if err := named(t, "base").verdict(converse(nil, 0, nil), server); err == nil {
		t.Error("nothing at all passes")
	}
}

// TestSecretsOfRFC8448 derives a published value: a traffic secret from the Handshake
// Secret and the transcript of RFC 8448, section 3.
func TestSecretsOfRFC8448(t *testing.T) {
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	c := &conversation{suite: 0x1301}
	hs := unhex("1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac")
	transcript := unhex("860c06edc07858ee8e78f0e7428c58edd6b43f2ca3e6e95f02ed063cf0e1cad8")
	got := expandLabel(c.hash(), hs, "s hs traffic", transcript, 32)
	if want := "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38"; hex.EncodeToString(got) != want {
		t.Errorf("s hs traffic = %x, want %s", got, want)
	}
}

func TestCasesAreWellFormed(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Cases() {
		if seen[c.ID] {
			t.Errorf("%s is there twice", c.ID)
		}
		seen[c.ID] = true
		if c.About == "" || c.Must.Quote == "" || c.Must.Source == "" || c.Mode == "" || len(c.roles) == 0 {
			t.Errorf("%s is not complete", c.ID)
		}
		if !regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)*$`).MatchString(c.ID) {
			t.Errorf("%q is no id", c.ID)
		}
	}
}

// TestExpectedOutcomesAreOfCases holds the golden files against the cases: a case
// that is gone, or new, is noticed without any peer.
func TestExpectedOutcomesAreOfCases(t *testing.T) {
	golden, err := readExpected()
	if err != nil {
		t.Fatal(err)
	}
	for _, peer := range peerNames() {
		if golden[peer] == nil {
			t.Errorf("there are no expected outcomes of %s", peer)
			continue
		}
		left := golden[peer]
		for _, c := range Cases() {
			for _, role := range c.roles {
				key := role.String() + " " + c.ID
				switch left[key] {
				case Passed, Unsupported:
				case "":
					t.Errorf("%s: nothing is expected of %s", peer, key)
				default:
					t.Errorf("%s: %s of %s is no outcome to expect", peer, left[key], key)
				}
				delete(left, key)
			}
		}
		for key := range left {
			t.Errorf("%s: there is no cell %s", peer, key)
		}
	}
}

// TestPeersMustNotKnowNonsense has a peer that claims to have done anything.
func TestPeersMustNotKnowNonsense(t *testing.T) {
	for status, broken := range map[int]bool{0: true, 1: true, 127: false} {
		p := &peer{name: "yes", main: func(context.Context, map[string]string, io.Writer) int { return status }}
		if err := p.setup(t.Context(), t.TempDir()); err != nil || (p.broken != "") != broken {
			t.Errorf("status %d: %v, %q", status, err, p.broken)
		}
	}
}

// TestAPeersWordIsNotTaken has a peer that connects to nobody and says that all went
// well.
func TestAPeersWordIsNotTaken(t *testing.T) {
	certs := t.TempDir()
	if err := writeMaterial(certs, time.Now()); err != nil {
		t.Fatal(err)
	}
	r := &Runner{
		Keep: t.TempDir(),
		Atls: func(ctx context.Context, args []string, _ io.Reader, _, stderr io.Writer) int {
			if args[0] == "serve" {
				fmt.Fprintln(stderr, "listening on 127.0.0.1:1")
			}
			return 0
		},
	}
	for status, want := range map[int]string{0: Failed, 1: Failed, 127: Unsupported} {
		p := &peer{name: "yes", main: func(context.Context, map[string]string, io.Writer) int { return status }}
		for _, role := range both {
			row := r.cell(t.Context(), &cell{named(t, "base"), p, role, filepath.Join(r.Keep, role.String())}, certs, "")
			if row.Outcome != want || row.Attested {
				t.Errorf("status %d: %+v, want %s", status, row, want)
			}
		}
	}
	p := &peer{name: "none", skip: "it is not here"}
	if row := r.cell(t.Context(), &cell{c: named(t, "base"), p: p}, certs, ""); row.Outcome != Skipped || *row.Reason != p.skip {
		t.Errorf("%+v", row)
	}
}

// A run that is interrupted leaves nothing in the temporary directory.
func TestInterruptedRunLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("TMP", dir) // on Windows
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	r := &Runner{Peers: []string{"crypto-tls"}, Quick: true, Log: io.Discard, Report: func(row *Row) { t.Errorf("reported %s", row.Case) }}
	if _, err := r.Run(ctx); err == nil {
		t.Error("no error")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestTEEServiceQuotes(t *testing.T) {
	for line, want := range map[string]bool{
		"tdx " + strings.Repeat("ab", 64): true, "snp " + strings.Repeat("ab", 64): true,
		"tdx-debug " + strings.Repeat("ab", 64): true, "tdx " + strings.Repeat("ab", 63): false, "tpm " + strings.Repeat("ab", 64): false, "": false,
	} {
		if _, err := quote(line); (err == nil) != want {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestMatrixAndSummary(t *testing.T) {
	why := "x"
	rows := []*Row{
		{Peer: "a", PeerRole: "client", Case: "base", Outcome: Passed},
		{Peer: "a", PeerRole: "server", Case: "base", Outcome: Failed, Reason: &why},
		{Peer: "b", PeerRole: "client", Case: "base", Outcome: Passed, Attested: true},
		{Peer: "b", PeerRole: "server", Case: "base", Outcome: Unsupported, Drift: true, Expected: Passed},
	}
	want := "case  peer is a         b        \nbase  client  ok        ok*      \nbase  server  FAIL      -        \n"
	if got := Matrix(rows); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	s := Summarize(rows)
	if s.OK() || s.String() != "2 passed, 1 failed, 0 error, 0 skipped, 1 unsupported; 1 attested, with b; 1 not as expected" {
		t.Errorf("%v", s)
	}
	if !Summarize(rows[:1]).OK() || Summarize(rows[3:]).OK() {
		t.Error("OK")
	}
	if doc := document(rows, time.Minute); !strings.Contains(doc, "| base | client | ok | ok\\* |\n") {
		t.Errorf("the document has no matrix: %s", doc)
	}
	if err := Update(t.TempDir(), rows, 0); err == nil {
		t.Error("a failure can be expected")
	}
}

func TestEachPeerHasAProgram(t *testing.T) {
	names := peerNames()
	if !slices.Contains(names, "openssl") {
		t.Errorf("peers are %q", names)
	}
	for _, name := range names {
		if name == goName {
			continue
		}
		if _, err := embedded.ReadFile("peers/" + name + "/run"); err != nil {
			t.Error(err)
		}
	}
}

// FuzzVerdict has the reader read anything: it must not panic.
func FuzzVerdict(f *testing.F) {
	b, err := os.ReadFile(recorded)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, uint8(0))
	early, err := os.ReadFile(recordedEarly)
	if err != nil {
		f.Fatal(err)
	}
	for i, c := range Cases() {
		if c.ID == "early.both.hrr" {
			f.Add(early, uint8(i))
		}
	}
	cases := Cases()
	f.Fuzz(func(t *testing.T, b []byte, n uint8) {
		defer fuzzbound.Check(t, len(b))()
		chunks, keys, err := parseCapture(b)
		if err != nil {
			return
		}
		conv := converse(chunks, 0, parseKeyLog(keys))
		cases[int(n)%len(cases)].verdict(conv, side(n>>7))
	})
}

// FuzzMessages has the parsers of messages read anything.
func FuzzMessages(f *testing.F) {
	chunks, keys, err := readCapture(recorded)
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range converse(chunks, 0, parseKeyLog(keys)).messages {
		f.Add(m.record, m.data)
	}
	f.Fuzz(func(t *testing.T, record uint8, data []byte) {
		defer fuzzbound.Check(t, len(data))()
		if len(data) < 4 {
			return
		}
		parseClientHello(data[4:])
		parseServerHello(data[4:])
		parseCertificate(data[4:])
		for _, typ := range []uint8{typeClientHello, typeServerHello, typeCertificate, typeEncryptedExtensions} {
			m := message{server, recordHandshake, "", append([]byte{typ}, data[1:]...)}
			conv := &conversation{messages: []message{m, {client, recordHandshake, "", m.data}}}
			for _, c := range Cases() {
				c.presented(conv, server)
				c.presented(conv, client)
			}
			conv.toServerHello()
		}
	})
}
