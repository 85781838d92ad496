package configfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/eventlog"
)

// WithEventLog returns a Quoter that sends the event log of this TDX guest beside each
// quote of q, as [attester.WithEventLog] does. The log is in the file path, of
// [eventlog.MaxSize] bytes at most; that is [attester.CCELPath], but for tests. Where there
// is no such file, because the machine is another guest or its firmware keeps no log, it
// returns q.
//
// One that is there and cannot be read, which takes root, or is no log, is an error, at
// once and later with each quote: a relying party that wants to see the log would
// refuse a quote without it, for a reason that is here.
//
// It is not what [Quoter] does by itself, for three reasons. The log tells each peer which
// firmware, boot loader and kernel this is, and names devices and disks. It makes
// evidence several times as long, which has less than 65,536 bytes beside a certificate.
// And where a program extends one of RTMR0 to RTMR2 and does not write it there, the
// replay comes to something else than the quote, which relying parties refuse.
func WithEventLog(q attester.Quoter, path string) (attester.Quoter, error) {
	read := func() ([]byte, error) {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return io.ReadAll(io.LimitReader(file, eventlog.MaxSize+1)) // one too many is refused
	}
	b, err := read()
	if errors.Is(err, fs.ErrNotExist) {
		return q, nil
	}
	if err == nil {
		_, err = eventlog.Parse(b)
	}
	if err != nil {
		return nil, fmt.Errorf("event log of this guest: %w", err)
	}
	return attester.WithEventLog(q, read), nil
}
