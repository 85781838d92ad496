package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// samples reads the text format of Prometheus, strictly: each family has its help
// and type first and its samples beside each other, no sample comes twice, and the
// buckets of a histogram add up.
func samples(t *testing.T, text string) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	kinds := map[string]string{}
	sample := regexp.MustCompile(`^([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\]|\\["\\n])*"(?:,|\}))+)? (\S+)$`)
	name, kind := "", ""
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, _, _ = strings.Cut(rest, " ")
			i++
			if i == len(lines) || !strings.HasPrefix(lines[i], "# TYPE "+name+" ") {
				t.Fatalf("no type after %q", line)
			}
			kind = strings.TrimPrefix(lines[i], "# TYPE "+name+" ")
			if kinds[name] != "" {
				t.Fatalf("%s comes twice", name)
			}
			kinds[name] = kind
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not a sample: %q", line)
		}
		base := m[1]
		if kind == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, suffix)
			}
		}
		if base != name {
			t.Fatalf("%q is among the samples of %s", line, name)
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if _, twice := all[m[1]+m[2]]; err != nil || twice {
			t.Fatalf("%q: %v, or twice", line, err)
		}
		all[m[1]+m[2]] = v
	}
	return all
}

func scrape(t *testing.T, url string) map[string]float64 {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != expositionType {
		t.Fatalf("%v, %v", resp, err)
	}
	return samples(t, string(b))
}

func TestExpositionEscapesAndAddsUp(t *testing.T) {
	c := newCounter("a_total", "One\nand \\ two.", "x", "y")
	c.add("plain", `a "quote" \ and`+"\nline")
	c.add("plain", `a "quote" \ and`+"\nline")
	c.add("\xff", "")
	h := newHistogram("b_seconds", "Times.", "outcome")
	for _, d := range []time.Duration{0, time.Millisecond, 2 * time.Millisecond, 10 * time.Second, time.Minute} {
		h.observe(d, "ok")
	}
	e := &exposition{families: []*family{c, h}, gauges: []gauge{{"g", "G.", "", func() float64 { return 1.5 }}}}
	var b bytes.Buffer
	if _, err := e.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), `# HELP a_total One\nand \\ two.`+"\n") {
		t.Errorf("help is not escaped in %s", &b)
	}
	got := samples(t, b.String())
	for name, want := range map[string]float64{
		`a_total{x="plain",y="a \"quote\" \\ and\nline"}`: 2,
		`a_total{x="` + "\ufffd" + `",y=""}`:              1,
		`b_seconds_bucket{outcome="ok",le="0.001"}`:       2, // bounds are inclusive
		`b_seconds_bucket{outcome="ok",le="0.0025"}`:      3,
		`b_seconds_bucket{outcome="ok",le="5"}`:           3,
		`b_seconds_bucket{outcome="ok",le="10"}`:          4,
		`b_seconds_bucket{outcome="ok",le="+Inf"}`:        5,
		`b_seconds_count{outcome="ok"}`:                   5,
		`b_seconds_sum{outcome="ok"}`:                     70.003,
		`g`:                                               1.5,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v, want %v", name, v, want)
		}
	}
}

func TestSeriesOfAFamilyAreBounded(t *testing.T) {
	c := newCounter("a_total", "A.", "x")
	for i := range 10 * maxSeries {
		c.add(fmt.Sprint(i))
	}
	if len(c.series) != maxSeries+1 || c.series[`x="other"`].count != 9*maxSeries {
		t.Errorf("%d series, %d others", len(c.series), c.series[`x="other"`].count)
	}
}

func TestMetricsHaveTheAgeOfTheKeyTier(t *testing.T) {
	const name = "atls_key_tier_quote_age_seconds"
	tee := args(identity(), []string{"--attest", "softtee:tdx", "--metrics", "127.0.0.1:0"})
	if _, ok := scrape(t, serve(t, tee...).metrics)[name]; ok {
		t.Error("there is an age without a key tier")
	}
	r := serve(t, args(tee, []string{"--key-tier", "10m"})...)
	first, ok := scrape(t, r.metrics)[name]
	if second := scrape(t, r.metrics)[name]; !ok || first <= 0 || second <= first || second > testTimeout.Seconds() {
		t.Errorf("the age is %v and then %v", first, second)
	}
}

