package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"wolffia/internal/access"
	"wolffia/internal/image/tarball"
	"wolffia/internal/term"
	"wolffia/internal/tree"
	"wolffia/internal/tree/hostdir"
)

// copy copies one source; into says that the target is a folder to put it in.
func (c *copier) copy(ctx context.Context, from, to place, into bool) error {
	dir, name := path.Split(strings.TrimRight(to.path, "/"))
	if into {
		dir, name = to.path, path.Base(strings.TrimRight(from.path, "/"))
		if name == "." || name == ".." || name == "" || name == "/" {
			name = "" // what is in it, not itself
		}
	}
	if dir == "" {
		dir = "."
	}
	switch {
	case from.path == "-" && from.machine == "" || to.path == "-" && to.machine == "":
		return c.pipe(ctx, from, to)
	case from.machine == "" && to.machine == "":
		return usagef("neither %s nor %s is in a machine; write one as MACHINE:PATH", from.path, to.path)
	case to.machine == "":
		return c.fetch(ctx, from, inDir(c.env.Dir, dir), name)
	}
	r, w := io.Pipe()
	var sending sync.WaitGroup
	var sent error
	sending.Go(func() {
		if from.machine == "" {
			sent = c.send(ctx, w, inDir(c.env.Dir, from.path), name)
		} else {
			sent = c.relay(ctx, w, from, name)
		}
		w.CloseWithError(sent)
	})
	err := c.receive(ctx, r, to.machine, dir)
	r.CloseWithError(errFull)
	sending.Wait()
	if sent != nil && !errors.Is(sent, errFull) {
		return sent // which is why the machine complains
	}
	return err
}

// errFull is a machine that takes no more of what is sent to it, and has said why.
var errFull = errors.New("the machine takes no more")

// tar runs tar in a machine. What it has to complain about is the error.
func (c *copier) tar(ctx context.Context, machine string, in io.Reader, out io.Writer, argv ...string) error {
	client, err := c.enter(ctx, machine)
	if err != nil {
		return err
	}
	complaints := &tail{}
	st, err := client.Run(ctx, access.Command{Argv: argv, Stdin: in, Stdout: out, Stderr: complaints})
	switch {
	case err != nil:
		return err
	case st.Code != 0 && complaints.Len() > 0:
		return fmt.Errorf("machine %s: %s", machine, term.Clean(complaints.String()))
	case st.Code != 0:
		return fmt.Errorf("machine %s: %s ended with status %d", machine, argv[0], st.Code)
	}
	return nil
}

// tail keeps the first kilobyte of what is written.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	t.Buffer.Write(p[:min(len(p), max(0, 1024-t.Len()))])
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(t.Buffer.String()) }

// receive unpacks an archive into a folder of a machine.
func (c *copier) receive(ctx context.Context, r io.Reader, machine, dir string) error {
	return c.tar(ctx, machine, r, nil, "tar", "x", "-C", dir, "-f", "-")
}

// send writes what is here at a path as an archive, in which it is called name;
// with no name what is in it is.
func (c *copier) send(ctx context.Context, w io.Writer, from, name string) error {
	info, err := os.Lstat(from)
	if err == nil && info.Mode()&os.ModeSymlink != 0 {
		info, err = os.Stat(from) // the person named it, and means what it leads to
	}
	if err != nil {
		return &usageError{err}
	}
	if !info.IsDir() {
		return sendFile(contextWriter{ctx, w}, from, info, name)
	}
	t, err := tree.FromDir(from, tree.DirOptions{})
	if err != nil {
		return err
	}
	out := tree.New()
	if err := gather(out, name, t.Root()); err != nil {
		return err
	}
	return tarball.Write(contextWriter{ctx, w}, out, tarball.WriteOptions{})
}

