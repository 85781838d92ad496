package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/strict"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/internal/fuzzbound"
	"github.com/attestedtls/atls/internal/testpki"
	"github.com/google/go-tpm/tpm2"
)

// Here go-tpm marshals what a TPM would, and a key of the test signs it, so that
// anything can be wrong with it. Quotes of a TPM are in package tpmdevice.

var (
	testTime   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	reportData = [64]byte{1, 2, 3}
	akKey      = key("AK")
)

var key = testpki.Key

// A quoted is what goes into a quote.
type quoted struct {
	key    crypto.Signer
	public tpm2.TPMTPublic
	attest tpm2.TPMSAttest
	pcrs   []tpm.PCR
	chain  [][]byte
}

var akAttributes = tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true, Restricted: true}

func ecdsaPublic(k *ecdsa.PrivateKey, hash tpm2.TPMIAlgHash) tpm2.TPMTPublic {
	b, err := k.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	curve := tpm2.TPMECCNistP256
	if k.Curve == elliptic.P384() {
		curve = tpm2.TPMECCNistP384
	}
	n := (len(b) - 1) / 2
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: akAttributes,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme:  tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash})},
			CurveID: curve,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: b[1 : 1+n]}, Y: tpm2.TPM2BECCParameter{Buffer: b[1+n:]},
		}),
	}
}

func rsaPublic(k *rsa.PrivateKey, scheme tpm2.TPMAlgID) tpm2.TPMTPublic {
	var details tpm2.TPMUAsymScheme
	if scheme == tpm2.TPMAlgRSASSA {
		details = tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})
	} else {
		details = tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: tpm2.TPMAlgSHA256})
	}
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: akAttributes,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme: tpm2.TPMTRSAScheme{Scheme: scheme, Details: details}, KeyBits: tpm2.TPMKeyBits(k.N.BitLen()),
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()}),
	}
}

// honest returns a quote of PCRs 0 and 7 with nothing wrong.
func honest() *quoted {
	data := tpm.QualifyingData(reportData)
	q := &quoted{key: akKey, public: ecdsaPublic(akKey, tpm2.TPMAlgSHA256)}
	for _, i := range []int{0, 7} {
		v := sha256.Sum256([]byte{byte(i)})
		q.pcrs = append(q.pcrs, tpm.PCR{Bank: tpm.SHA256, Index: i, Value: v[:]})
	}
	q.attest = tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: data[:]},
		ClockInfo: tpm2.TPMSClockInfo{Clock: 5, ResetCount: 6, RestartCount: 7, Safe: true}, FirmwareVersion: 0x1122334455667788,
	}
	q.quote(tpm2.PCClientCompatible.PCRs(0, 7))
	q.qualify(0x4000000B)
	return q
}

// quote puts a selection and the digest of the PCRs into the quote.
func (q *quoted) quote(selected []byte) {
	h := sha256.New()
	for _, p := range q.pcrs {
		h.Write(p.Value)
	}
	q.attest.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: selected}}},
		PCRDigest: tpm2.TPM2BDigest{Buffer: h.Sum(nil)},
	})
}

// qualify makes the key a primary one of a hierarchy.
func (q *quoted) qualify(hierarchy uint32) {
	h := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, hierarchy), q.name()...))
	q.attest.QualifiedSigner = tpm2.TPM2BName{Buffer: append([]byte{0, 0x0b}, h[:]...)}
}

func (q *quoted) name() []byte {
	h := sha256.Sum256(tpm2.Marshal(q.public))
	return append([]byte{0, 0x0b}, h[:]...)
}

func (q *quoted) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(message)
	two := func(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }
	switch k := q.key.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return slices.Concat([]byte{0, 0x18, 0, 0x0b}, two(r.Bytes()), two(s.Bytes()))
	case *rsa.PrivateKey:
		params, err := q.public.Parameters.RSADetail()
		if err != nil {
			t.Fatal(err)
		}
		var opts crypto.SignerOpts = crypto.SHA256
		if params.Scheme.Scheme == tpm2.TPMAlgRSAPSS {
			opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		}
		sig, err := k.Sign(rand.Reader, digest[:], opts)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Concat(binary.BigEndian.AppendUint16(nil, uint16(params.Scheme.Scheme)), []byte{0, 0x0b}, two(sig))
	}
	t.Fatalf("a %T does not sign", q.key)
	return nil
}

func (q *quoted) parts(t testing.TB) *tpm.Parts {
	attest := tpm2.Marshal(q.attest)
	return &tpm.Parts{Attest: attest, Signature: q.sign(t, attest), Public: tpm2.Marshal(q.public), PCRs: q.pcrs, Chain: q.chain}
}

// trust has the key enrolled.
func (q *quoted) trust() *tpm.Trust {
	return &tpm.Trust{Keys: []tpm.EnrolledKey{{Name: q.name(), EK: tpm.EKID{1}}}}
}

