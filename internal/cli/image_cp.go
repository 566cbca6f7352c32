package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	xterm "golang.org/x/term"

	"wolffia/internal/image/tarball"
	"wolffia/internal/term"
	"wolffia/internal/tree"
	"wolffia/internal/tree/hostdir"
)

type imageCopy struct {
	imageOptions
	force  bool
	follow bool
}

func newImageCopy(env Env) *cobra.Command {
	o := &imageCopy{}
	cmd := &cobra.Command{
		Use:   "cp IMAGE:PATH... DEST",
		Short: "Copy files and folders out of an image",
		Long: `Copies files, and folders with all that is in them, out of an image. DEST is an
existing folder to put them into, or for a single one its new name, or - for a
tar archive on standard output. Of the image's root itself, IMAGE:/, what is in
it is put into an existing folder.

Modes, times, hard links and the holes of sparse files stay. Symbolic links are
copied as they are; -L follows those that are named themselves, within the image.
Root gets the owners, device nodes and pipes, too; for anybody else they are left
out, as are set-user-ID bits, and one line says so.

What is there already is an error, except that folders are joined; --force
replaces files. Nothing is ever written outside of DEST, whatever the image holds
and whatever links there are in DEST.`,
		Example: `  wolffia image cp disk.img:/boot/vmlinuz disk.img:/boot/initrd .
  wolffia image cp base:/ rootfs
  wolffia image cp disk.qcow2:/etc - | tar tv`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("%s wants what to copy, IMAGE:PATH, and where to", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), env, args) },
	}
	o.flags(env, cmd)
	o.partFlag(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.force, "force", false, "replace files that exist")
	f.BoolVarP(&o.follow, "dereference", "L", false, "of a symbolic link that is named, copy what it leads to")
	return cmd
}

func (o *imageCopy) run(ctx context.Context, env Env, args []string) error {
	var subjects []*subject
	dest := args[len(args)-1]
	for _, arg := range args[:len(args)-1] {
		s, err := o.subjectOf(env, arg)
		if err != nil {
			return err
		}
		if s.whole {
			return usagef("%s names no file in the image; write %[1]s:/PATH, or %[1]s:/ for all", quoted(arg))
		}
		subjects = append(subjects, s)
	}
	if dest == "-" {
		return o.archive(ctx, env, subjects)
	}
	into := inDir(env.Dir, dest)
	folder := isFolder(into)
	if len(subjects) > 1 && !folder {
		return usagef("several files need a folder to go to, and %s is none", quoted(dest))
	}
	rename := ""
	if !folder {
		into, rename = filepath.Dir(into), filepath.Base(into)
		if !isFolder(into) {
			return usagef("there is no folder %s to put %s into", quoted(filepath.Dir(dest)), quoted(filepath.Base(dest)))
		}
	}
	w, err := hostdir.Open(into, hostdir.Options{Owners: os.Geteuid() == 0, Force: o.force})
	if err != nil {
		return err
	}
	defer w.Close()
	for _, s := range subjects {
		if err := o.copy(ctx, env, w, s, rename); err != nil {
			return err
		}
	}
	if note := leftOut(w.Left()); note != "" && !o.quiet {
		fmt.Fprintf(env.Stderr, "wolffia: left out: %s\n", term.Clean(note))
	}
	return nil
}

// copy copies what one argument names.
func (o *imageCopy) copy(ctx context.Context, env Env, w *hostdir.Writer, s *subject, rename string) error {
	t, close, err := o.openTree(ctx, env, s)
	if err != nil {
		return err
	}
	defer close()
	_, n, err := s.lookup(t, o.follow)
	if err != nil {
		return err
	}
	name := rename
	if name == "" {
		name = s.base()
	}
	err = w.Put(ctx, name, n)
	var there *hostdir.ExistsError
	if errors.As(err, &there) && !there.Folder {
		return fmt.Errorf("%s exists already; replace it with --force", quoted(there.Path))
	}
	return err
}

// base is the last name of the path inside; empty for the root.
func (s *subject) base() string { return strings.TrimPrefix(path.Base(s.inner), "/") }

// leftOut says what did not come along.
func leftOut(l hostdir.Left) string {
	var parts []string
	add := func(n int, one, many string) {
		switch {
		case n == 1:
			parts = append(parts, "1 "+one)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %s", n, many))
		}
	}
	add(l.Devices, "device node or pipe", "device nodes and pipes")
	add(l.Sockets, "socket", "sockets")
	add(l.SetID, "file's set-user-ID bit", "files' set-user-ID bits")
	add(l.Xattrs, "extended attribute", "extended attributes")
	add(l.Owners, "file's owner", "files' owners")
	if len(parts) > 0 && (l.Devices > 0 || l.Owners > 0 || l.SetID > 0) && os.Geteuid() != 0 {
		return strings.Join(parts, ", ") + "; they are for root"
	}
	return strings.Join(parts, ", ")
}

// archive writes what is named as a tar archive to standard output.
func (o *imageCopy) archive(ctx context.Context, env Env, subjects []*subject) error {
	if xterm.IsTerminal(int(env.Stdout.Fd())) {
		return usagef("a tar archive is nothing to show on a terminal; send the output on")
	}
	out := tree.New()
	for _, s := range subjects {
		t, close, err := o.openTree(ctx, env, s)
		if err != nil {
			return err
		}
		defer close() // the contents are read at the end
		_, n, err := s.lookup(t, o.follow)
		if err == nil {
			err = gather(out, s.base(), n)
		}
		if err != nil {
			return err
		}
	}
	if err := tarball.Write(contextWriter{ctx, env.Stdout}, out, tarball.WriteOptions{}); err != nil {
		return fmt.Errorf("write to standard output: %w", err)
	}
	return nil
}

// gather puts n, with all that is below it, into out as name; an empty one is
// the root.
func gather(out *tree.Tree, name string, n *tree.Node) error {
	if name != "" && out.Root().Child(name) != nil {
		return usagef("%s would be twice in the archive", quoted(name))
	}
	var err error
	put := func(name string, n *tree.Node) {
		if err != nil || n.Type() == tree.TypeSocket {
			return
		}
		if n.IsDir() {
			d := tree.Dir(0)
			d.Mode, d.UID, d.GID, d.ModTime, d.Xattrs = n.Mode, n.UID, n.GID, n.ModTime, n.Xattrs
			n = d
		}
		err = out.Put(name, n)
	}
	put("/"+name, n)
	prefix := "/"
	if name != "" {
		prefix += name + "/"
	}
	below(n, prefix, put)
	return err
}

// contextWriter ends a long copy when the person wants it to.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}
