package eat

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

// testKAK signs deterministically, so that what it makes can be compared.
var testKAK = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x4b}, ed25519.SeedSize))

const (
	challenge = "b91b03129222973c214e42bf31d6872a3ef2dbdda401fbd1f725d48d6bf9c817"

	// Claims by hand, in deterministic order, without kak-pub's key.
	claimsHead = "a3 08 a1 01" + keyTIK + "0a 5820" + challenge + "19 09c4"
)

// bstr encodes a byte string of less than 65,536 bytes.
func bstr(b []byte) []byte {
	n := len(b)
	switch {
	case n < 24:
		return append([]byte{0x40 + byte(n)}, b...)
	case n < 256:
		return append([]byte{0x58, byte(n)}, b...)
	}
	return append([]byte{0x59, byte(n >> 8), byte(n)}, b...)
}

// claims returns the claims of the vector, with testKAK for the KAK.
func claims(t testing.TB) []byte {
	return append(unhex(t, claimsHead+"a3 01 01 20 06 21 5820"), testKAK.Public().(ed25519.PublicKey)...)
}

// sign1 makes a COSE_Sign1 without go-cose, and so without its checks: the
// headers are encoded maps, and the signature is testKAK's over the Sig_structure
// of RFC 9052, section 4.4.
func sign1(t testing.TB, protected, unprotected string, payload []byte) []byte {
	p := bstr(unhex(t, protected))
	tbs := append([]byte{0x84, 0x6a}, "Signature1"...)
	tbs = append(tbs, p...)
	tbs = append(tbs, 0x40)
	tbs = append(tbs, bstr(payload)...)
	out := append([]byte{0x84}, p...)
	out = append(out, unhex(t, unprotected)...)
	out = append(out, bstr(payload)...)
	return append(out, bstr(ed25519.Sign(testKAK, tbs))...)
}

const eddsa = "a1 01 27"

func spki(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestKnownKATIsSignedAndVerified(t *testing.T) {
	want := sign1(t, eddsa, "a0", claims(t))
	tik := point(t, elliptic.P256(), tikX, tikY)
	got, err := SignKAT(nil, testKAK, unhex(t, challenge), tik)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("signed %x, want %x", got, want)
	}
	for _, b := range [][]byte{want, append([]byte{sign1Tag}, want...)} {
		k, err := VerifyKAT(b)
		if err != nil {
			t.Fatal(err)
		}
		pub, _ := MarshalKey(testKAK.Public())
		if !reflect.DeepEqual(k, &KAT{Challenge: unhex(t, challenge), TIK: spki(t, tik), KAK: testKAK.Public(), KAKPub: pub}) {
			t.Errorf("verified %+v", k)
		}
	}
}

func TestKATRoundTripOnEveryCurve(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, kak := range []crypto.Signer{p256, p384, testKAK} {
		for _, tik := range []crypto.Signer{p256, p384, testKAK} {
			for _, n := range []int{8, 32, 64} {
				c := bytes.Repeat([]byte{7}, n)
				b, err := SignKAT(rand.Reader, kak, c, tik.Public())
				if err != nil {
					t.Fatal(err)
				}
				k, err := VerifyKAT(b)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(k.Challenge, c) || !bytes.Equal(k.TIK, spki(t, tik.Public())) ||
					!kak.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(k.KAK) {
					t.Errorf("%T signs %T: %+v", kak, tik, k)
				}
			}
		}
	}
}

// optsSigner is a key that is not in memory and reads its options.
type optsSigner struct{ crypto.Signer }

func (s optsSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc().Size() != len(digest) {
		return nil, errors.New("options and digest disagree")
	}
	return s.Signer.Sign(random, digest, opts)
}

func TestForeignSignerIsToldTheHash(t *testing.T) {
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		kak, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		b, err := SignKAT(nil, optsSigner{kak}, make([]byte, 8), kak.Public())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := VerifyKAT(b); err != nil {
			t.Error(err)
		}
	}
}

