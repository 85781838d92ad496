package tdx

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/internal/lru"
	"github.com/attestedtls/atls/attestext/internal/revocation"
	"github.com/attestedtls/atls/internal/strictjson"
	"github.com/google/go-tdx-guest/pcs"
)

// MaxCollateralSize bounds an encoded [Collateral], in bytes. Real ones have
// about 30,000.
const MaxCollateralSize = 1 << 20

// issuerChainLen is the number of certificates in each chain of collateral: the
// signer and the root.
const issuerChainLen = 2

// Collateral is what Intel says of its platforms at one time: which TCB levels
// are current (TCB info), which quoting enclave is (QE identity), and which
// certificates are revoked (two CRLs). It comes from four responses of Intel's
// Provisioning Certification Service (PCS, version 4 of the API) or of a cache
// of it, is signed by Intel, and expires, typically after 30 days.
//
// It is for one family of platforms, named by [Collateral.FMSPC]. A Collateral
// has been parsed and not verified; that is done by [Verify] each time. It is
// immutable and safe for concurrent use.
type Collateral struct {
	tcbInfo, qeIdentity           signedJSON
	pckCRL, rootCRL               []byte // DER
	pckCRLChain                   string // PEM, as are those of the signed JSON
	tcbIssuerChain, qeIssuerChain string

	// What init reads out of them.
	tcb        pcs.TcbInfo
	qe         pcs.EnclaveIdentity
	pckList    *x509.RevocationList
	rootList   *x509.RevocationList
	tcbCerts   []*x509.Certificate // signer and root of the TCB info
	qeCerts    []*x509.Certificate // of the QE identity
	crlCerts   []*x509.Certificate // of the PCK CRL
	fmspc      string
	nextUpdate time.Time
	digest     lru.Key // of all parts
}

// signedJSON is a JSON object and Intel's signature over its exact bytes.
type signedJSON struct {
	body      string
	signature []byte // r ‖ s
}

// collateralFile is the encoding of Collateral. The members are those that
// several quote verification libraries share: the parts of Intel's
// sgx_ql_qve_collateral_t by name, with the DER and the signatures in hexadecimal.
// The signed objects are strings, since their signatures cover exact bytes.
type collateralFile struct {
	PCKCRLIssuerChain     string `json:"pck_crl_issuer_chain"`
	RootCACRL             string `json:"root_ca_crl"`
	PCKCRL                string `json:"pck_crl"`
	TCBInfoIssuerChain    string `json:"tcb_info_issuer_chain"`
	TCBInfo               string `json:"tcb_info"`
	TCBInfoSignature      string `json:"tcb_info_signature"`
	QEIdentityIssuerChain string `json:"qe_identity_issuer_chain"`
	QEIdentity            string `json:"qe_identity"`
	QEIdentitySignature   string `json:"qe_identity_signature"`
}

// A Response is an answer of the PCS.
type Response struct {
	Body []byte
	// IssuerChain is the value of the header that holds the certificates of the
	// body's signer: TCB-Info-Issuer-Chain, SGX-Enclave-Identity-Issuer-Chain or
	// SGX-PCK-CRL-Issuer-Chain. PEM, percent-encoded or not. Empty for the root CRL.
	IssuerChain string
}

// PCSResponses are the four answers that make a [Collateral].
type PCSResponses struct {
	TCBInfo    Response // /tdx/certification/v4/tcb?fmspc=…
	QEIdentity Response // /tdx/certification/v4/qe/identity
	PCKCRL     Response // /sgx/certification/v4/pckcrl?ca=platform&encoding=der
	RootCRL    Response // https://certificates.trustedservices.intel.com/IntelSGXRootCA.der
}

func badCollateral(format string, args ...any) error {
	return attestext.Errorf(attestext.ErrMalformed, "parse TDX collateral", format, args...)
}

// NewCollateral makes a Collateral out of the answers of the PCS. Errors are of
// class [attestext.ErrMalformed].
func NewCollateral(r *PCSResponses) (*Collateral, error) {
	c := &Collateral{pckCRL: bytes.Clone(r.PCKCRL.Body), rootCRL: bytes.Clone(r.RootCRL.Body)}
	var err error
	if c.tcbInfo, err = splitSigned(r.TCBInfo.Body, "tcbInfo"); err != nil {
		return nil, err
	}
	if c.qeIdentity, err = splitSigned(r.QEIdentity.Body, "enclaveIdentity"); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		dst *string
		src string
	}{
		{&c.tcbIssuerChain, r.TCBInfo.IssuerChain},
		{&c.qeIssuerChain, r.QEIdentity.IssuerChain},
		{&c.pckCRLChain, r.PCKCRL.IssuerChain},
	} {
		*f.dst = f.src
		if strings.Contains(f.src, "%0A") || strings.Contains(f.src, "%20") {
			if *f.dst, err = url.QueryUnescape(f.src); err != nil {
				return nil, badCollateral("issuer chain: %w", err)
			}
		}
	}
	return c, c.init()
}

