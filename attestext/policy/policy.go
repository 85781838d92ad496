// Package policy decides whether what verified evidence says is acceptable. It
// compares claims with reference values, floors and identities that the relying
// party has written down, and gives a tier of trustworthiness and a reason for
// each claim.
//
// It parses no evidence and verifies none: its inputs are results of verification
// (see [TDX], [SNP], [TPM] and [EAT]), and it imports no package that reads evidence.
package policy

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/internal/strictjson"
)

// A Verdict is a tier of trustworthiness of draft-ietf-rats-ar4si. The order is
// from best to worst.
type Verdict uint8

const (
	// Affirming: every claim that matters was compared and is as it should be.
	Affirming Verdict = iota
	// Warning: nothing is wrong with what was looked at, but something that
	// matters was not, or was allowed although it weakens.
	Warning
	// Contraindicated: a claim is not acceptable.
	Contraindicated
)

// String returns the name of the tier, as in [attestext.Appraisal].
func (v Verdict) String() string {
	switch v {
	case Affirming:
		return "affirming"
	case Warning:
		return "warning"
	case Contraindicated:
		return "contraindicated"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// A Reason is what was found about one claim.
type Reason struct {
	Claim   string // as in the policy file, for example "mrtd"
	Verdict Verdict
	Text    string
}

// String returns "claim: text (verdict)".
func (r Reason) String() string { return fmt.Sprintf("%s: %s (%v)", r.Claim, r.Text, r.Verdict) }

// A Decision is the outcome of comparing claims with a policy.
type Decision struct {
	// Verdict is the worst of the reasons'.
	Verdict Verdict
	// Reasons has one entry a claim, in a fixed order.
	Reasons []Reason
}

func (d *Decision) add(v Verdict, claim, format string, args ...any) {
	d.Verdict = max(d.Verdict, v)
	d.Reasons = append(d.Reasons, Reason{claim, v, fmt.Sprintf(format, args...)})
}

// Err returns an error of class [attestext.ErrPolicy] that wraps a [RefusedError], or
// nil where the verdict is better than Contraindicated.
func (d *Decision) Err() error {
	if d.Verdict < Contraindicated {
		return nil
	}
	return &attestext.Error{Class: attestext.ErrPolicy, Op: "appraise claims", Err: &RefusedError{d}}
}

// A Policy says what evidence is acceptable. Evidence of a kind that it has no
// section for is refused.
//
// A nil *Policy is a policy as well: it asks for genuine hardware, current and
// not under debug, and compares no measurement; its verdict is Warning and says so.
//
// A Policy must not be changed once it is in use; its methods may then be called
// concurrently.
type Policy struct {
	TDX *TDXPolicy `json:"tdx,omitempty"`
	SNP *SNPPolicy `json:"snp,omitempty"`
	TPM *TPMPolicy `json:"tpm,omitempty"`
	EAT *EATPolicy `json:"eat,omitempty"`

	// MaxQuoteAge accepts quotes that were not made for the session, up to that age,
	// where they show it: one quote then attests a key, and the key session after
	// session. Zero accepts quotes that were made for the session only.
	MaxQuoteAge Duration `json:"max_quote_age,omitempty"`

	// InsecureAllowUnknownQuoteAge accepts quotes that do not show their age.
	//
	// WARNING: a quote of last year passes, by whoever holds its key.
	InsecureAllowUnknownQuoteAge bool `json:"insecure_allow_unknown_quote_age,omitempty"`
}

// Sizes of what policies compare, in bytes.
const (
	measurementSize = 48
	bitsSize        = 8
)

// A Measurement is a SHA-384 digest; in JSON, 96 hexadecimal digits.
type Measurement [measurementSize]byte

// A BitField is TD_ATTRIBUTES or XFAM, or POLICY or PLATFORM_INFO of an SNP report, in the
// order of the bytes in the quote or report, bit 0 being the lowest one of the first
// byte; in JSON, 16 hexadecimal digits.
type BitField [bitsSize]byte

// Bits says which bits of a field must be set and which must be clear. Other bits
// are not compared.
type Bits struct {
	Set   BitField `json:"set"`
	Clear BitField `json:"clear"`
}

func unhex(dst, text []byte) error {
	if len(text) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("%d characters, want %d hexadecimal digits", len(text), hex.EncodedLen(len(dst)))
	}
	_, err := hex.Decode(dst, text)
	return err
}

func (m *Measurement) UnmarshalText(b []byte) error { return unhex(m[:], b) }
func (m Measurement) MarshalText() ([]byte, error)  { return hex.AppendEncode(nil, m[:]), nil }
func (f *BitField) UnmarshalText(b []byte) error    { return unhex(f[:], b) }
func (f BitField) MarshalText() ([]byte, error)     { return hex.AppendEncode(nil, f[:]), nil }

// MaxSize bounds a policy file, in bytes.
const MaxSize = 1 << 20

// Parse reads a policy out of JSON:
//
//	{
//	  "max_quote_age": DURATION,
//	  "insecure_allow_unknown_quote_age": BOOL,
//	  "tdx": {
//	    "mrtd": [HEX…], "rtmr0": [HEX…] … "rtmr3": [HEX…], "mrseam": [HEX…],
//	    "mrconfigid": [HEX…], "mrowner": [HEX…], "mrownerconfig": [HEX…],
//	    "events": {"rtmr0": [HEX…] … "rtmr3": [HEX…]},
//	    "td_attributes": {"set": HEX, "clear": HEX}, "xfam": {"set": HEX, "clear": HEX},
//	    "min_tee_tcb_svn": HEX,
//	    "tcb": {
//	      "allow_statuses": ["UpToDate"|"SWHardeningNeeded"|"ConfigurationNeeded"|…],
//	      "out_of_date_grace": DURATION,
//	      "allow_advisories": [TEXT…], "deny_advisories": [TEXT…]
//	    },
//	    "max_collateral_age": DURATION,
//	    "platform_instance_ids": [HEX…], "deny_platform_instance_ids": [HEX…],
//	    "allow_migration": BOOL,
//	    "insecure_allow_debug": BOOL,
//	    "insecure_skip_collateral": BOOL
//	  },
//	  "snp": {
//	    "measurement": [HEX…], "host_data": [HEX…],
//	    "id_key_digest": [HEX…], "author_key_digest": [HEX…],
//	    "family_id": [HEX…], "image_id": [HEX…],
//	    "min_guest_svn": NUMBER,
//	    "min_tcb": {"bootloader": NUMBER, "tee": NUMBER, "snp": NUMBER, "microcode": NUMBER},
//	    "max_collateral_age": DURATION,
//	    "guest_policy": {"set": HEX, "clear": HEX}, "platform_info": {"set": HEX, "clear": HEX},
//	    "max_vmpl": NUMBER,
//	    "chip_ids": [HEX…], "deny_chip_ids": [HEX…],
//	    "allow_migration_agent": BOOL,
//	    "insecure_allow_debug": BOOL,
//	    "insecure_skip_collateral": BOOL
//	  },
//	  "tpm": {
//	    "pcrs": {"sha256": {"0": [HEX…] … "23": [HEX…]}, "sha384": {…}, "sha512": {…}},
//	    "firmware_versions": [HEX…], "reset_count": NUMBER,
//	    "ek_ids": [HEX…], "deny_ek_ids": [HEX…],
//	    "insecure_skip_collateral": BOOL
//	  },
//	  "eat": {
//	    "measurements": [HEX…], "profile": [TEXT…],
//	    "oemid": [HEX|"pen:NUMBER"…], "hwmodel": [HEX…],
//	    "debug_status": ["disabled"|"disabled-since-boot"|"disabled-permanently"|"disabled-fully-and-permanently"…],
//	    "claims": {NUMBER: [HEX…]…},
//	    "max_age": DURATION,
//	    "ueids": [HEX…], "deny_ueids": [HEX…],
//	    "allow_submods": BOOL,
//	    "insecure_allow_debug": BOOL
//	  }
//	}
//
// Every member may be left out, but a policy without any section, an empty list,
// null, an unknown member, one that appears twice, and data after the object are
// refused: each is more likely a mistake than a wish.
func Parse(data []byte) (*Policy, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("parse policy: %d bytes, at most %d are read", len(data), MaxSize)
	}
	var p Policy
	if err := strictjson.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("parse policy: %w", err)
	}
	if err := checkNames(data); err != nil {
		return nil, fmt.Errorf("parse policy: %w", err)
	}
	sections := 0
	for _, section := range []struct {
		is    bool
		check func() error
	}{
		{p.TDX != nil, p.TDX.check}, {p.SNP != nil, p.SNP.check}, {p.TPM != nil, p.TPM.check}, {p.EAT != nil, p.EAT.check},
	} {
		if !section.is {
			continue
		}
		sections++
		if err := section.check(); err != nil {
			return nil, fmt.Errorf("parse policy: %w", err)
		}
	}
	if sections == 0 {
		return nil, errors.New("parse policy: no section, such as \"tdx\" or \"snp\"")
	}
	return &p, nil
}

