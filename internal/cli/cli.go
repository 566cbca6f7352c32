// Package cli is wolffia's command line: one file for each verb. It alone
// prints hints, chooses exit codes and knows the concrete backends
// (backends.go).
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"wolffia/internal/debian"
	"wolffia/internal/host"
	"wolffia/internal/kernel"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/spell"
)

// Env is everything a verb may touch of the process it runs in.
type Env struct {
	Args   []string // without the program's name
	Stdin  *os.File
	Stdout *os.File
	Stderr *os.File
	Getenv func(string) string
	Dir    string // the working directory
}

// Exit statuses that wolffia itself chooses.
const (
	ExitOK          = 0
	ExitFailure     = 1
	ExitUsage       = 2
	ExitNoMachine   = 125 // the machine never came up
	ExitInterrupted = 130
)

// usageError is a mistake in how wolffia was called, or in its file.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// statusError ends wolffia with a status and says nothing.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Main runs the command line and gives the exit status.
func Main(ctx context.Context, env Env) int {
	ctx, signals := watchSignals(ctx)
	defer signals.close()
	root := newRoot(env, signals)
	root.SetArgs(env.Args)
	err := checkVerb(root, env.Args)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	return report(ctx, env.Stderr, err)
}

func newRoot(env Env, signals *signals) *cobra.Command {
	root := &cobra.Command{
		Use:   "wolffia",
		Short: "Small Linux systems, built and booted without root",
		Long: `Wolffia builds small Linux systems from Debian packages, boots them as
ordinary processes, wires them to the host and lets you in. No root, no KVM,
no container engine.`,
		Example: `  wolffia run                      a shell in a fresh Linux
  wolffia run -- uname -a          one command in it, as if it ran here
  wolffia build --format cpio -o root.cpio
  wolffia doctor                   what this host can do, and how to fix the rest`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		newRun(env, signals), newBuild(env), newExplain(env), newDoctor(env),
		newInit(env), newSchema(env), newCache(env), newVersion(env),
	)
	return root
}

// checkVerb refuses an unknown verb in one line, with the nearest known one.
func checkVerb(root *cobra.Command, args []string) error {
	for _, a := range args {
		if a == "--" {
			return nil
		}
		if strings.HasPrefix(a, "-") {
			continue
		}
		words := []string{"help", "completion"}
		for _, c := range root.Commands() {
			words = append(words, c.Name())
		}
		for _, w := range words {
			if a == w || strings.HasPrefix(a, "__") {
				return nil
			}
		}
		return usagef("unknown verb %q%s", a, didYouMean(spell.Nearest(a, words), "see wolffia --help"))
	}
	return nil
}

func didYouMean(word, otherwise string) string {
	if word == "" {
		return "; " + otherwise
	}
	return fmt.Sprintf("; did you mean %q?", word)
}

// flagError turns pflag's complaint into one line with the nearest known flag.
func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return &usageError{err}
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	given := unknown.GetSpecifiedName()
	near := spell.Nearest(given, names)
	if near != "" {
		near = "--" + near
	}
	dashes := "--"
	if len(given) == 1 {
		dashes = "-"
	}
	return usagef("unknown flag %s%s of %s%s", dashes, given, cmd.CommandPath(),
		didYouMean(near, "see "+cmd.CommandPath()+" --help"))
}

// report prints an error, with what helps against it, and gives the status.
func report(ctx context.Context, w io.Writer, err error) int {
	var (
		status  statusError
		usage   *usageError
		files   lab.Errors
		request *debian.RequestError
		module  *kernel.UnknownModuleError
		start   *machine.StartError
		lacking *host.UnsupportedError
	)
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &status):
		return int(status)
	case ctx.Err() != nil:
		fmt.Fprintln(w, "wolffia: interrupted")
		return ExitInterrupted
	case errors.As(err, &start):
		reportStart(w, start)
		return ExitNoMachine
	case errors.As(err, &files):
		for _, e := range files {
			fmt.Fprintln(w, "wolffia: "+e.Error())
		}
		return ExitUsage
	case errors.As(err, &usage), errors.As(err, &request), errors.As(err, &module):
		fmt.Fprintln(w, "wolffia: "+oneLine(err))
		return ExitUsage
	case errors.As(err, &lacking):
		fmt.Fprintln(w, "wolffia: "+oneLine(err))
		fmt.Fprintln(w, "wolffia: see everything that this host can and can't do with: wolffia doctor")
		return ExitFailure
	}
	fmt.Fprintln(w, "wolffia: "+err.Error())
	return ExitFailure
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", " ") }

// reportStart is the one report about a machine that did not come up, or did
// not stay up.
func reportStart(w io.Writer, e *machine.StartError) {
	what := "did not come up"
	if e.Stage == "running" {
		what = "died"
	}
	fmt.Fprintf(w, "wolffia: machine %q %s\n", e.Machine, what)
	row := func(label, text string) {
		if text != "" {
			fmt.Fprintf(w, "  %-8s %s\n", label, text)
		}
	}
	row("stage:", e.Stage)
	row("cause:", e.Cause)
	row("fix:", e.Fix)
	row("exit:", e.Exit)
	if e.Err != nil {
		row("error:", e.Err.Error())
	}
	if len(e.Tail) > 0 {
		fmt.Fprintln(w, "  last console lines:")
		for _, l := range e.Tail {
			fmt.Fprintln(w, "    | "+l)
		}
	}
	if len(e.Argv) > 0 {
		row("command:", strings.Join(e.Argv, " "))
	}
	row("log:", e.Log)
}