func TestChallengeOutOfBoundsIsNotSigned(t *testing.T) {
	for _, n := range []int{0, 7, 65} {
		if _, err := SignKAT(nil, testKAK, make([]byte, n), testKAK.Public()); err == nil {
			t.Errorf("signed a challenge of %d bytes", n)
		}
	}
}

func TestEveryStrictPrefixAndTrailingByteOfKATIsRefused(t *testing.T) {
	b := sign1(t, eddsa, "a0", claims(t))
	for i := range b {
		if _, err := VerifyKAT(b[:i]); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("first %d of %d bytes: %v", i, len(b), err)
		}
	}
	if _, err := VerifyKAT(append(b, 0)); !errors.Is(err, attestext.ErrMalformed) {
		t.Error(err)
	}
}

// The signatures verify, or would, so that it is the structure that is refused.
func TestMalformedKATIsRefused(t *testing.T) {
	good := claims(t)
	unsigned := sign1(t, eddsa, "a0", good)
	unsigned = unsigned[:len(unsigned)-2-ed25519.SignatureSize]
	kakPub := hex.EncodeToString(good[len(unhex(t, claimsHead)):])
	cnf, nonce, kak := "08 a1 01"+keyTIK, "0a 5820"+challenge, "19 09c4"+kakPub
	for name, b := range map[string][]byte{
		"crit":                         sign1(t, "a2 01 27 02 81 01", "a0", good),
		"crit of an unknown parameter": sign1(t, "a3 01 27 02 81 3a00011170 3a00011170 00", "a0", good),
		"unknown protected header":     sign1(t, "a2 01 27 18 21 40", "a0", good),
		"protected text label":         sign1(t, "a2 01 27 6161 40", "a0", good),
		"duplicate alg":                sign1(t, "a2 01 27 01 27", "a0", good),
		"no alg":                       sign1(t, "a0", "a0", good),
		"empty protected header":       sign1(t, "", "a0", good),
		"alg as text":                  sign1(t, "a1 01 654564445341", "a0", good),
		"alg of another curve":         sign1(t, "a1 01 26", "a0", good),
		"kid as text":                  sign1(t, "a2 01 27 04 6161", "a0", good),
		"content type as bytes":        sign1(t, "a2 01 27 03 4161", "a0", good),
		"alg unprotected":              sign1(t, "a0", "a1 01 27", good),
		"alg in both buckets":          sign1(t, eddsa, "a1 01 27", good),
		"x5chain unprotected":          sign1(t, eddsa, "a1 18 21 4101", good),
		"countersignature unprotected": sign1(t, eddsa, "a1 0b 83 40 a0 41 00", good),
		"unprotected kid as text":      sign1(t, eddsa, "a1 04 6161", good),
		"duplicate unprotected kid":    sign1(t, eddsa, "a2 04 4161 04 4161", good),
		"kid in both headers":          sign1(t, "a2 01 27 04 4161", "a1 04 4161", good),
		"unprotected of indef length":  sign1(t, eddsa, "bf ff", good),
		"null for unprotected":         sign1(t, eddsa, "f6", good),
		"protected of indef length":    sign1(t, "bf 01 27 ff", "a0", good),
		"no claims":                    sign1(t, eddsa, "a0", nil),
		"claims behind claims":         sign1(t, eddsa, "a0", append(bytes.Clone(good), 0)),
		"claims of indefinite length":  sign1(t, eddsa, "a0", unhex(t, "bf"+cnf+nonce+kak+"ff")),
		"duplicate nonce":              sign1(t, eddsa, "a0", unhex(t, "a4"+cnf+nonce+nonce+kak)),
		"duplicate kak-pub":            sign1(t, eddsa, "a0", unhex(t, "a4"+cnf+nonce+kak+kak)),
		"unknown claim":                sign1(t, eddsa, "a0", unhex(t, "a4"+cnf+nonce+kak+"04 00")),
		"no nonce":                     sign1(t, eddsa, "a0", unhex(t, "a2"+cnf+kak)),
		"no cnf":                       sign1(t, eddsa, "a0", unhex(t, "a2"+nonce+kak)),
		"no kak-pub":                   sign1(t, eddsa, "a0", unhex(t, "a2"+cnf+nonce)),
		"another claim for the nonce":  sign1(t, eddsa, "a0", unhex(t, "a3"+cnf+"0b 5820"+challenge+kak)),
		"nonce of 7 bytes":             sign1(t, eddsa, "a0", unhex(t, "a3"+cnf+"0a 47"+challenge[:14]+kak)),
		"nonce of 65 bytes":            sign1(t, eddsa, "a0", unhex(t, "a3"+cnf+"0a 5841"+strings.Repeat("00", 65)+kak)),
		"array of nonces":              sign1(t, eddsa, "a0", unhex(t, "a3"+cnf+"0a 82 5820"+challenge+"5820"+challenge+kak)),
		"nonce as text":                sign1(t, eddsa, "a0", unhex(t, "a3"+cnf+"0a 68 6161616161616161"+kak)),
		"null for a nonce":             sign1(t, eddsa, "a0", unhex(t, "a3"+cnf+"0a f6"+kak)),
		"empty cnf":                    sign1(t, eddsa, "a0", unhex(t, "a3 08 a0"+nonce+kak)),
		"cnf with a kid":               sign1(t, eddsa, "a0", unhex(t, "a3 08 a2 01"+keyTIK+"03 4161"+nonce+kak)),
		"cnf of a key in bytes":        sign1(t, eddsa, "a0", append(append(unhex(t, "a3 08 a1 01"), bstr(unhex(t, keyTIK))...), unhex(t, nonce+kak)...)),
		"cnf that panics go-cose":      sign1(t, eddsa, "a0", unhex(t, "a3 08 a1 01 a2 01 02 20 40"+nonce+kak)),
		"kak-pub that panics go-cose":  sign1(t, eddsa, "a0", unhex(t, "a3"+cnf+nonce+"19 09c4 a2 01 02 20 40")),
		"private key in kak-pub":       sign1(t, eddsa, "a0", unhex(t, "a3"+cnf+nonce+"19 09c4 a4"+kakPub[2:]+"23 5820"+challenge)),
		"empty signature":              append(unsigned[:len(unsigned):len(unsigned)], 0x40),
		"null for a signature":         append(unsigned[:len(unsigned):len(unsigned)], 0xf6),
		"detached payload":             append(unhex(t, "84 43"+eddsa+"a0 f6"), bstr(make([]byte, 64))...),
		"three elements":               unhex(t, "83 43"+eddsa+"a0 4100"),
		"array of indefinite length":   append(append([]byte{0x9f}, sign1(t, eddsa, "a0", good)[1:]...), 0xff),
		"two tags":                     append([]byte{sign1Tag, sign1Tag}, sign1(t, eddsa, "a0", good)...),
		"tag of COSE_Mac0":             append([]byte{0xd1}, sign1(t, eddsa, "a0", good)...),
		"tag of a CWT":                 append([]byte{0xd8, 61, sign1Tag}, sign1(t, eddsa, "a0", good)...),
		"too long":                     sign1(t, eddsa, "a0", make([]byte, MaxKATSize-1)),
	} {
		if k, err := VerifyKAT(b); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
	}
	for name, b := range map[string][]byte{
		"kid, content type and typ": sign1(t, "a4 01 27 03 19 0107 04 4161 10 73"+hex.EncodeToString([]byte("application/eat+cwt")), "a0", good),
		"unprotected kid":           sign1(t, eddsa, "a1 04 4161", good),
		"claims in another order":   sign1(t, eddsa, "a0", unhex(t, "a3"+kak+nonce+cnf)),
	} {
		if _, err := VerifyKAT(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKATWithWrongSignatureIsRefused(t *testing.T) {
	good := sign1(t, eddsa, "a0", claims(t))
	other := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	kakPub, err := MarshalKey(other.Public())
	if err != nil {
		t.Fatal(err)
	}
	flip := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] ^= 1
		return b
	}
	for name, b := range map[string][]byte{
		"last bit":        flip(len(good) - 1),
		"challenge":       flip(bytes.Index(good, unhex(t, challenge))),
		"short signature": append(good[:len(good)-66:len(good)-66], bstr(make([]byte, 63))...),
		"another key's":   sign1(t, eddsa, "a0", append(unhex(t, claimsHead), kakPub...)),
		"header put in":   append(unhex(t, "84 45 a2 01 27 04 40"), good[5:]...),
	} {
		if k, err := VerifyKAT(b); !errors.Is(err, attestext.ErrSignature) {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
	}
}

func TestKAKHashCoversOptionalMembers(t *testing.T) {
	bare := claims(t)[len(unhex(t, claimsHead)):]
	// alg and kid in front of the rest, which is not the deterministic order.
	rest := hex.EncodeToString(bare)[2:]
	k, err := VerifyKAT(sign1(t, eddsa, "a0", unhex(t, claimsHead+"a5 03 27 02 4161"+rest)))
	if err != nil {
		t.Fatal(err)
	}
	// The deterministic order is 1, 2, 3, -1, -2.
	want := unhex(t, "a5 01 01 02 4161 03 27"+rest[4:])
	if !bytes.Equal(k.KAKPub, want) {
		t.Errorf("kak-pub is %x, want %x", k.KAKPub, want)
	}
	h := sha256.Sum256(want)
	if !MatchKAKHash(k.KAKPub, h[:]) {
		t.Error("hash does not match")
	}
	h = HashKAK(bare)
	if MatchKAKHash(k.KAKPub, h[:]) {
		t.Error("hash without alg and kid matches")
	}
}

func TestKAKHashMatchesByLengthAlone(t *testing.T) {
	kak := unhex(t, keyP256)
	s256, s384, s512 := sha256.Sum256(kak), sha512.Sum384(kak), sha512.Sum512(kak)
	pad := func(b []byte, n int) []byte { return append(bytes.Clone(b), make([]byte, n)...) }
	for name, got := range map[string][]byte{
		"SHA-256 nonce": s256[:], "SHA-384 nonce": s384[:], "SHA-512 nonce": s512[:],
		"SHA-256 REPORTDATA": pad(s256[:], 32), "SHA-384 REPORTDATA": pad(s384[:], 16),
	} {
		if !MatchKAKHash(kak, got) {
			t.Errorf("%s does not match", name)
		}
		if MatchKAKHash(unhex(t, keyTIK), got) {
			t.Errorf("%s matches another key", name)
		}
	}
	flipped := pad(s256[:], 32)
	flipped[63] = 1
	for name, got := range map[string][]byte{
		"nothing": nil, "zeros": make([]byte, 64), "cut": s256[:31], "cut SHA-384": s384[:32],
		"padded to 48": pad(s256[:], 16), "padded to 65": pad(s256[:], 33), "another last byte": flipped,
		"padded in front": append(make([]byte, 32), s256[:]...),
	} {
		if MatchKAKHash(kak, got) {
			t.Errorf("%s matches", name)
		}
	}
}

var testPAT = cmw.Record{Format: tsm.FormatCBOR, Value: []byte{0xa0}, Ind: cmw.Evidence}

// bundle is a bundle by hand: kat and pat are the entries, encoded.
func bundle(t testing.TB, typ string, entries ...string) []byte {
	b := []byte{0xa1 + byte(len(entries))}
	for _, e := range entries {
		b = append(b, unhex(t, e)...)
	}
	b = append(b, 0x68)
	b = append(b, "__cmwc_t"...)
	b = append(b, 0x78, byte(len(typ)))
	return append(b, typ...)
}

func text(s string) string {
	b := append([]byte{0x78, byte(len(s))}, s...)
	if len(s) < 24 {
		b = append([]byte{0x60 + byte(len(s))}, s...)
	}
	return hex.EncodeToString(b)
}

var (
	entryKAT = text("kat") + "82" + text(TokenMediaType) + "42 0102"
	entryPAT = text("pat") + "83" + text(tsm.MediaTypeCBOR) + "41 a0 04"
)

func TestKnownBundleParsesAndEncodes(t *testing.T) {
	b := bundle(t, BundleType, entryKAT, entryPAT)
	got, err := EncodeBundle([]byte{1, 2}, testPAT)
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("encoded %x, want %x (%v)", got, b, err)
	}
	kat, pat, err := ParseBundle(b)
	if err != nil || !bytes.Equal(kat, []byte{1, 2}) || !reflect.DeepEqual(pat, testPAT) {
		t.Errorf("parsed %x, %+v, %v", kat, pat, err)
	}
	for i := range b {
		if _, _, err := ParseBundle(b[:i]); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("first %d of %d bytes: %v", i, len(b), err)
		}
	}
	if _, _, err := ParseBundle(append(b, 0)); !errors.Is(err, attestext.ErrMalformed) {
		t.Error(err)
	}
	// By content format, and in another order.
	b = bundle(t, BundleType, entryPAT, text("kat")+"83 19 0107 42 0102 04")
	if kat, _, err := ParseBundle(b); err != nil || !bytes.Equal(kat, []byte{1, 2}) {
		t.Errorf("parsed %x, %v", kat, err)
	}
}

func TestBundleOfOtherMembersIsRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"no kat":            bundle(t, BundleType, entryPAT),
		"no pat":            bundle(t, BundleType, entryKAT),
		"another entry":     bundle(t, BundleType, entryKAT, entryPAT, "6161 82 00 4101"),
		"another label":     bundle(t, BundleType, entryKAT, "6161 82 00 4101"),
		"duplicate kat":     bundle(t, BundleType, entryKAT, entryKAT, entryPAT),
		"kat of a type":     bundle(t, BundleType, text("kat")+"82"+text(tsm.MediaTypeCBOR)+"420102", entryPAT),
		"kat in a JWT":      bundle(t, BundleType, text("kat")+"82 19 0108 420102", entryPAT),
		"kat as a tag":      bundle(t, BundleType, text("kat")+"da63740209 420102", entryPAT),
		"kat that is a map": bundle(t, BundleType, text("kat")+"a1 6161 82 00 4101", entryPAT),
		"kat is results":    bundle(t, BundleType, text("kat")+"83 19 0107 42 0102 08", entryPAT),
		"pat is results":    bundle(t, BundleType, entryKAT, text("pat")+"83"+text(tsm.MediaTypeCBOR)+"41a0 08"),
		"pat is a wrapper":  bundle(t, BundleType, entryKAT, text("pat")+"82 19 0111 41a0"),
		"pat is a bundle":   bundle(t, BundleType, entryKAT, text("pat")+"82"+text(BundleMediaType)+"41a0"),
	} {
		if kat, pat, err := ParseBundle(b); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %x, %+v, %v", name, kat, pat, err)
		}
	}
	untyped := append([]byte{0xa2}, unhex(t, entryKAT+entryPAT)...)
	for name, b := range map[string][]byte{
		"record":                unhex(t, "82 19 0107 4101"),
		"untyped collection":    untyped,
		"another type":          bundle(t, "tag:example.com,2024:x", entryKAT, entryPAT),
		"type in other letters": bundle(t, "TAG:ietf.org,2024-02-29:rats/kat", entryKAT, entryPAT),
		"JSON":                  []byte(`{"__cmwc_t":"` + BundleType + `","kat":["application/eat+cwt","AQI"],"pat":["a/b","AQ"]}`),
	} {
		if kat, pat, err := ParseBundle(b); !errors.Is(err, attestext.ErrWrongType) {
			t.Errorf("%s: %x, %+v, %v", name, kat, pat, err)
		}
	}
}

