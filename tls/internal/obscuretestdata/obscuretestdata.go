// Package obscuretestdata stands in for internal/obscuretestdata, as far as the
// tests use it.
package obscuretestdata

// Rot13 returns the rot13 encoding of data, which is also its decoding.
func Rot13(data []byte) []byte {
	out := make([]byte, len(data))
	for i, c := range data {
		switch {
		case 'A' <= c && c <= 'M', 'a' <= c && c <= 'm':
			c += 13
		case 'N' <= c && c <= 'Z', 'n' <= c && c <= 'z':
			c -= 13
		}
		out[i] = c
	}
	return out
}
