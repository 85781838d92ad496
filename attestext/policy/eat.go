package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An EATPolicy says which tokens (RFC 9711) are acceptable. A list that is nil is not
// compared; of any other, one entry must equal the claim, so that an empty list accepts
// nothing and a token without the claim is refused.
type EATPolicy struct {
	// Measurements are what the claim of that name may be, as a whole. nil compares none,
	// and the verdict is then Warning.
	Measurements []MeasurementsDigest `json:"measurements,omitempty"`

	// Profile is what eat_profile may be: a URI, or the dotted form of an OID.
	Profile []string `json:"profile,omitempty"`

	// OEMID and HWModel are who may have made the device, and what it may be.
	OEMID   []OEMID   `json:"oemid,omitempty"`
	HWModel []HWModel `json:"hwmodel,omitempty"`

	// DebugStatus is what dbgstat may be, of DebugStatuses. nil accepts them all.
	DebugStatus []string `json:"debug_status,omitempty"`

	// Claims are what other claims may be, by number in decimal.
	Claims map[string][]EncodedClaim `json:"claims,omitempty"`

	// MaxAge bounds how long ago the token was issued (iat), on top of being made for the
	// session. Zero is no bound, and accepts tokens that do not say when.
	MaxAge Duration `json:"max_age,omitempty"`

	// UEIDs are the machines that are acceptable, and DenyUEIDs those that are not. Either
	// refuses a token without a ueid. Each signer that is trusted can claim any.
	UEIDs     []UEID `json:"ueids,omitempty"`
	DenyUEIDs []UEID `json:"deny_ueids,omitempty"`

	// AllowSubmods accepts tokens with submodules, about which nothing is compared.
	AllowSubmods bool `json:"allow_submods,omitempty"`

	// InsecureAllowDebug accepts tokens of platforms under debug, and tokens that do not
	// say.
	//
	// WARNING: whoever debugs a platform may have it say anything.
	InsecureAllowDebug bool `json:"insecure_allow_debug,omitempty"`
}

// DebugStatuses are the values of dbgstat that say that debugging is off, RFC 9711,
// section 4.2.9, the weakest one first.
func DebugStatuses() []string {
	return []string{"disabled", "disabled-since-boot", "disabled-permanently", "disabled-fully-and-permanently"}
}

// A MeasurementsDigest is the SHA-256 of the claim "measurements" as it is encoded in the
// token; in JSON, 64 hexadecimal digits. It covers the number of measurements, their order
// and their content formats.
type MeasurementsDigest [sha256.Size]byte

// An OEMID is who made a device: in JSON, 6 or 32 hexadecimal digits, or "pen:" and a Private
// Enterprise Number in decimal.
type OEMID string

// An HWModel is the model of a device; in JSON, 2 to 64 hexadecimal digits.
type HWModel []byte

// A UEID tells one device from another; in JSON, 14 to 66 hexadecimal digits.
type UEID []byte

// An EncodedClaim is the CBOR of a claim's value; in JSON, hexadecimal digits.
type EncodedClaim []byte

// Sizes of claims in bytes, RFC 9711, sections 4.2.1, 4.2.3 and 4.2.4.
const (
	minUEIDSize, maxUEIDSize       = 7, 33
	minHWModelSize, maxHWModelSize = 1, 32
	ieeeOEMIDSize, randomOEMIDSize = 3, 16
)

// unhexWithin decodes least to most bytes.
func unhexWithin(text []byte, least, most int) ([]byte, error) {
	b := make([]byte, hex.DecodedLen(len(text)))
	if err := unhex(b, text); err != nil {
		return nil, err
	}
	if len(b) < least || len(b) > most {
		return nil, fmt.Errorf("%d bytes, want %d to %d", len(b), least, most)
	}
	return b, nil
}

func (m *MeasurementsDigest) UnmarshalText(b []byte) error { return unhex(m[:], b) }
func (m MeasurementsDigest) MarshalText() ([]byte, error)  { return hex.AppendEncode(nil, m[:]), nil }

func (m *HWModel) UnmarshalText(b []byte) (err error) {
	*m, err = unhexWithin(b, minHWModelSize, maxHWModelSize)
	return err
}
func (m HWModel) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, m), nil }

func (u *UEID) UnmarshalText(b []byte) (err error) {
	*u, err = unhexWithin(b, minUEIDSize, maxUEIDSize)
	return err
}
func (u UEID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, u), nil }

