package cli

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"wolffia/internal/lab"
	"wolffia/internal/store"
	"wolffia/internal/term"
)

func newCache(env Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "List or remove what wolffia keeps",
		Long: `Wolffia keeps package indexes, packages, unpacked packages, kernels and built
images in one folder: $WOLFFIA_CACHE, else $XDG_CACHE_HOME/wolffia, else
~/.cache/wolffia. All of it can be made again.`,
		Example: `  wolffia cache ls
  wolffia cache prune --keep 2G`,
		Args: wantVerb,
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.AddCommand(newCacheList(env), newCachePrune(env))
	return cmd
}

// openStore opens the person's cache.
func openStore(env Env) (*store.Store, error) {
	folders, err := store.FoldersOf(env.Getenv)
	if err != nil {
		return nil, err
	}
	return store.Open(store.Options{Dir: folders.Cache})
}

func newCacheList(env Env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List what is kept, with sizes and last uses",
		Example: "  wolffia cache ls --json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			st, err := openStore(env)
			if err != nil {
				return err
			}
			entries, err := st.List()
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(env.Stdout, entries)
			}
			var total int64
			var out page
			w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "KIND\tKEY\tSIZE\tLAST USE")
			for _, e := range entries {
				key := e.Key
				if e.Partial {
					key += " (unfinished)"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", e.Kind, key, term.Bytes(e.Size), e.Used.Format(time.DateTime))
				total += e.Size
			}
			fmt.Fprintf(w, "\t%d objects in %s\t%s\t\n", len(entries), st.Dir(), term.Bytes(total))
			w.Flush()
			return out.show(env)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newCachePrune(env Env) *cobra.Command {
	var (
		keep   string
		age    time.Duration
		all    bool
		dryRun bool
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove what was not used for longest",
		Long: `Removes objects, the least recently used first, until at most --keep is left.
What a running machine uses stays.`,
		Example: `  wolffia cache prune                 keep 1G
  wolffia cache prune --keep 200M
  wolffia cache prune --older 720h --keep 0
  wolffia cache prune --all`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			limit, err := lab.ParseSize(keep)
			if err != nil && keep != "0" {
				return usagef("--keep: %w", err)
			}
			if age < 0 {
				return usagef("--older %v lies in the future; write a duration such as 720h", age)
			}
			st, err := openStore(env)
			if err != nil {
				return err
			}
			p, err := st.Prune(cmd.Context(), store.PruneOptions{
				MaxBytes: int64(limit), MaxAge: age, All: all, DryRun: dryRun,
			})
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(env.Stdout, p)
			}
			verb := "removed"
			if dryRun {
				verb = "would remove"
			}
			var out page
			out.printf("%s %d objects, %s; %s left\n", verb, len(p.Removed), term.Bytes(p.Freed), term.Bytes(p.Left))
			if len(p.InUse) > 0 {
				out.printf("%d objects are in use and stay\n", len(p.InUse))
			}
			return out.show(env)
		},
	}
	f := cmd.Flags()
	f.StringVar(&keep, "keep", "1G", "how much may stay, such as 500M or 2G; 0 is no limit")
	f.DurationVar(&age, "older", 0, "also remove what was not used for this long, such as 720h")
	f.BoolVar(&all, "all", false, "remove everything")
	f.BoolVar(&dryRun, "dry-run", false, "only say what would be removed")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	complete(cmd, "keep", words("200M", "500M", "1G", "2G", "5G", "0"))
	complete(cmd, "older", words("24h", "168h", "720h"))
	return cmd
}
