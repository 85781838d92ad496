package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
)

// The structures that a TPM marshals, of the TCG's "Trusted Platform Module Library
// Part 2: Structures", revision 1.59. All integers are big-endian; a TPM2B is a u16
// length and so many bytes.
//
//	TPMS_ATTEST       u32 magic ‖ u16 type ‖ TPM2B qualifiedSigner ‖ TPM2B extraData ‖
//	                  TPMS_CLOCK_INFO ‖ u64 firmwareVersion ‖ TPMS_QUOTE_INFO
//	TPMS_CLOCK_INFO   u64 clock ‖ u32 resetCount ‖ u32 restartCount ‖ u8 safe
//	TPMS_QUOTE_INFO   u32 count ‖ count × (u16 hash ‖ u8 size ‖ bitmap) ‖ TPM2B pcrDigest
//	TPMT_SIGNATURE    u16 algorithm ‖ u16 hash ‖ TPM2B signature, or TPM2B r ‖ TPM2B s
//	TPMT_PUBLIC       u16 type ‖ u16 nameAlg ‖ u32 attributes ‖ TPM2B authPolicy ‖
//	                  parameters ‖ unique
const (
	magicGenerated = 0xff544347 // TPM_GENERATED_VALUE: made by a TPM, not handed to it
	typeQuote      = 0x8018     // TPM_ST_ATTEST_QUOTE

	algRSA    = 0x0001
	algAES    = 0x0006
	algNull   = 0x0010
	algRSASSA = 0x0014
	algRSAPSS = 0x0016
	algECDSA  = 0x0018
	algECC    = 0x0023
	algCFB    = 0x0043

	curveP256 = 0x0003
	curveP384 = 0x0004

	rsaExponent = 65537 // what zero stands for
	minRSABits  = 2048
	maxRSABits  = 4096

	maxNameSize       = 2 + 64
	maxExtraDataSize  = 2 + 64
	maxPolicySize     = 64
	maxPCRSelectSize  = 4
	maxBanks          = 4
	maxSignatureSize  = maxRSABits / 8
	maxAttestSize     = 1024
	maxPublicSize     = 1024
	maxSignatureBytes = 4 + 2*(2+maxSignatureSize)
)

// A Bank is the hash algorithm of a bank of PCRs, a TPM_ALG_ID. SHA-1 is not among
// them: whoever can write two versions of a boot component can give them one digest.
type Bank uint16

const (
	SHA256 Bank = 0x000B
	SHA384 Bank = 0x000C
	SHA512 Bank = 0x000D
)

// String returns "sha256" and so on, as policies have it.
func (b Bank) String() string {
	switch b {
	case SHA256:
		return "sha256"
	case SHA384:
		return "sha384"
	case SHA512:
		return "sha512"
	}
	return fmt.Sprintf("alg(%#04x)", uint16(b))
}

// hash returns the algorithm, or 0 if it is not supported.
func (b Bank) hash() crypto.Hash {
	switch b {
	case SHA256:
		return crypto.SHA256
	case SHA384:
		return crypto.SHA384
	case SHA512:
		return crypto.SHA512
	}
	return 0
}

// Size returns the size of a digest in bytes, or 0 for a bank that is not supported.
func (b Bank) Size() int {
	if h := b.hash(); h != 0 {
		return h.Size()
	}
	return 0
}

