package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/attestedtls/atls/internal/compare"
)

// TestInterruptedComparisonSaysHowToGoOn: and keeps what was finished, without a report.
func TestInterruptedComparisonSaysHowToGoOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	ctx, cancel := context.WithCancel(t.Context())
	var out interrupting
	out.cancel = cancel
	var errs bytes.Buffer
	args := []string{"compare", "--quick", "--out", dir, "--modes", "passport", "--rtt", "0", "--net", "delay", "--json"}
	status := run(ctx, args, strings.NewReader(""), &out, &errs)
	if status == statusOK || !strings.Contains(errs.String(), "interrupted") || !strings.Contains(errs.String(), "--resume --out "+dir) {
		t.Fatalf("status %d: %s", status, &errs)
	}
	r, err := compare.ReadRun(filepath.Join(dir, compare.RunFile))
	if err != nil {
		t.Fatal(err)
	}
	if r.End != nil || len(r.Rounds) == 0 {
		t.Error("want some rounds, and no end")
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("%v, want %s alone", list, compare.RunFile)
	}
	// Without --resume the run is left alone.
	status, _, text := runAtls(t, args...)
	if status != statusUsage || !strings.Contains(text, "--resume") {
		t.Errorf("status %d: %s", status, text)
	}
	// The report of what there is, in a directory that is not there yet.
	report := filepath.Join(dir, "report")
	if status, stdout, text := runAtls(t, "compare", "--from", filepath.Join(dir, compare.RunFile), "--out", report); status != statusOK || !strings.Contains(stdout, reportFile) {
		t.Errorf("status %d: %s", status, text)
	}
	if _, err := os.Stat(filepath.Join(report, reportFile)); err != nil {
		t.Error(err)
	}
}

// An interrupting writer is at the terminal of somebody who gives up after one round.
type interrupting struct {
	bytes.Buffer
	cancel func()
}

func (w *interrupting) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(`"object":"round"`)) {
		w.cancel()
	}
	return w.Buffer.Write(b)
}
