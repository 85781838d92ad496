package compare

import (
	"bufio"
	_ "embed"
	"fmt"
	"html"
	"html/template"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/attestedtls/atls/docs"
	"github.com/attestedtls/atls/internal/attack"
)

//go:embed report.html
var page string

var report = template.Must(template.New("report").Parse(page))

// A table is one of the page. The first cell of a row is its head.
type table struct {
	Head []string
	Rows [][]cellText
}

// A cellText is a cell of a table, and the class that it is shown in.
type cellText struct {
	Text  string
	Class string
	HTML  template.HTML // in place of Text
	Title string
}

func plainCell(s string) cellText { return cellText{Text: s} }
func numberCell(s string) cellText {
	return cellText{Text: s, Class: "n"}
}

// A page of the report.
type pageData struct {
	Run       *Run
	Complete  bool
	Claim     template.HTML
	Machine   [][2]string
	Extra     []template.HTML // charts, one for each round-trip time
	Costs     table
	Times     table
	Breakdown []template.HTML
	Factors   []template.HTML
	Again     table
	Periodic  table
	Load      template.HTML
	Attacks   table
	Legend    [][2]string
	Modes     [][2]string
	Mitigated table
	Goals     []goalTable
	ByRTT     table
	ByTEE     table
	Sources   template.HTML
	Base      string
}

type goalTable struct {
	Title string
	Table table
}

// HTML writes the report: one page that needs nothing else, and no script. A run that
// is not complete has a report of what there is.
func (run *Run) HTML(w io.Writer) error {
	b := bufio.NewWriter(w)
	d := &pageData{
		Run: run, Complete: run.End != nil, Claim: template.HTML(inline(run.Claim())),
		Machine: run.machine(), Costs: run.costs(), Times: run.times(), Again: run.again(), Periodic: run.periodic(),
		Attacks: run.attackTable(), Mitigated: run.mitigated(), Goals: goals(docs.Goals),
		Base: fmt.Sprintf("round trips of %d ms, evidence of %s bytes, no latency of a TEE, a warm verifier in process", baseRTT.Milliseconds(), number(sizeBase)),
	}
	for _, g := range run.groups(ByRTT) {
		if len(run.Rounds[g.Name]) > 0 {
			d.Extra = append(d.Extra, run.extraChart(g))
		}
	}
	d.Breakdown = run.breakdown()
	d.Factors = run.factors()
	d.Load = run.loadChart()
	for _, s := range attack.Scenarios {
		d.Legend = append(d.Legend, [2]string{s.Name, s.About + ". The attacker holds " + s.Holds + "."})
	}
	for _, m := range attack.Modes {
		d.Modes = append(d.Modes, [2]string{m.Name, m.About})
	}
	d.ByRTT = run.adviceTable(ByRTT, func(g *Group) string { return "RTT " + span(g.Cells[0].RTT) })
	d.ByTEE = run.adviceTable(ByTEE, func(g *Group) string { return "TEE " + span(g.Cells[0].TEE) })
	if err := report.Execute(b, d); err != nil {
		return err
	}
	return b.Flush()
}

// span writes a duration of milliseconds.
func span(d time.Duration) string {
	return number(float64(d.Microseconds())/1e3) + " ms"
}

func (run *Run) machine() [][2]string {
	m := run.Machine
	list := [][2]string{
		{"Started", run.Started.Format(time.RFC3339)},
		{"Processor", fmt.Sprintf("%s, %d CPUs", m.CPU, m.CPUs)},
		{"System", fmt.Sprintf("%s %s, %s, %s", m.OS, m.Kernel, m.Arch, m.Go)},
		{"Network", run.Network},
	}
	load := m.Load + " at the start"
	if run.End != nil {
		list = slices.Insert(list, 1, [2]string{"Ended", fmt.Sprintf("%s, resumed %d times", run.End.Ended.Format(time.RFC3339), run.End.Resumed)})
		load += ", " + run.End.Load + " at the end"
	}
	if m.Load != "" {
		list = append(list, [2]string{"Load average", load})
	}
	rounds, samples := 0, 0
	for _, r := range run.Rounds {
		rounds += len(r)
		for _, one := range r {
			samples += len(one.Samples)
		}
	}
	return append(list, [2]string{"Samples", fmt.Sprintf("%s, in %s rounds", number(float64(samples)), number(float64(rounds)))})
}

