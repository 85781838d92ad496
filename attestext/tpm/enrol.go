package tpm

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/strict"
	"github.com/google/go-tpm/tpm2"
)

// An EnrolRequest is what a machine shows to have its AK enrolled. It may travel in
// the open.
type EnrolRequest struct {
	EK []byte // TPMT_PUBLIC of the endorsement key
	AK []byte // TPMT_PUBLIC of the attestation key
	// EKChain is the EK's certificate in DER and the authorities below the root; nil
	// if the TPM has none.
	EKChain [][]byte
}

// A Credential is a secret that one TPM can read, and only with one AK beside its EK:
// what TPM2_ActivateCredential takes. It may travel in the open.
type Credential struct {
	Blob   []byte // TPMS_ID_OBJECT
	Secret []byte // TPM2B_ENCRYPTED_SECRET, without its length
}

// Bounds on the parts of an enrolment, in bytes.
const (
	secretSize     = 32 // of the credential's value
	maxEnrolSize   = 32 << 10
	maxCredentials = 1 << 10
)

// EKTrust says which endorsement keys are those of TPMs.
type EKTrust struct {
	// Roots are what certificates of EKs may begin with: those of the TPM's
	// manufacturers. nil is none.
	Roots *x509.CertPool
	// Collateral has the revocation lists of the authorities below Roots, and theirs. A
	// list that is missing is an error, unless InsecureSkipCollateral is set. Nothing is
	// ever fetched.
	Collateral *Collateral
	// InsecureSkipCollateral does without a revocation list. One that is there is
	// checked all the same.
	//
	// WARNING: TPMs whose certificates were revoked pass.
	InsecureSkipCollateral bool
	// IDs are EKs that are known by themselves, for example from the machine's maker.
	IDs []EKID
	// InsecureAny accepts any EK.
	//
	// WARNING: a program can pass for a TPM. It is for an exchange that happens where
	// nobody else can answer, such as on the machine itself.
	InsecureAny bool
	// Now is the time at which certificates must be valid. Zero means the current time.
	Now time.Time
}

// An Enrolment is that of one AK, at the relying party. It serves for one answer.
// Its methods may be called concurrently.
type Enrolment struct {
	key EnrolledKey

	mu     sync.Mutex
	secret []byte // nil once it has served
}

const opEnrol = "enrol TPM"

// NewEnrolment begins the enrolment of the AK in req: it checks that the EK is one
// that trust accepts and that both keys are what they must be, and makes up a secret
// for the TPM that has both (TPM2_MakeCredential). Hand the Credential to the machine,
// and its answer to [Enrolment.Finish].
//
// The certificate of an EK must be for the extended key usage tcg-kp-EKCertificate, and
// not be revoked. Nobody looks again once the AK is enrolled: a policy can deny the EK.
//
// Errors are of class [attestext.ErrSignature]; [attestext.ErrPolicy] where every
// revocation list of an authority has expired, and [attestext.ErrUnavailable] where there is none.
func NewEnrolment(req *EnrolRequest, trust *EKTrust) (*Enrolment, *Credential, error) {
	e, c, err := newEnrolment(req, trust)
	if err != nil {
		return nil, nil, classed(opEnrol, err)
	}
	return e, c, nil
}

func newEnrolment(req *EnrolRequest, trust *EKTrust) (*Enrolment, *Credential, error) {
	ek, err := parsePublic(req.EK, storage)
	if err != nil {
		return nil, nil, fmt.Errorf("endorsement key: %w", err)
	}
	const must, mustNot = FixedTPM | FixedParent | SensitiveDataOrigin | Restricted | Decrypt, Sign | X509Sign | EncryptedDup
	if err := checkAttributes("endorsement key", ek, must, mustNot); err != nil {
		return nil, nil, err
	}
	ak, err := parsePublic(req.AK, signing)
	if err != nil {
		return nil, nil, fmt.Errorf("attestation key: %w", err)
	}
	if err := checkAK(ak); err != nil {
		return nil, nil, err
	}
	id, err := ekID(ek.Key)
	if err != nil {
		return nil, nil, err
	}
	if err := trust.check(ek, id, req.EKChain); err != nil {
		return nil, nil, err
	}
	secret := make([]byte, secretSize)
	rand.Read(secret)
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](req.EK)
	if err != nil {
		return nil, nil, fmt.Errorf("endorsement key: %w", err)
	}
	to, err := tpm2.ImportEncapsulationKey(pub)
	if err != nil {
		return nil, nil, fmt.Errorf("endorsement key: %w", err)
	}
	blob, encrypted, err := tpm2.CreateCredential(rand.Reader, to, ak.Name, secret)
	if err != nil {
		return nil, nil, err
	}
	return &Enrolment{key: EnrolledKey{Name: ak.Name, EK: id}, secret: secret}, &Credential{Blob: blob, Secret: encrypted}, nil
}

// Finish compares what the TPM read out of the credential with what was put in, and
// returns the key to put into [Trust.Keys]. It serves once, whatever the answer. Errors
// are of class [attestext.ErrSignature].
func (e *Enrolment) Finish(answer []byte) (EnrolledKey, error) {
	e.mu.Lock()
	want := e.secret
	e.secret = nil
	e.mu.Unlock()
	switch {
	case want == nil:
		return EnrolledKey{}, attestext.Errorf(attestext.ErrSignature, opEnrol, "the credential has been answered before: begin anew")
	case subtle.ConstantTimeCompare(answer, want) != 1:
		return EnrolledKey{}, attestext.Errorf(attestext.ErrSignature, opEnrol, "the answer is wrong: the attestation key is not in the TPM of that endorsement key")
	}
	return e.key, nil
}

