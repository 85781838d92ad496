package main

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/configfs"
	"github.com/attestedtls/atls/attestext/eventlog"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
)

// readEventLog returns what reads the file of --event-log, which it has read once, and the
// log that was in it; nil without the flag.
func (f *connFlags) readEventLog() (read func() ([]byte, error), log *eventlog.Log, err error) {
	if f.eventLog == "" {
		return nil, nil, nil
	}
	read = func() ([]byte, error) { return readFile("event-log", f.eventLog) }
	b, err := read()
	if err != nil {
		return nil, nil, err
	}
	if log, err = eventlog.Parse(b); err != nil {
		return nil, nil, &malformedError{fmt.Errorf("--event-log: %s: %w", f.eventLog, err)}
	}
	return read, log, nil
}

// softTDX returns the TDX of softtee, which has measured what --event-log says.
func (f *connFlags) softTDX() (attester.Quoter, error) {
	read, log, err := f.readEventLog()
	if err != nil || log == nil {
		return softtee.NewTDX(nil), err
	}
	rtmrs := log.Replay()
	q := softtee.NewTDX(&softtee.TDXOptions{Modify: func(q *tdx.Quote) { q.RTMRs = rtmrs }})
	return attester.WithEventLog(q, read), nil
}

// autoLog is the value of --event-log that stands for the log of this guest.
const autoLog = "auto"

// ccelPath is where that is. Tests have another.
var ccelPath = attester.CCELPath

// logged returns q with the log of --event-log beside its quotes, if there is one.
func (f *connFlags) logged(q attester.Quoter) (attester.Quoter, error) {
	if f.eventLog == autoLog {
		l, err := configfs.WithEventLog(q, ccelPath)
		switch {
		case errors.Is(err, attestext.ErrMalformed):
			return nil, &malformedError{fmt.Errorf("--event-log auto: %w", err)}
		case err != nil:
			return nil, usagef("it takes root to read it; --event-log FILE sends a copy", "--event-log auto: %w", err)
		}
		return l, nil
	}
	read, log, err := f.readEventLog()
	if err != nil || log == nil {
		return q, err
	}
	return attester.WithEventLog(q, read), nil
}

// eventLogTree describes an event log that came with a quote. rtmrs are the quote's.
func eventLogTree(b []byte, rtmrs [eventlog.Registers][eventlog.DigestSize]byte) *node {
	l, err := eventlog.Parse(b)
	if err != nil {
		return branch("auxblob", sizeOf(b), leaf("does not parse", err.Error()))
	}
	n := branch("event log", fmt.Sprintf("%s, %d events", sizeOf(b), len(l.Events)))
	if err := l.Check(rtmrs); err != nil {
		n.add(leaf("does not fit the quote", err.Error()))
	} else {
		n.add(leaf("fits the quote", "its replay comes to the RTMRs"))
	}
	for i := range l.Events {
		e := &l.Events[i]
		event := branch(fmt.Sprintf("RTMR%d", e.Register), fmt.Sprintf("type %#x", e.Type), leaf("digest", hex.EncodeToString(e.Digest[:])))
		if e.DataMatches() {
			event.add(leaf("data, which was measured", fmt.Sprintf("%.64q", e.Data)))
		} else {
			event.add(leaf("data, for which nothing vouches", sizeOf(e.Data)))
		}
		n.add(event)
	}
	return n
}
