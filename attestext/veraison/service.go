package veraison

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/attestedtls/atls/attestext"
	"github.com/attestedtls/atls/attestext/cmw"
	"github.com/attestedtls/atls/attestext/ear"
	"github.com/attestedtls/atls/attestext/eat"
	"github.com/attestedtls/atls/attestext/policy"
)

const (
	// DefaultSessionLifetime is how long a session lasts where ServiceOptions do not say.
	DefaultSessionLifetime = 150 * time.Second
	// DefaultMaxSessions is how many there are at a time.
	DefaultMaxSessions = 1024
	// DefaultResultLifetime is how long a result is valid.
	DefaultResultLifetime = 5 * time.Minute

	defaultNonceSize = 32
	developer        = "https://github.com/attestedtls/atls"
)

// ServiceOptions say what a [Service] does. Verifier and Key are mandatory.
type ServiceOptions struct {
	// Verifier appraises. Which handshake a nonce stands for is the client's business:
	// a TSM report or TPM quote is to carry it as under the draft-08 rule, which is as it
	// is. A bundle is to carry it as the binder of the hardened rule, so that its quote
	// has to have been made for the session, unless the Verifier allows another age.
	Verifier attestext.Verifier

	// Key signs results; see [ear.Algorithm].
	Key crypto.Signer

	// Build names this service in its results. Empty means "unknown".
	Build string

	// OwnNonces refuses the nonces of clients. It is for results of the passport model
	// ([Client.Passport]): whoever chooses the nonce can choose that of evidence from
	// before, and have a machine of then appraised now. Relying parties that have a service
	// appraise ([Client.Appraise]) have to choose it.
	OwnNonces bool

	// SessionLifetime, MaxSessions and ResultLifetime bound sessions and results. Zero
	// means the default of that name. Beyond MaxSessions, those that have ended are
	// forgotten, and new ones refused if that does not help.
	SessionLifetime time.Duration
	MaxSessions     int
	ResultLifetime  time.Duration

	// Timeout bounds one appraisal. Zero means DefaultTimeout.
	Timeout time.Duration

	// Log is told of each appraisal. It is called concurrently. nil tells nobody.
	Log func(Appraised)

	// Now returns the time of sessions and results. nil means time.Now.
	Now func() time.Time
}

// Appraised is what a service has said of one piece of Evidence.
type Appraised struct {
	// MediaType is that of the Evidence.
	MediaType string
	// Verdict is the tier of the result, or empty if there is none.
	Verdict string
	// Err is why the Evidence was not accepted, or nil.
	Err error
}

// A Service is an [http.Handler] that appraises for clients of the API. It keeps its
// sessions in memory. Each is for one piece of Evidence.
//
// It takes TSM reports and bundles, or whatever its Verifier does, by themselves or in
// a CMW. Evidence that is refused gets a result of tier "contraindicated", with the
// claim that its cryptographic validation has failed unless it is the policy that
// refuses. Evidence that could not be appraised gets no result and status 500.
//
// It authenticates nobody and speaks HTTP. Let a server with a certificate carry it
// to other machines.
type Service struct {
	opts ServiceOptions
	jwk  json.RawMessage
	mux  *http.ServeMux

	mu       sync.Mutex
	sessions map[string]*serviceSession
}

// A serviceSession is guarded by the mutex of the Service.
type serviceSession struct {
	nonce  []byte
	expiry time.Time
	state  string
	result string
}

// NewService returns a Service. It fails if the options are incomplete.
func NewService(opts *ServiceOptions) (*Service, error) {
	s := &Service{opts: *opts, sessions: make(map[string]*serviceSession)}
	o := &s.opts
	if o.Verifier == nil || o.Key == nil {
		return nil, errors.New("appraisal service: no verifier or no key")
	}
	if o.SessionLifetime < 0 || o.MaxSessions < 0 || o.ResultLifetime < 0 || o.Timeout < 0 {
		return nil, errors.New("appraisal service: negative bound")
	}
	jwk, err := ear.MarshalJWK(o.Key.Public())
	if err != nil {
		return nil, fmt.Errorf("appraisal service: %w", err)
	}
	s.jwk = jwk
	if o.Build == "" {
		o.Build = "unknown"
	}
	if o.SessionLifetime == 0 {
		o.SessionLifetime = DefaultSessionLifetime
	}
	if o.MaxSessions == 0 {
		o.MaxSessions = DefaultMaxSessions
	}
	if o.ResultLifetime == 0 {
		o.ResultLifetime = DefaultResultLifetime
	}
	if o.ResultLifetime < time.Second {
		o.ResultLifetime = time.Second // dates in results are in whole seconds
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = func(Appraised) {}
	}
	s.mux = http.NewServeMux()
	s.mux.HandleFunc("POST "+newSessionPath, s.open)
	s.mux.HandleFunc("POST "+sessionPath+"{id}", s.submit)
	s.mux.HandleFunc("GET "+sessionPath+"{id}", s.get)
	s.mux.HandleFunc("DELETE "+sessionPath+"{id}", s.delete)
	s.mux.HandleFunc("GET "+discoveryPath, s.discovery)
	return s, nil
}

