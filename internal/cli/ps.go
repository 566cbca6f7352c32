package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"wolffia/internal/api"
	"wolffia/internal/event"
	"wolffia/internal/supervisor"
)

// labStatus is a lab and its machines, as ps shows them.
type labStatus struct {
	api.Info
	Up       bool                       `json:"up"`
	Dead     bool                       `json:"dead,omitempty"`  // its supervisor was killed
	Error    string                     `json:"error,omitempty"` // why nothing is known of its machines
	Machines []supervisor.MachineStatus `json:"machines"`
}

func newPs(env Env) *cobra.Command {
	o := &labOptions{}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "Show the labs that are up, and their machines",
		Long: `Shows every lab that is up, or with -f or --lab that one, with the state of its
machines: waiting (for others), booting, ready, stopping, stopped or failed.`,
		Example: "  wolffia ps\n  wolffia ps --json | jq -r '.[].machines[].name'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			labs, err := o.statuses(cmd.Context(), env)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(env.Stdout, labs)
			}
			return showLabs(env, labs)
		},
	}
	o.flags(env, cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (o *labOptions) statuses(ctx context.Context, env Env) ([]labStatus, error) {
	var dirs []labDir
	var err error
	if o.file != "" || o.lab != "" {
		var d labDir
		d, err = o.find(env)
		dirs = []labDir{d}
	} else {
		dirs, err = allLabs(env)
	}
	if err != nil {
		return nil, err
	}
	out := []labStatus{}
	for _, d := range dirs {
		info, known := d.record()
		if !known {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		s := d.status(ctx, info)
		if s.Dead {
			if err := recoverHost(d, event.Discard); err != nil {
				s.Error = err.Error()
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// status is what is known of a lab that is recorded.
func (d labDir) status(ctx context.Context, info api.Info) labStatus {
	s := labStatus{Info: info, Machines: []supervisor.MachineStatus{}}
	c, err := d.settle(ctx)
	if c == nil && err == nil {
		_, s.Dead = d.record() // it may have ended since
		return s
	}
	if err == nil {
		defer c.Close()
		s.Machines, err = c.Machines(ctx)
	}
	if s.Up = err == nil; err != nil {
		s.Error = err.Error()
	}
	return s
}

func showLabs(env Env, labs []labStatus) error {
	var out page
	if len(labs) == 0 {
		out.printf("no lab is up; start one with: wolffia up\n")
		return out.show(env)
	}
	var notes []string
	w := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "LAB\tMACHINE\tSTATE\tFOR\tBACKEND\tMEMORY\tADDRESSES\tFORWARDS")
	for _, l := range labs {
		if l.Dead {
			fmt.Fprintf(w, "%s\t-\tdead\t-\t-\t-\t-\t-\n", l.Name)
			notes = append(notes, (&deadError{l.Info}).Error())
		}
		if l.Error != "" && l.Dead {
			notes = append(notes, l.Error)
		} else if l.Error != "" {
			fmt.Fprintf(w, "%s\t-\tunknown\t-\t-\t-\t-\t-\n", l.Name)
			notes = append(notes, l.Error)
		}
		if l.Up && len(l.Machines) == 0 {
			fmt.Fprintf(w, "%s\t-\tempty\t%s\t-\t-\t-\t-\n", l.Name, age(l.Started))
		}
		if ours := version().Version; l.Up && l.Version != ours {
			notes = append(notes, "lab "+l.Name+": "+api.OtherVersion(l.Version, ours))
		}
		for _, m := range l.Machines {
			var addrs []string
			for _, c := range m.Cards {
				for _, a := range c.Addrs {
					if a.Is4() {
						addrs = append(addrs, a.String())
					}
				}
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s/%s\t%dM\t%s\t%s\n", l.Name, m.Name, m.State, age(m.Since), m.Backend, m.Arch,
				m.Memory>>20, dash(strings.Join(addrs, ",")), dash(strings.Join(m.Forwards, ",")))
			if m.Error != "" {
				notes = append(notes, strings.ReplaceAll(m.Error, "\n", " ")+"; see: wolffia logs "+m.Name)
			}
		}
	}
	w.Flush()
	for _, n := range append(notes, namesakes(labs)...) {
		out.printf("%s\n", n)
	}
	return out.show(env)
}

// namesakes tells apart, by their files and in the order of the list, labs that
// have the same name.
func namesakes(labs []labStatus) (notes []string) {
	files := map[string][]string{}
	for _, l := range labs {
		files[l.Name] = append(files[l.Name], l.File)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if of := files[name]; len(of) > 1 {
			notes = append(notes, fmt.Sprintf("labs called %s, in this order: %s; name one with -f", name, strings.Join(of, ", ")))
		}
	}
	return notes
}

// age is how long ago something was, in one unit.
func age(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
