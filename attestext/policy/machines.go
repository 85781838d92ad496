package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/internal/strictjson"
)

// A MachineStore remembers from which machine each peer attested when it was first
// accepted. Peers are names of the relying party's choosing, such as that of a server,
// and machines are identities as in [attestext.Appraisal]. Its methods are called
// concurrently, and from several processes where they share a store.
type MachineStore interface {
	// Known returns the machine that is recorded for peer, or "" if there is none.
	Known(peer string) (machine string, err error)
	// Record records machine for peer unless there is one already, and returns the one
	// that is then recorded. Of two calls at a time, one records, and both return what
	// it did.
	Record(peer, machine string) (recorded string, err error)
}

// FirstUse decides whether peer may attest from machine, by trust on first use: the
// machine from which it first does so is recorded, and any other refused from then on.
// It is to be called once everything else about the evidence has been decided: only
// where verdict is Affirming is a machine recorded, and a peer that has none recorded is
// otherwise refused. first says that it was recorded by this call.
//
// A machine without an identity, which is "" or has only zeros behind its scheme, is
// refused. Errors are of class [attestext.ErrPolicy], or of [attestext.ErrUnavailable]
// where the store fails.
func FirstUse(s MachineStore, peer, machine string, verdict Verdict) (first bool, err error) {
	const op = "compare machine"
	refuse := func(format string, args ...any) (bool, error) {
		return false, attestext.Errorf(attestext.ErrPolicy, op, format, args...)
	}
	fail := func(err error) (bool, error) {
		return false, &attestext.Error{Class: attestext.ErrUnavailable, Op: op, Err: err}
	}
	if peer == "" {
		return fail(errors.New("the peer has no name to record its machine under"))
	}
	if !identifies(machine) {
		return refuse("%q has to attest from the same machine each time, and its evidence names none", peer)
	}
	known, err := s.Known(peer)
	if err != nil {
		return fail(err)
	}
	if known == "" {
		if verdict != Affirming {
			return refuse("%q has no machine recorded, and one is recorded where the verdict is affirming only; it is %v", peer, verdict)
		}
		if known, err = s.Record(peer, machine); err != nil {
			return fail(err)
		}
		first = known == machine
	}
	if known != machine {
		where := ""
		if f, ok := s.(*FileMachines); ok {
			where = ", the file " + f.path(peer)
		}
		return refuse("%q attested from %s before, and now from %s: somebody may divert its traffic to a machine of theirs; "+
			"if the machine was replaced on purpose, remove the record of the old one%s", peer, known, machine, where)
	}
	return first, nil
}

// identifies reports whether machine tells one machine from another.
func identifies(machine string) bool {
	_, id, ok := strings.Cut(machine, ":")
	if !ok {
		id = machine
	}
	return strings.Trim(id, "0") != ""
}

// A MemoryMachines is a MachineStore that lasts as long as the process. The zero value is
// empty.
type MemoryMachines struct {
	mu sync.Mutex
	m  map[string]string
}

// Known implements [MachineStore].
func (s *MemoryMachines) Known(peer string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[peer], nil
}

// Record implements [MachineStore].
func (s *MemoryMachines) Record(peer, machine string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = make(map[string]string)
	}
	if s.m[peer] == "" {
		s.m[peer] = machine
	}
	return s.m[peer], nil
}

// A FileMachines is a MachineStore in a directory, with a file for each peer: its name,
// escaped as in the query of a URL, with ".json" behind it, and in it
//
//	{"peer": TEXT, "machine": TEXT}
//
// A record appears as a whole or not at all, and is never overwritten, so that
// processes may share the directory. To accept another machine, remove the file. The
// directory has to be on a file system with hard links, and writable for this user alone:
// whoever writes there decides which machines are accepted.
type FileMachines struct{ dir string }

// OpenFileMachines returns the store in dir, which is created if there is none. One that
// every user of the machine may write to is refused.
func OpenFileMachines(dir string) (*FileMachines, error) {
	if dir == "" {
		return nil, errors.New("open machine store: no directory")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open machine store: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("open machine store: %w", err)
	}
	// Windows has no such bits, and Go makes them up.
	const othersWrite = 0o002
	if runtime.GOOS != "windows" && info.Mode().Perm()&othersWrite != 0 {
		return nil, fmt.Errorf("open machine store: anybody may write to %s, and decide which machines are accepted: remove that permission", dir)
	}
	return &FileMachines{dir}, nil
}

// machineRecord is the contents of a file.
type machineRecord struct {
	Peer    string `json:"peer"`
	Machine string `json:"machine"`
}

const (
	recordSuffix = ".json"
	// maxRecordName bounds the name of a file, below what file systems allow.
	maxRecordName = 200
	maxRecordSize = 4 << 10
)

func (s *FileMachines) path(peer string) string {
	return filepath.Join(s.dir, url.QueryEscape(peer)+recordSuffix)
}

// Known implements [MachineStore].
func (s *FileMachines) Known(peer string) (string, error) {
	path := s.path(peer)
	if len(filepath.Base(path)) > maxRecordName {
		return "", fmt.Errorf("name of a peer of %d bytes, which is too long to record a machine for", len(peer))
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read machine store: %w", err)
	}
	var r machineRecord
	if len(b) > maxRecordSize {
		err = errors.New("too long")
	} else {
		err = strictjson.Unmarshal(b, &r)
	}
	// Another peer's name is there where the file system does not tell case apart.
	if err == nil && (r.Peer != peer || !identifies(r.Machine)) {
		err = fmt.Errorf("it is of the peer %q and the machine %q", r.Peer, r.Machine)
	}
	if err != nil {
		return "", fmt.Errorf("read machine store: %s is no record of %q: %w", path, peer, err)
	}
	return r.Machine, nil
}

// Record implements [MachineStore].
func (s *FileMachines) Record(peer, machine string) (string, error) {
	if known, err := s.Known(peer); err != nil || known != "" {
		return known, err
	}
	b, err := json.MarshalIndent(&machineRecord{peer, machine}, "", "  ")
	if err == nil {
		err = s.link(append(bytes.TrimSpace(b), '\n'), s.path(peer))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("write machine store: %w", err)
	}
	known, err := s.Known(peer) // perhaps somebody else was first
	if err == nil && known == "" {
		err = fmt.Errorf("write machine store: the record of %q is gone as soon as it is written", peer)
	}
	return known, err
}

// link has a file with the contents b appear at path, or fails with fs.ErrExist if there
// is one.
func (s *FileMachines) link(b []byte, path string) error {
	f, err := os.CreateTemp(s.dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}
