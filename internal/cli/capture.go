package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	xterm "golang.org/x/term"

	"wolffia/internal/api"
	"wolffia/internal/lab"
	"wolffia/internal/supervisor"
)

type captureOptions struct {
	labOptions
	file  string
	last  time.Duration
	count uint64
}

func newCapture(env Env) *cobra.Command {
	o := &captureOptions{}
	cmd := &cobra.Command{
		Use:   "capture MACHINE|NETWORK [FILTER]...",
		Short: "See the frames that pass a machine's cards, or a network",
		Long: `Writes the frames as pcapng, which Wireshark, tshark and tcpdump read: of a machine
what its cards send and get, of a network each frame once. Interfaces have the names
of machine and card, and frames that a link lost say so in a comment. FILTER is an
expression of tcpdump's, in which names of the lab's machines are hosts.

With -w the frames go to a file, or with -w - to standard output; otherwise tcpdump of
the host shows them. --last gives those that have passed already, which each network
keeps, to the limit of its ring. A capture goes on over restarts of machines.`,
		Example: `  wolffia capture lan
  wolffia capture alice -w alice.pcapng 'tcp port 80 and host bob'
  wolffia capture lan -w - | wireshark -k -i -
  wolffia capture lan --last 60s -w - | tshark -r -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("wolffia capture wants a machine or a network, as in: wolffia capture lan")
			}
			return o.run(cmd.Context(), env, args[0], strings.Join(args[1:], " "))
		},
	}
	o.flags(env, cmd)
	f := cmd.Flags()
	f.StringVarP(&o.file, "write", "w", "", "the file to write, or - for standard output")
	f.DurationVar(&o.last, "last", 0, "what passed in this time, such as 60s, in place of what will")
	f.Uint64VarP(&o.count, "count", "c", 0, "end after so many frames")
	complete(cmd, "write", files("pcapng", "pcap"))
	complete(cmd, "last", words("10s", "60s", "10m"))
	complete(cmd, "count", words())
	cmd.ValidArgsFunction = oneName(env, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return o.names(cmd.Context(), env), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// names are what can be captured.
func (o *captureOptions) names(ctx context.Context, env Env) []string {
	machines, err := o.machineNames(ctx, env)
	if err != nil {
		return nil
	}
	if l, err := readLab(env, o.labOptions.file); err == nil {
		machines = append(machines, l.NetworkNames()...)
	}
	return machines
}

func (o *captureOptions) run(ctx context.Context, env Env, name, filter string) error {
	if o.last < 0 {
		return usagef("--last %v lies ahead", o.last)
	}
	if o.file == "-" && xterm.IsTerminal(int(env.Stdout.Fd())) {
		return usagef("pcapng is nothing to show on a terminal; send the output on, or leave -w out")
	}
	c, _, err := o.running(ctx, env)
	if err != nil {
		return err
	}
	defer c.Close()
	want := supervisor.CaptureOptions{Filter: filter, Last: o.last, Count: o.count}
	if err := o.subject(ctx, c, name, &want); err != nil {
		return err
	}
	in, err := c.Capture(ctx, want)
	if err != nil {
		return fromSupervisor(err)
	}
	defer in.Close()
	switch o.file {
	case "":
		return tcpdump(ctx, env, in)
	case "-":
		unread := whileRead(env.Stdout, in)
		err := pour(ctx, env.Stdout, in)
		if unread() {
			return statusError(128 + unix.SIGPIPE)
		}
		return err
	}
	f, err := os.OpenFile(inDir(env.Dir, o.file), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return &usageError{err}
	}
	err = pour(ctx, f, in)
	return errors.Join(err, f.Close())
}

// subject says whether name is a machine or a network.
func (o *captureOptions) subject(ctx context.Context, c *api.Client, name string, want *supervisor.CaptureOptions) error {
	spec, err := c.Spec(ctx)
	if err != nil {
		return fromSupervisor(err)
	}
	if spec == nil {
		return errors.New("the lab has no networks yet")
	}
	_, machine := spec.Machines[name]
	_, network := spec.Networks[name]
	switch {
	case machine && network:
		return usagef("%q is a machine and a network of this lab; they need different names for this", name)
	case machine:
		want.Machine = name
	case network:
		want.Network = name
	default:
		return &usageError{lab.OneOf("machine or network", name, slices.Concat(spec.MachineNames(), spec.NetworkNames()))}
	}
	return nil
}

// pour writes a capture on until it ends, or the person ends it, which is what
// captures are for and no failure.
func pour(ctx context.Context, to io.Writer, in io.Reader) error {
	_, err := io.Copy(to, in)
	switch {
	case err == nil, ctx.Err() != nil:
		return nil
	case errors.Is(err, unix.EPIPE):
		return statusError(128 + unix.SIGPIPE)
	}
	return fmt.Errorf("write the capture: %w", err)
}

// tcpdump shows a capture.
func tcpdump(ctx context.Context, env Env, in io.Reader) error {
	path, err := exec.LookPath("tcpdump")
	if err != nil {
		return usagef("there is no tcpdump here to show the frames; install it (Debian: apt install tcpdump), or write them with -w FILE")
	}
	cmd := exec.Command(path, "-l", "-n", "-r", "-")
	cmd.Stdout, cmd.Stderr = env.Stdout, env.Stderr
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("run tcpdump: %w", err)
	}
	var pouring sync.WaitGroup
	pouring.Go(func() {
		_ = pour(ctx, stdin, in) // tcpdump says what is wrong with it
		stdin.Close()
	})
	err = cmd.Wait()
	if closer, ok := in.(io.Closer); ok {
		closer.Close()
	}
	pouring.Wait()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("run tcpdump: %w", err)
	}
	return nil
}
