// Package cli is wolffia's command line: one file for each verb. It alone
// prints hints, chooses exit codes and knows the concrete backends
// (backends.go).
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"wolffia/internal/api"
	"wolffia/internal/build"
	"wolffia/internal/debian"
	"wolffia/internal/host"
	"wolffia/internal/kernel"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/spell"
	"wolffia/internal/term"
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
	root.SetArgs(gdbSpelling(env.Args))
	cmd, err := root.ExecuteContextC(ctx)
	asJSON := cmd.Flags().Lookup("json")
	return report(ctx, env.Stderr, err, asJSON != nil && asJSON.Value.String() == "true")
}

func newRoot(env Env, signals *signals) *cobra.Command {
	asksVersion := false
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
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asksVersion {
				return showVersion(env)
			}
			return cmd.Help()
		},
	}
	root.Flags().BoolVar(&asksVersion, "version", false, "print the version")
	root.CompletionOptions.DisableDefaultCmd = true // ours is newCompletion
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(
		newRun(env, signals), newGDB(env, signals), newStrace(env, signals), newBuild(env), newExplain(env), newDoctor(env),
		newUp(env), newDown(env), newRestart(env), newStop(env), newPs(env), newSSH(env, signals), newExec(env, signals), newCopy(env),
		newConsole(env), newLogs(env), newCapture(env), newNet(env), newSSHConfig(env), newSupervise(env, signals),
		newImage(env), newInit(env), newImport(env), newSchema(env), newCache(env), newVersion(env), newCompletion(env),
	)
	root.SetHelpCommand(newHelp())
	return root
}

// newHelp is cobra's help, which takes anything for a topic, made to refuse
// what is none.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [VERB]...",
		Short:   "Show the help of a verb",
		Example: "  wolffia help cache prune",
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			switch {
			case err != nil:
				return &usageError{err}
			case len(rest) > 0 && topic.HasSubCommands():
				return unknownVerb(topic, rest[0])
			case len(rest) > 0:
				return usagef("%s has no help about %q", topic.CommandPath(), rest[0])
			}
			return topic.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return verbs(topic), cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// verbs are the names of a command's own commands.
func verbs(cmd *cobra.Command) []string {
	var out []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			out = append(out, c.Name())
		}
	}
	return out
}

// wantVerb is the Args of a command that does nothing by itself.
func wantVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("%s wants %s", cmd.CommandPath(), strings.Join(verbs(cmd), " or "))
	}
	return unknownVerb(cmd, args[0])
}

// unknownVerb refuses a verb in one line, with the nearest known one.
func unknownVerb(cmd *cobra.Command, word string) error {
	known := verbs(cmd)
	if !cmd.HasParent() {
		return usagef("unknown verb %q%s", word, didYouMean(spell.Nearest(word, append(known, "help")), "see wolffia --help"))
	}
	return usagef("unknown verb %q of %s%s", word, cmd.CommandPath(),
		didYouMean(spell.Nearest(word, known), "it has "+strings.Join(known, " and ")))
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
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &unknown):
	case errors.As(err, &missing):
		return usagef("flag --%s of %s needs a value; see %[2]s --help", missing.GetFlag().Name, cmd.CommandPath())
	case errors.As(err, &invalid):
		f := invalid.GetFlag()
		what, ok := map[string]string{"bool": "neither true nor false", "int": "no number", "duration": "no duration; write one such as 90s or 5m"}[f.Value.Type()]
		if !ok {
			return &usageError{err}
		}
		return usagef("flag --%s of %s: %q is %s", f.Name, cmd.CommandPath(), invalid.GetValue(), what)
	default:
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
	otherwise := "see " + cmd.CommandPath() + " --help"
	if strings.Contains(cmd.Use, "-- ") {
		otherwise = "those of the command go behind --; " + otherwise
	}
	return usagef("unknown flag %s%s of %s%s", dashes, given, cmd.CommandPath(), didYouMean(near, otherwise))
}

// failure is an error's JSON form: the last line on standard error, where the
// events are.
type failure struct {
	Kind    string   `json:"kind"` // "error"
	Status  int      `json:"status"`
	Message string   `json:"message"`
	Machine string   `json:"machine,omitempty"` // these are of a machine that did not come up
	Stage   string   `json:"stage,omitempty"`
	Cause   string   `json:"cause,omitempty"`
	Fix     string   `json:"fix,omitempty"`
	Exit    string   `json:"exit,omitempty"`
	Console []string `json:"console,omitempty"`
	Command []string `json:"command,omitempty"`
	Log     string   `json:"log,omitempty"`
}

// report prints an error, with what helps against it, and gives the status.
func report(ctx context.Context, w io.Writer, err error, asJSON bool) int {
	var text strings.Builder
	status := describe(ctx, &text, err)
	if !asJSON || text.Len() == 0 {
		io.WriteString(w, term.Clean(text.String()))
		return status
	}
	f := failure{Kind: "error", Status: status, Message: err.Error()}
	var start *machine.StartError
	if errors.As(err, &start) {
		f.Machine, f.Stage, f.Cause, f.Fix = start.Machine, start.Stage, start.Cause, start.Fix
		f.Exit, f.Console, f.Command, f.Log = start.Exit, start.Tail, start.Argv, start.Log
	}
	json.NewEncoder(w).Encode(f)
	return status
}

// describe writes an error for people.
func describe(ctx context.Context, w io.Writer, err error) int {
	var (
		status  statusError
		usage   *usageError
		files   lab.Errors
		request *debian.RequestError
		module  *kernel.UnknownModuleError
		lock    *build.LockFileError
		start   *machine.StartError
		several *startErrors
		lacking *host.UnsupportedError
		outside *outsideError
	)
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &status):
		return int(status)
	case ctx.Err() != nil:
		fmt.Fprintln(w, "wolffia: interrupted")
		return ExitInterrupted
	case errors.As(err, &several):
		for _, e := range several.e.Starts {
			reportStart(w, e)
		}
		return ExitNoMachine
	case errors.As(err, &start):
		reportStart(w, start)
		return ExitNoMachine
	case errors.As(err, &outside):
		fmt.Fprintln(w, "wolffia: "+oneLine(err))
		return ExitNoMachine
	case errors.As(err, &files):
		for _, e := range files {
			fmt.Fprintln(w, "wolffia: "+e.Error())
		}
		return ExitUsage
	case errors.As(err, &usage), errors.As(err, &request), errors.As(err, &module), errors.As(err, &lock):
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

// startErrors are the machines of a lab that did not come up.
type startErrors struct{ e *api.Error }

func (s *startErrors) Error() string { return s.e.Message }

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", " ") }

// reportStart is the one report about a machine that did not come up, or did
// not stay up.
func reportStart(w io.Writer, e *machine.StartError) {
	what := "did not come up"
	if e.Up {
		what = "died"
	}
	fmt.Fprintf(w, "wolffia: machine %q %s\n", e.Machine, what)
	row := func(label, text string) {
		if text != "" {
			fmt.Fprintf(w, "  %-8s %s\n", label, strings.ReplaceAll(text, "\n", "\n           "))
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
