// Package tpmdevice has the TPM of the machine that a program runs on sign its
// evidence, and answers for it when its attestation key is enrolled. What the
// evidence is, and who trusts it, is in package tpm.
package tpmdevice

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// DefaultPath is the TPM behind the kernel's resource manager, which several
// programs can use.
const DefaultPath = "/dev/tpmrm0"

// Options say what is quoted. The zero value will do.
type Options struct {
	// PCRs are the registers that quotes are about, ascending. nil means 0 to 9 and 11
	// to 15: what is measured until the system is up. Linux extends 10 with each file
	// that IMA measures.
	PCRs []int
	// Bank is that of the registers. Zero means tpm.SHA256.
	Bank tpm.Bank
	// Chain is the certificate of the attestation key in DER, and the authorities
	// below the root; nil if the key is enrolled instead.
	Chain [][]byte
}

// A Device is a TPM with an attestation key (AK): the ECDSA P-256 key that this
// package's template gives in the endorsement hierarchy. It is the same one each time,
// until the TPM is cleared by its manufacturer's means. The hierarchy must have an
// empty password.
//
// It does one thing at a time, as TPMs do; its methods may be called concurrently.
type Device struct {
	tpm    transport.TPMCloser
	opts   Options
	ak     tpm2.AuthHandle
	public []byte        // TPMT_PUBLIC
	turn   chan struct{} // holds one token while the TPM is busy
}

var _ attester.Source = (*Device)(nil)

const op = "ask the TPM"

func unavailable(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrUnavailable, op, format, args...)
}

// Open opens the TPM at path, a device or the socket of swtpm; empty means
// DefaultPath. Where there is none, the error says so; it is of class
// [attestext.ErrUnavailable]. nil options are those of the zero value.
func Open(path string, opts *Options) (*Device, error) {
	if path == "" {
		path = DefaultPath
	}
	t, err := open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, unavailable("this machine offers no TPM 2.0 there: %w (that takes one in hardware or firmware, or a virtual one, and Linux 4.12 or later for %s)", err, DefaultPath)
	case errors.Is(err, fs.ErrPermission):
		return nil, unavailable("%w (it takes root, or membership of the group of that device, often tss)", err)
	case err != nil:
		return nil, unavailable("%w", err)
	}
	d, err := New(t, opts)
	if err != nil {
		t.Close()
		return nil, err
	}
	return d, nil
}

// akTemplate is that of the AK.
var akTemplate = tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgECC,
	NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true, Restricted: true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Scheme: tpm2.TPMTECCScheme{
			Scheme:  tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
		},
		CurveID: tpm2.TPMECCNistP256,
	}),
}

// New returns a Device on t and makes its AK, which takes a TPM in hardware up to
// seconds. [Device.Close] closes t.
func New(t transport.TPMCloser, opts *Options) (*Device, error) {
	d := &Device{tpm: t, turn: make(chan struct{}, 1)}
	if opts != nil {
		d.opts = *opts
	}
	if d.opts.PCRs == nil {
		d.opts.PCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15}
	}
	if d.opts.Bank == 0 {
		d.opts.Bank = tpm.SHA256
	}
	pcrs := d.opts.PCRs
	if len(pcrs) == 0 || d.opts.Bank.Size() == 0 || pcrs[0] < 0 || pcrs[len(pcrs)-1] >= tpm.PCRCount ||
		!slices.IsSorted(pcrs) || len(slices.Compact(slices.Clone(pcrs))) != len(pcrs) {
		return nil, unavailable("PCRs %v of bank %v cannot be quoted: want some from 0 to %d, ascending", pcrs, d.opts.Bank, tpm.PCRCount-1)
	}
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(akTemplate)}.Execute(t)
	if err != nil {
		return nil, unavailable("no attestation key: %w", err)
	}
	d.ak = tpm2.AuthHandle{Handle: r.ObjectHandle, Name: r.Name, Auth: tpm2.PasswordAuth(nil)}
	d.public = r.OutPublic.Bytes()
	return d, nil
}

// Close lets go of the AK and the TPM.
func (d *Device) Close() error {
	d.turn <- struct{}{} // and never gives it back
	tpm2.FlushContext{FlushHandle: d.ak.Handle}.Execute(d.tpm)
	return d.tpm.Close()
}

// AK returns the TPMT_PUBLIC of the attestation key. The caller must not change it.
func (d *Device) AK() []byte { return d.public }

