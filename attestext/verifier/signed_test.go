package verifier_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw/signed"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/attestedtls/atls/attestext/verifier"
)

var (
	wrapperKey = key("signer of wrappers")

	formatCOSE = attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatCMWCOSE}
	formatJWS  = attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatCMWJWS}
)

func localSigned(t testing.TB) *verifier.Local {
	l := local(t)
	l.WrapperKeys = []crypto.PublicKey{wrapperKey.Public()}
	return l
}

func TestSignedWrapperIsAcceptedFromThoseWhoAreTrusted(t *testing.T) {
	inner := softtee.NewTDX(nil).Attester()
	a := signed.NewAttester(inner, wrapperKey, nil)
	id := sha256.Sum256(spki(wrapperKey))
	for _, kind := range kinds {
		for _, b := range bindings {
			for _, f := range append(a.Formats(kind), formatAny) {
				c := challenge(kind, b)
				ev := attest(t, a, f, c)
				r, err := appraise(localSigned(t), ev, expected(c))
				if err != nil {
					t.Fatalf("%v %v %v: %v", kind, b, f, err)
				}
				if r.Verdict() != "affirming" || r.Claims()["wrapper_signed_by"] != hex.EncodeToString(id[:]) {
					t.Errorf("verdict %q, claims %v", r.Verdict(), r.Claims())
				}
				_, err = appraise(local(t), ev, expected(c))
				wantClass(t, err, attestext.ErrSignature, "nobody's key is trusted")
				other := local(t)
				other.WrapperKeys = []crypto.PublicKey{otherTIK.Public()}
				_, err = appraise(other, ev, expected(c))
				wantClass(t, err, attestext.ErrSignature, "no key that is trusted")
			}
		}
	}
	// The signature stands for nothing that is inside.
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := attest(t, a, tsm.FormatCBOR, c)
	stale := *c
	stale.Binder = bytes.Repeat([]byte{1}, 64)
	_, err := appraise(localSigned(t), ev, &stale)
	wantClass(t, err, attestext.ErrBinding, "another session")
	l := localSigned(t)
	l.TDXRoots = x509.NewCertPool()
	_, err = appraise(l, ev, c)
	wantClass(t, err, attestext.ErrUnavailable, "")
	// What is not signed is accepted as ever, but not where a signed wrapper was selected.
	if r, err := appraise(localSigned(t), attest(t, inner, tsm.FormatCBOR, c), c); err != nil || r.Claims()["wrapper_signed_by"] != nil {
		t.Errorf("unsigned: %v", err)
	}
	unsigned := attest(t, inner, tsm.FormatCBOR, c)
	unsigned.Type.Format = formatCOSE
	_, err = appraise(localSigned(t), unsigned, c)
	wantClass(t, err, attestext.ErrWrongType, "not signed")
	other := *ev
	other.Type.Format = formatJWS
	_, err = appraise(localSigned(t), &other, c)
	wantClass(t, err, attestext.ErrWrongType, "is a COSE_Sign1")
	other.Type.Format = tsm.FormatJSON
	_, err = appraise(localSigned(t), &other, c)
	wantClass(t, err, attestext.ErrWrongType, "selected was")
	// Nor does a second signature around it count.
	if _, err := signed.Sign(ev.CMW, wrapperKey, nil); err == nil {
		t.Error("a signed wrapper was signed")
	}
}

func TestSignedWrappersAreAskedForWhereSomeAreTrusted(t *testing.T) {
	for _, kind := range kinds {
		for _, f := range []attestext.EvidenceFormat{formatCOSE, formatJWS} {
			if slices.Contains(local(t).Formats(kind), f) || !slices.Contains(localSigned(t).Formats(kind), f) {
				t.Errorf("%v, %v", kind, f)
			}
		}
	}
}

func TestHandshakeCarriesSignedWrappers(t *testing.T) {
	for _, kind := range kinds {
		a := signed.NewAttester(softtee.NewTDX(nil).Attester(), wrapperKey, nil)
		d := &direction{attestext.RoleServer, kind, attestext.BindingHardened, a, localSigned(t)}
		c := attested(t, d)
		c.checkAccepted(t, d)
		all := localSigned(t) // all that can be offered has to fit
		all.TPM = &tpm.Trust{Keys: []tpm.EnrolledKey{{}}}
		d.verifier = all
		attested(t, d).checkAccepted(t, d)
		d.verifier = local(t)
		c = attested(t, d)
		wantClass(t, c.clientErr, attestext.ErrSignature, "nobody's key is trusted")
	}
}

func TestRootsFileHasKeysOfWrappers(t *testing.T) {
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki(wrapperKey)})
	l := local(t)
	if err := l.SetRoots(slices.Concat(softtee.RootsPEM(), block)); err != nil {
		t.Fatal(err)
	}
	c := challenge(attestext.CertAttestation, attestext.BindingHardened)
	ev := attest(t, signed.NewAttester(softtee.NewTDX(nil).Attester(), wrapperKey, nil), tsm.FormatCBOR, c)
	if _, err := appraise(l, ev, c); err != nil {
		t.Error(err)
	}
	// Who names a signer of wrappers has not said whose TEEs to trust.
	if err := l.SetRoots(block); err != nil {
		t.Fatal(err)
	}
	_, err := appraise(l, ev, c)
	wantClass(t, err, attestext.ErrUnavailable, "")
	for _, bad := range [][]byte{[]byte("x"), block[:0]} {
		if err := l.SetRoots(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: bad})); err == nil {
			t.Errorf("a key of %d bytes was accepted", len(bad))
		}
	}
}
