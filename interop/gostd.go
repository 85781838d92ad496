package interop

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/policy"
	"github.com/attestedtls/atls/attestext/softtee"
	"github.com/attestedtls/atls/attestext/verifier"
	"github.com/attestedtls/atls/tls/exportedauth"
)

// goName is the peer that is the standard library's crypto/tls, with package
// exportedauth on top of it. It is a function of this program.
const goName = "crypto-tls"

func goPeer() *peer {
	return &peer{name: goName, version: "crypto/tls of " + strings.TrimPrefix(runtime.Version(), "go"), main: goMain}
}

// A goPlan is what a case asks of that peer.
type goPlan struct {
	role       side
	groups     []tls.CurveID
	cert       string // suffix of the server's files
	clientCert bool
	fails      bool
	attests    map[side]bool
}

// goChoose returns nil for a case that is none of this peer's. crypto/tls has no way to
// choose cipher suites of TLS 1.3, nor the order of groups.
func goChoose(id string, role side) *goPlan {
	p := &goPlan{role: role}
	who, expat := strings.CutPrefix(id, "expat.")
	cert, certs := strings.CutPrefix(id, "base.cert.")
	group, groups := strings.CutPrefix(id, "base.group.")
	switch {
	case id == "base" || id == "base.ask":
		return p
	case id == "refuse.no-evidence":
		p.fails = true
		return p
	case id == "base.client-cert":
		p.clientCert = true
		return p
	case id == "base.hrr" && role == server:
		p.groups = []tls.CurveID{tls.CurveP256}
		return p
	case certs:
		if cert == "p384" || cert == "rsa" || cert == "ed25519" || cert == "large" {
			p.cert = "-" + cert
			return p
		}
	case groups:
		if g, ok := map[string]tls.CurveID{"x25519": tls.X25519, "p256": tls.CurveP256, "p384": tls.CurveP384, "p521": tls.CurveP521}[group]; ok {
			p.groups = []tls.CurveID{g}
			return p
		}
	case expat:
		if p.attests = map[string]map[side]bool{"server": {server: true}, "client": {client: true}, "both": {server: true, client: true}}[who]; p.attests != nil {
			// atls serve that has its clients attest wants their certificates in the handshake as well.
			p.clientCert = role == client && p.attests[client]
			return p
		}
	}
	return nil
}

func goMain(ctx context.Context, env map[string]string, log io.Writer) int {
	role := client
	if env["ATLS_INTEROP_ROLE"] == "server" {
		role = server
	}
	p := goChoose(env["ATLS_INTEROP_CASE"], role)
	if p == nil {
		return statusUnsupported
	}
	if err := p.run(ctx, env); err != nil {
		fmt.Fprintln(log, err)
		return 1
	}
	return 0
}

func (p *goPlan) run(ctx context.Context, env map[string]string) error {
	dir := env["ATLS_INTEROP_CERTS"]
	file, err := os.Create(filepath.Join(env["ATLS_INTEROP_LOGS"], peerKeys))
	if err != nil {
		return err
	}
	defer file.Close()
	keys := &goKeyLog{Writer: file}
	roots, err := readPool(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return err
	}
	pair := func(name string) (tls.Certificate, error) {
		return tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ClientCAs: roots, ServerName: "localhost",
		CurvePreferences: p.groups, KeyLogWriter: keys, SessionTicketsDisabled: p.attests != nil,
	}
	name := p.role.String()
	if p.role == server {
		name += p.cert
		if p.clientCert {
			config.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	if p.role == server || p.clientCert {
		cert, err := pair(name)
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{cert}
	}
	raw, err := p.connect(ctx, env["ATLS_INTEROP_ADDRESS"])
	if err != nil {
		return err
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(cellTimeout / 2))
	conn := tls.Client(raw, config)
	if p.role == server {
		conn = tls.Server(raw, config)
	}
	err = conn.HandshakeContext(ctx)
	if p.fails {
		if err == nil {
			return errors.New("the handshake succeeded")
		}
		return nil
	}
	if err != nil {
		return err
	}
	if p.attests != nil {
		if err := p.exchange(ctx, conn, config, keys); err != nil {
			return err
		}
		conn.SetDeadline(time.Now().Add(cellTimeout / 2))
	}
	if p.role == server {
		_, err = io.Copy(conn, conn)
		return errors.Join(err, conn.Close())
	}
	line := []byte("hello from crypto/tls\n")
	if _, err := conn.Write(line); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, make([]byte, len(line))); err != nil {
		return err
	}
	return conn.Close()
}

// A goKeyLog is a key log that remembers the client's random, in hexadecimal.
type goKeyLog struct {
	io.Writer
	random string
}

func (l *goKeyLog) Write(b []byte) (int, error) {
	if f := strings.Fields(string(b)); len(f) == 3 {
		l.random = f[1]
	}
	return l.Writer.Write(b)
}

func (p *goPlan) connect(ctx context.Context, addr string) (net.Conn, error) {
	if p.role == client {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	return ln.Accept()
}

func readPool(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("no certificate in %s", path)
	}
	return pool, nil
}

// exchange attests and has attested, by package exportedauth on the connection's exporter.
func (p *goPlan) exchange(ctx context.Context, conn *tls.Conn, config *tls.Config, keys *goKeyLog) error {
	state := conn.ConnectionState()
	hash, err := exportedauth.SuiteHash(state.CipherSuite)
	if err != nil {
		return err
	}
	role := attestext.RoleClient
	if p.role == server {
		role = attestext.RoleServer
	}
	s, err := exportedauth.NewSession(role, hash, func(label string, context []byte, n int) ([]byte, error) {
		v, err := state.ExportKeyingMaterial(label, context, n)
		if err == nil {
			// crypto/tls does not log EXPORTER_SECRET.
			_, err = fmt.Fprintf(keys, "%s%x:%x %s %x\n", logExport, label, context, keys.random, v)
		}
		return v, err
	})
	if err != nil {
		return err
	}
	c := &exportedauth.Config{}
	if p.attests[p.role] {
		c.Attester = softtee.NewTDX(nil).Attester()
		c.Identities = []exportedauth.Identity{goIdentity(config)}
	}
	if p.attests[p.role.other()] {
		collateral, err := softtee.Collateral(time.Now())
		if err != nil {
			return err
		}
		acceptable, err := policy.Parse(softtee.Policy())
		if err != nil {
			return err
		}
		c.Verifier = &verifier.Local{TDXRoots: softtee.Roots(), TDXCollateral: collateral, Policy: acceptable}
		c.VerifyChain = exportedauth.ServerChain(config.RootCAs, "localhost", nil)
		if p.role == server {
			c.VerifyChain = exportedauth.ClientChain(config.ClientCAs, nil)
		}
	}
	_, err = exportedauth.Exchange(ctx, conn, s, c)
	return err
}

func goIdentity(config *tls.Config) exportedauth.Identity {
	cert := config.Certificates[0]
	return exportedauth.Identity{Chain: cert.Certificate, Key: cert.PrivateKey.(crypto.Signer)}
}
