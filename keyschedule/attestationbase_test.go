package keyschedule

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"hash"
	"os"
	"strings"
	"testing"
)

// TestAttestationBaseKnownAnswers: the row "early attest_binder" of the vector file, and
// answers of the same HKDF in Python over the same key and, for SHA-384, the transcript
// hash of that file's SHA-384 rows.
func TestAttestationBaseKnownAnswers(t *testing.T) {
	b, err := os.ReadFile("testdata/keyschedule.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		SPKI string `json:"spki_p256_d1"`
		Rows []struct{ Name, Value string }
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, r := range v.Rows {
		rows[r.Name] = r.Value
	}
	spki := unhex(t, v.SPKI)
	th := transcript(sha256.New(), rows["transcript_hash ClientHello..ServerHello"])
	if got := NewAttestationBase(sha256New, th).base; !bytes.Equal(got, unhex(t, rows["early attest_base"])) {
		t.Errorf("attest_base is %x", got)
	}
	sum384 := make([]byte, 48)
	for i := range sum384 {
		sum384[i] = 0x80 + byte(i)
	}
	th384 := fixedTranscript{sha512.New384(), sum384}
	for _, tt := range []struct {
		name       string
		base       func(func() hash.Hash, hash.Hash) *AttestationBase
		want, w384 string
	}{
		{"-06", NewAttestationBase, rows["early attest_binder"],
			"a2d26751258e7d6205eec0c80d3b5b27498f4bfec6f87541a781403dfc10d6a8459a2ab27d5e900b89fa1ac6e3a8de4f"},
		{"-03, server", NewServerAttestationBase03, "cbbdf9e7d0ee81ba9edc130062bc45d24db7be6cf11dd1d472cefa1d4af8c759",
			"11fd0a5ef69f8fa29fbbd2012e6f0de2c44c3764cdecb5fcca31981d9abb867b6239226a9170a41c75b287262a9230d7"},
		{"-03, client", NewClientAttestationBase03, "4aa16abf6c06c5086b67301c82f5df1bd8ab35f529f8083de91e7ae18439e3a1",
			"7f4f6d725ac87001026aef4de100dcbce588dbea7ace2397e8fe415a7c996d6c04ac96323db8813c318511980d2fb631"},
	} {
		if got, err := tt.base(sha256New, th).Binder(spki); err != nil || tt.want == "" || !bytes.Equal(got, unhex(t, tt.want)) {
			t.Errorf("%s, SHA-256: %x, %v", tt.name, got, err)
		}
		if got, err := tt.base(sha384New, th384).Binder(spki); err != nil || !bytes.Equal(got, unhex(t, tt.w384)) {
			t.Errorf("%s, SHA-384: %x, %v", tt.name, got, err)
		}
	}
}

// Revision -03 has the key itself as the context, which holds 255 bytes; it is not cut.
func TestAttestationBinderOfALongKey(t *testing.T) {
	for n, ok := range map[int]bool{255: true, 256: false} {
		key := bytes.Repeat([]byte{1}, n)
		if _, err := NewServerAttestationBase03(sha256New, sha256.New()).Binder(key); (err == nil) != ok || !ok && !strings.Contains(err.Error(), "255") {
			t.Errorf("-03, %d bytes: %v", n, err)
		}
		if _, err := NewAttestationBase(sha256New, sha256.New()).Binder(key); err != nil {
			t.Errorf("-06, %d bytes: %v", n, err)
		}
	}
}
