// QUIC with the fork's own QUICConn, which attests in the handshake. A QUIC
// implementation carries what it wants carried and takes its secrets; this one carries
// the CRYPTO bytes in UDP datagrams of its own format, protected by AEAD with QUIC's
// keys (RFC 9001, section 5.1), and leaves out all that makes QUIC a transport: packet
// formats, acknowledgements, loss recovery, streams. It works on loopback only.
package main

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"

	"github.com/attestedtls/atls/examples/internal/demo"
	"github.com/attestedtls/atls/tls"
	"golang.org/x/crypto/chacha20poly1305"
)

func main() {
	if err := run(os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// maxPayload is how much goes into a datagram, in bytes.
const maxPayload = 1150

// An end is one end of a connection: a QUICConn over a UDP socket.
type end struct {
	tls    *tls.QUICConn
	udp    *net.UDPConn
	to     *net.UDPAddr
	seal   map[tls.QUICEncryptionLevel]*keys
	open   map[tls.QUICEncryptionLevel]*keys
	shaken bool
}

func newEnd(conn *tls.QUICConn, udp *net.UDPConn, to *net.UDPAddr) *end {
	conn.SetTransportParameters(nil)
	return &end{conn, udp, to, map[tls.QUICEncryptionLevel]*keys{}, map[tls.QUICEncryptionLevel]*keys{}, false}
}

// keys protect one direction at one level.
type keys struct {
	aead   cipher.AEAD
	iv     []byte
	number uint64 // of the next packet
}

func newKeys(suite uint16, secret []byte) (*keys, error) {
	hash, size, aead := crypto.SHA256, 16, newGCM
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
	case tls.TLS_AES_256_GCM_SHA384:
		hash, size = crypto.SHA384, 32
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		size, aead = 32, chacha20poly1305.New
	default:
		return nil, fmt.Errorf("cipher suite %#x", suite)
	}
	key, err1 := expandLabel(hash, secret, "quic key", size)
	iv, err2 := expandLabel(hash, secret, "quic iv", 12)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	a, err := aead(key)
	return &keys{aead: a, iv: iv}, err
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// expandLabel is HKDF-Expand-Label of RFC 8446, section 7.1, with an empty context.
func expandLabel(hash crypto.Hash, secret []byte, label string, size int) ([]byte, error) {
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(info, byte(len("tls13 "+label)))
	info = append(info, "tls13 "+label...)
	return hkdf.Expand(hash.New, secret, string(append(info, 0)), size)
}

// nonce is that of packet n, RFC 9001, section 5.3.
func (k *keys) nonce(n uint64) []byte {
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint64(nonce[4:], n)
	for i := range nonce {
		nonce[i] ^= k.iv[i]
	}
	return nonce
}

// send sends data in datagrams: level, packet number, and what is sealed.
func (e *end) send(level tls.QUICEncryptionLevel, data []byte) error {
	for len(data) > 0 {
		part := data[:min(len(data), maxPayload)]
		data = data[len(part):]
		packet := append([]byte{byte(level)}, make([]byte, 8)...)
		// QUIC protects Initial packets as well, with keys that anybody can derive.
		if level != tls.QUICEncryptionLevelInitial {
			k := e.seal[level]
			if k == nil {
				return fmt.Errorf("no keys to send with at level %v", level)
			}
			binary.BigEndian.PutUint64(packet[1:], k.number)
			packet = k.aead.Seal(packet, k.nonce(k.number), part, packet[:9])
			k.number++
		} else {
			packet = append(packet, part...)
		}
		if _, err := e.udp.WriteToUDP(packet, e.to); err != nil {
			return err
		}
	}
	return nil
}

// receive returns the payload of the next datagram.
func (e *end) receive() (tls.QUICEncryptionLevel, []byte, error) {
	buf := make([]byte, 2048)
	e.udp.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, from, err := e.udp.ReadFromUDP(buf)
	if err != nil {
		return 0, nil, err
	}
	if n < 9 || e.to != nil && from.String() != e.to.String() {
		return 0, nil, errors.New("a datagram that is not of this connection")
	}
	e.to = from
	level, packet := tls.QUICEncryptionLevel(buf[0]), buf[:n]
	if level == tls.QUICEncryptionLevelInitial {
		return level, packet[9:], nil
	}
	k := e.open[level]
	if k == nil {
		return 0, nil, fmt.Errorf("no keys to receive with at level %v", level)
	}
	// Nothing is lost or overtaken here, so that a number that is not the next is one
	// that came before.
	number := binary.BigEndian.Uint64(packet[1:])
	if number != k.number {
		return 0, nil, fmt.Errorf("packet %d, where %d is due", number, k.number)
	}
	k.number++
	data, err := k.aead.Open(nil, k.nonce(number), packet[9:], packet[:9])
	return level, data, err
}

// handshake runs until this end is done with it. A server is done when the client has
// been appraised, if it has to attest: not before is there a key to write with.
func (e *end) handshake(ctx context.Context) error {
	if err := e.tls.Start(ctx); err != nil {
		return err
	}
	for {
		if err := e.events(); err != nil || e.shaken {
			return err
		}
		level, data, err := e.receive()
		if err != nil {
			return err
		}
		if err := e.tls.HandleData(level, data); err != nil {
			return err
		}
	}
}

// events does what the QUICConn asks for.
func (e *end) events() error {
	for {
		var err error
		switch ev := e.tls.NextEvent(); ev.Kind {
		case tls.QUICNoEvent:
			return nil
		case tls.QUICSetReadSecret:
			e.open[ev.Level], err = newKeys(ev.Suite, ev.Data)
		case tls.QUICSetWriteSecret:
			e.seal[ev.Level], err = newKeys(ev.Suite, ev.Data)
		case tls.QUICWriteData:
			err = e.send(ev.Level, ev.Data)
		case tls.QUICHandshakeDone:
			e.shaken = true
		}
		if err != nil {
			return err
		}
	}
}

func listenUDP() (*net.UDPConn, error) {
	return net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
}

// serve answers one client.
func serve(ctx context.Context, udp *net.UDPConn, config *tls.Config) error {
	e := newEnd(tls.QUICServer(&tls.QUICConfig{TLSConfig: config}), udp, nil)
	defer e.tls.Close()
	if err := e.handshake(ctx); err != nil {
		return err
	}
	_, question, err := e.receive()
	if err != nil {
		return err
	}
	return e.send(tls.QUICEncryptionLevelApplication, append([]byte("you said "), question...))
}

// dial asks a server, and returns its answer and its verdict.
func dial(ctx context.Context, to net.Addr, config *tls.Config) (answer, verdict string, err error) {
	udp, err := listenUDP()
	if err != nil {
		return "", "", err
	}
	defer udp.Close()
	e := newEnd(tls.QUICClient(&tls.QUICConfig{TLSConfig: config}), udp, to.(*net.UDPAddr))
	defer e.tls.Close()
	if err := e.handshake(ctx); err != nil {
		return "", "", err // no application data has moved
	}
	if err := e.send(tls.QUICEncryptionLevelApplication, []byte("hello")); err != nil {
		return "", "", err
	}
	_, data, err := e.receive()
	if err != nil {
		return "", "", err
	}
	return string(data), e.tls.ConnectionState().PeerAttestation.Verdict(), nil
}

func run(out io.Writer) error {
	serverConfig, clientConfig := demo.Configs()
	for _, c := range []*tls.Config{serverConfig, clientConfig} {
		c.MinVersion, c.NextProtos = tls.VersionTLS13, []string{"atls-example"}
	}
	udp, err := listenUDP()
	if err != nil {
		return err
	}
	defer udp.Close()
	ctx := context.Background()
	served := make(chan error, 1)
	go func() { served <- serve(ctx, udp, serverConfig) }()
	answer, verdict, err := dial(ctx, udp.LocalAddr(), clientConfig)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%q, says a server that is %s\n", answer, verdict)
	return <-served
}
