package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	xterm "golang.org/x/term"

	"wolffia/internal/access"
	"wolffia/internal/build"
	"wolffia/internal/kernel"
	"wolffia/internal/lab"
	"wolffia/internal/machine"
	"wolffia/internal/rootfs"
	"wolffia/internal/supervisor"
	"wolffia/internal/term"
)

type runOptions struct {
	buildOptions
	machineOptions
	noTTY  bool
	tty    bool
	needs  string // a package that the image must have
	around around // what else to do where a command runs; may be nil
}

// around prepares a machine, and the command, before that starts; after is done
// when it has ended.
type around func(context.Context, *access.Client, *access.Command) (after func() error, err error)

func newRun(env Env, sig *signals) *cobra.Command {
	o := &runOptions{}
	cmd := &cobra.Command{
		Use:   "run [IMAGE] [-- CMD [ARG]...]",
		Short: "Boot a throwaway machine: its console, or one command in it",
		Long: `Builds the image where that is needed, boots it as a process, and gives its
console; nothing of the machine is left afterwards.

With a command it behaves as if the command ran here: standard input, output
and error are the command's own, byte for byte, the exit status is the
command's, and signals are passed on. When input and output are terminals the
command gets one, too.

On the console, Ctrl-] and then q ends the machine; Ctrl-] ? lists the rest.
Leaving the shell, or poweroff, ends it, too, and so does Ctrl-D where a machine
of the file has a login prompt. A machine that does not come up
ends by itself with status 125 and a report.`,
		Example: `  wolffia run
  wolffia run -- uname -a
  tar c . | wolffia run -- tar x -C /tmp
  wolffia run -p python3-minimal -m 256M -- python3 -c 'print(6*7)'
  wolffia run --network none -- ip link
  wolffia run --forward 127.0.0.1:8080:80`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, argv, err := splitArgs(cmd, args)
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), env, sig, name, argv)
		},
	}
	o.flags(env, cmd)
	return cmd
}

func (o *runOptions) flags(env Env, cmd *cobra.Command) {
	o.buildOptions.flags(env, cmd)
	o.machineOptions.flags(env, &o.file, cmd)
	cmd.Flags().BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal in any case")
	cmd.Flags().BoolVarP(&o.noTTY, "no-tty", "T", false, "give the command no terminal")
	cmd.ValidArgsFunction = oneName(env, fromLab(env, &o.file, runnable))
}

// consoleFor is what the machine has on its console: with a command nothing.
func consoleFor(argv []string) rootfs.Console {
	if len(argv) > 0 {
		return rootfs.ConsoleNone
	}
	return rootfs.ConsoleSession
}

// splitArgs takes an optional name before "--" and a command after it.
func splitArgs(cmd *cobra.Command, args []string) (name string, argv []string, err error) {
	before := args
	if at := cmd.ArgsLenAtDash(); at >= 0 {
		before, argv = args[:at], args[at:]
		if len(argv) == 0 {
			return "", nil, usagef("a command is missing after --")
		}
	}
	if len(before) > 1 {
		return "", nil, usagef("%s takes one image, and was given %q; write a command after --, as in: wolffia run -- %s",
			cmd.CommandPath(), before, before[0])
	}
	if len(before) == 1 {
		name = before[0]
	}
	return name, argv, nil
}

func (o *runOptions) run(ctx context.Context, env Env, sig *signals, name string, argv []string) error {
	if o.tty && o.noTTY {
		return usagef("--tty and --no-tty exclude each other")
	}
	screen := o.renderer(env)
	defer screen.Close()
	p, err := o.open(env, screen)
	if err != nil {
		return err
	}
	if o.needs != "" {
		if err := p.need(name, o.needs, screen); err != nil {
			return err
		}
	}
	ready, err := p.prepare(ctx, env, &o.machineOptions, name, consoleFor(argv), screen)
	if err != nil {
		return asUsage(err)
	}
	defer ready.close()
	o.direct(env, ready, argv)
	err = o.boot(ctx, env, sig, ready.config, screen, argv)
	keepLog(env, err)
	return err
}

// direct has a machine do without ssh where its command, or its console, can: that
// saves an emulated machine a tenth of its time.
func (o *runOptions) direct(env Env, r *ready, argv []string) {
	c := &r.config
	channel := ""
	if r.kernel != nil {
		channel = c.Backend.Guest(c.Arch).Channel
	}
	inPlace := func(k lab.Disk) bool { return k.InPlace } // which are unmounted at the end by another command
	if channel == "" || !r.kernel.BuiltIn(channel) || c.Machine.Root == lab.RootDisk {
		return
	}
	if len(argv) > 0 {
		if o.around != nil || onTerminal(env, o.tty, o.noTTY) || slices.ContainsFunc(c.Machine.Disks, inPlace) {
			return
		}
		c.Command = &access.Command{Argv: argv, Stdin: input(env)}
	}
	c.Direct = true
}

