package cmw

import "fmt"

// The CBOR tags that stand for content formats, RFC 9277, appendix B. There is
// one for each content format from 0 to MaxTagContentFormat, in runs of 255 with
// a gap of one behind each, so that no byte of the number is zero.
const (
	tagBase = 0x63740101 // TN(0)

	// MaxTagContentFormat is the last content format that has a tag.
	MaxTagContentFormat = 65024
)

// tagNumber is TN(cf) of RFC 9277. cf is at most MaxTagContentFormat.
func tagNumber(cf uint16) uint64 {
	return tagBase + uint64(cf)/255*256 + uint64(cf)%255
}

// contentFormat is the inverse of tagNumber. It fails for a number that is not
// in the range of TN or in one of its gaps.
func contentFormat(tag uint64) (uint16, error) {
	n := tag - tagBase
	if tag < tagBase || n%256 == 255 || n/256*255+n%256 > MaxTagContentFormat {
		return 0, fmt.Errorf("CBOR tag %d stands for no content format", tag)
	}
	return uint16(n/256*255 + n%256), nil
}
