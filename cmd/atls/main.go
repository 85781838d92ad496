// Command atls speaks TLS with remote attestation: it serves, dials, and looks into
// evidence. Run it without arguments for its usage; "atls demo" shows what it is
// about.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

const usage = `Usage:
    atls demo [--write DIR] [--json]
    atls serve --cert FILE --key FILE [--attest TEE] [--listen ADDR] [FLAGS]
    atls dial HOST:PORT [--ca FILE] [--verify local [--policy FILE]] [FLAGS]
    atls proxy --accept WHERE --forward WHERE [FLAGS]
    atls inspect FILE
    atls verify FILE [--trust-roots FILE] [--collateral FILE] [--policy FILE]
    atls tpm-enroll [--tpm PATH] [--ek-roots FILE --collateral FILE]
    atls ca --cert FILE --key FILE --rules FILE --issuer-cert FILE --issuer-key FILE --log FILE [FLAGS]
    atls enroll HOST:PORT --name NAME --attest TEE --cert FILE --key FILE [FLAGS]
    atls verifier [--listen ADDR] [--trust-roots FILE] [--collateral FILE] [--policy FILE] [--key FILE]
    atls attack [SCENARIO] [--mode MODE] [--mitigation M] [-v]
    atls compare [--quick] [--out DIR] [--resume]
    atls interop [--peer NAME] [--case ID] [--quick]

Examples:
    $ atls demo
    $ atls demo --write pki
    $ atls serve --cert pki/cert.pem --key pki/key.pem --attest softtee:tdx
    $ echo hello | atls dial localhost:4433 --ca pki/ca.pem --verify local \
        --trust-roots pki/trust-roots.pem --collateral pki/collateral.json --policy pki/policy.json
    $ atls inspect pki/evidence.cmw

Commands:
    demo       an attested handshake on loopback, told step by step
    serve      a server that echoes what it is sent
    dial       a client: standard input to the peer, the reply to standard output
    proxy      a sidecar: attested TLS on one side, plain bytes on the other
    inspect    what a quote, report, wrapper, token, collateral or captured handshake
               says, as a tree
    verify     appraise evidence, a result or a captured handshake offline
    tpm-enroll have the attestation key of this machine's TPM trusted by others
    ca         certificates for machines, by what they run
    enroll     have such a certificate issued, and renew it
    verifier   a service that appraises evidence for others
    attack     run the published attacks against each mode
    compare    what each mode costs, and a report of that and of the attacks
    interop    handshakes with TLS stacks by others, as a matrix

"atls help COMMAND" lists the flags of a command. With --json, standard output has
one JSON object per line and nothing else.

Exit status: 0 ok, 1 usage, 2 malformed input, 3 verification failed, 4 refused by
policy, 5 network, 127 nothing that was selected is supported (interop).
`

// An environment is what a command runs in.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

// A command is a subcommand. run gets the arguments behind its name.
type command struct {
	usage string
	run   func(ctx context.Context, env *environment, args []string) error
}

// commands is filled in by init, since help refers to it.
var commands map[string]*command

func init() {
	commands = map[string]*command{
		"demo":       {demoUsage, runDemo},
		"serve":      {serveUsage, runServe},
		"dial":       {dialUsage, runDial},
		"inspect":    {inspectUsage, runInspect},
		"verify":     {verifyUsage, runVerify},
		"ca":         {caUsage, runCA},
		"enroll":     {enrollUsage, runEnroll},
		"tpm-enroll": {tpmEnrollUsage, runTPMEnroll},
		"verifier":   {verifierUsage, runVerifier},
		"attack":     {attackUsage, runAttack},
		"compare":    {compareUsageText(), runCompare},
		"interop":    {interopUsage, runInterop},
		"proxy":      {proxyUsage, runProxy},
	}
}

// run is main without the process: it returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out := &output{w: stdout}
	env := &environment{stdin, out, stderr}
	status := dispatch(ctx, env, args)
	if err := out.failed(); err != nil && status == statusOK { // which nobody has got to see
		status = env.fail(usagef("", "standard output: %w", err))
	}
	return status
}

// An output remembers what has failed to be written.
type output struct {
	w   io.Writer
	mu  sync.Mutex
	err error
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.w.Write(b)
	if err != nil {
		o.mu.Lock()
		o.err = err
		o.mu.Unlock()
	}
	return n, err
}

func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// dispatch runs the command that args begins with.
func dispatch(ctx context.Context, env *environment, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(env.stderr, usage)
		return statusUsage
	}
	name, args := args[0], args[1:]
	if name == "help" || name == "-h" || name == "-help" || name == "--help" {
		return help(env, args)
	}
	cmd := commands[name]
	if cmd == nil {
		return env.fail(usagef(`"atls help" lists the commands`, "unknown command %q", name))
	}
	return env.fail(interrupted(ctx, cmd.run(ctx, env, args)))
}

// help prints the usage, of a command if one is named.
func help(env *environment, args []string) int {
	text := usage
	if len(args) > 0 {
		cmd := commands[args[0]]
		if cmd == nil {
			return env.fail(usagef(`"atls help" lists the commands`, "no help for %q", args[0]))
		}
		text = cmd.usage
	}
	return env.fail(&helpError{text})
}
