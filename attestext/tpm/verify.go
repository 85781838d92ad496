package tpm

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/attestedtls/atls/attestext"
)

// VerifyOptions say what a quote is verified against. Verify does not change them;
// the same options serve concurrent calls.
type VerifyOptions struct {
	// Trust says whose keys are trusted. nil, or one that trusts nothing, is an error.
	Trust *Trust

	// Collateral has the revocation lists of authorities that certify attestation keys.
	// A list that is missing is an error, unless InsecureSkipCollateral is set. Nothing
	// is ever fetched. Keys that are enrolled need none.
	Collateral *Collateral

	// InsecureSkipCollateral does without a revocation list. One that is there is
	// checked all the same.
	//
	// WARNING: keys whose certificates were revoked pass.
	InsecureSkipCollateral bool

	// Now is the time at which certificates must be valid. Zero means the current time.
	Now time.Time
}

// Verified is a quote that has been verified. Only [Verify] makes one that is not
// empty. Its methods may be called concurrently.
type Verified struct {
	quote       Quote
	ek          EKID
	certified   bool
	collateral  bool
	endorsement bool
}

const opVerify = "verify TPM quote"

// Verify checks that a key of a TPM signed q and that the PCR values are those that
// it signed. The key must be one that signs nothing that a TPM has not made and that
// has never been outside of it: restricted, sign, fixedTPM, fixedParent and
// sensitiveDataOrigin, and neither decrypt nor x509sign. It must be enrolled, or have
// a certificate that begins with a root of opts.Trust, is valid, is for the extended
// key usage tcg-kp-AIKCertificate, and is not revoked, nor an authority on the way. The
// attributes of a key that is certified, and not enrolled, are those that the authority
// has looked at. Whether its certificate is revoked does not matter where a key is enrolled.
//
// It decides nothing else: the PCRs may have any value, and the quote may be about
// any data.
//
// The classes of errors are
//
//   - [attestext.ErrSignature]: the signature, the PCR values, the chain or the
//     attributes of the key are not as they must be, nobody vouches for the key, or a
//     certificate is revoked.
//   - [attestext.ErrPolicy]: every revocation list of an authority has expired.
//   - [attestext.ErrUnavailable]: nothing is trusted, or there is no revocation list of
//     an authority.
//   - [attestext.ErrMalformed]: q does not come from [Parse].
func Verify(q *Quote, opts *VerifyOptions) (*Verified, error) {
	if q == nil || len(q.raw) == 0 {
		return nil, attestext.Errorf(attestext.ErrMalformed, opVerify, "quote was not parsed")
	}
	if opts == nil || opts.Trust.Empty() {
		return nil, attestext.Errorf(attestext.ErrUnavailable, opVerify,
			"no attestation key of a TPM is trusted: supply roots of their certificates, or enrolled keys")
	}
	// The fields of q are the caller's; those of the bytes that were parsed count.
	fresh, err := Parse(q.raw)
	if err != nil {
		return nil, err
	}
	refused := func(format string, args ...any) error {
		return classed(opVerify, fmt.Errorf(format, args...))
	}
	ak := fresh.AK
	if err := checkAK(ak); err != nil {
		return nil, refused("%w", err)
	}
	if err := ak.verify(fresh.attest, fresh.signature); err != nil {
		return nil, refused("%w", err)
	}
	if !fresh.DigestMatches() {
		return nil, refused("the PCR values are not those that were quoted")
	}
	v := &Verified{quote: *fresh, endorsement: bytes.Equal(qualifiedName(ak, rhEndorsement), fresh.QualifiedSigner)}
	if k := opts.Trust.enrolled(ak.Name); k != nil {
		v.ek = k.EK
		return v, nil
	}
	switch {
	case len(fresh.Chain) == 0:
		return nil, refused("attestation key %x is not enrolled and has no certificate", ak.Name)
	case opts.Trust.Roots == nil:
		return nil, refused("attestation key %x is not enrolled, and no root of certificates is trusted", ak.Name)
	case !certifies(fresh.Chain[0], ak):
		return nil, refused("certificate is for another key than the attestation key")
	case fresh.Chain[0].KeyUsage != 0 && fresh.Chain[0].KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return nil, refused("certificate of the attestation key is not for signatures")
	}
	v.certified = true
	if v.collateral, err = verifyChain(fresh.Chain, &chainOptions{
		roots: opts.Trust.Roots, purpose: oidAIKCertificate,
		collateral: opts.Collateral, skipCollateral: opts.InsecureSkipCollateral, now: opts.Now,
	}); err != nil {
		return nil, refused("attestation key: %w", err)
	}
	return v, nil
}

