package eat

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/strict"
)

// Claims of an EAT that are read here beside eat_nonce and cnf: RFC 8392, section 3.1,
// and RFC 9711, section 10.3.
const (
	claimAud          int64 = 3
	claimExp          int64 = 4
	claimNbf          int64 = 5
	claimIat          int64 = 6
	claimUEID         int64 = 256
	claimOEMID        int64 = 258
	claimHWModel      int64 = 259
	claimDebugStatus  int64 = 263
	claimProfile      int64 = 265
	claimSubmods      int64 = 266
	claimMeasurements int64 = 273
)

// Bounds on a token.
const (
	// MaxTokenSize is that of an encoded token, in bytes.
	MaxTokenSize = 1 << 16
	// MaxSubmodDepth is how many submods may lie within each other, and MaxSubmods how
	// many submodules there may be in all.
	MaxSubmodDepth = 3
	MaxSubmods     = 64

	maxSubmodName  = 64 // bytes; names come again before those of what is within
	maxProfileSize = 255
	maxTime        = 253402300799 // the end of the year 9999
)

// A DebugStatus is what dbgstat says, RFC 9711, section 4.2.9. The zero value is that
// of a token that says nothing.
type DebugStatus uint8

// The values are those of the claim, plus one.
const (
	DebugUnsaid DebugStatus = iota
	DebugEnabled
	DebugDisabled
	DebugDisabledSinceBoot
	DebugDisabledPermanently
	DebugDisabledFullyAndPermanently
)

var debugNames = []string{"", "enabled", "disabled", "disabled-since-boot", "disabled-permanently", "disabled-fully-and-permanently"}

// String returns the name that the RFC has for JSON, or "" for DebugUnsaid.
func (d DebugStatus) String() string {
	if int(d) < len(debugNames) {
		return debugNames[d]
	}
	return fmt.Sprintf("debug_status(%d)", uint8(d))
}

// A Claim is one that is not read here.
type Claim struct {
	// Label is an int64 or a string.
	Label any
	// Value is the encoded item.
	Value []byte
}

