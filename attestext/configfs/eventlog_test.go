package configfs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext/attester"
	"github.com/attestedtls/atls/attestext/configfs"
	"github.com/attestedtls/atls/attestext/eventlog"
	"github.com/attestedtls/atls/attestext/softtee"
)

// logged returns a TDX guest with an event log in the file that it returns as well.
func logged(t *testing.T, log []byte) (attester.Quoter, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "CCEL")
	put(t, path, log)
	q, err := configfs.WithEventLog(configfs.NewClient(machines["TDX"]().client()), path)
	if err != nil {
		t.Fatal(err)
	}
	return q, path
}

func put(t *testing.T, path string, log []byte) {
	t.Helper()
	if err := os.WriteFile(path, log, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEventLogOfTheGuestGoesWithEachQuote(t *testing.T) {
	log := softtee.EventLog(eventlog.Event{Register: 1, Data: []byte("kernel")})
	q, path := logged(t, append(bytes.Clone(log), make([]byte, 4096)...))
	for range 2 {
		r, err := q.Report(t.Context(), [64]byte{1})
		if err != nil || !bytes.Equal(r.AuxBlob, log) || len(r.OutBlob) == 0 {
			t.Fatalf("%v, %v", r, err)
		}
		log = softtee.EventLog(eventlog.Event{Register: 1, Data: []byte("kernel")}, eventlog.Event{Register: 2, Data: []byte("more")})
		put(t, path, log) // events come in while the guest runs
	}
	for name, spoil := range map[string]func() error{
		"malformed": func() error { return os.WriteFile(path, log[:len(log)-1], 0o600) },
		"gone":      func() error { return os.Remove(path) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Report(t.Context(), [64]byte{1}); err == nil || !strings.Contains(err.Error(), "read event log") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What has no log has none to send, and what has one that is not good does not attest.
func TestGuestWithoutAnEventLog(t *testing.T) {
	dir := t.TempDir()
	none := filepath.Join(dir, "CCEL")
	for _, name := range []string{"TDX", "SNP"} {
		plain := configfs.NewClient(machines[name]().client())
		if q, err := configfs.WithEventLog(plain, none); q != attester.Quoter(plain) || err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := append(softtee.EventLog(), make([]byte, eventlog.MaxSize)...)
	for name, c := range map[string]struct {
		log []byte
		say string
	}{
		"empty":    {[]byte{}, "event log"},
		"no log":   {[]byte("CCEL"), "event log"},
		"too long": {long, "at most 1048576 are read"},
		"no file":  {nil, "is a directory"},
	} {
		path := filepath.Join(dir, name)
		if c.log == nil {
			path = dir // cannot be read, by root either
		} else {
			put(t, path, c.log)
		}
		if _, err := configfs.WithEventLog(configfs.NewClient(machines["TDX"]().client()), path); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
