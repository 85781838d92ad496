package eventlog_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/eventlog"
	"github.com/attestedtls/atls/internal/fuzzbound"
)

var le = binary.LittleEndian

const sha384 = 0x0c

type alg struct{ id, size uint16 }

var only384 = []alg{{sha384, 48}}

// header writes TCG_PCR_EVENT with TCG_EfiSpecIdEvent, by hand after the profile.
func header(algs []alg) []byte {
	data := []byte("Spec ID Event03\x00")
	data = le.AppendUint32(data, 0)
	data = append(data, 0, 2, 0, 2)
	data = le.AppendUint32(data, uint32(len(algs)))
	for _, a := range algs {
		data = le.AppendUint16(le.AppendUint16(data, a.id), a.size)
	}
	return headerOf(append(data, 0))
}

func headerOf(data []byte) []byte {
	b := le.AppendUint32(nil, 0)
	b = le.AppendUint32(b, 3)
	b = append(b, make([]byte, 20)...)
	b = le.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func event(index, eventType uint32, data string) []byte {
	d := sha512.Sum384([]byte(data))
	b := le.AppendUint32(nil, index)
	b = le.AppendUint32(b, eventType)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint16(b, sha384)
	b = append(b, d[:]...)
	b = le.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func sample() []byte {
	return join(header(only384), event(1, 0x80000001, "firmware"), event(2, 0x80000003, "kernel"), event(1, 4, "\x00\x00\x00\x00"), event(0, 3, "StartupLocality\x00"), event(3, 0xd, "command line"))
}

// TestReplay: RTMR = SHA-384(RTMR ‖ digest), from zeros.
func TestReplay(t *testing.T) {
	l, err := eventlog.Parse(sample())
	if err != nil {
		t.Fatal(err)
	}
	extend := func(r [48]byte, data string) [48]byte {
		d := sha512.Sum384([]byte(data))
		return sha512.Sum384(append(r[:], d[:]...))
	}
	want := [4][48]byte{
		extend(extend([48]byte{}, "firmware"), "\x00\x00\x00\x00"),
		extend([48]byte{}, "kernel"),
		extend([48]byte{}, "command line"),
	}
	if got := l.Replay(); got != want {
		t.Errorf("got %x", got)
	}
	if len(l.Events) != 4 || l.Events[1].Register != 1 || l.Events[1].Type != 0x80000003 || string(l.Events[1].Data) != "kernel" || !l.Events[1].DataMatches() {
		t.Errorf("events %+v", l.Events)
	}
	if d := l.Digests(); len(d[0]) != 2 || len(d[1]) != 1 || len(d[2]) != 1 || len(d[3]) != 0 || d[2][0] != sha512.Sum384([]byte("command line")) {
		t.Errorf("digests %x", d)
	}
	if err := l.Check(want); err != nil {
		t.Error(err)
	}
	for i := range want {
		other := want
		other[i][47] ^= 1
		err := l.Check(other)
		if runtime := i == 3; runtime != (err == nil) || !runtime && !errors.Is(err, attestext.ErrSignature) {
			t.Errorf("other RTMR%d: %v", i, err)
		}
	}
	l, err = eventlog.Parse(join(sample(), event(4, 0xd, "container")))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Check(want); !errors.Is(err, attestext.ErrSignature) || !strings.Contains(err.Error(), "RTMR3") {
		t.Errorf("events of RTMR3 that were not measured: %v", err)
	}
	l.Events[0].Data = []byte("something else")
	if l.Events[0].DataMatches() {
		t.Error("other data matches")
	}
}

func TestPadding(t *testing.T) {
	log := sample()
	for _, pad := range []string{"", "\x00", "\xff", strings.Repeat("\x00", 4096), strings.Repeat("\xff", 4096)} {
		padded := append(bytes.Clone(log), pad...)
		l, err := eventlog.Parse(padded)
		if err != nil || len(l.Events) != 4 {
			t.Fatalf("%d bytes of padding: %v", len(pad), err)
		}
		if got, err := eventlog.Trim(padded); err != nil || !bytes.Equal(got, log) {
			t.Errorf("%d bytes of padding: trimmed to %d bytes, %v", len(pad), len(got), err)
		}
	}
	for _, pad := range []string{"\x01", "\x00\xff", "\xff\x00", strings.Repeat("\x00", 100) + "\x01"} {
		if _, err := eventlog.Parse(append(bytes.Clone(log), pad...)); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("padding %q: %v", pad, err)
		}
	}
}

func TestSeveralAlgorithms(t *testing.T) {
	e := event(1, 4, "x")
	both := join(e[:8], []byte{2, 0, 0, 0}, []byte{0x0b, 0}, make([]byte, 32), e[12:])
	l, err := eventlog.Parse(join(header([]alg{{0x0b, 32}, {sha384, 48}}), both))
	if err != nil || len(l.Events) != 1 || l.Events[0].Digest != sha512.Sum384([]byte("x")) {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, err := eventlog.Parse(join(header([]alg{{sha384, 48}, {0x0b, 32}}), both)); !errors.Is(err, attestext.ErrMalformed) {
		t.Errorf("in another order: %v", err)
	}
}

func TestLogThatIsNoneIsRefused(t *testing.T) {
	log := sample()
	starts := map[int]bool{} // of events, where a shorter log is one as well
	for n, rest := len(header(only384)), log[len(header(only384)):]; ; {
		starts[n] = true
		if len(rest) == 0 {
			break
		}
		size := 4 + 4 + 4 + 2 + 48 + 4 + int(le.Uint32(rest[62:]))
		n, rest = n+size, rest[size:]
	}
	for n := range log {
		// Some bytes at the beginning of an event can be padding.
		_, err := eventlog.Parse(log[:n])
		if ok := err == nil; ok && !starts[n] && !starts[n-1] && !starts[n-2] && !starts[n-3] && !starts[n-4] {
			t.Errorf("prefix of %d bytes accepted", n)
		} else if !ok && !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("prefix of %d bytes: %v", n, err)
		}
	}
	with := func(offset int, values ...byte) []byte {
		b := bytes.Clone(log)
		copy(b[offset:], values)
		return b
	}
	h := len(header(only384))
	for name, b := range map[string][]byte{
		"empty":                      {},
		"zeros":                      make([]byte, 100),
		"too long":                   make([]byte, eventlog.MaxSize+1),
		"header measured":            with(4, 4),
		"header of another register": with(0, 9),
		"header with a digest":       with(8, 1),
		"header too long":            with(28, 0xff, 0xff, 0xff, 0xff),
		"header of another format":   with(32, 'X'),
		"header of another version":  with(32+16+4+1, 3),
		"no algorithm":               header(nil),
		"too many algorithms":        with(32+24, 0xff, 0xff, 0xff, 0xff),
		"no SHA-384":                 header([]alg{{0x0b, 32}}),
		"SHA-384 of another size":    header([]alg{{sha384, 32}}),
		"SHA-384 twice":              header([]alg{{sha384, 48}, {sha384, 48}}),
		"digest without a size":      header([]alg{{sha384, 48}, {0x0b, 0}}),
		"digest too long":            header([]alg{{sha384, 48}, {0x0b, 65}}),
		"bytes behind the header":    headerOf(append(header(only384)[32:], 0)),
		"header cut off":             headerOf(header(only384)[32 : h-1]),
		"MRTD":                       join(header(only384), event(0, 4, "x")),
		"fifth register":             join(header(only384), event(5, 4, "x")),
		"no register":                join(header(only384), event(0xfffffffe, 3, "x")),
		"no digest":                  with(h+8, 0),
		"two digests":                with(h+8, 2),
		"other algorithm":            with(h+12, 0x0b),
		"event too long":             with(h+62, 0xff, 0xff, 0xff, 0x7f),
	} {
		if _, err := eventlog.Parse(b); !errors.Is(err, attestext.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := eventlog.Trim(b); err == nil {
			t.Errorf("%s: trimmed", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample())
	f.Add(header(only384))
	f.Add(append(sample(), make([]byte, 64)...))
	f.Add(join(header([]alg{{0x0b, 32}, {sha384, 48}}), bytes.Repeat([]byte{0xff}, 9)))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer fuzzbound.Check(t, len(b))()
		l, err := eventlog.Parse(b)
		if err != nil {
			if !errors.Is(err, attestext.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		trimmed, err := eventlog.Trim(b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := eventlog.Parse(trimmed)
		if err != nil || again.Replay() != l.Replay() || len(again.Events) != len(l.Events) {
			t.Fatalf("another log without its padding: %v", err)
		}
		if err := l.Check(l.Replay()); err != nil {
			t.Fatal(err)
		}
	})
}
