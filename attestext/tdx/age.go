package tdx

import "time"

// Issued returns when the oldest part of c was issued: TCB info, QE identity or the
// revocation list of platforms. The list of the root is not counted, which Intel issues
// about once a year and which NextUpdate bounds. It is Intel's word once a quote has been
// verified with c.
func (c *Collateral) Issued() time.Time {
	return earliest(earliest(c.tcb.IssueDate, c.qe.IssueDate), c.pckList.ThisUpdate)
}

// OlderThan reports whether any part of c, the list of the root included, was issued
// before the same part of d. One new part makes up for no old one: a revocation list
// from before a revocation is as good as none, whatever it comes with.
func (c *Collateral) OlderThan(d *Collateral) bool {
	return c.tcb.IssueDate.Before(d.tcb.IssueDate) || c.qe.IssueDate.Before(d.qe.IssueDate) ||
		c.pckList.ThisUpdate.Before(d.pckList.ThisUpdate) || c.rootList.ThisUpdate.Before(d.rootList.ThisUpdate)
}
