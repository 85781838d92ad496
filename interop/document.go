package interop

import (
	"fmt"
	"strings"
	"time"
)

// document returns docs/INTEROP.md.
func document(rows []*Row, took time.Duration) string {
	var b strings.Builder
	b.WriteString(`# Interoperability

Written by ` + "`atls interop --update`" + `; do not edit.

` + "`go run ./cmd/atls interop`" + ` has ` + "`atls`" + ` and other TLS stacks talk to each other, and reads from a capture and a key log
what was said. Nothing is taken from what an end says about itself: the binder is computed once more, from the
Handshake Secret that the peer has logged and that has to fit the traffic, or where it is public (early) from the messages
alone, and looked for in the evidence.
Peers that verify compute it from their own secrets, and cases in which the fork attests wrongly show that they do.

` + "`ok*`" + ` is a cell in which evidence or a result was presented and accepted; ` + "`-`" + `: the stack cannot do this.
A case named "wrong" passes when the fork refuses with the alert that the case names. ` + "`atls interop --list`" + ` says what each case is, and quotes the requirement.
A peer that the machine lacks is skipped; ` + "`--install`" + ` has apt-get install what it needs (Debian, root).

## Peers

`)
	s := Summarize(rows)
	peers, lines, cells := arrange(rows)
	b.WriteString("| peer | versions |\n|---|---|\n")
	for _, p := range peers {
		for _, r := range rows {
			if r.Peer == p {
				v := r.PeerVersion
				if r.Outcome == Skipped {
					v = "skipped: " + *r.Reason
				}
				fmt.Fprintf(&b, "| %s | %s |\n", p, v)
				break
			}
		}
	}
	fmt.Fprintf(&b, "\n## Matrix\n\n%v, in %v.\n\n", s, took.Round(time.Second))
	b.WriteString("| case | peer is | " + strings.Join(peers, " | ") + " |\n|---|---|" + strings.Repeat("---|", len(peers)) + "\n")
	for _, l := range lines {
		fmt.Fprintf(&b, "| %s | %s |", l[0], l[1])
		for _, p := range peers {
			fmt.Fprintf(&b, " %s |", strings.ReplaceAll(mark(cells[[3]string{l[0], l[1], p}]), "*", "\\*"))
		}
		b.WriteString("\n")
	}
	b.WriteString(`
## To add a peer

Make a folder below ` + "`interop/peers`" + ` with a program ` + "`run`" + `. [The contract](../interop/peers/CONTRACT.md) has one page: a case, a role
and an address come in by the environment, an exit status goes out, 127 is "cannot do that". Then

` + "```sh" + `
go run ./cmd/atls interop --peer NAME --keep logs     # captures open in Wireshark, keys included
go run ./cmd/atls interop --update .                  # the outcomes that are expected from now on
` + "```" + `

To add a case, add it to ` + "`interop/cases.go`" + `, or to ` + "`interop/cases_wrong.go`" + ` where the peer does wrong, with the requirement that it tests.
[testdata/handshakes](../testdata/handshakes/README.md) has handshakes with all their bytes and secrets, to test
against without this program.

## What it does not show

- OpenSSL sends an extension in Certificate only in answer to the same extension in ClientHello or CertificateRequest, which
  attestation_evidence is not. So it verifies evidence and results in the handshake, in both roles, and presents evidence after it.
- Evidence is of a TEE in software. The quotes of other stacks are by the same one, which a peer asks for a signature over
  64 bytes, or in cases named "own" evidence of the peer's own making.
- Early attestation, in both revisions, is with Scapy alone.
- The authenticators of C peers and of Node are of this project, on the exporter of their stacks: no stack has them built in.
- Binding and messages are read from the capture; whether a peer has verified a signature is known from what it refuses.
`)
	return b.String()
}