func (o *runOptions) boot(ctx context.Context, env Env, sig *signals, cfg supervisor.Config, screen *term.Renderer, argv []string) error {
	// A reader that goes away shows as an error of writing, after which the
	// machine is ended and cleaned up as ever.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, unix.SIGPIPE)
	defer signal.Stop(broken)
	if len(argv) > 0 && !xterm.IsTerminal(int(env.Stderr.Fd())) {
		screen.Pause() // from here on standard error is the command's alone
	}
	session, err := supervisor.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer session.Close()
	if len(argv) == 0 {
		err = o.console(ctx, env, session, screen)
	} else {
		err = o.command(ctx, env, sig, session, screen, argv)
	}
	if errors.Is(err, unix.EPIPE) {
		return statusError(128 + unix.SIGPIPE)
	}
	return err
}

// console joins the terminal to the machine's console.
func (o *runOptions) console(ctx context.Context, env Env, s *supervisor.Session, screen *term.Renderer) error {
	if err := s.Ready(ctx); err != nil {
		return err
	}
	screen.Pause()
	err := attach(ctx, env, s.Console(), endConsole, true)
	if errors.Is(err, errEscape) {
		s.Settle(ctx, nil)
		return nil
	}
	if err != nil {
		return err
	}
	if exit := s.Wait(); !exit.Clean {
		return exit.Err(s.Name(), machine.StageRunning)
	}
	return nil
}

// command runs argv in the machine as if it ran here.
func (o *runOptions) command(ctx context.Context, env Env, sig *signals, s *supervisor.Session, screen *term.Renderer, argv []string) error {
	watch := &vigil{env: env, machine: s.Name()}
	var client *access.Client // nil where the command is run directly
	var by runner
	direct, err := s.Direct(ctx)
	switch {
	case direct == nil:
		if client, err = s.Dial(ctx); err != nil {
			return err
		}
		defer client.Close()
		s.KeepAlive(client, watch.alive())
		by = client
	case err != nil:
		return err
	default:
		by = direct
	}
	if err := s.Ready(ctx); err != nil {
		return err
	}
	if direct != nil { // which answers from then on
		s.KeepAlive(direct, watch.alive())
	}
	screen.Pause()
	var watching sync.WaitGroup
	defer watching.Wait()
	running, end := context.WithCancelCause(ctx)
	defer end(nil)
	watching.Go(func() {
		if gone(running, s) {
			end(errGone)
		}
	})
	r := newRemote(env, argv, end, watch)
	after := func() error { return nil }
	if o.around != nil {
		if after, err = o.around(running, client, &r.cmd); err != nil {
			return err
		}
	}
	status, err := r.run(running, sig, by, o.tty, o.noTTY)
	broken := after()
	if err == nil && client != nil {
		s.Settle(ctx, client)
	}
	switch {
	case err == nil && broken != nil:
		return broken
	case err == nil && status.Code == 0:
		return nil
	case err == nil:
		return statusError(status.Code)
	case running.Err() != nil && context.Cause(running) != errGone:
		return context.Cause(running)
	case errors.As(err, new(*access.SilentError)):
		return s.GiveUp(err)
	}
	select { // a connection that breaks is nearly always the machine's end
	case <-s.Over():
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(powerOff):
	}
	exit, ended := s.Ended()
	switch {
	case !ended:
		return err
	case exit.Reboot:
		return fmt.Errorf("machine %q ended before the command did: it was restarted from inside", s.Name())
	case exit.Clean:
		return fmt.Errorf("machine %q ended before the command did: it was powered off from inside", s.Name())
	}
	return exit.Err(s.Name(), machine.StageRunning)
}

// errGone is the machine's end while a command runs in it.
var errGone = errors.New("the machine has ended")

// lastWords is how long, after a machine's end, what the command wrote last may
// take to arrive; powerOff is how long a machine may take to end after the
// connection.
const (
	lastWords = time.Second
	powerOff  = 10 * time.Second
)

// gone waits for the machine's end and the last words; false means that ctx
// ended first.
func gone(ctx context.Context, s *supervisor.Session) bool {
	select {
	case <-s.Over():
	case <-ctx.Done():
		return false
	}
	select {
	case <-time.After(lastWords):
		return true
	case <-ctx.Done():
		return false
	}
}

// asUsage makes a mistake in what was asked for a usage error; what went wrong
// while doing it stays what it is.
func asUsage(err error) error {
	var path *os.PathError
	var recipe *rootfs.Error
	var base *build.BaseError
	var small *build.TooSmallError
	switch {
	case errors.As(err, &small):
		return usagef("%w; %s", err, small.Fix())
	case errors.As(err, new(*kernel.FlavourError)), errors.As(err, new(*build.KernelArchError)):
		return &usageError{err}
	}
	if errors.As(err, &base) && errors.Is(err, fs.ErrNotExist) {
		return &usageError{err}
	}
	if errors.As(err, &recipe) && (!errors.As(err, &path) || errors.Is(err, fs.ErrNotExist)) {
		return &usageError{err}
	}
	return err
}
