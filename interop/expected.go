package interop

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

// Golden outcomes: a file for each peer, with a line "ROLE CASE OUTCOME" for each cell.
//
//go:embed expected
var expected embed.FS

// readExpected returns the golden outcomes by peer, and there by role and case.
func readExpected() (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	entries, err := expected.ReadDir("expected")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".txt")
		if !ok {
			continue
		}
		b, err := expected.ReadFile("expected/" + e.Name())
		if err != nil {
			return nil, err
		}
		all[name] = map[string]string{}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) == 0 || f[0] == "#" {
				continue
			}
			if len(f) != 3 {
				return nil, fmt.Errorf("expected/%s: %q", e.Name(), line)
			}
			all[name][f[0]+" "+f[1]] = f[2]
		}
	}
	return all, nil
}

// Expected returns the golden file of a peer that goes with its rows.
func Expected(peer string, rows []*Row) string {
	var lines []string
	for _, r := range rows {
		if r.Peer == peer {
			lines = append(lines, fmt.Sprintf("%s %s %s\n", r.PeerRole, r.Case, r.Outcome))
		}
	}
	slices.Sort(lines)
	return "# ROLE CASE OUTCOME, written by atls interop --update\n" + strings.Join(lines, "")
}
