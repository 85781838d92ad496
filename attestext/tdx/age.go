package tdx

import "time"

// Issued returns when the oldest part of c was issued: TCB info, QE identity or the
// revocation list of platforms. The list of the root is not counted, which Intel issues
// about once a year and which NextUpdate bounds. It is Intel's word once a quote has been
// verified with c.
func (c *Collateral) Issued() time.Time {
	return earliest(earliest(c.tcb.IssueDate, c.qe.IssueDate), c.pckList.ThisUpdate)
}

// Editions returns, for each part of c by name, numbers that do not go down from one part
// of that name that Intel issues to the next: when it was issued, in seconds since 1970,
// and its tcbEvaluationDataNumber. TCB info is of one family of platforms; the other parts
// are the same for all.
//
// One new part makes up for no old one: a revocation list from before a revocation is as
// good as none, whatever it comes with. Intel goes on issuing TCB info under the numbers
// before the current one, which calls platforms up to date that are so no more.
func (c *Collateral) Editions() map[string]int64 {
	tcb, qe := "TCB info of FMSPC "+c.fmspc, "QE identity"
	return map[string]int64{
		tcb:                                c.tcb.IssueDate.Unix(),
		tcb + " (tcbEvaluationDataNumber)": int64(c.tcb.TcbEvaluationDataNumber),
		qe:                                 c.qe.IssueDate.Unix(),
		qe + " (tcbEvaluationDataNumber)":  int64(c.qe.TcbEvaluationDataNumber),
		"revocation list by " + c.pckList.Issuer.String():  c.pckList.ThisUpdate.Unix(),
		"revocation list by " + c.rootList.Issuer.String(): c.rootList.ThisUpdate.Unix(),
	}
}
