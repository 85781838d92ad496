// Package tpm reads and verifies quotes of TPM 2.0: [Parse] checks that the bytes
// are a quote with the key and the PCR values that it is about, and [Verify] that a
// TPM signed it, one whose attestation key (AK) is certified or enrolled. Whether
// what a genuine quote says is acceptable is decided in package policy, and whether
// it is bound to a session in package verifier.
//
// A TPM measures what a machine has booted and isolates nothing: whoever is root on
// the machine is under no restraint but that of the software that was measured.
//
// An AK is trusted because a certificate names it (TCG "EK Credential Profile",
// tcg-kp-AIKCertificate), or because it was enrolled: [NewEnrolment] makes a
// credential that only the TPM of an endorsement key (EK) can read, and only if it
// has the AK.
package tpm

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/strict"
)

// MediaType is that of a quote. None is registered for what has to travel: Veraison's
// application/vnd.enacttrust.tpm-evidence has neither the PCR values nor the key, and
// application/vnd.parallaxsecond.key-attestation.tpm is a key attestation. The "x."
// tree is for what the parties agree on among themselves (RFC 6838, section 3.4).
const MediaType = "application/x.attestedtls.tpm-quote+cbor"

// Format is the format of a quote as Evidence.
var Format = attestext.EvidenceFormat{MediaType: MediaType}

// Bounds on a quote.
const (
	// MaxSize is that of an encoded quote, in bytes. Without certificates it has
	// about 1,200 with 24 PCRs.
	MaxSize = 64 << 10
	// MaxChain is how many certificates it may have.
	MaxChain = 4
)

// QualifyingDataSize is the size of what a quote is bound by, in bytes.
const QualifyingDataSize = sha256.Size

// QualifyingData returns what extraData of a quote must be for reportData: its
// SHA-256. A TPM that knows no hash above SHA-256 takes at most 34 bytes, so that the
// 64 themselves do not fit.
func QualifyingData(reportData [attestext.ReportDataSize]byte) [QualifyingDataSize]byte {
	return sha256.Sum256(reportData[:])
}

// A PCR is one platform configuration register.
type PCR struct {
	Bank  Bank
	Index int // below PCRCount
	Value []byte
}

// Parts are what a quote travels as, in the encodings of the TPM.
type Parts struct {
	Attest    []byte // TPMS_ATTEST
	Signature []byte // TPMT_SIGNATURE
	Public    []byte // TPMT_PUBLIC of the AK
	// PCRs has the values of what was selected, in any order.
	PCRs []PCR
	// Chain is the AK's certificate in DER and the authorities below the root; nil
	// if the AK has none.
	Chain [][]byte
}

// Names of the members.
const (
	keyAttest    = "attest"
	keySignature = "signature"
	keyPublic    = "public"
	keyPCRs      = "pcrs"
	keyChain     = "chain"
)

// A Quote is a parsed quote. Nothing in it has been verified: the fields say what a
// peer claims. Hand it to [Verify].
type Quote struct {
	// QualifiedSigner is the name of the AK within its hierarchy.
	QualifiedSigner []byte
	// ExtraData is what the TPM was asked to sign, at most 66 bytes; see QualifyingData.
	ExtraData []byte
	// Clock is in milliseconds, and Safe says that it never went back.
	Clock uint64
	Safe  bool
	// ResetCount counts the boots of the TPM, and RestartCount its resumptions since.
	ResetCount, RestartCount uint32
	// FirmwareVersion is the manufacturer's. Like the counts it is disguised where
	// the AK is not in the endorsement or platform hierarchy.
	FirmwareVersion uint64
	// PCRs are in the order of the selection.
	PCRs      []PCR
	PCRDigest []byte
	// AK is the key that is to have signed.
	AK *Public
	// Chain is empty if the AK comes without a certificate.
	Chain []*x509.Certificate

	// raw is the evidence that the fields were read from. Verify goes back to it, so
	// that what is verified is not what a caller may have written into the fields.
	raw       []byte
	attest    []byte
	signature *signature
}

// Raw returns the quote as it was parsed. The caller must not change it.
func (q *Quote) Raw() []byte { return q.raw }

func malformed(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrMalformed, "parse TPM quote", format, args...)
}

// Parse decodes
//
//	tpm-quote = {
//	  "attest": bstr            ; TPMS_ATTEST
//	  "signature": bstr         ; TPMT_SIGNATURE
//	  "public": bstr            ; TPMT_PUBLIC of the AK
//	  "pcrs": { + bank => { + index => bstr } }
//	  ? "chain": [ 1*4 bstr ]   ; certificates in DER, the AK's first
//	}
//	bank = 11 / 12 / 13         ; TPM_ALG_SHA256, SHA384, SHA512
//	index = 0..23
//
// It refuses what is not a quote that a TPM made, other members and duplicate ones,
// lengths that do not add up, PCR values for others than were selected or for fewer,
// keys that are neither ECDSA on P-256 or P-384 nor RSA of 2048 to 4096 bits, SHA-1
// anywhere, and anything behind the map or behind a structure.
//
// Parse verifies nothing. Errors are of class [attestext.ErrMalformed]. b is copied.
func Parse(b []byte) (*Quote, error) {
	if len(b) > MaxSize {
		return nil, malformed("%d bytes, at most %d are read", len(b), MaxSize)
	}
	p, err := parseParts(b)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: "parse TPM quote", Err: err}
	}
	q := &Quote{raw: bytes.Clone(b), attest: p.Attest}
	if err := q.fill(p); err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: "parse TPM quote", Err: err}
	}
	return q, nil
}

