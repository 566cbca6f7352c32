package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	xterm "golang.org/x/term"

	"wolffia/internal/access"
	"wolffia/internal/api"
	"wolffia/internal/supervisor"
)

// enterOptions are those of verbs that run something in a machine of the lab.
type enterOptions struct {
	labOptions
	tty   bool
	noTTY bool
}

func (o *enterOptions) flags(env Env, cmd *cobra.Command) {
	o.labOptions.flags(env, cmd)
	cmd.Flags().BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal in any case")
	cmd.Flags().BoolVarP(&o.noTTY, "no-tty", "T", false, "give the command no terminal")
	cmd.ValidArgsFunction = oneName(env, o.machines(env))
}

func newExec(env Env, sig *signals) *cobra.Command {
	o := &enterOptions{}
	cmd := &cobra.Command{
		Use:   "exec MACHINE -- CMD [ARG]...",
		Short: "Run a command in a machine of the lab, as if it ran here",
		Long: `Runs a command in a machine that is up, as root: standard input, output and error are
the command's own, byte for byte, the exit status is the command's, and signals are
passed on. A machine that boots is waited for; status 125 is one that does not run.`,
		Example: `  wolffia exec alice -- ping -c 1 bob
  tar c src | wolffia exec alice -- tar x -C /tmp`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, argv, err := machineAndCommand(cmd, args)
			if err != nil {
				return err
			}
			if len(argv) == 0 {
				return usagef("wolffia exec wants a command, as in: wolffia exec %s -- uname -a; for a shell: wolffia ssh %[1]s", name)
			}
			return o.enter(cmd.Context(), env, sig, name, argv)
		},
	}
	o.flags(env, cmd)
	return cmd
}

func newSSH(env Env, sig *signals) *cobra.Command {
	o := &enterOptions{}
	var stdio bool
	cmd := &cobra.Command{
		Use:   "ssh MACHINE [-- CMD [ARG]...]",
		Short: "Log in to a machine of the lab",
		Long: `Gives a login shell of root in a machine that is up, or runs a command as wolffia
exec does; a script may come by standard input. The keys are the machine's own: there is nothing to ask or to confirm, and
no port of the host or network of the machine is needed.

With --stdio it only joins standard input and output to the machine's ssh server, for
programs that speak ssh themselves; see wolffia ssh-config.`,
		Example: `  wolffia ssh alice
  wolffia ssh alice -- uname -a`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, argv, err := machineAndCommand(cmd, args)
			if err != nil {
				return err
			}
			if stdio {
				return o.stdio(cmd.Context(), env, name)
			}
			return o.enter(cmd.Context(), env, sig, name, argv)
		},
	}
	o.flags(env, cmd)
	cmd.Flags().BoolVar(&stdio, "stdio", false, "join standard input and output to the machine's ssh server")
	return cmd
}

// machineAndCommand takes a machine and, with or without "--" before it, a
// command.
func machineAndCommand(cmd *cobra.Command, args []string) (name string, argv []string, err error) {
	if len(args) == 0 || cmd.ArgsLenAtDash() == 0 {
		return "", nil, usagef("%s wants a machine, as in: %[1]s alice", cmd.CommandPath())
	}
	return args[0], args[1:], nil
}

func (o *enterOptions) enter(ctx context.Context, env Env, sig *signals, name string, argv []string) error {
	if o.tty && o.noTTY {
		return usagef("--tty and --no-tty exclude each other")
	}
	c, _, err := o.running(ctx, env)
	if err != nil {
		return notEntered(err)
	}
	defer c.Close()
	watch := &vigil{env: env, machine: name}
	client, err := enterMachine(ctx, c, watch)
	if err != nil {
		return notEntered(err)
	}
	defer client.Close()
	running, end := context.WithCancelCause(ctx)
	defer end(nil)
	r := newRemote(env, argv, end, watch)
	// A shell that nobody types to ends with its input, which a terminal in the
	// machine would keep from it.
	login := len(argv) == 0 && !o.noTTY && xterm.IsTerminal(int(env.Stdin.Fd()))
	status, err := r.run(running, sig, client, o.tty || login, o.noTTY)
	switch {
	case errors.Is(err, unix.EPIPE):
		return statusError(128 + unix.SIGPIPE)
	case err != nil && running.Err() != nil:
		return context.Cause(running)
	case err != nil:
		return lost(ctx, c, name, err)
	case status.Code != 0:
		return statusError(status.Code)
	}
	return nil
}

// outsideError is a command that could not be run, as that of a container's can't
// which does not run: its status is none that the command may have.
type outsideError struct{ error }

func (e *outsideError) Unwrap() error { return e.error }

// notEntered says why a machine could not be entered.
func notEntered(err error) error {
	var refused *api.Error
	var dead *deadError
	var silent *silentError
	stopped := errors.As(err, &refused) && refused.Stopped
	if err = fromSupervisor(err); stopped || errors.As(err, &dead) || errors.As(err, &silent) || errors.Is(err, errNotUp) {
		return &outsideError{err}
	}
	return err
}

// waitPatience is how long a machine may take to let somebody in before it is said
// what that waits for.
const waitPatience = 2 * time.Second

