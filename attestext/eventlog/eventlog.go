// Package eventlog reads the event log of a TDX guest, which says what was measured
// into its runtime measurement registers (RTMRs), and replays it.
//
// The log is that of the ACPI table CCEL, in the crypto-agile format of the TCG PC
// Client Platform Firmware Profile, version 1.05, section 10, with the registers of
// the UEFI specification, version 2.10, section 38.4.1 ("Confidential Computing"). Linux
// has it in /sys/firmware/acpi/tables/data/CCEL.
//
// A log is a claim until its replay ([Log.Replay]) equals the RTMRs of a verified
// quote. From then on its digests are what was measured. Its event data never is:
// whoever sends a log can put anything beside a digest, unless the digest is that of
// the data (see [Event.DataMatches]).
package eventlog

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/attestedtls/atls/attestext"
)

// Sizes and bounds.
const (
	// MaxSize bounds a log, in bytes, its padding included. CCEL tables commonly have
	// 65,536.
	MaxSize = 1 << 20
	// DigestSize is that of SHA-384.
	DigestSize = sha512.Size384
	// Registers is how many RTMRs there are.
	Registers = 4

	// maxAlgorithms and maxDigestSize bound what the header declares.
	maxAlgorithms = 8
	maxDigestSize = 64
)

// Types of events that mean something here: TCG PC Client Platform Firmware Profile,
// section 10.4.1.
const (
	noAction = 0x3 // EV_NO_ACTION, which is not measured
)

const (
	algSHA384 = 0x000c // TCG Algorithm Registry, TPM_ALG_SHA384

	sha1Size = 20

	// Indices of measurement registers: MRTD, then the RTMRs.
	mrIndexMRTD  = 0
	mrIndexRTMR0 = 1
)

// specSignature begins the event data of the header, TCG_EfiSpecIdEvent.
const specSignature = "Spec ID Event03\x00"

// An Event is one that was measured into an RTMR.
type Event struct {
	// Register is 0 to 3, of the RTMR.
	Register int
	// Type is that of the TCG, such as 4 for EV_SEPARATOR.
	Type uint32
	// Digest is what was measured.
	Digest [DigestSize]byte
	// Data is what the log says about it. Nothing vouches for it.
	Data []byte
}

// DataMatches reports whether the digest is the SHA-384 of the data, so that the data was
// measured. For many types of events the digest is that of something else, such as of
// the program that was loaded.
func (e *Event) DataMatches() bool { return sha512.Sum384(e.Data) == e.Digest }

// A Log is a parsed event log.
type Log struct {
	// Events are in the order in which they were measured.
	Events []Event

	size int // without padding
}

const op = "parse event log"

func malformed(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrMalformed, op, format, args...)
}

// Parse reads a log: a header event in the old format with SHA-1, which declares the
// algorithms, and events with one digest for each of them, in their order, SHA-384
// among them:
//
//	TCG_PCR_EVENT   u32 index ‖ u32 type ‖ 20 bytes ‖ u32 size ‖ event
//	TCG_PCR_EVENT2  u32 index ‖ u32 type ‖ u32 count ‖ (u16 algorithm ‖ digest)… ‖ u32 size ‖ event
//
// all integers being little-endian. Events that were not measured (EV_NO_ACTION) are
// checked and left out. Behind the last event there may be padding, all of it bytes 0
// or all of it bytes 255. Everything else is refused with an
// [attestext.ErrMalformed], events of other registers in particular. The result
// shares no memory with b.
func Parse(b []byte) (*Log, error) {
	if len(b) > MaxSize {
		return nil, malformed("%d bytes, at most %d are read", len(b), MaxSize)
	}
	r := &reader{b: b}
	algorithms, err := header(r)
	if err != nil {
		return nil, err
	}
	l := &Log{}
	for {
		if padding(r.b) {
			l.size = len(b) - len(r.b)
			return l, nil
		}
		n := len(b) - len(r.b)
		e, measured, err := event(r, algorithms)
		if err != nil {
			return nil, malformed("event at byte %d: %w", n, err)
		}
		if measured {
			l.Events = append(l.Events, e)
		}
	}
}

// padding reports whether what is left of a log is no event. An event of all zeros is
// none: it has no digest.
func padding(b []byte) bool {
	return len(bytes.Trim(b, "\x00")) == 0 || len(bytes.Trim(b, "\xff")) == 0
}

// An algorithm is one that the header declares.
type algorithm struct{ id, size uint16 }

