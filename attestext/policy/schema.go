package policy

import (
	_ "embed"
	"slices"
)

//go:embed schema.json
var schema []byte

// Schema returns the JSON Schema (draft 2020-12) of what [Parse] reads. Parse is
// stricter: it also refuses what a schema cannot see or say, such as a member that
// appears twice.
func Schema() []byte { return slices.Clone(schema) }
