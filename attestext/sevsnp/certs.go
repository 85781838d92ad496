package sevsnp

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/revocation"
	"github.com/attestedtls/atls/attestext/internal/strictpem"
)

// MaxCertificatesSize bounds an encoded table of certificates, in bytes. Real ones
// have up to 6,000; hosts reserve 16,384.
const MaxCertificatesSize = 64 << 10

// Certificates are what a host hands to a guest beside its report, and the guest to
// its peer: the chain, each part of which may be missing, and a revocation list.
// They have been parsed and not verified. The root among them is for show: the
// relying party has its own.
//
// Certificates must not be changed once they are in use.
type Certificates struct {
	VCEK, VLEK *x509.Certificate // keys that sign reports
	ASK        *x509.Certificate // AMD SEV key: the authority of the one or the other
	ARK        *x509.Certificate // AMD root key; never trusted
	CRL        *x509.RevocationList
}

// A guid names an entry, in the byte order of the table.
type guid [16]byte

// The entries that are read, by their GUIDs in AMD's "Guest Hypervisor
// Communication Block Standardization" (publication 56421), section 4.1.8.1. That
// of the revocation list is what hosts that follow virtee/sev write.
var (
	guidVCEK = guid{0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd}
	guidVLEK = guid{0xa8, 0x07, 0x4b, 0xc2, 0xa2, 0x5a, 0x48, 0x3e, 0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8, 0xa1}
	guidASK  = guid{0x4a, 0xb7, 0xb3, 0x79, 0xbb, 0xac, 0x4f, 0xe4, 0xa0, 0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7, 0x82}
	guidARK  = guid{0xc0, 0xb4, 0x06, 0xa4, 0xa8, 0x03, 0x49, 0x52, 0x97, 0x43, 0x3f, 0xb6, 0x01, 0x4c, 0xd0, 0xae}
	guidCRL  = guid{0x92, 0xf8, 0x1b, 0xc3, 0x58, 0x11, 0x4d, 0x3d, 0x97, 0xff, 0xd1, 0x9f, 0x88, 0xdc, 0x67, 0xea}
)

// The layout of the table:
//
//	table   entries ‖ entry of zeros ‖ data
//	entry   GUID ‖ u32 offset, from the start of the table ‖ u32 length
const (
	entryOffsetOffset = 16
	entryLengthOffset = 20
	entrySize         = 24
	maxEntries        = 32
)

func badCertificates(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrMalformed, "parse SNP certificates", format, args...)
}

// ParseCertificates reads the table that configfs-tsm calls auxblob. Empty, it is a
// table without entries. Entries with other GUIDs are passed over.
//
// It refuses a GUID that appears twice, entries that overlap each other or the
// header or are empty, bytes other than zero that belong to no entry, and what is
// no certificate. Errors are of class [attestext.ErrMalformed].
func ParseCertificates(b []byte) (*Certificates, error) {
	if len(b) > MaxCertificatesSize {
		return nil, badCertificates("%d bytes, at most %d are read", len(b), MaxCertificatesSize)
	}
	c := &Certificates{}
	if len(b) == 0 {
		return c, nil
	}
	entries, err := splitTable(b)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		id   guid
		dst  **x509.Certificate
	}{
		{"VCEK", guidVCEK, &c.VCEK},
		{"VLEK", guidVLEK, &c.VLEK},
		{"ASK", guidASK, &c.ASK},
		{"ARK", guidARK, &c.ARK},
	} {
		if data, ok := entries[f.id]; ok {
			if *f.dst, err = parseCertificate(data); err != nil {
				return nil, badCertificates("%s: %w", f.name, err)
			}
		}
	}
	if data, ok := entries[guidCRL]; ok {
		if c.CRL, err = revocation.Parse(data); err != nil {
			return nil, badCertificates("CRL: %w", err)
		}
	}
	return c, nil
}

// splitTable returns what the entries of a table hold.
func splitTable(b []byte) (map[guid][]byte, error) {
	type span struct{ from, to int }
	var spans []span
	entries := make(map[guid][]byte)
	header := 0
	for {
		if len(b)-header < entrySize {
			return nil, badCertificates("no entry of zeros ends the table")
		}
		e := b[header:][:entrySize]
		header += entrySize
		if zero(e) {
			break
		}
		if len(spans) == maxEntries {
			return nil, badCertificates("more than %d entries", maxEntries)
		}
		id := guid(e)
		// Wider than the fields, so that the sum does not wrap around.
		from := uint64(binary.LittleEndian.Uint32(e[entryOffsetOffset:]))
		n := uint64(binary.LittleEndian.Uint32(e[entryLengthOffset:]))
		switch {
		case entries[id] != nil:
			return nil, badCertificates("entry %x appears twice", id)
		case n == 0 || from+n > uint64(len(b)):
			return nil, badCertificates("entry %x has %d bytes from %d, the table has %d", id, n, from, len(b))
		}
		entries[id] = b[from : from+n]
		spans = append(spans, span{int(from), int(from + n)})
	}
	slices.SortFunc(spans, func(s, t span) int { return s.from - t.from })
	end := header
	for _, s := range append(spans, span{len(b), len(b)}) {
		if s.from < end {
			return nil, badCertificates("entries overlap each other or the header")
		}
		if !zero(b[end:s.from]) {
			return nil, badCertificates("%d bytes belong to no entry and are not zero", s.from-end)
		}
		end = s.to
	}
	return entries, nil
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// Marshal returns c as a table that [ParseCertificates] reads; nil if c has nothing.
func (c *Certificates) Marshal() []byte {
	var ids []guid
	var blobs [][]byte
	for _, e := range []struct {
		id   guid
		cert *x509.Certificate
	}{{guidVCEK, c.VCEK}, {guidVLEK, c.VLEK}, {guidASK, c.ASK}, {guidARK, c.ARK}} {
		if e.cert != nil {
			ids, blobs = append(ids, e.id), append(blobs, e.cert.Raw)
		}
	}
	if c.CRL != nil {
		ids, blobs = append(ids, guidCRL), append(blobs, c.CRL.Raw)
	}
	if len(ids) == 0 {
		return nil
	}
	var b []byte
	offset := (len(ids) + 1) * entrySize
	for i, id := range ids {
		b = append(b, id[:]...)
		b = binary.LittleEndian.AppendUint32(b, uint32(offset))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(blobs[i])))
		offset += len(blobs[i])
	}
	b = append(b, make([]byte, entrySize)...)
	return append(b, slices.Concat(blobs...)...)
}

// parseCertificate reads one certificate in DER, or in PEM, as some hosts hold them.
func parseCertificate(b []byte) (*x509.Certificate, error) {
	if bytes.HasPrefix(b, []byte("-----BEGIN")) {
		certs, err := strictpem.Parse(b, pemCertificate, x509.ParseCertificate)
		if err != nil {
			return nil, err
		}
		if len(certs) != 1 {
			return nil, fmt.Errorf("%d certificates, want 1", len(certs))
		}
		return certs[0], nil
	}
	return x509.ParseCertificate(b)
}
