package verifier

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/internal/binding"
	"github.com/attestedtls/atls/attestext/policy"
)

// eatMachineScheme begins the identity of a device by an EAT: the SHA-256 of the signer's
// key and the ueid follow, each in hexadecimal, for one signer may say what it likes of the
// devices of another.
const eatMachineScheme = "eat:"

// appraiseToken appraises an EAT.
func (l *Local) appraiseToken(format attestext.EvidenceFormat, b []byte, expected *attestext.Challenge) (*attestext.Appraisal, error) {
	v, token, err := l.verifyToken(format, b)
	if err != nil {
		return nil, err
	}
	a, err := l.decide(format, v, func(*Verified) (policy.Quote, error) {
		return policy.Quote{Tier: policy.FreshQuote}, binding.CheckToken(token, expected)
	})
	if err != nil {
		return nil, err
	}
	a.Key = token.Confirmation
	return a, nil
}

// verifyToken parses and verifies an EAT that came as format, and returns what it says as well.
func (l *Local) verifyToken(format attestext.EvidenceFormat, b []byte) (*Verified, *eat.Token, error) {
	t, err := eat.ParseTokenAs(format, b)
	if err != nil {
		return nil, nil, err
	}
	now := l.now()
	v, err := eat.VerifyToken(t, &eat.TokenOptions{Keys: l.EATKeys, Now: now})
	if err != nil {
		return nil, nil, err
	}
	t = v.Token()
	e := &Verified{claims: tokenClaims(v), hashed: true, isAbout: func([attestext.ReportDataSize]byte) bool { return false }}
	e.evaluate = func() (*policy.Decision, error) { return l.Policy.EvaluateEAT(v, now) }
	if id := policy.UEID(t.UEID).Identity(); id != nil {
		e.machine = fmt.Sprintf("%s%x-%x", eatMachineScheme, v.Signer(), id)
	}
	return e, t, nil
}

// tokenClaims names what a token says. What it does not say is left out.
func tokenClaims(v *eat.VerifiedToken) map[string]any {
	t, signer := v.Token(), v.Signer()
	claims := map[string]any{"tee": "eat", "signed_by": hex.EncodeToString(signer[:])}
	for name, text := range map[string]string{
		"ueid": hex.EncodeToString(t.UEID), "oemid": t.OEMID, "hwmodel": hex.EncodeToString(t.HWModel),
		"debug_status": t.DebugStatus.String(), "eat_profile": t.Profile,
	} {
		if text != "" {
			claims[name] = text
		}
	}
	if t.Measurements != nil { // as policies have it
		digest := sha256.Sum256(t.Measurements)
		claims["measurements"] = hex.EncodeToString(digest[:])
	}
	for name, at := range map[string]time.Time{"iat": t.IssuedAt, "nbf": t.NotBefore, "exp": t.Expires} {
		if !at.IsZero() {
			claims[name] = at.Format(time.RFC3339)
		}
	}
	if names := t.SubmodNames(); len(names) != 0 {
		claims["submods"] = names
	}
	if len(t.Other) != 0 {
		other := make(map[string]any)
		for _, c := range t.Other {
			value := hex.EncodeToString(c.Value)
			if t.JSON {
				value = string(c.Value)
			}
			other[c.String()] = value
		}
		claims["other_claims"] = other
	}
	return claims
}
