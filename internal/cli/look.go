package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	xterm "golang.org/x/term"

	"wolffia/internal/api"
	"wolffia/internal/event"
	"wolffia/internal/supervisor"
	"wolffia/internal/term"
)

func newConsole(env Env) *cobra.Command {
	o := &labOptions{}
	cmd := &cobra.Command{
		Use:   "console MACHINE",
		Short: "Join the console of a machine of the lab",
		Long: `Shows what the machine's console says, its last output first, and types what is typed.
Several may look on and type at the same time. Ctrl-] and then q leaves; the machine
goes on, and so does the view when the machine restarts. Of a machine that is stopped,
or waits for another one, it says so, and waits for its start.`,
		Example: "  wolffia console alice",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("wolffia console wants one machine, as in: wolffia console alice")
			}
			c, _, err := o.running(cmd.Context(), env)
			if err != nil {
				return err
			}
			defer c.Close()
			return watchConsole(cmd.Context(), env, c, args[0])
		},
	}
	o.flags(env, cmd)
	cmd.ValidArgsFunction = oneName(env, o.machines(env))
	return cmd
}

// labConsole is the console of a machine in the background.
type labConsole struct {
	net.Conn
	ctx  context.Context
	lab  *api.Client
	name string
}

// Resize tells the machine; one that can't be told is none the worse for it.
func (c *labConsole) Resize(cols, rows int) error {
	return c.lab.Resize(c.ctx, c.name, cols, rows)
}

func watchConsole(ctx context.Context, env Env, lab *api.Client, name string) error {
	conn, err := lab.Console(ctx, name, true)
	if err != nil {
		return fromSupervisor(err)
	}
	defer conn.Close()
	newline := "\n"
	if xterm.IsTerminal(int(env.Stdin.Fd())) { // which is in raw mode meanwhile
		newline = "\r\n"
	}
	looking, left := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() { tellStates(looking, lab, name, env.Stderr, newline) })
	defer telling.Wait()
	defer left()
	err = attach(ctx, env, &labConsole{conn, ctx, lab, name}, leaveConsole, false)
	if errors.Is(err, errEscape) {
		return nil
	}
	return err
}

func newLogs(env Env) *cobra.Command {
	o := &labOptions{}
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs [MACHINE]",
		Short: "Show what the console of a machine of the lab said",
		Long: `Shows what the machine's console has said, of all of its lives, up to the last 8 MiB or
more; with --follow also what it will say, until interrupted. Of a lab that is dead or down the logs are still there.
Without a machine it shows the supervisor's own.`,
		Example: "  wolffia logs alice\n  wolffia logs -F alice | grep -i oops",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("wolffia logs wants one machine, as in: wolffia logs alice")
			}
			return o.logs(cmd.Context(), env, args, follow)
		},
	}
	o.flags(env, cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "F", false, "go on with what it will say")
	cmd.ValidArgsFunction = oneName(env, o.machines(env))
	return cmd
}

func (o *labOptions) logs(ctx context.Context, env Env, args []string, follow bool) error {
	c, d, err := o.connect(ctx, env)
	if c == nil || len(args) == 0 {
		if d.path == "" {
			return err
		}
		var left error
		if c != nil {
			c.Close()
		} else if noneRuns(err) {
			left = recoverHost(d, event.Discard)
		}
		return errors.Join(d.logs(ctx, env, args), left)
	}
	defer c.Close()
	log, err := c.Log(ctx, args[0], follow)
	if err != nil {
		return fromSupervisor(err)
	}
	defer log.Close()
	stop := context.AfterFunc(ctx, func() { log.Close() })
	defer stop()
	unread := whileRead(env.Stdout, log)
	err = showLog(ctx, env, log)
	if unread() {
		return statusError(128 + unix.SIGPIPE)
	}
	return err
}

// logs shows what is in the lab's folder.
func (d labDir) logs(ctx context.Context, env Env, args []string) error {
	name := labJournal
	if len(args) > 0 {
		name = filepath.Base(args[0]) + ".log"
	}
	shown := false
	for _, name := range []string{name + ".1", name} {
		f, err := os.Open(d.join(name))
		if err != nil {
			continue
		}
		shown = true
		err = showLog(ctx, env, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	if !shown {
		return usagef("there is no log of %s; machines that have run have one", strings.Join(args, ""))
	}
	return nil
}

// showLog gives a log as it is; on a terminal without what could drive that.
func showLog(ctx context.Context, env Env, log io.Reader) error {
	var out io.Writer = env.Stdout
	if xterm.IsTerminal(int(env.Stdout.Fd())) {
		out = term.NewCleaner(out)
	}
	_, err := io.Copy(out, log)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, unix.EPIPE):
		return statusError(128 + unix.SIGPIPE)
	case err != nil:
		return fmt.Errorf("show the log: %w", err)
	}
	return nil
}

func newSSHConfig(env Env) *cobra.Command {
	o := &labOptions{}
	cmd := &cobra.Command{
		Use:   "ssh-config",
		Short: "Print a configuration with which OpenSSH, scp, rsync and editors enter the lab's machines",
		Long: `Prints an ssh_config(5) in which each machine of the lab is a host by its name. The
machines' keys are written into the lab's own folder, which only you can enter; they
are new at each start of a machine, and follow by themselves as long as the lab is up.
scp and sftp want openssh-sftp-server among the image's packages, rsync itself.`,
		Example: `  wolffia ssh-config >lab.conf && ssh -F lab.conf alice
  scp -F lab.conf file alice:/tmp
  rsync -e 'ssh -F lab.conf' -a src alice:/tmp`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, d, err := o.running(cmd.Context(), env)
			if err != nil {
				return err
			}
			defer c.Close()
			machines, err := c.Machines(cmd.Context())
			if err != nil {
				return fromSupervisor(err)
			}
			return sshConfig(env, d, machines)
		},
	}
	o.flags(env, cmd)
	return cmd
}

func sshConfig(env Env, d labDir, machines []supervisor.MachineStatus) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find wolffia itself: %w", err)
	}
	info, _ := d.record()
	var out page
	out.printf("# Machines of the lab %s, by: wolffia ssh-config\n", info.Name)
	for _, m := range machines {
		out.printf("\nHost %s\n", m.Name)
		for _, line := range []string{
			"User root",
			"HostKeyAlias " + m.Name,
			"ProxyCommand " + shellWord(self) + " ssh --stdio -f " + shellWord(info.File) + " " + m.Name,
			"IdentityFile " + confWord(d.join(m.Name+".key")),
			"UserKnownHostsFile " + confWord(d.join(m.Name+".known_hosts")),
			"IdentitiesOnly yes",
			"StrictHostKeyChecking yes",
		} {
			out.printf("  %s\n", line)
		}
	}
	return out.show(env)
}

// shellWord and confWord make one word of a path, for a shell within an
// ssh_config, where % begins something else, and for the ssh_config itself.
func shellWord(s string) string {
	return strings.ReplaceAll("'"+strings.ReplaceAll(s, "'", `'\''`)+"'", "%", "%%")
}

func confWord(s string) string { return `"` + strings.ReplaceAll(s, "%", "%%") + `"` }