// sum hashes the parts, one after the other.
func (b Bank) sum(parts ...[]byte) []byte {
	h := b.hash().New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// PCRCount is how many PCRs a bank of a TPM in a PC has; their indices are below it.
const PCRCount = 24

// Attributes are those of an object, TPMA_OBJECT.
type Attributes uint32

const (
	FixedTPM            Attributes = 1 << 1
	STClear             Attributes = 1 << 2
	FixedParent         Attributes = 1 << 4
	SensitiveDataOrigin Attributes = 1 << 5
	UserWithAuth        Attributes = 1 << 6
	AdminWithPolicy     Attributes = 1 << 7
	FirmwareLimited     Attributes = 1 << 8
	SVNLimited          Attributes = 1 << 9
	NoDA                Attributes = 1 << 10
	EncryptedDup        Attributes = 1 << 11
	Restricted          Attributes = 1 << 16
	Decrypt             Attributes = 1 << 17
	Sign                Attributes = 1 << 18
	X509Sign            Attributes = 1 << 19

	knownAttributes = FixedTPM | STClear | FixedParent | SensitiveDataOrigin | UserWithAuth | AdminWithPolicy |
		FirmwareLimited | SVNLimited | NoDA | EncryptedDup | Restricted | Decrypt | Sign | X509Sign
)

// A Public is the public area of a key in a TPM, TPMT_PUBLIC. What it says of itself
// is worth something only where its Name comes from somebody who is trusted.
type Public struct {
	// Key is an *ecdsa.PublicKey on P-256 or P-384, or an *rsa.PublicKey of 2048 to
	// 4096 bits.
	Key        crypto.PublicKey
	Attributes Attributes
	// Name is nameAlg ‖ H(public area): it stands for the key and the attributes.
	Name []byte

	scheme uint16 // of a signing key: algECDSA, algRSASSA, algRSAPSS
	hash   Bank   // of the scheme
	raw    []byte
}

// Raw returns the TPMT_PUBLIC that was parsed. The caller must not change it.
func (p *Public) Raw() []byte { return p.raw }

func u16(s *cryptobyte.String, out *uint16) bool { return s.ReadUint16(out) }

// tpm2b reads a TPM2B of at most limit bytes.
func tpm2b(s *cryptobyte.String, limit int, out *[]byte) bool {
	var b cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&b) || len(b) > limit {
		return false
	}
	*out = b
	return true
}

var (
	errCut      = errors.New("cut, or with a length that is too large")
	errTrailing = errors.New("bytes after its end")
)

// A keyUse is what a key is for.
type keyUse int

const (
	signing keyUse = iota // an AK
	storage               // an EK
)

// parsePublic reads a TPMT_PUBLIC and nothing else.
func parsePublic(b []byte, use keyUse) (*Public, error) {
	if len(b) > maxPublicSize {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(b), maxPublicSize)
	}
	s := cryptobyte.String(b)
	var typ, nameAlg uint16
	var attributes uint32
	var authPolicy []byte
	if !u16(&s, &typ) || !u16(&s, &nameAlg) || !s.ReadUint32(&attributes) || !tpm2b(&s, maxPolicySize, &authPolicy) {
		return nil, errCut
	}
	p := &Public{Attributes: Attributes(attributes), raw: b}
	if unknown := p.Attributes &^ knownAttributes; unknown != 0 {
		return nil, fmt.Errorf("reserved attributes %#x are set", uint32(unknown))
	}
	name := Bank(nameAlg)
	if name.hash() == 0 {
		return nil, fmt.Errorf("name algorithm %#04x is not supported", nameAlg)
	}
	if err := p.parseSymmetric(&s, use); err != nil {
		return nil, err
	}
	if err := p.parseScheme(&s, use); err != nil {
		return nil, err
	}
	var err error
	switch typ {
	case algECC:
		err = p.parseECC(&s)
	case algRSA:
		err = p.parseRSA(&s)
	default:
		err = fmt.Errorf("key type %#04x is not supported", typ)
	}
	if err != nil {
		return nil, err
	}
	if !s.Empty() {
		return nil, errTrailing
	}
	p.Name = append(binary.BigEndian.AppendUint16(nil, nameAlg), name.sum(b)...)
	return p, nil
}

// parseSymmetric reads TPMT_SYM_DEF_OBJECT: none for a signing key, AES in CFB mode
// for a storage key.
func (p *Public) parseSymmetric(s *cryptobyte.String, use keyUse) error {
	var alg, bits, mode uint16
	switch {
	case !u16(s, &alg):
		return errCut
	case use == signing && alg == algNull:
		return nil
	case use != storage || alg != algAES:
		return fmt.Errorf("symmetric algorithm %#04x is not that of such a key", alg)
	case !u16(s, &bits) || !u16(s, &mode):
		return errCut
	case bits != 128 && bits != 256 || mode != algCFB:
		return fmt.Errorf("AES with %d bits in mode %#04x is not supported", bits, mode)
	}
	return nil
}

