package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"wolffia/internal/build"
	"wolffia/internal/image/imagefile"
	"wolffia/internal/lab"
	"wolffia/internal/spell"
	"wolffia/internal/store"
	"wolffia/internal/tree"
)

func newImage(env Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Look into images: archives, file systems, disks, containers",
		Long: `Looks into images without mounting them, as an ordinary user. What an image is
is told by its content, not by its name: cpio and tar archives, ext2, ext3, ext4
and FAT file systems, disks with GPT or MBR partitions, qcow2 images with their
backing files, OCI layouts and archives, UEFI programs; all of them also
compressed with gzip, zstd or xz.

IMAGE is a file, or an OCI layout's folder, or else the name of an image of
wolffia.yaml, which is built. A file of that name comes first, and what contains
a slash is always a file. A path inside stands behind a colon: disk.img:/etc/passwd.
Of several colons the last counts that has an existing file before it, and where
there is none the first; paths begin at the image's root, with a slash or without.

Of a disk the root partition is meant, unless --part gives another by its number.`,
		Example: `  wolffia image info disk.qcow2
  wolffia image ls -l root.cpio.zst:/etc
  wolffia image cp disk.img:/var/log logs`,
		Args: wantVerb,
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.AddCommand(newImageList(env), newImageCat(env), newImageCopy(env), newImageInfo(env), newImageCheck(env))
	return cmd
}

// imageOptions are the flags of the verbs that look into images.
type imageOptions struct {
	buildOptions
	part int
}

func (o *imageOptions) flags(env Env, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "", "the lab's file, for images by their names (default wolffia.yaml where there is one)")
	f.StringVar(&o.arch, "arch", "", "the architecture, by Debian's name, of a container image that has several, or of what is built")
	f.BoolVar(&o.offline, "offline", false, "never use the network")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "say nothing but warnings and errors")
	complete(cmd, "file", files("yaml", "yml"))
	complete(cmd, "arch", words(lab.Arches()...))
	cmd.ValidArgsFunction = o.complete(env)
}

// partFlag is for the verbs that look at files.
func (o *imageOptions) partFlag(cmd *cobra.Command) {
	cmd.Flags().IntVar(&o.part, "part", 0, "the number of a disk's partition (default the root's)")
	complete(cmd, "part", words("1", "2", "3"))
}

func (o *imageOptions) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
}

// subject is what an argument means.
type subject struct {
	arg   string // as it was given
	file  string // the path on the host; empty for an image of the lab
	image string
	inner string // the path inside, from the root; "/" where there is none
	whole bool   // nothing was said about a path inside
	named int    // how long the image's name is in arg
}

// subjectOf finds out what an argument means.
func (o *imageOptions) subjectOf(env Env, arg string) (*subject, error) {
	s := &subject{arg: arg, inner: "/", whole: true}
	for head, rest := arg, ""; head != ""; {
		if _, err := os.Stat(inDir(env.Dir, head)); err == nil {
			s.file, s.named = inDir(env.Dir, head), len(head)
			if len(head) < len(arg) {
				s.setInner(rest)
			}
			return s, nil
		}
		i := strings.LastIndexByte(head, ':')
		if i < 0 {
			break
		}
		head, rest = head[:i], arg[i+1:]
	}
	head, rest, split := strings.Cut(arg, ":")
	if split {
		s.setInner(rest)
	}
	if strings.Contains(head, "/") || head == "" {
		return nil, usagef("there is no file %q", head)
	}
	l, err := readLab(env, o.file)
	if err != nil {
		return nil, err
	}
	if l.Images[head] == nil {
		return nil, usagef("%q is neither a file nor an image of %s%s", head, l.name(),
			didYouMean(spell.Nearest(head, append(siblings(env.Dir, head), l.ImageNames()...)), "see wolffia image --help"))
	}
	s.image, s.named = head, len(head)
	return s, nil
}

func (s *subject) setInner(p string) { s.inner, s.whole = path.Clean("/"+p), false }

// name is what the lab's file is called.
func (l *labFile) name() string {
	if l.path == "" {
		return "the built-in lab"
	}
	return filepath.Base(l.path)
}

