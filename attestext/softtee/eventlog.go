package softtee

import (
	"crypto/sha512"
	"encoding/binary"

	"github.com/attestedtls/atls/attestext/eventlog"
)

// EventLog returns an event log of events, as the firmware of a TDX guest writes it and
// [eventlog.Parse] reads it, without padding. Their digests are the SHA-384 of their data,
// whatever they say. A quote that it goes with has the RTMRs that its replay comes to; see
// [TDXOptions].
func EventLog(events ...eventlog.Event) []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0c, 0, 48, 0, 0)
	b := append([]byte{0, 0, 0, 0, 3, 0, 0, 0}, make([]byte, 20)...)
	b = append(le.AppendUint32(b, uint32(len(spec))), spec...)
	for _, e := range events {
		digest := sha512.Sum384(e.Data)
		b = le.AppendUint32(b, uint32(e.Register+1)) // the first register is MRTD
		b = le.AppendUint32(b, e.Type)
		b = append(b, 1, 0, 0, 0, 0x0c, 0)
		b = append(b, digest[:]...)
		b = append(le.AppendUint32(b, uint32(len(e.Data))), e.Data...)
	}
	return b
}
