// Package configfs has the machine that a program runs on sign its evidence, through
// the interface that Linux has for it since version 6.7: configfs-tsm, in
// /sys/kernel/config/tsm/report. It serves TDX and SEV-SNP guests alike, and hands
// on what other providers say.
package configfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/sevsnp"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/tsm"
	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/linuxtsm"
	"github.com/google/go-configfs-tsm/report"
)

// A Quoter is an [attester.Quoter] on configfs-tsm. It asks the kernel for one
// report at a time: the hardware takes no more.
type Quoter struct {
	client configfsi.Client
	turn   chan struct{} // holds one token while somebody is served
}

var _ attester.Quoter = (*Quoter)(nil)

const op = "ask the kernel for a report"

func unavailable(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrUnavailable, op, format, args...)
}

// New returns a Quoter on the kernel's interface. Where there is none, because the
// machine is no confidential guest, or its kernel too old, or configfs is not
// mounted, or the caller may not see it, the error says so; it is of class
// [attestext.ErrUnavailable].
func New() (*Quoter, error) {
	client, err := linuxtsm.MakeClient()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, unavailable("this machine offers no TEE: %w (that takes a TDX or SEV-SNP guest, Linux 6.7 or later with the module tdx_guest or sev-guest, and configfs mounted)", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, unavailable("%w (it takes root, or access to that directory)", err)
	case err != nil:
		return nil, unavailable("%w", err)
	}
	return NewClient(client), nil
}

// NewClient returns a Quoter on client, such as go-configfs-tsm's faketsm.
func NewClient(client configfsi.Client) *Quoter {
	return &Quoter{client, make(chan struct{}, 1)}
}

// Report has the kernel sign reportData. It returns when ctx is done, and the kernel
// then finishes by itself. Quotes in buffers that are longer are cut to their size,
// and the certificates that an SEV-SNP host sends along are kept. Errors are of
// class [attestext.ErrUnavailable].
func (q *Quoter) Report(ctx context.Context, reportData [attestext.ReportDataSize]byte) (*tsm.Report, error) {
	select {
	case q.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, unavailable("%w while another report is being made", ctx.Err())
	}
	type result struct {
		report *tsm.Report
		err    error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-q.turn }()
		r, err := q.get(reportData)
		done <- result{r, err}
	}()
	select {
	case r := <-done:
		return r.report, r.err
	case <-ctx.Done():
		return nil, unavailable("%w", ctx.Err())
	}
}

// get reads what one entry of the interface has to say. Each has its own
// directory, so that another program does not come in between; ReadOption notices
// if one does.
func (q *Quoter) get(reportData [attestext.ReportDataSize]byte) (_ *tsm.Report, err error) {
	entry, err := report.Create(q.client, &report.Request{})
	if err != nil {
		return nil, unavailable("%w", err)
	}
	defer func() {
		if e := entry.Destroy(); e != nil && err == nil {
			err = unavailable("%w", e)
		}
	}()
	if err := entry.WriteOption("inblob", reportData[:]); err != nil {
		return nil, unavailable("%w", err)
	}
	provider, err := entry.ReadOption("provider")
	if err != nil {
		return nil, unavailable("%w", err)
	}
	r := &tsm.Report{Provider: strings.TrimSpace(string(provider))}
	// Only providers that have something to say there have the attribute; among
	// them it may be empty. It must be there for SEV-SNP, where its absence would
	// otherwise come out as a missing certificate, far from here.
	aux, err := entry.ReadOption("auxblob")
	switch {
	case err == nil && len(aux) > 0:
		r.AuxBlob = aux
	case err != nil && r.Provider == tsm.ProviderSNP:
		return nil, unavailable("%w", err)
	}
	if r.OutBlob, err = entry.ReadOption("outblob"); err != nil {
		return nil, unavailable("%w", err)
	}
	if err := cut(r, reportData); err != nil {
		return nil, err
	}
	return r, nil
}

// cut cuts the quote in r out of the buffer that it came in, and checks that it is
// about reportData: evidence that cannot be right is better not sent.
func cut(r *tsm.Report, reportData [attestext.ReportDataSize]byte) error {
	var got []byte
	switch r.Provider {
	case tsm.ProviderTDX:
		n, err := tdx.QuoteSize(r.OutBlob)
		if err != nil {
			return unavailable("the kernel's quote: %w", plain(err))
		}
		r.OutBlob = r.OutBlob[:n:n]
		got = r.OutBlob[tdx.ReportDataOffset:]
	case tsm.ProviderSNP:
		b := r.OutBlob
		if len(b) < sevsnp.ReportSize || len(bytes.Trim(b[sevsnp.ReportSize:], "\x00")) != 0 {
			return unavailable("the kernel's report has %d bytes, want %d", len(b), sevsnp.ReportSize)
		}
		r.OutBlob = b[:sevsnp.ReportSize:sevsnp.ReportSize]
		got = r.OutBlob[sevsnp.ReportDataOffset:]
	default:
		if len(r.OutBlob) == 0 {
			return unavailable("provider %q has nothing to say", r.Provider)
		}
		return nil
	}
	if !bytes.HasPrefix(got, reportData[:]) {
		return unavailable("the kernel's report is about other data than it was given")
	}
	return nil
}

// plain hides the class of err: that the kernel's quote is malformed is not the
// peer's doing.
func plain(err error) error { return fmt.Errorf("%v", err) }