func TestBundleThatWouldBeRefusedIsNotEncoded(t *testing.T) {
	for name, pat := range map[string]cmw.Record{
		"empty":             {Format: tsm.FormatCBOR},
		"no media type":     {Format: attestext.EvidenceFormat{MediaType: "x"}, Value: []byte{1}},
		"another wrapper":   {Format: attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatCMWCBOR}, Value: []byte{1}},
		"another bundle":    {Format: BundleFormat, Value: []byte{1}},
		"not even evidence": {Format: tsm.FormatCBOR, Value: []byte{1}, Ind: cmw.Endorsements},
	} {
		if b, err := EncodeBundle([]byte{1}, pat); err == nil {
			t.Errorf("%s: encoded as %x", name, b)
		}
	}
	if b, err := EncodeBundle(nil, testPAT); err == nil {
		t.Errorf("empty KAT: encoded as %x", b)
	}
}

func TestBundleFormatIsSpecific(t *testing.T) {
	if BundleFormat.IsAny() {
		t.Error("the format of a bundle stands for any")
	}
	if !BundleFormat.Equal(attestext.EvidenceFormat{MediaType: `application/CMW+cbor;cmwc_t="tag:ietf.org,2024-02-29:rats/kat"`}) {
		t.Error("the format of a bundle does not equal itself in another spelling")
	}
}