// encode encodes parts without looking at them.
func encode(t testing.TB, p *tpm.Parts, more map[string]any) []byte {
	t.Helper()
	pcrs := map[int]map[int][]byte{}
	for _, r := range p.PCRs {
		if pcrs[int(r.Bank)] == nil {
			pcrs[int(r.Bank)] = map[int][]byte{}
		}
		pcrs[int(r.Bank)][r.Index] = r.Value
	}
	m := map[string]any{"attest": p.Attest, "signature": p.Signature, "public": p.Public, "pcrs": pcrs}
	for k, v := range more {
		if m[k] = v; v == nil {
			delete(m, k)
		}
	}
	b, err := strict.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func verify(t testing.TB, q *quoted, trust *tpm.Trust, collateral *tpm.Collateral) (*tpm.Verified, error) {
	t.Helper()
	b, err := q.parts(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := tpm.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return tpm.Verify(parsed, &tpm.VerifyOptions{Trust: trust, Collateral: collateral, Now: testTime})
}

func wantClass(t testing.TB, what string, err, class error, says string) {
	t.Helper()
	if !errors.Is(err, class) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: got %v, want %v that says %q", what, err, class, says)
	}
}

func TestQuoteIsReadAndVerified(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]struct {
		key    crypto.Signer
		public tpm2.TPMTPublic
	}{
		"ECDSA P-256": {akKey, ecdsaPublic(akKey, tpm2.TPMAlgSHA256)},
		"ECDSA P-384": {p384, ecdsaPublic(p384, tpm2.TPMAlgSHA256)},
		"RSASSA":      {rsaKey, rsaPublic(rsaKey, tpm2.TPMAlgRSASSA)},
		"RSAPSS":      {rsaKey, rsaPublic(rsaKey, tpm2.TPMAlgRSAPSS)},
	} {
		q := honest()
		q.key, q.public = k.key, k.public
		q.qualify(0x4000000B)
		v, err := verify(t, q, q.trust(), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := v.Quote()
		if got.Clock != 5 || got.ResetCount != 6 || got.RestartCount != 7 || !got.Safe || got.FirmwareVersion != 0x1122334455667788 ||
			len(got.PCRs) != 2 || !bytes.Equal(got.AK.Name, q.name()) || !v.IsAbout(reportData) {
			t.Errorf("%s: %+v", name, got)
		}
		if fw, ok := v.FirmwareVersion(); !ok || fw != 0x1122334455667788 {
			t.Errorf("%s: firmware %x, %v", name, fw, ok)
		}
	}
	q := honest()
	q.qualify(0x40000001) // owner
	v, err := verify(t, q, q.trust(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := v.FirmwareVersion(); ok {
		t.Error("the firmware version of a key of the owner's hierarchy is taken at its word")
	}
	if _, ok := v.ResetCount(); ok {
		t.Error("the reset count of a key of the owner's hierarchy is taken at its word")
	}
}

func TestQuoteThatATPMDidNotMakeIsMalformed(t *testing.T) {
	certify := tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{})
	for name, c := range map[string]struct {
		change func(q *quoted, p *tpm.Parts)
		says   string
	}{
		"external data": {func(q *quoted, p *tpm.Parts) { p.Attest[0] ^= 1 }, "no TPM has made it"},
		"certify": {func(q *quoted, p *tpm.Parts) {
			q.attest.Type, q.attest.Attested = tpm2.TPMSTAttestCertify, certify
			p.Attest = tpm2.Marshal(q.attest)
		}, "a quote is"},
		"truncated attest":    {func(q *quoted, p *tpm.Parts) { p.Attest = p.Attest[:len(p.Attest)-1] }, "TPMS_ATTEST: cut"},
		"trailing attest":     {func(q *quoted, p *tpm.Parts) { p.Attest = append(p.Attest, 0) }, "TPMS_ATTEST: bytes after"},
		"long attest":         {func(q *quoted, p *tpm.Parts) { p.Attest = append(p.Attest, make([]byte, 2000)...) }, "at most"},
		"truncated signature": {func(q *quoted, p *tpm.Parts) { p.Signature = p.Signature[:len(p.Signature)-1] }, "TPMT_SIGNATURE: cut"},
		"trailing signature":  {func(q *quoted, p *tpm.Parts) { p.Signature = append(p.Signature, 0) }, "TPMT_SIGNATURE: bytes after"},
		"truncated key":       {func(q *quoted, p *tpm.Parts) { p.Public = p.Public[:len(p.Public)-1] }, "attestation key: cut"},
		"trailing key":        {func(q *quoted, p *tpm.Parts) { p.Public = append(p.Public, 0) }, "attestation key: bytes after"},
		"SHA-1 signature":     {func(q *quoted, p *tpm.Parts) { p.Signature[3] = 4 }, "hash 0x0004"},
		"unknown signature":   {func(q *quoted, p *tpm.Parts) { p.Signature[1] = 5 }, "algorithm 0x0005"},
		"HMAC key":            {func(q *quoted, p *tpm.Parts) { p.Public[1] = 8 }, "key type"},
		"SHA-1 name":          {func(q *quoted, p *tpm.Parts) { p.Public[3] = 4 }, "name algorithm"},
		"reserved attribute":  {func(q *quoted, p *tpm.Parts) { p.Public[4] = 0x80 }, "reserved attributes"},
		"no scheme":           {func(q *quoted, p *tpm.Parts) { p.Public[13] = 0x10 }, "scheme 0x0010"},
		"SHA-1 scheme":        {func(q *quoted, p *tpm.Parts) { p.Public[15] = 4 }, "hash 0x0004 of the scheme"},
		"RSA scheme":          {func(q *quoted, p *tpm.Parts) { p.Public[13] = 0x14 }, "not that of an ECC key"},
		"KDF":                 {func(q *quoted, p *tpm.Parts) { p.Public[19] = 0x20 }, "KDF 0x0020"},
		"P-521":               {func(q *quoted, p *tpm.Parts) { p.Public[17] = 5 }, "curve 0x0005"},
		"storage key":         {func(q *quoted, p *tpm.Parts) { p.Public[11] = 6 }, "symmetric algorithm"},
		"neither safe nor not": {func(q *quoted, p *tpm.Parts) {
			p.Attest[6+2+len(q.attest.QualifiedSigner.Buffer)+2+len(q.attest.ExtraData.Buffer)+16] = 2
		}, "safe is 2"},
		"off the curve":     {func(q *quoted, p *tpm.Parts) { p.Public[len(p.Public)-1] ^= 1 }, "not on the curve"},
		"one value missing": {func(q *quoted, p *tpm.Parts) { p.PCRs = p.PCRs[:1] }, "has no value"},
		"another value": {func(q *quoted, p *tpm.Parts) {
			p.PCRs = append(p.PCRs, tpm.PCR{Bank: tpm.SHA256, Index: 8, Value: make([]byte, 32)})
		}, "3 PCR values, 2 were quoted"},
		"value of another bank": {func(q *quoted, p *tpm.Parts) {
			p.PCRs[1] = tpm.PCR{Bank: tpm.SHA384, Index: 7, Value: make([]byte, 48)}
		}, "has no value"},
		"short value":   {func(q *quoted, p *tpm.Parts) { p.PCRs[0].Value = make([]byte, 31) }, "31 bytes"},
		"index beyond":  {func(q *quoted, p *tpm.Parts) { p.PCRs[0].Index = 24 }, "no index"},
		"negative":      {func(q *quoted, p *tpm.Parts) { p.PCRs[0].Index = -1 }, "no index"},
		"SHA-1 bank":    {func(q *quoted, p *tpm.Parts) { p.PCRs[0].Bank = 4 }, "bank 4"},
		"no value":      {func(q *quoted, p *tpm.Parts) { p.PCRs = nil }, "no pcrs"},
		"PCR above 23":  {func(q *quoted, p *tpm.Parts) { q.quote([]byte{0, 0, 0, 1}); p.Attest = tpm2.Marshal(q.attest) }, "PCR 24"},
		"selects none":  {func(q *quoted, p *tpm.Parts) { q.quote([]byte{0, 0, 0}); p.Attest = tpm2.Marshal(q.attest) }, "no PCR"},
		"bank twice":    {func(q *quoted, p *tpm.Parts) { p.Attest = reselect(t, q, tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA256) }, "twice"},
		"selects SHA-1": {func(q *quoted, p *tpm.Parts) { p.Attest = reselect(t, q, tpm2.TPMAlgSHA1) }, "alg(0x0004)"},
		"no bank":       {func(q *quoted, p *tpm.Parts) { p.Attest = reselect(t, q) }, "0 banks"},
		"many banks": {func(q *quoted, p *tpm.Parts) {
			p.Attest = reselect(t, q, slices.Repeat([]tpm2.TPMIAlgHash{tpm2.TPMAlgSHA256}, 5)...)
		}, "5 banks"},
	} {
		q := honest()
		p := q.parts(t)
		c.change(q, p)
		_, err := tpm.Parse(encode(t, p, nil))
		wantClass(t, name, err, attestext.ErrMalformed, c.says)
		if _, err := p.Marshal(); err == nil {
			t.Errorf("%s: it was encoded", name)
		}
	}
	p := honest().parts(t)
	for name, more := range map[string]map[string]any{
		"unknown member":   {"x": 1},
		"no attest":        {"attest": nil},
		"no signature":     {"signature": nil},
		"no key":           {"public": nil},
		"no PCRs":          {"pcrs": nil},
		"empty chain":      {"chain": [][]byte{}},
		"no certificate":   {"chain": [][]byte{{1}}},
		"long chain":       {"chain": slices.Repeat([][]byte{authority(t).Raw}, 5)},
		"attest as text":   {"attest": string(p.Attest)},
		"text for a bank":  {"pcrs": map[string]any{"11": 1}},
		"text for a PCR":   {"pcrs": map[int]any{11: map[string]any{"0": 1}}},
		"integer for PCRs": {"pcrs": 1},
	} {
		_, err := tpm.Parse(encode(t, p, more))
		wantClass(t, name, err, attestext.ErrMalformed, "")
	}
	b := encode(t, p, nil)
	if _, err := tpm.Parse(b); err != nil {
		t.Fatal(err)
	}
	for n := range b {
		if _, err := tpm.Parse(b[:n]); !errors.Is(err, attestext.ErrMalformed) {
			t.Fatalf("first %d bytes: %v", n, err)
		}
	}
	_, err := tpm.Parse(append(bytes.Clone(b), 0))
	wantClass(t, "trailing byte", err, attestext.ErrMalformed, "")
	_, err = tpm.Parse(make([]byte, tpm.MaxSize+1))
	wantClass(t, "too long", err, attestext.ErrMalformed, "at most")
}

// reselect returns the attest of q with PCR 0 of each bank selected.
func reselect(t testing.TB, q *quoted, banks ...tpm2.TPMIAlgHash) []byte {
	t.Helper()
	info, err := q.attest.Attested.Quote()
	if err != nil {
		t.Fatal(err)
	}
	info.PCRSelect.PCRSelections = nil
	for _, b := range banks {
		info.PCRSelect.PCRSelections = append(info.PCRSelect.PCRSelections, tpm2.TPMSPCRSelection{Hash: b, PCRSelect: []byte{1, 0, 0}})
	}
	return tpm2.Marshal(q.attest)
}

// Each strict prefix of each structure, and each with a byte behind it, is refused even
// if the lengths around it agree.
func TestRSAKeysAreThoseOfATPM(t *testing.T) {
	modulus := func(bits int) []byte {
		b := make([]byte, bits/8)
		b[0], b[len(b)-1] = 0x80, 1
		return b
	}
	even, short := modulus(2048), modulus(2048)
	even[len(even)-1], short[0] = 2, 0x7f
	for name, c := range map[string]struct {
		scheme, bits uint16
		exponent     uint32
		n            []byte
		says         string // nothing: it is read
	}{
		"2048 bits":         {0x14, 2048, 0, modulus(2048), ""},
		"4096 bits, PSS":    {0x16, 4096, 65537, modulus(4096), ""},
		"1024 bits":         {0x14, 1024, 0, modulus(1024), "RSA modulus"},
		"8192 bits":         {0x14, 8192, 0, modulus(8192), "at most 1024 are read"},
		"fewer than it has": {0x14, 2048, 0, modulus(2056), "RSA modulus"},
		"more than it has":  {0x14, 3072, 0, modulus(2048), "RSA modulus"},
		"no modulus":        {0x14, 2048, 0, nil, "RSA modulus"},
		"leading zero bit":  {0x14, 2048, 0, short, "RSA modulus"},
		"even":              {0x14, 2048, 0, even, "RSA modulus"},
		"exponent of three": {0x14, 2048, 3, modulus(2048), "RSA exponent 3"},
		"scheme of ECC":     {0x18, 2048, 0, modulus(2048), "ECDSA is no scheme"},
	} {
		p := honest().parts(t)
		p.Public = slices.Concat([]byte{0, 1}, p.Public[2:12]) // as far as the symmetric algorithm
		p.Public = binary.BigEndian.AppendUint16(p.Public, c.scheme)
		p.Public = append(p.Public, 0, 0x0b)
		p.Public = binary.BigEndian.AppendUint16(p.Public, c.bits)
		p.Public = binary.BigEndian.AppendUint32(p.Public, c.exponent)
		p.Public = append(binary.BigEndian.AppendUint16(p.Public, uint16(len(c.n))), c.n...)
		_, err := tpm.Parse(encode(t, p, nil))
		if c.says != "" {
			wantClass(t, name, err, attestext.ErrMalformed, c.says)
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEachPrefixOfAStructureIsMalformed(t *testing.T) {
	whole := honest().parts(t)
	for name, part := range map[string]func(p *tpm.Parts) *[]byte{
		"attest":    func(p *tpm.Parts) *[]byte { return &p.Attest },
		"signature": func(p *tpm.Parts) *[]byte { return &p.Signature },
		"public":    func(p *tpm.Parts) *[]byte { return &p.Public },
	} {
		for n := range *part(whole) {
			p := *whole
			*part(&p) = (*part(&p))[:n]
			if _, err := tpm.Parse(encode(t, &p, nil)); !errors.Is(err, attestext.ErrMalformed) {
				t.Fatalf("%s, first %d bytes: %v", name, n, err)
			}
		}
	}
}

func TestQuoteThatIsNotGenuineIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(q *quoted)
		says   string
	}{
		"other key": {func(q *quoted) { q.key = key("other") }, "did not sign"},
		"altered PCR": {func(q *quoted) {
			q.pcrs[1].Value = make([]byte, 32)
		}, "not those that were quoted"},
		"unrestricted":              {func(q *quoted) { q.public.ObjectAttributes.Restricted = false }, "not restricted"},
		"not fixedTPM":              {func(q *quoted) { q.public.ObjectAttributes.FixedTPM = false }, "not fixedTPM"},
		"not fixedParent":           {func(q *quoted) { q.public.ObjectAttributes.FixedParent = false }, "not fixedParent"},
		"imported":                  {func(q *quoted) { q.public.ObjectAttributes.SensitiveDataOrigin = false }, "not sensitiveDataOrigin"},
		"not for signing":           {func(q *quoted) { q.public.ObjectAttributes.SignEncrypt = false }, "not sign"},
		"for decryption":            {func(q *quoted) { q.public.ObjectAttributes.Decrypt = true }, "is decrypt"},
		"for certificates":          {func(q *quoted) { q.public.ObjectAttributes.X509Sign = true }, "is x509sign"},
		"hash other than the key's": {func(q *quoted) { q.public = ecdsaPublic(akKey, tpm2.TPMAlgSHA384) }, "signature is of scheme"},
	} {
		q := honest()
		c.change(q)
		_, err := verify(t, q, q.trust(), nil)
		wantClass(t, name, err, attestext.ErrSignature, c.says)
	}
	q := honest()
	_, err := verify(t, q, &tpm.Trust{Keys: []tpm.EnrolledKey{{Name: append([]byte{0, 0x0b}, make([]byte, 32)...), EK: tpm.EKID{1}}}}, nil)
	wantClass(t, "not enrolled", err, attestext.ErrSignature, "not enrolled")
	_, err = verify(t, q, &tpm.Trust{Keys: []tpm.EnrolledKey{{Name: q.name()}}}, nil)
	wantClass(t, "enrolled in no TPM", err, attestext.ErrSignature, "not enrolled")
	for _, trust := range []*tpm.Trust{nil, {}} {
		_, err = verify(t, q, trust, nil)
		wantClass(t, "no trust", err, attestext.ErrUnavailable, "trusted")
	}
	_, err = tpm.Verify(&tpm.Quote{}, &tpm.VerifyOptions{Trust: q.trust()})
	wantClass(t, "not parsed", err, attestext.ErrMalformed, "not parsed")
	_, err = tpm.Verify(nil, nil)
	wantClass(t, "nil", err, attestext.ErrMalformed, "not parsed")
}

// What was parsed is verified, and not what a caller wrote into it.
func TestChangedFieldsAreNotVerified(t *testing.T) {
	q := honest()
	b, err := q.parts(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := tpm.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	parsed.FirmwareVersion, parsed.PCRs[0].Value, parsed.ExtraData = 1, make([]byte, 32), nil
	v, err := tpm.Verify(parsed, &tpm.VerifyOptions{Trust: q.trust()})
	if err != nil {
		t.Fatal(err)
	}
	if fw, _ := v.FirmwareVersion(); fw == 1 || bytes.Equal(v.PCR("sha256", 0), make([]byte, 32)) || !v.IsAbout(reportData) {
		t.Error("a changed field was verified")
	}
}

var (
	oidAIK = asn1.ObjectIdentifier{2, 23, 133, 8, 3}
	oidEK  = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
)

func issue(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	if template.SerialNumber == nil {
		template.SerialNumber = big.NewInt(1)
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = testTime.Add(-time.Hour), testTime.Add(time.Hour)
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func caTemplate(name string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
}

func authority(t testing.TB) *x509.Certificate {
	return issue(t, caTemplate("root"), nil, key("root").Public(), key("root"))
}

func TestCertifiedKeyIsTrusted(t *testing.T) {
	root := authority(t)
	name, err := asn1.Marshal(pkix.Name{CommonName: "id:49424D00"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
	if err != nil {
		t.Fatal(err)
	}
	leafTemplate := func() *x509.Certificate {
		return &x509.Certificate{
			KeyUsage: x509.KeyUsageDigitalSignature, UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidAIK},
			ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}},
		}
	}
	for _, c := range []struct {
		name   string
		leaf   func(c *x509.Certificate)
		middle func(c *x509.Certificate)
		key    crypto.PublicKey
		roots  []*x509.Certificate
		noLeaf bool
		large  uint   // bits of the RSA key of an authority that comes as well
		says   string // nothing: accepted
	}{
		{name: "honest"},
		{name: "middle confined to the usage", middle: func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{oidAIK} }},
		{name: "middle confined to another usage", middle: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, says: "may not issue"},
		{name: "middle is no CA", middle: func(c *x509.Certificate) { c.IsCA = false }, says: "authority"},
		{name: "other key", key: key("other").Public(), says: "another key"},
		{name: "expired", leaf: func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = testTime.Add(-2*time.Hour), testTime.Add(-time.Hour)
		}, says: "expired"},
		{name: "not yet", leaf: func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = testTime.Add(time.Hour), testTime.Add(2*time.Hour)
		}, says: "not yet valid"},
		{name: "no usage", leaf: func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }, says: "extended key usage"},
		{name: "usage of an EK", leaf: func(c *x509.Certificate) { c.UnknownExtKeyUsage[0] = oidEK }, says: "extended key usage"},
		{name: "any usage", leaf: func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		}, says: "extended key usage"},
		{name: "two usages", leaf: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, says: "extended key usage"},
		{name: "an authority", leaf: func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, says: "authority"},
		{name: "not for signatures", leaf: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, says: "not for signatures"},
		{name: "another critical extension", leaf: func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}, says: "critical"},
		{name: "other root", roots: []*x509.Certificate{issue(t, caTemplate("root"), nil, key("other root").Public(), key("other root"))}, says: "unknown authority"},
		{name: "as large an RSA key as can be", large: 8192},
		{name: "too large an RSA key", large: 8193, says: "RSA key of 8193 bits"},
		{name: "no certificate", noLeaf: true, says: "has no certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			middle, leaf := caTemplate("middle"), leafTemplate()
			if c.middle != nil {
				c.middle(middle)
			}
			if c.leaf != nil {
				c.leaf(leaf)
			}
			if c.key == nil {
				c.key = akKey.Public()
			}
			m := issue(t, middle, root, key("middle").Public(), key("root"))
			l := issue(t, leaf, m, c.key, key("middle"))
			trust := &tpm.Trust{}
			if c.roots == nil {
				c.roots = []*x509.Certificate{root}
			}
			for _, r := range c.roots {
				if err := trust.AddPEM(&pem.Block{Type: tpm.PEMRoot, Bytes: r.Raw}); err != nil {
					t.Fatal(err)
				}
			}
			q := honest()
			if !c.noLeaf {
				q.chain = [][]byte{l.Raw, m.Raw}
			}
			if c.large != 0 {
				pub := &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int).Lsh(big.NewInt(1), c.large-1), 0, 1), E: 65537}
				q.chain = append(q.chain, issue(t, caTemplate("large"), nil, pub, key("other")).Raw)
			}
			v, err := verify(t, q, trust, collateral(t, list(t, root, "root"), list(t, m, "middle")))
			if c.says != "" {
				wantClass(t, "chain", err, attestext.ErrSignature, c.says)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !v.Certified() || !v.CollateralChecked() || v.EK() != nil || v.AK() == ([32]byte{}) {
				t.Errorf("certified %v, EK %x, AK %x", v.Certified(), v.EK(), v.AK())
			}
			_, err = verify(t, q, &tpm.Trust{Keys: []tpm.EnrolledKey{{Name: append([]byte{0, 0x0b}, make([]byte, 32)...), EK: tpm.EKID{1}}}}, nil)
			wantClass(t, "no roots", err, attestext.ErrSignature, "no root")
		})
	}
}