// extraChart draws what each mode costs more than its reference.
func (run *Run) extraChart(g *Group) template.HTML {
	var rows []bar
	for i, c := range g.Cells {
		if !ModeNamed(c.Mode).attests {
			continue
		}
		e, ok := run.extra(g, i, first)
		if !ok {
			continue
		}
		rows = append(rows, bar{c.Mode, []float64{e.Median / 1e3}, e.Low / 1e3, e.High / 1e3, signed(e.Median)})
	}
	return bars("Round trips of "+span(g.Cells[0].RTT), "ms", nil, rows)
}

// signed writes microseconds as milliseconds with a sign.
func signed(micros float64) string {
	s := ms(micros)
	if s[0] != '-' && s != "0.0" {
		s = "+" + s
	}
	return s
}

// times has the time to the first application byte of each mode and round-trip time.
func (run *Run) times() table {
	t, groups := run.columns("mode", ByRTT, func(g *Group) string { return "RTT " + span(g.Cells[0].RTT) })
	if len(groups) == 0 {
		return t
	}
	for i, c := range groups[0].Cells {
		row := []cellText{plainCell(c.Mode)}
		for _, g := range groups {
			s := run.stat(g, i, first)
			row = append(row, numberCell(fmt.Sprintf("%s (%s–%s), p95 %s", ms(s.Median), ms(s.Low), ms(s.High), ms(s.P95))))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// costs has what does not depend on the round-trip time, from the group with the most
// rounds.
func (run *Run) costs() table {
	t := table{Head: []string{"mode", "round trips", "bytes", "CPU ms", "allocations", "TEE ms", "verify ms", "per second"}}
	var g *Group
	for _, k := range run.groups(ByRTT) {
		if n := len(run.Rounds[k.Name]); n > 0 && (g == nil || n > len(run.Rounds[g.Name])) {
			g = k
		}
	}
	if g == nil {
		return t
	}
	rates := make(map[string]string)
	for _, l := range run.groups(ByLoad) {
		for i, c := range l.Cells {
			if s := run.stat(l, i, rate); s.N > 0 {
				rates[c.Mode] = number(s.Median)
			}
		}
	}
	for i, c := range g.Cells {
		of := func(v value) float64 { return run.stat(g, i, v).Median }
		used := "–"
		if v := of(cpu); v > 0 {
			used = number(v / 1e3)
		}
		t.Rows = append(t.Rows, []cellText{
			{Text: c.Mode, Title: ModeNamed(c.Mode).About},
			numberCell(number(of(trips))), numberCell(number(of(bytesOf))), numberCell(used), numberCell(number(of(allocs))),
			numberCell(number(of(tee) / 1e3)), numberCell(number(of(verify) / 1e3)), numberCell(rates[c.Mode]),
		})
	}
	return t
}

// localTime returns what a mode takes of this machine at a round-trip time of zero, in
// µs, without TEE and verifier. ok is false where that was not measured.
func (run *Run) localTime(mode string) (float64, bool) {
	g := run.at(ByRTT, 0)
	if g == nil || len(run.Rounds[g.Name]) == 0 || g.index(mode) < 0 {
		return 0, false
	}
	return run.stat(g, g.index(mode), local).Median, true
}

// breakdown draws where the time goes, for each latency of a TEE.
func (run *Run) breakdown() (charts []template.HTML) {
	for _, g := range run.groups(ByTEE) {
		if len(run.Rounds[g.Name]) == 0 {
			continue
		}
		var rows []bar
		for i, c := range g.Cells {
			here, ok := run.localTime(c.Mode)
			if !ok {
				continue
			}
			of := func(v value) float64 { return run.stat(g, i, v).Median / 1e3 }
			all, hw, ver := of(first), of(tee), of(verify)
			network := max(all-hw-ver-here/1e3, 0)
			rows = append(rows, bar{label: c.Mode, parts: []float64{network, hw, ver, here / 1e3}, text: number(all)})
		}
		if len(rows) > 0 {
			charts = append(charts, bars("TEE latency "+span(g.Cells[0].TEE), "ms", []string{"network", "TEE", "verifier", "TLS and the rest"}, rows))
		}
	}
	return charts
}

// factors draws the size of evidence, and the kinds of verifier.
func (run *Run) factors() (charts []template.HTML) {
	var all []series
	for _, m := range Modes {
		s := series{name: m.Name}
		for _, g := range run.groups(BySize) {
			if i := g.index(m.Name); i >= 0 && m.attests && len(run.Rounds[g.Name]) > 0 {
				if e, ok := run.extra(g, i, first); ok {
					s.points = append(s.points, [2]float64{float64(g.Cells[0].Size) / 1e3, e.Median / 1e3})
				}
			}
		}
		if len(s.points) > 1 {
			all = append(all, s)
		}
	}
	if len(all) > 0 {
		charts = append(charts, lines("Size of evidence: ms more than plain TLS", "kB", "ms", all))
	}
	for _, g := range run.groups(ByVerifier) {
		var rows []bar
		for i, c := range g.Cells {
			if !ModeNamed(c.Mode).attests || len(run.Rounds[g.Name]) == 0 {
				continue
			}
			s := run.stat(g, i, verify)
			rows = append(rows, bar{c.Mode + ", " + string(c.Verifier), []float64{s.Median / 1e3}, s.Low / 1e3, s.High / 1e3, number(s.Median / 1e3)})
		}
		if len(rows) > 0 {
			charts = append(charts, bars("Time of the verifier", "ms", nil, rows))
		}
	}
	return charts
}

// again has rounds of re-attestation.
func (run *Run) again() table {
	t := table{Head: []string{"mode", "RTT", "a round, ms", "p95", "bytes", "a new connection, ms"}}
	for _, g := range run.groups(ByRound) {
		for i, c := range g.Cells {
			s := run.stat(g, i, first)
			if s.N == 0 {
				continue
			}
			fresh := "–"
			if k := run.at(ByRTT, c.RTT); k != nil && k.index(c.Mode) >= 0 && len(run.Rounds[k.Name]) > 0 {
				fresh = ms(run.stat(k, k.index(c.Mode), first).Median)
			}
			t.Rows = append(t.Rows, []cellText{
				plainCell(c.Mode), numberCell(span(c.RTT)), numberCell(fmt.Sprintf("%s (%s–%s)", ms(s.Median), ms(s.Low), ms(s.High))), numberCell(ms(s.P95)),
				numberCell(number(run.stat(g, i, bytesOf).Median)), numberCell(fresh),
			})
		}
	}
	return t
}

// periodic has connections in use that attest again and again.
func (run *Run) periodic() table {
	t := table{Head: []string{"mode", "interval", "pings a second", "rounds", "allocations"}}
	for _, g := range run.groups(ByInterval) {
		for i, c := range g.Cells {
			s := run.stat(g, i, rate)
			if s.N == 0 {
				continue
			}
			every := "none"
			if c.Interval > 0 {
				every = span(c.Interval)
			}
			t.Rows = append(t.Rows, []cellText{
				plainCell(c.Mode), numberCell(every), numberCell(fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Low), number(s.High))),
				numberCell(number(run.stat(g, i, func(s *Sample) float64 { return float64(s.Rounds) }).Median)), numberCell(number(run.stat(g, i, allocs).Median)),
			})
		}
	}
	return t
}

func (run *Run) loadChart() template.HTML {
	for _, g := range run.groups(ByLoad) {
		var rows []bar
		for i, c := range g.Cells {
			if s := run.stat(g, i, rate); s.N > 0 {
				rows = append(rows, bar{c.Mode, []float64{s.Median}, s.Low, s.High, number(s.Median)})
			}
		}
		if len(rows) > 0 {
			return bars("Connections a second, at saturation", "", nil, rows)
		}
	}
	return ""
}

// attackTable is the matrix, without mitigations.
func (run *Run) attackTable() table {
	t := table{Head: []string{"attack"}}
	rows := run.outcomes()
	var columns []*attack.Mode
	// The modes that there are here, and then those of published models.
	measured := func(m *attack.Mode) bool {
		return slices.ContainsFunc(Modes, func(c *Mode) bool { return c.Attack == m.Name })
	}
	for _, here := range []bool{true, false} {
		for _, m := range attack.Modes {
			if measured(m) == here && slices.ContainsFunc(run.Attacks, func(r *attack.Row) bool { return r.Mode == m.Name }) {
				columns = append(columns, m)
				t.Head = append(t.Head, m.Name)
			}
		}
	}
	for _, s := range attack.Scenarios {
		row := []cellText{{Text: s.Name, Title: s.About}}
		for _, m := range columns {
			row = append(row, outcomeCell(rows[[3]string{s.Name, m.Name, ""}]))
		}
		t.Rows = append(t.Rows, row)
	}
	if len(columns) == 0 {
		t.Rows = nil
	}
	return t
}

func outcomeCell(r *attack.Row) cellText {
	switch {
	case r == nil:
		return cellText{}
	case !r.Applies:
		c := cellText{Text: "–", Class: "none"}
		if r.Reason != nil {
			c.Title = *r.Reason
		}
		return c
	case r.Accepted:
		title := "accepted"
		if r.G1 != nil && r.G2 != nil && r.G3 != nil {
			title += fmt.Sprintf("; G1 %v, G2 %v, G3 %v", *r.G1, *r.G2, *r.G3)
		}
		return cellText{Text: "PASS", Class: "bad", Title: title}
	case r.Alert != nil && r.RefusedBy != nil:
		return cellText{Text: fmt.Sprint(*r.Alert), Class: "good", Title: "refused by the " + *r.RefusedBy + ", alert " + fmt.Sprint(*r.Alert)}
	}
	return cellText{Text: "ref.", Class: "good", Title: "refused"}
}

// mitigated says of each attack in how many modes it passes, and in how many it still
// does with each mitigation on.
func (run *Run) mitigated() table {
	t := table{Head: []string{"attack", "passes in"}}
	for _, m := range attack.Mitigations {
		t.Head = append(t.Head, "with "+m.Name)
	}
	rows := run.outcomes()
	for _, s := range attack.Scenarios {
		passes := 0
		still, ran := make([]int, len(attack.Mitigations)), make([]int, len(attack.Mitigations))
		for _, m := range attack.Modes {
			r := rows[[3]string{s.Name, m.Name, ""}]
			if r == nil || !r.Accepted {
				continue
			}
			passes++
			for i, mit := range attack.Mitigations {
				if r := rows[[3]string{s.Name, m.Name, mit.Name}]; r != nil && r.Applies {
					ran[i]++
					if r.Accepted {
						still[i]++
					}
				}
			}
		}
		if passes == 0 {
			continue
		}
		row := []cellText{{Text: s.Name, Title: s.About}, numberCell(fmt.Sprint(passes))}
		for i := range attack.Mitigations {
			c := numberCell(fmt.Sprintf("%d of %d", still[i], ran[i]))
			if ran[i] == 0 {
				c = numberCell("–")
			} else if still[i] == 0 {
				c.Class += " good"
			}
			row = append(row, c)
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// adviceTable answers each need, with a column for each group.
func (run *Run) adviceTable(f Factor, name func(*Group) string) table {
	t, groups := run.columns("what I want", f, name)
	if len(groups) == 0 || run.Attacks == nil {
		return table{}
	}
	for _, n := range Needs {
		title := "has to refuse " + n.names()
		row := []cellText{{Text: n.About + " (" + n.names() + ")", HTML: template.HTML(html.EscapeString(n.About) + "<small>" + html.EscapeString(title) + "</small>")}}
		for _, g := range groups {
			a := run.advise(n, g)
			if a.Best == "" {
				row = append(row, cellText{Text: "none"})
				continue
			}
			text := fmt.Sprintf("<b>%s</b> %s ms", html.EscapeString(a.Best), signed(a.Extra.Median))
			if len(a.Tied) > 0 {
				text += "<small>no dearer: " + html.EscapeString(strings.Join(a.Tied, ", ")) + "</small>"
			}
			row = append(row, cellText{Text: a.Best + " " + signed(a.Extra.Median), HTML: template.HTML(text)})
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

var (
	codeSpan = regexp.MustCompile("`([^`]*)`")
	boldSpan = regexp.MustCompile(`\*\*([^*]*)\*\*`)
	linkSpan = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// inline writes the Markdown within a line as HTML: code, bold, and of links the text.
func inline(s string) string {
	s = html.EscapeString(s)
	s = linkSpan.ReplaceAllString(s, "$1")
	s = codeSpan.ReplaceAllString(s, "<code>$1</code>")
	return boldSpan.ReplaceAllString(s, "<b>$1</b>")
}

// goals takes the tables out of docs/GOALS.md.
func goals(text string) (list []goalTable) {
	title := ""
	var at *goalTable
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if t, ok := strings.CutPrefix(line, "## "); ok {
			title, at = t, nil
			continue
		}
		if !strings.HasPrefix(line, "|") {
			continue
		}
		fields := strings.Split(strings.Trim(line, "|"), "|")
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		switch {
		case strings.HasPrefix(fields[0], "---"):
		case at == nil:
			list = append(list, goalTable{Title: title, Table: table{Head: fields}})
			at = &list[len(list)-1]
		default:
			var row []cellText
			for _, f := range fields {
				c := cellText{HTML: template.HTML(inline(f))}
				switch f {
				case "yes":
					c.Class = "good"
				case "no":
					c.Class = "bad"
				case "partly":
					c.Class = "some"
				}
				row = append(row, c)
			}
			at.Table.Rows = append(at.Table.Rows, row)
		}
	}
	return list
}
