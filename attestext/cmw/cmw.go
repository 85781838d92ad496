// Package cmw reads and writes the Conceptual Message Wrapper of RFC 9999: the
// envelope that says what the Evidence inside it is.
//
// Start with [Parse] for what a peer sent, and with [Record] to wrap Evidence. A
// wrapper protects nothing: whoever carries it can change it, and the bytes that
// it holds must be protected themselves.
package cmw

import (
	"cmp"
	"errors"
	"fmt"
	"mime"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/strict"
)

// Bounds on a wrapper. RFC 9999, section 3.3, lets an implementation bound the nesting.
const (
	// MaxSize is that of an encoded wrapper, in bytes. It is far above any
	// Evidence in use and below what a handshake message can carry.
	MaxSize = 1 << 20
	// MaxDepth is how many collections may lie within each other, the outermost included.
	MaxDepth = 4
	// MaxEntries is how many entries one collection may have.
	MaxEntries = strict.MaxItems - 1 // leaves room for the type
)

// typeLabel is the label that is reserved for the type of a collection, RFC 9999, section 3.3.
const typeLabel = "__cmwc_t"

// An Indicator is the set of conceptual messages that a record holds: the ind
// bitmap, RFC 9999, section 3.1.1. Zero means that the record has none; the value
// zero itself is not legal on the wire.
type Indicator uint32

// The registered bits. Records with others are refused.
const (
	ReferenceValues    Indicator = 1 << 0
	Endorsements       Indicator = 1 << 1
	Evidence           Indicator = 1 << 2
	AttestationResults Indicator = 1 << 3
	AppraisalPolicy    Indicator = 1 << 4

	allIndicators = ReferenceValues | Endorsements | Evidence | AttestationResults | AppraisalPolicy
)

// String returns, for example, "evidence" or "reference-values|endorsements".
func (i Indicator) String() string {
	if i == 0 {
		return "none"
	}
	var s []string
	for bit, name := range []string{"reference-values", "endorsements", "evidence", "attestation-results", "appraisal-policy"} {
		if i&(1<<bit) != 0 {
			s = append(s, name)
		}
	}
	if rest := i &^ allIndicators; rest != 0 {
		s = append(s, fmt.Sprintf("%#x", uint32(rest)))
	}
	return strings.Join(s, "|")
}

// A Form is one of the encodings of a wrapper.
type Form uint8

const (
	CBORRecord     Form = iota + 1 // [type, value, ?ind], RFC 9999, section 3.1
	CBORTag                        // #6.TN(cf)(bstr), RFC 9999, section 3.2
	CBORCollection                 // {+ label => wrapper}, RFC 9999, section 3.3
	JSONRecord                     // section 3.1
	JSONCollection                 // section 3.3
)

// String returns, for example, "CBOR record".
func (f Form) String() string {
	switch f {
	case CBORRecord:
		return "CBOR record"
	case CBORTag:
		return "CBOR tag"
	case CBORCollection:
		return "CBOR collection"
	case JSONRecord:
		return "JSON record"
	case JSONCollection:
		return "JSON collection"
	}
	return fmt.Sprintf("form(%d)", uint8(f))
}

// A CMW is a wrapper: a record or a collection.
type CMW struct {
	// Form is how the wrapper was encoded, or is to be. The entries of a
	// collection are in CBOR if it is, and in JSON if it is.
	Form Form
	// Record is set for CBORRecord, CBORTag and JSONRecord, and nil otherwise.
	Record *Record
	// Collection is set for CBORCollection and JSONCollection, and nil otherwise.
	Collection *Collection
}

// A Record is one conceptual message with its type.
type Record struct {
	// Format is the media type or the content format of Value. A JSON record
	// has a media type; a CBOR tag has a content format of at most [MaxTagContentFormat].
	Format attestext.EvidenceFormat
	// Value is the message, at least one byte.
	Value []byte
	// Ind says which conceptual messages Value holds; zero if the record does
	// not say. A CBOR tag does not.
	Ind Indicator
}

