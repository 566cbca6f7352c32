package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Manual describes every verb in Markdown, for docs/commands.md.
func Manual() []byte {
	var b strings.Builder
	b.WriteString("# The commands\n\n<!-- Made from the code by: go test ./internal/cli -run TestDocs -update -->\n\n")
	b.WriteString(`Exit status: the command's own for ` + "`run -- CMD`" + `; otherwise 0, 1 for a failure,
2 for bad usage or a bad file, 125 for a machine that never came up or died under
a command, 130 when interrupted. Progress and errors go to standard error, results
to standard output.

With ` + "`--json`" + ` progress is one JSON object a line, and so is an error, the last line:
` + "`{\"kind\":\"error\",\"status\":2,\"message\":\"...\"}`" + `.
`)
	for _, c := range newRoot(Env{}, nil).Commands() {
		manual(&b, c)
	}
	return []byte(b.String())
}

func manual(b *strings.Builder, c *cobra.Command) {
	if c.Runnable() || c.HasSubCommands() {
		fmt.Fprintf(b, "\n## %s\n\n%s.\n", c.CommandPath(), strings.TrimSuffix(c.Short, "."))
		if c.Long != "" {
			fmt.Fprintf(b, "\n%s\n", c.Long)
		}
		fmt.Fprintf(b, "\n```sh\n%s\n```\n", unindent(c.Example))
		flags(b, c.LocalFlags())
	}
	for _, sub := range c.Commands() {
		manual(b, sub)
	}
}

func flags(b *strings.Builder, set *pflag.FlagSet) {
	if !set.HasAvailableFlags() {
		return
	}
	b.WriteString("\n| flag | is |\n| --- | --- |\n")
	set.VisitAll(func(f *pflag.Flag) {
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		fmt.Fprintf(b, "| %s | %s |\n", name, strings.ReplaceAll(f.Usage, "|", "\\|"))
	})
}

// unindent takes the blanks off that an example has in --help.
func unindent(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}