func (c *EncodedClaim) UnmarshalText(b []byte) (err error) {
	*c, err = unhexWithin(b, 1, MaxSize)
	return err
}
func (c EncodedClaim) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, c), nil }

func (o *OEMID) UnmarshalText(b []byte) error {
	if err := OEMID(b).check(); err != nil {
		return err
	}
	*o = OEMID(strings.ToLower(string(b)))
	return nil
}
func (o OEMID) MarshalText() ([]byte, error) { return []byte(o), nil }

func (o OEMID) check() error {
	if number, ok := strings.CutPrefix(string(o), "pen:"); ok {
		if n, err := strconv.ParseUint(number, 10, 63); err != nil || strconv.FormatUint(n, 10) != number {
			return fmt.Errorf("OEM ID %q, want a number behind pen:", string(o))
		}
		return nil
	}
	if b, err := hex.DecodeString(string(o)); err != nil || len(b) != ieeeOEMIDSize && len(b) != randomOEMIDSize {
		return fmt.Errorf("OEM ID %q, want %d or %d bytes in hexadecimal, or a number behind pen:", string(o), ieeeOEMIDSize, randomOEMIDSize)
	}
	return nil
}

// Identity returns what tells one device from another, nil where that is zero behind the
// byte that says of which kind it is.
func (u UEID) Identity() []byte {
	if len(u) == 0 || len(bytes.Trim(u[1:], "\x00")) == 0 {
		return nil
	}
	return u
}

// check reports what is more likely a mistake than a wish.
func (e *EATPolicy) check() error {
	for _, l := range []struct {
		claim string
		empty bool
	}{
		{"measurements", empty(e.Measurements)}, {"profile", empty(e.Profile)}, {"oemid", empty(e.OEMID)},
		{"hwmodel", empty(e.HWModel)}, {"debug_status", empty(e.DebugStatus)}, {"claims", e.Claims != nil && len(e.Claims) == 0},
		{"ueids", empty(e.UEIDs)}, {"deny_ueids", empty(e.DenyUEIDs)},
	} {
		if l.empty {
			return fmt.Errorf("eat: %s is empty; leave it out not to compare", l.claim)
		}
	}
	if slices.ContainsFunc(slices.Concat(e.UEIDs, e.DenyUEIDs), func(u UEID) bool { return u.Identity() == nil }) {
		return errors.New("eat: a UEID of zeros stands for no identity, which no list accepts")
	}
	if slices.Contains(e.Profile, "") {
		return errors.New("eat: an empty profile, which no token has")
	}
	for _, status := range e.DebugStatus {
		if !slices.Contains(DebugStatuses(), status) {
			return fmt.Errorf("eat: debug_status %q is none of %s", status, strings.Join(DebugStatuses(), ", "))
		}
	}
	if e.DebugStatus != nil && e.InsecureAllowDebug {
		return errors.New("eat: insecure_allow_debug undoes debug_status")
	}
	for number, allowed := range e.Claims {
		if !isClaim(number) {
			return fmt.Errorf("eat: %q is not the number of a claim that can be compared so", number)
		}
		if len(allowed) == 0 {
			return fmt.Errorf("eat: claim %s is empty, which accepts nothing; leave it out not to compare", number)
		}
	}
	return nil
}

// readClaims are the numbers of claims that have names here, or that verification is about.
var readClaims = []string{"3", "4", "5", "6", "8", "10", "256", "258", "259", "263", "265", "266", "273"}

// isClaim reports whether name is the number of a claim as policies have it.
func isClaim(name string) bool {
	n, err := strconv.ParseInt(name, 10, 64)
	return err == nil && strconv.FormatInt(n, 10) == name && !slices.Contains(readClaims, name)
}

// EAT is what a policy reads of a token that has been verified. The result of verification
// in package eat implements it; a token that was only parsed does not. What the token does
// not say is nil, empty or zero.
type EAT interface {
	Profile() string
	// DebugStatus is "enabled" or one of DebugStatuses.
	DebugStatus() string
	UEID() []byte
	// OEMID is in the form of an OEMID of a policy.
	OEMID() string
	HardwareModel() []byte
	// Measurements is the claim as it is encoded.
	Measurements() []byte
	IssuedAt() time.Time
	// Submods are the names of submodules.
	Submods() []string
	// Claim returns another claim as it is encoded.
	Claim(number int64) []byte
}

