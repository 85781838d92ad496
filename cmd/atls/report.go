package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/cmw/signed"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/internal/accept"
	"github.com/attestedtls/atls/tls"
)

// A report is what is said of one connection: the object that --json prints.
type report struct {
	OK              bool          `json:"ok"`
	Error           *string       `json:"error"`
	Stage           *string       `json:"stage"`
	AlertSent       *uint8        `json:"alert_sent"`
	AlertReceived   *uint8        `json:"alert_received"`
	Version         string        `json:"version"`
	Suite           string        `json:"suite"`
	Group           string        `json:"group"`
	Resumed         bool          `json:"resumed"`
	TicketsReceived int           `json:"tickets_received"`
	HelloRetry      bool          `json:"hello_retry"`
	Mode            string        `json:"mode"`
	Credential      string        `json:"credential"`
	Binding         string        `json:"binding"`
	EvidenceType    *string       `json:"evidence_type"`
	Model           *string       `json:"model"`
	Nonce           *string       `json:"nonce"`
	Binder          *string       `json:"binder"`
	Peer            *reportedPeer `json:"peer"`
	SelfAttested    bool          `json:"self_attested"`
	HandshakeMicros int64         `json:"handshake_us"`
	BytesIn         int64         `json:"bytes_in"`
	BytesOut        int64         `json:"bytes_out"`

	err    error
	remote string
	// What either end sent, for people.
	selfSent, peerSent string
}

// A reportedPeer is what was found about a peer that was asked to attest.
type reportedPeer struct {
	Attested bool           `json:"attested"`
	Verdict  string         `json:"verdict"`
	Machine  *string        `json:"machine"`
	Claims   map[string]any `json:"claims"`
}

// Stages beside those of tls.AttestationError.
const (
	stageCertificate = tls.AttestationStageCertificate
	stageHandshake   = "handshake"
	stageApplication = "application"
)

// A session is one connection from its first byte to its report.
type session struct {
	raw  *countingConn
	conn *tls.Conn

	start     time.Time
	handshake time.Duration
	shaken    bool  // the handshake is over on this side, and well
	read      int64 // application bytes
}

// newSession is called when the TCP connection stands and before the handshake.
func newSession(raw net.Conn, over func(net.Conn) *tls.Conn) *session {
	c := &countingConn{Conn: raw, closed: make(chan struct{})}
	return &session{raw: c, conn: over(c), start: time.Now()}
}

// countingConn counts what goes over the wire.
type countingConn struct {
	net.Conn
	in, out atomic.Int64
	record  *recorder   // nil for none
	ended   atomic.Bool // the other end has said its last over TCP
	closing sync.Once
	closed  chan struct{} // closed with the connection
}

func (c *countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.in.Add(int64(n))
	if c.record != nil {
		c.record.received(b[:n])
	}
	if err == io.EOF {
		c.ended.Store(true)
	}
	return n, err
}

func (c *countingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.out.Add(int64(n))
	if c.record != nil {
		c.record.sent(b[:n])
	}
	return n, err
}