// JWK returns the public key that verifies the results, as a JSON Web Key.
func (s *Service) JWK() []byte { return slices.Clone(s.jwk) }

// ServeHTTP answers one request.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	s.mux.ServeHTTP(w, r)
}

// problem answers with an error document (RFC 9457).
func problem(w http.ResponseWriter, status int, format string, args ...any) {
	writeJSON(w, status, problemType, map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": fmt.Sprintf(format, args...),
	})
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	w.Write(b)
}

// negotiated reports whether the client takes one of those types, and says so if not.
// No Accept stands for any.
func negotiated(w http.ResponseWriter, r *http.Request, types ...string) bool {
	values := r.Header.Values("Accept")
	if len(values) == 0 {
		return true
	}
	for _, part := range strings.Split(strings.Join(values, ","), ",") {
		if isType(strings.TrimSpace(part), append(types, "*/*", "application/*")...) {
			return true
		}
	}
	problem(w, http.StatusNotAcceptable, "the only supported output format is %s", types[0])
	return false
}

func (s *Service) discovery(w http.ResponseWriter, r *http.Request) {
	if !negotiated(w, r, discoveryType, jsonType) {
		return
	}
	writeJSON(w, http.StatusOK, discoveryType, map[string]any{
		"ear-verification-key": s.jwk,
		"media-types":          s.mediaTypes(),
		"version":              s.opts.Build,
		"service-state":        "READY",
		"api-endpoints":        map[string]string{"newChallengeResponseSession": newSessionPath},
	})
}

// mediaTypes lists what the Verifier takes.
func (s *Service) mediaTypes() []string {
	types := []string{}
	for _, kind := range []attestext.CredentialKind{attestext.CertAttestation, attestext.AttestationOnly} {
		for _, f := range s.opts.Verifier.Formats(kind) {
			if f.MediaType != "" && !slices.Contains(types, f.MediaType) {
				types = append(types, f.MediaType)
			}
		}
	}
	return types
}

// nonceOf returns the nonce that a query asks for.
func (s *Service) nonceOf(r *http.Request) ([]byte, error) {
	q := r.URL.Query()
	switch {
	case q.Has("nonce") && s.opts.OwnNonces:
		return nil, errors.New("this service chooses nonces itself")
	case len(q["nonce"])+len(q["nonceSize"]) > 1:
		return nil, errors.New("nonce and nonceSize are mutually exclusive, and may be given once")
	case q.Has("nonce"):
		b, err := parseNonce(q.Get("nonce"))
		if err != nil {
			return nil, fmt.Errorf("nonce: %w", err)
		}
		return b, nil
	}
	n := defaultNonceSize
	if q.Has("nonceSize") {
		var err error
		if n, err = strconv.Atoi(q.Get("nonceSize")); err != nil || n < minNonce || n > maxNonce {
			return nil, fmt.Errorf("nonceSize must be in range %d..%d", minNonce, maxNonce)
		}
	}
	b := make([]byte, n)
	rand.Read(b)
	return b, nil
}

func (s *Service) open(w http.ResponseWriter, r *http.Request) {
	if !negotiated(w, r, sessionType) {
		return
	}
	nonce, err := s.nonceOf(r)
	if err != nil {
		problem(w, http.StatusBadRequest, "%v", err)
		return
	}
	var id [16]byte
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // RFC 9562, section 5.4
	h := hex.EncodeToString(id[:])
	name := h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]

	ss := serviceSession{nonce: nonce, expiry: s.opts.Now().Add(s.opts.SessionLifetime), state: stateWaiting}
	if !s.add(name, ss) {
		problem(w, http.StatusServiceUnavailable, "too many sessions")
		return
	}
	w.Header().Set("Location", strings.TrimPrefix(sessionPath, "/challenge-response/v1/")+name)
	s.write(w, http.StatusCreated, ss)
}

// add adds a session, unless there are too many. Those that have ended make room: their
// result has been sent.
func (s *Service) add(name string, ss serviceSession) bool {
	now := s.opts.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) >= s.opts.MaxSessions {
		maps.DeleteFunc(s.sessions, func(_ string, ss *serviceSession) bool {
			return ss.expired(now) || ss.state == stateComplete || ss.state == stateFailed
		})
	}
	if len(s.sessions) >= s.opts.MaxSessions {
		return false
	}
	s.sessions[name] = &ss
	return true
}