// EvaluateEAT compares the claims of c with p, at the time now. The Decision is never nil;
// where its verdict is Contraindicated, the error is that of [Decision.Err].
//
// The verdict is Affirming only where the measurements were compared, debugging is off and
// there are no submodules.
func (p *Policy) EvaluateEAT(c EAT, now time.Time) (*Decision, error) {
	d := &Decision{}
	e := &EATPolicy{}
	if p != nil {
		if p.EAT == nil {
			d.add(Contraindicated, "eat", "evidence is an EAT, and the policy has no section for EATs")
			return d, d.Err()
		}
		e = p.EAT
	}
	d.debugStatus(e, c.DebugStatus())
	if e.Measurements == nil {
		d.add(Warning, "measurements", "measurement not checked: no reference values")
	} else {
		digest := MeasurementsDigest(sha256.Sum256(c.Measurements()))
		d.oneOf("measurements", short(digest[:]), len(e.Measurements), len(c.Measurements()) != 0, slices.Contains(e.Measurements, digest))
	}
	if e.Profile != nil {
		d.oneOf("profile", fmt.Sprintf("%q", c.Profile()), len(e.Profile), c.Profile() != "", slices.Contains(e.Profile, c.Profile()))
	}
	if e.OEMID != nil {
		d.oneOf("oemid", c.OEMID(), len(e.OEMID), c.OEMID() != "", slices.Contains(e.OEMID, OEMID(c.OEMID())))
	}
	if e.HWModel != nil {
		got := c.HardwareModel()
		d.oneOf("hwmodel", short(got), len(e.HWModel), len(got) != 0, slices.ContainsFunc(e.HWModel, func(m HWModel) bool { return bytes.Equal(m, got) }))
	}
	for _, number := range slices.Sorted(maps.Keys(e.Claims)) {
		d.claim(number, e.Claims[number], c)
	}
	d.issued(e.MaxAge, c.IssuedAt(), now)
	got := UEID(c.UEID()).Identity()
	machines(d, got, func(u UEID) bool { return bytes.Equal(u, got) }, "ueids", e.UEIDs, "deny_ueids", e.DenyUEIDs)
	if names := c.Submods(); len(names) != 0 {
		v, text := Contraindicated, "want a token without any"
		if e.AllowSubmods {
			v, text = Warning, "which the policy allows"
		}
		d.add(v, "submods", "%d submodules that nobody has appraised (%s), %s", len(names), strings.Join(names, ", "), text)
	}
	return d, d.Err()
}

func (d *Decision) debugStatus(e *EATPolicy, got string) {
	const claim = "debug"
	allowed := e.DebugStatus
	if allowed == nil {
		allowed = DebugStatuses()
	}
	shown := got
	if got == "" {
		shown = "a token that does not say"
	}
	switch {
	case slices.Contains(allowed, got) && slices.Contains(DebugStatuses(), got):
		d.add(Affirming, claim, "%s", got)
	case e.InsecureAllowDebug:
		d.add(Warning, claim, "%s, which the policy allows", shown)
	default:
		d.add(Contraindicated, claim, "got %s, want %s", shown, strings.Join(allowed, " or "))
	}
}

// oneOf adds what comes of comparing a claim with a list of want values.
func (d *Decision) oneOf(claim, got string, want int, said, found bool) {
	switch {
	case !said:
		d.add(Contraindicated, claim, "the token does not say, want one of %d", want)
	case found:
		d.add(Affirming, claim, "%s is acceptable", got)
	default:
		d.add(Contraindicated, claim, "got %s, want one of %d", got, want)
	}
}

func (d *Decision) claim(number string, allowed []EncodedClaim, c EAT) {
	name := "claims " + number
	if !isClaim(number) {
		d.add(Contraindicated, name, "the policy has %q, which is not the number of a claim that can be compared so", number)
		return
	}
	n, _ := strconv.ParseInt(number, 10, 64)
	got := c.Claim(n)
	d.oneOf(name, short(got), len(allowed), len(got) != 0, slices.ContainsFunc(allowed, func(a EncodedClaim) bool { return bytes.Equal(a, got) }))
}

func (d *Decision) issued(most Duration, at, now time.Time) {
	const claim = "max_age"
	switch age := now.Sub(at); {
	case most == 0:
	case at.IsZero():
		d.add(Contraindicated, claim, "the token does not say when it was issued, want %v ago at most", most)
	case age > time.Duration(most):
		d.add(Contraindicated, claim, "token was issued %v ago, want %v at most", age.Round(time.Second), most)
	default:
		d.add(Affirming, claim, "issued at %v", at.UTC().Format(time.RFC3339))
	}
}