// CloseWrite is for who has said the last, package tls after a failed re-attestation
// included.
func (c *countingConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c *countingConn) Close() error {
	c.closing.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Read reads application data.
func (s *session) Read(b []byte) (int, error) {
	n, err := s.conn.Read(b)
	s.read += int64(n)
	return n, err
}

// close ends the connection. err is how it went so far.
func (s *session) close(err error) {
	switch {
	case err == nil:
		s.conn.Close()
	case s.badRound(err):
		s.conn.Close()
		<-s.raw.closed
	default:
		s.linger()
		s.raw.Close()
	}
}

// badRound reports whether err is that of a round of re-attestation: package tls tells the
// peer of it after Close as well, and then closes the connection below.
func (s *session) badRound(err error) bool {
	return s.shaken && errors.As(err, new(*tls.AttestationError))
}

// linger waits until the peer has read the last that we said, an alert or a page.
func (s *session) linger() { accept.Linger(context.Background(), s.raw.Conn) }

// report says how the connection went. It is called when nobody reads any more.
func (s *session) report(f *connFlags, err error) *report {
	cs := s.conn.ConnectionState()
	r := &report{
		Resumed:         cs.DidResume,
		TicketsReceived: cs.TicketsReceived,
		HelloRetry:      cs.HelloRetryRequest,
		Mode:            f.mode,
		Credential:      f.credential,
		Binding:         f.rule(),
		HandshakeMicros: s.handshake.Microseconds(),
		BytesIn:         s.raw.in.Load(),
		BytesOut:        s.raw.out.Load(),
		remote:          s.raw.RemoteAddr().String(),
	}
	if cs.Version != 0 {
		r.Version = tls.VersionName(cs.Version)
	}
	if cs.CipherSuite != 0 {
		r.Suite = tls.CipherSuiteName(cs.CipherSuite)
	}
	if cs.CurveID != 0 {
		r.Group = cs.CurveID.String()
	}
	if a, ok := s.conn.AlertSent(); ok {
		r.AlertSent = new(uint8(a))
	}
	if a, ok := s.conn.AlertReceived(); ok {
		r.AlertReceived = new(uint8(a))
		if r.AlertSent == nil {
			err = &refusedError{uint8(a)}
		}
	}
	err = s.explained(f, err)
	r.setDirections(cs.AttestationState)
	if f.verify != "" {
		r.Peer = &reportedPeer{Verdict: "none", Claims: map[string]any{}}
	}
	if p := cs.PeerAttestation; p.Valid() {
		r.Peer = &reportedPeer{Attested: true, Verdict: p.Verdict(), Claims: p.Claims()}
		if m := p.Machine(); m != "" {
			r.Peer.Machine = &m
		}
		if r.Peer.Claims == nil {
			r.Peer.Claims = map[string]any{}
		}
	}
	r.setError(s, f.hinted(err))
	return r
}

// explained says of an error of the transport, which may be no more than "EOF", what the peer
// did or did not do.
func (s *session) explained(f *connFlags, err error) error {
	switch {
	case errors.As(err, new(*tls.AttestationError)), errors.As(err, new(*refusedError)):
	case !s.shaken && errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the handshake was not over within %v: %w", f.timeout, err)
	case !s.shaken && errors.Is(err, io.EOF):
		return fmt.Errorf("the peer hung up during the handshake: %w", err)
	case s.shaken && errors.Is(err, io.ErrUnexpectedEOF) && s.raw.ended.Load():
		return fmt.Errorf("the peer hung up without a close_notify, and what it said may have been cut off: %w", err)
	}
	return err
}

// unconnected is the report of a connection that there never was. It has no stage.
func unconnected(f *connFlags, addr string, err error) *report {
	return &report{
		Error: new(err.Error()), Mode: f.mode, Credential: f.credential, Binding: f.rule(),
		err: err, remote: addr,
	}
}

// setDirections fills in what was attested. Where both ends attest, it is the
// server's direction that is shown, so that the two ends show the same.
func (r *report) setDirections(as tls.AttestationState) {
	peer := as.RequestedAttestation
	if as.PeerAttestation.Valid() {
		c := as.PeerAttestation.Challenge()
		ev := as.PeerAttestation.Evidence()
		if c.Binding.IsExpat() { // whose request cannot name a format
			ev.Type.Format = formatOf(&ev)
		}
		peer = &attestext.AttestRequest{Type: ev.Type, Verifier: ev.Verifier, Challenge: &c}
	}
	r.SelfAttested = as.LocalAttestation != nil
	r.selfSent, r.peerSent = sent(as.LocalAttestation), sent(peer)
	shown := peer
	if self := as.LocalAttestation; self != nil && (peer == nil || self.Challenge.Role == attestext.RoleServer) {
		shown = self
	}
	if shown == nil {
		return
	}
	ch := shown.Challenge
	unnamed := ch.Binding.IsExpat() && shown == as.RequestedAttestation // a request for any
	if ch.Model == attestext.BackgroundCheck && !unnamed {
		r.EvidenceType = new(formatName(shown.Type.Format))
	}
	r.Model = new(ch.Model.String())
	r.Credential = ch.Kind.String()
	r.Binding = ch.Binding.String()
	if ch.Nonce != nil {
		r.Nonce = new(hex.EncodeToString(ch.Nonce))
	}
	if ch.Binder != nil && ch.UsesBinder() {
		r.Binder = new(hex.EncodeToString(ch.Binder))
	}
}

// sent says in a few words what was sent in answer to a request, which may be nil.
func sent(req *attestext.AttestRequest) string {
	if req == nil {
		return ""
	}
	what := formatName(req.Type.Format)
	if req.Challenge.Model == attestext.Passport {
		what = "result by " + string(req.Verifier)
	}
	return fmt.Sprintf("%s, %v, %v", printable(what), req.Challenge.Kind, req.Challenge.Binding)
}

// formatOf returns the format that ev says it has, or the one that was asked for.
func formatOf(ev *attestext.Evidence) attestext.EvidenceFormat {
	wrapper := ev.CMW
	if m, err := signed.Parse(wrapper); err == nil {
		wrapper = m.Payload
	}
	if _, err := eat.OpenBundle(wrapper); err == nil {
		return eat.BundleFormat
	}
	c, err := cmw.Parse(wrapper)
	if err != nil {
		return ev.Type.Format
	}
	format, _, err := c.Evidence()
	if err != nil {
		return ev.Type.Format
	}
	return format
}

// formatName names f as --evidence-type does: the media type, or the number of the
// content format.
func formatName(f attestext.EvidenceFormat) string {
	if f.MediaType == "" {
		return strconv.Itoa(int(f.ContentFormat))
	}
	return f.MediaType
}

// setError fills in how the connection failed, if it did.
func (r *report) setError(s *session, err error) {
	r.err = err
	if r.OK = err == nil; r.OK {
		return
	}
	r.Error = new(err.Error())
	stage := stageHandshake
	ae, attested := errors.AsType[*tls.AttestationError](err)
	switch {
	case attested:
		stage = ae.Stage
	case errors.As(err, new(*tls.CertificateVerificationError)):
		stage = stageCertificate
	case errors.As(err, new(*refusedError)):
		// A server's verdict on its client comes after the client's handshake.
		if s.read > 0 {
			stage = stageApplication
		}
	case s.shaken:
		stage = stageApplication
	}
	r.Stage = &stage
	if stage == tls.AttestationStageAttest {
		r.SelfAttested = false
	}
	if stage == tls.AttestationStageAppraise && r.Peer != nil {
		r.Peer.Verdict = refusedVerdict(err)
	}
}

// refusedVerdict is the tier of evidence whose appraisal ended in err: somebody
// found it wanting, or nobody could say.
func refusedVerdict(err error) string {
	if attestext.Class(err) == attestext.ErrUnavailable {
		return "none"
	}
	return "contraindicated"
}

// text says it for people, in a few lines.
func (r *report) text(w io.Writer) {
	switch {
	case r.Stage != nil:
		fmt.Fprintf(w, "%s: failed at stage %s\n", r.remote, *r.Stage)
	case !r.OK:
		fmt.Fprintf(w, "%s: not connected\n", r.remote)
		return
	default:
		fmt.Fprintf(w, "%s: %s, %s, %s, %s, %v\n", r.remote, r.Version, r.Suite, r.Group, r.Mode, time.Duration(r.HandshakeMicros)*time.Microsecond)
	}
	if r.Binder != nil {
		fmt.Fprintf(w, "  binder         %s\n", *r.Binder)
	}
	if r.SelfAttested {
		fmt.Fprintf(w, "  this side      attested (%s)\n", r.selfSent)
	}
	switch {
	case r.Peer == nil:
		fmt.Fprintf(w, "  peer           was not asked to attest\n")
	case r.Peer.Attested:
		fmt.Fprintf(w, "  peer           attested (%s)\n", r.peerSent)
		fmt.Fprintf(w, "  verdict        %s\n", r.Peer.Verdict)
		if r.Peer.Machine != nil {
			fmt.Fprintf(w, "  machine        %s\n", *r.Peer.Machine)
		}
		if tier, ok := r.Peer.Claims["platform_evidence_tier"]; ok {
			fmt.Fprintf(w, "  quote          %s, %s\n", printable(tier), printable(r.Peer.Claims["platform_evidence_age"]))
		}
		for _, name := range []string{"mrtd", "tcb_status", "advisory_ids", "measurement", "measurements", "debug", "debug_status"} {
			if v, ok := r.Peer.Claims[name]; ok {
				fmt.Fprintf(w, "  %-14s %s\n", name, printable(v))
			}
		}
	default:
		fmt.Fprintf(w, "  peer           has not attested (verdict %s)\n", r.Peer.Verdict)
	}
}

// A lineWriter writes JSON objects, one per line; it is safe for concurrent use.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lineWriter) object(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.w.Write(append(b, '\n'))
	return err
}

// error writes err as a command does that ends with it.
func (l *lineWriter) error(err error) {
	var b bytes.Buffer
	(&environment{stderr: &b}).printError(err)
	l.Write(b.Bytes())
}

// warning writes err as what goes on in spite of it.
func (l *lineWriter) warning(err error) {
	var b bytes.Buffer
	(&environment{stderr: &b}).printWarning(err)
	l.Write(b.Bytes())
}

func (l *lineWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