func header(r *reader) ([]algorithm, error) {
	index, eventType := r.u32(), r.u32()
	digest := r.take(sha1Size)
	data := r.take(int(min(r.u32(), MaxSize)))
	switch {
	case r.err != nil:
		return nil, malformed("header: %w", r.err)
	case eventType != noAction || index > Registers:
		return nil, malformed("the first event is no header: type %#x, register %d", eventType, index)
	case len(bytes.Trim(digest, "\x00")) != 0:
		return nil, malformed("header with a digest")
	}
	r = &reader{b: data}
	signature := r.take(len(specSignature))
	r.u32() // platform class
	minor, major := r.u8(), r.u8()
	r.u8() // errata
	r.u8() // size of UINTN
	count := r.u32()
	if r.err == nil && string(signature) != specSignature {
		return nil, malformed("header is of another format than %q", specSignature)
	}
	if r.err == nil && (major != 2 || minor != 0) {
		return nil, malformed("header of version %d.%d, want 2.0", major, minor)
	}
	if r.err == nil && (count == 0 || count > maxAlgorithms) {
		return nil, malformed("header with %d algorithms, want 1 to %d", count, maxAlgorithms)
	}
	var algorithms []algorithm
	sha384 := false
	for range count {
		a := algorithm{r.u16(), r.u16()}
		if r.err != nil {
			break
		}
		for _, other := range algorithms {
			if other.id == a.id {
				return nil, malformed("header with algorithm %#x twice", a.id)
			}
		}
		if a.size == 0 || a.size > maxDigestSize || a.id == algSHA384 && a.size != DigestSize {
			return nil, malformed("header with digests of %d bytes for algorithm %#x", a.size, a.id)
		}
		sha384 = sha384 || a.id == algSHA384
		algorithms = append(algorithms, a)
	}
	r.take(int(r.u8())) // vendor information
	switch {
	case r.err != nil:
		return nil, malformed("header: %w", r.err)
	case len(r.b) != 0:
		return nil, malformed("header with %d bytes behind it", len(r.b))
	case !sha384:
		return nil, malformed("header without SHA-384, by which RTMRs are extended")
	}
	return algorithms, nil
}

func event(r *reader, algorithms []algorithm) (e Event, measured bool, err error) {
	index, eventType, count := r.u32(), r.u32(), r.u32()
	if r.err == nil && int64(count) != int64(len(algorithms)) {
		return e, false, fmt.Errorf("%d digests, the header declares %d", count, len(algorithms))
	}
	for _, a := range algorithms {
		id := r.u16()
		digest := r.take(int(a.size))
		if r.err != nil {
			break
		}
		if id != a.id {
			return e, false, fmt.Errorf("algorithm %#x, the header declares %#x here", id, a.id)
		}
		if id == algSHA384 {
			copy(e.Digest[:], digest)
		}
	}
	data := r.take(int(min(r.u32(), MaxSize)))
	switch {
	case r.err != nil:
		return e, false, r.err
	case eventType == noAction && index <= Registers:
		return e, false, nil
	case index == mrIndexMRTD || index > Registers:
		return e, false, fmt.Errorf("measured into register %d, and the RTMRs are %d to %d", index, mrIndexRTMR0, Registers)
	}
	e.Register, e.Type, e.Data = int(index-mrIndexRTMR0), eventType, bytes.Clone(data)
	return e, true, nil
}

// Trim returns what of the log in b is no padding. It does not copy b. Evidence in an
// extension has less than 65,536 bytes, which a CCEL table with its padding has by itself.
func Trim(b []byte) ([]byte, error) {
	l, err := Parse(b)
	if err != nil {
		return nil, err
	}
	return b[:l.size:l.size], nil
}

// Replay returns what the RTMRs are after the events of l: from zeros, each event has
// SHA-384(RTMR ‖ digest) take the place of its RTMR.
func (l *Log) Replay() (rtmrs [Registers][DigestSize]byte) {
	for i := range l.Events {
		e := &l.Events[i]
		h := sha512.New384()
		h.Write(rtmrs[e.Register][:])
		h.Write(e.Digest[:])
		h.Sum(rtmrs[e.Register][:0])
	}
	return rtmrs
}

// Digests returns the digests that were measured into each RTMR, in their order.
func (l *Log) Digests() (digests [Registers][][DigestSize]byte) {
	for i := range l.Events {
		e := &l.Events[i]
		digests[e.Register] = append(digests[e.Register], e.Digest)
	}
	return digests
}

// Check reports why l is not the log of a guest whose quote has these RTMRs, or nil.
// The last RTMR is for what runs in the guest, which extends it without writing to this
// log: it is compared only if the log has events for it. An error is an
// [attestext.ErrSignature], for what the platform signed contradicts the log.
func (l *Log) Check(quoted [Registers][DigestSize]byte) error {
	replayed, digests := l.Replay(), l.Digests()
	for i := range quoted {
		if i == Registers-1 && len(digests[i]) == 0 {
			continue
		}
		if replayed[i] != quoted[i] {
			return attestext.Errorf(attestext.ErrSignature, "replay event log", "its %d events of RTMR%d come to %x…, the quote has %x…", len(digests[i]), i, replayed[i][:8], quoted[i][:8])
		}
	}
	return nil
}

var errShort = errors.New("log ends in the middle")

// A reader reads integers in little-endian order. After err it reads zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n > len(r.b) {
		if r.err == nil {
			r.err = errShort
		}
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}
