package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"wolffia/internal/api"
	"wolffia/internal/event"
	"wolffia/internal/lab"
	"wolffia/internal/supervisor"
	"wolffia/internal/term"
)

type upOptions struct {
	buildOptions
	dryRun   bool
	patience time.Duration
}

func newUp(env Env) *cobra.Command {
	o := &upOptions{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the lab of wolffia.yaml in the background, or apply what changed in it",
		Long: `Builds the images that are missing, starts the networks and machines of the file in
the background, and waits until every machine is ready. When the lab is up already,
only what the file says anew is done: machines that are the same run on, links and
forwards change in place, and what has stopped or failed starts again. --dry-run shows
what would be done, to the host's own network as commands of ip, sysctl and nft, and
which machines would not start since what is kept of their disks no longer fits.

A process of its own, the supervisor, owns the lab until wolffia down. Machines
that failed don't stop the others; wolffia ps shows them, wolffia logs why.`,
		Example: `  wolffia up
  wolffia up --dry-run
  wolffia up -f lab/wolffia.yaml && wolffia ps`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), env) },
	}
	o.labFlags(env, cmd)
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "only show what would be started, changed and stopped")
	cmd.Flags().DurationVar(&o.patience, "boot-timeout", supervisor.DefaultPatience, "how long a machine that boots may report no progress before it is given up")
	complete(cmd, "boot-timeout", words())
	return cmd
}

func (o *upOptions) run(ctx context.Context, env Env) error {
	l, err := readLab(env, o.file)
	if err != nil {
		return err
	}
	if l.path == "" {
		return usagef("there is no %s here; make one with: wolffia init, or name one with -f", fileName)
	}
	if o.patience <= 0 {
		return usagef("--boot-timeout %v leaves a machine no time; write one such as 90s or 5m", o.patience)
	}
	if err := l.checkPaths(env); err != nil {
		return err
	}
	d, err := labDirOf(env, l.Name, l.path)
	if err != nil {
		return err
	}
	c, err := d.settle(ctx)
	if err != nil {
		return err
	}
	if info, up := d.record(); c != nil && up && info.Name != l.Name {
		c.Close()
		return usagef("the lab of this file is up as %q, and the file calls it %q now; end that one first: wolffia down", info.Name, l.Name)
	}
	if o.dryRun {
		return o.show(ctx, env, c, d, l.Spec)
	}
	screen := o.renderer(env)
	defer screen.Close()
	fresh := c == nil
	for {
		if fresh {
			if c, fresh, err = o.begin(ctx, env, d, l, screen); err != nil {
				return err
			}
		}
		err := o.apply(ctx, env, c, d, l, fresh, screen)
		c.Close()
		var refused *api.Error
		var gone *api.GoneError
		if fresh || !errors.As(err, &gone) && !(errors.As(err, &refused) && refused.Closed) {
			return fromSupervisor(err)
		}
		// It went down at that moment; what the file says is to be up all the same.
		fresh = true
	}
}

// begin starts the lab's supervisor. One that another wolffia has started
// meanwhile will do, which is not fresh then; one that goes down is waited for.
func (o *upOptions) begin(ctx context.Context, env Env, d labDir, l *labFile, events event.Sink) (c *api.Client, fresh bool, err error) {
	wait := event.Event{Kind: event.Begin, Task: "wait", Subject: "for lab " + l.Name + " to start or to end"}
	defer func() {
		wait.Kind = event.Done
		events.Emit(wait)
	}()
	for {
		if c, err = d.settle(ctx); err != nil || c != nil {
			return c, false, err
		}
		if err := recoverHost(d, events); err != nil {
			return nil, false, err
		}
		err := startSupervisor(ctx, env, d, l.Name, l.path)
		if errors.Is(err, errOwned) {
			events.Emit(wait)
			if err := pause(ctx, lookEvery); err != nil {
				return nil, false, err
			}
			continue
		}
		if err != nil {
			return nil, false, err
		}
		if c, err = d.dial(ctx); err == nil && c == nil {
			err = fmt.Errorf("the lab was taken down as soon as it was up; if nobody did that, see %s", d.join(labJournal))
		}
		return c, true, err
	}
}

