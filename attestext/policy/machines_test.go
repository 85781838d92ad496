package policy_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
)

func stores(t *testing.T) map[string]policy.MachineStore {
	files, err := policy.OpenFileMachines(filepath.Join(t.TempDir(), "machines"))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]policy.MachineStore{"memory": &policy.MemoryMachines{}, "files": files}
}

func TestMachineOfFirstUseIsTheOneThatIsAcceptedLater(t *testing.T) {
	for name, s := range stores(t) {
		t.Run(name, func(t *testing.T) {
			use := func(peer, machine string, v policy.Verdict) (bool, error) {
				t.Helper()
				return policy.FirstUse(s, peer, machine, v)
			}
			refused := func(peer, machine string, v policy.Verdict, say string) {
				t.Helper()
				if first, err := use(peer, machine, v); first || !errors.Is(err, attestext.ErrPolicy) || !strings.Contains(err.Error(), say) {
					t.Errorf("got %v, want %q", err, say)
				}
			}
			refused("a.example:443", "snp-chip:01", policy.Warning, "it is warning")
			refused("a.example:443", "snp-chip:01", policy.Contraindicated, "it is contraindicated")
			if known, err := s.Known("a.example:443"); known != "" || err != nil {
				t.Fatalf("recorded without an affirming verdict: %q, %v", known, err)
			}
			for _, none := range []string{"", "snp-chip:", "snp-chip:" + strings.Repeat("00", 64), "tdx-platform:" + strings.Repeat("00", 16), "0000"} {
				refused("a.example:443", none, policy.Affirming, "names none")
			}
			if first, err := use("a.example:443", "snp-chip:01", policy.Affirming); !first || err != nil {
				t.Fatalf("first use: %v, %v", first, err)
			}
			for _, v := range []policy.Verdict{policy.Affirming, policy.Warning} {
				if first, err := use("a.example:443", "snp-chip:01", v); first || err != nil {
					t.Errorf("second use: %v, %v", first, err)
				}
			}
			refused("a.example:443", "snp-chip:02", policy.Affirming, `"a.example:443" attested from snp-chip:01 before, and now from snp-chip:02`)
			refused("a.example:443", "tdx-platform:01", policy.Affirming, "before, and now from")
			refused("a.example:443", "", policy.Affirming, "names none")
			if first, err := use("b.example:443", "snp-chip:02", policy.Affirming); !first || err != nil {
				t.Errorf("other peer: %v, %v", first, err)
			}
			if _, err := use("", "snp-chip:02", policy.Affirming); !errors.Is(err, attestext.ErrUnavailable) {
				t.Errorf("no name: %v", err)
			}
		})
	}
}

// TestOneMachineIsRecordedOfMany: of machines that attest at the same time, one is
// recorded, and all others are refused.
func TestOneMachineIsRecordedOfMany(t *testing.T) {
	for name, s := range stores(t) {
		t.Run(name, func(t *testing.T) {
			var wg sync.WaitGroup
			var mu sync.Mutex
			accepted := map[string]bool{}
			for i := range 16 {
				wg.Go(func() {
					machine := fmt.Sprintf("snp-chip:%02x", i+1)
					if _, err := policy.FirstUse(s, "peer", machine, policy.Affirming); err == nil {
						mu.Lock()
						defer mu.Unlock()
						accepted[machine] = true
					}
				})
			}
			wg.Wait()
			known, err := s.Known("peer")
			if err != nil || len(accepted) != 1 || !accepted[known] {
				t.Errorf("accepted %v, recorded %q, %v", accepted, known, err)
			}
		})
	}
}

func TestFileOfARecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machines")
	open := func() *policy.FileMachines {
		s, err := policy.OpenFileMachines(dir)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const peer = "../a.example:443"
	if _, err := policy.FirstUse(open(), peer, "snp-chip:01", policy.Affirming); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "..%2Fa.example%3A443.json")
	b, err := os.ReadFile(path)
	if err != nil || string(b) != "{\n  \"peer\": \"../a.example:443\",\n  \"machine\": \"snp-chip:01\"\n}\n" {
		t.Fatalf("%s, %v", b, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%d files", len(entries))
	}
	_, err = policy.FirstUse(open(), peer, "snp-chip:02", policy.Affirming)
	if !errors.Is(err, attestext.ErrPolicy) || !strings.Contains(err.Error(), path) {
		t.Errorf("a change does not tell the operator which file to remove: %v", err)
	}
	for _, bad := range []string{"", "{}", "null", string(b[:len(b)-3]), `{"peer":"other","machine":"snp-chip:01"}`,
		`{"peer":"../a.example:443","machine":""}`, `{"peer":"../a.example:443","machine":"snp-chip:00"}`,
		`{"peer":"../a.example:443","machine":"snp-chip:02","machine":"snp-chip:01"}`, strings.Repeat(" ", 5000)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := policy.FirstUse(open(), peer, "snp-chip:01", policy.Affirming); !errors.Is(err, attestext.ErrUnavailable) {
			t.Errorf("record %.40q: %v", bad, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if first, err := policy.FirstUse(open(), peer, "snp-chip:02", policy.Affirming); !first || err != nil {
		t.Errorf("after the record was removed: %v, %v", first, err)
	}
	if _, err := policy.FirstUse(open(), strings.Repeat("x", 300), "snp-chip:02", policy.Affirming); !errors.Is(err, attestext.ErrUnavailable) {
		t.Errorf("long name: %v", err)
	}
	if _, err := policy.OpenFileMachines(""); err == nil {
		t.Error("no directory accepted")
	}
}

func TestRecordThatCannotBeWrittenIsARefusal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "machines")
	s, err := policy.OpenFileMachines(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := policy.FirstUse(s, "peer", "snp-chip:01", policy.Affirming); !errors.Is(err, attestext.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}