// ekID returns the identity of the TPM with that endorsement key.
func ekID(key crypto.PublicKey) (EKID, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return EKID{}, err
	}
	return sha256.Sum256(der), nil
}

// check reports whether t accepts the EK.
func (t *EKTrust) check(ek *Public, id EKID, chain [][]byte) error {
	if t == nil {
		t = &EKTrust{}
	}
	if t.InsecureAny || slices.Contains(t.IDs, id) {
		return nil
	}
	if t.Roots == nil || len(chain) == 0 {
		return fmt.Errorf("endorsement key %v is not known, and has no certificate below a root that is trusted", id)
	}
	if len(chain) > MaxChain {
		return fmt.Errorf("endorsement key with %d certificates, at most %d are read", len(chain), MaxChain)
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		var err error
		if certs[i], err = x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("certificate of the endorsement key: %w", err)
		}
	}
	if !certifies(certs[0], ek) {
		return errors.New("certificate is for another key than the endorsement key")
	}
	if _, err := verifyChain(certs, &chainOptions{
		roots: t.Roots, purpose: oidEKCertificate, collateral: t.Collateral, skipCollateral: t.InsecureSkipCollateral, now: t.Now,
	}); err != nil {
		return fmt.Errorf("endorsement key: %w", err)
	}
	return nil
}

// checkAttributes reports attributes that p lacks, or has and must not have.
func checkAttributes(what string, p *Public, must, mustNot Attributes) error {
	for _, a := range []struct {
		bit  Attributes
		name string
	}{
		{FixedTPM, "fixedTPM"}, {FixedParent, "fixedParent"}, {SensitiveDataOrigin, "sensitiveDataOrigin"},
		{Restricted, "restricted"}, {Decrypt, "decrypt"}, {Sign, "sign"}, {X509Sign, "x509sign"},
		{EncryptedDup, "encryptedDuplication"},
	} {
		if must&a.bit != 0 && p.Attributes&a.bit == 0 {
			return fmt.Errorf("%s is not %s", what, a.name)
		}
		if mustNot&a.bit != 0 && p.Attributes&a.bit != 0 {
			return fmt.Errorf("%s is %s", what, a.name)
		}
	}
	return nil
}

// Marshal encodes r in CBOR: {"ek": bstr, "ak": bstr, ? "ekchain": [ 1*4 bstr ]}.
func (r *EnrolRequest) Marshal() ([]byte, error) {
	m := map[string]any{"ek": r.EK, "ak": r.AK}
	if len(r.EKChain) != 0 {
		m["ekchain"] = r.EKChain
	}
	return strict.Marshal(m)
}

// ParseEnrolRequest reads what [EnrolRequest.Marshal] writes, and nothing else. The
// keys are read by [NewEnrolment].
func ParseEnrolRequest(b []byte) (*EnrolRequest, error) {
	r := &EnrolRequest{}
	err := parseFields(b, maxEnrolSize, map[string]func(strict.Raw) error{
		"ek":      func(raw strict.Raw) (err error) { r.EK, err = strict.Bytes(raw); return },
		"ak":      func(raw strict.Raw) (err error) { r.AK, err = strict.Bytes(raw); return },
		"ekchain": func(raw strict.Raw) (err error) { r.EKChain, err = parseChain(raw); return },
	})
	if err == nil && (len(r.EK) == 0 || len(r.AK) == 0) {
		err = errors.New("there are not both keys")
	}
	if err != nil {
		return nil, fmt.Errorf("parse enrolment request: %w", err)
	}
	return r, nil
}

// Marshal encodes c in CBOR: {"blob": bstr, "secret": bstr}.
func (c *Credential) Marshal() ([]byte, error) {
	return strict.Marshal(map[string]any{"blob": c.Blob, "secret": c.Secret})
}

// ParseCredential reads what [Credential.Marshal] writes, and nothing else.
func ParseCredential(b []byte) (*Credential, error) {
	c := &Credential{}
	err := parseFields(b, maxCredentials, map[string]func(strict.Raw) error{
		"blob":   func(raw strict.Raw) (err error) { c.Blob, err = strict.Bytes(raw); return },
		"secret": func(raw strict.Raw) (err error) { c.Secret, err = strict.Bytes(raw); return },
	})
	if err == nil && (len(c.Blob) == 0 || len(c.Secret) == 0) {
		err = errors.New("there are not both parts")
	}
	if err != nil {
		return nil, fmt.Errorf("parse credential: %w", err)
	}
	return c, nil
}

// parseFields reads a map of at most limit bytes whose members set knows.
func parseFields(b []byte, limit int, set map[string]func(strict.Raw) error) error {
	if len(b) > limit {
		return fmt.Errorf("%d bytes, at most %d are read", len(b), limit)
	}
	m, err := strict.Map(b)
	if err != nil {
		return err
	}
	for k, raw := range m {
		name, _ := k.(string)
		if set[name] == nil {
			return errors.New("unknown member")
		}
		if err := set[name](raw); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