// do has f use the TPM, when it is free. It returns when ctx is done; f then ends by
// itself.
func do[T any](ctx context.Context, d *Device, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	var zero T
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return zero, unavailable("%w while it is busy", ctx.Err())
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-d.turn }()
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return zero, unavailable("%w", r.err)
		}
		return r.v, nil
	case <-ctx.Done():
		return zero, unavailable("%w", ctx.Err())
	}
}

// Formats returns the format of a quote.
func (d *Device) Formats() []attestext.EvidenceFormat { return []attestext.EvidenceFormat{tpm.Format} }

// Record returns a quote about reportData, as [attester.Source] has it. Errors are of
// class [attestext.ErrUnavailable].
func (d *Device) Record(ctx context.Context, _ attestext.EvidenceFormat, reportData [attestext.ReportDataSize]byte) (*cmw.Record, error) {
	b, err := do(ctx, d, func() ([]byte, error) { return d.quote(reportData) })
	if err != nil {
		return nil, err
	}
	return &cmw.Record{Format: tpm.Format, Value: b, Ind: cmw.Evidence}, nil
}

// attempts is how often a quote is made anew because a PCR changed between its being
// read and its being quoted.
const attempts = 4

func (d *Device) quote(reportData [attestext.ReportDataSize]byte) ([]byte, error) {
	data := tpm.QualifyingData(reportData)
	var last error
	for range attempts {
		pcrs, err := d.readPCRs()
		if err != nil {
			return nil, err
		}
		q, err := tpm2.Quote{
			SignHandle:     d.ak,
			QualifyingData: tpm2.TPM2BData{Buffer: data[:]},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, // that of the key
			PCRSelect:      selection(d.opts.Bank, d.opts.PCRs),
		}.Execute(d.tpm)
		if err != nil {
			return nil, err
		}
		b, err := (&tpm.Parts{
			Attest: q.Quoted.Bytes(), Signature: tpm2.Marshal(q.Signature), Public: d.public, PCRs: pcrs, Chain: d.opts.Chain,
		}).Marshal()
		if err != nil {
			return nil, fmt.Errorf("%v", err) // that the TPM's quote is malformed is not the peer's doing
		}
		if last = check(b, reportData); last == nil {
			return b, nil
		}
	}
	return nil, last
}

// check checks a quote that has just been made: evidence that cannot be right is
// better not sent.
func check(b []byte, reportData [attestext.ReportDataSize]byte) error {
	q, err := tpm.Parse(b)
	if err != nil {
		return fmt.Errorf("%v", err)
	}
	want := tpm.QualifyingData(reportData)
	if !bytes.Equal(q.ExtraData, want[:]) {
		return errors.New("the quote is about other data than the TPM was given")
	}
	if !q.DigestMatches() {
		return errors.New("the PCRs change faster than they can be quoted")
	}
	return nil
}

func selection(bank tpm.Bank, pcrs []int) tpm2.TPMLPCRSelection {
	indices := make([]uint, len(pcrs))
	for i, n := range pcrs {
		indices[i] = uint(n)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash: tpm2.TPMAlgID(bank), PCRSelect: tpm2.PCClientCompatible.PCRs(indices...),
	}}}
}

// pcrsAtOnce is how many PCRs a TPM returns for one command.
const pcrsAtOnce = 8

func (d *Device) readPCRs() ([]tpm.PCR, error) {
	var all []tpm.PCR
	for chunk := range slices.Chunk(d.opts.PCRs, pcrsAtOnce) {
		r, err := tpm2.PCRRead{PCRSelectionIn: selection(d.opts.Bank, chunk)}.Execute(d.tpm)
		if err != nil {
			return nil, err
		}
		if len(r.PCRValues.Digests) != len(chunk) {
			return nil, fmt.Errorf("%d of %d PCRs are there: does the TPM have the bank %v?", len(r.PCRValues.Digests), len(chunk), d.opts.Bank)
		}
		for i, n := range chunk {
			all = append(all, tpm.PCR{Bank: d.opts.Bank, Index: n, Value: r.PCRValues.Digests[i].Buffer})
		}
	}
	return all, nil
}

// An endorsement is one of the endorsement keys that a TPM may have: its template, and
// where its certificate is (TCG "EK Credential Profile", low range).
type endorsement struct {
	template    tpm2.TPMTPublic
	certificate tpm2.TPMHandle
}