// splitSigned takes the body of an answer apart into the object named name and
// its signature. The body must have these two members and no other: go-tdx-guest
// reads the object whose name matches without regard to case, and checks the
// signature of the one whose name matches exactly, so that a second member
// {"TCBINFO": …} would be believed unsigned.
func splitSigned(body []byte, name string) (signedJSON, error) {
	if len(body) > MaxCollateralSize {
		return signedJSON{}, badCollateral("%s: %d bytes", name, len(body))
	}
	var m map[string]json.RawMessage
	if err := strictjson.Unmarshal(body, &m); err != nil {
		return signedJSON{}, badCollateral("%s: %w", name, err)
	}
	object, ok := m[name]
	quoted, ok2 := m["signature"]
	if !ok || !ok2 || len(m) != 2 {
		return signedJSON{}, badCollateral("%s: want the members %q and \"signature\" and no other", name, name)
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return signedJSON{}, badCollateral("%s: signature: %w", name, err)
	}
	sig, err := hex.DecodeString(s)
	if err != nil {
		return signedJSON{}, badCollateral("%s: signature: %w", name, err)
	}
	return signedJSON{body: string(object), signature: sig}, nil
}

// ParseCollateral reads what [Collateral.Marshal] writes: a JSON object with the
// members pck_crl_issuer_chain, root_ca_crl, pck_crl, tcb_info_issuer_chain,
// tcb_info, tcb_info_signature, qe_identity_issuer_chain, qe_identity and
// qe_identity_signature, all of them strings and all of them there. Errors are of
// class [attestext.ErrMalformed].
func ParseCollateral(data []byte) (*Collateral, error) {
	if len(data) > MaxCollateralSize {
		return nil, badCollateral("%d bytes, at most %d are read", len(data), MaxCollateralSize)
	}
	var f collateralFile
	if err := strictjson.Unmarshal(data, &f); err != nil {
		return nil, badCollateral("%w", err)
	}
	c := &Collateral{
		tcbInfo:        signedJSON{body: f.TCBInfo},
		qeIdentity:     signedJSON{body: f.QEIdentity},
		pckCRLChain:    f.PCKCRLIssuerChain,
		tcbIssuerChain: f.TCBInfoIssuerChain,
		qeIssuerChain:  f.QEIdentityIssuerChain,
	}
	for _, h := range []struct {
		name string
		dst  *[]byte
		src  string
	}{
		{"root_ca_crl", &c.rootCRL, f.RootCACRL},
		{"pck_crl", &c.pckCRL, f.PCKCRL},
		{"tcb_info_signature", &c.tcbInfo.signature, f.TCBInfoSignature},
		{"qe_identity_signature", &c.qeIdentity.signature, f.QEIdentitySignature},
	} {
		var err error
		if *h.dst, err = hex.DecodeString(h.src); err != nil {
			return nil, badCollateral("%s: %w", h.name, err)
		}
	}
	return c, c.init()
}