// String returns the number of the label, or its text in quotes.
func (c Claim) String() string {
	if n, ok := c.Label.(int64); ok {
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%q", c.Label)
}

// A Token is an EAT (RFC 9711) as Evidence by itself: what a platform says about itself
// under a key of its own. What [ParseToken] returns is what it claims; [VerifyToken] says
// who signed it.
type Token struct {
	// Nonce is eat_nonce, 8 to 64 bytes.
	Nonce []byte
	// Confirmation is the DER SubjectPublicKeyInfo in cnf, nil if the token has none.
	Confirmation []byte
	// UEID is the device, 7 to 33 bytes, and HWModel its model, 1 to 32; nil if there
	// is none. UEID is opaque.
	UEID, HWModel []byte
	// OEMID is who made it: 6 or 32 hexadecimal digits, or "pen:" and the Private
	// Enterprise Number; empty if there is none.
	OEMID string
	// DebugStatus is dbgstat.
	DebugStatus DebugStatus
	// Profile is eat_profile: a URI, or the dotted form of an OID; empty if there is none.
	Profile string
	// Measurements is the claim of that name in CBOR, nil if there is none.
	Measurements []byte
	// IssuedAt, NotBefore and Expires are iat, nbf and exp, in whole seconds; zero if
	// there is none.
	IssuedAt, NotBefore, Expires time.Time
	// Submods is the encoded claim of that name, nil if there is none. Nothing but the
	// names in it is read; see SubmodNames.
	Submods []byte
	// JSON says that the token is a JWT. Submods and the values in Other are then JSON, and
	// the labels in Other names, but for an audience (3). The rest is the same in both
	// forms, Measurements included: those of a JWT are here as a CWT has them, in the core
	// deterministic encoding.
	JSON bool
	// Other are the claims that are not read here, by label: numbers first.
	Other []Claim

	// KeyID is what the signer calls its key, nil if it does not say, and Algorithm the
	// COSE number of how it signed, be it a JWT.
	KeyID     []byte
	Algorithm int64

	submodNames []string
	raw         []byte
}

// SubmodNames returns the names of the submodules of a token that was parsed, each in
// quotes, those within another behind the name of that one and a slash; nil if there are
// none. The caller must not change it.
func (t *Token) SubmodNames() []string { return t.submodNames }

// TokenFormats are those of an EAT in a CWT: by media type, and by content format.
func TokenFormats() []attestext.EvidenceFormat {
	return []attestext.EvidenceFormat{{MediaType: TokenMediaType}, {ContentFormat: attestext.ContentFormatEATCWT}}
}

// JWTFormats are those of an EAT in a JWT: by media type, and by content format. An
// Attestation Result may be of them too, for it is an EAT.
func JWTFormats() []attestext.EvidenceFormat {
	return []attestext.EvidenceFormat{{MediaType: JWTMediaType}, {ContentFormat: attestext.ContentFormatEATJWT}}
}

// IsToken reports whether f is one of TokenFormats or of JWTFormats.
func IsToken(f attestext.EvidenceFormat) bool {
	return slices.ContainsFunc(slices.Concat(TokenFormats(), JWTFormats()), f.Equal)
}

// Format returns the media type of t.
func (t *Token) Format() attestext.EvidenceFormat {
	if t.JSON {
		return JWTFormats()[0]
	}
	return TokenFormats()[0]
}

const opParseToken = "parse EAT"

// ParseTokenAs is ParseToken for a token that came as f, which it has to be.
func ParseTokenAs(f attestext.EvidenceFormat, b []byte) (*Token, error) {
	t, err := ParseToken(b)
	if err != nil {
		return nil, err
	}
	formats := TokenFormats()
	if t.JSON {
		formats = JWTFormats()
	}
	if !slices.ContainsFunc(formats, f.Equal) {
		return nil, attestext.Errorf(attestext.ErrMalformed, opParseToken, "%v came as %v", t.Format(), f)
	}
	return t, nil
}

// ParseToken decodes an EAT: a CWT, which is a COSE_Sign1 without tags, with its own, or
// with that and the one of a CWT (RFC 8392, section 6), or a JWT, which is a JWS in the
// compact serialization (RFC 7519). It verifies nothing.
//
// It is strict: definite lengths, no claim twice, no other header parameters than
// [VerifyKAT] takes or, in a JWT, than alg, kid and the right typ, one eat_nonce, a cnf
// that is a public key, times in whole seconds (RFC 9711, section 4.3.1, allows no others
// in iat), nothing behind. A claim that is not read here is kept in Other. Errors are of
// class [attestext.ErrMalformed]. The result shares no memory with b.
func ParseToken(b []byte) (*Token, error) {
	t, _, err := parseToken(b)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: opParseToken, Err: err}
	}
	return t, nil
}

// cwtTag is the head of CBOR tag 61, CWT, around a COSE_Sign1 in its own.
var cwtTag = []byte{0xd8, 61, sign1Tag}

func parseToken(b []byte) (*Token, *message, error) {
	if len(b) > MaxTokenSize {
		return nil, nil, fmt.Errorf("token of %d bytes, want at most %d", len(b), MaxTokenSize)
	}
	raw := bytes.Clone(b)
	if isJWT(b) {
		return parseJWT(raw)
	}
	if bytes.HasPrefix(b, cwtTag) {
		b = b[len(cwtTag):]
	} else if len(b) > 0 && b[0] == sign1Tag {
		b = b[1:]
	}
	m, err := parseSign1(b)
	if err != nil {
		return nil, nil, err
	}
	t := &Token{KeyID: m.kid, Algorithm: m.alg, raw: raw}
	claims, err := strict.Map(m.msg.Payload)
	if err != nil {
		return nil, nil, err
	}
	if err := t.parseClaims(claims); err != nil {
		return nil, nil, err
	}
	return t, m, nil
}

