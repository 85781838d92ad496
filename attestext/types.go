// Package attestext holds what an attested handshake needs to know about
// attestation and nothing about TLS records or about any TEE: the payloads of
// the extensions of draft-fossati-tls-attestation-08 and of
// draft-fossati-seat-early-attestation, the Challenge that Evidence must be bound
// to, the Attester and Verifier interfaces, and the errors that say which of the
// two failed and how.
//
// Start with [Attester] to produce Evidence and [Verifier] to appraise it.
// The packages below make and read Evidence of particular kinds; none of them
// is imported from here, so that a program that uses package tls alone compiles
// no quote parser.
package attestext

import (
	"fmt"
	"mime"
	"slices"
	"strconv"
	"strings"
)

// A Role is an end of the connection. The values go into REPORTDATA; see
// [Challenge.ReportData].
type Role uint8

const (
	RoleClient Role = 1
	RoleServer Role = 2
)

// String returns "client" or "server".
func (r Role) String() string {
	switch r {
	case RoleClient:
		return "client"
	case RoleServer:
		return "server"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// A Binding is the rule by which Evidence is tied to one handshake.
type Binding uint8

const (
	// BindingHardened makes the Evidence cover the channel binder, the TLS
	// identity key and, in a raw report, the role. (A key attestation token has
	// no room for the role; there each direction's own binder stands for it.) It
	// is the default. The draft has no way to
	// negotiate it: both ends must be configured alike.
	BindingHardened Binding = iota

	// BindingDraft08 is the rule of draft-fossati-tls-attestation-08: with
	// X.509 the Evidence covers the channel binder alone, and attestation-only
	// Evidence covers the nonce alone.
	//
	// WARNING: the certificate's key is not covered, so a stolen certificate
	// key plus any genuine TEE passes. Use it to measure the draft.
	BindingDraft08

	// BindingExpat is the rule of draft-fossati-seat-expat, for Evidence inside an
	// exported authenticator, after the handshake: it covers a hash over the
	// certificate's key and a value exported from the connection for one request.
	// It serves package exportedauth alone. A raw report carries that hash, padded
	// with zeros.
	BindingExpat

	// BindingExpatSHA512 is BindingExpat, with the SHA-512 of that hash in a raw
	// report. It is not in the draft: one deployed implementation does it.
	BindingExpatSHA512

	// BindingEarly is the rule of draft-fossati-seat-early-attestation: the binder is
	// a hash over ClientHello...ServerHello and the certificate's key, as long as the
	// suite's hash. A raw report carries it padded with zeros, a token as its nonce.
	//
	// WARNING: everything that goes into the binder is public. It names the session
	// and the key, and proves knowledge of no secret of the session, so a stolen
	// certificate key plus any genuine TEE passes.
	BindingEarly
)

// IsExpat reports whether b is one of the rules for exported authenticators, which
// no handshake can use.
func (b Binding) IsExpat() bool { return b == BindingExpat || b == BindingExpatSHA512 }

// String returns the name that the atls command and package execplugin use:
// "hardened", "draft-08", "expat", "expat-sha512" or "early".
func (b Binding) String() string {
	switch b {
	case BindingHardened:
		return "hardened"
	case BindingDraft08:
		return "draft-08"
	case BindingExpat:
		return "expat"
	case BindingExpatSHA512:
		return "expat-sha512"
	case BindingEarly:
		return "early"
	}
	return fmt.Sprintf("binding(%d)", uint8(b))
}

// A CredentialKind says what authenticates a peer beside, or instead of, its
// certificate (draft-fossati-tls-attestation-08, credentialKind). The values are
// those on the wire, where any other value is legal and never matches.
type CredentialKind uint8

const (
	// AttestationOnly is a Certificate message that holds Evidence in place of
	// a certificate. It cannot tell one genuine machine from another.
	AttestationOnly CredentialKind = 0
	// CertAttestation is an X.509 chain with Evidence beside it.
	CertAttestation CredentialKind = 1
)

// String returns the name that the atls command uses, "attestation-only" or "x509".
func (k CredentialKind) String() string {
	switch k {
	case AttestationOnly:
		return "attestation-only"
	case CertAttestation:
		return "x509"
	}
	return fmt.Sprintf("credential_kind(%d)", uint8(k))
}

// A Model is where Evidence is appraised (RFC 9334, section 5).
type Model uint8

const (
	// BackgroundCheck: the attester sends Evidence and the relying party has it appraised.
	BackgroundCheck Model = iota
	// Passport: the attester sends an Attestation Result that a verifier gave it.
	Passport
)

// String returns "background-check" or "passport".
func (m Model) String() string {
	switch m {
	case BackgroundCheck:
		return "background-check"
	case Passport:
		return "passport"
	}
	return fmt.Sprintf("model(%d)", uint8(m))
}

// An EvidenceFormat names the encoding of Evidence: by media type where
// MediaType is not empty, otherwise by CoAP Content-Format. The two are never
// compared with each other.
type EvidenceFormat struct {
	// MediaType is an RFC 6838 media type with parameters, at most 65,535 bytes.
	MediaType string
	// ContentFormat is a CoAP Content-Format number, used where MediaType is empty.
	ContentFormat uint16
}

// String returns the media type, quoted if it has any but printable ASCII
// characters, or "content-format N".
func (f EvidenceFormat) String() string {
	if f.MediaType != "" {
		if strings.ContainsFunc(f.MediaType, func(r rune) bool { return r < ' ' || r > '~' }) {
			return strconv.QuoteToASCII(f.MediaType) // it may be a peer's, and go to a log
		}
		return f.MediaType
	}
	return fmt.Sprintf("content-format %d", f.ContentFormat)
}

// Content formats of the Constrained Application Protocol registry that
// Evidence and its wrappers use.
const (
	ContentFormatEATCWT  = 263 // application/eat+cwt
	ContentFormatEATJWT  = 264 // application/eat+jwt
	ContentFormatCMWCBOR = 273 // application/cmw+cbor: any Evidence in a CMW
	ContentFormatCMWJSON = 274 // application/cmw+json: any Evidence in a CMW
	ContentFormatCMWCOSE = 275 // application/cmw+cose: any Evidence in a signed CMW
	ContentFormatCMWJWS  = 276 // application/cmw+jws: any Evidence in a signed CMW
)

// Equal reports whether f and g name the same format. Media types are compared
// parsed: type and subtype without case, parameters exactly. A media type that
// does not parse equals only itself.
func (f EvidenceFormat) Equal(g EvidenceFormat) bool {
	if f == g {
		return true
	}
	if f.MediaType == "" || g.MediaType == "" {
		return false
	}
	ft, fp, ferr := mime.ParseMediaType(f.MediaType)
	gt, gp, gerr := mime.ParseMediaType(g.MediaType)
	if ferr != nil || gerr != nil || !strings.EqualFold(ft, gt) || len(fp) != len(gp) {
		return false
	}
	for k, v := range fp {
		if w, ok := gp[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// IsAny reports whether f stands for any format: the media types and content
// formats of a bare Conceptual Message Wrapper say how the Evidence is wrapped
// and not what it is. With a parameter, such as the cmwc_t that names the type of
// a collection (RFC 9999), the media type does say what it is, and is a format
// like any other.
func (f EvidenceFormat) IsAny() bool {
	if f.MediaType == "" {
		return f.ContentFormat == ContentFormatCMWCBOR || f.ContentFormat == ContentFormatCMWJSON
	}
	t, params, _ := strings.Cut(f.MediaType, ";")
	return strings.TrimSpace(params) == "" && isType(t, "application/cmw+cbor", "application/cmw+json")
}

// IsSignedAny reports whether f stands for any format in a signed wrapper (RFC 9999,
// section 4): in COSE_Sign1, which is then cose, or in a JWS.
func (f EvidenceFormat) IsSignedAny() (cose, jws bool) {
	if f.MediaType == "" {
		return f.ContentFormat == ContentFormatCMWCOSE, f.ContentFormat == ContentFormatCMWJWS
	}
	t, params, _ := strings.Cut(f.MediaType, ";")
	if strings.TrimSpace(params) != "" {
		return false, false
	}
	return isType(t, "application/cmw+cose"), isType(t, "application/cmw+jws")
}

// isType reports whether t, a type and subtype, is one of names. It is asked in each
// handshake, and mime.ParseMediaType allocates.
func isType(t string, names ...string) bool {
	t = strings.TrimSpace(t)
	return slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(t, name) })
}

// Matches reports whether Evidence of format got satisfies a peer that asked
// for f.
func (f EvidenceFormat) Matches(got EvidenceFormat) bool {
	return f.IsAny() || f.Equal(got)
}

// An EvidenceType is what the evidence extensions negotiate: a format together
// with the kind of credential it comes with.
type EvidenceType struct {
	Kind   CredentialKind
	Format EvidenceFormat
}

// String returns, for example, "x509 application/eat+cwt".
func (t EvidenceType) String() string { return t.Kind.String() + " " + t.Format.String() }

// A VerifierIdentity names a verifier in the passport model: a UTF-8 URI or DNS
// name, compared byte by byte, 1 to 65,535 bytes.
type VerifierIdentity string

// MayBeReport reports whether Evidence of format f may be a raw TEE report, which
// carries a challenge in REPORTDATA: 64 bytes, where other formats need 32. A TPM
// quote counts, although what it carries is the hash of them.
func (f EvidenceFormat) MayBeReport() bool {
	if f.IsAny() {
		return true
	}
	t, _, _ := strings.Cut(f.MediaType, ";")
	return isType(t, "application/vnd.veraison.tsm-report+cbor",
		"application/vnd.veraison.tsm-report+json", "application/vnd.veraison.configfs-tsm+json",
		"application/x.attestedtls.tpm-quote+cbor")
}