// expired reports whether ss is over. One whose Evidence is being appraised is not, so
// that MaxSessions bounds those as well.
func (ss *serviceSession) expired(now time.Time) bool {
	return ss.state != stateProcessing && !now.Before(ss.expiry)
}

// write answers with a copy of a session. The mutex must not be held, for a client
// that does not read would hold it as well.
func (s *Service) write(w http.ResponseWriter, status int, ss serviceSession) {
	m := map[string]any{
		"status": ss.state,
		"nonce":  nonceText(ss.nonce),
		"expiry": ss.expiry.UTC().Format(time.RFC3339Nano),
		"accept": s.mediaTypes(),
	}
	if ss.result != "" {
		m["result"] = ss.result
	}
	writeJSON(w, status, sessionType, m)
}

// lookup returns the session that a request names, or nil. The mutex must be held.
func (s *Service) lookup(r *http.Request) *serviceSession {
	if ss := s.sessions[r.PathValue("id")]; ss != nil && !ss.expired(s.opts.Now()) {
		return ss
	}
	return nil
}

// snapshot returns a copy of the session that a request names.
func (s *Service) snapshot(r *http.Request) (ss serviceSession, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.lookup(r)
	if found != nil {
		ss = *found
	}
	return ss, found != nil
}

func noSession(w http.ResponseWriter) {
	problem(w, http.StatusNotFound, "there is no such session, or none any more")
}

func (s *Service) get(w http.ResponseWriter, r *http.Request) {
	if !negotiated(w, r, sessionType) {
		return
	}
	if ss, ok := s.snapshot(r); ok {
		s.write(w, http.StatusOK, ss)
		return
	}
	noSession(w)
}

func (s *Service) delete(w http.ResponseWriter, r *http.Request) {
	ss, deleted := s.remove(r)
	switch {
	case ss == nil:
		noSession(w)
	case !deleted:
		problem(w, http.StatusConflict, "the session's evidence is being appraised")
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// remove deletes the session that a request names, unless its Evidence is being
// appraised.
func (s *Service) remove(r *http.Request) (ss *serviceSession, deleted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ss = s.lookup(r); ss == nil || ss.state == stateProcessing {
		return ss, false
	}
	delete(s.sessions, r.PathValue("id"))
	return ss, true
}

// begin takes the session that a request names for its one piece of Evidence. It
// returns no session if there is none, and free is false if it has been taken.
func (s *Service) begin(r *http.Request) (ss *serviceSession, free bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ss = s.lookup(r); ss == nil || ss.state != stateWaiting {
		return ss, false
	}
	ss.state = stateProcessing
	return ss, true
}

// end ends the appraisal of a session, and returns a copy of it.
func (s *Service) end(ss *serviceSession, state, result string) serviceSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	ss.state, ss.result = state, result
	return *ss
}

func (s *Service) submit(w http.ResponseWriter, r *http.Request) {
	if !negotiated(w, r, sessionType) {
		return
	}
	ss, free := s.begin(r)
	switch {
	case ss == nil:
		noSession(w)
		return
	case !free:
		problem(w, http.StatusConflict, "the session has had its evidence")
		return
	}
	state, result := stateFailed, ""
	defer func() { // also where something panics
		if now := s.end(ss, state, result); state == stateComplete {
			s.write(w, http.StatusOK, now)
		}
	}()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		problem(w, http.StatusRequestEntityTooLarge, "evidence of more than %d bytes", maxBody)
		return
	case err != nil || len(body) == 0:
		problem(w, http.StatusBadRequest, "unable to read evidence from the request body")
		return
	}
	mediaType := r.Header.Get("Content-Type")
	ev, kind, err := evidenceOf(mediaType, body)
	if err != nil {
		problem(w, http.StatusBadRequest, "%v", err)
		return
	}
	if !slices.ContainsFunc(s.opts.Verifier.Formats(kind), func(f attestext.EvidenceFormat) bool { return f.Matches(ev.Type.Format) }) {
		w.Header().Set("Accept", strings.Join(s.mediaTypes(), ", "))
		problem(w, http.StatusUnsupportedMediaType, "%v is not supported", ev.Type.Format)
		return
	}
	a, err := s.appraise(r.Context(), ev, ss.nonce)
	done := Appraised{MediaType: ev.Type.Format.String(), Err: err}
	if a == nil {
		s.opts.Log(done)
		problem(w, http.StatusInternalServerError, "error encountered while processing evidence")
		return
	}
	token, err := s.sign(ss.nonce, a)
	if err != nil {
		done.Err = err
		s.opts.Log(done)
		problem(w, http.StatusInternalServerError, "error encountered while signing the result")
		return
	}
	done.Verdict = a.Tier().String()
	s.opts.Log(done)
	state, result = stateComplete, string(token)
}