// apply has the supervisor make the lab of the file.
func (o *upOptions) apply(ctx context.Context, env Env, c *api.Client, d labDir, l *labFile, fresh bool, events event.Sink) error {
	if info, up := d.record(); up && info.Version != version().Version {
		events.Emit(event.Event{Kind: event.Note, Task: "up", Message: api.OtherVersion(info.Version, version().Version)})
	}
	request := upRequest{File: l.path, Mirror: o.mirror, Offline: o.offline, Update: o.update, Expired: o.expired, Patience: o.patience}
	for _, k := range o.keyrings {
		request.Keyrings = append(request.Keyrings, inDir(env.Dir, k))
	}
	err := c.Apply(ctx, request, events)
	if err != nil && fresh {
		o.giveUp(ctx, c)
	}
	return err
}

// giveUp ends a lab that nothing became of: a mistake in the file, an image that
// can't be built, or the person's interrupt leave nothing behind.
func (o *upOptions) giveUp(ctx context.Context, c *api.Client) {
	alone, cancel := context.WithTimeout(context.WithoutCancel(ctx), downPatience)
	defer cancel()
	machines, err := c.Machines(alone)
	if ctx.Err() != nil || err == nil && len(machines) == 0 {
		_ = c.Down(alone, false, event.Discard) // the error that led here is the one to tell
	}
}

// fromSupervisor makes of a supervisor's error what it would be here.
func fromSupervisor(err error) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Fix != "" && len(e.Starts) == 0 && !strings.HasSuffix(err.Error(), e.Fix) {
		err = fmt.Errorf("%w; %s", err, e.Fix)
	}
	switch {
	case len(e.Starts) > 0:
		return &startErrors{e}
	case e.Closed:
		return fmt.Errorf("%w; start it again with: wolffia up", err)
	case e.Usage:
		return &usageError{err}
	}
	return err
}

// show prints the plan.
func (o *upOptions) show(ctx context.Context, env Env, c *api.Client, d labDir, now *lab.Spec) error {
	var before *lab.Spec
	var machines []supervisor.MachineStatus
	if c != nil {
		defer c.Close()
		var err error
		if before, err = c.Spec(ctx); err != nil {
			return fromSupervisor(err)
		}
		if machines, err = c.Machines(ctx); err != nil {
			return fromSupervisor(err)
		}
	}
	steps, err := d.withHost(revived(supervisor.Diff(before, now), machines), before, now)
	if err != nil {
		return err
	}
	refused := o.foreseeKept(env, d, steps)
	if o.json {
		return errors.Join(writeJSON(env.Stdout, steps), refused)
	}
	var out page
	for _, s := range steps {
		out.printf("%s\n", s)
	}
	if len(steps) == 0 {
		out.printf("nothing: the lab is as the file says; up itself sees whether files that go into images have changed\n")
	}
	return errors.Join(out.show(env), refused)
}

// revived adds to the steps of a plan the machines that have stopped or failed:
// they start again.
func revived(steps []lab.Step, machines []supervisor.MachineStatus) []lab.Step {
	for _, m := range machines {
		i := slices.IndexFunc(steps, func(s lab.Step) bool { return s.Kind == "machine" && s.Name == m.Name })
		if m.State != supervisor.StateStopped && m.State != supervisor.StateFailed || i >= 0 && steps[i].Action != lab.ActionChange {
			continue
		}
		steps = append(steps, lab.Step{Kind: "machine", Name: m.Name, Action: lab.ActionStart, Why: []string{"it is " + string(m.State)}})
	}
	return steps
}

func newDown(env Env) *cobra.Command {
	o := &labOptions{}
	var volumes bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Shut the lab down",
		Long: `Asks every machine of the lab to power off, kills those that don't within 10 s, and
ends networks and supervisor. What was changed on the host's own network is undone.
Disks of machines, and what was written to them, stay for the next up, unless
--volumes drops them.`,
		Example: "  wolffia down\n  wolffia down --volumes",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return down(cmd.Context(), env, o, volumes)
		},
	}
	o.flags(env, cmd)
	o.quietFlag(cmd)
	cmd.Flags().BoolVar(&volumes, "volumes", false, "drop the machines' disks, too")
	return cmd
}