func parseParts(b []byte) (*Parts, error) {
	m, err := strict.Map(b)
	if err != nil {
		return nil, err
	}
	p := &Parts{}
	for k, raw := range m {
		name, _ := k.(string)
		var err error
		switch name {
		case keyAttest:
			p.Attest, err = strict.Bytes(raw)
		case keySignature:
			p.Signature, err = strict.Bytes(raw)
		case keyPublic:
			p.Public, err = strict.Bytes(raw)
		case keyPCRs:
			p.PCRs, err = parsePCRs(raw)
		case keyChain:
			p.Chain, err = parseChain(raw)
		default:
			return nil, errors.New("unknown member")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for name, there := range map[string]bool{
		keyAttest: p.Attest != nil, keySignature: p.Signature != nil, keyPublic: p.Public != nil, keyPCRs: p.PCRs != nil,
	} {
		if !there {
			return nil, fmt.Errorf("there is no %s", name)
		}
	}
	return p, nil
}

func parsePCRs(raw strict.Raw) ([]PCR, error) {
	banks, err := strict.Map(raw)
	if err != nil {
		return nil, err
	}
	var all []PCR
	for k, raw := range banks {
		alg, ok := k.(int64)
		bank := Bank(alg)
		if !ok || int64(bank) != alg || bank.Size() == 0 {
			return nil, fmt.Errorf("bank %v is not supported", k)
		}
		values, err := strict.Map(raw)
		if err != nil {
			return nil, err
		}
		for k, raw := range values {
			index, ok := k.(int64)
			if !ok || index < 0 || index >= PCRCount {
				return nil, fmt.Errorf("%v is no index of a PCR", k)
			}
			value, err := strict.Bytes(raw)
			if err != nil {
				return nil, err
			}
			if len(value) != bank.Size() {
				return nil, fmt.Errorf("PCR %d of %v has %d bytes", index, bank, len(value))
			}
			all = append(all, PCR{bank, int(index), value})
		}
	}
	return all, nil
}

func parseChain(raw strict.Raw) ([][]byte, error) {
	items, err := strict.Array(raw)
	if err != nil {
		return nil, err
	}
	if n := len(items); n == 0 || n > MaxChain {
		return nil, fmt.Errorf("%d certificates, want 1 to %d", n, MaxChain)
	}
	chain := make([][]byte, len(items))
	for i, item := range items {
		if chain[i], err = strict.Bytes(item); err != nil {
			return nil, err
		}
	}
	return chain, nil
}

// fill reads the structures of p into q.
func (q *Quote) fill(p *Parts) error {
	a, err := parseAttest(p.Attest)
	if err != nil {
		return fmt.Errorf("TPMS_ATTEST: %w", err)
	}
	if q.signature, err = parseSignature(p.Signature); err != nil {
		return fmt.Errorf("TPMT_SIGNATURE: %w", err)
	}
	if q.AK, err = parsePublic(p.Public, signing); err != nil {
		return fmt.Errorf("TPMT_PUBLIC of the attestation key: %w", err)
	}
	for _, der := range p.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
		q.Chain = append(q.Chain, c)
	}
	q.QualifiedSigner, q.ExtraData, q.PCRDigest = a.qualifiedSigner, a.extraData, a.pcrDigest
	q.Clock, q.Safe, q.ResetCount, q.RestartCount, q.FirmwareVersion = a.clock, a.safe, a.resets, a.restarts, a.firmware
	for _, sel := range a.selection {
		for _, index := range sel.indices {
			i := slices.IndexFunc(p.PCRs, func(r PCR) bool { return r.Bank == sel.bank && r.Index == index })
			if i < 0 {
				return fmt.Errorf("PCR %d of %v was quoted and has no value", index, sel.bank)
			}
			q.PCRs = append(q.PCRs, p.PCRs[i])
		}
	}
	if len(q.PCRs) != len(p.PCRs) {
		return fmt.Errorf("%d PCR values, %d were quoted", len(p.PCRs), len(q.PCRs))
	}
	return nil
}

// Marshal encodes p in the core deterministic encoding, as [Parse] reads it. It
// fails where Parse would.
func (p *Parts) Marshal() ([]byte, error) {
	pcrs := map[uint16]map[int][]byte{}
	for _, r := range p.PCRs {
		if pcrs[uint16(r.Bank)] == nil {
			pcrs[uint16(r.Bank)] = map[int][]byte{}
		}
		pcrs[uint16(r.Bank)][r.Index] = r.Value
	}
	m := map[string]any{keyAttest: p.Attest, keySignature: p.Signature, keyPublic: p.Public, keyPCRs: pcrs}
	if len(p.Chain) != 0 {
		m[keyChain] = p.Chain
	}
	b, err := strict.Marshal(m)
	if err == nil {
		_, err = Parse(b)
	}
	if err != nil {
		return nil, fmt.Errorf("encode TPM quote: %w", err)
	}
	return b, nil
}

// IsAbout reports whether q is about reportData, in constant time; see [QualifyingData].
func (q *Quote) IsAbout(reportData [attestext.ReportDataSize]byte) bool {
	want := QualifyingData(reportData)
	return subtle.ConstantTimeCompare(q.ExtraData, want[:]) == 1
}

// DigestMatches reports whether the PCR values are those that the quote is about. It
// says nothing of who made the quote.
func (q *Quote) DigestMatches() bool { return bytes.Equal(pcrDigest(q.AK.hash, q.PCRs), q.PCRDigest) }

// pcrDigest returns what a TPM says of the PCRs, in the order of the selection, under
// a key whose scheme has the given hash.
func pcrDigest(hash Bank, pcrs []PCR) []byte {
	values := make([][]byte, len(pcrs))
	for i, r := range pcrs {
		values[i] = r.Value
	}
	return hash.sum(values...)
}
