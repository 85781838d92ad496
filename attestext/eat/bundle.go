package eat

import (
	"errors"
	"fmt"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
)

// BundleType is the type of the collection that a bundle is, its __cmwc_t;
// draft-bft-rats-kat-06, section 5.1.
const BundleType = "tag:ietf.org,2024-02-29:rats/kat"

// BundleMediaType names a bundle where formats are negotiated. The draft does not
// register one; this is the media type of a CBOR wrapper with the parameter that
// RFC 9999 has for the type of a collection.
const BundleMediaType = `application/cmw+cbor; cmwc_t="` + BundleType + `"`

// TokenMediaType is that of a KAT, and of a PAT that is an EAT (RFC 9782).
const TokenMediaType = "application/eat+cwt"

// BundleFormat is the format of a bundle as Evidence.
var BundleFormat = attestext.EvidenceFormat{MediaType: BundleMediaType}

// Labels of a bundle.
var (
	labelKAT = cmw.TextLabel("kat")
	labelPAT = cmw.TextLabel("pat")
)

// isToken reports whether f is the format of an EAT in CWT, by either name.
func isToken(f attestext.EvidenceFormat) bool {
	return f.Equal(attestext.EvidenceFormat{MediaType: TokenMediaType}) ||
		f.Equal(attestext.EvidenceFormat{ContentFormat: attestext.ContentFormatEATCWT})
}

// EncodeBundle returns the collection of a KAT, from [SignKAT], and the platform's
// Evidence, which covers the KAK of the KAT:
//
//	cab = {
//	  "kat": [ "application/eat+cwt", bytes .cbor cose_sign1<kat> ]
//	  "pat": [ type, bytes ]
//	  "__cmwc_t": "tag:ietf.org,2024-02-29:rats/kat"
//	}
//
// in the core deterministic encoding; draft-bft-rats-kat-06, section 5.1. The
// draft has the PAT as an EAT; here it can also be a raw quote, under a type of its own.
func EncodeBundle(kat []byte, pat cmw.Record) ([]byte, error) {
	if err := checkPAT(&pat); err != nil {
		return nil, fmt.Errorf("encode KAT bundle: %w", err)
	}
	katRecord := &cmw.Record{Format: attestext.EvidenceFormat{MediaType: TokenMediaType}, Value: kat}
	b, err := (&cmw.Collection{
		Type: BundleType,
		Entries: []cmw.Entry{
			{Label: labelKAT, CMW: &cmw.CMW{Form: cmw.CBORRecord, Record: katRecord}},
			{Label: labelPAT, CMW: &cmw.CMW{Form: cmw.CBORRecord, Record: &pat}},
		},
	}).CBOR()
	if err != nil {
		return nil, fmt.Errorf("encode KAT bundle: %w", err)
	}
	return b, nil
}

// ParseBundle splits a bundle into the KAT, for [VerifyKAT], and the platform's
// Evidence. It verifies neither, nor that one covers the other.
//
// It is strict: a CBOR collection of the type BundleType with exactly the two
// records, the KAT as application/eat+cwt or content format 263, and indicators,
// which the draft does not have, that say evidence. A wrapper that does not parse,
// or a bundle with other members, is an [attestext.ErrMalformed]; a wrapper
// of another kind is an [attestext.ErrWrongType].
func ParseBundle(b []byte) (kat []byte, pat cmw.Record, err error) {
	const op = "parse KAT bundle"
	w, err := cmw.Parse(b)
	if err != nil {
		return nil, cmw.Record{}, err
	}
	if w.Form != cmw.CBORCollection || w.Collection.Type != BundleType {
		return nil, cmw.Record{}, attestext.Errorf(attestext.ErrWrongType, op, "%v is no KAT bundle", w.Form)
	}
	fail := func(err error) ([]byte, cmw.Record, error) {
		return nil, cmw.Record{}, &attestext.Error{Class: attestext.ErrMalformed, Op: op, Err: err}
	}
	k, p := w.Collection.Get(labelKAT), w.Collection.Get(labelPAT)
	if len(w.Collection.Entries) != 2 || k == nil || p == nil {
		return fail(errors.New("entries are not exactly kat and pat"))
	}
	if k.Form != cmw.CBORRecord || p.Form != cmw.CBORRecord {
		return fail(errors.New("kat or pat is not a record"))
	}
	if !isToken(k.Record.Format) {
		return fail(fmt.Errorf("kat is of type %q", k.Record.Format))
	}
	if k.Record.Ind != 0 && k.Record.Ind&cmw.Evidence == 0 {
		return fail(errors.New("kat is not evidence"))
	}
	if err := checkPAT(p.Record); err != nil {
		return fail(err)
	}
	return k.Record.Value, *p.Record, nil
}

// checkPAT reports whether r can be the PAT of a bundle. Its type is whatever the
// platform makes, but not another wrapper, which names none.
func checkPAT(r *cmw.Record) error {
	if r.Format.IsAny() || r.Format.Equal(BundleFormat) {
		return fmt.Errorf("pat is of type %q", r.Format)
	}
	if r.Ind != 0 && r.Ind&cmw.Evidence == 0 {
		return errors.New("pat is not evidence")
	}
	return nil
}
