// Command forksync keeps tls/ what it claims to be: a program's output. With
// up = crypto/tls of the release that tls/UPSTREAM names,
//
//	tls/ without the project's own files = rewrite(up) + tls/UPSTREAM.diff
//
// scripts/sync runs it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
)

const usage = `usage: scripts/sync COMMAND

  scripts/sync check            prove that tls/ is the rewritten upstream plus its marked hooks
  scripts/sync diff             write tls/UPSTREAM.diff and the table in docs/FORK.md anew
  scripts/sync rewrite          write the rewritten upstream into tls/, without the hooks
  scripts/sync bump GOVERSION   move tls/ to another release, for example go1.26.9
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sync:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	f := &fork{root: ".", stdout: stdout, fetch: fetch}
	switch {
	case len(args) == 1 && args[0] == "check":
		return f.check(ctx)
	case len(args) == 1 && args[0] == "diff":
		return f.diff(ctx)
	case len(args) == 1 && args[0] == "rewrite":
		return f.rewrite(ctx)
	case len(args) == 2 && args[0] == "bump":
		return f.bump(ctx, args[1])
	}
	return fmt.Errorf("%s", usage)
}
