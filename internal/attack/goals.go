package attack

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"net"
	"strings"
	"sync"

	"github.com/attestedtls/atls/keyschedule"
)

// A session is what one end of a connection has of it: the hellos as it saw them, and
// its secrets.
type session struct {
	hash   crypto.Hash
	hellos []byte // ClientHello...ServerHello, the input of the transcript hash
	// dh is the Diffie-Hellman secret. It is known of the attacker's own ends only:
	// an honest end shows it to nobody.
	dh                                                  []byte
	clientHandshake, serverHandshake, clientApplication []byte
}

// derives reports whether the client handshake traffic secret of s comes from the
// Diffie-Hellman secret dh over the hellos that s saw.
func (s *session) derives(dh []byte) bool {
	if dh == nil || s.hash == 0 || len(s.clientHandshake) == 0 {
		return false
	}
	transcript := s.hash.New()
	transcript.Write(s.hellos)
	hs := keyschedule.NewEarlySecret(s.hash.New, nil).HandshakeSecret(dh)
	return bytes.Equal(hs.ClientHandshakeTrafficSecret(transcript), s.clientHandshake)
}

// Goals are the correlation goals of the published models: whether the end that
// accepted evidence and the connection that the evidence was made on have the same
// secrets. See [Row].
type Goals struct{ G1, G2, G3 bool }

// String returns "yes" or "no" for each goal.
func (g Goals) String() string { return yes(g.G1) + " " + yes(g.G2) + " " + yes(g.G3) }

// compare computes the goals from the secrets of the two ends. That the
// Diffie-Hellman secrets are equal shows in equal handshake secrets, or in that a
// secret which the attacker knows yields the handshake secrets of both ends.
func compare(accepted, made *session, known ...[]byte) Goals {
	same := func(a, b []byte) bool { return len(a) > 0 && bytes.Equal(a, b) }
	g := Goals{
		G2: same(accepted.clientHandshake, made.clientHandshake),
		G3: same(accepted.clientApplication, made.clientApplication),
	}
	g.G1 = g.G2
	for _, dh := range append(known, accepted.dh, made.dh) {
		g.G1 = g.G1 || accepted.derives(dh) && made.derives(dh)
	}
	return g
}

// A keyLog takes the secrets out of Config.KeyLogWriter. It is safe for concurrent use.
type keyLog struct {
	mu      sync.Mutex
	secrets map[string][]byte
}

func (k *keyLog) Write(line []byte) (int, error) {
	if f := strings.Fields(string(line)); len(f) == 3 {
		if secret, err := hex.DecodeString(f[2]); err == nil {
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.secrets == nil {
				k.secrets = make(map[string][]byte)
			}
			k.secrets[f[0]] = secret
		}
	}
	return len(line), nil
}

func (k *keyLog) secret(label string) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.secrets[label]
}

// A wire is a connection that keeps what went over it.
type wire struct {
	net.Conn
	mu      sync.Mutex
	in, out bytes.Buffer
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.in.Write(b[:n])
	return n, err
}

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	w.out.Write(b)
	w.mu.Unlock()
	return w.Conn.Write(b)
}

// hellos returns the ClientHellos and ServerHellos that went over w so far.
func (w *wire) hellos() (clients, servers []*hello) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range [][]byte{w.in.Bytes(), w.out.Bytes()} {
		for _, m := range plainHandshake(b) {
			h, err := parseHello(m)
			switch {
			case err != nil:
			case m[0] == typeClientHello:
				clients = append(clients, h)
			default:
				servers = append(servers, h)
			}
		}
	}
	return clients, servers
}

// plainHandshake returns the handshake messages in the records of b before the first
// protected one.
func plainHandshake(b []byte) [][]byte {
	var stream []byte
	for len(b) >= recordHeader {
		n := recordHeader + int(b[3])<<8 + int(b[4])
		if len(b) < n || b[0] == recordApplication {
			break
		}
		if b[0] == recordHandshake {
			stream = append(stream, b[recordHeader:n]...)
		}
		b = b[n:]
	}
	var messages [][]byte
	for len(stream) >= handshakeHeader {
		n := handshakeHeader + int(stream[1])<<16 + int(stream[2])<<8 + int(stream[3])
		if len(stream) < n {
			break
		}
		messages = append(messages, stream[:n])
		stream = stream[n:]
	}
	return messages
}

// transcript returns the input of the transcript hash up to ServerHello, which after
// a HelloRetryRequest begins with the message_hash of the first ClientHello, or nil
// where there is no ServerHello yet.
func (w *wire) transcript() (crypto.Hash, []byte) {
	clients, servers := w.hellos()
	if len(clients) == 0 || len(clients) != len(servers) {
		return 0, nil
	}
	last := len(servers) - 1
	su := suites[servers[last].suites[0]]
	if su == nil {
		return 0, nil
	}
	var b []byte
	if last > 0 {
		h := su.hash.New()
		h.Write(clients[0].raw)
		b = append(b, typeMessageHash, 0, 0, byte(h.Size()))
		b = append(h.Sum(b), servers[0].raw...)
	}
	b = append(b, clients[last].raw...)
	return su.hash, append(b, servers[last].raw...)
}
