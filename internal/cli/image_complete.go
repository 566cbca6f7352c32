package cli

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// completionPatience is how long an image may take to be looked into while
// somebody waits for a word to be completed: one that is compressed takes longer.
const completionPatience = 2 * time.Second

// maxCompletions is how many names of a folder are offered.
const maxCompletions = 1000

// complete completes IMAGE[:PATH]: names of the lab's images, files of the host,
// and behind a file's colon what is in it. An image of the lab's might have to be
// built, which is not what somebody expects who asks for a name.
func (o *imageOptions) complete(env Env) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, start string) ([]string, cobra.ShellCompDirective) {
		if s, err := o.subjectOf(env, start); err == nil && !s.whole && s.file != "" {
			ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
			defer cancel()
			return o.within(ctx, env, s, start), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		l, err := readLab(env, o.file)
		if err != nil || l.path == "" {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return l.ImageNames(), cobra.ShellCompDirectiveDefault // and files
	}
}

// within lists what start may become, in the folder of the image that it names.
func (o *imageOptions) within(ctx context.Context, env Env, s *subject, start string) []string {
	t, close, err := o.openTree(ctx, env, s)
	if err != nil {
		return nil
	}
	defer close()
	head, begin := start[:s.named+1], start[s.named+1:]
	if i := strings.LastIndexByte(begin, '/') + 1; i > 0 {
		head, begin = head+begin[:i], begin[i:]
	}
	dir, n, err := t.Resolve(path.Clean("/" + head[s.named+1:]))
	if err != nil || !n.IsDir() {
		return nil
	}
	var out []string
	for _, name := range n.Names() {
		if !strings.HasPrefix(name, begin) || quoted(name) != name || len(out) == maxCompletions {
			continue
		}
		if _, child, err := t.Resolve(path.Join(dir, name)); err == nil && child.IsDir() {
			name += "/"
		}
		out = append(out, head+name)
	}
	return out
}
