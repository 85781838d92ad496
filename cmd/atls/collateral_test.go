package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// pcs serves the collateral of the demonstration as Intel's PCS would.
func pcs(t *testing.T) string {
	t.Helper()
	b := contents(t, pki("collateral.json"))
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	m := make(map[string]string)
	for k, v := range all {
		var s string
		if json.Unmarshal(v, &s) == nil {
			m[k] = s
		}
	}
	chain := func(w http.ResponseWriter, header, name string) {
		w.Header().Set(header, strings.ReplaceAll(url.QueryEscape(m[name]), "+", "%20"))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/tdx/certification/v4/tcb", func(w http.ResponseWriter, _ *http.Request) {
		chain(w, "TCB-Info-Issuer-Chain", "tcb_info_issuer_chain")
		fmt.Fprintf(w, `{"tcbInfo":%s,"signature":"%s"}`, m["tcb_info"], m["tcb_info_signature"])
	})
	mux.HandleFunc("/tdx/certification/v4/qe/identity", func(w http.ResponseWriter, _ *http.Request) {
		chain(w, "SGX-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain")
		fmt.Fprintf(w, `{"enclaveIdentity":%s,"signature":"%s"}`, m["qe_identity"], m["qe_identity_signature"])
	})
	mux.HandleFunc("/sgx/certification/v4/pckcrl", func(w http.ResponseWriter, _ *http.Request) {
		chain(w, "SGX-PCK-CRL-Issuer-Chain", "pck_crl_issuer_chain")
		der, _ := hex.DecodeString(m["pck_crl"])
		w.Write(der)
	})
	mux.HandleFunc("/sgx/certification/v4/rootcacrl", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, m["root_ca_crl"]) })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func TestCollateralEndpoint(t *testing.T) {
	base := pcs(t)
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	conf := func(allow string) string {
		return tempFile(t, "endpoint.json", fmt.Appendf(nil, `{"tdx":{"url":%q},"allow_hosts":[%q]}`, base, allow))
	}
	verify := []string{"verify", pki("evidence.cmw"), "--trust-roots", pki("trust-roots.pem"), "--policy", pki("policy.json")}
	for _, c := range []struct {
		name   string
		args   []string
		status int
		say    string
	}{
		{"none", nil, 3, "no collateral"},
		{"URL", []string{"--collateral-endpoint", base}, 0, "TCB of the platform: UpToDate"},
		{"file", []string{"--collateral-endpoint", conf(u.Host)}, 0, "UpToDate"},
		{"host that is not allowed", []string{"--collateral-endpoint", conf("elsewhere.example")}, 2, "not among those that are allowed"},
		{"plain HTTP elsewhere", []string{"--collateral-endpoint", "http://pcs.example"}, 1, "not https"},
		{"no such file", []string{"--collateral-endpoint", "/nonexistent"}, 1, "collateral-endpoint"},
		{"skipped as well", []string{"--collateral-endpoint", base, "--insecure-skip-collateral"}, 1, "give one of them"},
		{"nobody there", []string{"--collateral-endpoint", "http://127.0.0.1:1"}, 3, "127.0.0.1:1"},
	} {
		e := atls(t, "", append(verify[:len(verify):len(verify)], c.args...)...)
		if e.status != c.status || !strings.Contains(e.stdout+e.stderr, c.say) {
			t.Errorf("%s: status %d, want %d with %q: %s%s", c.name, e.status, c.status, c.say, e.stdout, e.stderr)
		}
	}
	e := atls(t, "", "dial", "localhost:1", "--collateral-endpoint", base)
	if e.status != 1 || !strings.Contains(e.stderr, "no effect here") {
		t.Errorf("without --verify: status %d: %s", e.status, e.stderr)
	}
}

func TestServerFetchesCollateralForItsClients(t *testing.T) {
	r := serve(t, args(identity(), []string{"--client-ca", pki("ca.pem"), "--metrics", "127.0.0.1:0", "--verify", "local",
		"--trust-roots", pki("trust-roots.pem"), "--policy", pki("policy.json"), "--collateral-endpoint", pcs(t)})...)
	for range 2 {
		e := atls(t, "hello", "dial", r.addr, "--ca", pki("ca.pem"), "--cert", pki("client-cert.pem"), "--key", pki("client-key.pem"), "--attest", "softtee:tdx", "--servername", "localhost")
		if e.status != 0 {
			t.Fatalf("status %d: %s%s", e.status, e.stdout, e.stderr)
		}
	}
	got := scrape(t, r.metrics)
	if got[`atls_collateral_total{tee="tdx",outcome="fetched"}`] != 1 || got[`atls_collateral_total{tee="tdx",outcome="fresh"}`] != 1 {
		t.Errorf("metrics: %v", got)
	}
}