// cmwTypes are the media types under which a CMW comes.
var cmwTypes = []string{
	"application/cmw", "application/cmw+cbor", "application/cmw+json",
	"application/vnd.veraison.cmw", "application/vnd.veraison.cmw+cbor", "application/vnd.veraison.cmw+json",
}

// evidenceOf returns Evidence that came with a Content-Type, and the kind of
// credential that it can go with: a bundle names its key, an EAT may, and other Evidence
// does not.
func evidenceOf(mediaType string, body []byte) (*attestext.Evidence, attestext.CredentialKind, error) {
	t, _, err := mime.ParseMediaType(mediaType)
	if err != nil {
		return nil, 0, errors.New("the content type cannot be read")
	}
	ev := &attestext.Evidence{Type: attestext.EvidenceType{Kind: attestext.CertAttestation}}
	if !slices.Contains(cmwTypes, t) {
		ev.Type.Format = attestext.EvidenceFormat{MediaType: mediaType}
		if namesKey(ev.Type.Format, body) {
			ev.Type.Kind = attestext.AttestationOnly
		}
		ev.CMW, err = (&cmw.Record{Format: ev.Type.Format, Value: body, Ind: cmw.Evidence}).CBOR()
		return ev, ev.Type.Kind, err
	}
	w, err := cmw.Parse(body)
	if err != nil {
		return nil, 0, err
	}
	ev.CMW = body
	if w.Collection != nil && w.Collection.Type == eat.BundleType {
		ev.Type = attestext.EvidenceType{Kind: attestext.AttestationOnly, Format: eat.BundleFormat}
		return ev, ev.Type.Kind, nil
	}
	var value []byte
	if ev.Type.Format, value, err = w.Evidence(); namesKey(ev.Type.Format, value) {
		ev.Type.Kind = attestext.AttestationOnly
	}
	return ev, ev.Type.Kind, err
}

// namesKey reports whether b is an EAT that names a key, which the result then does too.
func namesKey(f attestext.EvidenceFormat, b []byte) bool {
	t, err := eat.ParseTokenAs(f, b)
	return err == nil && t.Confirmation != nil
}

// appraise returns what to say of ev, and why where that is nothing good. It returns
// no appraisal if nobody could say.
func (s *Service) appraise(ctx context.Context, ev *attestext.Evidence, nonce []byte) (*ear.Appraisal, error) {
	expected := &attestext.Challenge{
		Model: attestext.BackgroundCheck,
		// Of what goes by itself here, nothing depends on the role.
		Role:   attestext.RoleServer,
		Kind:   ev.Type.Kind,
		Nonce:  nonce,
		Binder: nonce,
	}
	if expected.Kind == attestext.CertAttestation {
		// A quote carries the nonce as it is. The key is in it, if anywhere, and the
		// client's to check.
		expected.Binding, expected.SPKI = attestext.BindingDraft08, []byte("not known to this service")
	}
	r, err := attestext.Appraise(ctx, s.opts.Timeout, s.opts.Verifier, ev, expected)
	if err == nil {
		a := &ear.Appraisal{Status: ear.Affirming, Vector: r.Vector(), AKPub: r.Key()}
		if r.Verdict() != ear.Affirming.String() {
			a.Status = ear.Warning
		}
		a.Status = a.Tier()
		return a, nil
	}
	switch attestext.Class(err) {
	case attestext.ErrPolicy:
		a := &ear.Appraisal{Status: ear.Contraindicated}
		if refused, ok := errors.AsType[*policy.RefusedError](err); ok {
			a.Vector = refused.Decision.Values()
		}
		return a, err
	case attestext.ErrMalformed, attestext.ErrSignature, attestext.ErrBinding, attestext.ErrWrongType:
		return &ear.Appraisal{Status: ear.Contraindicated, Vector: ear.Vector{"instance-identity": cryptoFailed, "hardware": cryptoFailed}}, err
	}
	return nil, err
}

// sign returns the result that says a.
func (s *Service) sign(nonce []byte, a *ear.Appraisal) ([]byte, error) {
	now := s.opts.Now().Truncate(time.Second)
	return ear.Sign(&ear.Claims{
		Developer: developer,
		Build:     s.opts.Build,
		IssuedAt:  now,
		Expires:   now.Add(s.opts.ResultLifetime).Truncate(time.Second),
		Nonce:     ear.NonceText(nonce),
		Submods:   map[string]*ear.Appraisal{"atls": a},
	}, s.opts.Key)
}
