package strictpem_test

import (
	"encoding/pem"
	"slices"
	"testing"

	"github.com/attestedtls/atls/attestext/internal/strictpem"
)

// TestNothingIsPassedOver: what encoding/pem skips would go missing without a word, such
// as a revocation list that was damaged.
func TestNothingIsPassedOver(t *testing.T) {
	block := func(s string) string { return string(pem.EncodeToMemory(&pem.Block{Type: "A", Bytes: []byte(s)})) }
	const damaged = "-----BEGIN A-----\nMQ=\n-----END A-----\n"
	for _, c := range []struct {
		name, in string
		want     []string // nil: refused
	}{
		{"nothing", " \n", []string{}},
		{"two", block("1") + "\n" + block("2") + "\n", []string{"1", "2"}},
		{"white space before", "\n " + block("1"), []string{"1"}},
		{"text before", "text\n" + block("1"), nil},
		{"text between", block("1") + "text\n" + block("2"), nil},
		{"text after", block("1") + "text", nil},
		{"a damaged one first", damaged + block("2"), nil},
		{"a damaged one between", block("1") + damaged + block("2"), nil},
		{"a damaged one last", block("1") + damaged, nil},
		{"one without its end first", "-----BEGIN A-----\nMQ==\n" + block("2"), nil},
		{"of another type", "-----BEGIN B-----\nMQ==\n-----END B-----\n", nil},
	} {
		got, err := strictpem.Parse([]byte(c.in), "A", func(b []byte) (string, error) { return string(b), nil })
		if (err == nil) != (c.want != nil) || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}