// The whole chain, from the platform's quote to the TLS identity key.
func TestBundleTiesPlatformToKey(t *testing.T) {
	kakPub, err := MarshalKey(testKAK.Public())
	if err != nil {
		t.Fatal(err)
	}
	var reportData [attestext.ReportDataSize]byte
	h := HashKAK(kakPub)
	copy(reportData[:], h[:])

	tik := point(t, elliptic.P256(), tikX, tikY)
	kat, err := SignKAT(nil, testKAK, unhex(t, challenge), tik)
	if err != nil {
		t.Fatal(err)
	}
	b, err := EncodeBundle(kat, cmw.Record{Format: tsm.FormatCBOR, Value: reportData[:]})
	if err != nil {
		t.Fatal(err)
	}

	kat, pat, err := ParseBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	k, err := VerifyKAT(kat)
	if err != nil {
		t.Fatal(err)
	}
	if !MatchKAKHash(k.KAKPub, pat.Value) || !bytes.Equal(k.TIK, spki(t, tik)) {
		t.Error("chain does not hold")
	}
}

func FuzzVerifyKAT(f *testing.F) {
	good := claims(f)
	f.Add(sign1(f, eddsa, "a0", good))
	f.Add(append([]byte{sign1Tag}, sign1(f, eddsa, "a0", good)...))
	f.Add(sign1(f, "a2 01 27 02 81 01", "a0", good))
	f.Add(sign1(f, "a2 01 27 04 4161", "a1 04 4161", good))
	f.Add(sign1(f, eddsa, "a0", unhex(f, claimsHead+"a2 01 02 20 40")))
	f.Add(unhex(f, "84 43 a10126 a0 41 00 41 00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		k, err := VerifyKAT(b)
		if err != nil {
			if k != nil || !errors.Is(err, attestext.ErrMalformed) && !errors.Is(err, attestext.ErrSignature) {
				t.Fatalf("%+v, %v", k, err)
			}
		}
		// The fuzzer cannot sign: look at the claims before the signature too.
		k, _, _, err = parseKAT(b)
		if err != nil {
			return
		}
		pub, err := ParseKey(k.KAKPub)
		if err != nil || !pub.(interface{ Equal(crypto.PublicKey) bool }).Equal(k.KAK) {
			t.Fatalf("kak-pub %x: %v, %v", k.KAKPub, pub, err)
		}
		if _, err := x509.ParsePKIXPublicKey(k.TIK); err != nil {
			t.Fatal(err)
		}
		if n := len(k.Challenge); n < 8 || n > 64 {
			t.Fatalf("challenge of %d bytes", n)
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	f.Add(bundle(f, BundleType, entryKAT, entryPAT))
	f.Add(bundle(f, BundleType, entryPAT, text("kat")+"83 19 0107 42 0102 04"))
	f.Add(bundle(f, BundleType, entryKAT))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		kat, pat, err := ParseBundle(b)
		if err != nil {
			if kat != nil || pat.Value != nil || !errors.Is(err, attestext.ErrMalformed) && !errors.Is(err, attestext.ErrWrongType) {
				t.Fatalf("%x, %+v, %v", kat, pat, err)
			}
			return
		}
		enc, err := EncodeBundle(kat, pat)
		if err != nil {
			t.Fatal(err)
		}
		kat2, pat2, err := ParseBundle(enc)
		if err != nil || !bytes.Equal(kat, kat2) || !reflect.DeepEqual(pat, pat2) {
			t.Fatalf("%x, %+v came back as %x, %+v, %v", kat, pat, kat2, pat2, err)
		}
	})
}
