package attesttest

import (
	"slices"

	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tsm"
)

// OpenSNP is for the field Open of a [Target]: it takes evidence with an SEV-SNP report
// apart, in a TSM report by itself or as the platform's part of a bundle. The
// certificates beside the report stay as they are.
func OpenSNP(b []byte) (*Opened, error) {
	return openReport(b, tsm.ProviderSNP, func(report []byte) ([]Field, error) {
		if _, err := sevsnp.Parse(report); err != nil {
			return nil, err
		}
		return slices.Clone(snpFields), nil
	})
}

// snpFields are the fields of ATTESTATION_REPORT, versions 2 to 5: AMD's "SEV Secure
// Nested Paging Firmware ABI Specification" (publication 56860). What is reserved in
// one version may be a field of another.
var snpFields = []Field{
	{Name: "VERSION", Offset: 0x000, Size: 4},
	{Name: "GUEST_SVN", Offset: 0x004, Size: 4},
	{Name: "POLICY", Offset: 0x008, Size: 8},
	{Name: "FAMILY_ID", Offset: 0x010, Size: 16},
	{Name: "IMAGE_ID", Offset: 0x020, Size: 16},
	{Name: "VMPL", Offset: 0x030, Size: 4},
	{Name: "SIGNATURE_ALGO", Offset: 0x034, Size: 4},
	{Name: "CURRENT_TCB", Offset: 0x038, Size: 8},
	{Name: "PLATFORM_INFO", Offset: 0x040, Size: 8},
	{Name: "KEY_INFO", Offset: 0x048, Size: 4},
	{Name: "reserved", Offset: 0x04C, Size: 4},
	{Name: "REPORT_DATA", Offset: 0x050, Size: 64},
	{Name: "MEASUREMENT", Offset: 0x090, Size: 48},
	{Name: "HOST_DATA", Offset: 0x0C0, Size: 32},
	{Name: "ID_KEY_DIGEST", Offset: 0x0E0, Size: 48},
	{Name: "AUTHOR_KEY_DIGEST", Offset: 0x110, Size: 48},
	{Name: "REPORT_ID", Offset: 0x140, Size: 32},
	{Name: "REPORT_ID_MA", Offset: 0x160, Size: 32},
	{Name: "REPORTED_TCB", Offset: 0x180, Size: 8},
	{Name: "CPUID", Offset: 0x188, Size: 3},
	{Name: "reserved before CHIP_ID", Offset: 0x18B, Size: 21},
	{Name: "CHIP_ID", Offset: 0x1A0, Size: 64},
	{Name: "COMMITTED_TCB", Offset: 0x1E0, Size: 8},
	{Name: "CURRENT_BUILD", Offset: 0x1E8, Size: 4},
	{Name: "COMMITTED_BUILD", Offset: 0x1EC, Size: 4},
	{Name: "LAUNCH_TCB", Offset: 0x1F0, Size: 8},
	{Name: "LAUNCH_MIT_VECTOR", Offset: 0x1F8, Size: 8},
	{Name: "CURRENT_MIT_VECTOR", Offset: 0x200, Size: 8},
	{Name: "reserved before SIGNATURE", Offset: 0x208, Size: 152},
	{Name: "SIGNATURE", Offset: 0x2A0, Size: 144, Signature: true},
	{Name: "reserved after SIGNATURE", Offset: 0x330, Size: 368},
}