func down(ctx context.Context, env Env, o *labOptions, volumes bool) error {
	c, d, err := o.connect(ctx, env)
	switch {
	case err == nil:
		defer c.Close()
		return end(ctx, o.progress(env), c, d, volumes)
	case !noneRuns(err):
		return err
	}
	// Nothing runs; what is left of it goes.
	if rerr := recoverHost(d, event.Discard); rerr != nil {
		return rerr
	}
	d.forget()
	_, serr := os.Stat(d.join(labDisks))
	switch {
	case volumes && serr == nil:
		return d.dropDisks()
	case errors.Is(err, errNotUp):
		return err
	}
	return nil
}

// end has the supervisor end the lab, and waits until it is gone itself.
func end(ctx context.Context, screen *term.Renderer, c *api.Client, d labDir, volumes bool) error {
	defer screen.Close()
	err := c.Down(ctx, volumes, screen)
	var gone *api.GoneError
	if err != nil && !errors.As(err, &gone) { // another wolffia may have ended it first
		return fromSupervisor(err)
	}
	left, serr := d.settle(ctx)
	if left != nil { // up again already, by somebody else
		left.Close()
	}
	if _, up := d.record(); up && left == nil && serr == nil {
		return fromSupervisor(err) // it was killed meanwhile
	}
	return serr
}

// progress shows what is waited for.
func (o *labOptions) progress(env Env) *term.Renderer {
	return (&buildOptions{quiet: o.quiet}).renderer(env)
}

func newRestart(env Env) *cobra.Command {
	o := &labOptions{}
	cmd := &cobra.Command{
		Use:   "restart [MACHINE]...",
		Short: "Restart machines of the lab, or start those that have stopped",
		Long: `Shuts the machines down, starts them again on the same links, and waits until they
are ready. Without a name it does so with all of them. The other machines go on.`,
		Example: "  wolffia restart bob",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := o.running(cmd.Context(), env)
			if err != nil {
				return err
			}
			defer c.Close()
			screen := o.progress(env)
			defer screen.Close()
			return fromSupervisor(c.Restart(cmd.Context(), args, screen))
		},
	}
	o.flags(env, cmd)
	o.quietFlag(cmd)
	cmd.ValidArgsFunction = o.machines(env)
	return cmd
}

func newStop(env Env) *cobra.Command {
	o := &labOptions{}
	var kill bool
	cmd := &cobra.Command{
		Use:     "stop MACHINE...",
		Short:   "Shut machines of the lab down; they stay in it",
		Example: "  wolffia stop bob          # wolffia restart bob starts it again\n  wolffia stop --kill bob   # as if its power failed",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("wolffia stop wants machines; to end the whole lab: wolffia down")
			}
			c, _, err := o.running(cmd.Context(), env)
			if err != nil {
				return err
			}
			defer c.Close()
			if kill {
				return fromSupervisor(c.Kill(cmd.Context(), args))
			}
			screen := o.progress(env)
			defer screen.Close()
			return fromSupervisor(c.Stop(cmd.Context(), args, screen))
		},
	}
	o.flags(env, cmd)
	o.quietFlag(cmd)
	cmd.Flags().BoolVar(&kill, "kill", false, "end it at once, without asking")
	cmd.ValidArgsFunction = o.machines(env)
	return cmd
}

// flags are those that say which lab it is about.
func (o *labOptions) flags(env Env, cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.file, "file", "f", "", "the lab's file (default wolffia.yaml where there is one)")
	cmd.Flags().StringVar(&o.lab, "lab", "", "a lab that is up, by its name, in place of its file")
	complete(cmd, "file", files("yaml", "yml"))
	complete(cmd, "lab", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		labs, err := allLabs(env)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return labNames(labs), cobra.ShellCompDirectiveNoFileComp
	})
}

// quietFlag is for verbs that show progress.
func (o *labOptions) quietFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "say nothing but warnings and errors")
}

// machines completes the names of the lab's machines.
func (o *labOptions) machines(env Env) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		names, err := o.machineNames(cmd.Context(), env)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func (o *labOptions) machineNames(ctx context.Context, env Env) (names []string, err error) {
	if ctx == nil {
		ctx = context.Background()
	}
	c, _, err := o.connect(ctx, env)
	if err != nil {
		l, err := readLab(env, o.file)
		if err != nil {
			return nil, err
		}
		return l.MachineNames(), nil
	}
	defer c.Close()
	machines, err := c.Machines(ctx)
	for _, m := range machines {
		names = append(names, m.Name)
	}
	return names, err
}
