package compare

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// Charts are SVG of our own. Colours are classes that the page's style sheet gives for
// light and dark; every value stands beside its mark as well, so that nothing is said by
// colour alone.

// chartWidth is that of every chart, in units of which a phone shows about one a pixel.
const chartWidth = 440

const (
	labelWidth = 136
	rowHeight  = 22
	fontRoom   = 74 // for a value behind a bar
)

// A bar is a row of a chart: parts that are stacked, or one value with an interval.
type bar struct {
	label     string
	parts     []float64 // as many as the chart has names of parts
	low, high float64   // an interval around the sum; equal for none
	text      string    // the value, for people
}

// bars draws horizontal bars. Values may be negative where there is one part.
func bars(title, unit string, names []string, rows []bar) template.HTML {
	low, high := 0.0, 0.0
	for _, r := range rows {
		sum := 0.0
		for _, p := range r.parts {
			sum += p
		}
		low, high = min(low, sum, r.low), max(high, sum, r.high)
	}
	step := niceStep(high - low)
	low, high = math.Floor(low/step)*step, math.Ceil(high/step)*step
	if high == low {
		high = low + 1
	}
	plot := float64(chartWidth - labelWidth - fontRoom)
	x := func(v float64) float64 { return labelWidth + (v-low)/(high-low)*plot }

	var b strings.Builder
	top := 26
	legend := len(names) > 1
	if legend {
		top += 22
	}
	height := top + rowHeight*len(rows) + 26
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, chartWidth, height, html.EscapeString(title))
	fmt.Fprintf(&b, `<text class="title" x="0" y="14">%s</text>`, html.EscapeString(title))
	if legend {
		at := 0.0
		for i, n := range names {
			fmt.Fprintf(&b, `<rect class="s%d" x="%.1f" y="24" width="10" height="10" rx="2"/><text x="%.1f" y="33">%s</text>`, i+1, at, at+14, html.EscapeString(n))
			at += 14 + 6.6*float64(len(n)) + 16
		}
	}
	bottom := top + rowHeight*len(rows)
	for v := low; v <= high+step/2; v += step {
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text class="tick" x="%.1f" y="%d" text-anchor="middle">%s</text>`,
			x(v), x(v), top, bottom, x(v), bottom+14, number(v))
	}
	fmt.Fprintf(&b, `<text class="tick" x="%d" y="%d" text-anchor="end">%s</text>`, chartWidth, bottom+14, html.EscapeString(unit))
	for i, r := range rows {
		y := float64(top + i*rowHeight)
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`, labelWidth-6, y+15, html.EscapeString(r.label))
		at, end := 0.0, 0.0
		for k, p := range r.parts {
			from, to := x(at), x(at+p)
			if to < from {
				from, to = to, from
			}
			gap := 0.0
			if k > 0 && to-from > 3 {
				gap = 1.5 // of the surface, between two parts
			}
			if to-from > 0.2 {
				fmt.Fprintf(&b, `<rect class="s%d" x="%.1f" y="%.1f" width="%.1f" height="14" rx="2"/>`, k+1, from+gap, y+4, max(to-from-gap, 0.5))
			}
			at += p
		}
		end = max(x(at), x(0))
		if r.high > r.low {
			m := y + 11
			fmt.Fprintf(&b, `<path class="whisker" d="M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8"/>`, x(r.low), m, x(r.high), x(r.low), m-4, x(r.high), m-4)
			end = max(end, x(r.high))
		}
		fmt.Fprintf(&b, `<text class="value" x="%.1f" y="%.1f">%s</text>`, end+6, y+15, html.EscapeString(r.text))
	}
	fmt.Fprintf(&b, `<line class="axis" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/></svg>`, x(0), x(0), top, bottom)
	return template.HTML(b.String())
}

// A series is a line of a chart.
type series struct {
	name   string
	points [][2]float64
}

