package interop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A side is an end of a connection.
type side uint8

const (
	client side = iota
	server
)

func (s side) String() string { return [...]string{"client", "server"}[s] }

func (s side) other() side { return 1 - s }

// A chunk is what one end wrote, as it went by.
type chunk struct {
	conn int // connections are counted from 0
	from side
	at   time.Time
	data []byte // empty for the end of what from writes
}

// A recorder sits between the two ends and keeps what goes by.
type recorder struct {
	ln   net.Listener
	dial func() (net.Conn, error)

	mu     sync.Mutex
	chunks []chunk
	conns  int
	open   map[net.Conn]bool
	closed bool
	wg     sync.WaitGroup
}

// maxCapture bounds what is kept of one cell, in bytes.
const maxCapture = 16 << 20

// maxConnections bounds the connections of one cell.
const maxConnections = 64

// newRecorder listens on loopback and forwards each connection to what dial returns.
func newRecorder(dial func() (net.Conn, error)) (*recorder, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &recorder{ln: ln, dial: dial, open: map[net.Conn]bool{}}
	r.wg.Go(r.accept)
	return r, nil
}

func (r *recorder) addr() string { return r.ln.Addr().String() }

func (r *recorder) accept() {
	for {
		c, err := r.ln.Accept()
		if err != nil {
			return
		}
		if !r.keep(c) {
			return
		}
		r.mu.Lock()
		n := r.conns
		r.conns++
		r.mu.Unlock()
		if n >= maxConnections {
			c.Close()
			continue
		}
		r.wg.Go(func() { r.forward(n, c) })
	}
}

// keep has close close c as well; it closes c at once if that was before.
func (r *recorder) keep(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		c.Close()
		return false
	}
	r.open[c] = true
	return true
}

func (r *recorder) forward(n int, c net.Conn) {
	defer c.Close()
	s, err := r.dial()
	if err != nil || !r.keep(s) {
		return
	}
	defer s.Close()
	var both sync.WaitGroup
	both.Go(func() { r.pump(n, client, s, c) })
	both.Go(func() { r.pump(n, server, c, s) })
	both.Wait()
}

// pump copies what from writes, and keeps it.
func (r *recorder) pump(n int, from side, dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	total := 0
	for {
		k, err := src.Read(buf)
		if k > 0 {
			if total += k; total > maxCapture {
				dst.Close()
				src.Close()
				return
			}
			r.add(chunk{n, from, time.Now(), bytes.Clone(buf[:k])})
			if _, err := dst.Write(buf[:k]); err != nil {
				// The other end is gone. What this one still has to say is kept: it
				// may be the alert that the verdict is about.
				dst = discard{dst}
			}
		}
		if err != nil {
			r.add(chunk{conn: n, from: from, at: time.Now()})
			if half, ok := dst.(interface{ CloseWrite() error }); ok {
				half.CloseWrite()
			}
			return
		}
	}
}

// discard is a connection that nobody reads.
type discard struct{ net.Conn }

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func (r *recorder) add(c chunk) {
	r.mu.Lock()
	r.chunks = append(r.chunks, c)
	r.mu.Unlock()
}