// rhEndorsement is the handle of the endorsement hierarchy, TPM_RH_ENDORSEMENT.
const rhEndorsement = 0x4000000B

// qualifiedName returns the qualified name of a primary key of a hierarchy: nameAlg ‖
// H(handle ‖ name), of Part 1, section "Qualified Name".
func qualifiedName(p *Public, hierarchy uint32) []byte {
	alg := binary.BigEndian.Uint16(p.Name)
	return append(binary.BigEndian.AppendUint16(nil, alg), Bank(alg).sum(binary.BigEndian.AppendUint32(nil, hierarchy), p.Name)...)
}

// checkAK checks that p is a key that signs nothing but what a TPM has made.
func checkAK(p *Public) error {
	const must, mustNot = FixedTPM | FixedParent | SensitiveDataOrigin | Restricted | Sign, Decrypt | X509Sign | EncryptedDup
	return checkAttributes("attestation key", p, must, mustNot)
}

// enrolled returns the enrolled key of that name, or nil.
func (t *Trust) enrolled(name []byte) *EnrolledKey {
	for i, k := range t.Keys {
		if k.check() == nil && bytes.Equal(k.Name, name) {
			return &t.Keys[i]
		}
	}
	return nil
}

// Quote returns a copy of the quote.
func (v *Verified) Quote() *Quote { q := v.quote; return &q }

// IsAbout is [Quote.IsAbout].
func (v *Verified) IsAbout(reportData [attestext.ReportDataSize]byte) bool {
	return v.quote.IsAbout(reportData)
}

// PCR returns the value of a PCR, of a bank named as in policies, or nil if the quote
// is not about it. The caller must not change it.
func (v *Verified) PCR(bank string, index int) []byte {
	for _, r := range v.quote.PCRs {
		if r.Bank.String() == bank && r.Index == index {
			return r.Value
		}
	}
	return nil
}

// FirmwareVersion returns the manufacturer's number, and ResetCount how often the TPM
// was booted. ok is false where the key is not a primary one of the endorsement
// hierarchy, so that the TPM may have disguised them.
func (v *Verified) FirmwareVersion() (version uint64, ok bool) {
	return v.quote.FirmwareVersion, v.endorsement
}

// ResetCount is described with FirmwareVersion.
func (v *Verified) ResetCount() (count uint32, ok bool) { return v.quote.ResetCount, v.endorsement }

// EK returns the identity of the TPM, or nil for a key that is certified and not
// enrolled: its certificate does not say in which TPM it is. The caller must not change it.
func (v *Verified) EK() []byte {
	if v.ek == (EKID{}) {
		return nil
	}
	return v.ek[:]
}

// AKName returns the name of the key that signed. The caller must not change it.
func (v *Verified) AKName() []byte { return v.quote.AK.Name }

// AK returns the SHA-256 of the DER SubjectPublicKeyInfo of the key that signed.
func (v *Verified) AK() [IDSize]byte {
	der, err := x509.MarshalPKIXPublicKey(v.quote.AK.Key)
	if err != nil {
		return [IDSize]byte{} // such keys do not come out of Parse
	}
	return sha256.Sum256(der)
}

// Certified reports whether the key was trusted by certificate, and not by enrolment.
func (v *Verified) Certified() bool { return v.certified }

// CollateralChecked reports whether revocation was checked: of a key that is certified.
func (v *Verified) CollateralChecked() bool { return v.collateral }
