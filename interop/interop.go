// Package interop runs TLS handshakes between this project and stacks that nobody
// here wrote, and reads from the wire whether they did what a specification asks.
//
// A [Case] is one thing to do, with the requirement that it tests. A peer is a folder
// below peers with a program that plays one end (peers/CONTRACT.md). The other end is
// the command atls. Between the two a recorder keeps what goes by; it is written to a
// file together with the key log of atls, the file is read again, and the verdict is
// drawn from what it says. Nobody's exit status makes a case pass.
//
// The reader shares no code with the TLS stack under test, and neither do the peers:
// numbers and labels are written down once more, so that a change of one is noticed.
package interop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Row is what became of a case with one peer in one role: a line of
// atls interop --json.
type Row struct {
	Peer        string `json:"peer"`
	PeerVersion string `json:"peer_version"`
	PeerRole    string `json:"peer_role"`
	Case        string `json:"case"`
	Mode        string `json:"mode"`
	// Attested is whether evidence or a result was presented and accepted.
	Attested bool    `json:"attested"`
	Outcome  string  `json:"outcome"`
	Reason   *string `json:"reason"`

	// Logs is the folder with capture, key logs and outputs, where it was kept.
	Logs string `json:"-"`
	// Drift says that the outcome is not the one in expected/, and Expected what is.
	Drift    bool          `json:"-"`
	Expected string        `json:"-"`
	Took     time.Duration `json:"-"`
}

// A Runner runs cases.
type Runner struct {
	// Atls is the command under test: it runs with arguments and returns its exit
	// status. It must not be nil.
	Atls func(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int
	// Peers and Cases select; nil means all. A case stands for those whose id it
	// begins, up to a dot.
	Peers, Cases []string
	// Quick leaves out what is not in the short run.
	Quick bool
	// Install has apt-get install what peers need; with Quick, what is small of it.
	Install bool
	// Keep is a folder for the logs of all cells; if it is empty, those of cells
	// that failed are kept in a temporary one.
	Keep string
	// Vectors is a folder that known-answer files of cells that pass are written into,
	// none if it is empty.
	Vectors string
	// Parallel is how many cells run at a time, 2 by default.
	Parallel int
	// Log is told in words what happens, and Report is called for each row, one
	// at a time.
	Log    io.Writer
	Report func(*Row)
}

// selects reports whether one of the names is id or the beginning of it.
func selects(names []string, id string) bool {
	return names == nil || slices.ContainsFunc(names, func(n string) bool {
		return id == n || strings.HasPrefix(id, n+".")
	})
}

// A cell is a case with a peer in a role.
type cell struct {
	c    *Case
	p    *peer
	role side // of the peer
	dir  string
}

// Run runs the cells and returns their rows, in the order of the cases within each
// peer. An error means that there is no result; failures are in the rows.
func (r *Runner) Run(ctx context.Context) (_ []*Row, err error) {
	var cases []*Case
	for _, c := range Cases() {
		if selects(r.Cases, c.ID) && (!r.Quick || c.Quick) {
			cases = append(cases, c)
		}
	}
	if len(cases) == 0 {
		return nil, fmt.Errorf("no case is selected; --list names them")
	}
	var names []string
	for _, n := range peerNames() {
		if r.Peers == nil || slices.Contains(r.Peers, n) {
			names = append(names, n)
		}
	}
	if len(names) == 0 || len(r.Peers) > len(names) {
		return nil, fmt.Errorf("there is no such peer; there are %s", strings.Join(peerNames(), ", "))
	}
	work, err := os.MkdirTemp("", "atls-interop-")
	if err != nil {
		return nil, err
	}
	var rows []*Row
	defer func() { // but what a row that was reported points to
		left := filepath.Join(work, "peers")
		if !slices.ContainsFunc(rows, func(row *Row) bool { return row != nil && row.Logs != "" }) {
			left = work
		}
		err = errors.Join(err, os.RemoveAll(left))
	}()
	kept := r.Keep
	if kept == "" {
		kept = filepath.Join(work, "logs")
	}
	certs := filepath.Join(work, "certs")
	for _, d := range []string{kept, certs} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := writeMaterial(certs, time.Now()); err != nil {
		return nil, err
	}
	tee, err := newTEEService()
	if err != nil {
		return nil, err
	}
	defer tee.ln.Close()
	if r.Install {
		if err := install(ctx, names, !r.Quick, r.Log); err != nil {
			fmt.Fprintf(r.Log, "%v\n", err)
		}
	}
	peers, err := r.setup(ctx, names, filepath.Join(work, "peers"))
	if err != nil {
		return nil, err
	}
	golden, err := readExpected()
	if err != nil {
		return nil, err
	}
	var cells []*cell
	for _, p := range peers {
		for _, c := range cases {
			for _, role := range c.roles {
				cells = append(cells, &cell{c, p, role, filepath.Join(kept, p.name, role.String(), c.ID)})
			}
		}
	}
	rows = make([]*Row, len(cells))
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := make(chan int)
	for range cmp.Or(r.Parallel, 2) {
		wg.Go(func() {
			for i := range next {
				row := r.cell(ctx, cells[i], certs, tee.ln.Addr().String())
				row.Expected = golden[row.Peer][row.PeerRole+" "+row.Case]
				row.Drift = row.Outcome != Skipped && row.Outcome != cmp.Or(row.Expected, row.Outcome)
				mu.Lock()
				if ctx.Err() == nil { // or it is the interrupt's
					rows[i] = row
					if r.Report != nil {
						r.Report(row)
					}
				}
				mu.Unlock()
			}
		})
	}
	for i := range cells {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return rows, nil
}

// setup unpacks and readies the peers.
func (r *Runner) setup(ctx context.Context, names []string, dir string) ([]*peer, error) {
	if _, err := unpack(shared, dir); err != nil {
		return nil, err
	}
	peers := make([]*peer, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			if name == goName {
				peers[i] = goPeer()
			} else {
				peers[i], errs[i] = unpack(name, dir)
			}
			if errs[i] == nil {
				errs[i] = peers[i].setup(ctx, filepath.Join(dir, name+"-setup"))
			}
		})
	}
	wg.Wait()
	for i, p := range peers {
		if errs[i] != nil {
			return nil, fmt.Errorf("peer %s: %w", names[i], errs[i])
		}
		switch {
		case p.skip != "":
			fmt.Fprintf(r.Log, "%-10s skipped: %s\n", p.name, p.skip)
		case p.broken != "":
			fmt.Fprintf(r.Log, "%-10s broken: %s\n", p.name, p.broken)
		default:
			fmt.Fprintf(r.Log, "%-10s %s\n", p.name, p.version)
		}
	}
	return peers, nil
}