// parseClaims reads claims as a CWT has them.
func (t *Token) parseClaims(m map[any]strict.Raw) error {
	if m[claimNonce] == nil {
		return errors.New("no eat_nonce")
	}
	for label, raw := range m {
		var err error
		switch label {
		case claimNonce:
			if t.Nonce, err = strict.Bytes(raw); err == nil {
				err = checkChallenge(t.Nonce)
			}
		case claimCnf:
			t.Confirmation, err = parseCnf(raw)
		case claimUEID:
			t.UEID, err = bytesWithin(raw, 7, 33)
		case claimHWModel:
			t.HWModel, err = bytesWithin(raw, 1, 32)
		case claimOEMID:
			t.OEMID, err = parseOEMID(raw)
		case claimDebugStatus:
			var n uint64
			if n, err = strict.Uint(raw); err == nil && n >= uint64(DebugDisabledFullyAndPermanently) {
				err = fmt.Errorf("no debug status has the value %d", n)
			}
			t.DebugStatus = DebugStatus(n) + 1
		case claimProfile:
			t.Profile, err = parseProfile(raw)
		case claimMeasurements:
			t.Measurements, err = bytes.Clone(raw), checkMeasurements(raw)
		case claimIat:
			t.IssuedAt, err = parseTime(raw)
		case claimNbf:
			t.NotBefore, err = parseTime(raw)
		case claimExp:
			t.Expires, err = parseTime(raw)
		case claimSubmods:
			t.Submods = bytes.Clone(raw)
			t.submodNames, err = submodNames(raw, "", MaxSubmodDepth)
		default:
			t.Other = append(t.Other, Claim{label, bytes.Clone(raw)})
		}
		if err != nil {
			return fmt.Errorf("claim %v: %w", Claim{Label: label}, err)
		}
	}
	slices.SortFunc(t.Other, compareClaims)
	return nil
}

func compareClaims(a, b Claim) int {
	an, aIsInt := a.Label.(int64)
	bn, bIsInt := b.Label.(int64)
	switch {
	case aIsInt && bIsInt:
		return cmp.Compare(an, bn)
	case aIsInt:
		return -1
	case bIsInt:
		return 1
	}
	return cmp.Compare(a.Label.(string), b.Label.(string))
}

// bytesWithin returns a byte string of least to most bytes.
func bytesWithin(raw []byte, least, most int) ([]byte, error) {
	b, err := strict.Bytes(raw)
	if err == nil && (len(b) < least || len(b) > most) {
		err = fmt.Errorf("%d bytes, want %d to %d", len(b), least, most)
	}
	return b, err
}

// Sizes of an OEM ID, RFC 9711, section 4.2.3.
const (
	oemIDIEEE   = 3
	oemIDRandom = 16

	oemIDPEN = "pen:"
)

func parseOEMID(raw []byte) (string, error) {
	if strict.IsUint(raw) {
		n, err := strict.Int(raw)
		return oemIDPEN + strconv.FormatInt(n, 10), err
	}
	b, err := strict.Bytes(raw)
	if err == nil && len(b) != oemIDIEEE && len(b) != oemIDRandom {
		err = fmt.Errorf("%d bytes, want %d or %d", len(b), oemIDIEEE, oemIDRandom)
	}
	return hex.EncodeToString(b), err
}

func parseProfile(raw []byte) (string, error) {
	if !strict.IsText(raw) {
		b, err := bytesWithin(raw, 1, maxProfileSize)
		if err != nil {
			return "", err
		}
		var oid x509.OID
		err = oid.UnmarshalBinary(b)
		return oid.String(), err
	}
	s, err := strict.Text(raw)
	if err != nil {
		return "", err
	}
	if u, err := url.Parse(s); err != nil || !u.IsAbs() || len(s) > maxProfileSize {
		return "", errors.New("neither an absolute URI nor an OID")
	}
	return s, nil
}

// checkMeasurements reports whether raw is one or more of [content-format, bytes].
func checkMeasurements(raw []byte) error {
	list, err := strict.Array(raw)
	if err == nil && len(list) == 0 {
		err = errors.New("no measurement")
	}
	for _, one := range list {
		pair, err := strict.Array(one)
		if err != nil {
			return err
		}
		if len(pair) != 2 {
			return fmt.Errorf("measurement of %d elements", len(pair))
		}
		_, formatErr := strict.Uint(pair[0])
		_, bytesErr := strict.Bytes(pair[1])
		if err := errors.Join(formatErr, bytesErr); err != nil {
			return err
		}
	}
	return err
}

func parseTime(raw []byte) (time.Time, error) {
	n, err := strict.Uint(raw)
	if err == nil && n > maxTime {
		err = errors.New("a time beyond the year 9999")
	}
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(int64(n), 0).UTC(), nil
}

