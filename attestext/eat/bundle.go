package eat

import (
	"errors"
	"fmt"
	"slices"

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

// TokenMediaType is that of an EAT in a CWT (RFC 9782), a KAT among them, and JWTMediaType
// that of one in a JWT.
const (
	TokenMediaType = "application/eat+cwt"
	JWTMediaType   = "application/eat+jwt"
)

// BundleFormat is the format of a bundle as Evidence.
var BundleFormat = attestext.EvidenceFormat{MediaType: BundleMediaType}

// Labels of a bundle.
var (
	labelKAT = cmw.TextLabel("kat")
	labelPAT = cmw.TextLabel("pat")
	// labelEpoch is not of the draft.
	labelEpoch = cmw.TextLabel("epoch")
)

// EpochMediaType is that of the epoch ID in a bundle. It is not registered.
const EpochMediaType = "application/vnd.attestedtls.epoch"

// MaxEpochSize is that of an epoch ID, in bytes.
const MaxEpochSize = 1 << 10

// A Bundle is a KAT, the platform's Evidence about its signer, and what shows when that
// was made.
type Bundle struct {
	// KAT is an encoded token, from [SignKAT] and for [VerifyKAT].
	KAT []byte
	// PAT is the platform's Evidence.
	PAT cmw.Record
	// Epoch is the epoch ID that PAT covers, nil if there is none; see [ForEpoch].
	Epoch []byte
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
	return (&Bundle{KAT: kat, PAT: pat}).Encode()
}

// Encode returns b as EncodeBundle does. An epoch ID is a third entry, which the draft
// does not have:
//
//	"epoch": [ "application/vnd.attestedtls.epoch", bytes ]
func (b *Bundle) Encode() ([]byte, error) {
	pat := b.PAT
	if err := checkPAT(&pat); err != nil {
		return nil, fmt.Errorf("encode KAT bundle: %w", err)
	}
	katRecord := &cmw.Record{Format: attestext.EvidenceFormat{MediaType: TokenMediaType}, Value: b.KAT}
	entries := []cmw.Entry{
		{Label: labelKAT, CMW: &cmw.CMW{Form: cmw.CBORRecord, Record: katRecord}},
		{Label: labelPAT, CMW: &cmw.CMW{Form: cmw.CBORRecord, Record: &pat}},
	}
	if b.Epoch != nil {
		r := &cmw.Record{Format: attestext.EvidenceFormat{MediaType: EpochMediaType}, Value: b.Epoch}
		if err := checkEpoch(r); err != nil {
			return nil, fmt.Errorf("encode KAT bundle: %w", err)
		}
		entries = append(entries, cmw.Entry{Label: labelEpoch, CMW: &cmw.CMW{Form: cmw.CBORRecord, Record: r}})
	}
	encoded, err := (&cmw.Collection{Type: BundleType, Entries: entries}).CBOR()
	if err != nil {
		return nil, fmt.Errorf("encode KAT bundle: %w", err)
	}
	return encoded, nil
}

func checkEpoch(r *cmw.Record) error {
	switch {
	case !r.Format.Equal(attestext.EvidenceFormat{MediaType: EpochMediaType}):
		return fmt.Errorf("epoch is of type %q", r.Format)
	case len(r.Value) == 0 || len(r.Value) > MaxEpochSize:
		return fmt.Errorf("epoch ID of %d bytes, want 1 to %d", len(r.Value), MaxEpochSize)
	case r.Ind != 0:
		return errors.New("epoch has an indicator")
	}
	return nil
}

// ParseBundle splits a bundle as [OpenBundle] does, and leaves out the epoch ID.
func ParseBundle(b []byte) (kat []byte, pat cmw.Record, err error) {
	bundle, err := OpenBundle(b)
	if err != nil {
		return nil, cmw.Record{}, err
	}
	return bundle.KAT, bundle.PAT, nil
}

// OpenBundle splits a bundle into the KAT, for [VerifyKAT], the platform's Evidence and
// the epoch ID. It verifies none of them, nor that one covers the other.
//
// It is strict: a CBOR collection of the type BundleType with exactly the two records,
// or the three, the KAT as application/eat+cwt or content format 263, and indicators,
// which the draft does not have, that say evidence. A wrapper that does not parse,
// or a bundle with other members, is an [attestext.ErrMalformed]; a wrapper
// of another kind is an [attestext.ErrWrongType].
func OpenBundle(b []byte) (*Bundle, error) {
	const op = "parse KAT bundle"
	w, err := cmw.Parse(b)
	if err != nil {
		return nil, err
	}
	if w.Form != cmw.CBORCollection || w.Collection.Type != BundleType {
		return nil, attestext.Errorf(attestext.ErrWrongType, op, "%v is no KAT bundle", w.Form)
	}
	fail := func(err error) (*Bundle, error) {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: op, Err: err}
	}
	k, p, e := w.Collection.Get(labelKAT), w.Collection.Get(labelPAT), w.Collection.Get(labelEpoch)
	want := 2
	if e != nil {
		want = 3
	}
	if len(w.Collection.Entries) != want || k == nil || p == nil {
		return fail(errors.New("entries are not exactly kat and pat, and perhaps epoch"))
	}
	if k.Form != cmw.CBORRecord || p.Form != cmw.CBORRecord || e != nil && e.Form != cmw.CBORRecord {
		return fail(errors.New("kat, pat or epoch is not a record"))
	}
	if !slices.ContainsFunc(TokenFormats(), k.Record.Format.Equal) {
		return fail(fmt.Errorf("kat is of type %q", k.Record.Format))
	}
	if k.Record.Ind != 0 && k.Record.Ind&cmw.Evidence == 0 {
		return fail(errors.New("kat is not evidence"))
	}
	if err := checkPAT(p.Record); err != nil {
		return fail(err)
	}
	bundle := &Bundle{KAT: k.Record.Value, PAT: *p.Record}
	if e != nil {
		if err := checkEpoch(e.Record); err != nil {
			return fail(err)
		}
		bundle.Epoch = e.Record.Value
	}
	return bundle, nil
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
