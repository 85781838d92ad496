package enroll

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// An Entry is a line of the log: a certificate that was issued, or a machine that was
// appraised and got none.
type Entry struct {
	Time   time.Time `json:"time"`
	Issued bool      `json:"issued"`
	Remote string    `json:"remote"`
	Names  []string  `json:"names,omitempty"`

	// Of a certificate: its number in hexadecimal, when it ends, and the SHA-256 of its
	// SubjectPublicKeyInfo in hexadecimal.
	Serial   string    `json:"serial,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	Key      string    `json:"spki_sha256,omitempty"`

	// Of a refusal.
	Code   Code   `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`

	// What the evidence said.
	Verdict  string         `json:"verdict,omitempty"`
	Machine  string         `json:"machine,omitempty"`
	Claims   map[string]any `json:"claims,omitempty"`
	Evidence string         `json:"evidence_sha256,omitempty"`
}

const (
	maxLine   = 1 << 20
	maxIssued = 1 << 16 // certificates that have not expired
)

// A Log keeps what an authority did, one JSON object a line, and only ever adds to it.
// What it has not written, the authority has not done. Its methods may be called
// concurrently.
type Log struct {
	mu     sync.Mutex
	w      logFile
	broken error
	issued []Entry // that have not expired
}

type logFile interface {
	io.Writer
	io.Closer
	Sync() error
}

// OpenLog opens the log in a file, which it makes if there is none, and reads which
// certificates have not expired at the time now: they may have to be revoked. One process
// may write it at a time.
func OpenLog(path string, now time.Time) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &Log{w: f}
	if l.issued, err = readIssued(f, now); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// readIssued reads the certificates in a log that have not expired.
func readIssued(r io.Reader, now time.Time) ([]Entry, error) {
	var issued []Entry
	s := bufio.NewReaderSize(r, 64<<10)
	for n := 1; ; n++ {
		line, err := readLine(s)
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return issued, nil
		}
		var e Entry
		if err == nil {
			err = e.parse(line)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d of the log is broken, repair it or begin a new one: %w", n, err)
		}
		if e.Issued && now.Before(e.NotAfter) {
			issued = append(issued, e)
		}
	}
}

// parse reads e out of a line. Numbers among the claims stay as they are written: a
// float64 has not all digits of a large one, by which it may be revoked.
func (e *Entry) parse(line []byte) error {
	if !json.Valid(line) {
		return errors.New("it is not one JSON value")
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	return d.Decode(e)
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		}
		return bytes.TrimSuffix(line, []byte("\n")), err
	}
}

// append writes e, and makes sure that it stays written.
func (l *Log) append(e *Entry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if len(b) > maxLine {
		return fmt.Errorf("an entry of %d bytes", len(b))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return l.broken
	}
	if e.Issued {
		l.expire(e.Time)
		if len(l.issued) >= maxIssued {
			return fmt.Errorf("%d certificates have not expired", len(l.issued))
		}
	}
	if l.w != nil {
		_, err = l.w.Write(append(b, '\n'))
		if err == nil {
			err = l.w.Sync()
		}
		if err != nil {
			// The line may be there in part: another behind it could not be read.
			l.broken = fmt.Errorf("the log: %w", err)
			return l.broken
		}
	}
	if e.Issued {
		l.issued = append(l.issued, *e)
	}
	return nil
}

// expire forgets what has expired; l.mu is held.
func (l *Log) expire(now time.Time) {
	kept := l.issued[:0]
	for _, e := range l.issued {
		if now.Before(e.NotAfter) {
			kept = append(kept, e)
		}
	}
	clear(l.issued[len(kept):])
	l.issued = kept
}

// current returns the certificates that have not expired.
func (l *Log) current(now time.Time) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	return append([]Entry(nil), l.issued...)
}

// Close closes the file.
func (l *Log) Close() error {
	if l.w == nil {
		return nil
	}
	return l.w.Close()
}
