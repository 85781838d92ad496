// Package byteorder stands in for internal/byteorder, as far as the fork uses it.
package byteorder

import "encoding/binary"

// BEUint16 returns the big-endian value of b[:2].
func BEUint16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

// LEUint32 returns the little-endian value of b[:4].
func LEUint32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// LEPutUint64 writes v to b[:8], little-endian.
func LEPutUint64(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }
