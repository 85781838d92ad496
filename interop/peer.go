package interop

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

//go:embed peers
var embedded embed.FS

// Outcomes of a cell.
const (
	Passed      = "passed"
	Failed      = "failed"
	Unsupported = "unsupported"
	Skipped     = "skipped"
	Error       = "error"
)

const (
	statusUnsupported = 127

	// nonsense is a case that no peer knows.
	nonsense = "nonsense.that.no.peer.knows"

	setupTimeout   = 2 * time.Minute
	cellTimeout    = 45 * time.Second
	browserTimeout = 90 * time.Second
)

// A peer is one of the stacks. It has a folder, or is a function of this program
// with the same contract.
type peer struct {
	name string
	dir  string // where its folder was copied to
	main func(ctx context.Context, env map[string]string, log io.Writer) int

	version string
	// skip is why it cannot run here, and broken why it cannot be trusted.
	skip, broken string
}

// shared is a folder of what several peers are built from.
const shared = "c"

// peerNames lists the peers: crypto/tls, and the folders that have a program.
func peerNames() []string {
	names := []string{goName}
	entries, err := embedded.ReadDir("peers")
	if err != nil {
		panic("interop: " + err.Error())
	}
	for _, e := range entries {
		if _, err := embedded.Open("peers/" + e.Name() + "/run"); err == nil {
			names = append(names, e.Name())
		}
	}
	return names
}

// packages returns the Debian packages that a peer needs; those that are hundreds of
// megabytes only if large is set.
func packages(name string, large bool) []string {
	var all []string
	files := []string{"packages"}
	if large {
		files = append(files, "packages.large")
	}
	for _, f := range files {
		if b, err := embedded.ReadFile("peers/" + name + "/" + f); err == nil {
			all = append(all, strings.Fields(string(b))...)
		}
	}
	return all
}

// unpack copies the folder of a peer below dir. Files without a dot in their names are programs.
func unpack(name, dir string) (*peer, error) {
	p := &peer{name: name, dir: filepath.Join(dir, name)}
	root := "peers/" + name
	return p, fs.WalkDir(embedded, root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(p.dir, strings.TrimPrefix(path, root))
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		b, err := embedded.ReadFile(path)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if !strings.Contains(d.Name(), ".") {
			mode = 0o755
		}
		return os.WriteFile(to, b, mode)
	})
}

// setup readies a peer, and asks it for a case that does not exist.
func (p *peer) setup(ctx context.Context, logs string) error {
	if p.main == nil {
		out, errs, status, err := p.exec(ctx, setupTimeout, "setup", os.Environ())
		switch {
		case errors.Is(err, fs.ErrNotExist): // nothing to set up
		case err != nil: // no such interpreter, say
			p.skip = err.Error()
			return nil
		case status == statusUnsupported:
			p.skip = lastLine(errs)
			return nil
		case status != 0:
			p.skip = fmt.Sprintf("setup ended with status %d: %s", status, lastLine(errs))
			return nil
		default:
			p.version = lastLine(out)
		}
	}
	for _, role := range both {
		dir := filepath.Join(logs, "nonsense-"+role.String())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		status, err := p.run(ctx, map[string]string{
			"ATLS_INTEROP_CASE": nonsense, "ATLS_INTEROP_ROLE": role.String(), "ATLS_INTEROP_ADDRESS": "127.0.0.1:1",
			"ATLS_INTEROP_CERTS": dir, "ATLS_INTEROP_LOGS": dir, "ATLS_INTEROP_TEE": "127.0.0.1:1",
		})
		if err != nil {
			return err
		}
		if status != statusUnsupported {
			p.broken = fmt.Sprintf("asked for a case that does not exist, it ended with status %d and not %d", status, statusUnsupported)
		}
	}
	return nil
}

// run plays one end of a case, and returns the exit status. What it prints is in
// peer.log of the logs folder.
func (p *peer) run(ctx context.Context, env map[string]string) (int, error) {
	log, err := os.Create(filepath.Join(env["ATLS_INTEROP_LOGS"], "peer.log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	if p.main != nil {
		return p.main(ctx, env, log), nil
	}
	list := os.Environ()
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	out, errs, status, err := p.exec(ctx, browserTimeout, "run", list)
	log.Write(out)
	log.Write(errs)
	return status, err
}

// exec runs a program of the peer's folder.
func (p *peer) exec(ctx context.Context, timeout time.Duration, name string, env []string) (stdout, stderr []byte, status int, err error) {
	path := filepath.Join(p.dir, name)
	if _, err := os.Stat(path); err != nil {
		return nil, nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir, cmd.Env = p.dir, env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if exited := (*exec.ExitError)(nil); errors.As(err, &exited) {
		return out.Bytes(), errs.Bytes(), exited.ExitCode(), nil // -1 if it was killed
	}
	return out.Bytes(), errs.Bytes(), 0, err
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// install has apt-get install what the peers need, as far as it is missing.
func install(ctx context.Context, names []string, large bool, log io.Writer) error {
	var missing []string
	for _, name := range names {
		for _, pkg := range packages(name, large) {
			if exec.CommandContext(ctx, "dpkg", "-s", pkg).Run() != nil && !slices.Contains(missing, pkg) {
				missing = append(missing, pkg)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	fmt.Fprintf(log, "installing %s\n", strings.Join(missing, " "))
	apt := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", args[0], err, lastLine(out))
		}
		return nil
	}
	args := append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)
	if apt(args...) == nil {
		return nil
	}
	if err := apt("update", "-qq"); err != nil {
		return err
	}
	return apt(args...)
}
