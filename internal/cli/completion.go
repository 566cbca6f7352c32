package cli

import (
	"io"
	"slices"

	"github.com/spf13/cobra"

	"wolffia/internal/lab"
)

// shells are those that completions can be made for.
var shells = map[string]func(root *cobra.Command, w io.Writer) error{
	"bash":       func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
	"zsh":        func(root *cobra.Command, w io.Writer) error { return root.GenZshCompletion(w) },
	"fish":       func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
	"powershell": func(root *cobra.Command, w io.Writer) error { return root.GenPowerShellCompletionWithDesc(w) },
}

func newCompletion(env Env) *cobra.Command {
	names := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print what makes a shell complete verbs, flags and their values",
		Long: `Prints a script for bash (which needs the package bash-completion), zsh, fish or
powershell. Verbs, flags, their values, and the names in wolffia.yaml are completed.`,
		Example: `  source <(wolffia completion bash)      # this shell; in ~/.bashrc, each
  wolffia completion zsh > "${fpath[1]}/_wolffia"
  wolffia completion fish > ~/.config/fish/completions/wolffia.fish`,
		ValidArgs: names,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("wolffia completion wants one shell: bash, zsh, fish or powershell")
			}
			if err := lab.OneOf("shell", args[0], names); err != nil {
				return &usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var out page
			if err := shells[args[0]](cmd.Root(), &out); err != nil {
				return err
			}
			return out.show(env)
		},
	}
}

// complete says what a flag's values may be. A flag that the command lacks is
// a mistake in this package.
func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}

// words completes one of a few words; none of them means that there is nothing
// to say, not even names of files.
func words(list ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder)
}

// files completes names of files that end so.
func files(ends ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(ends, cobra.ShellCompDirectiveFilterFileExt)
}

// fromLab completes names in the lab's file, as given by -f.
func fromLab(env Env, file *string, names func(*lab.Spec) []string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		l, err := readLab(env, *file)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(l.Spec), cobra.ShellCompDirectiveNoFileComp
	}
}

// oneName completes the first argument by f, and leaves a command after "--"
// to the shell.
func oneName(env Env, f cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		switch {
		case slices.Contains(env.Args, "--"): // cobra adds one of its own: ArgsLenAtDash is of no use
			return nil, cobra.ShellCompDirectiveDefault
		case len(args) > 0:
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, start)
	}
}

// runnable are the names that wolffia run takes.
func runnable(s *lab.Spec) []string {
	names := append(s.ImageNames(), s.MachineNames()...)
	slices.Sort(names)
	return slices.Compact(names)
}
