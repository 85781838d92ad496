package interop

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const vectorsDir = "../testdata/handshakes"

// TestKnownAnswers comes to the verdict of each file from its messages and secrets
// alone, and derives all its values again.
func TestKnownAnswers(t *testing.T) {
	files, err := filepath.Glob(vectorsDir + "/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	var accepted, refused int
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			v, conv, err := parseVector(b)
			if err != nil {
				t.Fatal(err)
			}
			c := named(t, v.Case)
			peer := client
			if v.Recorded.Client == "this project" {
				peer = server
			}
			if err := c.verdict(conv, peer.other()); err != nil {
				t.Error(err)
			}
			again, err := c.vector(conv, peer, map[side]string{client: v.Recorded.Client, server: v.Recorded.Server}[peer])
			if err != nil {
				t.Fatal(err)
			}
			again.Trust = v.Trust
			if !reflect.DeepEqual(again, v) {
				t.Errorf("derived again it is another file:\n%+v", again.Attestations)
			}
			for _, a := range v.Attestations {
				evidence, _ := hex.DecodeString(a.Evidence)
				value, _ := hex.DecodeString(a.Value)
				if bytes.Contains(evidence, value) != v.Expected.Accepted && strings.Contains(v.Case, "wrong-") {
					t.Errorf("the %s's evidence has its value in it: %v", a.Attester, !v.Expected.Accepted)
				}
			}
			if v.Expected.Accepted {
				accepted++
			} else {
				refused++
			}
			if secret := conv.secrets[logHandshakeSecret]; v.Expected.Accepted && c.Mode == modeAttest && !(c.only && c.draft08) {
				secret[0] ^= 1
				if c.verdict(conv, peer.other()) == nil {
					t.Error("with another Handshake Secret it passes as well")
				}
			}
		})
	}
	t.Attr("known-answers", fmt.Sprintf("%d accepted, %d refused", accepted, refused))
}

// TestKnownAnswersAreThoseOfTheGenerator compares the files with the list in
// scripts/vectors.
func TestKnownAnswersAreThoseOfTheGenerator(t *testing.T) {
	script, err := os.ReadFile("../scripts/vectors")
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?s)cases=\((.*?)\)`).FindSubmatch(script)
	if list == nil {
		t.Fatal("scripts/vectors has no list of cases")
	}
	want := strings.Fields(string(list[1]))
	slices.Sort(want)
	files, err := filepath.Glob(vectorsDir + "/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, strings.TrimSuffix(filepath.Base(f), ".json"))
	}
	if !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
}
