package attestext

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// CodePoints are the numbers that draft-fossati-tls-attestation-08 and
// draft-fossati-seat-early-attestation leave to be assigned. A zero field stands for its default, which is in the private-use range.
type CodePoints struct {
	// Extension types.
	EvidenceRequest     uint16 `json:"evidence_request,omitempty"`     // 0xFFA1
	EvidenceProposal    uint16 `json:"evidence_proposal,omitempty"`    // 0xFFA2
	ResultsRequest      uint16 `json:"results_request,omitempty"`      // 0xFFA3
	ResultsProposal     uint16 `json:"results_proposal,omitempty"`     // 0xFFA4
	AttestationEvidence uint16 `json:"attestation_evidence,omitempty"` // 0xFFA0; the draft's 60 is assigned to another extension
	AttestedKeyProof    uint16 `json:"attested_key_proof,omitempty"`   // 0xFFA6; not the draft's

	// Extension types of attestation after the handshake: CMWAttestation is of exported
	// authenticators (draft-fossati-seat-expat), AuthenticatorCarriage is not the draft's.
	AuthenticatorCarriage uint16 `json:"authenticator_carriage,omitempty"` // 0xFFA7
	CMWAttestation        uint16 `json:"cmw_attestation,omitempty"`        // 0xFF00

	// RemoteAttestation is of draft-fossati-seat-early-attestation-06. Revision -03 has
	// those of evidence_request to results_proposal, and attestation_evidence's number
	// for its attestation extension.
	RemoteAttestation uint16 `json:"remote_attestation,omitempty"` // 0xFFA5

	// Alerts. Those of the early form share numbers with those of
	// draft-fossati-tls-attestation: a connection has one form.
	UnsupportedEvidence  uint8 `json:"unsupported_evidence,omitempty"`  // 224
	UnsupportedVerifiers uint8 `json:"unsupported_verifiers,omitempty"` // 225

	UnsupportedAttestationSchemes uint8 `json:"unsupported_attestation_schemes,omitempty"` // 224; early
	AttestationRequired           uint8 `json:"attestation_required,omitempty"`            // 225; early
	AttestationFailed             uint8 `json:"attestation_failed,omitempty"`              // 226; early
}

// WithDefaults returns c with its zero fields filled in; a nil c is all defaults.
func (c *CodePoints) WithDefaults() CodePoints {
	var p CodePoints
	if c != nil {
		p = *c
	}
	fill := func(f *uint16, v uint16) {
		if *f == 0 {
			*f = v
		}
	}
	fill(&p.EvidenceRequest, 0xFFA1)
	fill(&p.EvidenceProposal, 0xFFA2)
	fill(&p.ResultsRequest, 0xFFA3)
	fill(&p.ResultsProposal, 0xFFA4)
	fill(&p.AttestationEvidence, 0xFFA0)
	fill(&p.AttestedKeyProof, 0xFFA6)
	fill(&p.AuthenticatorCarriage, 0xFFA7)
	fill(&p.CMWAttestation, 0xFF00)
	fill(&p.RemoteAttestation, 0xFFA5)
	fillAlert := func(f *uint8, v uint8) {
		if *f == 0 {
			*f = v
		}
	}
	fillAlert(&p.UnsupportedEvidence, 224)
	fillAlert(&p.UnsupportedVerifiers, 225)
	fillAlert(&p.UnsupportedAttestationSchemes, 224)
	fillAlert(&p.AttestationRequired, 225)
	fillAlert(&p.AttestationFailed, 226)
	return p
}

// assignedExtensions are those that crypto/tls itself reads or writes; a code
// point of ours must not hide one.
var assignedExtensions = []uint16{0, 5, 10, 11, 13, 16, 18, 23, 35, 41, 42, 43, 44, 45, 47, 50, 51, 57, 0xfd00, 0xfe0d, 0xff01}

// Validate reports a code point that stands for two things.
func (c *CodePoints) Validate() error {
	p := c.WithDefaults()
	var seen []uint16
	for _, f := range []struct {
		name string
		v    uint16
	}{
		{"evidence_request", p.EvidenceRequest},
		{"evidence_proposal", p.EvidenceProposal},
		{"results_request", p.ResultsRequest},
		{"results_proposal", p.ResultsProposal},
		{"attestation_evidence", p.AttestationEvidence},
		{"attested_key_proof", p.AttestedKeyProof},
		{"authenticator_carriage", p.AuthenticatorCarriage},
		{"cmw_attestation", p.CMWAttestation},
		{"remote_attestation", p.RemoteAttestation},
	} {
		if slices.Contains(assignedExtensions, f.v) {
			return fmt.Errorf("code point %d of %s belongs to another TLS extension", f.v, f.name)
		}
		if slices.Contains(seen, f.v) {
			return fmt.Errorf("code point %d of %s is used twice", f.v, f.name)
		}
		seen = append(seen, f.v)
	}
	if p.UnsupportedEvidence == p.UnsupportedVerifiers {
		return fmt.Errorf("alert %d is used twice", p.UnsupportedEvidence)
	}
	early := []uint8{p.UnsupportedAttestationSchemes, p.AttestationRequired, p.AttestationFailed}
	slices.Sort(early)
	if len(slices.Compact(early)) != 3 {
		return fmt.Errorf("alerts %d, %d and %d of the early form are not three", p.UnsupportedAttestationSchemes, p.AttestationRequired, p.AttestationFailed)
	}
	return nil
}

// ParseCodePoints reads a JSON object with the names of the draft as keys and
// numbers as values. Unknown keys are an error.
func ParseCodePoints(b []byte) (*CodePoints, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var c CodePoints
	if err := d.Decode(&c); err != nil {
		return nil, fmt.Errorf("code points: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("code points: data after the object")
	}
	return &c, c.Validate()
}
