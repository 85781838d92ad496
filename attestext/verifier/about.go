package verifier

import (
	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/binding"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tpm"
	"github.com/attestedtls/atls/attestext/tsm"
)

// IsPlatformEvidence reports whether f is a format of what a platform itself makes, and
// [Local.VerifyEvidence] reads: a TSM report or a TPM quote.
func IsPlatformEvidence(f attestext.EvidenceFormat) bool {
	return tsm.IsReport(f) || f.Equal(tpm.Format)
}

// ClaimedAbout returns what reports, in constant time, whether a TSM report or a TPM
// quote is about that report data. The evidence is parsed and not verified, so that it is
// the peer's word alone.
func ClaimedAbout(f attestext.EvidenceFormat, b []byte) (isAbout func(reportData [attestext.ReportDataSize]byte) bool, err error) {
	if f.Equal(tpm.Format) {
		q, err := tpm.Parse(b)
		if err != nil {
			return nil, err
		}
		return q.IsAbout, nil
	}
	r, err := tsm.Parse(f, b)
	if err != nil {
		return nil, err
	}
	var got [attestext.ReportDataSize]byte
	switch r.Provider {
	case tsm.ProviderTDX:
		q, err := tdx.Parse(r.OutBlob)
		if err != nil {
			return nil, err
		}
		got = q.ReportData
	case tsm.ProviderSNP:
		s, err := sevsnp.Parse(r.OutBlob)
		if err != nil {
			return nil, err
		}
		got = s.ReportData
	default:
		return nil, attestext.Errorf(attestext.ErrWrongType, "read TSM report", "provider %.32q is not supported here", r.Provider)
	}
	return func(want [attestext.ReportDataSize]byte) bool { return binding.Equal(got[:], want[:]) }, nil
}
