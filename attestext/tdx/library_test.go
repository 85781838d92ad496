package tdx_test

import (
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/tdx"
	"github.com/google/go-tdx-guest/abi"
	"github.com/google/go-tdx-guest/verify"
)

// served answers go-tdx-guest out of a collateral file.
type served struct{ m map[string]string }

func serve(t testing.TB, c *tdx.Collateral) served {
	t.Helper()
	b, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	s := served{}
	if err := json.Unmarshal(b, &s.m); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s served) Get(u string) (map[string][]string, []byte, error) {
	chain := func(header, name string) map[string][]string {
		return map[string][]string{header: {url.QueryEscape(s.m[name])}}
	}
	switch {
	case strings.Contains(u, "/tcb?"):
		return chain("Tcb-Info-Issuer-Chain", "tcb_info_issuer_chain"), []byte(`{"tcbInfo":` + s.m["tcb_info"] + `,"signature":"` + s.m["tcb_info_signature"] + `"}`), nil
	case strings.Contains(u, "/qe/identity"):
		return chain("Sgx-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain"), []byte(`{"enclaveIdentity":` + s.m["qe_identity"] + `,"signature":"` + s.m["qe_identity_signature"] + `"}`), nil
	case strings.Contains(u, "/pckcrl?"):
		b, err := hex.DecodeString(s.m["pck_crl"])
		return chain("Sgx-Pck-Crl-Issuer-Chain", "pck_crl_issuer_chain"), b, err
	}
	b, err := hex.DecodeString(s.m["root_ca_crl"])
	return nil, b, err
}

// libraryVerdict is what go-tdx-guest says by itself.
func libraryVerdict(t testing.TB, q *tdx.Quote, c *tdx.Collateral) error {
	t.Helper()
	m, err := abi.QuoteToProto(q.Raw())
	if err != nil {
		t.Fatal(err)
	}
	return verify.TdxQuote(m, &verify.Options{
		GetCollateral: true, CheckRevocations: true, Getter: serve(t, c), TrustedRoots: softtee.Roots(), Now: testTime,
	})
}
