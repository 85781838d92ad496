package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// This is the text format of Prometheus, version 0.0.4, of which three kinds of
// metrics are enough here: its client library would bring more packages than all
// else that this command is made of.

// expositionType is the media type of the format.
const expositionType = "text/plain; version=0.0.4; charset=utf-8"

// A family is the metrics of one name, told apart by their labels. Its methods may be
// called concurrently.
type family struct {
	name, help string
	labels     []string
	buckets    []float64 // upper bounds of a histogram; nil for a counter

	mu     sync.Mutex
	series map[string]*series // by its labels as they are printed
}

type series struct {
	count   uint64
	sum     float64
	buckets []uint64 // each counts what is in the bucket and in no smaller one
}

// maxSeries bounds a family, whatever it is labelled with. What comes beyond is not
// told apart.
const maxSeries = 512

func newCounter(name, help string, labels ...string) *family {
	return &family{name: name, help: help, labels: labels, series: make(map[string]*series)}
}

// newHistogram returns a histogram of durations.
func newHistogram(name, help string, labels ...string) *family {
	f := newCounter(name, help, labels...)
	f.buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	return f
}

// with returns the series with those values, one for each label. The caller has f.mu.
func (f *family) with(values []string) *series {
	key := labelText(f.labels, values)
	s := f.series[key]
	if s == nil {
		if len(f.series) >= maxSeries {
			key = labelText(f.labels, slices.Repeat([]string{"other"}, len(f.labels)))
		}
		if s = f.series[key]; s == nil {
			s = &series{buckets: make([]uint64, len(f.buckets))}
			f.series[key] = s
		}
	}
	return s
}

// add counts one.
func (f *family) add(values ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.with(values).count++
}

// observe counts one that took d.
func (f *family) observe(d time.Duration, values ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.with(values)
	s.count++
	s.sum += d.Seconds()
	if i, _ := slices.BinarySearch(f.buckets, d.Seconds()); i < len(f.buckets) {
		s.buckets[i]++
	}
}

func (f *family) writeTo(b *bytes.Buffer) {
	kind := "counter"
	if f.buckets != nil {
		kind = "histogram"
	}
	writeHead(b, f.name, kind, f.help)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(f.series)) {
		s := f.series[key]
		if f.buckets == nil {
			fmt.Fprintf(b, "%s%s %d\n", f.name, braces(key), s.count)
			continue
		}
		below := uint64(0)
		for i, le := range f.buckets {
			below += s.buckets[i]
			fmt.Fprintf(b, "%s_bucket%s %d\n", f.name, braces(join(key, labelText([]string{"le"}, []string{number(le)}))), below)
		}
		fmt.Fprintf(b, "%s_bucket%s %d\n", f.name, braces(join(key, `le="+Inf"`)), s.count)
		fmt.Fprintf(b, "%s_sum%s %s\n%s_count%s %d\n", f.name, braces(key), number(s.sum), f.name, braces(key), s.count)
	}
}

// A gauge is a value that is looked up when it is asked for.
type gauge struct {
	name, help string
	labels     string // as labelText has it
	value      func() float64
}

// An exposition is all the metrics of a process.
type exposition struct {
	families []*family
	gauges   []gauge       // those of one name beside each other
	others   []io.WriterTo // what writes the format by itself
}

// WriteTo writes the metrics of this moment.
func (e *exposition) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	for _, f := range e.families {
		f.writeTo(&b)
	}
	last := ""
	for _, g := range e.gauges {
		if g.name != last {
			writeHead(&b, g.name, "gauge", g.help)
			last = g.name
		}
		fmt.Fprintf(&b, "%s%s %s\n", g.name, braces(g.labels), number(g.value()))
	}
	for _, o := range e.others {
		if _, err := o.WriteTo(&b); err != nil {
			return 0, err
		}
	}
	return b.WriteTo(w)
}

func writeHead(b *bytes.Buffer, name, kind, help string) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", name, helpEscaper.Replace(help), name, kind)
}

var (
	helpEscaper  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// labelText returns labels and their values as they stand between braces.
func labelText(labels, values []string) string {
	var b strings.Builder
	for i, l := range labels {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `%s="%s"`, l, labelEscaper.Replace(strings.ToValidUTF8(values[i], "\ufffd")))
	}
	return b.String()
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "," + b
}

func braces(labels string) string {
	if labels == "" {
		return ""
	}
	return "{" + labels + "}"
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