var endorsements = []endorsement{
	{tpm2.RSAEKTemplate, 0x01c00002},
	{tpm2.ECCEKTemplate, 0x01c0000a},
}

// endorsement returns the EK that the TPM has a certificate for, or else the ECC one,
// and the certificate.
func (d *Device) endorsement() (endorsement, []byte) {
	for _, e := range endorsements {
		if der, err := d.readNV(e.certificate); err == nil {
			return e, der
		}
	}
	return endorsements[len(endorsements)-1], nil
}

// loadEK makes an EK and calls f with it.
func (d *Device) loadEK(e endorsement, f func(*tpm2.CreatePrimaryResponse) error) error {
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(e.template)}.Execute(d.tpm)
	if err != nil {
		return fmt.Errorf("endorsement key: %w", err)
	}
	defer tpm2.FlushContext{FlushHandle: r.ObjectHandle}.Execute(d.tpm)
	return f(r)
}

// EnrolRequest returns what [tpm.NewEnrolment] takes: both keys, and the certificate
// of the EK where the TPM holds one. The authorities above it are not in the TPM.
func (d *Device) EnrolRequest(ctx context.Context) (*tpm.EnrolRequest, error) {
	return do(ctx, d, func() (*tpm.EnrolRequest, error) {
		e, der := d.endorsement()
		req := &tpm.EnrolRequest{AK: d.public}
		if der != nil {
			req.EKChain = [][]byte{der}
		}
		return req, d.loadEK(e, func(r *tpm2.CreatePrimaryResponse) error {
			req.EK = r.OutPublic.Bytes()
			return nil
		})
	})
}

// Activate reads the secret in a credential, for [tpm.Enrolment.Finish]. It fails where
// the credential is for another TPM or another AK.
func (d *Device) Activate(ctx context.Context, c *tpm.Credential) ([]byte, error) {
	return do(ctx, d, func() (secret []byte, err error) {
		e, _ := d.endorsement()
		err = d.loadEK(e, func(ek *tpm2.CreatePrimaryResponse) error {
			r, err := tpm2.ActivateCredential{
				ActivateHandle: d.ak,
				KeyHandle:      tpm2.AuthHandle{Handle: ek.ObjectHandle, Name: ek.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, endorsementPolicy)},
				CredentialBlob: tpm2.TPM2BIDObject{Buffer: c.Blob},
				Secret:         tpm2.TPM2BEncryptedSecret{Buffer: c.Secret},
			}.Execute(d.tpm)
			if err != nil {
				return fmt.Errorf("the credential is not for this TPM and this attestation key: %w", err)
			}
			secret = r.CertInfo.Buffer
			return nil
		})
		return secret, err
	})
}

// endorsementPolicy satisfies the policy of EKs: PolicySecret of the endorsement
// hierarchy.
func endorsementPolicy(t transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session,
	}.Execute(t)
	return err
}

// Bounds on what is read out of non-volatile memory, in bytes.
const (
	maxNVSize  = 4 << 10
	maxNVChunk = 512
)

// readNV reads a certificate out of non-volatile memory. It may be padded there.
func (d *Device) readNV(index tpm2.TPMHandle) ([]byte, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(d.tpm)
	if err != nil {
		return nil, err
	}
	info, err := public.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	if info.DataSize > maxNVSize {
		return nil, fmt.Errorf("%d bytes at %#x", info.DataSize, index)
	}
	var b []byte
	for len(b) < int(info.DataSize) {
		r, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Size:       uint16(min(maxNVChunk, int(info.DataSize)-len(b))),
			Offset:     uint16(len(b)),
		}.Execute(d.tpm)
		if err != nil {
			return nil, err
		}
		if len(r.Data.Buffer) == 0 {
			return nil, errors.New("nothing more to read")
		}
		b = append(b, r.Data.Buffer...)
	}
	cert, err := x509.ParseCertificate(trim(b))
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}

// trim cuts b to the length that the DER sequence at its beginning has.
func trim(b []byte) []byte {
	const header = 4 // a sequence of 256 to 65,535 bytes
	if len(b) < header || b[0] != 0x30 || b[1] != 0x82 {
		return b
	}
	return b[:min(len(b), header+int(binary.BigEndian.Uint16(b[2:])))]
}