// submodNames returns the names in a submods claim, in which depth of them may nest. A
// submodule is a claims-set, a nested token or the digest of a detached one.
func submodNames(raw []byte, outer string, depth int) ([]string, error) {
	if depth == 0 {
		return nil, fmt.Errorf("more than %d submods within each other", MaxSubmodDepth)
	}
	m, err := strict.Map(raw)
	if err != nil {
		return nil, err
	}
	if len(m) == 0 {
		return nil, errors.New("no submodule")
	}
	var names []string
	for label, value := range m {
		text, ok := label.(string)
		if !ok || len(text) > maxSubmodName {
			return nil, fmt.Errorf("name of a submodule is no text of %d bytes at most", maxSubmodName)
		}
		name := outer + strconv.Quote(text)
		names = append(names, name)
		claims, err := strict.Map(value)
		switch {
		case err == nil && claims[claimSubmods] != nil:
			inner, err := submodNames(claims[claimSubmods], name+"/", depth-1)
			if err != nil {
				return nil, err
			}
			names = append(names, inner...)
			if len(names) > MaxSubmods {
				return nil, fmt.Errorf("more than %d submodules", MaxSubmods)
			}
		case err == nil:
		default:
			_, bytesErr := strict.Bytes(value)
			_, arrayErr := strict.Array(value)
			if bytesErr != nil && arrayErr != nil {
				return nil, fmt.Errorf("%s is neither a claims-set nor a token nor a digest", name)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// SignToken returns t signed by key, which is on P-256, P-384 or Ed25519: as a CWT, in its
// tag and that of COSE_Sign1, or as a JWT if t.JSON says so. Its KeyID goes into the
// protected header; Algorithm is that of the key, whatever t says. If random is nil,
// crypto/rand is used. A token that ParseToken would refuse is an error.
func SignToken(random io.Reader, key crypto.Signer, t *Token) ([]byte, error) {
	b, err := signToken(random, key, t)
	if err != nil {
		return nil, fmt.Errorf("sign EAT: %w", err)
	}
	return b, nil
}

func signToken(random io.Reader, key crypto.Signer, t *Token) ([]byte, error) {
	claims := map[any]any{claimNonce: t.Nonce}
	for label, b := range map[int64][]byte{claimUEID: t.UEID, claimHWModel: t.HWModel} {
		if b != nil {
			claims[label] = b
		}
	}
	if t.Measurements != nil {
		claims[claimMeasurements] = strict.Raw(t.Measurements)
	}
	for label, at := range map[int64]time.Time{claimIat: t.IssuedAt, claimNbf: t.NotBefore, claimExp: t.Expires} {
		if !at.IsZero() {
			claims[label] = at.Unix()
		}
	}
	if t.DebugStatus != DebugUnsaid {
		claims[claimDebugStatus] = uint64(t.DebugStatus) - 1
	}
	var err error
	if t.Confirmation != nil {
		pub, err := x509.ParsePKIXPublicKey(t.Confirmation)
		if err != nil {
			return nil, fmt.Errorf("cnf: %w", err)
		}
		if claims[claimCnf], err = encodeCnf(pub); err != nil {
			return nil, err
		}
	}
	if t.OEMID != "" {
		if claims[claimOEMID], err = encodeOEMID(t.OEMID); err != nil {
			return nil, fmt.Errorf("OEM ID: %w", err)
		}
	}
	if t.Profile != "" {
		claims[claimProfile] = t.Profile
		if oid, err := x509.ParseOID(t.Profile); err == nil {
			if claims[claimProfile], err = oid.MarshalBinary(); err != nil {
				return nil, err
			}
		}
	}
	sign := signCWT
	if t.JSON {
		sign = signJWT
	}
	b, err := sign(random, key, t, claims)
	if err != nil {
		return nil, err
	}
	_, _, err = parseToken(b)
	return b, err
}

// signCWT signs claims and those of t that are in its form.
func signCWT(random io.Reader, key crypto.Signer, t *Token, claims map[any]any) ([]byte, error) {
	if t.Submods != nil {
		claims[claimSubmods] = strict.Raw(t.Submods)
	}
	for _, c := range t.Other {
		if _, twice := claims[c.Label]; twice {
			return nil, fmt.Errorf("claim %v twice", c)
		}
		claims[c.Label] = strict.Raw(c.Value)
	}
	payload, err := strict.Marshal(claims)
	if err != nil {
		return nil, err
	}
	b, err := signClaims(random, key, t.KeyID, payload)
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(cwtTag), b...), nil
}

func encodeOEMID(s string) (any, error) {
	if digits, ok := strings.CutPrefix(s, oemIDPEN); ok {
		return strconv.ParseInt(digits, 10, 64)
	}
	return hex.DecodeString(s)
}