// parseScheme reads the scheme of a key: that of its signatures, or none for a
// storage key. A restricted signing key has one.
func (p *Public) parseScheme(s *cryptobyte.String, use keyUse) error {
	var hash uint16
	switch {
	case !u16(s, &p.scheme):
		return errCut
	case use == storage && p.scheme == algNull:
		return nil
	case use != signing || p.scheme != algECDSA && p.scheme != algRSASSA && p.scheme != algRSAPSS:
		return fmt.Errorf("scheme %#04x is not supported", p.scheme)
	case !u16(s, &hash):
		return errCut
	}
	if p.hash = Bank(hash); p.hash.hash() == 0 {
		return fmt.Errorf("hash %#04x of the scheme is not supported", hash)
	}
	return nil
}

func (p *Public) parseECC(s *cryptobyte.String) error {
	var curveID, kdf uint16
	var x, y []byte
	if !u16(s, &curveID) || !u16(s, &kdf) {
		return errCut
	}
	if p.scheme != algECDSA && p.scheme != algNull || kdf != algNull {
		return fmt.Errorf("scheme %#04x or KDF %#04x is not that of an ECC key", p.scheme, kdf)
	}
	var curve elliptic.Curve
	switch curveID {
	case curveP256:
		curve = elliptic.P256()
	case curveP384:
		curve = elliptic.P384()
	default:
		return fmt.Errorf("curve %#04x is not supported", curveID)
	}
	size := (curve.Params().BitSize + 7) / 8
	if !tpm2b(s, size, &x) || !tpm2b(s, size, &y) {
		return errCut
	}
	// Some TPMs leave out leading zeros.
	point := make([]byte, 1+2*size)
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return errors.New("point is not on the curve")
	}
	p.Key = key
	return nil
}

func (p *Public) parseRSA(s *cryptobyte.String) error {
	var bits uint16
	var exponent uint32
	var n []byte
	if !u16(s, &bits) || !s.ReadUint32(&exponent) || !tpm2b(s, maxRSABits/8, &n) {
		return errCut
	}
	switch {
	case p.scheme == algECDSA:
		return errors.New("ECDSA is no scheme of an RSA key")
	case exponent != 0 && exponent != rsaExponent:
		return fmt.Errorf("RSA exponent %d is not supported", exponent)
	case bits < minRSABits || bits > maxRSABits || len(n)*8 != int(bits) || n[0]&0x80 == 0 || n[len(n)-1]&1 == 0:
		return fmt.Errorf("RSA modulus of %d bytes for %d bits, want one of %d to %d bits", len(n), bits, minRSABits, maxRSABits)
	}
	p.Key = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: rsaExponent}
	return nil
}

// A signature is a TPMT_SIGNATURE.
type signature struct {
	alg  uint16
	hash Bank
	rsa  []byte   // RSASSA, RSAPSS
	r, s *big.Int // ECDSA
}

// parseSignature reads a TPMT_SIGNATURE and nothing else.
func parseSignature(b []byte) (*signature, error) {
	if len(b) > maxSignatureBytes {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(b), maxSignatureBytes)
	}
	str := cryptobyte.String(b)
	sig := &signature{}
	var hash uint16
	if !u16(&str, &sig.alg) || !u16(&str, &hash) {
		return nil, errCut
	}
	if sig.hash = Bank(hash); sig.hash.hash() == 0 {
		return nil, fmt.Errorf("hash %#04x is not supported", hash)
	}
	switch sig.alg {
	case algECDSA:
		const maxScalar = 48 // P-384
		var r, s []byte
		if !tpm2b(&str, maxScalar, &r) || !tpm2b(&str, maxScalar, &s) {
			return nil, errCut
		}
		sig.r, sig.s = new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)
	case algRSASSA, algRSAPSS:
		if !tpm2b(&str, maxSignatureSize, &sig.rsa) {
			return nil, errCut
		}
	default:
		return nil, fmt.Errorf("algorithm %#04x is not supported", sig.alg)
	}
	if !str.Empty() {
		return nil, errTrailing
	}
	return sig, nil
}

