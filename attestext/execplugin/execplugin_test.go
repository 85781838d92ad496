package execplugin_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/execplugin"
	"github.com/attestedtls/atls/attestext/tsm"
)

// The commands of these tests are this test binary, told by its first argument what
// to do.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "as-command" {
		os.Exit(command(os.Args[2], os.Args[3:]))
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // under -race a process waits a second before it exits
	os.Exit(m.Run())
}

func command(what string, args []string) int {
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return 1
	}
	switch what {
	case "say": // its argument
		fmt.Println(args[0])
	case "repeat": // what it read, as Evidence
		json.NewEncoder(os.Stdout).Encode(map[string]any{"cmw": in, "unknown": 1})
	case "claim": // what it read, as claims
		fmt.Printf(`{"ok": true, "claims": %s, "unknown": 1}`, in)
	case "fail":
		fmt.Fprint(os.Stderr, "first line\nthe TEE\tis gone\n\n")
		return 3
	case "flood":
		chunk := bytes.Repeat([]byte(" "), 1<<16)
		for {
			if _, err := os.Stdout.Write(chunk); err != nil {
				return 1
			}
		}
	case "hang": // with a child that hangs as well and holds the pipes
		child := exec.Command(os.Args[0], "as-command", "hang alone")
		pipe, err := child.StdinPipe()
		if err != nil {
			return 1
		}
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if child.Start() != nil {
			return 1
		}
		pipe.Close()
		time.Sleep(time.Hour)
	case "hang alone":
		time.Sleep(time.Hour)
	case "leave": // a child that holds the pipes, and a connection to its argument
		conn, err := net.Dial("tcp", args[0])
		if err != nil {
			return 1
		}
		file, err := conn.(*net.TCPConn).File()
		if err != nil {
			return 1
		}
		child := exec.Command(os.Args[0], "as-command", "hang alone")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		child.ExtraFiles = []*os.File{file}
		if child.Start() != nil {
			return 1
		}
		fmt.Println(`{"cmw": "AAAA"}`)
	}
	return 0
}

