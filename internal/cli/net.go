package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"wolffia/internal/api"
	"wolffia/internal/supervisor"
	"wolffia/internal/vnet/link"
)

func newNet(env Env) *cobra.Command {
	o := &labOptions{}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "net",
		Short: "Look at the links of the lab's networks, and change them",
		Long: `Shows what is plugged into each network, what passed in either direction, and what
the links do to frames. Out is from what is plugged in to the network, in the other way.
What was dropped is told by reason: the link's impairments and its queue for the rate;
refused by what is plugged in; switch, which had no room in its queue to the link, or got
a broken frame from it; vlan, which the port does not carry.

Its verbs pull out cables and make links worse while the lab runs. They take MACHINE, if
that is on one network, MACHINE/NETWORK, or any link as it is listed: gateway, lan.vde:1,
host; with NETWORK/ before it where several networks have one of that name. What they set
holds for the machine's next lives, too, until the lab goes down or wolffia up makes the
machines' links what the file says; for who has plugged in, until it leaves. wolffia.yaml
says the same with the keys down, link, in and out of a machine's networks.`,
		Example: `  wolffia net
  wolffia net set alice/lan delay 50ms loss 1%
  wolffia net set lan/gateway delay 20ms
  wolffia net down bob`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := o.running(cmd.Context(), env)
			if err != nil {
				return err
			}
			defer c.Close()
			links, err := c.Links(cmd.Context())
			if err != nil {
				return fromSupervisor(err)
			}
			if asJSON {
				return writeJSON(env.Stdout, links)
			}
			return showLinks(env, links)
		},
	}
	o.flags(env, cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(newNetSet(env), newNetCarrier(env, "up", true), newNetCarrier(env, "down", false))
	return cmd
}

func showLinks(env Env, links []supervisor.LinkStatus) error {
	var out page
	w := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NETWORK\tLINK\tSTATE\tOUT\tDROPPED\tIN\tDROPPED\tDOES")
	for _, l := range links {
		state := "up"
		if !l.Up {
			state = "down"
		}
		does := "-"
		switch {
		case l.OutImpairment == l.InImpairment && l.OutImpairment != noImpairment:
			does = l.OutImpairment
		case l.OutImpairment != l.InImpairment:
			does = "out " + l.OutImpairment + "; in " + l.InImpairment
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d, %s\t%s\t%d, %s\t%s\t%s\n", l.Network, l.Name, state,
			l.Out.Frames, sizeText(int64(l.Out.Bytes)), dropsText(l.Out), l.In.Frames, sizeText(int64(l.In.Bytes)), dropsText(l.In), does)
	}
	w.Flush()
	return out.show(env)
}

// dropsText is how many frames were dropped, and why, where any were.
func dropsText(t supervisor.Traffic) string {
	sum := uint64(0)
	var why []string
	for _, d := range []struct {
		count  uint64
		reason string
	}{
		{t.Dropped.Down, "link down"}, {t.Dropped.Loss, "loss"}, {t.Dropped.Queue, "queue"}, {t.Dropped.Offload, "offload"},
		{t.Dropped.Refused, "refused"}, {t.Switch.Dropped, "switch"}, {t.Switch.Filtered, "vlan"},
	} {
		if d.count > 0 {
			sum += d.count
			why = append(why, fmt.Sprintf("%s %d", d.reason, d.count))
		}
	}
	if sum == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", sum, strings.Join(why, ", "))
}

// noImpairment is how a link is written that does nothing to frames.
const noImpairment = "none"

func newNetSet(env Env) *cobra.Command {
	o := &labOptions{}
	var in, out bool
	cmd := &cobra.Command{
		Use:   "set LINK WORD VALUE...",
		Short: "Make a link worse, or good again",
		Long: `Sets what a link does to frames, in place of what it did: both ways, or with --out or
--in one. LINK is MACHINE, MACHINE/NETWORK or a name that wolffia net lists. The words
and their values, as tc(8) has them:

  rate 10Mbit     what the wire carries a second; what has to wait is queued
  queue 64KiB     the room for that
  delay 50ms      how long a frame is under way
  jitter 5ms      how far that differs either way
  loss 1%         the part of the frames that disappears
  duplicate 1%    that arrives twice
  corrupt 1%      that has one bit flipped
  reorder 1%      that overtakes others (with a delay)
  seed 7          which frames that is: the same seed, the same frames

none makes the link good again.`,
		Example: `  wolffia net set alice/lan delay 50ms jitter 5ms
  wolffia net set bob --in loss 10% seed 7
  wolffia net set gateway delay 20ms
  wolffia net set bob none`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("wolffia net set wants a link and what it does, as in: wolffia net set alice/lan delay 50ms; or none")
			}
			i, err := link.ParseImpairment(strings.Join(args[1:], " "))
			if err != nil {
				return &usageError{err}
			}
			change := api.LinkChange{Out: &i, In: &i}
			if in && !out {
				change.Out = nil
			}
			if out && !in {
				change.In = nil
			}
			return o.change(cmd, env, args[0], change)
		},
	}
	o.flags(env, cmd)
	cmd.Flags().BoolVar(&in, "in", false, "only for frames from the network")
	cmd.Flags().BoolVar(&out, "out", false, "only for frames to the network")
	cmd.ValidArgsFunction = oneName(env, o.links(env))
	return cmd
}

func newNetCarrier(env Env, verb string, up bool) *cobra.Command {
	o := &labOptions{}
	short := "Pull a cable out"
	if up {
		short = "Plug a cable in again"
	}
	cmd := &cobra.Command{
		Use:   verb + " LINK",
		Short: short,
		Long: short + `: that of MACHINE, MACHINE/NETWORK or a name that wolffia net lists. A machine
of QEMU's sees its carrier go and come; for all others the link is silent: a User-Mode
Linux has no way to see it.`,
		Example: "  wolffia net " + verb + " alice/lan\n  wolffia net " + verb + " gateway",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%s wants one link, as in: %[1]s alice/lan", cmd.CommandPath())
			}
			return o.change(cmd, env, args[0], api.LinkChange{Up: &up})
		},
	}
	o.flags(env, cmd)
	cmd.ValidArgsFunction = oneName(env, o.links(env))
	return cmd
}

// change changes a link.
func (o *labOptions) change(cmd *cobra.Command, env Env, name string, change api.LinkChange) error {
	c, _, err := o.running(cmd.Context(), env)
	if err != nil {
		return err
	}
	defer c.Close()
	return fromSupervisor(c.SetLink(cmd.Context(), name, change))
}

// links completes the names of the lab's links.
func (o *labOptions) links(env Env) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		c, _, err := o.connect(cmd.Context(), env)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		machines, _ := c.Machines(cmd.Context())
		links, _ := c.Links(cmd.Context())
		return supervisor.LinkNames(machines, links), cobra.ShellCompDirectiveNoFileComp
	}
}