// verify reports whether sig is p's signature of message, under p's own scheme.
func (p *Public) verify(message []byte, sig *signature) error {
	if sig.alg != p.scheme || sig.hash != p.hash {
		return fmt.Errorf("signature is of scheme %#04x with %v, the key's is %#04x with %v", sig.alg, sig.hash, p.scheme, p.hash)
	}
	digest := p.hash.sum(message)
	ok := false
	switch key := p.Key.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.Verify(key, digest, sig.r, sig.s)
	case *rsa.PublicKey:
		if sig.alg == algRSASSA {
			ok = rsa.VerifyPKCS1v15(key, p.hash.hash(), digest, sig.rsa) == nil
		} else {
			ok = rsa.VerifyPSS(key, p.hash.hash(), digest, sig.rsa, nil) == nil
		}
	}
	if !ok {
		return errors.New("the attestation key did not sign this quote")
	}
	return nil
}

// An attest is a TPMS_ATTEST of a quote.
type attest struct {
	qualifiedSigner, extraData []byte
	clock                      uint64
	resets, restarts           uint32
	safe                       bool
	firmware                   uint64
	selection                  []bankSelection
	pcrDigest                  []byte
}

// A bankSelection is a TPMS_PCR_SELECTION: PCRs in ascending order.
type bankSelection struct {
	bank    Bank
	indices []int
}

// parseAttest reads the TPMS_ATTEST of a quote and nothing else.
func parseAttest(b []byte) (*attest, error) {
	if len(b) > maxAttestSize {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(b), maxAttestSize)
	}
	s := cryptobyte.String(b)
	var magic uint32
	var typ uint16
	if !s.ReadUint32(&magic) || !u16(&s, &typ) {
		return nil, errCut
	}
	if magic != magicGenerated {
		return nil, fmt.Errorf("begins with %#08x: no TPM has made it", magic)
	}
	if typ != typeQuote {
		return nil, fmt.Errorf("is of type %#04x, a quote is %#04x", typ, typeQuote)
	}
	a := &attest{}
	var safe uint8
	var banks uint32
	if !tpm2b(&s, maxNameSize, &a.qualifiedSigner) || !tpm2b(&s, maxExtraDataSize, &a.extraData) ||
		!s.ReadUint64(&a.clock) || !s.ReadUint32(&a.resets) || !s.ReadUint32(&a.restarts) || !s.ReadUint8(&safe) ||
		!s.ReadUint64(&a.firmware) || !s.ReadUint32(&banks) {
		return nil, errCut
	}
	if safe > 1 {
		return nil, fmt.Errorf("safe is %d, neither yes nor no", safe)
	}
	a.safe = safe == 1
	if banks == 0 || banks > maxBanks {
		return nil, fmt.Errorf("selects PCRs of %d banks, want 1 to %d", banks, maxBanks)
	}
	for range banks {
		sel, err := parseSelection(&s)
		if err != nil {
			return nil, err
		}
		for _, other := range a.selection {
			if other.bank == sel.bank {
				return nil, fmt.Errorf("selects PCRs of the bank %v twice", sel.bank)
			}
		}
		a.selection = append(a.selection, sel)
	}
	if !tpm2b(&s, SHA512.Size(), &a.pcrDigest) {
		return nil, errCut
	}
	if !s.Empty() {
		return nil, errTrailing
	}
	return a, nil
}

func parseSelection(s *cryptobyte.String) (bankSelection, error) {
	var bank uint16
	var bitmap cryptobyte.String
	if !u16(s, &bank) || !s.ReadUint8LengthPrefixed(&bitmap) || len(bitmap) > maxPCRSelectSize {
		return bankSelection{}, errCut
	}
	sel := bankSelection{bank: Bank(bank)}
	if sel.bank.hash() == 0 {
		return sel, fmt.Errorf("PCR bank %v is not supported", sel.bank)
	}
	for i, b := range bitmap {
		for bit := range 8 {
			if b>>bit&1 == 0 {
				continue
			}
			if index := 8*i + bit; index < PCRCount {
				sel.indices = append(sel.indices, index)
			} else {
				return sel, fmt.Errorf("selects PCR %d, and there are %d", index, PCRCount)
			}
		}
	}
	if len(sel.indices) == 0 {
		return sel, fmt.Errorf("selects no PCR of the bank %v", sel.bank)
	}
	return sel, nil
}