// cell runs one cell and judges it.
func (r *Runner) cell(ctx context.Context, x *cell, certs, tee string) *Row {
	row := &Row{Peer: x.p.name, PeerVersion: x.p.version, PeerRole: x.role.String(), Case: x.c.ID, Mode: x.c.Mode}
	say := func(outcome string, why string) *Row {
		row.Outcome = outcome
		if why != "" {
			row.Reason = &why
		}
		return row
	}
	switch {
	case x.p.skip != "":
		return say(Skipped, x.p.skip)
	case x.p.broken != "":
		return say(Error, x.p.broken)
	}
	start := time.Now()
	defer func() { row.Took = time.Since(start) }()
	if err := os.MkdirAll(x.dir, 0o755); err != nil {
		return say(Error, err.Error())
	}
	row.Logs = x.dir
	status, err := r.play(ctx, x, certs, tee)
	switch {
	case err != nil:
		return say(Error, err.Error())
	case status == statusUnsupported:
		row.Logs = ""
		os.RemoveAll(x.dir)
		return say(Unsupported, "")
	}
	if err := x.judge(); err != nil {
		return say(Failed, err.Error())
	}
	if status != 0 {
		return say(Error, fmt.Sprintf("the capture is as it should be, and the peer ended with status %d", status))
	}
	if r.Vectors != "" {
		if err := x.writeVector(r.Vectors, certs); err != nil {
			return say(Error, "known-answer file: "+err.Error())
		}
	}
	row.Attested = x.c.Attested()
	if r.Keep == "" {
		row.Logs = ""
		os.RemoveAll(x.dir)
	}
	return say(Passed, "")
}

// judge reads the capture of a cell.
func (x *cell) judge() error {
	chunks, keys, err := readCapture(filepath.Join(x.dir, captureName))
	if err != nil {
		return err
	}
	conns := 0
	for _, c := range chunks {
		conns = max(conns, c.conn+1)
	}
	if conns == 0 {
		return errors.New("there was no connection")
	}
	log := parseKeyLog(keys)
	for n := range conns {
		if err = x.c.verdict(converse(chunks, n, log), x.role.other()); err == nil {
			return nil
		}
		if !x.c.page {
			return err
		}
	}
	return err
}

const (
	captureName = "capture.pcapng"
	peerKeys    = "keys.log"
	forkKeys    = "atls-keys.log"
)

