// Package tsm reads and writes the report that the kernel's trusted security
// module interface (configfs-tsm) gives about a confidential virtual machine, in
// the encodings that Veraison registered for it. A report holds a raw quote of
// TDX, SEV-SNP or another provider, and what the provider sends beside it.
package tsm

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/strict"
)

// Media types of a report.
const (
	MediaTypeCBOR = "application/vnd.veraison.tsm-report+cbor"
	MediaTypeJSON = "application/vnd.veraison.tsm-report+json"
	// MediaTypeConfigfsJSON is an older name of MediaTypeJSON. It is accepted
	// and never sent.
	MediaTypeConfigfsJSON = "application/vnd.veraison.configfs-tsm+json"
)

// Formats of a report.
var (
	FormatCBOR = attestext.EvidenceFormat{MediaType: MediaTypeCBOR}
	FormatJSON = attestext.EvidenceFormat{MediaType: MediaTypeJSON}

	formatConfigfsJSON = attestext.EvidenceFormat{MediaType: MediaTypeConfigfsJSON}
)

// Providers, as the kernel names them. Others are legal.
const (
	ProviderTDX = "tdx_guest"
	ProviderSNP = "sev_guest"
)

// MaxSize is that of an encoded report, in bytes.
const MaxSize = 1 << 20

// A Report is what configfs-tsm returns for one request.
type Report struct {
	// Provider names what made OutBlob, such as ProviderTDX, without the line
	// break that the kernel puts behind it. It is not empty.
	Provider string
	// OutBlob is the quote or report, at least one byte.
	OutBlob []byte
	// AuxBlob is what the provider adds, for SEV-SNP a table of certificates;
	// nil if there is none. For TDX the kernel has none, and an event log that an
	// attester of this module adds is there; see package eventlog.
	AuxBlob []byte
	// ServiceProvider names the service, such as "svsm", that OutBlob is about;
	// empty if it is about none.
	ServiceProvider string
	// ManifestBlob lists the services below ServiceProvider; nil if there is
	// none, as there must not be without ServiceProvider.
	ManifestBlob []byte
}

// Names of the members, alike in CBOR and JSON.
const (
	keyAuxBlob         = "auxblob"
	keyOutBlob         = "outblob"
	keyProvider        = "provider"
	keyManifestBlob    = "manifestblob"
	keyServiceProvider = "service_provider"
)

// IsReport reports whether f is one of the formats that Parse reads.
func IsReport(f attestext.EvidenceFormat) bool {
	return f.Equal(FormatCBOR) || f.Equal(FormatJSON) || f.Equal(formatConfigfsJSON)
}

// Parse decodes a report in the format f. A format that is none of a report's is
// an [attestext.ErrWrongType]; every other error is an [attestext.ErrMalformed].
func Parse(f attestext.EvidenceFormat, b []byte) (*Report, error) {
	switch {
	case f.Equal(FormatCBOR):
		return ParseCBOR(b)
	case f.Equal(FormatJSON), f.Equal(formatConfigfsJSON):
		return ParseJSON(b)
	}
	return nil, attestext.Errorf(attestext.ErrWrongType, op, "%v is no TSM report", f)
}

const op = "parse TSM report"

// ParseCBOR decodes
//
//	tsm-report = {
//	  ? "auxblob": bstr
//	  "outblob": bstr
//	  "provider": tstr
//	  ? ( ? "manifestblob": bstr, "service_provider": tstr )
//	}
//
// It refuses other members, duplicate ones, empty ones, indefinite lengths, more
// than MaxSize bytes and anything behind the map, with an error that wraps
// [attestext.ErrMalformed]. Any provider will do. The result shares no memory with b.
func ParseCBOR(b []byte) (*Report, error) {
	r, err := parseCBOR(b)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: op, Err: err}
	}
	return r, nil
}

func parseCBOR(b []byte) (*Report, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("report of %d bytes, want at most %d", len(b), MaxSize)
	}
	m, err := strict.Map(b)
	if err != nil {
		return nil, err
	}
	r := new(Report)
	for k, raw := range m {
		name, _ := k.(string)
		if err := r.set(name, func(s *string) (err error) {
			*s, err = strict.Text(raw)
			return err
		}, func(b *[]byte) (err error) {
			*b, err = strict.Bytes(raw)
			return err
		}); err != nil {
			return nil, err
		}
	}
	return r, r.check()
}