// close ends all connections and returns what went by.
func (r *recorder) close() []chunk {
	r.ln.Close()
	r.mu.Lock()
	r.closed = true
	for c := range r.open {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
	return r.chunks
}

// The capture is a pcapng file (draft-ietf-opsawg-pcapng): a section header, one
// interface of raw IPv4, a decryption secrets block with the key log, and a packet
// for each segment. Addresses and ports are made up, 10.0.0.1 being the client and
// 10.0.0.2:443 the server, so that other tools take it for TLS by themselves.
const (
	blockSection   = 0x0A0D0D0A
	blockInterface = 1
	blockPacket    = 6
	blockSecrets   = 10

	byteOrderMagic = 0x1A2B3C4D
	linkRawIP      = 101
	secretsTLS     = 0x544C534B

	clientPort = 40000 // of connection 0
	serverPort = 443

	// maxSegment keeps a segment within an IPv4 packet, in bytes.
	maxSegment = 32 << 10

	ipHeader, tcpHeader = 20, 20

	flagFIN, flagSYN, flagPSH, flagACK = 0x01, 0x02, 0x08, 0x10
)

// writeCapture writes chunks and the secrets of a key log to a file.
func writeCapture(path string, chunks []chunk, keys []byte) error {
	var w bytes.Buffer
	w.Write(block(blockSection, binary.LittleEndian.AppendUint64(
		[]byte{0x4D, 0x3C, 0x2B, 0x1A, 1, 0, 0, 0}, 1<<64-1)))
	w.Write(block(blockInterface, []byte{linkRawIP, 0, 0, 0, 0, 0, 0, 0}))
	secrets := binary.LittleEndian.AppendUint32(nil, secretsTLS)
	secrets = binary.LittleEndian.AppendUint32(secrets, uint32(len(keys)))
	w.Write(block(blockSecrets, append(secrets, keys...)))
	type state struct{ next [2]uint32 }
	conns := map[int]*state{}
	for _, c := range chunks {
		s := conns[c.conn]
		if s == nil {
			s = &state{}
			conns[c.conn] = s
			w.Write(packet(c.conn, client, c.at, flagSYN, 0, 0, nil))
			w.Write(packet(c.conn, server, c.at, flagSYN|flagACK, 0, 1, nil))
			w.Write(packet(c.conn, client, c.at, flagACK, 1, 1, nil))
			s.next = [2]uint32{1, 1}
		}
		if len(c.data) == 0 {
			w.Write(packet(c.conn, c.from, c.at, flagFIN|flagACK, s.next[c.from], s.next[c.from.other()], nil))
			s.next[c.from]++
		}
		for data := c.data; len(data) > 0; {
			k := min(len(data), maxSegment)
			w.Write(packet(c.conn, c.from, c.at, flagPSH|flagACK, s.next[c.from], s.next[c.from.other()], data[:k]))
			s.next[c.from] += uint32(k)
			data = data[k:]
		}
	}
	return os.WriteFile(path, w.Bytes(), 0o600)
}

// block frames a body, padded to 32 bits.
func block(typ uint32, body []byte) []byte {
	padded := len(body) + (4-len(body)%4)%4
	n := uint32(padded + 12)
	b := binary.LittleEndian.AppendUint32(nil, typ)
	b = binary.LittleEndian.AppendUint32(b, n)
	b = append(b, body...)
	b = append(b, make([]byte, padded-len(body))...)
	return binary.LittleEndian.AppendUint32(b, n)
}

// packet is an enhanced packet block with one TCP segment.
func packet(conn int, from side, at time.Time, flags byte, seq, ack uint32, data []byte) []byte {
	ports := [2]uint16{uint16(clientPort + conn), serverPort}
	ip := make([]byte, ipHeader+tcpHeader, ipHeader+tcpHeader+len(data))
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(cap(ip)))
	ip[8], ip[9] = 64, 6
	copy(ip[12:], []byte{10, 0, 0, 1 + byte(from)})
	copy(ip[16:], []byte{10, 0, 0, 1 + byte(from.other())})
	var sum uint32
	for i := 0; i < ipHeader; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	tcp := ip[ipHeader:]
	binary.BigEndian.PutUint16(tcp, ports[from])
	binary.BigEndian.PutUint16(tcp[2:], ports[from.other()])
	binary.BigEndian.PutUint32(tcp[4:], seq)
	if flags&flagACK != 0 {
		binary.BigEndian.PutUint32(tcp[8:], ack)
	}
	tcp[12], tcp[13] = 5<<4, flags
	binary.BigEndian.PutUint16(tcp[14:], 0xffff)
	ip = append(ip, data...)

	us := uint64(at.UnixMicro())
	b := binary.LittleEndian.AppendUint32(nil, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(us>>32))
	b = binary.LittleEndian.AppendUint32(b, uint32(us))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(ip)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(ip)))
	return block(blockPacket, append(b, ip...))
}

var errCapture = errors.New("not a capture that this package wrote")

// readCapture reads what writeCapture wrote.
func readCapture(path string) (chunks []chunk, keys []byte, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	return parseCapture(b)
}

func parseCapture(b []byte) (chunks []chunk, keys []byte, err error) {
	if len(b) < 12 || binary.LittleEndian.Uint32(b) != blockSection || binary.LittleEndian.Uint32(b[8:]) != byteOrderMagic {
		return nil, nil, errCapture
	}
	for len(b) > 0 {
		if len(b) < 12 {
			return nil, nil, io.ErrUnexpectedEOF
		}
		typ, n := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		if n < 12 || n%4 != 0 || uint64(n) > uint64(len(b)) {
			return nil, nil, fmt.Errorf("%w: block of %d bytes", errCapture, n)
		}
		body := b[8 : n-4]
		b = b[n:]
		switch typ {
		case blockSecrets:
			if len(body) < 8 || binary.LittleEndian.Uint32(body) != secretsTLS {
				continue
			}
			k := binary.LittleEndian.Uint32(body[4:])
			if uint64(k) > uint64(len(body)-8) {
				return nil, nil, errCapture
			}
			keys = append(keys, body[8:8+k]...)
		case blockPacket:
			c, ok, err := parsePacket(body)
			if err != nil {
				return nil, nil, err
			}
			if ok {
				chunks = append(chunks, c)
			}
		}
	}
	return chunks, keys, nil
}

// parsePacket returns the segment in an enhanced packet block. ok is false if it
// has neither data nor the end of a stream.
func parsePacket(body []byte) (c chunk, ok bool, err error) {
	if len(body) < 20 {
		return c, false, errCapture
	}
	n := binary.LittleEndian.Uint32(body[12:])
	if uint64(n) > uint64(len(body)-20) {
		return c, false, errCapture
	}
	ip := body[20 : 20+n]
	if len(ip) < ipHeader+tcpHeader || ip[0] != 0x45 || ip[9] != 6 {
		return c, false, errCapture
	}
	us := uint64(binary.LittleEndian.Uint32(body[4:]))<<32 | uint64(binary.LittleEndian.Uint32(body[8:]))
	c.at = time.UnixMicro(int64(us))
	tcp := ip[ipHeader:]
	src, dst := binary.BigEndian.Uint16(tcp), binary.BigEndian.Uint16(tcp[2:])
	port := src
	if src == serverPort {
		c.from, port = server, dst
	}
	c.conn = int(port) - clientPort
	if c.conn < 0 {
		return c, false, errCapture
	}
	c.data = tcp[tcpHeader:]
	return c, len(c.data) > 0 || tcp[13]&flagFIN != 0, nil
}