// lines draws lines over a logarithmic or linear horizontal axis.
func lines(title, xUnit, yUnit string, all []series) template.HTML {
	var xs, ys []float64
	for _, s := range all {
		for _, p := range s.points {
			xs, ys = append(xs, p[0]), append(ys, p[1])
		}
	}
	if len(xs) == 0 {
		return ""
	}
	xLow, xHigh, yHigh, yLow := 0.0, xs[0], ys[0], 0.0
	for i := range xs {
		xHigh, yHigh, yLow = max(xHigh, xs[i]), max(yHigh, ys[i]), min(yLow, ys[i])
	}
	step := niceStep(yHigh - yLow)
	yLow, yHigh = math.Floor(yLow/step)*step, math.Ceil(yHigh/step)*step
	if yHigh == yLow {
		yHigh = yLow + 1
	}
	const left, top, height, right = 44, 28, 190, 120
	x := func(v float64) float64 { return left + (v-xLow)/(xHigh-xLow)*(chartWidth-left-right) }
	y := func(v float64) float64 { return top + height - (v-yLow)/(yHigh-yLow)*height }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s"><text class="title" x="0" y="14">%s</text>`, chartWidth, top+height+30, html.EscapeString(title), html.EscapeString(title))
	for v := yLow; v <= yHigh+step/2; v += step {
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text class="tick" x="%d" y="%.1f" text-anchor="end">%s</text>`, left, chartWidth-right, y(v), y(v), left-5, y(v)+4, number(v))
	}
	seen := make(map[float64]bool)
	for _, v := range xs {
		if !seen[v] {
			seen[v] = true
			fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%d" text-anchor="middle">%s</text>`, x(v), top+height+15, number(v))
		}
	}
	fmt.Fprintf(&b, `<text class="tick" x="%d" y="%d">%s</text>`, chartWidth-right+16, top+height+15, html.EscapeString(xUnit))
	// Names stand at the ends of their lines, apart from each other.
	labels := make([]float64, len(all))
	order := make([]int, 0, len(all))
	for i, s := range all {
		labels[i] = y(s.points[len(s.points)-1][1])
		order = append(order, i)
	}
	for range all { // few
		for i := 1; i < len(order); i++ {
			if labels[order[i]] < labels[order[i-1]] {
				order[i], order[i-1] = order[i-1], order[i]
			}
		}
	}
	for i := 1; i < len(order); i++ {
		labels[order[i]] = max(labels[order[i]], labels[order[i-1]]+15)
	}
	for i, s := range all {
		var d strings.Builder
		for k, p := range s.points {
			fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(k, 1)], x(p[0]), y(p[1]))
		}
		fmt.Fprintf(&b, `<path class="l%d" d="%s"/>`, i+1, d.String())
		for _, p := range s.points {
			fmt.Fprintf(&b, `<circle class="s%d" cx="%.1f" cy="%.1f" r="3.5"><title>%s: %s %s</title></circle>`, i+1, x(p[0]), y(p[1]), html.EscapeString(s.name), number(p[1]), html.EscapeString(yUnit))
		}
		fmt.Fprintf(&b, `<rect class="s%d" x="%d" y="%.1f" width="8" height="8" rx="2"/><text x="%d" y="%.1f">%s</text>`, i+1, chartWidth-right+14, labels[i]-4, chartWidth-right+26, labels[i]+4, html.EscapeString(s.name))
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

// niceStep returns a distance of grid lines, 1, 2 or 5 times a power of ten.
func niceStep(span float64) float64 {
	if !(span > 0) || math.IsInf(span, 0) {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(span/4)))
	for _, f := range []float64{1, 2, 5, 10} {
		if span/(power*f) <= 5 {
			return power * f
		}
	}
	return power * 10
}

// number writes a value with three digits or so.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a == 0:
		return "0"
	case a >= 100:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case a >= 10:
		return trimZero(fmt.Sprintf("%.1f", v))
	default:
		return trimZero(fmt.Sprintf("%.2f", v))
	}
}

func trimZero(s string) string {
	s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	if s == "-0" || s == "" || s == "-" {
		return "0"
	}
	return s
}
