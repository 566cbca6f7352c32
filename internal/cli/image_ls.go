package cli

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"wolffia/internal/tree"
)

type imageList struct {
	imageOptions
	long      bool
	recursive bool
	itself    bool
}

func newImageList(env Env) *cobra.Command {
	o := &imageList{}
	cmd := &cobra.Command{
		Use:   "ls IMAGE[:PATH]...",
		Short: "List the files in an image",
		Long: `Lists a folder of an image, or a file. With -l each line has the type and mode,
the owner and group by number, the size in bytes (of devices: major and minor
number), the time in UTC, the name, and a symbolic link's target; extended
attributes follow on lines of their own. Names with characters that a terminal
would not show as they are stand in quotes, as Go and C write them.`,
		Example: `  wolffia image ls -l root.cpio
  wolffia image ls -R disk.img:/etc
  wolffia image ls --part 1 disk.img:/EFI
  wolffia image ls --json base:/bin | jq -r '.[].path'`,
		Args: wantImages,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), env, args) },
	}
	o.flags(env, cmd)
	o.partFlag(cmd)
	o.jsonFlag(cmd)
	f := cmd.Flags()
	f.BoolVarP(&o.long, "long", "l", false, "all that is known of each file")
	f.BoolVarP(&o.recursive, "recursive", "R", false, "everything below, too, each by its path")
	f.BoolVarP(&o.itself, "directory", "d", false, "a folder itself, not what is in it")
	return cmd
}

// wantImages is the Args of a verb that looks at one image or more.
func wantImages(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("%s wants an image: a file, or a name from wolffia.yaml", cmd.CommandPath())
	}
	return nil
}

// listed is a file's JSON form.
type listed struct {
	Path   string            `json:"path"`
	Type   string            `json:"type"`
	Mode   string            `json:"mode"` // permission bits, in octal
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Size   int64             `json:"size"` // in bytes
	Time   time.Time         `json:"time"`
	Target string            `json:"target,omitempty"` // of a symbolic link
	Major  *uint32           `json:"major,omitempty"`  // of a device
	Minor  *uint32           `json:"minor,omitempty"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"` // values in base64

	shown string // the name as it is listed
}

func (o *imageList) run(ctx context.Context, env Env, args []string) error {
	var all []listed
	var out page
	for i, arg := range args {
		s, err := o.subjectOf(env, arg)
		if err != nil {
			return err
		}
		files, err := o.list(ctx, env, s)
		if err != nil {
			return err
		}
		if all = append(all, files...); o.json {
			continue
		}
		if len(args) > 1 {
			out.printf("%s%s:\n", strings.Repeat("\n", min(i, 1)), quoted(arg))
		}
		o.print(&out, files)
	}
	if o.json {
		return writeJSON(env.Stdout, append([]listed{}, all...))
	}
	return out.show(env)
}

// list gives what is to be listed of one image.
func (o *imageList) list(ctx context.Context, env Env, s *subject) ([]listed, error) {
	t, close, err := o.openTree(ctx, env, s)
	if err != nil {
		return nil, err
	}
	defer close()
	// As ls does: a link that is named is shown with -l, and else followed.
	name, n, err := s.lookup(t, !o.long && !o.itself)
	if err != nil {
		return nil, err
	}
	if !n.IsDir() || o.itself {
		return []listed{listing(name, s.inner, n)}, nil
	}
	var out []listed
	if !o.recursive {
		for _, child := range n.Names() {
			out = append(out, listing(path.Join(name, child), child, n.Child(child)))
		}
		return out, nil
	}
	below(n, "", func(p string, n *tree.Node) { out = append(out, listing(path.Join(name, p), p, n)) })
	return out, nil
}

// below calls fn for all that is below n, each with its path from there. How deep
// a tree can be is bounded by the length of paths.
func below(n *tree.Node, prefix string, fn func(p string, n *tree.Node)) {
	for _, name := range n.Names() {
		child := n.Child(name)
		fn(prefix+name, child)
		if child.IsDir() {
			below(child, prefix+name+"/", fn)
		}
	}
}

func listing(name, shown string, n *tree.Node) listed {
	l := listed{
		Path: name, shown: shown, Type: typeNames[n.Type()], Mode: fmt.Sprintf("%04o", n.Mode&0o7777),
		UID: n.UID, GID: n.GID, Size: n.Size(), Time: n.ModTime.UTC(), Target: n.Target, Xattrs: n.Xattrs,
	}
	if n.ModTime.IsZero() {
		l.Time = time.Unix(0, 0).UTC()
	}
	if n.Type() == tree.TypeBlock || n.Type() == tree.TypeChar {
		l.Major, l.Minor = &n.Major, &n.Minor
	}
	return l
}

var typeNames = map[uint32]string{
	tree.TypeRegular: "file", tree.TypeDir: "directory", tree.TypeSymlink: "symlink", tree.TypeChar: "char",
	tree.TypeBlock: "block", tree.TypeFIFO: "fifo", tree.TypeSocket: "socket",
}

func (o *imageList) print(out *page, files []listed) {
	if !o.long {
		for _, l := range files {
			out.printf("%s\n", quoted(l.shown))
		}
		return
	}
	var owner, size int
	for i := range files {
		owner = max(owner, len(files[i].owner()))
		size = max(size, len(files[i].extent()))
	}
	for i := range files {
		l := &files[i]
		out.printf("%s  %-*s  %*s  %s  %s", l.modeText(), owner, l.owner(), size, l.extent(), l.Time.Format("2006-01-02 15:04"), quoted(l.shown))
		if l.Type == "symlink" {
			out.printf(" -> %s", quoted(l.Target))
		}
		out.printf("\n")
		for _, name := range slices.Sorted(maps.Keys(l.Xattrs)) {
			out.printf("            %s (%d bytes)\n", quoted(name), len(l.Xattrs[name]))
		}
	}
}

func (l *listed) owner() string { return fmt.Sprintf("%d:%d", l.UID, l.GID) }

// extent is the size, or a device's numbers.
func (l *listed) extent() string {
	if l.Major != nil {
		return fmt.Sprintf("%d, %d", *l.Major, *l.Minor)
	}
	return fmt.Sprint(l.Size)
}

// modeText is the mode as ls -l has it.
func (l *listed) modeText() string {
	var mode uint32
	fmt.Sscanf(l.Mode, "%o", &mode)
	b := []byte(map[string]string{"directory": "d", "symlink": "l", "char": "c", "block": "b", "fifo": "p", "socket": "s"}[l.Type] + "rwxrwxrwx")
	if len(b) == 9 {
		b = append([]byte("-"), b...)
	}
	for i := range 9 {
		if mode>>(8-i)&1 == 0 {
			b[1+i] = '-'
		}
	}
	for i, special := range []struct {
		bit    uint32
		letter byte
	}{{0o4000, 's'}, {0o2000, 's'}, {0o1000, 't'}} {
		if at := 3 * (i + 1); mode&special.bit != 0 {
			if b[at] == '-' {
				special.letter -= 'a' - 'A'
			}
			b[at] = special.letter
		}
	}
	return string(b)
}