// list returns the revocation list by issuer, with the key of that name, that is current
// at testTime and has the serial numbers.
func list(t testing.TB, issuer *x509.Certificate, key string, serials ...int64) []byte {
	t.Helper()
	return listAt(t, issuer, key, testTime, serials...)
}

// listAt returns one that is current from a minute before that time to a minute after.
func listAt(t testing.TB, issuer *x509.Certificate, name string, at time.Time, serials ...int64) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: at.Add(-time.Minute), NextUpdate: at.Add(time.Minute)}
	for _, s := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: l.ThisUpdate})
	}
	signer := &x509.Certificate{RawSubject: issuer.RawSubject, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign}
	der, err := x509.CreateRevocationList(rand.Reader, l, signer, key(name))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// collateralFile returns the collateral with lists in DER.
func collateralFile(t testing.TB, lists ...[]byte) []byte {
	t.Helper()
	var text strings.Builder
	for _, l := range lists {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: l}))
	}
	b, err := json.Marshal(map[string]string{"crls": text.String()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func collateral(t testing.TB, lists ...[]byte) *tpm.Collateral {
	t.Helper()
	c, err := tpm.ParseCollateral(collateralFile(t, lists...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRevokedKeyIsRefused(t *testing.T) {
	root := authority(t)
	serial := func(n int64, c *x509.Certificate) *x509.Certificate { c.SerialNumber = big.NewInt(n); return c }
	m := issue(t, serial(2, caTemplate("middle")), root, key("middle").Public(), key("root"))
	again := issue(t, serial(4, caTemplate("middle")), root, key("middle").Public(), key("root"))
	other := issue(t, caTemplate("middle"), nil, key("other").Public(), key("other"))
	leaf := func(usage asn1.ObjectIdentifier, of string) *x509.Certificate {
		return issue(t, serial(3, &x509.Certificate{UnknownExtKeyUsage: []asn1.ObjectIdentifier{usage}}), m, key(of).Public(), key("middle"))
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	q := honest()
	ak, ek := leaf(oidAIK, "AK"), leaf(oidEK, "EK")

	byRoot, byMiddle := list(t, root, "root", 9), list(t, m, "middle", 9)
	for _, c := range []struct {
		name  string
		lists [][]byte
		more  []*x509.Certificate // in the chain
		class error               // nil: accepted
		says  string
		skips bool // accepted, unchecked, where a list may be missing
	}{
		{name: "current", lists: [][]byte{byRoot, byMiddle}},
		{name: "key", lists: [][]byte{byRoot, list(t, m, "middle", 3)}, class: attestext.ErrSignature, says: "serial number 3 is revoked"},
		{name: "authority", lists: [][]byte{list(t, root, "root", 2), byMiddle}, class: attestext.ErrSignature, says: "middle is revoked"},
		{name: "authority, and no list by it", lists: [][]byte{list(t, root, "root", 2)}, class: attestext.ErrSignature, says: "middle is revoked"},
		{name: "key, by a list that has expired", lists: [][]byte{byRoot, byMiddle, listAt(t, m, "middle", testTime.Add(-time.Hour), 3)},
			class: attestext.ErrSignature, says: "is revoked"},
		{name: "authority, and certified twice", lists: [][]byte{list(t, root, "root", 2), byMiddle}, more: []*x509.Certificate{again}},
		{name: "same number of another authority", lists: [][]byte{list(t, root, "root", 3), list(t, m, "middle", 2)}},
		{name: "expired", lists: [][]byte{byRoot, listAt(t, m, "middle", testTime.Add(-time.Minute))}, class: attestext.ErrPolicy, says: "not current"},
		{name: "not yet", lists: [][]byte{byRoot, listAt(t, m, "middle", testTime.Add(61*time.Second))}, class: attestext.ErrPolicy, says: "not current"},
		{name: "of the root, expired", lists: [][]byte{listAt(t, root, "root", testTime.Add(-time.Minute)), byMiddle}, class: attestext.ErrPolicy, says: "not current"},
		{name: "of another with its name", lists: [][]byte{byRoot, list(t, other, "other")}, class: attestext.ErrUnavailable, says: "CN=middle", skips: true},
		{name: "of the root missing", lists: [][]byte{byMiddle}, class: attestext.ErrUnavailable, says: "CN=root", skips: true},
		{name: "missing", class: attestext.ErrUnavailable, says: "supply it in the collateral", skips: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var with *tpm.Collateral
			if c.lists != nil {
				with = collateral(t, c.lists...)
			}
			chain := func(leaf *x509.Certificate) [][]byte {
				ders := [][]byte{leaf.Raw, m.Raw}
				for _, c := range c.more {
					ders = append(ders, c.Raw)
				}
				return ders
			}
			q.chain = chain(ak)
			b, err := q.parts(t).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := tpm.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			req := &tpm.EnrolRequest{EK: ekPublic(nil), AK: tpm2.Marshal(q.public), EKChain: chain(ek)}
			for _, skip := range []bool{false, true} {
				v, err := tpm.Verify(parsed, &tpm.VerifyOptions{
					Trust: &tpm.Trust{Roots: roots}, Collateral: with, InsecureSkipCollateral: skip, Now: testTime,
				})
				_, _, enrolErr := tpm.NewEnrolment(req, &tpm.EKTrust{
					Roots: roots, Collateral: with, InsecureSkipCollateral: skip, Now: testTime,
				})
				if accepted := c.class == nil || skip && c.skips; !accepted {
					wantClass(t, "AK", err, c.class, c.says)
					wantClass(t, "EK", enrolErr, c.class, c.says)
					continue
				}
				if err != nil || enrolErr != nil {
					t.Fatalf("skip %v: AK: %v; EK: %v", skip, err, enrolErr)
				}
				if v.CollateralChecked() != (c.class == nil) {
					t.Errorf("skip %v: revocation was checked: %v", skip, v.CollateralChecked())
				}
			}
			// Who has enrolled a key has vouched for it, and nobody can revoke that.
			if v, err := verify(t, q, q.trust(), with); err != nil || v.CollateralChecked() {
				t.Errorf("enrolled: %v", err)
			}
		})
	}
}

func TestCollateralIsReadStrictly(t *testing.T) {
	root := authority(t)
	der := list(t, root, "root")
	if c := collateral(t, listAt(t, root, "root", testTime.Add(time.Hour)), der); !c.NextUpdate().Equal(testTime.Add(time.Minute)) {
		t.Errorf("it expires at %v", c.NextUpdate())
	}
	good := string(collateralFile(t, der))
	text := func(s string) string {
		b, err := json.Marshal(map[string]string{"crls": s})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	block := string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	for name, bad := range map[string]string{
		"nothing": "", "no object": "[]", "null": "null", "no member": "{}", "no list": text(""), "null for text": `{"crls": null}`,
		"unknown member":      strings.Replace(good, "{", `{"x": 1,`, 1),
		"member twice":        strings.Replace(good, "{", `{"crls": "",`, 1),
		"text behind the PEM": text(block + "x"), "other block": text(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))),
		"no DER":        text(string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: root.Raw}))),
		"trailing byte": text(string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: append(bytes.Clone(der), 0)}))),
		"data after it": good + "{}", "too long": strings.Repeat(" ", tpm.MaxCollateralSize) + good,
	} {
		_, err := tpm.ParseCollateral([]byte(bad))
		wantClass(t, name, err, attestext.ErrMalformed, "parse TPM collateral")
	}
	for n := range good {
		if _, err := tpm.ParseCollateral([]byte(good[:n])); !errors.Is(err, attestext.ErrMalformed) {
			t.Fatalf("first %d bytes: %v", n, err)
		}
	}
}

