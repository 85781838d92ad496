package tdx

import "time"

// Issued returns when the oldest part of c was issued: TCB info, QE identity or the
// revocation list of platforms. The list of the root is not counted, which Intel issues
// about once a year and which NextUpdate bounds. It is Intel's word once a quote has been
// verified with c.
func (c *Collateral) Issued() time.Time {
	return earliest(earliest(c.tcb.IssueDate, c.qe.IssueDate), c.pckList.ThisUpdate)
}