// Marshal returns c in the encoding that [ParseCollateral] reads.
func (c *Collateral) Marshal() ([]byte, error) {
	b, err := json.MarshalIndent(&collateralFile{
		PCKCRLIssuerChain:     c.pckCRLChain,
		RootCACRL:             hex.EncodeToString(c.rootCRL),
		PCKCRL:                hex.EncodeToString(c.pckCRL),
		TCBInfoIssuerChain:    c.tcbIssuerChain,
		TCBInfo:               c.tcbInfo.body,
		TCBInfoSignature:      hex.EncodeToString(c.tcbInfo.signature),
		QEIdentityIssuerChain: c.qeIssuerChain,
		QEIdentity:            c.qeIdentity.body,
		QEIdentitySignature:   hex.EncodeToString(c.qeIdentity.signature),
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// FMSPC returns the family of platforms that c is for, 12 hexadecimal digits in
// lower case, as Intel's TCB info has it.
func (c *Collateral) FMSPC() string { return c.fmspc }

// NextUpdate returns when the first of the four parts expires. [Verify] refuses
// c from then on.
func (c *Collateral) NextUpdate() time.Time { return c.nextUpdate }

// init checks that every part of c parses, and fills in what is derived.
func (c *Collateral) init() error {
	for _, p := range []struct {
		name, pem string
		dst       *[]*x509.Certificate
	}{
		{"pck_crl_issuer_chain", c.pckCRLChain, &c.crlCerts},
		{"tcb_info_issuer_chain", c.tcbIssuerChain, &c.tcbCerts},
		{"qe_identity_issuer_chain", c.qeIssuerChain, &c.qeCerts},
	} {
		var err error
		if *p.dst, err = parseChain([]byte(p.pem), issuerChainLen); err != nil {
			return badCollateral("%s: %w", p.name, err)
		}
	}
	for _, p := range []struct {
		name string
		part *signedJSON
		dst  any
	}{
		{"tcb_info", &c.tcbInfo, &c.tcb},
		{"qe_identity", &c.qeIdentity, &c.qe},
	} {
		if len(p.part.signature) != signatureSize {
			return badCollateral("%s: signature of %d bytes, want %d", p.name, len(p.part.signature), signatureSize)
		}
		if !strings.HasPrefix(p.part.body, "{") {
			return badCollateral("%s: not a JSON object", p.name)
		}
		if err := json.Unmarshal([]byte(p.part.body), p.dst); err != nil {
			return badCollateral("%s: %w", p.name, err)
		}
	}
	if err := parseLevels("tcb_info", c.tcb.TcbLevels); err != nil {
		return err
	}
	for _, m := range c.tcb.TdxModuleIdentities {
		if err := parseLevels("tcb_info: "+m.ID, m.TcbLevels); err != nil {
			return err
		}
	}
	if err := parseLevels("qe_identity", c.qe.TcbLevels); err != nil {
		return err
	}
	c.fmspc = strings.ToLower(c.tcb.Fmspc)
	c.nextUpdate = earliest(c.tcb.NextUpdate, c.qe.NextUpdate)
	for _, p := range []struct {
		name string
		der  []byte
		dst  **x509.RevocationList
	}{
		{"pck_crl", c.pckCRL, &c.pckList},
		{"root_ca_crl", c.rootCRL, &c.rootList},
	} {
		var err error
		if *p.dst, err = revocation.Parse(p.der); err != nil {
			return badCollateral("%s: %w", p.name, err)
		}
		c.nextUpdate = earliest(c.nextUpdate, (*p.dst).NextUpdate)
	}
	c.digest = lru.Digest([]byte(c.tcbInfo.body), c.tcbInfo.signature, []byte(c.qeIdentity.body), c.qeIdentity.signature,
		c.pckCRL, c.rootCRL, []byte(c.pckCRLChain), []byte(c.tcbIssuerChain), []byte(c.qeIssuerChain))
	return nil
}

func earliest(t, u time.Time) time.Time {
	if u.Before(t) {
		return u
	}
	return t
}

// parseChain reads n certificates in PEM, and nothing else.
func parseChain(rest []byte, n int) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for i := range n {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%d certificates, want %d", i, n)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("data after the last certificate")
	}
	return certs, nil
}

// collateralGetter answers go-tdx-guest's requests to the PCS out of a
// Collateral. It never goes to the network.
type collateralGetter struct{ c *Collateral }

// Get answers by the kind of request. The FMSPC in it is not compared here: the
// module compares it with the TCB info once the signatures have been checked.
func (g collateralGetter) Get(u string) (header map[string][]string, body []byte, err error) {
	chain := func(name, pem string) map[string][]string {
		return map[string][]string{name: {url.QueryEscape(pem)}}
	}
	signed := func(name string, s signedJSON) []byte {
		return fmt.Appendf(nil, `{%q:%s,"signature":"%x"}`, name, s.body, s.signature)
	}
	switch {
	case strings.HasPrefix(u, pcs.TcbInfoURL("")):
		return chain("Tcb-Info-Issuer-Chain", g.c.tcbIssuerChain), signed("tcbInfo", g.c.tcbInfo), nil
	case u == pcs.QeIdentityURL():
		return chain("Sgx-Enclave-Identity-Issuer-Chain", g.c.qeIssuerChain), signed("enclaveIdentity", g.c.qeIdentity), nil
	case u == pcs.PckCrlURL("platform") || u == pcs.PckCrlURL("processor"):
		return chain("Sgx-Pck-Crl-Issuer-Chain", g.c.pckCRLChain), g.c.pckCRL, nil
	default:
		// The root CRL has no fixed address: it is asked for by the distribution
		// point in the root certificate.
		return nil, g.c.rootCRL, nil
	}
}
