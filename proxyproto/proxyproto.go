// Package proxyproto writes and reads the header of the PROXY protocol, version 2,
// with what a peer attested in it: "atls proxy --send-proxy" puts one before the bytes
// of each connection, and the program behind reads it with [Read].
//
// The protocol is HAProxy's, proxy-protocol.txt of 2020/03/05, sections 2.2 to 2.2.7.
// There is no authentication in it: read such a header only from a peer that nobody
// else can connect as, on a Unix socket or a loopback address.
package proxyproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// signature begins a header of version 2, section 2.2.
const signature = "\r\n\r\n\x00\r\nQUIT\n"

const (
	versionCommandLocal = 0x20 // version 2, LOCAL
	versionCommandProxy = 0x21 // version 2, PROXY

	familyUnspec = 0x00
	familyTCP4   = 0x11
	familyTCP6   = 0x21

	prefixSize = len(signature) + 4 // up to and including the length
	sizeIPv4   = 4 + 4 + 2 + 2
	sizeIPv6   = 16 + 16 + 2 + 2

	// MaxSize is the size in bytes of the largest header that is written or read.
	// The protocol permits 64 KiB.
	MaxSize = 4096
)

// Types of TLVs, section 2.2. 0xE0 to 0xEF are for applications.
const (
	typeALPN      = 0x01
	typeAuthority = 0x02
	typeVerdict   = 0xE0
	typeMachine   = 0xE1
)

// A Header says where a connection came from, and what its client attested.
type Header struct {
	// Source and Destination are the addresses of the connection that was accepted.
	// Neither is valid where there are none, for example on a Unix socket.
	Source, Destination netip.AddrPort

	// Authority is the server name that the client asked for, and ALPN the
	// protocol that was negotiated; empty if none.
	Authority, ALPN string

	// Verdict is what was found about the client: "affirming", "warning", "none" if
	// it did not attest. Empty where the header has none: nobody was asked.
	Verdict string

	// Machine identifies the client's machine; empty if that is not known.
	Machine string

	// Local says that the sender speaks for itself and relays nobody, for example to
	// see whether the program lives. Nothing else is set.
	Local bool
}

// Bytes returns the header as it is sent. It is an error if it would exceed MaxSize or
// one address is missing.
func (h *Header) Bytes() ([]byte, error) {
	b := append([]byte(signature), versionCommandProxy, familyUnspec, 0, 0)
	src, dst := h.Source.Addr().Unmap(), h.Destination.Addr().Unmap()
	switch {
	case h.Local:
		b[len(signature)] = versionCommandLocal
		return b, nil
	case !src.IsValid() && !dst.IsValid():
	case src.Is4() && dst.Is4():
		b[len(signature)+1] = familyTCP4
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	case src.IsValid() && dst.IsValid(): // an IPv4 address among them is mapped
		b[len(signature)+1] = familyTCP6
		s, d := src.As16(), dst.As16()
		b = append(append(b, s[:]...), d[:]...)
	default:
		return nil, fmt.Errorf("proxyproto: of %v and %v one is missing", h.Source, h.Destination)
	}
	if src.IsValid() {
		b = binary.BigEndian.AppendUint16(b, h.Source.Port())
		b = binary.BigEndian.AppendUint16(b, h.Destination.Port())
	}
	for _, tlv := range []struct {
		kind  byte
		value string
	}{{typeALPN, h.ALPN}, {typeAuthority, h.Authority}, {typeVerdict, h.Verdict}, {typeMachine, h.Machine}} {
		if tlv.value == "" {
			continue
		}
		if len(tlv.value) > MaxSize {
			return nil, fmt.Errorf("proxyproto: a value of %d bytes", len(tlv.value))
		}
		b = append(b, tlv.kind)
		b = binary.BigEndian.AppendUint16(b, uint16(len(tlv.value)))
		b = append(b, tlv.value...)
	}
	if len(b) > MaxSize {
		return nil, fmt.Errorf("proxyproto: a header of %d bytes, at most %d are sent", len(b), MaxSize)
	}
	binary.BigEndian.PutUint16(b[prefixSize-2:], uint16(len(b)-prefixSize))
	return b, nil
}

// Read reads a header, and not a byte more. It is an error if there is none, so that
// nobody gets past by leaving it out, and if it exceeds MaxSize, which is known
// before more than 16 bytes are read. Set a deadline before.
func Read(r io.Reader) (*Header, error) {
	b := make([]byte, prefixSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("proxyproto: read header: %w", err)
	}
	if string(b[:len(signature)]) != signature {
		return nil, errors.New("proxyproto: the connection does not begin with a header of version 2")
	}
	n := int(binary.BigEndian.Uint16(b[prefixSize-2:]))
	if prefixSize+n > MaxSize {
		return nil, fmt.Errorf("proxyproto: a header of %d bytes, at most %d are read", prefixSize+n, MaxSize)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("proxyproto: read header: %w", err)
	}
	return parse(b[len(signature)], b[len(signature)+1], body)
}

// parse reads what is behind the length.
func parse(command, family byte, b []byte) (*Header, error) {
	switch command {
	case versionCommandLocal:
		return &Header{Local: true}, nil // the rest is to be ignored
	case versionCommandProxy:
	default:
		return nil, fmt.Errorf("proxyproto: version and command are %#x", command)
	}
	h := new(Header)
	size := map[byte]int{familyUnspec: 0, familyTCP4: sizeIPv4, familyTCP6: sizeIPv6}
	n, ok := size[family]
	switch {
	case !ok:
		return nil, fmt.Errorf("proxyproto: address family and protocol are %#x", family)
	case len(b) < n:
		return nil, errors.New("proxyproto: the addresses are cut off")
	}
	if n > 0 {
		ip := (n - 4) / 2
		src, _ := netip.AddrFromSlice(b[:ip])
		dst, _ := netip.AddrFromSlice(b[ip : 2*ip])
		h.Source = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b[2*ip:]))
		h.Destination = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2*ip+2:]))
	}
	seen := map[byte]bool{}
	for b = b[n:]; len(b) > 0; {
		if len(b) < 3 {
			return nil, errors.New("proxyproto: a TLV is cut off")
		}
		kind, size := b[0], int(binary.BigEndian.Uint16(b[1:]))
		if b = b[3:]; len(b) < size {
			return nil, errors.New("proxyproto: a TLV is cut off")
		}
		value := string(b[:size])
		b = b[size:]
		var to *string
		switch kind {
		case typeALPN:
			to = &h.ALPN
		case typeAuthority:
			to = &h.Authority
		case typeVerdict:
			to = &h.Verdict
		case typeMachine:
			to = &h.Machine
		default:
			continue // other senders have other types
		}
		if seen[kind] || value == "" {
			return nil, fmt.Errorf("proxyproto: the TLV %#x is there twice, or empty", kind)
		}
		seen[kind] = true
		*to = value
	}
	return h, nil
}

// Addresses sets Source and Destination from a connection's ends, if they are TCP's.
func (h *Header) Addresses(c net.Conn) {
	src, ok1 := c.RemoteAddr().(*net.TCPAddr)
	dst, ok2 := c.LocalAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return
	}
	s, d := src.AddrPort(), dst.AddrPort()
	h.Source = netip.AddrPortFrom(s.Addr().Unmap().WithZone(""), s.Port())
	h.Destination = netip.AddrPortFrom(d.Addr().Unmap().WithZone(""), d.Port())
}