// A Collection is a set of wrappers, each under a label of its own.
type Collection struct {
	// Type is the __cmwc_t: an absolute URI or an OID in dotted decimals, or
	// empty if the collection has none.
	Type string
	// Entries has 1 to MaxEntries elements. Their order means nothing on the
	// wire. Parse gives them in that of the deterministic encoding: integers
	// from zero up, integers from -1 down, text by length and then by bytes.
	Entries []Entry
}

// An Entry is a wrapper in a collection.
type Entry struct {
	Label Label
	CMW   *CMW
}

// A Label names an entry: text, or an integer, which CBOR alone can carry. Labels
// are compared with ==.
type Label struct {
	// Text is the label if IsInt is false. "__cmwc_t" is reserved.
	Text string
	// Int is the label if IsInt is true. Integers beyond int64 are refused.
	Int   int64
	IsInt bool
}

// TextLabel returns the label s.
func TextLabel(s string) Label { return Label{Text: s} }

// IntLabel returns the label n.
func IntLabel(n int64) Label { return Label{Int: n, IsInt: true} }

// String returns the text in quotes, or the number.
func (l Label) String() string {
	if l.IsInt {
		return fmt.Sprint(l.Int)
	}
	return fmt.Sprintf("%q", l.Text)
}

// compareLabels orders labels as their deterministic encodings are, RFC 8949,
// section 4.2.1.
func compareLabels(a, b Label) int {
	// The major type comes first: 0 for integers from zero, 1 for negative ones, 3 for text.
	major := func(l Label) int {
		switch {
		case !l.IsInt:
			return 3
		case l.Int < 0:
			return 1
		}
		return 0
	}
	if c := cmp.Compare(major(a), major(b)); c != 0 {
		return c
	}
	switch major(a) {
	case 0:
		return cmp.Compare(a.Int, b.Int)
	case 1:
		return cmp.Compare(b.Int, a.Int)
	}
	return cmp.Or(cmp.Compare(len(a.Text), len(b.Text)), strings.Compare(a.Text, b.Text))
}

// Get returns the entry under label, or nil if there is none.
func (c *Collection) Get(label Label) *CMW {
	for _, e := range c.Entries {
		if e.Label == label {
			return e.CMW
		}
	}
	return nil
}

// Evidence returns the format and the bytes of the one piece of Evidence in c;
// see [CMW.Single].
func (c *CMW) Evidence() (attestext.EvidenceFormat, []byte, error) {
	r, err := c.Single(Evidence)
	if err != nil {
		return attestext.EvidenceFormat{}, nil, err
	}
	return r.Format, r.Value, nil
}

// Single returns the one record in c that holds the conceptual message want: c's
// own, or the only such record of a collection. A record that has an indicator
// must include want in it; one that has none could hold anything and counts.
//
// It fails with [attestext.ErrWrongType] if there is no such record or more than
// one; if a collection has a type, for then its entries mean what that type says
// and must be read by whoever knows it; and if the record holds another wrapper,
// which says nothing about what the Evidence is.
func (c *CMW) Single(want Indicator) (*Record, error) {
	const op = "unwrap CMW"
	found, err := c.holding(want, nil)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrWrongType, Op: op, Err: err}
	}
	if len(found) != 1 {
		return nil, attestext.Errorf(attestext.ErrWrongType, op, "%v has %d records of %v, want one", c.Form, len(found), want)
	}
	if cose, jws := found[0].Format.IsSignedAny(); cose || jws || found[0].Format.IsAny() {
		return nil, attestext.Errorf(attestext.ErrWrongType, op, "record holds another wrapper")
	}
	return found[0], nil
}