// ParseJSON decodes the JSON form of what ParseCBOR does, under the same
// conditions. Byte strings are base64url without padding. Standard base64 and
// padding are accepted as well, for that is how early versions of Veraison's
// ratsd wrote them.
func ParseJSON(b []byte) (*Report, error) {
	r, err := parseJSON(b)
	if err != nil {
		return nil, &attestext.Error{Class: attestext.ErrMalformed, Op: op, Err: err}
	}
	return r, nil
}

func parseJSON(b []byte) (*Report, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("report of %d bytes, want at most %d", len(b), MaxSize)
	}
	if err := strict.CheckJSON(b); err != nil {
		return nil, err
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	r := new(Report)
	for name, raw := range m {
		if err := r.set(name, func(s *string) (err error) {
			*s, err = strict.JSONText(raw)
			return err
		}, func(b *[]byte) error {
			s, err := strict.JSONText(raw)
			if err != nil {
				return err
			}
			*b, err = strict.Base64URL(base64url(s))
			return err
		}); err != nil {
			return nil, err
		}
	}
	return r, r.check()
}

// base64url turns standard base64 into base64url, and removes padding. What is
// neither, or a mixture of both, comes out as something that is not base64url.
func base64url(s string) string {
	if strings.ContainsAny(s, "+/") {
		if strings.ContainsAny(s, "-_") {
			return "="
		}
		s = strings.NewReplacer("+", "-", "/", "_").Replace(s)
	}
	if len(s)%4 == 0 {
		for range 2 {
			s = strings.TrimSuffix(s, "=")
		}
	}
	return s
}

// set decodes one member by text or blob, whichever it is.
func (r *Report) set(name string, text func(*string) error, blob func(*[]byte) error) error {
	var err error
	var empty bool
	switch name {
	case keyProvider:
		err = text(&r.Provider)
		r.Provider = strings.TrimRight(r.Provider, "\n")
		empty = r.Provider == ""
	case keyServiceProvider:
		err = text(&r.ServiceProvider)
		empty = r.ServiceProvider == ""
	case keyOutBlob:
		err = blob(&r.OutBlob)
		empty = len(r.OutBlob) == 0
	case keyAuxBlob:
		err = blob(&r.AuxBlob)
		empty = len(r.AuxBlob) == 0
	case keyManifestBlob:
		err = blob(&r.ManifestBlob)
		empty = len(r.ManifestBlob) == 0
	default:
		return errors.New("report with an unknown member")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if empty {
		return fmt.Errorf("%s is empty", name)
	}
	return nil
}

// check reports whether r is complete.
func (r *Report) check() error {
	switch {
	case r.Provider == "" || strings.HasSuffix(r.Provider, "\n"):
		return errors.New("report without a provider, or with a line break behind it")
	case len(r.OutBlob) == 0:
		return errors.New("report without outblob")
	case len(r.ManifestBlob) != 0 && r.ServiceProvider == "":
		return errors.New("report with manifestblob and no service_provider")
	case !utf8.ValidString(r.Provider) || !utf8.ValidString(r.ServiceProvider):
		return errors.New("report with a provider that is not UTF-8")
	}
	return nil
}

// CBOR encodes r in the core deterministic encoding. It fails if ParseCBOR would
// refuse the result.
func (r *Report) CBOR() ([]byte, error) {
	return r.encode(strict.Marshal, func(b []byte) any { return b })
}

// JSON encodes r with byte strings in base64url without padding. It fails if
// ParseJSON would refuse the result.
func (r *Report) JSON() ([]byte, error) {
	return r.encode(json.Marshal, func(b []byte) any { return base64.RawURLEncoding.EncodeToString(b) })
}

func (r *Report) encode(marshal func(any) ([]byte, error), blob func([]byte) any) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("encode TSM report: %w", err)
	}
	m := map[string]any{keyProvider: r.Provider, keyOutBlob: blob(r.OutBlob)}
	if len(r.AuxBlob) != 0 {
		m[keyAuxBlob] = blob(r.AuxBlob)
	}
	if r.ServiceProvider != "" {
		m[keyServiceProvider] = r.ServiceProvider
	}
	if len(r.ManifestBlob) != 0 {
		m[keyManifestBlob] = blob(r.ManifestBlob)
	}
	b, err := marshal(m)
	if err == nil && len(b) > MaxSize {
		err = fmt.Errorf("report of %d bytes, want at most %d", len(b), MaxSize)
	}
	if err != nil {
		return nil, fmt.Errorf("encode TSM report: %w", err)
	}
	return b, nil
}
