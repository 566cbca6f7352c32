package cli

import (
	"cmp"
	"slices"

	"github.com/spf13/cobra"

	"wolffia/internal/build"
	"wolffia/internal/event"
)

// completePackage completes names of packages of the release and architecture that
// the flags or the lab's images have, from the indexes that are in the cache: who
// asks for a name does not wait for a mirror. A version and an architecture behind
// a name are the person's.
func (o *buildOptions) completePackage(env Env) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		const nothing = cobra.ShellCompDirectiveNoFileComp
		p, err := o.open(env, event.Discard)
		if err != nil {
			return nil, nothing
		}
		asked := map[[2]string]bool{}
		var out []string
		for name, img := range p.Images {
			at := [2]string{img.Release, cmp.Or(img.Arch, build.HostArch())}
			if len(args) > 0 && p.Images[args[0]] != nil && name != args[0] || asked[at] {
				continue
			}
			asked[at] = true
			out = append(out, p.builder.Client.CachedNames(cmd.Context(), at[0], at[1], start, maxCompletions)...)
		}
		slices.Sort(out)
		return slices.Compact(out), nothing
	}
}
