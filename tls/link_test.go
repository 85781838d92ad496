// Copyright 2020 The Go Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package tls

import (
	"bytes"
	"github.com/attestedtls/atls/tls/internal/testenv"
	"os"
	"path/filepath"
	"testing"
)

// Tests that the linker is able to remove references to the Client or Server if unused.
func TestLinkerGC(t *testing.T) {
	if testing.Short() {
		t.Skip("skipping in short mode")
	}
	t.Parallel()

	tests := []struct {
		name    string
		program string
		want    []string
		bad     []string
	}{
		{
			name: "empty_import",
			program: `package main
import _ "github.com/attestedtls/atls/tls"
func main() {}
`,
			bad: []string{
				"tls.(*Conn)",
				"type:github.com/attestedtls/atls/tls.clientHandshakeState",
				"type:github.com/attestedtls/atls/tls.serverHandshakeState",
			},
		},
		{
			name: "client_and_server",
			program: `package main
import "github.com/attestedtls/atls/tls"
func main() {
  tls.Dial("", "", nil)
  tls.Server(nil, nil)
}
`,
			want: []string{
				"github.com/attestedtls/atls/tls.(*Conn).clientHandshake",
				"github.com/attestedtls/atls/tls.(*Conn).serverHandshake",
			},
		},
		{
			name: "only_client",
			program: `package main
import "github.com/attestedtls/atls/tls"
func main() { tls.Dial("", "", nil) }
`,
			want: []string{
				"github.com/attestedtls/atls/tls.(*Conn).clientHandshake",
			},
			bad: []string{
				"github.com/attestedtls/atls/tls.(*Conn).serverHandshake",
			},
		},
		// TODO: add only_server like func main() { tls.Server(nil, nil) }
		// That currently brings in the client via Conn.handleRenegotiation.

	}
	tmpDir := t.TempDir()
	goFile := filepath.Join(tmpDir, "x.go")
	exeFile := filepath.Join(tmpDir, "x.exe")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(goFile, []byte(tt.program), 0644); err != nil {
				t.Fatal(err)
			}
			os.Remove(exeFile)
			cmd := testenv.Command(t, testenv.GoToolPath(t), "build", "-o", exeFile, goFile)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("compile: %v\n%s", err, out)
			}

			cmd = testenv.Command(t, testenv.GoToolPath(t), "tool", "nm", "x.exe")
			cmd.Dir = tmpDir
			nm, err := testenv.CleanCmdEnv(cmd).CombinedOutput()
			if err != nil {
				t.Fatalf("nm: %v\n%s", err, nm)
			}
			for _, sym := range tt.want {
				if !bytes.Contains(nm, []byte(sym)) {
					t.Errorf("expected symbol %q not found", sym)
				}
			}
			for _, sym := range tt.bad {
				if bytes.Contains(nm, []byte(sym)) {
					t.Errorf("unexpected symbol %q found", sym)
				}
			}
		})
	}
}
