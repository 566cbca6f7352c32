package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"wolffia/internal/access"
	"wolffia/internal/debug"
)

func newStrace(env Env, sig *signals) *cobra.Command {
	o := &runOptions{}
	output := ""
	cmd := &cobra.Command{
		Use:   "strace [IMAGE] -- [STRACE-OPTION]... CMD [ARG]...",
		Short: "Run a command in a throwaway machine and trace its system calls",
		Long: `Boots a machine as run does and runs CMD in it under strace. What stands after
-- is strace's own: its options, and the command. The trace goes to standard error,
as strace's does, or with -o into a file of the host, as it comes; the command's
input, output, exit status and signals are as with run.

strace is added to the image's packages where it is missing. It traces programs
of the machine's architecture, emulated or not.`,
		Example: `  wolffia strace -- ls /
  wolffia strace -o trace -- -f -e trace=%file sh -c 'cat /etc/passwd | wc -l'
  wolffia strace --arch riscv64 -- -c ls -R /usr`,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, argv, err := splitArgs(cmd, args)
			switch {
			case err != nil:
				return err
			case len(argv) == 0:
				return usagef("wolffia strace wants a command to trace, as in: wolffia strace -- ls")
			}
			o.needs = "strace"
			if output != "" {
				o.around = traceInto(inDir(env.Dir, output))
			}
			return o.run(cmd.Context(), env, sig, name, append([]string{"strace"}, argv...))
		},
	}
	o.flags(env, cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "", "a file of the host that the trace is written to (default standard error)")
	return cmd
}

// traceInto has strace write into a file of the host.
func traceInto(path string) around {
	return func(ctx context.Context, c *access.Client, cmd *access.Command) (func() error, error) {
		f, err := os.Create(path)
		if err != nil {
			return nil, &usageError{err}
		}
		back, err := debug.OpenChannel(ctx, c, f)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		cmd.Argv = append([]string{cmd.Argv[0], "-o", back.Path}, cmd.Argv[1:]...)
		return func() error {
			if err := errors.Join(back.Close(), f.Close()); err != nil {
				return fmt.Errorf("write the trace: %w", err)
			}
			return nil
		}, nil
	}
}