// holding appends to found the records below c that may hold want.
func (c *CMW) holding(want Indicator, found []*Record) ([]*Record, error) {
	if c.Record != nil {
		if c.Record.Ind == 0 || c.Record.Ind&want != 0 {
			found = append(found, c.Record)
		}
		return found, nil
	}
	if c.Collection == nil {
		return nil, errors.New("empty wrapper")
	}
	if c.Collection.Type != "" {
		return nil, fmt.Errorf("collection has the type %q", c.Collection.Type)
	}
	var err error
	for _, e := range c.Collection.Entries {
		if found, err = e.CMW.holding(want, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// check reports whether r can be encoded as form, or was rightly decoded from it.
func (r *Record) check(form Form) error {
	f := r.Format
	if f.MediaType != "" {
		if err := checkMediaType(f.MediaType); err != nil {
			return err
		}
	}
	switch {
	case form == JSONRecord && f.MediaType == "":
		return errors.New("JSON record without a media type")
	case form == CBORTag && f.MediaType != "":
		return errors.New("CBOR tag with a media type in place of a content format")
	case form == CBORTag && f.ContentFormat > MaxTagContentFormat:
		return fmt.Errorf("no CBOR tag stands for %v", f)
	case form == CBORTag && r.Ind != 0:
		return errors.New("CBOR tag with an indicator")
	case r.Ind&^allIndicators != 0:
		return fmt.Errorf("unknown indicator bits in %#x", uint32(r.Ind))
	case len(r.Value) == 0:
		// The JSON form says so (base64url-string), and an empty message is
		// no Evidence of anything in the others either.
		return errors.New("record with an empty value")
	}
	return nil
}

// checkMediaType reports whether s is a media type with its parameters, RFC 6838.
func checkMediaType(s string) error {
	t, _, err := mime.ParseMediaType(s)
	if err != nil || !strings.Contains(t, "/") {
		return errors.New("record type is not a media type")
	}
	return nil
}

// check reports whether c can be encoded at the given depth, 1 being the
// outermost, or was rightly decoded from there. Entries are not looked into.
func (c *Collection) check(form Form, depth int) error {
	if depth > MaxDepth {
		return fmt.Errorf("collections nest deeper than %d levels", MaxDepth)
	}
	if n := len(c.Entries); n < 1 || n > MaxEntries {
		return fmt.Errorf("collection with %d entries, want 1 to %d", n, MaxEntries)
	}
	if c.Type != "" {
		if err := checkCollectionType(c.Type); err != nil {
			return err
		}
	}
	seen := make(map[Label]bool)
	for _, e := range c.Entries {
		switch {
		case seen[e.Label]:
			return fmt.Errorf("collection with two entries %v", e.Label)
		case e.Label.IsInt && (form == JSONCollection || e.Label.Text != ""):
			return fmt.Errorf("label %v cannot be encoded", e.Label)
		case !e.Label.IsInt && (e.Label.Text == typeLabel || e.Label.Int != 0 || !utf8.ValidString(e.Label.Text)):
			return fmt.Errorf("label %v is reserved or cannot be encoded", e.Label)
		case e.CMW == nil:
			return fmt.Errorf("entry %v is empty", e.Label)
		case e.CMW.Form.json() != form.json():
			return fmt.Errorf("entry %v is a %v in a %v", e.Label, e.CMW.Form, form)
		}
		seen[e.Label] = true
	}
	return nil
}

// json reports whether f is one of the JSON forms.
func (f Form) json() bool { return f == JSONRecord || f == JSONCollection }

// oid is the "oid" production of the CDDL of RFC 9999, anchored.
var oid = regexp.MustCompile(`^[0-2](\.(0|[1-9][0-9]*))*$`)

// checkCollectionType reports whether s can be a __cmwc_t: an OID, or a URI in
// the absolute form, which has a scheme and no fragment (RFC 3986, section 4.3).
func checkCollectionType(s string) error {
	for _, r := range s {
		if r <= ' ' || r >= 0x7f {
			return errors.New("collection type is neither a URI nor an OID")
		}
	}
	if oid.MatchString(s) {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || !u.IsAbs() || strings.Contains(s, "#") {
		return errors.New("collection type is neither an absolute URI nor an OID")
	}
	return nil
}

// sorted returns the entries in the order of the deterministic encoding.
func (c *Collection) sorted() []Entry {
	s := slices.Clone(c.Entries)
	slices.SortFunc(s, func(a, b Entry) int { return compareLabels(a.Label, b.Label) })
	return s
}
