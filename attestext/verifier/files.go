package verifier

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw/signed"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/epoch"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/internal/strictjson"
)

// SetRoots sets the roots of l out of PEM. Certificates with the names of AMD's
// PKI (ARK-Milan, and SEV-Milan and the like below it) are for SEV-SNP, and
// all others for TDX. Blocks of the types that [tpm.Trust] reads are for TPMs. A TEE
// that has nothing among them is not trusted at all: its roots come out empty, and
// not as nil. Blocks PUBLIC KEY are for WrapperKeys, those that [eat.ParseTokenKey]
// reads for EATKeys, and blocks EPOCH ISSUER KEY for Epochs; these vouch for no evidence,
// and are not enough by themselves.
func (l *Local) SetRoots(data []byte) error {
	if err := l.setRoots(data); err != nil {
		return fmt.Errorf("parse trusted roots: %w", err)
	}
	return nil
}

func (l *Local) setRoots(data []byte) error {
	intel, n := x509.NewCertPool(), 0
	var amd []*x509.Certificate
	tpms := &tpm.Trust{}
	var signers []crypto.PublicKey
	var tokenKeys []eat.TokenKey
	var epochs epoch.Keys
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return err
			}
			if n++; sevsnp.IsAMD(c) {
				amd = append(amd, c)
			} else {
				intel.AddCert(c)
			}
		case tpm.PEMRoot, tpm.PEMKey:
			if err := tpms.AddPEM(block); err != nil {
				return err
			}
			n++
		case eat.PEMTokenKey:
			k, err := eat.ParseTokenKey(block)
			if err != nil {
				return err
			}
			tokenKeys = append(tokenKeys, k)
			n++
		case epoch.PEMType:
			if err := epochs.AddPEM(block); err != nil {
				return err
			}
		case "PUBLIC KEY":
			k, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return err
			}
			if !signed.Usable(k) {
				return fmt.Errorf("a %T cannot sign wrappers here: want P-256, P-384 or Ed25519", k)
			}
			signers = append(signers, k)
			n++
		}
	}
	if n == 0 {
		return errors.New("no certificate and no key that vouches for evidence")
	}
	roots, err := sevsnp.NewRoots(amd...)
	if err != nil {
		return err
	}
	l.TDXRoots, l.SNPRoots, l.TPM, l.EATKeys, l.WrapperKeys, l.Epochs = intel, roots, nil, tokenKeys, signers, nil
	if len(epochs) != 0 {
		l.Epochs = epochs
	}
	if !tpms.Empty() {
		l.TPM = tpms
	}
	return nil
}

// The members of a collateral file that are for SEV-SNP and for TPMs.
const (
	snpMember = "snp"
	tpmMember = "tpm"
)

// SetCollateral sets the collateral of l out of JSON: an object with the members
// that [tdx.ParseCollateral] reads, with a member "snp" that is an object that
// [sevsnp.ParseCollateral] reads, with a member "tpm" that is one that
// [tpm.ParseCollateral] reads, or with several of these. A TEE that is not in it has no
// collateral. Errors are of class [attestext.ErrMalformed].
func (l *Local) SetCollateral(data []byte) error {
	intel, amd, authorities, err := splitCollateral(data)
	if err != nil {
		return &attestext.Error{Class: attestext.ErrMalformed, Op: "parse collateral", Err: err}
	}
	var t *tdx.Collateral
	var s *sevsnp.Collateral
	var p *tpm.Collateral
	if authorities != nil {
		if p, err = tpm.ParseCollateral(authorities); err != nil {
			return err
		}
	}
	if amd != nil {
		if s, err = sevsnp.ParseCollateral(amd); err != nil {
			return err
		}
	}
	if intel != nil {
		if t, err = tdx.ParseCollateral(intel); err != nil {
			return err
		}
	}
	l.TDXCollateral, l.SNPCollateral, l.TPMCollateral = t, s, p
	return nil
}

// splitCollateral returns the parts of a collateral file, nil for what is not there.
func splitCollateral(data []byte) (intel, amd, authorities []byte, err error) {
	if limit := tdx.MaxCollateralSize + sevsnp.MaxCollateralSize + tpm.MaxCollateralSize; len(data) > limit {
		return nil, nil, nil, fmt.Errorf("%d bytes, at most %d are read", len(data), limit)
	}
	var m map[string]json.RawMessage
	if err := strictjson.Unmarshal(data, &m); err != nil {
		return nil, nil, nil, err
	}
	amd, authorities = m[snpMember], m[tpmMember]
	delete(m, snpMember)
	delete(m, tpmMember)
	if len(m) == 0 && (amd != nil || authorities != nil) {
		return nil, amd, authorities, nil
	}
	intel, err = json.Marshal(m)
	return intel, amd, authorities, err
}

// JoinCollateral returns a file that [Local.SetCollateral] reads. Either part may be
// nil.
func JoinCollateral(t *tdx.Collateral, s *sevsnp.Collateral) ([]byte, error) {
	m := make(map[string]json.RawMessage)
	if t != nil {
		b, err := t.Marshal()
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		if err != nil {
			return nil, err
		}
	}
	if s != nil {
		b, err := s.Marshal()
		if err != nil {
			return nil, err
		}
		m[snpMember] = bytes.TrimSpace(b)
	}
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}
