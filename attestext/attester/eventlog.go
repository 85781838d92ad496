package attester

import (
	"context"
	"fmt"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/eventlog"
	"github.com/attestedtls/atls/attestext/tsm"
)

// CCELPath is where Linux has the event log of a TDX guest.
const CCELPath = "/sys/firmware/acpi/tables/data/CCEL"

// WithEventLog returns a Quoter whose TDX reports have an event log beside the quote,
// without its padding, in auxblob, which providers of TDX leave empty. read returns the
// log, for example the file [CCELPath]; it is called for each quote, concurrently. Reports
// of other providers are left as they are.
//
// A log is often of several ten thousand bytes, and evidence beside a certificate has
// less than 65,536 in all.
func WithEventLog(q Quoter, read func() ([]byte, error)) Quoter {
	return &loggedQuoter{q, read}
}

type loggedQuoter struct {
	quoter Quoter
	read   func() ([]byte, error)
}

func (l *loggedQuoter) Report(ctx context.Context, reportData [attestext.ReportDataSize]byte) (*tsm.Report, error) {
	r, err := l.quoter.Report(ctx, reportData)
	if err != nil || r.Provider != tsm.ProviderTDX {
		return r, err
	}
	if len(r.AuxBlob) != 0 {
		return nil, fmt.Errorf("add event log: the report has %d bytes in auxblob already", len(r.AuxBlob))
	}
	// Read after the quote: an event between the two has the replay fail for this
	// session, and the other order would as well.
	log, err := l.read()
	if err != nil {
		return nil, fmt.Errorf("read event log: %w", err)
	}
	if log, err = eventlog.Trim(log); err != nil {
		return nil, fmt.Errorf("read event log: %w", err)
	}
	with := *r
	with.AuxBlob = log
	return &with, nil
}