// checkNames refuses members that are spelled in another case, or with a letter such as
// U+017F, which encoding/json takes for the fields of a policy and other readers of JSON do
// not.
func checkNames(data []byte) error {
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	var walk func(any) error
	walk = func(v any) error {
		object, _ := v.(map[string]any)
		for name, member := range object {
			if strings.ContainsFunc(name, func(r rune) bool { return unicode.IsUpper(r) || r > unicode.MaxASCII }) {
				return fmt.Errorf("unknown member %q: names are in lower case", name)
			}
			if err := walk(member); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(v)
}

// check reports what is more likely a mistake than a wish; nil has nothing wrong with it.
func (b *Bits) check(name string) error {
	if b == nil {
		return nil
	}
	if *b == (Bits{}) {
		return fmt.Errorf("%s compares no bit; leave it out", name)
	}
	for i := range b.Set {
		if b.Set[i]&b.Clear[i] != 0 {
			return fmt.Errorf("%s wants a bit both set and clear, which accepts nothing", name)
		}
	}
	return nil
}

func empty[T any](l []T) bool { return l != nil && len(l) == 0 }

type measurementList struct {
	claim   string
	allowed []Measurement
	got     Measurement
	always  bool // it is worth a warning if it is not compared
}

// revocation says whether revocation was checked, and must be unless it is skipped.
func (d *Decision) revocation(checked, skip bool) {
	const claim = "collateral"
	switch {
	case checked:
		d.add(Affirming, claim, "no certificate revoked")
	case skip:
		d.add(Warning, claim, "revocation was not checked, which the policy allows")
	default:
		d.add(Contraindicated, claim, "revocation was not checked, want it checked")
	}
}

func (d *Decision) measurement(l measurementList) {
	switch {
	case l.allowed == nil && l.always:
		d.add(Warning, l.claim, "measurement not checked: no reference values")
	case l.allowed == nil:
	case slices.Contains(l.allowed, l.got):
		d.add(Affirming, l.claim, "%s is a reference value", short(l.got[:]))
	case len(l.allowed) == 1:
		d.add(Contraindicated, l.claim, "got %s, want %s", short(l.got[:]), short(l.allowed[0][:]))
	default:
		d.add(Contraindicated, l.claim, "got %s, want one of %d reference values", short(l.got[:]), len(l.allowed))
	}
}

// has reports whether f has all bits of mask.
func (f BitField) has(mask BitField) bool {
	for i := range f {
		if f[i]&mask[i] != mask[i] {
			return false
		}
	}
	return true
}

func (d *Decision) bits(claim string, want *Bits, got BitField) {
	if want == nil {
		return
	}
	for i := range got {
		if missing, extra := want.Set[i]&^got[i], got[i]&want.Clear[i]; missing|extra != 0 {
			d.add(Contraindicated, claim, "got %x, want the bits %x set and %x clear", got, want.Set, want.Clear)
			return
		}
	}
	d.add(Affirming, claim, "%x has the bits that it must have", got)
}

// machines compares the identity of a machine, which has none if got is empty or only
// zeros, with those that are acceptable and those that are not. A list that is nil is
// not compared.
func machines[ID any](d *Decision, got []byte, is func(ID) bool, allow string, allowed []ID, deny string, denied []ID) {
	unknown := len(bytes.Trim(got, "\x00")) == 0
	if allowed != nil {
		switch {
		case unknown:
			d.add(Contraindicated, allow, "the platform has no identity or hides it, want one of %d", len(allowed))
		case slices.ContainsFunc(allowed, is):
			d.add(Affirming, allow, "%s is acceptable", short(got))
		default:
			d.add(Contraindicated, allow, "got %s, want one of %d", short(got), len(allowed))
		}
	}
	if denied != nil {
		switch {
		case unknown:
			d.add(Contraindicated, deny, "the platform has no identity or hides it, so that it may be one of %d", len(denied))
		case slices.ContainsFunc(denied, is):
			d.add(Contraindicated, deny, "%s is refused", short(got))
		default:
			d.add(Affirming, deny, "%s is none of %d", short(got), len(denied))
		}
	}
}

// shortDigits is how much of a digest a message shows.
const shortDigits = 16

func short(b []byte) string { return shorten(hex.EncodeToString(b)) }

// shorten leaves what is short enough to be compared by eye as it is.
func shorten(digits string) string {
	if len(digits) <= 2*shortDigits {
		return digits
	}
	return digits[:shortDigits] + "…"
}
