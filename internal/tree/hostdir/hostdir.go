// Package hostdir writes files of a tree into a folder of the host: an image's
// files come out of it.
//
// The tree is taken for hostile, and so is whatever else may be going on in the
// folder. Nothing is ever written outside of it: every file is made by a single
// name in a folder that is held open, symbolic links are never followed, and
// nothing that is there already is opened for writing. What is there stays,
// unless it is to be replaced, which [Options.Force] says; folders are joined,
// and those that were there keep their attributes.
//
// Modes and times come along; hard links among what is written stay; the holes
// of sparse files stay holes. Owners, device nodes and pipes are for root
// ([Options.Owners]). Without them, programs lose their set-user-ID and
// set-group-ID bits: they would be the person's own. [Left] counts what could not
// come along.
//
// Deliberately absent: sockets, which mean nothing without the process behind
// them, extended attributes that the host refuses, and the reverse, which is
// [tree.FromDir].
//
//	w, err := hostdir.Open("out", hostdir.Options{})
//	...
//	defer w.Close()
//	err = w.Put(ctx, "etc", t.Get("/etc"))
package hostdir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"wolffia/internal/tree"
)

// Options says what comes along.
type Options struct {
	// Owners keeps owners, and makes device nodes and pipes. It takes root.
	Owners bool
	// Force replaces what is there already, but for folders.
	Force bool
}

// Left counts what was left out.
type Left struct {
	Owners  int // files whose owner is another than who writes them
	SetID   int // files that had a set-user-ID or set-group-ID bit
	Devices int // device nodes and pipes
	Sockets int
	Xattrs  int // extended attributes
}

// Writer writes into one folder of the host.
type Writer struct {
	o    Options
	dir  string
	root int // file descriptor of dir
	left Left
	made map[*tree.Node][]string // files that were written, by their names from dir on
}

// ExistsError says that something is in the way.
type ExistsError struct {
	Path   string // on the host
	Folder bool   // of the two that want one place, exactly one is a folder
}

func (e *ExistsError) Error() string {
	if e.Folder {
		return fmt.Sprintf("%q exists already, and of it and what is to be written one is a folder and the other is not", e.Path)
	}
	return fmt.Sprintf("%q exists already", e.Path)
}

// Open opens the folder dir, which must exist, to write into it.
func Open(dir string, o Options) (*Writer, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return &Writer{o: o, dir: dir, root: fd, made: map[*tree.Node][]string{}}, nil
}

// Close ends the writing.
func (w *Writer) Close() error { return unix.Close(w.root) }

// Left tells what was left out so far.
func (w *Writer) Left() Left { return w.left }

// Put writes n, with all that is below it, as name: a single one, without a
// slash. An empty name puts what is in the directory n into the folder itself.
// After an error, what was written before it stays, but for the file that it is
// about.
func (w *Writer) Put(ctx context.Context, name string, n *tree.Node) error {
	if name == "" {
		return w.children(ctx, w.root, nil, n)
	}
	return w.put(ctx, w.root, []string{name}, n)
}

// children writes what is in the directory n into the open folder dir.
func (w *Writer) children(ctx context.Context, dir int, at []string, n *tree.Node) error {
	for _, name := range n.Names() {
		if err := w.put(ctx, dir, append(at[:len(at):len(at)], name), n.Child(name)); err != nil {
			return err
		}
	}
	return nil
}

// put writes n as the last of the names at, into the open folder dir.
func (w *Writer) put(ctx context.Context, dir int, at []string, n *tree.Node) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name := at[len(at)-1]
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("write %q: the name is impossible", name)
	}
	var err error
	switch n.Type() {
	case tree.TypeDir:
		return w.folder(ctx, dir, at, n)
	case tree.TypeSocket:
		w.left.Sockets++
		return nil
	case tree.TypeBlock, tree.TypeChar, tree.TypeFIFO:
		if !w.o.Owners {
			w.left.Devices++
			return nil
		}
	}
	if first, ok := w.made[n]; ok {
		err = w.make(dir, name, func() error { return w.link(first, dir, name) })
	} else if err = w.file(ctx, dir, name, n); err == nil {
		w.made[n] = at
	}
	return w.wrap(err, at)
}

func (w *Writer) path(at []string) string { return filepath.Join(append([]string{w.dir}, at...)...) }

func (w *Writer) wrap(err error, at []string) error {
	if e := (*ExistsError)(nil); errors.As(err, &e) {
		e.Path = w.path(at)
		return e
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: w.path(at), Err: err}
	}
	return nil
}

// make calls fn, which makes something called name, and again once what was
// there is gone, if it is to be replaced.
func (w *Writer) make(dir int, name string, fn func() error) error {
	err := fn()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return &ExistsError{Folder: true}
	}
	if !w.o.Force {
		return &ExistsError{}
	}
	if err := unix.Unlinkat(dir, name, 0); err != nil {
		return err
	}
	if err = fn(); errors.Is(err, unix.EEXIST) {
		return &ExistsError{}
	}
	return err
}