func FuzzCollateral(f *testing.F) {
	root := authority(f)
	f.Add(collateralFile(f, list(f, root, "root", 1)))
	f.Add([]byte(`{"crls": ""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		c, err := tpm.ParseCollateral(b)
		if err != nil {
			if !errors.Is(err, attestext.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if c.NextUpdate().IsZero() {
			t.Fatal("a list without an end")
		}
	})
}

func TestTrustFileIsReadStrictly(t *testing.T) {
	k := tpm.EnrolledKey{Name: honest().name(), EK: tpm.EKID{7}}
	block, rest := pem.Decode(k.MarshalPEM())
	if block == nil || len(rest) != 0 {
		t.Fatal("no PEM")
	}
	trust := &tpm.Trust{}
	if err := trust.AddPEM(block); err != nil {
		t.Fatal(err)
	}
	if len(trust.Keys) != 1 || trust.Keys[0].EK != k.EK || !bytes.Equal(trust.Keys[0].Name, k.Name) || trust.Empty() {
		t.Errorf("%+v", trust)
	}
	whole := block.Bytes
	for n := range whole {
		if trust.AddPEM(&pem.Block{Type: tpm.PEMKey, Bytes: whole[:n]}) == nil {
			t.Errorf("a key of %d bytes", n)
		}
	}
	for name, b := range map[string]*pem.Block{
		"trailing byte": {Type: tpm.PEMKey, Bytes: append(bytes.Clone(whole), 0)},
		"no TPM":        {Type: tpm.PEMKey, Bytes: append(make([]byte, 32), whole[32:]...)},
		"certificate":   {Type: tpm.PEMRoot, Bytes: whole},
		"other type":    {Type: "CERTIFICATE", Bytes: whole},
	} {
		if trust.AddPEM(b) == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func ekPublic(change func(*tpm2.TPMTPublic)) []byte {
	k, err := key("EK").PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	p := tpm2.ECCEKTemplate
	p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: k[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: k[33:]},
	})
	if change != nil {
		change(&p)
	}
	return tpm2.Marshal(p)
}

func TestEnrolmentNeedsATPM(t *testing.T) {
	root := authority(t)
	roots := x509.NewCertPool()
	roots.AddCert(root)
	cert := func(usage asn1.ObjectIdentifier, k string) [][]byte {
		return [][]byte{issue(t, &x509.Certificate{UnknownExtKeyUsage: []asn1.ObjectIdentifier{usage}}, root, key(k).Public(), key("root")).Raw}
	}
	id := tpm.EKID(sha256.Sum256(testpki.SPKI(key("EK"))))
	ak := func(change func(*tpm2.TPMTPublic)) []byte {
		p := ecdsaPublic(akKey, tpm2.TPMAlgSHA256)
		if change != nil {
			change(&p)
		}
		return tpm2.Marshal(p)
	}
	any := &tpm.EKTrust{InsecureAny: true}
	lists := collateral(t, list(t, root, "root"))
	for _, c := range []struct {
		name  string
		req   tpm.EnrolRequest
		trust *tpm.EKTrust
		says  string
	}{
		{"certificate", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(nil), EKChain: cert(oidEK, "EK")}, &tpm.EKTrust{Roots: roots, Collateral: lists, Now: testTime}, ""},
		{"known EK", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(nil)}, &tpm.EKTrust{IDs: []tpm.EKID{id}}, ""},
		{"any EK", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(nil)}, any, ""},
		{"nobody's EK", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(nil)}, nil, "not known"},
		{"another EK", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(nil)}, &tpm.EKTrust{IDs: []tpm.EKID{{1}}}, "not known"},
		{"no certificate", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(nil)}, &tpm.EKTrust{Roots: roots, Collateral: lists, Now: testTime}, "no certificate"},
		{"another key's certificate", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(nil), EKChain: cert(oidEK, "other")}, &tpm.EKTrust{Roots: roots, Collateral: lists, Now: testTime}, "another key"},
		{"certificate of an AK", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(nil), EKChain: cert(oidAIK, "EK")}, &tpm.EKTrust{Roots: roots, Collateral: lists, Now: testTime}, "extended key usage"},
		{"expired certificate", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(nil), EKChain: cert(oidEK, "EK")}, &tpm.EKTrust{Roots: roots, Collateral: lists, Now: testTime.Add(24 * time.Hour)}, "expired"},
		{"no such certificate", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(nil), EKChain: [][]byte{{1}}}, &tpm.EKTrust{Roots: roots, Collateral: lists, Now: testTime}, "certificate"},
		{"long chain", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(nil), EKChain: slices.Repeat(cert(oidEK, "EK"), 5)}, &tpm.EKTrust{Roots: roots, Collateral: lists, Now: testTime}, "at most"},
		{"unrestricted EK", tpm.EnrolRequest{EK: ekPublic(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false }), AK: ak(nil)}, any, "endorsement key is not restricted"},
		{"EK that moves", tpm.EnrolRequest{EK: ekPublic(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false }), AK: ak(nil)}, any, "endorsement key is not fixedTPM"},
		{"AK for an EK", tpm.EnrolRequest{EK: ak(nil), AK: ak(nil)}, any, "endorsement key"},
		{"EK for an AK", tpm.EnrolRequest{EK: ekPublic(nil), AK: ekPublic(nil)}, any, "attestation key"},
		{"unrestricted AK", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false })}, any, "attestation key is not restricted"},
		{"AK that moves", tpm.EnrolRequest{EK: ekPublic(nil), AK: ak(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false })}, any, "attestation key is not fixedTPM"},
	} {
		e, credential, err := tpm.NewEnrolment(&c.req, c.trust)
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: got %v, want an error that says %q", c.name, err, c.says)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if len(credential.Blob) == 0 || len(credential.Secret) == 0 {
			t.Errorf("%s: an empty credential", c.name)
		}
		if _, err := e.Finish(make([]byte, 32)); err == nil || !strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s: a wrong answer: %v", c.name, err)
		}
		if _, err := e.Finish(nil); err == nil || !strings.Contains(err.Error(), "before") {
			t.Errorf("%s: a second answer: %v", c.name, err)
		}
	}
}

func TestEnrolmentMessagesAreReadStrictly(t *testing.T) {
	req := &tpm.EnrolRequest{EK: []byte{1}, AK: []byte{2}, EKChain: [][]byte{{3}}}
	cred := &tpm.Credential{Blob: []byte{1}, Secret: []byte{2}}
	for name, m := range map[string]struct {
		marshal func() ([]byte, error)
		parse   func([]byte) (any, error)
		want    any
	}{
		"request":    {req.Marshal, func(b []byte) (any, error) { return tpm.ParseEnrolRequest(b) }, req},
		"credential": {cred.Marshal, func(b []byte) (any, error) { return tpm.ParseCredential(b) }, cred},
	} {
		b, err := m.marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.parse(b)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(m.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		for n := range b {
			if _, err := m.parse(b[:n]); err == nil {
				t.Errorf("%s: first %d bytes were accepted", name, n)
			}
		}
		for what, bad := range map[string][]byte{
			"trailing": append(bytes.Clone(b), 0), "empty": {0xa0}, "unknown": {0xa1, 0x61, 'x', 0x01}, "long": make([]byte, 40<<10),
		} {
			if _, err := m.parse(bad); err == nil {
				t.Errorf("%s: %s was accepted", name, what)
			}
		}
	}
}

// What is accepted, go-tpm reads alike.
func FuzzParse(f *testing.F) {
	b, err := honest().parts(f).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	q := honest()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	q.key, q.public, q.chain = rsaKey, rsaPublic(rsaKey, tpm2.TPMAlgRSASSA), [][]byte{authority(f).Raw}
	if b, err = q.parts(f).Marshal(); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		q, err := tpm.Parse(b)
		if err != nil {
			if !errors.Is(err, attestext.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(q.Raw(), b) {
			t.Fatal("raw bytes differ")
		}
		m, err := strict.Map(b)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := strict.Bytes(m["attest"])
		if err != nil {
			t.Fatal(err)
		}
		a, err := tpm2.Unmarshal[tpm2.TPMSAttest](raw)
		if err != nil {
			t.Fatalf("go-tpm: %v", err)
		}
		info, err := a.Attested.Quote()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.ExtraData.Buffer, q.ExtraData) || a.FirmwareVersion != q.FirmwareVersion || a.ClockInfo.ResetCount != q.ResetCount ||
			!bytes.Equal(info.PCRDigest.Buffer, q.PCRDigest) || len(info.PCRSelect.PCRSelections) == 0 {
			t.Fatalf("go-tpm reads %+v, got %+v", a, q)
		}
		p, err := tpm2.Unmarshal[tpm2.TPMTPublic](q.AK.Raw())
		if err != nil {
			t.Fatalf("go-tpm: %v", err)
		}
		if uint16(p.NameAlg) != binary.BigEndian.Uint16(q.AK.Name) {
			t.Fatal("another name algorithm")
		}
		tpm.Verify(q, &tpm.VerifyOptions{Trust: honest().trust()})
	})
}

func FuzzEnrolment(f *testing.F) {
	req := &tpm.EnrolRequest{EK: ekPublic(nil), AK: tpm2.Marshal(ecdsaPublic(akKey, tpm2.TPMAlgSHA256))}
	b, err := req.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		tpm.ParseCredential(b)
		if req, err := tpm.ParseEnrolRequest(b); err == nil {
			tpm.NewEnrolment(req, &tpm.EKTrust{InsecureAny: true})
		}
	})
}

func BenchmarkParse(b *testing.B) {
	raw, err := honest().parts(b).Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tpm.Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	root := authority(b)
	roots := x509.NewCertPool()
	roots.AddCert(root)
	certified := honest()
	certified.chain = [][]byte{issue(b, &x509.Certificate{UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidAIK}}, root, akKey.Public(), key("root")).Raw}
	lists := collateral(b, list(b, root, "root"))
	for _, c := range []struct {
		name  string
		q     *quoted
		trust *tpm.Trust
	}{{"enrolled", honest(), honest().trust()}, {"certified", certified, &tpm.Trust{Roots: roots}}} {
		b.Run(c.name, func(b *testing.B) {
			raw, err := c.q.parts(b).Marshal()
			if err != nil {
				b.Fatal(err)
			}
			q, err := tpm.Parse(raw)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tpm.Verify(q, &tpm.VerifyOptions{Trust: c.trust, Collateral: lists, Now: testTime}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