// siblings are the files that a name may have been meant to be.
func siblings(dir, name string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, err := f.Readdirnames(1000)
	if err != nil {
		return nil
	}
	return names
}

// openImage opens what an argument names. close ends it.
func (o *imageOptions) openImage(ctx context.Context, env Env, s *subject) (f *imagefile.File, close func(), err error) {
	if o.part < 0 {
		return nil, nil, usagef("--part %d: partitions are counted from 1", o.part)
	}
	folders, err := store.FoldersOf(env.Getenv)
	if err != nil {
		return nil, nil, err
	}
	file, release := s.file, func() {}
	if s.image != "" {
		if file, release, err = o.built(ctx, env, s.image); err != nil {
			return nil, nil, err
		}
	}
	f, err = imagefile.Open(ctx, file, imagefile.Options{Scratch: filepath.Join(folders.Cache, ".scratch"), Arch: o.arch})
	if err != nil {
		release()
		return nil, nil, err
	}
	return f, func() { f.Close(); release() }, nil
}

// built makes an image of the lab.
func (o *imageOptions) built(ctx context.Context, env Env, name string) (file string, release func(), err error) {
	screen := o.renderer(env)
	defer screen.Close()
	p, err := o.open(env, screen)
	if err != nil {
		return "", nil, err
	}
	art, err := p.builder.Image(ctx, p.Images[name], build.Format{Name: "cpio"})
	if err != nil {
		return "", nil, asUsage(err)
	}
	return art.Path, art.Release, nil
}

// openTree opens the files in what an argument names.
func (o *imageOptions) openTree(ctx context.Context, env Env, s *subject) (*tree.Tree, func(), error) {
	f, close, err := o.openImage(ctx, env, s)
	if err != nil {
		return nil, nil, err
	}
	t, err := f.Tree(o.part)
	if err != nil {
		close()
		return nil, nil, fmt.Errorf("%s: %w", s.label(), err)
	}
	return t, close, nil
}

// label names the image as the person did, without the path inside.
func (s *subject) label() string { return quoted(s.arg[:s.named]) }

// lookup finds the file inside that s names. Links on the way to it are
// followed within the image, and the last one if last says so. It gives the
// path without links, too.
func (s *subject) lookup(t *tree.Tree, last bool) (string, *tree.Node, error) {
	name, n, err := s.inner, (*tree.Node)(nil), error(nil)
	if last || name == "/" {
		name, n, err = t.Resolve(name)
	} else {
		var dir string
		if dir, n, err = t.Resolve(path.Dir(name)); err == nil {
			base := path.Base(name)
			name = path.Join(dir, base)
			switch child := n.Child(base); {
			case !n.IsDir():
				err = &fs.PathError{Op: "open", Path: dir, Err: errors.New("not a directory")}
			case child == nil:
				err = &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
			default:
				n = child
			}
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		if n := t.Get(s.inner); n != nil {
			return "", nil, fmt.Errorf("%s: %s is a link to %s, which is not in the image", s.label(), quoted(s.inner), quoted(n.Target))
		}
		return "", nil, fmt.Errorf("%s has no file %s%s", s.label(), quoted(s.inner), s.nearest(t))
	}
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", s.label(), err)
	}
	return name, n, nil
}

// nearest is a name that may have been meant.
func (s *subject) nearest(t *tree.Tree) string {
	_, dir, err := t.Resolve(path.Dir(s.inner))
	if err != nil || !dir.IsDir() {
		return ""
	}
	names := dir.Names()
	near := spell.Nearest(path.Base(s.inner), names[:min(len(names), 10_000)])
	if near == "" {
		return ""
	}
	return "; did you mean " + quoted(path.Join(path.Dir(s.inner), near)) + "?"
}

// quoted is a name of foreign origin as it is shown: as it is, or where it has
// characters that could deceive or drive a terminal, in quotes.
func quoted(name string) string {
	harmless := name != "" && utf8.ValidString(name) && strings.IndexFunc(name, func(r rune) bool {
		return !strconv.IsPrint(r) || unicode.Is(unicode.Bidi_Control, r) || r == utf8.RuneError || r == '"'
	}) < 0
	if harmless {
		return name
	}
	return strconv.Quote(name)
}