// play has the two ends talk, writes the capture, and returns the exit status of the
// peer.
func (r *Runner) play(ctx context.Context, x *cell, certs, tee string) (status int, err error) {
	timeout := cellTimeout
	if x.c.page {
		timeout = browserTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	env := map[string]string{
		"ATLS_INTEROP_CASE": x.c.ID, "ATLS_INTEROP_ROLE": x.role.String(), "ATLS_INTEROP_CERTS": certs,
		"ATLS_INTEROP_LOGS": x.dir, "ATLS_INTEROP_TEE": tee,
	}
	f := &flags{role: x.role.other(), dir: certs, peer: x.p.dir, c: x.c}
	common := append([]string{"--json", "--timeout", "20s", "--keylog", filepath.Join(x.dir, forkKeys)}, f.args()...)
	log, err := os.Create(filepath.Join(x.dir, "atls.log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	var rec *recorder
	if x.role == client {
		rec, status, err = r.serve(ctx, x, env, common, log)
	} else {
		rec, status, err = r.dial(ctx, x, env, common, log)
	}
	if rec == nil {
		return status, err
	}
	chunks := rec.close()
	if err != nil || status == statusUnsupported {
		return status, err
	}
	var keys []byte
	for _, name := range []string{forkKeys, peerKeys} {
		b, err := os.ReadFile(filepath.Join(x.dir, name))
		if err == nil {
			keys = append(append(keys, b...), '\n')
		}
	}
	return status, writeCapture(filepath.Join(x.dir, captureName), chunks, keys)
}

// serve runs atls serve, and the peer as its client.
func (r *Runner) serve(ctx context.Context, x *cell, env map[string]string, flags []string, log io.Writer) (*recorder, int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := append([]string{"serve", "--listen", "127.0.0.1:0"}, flags...)
	if !x.c.page {
		args = append(args, "--once")
	}
	fmt.Fprintf(log, "atls %s\n", strings.Join(args, " "))
	said := newWatcher(log, "listening on ")
	done := make(chan int, 1)
	go func() {
		done <- r.Atls(ctx, args, strings.NewReader(""), log, said)
		said.end()
	}()
	addr := said.wait(ctx)
	if addr == "" {
		cancel()
		return nil, 0, fmt.Errorf("atls serve does not listen: see %s", filepath.Join(x.dir, "atls.log"))
	}
	rec, err := newRecorder(func() (net.Conn, error) { return net.Dial("tcp", addr) })
	if err != nil {
		return nil, 0, err
	}
	env["ATLS_INTEROP_ADDRESS"] = rec.addr()
	status, err := x.p.run(ctx, env)
	if status == statusUnsupported || x.c.page || err != nil {
		cancel()
	}
	<-done
	return rec, status, err
}

// dial runs the peer as a server, and atls dial.
func (r *Runner) dial(ctx context.Context, x *cell, env map[string]string, flags []string, log io.Writer) (*recorder, int, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, 0, err
	}
	env["ATLS_INTEROP_ADDRESS"] = addr
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone := make(chan struct{})
	var status int
	var perr error
	go func() {
		status, perr = x.p.run(ctx, env)
		close(gone)
	}()
	rec, err := newRecorder(func() (net.Conn, error) { return dialWhenUp(ctx, addr, gone) })
	if err != nil {
		return nil, 0, err
	}
	args := append([]string{"dial", rec.addr()}, flags...)
	fmt.Fprintf(log, "atls %s\n", strings.Join(args, " "))
	r.Atls(ctx, args, strings.NewReader("hello from atls to "+x.c.ID+"\n"), log, log)
	<-gone
	return rec, status, perr
}

// dialWhenUp dials until somebody listens or the peer is gone.
func dialWhenUp(ctx context.Context, addr string, gone <-chan struct{}) (net.Conn, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return c, nil
		}
		select {
		case <-gone:
			return nil, err
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}

// Ports for peers to listen on. They are below those that systems give out by themselves,
// lest a listener of ours gets one between here and the peer.
const (
	firstPort = 20000
	portCount = 10000
)

var nextPort atomic.Uint32

// loopback returns an address of this process's own, so that two that run at a time do not
// meet on a port that one of them is trying. Not all systems have more than 127.0.0.1.
func loopback(pid int) string {
	return fmt.Sprintf("127.%d.%d.%d", 64+pid>>16&63, pid>>8&255, pid&255)
}

// freeAddress returns an address on loopback that nobody listens on.
func freeAddress() (string, error) {
	var last error
	for range 100 {
		port := firstPort + (uint32(os.Getpid())*101+nextPort.Add(1))%portCount
		for _, host := range []string{loopback(os.Getpid()), "127.0.0.1"} {
			ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, port))
			if err == nil {
				defer ln.Close()
				return ln.Addr().String(), nil
			}
			last = err
		}
	}
	return "", last
}

// A watcher passes on what is written, and finds the rest of the line that begins
// with a prefix.
type watcher struct {
	w      io.Writer
	prefix string
	buf    []byte
	found  chan string
	once   sync.Once
}

func newWatcher(w io.Writer, prefix string) *watcher {
	return &watcher{w: w, prefix: prefix, found: make(chan string, 1)}
}

func (w *watcher) Write(b []byte) (int, error) {
	w.buf = append(w.buf, b...)
	for {
		line, rest, ok := strings.Cut(string(w.buf), "\n")
		if !ok {
			break
		}
		w.buf = []byte(rest)
		if addr, ok := strings.CutPrefix(line, w.prefix); ok {
			w.once.Do(func() { w.found <- addr })
		}
	}
	return w.w.Write(b)
}

// end says that nothing more will come.
func (w *watcher) end() { w.once.Do(func() { close(w.found) }) }

// wait returns the rest of the line, or nothing if it never came.
func (w *watcher) wait(ctx context.Context) string {
	select {
	case addr := <-w.found:
		return addr
	case <-ctx.Done():
		return ""
	}
}
