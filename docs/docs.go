// Package docs has the documents that programs read.
package docs

import _ "embed"

// Goals is GOALS.md.
//
//go:embed GOALS.md
var Goals string
