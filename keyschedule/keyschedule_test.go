package keyschedule

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"hash"
	"os"
	"strings"
	"testing"
)

// fixedTranscript is a transcript whose hash is already known.
type fixedTranscript struct {
	hash.Hash
	sum []byte
}

func (f fixedTranscript) Sum(b []byte) []byte { return append(b, f.sum...) }

func transcript(h hash.Hash, sum string) hash.Hash {
	b, err := hex.DecodeString(sum)
	if err != nil {
		panic(err)
	}
	return fixedTranscript{h, b}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sha256New() hash.Hash { return sha256.New() }
func sha384New() hash.Hash { return sha512.New384() }

// TestRFC8448Section3 walks the chain of types along the published trace.
func TestRFC8448Section3(t *testing.T) {
	eq := func(name string, got []byte, want string) {
		t.Helper()
		if !bytes.Equal(got, unhex(t, want)) {
			t.Errorf("%s = %x, want %s", name, got, want)
		}
	}
	early := NewEarlySecret(sha256.New, nil)
	eq("early", early.secret, "33ad0a1c607ec03b09e6cd9893680ce210adf300aa1f2660e1b22e10f170f92a")
	hs := early.HandshakeSecret(unhex(t, "8bd4054fb55b9d63fdfbacf9f04b9f0d35e6d63f537563efd46272900f89492d"))
	eq("handshake", hs.secret, "1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac")
	sh := transcript(sha256.New(), "860c06edc07858ee8e78f0e7428c58edd6b43f2ca3e6e95f02ed063cf0e1cad8")
	eq("c hs traffic", hs.ClientHandshakeTrafficSecret(sh), "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21")
	eq("s hs traffic", hs.ServerHandshakeTrafficSecret(sh), "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38")
	ms := hs.MasterSecret()
	eq("master", ms.secret, "18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919")
	sf := transcript(sha256.New(), "9608102a0f1ccc6db6250b7b7e417b1a000eaada3daae4777a7686c9ff83df13")
	eq("c ap traffic", ms.ClientApplicationTrafficSecret(sf), "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
	eq("s ap traffic", ms.ServerApplicationTrafficSecret(sf), "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
	eq("exp master", TestingOnlyExporterSecret(ms.ExporterMasterSecret(sf)), "fe22f881176eda18eb8f44529e6792c50c9a3f89452f68d8ae311b4309d3cf50")
	cf := transcript(sha256.New(), "209145a96ee8e2a122ff810047cc952684658d6049e86429426db87c54ad143d")
	eq("res master", ms.ResumptionMasterSecret(cf), "7df235f2031d2a051287d02b0241b0bfdaf86cc856231f2d5aba46c434ec196c")
}

// vectors is testdata/keyschedule.json. Its rows of origin "RFC 8448 section 3"
// are published values; the others follow from them and were derived with an
// HKDF that shares no code with this package.
type vectors struct {
	Rows []struct {
		Name, Origin, Context, Value string
		Length                       int
		HandshakeSecret              string `json:"handshake_secret"`
		TranscriptHash               string `json:"transcript_hash"`
	}
}

// TestHandshakeExporterKnownAnswers covers the rows of the vector file that this
// package derives, with SHA-256 and SHA-384, and fails on a file that lost them.
//
// Requirements: 6.2.1-1, 6.2.1-2.
func TestHandshakeExporterKnownAnswers(t *testing.T) {
	b, err := os.ReadFile("testdata/keyschedule.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	row := func(name string) string {
		for _, r := range v.Rows {
			if r.Name == name {
				return r.Value
			}
		}
		t.Fatalf("no row %q", name)
		return ""
	}
	hs := &HandshakeSecret{unhex(t, row("handshake_secret")), sha256New}
	hes := hs.HandshakeExporterSecret(transcript(sha256.New(), row("transcript_hash ClientHello..ServerHello")))
	exp := &ExporterMasterSecret{exporter{unhex(t, row("exporter_master_secret")), sha256New}}
	var hes384 *HandshakeExporterSecret
	checked := 0
	for _, r := range v.Rows {
		var got []byte
		context := unhex(t, r.Context)
		switch r.Name {
		case "handshake_exporter_secret":
			got = hes.secret
		case "SHA-384 handshake_exporter_secret":
			hs := &HandshakeSecret{unhex(t, r.HandshakeSecret), sha384New}
			hes384 = hs.HandshakeExporterSecret(transcript(sha512.New384(), r.TranscriptHash))
			got = hes384.secret
		case "TLS-Handshake-Exporter attestation-binder":
			got = hes.Exporter("attestation-binder", context, r.Length)
			if len(context) == r.Length {
				if got, err = hes.ChannelBinder(context); err != nil {
					t.Fatal(err)
				}
			}
		case "SHA-384 TLS-Handshake-Exporter attestation-binder":
			got = hes384.Exporter("attestation-binder", context, r.Length)
		case "TLS-Exporter Attestation":
			got = exp.Exporter("Attestation", context, r.Length)
		default:
			continue
		}
		checked++
		if !bytes.Equal(got, unhex(t, r.Value)) {
			t.Errorf("%s (%s, %d bytes) = %x, want %s", r.Name, r.Origin, r.Length, got, r.Value)
		}
	}
	if checked != 10 {
		t.Errorf("%d rows checked, want 10", checked)
	}
}

// TestChannelBinderIsNotAPrefix: the length is part of the derivation, so a longer
// binder does not begin with a shorter one.
//
// Requirements: 6.2.1-4.
func TestChannelBinderIsNotAPrefix(t *testing.T) {
	hs := &HandshakeSecret{make([]byte, 32), sha256New}
	hes := hs.HandshakeExporterSecret(nil)
	nonce := make([]byte, 32)
	if bytes.HasPrefix(hes.Exporter("attestation-binder", nonce, 64), hes.Exporter("attestation-binder", nonce, 32)) {
		t.Error("a binder of 64 bytes begins with the one of 32")
	}
}

func TestChannelBinderBoundsTheNonce(t *testing.T) {
	hs := &HandshakeSecret{make([]byte, 32), sha256New}
	hes := hs.HandshakeExporterSecret(nil)
	for n, ok := range map[int]bool{0: false, 1: true, 255: true, 256: false} {
		b, err := hes.ChannelBinder(make([]byte, n))
		if (err == nil) != ok {
			t.Errorf("nonce of %d bytes: error %v", n, err)
		}
		if ok && len(b) != n {
			t.Errorf("nonce of %d bytes: binder of %d", n, len(b))
		}
	}
}