// folder writes a directory and what is in it.
func (w *Writer) folder(ctx context.Context, dir int, at []string, n *tree.Node) error {
	name := at[len(at)-1]
	// Nobody else's until it is complete, and writable whatever its mode will be.
	err := unix.Mkdirat(dir, name, 0o700)
	there := errors.Is(err, unix.EEXIST)
	if err != nil && !there {
		return w.wrap(err, at)
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if there && (errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)) {
		err = &ExistsError{Folder: true}
	}
	if err != nil {
		return w.wrap(err, at)
	}
	defer unix.Close(fd)
	if err := w.children(ctx, fd, at, n); err != nil || there {
		return err
	}
	return w.wrap(w.attributes(fd, n), at)
}

// link gives a file that was written before the further name.
func (w *Writer) link(first []string, dir int, name string) error {
	from := w.root
	for _, part := range first[:len(first)-1] {
		fd, err := unix.Openat(from, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if from != w.root {
			unix.Close(from)
		}
		if err != nil {
			return err
		}
		from = fd
	}
	err := unix.Linkat(from, first[len(first)-1], dir, name, 0)
	if from != w.root {
		unix.Close(from)
	}
	return err
}

// file writes what is no directory.
func (w *Writer) file(ctx context.Context, dir int, name string, n *tree.Node) error {
	switch n.Type() {
	case tree.TypeRegular:
		return w.regular(ctx, dir, name, n)
	case tree.TypeSymlink:
		if err := w.make(dir, name, func() error { return unix.Symlinkat(n.Target, dir, name) }); err != nil {
			return err
		}
	default:
		node := func() error {
			return unix.Mknodat(dir, name, n.Type()|0o600, int(unix.Mkdev(n.Major, n.Minor)))
		}
		switch err := w.make(dir, name, node); {
		case errors.Is(err, unix.EPERM): // root of a namespace may not
			w.left.Devices++
			return nil
		case err != nil:
			return err
		}
	}
	return w.named(dir, name, n)
}

// named gives the attributes to what can't be opened: a link or a device.
func (w *Writer) named(dir int, name string, n *tree.Node) error {
	if w.o.Owners {
		if err := unix.Fchownat(dir, name, int(n.UID), int(n.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	} else {
		w.owner(n)
	}
	if n.Type() != tree.TypeSymlink {
		// The name may lead elsewhere by now; what it leads to is none of ours.
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), n.Mode&0o7777); err != nil {
			return err
		}
	}
	w.left.Xattrs += len(n.Xattrs)
	return unix.UtimesNanoAt(dir, name, times(n), unix.AT_SYMLINK_NOFOLLOW)
}

// regular writes a file, which is nobody else's until it is complete.
func (w *Writer) regular(ctx context.Context, dir int, name string, n *tree.Node) error {
	var fd int
	err := w.make(dir, name, func() (err error) {
		fd, err = unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	if err = fill(ctx, f, n); err == nil {
		err = w.attributes(fd, n)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, unix.Unlinkat(dir, name, 0))
	}
	return nil
}

// fill writes a file's content, but for its holes.
func fill(ctx context.Context, f *os.File, n *tree.Node) error {
	sparse, ok := n.Content.(tree.Sparse)
	if !ok {
		r, err := n.Open()
		if err != nil {
			return err
		}
		_, err = io.Copy(f, &reader{ctx, r})
		return errors.Join(err, r.Close())
	}
	parts, err := sparse.Data()
	if err != nil {
		return err
	}
	r, err := sparse.OpenAt()
	if err != nil {
		return err
	}
	for _, p := range parts {
		if _, err = io.Copy(io.NewOffsetWriter(f, p.Off), &reader{ctx, io.NewSectionReader(r, p.Off, p.Len)}); err != nil {
			break
		}
	}
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	return f.Truncate(sparse.Size())
}

// reader ends a long copy when its context does.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// attributes gives an open file or folder n's owner, mode, attributes and time,
// in the order in which none undoes another.
func (w *Writer) attributes(fd int, n *tree.Node) error {
	mode := n.Mode & 0o7777
	if w.o.Owners {
		if err := unix.Fchown(fd, int(n.UID), int(n.GID)); err != nil {
			return err
		}
	} else {
		w.owner(n)
		if mode&0o6000 != 0 {
			w.left.SetID++
			mode &^= 0o6000
		}
	}
	for name, value := range n.Xattrs {
		// Access lists and the like name accounts of the image, not of the host.
		if !w.o.Owners && !strings.HasPrefix(name, "user.") || unix.Fsetxattr(fd, name, value, 0) != nil {
			w.left.Xattrs++
		}
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	return futimens(fd, times(n))
}

// owner counts what comes to belong to somebody else.
func (w *Writer) owner(n *tree.Node) {
	if int(n.UID) != os.Geteuid() || int(n.GID) != os.Getegid() {
		w.left.Owners++
	}
}

// times are those of access and of change. One that the host can't have is 1970.
func times(n *tree.Node) []unix.Timespec {
	var t unix.Timespec
	if !n.ModTime.IsZero() {
		t, _ = unix.TimeToTimespec(n.ModTime)
	}
	return []unix.Timespec{t, t}
}

// futimens sets the times of an open file; the kernel has no call of that name.
func futimens(fd int, ts []unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), ts, 0)
}
