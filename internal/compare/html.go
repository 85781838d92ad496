package compare

import (
	"fmt"
	"io"
)

// HTML writes the report.
func (run *Run) HTML(w io.Writer) error {
	_, err := fmt.Fprintf(w, "<pre>%s</pre>", run.Text())
	return err
}