func self(t testing.TB, args ...string) *execplugin.Command {
	t.Helper()
	c, err := execplugin.New(append([]string{os.Args[0], "as-command"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Wait)
	return c
}

func challenge(kind attestext.CredentialKind) *attestext.Challenge {
	return &attestext.Challenge{
		Role: attestext.RoleServer, Binding: attestext.BindingHardened, Kind: kind,
		Nonce: bytes.Repeat([]byte{1}, 32), Binder: bytes.Repeat([]byte{2}, 32), SPKI: []byte("key"),
	}
}

var x509Type = attestext.EvidenceType{Kind: attestext.CertAttestation, Format: tsm.FormatCBOR}

func evidence(t testing.TB, f attestext.EvidenceFormat) *attestext.Evidence {
	t.Helper()
	b, err := (&cmw.Record{Format: f, Value: []byte("evidence")}).CBOR()
	if err != nil {
		t.Fatal(err)
	}
	return &attestext.Evidence{Type: attestext.EvidenceType{Kind: attestext.CertAttestation, Format: f}, CMW: b}
}

// checkRequest checks what a command read of a challenge.
func checkRequest(t *testing.T, got map[string]any, ch *attestext.Challenge) {
	t.Helper()
	b64 := base64.StdEncoding.EncodeToString
	want := map[string]any{
		"type": tsm.MediaTypeCBOR, "challenge": b64(ch.Value()), "nonce": b64(ch.Nonce), "binder": b64(ch.Binder),
		"spki": b64(ch.SPKI), "role": "server", "binding": ch.Binding.String(), "report_data": nil,
	}
	if len(ch.SPKI) == 0 {
		want["spki"] = nil
	}
	if rd, err := ch.ReportData(); err == nil {
		want["report_data"] = b64(rd[:])
	}
	for name, v := range want {
		if g, ok := got[name]; !ok || g != v {
			t.Errorf("%s is %v, want %v", name, g, v)
		}
	}
}

func TestAttesterReadsTheExpatBinding(t *testing.T) {
	ch := challenge(attestext.CertAttestation)
	ch.Binding = attestext.BindingExpat
	b, err := self(t, "repeat").Attest(t.Context(), &attestext.AttestRequest{Type: x509Type, Challenge: ch})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	checkRequest(t, got, ch)
	if got["binding"] != "expat" || got["report_data"] == nil {
		t.Errorf("binding is %v, report_data %v", got["binding"], got["report_data"])
	}
}

func TestAttesterReadsTheChallenge(t *testing.T) {
	ch := challenge(attestext.CertAttestation)
	b, err := self(t, "repeat").Attest(t.Context(), &attestext.AttestRequest{Type: x509Type, Challenge: ch})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	checkRequest(t, got, ch)
	if _, ok := got["cmw"]; ok {
		t.Error("an attester was handed Evidence")
	}
}

func TestVerifierReadsTheChallengeAndTheEvidence(t *testing.T) {
	for _, kind := range []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly} {
		ch := challenge(kind)
		if kind == attestext.AttestationOnly {
			ch.SPKI = nil
		}
		ev := evidence(t, tsm.FormatCBOR)
		a, err := self(t, "claim").Appraise(t.Context(), ev, ch)
		if err != nil {
			t.Fatal(err)
		}
		checkRequest(t, a.Claims, ch)
		if a.Claims["cmw"] != base64.StdEncoding.EncodeToString(ev.CMW) {
			t.Errorf("cmw is %v", a.Claims["cmw"])
		}
		if a.Verdict != "affirming" || a.Format != tsm.FormatCBOR {
			t.Errorf("appraisal is %+v", a)
		}
	}
}

func TestWordOfTheVerifier(t *testing.T) {
	for _, c := range []struct {
		answer string
		class  error  // nil if it accepts
		say    string // in the error
	}{
		{`{"ok": true}`, nil, ""},
		{`{"ok": true, "reason": null, "class": "policy", "key": "a2V5"}`, nil, ""},
		{`{"ok": true, "claims": {"list": [` + strings.Repeat("1, ", 200) + `1]}}`, nil, ""},
		{`{"ok": false}`, attestext.ErrPolicy, "no reason"},
		{`{"ok": false, "reason": "too old"}`, attestext.ErrPolicy, "too old"},
		{`{"ok": false, "reason": "n", "class": "binding"}`, attestext.ErrBinding, "n"},
		{`{"ok": false, "class": "signature"}`, attestext.ErrSignature, ""},
		{`{"ok": false, "class": "policy"}`, attestext.ErrPolicy, ""},
		{`{"ok": false, "class": "malformed"}`, attestext.ErrMalformed, ""},
		{`{"ok": false, "class": "unheard-of"}`, attestext.ErrUnavailable, "unheard-of"},
		{`{"ok": false, "OK": true}`, attestext.ErrPolicy, ""},
		{`{"OK": true}`, attestext.ErrUnavailable, "without ok"},
		{`{"ok": null}`, attestext.ErrUnavailable, "without ok"},
		{`{"ok": "true"}`, attestext.ErrUnavailable, "ok"},
		{`{"ok": false, "ok": true}`, attestext.ErrUnavailable, "one JSON object"},
		{`{"ok": true} {"ok": true}`, attestext.ErrUnavailable, "one JSON object"},
		{`{"ok": true, "key": "%"}`, attestext.ErrUnavailable, "key"},
		{`{"ok": true, "claims": []}`, attestext.ErrUnavailable, "claims"},
		{`[true]`, attestext.ErrUnavailable, "one JSON object"},
		{`yes`, attestext.ErrUnavailable, "one JSON object"},
		{``, attestext.ErrUnavailable, "nothing"},
	} {
		a, err := self(t, "say", c.answer).Appraise(t.Context(), evidence(t, tsm.FormatCBOR), challenge(attestext.CertAttestation))
		if c.class == nil {
			if err != nil || a.Verdict != "affirming" {
				t.Errorf("%s: %v", c.answer, err)
			}
			continue
		}
		if !errors.Is(err, c.class) || attestext.Class(err) != c.class || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: got %v, want %v with %q", c.answer, err, c.class, c.say)
		}
	}
}

func TestAnswersWithoutEvidence(t *testing.T) {
	for _, answer := range []string{`{}`, `{"cmw": null}`, `{"CMW": "AAAA"}`, `{"cmw": 1}`, `{"cmw": "-_-_"}`, `{"cmw": "AA"}`, ``} {
		_, err := self(t, "say", answer).Attest(t.Context(), &attestext.AttestRequest{Type: x509Type, Challenge: challenge(attestext.CertAttestation)})
		if !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("%s: %v", answer, err)
		}
	}
}

