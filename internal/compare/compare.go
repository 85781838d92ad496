// Package compare measures what each way to attest costs, beside plain TLS, and
// writes a report.
//
// Both ends of every connection are this module's package tls in one process, over
// TCP on loopback, with delays between; see [Network]. TEE and manufacturer are in
// software, package softtee, and how long hardware takes to make evidence is waited
// for. What is compared runs by turns: a round measures each cell of a [Group] once,
// plain TLS among them, so that what slows the machine down for a while bears on all
// of them, and costs are medians of the differences within a round.
//
// It is for the command "atls compare".
package compare

import (
	"fmt"
	"time"
)

// A Kind says what one sample of a cell is.
type Kind string

// Kinds of samples.
const (
	// Connect is one connection: a handshake with what belongs to it, one byte of
	// application data to the server, and one back.
	Connect Kind = "connect"
	// Reattest is one round of re-attestation on a connection that stands.
	Reattest Kind = "reattest"
	// Periodic is a connection in use for a while: pings, one after the other.
	Periodic Kind = "periodic"
	// Load is as many connections as there can be for a while, from several workers.
	Load Kind = "load"
)

// A Cell is one thing to measure: a mode with the value of each factor. Durations are
// in nanoseconds in JSON.
type Cell struct {
	Kind     Kind          `json:"kind"`
	Mode     string        `json:"mode"`
	RTT      time.Duration `json:"rtt"`
	Size     int           `json:"size"` // nominal, of evidence, in bytes
	TEE      time.Duration `json:"tee"`
	Verifier Verification  `json:"verifier"`
	// Interval is that of re-attestation, for Periodic; zero is none.
	Interval time.Duration `json:"interval,omitempty"`
}

// String names a cell within its group.
func (c Cell) String() string {
	s := fmt.Sprintf("%s %s, RTT %v, evidence %d B, TEE %v, verifier %s", c.Kind, c.Mode, c.RTT, c.Size, c.TEE, c.Verifier)
	if c.Interval != 0 {
		s += fmt.Sprintf(", every %v", c.Interval)
	}
	return s
}

// A Verification is where evidence is appraised.
type Verification string

// Verifications.
const (
	Warm    Verification = "warm"    // in process, with caches that have seen the platform
	Cold    Verification = "cold"    // in process, without caches
	Service Verification = "service" // by a service over HTTP on loopback
)

// Verifications are all, in the order of tables.
var Verifications = []Verification{Cold, Warm, Service}

// A Sample is what one connection, round or window took: of both ends together, where
// nothing else is said.
type Sample struct {
	// First is the time from the first byte of the ClientHello to the first byte of
	// application data that the client reads, and Handshake the time until Handshake
	// returned, both in µs. TCP stands before. Of Reattest, both are the round.
	First     float64 `json:"first_us"`
	Handshake float64 `json:"handshake_us"`
	// TEE and Verify are the parts that the attester and the verifier took, in µs.
	TEE    float64 `json:"tee_us"`
	Verify float64 `json:"verify_us"`
	// In and Out are bytes over TCP, of the client. Trips is how often it waited for the
	// server, one for the application's byte included.
	In    int64 `json:"in"`
	Out   int64 `json:"out"`
	Trips int   `json:"trips"`
	// CPU is time of the process, in µs; nil where the system does not say.
	CPU *float64 `json:"cpu_us"`
	// Allocs is how many objects were allocated.
	Allocs uint64 `json:"allocs"`
	// Evidence is the size of the evidence or result that was appraised, in bytes, of all
	// appraisals together.
	Evidence int64 `json:"evidence"`
	// Rate is connections a second, of Load, and pings a second, of Periodic.
	Rate float64 `json:"rate,omitempty"`
	// Rounds is how often a peer was appraised, of Periodic.
	Rounds int64 `json:"rounds,omitempty"`
}
