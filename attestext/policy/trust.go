package policy

import (
	"strings"

	"github.com/attestedtls/atls/attestext"
)

// A TrustClaim names a claim of the trustworthiness vector of draft-ietf-rats-ar4si,
// section 2.3.
type TrustClaim string

// The claims of the vector.
const (
	InstanceIdentity TrustClaim = "instance-identity"
	Configuration    TrustClaim = "configuration"
	Executables      TrustClaim = "executables"
	FileSystem       TrustClaim = "file-system"
	Hardware         TrustClaim = "hardware"
	RuntimeOpaque    TrustClaim = "runtime-opaque"
	StorageOpaque    TrustClaim = "storage-opaque"
	SourcedData      TrustClaim = "sourced-data"
)

// TrustClaims are the claims of the vector in the order of the draft.
func TrustClaims() []TrustClaim {
	return []TrustClaim{InstanceIdentity, Configuration, Executables, FileSystem, Hardware, RuntimeOpaque, StorageOpaque, SourcedData}
}

// Values of a claim of the vector, draft-ietf-rats-ar4si, section 2.3.4. A value is
// of the tier of its range: 2 to 31 affirms, 32 to 95 warns, 96 and above
// contraindicates.
const (
	trustNone            int8 = 0
	trustAffirming       int8 = 2
	trustWarning         int8 = 32
	trustUnrecognized    int8 = 33 // executables that nobody has compared
	trustContraindicated int8 = 96
	trustUnknownInstance int8 = 97 // instance-identity, and hardware, that should be recognized and is not
)

// A Trust is one claim of the vector, and why it has its value.
type Trust struct {
	Claim TrustClaim
	// Value is 0 where the claim is not made.
	Value int8
	// Reason is what decided the value: the worst reason behind the claim, the first
	// of them where several are alike.
	Reason string
}

// trustClaims says which claim of the vector a Reason is about, by its Claim. What
// is not listed is about the configuration.
var trustClaims = map[string]TrustClaim{
	"collateral":      Hardware,
	"tcb_status":      Hardware,
	claimCollateral:   Hardware,
	"advisory_ids":    Hardware,
	"min_tcb":         Hardware,
	"min_tee_tcb_svn": Hardware,
	"platform_info":   Hardware,
	"mrseam":          Hardware,
	"tdx":             Hardware,
	"snp":             Hardware,
	"tpm":             Hardware,
	"eat":             Hardware,
	"oemid":           Hardware,
	"hwmodel":         Hardware,

	"firmware_versions": Hardware,

	"mrtd":              Executables,
	"rtmr1":             Executables,
	"rtmr2":             Executables,
	"rtmr3":             Executables,
	"events.rtmr1":      Executables,
	"events.rtmr2":      Executables,
	"events.rtmr3":      Executables,
	"measurement":       Executables,
	"measurements":      Executables,
	"max_age":           Executables,
	"id_key_digest":     Executables,
	"author_key_digest": Executables,
	"min_guest_svn":     Executables,
	claimQuoteAge:       Executables, // what ran when the quote was made

	"debug":           RuntimeOpaque,
	"migration":       RuntimeOpaque,
	"migration_agent": RuntimeOpaque,
	"max_vmpl":        RuntimeOpaque,

	"ueids":                      InstanceIdentity,
	"deny_ueids":                 InstanceIdentity,
	"chip_ids":                   InstanceIdentity,
	"deny_chip_ids":              InstanceIdentity,
	"ek_ids":                     InstanceIdentity,
	"deny_ek_ids":                InstanceIdentity,
	"platform_instance_ids":      InstanceIdentity,
	"deny_platform_instance_ids": InstanceIdentity,
}

// Trust returns the claim of the vector that r is about.
func (r Reason) Trust() TrustClaim {
	if c, ok := trustClaims[r.Claim]; ok {
		return c
	}
	if r.Claim == "pcrs" || strings.HasPrefix(r.Claim, "pcrs ") {
		return Executables
	}
	return Configuration
}