// enterMachine logs in to a machine. While that has to wait, and when the machine
// hangs later on, it is said what is waited for.
func enterMachine(ctx context.Context, c *api.Client, s *vigil) (*access.Client, error) {
	name := s.machine
	var waiting sync.WaitGroup
	defer waiting.Wait()
	entering, entered := context.WithCancel(ctx)
	defer entered()
	waiting.Go(func() {
		if pause(entering, waitPatience) == nil {
			if state := stateOf(entering, c, name); state != "" {
				fmt.Fprintf(s.env.Stderr, "wolffia: machine %s is %s; waiting until it can be entered\n", name, state)
			}
		}
	})
	client, err := c.Enter(ctx, name)
	var refused *api.Error
	if err != nil && ctx.Err() == nil && !errors.As(err, &refused) {
		return nil, lost(ctx, c, name, err)
	}
	if client != nil {
		client.KeepAlive(s.alive())
	}
	return client, err
}

// stateOf is what a machine does; empty if that can't be told.
func stateOf(ctx context.Context, c *api.Client, name string) supervisor.State {
	machines, err := c.Machines(ctx)
	if err != nil {
		return ""
	}
	for _, m := range machines {
		if m.Name == name {
			return m.State
		}
	}
	return ""
}

// lost explains a connection to a machine that broke.
func lost(ctx context.Context, c *api.Client, name string, err error) error {
	if errors.As(err, new(*access.SilentError)) {
		return &outsideError{fmt.Errorf("machine %q: %w; see wolffia logs %[1]s, and start it anew with wolffia restart %[1]s", name, err)}
	}
	if state := stateOf(ctx, c, name); state != "" {
		return &outsideError{fmt.Errorf("machine %q went away, and is %s now: %w", name, state, err)}
	}
	return err
}

// stdio joins standard input and output with the machine's ssh server.
func (o *enterOptions) stdio(ctx context.Context, env Env, name string) error {
	c, _, err := o.running(ctx, env)
	if err != nil {
		return err
	}
	defer c.Close()
	conn, err := c.Connect(ctx, name)
	if err != nil {
		return fromSupervisor(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go func() { // ends with the process at the latest
		io.Copy(conn, env.Stdin)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}()
	if _, err := io.Copy(env.Stdout, conn); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("talk to machine %s: %w", name, err)
	}
	return nil
}

func newCopy(env Env) *cobra.Command {
	o := &labOptions{}
	cmd := &cobra.Command{
		Use:   "cp SOURCE... TARGET",
		Short: "Copy files and folders into and out of machines of the lab",
		Long: `Copies what is named into TARGET. A name with a machine and a colon before it is in
that machine; - is standard input or output. Folders are copied whole, with modes,
times and links. A TARGET that is a folder gets the sources inside; several sources
need one.`,
		Example: `  wolffia cp program alice:/usr/local/bin/
  wolffia cp alice:/var/log/messages .
  wolffia cp alice:/etc bob:/tmp`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("wolffia cp wants what to copy and where to, as in: wolffia cp file alice:/tmp/")
			}
			c, _, err := o.running(cmd.Context(), env)
			if err != nil {
				return err
			}
			defer c.Close()
			return copyAll(cmd.Context(), env, c, args[:len(args)-1], args[len(args)-1])
		},
	}
	o.flags(env, cmd)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		names, err := o.machineNames(cmd.Context(), env)
		if err != nil || strings.ContainsAny(start, "/:.") {
			return nil, cobra.ShellCompDirectiveDefault
		}
		for i := range names {
			names[i] += ":"
		}
		return names, cobra.ShellCompDirectiveNoSpace
	}
	return cmd
}

// place is a path here or in a machine.
type place struct {
	machine string // empty for here
	path    string
}

func parsePlace(s string) place {
	machine, path, ok := strings.Cut(s, ":")
	if !ok || strings.ContainsAny(machine, "/.") || machine == "" {
		return place{path: s}
	}
	if path == "" {
		path = "."
	}
	return place{machine, path}
}

// copier copies by tar, in machines over one connection each.
type copier struct {
	env     Env
	lab     *api.Client
	mu      sync.Mutex
	clients map[string]*access.Client
}

func copyAll(ctx context.Context, env Env, lab *api.Client, sources []string, target string) error {
	c := &copier{env: env, lab: lab, clients: map[string]*access.Client{}}
	defer c.close()
	to := parsePlace(target)
	into, err := c.isFolder(ctx, to)
	if err != nil {
		return err
	}
	if len(sources) > 1 && !into {
		return usagef("%s is no folder, which several sources need", target)
	}
	for _, s := range sources {
		if err := c.copy(ctx, parsePlace(s), to, into); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) close() {
	for _, client := range c.clients {
		client.Close()
	}
}

// enter gives the connection to a machine.
func (c *copier) enter(ctx context.Context, machine string) (*access.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if client := c.clients[machine]; client != nil {
		return client, nil
	}
	watch := &vigil{env: c.env, machine: machine}
	client, err := enterMachine(ctx, c.lab, watch)
	if err != nil {
		return nil, fromSupervisor(err)
	}
	watch.during(func() {}) // it is interrupted by its context
	c.clients[machine] = client
	return client, nil
}

// isFolder says whether a target is a folder, which a slash at its end promises.
func (c *copier) isFolder(ctx context.Context, p place) (bool, error) {
	var folder bool
	switch {
	case p.path == "-":
		return false, nil
	case p.machine == "":
		info, err := os.Stat(inDir(c.env.Dir, p.path))
		folder = err == nil && info.IsDir()
	default:
		client, err := c.enter(ctx, p.machine)
		if err != nil {
			return false, err
		}
		st, err := client.Run(ctx, access.Command{Argv: []string{"test", "-d", p.path}})
		if err != nil {
			return false, err
		}
		folder = st.Code == 0
	}
	if !folder && strings.HasSuffix(p.path, "/") {
		return false, usagef("%s is no folder", p.path)
	}
	return folder, nil
}
