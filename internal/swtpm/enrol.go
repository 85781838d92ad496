package swtpm

import (
	"context"
	"testing"

	"github.com/attestedtls/atls/attestext/tpm"
)

// A Device is a *tpmdevice.Device, whose own tests use this package.
type Device interface {
	EnrolRequest(context.Context) (*tpm.EnrolRequest, error)
	Activate(context.Context, *tpm.Credential) ([]byte, error)
}

// Enrol has the attestation key of d enrolled.
func Enrol(t testing.TB, d Device) tpm.EnrolledKey {
	t.Helper()
	req, err := d.EnrolRequest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e, c, err := tpm.NewEnrolment(req, &tpm.EKTrust{InsecureAny: true})
	if err != nil {
		t.Fatal(err)
	}
	secret, err := d.Activate(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	k, err := e.Finish(secret)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
