package enroll

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/tls"
)

// A Client asks an authority for certificates. The fields must not be changed once it is
// in use; Enroll may then be called concurrently.
type Client struct {
	// Addr is the authority's, host:port. TLS says whom to take for it: RootCAs,
	// ServerName (if empty, the host of Addr) and the like. Its Certificates and
	// Attestation must not be set; it may be nil.
	Addr string
	TLS  *tls.Config

	// Attester makes the evidence, in place of a certificate.
	Attester attestext.Attester

	// Key is the key to certify, which must be inside the TEE: ECDSA or Ed25519. If nil,
	// there is a new one of P-256 each time.
	Key crypto.Signer

	// Names are the DNS names to ask for, 1 to 16, in lower case.
	Names []string

	// Issuers are the roots of what the authority issues. If nil, what it sends is not
	// verified up to a root: the connection says that it comes from the authority.
	Issuers *x509.CertPool

	// Timeout bounds an enrolment. Zero is DefaultTimeout.
	Timeout time.Duration

	// Now returns the time at which a certificate must be valid. nil means time.Now.
	Now func() time.Time
}

// Enroll attests to the authority and returns the certificate that it issues, with its
// key, and Leaf set. A refusal is an [Error].
func (c *Client) Enroll(ctx context.Context) (*tls.Certificate, error) {
	key, config, err := c.prepare()
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: c.Names}, key)
	if err != nil {
		return nil, fmt.Errorf("enroll: %w", err)
	}
	chain, err := c.exchange(ctx, config, csr)
	if err != nil {
		return nil, err
	}
	cert, err := c.accept(chain, key)
	if err != nil {
		return nil, fmt.Errorf("enroll: what the authority sent: %w", err)
	}
	return cert, nil
}

func (c *Client) timeout() time.Duration {
	if c.Timeout == 0 {
		return DefaultTimeout
	}
	return c.Timeout
}

// Validate says what is wrong with the fields, if anything is. Enroll calls it as well.
func (c *Client) Validate() error {
	config := c.TLS
	if config == nil {
		config = &tls.Config{}
	}
	_, _, err := net.SplitHostPort(c.Addr)
	switch {
	case err != nil:
		return fmt.Errorf("enroll: %w", err)
	case c.Attester == nil:
		return errors.New("enroll: a Client needs an Attester")
	case config.Attestation != nil || len(config.Certificates) > 0 || config.GetClientCertificate != nil:
		return errors.New("enroll: a Client's TLS has Certificates or Attestation")
	case config.InsecureSkipVerify:
		return errors.New("enroll: a Client's TLS does not verify the authority")
	case len(c.Names) == 0 || len(c.Names) > maxNames:
		return fmt.Errorf("enroll: %d names, want 1 to %d", len(c.Names), maxNames)
	}
	for _, n := range c.Names {
		if !isName(n) {
			return fmt.Errorf("enroll: %q is no DNS name in lower case", n)
		}
	}
	return nil
}

// prepare returns the key to certify and the configuration to dial with.
func (c *Client) prepare() (crypto.Signer, *tls.Config, error) {
	if err := c.Validate(); err != nil {
		return nil, nil, err
	}
	config := &tls.Config{}
	if c.TLS != nil {
		config = c.TLS.Clone()
	}
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return nil, nil, fmt.Errorf("enroll: %w", err)
	}
	key := c.Key
	if key == nil {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, nil, err
		}
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	config.MinVersion = tls.VersionTLS13
	config.Attestation = &tls.AttestationConfig{
		Attester:             c.Attester,
		AttestedKey:          key,
		Credentials:          []attestext.CredentialKind{attestext.AttestationOnly},
		AllowAttestationOnly: true,
		AttestTimeout:        c.timeout() / 2,
	}
	return key, config, nil
}

// exchange sends csr over an attested connection and returns the chain.
func (c *Client) exchange(ctx context.Context, config *tls.Config, csr []byte) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", c.Addr)
	if err != nil {
		return nil, fmt.Errorf("enroll: %w", err)
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	chain, err := converse(ctx, tls.Client(raw, config), csr)
	switch {
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("enroll: %w", ctx.Err())
	case err != nil && !errors.As(err, new(*Error)):
		err = fmt.Errorf("enroll: %w", err)
	}
	return chain, err
}

func converse(ctx context.Context, conn *tls.Conn, csr []byte) ([][]byte, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, explain(conn, err)
	}
	defer conn.Close()
	if conn.ConnectionState().LocalAttestation == nil {
		return nil, errors.New("the authority did not ask for evidence")
	}
	// The handshake is over here before the authority has appraised anything: nothing is
	// sent before it says so, and an alert that says otherwise is read here.
	b, err := readFrame(conn, maxGreeting)
	if err != nil {
		return nil, explain(conn, err)
	}
	if err := parseGreeting(b); err != nil {
		return nil, err
	}
	if err := writeFrame(conn, csr); err != nil {
		return nil, err
	}
	if b, err = readFrame(conn, maxReply); err != nil {
		return nil, explain(conn, err)
	}
	return parseReply(b)
}

// accept returns the certificate that chain is, if it is what was asked for.
func (c *Client) accept(chain [][]byte, key crypto.Signer) (*tls.Certificate, error) {
	opts := x509.VerifyOptions{Roots: c.Issuers, Intermediates: x509.NewCertPool(), CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if c.Now != nil {
		opts.CurrentTime = c.Now()
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	for _, der := range chain[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		opts.Intermediates.AddCert(cert)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	switch {
	case !bytes.Equal(spki, leaf.RawSubjectPublicKeyInfo):
		return nil, errors.New("a certificate of another key")
	case !slices.Equal(leaf.DNSNames, c.Names):
		return nil, fmt.Errorf("a certificate for %q, and %q was asked for", leaf.DNSNames, c.Names)
	case opts.CurrentTime.Before(leaf.NotBefore) || opts.CurrentTime.After(leaf.NotAfter):
		return nil, fmt.Errorf("a certificate that is valid from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
	if c.Issuers != nil {
		if _, err := leaf.Verify(opts); err != nil {
			return nil, err
		}
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}
