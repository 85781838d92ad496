package main

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext/collateral"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/attestedtls/atls/attestext/verifier"
)

// addSource has v fetch collateral that it lacks from where --collateral-endpoint says:
// a URL with the interfaces of Intel's PCS and AMD's KDS, or a file, in JSON. It
// returns what to close, and a counter for metrics.
func addSource(v *verifier.Local, endpoint string) (*collateral.Source, *family, error) {
	const hint = "a URL such as https://pccs.example:8081, or a JSON file"
	var conf *collateral.Config
	var err error
	if strings.Contains(endpoint, "://") {
		if conf, err = collateral.Everything(endpoint); err != nil {
			return nil, nil, usagef(hint, "--collateral-endpoint: %w", err)
		}
	} else {
		b, err := readFile("collateral-endpoint", endpoint)
		if err != nil {
			return nil, nil, err
		}
		if conf, err = collateral.ParseConfig(b); err != nil {
			return nil, nil, &malformedError{fmt.Errorf("--collateral-endpoint: %s: %w", endpoint, err)}
		}
	}
	count := newCounter("atls_collateral_total", "Lookups and fetches of collateral, by TEE and outcome.", "tee", "outcome")
	conf.TDXRoots, conf.SNPRoots, conf.Now = v.TDXRoots, v.SNPRoots, v.Now
	conf.Observe = func(e collateral.Event) { count.add(e.TEE, string(e.Outcome)) }
	src, err := collateral.New(conf)
	if err != nil {
		return nil, nil, usagef(hint, "--collateral-endpoint: %w", err)
	}
	v.Source = src
	return src, count, nil
}

// evidenceClaims returns claims without what the verdict has besides.
func evidenceClaims(claims map[string]any) map[string]any {
	c := maps.Clone(claims)
	delete(c, "reasons")
	delete(c, "ear")
	return c
}

// tcbLines says at which TCB levels a TDX platform is, and which advisories apply.
func tcbLines(claims map[string]any) []string {
	levels, _ := claims["tcb_levels"].(map[string]any)
	if levels == nil {
		return nil
	}
	var lines []string
	for _, part := range []struct{ claim, name string }{{"platform", "platform"}, {"module", "TDX module"}, {"qe", "quoting enclave"}} {
		if l, ok := levels[part.claim].(map[string]any); ok {
			lines = append(lines, fmt.Sprintf("TCB of the %s: %v, level of %v", part.name, l["status"], l["date"]))
		}
	}
	if advisories, _ := claims["advisory_ids"].([]string); len(advisories) > 0 {
		lines = append(lines, "advisories: "+strings.Join(advisories, ", "))
	}
	return lines
}

// tcbLevelLeaf describes a TCB level that collateral lists.
func tcbLevelLeaf(l *tdx.TCBLevel) *node {
	s := l.Status
	if len(l.Advisories) > 0 {
		s += ": " + strings.Join(l.Advisories, ", ")
	}
	return leaf("TCB level of "+l.Date.UTC().Format(time.DateOnly), s)
}