// sendFile writes an archive with one file, whose owner is root in the machine.
func sendFile(w io.Writer, from string, info os.FileInfo, name string) error {
	if !info.Mode().IsRegular() {
		return usagef("%s is neither a file nor a folder", from)
	}
	f, err := os.Open(from)
	if err != nil {
		return &usageError{err}
	}
	defer f.Close()
	a := tar.NewWriter(w)
	h := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime(), Typeflag: tar.TypeReg}
	if err := a.WriteHeader(h); err != nil {
		return fmt.Errorf("send %s: %w", from, err)
	}
	if _, err := io.CopyN(a, f, info.Size()); err != nil {
		return fmt.Errorf("send %s, which may have changed meanwhile: %w", from, err)
	}
	if err := a.Close(); err != nil {
		return fmt.Errorf("send %s: %w", from, err)
	}
	return nil
}

// pack has a machine write an archive of what is at a path, by its last name.
func (c *copier) pack(ctx context.Context, w io.Writer, from place) (name string, err error) {
	clean := path.Clean(from.path)
	dir, name := path.Split(clean)
	if name == "." || name == ".." || name == "" {
		dir, name = clean, "."
	}
	if dir == "" {
		dir = "."
	}
	return name, c.tar(ctx, from.machine, nil, w, "tar", "c", "-C", dir, "-f", "-", "--", name)
}

// unpacked reads what a machine packs, by way of a file that free removes.
func (c *copier) unpacked(ctx context.Context, from place) (n *tree.Node, free func(), err error) {
	dir, err := os.MkdirTemp("", "wolffia-cp-")
	if err != nil {
		return nil, nil, fmt.Errorf("make room for what is copied: %w", err)
	}
	free = func() { os.RemoveAll(dir) }
	r, w := io.Pipe()
	var packing sync.WaitGroup
	var name string
	var packed error
	packing.Go(func() {
		name, packed = c.pack(ctx, w, from)
		w.CloseWithError(packed)
	})
	t, err := tarball.Read(r, tarball.ReadOptions{SpoolFile: filepath.Join(dir, "archive.tar")})
	r.CloseWithError(io.ErrClosedPipe)
	packing.Wait()
	if packed != nil && !errors.Is(packed, io.ErrClosedPipe) {
		err = packed
	}
	if err == nil {
		if n = t.Get("/" + name); n == nil {
			err = fmt.Errorf("machine %s sent no %s", from.machine, name)
		}
	}
	if err != nil {
		free()
		return nil, nil, err
	}
	return n, free, nil
}

// fetch copies out of a machine into a folder here. The machine is not trusted:
// nothing is written outside of the folder.
func (c *copier) fetch(ctx context.Context, from place, dir, name string) error {
	if !isFolder(dir) {
		return usagef("there is no folder %s to put %s into", dir, from.path)
	}
	n, free, err := c.unpacked(ctx, from)
	if err != nil {
		return err
	}
	defer free()
	w, err := hostdir.Open(dir, hostdir.Options{Owners: os.Geteuid() == 0, Force: true})
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Put(ctx, name, n); err != nil {
		return err
	}
	if note := leftOut(w.Left()); note != "" {
		fmt.Fprintf(c.env.Stderr, "wolffia: left out: %s\n", term.Clean(note))
	}
	return nil
}

// relay copies from one machine to another.
func (c *copier) relay(ctx context.Context, w io.Writer, from place, name string) error {
	n, free, err := c.unpacked(ctx, from)
	if err != nil {
		return err
	}
	defer free()
	out := tree.New()
	if err := gather(out, name, n); err != nil {
		return err
	}
	return tarball.Write(contextWriter{ctx, w}, out, tarball.WriteOptions{})
}

// pipe copies one file from standard input, or to standard output.
func (c *copier) pipe(ctx context.Context, from, to place) error {
	switch {
	case from.machine != "":
		return c.tar(ctx, from.machine, nil, c.env.Stdout, "cat", "--", from.path)
	case to.machine != "":
		return c.tar(ctx, to.machine, c.env.Stdin, nil, "sh", "-c", `cat >"$1"`, "sh", to.path)
	}
	return usagef("neither end is in a machine; write one as MACHINE:PATH")
}
