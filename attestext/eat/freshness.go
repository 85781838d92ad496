package eat

import (
	"crypto/sha256"
	"crypto/sha512"

	"github.com/attestedtls/atls/attestext"
)

// freshnessLabel begins what is hashed into the second half of the report data of
// platform evidence that shows when it was made.
const freshnessLabel = "atls quote freshness v1"

// A Freshness says what the platform evidence of a bundle shows of its age.
type Freshness uint8

const (
	// Undated evidence covers the KAK alone, as draft-bft-rats-kat-06, section 5.1.1,
	// has it: it may have been made for this session, or long ago.
	Undated Freshness = iota
	// ForSession is evidence that covers the challenge of the session as well, so that
	// it was made for it.
	ForSession
	// ForEpoch is evidence that covers an epoch ID (RFC 9334, section 10.3) as well, so
	// that it was made after the epoch began.
	ForEpoch
)

// String returns "undated", "session" or "epoch".
func (f Freshness) String() string {
	switch f {
	case Undated:
		return "undated"
	case ForSession:
		return "session"
	case ForEpoch:
		return "epoch"
	}
	return "unknown"
}

// ReportData returns what the platform evidence of a bundle covers for the key kak,
// which is as for [HashKAK]:
//
//	SHA-256(kak) ‖ SHA-256("atls quote freshness v1" ‖ 0x00 ‖ f ‖ handle)
//
// where f is one byte and handle the challenge of the session or the epoch ID. If f is
// Undated, the second half is zero, as the draft has it.
func ReportData(kak []byte, f Freshness, handle []byte) (rd [attestext.ReportDataSize]byte) {
	hash := HashKAK(kak)
	copy(rd[:], hash[:])
	if f != Undated {
		mark := freshnessMark(f, handle)
		copy(rd[sha256.Size:], mark[:])
	}
	return rd
}

func freshnessMark(f Freshness, handle []byte) (mark [sha256.Size]byte) {
	h := sha256.New()
	h.Write([]byte(freshnessLabel))
	h.Write([]byte{0x00, byte(f)})
	h.Write(handle)
	h.Sum(mark[:0])
	return mark
}

// FreshnessOf returns what platform evidence about the signer of a KAT shows of its age,
// given the challenge of the session and the epoch ID that came with it, nil if there
// is none. isAbout reports, in constant time, whether the evidence carries that report
// data. kak is as for [HashKAK], of which the evidence may also carry the SHA-384 or
// SHA-512; see [MatchKAKHash]. covers is false if the evidence does not cover kak, or
// covers something else beside it.
func FreshnessOf(kak []byte, isAbout func([attestext.ReportDataSize]byte) bool, challenge, epoch []byte) (f Freshness, covers bool) {
	if epoch != nil {
		// Evidence that is about something else says nothing of this epoch ID.
		return ForEpoch, isAbout(ReportData(kak, ForEpoch, epoch))
	}
	if len(challenge) != 0 && isAbout(ReportData(kak, ForSession, challenge)) {
		return ForSession, true
	}
	var padded384 [attestext.ReportDataSize]byte
	h := sha512.Sum384(kak)
	copy(padded384[:], h[:])
	return Undated, isAbout(ReportData(kak, Undated, nil)) || isAbout(padded384) || isAbout(sha512.Sum512(kak))
}