func TestMetricsOfServer(t *testing.T) {
	r := serve(t, args(identity(), []string{"--attest", "softtee:tdx", "--metrics", "127.0.0.1:0", "--client-ca", pki("ca.pem"), "--quote-rate", "100"}, verifySoftTEE())...)
	both := args([]string{"dial", r.addr, "--ca", pki("ca.pem"), "--attest", "softtee:snp"}, clientIdentity(), verifySoftTEE())
	for range 2 {
		if e := atls(t, "hello\n", both...); e.status != 0 {
			t.Fatal(e.stderr)
		}
	}
	if e := atls(t, "", "dial", r.addr, "--ca", pki("ca.pem"), "--binding", "draft-08"); e.status != 3 { // and does not attest
		t.Fatal(e.status, e.stderr)
	}
	want := map[string]float64{
		`atls_handshakes_total{outcome="ok",stage="none",alert_sent="none",alert_received="none"}`:         2,
		`atls_handshakes_total{outcome="failed",stage="negotiate",alert_sent="109",alert_received="none"}`: 1,
		`atls_verdicts_total{verdict="affirming"}`:                                                         2,
		`atls_verdicts_total{verdict="none"}`:                                                              1,
		`atls_handshake_seconds_count{outcome="ok"}`:                                                       2,
		`atls_handshake_seconds_count{outcome="failed"}`:                                                   1,
		`atls_attest_seconds_count{outcome="ok"}`:                                                          2,
		`atls_appraise_seconds_count{outcome="ok"}`:                                                        2,
		`atls_quote_requests_total`:                                                                        2,
		`atls_quote_outcomes_total{outcome="served"}`:                                                      2,
		`atls_quote_queue`: 0,
		`atls_connections`: 0,
	}
	eventually(t, func() string {
		got := scrape(t, r.metrics)
		for name, v := range want {
			if got[name] != v {
				return fmt.Sprintf("%s is %v, want %v", name, got[name], v)
			}
		}
		for _, name := range []string{`atls_collateral_next_update_seconds{tee="tdx"}`, `atls_collateral_next_update_seconds{tee="snp"}`} {
			if got[name] < float64(time.Now().Unix()) {
				return fmt.Sprintf("%s is %v", name, got[name])
			}
		}
		for _, name := range []string{`atls_collateral_age_seconds{tee="tdx"}`, "go_goroutines", "go_memory_objects_bytes", "process_start_time_seconds"} {
			if got[name] <= 0 {
				return fmt.Sprintf("%s is %v", name, got[name])
			}
		}
		return ""
	})
}

// eventually tries until wrong has nothing to say: a server counts a connection when
// it is over, of which the client does not hear.
func eventually(t *testing.T, wrong func() string) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for {
		say := wrong()
		if say == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(say)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestMetricsOfVerifier(t *testing.T) {
	v := start(t, "verifier", args(verifySoftTEE()[2:], []string{"--metrics", "127.0.0.1:0"})...)
	service := []string{"--verify", "veraison:http://" + v.addr}
	connect(t, args(identity(), []string{"--attest", "softtee:tdx"}), service).ok(t)
	got := scrape(t, v.metrics)
	for name, want := range map[string]float64{
		`atls_appraisals_total{verdict="affirming",outcome="ok"}`: 1,
		`atls_http_requests_total{code="200"}`:                    2, // the result, and the key
		`atls_http_requests_total{code="201"}`:                    1,
		`atls_appraise_seconds_count{outcome="ok"}`:               1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

// TestFloodOfQuotesIsRefusedAtOnce has one handshake at a TEE that does not answer,
// so that whoever comes behind those who may wait is refused.
func TestFloodOfQuotesIsRefusedAtOnce(t *testing.T) {
	r := serve(t, args(identity(), []string{"--attest", execCommand("hang"), "--quote-queue", "2", "--quote-rate", "1000", "--timeout", "20s", "--metrics", "127.0.0.1:0"})...)
	dial := args([]string{"dial", r.addr, "--json", "--ca", pki("ca.pem")}, []string{"--verify", execCommand("verify")})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { atls(t, "", dial...) })
	}
	eventually(t, func() string {
		if got := scrape(t, r.metrics); got["atls_quote_queue"]+got["atls_quote_running"] != 3 {
			return fmt.Sprintf("%v wait and %v run, want 3", got["atls_quote_queue"], got["atls_quote_running"])
		}
		return ""
	})
	begun := time.Now()
	e := atls(t, "", dial...)
	if m := e.object(t); e.status != 3 || m["alert_received"] != 80.0 || time.Since(begun) > 5*time.Second {
		t.Errorf("after %v: status %d, %v", time.Since(begun), e.status, m)
	}
	if got := scrape(t, r.metrics); got[`atls_quote_outcomes_total{outcome="refused_full"}`] != 1 {
		t.Errorf("%v", got)
	}
	r.stop()
	wg.Wait()
}