// What is not what was selected never reaches the command, which would accept.
func TestEvidenceIsLookedIntoBeforeTheCommandRuns(t *testing.T) {
	c := self(t, "say", `{"ok": true}`)
	ch := challenge(attestext.CertAttestation)
	text := evidence(t, attestext.EvidenceFormat{MediaType: "text/plain"})
	text.Type = x509Type
	bundle, err := eat.EncodeBundle([]byte("kat"), cmw.Record{Format: tsm.FormatCBOR, Value: []byte("pat")})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []struct {
		name  string
		ev    *attestext.Evidence
		class error
	}{
		{"as selected", evidence(t, tsm.FormatCBOR), nil},
		{"content format", evidence(t, attestext.EvidenceFormat{ContentFormat: 263}), nil},
		{"bundle", &attestext.Evidence{Type: attestext.EvidenceType{Format: eat.BundleFormat}, CMW: bundle}, nil},
		{"any", &attestext.Evidence{Type: attestext.EvidenceType{Format: attestext.EvidenceFormat{ContentFormat: 273}}, CMW: bundle}, nil},
		{"bundle for a report", &attestext.Evidence{Type: x509Type, CMW: bundle}, attestext.ErrWrongType},
		{"another type", text, attestext.ErrWrongType},
		{"no wrapper", &attestext.Evidence{Type: x509Type, CMW: []byte("evidence")}, attestext.ErrMalformed},
		{"nothing", &attestext.Evidence{Type: x509Type}, attestext.ErrMalformed},
	} {
		if _, err := c.Appraise(t.Context(), e.ev, ch); attestext.Class(err) != e.class {
			t.Errorf("%s: got %v, want %v", e.name, err, e.class)
		}
	}
}

func TestFailureSaysTheLastLine(t *testing.T) {
	_, err := self(t, "fail").Appraise(t.Context(), evidence(t, tsm.FormatCBOR), challenge(attestext.CertAttestation))
	if !errors.Is(err, attestext.ErrUnavailable) || !strings.Contains(err.Error(), "the TEE is gone") || strings.Contains(err.Error(), "first") {
		t.Error(err)
	}
}

func TestMissingCommand(t *testing.T) {
	c, err := execplugin.New([]string{"/nonexistent/command"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Attest(t.Context(), &attestext.AttestRequest{Type: x509Type, Challenge: challenge(attestext.CertAttestation)})
	if !errors.Is(err, attestext.ErrUnavailable) || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := execplugin.New(nil); err == nil {
		t.Error("no command is accepted")
	}
}

func TestOutputIsBounded(t *testing.T) {
	_, err := self(t, "flood").Appraise(t.Context(), evidence(t, tsm.FormatCBOR), challenge(attestext.CertAttestation))
	if !errors.Is(err, attestext.ErrUnavailable) || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
}

// Neither the command nor its child outlives the deadline, and Wait says so: the
// child holds the pipes that Wait waits for.
func TestDeadlineKillsTheProcessGroup(t *testing.T) {
	c := self(t, "hang")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := c.Attest(ctx, &attestext.AttestRequest{Type: x509Type, Challenge: challenge(attestext.CertAttestation)})
	if !errors.Is(err, attestext.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	c.Wait()
}

// What a command leaves behind with its output open is an error that says so, and is killed.
func TestNothingIsLeftBehind(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = self(t, "leave", l.Addr().String()).Attest(t.Context(), &attestext.AttestRequest{Type: x509Type, Challenge: challenge(attestext.CertAttestation)})
	if !errors.Is(err, attestext.ErrUnavailable) || !strings.Contains(err.Error(), "kept its output open") {
		t.Error(err)
	}
	child, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	child.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := child.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) { // no end of the connection
		t.Error("the child goes on")
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		line string
		want []string // nil for an error
	}{
		{"a", []string{"a"}},
		{" a\tb \n c ", []string{"a", "b", "c"}},
		{`'a b'c "d e"`, []string{"a bc", "d e"}},
		{`'a\n' "a\n" a\n`, []string{`a\n`, `a\n`, "an"}},
		{`"\"\\\$\'"`, []string{`"\$\'`}},
		{`a\ b \'`, []string{"a b", "'"}},
		{`'' ""`, []string{"", ""}},
		{"a\\\nb \"c\\\nd\"", []string{"ab", "cd"}},
		{`$HOME *.go ~ a;b|c #d`, []string{"$HOME", "*.go", "~", "a;b|c", "#d"}},
		{"", nil},
		{"  ", nil},
		{"'a", nil},
		{`"a`, nil},
		{`"a\"`, nil},
		{`a\`, nil},
	} {
		got, err := execplugin.Split(c.line)
		if (err != nil) != (c.want == nil) || !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, %v", c.line, got, err)
		}
	}
}