// value returns what r makes of its claim of the vector.
func (r Reason) value() int8 {
	switch claim := r.Trust(); {
	case r.Verdict == Affirming:
		return trustAffirming
	case r.Verdict == Warning && claim == Executables:
		return trustUnrecognized
	case r.Verdict == Warning:
		return trustWarning
	case claim == InstanceIdentity && !strings.HasPrefix(r.Claim, "deny_"):
		return trustUnknownInstance
	}
	return trustContraindicated
}

// notMade says why a claim is not made where no reason is about it. Evidence of a TEE
// covers what was launched and what the guest itself has measured, and nothing that it
// reads later.
var notMade = map[TrustClaim]string{
	InstanceIdentity: "not compared: the policy names no machine",
	Configuration:    "not compared: the policy has no reference values",
	Executables:      "not compared: the policy has no reference values",
	FileSystem:       "the evidence says nothing of files",
	Hardware:         "not looked at",
	RuntimeOpaque:    "not looked at",
	StorageOpaque:    "the evidence says nothing of storage",
	SourcedData:      "the evidence says nothing of data from elsewhere",
}

// Vector returns all eight claims of the trustworthiness vector, in the order of the
// draft. The worst of their tiers is d.Verdict.
func (d *Decision) Vector() []Trust {
	vector := make([]Trust, 0, len(notMade))
	for _, c := range TrustClaims() {
		t, worst := Trust{Claim: c, Value: trustNone, Reason: notMade[c]}, -1
		for _, r := range d.Reasons {
			if r.Trust() == c && int(r.Verdict) > worst {
				worst = int(r.Verdict)
				t.Value, t.Reason = r.value(), r.Claim+": "+r.Text
			}
		}
		vector = append(vector, t)
	}
	return vector
}

// Values returns the claims of the vector that are made, by name, as an EAR has them.
func (d *Decision) Values() map[string]int8 {
	values := make(map[string]int8)
	for _, t := range d.Vector() {
		if t.Value != trustNone {
			values[string(t.Claim)] = t.Value
		}
	}
	return values
}

// EAR returns d in the shape of the appraisal of one submodule of an EAT Attestation
// Result, draft-ietf-rats-ear, for people and logs: "ear.status" and
// "ear.trustworthiness-vector" with all eight claims, and beside them, under names
// that are not of the draft, "reasons" for each claim of the vector and, where
// evidence is refused, "refused-by".
func (d *Decision) EAR() map[string]any {
	vector, reasons := make(map[string]any), make(map[string]any)
	for _, t := range d.Vector() {
		vector[string(t.Claim)], reasons[string(t.Claim)] = t.Value, t.Reason
	}
	m := map[string]any{
		"ear.status":                 d.Verdict.String(),
		"ear.trustworthiness-vector": vector,
		"reasons":                    reasons,
	}
	if r, refused := d.Refusal(); refused {
		m["refused-by"] = r.Claim + ": " + r.Text
	}
	return m
}

// Refusal returns the first reason to refuse, and whether there is one.
func (d *Decision) Refusal() (r Reason, refused bool) {
	for _, r := range d.Reasons {
		if r.Verdict == Contraindicated {
			return r, true
		}
	}
	return Reason{}, false
}

// A RefusedError is in the chain of every error of [Decision.Err].
type RefusedError struct{ Decision *Decision }

// Error names every claim that is contraindicated, the first one first, with what
// was found and what was wanted.
func (e *RefusedError) Error() string {
	var s []string
	for _, r := range e.Decision.Reasons {
		if r.Verdict == Contraindicated {
			s = append(s, r.Claim+": "+r.Text)
		}
	}
	return strings.Join(s, "; ")
}

// Is reports whether target is [attestext.ErrStale] and the age of the quote is all that
// is contraindicated.
func (e *RefusedError) Is(target error) bool {
	for _, r := range e.Decision.Reasons {
		if r.Verdict == Contraindicated && r.Claim != claimQuoteAge {
			return false
		}
	}
	return target == attestext.ErrStale
}
