package enroll

import (
	"net"
	"net/netip"
)

var (
	ReadFrame   = readFrame
	WriteFrame  = writeFrame
	ParseReply  = parseReply
	ParseCSR    = parseRequest
	ReadIssued  = readIssued
	ParseGreet  = parseGreeting
	WaitForNext = wait
	Network     = network
)

// Remembered returns how many addresses are known after each of addrs has come and gone.
func Remembered(addrs ...net.Addr) (int, error) {
	p := places{most: 1, taken: map[netip.Prefix]int{}}
	for _, a := range addrs {
		if err := p.enter(a); err != nil {
			return 0, err
		}
		p.leave(a)
	}
	return len(p.taken), nil
}

// ClaimOf returns what a rule would compare, empty if there is nothing.
func ClaimOf(claims map[string]any, path string) string {
	s, err := newSubject("affirming", "", claims)
	if err != nil {
		return err.Error()
	}
	v, _ := s.claim(path)
	return v
}
