package enroll

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/attestedtls/atls/internal/strictjson"
)

// Rules say which names go to which measurements. The rules of a set are alternatives:
// each name of a request must be allowed by one.
type Rules struct {
	Rules []Rule `json:"rules"`
}

// A Rule allows names to the machines that it describes. At least one of Claims and
// Machines must say something.
type Rule struct {
	// Names are DNS names in lower case, compared as a whole; there are no wildcards.
	Names []string `json:"names"`
	// Claims are the values that each claim of the evidence may have, as in
	// attestext.Appraisal: "mrtd", "measurement". A dot goes into maps and lists, for
	// example "rtmrs.2". A claim that the evidence does not make is refused. Numbers and
	// booleans are compared as JSON writes them.
	Claims map[string][]string `json:"claims,omitempty"`
	// Machines are the machines that it may be. nil does not compare them.
	Machines []string `json:"machines,omitempty"`
	// AllowWarning accepts an appraisal that is "warning" and not "affirming".
	AllowWarning bool `json:"allow_warning,omitempty"`
}

// ParseRules reads Rules out of JSON, at most 1 MiB. Unknown and repeated members, empty
// lists and rules for every machine are refused.
func ParseRules(b []byte) (*Rules, error) {
	r := new(Rules)
	if err := decode(b, r); err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	if len(r.Rules) == 0 {
		return nil, errors.New("rules: there is none")
	}
	for i, rule := range r.Rules {
		if err := rule.validate(); err != nil {
			return nil, fmt.Errorf("rules: rule %d: %w", i+1, err)
		}
	}
	return r, nil
}

func (r *Rule) validate() error {
	if len(r.Names) == 0 {
		return errors.New("it allows no name")
	}
	for _, n := range r.Names {
		if !isName(n) {
			return fmt.Errorf("%q is no DNS name in lower case", n)
		}
	}
	if len(r.Claims) == 0 && len(r.Machines) == 0 {
		return errors.New("it describes no machine: name claims or machines")
	}
	if r.Machines != nil && len(r.Machines) == 0 {
		return errors.New("machines is empty")
	}
	return validateClaims(r.Claims)
}

func validateClaims(claims map[string][]string) error {
	for name, values := range claims {
		if name == "" || len(values) == 0 || slices.Contains(values, "") {
			return fmt.Errorf("claim %q has no value, or an empty one", name)
		}
	}
	return nil
}

// isName reports whether s is a host name (RFC 1123, section 2.1) in lower case.
func isName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return false
			}
		}
	}
	return true
}

// A subject is what the evidence says, as rules see it.
type subject struct {
	verdict, machine string
	claims           any // of JSON
}

func newSubject(verdict, machine string, claims map[string]any) (subject, error) {
	b, err := json.Marshal(claims)
	if err != nil {
		return subject{}, fmt.Errorf("claims: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	s := subject{verdict: verdict, machine: machine}
	if err := d.Decode(&s.claims); err != nil {
		return subject{}, fmt.Errorf("claims: %w", err)
	}
	return s, nil
}

// claim returns the value at path, if there is a plain one.
func (s *subject) claim(path string) (string, bool) {
	v := s.claims
	for name := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(at) {
				return "", false
			}
			v = at[i]
		default:
			return "", false
		}
	}
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// allow returns why name is not allowed to s, or nil.
func (r *Rules) allow(name string, s *subject) error {
	why := error(nil)
	for i := range r.Rules {
		rule := &r.Rules[i]
		if !slices.Contains(rule.Names, name) {
			continue
		}
		mismatch := rule.mismatch(s)
		if mismatch == "" {
			return nil
		}
		if why == nil { // the first rule with that name explains it
			why = refuse(CodeName, "%q is not for this machine: %s", name, mismatch)
		}
	}
	if why == nil {
		why = refuse(CodeName, "no rule allows the name %q to anybody", name)
	}
	return why
}

// mismatch names what of s is not as the rule wants it, and is empty if all is.
func (r *Rule) mismatch(s *subject) string {
	for name, values := range r.Claims {
		if got, ok := s.claim(name); !ok || !slices.Contains(values, got) {
			return fmt.Sprintf("its claim %s is not one that the rule allows", name)
		}
	}
	switch {
	case r.Machines != nil && (s.machine == "" || !slices.Contains(r.Machines, s.machine)):
		return "the rule names other machines"
	case s.verdict != "affirming" && !(r.AllowWarning && s.verdict == "warning"):
		return fmt.Sprintf("the verdict is %q", s.verdict)
	}
	return ""
}

// Revocations say which machines get no certificate any more, and which certificates
// are on the revocation list: those whose evidence was like that when they were issued.
type Revocations struct {
	Machines []string `json:"machines,omitempty"`
	// Claims revokes whatever has one of these values, see Rule.
	Claims map[string][]string `json:"claims,omitempty"`
	// Serials are numbers of single certificates, hexadecimal in lower case as in Entry.
	Serials []string `json:"serials,omitempty"`
}

var serialForm = regexp.MustCompile("^[1-9a-f][0-9a-f]*$")

// ParseRevocations reads Revocations out of JSON, at most 1 MiB; "{}" revokes nothing.
func ParseRevocations(b []byte) (*Revocations, error) {
	r := new(Revocations)
	err := decode(b, r)
	if err == nil {
		err = validateClaims(r.Claims)
	}
	if err == nil && slices.Contains(r.Machines, "") {
		err = errors.New("an empty machine")
	}
	for _, n := range r.Serials {
		if err == nil && !serialForm.MatchString(n) { // it would revoke nothing
			err = fmt.Errorf("the serial %q is not as the log has it, hexadecimal in lower case and no more", n)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("revocations: %w", err)
	}
	return r, nil
}

// revoked returns what of s is revoked, or nothing.
func (r *Revocations) revoked(s *subject) string {
	if r == nil {
		return ""
	}
	if s.machine != "" && slices.Contains(r.Machines, s.machine) {
		return "the machine " + s.machine
	}
	for name, values := range r.Claims {
		if got, ok := s.claim(name); ok && slices.Contains(values, got) {
			return fmt.Sprintf("what it runs: %s is %s", name, got)
		}
	}
	return ""
}

const maxFile = 1 << 20

// decode reads a file that an operator wrote.
func decode(b []byte, v any) error {
	if len(b) > maxFile {
		return fmt.Errorf("%d bytes, at most %d", len(b), maxFile)
	}
	return strictjson.Unmarshal(b, v)
}
