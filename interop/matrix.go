package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// PeerRoles returns the roles that a peer may have in c.
func (c *Case) PeerRoles() []string {
	var roles []string
	for _, r := range c.roles {
		roles = append(roles, r.String())
	}
	return roles
}

// marks are what the cells of a matrix say.
var marks = map[string]string{Passed: "ok", Failed: "FAIL", Error: "ERR", Unsupported: "-", Skipped: "skip"}

// Matrix returns the rows as a table: a line for each case and role of the peer, a
// column for each peer. An asterisk says that attestation was accepted.
func Matrix(rows []*Row) string {
	peers, lines, cells := arrange(rows)
	width := 0
	for _, l := range lines {
		width = max(width, len(l[0]))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-*s  %-6s", width, "case", "peer is")
	for _, p := range peers {
		fmt.Fprintf(&b, " %-9s", p)
	}
	b.WriteString("\n")
	for _, l := range lines {
		fmt.Fprintf(&b, "%-*s  %-7s", width, l[0], l[1])
		for _, p := range peers {
			fmt.Fprintf(&b, " %-9s", mark(cells[[3]string{l[0], l[1], p}]))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func mark(r *Row) string {
	switch {
	case r == nil:
		return ""
	case r.Attested:
		return marks[r.Outcome] + "*"
	}
	return marks[r.Outcome]
}

// arrange returns the columns, the lines (case and role), and the rows by line and column.
func arrange(rows []*Row) (peers []string, lines [][2]string, cells map[[3]string]*Row) {
	cells = map[[3]string]*Row{}
	used := map[[2]string]bool{}
	for _, r := range rows {
		if !slices.Contains(peers, r.Peer) {
			peers = append(peers, r.Peer)
		}
		cells[[3]string{r.Case, r.PeerRole, r.Peer}] = r
		if r.Outcome != Unsupported && r.Outcome != Skipped {
			used[[2]string{r.Case, r.PeerRole}] = true
		}
	}
	for _, c := range Cases() {
		for _, role := range c.roles {
			if l := [2]string{c.ID, role.String()}; used[l] {
				lines = append(lines, l)
			}
		}
	}
	return peers, lines, cells
}

// A Summary counts.
type Summary struct {
	Outcomes map[string]int
	// Attested are the cells that passed with attestation in them, and Stacks the
	// peers that they were with.
	Attested int
	Stacks   []string
	// Drift counts the rows that are not what expected/ says.
	Drift int
}

// Summarize counts rows.
func Summarize(rows []*Row) *Summary {
	s := &Summary{Outcomes: map[string]int{}}
	for _, r := range rows {
		s.Outcomes[r.Outcome]++
		if r.Drift {
			s.Drift++
		}
		if r.Attested && r.Outcome == Passed {
			s.Attested++
			if !slices.Contains(s.Stacks, r.Peer) {
				s.Stacks = append(s.Stacks, r.Peer)
			}
		}
	}
	return s
}

// OK reports whether nothing failed and all is as expected.
func (s *Summary) OK() bool { return s.Outcomes[Failed] == 0 && s.Outcomes[Error] == 0 && s.Drift == 0 }

func (s *Summary) String() string {
	var parts []string
	for _, o := range []string{Passed, Failed, Error, Skipped, Unsupported} {
		parts = append(parts, fmt.Sprintf("%d %s", s.Outcomes[o], o))
	}
	text := strings.Join(parts, ", ")
	text += fmt.Sprintf("; %d attested, with %s", s.Attested, orNone(strings.Join(s.Stacks, ", ")))
	if s.Drift > 0 {
		text += fmt.Sprintf("; %d not as expected", s.Drift)
	}
	return text
}

// Update writes the golden outcomes of the peers in rows below root, and if these are all
// peers, docs/INTEROP.md. The rows must be of all cases, and none may have failed.
func Update(root string, rows []*Row, took time.Duration) error {
	if i := slices.IndexFunc(rows, func(r *Row) bool { return r.Outcome == Failed || r.Outcome == Error }); i >= 0 {
		return fmt.Errorf("nobody should expect what failed: %s, %s, %s", rows[i].Peer, rows[i].PeerRole, rows[i].Case)
	}
	all := true
	for _, name := range peerNames() {
		i := slices.IndexFunc(rows, func(r *Row) bool { return r.Peer == name })
		if i < 0 || rows[i].Outcome == Skipped { // what is not here has not changed
			all = all && i >= 0
			continue
		}
		path := filepath.Join(root, "interop", "expected", name+".txt")
		if err := os.WriteFile(path, []byte(Expected(name, rows)), 0o666); err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	return os.WriteFile(filepath.Join(root, "docs", "INTEROP.md"), []byte(document(rows, took)), 0o666)
}
